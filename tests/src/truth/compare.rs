//! What tracer said, held against what is so: every process, and every finding.

use std::collections::HashMap;
use std::sync::atomic::Ordering::SeqCst;

use serde_json::Value;

use super::expect::{Bounds, Expected, Reaped, Sure, Truth};
use super::plan::{End, Id, Op};

/// What a comparison came to; of many, added up.
#[derive(Clone, Debug, Default)]
pub struct Score {
    /// Processes that there were.
    pub processes: usize,
    /// Of those, the ones that lived for less than a millisecond.
    pub under_1_ms: usize,
    /// Single facts about them that were compared.
    pub facts: usize,
    /// Findings that had to be there.
    pub expected: usize,
    /// Findings that were there.
    pub reported: usize,
    /// Findings of which either answer would have been right, as bounds lie around a threshold.
    pub either: usize,
    /// Findings that had to be there but for a stall of the machine.
    pub stalled: usize,
    /// Reaps of which tracer said that it does not know whose they were.
    pub unknown_reaps: usize,
    /// Processes and findings that tracer missed or made up, facts that it got wrong, in words.
    pub missed: Vec<String>,
    /// See [`Score::missed`].
    pub made_up: Vec<String>,
    /// See [`Score::missed`].
    pub wrong: Vec<String>,
}

impl Score {
    /// Adds another.
    pub fn add(&mut self, other: Self) {
        let Self {
            processes,
            under_1_ms,
            facts,
            expected,
            reported,
            either,
            stalled,
            unknown_reaps,
            missed,
            made_up,
            wrong,
        } = other;
        self.processes += processes;
        self.under_1_ms += under_1_ms;
        self.facts += facts;
        self.expected += expected;
        self.reported += reported;
        self.either += either;
        self.stalled += stalled;
        self.unknown_reaps += unknown_reaps;
        self.missed.extend(missed);
        self.made_up.extend(made_up);
        self.wrong.extend(wrong);
    }

    /// Everything that was not as it should be.
    pub fn mistakes(&self) -> impl Iterator<Item = &String> {
        self.missed.iter().chain(&self.made_up).chain(&self.wrong)
    }
}

/// Compares a run: the process log's lines, the report.
#[must_use]
pub fn compare(truth: Truth<'_>, log: &[Value], report: &Value) -> Score {
    let lives = Lives::new(truth, log);
    let mut comparison = Comparison { truth, lives, score: Score::default() };
    comparison.processes(log);
    comparison.findings(report);
    comparison.score
}

/// Which line of the log tells of which process.
struct Lives<'a> {
    line: HashMap<Id, &'a Value>,
    id: HashMap<&'a str, Id>,
}

impl<'a> Lives<'a> {
    fn new(truth: Truth<'_>, log: &'a [Value]) -> Self {
        let mut lives = Self { line: HashMap::new(), id: HashMap::new() };
        for line in log {
            let start = line["start_ns"].as_u64().unwrap_or(0);
            let named = |&id: &Id| line["pid"] == truth.pid(id) && within(start, truth.made(id));
            let free = |id: &Id| !lives.line.contains_key(id);
            if let Some(id) = (0..truth.plan.nodes.len()).filter(named).find(free) {
                lives.line.insert(id, line);
                lives.id.insert(line["id"].as_str().unwrap_or_default(), id);
            }
        }
        lives
    }
}

fn within(at: u64, (from, to): Bounds) -> bool {
    (from..=to).contains(&at)
}

struct Comparison<'a> {
    truth: Truth<'a>,
    lives: Lives<'a>,
    score: Score,
}

impl Comparison<'_> {
    fn processes(&mut self, log: &[Value]) {
        let known: Vec<&str> = self.lives.id.keys().copied().collect();
        for line in log {
            if !known.contains(&line["id"].as_str().unwrap_or_default()) {
                self.score.made_up.push(format!("no such process: {line}"));
            }
        }
        for id in 0..self.truth.plan.nodes.len() {
            self.score.processes += 1;
            match self.lives.line.get(&id) {
                Some(&line) => self.life(id, line),
                None => {
                    let (pid, made) = (self.truth.pid(id), self.truth.made(id));
                    let text = format!("process {id}, pid {pid}, made in {made:?}, is not told of");
                    self.score.missed.push(text);
                }
            }
        }
    }

    fn fact(&mut self, id: Id, what: &str, line: &Value, right: bool, truth: &dyn std::fmt::Debug) {
        self.score.facts += 1;
        if !right {
            let node = &self.truth.plan.nodes[id];
            let about = format!("process {id} ({:?}, child of {})", node.end, node.parent);
            self.score.wrong.push(format!("{about}: {what} should be {truth:?} in {line}"));
        }
    }

    fn life(&mut self, id: Id, line: &Value) {
        let (truth, node) = (self.truth, &self.truth.plan.nodes[id]);
        let slot = truth.slot(id);
        if id != 0 {
            for (what, whose) in [("forker", node.forker), ("parent", node.parent)] {
                let wanted = self.lives.line.get(&whose).map(|line| line["id"].clone());
                self.fact(id, what, line, Some(&line[what]) == wanted.as_ref(), &wanted);
            }
        }
        let own_pid = slot.own_pid.load(SeqCst);
        let right = own_pid == 0 || line["namespace_pid"] == own_pid;
        self.fact(id, "namespace_pid", line, right, &own_pid);
        self.program(id, line);
        if truth.may_outlive_judgement(id) {
            return;
        }
        self.death(id, line);
        self.adoption(id, line);
        self.reap(id, line);
    }

    fn time(&mut self, id: Id, what: &str, line: &Value, bounds: Option<Bounds>) {
        let right = match (line[what].as_u64(), bounds) {
            (Some(at), Some(bounds)) => within(at, bounds),
            (None, None) => line[what].is_null(),
            _ => false,
        };
        self.fact(id, what, line, right, &bounds);
    }

    fn program(&mut self, id: Id, line: &Value) {
        let executed = self.truth.executed(id);
        if id == 0 {
            // Executed by tracer's child: after it was made, before its program told of itself.
            let bounds = (line["start_ns"].as_u64().unwrap_or(u64::MAX), self.truth.made(0).1);
            self.time(id, "exec_ns", line, Some(bounds));
        } else {
            self.time(id, "exec_ns", line, executed);
        }
        let wanted = match program_of(self.truth, id) {
            Some((process, step)) => vec![process.to_string(), step.to_string()],
            None => Vec::new(),
        };
        let args = line["args"].as_array();
        let told: Vec<&str> =
            args.into_iter().flatten().skip(5).filter_map(Value::as_str).collect();
        self.fact(id, "args", line, told == wanted, &wanted);
    }

    fn death(&mut self, id: Id, line: &Value) {
        self.time(id, "exit_ns", line, self.truth.died(id));
        let exit = &line["exit"];
        let status = self.truth.status(id);
        let status = if id == 0 { self.root_status() } else { status };
        let right = match status {
            None => exit.is_null(),
            Some(word) if libc::WIFEXITED(word) => exit["code"] == libc::WEXITSTATUS(word),
            Some(word) => exit["signal"] == signal_name(libc::WTERMSIG(word)),
        };
        self.fact(id, "exit", line, right, &status);
        let lived = line["exit_ns"].as_u64().zip(line["start_ns"].as_u64());
        if lived.is_some_and(|(end, start)| end.saturating_sub(start) < 1_000_000) {
            self.score.under_1_ms += 1;
        }
    }

    fn root_status(&self) -> Option<i32> {
        match self.truth.plan.nodes[0].end {
            End::Code(code) => Some(i32::from(code) << 8),
            End::Signal(signal) => Some(signal),
            end => panic!("a root does not end by {end:?}"),
        }
    }

    fn adoption(&mut self, id: Id, line: &Value) {
        let (truth, node) = (self.truth, &self.truth.plan.nodes[id]);
        if id == 0 {
            return;
        }
        if node.end != End::WithNamespace {
            let bounds = truth.is_orphan(id).then(|| {
                let seen = truth.slot(id).adopted_seen.load(SeqCst);
                let from = truth.slot(node.parent).end_before.load(SeqCst);
                (
                    from,
                    if seen == 0 { truth.died(id).map_or(u64::MAX, |died| died.1) } else { seen },
                )
            });
            self.time(id, "orphaned_ns", line, bounds);
        }
        let last = if node.outlives_root() {
            truth.account.head().outside.load(SeqCst)
        } else if truth.is_orphan(id) {
            let seen = truth.slot(id).adopter.load(SeqCst);
            if seen == 0 { truth.adopters(id)[0] } else { seen }
        } else {
            truth.pid(node.parent)
        };
        let told = line["last_parent"].as_str().and_then(|id| id.rsplit_once('-'));
        let unknown = node.end == End::Survives && line["last_parent"].is_null();
        let right = unknown || told.is_some_and(|(_, pid)| pid == last.to_string());
        self.fact(id, "last_parent", line, right, &last);
    }

    fn reap(&mut self, id: Id, line: &Value) {
        let reaped = self.truth.reaped(id);
        let told = line["reaped_by"].as_str();
        let right = match (reaped, told) {
            (Reaped::Parent | Reaped::Vanished, Some("parent"))
            | (Reaped::Adopter, Some("adopter"))
            | (Reaped::Never, None)
            // Nobody waited: the dying first process of the namespace is parent or adopter.
            | (Reaped::Kernel, Some(_)) => true,
            // Its last trace goes a while after the reap: the run was judged in between.
            (Reaped::Adopter | Reaped::Kernel, None) => {
                self.score.unknown_reaps += 1;
                line["gone_ns"].is_null()
            }
            _ => false,
        };
        self.fact(id, "reaped_by", line, right, &reaped);
        if let (true, Some(gone)) = (self.truth.slot(id).is_reaped(), line["gone_ns"].as_u64()) {
            let from = self.truth.reap(id).0;
            self.fact(id, "gone_ns", line, gone >= from, &from);
        }
    }

    fn findings(&mut self, report: &Value) {
        let none = Vec::new();
        let found = report["findings"].as_array().unwrap_or(&none);
        let mut told: HashMap<(&str, Id), &Value> = HashMap::new();
        for finding in found {
            let kind = finding["kind"].as_str().unwrap_or_default();
            let process = &finding["process"];
            let id = (self.lives.line.iter())
                .find(|(_, line)| {
                    line["pid"] == process["pid"] && line["start_time"] == process["start_time"]
                })
                .map(|(&id, _)| id);
            self.score.reported += 1;
            match id {
                Some(id) if !told.contains_key(&(kind, id)) => {
                    told.insert((kind, id), finding);
                }
                _ => self.score.made_up.push(format!("no such finding: {finding}")),
            }
        }
        for id in 0..self.truth.plan.nodes.len() {
            for expected in self.truth.findings(id) {
                let finding = told.remove(&(expected.kind, id));
                self.finding(&expected, finding);
            }
        }
        for ((kind, id), _) in told {
            let about = self.about(id);
            self.score.made_up.push(format!("{kind} of {about}"));
        }
        self.verdict(report);
    }

    /// Everything that helps to see why.
    fn about(&self, id: Id) -> String {
        let node = &self.truth.plan.nodes[id];
        let (died, reaped, reap) =
            (self.truth.died(id), self.truth.reaped(id), self.truth.reap(id));
        let line = self.lives.line.get(&id).map(ToString::to_string).unwrap_or_default();
        let parent = (node.parent, self.truth.died(node.parent));
        format!(
            "process {id}, {node:?}, died {died:?}, reaped {reaped:?} {reap:?}, parent {parent:?}, told {line}"
        )
    }

    fn finding(&mut self, expected: &Expected, told: Option<&Value>) {
        let &Expected { kind, id, open, sure, cause, adopters } = expected;
        match sure {
            Sure::Yes => self.score.expected += 1,
            Sure::Stalled => self.score.stalled += 1,
            Sure::Either | Sure::No => self.score.either += 1,
        }
        let Some(told) = told else {
            if sure == Sure::Yes {
                let about = self.about(id);
                self.score.missed.push(format!("{kind} of {about}"));
            }
            return;
        };
        if sure != Sure::Yes {
            return;
        }
        let truth = self.truth;
        let state = if open { "open" } else { "resolved" };
        self.fact(id, "state", told, told["state"] == state, &expected);
        let parent = truth.pid(truth.plan.nodes[id].parent);
        self.fact(id, "parent", told, told["parent"]["pid"] == parent, &parent);
        if let Some(cause) = cause {
            // What its parent waited for is told as it was when tracer looked, of what was put
            // right later: the wait for another may have come after that.
            let told_early = !open && told["cause"]["code"] == "parent_never_waits";
            let right = told["cause"]["code"] == cause || told_early;
            self.fact(id, "cause", told, right, &expected);
        }
        if kind == "orphan" || adopters {
            let mut adopters = truth.adopters(id);
            if !truth.plan.nodes[id].outlives_root() {
                adopters.truncate(1);
            }
            let right = adopters.iter().any(|&pid| told["adopter"]["pid"] == pid);
            self.fact(id, "adopter", told, right, &adopters);
        }
        let mut lineage = Vec::new();
        let mut at = id;
        while at != 0 {
            at = truth.plan.nodes[at].forker;
            lineage.insert(0, truth.pid(at));
        }
        let ancestors = told["lineage"].as_array();
        let right = ancestors.is_some_and(|ancestors| {
            ancestors.len() == lineage.len()
                && ancestors.iter().zip(&lineage).all(|(told, &pid)| told["pid"] == pid)
        });
        self.fact(id, "lineage", told, right, &lineage);
    }

    /// The verdict follows from the findings, which have been compared.
    fn verdict(&mut self, report: &Value) {
        let counts = |finding: &Value| {
            let kind = finding["kind"].as_str().unwrap_or_default();
            ["zombie", "survivor"].contains(&kind) && finding["state"] == "open"
        };
        let leaked = report["findings"].as_array().is_some_and(|all| all.iter().any(counts));
        let wanted = if leaked { "leaked" } else { "clean" };
        self.fact(0, "verdict", &report["verdict"], report["verdict"] == wanted, &wanted);
        let told = &report["stats"]["processes"];
        let wanted = self.truth.plan.nodes.len();
        self.fact(0, "stats.processes", told, *told == wanted, &wanted);
    }
}

/// Which process and step the program of `id` was executed for; `None`: for the root.
fn program_of(truth: Truth<'_>, id: Id) -> Option<(Id, usize)> {
    let mut of = id;
    // A process without a step of its own behind it runs what its forker did when it forked.
    let mut before = truth.plan.nodes[id].ops.len();
    loop {
        let node = &truth.plan.nodes[of];
        let exec = node.ops[..before].iter().rposition(|op| matches!(op, Op::Exec { .. }));
        if let Some(step) = exec {
            return Some((of, step + 1));
        }
        if of == 0 {
            return None;
        }
        let spawns = |op: &Op| match op {
            Op::Spawn(id) => *id == of,
            Op::InThread(ops) => ops.contains(&Op::Spawn(of)),
            _ => false,
        };
        let forker = &truth.plan.nodes[node.forker];
        before = forker.ops.iter().position(spawns).expect("a forker forks");
        of = node.forker;
    }
}

fn signal_name(signal: i32) -> String {
    match signal {
        libc::SIGKILL => "SIGKILL".to_owned(),
        libc::SIGTERM => "SIGTERM".to_owned(),
        libc::SIGHUP => "SIGHUP".to_owned(),
        libc::SIGUSR1 => "SIGUSR1".to_owned(),
        libc::SIGALRM => "SIGALRM".to_owned(),
        signal => format!("SIGRTMIN+{}", signal - libc::SIGRTMIN()),
    }
}
