//! What is kept of requests to end processes, and for how long.

use std::{path::Path, time::Duration};

use serde_json::Value;

use super::*;
use crate::{
    escape::is_hostile,
    lineage::{ActionResult, Finding, ProcessId, Remedy},
    report::sample,
    service::{
        history::{
            Ended, History, Options, now, render,
            retention::{self, Bounds},
            rows, schema,
            tests::{PATIENCE, TOLD, found, news_at, offset, options, origin, run},
        },
        news::{Change, What},
    },
};

/// A request of this process that was done so long ago, and came to this.
pub(in super::super) fn asked(number: u64, ago: Duration, result: ActionResult) -> EndedOnRequest {
    let mut process = sample::four_leaks().findings.remove(0).process;
    process.id.start += number;
    let receipt = Receipt {
        process: process.id,
        kind: None,
        remedy: Remedy::Kill,
        decided_by: "tracer kill by uid 1000 (pid 77)".to_owned(),
        decided_at: Nanos(TOLD.0 - 1_000_000),
        dry_run: false,
        signals: Vec::new(),
        result,
        reason: None,
        at: TOLD,
        ports: Vec::new(),
    };
    EndedOnRequest {
        epoch_offset: offset(ago),
        invocation: "e8d4a51000-4200".to_owned(),
        agent: Some("claude-code".to_owned()),
        told: OnRequest {
            process,
            tool_call: None,
            action: Action { receipt, exit: None, reaped: None },
        },
    }
}

fn ended(number: u64) -> EndedOnRequest {
    asked(number, Duration::ZERO, ActionResult::Ended)
}

fn start(options: &Options) -> History {
    History::start(options.clone(), origin("boot"))
}

/// The processes of a table or view, by when they began.
fn starts(database: &Path, table: &str) -> Vec<i64> {
    let connection = Connection::open(database).unwrap();
    let mut rows =
        connection.prepare(&format!("SELECT start FROM {table} ORDER BY start")).unwrap();
    let rows = rows.query_map([], |row| row.get(0)).unwrap();
    rows.collect::<Result<_, _>>().unwrap()
}

fn start_of(ended: &EndedOnRequest) -> i64 {
    integer(ended.told.process.id.start)
}

#[test]
fn receipt_of_a_process_of_which_nothing_was_found_is_kept_whatever_it_is_called() {
    let folder = tempfile::tempdir().unwrap();
    let options = options(folder.path());
    let history = start(&options);
    let mut hostile = ended(1);
    hostile.told.process.name = b"'); DROP TABLE on_request; --\x1b[2J\xff".to_vec();
    hostile.told.process.args = vec![b"\x1b]0;x\x07".to_vec()];
    history.tell_on_request(hostile.clone());
    // The same receipt.
    history.tell_on_request(hostile.clone());
    assert!(history.flush(PATIENCE));
    let connection = Connection::open(&options.database).unwrap();
    let sql = "SELECT name, args, decided_by, result, action FROM on_request";
    let row: [String; 5] = connection
        .query_row(sql, [], |row| {
            let text = |place| row.get(place);
            Ok([text(0)?, text(1)?, text(2)?, text(3)?, text(4)?])
        })
        .unwrap();
    assert!(row.iter().all(|text| !text.chars().any(is_hostile)), "{row:?}");
    assert_eq!(row[0], lossless_line(&hostile.told.process.name));
    assert_eq!((&*row[2], &*row[3]), ("tracer kill by uid 1000 (pid 77)", "ended"));
    let action: Value = serde_json::from_str(&row[4]).unwrap();
    assert_eq!((&action["remedy"], &action["result"]), (&"kill".into(), &"ended".into()));
    assert_eq!(starts(&options.database, "receipts"), [start_of(&hostile)]);
}

/// A finding of the process that was asked for, told with what was done.
fn found_too(asked: &EndedOnRequest) -> Finding {
    let mut finding = sample::four_leaks().findings.remove(0);
    finding.process.id = asked.told.process.id;
    finding.action = Some(asked.told.action.clone());
    finding
}

#[test]
fn receipt_that_a_finding_tells_of_is_one_receipt_and_one_process() {
    let folder = tempfile::tempdir().unwrap();
    let options = options(folder.path());
    let history = start(&options);
    let [both, alone] = [ended(1), ended(2)];
    for one in [&both, &alone] {
        history.tell_on_request(one.clone());
    }
    let told = |asked: &EndedOnRequest| {
        news_at(asked.epoch_offset, found(Change::Gone, Some(TOLD), found_too(asked)))
    };
    history.tell(&told(&both));
    // Ended by a rule, and nobody had asked.
    let mut by_rule = ended(3);
    by_rule.told.action.receipt.decided_by = "rule".to_owned();
    history.tell(&told(&by_rule));
    let summary = history.summary(None).unwrap();
    assert_eq!(summary.ended, Ended { for_leaks: 1, on_request: 2 });
    let shown = render::summary(&summary);
    assert!(
        shown.contains("\ntracer ended 3 processes, 2 of them because somebody asked\n"),
        "{shown}"
    );
    let receipts = starts(&options.database, "receipts");
    assert_eq!(receipts, [&both, &alone, &by_rule].map(start_of));
    // What a rule had done before somebody asked is another receipt.
    let mut asked_later = ended(3);
    asked_later.told.action.receipt.decided_by = "tracer kill by uid 0 (pid 1)".to_owned();
    history.tell_on_request(asked_later);
    assert!(history.flush(PATIENCE));
    assert_eq!(starts(&options.database, "receipts").len(), 4);
}

#[test]
fn only_what_ended_counts_and_only_within_the_time_that_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let history = start(&options(folder.path()));
    let hours = |hours: u64| Duration::from_secs(hours * 3600);
    history.tell_on_request(asked(1, hours(3), ActionResult::Ended));
    for (number, result) in (2..).zip([
        ActionResult::Ended,
        ActionResult::EndedByItself,
        ActionResult::StillThere,
        ActionResult::Refused,
    ]) {
        history.tell_on_request(asked(number, hours(1), result));
    }
    let on_request = |since| history.summary(since).unwrap().ended;
    assert_eq!(on_request(None), Ended { for_leaks: 0, on_request: 2 });
    assert_eq!(on_request(Some(hours(2))), Ended { for_leaks: 0, on_request: 1 });
    let quiet = render::summary(&history.summary(Some(Duration::from_secs(60))).unwrap());
    assert!(!quiet.contains("tracer ended"), "{quiet}");
}

#[test]
fn receipts_go_by_age_and_by_size_and_a_run_not_before_them() {
    let mut database = Connection::open_in_memory().unwrap();
    schema::migrate(&mut database, 0).unwrap();
    let day = Duration::from_secs(24 * 3600);
    let ended = What::Ended(run(sample::clean()));
    rows::put(&database, &origin("boot"), &news_at(offset(5 * day), ended)).unwrap();
    for age in 1..=4_u32 {
        let asked = asked(age.into(), age * day, ActionResult::Ended);
        put(&database, &origin("boot"), &asked).unwrap();
    }
    let count = |database: &Connection, table: &str| -> i64 {
        let sql = format!("SELECT count(*) FROM {table}");
        database.query_row(&sql, [], |row| row.get(0)).unwrap()
    };
    let mut retain = |ago: Duration, max_size| {
        let oldest = now() - i64::try_from(ago.as_nanos()).unwrap();
        retention::retain(&mut database, Bounds { oldest, max_size }).unwrap();
        (count(&database, "on_request"), count(&database, "invocations"))
    };
    assert_eq!(retain(day * 7 / 2, u64::MAX), (3, 1), "something of the run is kept");
    // Where there is no room all of it may go, and the run with the last of it.
    assert_eq!(retain(day * 7 / 2, 0), (0, 0));
}

#[test]
fn requests_of_two_boots_are_of_two_processes() {
    let folder = tempfile::tempdir().unwrap();
    let options = options(folder.path());
    for boot in ["one", "other"] {
        let history = History::start(options.clone(), origin(boot));
        history.tell_on_request(ended(1));
        assert!(history.flush(PATIENCE));
    }
    let id = ended(1).told.process.id;
    let ProcessId { start, .. } = id;
    assert_eq!(starts(&options.database, "receipts"), [integer(start); 2]);
}
