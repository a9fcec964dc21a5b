//! The command line, one file a subcommand.

mod blame;
mod config;
mod daemon;
mod doctor;
mod events;
mod exit;
mod history;
mod hook;
mod judge;
mod kill;
mod kind;
mod logging;
mod ps;
mod record;
mod replay;
mod run;
mod socket;
mod status;
mod told;

use std::{ffi::OsString, path::Path};

use anyhow::Context as _;
use clap::{Parser, Subcommand};

pub use exit::Status;
pub use hook::run_by_agent;

use crate::{
    escape,
    kernel::{
        host::HookCheck,
        load::{DEFAULT_MAX_PROCESSES, DEFAULT_RING_BYTES, LoadOptions, Probes},
    },
    lineage::Rules,
};

/// Finds, explains and gates on the processes that a command leaves behind.
///
/// Watches from inside the kernel (eBPF), so that nothing that forks, however briefly, is missed.
#[derive(Debug, Parser)]
#[command(version, about, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(Box<run::RunArgs>),
    Record(Box<record::RecordArgs>),
    Replay(replay::ReplayArgs),
    Daemon(daemon::DaemonArgs),
    Ps(ps::PsArgs),
    Tree(ps::TreeArgs),
    Status(status::StatusArgs),
    Events(events::EventsArgs),
    Blame(blame::BlameArgs),
    Kill(kill::KillArgs),
    Leaks(history::LeaksArgs),
    History(history::HistoryArgs),
    Hook(hook::HookArgs),
    Config(config::ConfigArgs),
    /// Say what this host has and lacks for tracer, a line a check
    ///
    /// Exit status: 0 if `tracer run` can work here, else 125.
    Doctor,
}

impl Cli {
    /// Reads the command line. Where it is wrong, says so, and what to exit with: 2, as is usual, but for
    /// `tracer status`, of which that says that a process is gone.
    ///
    /// # Errors
    /// It is wrong, or asks for help, which has been told.
    pub fn read(args: impl IntoIterator<Item = OsString>) -> Result<Self, Status> {
        let args: Vec<_> = args.into_iter().collect();
        let is_status = args.get(1).is_some_and(|name| name == "status");
        Self::try_parse_from(args).map_err(|error| {
            let _ = error.print();
            match error.exit_code() {
                0 => Status::OK,
                _ if is_status => Status::FAILED,
                _ => Status::USAGE,
            }
        })
    }

    /// Whether `--log-bpf` asks for the kernel programs' diagnostics, which are debug messages.
    #[must_use]
    pub fn logs_kernel(&self) -> bool {
        match &self.command {
            Command::Run(args) => args.logs_kernel(),
            Command::Record(args) => args.run.logs_kernel(),
            Command::Daemon(_)
            | Command::Replay(_)
            | Command::Ps(_)
            | Command::Tree(_)
            | Command::Status(_)
            | Command::Events(_)
            | Command::Blame(_)
            | Command::Kill(_)
            | Command::Leaks(_)
            | Command::History(_)
            | Command::Hook(_)
            | Command::Config(_)
            | Command::Doctor => false,
        }
    }

    /// Whether it starts a log of its own, as its configuration says.
    #[must_use]
    pub fn logs_by_itself(&self) -> bool {
        matches!(self.command, Command::Daemon(_))
    }

    /// Does what was asked for.
    ///
    /// # Errors
    /// What keeps tracer itself from working; `main` shows it and exits with
    /// [`Status::FAILED`].
    pub fn execute(self) -> anyhow::Result<Status> {
        match self.command {
            Command::Run(args) => run::execute(&args, None),
            Command::Record(args) => record::execute(&args),
            Command::Daemon(args) => daemon::execute(&args),
            Command::Replay(args) => replay::execute(&args),
            Command::Ps(args) => ps::list(&args),
            Command::Tree(args) => ps::draw(&args),
            Command::Status(args) => status::execute(&args),
            Command::Events(args) => events::execute(&args),
            Command::Blame(args) => blame::execute(&args),
            Command::Kill(args) => kill::execute(&args),
            Command::Leaks(args) => history::leaks(&args),
            Command::History(args) => history::history(&args),
            Command::Hook(args) => hook::execute(&args),
            Command::Config(args) => config::execute(&args),
            Command::Doctor => check_host(),
        }
    }
}

/// The error and its causes, each said once: some errors tell their cause themselves.
#[must_use]
pub fn in_one_line(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for cause in error.chain() {
        let text = cause.to_string();
        if line.is_empty() {
            line = text;
        } else if !line.contains(&text) {
            line.push_str(": ");
            line.push_str(&text);
        }
    }
    line
}

/// A path as messages have it.
fn shown(path: &Path) -> String {
    escape::terminal(path.as_os_str().as_encoded_bytes())
}

/// `tracer doctor`.
fn check_host() -> anyhow::Result<Status> {
    let rules = Rules::built_in();
    let options = LoadOptions {
        whole_host: false,
        kills: true,
        max_processes: DEFAULT_MAX_PROCESSES,
        ring_bytes: DEFAULT_RING_BYTES,
        markers: rules.markers(),
        log: false,
    };
    let hooks = || {
        Probes::check(options).unwrap_or_else(|error| {
            let outcome = Err(format!("failed to {error}"));
            vec![HookCheck { name: "hooks".to_owned(), outcome, required: true }]
        })
    };
    let works = doctor::doctor(&mut std::io::stdout().lock(), hooks)
        .context("failed to write to standard output")?;
    Ok(if works { Status::OK } else { Status::FAILED })
}
