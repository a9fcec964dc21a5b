//! `tracer ps` and `tracer tree`: what agents have under way on this host.

use std::{
    collections::{HashMap, HashSet},
    io::{self, Write as _},
};

use anyhow::Context as _;
use clap::Args;

use super::{
    exit::Status,
    socket::SocketArgs,
    told::{Ps, Run, Told, word},
};
use crate::{escape::json_text, report::table::Table, service::control::protocol::Ask};

/// List the processes that agents have under way on this host
///
/// Asks the daemon. Root and the group in its configuration see all, others their own processes.
///
/// Exit status: 0, also if there is none; 125 if the daemon cannot be asked.
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(super) struct PsArgs {
    #[command(flatten)]
    asked: Asked,
}

/// Draw the processes that agents have under way on this host as trees
///
/// Who forked whom, as far as they are there: of one whose forker is gone, the nearest ancestor that is.
/// Asks the daemon. Root and the group in its configuration see all, others their own processes.
///
/// Exit status: 0, also if there is none; 125 if the daemon cannot be asked.
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(super) struct TreeArgs {
    /// Draw each of many that are alike
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    asked: Asked,
}

// No doc comment: clap would show it in the place of the subcommand's.
#[derive(Debug, Args)]
struct Asked {
    /// Only those of this invocation, by its id
    #[arg(value_name = "INVOCATION")]
    invocation: Option<String>,
    /// List at most so many
    #[arg(long, value_name = "NUMBER")]
    limit: Option<usize>,
    /// Print JSON, on one line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    socket: SocketArgs,
}

impl Asked {
    /// What the daemon tells, told on by `show` unless it is wanted as it is.
    fn tell(&self, show: impl FnOnce(&Ps) -> String) -> anyhow::Result<Status> {
        let Self { invocation, limit, json, socket } = self;
        let told = socket.ask(&Ask::Ps { invocation: invocation.clone(), limit: *limit })?;
        let text = if *json {
            json_text(&told)
        } else {
            show(&serde_json::from_str(&told).context("failed to read the daemon's answer")?)
        };
        io::stdout().write_all(text.as_bytes()).context("failed to write to standard output")?;
        Ok(Status::OK)
    }
}

/// `tracer ps`.
pub(super) fn list(args: &PsArgs) -> anyhow::Result<Status> {
    args.asked.tell(table)
}

/// `tracer tree`.
pub(super) fn draw(args: &TreeArgs) -> anyhow::Result<Status> {
    args.asked.tell(|told| tree(told, if args.all { usize::MAX } else { ALIKE }))
}

fn table(told: &Ps) -> String {
    if told.processes.is_empty() {
        return "no agent has a process under way\n".to_owned();
    }
    let mut table =
        Table::new(&["PID", "AGENT", "INVOCATION", "AGE", "STATE", "CALL", "FOUND", "COMMAND"]);
    let dash = |text: String| if text.is_empty() { "-".to_owned() } else { text };
    for one in &told.processes {
        table.row(vec![
            one.process.pid.to_string(),
            dash(one.agent.as_deref().map(word).unwrap_or_default()),
            one.invocation(),
            one.age(),
            one.state(),
            dash(one.call().unwrap_or_default()),
            dash(one.marks()),
            one.line(": "),
        ]);
    }
    table.render() + &rest(told)
}

fn rest(told: &Ps) -> String {
    let listed = u64::try_from(told.processes.len()).unwrap_or(u64::MAX);
    let mut text = String::new();
    if told.total > listed {
        text += &format!("and {} more: --limit\n", told.total - listed);
    }
    if told.runs.iter().any(|run| run.uncertain == Some(true)) {
        text += "of some runs records were lost: something may be missing\n";
    }
    text
}

/// Siblings that are alike and without children of their own of which more are only counted.
const ALIKE: usize = 5;

/// A line that is still to be drawn: what, and what is before it and before what is below it.
type Pending<'a> = (Item<'a>, String, String);

enum Item<'a> {
    One(&'a Told),
    More(usize),
}

fn tree(told: &Ps, alike: usize) -> String {
    let known: HashSet<&str> = told.processes.iter().map(|one| one.id.as_str()).collect();
    let mut below: HashMap<&str, Vec<&Told>> = HashMap::new();
    let mut tops: HashMap<&str, Vec<&Told>> = HashMap::new();
    for one in &told.processes {
        match one.forker.as_deref().filter(|forker| known.contains(forker) && *forker != one.id) {
            Some(forker) => below.entry(forker).or_default().push(one),
            None => tops.entry(&one.run).or_default().push(one),
        }
    }
    let mut out = String::new();
    for Run { id, agent, .. } in &told.runs {
        let agent = agent.as_deref().map_or("command".to_owned(), word);
        out += &format!("{agent}, invocation {}\n", word(id));
        let mut stack: Vec<Pending<'_>> = Vec::new();
        let tops = tops.remove(id.as_str()).unwrap_or_default();
        push(&mut stack, &tops, &below, "", alike);
        while let Some((item, before, under)) = stack.pop() {
            match item {
                Item::More(number) => out += &format!("{before}… and {number} more like it\n"),
                Item::One(one) => {
                    out += &format!("{before}{}\n", line(one));
                    let children = below.get(one.id.as_str()).map(Vec::as_slice);
                    push(&mut stack, children.unwrap_or_default(), &below, &under, alike);
                }
            }
        }
    }
    if out.is_empty() {
        out = "no agent has a process under way\n".to_owned();
    }
    out + &rest(told)
}

fn push<'a>(
    stack: &mut Vec<Pending<'a>>,
    siblings: &[&'a Told],
    below: &HashMap<&str, Vec<&Told>>,
    under: &str,
    alike: usize,
) {
    type Looks<'t> = (&'t str, &'t str, String);
    let looks = |one: &'a Told| -> Option<Looks<'a>> {
        let is_leaf = !below.contains_key(one.id.as_str());
        is_leaf.then(|| (one.process.name.as_str(), one.state.as_str(), one.marks()))
    };
    let mut numbers: HashMap<Looks<'_>, usize> = HashMap::new();
    siblings.iter().filter_map(|one| looks(one)).for_each(|look| {
        *numbers.entry(look).or_default() += 1;
    });
    let mut drawn: HashMap<Looks<'_>, usize> = HashMap::new();
    let mut items = Vec::new();
    for &one in siblings {
        let Some(look) = looks(one) else {
            items.push(Item::One(one));
            continue;
        };
        let number = numbers.get(&look).copied().unwrap_or(0);
        let rank = drawn.entry(look).or_default();
        *rank += 1;
        // A single one more takes no more room than its count.
        if *rank <= alike || number <= alike.saturating_add(1) {
            items.push(Item::One(one));
        } else if *rank == alike + 1 {
            items.push(Item::More(number - alike));
        }
    }
    let last = items.len().saturating_sub(1);
    for (place, item) in items.into_iter().enumerate().rev() {
        let (fork, trunk) =
            if place == last { ("└── ", "    ") } else { ("├── ", "│   ") };
        stack.push((item, format!("{under}{fork}"), format!("{under}{trunk}")));
    }
}

fn line(one: &Told) -> String {
    let mut line = one.line(" ");
    if one.exit.is_some() {
        line += &format!("  {}", one.state());
    }
    if one.is_nested_agent() {
        let agent = one.agent.as_deref().map_or("agent".to_owned(), word);
        line += &format!("  ({agent}, invocation {})", one.invocation());
    }
    if let Some(call) = one.call() {
        line += &format!("  [{call}]");
    }
    let marks = one.marks();
    if !marks.is_empty() {
        line += &format!("  ◄ {marks}");
    }
    line
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn process(pid: u32, forker: u32, name: &str) -> Value {
        json!({
            "id": format!("{pid:x}-{pid}"), "run": "1-1", "agent": "claude-code", "state": "running",
            "seconds": 12.5, "forker": format!("{forker:x}-{forker}"),
            "process": {"pid": pid, "name": name, "args": [name, "a\u{1b}b"]},
            "exit": null, "tool_call": {"id": "toolu_1", "name": "Bash", "confidence": "exact"},
            "kept_by": null, "findings": [],
        })
    }

    fn told() -> Ps {
        let mut zombie = process(4, 2, "sleep");
        zombie["state"] = json!("zombie");
        zombie["exit"] = json!({"code": 0});
        zombie["findings"] = json!([{"kind": "zombie", "since": null}]);
        let mut codex = process(5, 2, "codex");
        codex["agent"] = json!("codex");
        codex["invocation"] = codex["id"].clone();
        let many = (10..18).map(|pid| process(pid, 3, "worker"));
        let some =
            [process(1, 0, "claude"), process(2, 1, "sh"), process(3, 2, "node"), zombie, codex];
        let all: Vec<_> = some.into_iter().chain(many).collect();
        let told = json!({
            "schema": "tracer.ps/1", "total": 15, "processes": all,
            "runs": [{"id": "1-1", "agent": "claude-code", "uncertain": true}],
        });
        serde_json::from_value(told).unwrap()
    }

    #[test]
    fn tree_counts_many_that_are_alike() {
        insta::assert_snapshot!(tree(&told(), ALIKE));
        assert_eq!(tree(&told(), usize::MAX).lines().count(), 1 + 13 + 2);
    }

    #[test]
    fn processes_are_a_table() {
        insta::assert_snapshot!(table(&told()));
        assert_eq!(table(&Ps::default()), "no agent has a process under way\n");
        assert_eq!(tree(&Ps::default(), ALIKE), "no agent has a process under way\n");
    }

    #[test]
    fn nothing_that_a_terminal_would_obey_is_shown() {
        let mut told = told();
        for one in &mut told.processes {
            for text in [&mut one.process.name, &mut one.state, &mut one.run] {
                text.push_str("\u{1b}[2J\u{202e}");
            }
            one.agent = Some("\u{9b}".to_owned());
            one.kept_by = Some("\u{7}".to_owned());
        }
        for shown in [tree(&told, 9), table(&told)] {
            assert!(!shown.chars().any(|c| c != '\n' && crate::escape::is_hostile(c)), "{shown:?}");
        }
    }
}
