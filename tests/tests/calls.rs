//! Whose tool call started what is left: announcements, cookies, windows, and nothing at all.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use tracer_tests::agents::script::Agent;
use tracer_tests::{Finished, Run, binary, sys};

/// Every survivor's call, by what the process told of itself.
#[track_caller]
fn calls_of_survivors(finished: &Finished, calls: usize) -> Vec<(String, Value)> {
    let survivors = finished.findings_of("survivor");
    assert_eq!(survivors.len(), calls, "{finished:#}");
    let mut told = Vec::new();
    for number in 0..calls {
        let id = format!("call_{number}");
        let pid = finished.fact(&id).pid;
        told.push((id, finished.finding("survivor", pid).value["tool_call"].clone()));
    }
    told
}

fn threads() -> usize {
    if sys::slowness() > 1 { 4 } else { 16 }
}

fn parallel(how: &str) -> Finished {
    let threads = format!("threads={}", threads());
    Run::workload(["parallel-calls", &threads, &format!("how={how}")]).grace("300ms").finish()
}

#[test]
fn calls_of_parallel_threads_are_told_apart_by_what_the_forking_thread_announced() {
    let finished = parallel("spawn");
    for (id, call) in calls_of_survivors(&finished, threads()) {
        assert_eq!(call["id"], id, "{finished:#}");
        assert_eq!(
            (&call["confidence"], &call["source"]),
            (&json!("exact"), &json!("announcement"))
        );
        assert_eq!((&call["name"], &call["summary"]), (&json!("leak"), &json!("leaks")));
    }
}

#[test]
fn calls_are_told_apart_in_a_time_namespace() {
    let run = Run::workload(["parallel-calls", "threads=4", "how=spawn"]).grace("300ms");
    let finished = run.under(["unshare", "-Tf", "--kill-child", "--boottime", "100000"]).finish();
    for (id, call) in calls_of_survivors(&finished, 4) {
        assert_eq!((&call["id"], &call["confidence"]), (&json!(id), &json!("exact")));
    }
}

#[test]
fn calls_of_parallel_threads_are_told_apart_by_their_cookies() {
    let finished = parallel("cookie");
    for (id, call) in calls_of_survivors(&finished, threads()) {
        assert_eq!(call["id"], id, "{finished:#}");
        assert_eq!((&call["confidence"], &call["source"]), (&json!("exact"), &json!("cookie")));
    }
}

#[test]
fn calls_that_nothing_tells_apart_are_all_listed_and_none_is_named() {
    let finished = parallel("window");
    for (id, call) in calls_of_survivors(&finished, threads()) {
        assert_eq!((&call["id"], &call["confidence"]), (&Value::Null, &json!("ambiguous")));
        let candidates = call["candidates"].as_array().expect("a list");
        assert_eq!(candidates.len(), threads());
        assert!(candidates.contains(&json!(id)), "{finished:#}");
    }
}

#[test]
fn call_that_alone_was_open_is_probable_and_ends_are_told() {
    let run = Run::workload(["parallel-calls", "threads=3", "how=window", "one=yes"]);
    let finished = run.grace("300ms").finish();
    for (id, call) in calls_of_survivors(&finished, 3) {
        assert_eq!((&call["id"], &call["confidence"]), (&json!(id), &json!("probable")));
        let pid = finished.fact(&id).pid;
        let listed = finished.report["tool_calls"].as_array().expect("a list");
        let listed = listed.iter().find(|call| call["id"] == id).expect("its call");
        assert_eq!((&listed["end_seen"], &listed["status"]), (&json!(true), &json!("ok")));
        assert_eq!(listed["processes"], json!([pid]));
    }
    let said = finished.stderr_text();
    assert!(said.contains("call call_1 (leak): leaks [probable]"), "{said}");
}

/// What `tracer blame` says.
fn blame(args: &[&OsStr]) -> (Option<i32>, String) {
    let output = Command::new(binary::tracer()).arg("blame").args(args).output().expect("it runs");
    let said = String::from_utf8(output.stdout).expect("it is text");
    (output.status.code(), said + &String::from_utf8_lossy(&output.stderr))
}

#[test]
fn blame_answers_of_a_report_and_of_a_recording_alike() {
    let run = Run::workload(["parallel-calls", "threads=4", "how=spawn"]).grace("300ms");
    let (recording, report) = (run.path("run.rec"), run.path("report.json"));
    let finished = run.recorded_to(recording.clone()).finish();
    for (id, _) in calls_of_survivors(&finished, 4) {
        let pid = finished.fact(&id).pid.to_string();
        let of = |option: &str, file: &Path| {
            blame(&[OsStr::new(&pid), OsStr::new(option), file.as_os_str()])
        };
        let (code, said) = of("--report", &report);
        assert_eq!(code, Some(0), "{said}");
        assert!(
            said.contains(&format!("Call: {id} (leak): leaks [exact, by announcement]")),
            "{said}"
        );
        assert_eq!(of("--replay", &recording), (code, said));
    }
    let (code, said) = blame(&[OsStr::new(":1"), OsStr::new("--report"), report.as_os_str()]);
    assert_eq!((code, said.contains("nothing was found of port 1")), (Some(1), true), "{said}");
    let (code, _) = blame(&[OsStr::new("1"), OsStr::new("--report"), recording.as_os_str()]);
    assert_eq!(code, Some(125));
}

#[test]
fn wrong_foreign_and_endless_announcements_are_counted_and_do_no_harm() {
    let flood = 10_000 / sys::slowness();
    let finished = Run::workload(["babbles", &format!("flood={flood}")]).finish();
    finished.expect_clean();
    let told = finished.fact("babbled");
    let dropped = told.number("wrong") + told.number("foreign") + i64::from(flood);
    assert_eq!(finished.stat("announcements_dropped"), dropped, "{finished:#}");
    assert_eq!(finished.stat("announcements"), 0);
    assert_eq!(finished.report["tool_calls"], json!([]));
}

const CLAUDE: &str = "CLAUDECODE=1 CLAUDE_CODE_SESSION_ID=5e55 AI_AGENT=claude-code_2-1-197_agent";
const SECRET: &str = "hunter2-in-the-environment";

#[test]
fn agent_session_and_direct_child_are_told_without_configuration() {
    let line = r#"sh -c '"$WORKLOAD" sleep as=left & exit 0'"#;
    let agent = Agent::new("claude", &format!("{CLAUDE} API_KEY={SECRET} {line}; exit 0"));
    let finished = agent.run().finish();
    finished.expect_leak();
    let left = finished.eventually("left");
    let root = finished.report["invocation"]["root"]["pid"].clone();
    finished
        .only_finding("survivor", left.pid)
        .expect("/agent/name", "claude-code")
        .expect("/agent/version", "2.1.197")
        .expect("/agent/session_id", "5e55")
        .expect("/agent/pid", root)
        .expect("/tool_call/id", Value::Null)
        .expect("/tool_call/confidence", "none")
        .expect("/tool_call/source", "direct_child")
        .expect("/tool_call/child/name", "sh")
        .expect(
            "/tool_call/child/args",
            json!(["sh", "-c", "\"$WORKLOAD\" sleep as=left & exit 0"]),
        );
    let invocation = &finished.report["invocation"];
    assert_eq!(
        (&invocation["agent"], &invocation["session_id"]),
        (&json!("claude-code"), &json!("5e55"))
    );
    let said = finished.stderr_text();
    assert!(said.contains("By: claude-code 2.1.197["), "{said}");
}

#[test]
fn nothing_of_the_environment_but_markers_is_kept() {
    let line = r#"sh -c '"$WORKLOAD" sleep as=left & exit 0'"#;
    // Beside markers, between them, in one's name, and as long as to be read in several goes.
    let long = "y".repeat(9_000);
    let around = format!(
        "CLAUDE_CODE_SESSION_ID_SECRET={SECRET} A={SECRET} LONG={long}{SECRET} {CLAUDE} Z={SECRET}"
    );
    let agent = Agent::new("claude", &format!("{around} {line}; exit 0"));
    let run = agent.run();
    let recording = run.path("run.rec");
    let finished = run.recorded_to(recording.clone()).finish();
    let left = finished.eventually("left");
    finished.only_finding("survivor", left.pid).expect("/agent/session_id", "5e55");
    let holds = |bytes: &[u8], text: &str| {
        bytes.windows(text.len()).any(|window| window == text.as_bytes())
    };
    let recorded = fs::read(finished.path("run.rec")).expect("it was recorded");
    assert!(holds(&recorded, "CLAUDE_CODE_SESSION_ID=5e55"));
    for (what, bytes) in [
        ("recording", recorded),
        ("report", finished.report.to_string().into_bytes()),
        ("standard error", finished.stderr_text().into_bytes()),
    ] {
        // The script's own text is no environment: it is not among the arguments.
        assert!(!holds(&bytes, SECRET), "{what}");
    }
}

/// Bytes of everything that tells of a run.
fn everything(finished: &Finished, recording: &str) -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("recording", fs::read(finished.path(recording)).expect("it was recorded")),
        ("report", finished.file("report.json").into_bytes()),
        ("JUnit", finished.file("r.xml").into_bytes()),
        ("Markdown", finished.file("r.md").into_bytes()),
        ("standard error", finished.stderr_text().into_bytes()),
    ]
}

#[test]
fn secrets_in_arguments_are_left_out_everywhere_unless_asked_for() {
    const KEY: &str = "s3cr3t-of-an-argument";
    let line = format!(r#""$WORKLOAD" sleep as=left --api-key {KEY} token={KEY} & exit 0"#);
    for (options, is_told) in [(&[][..], false), (&["--redact", "none"][..], true)] {
        let run = Run::shell(&line).grace("300ms").options(options.iter().copied());
        let (xml, md) = (run.path("r.xml"), run.path("r.md"));
        let run = run.options([
            OsStr::new("--report"),
            xml.as_os_str(),
            OsStr::new("--report"),
            md.as_os_str(),
        ]);
        let recording = run.path("run.rec");
        let finished = run.recorded_to(recording).finish();
        let left = finished.eventually("left");
        finished.only_finding("survivor", left.pid);
        for (what, bytes) in everything(&finished, "run.rec") {
            let told = bytes.windows(KEY.len()).any(|window| window == KEY.as_bytes());
            assert_eq!(told, is_told, "{what}");
        }
    }
}

#[test]
fn more_than_256_variables_are_said_to_be_too_many_to_look_at() {
    let many: String = (0..300).map(|number| format!("V{number}=x ")).collect();
    let line = r#"sh -c '"$WORKLOAD" sleep as=left & exit 0'"#;
    let script =
        format!("env -i WORKLOAD=\"$WORKLOAD\" {} {many} {CLAUDE} {line}; exit 0", facts());
    let agent = Agent::new("claude", &script);
    let finished = agent.run().finish();
    let left = finished.eventually("left");
    finished
        .only_finding("survivor", left.pid)
        .expect("/agent/name", "claude-code")
        .expect("/agent/session_id", Value::Null);
}

/// What a workload needs to tell its facts where the environment is emptied.
fn facts() -> String {
    format!("{name}=\"${name}\"", name = tracer_tests::facts::ENV)
}

#[test]
fn nested_agent_is_an_invocation_of_its_own_and_names_the_one_around() {
    let inner = Agent::new(
        "codex",
        r#"CODEX_SESSION_ID=c1 CODEX_TOOL_CALL_ID=call_9 sh -c '"$WORKLOAD" sleep as=left & exit 0'; exit 0"#,
    );
    let outer = Agent::new(
        "claude",
        &format!("{CLAUDE} sh -c '{}; exit 0'; exit 0", inner.path().display()),
    );
    let finished = outer.run().finish();
    let left = finished.eventually("left");
    let root = finished.report["invocation"]["id"].clone();
    finished
        .only_finding("survivor", left.pid)
        .expect("/agent/name", "codex")
        .expect("/agent/session_id", "c1")
        .expect("/agent/parent_invocation", root)
        .expect("/tool_call/id", "call_9")
        .expect("/tool_call/confidence", "exact");
    assert_eq!(finished.report["agents"][0]["name"], "codex");
}

#[test]
fn agents_are_added_by_rules_of_ones_own() {
    let agent =
        Agent::new("my-bot", r#"MYBOT_CALL=c7 sh -c '"$WORKLOAD" sleep as=left & exit 0'; exit 0"#);
    let rules = agent.folder().join("rules.toml");
    let text = "[[agent]]\nname = \"mybot\"\nexecutables = [\"my-bot\"]\ncall = [\"MYBOT_CALL\"]\n";
    fs::write(&rules, text).expect("write the rules");
    let finished = agent.run().options([OsStr::new("--rules"), rules.as_os_str()]).finish();
    let left = finished.eventually("left");
    finished
        .only_finding("survivor", left.pid)
        .expect("/agent/name", "mybot")
        .expect("/tool_call/id", "c7");
    fs::write(&rules, "[[agent]]\nnam = 1\n").expect("write the rules");
    let refused =
        agent.run().options([OsStr::new("--rules"), rules.as_os_str()]).without_report().finish();
    refused.expect_code(125);
    assert!(refused.stderr_text().contains("rules.toml"), "{refused:#}");
}
