//! Argument parsing and dispatch.

use std::{io::Write as _, process::ExitCode};

use clap::Parser as _;
use tracer::cli::{Cli, Status};

fn main() -> ExitCode {
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

/// The error and its causes, each said once: some errors tell their cause themselves.
fn in_one_line(error: &anyhow::Error) -> String {
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
