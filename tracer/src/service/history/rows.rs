//! News as rows: what of each is kept, and the statements that keep it.

use rusqlite::{Connection, OptionalExtension as _, named_params};
use serde::Serialize;
use serde_json::Value;

use super::{
    FindingKey, Settlement,
    schema::{FINDINGS, INVOCATIONS},
};
use crate::{
    escape::{json_text, lossless, lossless_line, terminal},
    lineage::{
        Action, Agent, Attribution, Finding, FindingState, Invocation, Nanos, Parent, Process,
    },
    report::json::Writer,
    service::news::{Change, FindingNews, InvocationNews, News, Origin, What},
};

/// A moment on both clocks.
#[derive(Clone, Copy)]
struct Moment {
    at: Nanos,
    epoch_offset: i64,
}

impl Moment {
    /// Another moment as ns since the epoch, by the same clocks.
    fn unix(self, at: Nanos) -> i64 {
        let unix = i128::from(at.0) + i128::from(self.epoch_offset);
        i64::try_from(unix).unwrap_or(if unix < 0 { i64::MIN } else { i64::MAX })
    }

    fn writer(self) -> Writer {
        Writer { epoch_offset: self.epoch_offset }
    }
}

/// Keeps one piece of news: the last of each key.
pub(super) fn put(connection: &Connection, origin: &Origin, news: &News) -> rusqlite::Result<()> {
    let News { at, epoch_offset, what } = news;
    let told = Moment { at: *at, epoch_offset: *epoch_offset };
    match what {
        What::Opened(news) => put_invocation(connection, origin, news, told, false),
        What::Ended(news) => put_invocation(connection, origin, news, told, true),
        What::Finding(news) if news.change == Change::Withdrawn => {
            remove_finding(connection, &origin.boot_id, news.key())
        }
        What::Finding(news) => put_finding(connection, origin, news, told),
    }
}

fn put_invocation(
    connection: &Connection,
    Origin { node, boot_id }: &Origin,
    news: &InvocationNews,
    told: Moment,
    has_ended: bool,
) -> rusqlite::Result<()> {
    let InvocationNews { invocation, uid, stats, is_uncertain } = news;
    let entry = value(&told.writer().invocation(invocation));
    let Invocation { id, parent, agent, command, root, started_at, exit, cgroup: _ } = invocation;
    let agent = agent.as_ref();
    let ended_at = match exit {
        Some(exit) => Some(told.unix(exit.at)),
        None => has_ended.then(|| told.unix(told.at)),
    };
    let mut row = connection.prepare_cached(&INVOCATIONS.put())?;
    row.execute(named_params! {
        ":boot_id": boot_id,
        ":node": node,
        ":invocation": id,
        ":parent": parent,
        ":agent": agent.and_then(|agent| agent.name.as_deref()),
        ":version": agent.and_then(|agent| agent.version.as_deref()).map(lossless_line),
        ":session": agent.and_then(|agent| agent.session_id.as_deref()).map(lossless_line),
        ":root_pid": root.pids.shown(),
        ":uid": uid,
        ":started_at": told.unix(*started_at),
        ":ended_at": ended_at,
        ":boot_over": false,
        ":closed_at": ended_at.filter(|_| has_ended),
        ":uncertain": is_uncertain,
        ":stats": text(&value(stats)),
        ":exit": exit.as_ref().map(|_| text(&entry["exit"])),
        ":command": texts(command),
        ":json": text(&entry),
    })?;
    Ok(())
}

fn put_finding(
    connection: &Connection,
    Origin { node, boot_id }: &Origin,
    news: &FindingNews,
    told: Moment,
) -> rusqlite::Result<()> {
    let FindingNews { invocation, change, gone_at, kept_by, finding } = news;
    let entry = value(&told.writer().finding(finding));
    // What is left out here is in the JSON.
    let Finding {
        id: _,
        kind,
        state,
        counted: _,
        process,
        lineage: _,
        lineage_elided: _,
        parent,
        adopter: _,
        exit: _,
        cause,
        agent,
        tool_call,
        resources,
        blocked: _,
        action,
        since,
        until: _,
    } = finding;
    let Process { id, pids, name, exe, args, .. } = process;
    let resolved_at = match state {
        FindingState::Open => None,
        FindingState::Resolved(at) => Some(told.unix(*at)),
    };
    let gone_at = gone_at.map(|at| told.unix(at));
    let call = tool_call.as_ref();
    let receipt = action.as_ref().map(|Action { receipt, exit: _, reaped: _ }| receipt);
    let listening = resources.as_ref().map(|resources| resources.listening.as_slice());
    let agent_of = |agent: &Agent| agent.invocation.clone();
    let summary_of = |call: &Attribution| call.summary.as_deref().map(lossless_line);
    let mut row = connection.prepare_cached(&FINDINGS.put())?;
    row.execute(named_params! {
        ":boot_id": boot_id,
        ":node": node,
        ":pid": id.pid,
        ":start": integer(id.start),
        ":kind": kind.as_str(),
        ":invocation": invocation,
        ":change": change.as_str(),
        ":state": entry["state"].as_str(),
        ":since_at": told.unix(*since),
        ":since_boot": integer(since.0),
        ":told_at": told.unix(told.at),
        ":told_boot": integer(told.at.0),
        ":resolved_at": resolved_at,
        ":gone_at": gone_at,
        ":boot_over": false,
        // What is none yet compares as the least.
        ":closed_at": resolved_at.max(gone_at),
        ":uid": None::<u32>,
        ":local_pid": pids.local,
        ":parent_pid": parent.as_ref().map(|Parent { pid, .. }| *pid),
        ":parent_name": parent.as_ref().map(|Parent { name, .. }| lossless_line(name)),
        ":agent": agent.as_ref().and_then(|agent| agent.name.as_deref()),
        ":agent_invocation": agent.as_ref().map(agent_of),
        ":tool_call": call.and_then(|call| call.id.as_deref()).map(shown),
        ":tool": call.and_then(|call| call.name.as_deref()).map(shown),
        ":confidence": call.map(|call| call.confidence.as_str()),
        ":source": entry["tool_call"]["source"].as_str(),
        ":cause": cause.code.as_str(),
        ":rss_bytes": resources.as_ref().and_then(|held| held.rss_bytes).map(integer),
        ":remedy": receipt.map(|receipt| receipt.remedy.as_str()),
        ":result": receipt.map(|receipt| receipt.result.as_str()),
        ":dry_run": receipt.map(|receipt| receipt.dry_run),
        ":kept_by": kept_by.as_deref().map(shown),
        ":name": lossless_line(name),
        ":exe": exe.as_deref().map(lossless_line),
        ":tool_summary": call.and_then(summary_of),
        ":cause_text": cause.text,
        ":cause_hint": cause.hint,
        ":ports": texts(listening.unwrap_or_default()),
        ":args": texts(args),
        ":action": receipt.map(|_| text(&entry["action"])),
        ":json": text(&entry),
    })?;
    Ok(())
}

/// Afterwards no finding has this key.
pub(super) fn remove_finding(
    connection: &Connection,
    boot_id: &str,
    (process, kind): FindingKey,
) -> rusqlite::Result<()> {
    let sql = "DELETE FROM findings WHERE boot_id = :boot_id AND pid = :pid AND start = :start \
               AND kind = :kind";
    connection.prepare_cached(sql)?.execute(named_params! {
        ":boot_id": boot_id,
        ":pid": process.pid,
        ":start": integer(process.start),
        ":kind": kind.as_str(),
    })?;
    Ok(())
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

/// `SQLite` has no unsigned integers; nothing that is kept here comes near the limit.
pub(super) fn integer(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn value(entry: &impl Serialize) -> Value {
    serde_json::to_value(entry).expect("structs with string keys always serialise")
}

/// JSON as the contracts have it.
fn text(value: &Value) -> String {
    json_text(&value.to_string())
}

/// What an agent said, or who keeps something: as people are told.
fn shown(text: &str) -> String {
    terminal(text.as_bytes())
}

/// A list of what a process chose, as JSON.
fn texts(words: &[Vec<u8>]) -> String {
    text(&words.iter().map(|word| lossless(word)).collect())
}

#[cfg(test)]
mod tests;
