//! What the daemon's history holds of runs, as people read it.

use serde_json::{Value, json};
use tracer_tests::daemon::Daemon;
use tracer_tests::run::{Run, Running};
use tracer_tests::{history, proc};

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
