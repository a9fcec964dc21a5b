//! What was done about a finding: in words, and in the JSON contract.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{
    digest::Group,
    json::{ExitEntry, Writer},
    words::{count, duration, enumerate},
};
use crate::{
    escape::terminal_short,
    lineage::{
        Action, ActionResult, Cleanup, PortFreed, Reaper, Receipt, Remedy, SignalGiven,
        SignalTarget,
    },
    signals,
};

/// Longest reason, in characters.
const REASON: usize = 300;

/// The key `action` of a finding.
#[derive(Serialize)]
pub(crate) struct ActionEntry<'a> {
    remedy: Remedy,
    decided_by: &'a str,
    decided_at: Option<String>,
    dry_run: bool,
    signals: Vec<SignalEntry<'a>>,
    result: ActionResult,
    reason: Option<&'a str>,
    at: Option<String>,
    exit: Option<ExitEntry>,
    reaped_by: Option<Reaper>,
    ports: Vec<PortEntry<'a>>,
}

#[derive(Serialize)]
struct SignalEntry<'a> {
    signal: String,
    at: Option<String>,
    to: &'static str,
    pid: Option<u32>,
    error: Option<&'a str>,
}

#[derive(Serialize)]
struct PortEntry<'a> {
    address: &'a str,
    /// From the first signal on; `null`: somebody listens there still.
    free_after_seconds: Option<f64>,
}

/// The key `cleanup` of a report.
#[derive(Serialize)]
pub(super) struct CleanupEntry {
    began_at: Option<String>,
    ended_at: Option<String>,
    dry_run: bool,
    results: BTreeMap<&'static str, u64>,
}

impl Writer {
    pub(crate) fn action<'a>(&self, action: &'a Action) -> ActionEntry<'a> {
        let Action { receipt, exit, reaped } = action;
        let Receipt {
            process: _,
            kind: _,
            remedy,
            decided_by,
            decided_at,
            dry_run,
            signals,
            result,
            reason,
            at,
            ports,
        } = receipt;
        ActionEntry {
            remedy: *remedy,
            decided_by,
            decided_at: self.time(*decided_at),
            dry_run: *dry_run,
            signals: signals.iter().map(|given| self.signal(given)).collect(),
            result: *result,
            reason: reason.as_deref(),
            at: self.time(*at),
            exit: exit.as_ref().map(ExitEntry::from),
            reaped_by: *reaped,
            ports: ports
                .iter()
                .map(|PortFreed { address, free_at }| PortEntry {
                    address,
                    free_after_seconds: free_at
                        .map(|free| free.since(first_signal(receipt)).as_secs_f64()),
                })
                .collect(),
        }
    }

    fn signal<'a>(&self, given: &'a SignalGiven) -> SignalEntry<'a> {
        let SignalGiven { at, signal, to, refused } = given;
        let (to, pid) = match to {
            SignalTarget::Process => ("process", None),
            SignalTarget::Parent(pid) => ("parent", Some(*pid)),
            SignalTarget::Group(pid) => ("group", Some(*pid)),
            SignalTarget::Cgroup => ("cgroup", None),
        };
        let (signal, at) = (signals::name(*signal), self.time(*at));
        SignalEntry { signal, at, to, pid, error: refused.as_deref() }
    }

    pub(super) fn cleanup(&self, cleanup: &Cleanup) -> CleanupEntry {
        let Cleanup { began_at, ended_at, dry_run, results } = cleanup;
        CleanupEntry {
            began_at: self.time(*began_at),
            ended_at: self.time(*ended_at),
            dry_run: *dry_run,
            results: results.iter().map(|(result, number)| (result.as_str(), *number)).collect(),
        }
    }
}

fn first_signal(receipt: &Receipt) -> crate::lineage::Nanos {
    receipt.signals.first().map_or(receipt.decided_at, |given| given.at)
}

/// What was done about findings that are told together: a sentence; `None`: nothing was asked for.
pub(super) fn sentence(group: &Group<'_>) -> Option<String> {
    if group.len() == 1 {
        return group.first().action.as_ref().map(single);
    }
    let mut results = BTreeMap::new();
    for action in group.iter().filter_map(|finding| finding.action.as_ref()) {
        *results.entry(action.receipt.result).or_insert(0_usize) += 1;
    }
    let told: Vec<_> = results
        .into_iter()
        .map(|(result, number)| format!("{number} {}", of_several(result)))
        .collect();
    (!told.is_empty()).then(|| format!("{}.", enumerate(&told)))
}

/// What was done about one process: `SIGTERM; it ended (who decided).`
pub(super) fn single(action: &Action) -> String {
    let Action { receipt, exit, reaped } = action;
    let mut told = Vec::new();
    let signals: Vec<_> = receipt.signals.iter().map(given).collect();
    if !signals.is_empty() {
        told.push(signals.join(", then "));
    }
    let end = exit
        .as_ref()
        .filter(|_| matches!(receipt.result, ActionResult::Ended | ActionResult::EndedByItself));
    told.push(match end {
        Some(exit) => {
            let after = duration(exit.at.since(first_signal(receipt)));
            format!("it was {exit} after {after}").replace("it was exited", "it exited")
        }
        None => outcome(receipt.result).to_owned(),
    });
    if let (Some(_), Some(reaper)) = (end, reaped) {
        told.push(match reaper {
            Reaper::Parent => "reaped by its parent".to_owned(),
            Reaper::Adopter => "reaped by its adopter".to_owned(),
        });
    }
    if let Some(reason) = &receipt.reason {
        told.push(terminal_short(reason.as_bytes(), REASON));
    }
    for PortFreed { address, free_at } in &receipt.ports {
        let address = terminal_short(address.as_bytes(), REASON);
        told.push(match free_at {
            Some(free) => {
                format!("{address} free after {}", duration(free.since(first_signal(receipt))))
            }
            None => format!("{address} is still listened at"),
        });
    }
    let decided_by = terminal_short(receipt.decided_by.as_bytes(), REASON);
    format!("{} ({decided_by}).", told.join("; "))
}

fn given(given: &SignalGiven) -> String {
    let name = signals::name(given.signal);
    let to = match given.to {
        SignalTarget::Process => String::new(),
        SignalTarget::Parent(pid) => format!(" to its parent {pid}"),
        SignalTarget::Group(pid) => format!(" to its process group {pid}"),
        SignalTarget::Cgroup => " to the run's cgroup".to_owned(),
    };
    let refused = if given.refused.is_some() { " (refused)" } else { "" };
    format!("{name}{to}{refused}")
}

/// Of one process.
fn outcome(result: ActionResult) -> &'static str {
    match result {
        ActionResult::Ended => "it ended",
        ActionResult::EndedByItself => "it ended by itself",
        ActionResult::Reaped => "it was reaped",
        ActionResult::StillThere => "it is still there",
        ActionResult::Unkillable => "SIGKILL has not ended it",
        ActionResult::Escaped => "it escaped: it was forked faster than it could be killed",
        ActionResult::Kept => "it is kept",
        ActionResult::Refused => "it was not touched",
        ActionResult::NotPermitted => "tracer has not the right to signal it",
        ActionResult::Limited => "it was not touched",
        ActionResult::WouldAct => "it would have been signalled; nothing was touched",
    }
}

/// Of several.
fn of_several(result: ActionResult) -> &'static str {
    match result {
        ActionResult::Ended => "ended by tracer",
        ActionResult::EndedByItself => "ended by themselves",
        ActionResult::Reaped => "reaped",
        ActionResult::StillThere => "still there",
        ActionResult::Unkillable => "not ended by SIGKILL",
        ActionResult::Escaped => "escaped",
        ActionResult::Kept => "kept",
        ActionResult::Refused => "not touched",
        ActionResult::Limited => "left alone by max_kills_per_minute",
        ActionResult::NotPermitted => "not permitted to be signalled",
        ActionResult::WouldAct => "would have been signalled",
    }
}

/// `cleaned up: 12 ended by tracer and 1 kept, in 1.2 s`.
pub(super) fn summary(cleanup: &Cleanup) -> String {
    let told: Vec<_> = cleanup
        .results
        .iter()
        .map(|(result, number)| format!("{number} {}", of_several(*result)))
        .collect();
    let spent = duration(cleanup.ended_at.since(cleanup.began_at));
    let all = count(cleanup.results.values().sum::<u64>(), "process");
    format!("{all}: {}, in {spent}", enumerate(&told))
}
