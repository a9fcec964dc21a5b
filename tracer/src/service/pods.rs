//! What the pods of this node are called: asked of the Kubernetes API, by the UID in cgroups' paths.
//!
//! ```text
//! API server --list, watch--> courier -> watch -> Known <-- main task: whose is this cgroup?
//!                             (a thread of its own)  `-- what is new --> main task: an agent's?
//! ```
//!
//! Only metadata is asked for, of the pods of one node. Tracing never waits for it: where the API server
//! cannot be reached, processes are told with the pod's UID alone, and it is asked again and again.

mod courier;
mod known;
mod options;
mod watch;

use std::{
    io,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::Instant,
};

use globset::GlobSet;
use thiserror::Error;
use tokio::sync::{Notify, watch as signal};

pub use known::Found;
pub use options::{Lack, PodsOptions};

use crate::{container::Container, lineage::Process, runtime, service::config::Kubernetes};
use known::Known;

/// Pods cannot be watched.
#[derive(Debug, Error)]
pub enum PodsError {
    /// The client cannot be made.
    #[error("make a client of {server}: {source}")]
    Client {
        /// The API server.
        server: String,
        /// Why.
        source: kube::Error,
    },
    /// Who vouches for the server is not known.
    #[error("read certificates of an API server from {}: {source}", .path.display())]
    Certificates {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The address is none.
    #[error("ask {server}: it is no address of an API server")]
    Address {
        /// What is none.
        server: String,
    },
    /// No thread or runtime to be had.
    #[error("start the thread that watches pods: {0}")]
    Thread(#[source] io::Error),
}

/// How it goes, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PodsStatus {
    /// Pods that are known, those that are gone and kept for a while among them.
    pub known: u64,
    /// Whether what is known is kept up to date.
    pub is_up: bool,
    /// Failures to list or watch since the start.
    pub failures: u64,
    /// Pods that were not taken: there was no room, or they were not what Kubernetes calls a pod.
    pub left_out: u64,
}

/// The pods of this node. With the last copy dropped, they are watched no more.
#[derive(Clone, Debug)]
pub struct Pods {
    shared: Arc<Shared>,
    /// Dropped, it ends the thread.
    _watching: Arc<signal::Sender<()>>,
}

/// What the threads share.
#[derive(Debug)]
struct Shared {
    /// Held for as long as it takes to look something up.
    state: Mutex<State>,
    /// There is something new.
    news: Notify,
}

#[derive(Debug)]
struct State {
    known: Known,
    /// The server lets pods be watched, and nothing has failed since.
    is_answered: bool,
    /// All pods were told once.
    is_listed: bool,
    failures: u64,
}

impl Shared {
    fn new(told: GlobSet) -> Self {
        let state = State {
            known: Known::telling(told),
            is_answered: false,
            is_listed: false,
            failures: 0,
        };
        Self { state: Mutex::new(state), news: Notify::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Names are names, whoever panicked.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pods {
    /// Starts to watch, if that is configured and possible here. What is lacking is said.
    #[must_use]
    pub fn of_config(config: &Kubernetes) -> Option<Self> {
        let options = PodsOptions::of(config, |name| std::env::var(name).ok());
        let options = options.inspect_err(|lack| log::warn!("failed to {lack}")).ok().flatten()?;
        let pods = Self::start(&options);
        pods.inspect_err(|error| log::warn!("failed to {error}")).ok()
    }

    /// Starts to watch on a thread of its own.
    ///
    /// # Errors
    /// What is configured makes no client, or there is no thread. That nobody answers is none.
    pub fn start(options: &PodsOptions) -> Result<Self, PodsError> {
        let shared = Arc::new(Shared::new(options.labels.clone()));
        let (watching, over) = signal::channel(());
        let (tell, told) = std::sync::mpsc::channel();
        let (own, options) = (Arc::clone(&shared), options.clone());
        let work = move || {
            // Made here, because it panics when it is dropped within another one.
            let made = runtime::builder().and_then(|mut builder| builder.build());
            let runtime = match made.map_err(PodsError::Thread) {
                Ok(runtime) => runtime,
                Err(error) => return drop(tell.send(Err(error))),
            };
            runtime.block_on(async move {
                match courier::client(&options, &own) {
                    Ok(client) => {
                        if tell.send(Ok(())).is_ok() {
                            watch::watch(client, &options, &own, over).await;
                        }
                    }
                    Err(error) => drop(tell.send(Err(error))),
                }
            });
        };
        let named = thread::Builder::new().name("tracer-pods".to_owned());
        named.spawn(work).map_err(PodsError::Thread)?;
        // A thread that panicked has told nothing.
        let ended = |error| PodsError::Thread(io::Error::other(error));
        told.recv().map_err(ended)??;
        Ok(Self { shared, _watching: Arc::new(watching) })
    }

    /// The pod with this UID, as cgroups' paths have it.
    #[must_use]
    pub fn find(&self, uid: &str) -> Option<Found> {
        self.shared.state().known.find(uid)
    }

    /// All that are known.
    #[must_use]
    pub fn all(&self) -> Vec<Found> {
        self.shared.state().known.all()
    }

    /// Those that are new or have other labels since the last call, at least one. Cancel safe.
    pub async fn changed(&self) -> Vec<Found> {
        loop {
            // Before the look: what comes after it is told of.
            let news = self.shared.news.notified();
            let changed = self.shared.state().known.take_changed();
            if !changed.is_empty() {
                return changed;
            }
            news.await;
        }
    }

    /// How it goes.
    #[must_use]
    pub fn status(&self) -> PodsStatus {
        self.shared.state().status(Instant::now())
    }

    /// Fills in the pod of a process, as far as its cgroup tells.
    pub fn name(&self, process: &mut Process) {
        let container = process.cgroup.as_deref().and_then(Container::of_cgroup);
        let uid = container.and_then(|container| container.pod_uid);
        process.pod = uid.and_then(|uid| Some(self.find(&uid)?.pod));
    }
}

impl State {
    fn status(&mut self, now: Instant) -> PodsStatus {
        self.known.forget(now);
        PodsStatus {
            known: self.known.len(),
            is_up: self.is_answered && self.is_listed,
            failures: self.failures,
            left_out: self.known.left_out(),
        }
    }
}

/// Those that are new, if pods are watched. Cancel safe.
pub async fn changed(pods: Option<&Pods>) -> Vec<Found> {
    match pods {
        Some(pods) => pods.changed().await,
        None => std::future::pending().await,
    }
}
