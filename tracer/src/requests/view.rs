//! How who asks sees pids.

use crate::{
    lineage::{Lineage, Pids, ProcessId},
    procfs::Procfs,
};

/// The PID namespace of who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum View {
    /// The tracer's own.
    Tracers,
    /// Another, below the tracer's, by its inode number.
    Below(u64),
    /// The tracer does not see who asks, or not where it is.
    Unknown,
}

impl View {
    /// That of the process with this pid in the tracer's PID namespace; 0: it has none there.
    pub(super) fn of(procfs: &Procfs, sender: u32) -> Self {
        let of = |dir: crate::procfs::Result<crate::procfs::TaskDir>| {
            dir.and_then(|dir| dir.namespace("pid")).ok()
        };
        let sender = (sender != 0).then(|| of(procfs.process(sender))).flatten();
        match (of(procfs.own()), sender) {
            (Some(own), Some(sender)) if own == sender => Self::Tracers,
            (Some(_), Some(sender)) => Self::Below(sender),
            (None, _) | (_, None) => Self::Unknown,
        }
    }

    /// Who has this pid there.
    pub(super) fn process(self, procfs: &Procfs, lineage: &Lineage, pid: u32) -> Option<ProcessId> {
        match self {
            Self::Tracers => lineage.with_pid(pid),
            Self::Below(_) => lineage.everyone().into_iter().find(|&id| {
                lineage
                    .pids_of(id)
                    .is_some_and(|pids| pids.namespace == pid && self.is_home_of(procfs, id, pids))
            }),
            Self::Unknown => None,
        }
    }

    /// The pid to show there: the tracer's where it has none there.
    pub(super) fn pid(self, procfs: &Procfs, id: ProcessId, pids: Pids) -> u32 {
        if self.is_home_of(procfs, id, pids) { pids.namespace } else { pids.shown() }
    }

    /// Whether a process is in that namespace itself, which is not the tracer's.
    fn is_home_of(self, procfs: &Procfs, id: ProcessId, pids: Pids) -> bool {
        let Self::Below(own) = self else { return false };
        let dir = pids.local.and_then(|pid| procfs.identify(pid, id).ok().flatten());
        dir.and_then(|(dir, _)| dir.namespace("pid").ok()) == Some(own)
    }
}
