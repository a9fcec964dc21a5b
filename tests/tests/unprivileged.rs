//! `tracer run` without privileges: a daemon traces for it, and it says the same as with them.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;
use std::{env, fs};

use serde_json::Value;
use tracer_tests::daemon::Daemon;
use tracer_tests::run::RECORDING;
use tracer_tests::{Finished, Run, binary, proc, skip, storm, sys};

/// Nobody else has processes of this user.
const USER: u32 = 54_322;

/// A run by a user who may not trace, for whom this daemon may.
fn traced_by(daemon: &Daemon, run: Run) -> Run {
    let socket = daemon.path("tracer.sock");
    run.by_user(USER).options(["--socket".into(), socket.into_os_string()])
}

/// One that leaks.
fn for_user(daemon: &Daemon, run: Run) -> Run {
    traced_by(daemon, run).zombie_after("300ms").grace("300ms")
}

/// One that leaves nothing, however slow the machine is.
fn clean(daemon: &Daemon, run: Run) -> Run {
    traced_by(daemon, run).zombie_after_patience(10).grace_patience(10)
}

#[test]
fn clean_run_is_clean() {
    let daemon = Daemon::started_for_all("");
    let finished = clean(&daemon, Run::shell("true; (exit 3); sh -c 'true & wait'")).finish();
    finished.expect_nothing_found();
    assert!(finished.stat("processes") >= 3, "{finished:#}");
    assert_eq!((finished.stat("dropped"), finished.stat("unseen")), (0, 0), "{finished:#}");
    // Whatever else is said: tracer itself has lost no word on it.
    assert_eq!(finished.stderr_text().lines().count(), 1, "{finished:#}");
}

#[test]
fn status_is_commands_own() {
    let daemon = Daemon::started_for_all("");
    let status = |line: &str| clean(&daemon, Run::shell(line)).finish().status.code();
    assert_eq!((status("exit 7"), status("kill -9 $$")), (Some(7), Some(137)));
    let nowhere = Run::command(["/no/such/program"]).without_report();
    for_user(&daemon, nowhere).finish().expect_code(127);
    let folder = Run::command(["/"]).without_report();
    for_user(&daemon, folder).finish().expect_code(126);
}

#[test]
fn zombie_is_found_and_blamed_on_its_parent() {
    let daemon = Daemon::started_for_all("");
    let run = for_user(&daemon, Run::workload(["never-waits"]));
    let finished = run.standing_for("standing", Duration::from_secs(1)).finish();
    finished.expect_leak();
    let (zombie, parent) = (finished.fact("zombie").pid, finished.fact("parent").pid);
    let finding = finished.only_finding("zombie", zombie);
    // What its parent has waited for is the kernel side's to know.
    finding.expect_cause("parent_never_waits").expect_parent(parent, "workload");
    // The daemon has it for a run of its own, of a command that is no agent's.
    let told = daemon.finding(zombie, "zombie", "opened");
    assert_eq!(told["finding"]["agent"]["name"], Value::Null, "{told:#}");
}

#[test]
fn tool_calls_are_announced_to_tracer_run_itself() {
    let daemon = Daemon::started_for_all("");
    let calls = Run::workload(["parallel-calls", "threads=4", "how=spawn"]);
    let finished = for_user(&daemon, calls).finish();
    finished.expect_leak();
    for number in 0..4 {
        let id = format!("call_{number}");
        let finding = finished.finding("survivor", finished.fact(&id).pid);
        finding.expect("/tool_call/id", id).expect("/tool_call/source", "announcement");
    }
}

/// Without what differs between two runs of the same.
fn timeless(value: &Value, key: &str) -> Value {
    const CHANGING: [&str; 20] = [
        "cwd",
        "ended_at",
        "events",
        // One that becomes a daemon may be looked at before it has let go of some.
        "fds",
        "id",
        "last_other",
        "namespace_pid",
        "parent_invocation",
        "pgid",
        "pid",
        "ppid",
        "resolved_at",
        "rss_bytes",
        "seconds",
        "sid",
        "since",
        "start_time",
        "started_at",
        "streams",
        "text",
    ];
    match value {
        _ if CHANGING.contains(&key) && !value.is_null() => "changing".into(),
        // Whether it runs or sleeps.
        Value::String(state) if key == "state" && ["R", "S", "D"].contains(&&**state) => {
            "alive".into()
        }
        Value::Array(all) => all.iter().map(|one| timeless(one, "")).collect(),
        Value::Object(all) => {
            all.iter().map(|(key, one)| (key.clone(), timeless(one, key))).collect()
        }
        // Paths of programs under test, and listening ports.
        Value::String(text) => match text.rsplit_once(['/', ':']) {
            Some((_, name)) if text.starts_with('/') => name.into(),
            Some(("127.0.0.1", _)) => "127.0.0.1".into(),
            _ => value.clone(),
        },
        other => other.clone(),
    }
}

#[test]
fn report_is_that_of_a_privileged_run() {
    let daemon = Daemon::started_for_all("");
    for workload in [
        &["keeps-server", "listen=tcp"][..],
        &["never-waits"],
        &["waits-for-others"],
        &["killed-before-wait"],
    ] {
        let settled = |run: Run| {
            let run = run.standing_for("standing", Duration::from_secs(1));
            run.standing_for("leaving", Duration::ZERO).finish()
        };
        let run = || Run::workload(workload.iter().copied());
        let with = settled(run().by_user(0).zombie_after("300ms").grace("300ms"));
        let without = settled(for_user(&daemon, run()));
        assert_eq!(with.status.code(), without.status.code(), "{workload:?}\n{without:#}");
        let (with, without) = (timeless(&with.report, ""), timeless(&without.report, ""));
        assert_eq!(with, without, "{workload:?}\n{with:#}\n{without:#}");
    }
}

#[test]
fn user_ends_what_leaks_with_his_own_rights() {
    let daemon = Daemon::started_for_all("");
    let run = for_user(&daemon, Run::workload(["double-fork"])).options(["--on-leak", "kill"]);
    let finished = run.finish();
    finished.expect_leak();
    let leaked = finished.fact("daemon").pid;
    assert!(!sys::exists(leaked), "it lives\n{finished:#}");
    let finding = finished.only_finding("survivor", leaked);
    finding.expect("/action/result", "ended").expect("/action/exit/signal", "SIGTERM");
}

/// Runs a copy of the workload that anybody may execute, as root if it is `set_user_id`, and gives it a
/// secret; what was recorded.
fn recorded_with_secret(daemon: &Daemon, set_user_id: bool) -> (Finished, Vec<u8>) {
    let line = r#""$PROGRAM" exit as=program note="$NOTE"; true"#;
    let run = clean(daemon, Run::shell(line)).recorded();
    let program = run.path("program");
    fs::copy(binary::workload(), &program).expect("a copy");
    let mode = if set_user_id { 0o4755 } else { 0o755 };
    fs::set_permissions(&program, fs::Permissions::from_mode(mode)).expect("its mode");
    let run = run.env("PROGRAM", &program).env("NOTE", "not-for-everybody");
    let finished = run.finish();
    let recording = fs::read(finished.path(RECORDING)).expect("a recording");
    (finished, recording)
}

#[test]
fn what_a_set_user_id_program_is_given_is_not_told() {
    let daemon = Daemon::started_for_all("");
    let has =
        |recording: &[u8], text: &[u8]| recording.windows(text.len()).any(|window| window == text);
    for (set_user_id, is_told) in [(false, true), (true, false)] {
        let (finished, recording) = recorded_with_secret(&daemon, set_user_id);
        finished.expect_clean();
        let ran_as = finished.fact("program").number("euid");
        if set_user_id && ran_as != 0 {
            return skip("set-user-ID programs are not run as their owner here");
        }
        assert_eq!(has(&recording, b"not-for-everybody"), is_told, "{finished:#}");
        // That it was executed, and what it is called, is told.
        assert!(has(&recording, b"program"), "{finished:#}");
        assert_eq!(finished.stat("processes"), 2, "{finished:#}");
    }
}

/// What the daemon says to this user, who speaks frames: `script` has `begin(pid)` and `receive()`.
fn by_hand(daemon: &Daemon, script: &str) -> Output {
    let prelude = r#"
import os, socket, subprocess, sys, time
# Where python lies he may not go.
os.setgroups([])
os.setgid(int(os.environ["ID"]))
os.setuid(int(os.environ["ID"]))
s = socket.socket(socket.AF_UNIX)
s.connect(os.environ["SOCKET"])
s.sendall(b'{"schema":"tracer.control/1","ask":{"trace":{}}}\n')
lines = s.makefile("rb", buffering=0)
print(lines.readline().decode(), end="")
def frame(message):
    s.sendall(len(message).to_bytes(4, "little") + message)
def begin(pid):
    message = b"\x08"
    while pid > 127:
        message += bytes([pid & 127 | 128])
        pid >>= 7
    frame(message + bytes([pid]))
def receive():
    length = lines.read(4)
    if not length:
        return b"closed"
    return lines.read(int.from_bytes(length, "little")) or b"closed"
"#;
    let mut command = Command::new(binary::python());
    command.args(["-c", &format!("{prelude}{script}")]).env("SOCKET", daemon.path("tracer.sock"));
    command.env("ID", USER.to_string()).output().expect("python")
}

#[track_caller]
fn said(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn nobody_is_told_of_what_he_has_not_started() {
    let daemon = Daemon::started_for_all("");
    let foreign = Run::workload(["sleep"]).alone().start();
    let own = Run::workload(["sleep"]).alone().by_user(USER).start();
    for pid in [1, foreign.fact("sleeper").pid, own.fact("sleeper").pid] {
        let said = said(&by_hand(&daemon, &format!("begin({pid})\nprint(receive())")));
        assert!(said.contains("tracer.trace/1"), "{said}");
        assert!(said.contains("no child of yours"), "{pid}: {said}");
    }
    let itself = by_hand(&daemon, "begin(os.getpid())\nprint(receive())");
    assert!(said(&itself).contains("no child of yours"), "{itself:?}");
    // A child that has begun before is not told of from its midst.
    let late = r#"
child = subprocess.Popen(["sh", "-c", "echo; exec sleep 60"], stdout=subprocess.PIPE)
# What it executes has begun, also to the kernel side.
child.stdout.readline()
begin(child.pid)
print(receive())
child.kill()
child.wait()
"#;
    let late = said(&by_hand(&daemon, late));
    assert!(late.contains("has executed or forked something already"), "{late}");
}

#[test]
fn what_is_no_request_ends_the_connection() {
    let daemon = Daemon::started_for_all("");
    // A child that waits at a pipe, so that it can be begun with.
    let begun = r#"
r, w = os.pipe()
child = os.fork()
if child == 0:
    os.close(w)
    os.read(r, 1)
    os._exit(0)
begin(child)
assert receive()[0] == 0x0a
assert receive()[0] == 0x1a
"#;
    for wrong in [
        "frame(b'\\xff' * 8)",
        "s.sendall(b'\\xff\\xff\\xff\\xff')",
        // Empty, and a request of no known kind.
        "frame(b'')",
        "frame(b'\\x78\\x01')",
        "begin(child)",
        // A child without a parent.
        "frame(b'\\x2a\\x02\\x0a\\x00')",
    ] {
        for before in ["", begun] {
            if before.is_empty() && wrong.contains("child") {
                continue;
            }
            let output = by_hand(&daemon, &format!("{before}\n{wrong}\nprint(receive())"));
            assert!(said(&output).contains("b'closed'"), "{wrong}: {output:?}");
        }
    }
    // One who goes on as he should is answered.
    let output = by_hand(&daemon, &format!("{begun}\nframe(b'\\x12\\x00')\nprint(receive())"));
    assert!(said(&output).contains(r#"b'"\x00'"#), "{output:?}");
    clean(&daemon, Run::command(["true"])).finish().expect_nothing_found();
}

#[test]
fn no_user_is_traced_for_without_bounds() {
    let daemon = Daemon::started_for_all("");
    let many = r#"
more = []
for number in range(40):
    t = socket.socket(socket.AF_UNIX)
    t.connect(os.environ["SOCKET"])
    t.sendall(b'{"schema":"tracer.control/1","ask":{"trace":{}}}\n')
    more.append(t)
told = [t.makefile("rb", buffering=0).readline() for t in more]
print(sum(b"tracer.trace/1" in line for line in told), sum(b"busy" in line for line in told))
"#;
    let said = said(&by_hand(&daemon, many));
    // With the first connection 16.
    assert!(said.ends_with("15 25\n"), "{said}");
    clean(&daemon, Run::command(["true"])).finish().expect_nothing_found();
}

#[test]
fn inside_of_an_agents_run_both_see_the_leak() {
    let daemon = Daemon::started_for_all("");
    let name = format!("around-{}", std::process::id());
    let run = for_user(&daemon, Run::workload(["never-waits"])).env("TRACER_AGENT", &name);
    // A shell that is the agent, and does not become tracer.
    let run = run.under(["sh", "-c", r#""$@"; exit $?"#, "sh"]);
    let finished = run.standing_for("standing", Duration::from_secs(1)).finish();
    finished.expect_leak();
    let zombie = finished.fact("zombie").pid;
    finished.only_finding("zombie", zombie).expect_cause("parent_never_waits");
    let told = daemon.finding(zombie, "zombie", "opened");
    assert_eq!(told["finding"]["agent"]["name"], *name, "{told:#}");
    // It is the agent's, and no run of its own.
    let runs = daemon.events().into_iter().filter(|event| event["type"] == "invocation_opened");
    let names: Vec<_> = runs.map(|run| run["invocation"]["agent"].clone()).collect();
    assert!(names.iter().any(|agent| *agent == *name), "{names:?}");
    let root = finished.report["invocation"]["id"].as_str().expect("an id");
    assert!(daemon.events().iter().all(|event| event["invocation"]["id"] != *root), "{finished:#}");
}

#[test]
fn agent_that_is_run_is_one_to_the_daemon_too() {
    let daemon = Daemon::started_for_all("");
    let name = format!("within-{}", std::process::id());
    let line = format!("TRACER_AGENT={name} \"$WORKLOAD\" never-waits; true");
    let run = for_user(&daemon, Run::shell(&line));
    let finished = run.standing_for("standing", Duration::from_secs(1)).finish();
    finished.expect_leak();
    let zombie = finished.fact("zombie").pid;
    let own = finished.only_finding("zombie", zombie).value["agent"].clone();
    let told = daemon.finding(zombie, "zombie", "opened")["finding"]["agent"].clone();
    assert_eq!((&own["name"], &told["name"]), (&name.as_str().into(), &name.as_str().into()));
    assert_eq!(own["invocation"], told["invocation"]);
}

#[test]
fn where_the_daemon_is_killed_command_goes_on_and_is_not_judged() {
    let mut daemon = Daemon::started_for_all("");
    let running = for_user(&daemon, Run::workload(["keeps-server"])).start();
    let root = running.fact("root").pid;
    running.held("leaving");
    daemon.kill();
    running.until_said("COMMAND goes on, and is not judged");
    assert!(proc::is_alive(root));
    running.release("leaving");
    let finished = running.finish();
    finished.expect_code(125);
    assert_eq!(finished.report, Value::Null, "{finished:#}");
    assert!(finished.stderr_text().contains("has gone away"), "{finished:#}");
}

#[test]
fn signals_reach_command_also_when_the_daemon_is_gone() {
    let mut daemon = Daemon::started_for_all("");
    let running = for_user(&daemon, Run::workload(["sleep"])).start();
    let sleeper = running.fact("sleeper").pid;
    daemon.kill();
    running.until_said("COMMAND goes on, and is not judged");
    running.signal(libc::SIGTERM);
    running.finish().expect_code(125);
    assert!(!proc::is_alive(sleeper));
}

#[test]
fn leaks_of_a_storm_are_found_through_a_daemons_ring_of_one_page() {
    let mut daemon = Daemon::configured("").open_to_all().with_ring_bytes(4096);
    daemon.start();
    let storm = storm::with(&[("zombies", 20), ("daemons", 10)]);
    let run = for_user(&daemon, Run::workload(storm)).patience(Duration::from_secs(180));
    let run = run.standing_for("storm", Duration::ZERO);
    let finished = run.standing_for("standing", Duration::from_millis(1500)).finish();
    assert!(finished.stat("dropped") > 0, "{finished:#}");
    let truth = finished.fact("stormed");
    finished.expect_leak();
    let open = finished.findings_of("zombie").into_iter();
    let open = open.filter(|finding| finding.value["state"] == "open");
    let mut zombies: Vec<_> = open.filter_map(|f| f.process()["pid"].as_i64()).collect();
    zombies.sort_unstable();
    assert_eq!(zombies, truth.pids_of("zombies"), "{finished:#}");
    assert_eq!(finished.pids_of("survivor"), truth.pids_of("daemons"), "{finished:#}");
    // None that was started is left out of account; others' forks may have been among those lost.
    let known = finished.stat("processes") + finished.stat("unseen");
    assert!(known >= truth.number("started"), "{finished:#}");
}

#[test]
fn client_that_does_not_read_loses_records_and_recovers() {
    if sys::slowness() > 1 {
        return skip("this machine takes too long to make 8 MiB of records");
    }
    let daemon = Daemon::started_for_all("");
    // More than fits what waits for one client, 8 MiB, at some 200 bytes a process.
    let storm = ["storm", "waves=600", "children=100", "zombies=5", "daemons=5"];
    let run = for_user(&daemon, Run::workload(storm)).patience(Duration::from_secs(180));
    let running = run.start();
    running.held("storm");
    running.signal(libc::SIGSTOP);
    running.release("storm");
    let truth = running.patiently("stormed", Duration::from_secs(120));
    running.held("standing");
    running.signal(libc::SIGCONT);
    running.release("standing");
    let finished = running.finish();
    assert!(finished.stat("dropped") > 0, "{finished:#}");
    finished.expect_leak();
    assert_eq!(finished.pids_of("survivor"), truth.pids_of("daemons"), "{finished:#}");
    let started = truth.number("started");
    assert_eq!(finished.stat("processes") + finished.stat("unseen"), started, "{finished:#}");
    // Others were not held up.
    clean(&daemon, Run::command(["true"])).finish().expect_nothing_found();
}

#[test]
fn without_a_daemon_it_says_what_would_do() {
    let nowhere = env::temp_dir().join("no-tracer-here.sock");
    let run = Run::command(["touch"]).by_user(USER);
    let marker = run.path("marker");
    let run = run.arguments([&marker]).options(["--socket".into(), nowhere.into_os_string()]);
    let finished = run.without_report().finish();
    finished.expect_code(125);
    assert!(!marker.exists(), "COMMAND was run\n{finished:#}");
    let said = finished.stderr_text();
    assert_eq!(said.lines().count(), 1, "not one line:\n{said}");
    for wanted in ["CAP_BPF", "sudo", "tracer daemon", "no-tracer-here.sock"] {
        assert!(said.contains(wanted), "no {wanted} in\n{said}");
    }
}

#[test]
fn what_takes_root_is_not_had_from_a_daemon() {
    let daemon = Daemon::started_for_all("");
    let run = || clean(&daemon, Run::command(["true"]));
    let user = run().options(["--user", "root"]).without_report().finish();
    user.expect_code(125);
    assert!(user.stderr_text().contains("--user takes root"), "{user:#}");
    // It goes without.
    let cgroup = run().options(["--cgroup"]).finish();
    cgroup.expect_clean();
    assert!(cgroup.stderr_text().contains("without a cgroup of its own"), "{cgroup:#}");
    let size = run().options(["--max-processes", "100"]).finish();
    size.expect_clean();
    assert!(size.stderr_text().contains("its to say"), "{size:#}");
}

#[test]
fn secrets_are_left_out_by_the_daemon_whatever_the_user_asks_for() {
    let daemon = Daemon::started_for_all("");
    let line = r#""$WORKLOAD" exit as=x --api-key="$SECRET"; true"#;
    let run = clean(&daemon, Run::shell(line)).recorded().env("SECRET", "abcdefgh12345");
    let finished = run.options(["--redact", "none"]).finish();
    finished.expect_clean();
    let recording = fs::read(finished.path(RECORDING)).expect("a recording");
    let has = |text: &[u8]| recording.windows(text.len()).any(|window| window == text);
    assert!(has(b"--api-key=[redacted]") && !has(b"abcdefgh12345"), "{finished:#}");
    assert!(finished.stderr_text().contains("leaves out secrets"), "{finished:#}");
}

#[test]
fn history_of_the_daemon_has_the_run() {
    let daemon = Daemon::started_for_all("");
    let run = for_user(&daemon, Run::workload(["double-fork"]));
    let finished = run.finish();
    finished.expect_leak();
    let id = finished.report["invocation"]["id"].as_str().expect("an id").to_owned();
    let opened = daemon.event("its run", |event| {
        event["type"] == "invocation_opened" && event["invocation"]["id"] == *id
    });
    let program = opened["invocation"]["command"][0].as_str().unwrap_or_default();
    assert_eq!(Path::new(program).file_name(), binary::workload().file_name(), "{opened:#}");
}
