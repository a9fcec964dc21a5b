//! Hostile hosts and programs: reused pids, names and arguments made to deceive.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use tracer_tests::escaped::{
    HOSTILE_NAME, all_unescaped, assert_harmless, hostile_arguments, unescaped,
};
use tracer_tests::{Finished, Run, binary, finished, proc, skip, sys};

const LONG: Duration = Duration::from_millis(700);

/// Leaves a program of this name with these arguments behind.
fn leave(name: &[u8], arguments: &[OsString]) -> (Finished, OsString) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let program = folder.path().join(OsStr::from_bytes(name));
    std::fs::hard_link(binary::workload(), &program)
        .or_else(|_| std::fs::copy(binary::workload(), &program).map(drop))
        .expect("a copy of the workload");
    let fixed = ["program-renamed".into(), "--".into(), program.clone().into(), "sleep".into()];
    let run = Run::workload(fixed.into_iter().chain(arguments.iter().cloned())).grace("300ms");
    let [xml, markdown] = ["report.xml", "report.md"].map(|name| run.path(name));
    let options = [OsStr::new("--report"), xml.as_os_str(), "--report".as_ref(), markdown.as_ref()];
    let finished = run.options(options).env("GITHUB_ACTIONS", "true").finish();
    finished.expect_leak();
    (finished, program.into())
}

#[track_caller]
fn assert_well_formed_xml(path: &Path) {
    let script = "import sys, xml.dom.minidom as d; d.parse(sys.argv[1])";
    let mut check = Command::new(binary::python());
    let checked = check.args(["-c", script]).arg(path).stderr(Stdio::piped()).output();
    let checked = checked.expect("python parses XML");
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
}

#[test]
fn hostile_arguments_are_lossless_for_machines_and_harmless_for_people() {
    let arguments = hostile_arguments();
    let (finished, program) = leave(HOSTILE_NAME, &arguments);
    let finding = finished.only_finding("survivor", finished.fact("sleeper").pid);
    let told = all_unescaped(&finding.process()["args"]);
    let mut wanted = vec![program.as_bytes().to_vec(), b"sleep".to_vec()];
    wanted.extend(arguments.iter().map(|argument| argument.as_bytes().to_vec()));
    assert_eq!(told, wanted);
    assert_eq!(unescaped(&finding.process()["name"]), HOSTILE_NAME);
    assert_eq!(unescaped(&finding.process()["exe"]), program.as_bytes());
    assert_harmless("standard error", &finished.stderr);
    for name in ["report.xml", "report.md"] {
        assert_harmless(name, &std::fs::read(finished.path(name)).unwrap());
    }
    assert_well_formed_xml(&finished.path("report.xml"));
    let markdown = finished.file("report.md");
    assert!(!markdown.contains("<script>"), "{markdown}");
}

#[test]
fn argument_of_100_kib_is_cut_and_marked() {
    let (finished, program) = leave(b"plain", &[OsString::from("x".repeat(100 << 10))]);
    let finding = finished.only_finding("survivor", finished.fact("sleeper").pid);
    finding.expect("/process/args_truncated", true).expect("/process/name", "plain");
    let args = finding.process()["args"].as_array().unwrap();
    assert_eq!(unescaped(&args[0]), program.as_bytes());
    let long = args[2].as_str().unwrap();
    assert!(long.len() <= 4096 && long.bytes().all(|byte| byte == b'x'), "{} bytes", long.len());
    let lines = finished.stderr_text();
    let longest = lines.lines().map(str::len).max();
    assert!(longest < Some(2000), "a line of {longest:?} bytes for people");
}

#[test]
fn very_many_arguments_are_cut_and_marked() {
    let arguments: Vec<OsString> = (0..20_000).map(|n| n.to_string().into()).collect();
    let (finished, _) = leave(b"plain", &arguments);
    let finding = finished.only_finding("survivor", finished.fact("sleeper").pid);
    finding.expect("/process/args_truncated", true);
    let args = finding.process()["args"].as_array().unwrap();
    assert_eq!(args[2], "0");
    assert_eq!(args[100], "98");
}

#[test]
fn hostile_name_of_a_killer_is_harmless() {
    let folder = tempfile::tempdir().unwrap();
    // The kernel's comm holds 15 bytes of it.
    let killer = folder.path().join(OsStr::from_bytes(b"\x1b[2J\n::error::"));
    std::fs::copy(binary::workload(), &killer).unwrap();
    let running = Run::workload(["sleep"]).env("GITHUB_ACTIONS", "true").start();
    let command = running.fact("sleeper").pid;
    let arguments = ["send".to_owned(), "signal=9".to_owned(), format!("pid={command}")];
    assert!(Command::new(&killer).args(arguments).status().unwrap().success());
    let finished = running.finish();
    finished.expect_code(137);
    let sender = &finished.report["invocation"]["exit"]["sender"];
    assert_eq!(unescaped(&sender["name"]), b"\x1b[2J\n::error::");
    assert_harmless("standard error", &finished.stderr);
}

#[test]
fn second_process_of_a_pid_is_told_as_itself() {
    let run = Run::workload(["pid-again"]).grace("300ms");
    let finished = run.standing_for("between", Duration::ZERO).finish();
    finished.expect_leak();
    let (first, second) = (finished.fact("first"), finished.fact("second"));
    assert_eq!(first.pid, second.pid);
    assert_eq!(finished.findings().len(), 1, "{finished:#}");
    let finding = finished.only_finding("survivor", second.pid);
    let started = finished::time(&finding.process()["start_time"]);
    finished.expect_order(&[finished.fact("first-reaped").at, started, second.at]);
    assert_eq!(finished.stat("processes"), 3, "{finished:#}");
}

#[test]
fn zombie_and_survivor_of_one_pid_are_two_findings() {
    let finished = Run::workload(["pid-again", "first=zombie"])
        .grace("300ms")
        .zombie_after("200ms")
        .standing_for("first-zombie", LONG)
        .standing_for("between", Duration::ZERO)
        .finish();
    finished.expect_leak();
    let pid = finished.fact("second").pid;
    let zombie = finished.only_finding("zombie", pid);
    let survivor = finished.only_finding("survivor", pid);
    zombie.expect_resolved().expect("/exit/code", 1);
    survivor.expect_open();
    let [zombie, survivor] =
        [zombie, survivor].map(|finding| finished::time(&finding.process()["start_time"]));
    assert!(zombie < survivor, "{finished:#}");
}

#[test]
fn a_thousand_processes_of_one_pid_are_a_thousand() {
    // Each one's late "free" comes while its successor of the same pid lives or is gone, too.
    let finished = Run::workload(["pid-again", "times=1000", "second=no"])
        .zombie_after("0s")
        .standing_for("between", Duration::ZERO)
        .finish();
    finished.expect_nothing_found();
    assert_eq!(finished.stat("processes"), 1001, "{finished:#}");
}

#[test]
fn stranger_with_the_pid_of_a_member_is_none_of_ours() {
    let running = Run::workload(["pid-again", "second=no"]).grace("300ms").start();
    let pid = running.fact("first").pid;
    running.held("between");
    let stranger = Run::workload(["pid-taken", &format!("pid={pid}")]).alone().start();
    assert_eq!(stranger.fact("stranger").pid, pid);
    running.release("between");
    running.finish().expect_nothing_found();
    assert!(proc::is_alive(pid), "the stranger was left alone");
}

#[test]
fn stranger_with_the_pid_of_a_process_that_ended_within_grace_is_none_of_ours() {
    // The adopter reaps at once, so that the pid is free at once.
    let around =
        [binary::workload().as_os_str(), "subreaper".as_ref(), "reaps=yes".as_ref(), "--".as_ref()];
    let running = Run::workload(["outlives-briefly"]).under(around).grace_patience(3).start();
    let brief = running.held("brief").pid;
    sys::until_dead(running.fact("brief").pid_of("root"));
    running.release("brief");
    sys::until_dead(brief);
    let stranger = Run::workload(["pid-taken", &format!("pid={brief}")]).alone().start();
    assert_eq!(stranger.fact("stranger").pid, brief);
    let finished = running.finish();
    finished.expect_clean();
    assert_eq!(finished.findings_of("survivor").len(), 0, "{finished:#}");
}

#[test]
fn pids_that_come_round_in_a_namespace_are_not_confused() {
    if let Err(reason) = proc::per_namespace_pid_max() {
        return skip(&reason);
    }
    let finished = Run::command(["unshare", "-pf", "--mount-proc"])
        .arguments([binary::workload().as_os_str(), "pids-wrap".as_ref()])
        .zombie_after("200ms")
        .standing_for("first-zombie", LONG)
        .standing_for("standing", LONG)
        .finish();
    finished.expect_leak();
    let namespace_pid = finished.fact("second-dead").pid_of("pid");
    let zombies = finished.findings_of("zombie");
    assert_eq!(zombies.len(), 2, "{finished:#}");
    for (zombie, state, code) in [(zombies[0], "resolved", 1), (zombies[1], "open", 2)] {
        zombie.expect("/process/namespace_pid", namespace_pid);
        zombie.expect("/state", state).expect("/exit/code", code);
    }
}

#[test]
fn child_that_the_command_gives_to_tracer_is_no_zombie() {
    // clone(CLONE_PARENT) by the root makes a child of tracer, which did not ask for one.
    let run = Run::workload(["given-to-tracer"]).zombie_after("200ms");
    let running = run.standing_for("standing", LONG).start();
    let given = running.fact("given");
    assert_eq!(given.pid_of("ppid"), running.pid);
    let finished = running.finish();
    finished.expect_nothing_found();
    assert_eq!(finished.stat("processes"), 2, "{finished:#}");
}
