//! The real CLI of Claude Code under tracer, headless, its model a script: what its calls leave is
//! found and gets the right call, and what it starts for itself is no leak.

use std::fs::{File, Permissions};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, mknodat};
use tracer_tests::agents::claude_code::{self, Hooks, agent, background_bash, bash};
use tracer_tests::agents::messages::{Endpoint, Script, says};
use tracer_tests::agents::{expect_agent, expect_call};
use tracer_tests::sys::Pid;
use tracer_tests::{Finished, Run, Running, binary, proc, skip, sys};

/// What is left is judged so long after the agent's end: none of it ends by itself.
const GRACE: &str = "300ms";

/// Confidences at which nothing is guessed.
const CERTAIN: [&str; 2] = ["exact", "strong"];

/// A run of the agent, which may be slow to reap, and the model that it asks. `None` where there can
/// be none, which is said.
fn claude(script: Script, hooks: Hooks) -> Option<(Run, Endpoint)> {
    match claude_code::run(script, hooks) {
        Ok((run, model)) => Some((run.zombie_after_patience(20), model)),
        Err(reason) => {
            skip(&reason);
            None
        }
    }
}

/// A line of shell that leaves a process, which tells this name, and ends when it has.
fn leaving(name: &str) -> String {
    format!(r#"nohup "$WORKLOAD" sleep as={name} >/dev/null 2>&1 & "$WORKLOAD" await names={name}"#)
}

/// The agent of a run that is still going on.
fn agent_of(running: &Running) -> Pid {
    proc::until("the agent", || proc::children(running.pid).first().copied())
}

/// Sends a signal to the agent.
fn signal_agent(running: &Running, signal: i32) {
    let agent = sys::open_pidfd(agent_of(running)).expect("tracer has an agent");
    sys::signal_pidfd(&agent, signal);
}

/// An agent that has ended, and what its calls left: process and id of the call.
struct Left {
    finished: Finished,
    processes: Vec<(Pid, &'static str)>,
}

impl Left {
    /// What was left is what told these names, each in the call of this id.
    fn told(finished: Finished, names: &[(&str, &'static str)]) -> Self {
        let processes = names.iter().map(|&(name, id)| (finished.fact(name).pid, id)).collect();
        Self::known(finished, processes)
    }

    fn known(finished: Finished, processes: Vec<(Pid, &'static str)>) -> Self {
        processes.iter().for_each(|&(pid, _)| finished.guard(pid));
        Self { finished, processes }
    }

    /// All of it is found, below the agent, and nothing else.
    #[track_caller]
    fn expect_found(&self) -> &Self {
        let finished = &self.finished;
        finished.expect_verdict("leaked");
        let mut pids: Vec<_> = self.processes.iter().map(|&(pid, _)| i64::from(pid)).collect();
        pids.sort_unstable();
        assert_eq!(finished.pids_of("survivor"), pids, "{finished:#}");
        assert_eq!(finished.pids_of("zombie"), [0; 0], "{finished:#}");
        let agent = finished.report["invocation"]["root"]["pid"].as_i64();
        for finding in finished.findings() {
            assert_eq!(finding.lineage_pids().first().copied(), agent, "{finished:#}");
        }
        self
    }

    /// Each process has the call that left it.
    #[track_caller]
    fn expect_calls(&self) {
        for &(pid, id) in &self.processes {
            expect_call(&self.finished.finding("survivor", pid), id, &CERTAIN);
        }
    }

    /// Each process has the session, although nobody announced anything.
    #[track_caller]
    fn expect_session(&self) {
        for &(pid, _) in &self.processes {
            let finding = self.finished.finding("survivor", pid);
            expect_agent(&finding, claude_code::NAME, claude_code::SESSION);
        }
    }
}

// What the agent is told to do. Each gives `None` where there is no agent.

/// Calls that leave nothing, one of them a failure.
fn nothing(hooks: Hooks) -> Option<(Finished, Endpoint)> {
    let script = Script::new()
        .turn([says("First."), bash("toolu_works", "echo one | cat")])
        .turn([bash("toolu_fails", "echo two; exit 3")])
        .turn([background_bash("toolu_behind", "echo three")]);
    let (run, model) = claude(script, hooks)?;
    let finished = run.grace_patience(20).finish();
    assert_eq!(model.result("toolu_works").text, "one", "{finished:#}");
    let failed = model.result("toolu_fails");
    assert!(failed.is_error && failed.text.contains("two"), "{failed:?}");
    Some((finished, model))
}

/// One call after the other, with one between that leaves nothing.
fn in_sequence(hooks: Hooks) -> Option<Left> {
    let script = Script::new()
        .turn([bash("toolu_first", &leaving("first"))])
        .turn([bash("toolu_between", "true")])
        .turn([bash("toolu_second", &leaving("second"))]);
    let (run, _model) = claude(script, hooks)?;
    let left = [("first", "toolu_first"), ("second", "toolu_second")];
    Some(Left::told(run.grace(GRACE).finish(), &left))
}

/// Several calls in one turn. The agent runs them one after the other: they might write.
fn in_one_turn(hooks: Hooks) -> Option<Left> {
    let script = Script::new().turn([
        bash("toolu_one", &leaving("one")),
        bash("toolu_two", &leaving("two")),
        bash("toolu_three", &leaving("three")),
    ]);
    let (run, _model) = claude(script, hooks)?;
    let left = [("one", "toolu_one"), ("two", "toolu_two"), ("three", "toolu_three")];
    Some(Left::told(run.grace(GRACE).finish(), &left))
}

/// Calls that only read run side by side. The agent is killed while both are open.
fn side_by_side(hooks: Hooks) -> Option<Left> {
    let calls = [("left", "toolu_left"), ("right", "toolu_right")];
    let script = Script::new().turn(calls.map(|(pipe, id)| bash(id, &format!("cat {pipe}"))));
    let (run, model) = claude(script, hooks)?;
    let pipes = calls.map(|(pipe, _)| run.path("project").join(pipe));
    for pipe in &pipes {
        mknodat(CWD, pipe, FileType::Fifo, Mode::RWXU, 0).expect("a pipe with a name");
    }
    let running = run.grace(GRACE).start();
    // Held open, so that the readers wait.
    let _writers = pipes.each_ref().map(|pipe| until_read(pipe));
    let mut processes = Vec::new();
    for shell in proc::children(agent_of(&running)) {
        for reader in proc::children(shell) {
            let line = std::fs::read(format!("/proc/{reader}/cmdline")).unwrap_or_default();
            let call = calls.iter().find(|(pipe, _)| line == format!("cat\0{pipe}\0").as_bytes());
            processes.extend(call.iter().flat_map(|(_, id)| [(shell, *id), (reader, *id)]));
        }
    }
    signal_agent(&running, libc::SIGKILL);
    let finished = running.finish();
    assert!(calls.iter().all(|(_, id)| model.result_so_far(id).is_none()), "{finished:#}");
    assert_eq!(processes.len(), 4, "a shell and a reader each\n{finished:#}");
    Some(Left::known(finished, processes))
}

/// The writing end of a pipe that somebody reads.
fn until_read(pipe: &Path) -> File {
    let open = || File::options().write(true).custom_flags(libc::O_NONBLOCK).open(pipe).ok();
    proc::until("a reader", open)
}

/// A call in the background that leaves something and ends.
fn in_the_background(hooks: Hooks) -> Option<Left> {
    let script = Script::new().turn([background_bash("toolu_behind", &leaving("behind"))]);
    let (run, _model) = claude(script, hooks)?;
    Some(Left::told(run.grace(GRACE).finish(), &[("behind", "toolu_behind")]))
}

/// A server, as agents like to start one.
fn server(hooks: Hooks) -> Option<Left> {
    let line = r#"nohup "$WORKLOAD" sleep as=server listen=tcp > server.log 2>&1 &
"$WORKLOAD" await names=server && echo "It's up.""#;
    let script = Script::new().turn([bash("toolu_server", line)]);
    let (run, model) = claude(script, hooks)?;
    let left = Left::told(run.grace(GRACE).finish(), &[("server", "toolu_server")]);
    assert_eq!(model.result("toolu_server").text, "It's up.");
    Some(left)
}

/// A command with everything in it that a shell has a meaning for.
fn quoted(hooks: Hooks) -> Option<Left> {
    let line = format!(
        "# It's a \"comment\" of $nobody's\ncat <<'END' > /dev/null\nein Wörtchen → 漢字 `id` \
         \\'$(exit)\nEND\n\t{}",
        leaving("'quo'\"ted\"")
    );
    let script = Script::new().turn([bash("toolu_quoted", &line)]);
    let (run, _model) = claude(script, hooks)?;
    Some(Left::told(run.grace(GRACE).finish(), &[("quoted", "toolu_quoted")]))
}

/// A command of one word, which the agent does not quote.
fn one_word(hooks: Hooks) -> Option<Left> {
    let script = Script::new().turn([bash("toolu_word", "./serve.sh")]);
    let (run, _model) = claude(script, hooks)?;
    let serve = run.path("project/serve.sh");
    let written = std::fs::write(&serve, format!("#!/bin/sh\n{}\n", leaving("served")));
    let written =
        written.and_then(|()| std::fs::set_permissions(&serve, Permissions::from_mode(0o700)));
    written.expect("a script in the project");
    Some(Left::told(run.grace(GRACE).finish(), &[("served", "toolu_word")]))
}

/// Two subagents at the same time, each of which leaves something.
fn subagents(hooks: Hooks) -> Option<Left> {
    // Both calls are open until both have left theirs.
    let line = |name: &str| format!("{} && \"$WORKLOAD\" await names=one,two", leaving(name));
    let prompts = ["Do what is left to agent one.", "Do what is left to agent two."];
    let script = Script::new()
        .turn([agent("toolu_agent_one", prompts[0]), agent("toolu_agent_two", prompts[1])])
        .turn_of(prompts[0], [bash("toolu_one", &line("one"))])
        .turn_of(prompts[1], [bash("toolu_two", &line("two"))]);
    let (run, _model) = claude(script, hooks)?;
    Some(Left::told(run.grace(GRACE).finish(), &[("one", "toolu_one"), ("two", "toolu_two")]))
}

/// A line of shell that goes on until somebody ends it.
const WORK: &str = r#""$WORKLOAD" sleep as=worker; echo never"#;

/// The agent is killed in the middle of a call.
fn killed(hooks: Hooks) -> Option<Left> {
    let script = Script::new().turn([bash("toolu_cut_short", WORK)]);
    let (run, model) = claude(script, hooks)?;
    let running = run.grace(GRACE).start();
    let left = killed_at_work(running, "toolu_cut_short");
    assert_eq!(model.result_so_far("toolu_cut_short"), None);
    Some(left)
}

/// The agent is killed while a call of its own goes on in the background.
fn killed_behind(hooks: Hooks) -> Option<Left> {
    let script = Script::new().turn([background_bash("toolu_job", WORK)]);
    let (run, model) = claude(script, hooks)?;
    let running = run.grace(GRACE).start();
    // For the agent this call has ended.
    assert!(!model.result("toolu_job").is_error);
    Some(killed_at_work(running, "toolu_job"))
}

fn killed_at_work(running: Running, id: &'static str) -> Left {
    let worker = running.fact("worker").pid;
    let shell = proc::ppid(worker).expect("it lives");
    signal_agent(&running, libc::SIGKILL);
    Left::known(running.finish(), vec![(shell, id), (worker, id)])
}

// What tracer says of it.

/// Everything that was left is found. Without hooks.
#[track_caller]
fn found(case: fn(Hooks) -> Option<Left>) -> Option<Left> {
    let left = case(Hooks::None)?;
    left.expect_found();
    Some(left)
}

/// With hooks everything that was left is found, and has the right call.
#[track_caller]
fn attributed(case: fn(Hooks) -> Option<Left>) {
    if let Some(left) = case(Hooks::Tracer) {
        left.expect_found().expect_calls();
    }
}

#[test]
fn what_the_agent_starts_for_itself_is_no_leak() {
    let Some((finished, _)) = nothing(Hooks::None) else { return };
    finished.expect_nothing_found();
}

#[test]
fn each_call_of_a_sequence_is_found_to_leave_its_process() {
    let Some(left) = found(in_sequence) else { return };
    left.finished.expect_code(23);
}

#[test]
fn each_call_of_one_turn_is_found_to_leave_its_process() {
    let Some(left) = found(in_one_turn) else { return };
    left.finished.expect_code(23);
}

#[test]
fn calls_side_by_side_survive_the_killed_agent() {
    let Some(left) = found(side_by_side) else { return };
    left.finished.expect_code(128 + libc::SIGKILL);
}

#[test]
fn background_call_is_found_to_leave_a_process() {
    let Some(left) = found(in_the_background) else { return };
    left.finished.expect_code(23);
}

#[test]
fn server_left_with_nohup_is_found_with_its_port() {
    let Some(left) = found(server) else { return };
    let server = left.finished.expect_code(23).fact("server");
    let address = format!("127.0.0.1:{}", server.number("port"));
    let finding = left.finished.finding("survivor", server.pid);
    finding
        .expect_cause("shell_died_child_survived")
        .expect_listed("/resources/listening", &address);
}

#[test]
fn process_left_by_a_quoted_command_is_found() {
    let Some(left) = found(quoted) else { return };
    left.finished.expect_code(23);
}

#[test]
fn process_left_by_a_command_of_one_word_is_found() {
    let Some(left) = found(one_word) else { return };
    left.finished.expect_code(23);
}

#[test]
fn subagents_are_found_to_leave_their_processes() {
    let Some(left) = found(subagents) else { return };
    left.finished.expect_code(23);
}

#[test]
fn call_survives_the_killed_agent() {
    let Some(left) = found(killed) else { return };
    left.finished.expect_code(128 + libc::SIGKILL);
    let worker = left.finished.fact("worker").pid;
    left.finished.finding("survivor", worker).expect_cause("agent_killed");
}

#[test]
fn background_call_survives_the_killed_agent() {
    let Some(left) = found(killed_behind) else { return };
    left.finished.expect_code(128 + libc::SIGKILL);
}

#[test]
fn agent_that_is_asked_to_end_takes_its_background_call_with_it() {
    let script = Script::new().turn([background_bash("toolu_job", WORK)]);
    let Some((run, model)) = claude(script, Hooks::None) else { return };
    let running = run.grace_patience(20).start();
    let job = running.fact("worker").pid;
    assert!(model.result("toolu_job").text.contains("in background"));
    signal_agent(&running, libc::SIGTERM);
    let finished = running.finish();
    finished.expect_code(128 + libc::SIGTERM).expect_verdict("clean");
    assert!(!proc::is_alive(job));
}

#[test]
fn session_is_known_without_hooks() {
    for case in [in_sequence, side_by_side, in_the_background, subagents, killed] {
        let Some(left) = found(case) else { return };
        left.expect_session();
    }
}

#[test]
fn hooks_are_no_leak() {
    let Some((finished, _)) = nothing(Hooks::Tracer) else { return };
    finished.expect_nothing_found();
}

#[test]
fn calls_of_a_sequence_are_told_apart_by_hooks() {
    attributed(in_sequence);
}

#[test]
fn calls_of_one_turn_are_told_apart_by_hooks() {
    attributed(in_one_turn);
}

#[test]
fn calls_side_by_side_are_told_apart_by_hooks() {
    attributed(side_by_side);
}

#[test]
fn background_call_is_known_by_hooks() {
    attributed(in_the_background);
}

#[test]
fn call_of_the_server_is_known_by_hooks() {
    attributed(server);
}

#[test]
fn call_of_a_quoted_command_is_known_by_hooks() {
    attributed(quoted);
}

#[test]
fn call_of_a_command_of_one_word_is_known_by_hooks() {
    attributed(one_word);
}

#[test]
fn calls_of_subagents_are_told_apart_by_hooks() {
    attributed(subagents);
}

#[test]
fn call_of_a_killed_agent_is_known_by_hooks() {
    attributed(killed);
}

#[test]
fn background_call_of_a_killed_agent_is_known_by_hooks() {
    attributed(killed_behind);
}

#[test]
fn agent_that_stops_is_told_once_what_its_call_left_and_then_may_stop() {
    let script = Script::new()
        .turn([bash("toolu_left", &leaving("left"))])
        .turn([bash("toolu_wait", &until_found())])
        .turn([says("That is all.")])
        .turn([says("It is meant to stay.")]);
    let Some((run, model)) = claude(script, Hooks::Telling) else { return };
    let finished = run.grace(GRACE).finish();
    let left = finished.fact("left").pid;
    expect_call(&finished.finding("survivor", left), "toolu_left", &CERTAIN);
    let told =
        format!("left workload (pid {left}) running. Stop it, or say that it is meant to stay.");
    assert_eq!(model.has_read(&told), [0, 0, 0, 1], "{finished:#}");
}

/// A line of shell that goes on until tracer has found what a call of the agent left.
fn until_found() -> String {
    let [python, script] = [binary::python().to_owned(), binary::script("until_found.py")];
    format!("'{}' '{}' {}", python.display(), script.display(), claude_code::NAME)
}

#[test]
fn agent_whose_calls_left_nothing_stops_at_once() {
    let Some((finished, model)) = nothing(Hooks::Telling) else { return };
    finished.expect_nothing_found();
    let last = model.has_read("Stop it, or say").pop();
    assert_eq!(last, Some(0), "{finished:#}");
}
