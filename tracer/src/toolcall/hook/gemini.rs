//! Gemini CLI. Events and fields as of 0.61 (`docs/hooks/reference.md` and
//! `packages/core/src/hooks` of its repository).
//!
//! - `BeforeTool` and `AfterTool`, the latter also where the tool failed, with no id of the call.
//!   Both have the same `tool_name` and `tool_input`, unless another hook changes that; and calls
//!   run side by side. So `BeforeTool` makes an id and leaves it for `AfterTool` to find, by tool
//!   and input ([`OpenCalls`]). Of two calls open at once with the same input, which of them ends
//!   cannot be known: the later one is taken, and both have ended soon.
//! - No `AfterTool` comes when a call is cancelled, or denied by another hook. What is then open
//!   ends with the turn (`AfterAgent`), or before the next one (`BeforeAgent`) where the user ended
//!   it.
//! - `is_background` of the shell declares background work.

use serde_json::{Value, json};

use super::{
    Heard, Occasion,
    input::{Input, call_end, calls_end},
    open_calls::{CallKey, OpenCalls},
};
use crate::lineage::{Background, CallStatus};

/// The tool whose `command` is an argument of a shell.
const SHELL: &str = "run_shell_command";

pub(super) fn read(input: &Input<'_>, open: &mut dyn OpenCalls) -> Heard {
    let session = input.session().unwrap_or_default();
    let tool = input.tool();
    let key = tool.as_deref().map(|tool| CallKey::of(tool, input.raw_tool_input()));
    let background = || input.tool_input().is_true("is_background").then_some(Background::Unnamed);
    match (input.event().as_deref(), key) {
        (Some("BeforeTool"), Some(key)) => {
            let shell = tool.is_some_and(|tool| tool == SHELL);
            let id = open.begin(&session, key);
            Heard::of([input.call_start(id, shell, background())])
        }
        (Some("AfterTool"), Some(key)) => {
            let failed = input.tool_response().has("error");
            let status = if failed { CallStatus::Error } else { CallStatus::Ok };
            let ended = open.end(&session, key).map(|id| call_end(id, status, background()));
            Heard::of(ended).at(Some(Occasion::Call("AfterTool")))
        }
        (Some("AfterAgent"), _) => {
            open.forget(&session);
            let occasion = (!input.is_stop_hook_active()).then_some(Occasion::Stop);
            Heard::of([calls_end()]).at(occasion)
        }
        (Some("BeforeAgent" | "SessionEnd"), _) => {
            open.forget(&session);
            Heard::of([calls_end()])
        }
        _ => Heard::default(),
    }
}

pub(super) fn answer(occasion: Occasion, text: &str) -> Value {
    match occasion {
        Occasion::Stop => json!({"decision": "deny", "reason": text}),
        Occasion::Call(event) => {
            json!({"hookSpecificOutput": {"hookEventName": event, "additionalContext": text}})
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        lineage::Said,
        toolcall::hook::{Agent, open_calls::Fake, read},
    };

    fn heard(open: &mut Fake, fields: &Value) -> Heard {
        let mut all = json!({"session_id": "g1", "transcript_path": "", "cwd": "/w",
            "timestamp": "2026-01-01T00:00:00.000Z"});
        all.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        read(Agent::Gemini, all.to_string().as_bytes(), open).unwrap()
    }

    fn before(open: &mut Fake, command: &str) -> String {
        let heard = heard(
            open,
            &json!({"hook_event_name": "BeforeTool", "tool_name": SHELL,
                "tool_input": {"command": command}}),
        );
        match &heard.said[..] {
            [Said::CallStart(start)] => {
                assert_eq!(start.command.as_deref(), Some(command));
                start.id.clone()
            }
            other => panic!("{other:?}"),
        }
    }

    fn after(open: &mut Fake, command: &str, response: &Value) -> Vec<Said> {
        let event = json!({"hook_event_name": "AfterTool", "tool_name": SHELL,
            "tool_input": {"command": command}, "tool_response": response});
        heard(open, &event).said
    }

    #[test]
    fn call_that_ends_is_the_one_that_began() {
        let open = &mut Fake::default();
        let (make, test) = (before(open, "make"), before(open, "make test"));
        let fine = json!({"llmContent": "x"});
        assert_eq!(after(open, "make", &fine), [call_end(make.clone(), CallStatus::Ok, None)]);
        let again = before(open, "make");
        assert_ne!(again, make);
        let failed = json!({"error": {"message": "x"}});
        assert_eq!(after(open, "make test", &failed), [call_end(test, CallStatus::Error, None)]);
        assert_eq!(after(open, "make", &fine), [call_end(again, CallStatus::Ok, None)]);
        assert_eq!(after(open, "make", &fine), []);
    }

    #[test]
    fn turns_end_what_is_open() {
        for event in ["AfterAgent", "BeforeAgent", "SessionEnd"] {
            let open = &mut Fake::default();
            before(open, "make");
            let end = heard(open, &json!({"hook_event_name": event, "prompt": "x"}));
            assert_eq!(end.said, [calls_end()], "{event}");
            assert_eq!(after(open, "make", &json!({})), [], "{event}");
            let stop = (event == "AfterAgent").then_some(Occasion::Stop);
            assert_eq!(end.occasion, stop, "{event}");
        }
    }

    #[test]
    fn background_is_declared() {
        let open = &mut Fake::default();
        let event = |name: &str| {
            json!({"hook_event_name": name, "tool_name": SHELL,
                "tool_input": {"command": "x", "is_background": true}})
        };
        let start = heard(open, &event("BeforeTool"));
        let [Said::CallStart(start)] = &start.said[..] else { panic!("{start:?}") };
        assert_eq!(start.background, Some(Background::Unnamed));
        let end = heard(open, &event("AfterTool"));
        assert!(matches!(&end.said[..], [Said::CallEnd { background: Some(_), .. }]), "{end:?}");
    }

    #[test]
    fn answers_are_as_gemini_wants_them() {
        let stop = answer(Occasion::Stop, "x");
        assert_eq!(stop.to_string(), r#"{"decision":"deny","reason":"x"}"#);
    }
}
