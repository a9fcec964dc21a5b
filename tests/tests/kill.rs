//! `tracer kill`: what is asked for is ended in a live run, after it was shown, and nothing else.

use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use serde_json::{Value, json};
use tracer_tests::agents::script::Agent;
use tracer_tests::{Finished, Run, Running, binary, proc, sys};

/// A server with a child, and a process beside them; COMMAND waits for both.
const SERVER_AND_OTHER: &str =
    r#""$WORKLOAD" keeps-server & "$WORKLOAD" sleep as=other streams=null & wait; exit 0"#;

/// A server that COMMAND waits for.
const SERVER: &str = r#""$WORKLOAD" sleep as=sleeper streams=null & wait; exit 0"#;

fn kill<const N: usize>(arguments: [&str; N]) -> Run {
    Run::exact_arguments(["kill"]).arguments(arguments)
}

/// What `tracer kill --json` tells.
#[track_caller]
fn told(finished: &Finished) -> Value {
    let said = finished.stdout_text();
    serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}\n{finished:#}"))
}

/// Ends this without asking, and tells how.
#[track_caller]
fn end(what: &str, status: i32) -> Value {
    let finished = kill([what, "--yes", "--json"]).finish();
    finished.expect_code(status);
    told(&finished)
}

/// The id of a run's own invocation, by one of its processes.
#[track_caller]
fn invocation(pid: sys::Pid) -> String {
    let told = told(&kill([&pid.to_string(), "--dry-run", "--json"]).finish());
    told["run"]["invocation"].as_str().expect("an id").to_owned()
}

fn pids(list: &Value) -> Vec<i64> {
    let list = list.as_array().expect("a list");
    list.iter().map(|one| one["pid"].as_i64().expect("a pid")).collect()
}

/// Who is to end, and who is left alone, of a plan.
fn planned(told: &Value) -> (Vec<i64>, Vec<i64>) {
    let all = told["plan"]["processes"].as_array().expect("a list");
    let of = |is_left: bool| {
        let such = all.iter().filter(|one| one["left"].is_null() != is_left).cloned();
        pids(&such.collect())
    };
    (of(false), of(true))
}

/// What the report of a run tells of a process that was to end on request.
#[track_caller]
fn on_request(finished: &Finished, pid: sys::Pid) -> Value {
    let all = finished.report["on_request"].as_array().expect("a list");
    let found = all.iter().find(|one| one["process"]["pid"] == pid);
    found.unwrap_or_else(|| panic!("nothing of {pid}\n{finished:#}"))["action"].clone()
}

/// Ends with the run what a test has left alive on purpose.
fn end_of(running: Running, left: &[sys::Pid]) -> Finished {
    left.iter().for_each(|pid| sys::kill(*pid, libc::SIGKILL));
    running.finish()
}

#[test]
fn process_is_ended_with_all_that_it_has_forked_and_nothing_else() {
    let running = Run::shell(SERVER_AND_OTHER).start();
    let (server, child) = (running.fact("root").pid, running.fact("sleeper").pid);
    let other = running.fact("other").pid;
    let finished = kill([&server.to_string(), "--yes"]).finish();
    finished.expect_code(0);
    assert!(!sys::exists(server) && !sys::exists(child), "they live\n{finished:#}");
    assert!(sys::exists(other), "it was ended\n{finished:#}");
    assert!(finished.stdout_text().ends_with("2 of 2 processes ended\n"), "{finished:#}");
    let client = &finished.stdout_text();
    assert!(client.contains(&format!("[{child}]: ")), "{client}");
    let run = end_of(running, &[other]);
    assert_eq!(run.report["on_request"].as_array().map(Vec::len), Some(2), "{run:#}");
    for pid in [server, child] {
        let action = on_request(&run, pid);
        assert_eq!((&action["result"], &action["dry_run"]), (&json!("ended"), &json!(false)));
        assert_eq!(action["signals"][0]["signal"], "SIGTERM");
        let by = action["decided_by"].as_str().expect("a text");
        assert!(by.starts_with("tracer kill by uid 0 (pid "), "{by}");
        assert_eq!(action["exit"]["sender"]["name"], "tracer", "{run:#}");
    }
    assert_eq!(run.report["cleanup"]["results"], json!({"ended": 2}), "{run:#}");
    assert!(run.stderr_text().contains("on request: "), "{run:#}");
}

#[test]
fn whoever_listens_at_a_port_is_ended_and_the_port_is_free() {
    let line = r#""$WORKLOAD" sleep as=tcp listen=tcp & "$WORKLOAD" sleep as=tcp6 listen=tcp6 &
        "$WORKLOAD" sleep as=udp listen=udp & "$WORKLOAD" sleep as=own listen=tcp network=own &
        wait; exit 0"#;
    let running = Run::shell(line).start();
    let servers = ["tcp", "tcp6", "udp", "own"].map(|name| running.fact(name));
    for (ended, server) in servers.iter().enumerate() {
        let told = end(&format!(":{}", server.number("port")), 0);
        assert_eq!(planned(&told), (vec![server.pid.into()], vec![]), "{told}");
        let ports = &told["receipts"][0]["ports"];
        assert_eq!(ports.as_array().map(Vec::len), Some(1), "{told}");
        assert_eq!(ports[0]["free"], true, "{told}");
        for (index, other) in servers.iter().enumerate() {
            assert_eq!(sys::exists(other.pid), index > ended, "{}: {told}", other.name);
        }
    }
    let port = u16::try_from(servers[0].number("port")).expect("a port");
    TcpListener::bind(("127.0.0.1", port)).expect("the port is free");
    let run = running.finish();
    let freed = &on_request(&run, servers[0].pid)["ports"][0];
    assert!(freed["free_after_seconds"].is_f64(), "{run:#}");
}

#[test]
fn invocation_is_ended_with_command_whose_status_is_the_signal_s() {
    let running = Run::shell(SERVER_AND_OTHER).recorded().start();
    let all = ["root", "sleeper", "other"].map(|name| running.fact(name).pid);
    let told = end(&invocation(all[0]), 0);
    assert_eq!(planned(&told).0.len(), 4, "{told}");
    let run = running.finish();
    run.expect_code(128 + libc::SIGTERM);
    assert_eq!(run.report["invocation"]["exit"]["signal"], "SIGTERM", "{run:#}");
    assert!(all.iter().all(|pid| !sys::exists(*pid)), "some live\n{run:#}");
    assert_eq!(run.report["on_request"].as_array().map(Vec::len), Some(4), "{run:#}");
    // A recording tells the same.
    let again = run.path("again.json");
    let recording = run.path(tracer_tests::run::RECORDING);
    let replay = Run::exact_arguments(["replay"]).arguments([
        std::ffi::OsStr::new("--report"),
        again.as_os_str(),
        recording.as_os_str(),
    ]);
    replay.finish().expect_code(128 + libc::SIGTERM);
    let again: Value = serde_json::from_str(&run.file("again.json")).expect("a report");
    assert_eq!(again["on_request"], run.report["on_request"]);
}

#[test]
fn nested_invocation_is_ended_where_it_is_named_and_left_alone_where_it_is_not() {
    let inner = Agent::new("codex", r#""$WORKLOAD" sleep as=inner streams=null; exit 0"#);
    let path = inner.path();
    let between =
        format!("\"$WORKLOAD\" sleep as=beside streams=null & {}; exit 0", path.display());
    let outer = Agent::new("claude", &format!("sh -c '{between}'; \"$WORKLOAD\" keeps-server"));
    let running = outer.run().start();
    let (inner, beside) = (running.fact("inner").pid, running.fact("beside").pid);
    let shell = proc::ppid(beside).expect("its shell lives");
    let codex = proc::ppid(inner).expect("its agent lives");
    // Who forked the agent is ended, the agent is not.
    let told = kill([&shell.to_string(), "--dry-run", "--json"]).finish();
    let told = self::told(&told);
    let (ends, left) = planned(&told);
    assert_eq!(ends, [i64::from(shell), beside.into()], "{told}");
    assert_eq!(left, [i64::from(codex), inner.into()], "{told}");
    let reasons = told["plan"]["processes"].as_array().expect("a list").iter();
    let reasons: Vec<_> =
        reasons.filter_map(|one| one["left"]["reason"].as_str().map(str::to_owned)).collect();
    assert_eq!(reasons, ["it belongs to another invocation"; 2], "{told}");
    let named = told["run"]["agents"][0]["invocation"].as_str().expect("an id").to_owned();
    let told = end(&named, 0);
    assert_eq!(planned(&told), (vec![codex.into(), inner.into()], vec![]), "{told}");
    assert!(sys::exists(shell) || sys::exists(beside), "more was ended");
    running.release("leaving");
    let run = end_of(running, &[beside]);
    assert!(!sys::exists(inner), "it lives\n{run:#}");
}

#[test]
fn call_is_ended_where_it_is_known_and_never_on_a_guess() {
    for (how, is_sure) in [("spawn", true), ("window", false)] {
        let line = format!(
            "\"$WORKLOAD\" parallel-calls threads=2 how={how}; \"$WORKLOAD\" keeps-server; exit 0"
        );
        let running = Run::shell(&line).start();
        let server = running.fact("sleeper").pid;
        let [first, second] = ["call_0", "call_1"].map(|call| running.fact(call).pid);
        let id = invocation(server);
        let unknown = kill([&id, "--call", "call_7", "--yes"]).finish();
        unknown.expect_code(125);
        assert!(unknown.stderr_text().contains("no tool call of the id call_7"), "{unknown:#}");
        let finished = kill([&id, "--call", "call_0", "--yes", "--json"]).finish();
        finished.expect_code(i32::from(!is_sure));
        let told = told(&finished);
        let ended = if is_sure { vec![i64::from(first)] } else { Vec::new() };
        assert_eq!(planned(&told), (ended, vec![]), "{told}");
        assert_eq!(told["plan"]["ambiguous"], if is_sure { 0 } else { 2 }, "{told}");
        assert_eq!(sys::exists(first), !is_sure, "{told}");
        assert!(sys::exists(second) && sys::exists(server), "{told}");
        running.release("leaving");
        let left = [first, second, server].into_iter().filter(|pid| sys::exists(*pid));
        let _ = end_of(running, &left.collect::<Vec<_>>());
    }
}

#[test]
fn dry_run_shows_whom_and_touches_nothing() {
    let running = Run::workload(["keeps-server"]).start();
    let (root, server) = (running.fact("root").pid, running.fact("sleeper").pid);
    let shown = kill([&root.to_string(), "--dry-run"]).finish();
    shown.expect_code(0);
    let text = shown.stdout_text();
    assert!(text.contains(&format!("[{server}]: ")) && text.contains("to end:"), "{text}");
    let told = told(&kill([&root.to_string(), "--dry-run", "--json"]).finish());
    assert_eq!((&told["dry_run"], &told["receipts"]), (&json!(true), &Value::Null), "{told}");
    assert_eq!(planned(&told), (vec![root.into(), server.into()], vec![]));
    assert!(sys::exists(root) && sys::exists(server), "they were ended");
    running.release("leaving");
    let run = end_of(running, &[server]);
    assert_eq!(run.report["on_request"], json!([]), "{run:#}");
}

#[test]
fn without_a_terminal_nothing_is_ended_unasked() {
    let running = Run::workload(["keeps-server"]).start();
    let server = running.fact("sleeper").pid;
    let refused = kill([&server.to_string()]).finish();
    refused.expect_code(125);
    let said = refused.stderr_text();
    assert!(said.contains("no terminal") && said.contains("--yes"), "{said}");
    assert!(sys::exists(server), "it was ended");
    running.release("leaving");
    let _ = end_of(running, &[server]);
}

#[test]
fn on_a_terminal_the_answer_decides() {
    let running = Run::shell(SERVER).start();
    let server = running.fact("sleeper").pid;
    for (answer, status, lives) in [("n\n", 1, true), ("\n", 1, true), ("y\n", 0, false)] {
        let asking = kill([&server.to_string()]).on_terminal().start();
        asking.until_said("End this process? [y/N]");
        asking.type_in(answer.as_bytes());
        let asked = asking.finish();
        asked.expect_code(status);
        assert_eq!(sys::exists(server), lives, "{answer:?}\n{asked:#}");
        let said = asked.stdout_text();
        assert_eq!(said.contains("nothing was done"), lives, "{said}");
    }
    // COMMAND was not ended: it saw its server's end.
    running.finish().expect_code(0);
}

#[test]
fn other_users_are_refused_and_that_is_logged() {
    let running = Run::workload(["keeps-server"]).env("TRACER_LOG", "warn").start();
    let server = running.fact("sleeper").pid;
    // Tracer itself lies where nobody else may look.
    let copy = running.path("tracer");
    std::fs::copy(binary::tracer(), &copy).expect("a copy of tracer");
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(running.path(""), open).expect("a folder for all");
    let socket = format!("/run/tracer/{}.sock", running.pid);
    let refused = Run::command([copy.as_os_str(), "kill".as_ref()])
        .arguments([&server.to_string(), "--yes"])
        .alone()
        .env("TRACER_SOCKET", socket)
        .under(["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"])
        .finish();
    refused.expect_code(125);
    let said = refused.stderr_text();
    assert!(said.contains("uid 65534 may not"), "{said}");
    assert!(sys::exists(server), "it was ended\n{refused:#}");
    running.release("leaving");
    let run = end_of(running, &[server]);
    let logged = run.stderr_text();
    assert!(logged.contains("refused to end processes for process"), "{logged}");
    assert_eq!(run.report["on_request"], json!([]), "{run:#}");
}

#[test]
fn what_belongs_to_no_run_is_not_touched_and_the_runs_are_told() {
    let running = Run::workload(["keeps-server"]).start();
    let server = running.fact("sleeper").pid;
    let mut stranger = std::process::Command::new("sleep").arg("60").spawn().expect("sleep");
    let strangers = [stranger.id().to_string(), running.pid.to_string(), "1".to_owned()];
    for pid in &strangers {
        let refused = kill([pid, "--yes"]).finish();
        refused.expect_code(125);
        let said = refused.stderr_text();
        assert!(said.contains(&format!("(tracer {})", running.pid)), "{said}");
        assert!(said.contains(&format!("it has no process {pid}")), "{said}");
    }
    assert!(stranger.try_wait().expect("it can be waited for").is_none(), "it was ended");
    stranger.kill().expect("it lives");
    stranger.wait().expect("it can be waited for");
    running.release("leaving");
    let run = end_of(running, &[server]);
    assert_eq!(run.report["on_request"], json!([]), "{run:#}");
}

#[test]
fn kept_processes_are_left_alone_with_all_that_they_have_forked() {
    let line = format!("export TRACER_KEEP; TRACER_KEEP=1 {SERVER_AND_OTHER}");
    let running = Run::shell(&line).grace("300ms").start();
    let (server, child) = (running.fact("root").pid, running.fact("sleeper").pid);
    let other = running.fact("other").pid;
    let told = end(&invocation(other), 1);
    let (ends, left) = planned(&told);
    assert_eq!(left, [i64::from(server), child.into()], "{told}");
    assert!(ends.contains(&other.into()) && ends.len() == 2, "{told}");
    let of = |pid: sys::Pid| {
        let all = told["plan"]["processes"].as_array().expect("a list");
        all.iter().find(|one| one["pid"] == pid).expect("it is listed")["left"].clone()
    };
    assert_eq!(of(server), json!({"result": "kept", "reason": "environment: TRACER_KEEP"}));
    let run = running.finish();
    run.expect_code(128 + libc::SIGTERM);
    assert!(sys::exists(server) && sys::exists(child), "they were ended\n{run:#}");
    assert!(!sys::exists(other), "it lives\n{run:#}");
}

#[test]
fn who_ignores_sigterm_is_killed() {
    let line = r#""$WORKLOAD" leaves-server term=ignores; "$WORKLOAD" keeps-server; exit 0"#;
    let run = Run::shell(line);
    let rules = run.path("rules.toml");
    std::fs::write(&rules, "[cleanup]\nterm_timeout = '200ms'\n").expect("a file of rules");
    let running = run.options(["--rules".into(), rules.into_os_string()]).start();
    let server = running.fact("server").pid;
    let other = running.fact("sleeper").pid;
    let told = end(&server.to_string(), 0);
    assert_eq!(told["receipts"][0]["signals"], json!(["SIGTERM", "SIGKILL"]), "{told}");
    assert!(!sys::exists(server), "it lives");
    running.release("leaving");
    let run = end_of(running, &[other]);
    // It lost its parent before: that finding has its receipt.
    run.finding("orphan", server).expect("/action/result", "ended");
}

#[test]
fn innermost_of_nested_runs_ends_it() {
    let tracer = binary::tracer().to_str().expect("UTF-8");
    let running = Run::command([tracer, "run", "--", "sh", "-c", SERVER]).start();
    let server = running.fact("sleeper").pid;
    let inner = proc::ppid(server).and_then(proc::ppid).expect("its tracer lives");
    // The inner tracer is a process of the outer run.
    let told = told(&kill([&inner.to_string(), "--dry-run", "--json"]).finish());
    assert_eq!(told["run"]["command"][0], json!(tracer), "{told}");
    let told = end(&server.to_string(), 0);
    assert_eq!(told["run"]["command"], json!(["sh", "-c", SERVER]), "{told}");
    running.finish().expect_code(0);
}

#[test]
fn pids_are_those_of_the_client_s_namespace() {
    let workload = binary::workload().to_str().expect("UTF-8");
    let command = ["unshare", "--pid", "--fork", workload, "keeps-server"];
    let running = Run::command(command).start();
    let (root, server) = (running.fact("root").pid, running.fact("sleeper").pid);
    let within = *proc::namespace_pids(server).last().expect("a pid there");
    assert_ne!(within, server);
    let around =
        ["nsenter".to_owned(), "--pid".to_owned(), "--target".to_owned(), root.to_string()];
    let shown = kill([&within.to_string(), "--dry-run", "--json"]).under(around).finish();
    shown.expect_code(0);
    let told = told(&shown);
    assert_eq!(planned(&told), (vec![within.into()], vec![]), "{told}");
    let id = told["plan"]["processes"][0]["id"].as_str().expect("an id").to_owned();
    let told = self::told(&kill([&server.to_string(), "--dry-run", "--json"]).finish());
    assert_eq!(told["plan"]["processes"][0]["id"], id, "{told}");
    running.release("leaving");
    running.finish().expect_code(0);
}

/// A client that says what it likes.
struct Client(UnixDatagram);

impl Client {
    fn of(running: &Running) -> Self {
        static NUMBER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let name = format!("tracer-tests-{}-{number}", std::process::id());
        let address = SocketAddr::from_abstract_name(name).expect("a name");
        let socket = UnixDatagram::bind_addr(&address).expect("a socket");
        socket.connect(format!("/run/tracer/{}.sock", running.pid)).expect("tracer listens");
        socket.set_read_timeout(Some(sys::patience())).expect("a socket takes a patience");
        Self(socket)
    }

    fn send(&self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.send(bytes)
    }

    /// The answer to this, whatever else comes before it.
    #[track_caller]
    fn ask(&self, request: u64, mut message: Value) -> Value {
        (message["v"], message["request"]) = (json!(1), json!(request));
        self.send(message.to_string().as_bytes()).expect("tracer takes it");
        loop {
            let mut answer = vec![0; 1 << 17];
            let length = self.0.recv(&mut answer).expect("an answer");
            let answer: Value = serde_json::from_slice(&answer[..length]).expect("JSON");
            if answer["request"] == request && answer["answer"] != "looking" {
                return answer["answer"].clone();
            }
        }
    }

    /// The number of a plan to end this process.
    #[track_caller]
    fn plan(&self, pid: sys::Pid) -> u64 {
        let answer = self.ask(1, json!({"type": "kill_plan", "process": pid}));
        answer["plan"]["plan"].as_u64().unwrap_or_else(|| panic!("no plan: {answer}"))
    }

    #[track_caller]
    fn act(&self, plan: u64) {
        assert_eq!(self.ask(2, json!({"type": "kill", "plan": plan})), "begun");
    }

    /// The receipts, once it is done.
    #[track_caller]
    fn receipts(&self, plan: u64) -> Vec<Value> {
        proc::until("receipts", || {
            let answer = self.ask(3, json!({"type": "kill_receipts", "plan": plan}));
            let receipts = answer["receipts"]["receipts"].as_array()?.clone();
            (answer["receipts"]["done"] == true).then_some(receipts)
        })
    }

    #[track_caller]
    fn refused(&self, message: &Value, code: &str) {
        let answer = self.ask(9, message.clone());
        assert_eq!(answer["refused"]["code"], code, "{message}: {answer}");
    }
}

#[test]
fn malformed_and_unheard_of_requests_do_no_harm() {
    let running = Run::workload(["keeps-server"]).start();
    let server = running.fact("sleeper").pid;
    let client = Client::of(&running);
    let wrong: [&[u8]; 7] = [
        b"{",
        br#"{"v":1,"type":"kill"}"#,
        br#"{"v":1,"type":"kill","request":1}"#,
        br#"{"v":1,"type":"kill_plan","request":1}"#,
        br#"{"v":1,"type":"kill_plan","request":1,"process":0}"#,
        br#"{"v":1,"type":"kill_plan","request":1,"process":1,"port":2}"#,
        br#"{"v":1,"type":"kill_all","request":1,"process":1}"#,
    ];
    for bytes in wrong {
        client.send(bytes).expect("tracer takes it");
    }
    client.refused(&json!({"type": "kill_plan", "process": 4_000_000_000_u32}), "unknown_target");
    client.refused(&json!({"type": "kill_plan", "port": 1}), "unknown_target");
    client.refused(&json!({"type": "kill_plan", "invocation": "1-1"}), "unknown_target");
    let plan = client.plan(server);
    for kind in ["kill", "kill_show", "kill_receipts"] {
        client.refused(&json!({"type": kind, "plan": plan + 1}), "unknown_plan");
    }
    // Nor does it serve who did not ask for it.
    let other = Client::of(&running);
    other.refused(&json!({"type": "kill", "plan": plan}), "unknown_plan");
    // Nothing of it was begun, so nothing has come of it.
    client.refused(&json!({"type": "kill_receipts", "plan": plan}), "unknown_plan");
    assert!(sys::exists(server), "it was ended");
    running.release("leaving");
    let run = end_of(running, &[server]);
    assert_eq!(run.stat("announcements_dropped"), 7, "{run:#}");
    assert_eq!(run.report["on_request"], json!([]), "{run:#}");
}

#[test]
fn process_of_another_run_is_unknown() {
    let (one, other) = (Run::shell(SERVER).start(), Run::shell(SERVER).start());
    let (own, others) = (one.fact("sleeper").pid, other.fact("sleeper").pid);
    Client::of(&one).refused(&json!({"type": "kill_plan", "process": others}), "unknown_target");
    let told = end(&own.to_string(), 0);
    assert_eq!(planned(&told).0, [i64::from(own)]);
    assert!(!sys::exists(own) && sys::exists(others), "{told}");
    one.finish().expect_code(0);
    let run = end_of(other, &[others]);
    assert_eq!(run.report["on_request"], json!([]), "{run:#}");
}

#[test]
fn what_was_agreed_to_is_ended_although_the_client_goes_away() {
    let running = Run::shell(SERVER).start();
    let server = running.fact("sleeper").pid;
    let client = Client::of(&running);
    let plan = client.plan(server);
    client.act(plan);
    drop(client);
    let run = running.finish();
    assert_eq!(on_request(&run, server)["result"], "ended", "{run:#}");
}

#[test]
fn who_ends_between_plan_and_act_has_ended_by_itself_and_whoever_comes_later_is_spared() {
    let running = Run::shell(SERVER_AND_OTHER).start();
    let (server, other) = (running.fact("sleeper").pid, running.fact("other").pid);
    let client = Client::of(&running);
    let plan = client.plan(server);
    sys::kill(server, libc::SIGKILL);
    sys::until_dead(server);
    client.act(plan);
    let receipts = client.receipts(plan);
    assert_eq!(receipts.len(), 1, "{receipts:?}");
    assert_eq!(
        (&receipts[0]["result"], &receipts[0]["signals"]),
        (&json!("ended_by_itself"), &json!([]))
    );
    assert!(sys::exists(other), "it was ended");
    running.release("leaving");
    let _ = end_of(running, &[other]);
}

#[test]
fn what_is_forked_after_the_plan_ends_with_who_forked_it() {
    // The shell forks again whenever it is told to.
    let line = r#"trap '"$WORKLOAD" sleep as=later streams=null &' USR1
        "$WORKLOAD" sleep as=first streams=null & while :; do wait; done"#;
    let inner = format!("sh -c '{}' & wait; exit 0", line.replace('\'', r"'\''"));
    let running = Run::shell(&inner).start();
    let first = running.fact("first").pid;
    let shell = proc::ppid(first).expect("its shell lives");
    let client = Client::of(&running);
    let plan = client.plan(shell);
    sys::kill(shell, libc::SIGUSR1);
    let later = running.fact("later").pid;
    client.act(plan);
    let receipts = client.receipts(plan);
    assert!(receipts.iter().all(|receipt| receipt["gone"] == true), "{receipts:?}");
    assert!(receipts.iter().any(|receipt| receipt["pid"] == later), "{receipts:?}");
    for pid in [shell, first, later] {
        assert!(!sys::exists(pid), "{pid} lives: {receipts:?}");
    }
    running.finish().expect_code(0);
}

#[test]
fn two_who_ask_at_once_are_both_told_and_nobody_is_signalled_twice() {
    let running = Run::shell(SERVER).start();
    let server = running.fact("sleeper").pid;
    let clients = [Client::of(&running), Client::of(&running)];
    let plans = clients.each_ref().map(|client| client.plan(server));
    for (client, plan) in clients.iter().zip(plans) {
        client.act(plan);
        // Also where the answer was lost.
        client.act(plan);
    }
    let mut signals = Vec::new();
    for (client, plan) in clients.iter().zip(plans) {
        let receipts = client.receipts(plan);
        assert_eq!(receipts.len(), 1, "{receipts:?}");
        assert_eq!(receipts[0]["gone"], true, "{receipts:?}");
        signals.extend(receipts[0]["signals"].as_array().expect("a list").clone());
    }
    assert_eq!(signals, ["SIGTERM"]);
    running.finish().expect_code(0);
}

#[test]
fn run_that_ends_meanwhile_is_said_to_have_ended() {
    let running = Run::workload(["keeps-server"]).grace("0s").start();
    let server = running.fact("sleeper").pid;
    let asking = kill([&server.to_string()]).on_terminal().start();
    asking.until_said("[y/N]");
    running.release("leaving");
    let run = running.finish();
    asking.type_in(b"y\n");
    let asked = asking.finish();
    asked.expect_code(125);
    assert!(asked.stdout_text().contains("the run has ended meanwhile"), "{asked:#}");
    assert!(sys::exists(server), "it was ended\n{run:#}");
    let gone = kill([&server.to_string(), "--yes"]).finish();
    gone.expect_code(125);
}

#[test]
fn receipts_reach_the_client_although_command_ends_with_them() {
    // Nothing is left to watch, and the run ends at once: not before its client was told.
    for _ in 0..5 {
        let running = Run::workload(["sleep"]).start();
        let root = running.fact("sleeper").pid;
        let told = end(&root.to_string(), 0);
        assert_eq!(told["receipts"][0]["result"], "ended", "{told}");
        running.finish().expect_code(128 + libc::SIGTERM);
    }
}

#[test]
fn leaks_are_ended_beside_requests_and_only_told_in_a_dry_run() {
    // `--on-leak kill --dry-run` touches nothing by itself; who asks still gets what was asked for.
    let running = Run::shell(SERVER).options(["--on-leak", "kill", "--dry-run"]).start();
    let server = running.fact("sleeper").pid;
    let told = end(&server.to_string(), 0);
    assert_eq!(told["receipts"][0]["result"], "ended", "{told}");
    assert!(!sys::exists(server), "it lives");
    let run = running.finish();
    run.expect_code(0);
    assert_eq!(on_request(&run, server)["dry_run"], false, "{run:#}");
}

#[test]
fn thousands_are_planned_and_ended() {
    let line = r#""$WORKLOAD" bomb forks=1500; "$WORKLOAD" keeps-server; exit 0"#;
    let running = Run::shell(line).patience(Duration::from_secs(120)).start();
    let server = running.patiently("sleeper", Duration::from_secs(60)).pid;
    let told = end(&invocation(server), 0);
    // More than one datagram holds.
    assert!(planned(&told).0.len() > 1000, "{}", told["plan"]["ends"]);
    assert!(told["receipts"].as_array().is_some_and(|all| all.len() > 1000));
    let run = running.finish();
    for told in run.facts("bombed") {
        // All have ended, and PID 1 takes its time to reap so many.
        proc::until(&format!("{} is gone", told.pid), || (!sys::exists(told.pid)).then_some(()));
    }
}
