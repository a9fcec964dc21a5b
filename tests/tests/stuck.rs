//! Uninterruptible sleep. A vfork parent is in it for as long as its child neither ends nor
//! executes a program; a writer is on a frozen file system.

use std::time::Duration;

use serde_json::Value;
use tracer_tests::frozen::FreezableFs;
use tracer_tests::{Run, proc, skip, sys};

const LONG: Duration = Duration::from_millis(1500);

#[test]
fn process_in_state_d_is_told_with_the_kernel_function_it_sleeps_in() {
    let finished = Run::workload(["vfork-holds"])
        .grace("300ms")
        .options(["--stuck-after", "300ms", "--fail-on", "stuck"])
        .standing_for("standing", LONG)
        .finish();
    finished.expect_leak();
    let stuck = finished.fact("stuck").pid;
    let finding = finished.only_finding("stuck", stuck);
    finding
        .expect_open()
        .expect("/counted", true)
        .expect("/process/state", "D")
        .expect_cause("blocked_in_kernel")
        .expect_parent(finished.fact("root").pid, "workload");
    match proc::wchan(stuck) {
        Some(wchan) => {
            finding.expect("/blocked/wchan", wchan.as_str());
            assert!(finished.stderr_text().contains(&wchan), "{finished:#}");
        }
        None => {
            finding.expect("/blocked/wchan", Value::Null);
            let reason = proc::names_wchan().expect_err("it is stuck to this moment");
            skip(&format!("the function's name: {reason}"));
        }
    }
}

#[test]
fn process_that_wakes_up_again_is_resolved() {
    let finished = Run::workload(["vfork-holds"])
        .grace("10s")
        .options(["--stuck-after", "300ms", "--fail-on", "stuck"])
        .standing_for("standing", LONG)
        .standing_for("holder", LONG / 2)
        .finish();
    finished.expect_clean();
    finished.only_finding("stuck", finished.fact("stuck").pid).expect_resolved();
}

#[test]
fn short_uninterruptible_sleep_is_no_finding() {
    let finished = Run::workload(["vfork-holds"])
        .grace("10s")
        .zombie_after_patience(2)
        .standing_for("standing", LONG)
        .standing_for("holder", LONG / 2)
        .finish();
    finished.expect_clean();
    assert_eq!(finished.findings_of("stuck").len(), 0, "{finished:#}");
}

#[test]
fn writer_to_a_dead_file_system_is_told_with_the_mount_and_survives_sigkill() {
    let mut file_system = match FreezableFs::mount() {
        Ok(file_system) => file_system,
        Err(reason) => return skip(&reason),
    };
    let file = format!("file={}", file_system.path().join("file").display());
    let running = Run::workload(["writes", &file, "kill=yes"])
        .grace("500ms")
        .options(["--stuck-after", "300ms", "--fail-on", "stuck,survivor"])
        .standing_for("standing", LONG)
        .start();
    let writer = running.held("write").pid;
    file_system.freeze();
    running.release("write");
    proc::until_state(writer, 'D');
    let finished = running.finish();
    assert!(!sys::dies_within(&sys::open_pidfd(writer).unwrap(), Duration::ZERO));
    finished.expect_leak();
    let at = file_system.path().display().to_string();
    for kind in ["stuck", "survivor"] {
        let finding = finished.only_finding(kind, writer);
        finding.expect_open().expect_cause("blocked_in_kernel");
        let mount = finding.value["blocked"]["mount"].as_str().unwrap_or_default();
        assert!(mount.contains("ext4") && mount.contains(&at), "{finished:#}");
    }
    assert!(finished.stderr_text().contains(&at), "{finished:#}");
}
