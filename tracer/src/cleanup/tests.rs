//! The cleaner against a kernel in miniature: who dies of what, who is never touched, what is told.

use std::{
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
    time::Duration,
};

use proptest::prelude::*;
use tracer_common::WaitCounts;

use super::*;
use crate::lineage::{
    ActionResult, Announcement, CallStart, Config, Event, FindingKind, Lineage, Lot, Nanos,
    Observation, Outcome, Output, Pids, Policy, Process, ProcessId, Receipt, RecoveredProcess,
    Rules, Said, SignalTarget,
};

const ROOT: u32 = 100;
const TRACER: u32 = 50;
/// In the place of a signal: SIGKILL to a process group.
const GROUP: u8 = 109;

/// What a process does when it is sent SIGTERM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    Dies,
    Ignores,
    /// Not even SIGKILL ends it.
    Stuck,
}

#[derive(Clone, Debug)]
struct Simulated {
    forker: u32,
    manner: Manner,
    /// Forks a child whenever one of its own ends.
    respawns: bool,
    lives: bool,
    pgid: u32,
    sid: u32,
}

/// Processes, and the core that is told of them.
struct Kernel {
    lineage: Lineage,
    processes: BTreeMap<u32, Simulated>,
    next: u32,
    now: u64,
    signals: Vec<(u32, u8)>,
    lots: BTreeMap<u32, Lot>,
    /// The same, in the order in which it was told.
    decided: Vec<(u32, Lot)>,
    /// Dead, and not reaped.
    zombies: BTreeSet<u32>,
    /// Signals to these are not permitted.
    foreign: BTreeSet<u32>,
    /// It does not signal process groups by pidfd.
    is_old: bool,
    /// Each is PID 1 of a namespace.
    inits: BTreeSet<u32>,
    /// These wait for nobody.
    never_reaps: BTreeSet<u32>,
    /// Who is in the run's own cgroup, if it has one; so is what they fork.
    cgroup: Option<BTreeSet<u32>>,
    /// How often that was killed.
    cgroup_kills: usize,
    /// What came of requests.
    fulfilled: Vec<(u64, Vec<Receipt>)>,
}

impl Kernel {
    fn new(rules: &Rc<Rules>) -> Self {
        let config = Config { grace: Duration::from_millis(100), ..Config::default() };
        let mut kernel = Self {
            lineage: Lineage::with_rules(config, Rc::clone(rules)),
            processes: BTreeMap::new(),
            next: ROOT,
            now: 1_000_000_000,
            signals: Vec::new(),
            lots: BTreeMap::new(),
            decided: Vec::new(),
            zombies: BTreeSet::new(),
            foreign: BTreeSet::new(),
            is_old: false,
            inits: BTreeSet::new(),
            never_reaps: BTreeSet::new(),
            cgroup: None,
            cgroup_kills: 0,
            fulfilled: Vec::new(),
        };
        kernel.fork(TRACER, Manner::Dies);
        kernel
    }

    /// Forks the first process of a PID namespace.
    fn fork_init(&mut self, forker: u32, manner: Manner) -> u32 {
        self.inits.insert(self.next);
        self.fork(forker, manner)
    }

    /// The same, with the root in a cgroup of its own.
    fn with_cgroup(rules: &Rc<Rules>) -> Self {
        Self { cgroup: Some([ROOT].into()), ..Self::new(rules) }
    }

    /// Somebody whom nobody here knows is in the cgroup.
    fn joins_from_outside(&mut self) -> u32 {
        const STRANGER: u32 = 7;
        let (forker, pgid, sid) = (1, 1, 1);
        let stranger =
            Simulated { forker, manner: Manner::Dies, respawns: false, lives: true, pgid, sid };
        self.processes.insert(STRANGER, stranger);
        self.cgroup.as_mut().expect("there is one").insert(STRANGER);
        STRANGER
    }

    /// Somebody moves it to another cgroup.
    fn leaves_cgroup(&mut self, pid: u32) {
        self.cgroup.as_mut().expect("there is one").remove(&pid);
    }

    fn kill_cgroup(&mut self, claim: &Claim, cleaner: &mut Cleaner) {
        let all = self.cgroup.clone().expect("asked only where there is one");
        let lives = |pid: &u32| self.processes.get(pid).is_some_and(|process| process.lives);
        let pids: Vec<_> = all.into_iter().filter(lives).collect();
        let strangers = |(pid, _): &(&u32, &Simulated)| **pid >= ROOT;
        let known =
            self.processes.iter().filter(strangers).map(|(&pid, process)| RecoveredProcess {
                id: Self::id(pid),
                forker: Self::id(process.forker),
                parent: Self::id(process.forker),
                pids: Pids { host: pid, local: Some(pid), namespace: pid, level: 0 },
                cgroup: None,
                root: pid == ROOT,
                exec_at: None,
                exit: (!process.lives).then_some((Nanos(0), 0)),
                reaped: false,
                unreaped: false,
                oom: false,
                signal: None,
                waits: None,
            });
        let known: Vec<_> = known.collect();
        let keeps = |id| cleaner.keeps(id, self.at(), &self.lineage);
        let who = claim.covers(&pids, &known, keeps).unwrap_or_default();
        if !who.is_empty() {
            self.cgroup_kills += 1;
        }
        for one in &who {
            if self.processes.get(&one.id.pid).is_some_and(|one| one.manner != Manner::Stuck) {
                self.dies(one.id.pid, 9);
            }
        }
        let who: Vec<_> = who.into_iter().map(|one| one.id).collect();
        cleaner.cgroup_killed(&who, self.at());
    }

    fn id(pid: u32) -> ProcessId {
        ProcessId { pid, start: 1_000_000_000 + u64::from(pid) }
    }

    fn at(&self) -> Nanos {
        Nanos(self.now)
    }

    fn fork(&mut self, forker: u32, manner: Manner) -> u32 {
        let pid = self.next;
        self.next += 1;
        let doomed = self.lots.get(&forker) == Some(&Lot::Doomed);
        let inherited = self.processes.get(&forker).map(|forker| (forker.pgid, forker.sid));
        let (pgid, sid) = inherited.unwrap_or((TRACER, TRACER));
        let new = Simulated { forker, manner, respawns: false, lives: true, pgid, sid };
        self.processes.insert(pid, new);
        if let Some(cgroup) = self.cgroup.as_mut().filter(|cgroup| cgroup.contains(&forker)) {
            cgroup.insert(pid);
        }
        self.lineage.handle(Event::Fork {
            at: self.at(),
            child: Self::id(pid),
            forker: if forker == TRACER {
                ProcessId { pid: TRACER, start: 2 }
            } else {
                Self::id(forker)
            },
            parent: if forker == TRACER {
                ProcessId { pid: TRACER, start: 2 }
            } else {
                Self::id(forker)
            },
            pids: if self.inits.contains(&pid) {
                Pids { host: pid, local: Some(pid), namespace: 1, level: 1 }
            } else {
                Pids { host: pid, local: Some(pid), namespace: pid, level: 0 }
            },
            cgroup: None,
            thread: None,
            root: pid == ROOT,
        });
        if doomed {
            // As the kernel side does.
            self.lots.insert(pid, Lot::Doomed);
            self.dies(pid, 9);
        }
        pid
    }

    fn executes(&mut self, pid: u32, name: &str) {
        self.lineage.handle(Event::Exec {
            at: self.at(),
            process: Self::id(pid),
            exe: name.as_bytes(),
            args: name.as_bytes(),
            truncated: false,
            markers: b"",
            markers_truncated: false,
            uid: None,
        });
    }

    /// It says something when it has just been forked.
    fn announces(&mut self, sender: u32, said: Said) {
        let announcement = Announcement {
            sender,
            sent_at: Nanos(Self::id(sender).start),
            at: None,
            agent: None,
            pid: None,
            session: None,
            said,
        };
        self.lineage.handle(Event::Announced(Box::new(announcement)));
    }

    /// It dies, and its parent reaps it at once, if it ever does.
    fn dies(&mut self, pid: u32, status: u32) {
        let never = &self.never_reaps.clone();
        if let Some(parent) = self.exits(pid, status).filter(|parent| !never.contains(&parent.pid))
        {
            self.reaped(pid, parent);
        }
    }

    /// It dies. Gives its parent.
    fn exits(&mut self, pid: u32, status: u32) -> Option<ProcessId> {
        let process = self.processes.get_mut(&pid).filter(|process| process.lives)?;
        process.lives = false;
        let forker = process.forker;
        self.zombies.insert(pid);
        let parent = match self.processes.get(&forker) {
            Some(parent) if parent.lives => Self::id(forker),
            _ => ProcessId { pid: 1, start: 1 },
        };
        let left: Vec<_> = self
            .zombies
            .iter()
            .copied()
            .filter(|zombie| {
                self.processes.get(zombie).is_some_and(|process| process.forker == pid)
            })
            .collect();
        for &zombie in &left {
            self.lineage.handle(Event::Unreaped {
                at: self.at(),
                process: Self::id(zombie),
                parent: Self::id(pid),
                waits: Some(WaitCounts::default()),
                not_yet: false,
            });
        }
        self.lineage.handle(Event::Exit {
            at: self.at(),
            process: Self::id(pid),
            status,
            parent,
            children_uncounted: false,
        });
        for zombie in left {
            self.reaped(zombie, ProcessId { pid: 1, start: 1 });
        }
        Some(parent)
    }

    fn reaped(&mut self, pid: u32, parent: ProcessId) {
        let (at, process) = (self.at(), Self::id(pid));
        self.lineage.handle(Event::Reaped { at, process, by: Some(parent), gone: true });
        self.zombies.remove(&pid);
        let respawns = |process: &Simulated| process.lives && process.respawns;
        if self.processes.get(&parent.pid).is_some_and(respawns) {
            self.fork(parent.pid, Manner::Dies);
        }
    }

    /// So many milliseconds go by.
    fn passes(&mut self, cleaner: &mut Cleaner, milliseconds: u64) {
        for _ in 0..milliseconds / 10 {
            self.now += 10_000_000;
            self.answer();
            self.lineage.handle_timeout(self.at());
            self.answer();
            cleaner.step(self.at(), &self.lineage);
            while let Some(act) = cleaner.poll_act() {
                self.act(act, cleaner);
            }
        }
    }

    fn signal(&mut self, pid: u32, signal: u8) -> Sent {
        self.signals.push((pid, signal));
        let Some(process) = self.processes.get(&pid).filter(|process| process.lives) else {
            return Sent::Gone;
        };
        if self.foreign.contains(&pid) {
            return Sent::NotPermitted("not root".to_owned());
        }
        match (process.manner, signal) {
            (Manner::Stuck, _) | (Manner::Ignores, 15) => {}
            (_, signal) => self.dies(pid, signal.into()),
        }
        Sent::Done { to: pid }
    }

    fn place(&self, (process, pids): (ProcessId, Pids)) -> Place {
        let seen = self.processes.get(&process.pid);
        let (pgid, sid) = seen.map(|seen| (seen.pgid, seen.sid)).unzip();
        Place { process, pids, pgid, sid }
    }

    fn kill_group(&mut self, leader: u32) -> Sent {
        if self.is_old {
            return Sent::Refused("an old kernel".to_owned());
        }
        self.signals.push((leader, GROUP));
        let members = self.processes.iter().filter(|(_, one)| one.lives && one.pgid == leader);
        let members: Vec<_> = members.map(|(pid, one)| (*pid, one.manner)).collect();
        for (pid, manner) in members {
            if manner != Manner::Stuck {
                self.dies(pid, 9);
            }
        }
        Sent::Done { to: leader }
    }

    /// It begins a session, and a process group with it.
    fn setsid(&mut self, pid: u32) {
        let process = self.processes.get_mut(&pid).expect("it was forked");
        (process.pgid, process.sid) = (pid, pid);
    }

    fn answer(&mut self) {
        while let Some(output) = self.lineage.poll_output() {
            match output {
                Output::Observe { process, .. } => {
                    let lives =
                        self.processes.get(&process.pid).is_some_and(|process| process.lives);
                    let is_zombie = self.zombies.contains(&process.pid);
                    let observation = Box::new(Observation {
                        exists: lives || is_zombie,
                        state: if is_zombie { Some('Z') } else { lives.then_some('S') },
                        resources: lives.then(Default::default),
                        ..Observation::default()
                    });
                    self.lineage.handle(Event::Observed { at: self.at(), process, observation });
                }
                Output::Sample { .. } => {
                    self.lineage.handle(Event::Sampled { at: self.at(), blocked: Vec::new() });
                }
                Output::Life(_) => {}
            }
        }
    }

    /// Lets time go on until nothing is left to be done.
    fn clean_up(&mut self, settings: Settings) -> Outcome {
        let allow = Rc::clone(&settings.allow);
        let mut cleaner = Cleaner::new(settings);
        if self.cgroup.is_some() {
            cleaner.owns_cgroup();
        }
        for _ in 0..10_000 {
            self.passes(&mut cleaner, 10);
            self.answer();
            if self.lineage.is_settled() && cleaner.is_idle(&self.lineage) {
                let policy = Policy {
                    fail_on: &[FindingKind::Survivor],
                    strict: false,
                    allow: allow.as_ref(),
                };
                return self.lineage.outcome(self.at(), &[], 0, policy);
            }
        }
        panic!("it never ends: {cleaner:?}");
    }

    fn act(&mut self, act: Act, cleaner: &mut Cleaner) {
        let news = match act {
            Act::Decide(id, lot) => {
                self.lots.insert(id.pid, lot);
                self.decided.push((id.pid, lot));
                return;
            }
            Act::Signal { process, signal, about, .. } => {
                let at = self.at();
                let sent = self.signal(process.pid, signal);
                cleaner.sent(process, about, signal, at, &sent);
                return;
            }
            Act::Place(members) => {
                let places: Vec<_> = members.iter().map(|who| self.place(*who)).collect();
                return cleaner.placed(&places, self.at(), &self.lineage);
            }
            Act::SignalGroup(group) => {
                let sent = self.kill_group(group.leader.pid);
                return cleaner.sent_to_group(&group, self.at(), &sent);
            }
            Act::KillCgroup(claim) => return self.kill_cgroup(&claim, cleaner),
            Act::HoldPorts { .. } | Act::CheckPorts(_) => return,
            Act::Requested(process) => crate::lineage::CleanupNews::Requested(process),
            Act::Fulfilled { request, receipts } => {
                self.fulfilled.push((request, receipts));
                return;
            }
            Act::CatchUp => return cleaner.step(self.at(), &self.lineage),
            Act::Doom(process) => crate::lineage::CleanupNews::Doomed(process),
            Act::Unkillable { process, since } => {
                crate::lineage::CleanupNews::Unkillable { process, since }
            }
            Act::Receipt(receipt) => crate::lineage::CleanupNews::Receipt(*receipt),
        };
        self.lineage.handle(Event::CleanedUp(Box::new(news)));
    }

    fn root_ends(&mut self) {
        self.dies(ROOT, 0);
        self.now += 200_000_000;
    }

    fn alive(&self) -> Vec<u32> {
        let alive = self.processes.iter().filter(|(_, process)| process.lives);
        alive.map(|(pid, _)| *pid).collect()
    }
}

fn rules(text: &str) -> Rc<Rules> {
    Rc::new(Rules::of(vec![text.to_owned()]).expect("rules"))
}

fn nobody(_: &Process) -> Option<String> {
    None
}

fn settings(rules: &Rc<Rules>) -> Settings {
    Settings {
        rules: Rc::clone(rules),
        allow: Rc::new(nobody),
        leaks: true,
        agents_only: false,
        decided_by: "--on-leak kill",
        dry_run: false,
        ended: Rc::default(),
    }
}

/// Whom every signal was sent to that a process was ended with.
fn signals_of(outcome: &Outcome, pid: u32) -> Vec<(u8, SignalTarget)> {
    let finding = outcome.findings.iter().find(|finding| finding.process.id.pid == pid);
    let action = finding.expect("a finding").action.as_ref().expect("an action");
    action.receipt.signals.iter().map(|given| (given.signal, given.to)).collect()
}

fn result_of(outcome: &Outcome, pid: u32) -> ActionResult {
    let finding = outcome.findings.iter().find(|finding| finding.process.id.pid == pid);
    finding.expect("a finding").action.as_ref().expect("an action").receipt.result
}

#[test]
fn survivors_are_asked_parents_first_and_nobody_twice() {
    let rules = rules("");
    let mut kernel = Kernel::new(&rules);
    let parent = kernel.fork(ROOT, Manner::Dies);
    let child = kernel.fork(parent, Manner::Dies);
    kernel.root_ends();
    let outcome = kernel.clean_up(settings(&rules));
    assert_eq!(kernel.signals, [(parent, 15), (child, 15)]);
    assert_eq!(result_of(&outcome, parent), ActionResult::Ended);
    assert!(outcome.findings.iter().all(|finding| finding.counted));
}

#[test]
fn who_ignores_sigterm_is_killed_in_time_and_not_before() {
    let rules = rules("");
    let mut kernel = Kernel::new(&rules);
    let stubborn = kernel.fork(ROOT, Manner::Ignores);
    kernel.root_ends();
    let before = kernel.now;
    let outcome = kernel.clean_up(settings(&rules));
    assert_eq!(kernel.signals, [(stubborn, 15), (stubborn, 9)]);
    assert!(kernel.now - before >= 5_000_000_000);
    assert_eq!(result_of(&outcome, stubborn), ActionResult::Ended);
}

#[test]
fn term_alone_asks_and_leaves_it_at_that() {
    let rules = rules("[cleanup]\nsurvivor = 'term'");
    let mut kernel = Kernel::new(&rules);
    let stubborn = kernel.fork(ROOT, Manner::Ignores);
    kernel.root_ends();
    let outcome = kernel.clean_up(settings(&rules));
    assert_eq!(kernel.signals, [(stubborn, 15)]);
    assert_eq!(result_of(&outcome, stubborn), ActionResult::StillThere);
}

#[test]
fn what_sigkill_does_not_end_is_unkillable_and_stuck() {
    let rules = rules("");
    let mut kernel = Kernel::new(&rules);
    let stuck = kernel.fork(ROOT, Manner::Stuck);
    kernel.root_ends();
    let outcome = kernel.clean_up(settings(&rules));
    assert_eq!(result_of(&outcome, stuck), ActionResult::Unkillable);
    let found = outcome.findings.iter().find(|finding| finding.kind == FindingKind::Stuck);
    let cause = &found.expect("it is stuck").cause;
    assert!(cause.text.starts_with("SIGKILL has not ended it"), "{cause:?}");
}

/// A leader of its own session that ignores SIGTERM, with a child.
fn session(kernel: &mut Kernel) -> (u32, u32) {
    let leader = kernel.fork(ROOT, Manner::Ignores);
    kernel.setsid(leader);
    (leader, kernel.fork(leader, Manner::Ignores))
}

#[test]
fn process_group_that_nobody_else_can_be_in_is_killed_as_one() {
    let rules = rules("[cleanup]\nterm_timeout = '0s'");
    let mut kernel = Kernel::new(&rules);
    let (leader, child) = session(&mut kernel);
    let alone = kernel.fork(ROOT, Manner::Ignores);
    kernel.root_ends();
    let outcome = kernel.clean_up(settings(&rules));
    // Each gets its own as well, should it have left the group just before.
    assert_eq!(kernel.signals, [(leader, GROUP), (leader, 9), (child, 9), (alone, 9)]);
    assert_eq!(kernel.alive(), [0_u32; 0]);
    assert_eq!(result_of(&outcome, child), ActionResult::Ended);
}

#[test]
fn process_group_is_not_killed_as_one_where_somebody_in_its_session_is_kept() {
    let rules = rules("[cleanup]\nterm_timeout = '0s'\n[[keep]]\nexecutables = ['kept']");
    let mut kernel = Kernel::new(&rules);
    let (leader, child) = session(&mut kernel);
    let kept = kernel.fork(leader, Manner::Dies);
    kernel.executes(kept, "kept");
    kernel.root_ends();
    let _ = kernel.clean_up(settings(&rules));
    assert_eq!(kernel.signals, [(leader, 9), (child, 9)]);
    assert_eq!(kernel.alive(), [kept]);
}

#[test]
fn process_group_in_a_session_from_outside_is_not_killed_as_one() {
    let rules = rules("[cleanup]\nterm_timeout = '0s'");
    let mut kernel = Kernel::new(&rules);
    let leader = kernel.fork(ROOT, Manner::Ignores);
    // A group of its own, as a shell makes one, in the session of whoever started tracer.
    kernel.processes.get_mut(&leader).expect("forked").pgid = leader;
    let child = kernel.fork(leader, Manner::Ignores);
    kernel.root_ends();
    let _ = kernel.clean_up(settings(&rules));
    assert_eq!(kernel.signals, [(leader, 9), (child, 9)]);
}

/// Who came into that namespace from outside would die with it, which its own signal looks at.
#[test]
fn process_group_with_the_init_of_a_namespace_is_not_killed_as_one() {
    let rules = rules("[cleanup]\nterm_timeout = '0s'");
    let mut kernel = Kernel::new(&rules);
    let (leader, _) = session(&mut kernel);
    let init = kernel.fork_init(leader, Manner::Ignores);
    kernel.root_ends();
    let _ = kernel.clean_up(settings(&rules));
    assert!(kernel.signals.contains(&(init, 9)), "{:?}", kernel.signals);
    assert!(kernel.signals.iter().all(|(_, signal)| *signal != GROUP), "{:?}", kernel.signals);
}

/// What it forks is no help in ending, and the run would wait for it for ever.
#[test]
fn what_is_forked_by_one_that_could_not_be_asked_is_asked() {
    let rules = rules("");
    let mut kernel = Kernel::new(&rules);
    let foreign = kernel.fork(ROOT, Manner::Dies);
    kernel.foreign.insert(foreign);
    kernel.processes.get_mut(&foreign).expect("forked").respawns = true;
    let worker = kernel.fork(foreign, Manner::Dies);
    kernel.root_ends();
    let mut cleaner = Cleaner::new(settings(&rules));
    kernel.passes(&mut cleaner, 200);
    // It starts its worker anew whenever that is ended; in the end it starts no more.
    kernel.processes.get_mut(&foreign).expect("forked").respawns = false;
    kernel.passes(&mut cleaner, 10_000);
    assert!(cleaner.is_idle(&kernel.lineage), "{cleaner:?}");
    assert!(kernel.signals.contains(&(worker, 15)), "{:?}", kernel.signals);
    assert_eq!(kernel.alive(), [foreign]);
}

/// The kernel side goes by the nearest ancestor that it was told of.
#[test]
fn what_has_ended_below_a_kept_process_is_never_doomed() {
    let rules = rules("[[keep]]\nexecutables = ['kept']\n[cleanup]\nterm_timeout = '1s'");
    let mut kernel = Kernel::new(&rules);
    let kept = kernel.fork(ROOT, Manner::Dies);
    kernel.executes(kept, "kept");
    let wrapper = kernel.fork(kept, Manner::Dies);
    let server = kernel.fork(wrapper, Manner::Dies);
    let stubborn = kernel.fork(ROOT, Manner::Ignores);
    kernel.root_ends();
    let mut cleaner = Cleaner::new(settings(&rules));
    kernel.passes(&mut cleaner, 500);
    kernel.dies(wrapper, 0);
    kernel.passes(&mut cleaner, 10_000);
    assert_ne!(kernel.lots.get(&wrapper), Some(&Lot::Doomed));
    assert_eq!(kernel.lots.get(&stubborn), Some(&Lot::Doomed));
    assert_eq!(kernel.alive(), [kept, server]);
}

#[test]
fn members_are_killed_one_by_one_where_their_group_cannot_be() {
    let rules = rules("[cleanup]\nterm_timeout = '0s'");
    let mut kernel = Kernel::new(&rules);
    kernel.is_old = true;
    let (leader, child) = session(&mut kernel);
    kernel.root_ends();
    let outcome = kernel.clean_up(settings(&rules));
    assert_eq!(kernel.signals, [(leader, 9), (child, 9)]);
    assert_eq!(result_of(&outcome, child), ActionResult::Ended);
}

#[test]
fn who_does_not_die_with_its_group_is_unkillable() {
    let rules = rules("[cleanup]\nterm_timeout = '0s'");
    let mut kernel = Kernel::new(&rules);
    let (leader, child) = session(&mut kernel);
    kernel.processes.get_mut(&child).expect("forked").manner = Manner::Stuck;
    kernel.root_ends();
    let outcome = kernel.clean_up(settings(&rules));
    assert_eq!(kernel.signals, [(leader, GROUP), (leader, 9), (child, 9)]);
    assert_eq!(result_of(&outcome, child), ActionResult::Unkillable);
}

#[test]
fn what_may_not_be_signalled_is_told_and_not_tried_again() {
    let rules = rules("");
    let mut kernel = Kernel::new(&rules);
    let foreign = kernel.fork(ROOT, Manner::Dies);
    kernel.foreign.insert(foreign);
    kernel.root_ends();
    let outcome = kernel.clean_up(settings(&rules));
    assert_eq!(kernel.signals, [(foreign, 15)]);
    assert_eq!(result_of(&outcome, foreign), ActionResult::NotPermitted);
}

#[test]
fn pid_1_is_never_touched() {
    let rules = rules("");
    let mut kernel = Kernel::new(&rules);
    kernel.next = 1;
    let init = kernel.fork(ROOT, Manner::Dies);
    // It was forked after the root, whatever its number says.
    kernel.next = ROOT + 1;
    let other = kernel.fork(ROOT, Manner::Dies);
    assert_eq!(init, 1);
    kernel.root_ends();
    let _ = kernel.clean_up(settings(&rules));
    assert!(kernel.signals.iter().all(|(pid, _)| *pid == other), "{:?}", kernel.signals);
}

#[test]
fn kept_processes_keep_all_that_they_fork() {
    let rules = rules("[[keep]]\nexecutables = ['devserver']\nreason = 'mine'");
    let mut kernel = Kernel::new(&rules);
    let server = kernel.fork(ROOT, Manner::Dies);
    kernel.executes(server, "devserver");
    let worker = kernel.fork(server, Manner::Dies);
    kernel.executes(worker, "esbuild");
    let other = kernel.fork(ROOT, Manner::Dies);
    kernel.root_ends();
    let outcome = kernel.clean_up(settings(&rules));
    assert_eq!(kernel.alive(), [server, worker]);
    assert_eq!(kernel.signals, [(other, 15)]);
    assert_eq!(outcome.kept.first().map(|kept| &*kept.rule), Some("rule: mine"));
}

/// The kernel side would end them at their next fork.
#[test]
fn who_is_left_alone_is_never_doomed() {
    for timeout in ["0s", "1s"] {
        let text = format!("[cleanup]\nmax_kills_per_minute = 2\nterm_timeout = '{timeout}'");
        let rules = rules(&text);
        let mut kernel = Kernel::new(&rules);
        let top = kernel.fork(ROOT, Manner::Ignores);
        let foreign = kernel.fork(top, Manner::Ignores);
        let beyond_the_limit = kernel.fork(top, Manner::Ignores);
        kernel.foreign.insert(foreign);
        kernel.root_ends();
        let outcome = kernel.clean_up(settings(&rules));
        assert_eq!(result_of(&outcome, foreign), ActionResult::NotPermitted);
        assert_eq!(result_of(&outcome, beyond_the_limit), ActionResult::Limited);
        for (pid, lot) in [(top, Lot::Doomed), (foreign, Lot::Kept), (beyond_the_limit, Lot::Kept)]
        {
            assert_eq!(kernel.lots.get(&pid), Some(&lot), "{timeout}: {pid}");
        }
        let place = |pid: u32| kernel.decided.iter().position(|&(told, _)| told == pid);
        assert!(place(foreign) < place(top), "{timeout}: {:?}", kernel.decided);
        assert!(place(beyond_the_limit) < place(top), "{timeout}: {:?}", kernel.decided);
    }
}

#[test]
fn limit_of_a_minute_stops_it_and_is_told() {
    let rules = rules("[cleanup]\nmax_kills_per_minute = 2");
    let mut kernel = Kernel::new(&rules);
    let all: Vec<_> = (0..4).map(|_| kernel.fork(ROOT, Manner::Dies)).collect();
    kernel.root_ends();
    let outcome = kernel.clean_up(settings(&rules));
    assert_eq!(kernel.alive(), all[2..]);
    assert_eq!(result_of(&outcome, all[3]), ActionResult::Limited);
}

#[test]
fn dry_run_decides_and_touches_nothing() {
    let rules = rules("");
    let mut kernel = Kernel::new(&rules);
    let left = kernel.fork(ROOT, Manner::Dies);
    kernel.root_ends();
    let outcome = kernel.clean_up(Settings { dry_run: true, ..settings(&rules) });
    assert_eq!((kernel.alive(), kernel.signals.len()), (vec![left], 0));
    assert!(kernel.lots.is_empty());
    assert_eq!(result_of(&outcome, left), ActionResult::WouldAct);
}

#[test]
fn what_is_no_agents_is_left_where_only_theirs_is_dealt_with() {
    let rules = rules("");
    let mut kernel = Kernel::new(&rules);
    let left = kernel.fork(ROOT, Manner::Dies);
    kernel.root_ends();
    let outcome = kernel.clean_up(Settings { agents_only: true, ..settings(&rules) });
    assert_eq!((kernel.alive(), kernel.signals.len()), (vec![left], 0));
    assert_eq!(outcome.cleanup, None);
}

#[test]
fn nothing_is_done_about_what_is_only_reported() {
    let rules = rules("[cleanup]\nsurvivor = 'report'");
    let mut kernel = Kernel::new(&rules);
    let left = kernel.fork(ROOT, Manner::Dies);
    kernel.root_ends();
    let outcome = kernel.clean_up(settings(&rules));
    assert_eq!((kernel.alive(), kernel.signals.len()), (vec![left], 0));
    assert_eq!(outcome.cleanup, None);
}

#[test]
fn what_was_put_right_before_its_delay_is_over_is_left_alone() {
    let rules = rules("[cleanup]\nzombie = 'nudge'\ndelay = '2s'");
    let mut kernel = Kernel::new(&rules);
    let parent = kernel.fork(ROOT, Manner::Dies);
    let child = kernel.fork(parent, Manner::Dies);
    kernel.exits(child, 0);
    let mut cleaner = Cleaner::new(settings(&rules));
    kernel.passes(&mut cleaner, 1_500);
    assert!(kernel.lineage.stands(Kernel::id(child), FindingKind::Zombie));
    assert!(!cleaner.is_idle(&kernel.lineage));
    kernel.reaped(child, Kernel::id(parent));
    kernel.passes(&mut cleaner, 4_000);
    assert!(cleaner.is_idle(&kernel.lineage) && kernel.signals.is_empty());
}

#[test]
fn what_waits_for_its_delay_is_judged_anew_by_new_settings() {
    let delayed = rules("[cleanup]\nsurvivor = 'kill'\ndelay = '2s'");
    let reported = rules("[cleanup]\nsurvivor = 'report'");
    let report_all = |rules| Settings { leaks: false, ..settings(rules) };
    for new in [settings(&reported), report_all(&delayed), report_all(&reported)] {
        let mut kernel = Kernel::new(&delayed);
        let left = kernel.fork(ROOT, Manner::Dies);
        kernel.root_ends();
        let mut cleaner = Cleaner::new(settings(&delayed));
        kernel.passes(&mut cleaner, 1_000);
        assert!(!cleaner.is_idle(&kernel.lineage));
        cleaner.reconfigure(new);
        kernel.passes(&mut cleaner, 5_000);
        assert_eq!((kernel.alive(), kernel.signals.len()), (vec![left], 0));
        assert!(cleaner.is_idle(&kernel.lineage));
        // It stands, and is dealt with once leaks are ended again.
        cleaner.reconfigure(report_all(&delayed));
        cleaner.reconfigure(settings(&rules("")));
        kernel.passes(&mut cleaner, 1_000);
        assert_eq!(kernel.signals, [(left, 15)]);
    }
}

#[test]
fn delay_does_not_begin_anew_with_new_settings() {
    let rules = rules("[cleanup]\nsurvivor = 'kill'\nzombie = 'nudge'\ndelay = '2s'");
    let mut kernel = Kernel::new(&rules);
    let parent = kernel.fork(ROOT, Manner::Dies);
    let zombie = kernel.fork(parent, Manner::Dies);
    kernel.exits(zombie, 0);
    let mut cleaner = Cleaner::new(settings(&rules));
    // It is found after a second, and has two to wait.
    for _ in 0..10 {
        kernel.passes(&mut cleaner, 290);
        assert_eq!(kernel.signals, []);
        cleaner.reconfigure(settings(&rules));
    }
    kernel.passes(&mut cleaner, 290);
    assert_eq!(kernel.signals, [(parent, 17)]);
    assert!(cleaner.is_idle(&kernel.lineage));
}

#[test]
fn what_has_begun_and_what_somebody_asked_for_is_ended_as_it_was_decided() {
    let rules = rules("");
    let mut kernel = Kernel::new(&rules);
    let stubborn = kernel.fork(ROOT, Manner::Ignores);
    kernel.root_ends();
    let mut cleaner = Cleaner::new(settings(&rules));
    kernel.passes(&mut cleaner, 1_000);
    assert_eq!(kernel.signals, [(stubborn, 15)]);
    // It waits for the job that has begun.
    let plan = plan(&kernel, &Target::Process(Kernel::id(stubborn)));
    kernel.asks(&mut cleaner, 1, &plan);
    cleaner.reconfigure(only_requests(&rules));
    kernel.passes(&mut cleaner, 10_000);
    assert_eq!(kernel.signals, [(stubborn, 15), (stubborn, 9)]);
    assert_eq!(kernel.came_of(1), [(stubborn, ActionResult::EndedByItself)]);
    assert!(cleaner.is_idle(&kernel.lineage));
}

#[test]
fn parent_of_a_zombie_is_nudged_once() {
    let rules = rules("");
    let mut kernel = Kernel::new(&rules);
    let parent = kernel.fork(ROOT, Manner::Ignores);
    let child = kernel.fork(parent, Manner::Dies);
    kernel.exits(child, 0);
    let mut cleaner = Cleaner::new(settings(&rules));
    kernel.passes(&mut cleaner, 30_000);
    // The child's zombie was found; its parent got one SIGCHLD and nobody anything else.
    assert_eq!(kernel.signals, [(parent, 17)]);
    assert!(cleaner.is_idle(&kernel.lineage));
}

/// Killed, and not reaped for long enough to be found again.
#[test]
fn what_comes_of_a_nudge_is_not_told_of_the_killing() {
    let rules = rules("");
    let mut kernel = Kernel::new(&rules);
    let parent = kernel.fork(ROOT, Manner::Stuck);
    let child = kernel.fork(parent, Manner::Dies);
    kernel.never_reaps.insert(parent);
    kernel.foreign.insert(parent);
    kernel.root_ends();
    let outcome = kernel.clean_up(settings(&rules));
    let results = outcome.findings.iter().filter(|finding| finding.process.id.pid == child);
    let results: BTreeMap<_, _> = results
        .map(|finding| (finding.kind, finding.action.as_ref().expect("one").receipt.result))
        .collect();
    let wanted = [
        (FindingKind::Zombie, ActionResult::NotPermitted),
        (FindingKind::Survivor, ActionResult::Ended),
    ];
    assert_eq!(results, BTreeMap::from(wanted));
}

#[test]
fn parent_of_a_zombie_is_killed_only_where_a_rule_says_so_and_never_command() {
    let rules = rules("[cleanup]\nzombie = 'kill-parent'\nterm_timeout = '1s'");
    let mut kernel = Kernel::new(&rules);
    let parent = kernel.fork(ROOT, Manner::Ignores);
    let (of_parent, of_root) = (kernel.fork(parent, Manner::Dies), kernel.fork(ROOT, Manner::Dies));
    kernel.exits(of_parent, 0);
    kernel.exits(of_root, 0);
    let mut cleaner = Cleaner::new(settings(&rules));
    kernel.passes(&mut cleaner, 30_000);
    assert_eq!(kernel.signals, [(parent, 15), (parent, 9)]);
    assert_eq!(kernel.alive(), [ROOT]);
}

#[test]
fn cgroup_is_killed_once_and_nobody_in_it_is_sent_sigkill() {
    let rules = rules("[cleanup]\nterm_timeout = '1s'");
    let mut kernel = Kernel::with_cgroup(&rules);
    let parent = kernel.fork(ROOT, Manner::Ignores);
    let child = kernel.fork(parent, Manner::Ignores);
    kernel.root_ends();
    let outcome = kernel.clean_up(settings(&rules));
    assert_eq!((kernel.cgroup_kills, kernel.alive()), (1, vec![]));
    assert_eq!(kernel.signals, [(parent, 15), (child, 15)]);
    for pid in [parent, child] {
        assert_eq!(
            signals_of(&outcome, pid),
            [(15, SignalTarget::Process), (9, SignalTarget::Cgroup)]
        );
        assert_eq!(result_of(&outcome, pid), ActionResult::Ended);
    }
}

#[test]
fn who_has_left_the_cgroup_is_signalled_by_itself() {
    let rules = rules("[cleanup]\nterm_timeout = '0s'");
    let mut kernel = Kernel::with_cgroup(&rules);
    let inside = kernel.fork(ROOT, Manner::Dies);
    let outside = kernel.fork(ROOT, Manner::Dies);
    kernel.leaves_cgroup(outside);
    kernel.root_ends();
    let outcome = kernel.clean_up(settings(&rules));
    assert_eq!((kernel.cgroup_kills, kernel.alive()), (1, vec![]));
    assert_eq!(kernel.signals, [(outside, 9)]);
    assert_eq!(signals_of(&outcome, inside), [(9, SignalTarget::Cgroup)]);
    assert_eq!(signals_of(&outcome, outside), [(9, SignalTarget::Process)]);
}

#[test]
fn cgroup_with_somebody_kept_in_it_is_not_killed() {
    let rules = rules("[cleanup]\nterm_timeout = '0s'\n[[keep]]\nexecutables = ['devserver']");
    let mut kernel = Kernel::with_cgroup(&rules);
    let server = kernel.fork(ROOT, Manner::Dies);
    kernel.executes(server, "devserver");
    let worker = kernel.fork(server, Manner::Dies);
    let other = kernel.fork(ROOT, Manner::Dies);
    kernel.root_ends();
    let _ = kernel.clean_up(settings(&rules));
    assert_eq!((kernel.cgroup_kills, kernel.alive()), (0, vec![server, worker]));
    assert_eq!(kernel.signals, [(other, 9)]);
}

#[test]
fn cgroup_with_somebody_from_outside_in_it_is_not_killed() {
    let rules = rules("[cleanup]\nterm_timeout = '0s'");
    let mut kernel = Kernel::with_cgroup(&rules);
    let left = kernel.fork(ROOT, Manner::Dies);
    kernel.root_ends();
    let stranger = kernel.joins_from_outside();
    let _ = kernel.clean_up(settings(&rules));
    assert_eq!((kernel.cgroup_kills, kernel.alive()), (0, vec![stranger]));
    assert_eq!(kernel.signals, [(left, 9)]);
}

#[test]
fn cgroup_with_somebody_beyond_the_limit_of_a_minute_in_it_is_not_killed() {
    let rules = rules("[cleanup]\nmax_kills_per_minute = 2\nterm_timeout = '0s'");
    let mut kernel = Kernel::with_cgroup(&rules);
    let all: Vec<_> = (0..3).map(|_| kernel.fork(ROOT, Manner::Dies)).collect();
    kernel.root_ends();
    let outcome = kernel.clean_up(settings(&rules));
    assert_eq!((kernel.cgroup_kills, kernel.alive()), (0, all[2..].to_vec()));
    assert_eq!(result_of(&outcome, all[2]), ActionResult::Limited);
}

#[test]
fn who_does_not_die_with_the_cgroup_is_unkillable() {
    let rules = rules("[cleanup]\nterm_timeout = '0s'");
    let mut kernel = Kernel::with_cgroup(&rules);
    let stuck = kernel.fork(ROOT, Manner::Stuck);
    let other = kernel.fork(ROOT, Manner::Dies);
    kernel.root_ends();
    let outcome = kernel.clean_up(settings(&rules));
    assert_eq!((kernel.cgroup_kills, kernel.alive()), (1, vec![stuck]));
    assert_eq!(result_of(&outcome, stuck), ActionResult::Unkillable);
    assert_eq!(result_of(&outcome, other), ActionResult::Ended);
}

#[test]
fn cgroup_is_not_killed_while_command_runs_nor_for_being_asked_to_end() {
    // An orphan is ended by itself, beside the root that lives.
    let by_orphan = rules("[cleanup]\norphan = 'kill'\nterm_timeout = '0s'");
    let mut kernel = Kernel::with_cgroup(&by_orphan);
    let parent = kernel.fork(ROOT, Manner::Dies);
    let orphan = kernel.fork(parent, Manner::Dies);
    kernel.dies(parent, 0);
    let mut cleaner = Cleaner::new(settings(&by_orphan));
    cleaner.owns_cgroup();
    kernel.passes(&mut cleaner, 2_000);
    assert_eq!((kernel.cgroup_kills, kernel.alive()), (0, vec![ROOT]));
    assert_eq!(kernel.signals, [(orphan, 9)]);

    let term = rules("[cleanup]\nsurvivor = 'term'");
    let mut kernel = Kernel::with_cgroup(&term);
    let left = kernel.fork(ROOT, Manner::Ignores);
    kernel.root_ends();
    let _ = kernel.clean_up(settings(&term));
    assert_eq!((kernel.cgroup_kills, kernel.alive()), (0, vec![left]));
}

#[test]
fn dry_run_does_not_kill_the_cgroup() {
    let rules = rules("[cleanup]\nterm_timeout = '0s'");
    let mut kernel = Kernel::with_cgroup(&rules);
    let left = kernel.fork(ROOT, Manner::Dies);
    kernel.root_ends();
    let _ = kernel.clean_up(Settings { dry_run: true, ..settings(&rules) });
    assert_eq!((kernel.cgroup_kills, kernel.alive()), (0, vec![left]));
}

/// A tree: of each process which of those before it forked it, and how it takes being asked to end.
fn trees() -> impl Strategy<Value = Vec<(prop::sample::Index, u8)>> {
    prop::collection::vec((any::<prop::sample::Index>(), 0..8_u8), 1..40)
}

proptest! {
    /// Whoever is in the cgroup: the same end, and it is killed as a whole only where that is nobody's
    /// harm.
    #[test]
    fn cgroup_changes_how_and_not_whom(tree in trees(), strangers in 0..4_u8, at_once: bool) {
        let term = if at_once { "0s" } else { "1s" };
        let rules = rules(&format!(
            "[cleanup]\nterm_timeout = '{term}'\n[[keep]]\nexecutables = ['kept']"
        ));
        let mut kernel = Kernel::with_cgroup(&rules);
        let mut made = vec![ROOT];
        let mut kept = BTreeSet::new();
        for (forker, manner) in tree {
            let forker = *forker.get(&made);
            let pid = kernel.fork(forker, if manner < 3 { Manner::Ignores } else { Manner::Dies });
            kernel.executes(pid, if manner == 7 { "kept" } else { "leaks" });
            if manner == 7 || kept.contains(&forker) {
                kept.insert(pid);
            }
            if manner == 6 {
                kernel.leaves_cgroup(pid);
            }
            made.push(pid);
        }
        kernel.root_ends();
        if strangers == 0 {
            kept.insert(kernel.joins_from_outside());
        }
        let is_in = |pid: &u32| kernel.cgroup.as_ref().is_some_and(|all| all.contains(pid));
        let must_not = kept.iter().any(is_in);
        let _ = kernel.clean_up(settings(&rules));
        let alive: BTreeSet<_> = kernel.alive().into_iter().collect();
        prop_assert_eq!(&alive, &kept);
        prop_assert!(kernel.signals.iter().all(|(pid, _)| !kept.contains(pid) && *pid > ROOT));
        prop_assert!(kernel.cgroup_kills <= usize::from(!must_not));
    }

    /// Whatever the tree: all of it that leaks is dead, what is kept lives with all that it forked,
    /// and nobody else was sent anything.
    #[test]
    fn every_leaked_process_dies_and_no_other(tree in trees(), is_old in any::<bool>()) {
        let rules = rules("[[keep]]\nexecutables = ['kept']");
        let mut kernel = Kernel::new(&rules);
        kernel.is_old = is_old;
        let mut made = vec![ROOT];
        let mut kept = BTreeSet::new();
        for (forker, manner) in tree {
            let forker = *forker.get(&made);
            let pid = kernel.fork(forker, if manner < 3 { Manner::Ignores } else { Manner::Dies });
            if manner == 7 {
                kernel.executes(pid, "kept");
                kept.insert(pid);
            } else {
                kernel.executes(pid, "leaks");
            }
            if kept.contains(&forker) {
                kept.insert(pid);
            }
            kernel.processes.get_mut(&pid).expect("made").respawns = manner == 0;
            if [1, 6].contains(&manner) {
                kernel.setsid(pid);
            }
            made.push(pid);
        }
        kernel.root_ends();
        let _ = kernel.clean_up(settings(&rules));
        let alive: BTreeSet<_> = kernel.alive().into_iter().collect();
        prop_assert_eq!(&alive, &kept);
        prop_assert!(kernel.signals.iter().all(|(pid, _)| !kept.contains(pid) && *pid >= ROOT));
    }
}

/// What is known of processes that were looked at: nothing that keeps them.
fn looked_at(kernel: &Kernel) -> std::collections::HashMap<ProcessId, Observation> {
    let all = kernel.lineage.everyone().into_iter();
    all.map(|id| (id, Observation { exists: true, ..Observation::default() })).collect()
}

/// The plan to end this, as somebody outside asks for it.
fn plan(kernel: &Kernel, target: &Target) -> Plan {
    plan_of_call(kernel, target, None)
}

/// The same, of what belongs to a tool call.
fn plan_of_call(kernel: &Kernel, target: &Target, call: Option<&str>) -> Plan {
    let sought = Sought {
        target,
        call,
        asker: None,
        asked_at: kernel.at(),
        seen: &looked_at(kernel),
        allow: &nobody,
    };
    Plan::of(&kernel.lineage, kernel.at(), sought)
}

/// Two agents may number their calls alike.
#[test]
fn call_is_the_one_of_the_agent_that_is_named() {
    let rules = rules("[[agent]]\nname = 'bot'\nexecutables = ['bot']");
    let mut kernel = Kernel::new(&rules);
    let agents = [kernel.fork(ROOT, Manner::Dies), kernel.fork(ROOT, Manner::Dies)];
    let children = agents.map(|agent| {
        kernel.executes(agent, "bot");
        let call = CallStart { id: "1".to_owned(), ..CallStart::default() };
        kernel.announces(agent, Said::CallStart(call));
        kernel.fork(agent, Manner::Dies)
    });
    let of = |target| plan_of_call(&kernel, &target, Some("1"));
    for (agent, child) in agents.into_iter().zip(children) {
        let plan = of(Target::Invocation(Kernel::id(agent)));
        assert_eq!((pids(&plan.ends), plan.unsure.ambiguous), (vec![child], 0));
    }
    let plan = of(Target::Process(Kernel::id(ROOT)));
    assert_eq!((pids(&plan.ends), plan.unsure.ambiguous), (vec![], 2));
    let plan = of(Target::Process(Kernel::id(children[1])));
    assert_eq!(pids(&plan.ends), [children[1]]);
}

fn pids(ids: &[ProcessId]) -> Vec<u32> {
    ids.iter().map(|id| id.pid).collect()
}

/// Settings that end nothing unless somebody asks for it.
fn only_requests(rules: &Rc<Rules>) -> Settings {
    Settings { leaks: false, ..settings(rules) }
}

impl Kernel {
    /// Hands what was agreed to over.
    fn asks(&self, cleaner: &mut Cleaner, number: u64, plan: &Plan) {
        let request = plan.agreed(number, "somebody".to_owned(), <_>::default());
        cleaner.request(request, self.at(), &self.lineage);
    }

    /// What came of a request: each process and its result.
    fn came_of(&self, request: u64) -> Vec<(u32, ActionResult)> {
        let found = self.fulfilled.iter().find(|(number, _)| *number == request);
        let (_, receipts) = found.expect("it is fulfilled");
        receipts.iter().map(|receipt| (receipt.process.pid, receipt.result)).collect()
    }
}

#[test]
fn request_ends_what_it_named_and_nobody_else() {
    let rules = rules("");
    let mut kernel = Kernel::new(&rules);
    let server = kernel.fork(ROOT, Manner::Dies);
    let worker = kernel.fork(server, Manner::Dies);
    let other = kernel.fork(ROOT, Manner::Dies);
    let plan = plan(&kernel, &Target::Process(Kernel::id(server)));
    assert_eq!((pids(&plan.ends), plan.left.len()), (vec![server, worker], 0));
    let mut cleaner = Cleaner::new(only_requests(&rules));
    kernel.asks(&mut cleaner, 7, &plan);
    kernel.passes(&mut cleaner, 1_000);
    assert_eq!(kernel.signals, [(server, 15), (worker, 15)]);
    assert_eq!(kernel.alive(), [ROOT, other]);
    assert_eq!(kernel.came_of(7), [(server, ActionResult::Ended), (worker, ActionResult::Ended)]);
    assert!(cleaner.is_idle(&kernel.lineage));
}

#[test]
fn request_takes_command_with_its_invocation() {
    let rules = rules("");
    let mut kernel = Kernel::new(&rules);
    let child = kernel.fork(ROOT, Manner::Ignores);
    let plan = plan(&kernel, &Target::Invocation(Kernel::id(ROOT)));
    assert_eq!(pids(&plan.ends), [ROOT, child]);
    let mut cleaner = Cleaner::new(only_requests(&rules));
    kernel.asks(&mut cleaner, 1, &plan);
    kernel.passes(&mut cleaner, 10_000);
    assert_eq!(kernel.signals, [(ROOT, 15), (child, 15), (child, 9)]);
    assert_eq!(kernel.alive(), [0; 0]);
}

#[test]
fn what_is_forked_after_the_plan_ends_too_and_who_was_left_alone_is_still() {
    let rules = rules("[[keep]]\nexecutables = ['devserver']\nreason = 'mine'");
    let mut kernel = Kernel::new(&rules);
    let shell = kernel.fork(ROOT, Manner::Dies);
    let kept = kernel.fork(shell, Manner::Dies);
    kernel.executes(kept, "devserver");
    let below = kernel.fork(kept, Manner::Dies);
    kernel.executes(below, "esbuild");
    let plan = plan(&kernel, &Target::Process(Kernel::id(shell)));
    assert_eq!(pids(&plan.ends), [shell]);
    let left: Vec<_> = plan.left.iter().map(|left| (left.process.pid, &*left.reason)).collect();
    let reasons = ["rule: mine", "it descends from a process that is left alone"];
    assert_eq!(left, [(kept, reasons[0]), (below, reasons[1])]);
    // What no rule keeps any more was not agreed to either.
    kernel.executes(kept, "renamed");
    let later = kernel.fork(shell, Manner::Dies);
    let new_below = kernel.fork(below, Manner::Dies);
    let mut cleaner = Cleaner::new(only_requests(&rules));
    kernel.asks(&mut cleaner, 1, &plan);
    kernel.passes(&mut cleaner, 1_000);
    assert_eq!(kernel.signals, [(shell, 15), (later, 15)]);
    assert_eq!(kernel.alive(), [ROOT, kept, below, new_below]);
}

#[test]
fn who_descends_from_a_kept_process_is_left_alone_also_where_it_is_named() {
    let rules = rules("[[keep]]\nexecutables = ['devserver']\nreason = 'mine'");
    let mut kernel = Kernel::new(&rules);
    let kept = kernel.fork(ROOT, Manner::Dies);
    kernel.executes(kept, "devserver");
    let below = kernel.fork(kept, Manner::Dies);
    kernel.executes(below, "esbuild");
    let named = kernel.fork(below, Manner::Dies);
    let plan = |kernel: &Kernel| plan(kernel, &Target::Process(Kernel::id(named)));
    let refused = plan(&kernel);
    assert_eq!(refused.ends, []);
    assert_eq!(refused.left.first().map(|left| left.result), Some(ActionResult::Kept));
    // Whom nobody keeps any more keeps nobody.
    kernel.dies(kept, 0);
    assert_eq!(pids(&plan(&kernel).ends), [named]);
}

#[test]
fn who_asks_and_pid_1_are_left_alone() {
    let rules = rules("");
    let mut kernel = Kernel::new(&rules);
    let shell = kernel.fork(ROOT, Manner::Dies);
    let asker = kernel.fork(shell, Manner::Dies);
    let sought = Sought {
        target: &Target::Invocation(Kernel::id(ROOT)),
        call: None,
        asker: Some(Kernel::id(asker)),
        asked_at: kernel.at(),
        seen: &looked_at(&kernel),
        allow: &nobody,
    };
    let plan = Plan::of(&kernel.lineage, kernel.at(), sought);
    assert_eq!(pids(&plan.ends), [ROOT, shell]);
    let left = |plan: Plan| plan.left.into_iter().map(|left| (left.process.pid, left.reason));
    assert!(left(plan).eq([(asker, "it is the one that asks".to_owned())]));
    kernel.next = 1;
    let init = kernel.fork(ROOT, Manner::Dies);
    let plan = self::plan(&kernel, &Target::Process(Kernel::id(init)));
    assert_eq!(plan.ends, []);
    assert!(left(plan).eq([(init, "it is PID 1".to_owned())]));
}

#[test]
fn who_could_not_be_looked_at_is_left_alone_and_who_came_later_is_not() {
    let rules = rules("");
    let mut kernel = Kernel::new(&rules);
    let shell = kernel.fork(ROOT, Manner::Dies);
    let unseen = kernel.fork(shell, Manner::Dies);
    let mut seen = looked_at(&kernel);
    seen.remove(&Kernel::id(unseen));
    let asked_at = Nanos(Kernel::id(unseen).start);
    let later = kernel.fork(shell, Manner::Dies);
    let target = Target::Process(Kernel::id(shell));
    let sought =
        Sought { target: &target, call: None, asker: None, asked_at, seen: &seen, allow: &nobody };
    let plan = Plan::of(&kernel.lineage, kernel.at(), sought);
    assert_eq!(pids(&plan.ends), [shell, later]);
    assert_eq!(plan.left.iter().map(|left| left.process.pid).collect::<Vec<_>>(), [unseen]);
}

#[test]
fn nested_invocation_goes_with_the_one_around_it_and_not_with_who_forked_it() {
    let rules = rules(
        "[[agent]]\nname = 'outer'\nexecutables = ['outer']\n\
         [[agent]]\nname = 'inner'\nexecutables = ['inner']",
    );
    let mut kernel = Kernel::new(&rules);
    kernel.executes(ROOT, "sh");
    let mut line = vec![ROOT];
    for name in ["outer", "sh", "inner", "sh"] {
        let pid = kernel.fork(line[line.len() - 1], Manner::Dies);
        kernel.executes(pid, name);
        line.push(pid);
    }
    let of = |pid: u32, target: fn(ProcessId) -> Target| {
        let plan = plan(&kernel, &target(Kernel::id(pid)));
        let left: Vec<_> = plan.left.iter().map(|left| left.process.pid).collect();
        (pids(&plan.ends), left)
    };
    let &[root, outer, shell, inner, tool] = line.as_slice() else { panic!("{line:?}") };
    // Its agent is an invocation of its own, which the shell only forked.
    assert_eq!(of(shell, Target::Process), (vec![shell], vec![inner, tool]));
    assert_eq!(of(inner, Target::Process), (vec![inner, tool], vec![]));
    assert_eq!(of(inner, Target::Invocation), (vec![inner, tool], vec![]));
    assert_eq!(of(outer, Target::Process), (vec![outer, shell, inner, tool], vec![]));
    assert_eq!(of(root, Target::Invocation), (line.clone(), vec![]));
    // Who is named itself is that, whoever's it is.
    assert_eq!(of(tool, Target::Process), (vec![tool], vec![]));
}

#[test]
fn second_request_waits_for_the_first_and_is_told_as_well() {
    let rules = rules("");
    let mut kernel = Kernel::new(&rules);
    let stubborn = kernel.fork(ROOT, Manner::Ignores);
    let beside = kernel.fork(stubborn, Manner::Dies);
    let whole = plan(&kernel, &Target::Process(Kernel::id(stubborn)));
    let part = plan(&kernel, &Target::Process(Kernel::id(beside)));
    let mut cleaner = Cleaner::new(only_requests(&rules));
    kernel.asks(&mut cleaner, 1, &whole);
    kernel.passes(&mut cleaner, 100);
    kernel.asks(&mut cleaner, 2, &whole);
    kernel.asks(&mut cleaner, 3, &part);
    kernel.passes(&mut cleaner, 20_000);
    assert_eq!(kernel.signals, [(stubborn, 15), (beside, 15), (stubborn, 9)]);
    let all = |result| [(stubborn, result), (beside, result)];
    assert_eq!(kernel.came_of(1), all(ActionResult::Ended));
    assert_eq!(kernel.came_of(2), all(ActionResult::EndedByItself));
    assert_eq!(kernel.came_of(3), [(beside, ActionResult::EndedByItself)]);
    assert!(cleaner.is_idle(&kernel.lineage));
}

#[test]
fn request_is_fulfilled_although_everyone_has_ended_before() {
    let rules = rules("");
    let mut kernel = Kernel::new(&rules);
    let server = kernel.fork(ROOT, Manner::Dies);
    let plan = plan(&kernel, &Target::Process(Kernel::id(server)));
    kernel.dies(server, 0);
    let mut cleaner = Cleaner::new(only_requests(&rules));
    kernel.asks(&mut cleaner, 1, &plan);
    kernel.passes(&mut cleaner, 1_000);
    assert_eq!(kernel.signals, []);
    assert_eq!(kernel.came_of(1), [(server, ActionResult::EndedByItself)]);
}

#[test]
fn request_is_done_also_where_leaks_are_only_told_of() {
    let rules = rules("");
    let mut kernel = Kernel::new(&rules);
    let server = kernel.fork(ROOT, Manner::Dies);
    let plan = plan(&kernel, &Target::Process(Kernel::id(server)));
    let mut cleaner = Cleaner::new(Settings { dry_run: true, ..settings(&rules) });
    kernel.asks(&mut cleaner, 1, &plan);
    kernel.passes(&mut cleaner, 1_000);
    assert_eq!(kernel.came_of(1), [(server, ActionResult::Ended)]);
    assert!(!kernel.fulfilled[0].1[0].dry_run);
}

#[test]
fn limit_of_a_minute_holds_for_requests() {
    let rules = rules("[cleanup]\nmax_kills_per_minute = 1");
    let mut kernel = Kernel::new(&rules);
    let server = kernel.fork(ROOT, Manner::Dies);
    let worker = kernel.fork(server, Manner::Dies);
    let plan = plan(&kernel, &Target::Process(Kernel::id(server)));
    let mut cleaner = Cleaner::new(only_requests(&rules));
    kernel.asks(&mut cleaner, 1, &plan);
    kernel.passes(&mut cleaner, 1_000);
    assert_eq!(kernel.signals, [(server, 15)]);
    assert_eq!(kernel.came_of(1), [(server, ActionResult::Ended), (worker, ActionResult::Limited)]);
}

#[test]
fn what_came_of_a_request_is_told_at_the_end_whatever_was_found() {
    let rules = rules("");
    let mut kernel = Kernel::new(&rules);
    let server = kernel.fork(ROOT, Manner::Dies);
    kernel.executes(server, "node");
    let plan = plan(&kernel, &Target::Process(Kernel::id(server)));
    let mut cleaner = Cleaner::new(only_requests(&rules));
    kernel.asks(&mut cleaner, 1, &plan);
    kernel.passes(&mut cleaner, 5_000);
    kernel.root_ends();
    let outcome = kernel.clean_up(only_requests(&rules));
    assert_eq!(outcome.findings.len(), 0);
    let told = outcome.on_request.first().expect("it is told");
    assert_eq!((told.process.id.pid, &*told.process.name), (server, &b"node"[..]));
    assert_eq!(told.action.receipt.decided_by, "somebody");
    assert_eq!(told.action.receipt.kind, None);
}

proptest! {
    /// Whatever the tree and whoever is named in it: that lineage is dead, but for what is kept, and
    /// nobody else was sent anything; also where who is named descends from what is kept.
    #[test]
    fn requested_lineage_dies_and_no_other(tree in trees(), named: prop::sample::Index) {
        let rules = rules("[[keep]]\nexecutables = ['kept']");
        let mut kernel = Kernel::new(&rules);
        let mut made = vec![ROOT];
        let (mut kept, mut below) = (BTreeSet::new(), BTreeMap::new());
        for (forker, manner) in tree {
            let forker = *forker.get(&made);
            let pid = kernel.fork(forker, if manner < 3 { Manner::Ignores } else { Manner::Dies });
            kernel.executes(pid, if manner == 7 { "kept" } else { "leaks" });
            if manner == 7 || kept.contains(&forker) {
                kept.insert(pid);
            }
            below.insert(pid, forker);
            made.push(pid);
        }
        let top = *named.get(&made);
        let is_below = |mut pid: u32| loop {
            if pid == top {
                return true;
            }
            match below.get(&pid) {
                Some(&forker) => pid = forker,
                None => return false,
            }
        };
        let plan = plan(&kernel, &Target::Process(Kernel::id(top)));
        let mut cleaner = Cleaner::new(only_requests(&rules));
        kernel.asks(&mut cleaner, 1, &plan);
        kernel.passes(&mut cleaner, 20_000);
        let dead: BTreeSet<_> =
            made.iter().copied().filter(|pid| is_below(*pid) && !kept.contains(pid)).collect();
        let alive: BTreeSet<_> = kernel.alive().into_iter().collect();
        for pid in &made {
            prop_assert_eq!(!alive.contains(pid), dead.contains(pid), "{}", pid);
        }
        prop_assert!(kernel.signals.iter().all(|(pid, _)| dead.contains(pid)));
    }
}
