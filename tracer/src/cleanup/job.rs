//! One lineage, or the parent of one zombie, and what is done about it.

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    time::Duration,
};

use super::{
    claim::Claim,
    cleaner::{Act, Ended},
    groups::{self, DoomedGroup, Place},
    hand::{Sent, untouchable},
    plan::Request,
};
use crate::lineage::{
    ActionResult, FindingKind, Found, Lineage, Lot, Member, Nanos, Pids, PortFreed, Process,
    ProcessId, Receipt, Remedy, SignalGiven, SignalTarget, Stage, Treatment,
};

/// How often ports and reaps are looked at.
const LOOK: Duration = Duration::from_millis(10);
/// New members, beside as many as there were, from which on a lineage that was asked to end is one
/// that grows instead.
const GROWS: usize = 64;

/// Looks at which there were more than before, from which on a lineage that is killed and grows has
/// escaped, once `kill_timeout` is over as well: on a slow machine there are few.
const MANY_ROUNDS: u32 = 100;

const SIGKILL: u8 = 9;
const SIGTERM: u8 = 15;
const SIGCHLD: u8 = 17;

/// What a job sees and says.
pub(super) struct World<'w> {
    pub(super) now: Nanos,
    pub(super) lineage: &'w Lineage,
    pub(super) allow: &'w dyn Fn(&Process) -> Option<String>,
    pub(super) dry_run: bool,
    /// Most processes that are ended within a minute.
    pub(super) most: usize,
    pub(super) ended: &'w mut Ended,
    /// Who is in the hands of a job before this one.
    pub(super) taken: &'w mut HashSet<ProcessId>,
    /// Who was in the hands of any job before this step.
    pub(super) busy: &'w HashSet<ProcessId>,
    /// Those of them that somebody asked for.
    pub(super) requested: &'w HashSet<ProcessId>,
    pub(super) acts: &'w mut VecDeque<Act>,
    /// The run has a cgroup of its own.
    pub(super) owns_cgroup: bool,
}

impl World<'_> {
    /// Why nobody is ended any more within this minute, if that is so.
    fn limit(&self) -> Option<String> {
        let most = self.most;
        (self.ended.number() >= most).then(|| format!("max_kills_per_minute = {most} is reached"))
    }
}

/// How far a job has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The finding has to stand for a while first.
    Waiting,
    /// They were asked to end.
    Leaving,
    /// They are killed.
    Killing,
    /// Who was to end has ended: is it reaped, are its ports free?
    Ending,
    Done,
}

/// Whether the run's own cgroup is killed as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whole {
    /// Nobody has looked whether it may be.
    Untried,
    Asked,
    Answered,
}

#[derive(Debug)]
pub(super) struct Job {
    /// `None`: somebody asked for it.
    kind: Option<FindingKind>,
    request: Option<Request>,
    treatment: Treatment,
    decided_by: String,
    found_at: Nanos,
    /// When something was first done.
    begun_at: Nanos,
    phase: Phase,
    /// When this phase began.
    since: Nanos,
    tops: hashbrown::HashSet<ProcessId>,
    /// Who is kept, with all below.
    kept: hashbrown::HashSet<ProcessId>,
    /// When there is something to do whatever comes; `None`: never.
    due: Option<Nanos>,
    /// A request was at it.
    has_waited: bool,
    /// In the order of their birth, so that nobody comes before who forked it.
    targets: BTreeMap<(u64, u32), Target>,
    /// How many there were at first.
    at_first: usize,
    /// How many there were at the last look, and at how many looks there were more.
    at_last: usize,
    rounds: u32,
    /// Only these are ended, and nobody below.
    is_alone: bool,
    /// Everything that the kernel had told was taken in while nobody was seen to live.
    is_caught_up: bool,
    /// Those who were dead when killing began, of whom the kernel side is yet to be told.
    dead: Vec<ProcessId>,
    whole: Whole,
}

/// One process that is to end, or a zombie that is to be reaped.
#[derive(Debug)]
struct Target {
    id: ProcessId,
    signals: Vec<SignalGiven>,
    /// The last signal that was asked for.
    asked: Option<(u8, Nanos)>,
    /// What came of it, where that is certain already.
    result: Option<(ActionResult, Option<String>, Nanos)>,
    listening: Vec<Vec<u8>>,
    ports: Vec<PortFreed>,
}

impl Target {
    fn new(id: ProcessId) -> Self {
        Self {
            id,
            signals: Vec::new(),
            asked: None,
            result: None,
            listening: Vec::new(),
            ports: Vec::new(),
        }
    }

    fn settle(&mut self, result: ActionResult, reason: Option<String>, at: Nanos) {
        self.result.get_or_insert((result, reason, at));
    }

    fn is_being_killed(&self) -> bool {
        self.result.is_none() && self.asked.is_some_and(|(signal, _)| signal == SIGKILL)
    }

    /// It is left as it is, whatever becomes of the others.
    fn is_spared(&self) -> bool {
        use ActionResult::{Kept, Limited, NotPermitted, Refused};
        matches!(self.result, Some((Kept | Limited | NotPermitted | Refused, _, _)))
    }

    fn was_sent_with_group(&self, signal: u8) -> bool {
        let is_such = |given: &SignalGiven| matches!(given.to, SignalTarget::Group(_));
        self.signals.last().is_some_and(|given| given.signal == signal && is_such(given))
    }

    fn was_sent(&self) -> bool {
        self.signals.iter().any(|given| given.refused.is_none())
    }
}

impl Job {
    /// Of findings of this kind, which are yet to be added.
    pub(super) fn new(
        kind: FindingKind,
        treatment: Treatment,
        decided_by: String,
        now: Nanos,
    ) -> Self {
        Self::waiting(Some(kind), treatment, decided_by, now)
    }

    /// What somebody asked for, of those and of nobody else that were named then.
    pub(super) fn requested(request: Request, treatment: Treatment, now: Nanos) -> Self {
        let mut job = Self::waiting(None, treatment, request.decided_by.clone(), now);
        job.tops.extend(request.ends.iter().copied());
        job.kept.extend(request.left.iter().copied());
        job.request = Some(request);
        job
    }

    fn waiting(
        kind: Option<FindingKind>,
        treatment: Treatment,
        decided_by: String,
        now: Nanos,
    ) -> Self {
        Self {
            kind,
            request: None,
            treatment,
            decided_by,
            found_at: now,
            begun_at: now,
            phase: Phase::Waiting,
            since: now,
            tops: hashbrown::HashSet::new(),
            kept: hashbrown::HashSet::new(),
            targets: BTreeMap::new(),
            at_first: 0,
            at_last: 0,
            rounds: 0,
            is_alone: kind == Some(FindingKind::Zombie),
            is_caught_up: false,
            dead: Vec::new(),
            whole: Whole::Untried,
            due: None,
            has_waited: false,
        }
    }

    /// Whether a finding belongs to this job: what is found before it begins is dealt with at once, so
    /// that the order of signals is one over all.
    pub(super) fn takes(&self, found: &Found, treatment: Treatment, decided_by: &str) -> bool {
        self.phase == Phase::Waiting
            && !self.is_alone
            && self.kind == Some(found.kind)
            && self.treatment == treatment
            && self.decided_by == decided_by
    }

    /// One more finding; `before`: the job that it was in before it was judged anew. What that had
    /// waited for is not waited for again.
    pub(super) fn add(&mut self, found: &Found, before: Option<&Self>) {
        self.tops.insert(found.process);
        if let Some(before) = before {
            self.found_at = self.found_at.min(before.found_at);
            self.has_waited |= before.has_waited;
        }
    }

    /// Whether it is about this finding.
    pub(super) fn is_about(&self, found: &Found) -> bool {
        self.kind == Some(found.kind) && self.tops.contains(&found.process)
    }

    /// Whether it is about a zombie, and signals go to another than it is about.
    pub(super) fn is_alone(&self) -> bool {
        self.is_alone
    }

    pub(super) fn is_done(&self) -> bool {
        self.phase == Phase::Done
    }

    /// Whether it has not begun, and looks who is in the hands of others.
    pub(super) fn is_waiting(&self) -> bool {
        self.phase == Phase::Waiting
    }

    /// Whether somebody asked for it.
    pub(super) fn is_requested(&self) -> bool {
        self.request.is_some()
    }

    /// Those that it still has something to do with.
    pub(super) fn in_hand(&self) -> impl Iterator<Item = ProcessId> {
        let open = self.targets.values().filter(|target| target.result.is_none());
        open.map(|target| target.id)
    }

    pub(super) fn deadline(&self) -> Option<Nanos> {
        let Treatment { term_timeout, kill_timeout, .. } = self.treatment;
        match self.phase {
            Phase::Leaving | Phase::Killing if self.is_alone => {
                let timeout =
                    if self.phase == Phase::Leaving { term_timeout } else { kill_timeout };
                Some(self.since.after(timeout))
            }
            Phase::Waiting | Phase::Leaving | Phase::Killing | Phase::Ending => self.due,
            Phase::Done => None,
        }
    }

    pub(super) fn step(&mut self, world: &mut World<'_>) {
        loop {
            let before = self.phase;
            match before {
                Phase::Waiting => self.wait(world),
                Phase::Leaving | Phase::Killing if self.is_alone => self.watch_alone(world),
                Phase::Leaving => self.watch_leaving(world),
                Phase::Killing => self.watch_killing(world),
                Phase::Ending => self.watch_ending(world),
                Phase::Done => {}
            }
            if self.phase == before {
                return;
            }
        }
    }

    fn enter(&mut self, phase: Phase, world: &World<'_>) {
        self.phase = phase;
        self.since = world.now;
    }

    fn wait(&mut self, world: &mut World<'_>) {
        let begins = self.found_at.after(self.treatment.delay);
        self.due = Some(begins).filter(|begins| *begins > world.now);
        // Evidence first: what is dead cannot be looked at any more.
        let is_known = self.kind != Some(FindingKind::Survivor) || world.lineage.is_settled();
        if self.due.is_some() || !is_known {
            return;
        }
        if self.is_anothers(world) {
            self.has_waited = true;
            self.due = Some(world.now.after(LOOK));
            return;
        }
        self.begun_at = world.now;
        if let Some(kind) = self.kind {
            // What was put right meanwhile is left alone, and what a request has ended is told there.
            let lineage = world.lineage;
            let is_over = |id| self.has_waited && lineage.stage(id) != Stage::Alive;
            self.tops.retain(|top| lineage.stands(*top, kind) && !is_over(*top));
        }
        if self.tops.is_empty() && self.request.is_none() {
            self.phase = Phase::Done;
            return;
        }
        if self.is_alone {
            self.begin_alone(world);
            return;
        }
        let members = self.members(world);
        self.at_first = members.len();
        for &top in &self.tops {
            // Who has ended since it was found gets a receipt as well.
            if world.lineage.stage(top) != Stage::Alive {
                self.targets.entry(top.by_birth()).or_insert_with(|| Target::new(top));
            }
        }
        if self.is_dry(world) {
            for member in members {
                let mut target = Target::new(member.id);
                let (result, reason) = match self.obstacle(&member, world) {
                    Some((result, reason)) => (result, Some(reason)),
                    None => (ActionResult::WouldAct, None),
                };
                target.settle(result, reason, world.now);
                self.targets.insert(member.id.by_birth(), target);
            }
            self.finish(world);
            return;
        }
        if self.treatment.term_timeout.is_zero() && self.treatment.remedy == Remedy::Kill {
            self.begin_killing(world);
        } else {
            self.enter(Phase::Leaving, world);
        }
    }

    /// Whether another job is at it, of which one is what somebody asked for: then this one begins when
    /// that is done, so that nobody is sent anything twice, and whoever asked is told how it ended.
    fn is_anothers(&self, world: &World<'_>) -> bool {
        let busy = if self.request.is_some() { world.busy } else { world.requested };
        let is_busy = |members: Vec<Member>| members.iter().any(|one| busy.contains(&one.id));
        !self.is_alone && !busy.is_empty() && is_busy(world.lineage.below(&self.tops, &self.kept))
    }

    /// Whether it only tells. Who asks has been told already.
    fn is_dry(&self, world: &World<'_>) -> bool {
        world.dry_run && self.request.is_none()
    }

    /// Who lives of the lineages, kept ones and what is below them left out; tells the kernel side of
    /// the kept.
    fn members(&mut self, world: &mut World<'_>) -> Vec<Member> {
        loop {
            let members = world.lineage.below(&self.tops, &self.kept);
            let kept: Vec<_> = members
                .iter()
                .filter(|member| !self.targets.contains_key(&member.id.by_birth()))
                .filter_map(|member| {
                    let why = world.lineage.kept(member.id, world.now, world.allow);
                    Some((*member, why.or_else(|| self.is_spared(member, world))?))
                })
                .collect();
            if kept.is_empty() {
                let mut members = members;
                members.retain(|member| !world.taken.contains(&member.id));
                world.taken.extend(members.iter().map(|member| member.id));
                return members;
            }
            for (member, why) in kept {
                self.kept.insert(member.id);
                if self.phase == Phase::Killing {
                    world.acts.push_back(Act::Decide(member.id, Lot::Kept));
                }
                self.tell_requested(member.id, world);
                let mut target = Target::new(member.id);
                target.settle(ActionResult::Kept, Some(why), world.now);
                self.targets.insert(member.id.by_birth(), target);
            }
        }
    }

    /// Why one that was forked since is not what was asked for.
    fn is_spared(&self, member: &Member, world: &World<'_>) -> Option<String> {
        let request = self.request.as_ref()?;
        if request.ends.contains(&member.id) {
            return None;
        }
        let call = request.call.as_ref()?;
        (!call.is_surely_of(world.lineage, member.id))
            .then(|| "it is not surely of that call".to_owned())
    }

    /// What comes of it is to be told whatever is found of it.
    fn tell_requested(&self, id: ProcessId, world: &mut World<'_>) {
        if self.request.is_some() {
            world.acts.push_back(Act::Requested(id));
        }
    }

    /// Why a member must not be touched, as far as that can be told without looking at it.
    fn obstacle(&self, member: &Member, world: &World<'_>) -> Option<(ActionResult, String)> {
        let refused = |why: &str| Some((ActionResult::Refused, why.to_owned()));
        if let Some(why) = untouchable(member.pids) {
            return refused(why);
        }
        let takes_nested = match &self.request {
            Some(request) => request.takes_nested,
            None => self.kind == Some(FindingKind::Survivor),
        };
        if member.is_nested && !takes_nested {
            return refused("it belongs to another invocation");
        }
        world.limit().map(|why| (ActionResult::Limited, why))
    }

    /// Asks everyone to end who was not asked yet; `true`: somebody lives of whom more is expected.
    fn tell(&mut self, members: &[Member], signal: u8, world: &mut World<'_>) -> bool {
        let mut is_awaited = false;
        let mut killed = Vec::new();
        for member in members {
            let at = member.id.by_birth();
            if !self.targets.contains_key(&at) {
                let mut target = Target::new(member.id);
                self.tell_requested(member.id, world);
                if let Some((result, reason)) = self.obstacle(member, world) {
                    target.settle(result, Some(reason), world.now);
                    if self.phase == Phase::Killing {
                        world.acts.push_back(Act::Decide(member.id, Lot::Kept));
                    }
                } else {
                    target.listening = self.listening(member.id, world);
                    if !target.listening.is_empty() {
                        world.acts.push_back(Act::HoldPorts {
                            process: member.id,
                            pids: member.pids,
                            addresses: target.listening.clone(),
                        });
                    }
                    world.acts.push_back(Act::Doom(member.id));
                    world.ended.note(world.now);
                }
                self.targets.insert(at, target);
            }
            let is_helper = signal == SIGTERM && self.helps_to_end(member, world);
            let Some(target) = self.targets.get_mut(&at) else { continue };
            if target.result.is_some() {
                continue;
            }
            is_awaited = true;
            let is_asked = target.asked.is_some_and(|(asked, _)| asked == signal);
            if !is_asked && !is_helper {
                target.asked = Some((signal, world.now));
                if signal == SIGKILL {
                    killed.push((member.id, member.pids));
                } else {
                    world.acts.push_back(signal_to(member.id, member.pids, signal));
                }
            }
        }
        if !killed.is_empty() {
            world.acts.push_back(Act::Place(killed));
        }
        is_awaited
    }

    /// Kills those who were looked at: by whole process groups where nobody else is in them.
    pub(super) fn placed(&mut self, places: &[Place], world: &mut World<'_>) {
        let is_mine =
            |id: ProcessId| self.targets.get(&id.by_birth()).is_some_and(Target::is_being_killed);
        let mine: Vec<_> = places.iter().filter(|at| is_mine(at.process)).copied().collect();
        let mut groups: HashMap<_, _> = groups::doomed(&mine, world.lineage, is_mine)
            .into_iter()
            .filter_map(|group| Some((group.pids.local?, group)))
            .collect();
        let mut reached = HashSet::new();
        // In the order of births still, so that no supervisor outlives whom it would start anew.
        for Place { process, pids, pgid, .. } in mine {
            if let Some(group) = pgid.and_then(|pgid| groups.remove(&pgid)) {
                reached.extend(group.members.iter().map(|(id, _)| *id));
                world.acts.push_back(Act::SignalGroup(group));
            } else if !reached.contains(&process) {
                world.acts.push_back(signal_to(process, pids, SIGKILL));
            }
        }
    }

    /// What came of the signal to a process group. Its members get their own as well: one may have gone
    /// to another group just before, and whether tracer may signal it shows only so.
    pub(super) fn sent_to_group(
        &mut self,
        group: &DoomedGroup,
        at: Nanos,
        sent: &Sent,
        acts: &mut VecDeque<Act>,
    ) {
        for &(member, pids) in group.members.iter().rev() {
            let Some(target) = self.targets.get_mut(&member.by_birth()) else { continue };
            if let Sent::Done { to } = sent {
                let to = SignalTarget::Group(*to);
                target.signals.push(SignalGiven { at, signal: SIGKILL, to, refused: None });
            }
            // In their place in the order.
            acts.push_front(signal_to(member, pids, SIGKILL));
        }
    }

    fn listening(&self, id: ProcessId, world: &World<'_>) -> Vec<Vec<u8>> {
        let seen = self.request.as_ref().and_then(|request| request.listening.get(&id));
        seen.cloned().unwrap_or_else(|| world.lineage.listened_at(id))
    }

    /// Forked by a process that had been asked to end and has not yet: what it ends with, as the
    /// `rm` of a shell's trap. It is asked when it is left behind.
    fn helps_to_end(&self, member: &Member, world: &World<'_>) -> bool {
        // One that could not be asked does not end.
        let forker = self.targets.get(&member.forker.by_birth()).filter(|one| one.result.is_none());
        let asked = forker.and_then(|forker| forker.asked);
        asked.is_some_and(|(_, at)| at.0 < member.id.start)
            && world.lineage.stage(member.forker) == Stage::Alive
    }

    fn watch_leaving(&mut self, world: &mut World<'_>) {
        let members = self.members(world);
        if !self.tell(&members, SIGTERM, world) {
            self.end_if_nobody_came(world);
            return;
        }
        self.is_caught_up = false;
        let kills = self.treatment.remedy == Remedy::Kill;
        let timeout = self.treatment.term_timeout;
        let overdue = self.overdue(&members, SIGTERM, timeout, world.now);
        let is_late = !overdue.is_empty();
        let grows = self.targets.len() > 2 * self.at_first + GROWS;
        if kills && (is_late || grows) {
            self.begin_killing(world);
        } else if is_late {
            self.settle_living(&members, ActionResult::StillThere, world);
            self.enter(Phase::Ending, world);
        }
    }

    /// The kernel side is told first of those who must not die: it ends whoever forks below one that is
    /// doomed. Then everyone gets SIGKILL, and whoever could be sent it is doomed ([`Job::sent`]); last
    /// come those who are dead, for what they forked unseen.
    fn begin_killing(&mut self, world: &mut World<'_>) {
        let spared = self.targets.values().filter(|target| target.is_spared());
        let spared: hashbrown::HashSet<_> =
            spared.map(|target| target.id).chain(self.kept.clone()).collect();
        world.acts.extend(spared.iter().map(|id| Act::Decide(*id, Lot::Kept)));
        let all = self.tops.iter().copied().chain(self.targets.values().map(|target| target.id));
        let is_dead = |id: &ProcessId| world.lineage.stage(*id) != Stage::Alive;
        // Below one that is left alone there are dead ones whose children live.
        self.dead = all.filter(|id| is_dead(id) && !world.lineage.is_below(*id, &spared)).collect();
        self.enter(Phase::Killing, world);
    }

    fn watch_killing(&mut self, world: &mut World<'_>) {
        let members = self.members(world);
        let first = world.acts.len();
        let is_awaited = self.tell(&members, SIGKILL, world);
        let dead = std::mem::take(&mut self.dead).into_iter();
        world.acts.extend(dead.map(|id| Act::Decide(id, Lot::Doomed)));
        if !is_awaited {
            self.end_if_nobody_came(world);
            return;
        }
        self.is_caught_up = false;
        self.claim_cgroup(first, world);
        let timeout = self.treatment.kill_timeout;
        for (process, since) in self.overdue(&members, SIGKILL, timeout, world.now) {
            if let Some(target) = self.targets.get_mut(&process.by_birth()) {
                target.settle(ActionResult::Unkillable, None, world.now);
            }
            world.acts.push_back(Act::Unkillable { process, since });
        }
        self.rounds += u32::from(self.targets.len() > self.at_last);
        self.at_last = self.targets.len();
        if self.rounds >= MANY_ROUNDS && world.now >= self.since.after(timeout) {
            self.settle_living(&members, ActionResult::Escaped, world);
            self.enter(Phase::Ending, world);
        }
    }

    /// Asks once for the whole cgroup, after everything that makes ready for a death and before the
    /// signals, which then are for those who are not in it. `first`: the first act of this round.
    fn claim_cgroup(&mut self, first: usize, world: &mut World<'_>) {
        // Whoever outlives the run, COMMAND has ended.
        let may_ask = world.owns_cgroup && self.kind == Some(FindingKind::Survivor);
        if !may_ask || self.whole != Whole::Untried {
            return;
        }
        self.whole = Whole::Asked;
        // Not what has ended below a kept one either: its children are not to end.
        let is_doomed = |target: &&Target| {
            target.result.is_none() && !world.lineage.is_below(target.id, &self.kept)
        };
        let (doomed, others): (Vec<_>, Vec<_>) = self.targets.values().partition(is_doomed);
        let elsewhere = world.taken.iter().filter(|id| !self.targets.contains_key(&id.by_birth()));
        let others = others.iter().map(|target| target.id);
        let claim = Claim {
            doomed: doomed.iter().map(|target| target.id).collect(),
            spared: others.chain(elsewhere.copied()).chain(self.kept.iter().copied()).collect(),
            room: world.most.saturating_sub(world.ended.number()),
        };
        let acts = world.acts.split_off(first);
        let (signals, ready): (Vec<_>, Vec<_>) =
            acts.into_iter().partition(|act| matches!(act, Act::Signal { .. } | Act::Place(_)));
        world.acts.extend(ready);
        world.acts.push_back(Act::KillCgroup(claim));
        world.acts.extend(signals);
    }

    /// Whether an answer of [`Job::cgroup_killed`] is for this job.
    pub(super) fn awaits_cgroup(&self) -> bool {
        self.whole == Whole::Asked
    }

    /// These were in the cgroup, and are killed. Gives those who were not known before.
    pub(super) fn cgroup_killed(&mut self, who: &[ProcessId], at: Nanos) -> Vec<ProcessId> {
        self.whole = Whole::Answered;
        let mut new = Vec::new();
        for &id in who {
            let target = self.targets.entry(id.by_birth()).or_insert_with(|| {
                new.push(id);
                Target::new(id)
            });
            let to = SignalTarget::Cgroup;
            target.asked = Some((SIGKILL, at));
            target.signals.push(SignalGiven { at, signal: SIGKILL, to, refused: None });
        }
        new
    }

    /// Of the members who are awaited, those that were sent this signal so long ago, and when. Notes
    /// when the first of all will have had its time.
    fn overdue(
        &mut self,
        members: &[Member],
        signal: u8,
        timeout: Duration,
        now: Nanos,
    ) -> Vec<(ProcessId, Nanos)> {
        let targets = members.iter().filter_map(|member| self.targets.get(&member.id.by_birth()));
        let awaited = targets.filter(|target| target.result.is_none());
        let asked = awaited.filter_map(|target| Some((target.id, target.asked?)));
        let sent = asked.filter(|(_, (asked, _))| *asked == signal);
        let (overdue, early): (Vec<_>, Vec<_>) =
            sent.map(|(id, (_, at))| (id, at)).partition(|(_, at)| now >= at.after(timeout));
        self.due = early.into_iter().map(|(_, at)| at.after(timeout)).min();
        overdue
    }

    /// Nobody lives as far as is known: so it is once the kernel's last word was taken in.
    fn end_if_nobody_came(&mut self, world: &mut World<'_>) {
        if std::mem::replace(&mut self.is_caught_up, true) {
            self.enter(Phase::Ending, world);
        } else {
            world.acts.push_back(Act::CatchUp);
        }
    }

    fn settle_living(&mut self, members: &[Member], result: ActionResult, world: &World<'_>) {
        for member in members {
            if let Some(target) = self.targets.get_mut(&member.id.by_birth()) {
                target.settle(result, None, world.now);
            }
        }
    }

    fn watch_ending(&mut self, world: &mut World<'_>) {
        let is_late = world.now >= self.since.after(self.treatment.kill_timeout);
        let mut awaited = false;
        for target in self.targets.values_mut() {
            if target.result.is_some() {
                continue;
            }
            match world.lineage.stage(target.id) {
                // Only after SIGTERM, by somebody who is asked no more.
                Stage::Alive => target.settle(ActionResult::StillThere, None, world.now),
                Stage::Dead if !is_late => {
                    awaited = true;
                    // Nobody may reap it in time.
                    if target.listening.len() > target.ports.len() {
                        world.acts.push_back(Act::CheckPorts(target.id));
                    }
                }
                Stage::Dead | Stage::Reaped => {
                    if target.listening.len() > target.ports.len() && !is_late {
                        awaited = true;
                        world.acts.push_back(Act::CheckPorts(target.id));
                        continue;
                    }
                    let unreaped = world.lineage.stage(target.id) != Stage::Reaped;
                    let reason = unreaped.then(|| "dead, and not reaped yet".to_owned());
                    let is_killed = world.lineage.was_killed_since(target.id, self.begun_at);
                    let result = if target.was_sent() || is_killed {
                        ActionResult::Ended
                    } else {
                        ActionResult::EndedByItself
                    };
                    target.settle(result, reason, world.now);
                }
            }
        }
        self.due = Some(world.now.after(LOOK));
        if !awaited {
            self.finish(world);
        }
    }

    /// A zombie: its parent is told, and nobody else.
    fn begin_alone(&mut self, world: &mut World<'_>) {
        let Some(&zombie) = self.tops.iter().next() else {
            self.phase = Phase::Done;
            return;
        };
        let lineage = world.lineage;
        let mut target = Target::new(zombie);
        let parent = lineage.owing_parent(zombie).filter(|parent| {
            lineage.pids_of(*parent).is_some() && lineage.stage(*parent) == Stage::Alive
        });
        let kills = self.treatment.remedy == Remedy::KillParent;
        let refused = match parent {
            None => Some("its parent is none of the invocation, or has ended".to_owned()),
            Some(parent) => lineage
                .kept(parent, world.now, world.allow)
                .map(|why| format!("its parent is kept: {why}"))
                .or_else(|| {
                    (kills && !lineage.is_descendant(parent))
                        .then(|| "its parent is COMMAND itself".to_owned())
                }),
        };
        let limit = world.limit().filter(|_| kills);
        if let Some(why) = refused {
            target.settle(ActionResult::Refused, Some(why), world.now);
        } else if let Some(why) = limit {
            target.settle(ActionResult::Limited, Some(why), world.now);
        } else if world.dry_run {
            target.settle(ActionResult::WouldAct, None, world.now);
        }
        let is_settled = target.result.is_some();
        let parent = parent.and_then(|parent| Some((parent, lineage.pids_of(parent)?)));
        if let (false, Some((parent, pids))) = (is_settled, parent) {
            let signal = if kills { SIGTERM } else { SIGCHLD };
            if kills {
                world.ended.note(world.now);
            }
            target.asked = Some((signal, world.now));
            world.acts.push_back(Act::Doom(zombie));
            world.acts.push_back(Act::Signal { process: parent, pids, signal, about: zombie });
        }
        self.targets.insert(zombie.by_birth(), target);
        if is_settled {
            self.finish(world);
        } else {
            self.enter(Phase::Leaving, world);
        }
    }

    fn watch_alone(&mut self, world: &mut World<'_>) {
        let Treatment { remedy, term_timeout, kill_timeout, delay: _ } = self.treatment;
        let timeout = if self.phase == Phase::Leaving { term_timeout } else { kill_timeout };
        let is_late = world.now >= self.since.after(timeout);
        let mut next = None;
        for target in self.targets.values_mut() {
            if target.result.is_some() {
                next = Some(Phase::Ending);
                continue;
            }
            if world.lineage.stage(target.id) == Stage::Reaped {
                target.settle(ActionResult::Reaped, None, world.now);
                next = Some(Phase::Ending);
            } else if is_late {
                let parent = world.lineage.owing_parent(target.id);
                let lives = parent.filter(|id| world.lineage.stage(*id) == Stage::Alive);
                let pids = lives.and_then(|id| Some((id, world.lineage.pids_of(id)?)));
                match pids {
                    Some((process, pids))
                        if remedy == Remedy::KillParent && self.phase == Phase::Leaving =>
                    {
                        target.asked = Some((SIGKILL, world.now));
                        let (signal, about) = (SIGKILL, target.id);
                        world.acts.push_back(Act::Signal { process, pids, signal, about });
                        next = Some(Phase::Killing);
                    }
                    None if self.phase == Phase::Leaving && remedy == Remedy::KillParent => {
                        // Its adopter has the rest of the time.
                        next = Some(Phase::Killing);
                    }
                    _ => {
                        target.settle(ActionResult::StillThere, None, world.now);
                        next = Some(Phase::Ending);
                    }
                }
            }
        }
        match next {
            Some(Phase::Ending) => self.finish(world),
            Some(phase) => self.enter(phase, world),
            None => {}
        }
    }

    /// Takes in what came of a signal. Gives what the kernel side is to be told of that process.
    pub(super) fn sent(
        &mut self,
        about: ProcessId,
        signal: u8,
        at: Nanos,
        sent: &Sent,
    ) -> Option<Lot> {
        let is_alone = self.is_alone;
        let is_killing = self.phase == Phase::Killing && !is_alone;
        let target = self.targets.get_mut(&about.by_birth())?;
        let lot = is_killing && target.result.is_none();
        let lot = |of: Lot| lot.then_some(of);
        let (result, why) = match sent {
            Sent::Done { to } => {
                let to = if is_alone { SignalTarget::Parent(*to) } else { SignalTarget::Process };
                // On a busy machine long after it was asked for.
                target.asked = Some((signal, at));
                if !target.was_sent_with_group(signal) {
                    target.signals.push(SignalGiven { at, signal, to, refused: None });
                }
                return lot(Lot::Doomed);
            }
            // Its end is on the way.
            Sent::Gone => return lot(Lot::Doomed),
            Sent::NotPermitted(why) => (ActionResult::NotPermitted, why),
            Sent::Refused(why) => (ActionResult::Refused, why),
        };
        if result == ActionResult::NotPermitted {
            let to = SignalTarget::Process;
            target.signals.push(SignalGiven { at, signal, to, refused: Some(why.clone()) });
        }
        target.settle(result, Some(why.clone()), at);
        lot(Lot::Kept)
    }

    pub(super) fn port_freed(&mut self, process: ProcessId, address: &[u8], at: Nanos) {
        let Some(target) = self.targets.get_mut(&process.by_birth()) else { return };
        let address = String::from_utf8_lossy(address).into_owned();
        if !target.ports.iter().any(|port| port.address == address) {
            target.ports.push(PortFreed { address, free_at: Some(at) });
        }
    }

    /// Gives the receipts.
    fn finish(&mut self, world: &mut World<'_>) {
        self.phase = Phase::Done;
        let dry_run = self.is_dry(world);
        let mut receipts = Vec::new();
        for target in std::mem::take(&mut self.targets).into_values() {
            let Target { id, signals, result, listening, mut ports, .. } = target;
            let (result, reason, at) =
                result.unwrap_or((ActionResult::StillThere, None, world.now));
            for address in listening {
                let address = String::from_utf8_lossy(&address).into_owned();
                if !ports.iter().any(|port| port.address == address) {
                    ports.push(PortFreed { address, free_at: None });
                }
            }
            let receipt = Receipt {
                process: id,
                kind: self.kind,
                remedy: self.treatment.remedy,
                decided_by: self.decided_by.clone(),
                decided_at: self.begun_at,
                dry_run,
                signals,
                result,
                reason,
                at,
                ports,
            };
            if self.request.is_some() {
                receipts.push(receipt.clone());
            }
            world.acts.push_back(Act::Receipt(Box::new(receipt)));
        }
        if let Some(request) = &self.request {
            world.acts.push_back(Act::Fulfilled { request: request.number, receipts });
        }
    }
}

fn signal_to(process: ProcessId, pids: Pids, signal: u8) -> Act {
    Act::Signal { process, pids, signal, about: process }
}
