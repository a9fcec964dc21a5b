//! Looks after processes that are there and that nobody follows, because the table had no room for them when
//! they were forked or when the daemon began: it says so, and enters them once there is room.

use std::collections::HashSet;

use super::{Daemon, DaemonError};
use crate::{lineage::Nanos, procfs::Procfs};

/// What is known of them.
#[derive(Debug, Default)]
pub(super) struct Unknown {
    /// Up to how many refusals of the table was looked.
    refused: u64,
    /// Pids in the tracer's PID namespace, with their starts in clock ticks.
    processes: Vec<(u32, u64)>,
}

impl Unknown {
    /// A few of their pids.
    fn some(&self) -> String {
        const SOME: usize = 5;
        let pids = self.processes.iter().take(SOME).map(|(pid, _)| format!("pid {pid}"));
        let more = (self.processes.len() > SOME).then(|| "...".to_owned());
        pids.chain(more).collect::<Vec<_>>().join(", ")
    }
}

impl Daemon {
    /// Looks who is unknown, if the table has refused any since the last look, and who of them is gone.
    pub(super) async fn look_for_unknown(&mut self) -> Result<(), DaemonError> {
        let before = self.unknown.processes.len();
        let refused = self.probes.counts()?.refused;
        if refused > self.unknown.refused {
            self.list_unknown(refused)?;
        } else if before > 0 {
            let Self { unknown, procfs, .. } = self;
            unknown.processes.retain(|&(pid, start)| start_of(procfs, pid) == Some(start));
        } else {
            return Ok(());
        }
        if self.has_room_for_unknown()? {
            self.enter_unknown().await?;
            self.list_unknown(refused)?;
        }
        let now = self.unknown.processes.len();
        if now > before {
            log::warn!(
                "{now} processes are not followed, since the table of processes is full ({}): set \
                 kernel.max_processes higher than {} and start tracer daemon anew",
                self.unknown.some(),
                self.config.kernel.max_processes
            );
        } else if now == 0 && before > 0 {
            log::info!(
                "the table of processes has room again, and all that are there are followed"
            );
        }
        if let Some(metrics) = self.outlets.metrics() {
            metrics.unknown(u64::try_from(now).unwrap_or(u64::MAX));
        }
        Ok(())
    }

    /// Enters them, and takes up those that belong to runs or are agents.
    async fn enter_unknown(&mut self) -> Result<(), DaemonError> {
        let entered: HashSet<_> = self.unknown.processes.iter().map(|(pid, _)| *pid).collect();
        self.probes.enter_missing()?;
        let all = self.complete_adoptions()?;
        self.recover().await?;
        // Nobody has told what they execute.
        for (process, _) in all.iter().filter(|(process, run)| *run != 0 && process.exit.is_none())
        {
            if process.pids.local.is_some_and(|pid| entered.contains(&pid)) {
                self.look_for_program(process);
            }
        }
        self.look_around()
    }

    fn list_unknown(&mut self, refused: u64) -> Result<(), DaemonError> {
        // Who is listed first was forked before the table is read, and is there or was refused.
        let listed = self.procfs.pids().map_err(DaemonError::Procfs)?;
        let known = self.probes.procs().walk()?;
        let known: HashSet<_> = known.iter().filter_map(|process| process.pids.local).collect();
        // PID 1 is no agent's, and there are kernels that show it to no program.
        let others = listed.into_iter().filter(|pid| *pid != 1 && !known.contains(pid));
        let others = others.filter_map(|pid| Some((pid, start_of(&self.procfs, pid)?)));
        self.unknown = Unknown { refused, processes: others.collect() };
        Ok(())
    }

    fn has_room_for_unknown(&self) -> Result<bool, DaemonError> {
        if self.unknown.processes.is_empty() {
            return Ok(false);
        }
        let entries = self.probes.procs().tally(Nanos(0))?.entries;
        let wanted = u64::try_from(self.unknown.processes.len()).unwrap_or(u64::MAX);
        Ok(entries.saturating_add(wanted) <= self.config.kernel.max_processes.into())
    }
}

/// When it started, in clock ticks; `None`: it is gone, or a thread of the kernel, which nobody follows.
fn start_of(procfs: &Procfs, pid: u32) -> Option<u64> {
    let stat = procfs.process(pid).and_then(|dir| dir.stat()).ok()?;
    (!stat.is_kernel_thread).then_some(stat.start_ticks)
}
