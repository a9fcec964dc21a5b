//! Argument parsing and dispatch.

use std::{io::Write as _, process::ExitCode};

use tracer::{
    cli::{Cli, Status, in_one_line, run_by_agent},
    service::metrics,
};

fn main() -> ExitCode {
    // Within milliseconds, and never with a status that an agent would take for an answer.
    if let Some(status) = run_by_agent(std::env::args_os()) {
        return status.into();
    }
    if metrics::is_probe(std::env::args_os()) {
        return ExitCode::SUCCESS;
    }
    let cli = match Cli::read(std::env::args_os()) {
        Ok(cli) => cli,
        Err(status) => return status.into(),
    };
    if !cli.logs_by_itself() {
        start_log(&cli);
    }
    match cli.execute() {
        Ok(status) => status.into(),
        Err(error) => {
            let text = format!("tracer: {}", in_one_line(&error));
            let _ = writeln!(std::io::stderr(), "{}", tracer::escape::terminal(text.as_bytes()));
            Status::FAILED.into()
        }
    }
}

fn start_log(cli: &Cli) {
    let mut logger = env_logger::Builder::from_env(env_logger::Env::new().filter("TRACER_LOG"));
    if cli.logs_kernel() {
        logger.filter_module("tracer_ebpf", log::LevelFilter::Debug);
    }
    // At `trace` it shows whole URLs, which may hold tokens. What fails is told without it.
    logger.filter_module("ureq", log::LevelFilter::Off);
    logger.format_timestamp(None).init();
}
