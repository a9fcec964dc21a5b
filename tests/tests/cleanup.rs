//! `--on-leak kill`: what leaks is ended, and nothing else; every signal has its receipt.

use std::{net::TcpListener, path::PathBuf, time::Duration};

use serde_json::Value;
use tracer_tests::cgroup::Cgroup;
use tracer_tests::frozen::FreezableFs;
use tracer_tests::{Finished, Run, proc, skip, sys};

fn kills(run: Run) -> Run {
    run.grace("300ms").options(["--on-leak", "kill"])
}

/// Options that use these rules.
fn with_rules(run: Run, rules: &str) -> Run {
    let file: PathBuf = run.path("rules.toml");
    std::fs::write(&file, rules).expect("a file in the run's folder");
    run.options([std::ffi::OsString::from("--rules"), file.into()])
}

/// What is told of a process that was to end.
fn action<'a>(finished: &'a Finished, kind: &str, pid: sys::Pid) -> &'a Value {
    let findings = finished.report["findings"].as_array().expect("a list");
    let found = findings.iter().find(|f| f["kind"] == kind && f["process"]["pid"] == pid);
    &found.unwrap_or_else(|| panic!("no {kind} of {pid}\n{finished:#}"))["action"]
}

fn signals(action: &Value) -> Vec<&str> {
    let given = action["signals"].as_array().expect("a list");
    given.iter().map(|given| given["signal"].as_str().expect("a name")).collect()
}

#[test]
fn daemon_is_ended_by_sigterm_and_still_counts() {
    let finished = kills(Run::workload(["double-fork"])).finish();
    finished.expect_leak();
    let daemon = finished.fact("daemon").pid;
    assert!(!sys::exists(daemon), "it lives\n{finished:#}");
    finished.only_finding("survivor", daemon).expect_open().expect_cause("daemonized");
    let action = action(&finished, "survivor", daemon);
    assert_eq!(action["result"], "ended", "{finished:#}");
    assert_eq!(action["exit"]["signal"], "SIGTERM", "{finished:#}");
    assert_eq!(signals(action), ["SIGTERM"]);
    assert_eq!(action["decided_by"], "--on-leak kill");
}

#[test]
fn grandchild_of_a_shell_is_ended_with_its_lineage() {
    let finished = kills(Run::workload(["leaves-shell-child", "ending=itself"]))
        .standing_for("leaving", Duration::ZERO)
        .finish();
    finished.expect_leak();
    let grandchild = finished.fact("grandchild").pid;
    assert!(!sys::exists(grandchild), "it lives\n{finished:#}");
    finished.only_finding("survivor", grandchild).expect_cause("shell_died_child_survived");
}

#[test]
fn server_that_ignores_sigterm_is_killed_and_its_port_is_free() {
    let run = kills(Run::workload(["leaves-server", "term=ignores"]));
    let finished = with_rules(run, "[cleanup]\nterm_timeout = '300ms'\n").finish();
    finished.expect_leak();
    let server = finished.fact("server");
    let action = action(&finished, "survivor", server.pid);
    assert_eq!(action["result"], "ended", "{finished:#}");
    assert_eq!(signals(action), ["SIGTERM", "SIGKILL"]);
    let port = server.number("port");
    assert_eq!(action["ports"][0]["address"], format!("127.0.0.1:{port}"), "{finished:#}");
    assert!(action["ports"][0]["free_after_seconds"].is_f64(), "{finished:#}");
    let port = u16::try_from(port).expect("a port");
    TcpListener::bind(("127.0.0.1", port)).expect("the port is free");
}

#[test]
fn server_may_flush_what_it_has() {
    // Twenty times the time that it is given here, on any machine.
    let run = kills(Run::workload(["leaves-server", "term=flushes"]));
    let run = with_rules(run, "[cleanup]\nterm_timeout = '60s'\n");
    let finished = run.standing_for("flushing", Duration::from_secs(1)).finish();
    finished.expect_leak();
    let server = finished.fact("server");
    let action = action(&finished, "survivor", server.pid);
    assert_eq!(signals(action), ["SIGTERM"], "{finished:#}");
    assert_eq!(action["exit"]["code"], 0, "{finished:#}");
    let _ = finished.fact("flushed");
}

#[test]
fn supervisor_cannot_start_its_child_anew() {
    let run = kills(Run::workload(["leaves-supervisor"]));
    let finished = with_rules(run, "[cleanup]\nterm_timeout = '200ms'\n").finish();
    finished.expect_leak();
    assert!(!sys::exists(finished.fact("supervisor").pid), "it lives\n{finished:#}");
    for child in finished.facts("supervised") {
        assert!(!sys::exists(child.pid), "{} lives\n{finished:#}", child.pid);
    }
}

#[test]
fn bomb_of_two_thousand_is_gone_and_nothing_else() {
    // For longer than the run may take.
    let mut innocent = std::process::Command::new("sleep");
    let innocent = innocent.arg((180 * sys::slowness()).to_string()).spawn();
    let mut innocent = innocent.expect("sleep");
    let run = kills(Run::workload(["bomb", "forks=2000"])).patience(Duration::from_secs(120));
    let finished = run.finish();
    finished.expect_leak();
    let cleanup = &finished.report["cleanup"]["results"];
    let ended = |how: &str| cleanup[how].as_u64().unwrap_or(0);
    assert!(ended("ended") + ended("ended_by_itself") >= 2000, "{cleanup}");
    for bad in ["escaped", "unkillable", "refused", "still_there"] {
        assert_eq!(ended(bad), 0, "{bad}: {cleanup}");
    }
    for told in finished.facts("bombed") {
        assert!(!sys::exists(told.pid), "{} lives", told.pid);
    }
    assert!(innocent.try_wait().expect("it can be waited for").is_none(), "it was ended too");
    innocent.kill().expect("it lives");
    innocent.wait().expect("it can be waited for");
}

#[test]
fn bomb_that_ignores_sigterm_is_killed() {
    let run = kills(Run::workload(["bomb", "forks=300", "term=ignored"]));
    let run = with_rules(run, "[cleanup]\nterm_timeout = '200ms'\n");
    let finished = run.patience(Duration::from_secs(120)).finish();
    finished.expect_leak();
    let cleanup = &finished.report["cleanup"]["results"];
    assert!(cleanup["ended"].as_u64().unwrap_or(0) >= 300, "{cleanup}");
    for told in finished.facts("bombed") {
        assert!(!sys::exists(told.pid), "{} lives", told.pid);
    }
}

#[test]
fn bomb_in_a_session_of_its_own_is_killed_as_a_group() {
    let bomb = ["bomb", "forks=300", "term=ignored", "session=own"];
    let run = with_rules(kills(Run::workload(bomb)), "[cleanup]\nterm_timeout = '0s'\n");
    let finished = run.patience(Duration::from_secs(120)).finish();
    finished.expect_leak();
    let leader = finished.fact("leader").pid;
    let signals = action(&finished, "survivor", leader)["signals"].as_array().expect("a list");
    let first = &signals[0];
    let to = if sys::signals_groups_by_pidfd() { "group" } else { "process" };
    assert_eq!(first["to"], to, "{finished:#}");
    for told in finished.facts("bombed") {
        assert!(!sys::exists(told.pid), "{} lives", told.pid);
    }
}

#[test]
fn chain_of_five_thousand_generations_is_stopped() {
    let run = kills(Run::workload(["chain", "generations=5000"]));
    let run = with_rules(run, "[cleanup]\nterm_timeout = '0s'\n");
    // It begins before `grace` ends and would go on for long after.
    let finished = run.standing_for("forking", Duration::from_millis(250)).finish();
    finished.expect_leak();
    assert!(finished.facts("last").is_empty(), "it came to its end\n{finished:#}");
    let cleanup = &finished.report["cleanup"]["results"];
    assert!(cleanup["escaped"].is_null(), "{cleanup}");
}

#[test]
fn kept_processes_survive_with_the_reason_in_the_report() {
    for (how, rules, environment, reason) in [
        (
            "rule",
            "[[keep]]\nexecutables = ['workload']\nreason = 'dev server'\n",
            None,
            "rule: dev server",
        ),
        ("environment", "", Some(("TRACER_KEEP", "1")), "environment: TRACER_KEEP"),
    ] {
        let mut run = with_rules(kills(Run::workload(["double-fork"])), rules);
        if let Some((name, value)) = environment {
            run = run.env(name, value);
        }
        let finished = run.finish();
        finished.expect_clean();
        let daemon = finished.fact("daemon").pid;
        assert!(sys::exists(daemon), "{how}: it was ended\n{finished:#}");
        assert_eq!(finished.report["kept"][0]["rule"], reason, "{how}\n{finished:#}");
        assert_eq!(finished.report["kept"][0]["process"]["pid"], daemon, "{how}");
    }
}

#[test]
fn allowed_process_survives_with_all_that_it_has_forked() {
    let line = "exec -a mydevserver sh -c 'sleep 60 & echo $! >&3; wait' 3>$DIR/worker & sleep 0.2";
    let run = kills(Run::command(["bash", "-c", line])).options(["--allow", "mydevserver"]);
    let dir = run.path("");
    let finished = run.env("DIR", dir).finish();
    let worker: sys::Pid = finished.file("worker").trim().parse().expect("a pid");
    finished.guard(worker);
    assert!(sys::exists(worker), "it was ended\n{finished:#}");
    let results = &finished.report["cleanup"]["results"];
    assert_eq!(results["kept"], 1, "{finished:#}");
    assert!(results["ended"].is_null(), "{finished:#}");
    let server = proc::stat(worker).expect("it lives").ppid;
    finished.guard(server);
}

#[test]
fn dry_run_tells_and_touches_nothing() {
    let finished = kills(Run::workload(["double-fork"])).options(["--dry-run"]).finish();
    finished.expect_leak();
    let daemon = finished.fact("daemon").pid;
    assert!(sys::exists(daemon), "it was ended\n{finished:#}");
    let action = action(&finished, "survivor", daemon);
    assert_eq!(action["result"], "would_act", "{finished:#}");
    assert_eq!(action["dry_run"], true);
    assert!(signals(action).is_empty(), "{finished:#}");
}

#[test]
fn without_being_asked_nothing_is_touched() {
    let run = Run::workload(["double-fork"]).grace("300ms");
    let finished = with_rules(run, "[cleanup]\nsurvivor = 'kill'\n").finish();
    finished.expect_leak();
    let daemon = finished.fact("daemon").pid;
    assert!(sys::exists(daemon), "it was ended\n{finished:#}");
    assert_eq!(*action(&finished, "survivor", daemon), Value::Null);
}

#[test]
fn leak_inside_of_a_namespace_is_killed_from_outside() {
    let command = [
        "unshare",
        "--pid",
        "--fork",
        tracer_tests::binary::workload().to_str().expect("UTF-8"),
        "keeps-server",
    ];
    let run = kills(Run::command(command)).standing_for("leaving", Duration::ZERO);
    let finished = run.finish();
    finished.guard(finished.fact("sleeper").pid);
    assert!(!sys::exists(finished.fact("sleeper").pid), "it lives\n{finished:#}");
}

#[test]
fn nudged_parent_reaps_and_the_zombie_still_counts() {
    // A parent that reaps when SIGCHLD comes, and missed the first.
    let finished = Run::python("reaps_when_nudged.py", &[])
        .zombie_after("300ms")
        .options(["--on-leak", "kill"])
        .finish();
    let zombie = finished.fact("parent").pid_of("child");
    finished.expect_leak();
    let action = action(&finished, "zombie", zombie);
    assert_eq!(action["result"], "reaped", "{finished:#}");
    assert_eq!(signals(action), ["SIGCHLD"]);
    assert_eq!(action["signals"][0]["to"], "parent");
}

#[test]
fn zombie_of_a_parent_that_does_not_care_is_still_there_after_a_nudge() {
    let finished = Run::workload(["never-waits"])
        .zombie_after("300ms")
        .options(["--on-leak", "kill"])
        .standing_for("standing", Duration::from_secs(6))
        .finish();
    let zombies = finished.findings_of("zombie");
    let zombie = zombies.first().expect("a zombie");
    zombie.expect("/action/result", "still_there").expect("/action/signals/0/signal", "SIGCHLD");
}

#[test]
fn what_sigkill_does_not_end_is_told_to_be_stuck() {
    let mut file_system = match FreezableFs::mount() {
        Ok(file_system) => file_system,
        Err(reason) => return skip(&reason),
    };
    let file = format!("file={}", file_system.path().join("file").display());
    let run = kills(Run::workload(["writes", &file]));
    let run = with_rules(run, "[cleanup]\nterm_timeout = '200ms'\nkill_timeout = '500ms'\n");
    let running = run.standing_for("standing", Duration::from_millis(300)).start();
    let writer = running.held("write").pid;
    file_system.freeze();
    running.release("write");
    proc::until_state(writer, 'D');
    let finished = running.finish();
    finished.expect_leak();
    let action = action(&finished, "survivor", writer);
    assert_eq!(action["result"], "unkillable", "{finished:#}");
    assert_eq!(signals(action), ["SIGTERM", "SIGKILL"]);
    let stuck = finished.finding("stuck", writer);
    stuck.expect_cause("blocked_in_kernel").expect("/process/state", "D");
    let text = stuck.process();
    assert!(
        !text.is_null() && finished.stderr_text().contains("SIGKILL has not ended it"),
        "{finished:#}"
    );
}

#[test]
fn innocents_in_the_process_group_and_session_are_not_touched() {
    // tracer, COMMAND and what it leaves share the group of the shell around, as one sleeper does.
    let around = ["sh", "-c", "sleep 60 & echo $! >$PLACE; exec \"$@\"", "sh"];
    let run = kills(Run::workload(["leaves-server", "term=ignores"]));
    let run = with_rules(run, "[cleanup]\nterm_timeout = '0s'\n").in_own_group();
    let place = run.path("innocent");
    let finished = run.env("PLACE", place).under(around).finish();
    finished.expect_leak();
    let innocent: sys::Pid = finished.file("innocent").trim().parse().expect("a pid");
    finished.guard(innocent);
    let server = finished.fact("server").pid;
    assert!(!sys::exists(server), "it lives\n{finished:#}");
    assert!(sys::exists(innocent), "it was ended\n{finished:#}");
    assert_eq!(
        finished.only_finding("survivor", server).process()["pgid"],
        proc::stat(innocent).expect("it lives").pgid,
        "they are in one group\n{finished:#}"
    );
}

#[test]
fn invocations_side_by_side_do_not_touch_each_other() {
    let spared = Run::workload(["double-fork"]).grace("300ms").finish();
    let other = Run::workload(["keeps-server"]).grace("300ms").start();
    let (daemon, server) = (spared.fact("daemon").pid, other.fact("sleeper").pid);
    let killed = kills(Run::workload(["double-fork"])).finish();
    killed.expect_leak();
    assert!(!sys::exists(killed.fact("daemon").pid), "it lives\n{killed:#}");
    assert!(sys::exists(daemon) && sys::exists(server), "another's was ended\n{killed:#}");
    other.release("leaving");
    let other = other.finish();
    other.expect_leak();
    assert!(sys::exists(server), "it was ended\n{other:#}");
}

#[test]
fn what_was_moved_to_another_cgroup_is_left_to_its_supervisor_and_counts() {
    let cgroup = match Cgroup::unified() {
        Ok(cgroup) => cgroup,
        Err(why) => return skip(&format!("no cgroup v2 of one's own: {why}")),
    };
    let line = "(echo 0 >$CGROUP/cgroup.procs; exec $WORKLOAD sleep as=moved streams=null) &
                $WORKLOAD sleep as=left streams=null & $WORKLOAD await names=moved,left; exit 0";
    let finished = kills(Run::shell(line)).env("CGROUP", cgroup.path()).finish();
    finished.expect_leak();
    let (moved, left) = (finished.fact("moved").pid, finished.fact("left").pid);
    assert!(sys::exists(moved), "it was ended\n{finished:#}");
    assert!(!sys::exists(left), "it lives\n{finished:#}");
    let action = action(&finished, "survivor", moved);
    assert_eq!(action["result"], "kept", "{finished:#}");
    let reason = action["reason"].as_str().expect("a reason");
    assert!(reason.starts_with("handed over to cgroup /"), "{reason}");
    sys::kill(moved, libc::SIGKILL);
}
