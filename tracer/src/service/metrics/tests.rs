//! Pages as they are scraped, with figures of which each is there.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write as _,
    process::{Command, Stdio},
    time::Instant,
};

use super::{figures::Figures, health::ProbeResult, *};
use crate::{
    kernel::{load::Counts, procs::Tally, run_times::RunTime},
    lineage::{Action, ActionResult, Agent, FindingKind, FindingState, Receipt, Remedy},
    node::{Change, FindingNews, InvocationNews, What},
    report::sample,
    service::{
        control::ControlStatus,
        history::{HistoryStatus, Mode},
        metrics::{
            agents::AgentLabel,
            cgroups::PidsOfAgent,
            host::{HostFigures, OwnFigures},
        },
        pods::PodsStatus,
        sinks::{SinkKind, SinkStatus},
    },
};

const OPEN_METRICS: &str = "application/openmetrics-text;version=1.0.0";

fn new() -> State {
    State::new(["claude-code", "codex"], Some(1_772_366_400.5))
}

/// News of a finding of this agent's.
fn found(pid: u32, kind: FindingKind, agent: &str) -> FindingNews {
    let mut finding = sample::four_leaks().findings.swap_remove(0);
    finding.kind = kind;
    finding.process = sample::process(pid, &["node"]);
    finding.agent = Some(Agent { name: Some(agent.to_owned()), ..Agent::default() });
    FindingNews {
        invocation: "1-1".to_owned(),
        change: Change::Opened,
        uid: None,
        gone_at: None,
        kept_by: None,
        finding,
    }
}

fn run() -> Box<InvocationNews> {
    let outcome = sample::clean();
    Box::new(InvocationNews {
        invocation: outcome.invocation,
        uid: None,
        stats: outcome.stats,
        is_uncertain: false,
    })
}

/// One in which each family has at least one series.
fn full() -> State {
    let mut state = new();
    state.tell(&What::Opened(run()));
    state.tell(&What::Ended(run()));
    let mut killed = found(9, FindingKind::Survivor, "codex");
    let receipt = Receipt {
        process: killed.finding.process.id,
        kind: None,
        remedy: Remedy::Kill,
        decided_by: "rule".to_owned(),
        decided_at: Nanos(1),
        dry_run: false,
        signals: Vec::new(),
        result: ActionResult::Ended,
        reason: None,
        at: Nanos(2),
        ports: Vec::new(),
    };
    killed.finding.action = Some(Action { receipt, exit: None, reaped: None });
    let mut resolved = found(10, FindingKind::Zombie, "codex");
    resolved.change = Change::Resolved;
    resolved.finding.state = FindingState::Resolved(Nanos(3));
    for news in [found(10, FindingKind::Zombie, "codex"), killed, resolved] {
        state.tell(&What::Finding(Box::new(news)));
    }
    let run = RunSample { agent: Some("codex".to_owned()), live: 4, root: None };
    let history =
        HistoryStatus { mode: Mode::Disk, reason: None, dropped: 1, written: 2, bytes: 3 };
    let counts = Counts {
        dropped: 1,
        dropped_unreaped: 0,
        dropped_forks: 0,
        failed: 2,
        refused: 0,
        tracked: 3,
    };
    state.sample(Sample {
        runs: vec![run.clone(), RunSample { live: 9, ..run }],
        counts,
        damaged: 4,
        refused_announcements: 5,
        history: Some(history),
        sinks: vec![SinkStatus {
            name: "file-1".to_owned(),
            kind: SinkKind::File,
            written: 1,
            dropped: 2,
            failed: 3,
            queued: 4,
            last_error: None,
        }],
        pods: Some(PodsStatus { known: 6, is_up: true, failures: 7, left_out: 8 }),
        clients: Some(Clients {
            control: ControlStatus { answered: 9, refused: 10, missed: 11 },
            traced_for: 12,
            untold: 13,
        }),
    });
    let pids = PidsOfAgent { used: 8, max: 9, exhaustion: Some(60.0) };
    state.host = HostFigures {
        tasks: Some(1),
        pid_max: Some(2),
        threads_max: Some(3),
        exhaustion: Some(4.5),
        cgroups: BTreeMap::from([(AgentLabel::UNNAMED, pids)]),
        tally: Some(Tally { entries: 6, unreaped: 7 }),
        programs: vec![("tracer_fork", RunTime { nanos: 1_500_000_000, runs: 3 })],
        own: OwnFigures { cpu: Some(1.5), memory: Some(1 << 20), descriptors: Some(30) },
    };
    state.max_processes = Some(65_536);
    state.health.probed(ProbeResult::Seen);
    state.health.stage = Stage::Ready;
    state
}

fn page(state: &State, accept: &str) -> Page {
    let figures: Figures = state.figures(Nanos(4_000_000_000_000));
    metrics(figures, &Accept::of([accept]))
}

/// Values by series.
fn values(state: &State) -> BTreeMap<String, f64> {
    let page = page(state, "").body;
    let samples = page.lines().filter(|line| !line.starts_with('#'));
    let samples = samples.map(|line| line.rsplit_once(' ').unwrap());
    samples.map(|(series, value)| (series.to_owned(), value.parse().unwrap())).collect()
}

/// Families with their types, of which each has a sample.
fn families(page: &str) -> BTreeSet<(String, String)> {
    let types = page.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let families = types.map(|line| line.split_once(' ').unwrap());
    families
        .inspect(|(name, _)| {
            let has_sample = page.lines().any(|line| line.starts_with(name));
            assert!(has_sample, "nothing is told of {name}");
        })
        .map(|(name, kind)| (name.to_owned(), kind.to_owned()))
        .collect()
}

/// What docs/metrics.md says of a metric.
struct Row {
    name: String,
    kind: String,
    labels: Vec<String>,
}

fn documented() -> Vec<Row> {
    let text = include_str!("../../../../docs/metrics.md");
    let rows = text.lines().map(|line| line.split('|').map(str::trim).collect::<Vec<_>>());
    let bare = |text: &str| text.trim().trim_matches('`').to_owned();
    let rows = rows.filter_map(|row| match *row {
        ["", name, kind, labels, _, ""] if name.starts_with('`') => {
            let labels = labels.split(',').map(bare).filter(|label| !label.is_empty()).collect();
            Some(Row { name: bare(name), kind: kind.to_owned(), labels })
        }
        _ => None,
    });
    rows.collect()
}

/// Runs promtool with this as its input, where it is installed; what it said.
fn promtool(args: &[&str], input: &str) -> Option<(bool, String)> {
    let child = Command::new("promtool")
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = match child {
        Ok(child) => child,
        Err(error) => {
            assert_eq!(error.kind(), io::ErrorKind::NotFound, "{error}");
            return None;
        }
    };
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    Some((output.status.success(), String::from_utf8_lossy(&said).into_owned()))
}

#[test]
fn what_is_told_is_what_is_documented() {
    let documented: BTreeSet<_> =
        documented().into_iter().map(|row| (row.name, row.kind)).collect();
    let told = families(&page(&full(), "").body);
    let missing: Vec<_> = documented.difference(&told).collect();
    let undocumented: Vec<_> = told.difference(&documented).collect();
    assert!(missing.is_empty(), "documented, and not told: {missing:?}");
    assert!(undocumented.is_empty(), "told, and not documented: {undocumented:?}");
}

#[test]
fn labels_are_those_that_are_documented() {
    let page = page(&full(), "").body;
    for Row { name, labels, kind: _ } in documented() {
        let mut samples = page.lines().filter_map(|line| line.strip_prefix(&name));
        let sample = samples.find(|rest| rest.starts_with(['{', ' '])).unwrap_or_default();
        let told = sample.split("=\"").map(|part| part.rsplit(['{', ',']).next().unwrap());
        let told: Vec<_> = told.take(sample.matches("=\"").count()).collect();
        assert_eq!(told, labels, "{name}");
    }
}

#[test]
fn promtool_has_nothing_to_say_against_it() {
    for state in [new(), full()] {
        let Some((is_fine, said)) = promtool(&["check", "metrics"], &page(&state, "").body) else {
            println!("skipped: no promtool here");
            return;
        };
        assert!(is_fine && said.is_empty(), "{said}");
    }
}

#[test]
fn client_gets_the_form_that_it_wants_more() {
    let state = new();
    let prometheus = "application/openmetrics-text;version=1.0.0;q=0.8,\
                      application/openmetrics-text;version=0.0.1;q=0.75,\
                      text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
    for open_metrics in [prometheus, OPEN_METRICS, "application/openmetrics-text"] {
        let page = page(&state, open_metrics);
        assert_eq!(page.content_type, exposition::OPEN_METRICS, "{open_metrics}");
        assert!(page.body.ends_with("\n# EOF\n"));
        assert!(page.body.contains("# TYPE tracer_events counter\ntracer_events_total 0\n"));
    }
    for plain in
        ["", "*/*", "text/html", "text/plain", "application/openmetrics-text;version=2.0.0"]
    {
        let page = page(&state, plain);
        assert_eq!(page.content_type, exposition::PLAIN, "{plain}");
        assert!(!page.body.contains("# EOF"));
        assert!(page.body.contains("# TYPE tracer_events_total counter\ntracer_events_total 0\n"));
    }
}

#[test]
fn figures_are_those_that_were_told() {
    let values = values(&full());
    let cause = r#"cause="agent_exited_without_cleanup""#;
    let survivor = format!(r#"{{kind="survivor",agent="codex",{cause}}}"#);
    for (series, expected) in [
        ("tracer_zombie_processes", 0.0),
        (&format!("tracer_findings_open{survivor}"), 1.0),
        (&format!("tracer_findings_total{survivor}"), 1.0),
        (r#"tracer_findings_resolved_total{kind="zombie",agent="codex"}"#, 1.0),
        (r#"tracer_kills_total{result="ended",agent="codex"}"#, 1.0),
        (r#"tracer_leaked_memory_bytes{agent="codex"}"#, 19_100_000.0),
        (r#"tracer_leaked_ports{agent="codex"}"#, 1.0),
        (r#"tracer_invocations_open{agent="codex"}"#, 2.0),
        (r#"tracer_invocation_processes{agent="codex"}"#, 13.0),
        (r#"tracer_invocation_processes_max{agent="codex"}"#, 9.0),
        (r#"tracer_invocations_total{agent="(none)"}"#, 1.0),
        (r#"tracer_invocation_peak_processes_bucket{le="10.0"}"#, 1.0),
        (r#"tracer_bpf_run_seconds_total{program="tracer_fork"}"#, 1.5),
        ("tracer_host_pids_exhaustion_seconds", 4.5),
        ("tracer_history_on_disk", 1.0),
        (r#"tracer_sink_lines_queued{sink="file-1"}"#, 4.0),
        ("tracer_ready", 1.0),
        ("tracer_healthy", 1.0),
    ] {
        assert_eq!(values.get(series), Some(&expected), "{series} of {values:#?}");
    }
}

#[test]
fn age_of_a_zombie_grows_while_it_stands() {
    let mut state = new();
    let mut zombie = found(7, FindingKind::Zombie, "codex");
    zombie.finding.since = Nanos(1_000_000_000);
    state.tell(&What::Finding(Box::new(zombie)));
    let age = |now| {
        let page = metrics(state.figures(Nanos(now)), &Accept::default()).body;
        let name = "\ntracer_oldest_zombie_age_seconds ";
        page.split_once(name).unwrap().1.lines().next().unwrap().to_owned()
    };
    assert_eq!([age(1_000_000_000), age(31_500_000_000)], ["0.0", "30.5"]);
}

#[test]
fn what_is_not_known_is_not_told() {
    let values = values(&new());
    for unknown in [
        "tracer_host_pids_used",
        "tracer_host_pids_exhaustion_seconds",
        "tracer_host_zombie_processes",
        "tracer_history_on_disk",
        "process_cpu_seconds_total",
    ] {
        assert_eq!(values.get(unknown), None, "{unknown}");
    }
    assert_eq!((values["tracer_ready"], values["tracer_healthy"]), (0.0, 1.0));
}

#[test]
fn run_that_ends_leaves_a_zero() {
    let mut state = full();
    state.sample(Sample::default());
    let values = values(&state);
    assert_eq!(values[r#"tracer_invocations_open{agent="codex"}"#], 0.0);
    assert_eq!(values[r#"tracer_invocation_processes_max{agent="codex"}"#], 0.0);
}

#[test]
fn no_name_of_a_process_is_told() {
    let mut state = new();
    for mut finding in sample::hostile().findings {
        finding.agent = Some(Agent { name: Some("x\"} 1\ny".to_owned()), ..Agent::default() });
        let news = FindingNews { finding, ..found(1, FindingKind::Zombie, "codex") };
        state.tell(&What::Finding(Box::new(news)));
    }
    let page = page(&state, OPEN_METRICS).body;
    for line in page.lines().filter(|line| !line.starts_with('#')) {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "_{}=\",.()+- ".contains(c);
        assert!(line.chars().all(is_plain), "{line}");
    }
    assert!(page.contains(r#"agent="(other)""#), "{page}");
}

#[test]
fn number_of_series_is_bounded_whatever_agents_call_themselves() {
    let mut state = new();
    for number in 0..2000 {
        let news = found(number, FindingKind::Survivor, &format!("agent-{number}"));
        state.tell(&What::Finding(Box::new(news)));
    }
    let series = values(&state).into_keys().filter(|name| name.starts_with("tracer_findings_open"));
    assert!(series.count() <= 33);
}

#[test]
fn scrape_of_thousands_of_findings_takes_less_than_50_ms() {
    let mut state = full();
    for pid in 0..20_000 {
        let kind = FindingKind::ALL[usize::try_from(pid % 5).unwrap()];
        let agent = format!("agent-{}", pid % 40);
        state.tell(&What::Finding(Box::new(found(pid, kind, &agent))));
    }
    // The quickest of several: others may have the processor.
    let scrape = || {
        let begun = Instant::now();
        let page = page(&state, "");
        assert!(page.body.len() > 10_000);
        begun.elapsed()
    };
    let quickest = (0..10).map(|_| scrape()).min().unwrap();
    assert!(quickest < Duration::from_millis(50), "{quickest:?}");
}

#[test]
fn readiness_and_health_are_told_apart() {
    let shared = Shared { state: Mutex::new(new()), clock: BootClock::default() };
    let status = |path| shared.page(path, &Accept::default()).unwrap().status;
    let both = || (status("/readyz"), status("/healthz"));
    let (well, ill) = (StatusCode::OK, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(both(), (ill, well));
    shared.state().health.stage = Stage::Ready;
    assert_eq!(both(), (well, well));
    for _ in 0..2 {
        shared.state().health.probed(ProbeResult::NotTold);
    }
    assert_eq!(both(), (well, ill));
    shared.state().health.stage = Stage::Stopping;
    assert_eq!(both(), (ill, ill));
    assert_eq!(shared.page("/", &Accept::default()), None);
}
