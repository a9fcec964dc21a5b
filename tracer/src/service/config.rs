//! What the daemon is told: `tracer.toml`, read and checked as a whole before any of it holds.
//!
//! ```text
//! file -> text -> tables -+- the daemon's own: document, sink -> values -+-> Config
//!                         +- agent, spawner, redact, keep, cleanup:      |
//!                            lineage::Rules' own parser                 -+
//! ```
//!
//! Nobody but its owner may be able to write it, since it decides what is killed.

mod document;
mod error;
mod file;
mod group;
mod kubernetes;
mod reload;
mod rules;
mod sink;
mod table;
#[cfg(test)]
mod tests;
mod values;

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use serde::Deserialize;

pub use error::{ConfigError, MOST_PROBLEMS, Position, Problem, Refusal};
pub use kubernetes::{Asked, Kubernetes, LabelNames};
pub use reload::{Reload, reload};
pub use rules::RuleTexts;
pub use sink::{Filter, Sink, Target, Webhook};
pub use values::Endpoint;

use crate::{
    kernel::load::{DEFAULT_MAX_PROCESSES, DEFAULT_RING_BYTES},
    lineage,
    redact::Redactor,
};

/// Where a configuration is looked for.
pub const DEFAULT_PATH: &str = "/etc/tracer/tracer.toml";
/// Variable with the name of the node that a pod runs on, where its manifest sets it.
pub const NODE_NAME: &str = "NODE_NAME";

/// A configuration. The default holds where there is no file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// What is an agent, a spawner, a secret, kept; and how leaks of each kind are ended. In this
    /// order, later over earlier: built in, files, the configuration's own.
    pub rules: RuleTexts,
    /// What is done about leaks.
    pub on_leak: OnLeak,
    /// When something that stands is a leak.
    pub thresholds: lineage::Config,
    /// The kernel side.
    pub kernel: Kernel,
    /// Whether secrets are left out of arguments.
    pub redacts: bool,
    /// The daemon's own log.
    pub log: Log,
    /// Its sockets.
    pub api: Api,
    /// Where metrics can be read; `None`: nowhere.
    pub metrics: Option<SocketAddr>,
    /// The history; `None`: none is kept.
    pub history: Option<History>,
    /// Where news go.
    pub sinks: Vec<Sink>,
    /// Where the names of pods are asked for.
    pub kubernetes: Kubernetes,
}

/// What is done about leaks. Rules say how, and of which.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnLeak {
    /// They are told of.
    #[default]
    Report,
    /// They are ended.
    Kill,
    /// It is told what would be done, and nothing is touched.
    DryRun,
}

/// The kernel side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// Processes that can be tracked at once.
    pub max_processes: u32,
    /// Bytes of the ring buffer.
    pub ring_bytes: u32,
    /// Whether programs and maps are pinned, so that they go on while the daemon is started anew.
    pub pin: bool,
    /// Folder of a BPF file system that they are pinned in.
    pub pin_path: PathBuf,
    /// File with what the next daemon has to know besides.
    pub journal: PathBuf,
}

impl Default for Kernel {
    fn default() -> Self {
        Self {
            max_processes: DEFAULT_MAX_PROCESSES,
            ring_bytes: DEFAULT_RING_BYTES,
            pin: true,
            pin_path: "/sys/fs/bpf/tracer".into(),
            journal: "/var/lib/tracer/journal".into(),
        }
    }
}

/// The daemon's own log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Log {
    /// How a line looks.
    pub format: LogFormat,
    /// What is told.
    pub level: log::LevelFilter,
}

impl Default for Log {
    fn default() -> Self {
        Self { format: LogFormat::Text, level: log::LevelFilter::Info }
    }
}

/// How a line of the log looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object.
    Json,
}

/// The daemon's sockets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Api {
    /// Path of the one that is asked.
    pub socket: PathBuf,
    /// Id of the group whose members see all, and may kill; `None`: root alone.
    pub group: Option<u32>,
    /// Path of the one that tool calls are announced at.
    pub announcements: PathBuf,
}

impl Default for Api {
    fn default() -> Self {
        Self {
            socket: "/run/tracer/tracer.sock".into(),
            group: None,
            announcements: "/run/tracer/announce.sock".into(),
        }
    }
}

/// What was found before, on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct History {
    /// The database.
    pub path: PathBuf,
    /// How long something is kept.
    pub max_age: Duration,
    /// Bytes beyond which the oldest goes sooner.
    pub max_size: u64,
}

impl Default for History {
    fn default() -> Self {
        Self {
            path: "/var/lib/tracer/history.db".into(),
            max_age: Duration::from_secs(30 * 24 * 60 * 60),
            max_size: 512 << 20,
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            rules: RuleTexts::default(),
            on_leak: OnLeak::default(),
            thresholds: lineage::Config::default(),
            kernel: Kernel::default(),
            redacts: true,
            log: Log::default(),
            api: Api::default(),
            metrics: Some((Ipv4Addr::LOCALHOST, 9464).into()),
            history: Some(History::default()),
            sinks: Vec::new(),
            kubernetes: Kubernetes::default(),
        }
    }
}

impl Config {
    /// Reads a file, and those that it names.
    ///
    /// # Errors
    /// It cannot be read or trusted, or something in it is wrong.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        document::config(path, &file::read(path)?)
    }

    /// What leaves secrets out of arguments.
    #[must_use]
    pub fn redactor(&self) -> Redactor {
        if self.redacts { self.rules.redactor() } else { Redactor::none() }
    }
}
