//! `tracer run`: runs a command as an invocation and judges what it left.

use std::{
    ffi::OsString,
    io::{self, IsTerminal as _, Write as _},
    os::unix::ffi::OsStrExt as _,
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context as _, anyhow, bail};
use clap::{Args, ValueEnum};
use globset::{GlobBuilder, GlobMatcher};

use super::exit::Status;
use crate::{
    driver::{self, CommandError, RunError, RunOptions, User},
    escape,
    kernel::{
        host,
        load::{DEFAULT_MAX_PROCESSES, DEFAULT_RING_BYTES, LoadOptions, Probes},
    },
    lineage::{Config, FindingKind, Outcome, Policy, Process},
    report::{self, ReportFile},
};

/// Run a command and judge what it leaves behind
///
/// COMMAND's own input and output are untouched; the report goes to standard error.
///
/// Exit status: COMMAND's own (128+N if signal N ended it) unless that is 0; then 23 if it left
/// something, 24 if events were lost that could change the verdict. 125: tracer itself failed;
/// 126, 127: COMMAND could not be run, or was not found.
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(super) struct RunArgs {
    /// How long the rest may take to end after COMMAND has ended
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = span)]
    grace: Duration,
    /// How long a parent may leave a dead child unreaped; 0s: until the parent's own end
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = span)]
    zombie_after: Duration,
    /// How long PID 1 or a subreaper may leave a dead orphan unreaped
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = span)]
    init_zombie_after: Duration,
    /// How long a process may sleep uninterruptibly (state D)
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = span)]
    stuck_after: Duration,
    /// Findings that fail the run: zombie, survivor, orphan, stuck; or none
    #[arg(long, value_name = "KINDS", value_delimiter = ',', default_value = "zombie,survivor")]
    fail_on: Vec<FailOn>,
    /// Fail also on what was put right in time
    #[arg(long)]
    strict: bool,
    /// Never count a process whose name, executable or arguments match (repeatable)
    #[arg(long, value_name = "GLOB", value_parser = pattern)]
    allow: Vec<GlobMatcher>,
    /// What to do with a leak
    #[arg(long, value_name = "ACTION", default_value = "report")]
    on_leak: OnLeak,
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
    /// Run COMMAND as this user, with its groups
    #[arg(long, value_name = "NAME", value_parser = User::named)]
    user: Option<User>,
    /// Processes that can be tracked at once
    #[arg(long, value_name = "N", default_value_t = DEFAULT_MAX_PROCESSES,
          value_parser = clap::value_parser!(u32).range(16..=1 << 24))]
    max_processes: u32,
    /// Size of the kernel's ring buffer: a power of two, at least 4096
    #[arg(long, value_name = "BYTES", default_value_t = DEFAULT_RING_BYTES,
          value_parser = ring_bytes, hide = true)]
    ring_bytes: u32,
    /// Log the kernel programs' diagnostics to standard error
    #[arg(long)]
    log_bpf: bool,
    /// The command to run, after `--`
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum FailOn {
    Zombie,
    Survivor,
    Orphan,
    Stuck,
    None,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum OnLeak {
    /// Tell of it
    Report,
    /// Kill it (not built yet: refused)
    Kill,
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

/// `2s`, `300ms`, `1m 30s`, `0s`.
fn span(text: &str) -> Result<Duration, String> {
    let parsed: Result<jiff::SignedDuration, _> = text.parse();
    let span = parsed.map_err(|error| error.to_string())?;
    Duration::try_from(span).map_err(|_| "a time cannot be negative".to_owned())
}

fn pattern(text: &str) -> Result<GlobMatcher, globset::Error> {
    // `*` also crosses slashes: arguments are not paths.
    Ok(GlobBuilder::new(text).literal_separator(false).build()?.compile_matcher())
}

fn ring_bytes(text: &str) -> Result<u32, String> {
    let bytes: u32 = text.parse().map_err(|error| format!("{error}"))?;
    if bytes.is_power_of_two() && (4096..=1 << 30).contains(&bytes) {
        Ok(bytes)
    } else {
        Err("not a power of two from 4096 to 1073741824".to_owned())
    }
}

impl RunArgs {
    /// Whether the kernel programs' diagnostics are asked for.
    pub(super) fn logs_kernel(&self) -> bool {
        self.log_bpf
    }

    fn config(&self) -> Config {
        Config {
            grace: self.grace,
            zombie_after: self.zombie_after,
            init_zombie_after: self.init_zombie_after,
            stuck_after: self.stuck_after,
        }
    }

    /// The kinds that fail; empty for `none`.
    fn fail_on(&self) -> anyhow::Result<Vec<FindingKind>> {
        if self.fail_on == [FailOn::None] {
            return Ok(Vec::new());
        }
        self.fail_on
            .iter()
            .map(|kind| match kind {
                FailOn::Zombie => Ok(FindingKind::Zombie),
                FailOn::Survivor => Ok(FindingKind::Survivor),
                FailOn::Orphan => Ok(FindingKind::Orphan),
                FailOn::Stuck => Ok(FindingKind::Stuck),
                FailOn::None => bail!("--fail-on none stands alone, without other kinds"),
            })
            .collect()
    }

    /// The pattern that allows a process.
    fn allowed(&self, process: &Process) -> Option<String> {
        let line = process.args.join(&b' ');
        let texts = [Some(&process.name), process.exe.as_ref(), Some(&line)];
        self.allow
            .iter()
            .find(|glob| {
                let mut texts = texts.into_iter().flatten().chain(&process.args);
                texts.any(|text| glob.is_match(std::ffi::OsStr::from_bytes(text)))
            })
            .map(|glob| glob.glob().to_string())
    }
}

/// Runs it all.
pub(super) fn execute(args: &RunArgs) -> anyhow::Result<Status> {
    let fail_on = args.fail_on()?;
    if args.on_leak == OnLeak::Kill {
        bail!(
            "--on-leak kill is not built yet: tracer reports what leaks and leaves it running; \
             use --on-leak report"
        );
    }
    // Before COMMAND does anything: a report that cannot be written is known now.
    let files = args.report.iter().map(|path| ReportFile::open(path));
    let files: Vec<_> =
        files.collect::<Result<_, _>>().map_err(|error| anyhow!("failed to {error}"))?;
    if let Some(obstacle) = host::first_obstacle() {
        bail!("{}", obstacle.sentence());
    }
    let options = LoadOptions {
        max_processes: args.max_processes,
        ring_bytes: args.ring_bytes,
        log: args.log_bpf || cfg!(debug_assertions),
    };
    let mut probes = Probes::attach(options).context("failed to set up the kernel side")?;
    let run = RunOptions {
        command: args.command.clone(),
        user: args.user.clone(),
        config: args.config(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("failed to start the async runtime")?;
    let settled = runtime.block_on(async {
        let logger = if options.log { log_kernel(&mut probes) } else { None };
        let settled = driver::run(probes, &run).await;
        drop(logger);
        settled
    });
    // A look that hangs in the kernel must not hang the exit.
    runtime.shutdown_background();
    let settled = match settled {
        Ok(settled) => settled,
        Err(error) => return refused(error),
    };
    let command: Vec<_> = args.command.iter().map(|arg| arg.as_bytes().to_vec()).collect();
    let policy =
        Policy { fail_on: &fail_on, strict: args.strict, allow: &|process| args.allowed(process) };
    let outcome = settled.lineage.outcome(settled.at, &command, settled.epoch_offset, policy);
    print(args, &outcome);
    let written = write_all(files, &outcome);
    let gates = !fail_on.is_empty();
    let status = match settled.interrupted {
        Some(signal) => Status::signalled(signal),
        None => Status::of_run(settled.status, outcome.verdict, gates, args.leak_exit_code),
    };
    Ok(if written { status } else { Status::FAILED })
}

/// COMMAND did not run: statuses of their own.
fn refused(error: RunError) -> anyhow::Result<Status> {
    let status = match &error {
        RunError::Command(CommandError::NotFound(_)) => Status::NOT_FOUND,
        RunError::Command(CommandError::NotExecutable { .. }) => Status::NOT_EXECUTABLE,
        _ => return Err(anyhow::Error::new(error).context("tracer failed")),
    };
    complain(&format!("failed to {error}"));
    Ok(status)
}

/// Diagnostics of the kernel programs, through aya-log to this process's log.
fn log_kernel(probes: &mut Probes) -> Option<tokio::task::JoinHandle<()>> {
    use tokio::io::{Interest, unix::AsyncFd};
    let logger = match aya_log::EbpfLogger::init(probes.ebpf_mut()) {
        Ok(logger) => logger,
        Err(error) => {
            log::warn!("failed to read the kernel programs' log: {error}");
            return None;
        }
    };
    // SAFETY: the logger owns its ring's descriptor and never replaces it.
    let logger = unsafe { AsyncFd::register_with_interest(logger, Interest::READABLE) };
    let mut logger = logger.ok()?;
    Some(tokio::spawn(async move {
        while let Ok(mut ready) = logger.readable_mut().await {
            ready.get_inner_mut().flush();
            ready.clear_ready();
        }
    }))
}

/// The report on standard error, and annotations on a CI service that reads them.
fn print(args: &RunArgs, outcome: &Outcome) {
    let clean = outcome.verdict == crate::lineage::Verdict::Clean;
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
fn complain(text: &str) {
    let _ = writeln!(io::stderr(), "tracer: {}", escape::terminal(text.as_bytes()));
}
