//! A daemon that asks an API server what pods are called, and takes their containers for agents.

use std::fs;
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use tracer_tests::api_server::{ApiServer, pod};
use tracer_tests::cgroup::{self, Cgroup};
use tracer_tests::daemon::Daemon;
use tracer_tests::run::Run;
use tracer_tests::{binary, proc, scrape, skip, sys};

const NODE: &str = "node-1";
const LABELS: [(&str, &str); 2] =
    [("app.kubernetes.io/name", "reviewer"), ("agents.example/agent", "review-2")];
/// The rule that makes agents of such pods.
const RULE: &str =
    "[[agent]]\nname = \"reviewer\"\npod_labels = { \"agents.example/agent\" = \"review-*\" }\n";

/// A pod with one container, as its cgroup says.
struct Container {
    uid: String,
    id: String,
    cgroup: Cgroup,
}

impl Container {
    /// `None`, and the test is skipped, where there are no cgroups to be had.
    fn make() -> Option<Self> {
        let number = u64::from(std::process::id()) << 16 | u64::from(fastrand::u16(..));
        let uid = format!("7d7d1f3b-0a6f-4c3f-9a6b-{number:012x}");
        let id = format!("{:064x}", fastrand::u64(..));
        match Cgroup::of_pod(&uid, &id) {
            Ok(cgroup) => Some(Self { uid, id, cgroup }),
            Err(why) => {
                skip(&why);
                None
            }
        }
    }

    fn metadata(&self) -> Value {
        pod("reviewer-7d4b", &self.uid, &LABELS)
    }

    /// A workload that enters it before it executes anything.
    fn inside(&self, workload: &[&str]) -> Run {
        Run::workload(workload.iter().copied()).alone().under(self.cgroup.enter())
    }

    /// The same, an agent of this name from then on.
    fn agent(&self, name: &str, workload: &[&str]) -> Run {
        let named = format!("TRACER_AGENT={name}");
        let within = self.cgroup.enter().into_iter().chain(["env".to_owned(), named]);
        Run::workload(workload.iter().copied()).alone().under(within)
    }

    /// What findings say of it.
    fn told(&self) -> Value {
        json!({
            "id": self.id, "runtime": "containerd", "pod_uid": self.uid,
            "pod": {
                "name": "reviewer-7d4b", "namespace": "agents",
                "labels": {"app.kubernetes.io/name": "reviewer"},
            },
        })
    }
}

/// What the daemon is configured with to ask this server.
fn asking(server: &ApiServer) -> String {
    format!("[kubernetes]\napi_server = {:?}\nnode = \"{NODE}\"\n", server.url())
}

/// A daemon that knows the pods of this server.
fn daemon(server: &ApiServer, more: &str) -> Daemon {
    let mut daemon = Daemon::started(&(asking(server) + more));
    daemon.until_said("watches the pods of this node");
    daemon
}

/// What a subcommand of tracer says to `--json`.
fn asked(daemon: &Daemon, args: &[&str]) -> Value {
    let mut command = Command::new(binary::tracer());
    command.args(args).arg("--json").arg("--socket").arg(daemon.path("tracer.sock"));
    let output = command.stdin(Stdio::null()).output().expect("tracer");
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// How often the daemon has told that a run of this agent began.
fn opened(daemon: &Daemon, agent: &str) -> Vec<Value> {
    let mut events = daemon.events();
    events.retain(|event| {
        event["type"] == "invocation_opened" && event["invocation"]["agent"] == agent
    });
    events
}

#[test]
fn whatever_is_told_of_a_process_names_its_pod() {
    let Some(container) = Container::make() else { return };
    let server = ApiServer::of_node(NODE);
    server.apply(container.metadata());
    let daemon = daemon(&server, "");
    let name = format!("pods-{}", std::process::id());
    let running = container.agent(&name, &["never-waits"]).start();
    let zombie = running.standing_zombie();
    let finding = daemon.finding(zombie, "zombie", "opened");
    assert_eq!(finding["finding"]["process"]["container"], container.told(), "{finding:#}");
    let opened = opened(&daemon, &name);
    assert_eq!(opened[0]["invocation"]["root"]["container"], container.told(), "{opened:#?}");

    let listed = asked(&daemon, &["ps"]);
    let processes = listed["processes"].as_array().expect("a list").iter();
    let mut own = processes.filter(|one| one["agent"] == *name).peekable();
    assert!(own.peek().is_some(), "{listed:#}");
    for process in own {
        // A dead one is in no v1 cgroup any more, but in that of v2.
        assert_eq!(process["process"]["container"], container.told(), "{process:#}");
    }
    for args in [&["leaks"][..], &["leaks", "--since", "1h"]] {
        let told = asked(&daemon, args);
        let mut leaks = told["leaks"].as_array().expect("a list").iter();
        let of_it = |leak: &&Value| leak["finding"]["process"]["pid"] == zombie;
        let leak = leaks.find(of_it).unwrap_or_else(|| panic!("{args:?}: {told:#}"));
        assert_eq!(leak["finding"]["process"]["container"], container.told(), "{args:?}");
    }
    let blamed = asked(&daemon, &["blame", &zombie.to_string()]);
    let blamed = &blamed["processes"][0];
    assert_eq!(blamed["process"]["container"], container.told(), "{blamed:#}");
    assert_eq!(blamed["found"][0]["process"]["container"], container.told(), "{blamed:#}");
    running.stand_no_more();
}

#[test]
fn metrics_tell_how_many_pods_are_known_and_none_by_name() {
    let Some(container) = Container::make() else { return };
    let server = ApiServer::of_node(NODE);
    server.apply(container.metadata());
    let daemon = daemon(&server, scrape::METRICS);
    let address = scrape::address(&daemon);
    let page = || scrape::get(&address, "/metrics").1;
    let is_up = |page: &str| scrape::value(page, "tracer_pod_watch_up");
    let told =
        proc::until("figures of pods", || Some(page()).filter(|page| is_up(page) == Some(1.0)));
    assert_eq!(scrape::value(&told, "tracer_pods_known"), Some(1.0), "{told}");
    assert!(!told.contains("reviewer-7d4b"), "{told}");
    server.refuse(Some(403));
    server.cut();
    proc::until("a watch that is not up", || (is_up(&page()) == Some(0.0)).then_some(()));
}

#[test]
fn first_process_of_a_container_is_the_agent_of_its_pod() {
    let Some(container) = Container::make() else { return };
    let server = ApiServer::of_node(NODE);
    server.apply(container.metadata());
    let daemon = daemon(&server, RULE);
    let running = container.inside(&["never-waits", "deep=yes"]).start();
    let zombie = running.standing_zombie();
    let finding = daemon.finding(zombie, "zombie", "opened");
    assert_eq!(finding["finding"]["agent"]["name"], "reviewer", "{finding:#}");
    assert_eq!(finding["finding"]["agent"]["pid"], running.fact("root").pid, "{finding:#}");
    assert_eq!(finding["finding"]["process"]["container"], container.told());
    let opened = opened(&daemon, "reviewer");
    assert_eq!(opened.len(), 1, "{opened:#?}");
    assert_eq!(opened[0]["invocation"]["root"]["pid"], running.fact("root").pid);
    running.stand_no_more();
}

#[test]
fn container_whose_pod_becomes_known_later_is_looked_at_again() {
    let Some(container) = Container::make() else { return };
    let server = ApiServer::of_node(NODE);
    let daemon = daemon(&server, RULE);
    let running = container.inside(&["never-waits", "deep=yes"]).start();
    let zombie = running.standing_zombie();
    // First without the label that the rule asks for.
    server.apply(pod("reviewer-7d4b", &container.uid, &[]));
    server.apply(container.metadata());
    let finding = daemon.finding(zombie, "zombie", "opened");
    assert_eq!(finding["finding"]["agent"]["name"], "reviewer", "{finding:#}");
    assert_eq!(
        opened(&daemon, "reviewer")[0]["invocation"]["root"]["pid"],
        running.fact("root").pid
    );
    running.stand_no_more();
}

#[test]
fn containers_that_ran_before_the_daemon_are_agents_too() {
    let Some(container) = Container::make() else { return };
    let server = ApiServer::of_node(NODE);
    server.apply(container.metadata());
    let running = container.inside(&["never-waits", "deep=yes"]).start();
    let zombie = running.standing_zombie();
    let mut daemon = daemon(&server, RULE);
    let finding = daemon.finding(zombie, "zombie", "opened");
    assert_eq!(finding["finding"]["agent"]["name"], "reviewer", "{finding:#}");
    // The next daemon has it from the kernel's table, and its name from the pod again.
    daemon.kill();
    let before = daemon.events().len();
    daemon.start();
    daemon.until_said("watches the pods of this node");
    proc::until("the zombie is the reviewer's", || {
        let leaks = asked(&daemon, &["leaks"]);
        let mut leaks = leaks["leaks"].as_array().expect("a list").iter();
        let leak = leaks.find(|leak| leak["finding"]["process"]["pid"] == zombie)?;
        (leak["finding"]["agent"]["name"] == "reviewer").then_some(())
    });
    let news = daemon.events().split_off(before);
    let runs = news.iter().filter(|event| event["type"] == "invocation_opened");
    assert_eq!(runs.count(), 1, "{news:#?}");
    running.stand_no_more();
}

#[test]
fn what_is_put_into_a_container_later_is_no_agent_for_that() {
    let Some(container) = Container::make() else { return };
    let server = ApiServer::of_node(NODE);
    server.apply(container.metadata());
    let daemon = daemon(&server, RULE);
    let running = container.inside(&["never-waits"]).start();
    running.standing_zombie();
    daemon.event("the container is an agent", |event| event["invocation"]["agent"] == "reviewer");
    // As a probe or `kubectl exec` is.
    let probe = container.inside(&["never-waits"]).start();
    let nobodys = probe.standing_zombie();
    // What comes behind it is told.
    let witness =
        Run::workload(["never-waits"]).alone().env("TRACER_AGENT", "pods-witness").start();
    daemon.finding(witness.standing_zombie(), "zombie", "opened");
    assert_eq!(opened(&daemon, "reviewer").len(), 1);
    let of_probe = |event: &Value| event["finding"]["process"]["pid"] == nobodys;
    assert!(!daemon.events().iter().any(of_probe));
    for one in [probe, witness, running] {
        one.stand_no_more();
    }
}

#[test]
fn pod_of_another_label_is_no_agent_and_named_all_the_same() {
    let Some(container) = Container::make() else { return };
    let server = ApiServer::of_node(NODE);
    server.apply(pod("web", &container.uid, &[("agents.example/agent", "preview-1")]));
    let daemon = daemon(&server, RULE);
    let running = container.agent("pods-other", &["never-waits"]).start();
    let finding = daemon.finding(running.standing_zombie(), "zombie", "opened");
    assert_eq!(finding["finding"]["agent"]["name"], "pods-other");
    assert_eq!(finding["finding"]["process"]["container"]["pod"]["name"], "web");
    assert!(opened(&daemon, "reviewer").is_empty());
    running.stand_no_more();
}

#[test]
fn without_an_api_server_pods_have_no_names_and_all_else_is_as_before() {
    let Some(container) = Container::make() else { return };
    let server = ApiServer::of_node(NODE);
    server.refuse(Some(403));
    let mut daemon = Daemon::started(&asking(&server));
    daemon.until_said("failed to watch the pods of this node");
    assert!(daemon.said().contains("pods is forbidden"), "{}", daemon.said());
    let running = container.agent("pods-without", &["never-waits"]).start();
    let finding = daemon.finding(running.standing_zombie(), "zombie", "opened");
    let found = &finding["finding"]["process"]["container"];
    assert_eq!(
        *found,
        json!({"id": container.id, "runtime": "containerd", "pod_uid": container.uid, "pod": null})
    );
    running.stand_no_more();
}

#[test]
fn agents_are_known_by_their_cgroups() {
    let cgroup = match Cgroup::unified() {
        Ok(cgroup) => cgroup,
        Err(why) => return skip(&why),
    };
    let mount = cgroup::unified_mount().expect("it was there");
    let path = cgroup.path().strip_prefix(mount).expect("it is below");
    let rule = format!("[[agent]]\nname = \"placed\"\ncgroups = [\"/{}\"]\n", path.display());
    let workload = || Run::workload(["never-waits", "deep=yes"]).alone().under(cgroup.enter());
    // One that runs before the daemon, and one that begins.
    let early = workload().start();
    let early_zombie = early.standing_zombie();
    let daemon = Daemon::started(&rule);
    let running = workload().start();
    let zombie = running.standing_zombie();
    for (zombie, running) in [(early_zombie, &early), (zombie, &running)] {
        let finding = daemon.finding(zombie, "zombie", "opened");
        assert_eq!(finding["finding"]["agent"]["name"], "placed", "{finding:#}");
        assert_eq!(finding["finding"]["agent"]["pid"], running.fact("root").pid, "{finding:#}");
    }
    // A shell that moves itself there, and executes nothing: whatever it forks is its.
    let shell = Run::shell(&format!(
        "echo $$ > {}/cgroup.procs; sleep 300 & wait",
        cgroup.path().display()
    ));
    let shell = shell.alone().in_own_group().start();
    let placed = proc::until("three agents", || {
        let opened = opened(&daemon, "placed");
        (opened.len() == 3).then(|| opened[2].clone())
    });
    let root = placed["invocation"]["root"]["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok());
    let root = root.expect("a pid");
    let sleeps = proc::children(root);
    assert_eq!(sleeps.len(), 1, "{placed:#}");
    for pid in [sleeps[0], root] {
        sys::kill(pid, libc::SIGKILL);
    }
    drop(shell.finish());
    for one in [early, running] {
        one.stand_no_more();
    }
}

#[test]
fn run_says_that_it_asks_for_no_pods() {
    let folder = tempfile::tempdir().unwrap();
    let rules = folder.path().join("rules.toml");
    fs::write(&rules, RULE).unwrap();
    let run = Run::command(["true"]).options(["--rules".into(), rules.into_os_string()]);
    let finished = run.finish();
    finished.expect_code(0);
    let said = finished.stderr_text();
    assert!(said.contains("reviewer") && said.contains("pod_labels"), "{said}");
}
