//! `tracer replay`: judges a recorded run again.

use std::{fs::File, io::BufReader, os::unix::ffi::OsStrExt as _, path::PathBuf};

use anyhow::{Context as _, anyhow};
use clap::Args;

use super::{
    exit::Status,
    judge::{JudgeArgs, complain},
};
use crate::{
    escape,
    recording::{self, Ending, Reader, Replayed},
};

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
    let shown = escape::terminal(args.recording.as_os_str().as_bytes());
    let file = File::open(&args.recording).with_context(|| format!("failed to open {shown}"))?;
    let refused = |error| anyhow!("failed to replay {shown}: {error}");
    let mut reader = Reader::new(BufReader::new(file)).map_err(refused)?;
    let Replayed { lineage, ending, ends_early } =
        recording::replay(&mut reader).map_err(refused)?;
    if ends_early {
        complain(&format!(
            "the recording {shown} ends early, at byte {}: judged by what it holds",
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
