//! What goes into the core: everything it ever learns about the world.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tracer_common::WaitCounts;

use super::{
    announcement::Announcement,
    model::{Blocked, Nanos, OwnCgroup, Pids, ProcessId, Resources},
    remedy::Receipt,
};
use crate::container::Labels;

/// Something that happened, or that somebody looked up. Byte slices borrow from the buffer that
/// the record was read into; the core copies what it keeps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// A process was created.
    Fork {
        /// When.
        at: Nanos,
        /// The new process.
        child: ProcessId,
        /// Who called fork: lineage follows it.
        forker: ProcessId,
        /// Who gets its SIGCHLD: not the forker under `CLONE_PARENT`.
        parent: ProcessId,
        /// Its pids.
        pids: Pids,
        /// Cgroup v2 id; `None` where there is none.
        cgroup: Option<u64>,
        /// The thread that called fork, as its own, innermost PID namespace sees it.
        thread: Option<u32>,
        /// Root of the invocation.
        root: bool,
    },
    /// It executed a program.
    Exec {
        /// When.
        at: Nanos,
        /// Who.
        process: ProcessId,
        /// The path as given to exec.
        exe: &'a [u8],
        /// NUL-separated arguments.
        args: &'a [u8],
        /// The arguments were cut.
        truncated: bool,
        /// Environment variables that rules ask for, `NAME=value` each with a NUL behind it.
        markers: &'a [u8],
        /// There may be more of these.
        markers_truncated: bool,
        /// Its real user from then on, in the initial user namespace; `None`: that is not known.
        uid: Option<u32>,
    },
    /// Its last thread died. May come twice; the later one holds.
    Exit {
        /// When.
        at: Nanos,
        /// Who.
        process: ProcessId,
        /// Status word of `wait(2)`.
        status: u32,
        /// Its parent at that moment.
        parent: ProcessId,
        /// It had more children than the kernel side looks at: those without an
        /// [`Event::Unreaped`] may be unreaped all the same.
        children_uncounted: bool,
    },
    /// It died and its dying parent had not reaped it. Comes before the parent's exit.
    Unreaped {
        /// When.
        at: Nanos,
        /// The dead child.
        process: ProcessId,
        /// The dying parent.
        parent: ProcessId,
        /// What the parent had waited for; `None`: that is not known.
        waits: Option<WaitCounts>,
        /// It was no zombie yet when its parent ended, so the parent owed it nothing.
        not_yet: bool,
    },
    /// It is gone from the kernel, so somebody reaped it before.
    Reaped {
        /// When that was seen: up to 256 ms after the reap when `by` is `None`.
        at: Nanos,
        /// Who is gone.
        process: ProcessId,
        /// Who waited for it, where that is certain.
        by: Option<ProcessId>,
        /// Its last trace is gone; `false`: it was just reaped, and that is still to come.
        gone: bool,
    },
    /// A process sent it a signal whose default action ends a process.
    Signal {
        /// When.
        at: Nanos,
        /// The target.
        target: ProcessId,
        /// Its number.
        signal: u32,
        /// The sender; pid 0: no process sent this one.
        sender: ProcessId,
        /// Name of the sender's leader thread.
        sender_name: &'a [u8],
    },
    /// The OOM killer chose it.
    Oom {
        /// When.
        at: Nanos,
        /// The victim.
        process: ProcessId,
    },
    /// The answer to [`super::Output::Observe`].
    Observed {
        /// When it was read.
        at: Nanos,
        /// Who was looked at.
        process: ProcessId,
        /// What was there.
        observation: Box<Observation>,
    },
    /// The answer to [`super::Output::Sample`]: those of its processes that had a thread in
    /// uninterruptible sleep.
    Sampled {
        /// When.
        at: Nanos,
        /// Who, and which thread.
        blocked: Vec<(ProcessId, BlockedThread)>,
    },
    /// Somebody said something about tool calls.
    Announced(Box<Announcement>),
    /// So many more announcements were malformed or too many.
    AnnouncementsRefused(u64),
    /// What was announced may have been lost, of every agent: which of its calls were open at a time is not
    /// known any more, until it says so.
    AnnouncementsLost {
        /// Up to when.
        at: Nanos,
        /// Since when.
        from: Nanos,
    },
    /// A process is in a cgroup that agent rules ask for.
    InCgroup {
        /// Who.
        process: ProcessId,
        /// It was forked in it; else it has executed a program in it.
        is_born: bool,
        /// Path of the cgroup (v2).
        path: Arc<[u8]>,
    },
    /// A process is the first of a container, whose pod agent rules ask for.
    InPod {
        /// Who.
        process: ProcessId,
        /// The pod's labels.
        labels: Arc<Labels>,
    },
    /// Something was done about a finding.
    CleanedUp(Box<CleanupNews>),
    /// The root is in a cgroup of its own; once more at the end, with what was used in it.
    OwnCgroup(Box<OwnCgroup>),
    /// A process outside the invocation that could adopt an orphan of it: an ancestor of the
    /// tracer.
    Bystander {
        /// Pid in the tracer's PID namespace.
        pid: u32,
        /// Start in clock ticks, as procfs has it.
        start_ticks: u64,
        /// Its `comm`.
        name: &'a [u8],
    },
    /// Everything that `PROCS` holds, read after records were lost.
    Recovered {
        /// When the reading began.
        at: Nanos,
        /// The processes, in any order.
        processes: Vec<RecoveredProcess>,
        /// Processes that the kernel side saw start since it was loaded, whether or not there was
        /// room for them in `PROCS`.
        tracked: u64,
        /// Records lost so far.
        dropped: u64,
        /// Records of [`Event::Unreaped`] among them.
        dropped_unreaped: u64,
        /// Updates of `PROCS` that failed so far: each may be a process that nobody knows.
        failed: u64,
    },
}

impl Event<'_> {
    /// When it happened, of what the kernel told, and of what was missed.
    #[must_use]
    pub fn at(&self) -> Option<Nanos> {
        match *self {
            Self::Fork { at, .. }
            | Self::Exec { at, .. }
            | Self::Exit { at, .. }
            | Self::Unreaped { at, .. }
            | Self::Reaped { at, .. }
            | Self::Signal { at, .. }
            | Self::Oom { at, .. }
            | Self::AnnouncementsLost { at, .. } => Some(at),
            Self::Observed { .. }
            | Self::Sampled { .. }
            | Self::Bystander { .. }
            | Self::InCgroup { .. }
            | Self::InPod { .. }
            | Self::Announced(_)
            | Self::AnnouncementsRefused(_)
            | Self::CleanedUp(_)
            | Self::OwnCgroup(_)
            | Self::Recovered { .. } => None,
        }
    }
}

/// How far cleaning up has come.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub enum CleanupNews {
    /// This process is to end, or this zombie to be reaped: what comes of that was tracer's doing.
    Doomed(ProcessId),
    /// SIGKILL has not ended it.
    Unkillable {
        /// Who.
        process: ProcessId,
        /// When it was sent.
        since: Nanos,
    },
    /// What became of a process.
    Receipt(Receipt),
    /// Somebody asked for this process to be ended: what comes of that is told, whether or not
    /// something was found of it.
    Requested(ProcessId),
}

impl Observation {
    /// Where it listens that others reach by a port. A Unix socket's name stays behind whatever becomes
    /// of who bound it.
    #[must_use]
    pub fn ports(&self) -> Vec<Vec<u8>> {
        let listening = self.resources.iter().flat_map(|held| &held.listening);
        listening.filter(|address| !address.starts_with(b"unix ")).cloned().collect()
    }

    /// Whether all of it is dead: of a group whose leader is, procfs shows the leader's state and what
    /// another thread holds.
    #[must_use]
    pub fn shows_dead(&self) -> bool {
        matches!(self.state, Some('Z' | 'X' | 'x')) && self.resources.is_none()
    }
}

/// A thread in uninterruptible sleep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockedThread {
    /// Thread id in the tracer's PID namespace.
    pub thread: u32,
    /// Voluntary and involuntary context switches so far: unchanged between two samples means
    /// that it never woke.
    pub switches: u64,
}

/// What procfs says of one process at one moment. `None` is "not known", never zero.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observation {
    /// `false`: no such process any more, or its pid belongs to another now.
    pub exists: bool,
    /// Letter of `/proc/PID/stat`.
    pub state: Option<char>,
    /// Kernel's `comm`.
    pub comm: Option<Vec<u8>>,
    /// Process group, tracer's PID namespace.
    pub pgid: Option<u32>,
    /// Session, tracer's PID namespace.
    pub sid: Option<u32>,
    /// Its parent now.
    pub parent: Option<ObservedParent>,
    /// Link of `/proc/PID/exe`.
    pub exe: Option<Vec<u8>>,
    /// Link of `/proc/PID/cwd`.
    pub cwd: Option<Vec<u8>>,
    /// Path in `/proc/PID/cgroup`.
    pub cgroup: Option<Vec<u8>>,
    /// Its cgroup of v2.
    pub home: Option<Home>,
    /// `/proc/PID/cmdline`, NUL-separated, at most 4 KiB.
    pub args: Option<Vec<u8>>,
    /// Signals it catches, as a mask of `/proc/PID/status`'s `SigCgt`.
    pub caught: Option<u64>,
    /// What it holds; `None` for a zombie.
    pub resources: Option<Resources>,
    /// What it sleeps in; only read in state D.
    pub blocked: Option<Blocked>,
    /// What its parent has waited for, from `PROCS`.
    pub waits: Option<WaitCounts>,
}

/// A cgroup of v2.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Home {
    /// As [`Event::Fork`] has it.
    pub id: u64,
    /// Its path, as the tracer sees it.
    pub path: Vec<u8>,
}

/// A process's parent as procfs shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObservedParent {
    /// Pid in the tracer's PID namespace.
    pub pid: u32,
    /// Its `comm`.
    pub name: Vec<u8>,
    /// It is PID 1 of the child's own PID namespace.
    pub is_init: bool,
}

/// An entry of `PROCS`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecoveredProcess {
    /// Identity.
    pub id: ProcessId,
    /// Its fork.
    pub forker: ProcessId,
    /// Its parent at fork, or at death.
    pub parent: ProcessId,
    /// Its pids.
    pub pids: Pids,
    /// Cgroup v2 id.
    pub cgroup: Option<u64>,
    /// Root of the invocation.
    pub root: bool,
    /// When it last executed a program.
    pub exec_at: Option<Nanos>,
    /// When it died and its status word.
    pub exit: Option<(Nanos, u32)>,
    /// It has been reaped; the entry is kept for its children.
    pub reaped: bool,
    /// Its parent died without having reaped it.
    pub unreaped: bool,
    /// Chosen by the OOM killer.
    pub oom: bool,
    /// Last signal sent by a process: when, number, sender, sender's name.
    pub signal: Option<(Nanos, u32, ProcessId, Vec<u8>)>,
    /// What its parent waited for, where the parent has an entry.
    pub waits: Option<WaitCounts>,
}

impl RecoveredProcess {
    /// Its fork, as far as the entry tells of it.
    #[must_use]
    pub fn fork(&self) -> Event<'static> {
        Event::Fork {
            at: Nanos(self.id.start),
            child: self.id,
            forker: self.forker,
            parent: self.parent,
            pids: self.pids,
            cgroup: self.cgroup,
            thread: None,
            root: self.root,
        }
    }

    /// Its end, as far as the entry tells of it; `None`: it lives.
    #[must_use]
    pub fn end(&self) -> Option<Event<'static>> {
        let (at, status) = self.exit?;
        let (process, parent) = (self.id, self.parent);
        Some(Event::Exit { at, process, status, parent, children_uncounted: false })
    }

    /// One that was forked, and of which nothing more is known.
    #[must_use]
    pub fn forked(id: ProcessId, forker: ProcessId, parent: ProcessId, pids: Pids) -> Self {
        Self {
            id,
            forker,
            parent,
            pids,
            cgroup: None,
            root: false,
            exec_at: None,
            exit: None,
            reaped: false,
            unreaped: false,
            oom: false,
            signal: None,
            waits: None,
        }
    }
}
