//! Claude Code. Events and fields as of 2.1.330 (the schemas in its binary and `sdk-tools.d.ts`),
//! seen from 2.1.197 on.
//!
//! - `PreToolUse`, then `PostToolUse` or `PostToolUseFailure`, all with `tool_use_id`. Neither of
//!   the latter comes when a call is cancelled or denied (`PermissionDenied` is for what a
//!   classifier denies only). `PostToolBatch` comes after them and lists every call of a batch
//!   once all are over, with the text that the model gets of each.
//! - Hooks of a subagent's calls bear the session of the agent, and an `agent_id`. Subagents may
//!   run in the background, beside the main thread and past its `Stop`.
//! - `Stop` lists `background_tasks`, by ids of their own: those that `PostToolUse` told as
//!   `backgroundTaskId`. There is nothing in it that leads to a call.

use serde_json::{Value, json};

use super::{
    Heard, Occasion,
    input::{Input, Object, call_end, calls_end, task},
};
use crate::lineage::{Background, CallStatus, Said, is_id};

/// Tools whose `command` is an argument of a shell.
const SHELLS: [&str; 3] = ["Bash", "Monitor", "PowerShell"];
/// The tool that watches what a command prints, in the background, and returns at once.
const MONITOR: &str = "Monitor";
/// Kinds of background tasks whose calls have returned; others (`subagent`, `workflow`) go on
/// calling tools.
const RETURNED: [&str; 2] = ["shell", "monitor"];

pub(super) fn read(input: &Input<'_>) -> Heard {
    match input.event().as_deref() {
        Some("PreToolUse") => start(input),
        Some("PostToolUse") => {
            let interrupted = input.tool_response().is_true("interrupted");
            let status = if interrupted { CallStatus::Cancelled } else { CallStatus::Ok };
            end(input, status, background(input)).at(call(input, "PostToolUse"))
        }
        Some("PostToolUseFailure") => {
            let status =
                if input.is_interrupt() { CallStatus::Cancelled } else { CallStatus::Error };
            end(input, status, None).at(call(input, "PostToolUseFailure"))
        }
        Some("PermissionDenied") => end(input, CallStatus::Cancelled, None),
        Some("PostToolBatch") => Heard::of(input.tool_calls().iter().filter_map(end_of_batch)),
        Some("Stop") => stop(input),
        Some("SessionEnd") => Heard::of([calls_end()]),
        _ => Heard::default(),
    }
}

pub(super) fn answer(occasion: Occasion, text: &str) -> Value {
    match occasion {
        Occasion::Stop => json!({"decision": "block", "reason": text}),
        Occasion::Call(event) => {
            json!({"hookSpecificOutput": {"hookEventName": event, "additionalContext": text}})
        }
    }
}

fn start(input: &Input<'_>) -> Heard {
    let Some(id) = input.call_id() else { return Heard::default() };
    let shell = input.tool().is_some_and(|tool| SHELLS.contains(&&*tool));
    Heard::of([input.call_start(id, shell, declared(input))])
}

fn end(input: &Input<'_>, status: CallStatus, background: Option<Background>) -> Heard {
    Heard::of(input.call_id().map(|id| call_end(id, status, background)))
}

/// The main thread only: a subagent cannot answer for what others left.
fn call(input: &Input<'_>, event: &'static str) -> Option<Occasion> {
    (!input.is_of_subagent()).then_some(Occasion::Call(event))
}

/// What was asked to run in the background.
fn declared(input: &Input<'_>) -> Option<Background> {
    let monitors = input.tool().is_some_and(|tool| tool == MONITOR);
    let asked = monitors || input.tool_input().is_true("run_in_background");
    asked.then_some(Background::Unnamed)
}

/// What runs in the background now: as it was asked, or sent there by the user or by a timeout.
fn background(input: &Input<'_>) -> Option<Background> {
    let response = input.tool_response();
    if let Some(id) = response.text("backgroundTaskId") {
        return Some(task(Some(id)));
    }
    declared(input).map(|_| task(response.text("taskId")))
}

/// A call that is over. One that has not ended by now, as told by another hook, never will: a call
/// ends once, and how is what was said first.
fn end_of_batch(one: &Object<'_>) -> Option<Said> {
    let id = one.text("tool_use_id").filter(|id| is_id(id))?;
    Some(call_end(id, CallStatus::Cancelled, None))
}

fn stop(input: &Input<'_>) -> Heard {
    let occasion = (!input.is_stop_hook_active()).then_some(Occasion::Stop);
    let calls = |one: &Object<'_>| {
        one.text("type").is_none_or(|kind| !RETURNED.contains(&&*kind.to_ascii_lowercase()))
    };
    // Which calls are whose is not told, so none ends here while others than the main thread call.
    let others = input.is_of_subagent() || input.background_tasks().iter().any(calls);
    Heard::of((!others).then(calls_end)).at(occasion)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        lineage::CallStart,
        toolcall::hook::{Agent, open_calls::Fake, read},
    };

    fn heard(fields: &Value) -> Heard {
        let mut all = json!({
            "session_id": "6f2c", "transcript_path": "/t.jsonl", "cwd": "/w", "prompt_id": "p",
            "permission_mode": "default",
        });
        all.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        read(Agent::ClaudeCode, all.to_string().as_bytes(), &mut Fake::default()).unwrap()
    }

    fn ended(status: CallStatus, background: Option<Background>) -> Vec<Said> {
        vec![call_end("toolu_1".to_owned(), status, background)]
    }

    fn bash(event: &str, tool_input: &Value, more: &Value) -> Heard {
        let mut fields = json!({"hook_event_name": event, "tool_name": "Bash",
            "tool_input": tool_input, "tool_use_id": "toolu_1"});
        fields.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        heard(&fields)
    }

    #[test]
    fn call_of_a_shell_begins_with_its_whole_command() {
        let command = "npm run dev &\nsleep 1";
        let heard =
            bash("PreToolUse", &json!({"command": command, "description": "Start"}), &json!({}));
        let start = CallStart {
            id: "toolu_1".to_owned(),
            name: Some("Bash".to_owned()),
            summary: Some("npm run dev &…".to_owned()),
            command: Some(command.to_owned()),
            span: None,
            background: None,
        };
        let said = vec![Said::CallStart(start)];
        assert_eq!(heard, Heard { session: Some("6f2c".to_owned()), said, occasion: None });
    }

    #[test]
    fn background_is_declared_from_the_start() {
        let heard =
            bash("PreToolUse", &json!({"command": "x", "run_in_background": true}), &json!({}));
        let [Said::CallStart(start)] = &heard.said[..] else { panic!("{heard:?}") };
        assert_eq!(start.background, Some(Background::Unnamed));
    }

    #[test]
    fn call_ends_as_it_is_told() {
        let input = json!({"command": "x"});
        let ok = bash(
            "PostToolUse",
            &input,
            &json!({"tool_response": {"stdout": "", "interrupted": false}}),
        );
        assert_eq!(ok.said, ended(CallStatus::Ok, None));
        assert_eq!(ok.occasion, Some(Occasion::Call("PostToolUse")));
        let interrupted =
            bash("PostToolUse", &input, &json!({"tool_response": {"interrupted": true}}));
        assert_eq!(interrupted.said, ended(CallStatus::Cancelled, None));
        let failed = bash("PostToolUseFailure", &input, &json!({"error": "exit 1"}));
        assert_eq!(failed.said, ended(CallStatus::Error, None));
        let cancelled =
            bash("PostToolUseFailure", &input, &json!({"error": "", "is_interrupt": true}));
        assert_eq!(cancelled.said, ended(CallStatus::Cancelled, None));
        let denied = bash("PermissionDenied", &input, &json!({"reason": "no"}));
        assert_eq!(denied.said, ended(CallStatus::Cancelled, None));
        assert_eq!(denied.occasion, None);
    }

    #[test]
    fn background_work_is_declared_when_its_call_returns() {
        let named = bash(
            "PostToolUse",
            &json!({"command": "x"}),
            &json!({"tool_response": {"backgroundTaskId": "b7"}}),
        );
        assert_eq!(named.said, ended(CallStatus::Ok, Some(Background::Task("b7".to_owned()))));
        let unnamed = bash(
            "PostToolUse",
            &json!({"command": "x", "run_in_background": true}),
            &json!({"tool_response": "started"}),
        );
        assert_eq!(unnamed.said, ended(CallStatus::Ok, Some(Background::Unnamed)));
        let monitor = heard(&json!({"hook_event_name": "PostToolUse", "tool_name": "Monitor",
            "tool_input": {"command": "tail -f x"}, "tool_use_id": "toolu_1",
            "tool_response": {"taskId": "m1", "timeoutMs": 0}}));
        assert_eq!(monitor.said, ended(CallStatus::Ok, Some(Background::Task("m1".to_owned()))));
    }

    #[test]
    fn every_call_of_a_batch_is_over() {
        let heard = heard(&json!({"hook_event_name": "PostToolBatch", "tool_calls": [
            {"tool_name": "Bash", "tool_input": {}, "tool_use_id": "a", "tool_response": "x"},
            {"tool_name": "Bash", "tool_input": {}, "tool_use_id": "b"},
            {"tool_name": "Bash"}, 7,
        ]}));
        let ended = ["a", "b"].map(|id| call_end(id.to_owned(), CallStatus::Cancelled, None));
        assert_eq!(heard.said, ended);
    }

    #[test]
    fn stop_ends_what_is_open_unless_a_subagent_goes_on() {
        let stop = |tasks: Value| {
            heard(&json!({"hook_event_name": "Stop", "stop_hook_active": false,
                "background_tasks": tasks}))
        };
        let shell = json!({"id": "b7", "type": "shell", "status": "running", "command": "x"});
        let subagent = json!({"id": "a1", "type": "subagent", "status": "running"});
        assert_eq!(stop(json!([])).said, [calls_end()]);
        assert_eq!(stop(json!([shell])).said, [calls_end()]);
        assert_eq!(stop(json!([shell, subagent])).said, []);
        assert_eq!(stop(Value::Null).said, [calls_end()]);
        assert_eq!(stop(json!([])).occasion, Some(Occasion::Stop));
        let end = heard(&json!({"hook_event_name": "SessionEnd", "reason": "other"}));
        assert_eq!(end.said, [calls_end()]);
    }

    #[test]
    fn nothing_is_answered_twice_in_a_row_nor_to_a_subagent() {
        let again = heard(&json!({"hook_event_name": "Stop", "stop_hook_active": true}));
        assert_eq!(again.occasion, None);
        let subagent = bash("PostToolUse", &json!({}), &json!({"agent_id": "a1"}));
        assert_eq!(subagent.occasion, None);
        let end = heard(&json!({"hook_event_name": "SubagentStop", "agent_id": "a1"}));
        assert_eq!((end.said, end.occasion), (vec![], None));
    }

    #[test]
    fn answers_are_as_claude_code_wants_them() {
        let stop = answer(Occasion::Stop, "x");
        assert_eq!(stop.to_string(), r#"{"decision":"block","reason":"x"}"#);
        let call = answer(Occasion::Call("PostToolUse"), "x");
        assert_eq!(
            call.to_string(),
            r#"{"hookSpecificOutput":{"hookEventName":"PostToolUse","additionalContext":"x"}}"#
        );
    }
}
