//! The daemon under the machine's full fork rate, with thousands of an agent's processes asleep.
//!
//! By default some seconds with 2,000; `TRACER_TEST_SOAK=10`: so many minutes with 20,000. The
//! figures are printed (`-- --nocapture`); a clock decides nothing here.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;
use tracer_tests::daemon::{Daemon, is_about};
use tracer_tests::soak::{Soak, Soaked};
use tracer_tests::{Run, Running, binary, sys};

/// KiB.
const MEBIBYTE: u64 = 1024;

fn minutes() -> Option<u64> {
    let asked = std::env::var("TRACER_TEST_SOAK").ok();
    asked.map(|text| text.parse().expect("a number of minutes"))
}

/// What leaks while everything forks: a parent with zombies, and a survivor. One after the other.
#[derive(Default)]
struct Leaks {
    number: usize,
    found: usize,
}

impl Leaks {
    fn name(&self) -> String {
        format!("soak-leak-{}", self.number)
    }

    fn agent(&self, workload: &[&str]) -> Running {
        Run::workload(workload.iter().copied()).alone().env("TRACER_AGENT", self.name()).start()
    }

    /// What is told of this process as it is found: pids come round within a second.
    fn found(&self, daemon: &Daemon, pid: sys::Pid, kind: &str) -> Value {
        daemon.event(&format!("{kind} of {pid}"), |event| {
            is_about(event, pid, kind)
                && event["change"] == "opened"
                && event["finding"]["agent"]["name"] == *self.name()
        })
    }

    /// Leaks once, and finds it.
    fn leak(&mut self, daemon: &Daemon) {
        self.number += 1;
        let zombies = self.agent(&["never-waits", "children=3"]);
        let leaving = self.agent(&["double-fork"]);
        let survivor = leaving.fact("daemon").pid;
        let parent = zombies.fact("parent");
        for pid in parent.pids_of("children") {
            let pid = sys::Pid::try_from(pid).expect("a pid");
            let told = self.found(daemon, pid, "zombie");
            assert_eq!(told["finding"]["parent"]["pid"], parent.pid);
        }
        self.found(daemon, survivor, "survivor");
        zombies.stand_no_more();
        let left = leaving.finish();
        sys::kill(survivor, libc::SIGKILL);
        drop(left);
        self.found += 1;
    }
}

/// Asks again and again who listens at a port of an agent's, and how long each took.
fn blame(daemon: &Daemon) -> Vec<Duration> {
    let server = Run::workload(["keeps-server", "listen=tcp"]).alone();
    let server = server.env("TRACER_AGENT", "soak-server").start();
    let sleeper = server.fact("sleeper");
    let port = format!(":{}", sleeper.number("port"));
    let asked = || {
        let asked = Instant::now();
        let told = daemon.asked(&["blame", &port]);
        (told["processes"][0]["process"]["pid"] == sleeper.pid, asked.elapsed())
    };
    tracer_tests::proc::until("the server is known", || asked().0.then_some(()));
    let mut took: Vec<_> = (0..21).map(|_| asked()).collect();
    assert!(took.iter().all(|(is_right, _)| *is_right), "another is blamed");
    took.sort_unstable_by_key(|(_, took)| *took);
    took.into_iter().map(|(_, took)| took).collect()
}

fn say(soaked: &Soaked, tracer: &Path, leaks: &Leaks) {
    let mib = |kib: u64| format!("{}.{} MiB", kib / MEBIBYTE, kib % MEBIBYTE * 10 / MEBIBYTE);
    let mut scrapes = soaked.scrapes.clone();
    scrapes.sort_unstable();
    println!("{}", tracer.display());
    println!("forked {} in {:.1?}, {} records", soaked.forked, soaked.elapsed, soaked.events);
    println!("lost {}, updates failed {}", soaked.dropped, soaked.failed);
    println!("CPU {:.1?}, {:.3} s a million", soaked.cpu, soaked.cpu_seconds_per_million());
    println!(
        "resident: idle {}, with sleepers {}, most {}, after {}",
        mib(soaked.idle.resident),
        mib(soaked.with_sleepers.resident),
        mib(soaked.most_resident()),
        mib(soaked.after.resident)
    );
    let steps = soaked.during.chunks((soaked.during.len() / 30).max(1));
    let steps: Vec<_> = steps.filter_map(|step| step.first()).map(|m| mib(m.anonymous)).collect();
    println!("heap and stacks in the course of time: {}", steps.join(", "));
    println!(
        "{} scrapes: median {:.1?}, slowest {:.1?}",
        scrapes.len(),
        scrapes[scrapes.len() / 2],
        soaked.slowest_scrape()
    );
    println!("leaks found: {} of {}", leaks.found, leaks.number);
}

#[test]
fn nothing_is_lost_at_full_fork_rate_and_memory_stays_flat() {
    let slowness = usize::try_from(sys::slowness()).expect("a small number");
    let (sleepers, span) = match minutes() {
        Some(minutes) => (20_000, Duration::from_secs(60 * minutes)),
        None => (2_000 / slowness, Duration::from_secs(6)),
    };
    let tracer = binary::tracer();
    let rest = Duration::ZERO;
    let soak = Soak { tracer, load: binary::load(), sleepers, rest, span };
    let mut leaks = Leaks::default();
    let mut due = Instant::now();
    let mut blames = Vec::new();
    let soaked = soak.run(
        |daemon| blames = blame(daemon),
        |daemon| {
            if due <= Instant::now() {
                leaks.leak(daemon);
                // Most of the time is for the load.
                due = Instant::now() + span / 40;
            }
        },
    );
    say(&soaked, tracer, &leaks);
    let (median, slowest) = (blames[blames.len() / 2], blames[blames.len() - 1]);
    println!("blame :PORT beside those that sleep: median {median:.1?}, slowest {slowest:.1?}");
    assert!(leaks.number > 0 && leaks.found == leaks.number);
    // That each began and ended was told, or lost and counted.
    let told = soaked.events + soaked.dropped;
    assert!(told >= 2 * soaked.forked, "{told} of {}", soaked.forked);
    // An emulated machine has no CPU to spare for whoever reads.
    if sys::slowness() == 1 {
        assert_eq!((soaked.dropped, soaked.failed), (0, 0));
    }
    // Flat once the first have come, however many follow: what is kept of a run does not grow with
    // what has come and gone in it. What the program itself takes is not the load's.
    let early = soaked.during[soaked.during.len() / 5].resident;
    let grown = soaked.after.resident.saturating_sub(early);
    assert!(grown < 8 * MEBIBYTE, "grown by {grown} KiB from {early}");
    let load = soaked.most_resident() - soaked.idle.resident;
    assert!(load < 30 * MEBIBYTE, "{load} KiB for the load");
}
