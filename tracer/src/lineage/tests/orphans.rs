//! What outlives its parent while the invocation runs, and what sleeps for ever.

use super::*;

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
