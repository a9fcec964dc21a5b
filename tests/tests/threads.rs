//! Threads: a process is its group, whichever thread forks, executes or ends.

use std::time::Duration;

use tracer_tests::{Run, proc, sys};

const LONG: Duration = Duration::from_millis(600);

fn zombies_after_100ms(run: Run) -> Run {
    run.zombie_after("100ms").standing_for("standing", LONG)
}

#[test]
fn child_forked_by_any_thread_is_the_process_s() {
    let finished = zombies_after_100ms(Run::workload(["thread-forks"])).finish();
    finished.expect_leak();
    let parent = finished.fact("parent").pid;
    let finding = finished.only_finding("zombie", finished.fact("zombie").pid);
    finding.expect_parent(parent, "workload").expect_cause("parent_never_waits");
    assert_eq!(finding.lineage_pids(), [i64::from(parent)]);
}

#[test]
fn child_whose_forking_thread_ended_is_no_orphan_and_still_the_process_s() {
    let running = zombies_after_100ms(Run::workload(["thread-forks", "thread=ends"])).start();
    let parent = running.fact("thread-gone").pid;
    running.release("child");
    let finished = running.finish();
    finished.expect_leak();
    assert_eq!(finished.findings_of("orphan").len(), 0, "{finished:#}");
    finished
        .only_finding("zombie", finished.fact("zombie").pid)
        .expect_parent(parent, "workload")
        .expect_cause("parent_never_waits");
}

#[test]
fn group_that_lives_without_its_leader_is_no_zombie() {
    let finished = Run::workload(["leader-exits-first", "reaped=yes"])
        .zombie_after("100ms")
        .standing_for("leader-gone", LONG)
        .finish();
    finished.expect_nothing_found();
    assert_eq!(finished.stat("processes"), 2, "{finished:#}");
}

#[test]
fn group_that_lost_its_leader_dies_once_and_then() {
    let run = zombies_after_100ms(Run::workload(["leader-exits-first"]));
    let finished = run.standing_for("leader-gone", LONG).finish();
    finished.expect_leak();
    let finding = finished.only_finding("zombie", finished.fact("group").pid);
    finding.expect("/exit/code", 4).expect_cause("parent_never_waits");
    let (ending, standing) = (finished.fact("ending").at, finished.held_at("standing"));
    finished.expect_order(&[ending, finding.since(), standing]);
    assert_eq!(finished.stat("processes"), 2, "{finished:#}");
}

#[test]
fn status_of_a_group_whose_threads_ended_one_by_one_is_what_wait_would_say() {
    let args = ["leader-exits-first", "last=thread"];
    let alone = Run::workload(args.iter().chain(&["reaped=yes"]).copied()).alone();
    let alone = alone.standing_for("leader-gone", Duration::ZERO).finish();
    let run = zombies_after_100ms(Run::workload(args));
    let finished = run.standing_for("leader-gone", Duration::ZERO).finish();
    finished.expect_leak();
    finished
        .only_finding("zombie", finished.fact("group").pid)
        .expect("/exit/code", alone.fact("parent").number("code"));
}

#[test]
fn survivor_without_its_leader_is_alive() {
    // The group holds at `leader-gone` for good; its root's end does not change that.
    let line = r#""$WORKLOAD" leader-exits-first & exec "$WORKLOAD" await names=group"#;
    let running = Run::shell(line).grace("300ms").start();
    let group = running.held("leader-gone").pid;
    let finished = running.finish();
    finished.expect_leak();
    finished.finding("survivor", group);
    assert_eq!(proc::state(group), Some('Z'), "as procfs shows the dead leader");
    assert!(!sys::dies_within(&sys::open_pidfd(group).unwrap(), Duration::ZERO));
}

#[test]
fn exec_from_a_thread_is_no_death() {
    let finished = Run::workload(["thread-execs", "reaped=yes"])
        .zombie_after("0s")
        .standing_for("standing", Duration::ZERO)
        .finish();
    finished.expect_nothing_found();
    assert_eq!(finished.stat("processes"), 2, "{finished:#}");
}

#[test]
fn zombie_that_had_executed_from_a_thread_is_found_once_under_its_pid() {
    let finished = zombies_after_100ms(Run::workload(["thread-execs"])).finish();
    finished.expect_leak();
    let parent = finished.fact("parent");
    finished
        .only_finding("zombie", parent.pid_of("child"))
        .expect_parent(parent.pid, "workload")
        .expect("/process/args/1", "exit")
        .expect("/process/args/2", "as=executed");
    assert_eq!(finished.stat("processes"), 2, "{finished:#}");
}

#[test]
fn survivor_that_had_executed_from_a_thread_is_found_once_under_its_pid() {
    let run = Run::workload(["thread-execs", "into=sleep"]).grace("300ms");
    let finished = run.standing_for("standing", Duration::ZERO).finish();
    finished.expect_leak();
    finished
        .only_finding("survivor", finished.fact("parent").pid_of("child"))
        .expect("/process/args/1", "sleep");
}

#[test]
fn zombie_made_by_vfork_is_its_parent_s() {
    let finished = zombies_after_100ms(Run::workload(["vfork-zombie"])).finish();
    finished.expect_leak();
    finished
        .only_finding("zombie", finished.fact("zombie").pid)
        .expect_parent(finished.fact("parent").pid, "workload")
        .expect("/exit/code", 6);
}
