//! The tables `[[sink]]`: where news go.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use serde::Deserialize;
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    error::Problems,
    table::{meant, read},
    values::{Absolute, Endpoint, FileSize, Span},
};
use crate::lineage::FindingKind;

/// Rotated files that are kept at most.
const MOST_KEPT: u32 = 1000;
/// Where queues lie.
const QUEUES: &str = "/var/lib/tracer";

/// Where news go, and which.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sink {
    /// Which news.
    pub filter: Filter,
    /// Where to.
    pub target: Target,
}

/// Which news a sink gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    /// Findings of these kinds; none: no finding.
    pub findings: Vec<FindingKind>,
    /// Begin and end of invocations.
    pub invocations: bool,
}

impl Default for Filter {
    /// Everything.
    fn default() -> Self {
        Self { findings: FindingKind::ALL.to_vec(), invocations: true }
    }
}

/// Where a sink's news go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A file, a line each.
    File {
        /// The file.
        path: PathBuf,
        /// Bytes after which a new one is begun.
        max_size: u64,
        /// Files that are kept beside it.
        keep: u32,
    },
    /// Standard output, a line each.
    Stdout,
    /// An HTTP server.
    Webhook(Webhook),
}

/// An HTTP server that news are posted to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Webhook {
    /// Where it is.
    pub url: Endpoint,
    /// File with the key of the HMAC that requests are signed with; `None`: they are not.
    pub secret_file: Option<PathBuf>,
    /// Where waits what was not delivered yet. No other sink has the same.
    pub queue_path: PathBuf,
    /// Bytes that may wait.
    pub queue_max_size: u64,
    /// How long a request may take.
    pub timeout: Duration,
}

/// What can be asked for by `events`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Event {
    Finding,
    Invocation,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileEntry {
    only: Option<Spanned<Vec<FindingKind>>>,
    events: Option<Spanned<Vec<Event>>>,
    path: Absolute,
    max_size: Option<FileSize>,
    keep: Option<Spanned<u32>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct StdoutEntry {
    only: Option<Spanned<Vec<FindingKind>>>,
    events: Option<Spanned<Vec<Event>>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WebhookEntry {
    only: Option<Spanned<Vec<FindingKind>>>,
    events: Option<Spanned<Vec<Event>>>,
    url: Endpoint,
    secret_file: Option<Spanned<String>>,
    queue_path: Option<Absolute>,
    queue_max_size: Option<FileSize>,
    timeout: Option<Span>,
}

/// Reads all of them. Relative paths are below `folder`.
pub(super) fn sinks(
    entry: Option<Spanned<DeValue<'_>>>,
    folder: &Path,
    problems: &mut Problems<'_>,
) -> Vec<Sink> {
    let Some(entry) = entry else { return Vec::new() };
    let at = entry.span();
    let DeValue::Array(entries) = entry.into_inner() else {
        problems.add(Some(at), "sink is a list of tables: write [[sink]]");
        return Vec::new();
    };
    let mut sinks: Vec<Sink> = Vec::new();
    for entry in entries {
        if problems.is_full() {
            break;
        }
        let at = entry.span();
        let DeValue::Table(table) = entry.into_inner() else {
            problems.add(Some(at), "a sink is a table: write [[sink]]");
            continue;
        };
        let Some(sink) = sink(Spanned::new(at.clone(), table), folder, problems) else { continue };
        let is_taken = |other: &Sink| match (&other.target, &sink.target) {
            (Target::Stdout, Target::Stdout) => true,
            (other, this) => own_file(this).is_some() && own_file(other) == own_file(this),
        };
        if sinks.iter().any(is_taken) {
            let text = match &sink.target {
                Target::File { .. } => "another sink writes to this path",
                Target::Stdout => "another sink writes to standard output",
                Target::Webhook(_) => "another sink has this queue: give one of them a queue_path",
            };
            problems.add(Some(at), text);
        }
        sinks.push(sink);
    }
    sinks
}

/// The file that a sink writes to, and no other may.
fn own_file(target: &Target) -> Option<&Path> {
    match target {
        Target::File { path, .. } => Some(path),
        Target::Stdout => None,
        Target::Webhook(webhook) => Some(&webhook.queue_path),
    }
}

fn sink(
    mut table: Spanned<DeTable<'_>>,
    folder: &Path,
    problems: &mut Problems<'_>,
) -> Option<Sink> {
    const TYPES: [&str; 3] = ["file", "stdout", "webhook"];
    let Some(kind) = table.get_mut().remove("type") else {
        let text = format!("type is missing: known here are {}", TYPES.join(", "));
        problems.add(Some(table.span()), &text);
        return None;
    };
    let before = problems.len();
    let (only, events, target) = match kind.get_ref().as_str() {
        Some("file") => {
            let entry = read(table, &["type"], problems)?;
            let FileEntry { only, events, path: Absolute(path), max_size, keep } = entry;
            let max_size = max_size.map_or(64 << 20, |FileSize(bytes)| bytes);
            if let Some(keep) = keep.as_ref().filter(|keep| *keep.get_ref() > MOST_KEPT) {
                problems.add(Some(keep.span()), &format!("at most {MOST_KEPT} files are kept"));
            }
            let keep = keep.map_or(5, Spanned::into_inner);
            (only, events, Target::File { path, max_size, keep })
        }
        Some("stdout") => {
            let StdoutEntry { only, events } = read(table, &["type"], problems)?;
            (only, events, Target::Stdout)
        }
        Some("webhook") => {
            let entry = read(table, &["type"], problems)?;
            let WebhookEntry {
                only,
                events,
                url,
                secret_file,
                queue_path,
                queue_max_size,
                timeout,
            } = entry;
            let webhook = Webhook {
                secret_file: secret_file.map(|path| folder.join(path.into_inner())),
                queue_path: queue_path.map_or_else(|| queue_of(&url), |Absolute(path)| path),
                queue_max_size: queue_max_size.map_or(64 << 20, |FileSize(bytes)| bytes),
                timeout: timeout.map_or(Duration::from_secs(10), |Span(time)| time),
                url,
            };
            (only, events, Target::Webhook(webhook))
        }
        other => {
            let text = other.map_or_else(
                || "type is a string".to_owned(),
                |other| format!("unknown type {other:?}: {}", meant(other, &TYPES)),
            );
            problems.add(Some(kind.span()), &text);
            return None;
        }
    };
    let filter = filter(only, events, problems);
    (problems.len() == before).then_some(Sink { filter, target })
}

fn filter(
    only: Option<Spanned<Vec<FindingKind>>>,
    events: Option<Spanned<Vec<Event>>>,
    problems: &mut Problems<'_>,
) -> Filter {
    let mut filter = Filter::default();
    if let Some(only) = only {
        if only.get_ref().is_empty() {
            problems.add(Some(only.span()), "it names no kind: leave it out for all of them");
        }
        filter.findings = only.into_inner();
        filter.findings.sort_unstable();
        filter.findings.dedup();
    }
    if let Some(events) = events {
        let asked = |event| events.get_ref().contains(&event);
        if events.get_ref().is_empty() {
            problems.add(Some(events.span()), "it names nothing: leave it out for everything");
        }
        if !asked(Event::Finding) {
            filter.findings.clear();
        }
        filter.invocations = asked(Event::Invocation);
    }
    filter
}

/// The queue of a webhook that was given none: the same after every start.
fn queue_of(url: &Endpoint) -> PathBuf {
    let name = format!("webhook-{:08x}.queue", crc32fast::hash(url.as_str().as_bytes()));
    Path::new(QUEUES).join(name)
}
