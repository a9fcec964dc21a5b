//! The daemon asked: `tracer ps`, `tree`, `blame`, `status`, `leaks` and `events`, on real processes of an
//! agent of the test's own.

use std::io::{BufRead as _, BufReader, Lines};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::{env, fs};

use serde_json::Value;
use tempfile::TempDir;
use tracer_tests::daemon::Daemon;
use tracer_tests::{Run, Running, binary, proc, sys};

/// Nobody has processes of this user.
const STRANGER: u32 = 54_321;

/// A daemon that is asked.
struct Asked {
    daemon: Daemon,
    socket: PathBuf,
}

impl Asked {
    fn start() -> Self {
        let daemon = Daemon::started_for_all("");
        Self { socket: daemon.path("tracer.sock"), daemon }
    }

    fn command(&self, args: &[&str]) -> Command {
        self.daemon.asking(args)
    }

    /// What a subcommand says.
    fn ask(&self, args: &[&str]) -> Output {
        self.command(args).output().expect("tracer")
    }

    /// What it says with `--json`.
    #[track_caller]
    fn json(&self, args: &[&str]) -> Value {
        self.daemon.asked(args)
    }

    /// The processes of an agent.
    #[track_caller]
    fn processes(&self, agent: &str) -> Vec<Value> {
        let told = self.json(&["ps", "--limit", "50000"]);
        let all = told["processes"].as_array().cloned().unwrap_or_default();
        all.into_iter().filter(|one| one["agent"] == agent).collect()
    }
}

#[track_caller]
fn parsed(output: &Output) -> Value {
    let text = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

/// A name that no other agent on this host has.
fn unique() -> String {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    format!("control-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed))
}

/// A workload that is an agent of this name, without another tracer.
fn agent(name: &str, workload: &[&str]) -> Running {
    Run::workload(workload.iter().copied()).alone().env("TRACER_AGENT", name).start()
}

/// Waits until the daemon knows so many processes of an agent.
#[track_caller]
fn until_known(daemon: &Asked, agent: &str, number: usize) -> Vec<Value> {
    proc::until("processes that the daemon knows", || {
        let known = daemon.processes(agent);
        (known.len() >= number).then_some(known)
    })
}

fn pid_of(one: &Value) -> i64 {
    one["process"]["pid"].as_i64().expect("a pid")
}

#[test]
fn processes_of_an_agent_are_listed_with_who_forked_whom() {
    let (daemon, name) = (Asked::start(), unique());
    let running = agent(&name, &["keeps-server", "listen=tcp"]);
    let (root, server) = (running.fact("root").pid, running.fact("sleeper").pid);
    let known = until_known(&daemon, &name, 2);
    let of = |pid: sys::Pid| known.iter().find(|one| pid_of(one) == i64::from(pid));
    let (root, server) = (of(root).expect("the root"), of(server).expect("the server"));
    assert_eq!(server["forker"], root["id"]);
    assert_eq!((&server["state"], &root["state"]), (&"running".into(), &"running".into()));
    let tree = daemon.ask(&["tree"]);
    let tree = String::from_utf8_lossy(&tree.stdout).into_owned();
    let line = |one: &Value| format!("workload[{}] ", pid_of(one));
    let at = |one: &Value| tree.find(&line(one)).unwrap_or_else(|| panic!("{tree}"));
    assert!(tree.contains(&format!("{name}, invocation ")), "{tree}");
    assert!(at(root) < at(server), "{tree}");
    let table = daemon.ask(&["ps"]);
    assert!(String::from_utf8_lossy(&table.stdout).contains(&name), "{table:?}");
}

#[test]
fn whoever_listens_at_a_port_is_blamed_on_its_agent() {
    let (daemon, name) = (Asked::start(), unique());
    let running = agent(&name, &["keeps-server", "listen=tcp"]);
    let sleeper = running.fact("sleeper");
    until_known(&daemon, &name, 2);
    let port = format!(":{}", sleeper.number("port"));
    let told = daemon.json(&["blame", &port]);
    let blamed = &told["processes"][0];
    assert_eq!(pid_of(blamed), i64::from(sleeper.pid), "{told}");
    assert_eq!(blamed["agent"], *name);
    assert_eq!(blamed["listening"][0], format!("127.0.0.1{port}"));
    assert_eq!(blamed["lineage"][0]["pid"], running.fact("root").pid);
    let shown = daemon.ask(&["blame", &port]);
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.contains(&format!("listens on 127.0.0.1{port}")), "{shown}");
    assert!(shown.contains(&format!("Agent: {name}[")), "{shown}");
    // What no agent has started is nobody's, and so is a port that nobody listens at.
    let own = std::process::id().to_string();
    assert_eq!(daemon.ask(&["blame", &own]).status.code(), Some(1));
    let socket = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = format!(":{}", socket.local_addr().expect("an address").port());
    assert_eq!(daemon.ask(&["blame", &port]).status.code(), Some(1));
}

#[test]
fn zombie_is_told_with_its_exit_and_is_not_reaped_by_that() {
    let (daemon, name) = (Asked::start(), unique());
    let running = agent(&name, &["never-waits", "child-code=3"]);
    let (zombie, parent) = (running.fact("zombie").pid, running.fact("parent").pid);
    let listed = proc::until("a zombie finding", || {
        let leaks = daemon.json(&["leaks"])["leaks"].as_array().cloned().unwrap_or_default();
        leaks.into_iter().find(|leak| leak["finding"]["process"]["pid"] == zombie)
    });
    assert_eq!((&listed["stands"], &listed["finding"]["kind"]), (&true.into(), &"zombie".into()));
    assert_eq!(listed["finding"]["agent"]["name"], *name);
    let status = daemon.ask(&["status", &zombie.to_string(), "--json"]);
    assert_eq!(status.status.code(), Some(1), "{status:?}");
    let told = parsed(&status);
    assert_eq!((&told["state"], &told["source"]), (&"zombie".into(), &"daemon".into()));
    assert_eq!(told["exit"], serde_json::json!({"code": 3}));
    assert_eq!(told["parent"]["pid"], parent);
    assert!(told["unreaped_seconds"].as_f64().is_some_and(|seconds| seconds > 0.0));
    // Asked by its start, and by a start that it has not.
    let ticks = told["start_ticks"].as_u64().expect("a start");
    let by_start = |ticks: u64| daemon.ask(&["status", &format!("{zombie}@{ticks}")]).status.code();
    assert_eq!((by_start(ticks), by_start(ticks + 1)), (Some(1), Some(2)));
    let id = told["id"].as_str().expect("an id");
    assert_eq!(daemon.ask(&["status", id]).status.code(), Some(1));
    let kill = daemon.ask(&["kill", &zombie.to_string(), "--yes"]);
    let said = String::from_utf8_lossy(&kill.stderr).into_owned();
    assert!(said.contains("has ended already, and only its parent can reap it"), "{said}");
    // Nobody has taken it.
    assert_eq!(proc::state(zombie), Some('Z'));
    assert_eq!(daemon.ask(&["status", &parent.to_string()]).status.code(), Some(0));
    sys::kill(parent, libc::SIGKILL);
    proc::until("its end", || (!sys::exists(zombie)).then_some(()));
    let gone = daemon.ask(&["status", &format!("{zombie}@{ticks}")]);
    assert_eq!(gone.status.code(), Some(2), "{gone:?}");
}

#[test]
fn status_without_a_daemon_knows_what_procfs_does() {
    let running = Run::workload(["never-waits"]).alone().start();
    let (zombie, parent) = (running.fact("zombie").pid, running.fact("parent").pid);
    let nowhere = env::temp_dir().join("no-tracer-here.sock");
    let ask = |what: &str| {
        let mut command = Command::new(binary::tracer());
        command.args(["status", what, "--json", "--socket"]).arg(&nowhere);
        command.output().expect("tracer")
    };
    let status = ask(&zombie.to_string());
    assert_eq!(status.status.code(), Some(1), "{status:?}");
    let told = parsed(&status);
    assert_eq!((&told["source"], &told["exit"]), (&"procfs".into(), &Value::Null));
    assert_eq!(told["parent"]["pid"], parent);
    assert_eq!(ask(&parent.to_string()).status.code(), Some(0));
    assert_eq!(ask("no-pid").status.code(), Some(125));
    assert_eq!(proc::state(zombie), Some('Z'));
    let ps = Command::new(binary::tracer()).args(["ps", "--socket"]).arg(&nowhere).output();
    let ps = ps.expect("tracer");
    assert_eq!(ps.status.code(), Some(125));
    let said = String::from_utf8_lossy(&ps.stderr).into_owned();
    assert!(said.contains("tracer daemon is not running"), "{said}");
}

/// `tracer events --follow --json`, ended with the test.
struct Follower {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Follower {
    fn of(daemon: &Asked) -> Self {
        let mut command = daemon.command(&["events", "--follow", "--json", "--since", "1h"]);
        let mut child = command.stdout(Stdio::piped()).spawn().expect("a follower");
        let lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        Self { child, lines }
    }

    /// The next event that is such.
    fn next(&mut self, such: impl Fn(&Value) -> bool) -> Value {
        let events = self.lines.by_ref().map_while(Result::ok);
        let mut events = events.map(|line| serde_json::from_str(&line).expect("JSON"));
        events.find(such).expect("an event")
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let _killed = self.child.kill();
        let _ended = self.child.wait();
    }
}

#[test]
fn follower_is_told_what_is_found_as_it_is_found() {
    let (daemon, name) = (Asked::start(), unique());
    let mut follower = Follower::of(&daemon);
    let running = agent(&name, &["waits-late"]);
    let zombie = running.fact("zombie").pid;
    let began = follower.next(|event| event["invocation"]["agent"] == *name);
    assert_eq!(began["type"], "invocation_opened");
    let of_it = |event: &Value| event["finding"]["process"]["pid"] == zombie;
    assert_eq!(follower.next(of_it)["change"], "opened");
    running.release("standing");
    assert_eq!(follower.next(of_it)["change"], "resolved");
    running.release("leaving");
    running.finish();
    let ended = follower.next(|event| event["invocation"]["agent"] == *name);
    assert_eq!(ended["type"], "invocation_ended");
    // All of it is remembered, and kept.
    let said = daemon.ask(&["events"]);
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(said.contains(&format!("{name} ended: invocation ")), "{said}");
    let past = daemon.json(&["leaks", "--since", "1h"]);
    let past = past["leaks"].as_array().cloned().unwrap_or_default();
    assert!(past.iter().any(|leak| leak["finding"]["process"]["pid"] == zombie));
}

/// The program where everybody may go.
fn tracer_for_everybody() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("its mode");
    let tracer = folder.path().join("tracer");
    // By another process: what other tests fork at this moment would have this one's open for writing,
    // and nobody could execute it.
    let copied = Command::new("cp").arg(binary::tracer()).arg(&tracer).status().expect("cp");
    assert!(copied.success());
    (folder, tracer)
}

/// What another user gets of tracer.
fn as_stranger(daemon: &Asked, tracer: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(tracer);
    command.args(args).arg("--socket").arg(&daemon.socket).stdin(Stdio::null());
    command.uid(STRANGER).gid(STRANGER).output().expect("tracer")
}

#[test]
fn another_user_sees_nothing_of_what_is_not_his() {
    let (daemon, name) = (Asked::start(), unique());
    let running = agent(&name, &["keeps-server", "listen=tcp"]);
    let sleeper = running.fact("sleeper");
    until_known(&daemon, &name, 2);
    let (_folder, tracer) = tracer_for_everybody();
    let ask = |args: &[&str]| as_stranger(&daemon, &tracer, args);
    let ps = parsed(&ask(&["ps", "--json"]));
    assert_eq!((&ps["total"], &ps["runs"]), (&0.into(), &serde_json::json!([])));
    let port = format!(":{}", sleeper.number("port"));
    for what in [port.as_str(), &sleeper.pid.to_string()] {
        let blame = ask(&["blame", what]);
        assert_eq!(blame.status.code(), Some(1), "{blame:?}");
        assert_eq!(blame.stdout, b"");
    }
    assert_eq!(parsed(&ask(&["leaks", "--json"]))["total"], 0);
    let past = ask(&["leaks", "--since", "1h"]);
    assert_eq!(past.status.code(), Some(125), "{past:?}");
    assert_eq!(ask(&["events"]).stdout, b"");
    // What everybody can see in /proc.
    let status = parsed(&ask(&["status", &sleeper.pid.to_string(), "--json"]));
    assert_eq!((&status["state"], &status["source"]), (&"running".into(), &"procfs".into()));
    // It goes on listening.
    let port = u16::try_from(sleeper.number("port")).expect("a port");
    assert!(TcpStream::connect(("127.0.0.1", port)).is_ok());
}

#[test]
fn next_daemon_takes_the_place_of_one_that_was_killed() {
    let (mut daemon, name) = (Asked::start(), unique());
    let running = agent(&name, &["keeps-server"]);
    let server = running.fact("sleeper").pid;
    until_known(&daemon, &name, 2);
    daemon.daemon.kill();
    let said = daemon.ask(&["ps"]);
    assert_eq!(said.status.code(), Some(125), "{said:?}");
    daemon.daemon.start();
    let known = until_known(&daemon, &name, 2);
    assert!(known.iter().any(|one| pid_of(one) == i64::from(server)), "{known:?}");
}

#[test]
fn second_daemon_at_the_same_socket_is_refused_and_the_first_goes_on() {
    let daemon = Asked::start();
    let second = daemon.daemon.command().output().expect("tracer");
    assert_eq!(second.status.code(), Some(125));
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(said.contains("another tracer daemon has it"), "{said}");
    assert!(daemon.ask(&["ps"]).status.success());
}

/// Whom a plan ends, and what became of them.
#[track_caller]
fn ended(told: &Value) -> Vec<i64> {
    let receipts = told["receipts"].as_array().cloned().unwrap_or_default();
    let gone = receipts.iter().filter(|one| one["gone"] == true);
    gone.map(|one| one["pid"].as_i64().expect("a pid")).collect()
}

#[test]
fn process_is_ended_by_the_daemon_with_all_that_it_has_forked() {
    let (daemon, name) = (Asked::start(), unique());
    let script =
        r#""$WORKLOAD" keeps-server & "$WORKLOAD" sleep as=other streams=null & wait; exit 0"#;
    let running = Run::shell(script).alone().env("TRACER_AGENT", &*name).start();
    let (server, child) = (running.fact("root").pid, running.fact("sleeper").pid);
    let other = running.fact("other").pid;
    until_known(&daemon, &name, 4);
    let dry = daemon.json(&["kill", &server.to_string(), "--dry-run"]);
    assert_eq!(dry["plan"]["ends"], 2, "{dry}");
    assert!(sys::exists(server) && sys::exists(child), "a plan has touched them");
    let told = daemon.json(&["kill", &server.to_string(), "--yes"]);
    assert_eq!(ended(&told), [i64::from(server), i64::from(child)], "{told}");
    assert!(!sys::exists(server) && !sys::exists(child), "they live: {told}");
    assert!(sys::exists(other), "it was ended: {told}");
    sys::kill(other, libc::SIGKILL);
    running.finish();
}

#[test]
fn whoever_listens_at_a_port_is_ended_by_the_daemon() {
    let (daemon, name) = (Asked::start(), unique());
    let running = agent(&name, &["keeps-server", "listen=tcp"]);
    let sleeper = running.fact("sleeper");
    until_known(&daemon, &name, 2);
    let port = format!(":{}", sleeper.number("port"));
    let told = daemon.json(&["kill", &port, "--yes"]);
    assert_eq!(ended(&told), [i64::from(sleeper.pid)], "{told}");
    assert_eq!(told["receipts"][0]["ports"][0]["free"], true, "{told}");
    let again = daemon.ask(&["kill", &port, "--yes"]);
    assert_eq!(again.status.code(), Some(125), "{again:?}");
    let said = String::from_utf8_lossy(&again.stderr).into_owned();
    assert!(said.contains("nobody of an agent listens at port"), "{said}");
}

/// Its root too: when the last of it is gone the run is forgotten, and what came of it is told first.
#[test]
fn invocation_is_ended_by_the_daemon_as_a_whole() {
    let (daemon, name) = (Asked::start(), unique());
    let running = agent(&name, &["keeps-server", "listen=tcp"]);
    let server = running.fact("sleeper").pid;
    let known = until_known(&daemon, &name, 2);
    let id = known[0]["invocation"].as_str().expect("an id");
    let told = daemon.json(&["kill", id, "--yes"]);
    assert_eq!(ended(&told).len(), 2, "{told}");
    assert_eq!(told["all_ended"], true, "{told}");
    proc::until("the server is gone", || (!sys::exists(server)).then_some(()));
    running.finish();
    proc::until("the run is forgotten", || daemon.processes(&name).is_empty().then_some(()));
}

#[test]
fn another_user_may_end_nothing_not_even_of_his_own() {
    let (daemon, name) = (Asked::start(), unique());
    let running = agent(&name, &["keeps-server", "listen=tcp"]);
    let sleeper = running.fact("sleeper");
    let known = until_known(&daemon, &name, 2);
    let (_folder, tracer) = tracer_for_everybody();
    let port = format!(":{}", sleeper.number("port"));
    let id = known[0]["invocation"].as_str().expect("an id");
    for what in [port.as_str(), &sleeper.pid.to_string(), id] {
        let refused = as_stranger(&daemon, &tracer, &["kill", what, "--yes"]);
        assert_eq!(refused.status.code(), Some(125), "{refused:?}");
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        let refused = "failed to end processes: only root and the members of api.group may";
        assert!(said.contains(refused), "{said}");
        assert!(!said.contains(&name), "{said}");
    }
    assert!(sys::exists(sleeper.pid), "it was ended");
}
