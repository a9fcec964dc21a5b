//! What agents are known to do, whichever it is: launchers that die, helpers of their own, threads
//! with names, cleaning up or not, and hanging on what they left.

use std::fs;

use serde_json::{Value, json};
use tracer_tests::agents::expect_call;
use tracer_tests::agents::script::Agent;
use tracer_tests::{Run, binary, proc, skip, sys};

/// A line of shell that leaves a process, which tells this name, and ends when it has.
fn leaving(name: &str) -> String {
    format!(r#""$WORKLOAD" sleep as={name} streams=null & "$WORKLOAD" await names={name}"#)
}

/// A shell as an agent starts it for a call, which it marks.
fn call(id: &str, line: &str) -> String {
    format!(
        "CODEX_SESSION_ID=c1 CODEX_TOOL_CALL_ID={id} sh -c '{line}
exit 0'"
    )
}

#[test]
fn agent_that_its_dead_launcher_leaves_is_a_survivor_whose_further_calls_are_known() {
    let native = Agent::new(
        "codex-x86_64-unknown-linux-musl",
        &[
            &call("call_1", &leaving("early")),
            // Until the launcher is dead, and another is the parent.
            "while read -r _ _ _ parent _ < /proc/$$/stat && [ $parent = $PPID ]; do :; done",
            &call("call_2", &leaving("later")),
            r#""$WORKLOAD" sleep as=busy; exit 0"#,
        ]
        .join("\n"),
    );
    let start =
        format!("{} & \"$WORKLOAD\" await names=early; kill -9 $$", native.path().display());
    let launcher = Agent::new("codex", &start);
    // However long the further call takes: it is judged when the test says so.
    let running = Run::command([launcher.path()]).grace("60s").start();
    let busy = running.fact("busy").pid;
    let native = proc::ppid(busy).expect("it works for the agent");
    running.signal(libc::SIGINT);
    let finished = running.finish();
    finished.expect_verdict("leaked");
    finished
        .finding("survivor", native)
        .expect_cause("launcher_died")
        .expect("/agent/name", "codex");
    for (name, id) in [("early", "call_1"), ("later", "call_2")] {
        let finding = finished.finding("survivor", finished.fact(name).pid);
        expect_call(&finding, id, &["exact"]);
        finding.expect("/agent/session_id", "c1");
    }
    // Launcher and agent are one invocation.
    assert_eq!(finished.report["agents"], json!([]), "{finished:#}");
}

#[test]
fn helper_of_the_agent_belongs_to_no_call_though_one_alone_is_open() {
    let event = json!({"session_id": "g", "hook_event_name": "BeforeTool", "tool_name": "build",
                       "tool_input": {}});
    let agent = Agent::new(
        "gemini",
        &format!(
            "{} hook gemini <<'END'\n{event}\nEND\ncd \"${{0%/*}}\"\n\
             ./git sleep as=helper & \"$WORKLOAD\" sleep as=tool &\n\
             \"$WORKLOAD\" await names=helper,tool",
            binary::tracer().display()
        ),
    );
    fs::copy(binary::workload(), agent.folder().join("git")).expect("a helper of that name");
    let run = agent.run();
    let folder = run.path("");
    let finished = run.env("XDG_RUNTIME_DIR", folder).finish();
    finished
        .finding("survivor", finished.fact("helper").pid)
        .expect("/process/name", "git")
        .expect("/agent/name", "gemini")
        .expect("/tool_call/id", Value::Null)
        .expect("/tool_call/confidence", "none");
    finished
        .finding("survivor", finished.fact("tool").pid)
        .expect("/tool_call/name", "build")
        .expect("/tool_call/confidence", "probable");
}

#[test]
fn process_is_called_by_its_program_whatever_its_forking_thread_is_called() {
    for name in ["tokio-rt-worker", "exe"] {
        let thread = format!("thread={name}");
        let running = Run::workload(["named-thread-forks", &thread]).grace("300ms").start();
        let forked = running.fact("forked").pid;
        let comm = fs::read_to_string(format!("/proc/{forked}/comm")).expect("it lives");
        assert_eq!(comm.trim(), name, "what the kernel calls it");
        let finished = running.finish();
        for told in ["forked", "executed"] {
            let finding = finished.finding("survivor", finished.fact(told).pid);
            finding.expect("/process/name", "workload").expect("/parent/name", "workload");
        }
        assert!(!finished.stderr_text().contains(&format!("{name}[")), "{finished:#}");
    }
}

#[test]
fn process_that_a_thread_named_like_an_agent_forks_is_none() {
    let finished = Run::workload(["named-thread-forks", "thread=claude"]).grace("300ms").finish();
    for told in ["forked", "executed"] {
        let finding = finished.finding("survivor", finished.fact(told).pid);
        finding.expect("/agent", Value::Null).expect("/tool_call", Value::Null);
    }
    assert_eq!(finished.report["agents"], json!([]), "{finished:#}");
}

#[test]
fn same_command_is_a_leak_under_one_agent_and_clean_under_another() {
    let line = leaving("left");
    // One leaves its calls' background jobs alone, the other kills the calls' process groups.
    let leaves = Agent::new("opencode", &format!("bash -c '{line}'; exit 0"));
    let kills = Agent::new(
        "codex",
        &format!("bash -c 'set -m; bash -c \"$0\" & wait $!; kill -9 -- -$!' '{line}'; exit 0"),
    );
    let leaked = leaves.run().finish();
    leaked.expect_leak();
    leaked.only_finding("survivor", leaked.fact("left").pid);
    let clean = Run::command([kills.path()]).grace_patience(20).zombie_after_patience(20).finish();
    clean.expect_clean();
    assert!(!proc::is_alive(clean.fact("left").pid), "{clean:#}");
    let lines = [&leaked, &clean].map(|run| run.fact("left").name);
    assert_eq!(lines[0], lines[1]);
}

#[test]
fn leak_that_an_agent_hangs_on_is_named_with_its_call_when_the_agent_is_ended() {
    // The shell reads to the end of the call's output, which what it left holds open.
    let hangs = call("call_1", r#""$WORKLOAD" sleep as=left &"#);
    let agent = Agent::new("codex", &format!("output=$({hangs})"));
    let running = agent.run().start();
    let left = running.fact("left").pid;
    let agent = proc::children(running.pid)[0];
    // It waits for its shell only once it has read all.
    let hangs = || !proc::children(agent).into_iter().any(proc::is_alive);
    proc::until("an agent that hangs", || hangs().then_some(()));
    running.signal(libc::SIGTERM);
    let finished = running.finish();
    finished.expect_code(128 + libc::SIGTERM).expect_verdict("leaked");
    expect_call(
        finished.only_finding("survivor", left).expect_cause("shell_died_child_survived"),
        "call_1",
        &["exact"],
    );
}

/// An agent that no rule knows but by its cgroup, and the rule.
fn in_cgroup(line: &str) -> Option<(tracer_tests::cgroup::Cgroup, Run)> {
    let made = tracer_tests::cgroup::Cgroup::unified();
    let cgroup = made.map_err(|why| skip(&format!("no cgroup v2 of one's own: {why}"))).ok()?;
    let name = cgroup.path().file_name().expect("a name").to_string_lossy().into_owned();
    let run = Run::shell(line).env("CGROUP", cgroup.path());
    let rules = run.path("rules.toml");
    let text = format!("[[agent]]\nname = 'node-agent'\ncgroups = ['/*{name}']\n");
    fs::write(&rules, text).expect("a file in the run's folder");
    let run = run.options([std::ffi::OsString::from("--rules"), rules.into()]).grace("300ms");
    Some((cgroup, run))
}

#[test]
fn agent_is_known_by_its_cgroup() {
    // It moves itself there and executes the agent's program, as `systemd-run --scope` does.
    let line = "(echo 0 >$CGROUP/cgroup.procs; exec sh -c '$WORKLOAD sleep as=left streams=null &
                $WORKLOAD await names=left; exit 0')";
    let Some((_cgroup, run)) = in_cgroup(line) else { return };
    let finished = run.finish();
    let left = finished.fact("left").pid;
    let finding = finished.only_finding("survivor", left);
    finding.expect("/agent/name", "node-agent").expect("/tool_call/confidence", "none");
    assert_ne!(finding.process()["pid"], finished.report["invocation"]["root"]["pid"]);
    sys::kill(left, libc::SIGKILL);
}

#[test]
fn shell_that_moves_itself_into_an_agent_s_cgroup_is_that_agent() {
    let line = "echo 0 >$CGROUP/cgroup.procs; $WORKLOAD sleep as=one streams=null &
                $WORKLOAD sleep as=two streams=null & $WORKLOAD await names=one,two; exit 0";
    let Some((_cgroup, run)) = in_cgroup(line) else { return };
    let finished = run.finish();
    let root = finished.report["invocation"]["root"]["pid"].clone();
    for name in ["one", "two"] {
        let left = finished.fact(name).pid;
        let finding = finished.finding("survivor", left);
        finding.expect("/agent/name", "node-agent").expect("/agent/pid", root.clone());
        sys::kill(left, libc::SIGKILL);
    }
}
