//! News as rows: what of each is kept, and the statements that keep it.

use rusqlite::{Connection, named_params};
use serde::Serialize;
use serde_json::Value;

use super::{
    FindingKey,
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
pub(super) struct Moment {
    pub(super) at: Nanos,
    pub(super) epoch_offset: i64,
}

impl Moment {
    /// Another moment as ns since the epoch, by the same clocks.
    pub(super) fn unix(self, at: Nanos) -> i64 {
        let unix = i128::from(at.0) + i128::from(self.epoch_offset);
        i64::try_from(unix).unwrap_or(if unix < 0 { i64::MIN } else { i64::MAX })
    }

    pub(super) fn writer(self) -> Writer {
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

/// Whether it tells of something that stands, or runs, and that is not there yet: nothing could remove it
/// again before it closes.
pub(super) fn adds(connection: &Connection, boot_id: &str, news: &News) -> rusqlite::Result<bool> {
    match &news.what {
        What::Opened(news) => {
            let sql = "SELECT NOT EXISTS (SELECT 1 FROM invocations \
                       WHERE boot_id = :boot_id AND invocation = :invocation)";
            let key = named_params! { ":boot_id": boot_id, ":invocation": news.invocation.id };
            connection.prepare_cached(sql)?.query_row(key, |row| row.get(0))
        }
        What::Finding(news)
            if news.change != Change::Withdrawn
                && news.gone_at.is_none()
                && news.finding.state == FindingState::Open =>
        {
            let (process, kind) = news.key();
            let sql = "SELECT NOT EXISTS (SELECT 1 FROM findings \
                       WHERE boot_id = :boot_id AND pid = :pid AND start = :start AND kind = :kind)";
            let key = named_params! {
                ":boot_id": boot_id,
                ":pid": process.pid,
                ":start": integer(process.start),
                ":kind": kind.as_str(),
            };
            connection.prepare_cached(sql)?.query_row(key, |row| row.get(0))
        }
        What::Ended(_) | What::Finding(_) => Ok(false),
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
    let FindingNews { invocation, change, uid, gone_at, kept_by, finding } = news;
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
        ":uid": uid,
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

/// `SQLite` has no unsigned integers; nothing that is kept here comes near the limit.
pub(super) fn integer(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

pub(super) fn value(entry: &impl Serialize) -> Value {
    serde_json::to_value(entry).expect("structs with string keys always serialise")
}

/// JSON as the contracts have it.
pub(super) fn text(value: &Value) -> String {
    json_text(&value.to_string())
}

/// What an agent said, or who keeps something: as people are told.
pub(super) fn shown(text: &str) -> String {
    terminal(text.as_bytes())
}

/// A list of what a process chose, as JSON.
pub(super) fn texts(words: &[Vec<u8>]) -> String {
    text(&words.iter().map(|word| lossless(word)).collect())
}

#[cfg(test)]
mod tests;
