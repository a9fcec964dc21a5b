//! The kernel side as a run needs it: its own, or that of a daemon that traces for it.

use std::{io, os::unix::net::UnixStream, thread};

use tracer_common::WaitCounts;

use super::{CommandError, INVOCATION, RunError, barrier, barrier::Barrier};
use crate::{
    kernel::{
        load::{Counts, LoadError, Probes},
        ring::{Batch, Reader},
    },
    lineage::{Lot, ProcessId, RecoveredProcess},
    tap::link::{Link, LinkError},
};

/// Where a run is told of its processes.
#[derive(Debug)]
pub enum Source {
    /// By programs of its own.
    Own(Box<Probes>),
    /// By a daemon: a connection on which it has said that it is ready to trace.
    Daemon(UnixStream),
}

impl Source {
    /// Begins to listen, on a thread of its own where that is needed.
    pub(super) fn listen(self) -> Result<KernelSide, RunError> {
        Ok(match self {
            Self::Own(mut probes) => {
                let ring = probes.take_ring().ok_or(LoadError::Missing("RECORDS"))?;
                let reader = Reader::start(ring, probes.ring_bytes())?;
                KernelSide::Own { probes, reader }
            }
            Self::Daemon(stream) => KernelSide::Daemons(Box::new(Link::new(stream)?)),
        })
    }
}

/// The same, listened to.
#[derive(Debug)]
pub(super) enum KernelSide {
    Own { probes: Box<Probes>, reader: Reader },
    Daemons(Box<Link>),
}

impl KernelSide {
    /// Starts COMMAND by `spawn`, which is given what COMMAND is to stop at before it executes, if
    /// anything: as the root of all that is told from then on.
    pub(super) fn start<T: Send>(
        &mut self,
        spawn: impl FnOnce(Option<Barrier>) -> Result<T, CommandError> + Send,
        complain: &dyn Fn(&[Vec<u8>]),
    ) -> Result<T, RunError> {
        match self {
            Self::Own { probes, .. } => {
                probes.arm(INVOCATION)?;
                let spawned = spawn(None);
                if spawned.is_err() {
                    probes.disarm()?;
                }
                Ok(spawned?)
            }
            Self::Daemons(link) => {
                let (gate, barrier) = barrier::barrier().map_err(LinkError::Io)?;
                // It returns when COMMAND has executed its program.
                let spawn = || spawn(Some(barrier));
                thread::scope(|scope| {
                    let spawning = thread::Builder::new().spawn_scoped(scope, spawn);
                    let spawning = spawning.map_err(LinkError::Io)?;
                    // Without a pid it has failed before.
                    let begun = gate.pid().map(|pid| link.begin(pid)).transpose();
                    match &begun {
                        Ok(Some(markers)) => {
                            complain(markers);
                            gate.open();
                        }
                        _ => drop(gate),
                    }
                    let spawned = spawning.join();
                    begun?;
                    let panicked = |_| LinkError::Io(io::Error::other("a thread has panicked"));
                    Ok(spawned.map_err(panicked)??)
                })
            }
        }
    }

    /// The next batch. Cancel safe.
    pub(super) async fn next(&mut self) -> Result<Batch, RunError> {
        match self {
            Self::Own { reader, .. } => reader.next().await.ok_or(RunError::ReaderEnded),
            Self::Daemons(link) => Ok(link.next().await?),
        }
    }

    /// Asks for everything that is in the ring now, then [`Batch::Flushed`].
    pub(super) fn flush(&mut self) -> Result<(), RunError> {
        match self {
            Self::Own { reader, .. } => reader.flush(),
            Self::Daemons(link) => link.flush()?,
        }
        Ok(())
    }

    /// What was counted so far.
    pub(super) fn counts(&mut self) -> Result<Counts, RunError> {
        match self {
            Self::Own { probes, .. } => Ok(probes.counts()?),
            Self::Daemons(link) => Ok(link.counts()?),
        }
    }

    /// All entries of the run's processes.
    pub(super) fn walk(&mut self) -> Result<Vec<RecoveredProcess>, RunError> {
        match self {
            Self::Own { probes, .. } => Ok(probes.procs().walk()?),
            Self::Daemons(link) => Ok(link.walk()?),
        }
    }

    /// What parents waited for on behalf of, or instead of, their children, of each pair; child first.
    pub(super) fn waits(&mut self, pairs: &[(ProcessId, ProcessId)]) -> Vec<Option<WaitCounts>> {
        match self {
            Self::Own { probes, .. } => {
                let procs = probes.procs();
                pairs.iter().map(|(child, parent)| procs.waits(*child, *parent)).collect()
            }
            Self::Daemons(link) => {
                let nothing = || vec![None; pairs.len()];
                // That it is gone is said when it is listened to next.
                link.waits(pairs).unwrap_or_else(|_| nothing())
            }
        }
    }

    /// Whether a process lives. `None`: nothing can be said.
    pub(super) fn lives(&mut self, id: ProcessId) -> Option<bool> {
        match self {
            Self::Own { probes, .. } => probes.procs().lives(id),
            Self::Daemons(link) => link.lives(id).ok().flatten(),
        }
    }

    /// Decides what becomes of a process and of all that it forks, as far as the kernel side reaches. A
    /// daemon's ends nothing for others.
    pub(super) fn decide(&mut self, process: ProcessId, lot: Lot) {
        match self {
            Self::Own { probes, .. } => probes.decide(process, lot),
            Self::Daemons(_) => {}
        }
    }

    /// Nothing of what happens from now on is told.
    pub(super) fn detach(&mut self) -> Result<(), RunError> {
        match self {
            Self::Own { probes, .. } => Ok(probes.detach()?),
            Self::Daemons(link) => Ok(link.end()?),
        }
    }
}
