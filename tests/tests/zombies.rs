//! Dead children that nobody reaps: whose they are, why, and when they are no leak.

use std::time::Duration;

use serde_json::Value;
use tracer_tests::{Run, binary, finished, sys};

/// Longer than the `--zombie-after` of these tests by far.
const LONG: Duration = Duration::from_millis(700);

fn zombies_after_200ms(run: Run) -> Run {
    run.zombie_after("200ms").standing_for("standing", LONG)
}

fn name_of(program: &std::path::Path) -> String {
    program.file_name().expect("a program has a name").to_string_lossy().into_owned()
}

#[test]
fn zombie_of_a_python_parent_that_ends_by_os_exit_is_a_leak() {
    let run = zombies_after_200ms(Run::python("never_waits.py", &["os_exit"]));
    let finished = run.finish();
    finished.expect_leak();
    let (zombie, parent) = (finished.fact("zombie"), finished.fact("parent"));
    let finding = finished.only_finding("zombie", zombie.pid);
    finding
        .expect_open()
        .expect_cause("parent_never_waits")
        .expect_parent(parent.pid, &name_of(binary::python()))
        .expect("/parent/exit/code", 0)
        .expect("/exit/code", 7)
        .expect("/resources", Value::Null)
        .expect("/process/name", "workload")
        .expect("/process/ppid", parent.pid)
        .expect("/counted", true)
        .expect_at_least("/seconds", 0.2);
    assert_eq!(finding.lineage_pids(), [i64::from(parent.pid)]);
    let ended = finished::time(&finished.report["invocation"]["ended_at"]);
    finished.expect_order(&[zombie.at, finding.since(), finished.held_at("standing"), ended]);
}

#[test]
fn zombie_that_stood_too_long_stays_the_parent_s_when_a_signal_ends_the_parent() {
    let run = zombies_after_200ms(Run::python("never_waits.py", &["signal", "15"]));
    let finished = run.finish();
    // COMMAND's own failure is the status; the leak is in the report.
    finished.expect_verdict("leaked").expect_code(143);
    finished
        .only_finding("zombie", finished.fact("zombie").pid)
        .expect_open()
        .expect_cause("parent_never_waits")
        .expect("/parent/exit/signal", "SIGTERM");
}

#[test]
fn zombie_that_cpython_reaps_at_its_normal_end_is_resolved() {
    let run = zombies_after_200ms(Run::python("never_waits.py", &["normally"]));
    let finished = run.finish();
    finished.expect_clean();
    let finding = finished.only_finding("zombie", finished.fact("zombie").pid);
    finding.expect_resolved().expect("/counted", false).expect_at_least("/seconds", 0.2);
}

#[test]
fn resolved_zombie_fails_a_strict_run() {
    let run = zombies_after_200ms(Run::python("never_waits.py", &["normally"]));
    let finished = run.options(["--strict"]).finish();
    finished.expect_leak();
    finished.only_finding("zombie", finished.fact("zombie").pid).expect_resolved();
}

#[test]
fn zombie_reaped_before_its_time_is_no_finding() {
    let run = Run::python("never_waits.py", &["normally"]).zombie_after("30s");
    run.standing_for("standing", Duration::ZERO).finish().expect_nothing_found();
}

/// On a slow machine fewer: where hooks may be preempted, more of them at once stand in one than it has
/// programs, and the run is inconclusive.
fn five_hundred() -> Run {
    let children = format!("children={}", 500 / sys::slowness());
    Run::workload(["never-waits", &children]).standing_for("standing", Duration::from_millis(800))
}

#[test]
fn five_hundred_children_never_waited_for_are_all_found_when_asked_for() {
    let finished = five_hundred().zombie_after("0s").finish();
    finished.expect_leak();
    let children = finished.fact("parent").details["children"].clone();
    let mut children: Vec<_> =
        children.as_array().unwrap().iter().filter_map(Value::as_i64).collect();
    children.sort_unstable();
    assert_eq!(finished.pids_of("zombie"), children);
    let parent = finished.fact("parent").pid;
    for finding in finished.findings() {
        finding.expect_parent(parent, "workload").expect_cause("parent_never_waits");
    }
}

#[test]
fn five_hundred_children_of_a_short_command_are_no_leak_by_default() {
    five_hundred().zombie_after_patience(20).finish().expect_nothing_found();
}

#[test]
fn child_of_a_shell_that_ends_at_once_is_no_leak() {
    Run::shell("true & exit 0").finish().expect_nothing_found();
}

#[test]
fn child_of_a_shell_that_ends_at_once_is_no_leak_when_its_adopter_reaps_late() {
    // This adopter reaps nothing until tracer has ended.
    let around = [binary::workload().as_os_str(), "subreaper".as_ref(), "--".as_ref()];
    Run::shell("true & exit 0").under(around).finish().expect_nothing_found();
}

#[test]
fn parent_that_waits_for_other_children_only_is_told_so() {
    let finished = zombies_after_200ms(Run::workload(["waits-for-others"])).finish();
    finished.expect_leak();
    let parent = finished.fact("parent");
    finished
        .only_finding("zombie", finished.fact("zombie").pid)
        .expect_open()
        .expect_cause("parent_waits_for_others")
        .expect_parent(parent.pid, "workload")
        .expect("/parent/waits/any", 0)
        .expect("/parent/waits/this_child", 0)
        .expect_at_least("/parent/waits/others", 1.0)
        .expect("/parent/waits/last_other", parent.pid_of("other"));
}

#[test]
fn parent_killed_before_it_could_wait_is_told_with_its_killer() {
    let run = Run::workload(["killed-before-wait"]).zombie_after("0s");
    let finished = run.finish();
    finished.expect_leak();
    let (parent, root) = (finished.fact("parent").pid, finished.fact("root").pid);
    let finding = finished.only_finding("zombie", finished.fact("zombie").pid);
    finding
        .expect_cause("parent_died_before_wait")
        .expect_parent(parent, "workload")
        .expect("/parent/exit/signal", "SIGKILL")
        .expect("/parent/exit/sender/pid", root)
        .expect("/parent/exit/sender/name", "workload");
    assert_eq!(finding.lineage_pids(), [i64::from(root), i64::from(parent)]);
}

#[test]
fn parent_killed_before_it_could_wait_is_no_leak_by_default() {
    let finished = Run::workload(["killed-before-wait"]).zombie_after("20s").finish();
    finished.expect_nothing_found();
}

#[test]
fn children_of_a_parent_that_ignores_sigchld_are_no_finding() {
    for how in ["how=ignore", "how=nocldwait"] {
        let finished = Run::workload(["ignores-sigchld", how])
            .zombie_after("0s")
            .standing_for("standing", Duration::ZERO)
            .finish();
        finished.expect_nothing_found();
    }
}

#[test]
fn child_that_vanishes_while_its_parent_ends_is_no_finding() {
    for how in ["how=ignore", "how=nocldwait"] {
        let run = Run::workload(["ends-as-ignored-child-dies", how]).zombie_after("0s");
        run.finish().expect_nothing_found();
    }
}

#[test]
fn zombie_made_with_clone_parent_is_its_parent_s_and_descends_from_its_forker() {
    let finished = zombies_after_200ms(Run::workload(["clone-parent"])).finish();
    finished.expect_leak();
    let [root, parent, forker] = ["root", "parent", "forker"].map(|name| finished.fact(name).pid);
    let finding = finished.only_finding("zombie", finished.fact("zombie").pid);
    finding.expect_parent(parent, "workload").expect_cause("parent_waits_for_others");
    assert_eq!(finding.lineage_pids(), [root, parent, forker].map(i64::from));
}

#[test]
fn zombie_of_a_parent_below_the_root_is_told_with_its_lineage() {
    let run = zombies_after_200ms(Run::workload(["never-waits", "deep=yes"]));
    let finished = run.finish();
    finished.expect_leak();
    let [root, parent] = ["root", "parent"].map(|name| finished.fact(name).pid);
    let finding = finished.only_finding("zombie", finished.fact("zombie").pid);
    finding.expect_parent(parent, "workload").expect_cause("parent_never_waits");
    assert_eq!(finding.lineage_pids(), [root, parent].map(i64::from));
}

#[test]
fn waits_of_a_shell_say_nothing_about_the_program_it_executes() {
    // The shell waits for a child, then becomes the program that never waits.
    let run = Run::shell(r#"(exit 0); sh -c 'exit 0'; exec "$WORKLOAD" never-waits"#);
    let finished = zombies_after_200ms(run).finish();
    finished.expect_leak();
    finished
        .only_finding("zombie", finished.fact("zombie").pid)
        .expect_cause("parent_never_waits")
        .expect_parent(finished.fact("parent").pid, "workload");
}

#[test]
fn subreaper_that_does_not_reap_an_orphan_is_to_blame() {
    let finished = Run::workload(["init", "as=subreaper"])
        .options(["--init-zombie-after", "200ms"])
        .standing_for("standing", LONG)
        .finish();
    finished.expect_leak();
    let init = finished.fact("init").pid;
    finished
        .only_finding("zombie", finished.fact("zombie").pid)
        .expect_cause("init_does_not_reap")
        .expect("/adopter/pid", init)
        .expect("/adopter/name", "workload")
        .expect("/adopter/init", false);
}

#[test]
fn adopter_has_thirty_seconds_by_default() {
    let run = Run::workload(["init", "as=subreaper"]).zombie_after("100ms");
    let finished = run.standing_for("standing", LONG).finish();
    finished.expect_clean();
    assert_eq!(finished.findings_of("zombie").len(), 0, "{finished:#}");
}

#[test]
fn wait_for_any_child_is_told_from_waits_for_others() {
    // Waits once, too early, in each of the two ways; then lets the child stand.
    for wait in ["os.waitpid(-1, os.WNOHANG)", "os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG)"] {
        let script = format!(
            "import os, select\n\
             release, hold = os.pipe()\n\
             child = os.fork()\n\
             if child == 0: os.close(hold); os.read(release, 1); os._exit(0)\n\
             {wait}\n\
             death = os.pidfd_open(child)\n\
             os.close(hold)\n\
             select.select([death], [], [])\n\
             select.select([], [], [], 0.6)\n\
             os._exit(0)"
        );
        let run = Run::command([binary::python().as_os_str(), "-c".as_ref(), script.as_ref()]);
        let finished = run.zombie_after("200ms").finish();
        finished.expect_leak();
        let waits = finished.report["findings"][0]["parent"]["waits"].clone();
        assert_eq!((&waits["any"], &waits["others"]), (&1.into(), &0.into()), "{wait}");
        assert_eq!(finished.report["findings"][0]["cause"]["code"], "parent_stopped_waiting");
    }
}
