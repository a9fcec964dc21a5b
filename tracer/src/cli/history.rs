//! `tracer leaks` and `tracer history`: what the daemon has kept of what it found.

use std::{
    io::{self, Write as _},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, anyhow};
use clap::Args;

use super::{exit::Status, socket::SocketArgs};
use crate::{
    lineage::FindingKind,
    quantity::time,
    service::{
        control::protocol::Ask,
        history::{DEFAULT_DATABASE, HistoryError, Query, Reader, render},
    },
};

/// How far to look back in a file.
const A_DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// List what leaks on this host, as the daemon has found
///
/// The latest first. Without --since what stands now; with it what was there at some time within that,
/// whether it stands, was put right or is gone by now. Asks the daemon: root and the group in its
/// configuration see all, others what stands of their own processes. With --database its history is read
/// from the file, also where no daemon runs.
///
/// Exit status: 0, also if there is none; 125 if neither daemon nor history can be asked.
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(super) struct LeaksArgs {
    /// How far to look back: 90m, 24h, 7d; in --database 24h unless another time is given
    #[arg(long, value_name = "TIME", value_parser = time)]
    since: Option<Duration>,
    /// Only those of an agent of this name
    #[arg(long, value_name = "NAME")]
    agent: Option<String>,
    /// Only those of this kind
    #[arg(long)]
    kind: Option<FindingKind>,
    // In an attribute: the documentation linter wants marks that help would show.
    #[arg(long, help = "Also what a rule, TRACER_KEEP or a lease keeps, which is no leak")]
    kept: bool,
    /// Only those that are there now
    #[arg(long)]
    standing: bool,
    /// List at most so many
    #[arg(long, value_name = "NUMBER", default_value_t = 1000)]
    limit: usize,
    /// Print JSON, on one line
    #[arg(long)]
    json: bool,
    /// Read the history from this file instead of asking the daemon
    #[arg(long, value_name = "FILE")]
    database: Option<PathBuf>,
    #[command(flatten)]
    socket: SocketArgs,
}

/// Say which agents, tools and programs leak most
///
/// Of what the daemon has found on this host and was there at some time within the last --since.
///
/// Exit status: 0; 125 if the history cannot be read.
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(super) struct HistoryArgs {
    /// How far to look back: 90m, 24h, 7d
    #[arg(long, value_name = "TIME", default_value = "7d", value_parser = time)]
    since: Duration,
    #[command(flatten)]
    told: Told,
}

// No doc comment: clap would show it in the place of the subcommand's.
#[derive(Debug, Args)]
struct Told {
    /// Print JSON, on one line
    #[arg(long)]
    json: bool,
    /// The daemon's database
    #[arg(long, value_name = "FILE", default_value = DEFAULT_DATABASE)]
    database: PathBuf,
}

/// `tracer leaks`.
pub(super) fn leaks(args: &LeaksArgs) -> anyhow::Result<Status> {
    let LeaksArgs { since, agent, kind, kept, standing, limit, json, database, socket } = args;
    let (agent, kind) = (agent.clone(), *kind);
    let leaks = match database {
        Some(database) => {
            let query = Query {
                since: Some(since.unwrap_or(A_DAY)),
                agent,
                kind,
                only_standing: *standing,
                with_kept: *kept,
                limit: *limit,
                uid: None,
            };
            ask(database, |history| history.leaks(&query))?
        }
        None => {
            let told = socket.ask(&Ask::Leaks {
                since_seconds: since.map(|since| since.as_secs()),
                agent,
                kind,
                kept: *kept,
                standing: *standing,
                limit: Some(*limit),
            })?;
            serde_json::from_str(&told).context("failed to read the daemon's answer")?
        }
    };
    print(&if *json { render::json(&leaks) } else { render::leaks(&leaks) })
}

/// `tracer history`.
pub(super) fn history(args: &HistoryArgs) -> anyhow::Result<Status> {
    let HistoryArgs { since, told: Told { json, database } } = args;
    let summary = ask(database, |history| history.summary(Some(*since)))?;
    print(&if *json { render::json(&summary) } else { render::summary(&summary) })
}

/// Where answers come from.
fn ask<T>(
    database: &Path,
    question: impl FnOnce(&Reader) -> Result<T, HistoryError>,
) -> anyhow::Result<T> {
    let answer = Reader::open(database).and_then(|history| question(&history));
    answer.map_err(|error| anyhow!("failed to {error}"))
}

fn print(text: &str) -> anyhow::Result<Status> {
    io::stdout().write_all(text.as_bytes()).context("failed to write to standard output")?;
    Ok(Status::OK)
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum as _;

    use super::*;

    #[test]
    fn kinds_are_spelled_as_in_the_contracts() {
        for kind in FindingKind::value_variants() {
            let name = kind.to_possible_value().map(|value| value.get_name().to_owned());
            assert_eq!(name.as_deref(), Some(kind.as_str()));
        }
    }

    #[test]
    fn missing_history_is_said_to_be_missing() {
        let folder = tempfile::tempdir().unwrap();
        let database = folder.path().join("history.db");
        let error = ask(&database, |history| history.summary(None)).unwrap_err().to_string();
        let start = format!("failed to open the history {}: there is none;", database.display());
        assert!(error.starts_with(&start), "{error}");
        assert!(!database.exists());
    }
}
