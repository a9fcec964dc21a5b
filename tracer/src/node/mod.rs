//! The cores of a whole host: one [`Lineage`] for each agent's run that no other agent's run is around.
//!
//! Without input or output of its own, as [`Lineage`] is, and driven by the same verbs. What is more:
//!
//! - Every process of the host may become an agent by what it executes. [`Node::poll_agent`] asks to put
//!   it and all below it into a run of their own, and is answered by [`Node::adopted`].
//! - [`Output::News`] tells what was found, while it goes on: a run may last for months.
//! - A run whose processes are all gone is forgotten.
//!
//! ```text
//!   record --whose process?--> Run { Lineage }  --changed findings--> News
//!      `-- exec of nobody's: an agent? --> Adopt
//! ```

mod news;
mod run;
mod story;
#[cfg(test)]
mod tests;
mod told;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    rc::Rc,
};

use hashbrown::{HashMap, HashSet};

pub use news::{Change, FindingNews, InvocationNews, NewsKind, What};
pub use run::{Adoption, Bystander, ProgramSeen};
use story::root_end;
pub use story::{has_root, story};

use crate::lineage::{
    self, Announcement, Config, Event, Finding, Lineage, Nanos, Pids, ProcessId, RecoveredProcess,
    Rules, SharedRoom,
};
use crate::recording::OwnedEvent;
use run::Run;

/// Number of a run, as the kernel side tags its processes. Never 0, below 2^31.
pub type RunId = u32;

/// What the node wants from the world.
#[derive(Debug)]
pub enum Output {
    /// A core's question, to be answered by [`Node::answered`] with the same number.
    Ask {
        /// Whose.
        run: RunId,
        /// The question.
        question: lineage::Output,
    },
    /// Something to tell.
    News(What),
}

/// What was lost on the way from the kernel side, of the whole host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Losses {
    /// Records.
    pub dropped: u64,
    /// Those of processes that a dying parent had not reaped among them.
    pub dropped_unreaped: u64,
    /// Those of forks among them.
    pub dropped_forks: u64,
    /// Updates that failed: each may be a process that nobody knows.
    pub failed: u64,
}

impl Losses {
    /// Those that came after.
    fn since(self, before: Self) -> Self {
        Self {
            dropped: self.dropped.saturating_sub(before.dropped),
            dropped_unreaped: self.dropped_unreaped.saturating_sub(before.dropped_unreaped),
            dropped_forks: self.dropped_forks.saturating_sub(before.dropped_forks),
            failed: self.failed.saturating_sub(before.failed),
        }
    }
}

/// The state of a host.
#[derive(Debug)]
pub struct Node {
    config: Config,
    rules: Rc<Rules>,
    runs: BTreeMap<RunId, Run>,
    last: RunId,
    /// Of every process of a run that has not gone from the kernel.
    whose: HashMap<ProcessId, Whose>,
    /// The last process of a run that had this pid in the tracer's PID namespace.
    by_local: HashMap<u32, (ProcessId, RunId)>,
    /// When each run wants to be called.
    deadlines: BTreeSet<(Nanos, RunId)>,
    /// Runs that something was given to since the last look for what is new.
    touched: BTreeSet<RunId>,
    /// Those that turned out to be agents.
    agents: VecDeque<(RunId, ProgramSeen)>,
    questions: VecDeque<Output>,
    /// Runs of which something may be new, as of then.
    telling: BTreeSet<RunId>,
    settled_at: Nanos,
    refused_announcements: u64,
    /// See [`Node::unowned_at`].
    unowned_at: Nanos,
    /// What the tool calls of all runs take.
    room: SharedRoom,
}

/// Where a process belongs.
#[derive(Clone, Copy, Debug)]
struct Whose {
    run: RunId,
    /// Its pid in the tracer's PID namespace; 0 where it has none.
    local: u32,
}

/// Findings of processes that are gone that a run keeps of each kind: each was told when it came.
const MOST_CLOSED: usize = 64;

impl Node {
    /// A host of which nothing is known yet.
    #[must_use]
    pub fn new(config: Config, rules: Rc<Rules>) -> Self {
        Self {
            config,
            rules,
            runs: BTreeMap::new(),
            last: 0,
            whose: HashMap::new(),
            by_local: HashMap::new(),
            deadlines: BTreeSet::new(),
            touched: BTreeSet::new(),
            agents: VecDeque::new(),
            questions: VecDeque::new(),
            telling: BTreeSet::new(),
            settled_at: Nanos(0),
            refused_announcements: 0,
            unowned_at: Nanos(0),
            room: SharedRoom::default(),
        }
    }

    /// Runs that begin get numbers after this one: what the kernel side has told of others may be behind.
    pub fn begin_after(&mut self, last: RunId) {
        self.last = self.last.max(last);
    }

    /// Takes in what the kernel told. `run` is what a fork's record says of its child's.
    pub fn handle(&mut self, event: Event<'_>, run: Option<RunId>) {
        match event {
            Event::Fork { at, child, pids, .. } => {
                let Some(run) = run.filter(|run| self.runs.contains_key(run)) else { return };
                self.enter(at, run, child, pids);
                self.give(run, event);
            }
            Event::Exec { process, .. } => match self.whose.get(&process) {
                Some(&Whose { run, .. }) => self.give(run, event),
                None => self.executed(&event),
            },
            Event::Reaped { process, gone, .. } => {
                if let Some(&Whose { run, .. }) = self.whose.get(&process) {
                    if gone {
                        self.leave(process);
                    }
                    self.give(run, event);
                }
            }
            Event::Exit { process, .. }
            | Event::Unreaped { process, .. }
            | Event::Signal { target: process, .. }
            | Event::Oom { process, .. }
            | Event::InCgroup { process, .. }
            | Event::InPod { process, .. } => {
                if let Some(&Whose { run, .. }) = self.whose.get(&process) {
                    self.give(run, event);
                }
            }
            // Of one run, or of no use to any: these have verbs of their own.
            Event::Observed { .. }
            | Event::Sampled { .. }
            | Event::Announced(_)
            | Event::AnnouncementsRefused(_)
            | Event::AnnouncementsLost { .. }
            | Event::CleanedUp(_)
            | Event::OwnCgroup(_)
            | Event::Bystander { .. }
            | Event::Recovered { .. } => {}
        }
    }

    /// A process that belongs to no run executed a program: an agent?
    pub fn executed(&mut self, event: &Event<'_>) {
        let Event::Exec { at, process, exe, args, truncated, markers, markers_truncated, uid } =
            *event
        else {
            return;
        };
        if self.whose.contains_key(&process)
            || !self.rules.make_agent(exe, args, truncated, markers)
        {
            return;
        }
        self.begins(ProgramSeen {
            process,
            at,
            exe: exe.to_vec(),
            args: args.to_vec(),
            truncated,
            markers: markers.to_vec(),
            markers_truncated,
            uid,
        });
    }

    /// A process that belongs to no run is an agent, whatever it executes: for the place that it is in,
    /// which [`Event::InCgroup`] or [`Event::InPod`] tells once it has been adopted, or for what it gives its
    /// children.
    pub fn is_agent(&mut self, program: ProgramSeen) {
        if !self.whose.contains_key(&program.process) {
            self.begins(program);
        }
    }

    fn begins(&mut self, agent: ProgramSeen) {
        let run = self.next_run();
        self.agents.push_back((run, agent));
    }

    /// A number that no run has, for one that is to be adopted.
    pub fn next_run(&mut self) -> RunId {
        loop {
            self.last = self.last % (RunId::MAX >> 1) + 1;
            if !self.runs.contains_key(&self.last) {
                return self.last;
            }
        }
    }

    /// The next that turned out to be an agent and belongs to no run: to be put into that one with all
    /// that it has forked, and told by [`Node::adopted`]. To be asked after each event.
    pub fn poll_agent(&mut self) -> Option<(RunId, ProgramSeen)> {
        self.agents.pop_front()
    }

    /// The answer to [`Node::poll_agent`], or what a daemon before this one had adopted.
    pub fn adopted(&mut self, run: RunId, adoption: Adoption) {
        let Adoption { at, processes, programs, story, deaf, bystanders, losses, is_at_start } =
            adoption;
        let is_rooted = processes.iter().any(|process| process.root) || has_root(&story);
        if self.runs.contains_key(&run) || !is_rooted {
            return;
        }
        self.last = self.last.max(run);
        let mut lineage = Lineage::with_rules(self.config, Rc::clone(&self.rules));
        lineage.tell_findings(MOST_CLOSED);
        lineage.share_room(&self.room);
        // The dead that were reaped too: a record of what one executed may be behind in the ring.
        for process in &processes {
            self.enter(at, run, process.id, process.pids);
        }
        let reaped = processes.iter().filter(|process| process.reaped).map(|process| process.id);
        let reaped = reaped.collect();
        for bystander in bystanders {
            let Bystander { pid, start_ticks, name } = &bystander;
            lineage.handle(Event::Bystander { pid: *pid, start_ticks: *start_ticks, name });
        }
        // What was due while the root lived is found by its end at the latest, and not after it.
        let mut root_end = root_end(&story);
        for event in story.iter().filter_map(OwnedEvent::event) {
            let at = event.at().unwrap_or_default();
            if let Some(end) = root_end.take_if(|end| *end <= at) {
                lineage.handle_timeout(end);
            }
            lineage.handle(event);
        }
        if let Some(end) = root_end {
            lineage.handle_timeout(end);
        }
        let tracked = u64::try_from(processes.len()).unwrap_or(u64::MAX);
        lineage.handle(Event::Recovered {
            at,
            processes,
            tracked,
            dropped: 0,
            dropped_unreaped: 0,
            failed: 0,
        });
        for program in programs {
            lineage.handle(program.event());
        }
        if let Some((from, at)) = deaf {
            lineage.handle(Event::AnnouncementsLost { at, from });
        }
        self.runs.insert(run, Run::new(lineage, losses, reaped, is_at_start));
        self.touched.insert(run);
    }

    /// What `PROCS` holds of all runs, read after records were lost. `bystanders` are who could adopt in
    /// a run that was not known.
    pub fn recovered(
        &mut self,
        at: Nanos,
        processes: impl IntoIterator<Item = (RunId, RecoveredProcess)>,
        losses: Losses,
    ) {
        let mut by_run: HashMap<RunId, Vec<RecoveredProcess>> = HashMap::new();
        let mut present = HashSet::new();
        for (run, process) in processes {
            if !self.runs.contains_key(&run) {
                continue;
            }
            if !process.reaped {
                self.enter(at, run, process.id, process.pids);
                present.insert(process.id);
            }
            by_run.entry(run).or_default().push(process);
        }
        let missing = |id: &&ProcessId| id.start < at.0 && !present.contains(*id);
        for id in self.whose.keys().filter(missing).copied().collect::<Vec<_>>() {
            self.leave(id);
        }
        for run in self.runs.keys().copied().collect::<Vec<_>>() {
            let processes = by_run.remove(&run).unwrap_or_default();
            let Some(known) = self.runs.get_mut(&run) else { continue };
            let Losses { dropped, dropped_unreaped, dropped_forks, failed } =
                losses.since(known.losses);
            known.lost_forks |= dropped_forks > 0;
            // Those that came and went unseen are nobody's: the host counts them.
            let tracked = known.lineage.stats().processes;
            self.give(
                run,
                Event::Recovered { at, processes, tracked, dropped, dropped_unreaped, failed },
            );
        }
    }

    /// A process of a run is there, as was known at `at`.
    fn enter(&mut self, at: Nanos, run: RunId, id: ProcessId, pids: Pids) {
        let local = pids.local.unwrap_or(0);
        let before = self.by_local.get(&local).copied().filter(|(before, _)| *before != id);
        // Old news, read before the pid came round.
        if before.is_some_and(|(before, _)| before.start > id.start) {
            return;
        }
        if let Some((before, its)) = before {
            // A pid comes round only once its last owner was reaped, and where both are freed out of
            // order the kernel side tells of the later one only.
            self.leave(before);
            if its != run {
                self.give(its, Event::Reaped { at, process: before, by: None, gone: true });
            }
        }
        self.whose.insert(id, Whose { run, local });
        if local != 0 {
            self.by_local.insert(local, (id, run));
        }
    }

    fn leave(&mut self, id: ProcessId) {
        let Some(Whose { local, .. }) = self.whose.remove(&id) else { return };
        if self.by_local.get(&local).is_some_and(|(last, _)| *last == id) {
            self.by_local.remove(&local);
        }
    }

    /// The answer to a core's question.
    pub fn answered(&mut self, run: RunId, event: Event<'_>) {
        self.give(run, event);
    }

    /// Somebody said something about tool calls. Of whom no run knows is not listened to.
    pub fn announced(&mut self, announcement: Announcement) {
        let Some((_, run)) = self.run_of_pid(announcement.sender) else {
            self.unowned_at = self.unowned_at.max(announcement.sent_at);
            self.refuse_announcements(1);
            return;
        };
        let dropped = |node: &Self| {
            node.lineage(run).map_or(0, |lineage| lineage.stats().announcements_dropped)
        };
        let before = dropped(self);
        self.give(run, Event::Announced(Box::new(announcement)));
        self.refuse_announcements(dropped(self).saturating_sub(before));
    }

    /// When the last was announced that was of no run: by somebody who may turn out to be an agent, or
    /// below one.
    #[must_use]
    pub fn unowned_at(&self) -> Nanos {
        self.unowned_at
    }

    /// The run that an asker belongs to, and what stands open of the calls of its agent; see
    /// [`Lineage::open_findings`].
    #[must_use]
    pub fn open_findings(
        &self,
        sender: u32,
        sent_at: Nanos,
        agent: Option<&str>,
        now: Nanos,
    ) -> Option<(RunId, Vec<(u64, Finding)>)> {
        let (_, run) = self.run_of_pid(sender)?;
        Some((run, self.lineage(run)?.open_findings(sender, sent_at, agent, now)))
    }

    /// Whether something of a run may have been missed: what came and went while records of forks were lost
    /// may have been its.
    #[must_use]
    pub fn is_uncertain(&self, run: RunId) -> bool {
        self.runs.get(&run).is_some_and(Run::is_uncertain)
    }

    /// From now on these hold: thresholds for every run, rules for those that begin.
    pub fn reconfigure(&mut self, config: Config, rules: Rc<Rules>) {
        self.config = config;
        self.rules = rules;
        for (run, known) in &mut self.runs {
            known.lineage.reconfigure(config);
            self.touched.insert(*run);
        }
    }

    /// Counts announcements that nobody takes.
    pub fn refuse_announcements(&mut self, number: u64) {
        self.refused_announcements = self.refused_announcements.saturating_add(number);
    }

    /// Announcements that nobody took.
    #[must_use]
    pub fn refused_announcements(&self) -> u64 {
        self.refused_announcements
    }

    /// When [`Node::handle_timeout`] has something to do.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Nanos> {
        self.deadlines.first().map(|&(at, _)| at)
    }

    /// Does what is due at `now`.
    pub fn handle_timeout(&mut self, now: Nanos) {
        let due: Vec<_> = self.deadlines.iter().take_while(|(at, _)| *at <= now).copied().collect();
        for (_, run) in due {
            if let Some(known) = self.runs.get_mut(&run) {
                known.lineage.handle_timeout(now);
            }
            self.touched.insert(run);
        }
    }

    /// Looks what is new in the runs that something was given to: before outputs are polled, once for as
    /// many events as there were at once.
    pub fn settle(&mut self, now: Nanos) {
        self.settled_at = now;
        for run in std::mem::take(&mut self.touched) {
            let Some(known) = self.runs.get_mut(&run) else { continue };
            while let Some(question) = known.lineage.poll_output() {
                self.questions.push_back(Output::Ask { run, question });
            }
            known.look();
            self.telling.insert(run);
            let deadline = known.lineage.next_deadline();
            if known.deadline != deadline {
                if let Some(before) = known.deadline {
                    self.deadlines.remove(&(before, run));
                }
                self.deadlines.extend(deadline.map(|at| (at, run)));
                known.deadline = deadline;
            }
        }
    }

    fn forget(&mut self, run: RunId) {
        let Some(known) = self.runs.remove(&run) else { return };
        if let Some(deadline) = known.deadline {
            self.deadlines.remove(&(deadline, run));
        }
        for id in known.reaped {
            self.leave(id);
        }
    }

    /// Whether a run is to be remembered when its last process is gone, because somebody is at it.
    pub fn hold(&mut self, run: RunId, is_held: bool) {
        if let Some(known) = self.runs.get_mut(&run)
            && std::mem::replace(&mut known.is_held, is_held) != is_held
        {
            self.touched.insert(run);
        }
    }

    /// What the node wants next; `None`: nothing for now. A run that is over is forgotten once all that
    /// was new of it has been told.
    pub fn poll_output(&mut self) -> Option<Output> {
        if let Some(question) = self.questions.pop_front() {
            return Some(question);
        }
        while let Some(&run) = self.telling.first() {
            let known = self.runs.get_mut(&run);
            if let Some(news) = known.and_then(|known| known.next_news(self.settled_at)) {
                return Some(Output::News(news));
            }
            self.telling.remove(&run);
            if self.runs.get(&run).is_some_and(Run::is_done) {
                self.forget(run);
            }
        }
        None
    }

    /// The run of the process that last had this pid in the tracer's PID namespace.
    #[must_use]
    pub fn run_of_pid(&self, pid: u32) -> Option<(ProcessId, RunId)> {
        self.by_local.get(&pid).copied()
    }

    /// The core of a run.
    #[must_use]
    pub fn lineage(&self, run: RunId) -> Option<&Lineage> {
        self.runs.get(&run).map(|known| &known.lineage)
    }

    /// All runs.
    pub fn lineages(&self) -> impl Iterator<Item = (RunId, &Lineage)> {
        self.runs.iter().map(|(run, known)| (*run, &known.lineage))
    }

    /// What a process executes, whose record was lost.
    pub fn saw_program(&mut self, program: &ProgramSeen) {
        let event = program.event();
        match self.whose.get(&program.process) {
            Some(&Whose { run, .. }) => self.give(run, event),
            None => self.executed(&event),
        }
    }

    /// The run of a process that has not gone from the kernel.
    #[must_use]
    pub fn run_of(&self, process: ProcessId) -> Option<RunId> {
        self.whose.get(&process).map(|whose| whose.run)
    }

    fn give(&mut self, run: RunId, event: Event<'_>) {
        if let Some(known) = self.runs.get_mut(&run) {
            known.lineage.handle(event);
            self.touched.insert(run);
        }
    }
}
