//! Puts agents and what is below them into runs: those that turn out to be one, those that were there
//! before, and those that a daemon before this one had known.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::{Daemon, DaemonError, remembering};
use crate::{
    lineage::{Event, Nanos, ProcessId, RecoveredProcess},
    node::{Adoption, Bystander, ProgramSeen, RunId, has_root, story},
    recording::OwnedEvent,
    service::{journal::Remembered, programs},
};

/// What is known of a run from before.
#[derive(Default)]
struct Past {
    story: Vec<OwnedEvent>,
    /// Whose end was noted.
    ended: HashSet<ProcessId>,
    /// See [`Adoption::deaf`].
    deaf: Option<(Nanos, Nanos)>,
}

impl Past {
    /// When each executed the last program that was noted.
    fn programs(&self) -> HashMap<ProcessId, Nanos> {
        let mut programs = HashMap::new();
        for event in self.story.iter().filter_map(OwnedEvent::event) {
            if let Event::Exec { at, process, .. } = event {
                let last = programs.entry(process).or_insert(at);
                *last = at.max(*last);
            }
        }
        programs
    }
}

impl Daemon {
    /// Goes on with the runs of a daemon before this one, whose processes `PROCS` has, with what that one
    /// had noted of them.
    pub(super) fn take_over(&mut self, mut remembered: Remembered) -> Result<(), DaemonError> {
        let at = self.clock.now();
        let heard_until = remembering::heard_until(&remembered);
        let mut runs: BTreeMap<RunId, Vec<RecoveredProcess>> = BTreeMap::new();
        for (process, run) in self.complete_adoptions()? {
            if run != 0 {
                runs.entry(run).or_default().push(process);
            }
        }
        for (run, processes) in runs {
            let remembered = remembered.remove(&run).unwrap_or_default();
            let ended = remembering::ended(&remembered);
            let story = story(&processes, remembered);
            if !has_root(&story) {
                // Its pid came round while its descendants lived on, and nothing was noted of it.
                log::warn!(
                    "the root of run {run} is not known any more: what it left is not followed"
                );
                for process in processes {
                    self.probes.tag(process.id, 0, false)?;
                }
                continue;
            }
            log::info!("goes on with run {run} of {} processes", processes.len());
            let past = Past { story, ended, deaf: Some((heard_until, self.hears_since)) };
            self.adopt_all(run, at, processes, Vec::new(), past);
        }
        Ok(())
    }

    /// Puts those into the run of their forker that are not: what an agent had forked before it was known
    /// for one, and what a daemon had not got round to that was killed while it adopted. Until nobody is
    /// left who was forked meanwhile by one that did not belong to it yet. All of `PROCS`, oldest first,
    /// and whose they are.
    pub(super) fn complete_adoptions(
        &mut self,
    ) -> Result<Vec<(RecoveredProcess, RunId)>, DaemonError> {
        loop {
            let mut all = self.probes.procs().walk_all()?;
            all.sort_unstable_by_key(|(process, _)| process.id.by_birth());
            let mut known = HashMap::new();
            let mut is_complete = true;
            for (process, run) in &mut all {
                if *run == 0
                    && let Some(&above) = known.get(&process.forker)
                {
                    is_complete = false;
                    self.probes.tag(process.id, above, false)?;
                    *run = above;
                }
                if *run != 0 {
                    known.insert(process.id, *run);
                }
            }
            if is_complete {
                return Ok(all);
            }
        }
    }

    /// Looks which of the processes that are there are agents.
    pub(super) fn look_around(&mut self) -> Result<(), DaemonError> {
        // An agent comes before those that it started.
        for (process, run) in self.complete_adoptions()? {
            if run == 0 && process.exit.is_none() {
                self.look_for_agent(&process);
                self.adopt()?;
            }
        }
        self.look_at_places()?;
        self.programs_read_at = self.clock.now();
        Ok(())
    }

    /// Looks what a process of no run executes. `TRACER_AGENT` says less of one that was not seen to
    /// execute something: all that descend from the agent have it too, so whoever gave it life must be
    /// there and not have it; and of what PID 1 or another adopter has as a child, only who leads a
    /// session of its own, as services do, is taken for an agent.
    pub(super) fn look_for_agent(&mut self, process: &RecoveredProcess) {
        let RecoveredProcess { id, pids, exec_at, parent, .. } = process;
        let Some(mut program) = self.program(*id, pids.local, *exec_at) else { return };
        if !program.markers.is_empty() && !self.is_given_its_markers(&program, pids.local, *parent)
        {
            program.markers.clear();
        }
        self.node.saw_program(&program);
    }

    /// Whether what its environment says of agents is news of this process, not of one above it.
    fn is_given_its_markers(
        &self,
        program: &ProgramSeen,
        local: Option<u32>,
        parent: ProcessId,
    ) -> bool {
        let above = self.probes.procs().entry(parent).and_then(|(above, ..)| {
            let RecoveredProcess { id, pids, exec_at, .. } = above;
            self.program(id, pids.local, exec_at)
        });
        if above.is_some_and(|above| above.markers == program.markers) {
            return false;
        }
        let own = local.and_then(|pid| self.procfs.process(pid).ok()?.stat().ok());
        own.is_some_and(|own| own.ppid > 1 || own.sid == Some(own.pid))
    }

    pub(super) fn look_for_program(&mut self, process: &RecoveredProcess) {
        let RecoveredProcess { id, pids, exec_at, .. } = process;
        if let Some(program) = self.program(*id, pids.local, *exec_at) {
            self.node.saw_program(&program);
        }
    }

    pub(super) fn program(
        &self,
        process: ProcessId,
        local: Option<u32>,
        exec_at: Option<Nanos>,
    ) -> Option<ProgramSeen> {
        let mut seen = programs::seen(&self.procfs, &self.rules, process, local, exec_at)?;
        self.redactor.clean(&mut seen.args);
        Some(seen)
    }

    /// Puts those that turned out to be agents into runs of their own.
    pub(super) fn adopt(&mut self) -> Result<(), DaemonError> {
        while let Some((run, agent)) = self.node.poll_agent() {
            self.adopt_one(run, agent)?;
        }
        Ok(())
    }

    /// Puts an agent and all below it into a run, unless it is gone or in one.
    fn adopt_one(&mut self, run: RunId, agent: ProgramSeen) -> Result<(), DaemonError> {
        let id = agent.process;
        let before = self.probes.procs().entry(id);
        if before.is_none_or(|(_, before, _)| before != 0) || !self.probes.tag(id, run, true)? {
            return Ok(());
        }
        let at = self.clock.now();
        // What was announced before this daemon listened is lost, and what was before anybody knew whose it is.
        let is_unheard = agent.at < self.hears_since;
        let is_refused = agent.at <= self.node.unowned_at();
        let deaf = if is_unheard { Some(self.hears_since) } else { is_refused.then_some(at) };
        let deaf = deaf.map(|until| (Nanos(0), until));
        // What it forks from here on belongs to the run; what it forked before is counted in its entry.
        let Some((root, _, children)) = self.probes.procs().entry(id) else { return Ok(()) };
        let processes = if children == 0 {
            vec![root]
        } else {
            let all = self.complete_adoptions()?.into_iter();
            all.filter(|(_, of)| *of == run).map(|(process, _)| process).collect()
        };
        let past = Past { deaf, ..Past::default() };
        self.adopt_all(run, at, processes, vec![agent], past);
        Ok(())
    }

    /// Tells the node of the processes of a run, oldest first; `programs` are what is known of them beside
    /// what was noted.
    fn adopt_all(
        &mut self,
        run: RunId,
        at: Nanos,
        processes: Vec<RecoveredProcess>,
        mut programs: Vec<ProgramSeen>,
        past: Past,
    ) {
        let mut known = past.programs();
        known.extend(programs.iter().map(|program| (program.process, program.at)));
        for process in processes.iter().filter(|process| process.exit.is_none()) {
            let RecoveredProcess { id, pids, exec_at, .. } = process;
            let at = exec_at.unwrap_or(Nanos(id.start));
            if known.get(id).is_none_or(|known| *known < at) {
                programs.extend(self.program(*id, pids.local, *exec_at));
            }
        }
        // The nearest ancestors of one that lives; of an orphan they are who adopted it.
        let oldest = processes.iter().find(|process| process.exit.is_none());
        let local = oldest.and_then(|process| process.pids.local);
        let bystanders = self.bystanders(local);
        let losses = self.losses();
        let Past { story, ended, deaf } = past;
        // The next daemon has to know that too.
        if let Some((from, at)) = deaf {
            self.remember(Some(run), &Event::AnnouncementsLost { at, from });
        }
        for process in processes.iter().filter(|process| !ended.contains(&process.id)) {
            self.remember_dead(run, process);
        }
        for program in &programs {
            self.remember(Some(run), &program.event());
        }
        let adoption = Adoption {
            at,
            processes,
            programs,
            story,
            deaf,
            bystanders,
            losses,
            is_at_start: false,
        };
        self.node.adopted(run, adoption);
    }

    /// Who is above a process with this pid in the tracer's PID namespace.
    pub(super) fn bystanders(&self, local: Option<u32>) -> Vec<Bystander> {
        let line = local.map(|pid| self.procfs.line(pid)).unwrap_or_default();
        let above = line.into_iter().filter(|stat| Some(stat.pid) != local).map(|stat| Bystander {
            pid: stat.pid,
            start_ticks: stat.start_ticks,
            name: stat.comm,
        });
        above.collect()
    }
}
