//! What is still alive `grace` after the end of the tool call that started it.

use super::{
    Lineage,
    announcement::CallStatus,
    calls::CallIndex,
    model::{FindingKind, Nanos, ProcessId},
    table::WANT_OUTLIVED,
};

/// A tool call that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Overdue {
    /// One that is known.
    Call(CallIndex),
    /// What an agent's direct child was started for, of which nobody said anything.
    Child(ProcessId),
}

impl Overdue {
    /// The call, if it is one.
    pub(crate) fn call(self) -> Option<CallIndex> {
        match self {
            Self::Call(call) => Some(call),
            Self::Child(_) => None,
        }
    }
}

impl Lineage {
    /// The forking thread may have said for which call.
    pub(super) fn forked_for_a_call(
        &mut self,
        at: Nanos,
        child: ProcessId,
        forker: ProcessId,
        thread: u32,
    ) {
        if let Some(call) = self.calls.spawned(forker, thread, at)
            && let Some(entry) = self.table.get_mut(child)
        {
            entry.announced = Some(call);
        }
    }

    /// A call has ended: what it started has `grace` to end as well.
    pub(super) fn end_call(&mut self, call: CallIndex, at: Nanos, status: CallStatus) {
        if self.calls.end(call, at, status) {
            self.falls_due(at, Overdue::Call(call));
        }
    }

    /// An agent's direct child has ended: where nobody told of a call, that was it.
    pub(super) fn ends_what_it_was_started_for(&mut self, id: ProcessId, at: Nanos) {
        if self.root_end.is_some() {
            return;
        }
        let Some(entry) = self.table.get(id).filter(|entry| entry.agent.is_none()) else { return };
        let forker = self.table.get(entry.forker).and_then(|forker| forker.agent);
        let is_agents = forker
            .and_then(|index| self.invocations.get(index))
            .is_some_and(|invocation| invocation.agent.is_some());
        // Whom it leaves are its children, or theirs.
        if is_agents && entry.holds > 0 {
            self.falls_due(at, Overdue::Child(id));
        }
    }

    fn falls_due(&mut self, at: Nanos, overdue: Overdue) {
        let due = at.after(self.config.grace);
        let place = self.overdue.partition_point(|&(other, _)| other <= due);
        self.overdue.insert(place, (due, overdue));
    }

    /// `grace` is over: who lives of what it started?
    pub(super) fn look_for_outlived(&mut self, overdue: Overdue) {
        // Then they are survivors.
        if self.root_end.is_some() {
            return;
        }
        let began = match overdue {
            Overdue::Call(call) => match self.calls.get(call) {
                Some(call) if call.background.is_none() => call.start.unwrap_or_default().0,
                _ => return,
            },
            Overdue::Child(id) => id.start,
        };
        for id in self.table.alive_since(began) {
            if self.findings.has(id, FindingKind::OutlivedCall) {
                continue;
            }
            let blame = self.blame(id);
            let is_its = match overdue {
                Overdue::Call(call) => blame.is_sure() && blame.call == Some(call),
                Overdue::Child(top) => {
                    blame.top == Some(top) && blame.call.is_none() && blame.candidates.is_empty()
                }
            };
            if is_its {
                self.observe(id, WANT_OUTLIVED);
            }
        }
    }

    /// It was looked at, and lives: since when it has outlived its call.
    pub(super) fn judge_outlived(&mut self, id: ProcessId) {
        let blame = self.blame(id);
        let end = match blame.call.and_then(|call| self.calls.get(call)) {
            Some(call) if call.background.is_some() => None,
            Some(call) => call.end.map(|(at, _)| at),
            None => blame.top.and_then(|top| self.table.get(top)?.end).map(|end| end.at),
        };
        if let Some(end) = end {
            self.open(id, FindingKind::OutlivedCall, end);
        }
    }
}
