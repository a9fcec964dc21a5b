//! PID namespaces: leaks inside of them, inits that do not reap, and tracer itself in one.

use std::time::Duration;

use tracer_tests::{Run, proc, sys};

const LONG: Duration = Duration::from_millis(700);
/// As container runtimes do: tracer is the first process of its PID namespace. The namespace ends
/// with `unshare`, however that ends.
const CONTAINER: [&str; 4] = ["unshare", "-pf", "--kill-child", "--mount-proc"];
/// The same with another first process.
const BESIDE_AN_INIT: [&str; 8] =
    ["unshare", "-pf", "--kill-child", "--mount-proc", "sh", "-c", r#""$@"; exit $?"#, "sh"];

/// A command in a PID namespace of its own, which tracer is not in.
fn in_namespace(args: &[&str]) -> Run {
    let workload = tracer_tests::binary::workload().to_str().expect("a path of UTF-8");
    Run::command(["unshare", "-pf", workload].iter().chain(args).copied())
}

#[test]
fn zombie_inside_of_a_namespace_is_told_with_both_pids() {
    // The root is `unshare`; the namespace's init has one child, whose child is the zombie.
    let run = in_namespace(&["never-waits", "deep=yes"]);
    let finished = run.zombie_after("200ms").standing_for("standing", LONG).finish();
    finished.expect_leak();
    let (zombie, parent) = (finished.fact("zombie"), finished.fact("parent"));
    assert_eq!((parent.own_pid, zombie.own_pid), (2, 3));
    finished
        .only_finding("zombie", zombie.pid)
        .expect("/process/namespace_pid", 3)
        .expect_parent(parent.pid, "workload")
        .expect_cause("parent_never_waits");
}

#[test]
fn zombie_that_the_kernel_reaps_for_a_dying_init_still_counts() {
    // zap_pid_ns_processes() waits for every child in the dying init's name.
    let run = in_namespace(&["never-waits"]);
    let finished = run.zombie_after("200ms").standing_for("standing", LONG).finish();
    finished.expect_leak();
    let zombie = finished.fact("zombie");
    finished
        .only_finding("zombie", zombie.pid)
        .expect_open()
        .expect("/process/namespace_pid", 2)
        .expect_cause("parent_never_waits");
}

#[test]
fn survivors_inside_of_a_namespace_are_told_with_both_pids() {
    let running = in_namespace(&["keeps-server"]).grace("300ms").start();
    let (init, server) = (running.held("leaving").pid, running.fact("sleeper").pid);
    let root = proc::ppid(init).expect("it holds");
    sys::signal_pidfd(&sys::open_pidfd(root).unwrap(), libc::SIGKILL);
    let finished = running.finish();
    finished.expect_verdict("leaked").expect_code(137);
    for (pid, namespace_pid) in [(init, 1), (server, 2)] {
        finished.finding("survivor", pid).expect("/process/namespace_pid", namespace_pid);
    }
    finished.finding("survivor", init).expect_cause("agent_killed");
}

#[test]
fn first_process_of_a_container_that_does_not_reap_is_to_blame() {
    let run = in_namespace(&["init"]).options(["--init-zombie-after", "200ms"]);
    let finished = run.standing_for("standing", LONG).finish();
    finished.expect_leak();
    let init = finished.fact("init").pid;
    finished
        .only_finding("zombie", finished.fact("zombie").pid)
        .expect("/process/namespace_pid", 3)
        .expect_cause("init_does_not_reap")
        .expect("/adopter/pid", init)
        .expect("/adopter/init", true);
}

#[test]
fn tracer_finds_leaks_inside_of_a_container() {
    for around in [&CONTAINER[..], &BESIDE_AN_INIT[..]] {
        let run = Run::workload(["never-waits", "child-code=3"]).zombie_after("200ms");
        let finished = run.standing_for("standing", LONG).under(around.iter().copied()).finish();
        finished.expect_leak();
        let (zombie, parent) = (finished.fact("zombie"), finished.fact("parent"));
        assert_ne!(zombie.pid, zombie.own_pid);
        let finding = finished.only_finding("zombie", zombie.own_pid);
        finding
            .expect_parent(parent.own_pid, "workload")
            .expect_cause("parent_never_waits")
            .expect("/exit/code", 3);
        if proc::is_in_initial_pid_namespace() {
            finding.expect("/process/host_pid", zombie.pid);
        }
    }
}

#[test]
fn tracer_finds_survivors_and_what_they_hold_inside_of_a_container() {
    for around in [&CONTAINER[..], &BESIDE_AN_INIT[..]] {
        let run = Run::workload(["keeps-server", "listen=tcp"]).grace("300ms");
        let run = run.standing_for("leaving", Duration::ZERO);
        let finished = run.under(around.iter().copied()).finish();
        finished.expect_leak();
        let server = finished.fact("sleeper");
        let address = format!("127.0.0.1:{}", server.number("port"));
        finished
            .only_finding("survivor", server.own_pid)
            .expect("/adopter/pid", 1)
            .expect("/adopter/init", true)
            .expect_listed("/resources/listening", &address);
    }
}

#[test]
fn clean_command_is_clean_inside_of_a_container() {
    for around in [&CONTAINER[..], &BESIDE_AN_INIT[..]] {
        let run = Run::shell("true & true | true; sh -c 'exit 0'; wait");
        run.under(around.iter().copied()).finish().expect_clean();
    }
}

#[test]
fn tracer_as_first_process_reaps_orphans() {
    // The workload fails by itself when its dead orphan is not reaped while it runs.
    let finished = Run::workload(["orphans-die-reaped"]).under(CONTAINER).finish();
    finished.expect_clean();
}

#[test]
fn tracer_as_first_process_forwards_signals() {
    let running = Run::workload(["signals", "code=5"]).under(CONTAINER).start();
    let command = running.fact("ready").pid;
    let tracer = proc::ppid(command).expect("it waits for signals");
    sys::signal_pidfd(&sys::open_pidfd(tracer).unwrap(), libc::SIGTERM);
    let finished = running.finish();
    finished.expect_code(5);
    assert_eq!(finished.fact("signal-15").pid_of("sender"), 1, "{finished:#}");
}
