//! Who belongs to a run as it goes on, for whoever asks about processes.

use super::{
    Lineage,
    model::{Agent, Attribution, Exit, FindingKind, FindingState, Nanos, Process, ProcessId},
    table::GONE,
    watched::Watched,
};

/// A process that is there: it lives, or nobody has reaped it as far as is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Present {
    /// Who.
    pub id: ProcessId,
    /// Its pid in the tracer's PID namespace.
    pub local: Option<u32>,
    /// Who forked it.
    pub forker: ProcessId,
    /// It has not ended.
    pub is_alive: bool,
    /// Depth of its PID namespace.
    pub level: u32,
}

/// All that is known of a process now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Described {
    /// The process.
    pub process: Process,
    /// Who forked it; of its ancestors the nearest that is known.
    pub forker: ProcessId,
    /// Its parent now, as far as is known.
    pub parent: ProcessId,
    /// The nearest agent, which it may be itself, and that one's root.
    pub agent: Option<Agent>,
    /// Root of the invocation that it belongs to.
    pub root: Option<ProcessId>,
    /// Whose call it is.
    pub tool_call: Option<Attribution>,
    /// How it ended; `None`: it lives.
    pub exit: Option<Exit>,
    /// Why nothing about it counts.
    pub kept_by: Option<String>,
    /// What was found of it and stands, and since when.
    pub findings: Vec<(FindingKind, Nanos)>,
}

impl Lineage {
    /// Everyone who is there, in no order.
    #[must_use]
    pub fn present(&self) -> Vec<Present> {
        let there = self.table.entries().filter(|entry| !entry.is(GONE));
        let present = there.map(|entry| Present {
            id: entry.id,
            local: entry.pids.local,
            forker: entry.forker,
            is_alive: entry.is_alive(),
            level: entry.pids.level,
        });
        present.collect()
    }

    /// All that is known of a process. `None`: it is not one of this run, or gone.
    #[must_use]
    pub fn described(&self, id: ProcessId, now: Nanos) -> Option<Described> {
        let entry = self.table.get(id).filter(|entry| !entry.is(GONE))?;
        let stands = |&kind: &FindingKind| {
            let record = self.findings.get(id, kind)?;
            let is_there = record.state == FindingState::Open && record.gone_at.is_none();
            is_there.then_some((kind, record.since))
        };
        let kept_by = self.kept_by(id, now);
        Some(Described {
            process: self.process(id, entry, self.findings.observation(id)),
            forker: entry.forker,
            parent: entry.parent,
            agent: self.agent_told(self.invocation_of(id)),
            root: self.root_of_its_invocation(id),
            tool_call: self.attribution(id),
            exit: self.exit_of(id),
            findings: FindingKind::ALL.iter().filter_map(stands).collect(),
            kept_by,
        })
    }

    /// What [`Lineage::standing`] tells of, each to be told by [`Lineage::stands_now`].
    #[must_use]
    pub fn standing_keys(&self) -> Vec<(ProcessId, FindingKind)> {
        let records = self.findings.in_order().into_iter();
        let open = records.filter(|record| record.state == FindingState::Open);
        open.map(|record| (record.process, record.kind)).collect()
    }

    /// A finding, if it stands and its process is there.
    #[must_use]
    pub fn stands_now(&self, id: ProcessId, kind: FindingKind, now: Nanos) -> Option<Watched> {
        self.watched(id, kind, now)
            .filter(|one| one.gone_at.is_none() && one.finding.state == FindingState::Open)
    }
}
