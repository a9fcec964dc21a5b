//! Zombies: of their own parents, and of their adopters.

use super::*;

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
        waits: Some(never()),
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
