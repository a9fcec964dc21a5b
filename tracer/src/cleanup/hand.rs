//! Signals to processes: to exactly the one that is meant, or to none.
//!
//! A pidfd stands for one process for ever, but it is opened by a pid, which may have been taken by
//! another meanwhile. So what was opened is checked afterwards, when it cannot change any more: by the
//! exact start time, which the kernel side has of every process and notes the end of before anybody
//! can reap it, and by what procfs tells.

use std::{
    collections::HashMap,
    io,
    os::fd::{AsRawFd as _, OwnedFd},
};

use rustix::{
    io::Errno,
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};

use super::{groups::Place, ports::Ports};
use crate::{
    lineage::{Pids, ProcessId},
    procfs::{Procfs, Stat, TaskDir},
};

/// What came of a signal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sent {
    /// It was sent.
    Done {
        /// The pid to show of who got it.
        to: u32,
    },
    /// The process has ended, and maybe its pid is another's now.
    Gone,
    /// The kernel does not let tracer signal it: why.
    NotPermitted(String),
    /// It must not be touched, or nobody can say whether it is the one that is meant: why.
    Refused(String),
}

/// Why who has no pid to be named by is not signalled.
const INVISIBLE: &str = "it has no pid in tracer's PID namespace";

/// Who is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Exactly.
    pub id: ProcessId,
    /// Its pids.
    pub pids: Pids,
}

/// Who is never signalled.
#[derive(Clone, Debug, Default)]
struct Guard {
    /// Pids in the tracer's PID namespace, with start in clock ticks, of tracer and its ancestors.
    ancestors: Vec<(u32, u64)>,
}

impl Guard {
    /// Of the running tracer.
    fn of_this_process(procfs: &Procfs) -> Self {
        let line = procfs.own_line().into_iter();
        Self { ancestors: line.map(|stat| (stat.pid, stat.start_ticks)).collect() }
    }

    /// Why a process is never signalled, if it is not: `stat` is of who has the pid now.
    fn forbids(&self, pid: u32, stat: &Stat) -> Option<&'static str> {
        if pid == 1 {
            Some("it is PID 1")
        } else if stat.is_kernel_thread {
            Some("it is a kernel thread")
        } else if pid == std::process::id() {
            Some("it is tracer itself")
        } else if self.ancestors.contains(&(pid, stat.start_ticks)) {
            Some("it is an ancestor of tracer's")
        } else {
            None
        }
    }
}

/// Does what a [`super::Cleaner`] says.
#[derive(Debug)]
pub struct Hand {
    procfs: Procfs,
    guard: Guard,
    ports: HashMap<ProcessId, Ports>,
}

impl Hand {
    /// One that has touched nothing yet.
    #[must_use]
    pub fn new(procfs: Procfs) -> Self {
        let guard = Guard::of_this_process(&procfs);
        Self { procfs, guard, ports: HashMap::new() }
    }

    /// Signals exactly this process. `lives`: whether the kernel side has it as alive, asked after the
    /// pidfd was opened; `None` where it cannot say.
    pub fn signal(
        &self,
        who: Identity,
        signal: u8,
        lives: impl FnOnce(ProcessId) -> Option<bool>,
    ) -> Sent {
        let Held { pid, fd, dir } = match self.hold(who, lives) {
            Ok(held) => held,
            Err(sent) => return sent,
        };
        if who.pids.is_init_of_namespace()
            && let Some(why) = self.strangers_below(&dir, who)
        {
            return Sent::Refused(why);
        }
        let Some(signal) = Signal::from_named_raw(i32::from(signal)) else {
            return Sent::Refused(format!("{signal} is no signal"));
        };
        told(pid, pidfd_send_signal(&fd, signal))
    }

    /// Sends SIGKILL to the process group that is named after this process, which must live: only so
    /// is it certain which group that is.
    pub fn kill_group(
        &self,
        leader: Identity,
        lives: impl FnOnce(ProcessId) -> Option<bool>,
    ) -> Sent {
        let Held { pid, fd, .. } = match self.hold(leader, |id| Some(lives(id).unwrap_or_default()))
        {
            Ok(held) => held,
            Err(sent) => return sent,
        };
        told(pid, send_to_group(&fd))
    }

    /// Where a process is.
    #[must_use]
    pub fn place(&self, who: Identity) -> Place {
        let found = who.pids.local.and_then(|pid| self.procfs.identify(pid, who.id).ok().flatten());
        let (pgid, sid) = found.map_or((None, None), |(_, stat)| (stat.pgid, stat.sid));
        Place { process: who.id, pids: who.pids, pgid, sid }
    }

    /// Opens exactly this process, if it may be signalled.
    fn hold(
        &self,
        who: Identity,
        lives: impl FnOnce(ProcessId) -> Option<bool>,
    ) -> Result<Held, Sent> {
        let (pid, fd) = open(who.pids)?;
        if lives(who.id) == Some(false) {
            return Err(Sent::Gone);
        }
        let (dir, stat) = match self.procfs.identify(pid, who.id) {
            Ok(Some(found)) => found,
            Ok(None) => return Err(Sent::Gone),
            Err(error) => {
                return Err(Sent::Refused(format!("its start time cannot be read: {error}")));
            }
        };
        match self.guard.forbids(pid, &stat) {
            Some(why) => Err(Sent::Refused(why.to_owned())),
            None => Ok(Held { pid, fd, dir }),
        }
    }

    /// PID 1 of a namespace takes everybody in it along. Whoever came in from outside, as with
    /// `nsenter`, is none of the lineage: its parent is outside.
    fn strangers_below(&self, init: &TaskDir, who: Identity) -> Option<String> {
        let Ok(namespace) = init.namespace("pid") else {
            return Some("it is PID 1 of a namespace that cannot be looked at".to_owned());
        };
        let Ok(pids) = self.procfs.pids() else {
            return Some(
                "it is PID 1 of a namespace, and who else is in it cannot be told".to_owned(),
            );
        };
        let stranger = pids.into_iter().find(|&pid| {
            Some(pid) != who.pids.local
                && self.procfs.process(pid).is_ok_and(|dir| {
                    let is_in = dir.namespace("pid").is_ok_and(|own| own == namespace);
                    // Orphans within are the init's; who has no parent there came from outside.
                    let parent = dir.stat().map_or(0, |stat| stat.ppid);
                    let is_stranger = || {
                        self.procfs
                            .process(parent)
                            .and_then(|parent| parent.namespace("pid"))
                            .map_or(parent == 0, |parents| parents != namespace)
                    };
                    is_in && is_stranger()
                })
        });
        stranger.map(|pid| {
            format!(
                "it is PID 1 of a namespace that process {pid}, which came in from outside, is in"
            )
        })
    }

    /// Why the end of a process would take others along that are not to end, if it would.
    #[must_use]
    pub fn takes_along(&self, who: Identity) -> Option<String> {
        let pid = who.pids.local.filter(|_| who.pids.is_init_of_namespace())?;
        match self.procfs.identify(pid, who.id) {
            Ok(found) => self.strangers_below(&found?.0, who),
            Err(error) => Some(format!("it is PID 1 of a namespace, and is not seen: {error}")),
        }
    }

    /// Makes ready to tell when nobody listens at these addresses any more.
    pub fn hold_ports(&mut self, who: Identity, addresses: Vec<Vec<u8>>) {
        let Some(pid) = who.pids.local else { return };
        let Ok(Some((dir, _))) = self.procfs.identify(pid, who.id) else { return };
        match Ports::hold(&dir, addresses) {
            Ok(ports) => {
                self.ports.insert(who.id, ports);
            }
            Err(error) => log::debug!("failed to watch the ports of process {pid}: {error}"),
        }
    }

    /// Which of them nobody listens at any more. What cannot be watched is not told free.
    pub fn freed_ports(&mut self, process: ProcessId) -> Vec<Vec<u8>> {
        self.ports.get_mut(&process).map(Ports::freed).unwrap_or_default()
    }
}

/// A process that cannot become another any more.
struct Held {
    pid: u32,
    fd: OwnedFd,
    dir: TaskDir,
}

/// `PIDFD_SIGNAL_PROCESS_GROUP` (6.9+): to the group whose id is the pid that this process has; an older
/// kernel says EINVAL.
fn send_to_group(leader: &OwnedFd) -> Result<(), Errno> {
    // SAFETY: the descriptor is open, and no siginfo is given.
    let result = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            leader.as_raw_fd(),
            libc::SIGKILL,
            std::ptr::null::<libc::siginfo_t>(),
            libc::PIDFD_SIGNAL_PROCESS_GROUP,
        )
    };
    if result == 0 { Ok(()) } else { Err(last_errno()) }
}

fn last_errno() -> Errno {
    Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::INVAL)
}

/// What the kernel said, told.
fn told(to: u32, sent: Result<(), Errno>) -> Sent {
    match sent {
        Ok(()) => Sent::Done { to },
        Err(Errno::SRCH) => Sent::Gone,
        Err(Errno::PERM) => Sent::NotPermitted(
            "the kernel does not permit it: it runs as another user, and tracer lacks CAP_KILL"
                .to_owned(),
        ),
        Err(error) => Sent::Refused(format!("the kernel refuses: {error}")),
    }
}

/// Why a process with these pids is never ended, if that shows in them.
pub(super) fn untouchable(pids: Pids) -> Option<&'static str> {
    if pids.host == 1 || pids.local == Some(1) {
        Some("it is PID 1")
    } else {
        pids.local.is_none().then_some(INVISIBLE)
    }
}

fn open(pids: Pids) -> Result<(u32, OwnedFd), Sent> {
    let refused = || Sent::Refused(INVISIBLE.to_owned());
    let pid = pids.local.ok_or_else(refused)?;
    let raw = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or_else(refused)?;
    match pidfd_open(raw, PidfdFlags::empty()) {
        Ok(fd) => Ok((pid, fd)),
        // Of a thread that took over the group's pid in exec, EINVAL for a moment; it is alive.
        Err(Errno::SRCH) => Err(Sent::Gone),
        Err(error) => {
            let error = io::Error::from(error);
            Err(Sent::Refused(format!("no pidfd can be opened: {error}")))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};

    use super::*;
    use crate::procfs::fake::FakeProc;

    /// A process to signal, ended with the value.
    struct Victim(Child);

    impl Victim {
        fn new() -> Self {
            Self(Command::new("sleep").arg("60").spawn().unwrap())
        }

        fn identity(&self) -> Identity {
            identity(self.0.id())
        }

        fn lives(&mut self) -> bool {
            self.0.try_wait().unwrap().is_none()
        }
    }

    impl Drop for Victim {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    /// Of who has this pid now.
    fn identity(pid: u32) -> Identity {
        let ticks = Procfs::of_host().unwrap().process(pid).unwrap().stat().unwrap().start_ticks;
        let per_second = rustix::param::clock_ticks_per_second();
        let id = ProcessId { pid, start: ticks * (1_000_000_000 / per_second) };
        Identity { id, pids: Pids { host: pid, local: Some(pid), namespace: pid, level: 0 } }
    }

    fn hand() -> Hand {
        Hand::new(Procfs::of_host().unwrap())
    }

    #[test]
    fn exactly_the_process_that_is_meant_is_signalled() {
        let mut victim = Victim::new();
        let who = victim.identity();
        assert_eq!(hand().signal(who, 15, |_| Some(true)), Sent::Done { to: who.id.pid });
        assert!(!victim.0.wait().unwrap().success());
    }

    #[test]
    fn pid_that_is_another_s_by_now_is_not_signalled() {
        let mut victim = Victim::new();
        let who = victim.identity();
        // The process that was meant ended, and its pid was taken: the kernel side says so, or procfs.
        assert_eq!(hand().signal(who, 9, |_| Some(false)), Sent::Gone);
        let before = ProcessId { start: who.id.start - 1_000_000_000, ..who.id };
        assert_eq!(hand().signal(Identity { id: before, ..who }, 9, |_| None), Sent::Gone);
        assert!(victim.lives());
    }

    #[test]
    fn tracer_and_its_ancestors_are_never_signalled() {
        let own = std::process::id();
        let parent = std::os::unix::process::parent_id();
        for (pid, said) in [(own, "it is tracer itself"), (parent, "it is an ancestor of tracer's")]
        {
            let sent = hand().signal(identity(pid), 9, |_| None);
            // As the first process of a namespace it is both.
            let refused = [said, "it is PID 1"].map(|said| Sent::Refused(said.to_owned()));
            assert!(refused.contains(&sent), "{pid}: {sent:?}");
        }
    }

    #[test]
    fn process_group_is_killed_if_its_leader_certainly_lives() {
        use std::os::unix::process::CommandExt as _;
        let start =
            |group| Victim(Command::new("sleep").arg("60").process_group(group).spawn().unwrap());
        let mut leader = start(0);
        let who = leader.identity();
        let mut member = start(i32::try_from(who.id.pid).unwrap());
        let place = hand().place(member.identity());
        assert_eq!((place.pgid, place.process), (Some(who.id.pid), member.identity().id));
        for unsure in [None, Some(false)] {
            assert_eq!(hand().kill_group(who, |_| unsure), Sent::Gone);
        }
        assert!(leader.lives() && member.lives());
        let sent = hand().kill_group(who, |_| Some(true));
        if let Sent::Refused(why) = &sent {
            // Before 6.9.
            assert!(why.starts_with("the kernel refuses"), "{why}");
            return;
        }
        assert_eq!(sent, Sent::Done { to: who.id.pid });
        assert!(!leader.0.wait().unwrap().success() && !member.0.wait().unwrap().success());
    }

    #[test]
    fn pid_1_is_never_signalled() {
        let sent = hand().signal(identity(1), 9, |_| None);
        assert_eq!(sent, Sent::Refused("it is PID 1".to_owned()));
    }

    #[test]
    fn process_whose_start_cannot_be_read_is_not_signalled() {
        let mut victim = Victim::new();
        let proc = FakeProc::new();
        proc.file(&format!("{}/stat", victim.0.id()), "nonsense");
        let sent = Hand::new(proc.open()).signal(victim.identity(), 9, |_| Some(true));
        assert!(
            matches!(&sent, Sent::Refused(why) if why.starts_with("its start time cannot be read")),
            "{sent:?}"
        );
        assert!(victim.lives());
    }

    #[test]
    fn kernel_thread_is_never_signalled() {
        let mut victim = Victim::new();
        let who = victim.identity();
        let proc = FakeProc::new();
        let ticks = Procfs::of_host().unwrap().start_ticks(who.id.start);
        // tty_nr, tpgid, flags with PF_KTHREAD, then 10 more, num_threads, itrealvalue, starttime.
        let line = format!(
            "{} (kworker) S 2 0 0 0 -1 2097152 {} 1 0 {ticks} 0",
            who.id.pid,
            ["0"; 10].join(" ")
        );
        proc.file(&format!("{}/stat", who.id.pid), line);
        let sent = Hand::new(proc.open()).signal(who, 9, |_| Some(true));
        assert_eq!(sent, Sent::Refused("it is a kernel thread".to_owned()));
        assert!(victim.lives());
    }

    #[test]
    fn process_without_a_pid_here_is_not_signalled() {
        let mut who = identity(std::process::id());
        who.pids.local = None;
        assert!(matches!(hand().signal(who, 9, |_| None), Sent::Refused(_)));
    }

    #[test]
    fn ports_are_told_free_once_nobody_listens() {
        let socket = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = socket.local_addr().unwrap().to_string().into_bytes();
        let mut hand = hand();
        let who = identity(std::process::id());
        hand.hold_ports(who, vec![address.clone()]);
        assert!(hand.freed_ports(who.id).is_empty());
        drop(socket);
        // Whatever another test starts meanwhile holds it as well until it has executed its program.
        let looks = std::iter::repeat_with(|| {
            std::thread::yield_now();
            hand.freed_ports(who.id)
        });
        let freed = looks.take(100_000).find(|freed| !freed.is_empty());
        assert_eq!(freed, Some(vec![address]));
        assert!(hand.freed_ports(who.id).is_empty());
    }
}
