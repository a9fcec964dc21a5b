//! What outlives the root.

use super::*;

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
