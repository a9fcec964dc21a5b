//! After records were lost: `PROCS` is the truth, and the core converges to it.

use std::{collections::HashSet, rc::Rc, time::Duration};

use super::{
    Lineage,
    event::RecoveredProcess,
    model::{ExitStatus, Nanos, ProcessId},
    table::{EXECED, GONE, OOM, Reap},
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
    /// What happened after the last event is not known.
    pub(crate) cut_off: bool,
}

impl Gap {
    /// Whether the answer could have been another.
    pub(crate) fn is_open(&self) -> bool {
        let Self { unseen, ends, failed, unreaped, cut_off } = self;
        *unseen > 0 || *ends > 0 || *failed > 0 || *unreaped > 0 || *cut_off
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
        let mut found = 0;
        for process in processes {
            found += u64::from(self.recover_one(process));
        }
        let lost = dropped_unreaped.saturating_sub(self.lost_unreaped);
        self.lost_unreaped = dropped_unreaped;
        self.gap.unreaped = self.gap.unreaped.saturating_add(lost.saturating_sub(found));
        self.end_the_missing(at, &present);
        self.stats.dropped = dropped;
        self.gap.failed = failed;
        self.gap.unseen = tracked.saturating_sub(self.stats.processes);
        self.stats.unseen = self.gap.unseen.saturating_add(failed);
    }

    /// Brings one process to the state that its entry tells. Says whether its dying parent had not
    /// reaped it and the record of that was lost.
    fn recover_one(&mut self, process: RecoveredProcess) -> bool {
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
            let first_parent = known.map(|entry| entry.first_parent);
            let waits = waits.unwrap_or_default();
            self.left_unreaped(at, id, first_parent.unwrap_or(parent), waits, false);
        }
        if reaped {
            self.reaped(at, id, None, true);
        }
        lost
    }

    /// Those that the core takes for standing and that have no entry any more are gone: their
    /// last records were lost. Not those forked as the walk began, which may have been entered
    /// behind it.
    fn end_the_missing(&mut self, at: Nanos, present: &HashSet<ProcessId>) {
        /// `start_boottime` is set early in `copy_process()`, before the fork is told.
        const IN_FLIGHT: Duration = Duration::from_millis(100);
        for id in self.table.ids() {
            let Some(entry) = self.table.get(id) else { continue };
            if present.contains(&id) || entry.is(GONE) || Nanos(id.start).after(IN_FLIGHT) >= at {
                continue;
            }
            self.reaped(at, id, None, true);
        }
    }
}
