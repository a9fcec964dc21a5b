//! The end of a run: what was found, as reports show it, and the verdict.

use std::{collections::BTreeMap, rc::Rc};

use super::{
    Lineage,
    agents::InvocationIndex,
    event::Observation,
    findings::{Alike, Record},
    life::Reaper,
    model::{
        Action, Adopter, Exit, Finding, FindingKind, FindingState, Invocation, Kept, Nanos,
        OnRequest, Outcome, Parent, Process, ProcessId, Sender, Verdict, Waits,
    },
    recover::Gap,
    table::{Entry, OOM, Reap},
};
use crate::lineage::model::ExitStatus;

/// What counts.
#[derive(Clone, Copy)]
pub struct Policy<'a> {
    /// Kinds that fail the gate; empty: none, but the verdict still tells of the default kinds.
    pub fail_on: &'a [FindingKind],
    /// What was put right in time counts too.
    pub strict: bool,
    /// The pattern that keeps a process from being counted, if one does.
    pub allow: &'a dyn Fn(&Process) -> Option<String>,
}

impl std::fmt::Debug for Policy<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { fail_on, strict, allow: _ } = self;
        f.debug_struct("Policy")
            .field("fail_on", fail_on)
            .field("strict", strict)
            .finish_non_exhaustive()
    }
}

/// Kinds that fail the gate unless told otherwise.
pub const DEFAULT_FAIL_ON: [FindingKind; 2] = [FindingKind::Zombie, FindingKind::Survivor];

impl Lineage {
    /// Judges the run at `now`. `command` is the command line that was asked for, `epoch_offset`
    /// what added to a boottime gives nanoseconds since the epoch.
    #[must_use]
    pub fn outcome(
        &self,
        now: Nanos,
        command: &[Vec<u8>],
        epoch_offset: i64,
        policy: Policy<'_>,
    ) -> Outcome {
        let fail_on = if policy.fail_on.is_empty() { &DEFAULT_FAIL_ON } else { policy.fail_on };
        let mut findings = Vec::new();
        let mut kept = Vec::new();
        for record in self.findings.in_order() {
            let Some(mut finding) = self.finding(record, now) else { continue };
            let kept_by = || self.kept_by(record.process, now);
            if let Some(rule) = (policy.allow)(&finding.process).or_else(kept_by) {
                // An orphan that survived is told once, as what it came to be.
                kept.retain(|kept: &Kept| {
                    kept.kind != FindingKind::Orphan || kept.process.id != record.process
                });
                kept.push(Kept { kind: finding.kind, process: finding.process, rule });
                continue;
            }
            let stands = finding.state == FindingState::Open;
            finding.counted = fail_on.contains(&finding.kind)
                && (stands || policy.strict)
                && (!self.gap.cut_off || self.is_certain(record, policy.strict));
            finding.id = u32::try_from(findings.len() + 1).unwrap_or(u32::MAX);
            findings.push(finding);
        }
        let gap = self.gap();
        // Of processes that are gone: whatever may come after a cut changes nothing about them.
        let counted = |kind, stands: bool| fail_on.contains(&kind) && (stands || policy.strict);
        let beyond = self.findings.counted().filter(|(alike, _)| {
            counted(alike.kind, alike.open) && (policy.allow)(&alike_process(alike)).is_none()
        });
        let beyond: u64 = beyond.map(|(_, number)| number).sum();
        let verdict = if beyond > 0 || findings.iter().any(|finding| finding.counted) {
            Verdict::Leaked
        } else if gap.is_open(policy.strict) {
            Verdict::Inconclusive
        } else {
            Verdict::Clean
        };
        Outcome {
            verdict,
            invocation: self.invocation(command),
            tool_calls: self.tool_calls(&findings),
            agents: self.nested_agents(),
            findings,
            kept,
            cleanup: self.cleanup.summary().cloned(),
            on_request: self.on_request(),
            stats: self.stats,
            notes: self.notes(gap, policy.strict, beyond),
            judged_at: now,
            epoch_offset,
        }
    }

    /// What stands open at `now` and is held against a call of the asker's agent, in the order in
    /// which it was found; the number of each stays the same. `sender` is a pid in the tracer's PID
    /// namespace, `sent_at` when it asked.
    #[must_use]
    pub fn open_findings(
        &self,
        sender: u32,
        sent_at: Nanos,
        agent: Option<&str>,
        now: Nanos,
    ) -> Vec<(u64, Finding)> {
        let Some(invocation) = self.asked_about(sender, sent_at, agent) else { return Vec::new() };
        let is_held_against_it = |id| {
            let blame = self.blame(id);
            let call = blame.call.filter(|_| blame.is_sure());
            call.and_then(|call| self.calls.get(call))
                .is_some_and(|call| call.invocation == invocation && call.background.is_none())
        };
        let records = self.findings.in_order().into_iter().filter(|record| {
            record.state == FindingState::Open
                && is_held_against_it(record.process)
                && self.lease_of(record.process, now).is_none()
        });
        records.filter_map(|record| Some((record.number, self.finding(record, now)?))).collect()
    }

    /// Whether a finding counts whatever comes after it.
    fn is_certain(&self, record: &Record, strict: bool) -> bool {
        let reap = self.table.get(record.process).map(|entry| entry.reap);
        match record.kind {
            FindingKind::Survivor => true,
            // One that nobody has adopted yet may turn out to be none.
            FindingKind::Orphan => strict && record.is_adopted(),
            FindingKind::Stuck | FindingKind::OutlivedCall => strict,
            FindingKind::Zombie if strict => true,
            // Its own parent can not put it right any more.
            FindingKind::Zombie => {
                !record.adopters && matches!(reap, Some(Reap::Left(_) | Reap::ByAdopter))
            }
        }
    }

    pub(super) fn invocation(&self, command: &[Vec<u8>]) -> Invocation {
        let id = self.root.unwrap_or_default();
        let root = self.table.get(id).map(|entry| self.process(id, entry, None));
        Invocation {
            id: id.to_string(),
            parent: None,
            agent: self.agent_told(InvocationIndex::RUN),
            command: command.to_vec(),
            root: root.unwrap_or_default(),
            started_at: Nanos(id.start),
            exit: self.exit_of(id),
            cgroup: self.own_cgroup.clone(),
        }
    }

    fn notes(&self, gap: Gap, strict: bool, counted_beyond: u64) -> Vec<String> {
        let Gap { unseen, ends, failed, unreaped, unlooked, reaps, cut_off } = gap;
        let mut notes = Vec::new();
        if cut_off {
            notes.push(
                "the recording ends before the run did: what came after is not known".to_owned(),
            );
        }
        if self.grace_cut_short {
            notes.push("a signal cut --grace short: what was alive then counts".to_owned());
        }
        let beyond: u64 = self.findings.counted().map(|(_, number)| number).sum();
        if beyond > 0 {
            notes.push(format!(
                "{beyond} more findings of processes that are gone are left out here, {counted_beyond} of them counted: {}",
                self.kinds_beyond().join(", ")
            ));
        }
        let requested = self.cleanup.requested_beyond();
        if requested > 0 {
            notes.push(format!(
                "{requested} more processes that were to end on request are left out here"
            ));
        }
        if unseen > 0 {
            notes.push(format!("{unseen} processes came and went unseen: records were lost"));
        }
        if ends > 0 {
            notes.push(format!(
                "the end of {ends} processes was not seen: records were lost, so how long they stood unreaped is not known"
            ));
        }
        if unreaped > 0 {
            notes.push(format!(
                "whether {unreaped} dead processes were reaped by their own parent is not known: records were lost, or the parent had too many children"
            ));
        }
        if unlooked > 0 {
            notes.push(format!(
                "{unlooked} dead processes could not be looked at in /proc, so whether they are zombies is not known: hidden, or too few file descriptors"
            ));
        }
        if reaps > 0 && strict {
            notes.push(format!(
                "when {reaps} dead processes were reaped is not known: records were lost"
            ));
        }
        if self.calls.refused() > 0 {
            notes.push(format!(
                "{} tool calls were left out: more became known than are kept",
                self.calls.refused()
            ));
        }
        if failed > 0 {
            notes.push(format!(
                "{failed} processes may be unknown, with what they started: the process table was full (raise --max-processes) or busy, or the kernel passed over a hook"
            ));
        }
        notes
    }

    /// `812 orphan (daemonized)`, of what is only counted.
    fn kinds_beyond(&self) -> Vec<String> {
        let mut kinds = BTreeMap::new();
        for (alike, number) in self.findings.counted() {
            *kinds.entry((alike.kind, alike.cause)).or_insert(0) += number;
        }
        kinds
            .into_iter()
            .map(|((kind, cause), number)| {
                format!("{number} {} ({})", kind.as_str(), cause.as_str())
            })
            .collect()
    }

    pub(super) fn finding(&self, record: &Record, now: Nanos) -> Option<Finding> {
        let entry = self.table.get(record.process)?;
        let seen = record.observation.as_deref();
        let zombie = record.kind == FindingKind::Zombie;
        let (lineage, lineage_elided) = self.lineage_of(entry);
        let until = match record.state {
            FindingState::Resolved(at) => at,
            FindingState::Open => record.gone_at.unwrap_or(now),
        };
        Some(Finding {
            id: 0,
            kind: record.kind,
            state: record.state,
            counted: false,
            process: self.process(record.process, entry, seen),
            lineage,
            lineage_elided,
            parent: self.parent_of(record, entry),
            adopter: self.adopter_of(record),
            exit: if zombie { self.exit_of(record.process) } else { None },
            cause: self.cause_of(record),
            agent: self.agent_told(self.invocation_of(record.process)),
            tool_call: self.attribution(record.process),
            resources: if zombie { None } else { seen.and_then(|seen| seen.resources.clone()) },
            blocked: seen.and_then(|seen| seen.blocked.clone()),
            action: self.action_of(record.process, Some(record.kind)),
            since: record.since,
            until,
        })
    }

    fn on_request(&self) -> Vec<OnRequest> {
        let told = self.cleanup.requested().iter().filter_map(|&id| {
            let process = self.process(id, self.table.get(id)?, self.findings.observation(id));
            Some(OnRequest {
                process,
                tool_call: self.attribution(id),
                action: self.action_of(id, None)?,
            })
        });
        told.collect()
    }

    fn action_of(&self, id: ProcessId, kind: Option<FindingKind>) -> Option<Action> {
        let receipt = self.cleanup.receipt(id, kind)?.clone();
        let reaped = match self.table.get(id).map(|entry| entry.reap) {
            Some(Reap::ByParent) => Some(Reaper::Parent),
            Some(Reap::ByAdopter) => Some(Reaper::Adopter),
            _ => None,
        };
        Some(Action { receipt, exit: self.exit_of(id), reaped })
    }

    pub(super) fn process(
        &self,
        id: ProcessId,
        entry: &Entry,
        seen: Option<&Observation>,
    ) -> Process {
        let program = Rc::clone(&entry.program);
        let ppid = seen
            .and_then(|seen| seen.parent.as_ref().map(|parent| parent.pid))
            .or_else(|| (entry.parent.pid != 0).then(|| self.shown(entry.parent)));
        let mut args = split_args(&program.args);
        if args.is_empty()
            && let Some(read) = seen.and_then(|seen| seen.args.as_deref())
        {
            args = split_args(read);
        }
        Process {
            id,
            pids: entry.pids,
            ppid,
            pgid: seen.and_then(|seen| seen.pgid),
            sid: seen.and_then(|seen| seen.sid),
            name: self.name_seen(entry, seen),
            exe: seen
                .and_then(|seen| seen.exe.clone())
                .or_else(|| (!program.exe.is_empty()).then(|| program.exe.to_vec())),
            args,
            args_truncated: program.truncated,
            cwd: seen.and_then(|seen| seen.cwd.clone()),
            state: seen.and_then(|seen| seen.state),
            cgroup: seen.and_then(|seen| seen.cgroup.clone()),
            pod: None,
        }
    }

    fn name_seen(&self, entry: &Entry, seen: Option<&Observation>) -> Vec<u8> {
        let name = entry.program.name();
        if name.is_empty() {
            seen.and_then(|seen| seen.comm.clone()).unwrap_or_default()
        } else {
            name.to_vec()
        }
    }

    fn parent_of(&self, record: &Record, entry: &Entry) -> Option<Parent> {
        (record.parent.pid != 0).then(|| Parent {
            pid: self.shown(record.parent),
            name: self.name_of(record.parent),
            exit: self.exit_of(record.parent),
            waits: entry.waits.as_deref().map(|waits| {
                let tracer_common::WaitCounts { any, this_child, others, last_other, after_death } =
                    *waits;
                Waits {
                    any,
                    this_child,
                    others,
                    last_other: (last_other != 0).then_some(last_other),
                    after_death,
                }
            }),
        })
    }

    fn adopter_of(&self, record: &Record) -> Option<Adopter> {
        if !record.adopters && !record.is_adopted() {
            return None;
        }
        if let Some(seen) = record.observation.as_ref().and_then(|seen| seen.parent.as_ref())
            && seen.pid != 0
            && (record.adopter_at_death.is_none() || record.adopters)
        {
            let name = match self.table.by_local_pid(seen.pid) {
                Some(id) => self.name_of(id),
                None => seen.name.clone(),
            };
            return Some(Adopter { pid: seen.pid, name, is_init: seen.is_init });
        }
        let id = record.adopter_at_death?;
        let pid = self.shown(id);
        Some(Adopter { pid, name: self.name_of(id), is_init: pid == 1 })
    }

    /// How a process ended; `None` while it lives or when that is not known.
    pub(super) fn exit_of(&self, id: ProcessId) -> Option<Exit> {
        let entry = self.table.get(id)?;
        let end = entry.end?;
        let sender = match end.status {
            Some(ExitStatus::Signal(number)) => {
                entry.signal.as_ref().filter(|sent| sent.signal == u32::from(number)).map(|sent| {
                    Sender {
                        pid: self.shown(sent.sender),
                        name: self
                            .table
                            .get(sent.sender)
                            .map(|sender| sender.program.name().to_vec())
                            .filter(|name| !name.is_empty())
                            .unwrap_or_else(|| sent.sender_name.to_vec()),
                    }
                })
            }
            _ => None,
        };
        Some(Exit { status: end.status, sender, oom: entry.is(OOM), at: end.at })
    }

    /// The pid to show of a process, of the invocation or not.
    pub(super) fn shown(&self, id: ProcessId) -> u32 {
        match self.table.get(id) {
            Some(entry) => entry.pids.shown(),
            None => self.bystander(id).map_or(id.pid, |bystander| bystander.pid),
        }
    }

    /// The name of a process, of the invocation or not; empty if not known.
    pub(super) fn name_of(&self, id: ProcessId) -> Vec<u8> {
        match self.table.get(id) {
            Some(entry) => entry.program.name().to_vec(),
            None => self.bystander(id).map_or_else(Vec::new, |bystander| bystander.name.to_vec()),
        }
    }

    /// A bystander is known by when it started, in clock ticks, and by its pid. In a container its
    /// pid in the initial namespace is not to be had from procfs: then by its start alone, if no
    /// other started in the same tick.
    fn bystander(&self, id: ProcessId) -> Option<&super::Bystander> {
        /// `USER_HZ` is 100 on every architecture that BPF runs on.
        const NANOS_PER_TICK: u64 = 10_000_000;
        let ticks = id.start / NANOS_PER_TICK;
        let mut same_start =
            self.bystanders.iter().filter(|bystander| bystander.start_ticks == ticks);
        let in_container = self
            .root
            .and_then(|root| self.table.get(root))
            .is_some_and(|root| root.pids.local != Some(root.pids.host));
        if in_container {
            same_start.next().filter(|_| same_start.next().is_none())
        } else {
            same_start.find(|bystander| bystander.pid == id.pid)
        }
    }
}

/// What [`Policy::allow`] looks at, of findings that are only counted.
fn alike_process(alike: &Alike) -> Process {
    let program = alike.program.as_deref();
    let path = program.map(|program| &program.exe).filter(|path| !path.is_empty());
    Process {
        name: program.map(|program| program.name().to_vec()).unwrap_or_default(),
        exe: alike.exe.clone().or_else(|| path.map(|path| path.to_vec())),
        args: program.map(|program| split_args(&program.args)).unwrap_or_default(),
        ..Process::default()
    }
}

/// NUL-separated, and usually NUL-terminated, arguments.
pub(super) fn split_args(args: &[u8]) -> Vec<Vec<u8>> {
    let args = args.strip_suffix(&[0]).unwrap_or(args);
    if args.is_empty() {
        return Vec::new();
    }
    args.split(|&byte| byte == 0).map(<[u8]>::to_vec).collect()
}
