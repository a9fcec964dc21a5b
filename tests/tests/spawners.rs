//! Calls that share a process which forks for all of them: only the call that is certain is named.

use serde_json::{Value, json};
use tracer_tests::agents::{expect_call, python};
use tracer_tests::{Finished, Run, binary, skip};

/// What was asked for while `call_0` alone was open; while `call_0` and `call_1` were; while
/// `call_2` was, the others over; while none was.
const ASKED: [&str; 4] = ["call_0", "call_1", "call_2", "no_call"];

/// No process is given to a call that did not ask for it; where several may have asked, the one that
/// did is listed.
#[track_caller]
fn expect_no_wrong_call(finished: &Finished) {
    finished.expect_leak();
    for asked in ASKED {
        let finding = finished.finding("survivor", finished.fact(asked).pid);
        let call = &finding.value["tool_call"];
        match call["confidence"].as_str().expect("an agent is above it") {
            "ambiguous" => {
                finding.expect("/tool_call/id", Value::Null);
                let is_listed =
                    call["candidates"].as_array().is_some_and(|list| list.contains(&json!(asked)));
                assert!(is_listed || asked == "no_call", "{asked} is no candidate\n{finished:#}");
            }
            // It says that the call was over: the spawner was started by it.
            "stale" => assert_ne!(call["id"], "call_2", "{finished:#}"),
            "none" => drop(finding.expect("/tool_call/id", Value::Null)),
            _ => drop(finding.expect("/tool_call/id", asked)),
        }
    }
}

/// The confidence of what was asked for.
fn confidence<'a>(finished: &'a Finished, asked: &str) -> &'a str {
    let finding = finished.finding("survivor", finished.fact(asked).pid);
    finding.value["tool_call"]["confidence"].as_str().expect("an agent is above it")
}

fn traced(run: Run) -> Finished {
    run.grace("300ms").finish()
}

#[test]
fn daemon_that_serves_calls_gives_none_the_process_of_another() {
    let finished = traced(Run::workload(["shared-spawner", "server=daemon"]));
    expect_no_wrong_call(&finished);
    let told = ASKED.map(|asked| confidence(&finished, asked));
    assert_eq!(told, ["exact", "ambiguous", "ambiguous", "stale"], "{finished:#}");
}

#[test]
fn server_that_was_there_before_the_calls_gives_none_the_process_of_another() {
    let finished = traced(Run::workload(["shared-spawner", "server=child"]));
    expect_no_wrong_call(&finished);
    let told = ASKED.map(|asked| confidence(&finished, asked));
    assert_eq!(told, ["ambiguous", "ambiguous", "ambiguous", "none"], "{finished:#}");
}

#[test]
fn shared_shell_serves_the_call_that_is_open() {
    let finished = traced(Run::workload(["shared-shell"]));
    expect_no_wrong_call(&finished);
    let told = ASKED.map(|asked| confidence(&finished, asked));
    assert_eq!(told, ["probable", "ambiguous", "probable", "none"], "{finished:#}");
}

#[test]
fn tmux_gives_no_call_the_process_of_another() {
    if !binary::is_installed("tmux") {
        return skip("no tmux here");
    }
    let run = Run::python("tmux_agent.py", &[]).env("PYTHONPATH", python::package());
    let sockets = run.path("");
    let finished = traced(run.env("TMUX_TMPDIR", sockets));
    expect_no_wrong_call(&finished);
    let told = ASKED.map(|asked| confidence(&finished, asked));
    assert_eq!(told, ["exact", "ambiguous", "ambiguous", "stale"], "{finished:#}");
}

fn forkserver(how: &str) -> Finished {
    traced(Run::python("forkserver_agent.py", &[how]).env("PYTHONPATH", python::package()))
}

#[test]
fn worker_of_a_forkserver_gives_no_call_the_process_of_another() {
    let finished = forkserver("unbound");
    expect_no_wrong_call(&finished);
    let told = ASKED.map(|asked| confidence(&finished, asked));
    assert_eq!(told, ["probable", "ambiguous", "ambiguous", "stale"], "{finished:#}");
}

#[test]
fn worker_of_a_forkserver_that_is_told_whose_its_work_is_leaves_that_call_s_process() {
    let finished = forkserver("bound");
    for asked in &ASKED[..3] {
        let pid = finished.fact(asked).pid;
        expect_call(&finished.finding("survivor", pid), asked, &["exact"]);
    }
    expect_no_wrong_call(&finished);
}
