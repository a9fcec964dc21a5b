//! What an agent, a hook or a library says about tool calls: see `docs/announcements.md`.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::model::Nanos;

/// Longest id of a call, bytes. A longer one is none.
pub const MAX_ID: usize = 128;

/// Longest command of a call that is kept whole, bytes: no arguments are taken whole that are longer, so
/// that a longer one is carried by none.
pub const MAX_COMMAND: usize = tracer_common::MAX_ARGS;

/// Whether a text can be a call's id.
#[must_use]
pub fn is_id(text: &str) -> bool {
    (1..=MAX_ID).contains(&text.len())
}

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
    /// The next fork of a thread is this call's.
    Spawn {
        /// The call.
        id: String,
        /// The thread, as the sender sees it.
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
        /// Whether what it leaves is meant to run on.
        background: Option<Background>,
    },
    /// Every open call of the agent, or of the announcement's session, has ended.
    CallsEnd {
        /// But these.
        except: Vec<String>,
    },
    /// A lease: this is kept for a time.
    Keep {
        /// For how long, seconds.
        ttl: u64,
        /// Why.
        reason: String,
        /// What.
        what: KeptByLease,
    },
}

/// What a lease is for.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub enum KeptByLease {
    /// What this call started.
    Call(String),
    /// This process, by pid as the sender sees it.
    Process(u32),
}

/// A tool call that begins.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct CallStart {
    /// Unique within the agent's run.
    pub id: String,
    /// The tool's name.
    pub name: Option<String>,
    /// A line for people.
    pub summary: Option<String>,
    /// Text of a shell command, whole, as it will stand in the shell's arguments. Of one longer than
    /// [`MAX_COMMAND`] the beginning, with a mark behind it that keeps it from being found in any.
    pub command: Option<String>,
    /// The OpenTelemetry span of this call.
    pub span: Option<SpanId>,
    /// Whether what it leaves is meant to run on.
    pub background: Option<Background>,
}

/// Declared background work. Recordings have its name, which is empty where it has none.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(from = "String", into = "String")]
pub enum Background {
    /// Without an id of its own.
    Unnamed,
    /// The agent's own id of the background task.
    Task(String),
}

impl From<String> for Background {
    fn from(name: String) -> Self {
        if name.is_empty() { Self::Unnamed } else { Self::Task(name) }
    }
}

impl From<Background> for String {
    fn from(background: Background) -> Self {
        match background {
            Background::Unnamed => Self::new(),
            Background::Task(id) => id,
        }
    }
}

/// A span of W3C Trace Context (section 3.2.2.4, `parent-id`): never zero. Recordings have it as it
/// is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct SpanId(u64);

impl SpanId {
    /// Parses 16 hexadecimal digits.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let hexadecimal = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let number = u64::from_str_radix(text, 16).ok().filter(|_| hexadecimal)?;
        (number != 0).then_some(Self(number))
    }
}

impl fmt::Display for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl TryFrom<String> for SpanId {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(&text).ok_or("not the id of a span")
    }
}

impl From<SpanId> for String {
    fn from(span: SpanId) -> Self {
        span.to_string()
    }
}

/// How a tool call ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub enum CallStatus {
    /// It did what it should; also where nothing is said.
    #[default]
    Ok,
    /// It failed.
    Error,
    /// It was cancelled, or never began.
    Cancelled,
}

impl CallStatus {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Ok, Self::Error, Self::Cancelled];

    /// The status that contracts spell so.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == name)
    }

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recordings_have_spans_and_background_as_text() {
        let recorded = |background, text: &str| {
            let id = "a".to_owned();
            let span = SpanId::parse("00f067aa0ba902b7");
            let said = Said::CallStart(CallStart { id, span, background, ..CallStart::default() });
            let json = format!(
                r#"{{"CallStart":{{"id":"a","name":null,"summary":null,"command":null,"span":"00f067aa0ba902b7","background":{text}}}}}"#
            );
            assert_eq!(serde_json::to_string(&said).unwrap(), json);
            assert_eq!(serde_json::from_str::<Said>(&json).unwrap(), said);
        };
        recorded(None, "null");
        recorded(Some(Background::Unnamed), r#""""#);
        recorded(Some(Background::Task("b1".to_owned())), r#""b1""#);
    }
}
