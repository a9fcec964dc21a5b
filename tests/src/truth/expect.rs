//! What must be so, from the plan and the account: bounds of every time, and which findings there
//! are. The rules are those of the guide ("Findings"), written down once more from there.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use super::account::{Account, OUTSIDE, Slot};
use super::plan::{End, Id, Plan};
use crate::sys::Pid;

/// Bounds of a time, ns: it was not before the first and not after the second.
pub type Bounds = (u64, u64);

/// Whether something is so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sure {
    /// It is.
    Yes,
    /// It is not.
    No,
    /// The bounds lie on either side of the threshold.
    Either,
    /// It is, but the machine stalled, so that tracer may not have seen it.
    Stalled,
}

impl Sure {
    /// Whether what lasted from within `from` to within `to` reached `threshold`.
    fn lasted(from: Bounds, to: Bounds, threshold: Duration) -> Self {
        let threshold = u64::try_from(threshold.as_nanos()).expect("seconds");
        if to.0.saturating_sub(from.1) >= threshold {
            Self::Yes
        } else if to.1.saturating_sub(from.0) < threshold {
            Self::No
        } else {
            Self::Either
        }
    }
}

/// Who reaped a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reaped {
    /// Its own parent.
    Parent,
    /// Who had adopted it.
    Adopter,
    /// Nobody: it ignored SIGCHLD.
    Vanished,
    /// Nobody who waits: the kernel, when the first process of its PID namespace ended.
    Kernel,
    /// Nobody before the run was judged.
    Never,
}

/// A finding that must be there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected {
    /// `zombie`, `orphan`, `survivor`.
    pub kind: &'static str,
    /// Whom it is about.
    pub id: Id,
    /// Whether it still stands.
    pub open: bool,
    /// Whether it is sure.
    pub sure: Sure,
    /// The cause, where it is known.
    pub cause: Option<&'static str>,
    /// The adopter is to blame.
    pub adopters: bool,
}

/// Plan and account.
#[derive(Clone, Copy, Debug)]
pub struct Truth<'a> {
    /// What was to be done.
    pub plan: &'a Plan,
    /// What was done.
    pub account: Account,
}

fn time(of: &AtomicU64) -> Option<u64> {
    Some(of.load(SeqCst)).filter(|&at| at != 0)
}

impl Truth<'_> {
    /// A process's slot.
    #[must_use]
    pub fn slot(&self, id: Id) -> &Slot {
        self.account.slot(id)
    }

    /// Pid outside.
    #[must_use]
    pub fn pid(&self, id: Id) -> Pid {
        let slot = self.slot(id);
        match slot.pid.load(SeqCst) {
            // Killed before it could tell: its forker lives outside too.
            0 => slot.made_pid.load(SeqCst),
            pid => pid,
        }
    }

    /// When it was made.
    #[must_use]
    pub fn made(&self, id: Id) -> Bounds {
        let slot = self.slot(id);
        let after = time(&slot.born).or(time(&slot.made_after)).unwrap_or(0);
        (slot.made_before.load(SeqCst), after)
    }

    /// When tracer judged.
    #[must_use]
    pub fn judged(&self) -> Bounds {
        let grace = u64::try_from(self.plan.settings.grace.as_nanos()).expect("seconds");
        let survives = self.plan.nodes.iter().any(|node| node.end == End::Survives);
        let root_end = self.slot(0).end_before.load(SeqCst);
        let before = if survives { root_end + grace } else { root_end };
        (before, self.account.head().judged.load(SeqCst))
    }

    /// When it died; `None`: not before the run was judged.
    #[must_use]
    pub fn died(&self, id: Id) -> Option<Bounds> {
        let (slot, node) = (self.slot(id), &self.plan.nodes[id]);
        let (before, at_the_latest) = match node.end {
            End::Survives => return None,
            End::WithParent => (self.slot(node.parent).end_before.load(SeqCst), None),
            End::WithNamespace => {
                let init = self.slot(node.namespace);
                (init.end_before.load(SeqCst), time(&init.reap_after))
            }
            _ => (slot.end_before.load(SeqCst), None),
        };
        let vanished = node.vanishes.then(|| self.slot(node.parent).end_before.load(SeqCst));
        let seen = [time(&slot.dead_seen), time(&slot.reap_after), at_the_latest, vanished];
        let after = seen.into_iter().flatten().min().unwrap_or(self.judged().1);
        Some((before, after))
    }

    /// Whether it dies at the root's end so late that the run may have been judged before.
    #[must_use]
    pub fn may_outlive_judgement(&self, id: Id) -> bool {
        self.survivor(id).is_some_and(|survivor| survivor.sure == Sure::Either)
    }

    /// Its status as `wait(2)` has it, without the core's bit.
    #[must_use]
    pub fn status(&self, id: Id) -> Option<i32> {
        let (slot, node) = (self.slot(id), &self.plan.nodes[id]);
        if slot.is_reaped() {
            return Some(slot.status.load(SeqCst) & !0x80);
        }
        match node.end {
            End::Survives => None,
            End::Code(code) => Some(i32::from(code) << 8),
            End::Signal(signal) | End::Killed(_, signal) => Some(signal),
            End::WithParent | End::WithNamespace => Some(libc::SIGKILL),
            End::LastThread => unreachable!("a leaderless process is reaped by its parent"),
        }
    }

    /// Who reaped it.
    #[must_use]
    pub fn reaped(&self, id: Id) -> Reaped {
        let node = &self.plan.nodes[id];
        let parent = u32::try_from(node.parent + 1).expect("plans are small");
        match self.slot(id).reaper.load(SeqCst) {
            _ if id == 0 => Reaped::Parent,
            0 if node.vanishes => Reaped::Vanished,
            0 if node.namespace != 0 => Reaped::Kernel,
            0 => Reaped::Never,
            reaper if reaper == parent => Reaped::Parent,
            _ => Reaped::Adopter,
        }
    }

    /// Whether its parent died while it lived and somebody adopted it, the root living.
    #[must_use]
    pub fn is_orphan(&self, id: Id) -> bool {
        self.plan.nodes[id].end == End::WithParent || time(&self.slot(id).adopted_seen).is_some()
    }

    /// Pids of who adopts it: the first, and those who do when the one before has died.
    #[must_use]
    pub fn adopters(&self, id: Id) -> Vec<Pid> {
        let next = |&of: &Id| self.plan.adopter(of);
        let inside = std::iter::successors(next(&self.plan.nodes[id].parent), next);
        let outside = self.account.head().outside.load(SeqCst);
        inside.map(|adopter| self.pid(adopter)).chain([outside]).collect()
    }

    /// Every finding that there may be about this process.
    #[must_use]
    pub fn findings(&self, id: Id) -> Vec<Expected> {
        let found = [self.zombie(id), self.orphan(id), self.survivor(id)];
        found.into_iter().flatten().filter(|expected| expected.sure != Sure::No).collect()
    }

    fn orphan(&self, id: Id) -> Option<Expected> {
        self.is_orphan(id).then(|| Expected {
            kind: "orphan",
            id,
            open: self.plan.nodes[id].end == End::Survives,
            sure: Sure::Yes,
            cause: None,
            adopters: false,
        })
    }

    fn survivor(&self, id: Id) -> Option<Expected> {
        if id == 0 {
            return None;
        }
        let sure = match self.died(id) {
            None => Sure::Yes,
            Some(died) => {
                let root = self.died(0).expect("the root ends");
                Sure::lasted(root, died, self.plan.settings.grace)
            }
        };
        Some(Expected { kind: "survivor", id, open: true, sure, cause: None, adopters: false })
    }

    /// As its own parent's zombie, else as an adopter's.
    fn zombie(&self, id: Id) -> Option<Expected> {
        let reaped = self.reaped(id);
        if id == 0 || reaped == Reaped::Vanished {
            return None;
        }
        let died = self.died(id)?;
        if self.is_orphan(id) {
            return Some(self.adopters_zombie(id, died));
        }
        let own = self.parents_zombie(id, died);
        if own.sure == Sure::No && reaped != Reaped::Parent {
            return Some(self.adopters_zombie(id, self.left(id)));
        }
        let until = if reaped == Reaped::Parent { self.reap(id) } else { self.left(id) };
        Some(self.unless_stalled(own, died, until))
    }

    /// A zombie is reported when tracer has seen it stand. Where the machine stalled between the
    /// time from which it can be seen and the reap, tracer may have got to that too late.
    fn unless_stalled(&self, expected: Expected, since: Bounds, until: Bounds) -> Expected {
        let seen = self.plan.settings.zombie_after.is_zero() && !expected.adopters;
        if expected.sure != Sure::Yes || seen {
            return expected;
        }
        let stalled = self.account.head().has_stalled(since.0, until.1);
        Expected { sure: if stalled { Sure::Stalled } else { Sure::Yes }, ..expected }
    }

    /// When its parent died.
    fn left(&self, id: Id) -> Bounds {
        self.died(self.plan.nodes[id].parent).unwrap_or(self.judged())
    }

    fn parents_zombie(&self, id: Id, died: Bounds) -> Expected {
        let (node, settings) = (&self.plan.nodes[id], &self.plan.settings);
        let by_parent = self.reaped(id) == Reaped::Parent;
        let until = if by_parent { self.reap(id) } else { self.left(id) };
        let sure = if !settings.zombie_after.is_zero() {
            Sure::lasted(died, until, settings.zombie_after)
        } else if by_parent || node.end == End::WithNamespace {
            // What dies at its parent's end was owed nothing by it.
            Sure::No
        } else {
            Sure::lasted(died, until, Duration::ZERO)
        };
        let cause = node.cause.filter(|_| !settings.zombie_after.is_zero());
        Expected { kind: "zombie", id, open: !by_parent, sure, cause, adopters: false }
    }

    /// A zombie that is an adopter's since `left`.
    fn adopters_zombie(&self, id: Id, left: Bounds) -> Expected {
        let reaped = self.reaped(id);
        let until = match reaped {
            Reaped::Kernel => self.died(self.plan.nodes[id].namespace).unwrap_or(self.judged()),
            Reaped::Never => self.judged(),
            _ => self.reap(id),
        };
        let reaper = match self.slot(id).reaper.load(SeqCst) {
            OUTSIDE => None,
            reaper => usize::try_from(reaper).expect("a number of a process").checked_sub(1),
        };
        let by_first =
            reaped == Reaped::Adopter && reaper == self.plan.adopter(self.plan.nodes[id].parent);
        let sure = Sure::lasted(left, until, self.plan.settings.init_zombie_after);
        let cause = Some("init_does_not_reap");
        let expected =
            Expected { kind: "zombie", id, open: !by_first, sure, cause, adopters: true };
        self.unless_stalled(expected, left, until)
    }

    /// When it was reaped by somebody who waited.
    #[must_use]
    pub fn reap(&self, id: Id) -> Bounds {
        let slot = self.slot(id);
        (slot.reap_before.load(SeqCst), slot.reap_after.load(SeqCst))
    }

    /// Bounds of its last exec; `None`: it never executed a program.
    #[must_use]
    pub fn executed(&self, id: Id) -> Option<Bounds> {
        let slot = self.slot(id);
        let before = time(&slot.exec_before)?;
        Some((before, time(&slot.exec_after).unwrap_or(u64::MAX)))
    }
}
