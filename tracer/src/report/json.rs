//! The contract `tracer.report/1`: one JSON object a run.
//!
//! The structs mirror the contract and nothing else. They are made from the model by exhaustive
//! destructuring, so that what is new there must be placed here. Unknown is `null`, never zero.
//! Bytes of processes are escaped by [`lossless`], which can be undone.

use serde::Serialize;

use super::action::{ActionEntry, CleanupEntry};
use super::calendar;
use crate::container::{Container, Pod};
use crate::escape::{json_text, lossless};
use crate::lineage::model::{
    Adopter, Agent, Ancestor, Attribution, Blocked, Cause, Confidence, DirectChild, Exit,
    ExitStatus, Finding, FindingKind, FindingState, Invocation, Kept, Nanos, OnRequest, Outcome,
    OwnCgroup, Parent, Process, Resources, Sender, Server, Sleeper, Source, Stats, Stream,
    ToolCall, Verdict, Waits,
};
use crate::signals;

/// The report over several lines, for files, ending in a newline.
#[must_use]
pub fn render(outcome: &Outcome) -> String {
    let json = serde_json::to_string_pretty(&Writer::of(outcome).report(outcome));
    json_text(&json.expect("structs with string keys always serialise")) + "\n"
}

/// The report on one line, for streams, ending in a newline.
#[must_use]
pub fn render_line(outcome: &Outcome) -> String {
    let json = serde_json::to_string(&Writer::of(outcome).report(outcome));
    json_text(&json.expect("structs with string keys always serialise")) + "\n"
}

#[derive(Serialize)]
pub(crate) struct AgentEntry<'a> {
    name: Option<&'a str>,
    version: Option<String>,
    session_id: Option<String>,
    pid: u32,
    invocation: &'a str,
    parent_invocation: Option<&'a str>,
}

#[derive(Serialize)]
pub(crate) struct AttributionEntry<'a> {
    id: Option<&'a str>,
    name: Option<&'a str>,
    summary: Option<String>,
    confidence: Confidence,
    source: Source,
    /// Only where several may be it.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    candidates: &'a [String],
    child: Option<ChildEntry>,
}

#[derive(Serialize)]
struct ChildEntry {
    pid: u32,
    name: String,
    args: Vec<String>,
    started_at: Option<String>,
}

#[derive(Serialize)]
struct ToolCallEntry<'a> {
    id: &'a str,
    name: Option<&'a str>,
    summary: Option<&'a str>,
    invocation: &'a str,
    session_id: Option<&'a str>,
    started_at: Option<String>,
    ended_at: Option<String>,
    status: Option<&'static str>,
    end_seen: bool,
    background: Option<&'a str>,
    processes: &'a [u32],
}

#[derive(Serialize)]
struct Report<'a> {
    schema: &'static str,
    verdict: Verdict,
    invocation: InvocationEntry<'a>,
    findings: Vec<FindingEntry<'a>>,
    kept: Vec<KeptEntry<'a>>,
    cleanup: Option<CleanupEntry>,
    on_request: Vec<OnRequestEntry<'a>>,
    agents: Vec<AgentEntry<'a>>,
    tool_calls: Vec<ToolCallEntry<'a>>,
    stats: Stats,
    notes: &'a [String],
}

#[derive(Serialize)]
pub(crate) struct InvocationEntry<'a> {
    id: String,
    parent_invocation: Option<String>,
    agent: Option<&'a str>,
    agent_version: Option<String>,
    session_id: Option<String>,
    command: Vec<String>,
    root: ProcessEntry<'a>,
    started_at: Option<String>,
    ended_at: Option<String>,
    exit: Option<ExitEntry>,
    cgroup: Option<CgroupEntry<'a>>,
}

#[derive(Serialize)]
struct CgroupEntry<'a> {
    path: String,
    cpu_user_seconds: Option<f64>,
    cpu_system_seconds: Option<f64>,
    memory_peak_bytes: Option<u64>,
    pids_peak: Option<u64>,
    unknown: &'a [String],
    left: Option<&'a str>,
}

#[derive(Serialize)]
pub(crate) struct ProcessEntry<'a> {
    pid: u32,
    /// Only where `pid` is not the initial PID namespace's.
    #[serde(skip_serializing_if = "Option::is_none")]
    host_pid: Option<u32>,
    ppid: Option<u32>,
    pgid: Option<u32>,
    sid: Option<u32>,
    start_time: Option<String>,
    name: String,
    exe: Option<String>,
    args: Vec<String>,
    /// Only where it is so.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    args_truncated: bool,
    cwd: Option<String>,
    state: Option<char>,
    namespace_pid: Option<u32>,
    cgroup: Option<String>,
    container: Option<ContainerEntry<'a>>,
}

#[derive(Serialize)]
struct ContainerEntry<'a> {
    #[serde(flatten)]
    container: Container<'a>,
    pod: Option<&'a Pod>,
}

#[derive(Serialize)]
#[serde(untagged)]
pub(crate) enum ExitEntry {
    /// `null` where it ended, but the record of how was lost.
    Code {
        code: Option<u8>,
    },
    Signal {
        signal: String,
        sender: Option<PidName>,
        oom: bool,
    },
}

#[derive(Serialize)]
pub(crate) struct PidName {
    pid: u32,
    name: String,
}

#[derive(Serialize)]
pub(crate) struct FindingEntry<'a> {
    id: u32,
    kind: FindingKind,
    state: &'static str,
    counted: bool,
    process: ProcessEntry<'a>,
    exit: Option<ExitEntry>,
    lineage: Vec<AncestorEntry>,
    lineage_elided: u32,
    parent: Option<ParentEntry>,
    adopter: Option<AdopterEntry>,
    cause: CauseEntry,
    agent: Option<AgentEntry<'a>>,
    tool_call: Option<AttributionEntry<'a>>,
    resources: Option<ResourcesEntry>,
    blocked: Option<BlockedEntry>,
    since: Option<String>,
    resolved_at: Option<String>,
    seconds: f64,
    action: Option<ActionEntry<'a>>,
}

#[derive(Serialize)]
pub(crate) struct AncestorEntry {
    pid: u32,
    name: String,
    args: Vec<String>,
    /// Only where it is so.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    args_truncated: bool,
    exit: Option<ExitEntry>,
}

#[derive(Serialize)]
struct ParentEntry {
    pid: u32,
    name: String,
    exit: Option<ExitEntry>,
    waits: Option<Waits>,
}

#[derive(Serialize)]
struct AdopterEntry {
    pid: u32,
    name: String,
    init: bool,
}

#[derive(Serialize)]
struct CauseEntry {
    code: &'static str,
    text: String,
    hint: String,
}

#[derive(Serialize)]
struct ResourcesEntry {
    rss_bytes: Option<u64>,
    fds: Option<u64>,
    listening: Vec<String>,
    devices: Vec<String>,
    streams: Vec<Stream>,
}

#[derive(Serialize)]
struct BlockedEntry {
    wchan: Option<String>,
    mount: Option<String>,
    /// `fuse`, `remote`, `local`.
    server: Option<&'static str>,
    file: Option<String>,
    thread: Option<u32>,
    stack: Vec<String>,
    others: Vec<SleeperEntry>,
}

#[derive(Serialize)]
struct SleeperEntry {
    thread: u32,
    wchan: Option<String>,
    stack: Vec<String>,
}

#[derive(Serialize)]
struct KeptEntry<'a> {
    kind: FindingKind,
    process: ProcessEntry<'a>,
    rule: &'a str,
}

#[derive(Serialize)]
struct OnRequestEntry<'a> {
    process: ProcessEntry<'a>,
    tool_call: Option<AttributionEntry<'a>>,
    action: ActionEntry<'a>,
}

/// Turns the model into entries; knows what a calendar time is.
pub(crate) struct Writer {
    pub(crate) epoch_offset: i64,
}

impl Writer {
    fn of(outcome: &Outcome) -> Self {
        Self { epoch_offset: outcome.epoch_offset }
    }

    /// RFC 3339, UTC, to the microsecond; the offset between the clocks is no more exact.
    pub(crate) fn time(&self, at: Nanos) -> Option<String> {
        calendar(at, self.epoch_offset).map(|time| format!("{time:.6}"))
    }

    fn report<'a>(&self, outcome: &'a Outcome) -> Report<'a> {
        let Outcome {
            verdict,
            invocation,
            findings,
            kept,
            cleanup,
            on_request,
            agents,
            tool_calls,
            stats,
            notes,
            judged_at: _,
            epoch_offset: _,
        } = outcome;
        Report {
            schema: "tracer.report/1",
            verdict: *verdict,
            invocation: self.invocation(invocation),
            findings: findings.iter().map(|finding| self.finding(finding)).collect(),
            kept: kept.iter().map(|kept| self.kept(kept)).collect(),
            cleanup: cleanup.as_ref().map(|cleanup| self.cleanup(cleanup)),
            on_request: on_request.iter().map(|one| self.on_request(one)).collect(),
            agents: agents.iter().map(AgentEntry::from).collect(),
            tool_calls: tool_calls.iter().map(|call| self.tool_call(call)).collect(),
            stats: *stats,
            notes,
        }
    }

    fn tool_call<'a>(&self, call: &'a ToolCall) -> ToolCallEntry<'a> {
        let ToolCall {
            invocation,
            id,
            name,
            summary,
            session_id,
            started_at,
            end,
            background,
            processes,
        } = call;
        ToolCallEntry {
            id,
            name: name.as_deref(),
            summary: summary.as_deref(),
            invocation,
            session_id: session_id.as_deref(),
            started_at: started_at.and_then(|at| self.time(at)),
            ended_at: end.and_then(|(at, _)| self.time(at)),
            status: end.map(|(_, status)| status),
            end_seen: end.is_some(),
            background: background.as_deref(),
            processes,
        }
    }

    pub(crate) fn attribution<'a>(&self, attribution: &'a Attribution) -> AttributionEntry<'a> {
        let Attribution { id, name, summary, confidence, source, candidates, child } = attribution;
        AttributionEntry {
            id: id.as_deref(),
            name: name.as_deref(),
            summary: summary.as_deref().map(lossless),
            confidence: *confidence,
            source: *source,
            candidates,
            child: child.as_ref().map(|DirectChild { pid, name, args, at }| ChildEntry {
                pid: *pid,
                name: lossless(name),
                args: all_lossless(args),
                started_at: self.time(*at),
            }),
        }
    }

    pub(crate) fn invocation<'a>(&self, invocation: &'a Invocation) -> InvocationEntry<'a> {
        let Invocation { id, parent, agent, command, root, started_at, exit, cgroup } = invocation;
        let agent = agent.as_ref();
        InvocationEntry {
            id: id.clone(),
            parent_invocation: parent.clone(),
            agent: agent.and_then(|agent| agent.name.as_deref()),
            agent_version: agent.and_then(|agent| agent.version.as_deref()).map(lossless),
            session_id: agent.and_then(|agent| agent.session_id.as_deref()).map(lossless),
            command: all_lossless(command),
            root: self.process(root),
            started_at: self.time(*started_at),
            ended_at: exit.as_ref().and_then(|exit| self.time(exit.at)),
            exit: exit.as_ref().map(ExitEntry::from),
            cgroup: cgroup.as_ref().map(CgroupEntry::from),
        }
    }

    pub(crate) fn process<'a>(&self, process: &'a Process) -> ProcessEntry<'a> {
        let Process {
            id,
            pids,
            ppid,
            pgid,
            sid,
            name,
            exe,
            args,
            args_truncated,
            cwd,
            state,
            cgroup,
            pod,
        } = process;
        let container = |container| ContainerEntry { container, pod: pod.as_deref() };
        let path = |path: &Option<Vec<u8>>| path.as_deref().map(lossless);
        ProcessEntry {
            pid: pids.shown(),
            host_pid: known(pids.host).filter(|host| *host != pids.shown()),
            ppid: *ppid,
            pgid: *pgid,
            sid: *sid,
            start_time: (id.start != 0).then(|| self.time(Nanos(id.start))).flatten(),
            name: lossless(name),
            exe: path(exe),
            args: all_lossless(args),
            args_truncated: *args_truncated,
            cwd: path(cwd),
            state: *state,
            namespace_pid: known(pids.namespace),
            cgroup: path(cgroup),
            container: cgroup.as_deref().and_then(Container::of_cgroup).map(container),
        }
    }

    pub(crate) fn finding<'a>(&self, finding: &'a Finding) -> FindingEntry<'a> {
        let Finding {
            id,
            kind,
            state,
            counted,
            process,
            lineage,
            lineage_elided,
            parent,
            adopter,
            exit,
            cause: Cause { code, text, hint },
            agent,
            tool_call,
            resources,
            blocked,
            action,
            since,
            until,
        } = finding;
        let (state, resolved_at) = match state {
            FindingState::Open => ("open", None),
            FindingState::Resolved(at) => ("resolved", self.time(*at)),
        };
        FindingEntry {
            id: *id,
            kind: *kind,
            state,
            counted: *counted,
            process: self.process(process),
            exit: exit.as_ref().map(ExitEntry::from),
            lineage: lineage.iter().map(AncestorEntry::from).collect(),
            lineage_elided: *lineage_elided,
            parent: parent.as_ref().map(ParentEntry::from),
            adopter: adopter.as_ref().map(AdopterEntry::from),
            cause: CauseEntry { code: code.as_str(), text: text.clone(), hint: hint.clone() },
            agent: agent.as_ref().map(AgentEntry::from),
            tool_call: tool_call.as_ref().map(|call| self.attribution(call)),
            resources: resources.as_ref().map(ResourcesEntry::from),
            blocked: blocked.as_ref().map(BlockedEntry::from),
            since: self.time(*since),
            resolved_at,
            seconds: until.since(*since).as_secs_f64(),
            action: action.as_ref().map(|action| self.action(action)),
        }
    }

    fn on_request<'a>(&self, on_request: &'a OnRequest) -> OnRequestEntry<'a> {
        let OnRequest { process, tool_call, action } = on_request;
        OnRequestEntry {
            process: self.process(process),
            tool_call: tool_call.as_ref().map(|call| self.attribution(call)),
            action: self.action(action),
        }
    }

    fn kept<'a>(&self, kept: &'a Kept) -> KeptEntry<'a> {
        let Kept { kind, process, rule } = kept;
        KeptEntry { kind: *kind, process: self.process(process), rule }
    }
}

impl<'a> From<&'a OwnCgroup> for CgroupEntry<'a> {
    fn from(own: &'a OwnCgroup) -> Self {
        let OwnCgroup { path, cpu_user, cpu_system, memory_peak, pids_peak, unknown, left } = own;
        Self {
            path: lossless(path),
            cpu_user_seconds: cpu_user.map(|time| time.as_secs_f64()),
            cpu_system_seconds: cpu_system.map(|time| time.as_secs_f64()),
            memory_peak_bytes: *memory_peak,
            pids_peak: *pids_peak,
            unknown,
            left: left.as_deref(),
        }
    }
}

/// A pid, where there is one.
pub(super) fn known(pid: u32) -> Option<u32> {
    (pid != 0).then_some(pid)
}

pub(super) fn all_lossless(words: &[Vec<u8>]) -> Vec<String> {
    words.iter().map(|word| lossless(word)).collect()
}

impl<'a> From<&'a Agent> for AgentEntry<'a> {
    fn from(agent: &'a Agent) -> Self {
        let Agent { invocation, parent_invocation, name, version, session_id, pid } = agent;
        Self {
            name: name.as_deref(),
            version: version.as_deref().map(lossless),
            session_id: session_id.as_deref().map(lossless),
            pid: *pid,
            invocation,
            parent_invocation: parent_invocation.as_deref(),
        }
    }
}

impl From<&Exit> for ExitEntry {
    fn from(exit: &Exit) -> Self {
        let Exit { status, sender, oom, at: _ } = exit;
        let sender =
            sender.as_ref().map(|Sender { pid, name }| PidName { pid: *pid, name: lossless(name) });
        match status {
            None => Self::Code { code: None },
            Some(ExitStatus::Code(code)) => Self::Code { code: Some(*code) },
            Some(ExitStatus::Signal(signal)) => {
                Self::Signal { signal: signals::name(*signal), sender, oom: *oom }
            }
        }
    }
}

impl From<&Ancestor> for AncestorEntry {
    fn from(ancestor: &Ancestor) -> Self {
        let Ancestor { pid, name, args, args_truncated, exit } = ancestor;
        Self {
            pid: *pid,
            name: lossless(name),
            args: all_lossless(args),
            args_truncated: *args_truncated,
            exit: exit.as_ref().map(ExitEntry::from),
        }
    }
}

impl From<&Parent> for ParentEntry {
    fn from(parent: &Parent) -> Self {
        let Parent { pid, name, exit, waits } = parent;
        let exit = exit.as_ref().map(ExitEntry::from);
        Self { pid: *pid, name: lossless(name), exit, waits: *waits }
    }
}

impl From<&Adopter> for AdopterEntry {
    fn from(adopter: &Adopter) -> Self {
        let Adopter { pid, name, is_init } = adopter;
        Self { pid: *pid, name: lossless(name), init: *is_init }
    }
}

impl From<&Resources> for ResourcesEntry {
    fn from(resources: &Resources) -> Self {
        let Resources { rss_bytes, fds, listening, devices, streams } = resources;
        Self {
            rss_bytes: *rss_bytes,
            fds: *fds,
            listening: all_lossless(listening),
            devices: all_lossless(devices),
            streams: streams.clone(),
        }
    }
}

impl From<&Blocked> for BlockedEntry {
    fn from(blocked: &Blocked) -> Self {
        let Blocked { wchan, mount, server, file, thread, stack, others } = blocked;
        Self {
            wchan: wchan.as_deref().map(lossless),
            mount: mount.as_deref().map(lossless),
            server: server.map(|server| match server {
                Server::Fuse { .. } => "fuse",
                Server::Remote => "remote",
                Server::Local => "local",
            }),
            file: file.as_deref().map(lossless),
            thread: *thread,
            stack: all_lossless(stack),
            others: others
                .iter()
                .map(|Sleeper { thread, wchan, stack }| SleeperEntry {
                    thread: *thread,
                    wchan: wchan.as_deref().map(lossless),
                    stack: all_lossless(stack),
                })
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::report::sample;

    fn parsed(outcome: &Outcome) -> Value {
        serde_json::from_str(&render(outcome)).unwrap()
    }

    #[test]
    fn contract_of_four_leaks() {
        insta::assert_snapshot!(render(&sample::four_leaks()));
    }

    #[test]
    fn contract_of_odd_cases() {
        insta::assert_snapshot!(render(&sample::odd()));
    }

    #[test]
    fn unknown_is_null() {
        let mut outcome = sample::clean();
        outcome.invocation.exit = None;
        outcome.invocation.root = Process::default();
        let json = parsed(&outcome);
        assert_eq!(json["invocation"]["exit"], Value::Null);
        assert_eq!(json["invocation"]["ended_at"], Value::Null);
        for key in
            ["ppid", "start_time", "exe", "cwd", "state", "namespace_pid", "cgroup", "container"]
        {
            assert_eq!(json["invocation"]["root"].get(key), Some(&Value::Null), "{key}");
        }
        outcome.invocation.exit = Some(Exit { status: None, ..sample::exited(0) });
        assert_eq!(parsed(&outcome)["invocation"]["exit"], json!({ "code": null }));
    }

    #[test]
    fn killer_is_named() {
        let mut outcome = sample::clean();
        outcome.invocation.exit = Some(sample::killed(15, Some(("kill", 77))));
        assert_eq!(
            parsed(&outcome)["invocation"]["exit"],
            json!({
                "signal": "SIGTERM",
                "sender": { "pid": 77, "name": "kill" },
                "oom": false
            })
        );
    }

    #[test]
    fn line_holds_the_same_object() {
        let outcome = sample::hostile();
        let line = render_line(&outcome);
        assert_eq!(line.matches('\n').count(), 1);
        assert_eq!(serde_json::from_str::<Value>(&line).unwrap(), parsed(&outcome));
    }

    #[test]
    fn cgroup_of_the_run_is_told() {
        let report: Value = serde_json::from_str(&render(&sample::in_cgroup())).unwrap();
        let wanted = serde_json::json!({
            "path": "/ci/tracer-1-2-3", "cpu_user_seconds": 1.25, "cpu_system_seconds": 0.45,
            "memory_peak_bytes": 45 << 20, "pids_peak": 7, "unknown": [], "left": null,
        });
        assert_eq!(report["invocation"]["cgroup"], wanted);
    }

    #[test]
    fn bytes_of_processes_are_lossless() {
        let mut outcome = sample::clean();
        outcome.invocation.command = vec![b"\xff\\x\x1b\n".to_vec()];
        assert_eq!(parsed(&outcome)["invocation"]["command"], json!(["\\xff\\x5cx\x1b\n"]));
    }
}
