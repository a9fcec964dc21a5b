//! What procfs says of a process: the ground truth that reports are compared with.

use std::fs;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use crate::sys::{self, Pid};

/// The fields of `/proc/PID/stat` that tests look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stat {
    /// Its pid.
    pub pid: Pid,
    /// Kernel's `comm`.
    pub name: String,
    /// State letter.
    pub state: char,
    /// Parent, or adopter.
    pub ppid: Pid,
    /// Process group.
    pub pgid: Pid,
    /// Session.
    pub sid: Pid,
    /// Number of threads; a dead leader counts until its group is dead.
    pub threads: u32,
    /// When it was started, clock ticks after boot.
    pub start_ticks: u64,
}

/// Reads `/proc/PID/stat`; `None` when there is no such process.
#[must_use]
pub fn stat(pid: Pid) -> Option<Stat> {
    parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// Reads the stat of one thread of a process.
#[must_use]
pub fn thread_stat(pid: Pid, thread: Pid) -> Option<Stat> {
    parse(&fs::read_to_string(format!("/proc/{pid}/task/{thread}/stat")).ok()?)
}

fn parse(line: &str) -> Option<Stat> {
    // comm may hold spaces and parentheses: it ends at the last one.
    let (head, tail) = line.rsplit_once(')')?;
    let fields: Vec<&str> = tail.split_whitespace().collect();
    let (pid, name) = head.split_once('(')?;
    Some(Stat {
        pid: pid.trim().parse().ok()?,
        name: name.to_owned(),
        state: fields.first()?.chars().next()?,
        ppid: fields.get(1)?.parse().ok()?,
        pgid: fields.get(2)?.parse().ok()?,
        sid: fields.get(3)?.parse().ok()?,
        threads: fields.get(17)?.parse().ok()?,
        start_ticks: fields.get(19)?.parse().ok()?,
    })
}

/// State letter of a process; `None` when it is gone.
#[must_use]
pub fn state(pid: Pid) -> Option<char> {
    stat(pid).map(|stat| stat.state)
}

/// Whether its leader thread runs or sleeps: neither dead nor gone.
#[must_use]
pub fn is_alive(pid: Pid) -> bool {
    matches!(state(pid), Some('R' | 'S' | 'D'))
}

/// Parent of a process as procfs has it now.
#[must_use]
pub fn ppid(pid: Pid) -> Option<Pid> {
    stat(pid).map(|stat| stat.ppid)
}

/// The process's pids from the outermost visible PID namespace inwards (`NSpid`).
#[must_use]
pub fn namespace_pids(pid: Pid) -> Vec<Pid> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("NSpid:")).unwrap_or_default();
    line.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

/// Whether this process's pids are the host's.
#[must_use]
pub fn is_in_initial_pid_namespace() -> bool {
    // PROC_PID_INIT_INO of include/linux/proc_ns.h (include/uapi/linux/nsfs.h since 6.18).
    let own = fs::read_link("/proc/self/ns/pid");
    own.is_ok_and(|link| link.as_os_str() == "pid:[4026531836]")
}

/// The kernel's release, and the two numbers that it begins with: 6.12.
#[must_use]
pub fn kernel() -> (String, (u32, u32)) {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease");
    let release = release.unwrap_or_else(|error| panic!("the kernel's release: {error}"));
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map_while(|n| n.parse().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    (release.trim().to_owned(), version)
}

/// Whether a PID namespace has a `kernel.pid_max` of its own; the reason where it has not.
/// Before 6.14 it is the whole host's: hands off.
pub fn per_namespace_pid_max() -> Result<(), String> {
    let (release, version) = kernel();
    if version >= (6, 14) { Ok(()) } else { Err(format!("{release} has one pid_max for all")) }
}

/// Whether the memory of a map counts in the cgroup of who makes it; the reason where it does not.
/// Before 5.11 it counts as locked memory, of which root may have what the machine has.
pub fn charges_maps_to_cgroups() -> Result<(), String> {
    let (release, version) = kernel();
    let reason = || format!("{release} charges no cgroup for the memory of maps");
    (version >= (5, 11)).then_some(()).ok_or_else(reason)
}

/// Live and dead children of a process, any of its threads'.
#[must_use]
pub fn children(pid: Pid) -> Vec<Pid> {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else {
        return Vec::new();
    };
    let files = threads.flatten().map(|thread| thread.path().join("children"));
    let lists: Vec<String> = files.filter_map(|file| fs::read_to_string(file).ok()).collect();
    lists.iter().flat_map(|list| list.split_whitespace()).filter_map(|p| p.parse().ok()).collect()
}

/// Pidfds of all that descends from a process through parents that live. The process itself must
/// not have been reaped.
#[must_use]
pub fn descendants(pid: Pid) -> Vec<OwnedFd> {
    let mut found = Vec::new();
    for child in children(pid) {
        let Ok(pidfd) = sys::open_pidfd(child) else {
            continue;
        };
        // Still its child after the opening: so the pidfd is this one's, not a successor's.
        if ppid(child) == Some(pid) {
            found.push(pidfd);
            found.extend(descendants(child));
        }
    }
    found
}

/// Kernel function that a process sleeps in; `None` where the kernel does not say.
#[must_use]
pub fn wchan(pid: Pid) -> Option<String> {
    let name = fs::read_to_string(format!("/proc/{pid}/wchan")).ok()?;
    (!name.is_empty() && name != "0").then_some(name)
}

/// Whether the kernel can say where a process sleeps; the reason where it cannot. Before 5.16
/// `get_wchan()` of x86 follows frame pointers, and a kernel built for the ORC unwinder has none
/// (mended by "Fix `get_wchan()` to support the ORC unwinder").
pub fn names_wchan() -> Result<(), String> {
    let (release, version) = kernel();
    if version >= (5, 16) { Ok(()) } else { Err(format!("{release} may name no wchan")) }
}

/// Returns what `look` gives as soon as it gives something; panics, naming `what`, when that takes
/// longer than [`sys::patience`]. For conditions that no descriptor announces.
#[track_caller]
pub fn until<T>(what: &str, look: impl FnMut() -> Option<T>) -> T {
    until_within(sys::patience(), what, look)
}

/// The same, where that may take so long.
#[track_caller]
pub fn until_within<T>(patience: Duration, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Returns when the process is in this state.
#[track_caller]
pub fn until_state(pid: Pid, wanted: char) {
    until(&format!("state {wanted} of process {pid}"), || {
        (state(pid) == Some(wanted)).then_some(())
    });
}
