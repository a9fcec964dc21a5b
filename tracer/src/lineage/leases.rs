//! What is kept for a while because its agent asked for that.

use hashbrown::HashMap;

use super::{
    Lineage,
    calls::CallIndex,
    model::{Nanos, ProcessId},
};

/// Most leases of either kind.
const MOST_LEASES: usize = 4096;

/// A promise not to count something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Lease {
    pub(crate) until: Nanos,
    pub(crate) reason: Box<str>,
}

/// All leases of a run.
#[derive(Debug, Default)]
pub(crate) struct Leases {
    calls: HashMap<CallIndex, Lease>,
    processes: HashMap<ProcessId, Lease>,
}

impl Leases {
    /// Keeps all that a call started.
    pub(crate) fn keep_call(&mut self, call: CallIndex, at: Nanos, ttl: u64, reason: String) {
        if self.calls.len() >= MOST_LEASES {
            self.calls.retain(|_, lease| at < lease.until);
        }
        if self.calls.len() < MOST_LEASES || self.calls.contains_key(&call) {
            self.calls.insert(call, lease(at, ttl, reason));
        }
    }

    /// Keeps a process.
    pub(crate) fn keep_process(&mut self, id: ProcessId, at: Nanos, ttl: u64, reason: String) {
        if self.processes.len() >= MOST_LEASES {
            self.processes.retain(|_, lease| at < lease.until);
        }
        if self.processes.len() < MOST_LEASES || self.processes.contains_key(&id) {
            self.processes.insert(id, lease(at, ttl, reason));
        }
    }

    /// The calls of which something is kept.
    pub(crate) fn calls(&self) -> impl Iterator<Item = CallIndex> {
        self.calls.keys().copied()
    }
}

impl Lineage {
    /// The lease that a process has at this time, of its own or by its call.
    pub(super) fn lease_of(&self, id: ProcessId, now: Nanos) -> Option<&Lease> {
        let Leases { calls, processes } = &self.leases;
        let by_call = || {
            // Whose call it was takes long to find out, and mostly nothing is kept.
            let call = if calls.is_empty() { None } else { self.blame(id).call };
            calls.get(&call?)
        };
        processes.get(&id).or_else(by_call).filter(|lease| now < lease.until)
    }
}

fn lease(at: Nanos, ttl: u64, reason: String) -> Lease {
    Lease { until: at.after(std::time::Duration::from_secs(ttl)), reason: reason.into() }
}
