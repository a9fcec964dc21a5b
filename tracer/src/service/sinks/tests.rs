//! Sinks as the daemon has them: on real files, pipes and sockets.

mod queue;
mod server;
mod webhook;

use std::{fs, path::Path};

use super::{
    super::news::{Change, FindingNews, InvocationNews},
    *,
};
use crate::{
    lineage::{Finding, Nanos, Stats},
    report::sample,
};
use server::DEADLINE;

fn origin() -> Origin {
    Origin { node: "node-1".into(), boot_id: "b007".into() }
}

fn news(what: What) -> News {
    News { at: Nanos(1_300_000_000_000), epoch_offset: 0, what }
}

/// News of a finding, which `number` tells apart.
fn found(number: u64) -> News {
    let finding =
        Finding { id: u32::try_from(number).unwrap(), ..sample::four_leaks().findings.remove(0) };
    found_this(finding)
}

fn found_this(finding: Finding) -> News {
    let invocation = "1000000000000-4200".to_owned();
    news(What::Finding(Box::new(FindingNews {
        invocation,
        change: Change::Opened,
        kept_by: None,
        uid: None,
        gone_at: None,
        finding,
    })))
}

fn opened() -> News {
    let invocation = sample::clean().invocation;
    let stats = Stats::default();
    news(What::Opened(Box::new(InvocationNews {
        invocation,
        uid: None,
        stats,
        is_uncertain: false,
    })))
}

/// The number of [`found`].
fn number(line: &serde_json::Value) -> u64 {
    line["finding"]["id"].as_u64().unwrap_or_else(|| panic!("{line}"))
}

fn sink(name: &str, target: Target) -> SinkOptions {
    SinkOptions { name: name.into(), only: None, events: None, target }
}

fn start(options: Vec<SinkOptions>) -> Sinks {
    Sinks::start(options, origin()).unwrap()
}

fn read(path: &Path) -> Vec<serde_json::Value> {
    let text = fs::read_to_string(path).unwrap();
    assert!(text.is_empty() || text.ends_with('\n'));
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn every_sink_gets_what_it_wants_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let file = |name| sink(name, Target::File(FileOptions::new(at(name))));
    let kinds = [FindingKind::Zombie, FindingKind::Survivor];
    let sinks = start(vec![
        file("all"),
        SinkOptions { only: Some(vec![kinds[0]]), ..file("zombies") },
        SinkOptions { events: Some(vec![NewsKind::Finding]), ..file("findings") },
        SinkOptions { events: Some(vec![NewsKind::InvocationOpened]), ..file("runs") },
        SinkOptions { only: Some(vec![]), events: Some(vec![]), ..file("nothing") },
    ]);
    sinks.tell(&opened());
    for kind in kinds {
        let leak = sample::four_leaks().findings.remove(0);
        sinks.tell(&found_this(Finding { kind, ..leak }));
    }
    sinks.stop(DEADLINE);
    let told = |name: &str| -> Vec<String> {
        let what = |line: &serde_json::Value| {
            let kind = &line["finding"]["kind"];
            kind.as_str().or(line["type"].as_str()).unwrap().to_owned()
        };
        read(&at(name)).iter().map(what).collect()
    };
    assert_eq!(told("all"), ["invocation_opened", "zombie", "survivor"]);
    assert_eq!(told("zombies"), ["invocation_opened", "zombie"]);
    assert_eq!(told("findings"), ["zombie", "survivor"]);
    assert_eq!(told("runs"), ["invocation_opened"]);
    assert!(!at("nothing").exists());
    let written: Vec<u64> = sinks.status().iter().map(|status| status.written).collect();
    assert_eq!(written, [3, 2, 2, 1, 0]);
}

#[test]
fn hostile_names_stay_within_their_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("events.jsonl");
    let sinks = start(vec![sink("log", Target::File(FileOptions::new(&path)))]);
    let findings = sample::hostile().findings;
    let number = findings.len();
    for finding in findings {
        sinks.tell(&found_this(finding));
    }
    sinks.stop(DEADLINE);
    assert_eq!(read(&path).len(), number);
    let bytes = fs::read(&path).unwrap();
    assert!(!bytes.iter().any(|byte| *byte != b'\n' && byte.is_ascii_control()));
}

#[test]
fn file_that_cannot_be_written_is_counted_and_stays_queued_until_it_can() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("later/events.jsonl");
    let account = Account::new("log", SinkKind::File);
    let (mut log, intake) = (file::Log::new(&FileOptions::new(&path)).unwrap(), Intake::default());
    intake.put(Arc::from(found(1).line(&origin())));
    // Closed, it is tried once and no more.
    intake.close();
    writer::run(&mut log, &account, &intake, Duration::ZERO);
    let status = account.status(intake.len() as u64);
    let SinkStatus { written, dropped, failed, queued, ref last_error, .. } = status;
    assert_eq!((written, dropped, failed, queued), (0, 0, 1, 1));
    let error = last_error.as_deref().unwrap();
    assert!(
        error.starts_with("open ") && error.ends_with("No such file or directory (os error 2)"),
        "{error}"
    );
    fs::create_dir(path.parent().unwrap()).unwrap();
    writer::run(&mut log, &account, &intake, Duration::ZERO);
    let status = account.status(intake.len() as u64);
    assert_eq!((status.written, status.queued, status.last_error), (1, 0, None));
}

#[test]
fn broken_pipe_ends_the_sink_and_what_comes_after_is_dropped() {
    let (reader, writer) = rustix::pipe::pipe().unwrap();
    drop(reader);
    let account = Arc::new(Account::new("out", SinkKind::Stdout));
    let intake = Arc::new(Intake::default());
    intake.put(Arc::from("{}\n"));
    intake.put(Arc::from("{}\n"));
    writer::start(stream::Stream::new(writer), &account, &intake).unwrap();
    intake.wait_for_end(Instant::now() + DEADLINE);
    assert!(!intake.put(Arc::from("{}\n")));
    // It ends the intake first and counts then.
    let counted = || account.status(0).dropped == 2;
    let until = Instant::now() + DEADLINE;
    while !counted() && Instant::now() < until {
        thread::yield_now();
    }
    let status = account.status(0);
    assert_eq!((status.written, status.dropped, status.failed), (0, 2, 1));
    assert!(status.last_error.unwrap().contains("Broken pipe"));
}

#[test]
fn what_can_never_work_is_said_at_start() {
    let folder = tempfile::tempdir().unwrap();
    let refusal = |options| Sinks::start(options, origin()).unwrap_err().to_string();
    let file = |name| sink(name, Target::File(FileOptions::new(folder.path().join("log"))));
    assert_eq!(
        refusal(vec![file("a"), file("b"), file("a")]),
        "start sink a: another has that name; give each its own"
    );
    let there = sink("log\n", Target::File(FileOptions::new(folder.path())));
    let shown = folder.path().display();
    assert_eq!(
        refusal(vec![there]),
        format!("start sink log\\n: {shown} is no regular file; name another")
    );
}
