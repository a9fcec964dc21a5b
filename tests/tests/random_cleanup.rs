//! `--on-leak kill` against random trees of real processes: all that leaks is dead afterwards, and
//! nobody else was touched. What truly was comes from the processes themselves.
//!
//! `TRACER_TEST_TREES=1000` grows so many trees, `TRACER_TEST_SEED=7` the one of that seed (or the first
//! of so many, with both).

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering, Ordering::SeqCst};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::fs::{CWD, FileType, Mode, mknodat};
use tracer_tests::grove::{Grove, TERM_TIMEOUT};
use tracer_tests::truth::account::{Account, Slot};
use tracer_tests::{Finished, Run, binary, sys};

/// How much is done.
struct Amount {
    /// Trees.
    trees: u64,
    /// Trees that one run of tracer ends.
    of_a_run: u64,
    /// Runs at once: most of what they do is to wait.
    at_once: usize,
}

impl Amount {
    const USUAL: Self = Self { trees: 200, of_a_run: 10, at_once: 3 };
    /// On a slow machine, as an emulated one: a hundred processes side by side do not come to anything
    /// there.
    const SLOW: Self = Self { trees: 12, of_a_run: 3, at_once: 1 };

    fn here() -> Self {
        if sys::slowness() > 1 { Self::SLOW } else { Self::USUAL }
    }
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text}: no number")))
}

#[test]
fn random_trees_end_and_nobody_else_is_touched() {
    let seed = number("TRACER_TEST_SEED");
    let Amount { trees: usual, of_a_run, at_once } = Amount::here();
    let trees = number("TRACER_TEST_TREES").unwrap_or(if seed.is_some() { 1 } else { usual });
    let first = seed.unwrap_or(1);
    let (next, end) = (AtomicU64::new(first), first + trees);
    let total = Mutex::new((Tally::default(), Vec::new()));
    thread::scope(|scope| {
        for _ in 0..at_once {
            scope.spawn(|| {
                loop {
                    let from = next.fetch_add(of_a_run, Ordering::Relaxed);
                    if from >= end {
                        return;
                    }
                    let seeds = from..end.min(from + of_a_run);
                    // A run that panics takes no other along.
                    let of_run = seeds.clone();
                    let ended = thread::scope(|scope| scope.spawn(|| play(of_run)).join());
                    let (tally, wrong) = ended.unwrap_or_else(|_| {
                        (Tally::default(), vec![format!("the run of seeds {seeds:?} panicked")])
                    });
                    let mut total = total.lock().unwrap_or_else(PoisonError::into_inner);
                    total.0.add(tally);
                    total.1.extend(wrong);
                }
            });
        }
    });
    let (tally, wrong) = total.into_inner().unwrap_or_else(PoisonError::into_inner);
    println!("{trees} trees: {tally:?}");
    let how = "TRACER_TEST_SEED=SEED TRACER_TEST_TREES=1 cargo xtask test --test random_cleanup";
    assert!(wrong.is_empty(), "reproduce: {how}\n{}", wrong.join("\n"));
    assert!(tally.leaked > 0 && tally.innocent > 0, "the trees did not do what they are for");
    // One tree may well have none.
    assert!(tally.kept > 0 || trees < Amount::USUAL.of_a_run, "nobody was kept");
}

/// What there was.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    leaked: usize,
    kept: usize,
    innocent: usize,
    ended: u64,
    ended_by_themselves: u64,
}

impl Tally {
    fn add(&mut self, other: Self) {
        let Self { leaked, kept, innocent, ended, ended_by_themselves } = other;
        self.leaked += leaked;
        self.kept += kept;
        self.innocent += innocent;
        self.ended += ended;
        self.ended_by_themselves += ended_by_themselves;
    }
}

/// Ends the trees of these seeds; tells what went wrong, with the seed.
fn play(seeds: std::ops::Range<u64>) -> (Tally, Vec<String>) {
    let grove = Grove::new(seeds.clone());
    let (account, lives, finished) = run(&grove, &seeds);
    let mut wrong = Vec::new();
    let mut tally = Tally::default();
    for (number, tree) in grove.trees.iter().enumerate() {
        let mut say = |what: String| wrong.push(format!("seed {}: {what}", tree.seed));
        for (id, member) in tree.members.iter().enumerate() {
            let slot = account.slot(grove.member(number, id));
            let who = format!("member {id}, pid {}, {member:?}", slot.pid.load(SeqCst));
            match (member.kept, slot.is_alive()) {
                (false, true) => say(format!("it leaks and lives: {who}")),
                (true, _) => spared(slot, &who, &mut say),
                (false, false) => {}
            }
            *(if member.kept { &mut tally.kept } else { &mut tally.leaked }) += 1;
        }
        for (id, place) in tree.innocents.iter().enumerate() {
            let slot = account.slot(grove.innocent(number, id));
            let who = format!("innocent {id}, pid {}, {place:?}", slot.pid.load(SeqCst));
            spared(slot, &who, &mut say);
            tally.innocent += 1;
        }
    }
    let mut say = |what: String| wrong.push(format!("seeds {seeds:?}: {what}\n{finished:#}"));
    if anybody_holds(lives) {
        say("somebody who was forked late lives".to_owned());
    }
    if finished.status.code() != Some(23) {
        say(format!("tracer ended with {}", finished.status));
    }
    let results = finished.report["cleanup"]["results"].as_object();
    for (result, number) in results.into_iter().flatten() {
        match (result.as_str(), number.as_u64()) {
            ("ended", Some(number)) => tally.ended += number,
            ("ended_by_itself", Some(number)) => tally.ended_by_themselves += number,
            ("kept", Some(_)) => {}
            (bad, _) => say(format!("{number} {bad}")),
        }
    }
    (tally, wrong)
}

/// It lives, and no signal has come to it or to its children.
fn spared(slot: &Slot, who: &str, say: &mut impl FnMut(String)) {
    let signal = slot.signalled.load(SeqCst);
    if signal != 0 {
        say(format!("it was sent signal {signal}: {who}"));
    }
    if !slot.is_alive() {
        say(format!("it was ended: {who}"));
    }
}

fn run(grove: &Grove, seeds: &std::ops::Range<u64>) -> (Account, File, Finished) {
    // Nothing about zombies: whoever is killed reaps nobody.
    let run = Run::command([binary::workload()]).grace("100ms").zombie_after_patience(100);
    let (path, fifo, rules) = (run.path("account"), run.path("lives"), run.path("rules.toml"));
    let account = Account::create(&path, grove.slots()).expect("a new account");
    let lives = reader(&fifo);
    let timeout = (TERM_TIMEOUT * sys::slowness()).as_millis();
    let text = format!("[cleanup]\nterm_timeout = '{timeout}ms'\n");
    std::fs::write(&rules, text).expect("a file in the run's folder");
    let arguments = [
        format!("account={}", path.display()),
        format!("lives={}", fifo.display()),
        format!("seed={}", seeds.start),
        format!("trees={}", seeds.end - seeds.start),
    ];
    let workload = binary::workload().display().to_string();
    let around = [workload, "grove-around".to_owned()].into_iter().chain(arguments.clone());
    let finished = run
        .arguments(["grove".to_owned()].into_iter().chain(arguments))
        .under(around.chain(["--".to_owned()]))
        .options(["--on-leak".into(), "kill".into(), "--rules".into(), rules.into_os_string()])
        .patience(Duration::from_secs(60))
        .finish();
    // Whoever still lives ends with the run.
    for id in 0..account.len() {
        let slot = account.slot(id);
        if slot.is_alive() {
            finished.guard(slot.pid.load(SeqCst));
        }
    }
    (account, lives, finished)
}

/// A new FIFO, for reading.
fn reader(path: &Path) -> File {
    mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).expect("a new FIFO");
    let opened = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path);
    opened.expect("a FIFO can be read without a writer")
}

/// Whether anybody has the other end: nobody ever writes.
fn anybody_holds(mut lives: File) -> bool {
    match lives.read(&mut [0]) {
        Ok(0) => false,
        Ok(_) => panic!("somebody wrote"),
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => true,
        Err(error) => panic!("read: {error}"),
    }
}
