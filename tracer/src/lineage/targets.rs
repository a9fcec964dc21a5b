//! What cleaning up asks the core: which findings stand, who belongs to a lineage, who is kept.

use hashbrown::{HashMap, HashSet};

use super::{
    Lineage,
    agents::InvocationIndex,
    event::Observation,
    model::{ExitStatus, FindingKind, FindingState, Nanos, Pids, Process, ProcessId},
    table::{GONE, Reap},
};

/// A finding that stands, as far as it matters for what is done about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its kind.
    pub kind: FindingKind,
    /// The process.
    pub process: ProcessId,
    /// Name of the agent that it descends from.
    pub agent: Option<String>,
    /// Whether it is held against one tool call that is known well enough, and is its own agent's.
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
    /// The nearest of those that were asked for that it is or descends from.
    pub top: ProcessId,
    /// It belongs to an invocation within the one that it was asked for.
    pub is_nested: bool,
}

/// How far a process has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// It lives.
    Alive,
    /// It is dead, and nobody has reaped it as far as is known.
    Dead,
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
        let records = self.findings.opened_after(number).into_iter();
        let open = records.filter(|record| record.state == FindingState::Open);
        let found = open.map(|record| {
            let invocation = self.invocation_of(record.process);
            let blame = self.blame(record.process);
            let call = blame.call.and_then(|call| self.calls.get(call));
            // An agent that a call of another started has a run of its own.
            let is_others = call.is_some_and(|call| call.invocation != invocation);
            Found {
                kind: record.kind,
                process: record.process,
                agent: self.agent_name(invocation),
                is_sure: blame.is_sure() && !is_others,
            }
        });
        found.collect()
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
                (Some(_), _) => Stage::Dead,
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
                top,
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

    /// Who created the session that a process is in, if that is the process or one that it descends
    /// from within what is traced: the nearest whose pid is `sid`, in the tracer's PID namespace. A
    /// session holds the pid of its creator, so nobody else between the two can have it.
    #[must_use]
    pub fn creator_of_session(&self, id: ProcessId, sid: u32) -> Option<ProcessId> {
        let mut line = self.generations(id);
        line.find(|(_, entry)| entry.pids.local == Some(sid)).map(|(id, _)| id)
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
        self.kept_as_seen(id, now, allow, self.findings.observation(id))
    }

    /// The same, where a look at it gave `seen`.
    #[must_use]
    pub fn kept_as_seen(
        &self,
        id: ProcessId,
        now: Nanos,
        allow: &dyn Fn(&Process) -> Option<String>,
        seen: Option<&Observation>,
    ) -> Option<String> {
        let entry = self.table.get(id)?;
        allow(&self.process(id, entry, seen))
            .or_else(|| self.kept_by(id, now))
            .or_else(|| self.handed_over(id, seen))
    }

    /// Where it listened when it was looked at.
    #[must_use]
    pub fn listened_at(&self, id: ProcessId) -> Vec<Vec<u8>> {
        self.findings.observation(id).map(Observation::ports).unwrap_or_default()
    }

    /// Whether it is one of these or descends from one by forks, through the dead as well.
    #[must_use]
    pub fn is_below(&self, id: ProcessId, tops: &HashSet<ProcessId>) -> bool {
        self.generations(id).any(|(id, _)| tops.contains(&id))
    }

    /// The root of the invocation that it belongs to.
    #[must_use]
    pub fn root_of_its_invocation(&self, id: ProcessId) -> Option<ProcessId> {
        self.invocations.get(self.invocation_of(id)).map(|own| own.root)
    }

    /// Those alive that it descends from by forks, the nearest first.
    #[must_use]
    pub fn above(&self, id: ProcessId) -> Vec<ProcessId> {
        let above = self.generations(id).skip(1).filter(|(_, entry)| entry.is_alive());
        above.map(|(id, _)| id).collect()
    }

    /// When it died, if it has.
    #[must_use]
    pub fn ended_at(&self, id: ProcessId) -> Option<Nanos> {
        self.table.get(id)?.end.map(|end| end.at)
    }

    /// Everyone alive, oldest first.
    #[must_use]
    pub fn everyone(&self) -> Vec<ProcessId> {
        self.table.alive()
    }

    /// Who lives and has this pid in the tracer's PID namespace.
    #[must_use]
    pub fn with_pid(&self, pid: u32) -> Option<ProcessId> {
        self.table.by_local_pid(pid)
    }

    /// The root of the invocation that reports name so, dead or alive.
    #[must_use]
    pub fn root_of_invocation(&self, id: &str) -> Option<ProcessId> {
        let roots = self.invocations.iter().map(|(_, invocation)| invocation.root);
        roots.into_iter().find(|root| root.to_string() == id)
    }

    /// Whether an invocation begins with it.
    #[must_use]
    pub fn is_root_of_invocation(&self, id: ProcessId) -> bool {
        self.invocations.iter().any(|(_, invocation)| invocation.root == id)
    }

    /// Whether a tool call of this id is known, of whichever agent.
    #[must_use]
    pub fn knows_call(&self, id: &str) -> bool {
        self.calls.iter().any(|(_, call)| &*call.id == id)
    }

    /// The root of the invocation whose tool call of this id a process surely belongs to.
    #[must_use]
    pub fn surely_of_call(&self, id: ProcessId, call: &str) -> Option<ProcessId> {
        let blame = self.blame(id);
        let known = self.calls.get(blame.call.filter(|_| blame.is_sure())?)?;
        let owner = self.invocations.get(known.invocation)?;
        (&*known.id == call).then_some(owner.root)
    }

    /// The agent that a process descends from, or is.
    #[must_use]
    pub fn agent_above(&self, id: ProcessId) -> Option<String> {
        self.agent_name(self.invocation_of(id))
    }

    /// A process as reports show it, where a look at it gave `seen`; `None`: nothing is known of it.
    #[must_use]
    pub fn shown_process(&self, id: ProcessId, seen: Option<&Observation>) -> Option<Process> {
        let entry = self.table.get(id)?;
        Some(self.process(id, entry, seen))
    }

    fn agent_name(&self, invocation: InvocationIndex) -> Option<String> {
        let own = self.invocations.get(invocation).filter(|own| !own.is_anonymous())?;
        own.agent.as_deref().map(str::to_owned)
    }
}
