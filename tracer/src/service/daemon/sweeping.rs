//! Looks whether the dead that were never reaped, as far as the hooks told, are there at all.
//!
//! The hook that tells of a reap may not be run: it is called from an RCU callback, over whatever task the
//! CPU works for, and there are kernels that run no BPF program over certain tasks, without counting it
//! as missed. So of one that procfs does not know any more the daemon says itself that it is gone: else it
//! would be a zombie for ever, with all its forkers.

use std::time::Duration;

use super::{Daemon, DaemonError};
use crate::{
    kernel::procs::{Dead, TOLD_LATE},
    lineage::Event,
};

/// How often the dead are looked at.
pub(super) const SWEEP_EVERY: Duration = Duration::from_secs(10);
/// Most that are looked at each time: the next time those that come after them.
pub(super) const MOST_SWEPT: usize = 512;

impl Daemon {
    /// Looks at so many of the dead.
    pub(super) fn sweep(&mut self, most: usize) -> Result<(), DaemonError> {
        let now = self.clock.now();
        let mut dead = self.probes.procs().dead(now.before(TOLD_LATE))?;
        dead.sort_unstable_by_key(|one| one.id.by_birth());
        // From where the last look ended, and round.
        let last = self.swept.by_birth();
        let begin = dead.partition_point(|one| one.id.by_birth() <= last);
        dead.rotate_left(begin);
        let mut gone = 0_u32;
        for Dead { id, local } in dead.into_iter().take(most) {
            self.swept = id;
            // One that tracer cannot see may be there.
            let Some(local) = local else { continue };
            if !matches!(self.procfs.identify(local, id), Ok(None)) || !self.probes.let_go(id)? {
                continue;
            }
            gone += 1;
            let reaped = Event::Reaped { at: now, process: id, by: None, gone: true };
            self.node.handle(reaped, None);
        }
        if gone > 0 {
            log::debug!("{gone} processes had been reaped without a word of the kernel's");
        }
        Ok(())
    }
}
