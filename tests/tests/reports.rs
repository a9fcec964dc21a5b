//! What people and machines get to read, and the statuses that gates go by.

use std::time::Duration;

use serde_json::Value;
use tracer_tests::{Finished, Run, finished};

/// A run that leaves a server behind.
fn leaking(args: &[&str]) -> Run {
    let run = Run::workload(["keeps-server"].iter().chain(args).copied());
    run.grace("200ms").standing_for("leaving", Duration::ZERO)
}

fn has_escapes(bytes: &[u8]) -> bool {
    bytes.contains(&0x1b)
}

#[test]
fn report_keeps_the_contract() {
    let finished = leaking(&[]).finish();
    finished.expect_leak();
    let report = &finished.report;
    assert_eq!(report["schema"], "tracer.report/1");
    expect_keys(
        report,
        &["schema", "verdict", "invocation", "findings", "kept", "tool_calls", "stats"],
    );
    let invocation = &report["invocation"];
    let about = ["id", "parent_invocation", "agent", "session_id", "command", "root"];
    expect_keys(invocation, &about);
    expect_keys(invocation, &["started_at", "ended_at", "exit"]);
    let finding = &report["findings"][0];
    let about = ["id", "kind", "state", "process", "lineage", "parent", "adopter", "cause"];
    expect_keys(finding, &about);
    expect_keys(finding, &["tool_call", "resources", "since", "resolved_at", "seconds", "action"]);
    expect_keys(&finding["parent"], &["pid", "name", "exit", "waits"]);
    expect_keys(&finding["cause"], &["code", "text", "hint"]);
    expect_keys(&finding["resources"], &["rss_bytes", "fds", "listening", "devices"]);
    expect_keys(&finding["lineage"][0], &["pid", "name", "args"]);
    for process in [&invocation["root"], &finding["process"]] {
        let about = ["pid", "ppid", "pgid", "sid", "start_time", "name", "exe", "args", "cwd"];
        expect_keys(process, &about);
        expect_keys(process, &["state", "namespace_pid", "cgroup", "container"]);
    }
    expect_keys(&report["stats"], &["processes", "events", "dropped", "unseen", "peak_live"]);
}

#[track_caller]
fn expect_keys(object: &Value, keys: &[&str]) {
    for key in keys {
        assert!(object.get(key).is_some(), "no {key:?} in {object:#}");
    }
}

#[test]
fn report_tells_of_the_command_what_is_so() {
    let finished = leaking(&["with", "arguments"]).finish();
    let (invocation, root) = (&finished.report["invocation"], finished.fact("root"));
    let workload = tracer_tests::binary::workload().to_str().unwrap();
    let command = serde_json::json!([workload, "keeps-server", "with", "arguments"]);
    assert_eq!(invocation["command"], command, "{finished:#}");
    assert_eq!(invocation["root"]["args"], command, "{finished:#}");
    assert_eq!(invocation["root"]["pid"], root.pid);
    assert_eq!(invocation["root"]["name"], "workload");
    let exe = std::fs::canonicalize(workload).unwrap();
    assert_eq!(invocation["root"]["exe"], exe.to_str().unwrap(), "{finished:#}");
    let cwd = std::env::current_dir().unwrap();
    assert_eq!(finished.report["findings"][0]["process"]["cwd"], cwd.to_str().unwrap());
    let [started, ended] = ["started_at", "ended_at"].map(|key| finished::time(&invocation[key]));
    finished.expect_order(&[started, root.at, finished.held_at("leaving"), ended]);
    assert!(finished.stat("events") > 0, "{finished:#}");
    assert!(finished.stat("peak_live") >= 2, "{finished:#}");
}

#[test]
fn text_tells_people_what_whose_why_and_how_to_mend_it() {
    let finished = leaking(&["listen=tcp"]).finish();
    let (said, finding) = (finished.stderr_text(), &finished.report["findings"][0]);
    let pid = finished.fact("sleeper").pid.to_string();
    let port = format!("127.0.0.1:{}", finished.fact("sleeper").number("port"));
    let [why, mend] = ["text", "hint"].map(|key| finding["cause"][key].as_str().unwrap());
    for wanted in ["survivor", "workload", &pid, &port, why, mend] {
        assert!(in_any_case(&said, wanted), "no {wanted:?} in\n{said}");
    }
}

/// Sentences begin with a capital.
fn in_any_case(text: &str, wanted: &str) -> bool {
    text.to_lowercase().contains(&wanted.trim_end_matches('.').to_lowercase())
}

#[test]
fn clean_run_says_little() {
    let finished = Run::command(["echo", "said by the command"]).finish();
    finished.expect_nothing_found();
    assert_eq!(finished.stdout_text(), "said by the command\n");
    let said = finished.stderr_text();
    assert!(said.lines().count() <= 2 && said.contains("clean"), "{said}");
}

#[test]
fn quiet_says_nothing_about_a_clean_run() {
    let finished = Run::command(["true"]).options(["--quiet"]).finish();
    finished.expect_nothing_found();
    assert_eq!(finished.stderr_text(), "");
}

#[test]
fn quiet_does_not_change_the_verdict() {
    let finished = leaking(&[]).options(["--quiet"]).finish();
    finished.expect_leak();
}

#[test]
fn format_none_says_nothing_at_all() {
    let finished = leaking(&[]).options(["--format", "none"]).finish();
    finished.expect_leak();
    assert_eq!(finished.stderr_text(), "");
}

#[test]
fn format_json_puts_the_report_on_standard_error() {
    let finished = leaking(&[]).options(["--format", "json"]).finish();
    finished.expect_leak();
    let said: Value = serde_json::from_slice(&finished.stderr).unwrap();
    assert_eq!(said, finished.report);
}

#[test]
fn several_reports_at_once() {
    let run = leaking(&[]);
    let paths = ["other.json", "report.xml", "report.md"].map(|name| run.path(name));
    let options = paths.iter().flat_map(|path| ["--report".into(), path.as_os_str().to_owned()]);
    let finished = run.options(options.collect::<Vec<_>>()).finish();
    finished.expect_leak();
    let other: Value = serde_json::from_str(&finished.file("other.json")).unwrap();
    assert_eq!(other, finished.report);
    let xml = finished.file("report.xml");
    assert!(xml.contains("<testsuite") && xml.contains("<failure"), "{xml}");
    let markdown = finished.file("report.md");
    assert!(markdown.lines().any(|line| line.starts_with("|")), "{markdown}");
    assert!(markdown.contains("survivor"), "{markdown}");
}

#[test]
fn reports_of_a_clean_run_say_so() {
    let run = Run::command(["true"]);
    let paths = ["report.xml", "report.md"].map(|name| run.path(name));
    let options = paths.iter().flat_map(|path| ["--report".into(), path.as_os_str().to_owned()]);
    let finished = run.options(options.collect::<Vec<_>>()).finish();
    finished.expect_nothing_found();
    let xml = finished.file("report.xml");
    assert!(xml.contains("<testsuite") && !xml.contains("<failure"), "{xml}");
    assert!(finished.file("report.md").contains("clean"), "{finished:#}");
}

#[test]
fn report_replaces_an_older_one() {
    let run = Run::command(["true"]);
    std::fs::write(run.path("report.json"), "{\"verdict\": \"an older one\"}").unwrap();
    run.finish().expect_nothing_found();
}

#[test]
fn github_gets_annotations() {
    let finished = leaking(&[]).env("GITHUB_ACTIONS", "true").finish();
    finished.expect_leak();
    let said = finished.stderr_text();
    let found = said.lines().find(|line| line.starts_with("::error "));
    assert!(found.is_some_and(|line| line.contains("survivor")), "{said}");
    assert_eq!(finished.stdout_text(), "", "standard output is COMMAND's own");
}

#[test]
fn annotations_are_for_github_only() {
    let finished = leaking(&[]).finish();
    assert!(!finished.stderr_text().lines().any(|line| line.starts_with("::")), "{finished:#}");
}

#[test]
fn colours_are_for_terminals_only() {
    assert!(!has_escapes(&leaking(&[]).finish().stderr));
    let on_terminal = || leaking(&[]).env("TERM", "xterm-256color").on_terminal();
    let finished = on_terminal().finish();
    assert!(has_escapes(&finished.stdout), "{finished:#}");
    let finished = on_terminal().env("NO_COLOR", "1").finish();
    finished.expect_leak();
    assert!(!has_escapes(&finished.stdout), "{finished:#}");
}

#[test]
fn verdict_stands_although_nobody_reads_standard_error() {
    let line = r#"("$@"; echo $? > "$STATUS") 2>&1 | true"#;
    let run = leaking(&["streams=null"]).under(["sh", "-c", line, "sh"]);
    let status = run.path("status");
    let finished = run.env("STATUS", status).finish();
    finished.expect_verdict("leaked");
    assert_eq!(finished.file("status").trim(), "23", "{finished:#}");
}

#[track_caller]
fn status_of(finished: &Finished) -> (Option<i32>, &str) {
    (finished.status.code(), finished.report["verdict"].as_str().unwrap_or_default())
}

#[test]
fn failure_of_the_command_wins_over_the_leak() {
    let finished = leaking(&["code=4"]).finish();
    assert_eq!(status_of(&finished), (Some(4), "leaked"), "{finished:#}");
}

#[test]
fn leak_exit_code_is_the_user_s_to_choose() {
    let finished = leaking(&[]).options(["--leak-exit-code", "9"]).finish();
    assert_eq!(status_of(&finished), (Some(9), "leaked"), "{finished:#}");
}

#[test]
fn fail_on_none_tells_and_does_not_fail() {
    let finished = leaking(&[]).options(["--fail-on", "none"]).finish();
    assert_eq!(status_of(&finished), (Some(0), "leaked"), "{finished:#}");
    assert_eq!(finished.findings_of("survivor").len(), 1, "{finished:#}");
}

#[test]
fn kind_that_does_not_fail_is_told_and_not_counted() {
    let finished = leaking(&[]).options(["--fail-on", "zombie"]).finish();
    assert_eq!(status_of(&finished), (Some(0), "clean"), "{finished:#}");
    finished
        .only_finding("survivor", finished.fact("sleeper").pid)
        .expect_open()
        .expect("/counted", false);
}

#[test]
fn several_kinds_can_fail() {
    let finished = leaking(&[]).options(["--fail-on", "stuck,survivor"]).finish();
    finished.expect_leak();
}

#[test]
fn log_of_processes_has_a_line_for_each() {
    let run = leaking(&[]);
    let path = run.path("lives.jsonl");
    let finished = run.options(["--log-processes".into(), path.into_os_string()]).finish();
    finished.expect_leak();
    let log = finished.file("lives.jsonl");
    let lives: Vec<Value> =
        log.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect();
    assert_eq!(i64::try_from(lives.len()), Ok(finished.stat("processes")), "{log}");
    let root = &finished.report["invocation"];
    let of_root = lives.iter().find(|life| life["id"] == root["id"]).expect("the root's life");
    assert_eq!(of_root["start_time"], root["root"]["start_time"]);
    assert_eq!(of_root["exit"], root["exit"]);
    let survivor = &finished.findings_of("survivor")[0];
    let alive = lives.iter().find(|life| life["pid"] == survivor.process()["pid"]);
    let alive = alive.expect("the survivor's life");
    assert_eq!((&alive["exit"], &alive["parent"]), (&Value::Null, &root["id"]), "{alive}");
}

#[test]
fn log_of_processes_that_cannot_be_written_is_said_before_the_command_runs() {
    let run = Run::command(["true"]).options(["--log-processes", "/nowhere/lives.jsonl"]);
    let finished = run.finish();
    finished.expect_code(125);
    assert!(finished.stderr_text().contains("/nowhere/lives.jsonl"), "{finished}");
    assert!(finished.report.is_null(), "{finished}");
}
