//! Agents that are known by nothing but the session that they give what they start.
//!
//! Whoever gave a process its session is its forker, which no run was known of before. On a whole host there
//! are others who pass environments on: an init, a container's shim, sshd. They start what they start
//! elsewhere, in another cgroup or PID namespace: so the agent is only who shares both with its child.

use super::{Daemon, DaemonError};
use crate::{
    lineage::{Event, ProcessId, RecoveredProcess},
    node::ProgramSeen,
};

/// PID 1 and kthreadd in the initial PID namespace.
const NO_AGENTS: u32 = 2;

/// What a process said of its forker.
#[derive(Debug)]
pub(super) struct Told {
    process: ProcessId,
    /// As in [`Event::Exec`].
    markers: Vec<u8>,
}

impl Daemon {
    /// What an event says of the forker of who executed something.
    pub(super) fn told_of_forker(&self, event: &Event<'_>) -> Option<Told> {
        match event {
            Event::Exec { process, markers, .. } if self.rules.tell_sessions(markers) => {
                Some(Told { process: *process, markers: markers.to_vec() })
            }
            _ => None,
        }
    }

    /// Whoever gave a process of no run a session is an agent.
    pub(super) fn look_at_forker(&mut self, told: &Told) -> Result<(), DaemonError> {
        let Told { process, markers } = told;
        if self.node.run_of(*process).is_some() {
            // It knows who is above.
            return Ok(());
        }
        if let Some(agent) = self.giver_of_session(*process, markers) {
            self.node.is_agent(agent);
            self.adopt()?;
        }
        Ok(())
    }

    fn giver_of_session(&self, process: ProcessId, markers: &[u8]) -> Option<ProgramSeen> {
        let procs = self.probes.procs();
        let (child, ..) = procs.entry(process)?;
        let (forker, run, _) = procs.entry(child.forker)?;
        if forker.exit.is_some() || run != 0 || forker.id.pid <= NO_AGENTS {
            return None;
        }
        if child.pids.level != forker.pids.level
            || self.cgroup_of(&child)? != self.cgroup_of(&forker)?
        {
            return None;
        }
        let RecoveredProcess { id, pids, exec_at, .. } = forker;
        let program = self.program(id, pids.local, exec_at)?;
        let ProgramSeen { exe, args, truncated, markers: above, .. } = &program;
        self.rules.give_session(markers, exe, args, *truncated, above).then_some(program)
    }

    fn cgroup_of(&self, process: &RecoveredProcess) -> Option<Vec<u8>> {
        self.telling_cgroup(process.id, process.pids.local)
    }
}
