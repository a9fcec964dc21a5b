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
    /// Of those that something was found of, by what led to it.
    receipts: HashMap<(ProcessId, FindingKind), Receipt>,
    summary: Option<Cleanup>,
}

impl CleanedUp {
    /// What was done about a finding of a process, else about another of the same one.
    pub(super) fn receipt(&self, id: ProcessId, kind: FindingKind) -> Option<&Receipt> {
        let kinds = std::iter::once(kind).chain(FindingKind::ALL);
        kinds.into_iter().find_map(|kind| self.receipts.get(&(id, kind)))
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
        if is_told || is_failure {
            self.cleanup.receipts.insert((receipt.process, receipt.kind), receipt);
        }
    }
}
