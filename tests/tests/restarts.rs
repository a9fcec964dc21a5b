//! What a daemon says after another, and what it finds in the kernel's table that nobody told it of.

use serde_json::Value;
use tracer_tests::daemon::{Daemon, is_about, is_of};
use tracer_tests::run::{Run, Running};
use tracer_tests::{bpf, history, proc, sys};

/// A parent of this agent that lets a child stand, and the child.
fn zombie(name: &str) -> (Running, sys::Pid) {
    let running = Run::workload(["never-waits"]).alone().env("TRACER_AGENT", name).start();
    let child = running.standing_zombie();
    (running, child)
}

/// What an event is about, in a few words.
fn brief(event: &Value) -> String {
    let (finding, process) = (&event["finding"], &event["finding"]["process"]);
    let words =
        [&event["type"], &event["change"], &finding["kind"], &process["pid"], &process["name"]];
    format!("{words:?}, since {}", finding["since"])
}

#[test]
fn what_was_over_is_not_told_again() {
    let mut daemon = Daemon::started("");
    // A survivor keeps the run, and an orphan of a moment and a zombie of it are over.
    let script = r#"(sh -c 'sleep 0.3; true' &)
        "$WORKLOAD" never-waits &
        (setsid sleep 600 & echo $! > "$FOLDER/left")
        wait"#;
    let folder = tempfile::tempdir().expect("a folder");
    let run = Run::shell(script).alone().env("TRACER_AGENT", "restarts-over");
    let running = run.env("FOLDER", folder.path().display().to_string()).start();
    let child = running.standing_zombie();
    daemon.finding(child, "zombie", "opened");
    running.stand_no_more();
    daemon.finding(child, "zombie", "gone");
    let left = std::fs::read_to_string(folder.path().join("left")).expect("it was written");
    let left: sys::Pid = left.trim().parse().expect("a pid");
    daemon.finding(left, "survivor", "opened");
    daemon.event("the run has ended", |event| {
        event["type"] == "invocation_ended" && is_of(event, "restarts-over")
    });
    proc::until("the history has it all", || {
        let over = "SELECT count(*) FROM invocations WHERE closed_at IS NOT NULL \
                    AND agent = 'restarts-over'";
        (history::rows(&daemon.path("history.db"), over)[0][0] == 1).then_some(())
    });
    for _ in 0..2 {
        let before = daemon.events().len();
        assert!(daemon.stop().success());
        daemon.start();
        // Whatever is told of those that were there before is told by the time this one is.
        let (later, other) = zombie("restarts-later");
        daemon.finding(other, "zombie", "opened");
        let told = daemon.events().split_off(before);
        later.stand_no_more();
        let again: Vec<_> = told
            .iter()
            .filter(|event| is_of(event, "restarts-over"))
            // What stands is told as it is now: on a slow machine it has outlived its call as well.
            .filter(|event| event["finding"]["process"]["pid"] != left)
            .map(brief)
            .collect();
        assert!(again.is_empty(), "{again:#?}");
        let is_opened = |event: &&Value| {
            event["finding"]["process"]["pid"] == left && event["change"] == "opened"
        };
        let opened: Vec<_> = told.iter().filter(is_opened).map(brief).collect();
        assert!(opened.is_empty(), "{opened:#?}");
    }
    sys::kill(left, libc::SIGKILL);
    daemon.finding(left, "survivor", "gone");
}

/// An entry in the kernel's table of one that died, and whose reaping no hook was told of.
#[test]
fn dead_that_are_not_there_any_more_are_let_go_of() {
    /// Beyond every pid that is given out.
    const NOBODY: u32 = u32::MAX >> 1;
    const START: std::ops::Range<usize> = 0..8;
    const FLAGS: std::ops::Range<usize> = 40..44;
    let mut daemon = Daemon::started("");
    let (running, child) = zombie("restarts-ghost");
    daemon.finding(child, "zombie", "opened");
    let table = daemon.pinned().join("PROCS");
    let entry = |pid| bpf::value(&table, pid).expect("PROCS");
    // Like the zombie, but for when it was forked.
    let mut ghost = entry(child.cast_unsigned()).expect("the zombie");
    let start = u64::from_ne_bytes(ghost[START].try_into().expect("eight bytes"));
    ghost[START].copy_from_slice(&(start - 1_000_000_000).to_ne_bytes());
    ghost[FLAGS].fill(0);
    bpf::put(&table, NOBODY, &ghost).expect("PROCS");
    proc::until("it is let go of", || entry(NOBODY).is_none().then_some(()));
    assert!(entry(child.cast_unsigned()).is_some(), "the zombie stands");
    daemon.kill();
    bpf::put(&table, NOBODY, &ghost).expect("PROCS");
    daemon.start();
    assert!(entry(NOBODY).is_none(), "the next daemon lets go of it before it goes on");
    let known = daemon.asked(&["ps"])["processes"].to_string();
    assert!(!known.contains(&NOBODY.to_string()), "{known}");
    running.stand_no_more();
    daemon.finding(child, "zombie", "gone");
}

/// PID 1 reaps it when it gets round to that: its parent was another, which has died.
#[test]
fn survivor_that_is_killed_while_no_daemon_looks_is_no_zombie_of_its_parent_s() {
    let mut daemon = Daemon::started("");
    let run = Run::workload(["double-fork"]).alone().env("TRACER_AGENT", "restarts-left");
    let run = run.start();
    let left = run.fact("daemon").pid;
    let finished = run.finish();
    daemon.finding(left, "survivor", "opened");
    daemon.kill();
    sys::kill(left, libc::SIGKILL);
    daemon.start();
    proc::until("it is reaped", || (!sys::exists(left)).then_some(()));
    let (later, other) = zombie("restarts-later");
    daemon.finding(other, "zombie", "opened");
    later.stand_no_more();
    assert!(!daemon.events().iter().any(|event| is_about(event, left, "zombie")));
    drop(finished);
}

/// A call's end is over by the time that the next daemon hears of it, and so is the agent.
#[test]
fn what_outlived_its_call_is_found_by_the_next_daemon_though_the_agent_has_ended() {
    let mut daemon = Daemon::started("");
    let script = r#"bash -c 'sleep 600 & echo $! > "$FOLDER/left"'
        while [ ! -e "$FOLDER/leave" ]; do sleep 0.05; done"#;
    let folder = tempfile::tempdir().expect("a folder");
    let run = Run::command(["bash", "-c", script]).alone().env("TRACER_AGENT", "restarts-call");
    let running = run.env("FOLDER", folder.path().display().to_string()).start();
    let left = proc::until("a child is left", || {
        let told = std::fs::read_to_string(folder.path().join("left")).ok()?;
        told.trim().parse::<sys::Pid>().ok()
    });
    daemon.finding(left, "outlived_call", "opened");
    std::fs::write(folder.path().join("leave"), "").expect("a file");
    let finished = running.finish();
    daemon.finding(left, "survivor", "opened");
    let kinds = |daemon: &Daemon| {
        let told = daemon.asked(&["leaks"])["leaks"].as_array().cloned().unwrap_or_default();
        let of_it = told.into_iter().filter(|one| one["finding"]["process"]["pid"] == left);
        let mut kinds: Vec<_> = of_it.map(|one| one["finding"]["kind"].to_string()).collect();
        kinds.sort_unstable();
        kinds
    };
    let before = kinds(&daemon);
    for _ in 0..2 {
        assert!(daemon.stop().success());
        daemon.start();
        assert_eq!(kinds(&daemon), before);
    }
    sys::kill(left, libc::SIGKILL);
    daemon.finding(left, "outlived_call", "resolved");
    drop(finished);
}
