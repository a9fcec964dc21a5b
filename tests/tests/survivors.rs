//! Processes that live on when the command has ended: who left them, who has them now, what they
//! hold.

use std::time::Duration;

use serde_json::Value;
use tracer_tests::{Finished, Run, binary, finished, proc, skip, sys};

fn short_grace(run: Run) -> Run {
    run.grace("300ms").standing_for("leaving", Duration::ZERO)
}

#[test]
fn daemon_survives_and_is_told_as_one() {
    let finished = short_grace(Run::workload(["double-fork"])).finish();
    finished.expect_leak();
    let (daemon, root) = (finished.fact("daemon").pid, finished.fact("root"));
    let stat = proc::stat(daemon).expect("it lives");
    let finding = finished.only_finding("survivor", daemon);
    finding
        .expect_open()
        .expect_cause("daemonized")
        .expect("/process/name", "workload")
        .expect("/process/state", "S")
        .expect("/process/sid", stat.sid)
        .expect("/process/pgid", stat.pgid)
        .expect("/adopter/pid", stat.ppid)
        .expect("/exit", Value::Null)
        .expect_at_least("/resources/rss_bytes", 1.0)
        .expect_at_least("/resources/fds", 3.0)
        .expect_at_least("/seconds", 0.3);
    assert_eq!(finding.lineage_pids().first(), Some(&i64::from(root.pid)));
    let ended = finished::time(&finished.report["invocation"]["ended_at"]);
    finished.expect_order(&[root.at, ended]);
}

#[test]
fn setsid_alone_makes_a_daemon_too() {
    let finished = short_grace(Run::workload(["double-fork", "how=setsid"])).finish();
    finished.expect_leak();
    finished.only_finding("survivor", finished.fact("daemon").pid).expect_cause("daemonized");
}

#[test]
fn double_fork_alone_makes_a_daemon_too() {
    let finished = short_grace(Run::workload(["double-fork", "how=fork"])).finish();
    finished.expect_leak();
    finished.only_finding("survivor", finished.fact("daemon").pid).expect_cause("daemonized");
}

#[test]
fn server_left_by_a_command_that_ends_by_itself() {
    let finished = short_grace(Run::workload(["keeps-server"])).finish();
    finished.expect_leak();
    let root = finished.fact("root").pid;
    finished
        .only_finding("survivor", finished.fact("sleeper").pid)
        .expect_open()
        .expect_cause("agent_exited_without_cleanup")
        .expect_parent(root, "workload")
        .expect("/parent/exit/code", 0);
}

#[test]
fn child_of_a_shell_that_was_killed_survives() {
    let finished = short_grace(Run::workload(["leaves-shell-child"])).finish();
    finished.expect_leak();
    let root = finished.fact("root");
    finished
        .only_finding("survivor", finished.fact("grandchild").pid)
        .expect_cause("shell_died_child_survived")
        .expect("/parent/pid", root.pid_of("shell"))
        .expect("/parent/exit/signal", "SIGKILL")
        .expect("/parent/exit/sender/pid", root.pid);
}

#[test]
fn background_job_of_a_shell_survives_it() {
    let finished = short_grace(Run::workload(["leaves-shell-child", "ending=itself"])).finish();
    finished.expect_leak();
    finished
        .only_finding("survivor", finished.fact("grandchild").pid)
        .expect_cause("shell_died_child_survived")
        .expect("/parent/pid", finished.fact("root").pid_of("shell"))
        .expect("/parent/exit/code", 0);
}

#[test]
fn timeout_of_subprocess_run_leaves_the_shell_s_child() {
    let run = Run::python("timeout_kills_shell.py", &[]);
    let finished = short_grace(run).finish();
    finished.expect_leak();
    finished
        .only_finding("survivor", finished.fact("grandchild").pid)
        .expect_cause("shell_died_child_survived")
        .expect("/parent/exit/signal", "SIGKILL");
}

#[test]
fn subreaper_inside_of_the_invocation_is_named_as_adopter() {
    let finished = short_grace(Run::workload(["subreaper-inside"])).finish();
    finished.expect_leak();
    let (adopted, subreaper) = (finished.fact("adopted").pid, finished.fact("subreaper").pid);
    finished
        .finding("survivor", adopted)
        .expect("/adopter/pid", subreaper)
        .expect("/adopter/name", "workload")
        .expect("/adopter/init", false);
    finished.finding("survivor", subreaper);
    assert_eq!(finished.findings_of("survivor").len(), 2, "{finished:#}");
}

#[test]
fn subreaper_around_tracer_is_named_as_adopter() {
    let around = [binary::workload().as_os_str(), "subreaper".as_ref(), "--".as_ref()];
    let run = short_grace(Run::workload(["double-fork"])).under(around);
    let finished = run.finish();
    finished.expect_leak();
    finished
        .only_finding("survivor", finished.fact("daemon").pid)
        .expect("/adopter/pid", finished.fact("around").pid)
        .expect("/adopter/name", "workload");
}

#[test]
fn process_that_ends_within_grace_is_no_leak() {
    let running = Run::workload(["outlives-briefly"]).grace("60s").start();
    running.held("brief");
    sys::until_dead(running.fact("brief").pid_of("root"));
    running.release("brief");
    let finished = running.finish();
    finished.expect_clean();
    assert_eq!(finished.findings_of("survivor").len(), 0, "{finished:#}");
    assert!(finished.elapsed < Duration::from_secs(40), "waited on with nothing alive");
}

#[test]
fn run_ends_at_once_when_nothing_lives() {
    let finished = Run::command(["true"]).grace("60s").finish();
    finished.expect_nothing_found();
    assert!(finished.elapsed < Duration::from_secs(40), "{:?}", finished.elapsed);
}

#[test]
fn survivor_is_judged_when_grace_ends() {
    let finished = Run::workload(["double-fork"]).grace("1s").finish();
    finished.expect_leak();
    let finding = finished.only_finding("survivor", finished.fact("daemon").pid);
    let seconds = finding.value["seconds"].as_f64().unwrap();
    assert!((1.0..3.0).contains(&seconds), "{finished:#}");
}

/// Leaves a server that listens as `keys` say; hands the finished run and the server's pid.
fn with_server(keys: &[&str]) -> (Finished, sys::Pid) {
    let command = ["keeps-server"].iter().chain(keys).copied();
    let finished = short_grace(Run::workload(command)).finish();
    finished.expect_leak();
    let server = finished.fact("sleeper").pid;
    (finished, server)
}

#[test]
fn tcp_port_is_named_with_its_holder() {
    let (finished, server) = with_server(&["listen=tcp"]);
    let address = format!("127.0.0.1:{}", finished.fact("sleeper").number("port"));
    finished.only_finding("survivor", server).expect_listed("/resources/listening", &address);
    assert!(finished.stderr_text().contains(&address), "{finished:#}");
}

#[test]
fn tcp_port_of_ipv6_is_named_with_its_holder() {
    if std::net::TcpListener::bind("[::1]:0").is_err() {
        return skip("no IPv6 here");
    }
    let (finished, server) = with_server(&["listen=tcp6"]);
    let address = format!("[::1]:{}", finished.fact("sleeper").number("port"));
    finished.only_finding("survivor", server).expect_listed("/resources/listening", &address);
}

#[test]
fn udp_port_is_named_with_its_holder() {
    let (finished, server) = with_server(&["listen=udp"]);
    let address = format!("udp 127.0.0.1:{}", finished.fact("sleeper").number("port"));
    finished.only_finding("survivor", server).expect_listed("/resources/listening", &address);
}

#[test]
fn unix_socket_is_named_with_its_holder() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("server.sock").display().to_string();
    let (finished, server) = with_server(&[&format!("listen={path}")]);
    let address = format!("unix {path}");
    finished.only_finding("survivor", server).expect_listed("/resources/listening", &address);
}

#[test]
fn port_in_another_network_namespace_is_named_with_its_holder() {
    let (finished, server) = with_server(&["listen=tcp", "network=own"]);
    let address = format!("0.0.0.0:{}", finished.fact("sleeper").number("port"));
    finished.only_finding("survivor", server).expect_listed("/resources/listening", &address);
}

#[test]
fn survivor_that_holds_the_command_s_outputs_is_told_to_do_so() {
    let (finished, server) = with_server(&[]);
    finished
        .only_finding("survivor", server)
        .expect_listed("/resources/streams", "stdout")
        .expect_listed("/resources/streams", "stderr");
}

#[test]
fn survivor_that_let_go_of_the_outputs_is_not() {
    let (finished, server) = with_server(&["streams=null"]);
    finished
        .only_finding("survivor", server)
        .expect("/resources/streams", Value::Array(Vec::new()));
}

#[test]
fn server_that_was_asked_to_end_and_holds_its_port_is_slow_in_shutting_down() {
    let finished = short_grace(Run::workload(["slow-shutdown"])).finish();
    finished.expect_leak();
    let server = finished.fact("server");
    let address = format!("127.0.0.1:{}", server.number("port"));
    finished
        .only_finding("survivor", server.pid)
        .expect_cause("slow_shutdown")
        .expect_listed("/resources/listening", &address);
}

#[test]
fn orphan_that_ends_before_the_command_does_not_fail_it() {
    let running = Run::workload(["orphan"]).start();
    let orphan = running.held("orphan").pid;
    let adopter = running.fact("orphan").pid_of("ppid");
    running.held("leaving");
    running.release("orphan");
    sys::until_dead(orphan);
    running.release("leaving");
    let finished = running.finish();
    finished.expect_clean();
    finished.only_finding("orphan", orphan).expect_resolved().expect("/adopter/pid", adopter);
}

#[test]
fn orphan_fails_the_command_where_that_is_asked_for() {
    let running = Run::workload(["orphan"])
        .grace("300ms")
        .options(["--fail-on", "orphan"])
        .standing_for("leaving", Duration::from_millis(300))
        .start();
    let orphan = running.held("orphan").pid;
    let finished = running.finish();
    finished.expect_leak();
    let told = finished.fact("orphan");
    let finding = finished.only_finding("orphan", orphan);
    finding
        .expect("/counted", true)
        .expect("/parent/pid", told.pid_of("middle"))
        .expect("/adopter/pid", told.pid_of("ppid"));
    assert!(finding.since() <= finished.held_at("leaving") + Duration::from_millis(20));
}

#[test]
fn process_between_vfork_and_exec_ends_up_under_its_own_name() {
    let finished = short_grace(Run::workload(["vfork-execs"])).finish();
    finished.expect_leak();
    let parent = finished.fact("parent");
    finished
        .only_finding("survivor", parent.pid_of("child"))
        .expect("/process/name", "sleep")
        .expect("/process/args", serde_json::json!(["sleep", "60"]))
        .expect_parent(parent.pid, "workload");
}

#[test]
fn allowed_survivor_is_kept_and_does_not_fail() {
    let run = short_grace(Run::workload(["keeps-server", "mark-of-server"]));
    let finished = run.options(["--allow", "*mark-of-server*"]).finish();
    finished.expect_clean();
    assert_eq!(finished.findings_of("survivor").len(), 0, "{finished:#}");
    let kept = &finished.report["kept"][0];
    assert_eq!(kept["process"]["pid"], finished.fact("sleeper").pid, "{finished:#}");
}

#[test]
fn program_is_allowed_by_its_name_alone() {
    let run = short_grace(Run::workload(["vfork-execs"]));
    let finished = run.options(["--allow", "sleep"]).finish();
    finished.expect_clean();
    assert_eq!(finished.report["kept"].as_array().map(Vec::len), Some(1), "{finished:#}");
}

#[test]
fn allowing_one_does_not_excuse_another() {
    let line = r#""$WORKLOAD" sleep as=wanted & "$WORKLOAD" sleep as=forgotten &
        "$WORKLOAD" await names=wanted,forgotten"#;
    let finished = Run::shell(line).grace("300ms").options(["--allow", "*as=wanted*"]).finish();
    finished.expect_leak();
    finished.only_finding("survivor", finished.fact("forgotten").pid);
    assert_eq!(finished.report["kept"][0]["process"]["pid"], finished.fact("wanted").pid);
}
