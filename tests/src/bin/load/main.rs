//! Loads for `cargo xtask bench`: processes as fast as the kernel makes them, or leaks on purpose
//! whose truth is told. Each times itself, so that whatever surrounds it (tracer, strace, nothing)
//! is not in the figure.
//!
//! `load [--gated] NAME NUMBERS...` prints one JSON object on one line when its work is done:
//! `elapsed_ns` by `CLOCK_MONOTONIC`, and what it did. Gated, it first prints `{"ready":PID}` and
//! waits for a line on standard input, and after its work it stays until standard input ends: what
//! is to be measured begins and ends there. `scan` is no load but the poorest of tracer's peers.

mod leaks;
mod leftover;
mod loops;
mod scan;

use std::io::{self, BufRead as _, Read as _, Write as _};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tracer_tests::sleepers::Sleepers;

fn main() {
    let mut words = std::env::args().skip(1).peekable();
    let gated = words.next_if(|word| word == "--gated").is_some();
    let words: Vec<String> = words.collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    if gated {
        say(&json!({ "ready": std::process::id() }));
        io::stdin().lock().read_line(&mut String::new()).expect("read the word to go");
    }
    let started = Instant::now();
    let mut held = None;
    let mut told = match words.as_slice() {
        ["vfork", count] => loops::vfork(number(count)),
        ["fork", count] => loops::fork(number(count)),
        ["spawn", count] => loops::spawn(number(count)),
        ["both", count] => loops::on_every_cpu(number(count)),
        ["both-for", span] => loops::on_every_cpu_for(millis(span)),
        ["children", count] => {
            let children = Sleepers::fork(number(count));
            let told = json!({ "processes": number(count) });
            if gated {
                held = Some(children);
            } else {
                children.end();
            }
            told
        }
        ["command", command @ ..] => loops::command(command),
        ["orphans", count, over] => leaks::orphans(number(count), millis(over)),
        ["zombies", count, over, stands @ ..] => {
            let stands: Vec<Duration> = stands.iter().copied().map(millis).collect();
            leaks::zombies(number(count), millis(over), &stands)
        }
        ["survivor"] => leaks::survivor(),
        ["leave", count, shape, fifo] => leftover::leave(number(count), shape, fifo),
        ["scan", every] => scan::scan(millis(every)),
        _ => panic!("no load {words:?}; src/bin/load/main.rs lists them"),
    };
    let elapsed = u64::try_from(started.elapsed().as_nanos()).expect("a load ends within years");
    told["elapsed_ns"] = elapsed.into();
    say(&told);
    if gated {
        // The end of input, or of who held its other end.
        let _ = io::stdin().lock().read_to_end(&mut Vec::new());
    }
    if let Some(children) = held {
        children.end();
    }
}

fn number(word: &str) -> usize {
    word.parse().unwrap_or_else(|_| panic!("{word}: no number"))
}

fn millis(word: &str) -> Duration {
    Duration::from_millis(word.parse().unwrap_or_else(|_| panic!("{word}: no milliseconds")))
}

/// One line on standard output, at once.
fn say(told: &Value) {
    let line = format!("{told}\n");
    io::stdout().lock().write_all(line.as_bytes()).expect("write to standard output");
}
