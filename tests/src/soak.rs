//! A daemon under load for as long as one wants: thousands that sleep in an agent's run, both CPUs
//! forking in it, and somebody who scrapes all the while. For a test and for `cargo xtask bench`.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::daemon::Daemon;
use crate::scrape::{self, METRICS};
use crate::sys::{self, Pid};

/// Between two scrapes: more often than anybody scrapes.
const SCRAPE_EVERY: Duration = Duration::from_secs(1);
/// What has come is taken in when no record has come for so long.
const QUIET_FOR: Duration = Duration::from_secs(2);
/// Metrics tell counters of the kernel side this late.
const SAMPLED_AFTER: Duration = Duration::from_secs(6);

/// What to soak it in.
#[derive(Clone, Copy, Debug)]
pub struct Soak<'p> {
    /// The daemon's program.
    pub tracer: &'p Path,
    /// The program of loads.
    pub load: &'p Path,
    /// Processes of an agent that sleep.
    pub sleepers: usize,
    /// How long nothing happens, with and without those that sleep, to see what the daemon takes then.
    pub rest: Duration,
    /// How long both CPUs fork.
    pub span: Duration,
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Soaked {
    /// Memory before any agent ran.
    pub idle: Memory,
    /// CPU time of the daemon while nothing happened, and how long that was.
    pub idle_cpu: (Duration, Duration),
    /// With those that sleep, before the forks.
    pub with_sleepers: Memory,
    /// CPU time with them while nothing else happened.
    pub sleepers_cpu: (Duration, Duration),
    /// At each scrape.
    pub during: Vec<Memory>,
    /// Once all forks are taken in.
    pub after: Memory,
    /// How long each scrape took, from connecting to the last byte.
    pub scrapes: Vec<Duration>,
    /// Processes that were forked.
    pub forked: u64,
    /// How long that took.
    pub elapsed: Duration,
    /// Records that were taken in meanwhile.
    pub events: u64,
    /// CPU time of the daemon meanwhile.
    pub cpu: Duration,
    /// Records that were lost.
    pub dropped: u64,
    /// Updates of its table that failed.
    pub failed: u64,
}

/// Resident memory, KiB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// All.
    pub resident: u64,
    /// The heap and stacks.
    pub anonymous: u64,
}

impl Memory {
    /// Of a process that is there.
    #[must_use]
    #[track_caller]
    pub fn of(pid: Pid) -> Self {
        let path = format!("/proc/{pid}/status");
        let status = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let number = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse().ok());
            number.unwrap_or_else(|| panic!("no {name} in {status}"))
        };
        Self { resident: field("VmRSS:"), anonymous: field("RssAnon:") }
    }
}

impl Soak<'_> {
    /// Soaks it. `at_rest` is done while those that sleep are all there is, `each_second` after each scrape.
    #[track_caller]
    pub fn run(
        &self,
        at_rest: impl FnOnce(&Daemon),
        mut each_second: impl FnMut(&Daemon),
    ) -> Soaked {
        let Self { tracer, load, sleepers, rest, span } = *self;
        let mut daemon = Daemon::of(tracer, METRICS);
        daemon.start();
        let address = scrape::address(&daemon);
        until_quiet(&address);
        let idle = Memory::of(daemon.pid());
        let idle_cpu = resting(daemon.pid(), rest);

        let mut sleeping = Load::start(load, &["children", &sleepers.to_string()], Some("soak"));
        sleeping.go();
        let _ready = sleeping.line();
        until_quiet(&address);
        let with_sleepers = Memory::of(daemon.pid());
        let sleepers_cpu = resting(daemon.pid(), rest);
        at_rest(&daemon);

        let millis = span.as_millis().to_string();
        let mut forking = Load::start(load, &["both-for", &millis], Some("soak"));
        let before = Counters::read(&address);
        let (cpu, started) = (cpu_time(daemon.pid()), Instant::now());
        forking.go();
        let (mut during, mut scrapes) = (Vec::new(), Vec::new());
        let mut next = started;
        while started.elapsed() < span {
            next += SCRAPE_EVERY;
            std::thread::sleep(next.saturating_duration_since(Instant::now()));
            // Who scrapes is on another machine, where nothing forks.
            let nice = at_nice(-15);
            let asked = Instant::now();
            let (status, _) = scrape::get(&address, "/metrics");
            scrapes.push(asked.elapsed());
            at_nice(nice);
            assert_eq!(status, 200);
            during.push(Memory::of(daemon.pid()));
            each_second(&daemon);
        }
        let told = forking.line();
        let elapsed = Duration::from_nanos(told["elapsed_ns"].as_u64().expect("a time"));
        until_quiet(&address);
        let cpu = cpu_time(daemon.pid()) - cpu;
        let counted = Counters::settled(&address);
        let soaked = Soaked {
            idle,
            idle_cpu,
            with_sleepers,
            sleepers_cpu,
            during,
            after: Memory::of(daemon.pid()),
            scrapes,
            forked: told["processes"].as_u64().expect("a number of processes"),
            elapsed,
            events: counted.events - before.events,
            cpu,
            dropped: counted.dropped,
            failed: counted.failed,
        };
        drop((forking, sleeping));
        soaked
    }
}

impl Soaked {
    /// The scrape that took longest.
    #[must_use]
    pub fn slowest_scrape(&self) -> Duration {
        self.scrapes.iter().copied().max().unwrap_or_default()
    }

    /// CPU seconds of the daemon for a million records.
    #[must_use]
    pub fn cpu_seconds_per_million(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
        let millions = self.events as f64 / 1e6;
        self.cpu.as_secs_f64() / millions
    }

    /// Most memory at any scrape, KiB.
    #[must_use]
    pub fn most_resident(&self) -> u64 {
        self.during.iter().map(|memory| memory.resident).max().unwrap_or_default()
    }
}

/// Gives the calling thread this nice value, and returns what it had.
fn at_nice(nice: i32) -> i32 {
    let before = rustix::process::getpriority_process(None).expect("everybody may ask");
    rustix::process::setpriority_process(None, nice).expect("root may set it");
    before
}

/// What a process takes in so long.
fn resting(pid: Pid, rest: Duration) -> (Duration, Duration) {
    let (before, since) = (cpu_time(pid), Instant::now());
    // The time that is measured.
    std::thread::sleep(rest);
    (cpu_time(pid) - before, since.elapsed())
}

/// What the daemon counts.
#[derive(Clone, Copy, Debug)]
pub struct Counters {
    /// Records taken in.
    pub events: u64,
    /// Records lost.
    pub dropped: u64,
    /// Updates of the table that failed.
    pub failed: u64,
}

impl Counters {
    /// Once those of the kernel side have been read again.
    #[must_use]
    #[track_caller]
    pub fn settled(address: &str) -> Self {
        std::thread::sleep(SAMPLED_AFTER);
        Self::read(address)
    }

    /// As `/metrics` tells them.
    #[must_use]
    #[track_caller]
    pub fn read(address: &str) -> Self {
        let page = scrape::get(address, "/metrics").1;
        let number = |series: &str| {
            let value = scrape::value(&page, series).unwrap_or_else(|| panic!("no {series}"));
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count")]
            let value = value as u64;
            value
        };
        Self {
            events: number("tracer_events_total"),
            dropped: number("tracer_events_dropped_total"),
            failed: number("tracer_updates_failed_total"),
        }
    }
}

/// Waits until hardly any record comes any more: this host is not ours alone.
#[track_caller]
pub fn until_quiet(address: &str) {
    const HARDLY_ANY: u64 = 2_000;
    let deadline = Instant::now() + 6 * sys::patience();
    let mut last = Counters::read(address).events;
    loop {
        std::thread::sleep(QUIET_FOR);
        let now = Counters::read(address).events;
        if now - last < HARDLY_ANY {
            return;
        }
        assert!(Instant::now() < deadline, "records come and come: {}", now - last);
        last = now;
    }
}

/// CPU time that a process has used, all its threads.
#[must_use]
#[track_caller]
pub fn cpu_time(pid: Pid) -> Duration {
    let mut clock = 0;
    // SAFETY: clock is a valid place to write to.
    let error = unsafe { libc::clock_getcpuclockid(pid, &raw mut clock) };
    assert_eq!(error, 0, "clock_getcpuclockid of {pid}");
    // SAFETY: timespec is plain data for which zero is valid.
    let mut time: libc::timespec = unsafe { std::mem::zeroed() };
    // SAFETY: time is a valid place to write to.
    let read = unsafe { libc::clock_gettime(clock, &raw mut time) };
    assert_eq!(read, 0, "clock_gettime: {}", std::io::Error::last_os_error());
    let seconds = u64::try_from(time.tv_sec).expect("CPU time is positive");
    Duration::new(seconds, u32::try_from(time.tv_nsec).expect("nanoseconds"))
}

/// A gated load, beside the daemon. It ends with this.
#[derive(Debug)]
pub struct Load {
    child: Child,
    to: Option<ChildStdin>,
    from: BufReader<ChildStdout>,
}

impl Load {
    /// Starts it, as this agent or none; it waits for [`Load::go`].
    #[must_use]
    #[track_caller]
    pub fn start(program: &Path, words: &[&str], agent: Option<&str>) -> Self {
        let mut command = Command::new(program);
        command.arg("--gated").args(words).stdin(Stdio::piped()).stdout(Stdio::piped());
        command.env_remove("TRACER_AGENT").envs(agent.map(|agent| ("TRACER_AGENT", agent)));
        let child = command.spawn();
        let mut child = child.unwrap_or_else(|error| panic!("{}: {error}", program.display()));
        let to = child.stdin.take();
        let from = BufReader::new(child.stdout.take().expect("standard output is piped"));
        let mut load = Self { child, to, from };
        assert!(load.line()["ready"].is_number(), "the load is not ready");
        load
    }

    /// Lets it work.
    #[track_caller]
    pub fn go(&mut self) {
        let to = self.to.as_mut().expect("it has not been let go");
        to.write_all(b"go\n").expect("the load reads");
    }

    /// What it tells next.
    #[track_caller]
    pub fn line(&mut self) -> Value {
        let mut line = String::new();
        self.from.read_line(&mut line).expect("the load tells");
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{line:?}: {error}"))
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        // The end of its input is its word to end.
        drop(self.to.take());
        let _ended = self.child.wait();
    }
}
