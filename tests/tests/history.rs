//! What the daemon's history holds of runs, as people read it.

use serde_json::{Value, json};
use tracer_tests::daemon::Daemon;
use tracer_tests::run::{Run, Running};
use tracer_tests::sys::Pid;
use tracer_tests::{bpf, history, proc};

/// A workload that is an agent of this name and lets a child stand until it is released.
fn agent(name: &str) -> Run {
    Run::workload(["never-waits"]).alone().env("TRACER_AGENT", name)
}

fn finish(running: Running) {
    running.held("standing");
    running.release("standing");
    drop(running.finish());
}

/// Columns of an agent's one run, once it is kept and they are such.
fn run_of(daemon: &Daemon, agent: &str, columns: &str, are_such: fn(&Value) -> bool) -> Value {
    proc::until(&format!("{columns} of the run of {agent}"), || {
        let query = format!("select {columns} from invocations where agent = '{agent}'");
        let rows = history::rows(&daemon.path("history.db"), &query);
        rows.get(0).filter(|row| are_such(row)).cloned()
    })
}

#[test]
fn runs_are_those_of_the_user_who_began_them() {
    const OTHER: u32 = 4321;
    let own = rustix::process::getuid().as_raw();
    let early = agent("user-early").by_user(OTHER).start();
    early.held("standing");
    let mut daemon = Daemon::started("");
    let late = agent("user-late").by_user(OTHER).start();
    let of_root = agent("user-own").start();
    let users = [("user-early", OTHER), ("user-late", OTHER), ("user-own", own)];
    for (agent, user) in users {
        assert_eq!(run_of(&daemon, agent, "uid", |_| true), json!([user]), "{agent}");
    }
    daemon.kill();
    daemon.start();
    [early, late, of_root].into_iter().for_each(finish);
    for (agent, user) in users {
        let ended = |row: &Value| row[1].is_i64();
        let row = run_of(&daemon, agent, "uid, closed_at", ended);
        assert_eq!(row[0], json!(user), "{agent}");
    }
}

/// Columns of a run that tell of its end: when, when that was noticed, how, and whether something may
/// have been missed.
const END: &str = "ended_at, closed_at, exit, uncertain";

#[test]
fn run_that_ends_while_the_daemon_is_down_has_ended_in_its_history() {
    let mut daemon = Daemon::started("");
    let [lost, kept] = ["end-unseen", "end-seen"].map(|name| agent(name).start());
    for running in [&lost, &kept] {
        running.held("standing");
    }
    for name in ["end-unseen", "end-seen"] {
        let row = run_of(&daemon, name, END, |_| true);
        assert_eq!(row, json!([null, null, null, 0]), "{name}");
    }
    daemon.kill();
    let root = lost.fact("parent");
    let all = [root.pid, root.pids_of("children")[0].try_into().expect("a pid")];
    finish(lost);
    // The kernel lets go of who is reaped a little later.
    let table = daemon.pinned().join("PROCS");
    let knows = |pid: Pid| bpf::has_key(&table, pid.cast_unsigned()).expect("PROCS");
    proc::until("nobody of it is known", || (!all.into_iter().any(knows)).then_some(()));
    daemon.start();
    let row = run_of(&daemon, "end-unseen", END, |row| row[1].is_i64());
    assert_eq!((&row[2], &row[3]), (&Value::Null, &json!(1)), "{row}");
    assert!(row[0].is_i64(), "{row}");
    // The other goes on, and how it ends is seen.
    assert_eq!(run_of(&daemon, "end-seen", END, |_| true), json!([null, null, null, 0]));
    finish(kept);
    let row = run_of(&daemon, "end-seen", "closed_at, exit, uncertain", |row| row[0].is_i64());
    assert_eq!((&row[1], &row[2]), (&json!(r#"{"code":0}"#), &json!(0)), "{row}");
}

/// Its root is dead, and what it left lives: the table has both.
#[test]
fn run_of_which_something_lives_is_known_to_the_next_daemon_by_its_end() {
    let mut daemon = Daemon::started("");
    let running = Run::workload(["keeps-server"]).alone().env("TRACER_AGENT", "end-leaving");
    let running = running.start();
    running.held("leaving");
    run_of(&daemon, "end-leaving", "id", |_| true);
    daemon.kill();
    running.release("leaving");
    let finished = running.finish();
    daemon.start();
    let row = run_of(&daemon, "end-leaving", END, |row| row[1].is_i64());
    assert_eq!((&row[2], &row[3]), (&json!(r#"{"code":0}"#), &json!(0)), "{row}");
    drop(finished);
}
