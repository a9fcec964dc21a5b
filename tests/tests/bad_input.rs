//! Mistakes: each is said clearly, before COMMAND runs where it can be known before.

use std::path::Path;

use tracer_tests::{Finished, Run, binary};

/// Asks for these options with a command that would leave a marker.
fn refused(options: &[&str]) -> Finished {
    let run = Run::command(["touch"]).without_report();
    let marker = run.path("marker");
    let finished = run.arguments([marker.clone()]).options(options.iter().copied()).finish();
    assert!(!marker.exists(), "COMMAND was run\n{finished:#}");
    assert!(finished.stdout.is_empty(), "{finished:#}");
    finished
}

#[track_caller]
fn expect_usage_error(finished: &Finished, word: &str) {
    assert!(matches!(finished.status.code(), Some(2 | 125)), "{finished:#}");
    let said = finished.stderr_text();
    assert!(said.contains(word), "no {word:?} in\n{said}");
}

#[test]
fn unknown_option_is_refused() {
    let finished = refused(&["--no-such-option"]);
    finished.expect_code(2);
    expect_usage_error(&finished, "--no-such-option");
}

#[test]
fn nonsense_for_a_time_is_refused() {
    for option in ["--grace", "--zombie-after", "--init-zombie-after", "--stuck-after"] {
        for value in ["nonsense", "", "-1s", "1 parsec", "s"] {
            let finished = refused(&[&format!("{option}={value}")]);
            finished.expect_code(2);
            expect_usage_error(&finished, option);
        }
    }
}

#[test]
fn nonsense_for_other_values_is_refused() {
    let wrong = [
        ["--fail-on", "zombies-of-the-dead"],
        ["--fail-on", "none,zombie"],
        ["--format", "yaml"],
        ["--on-leak", "nonsense"],
        ["--leak-exit-code", "256"],
        ["--leak-exit-code", "nonsense"],
        ["--allow", "["],
    ];
    for [option, value] in wrong {
        let finished = refused(&[option, value]);
        expect_usage_error(&finished, option.trim_start_matches('-'));
    }
}

#[test]
fn dry_run_of_nothing_is_refused() {
    let finished = refused(&["--dry-run"]);
    expect_usage_error(&finished, "on-leak");
}

#[test]
fn missing_command_is_refused() {
    for args in [&["run"][..], &["run", "--"], &["run", "--grace", "1s", "--"]] {
        let finished = Run::exact_arguments(args.iter().copied()).finish();
        expect_usage_error(&finished, "COMMAND");
    }
}

#[test]
fn empty_command_is_refused() {
    let finished = Run::command([""]).without_report().finish();
    assert!(matches!(finished.status.code(), Some(2 | 125 | 127)), "{finished:#}");
    assert!(!finished.stderr.is_empty(), "{finished:#}");
}

#[test]
fn unknown_subcommand_is_refused() {
    let finished = Run::exact_arguments(["no-such-subcommand"]).finish();
    finished.expect_code(2);
    expect_usage_error(&finished, "no-such-subcommand");
}

/// Asks for a report at this place: 125, said before COMMAND starts.
#[track_caller]
fn expect_refused_report(path: &Path) {
    let finished = refused(&["--report", path.to_str().expect("a path of UTF-8")]);
    finished.expect_code(125);
    let name = path.file_name().expect("a report has a name").to_string_lossy();
    assert!(finished.stderr_text().contains(&*name), "{finished:#}");
}

#[test]
fn report_into_a_missing_folder_is_refused_before_the_command_starts() {
    expect_refused_report(Path::new("/nonexistent/folder/report.json"));
}

#[test]
fn report_below_a_file_is_refused_before_the_command_starts() {
    expect_refused_report(&binary::workload().join("report.json"));
}

#[test]
fn report_into_a_read_only_folder_is_refused_before_the_command_starts() {
    // Root may write wherever a file system takes files; procfs takes none.
    expect_refused_report(Path::new("/proc/report.json"));
}

#[test]
fn report_that_is_a_folder_is_refused_before_the_command_starts() {
    let folder = tempfile::tempdir().unwrap();
    let report = folder.path().join("report.json");
    std::fs::create_dir(&report).unwrap();
    expect_refused_report(&report);
}

#[test]
fn report_of_an_unknown_kind_is_refused() {
    for name in ["/tmp/report.pdf", "/tmp/report", "/tmp/.json"] {
        let finished = refused(&["--report", name]);
        expect_usage_error(&finished, name);
    }
}

#[test]
fn one_bad_report_among_good_ones_is_refused_before_the_command_starts() {
    let folder = tempfile::tempdir().unwrap();
    let good = folder.path().join("report.json");
    let good = good.to_str().unwrap();
    let finished = refused(&["--report", good, "--report", "/nonexistent/report.xml"]);
    finished.expect_code(125);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "nothing is left of a check");
}

#[test]
fn report_that_cannot_be_written_at_the_end_is_an_error_and_the_verdict_is_told() {
    let run = Run::command(["rm", "-r"]).without_report();
    let folder = run.path("reports");
    std::fs::create_dir(&folder).unwrap();
    let report = folder.join("report.json");
    let finished = run.arguments([&folder]).options(["--report".as_ref(), report.as_os_str()]);
    let finished = finished.finish();
    finished.expect_code(125);
    let said = finished.stderr_text();
    assert!(said.contains("clean"), "no verdict in\n{said}");
    assert!(said.contains("report.json"), "no reason in\n{said}");
}

#[test]
fn verdict_of_a_leak_is_told_although_its_report_cannot_be_written() {
    let run = Run::shell(r#"rm -r "$REPORTS"; exec "$WORKLOAD" double-fork"#).without_report();
    let folder = run.path("reports");
    std::fs::create_dir(&folder).unwrap();
    let report = folder.join("report.json");
    let run = run.env("REPORTS", &folder).grace("200ms");
    let finished = run.options(["--report".as_ref(), report.as_os_str()]).finish();
    finished.expect_code(125);
    let said = finished.stderr_text();
    let pid = finished.fact("daemon").pid.to_string();
    assert!(said.contains("survivor") && said.contains(&pid), "no verdict in\n{said}");
}
