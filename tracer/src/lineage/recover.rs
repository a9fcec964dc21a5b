//! After records were lost: `PROCS` is the truth, and the core converges to it.

use std::{
    collections::{HashMap, HashSet},
    rc::Rc,
    time::Duration,
};

use tracer_common::WaitCounts;

use super::{
    Lineage,
    event::RecoveredProcess,
    model::{ExitStatus, Nanos, ProcessId},
    table::{EXECED, Entry, GONE, LATE, OOM, Reap, UNSEEN, VANISHED, WANT_ENTRY},
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
        processes.sort_unstable_by_key(|process| (process.id.start, process.id.pid));
        for process in &processes {
            self.forked(at, process.id, process.forker, process.parent, process.pids, process.root);
        }
        let present: HashSet<ProcessId> = processes.iter().map(|process| process.id).collect();
        // Ends in their order: whose parent ended first was an orphan, not a zombie of its.
        processes.sort_by_key(|process| process.exit.map_or(Nanos(u64::MAX), |(at, _)| at));
        let ends: HashMap<ProcessId, Nanos> =
            processes.iter().filter_map(|process| Some((process.id, process.exit?.0))).collect();
        let mut found = 0;
        for process in processes {
            found += u64::from(self.recover_one(at, process, &ends));
        }
        let lost = dropped_unreaped.saturating_sub(self.lost_unreaped);
        self.lost_unreaped = dropped_unreaped;
        self.gap.unreaped = self.gap.unreaped.saturating_add(lost.saturating_sub(found));
        self.end_the_missing(at, &present, failed > 0);
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

    /// Brings one process to the state that its entry tells. Says whether its dying parent had not
    /// reaped it and the record of that was lost. `walked`: when the entries were read;
    /// `ends`: those that they tell of.
    fn recover_one(
        &mut self,
        walked: Nanos,
        process: RecoveredProcess,
        ends: &HashMap<ProcessId, Nanos>,
    ) -> bool {
        let RecoveredProcess {
            id,
            forker: _,
            parent,
            pids: _,
            cgroup: _,
            root: _,
            exec_at,
            exit,
            reaped,
            unreaped,
            oom,
            signal,
            waits,
        } = process;
        if let Some((at, signal, sender, name)) = signal {
            self.signalled(at, id, signal, sender, &name);
        }
        if oom && let Some(entry) = self.table.get_mut(id) {
            entry.flags |= OOM;
        }
        if let (Some(at), Some(entry)) = (exec_at, self.table.get_mut(id))
            && at > entry.exec_at
        {
            // The record of what it executed was lost: what was known is another program.
            entry.program = Rc::default();
            entry.exec_at = at;
            entry.flags |= EXECED;
        }
        let Some((at, status)) = exit else { return false };
        self.ended(at, id, Some(ExitStatus::from_wait_status(status)), parent, false);
        let known = self.table.get(id);
        let lost = unreaped && known.is_some_and(|entry| !matches!(entry.reap, Reap::Left(_)));
        if lost {
            let first_parent = known.map_or(parent, |entry| entry.first_parent);
            let waits = waits.unwrap_or_default();
            let left = ends.get(&first_parent).copied();
            self.was_left_unreaped(walked, id, first_parent, left, waits);
        }
        if reaped {
            self.is_gone(walked, id);
        }
        lost
    }

    /// The record that its parent died without having reaped it was lost: the parent's own end
    /// tells for how long it had stood by then.
    fn was_left_unreaped(
        &mut self,
        walked: Nanos,
        id: ProcessId,
        parent: ProcessId,
        left: Option<Nanos>,
        waits: WaitCounts,
    ) {
        let known = || self.table.get(parent).and_then(|parent| parent.end).map(|end| end.at);
        let left = left.or_else(known);
        let Some(end) = self.table.get(id).and_then(|entry| entry.end) else { return };
        let possibly_owed = walked.since(end.at) >= self.config.zombie_after;
        if left.is_none() && possibly_owed {
            self.gap.unreaped = self.gap.unreaped.saturating_add(1);
        }
        let left = left.unwrap_or(end.at);
        self.left_unreaped(left, id, parent, waits, left <= end.at);
    }

    /// It is gone by `at`, and the record that would have said since when was lost.
    fn is_gone(&mut self, at: Nanos, id: ProcessId) {
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
    /// last records were lost. Not those forked as the walk began, which may have been entered
    /// behind it. Where entries were `refused` it may also live without one: then a look decides.
    fn end_the_missing(&mut self, at: Nanos, present: &HashSet<ProcessId>, refused: bool) {
        /// `start_boottime` is set early in `copy_process()`, before the fork is told.
        const IN_FLIGHT: Duration = Duration::from_millis(100);
        for id in self.table.ids() {
            let Some(entry) = self.table.get(id) else { continue };
            if present.contains(&id) || entry.is(GONE) || Nanos(id.start).after(IN_FLIGHT) >= at {
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
