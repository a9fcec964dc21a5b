//! What is asked, and how it is refused: `tracer.control/1`. See `docs/control.md`.

use serde::{Deserialize, Serialize};

use crate::{
    escape::{json_text, terminal_short},
    lineage::FindingKind,
    toolcall::kill::{Answer, Wants},
};

/// The name of this protocol.
pub const SCHEMA: &str = "tracer.control/1";
/// Longest request, with its line feed, in bytes.
pub const MAX_REQUEST: usize = 4096;
/// Most processes or findings that one answer lists.
pub const MOST_LISTED: usize = 50_000;

/// Longest reason, in characters.
const LONGEST_REASON: usize = 300;

/// A question to the daemon.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Ask {
    /// Runs and their processes.
    Ps {
        /// Only those of this run, or of the nested one of this name.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        invocation: Option<String>,
        /// At most so many processes.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        limit: Option<usize>,
    },
    /// What leaks.
    Leaks {
        /// What leaked at some time within the last so many seconds; else what stands now.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        since_seconds: Option<u64>,
        /// Only those of an agent of this name.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        agent: Option<String>,
        /// Only those of this kind.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        kind: Option<FindingKind>,
        /// Also what is kept.
        #[serde(default)]
        kept: bool,
        /// Only what stands.
        #[serde(default)]
        standing: bool,
        /// At most so many.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        limit: Option<usize>,
    },
    /// Whose a process is, or what listens at a port.
    Blame(Subject),
    /// How a process does.
    Status {
        /// Its pid in the daemon's PID namespace.
        pid: u32,
        /// When it started, in clock ticks, as field 22 of `/proc/PID/stat` has it; else whoever has
        /// that pid now.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        start_ticks: Option<u64>,
        /// When it started, in ns, as the first part of ids in contracts has it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        start: Option<u64>,
    },
    /// To end processes: see `docs/kill.md`.
    Kill(Wants),
    /// News.
    Events {
        /// Also those to come, until the client closes.
        #[serde(default)]
        follow: bool,
        /// Only those of the last so many seconds; else, of a follower, only those to come, and all that
        /// are remembered otherwise.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        since_seconds: Option<u64>,
    },
    /// To be traced for: from the answer on the connection carries frames, see [`crate::tap`].
    Trace {},
}

/// What `blame` is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Subject {
    /// A pid in the daemon's PID namespace.
    Process(u32),
    /// A TCP or UDP port.
    Port(u16),
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Request {
    schema: String,
    ask: Ask,
}

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// This is no request of this protocol.
    Malformed,
    /// The request did not come in time.
    TooSlow,
    /// Too many ask at once.
    Busy,
    /// The asker may not know.
    NotPermitted,
    /// There is no history, or not now.
    NoHistory,
    /// The daemon failed.
    Failed,
}

/// No answer, and why. The reason reads after "failed to".
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Refusal {
    /// For programs.
    pub code: Code,
    /// For people.
    pub reason: String,
}

impl Refusal {
    pub(super) fn new(code: Code, reason: impl Into<String>) -> Self {
        // It may hold what the asker sent.
        Self { code, reason: terminal_short(reason.into().as_bytes(), LONGEST_REASON) }
    }

    /// As it is sent.
    pub(super) fn line(&self) -> String {
        #[derive(Serialize)]
        struct Refused<'a> {
            schema: &'static str,
            error: &'a Refusal,
        }
        line(&Refused { schema: SCHEMA, error: self })
    }

    /// Reads what was sent. `None`: that is an answer.
    #[must_use]
    pub fn of_line(line: &str) -> Option<Self> {
        #[derive(Deserialize)]
        struct Refused {
            schema: String,
            error: Refusal,
        }
        // Only a short line can be one.
        let refused: Refused =
            (line.len() <= MAX_REQUEST).then(|| serde_json::from_str(line).ok())??;
        (refused.schema == SCHEMA).then_some(refused.error)
    }
}

/// What a request to end processes is answered, as it is sent.
#[derive(Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
struct KillAnswer<'a> {
    schema: &'a str,
    kill: Answer,
}

/// The answer to [`Ask::Kill`], as it is sent.
pub(super) fn kill_line(answer: Answer) -> String {
    line(&KillAnswer { schema: SCHEMA, kill: answer })
}

/// Reads the answer to [`Ask::Kill`]. `None`: it is none.
#[must_use]
pub fn kill_answer(line: &str) -> Option<Answer> {
    let answer: KillAnswer<'_> = serde_json::from_str(line).ok()?;
    (answer.schema == SCHEMA).then_some(answer.kill)
}

/// A question as it is sent, ending in a line feed.
#[must_use]
pub fn encode(ask: &Ask) -> String {
    line(&Request { schema: SCHEMA.to_owned(), ask: ask.clone() })
}

/// Reads a question.
pub(super) fn decode(line: &[u8]) -> Result<Ask, Refusal> {
    let wrong = |reason: String| Refusal::new(Code::Malformed, reason);
    let request: Request = serde_json::from_slice(line)
        .map_err(|error| wrong(format!("read the request: {error}")))?;
    let Request { schema, ask } = request;
    if schema != SCHEMA {
        return Err(wrong(format!("read the request: its schema is not {SCHEMA}")));
    }
    Ok(ask)
}

/// An object on one line.
pub(super) fn line(object: &impl Serialize) -> String {
    let json = serde_json::to_string(object).expect("structs with string keys always serialise");
    json_text(&json) + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::toolcall::kill::Target;

    #[test]
    fn requests_are_read_as_they_were_sent() {
        let asks = [
            Ask::Ps { invocation: None, limit: Some(7) },
            Ask::Leaks {
                since_seconds: Some(60),
                agent: Some("a\u{1b}\"".to_owned()),
                kind: Some(FindingKind::OutlivedCall),
                kept: true,
                standing: false,
                limit: None,
            },
            Ask::Blame(Subject::Process(1)),
            Ask::Blame(Subject::Port(65535)),
            Ask::Status { pid: 3, start_ticks: Some(u64::MAX), start: None },
            Ask::Events { follow: true, since_seconds: None },
            Ask::Kill(Wants::Plan { target: Target::Port(80), call: Some("toolu_1".to_owned()) }),
            Ask::Kill(Wants::Show { plan: 3, from: 40 }),
            Ask::Kill(Wants::Act { plan: u64::MAX }),
            Ask::Trace {},
        ];
        for ask in asks {
            let sent = encode(&ask);
            assert!(sent.len() <= MAX_REQUEST && sent.ends_with('\n'));
            assert_eq!(decode(sent.as_bytes()), Ok(ask));
        }
    }

    #[test]
    fn what_is_not_of_this_protocol_is_malformed() {
        for text in [
            "",
            "[]",
            "{}",
            "null",
            "{\"schema\":\"tracer.control/1\"}",
            "{\"schema\":\"tracer.control/2\",\"ask\":{\"ps\":{}}}",
            "{\"schema\":\"tracer.control/1\",\"ask\":{\"ps\":{}},\"more\":1}",
            "{\"schema\":\"tracer.control/1\",\"ask\":{\"ps\":{\"uid\":0}}}",
            "{\"schema\":\"tracer.control/1\",\"ask\":{\"kill\":{}}}",
            "{\"schema\":\"tracer.control/1\",\"ask\":{\"kill\":{\"plan\":{\"target\":{\"process\":-1}}}}}",
            "{\"schema\":\"tracer.control/1\",\"ask\":{\"kill\":{\"act\":{\"plan\":1,\"signal\":9}}}}",
            "{\"schema\":\"tracer.control/1\",\"ask\":{\"status\":{\"pid\":-1}}}",
            "{\"schema\":\"tracer.control/1\",\"ask\":{\"blame\":{\"port\":65536}}}",
            "\u{1b}[2J",
        ] {
            assert_eq!(decode(text.as_bytes()).unwrap_err().code, Code::Malformed, "{text}");
        }
        let deep = "[".repeat(MAX_REQUEST);
        assert_eq!(decode(deep.as_bytes()).unwrap_err().code, Code::Malformed);
    }

    #[test]
    fn refusals_are_told_from_answers() {
        let refusal = Refusal { code: Code::NotPermitted, reason: "tell \u{1b} of it".to_owned() };
        let line = refusal.line();
        assert!(!line.contains('\u{1b}'));
        assert_eq!(Refusal::of_line(&line), Some(refusal));
        assert_eq!(Refusal::of_line("{\"schema\":\"tracer.ps/1\",\"processes\":[]}"), None);
    }
}
