//! What is still alive `grace` after the end of the tool call that started it.

use hashbrown::HashMap;

use super::{
    Lineage,
    announcement::CallStatus,
    calls::CallIndex,
    model::{FindingKind, Nanos, ProcessId},
    table::WANT_OUTLIVED,
};

/// From so many on that wait to fall due they do so together.
const MANY_OVERDUE: usize = 64;
/// How far apart they fall due then, ns: each time everybody that lives is looked at.
const TOGETHER: u64 = 250_000_000;

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
        let mut due = at.after(self.config.grace);
        if self.overdue.len() >= MANY_OVERDUE {
            due = Nanos(due.0.next_multiple_of(TOGETHER));
        }
        let place = self.overdue.partition_point(|&(other, _)| other <= due);
        self.overdue.insert(place, (due, overdue));
    }

    /// `grace` is over for these: who lives of what they started? Each that lives is looked at once, however
    /// many they are.
    pub(super) fn look_for_outlived(&mut self, overdue: &[Overdue]) {
        // Then they are survivors.
        if self.root_end.is_some() {
            return;
        }
        // Since when what each started may be there.
        let (mut calls, mut children) = (HashMap::new(), HashMap::new());
        for overdue in overdue {
            match *overdue {
                Overdue::Call(index) => {
                    let call = self.calls.get(index).filter(|call| call.background.is_none());
                    calls.extend(call.map(|call| (index, call.start.unwrap_or_default().0)));
                }
                Overdue::Child(id) => {
                    children.insert(id, id.start);
                }
            }
        }
        let Some(&first) = calls.values().chain(children.values()).min() else { return };
        for id in self.table.alive_since(first) {
            if self.findings.has(id, FindingKind::OutlivedCall) {
                continue;
            }
            let blame = self.blame(id);
            let began = match blame.call {
                Some(call) if blame.is_sure() => calls.get(&call),
                None if blame.candidates.is_empty() => blame.top.and_then(|top| children.get(&top)),
                _ => None,
            };
            if began.is_some_and(|began| id.start >= *began) {
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
