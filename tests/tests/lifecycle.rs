//! tracer's own end: nothing of it stays in the kernel, and COMMAND does not die with it.

use std::collections::BTreeSet;

use tracer_tests::bpf::{self, Kind};
use tracer_tests::{Run, proc};

/// Programs called like tracer's that no process holds: pinned, or kept by an attachment.
fn stray_programs() -> BTreeSet<u32> {
    let processes = std::fs::read_dir("/proc").expect("procfs").flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let held: BTreeSet<u32> = pids.flat_map(|pid| bpf::held_by(pid, Kind::Program)).collect();
    let named = |id: &u32| bpf::program_name(*id).is_some_and(|name| name.starts_with("tracer_"));
    bpf::ids(Kind::Program).into_iter().filter(named).filter(|id| !held.contains(id)).collect()
}

#[test]
fn killed_tracer_leaves_the_command_running_and_nothing_in_the_kernel() {
    let running = Run::workload(["sleep"]).start();
    let command = running.fact("sleeper").pid;
    let objects = bpf::all_held_by(running.pid);
    bpf::expect_loaded(&objects);
    running.signal(libc::SIGKILL);
    let finished = running.finish();
    assert_eq!(finished.status.code(), None, "{finished:#}");
    bpf::expect_gone(&objects);
    proc::until("no stray programs", || stray_programs().is_empty().then_some(()));
    assert!(proc::is_alive(command));
}

#[test]
fn tracer_that_ends_leaves_nothing_in_the_kernel() {
    let running = Run::workload(["outlives-briefly"]).start();
    running.held("brief");
    let objects = bpf::all_held_by(running.pid);
    bpf::expect_loaded(&objects);
    running.release("brief");
    running.finish().expect_clean();
    bpf::expect_gone(&objects);
}

#[test]
fn command_runs_at_the_priority_that_tracer_was_started_with() {
    // Whoever runs the tests may have given them less than is usual.
    let nice = std::process::Command::new("nice").output().expect("nice").stdout;
    let own = String::from_utf8_lossy(&nice).trim().parse::<i32>().expect("a number");
    let finished = Run::command(["nice"]).finish();
    assert_eq!(finished.expect_code(0).stdout_text(), format!("{own}\n"));
    let finished = Run::command(["nice"]).under(["nice", "-n", "5"]).finish();
    let lower = (own + 5).min(19);
    assert_eq!(finished.expect_code(0).stdout_text(), format!("{lower}\n"));
}
