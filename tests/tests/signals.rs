//! Signals and ends: what COMMAND gets, how its end is told, and by whose hand it came.

use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use tracer_tests::cgroup::Cgroup;
use tracer_tests::{Finished, Run, Running, binary, proc, skip, sys};

/// Sends a signal from a process of its own: its pid.
fn send(signal: i32, to: sys::Pid) -> sys::Pid {
    let (signal, to) = (format!("signal={signal}"), format!("pid={to}"));
    let sender = Command::new(binary::workload()).args(["send", &signal, &to]).spawn();
    let mut sender = sender.expect("a sender");
    assert!(sender.wait().expect("it is a child").success());
    sys::Pid::try_from(sender.id()).expect("pids are positive")
}

fn exit_of(finished: &Finished) -> &Value {
    &finished.report["invocation"]["exit"]
}

fn started(args: &[&str]) -> Running {
    Run::workload(args.iter().copied()).start()
}

#[test]
fn exit_code_of_the_command_is_the_status() {
    for code in [0, 1, 42, 255] {
        let finished = Run::shell(&format!("exit {code}")).finish();
        finished.expect_code(code).expect_verdict("clean");
        assert_eq!(*exit_of(&finished), json!({"code": code}), "{finished:#}");
    }
}

#[test]
fn exit_code_is_the_command_s_although_its_end_takes_long() {
    // The kernel tells of an end (6.16 and later: before it frees the memory) long before a
    // parent can wait for it.
    for _ in 0..5 {
        let finished = Run::workload(["exit", "code=3", "memory=400"]).finish();
        finished.expect_code(3);
        assert_eq!(*exit_of(&finished), json!({"code": 3}), "{finished:#}");
    }
}

#[test]
fn command_starts_with_the_signals_that_tracer_was_started_with() {
    let status = ["grep", "^Sig[BI]", "/proc/self/status"];
    let alone = Run::command(status).alone().finish();
    let finished = Run::command(status).finish();
    finished.expect_nothing_found();
    assert_eq!(masks(&finished), masks(&alone), "blocked, ignored");
}

/// Signal masks of a status file, without the real-time signals: `posix_spawn` of glibc ignores two
/// of those in every child.
fn masks(of: &Finished) -> Vec<u32> {
    let text = of.stdout_text();
    let masks = text.lines().filter_map(|line| line.split_whitespace().nth(1));
    let low = masks.map(|mask| u64::from_str_radix(mask, 16).expect("a mask") & 0x7fff_ffff);
    low.filter_map(|mask| u32::try_from(mask).ok()).collect()
}

#[test]
fn killed_command_is_told_with_signal_and_sender() {
    for (signal, name, status) in [(9, "SIGKILL", 137), (15, "SIGTERM", 143)] {
        let running = started(&["sleep"]);
        let command = running.fact("sleeper").pid;
        let sender = send(signal, command);
        let finished = running.finish();
        finished.expect_code(status).expect_verdict("clean");
        let sender = json!({"pid": sender, "name": "workload"});
        let wanted = json!({"signal": name, "sender": sender, "oom": false});
        assert_eq!(*exit_of(&finished), wanted, "{finished:#}");
        assert!(finished.stderr_text().contains(name), "{finished:#}");
    }
}

#[test]
fn command_that_kills_itself_is_its_own_killer() {
    let finished = Run::workload(["exit", "as=root", "signal=9"]).finish();
    finished.expect_code(137);
    assert_eq!(exit_of(&finished)["signal"], "SIGKILL", "{finished:#}");
    assert_eq!(exit_of(&finished)["sender"]["pid"], finished.fact("root").pid, "{finished:#}");
}

#[test]
fn alarm_ends_a_command_without_a_sender() {
    // `current` at such a moment is arbitrary: nobody must be named.
    let script = "import signal; signal.setitimer(signal.ITIMER_REAL, 0.1); signal.pause()";
    let finished = Run::command([binary::python().as_os_str(), "-c".as_ref(), script.as_ref()]);
    let finished = finished.finish();
    finished.expect_code(142);
    let wanted = json!({"signal": "SIGALRM", "sender": null, "oom": false});
    assert_eq!(*exit_of(&finished), wanted, "{finished:#}");
}

#[test]
fn survivors_of_a_killed_command_are_the_killer_s_doing() {
    let running = Run::workload(["keeps-server"]).grace("300ms").start();
    let (root, server) = (running.held("leaving").pid, running.fact("sleeper").pid);
    let sender = send(libc::SIGKILL, root);
    let finished = running.finish();
    finished.expect_verdict("leaked").expect_code(137);
    finished
        .only_finding("survivor", server)
        .expect_cause("agent_killed")
        .expect("/parent/exit/signal", "SIGKILL")
        .expect("/parent/exit/sender/pid", sender);
}

/// Runs a workload against a small memory cgroup; `None`, with the reason printed, where this host
/// allows none.
fn out_of_memory(args: &[&str], prepare: impl FnOnce(Run) -> Run) -> Option<Finished> {
    let cgroup = match Cgroup::with_memory(48 << 20) {
        Ok(cgroup) => cgroup,
        Err(reason) => {
            skip(&reason);
            return None;
        }
    };
    let place = format!("cgroup={}", cgroup.path().display());
    let run = Run::workload(args.iter().copied().chain([place.as_str()]));
    let finished = prepare(run).finish();
    assert_eq!(cgroup.oom_kills(), 1, "{finished:#}");
    Some(finished)
}

#[test]
fn command_killed_for_its_memory_is_told_so() {
    let Some(finished) = out_of_memory(&["hog"], |run| run) else {
        return;
    };
    finished.expect_code(137);
    let wanted = json!({"signal": "SIGKILL", "sender": null, "oom": true});
    assert_eq!(*exit_of(&finished), wanted, "{finished:#}");
}

#[test]
fn child_killed_for_its_memory_and_never_waited_for_is_a_zombie_that_says_so() {
    let standing = Duration::from_millis(700);
    let prepare = |run: Run| run.zombie_after("200ms").standing_for("standing", standing);
    let Some(finished) = out_of_memory(&["hog", "child=yes"], prepare) else {
        return;
    };
    finished.expect_leak();
    finished
        .only_finding("zombie", finished.fact("hog").pid)
        .expect_cause("parent_never_waits")
        .expect("/exit", json!({"signal": "SIGKILL", "sender": null, "oom": true}));
}

#[test]
fn command_that_does_not_exist_is_127() {
    for command in ["/nonexistent/program", "no-program-is-called-so"] {
        let finished = Run::command([command]).finish();
        finished.expect_code(127);
        assert!(finished.stderr_text().contains(command), "{finished:#}");
    }
}

#[test]
fn command_that_is_no_program_is_126() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("text");
    std::fs::write(&file, "no program\n").unwrap();
    for command in [file.as_path(), folder.path()] {
        let finished = Run::command([command]).finish();
        finished.expect_code(126);
        let said = finished.stderr_text();
        assert!(said.contains(&command.display().to_string()), "{finished:#}");
    }
}

#[test]
fn ctrl_c_reaches_the_command_exactly_once() {
    let running = Run::workload(["signals", "code=7"]).on_terminal().start();
    let command = running.fact("ready").pid;
    running.type_in(b"\x03");
    assert_eq!(running.fact("signal-2").details["from_kernel"], json!(true));
    // Whatever tracer did about its own SIGINT is done when it passes on a later signal.
    running.signal(libc::SIGTERM);
    assert_eq!(running.fact("signal-15").pid_of("sender"), running.pid);
    let finished = running.finish();
    finished.expect_code(7);
    assert_eq!(finished.facts("signal-2").len(), 1, "{command}\n{finished:#}");
}

#[test]
fn interrupt_of_the_whole_group_reaches_the_command_exactly_once() {
    let running = Run::workload(["signals", "code=7"]).in_own_group().start();
    let command = running.fact("ready").pid;
    let group = proc::stat(command).expect("it waits for signals").pgid;
    assert_eq!(group, running.pid, "COMMAND stays in the group that it was started in");
    sys::kill(-group, libc::SIGINT);
    let _interrupted = running.fact("signal-2");
    running.signal(libc::SIGTERM);
    let finished = running.finish();
    finished.expect_code(7);
    assert_eq!(finished.facts("signal-2").len(), 1, "{finished:#}");
}

#[test]
fn signals_sent_to_tracer_alone_are_forwarded() {
    for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP] {
        let running = started(&["signals", "code=6", &format!("until={signal}")]);
        let _ready = running.fact("ready");
        running.signal(signal);
        let finished = running.finish();
        finished.expect_code(6);
        let forwarded = finished.facts(&format!("signal-{signal}"));
        assert_eq!(forwarded.len(), 1, "{finished:#}");
    }
}

#[test]
fn command_that_dies_of_ctrl_c_is_judged_all_the_same() {
    // The server ignores what the terminal sends: it is no part of the foreground group.
    let line = r#"setsid "$WORKLOAD" sleep & exec "$WORKLOAD" reads-terminal"#;
    let running = Run::shell(line).grace("300ms").on_terminal().start();
    let (_ready, server) = (running.fact("ready"), running.fact("sleeper").pid);
    running.type_in(b"\x03");
    let finished = running.finish();
    finished.expect_verdict("leaked").expect_code(130);
    finished.only_finding("survivor", server);
    assert_eq!(exit_of(&finished)["signal"], "SIGINT");
    assert_eq!(exit_of(&finished)["sender"], Value::Null, "a terminal is nobody's act");
}

#[test]
fn command_reads_the_terminal_as_if_alone() {
    let running = Run::workload(["reads-terminal"]).on_terminal().start();
    let _ready = running.fact("ready");
    running.type_in(b"hello\n");
    let finished = running.finish();
    finished.expect_clean();
    assert_eq!(finished.fact("line").details["text"], "hello");
}

#[test]
fn streams_of_the_command_are_untouched() {
    let script = "import sys; sys.stdout.buffer.write(sys.stdin.buffer.read()); sys.exit(3)";
    let input: Vec<u8> = (0..=255).cycle().take(300_000).collect();
    let run = Run::command([binary::python().as_os_str(), "-c".as_ref(), script.as_ref()]);
    let finished = run.input(&input).finish();
    finished.expect_code(3);
    assert!(finished.stdout == input, "{} bytes came out", finished.stdout.len());
}
