//! Processes that somebody asked to be ended, and what came of it: kept whatever was found of them.

use rusqlite::{Connection, named_params};

use super::{
    rows::{Moment, integer, shown, text, texts, value},
    schema::ON_REQUEST,
};
use crate::{
    escape::lossless_line,
    lineage::{Action, Nanos, OnRequest, Process, Receipt},
    service::news::Origin,
};

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndedOnRequest {
    /// Realtime minus boottime, ns.
    pub epoch_offset: i64,
    /// The outermost agent's run that it belongs to.
    pub invocation: String,
    /// The agent above it, if a rule knows that.
    pub agent: Option<String>,
    /// The process, and what came of it.
    pub told: OnRequest,
}

impl EndedOnRequest {
    /// Bytes that it holds, roughly.
    pub(super) fn weight(&self) -> usize {
        let words = self.told.process.args.iter().map(|word| word.len() + 24);
        size_of::<Self>() + 1024 + words.sum::<usize>()
    }
}

/// Keeps it: one of a process and request.
pub(super) fn put(
    connection: &Connection,
    Origin { node, boot_id }: &Origin,
    ended: &EndedOnRequest,
) -> rusqlite::Result<()> {
    let EndedOnRequest { epoch_offset, invocation, agent, told } = ended;
    let OnRequest { process, tool_call, action } = told;
    let Process { id, pids, name, exe, args, .. } = process;
    let Action { receipt, exit: _, reaped: _ } = action;
    // The rest is in the JSON. Requests are never dry runs: then a plan is all there is.
    let Receipt { remedy, decided_by, decided_at, result, at, .. } = receipt;
    let unix = |at: Nanos| Moment { at, epoch_offset: *epoch_offset }.unix(at);
    let writer = Moment { at: *at, epoch_offset: *epoch_offset }.writer();
    let call = tool_call.as_ref();
    connection.prepare_cached(&ON_REQUEST.put())?.execute(named_params! {
        ":boot_id": boot_id,
        ":node": node,
        ":pid": id.pid,
        ":start": integer(id.start),
        ":invocation": invocation,
        ":decided_at": unix(*decided_at),
        ":closed_at": unix(*at),
        ":local_pid": pids.local,
        ":agent": agent,
        ":tool_call": call.and_then(|call| call.id.as_deref()).map(shown),
        ":tool": call.and_then(|call| call.name.as_deref()).map(shown),
        ":confidence": call.map(|call| call.confidence.as_str()),
        ":remedy": remedy.as_str(),
        ":result": result.as_str(),
        ":decided_by": shown(decided_by),
        ":name": lossless_line(name),
        ":exe": exe.as_deref().map(lossless_line),
        ":args": texts(args),
        ":action": text(&value(&writer.action(action))),
    })?;
    Ok(())
}

#[cfg(test)]
pub(super) mod tests;
