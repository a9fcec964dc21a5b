//! One agent's run on a node, and what was told of it.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use hashbrown::HashMap;

use super::{Change, FindingNews, InvocationNews, Losses, What};
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

/// What was told of a finding.
#[derive(Clone, Debug)]
struct Told {
    is_gone: bool,
    state: FindingState,
    /// Of all else that is worth telling.
    digest: u64,
    /// To be told of once more if it is withdrawn.
    last: Box<FindingNews>,
}

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

    /// What is new.
    pub(super) fn news(&mut self, now: Nanos) -> Vec<What> {
        let mut news = Vec::new();
        if self.is_at_start {
            let root = self.lineage.root().unwrap_or_default();
            let executed = self.lineage.executed_at(root).is_some_and(|at| at > Nanos(0));
            if !executed && !self.lineage.root_has_ended() {
                return news;
            }
            self.is_at_start = false;
        }
        if !std::mem::replace(&mut self.is_opened, true) {
            news.push(What::Opened(Box::new(self.invocation())));
        }
        self.drop_what_is_over();
        let changed = self.lineage.take_changed();
        if !changed.is_empty() {
            let invocation = self.id();
            for (process, kind) in changed {
                let watched = self.lineage.watched(process, kind, now);
                news.extend(self.finding(&invocation, (process, kind), watched));
            }
        }
        if !self.is_ended && self.lineage.is_settled() {
            self.is_ended = true;
            news.push(What::Ended(Box::new(self.invocation())));
        }
        news
    }

    /// Of what is over the core keeps little, and no more can change.
    fn drop_what_is_over(&mut self) {
        if self.told.len() > self.told_at_most.max(MANY_TOLD) {
            let lineage = &self.lineage;
            self.told.retain(|&(id, kind), told| !told.is_gone || lineage.has_finding(id, kind));
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
        invocation: &str,
        key: (ProcessId, FindingKind),
        watched: Option<Watched>,
    ) -> Option<What> {
        let before = self.told.get(&key);
        let Some(Watched { mut finding, gone_at, kept_by }) = watched else {
            // Withdrawn before it was told, it never was; and what is over may be kept no more.
            let Told { is_gone, mut last, .. } = self.told.remove(&key)?;
            last.change = Change::Withdrawn;
            return (!is_gone).then_some(What::Finding(last));
        };
        let digest = digest(&finding, kept_by.as_deref());
        let is_gone = gone_at.is_some();
        let change = match before {
            None => Change::Opened,
            Some(before) if before.state != finding.state => match finding.state {
                FindingState::Resolved(_) => Change::Resolved,
                FindingState::Open => Change::Changed,
            },
            Some(before) if is_gone && !before.is_gone => Change::Gone,
            Some(before) if before.digest != digest => Change::Changed,
            Some(_) => return None,
        };
        finding.counted = kept_by.is_none()
            && finding.state == FindingState::Open
            && DEFAULT_FAIL_ON.contains(&finding.kind);
        let state = finding.state;
        let invocation = invocation.to_owned();
        let uid = self.lineage.root_uid();
        let news = FindingNews { invocation, change, uid, gone_at, kept_by, finding };
        let last = Box::new(news.clone());
        self.told.insert(key, Told { is_gone, state, digest, last });
        Some(What::Finding(Box::new(news)))
    }
}

/// Of what a finding tells besides its state and times.
fn digest(finding: &crate::lineage::Finding, kept_by: Option<&str>) -> u64 {
    let mut hasher = DefaultHasher::new();
    let crate::lineage::Finding {
        adopter, exit, cause, agent, tool_call, resources, blocked, ..
    } = finding;
    let action = finding.action.as_ref().map(|action| &action.receipt);
    let told = format!(
        "{adopter:?}{exit:?}{cause:?}{agent:?}{tool_call:?}{resources:?}{blocked:?}{action:?}{kept_by:?}"
    );
    told.hash(&mut hasher);
    hasher.finish()
}
