//! `tracer record`: `tracer run`, and a recording of it.

use std::path::PathBuf;

use clap::Args;

use super::{
    exit::Status,
    run::{self, RunArgs},
};

/// Run a command, judge what it leaves behind, and record it for tracer replay
///
/// The same options, reports and exit status as those of tracer run; 125 also if FILE could not
/// be written to its end, which does not keep COMMAND from running to its own.
///
/// tracer replay FILE gives the same reports again, anywhere. FILE holds names, arguments and
/// paths of processes, and with them whatever secrets are in arguments: it is made for its owner
/// alone (mode 0600). It replaces a file of that name before COMMAND runs.
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(super) struct RecordArgs {
    /// Where to record to
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    #[command(flatten)]
    pub(super) run: RunArgs,
}

/// Runs it all.
pub(super) fn execute(args: &RecordArgs) -> anyhow::Result<Status> {
    run::execute(&args.run, Some(&args.output))
}
