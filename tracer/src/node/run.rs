//! One agent's run on a node, and what was told of it.

use std::collections::VecDeque;

use hashbrown::HashMap;

use super::{
    Change, FindingNews, InvocationNews, Losses, What,
    told::{Seen, Told},
};
use crate::lineage::{
    DEFAULT_FAIL_ON, Event, FindingKind, FindingState, Lineage, Nanos, ProcessId, RecoveredProcess,
    Watched,
};
use crate::recording::OwnedEvent;

/// An agent and all below it, as `PROCS` has them once all belong to one run.
#[derive(Clone, Debug, Default)]
pub struct Adoption {
    /// When `PROCS` was read.
    pub at: Nanos,
    /// The agent, which is marked as the root, and its descendants by fork.
    pub processes: Vec<RecoveredProcess>,
    /// What those of them execute that live, as far as it is known and the story does not tell it; oldest
    /// first.
    pub programs: Vec<ProgramSeen>,
    /// What a daemon before this one was told of them, in order: see [`super::story`].
    pub story: Vec<OwnedEvent>,
    /// Since when and up to when announcements may have been lost, beside what the story tells of that;
    /// `None`: none were.
    pub deaf: Option<(Nanos, Nanos)>,
    /// Ancestors of the agent, of whom one adopts what it orphans.
    pub bystanders: Vec<Bystander>,
    /// What was lost before, and matters nothing to this run.
    pub losses: Losses,
    /// It is about to execute what it is for: until it has, nothing is told of it.
    pub is_at_start: bool,
}

/// What a process executes, read when it had begun.
#[derive(Clone, Debug, Default)]
pub struct ProgramSeen {
    /// Who.
    pub process: ProcessId,
    /// When it executed that.
    pub at: Nanos,
    /// Path of the program.
    pub exe: Vec<u8>,
    /// NUL-separated arguments.
    pub args: Vec<u8>,
    /// The arguments were cut.
    pub truncated: bool,
    /// As in [`Event::Exec`].
    pub markers: Vec<u8>,
    /// As in [`Event::Exec`].
    pub markers_truncated: bool,
    /// As in [`Event::Exec`].
    pub uid: Option<u32>,
}

impl ProgramSeen {
    /// As the kernel would have told it.
    #[must_use]
    pub fn event(&self) -> Event<'_> {
        let Self { process, at, exe, args, truncated, markers, markers_truncated, uid } = self;
        Event::Exec {
            at: *at,
            process: *process,
            exe,
            args,
            truncated: *truncated,
            markers,
            markers_truncated: *markers_truncated,
            uid: *uid,
        }
    }
}

/// See [`Event::Bystander`].
#[derive(Clone, Debug, Default)]
pub struct Bystander {
    /// Pid in the tracer's PID namespace.
    pub pid: u32,
    /// Start in clock ticks.
    pub start_ticks: u64,
    /// Its `comm`.
    pub name: Vec<u8>,
}

/// One run.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) lineage: Lineage,
    /// The one that is noted.
    pub(super) deadline: Option<Nanos>,
    /// What was lost before it began.
    pub(super) losses: Losses,
    /// Records of forks were lost since, whoever's they were.
    pub(super) lost_forks: bool,
    /// Those that were gone when it was adopted, of whose going nothing more is told.
    pub(super) reaped: Vec<ProcessId>,
    /// Findings of which something may be new.
    changed: VecDeque<(ProcessId, FindingKind)>,
    /// What was told of each finding that may still change.
    told: HashMap<(ProcessId, FindingKind), Told>,
    /// From so many on those that are over are dropped.
    told_at_most: usize,
    /// See [`Adoption::is_at_start`].
    is_at_start: bool,
    is_opened: bool,
    is_ended: bool,
    /// It is remembered though it is over.
    pub(super) is_held: bool,
}

/// Below so many it does not matter.
const MANY_TOLD: usize = 1024;

impl Run {
    pub(super) fn new(
        lineage: Lineage,
        losses: Losses,
        reaped: Vec<ProcessId>,
        is_at_start: bool,
    ) -> Self {
        Self {
            is_at_start,
            lineage,
            deadline: None,
            losses,
            lost_forks: false,
            reaped,
            changed: VecDeque::new(),
            told: HashMap::new(),
            told_at_most: 0,
            is_opened: false,
            is_ended: false,
            is_held: false,
        }
    }

    /// Whether something may have been missed.
    pub(super) fn is_uncertain(&self) -> bool {
        self.lost_forks || self.lineage.is_uncertain()
    }

    /// Looks what may be new, for [`Run::next_news`] to tell.
    pub(super) fn look(&mut self) {
        if self.is_at_start {
            let root = self.lineage.root().unwrap_or_default();
            let executed = self.lineage.executed_at(root).is_some_and(|at| at > Nanos(0));
            if !executed && !self.lineage.root_has_ended() {
                return;
            }
            self.is_at_start = false;
        }
        self.drop_what_is_over();
        self.changed.extend(self.lineage.take_changed());
    }

    /// The next that is new; `None`: nothing more is. Each is made when it is asked for: many may become
    /// news at once, and all of them together would take far more room than what is known of them.
    pub(super) fn next_news(&mut self, now: Nanos) -> Option<What> {
        if self.is_at_start {
            return None;
        }
        if !std::mem::replace(&mut self.is_opened, true) {
            return Some(What::Opened(Box::new(self.invocation())));
        }
        while let Some((process, kind)) = self.changed.pop_front() {
            let watched = self.lineage.watched(process, kind, now);
            if let Some(news) = self.finding((process, kind), watched) {
                return Some(What::Finding(news));
            }
        }
        if !self.is_ended && self.lineage.is_settled() {
            self.is_ended = true;
            return Some(What::Ended(Box::new(self.invocation())));
        }
        None
    }

    /// Whether nothing about it can change and nobody is at it.
    pub(super) fn is_done(&self) -> bool {
        !self.is_held && self.lineage.live() == 0 && self.lineage.is_over()
    }

    /// Of what is over the core keeps little, and no more can change.
    fn drop_what_is_over(&mut self) {
        if self.told.len() > self.told_at_most.max(MANY_TOLD) {
            let lineage = &self.lineage;
            self.told
                .retain(|&(id, kind), told| !told.seen.is_gone || lineage.has_finding(id, kind));
            self.told_at_most = 2 * self.told.len();
        }
    }

    fn id(&self) -> String {
        self.lineage.root().unwrap_or_default().to_string()
    }

    fn invocation(&self) -> InvocationNews {
        InvocationNews {
            invocation: self.lineage.invocation_now(),
            uid: self.lineage.root_uid(),
            stats: self.lineage.stats(),
            is_uncertain: self.is_uncertain(),
        }
    }

    fn finding(
        &mut self,
        key: (ProcessId, FindingKind),
        watched: Option<Watched>,
    ) -> Option<Box<FindingNews>> {
        let Some(Watched { mut finding, gone_at, kept_by }) = watched else {
            // Withdrawn before it was told, it never was; and what is over may be kept no more.
            let told = self.told.remove(&key)?;
            return (!told.seen.is_gone).then(|| told.withdrawn(&self.lineage));
        };
        finding.counted = kept_by.is_none()
            && finding.state == FindingState::Open
            && DEFAULT_FAIL_ON.contains(&finding.kind);
        let (invocation, uid) = (self.id(), self.lineage.root_uid());
        let change = Change::Opened;
        let mut news = Box::new(FindingNews { invocation, change, uid, gone_at, kept_by, finding });
        let seen = Seen::of(&news);
        if let Some(before) = self.told.get(&key) {
            news.change = seen.since(before)?;
        }
        self.told.insert(key, Told::of(&mut news, seen));
        Some(news)
    }
}
