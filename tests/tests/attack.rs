//! Other users of the host against the daemon: its two sockets and its pages, by clients that are
//! malformed, slow, greedy or too many. Nobody is ended, nothing foreign is told, and it goes on.
//!
//! `TRACER_TEST_CLIENTS`: so many of each kind.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;
use tracer_tests::daemon::Daemon;
use tracer_tests::scrape::{self, METRICS, get, value};
use tracer_tests::{Run, Running, binary, proc, sys};

/// Nobody has processes of these users.
const STRANGERS: [u32; 3] = [54_321, 54_322, 54_323];
/// What a process of an agent has among its arguments and in its environment.
const ARGUMENT: &str = "foreign-argument-5c1f";
const VARIABLE: &str = "foreign-variable-5c1f";
/// However many come, and of whatever kind, in KiB.
const MOST_GROWTH: u64 = 24 << 10;

fn clients() -> usize {
    let asked = std::env::var("TRACER_TEST_CLIENTS").ok();
    asked.map_or(300, |text| text.parse().expect("a number of clients"))
}

/// A daemon that strangers can reach, and an agent that has something to hide.
struct Scene {
    daemon: Daemon,
    victim: Running,
    leaking: Running,
    agent: String,
    /// Where the workload lies for everybody to run.
    programs: TempDir,
}

fn open_to_all(folder: &Path) {
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).expect("its mode");
}

impl Scene {
    fn start() -> Self {
        let mut daemon = Daemon::configured(METRICS);
        open_to_all(daemon.path("tracer.toml").parent().expect("a folder"));
        daemon.start();
        let programs = tempfile::tempdir().expect("a folder");
        open_to_all(programs.path());
        fs::copy(binary::workload(), programs.path().join("workload")).expect("a copy");
        let agent = format!("attack-{}", std::process::id());
        let started = |workload: &[&str]| {
            let run = Run::workload(workload.iter().copied()).arguments([ARGUMENT]).alone();
            run.env("TRACER_AGENT", agent.as_str()).env("TRACER_SESSION_ID", VARIABLE).start()
        };
        let victim = started(&["keeps-server", "listen=tcp"]);
        let leaking = started(&["never-waits"]);
        let scene = Self { victim, leaking, daemon, agent, programs };
        scene.expect_leak();
        scene
    }

    fn server(&self) -> sys::Pid {
        self.victim.fact("sleeper").pid
    }

    fn zombie(&self) -> sys::Pid {
        self.leaking.fact("zombie").pid
    }

    /// The zombie is a leak, of no call and kept by nobody.
    fn expect_leak(&self) {
        let pid = self.zombie();
        let leak = proc::until("the leak", || {
            let told = self.daemon.asked(&["leaks", "--kept"]);
            let leaks = told["leaks"].as_array().cloned().unwrap_or_default();
            leaks.into_iter().find(|leak| leak["finding"]["process"]["pid"] == pid)
        });
        assert_eq!(leak["stands"], true, "{leak:#}");
        assert_eq!(leak["kept_by"], Value::Null, "{leak:#}");
        assert_eq!(leak["finding"]["tool_call"]["id"], Value::Null, "{leak:#}");
    }

    /// Attackers of this kind, one of each user.
    fn attackers(&self, kind: &str, at: &str) -> Vec<Child> {
        let each = clients().div_ceil(STRANGERS.len());
        let attacker = |uid: u32| {
            let mut command = Command::new(self.programs.path().join("workload"));
            command.arg("attack").arg(format!("kind={kind}")).arg(format!("at={at}"));
            command.arg(format!("clients={each}")).arg(format!("agent={}", self.agent));
            command.arg(format!("victim={}", self.server())).arg(format!("leak={}", self.zombie()));
            command.current_dir("/").uid(uid).gid(uid);
            let heard = fs::File::create(self.heard(uid)).expect("a file");
            command.stdin(Stdio::null()).stdout(heard).stderr(Stdio::inherit());
            // SAFETY: one system call, between fork and exec.
            unsafe { command.pre_exec(sys::die_with_parent) };
            command.spawn().expect("an attacker")
        };
        STRANGERS.into_iter().map(attacker).collect()
    }

    fn heard(&self, uid: u32) -> std::path::PathBuf {
        self.programs.path().join(format!("heard-{uid}"))
    }

    /// Has them do what they want, and looks what came of it. `meanwhile` is done as long as they
    /// are at it. What they were told.
    fn attacked(&self, kind: &str, at: &str, meanwhile: impl Fn()) -> Vec<u8> {
        let pid = self.daemon.pid();
        let (memory, descriptors) = (resident(pid), descriptors(pid));
        let mut attackers = self.attackers(kind, at);
        let mut rounds = 0;
        while attackers.iter_mut().any(|one| one.try_wait().expect("wait").is_none()) {
            meanwhile();
            rounds += 1;
        }
        for attacker in &mut attackers {
            assert!(attacker.wait().expect("wait").success(), "an attacker did not get through");
        }
        assert!(rounds > 0);
        // Those who stayed are let go of.
        proc::until_within(3 * sys::patience(), "its descriptors are as before", || {
            (self::descriptors(pid) <= descriptors + 8).then_some(())
        });
        let grown = resident(pid).saturating_sub(memory);
        println!("{kind}: {} clients, {rounds} rounds, grown by {grown} KiB", clients());
        assert!(grown <= MOST_GROWTH, "grown by {grown} KiB from {memory}");
        let said = self.daemon.said();
        assert!(!said.contains("panicked"), "{said}");

        self.expect_leak();
        assert_eq!(proc::state(self.zombie()), Some('Z'));
        assert!(proc::is_alive(self.server()));
        let port = u16::try_from(self.victim.fact("sleeper").number("port")).expect("a port");
        assert!(TcpStream::connect(("127.0.0.1", port)).is_ok());

        let read = |uid| fs::read(self.heard(uid)).expect("what was heard");
        let heard: Vec<u8> = STRANGERS.into_iter().flat_map(read).collect();
        for secret in [ARGUMENT, VARIABLE] {
            let is_there = heard.windows(secret.len()).any(|part| part == secret.as_bytes());
            assert!(!is_there, "{secret} was told");
        }
        heard
    }
}

/// KiB.
fn resident(pid: sys::Pid) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("its status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse().ok());
    number.unwrap_or_else(|| panic!("{status}"))
}

fn descriptors(pid: sys::Pid) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).expect("its descriptors").count()
}

/// What root gets at the control socket.
fn asked(socket: &Path, ask: &str) -> String {
    let mut stream = UnixStream::connect(socket).expect("it listens");
    let line = format!("{{\"schema\":\"tracer.control/1\",\"ask\":{ask}}}\n");
    stream.write_all(line.as_bytes()).expect("it reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it answers");
    answer
}

#[test]
fn clients_of_the_control_socket_end_nobody_and_learn_nothing() {
    let scene = Scene::start();
    let socket = scene.daemon.path("tracer.sock");
    let is_known = |told: &Value| {
        let of_agent = |one: &&Value| one["agent"] == *scene.agent;
        told["processes"].as_array().is_some_and(|all| all.iter().filter(of_agent).count() >= 3)
    };
    // One that root may carry out: the first of this daemon.
    let plan = format!(r#"{{"kill":{{"plan":{{"target":{{"process":{}}}}}}}}}"#, scene.server());
    let planned = asked(&socket, &plan);
    assert!(planned.contains("\"ends\":1"), "{planned}");
    let heard = scene.attacked("control", &socket.display().to_string(), || {
        // Whoever may know is told all the same.
        let told = scene.daemon.asked(&["ps", "--limit", "50000"]);
        assert!(is_known(&told), "{told}");
    });
    let heard = String::from_utf8_lossy(&heard).into_owned();
    for part in ["\"ends\"", "\"begun\"", "\"receipts\":["] {
        assert!(!heard.contains(part), "{part} in {heard}");
    }
    // They were heard: answered by nothing of others, or refused.
    for part in ["\"tracer.ps/1\"", "\"total\":0", "\"malformed\"", "\"not_permitted\""] {
        assert!(heard.contains(part), "no {part} in {} bytes", heard.len());
    }
}

#[test]
fn announcements_of_strangers_change_nothing() {
    let scene = Scene::start();
    let address = scrape::address(&scene.daemon);
    let refused = || {
        let page = get(&address, "/metrics").1;
        value(&page, "tracer_announcements_refused_total").expect("a counter")
    };
    let before = refused();
    let socket = scene.daemon.path("announce.sock");
    let heard = scene.attacked("announce", &socket.display().to_string(), || {
        assert_eq!(get(&address, "/healthz").0, 200);
    });
    let heard = String::from_utf8_lossy(&heard).into_owned();
    // No finding of anybody, and nothing ended.
    for part in ["\"pid\"", "\"plan\"", "\"begun\"", "\"receipts\""] {
        assert!(!heard.contains(part), "{part} in {heard}");
    }
    #[expect(clippy::cast_precision_loss, reason = "some thousands")]
    let most = clients() as f64 / 2.0;
    proc::until("they are counted", || (refused() - before > most).then_some(()));
}

#[test]
fn clients_of_the_pages_change_nothing_and_learn_nothing() {
    let scene = Scene::start();
    let address = scrape::address(&scene.daemon);
    let config = fs::read(scene.daemon.path("tracer.toml")).expect("the configuration");
    let heard = scene.attacked("http", &address, || {
        // Who comes when all places are taken makes the oldest go: so may those who stay.
        let _told = scrape::asked(&address, "/readyz");
        drop(scene.daemon.asked(&["ps"]));
    });
    assert_eq!(fs::read(scene.daemon.path("tracer.toml")).expect("still there"), config);
    assert_eq!(get(&address, "/readyz").0, 200);
    assert!(get(&address, "/metrics").1.contains("tracer_build_info"));
    let heard = String::from_utf8_lossy(&heard).into_owned();
    assert!(!heard.contains("root:"), "a file was told: {heard}");
    assert!(heard.contains("HTTP/1.1 405 ") && heard.contains("HTTP/1.1 404 "));
}

/// First line of the answer to what is no plain `GET`.
fn answer(address: &str, request: &str) -> String {
    let mut stream = TcpStream::connect(address).expect("it listens");
    stream.set_read_timeout(Some(sys::patience())).expect("a timeout");
    stream.write_all(request.as_bytes()).expect("it reads");
    let mut answer = Vec::new();
    // It may let go of what is not read.
    let _read = stream.read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer).into_owned();
    answer.lines().next().unwrap_or_default().to_owned()
}

#[test]
fn pages_are_for_reading_alone() {
    let daemon = Daemon::started(METRICS);
    let address = scrape::address(&daemon);
    let methods = ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "PURGE", "get"];
    for path in ["/metrics", "/healthz", "/readyz", "/", "/-/quit", "/reload", "/kill?pid=1"] {
        for method in methods {
            let request = format!("{method} {path} HTTP/1.1\r\nhost: x\r\n\r\n");
            let answer = answer(&address, &request);
            assert!(["405", "400"].iter().any(|code| answer.contains(code)), "{request}{answer}");
        }
    }
    for path in ["/", "/-/quit", "/reload", "/kill?pid=1", "/metrics/x", "/../metrics"] {
        assert_eq!(get(&address, path).0, 404, "{path}");
    }
    let head = answer(&address, "HEAD /metrics HTTP/1.1\r\nhost: x\r\n\r\n");
    assert!(head.contains(" 200 "), "{head}");
}
