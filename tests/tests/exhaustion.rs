//! Nothing left to be had: descriptors, threads, memory. tracer says so before COMMAND starts, or
//! finds what is there with what it has, or says what it could not look at.

use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use tracer_tests::cgroup::Cgroup;
use tracer_tests::{Finished, Run, Running, binary, proc, skip, storm, sys};

const MINUTES: Duration = Duration::from_secs(180);

/// Executes its arguments with at most so many open files.
fn with_open_files(most: u32) -> [String; 4] {
    let line = format!("ulimit -Sn {most} && exec \"$@\"");
    ["sh".to_owned(), "-c".to_owned(), line, "sh".to_owned()]
}

/// tracer failed, COMMAND was not run, and the one line says why.
#[track_caller]
fn expect_refused(finished: &Finished, marker: &std::path::Path, words: &[&str]) {
    assert!(!marker.exists(), "COMMAND was run\n{finished:#}");
    assert!(matches!(finished.status.code(), Some(125 | 126)), "{finished:#}");
    let said = finished.stderr_text();
    assert_eq!(said.lines().count(), 1, "{said}");
    for word in words {
        assert!(said.contains(word), "no {word:?} in\n{said}");
    }
}

#[test]
fn too_few_descriptors_to_start_are_said_and_never_a_panic() {
    // A start takes seconds on a slow machine.
    let limits = (6..64).step_by(if sys::slowness() > 1 { 8 } else { 2 });
    let (mut ran, tried) = (0, limits.len());
    for most in limits {
        let run = Run::command(["touch"]).without_report().under(with_open_files(most));
        let marker = run.path("marker");
        let finished = run.arguments([marker.clone()]).finish();
        if marker.exists() {
            ran += 1;
            finished.expect_code(0);
        } else {
            expect_refused(&finished, &marker, &["Too many open files"]);
        }
    }
    // Both sides of the limit were seen.
    assert!((1..tried).contains(&ran), "COMMAND ran {ran} times of {tried}");
}

/// The report that `--format json` printed last.
#[track_caller]
fn printed(finished: &Finished) -> Value {
    let said = finished.stderr_text();
    let line = said.lines().rfind(|line| line.starts_with('{'));
    let line = line.unwrap_or_else(|| panic!("no report\n{finished:#}"));
    serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))
}

/// Starts it behind a gate, and lets it go on when tracer has no descriptor left to open.
#[track_caller]
fn without_descriptors(line: &str, prepare: impl FnOnce(Run) -> Run) -> Running {
    let line = format!(r#""$WORKLOAD" storm; {line}"#);
    let run = Run::shell(&line).standing_for("standing", Duration::ZERO);
    let running = prepare(run.without_report().options(["--format", "json"])).start();
    running.held("storm");
    sys::limit(running.pid, libc::RLIMIT_NOFILE, 0);
    running.release("storm");
    running
}

#[test]
fn survivor_is_found_without_a_descriptor_to_look_at_it() {
    let line = r#""$WORKLOAD" sleep & exec "$WORKLOAD" await names=sleeper"#;
    let finished = without_descriptors(line, |run| run.grace("300ms")).finish();
    finished.expect_code(23);
    let report = printed(&finished);
    assert_eq!(report["verdict"], "leaked");
    assert_eq!(report["findings"][0]["process"]["pid"], finished.fact("sleeper").pid);
}

/// A parent, kept by `--allow`, with a zombie.
const KEPT_PARENT: &str = r#"sh -c '"$WORKLOAD" exit & exec "$WORKLOAD" sleep as=lazy' &
    exec "$WORKLOAD" await names=exit,lazy"#;

fn with_kept_parent(run: Run) -> Run {
    run.zombie_after("100ms").grace("1s").options(["--allow", "as=lazy"])
}

#[test]
fn zombie_that_no_descriptor_is_left_to_look_at_is_not_called_clean() {
    let finished = without_descriptors(KEPT_PARENT, with_kept_parent).finish();
    finished.expect_code(24);
    let report = printed(&finished);
    assert_eq!(report["verdict"], "inconclusive", "{report:#}");
    let notes = report["notes"].to_string();
    assert!(notes.contains("1 dead processes could not be looked at"), "{notes}");
}

#[test]
fn zombie_is_found_once_there_are_descriptors_again() {
    let running = without_descriptors(KEPT_PARENT, |run| {
        run.zombie_after("100ms").grace("3s").options(["--allow", "as=lazy"])
    });
    let lazy = running.fact("lazy").pid;
    // Its zombie stands, and its parent is alone with it: the root is gone.
    proc::until("the zombie", || {
        proc::children(lazy).into_iter().find(|&child| proc::state(child) == Some('Z'))
    });
    sys::limit(running.pid, libc::RLIMIT_NOFILE, 1024);
    let finished = running.finish();
    finished.expect_code(23);
    let report = printed(&finished);
    assert_eq!(report["findings"][0]["kind"], "zombie", "{report:#}");
    assert_eq!(report["findings"][0]["process"]["pid"], finished.fact("exit").pid);
}

#[test]
fn report_that_no_descriptor_is_left_for_is_an_error_and_the_verdict_is_told() {
    let line = r#""$WORKLOAD" storm; exit 0"#;
    let run = Run::shell(line).standing_for("standing", Duration::ZERO);
    let running = run.start();
    running.held("storm");
    sys::limit(running.pid, libc::RLIMIT_NOFILE, 0);
    running.release("storm");
    let finished = running.finish();
    finished.expect_code(125);
    let said = finished.stderr_text();
    assert!(said.contains("clean") && said.contains("report.json"), "{said}");
    assert!(said.contains("Too many open files"), "{said}");
}

#[test]
fn too_few_threads_to_start_are_said_before_the_command_starts() {
    for most in 1..=6 {
        let cgroup = match Cgroup::with_threads(most) {
            Ok(cgroup) => cgroup,
            Err(reason) => return skip(&reason),
        };
        let run = Run::command(["touch"]).without_report().under(cgroup.enter());
        let marker = run.path("marker");
        let finished = run.arguments([marker.clone()]).finish();
        if marker.exists() {
            finished.expect_code(0);
        } else {
            expect_refused(&finished, &marker, &["Resource temporarily unavailable"]);
        }
        assert!(marker.exists() == (most >= 5), "with {most}: {finished:#}");
    }
}

#[test]
fn leaks_are_found_without_a_thread_to_be_had() {
    let cgroup = match Cgroup::with_threads(64) {
        Ok(cgroup) => cgroup,
        Err(reason) => return skip(&reason),
    };
    // COMMAND leaves the cgroup: it forks.
    let out = cgroup.path().parent().expect("a cgroup has a parent").join("cgroup.procs");
    let line =
        format!(r#"echo $$ > {}; "$WORKLOAD" storm zombies=3 daemons=3 waves=2"#, out.display());
    let run = Run::shell(&line).under(cgroup.enter()).zombie_after("200ms").grace("300ms");
    let running = run.standing_for("standing", Duration::from_secs(1)).start();
    running.held("storm");
    cgroup.allow_threads(1).unwrap();
    running.release("storm");
    let finished = running.finish();
    finished.expect_leak();
    let truth = finished.fact("stormed");
    assert_eq!(finished.pids_of("zombie"), truth.pids_of("zombies"), "{finished:#}");
    assert_eq!(finished.pids_of("survivor"), truth.pids_of("daemons"), "{finished:#}");
}

#[test]
fn table_that_memory_does_not_suffice_for_is_refused_before_the_command_starts() {
    if let Err(reason) = proc::charges_maps_to_cgroups() {
        return skip(&reason);
    }
    let cgroup = match Cgroup::with_memory(200 << 20) {
        Ok(cgroup) => cgroup,
        Err(reason) => return skip(&reason),
    };
    for option in [["--max-processes", "16777216"], ["--ring-bytes", "1073741824"]] {
        let run = Run::command(["touch"]).without_report().under(cgroup.enter()).options(option);
        let marker = run.path("marker");
        let finished = run.arguments([marker.clone()]).finish();
        finished.expect_code(125);
        expect_refused(&finished, &marker, &["Cannot allocate memory", "--max-processes"]);
    }
    assert_eq!(cgroup.oom_kills(), 0);
}

#[test]
fn tracer_that_runs_out_of_memory_calls_nothing_clean_and_spares_the_command() {
    let run = Run::workload(storm::with(&[("daemons", 1)])).grace("300ms");
    let running = run.standing_for("standing", Duration::ZERO).patience(MINUTES).start();
    running.held("storm");
    // Less than it has: whatever it asks for from now on is refused.
    sys::limit(running.pid, libc::RLIMIT_AS, 1 << 20);
    running.release("storm");
    let finished = running.finish();
    // Right all the same, or ended by an abort.
    assert_ne!(finished.status.code(), Some(0), "{finished:#}");
    let started = i64::from(1 + storm::waves() * storm::CHILDREN + 1);
    assert_eq!(finished.eventually("stormed").number("started"), started);
    // And the next one works.
    Run::workload(["exit"]).finish().expect_nothing_found();
}

#[test]
fn check_of_the_host_says_what_is_lacking_too() {
    let [shell, option, line, name] = with_open_files(12);
    let mut doctor = Command::new(shell);
    let checked = doctor.args([option, line, name]).arg(binary::tracer()).arg("doctor").output();
    let checked = checked.expect("a shell");
    assert_eq!(checked.status.code(), Some(125));
    let said = String::from_utf8_lossy(&checked.stdout);
    assert!(said.contains("Too many open files"), "{said}");
}
