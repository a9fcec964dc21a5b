//! What is new in a run.

use serde::{Deserialize, Serialize};

use crate::lineage::{Finding, FindingKind, FindingState, Invocation, Nanos, ProcessId, Stats};

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// An agent's run began, or became known.
    Opened(Box<InvocationNews>),
    /// Its root has ended and so has `grace`. Some of its processes may live on.
    Ended(Box<InvocationNews>),
    /// Something was found, or something about a finding changed.
    Finding(Box<FindingNews>),
}

/// A kind of news: the `type` of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum NewsKind {
    /// [`What::Opened`].
    InvocationOpened,
    /// [`What::Ended`].
    InvocationEnded,
    /// [`What::Finding`].
    Finding,
}

impl What {
    /// Its kind.
    #[must_use]
    pub fn kind(&self) -> NewsKind {
        match self {
            Self::Opened(_) => NewsKind::InvocationOpened,
            Self::Ended(_) => NewsKind::InvocationEnded,
            Self::Finding(_) => NewsKind::Finding,
        }
    }
}

/// A run of an agent that no other agent's run is around.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvocationNews {
    /// The run. Its `command` is what its root executes.
    pub invocation: Invocation,
    /// The real user of its root when it began, in the initial user namespace; `None`: that is not
    /// known.
    pub uid: Option<u32>,
    /// Figures so far; `dropped` and `unseen` are the whole host's.
    pub stats: Stats,
    /// Events were lost that could have changed what was found.
    pub is_uncertain: bool,
}

/// A finding as it is now. Whoever keeps it keeps the last of each key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FindingNews {
    /// The outermost agent's run that it belongs to; the nearest is [`Finding::agent`].
    pub invocation: String,
    /// What is new.
    pub change: Change,
    /// The real user who began that run, in the initial user namespace; `None`: that is not known.
    pub uid: Option<u32>,
    /// When the process was gone: ended, or, of a zombie, reaped by whomever. `None`: it is there.
    pub gone_at: Option<Nanos>,
    /// Why it does not count: a rule, its environment, a lease.
    pub kept_by: Option<String>,
    /// The finding.
    pub finding: Finding,
}

/// What is new about a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// It was found.
    Opened,
    /// Something else about it, as what was done.
    Changed,
    /// It was put right.
    Resolved,
    /// Its process is gone, which put nothing right.
    Gone,
    /// It turned out to be none.
    Withdrawn,
}

impl Change {
    /// As contracts spell it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Opened => "opened",
            Self::Changed => "changed",
            Self::Resolved => "resolved",
            Self::Gone => "gone",
            Self::Withdrawn => "withdrawn",
        }
    }
}

impl FindingNews {
    /// What tells findings of one boot apart: the process and the kind.
    #[must_use]
    pub fn key(&self) -> (ProcessId, FindingKind) {
        (self.finding.process.id, self.finding.kind)
    }

    /// Whether the leak is there now, and is one.
    #[must_use]
    pub fn stands(&self) -> bool {
        self.change != Change::Withdrawn
            && self.kept_by.is_none()
            && self.gone_at.is_none()
            && self.finding.state == FindingState::Open
    }
}
