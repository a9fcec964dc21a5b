//! What a daemon says after another, and what it finds in the kernel's table that nobody told it of.

use std::path::Path;

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

/// Holds an agent until this file is there, and then has it go on with this.
fn after(go: &Path, then: &str) -> Run {
    let script = format!(": > \"$GO.ready\"; while [ ! -e \"$GO\" ]; do sleep 0.02; done; {then}");
    Run::shell(&script).alone().env("GO", go.display().to_string())
}

/// The run of this agent, as the daemon has it.
fn run_of(daemon: &Daemon, agent: &str) -> Option<Value> {
    let runs = daemon.asked(&["ps"])["runs"].as_array().cloned().unwrap_or_default();
    let mut its = runs.into_iter().filter(|run| run["agent"] == agent);
    let first = its.next();
    assert_eq!(its.next(), None, "it has one run, and not one of each process");
    first
}

/// What was announced before the first daemon listened is not known to the second either.
#[test]
fn call_that_seemed_to_be_open_alone_is_as_little_believed_by_the_next_daemon() {
    let folder = tempfile::tempdir().expect("a folder");
    let go = folder.path().join("go");
    let mut daemon = Daemon::configured("");
    let run =
        after(&go, "exec \"$WORKLOAD\" parallel-calls threads=3 one=yes how=window stays=yes");
    let run = run.env("TRACER_AGENT", "restarts-deaf");
    let running = run.env("TRACER_SOCKET", daemon.path("announce.sock")).start();
    proc::until("it runs", || go.with_extension("ready").exists().then_some(()));
    daemon.start();
    proc::until("the agent is known", || run_of(&daemon, "restarts-deaf"));
    std::fs::write(&go, "").expect("a file");
    running.held("standing");
    let pid = running.fact("call_0").pid;
    let heard = |daemon: &Daemon| {
        let run = run_of(daemon, "restarts-deaf")?;
        (run["stats"]["announcements"].as_u64() >= Some(1)).then_some(())
    };
    let call = |daemon: &Daemon| {
        let told = daemon.asked(&["blame", &pid.to_string()]);
        let told = told["processes"][0]["tool_call"]["confidence"].clone();
        told.as_str().map(str::to_owned)
    };
    proc::until("the daemon has heard it", || heard(&daemon));
    assert_eq!(call(&daemon).as_deref(), Some("none"));
    for _ in 0..2 {
        daemon.kill();
        daemon.start();
        assert_eq!(call(&daemon).as_deref(), Some("none"));
    }
    running.stand_no_more();
}

/// Records of a run that is over may lie behind the beginning of another.
#[test]
fn run_that_begins_while_no_daemon_looks_has_no_number_of_one_before() {
    let folder = tempfile::tempdir().expect("a folder");
    let go = folder.path().join("go");
    let mut daemon = Daemon::started("");
    let run = after(&go, "exec \"$WORKLOAD\" never-waits").env("TRACER_AGENT", "restarts-old");
    let old = run.start();
    proc::until("the agent is known", || run_of(&daemon, "restarts-old"));
    daemon.kill();
    let (new, zombie_of_new) = zombie("restarts-new");
    std::fs::write(&go, "").expect("a file");
    let zombie_of_old = old.standing_zombie();
    old.stand_no_more();
    daemon.start();
    let found = daemon.finding(zombie_of_new, "zombie", "opened");
    assert_eq!(found["finding"]["agent"]["name"], "restarts-new");
    let run = run_of(&daemon, "restarts-new").expect("its run");
    assert_eq!(run["stats"]["processes"], 2, "{run:#}");
    let of_old = |event: &Value| {
        event["finding"]["process"]["pid"] == zombie_of_old && is_of(event, "restarts-new")
    };
    assert!(!daemon.events().iter().any(of_old));
    new.stand_no_more();
}

#[test]
fn what_did_not_fit_the_ring_while_no_daemon_read_it_is_said() {
    let folder = tempfile::tempdir().expect("a folder");
    let (go, done) = (folder.path().join("go"), folder.path().join("done"));
    let mut daemon = Daemon::configured("").with_ring_bytes(4096);
    daemon.start();
    let forks = r#"number=0; while [ $number -lt 200 ]; do (:); number=$((number + 1)); done
        : > "$DONE"; exec "$WORKLOAD" never-waits"#;
    let run = after(&go, forks).env("TRACER_AGENT", "restarts-lossy");
    let running = run.env("DONE", done.display().to_string()).start();
    proc::until("the agent is known", || run_of(&daemon, "restarts-lossy"));
    daemon.kill();
    std::fs::write(&go, "").expect("a file");
    running.held("standing");
    daemon.start();
    let run = run_of(&daemon, "restarts-lossy").expect("its run");
    assert!(run["stats"]["dropped"].as_u64() > Some(0), "{run:#}");
    assert_eq!(run["uncertain"], true, "{run:#}");
    running.stand_no_more();
}

/// An upgrade on a crowded node: what is pinned is replaced, and the new table is too small.
#[test]
fn what_is_there_and_has_no_room_in_the_next_table_is_not_settled_as_gone() {
    let mut daemon = Daemon::started("");
    let (stays, standing) = zombie("restarts-crowded");
    let (goes, going) = zombie("restarts-going");
    for child in [standing, going] {
        daemon.finding(child, "zombie", "opened");
    }
    let count = |daemon: &Daemon, child: sys::Pid, which: &str| {
        let query = format!("SELECT count(*) FROM findings WHERE pid = {child} AND {which}");
        history::rows(&daemon.path("history.db"), &query)[0][0].clone()
    };
    proc::until("the history has both", || {
        let has = |child| count(&daemon, child, "closed_at IS NULL") == 1;
        (has(standing) && has(going)).then_some(())
    });
    daemon.kill();
    goes.stand_no_more();
    let mut daemon = daemon.with_room_for(16, "");
    daemon.start();
    daemon.until_said("what an earlier daemon left pinned");
    proc::until("what went is settled", || {
        (count(&daemon, going, "closed_at IS NOT NULL") == 1).then_some(())
    });
    assert_eq!(count(&daemon, standing, "closed_at IS NOT NULL"), 0);
    stays.stand_no_more();
}
