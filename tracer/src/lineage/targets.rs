//! What cleaning up asks the core: which findings stand, who belongs to a lineage, who is kept.

use hashbrown::{HashMap, HashSet};

use super::{
    Lineage,
    agents::InvocationIndex,
    model::{ExitStatus, FindingKind, FindingState, Nanos, Pids, Process, ProcessId},
    table::{GONE, Reap},
};

/// A finding that stands, as far as it matters for what is done about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its place in the order of findings.
    pub number: u64,
    /// Its kind.
    pub kind: FindingKind,
    /// The process.
    pub process: ProcessId,
    /// Its parent, who owes a zombie a wait.
    pub parent: ProcessId,
    /// Name of the agent that it descends from.
    pub agent: Option<String>,
    /// Whether it is held against one tool call that is known well enough.
    pub is_sure: bool,
}

/// A process that lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// Who.
    pub id: ProcessId,
    /// Its pids.
    pub pids: Pids,
    /// Who forked it.
    pub forker: ProcessId,
    /// It belongs to an invocation within the one that it was asked for.
    pub is_nested: bool,
}

/// How far a process has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// It lives.
    Alive,
    /// It is dead since then, and nobody has reaped it as far as is known.
    Dead(Nanos),
    /// It was reaped.
    Reaped,
}

/// What is above a process.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Top {
    /// None of those that were asked for.
    None,
    /// This one is the nearest.
    Is(ProcessId),
    /// One that is left out.
    Excepted,
}

impl Lineage {
    /// How many findings were opened so far.
    #[must_use]
    pub fn findings_opened(&self) -> u64 {
        self.findings.opened()
    }

    /// The findings opened after the first `number` that stand, in order.
    #[must_use]
    pub fn found_after(&self, number: u64) -> Vec<Found> {
        let records = self.findings.in_order().into_iter();
        let such = records
            .filter(|record| record.number > number && record.state == FindingState::Open)
            .map(|record| {
                let invocation = self.invocation_of(record.process);
                Found {
                    number: record.number,
                    kind: record.kind,
                    process: record.process,
                    parent: record.parent,
                    agent: self.agent_name(invocation),
                    is_sure: self.blame(record.process).is_sure(),
                }
            });
        such.collect()
    }

    /// Whether a finding of this kind stands.
    #[must_use]
    pub fn stands(&self, process: ProcessId, kind: FindingKind) -> bool {
        self.findings.is_open(process, kind)
    }

    /// How far a process has come. One that nothing is known of has been reaped.
    #[must_use]
    pub fn stage(&self, id: ProcessId) -> Stage {
        match self.table.get(id) {
            None => Stage::Reaped,
            Some(entry) => match (entry.end, entry.reap) {
                (None, _) => Stage::Alive,
                (Some(_), Reap::ByParent | Reap::ByAdopter) => Stage::Reaped,
                (Some(_), _) if entry.is(GONE) => Stage::Reaped,
                (Some(end), _) => Stage::Dead(end.at),
            },
        }
    }

    /// Everyone alive who is one of `tops` or descends from one by forks, but for `but` and all who
    /// descend from one of those; oldest first, so that nobody comes before who forked it.
    #[must_use]
    pub fn below(&self, tops: &HashSet<ProcessId>, but: &HashSet<ProcessId>) -> Vec<Member> {
        let mut known = HashMap::new();
        let mut members = Vec::new();
        for id in self.table.alive() {
            let Some(entry) = self.table.get(id) else { continue };
            let Some(top) = self.top_of(id, tops, but, &mut known) else { continue };
            members.push(Member {
                id,
                pids: entry.pids,
                forker: entry.forker,
                is_nested: self.invocation_of(id) != self.invocation_of(top),
            });
        }
        members
    }

    /// The nearest of `tops` that it is or descends from. `known`: what was found of others.
    fn top_of(
        &self,
        id: ProcessId,
        tops: &HashSet<ProcessId>,
        but: &HashSet<ProcessId>,
        known: &mut HashMap<ProcessId, Top>,
    ) -> Option<ProcessId> {
        let mut way = Vec::new();
        let mut at = id;
        let above = loop {
            if let Some(&top) = known.get(&at) {
                break top;
            }
            way.push(at);
            if but.contains(&at) {
                break Top::Excepted;
            }
            let forker = self.table.get(at).map(|entry| entry.forker);
            // A forker is older; what says otherwise is damage, and would go round in circles.
            match forker.filter(|forker| forker.start < at.start) {
                Some(forker) => at = forker,
                None => break Top::None,
            }
        };
        let mut top = above;
        for id in way.into_iter().rev() {
            if top != Top::Excepted && tops.contains(&id) {
                top = Top::Is(id);
            }
            known.insert(id, top);
        }
        match top {
            Top::Is(top) => Some(top),
            Top::None | Top::Excepted => None,
        }
    }

    /// Whether SIGKILL ended it at that time or later: maybe by the kernel side, which tells nobody.
    #[must_use]
    pub fn was_killed_since(&self, id: ProcessId, since: Nanos) -> bool {
        const SIGKILL: u8 = 9;
        let end = self.table.get(id).and_then(|entry| entry.end);
        end.is_some_and(|end| end.at >= since && end.status == Some(ExitStatus::Signal(SIGKILL)))
    }

    /// Its pids, if it is known.
    #[must_use]
    pub fn pids_of(&self, id: ProcessId) -> Option<Pids> {
        self.table.get(id).map(|entry| entry.pids)
    }

    /// The parent that should have reaped it.
    #[must_use]
    pub fn owing_parent(&self, id: ProcessId) -> Option<ProcessId> {
        self.table.get(id).map(|entry| entry.first_parent)
    }

    /// Whether it belongs to what is traced, and is not its root.
    #[must_use]
    pub fn is_descendant(&self, id: ProcessId) -> bool {
        self.root != Some(id) && self.table.get(id).is_some()
    }

    /// Why a process is kept, if it is: by `allow`, a rule, its environment, a lease, or whoever moved
    /// it to another cgroup.
    #[must_use]
    pub fn kept(
        &self,
        id: ProcessId,
        now: Nanos,
        allow: &dyn Fn(&Process) -> Option<String>,
    ) -> Option<String> {
        let entry = self.table.get(id)?;
        let seen = self.findings.observation(id);
        allow(&self.process(id, entry, seen))
            .or_else(|| self.kept_by(id, now))
            .or_else(|| self.handed_over(id, seen))
    }

    /// Where it listened when it was looked at.
    #[must_use]
    pub fn listened_at(&self, id: ProcessId) -> Vec<Vec<u8>> {
        let seen = self.findings.observation(id);
        let listening = seen.and_then(|seen| Some(&seen.resources.as_ref()?.listening));
        // A Unix socket's name stays behind whatever becomes of who bound it.
        let is_inet = |address: &&Vec<u8>| !address.starts_with(b"unix ");
        listening.map(|all| all.iter().filter(is_inet).cloned().collect()).unwrap_or_default()
    }

    fn agent_name(&self, invocation: InvocationIndex) -> Option<String> {
        self.agent_told(invocation)?.name
    }
}
