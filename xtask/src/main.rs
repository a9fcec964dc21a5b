//! Development tasks of tracer: argument parsing and dispatch only.

use std::{
    env,
    ffi::OsString,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};

mod bench;
mod build;
mod command;
mod fuzz;
mod host;
mod kernels;
mod plan;
mod run;
mod setup;
mod test;
mod toolchain;

/// Set up, build, run and test tracer from this checkout.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Install what building and testing needs; says what and why, and does nothing twice.
    Setup,
    /// Build everything (sets up first).
    Build {
        /// With optimisations.
        #[arg(long)]
        release: bool,
    },
    /// Run COMMAND under this checkout's `tracer run` (sets up and builds first).
    ///
    /// Exits as `tracer run` does. Where not root, tracer goes through sudo and COMMAND still runs
    /// as you.
    Run {
        /// Options of `tracer run`, such as `--grace 1s`.
        #[arg(allow_hyphen_values = true, value_name = "OPTIONS")]
        options: Vec<OsString>,
        /// The command to trace.
        #[arg(last = true, value_name = "COMMAND")]
        command: Vec<OsString>,
    },
    /// Run the tests, as root (sets up and builds first).
    ///
    /// Without --all, those that take minutes on this machine alone; says what it left out.
    Test {
        /// Everything: long runs too, and other kernels in virtual machines.
        #[arg(long, conflicts_with_all = ["arguments", "test_arguments"])]
        all: bool,
        /// Arguments of `cargo test`, such as a test's name or `-- --nocapture`.
        #[arg(allow_hyphen_values = true, value_name = "ARGS")]
        arguments: Vec<OsString>,
        /// Arguments of the test programs.
        #[arg(last = true, value_name = "TEST_ARGS")]
        test_arguments: Vec<OsString>,
    },
    /// Run the end-to-end tests on this machine's kernel and on Debian's, in virtual machines
    /// (sets up and builds first).
    ///
    /// Prints a matrix, test by kernel. Kernels come from Debian's package archive, are checked and
    /// kept in `target/kernels`; the machines are emulated, so no virtualisation is needed.
    Kernels(kernels::Options),
    /// Measure what tracer costs, in time, memory and lateness (builds first; needs root).
    Bench(bench::BenchOptions),
    /// Give the parsers and the core whatever bytes find new ways through them (sets up first).
    ///
    /// Keeps an input that fails in `target/fuzz/failures` and prints how to run it again.
    Fuzz(fuzz::Options),
    /// Say what this host has and lacks for tracer (sets up and builds first).
    Doctor {
        /// Arguments of `tracer doctor`.
        #[arg(allow_hyphen_values = true, value_name = "ARGS")]
        arguments: Vec<OsString>,
    },
    /// Run a program as root, with this environment; for `test`.
    #[command(hide = true)]
    AsRoot {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        command: Vec<OsString>,
    },
    /// Run a suite of end-to-end tests and tell each outcome in a line; for `kernels`.
    #[command(hide = true)]
    RunSuite { suite: PathBuf },
    /// Be the first process of a virtual machine; for `kernels`.
    #[command(hide = true)]
    Guest,
}

/// The status by which `tracer run` says that not COMMAND but tracer failed; so do we.
const RUN_FAILED: u8 = 125;

fn main() -> ExitCode {
    let Arguments { task } = Arguments::parse();
    let failure = match task {
        Task::Run { .. } => ExitCode::from(RUN_FAILED),
        _ => ExitCode::FAILURE,
    };
    match perform(task) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            failure
        }
    }
}

fn perform(task: Task) -> Result<()> {
    let root = workspace_root()?;
    match task {
        Task::Setup => setup::setup(&root),
        Task::Build { release } => build::build(&root, release),
        Task::Run { options, command } => run::run(&root, options, command),
        Task::Test { all, arguments, test_arguments } => {
            test::test(&root, all, &with_test_arguments(arguments, test_arguments))
        }
        Task::Bench(options) => bench::bench(&root, &options),
        Task::Doctor { arguments } => run::doctor(&root, &arguments),
        Task::AsRoot { command } => run::as_root(&command),
        Task::Fuzz(options) => fuzz::fuzz(&root, &options),
        Task::Kernels(options) => kernels::kernels(&root, &options),
        Task::RunSuite { suite } => kernels::suite::run(&suite),
        Task::Guest => kernels::guest::main(),
    }
}

/// The arguments of `cargo test`, with the leading `--` that clap has taken out.
fn with_test_arguments(
    mut arguments: Vec<OsString>,
    test_arguments: Vec<OsString>,
) -> Vec<OsString> {
    if !test_arguments.is_empty() {
        arguments.push("--".into());
        arguments.extend(test_arguments);
    }
    arguments
}

/// The folder of the workspace's Cargo.toml: cargo names our own when it runs us.
fn workspace_root() -> Result<PathBuf> {
    let xtask = env::var_os("CARGO_MANIFEST_DIR")
        .filter(|_| env::var_os("CARGO_PKG_NAME").is_some_and(|name| name == "xtask"))
        .unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    Path::new(&xtask).parent().map(Path::to_owned).context("xtask lies in no workspace")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Task {
        let words = ["cargo xtask"].into_iter().chain(line.split_whitespace());
        Arguments::try_parse_from(words).unwrap().task
    }

    fn run_of(line: &str) -> (Vec<OsString>, Vec<OsString>) {
        let Task::Run { options, command } = parse(line) else {
            panic!("not run");
        };
        run::split(options, command).unwrap()
    }

    fn test_of(line: &str) -> Vec<OsString> {
        let Task::Test { all: false, arguments, test_arguments } = parse(line) else {
            panic!("not test");
        };
        with_test_arguments(arguments, test_arguments)
    }

    fn words(line: &str) -> Vec<OsString> {
        line.split_whitespace().map(OsString::from).collect()
    }

    #[test]
    fn run_keeps_every_word_of_the_command() {
        let command = words("sh -c x -- --help");
        for (line, options) in [
            ("run -- sh -c x -- --help", ""),
            ("run --grace 1s -- sh -c x -- --help", "--grace 1s"),
            ("run --quiet -- sh -c x -- --help", "--quiet"),
        ] {
            assert_eq!(run_of(line), (words(options), command.clone()), "{line}");
        }
    }

    #[test]
    fn run_takes_a_command_without_dashes() {
        let command = words("make -j2 --help");
        assert_eq!(run_of("run make -j2 --help"), (words(""), command));
    }

    #[test]
    fn everything_is_tested_only_when_asked_for() {
        assert!(matches!(parse("test --all"), Task::Test { all: true, .. }));
        assert!(matches!(parse("test -- --all"), Task::Test { all: false, .. }));
        assert!(Arguments::try_parse_from(["cargo xtask", "test", "--all", "orphan"]).is_err());
    }

    #[test]
    fn test_passes_all_arguments_on() {
        for arguments in
            ["", "orphan", "-- --nocapture", "--test e2e orphan -- --nocapture --exact"]
        {
            assert_eq!(test_of(&format!("test {arguments}")), words(arguments));
        }
    }
}
