//! The core against a clock of its own: histories in, verdicts out.

mod kernel;
mod properties;

use tracer_common::WaitCounts;

use super::*;

const ROOT: u32 = 100;
const TRACER: u32 = 50;
const INIT: u32 = 1;

/// Milliseconds since the root was forked.
fn ms(at: u64) -> Nanos {
    Nanos(1_000_000_000 + at * 1_000_000)
}

/// A world that answers what it is told to answer.
struct World {
    lineage: Lineage,
    starts: HashMap<u32, u64>,
    /// What procfs says of a pid; absent: it does not exist.
    procfs: HashMap<u32, Observation>,
    now: u64,
    lives: Vec<Life>,
}

impl World {
    fn new(config: Config) -> Self {
        let starts = HashMap::from([(INIT, 1), (TRACER, 2)]);
        let mut world = Self {
            lineage: Lineage::new(config),
            starts,
            procfs: HashMap::new(),
            now: 0,
            lives: Vec::new(),
        };
        world.lineage.handle(Event::Bystander { pid: INIT, start_ticks: 0, name: b"init" });
        world.fork_as(TRACER, TRACER, ROOT, true);
        world.exec(ROOT, "agent");
        world
    }

    fn standard() -> Self {
        Self::new(Config::default())
    }

    fn id(&self, pid: u32) -> ProcessId {
        ProcessId { pid, start: self.starts.get(&pid).copied().unwrap_or(0) }
    }

    fn at(&mut self, at: u64) -> &mut Self {
        assert!(at >= self.now, "time goes forward");
        self.now = at;
        self
    }

    fn fork(&mut self, forker: u32, child: u32) -> &mut Self {
        self.fork_as(forker, forker, child, false)
    }

    fn fork_as(&mut self, forker: u32, parent: u32, child: u32, root: bool) -> &mut Self {
        self.starts.insert(child, ms(self.now).0 + u64::from(child));
        let event = Event::Fork {
            at: ms(self.now),
            child: self.id(child),
            forker: self.id(forker),
            parent: self.id(parent),
            pids: Pids { host: child, local: Some(child), namespace: child, level: 0 },
            cgroup: None,
            root,
        };
        self.lineage.handle(event);
        self.seen(child, 'S', parent)
    }

    fn exec(&mut self, pid: u32, exe: &str) -> &mut Self {
        let event = Event::Exec {
            at: ms(self.now),
            process: self.id(pid),
            exe: exe.as_bytes(),
            args: exe.as_bytes(),
            truncated: false,
        };
        self.lineage.handle(event);
        self
    }

    /// What procfs shows from now on.
    fn seen(&mut self, pid: u32, state: char, parent: u32) -> &mut Self {
        let observation = Observation {
            exists: true,
            state: Some(state),
            comm: Some(b"comm".to_vec()),
            sid: Some(ROOT),
            pgid: Some(ROOT),
            parent: Some(ObservedParent {
                pid: parent,
                name: b"init".to_vec(),
                is_init: parent == INIT,
            }),
            resources: (state != 'Z').then(Resources::default),
            ..Observation::default()
        };
        self.procfs.insert(pid, observation);
        self
    }

    fn exit_status(&mut self, pid: u32, parent: u32, status: u32) -> &mut Self {
        let event = Event::Exit {
            at: ms(self.now),
            process: self.id(pid),
            status,
            parent: self.id(parent),
            children_uncounted: false,
        };
        self.lineage.handle(event);
        self.seen(pid, 'Z', parent)
    }

    fn exit(&mut self, pid: u32, parent: u32) -> &mut Self {
        self.exit_status(pid, parent, 0)
    }

    fn unreaped(&mut self, pid: u32, parent: u32, waits: WaitCounts) -> &mut Self {
        let event = Event::Unreaped {
            at: ms(self.now),
            process: self.id(pid),
            parent: self.id(parent),
            waits,
            not_yet: false,
        };
        self.lineage.handle(event);
        self
    }

    fn free(&mut self, pid: u32) -> &mut Self {
        self.procfs.remove(&pid);
        let event = Event::Reaped { at: ms(self.now), process: self.id(pid), by: None, gone: true };
        self.lineage.handle(event);
        self
    }

    fn signal(&mut self, target: u32, signal: u32, sender: u32) -> &mut Self {
        let event = Event::Signal {
            at: ms(self.now),
            target: self.id(target),
            signal,
            sender: self.id(sender),
            sender_name: b"kill\0",
        };
        self.lineage.handle(event);
        self
    }

    /// Lets time pass, answering every question.
    fn until(&mut self, at: u64) -> &mut Self {
        self.answer();
        while let Some(deadline) = self.lineage.next_deadline()
            && deadline <= ms(at)
        {
            self.now = self.now.max((deadline.0 - ms(0).0).div_ceil(1_000_000));
            self.lineage.handle_timeout(deadline);
            self.answer();
        }
        self.now = at;
        self
    }

    fn answer(&mut self) {
        while let Some(output) = self.lineage.poll_output() {
            match output {
                Output::Observe { process, .. } => {
                    let same = self.id(process.pid) == process;
                    let seen = self.procfs.get(&process.pid).filter(|_| same);
                    let observation = Box::new(seen.cloned().unwrap_or_default());
                    self.lineage.handle(Event::Observed { at: ms(self.now), process, observation });
                }
                Output::Sample { processes } => {
                    let blocked = processes
                        .into_iter()
                        .filter(|(id, _)| {
                            self.procfs.get(&id.pid).is_some_and(|seen| seen.state == Some('D'))
                        })
                        .map(|(id, pid)| (id, BlockedThread { thread: pid, switches: 7 }))
                        .collect();
                    self.lineage.handle(Event::Sampled { at: ms(self.now), blocked });
                }
                Output::Life(life) => self.lives.push(*life),
            }
        }
    }

    fn outcome(&mut self) -> Outcome {
        self.outcome_with(false)
    }

    fn outcome_with(&mut self, strict: bool) -> Outcome {
        self.answer();
        assert!(self.lineage.is_settled(), "not settled");
        let policy = Policy { fail_on: &DEFAULT_FAIL_ON, strict, allow: &|_| None };
        self.lineage.outcome(ms(self.now), &[b"agent".to_vec()], 0, policy)
    }
}

fn only(outcome: &Outcome, kind: FindingKind) -> &Finding {
    let found: Vec<_> = outcome.findings.iter().filter(|finding| finding.kind == kind).collect();
    assert_eq!(found.len(), 1, "{:?}", outcome.findings);
    found[0]
}

fn never() -> WaitCounts {
    WaitCounts::default()
}

#[test]
fn a_command_that_leaves_nothing_is_clean_at_once() {
    let mut world = World::standard();
    world.at(10).fork(ROOT, 101).at(20).exit(101, ROOT).at(21).free(101);
    world.at(30).exit(ROOT, TRACER);
    let outcome = world.outcome();
    assert_eq!(outcome.verdict, Verdict::Clean);
    assert_eq!(outcome.findings, []);
    assert_eq!(outcome.stats.processes, 2);
    assert_eq!(outcome.stats.peak_live, 2);
}

#[test]
fn a_child_that_its_living_parent_lets_stand_is_a_zombie() {
    let mut world = World::standard();
    world.at(10).fork(ROOT, 101).exec(101, "/bin/job").at(20).exit_status(101, ROOT, 3 << 8);
    world.until(1500).unreaped(101, ROOT, never()).exit(ROOT, TRACER);
    let outcome = world.outcome();
    assert_eq!(outcome.verdict, Verdict::Leaked);
    let zombie = only(&outcome, FindingKind::Zombie);
    assert_eq!(zombie.cause.code, CauseCode::ParentNeverWaits);
    assert_eq!(zombie.exit.as_ref().unwrap().status, Some(ExitStatus::Code(3)));
    assert_eq!(zombie.since, ms(20));
    assert_eq!(zombie.parent.as_ref().unwrap().pid, ROOT);
    assert_eq!(zombie.process.name, b"job");
}

#[test]
fn a_zombie_reaped_by_its_own_parent_is_resolved_and_fails_only_under_strict() {
    for strict in [false, true] {
        let mut world = World::standard();
        world.at(10).fork(ROOT, 101).at(20).exit(101, ROOT);
        // Reaped right before its parent's end: the free comes after it.
        world.until(1500).exit(ROOT, TRACER).at(1510).free(101);
        let outcome = world.outcome_with(strict);
        let zombie = only(&outcome, FindingKind::Zombie);
        assert_eq!(zombie.state, FindingState::Resolved(ms(1500)));
        assert_eq!(outcome.verdict == Verdict::Leaked, strict);
    }
}

#[test]
fn reaping_by_an_adopter_leaves_a_zombie_counted() {
    let mut world = World::standard();
    world.at(10).fork(ROOT, 101).at(20).exit(101, ROOT);
    world.until(1500).unreaped(101, ROOT, never()).exit(ROOT, TRACER).at(1510).free(101);
    let outcome = world.outcome();
    assert_eq!(only(&outcome, FindingKind::Zombie).state, FindingState::Open);
    assert_eq!(outcome.verdict, Verdict::Leaked);
}

#[test]
fn a_child_whose_parent_ends_in_time_is_the_adopters_and_no_finding() {
    let mut world = World::standard();
    world.at(10).fork(ROOT, 101).at(20).exit(101, ROOT);
    world.at(30).unreaped(101, ROOT, never()).exit(ROOT, TRACER);
    let outcome = world.outcome();
    assert_eq!(outcome.verdict, Verdict::Clean);
    assert_eq!(outcome.findings, []);
}

#[test]
fn with_zombie_after_zero_the_same_child_is_a_finding() {
    let mut world = World::new(Config { zombie_after: Duration::ZERO, ..Config::default() });
    world.at(10).fork(ROOT, 101).fork(ROOT, 102).at(20).exit(101, ROOT).exit(102, ROOT);
    // 102 was reaped; only 101 is reported by the kernel.
    world.at(30).unreaped(101, ROOT, never()).exit(ROOT, TRACER);
    let outcome = world.outcome();
    assert_eq!(only(&outcome, FindingKind::Zombie).process.id.pid, 101);
    assert_eq!(outcome.verdict, Verdict::Leaked);
}

#[test]
fn an_unreaped_record_after_the_parents_exit_still_counts() {
    let mut world = World::new(Config { zombie_after: Duration::ZERO, ..Config::default() });
    world.at(10).fork(ROOT, 101).at(20).exit(101, ROOT).exit(ROOT, TRACER);
    world.unreaped(101, ROOT, never());
    assert_eq!(world.outcome().verdict, Verdict::Leaked);
}

#[test]
fn a_child_that_dies_together_with_its_parent_was_owed_nothing() {
    let mut world = World::new(Config { zombie_after: Duration::ZERO, ..Config::default() });
    world.at(10).fork(ROOT, 101).at(20).exit(101, ROOT);
    let event = Event::Unreaped {
        at: ms(20),
        process: world.id(101),
        parent: world.id(ROOT),
        waits: never(),
        not_yet: true,
    };
    world.lineage.handle(event);
    world.exit(ROOT, TRACER);
    assert_eq!(world.outcome().findings, []);
}

#[test]
fn a_dead_process_that_is_still_letting_go_is_looked_at_again() {
    let mut world = World::standard();
    world.at(10).fork(ROOT, 101).at(20).exit(101, ROOT).seen(101, 'R', ROOT).until(1500);
    assert!(!world.lineage.findings.has(world.id(101), FindingKind::Zombie));
    world.seen(101, 'Z', ROOT).until(1600).unreaped(101, ROOT, never()).exit(ROOT, TRACER);
    assert_eq!(only(&world.outcome(), FindingKind::Zombie).since, ms(20));
}

#[test]
fn with_too_many_children_to_look_at_the_answer_is_open() {
    for gone in [true, false] {
        let mut world = World::new(Config { zombie_after: Duration::ZERO, ..Config::default() });
        world.at(10).fork(ROOT, 101).fork(101, 102).at(20).exit(102, 101);
        world.seen(101, 'Z', ROOT).seen(102, 'Z', INIT);
        if gone {
            world.procfs.remove(&102);
        }
        let event = Event::Exit {
            at: ms(30),
            process: world.id(101),
            status: 0,
            parent: world.id(ROOT),
            children_uncounted: true,
        };
        world.at(30).lineage.handle(event);
        world.until(40).free(101).exit(ROOT, TRACER);
        let outcome = world.outcome();
        let expected = if gone { Verdict::Inconclusive } else { Verdict::Leaked };
        assert_eq!(outcome.verdict, expected);
    }
}

#[test]
fn lost_news_of_unreaped_children_is_a_gap() {
    let mut world = World::standard();
    world.at(10).fork(ROOT, 101).at(20).exit(101, ROOT).until(1500).exit(ROOT, TRACER);
    let at = ms(1500);
    world.lineage.handle(Event::Recovered {
        at,
        processes: Vec::new(),
        tracked: 2,
        dropped: 1,
        dropped_unreaped: 1,
        failed: 0,
    });
    assert_eq!(world.outcome().verdict, Verdict::Inconclusive);
}

#[test]
fn a_zombie_that_procfs_does_not_show_is_none() {
    let mut world = World::standard();
    world.at(10).fork(ROOT, 101).at(20).exit(101, ROOT);
    // Reaped; its free is late.
    world.procfs.remove(&101);
    world.until(1500).exit(ROOT, TRACER);
    assert_eq!(world.outcome().findings, []);
}

#[test]
fn an_adopter_that_does_not_reap_is_blamed_after_its_own_time() {
    let config = Config { init_zombie_after: Duration::from_secs(3), ..Config::default() };
    let mut world = World::new(config);
    world.at(10).fork(ROOT, 101).at(11).fork(101, 102);
    world.at(20).exit(101, ROOT).at(21).free(101).seen(102, 'S', INIT).until(40);
    world.at(50).exit(102, INIT).until(2000);
    assert!(!world.lineage.findings.has(world.id(102), FindingKind::Zombie));
    world.until(4000).exit(ROOT, TRACER);
    let outcome = world.outcome();
    let zombie = only(&outcome, FindingKind::Zombie);
    assert_eq!(zombie.cause.code, CauseCode::InitDoesNotReap);
    assert_eq!(zombie.since, ms(50));
    assert!(zombie.adopter.as_ref().unwrap().is_init);
}

#[test]
fn an_adopter_that_dies_with_its_zombies_put_nothing_right() {
    for abandoned in [true, false] {
        let config = Config { init_zombie_after: Duration::from_secs(3), ..Config::default() };
        let mut world = World::new(config);
        world.at(10).fork(ROOT, 101).at(11).fork(101, 102).at(12).fork(102, 103);
        world.at(20).exit(102, 101).seen(103, 'S', 101).until(30).free(102);
        world.at(50).exit(103, 101).until(4000);
        if abandoned {
            world.unreaped(103, 101, never());
        }
        world.exit(101, ROOT).at(4010).free(103).free(101).exit(ROOT, TRACER);
        let outcome = world.outcome();
        let zombie = only(&outcome, FindingKind::Zombie);
        assert_eq!(zombie.cause.code, CauseCode::InitDoesNotReap);
        assert_eq!(zombie.state == FindingState::Open, abandoned);
    }
}

#[test]
fn a_zombie_that_its_adopter_reaps_right_before_the_end_is_resolved() {
    for left in [false, true] {
        let config = Config { init_zombie_after: Duration::from_secs(3), ..Config::default() };
        let mut world = World::new(config);
        world.at(10).fork(ROOT, 101).at(11).fork(101, 102);
        world.at(20).exit(101, ROOT).seen(102, 'S', ROOT).until(30).free(101);
        world.at(50).exit(102, ROOT).until(4000);
        if left {
            world.unreaped(102, ROOT, never());
        }
        // The run is judged before the free of 102 comes.
        let outcome = world.exit(ROOT, TRACER).outcome();
        let zombie = only(&outcome, FindingKind::Zombie);
        assert_eq!(zombie.cause.code, CauseCode::InitDoesNotReap);
        assert_eq!(zombie.state == FindingState::Open, left);
        assert_eq!(outcome.verdict == Verdict::Leaked, left);
    }
}

/// The verdict where nothing is known of what comes after.
fn cut_off(world: &mut World, strict: bool) -> Verdict {
    world.lineage.cut_off();
    let policy = Policy { fail_on: &DEFAULT_FAIL_ON, strict, allow: &|_| None };
    world.lineage.outcome(ms(world.now), &[], 0, policy).verdict
}

#[test]
fn events_that_end_early_are_never_clean_and_only_what_is_certain_counts() {
    let mut nothing = World::standard();
    nothing.at(10).exit(ROOT, TRACER);
    assert_eq!(cut_off(&mut nothing, true), Verdict::Inconclusive);
    // Its parent may still reap it; that would be in time only without --strict.
    let mut standing = World::standard();
    standing.at(10).fork(ROOT, 101).fork(101, 102).at(20).exit(102, 101).until(1500);
    assert_eq!(cut_off(&mut standing, false), Verdict::Inconclusive);
    assert_eq!(cut_off(&mut standing, true), Verdict::Leaked);
    let mut left = standing;
    left.unreaped(102, 101, never()).exit(101, ROOT);
    assert_eq!(cut_off(&mut left, false), Verdict::Leaked);
    let mut survivor = World::standard();
    survivor.at(10).fork(ROOT, 101).at(20).exit(ROOT, TRACER).until(3000);
    assert_eq!(cut_off(&mut survivor, false), Verdict::Leaked);
}

#[test]
fn forkers_in_a_circle_come_to_an_end() {
    let mut world = World::standard();
    let (one, other) = (ProcessId { pid: 7, start: 9 }, ProcessId { pid: 8, start: 9 });
    for (child, forker) in [(one, other), (other, one)] {
        let pids = Pids { host: child.pid, local: None, namespace: 1, level: 1 };
        let at = ms(1);
        world.lineage.handle(Event::Fork {
            at,
            child,
            forker,
            parent: forker,
            pids,
            cgroup: None,
            root: false,
        });
    }
    world.at(10).exit(ROOT, TRACER).at(20);
    world.lineage.end_grace();
    for process in [one, other] {
        let observation =
            Box::new(Observation { exists: true, state: Some('S'), ..Observation::default() });
        world.lineage.handle(Event::Observed { at: ms(20), process, observation });
    }
    let outcome = world.outcome();
    assert_eq!(outcome.findings.len(), 2);
    assert!(outcome.findings.iter().all(|finding| finding.lineage.len() == 1));
}

#[test]
fn a_zombie_that_is_reaped_just_before_the_end_does_not_stand() {
    let config = Config { init_zombie_after: Duration::from_secs(3), ..Config::default() };
    for reaped in [true, false] {
        let mut world = World::new(config);
        // 102 is 101's, which lives on; 104 was 103's and is adopted by 101.
        world.at(10).fork(ROOT, 101).fork(101, 102).fork(101, 103).fork(103, 104);
        world.at(20).exit(103, 101).seen(104, 'S', 101).free(103).until(30);
        world.at(40).exit(102, 101).exit(104, 101).until(5000).exit(ROOT, TRACER).until(7100);
        if reaped {
            // The kernel has yet to tell.
            world.procfs.remove(&102);
            world.procfs.remove(&104);
        }
        world.lineage.look_for_the_last_time();
        let outcome = world.outcome();
        let zombies = outcome.findings.iter().filter(|one| one.kind == FindingKind::Zombie);
        let open: Vec<_> = zombies.map(|one| one.state == FindingState::Open).collect();
        assert_eq!(open, [!reaped, !reaped]);
    }
}

#[test]
fn every_life_is_told_once_with_what_is_known() {
    let mut world = World::new(Config { tell_lives: true, ..Config::default() });
    world.at(10).fork(ROOT, 101).exec(101, "/bin/job").at(11).fork(101, 102).fork(101, 103);
    world.at(20).exit_status(102, 101, 3 << 8).free(102).free(102);
    world.at(30).exit(101, ROOT).free(101).seen(103, 'S', INIT).until(40);
    world.at(50).exit(ROOT, TRACER).until(2100);
    world.lineage.tell_the_rest();
    world.answer();
    let pids: Vec<_> = world.lives.iter().map(|life| life.id.pid).collect();
    assert_eq!(pids, [102, 101, ROOT, 103]);
    let [child, _, root, orphan] = &world.lives[..] else { panic!() };
    assert_eq!((child.forker.pid, child.parent.pid, child.last_parent.pid), (101, 101, 101));
    assert_eq!((child.name.as_slice(), child.exec_at), (b"job".as_slice(), None));
    assert_eq!(child.exit.as_ref().unwrap().status, Some(ExitStatus::Code(3)));
    assert_eq!((child.reaped_by, child.gone_at), (Some(Reaper::Parent), Some(ms(20))));
    assert_eq!((root.reaped_by, root.gone_at), (Some(Reaper::Parent), None));
    assert_eq!((orphan.orphaned_at, orphan.exit.clone()), (Some(ms(30)), None));
    // Its adopter is outside.
    assert_eq!((orphan.parent.pid, orphan.last_parent.pid), (101, 0));
}

#[test]
fn no_life_is_told_unless_asked_for() {
    let mut world = World::standard();
    world.at(10).fork(ROOT, 101).exit(101, ROOT).free(101).exit(ROOT, TRACER);
    world.lineage.tell_the_rest();
    world.answer();
    assert_eq!(world.lives, []);
}

#[test]
fn waits_for_others_only_are_told_from_no_waits_and_given_up_waits() {
    let cases = [
        (WaitCounts { others: 3, last_other: 77, ..never() }, CauseCode::ParentWaitsForOthers),
        (WaitCounts { any: 1, ..never() }, CauseCode::ParentStoppedWaiting),
        (WaitCounts { this_child: 2, others: 9, ..never() }, CauseCode::ParentStoppedWaiting),
        // A wait for the process group that the child is in covers it.
        (WaitCounts { others: 1, last_other: ROOT, ..never() }, CauseCode::ParentStoppedWaiting),
        (never(), CauseCode::ParentNeverWaits),
    ];
    for (waits, expected) in cases {
        let mut world = World::standard();
        world.at(10).fork(ROOT, 101).at(20).exit(101, ROOT).until(1500);
        world.unreaped(101, ROOT, waits).exit(ROOT, TRACER);
        let outcome = world.outcome();
        assert_eq!(only(&outcome, FindingKind::Zombie).cause.code, expected, "{waits:?}");
    }
}

#[test]
fn a_parent_killed_before_it_could_wait_is_said() {
    let mut world = World::new(Config { zombie_after: Duration::ZERO, ..Config::default() });
    world.at(5).fork(ROOT, 101).at(10).fork(101, 102).at(20).exit(102, 101);
    world.at(25).signal(101, 9, ROOT).unreaped(102, 101, never()).exit_status(101, ROOT, 9);
    world.at(30).free(101).free(102).exit(ROOT, TRACER);
    let outcome = world.outcome();
    let zombie = only(&outcome, FindingKind::Zombie);
    assert_eq!(zombie.cause.code, CauseCode::ParentDiedBeforeWait);
    let end = zombie.parent.as_ref().unwrap().exit.clone().unwrap();
    assert_eq!(end.status, Some(ExitStatus::Signal(9)));
    assert_eq!(end.sender.unwrap(), Sender { pid: ROOT, name: b"agent".to_vec() });
}

#[test]
fn what_lives_when_grace_ends_is_a_survivor() {
    let mut world = World::standard();
    world.at(10).fork(ROOT, 101).exec(101, "/usr/bin/node").at(50).exit(ROOT, TRACER);
    assert_eq!(world.lineage.next_deadline(), Some(ms(2050)));
    world.seen(101, 'S', INIT).until(2100);
    let outcome = world.outcome();
    let survivor = only(&outcome, FindingKind::Survivor);
    assert_eq!(survivor.cause.code, CauseCode::AgentExitedWithoutCleanup);
    assert_eq!(survivor.since, ms(50));
    assert_eq!(survivor.adopter.as_ref().unwrap().pid, INIT);
    assert_eq!(survivor.lineage.iter().map(|one| one.pid).collect::<Vec<_>>(), [ROOT]);
    assert_eq!(outcome.verdict, Verdict::Leaked);
}

#[test]
fn what_ends_within_grace_is_clean_and_ends_the_wait() {
    let mut world = World::standard();
    world.at(10).fork(ROOT, 101).at(50).exit(ROOT, TRACER);
    assert!(!world.lineage.is_settled());
    world.at(60).exit(101, INIT);
    assert!(world.lineage.is_settled());
    assert_eq!(world.outcome().verdict, Verdict::Clean);
}

#[test]
fn a_killed_command_is_to_blame_for_what_it_left() {
    let mut world = World::standard();
    world.at(10).fork(ROOT, 101).at(50).signal(ROOT, 9, 77).exit_status(ROOT, TRACER, 9);
    world.until(2100);
    let outcome = world.outcome();
    let survivor = only(&outcome, FindingKind::Survivor);
    assert_eq!(survivor.cause.code, CauseCode::AgentKilled);
    assert!(survivor.cause.text.contains("SIGKILL from kill[77]"), "{}", survivor.cause.text);
}

#[test]
fn a_launcher_that_dies_leaves_the_real_agent() {
    let mut world = World::standard();
    world.at(10).fork(ROOT, 101).exec(101, "codex").at(50).exit_status(ROOT, TRACER, 9);
    world.at(60).fork(101, 102).at(70).exit(102, 101).free(102);
    world.until(2100);
    let outcome = world.outcome();
    let survivor = only(&outcome, FindingKind::Survivor);
    assert_eq!(survivor.cause.code, CauseCode::LauncherDied);
}

#[test]
fn an_orphan_is_found_while_the_invocation_runs_and_resolved_by_its_end() {
    let mut world = World::standard();
    world.at(10).fork(ROOT, 101).exec(101, "/bin/sh").at(11).fork(101, 102);
    world.exec(102, "/bin/server");
    world.at(20).exit(101, ROOT).seen(102, 'S', INIT).until(30).free(101);
    world.at(500).exit(102, INIT).at(600).exit(ROOT, TRACER);
    let outcome = world.outcome();
    let orphan = only(&outcome, FindingKind::Orphan);
    assert_eq!(orphan.cause.code, CauseCode::ShellDiedChildSurvived);
    assert_eq!(orphan.state, FindingState::Resolved(ms(500)));
    assert_eq!(orphan.adopter.as_ref().unwrap().pid, INIT);
    assert_eq!(outcome.verdict, Verdict::Clean);
}

#[test]
fn an_orphan_waits_for_the_kernel_to_hand_it_on() {
    let mut world = World::standard();
    world.at(10).fork(ROOT, 101).at(11).fork(101, 102);
    // The first look still shows the dead parent.
    world.at(20).exit(101, ROOT).until(25);
    world.seen(102, 'S', INIT).until(100);
    world.at(200).exit(ROOT, TRACER).until(2300);
    let outcome = world.outcome();
    assert_eq!(only(&outcome, FindingKind::Orphan).adopter.as_ref().unwrap().pid, INIT);
}

#[test]
fn a_child_that_dies_with_its_namespaces_init_is_no_orphan() {
    let mut world = World::standard();
    world.at(10).fork(ROOT, 101).at(11).fork(101, 102);
    world.at(20).exit(101, ROOT).exit(102, 101).free(102).at(21).free(101);
    world.at(30).exit(ROOT, TRACER);
    assert_eq!(world.outcome().findings, []);
}

#[test]
fn an_orphan_is_adopted_by_a_subreaper_of_the_invocation() {
    let mut world = World::standard();
    world.at(10).fork(ROOT, 101).at(11).fork(101, 102).at(12).fork(102, 103);
    world.at(20).exit(102, 101).seen(103, 'S', 101).until(30).free(102);
    world.at(40).exit(103, 101).at(41).free(103).at(50).exit(101, ROOT).at(60).free(101);
    world.at(70).exit(ROOT, TRACER);
    let outcome = world.outcome();
    let orphan = only(&outcome, FindingKind::Orphan);
    let adopter = orphan.adopter.as_ref().unwrap();
    assert_eq!((adopter.pid, adopter.is_init), (101, false));
}

#[test]
fn lineage_follows_the_forker_and_blame_the_parent() {
    let mut world = World::standard();
    world.at(5).fork(ROOT, 101).exec(101, "forker");
    // CLONE_PARENT: 102 is the root's child, forked by 101.
    world.at(10).fork_as(101, ROOT, 102, false).at(20).exit(102, ROOT).until(1500);
    world.unreaped(102, ROOT, never()).exit(101, ROOT).at(1510).free(101);
    world.exit(ROOT, TRACER);
    let outcome = world.outcome();
    let zombie = only(&outcome, FindingKind::Zombie);
    assert_eq!(zombie.parent.as_ref().unwrap().pid, ROOT);
    assert_eq!(zombie.lineage.iter().map(|one| one.pid).collect::<Vec<_>>(), [ROOT, 101]);
}

#[test]
fn a_daemon_is_told_by_its_session_and_by_its_double_fork() {
    for (sid, expected) in [(102, "setsid"), (ROOT, "double fork")] {
        let mut world = World::standard();
        world.at(10).fork(ROOT, 101).at(11).fork(101, 102);
        world.at(12).exit(101, ROOT).at(13).free(101).seen(102, 'S', INIT);
        world.procfs.get_mut(&102).unwrap().sid = Some(sid);
        world.until(40).exit(ROOT, TRACER).until(2100);
        let outcome = world.outcome();
        let survivor = only(&outcome, FindingKind::Survivor);
        assert_eq!(survivor.cause.code, CauseCode::Daemonized);
        assert!(survivor.cause.text.contains(expected), "{}", survivor.cause.text);
    }
}

#[test]
fn a_signal_that_is_caught_and_not_obeyed_is_a_slow_shutdown() {
    let mut world = World::standard();
    world.at(10).fork(ROOT, 101).at(20).signal(101, 15, ROOT).exit(ROOT, TRACER);
    world.seen(101, 'S', INIT).procfs.get_mut(&101).unwrap().caught = Some(1 << 14);
    world.until(2100);
    let outcome = world.outcome();
    let survivor = only(&outcome, FindingKind::Survivor);
    assert_eq!(survivor.cause.code, CauseCode::SlowShutdown);
}

#[test]
fn uninterruptible_sleep_is_stuck_only_when_it_never_wakes() {
    let config = Config { stuck_after: Duration::from_secs(1), ..Config::default() };
    let mut world = World::new(config);
    world.at(10).fork(ROOT, 101).at(20).seen(101, 'D', ROOT).until(5000);
    world.seen(101, 'S', ROOT).until(6000).exit(101, ROOT).free(101).exit(ROOT, TRACER);
    let outcome = world.outcome();
    let stuck = only(&outcome, FindingKind::Stuck);
    assert_eq!(stuck.cause.code, CauseCode::BlockedInKernel);
    assert!(matches!(stuck.state, FindingState::Resolved(_)));
    assert_eq!(outcome.verdict, Verdict::Clean);
}

#[test]
fn a_group_lives_on_when_only_its_leader_is_a_zombie() {
    let mut world = World::standard();
    world.at(10).fork(ROOT, 101).at(20).exit(ROOT, TRACER).seen(101, 'Z', INIT);
    world.procfs.get_mut(&101).unwrap().resources = Some(Resources::default());
    world.until(2100);
    assert_eq!(only(&world.outcome(), FindingKind::Survivor).process.id.pid, 101);
}

#[test]
fn a_second_exit_only_corrects_the_status() {
    let mut world = World::standard();
    world.at(10).fork(ROOT, 101).at(20).exit(101, ROOT).exit_status(101, ROOT, 5 << 8);
    world.until(1500).unreaped(101, ROOT, never()).exit(ROOT, TRACER);
    let outcome = world.outcome();
    let status = only(&outcome, FindingKind::Zombie).exit.as_ref().unwrap().status;
    assert_eq!(status, Some(ExitStatus::Code(5)));
}

#[test]
fn a_recycled_pid_is_another_process() {
    let mut world = World::standard();
    world.at(10).fork(ROOT, 101).at(20).exit(101, ROOT).until(1200);
    let first = world.id(101);
    world.at(1300).free(101).at(1301).fork(ROOT, 101).at(1400).exit(ROOT, TRACER);
    world.until(3500);
    let outcome = world.outcome();
    let survivor = only(&outcome, FindingKind::Survivor);
    assert_ne!(survivor.process.id, first);
    assert_eq!(only(&outcome, FindingKind::Zombie).process.id, first);
}

#[test]
fn the_dead_are_forgotten() {
    let mut world = World::standard();
    for round in 0..10_000_u32 {
        let pid = 1000 + round;
        world.fork(ROOT, pid).exit(pid, ROOT).free(pid);
    }
    assert_eq!(world.lineage.table.ids().len(), 1);
    assert_eq!(world.lineage.next_deadline(), world.lineage.next_sample);
    assert!(world.lineage.zombies.is_empty());
}

#[test]
fn recovery_converges_to_what_no_loss_would_have_told() {
    let mut lossy = World::standard();
    // Everything about 101 and 102 was lost; the walk tells of both.
    lossy.at(30).exit(ROOT, TRACER);
    lossy.starts.extend([(101, ms(10).0), (102, ms(11).0)]);
    let recovered = |pid: u32, start: u64, forker: ProcessId, dead: bool| RecoveredProcess {
        id: ProcessId { pid, start },
        forker,
        parent: forker,
        pids: Pids { host: pid, local: Some(pid), namespace: pid, level: 0 },
        cgroup: None,
        root: false,
        exec_at: None,
        exit: dead.then_some((ms(20), 0)),
        reaped: dead,
        unreaped: false,
        oom: false,
        signal: None,
        waits: None,
    };
    let root = lossy.id(ROOT);
    let forker = lossy.id(101);
    let processes = vec![
        recovered(102, ms(11).0, forker, false),
        recovered(101, ms(10).0, root, true),
        RecoveredProcess {
            exit: Some((ms(30), 0)),
            root: true,
            ..recovered(ROOT, root.start, ProcessId::default(), false)
        },
    ];
    lossy.seen(102, 'S', INIT);
    let at = ms(40);
    lossy.lineage.handle(Event::Recovered {
        at,
        processes,
        tracked: 3,
        dropped: 5,
        dropped_unreaped: 0,
        failed: 0,
    });
    lossy.until(2100);
    let outcome = lossy.outcome();
    let survivor = only(&outcome, FindingKind::Survivor);
    let line: Vec<_> = survivor.lineage.iter().map(|one| one.pid).collect();
    assert_eq!((survivor.process.id.pid, line), (102, vec![ROOT, 101]));
    assert_eq!((outcome.stats.unseen, outcome.stats.dropped), (0, 5));
}

#[test]
fn a_gap_that_could_change_the_answer_is_never_clean() {
    let mut world = World::standard();
    world.at(30).exit(ROOT, TRACER);
    let at = ms(40);
    world.lineage.handle(Event::Recovered {
        at,
        processes: Vec::new(),
        tracked: 3,
        dropped: 4,
        dropped_unreaped: 0,
        failed: 0,
    });
    let outcome = world.outcome();
    assert_eq!((outcome.verdict, outcome.stats.unseen), (Verdict::Inconclusive, 2));
    assert!(!outcome.notes.is_empty());
}

#[test]
fn a_certain_leak_stands_even_when_events_were_lost() {
    let mut world = World::standard();
    world.at(10).fork(ROOT, 101).at(30).exit(ROOT, TRACER).until(2100);
    world.lineage.gap.unseen = 7;
    assert_eq!(world.outcome().verdict, Verdict::Leaked);
}

#[test]
fn allowed_processes_are_kept_and_not_counted() {
    let mut world = World::standard();
    world.at(10).fork(ROOT, 101).exec(101, "/usr/bin/sccache").at(30).exit(ROOT, TRACER);
    world.until(2100);
    let policy = Policy {
        fail_on: &DEFAULT_FAIL_ON,
        strict: false,
        allow: &|process| (process.name == b"sccache").then(|| "sccache".to_owned()),
    };
    let outcome = world.lineage.outcome(ms(2100), &[], 0, policy);
    assert_eq!((outcome.verdict, outcome.findings.len()), (Verdict::Clean, 0));
    assert_eq!(outcome.kept[0].rule, "sccache");
}

/// What a look tells that procfs refuses.
fn refused() -> Observation {
    Observation { exists: true, ..Observation::default() }
}

#[test]
fn a_zombie_that_cannot_be_looked_at_is_looked_at_again_and_again() {
    let mut world = World::standard();
    world.at(10).fork(ROOT, 101).at(20).exit(101, ROOT);
    let zombie = world.procfs.insert(101, refused()).unwrap();
    world.until(3000);
    assert_eq!(world.lineage.findings.in_order().len(), 0);
    world.procfs.insert(101, zombie);
    world.until(4000).unreaped(101, ROOT, never()).exit(ROOT, TRACER);
    let outcome = world.outcome();
    assert_eq!(only(&outcome, FindingKind::Zombie).since, ms(20));
    assert_eq!((outcome.verdict, outcome.notes.len()), (Verdict::Leaked, 0));
}

#[test]
fn a_zombie_that_could_never_be_looked_at_is_not_called_clean() {
    let mut world = World::standard();
    world.at(10).fork(ROOT, 101).fork(101, 102).at(20).exit(102, 101);
    world.procfs.insert(102, refused());
    world.until(3000).exit(ROOT, TRACER).until(4999);
    // Its parent is allowed to live on, so that this alone would be clean.
    world.until(5100);
    world.answer();
    let allow = |process: &Process| (process.id.pid == 101).then(|| "101".to_owned());
    let policy = Policy { fail_on: &DEFAULT_FAIL_ON, strict: false, allow: &allow };
    let outcome = world.lineage.outcome(ms(5100), &[], 0, policy);
    assert_eq!((outcome.verdict, outcome.findings.len()), (Verdict::Inconclusive, 0));
    assert!(outcome.notes[0].contains("could not be looked at"), "{:?}", outcome.notes);
}

#[test]
fn looks_that_tell_nothing_become_rare() {
    // Without samples, which are events too.
    let stuck_after = Duration::from_secs(86_400);
    let mut world = World::new(Config { stuck_after, ..Config::default() });
    world.at(10).fork(ROOT, 101).at(20).exit(101, ROOT);
    world.procfs.insert(101, refused());
    let before = world.lineage.stats.events;
    world.until(3_600_000);
    let looks = world.lineage.stats.events - before;
    assert!((10..200).contains(&looks), "{looks} looks in an hour");
}

#[test]
fn what_outlived_grace_while_the_tracer_was_stopped_is_a_survivor() {
    let mut world = World::standard();
    world.at(10).fork(ROOT, 101).at(30).exit(ROOT, TRACER);
    // Nobody looks from here on: the records come in one go.
    world.at(2500).fork(101, 102);
    world.at(5000).exit(102, 101).free(102).exit(101, INIT).free(101);
    let outcome = world.outcome();
    assert_eq!(outcome.verdict, Verdict::Leaked);
    let survivor = only(&outcome, FindingKind::Survivor);
    assert_eq!((survivor.process.id.pid, survivor.state), (101, FindingState::Open));
}

#[test]
fn what_ended_within_grace_while_the_tracer_was_stopped_is_clean() {
    let mut world = World::standard();
    world.at(10).fork(ROOT, 101).at(30).exit(ROOT, TRACER);
    world.at(2029).exit(101, INIT).free(101).at(60_000);
    let outcome = world.outcome();
    assert_eq!((outcome.verdict, outcome.findings.len()), (Verdict::Clean, 0));
}

#[test]
fn a_zombie_that_stood_while_the_tracer_was_stopped_was_put_right_late() {
    let mut world = World::standard();
    world.at(10).fork(ROOT, 101).fork(ROOT, 102).at(20).exit(101, ROOT).exit(102, ROOT);
    // Reaped in time, as far as the late news of its end tell; and not.
    world.at(1900).free(101).at(4000).free(102).exit(ROOT, TRACER);
    let strict = world.outcome_with(true);
    let zombie = only(&strict, FindingKind::Zombie);
    assert_eq!((zombie.process.id.pid, zombie.since, zombie.until), (102, ms(20), ms(4000)));
    assert_eq!(strict.verdict, Verdict::Leaked);
    assert_eq!(world.outcome().verdict, Verdict::Clean);
}

/// What `PROCS` holds of a process that lives.
fn entry(world: &World, pid: u32, parent: u32) -> RecoveredProcess {
    RecoveredProcess {
        id: world.id(pid),
        forker: world.id(parent),
        parent: world.id(parent),
        pids: Pids { host: pid, local: Some(pid), namespace: pid, level: 0 },
        cgroup: None,
        root: pid == ROOT,
        exec_at: None,
        exit: None,
        reaped: false,
        unreaped: false,
        oom: false,
        signal: None,
        waits: None,
    }
}

/// A walk at this time found only the root.
fn recovered_alone(world: &mut World, at: u64, tracked: u64, dropped: u64, failed: u64) {
    let processes = vec![entry(world, ROOT, TRACER)];
    let at = ms(at);
    let dropped_unreaped = 0;
    let event = Event::Recovered { at, processes, tracked, dropped, dropped_unreaped, failed };
    world.lineage.handle(event);
}

#[test]
fn a_reap_at_an_unknown_time_leaves_only_a_strict_verdict_open() {
    let mut world = World::standard();
    world.at(10).fork(ROOT, 101).at(20).exit(101, ROOT).at(4000);
    world.procfs.remove(&101);
    recovered_alone(&mut world, 4000, 2, 1, 0);
    world.exit(ROOT, TRACER);
    assert_eq!(world.outcome_with(true).verdict, Verdict::Inconclusive);
    assert_eq!(world.outcome().verdict, Verdict::Clean);
}

#[test]
fn processes_without_room_in_the_table_are_counted_once_and_found_alive() {
    let mut world = World::standard();
    // Three that the table refused: two whose forks were told, one whose was not.
    world.at(10).fork(ROOT, 101).fork(ROOT, 102).at(1000);
    world.procfs.remove(&102);
    recovered_alone(&mut world, 1000, 4, 1, 3);
    world.exit(ROOT, TRACER).until(4000);
    let outcome = world.outcome();
    assert_eq!(only(&outcome, FindingKind::Survivor).process.id.pid, 101);
    let Stats { processes, unseen, .. } = outcome.stats;
    assert_eq!((processes, unseen), (3, 1));
}

#[test]
fn a_process_that_went_unseen_just_before_a_walk_is_a_gap() {
    let mut world = World::standard();
    world.at(10).fork(ROOT, 101).at(1000).fork(ROOT, 102).at(1020);
    // Its end was lost, and the walk came too soon after its fork to say that it is gone.
    world.procfs.remove(&102);
    recovered_alone(&mut world, 1020, 3, 2, 0);
    world.exit(ROOT, TRACER).until(4000);
    let outcome = world.outcome();
    assert_eq!(outcome.verdict, Verdict::Inconclusive, "{outcome:?}");
}

#[test]
fn a_zombie_that_only_the_table_knows_is_judged_by_its_parents_end() {
    for (died, verdict) in [(20, Verdict::Leaked), (3500, Verdict::Clean)] {
        let mut world = World::standard();
        // All records of 101 and 102 were lost; 101 ended at 4000 and left 102.
        world.starts.extend([(101, ms(10).0), (102, ms(11).0)]);
        let root = entry(&world, ROOT, TRACER);
        let parent = RecoveredProcess {
            exit: Some((ms(4000), 0)),
            reaped: true,
            ..entry(&world, 101, ROOT)
        };
        let zombie = RecoveredProcess {
            exit: Some((ms(died), 0)),
            unreaped: true,
            ..entry(&world, 102, 101)
        };
        world.seen(102, 'Z', INIT);
        world.lineage.handle(Event::Recovered {
            at: ms(4100),
            processes: vec![zombie, parent, root],
            tracked: 3,
            dropped: 5,
            dropped_unreaped: 1,
            failed: 0,
        });
        world.at(4200).exit(ROOT, TRACER);
        assert_eq!(world.outcome().verdict, verdict, "died at {died}");
    }
}

#[test]
fn a_zombie_that_was_gone_at_a_late_look_waits_for_the_news_of_its_reap() {
    for (told, verdict) in [(false, Verdict::Inconclusive), (true, Verdict::Leaked)] {
        let mut world = World::standard();
        world.at(10).fork(ROOT, 101).at(20).exit(101, ROOT).at(4000);
        world.procfs.remove(&101);
        world.lineage.handle_timeout(ms(4000));
        world.answer();
        if told {
            world.at(4010).free(101);
        }
        world.exit(ROOT, TRACER);
        assert_eq!(world.outcome_with(true).verdict, verdict);
        assert_eq!(world.outcome().verdict, Verdict::Clean);
    }
}

/// Lets `pid` fork `next` and end; `next` is its orphan.
fn hand_over(world: &mut World, pid: u32, next: u32) {
    world.fork(pid, next).exit(pid, ROOT).seen(next, 'S', INIT);
    world.answer();
    world.free(pid);
}

#[test]
fn of_an_endless_line_of_forkers_the_middle_is_left_out() {
    let mut world = World::standard();
    world.at(10).fork(ROOT, 1000);
    for generation in 1000..61_000 {
        hand_over(&mut world, generation, generation + 1);
    }
    let held = world.lineage.table.ids().len();
    assert!(held < 25_000, "{held} entries");
    world.at(20).exit(ROOT, TRACER).until(2100);
    let outcome = world.outcome();
    let survivor = only(&outcome, FindingKind::Survivor);
    let pids: Vec<_> = survivor.lineage.iter().map(|one| one.pid).collect();
    assert_eq!(pids.len(), 64);
    assert_eq!(pids[..3], [ROOT, 1000, 1001]);
    assert_eq!(pids[61..], [60_997, 60_998, 60_999]);
    assert_eq!(survivor.lineage_elided, 60_001 - 64);
}

#[test]
fn findings_of_the_gone_beyond_many_are_counted_and_change_no_verdict() {
    for (allow, verdict) in [(false, Verdict::Leaked), (true, Verdict::Clean)] {
        let mut world = World::standard();
        let most = 5000;
        world.at(10);
        for pid in 1000..1000 + most {
            world.fork(ROOT, pid).exec(pid, "/bin/job").exit(pid, ROOT);
        }
        world.until(1500);
        for pid in 1000..1000 + most {
            world.unreaped(pid, ROOT, never());
        }
        world.exit(ROOT, TRACER);
        for pid in 1000..1000 + most {
            world.free(pid);
        }
        assert!(world.lineage.table.ids().len() < 4200);
        let policy = Policy {
            fail_on: &DEFAULT_FAIL_ON,
            strict: false,
            allow: &|process| {
                // The first ones are allowed anyway: what is only counted decides.
                (allow || process.id.pid != 0).then(|| "job".to_owned())
            },
        };
        let outcome = world.lineage.outcome(ms(2000), &[], 0, policy);
        assert_eq!(outcome.verdict, verdict);
        assert!(
            outcome.notes[0].contains("904 zombie (parent_never_waits)"),
            "{:?}",
            outcome.notes
        );
    }
}
