//! What the daemon's history holds of runs, as people read it.

use std::fs;

use serde_json::{Value, json};
use tracer_tests::daemon::Daemon;
use tracer_tests::run::{Run, Running};
use tracer_tests::sys::{self, Pid};
use tracer_tests::{binary, bpf, history, proc};

/// A workload that is an agent of this name and lets a child stand until it is released.
fn agent(name: &str) -> Run {
    Run::workload(["never-waits"]).alone().env("TRACER_AGENT", name)
}

fn finish(running: Running) {
    running.held("standing");
    running.stand_no_more();
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

/// What `tracer history` says was ended.
fn ended(daemon: &Daemon) -> Value {
    let mut command = std::process::Command::new(binary::tracer());
    command.args(["history", "--json", "--database"]).arg(daemon.path("history.db"));
    let output = command.output().expect("tracer history");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let told: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    told["ended"].clone()
}

#[test]
fn who_is_ended_on_request_is_in_the_history_whatever_was_found_of_it() {
    let daemon = Daemon::started("");
    let rows = |query: &str| history::rows(&daemon.path("history.db"), query);
    let known = |pid: Pid| {
        proc::until(&format!("the daemon knows {pid}"), || {
            let told = daemon.asked(&["ps", "--limit", "50000"]);
            let mut all = told["processes"].as_array()?.iter();
            all.any(|one| one["process"]["pid"] == pid).then_some(())
        });
    };
    // Its shell waits for it, and has nothing else to do.
    let script = r#""$WORKLOAD" sleep as=asked-for streams=null & wait; exit 0"#;
    let running = Run::shell(script).alone().env("TRACER_AGENT", "on-request").start();
    let pid = running.fact("asked-for").pid;
    known(pid);
    assert_eq!(daemon.asked(&["kill", &pid.to_string(), "--yes"])["all_ended"], true);
    drop(running.finish());
    let of = |pid: Pid, table: &str, columns: &str| {
        rows(&format!("select {columns} from {table} where pid = {pid}"))
    };
    let columns = "agent, result, remedy, decided_by, args";
    let row = proc::until("it is kept", || of(pid, "on_request", columns).get(0).cloned());
    assert_eq!(
        (&row[0], &row[1], &row[2]),
        (&json!("on-request"), &json!("ended"), &json!("kill"))
    );
    let uid = rustix::process::getuid().as_raw();
    let by = row[3].as_str().expect("who asked");
    assert!(by.starts_with(&format!("tracer kill by uid {uid} (pid ")), "{by}");
    assert!(row[4].as_str().is_some_and(|args| args.contains("as=asked-for")), "{row}");
    assert_eq!(of(pid, "receipts", "kind, result"), json!([[null, "ended"]]));
    assert_eq!(of(pid, "findings", "kind"), json!([]));
    assert_eq!(ended(&daemon), json!({"for_leaks": 0, "on_request": 1}));

    // Of this one a finding tells of it as well.
    let running = Run::workload(["keeps-server"]).alone().env("TRACER_AGENT", "on-request").start();
    let survivor = running.fact("sleeper").pid;
    running.held("leaving");
    running.release("leaving");
    let finished = running.finish();
    daemon.finding(survivor, "survivor", "opened");
    assert_eq!(daemon.asked(&["kill", &survivor.to_string(), "--yes"])["all_ended"], true);
    proc::until("the finding tells of it", || {
        (of(survivor, "findings", "result") == json!([["ended"]])).then_some(())
    });
    assert_eq!(of(survivor, "on_request", "result"), json!([["ended"]]));
    assert_eq!(of(survivor, "receipts", "kind, result"), json!([["survivor", "ended"]]));
    assert_eq!(ended(&daemon), json!({"for_leaks": 0, "on_request": 2}));
    drop(finished);
}

#[test]
fn new_limits_hold_from_the_reload_on() {
    let mut daemon = Daemon::started("");
    finish(agent("limited").start());
    run_of(&daemon, "limited", "closed_at", |row| row[0].is_i64());
    let config = daemon.path("tracer.toml");
    let text = fs::read_to_string(&config).expect("its configuration");
    let text = text.replace("[history]\n", "[history]\nmax_age = '1ms'\n");
    fs::write(&config, text).expect("a new configuration");
    sys::kill(daemon.pid(), libc::SIGHUP);
    daemon.until_said("goes by the new configuration");
    proc::until("what is too old is removed", || {
        let query = "select count(*) from invocations where agent = 'limited'";
        (history::rows(&daemon.path("history.db"), query) == json!([[0]])).then_some(())
    });
}
