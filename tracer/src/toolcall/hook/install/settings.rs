//! Hooks in settings of JSON: `{"hooks": {EVENT: [{"hooks": [{"type": "command", ...}]}]}}`, as
//! Claude Code, Codex and Gemini CLI have them alike. Whatever else is there stays, in its order.

use serde::Serialize as _;
use serde_json::{Map, Value, json, ser::PrettyFormatter};
use thiserror::Error;

use crate::toolcall::hook::Agent;

/// What Claude Code is asked to run hooks at.
const CLAUDE_CODE: [&str; 7] = [
    "PreToolUse",
    "PermissionDenied",
    "PostToolUse",
    "PostToolUseFailure",
    "PostToolBatch",
    "Stop",
    "SessionEnd",
];
/// The same for a version before 2.1.101, which would refuse its whole settings for an event that
/// it does not know.
const OLD_CLAUDE_CODE: [&str; 4] = ["PreToolUse", "PostToolUse", "Stop", "SessionEnd"];
/// Codex passes over events that it does not know.
const CODEX: [&str; 5] = ["PreToolUse", "PostToolUse", "Stop", "Interrupt", "SessionEnd"];
/// Gemini CLI warns of events that it does not know; it has had these since it has hooks.
const GEMINI: [&str; 5] = ["BeforeTool", "AfterTool", "BeforeAgent", "AfterAgent", "SessionEnd"];

/// Longest run of a hook, seconds, before the agent gives it up. It takes milliseconds.
const TIMEOUT: u64 = 5;

/// Hooks for an agent.
#[derive(Clone, Debug)]
pub struct Hooks {
    pub(super) agent: Agent,
    command: String,
    events: &'static [&'static str],
}

impl Hooks {
    /// Hooks that run this command line. `old` leaves out the events that old versions of the agent
    /// refuse.
    #[must_use]
    pub fn new(agent: Agent, command: String, old: bool) -> Self {
        let events: &[&str] = match agent {
            Agent::ClaudeCode if old => &OLD_CLAUDE_CODE,
            Agent::ClaudeCode => &CLAUDE_CODE,
            Agent::Codex => &CODEX,
            Agent::Gemini => &GEMINI,
        };
        Self { agent, command, events }
    }

    fn entry(&self) -> Value {
        let timeout = match self.agent {
            Agent::ClaudeCode | Agent::Codex => TIMEOUT,
            // Milliseconds there.
            Agent::Gemini => TIMEOUT * 1000,
        };
        json!({"hooks": [{"type": "command", "command": self.command, "timeout": timeout}]})
    }
}

/// Why settings cannot be changed.
#[derive(Debug, Error)]
pub enum SettingsError {
    /// No JSON, or JSON with comments, which would be lost.
    #[error("it is not JSON without comments ({0})")]
    Json(serde_json::Error),
    /// Another type stands where hooks belong.
    #[error("{0} is not {1} in it")]
    Shape(String, &'static str),
}

/// Settings, and how they were laid out.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    root: Map<String, Value>,
    /// Of each level; none where all stands on one line.
    indent: Option<String>,
    newline: bool,
}

/// Of a new file.
impl Default for Settings {
    fn default() -> Self {
        Self { root: Map::new(), indent: Some("  ".to_owned()), newline: true }
    }
}

/// By what they say, in their order.
impl PartialEq for Settings {
    fn eq(&self, other: &Self) -> bool {
        // Maps compare without order.
        serde_json::to_string(&self.root).ok() == serde_json::to_string(&other.root).ok()
    }
}

impl Settings {
    /// Reads a file. An empty one is like one with an empty object.
    pub(super) fn parse(content: &[u8]) -> Result<Self, SettingsError> {
        let text = String::from_utf8_lossy(content);
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        let root = serde_json::from_slice(content).map_err(SettingsError::Json)?;
        let Value::Object(root) = root else { return Err(shape("the whole", "an object")) };
        let on_one_line = !root.is_empty() && !text.trim().contains('\n');
        let indent = (!on_one_line).then(|| indent_of(&text));
        Ok(Self { root, indent, newline: text.ends_with('\n') })
    }

    /// As text, laid out as it was.
    pub(super) fn render(&self) -> String {
        let mut out = Vec::new();
        let written = match &self.indent {
            Some(indent) => {
                let formatter = PrettyFormatter::with_indent(indent.as_bytes());
                let mut out = serde_json::Serializer::with_formatter(&mut out, formatter);
                self.root.serialize(&mut out)
            }
            None => serde_json::to_writer(&mut out, &self.root),
        };
        written.expect("JSON that was read can be written");
        if self.newline {
            out.push(b'\n');
        }
        String::from_utf8(out).expect("JSON is written as UTF-8")
    }

    /// Whether nothing is in them.
    pub(super) fn is_empty(&self) -> bool {
        self.root.is_empty()
    }

    /// Whether an agent's hooks are in them.
    pub(super) fn has(&self, agent: Agent) -> bool {
        let mut without = self.clone();
        without.remove(agent);
        without != *self
    }

    /// Whether they say the same as others, places for hooks without any aside.
    pub(super) fn says_the_same_as(&self, other: &Self) -> bool {
        let (mut one, mut two) = (self.clone(), other.clone());
        one.remove_empty_places();
        two.remove_empty_places();
        one == two
    }

    /// Puts the hooks in. Hooks of an earlier installation are kept where they are, and run the
    /// new command.
    pub(super) fn add(&mut self, hooks: &Hooks) -> Result<(), SettingsError> {
        let Hooks { agent, command, events } = hooks;
        self.remove_where(|event, hook| is_of(hook, *agent) && !events.contains(&event));
        let all = self.root.entry("hooks").or_insert_with(|| Value::Object(Map::new()));
        let all = all.as_object_mut().ok_or_else(|| shape("\"hooks\"", "an object"))?;
        for &event in *events {
            let groups = all.entry(event).or_insert_with(|| Value::Array(Vec::new()));
            let wrong = || shape(&format!("\"hooks.{event}\""), "an array");
            let groups = groups.as_array_mut().ok_or_else(wrong)?;
            let own = hooks_of(groups).find(|hook| is_of(hook, *agent));
            match own {
                Some(hook) => hook["command"] = command.as_str().into(),
                None => groups.push(hooks.entry()),
            }
        }
        self.remove_repeated(*agent);
        Ok(())
    }

    /// Takes an agent's hooks out.
    pub(super) fn remove(&mut self, agent: Agent) {
        self.remove_where(|_, hook| is_of(hook, agent));
    }

    /// Of more than one hook of an agent at an event, the first stays.
    fn remove_repeated(&mut self, agent: Agent) {
        let mut seen: Vec<String> = Vec::new();
        self.remove_where(|event, hook| {
            let own = is_of(hook, agent);
            let again = own && seen.iter().any(|one| one == event);
            if own && !again {
                seen.push(event.to_owned());
            }
            again
        });
    }

    /// Takes out the hooks that `which` (of the event and the hook) says, and what holds nothing
    /// else then.
    fn remove_where(&mut self, mut which: impl FnMut(&str, &Value) -> bool) {
        let Some(Value::Object(all)) = self.root.get_mut("hooks") else { return };
        let mut emptied = false;
        all.retain(|event, groups| {
            let Value::Array(groups) = groups else { return true };
            let count = groups.len();
            groups.retain_mut(|group| {
                let Some(Value::Array(hooks)) = group.get_mut("hooks") else { return true };
                let count = hooks.len();
                hooks.retain(|hook| !which(event, hook));
                hooks.len() == count || !hooks.is_empty()
            });
            let stays = groups.len() == count || !groups.is_empty();
            emptied |= !stays;
            stays
        });
        if emptied && all.is_empty() {
            self.root.shift_remove("hooks");
        }
    }

    fn remove_empty_places(&mut self) {
        let Some(Value::Object(all)) = self.root.get_mut("hooks") else { return };
        all.retain(|_, groups| groups.as_array().is_none_or(|groups| !groups.is_empty()));
        if all.is_empty() {
            self.root.shift_remove("hooks");
        }
    }
}

fn shape(what: &str, wanted: &'static str) -> SettingsError {
    SettingsError::Shape(what.to_owned(), wanted)
}

fn hooks_of(groups: &mut [Value]) -> impl Iterator<Item = &mut Value> {
    let hooks = groups.iter_mut().filter_map(|group| group.get_mut("hooks")?.as_array_mut());
    hooks.flatten()
}

/// Whether a hook is tracer's for this agent, whichever installation of tracer it is, and nothing
/// more than that.
fn is_of(hook: &Value, agent: Agent) -> bool {
    let words = hook.get("command").and_then(Value::as_str).and_then(shlex::split);
    let Some([program, hook, name, options @ ..]) = words.as_deref() else { return false };
    let program = program.rsplit('/').next().unwrap_or_default();
    program.contains("tracer")
        && hook == "hook"
        && name == agent.name()
        && options.iter().all(|option| option.starts_with("--"))
}

/// What the first indented line begins with.
fn indent_of(text: &str) -> String {
    let mut indents = text.lines().map(|line| &line[..line.len() - line.trim_start().len()]);
    indents.find(|indent| !indent.is_empty()).unwrap_or("  ").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hooks(command: &str) -> Hooks {
        Hooks::new(Agent::ClaudeCode, command.to_owned(), true)
    }

    fn parsed(text: &str) -> Settings {
        Settings::parse(text.as_bytes()).unwrap()
    }

    fn added(text: &str, command: &str) -> Settings {
        let mut settings = parsed(text);
        settings.add(&hooks(command)).unwrap();
        settings
    }

    #[test]
    fn hooks_are_put_into_an_empty_file() {
        let expected = r#"{
  "hooks": {
    "PreToolUse": [
      {
        "hooks": [
          {
            "type": "command",
            "command": "/bin/tracer hook claude-code",
            "timeout": 5
          }
        ]
      }
    ],
"#;
        for text in ["", " \n", "{}", "{}\n"] {
            let rendered = added(text, "/bin/tracer hook claude-code").render();
            assert!(rendered.starts_with(expected), "{text:?}: {rendered}");
            assert_eq!(rendered.ends_with("}\n"), text != "{}", "{text:?}");
        }
    }

    #[test]
    fn what_is_there_stays_in_its_order_and_layout() {
        let text = "{\n\t\"z\": 1.5,\n\t\"hooks\": {\n\t\t\"Stop\": [\n\t\t\t{\n\t\t\t\t\"hooks\": []\n\
                    \t\t\t}\n\t\t]\n\t},\n\t\"a\": [\n\t\tnull\n\t]\n}";
        let settings = added(text, "tracer hook claude-code");
        let rendered = settings.render();
        assert!(rendered.starts_with("{\n\t\"z\": 1.5,\n\t\"hooks\": {\n\t\t\"Stop\": ["));
        assert!(rendered.ends_with("\n\t\"a\": [\n\t\tnull\n\t]\n}"), "{rendered}");
        let mut again = settings.clone();
        again.remove(Agent::ClaudeCode);
        assert_eq!(again.render(), text);
        let line = r#"{"b":1,"a":{}}"#;
        let rendered = added(line, "tracer hook claude-code").render();
        assert!(rendered.starts_with(r#"{"b":1,"a":{},"hooks":{"PreToolUse":[{"#), "{rendered}");
        assert!(!rendered.contains('\n'));
    }

    #[test]
    fn installing_again_changes_only_the_command() {
        let first = added("{\"a\": 1}\n", "'/old place/tracer' hook claude-code");
        let mut second = first.clone();
        second.add(&hooks("'/old place/tracer' hook claude-code")).unwrap();
        assert_eq!(first, second);
        second.add(&hooks("/new/tracer hook claude-code --tell-agent")).unwrap();
        let moved = first.render().replace(
            "'/old place/tracer' hook claude-code",
            "/new/tracer hook claude-code --tell-agent",
        );
        assert_eq!(second.render(), moved);
    }

    #[test]
    fn what_the_user_made_of_a_hook_stays() {
        let text = r#"{"hooks":{"PreToolUse":[{"matcher":"Bash","hooks":[{"type":"command","command":"mine"},
            {"type":"command","command":"/a/tracer hook claude-code","timeout":9},
            {"type":"command","command":"/b/tracer hook claude-code"}]}]}}"#;
        let settings = added(text, "/c/tracer hook claude-code");
        let groups = &settings.root["hooks"]["PreToolUse"];
        let expected = json!([{"matcher": "Bash", "hooks": [{"type": "command", "command": "mine"},
            {"type": "command", "command": "/c/tracer hook claude-code", "timeout": 9}]}]);
        assert_eq!(groups, &expected);
    }

    #[test]
    fn hooks_of_others_are_not_touched() {
        for command in [
            "tracer hook codex",
            "/usr/bin/strace hook claude-code",
            "tracer hook claude-code; echo",
            "tracer hook claude-code --tell-agent && echo",
            "tracer",
            "env tracer hook claude-code",
        ] {
            let text = json!({"hooks": {"Stop": [{"hooks": [{"command": command}]}]}}).to_string();
            assert!(!parsed(&text).has(Agent::ClaudeCode), "{command}");
            let mut settings = added(&text, "tracer hook claude-code");
            settings.remove(Agent::ClaudeCode);
            assert_eq!(settings, parsed(&text), "{command}");
        }
    }

    #[test]
    fn removing_takes_back_what_was_added_since_too() {
        let mut settings = added(r#"{"a": 1}"#, "tracer hook claude-code");
        settings.root.insert("b".to_owned(), 2.into());
        let other = json!({"hooks": [{"type": "command", "command": "mine"}]});
        settings.root["hooks"]["Stop"].as_array_mut().unwrap().push(other.clone());
        settings.remove(Agent::ClaudeCode);
        let left = json!({"a": 1, "hooks": {"Stop": [other]}, "b": 2});
        assert_eq!(Value::Object(settings.root), left);
    }

    #[test]
    fn events_that_are_not_wanted_any_more_are_removed() {
        let mut settings = parsed("{}");
        let all = Hooks::new(Agent::ClaudeCode, "tracer hook claude-code".to_owned(), false);
        settings.add(&all).unwrap();
        assert_eq!(settings.root["hooks"].as_object().unwrap().len(), CLAUDE_CODE.len());
        settings.add(&hooks("tracer hook claude-code")).unwrap();
        assert_eq!(settings.root["hooks"].as_object().unwrap().len(), OLD_CLAUDE_CODE.len());
    }

    #[test]
    fn places_without_hooks_make_no_difference() {
        let bare = parsed(r#"{"a":1}"#);
        for text in [r#"{"a":1,"hooks":{}}"#, r#"{"a":1,"hooks":{"Stop":[]}}"#] {
            assert!(parsed(text).says_the_same_as(&bare));
            assert_ne!(parsed(text), bare);
        }
        assert!(!parsed(r#"{"a":2}"#).says_the_same_as(&bare));
        assert_ne!(parsed(r#"{"a":1,"b":1}"#), parsed(r#"{"b":1,"a":1}"#));
    }

    #[test]
    fn what_cannot_be_changed_is_refused() {
        for text in ["// mine\n{}", "{\"a\": 1,}", "[]", "7", "{", "\u{feff}{}"] {
            assert!(Settings::parse(text.as_bytes()).is_err(), "{text}");
        }
        for text in [r#"{"hooks":[]}"#, r#"{"hooks":{"Stop":{}}}"#, r#"{"hooks":null}"#] {
            let refused = parsed(text).add(&hooks("tracer hook claude-code"));
            assert!(matches!(refused, Err(SettingsError::Shape(..))), "{text}");
        }
    }
}
