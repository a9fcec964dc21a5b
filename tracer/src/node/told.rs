//! What was told of a finding: enough to see what is new about it, and to withdraw it.
//!
//! One is kept of each finding that may change, so it leaves out what may be large: where more is known of the
//! process still, that is added when the finding is withdrawn.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use super::{Change, FindingNews};
use crate::lineage::{Finding, FindingState, Lineage};

/// What was told of a finding last.
#[derive(Clone, Debug)]
pub(super) struct Told {
    pub(super) seen: Seen,
    /// To be told once more if it is withdrawn.
    brief: Box<FindingNews>,
}

/// What tells whether there is something new about a finding.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    pub(super) is_gone: bool,
    state: FindingState,
    /// Of all else that is worth telling.
    digest: u64,
}

impl Seen {
    pub(super) fn of(news: &FindingNews) -> Self {
        let FindingNews { finding, gone_at, kept_by, .. } = news;
        let digest = digest(finding, kept_by.as_deref());
        Self { is_gone: gone_at.is_some(), state: finding.state, digest }
    }

    /// What is new about it since it was told; `None`: nothing.
    pub(super) fn since(&self, told: &Told) -> Option<Change> {
        let before = &told.seen;
        if self.state != before.state {
            return Some(match self.state {
                FindingState::Resolved(_) => Change::Resolved,
                FindingState::Open => Change::Changed,
            });
        }
        if self.is_gone && !before.is_gone {
            return Some(Change::Gone);
        }
        (self.digest != before.digest).then_some(Change::Changed)
    }
}

impl Told {
    pub(super) fn of(news: &mut FindingNews, seen: Seen) -> Self {
        // What takes most is not even copied.
        let lineage = std::mem::take(&mut news.finding.lineage);
        let mut brief = Box::new(news.clone());
        news.finding.lineage = lineage;
        leave_out(&mut brief.finding);
        Self { seen, brief }
    }

    /// It turned out to be none.
    pub(super) fn withdrawn(self, lineage: &Lineage) -> Box<FindingNews> {
        let mut news = self.brief;
        news.change = Change::Withdrawn;
        lineage.complete(&mut news.finding);
        news
    }
}

/// Leaves out what [`Lineage::complete`] brings back, and where it was and what it held and waited for.
fn leave_out(finding: &mut Finding) {
    finding.process.exe = None;
    finding.process.args = Vec::new();
    finding.process.cwd = None;
    if let Some(call) = &mut finding.tool_call {
        call.summary = None;
        call.child = None;
    }
    finding.resources = None;
    finding.blocked = None;
    finding.action = None;
}

/// Of what a finding tells besides its state and times.
fn digest(finding: &Finding, kept_by: Option<&str>) -> u64 {
    let mut hasher = DefaultHasher::new();
    let Finding { adopter, exit, cause, agent, tool_call, resources, blocked, .. } = finding;
    let action = finding.action.as_ref().map(|action| &action.receipt);
    let told = format!(
        "{adopter:?}{exit:?}{cause:?}{agent:?}{tool_call:?}{resources:?}{blocked:?}{action:?}{kept_by:?}"
    );
    told.hash(&mut hasher);
    hasher.finish()
}
