//! `tracer replay`: judges a recorded run again.

use std::{
    fs::File,
    io::BufReader,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, anyhow};
use clap::Args;

use super::{
    exit::Status,
    judge::{JudgeArgs, complain},
    shown,
};
use crate::recording::{self, Ending, Reader, Replayed};

/// Judge a recorded run again
///
/// The same reports as of the run, and the same exit status, without root, kernel support or
/// COMMAND. --fail-on, --strict and --allow may be other ones than they were; the times, such as
/// --grace, are those of the run.
///
/// A recording that ends early, as one whose recorder was killed, is judged by what it holds:
/// never clean. Exit status 125 also if it is damaged, or of another version.
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(super) struct ReplayArgs {
    /// What `tracer record` has written
    #[arg(value_name = "FILE")]
    recording: PathBuf,
    #[command(flatten)]
    judge: JudgeArgs,
}

/// Runs it all.
pub(super) fn execute(args: &ReplayArgs) -> anyhow::Result<Status> {
    let judge = args.judge.ready()?;
    let (reader, Replayed { lineage, ending, ends_early }) = replay(&args.recording)?;
    if ends_early {
        complain(&format!(
            "the recording {} ends early, at byte {}: judged by what it holds",
            shown(&args.recording),
            reader.offset()
        ));
    }
    match ending {
        Ending::Settled(settlement) => {
            Ok(judge.judge(&lineage, &reader.opening().command, &settlement))
        }
        Ending::Refused { status, message } => {
            complain(&message);
            Ok(Status::of_refusal(status))
        }
    }
}

/// Replays a recording. Its reader knows how it begins, and where it ends.
pub(super) fn replay(path: &Path) -> anyhow::Result<(Reader<BufReader<File>>, Replayed)> {
    let file = File::open(path).with_context(|| format!("failed to open {}", shown(path)))?;
    let refused = |error| anyhow!("failed to replay {}: {error}", shown(path));
    let mut reader = Reader::new(BufReader::new(file)).map_err(refused)?;
    let replayed = recording::replay(&mut reader).map_err(refused)?;
    Ok((reader, replayed))
}
