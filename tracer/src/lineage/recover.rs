//! After records were lost: `PROCS` is the truth, and the core converges to it.

use std::rc::Rc;

use hashbrown::{HashMap, HashSet};

use super::{
    Lineage,
    event::{Event, RecoveredProcess},
    model::{ExitStatus, FindingKind, Nanos, ProcessId},
    table::{
        EXECED, Entry, GONE, LATE, OOM, Reap, TOLD_UNREAPED, UNSEEN, VANISHED, WANT_ENTRY,
        WANT_SURVIVOR,
    },
};

/// What is not known and will not be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Gap {
    /// Processes that came and went unseen.
    pub(crate) unseen: u64,
    /// Processes whose end was not seen: how long they stood unreaped is not known.
    pub(crate) ends: u64,
    /// Processes that the kernel side could not enter.
    pub(crate) failed: u64,
    /// Dead processes of which it is not known whether their own parent reaped them.
    pub(crate) unreaped: u64,
    /// Dead processes that could not be looked at.
    pub(crate) unlooked: u64,
    /// Zombies that are gone, nobody knows since when: what counts only where what was put right
    /// counts too.
    pub(crate) reaps: u64,
    /// What happened after the last event is not known.
    pub(crate) cut_off: bool,
}

impl Gap {
    /// Whether the answer could have been another. `strict`: what was put right in time counts.
    pub(crate) fn is_open(&self, strict: bool) -> bool {
        let Self { unseen, ends, failed, unreaped, unlooked, reaps, cut_off } = self;
        *unseen > 0
            || *ends > 0
            || *failed > 0
            || *unreaped > 0
            || *unlooked > 0
            || *cut_off
            || (strict && *reaps > 0)
    }
}

/// `PROCS` as it was read, brought up to date by every record that comes before the core takes it
/// in: what it says of a process that has ended since is old news.
#[derive(Clone, Debug)]
pub struct Reading {
    /// When the reading began.
    pub at: Nanos,
    /// See [`Event::Recovered`].
    pub tracked: u64,
    /// See [`Event::Recovered`].
    pub dropped: u64,
    /// See [`Event::Recovered`].
    pub dropped_unreaped: u64,
    /// See [`Event::Recovered`].
    pub failed: u64,
    /// By pid, of which `PROCS` has one process each.
    processes: HashMap<u32, RecoveredProcess>,
    /// Ends that were told since of processes that lived when they were read, and who was left.
    again: Vec<Event<'static>>,
}

impl Reading {
    /// A reading that began at `at`, without its counts.
    #[must_use]
    pub fn new(at: Nanos, processes: Vec<RecoveredProcess>) -> Self {
        let processes = processes.into_iter().map(|process| (process.id.pid, process)).collect();
        Self {
            at,
            tracked: 0,
            dropped: 0,
            dropped_unreaped: 0,
            failed: 0,
            processes,
            again: Vec::new(),
        }
    }

    /// Takes note of a record that the core is told as well.
    pub fn note(&mut self, event: &Event<'_>) {
        match *event {
            // Its entry may have come behind the walk, or in the place of one that was read.
            Event::Fork { child, forker, parent, pids, cgroup, root, .. }
                if self.processes.get(&child.pid).is_none_or(|old| old.id.start < child.start) =>
            {
                let forked = RecoveredProcess::forked(child, forker, parent, pids);
                let forked = RecoveredProcess { cgroup, root, ..forked };
                self.processes.insert(child.pid, forked);
            }
            Event::Reaped { process, gone: true, .. } if self.has(process) => {
                self.processes.remove(&process.pid);
            }
            Event::Exit { at, process, status, parent, children_uncounted }
                if self.has_alive(process) =>
            {
                let exit = Event::Exit { at, process, status, parent, children_uncounted };
                self.again.push(exit);
            }
            Event::Unreaped { at, process, parent, waits, not_yet } if self.has(process) => {
                self.again.push(Event::Unreaped { at, process, parent, waits, not_yet });
            }
            _ => {}
        }
    }

    fn has(&self, id: ProcessId) -> bool {
        self.processes.get(&id.pid).is_some_and(|known| known.id == id)
    }

    fn has_alive(&self, id: ProcessId) -> bool {
        self.has(id) && self.processes.get(&id.pid).is_some_and(|known| known.exit.is_none())
    }

    /// What the core is to be told, in this order: [`Event::Recovered`], and once more the ends of
    /// processes that it may not have known when they were told first.
    pub fn into_events(self) -> impl Iterator<Item = Event<'static>> {
        let Self { at, tracked, dropped, dropped_unreaped, failed, processes, again } = self;
        let processes = processes.into_values().collect();
        let recovered =
            Event::Recovered { at, processes, tracked, dropped, dropped_unreaped, failed };
        std::iter::once(recovered).chain(again)
    }
}

impl Lineage {
    pub(super) fn recovered(
        &mut self,
        at: Nanos,
        mut processes: Vec<RecoveredProcess>,
        tracked: u64,
        dropped: u64,
        dropped_unreaped: u64,
        failed: u64,
    ) {
        // Forkers first.
        processes.sort_unstable_by_key(|process| process.id.by_birth());
        let exits: HashMap<_, _> =
            processes.iter().map(|process| (process.id, process.exit)).collect();
        let mut returned = HashSet::new();
        for process in &processes {
            if self.recover_fork(process, &exits) {
                returned.insert(process.id);
            }
        }
        // In the order in which they died, the living last: the end of a parent has to find its
        // children as they were then.
        processes.sort_by_key(|process| process.exit.map_or(Nanos(u64::MAX), |(at, _)| at));
        for process in &processes {
            self.recover_life(process);
        }
        let mut found = 0;
        for process in processes.iter().filter(|process| process.unreaped) {
            let lost = self.recover_unreaped(process, at);
            let ignored = self.unreaped_unknown.contains(&process.id);
            found += u64::from(lost && !ignored && !returned.contains(&process.id));
        }
        self.unreaped_unknown.clear();
        for process in processes.iter().filter(|process| process.reaped) {
            if returned.contains(&process.id) {
                self.table.mark_gone(process.id);
            }
            self.is_gone(at, process.id);
        }
        let lost = dropped_unreaped.saturating_sub(self.lost_unreaped);
        self.lost_unreaped = dropped_unreaped;
        self.gap.unreaped = self.gap.unreaped.saturating_add(lost.saturating_sub(found));
        let present = exits.into_keys().collect();
        self.end_the_missing(at, &present, failed > 0);
        self.ask_for_late_survivors(&present);
        self.stats.dropped = dropped;
        self.gap.failed = failed;
        self.gap.unseen = tracked.saturating_sub(self.stats.processes);
        self.stats.unseen = self.gap.unseen;
    }

    /// Everything that is not known, as of now.
    pub(super) fn gap(&self) -> Gap {
        let lossy = self.stats.dropped > 0;
        let lost = |entry: &Entry| lossy && entry.is_alive() && entry.is(VANISHED);
        let unlooked =
            |entry: &Entry| entry.is(UNSEEN) && matches!(entry.reap, Reap::Pending | Reap::Left(_));
        // Nor will be.
        let untold = |entry: &Entry| entry.is(LATE) && !entry.is(GONE);
        Gap {
            reaps: self.gap.reaps + self.table.count(untold),
            ends: self.gap.ends + self.table.count(lost),
            unlooked: self.table.count(unlooked),
            ..self.gap
        }
    }

    /// Enters a process whose fork may not have been told. Says whether it was told, and the process
    /// let go: then it comes back for its descendants only, its life told and counted already.
    fn recover_fork(
        &mut self,
        process: &RecoveredProcess,
        exits: &HashMap<ProcessId, Option<(Nanos, u32)>>,
    ) -> bool {
        let RecoveredProcess { id, forker, parent: _, pids, root, reaped, .. } = *process;
        let first_parent = self.recovered_first_parent(process, exits);
        let known = self.table.get(id).is_some();
        self.forked(Nanos(id.start), id, forker, first_parent, pids, root);
        let returned = reaped && !known && self.table.was_forgotten(id);
        if returned {
            self.stats.processes = self.stats.processes.saturating_sub(1);
        }
        returned
    }

    /// The first parent of a process: its entry tells that only until its death, from then who was
    /// its parent at death. If its forker is dead, that may be an adopter. If its forker lives, then
    /// it was forked with `CLONE_PARENT`, and its parent was once its forker's.
    fn recovered_first_parent(
        &mut self,
        process: &RecoveredProcess,
        exits: &HashMap<ProcessId, Option<(Nanos, u32)>>,
    ) -> ProcessId {
        let RecoveredProcess { id, forker, parent, exit, .. } = *process;
        if exit.is_none() || parent == forker || self.table.get(id).is_some() {
            return parent;
        }
        if exits.get(&forker).is_none_or(Option::is_some) {
            return forker;
        }
        let Some(entry) = self.table.get(forker) else { return parent };
        // If its forker had been handed on before, the adopter would be the one that owed a wait.
        let first_parent = entry.first_parent;
        if first_parent != parent {
            self.gap.unreaped = self.gap.unreaped.saturating_add(1);
        }
        first_parent
    }

    /// Brings one process to the state that its entry tells, up to its death.
    fn recover_life(&mut self, process: &RecoveredProcess) {
        let RecoveredProcess {
            id,
            forker: _,
            parent,
            pids: _,
            cgroup: _,
            root: _,
            exec_at,
            exit,
            reaped: _,
            unreaped: _,
            oom,
            ref signal,
            waits: _,
        } = *process;
        if let Some((at, signal, sender, name)) = signal {
            self.signalled(*at, id, *signal, *sender, name);
        }
        let Some(entry) = self.table.get_mut(id) else { return };
        if oom {
            entry.flags |= OOM;
        }
        if let Some(at) = exec_at
            && at > entry.exec_at
        {
            // The record of what it executed was lost: what was known is another program.
            entry.program = Rc::default();
            entry.exec_at = at;
            entry.flags |= EXECED;
        }
        if let Some((at, status)) = exit {
            self.ended(at, id, Some(ExitStatus::from_wait_status(status)), parent, false);
        }
    }

    /// Its dying parent had not reaped it. Says whether the record of that was lost.
    fn recover_unreaped(&mut self, process: &RecoveredProcess, at: Nanos) -> bool {
        let Some(entry) = self.table.get(process.id) else { return false };
        let (told, reap) = (entry.is(TOLD_UNREAPED), entry.reap);
        let (first_parent, entry_end) = (entry.first_parent, entry.end.map(|end| end.at));
        let end = self.table.get(first_parent).and_then(|parent| parent.end);
        // The record of the parent's end may be lost too, and its entry another's by now.
        let left_at = end.filter(|end| end.status.is_some()).map(|end| end.at);
        let stood = left_at.zip(process.exit).map(|(left, (died, _))| left.since(died));
        let in_time = stood.is_some_and(|stood| stood < self.config.zombie_after);
        if in_time {
            // If it seemed to stand longer, then because nothing had told of its parent's end.
            self.void_zombie_of_parent(process.id);
        }
        if told && reap != Reap::Pending || matches!(reap, Reap::Left(_)) {
            return !told;
        }
        let Some(died) = entry_end else { return !told };
        if left_at.is_none()
            && at.since(died) >= self.config.zombie_after
            && !self.findings.has(process.id, FindingKind::Zombie)
        {
            self.gap.unreaped = self.gap.unreaped.saturating_add(1);
        }
        // An entry does not tell whether it was a zombie yet, and so could be waited for, when its
        // parent ended: it let go of its memory and files in less than `zombie_after`, then.
        let not_yet = left_at.is_none_or(|left| left <= died);
        let waits = process.waits;
        self.left_unreaped(left_at.unwrap_or(at), process.id, first_parent, waits, not_yet);
        !told
    }

    /// Those that were not known yet when `grace` ended, because the record of their fork was lost:
    /// they were not asked for then.
    fn ask_for_late_survivors(&mut self, present: &HashSet<ProcessId>) {
        let Some(end) = self.root_end.filter(|_| self.survivors_asked) else { return };
        let due = end.after(self.config.grace);
        for id in self.table.alive() {
            if present.contains(&id)
                && Nanos(id.start) < due
                && !self.findings.has(id, FindingKind::Survivor)
            {
                self.observe(id, WANT_SURVIVOR);
            }
        }
    }

    /// It is gone by `at`, and the record that would have said since when was lost.
    pub(super) fn is_gone(&mut self, at: Nanos, id: ProcessId) {
        if let Some(entry) = self.table.get(id)
            && !entry.is(GONE)
            && entry.reap == Reap::Pending
            && let Some(end) = entry.end
            && !self.config.zombie_after.is_zero()
            && at.since(end.at) >= self.config.zombie_after
        {
            self.gap.reaps += 1;
        }
        self.reaped(at, id, None, true);
    }

    /// Those that the core takes for standing and that have no entry any more are gone: their
    /// last records were lost. Not those forked since the walk began. A [`Reading`] has every other
    /// that lives: a fork enters its process before it is told. Where entries were `refused` it may
    /// also live without one: then a look decides.
    fn end_the_missing(&mut self, at: Nanos, present: &HashSet<ProcessId>, refused: bool) {
        for id in self.table.ids() {
            let Some(entry) = self.table.get(id) else { continue };
            if present.contains(&id) || entry.is(GONE) || Nanos(id.start) >= at {
                continue;
            }
            if refused && entry.is_alive() {
                self.observe(id, WANT_ENTRY);
                continue;
            }
            self.is_gone(at, id);
        }
    }
}
