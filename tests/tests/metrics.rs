//! What the daemon tells of agents, the host and itself: read by hand, and by a real Prometheus.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::net::TcpStream;

use serde_json::Value;
use tracer_tests::daemon::Daemon;
use tracer_tests::prometheus::{self, Prometheus, promtool};
use tracer_tests::scrape::{self, METRICS, get, value};
use tracer_tests::soak::Load;
use tracer_tests::{Run, binary, proc, skip, sys};

/// A workload that is an agent of this name.
fn agent(name: &str, args: &[&str]) -> Run {
    Run::workload(args.iter().copied()).alone().env("TRACER_AGENT", name)
}

/// Waits until a series of a daemon's metrics is such.
fn until(address: &str, series: &str, is_such: impl Fn(f64) -> bool) -> f64 {
    proc::until(series, || value(&get(address, "/metrics").1, series).filter(|v| is_such(*v)))
}

const DOCUMENTATION: &str = include_str!("../../docs/metrics.md");
const RULES: &str = include_str!("../../deploy/prometheus/rules.yaml");
const TESTS_OF_RULES: &str = include_str!("../../deploy/prometheus/rules_test.yaml");
const DASHBOARD: &str = include_str!("../../deploy/grafana/tracer.json");

/// Names of the metrics that are documented.
fn documented() -> BTreeSet<String> {
    let names = DOCUMENTATION.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`'));
    let names = names.map(|(name, _)| name.to_owned());
    names.filter(|name| name.starts_with("tracer_") || name.starts_with("process_")).collect()
}

/// Names of families, as their samples are called.
fn told(page: &str) -> BTreeSet<String> {
    let types = page.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    types.filter_map(|line| Some(line.split_once(' ')?.0.to_owned())).collect()
}

/// Names of metrics in a query.
fn names_in(query: &str) -> BTreeSet<String> {
    let words = query.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let names = words.filter(|word| word.starts_with("tracer_") || word.starts_with("process_"));
    // Those of a histogram's samples.
    let family = |name: &str| {
        let family = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
        family.unwrap_or(name).to_owned()
    };
    names.map(family).collect()
}

/// The expressions of a dashboard's queries.
fn expressions(of: &Value) -> Vec<String> {
    match of {
        Value::Object(fields) => {
            let own = fields.get("expr").and_then(Value::as_str).map(str::to_owned);
            own.into_iter().chain(fields.values().flat_map(expressions)).collect()
        }
        Value::Array(items) => items.iter().flat_map(expressions).collect(),
        _ => Vec::new(),
    }
}

#[test]
fn prometheus_scrapes_what_agents_leave_and_evaluates_the_rules() {
    if let Err(reason) = prometheus::is_installed() {
        return skip(reason);
    }
    let daemon = Daemon::started(METRICS);
    let address = scrape::address(&daemon);
    let rules = binary::workspace().join("deploy/prometheus/rules.yaml");
    let prometheus = Prometheus::scraping(&address, &rules);
    let running = agent("metrics-zombie", &["never-waits"]).start();
    running.held("standing");
    let leaving = agent("metrics-survivor", &["double-fork"]).start();
    let survivor = leaving.fact("daemon").pid;
    let left = leaving.finish();

    let zombies = r#"sum(tracer_findings_open{kind="zombie",agent="metrics-zombie"})"#;
    prometheus.until(zombies, |zombies| zombies >= 1.0);
    prometheus.until("tracer_zombie_processes", |zombies| zombies >= 1.0);
    prometheus.until("tracer_oldest_zombie_age_seconds", |age| age > 0.0);
    let survivors = r#"tracer_findings_open{kind="survivor",agent="metrics-survivor"}"#;
    prometheus.until(survivors, |survivors| survivors == 1.0);
    let memory = r#"tracer_leaked_memory_bytes{agent="metrics-survivor"}"#;
    prometheus.until(memory, |bytes| bytes > 4096.0);
    prometheus.until(r#"tracer_invocations_open{agent="metrics-zombie"}"#, |runs| runs == 1.0);
    prometheus.until("tracer_host_pids_used", |used| used > 1.0);
    prometheus.until(r#"tracer_self_probes_total{result="seen"}"#, |seen| seen >= 1.0);
    assert_eq!(prometheus.value(r#"up{job="tracer"}"#), Some(1.0));
    let targets = prometheus.api("/api/v1/targets");
    assert_eq!(targets["activeTargets"][0]["lastError"], "", "{targets:#}");

    running.stand_no_more();
    sys::kill(survivor, libc::SIGKILL);
    drop(left);
    prometheus.until(zombies, |zombies| zombies == 0.0);
    prometheus.until(survivors, |survivors| survivors == 0.0);
    let found = r#"tracer_findings_total{kind="survivor",agent="metrics-survivor"}"#;
    assert_eq!(prometheus.value(found), Some(1.0));

    let groups = prometheus.api("/api/v1/rules");
    let groups = groups["groups"].as_array().expect("groups");
    let rules: Vec<_> =
        groups.iter().filter_map(|group| group["rules"].as_array()).flatten().collect();
    assert!(rules.len() > 10, "{groups:#?}");
    assert!(rules.iter().all(|rule| rule["health"] == "ok"), "{rules:#?}");
}

#[test]
fn what_is_told_is_documented_and_the_other_way_round() {
    let daemon = Daemon::started(METRICS);
    let address = scrape::address(&daemon);
    until(&address, "tracer_host_pids_used", |used| used > 0.0);
    until(&address, "tracer_history_on_disk", |on_disk| on_disk == 1.0);
    let told = told(&get(&address, "/metrics").1);
    let documented = documented();
    let undocumented: Vec<_> = told.difference(&documented).collect();
    assert!(undocumented.is_empty(), "told and not documented: {undocumented:?}");
    let missing = documented.difference(&told);
    // Where nothing grows that is not told, and where no pods are asked for they are not.
    let may_miss = |name: &str| {
        name == "tracer_host_pids_exhaustion_seconds" || name.starts_with("tracer_pod")
    };
    let missing: Vec<_> = missing.filter(|name| !may_miss(name)).collect();
    assert!(missing.is_empty(), "documented and not told: {missing:?}");
}

#[test]
fn daemon_that_traces_is_ready_and_sees_itself() {
    let daemon = Daemon::started(METRICS);
    let address = scrape::address(&daemon);
    assert_eq!(get(&address, "/readyz"), (200, "ready\n".to_owned()));
    until(&address, r#"tracer_self_probes_total{result="seen"}"#, |seen| seen >= 1.0);
    assert_eq!(get(&address, "/healthz"), (200, "healthy\n".to_owned()));
    let page = get(&address, "/metrics").1;
    for missed in ["not_told", "not_noted"] {
        let series = format!("tracer_self_probes_total{{result=\"{missed}\"}}");
        assert_eq!(value(&page, &series), Some(0.0));
    }
    // A probe is a process of its own, and reaped at once.
    let children = proc::children(daemon.pid());
    assert!(children.len() <= 1, "{children:?}");
}

#[test]
fn daemon_without_room_for_all_that_is_there_is_not_ready() {
    const SLEEPING: u32 = 300;
    // Threads of the kernel have no arguments, and nobody follows them.
    let arguments = |entry: fs::DirEntry| fs::read(entry.path().join("cmdline")).ok();
    let all = fs::read_dir("/proc").expect("/proc").flatten().filter_map(arguments);
    let others = all.filter(|arguments| !arguments.is_empty()).count();
    let others = u32::try_from(others).expect("a number of processes");
    let mut sleeping = Load::start(binary::load(), &["children", &SLEEPING.to_string()], None);
    sleeping.go();
    let _all_are_there = sleeping.line();
    // One that is known, of whom what it starts then will not be.
    let folder = tempfile::tempdir().expect("a folder");
    let go = folder.path().join("go");
    let script = r#"while [ ! -e "$GO" ]; do sleep 0.1; done; "$WORKLOAD" never-waits & wait"#;
    let known = Run::shell(script).alone().env("TRACER_AGENT", "metrics-known");
    let known = known.env("GO", go.display().to_string()).start();
    let mut daemon = Daemon::configured("").with_room_for(others + SLEEPING / 3, METRICS);
    daemon.start();
    let address = scrape::address(&daemon);
    let (status, said) = get(&address, "/readyz");
    assert_eq!(status, 503);
    assert!(said.contains("not followed: raise kernel.max_processes"), "{said}");
    let unknown = |page: &str| value(page, "tracer_processes_unknown").expect("it is told");
    assert!(unknown(&get(&address, "/metrics").1) > f64::from(SLEEPING) / 3.0);
    // It is as little ready when it goes on with that table.
    daemon.kill();
    daemon.start();
    let address = scrape::address(&daemon);
    assert_eq!(get(&address, "/readyz").0, 503);
    // Nor does it know of an agent that begins now.
    let running = agent("metrics-refused", &["never-waits"]).start();
    running.held("standing");
    fs::write(&go, "").expect("a file");
    known.held("standing");
    drop(sleeping);
    let ready = || get(&address, "/readyz").0 == 200;
    proc::until_within(3 * sys::patience(), "it to be ready", || ready().then_some(()));
    assert_eq!(unknown(&get(&address, "/metrics").1), 0.0);
    daemon.finding(running.fact("zombie").pid, "zombie", "opened");
    let opened = daemon.finding(known.fact("zombie").pid, "zombie", "opened");
    let name = binary::workload().file_name().expect("a name").to_string_lossy();
    assert_eq!(opened["finding"]["parent"]["name"], *name, "what it executes, not its forker");
    running.stand_no_more();
    known.stand_no_more();
}

#[test]
fn daemon_whose_hook_is_gone_is_unhealthy() {
    let mut daemon = Daemon::started(METRICS);
    // What another has pinned hangs on nothing but its pins.
    daemon.kill();
    daemon.start();
    let address = scrape::address(&daemon);
    let seen = r#"tracer_self_probes_total{result="seen"}"#;
    until(&address, seen, |seen| seen >= 1.0);
    let link = daemon.pinned().join("tracer_exec-link");
    fs::remove_file(&link).unwrap_or_else(|error| panic!("{}: {error}", link.display()));
    // Two probes, 15 seconds apart, with 5 seconds' patience each.
    let unhealthy = proc::until_within(3 * sys::patience(), "it to find itself unhealthy", || {
        Some(get(&address, "/healthz")).filter(|(status, _)| *status != 200)
    });
    assert_eq!(unhealthy.0, 503);
    assert!(unhealthy.1.contains("probes of itself were not seen"), "{}", unhealthy.1);
    assert_eq!(value(&get(&address, "/metrics").1, "tracer_healthy"), Some(0.0));
    // It is ready all the same: that it once saw everything is no news.
    assert_eq!(get(&address, "/readyz").0, 200);
}

#[test]
fn zombies_of_the_host_are_counted_whoever_s_they_are() {
    let other = Run::workload(["never-waits"]).alone().start();
    other.held("standing");
    let daemon = Daemon::started(METRICS);
    let address = scrape::address(&daemon);
    until(&address, "tracer_host_zombie_processes", |zombies| zombies >= 1.0);
    other.stand_no_more();
}

#[test]
fn thousands_who_ask_nothing_keep_nobody_from_asking() {
    let daemon = Daemon::started(METRICS);
    let address = scrape::address(&daemon);
    let mut idle = Vec::new();
    for number in 0..2_000 {
        let mut stream = TcpStream::connect(&address).expect("it listens");
        let _sent = stream.write_all(&b"GET /metrics HTTP/1.1\r\n"[..number % 23]);
        idle.push(stream);
        if idle.len() > 300 {
            idle.clear();
        }
    }
    assert_eq!(get(&address, "/readyz").0, 200);
    let used = until(&address, "process_open_fds", |used| used > 0.0);
    assert!(used < 500.0, "{used} descriptors");
}

/// They are sampled every five seconds.
#[test]
fn who_asks_is_counted_and_who_is_traced_for() {
    /// Nobody has processes of this user.
    const USER: u32 = 54_323;
    let daemon = Daemon::started_for_all(METRICS);
    let address = scrape::address(&daemon);
    let socket = daemon.path("tracer.sock").into_os_string();
    let run = Run::workload(["never-waits"]).by_user(USER).options(["--socket".into(), socket]);
    let running = run.start();
    running.held("standing");
    until(&address, "tracer_traced_commands", |commands| commands == 1.0);
    running.stand_no_more();
    until(&address, "tracer_traced_commands", |commands| commands == 0.0);
    let of = |result: &str| format!("tracer_control_requests_total{{result=\"{result}\"}}");
    let before = until(&address, &of("answered"), |answered| answered >= 1.0);
    let _told = daemon.asked(&["ps"]);
    until(&address, &of("answered"), |answered| answered > before);
    assert_eq!(until(&address, &of("refused"), |_| true), 0.0);
}

#[test]
fn promtool_is_content_with_what_is_told() {
    if let Err(reason) = prometheus::is_installed() {
        return skip(reason);
    }
    let daemon = Daemon::started(METRICS);
    let address = scrape::address(&daemon);
    until(&address, "tracer_host_pids_used", |used| used > 0.0);
    let page = daemon.path("metrics.txt");
    fs::write(&page, get(&address, "/metrics").1).expect("a file in the daemon's folder");
    let (is_content, said) = promtool(binary::workspace(), &["check", "metrics"], &page);
    assert!(is_content && said.is_empty(), "{said}");
}

#[test]
fn rules_do_what_their_tests_say() {
    if let Err(reason) = prometheus::is_installed() {
        return skip(reason);
    }
    let folder = binary::workspace().join("deploy/prometheus");
    let nothing = std::path::Path::new("/dev/null");
    for args in [&["check", "rules", "rules.yaml"], &["test", "rules", "rules_test.yaml"]] {
        let (is_content, said) = promtool(&folder, args, nothing);
        assert!(is_content, "{said}");
    }
}

#[test]
fn every_rule_has_a_test() {
    let alerts = RULES.lines().filter_map(|line| line.trim().strip_prefix("- alert: "));
    let alerts: Vec<_> = alerts.collect();
    assert!(alerts.len() > 10, "{alerts:?}");
    for alert in alerts {
        assert!(TESTS_OF_RULES.contains(alert), "no test of {alert}");
    }
}

#[test]
fn rules_and_dashboard_ask_for_metrics_that_there_are() {
    let dashboard: Value = serde_json::from_str(DASHBOARD).expect("a dashboard is JSON");
    let rules = RULES.lines().filter(|line| !line.trim_start().starts_with('#'));
    let mut asked = names_in(&rules.collect::<Vec<_>>().join("\n"));
    let of_rules = asked.len();
    asked.extend(expressions(&dashboard).iter().flat_map(|query| names_in(query)));
    assert!(of_rules > 10 && asked.len() > of_rules, "{asked:?}");
    let documented = documented();
    let unknown: Vec<_> = asked.difference(&documented).collect();
    assert!(unknown.is_empty(), "there is no {unknown:?}");
    let panels = dashboard["panels"].as_array().expect("panels");
    let ids: BTreeSet<_> = panels.iter().map(|panel| panel["id"].as_u64()).collect();
    assert_eq!(ids.len(), panels.len(), "panels have ids of their own");
}
