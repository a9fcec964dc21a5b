//! Lives from fork to reap, and how much of the past is kept.

use super::*;

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
            thread: None,
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
