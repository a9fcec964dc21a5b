//! An agent of hostile names, arguments and environment that leaks under the daemon: whoever asks the
//! daemon, scrapes it, reads its log or opens its history is not fooled by them, and machines get
//! every byte.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;
use tracer_tests::daemon::Daemon;
use tracer_tests::escaped::{
    HOSTILE_NAME, all_unescaped, assert_harmless, hostile_arguments, unescaped,
};
use tracer_tests::prometheus::{self, promtool};
use tracer_tests::scrape::{self, METRICS, get};
use tracer_tests::{Run, Running, binary, history, proc, skip, sys};

/// A workload of a hostile name.
struct Program {
    folder: TempDir,
}

impl Program {
    fn make() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        fs::copy(binary::workload(), folder.path().join(OsStr::from_bytes(HOSTILE_NAME)))
            .expect("a copy of the workload");
        Self { folder }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join(OsStr::from_bytes(HOSTILE_NAME))
    }

    /// Runs a subcommand of it as an agent of this name.
    fn agent(&self, agent: &str, workload: &[OsString]) -> Running {
        let line = std::iter::once(self.path().into()).chain(workload.iter().cloned());
        Run::command::<OsString>(line).alone().env("TRACER_AGENT", agent).start()
    }
}

/// A daemon that logs all that it can in this form, an agent that has a survivor with every hostile
/// argument, and others with a zombie, a long argument, and a name that is none.
struct Scene {
    daemon: Daemon,
    program: Program,
    survivor: sys::Pid,
    args: Vec<Vec<u8>>,
    agent: String,
    _running: [Running; 3],
}

impl Scene {
    fn start(log: &str) -> Self {
        let log = format!("{METRICS}[log]\nlevel = \"trace\"\nformat = {log:?}\n");
        let daemon = Daemon::started(&log);
        let program = Program::make();
        let agent = format!("hostile-{}", std::process::id());
        let words = |words: &[&str]| words.iter().map(OsString::from).collect::<Vec<_>>();
        let survives = [words(&["keeps-server", "listen=tcp"]), hostile_arguments()].concat();
        let survives = program.agent(&agent, &survives);
        let survivor = survives.fact("sleeper").pid;
        survives.release("leaving");
        let long = [words(&["never-waits"]), words(&[&"'\"\u{1b}".repeat(1400)])].concat();
        let zombie = program.agent(&agent, &long);
        let name = "evil\"} 1\n# TYPE injected gauge\ninjected{agent=\"\u{1b}[2J";
        let nameless = program.agent(name, &words(&["never-waits"]));
        let mut args =
            vec![program.path().into_os_string(), "keeps-server".into(), "listen=tcp".into()];
        args.extend(hostile_arguments());
        let args = args.iter().map(|arg| arg.as_bytes().to_vec()).collect();
        daemon.finding(survivor, "survivor", "opened");
        daemon.finding(zombie.fact("zombie").pid, "zombie", "opened");
        let scene =
            Self { daemon, program, survivor, args, agent, _running: [survives, zombie, nameless] };
        proc::until("the history has them", || {
            let past = scene.daemon.asked(&["leaks", "--since", "1h"]);
            (past["leaks"].as_array().map_or(0, Vec::len) >= 2).then_some(())
        });
        scene.be_rude();
        scene
    }

    /// Says hostile things to both sockets, which the log may tell.
    fn be_rude(&self) {
        let rude = [
            r#"{"schema":"tracer.control/1","ask":{"\u001b[31mrude\n\u202e\u0085":{}}}"#,
            r#"{"schema":"\u001b[31mrude\n","ask":{"ps":{"\u001b[31mrude\n":1}}}"#,
            "{\"schema\":\"\u{1b}[31mrude\r\u{202e}\"}",
        ];
        for said in rude {
            let socket = UnixStream::connect(self.daemon.path("tracer.sock"));
            let mut stream = socket.expect("it listens");
            stream.write_all(format!("{said}\n").as_bytes()).expect("it reads");
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).expect("it answers");
            assert_harmless("a refusal", &answer);
        }
        let socket = UnixDatagram::unbound().expect("a socket");
        let announced = r#"{"v":1,"type":"\u001b[31mrude\n","\u001b":2}"#;
        for said in rude.into_iter().chain([announced]) {
            socket.send_to(said.as_bytes(), self.daemon.path("announce.sock")).expect("it listens");
        }
    }

    /// What a subcommand says to people.
    fn said(&self, args: &[&str]) -> String {
        let output = self.daemon.asking(args).output().expect("tracer");
        let what = format!("tracer {args:?}");
        assert_harmless(&what, &output.stdout);
        assert_harmless(&what, &output.stderr);
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    #[track_caller]
    fn assert_whole(&self, process: &Value) {
        assert_eq!(all_unescaped(&process["args"]), self.args);
        assert_eq!(unescaped(&process["name"]), HOSTILE_NAME);
        assert_eq!(unescaped(&process["exe"]), self.program.path().as_os_str().as_bytes());
    }
}

fn of(pid: sys::Pid) -> impl Fn(&&Value) -> bool {
    move |one| one["finding"]["process"]["pid"] == pid || one["process"]["pid"] == pid
}

#[test]
fn who_asks_the_daemon_gets_every_byte_or_what_harms_nobody() {
    let scene = Scene::start("text");
    for ask in [&["leaks"][..], &["leaks", "--since", "1h"], &["ps"], &["events"]] {
        let output = scene.daemon.asking(ask).arg("--json").output().expect("tracer");
        assert_harmless(&format!("{ask:?}"), &output.stdout);
    }
    for ask in [&["leaks"][..], &["leaks", "--since", "1h"]] {
        let told = scene.daemon.asked(ask);
        let leak = told["leaks"].as_array().expect("leaks").iter().find(of(scene.survivor));
        scene.assert_whole(&leak.expect("the survivor")["finding"]["process"]);
    }
    let told = scene.daemon.asked(&["ps", "--limit", "50000"]);
    let seen = told["processes"].as_array().expect("processes").iter().find(of(scene.survivor));
    scene.assert_whole(&seen.expect("the survivor")["process"]);
    scene.assert_whole(
        &scene.daemon.finding(scene.survivor, "survivor", "opened")["finding"]["process"],
    );
    assert_harmless("the sink", &fs::read(scene.daemon.path("events.jsonl")).expect("the sink"));

    let pid = scene.survivor.to_string();
    for ask in [&["leaks"][..], &["leaks", "--since", "1h"], &["ps"], &["tree"], &["blame", &pid]] {
        let said = scene.said(ask);
        assert!(said.contains("evil"), "{ask:?} does not tell of it: {said}");
    }
    for ask in [&["events"][..], &["status", &pid]] {
        assert!(!scene.said(ask).is_empty(), "{ask:?}");
    }
    // What somebody asks for is no query either.
    for agent in ["x' OR '1'='1", "'; DROP TABLE findings; --", "\u{1b}[31m"] {
        let told = scene.daemon.asked(&["leaks", "--since", "1h", "--agent", agent]);
        assert_eq!(told["total"], 0, "{agent}: {told}");
    }
}

#[test]
fn history_holds_texts_and_no_statements() {
    let scene = Scene::start("text");
    let database = scene.daemon.path("history.db");
    let path = database.display().to_string();
    let ask = |args: &[&str]| {
        let output = Command::new(binary::tracer()).args(args).args(["--database", &path]).output();
        let output = output.expect("tracer");
        assert!(output.status.success(), "{output:?}");
        assert_harmless(&format!("{args:?}"), &output.stdout);
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    for args in [&["leaks"][..], &["history"]] {
        assert!(ask(args).contains("evil"), "{args:?}: {}", ask(args));
        let told = ask(&[args, &["--json"]].concat());
        assert!(serde_json::from_str::<Value>(&told).is_ok(), "{told}");
    }
    let sound = history::rows(&database, "pragma integrity_check");
    assert_eq!(sound, serde_json::json!([["ok"]]));
    let tables = "select name from sqlite_master where type = 'table' and name not like 'sqlite_%' order by 1";
    let tables = history::rows(&database, tables);
    assert_eq!(tables, serde_json::json!([["findings"], ["invocations"], ["on_request"]]));
    let rows = format!(
        "select name, exe, args, json from findings where pid = {} and kind = 'survivor'",
        scene.survivor
    );
    let rows = history::rows(&database, &rows);
    let [name, exe, args, json] =
        [0, 1, 2, 3].map(|column| rows[0][column].as_str().expect("a text"));
    for text in [name, exe, args, json] {
        assert_harmless("a column", text.as_bytes());
    }
    let process = serde_json::json!({
        "name": name, "exe": exe, "args": serde_json::from_str::<Value>(args).expect("JSON"),
    });
    scene.assert_whole(&process);
    assert!(serde_json::from_str::<Value>(json).is_ok());
}

#[test]
fn metrics_hold_nothing_that_a_process_chose_but_plain_names() {
    let scene = Scene::start("text");
    let address = scrape::address(&scene.daemon);
    let series = format!(r#"tracer_findings_open{{kind="survivor",agent="{}""#, scene.agent);
    let page = proc::until("its series", || {
        Some(get(&address, "/metrics").1).filter(|page| page.contains(&series))
    });
    assert_harmless("/metrics", page.as_bytes());
    for hostile in ["injected", "evil", "DROP"] {
        assert!(!page.contains(hostile), "{hostile} in {page}");
    }
    let agents = page.split("agent=\"").skip(1).filter_map(|rest| rest.split('"').next());
    let is_plain = |name: &str| {
        name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'))
            || matches!(name, "(none)" | "(other)")
    };
    let wrong: Vec<_> = agents.filter(|name| !is_plain(name)).collect();
    assert!(wrong.is_empty(), "{wrong:?}");
    if let Err(reason) = prometheus::is_installed() {
        return skip(reason);
    }
    let file = scene.daemon.path("metrics.txt");
    fs::write(&file, page).expect("a file in the daemon's folder");
    let (is_content, said) = promtool(binary::workspace(), &["check", "metrics"], &file);
    assert!(is_content && said.is_empty(), "{said}");
}

#[test]
fn log_is_harmless_in_both_forms() {
    for form in ["text", "json"] {
        let mut scene = Scene::start(form);
        // What strangers said is told, so that there is something to be escaped.
        scene.daemon.until_said("rude");
        let said = scene.daemon.said();
        assert_harmless(form, said.as_bytes());
        let whole = said.rsplit_once('\n').map_or("", |(whole, _)| whole);
        for line in whole.lines() {
            if form == "json" {
                assert!(serde_json::from_str::<Value>(line).is_ok(), "{line:?}");
            } else if ["rude", "evil", "injected"].iter().any(|word| line.contains(word)) {
                // It begins with a time: no line that somebody else has begun.
                assert!(line.starts_with("20"), "{line:?}");
            }
        }
    }
}
