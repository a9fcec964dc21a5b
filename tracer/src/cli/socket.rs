//! Where the daemon is asked.

use std::path::PathBuf;

use anyhow::anyhow;
use clap::Args;

use crate::service::control::{
    client::{self, AskError},
    protocol::Ask,
};

/// Path of the socket that a daemon has unless it is told otherwise.
const DEFAULT_SOCKET: &str = "/run/tracer/tracer.sock";

// No doc comment: clap would show it in the place of the subcommand's.
#[derive(Debug, Args)]
pub(super) struct SocketArgs {
    /// The daemon's socket: `api.socket` of its configuration
    #[arg(long, value_name = "PATH", default_value = DEFAULT_SOCKET)]
    pub(super) socket: PathBuf,
}

impl SocketArgs {
    /// The daemon's answer, an object on one line.
    ///
    /// # Errors
    /// There is no daemon, or it refuses.
    pub(super) fn ask(&self, question: &Ask) -> anyhow::Result<String> {
        client::ask(&self.socket, question).map_err(|error| failed(&error))
    }
}

/// In a sentence.
pub(super) fn failed(error: &AskError) -> anyhow::Error {
    anyhow!("failed to {error}")
}
