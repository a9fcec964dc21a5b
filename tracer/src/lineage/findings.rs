//! Findings while the run goes on: opened, resolved, reopened, void.

use std::{collections::HashMap, rc::Rc};

use super::{
    Lineage,
    event::Observation,
    model::{FindingKind, FindingState, Nanos, ProcessId},
    table::{Reap, WANT_ORPHAN},
};

/// One finding.
#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) kind: FindingKind,
    pub(crate) process: ProcessId,
    pub(crate) state: FindingState,
    pub(crate) since: Nanos,
    /// Its own parent, the one that is to blame.
    pub(crate) parent: ProcessId,
    /// That parent's pid in the tracer's PID namespace.
    parent_local: Option<u32>,
    /// Its parent when it died, if that was an adopter.
    pub(crate) adopter_at_death: Option<ProcessId>,
    /// A zombie that its adopter does not reap.
    pub(crate) adopters: bool,
    /// An adopter reaped it.
    pub(crate) gone_at: Option<Nanos>,
    /// The adopter died without having reaped it: nobody put it right.
    abandoned: bool,
    /// What was seen when it was looked at.
    pub(crate) observation: Option<Rc<Observation>>,
    /// It never came to be: an orphan that nobody adopted before it died.
    pub(crate) void: bool,
}

impl Record {
    /// Whether somebody else is its parent now, as far as was seen.
    pub(crate) fn is_adopted(&self) -> bool {
        self.adopter_at_death.is_some()
            || self
                .observation
                .as_ref()
                .and_then(|seen| seen.parent.as_ref())
                .is_some_and(|parent| Some(parent.pid) != self.parent_local)
    }
}

/// All findings, in the order in which they were opened.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    records: Vec<Record>,
    index: HashMap<(ProcessId, FindingKind), usize>,
}

impl Findings {
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Record> {
        self.records.iter().filter(|record| !record.void)
    }

    fn get_mut(&mut self, id: ProcessId, kind: FindingKind) -> Option<&mut Record> {
        let &place = self.index.get(&(id, kind))?;
        self.records.get_mut(place)
    }

    /// Whether there is one, open or resolved.
    pub(crate) fn has(&self, id: ProcessId, kind: FindingKind) -> bool {
        self.index.contains_key(&(id, kind))
    }

    /// Whether there is one and it stands.
    pub(crate) fn is_open(&self, id: ProcessId, kind: FindingKind) -> bool {
        self.index
            .get(&(id, kind))
            .and_then(|&place| self.records.get(place))
            .is_some_and(|record| record.state == FindingState::Open)
    }

    /// Zombies that stand as far as is known.
    pub(crate) fn open_zombies(&self) -> Vec<ProcessId> {
        let open = |record: &&Record| {
            record.kind == FindingKind::Zombie && record.state == FindingState::Open
        };
        self.iter().filter(open).map(|record| record.process).collect()
    }

    /// It was put right.
    pub(crate) fn resolve(&mut self, id: ProcessId, kind: FindingKind, at: Nanos) {
        if let Some(record) = self.get_mut(id, kind)
            && record.state == FindingState::Open
        {
            record.state = FindingState::Resolved(at);
        }
    }

    /// It was not put right after all, or stands again. `false` if there is none.
    pub(crate) fn reopen(&mut self, id: ProcessId, kind: FindingKind) -> bool {
        self.get_mut(id, kind).is_some_and(|record| {
            record.state = FindingState::Open;
            true
        })
    }

    /// Its own parent did not let it stand after all.
    pub(crate) fn void_zombie_of_parent(&mut self, id: ProcessId) {
        if let Some(record) = self.get_mut(id, FindingKind::Zombie)
            && !record.adopters
        {
            record.void = true;
        }
    }

    /// An adopter reaped a zombie: that puts right what the adopter owed, not what the parent did.
    pub(crate) fn adopter_reaped(&mut self, id: ProcessId, at: Nanos) {
        if let Some(record) = self.get_mut(id, FindingKind::Zombie) {
            record.gone_at.get_or_insert(at);
            if record.adopters && !record.abandoned {
                record.state = FindingState::Resolved(at);
            }
        }
    }

    /// The adopter of a zombie ended. Where the kernel has not said that it left it unreaped, it
    /// had reaped it, and the zombie's free is on the way.
    pub(crate) fn adopter_ended(&mut self, id: ProcessId, at: Nanos) {
        if self.get_mut(id, FindingKind::Zombie).is_some_and(|record| !record.abandoned) {
            self.adopter_reaped(id, at);
        }
    }

    /// The adopter of a zombie died without having reaped it. Whoever reaps it now, as the kernel
    /// does in the name of a dying namespace's init, puts nothing right.
    pub(crate) fn abandon(&mut self, id: ProcessId) {
        if let Some(record) = self.get_mut(id, FindingKind::Zombie)
            && record.adopters
        {
            record.abandoned = true;
            record.state = FindingState::Open;
            record.gone_at = None;
        }
    }

    /// Keeps what was seen with every finding of the process. The first look at each is the
    /// evidence; a later one only fills what was not known, as who adopted the living.
    pub(crate) fn attach(&mut self, id: ProcessId, observation: Observation) {
        let observation = Rc::new(observation);
        for kind in FindingKind::ALL {
            if let Some(record) = self.get_mut(id, kind)
                && (record.observation.is_none()
                    || (kind != FindingKind::Zombie && !record.is_adopted()))
                && observation.exists
            {
                record.observation = Some(Rc::clone(&observation));
            }
        }
    }
}

impl Lineage {
    /// Opens a finding, unless the process has one of that kind: then it stands again.
    pub(super) fn open(&mut self, id: ProcessId, kind: FindingKind, since: Nanos) {
        if self.findings.reopen(id, kind) {
            return;
        }
        let Some(entry) = self.table.get(id) else { return };
        let parent = entry.first_parent;
        let parent_local = self.table.get(parent).and_then(|parent| parent.pids.local);
        let place = self.findings.records.len();
        self.findings.index.insert((id, kind), place);
        self.findings.records.push(Record {
            kind,
            process: id,
            state: FindingState::Open,
            since,
            parent,
            parent_local,
            adopter_at_death: None,
            adopters: false,
            gone_at: None,
            abandoned: false,
            observation: None,
            void: false,
        });
        self.table.hold(id);
        self.table.hold(parent);
    }

    /// A zombie of its own parent's.
    pub(super) fn open_zombie(&mut self, id: ProcessId, died: Nanos) {
        self.open(id, FindingKind::Zombie, died);
    }

    /// A zombie that its adopter, whose it is since `left`, does not reap.
    pub(super) fn open_init_zombie(&mut self, id: ProcessId, left: Nanos) {
        self.open(id, FindingKind::Zombie, left);
        if let Some(record) = self.findings.get_mut(id, FindingKind::Zombie) {
            record.adopters = true;
        }
    }

    /// A process whose parent died at `at` while the invocation runs.
    pub(super) fn open_orphan(&mut self, id: ProcessId, at: Nanos) {
        if self.findings.has(id, FindingKind::Orphan) {
            return;
        }
        self.open(id, FindingKind::Orphan, at);
        self.observe(id, WANT_ORPHAN);
    }

    /// What a process's death settles: it is no orphan and not stuck any more.
    pub(super) fn settle_findings_of_the_dead(
        &mut self,
        id: ProcessId,
        at: Nanos,
        parent_before: ProcessId,
        parent_now: ProcessId,
    ) {
        self.findings.resolve(id, FindingKind::Stuck, at);
        self.void_survivor_that_had_ended(id, at);
        let first_parent = self.table.get(id).map(|entry| entry.first_parent);
        let Some(record) = self.findings.get_mut(id, FindingKind::Orphan) else { return };
        if record.state == FindingState::Open {
            record.state = FindingState::Resolved(at);
        }
        let Some(first_parent) = first_parent else { return };
        let last = if parent_now.pid == 0 { parent_before } else { parent_now };
        if last == first_parent {
            // It died before anyone adopted it, as everyone in a PID namespace does with its
            // init. A later look cannot have seen an adopter.
            record.void = !record.is_adopted();
        } else {
            record.adopter_at_death = Some(last);
        }
    }

    /// Its exit record was lost, and it took so long to let go that it seemed to live when `grace`
    /// ended: it did not.
    fn void_survivor_that_had_ended(&mut self, id: ProcessId, at: Nanos) {
        let in_time = self.root_end.is_some_and(|end| at < end.after(self.config.grace));
        if in_time
            && !self.grace_cut_short
            && let Some(record) = self.findings.get_mut(id, FindingKind::Survivor)
        {
            record.void = true;
        }
    }

    /// Orphans whose adoption has not been seen yet: the parent's exit is told before the kernel
    /// hands its children on.
    pub(super) fn orphan_awaits_adoption(&self, id: ProcessId) -> bool {
        self.findings
            .index
            .get(&(id, FindingKind::Orphan))
            .and_then(|&place| self.findings.records.get(place))
            .is_some_and(|record| record.state == FindingState::Open && !record.is_adopted())
            && self.table.get(id).is_some_and(|entry| entry.reap == Reap::Pending)
    }
}
