//! Answers of the history as text for a terminal, and as JSON.

use serde::{Deserialize, Serialize};

use super::query::{
    AgentTally, CauseTally, Ended, Invocations, Leak, Leaks, ProgramTally, Summary, Tally,
    ToolTally,
};
use crate::{
    escape::{json_text, label, terminal_short},
    report::{count, duration, table::Table},
};

/// Longest cell, in characters.
const CELL: usize = 40;
/// Longest command line, in characters.
const COMMAND: usize = 100;

/// An answer on one line, ending in a newline.
#[must_use]
pub fn json(answer: &impl Serialize) -> String {
    let json = serde_json::to_string(answer).expect("structs with string keys always serialise");
    json_text(&json) + "\n"
}

/// What a line tells of a finding.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Told {
    kind: String,
    state: String,
    process: ToldProcess,
    agent: Option<Named>,
    tool_call: Option<Named>,
    cause: ToldCause,
    since: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ToldProcess {
    pid: u32,
    name: String,
    args: Vec<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Named {
    id: Option<String>,
    name: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ToldCause {
    code: String,
}

/// Leaks as a table, the latest first, ending in a newline.
#[must_use]
pub fn leaks(leaks: &Leaks) -> String {
    let Leaks { schema: _, at: _, total, leaks } = leaks;
    if leaks.is_empty() {
        return "no leaks\n".to_owned();
    }
    let head = ["SINCE", "FOR", "NOW", "KIND", "AGENT", "CALL", "CAUSE", "PROCESS"];
    let mut table = Table::new(&head);
    leaks.iter().for_each(|leak| table.row(line(leak)));
    let mut out = table.render();
    let listed = u64::try_from(leaks.len()).unwrap_or(u64::MAX);
    let standing = leaks.iter().filter(|leak| leak.stands).count();
    out += &format!("{}, {standing} of them there now\n", count(listed, "leak"));
    if *total > listed {
        out += &format!("and {} before them\n", total - listed);
    }
    out
}

fn line(leak: &Leak) -> Vec<String> {
    let told: Told = serde_json::from_str(leak.finding.get()).unwrap_or_default();
    let Told { kind, state, process, agent, tool_call, cause, since } = told;
    let ToldProcess { pid, name, args } = process;
    let now = match state.as_str() {
        _ if leak.stands => "stands",
        "resolved" => "put right",
        _ if leak.boot_over => "boot over",
        _ if leak.kept_by.is_some() && leak.gone_at.is_none() => "kept",
        _ => "gone",
    };
    let call = tool_call.map(|Named { id, name }| match (name, id) {
        (Some(name), Some(id)) => format!("{name} {id}"),
        (name, id) => name.or(id).unwrap_or_default(),
    });
    let process = format!(
        "{}: {}",
        label(name.as_bytes(), pid),
        terminal_short(args.join(" ").as_bytes(), COMMAND)
    );
    let agent = agent.and_then(|agent| agent.name);
    let span = duration(std::time::Duration::try_from_secs_f64(leak.seconds).unwrap_or_default());
    vec![
        moment(since.as_deref()),
        span,
        now.to_owned(),
        cell(Some(&kind)),
        cell(agent.as_deref()),
        cell(call.as_deref()),
        cell(Some(&cause.code)),
        process,
    ]
}

/// Who leaks most, as tables, ending in a newline.
#[must_use]
pub fn summary(summary: &Summary) -> String {
    let Summary {
        schema: _,
        at: _,
        since,
        invocations: Invocations { total, leaked, uncertain },
        findings: Tally { found, leaked: never, standing },
        ended: Ended { for_leaks, on_request },
        by_agent,
        by_tool,
        by_program,
        by_cause,
    } = summary;
    let since =
        since.as_ref().map_or("ever".to_owned(), |since| format!("since {}", moment(Some(since))));
    let mut out = format!(
        "{since}: {}, {leaked} left something that was never put right{}\n",
        count(*total, "run"),
        share(*leaked, *total).map(|share| format!(" ({share})")).unwrap_or_default(),
    );
    if *uncertain > 0 {
        let runs = count(*uncertain, "run");
        out += &format!("in {runs} events were lost: something may have been missed\n");
    }
    out +=
        &format!("{}, {never} never put right, {standing} there now\n", count(*found, "finding"));
    if for_leaks + on_request > 0 {
        let ended = count(for_leaks + on_request, "process");
        out += &format!("tracer ended {ended}, {on_request} of them because somebody asked\n");
    }
    let agents = by_agent.iter().map(|AgentTally { agent, invocations, findings }| {
        let Invocations { total, leaked, uncertain: _ } = invocations;
        let share = share(*leaked, *total).unwrap_or_default();
        let runs = [total.to_string(), leaked.to_string(), share];
        [vec![cell(agent.as_deref())], runs.into(), figures(findings)].concat()
    });
    let tools = by_tool.iter().map(|ToolTally { agent, tool, findings }| {
        [vec![cell(agent.as_deref()), cell(tool.as_deref())], figures(findings)].concat()
    });
    let programs = by_program.iter().map(|ProgramTally { name, findings }| {
        [vec![cell(Some(name))], figures(findings)].concat()
    });
    let causes = by_cause.iter().map(|CauseTally { cause, findings }| {
        [vec![cell(Some(cause))], figures(findings)].concat()
    });
    section(&mut out, &["AGENT", "RUNS", "LEAKED", "SHARE"], agents);
    section(&mut out, &["AGENT", "TOOL"], tools);
    section(&mut out, &["PROGRAM"], programs);
    section(&mut out, &["CAUSE"], causes);
    out
}

/// The last columns of each table.
const FIGURES: [&str; 3] = ["FOUND", "NEVER PUT RIGHT", "NOW"];

fn figures(tally: &Tally) -> Vec<String> {
    let Tally { found, leaked, standing } = tally;
    vec![found.to_string(), leaked.to_string(), standing.to_string()]
}

fn section(out: &mut String, head: &[&'static str], rows: impl Iterator<Item = Vec<String>>) {
    let head: Vec<_> = head.iter().chain(&FIGURES).copied().collect();
    let mut table = Table::new(&head);
    rows.for_each(|row| table.row(row));
    if !table.is_empty() {
        out.push('\n');
        *out += &table.render();
    }
}

/// `41 %`, rounded down, but never to nothing; `None`: of nothing.
fn share(part: u64, all: u64) -> Option<String> {
    match (u128::from(part) * 100).checked_div(u128::from(all))? {
        0 if part > 0 => Some("<1 %".to_owned()),
        share => Some(format!("{share} %")),
    }
}

/// To the second, of a time as contracts have it.
fn moment(time: Option<&str>) -> String {
    let Some(time) = time else { return "-".to_owned() };
    let second = time.split('.').next().unwrap_or_default().replace('T', " ");
    terminal_short(format!("{second}Z").as_bytes(), CELL)
}

fn cell(text: Option<&str>) -> String {
    text.filter(|text| !text.is_empty())
        .map_or("-".to_owned(), |text| terminal_short(text.as_bytes(), CELL))
}
