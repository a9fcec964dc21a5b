//! What counts and how it is told: the options and the end of every subcommand that judges a run.

use std::{
    io::{self, IsTerminal as _, Write as _},
    os::unix::ffi::OsStrExt as _,
    path::PathBuf,
    rc::Rc,
};

use anyhow::{anyhow, bail};
use clap::{Args, ValueEnum, builder::PossibleValue};
use globset::{GlobBuilder, GlobMatcher};

use super::exit::Status;
use crate::{
    cleanup::Allow,
    escape,
    lineage::{FindingKind, Lineage, Outcome, Policy, Process, Verdict},
    recording::Settlement,
    report::{self, ReportFile},
};

// No doc comment: clap would show it in the place of the subcommand's.
#[derive(Debug, Args)]
pub(super) struct JudgeArgs {
    // In an attribute: see `report`.
    #[arg(
        long,
        value_name = "KINDS",
        value_delimiter = ',',
        default_value = "zombie,survivor",
        help = "Findings that fail the run: zombie, survivor, orphan, stuck, outlived_call; or none"
    )]
    fail_on: Vec<FailOn>,
    /// Fail also on what was put right in time
    #[arg(long)]
    strict: bool,
    /// Never count a process whose name, executable or arguments match (repeatable)
    #[arg(long, value_name = "GLOB", value_parser = pattern)]
    allow: Vec<GlobMatcher>,
    // In an attribute: the documentation linter wants marks that help would show.
    #[arg(
        long,
        value_name = "FILE",
        help = "Write a report: JSON, JUnit or Markdown by the ending .json, .xml or .md (repeatable)"
    )]
    report: Vec<PathBuf>,
    /// What to print on standard error
    #[arg(long, default_value = "text")]
    format: Format,
    /// Exit status for a leak
    #[arg(long, value_name = "STATUS", default_value_t = Status::LEAKED)]
    leak_exit_code: u8,
    /// Print nothing when the verdict is clean
    #[arg(long)]
    quiet: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FailOn {
    Kind(FindingKind),
    None,
}

impl ValueEnum for FailOn {
    fn value_variants<'a>() -> &'a [Self] {
        const ALL: [FailOn; 6] = [
            FailOn::Kind(FindingKind::Zombie),
            FailOn::Kind(FindingKind::Survivor),
            FailOn::Kind(FindingKind::Orphan),
            FailOn::Kind(FindingKind::Stuck),
            FailOn::Kind(FindingKind::OutlivedCall),
            FailOn::None,
        ];
        &ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        match self {
            Self::Kind(kind) => kind.to_possible_value(),
            Self::None => Some(PossibleValue::new("none")),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people
    Text,
    /// The JSON contract, on one line
    Json,
    /// Nothing but errors
    None,
}

fn pattern(text: &str) -> Result<GlobMatcher, globset::Error> {
    // `*` also crosses slashes: arguments are not paths.
    Ok(GlobBuilder::new(text).literal_separator(false).build()?.compile_matcher())
}

/// The pattern that allows a process.
fn allowed(patterns: &[GlobMatcher], process: &Process) -> Option<String> {
    let line = process.args.join(&b' ');
    let texts = [Some(&process.name), process.exe.as_ref(), Some(&line)];
    let matching = patterns.iter().find(|glob| {
        let mut texts = texts.into_iter().flatten().chain(&process.args);
        texts.any(|text| glob.is_match(std::ffi::OsStr::from_bytes(text)))
    });
    matching.map(|glob| glob.glob().to_string())
}

impl JudgeArgs {
    /// The kinds that fail; empty for `none`.
    fn fail_on(&self) -> anyhow::Result<Vec<FindingKind>> {
        if self.fail_on == [FailOn::None] {
            return Ok(Vec::new());
        }
        self.fail_on
            .iter()
            .map(|kind| match kind {
                FailOn::Kind(kind) => Ok(*kind),
                FailOn::None => bail!("--fail-on none stands alone, without other kinds"),
            })
            .collect()
    }

    /// What says by which pattern a process is allowed.
    pub(super) fn allow(&self) -> Allow {
        let allow = self.allow.clone();
        Rc::new(move |process| allowed(&allow, process))
    }

    /// Makes ready to judge. Before COMMAND does anything: a report that cannot be written is
    /// known now.
    ///
    /// # Errors
    /// The options contradict each other, or a report cannot be written.
    pub(super) fn ready(&self) -> anyhow::Result<Judge<'_>> {
        let fail_on = self.fail_on()?;
        let files = self.report.iter().map(|path| ReportFile::open(path));
        let files =
            files.collect::<Result<_, _>>().map_err(|error| anyhow!("failed to {error}"))?;
        Ok(Judge { args: self, fail_on, files })
    }
}

/// Judges one run.
#[derive(Debug)]
pub(super) struct Judge<'a> {
    args: &'a JudgeArgs,
    fail_on: Vec<FindingKind>,
    files: Vec<ReportFile>,
}

impl Judge<'_> {
    /// Tells the outcome in every way that was asked for, and what to exit with.
    pub(super) fn judge(
        self,
        lineage: &Lineage,
        command: &[Vec<u8>],
        settlement: &Settlement,
    ) -> Status {
        let Self { args, fail_on, files } = self;
        let Settlement { status, interrupted, at, epoch_offset } = *settlement;
        let allow = &|process: &Process| allowed(&args.allow, process);
        let policy = Policy { fail_on: &fail_on, strict: args.strict, allow };
        let outcome = lineage.outcome(at, command, epoch_offset, policy);
        // First what others wait for: standard error may be a full pipe that nobody reads.
        let written = write_all(files, &outcome);
        print(args, &outcome);
        let gates = !fail_on.is_empty();
        let status = match interrupted {
            Some(signal) => Status::signalled(signal),
            None => Status::of_run(status, outcome.verdict, gates, args.leak_exit_code),
        };
        if written { status } else { Status::FAILED }
    }
}

/// The report on standard error, and annotations on a CI service that reads them.
fn print(args: &JudgeArgs, outcome: &Outcome) {
    let clean = outcome.verdict == Verdict::Clean;
    let mut text = match args.format {
        _ if args.quiet && clean => String::new(),
        Format::Text => {
            let colour = io::stderr().is_terminal()
                && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
            report::text::render(outcome, colour)
        }
        Format::Json => report::json::render_line(outcome),
        Format::None => String::new(),
    };
    if std::env::var_os("GITHUB_ACTIONS").is_some_and(|value| value == "true") {
        text.push_str(&report::github::annotations(outcome));
    }
    // Nobody to tell if standard error is closed; the exit status tells.
    let _ = io::stderr().write_all(text.as_bytes());
}

fn write_all(files: Vec<ReportFile>, outcome: &Outcome) -> bool {
    let mut all = true;
    for file in files {
        if let Err(error) = file.write(outcome) {
            complain(&format!("failed to {error}"));
            all = false;
        }
    }
    all
}

/// One line on standard error.
pub(super) fn complain(text: &str) {
    let _ = writeln!(io::stderr(), "tracer: {}", escape::terminal(text.as_bytes()));
}
