//! What is told of runs and processes, as contracts have it: `tracer.ps/1` and `tracer.blame/1`.

use serde::Serialize;

use super::{desk::Seen, protocol::Subject};
use crate::{
    lineage::{Agent, Ancestor, Described, FindingKind, Nanos, ProcessId, Stats},
    report::json::{
        AgentEntry, AncestorEntry, AttributionEntry, ExitEntry, FindingEntry, InvocationEntry,
        ProcessEntry, Writer,
    },
};

/// The head of every answer.
#[derive(Debug, Serialize)]
pub(super) struct Head<'a> {
    pub(super) schema: &'static str,
    /// When it was asked.
    pub(super) at: Option<String>,
    /// The host's name.
    pub(super) node: &'a str,
    /// Process identities hold within one boot.
    pub(super) boot_id: &'a str,
}

/// `tracer.ps/1`.
#[derive(Serialize)]
pub(super) struct Ps<'a> {
    #[serde(flatten)]
    pub(super) head: Head<'a>,
    /// Runs of agents that no other agent's run is around.
    pub(super) runs: Vec<RunEntry<'a>>,
    /// How many processes there are that the asker may know of, listed or not.
    pub(super) total: u64,
    /// Those that are listed.
    pub(super) processes: Vec<SeenEntry<'a>>,
}

/// A run. What is about all of it is `null` where the asker may not know of its root.
#[derive(Serialize)]
pub(super) struct RunEntry<'a> {
    pub(super) id: String,
    pub(super) agent: Option<&'a str>,
    pub(super) invocation: Option<InvocationEntry<'a>>,
    pub(super) live: Option<u64>,
    pub(super) stats: Option<Stats>,
    pub(super) uncertain: Option<bool>,
}

/// A process that is there.
#[derive(Serialize)]
pub(super) struct SeenEntry<'a> {
    id: String,
    /// The outermost agent's run.
    run: &'a str,
    /// The nearest agent's.
    invocation: Option<&'a str>,
    agent: Option<&'a str>,
    /// `running`, `zombie`.
    state: &'static str,
    seconds: f64,
    /// Who forked it; of its ancestors the nearest that is known.
    forker: Option<String>,
    parent: Option<String>,
    process: ProcessEntry<'a>,
    exit: Option<ExitEntry>,
    tool_call: Option<AttributionEntry<'a>>,
    kept_by: Option<&'a str>,
    /// What was found of it and stands.
    findings: Vec<FoundEntry>,
}

#[derive(Serialize)]
struct FoundEntry {
    kind: FindingKind,
    since: Option<String>,
}

impl<'a> SeenEntry<'a> {
    pub(super) fn of(seen: &'a Seen, writer: &Writer, now: Nanos) -> Self {
        let Seen { run: _, outermost, described } = seen;
        let Described {
            process,
            forker,
            parent,
            agent,
            root: _,
            tool_call,
            exit,
            kept_by,
            findings,
        } = described;
        let id_of = |id: &ProcessId| (id.pid != 0).then(|| id.to_string());
        let found =
            |&(kind, since): &(FindingKind, Nanos)| FoundEntry { kind, since: writer.time(since) };
        Self {
            id: process.id.to_string(),
            run: outermost,
            invocation: agent.as_ref().map(|agent| agent.invocation.as_str()),
            agent: agent.as_ref().and_then(|agent| agent.name.as_deref()),
            state: if exit.is_some() { "zombie" } else { "running" },
            seconds: now.since(Nanos(process.id.start)).as_secs_f64(),
            forker: id_of(forker),
            parent: id_of(parent),
            process: writer.process(process),
            exit: exit.as_ref().map(ExitEntry::from),
            tool_call: tool_call.as_ref().map(|call| writer.attribution(call)),
            kept_by: kept_by.as_deref(),
            findings: findings.iter().map(found).collect(),
        }
    }
}

/// `tracer.blame/1`.
#[derive(Serialize)]
pub(super) struct BlameAnswer<'a> {
    #[serde(flatten)]
    pub(super) head: Head<'a>,
    pub(super) what: Subject,
    pub(super) processes: Vec<BlamedEntry<'a>>,
}

/// A process, and all that tells whose it is.
#[derive(Serialize)]
pub(super) struct BlamedEntry<'a> {
    #[serde(flatten)]
    pub(super) seen: SeenEntry<'a>,
    /// The nearest agent.
    pub(super) agent_run: Option<AgentEntry<'a>>,
    /// Where it listens, of what was asked.
    pub(super) listening: &'a [String],
    /// Whom it descends from, the root first.
    pub(super) lineage: Vec<LineEntry>,
    /// What was found of it and stands.
    pub(super) found: Vec<FindingEntry<'a>>,
}

#[derive(Serialize)]
pub(super) struct LineEntry {
    id: String,
    #[serde(flatten)]
    ancestor: AncestorEntry,
}

impl LineEntry {
    pub(super) fn of((id, ancestor): &(ProcessId, Ancestor)) -> Self {
        Self { id: id.to_string(), ancestor: AncestorEntry::from(ancestor) }
    }
}

/// The agent of a process, as contracts have it.
pub(super) fn agent(agent: Option<&Agent>) -> Option<AgentEntry<'_>> {
    agent.map(AgentEntry::from)
}
