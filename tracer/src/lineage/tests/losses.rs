//! Records lost, looks refused, a tracer that was stopped: what may still be said.

use super::*;

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
    let pids = Pids { host: pid, local: Some(pid), namespace: pid, level: 0 };
    let parent = world.id(parent);
    let forked = RecoveredProcess::forked(world.id(pid), parent, parent, pids);
    RecoveredProcess { root: pid == ROOT, ..forked }
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
