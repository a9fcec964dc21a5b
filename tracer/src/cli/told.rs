//! What the daemon tells of processes, as far as people are shown it: the parts of `tracer.ps/1`.

use serde::Deserialize;

use crate::{
    escape::{label, terminal_short},
    report::duration,
};

/// Longest command line, in characters.
const COMMAND: usize = 100;
/// Longest word of an agent's or a tool's, in characters.
const WORD: usize = 40;

/// `tracer.ps/1`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Ps {
    pub(super) runs: Vec<Run>,
    pub(super) total: u64,
    pub(super) processes: Vec<Told>,
}

/// A run.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Run {
    pub(super) id: String,
    pub(super) agent: Option<String>,
    pub(super) uncertain: Option<bool>,
}

/// A process.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Told {
    pub(super) id: String,
    pub(super) run: String,
    /// The nearest agent's, which may be nested in the run's.
    pub(super) invocation: Option<String>,
    pub(super) agent: Option<String>,
    pub(super) state: String,
    pub(super) seconds: f64,
    pub(super) forker: Option<String>,
    pub(super) process: Process,
    pub(super) exit: Option<serde_json::Value>,
    pub(super) tool_call: Option<Call>,
    pub(super) kept_by: Option<String>,
    pub(super) findings: Vec<Found>,
}

/// How it is called.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Process {
    pub(super) pid: u32,
    pub(super) name: String,
    pub(super) args: Vec<String>,
}

/// Whose call it is.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Call {
    pub(super) id: Option<String>,
    pub(super) name: Option<String>,
    pub(super) confidence: String,
}

/// What was found of it.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Found {
    pub(super) kind: String,
}

impl Told {
    /// `node[12]`.
    pub(super) fn label(&self) -> String {
        label(self.process.name.as_bytes(), self.process.pid)
    }

    /// `node[12]: node server.js`; of a zombie that was there before anybody listened its name alone is known.
    pub(super) fn line(&self, between: &str) -> String {
        match self.command() {
            command if command.is_empty() => self.label(),
            command => format!("{}{between}{command}", self.label()),
        }
    }

    /// The nearest agent's run.
    pub(super) fn invocation(&self) -> String {
        word(self.invocation.as_deref().unwrap_or(&self.run))
    }

    /// Whether it is an agent that another has started.
    pub(super) fn is_nested_agent(&self) -> bool {
        self.id != self.run && self.invocation.as_ref() == Some(&self.id)
    }

    /// Its arguments, cut.
    fn command(&self) -> String {
        terminal_short(self.process.args.join(" ").as_bytes(), COMMAND)
    }

    /// `Bash toolu_1`; `None`: no call is known.
    pub(super) fn call(&self) -> Option<String> {
        let Call { id, name, confidence } = self.tool_call.as_ref()?;
        let call = match (name, id) {
            (Some(name), Some(id)) => format!("{name} {id}"),
            (Some(word), None) | (None, Some(word)) => word.clone(),
            (None, None) => (confidence == "ambiguous").then(|| "one of several".to_owned())?,
        };
        Some(word(&call))
    }

    /// For how long it is there.
    pub(super) fn age(&self) -> String {
        duration(std::time::Duration::try_from_secs_f64(self.seconds).unwrap_or_default())
    }

    /// `zombie (exited 0)`, `running`.
    pub(super) fn state(&self) -> String {
        match &self.exit {
            Some(exit) => format!("{} ({})", word(&self.state), ended(exit)),
            None => word(&self.state),
        }
    }

    /// What was found of it, or why nothing counts.
    pub(super) fn marks(&self) -> String {
        let mut marks: Vec<_> = self.findings.iter().map(|found| word(&found.kind)).collect();
        if self.kept_by.is_some() {
            marks.push("kept".to_owned());
        }
        marks.join(", ")
    }
}

/// A word that is shown in a cell.
pub(super) fn word(text: &str) -> String {
    terminal_short(text.as_bytes(), WORD)
}

/// How a process ended, of an `exit` of the contracts.
pub(super) fn ended(exit: &serde_json::Value) -> String {
    let signal = exit["signal"].as_str().map(word);
    match (signal, exit["code"].as_u64()) {
        _ if exit["oom"] == true => "killed by the OOM killer".to_owned(),
        (Some(signal), _) => {
            let sender = &exit["sender"];
            let by = sender["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()).map(|pid| {
                let name = sender["name"].as_str().unwrap_or_default();
                format!(" from {}", label(name.as_bytes(), pid))
            });
            format!("killed by {signal}{}", by.unwrap_or_default())
        }
        (None, Some(code)) => format!("exited {code}"),
        (None, None) => "ended".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn ends_are_told_in_words() {
        for (exit, wanted) in [
            (json!({"code": 3}), "exited 3"),
            (json!({"code": null}), "ended"),
            (json!({"signal": "SIGKILL", "sender": null, "oom": true}), "killed by the OOM killer"),
            (
                json!({"signal": "SIGTERM", "sender": {"pid": 7, "name": "a\u{1b}"}, "oom": false}),
                "killed by SIGTERM from $'a\\x1b'[7]",
            ),
        ] {
            assert_eq!(ended(&exit), wanted);
        }
    }
}
