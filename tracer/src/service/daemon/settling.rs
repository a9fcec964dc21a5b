//! Settles what a daemon before this one had told of.

use std::time::Duration;

use tokio::time::Instant;

use super::Daemon;
use crate::{lineage::FindingKind, service::history::Settlement};

/// How long after the start, beside `grace`, all that stands is found again.
pub(super) const SETTLES_AFTER: Duration = Duration::from_secs(1);
/// How often what is not found again is looked at.
const SETTLES_AGAIN: Duration = Duration::from_mins(1);

impl Daemon {
    /// Settles what a daemon before this one had told of and what went while nobody listened.
    pub(super) fn settle_inherited(&mut self) {
        let at = self.clock.now();
        let (procs, epoch_offset) = (self.probes.procs(), self.epoch_offset);
        let all = self.outlets.not_found_again().filter_map(|open| {
            let entry = procs.entry(open.process).map(|(entry, ..)| entry);
            let ended = entry.as_ref().and_then(|entry| entry.exit).map(|(at, _)| at);
            let gone_at = match (open.kind, entry.as_ref()) {
                (_, None) => at,
                (FindingKind::Zombie, Some(entry)) if entry.reaped => at,
                // Nobody but its parent can have put it right.
                (FindingKind::Zombie, Some(_)) => return None,
                (_, Some(_)) => ended?,
            };
            // Whoever reaped it was its own parent, if that lives.
            let lives = |pid| self.procfs.process(pid).and_then(|dir| dir.stat()).ok();
            let is_older = |ticks| ticks <= self.procfs.start_ticks(open.told_at.0);
            let parent = open.parent.and_then(lives);
            let is_resolved = open.kind == FindingKind::Zombie
                && parent.is_some_and(|parent| is_older(parent.start_ticks));
            let (process, kind) = (open.process, open.kind);
            Some(Settlement { process, kind, at: gone_at, epoch_offset, is_resolved })
        });
        for settlement in all.collect::<Vec<_>>() {
            self.outlets.settle(settlement);
        }
        // Of those that are left some may go yet, without this daemon's having found anything of them.
        let is_done = self.outlets.not_found_again().next().is_none();
        self.settles_at = (!is_done).then(|| Instant::now() + SETTLES_AGAIN);
    }
}
