//! Leaks whose truth is known: who was an orphan, who stood as a zombie, from when to when.
//! Times are `CLOCK_BOOTTIME`, ns, the clock of tracer's events.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tracer_tests::sys;

use crate::loops::fork_one;

/// What a short-lived process tells of itself, in memory that it shares with its ancestors.
#[derive(Default)]
#[repr(C)]
struct Told {
    pid: AtomicU64,
    parent: AtomicU64,
    born: AtomicU64,
    ends: AtomicU64,
}

/// Orphans, spread over so much time: each one's parent dies while it lives, we adopt it as a
/// subreaper, and it ends as soon as it sees that: within a millisecond, unless the machine is busy.
pub(crate) fn orphans(count: usize, over: Duration) -> Value {
    sys::become_subreaper();
    let told = shared(count);
    let mut pace = Pace::new(count, over);
    for orphan in told {
        pace.next();
        let parent = fork_one(|| {
            let parent = sys::own_pid();
            fork_one(|| be_orphaned(orphan, parent));
        });
        sys::wait_for(parent);
        reap_what_is_dead();
    }
    sys::wait_for_all();
    let orphans: Vec<_> = told
        .iter()
        .map(|Told { pid, parent, born, ends }| {
            json!({
                "pid": pid.load(SeqCst), "parent": parent.load(SeqCst),
                "born": born.load(SeqCst), "ends": ends.load(SeqCst),
            })
        })
        .collect();
    json!({ "adopter": sys::own_pid(), "orphans": orphans })
}

fn be_orphaned(told: &Told, parent: sys::Pid) {
    told.born.store(boot_time(), SeqCst);
    told.pid.store(as_u64(sys::own_pid()), SeqCst);
    told.parent.store(as_u64(parent), SeqCst);
    while sys::parent_pid() == parent {
        std::thread::yield_now();
    }
    told.ends.store(boot_time(), SeqCst);
}

fn reap_what_is_dead() {
    // SAFETY: a NULL status is allowed.
    while unsafe { libc::waitpid(-1, std::ptr::null_mut(), libc::WNOHANG) } > 0 {}
}

/// Zombies, spread over so much time, each standing for the next of `stands` before we reap it;
/// and as many children between them that are reaped at once.
pub(crate) fn zombies(count: usize, over: Duration, stands: &[Duration]) -> Value {
    assert!(!stands.is_empty(), "how long a zombie stands, in ms, is missing");
    let told = shared(count);
    let mut pace = Pace::new(count, over);
    let mut standing: VecDeque<(Instant, sys::Pid, &Told)> = VecDeque::new();
    let mut zombies = Vec::new();
    let mut reaped = Vec::new();
    for (zombie, stands) in told.iter().zip(stands.iter().cycle()) {
        while let Some(&(due, ..)) = standing.front().filter(|(due, ..)| pace.is_before_next(*due))
        {
            sleep_until(due);
            zombies.extend(standing.pop_front().map(reap));
        }
        pace.next();
        let pid = fork_one(|| zombie.ends.store(boot_time(), SeqCst));
        let due = Instant::now() + *stands;
        let place = standing.partition_point(|(earlier, ..)| *earlier <= due);
        standing.insert(place, (due, pid, zombie));
        let child = fork_one(|| {});
        sys::wait_for(child);
        reaped.push(child);
    }
    for standing in standing {
        sleep_until(standing.0);
        zombies.push(reap(standing));
    }
    json!({ "zombies": zombies, "reaped": reaped })
}

fn reap((_, pid, told): (Instant, sys::Pid, &Told)) -> Value {
    let at = boot_time();
    sys::wait_for(pid);
    json!({ "pid": pid, "died": told.ends.load(SeqCst), "reaped": at })
}

/// Leaves a child behind that lives until standard input ends, and tells when it left.
pub(crate) fn survivor() -> Value {
    use std::io::Read as _;
    fork_one(|| {
        sys::bound_life();
        let _ = std::io::stdin().lock().read_to_end(&mut Vec::new());
    });
    crate::say(&json!({ "root_ends": boot_time() }));
    sys::exit_now(0)
}

/// Gives each of `count` starts its time; all at once when there is none to spread them over.
struct Pace {
    next: Instant,
    step: Duration,
}

impl Pace {
    fn new(count: usize, over: Duration) -> Self {
        let count = u32::try_from(count.max(1)).expect("a count of processes");
        Self { next: Instant::now(), step: over / count }
    }

    fn is_before_next(&self, at: Instant) -> bool {
        at <= self.next.max(Instant::now())
    }

    fn next(&mut self) {
        if !self.step.is_zero() {
            sleep_until(self.next);
            self.next += self.step;
        }
    }
}

fn sleep_until(at: Instant) {
    std::thread::sleep(at.saturating_duration_since(Instant::now()));
}

/// Memory that this process and its descendants share, for its whole life.
fn shared(count: usize) -> &'static [Told] {
    let bytes = (count * size_of::<Told>()).max(1);
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
    // SAFETY: a new mapping, of no file, at a place that the kernel chooses.
    let memory = unsafe { libc::mmap(std::ptr::null_mut(), bytes, protection, flags, -1, 0) };
    assert!(memory != libc::MAP_FAILED, "mmap: {}", std::io::Error::last_os_error());
    // SAFETY: zeros are valid atomics, the mapping is page-aligned, long enough and never undone.
    unsafe { std::slice::from_raw_parts(memory.cast(), count) }
}

/// Now, by the clock of tracer's events.
fn boot_time() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let seconds = u64::try_from(now.tv_sec).expect("boot was before now");
    seconds * 1_000_000_000 + u64::try_from(now.tv_nsec).expect("nanoseconds are positive")
}

fn as_u64(pid: sys::Pid) -> u64 {
    u64::try_from(pid).expect("a pid is positive")
}
