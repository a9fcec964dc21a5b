//! A plan and what came of it, for people and as JSON.

use serde::Serialize;

use crate::{
    escape::{json_text, label, terminal, terminal_short},
    toolcall::kill::{PlanPage, PlannedProcess, Run, ToldReceipt},
};

/// Processes that are shown one by one.
const LISTED: usize = 50;
/// Longest command line or reason, in characters.
const LONG: usize = 160;

/// All that is told on standard output with `--json`.
#[derive(Serialize)]
pub(super) struct Told<'a> {
    pub(super) schema: &'static str,
    pub(super) dry_run: bool,
    pub(super) run: &'a Run,
    pub(super) plan: ToldPlan<'a>,
    /// None: nothing was done.
    pub(super) receipts: Option<&'a [ToldReceipt]>,
    pub(super) all_ended: bool,
}

#[derive(Serialize)]
pub(super) struct ToldPlan<'a> {
    ends: u64,
    left: u64,
    ambiguous: u64,
    stale: u64,
    unattributed: u64,
    processes: &'a [PlannedProcess],
}

impl<'a> From<&'a PlanPage> for ToldPlan<'a> {
    fn from(plan: &'a PlanPage) -> Self {
        let PlanPage {
            plan: _,
            run: _,
            ends,
            left,
            ambiguous,
            stale,
            unattributed,
            next: _,
            processes,
        } = plan;
        Self {
            ends: *ends,
            left: *left,
            ambiguous: *ambiguous,
            stale: *stale,
            unattributed: *unattributed,
            processes,
        }
    }
}

/// On one line.
pub(super) fn json(told: &Told<'_>) -> String {
    let json = serde_json::to_string(told).expect("structs with string keys always serialise");
    json_text(&json) + "\n"
}

/// `1 process`, `3 processes`.
pub(super) fn processes(number: u64) -> String {
    format!("{number} {}", if number == 1 { "process" } else { "processes" })
}

/// A run in a line: its id, COMMAND, and the agents in it.
pub(super) fn run(run: &Run) -> String {
    let Run { invocation, tracer, command, agents } = run;
    let command = terminal_short(command.join(" ").as_bytes(), LONG);
    let mut line = format!("{} (tracer {tracer}): {command}", terminal(invocation.as_bytes()));
    for agent in agents {
        let name = label(agent.name.as_deref().unwrap_or_default().as_bytes(), agent.pid);
        line += &format!("; in it {} ({name})", terminal(agent.invocation.as_bytes()));
    }
    line
}

/// Whom it would end, and whom not.
pub(super) fn plan(plan: &PlanPage) -> String {
    let mut out = format!("run {}\n", run(&plan.run));
    let of = |is_left: bool| {
        plan.processes.iter().filter(move |process| process.left.is_some() == is_left)
    };
    list(&mut out, "to end:", of(false).map(line));
    let left = of(true).map(|process| {
        let why = process.left.as_ref().map(|left| {
            format!("{}: {}", left.result, terminal_short(left.reason.as_bytes(), LONG))
        });
        format!("{} ({})", line(process), terminal(why.unwrap_or_default().as_bytes()))
    });
    list(&mut out, "left alone:", left);
    let unsure = [
        (plan.ambiguous, "may be of several calls"),
        (plan.stale, "forked after the call's end"),
        (plan.unattributed, "of no known call"),
    ];
    let unsure = unsure.into_iter().filter(|(number, _)| *number > 0);
    let unsure: Vec<_> = unsure.map(|(number, what)| format!("{number} {what}")).collect();
    if !unsure.is_empty() {
        out += &format!("left alone, not surely of that call: {}\n", unsure.join(", "));
    }
    out
}

fn list(out: &mut String, title: &str, lines: impl Iterator<Item = String>) {
    let lines: Vec<_> = lines.collect();
    if lines.is_empty() {
        return;
    }
    *out += &format!("{title}\n");
    for line in lines.iter().take(LISTED) {
        *out += &format!("  {line}\n");
    }
    if lines.len() > LISTED {
        *out += &format!("  and {} more\n", lines.len() - LISTED);
    }
}

fn line(process: &PlannedProcess) -> String {
    let PlannedProcess { id: _, pid, name, args, listening, tool_call, left: _ } = process;
    let args = terminal_short(args.join(" ").as_bytes(), LONG);
    let mut line = format!("{}: {args}", label(name.as_bytes(), *pid));
    if !listening.is_empty() {
        line += &format!(", listens on {}", terminal_short(listening.join(", ").as_bytes(), LONG));
    }
    if let Some(call) = tool_call {
        line += &format!(", call {}", terminal_short(call.id.as_bytes(), LONG));
    }
    line
}

/// What became of everyone.
pub(super) fn receipts(receipts: &[ToldReceipt]) -> String {
    let mut out = String::new();
    for receipt in receipts.iter().take(LISTED) {
        out += &self::receipt(receipt);
        out.push('\n');
    }
    if receipts.len() > LISTED {
        out += &format!("and {} more\n", receipts.len() - LISTED);
    }
    out
}

fn receipt(receipt: &ToldReceipt) -> String {
    let ToldReceipt { id: _, pid, name, result, gone: _, reason, signals, seconds, ports } =
        receipt;
    let mut told = vec![result.replace('_', " ")];
    if !signals.is_empty() {
        told.push(signals.join(", then "));
        told.push(format!("{seconds:.1} s"));
    }
    told.extend(reason.clone());
    for port in ports {
        let state = if port.free { "free" } else { "still listened at" };
        told.push(format!("{} {state}", port.address));
    }
    let told = terminal_short(told.join("; ").as_bytes(), 4 * LONG);
    format!("{}: {told}", label(name.as_bytes(), *pid))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::toolcall::kill::{LeftAlone, ToldPort};

    fn process(pid: u32, left: Option<&str>) -> PlannedProcess {
        PlannedProcess {
            id: format!("1-{pid}"),
            pid,
            name: "no\u{1b}de".to_owned(),
            args: vec!["node".to_owned(), "a\u{1b}[2Jb".to_owned()],
            listening: vec!["127.0.0.1:3000".to_owned()],
            tool_call: None,
            left: left
                .map(|reason| LeftAlone { result: "kept".to_owned(), reason: reason.to_owned() }),
        }
    }

    fn page() -> PlanPage {
        PlanPage {
            plan: 1,
            run: Run {
                invocation: "1f-2".to_owned(),
                tracer: 7,
                command: vec!["./e2e.sh".to_owned()],
                agents: Vec::new(),
            },
            ends: 1,
            left: 1,
            ambiguous: 2,
            stale: 0,
            unattributed: 0,
            next: None,
            processes: vec![process(3, None), process(4, Some("mine\u{9b}"))],
        }
    }

    #[test]
    fn plan_is_told_without_raw_control_characters() {
        assert_eq!(
            plan(&page()),
            "run 1f-2 (tracer 7): ./e2e.sh\n\
             to end:\n  $'no\\x1bde'[3]: node a\\x1b[2Jb, listens on 127.0.0.1:3000\n\
             left alone:\n  $'no\\x1bde'[4]: node a\\x1b[2Jb, listens on 127.0.0.1:3000 (kept: mine\\u{9b})\n\
             left alone, not surely of that call: 2 may be of several calls\n"
        );
    }

    #[test]
    fn receipt_is_told() {
        let told = ToldReceipt {
            id: "1-3".to_owned(),
            pid: 3,
            name: "node".to_owned(),
            result: "still_there".to_owned(),
            gone: false,
            reason: Some("w\u{1b}hy".to_owned()),
            signals: vec!["SIGTERM".to_owned(), "SIGKILL".to_owned()],
            seconds: 5.04,
            ports: vec![ToldPort { address: "127.0.0.1:3000".to_owned(), free: false }],
        };
        assert_eq!(
            receipts(&[told]),
            "node[3]: still there; SIGTERM, then SIGKILL; 5.0 s; w\\x1bhy; 127.0.0.1:3000 still \
             listened at\n"
        );
    }

    #[test]
    fn json_holds_no_raw_control_characters() {
        let page = page();
        let told = Told {
            schema: "tracer.kill/1",
            dry_run: true,
            run: &page.run,
            plan: ToldPlan::from(&page),
            receipts: None,
            all_ended: false,
        };
        let text = json(&told);
        assert!(text.chars().all(|c| c == '\n' || !crate::escape::is_hostile(c)), "{text}");
        let read: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(read["plan"]["processes"][0]["args"][1], "a\u{1b}[2Jb");
        assert_eq!(read["receipts"], serde_json::Value::Null);
    }
}
