//! Looks whether the dead that were never reaped, as far as the hooks told, are there at all.
//!
//! The hook that tells of a reap may not be run: it is called from an RCU callback, over whatever task the
//! CPU works for, and there are kernels that run no BPF program over certain tasks, without counting it
//! as missed. So of one that procfs does not know any more the daemon says itself that it is gone: else it
//! would be a zombie for ever, with all its forkers.
//!
//! Whoever has just been reaped looks the same until the callback comes. So it is said of one only that was
//! gone at the look before as well, and once all is taken in that the kernel side has told of it.

use std::{collections::HashSet, mem, time::Duration};

use super::{Daemon, DaemonError};
use crate::{
    kernel::procs::{Dead, TOLD_LATE},
    lineage::{Event, ProcessId},
};

/// How often the dead are looked at.
pub(super) const SWEEP_EVERY: Duration = Duration::from_secs(10);
/// Most that are looked at each time, beside those that were gone the last time: the next time those that
/// come after them.
const MOST_SWEPT: usize = 512;

/// How far looking has come.
#[derive(Debug, Default)]
pub(super) struct Sweep {
    /// Up to which of the dead was looked whether they are there.
    last: ProcessId,
    /// Those of them that were not.
    gone: HashSet<ProcessId>,
}

impl Daemon {
    /// Looks at all of the dead, before anything is known of them.
    pub(super) fn sweep_all(&mut self) -> Result<(), DaemonError> {
        let dead = self.dead()?;
        let gone: Vec<_> = dead.into_iter().filter(|one| self.is_gone(one)).collect();
        for Dead { id, .. } in gone {
            self.probes.let_go(id)?;
        }
        Ok(())
    }

    /// Looks at some of the dead.
    pub(super) async fn sweep(&mut self) -> Result<(), DaemonError> {
        let before = mem::take(&mut self.swept.gone);
        if !before.is_empty() {
            self.catch_up().await?;
        }
        let (again, mut others): (Vec<_>, Vec<_>) =
            self.dead()?.into_iter().partition(|one| before.contains(&one.id));
        let mut gone = 0_u32;
        for one in again {
            if !self.is_gone(&one) || !self.probes.let_go(one.id)? {
                continue;
            }
            gone += 1;
            let at = self.clock.now();
            self.node.handle(Event::Reaped { at, process: one.id, by: None, gone: true }, None);
        }
        if gone > 0 {
            log::debug!("{gone} processes had been reaped without a word of the kernel's");
        }
        // From where the last look ended, and round.
        others.sort_unstable_by_key(|one| one.id.by_birth());
        let last = self.swept.last.by_birth();
        let begin = others.partition_point(|one| one.id.by_birth() <= last);
        others.rotate_left(begin);
        for one in others.into_iter().take(MOST_SWEPT) {
            self.swept.last = one.id;
            if self.is_gone(&one) {
                self.swept.gone.insert(one.id);
            }
        }
        Ok(())
    }

    fn dead(&self) -> Result<Vec<Dead>, DaemonError> {
        Ok(self.probes.procs().dead(self.clock.now().before(TOLD_LATE))?)
    }

    /// Whether procfs knows it no more. One that tracer cannot see may be there.
    fn is_gone(&self, Dead { id, local }: &Dead) -> bool {
        local.is_some_and(|local| matches!(self.procfs.identify(local, *id), Ok(None)))
    }
}
