//! What came of cleaning up, as far as the core is told.

use std::collections::BTreeMap;

use hashbrown::HashMap;

use super::{
    Lineage,
    event::CleanupNews,
    model::{Cleanup, FindingKind, ProcessId},
    remedy::{ActionResult, Receipt},
    table::WANT_UNKILLABLE,
};

/// All receipts.
#[derive(Debug, Default)]
pub(super) struct CleanedUp {
    /// Of those that something was found of, by what led to it, and those that somebody asked for.
    receipts: HashMap<(ProcessId, Option<FindingKind>), Receipt>,
    /// Whom somebody asked to be ended, in the order in which that was begun. Their entries are held.
    requested: Vec<ProcessId>,
    /// How many more there were.
    requested_beyond: u64,
    summary: Option<Cleanup>,
    /// From so many receipts on those that nobody asks for any more are dropped, where findings are told
    /// as they change.
    kept_at_most: usize,
}

/// Receipts that are kept whatever becomes of what they are about.
const MANY_RECEIPTS: usize = 1024;

/// Processes ended on request that are told one by one.
const MOST_REQUESTED: usize = 1024;

impl CleanedUp {
    /// What was done about a finding of a process, or because somebody asked for it; else what was done
    /// about the same process for another reason.
    pub(super) fn receipt(&self, id: ProcessId, kind: Option<FindingKind>) -> Option<&Receipt> {
        let kinds = [kind].into_iter().chain(FindingKind::ALL.map(Some)).chain([None]);
        kinds.into_iter().find_map(|kind| self.receipts.get(&(id, kind)))
    }

    /// Whom somebody asked to be ended.
    pub(super) fn requested(&self) -> &[ProcessId] {
        &self.requested
    }

    /// How many more there were than are told one by one.
    pub(super) fn requested_beyond(&self) -> u64 {
        self.requested_beyond
    }

    /// All of it in numbers; `None`: nothing was to be done.
    pub(super) fn summary(&self) -> Option<&Cleanup> {
        self.summary.as_ref()
    }
}

impl Lineage {
    /// The root forked while it was in this cgroup.
    pub(super) fn root_was_in(&mut self, cgroup: Option<u64>) {
        /// More cgroups than any root has been in.
        const MOST: usize = 64;
        if let Some(cgroup) = cgroup
            && !self.root_cgroups.contains(&cgroup)
            && self.root_cgroups.len() < MOST
        {
            self.root_cgroups.push(cgroup);
        }
    }

    pub(super) fn cleaned_up(&mut self, news: CleanupNews) {
        match news {
            CleanupNews::Doomed(process) => self.acts_on(process),
            CleanupNews::Unkillable { process, since } => {
                self.open(process, FindingKind::Stuck, since);
                self.findings.is_unkillable(process);
                self.observe(process, WANT_UNKILLABLE);
            }
            CleanupNews::Receipt(receipt) => self.take_receipt(receipt),
            CleanupNews::Requested(process) => self.requested(process),
        }
    }

    fn requested(&mut self, process: ProcessId) {
        // There is no report that would tell of it, and whoever asked gets the receipt.
        if self.findings.are_told() || self.cleanup.requested.contains(&process) {
            return;
        }
        if self.cleanup.requested.len() >= MOST_REQUESTED {
            self.cleanup.requested_beyond = self.cleanup.requested_beyond.saturating_add(1);
        } else if self.table.hold(process) {
            self.cleanup.requested.push(process);
        }
    }

    fn take_receipt(&mut self, receipt: Receipt) {
        let summary = self.cleanup.summary.get_or_insert_with(|| Cleanup {
            began_at: receipt.decided_at,
            ended_at: receipt.at,
            dry_run: receipt.dry_run,
            results: BTreeMap::new(),
        });
        summary.began_at = summary.began_at.min(receipt.decided_at);
        summary.ended_at = summary.ended_at.max(receipt.at);
        *summary.results.entry(receipt.result).or_default() += 1;
        let is_told =
            FindingKind::ALL.into_iter().any(|kind| self.findings.has(receipt.process, kind));
        let is_failure =
            !matches!(receipt.result, ActionResult::Ended | ActionResult::EndedByItself);
        let is_requested = self.cleanup.requested.contains(&receipt.process);
        if is_told || is_failure || is_requested {
            self.findings.touch(receipt.process);
            self.cleanup.receipts.insert((receipt.process, receipt.kind), receipt);
            self.drop_old_receipts();
        }
    }

    /// A run may last for months: of what is not told any more nobody asks what was done about it.
    fn drop_old_receipts(&mut self) {
        let CleanedUp { receipts, kept_at_most, .. } = &mut self.cleanup;
        if !self.findings.are_told() || receipts.len() <= (*kept_at_most).max(MANY_RECEIPTS) {
            return;
        }
        let findings = &self.findings;
        receipts
            .retain(|&(id, _), _| FindingKind::ALL.into_iter().any(|kind| findings.has(id, kind)));
        *kept_at_most = 2 * receipts.len();
    }
}
