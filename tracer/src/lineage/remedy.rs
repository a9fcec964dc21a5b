//! What is done about a finding: what a policy asks for, and the receipt of what came of it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::model::{FindingKind, Nanos, ProcessId};

/// What to do about a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Remedy {
    /// Tell of it.
    Report,
    /// Send the parent of a zombie SIGCHLD, once.
    Nudge,
    /// Ask the leaking lineage to end: SIGTERM.
    Term,
    /// SIGTERM, and SIGKILL for what lives after `term_timeout`.
    Kill,
    /// The same to the parent that does not reap.
    KillParent,
}

impl Remedy {
    /// As contracts spell it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Report => "report",
            Self::Nudge => "nudge",
            Self::Term => "term",
            Self::Kill => "kill",
            Self::KillParent => "kill-parent",
        }
    }

    /// Whether it can be asked for about such a finding: the dead cannot be killed, and only their
    /// parents can be nudged.
    #[must_use]
    pub fn fits(self, kind: FindingKind) -> bool {
        match self {
            Self::Report => true,
            Self::Nudge | Self::KillParent => kind == FindingKind::Zombie,
            Self::Term | Self::Kill => kind != FindingKind::Zombie,
        }
    }
}

/// How a finding is dealt with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Treatment {
    /// What is done.
    pub remedy: Remedy,
    /// How long a process may take to end after SIGTERM; zero: SIGKILL at once.
    pub term_timeout: Duration,
    /// How long the kernel may take to end it after SIGKILL, and its parent to reap it.
    pub kill_timeout: Duration,
    /// How long a finding stands before anything is done.
    pub delay: Duration,
}

impl Treatment {
    /// What `--on-leak kill` does where no rule says otherwise.
    #[must_use]
    pub fn usual(kind: FindingKind) -> Self {
        let remedy = match kind {
            FindingKind::Survivor => Remedy::Kill,
            FindingKind::Zombie => Remedy::Nudge,
            FindingKind::Orphan | FindingKind::Stuck | FindingKind::OutlivedCall => Remedy::Report,
        };
        let timeout = Duration::from_secs(5);
        Self { remedy, term_timeout: timeout, kill_timeout: timeout, delay: Duration::ZERO }
    }
}

/// What became of one process that something was to be done about.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Receipt {
    /// Whose finding it is, or who belongs to its lineage.
    pub process: ProcessId,
    /// The kind of finding that led to it; `None`: somebody asked for it.
    pub kind: Option<FindingKind>,
    /// What was to be done.
    pub remedy: Remedy,
    /// Who decided: an option, a rule, or who asked for it.
    pub decided_by: String,
    /// When.
    pub decided_at: Nanos,
    /// Nothing was touched: it tells what would have been done.
    pub dry_run: bool,
    /// Every signal that was sent, in order.
    pub signals: Vec<SignalGiven>,
    /// What came of it.
    pub result: ActionResult,
    /// Why, where that is not plain; escaped for a terminal.
    pub reason: Option<String>,
    /// When that was certain.
    pub at: Nanos,
    /// Where it listened, and when that was free.
    pub ports: Vec<PortFreed>,
}

/// A signal that was sent.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct SignalGiven {
    /// When.
    pub at: Nanos,
    /// Its number.
    pub signal: u8,
    /// To whom.
    pub to: SignalTarget,
    /// What the kernel said; `None`: it was sent.
    pub refused: Option<String>,
}

/// To whom a signal was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SignalTarget {
    /// The process.
    Process,
    /// Its parent, by pid to show.
    Parent(u32),
    /// Its process group, all of which was to end, by its pid in the tracer's PID namespace.
    Group(u32),
    /// The run's own cgroup, everybody in which was to end.
    Cgroup,
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ActionResult {
    /// It ended, after a signal.
    Ended,
    /// It ended before it was sent any.
    EndedByItself,
    /// A zombie was reaped.
    Reaped,
    /// It is as it was: SIGTERM or a nudge did not suffice, and no more was asked for.
    StillThere,
    /// SIGKILL has not ended it: it sleeps in the kernel.
    Unkillable,
    /// It was forked faster than it could be signalled, and lives.
    Escaped,
    /// It is kept.
    Kept,
    /// It must not be touched.
    Refused,
    /// tracer has not the right to signal it.
    NotPermitted,
    /// More was to be killed within a minute than is allowed.
    Limited,
    /// It would have been signalled.
    WouldAct,
}

impl ActionResult {
    /// As contracts spell it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ended => "ended",
            Self::EndedByItself => "ended_by_itself",
            Self::Reaped => "reaped",
            Self::StillThere => "still_there",
            Self::Unkillable => "unkillable",
            Self::Escaped => "escaped",
            Self::Kept => "kept",
            Self::Refused => "refused",
            Self::NotPermitted => "not_permitted",
            Self::Limited => "limited",
            Self::WouldAct => "would_act",
        }
    }
}

/// A place that a process listened at.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct PortFreed {
    /// `127.0.0.1:3000`.
    pub address: String,
    /// When nobody listened there any more; `None`: somebody still does.
    pub free_at: Option<Nanos>,
}

/// What is to become of a process and of all that it forks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Lot {
    /// It is kept.
    Kept,
    /// It is killed.
    Doomed,
}
