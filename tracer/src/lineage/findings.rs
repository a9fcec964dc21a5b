//! Findings while the run goes on: opened, resolved, reopened, void.

use std::rc::Rc;

use hashbrown::{HashMap, HashSet};

use super::{
    Lineage,
    event::Observation,
    model::{Cause, CauseCode, FindingKind, FindingState, Nanos, ProcessId},
    table::{DOOMED, Program, Reap, WANT_ORPHAN},
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
    /// Its parent's entry is held too.
    holds_parent: bool,
    /// Its process is gone from the kernel: nothing more will change.
    closed: bool,
    /// tracer ends it, or has its parent reap it: how it had come about before.
    acted_upon: Option<Box<Cause>>,
    /// SIGKILL has not ended it.
    pub(crate) is_unkillable: bool,
    /// Its place in the order in which findings were opened.
    pub(crate) number: u64,
}

/// Findings of each kind that are kept whole once nothing about them changes any more. The rest is
/// counted, by all that a verdict may depend on.
const MOST_CLOSED: usize = 4096;
/// Kinds of counted findings that are told apart.
const MOST_COUNTED: usize = 1024;

/// What counted findings have in common.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Alike {
    pub(crate) kind: FindingKind,
    pub(crate) cause: CauseCode,
    pub(crate) open: bool,
    pub(crate) program: Option<Rc<Program>>,
    /// As procfs had it.
    pub(crate) exe: Option<Vec<u8>>,
}

impl Record {
    /// How it had come about before tracer did anything, if it has.
    pub(crate) fn cause_before(&self) -> Option<&Cause> {
        self.acted_upon.as_deref()
    }

    /// It was put right: by itself, or by tracer, and then it stands as what it was.
    fn put_right(&mut self, at: Nanos) {
        if self.acted_upon.is_some() {
            self.gone_at.get_or_insert(at);
        } else {
            self.state = FindingState::Resolved(at);
        }
    }

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

/// All findings.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    records: HashMap<(ProcessId, FindingKind), Record>,
    opened: u64,
    closed: HashMap<FindingKind, usize>,
    counted: HashMap<Alike, u64>,
    /// What has changed since it was asked for, where somebody asks.
    changed: Option<Vec<(ProcessId, FindingKind)>>,
    /// See [`MOST_CLOSED`]; fewer where each was told when it came.
    most_closed: Option<usize>,
}

impl Findings {
    /// Those that are kept whole, in the order in which they were opened.
    pub(crate) fn in_order(&self) -> Vec<&Record> {
        self.opened_after(0)
    }

    /// Of those that are kept whole, those opened after the first `number`, in that order.
    pub(crate) fn opened_after(&self, number: u64) -> Vec<&Record> {
        let mut records: Vec<_> =
            self.records.values().filter(|record| record.number > number).collect();
        records.sort_unstable_by_key(|record| record.number);
        records
    }

    /// Those that are only counted.
    pub(crate) fn counted(&self) -> impl Iterator<Item = (&Alike, u64)> {
        self.counted.iter().map(|(alike, &number)| (alike, number))
    }

    fn get_mut(&mut self, id: ProcessId, kind: FindingKind) -> Option<&mut Record> {
        let record = self.records.get_mut(&(id, kind))?;
        if let Some(changed) = &mut self.changed {
            changed.push((id, kind));
        }
        Some(record)
    }

    /// Tells from now on what changes. Of findings of processes that are gone no more than `closed` of
    /// each kind are kept then.
    pub(crate) fn tell_changes(&mut self, closed: usize) {
        self.changed.get_or_insert_default();
        self.most_closed = Some(closed);
    }

    /// Whether changes are told.
    pub(crate) fn are_told(&self) -> bool {
        self.changed.is_some()
    }

    /// Something about a process has changed that its findings tell.
    pub(crate) fn touch(&mut self, id: ProcessId) {
        for kind in FindingKind::ALL {
            // For its note that it was asked for.
            self.get_mut(id, kind);
        }
    }

    /// What has changed, each once, in the order in which it did first.
    pub(crate) fn take_changed(&mut self) -> Vec<(ProcessId, FindingKind)> {
        let Some(changed) = &mut self.changed else { return Vec::new() };
        let mut seen = HashSet::with_capacity(changed.len());
        let mut all = std::mem::take(changed);
        all.retain(|key| seen.insert(*key));
        all
    }

    /// The finding of a process of this kind.
    pub(crate) fn get(&self, id: ProcessId, kind: FindingKind) -> Option<&Record> {
        self.records.get(&(id, kind))
    }

    /// Whether there is one, open or resolved.
    pub(crate) fn has(&self, id: ProcessId, kind: FindingKind) -> bool {
        self.records.contains_key(&(id, kind))
    }

    /// How many were opened so far.
    pub(crate) fn opened(&self) -> u64 {
        self.opened
    }

    /// What was seen when a process was looked at, for whichever finding.
    pub(crate) fn observation(&self, id: ProcessId) -> Option<&Observation> {
        let of = |kind| self.records.get(&(id, kind))?.observation.as_deref();
        FindingKind::ALL.into_iter().find_map(of)
    }

    /// SIGKILL has not ended a process that is stuck.
    pub(crate) fn is_unkillable(&mut self, id: ProcessId) {
        if let Some(record) = self.get_mut(id, FindingKind::Stuck) {
            record.is_unkillable = true;
            // What it was seen in before may be another matter.
            record.observation = None;
        }
    }

    /// Whether there is one and it stands.
    pub(crate) fn is_open(&self, id: ProcessId, kind: FindingKind) -> bool {
        self.records.get(&(id, kind)).is_some_and(|record| record.state == FindingState::Open)
    }

    /// Zombies that stand as far as is known.
    pub(crate) fn open_zombies(&self) -> Vec<ProcessId> {
        let open = |record: &&Record| {
            record.kind == FindingKind::Zombie && record.state == FindingState::Open
        };
        self.in_order().into_iter().filter(open).map(|record| record.process).collect()
    }

    /// It was put right.
    pub(crate) fn resolve(&mut self, id: ProcessId, kind: FindingKind, at: Nanos) {
        if let Some(record) = self.get_mut(id, kind)
            && record.state == FindingState::Open
        {
            record.put_right(at);
        }
    }

    /// It was not put right after all, or stands again. `false` if there is none.
    pub(crate) fn reopen(&mut self, id: ProcessId, kind: FindingKind) -> bool {
        self.get_mut(id, kind).is_some_and(|record| {
            record.state = FindingState::Open;
            true
        })
    }

    /// An adopter reaped a zombie: that puts right what the adopter owed, not what the parent did.
    pub(crate) fn adopter_reaped(&mut self, id: ProcessId, at: Nanos) {
        if let Some(record) = self.get_mut(id, FindingKind::Zombie) {
            record.gone_at.get_or_insert(at);
            if record.adopters && !record.abandoned {
                record.put_right(at);
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
        self.table.hold(id);
        let holds_parent = self.table.hold(parent);
        self.findings.opened += 1;
        let record = Record {
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
            holds_parent,
            closed: false,
            acted_upon: None,
            is_unkillable: false,
            number: self.findings.opened,
        };
        self.findings.records.insert((id, kind), record);
        self.findings.get_mut(id, kind);
    }

    /// tracer acts on it: what comes of that puts nothing right that counts, and is no cause.
    pub(super) fn acts_on(&mut self, id: ProcessId) {
        for kind in FindingKind::ALL {
            let Some(record) = self.findings.records.get(&(id, kind)) else { continue };
            let cause = Box::new(self.cause_of(record));
            if let Some(record) = self.findings.get_mut(id, kind) {
                record.acted_upon.get_or_insert(cause);
            }
        }
        if let Some(entry) = self.table.get_mut(id) {
            entry.flags |= DOOMED;
        }
    }

    /// It never came to be.
    pub(super) fn void(&mut self, id: ProcessId, kind: FindingKind) {
        self.findings.get_mut(id, kind);
        self.drop_record(id, kind);
    }

    fn drop_record(&mut self, id: ProcessId, kind: FindingKind) {
        if let Some(record) = self.findings.records.remove(&(id, kind)) {
            if record.holds_parent {
                self.table.release(record.parent);
            }
            self.table.release(id);
        }
    }

    /// Its own parent did not let it stand after all.
    pub(super) fn void_zombie_of_parent(&mut self, id: ProcessId) {
        if self.findings.get_mut(id, FindingKind::Zombie).is_some_and(|record| !record.adopters) {
            self.void(id, FindingKind::Zombie);
        }
    }

    /// A process is gone from the kernel: what was found of it is kept, or counted where enough of
    /// its kind is kept.
    pub(super) fn close_findings(&mut self, id: ProcessId) {
        for kind in FindingKind::ALL {
            let Some(record) = self.findings.get_mut(id, kind) else { continue };
            if std::mem::replace(&mut record.closed, true) {
                continue;
            }
            let closed = self.findings.closed.entry(kind).or_default();
            *closed += 1;
            if *closed > self.findings.most_closed.unwrap_or(MOST_CLOSED) {
                self.count_only(id, kind);
            }
        }
    }

    fn count_only(&mut self, id: ProcessId, kind: FindingKind) {
        let Some(record) = self.findings.records.get(&(id, kind)) else { return };
        let mut alike = Alike {
            kind,
            cause: self.cause_of(record).code,
            open: record.state == FindingState::Open,
            program: self.table.get(id).map(|entry| Rc::clone(&entry.program)),
            exe: record.observation.as_ref().and_then(|seen| seen.exe.clone()),
        };
        if self.findings.counted.len() >= MOST_COUNTED
            && !self.findings.counted.contains_key(&alike)
        {
            // Of so many programs the verdict does not ask whether one of them is allowed.
            (alike.program, alike.exe) = (None, None);
        }
        *self.findings.counted.entry(alike).or_default() += 1;
        self.drop_record(id, kind);
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
        let is_doomed = |id| self.table.get(id).is_some_and(|entry| entry.is(DOOMED));
        // Its parent is ended before it, that is all.
        let is_tracers_doing =
            self.table.get(id).is_some_and(|entry| is_doomed(entry.first_parent));
        if self.findings.has(id, FindingKind::Orphan) || is_tracers_doing {
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
        self.findings.resolve(id, FindingKind::OutlivedCall, at);
        self.void_survivor_that_had_ended(id, at);
        if self.table.get(id).is_some_and(|entry| entry.is(DOOMED)) {
            self.findings.resolve(id, FindingKind::Survivor, at);
        }
        let first_parent = self.table.get(id).map(|entry| entry.first_parent);
        self.findings.resolve(id, FindingKind::Orphan, at);
        let Some(record) = self.findings.get_mut(id, FindingKind::Orphan) else { return };
        let Some(first_parent) = first_parent else { return };
        let last = if parent_now.pid == 0 { parent_before } else { parent_now };
        if last == first_parent {
            // It died before anyone adopted it, as everyone in a PID namespace does with its
            // init. A later look cannot have seen an adopter.
            if !record.is_adopted() {
                self.void(id, FindingKind::Orphan);
            }
        } else {
            record.adopter_at_death = Some(last);
        }
    }

    /// Its exit record was lost, and it took so long to let go that it seemed to live when `grace`
    /// ended: it did not.
    fn void_survivor_that_had_ended(&mut self, id: ProcessId, at: Nanos) {
        let in_time = self.root_end.is_some_and(|end| at < end.after(self.config.grace));
        if in_time && !self.grace_cut_short {
            self.void(id, FindingKind::Survivor);
        }
    }

    /// Orphans whose adoption has not been seen yet: the parent's exit is told before the kernel
    /// hands its children on.
    pub(super) fn orphan_awaits_adoption(&self, id: ProcessId) -> bool {
        self.findings
            .records
            .get(&(id, FindingKind::Orphan))
            .is_some_and(|record| record.state == FindingState::Open && !record.is_adopted())
            && self.table.get(id).is_some_and(|entry| entry.reap == Reap::Pending)
    }
}
