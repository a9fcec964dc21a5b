//! Argument parsing and dispatch.

use std::{io::Write as _, process::ExitCode};

use clap::Parser as _;
use tracer::cli::{Cli, Status, in_one_line, run_by_agent};

fn main() -> ExitCode {
    // Within milliseconds, and never with a status that an agent would take for an answer.
    if let Some(status) = run_by_agent(std::env::args_os()) {
        return status.into();
    }
    let cli = Cli::parse();
    let mut logger = env_logger::Builder::from_env(env_logger::Env::new().filter("TRACER_LOG"));
    if cli.logs_kernel() {
        logger.filter_module("tracer_ebpf", log::LevelFilter::Debug);
    }
    logger.format_timestamp(None).init();
    match cli.execute() {
        Ok(status) => status.into(),
        Err(error) => {
            let text = format!("tracer: {}", in_one_line(&error));
            let _ = writeln!(std::io::stderr(), "{}", tracer::escape::terminal(text.as_bytes()));
            Status::FAILED.into()
        }
    }
}
