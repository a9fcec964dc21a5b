//! The daemon's metrics for Prometheus, and whether it does well: `/metrics`, `/healthz`, `/readyz`.
//!
//! ```text
//! main task --tell, took, sample--> State --figures--> HTTP thread: text
//! host thread: /proc, cgroups, PROCS --^  ^-- probe thread: is what happens still seen?
//! ```
//!
//! The state is shared behind one lock, which is held for as long as it takes to put down or copy
//! figures, and never while something is read, written or waited for: so a scrape is answered whatever
//! the main task does, and the main task does not wait for scrapes. All of it is bounded, labels too:
//! kinds, causes and results are codes, and of agents' names there are few ([`agents`]).
//!
//! docs/metrics.md tells what each metric means.

mod agents;
mod cgroups;
mod exposition;
mod figures;
mod health;
mod hierarchies;
mod host;
mod ledger;
mod probe;
mod state;
#[cfg(test)]
mod tests;
mod trend;

use std::{
    hash::{BuildHasher as _, RandomState},
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use aya::maps::MapError;
use hyper::StatusCode;
use thiserror::Error;

pub use probe::is_probe;
pub use state::{Clients, RunSample, Sample};

use super::{
    http::{Accept, Limits, Page, Server, ServerError, Site},
    news::News,
};
use crate::{
    kernel::load::{LoadError, Probes},
    lineage::{Nanos, ProcessId, Rules},
    priority,
    procfs::{self, BootClock, Procfs},
};
use health::{Ailment, Stage};
use host::HostReader;
use probe::{Awaited, Kernel, Prober, Sightings, sightings};
use state::State;

/// How often the host is looked at.
const HOST_EVERY: Duration = Duration::from_secs(10);
/// How often a probe is started.
const PROBE_EVERY: Duration = Duration::from_secs(15);
/// How long a probe may take to end, and then to be told of.
const PROBE_PATIENCE: Duration = Duration::from_secs(5);
/// How often the main task should call [`Metrics::sample`].
pub const SAMPLE_EVERY: Duration = Duration::from_secs(5);

/// Metrics cannot be had.
#[derive(Debug, Error)]
pub enum MetricsError {
    /// `/proc` cannot be used.
    #[error("use /proc: {0}")]
    Procfs(#[source] procfs::Error),
    /// The HTTP server does not start.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// The kernel programs cannot be asked what they cost.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// `PROCS` cannot be opened once more.
    #[error("use map PROCS from another thread: {0}")]
    Map(#[from] MapError),
    /// No thread to be had.
    #[error("start a thread for metrics: {0}")]
    Thread(#[source] io::Error),
}

/// The metrics, and the server that tells them. Dropped, it ends.
#[derive(Debug)]
pub struct Metrics {
    shared: Arc<Shared>,
    sightings: Sightings,
    /// Until the kernel side is attached.
    awaited: Option<Awaited>,
    /// Wakes the thread that probes.
    probes: Option<Sender<()>>,
    /// Dropped with this, it ends the thread that reads.
    reads: Option<Sender<()>>,
    server: Server,
}

/// What all threads share.
#[derive(Debug)]
struct Shared {
    /// Held for as long as it takes to put down or copy figures.
    state: Mutex<State>,
    clock: BootClock,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // Figures are figures, whoever panicked.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Metrics {
    /// Serves at this address, from now on: that the daemon is not ready yet can be asked as well. Whoever
    /// receives signals holds them back before.
    ///
    /// # Errors
    /// No thread, or no `/proc`. That the address is taken is none: it is tried again.
    pub fn start(listen: SocketAddr, rules: &Rules) -> Result<Self, MetricsError> {
        let clock = Procfs::of_host().map_err(MetricsError::Procfs)?.clock();
        let started_at = SystemTime::now().duration_since(UNIX_EPOCH).ok();
        let started_at = started_at.map(|since| since.as_secs_f64());
        let state = State::new(rules.agent_names(), started_at);
        let shared = Arc::new(Shared { state: Mutex::new(state), clock });
        let server = Server::start(listen, Limits::default(), Arc::<Shared>::clone(&shared))?;
        if let Some(address) = server.address() {
            log::info!("metrics at http://{address}/metrics");
        }
        let (sightings, awaited) = sightings();
        Ok(Self { shared, sightings, awaited: Some(awaited), probes: None, reads: None, server })
    }

    /// Where it listens; `None`: nowhere yet, the address is taken.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        self.server.address()
    }

    /// The kernel side is attached and has room for so many processes. From now on the host is looked
    /// at, and probes are started.
    ///
    /// # Errors
    /// No thread or descriptor to be had.
    pub fn attached(&mut self, probes: &Probes, max_processes: u32) -> Result<(), MetricsError> {
        let Some(awaited) = self.awaited.take() else { return Ok(()) };
        let procfs = Procfs::of_host().map_err(MetricsError::Procfs)?;
        let mut reader = HostReader::new(procfs, probes.procs().try_clone()?, probes.programs()?);
        let reads = self.every("tracer-host", HOST_EVERY, move |shared| {
            let members = shared.state().members();
            let figures = reader.read(&members, shared.clock.now());
            shared.state().host = figures;
        })?;
        let kernel = Kernel::new(probes.procs().try_clone()?);
        let number = RandomState::new().hash_one(0);
        let mut prober = Prober::new(kernel, awaited, PROBE_PATIENCE, number);
        let probes = self.every("tracer-probe", PROBE_EVERY, move |shared| {
            // Without a main task that takes records in, nothing is seen.
            if shared.state().health.stage == Stage::Ready {
                let result = prober.probe();
                shared.state().health.probed(result);
            }
        })?;
        (self.reads, self.probes) = (Some(reads), Some(probes));
        self.shared.state().max_processes = Some(max_processes.into());
        Ok(())
    }

    /// Does something now and again, and when it is woken, on a thread of its own, until who can wake it
    /// is dropped.
    fn every(
        &self,
        name: &str,
        period: Duration,
        mut work: impl FnMut(&Shared) + Send + 'static,
    ) -> Result<Sender<()>, MetricsError> {
        let (wake, awake) = channel();
        let shared = Arc::clone(&self.shared);
        let work = move || {
            // Who answers waits where this one holds the state and gets no processor.
            priority::raise(priority::ANSWERS);
            loop {
                work(&shared);
                if !lasts(&awake, period) {
                    return;
                }
            }
        };
        let thread = thread::Builder::new().name(name.to_owned()).spawn(work);
        thread.map_err(MetricsError::Thread)?;
        Ok(wake)
    }

    /// What runs on this host is known.
    pub fn ready(&self) {
        self.shared.state().health.stage = Stage::Ready;
        if let Some(probes) = &self.probes {
            // It ends with this alone.
            let _woken = probes.send(());
        }
    }

    /// So many processes are there that the table had no room for.
    pub fn unknown(&self, number: u64) {
        self.shared.state().health.unknown = number;
    }

    /// The daemon ends.
    pub fn stopping(&self) {
        self.shared.state().health.stage = Stage::Stopping;
    }

    /// Takes news in.
    pub fn tell(&self, news: &News) {
        self.shared.state().tell(&news.what);
    }

    /// Takes in what the main task alone knows: every [`SAMPLE_EVERY`].
    pub fn sample(&self, sample: Sample) {
        self.shared.state().sample(sample);
    }

    /// So many records were taken in, of which the newest was made at `newest`.
    pub fn took(&self, records: u64, newest: Option<Nanos>) {
        let lag = newest.map(|newest| self.shared.clock.now().since(newest).as_secs_f64());
        let mut state = self.shared.state();
        state.flow.records = state.flow.records.saturating_add(records);
        if let Some(lag) = lag {
            state.flow.lag.observe(lag);
        }
    }

    /// A process executed a program with these NUL-separated arguments, as the kernel side told: a
    /// probe?
    pub fn executed(&self, process: ProcessId, args: &[u8]) {
        self.sightings.executed(process, args);
    }
}

/// Whether there is somebody to go on for, once `period` is over or somebody asks to go on.
fn lasts(awake: &Receiver<()>, period: Duration) -> bool {
    match awake.recv_timeout(period) {
        Ok(()) | Err(RecvTimeoutError::Timeout) => true,
        Err(RecvTimeoutError::Disconnected) => false,
    }
}

impl Site for Shared {
    fn page(&self, path: &str, accept: &Accept) -> Option<Page> {
        match path {
            "/metrics" => {
                let figures = self.state().figures(self.clock.now());
                Some(metrics(figures, accept))
            }
            "/healthz" => Some(verdict("healthy\n", self.state().health.alive())),
            "/readyz" => Some(verdict("ready\n", self.state().health.ready())),
            _ => None,
        }
    }
}

fn metrics(figures: figures::Figures, accept: &Accept) -> Page {
    let open_metrics = exposition::open_metrics(figures);
    // Who has no wish gets what everybody can read.
    let wished = accept.quality("application/openmetrics-text", &["1.0.0", "0.0.1"]);
    let plain = accept.quality("text/plain", &["0.0.4"]);
    let (content_type, body) = if wished > plain {
        (exposition::OPEN_METRICS, open_metrics)
    } else {
        (exposition::PLAIN, exposition::plain(&open_metrics))
    };
    Page { status: StatusCode::OK, content_type, body }
}

fn verdict(well: &str, found: Result<(), Ailment>) -> Page {
    let (status, body) = match found {
        Ok(()) => (StatusCode::OK, well.to_owned()),
        Err(ailment) => (StatusCode::SERVICE_UNAVAILABLE, format!("{ailment}\n")),
    };
    Page { status, content_type: "text/plain; charset=utf-8", body }
}
