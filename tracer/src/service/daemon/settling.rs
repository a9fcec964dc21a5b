//! Settles what a daemon before this one had told of.

use std::time::Duration;

use tokio::time::Instant;

use super::Daemon;
use crate::{
    kernel::evidence,
    lineage::{FindingKind, ProcessId},
    service::history::{LostRun, Settlement},
};

/// How long after the start, beside `grace`, all that stands is found again.
pub(super) const SETTLES_AFTER: Duration = Duration::from_secs(1);
/// How often what is not found again is looked at.
const SETTLES_AGAIN: Duration = Duration::from_mins(1);

impl Daemon {
    /// Settles what a daemon before this one had told of and what went while nobody listened.
    pub(super) fn settle_inherited(&mut self) {
        self.settle_findings();
        self.close_runs();
        self.outlets.is_found_again();
        // Of what is left some may go yet, without this daemon's having found anything of it.
        let is_done = self.outlets.inherited().is_settled();
        self.settles_at = (!is_done).then(|| Instant::now() + SETTLES_AGAIN);
    }

    /// Whether procfs knows it.
    fn is_there(&self, process: ProcessId, local: Option<u32>) -> bool {
        local.is_some_and(|local| matches!(self.procfs.identify(local, process), Ok(Some(_))))
    }

    fn settle_findings(&mut self) {
        let at = self.clock.now();
        let (procs, epoch_offset) = (self.probes.procs(), self.epoch_offset);
        let all = self.outlets.inherited().findings().filter_map(|open| {
            let entry = procs.entry(open.process).map(|(entry, ..)| entry);
            let ended = entry.as_ref().and_then(|entry| entry.exit).map(|(at, _)| at);
            let mut is_free = false;
            let gone_at = match (open.kind, entry.as_ref()) {
                // The table may have had no room for it.
                (_, None) if self.is_there(open.process, open.local_pid) => return None,
                (_, None) => at,
                (FindingKind::Zombie, Some(entry)) if entry.reaped => at,
                // Nobody but its parent can have put it right.
                (FindingKind::Zombie, Some(_)) => return None,
                (FindingKind::Stuck, Some(_)) if ended.is_none() => {
                    // One that sleeps so still is found again after a while.
                    let local = open.local_pid?;
                    is_free = evidence::sample(&self.procfs, local, open.process).is_none();
                    is_free.then_some(at)?
                }
                (_, Some(_)) => ended?,
            };
            // Whoever reaped it was its own parent, if that lives.
            let lives = |pid| self.procfs.process(pid).and_then(|dir| dir.stat()).ok();
            let is_older = |ticks| ticks <= self.procfs.start_ticks(open.told_at.0);
            let parent = open.parent.and_then(lives);
            let is_resolved = is_free
                || open.kind == FindingKind::Zombie
                    && parent.is_some_and(|parent| is_older(parent.start_ticks));
            let (process, kind) = (open.process, open.kind);
            Some(Settlement { process, kind, at: gone_at, epoch_offset, is_resolved })
        });
        for settlement in all.collect::<Vec<_>>() {
            self.outlets.settle(settlement);
        }
    }

    /// Runs of which nothing was there any more when this daemon began. Where a root is there that belongs
    /// to no run now, as after a change of rules, its run goes on until it is gone.
    fn close_runs(&mut self) {
        let now = self.clock.now();
        let (procs, epoch_offset) = (self.probes.procs(), self.epoch_offset);
        let all = self.outlets.inherited().runs().filter_map(|(root, run)| {
            let ended_at = match procs.entry(root) {
                // The table may have had no room for it; who has the pid in the initial PID namespace is known.
                None if self.is_there(root, Some(root.pid)) => return None,
                None => run.ended_at.unwrap_or(now),
                Some((entry, ..)) => entry.exit?.0,
            };
            let invocation = run.invocation.clone();
            Some((root, LostRun { invocation, at: ended_at, epoch_offset }))
        });
        for (root, run) in all.collect::<Vec<_>>() {
            self.outlets.close(root, run);
        }
    }
}
