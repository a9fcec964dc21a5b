//! Codex CLI. Events and fields as of 0.169 (`codex-rs/hooks/src/schema.rs`).
//!
//! - `PreToolUse` and `PostToolUse` with `tool_use_id`, which is also `CODEX_TOOL_CALL_ID` in the
//!   environment of what a call starts. A shell is the tool `Bash`, `command` its text; the
//!   `command` of `apply_patch` is a patch.
//! - A call that fails, is cancelled, or goes on in the background never gets its `PostToolUse`.
//!   Nothing tells these apart, so all end with the turn: at `Stop`, or at `Interrupt` where the
//!   user ended it.
//! - Hooks of a subagent bear the session of the agent, and an `agent_id`. Whether one goes on
//!   when the main thread stops is not told; its open calls then end too early.

use serde_json::Value;

use super::{
    Heard, Occasion, claude_code,
    input::{Input, call_end, calls_end},
};
use crate::lineage::CallStatus;

/// The tool whose `command` is an argument of a shell.
const SHELL: &str = "Bash";

pub(super) fn read(input: &Input<'_>) -> Heard {
    let id = input.call_id();
    match input.event().as_deref() {
        Some("PreToolUse") => {
            let shell = input.tool().is_some_and(|tool| tool == SHELL);
            Heard::of(id.map(|id| input.call_start(id, shell, None)))
        }
        Some("PostToolUse") => {
            let occasion = (!input.is_of_subagent()).then_some(Occasion::Call("PostToolUse"));
            Heard::of(id.map(|id| call_end(id, CallStatus::Ok, None))).at(occasion)
        }
        Some("Stop") => {
            let occasion = (!input.is_stop_hook_active()).then_some(Occasion::Stop);
            Heard::of([calls_end()]).at(occasion)
        }
        Some("Interrupt" | "SessionEnd") => Heard::of([calls_end()]),
        _ => Heard::default(),
    }
}

/// Codex took its answers over from Claude Code.
pub(super) fn answer(occasion: Occasion, text: &str) -> Value {
    claude_code::answer(occasion, text)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{
        lineage::Said,
        toolcall::hook::{Agent, open_calls::Fake, read},
    };

    fn heard(fields: &Value) -> Heard {
        let mut all = json!({"session_id": "0199", "turn_id": "t", "cwd": "/w", "model": "m",
            "transcript_path": null, "permission_mode": "default"});
        all.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        read(Agent::Codex, all.to_string().as_bytes(), &mut Fake::default()).unwrap()
    }

    fn tool(event: &str, name: &str) -> Heard {
        heard(&json!({"hook_event_name": event, "tool_name": name, "tool_use_id": "call_1",
            "tool_input": {"command": "make"}, "tool_response": "done"}))
    }

    #[test]
    fn call_begins_and_ends() {
        let start = tool("PreToolUse", "Bash");
        let [Said::CallStart(call)] = &start.said[..] else { panic!("{start:?}") };
        assert_eq!((call.id.as_str(), call.command.as_deref()), ("call_1", Some("make")));
        assert_eq!(start.session.as_deref(), Some("0199"));
        let end = tool("PostToolUse", "Bash");
        assert_eq!(end.said, [call_end("call_1".to_owned(), CallStatus::Ok, None)]);
        assert_eq!(end.occasion, Some(Occasion::Call("PostToolUse")));
    }

    #[test]
    fn patch_is_no_shell_command() {
        let start = tool("PreToolUse", "apply_patch");
        let [Said::CallStart(call)] = &start.said[..] else { panic!("{start:?}") };
        assert_eq!((call.command.as_deref(), call.summary.as_deref()), (None, None));
    }

    #[test]
    fn everything_ends_with_the_turn() {
        for event in ["Stop", "Interrupt", "SessionEnd"] {
            let end = heard(&json!({"hook_event_name": event, "stop_hook_active": false}));
            assert_eq!(end.said, [calls_end()], "{event}");
            assert_eq!(end.occasion, (event == "Stop").then_some(Occasion::Stop), "{event}");
        }
        let again = heard(&json!({"hook_event_name": "Stop", "stop_hook_active": true}));
        assert_eq!((again.said, again.occasion), (vec![calls_end()], None));
    }
}
