//! After records were lost: `PROCS` is the truth, and the core converges to it.

use std::collections::HashSet;

use super::{
    Lineage,
    event::RecoveredProcess,
    model::{ExitStatus, Nanos, ProcessId},
    table::{GONE, OOM},
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
}

impl Gap {
    /// Whether the answer could have been another.
    pub(crate) fn is_open(&self) -> bool {
        let Self { unseen, ends, failed } = self;
        *unseen > 0 || *ends > 0 || *failed > 0
    }
}

impl Lineage {
    pub(super) fn recovered(
        &mut self,
        at: Nanos,
        mut processes: Vec<RecoveredProcess>,
        tracked: u64,
        dropped: u64,
        failed: u64,
    ) {
        // Forkers first.
        processes.sort_unstable_by_key(|process| (process.id.start, process.id.pid));
        for process in &processes {
            self.forked(at, process.id, process.forker, process.parent, process.pids, process.root);
        }
        let present: HashSet<ProcessId> = processes.iter().map(|process| process.id).collect();
        for process in processes {
            self.recover_one(process);
        }
        self.end_the_missing(at, &present);
        self.stats.dropped = dropped;
        self.gap.failed = failed;
        self.gap.unseen = tracked.saturating_sub(self.stats.processes);
        self.stats.unseen = self.gap.unseen + failed;
    }

    /// Brings one process to the state that its entry tells.
    fn recover_one(&mut self, process: RecoveredProcess) {
        let RecoveredProcess {
            id,
            forker: _,
            parent,
            pids: _,
            cgroup: _,
            root: _,
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
        let Some((at, status)) = exit else { return };
        self.ended(at, id, Some(ExitStatus::from_wait_status(status)), parent, true);
        if unreaped {
            let first_parent = self.table.get(id).map(|entry| entry.first_parent);
            self.left_unreaped(at, id, first_parent.unwrap_or(parent), waits.unwrap_or_default());
        }
        if reaped {
            self.reaped(at, id, None);
        }
    }

    /// Those that the core takes for standing and that have no entry any more are gone: their
    /// last records were lost.
    fn end_the_missing(&mut self, at: Nanos, present: &HashSet<ProcessId>) {
        for id in self.table.ids() {
            let Some(entry) = self.table.get(id) else { continue };
            if present.contains(&id) || entry.is(GONE) || Nanos(id.start) >= at {
                continue;
            }
            self.reaped(at, id, None);
        }
    }
}
