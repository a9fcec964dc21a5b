//! Which findings are dealt with, how, and how far that has come.
//!
//! Level-triggered: [`Cleaner::step`] looks at what the core knows now and says what is to be done
//! next, so that it makes no difference in which order news came. Call it after the core has taken
//! in events and when [`Cleaner::next_deadline`] has come; then do every [`Cleaner::poll_act`].

use std::{
    cell::RefCell,
    collections::{HashSet, VecDeque},
    mem,
    rc::Rc,
    time::Duration,
};

use super::{
    claim::Claim,
    groups::{DoomedGroup, Place},
    hand::Sent,
    job::{Job, World},
    plan::Request,
};
use crate::lineage::{
    FindingKind, Found, Lineage, Lot, Nanos, Pids, Process, ProcessId, Receipt, Remedy, Rules,
};

/// What is asked for.
#[derive(Clone)]
pub struct Settings {
    /// How each kind of finding is dealt with.
    pub rules: Rc<Rules>,
    /// The pattern that keeps a process, if one does.
    pub allow: Allow,
    /// Deal with what is found; else only with what somebody asks for.
    pub leaks: bool,
    /// Leave alone what belongs to no agent: a command that somebody has traced.
    pub agents_only: bool,
    /// Who decides where no rule does.
    pub decided_by: &'static str,
    /// Tell what would be done about it, and touch nothing.
    pub dry_run: bool,
    /// Who was ended of late by all that go by these settings: one limit holds for them together.
    pub ended: Rc<RefCell<Ended>>,
}

/// Says by which pattern a process is kept, if by one.
pub type Allow = Rc<dyn Fn(&Process) -> Option<String>>;

/// When processes were ended, of the last minute.
#[derive(Debug, Default)]
pub struct Ended(VecDeque<Nanos>);

impl Ended {
    /// How many.
    pub(super) fn number(&self) -> usize {
        self.0.len()
    }

    /// One more is.
    pub(super) fn note(&mut self, at: Nanos) {
        self.0.push_back(at);
    }

    fn forget_before(&mut self, now: Nanos) {
        while self.0.front().is_some_and(|&at| now.since(at) > MINUTE) {
            self.0.pop_front();
        }
    }
}

impl std::fmt::Debug for Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { rules: _, allow: _, leaks, agents_only: _, decided_by: _, dry_run, ended: _ } =
            self;
        let mut shown = f.debug_struct("Settings");
        shown.field("leaks", leaks).field("dry_run", dry_run).finish_non_exhaustive()
    }
}

/// Within what time kills are counted.
const MINUTE: Duration = Duration::from_secs(60);

/// What is to be done next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// Tell the kernel side what becomes of a process and of all that it forks.
    Decide(ProcessId, Lot),
    /// Tell the core that this process is being ended.
    Doom(ProcessId),
    /// Send a signal and answer with [`Cleaner::sent`].
    Signal {
        /// To whom.
        process: ProcessId,
        /// Its pids.
        pids: Pids,
        /// Which.
        signal: u8,
        /// About whom it is: the same, or its zombie.
        about: ProcessId,
    },
    /// Look where these processes are, who are to be killed, and answer with [`Cleaner::placed`].
    Place(Vec<(ProcessId, Pids)>),
    /// Send SIGKILL to a process group, and answer with [`Cleaner::sent_to_group`].
    SignalGroup(DoomedGroup),
    /// Make ready to look whether these places are free, before their owner is gone.
    HoldPorts {
        /// Who listens.
        process: ProcessId,
        /// Its pids.
        pids: Pids,
        /// Where.
        addresses: Vec<Vec<u8>>,
    },
    /// Look whether they are free, and answer with [`Cleaner::port_freed`] for each that is.
    CheckPorts(ProcessId),
    /// Let the core take in everything that the kernel has told by now, and call [`Cleaner::step`].
    CatchUp,
    /// Look whether everybody in the run's own cgroup is to end, and if so kill it as a whole, and
    /// answer with [`Cleaner::cgroup_killed`] in any case.
    KillCgroup(Claim),
    /// SIGKILL did not end it.
    Unkillable {
        /// Who.
        process: ProcessId,
        /// When it was sent.
        since: Nanos,
    },
    /// What became of a process: for the core.
    Receipt(Box<Receipt>),
    /// Tell the core that somebody asked for this process to be ended.
    Requested(ProcessId),
    /// All of a request is done: tell who asked.
    Fulfilled {
        /// Its number.
        request: u64,
        /// What became of each process, oldest first.
        receipts: Vec<Receipt>,
    },
}

/// All that is being cleaned up.
#[derive(Debug)]
pub struct Cleaner {
    settings: Settings,
    jobs: Vec<Job>,
    /// Findings up to this one were seen.
    seen: u64,
    /// Had not begun when the settings changed: what they are about is judged anew.
    dropped: Vec<Job>,
    acts: VecDeque<Act>,
    /// The run has a cgroup of its own.
    owns_cgroup: bool,
}

impl Cleaner {
    /// One that has nothing to do yet.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            jobs: Vec::new(),
            seen: 0,
            dropped: Vec::new(),
            acts: VecDeque::new(),
            owns_cgroup: false,
        }
    }

    /// The run has a cgroup of its own, which may be killed as a whole: [`Act::KillCgroup`].
    pub fn owns_cgroup(&mut self) {
        self.owns_cgroup = true;
    }

    /// From now on goes by these; what has begun is ended as it was decided, and what has not is
    /// judged anew. What somebody asked for stays that.
    pub fn reconfigure(&mut self, settings: Settings) {
        let dropped = self.jobs.extract_if(.., |job| job.is_waiting() && !job.is_requested());
        self.dropped.extend(dropped);
        if !settings.leaks {
            self.dropped.clear();
        }
        let begins = settings.leaks && !self.settings.leaks;
        if begins || (self.settings.dry_run && !settings.dry_run) {
            // What was found before is dealt with as well, and not only in words.
            self.seen = 0;
        }
        self.settings = settings;
    }

    /// Whether nothing is left to be done about what was found so far.
    #[must_use]
    pub fn is_idle(&self, lineage: &Lineage) -> bool {
        self.acts.is_empty()
            && (!self.settings.leaks || self.seen == lineage.findings_opened())
            && self.dropped.is_empty()
            && self.jobs.is_empty()
    }

    /// Does what is due: `lineage` has taken in everything up to `now`.
    pub fn step(&mut self, now: Nanos, lineage: &Lineage) {
        self.take_in(now, lineage);
        self.settings.ended.borrow_mut().forget_before(now);
        self.each_job(now, lineage, Job::step);
        self.jobs.retain(|job| !job.is_done());
    }

    /// Where those are who are to be killed: what [`Act::Place`] gave.
    pub fn placed(&mut self, places: &[Place], now: Nanos, lineage: &Lineage) {
        self.each_job(now, lineage, |job, world| job.placed(places, world));
    }

    fn each_job(
        &mut self,
        now: Nanos,
        lineage: &Lineage,
        mut act: impl FnMut(&mut Job, &mut World<'_>),
    ) {
        let Settings { rules, allow, dry_run, ended, .. } = &self.settings;
        // Nobody asks but who waits.
        let is_asked = self.jobs.iter().any(Job::is_waiting);
        let begun = || self.jobs.iter().filter(|_| is_asked);
        let busy = begun().flat_map(Job::in_hand).collect();
        let requested = begun().filter(|job| job.is_requested()).flat_map(Job::in_hand).collect();
        let mut world = World {
            now,
            lineage,
            allow: allow.as_ref(),
            dry_run: *dry_run,
            most: usize::try_from(rules.most_kills_a_minute()).unwrap_or(usize::MAX),
            ended: &mut ended.borrow_mut(),
            // What one job has in hand is none of another's.
            taken: &mut HashSet::new(),
            busy: &busy,
            requested: &requested,
            acts: &mut self.acts,
            owns_cgroup: self.owns_cgroup,
        };
        self.jobs.iter_mut().for_each(|job| act(job, &mut world));
    }

    /// Takes on what somebody asks for; [`Cleaner::step`] begins with it.
    pub fn request(&mut self, request: Request, now: Nanos, lineage: &Lineage) {
        let agent = request.ends.first().and_then(|&id| lineage.agent_above(id));
        let treatment = self.settings.rules.on_request(agent.as_deref());
        self.jobs.push(Job::requested(request, treatment, now));
    }

    /// What is to be done next; `None`: nothing for now.
    pub fn poll_act(&mut self) -> Option<Act> {
        self.acts.pop_front()
    }

    /// What came of [`Act::Signal`] to `process`.
    pub fn sent(
        &mut self,
        process: ProcessId,
        about: ProcessId,
        signal: u8,
        at: Nanos,
        sent: &Sent,
    ) {
        // One that was killed may be a zombie that its parent is told of.
        let is_alone = process != about;
        for job in self.jobs.iter_mut().filter(|job| job.is_alone() == is_alone) {
            match job.sent(about, signal, at, sent) {
                // Before anybody is doomed from whom it descends.
                Some(Lot::Kept) => self.acts.push_front(Act::Decide(about, Lot::Kept)),
                Some(Lot::Doomed) => self.acts.push_back(Act::Decide(about, Lot::Doomed)),
                None => {}
            }
        }
    }

    /// What came of [`Act::SignalGroup`].
    pub fn sent_to_group(&mut self, group: &DoomedGroup, at: Nanos, sent: &Sent) {
        for job in &mut self.jobs {
            job.sent_to_group(group, at, sent, &mut self.acts);
        }
    }

    /// What came of [`Act::KillCgroup`]: these were in the cgroup and are killed; nobody: it was not
    /// killed as a whole.
    pub fn cgroup_killed(&mut self, who: &[ProcessId], at: Nanos) {
        let asker = self.jobs.iter_mut().find(|job| job.awaits_cgroup());
        let new = asker.map(|job| job.cgroup_killed(who, at)).unwrap_or_default();
        let mut ended = self.settings.ended.borrow_mut();
        new.iter().for_each(|_| ended.note(at));
        // What is dead needs no signal of its own.
        let who: HashSet<_> = who.iter().copied().collect();
        self.acts.retain_mut(|act| match act {
            Act::Signal { process, .. } => !who.contains(process),
            Act::Place(members) => {
                members.retain(|(id, _)| !who.contains(id));
                !members.is_empty()
            }
            _ => true,
        });
        self.acts.extend(new.into_iter().map(Act::Doom));
    }

    /// Why a process is kept, if it is.
    #[must_use]
    pub fn keeps(&self, id: ProcessId, now: Nanos, lineage: &Lineage) -> Option<String> {
        lineage.kept(id, now, self.settings.allow.as_ref())
    }

    /// Nobody listens there any more.
    pub fn port_freed(&mut self, process: ProcessId, address: &[u8], at: Nanos) {
        for job in &mut self.jobs {
            job.port_freed(process, address, at);
        }
    }

    /// When [`Cleaner::step`] has something to do whatever the kernel tells; `None`: never.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Nanos> {
        self.jobs.iter().filter_map(Job::deadline).min()
    }

    /// Makes jobs of what was found since the last look, and of what is judged anew.
    fn take_in(&mut self, now: Nanos, lineage: &Lineage) {
        let opened = lineage.findings_opened();
        let is_new = opened != self.seen || !self.dropped.is_empty();
        if !is_new || !self.settings.leaks {
            return;
        }
        let dropped = mem::take(&mut self.dropped);
        let new = lineage.found_after(self.seen);
        if !dropped.is_empty() {
            let mut before = lineage.found_after(0);
            before.truncate(before.len() - new.len());
            for found in before {
                if let Some(job) = dropped.iter().find(|job| job.is_about(&found)) {
                    self.judge(&found, now, Some(job));
                }
            }
        }
        for found in new {
            let job = dropped.iter().find(|job| job.is_about(&found));
            self.judge(&found, now, job);
        }
        self.seen = opened;
    }

    /// Makes a job of a finding if it is to be dealt with; `before`: the one that it had before the
    /// settings changed.
    fn judge(&mut self, found: &Found, now: Nanos, before: Option<&Job>) {
        let (treatment, rule) = self.settings.rules.treatment(found.kind, found.agent.as_deref());
        let is_left = self.settings.agents_only && found.agent.is_none();
        if treatment.remedy == Remedy::Report || is_left || !may_be_dealt_with(found) {
            return;
        }
        let decided_by = rule.unwrap_or_else(|| self.settings.decided_by.to_owned());
        let open = self.jobs.iter_mut().find(|job| job.takes(found, treatment, &decided_by));
        if let Some(job) = open {
            job.add(found, before);
            return;
        }
        let mut job = Job::new(found.kind, treatment, decided_by, now);
        job.add(found, before);
        self.jobs.push(job);
    }
}

/// Never on a guess: what is held against a tool call must be that call's.
fn may_be_dealt_with(found: &Found) -> bool {
    found.kind != FindingKind::OutlivedCall || found.is_sure
}
