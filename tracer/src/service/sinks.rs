//! Where the daemon's news go as lines of `tracer.event/1`: files, standard output, webhooks. See
//! `docs/sinks.md`.
//!
//! ```text
//! tell --> intake (bounded) --> thread --> file, standard output
//!                          \--> thread --> queue on disk --> thread --> webhook
//! ```
//!
//! [`Sinks::tell`] renders a line once and puts it into the intake of each sink that wants it. It
//! waits for nobody: an intake that is full drops the line and counts it. What fails is tried again
//! by the sink's own threads.

mod account;
mod cursor;
mod endpoint;
mod file;
mod intake;
mod queue;
mod retry;
mod segments;
mod stream;
#[cfg(test)]
mod tests;
mod webhook;
mod writer;

use std::{
    collections::HashSet,
    hash::{BuildHasher as _, RandomState},
    io,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use thiserror::Error;

use self::{account::Account, intake::Intake, webhook::Webhook};
pub use self::{
    account::SinkStatus,
    endpoint::{Url, UrlError},
    file::FileOptions,
    retry::Retry,
    webhook::{QueueOptions, WebhookOptions},
};
use super::news::{News, NewsKind, Origin, What};
use crate::{escape::terminal, lineage::FindingKind};

/// Whether a webhook's deliveries can be signed with what is in this file.
///
/// # Errors
/// [`Reason::Secret`]: no sink would start with it.
pub fn check_secret(path: &Path) -> Result<(), Reason> {
    endpoint::Secret::of_file(path).map(drop)
}

/// Nobody waits longer for sinks to end.
const LONGEST_STOP: Duration = Duration::from_secs(3600);

/// One sink.
#[derive(Clone, Debug)]
pub struct SinkOptions {
    /// What metrics and messages call it; no two sinks have the same.
    pub name: String,
    /// Findings of these kinds only; `None`: of every kind. Says nothing about other news.
    pub only: Option<Vec<FindingKind>>,
    /// News of these kinds only; `None`: of every kind.
    pub events: Option<Vec<NewsKind>>,
    /// Where lines go.
    pub target: Target,
}

impl SinkOptions {
    fn wants(&self, news: &News) -> bool {
        let Self { name: _, only, events, target: _ } = self;
        let is_listed = events.as_ref().is_none_or(|kinds| kinds.contains(&news.what.kind()));
        let is_kind = match &news.what {
            What::Finding(news) => {
                only.as_ref().is_none_or(|kinds| kinds.contains(&news.finding.kind))
            }
            What::Opened(_) | What::Ended(_) => true,
        };
        is_listed && is_kind
    }
}

/// Where lines go.
#[derive(Clone, Debug)]
pub enum Target {
    /// A file that is rotated.
    File(FileOptions),
    /// Standard output.
    Stdout,
    /// An HTTP server.
    Webhook(Box<WebhookOptions>),
}

/// A kind of sink.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SinkKind {
    /// [`Target::File`].
    File,
    /// [`Target::Stdout`].
    Stdout,
    /// [`Target::Webhook`].
    Webhook,
}

impl SinkKind {
    /// Its name in configuration and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Stdout => "stdout",
            Self::Webhook => "webhook",
        }
    }
}

impl Target {
    fn kind(&self) -> SinkKind {
        match self {
            Self::File(_) => SinkKind::File,
            Self::Stdout => SinkKind::Stdout,
            Self::Webhook(_) => SinkKind::Webhook,
        }
    }
}

/// Why a sink cannot be. Messages read on after "failed to".
#[derive(Debug, Error)]
pub enum SinkError {
    /// Two of the same name.
    #[error("start sink {0}: another has that name; give each its own")]
    SameName(String),
    /// Something of its own.
    #[error("start sink {name}: {reason}")]
    Sink {
        /// Which.
        name: String,
        /// Why.
        reason: Reason,
    },
}

/// Why one sink cannot be.
#[derive(Debug, Error)]
pub enum Reason {
    /// What is there cannot be appended to and rotated.
    #[error("{} is no regular file; name another", show(.0))]
    NoFile(PathBuf),
    /// The daemon has no standard output.
    #[error("there is no standard output ({0})")]
    NoStdout(#[source] io::Error),
    /// The secret.
    #[error("read the secret {}: {reason}", show(.path))]
    Secret {
        /// Its file.
        path: PathBuf,
        /// What is wrong.
        reason: SecretError,
    },
    /// The certificates that servers are verified by.
    #[error("read certificates {}: {reason}", show(.path))]
    Certificates {
        /// Their file.
        path: PathBuf,
        /// What is wrong.
        reason: io::Error,
    },
    /// There are none.
    #[error(
        "this host has no certificates to verify a server by ({0}); name a file of them in ca_file"
    )]
    NoCertificates(String),
    /// The queue's folder.
    #[error("use {} as a queue: {reason}", show(.folder))]
    Queue {
        /// The folder.
        folder: PathBuf,
        /// What the kernel says.
        reason: io::Error,
    },
    /// The queue's folder is taken.
    #[error("use {} as a queue: another sink or daemon does; name another folder", show(.0))]
    QueueTaken(PathBuf),
    /// No thread.
    #[error("start a thread: {0}")]
    Thread(#[source] io::Error),
}

/// What is wrong with a secret.
#[derive(Debug, Error)]
pub enum SecretError {
    /// It cannot be read.
    #[error(transparent)]
    Read(#[from] io::Error),
    /// Everybody may know or change it.
    #[error(
        "everybody on this host can read or write it (mode {0:04o}); chmod it 0600 or 0640 (in \
         Kubernetes, defaultMode: 0400)"
    )]
    Open(u32),
    /// There is none.
    #[error("it is empty")]
    Empty,
    /// It cannot be one.
    #[error("it is longer than {0} bytes, which no secret is")]
    Long(u64),
}

fn show(path: &Path) -> String {
    terminal(path.as_os_str().as_bytes())
}

/// Every sink of a daemon.
#[derive(Debug)]
pub struct Sinks {
    origin: Origin,
    sinks: Vec<Sink>,
}

#[derive(Debug)]
struct Sink {
    options: SinkOptions,
    account: Arc<Account>,
    intake: Arc<Intake>,
    webhook: Option<Arc<Webhook>>,
}

impl Sinks {
    /// Starts every sink. What cannot be written at the moment is no error, and is tried again.
    ///
    /// # Errors
    /// A sink that can never work as it was asked for. None is started then.
    pub fn start(options: Vec<SinkOptions>, origin: Origin) -> Result<Self, SinkError> {
        let mut names = HashSet::new();
        if let Some(twice) = options.iter().find(|options| !names.insert(&options.name)) {
            return Err(SinkError::SameName(terminal(twice.name.as_bytes())));
        }
        // Those that are there end with this when the next cannot be.
        let mut started = Self { origin, sinks: Vec::new() };
        for options in options {
            let name = terminal(options.name.as_bytes());
            let sink = Sink::start(options);
            started.sinks.push(sink.map_err(|reason| SinkError::Sink { name, reason })?);
        }
        Ok(started)
    }

    /// Tells every sink that wants to know. Never waits.
    pub fn tell(&self, news: &News) {
        let mut line = None;
        for sink in self.sinks.iter().filter(|sink| sink.options.wants(news)) {
            let line = line.get_or_insert_with(|| Arc::from(news.line(&self.origin)));
            if !sink.intake.put(Arc::clone(line)) {
                sink.account.dropped(1);
            }
        }
    }

    /// How each does, in the order they were given. Never waits.
    #[must_use]
    pub fn status(&self) -> Vec<SinkStatus> {
        self.sinks.iter().map(Sink::status).collect()
    }

    /// Writes and delivers what can be until `deadline` from now. What is left is dropped, but for what
    /// is in a queue on disk. What is told after is dropped.
    pub fn stop(&self, deadline: Duration) {
        let until = Instant::now() + deadline.min(LONGEST_STOP);
        for sink in &self.sinks {
            sink.close(until);
        }
        for sink in &self.sinks {
            sink.end(until);
        }
    }
}

impl Drop for Sinks {
    fn drop(&mut self) {
        self.stop(Duration::ZERO);
    }
}

impl Sink {
    fn start(options: SinkOptions) -> Result<Self, Reason> {
        let account = Arc::new(Account::new(&options.name, options.target.kind()));
        let intake = Arc::new(Intake::default());
        let mut webhook = None;
        match &options.target {
            Target::File(file) => {
                let log = file::Log::new(file)?;
                writer::start(log, &account, &intake)?;
            }
            Target::Stdout => {
                let stream = stream::Stream::stdout().map_err(Reason::NoStdout)?;
                writer::start(stream, &account, &intake)?;
            }
            Target::Webhook(hook) => {
                webhook = Some(Webhook::start(hook, &account, &intake)?);
            }
        }
        Ok(Self { options, account, intake, webhook })
    }

    fn status(&self) -> SinkStatus {
        let queue = self.webhook.as_ref().map_or(0, |webhook| webhook.queued());
        self.account.status(queue + self.intake.len() as u64)
    }

    fn close(&self, until: Instant) {
        self.intake.close();
        if let Some(webhook) = &self.webhook {
            webhook.close(until);
        }
    }

    /// Waits for its threads, and leaves behind who does not end.
    fn end(&self, until: Instant) {
        self.intake.wait_for_end(until);
        let mut left = self.intake.end();
        if let Some(webhook) = &self.webhook {
            left += webhook.end(until);
        }
        self.account.left(left);
    }
}

/// A number that nobody can guess, from the kernel's randomness by way of the hasher's.
fn random() -> u64 {
    RandomState::new().hash_one(())
}

fn start_thread(account: &Account, run: impl FnOnce() + Send + 'static) -> Result<(), Reason> {
    let named = thread::Builder::new().name(format!("sink-{}", account.kind().as_str()));
    named.spawn(run).map(drop).map_err(Reason::Thread)
}
