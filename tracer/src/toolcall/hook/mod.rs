//! What the hooks of agents are told, made into messages.
//!
//! An agent runs a hook at each tool call and gives it a JSON object on standard input. Every
//! agent has a file of its own here, which knows its events and fields; what they share is in
//! [`input`]. Whatever is not understood is silently nothing to say: a hook must not be in an
//! agent's way.

mod claude_code;
mod codex;
mod gemini;
mod input;
pub mod install;
mod open_calls;
mod tell;

use serde_json::Value;
use thiserror::Error;

pub use open_calls::{CallKey, OpenCallFiles, OpenCalls, runtime_folder};
pub use tell::sentences;

use super::message::{Body, MAX_NAME, Message, cut};
use crate::lineage::Said;
use input::Input;

/// Longest input, bytes. What a tool returned is part of it, a picture too.
pub const MAX_INPUT: usize = 16 << 20;

/// An agent whose hooks are understood here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Agent {
    /// Claude Code.
    ClaudeCode,
    /// Codex CLI.
    Codex,
    /// Gemini CLI.
    Gemini,
}

impl Agent {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::ClaudeCode, Self::Codex, Self::Gemini];

    /// The name that agent rules and the command line have for it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::ClaudeCode => "claude-code",
            Self::Codex => "codex",
            Self::Gemini => "gemini",
        }
    }

    /// The agent of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|agent| agent.name() == name)
    }
}

/// The input is no JSON object.
#[derive(Debug, Error)]
#[error("understand the hook's input: {0}")]
pub struct InputError(#[from] serde_json::Error);

/// What a hook has to say, and may answer.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Heard {
    /// The agent's session.
    pub session: Option<String>,
    /// What to announce, in order.
    pub said: Vec<Said>,
    /// Where the agent would listen to an answer.
    pub occasion: Option<Occasion>,
}

/// An event at which the agent lets a hook speak to the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Occasion {
    /// The agent is about to end its turn.
    Stop,
    /// A call has ended, by the event of this name.
    Call(&'static str),
}

impl Heard {
    fn of(said: impl IntoIterator<Item = Said>) -> Self {
        Self { said: said.into_iter().collect(), ..Self::default() }
    }

    fn at(self, occasion: Option<Occasion>) -> Self {
        Self { occasion, ..self }
    }

    /// A message that this hook sends for `agent`, at this time (ns of `CLOCK_BOOTTIME`).
    #[must_use]
    pub fn message(&self, agent: Agent, at: u64, body: Body) -> Message {
        Message {
            at: Some(at),
            agent: Some(agent.name().to_owned()),
            pid: None,
            session: self.session.clone(),
            body,
        }
    }
}

/// Understands what a hook of `agent` was given on standard input. `open` knows the calls that are
/// open, for agents that give them no ids.
///
/// # Errors
/// The input is no JSON object.
pub fn read(agent: Agent, input: &[u8], open: &mut dyn OpenCalls) -> Result<Heard, InputError> {
    let input: Input<'_> = serde_json::from_slice(input)?;
    let heard = match agent {
        Agent::ClaudeCode => claude_code::read(&input),
        Agent::Codex => codex::read(&input),
        Agent::Gemini => gemini::read(&input, open),
    };
    let session = input.session().map(|session| cut(session, MAX_NAME));
    Ok(Heard { session, ..heard })
}

/// What a hook prints so that the agent gives this text to the model.
#[must_use]
pub fn answer(agent: Agent, occasion: Occasion, text: &str) -> Value {
    match agent {
        Agent::ClaudeCode => claude_code::answer(occasion, text),
        Agent::Codex => codex::answer(occasion, text),
        Agent::Gemini => gemini::answer(occasion, text),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn input_that_is_no_object_is_an_error_and_any_other_is_not() {
        for agent in Agent::ALL {
            for text in ["", "[]", "7", "\"x\"", "{", "{}x", "null"] {
                assert!(read(agent, text.as_bytes(), &mut open_calls::Fake::default()).is_err());
            }
            for text in [
                "{}",
                r#"{"hook_event_name":7}"#,
                r#"{"hook_event_name":"PreToolUse"}"#,
                r#"{"hook_event_name":"BeforeTool","tool_input":[]}"#,
                r#"{"hook_event_name":"PreToolUse","tool_use_id":{},"tool_name":[]}"#,
                r#"{"hook_event_name":"PreToolUse","tool_use_id":""}"#,
                r#"{"hook_event_name":"SomethingNew","session_id":"s"}"#,
            ] {
                let heard = read(agent, text.as_bytes(), &mut open_calls::Fake::default());
                assert_eq!(heard.unwrap().said, [], "{agent:?}: {text}");
            }
        }
    }

    proptest! {
        #[test]
        fn reading_never_panics(
            bytes: Vec<u8>,
            event in "[A-Z][A-Za-z]{3,18}",
            value in "[{}\\[\\]\":,a-e0-9.]{0,32}",
        ) {
            let fields = format!(r#""tool_input":{value},"tool_calls":{value}"#);
            let text = format!(r#"{{"hook_event_name":"{event}",{fields}}}"#);
            for agent in Agent::ALL {
                let _ = read(agent, &bytes, &mut open_calls::Fake::default());
                let _ = read(agent, text.as_bytes(), &mut open_calls::Fake::default());
            }
        }
    }
}
