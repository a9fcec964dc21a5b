//! The outage that tracer is for: a host with 31,000 processes of 32,768 possible ones, 400 of them
//! zombies of function calls that timed out. Whose they are is known, and somebody is told while
//! there is still room.
//!
//! The table that fills is a cgroup's `pids.max`, as around a container: the host's own belongs to
//! everybody who works on it. By default it is a small one; with `TRACER_TEST_OUTAGE=31000` as many
//! processes are started as there were, and where the host's own table is nearly full by that, its
//! alert has to fire as well.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use tracer_tests::cgroup::Cgroup;
use tracer_tests::daemon::Daemon;
use tracer_tests::prometheus::{self, Prometheus, promtool};
use tracer_tests::scrape::{self, METRICS};
use tracer_tests::{Run, Running, proc, skip};

const RULES: &str = include_str!("../../deploy/prometheus/rules.yaml");

const AGENTS: usize = 4;
/// Of each agent.
const WORKERS: usize = 5;
/// Of each worker: 400 in all.
const ZOMBIES: usize = 20;
/// For thousands of processes.
const MINUTES: Duration = Duration::from_secs(100);

/// Processes of all agents, and the table that they have: as full as it was then.
fn sizes() -> (usize, u32) {
    let asked = std::env::var("TRACER_TEST_OUTAGE").ok();
    let processes = asked.map_or(946, |text| text.parse().expect("a number of processes"));
    let table = u32::try_from(processes * 32_768 / 31_000).expect("fewer than 2^32");
    (processes, table)
}

/// Of the host: tasks, and how many there may be.
fn host_table() -> (usize, usize) {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_else(|e| panic!("{path}: {e}"));
    let load = read("/proc/loadavg");
    let tasks = load.split('/').nth(1).and_then(|rest| rest.split(' ').next()?.parse().ok());
    let max = read("/proc/sys/kernel/pid_max").trim().parse().expect("kernel.pid_max");
    (tasks.unwrap_or_else(|| panic!("loadavg: {load}")), max)
}

fn agent_name(number: usize) -> String {
    format!("outage-{}-{number}", std::process::id())
}

/// An agent in this cgroup, whose workers stand.
fn agent(number: usize, cgroup: &Cgroup, sleepers: usize) -> Running {
    let amounts = [("workers", WORKERS), ("zombies", ZOMBIES), ("sleepers", sleepers)];
    let amounts = amounts.map(|(name, amount)| format!("{name}={amount}"));
    let run = Run::workload(["outage".to_owned()].into_iter().chain(amounts)).alone();
    let run = run.env("TRACER_AGENT", agent_name(number)).under(cgroup.enter());
    run.patience(MINUTES).start()
}

/// Who has to reap whom: zombie, its parent, and the agent that started that.
type Truth = BTreeMap<i64, (i64, String)>;

fn truth(agents: &[Running]) -> Truth {
    let mut truth = Truth::new();
    for (number, running) in agents.iter().enumerate() {
        for worker in 0..WORKERS {
            let told = running.patiently(&format!("worker-{worker}"), MINUTES);
            let parent = (i64::from(told.pid), agent_name(number));
            truth.extend(told.pids_of("zombies").into_iter().map(|pid| (pid, parent.clone())));
        }
    }
    assert_eq!(truth.len(), AGENTS * WORKERS * ZOMBIES);
    truth
}

/// What `tracer leaks` says of the agents of this test.
fn told(daemon: &Daemon) -> Vec<Value> {
    let leaks = daemon.asked(&["leaks", "--standing", "--limit", "50000"]);
    let leaks = leaks["leaks"].as_array().expect("leaks").iter().map(|leak| &leak["finding"]);
    let own = agent_name(0);
    let own = own.trim_end_matches('0');
    let is_own = |finding: &&Value| {
        finding["agent"]["name"].as_str().is_some_and(|name| name.starts_with(own))
    };
    leaks.filter(is_own).cloned().collect()
}

/// On whom it blames what stands.
fn blamed(findings: &[Value]) -> Truth {
    let number = |of: &Value| of["pid"].as_i64().expect("a pid");
    let blamed = findings.iter().map(|finding| {
        assert_eq!(finding["kind"], "zombie", "{finding:#}");
        assert_eq!(finding["cause"]["code"], "parent_never_waits", "{finding:#}");
        let lineage = finding["lineage"].as_array().expect("a lineage");
        assert_eq!(lineage.last().map(number), Some(number(&finding["parent"])), "{finding:#}");
        let agent = finding["agent"]["name"].as_str().expect("an agent").to_owned();
        (number(&finding["process"]), (number(&finding["parent"]), agent))
    });
    blamed.collect()
}

#[test]
fn zombies_are_blamed_and_alerts_fire_while_there_is_room() {
    if let Err(reason) = prometheus::is_installed() {
        return skip(reason);
    }
    let (processes, table) = sizes();
    let (tasks, pid_max) = host_table();
    if tasks + processes + 500 > pid_max {
        return skip(&format!("no room for {processes} processes beside {tasks} of {pid_max}"));
    }
    let cgroup = match Cgroup::with_threads(table) {
        Ok(cgroup) => cgroup,
        Err(reason) => return skip(&reason),
    };
    let daemon = Daemon::started(METRICS);
    let rules = daemon.path("rules.yaml");
    fs::write(&rules, prometheus::hurried(RULES)).expect("a file in the daemon's folder");
    let prometheus = Prometheus::scraping(&scrape::address(&daemon), &rules);
    // Growth is seen by who has looked before.
    prometheus.until("tracer_zombie_processes", |_| true);

    let sleepers = (processes - AGENTS * (1 + WORKERS * (1 + ZOMBIES))) / (AGENTS * WORKERS);
    let agents: Vec<_> = (0..AGENTS).map(|number| agent(number, &cgroup, sleepers)).collect();
    let truth = truth(&agents);
    let room = u64::from(table) - cgroup.threads();
    let found = proc::until_within(MINUTES, "all zombies", || {
        Some(told(&daemon)).filter(|found| found.len() == truth.len())
    });
    assert_eq!(blamed(&found), truth);

    for number in 0..AGENTS {
        let name = agent_name(number);
        let labels = [("agent", name.as_str())];
        let share = prometheus.until_fires("TracerCgroupPidsNearlyExhausted", &labels);
        assert!((0.9..1.0).contains(&share), "{share}");
    }
    let zombies = prometheus.until_fires("TracerZombiesGrow", &[]);
    assert!(zombies > 20.0, "{zombies}");
    if tasks + processes > pid_max / 100 * 92 {
        let share = prometheus.until_fires("TracerPidsNearlyExhausted", &[]);
        assert!((0.9..1.0).contains(&share), "{share}");
    }
    // Nobody had failed to fork by then, and whoever comes can.
    assert_eq!(cgroup.refused_forks(), 0);
    assert!(room > 0);
    let [shell, option, line, name] = cgroup.enter();
    let mut one_more = Command::new(shell);
    one_more.args([option, line, name]).args(["sh", "-c", "true & wait $!"]);
    assert!(one_more.status().expect("a shell").success());

    agents.iter().for_each(|running| running.release("standing"));
    agents.into_iter().for_each(|running| drop(running.finish()));
    proc::until("nothing stands", || told(&daemon).is_empty().then_some(()));
    let ours = format!(
        "sum(tracer_findings_open{{agent=~\"{}.*\"}})",
        agent_name(0).trim_end_matches('0')
    );
    prometheus.until(&ours, |standing| standing == 0.0);
}

#[test]
fn hurried_rules_are_rules_and_differ_in_durations_alone() {
    if let Err(reason) = prometheus::is_installed() {
        return skip(reason);
    }
    let hurried = prometheus::hurried(RULES);
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("rules.yaml"), &hurried).expect("a file");
    let nothing = std::path::Path::new("/dev/null");
    let (is_content, said) = promtool(folder.path(), &["check", "rules", "rules.yaml"], nothing);
    assert!(is_content, "{said}");
    let differing: Vec<_> =
        RULES.lines().zip(hurried.lines()).filter(|(before, after)| before != after).collect();
    assert_eq!(RULES.lines().count(), hurried.lines().count());
    assert!(differing.len() > 10, "{differing:?}");
    let is_duration = |line: &str| line.trim_start().starts_with("for: ") || line.contains('[');
    assert!(differing.iter().all(|(before, _)| is_duration(before)), "{differing:?}");
    assert!(hurried.contains("deriv(tracer_zombie_processes[30s])"), "{hurried}");
}
