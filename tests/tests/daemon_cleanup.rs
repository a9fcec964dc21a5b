//! `on_leak` of the daemon: what leaks is ended as the rules say, and nothing else.
//!
//! The daemon sees every agent of this host, so rules here end what agents of this test leave and nobody
//! else's.

use serde_json::Value;
use tracer_tests::bpf;
use tracer_tests::daemon::{Daemon, is_about};
use tracer_tests::run::Run;
use tracer_tests::{proc, sys};

/// A configuration that ends what this agent leaves.
fn ends(on_leak: &str, agent: &str, more: &str) -> String {
    format!(
        "on_leak = '{on_leak}'\n\
         [cleanup]\nsurvivor = 'report'\nzombie = 'report'\norphan = 'report'\nstuck = 'report'\n\
         outlived_call = 'report'\n\
         [[agent]]\nname = '{agent}'\narguments = ['as={agent}']\n\
         [agent.cleanup]\nsurvivor = 'kill'\nterm_timeout = '300ms'\n{more}"
    )
}

fn agent(name: &str, args: &[&str]) -> Run {
    Run::workload(args.iter().copied()).alone().env("TRACER_AGENT", name)
}

/// What it tells of what was done about a finding, once that is told.
fn action(daemon: &Daemon, pid: sys::Pid) -> Value {
    let what = format!("something is done about {pid}");
    let event = daemon.event(&what, |event| {
        event["finding"]["process"]["pid"] == pid && event["finding"]["action"].is_object()
    });
    event["finding"]["action"].clone()
}

fn is_gone(pid: sys::Pid) {
    proc::until(&format!("{pid} is gone"), || (!sys::exists(pid)).then_some(()));
}

#[test]
fn survivor_is_ended_with_a_receipt() {
    let daemon = Daemon::started(&ends("kill", "daemon-ends", ""));
    let run = agent("daemon-ends", &["double-fork"]).start();
    let survivor = run.fact("daemon").pid;
    let finished = run.finish();
    let action = action(&daemon, survivor);
    assert_eq!(action["result"], "ended");
    assert_eq!(action["decided_by"], "rule of daemon-ends: survivor = kill");
    assert_eq!(action["signals"][0]["signal"], "SIGTERM");
    is_gone(survivor);
    // Once it is told to be gone, that is all there is to tell.
    daemon.finding(survivor, "survivor", "gone");
    drop(finished);
}

#[test]
fn what_rules_do_not_name_is_left_alone() {
    let daemon = Daemon::started(&ends("kill", "daemon-named", ""));
    let other = agent("daemon-unnamed", &["double-fork"]).start();
    let survivor = other.fact("daemon").pid;
    let finished = other.finish();
    daemon.finding(survivor, "survivor", "opened");
    // What comes later is ended, so this one would have been.
    let run = agent("daemon-named", &["double-fork"]).start();
    let later = run.fact("daemon").pid;
    drop(run.finish());
    is_gone(later);
    assert!(sys::exists(survivor), "it was ended");
    sys::kill(survivor, libc::SIGKILL);
    drop(finished);
}

#[test]
fn dry_run_tells_what_it_would_do() {
    let daemon = Daemon::started(&ends("dry-run", "daemon-dry", ""));
    let run = agent("daemon-dry", &["double-fork"]).start();
    let survivor = run.fact("daemon").pid;
    let finished = run.finish();
    let action = action(&daemon, survivor);
    assert_eq!(action["result"], "would_act");
    assert!(sys::exists(survivor), "it was ended");
    sys::kill(survivor, libc::SIGKILL);
    drop(finished);
}

#[test]
fn what_is_kept_is_left_alone() {
    let keep = "[[keep]]\narguments = ['601']\nreason = 'a cache'\n";
    let daemon = Daemon::started(&ends("kill", "daemon-keeps", keep));
    let script = r#"sleep 601 & echo $! > "$FOLDER/kept"; sleep 600 & echo $! > "$FOLDER/left""#;
    let folder = tempfile::tempdir().expect("a folder");
    let run = Run::shell(script).alone().env("TRACER_AGENT", "daemon-keeps");
    let finished = run.env("FOLDER", folder.path().display().to_string()).start().finish();
    let pid = |name: &str| -> sys::Pid {
        let text = std::fs::read_to_string(folder.path().join(name)).expect(name);
        text.trim().parse().expect("a pid")
    };
    let (kept, left) = (pid("kept"), pid("left"));
    let action = action(&daemon, left);
    assert_eq!(action["result"], "ended");
    is_gone(left);
    assert!(sys::exists(kept), "it was ended");
    sys::kill(kept, libc::SIGKILL);
    drop(finished);
}

/// User space alone is too slow for that; and once it is over, forks cost what they did before.
#[test]
fn chain_is_stopped_and_the_kernel_side_lets_go() {
    let daemon = Daemon::started(&ends("kill", "daemon-chain", ""));
    let hooks = || bpf::held_by(daemon.pid(), bpf::Kind::Link);
    let before = hooks();
    let run = agent("daemon-chain", &["bomb", "forks=300", "term=ignored"]).start();
    let finished = run.finish();
    proc::until("the bomb is gone", || {
        let bombed = finished.facts("bombed");
        bombed.iter().all(|told| !sys::exists(told.pid)).then_some(())
    });
    proc::until("the kernel side has let go", || (hooks() == before).then_some(()));
    drop(finished);
}

#[test]
fn reload_ends_what_was_found_before() {
    reload_ends_after("report", "daemon-later");
}

#[test]
fn reload_ends_what_a_dry_run_said_it_would_end() {
    reload_ends_after("dry-run", "daemon-rehearsed");
}

fn reload_ends_after(before: &str, name: &str) {
    let mut daemon = Daemon::started(&ends(before, name, ""));
    let run = agent(name, &["double-fork"]).start();
    let survivor = run.fact("daemon").pid;
    let finished = run.finish();
    daemon.finding(survivor, "survivor", "opened");
    if before == "dry-run" {
        assert_eq!(action(&daemon, survivor)["result"], "would_act");
    }
    assert!(sys::exists(survivor), "it was ended");
    daemon.write_config(&ends("kill", name, ""));
    sys::kill(daemon.pid(), libc::SIGHUP);
    daemon.until_said("goes by the new configuration");
    let done = daemon.event("something is done about it", |event| {
        let action = &event["finding"]["action"];
        is_about(event, survivor, "survivor")
            && action.is_object()
            && action["result"] != "would_act"
    });
    assert_eq!(done["finding"]["action"]["result"], "ended");
    is_gone(survivor);
    drop(finished);
}

/// What is found later, and has to stand for as long, is ended later than the first would have been.
#[test]
fn reload_to_report_leaves_alone_what_waits_for_its_delay() {
    let delayed = "delay = '2s'\n";
    let mut daemon = Daemon::started(&ends("kill", "daemon-delayed", delayed));
    let run = agent("daemon-delayed", &["double-fork"]).start();
    let survivor = run.fact("daemon").pid;
    let finished = run.finish();
    daemon.finding(survivor, "survivor", "opened");
    assert!(sys::exists(survivor), "it was ended before its time");
    daemon.write_config(&ends("report", "daemon-delayed", delayed));
    sys::kill(daemon.pid(), libc::SIGHUP);
    daemon.until_said("goes by the new configuration");
    daemon.write_config(&ends("kill", "daemon-after", delayed));
    sys::kill(daemon.pid(), libc::SIGHUP);
    proc::until("the second configuration holds", || {
        let said = daemon.said();
        (said.matches("goes by the new configuration").count() == 2).then_some(())
    });
    let run = agent("daemon-after", &["double-fork"]).start();
    let later = run.fact("daemon").pid;
    let after = run.finish();
    assert_eq!(action(&daemon, later)["result"], "ended");
    is_gone(later);
    assert!(sys::exists(survivor), "it was ended");
    sys::kill(survivor, libc::SIGKILL);
    drop((finished, after));
}

#[test]
fn next_daemon_ends_what_the_one_before_had_begun_with() {
    let mut daemon = Daemon::started(&ends("kill", "daemon-stubborn", "").replace("300ms", "1h"));
    let run = agent("daemon-stubborn", &["leaves-server", "term=ignores"]).start();
    let server = run.fact("server").pid;
    let finished = run.finish();
    daemon.until_said("signal 15 to");
    daemon.kill();
    daemon.write_config(&ends("kill", "daemon-stubborn", ""));
    daemon.start();
    is_gone(server);
    assert_eq!(action(&daemon, server)["result"], "ended");
    drop(finished);
}
