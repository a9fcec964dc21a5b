//! A run as it goes on, for whoever follows it to no end: findings as they change.

use std::time::Duration;

use hashbrown::HashSet;

use super::{
    Lineage,
    agents::InvocationIndex,
    announcement::CallStart,
    calls::{Call, CallIndex},
    event::Event,
    model::{
        Finding, FindingKind, FindingState, Invocation, Nanos, Pids, Process, ProcessId, Stats,
    },
    outcome::split_args,
    table::{GONE, Program, Reap},
};

/// A finding as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watched {
    /// The finding. Its number is its place in the order in which they were opened.
    pub finding: Finding,
    /// When its process ended, or, of a zombie, was gone.
    pub gone_at: Option<Nanos>,
    /// Something keeps it from counting: a rule, the environment, a lease.
    pub kept_by: Option<String>,
}

/// News of a call may be late, but not by so much.
fn long_ago(now: Nanos) -> Nanos {
    const LONG_AGO: Duration = Duration::from_mins(10);
    Nanos(now.0.saturating_sub(LONG_AGO.as_nanos().try_into().unwrap_or(u64::MAX)))
}

/// Records of what was forked in a call are not so late that this one may not be forgotten where there is
/// no room.
fn a_while_ago(now: Nanos) -> Nanos {
    const WHILE: Duration = Duration::from_secs(10);
    Nanos(now.0.saturating_sub(WHILE.as_nanos().try_into().unwrap_or(u64::MAX)))
}

impl Lineage {
    /// Tells from now on which findings change, by [`Lineage::take_changed`], which is then to be called
    /// now and again. Of processes that are gone no more findings of each kind than `closed` are kept.
    pub fn tell_findings(&mut self, closed: usize) {
        self.findings.tell_changes(closed);
    }

    /// Forgets tool calls that ended long ago and that no process may have been started by that is known
    /// still. Only where findings are told as they come: a report lists every call.
    pub(super) fn forget_old_calls(&mut self, now: Nanos) {
        if !self.findings.are_told() || !self.calls.are_crowded() {
            return;
        }
        let needed = self.referenced_calls();
        self.calls.forget(long_ago(now), &needed);
    }

    /// Forgets such calls where there is no room for one that begins, the oldest first. A report that would
    /// have listed them says how many they were.
    pub(super) fn make_room_for(&mut self, start: &CallStart, session: Option<&str>, now: Nanos) {
        if !self.calls.are_in_the_way_of(start, session) {
            return;
        }
        let needed = self.referenced_calls();
        let forgotten = self.calls.make_room(a_while_ago(now), &needed);
        if !self.findings.are_told() {
            self.calls.leave_out(forgotten);
        }
    }

    /// Tells of a process and of its ancestors below the root, the oldest first, as it was told: forks, and
    /// what each executed. For those who have to know them when they are gone.
    pub fn introduce(&self, pid: u32, mut give: impl FnMut(Event<'_>)) {
        let Some(id) = self.table.last_owner(pid) else { return };
        let mut line: Vec<_> = self.generations(id).collect();
        line.reverse();
        for (id, entry) in line.into_iter().skip(1) {
            self.fork_of(id).into_iter().for_each(&mut give);
            if entry.exec_at.0 > 0 {
                let Program { exe, args, truncated, .. } = &*entry.program;
                give(Event::Exec {
                    at: entry.exec_at,
                    process: id,
                    exe,
                    args,
                    truncated: *truncated,
                    markers: &[],
                    markers_truncated: false,
                    uid: None,
                });
            }
        }
    }

    /// How a process was forked, as far as is known still.
    #[must_use]
    pub fn fork_of(&self, id: ProcessId) -> Option<Event<'static>> {
        let entry = self.table.get(id)?;
        Some(Event::Fork {
            at: Nanos(id.start),
            child: id,
            forker: entry.forker,
            parent: entry.first_parent,
            pids: entry.pids,
            cgroup: None,
            thread: None,
            root: self.root == Some(id),
        })
    }

    /// Whether anything is known of a process still: it is there, or something else needs it.
    #[must_use]
    pub fn knows(&self, id: ProcessId) -> bool {
        self.table.get(id).is_some()
    }

    /// Whether it is needed when it is gone: it is the root, or has forked others that are known.
    #[must_use]
    pub fn is_held(&self, id: ProcessId) -> bool {
        self.root == Some(id) || self.table.get(id).is_some_and(|entry| entry.holds > 0)
    }

    /// Whether its forking thread had announced the call that it was forked for.
    #[must_use]
    pub fn is_announced(&self, id: ProcessId) -> bool {
        self.table.get(id).is_some_and(|entry| entry.announced.is_some())
    }

    /// Ids of tool calls that are open, have ended of late, or may have started a process that is known
    /// still.
    #[must_use]
    pub fn needed_calls(&self, now: Nanos) -> HashSet<String> {
        let needed = self.referenced_calls();
        let before = long_ago(now);
        let is_needed = |index: &CallIndex, call: &Call| {
            needed.contains(index) || call.end.as_ref().is_none_or(|(end, _)| *end >= before)
        };
        let all = self.calls.iter().filter(|(index, call)| is_needed(index, call));
        all.map(|(_, call)| call.id.to_string()).collect()
    }

    fn referenced_calls(&self) -> HashSet<CallIndex> {
        let mut needed = HashSet::new();
        for id in self.table.ids() {
            let blame = self.blame(id);
            needed.extend(blame.call.into_iter().chain(blame.candidates));
            let entry = self.table.get(id);
            needed.extend(entry.and_then(|entry| entry.announced));
            needed.extend(entry.and_then(|entry| entry.carried));
        }
        needed.extend(self.overdue.iter().filter_map(|(_, overdue)| overdue.call()));
        needed.extend(self.leases.calls());
        needed
    }

    /// Findings that were opened, changed or withdrawn since the last call. Of one that is about to be
    /// looked at the next call tells.
    pub fn take_changed(&mut self) -> Vec<(ProcessId, FindingKind)> {
        let mut changed = self.findings.take_changed();
        changed.retain(|&(id, _)| {
            let is_awaited = self.table.get(id).is_some_and(|entry| entry.wanted != 0);
            if is_awaited {
                self.findings.touch(id);
            }
            !is_awaited
        });
        changed
    }

    /// A finding as it is now. `None`: it was withdrawn, or is not kept any more.
    #[must_use]
    pub fn watched(&self, id: ProcessId, kind: FindingKind, now: Nanos) -> Option<Watched> {
        let record = self.findings.get(id, kind)?;
        let entry = self.table.get(id)?;
        let gone_at = match (kind, record.state) {
            (FindingKind::Zombie, FindingState::Resolved(at)) => Some(at),
            (FindingKind::Zombie, FindingState::Open) => {
                let is_gone = entry.is(GONE) || matches!(entry.reap, Reap::ByAdopter);
                record.gone_at.or_else(|| is_gone.then_some(now))
            }
            _ => entry.end.map(|end| end.at),
        };
        let mut finding = self.finding(record, now)?;
        finding.id = u32::try_from(record.number).unwrap_or(u32::MAX);
        Some(Watched { finding, gone_at, kept_by: self.kept_by(id, now) })
    }

    /// Adds to a finding that was withdrawn what it says of its process besides what it was: program,
    /// arguments, ancestors, and whose call it was, if the process is known still.
    pub fn complete(&self, finding: &mut Finding) {
        let id = finding.process.id;
        let Some(entry) = self.table.get(id) else { return };
        let Process { exe, args, .. } = self.process(id, entry, self.findings.observation(id));
        (finding.process.exe, finding.process.args) = (exe, args);
        (finding.lineage, finding.lineage_elided) = self.lineage_of(entry);
        finding.tool_call = self.attribution(id);
    }

    /// Whether there is a finding that is kept whole.
    #[must_use]
    pub fn has_finding(&self, id: ProcessId, kind: FindingKind) -> bool {
        self.findings.has(id, kind)
    }

    /// Every finding that stands and whose process is there.
    #[must_use]
    pub fn standing(&self, now: Nanos) -> Vec<Watched> {
        let keys = self.standing_keys().into_iter();
        keys.filter_map(|(process, kind)| self.stands_now(process, kind, now)).collect()
    }

    /// Whether its root has ended and no process of it is there any more, so that nothing about it can
    /// change.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.is_settled() && self.table.all_gone()
    }

    /// The run as it is now; its command is what its root executes.
    #[must_use]
    pub fn invocation_now(&self) -> Invocation {
        let root = self.root.and_then(|root| self.table.get(root));
        let command = root.map(|root| split_args(&root.program.args)).unwrap_or_default();
        self.invocation(&command)
    }

    /// Name of the root's agent, where it has one.
    #[must_use]
    pub fn root_agent_name(&self) -> Option<&str> {
        self.invocations.get(InvocationIndex::RUN)?.agent.as_deref()
    }

    /// The root and its pids, while it lives.
    #[must_use]
    pub fn live_root(&self) -> Option<(ProcessId, Pids)> {
        let id = self.root?;
        let root = self.table.get(id).filter(|root| root.is_alive())?;
        Some((id, root.pids))
    }

    /// When it last executed a program, as far as was told.
    #[must_use]
    pub fn executed_at(&self, id: ProcessId) -> Option<Nanos> {
        Some(self.table.get(id)?.exec_at)
    }

    /// Figures so far.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.stats
    }

    /// Whether events were lost that could have changed what was found.
    #[must_use]
    pub fn is_uncertain(&self) -> bool {
        self.gap().is_open(false)
    }

    /// How many of it live.
    #[must_use]
    pub fn live(&self) -> u64 {
        self.table.live()
    }
}
