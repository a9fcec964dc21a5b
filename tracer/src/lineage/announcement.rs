//! What an agent, a hook or a library says about tool calls: see `docs/announcements.md`.

use serde::{Deserialize, Serialize};

use super::model::Nanos;

/// One announcement, of valid form; whether its sender may say it is for the core to decide.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Announcement {
    /// Who sent it, by pid in the tracer's PID namespace, as the kernel told.
    pub sender: u32,
    /// When the kernel took it.
    pub sent_at: Nanos,
    /// When it happened, as the sender says.
    pub at: Option<Nanos>,
    /// The agent that it speaks for, if that is not the sender.
    pub agent: Option<String>,
    /// The process that it speaks for, as the sender sees it, if that is not the sender.
    pub pid: Option<u32>,
    /// The agent's session.
    pub session: Option<String>,
    /// What it says.
    pub said: Said,
}

/// What an [`Announcement`] says.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub enum Said {
    /// A tool call begins.
    CallStart(CallStart),
    /// The next fork of this thread is this call's.
    Spawn {
        /// The call.
        id: String,
        /// The thread, as its own PID namespace sees it.
        thread: u32,
    },
    /// What this call leaves is meant to run on.
    Background {
        /// The call.
        id: String,
        /// Why.
        reason: Option<String>,
    },
    /// A tool call has ended.
    CallEnd {
        /// The call.
        id: String,
        /// How.
        status: CallStatus,
        /// It goes on in the background: the agent's own name for that.
        background: Option<String>,
    },
    /// All open calls have ended, of the session if one is given.
    CallsEnd {
        /// But these.
        except: Vec<String>,
    },
    /// What a call started, or a process, is kept.
    Keep {
        /// For so many seconds.
        ttl: u64,
        /// Why.
        reason: String,
        /// What.
        what: Kept,
    },
}

/// What a lease is for.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub enum Kept {
    /// All that a call started, by the call's id.
    Call(String),
    /// A process, by pid as the sender sees it.
    Process(u32),
}

/// A tool call as it is announced.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct CallStart {
    /// Unique within the agent's run.
    pub id: String,
    /// The tool.
    pub name: Option<String>,
    /// A line for people.
    pub summary: Option<String>,
    /// The text of a shell command, whole.
    pub command: Option<String>,
    /// OpenTelemetry span id, 16 hexadecimal digits.
    pub span: Option<String>,
    /// It is declared background work: the agent's own name for that.
    pub background: Option<String>,
}

/// How a tool call ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub enum CallStatus {
    /// It did what it was asked to.
    #[default]
    Ok,
    /// It failed.
    Error,
    /// It was called off.
    Cancelled,
}

impl CallStatus {
    /// As contracts spell it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Error => "error",
            Self::Cancelled => "cancelled",
        }
    }
}
