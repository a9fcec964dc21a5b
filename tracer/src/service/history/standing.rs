//! What goes on as far as is known, and what becomes of it when nobody saw its end: the daemon was down,
//! or the host booted again.

use std::collections::HashSet;

use rusqlite::{Connection, OptionalExtension as _, Row, named_params};
use serde_json::Value;

use super::{
    FindingKey, HistoryError,
    query::unsigned,
    rows::{Moment, integer, text},
};
use crate::{
    lineage::{FindingKind, Nanos, ProcessId},
    service::news::Change,
};

/// A finding that stands as far as is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenFinding {
    /// Its process.
    pub process: ProcessId,
    /// Its kind.
    pub kind: FindingKind,
    /// Its pid in the tracer's PID namespace, if it has one.
    pub local_pid: Option<u32>,
    /// Pid to show of the parent that is to blame. A process of that pid is this parent if it began
    /// before [`OpenFinding::told_at`].
    pub parent: Option<u32>,
    /// The outermost agent's run that it belongs to.
    pub invocation: String,
    /// Since when it leaks.
    pub since: Nanos,
    /// When it was last told of: it stood then.
    pub told_at: Nanos,
}

/// What was told of, and is over.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Over {
    /// Findings.
    pub findings: HashSet<FindingKey>,
    /// Runs that have ended, by their root.
    pub runs: HashSet<ProcessId>,
}

/// A run that goes on as far as is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenRun {
    /// Its id.
    pub invocation: String,
    /// Its root.
    pub root: ProcessId,
}

/// A finding that stood when the daemon last told of it, and does so no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settlement {
    /// Its process.
    pub process: ProcessId,
    /// Its kind.
    pub kind: FindingKind,
    /// Since when, as far as is known.
    pub at: Nanos,
    /// Realtime minus boottime, ns.
    pub epoch_offset: i64,
    /// It was put right; else its process is gone, which put nothing right.
    pub is_resolved: bool,
}

/// A run that went on when the daemon last told of it, and of which nothing is there any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LostRun {
    /// Its id.
    pub invocation: String,
    /// When it ended, or, where that is not known, when it was found gone.
    pub at: Nanos,
    /// Realtime minus boottime, ns.
    pub epoch_offset: i64,
}

/// Findings of this boot that stand as far as is known, the first first.
pub(super) fn open_findings(
    connection: &Connection,
    boot_id: &str,
) -> Result<Vec<OpenFinding>, HistoryError> {
    let mut found = connection.prepare_cached(
        "SELECT pid, start, kind, local_pid, parent_pid, invocation, since_boot, told_boot \
         FROM findings WHERE boot_id = :boot_id AND closed_at IS NULL ORDER BY told_boot, id",
    )?;
    let mut rows = found.query(named_params! { ":boot_id": boot_id })?;
    let mut open = Vec::new();
    while let Some(row) = rows.next()? {
        let (process, kind) = key(row)?;
        open.push(OpenFinding {
            process,
            kind,
            local_pid: row.get("local_pid")?,
            parent: row.get("parent_pid")?,
            invocation: row.get("invocation")?,
            since: Nanos(unsigned(row, "since_boot")?),
            told_at: Nanos(unsigned(row, "told_boot")?),
        });
    }
    Ok(open)
}

/// Of which finding a row is.
fn key(row: &Row<'_>) -> Result<FindingKey, HistoryError> {
    let kind: String = row.get("kind")?;
    let kind = FindingKind::ALL.into_iter().find(|known| known.as_str() == kind);
    let kind = kind.ok_or(HistoryError::Row { what: "a finding's kind" })?;
    Ok((ProcessId { pid: row.get("pid")?, start: unsigned(row, "start")? }, kind))
}

/// What of this boot is over, the last that was told first, and at most so many of each.
pub(super) fn over(
    connection: &Connection,
    boot_id: &str,
    most: usize,
) -> Result<Over, HistoryError> {
    let most = integer(u64::try_from(most).unwrap_or(u64::MAX));
    let parameters = named_params! { ":boot_id": boot_id, ":most": most };
    let mut over = Over::default();
    let mut found = connection.prepare_cached(
        "SELECT pid, start, kind FROM findings WHERE boot_id = :boot_id AND closed_at IS NOT NULL \
         ORDER BY closed_at DESC LIMIT :most",
    )?;
    let mut rows = found.query(parameters)?;
    while let Some(row) = rows.next()? {
        over.findings.insert(key(row)?);
    }
    let mut found = connection.prepare_cached(
        "SELECT invocation FROM invocations WHERE boot_id = :boot_id AND closed_at IS NOT NULL \
         ORDER BY closed_at DESC LIMIT :most",
    )?;
    let mut rows = found.query(parameters)?;
    while let Some(row) = rows.next()? {
        let invocation: String = row.get("invocation")?;
        over.runs.extend(ProcessId::parse(&invocation));
    }
    Ok(over)
}

/// Runs of this boot that go on as far as is known, the first first.
pub(super) fn open_runs(
    connection: &Connection,
    boot_id: &str,
) -> Result<Vec<OpenRun>, HistoryError> {
    let mut found = connection.prepare_cached(
        "SELECT invocation FROM invocations WHERE boot_id = :boot_id AND closed_at IS NULL \
         ORDER BY id",
    )?;
    let ids = found.query_map(named_params! { ":boot_id": boot_id }, |row| row.get(0))?;
    let run = |invocation: String| {
        let root = ProcessId::parse(&invocation).ok_or(HistoryError::Row { what: "a run's id" })?;
        Ok(OpenRun { invocation, root })
    };
    ids.map(|id| run(id?)).collect()
}

/// A finding that stood when it was last told of does so no more. One that is closed already stays
/// as it is.
pub(super) fn settle(
    connection: &Connection,
    boot_id: &str,
    settlement: Settlement,
) -> rusqlite::Result<()> {
    let Settlement { process, kind, at, epoch_offset, is_resolved } = settlement;
    let moment = Moment { at, epoch_offset };
    let sql = "SELECT id, since_boot, json FROM findings WHERE boot_id = :boot_id AND pid = :pid \
               AND start = :start AND kind = :kind AND closed_at IS NULL";
    let found: Option<(i64, i64, String)> = connection
        .prepare_cached(sql)?
        .query_row(
            named_params! {
                ":boot_id": boot_id,
                ":pid": process.pid,
                ":start": integer(process.start),
                ":kind": kind.as_str(),
            },
            |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
        )
        .optional()?;
    let Some((id, since, json)) = found else { return Ok(()) };
    let change = if is_resolved { Change::Resolved } else { Change::Gone };
    let unix = moment.unix(at);
    connection
        .prepare_cached(
            "UPDATE findings SET change = :change, state = :state, resolved_at = :resolved_at, \
             gone_at = :gone_at, closed_at = :closed_at, told_at = :closed_at, \
             told_boot = :told_boot, json = :json WHERE id = :id",
        )?
        .execute(named_params! {
            ":change": change.as_str(),
            ":state": if is_resolved { "resolved" } else { "open" },
            ":resolved_at": is_resolved.then_some(unix),
            ":gone_at": (!is_resolved).then_some(unix),
            ":closed_at": unix,
            ":told_boot": integer(at.0),
            ":json": settled(json, moment, since, is_resolved),
            ":id": id,
        })?;
    Ok(())
}

/// A run that went on when it was last told of does so no more. How its root ended is not known, and
/// whatever was to be found of it at its end was not. One that is closed already stays as it is.
pub(super) fn close_run(
    connection: &Connection,
    boot_id: &str,
    LostRun { invocation, at, epoch_offset }: &LostRun,
) -> rusqlite::Result<()> {
    let moment = Moment { at: *at, epoch_offset: *epoch_offset };
    let sql = "SELECT id, ended_at, json FROM invocations WHERE boot_id = :boot_id \
               AND invocation = :invocation AND closed_at IS NULL";
    let found: Option<(i64, Option<i64>, String)> = connection
        .prepare_cached(sql)?
        .query_row(named_params! { ":boot_id": boot_id, ":invocation": invocation }, |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?))
        })
        .optional()?;
    let Some((id, ended_at, json)) = found else { return Ok(()) };
    let unix = moment.unix(*at);
    connection
        .prepare_cached(
            "UPDATE invocations SET ended_at = :ended_at, closed_at = :closed_at, uncertain = 1, \
             json = :json WHERE id = :id",
        )?
        .execute(named_params! {
            ":ended_at": ended_at.unwrap_or(unix),
            ":closed_at": unix,
            ":json": if ended_at.is_some() { json } else { ended(json, moment) },
            ":id": id,
        })?;
    Ok(())
}

/// The run as JSON once it has ended; as it was where it is none that tracer wrote.
fn ended(json: String, moment: Moment) -> String {
    let Ok(Value::Object(mut run)) = serde_json::from_str(&json) else { return json };
    run.insert("ended_at".to_owned(), moment.writer().time(moment.at).into());
    text(&Value::Object(run))
}

/// The finding as JSON once it is settled; as it was where it is none that tracer wrote.
fn settled(json: String, moment: Moment, since: i64, is_resolved: bool) -> String {
    let Ok(Value::Object(mut finding)) = serde_json::from_str(&json) else { return json };
    let since = Nanos(u64::try_from(since).unwrap_or(0));
    finding.insert("seconds".to_owned(), moment.at.since(since).as_secs_f64().into());
    if is_resolved {
        finding.insert("state".to_owned(), "resolved".into());
        finding.insert("resolved_at".to_owned(), moment.writer().time(moment.at).into());
    }
    text(&Value::Object(finding))
}

/// Runs and findings of other boots that seem to go on: their boot is over. When is not known;
/// they count as closed `now` (ns since the epoch), when that was noticed.
pub(super) fn close_other_boots(
    connection: &Connection,
    boot_id: &str,
    now: i64,
) -> rusqlite::Result<()> {
    for table in ["findings", "invocations"] {
        let sql = format!(
            "UPDATE {table} SET boot_over = 1, closed_at = :now \
             WHERE closed_at IS NULL AND boot_id <> :boot_id"
        );
        connection.execute(&sql, named_params! { ":now": now, ":boot_id": boot_id })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
