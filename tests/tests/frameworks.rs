//! Agents made with real frameworks, whose model is a script: sixteen calls at once, in threads or
//! in the tasks of one thread, each of which leaves a process that knows whose it is.

use serde_json::{Value, json};
use tracer_tests::agents::{expect_call, python};
use tracer_tests::{Finished, skip};

const LANGGRAPH: &str = "langgraph_agent.py";
const OPENAI: &str = "openai_agent.py";

/// The ids of the calls.
fn calls() -> impl Iterator<Item = String> {
    (0..16).map(|number| format!("call_{number}"))
}

/// An agent whose tools are of this kind and whose calls are announced by these. `None` where there
/// can be none, which is said.
fn agent(script: &str, kind: &str, who: &str) -> Option<Finished> {
    let run = match python::run(script, &[kind, who]) {
        Ok(run) => run,
        Err(reason) => {
            skip(&reason);
            return None;
        }
    };
    let finished = run.grace("300ms").finish();
    finished.expect_leak();
    assert_eq!(finished.findings_of("survivor").len(), 16, "{finished:#}");
    Some(finished)
}

/// Each process has its own call, as certain as can be.
#[track_caller]
fn expect_exact(script: &str, kind: &str, who: &str) {
    let Some(finished) = agent(script, kind, who) else { return };
    for id in calls() {
        let pid = finished.fact(&id).pid;
        expect_call(&finished.finding("survivor", pid), &id, &["exact"]);
    }
    let known = finished.report["tool_calls"].as_array().expect("a list");
    assert_eq!(known.len(), 16, "{finished:#}");
    assert!(known.iter().all(|call| call["name"] == kind), "{finished:#}");
}

/// No process has a call.
#[track_caller]
fn expect_none(script: &str, kind: &str) {
    let Some(finished) = agent(script, kind, "nobody") else { return };
    for id in calls() {
        let pid = finished.fact(&id).pid;
        finished.finding("survivor", pid).expect("/tool_call", Value::Null);
    }
    assert_eq!(finished.report["tool_calls"], json!([]), "{finished:#}");
}

#[test]
fn calls_of_langgraph_in_threads_are_told_apart() {
    expect_exact(LANGGRAPH, "by_thread", "wrapper");
    expect_exact(LANGGRAPH, "by_thread", "callbacks");
}

#[test]
fn calls_of_langgraph_in_tasks_are_told_apart() {
    expect_exact(LANGGRAPH, "by_task", "wrapper");
    expect_exact(LANGGRAPH, "by_task", "callbacks");
}

#[test]
fn calls_of_langgraph_that_nobody_announces_are_not_guessed() {
    expect_none(LANGGRAPH, "by_thread");
    expect_none(LANGGRAPH, "by_task");
}

#[test]
fn calls_of_langgraph_are_told_apart_by_their_spans() {
    expect_exact(LANGGRAPH, "by_thread", "span");
    expect_exact(LANGGRAPH, "by_task", "span");
}

#[test]
fn calls_of_langgraph_are_told_apart_by_the_trace_s_context_alone() {
    expect_exact(LANGGRAPH, "by_thread", "traceparent");
    expect_exact(LANGGRAPH, "by_task", "traceparent");
}

#[test]
fn process_of_a_call_that_nobody_announced_is_not_given_to_another_call() {
    for kind in ["by_thread", "by_task"] {
        let Some(finished) = agent(LANGGRAPH, kind, "every_other") else { return };
        for (number, id) in calls().enumerate() {
            let finding = finished.finding("survivor", finished.fact(&id).pid);
            if number % 2 == 0 {
                expect_call(&finding, &id, &["exact"]);
            } else {
                finding.expect("/tool_call/id", Value::Null);
                finding.expect("/tool_call/confidence", "ambiguous");
            }
        }
    }
}

#[test]
fn calls_of_the_openai_agents_sdk_in_threads_are_told_apart() {
    expect_exact(OPENAI, "by_thread", "hooks");
}

#[test]
fn calls_of_the_openai_agents_sdk_in_tasks_are_told_apart() {
    expect_exact(OPENAI, "by_task", "hooks");
}

#[test]
fn calls_of_the_openai_agents_sdk_that_nobody_announces_are_not_guessed() {
    expect_none(OPENAI, "by_thread");
    expect_none(OPENAI, "by_task");
}

#[test]
fn one_shell_for_all_calls_of_langchain_serves_the_one_that_is_open() {
    let run = match python::run("langchain_shell.py", &[]) {
        Ok(run) => run,
        Err(reason) => return skip(&reason),
    };
    let finished = run.grace("300ms").finish();
    finished.expect_leak();
    for id in ["call_0", "call_1"] {
        let finding = finished.finding("survivor", finished.fact(id).pid);
        expect_call(&finding, id, &["probable"]);
    }
    // The shell takes one command after the other, but both calls are open.
    for id in ["call_2", "call_3"] {
        let finding = finished.finding("survivor", finished.fact(id).pid);
        let call = finding.value["tool_call"]["id"].clone();
        assert!(call.is_null() || call == id, "{finished:#}");
    }
}
