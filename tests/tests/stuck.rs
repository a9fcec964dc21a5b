//! Uninterruptible sleep. A vfork parent is in it for as long as its child neither ends nor
//! executes a program; a writer is on a frozen file system; a reader that is killed is where the
//! server of a FUSE file system does not answer.

use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use tracer_tests::frozen::FreezableFs;
use tracer_tests::silent::SilentFs;
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
        finding.expect("/blocked/server", "local").expect("/blocked/thread", writer);
        finding.expect("/blocked/file", format!("{at}/file"));
        let hint = finding.value["cause"]["hint"].as_str().unwrap_or_default();
        assert!(hint.contains("fsfreeze --unfreeze"), "{finished:#}");
        expect_stack(&finding.value["blocked"], "vfs_write");
    }
    assert!(finished.stderr_text().contains(&at), "{finished:#}");
}

/// The kernel's functions are told, this one among them, where the kernel tells them to anybody.
#[track_caller]
fn expect_stack(blocked: &Value, function: &str) {
    if std::fs::read("/proc/self/stack").is_err() {
        return skip("no /proc/PID/stack that may be read");
    }
    let stack = blocked["stack"].as_array().expect("a list");
    // A function of a module is told with that: `request_wait_answer [fuse]`.
    let is_it =
        |name: &Value| name.as_str().and_then(|name| name.split(' ').next()) == Some(function);
    assert!(stack.iter().any(is_it), "no {function} in {blocked:#}");
}

#[test]
fn reader_that_a_fuse_server_does_not_answer_is_told_with_what_ends_it() {
    let mut file_system = match SilentFs::mount() {
        Ok(file_system) => file_system,
        Err(reason) => return skip(&reason),
    };
    let file = file_system.file().display().to_string();
    let run = Run::workload(["reads", "threads=2", &format!("file={file}")]);
    let rules = run.path("rules.toml");
    let text = "[cleanup]\nterm_timeout = '200ms'\nkill_timeout = '500ms'\n";
    std::fs::write(&rules, text).expect("a file in the run's folder");
    let options = ["--on-leak".into(), "kill".into(), "--rules".into(), rules.into_os_string()];
    let running = run.grace("300ms").options(options).start();
    let reader = running.fact("reader").pid;
    // The server has the requests of both threads: nobody takes them back.
    file_system.until_asked(2);
    running.release("standing");
    let finished = running.finish();
    finished.expect_leak();
    let finding = finished.finding("survivor", reader);
    finding.expect("/action/result", "unkillable");
    let stuck = finished.finding("stuck", reader);
    stuck.expect_open().expect_cause("blocked_in_kernel").expect("/blocked/server", "fuse");
    let at = file_system.path().display().to_string();
    stuck.expect("/blocked/mount", format!("fuse silent at {at}")).expect("/blocked/file", file);
    let blocked = &stuck.value["blocked"];
    expect_stack(blocked, "request_wait_answer");
    if proc::names_wchan().is_ok() {
        stuck.expect("/blocked/wchan", "request_wait_answer");
    }
    // The leader waits for both: killed, it ends at once.
    assert_eq!(blocked["others"].as_array().map(Vec::len), Some(1), "{finished:#}");
    let others = &blocked["others"][0];
    assert_ne!(others["thread"], blocked["thread"], "{finished:#}");
    expect_stack(others, "request_wait_answer");
    let abort = file_system.connection().join("abort");
    let hint = stuck.value["cause"]["hint"].as_str().unwrap_or_default();
    assert!(hint.ends_with(&format!("echo 1 > {}", abort.display())), "{hint}");
    let said = finished.stderr_text();
    for wanted in ["SIGKILL has not ended it", &at, &abort.display().to_string()] {
        assert!(said.contains(wanted), "no {wanted} in\n{said}");
    }
    // What the hint says does end it.
    let pidfd = sys::open_pidfd(reader).expect("it lives");
    let line = r#"[ -e "$1" ] || mount -t fusectl none /sys/fs/fuse/connections; echo 1 > "$1""#;
    let given_up =
        Command::new("unshare").args(["-m", "sh", "-c", line, "sh"]).arg(&abort).status();
    assert!(given_up.expect("unshare").success(), "the connection cannot be given up");
    assert!(sys::dies_within(&pidfd, sys::PATIENCE), "{reader} lives");
}
