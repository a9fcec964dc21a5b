//! Runs that ended while nobody looked.

use std::{path::Path, time::Duration};

use super::*;
use crate::{
    report::sample,
    service::{
        history::{
            History,
            tests::{PATIENCE, TOLD, news_at, offset, options, origin, run},
        },
        news::{InvocationNews, What},
    },
};

fn start(folder: &Path, boot_id: &str) -> History {
    History::start(options(folder), origin(boot_id))
}

/// A run with this root that goes on.
fn going_on(root: ProcessId) -> Box<InvocationNews> {
    let mut news = *run(sample::clean());
    news.invocation.id = root.to_string();
    news.invocation.exit = None;
    Box::new(news)
}

/// The row of a run.
#[derive(Debug, PartialEq, Eq)]
struct Row {
    ended_at: Option<i64>,
    closed_at: Option<i64>,
    is_uncertain: bool,
    exit: Option<String>,
    ended_in_json: Option<String>,
}

fn row(folder: &Path, root: ProcessId) -> Row {
    let database = Connection::open(options(folder).database).unwrap();
    let sql = "SELECT ended_at, closed_at, uncertain, exit, json ->> 'ended_at' FROM invocations \
               WHERE invocation = :id";
    let of_row = |row: &rusqlite::Row<'_>| {
        Ok(Row {
            ended_at: row.get(0)?,
            closed_at: row.get(1)?,
            is_uncertain: row.get(2)?,
            exit: row.get(3)?,
            ended_in_json: row.get(4)?,
        })
    };
    database.query_row(sql, named_params! { ":id": root.to_string() }, of_row).unwrap()
}

#[test]
fn run_that_ended_while_nobody_looked_is_closed_once_and_its_end_is_uncertain() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let [lost, over, other] = [1, 2, 3].map(|start| ProcessId { pid: 4200, start });
    let epoch_offset = offset(Duration::ZERO);
    let first = start(folder, "boot");
    for root in [lost, over, other] {
        first.tell(&news_at(epoch_offset, What::Opened(going_on(root))));
    }
    first.tell(&news_at(epoch_offset, What::Ended(going_on(over))));
    assert!(first.flush(PATIENCE));
    drop(first);
    let second = start(folder, "boot");
    let open = second.open_runs(PATIENCE).unwrap();
    assert_eq!(open.iter().map(|run| run.root).collect::<Vec<_>>(), [lost, other]);
    assert_eq!(open[0].invocation, lost.to_string());
    let before = [over, other].map(|root| row(folder, root));
    let later = TOLD.after(Duration::from_secs(1));
    let close = |root: ProcessId, at| {
        assert!(second.close(LostRun { invocation: root.to_string(), at, epoch_offset }));
    };
    close(lost, later);
    // They go on no more.
    close(lost, later.after(Duration::from_secs(9)));
    close(over, later);
    // Nobody's.
    close(ProcessId { pid: 1, start: 99 }, later);
    assert_eq!(second.open_runs(PATIENCE).unwrap().len(), 1);
    let Row { ended_at, closed_at, is_uncertain, exit, ended_in_json } = row(folder, lost);
    let moment = Moment { at: later, epoch_offset };
    assert_eq!((ended_at, closed_at), (Some(moment.unix(later)), Some(moment.unix(later))));
    assert_eq!(ended_in_json, moment.writer().time(later));
    assert!(is_uncertain && exit.is_none());
    assert_eq!([over, other].map(|root| row(folder, root)), before);
    let invocations = second.summary(None).unwrap().invocations;
    assert_eq!((invocations.total, invocations.uncertain), (3, 1));
}

#[test]
fn end_that_was_told_is_kept_when_the_run_is_closed() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let history = start(folder, "boot");
    // Its root had ended, and grace was not over.
    let news = run(sample::clean());
    let root = ProcessId::parse(&news.invocation.id).unwrap();
    let ended = news.invocation.exit.as_ref().unwrap().at;
    let epoch_offset = offset(Duration::ZERO);
    history.tell(&news_at(epoch_offset, What::Opened(news)));
    assert!(history.flush(PATIENCE));
    let before = row(folder, root);
    let later = TOLD.after(Duration::from_secs(1));
    assert!(history.close(LostRun { invocation: root.to_string(), at: later, epoch_offset }));
    assert!(history.flush(PATIENCE));
    let moment = Moment { at: later, epoch_offset };
    assert_eq!(before.ended_at, Some(moment.unix(ended)));
    let closed_at = Some(moment.unix(later));
    assert_eq!(row(folder, root), Row { closed_at, is_uncertain: true, ..before });
}

#[test]
fn runs_of_another_boot_are_not_this_one_s_to_close() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let root = ProcessId { pid: 4200, start: 1 };
    let first = start(folder, "boot");
    first.tell(&news_at(0, What::Opened(going_on(root))));
    assert!(first.flush(PATIENCE));
    drop(first);
    let next = start(folder, "next boot");
    assert_eq!(next.open_runs(PATIENCE).unwrap(), []);
    assert!(next.close(LostRun { invocation: root.to_string(), at: TOLD, epoch_offset: 0 }));
    assert!(next.flush(PATIENCE));
    let Row { ended_at, closed_at, is_uncertain, .. } = row(folder, root);
    assert_eq!((ended_at, closed_at.is_some(), is_uncertain), (None, true, false));
}
