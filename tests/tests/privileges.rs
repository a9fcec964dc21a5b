//! What tracer needs, and what it says where it lacks that.

use tracer_tests::{Finished, Run, binary, proc};

const CAP_SYS_ADMIN: u32 = 21;
const CAP_SYS_RESOURCE: u32 = 24;
const CAP_PERFMON: u32 = 38;
const CAP_BPF: u32 = 39;

/// Runs a command that leaves a marker, without these capabilities; whether it was run.
fn without(capabilities: &[u32]) -> (Finished, bool) {
    let numbers: Vec<_> = capabilities.iter().map(u32::to_string).collect();
    let drop = format!("drop={}", numbers.join(","));
    let workload = binary::workload().to_str().expect("a path of UTF-8");
    let run = Run::command(["touch"]).under([workload, "without-capabilities", &drop, "--"]);
    let marker = run.path("marker");
    let finished = run.arguments([&marker]).finish();
    let was_run = marker.exists();
    (finished, was_run)
}

#[track_caller]
fn expect_refused(capabilities: &[u32], missing: &str) {
    let (finished, was_run) = without(capabilities);
    finished.expect_code(125);
    assert!(!was_run, "COMMAND was run\n{finished:#}");
    let said = finished.stderr_text();
    assert_eq!(said.lines().count(), 1, "not one line:\n{said}");
    assert!(said.contains(missing), "no {missing} in\n{said}");
    let remedies = ["sudo", "setcap", "--cap-add"];
    assert!(remedies.iter().any(|remedy| said.contains(remedy)), "no remedy in\n{said}");
}

#[test]
fn without_bpf_tracer_names_it() {
    expect_refused(&[CAP_BPF, CAP_SYS_ADMIN], "CAP_BPF");
}

#[test]
fn without_perfmon_tracer_names_it() {
    expect_refused(&[CAP_PERFMON, CAP_SYS_ADMIN], "CAP_PERFMON");
}

#[test]
fn without_any_of_them_tracer_names_them() {
    expect_refused(&[CAP_BPF, CAP_PERFMON, CAP_SYS_ADMIN, CAP_SYS_RESOURCE], "CAP_BPF");
}

#[test]
fn sys_admin_is_not_needed() {
    // Before 5.11 maps count as locked memory, of which there is little without CAP_SYS_RESOURCE.
    let counts_locked_memory = proc::kernel().1 < (5, 11);
    let both = [CAP_SYS_ADMIN, CAP_SYS_RESOURCE];
    let dropped = if counts_locked_memory { &both[..1] } else { &both };
    let (finished, was_run) = without(dropped);
    finished.expect_nothing_found();
    assert!(was_run, "{finished:#}");
}

#[test]
fn doctor_tells_what_is_there() {
    let finished = Run::exact_arguments(["doctor"]).finish();
    finished.expect_code(0);
    let said = finished.stdout_text();
    for wanted in ["BTF", "CAP_BPF", "CAP_PERFMON", "sched_process_fork", "cgroup"] {
        assert!(said.lines().any(|line| line.contains(wanted)), "no {wanted} in\n{said}");
    }
}

#[test]
fn doctor_tells_what_is_missing() {
    let workload = binary::workload().to_str().expect("a path of UTF-8");
    let run = Run::exact_arguments(["doctor"]);
    let finished = run.under([workload, "without-capabilities", "drop=39,21", "--"]).finish();
    assert_ne!(finished.status.code(), Some(0), "{finished:#}");
    let said = finished.stdout_text();
    let line = said.lines().find(|line| line.contains("CAP_BPF"));
    let line = line.unwrap_or_else(|| panic!("no CAP_BPF in\n{said}"));
    assert!(line.contains("not held"), "{line}");
}
