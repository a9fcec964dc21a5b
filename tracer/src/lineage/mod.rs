//! The core: what happened to every process of an invocation, and which of it is a leak.
//!
//! Fully deterministic and without input or output of its own: no clock, no file, no thread, no
//! async. Four verbs drive it:
//!
//! - [`Lineage::handle`] takes an [`Event`]: a kernel record, or the answer to a question.
//! - [`Lineage::next_deadline`] says when [`Lineage::handle_timeout`] wants to be called. Feed
//!   every event up to that time first: a verdict must not race with its own ring buffer.
//! - [`Lineage::handle_timeout`] does what is due. Calling it too early, or twice, is a harmless
//!   no-op.
//! - [`Lineage::poll_output`] gives what the core wants from the world, until it is `None`. Call it
//!   after each of the above. Every [`Output::Observe`] must be answered by one
//!   [`Event::Observed`].
//!
//! When [`Lineage::is_settled`], [`Lineage::outcome`] tells the result.

mod agents;
mod ancestors;
mod announcement;
mod blame;
mod calls;
mod carried;
mod cause;
mod cleaned;
pub mod event;
mod findings;
mod keep;
mod leases;
mod life;
mod looks;
mod markers;
pub mod model;
mod open;
mod outcome;
mod outlived;
mod pattern;
mod pods;
mod policy;
mod present;
mod recover;
mod remedy;
mod room;
mod rules;
mod store;
mod table;
mod targets;
#[cfg(test)]
mod tests;
mod told;
mod watched;

use std::{collections::VecDeque, rc::Rc, time::Duration};

use hashbrown::{HashMap, HashSet};

pub use announcement::{
    Announcement, Background, CallStart, CallStatus, KeptByLease, MAX_COMMAND, MAX_ID, Said,
    SpanId, is_id,
};
pub use event::{
    BlockedThread, CleanupNews, Event, Home, Observation, ObservedParent, RecoveredProcess,
};
pub use life::{Life, Reaper};
pub use model::*;
pub use outcome::{DEFAULT_FAIL_ON, Policy};
pub use present::{Described, Present};
pub use recover::Reading;
pub use remedy::{
    ActionResult, Lot, PortFreed, Receipt, Remedy, SignalGiven, SignalTarget, Treatment,
};
pub use room::SharedRoom;
pub(crate) use rules::is_agent_name;
pub use rules::{BUILT_IN, Rules, RulesError};
pub use targets::{Found, Member, Stage};
pub use watched::Watched;

use agents::Invocations;
use calls::Calls;
use cleaned::CleanedUp;
use findings::Findings;
use leases::Leases;
use outlived::Overdue;
use recover::Gap;
use table::{
    EXECED, FORKED_AFTER_ROOT, GONE, LATE, OOM, Program, Reap, SPAWNER, SignalSent, TOLD_UNREAPED,
    Table, UNCOUNTED, UNSEEN, WANT_INIT_ZOMBIE, WANT_ORPHAN, WANT_ZOMBIE,
};

/// When something that stands is a leak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// How long the invocation may take to wind down after its root exited.
    pub grace: Duration,
    /// How long a parent may leave a child unreaped. Zero: until the parent's own end.
    pub zombie_after: Duration,
    /// How long an adopter may leave an orphan unreaped.
    pub init_zombie_after: Duration,
    /// How long a process may sleep uninterruptibly.
    pub stuck_after: Duration,
    /// Whether [`Output::Life`] is wanted.
    pub tell_lives: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            grace: Duration::from_secs(2),
            zombie_after: Duration::from_secs(1),
            init_zombie_after: Duration::from_secs(30),
            stuck_after: Duration::from_secs(30),
            tell_lives: false,
        }
    }
}

/// What the core wants from the world.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Look at this process and answer with [`Event::Observed`].
    Observe {
        /// Who.
        process: ProcessId,
        /// Its pids.
        pids: Pids,
        /// Its parent, whose waits are wanted if it is dead.
        parent: ProcessId,
    },
    /// Look which of these have a thread in uninterruptible sleep and answer with
    /// [`Event::Sampled`].
    Sample {
        /// Identity and pid in the tracer's PID namespace.
        processes: Vec<(ProcessId, u32)>,
    },
    /// The life of a process is over, or the run is: nothing to answer. Only under
    /// [`Config::tell_lives`].
    Life(Box<Life>),
}

/// A process outside of the invocation that can adopt.
#[derive(Clone, Debug)]
struct Bystander {
    pid: u32,
    start_ticks: u64,
    name: Box<[u8]>,
}

/// The state of one invocation.
#[derive(Debug)]
pub struct Lineage {
    config: Config,
    rules: Rc<Rules>,
    table: Table,
    invocations: Invocations,
    calls: Calls,
    leases: Leases,
    /// Tool calls that have ended, by the time when what they left has outlived them.
    overdue: VecDeque<(Nanos, Overdue)>,
    findings: Findings,
    bystanders: Vec<Bystander>,
    root: Option<ProcessId>,
    root_end: Option<Nanos>,
    /// Zombies of their own parents, by the time they become a finding.
    zombies: VecDeque<(Nanos, ProcessId)>,
    /// Zombies of their adopters, likewise.
    init_zombies: VecDeque<(Nanos, ProcessId)>,
    /// Those that were not yet what they are about to be, by the time of another look, and why.
    looks: VecDeque<(Nanos, ProcessId, u8)>,
    next_sample: Option<Nanos>,
    survivors_asked: bool,
    grace_cut_short: bool,
    unanswered: u64,
    outputs: VecDeque<Output>,
    stats: Stats,
    gap: Gap,
    lost_unreaped: u64,
    /// Those whose fork was lost and of whom [`Event::Unreaped`] came, which so told nothing.
    unreaped_unknown: HashSet<ProcessId>,
    /// The cgroups of v2 that the root was in when it forked.
    root_cgroups: Vec<u64>,
    /// The cgroup that was made for the root.
    own_cgroup: Option<OwnCgroup>,
    /// The root's real user when it first executed something that was told.
    root_uid: Option<u32>,
    /// Those that are looked at because they may go on for a process that lived when `grace` ended:
    /// how many such have come between.
    successors: HashMap<ProcessId, u8>,
    cleanup: CleanedUp,
}

/// How long the news that a process is gone may trail its reap: RCU calls the hook back after
/// 256 ms at most here, four times that where the machine is overloaded.
const GONE_LAG: Duration = Duration::from_secs(1);
/// A tracer that runs looks within this time of a deadline. What happened later than that, and
/// nobody looked before, happened while the tracer itself could not run.
const LOOKS_WITHIN: Duration = Duration::from_millis(50);

impl Lineage {
    /// An invocation of which nothing is known yet, with the built-in rules of agents.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self::with_rules(config, Rules::built_in())
    }

    /// The same with other rules.
    #[must_use]
    pub fn with_rules(config: Config, rules: Rc<Rules>) -> Self {
        Self {
            config,
            rules,
            table: Table::default(),
            invocations: Invocations::default(),
            calls: Calls::default(),
            leases: Leases::default(),
            overdue: VecDeque::new(),
            findings: Findings::default(),
            bystanders: Vec::new(),
            root: None,
            root_end: None,
            zombies: VecDeque::new(),
            init_zombies: VecDeque::new(),
            looks: VecDeque::new(),
            next_sample: None,
            survivors_asked: false,
            grace_cut_short: false,
            unanswered: 0,
            outputs: VecDeque::new(),
            stats: Stats::default(),
            gap: Gap::default(),
            lost_unreaped: 0,
            unreaped_unknown: HashSet::new(),
            root_cgroups: Vec::new(),
            own_cgroup: None,
            root_uid: None,
            successors: HashMap::new(),
            cleanup: CleanedUp::default(),
        }
    }

    /// What is known of its tool calls takes its room from now on as one of several runs.
    pub fn share_room(&mut self, room: &SharedRoom) {
        self.calls.share_room(room);
    }

    /// Takes in what happened. Events may come in any order that several CPUs can produce, and
    /// more than once.
    pub fn handle(&mut self, event: Event<'_>) {
        self.stats.events += 1;
        match event {
            Event::Fork { at, child, forker, parent, pids, cgroup, thread, root } => {
                if Some(forker) == self.root {
                    self.root_was_in(cgroup);
                }
                self.forked(at, child, forker, parent, pids, root);
                if let Some(thread) = thread {
                    self.forked_for_a_call(at, child, forker, thread);
                }
            }
            Event::Exec { at, process, exe, args, truncated, markers, markers_truncated, uid } => {
                if Some(process) == self.root {
                    self.root_uid = self.root_uid.or(uid);
                }
                self.executed(at, process, exe, args, truncated, (markers, markers_truncated));
            }
            Event::Exit { at, process, status, parent, children_uncounted } => {
                let status = ExitStatus::from_wait_status(status);
                self.ended(at, process, Some(status), parent, children_uncounted);
            }
            Event::Unreaped { at, process, parent, waits, not_yet } => {
                self.left_unreaped(at, process, parent, waits, not_yet);
            }
            Event::Reaped { at, process, by, gone } => {
                self.stood_unwatched(at, process, by.is_some());
                self.reaped(at, process, by, gone);
            }
            Event::Signal { at, target, signal, sender, sender_name } => {
                self.signalled(at, target, signal, sender, sender_name);
            }
            Event::Oom { at: _, process } => {
                if let Some(entry) = self.table.get_mut(process) {
                    entry.flags |= OOM;
                }
            }
            Event::Observed { at, process, observation } => {
                self.observed(at, process, *observation);
            }
            Event::Sampled { at, blocked } => self.sampled(at, &blocked),
            Event::Announced(announcement) => self.announced(*announcement),
            Event::InCgroup { process, is_born, path } => {
                self.seen_in_cgroup(process, is_born, &path);
            }
            Event::InPod { process, labels } => self.seen_in_pod(process, &labels),
            Event::CleanedUp(news) => self.cleaned_up(*news),
            Event::OwnCgroup(own) => self.own_cgroup = Some(*own),
            Event::AnnouncementsRefused(refused) => self.drop_announcements(refused),
            Event::AnnouncementsLost { at: _, from } => self.lost_announcements(from),
            Event::Bystander { pid, start_ticks, name } => {
                self.bystanders.push(Bystander { pid, start_ticks, name: name.into() });
            }
            Event::Recovered { at, processes, tracked, dropped, dropped_unreaped, failed } => {
                self.recovered(at, processes, tracked, dropped, dropped_unreaped, failed);
            }
        }
        self.drop_settled_zombies();
    }

    /// From now on these hold. What was found stays; what waits for its time does so until the time that
    /// was set.
    pub fn reconfigure(&mut self, config: Config) {
        self.config = Config { tell_lives: self.config.tell_lives, ..config };
    }

    /// When [`Lineage::handle_timeout`] has something to do; `None` while nothing is pending.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Nanos> {
        let survivors = match self.root_end {
            Some(end) if !self.survivors_asked && self.table.live() > 0 => {
                Some(end.after(self.config.grace))
            }
            _ => None,
        };
        let zombie = self.zombies.front().map(|&(at, _)| at);
        let init_zombie = self.init_zombies.front().map(|&(at, _)| at);
        let look = self.looks.front().map(|&(at, _, _)| at);
        let overdue = self.overdue.front().map(|&(at, _)| at);
        [self.next_sample, survivors, zombie, init_zombie, look, overdue]
            .into_iter()
            .flatten()
            .min()
    }

    /// Does what is due at `now`.
    pub fn handle_timeout(&mut self, now: Nanos) {
        while let Some(&(at, id)) = self.zombies.front()
            && at <= now
        {
            self.zombies.pop_front();
            self.observe(id, WANT_ZOMBIE);
            self.drop_settled_zombies();
        }
        while let Some(&(at, id)) = self.init_zombies.front()
            && at <= now
        {
            self.init_zombies.pop_front();
            self.observe(id, WANT_INIT_ZOMBIE);
            self.drop_settled_zombies();
        }
        while let Some(&(at, id, why)) = self.looks.front()
            && at <= now
        {
            self.looks.pop_front();
            let settled = self.table.get(id).is_none_or(|entry| entry.is(GONE));
            if !settled && (why != WANT_ORPHAN || self.orphan_awaits_adoption(id)) {
                self.observe(id, why);
            }
        }
        let due = self.overdue.partition_point(|&(at, _)| at <= now);
        if due > 0 {
            let due: Vec<_> = self.overdue.drain(..due).map(|(_, overdue)| overdue).collect();
            self.look_for_outlived(&due);
        }
        if self.next_sample.is_some_and(|at| at <= now) {
            self.ask_for_sample(now);
        }
        if let Some(end) = self.root_end
            && !self.survivors_asked
            && now >= end.after(self.config.grace)
        {
            self.ask_for_survivors();
        }
    }

    /// What the core wants next; `None`: nothing for now.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Whether the run can be judged: the root is gone, and nobody lives or `grace` is over, and
    /// every question has been answered.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.root_end.is_some()
            && (self.table.live() == 0 || self.survivors_asked)
            && self.unanswered == 0
    }

    /// Asks once more about the zombies that stand: the kernel tells of a reap up to 256 ms late,
    /// and the run may be judged in between. For when the kernel's last record has been taken in.
    pub fn look_for_the_last_time(&mut self) {
        for id in self.findings.open_zombies() {
            let Some(entry) = self.table.get(id).filter(|entry| !entry.is(GONE)) else { continue };
            let why = match entry.reap {
                Reap::Pending => WANT_ZOMBIE,
                Reap::Left(_) => WANT_INIT_ZOMBIE,
                Reap::ByParent | Reap::ByAdopter => continue,
            };
            self.observe(id, why);
        }
    }

    /// Ends `grace` before its time: what lives now is a survivor. A no-op before the root's end.
    pub fn end_grace(&mut self) {
        if self.root_end.is_some() && !self.survivors_asked {
            self.grace_cut_short = true;
            self.ask_for_survivors();
        }
    }

    /// Nothing more comes, although the run went on: a recording that ends early. What still
    /// could have changed does not count.
    pub fn cut_off(&mut self) {
        self.gap.cut_off = true;
    }

    /// The root, once it was forked.
    #[must_use]
    pub fn root(&self) -> Option<ProcessId> {
        self.root
    }

    /// The root's real user when it first executed something that was told, in the initial user
    /// namespace.
    #[must_use]
    pub fn root_uid(&self) -> Option<u32> {
        self.root_uid
    }

    /// Whether the root has ended.
    #[must_use]
    pub fn root_has_ended(&self) -> bool {
        self.root_end.is_some()
    }

    /// When and which signal a process last sent to the root, of those that end a process.
    #[must_use]
    pub fn last_signal_to_root(&self) -> Option<(Nanos, u32)> {
        let sent = self.table.get(self.root?)?.signal.as_ref()?;
        Some((sent.at, sent.signal))
    }

    fn forked(
        &mut self,
        at: Nanos,
        child: ProcessId,
        forker: ProcessId,
        parent: ProcessId,
        pids: Pids,
        root: bool,
    ) {
        let before = pids.local.and_then(|local| self.table.last_owner(local));
        // Old news, read before the pid came round.
        let stale = before.is_some_and(|before| before.start > child.start);
        if stale || !self.table.insert(child, forker, parent, pids) {
            return;
        }
        if let Some(before) = before {
            // A pid comes round only once its last owner was reaped, and where both are freed out of
            // order the kernel side tells of the later one only.
            self.is_gone(at, before);
        }
        if root && self.root.is_none() {
            self.root = Some(child);
            self.table.hold(child);
            self.open_run(child);
            self.next_sample = Some(at.after(self.sample_interval()));
        }
        if self.root_end.is_some_and(|end| at > end)
            && let Some(forker) = self.table.get_mut(forker)
        {
            forker.flags |= FORKED_AFTER_ROOT;
        }
        self.stats.processes += 1;
        self.stats.peak_live = self.stats.peak_live.max(self.table.live());
    }

    fn executed(
        &mut self,
        at: Nanos,
        process: ProcessId,
        exe: &[u8],
        args: &[u8],
        truncated: bool,
        (markers, markers_truncated): (&[u8], bool),
    ) {
        let markers = self.markers_at_exec(markers, markers_truncated);
        let program = Rc::new(Program { exe: exe.into(), args: args.into(), truncated });
        let spawns = self.rules.is_spawner(&program);
        let Some(entry) = self.table.get_mut(process) else { return };
        let before = std::mem::replace(&mut entry.program, Rc::clone(&program));
        if entry.is(EXECED) {
            entry.launched.get_or_insert(before);
        }
        entry.flags |= EXECED;
        if spawns {
            entry.flags |= SPAWNER;
        }
        entry.exec_at = at;
        if markers.is_some() && markers != entry.markers {
            entry.markers = markers;
        }
        self.look_for_agents(process, &program);
        self.look_for_calls(process);
    }

    fn signalled(
        &mut self,
        at: Nanos,
        target: ProcessId,
        signal: u32,
        sender: ProcessId,
        sender_name: &[u8],
    ) {
        let Some(entry) = self.table.get_mut(target) else { return };
        if sender.pid == 0 {
            entry.signal = None;
            return;
        }
        let name = sender_name.split(|&byte| byte == 0).next().unwrap_or_default();
        entry.signal = Some(Box::new(SignalSent { at, signal, sender, sender_name: name.into() }));
    }

    fn ended(
        &mut self,
        at: Nanos,
        id: ProcessId,
        status: Option<ExitStatus>,
        parent: ProcessId,
        children_uncounted: bool,
    ) {
        let Some(entry) = self.table.get(id) else { return };
        let parent_before = entry.parent;
        if parent.pid != 0 {
            self.table.reparent(id, parent);
        }
        if !self.table.end(id, at, status) {
            return;
        }
        if status.is_some() {
            self.survived_unwatched(id, at);
        }
        if let Some(entry) = self.table.get_mut(id)
            && entry.orphaned_at.is_some_and(|orphaned| at < orphaned)
        {
            // Its end is told late: its parent outlived it.
            entry.orphaned_at = None;
        }
        self.settle_findings_of_the_dead(id, at, parent_before, parent);
        self.ends_what_it_was_started_for(id, at);
        if self.root == Some(id) {
            self.root_end = Some(at);
        }
        self.leave_children(id, at, children_uncounted);
        self.stand_as_zombie(id, at);
    }

    /// What was alive when `grace` ended is a survivor, also when it had ended by the time that a
    /// stopped tracer got to look.
    fn survived_unwatched(&mut self, id: ProcessId, end: Nanos) {
        let Some(root_end) = self.root_end else { return };
        let deadline = root_end.after(self.config.grace);
        if !self.survivors_asked
            && self.root != Some(id)
            && Nanos(id.start) < deadline
            && end > deadline.after(LOOKS_WITHIN)
        {
            self.open(id, FindingKind::Survivor, root_end);
        }
    }

    /// A dead process waits to be reaped: by whom, and until when is that in order?
    fn stand_as_zombie(&mut self, id: ProcessId, at: Nanos) {
        let Some(entry) = self.table.get_mut(id) else { return };
        // The root is the tracer's own child: it reaps it.
        if entry.reap != Reap::Pending || self.root == Some(id) {
            return;
        }
        let own_parent = entry.parent == entry.first_parent && entry.orphaned_at.is_none();
        if !own_parent {
            entry.reap = Reap::Left(at);
            let due = at.after(self.config.init_zombie_after);
            Self::schedule(&mut self.init_zombies, &self.table, due, id);
        } else if !self.config.zombie_after.is_zero() {
            let due = at.after(self.config.zombie_after);
            Self::schedule(&mut self.zombies, &self.table, due, id);
        }
    }

    /// The children of a dead parent: the living are orphans; the dead were reaped by it, unless
    /// the kernel said otherwise.
    fn leave_children(&mut self, parent: ProcessId, at: Nanos, uncounted: bool) {
        for child in self.table.children(parent) {
            let Some(entry) = self.table.get_mut(child) else { continue };
            if entry.is_alive() {
                entry.orphaned_at.get_or_insert(at);
                if self.root_end.is_none() {
                    self.open_orphan(child, at);
                }
            } else if entry.reap == Reap::Pending && entry.first_parent == parent {
                let stood = entry.end.map_or(Duration::ZERO, |end| at.since(end.at));
                if uncounted && stood >= self.config.zombie_after {
                    entry.flags |= UNCOUNTED;
                    self.observe(child, WANT_ZOMBIE);
                } else {
                    entry.reap = Reap::ByParent;
                    self.findings.resolve(child, FindingKind::Zombie, at);
                }
            } else if !uncounted && entry.first_parent != parent {
                self.findings.adopter_ended(child, at);
            }
        }
    }

    fn left_unreaped(
        &mut self,
        at: Nanos,
        id: ProcessId,
        parent: ProcessId,
        waits: Option<tracer_common::WaitCounts>,
        not_yet: bool,
    ) {
        let Some(entry) = self.table.get_mut(id) else {
            self.unreaped_unknown.insert(id);
            return;
        };
        entry.flags |= TOLD_UNREAPED;
        if parent != entry.first_parent {
            self.findings.abandon(id);
            return;
        }
        if matches!(entry.reap, Reap::Left(_)) && not_yet {
            return;
        }
        let Some(end) = entry.end else { return };
        entry.waits = waits.map(Box::new);
        // Also after `ByParent`: that was inferred, this was seen.
        entry.reap = Reap::Left(at);
        if self.findings.reopen(id, FindingKind::Zombie) {
            return;
        }
        let owed = !not_yet && at.since(end.at) >= self.config.zombie_after;
        if owed && self.root != Some(id) {
            self.open_zombie(id, end.at);
        } else {
            let due = at.after(self.config.init_zombie_after);
            Self::schedule(&mut self.init_zombies, &self.table, due, id);
        }
    }

    fn reaped(&mut self, at: Nanos, id: ProcessId, by: Option<ProcessId>, gone: bool) {
        let Some(entry) = self.table.get(id) else { return };
        if entry.is_alive() {
            // Its exit record was lost.
            self.gap.ends += 1;
            self.ended(at, id, None, ProcessId::default(), true);
        }
        let first = self.table.get(id).is_some_and(|entry| gone && !entry.is(GONE));
        if gone {
            self.table.mark_gone(id);
        }
        let Some(entry) = self.table.get_mut(id) else { return };
        entry.flags &= !UNSEEN;
        if entry.is(UNCOUNTED) && entry.reap == Reap::Pending {
            self.gap.unreaped = self.gap.unreaped.saturating_add(1);
            entry.reap = Reap::ByAdopter;
        }
        entry.reap = match (by, entry.reap) {
            (Some(by), _) if by == entry.first_parent => Reap::ByParent,
            (Some(_), _) | (None, Reap::Left(_) | Reap::ByAdopter) => Reap::ByAdopter,
            // Its own parent lives: nobody else can have taken it.
            (None, Reap::Pending | Reap::ByParent) => Reap::ByParent,
        };
        if entry.reap == Reap::ByParent {
            self.findings.resolve(id, FindingKind::Zombie, at);
        } else {
            self.findings.adopter_reaped(id, at);
        }
        if first {
            self.tell_life(id, Some(at));
        }
        self.let_go(id);
    }

    /// Keeps of a process that is gone only what the outcome may tell.
    fn let_go(&mut self, id: ProcessId) {
        let Some(entry) = self.table.get(id) else { return };
        if entry.is(GONE) && entry.wanted == 0 {
            // A finding holds its process.
            if entry.holds > 0 {
                self.close_findings(id);
            }
            self.table.forget(id);
            self.table.shorten();
        }
    }

    /// Notes a deadline in its place, which is nearly always the last.
    fn schedule(queue: &mut VecDeque<(Nanos, ProcessId)>, table: &Table, at: Nanos, id: ProcessId) {
        /// From here on, and at each doubling, those that need no deadline any more are dropped.
        const MANY: usize = 1024;
        let place = queue.partition_point(|&(other, _)| other <= at);
        queue.insert(place, (at, id));
        if queue.len() >= MANY && queue.len().is_power_of_two() {
            queue.retain(|&(_, id)| table.get(id).is_some_and(|entry| !entry.is(GONE)));
        }
    }

    /// A zombie that was reaped long after its time was up, and before a stopped tracer got to look
    /// at it, was a finding. `reap_seen`: it was reaped `at` this time, not some time before.
    fn stood_unwatched(&mut self, at: Nanos, id: ProcessId, reap_seen: bool) {
        let Some(entry) = self.table.get(id) else { return };
        let lag = if reap_seen { Duration::ZERO } else { GONE_LAG };
        if entry.is(UNCOUNTED) || self.root == Some(id) {
            return;
        }
        let Config { zombie_after, init_zombie_after, .. } = self.config;
        if entry.is(GONE) {
            return;
        }
        match (entry.reap, entry.end) {
            (reap, Some(end))
                if (reap == Reap::Pending || entry.is(LATE))
                    && end.status.is_some()
                    && !zombie_after.is_zero()
                    && at.since(end.at) >= zombie_after + lag =>
            {
                self.open_zombie(id, end.at);
            }
            (Reap::Left(left), _)
                if at.since(left) >= init_zombie_after + lag
                    && !self.findings.has(id, FindingKind::Zombie) =>
            {
                self.open_init_zombie(id, left);
            }
            _ => {}
        }
    }

    /// Zombies that were reaped in time need no deadline.
    fn drop_settled_zombies(&mut self) {
        let Self { zombies, init_zombies, table, .. } = self;
        while let Some(&(_, id)) = zombies.front()
            && table.get(id).is_none_or(|entry| entry.is(GONE) || entry.reap != Reap::Pending)
        {
            zombies.pop_front();
        }
        while let Some(&(_, id)) = init_zombies.front()
            && table.get(id).is_none_or(|entry| entry.is(GONE))
        {
            init_zombies.pop_front();
        }
    }
}
