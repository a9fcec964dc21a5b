//! Answers of the history as text for a terminal, and as JSON.

use serde::{Deserialize, Serialize};

use super::query::{
    AgentTally, CauseTally, Ended, Invocations, Leak, Leaks, ProgramTally, Reach, Summary, Tally,
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
    parent: Option<ToldRelative>,
    adopter: Option<ToldRelative>,
    cause: ToldCause,
    resources: Option<ToldResources>,
    since: Option<String>,
    action: Option<ToldAction>,
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
struct ToldRelative {
    pid: u32,
    name: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ToldResources {
    listening: Vec<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ToldAction {
    result: String,
    dry_run: bool,
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
    let Leaks { schema: _, at: _, total, leaks, history } = leaks;
    if leaks.is_empty() {
        let reach = history.as_ref().map(|Reach { first_run_at }| match first_run_at {
            Some(at) => format!("; the history begins {}", moment(Some(at))),
            None => "; the history has no run of an agent yet".to_owned(),
        });
        return format!("no leaks{}\n", reach.unwrap_or_default());
    }
    let head = ["SINCE", "FOR", "NOW", "KIND", "AGENT", "CALL", "CAUSE", "PARENT", "PROCESS"];
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
    let Told {
        kind,
        state,
        process,
        agent,
        tool_call,
        parent,
        adopter,
        cause,
        resources,
        since,
        action,
    } = told;
    let action = action.filter(|action| !action.dry_run);
    let is_ended =
        action.as_ref().is_some_and(|action| matches!(action.result.as_str(), "ended" | "reaped"));
    let now = match state.as_str() {
        _ if leak.stands => "stands",
        "resolved" => "put right",
        _ if is_ended => "ended",
        _ if leak.boot_over => "boot over",
        _ if leak.kept_by.is_some() && leak.gone_at.is_none() => "kept",
        _ => "gone",
    };
    let call = tool_call.map(|Named { id, name }| match (name, id) {
        (Some(name), Some(id)) => format!("{name} {id}"),
        (name, id) => name.or(id).unwrap_or_default(),
    });
    let ports = resources.map(|resources| resources.listening).unwrap_or_default();
    let ports =
        (!ports.is_empty()).then(|| format!("listens on {}", cell(Some(&ports.join(", ")))));
    let failed = action.filter(|_| leak.stands);
    let failed = failed.map(|action| format!("tracer: {}", cell(Some(&action.result))));
    let process = [Some(process_line(&process)), ports, failed].into_iter().flatten();
    // Who has it as a child now.
    let parent = adopter.or(parent);
    let parent = parent.map(|ToldRelative { pid, name }| label(name.as_bytes(), pid));
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
        parent.unwrap_or_else(|| "-".to_owned()),
        process.collect::<Vec<_>>().join("; "),
    ]
}

/// `node[12]: node server.js`.
fn process_line(ToldProcess { pid, name, args }: &ToldProcess) -> String {
    let label = label(name.as_bytes(), *pid);
    match terminal_short(args.join(" ").as_bytes(), COMMAND) {
        // Of a zombie that was there before anybody listened its name alone is known.
        command if command.is_empty() => label,
        command => format!("{label}: {command}"),
    }
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

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// The line of a zombie of which this besides is known.
    fn shown(stands: bool, more: &[(&str, Value)]) -> String {
        let mut finding = json!({
            "kind": "zombie", "state": "open", "process": {"pid": 7, "name": "sh", "args": []},
            "parent": {"pid": 5, "name": "node"}, "cause": {"code": "parent_has_not_reaped"},
        });
        more.iter().for_each(|(key, value)| finding[*key] = value.clone());
        let leak = json!({
            "node": "n", "boot_id": "b", "key": "k", "uid": null, "invocation": "i", "change": "gone",
            "told_at": null, "gone_at": null, "boot_over": false, "stands": stands, "kept_by": null,
            "seconds": 1.0, "finding": finding,
        });
        let told = json!({"schema": "s", "at": null, "total": 1, "leaks": [leak], "history": null});
        let told = serde_json::from_value::<Leaks>(told).expect("leaks");
        leaks(&told).lines().nth(1).expect("a line").to_owned()
    }

    #[test]
    fn line_says_whose_child_it_is_what_it_holds_and_what_was_done() {
        let zombie = shown(true, &[]);
        assert!(zombie.ends_with("parent_has_not_reaped  node[5]  sh[7]"), "{zombie}");
        let adopted = shown(true, &[("adopter", json!({"pid": 1, "name": "init"}))]);
        assert!(adopted.ends_with("init[1]  sh[7]"), "{adopted}");
        let listening = json!({"listening": ["127.0.0.1:3000", "[::1]:3000"]});
        let server = shown(true, &[("resources", listening)]);
        assert!(server.ends_with("sh[7]; listens on 127.0.0.1:3000, [::1]:3000"), "{server}");
        let done = |result: &str, dry_run: bool| json!({"result": result, "dry_run": dry_run});
        let left = shown(true, &[("action", done("still_there", false))]);
        assert!(left.ends_with("sh[7]; tracer: still_there"), "{left}");
        let ended = shown(false, &[("action", done("ended", false))]);
        assert!(ended.contains("  ended  zombie  ") && ended.ends_with("sh[7]"), "{ended}");
        let gone = shown(false, &[("action", done("would_act", true))]);
        assert!(gone.contains("  gone  zombie  ") && gone.ends_with("sh[7]"), "{gone}");
    }
}
