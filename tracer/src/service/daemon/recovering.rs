//! Reads the truth where records were lost, and lets the cores converge.

use std::collections::HashMap;

use super::{Daemon, DaemonError};
use crate::{
    kernel::load::Counts,
    lineage::{Event, ProcessId, Reading, RecoveredProcess},
    node::{Losses, RunId},
};

/// `PROCS` as it was read, and whose each process is.
#[derive(Debug)]
pub(super) struct HostReading {
    pub(super) reading: Reading,
    pub(super) runs: HashMap<ProcessId, RunId>,
}

impl Daemon {
    pub(super) fn losses(&self) -> Losses {
        let Counts { dropped, dropped_unreaped, dropped_forks, failed, .. } = self.lost.counts;
        Losses { dropped, dropped_unreaped, dropped_forks, failed }
    }

    /// If records were lost since the last look: reads the truth and lets the cores converge.
    pub(super) async fn recover_if_lossy(&mut self) -> Result<(), DaemonError> {
        let counts = self.probes.counts()?;
        if self.lost.look(counts) {
            self.recover().await?;
            self.probes.make_up(counts)?;
        }
        Ok(())
    }

    pub(super) async fn recover(&mut self) -> Result<(), DaemonError> {
        let at = self.clock.now();
        let all = self.probes.procs().walk_all()?;
        self.taps.meet(&all);
        let executed_since = self.programs_read_at;
        self.programs_read_at = at;
        let (tagged, others): (Vec<_>, Vec<_>) = all.into_iter().partition(|(_, run)| *run != 0);
        for (process, run) in &tagged {
            self.remember_dead(*run, process);
        }
        let runs = tagged.iter().map(|(process, run)| (process.id, *run)).collect();
        let tagged: Vec<_> = tagged.into_iter().map(|(process, _)| process).collect();
        // What they executed whose record was lost.
        let unknown = tagged.iter().filter(|process| self.has_unknown_program(process));
        let unknown: Vec<_> = unknown.cloned().collect();
        self.reading = Some(HostReading { reading: Reading::new(at, tagged), runs });
        // Whatever the walk may have missed because it came or went meanwhile is in the ring.
        self.catch_up().await?;
        if let Some(HostReading { reading, runs }) = self.reading.take() {
            for event in reading.into_events() {
                match event {
                    Event::Recovered { at, processes, .. } => {
                        let whose =
                            |process: RecoveredProcess| Some((*runs.get(&process.id)?, process));
                        let processes = processes.into_iter().filter_map(whose);
                        self.node.recovered(at, processes, self.losses());
                    }
                    event => self.node.handle(event, None),
                }
            }
        }
        for process in unknown {
            self.look_for_program(&process);
        }
        // An agent may have begun unseen.
        for (process, _) in others {
            if process.exit.is_none() && process.exec_at.is_some_and(|at| at >= executed_since) {
                self.look_for_agent(&process);
                self.adopt()?;
            }
        }
        self.look_at_places()
    }

    fn has_unknown_program(&self, process: &RecoveredProcess) -> bool {
        let Some(exec_at) = process.exec_at.filter(|_| process.exit.is_none()) else {
            return false;
        };
        let run = self.node.run_of(process.id);
        let lineage = run.and_then(|run| self.node.lineage(run));
        let known = lineage.and_then(|lineage| lineage.executed_at(process.id));
        known.is_none_or(|known| known < exec_at)
    }
}
