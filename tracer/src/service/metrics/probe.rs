//! A probe of oneself: a process that executes tracer and ends at once, and has to be seen.
//!
//! ```text
//! probe thread: fork, exec, exit ----------> zombie --- is its end in PROCS? --- reap
//!                        `- hook -> ring -> main task: Sightings::executed --^
//! ```
//!
//! That it was executed comes by the ring and through the main task, and its end is noted in `PROCS`:
//! so all of the way is proved, and both hooks that nothing goes without.

use std::{
    io,
    os::unix::process::CommandExt as _,
    process::{Child, Command},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fd::{AsFd as _, OwnedFd},
    process::{Pid, PidfdFlags, WaitId, WaitIdOptions, pidfd_open, waitid},
};

use super::health::ProbeResult;
use crate::{kernel::procs::ProcsMap, lineage::ProcessId};

/// Name by which a probe is executed: tracer then ends at once ([`is_probe`]).
const NAME: &str = "tracer-probe";

/// Whether this is what a probe is executed with.
#[must_use]
pub fn is_probe(mut args: impl Iterator<Item = std::ffi::OsString>) -> bool {
    args.next().is_some_and(|name| name == NAME)
}

/// The main task's end: it tells what was executed.
#[derive(Debug)]
pub(super) struct Sightings {
    awaited: Arc<AtomicU64>,
    seen: SyncSender<ProcessId>,
}

/// The probe thread's end.
#[derive(Debug)]
pub(super) struct Awaited {
    awaited: Arc<AtomicU64>,
    seen: Receiver<ProcessId>,
}

/// Both ends.
pub(super) fn sightings() -> (Sightings, Awaited) {
    let awaited = Arc::new(AtomicU64::new(0));
    // The first that has the number is the probe: nobody knows it before that was executed.
    let (send, seen) = sync_channel(1);
    (Sightings { awaited: Arc::clone(&awaited), seen: send }, Awaited { awaited, seen })
}

impl Sightings {
    /// A process executed a program with these NUL-separated arguments. Costs nothing where it is no
    /// probe.
    pub(super) fn executed(&self, process: ProcessId, args: &[u8]) {
        let Some(number) = number_of(args) else { return };
        if number == self.awaited.load(Ordering::Relaxed) {
            // A full channel has it already.
            let _told = self.seen.try_send(process);
        }
    }
}

/// `tracer-probe\0<number>\0`
fn number_of(args: &[u8]) -> Option<u64> {
    let number = args.strip_prefix(NAME.as_bytes())?.strip_prefix(b"\0")?.strip_suffix(b"\0")?;
    std::str::from_utf8(number).ok()?.parse().ok()
}

impl Awaited {
    fn await_number(&self, number: u64) {
        // What an earlier one left.
        while self.seen.try_recv().is_ok() {}
        self.awaited.store(number, Ordering::Relaxed);
    }

    /// Who it was, as soon as that was told.
    fn seen_within(&self, patience: Duration) -> Option<ProcessId> {
        self.seen.recv_timeout(patience).ok()
    }
}

/// Starts probes, and knows what the kernel side noted. Another than [`Kernel`] in tests.
pub(super) trait World {
    /// One that was started.
    type Probe;

    /// Has a process execute this with a number, and end.
    fn start(&mut self, number: u64) -> io::Result<Self::Probe>;

    /// The same once it has ended, not reaped; `None`: that takes too long.
    fn ended(&mut self, probe: Self::Probe, patience: Duration) -> Option<Self::Probe>;

    /// Whether the kernel side knows that it ended.
    fn has_noted_end(&mut self, probe: &Self::Probe, process: ProcessId) -> bool;
}

/// The probes, one after the other.
#[derive(Debug)]
pub(super) struct Prober<W> {
    world: W,
    awaited: Awaited,
    /// How long a probe may take to end, and to be told of.
    patience: Duration,
    number: u64,
}

impl<W: World> Prober<W> {
    /// `number` comes before that of the first probe; nobody else should know it.
    pub(super) fn new(world: W, awaited: Awaited, patience: Duration, number: u64) -> Self {
        Self { world, awaited, patience, number }
    }

    /// Starts one and waits until it was seen, or should have been.
    pub(super) fn probe(&mut self) -> ProbeResult {
        let Self { world, awaited, patience, number } = self;
        // Never 0, which nobody awaits.
        *number = number.wrapping_add(1).max(1);
        awaited.await_number(*number);
        let probe = world.start(*number).and_then(|probe| {
            let late = || io::Error::other("it does not end");
            world.ended(probe, *patience).ok_or_else(late)
        });
        let probe = match probe {
            Ok(probe) => probe,
            Err(error) => {
                log::warn!("failed to execute a probe of tracer itself: {error}");
                return ProbeResult::NotStarted;
            }
        };
        match awaited.seen_within(*patience) {
            None => ProbeResult::NotTold,
            Some(process) if world.has_noted_end(&probe, process) => ProbeResult::Seen,
            Some(_) => ProbeResult::NotNoted,
        }
    }
}

/// Real processes.
#[derive(Debug)]
pub(super) struct Kernel {
    procs: ProcsMap,
    /// One that did not end in time: asleep in the kernel.
    late: Option<Zombie>,
}

impl Kernel {
    pub(super) fn new(procs: ProcsMap) -> Self {
        Self { procs, late: None }
    }
}

/// A probe's process, alive or dead. Dropped, it is reaped if it is dead.
#[derive(Debug)]
pub(super) struct Zombie {
    child: Child,
    pidfd: OwnedFd,
}

impl Zombie {
    fn is_there(&self) -> bool {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        matches!(waitid(WaitId::PidFd(self.pidfd.as_fd()), options), Ok(Some(_)))
    }

    fn ends_within(&self, patience: Duration) -> bool {
        let patience = Timespec::try_from(patience).ok();
        let ended = poll(&mut [PollFd::new(&self.pidfd, PollFlags::IN)], patience.as_ref());
        matches!(ended, Ok(1))
    }
}

impl Drop for Zombie {
    fn drop(&mut self) {
        // Whoever reaps all children of the daemon, as PID 1 does, may have been first; and one that
        // still lives when the daemon ends is not waited for.
        let _reaped = self.child.try_wait();
    }
}

impl World for Kernel {
    type Probe = Zombie;

    fn start(&mut self, number: u64) -> io::Result<Zombie> {
        if let Some(late) = self.late.take_if(|late| late.ends_within(Duration::ZERO)) {
            drop(late);
        }
        if self.late.is_some() {
            return Err(io::Error::other("the one before has not ended"));
        }
        // The daemon may have been started in an agent's environment; the probe is none of its.
        let libraries = std::env::var_os("LD_LIBRARY_PATH").map(|path| ("LD_LIBRARY_PATH", path));
        let child = Command::new("/proc/self/exe")
            .arg0(NAME)
            .arg(number.to_string())
            .env_clear()
            .envs(libraries)
            .spawn()?;
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let pidfd = pid.ok_or(rustix::io::Errno::SRCH);
        match pidfd.and_then(|pid| pidfd_open(pid, PidfdFlags::empty())) {
            Ok(pidfd) => Ok(Zombie { child, pidfd }),
            Err(error) => {
                // It ends by itself.
                let mut child = child;
                child.wait()?;
                Err(error.into())
            }
        }
    }

    fn ended(&mut self, probe: Zombie, patience: Duration) -> Option<Zombie> {
        if probe.ends_within(patience) {
            return Some(probe);
        }
        self.late = Some(probe);
        None
    }

    fn has_noted_end(&mut self, probe: &Zombie, process: ProcessId) -> bool {
        match self.procs.lives(process) {
            Some(lives) => !lives,
            // Where somebody else reaped it, its entry may be gone already: that was noted as well.
            None => !probe.is_there(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROCESS: ProcessId = ProcessId { pid: 7, start: 70 };

    /// What becomes of a probe.
    struct Fake {
        sightings: Sightings,
        starts: bool,
        ends: bool,
        is_told: bool,
        is_noted: bool,
    }

    impl World for Fake {
        type Probe = ();

        fn start(&mut self, number: u64) -> io::Result<()> {
            let args = |number: u64| format!("tracer-probe\0{number}\0");
            // Others that nobody awaits.
            for other in [number - 1, number + 1] {
                self.sightings.executed(ProcessId { pid: 9, start: 90 }, args(other).as_bytes());
            }
            if self.is_told {
                self.sightings.executed(PROCESS, args(number).as_bytes());
                // Somebody repeats what he saw.
                self.sightings.executed(ProcessId::default(), args(number).as_bytes());
            }
            if self.starts { Ok(()) } else { Err(io::ErrorKind::WouldBlock.into()) }
        }

        fn ended(&mut self, (): (), _: Duration) -> Option<()> {
            self.ends.then_some(())
        }

        fn has_noted_end(&mut self, (): &(), process: ProcessId) -> bool {
            assert_eq!(process, PROCESS);
            self.is_noted
        }
    }

    /// A prober for which all is well, until `change`d; the results of two probes.
    fn probed(change: impl FnOnce(&mut Fake)) -> [ProbeResult; 2] {
        let (sightings, awaited) = sightings();
        let mut world = Fake { sightings, starts: true, ends: true, is_told: true, is_noted: true };
        change(&mut world);
        let mut prober = Prober::new(world, awaited, Duration::ZERO, 41);
        [prober.probe(), prober.probe()]
    }

    #[test]
    fn probe_that_is_told_of_and_noted_was_seen() {
        assert_eq!(probed(|_| ()), [ProbeResult::Seen; 2]);
    }

    #[test]
    fn what_fails_is_told_apart() {
        assert_eq!(probed(|world| world.is_told = false), [ProbeResult::NotTold; 2]);
        assert_eq!(probed(|world| world.is_noted = false), [ProbeResult::NotNoted; 2]);
        assert_eq!(probed(|world| world.starts = false), [ProbeResult::NotStarted; 2]);
        assert_eq!(probed(|world| world.ends = false), [ProbeResult::NotStarted; 2]);
    }

    #[test]
    fn only_a_probe_s_own_arguments_are_taken_for_one() {
        assert_eq!(number_of(b"tracer-probe\x0012\0"), Some(12));
        for other in [
            &b"tracer-probe\x0012"[..],
            b"tracer-probe\0-1\0",
            b"tracer-probe\0\0",
            b"tracer\x0012\0",
            b"",
        ] {
            assert_eq!(number_of(other), None);
        }
        let is_probe = |args: &[&str]| is_probe(args.iter().map(Into::into));
        assert!(is_probe(&["tracer-probe", "7"]));
        assert!(!is_probe(&["tracer", "tracer-probe"]) && !is_probe(&[]));
    }
}
