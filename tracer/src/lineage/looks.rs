//! Looks at the world: what is asked for and when, and what an answer means for what was found so far.

use std::time::Duration;

use hashbrown::{HashMap, HashSet};

use super::{
    LOOKS_WITHIN, Lineage, Output,
    event::{BlockedThread, Observation},
    model::{FindingKind, Nanos, ProcessId},
    table::{
        LATE, Reap, UNCOUNTED, UNSEEN, VANISHED, WANT_ENTRY, WANT_INIT_ZOMBIE, WANT_ORPHAN,
        WANT_OUTLIVED, WANT_STUCK, WANT_SURVIVOR, WANT_ZOMBIE,
    },
};

/// Cost of sampling one process, to keep it within a thousandth of a core.
const SAMPLE_COST: Duration = Duration::from_millis(15);
/// Time that the kernel gets between telling an exit and what follows: children handed on, memory
/// and files let go.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

impl Lineage {
    /// Asks for a look at a process, once however many want it.
    pub(super) fn observe(&mut self, id: ProcessId, why: u8) {
        let Some(entry) = self.table.get_mut(id) else { return };
        let waiting = entry.wanted != 0;
        entry.wanted |= why;
        if !waiting {
            self.unanswered += 1;
            self.outputs.push_back(Output::Observe {
                process: id,
                pids: entry.pids,
                parent: entry.first_parent,
            });
        }
    }

    pub(super) fn ask_for_survivors(&mut self) {
        self.survivors_asked = true;
        for id in self.table.alive() {
            self.observe(id, WANT_SURVIVOR);
        }
    }

    /// A quarter of `stuck_after`, or as seldom as so many processes ask for.
    pub(super) fn sample_interval(&self) -> Duration {
        let cost = SAMPLE_COST * u32::try_from(self.table.live()).unwrap_or(u32::MAX);
        (self.config.stuck_after / 4).max(cost).max(Duration::from_millis(1))
    }

    pub(super) fn ask_for_sample(&mut self, now: Nanos) {
        self.next_sample = Some(now.after(self.sample_interval()));
        let processes: Vec<_> = self
            .table
            .alive()
            .into_iter()
            .filter_map(|id| Some((id, self.table.get(id)?.pids.local?)))
            .collect();
        if processes.is_empty() {
            self.next_sample = None;
        } else {
            self.outputs.push_back(Output::Sample { processes });
        }
    }

    pub(super) fn sampled(&mut self, at: Nanos, blocked: &[(ProcessId, BlockedThread)]) {
        let blocked: HashMap<_, _> = blocked.iter().copied().collect();
        for id in self.table.alive() {
            let now = blocked.get(&id).copied();
            let Some(entry) = self.table.get_mut(id) else { continue };
            let since = match (&entry.blocked, now) {
                (_, None) => {
                    entry.blocked = None;
                    self.findings.resolve(id, FindingKind::Stuck, at);
                    continue;
                }
                (Some(before), Some(now)) if before.0 == now => before.1,
                (_, Some(now)) => {
                    entry.blocked = Some(Box::new((now, at)));
                    self.findings.resolve(id, FindingKind::Stuck, at);
                    continue;
                }
            };
            if at.since(since) >= self.config.stuck_after
                && !self.findings.is_open(id, FindingKind::Stuck)
            {
                self.observe(id, WANT_STUCK);
            }
        }
    }

    pub(super) fn observed(&mut self, at: Nanos, id: ProcessId, observation: Observation) {
        let Some(entry) = self.table.get_mut(id) else {
            return;
        };
        let wanted = std::mem::take(&mut entry.wanted);
        if wanted == 0 {
            return;
        }
        self.unanswered = self.unanswered.saturating_sub(1);
        if let Some(waits) = observation.waits
            && (entry.waits.is_none() || wanted & WANT_ZOMBIE != 0)
        {
            entry.waits = Some(Box::new(waits));
        }
        let alive = entry.is_alive();
        if let Some(parent) = observation.parent.as_ref().filter(|_| alive)
            && let Some(parent) = self.table.by_local_pid(parent.pid)
        {
            self.table.reparent(id, parent);
        }
        let shown_dead = observation.shows_dead();
        self.judge_zombie(at, id, wanted, &observation);
        if observation.exists && alive && !shown_dead {
            self.judge_living(id, wanted);
        }
        if !observation.exists && alive {
            self.judge_vanished(at, id, wanted);
        }
        if wanted & WANT_SURVIVOR != 0 && (!alive || !observation.exists || shown_dead) {
            self.look_for_successors(id);
        }
        self.findings.attach(id, observation);
        if wanted & WANT_ORPHAN != 0 && alive && self.orphan_awaits_adoption(id) {
            self.look_again(at, id, WANT_ORPHAN);
        }
        self.let_go(id);
    }

    /// Asks for another look soon: the longer it has been waited for, the later.
    fn look_again(&mut self, at: Nanos, id: ProcessId, why: u8) {
        const SELDOM: u32 = 8;
        let Some(entry) = self.table.get(id) else { return };
        let since = match (entry.end, entry.reap) {
            (None, _) => entry.orphaned_at.unwrap_or(at),
            (Some(_), Reap::Left(left)) => left.after(self.config.init_zombie_after),
            (Some(end), _) => end.at.after(self.config.zombie_after),
        };
        let next = at.after(LOOK_AGAIN.max(at.since(since) / SELDOM));
        let place = self.looks.partition_point(|&(other, _, _)| other <= next);
        self.looks.insert(place, (next, id, why));
    }

    /// A process that should be dead was looked at.
    fn judge_zombie(&mut self, at: Nanos, id: ProcessId, wanted: u8, observation: &Observation) {
        let Some(entry) = self.table.get_mut(id) else { return };
        let Some(end) = entry.end else { return };
        let stands = observation.exists && observation.state == Some('Z');
        // Dead to the exit hook, still letting go of its memory and files: look again.
        let ending = observation.exists && !stands;
        let again = wanted & (WANT_ZOMBIE | WANT_INIT_ZOMBIE);
        if ending {
            // Not even that may be known: procfs hides it, or the tracer is out of descriptors.
            let unseen = observation.state.is_none() && again != 0;
            entry.flags = if unseen { entry.flags | UNSEEN } else { entry.flags & !UNSEEN };
            if again != 0 {
                self.look_again(at, id, again);
            }
            return;
        }
        entry.flags &= !UNSEEN;
        if wanted & WANT_ZOMBIE != 0 && entry.reap == Reap::Pending {
            if !observation.exists
                && !entry.is(UNCOUNTED)
                && !self.findings.has(id, FindingKind::Zombie)
                && at.since(end.at) > self.config.zombie_after + LOOKS_WITHIN
            {
                // Reaped, who knows when: its free will tell.
                entry.flags |= LATE;
                return;
            }
            if !observation.exists {
                // Reaped, and its free is on the way.
                entry.reap = if entry.is(UNCOUNTED) {
                    self.gap.unreaped = self.gap.unreaped.saturating_add(1);
                    Reap::ByAdopter
                } else {
                    Reap::ByParent
                };
                self.findings.resolve(id, FindingKind::Zombie, at);
                return;
            }
            let uncounted = entry.is(UNCOUNTED);
            if uncounted && stands {
                entry.reap = Reap::Left(at);
            }
            let owed = stands && at.since(end.at) >= self.config.zombie_after;
            if owed && !self.has_been_handed_on_untold(id, observation) {
                self.open_zombie(id, end.at);
            } else if owed && uncounted {
                self.gap.unreaped = self.gap.unreaped.saturating_add(1);
            }
        }
        if wanted & WANT_INIT_ZOMBIE != 0
            && let Some(entry) = self.table.get_mut(id)
            && let Reap::Left(left) = entry.reap
        {
            if !observation.exists {
                entry.reap = Reap::ByAdopter;
                self.findings.adopter_reaped(id, at);
            } else if stands && !self.findings.has(id, FindingKind::Zombie) {
                self.open_init_zombie(id, left);
            }
        }
    }

    /// A process was looked at whose end has not been told, and is gone.
    fn judge_vanished(&mut self, at: Nanos, id: ProcessId, wanted: u8) {
        if wanted & WANT_ENTRY != 0 {
            // Nor will it be: nothing of it was on its way.
            self.reaped(at, id, None, true);
        } else if let Some(entry) = self.table.get_mut(id) {
            entry.flags |= VANISHED;
        }
    }

    /// Whether its first parent is gone, or procfs shows another, and the record of that parent's end
    /// was lost: `PROCS` will tell how long it let the child stand.
    fn has_been_handed_on_untold(&self, id: ProcessId, observation: &Observation) -> bool {
        let Some(entry) = self.table.get(id) else { return true };
        let Some(parent) = self.table.get(entry.first_parent) else { return true };
        if parent.end.is_some_and(|end| end.status.is_some()) {
            return false;
        }
        let seen = observation.parent.as_ref().map(|parent| parent.pid);
        matches!((parent.pids.local, seen), (Some(own), Some(seen)) if own != seen)
    }

    /// It lived when `grace` ended, and had ended when it was looked at. Whoever descends from it and
    /// was forked since then goes on for it: a chain whose every process forks the next and ends is
    /// never to be seen twice.
    fn look_for_successors(&mut self, id: ProcessId) {
        /// So often a line is followed. Whoever comes then lives as certainly as any, unseen.
        const PATIENCE: u8 = 8;
        let Some(end) = self.root_end else { return };
        let deadline = end.after(self.config.grace);
        let generation = self.successors.remove(&id).unwrap_or(0) + 1;
        let heirs = self.below(&HashSet::from([id]), &HashSet::new());
        for heir in heirs.iter().map(|heir| heir.id).filter(|heir| heir.start >= deadline.0) {
            if generation > PATIENCE {
                self.open(heir, FindingKind::Survivor, end);
            } else if !self.successors.contains_key(&heir) {
                self.successors.insert(heir, generation);
                self.observe(heir, WANT_SURVIVOR);
            }
        }
    }

    /// A living process was looked at, and lives.
    fn judge_living(&mut self, id: ProcessId, wanted: u8) {
        if wanted & WANT_SURVIVOR != 0
            && let Some(end) = self.root_end
        {
            self.open(id, FindingKind::Survivor, end);
        }
        if wanted & WANT_OUTLIVED != 0 {
            self.judge_outlived(id);
        }
        if wanted & WANT_STUCK != 0
            && let Some(since) =
                self.table.get(id).and_then(|entry| entry.blocked.as_ref().map(|blocked| blocked.1))
        {
            self.open(id, FindingKind::Stuck, since);
        }
    }
}
