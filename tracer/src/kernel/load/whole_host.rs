//! What following a whole host takes beside the hooks: who was there before them, whose each is, who listens.

use std::{error::Error, io};

use aya::{
    Btf,
    programs::{Iter, RawTracePoint, RawTracePointRunOptions, TestRun as _},
};
use tracer_common::{Control, INVOCATION_ROOT, Snapshot};

use super::{LoadError, Probes};
use crate::{
    kernel::sockets::{self, SocketList, SocketsError},
    lineage::ProcessId,
};

/// The program that lists processes, and the one that puts them into invocations.
const SNAPSHOT: &str = "tracer_snapshot";
const TAG: &str = "tracer_tag";
/// The program that lets go of a process whose end nobody told.
const LET_GO: &str = "tracer_let_go";

impl Probes {
    /// Finds out how deep the tracer's PID namespace lies, which the hooks need to know from the first
    /// process on.
    pub(super) fn prepare_snapshot(&mut self, btf: &Btf) -> Result<(), LoadError> {
        self.load_snapshot(btf)?;
        self.list_processes(Snapshot::FindTracer)
    }

    /// Loads what lists processes and sockets, and what puts processes into invocations.
    pub(super) fn load_snapshot(&mut self, btf: &Btf) -> Result<(), LoadError> {
        let missing = LoadError::Missing;
        let program = self.ebpf.program_mut(SNAPSHOT).ok_or(missing(SNAPSHOT))?;
        let program: &mut Iter = program.try_into().map_err(snapshot_error)?;
        program.load("task", btf).map_err(snapshot_error)?;
        sockets::load(&mut self.ebpf, btf)?;
        for name in [TAG, LET_GO] {
            let program = self.ebpf.program_mut(name).ok_or(missing(name))?;
            let program: &mut RawTracePoint = program.try_into().map_err(LoadError::Tag)?;
            program.load().map_err(LoadError::Tag)?;
        }
        Ok(())
    }

    /// Enters those who are there and that the table had no room for, if it has now; of
    /// [`LoadOptions::whole_host`]. What they did meanwhile is not told.
    ///
    /// # Errors
    /// The kernel refuses, or the hooks do not follow the whole host.
    pub fn enter_missing(&mut self) -> Result<(), LoadError> {
        self.take_snapshot()
    }

    /// Enters what was there before the hooks.
    pub(super) fn take_snapshot(&mut self) -> Result<(), LoadError> {
        self.list_processes(Snapshot::Enter)?;
        self.list_processes(Snapshot::HoldForkers)
    }

    fn list_processes(&mut self, step: Snapshot) -> Result<(), LoadError> {
        self.set_control(|before| Control { snapshot: step as u32, ..before })?;
        let program = self.ebpf.program_mut(SNAPSHOT).ok_or(LoadError::Missing(SNAPSHOT))?;
        let program: &mut Iter = program.try_into().map_err(snapshot_error)?;
        let link = program.attach().and_then(|link| program.take_link(link));
        let mut list = link.map_err(snapshot_error)?.into_file().map_err(snapshot_error)?;
        // The program writes nothing: the read ends once it has seen every task.
        io::copy(&mut list, &mut io::sink()).map_err(snapshot_error)?;
        self.set_control(|before| Control { snapshot: 0, ..before })
    }

    /// Begins a list of the sockets that processes of the tracer's PID namespace have open; of
    /// [`LoadOptions::whole_host`].
    ///
    /// # Errors
    /// The kernel refuses, or the hooks do not follow the whole host.
    pub fn list_sockets(&mut self) -> Result<SocketList, SocketsError> {
        sockets::list(&mut self.ebpf)
    }

    /// Puts a process into an invocation, as its root or as one of its other processes; all that it
    /// forks from now on belongs to that too. `false`: there is no such process any more.
    ///
    /// # Errors
    /// The kernel refuses, or the hooks do not follow the whole host.
    pub fn tag(
        &mut self,
        process: ProcessId,
        invocation: u32,
        is_root: bool,
    ) -> Result<bool, LoadError> {
        let tag = if is_root { invocation | INVOCATION_ROOT } else { invocation };
        if is_root {
            // Before any record can have it.
            self.set_control(|before| Control { last_invocation: invocation, ..before })?;
        }
        self.change_entry(TAG, [process.pid.into(), process.start, tag.into()])
    }

    /// The last number that an invocation was given, by this daemon or one before it; 0: none was.
    ///
    /// # Errors
    /// A map cannot be read.
    pub fn last_invocation(&self) -> Result<u32, LoadError> {
        Ok(self.control()?.last_invocation)
    }

    /// Lets go of a process that has died and is not there any more, though no hook told that it was reaped.
    /// `false`: it has no entry any more.
    ///
    /// # Errors
    /// The kernel refuses, or the hooks do not follow the whole host.
    pub fn let_go(&mut self, process: ProcessId) -> Result<bool, LoadError> {
        self.change_entry(LET_GO, [process.pid.into(), process.start])
    }

    /// Has one of the programs that are never attached change an entry of `PROCS`. `false`: there was none.
    fn change_entry<const N: usize>(
        &self,
        name: &'static str,
        arguments: [u64; N],
    ) -> Result<bool, LoadError> {
        let program = self.ebpf.program(name).ok_or(LoadError::Missing(name))?;
        let program: &RawTracePoint = program.try_into().map_err(LoadError::Tag)?;
        let mut options = RawTracePointRunOptions::new();
        options.args[..N].copy_from_slice(&arguments);
        let run = program.test_run(options).map_err(LoadError::Tag)?;
        Ok(run.return_value == 1)
    }
}

fn snapshot_error(error: impl Error + Send + Sync + 'static) -> LoadError {
    LoadError::Snapshot(Box::new(error))
}
