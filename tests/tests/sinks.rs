//! Where reports go to fails: full, read-only or stalled. The others are written, an older report
//! stays whole, and the exit status tells.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use rustix::fs::{CWD, Mode, mkfifoat};
use tracer_tests::{Finished, Run, proc, sys};

const OLD: &str = "an older report\n";

/// Runs this line with two reports: one on a file system of its own, mounted at `$DISK` where only
/// tracer and COMMAND see it, and one beside. What became of the first is kept as `kept.json` and
/// `kept.list`.
fn on_a_disk(line: &str) -> Finished {
    let run = Run::shell(line).without_report();
    let disk = run.path("disk");
    std::fs::create_dir(&disk).expect("a folder");
    let around = r#"mount -t tmpfs -o size=64k none "$DISK" && echo 'an older report' > "$DISK/a.json"
        "$@"; code=$?
        cp "$DISK/a.json" "$KEPT.json"; ls -A "$DISK" > "$KEPT.list"; exit $code"#;
    let (first, second) = (disk.join("a.json"), run.path("second.json"));
    let kept = run.path("kept");
    let run = run.env("DISK", &disk).env("KEPT", &kept);
    let options = ["--report".as_ref(), first.as_os_str(), "--report".as_ref(), second.as_os_str()];
    run.options(options).under(["unshare", "-m", "sh", "-c", around, "sh"]).finish()
}

#[track_caller]
fn expect_old_report_kept(finished: &Finished, reason: &str) {
    finished.expect_code(125);
    let said = finished.stderr_text();
    assert!(said.contains("a.json") && said.contains(reason), "{said}");
    assert!(said.contains("tracer: clean"), "{said}");
    assert_eq!(finished.file("kept.json"), OLD);
    assert!(!finished.file("kept.list").contains("tmp"), "{}", finished.file("kept.list"));
    let second: serde_json::Value =
        serde_json::from_str(&finished.file("second.json")).expect("a report in JSON");
    assert_eq!(second["verdict"], "clean");
}

#[test]
fn full_disk_keeps_the_older_report_and_is_said() {
    let finished = on_a_disk(r#"cat /dev/zero > "$DISK/filling" 2>/dev/null; exit 0"#);
    expect_old_report_kept(&finished, "No space left on device");
}

#[test]
fn disk_that_becomes_read_only_keeps_the_older_report_and_is_said() {
    let finished = on_a_disk(r#"exec mount -o remount,ro "$DISK""#);
    expect_old_report_kept(&finished, "Read-only file system");
}

#[test]
fn disk_with_room_has_its_report_replaced() {
    let finished = on_a_disk("exit 0");
    finished.expect_code(0);
    assert!(finished.file("kept.json").contains("\"verdict\": \"clean\""));
    assert_eq!(finished.file("kept.list"), "a.json\n");
}

#[test]
fn device_that_is_always_full_is_an_error() {
    let run = Run::command(["true"]);
    let link = run.path("full.md");
    std::os::unix::fs::symlink("/dev/full", &link).unwrap();
    let finished = run.options(["--report".as_ref(), link.as_os_str()]).finish();
    finished.expect_code(125).expect_verdict("clean");
    assert!(finished.stderr_text().contains("No space left on device"), "{finished:#}");
}

#[test]
fn fifo_that_nobody_reads_is_given_up() {
    let run = Run::command(["true"]);
    let fifo = run.path("report.md");
    mkfifoat(CWD, &fifo, Mode::from_raw_mode(0o600)).unwrap();
    let finished = run.options(["--report".as_ref(), fifo.as_os_str()]).finish();
    finished.expect_code(125).expect_verdict("clean");
    assert!(finished.stderr_text().contains("nobody reads this fifo"), "{finished:#}");
}

/// Starts tracer with its standard error on this pipe.
fn with_stderr(pipe: &Path, run: Run) -> Run {
    let around = r#"exec "$@" 2> "$PIPE""#;
    run.env("PIPE", pipe).under(["sh", "-c", around, "sh"])
}

/// A pipe by name that both ends of are open, without waiting.
fn fifo(at: &Path) -> File {
    mkfifoat(CWD, at, Mode::from_raw_mode(0o600)).expect("a fifo");
    let mut options = OpenOptions::new();
    options.read(true).write(true).custom_flags(libc::O_NONBLOCK).open(at).expect("a fifo")
}

#[test]
fn reports_are_written_although_standard_error_is_full() {
    let run = Run::workload(["double-fork"]).grace("200ms");
    let at = run.path("stderr");
    let mut pipe = fifo(&at);
    while pipe.write(&[b'x'; 4096]).is_ok() {}
    while pipe.write(b"x").is_ok() {}
    let report = run.path("report.json");
    let running = with_stderr(&at, run).start();
    proc::until("a report", || std::fs::metadata(&report).ok());
    // It waits for a reader with the rest, as everyone does.
    let mut said = vec![0; 1 << 20];
    let finished = std::thread::scope(|scope| {
        let reader = scope.spawn(move || {
            let mut text = Vec::new();
            while !String::from_utf8_lossy(&text).contains("leaked: 1 survivor") {
                match pipe.read(&mut said) {
                    Ok(read) => text.extend(said[..read].iter().filter(|&&byte| byte != b'x')),
                    Err(_) => std::thread::yield_now(),
                }
            }
        });
        let finished = running.finish();
        reader.join().unwrap();
        finished
    });
    finished.expect_leak();
    finished.only_finding("survivor", finished.fact("daemon").pid);
}

#[test]
fn status_tells_although_the_reader_of_standard_error_is_gone() {
    let run = Run::workload(["double-fork"]).grace("200ms");
    let at = run.path("stderr");
    let pipe = fifo(&at);
    let running = with_stderr(&at, run).start();
    let _daemon = running.fact("daemon");
    drop(pipe);
    let finished = running.finish();
    finished.expect_leak();
}

#[test]
fn status_tells_although_every_standard_stream_is_closed() {
    let around = r#"exec "$@" <&- >&- 2>&-"#;
    let run = Run::workload(["keeps-server"]).under(["sh", "-c", around, "sh"]).grace("200ms");
    let finished = run.standing_for("leaving", std::time::Duration::ZERO).finish();
    finished.expect_leak();
    finished.only_finding("survivor", finished.fact("sleeper").pid);
    Run::command(["true"]).under(["sh", "-c", around, "sh"]).finish().expect_clean();
}

#[test]
fn tracer_killed_while_it_writes_leaves_the_older_report() {
    let run = Run::workload(["sleep"]).without_report();
    let report = run.path("old.json");
    std::fs::write(&report, OLD).unwrap();
    let running = run.options(["--report".as_ref(), report.as_os_str()]).start();
    let _started = running.fact("sleeper");
    running.signal(libc::SIGKILL);
    let finished = running.finish();
    assert_eq!(finished.file("old.json"), OLD);
    assert!(sys::exists(finished.fact("sleeper").pid));
}
