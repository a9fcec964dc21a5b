//! Processes for those who end them all: each holds a fifo open for writing, so that whoever reads it
//! knows when the last one is dead.

use std::fs::File;
use std::os::fd::AsRawFd as _;

use serde_json::{Value, json};
use tracer_tests::sys;

use crate::loops::fork_one;

/// Generations of a chain that nobody ends; the last one stays. Each dead one is a zombie until PID 1
/// gets to it, and not every PID 1 hurries.
const GENERATIONS: usize = 2_500;
/// Of so many processes one is a chain, up to so many.
const EACH_CHAIN: usize = 25;
const MOST_CHAINS: usize = 4;

/// Leaves `count` processes of a shape:
/// - `group`: children of this one, in its process group and session;
/// - `daemons`: the same, but every second one is forked twice and in a session of its own;
/// - `chains`: the same as `group`, but some are chains, of which every process forks the next and ends.
pub(crate) fn leave(count: usize, shape: &str, fifo: &str) -> Value {
    let life = File::options().write(true).open(fifo).expect("somebody reads the fifo");
    let chains = if shape == "chains" { count.div_ceil(EACH_CHAIN).min(MOST_CHAINS) } else { 0 };
    for number in 0..count {
        match shape {
            "daemons" if number % 2 == 1 => {
                let between = fork_one(|| {
                    sys::setsid();
                    fork_one(stay);
                });
                sys::wait_for(between);
            }
            "group" | "daemons" | "chains" if number >= chains => {
                fork_one(stay);
            }
            "group" | "daemons" | "chains" => {
                fork_one(chain);
            }
            _ => panic!("no shape {shape}"),
        }
    }
    // This one's own copy stays open until its end.
    let _open = std::mem::ManuallyDrop::new(life).as_raw_fd();
    json!({ "processes": count, "chains": chains })
}

fn stay() {
    sys::bound_life();
    sys::pause_for_ever()
}

fn chain() {
    for _ in 0..GENERATIONS {
        // SAFETY: this program has one thread; the child goes on with a copy of memory.
        match unsafe { libc::fork() } {
            0 => {}
            // Also where there is no room for one more.
            _ => sys::exit_now(0),
        }
    }
    stay();
}
