//! `tracer blame`: which tool call started a process, or what listens on a port: of what agents have
//! under way on this host, or of a run that is over.

use std::{
    fs::File,
    io::{self, BufReader, Write as _},
    path::{Path, PathBuf},
    str::FromStr,
};

use anyhow::{Context as _, bail};
use clap::Args;
use serde_json::Value;

use super::{exit::Status, replay, shown, socket::SocketArgs, told::ended};
use crate::{
    escape,
    lineage::{DEFAULT_FAIL_ON, Policy},
    recording::{Ending, Replayed},
    report,
    service::control::protocol::{Ask, Subject},
};

/// Say which tool call of which agent started a process
///
/// Asks the daemon, of any process that an agent has under way on this host, or whoever listens on that
/// port. Or answers from the JSON report or the recording of a run that is over, of every finding of that
/// pid or port.
///
/// Exit status: 0 if there is an answer, 1 if nothing fits, 125 if that cannot be asked or read.
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(super) struct BlameArgs {
    /// A pid, or a port as :PORT
    #[arg(value_name = "PID|:PORT")]
    what: What,
    /// What `tracer run --report FILE.json` has written
    #[arg(long, value_name = "FILE", conflicts_with = "replay")]
    report: Option<PathBuf>,
    /// What `tracer record` has written
    #[arg(long, value_name = "FILE")]
    replay: Option<PathBuf>,
    /// Print the daemon's answer as JSON, on one line
    #[arg(long, conflicts_with_all = ["report", "replay"])]
    json: bool,
    #[command(flatten)]
    socket: SocketArgs,
}

/// What is asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Pid(u32),
    Port(u16),
}

impl FromStr for What {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = match text.strip_prefix(':') {
            Some(port) => port.parse().map(Self::Port).ok(),
            None => text.parse().map(Self::Pid).ok().filter(|what| *what != Self::Pid(0)),
        };
        parsed.ok_or_else(|| "neither a pid nor :PORT".to_owned())
    }
}

impl std::fmt::Display for What {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Pid(pid) => write!(f, "pid {pid}"),
            Self::Port(port) => write!(f, "port {port}"),
        }
    }
}

impl What {
    /// Whether a finding of a report is about it.
    fn is_in(self, finding: &Value) -> bool {
        match self {
            Self::Pid(pid) => finding["process"]["pid"] == pid,
            Self::Port(port) => {
                let listening = finding["resources"]["listening"].as_array();
                let mut addresses = listening.into_iter().flatten().filter_map(Value::as_str);
                let suffix = format!(":{port}");
                addresses.any(|address| !address.starts_with("unix ") && address.ends_with(&suffix))
            }
        }
    }
}

/// Answers.
pub(super) fn execute(args: &BlameArgs) -> anyhow::Result<Status> {
    let report = match (&args.report, &args.replay) {
        (Some(path), _) => read(path)?,
        (None, Some(path)) => recorded(path)?,
        (None, None) => return live(args),
    };
    let answer = answer(&report, args.what)?;
    if answer.is_empty() {
        let what = args.what;
        super::judge::complain(&format!("nothing was found of {what} in that run"));
        return Ok(Status::NOTHING_FOUND);
    }
    io::stdout().write_all(answer.as_bytes()).context("failed to write to standard output")?;
    Ok(Status::OK)
}

/// Asks the daemon.
fn live(args: &BlameArgs) -> anyhow::Result<Status> {
    let BlameArgs { what, json, socket, report: _, replay: _ } = args;
    let subject = match *what {
        What::Pid(pid) => Subject::Process(pid),
        What::Port(port) => Subject::Port(port),
    };
    let told = socket.ask(&Ask::Blame(subject))?;
    let answer: Value =
        serde_json::from_str(&told).context("failed to read the daemon's answer")?;
    let processes = answer["processes"].as_array().map(Vec::as_slice).unwrap_or_default();
    let text = if *json {
        escape::json_text(&told)
    } else {
        processes.iter().map(live_paragraph).collect::<Vec<_>>().join("\n")
    };
    io::stdout().write_all(text.as_bytes()).context("failed to write to standard output")?;
    if processes.is_empty() {
        super::judge::complain(&format!(
            "no agent has a process under way here, that you may know of, with {what}"
        ));
        return Ok(Status::NOTHING_FOUND);
    }
    Ok(Status::OK)
}

/// A process that is there, told as a finding is, by the last that stands of it.
fn live_paragraph(process: &Value) -> String {
    let found = process["found"].as_array().and_then(|found| found.last());
    let mut told = found.cloned().unwrap_or_else(|| {
        let exit = &process["exit"];
        let state = process["state"].as_str().unwrap_or_default();
        let kind =
            if exit.is_null() { state.to_owned() } else { format!("{state}, {}", ended(exit)) };
        serde_json::json!({ "kind": kind })
    });
    let parts = [
        ("process", "process"),
        ("agent", "agent_run"),
        ("tool_call", "tool_call"),
        ("lineage", "lineage"),
    ];
    for (part, from) in parts {
        told[part] = process[from].clone();
    }
    let listening = &process["listening"];
    if listening.as_array().is_some_and(|listening| !listening.is_empty()) {
        told["resources"]["listening"] = listening.clone();
    }
    paragraph(&told)
}

fn read(path: &Path) -> anyhow::Result<Value> {
    let file = File::open(path).with_context(|| format!("failed to open {}", shown(path)))?;
    let report: Value = serde_json::from_reader(BufReader::new(file))
        .with_context(|| format!("failed to read {} as a JSON report", shown(path)))?;
    if report["schema"] != "tracer.report/1" {
        bail!("failed to read {}: this is no report of the form tracer.report/1", shown(path));
    }
    Ok(report)
}

/// The report that a recorded run would give.
fn recorded(path: &Path) -> anyhow::Result<Value> {
    let (reader, Replayed { lineage, ending, ends_early: _ }) = replay::replay(path)?;
    let Ending::Settled(settled) = ending else {
        bail!("failed to blame: the recorded run {} came to no end", shown(path));
    };
    let policy = Policy { fail_on: &DEFAULT_FAIL_ON, strict: false, allow: &|_| None };
    let command = &reader.opening().command;
    let outcome = lineage.outcome(settled.at, command, settled.epoch_offset, policy);
    serde_json::from_str(&report::json::render_line(&outcome)).context("failed to read the report")
}

/// A paragraph for each process that fits, by its last finding.
fn answer(report: &Value, what: What) -> anyhow::Result<String> {
    let findings = report["findings"].as_array().context("the report has no findings")?;
    let mut told: Vec<&Value> = Vec::new();
    for finding in findings.iter().filter(|finding| what.is_in(finding)) {
        let same = |other: &&mut &Value| {
            let of = |finding: &Value| {
                let process = &finding["process"];
                (process["pid"].clone(), process["start_time"].clone())
            };
            of(other) == of(finding)
        };
        match told.iter_mut().find(same) {
            Some(before) => *before = finding,
            None => told.push(finding),
        }
    }
    let paragraphs: Vec<_> = told.into_iter().map(paragraph).collect();
    Ok(paragraphs.join("\n"))
}

/// Longest text of a report in a line.
const LONG: usize = 400;

fn paragraph(finding: &Value) -> String {
    let text =
        |value: &Value| value.as_str().map(|text| escape::terminal_short(text.as_bytes(), LONG));
    let words = |value: &Value| {
        let words = value.as_array().into_iter().flatten().filter_map(Value::as_str);
        let line = words.collect::<Vec<_>>().join(" ");
        escape::terminal_short(line.as_bytes(), LONG)
    };
    let named =
        |value: &Value| format!("{}[{}]", text(&value["name"]).unwrap_or_default(), value["pid"]);
    let process = &finding["process"];
    let mut lines = vec![format!("{}: {}", named(process), words(&process["args"]))];
    let mut what = text(&finding["kind"]).unwrap_or_default();
    if finding["state"] == "resolved" {
        what += ", put right";
    }
    let ports = words(&finding["resources"]["listening"]);
    if !ports.is_empty() {
        what = format!("{what}, listens on {ports}");
    }
    lines.push(format!("  {what}"));
    let agent = &finding["agent"];
    if agent.is_object() {
        let mut by = named(agent);
        for (word, key) in [(" ", "version"), (", session ", "session_id")] {
            if let Some(known) = text(&agent[key]) {
                by = format!("{by}{word}{known}");
            }
        }
        lines.push(format!("  Agent: {by}"));
    }
    lines.push(format!("  Call: {}", call(&finding["tool_call"], &text, &words, &named)));
    let lineage = finding["lineage"].as_array().into_iter().flatten().map(named);
    let lineage = lineage.collect::<Vec<_>>().join(" > ");
    // The root of a run descends from nobody that is told of.
    if !lineage.is_empty() {
        lines.push(format!("  Lineage: {lineage}"));
    }
    if let Some(why) = text(&finding["cause"]["text"]) {
        lines.push(format!("  Why: {why}"));
    }
    lines.join("\n") + "\n"
}

/// The tool call in words.
fn call(
    call: &Value,
    text: &dyn Fn(&Value) -> Option<String>,
    words: &dyn Fn(&Value) -> String,
    named: &dyn Fn(&Value) -> String,
) -> String {
    if !call.is_object() {
        return "none: no agent is above it".to_owned();
    }
    let child = || {
        let child = &call["child"];
        format!("{}: {}", named(child), words(&child["args"]))
    };
    let sure = text(&call["confidence"]).unwrap_or_default();
    let source = text(&call["source"]).unwrap_or_default();
    match (text(&call["id"]), sure.as_str()) {
        (Some(id), _) => {
            let tool = text(&call["name"]).map(|name| format!(" ({name})")).unwrap_or_default();
            let line = text(&call["summary"]).map(|line| format!(": {line}")).unwrap_or_default();
            format!("{id}{tool}{line} [{sure}, by {source}]")
        }
        (None, "ambiguous") => format!("one of {} [ambiguous]", words(&call["candidates"])),
        (None, _) => format!("none is known; the agent started {}", child()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn pids_and_ports_are_told_apart() {
        assert_eq!("12".parse(), Ok(What::Pid(12)));
        assert_eq!(":5173".parse(), Ok(What::Port(5173)));
        for wrong in ["", "0", ":", ":70000", "x", "-1", "1.2"] {
            assert!(wrong.parse::<What>().is_err(), "{wrong}");
        }
    }

    fn report() -> Value {
        let finding = |kind, pid, listening| {
            json!({
                "kind": kind, "state": "open",
                "process": {"pid": pid, "start_time": "t", "name": "node", "args": ["node", "a\u{1b}b"]},
                "resources": {"listening": [listening]},
                "lineage": [{"pid": 1, "name": "claude"}],
                "agent": {"pid": 1, "name": "claude-code", "version": "2.1", "session_id": "s"},
                "tool_call": {"id": "toolu_1", "name": "Bash", "summary": "npm run dev",
                              "confidence": "strong", "source": "command"},
                "cause": {"text": "its shell ended"},
            })
        };
        json!({"schema": "tracer.report/1", "findings": [
            finding("orphan", 7, "127.0.0.1:5173"),
            finding("survivor", 7, "127.0.0.1:5173"),
            finding("survivor", 8, "unix /tmp/x:5173"),
        ]})
    }

    #[test]
    fn process_is_told_once_as_what_it_came_to_be() {
        let told = answer(&report(), What::Pid(7)).unwrap();
        assert_eq!(
            told,
            "node[7]: node a\\x1bb\n  survivor, listens on 127.0.0.1:5173\n  \
             Agent: claude-code[1] 2.1, session s\n  \
             Call: toolu_1 (Bash): npm run dev [strong, by command]\n  \
             Lineage: claude[1]\n  Why: its shell ended\n"
        );
        assert_eq!(answer(&report(), What::Port(5173)).unwrap(), told);
        let mut root = report();
        root["findings"][1]["lineage"] = json!([]);
        assert!(!answer(&root, What::Pid(7)).unwrap().contains("Lineage"));
        assert_eq!(answer(&report(), What::Port(173)).unwrap(), "");
        assert_eq!(answer(&report(), What::Pid(9)).unwrap(), "");
    }
}
