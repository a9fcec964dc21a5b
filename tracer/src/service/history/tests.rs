//! The history as the daemon has it, by way of its thread; and what other tests of it build on.

use std::{fs, os::unix::fs::PermissionsExt as _};

use serde_json::Value;

use super::*;
use crate::{
    escape::is_hostile,
    lineage::{Agent, Finding, FindingState, Nanos, Outcome},
    report::sample,
    service::news::Change,
};

/// Long enough for any machine.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

pub(super) fn origin(boot_id: &str) -> Origin {
    Origin { node: "node-1".to_owned(), boot_id: boot_id.to_owned() }
}

pub(super) fn options(folder: &Path) -> Options {
    Options { database: folder.join("history.db"), ..Options::default() }
}

fn start(folder: &Path, boot_id: &str) -> History {
    History::start(options(folder), origin(boot_id))
}

/// When samples are told of.
pub(super) const TOLD: Nanos = Nanos(1_010_000_000_000);

/// An epoch offset with which samples are `ago` old.
pub(super) fn offset(ago: Duration) -> i64 {
    let told = i64::try_from(TOLD.0).unwrap();
    now() - i64::try_from(ago.as_nanos()).unwrap() - told
}

pub(super) fn news_at(epoch_offset: i64, what: What) -> News {
    News { at: TOLD, epoch_offset, what }
}

fn news(what: What) -> News {
    news_at(offset(Duration::ZERO), what)
}

pub(super) fn found(change: Change, gone_at: Option<Nanos>, finding: Finding) -> What {
    let invocation = "e8d4a51000-4200".to_owned();
    What::Finding(Box::new(FindingNews {
        invocation,
        change,
        uid: Some(1000),
        gone_at,
        kept_by: None,
        finding,
    }))
}

fn opened(finding: Finding) -> News {
    news(found(Change::Opened, None, finding))
}

/// A run of an agent.
pub(super) fn run(outcome: Outcome) -> Box<InvocationNews> {
    let mut invocation = outcome.invocation;
    invocation.id = "e8d4a51000-4200".to_owned();
    invocation.agent =
        Some(Agent { name: Some("claude-code".to_owned()), pid: 4200, ..Agent::default() });
    Box::new(InvocationNews { invocation, uid: None, stats: outcome.stats, is_uncertain: false })
}

/// Fills the queue of one that hangs with what is nobody's.
pub(super) fn fill(history: &History) {
    let nobody = Settlement {
        process: ProcessId { pid: 1, start: 99 },
        kind: FindingKind::Zombie,
        at: TOLD,
        epoch_offset: 0,
        is_resolved: false,
    };
    while history.settle(nobody) {}
}

pub(super) fn all() -> Query {
    Query { limit: 1000, ..Query::default() }
}

fn parsed(leak: &Leak) -> Value {
    serde_json::from_str(leak.finding.get()).unwrap()
}

#[test]
fn findings_come_out_as_in_the_contract_whatever_they_are_called() {
    let folder = tempfile::tempdir().unwrap();
    let history = start(folder.path(), "boot");
    let mut findings = sample::hostile().findings;
    findings.extend(sample::blamed().findings);
    findings.extend(sample::odd().findings);
    let names: [&[u8]; 4] =
        [b"'); DROP TABLE findings; --", b"\xff\xfe\x00", b"\x1b[2J\x9b", b"\""];
    for (finding, name) in findings.iter_mut().zip(names) {
        finding.process.name = name.to_vec();
        finding.process.args = vec![name.to_vec(), b"\\x41\n".to_vec()];
    }
    // Samples are of several runs, and some of the same process.
    for (number, finding) in (0_u64..).zip(&mut findings) {
        finding.process.id.start += number << 32;
    }
    let told: Vec<News> = findings.into_iter().map(opened).collect();
    told.iter().for_each(|news| history.tell(news));
    let leaks = history.leaks(all()).unwrap();
    assert_eq!(leaks.leaks.len(), told.len());
    for news in &told {
        let line = news.line(&origin("boot"));
        let event: Value = serde_json::from_str(&line).unwrap();
        let leak = leaks.leaks.iter().find(|leak| event["key"] == leak.key).unwrap();
        assert_eq!(parsed(leak), event["finding"]);
        assert!(line.contains(leak.finding.get()));
        let leak: Value = serde_json::from_str(&render::json(leak)).unwrap();
        for part in ["node", "boot_id", "key", "invocation", "change", "gone_at"] {
            assert_eq!(leak[part], event[part], "{part}");
        }
        assert_eq!(leak["told_at"], event["at"]);
    }
    for shown in [render::json(&leaks), render::leaks(&leaks)] {
        assert!(!shown.chars().any(|c| c != '\n' && is_hostile(c)), "{shown:?}");
    }
    let read: Leaks = serde_json::from_str(&render::json(&leaks)).unwrap();
    assert_eq!(render::leaks(&read), render::leaks(&leaks));
}

#[test]
fn names_of_agents_are_values_to_queries_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let history = start(folder.path(), "boot");
    let name = "' OR 1=1; DROP TABLE findings; --";
    let mut findings = sample::blamed().findings;
    findings[0].agent.as_mut().unwrap().name = Some(name.to_owned());
    findings.iter().for_each(|finding| history.tell(&opened(finding.clone())));
    let of = |agent: &str| history.leaks(Query { agent: Some(agent.to_owned()), ..all() }).unwrap();
    assert_eq!(of(name).total, 1);
    assert_eq!(of("claude-code").total, 5);
    assert_eq!(of("x' OR '1'='1").total, 0);
}

#[test]
fn queries_choose_by_kind_time_state_and_user() {
    let folder = tempfile::tempdir().unwrap();
    let history = start(folder.path(), "boot");
    let findings = sample::four_leaks().findings;
    let old = offset(Duration::from_secs(7200));
    let gone = found(Change::Gone, Some(TOLD), findings[0].clone());
    history.tell(&news_at(old, gone));
    history.tell(&news_at(old, found(Change::Opened, None, findings[1].clone())));
    history.tell(&opened(findings[3].clone()));
    let total = |query: Query| {
        let leaks = history.leaks(query).unwrap();
        (leaks.total, leaks.leaks.len())
    };
    assert_eq!(total(all()), (3, 3));
    assert_eq!(total(Query { limit: 1, ..all() }), (3, 1));
    // What stands is there within whatever time.
    let hour = Some(Duration::from_secs(3600));
    assert_eq!(total(Query { since: hour, ..all() }), (2, 2));
    assert_eq!(total(Query { only_standing: true, ..all() }), (2, 2));
    assert_eq!(total(Query { kind: Some(FindingKind::Zombie), ..all() }), (1, 1));
    assert_eq!(total(Query { uid: Some(0), ..all() }), (0, 0));
    assert_eq!(total(Query { uid: Some(1000), ..all() }), (3, 3));
    let latest = &history.leaks(all()).unwrap().leaks[0];
    assert_eq!(parsed(latest)["kind"], "zombie");
    assert!(latest.stands && !latest.boot_over && latest.change == "opened");
}

#[test]
fn what_stood_when_the_daemon_ended_is_settled_by_the_next() {
    let folder = tempfile::tempdir().unwrap();
    let findings = sample::four_leaks().findings;
    let first = start(folder.path(), "boot");
    let epoch_offset = offset(Duration::ZERO);
    for finding in &findings {
        first.tell(&news_at(epoch_offset, found(Change::Opened, None, finding.clone())));
    }
    assert!(first.flush(PATIENCE));
    drop(first);
    let second = start(folder.path(), "boot");
    let open = second.open_findings(PATIENCE).unwrap();
    assert_eq!(open.len(), findings.len());
    for (open, finding) in open.iter().zip(&findings) {
        assert_eq!((open.process, open.kind), (finding.process.id, finding.kind));
        assert_eq!(open.parent, finding.parent.as_ref().map(|parent| parent.pid));
        assert_eq!((open.since, open.told_at), (finding.since, TOLD));
        assert_eq!(open.local_pid, finding.process.pids.local);
    }
    let settle = |finding: &Finding, at, is_resolved| {
        let (process, kind) = (finding.process.id, finding.kind);
        assert!(second.settle(Settlement { process, kind, at, epoch_offset, is_resolved }));
    };
    let later = TOLD.after(Duration::from_secs(1));
    settle(&findings[0], later, false);
    settle(&findings[3], later, true);
    // It does not stand any more.
    settle(&findings[3], later.after(Duration::from_secs(9)), false);
    assert_eq!(second.open_findings(PATIENCE).unwrap().len(), findings.len() - 2);
    let leaks = second.leaks(all()).unwrap().leaks;
    let of = |finding: &Finding| {
        let key = format!("{}:{}", finding.process.id, finding.kind.as_str());
        leaks.iter().find(|leak| leak.key == key).unwrap()
    };
    let (gone, resolved) = (of(&findings[0]), of(&findings[3]));
    assert_eq!((gone.change.as_str(), gone.gone_at.is_some()), ("gone", true));
    assert_eq!(parsed(gone)["state"], "open");
    assert_eq!((resolved.change.as_str(), resolved.gone_at.is_some()), ("resolved", false));
    let seconds = later.since(findings[3].since).as_secs_f64();
    assert_eq!(parsed(resolved)["state"], "resolved");
    assert_eq!(parsed(resolved)["seconds"], seconds);
    assert!(parsed(resolved)["resolved_at"].is_string());
    assert!((resolved.seconds - seconds).abs() < 1e-6);
}

#[test]
fn what_stood_when_the_boot_ended_stands_no_more() {
    let folder = tempfile::tempdir().unwrap();
    let first = start(folder.path(), "first");
    let finding = sample::four_leaks().findings.remove(0);
    first.tell(&news(What::Opened(run(sample::clean()))));
    first.tell(&opened(finding.clone()));
    assert!(first.flush(PATIENCE));
    drop(first);
    let second = start(folder.path(), "second");
    assert_eq!(second.open_findings(PATIENCE).unwrap(), []);
    let leak = second.leaks(all()).unwrap().leaks.remove(0);
    assert!(leak.boot_over && !leak.stands && leak.gone_at.is_none());
    // The same identity in another boot is another process.
    second.tell(&opened(finding));
    let leaks = second.leaks(all()).unwrap();
    assert_eq!(leaks.leaks.iter().filter(|leak| leak.stands).count(), 1);
    assert_eq!(leaks.total, 2);
}

#[test]
fn summary_counts_by_agent_tool_program_and_cause() {
    let folder = tempfile::tempdir().unwrap();
    let history = start(folder.path(), "boot");
    let mut quiet = run(sample::clean());
    quiet.invocation.id = "2-2".to_owned();
    quiet.is_uncertain = true;
    history.tell(&news(What::Ended(quiet)));
    history.tell(&news(What::Ended(run(sample::clean()))));
    let mut findings = sample::blamed().findings;
    findings[2].state = FindingState::Resolved(TOLD);
    findings.iter().for_each(|finding| history.tell(&opened(finding.clone())));
    let summary = history.summary(None).unwrap();
    assert_eq!(summary.invocations, Invocations { total: 2, leaked: 1, uncertain: 1 });
    assert_eq!(summary.findings, Tally { found: 6, leaked: 5, standing: 5 });
    let claude = Some("claude-code".to_owned());
    assert_eq!(
        summary.by_agent,
        [AgentTally {
            agent: claude.clone(),
            invocations: summary.invocations,
            findings: summary.findings
        }]
    );
    let tool = |tool: Option<&str>, found, leaked| ToolTally {
        agent: claude.clone(),
        tool: tool.map(str::to_owned),
        findings: Tally { found, leaked, standing: leaked },
    };
    assert_eq!(summary.by_tool, [tool(Some("Bash"), 4, 3), tool(None, 2, 2)]);
    assert_eq!(summary.by_program.len(), 1);
    assert_eq!(summary.by_program[0].name, "node");
    assert_eq!(summary.by_cause[0].cause, "daemonized");
    let shown = render::summary(&summary);
    insta::assert_snapshot!(shown);
    let read: Summary = serde_json::from_str(&render::json(&summary)).unwrap();
    assert_eq!(read, summary);
}

#[test]
fn what_is_kept_is_listed_only_when_asked_for_and_never_counted() {
    let folder = tempfile::tempdir().unwrap();
    let history = start(folder.path(), "boot");
    history.tell(&news(What::Opened(run(sample::clean()))));
    let server = sample::four_leaks().findings.remove(0);
    let mut kept = found(Change::Opened, None, server.clone());
    if let What::Finding(news) = &mut kept {
        news.kept_by = Some("name gpg-agent".to_owned());
    }
    history.tell(&news(kept));
    assert_eq!(history.leaks(all()).unwrap().total, 0);
    let summary = history.summary(None).unwrap();
    assert_eq!(summary.findings, Tally::default());
    assert_eq!(summary.invocations, Invocations { total: 1, leaked: 0, uncertain: 0 });
    assert!(summary.by_program.is_empty());
    let with_kept = Query { with_kept: true, ..all() };
    let leaks = history.leaks(with_kept.clone()).unwrap();
    assert_eq!(leaks.leaks[0].kept_by.as_deref(), Some("name gpg-agent"));
    assert!(!leaks.leaks[0].stands);
    assert!(render::leaks(&leaks).contains("  kept  "));
    let standing = Query { only_standing: true, ..with_kept };
    assert_eq!(history.leaks(standing).unwrap().total, 0);
    // It may go unnoticed while no daemon runs.
    assert_eq!(history.open_findings(PATIENCE).unwrap().len(), 1);
    // Its lease ended.
    history.tell(&news(found(Change::Changed, None, server)));
    assert_eq!(history.leaks(all()).unwrap().total, 1);
    assert_eq!(history.summary(None).unwrap().findings.standing, 1);
}

#[test]
fn runs_that_were_over_by_then_are_not_counted_unless_something_of_them_stands() {
    let folder = tempfile::tempdir().unwrap();
    let history = start(folder.path(), "boot");
    let old = offset(Duration::from_secs(7200));
    history.tell(&news_at(old, What::Ended(run(sample::clean()))));
    let hour = Some(Duration::from_secs(3600));
    assert_eq!(history.summary(hour).unwrap().invocations, Invocations::default());
    let server = sample::four_leaks().findings.remove(0);
    history.tell(&news_at(old, found(Change::Opened, None, server.clone())));
    let one = Invocations { total: 1, leaked: 1, uncertain: 0 };
    assert_eq!(history.summary(hour).unwrap().invocations, one);
    history.tell(&news_at(old, found(Change::Gone, Some(TOLD), server)));
    assert_eq!(history.summary(hour).unwrap().invocations, Invocations::default());
    assert_eq!(history.summary(None).unwrap().invocations, one);
}

#[test]
fn full_queue_drops_and_counts_and_does_not_wait() {
    let folder = tempfile::tempdir().unwrap();
    let history = start(folder.path(), "boot");
    let hung = history.hangs();
    let finding = opened(sample::four_leaks().findings.remove(0));
    let queued = u64::try_from(MOST_QUEUED).unwrap();
    for _ in 0..queued + 3 {
        history.tell(&finding);
    }
    assert_eq!(history.status().dropped, 3);
    drop(hung);
    assert!(history.flush(PATIENCE));
    assert_eq!(history.status().written, queued);
    assert_eq!(history.shared.queued.load(Ordering::Relaxed), 0);
}

#[test]
fn nobody_waits_longer_than_he_will_for_one_that_hangs() {
    let folder = tempfile::tempdir().unwrap();
    let history = start(folder.path(), "boot");
    let hung = history.hangs();
    let moment = Duration::from_millis(1);
    let too_slow = |history: &History| {
        assert!(!history.flush(moment));
        assert!(matches!(history.open_findings(moment), Err(HistoryError::TooSlow)));
        assert!(matches!(history.open_runs(Duration::ZERO), Err(HistoryError::TooSlow)));
    };
    too_slow(&history);
    fill(&history);
    too_slow(&history);
    let run = LostRun { invocation: "7-4200".to_owned(), at: TOLD, epoch_offset: 0 };
    assert!(!history.close(run.clone()));
    // It can be told later.
    assert_eq!(history.status().dropped, 0);
    drop(hung);
    assert!(history.flush(PATIENCE));
    assert!(history.close(run) && history.open_runs(PATIENCE).unwrap().is_empty());
}

#[test]
fn queue_holds_only_so_many_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let history = start(folder.path(), "boot");
    let mut finding = sample::four_leaks().findings.remove(0);
    finding.process.args = vec![vec![b'x'; MOST_BYTES]];
    history.tell(&opened(finding));
    assert!(history.flush(PATIENCE));
    let HistoryStatus { dropped, written, .. } = history.status();
    assert_eq!((dropped, written), (1, 0));
}

#[test]
fn database_is_its_owners_alone_and_read_while_it_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let options = options(&folder.path().join("made"));
    let history = History::start(options.clone(), origin("boot"));
    assert!(history.flush(PATIENCE));
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&folder.path().join("made")), 0o700);
    assert_eq!(mode(&options.database), 0o600);
    let reader = Reader::open(&options.database).unwrap();
    for finding in sample::four_leaks().findings {
        history.tell(&opened(finding));
        assert!(history.flush(PATIENCE));
        let seen = reader.leaks(&all()).unwrap();
        assert_eq!(seen.total, history.leaks(all()).unwrap().total);
    }
    assert_eq!(reader.summary(None).unwrap().findings.found, 5);
    assert_eq!(history.status().mode, Mode::Disk);
    assert!(history.status().bytes > 0);
}

#[test]
fn leaks_are_a_table() {
    let folder = tempfile::tempdir().unwrap();
    let history = start(folder.path(), "boot");
    let outcome = sample::blamed();
    let findings = outcome.findings.into_iter().chain(sample::four_leaks().findings);
    for (number, finding) in (0_u64..).zip(findings) {
        // One by one, and all of them over: so that nothing depends on the time of day.
        let at = found(Change::Gone, Some(TOLD), finding);
        history.tell(&news_at(outcome.epoch_offset + i64::try_from(number).unwrap(), at));
    }
    insta::assert_snapshot!(render::leaks(&history.leaks(Query { limit: 9, ..all() }).unwrap()));
    let none = history.leaks(Query { only_standing: true, ..all() }).unwrap();
    assert_eq!(render::leaks(&none), "no leaks; the history has no run of an agent yet\n");
    let outcome = sample::blamed();
    history.tell(&news_at(outcome.epoch_offset, What::Opened(run(outcome))));
    let none = history.leaks(Query { only_standing: true, ..all() }).unwrap();
    let said = "no leaks; the history begins 2026-03-01 12:16:40Z\n";
    assert_eq!(render::leaks(&none), said);
}
