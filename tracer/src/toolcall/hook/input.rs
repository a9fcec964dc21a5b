//! What the hooks of agents have in common: the fields of their input, and how a call is told of.

use std::collections::HashMap;

use serde::{Deserialize, de::DeserializeOwned};
use serde_json::value::RawValue;

use crate::{
    lineage::{Background, CallStart, CallStatus, Said, is_id},
    toolcall::message::{MAX_NAME, cut},
};

/// Longest summary, characters: a line.
const SUMMARY: usize = 200;

/// Fields of a tool's input that say in a line what a call is about, best first. Others are not
/// told: nobody knows what is in them.
const TELLING: [&str; 14] = [
    "description",
    "file_path",
    "notebook_path",
    "absolute_path",
    "path",
    "dir_path",
    "url",
    "query",
    "pattern",
    "subject",
    "skill",
    "prompt",
    "name",
    "task_id",
];

/// A hook's input. A field of another type than expected counts as missing, and what is not looked
/// at (a tool's whole output, say) is only skipped.
#[derive(Deserialize)]
pub(super) struct Input<'a> {
    #[serde(borrow)]
    hook_event_name: Option<&'a RawValue>,
    session_id: Option<&'a RawValue>,
    agent_id: Option<&'a RawValue>,
    tool_name: Option<&'a RawValue>,
    tool_use_id: Option<&'a RawValue>,
    tool_input: Option<&'a RawValue>,
    tool_response: Option<&'a RawValue>,
    tool_calls: Option<&'a RawValue>,
    is_interrupt: Option<&'a RawValue>,
    stop_hook_active: Option<&'a RawValue>,
    background_tasks: Option<&'a RawValue>,
}

/// An object whose fields are looked at one by one.
pub(super) struct Object<'a>(HashMap<String, &'a RawValue>);

impl<'a> Object<'a> {
    fn of(raw: Option<&'a RawValue>) -> Self {
        Self(raw.and_then(|raw| serde_json::from_str(raw.get()).ok()).unwrap_or_default())
    }

    pub(super) fn text(&self, name: &str) -> Option<String> {
        value(self.0.get(name).copied())
    }

    pub(super) fn is_true(&self, name: &str) -> bool {
        value(self.0.get(name).copied()).unwrap_or(false)
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.0.get(name).is_some_and(|value| value.get() != "null")
    }
}

fn value<T: DeserializeOwned>(raw: Option<&RawValue>) -> Option<T> {
    serde_json::from_str(raw?.get()).ok()
}

fn objects(raw: Option<&RawValue>) -> Option<Vec<Object<'_>>> {
    let all: Vec<&RawValue> = serde_json::from_str(raw?.get()).ok()?;
    Some(all.into_iter().map(|one| Object::of(Some(one))).collect())
}

impl<'a> Input<'a> {
    pub(super) fn event(&self) -> Option<String> {
        value(self.hook_event_name)
    }

    pub(super) fn session(&self) -> Option<String> {
        value(self.session_id)
    }

    /// Whether a subagent speaks: what the agent does beside it goes on.
    pub(super) fn is_of_subagent(&self) -> bool {
        value::<String>(self.agent_id).is_some()
    }

    pub(super) fn tool(&self) -> Option<String> {
        value(self.tool_name)
    }

    pub(super) fn call_id(&self) -> Option<String> {
        value(self.tool_use_id).filter(|id: &String| is_id(id))
    }

    pub(super) fn tool_input(&self) -> Object<'a> {
        Object::of(self.tool_input)
    }

    /// The tool's input as it was written.
    pub(super) fn raw_tool_input(&self) -> &'a str {
        self.tool_input.map_or("", RawValue::get)
    }

    pub(super) fn tool_response(&self) -> Object<'a> {
        Object::of(self.tool_response)
    }

    pub(super) fn tool_calls(&self) -> Vec<Object<'a>> {
        objects(self.tool_calls).unwrap_or_default()
    }

    pub(super) fn is_interrupt(&self) -> bool {
        value(self.is_interrupt).unwrap_or(false)
    }

    /// Whether the agent only goes on because a hook had it go on: to answer again could go on for
    /// ever.
    pub(super) fn is_stop_hook_active(&self) -> bool {
        value(self.stop_hook_active).unwrap_or(false)
    }

    pub(super) fn background_tasks(&self) -> Vec<Object<'a>> {
        objects(self.background_tasks).unwrap_or_default()
    }

    /// The call that begins here. `shell` says whether the tool gives its `command` to a shell.
    pub(super) fn call_start(
        &self,
        id: String,
        shell: bool,
        background: Option<Background>,
    ) -> Said {
        let input = self.tool_input();
        let command = input.text("command").filter(|_| shell);
        let summary = match &command {
            Some(command) => first_line(command),
            None => TELLING.iter().find_map(|name| first_line(&input.text(name)?)),
        };
        Said::CallStart(CallStart {
            id,
            name: self.tool().map(|name| cut(name, MAX_NAME)),
            summary,
            command,
            span: None,
            background,
        })
    }
}

/// A call that has ended.
pub(super) fn call_end(id: String, status: CallStatus, background: Option<Background>) -> Said {
    Said::CallEnd { id, status, background }
}

/// The end of all that is open in the session.
pub(super) fn calls_end() -> Said {
    Said::CallsEnd { except: Vec::new() }
}

/// Background work of this id, where the agent gave it one.
pub(super) fn task(id: Option<String>) -> Background {
    cut(id.unwrap_or_default(), MAX_NAME).into()
}

/// The first line that says anything, with an ellipsis where there is more.
fn first_line(text: &str) -> Option<String> {
    let text = text.trim();
    let line = text.lines().next().filter(|line| !line.is_empty())?.trim_end();
    let mut short: String = line.chars().take(SUMMARY).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    Some(short)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn started(tool_input: &str, shell: bool) -> CallStart {
        let text = format!(r#"{{"tool_name":"T","tool_input":{tool_input}}}"#);
        let input: Input<'_> = serde_json::from_str(&text).unwrap();
        match input.call_start("a".to_owned(), shell, None) {
            Said::CallStart(start) => start,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn summary_of_a_command_is_its_first_line() {
        let start = started(r#"{"command":"\n  npm run dev  \n","description":"Start it"}"#, true);
        assert_eq!(start.summary.as_deref(), Some("npm run dev"));
        assert_eq!(start.command.as_deref(), Some("\n  npm run dev  \n"));
        let start = started(r#"{"command":"cd x\nmake"}"#, true);
        assert_eq!(start.summary.as_deref(), Some("cd x…"));
        let long = format!(r#"{{"command":"{}"}}"#, "é".repeat(SUMMARY + 1));
        assert_eq!(started(&long, true).summary.unwrap().chars().count(), SUMMARY + 1);
    }

    #[test]
    fn summary_of_another_tool_is_what_it_is_about() {
        let summary = |tool_input| started(tool_input, false).summary;
        assert_eq!(summary(r#"{"content":"x","file_path":"/a/b"}"#).as_deref(), Some("/a/b"));
        assert_eq!(summary(r#"{"url":"https://x/"}"#).as_deref(), Some("https://x/"));
        assert_eq!(summary(r#"{"secret":"x","n":7}"#), None);
        assert_eq!(summary(r#"{"description":"","path":7}"#), None);
        assert_eq!(summary("[1]"), None);
    }

    #[test]
    fn command_of_a_tool_that_is_no_shell_is_not_looked_for() {
        assert_eq!(started(r#"{"command":"*** Begin Patch"}"#, false).command, None);
    }
}
