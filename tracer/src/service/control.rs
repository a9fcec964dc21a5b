//! The control socket: what the daemon knows, told to whoever asks and may know. See `docs/control.md`.
//!
//! ```text
//!  client --socket--> serve (a thread of its own) --Inquiry--> main task, from memory
//!                       | view: may this one know?  <--Reply--
//!                       | ports, status: procfs, on threads that may be slow
//!  follower <---------- feed <-- Teller::tell (News)
//! ```
//!
//! Whoever connects is a stranger: what he sends is bounded in size and time, what he may cost is
//! bounded in all and for each user, and what he is told is decided in one place, `view`.

mod answer;
mod answers;
pub mod client;
mod desk;
mod feed;
mod peer;
mod place;
mod ports;
pub mod protocol;
mod room;
mod serve;
pub mod status;
#[cfg(test)]
mod tests;
mod trace;
mod view;

use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use thiserror::Error;
use tokio::sync::{mpsc, watch};

pub use desk::{
    FindingKey, Inquiry, Key, KillInquiry, Member, Owner, Reply, RunSeen, Seen, Standing,
};
pub use place::PlaceError;
pub(crate) use trace::NOT_HIS;
pub use trace::{Asked, TapAsked, TapBegin, TapId};

use super::{
    history::History,
    news::{News, Origin},
    pods::Pods,
};
use crate::procfs::{self, Procfs};
use feed::Feed;
use place::Place;

/// Inquiries that wait for the main task.
const MOST_INQUIRIES: usize = 64;

/// How to be asked.
#[derive(Debug)]
pub struct ControlOptions {
    /// Path of the socket.
    pub socket: PathBuf,
    /// Group whose members see all; `None`: root alone.
    pub group: Option<u32>,
    /// Where news come from.
    pub origin: Origin,
}

/// Why the daemon cannot be asked.
#[derive(Debug, Error)]
pub enum ControlError {
    /// There is no place for the socket.
    #[error(transparent)]
    Place(#[from] PlaceError),
    /// `/proc` cannot be used.
    #[error("use /proc: {0}")]
    Procfs(#[from] procfs::Error),
    /// The thread that serves it is refused.
    #[error("start the thread that serves the control socket: {0}")]
    Thread(#[source] io::Error),
}

/// How the socket does, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ControlStatus {
    /// Requests that were answered.
    pub answered: u64,
    /// Clients that were refused: malformed, too slow, not permitted, too many.
    pub refused: u64,
    /// News that followers missed because they were too slow.
    pub missed: u64,
}

/// What the threads share.
#[derive(Debug)]
struct Shared {
    /// The group's id; [`NO_GROUP`]: none.
    group: AtomicU64,
    feed: Mutex<Feed>,
    /// What was found before, once it is there.
    history: OnceLock<Arc<History>>,
    /// What pods are called, if that is known.
    pods: OnceLock<Pods>,
    answered: AtomicU64,
    refused: AtomicU64,
}

/// No id of a group.
const NO_GROUP: u64 = u64::MAX;

impl Shared {
    fn new(group: Option<u32>) -> Self {
        Self {
            group: AtomicU64::new(group.map_or(NO_GROUP, u64::from)),
            feed: Mutex::new(Feed::default()),
            history: OnceLock::new(),
            pods: OnceLock::new(),
            answered: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        }
    }

    fn group(&self) -> Option<u32> {
        u32::try_from(self.group.load(Ordering::Relaxed)).ok()
    }

    fn feed(&self) -> std::sync::MutexGuard<'_, Feed> {
        self.feed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The socket. Dropped, it is gone.
#[derive(Debug)]
pub struct Control {
    inquiries: mpsc::Receiver<Inquiry>,
    shared: Arc<Shared>,
    place: Place,
    /// Dropped, the thread ends.
    _serving: watch::Sender<()>,
}

impl Control {
    /// Makes the socket, and starts the thread that serves it.
    ///
    /// # Errors
    /// Another daemon has it, there is no place for it, or no thread.
    pub fn start(options: ControlOptions) -> Result<Self, ControlError> {
        let ControlOptions { socket, group, origin } = options;
        let procfs = Arc::new(Procfs::of_host()?);
        let (place, listener) = Place::bind(&socket)?;
        let shared = Arc::new(Shared::new(group));
        let (desk, inquiries) = mpsc::channel(MOST_INQUIRIES);
        let (serving, over) = watch::channel(());
        let world = answers::World {
            desk: desk::Desk::new(desk),
            clock: procfs.clock(),
            procfs,
            shared: Arc::clone(&shared),
            origin,
            maps_all_uids: view::maps_all_uids(),
        };
        let runtime = serve::own_runtime().map_err(ControlError::Thread)?;
        let work = move || serve::serve(&runtime, listener, world, over);
        let named = thread::Builder::new().name("tracer-control".to_owned());
        named.spawn(work).map_err(ControlError::Thread)?;
        Ok(Self { inquiries, shared, place, _serving: serving })
    }

    /// The next inquiry, to be answered at once. Cancel safe. `None`: there are no more.
    pub async fn next(&mut self) -> Option<Inquiry> {
        self.inquiries.recv().await
    }

    /// From now on it tells of what this has kept, too.
    pub fn tell_of(&self, history: Arc<History>) {
        // The first stays.
        let _ = self.shared.history.set(history);
    }

    /// From now on it names these pods.
    pub fn name_pods(&self, pods: Pods) {
        // The first stays.
        let _ = self.shared.pods.set(pods);
    }

    /// What tells followers.
    #[must_use]
    pub fn teller(&self) -> Teller {
        Teller(Arc::clone(&self.shared))
    }

    /// From now on members of this group see all.
    pub fn set_group(&self, group: Option<u32>) {
        self.shared.group.store(group.map_or(NO_GROUP, u64::from), Ordering::Relaxed);
    }

    /// How it does.
    #[must_use]
    pub fn status(&self) -> ControlStatus {
        ControlStatus {
            answered: self.shared.answered.load(Ordering::Relaxed),
            refused: self.shared.refused.load(Ordering::Relaxed),
            missed: self.shared.feed().missed(),
        }
    }

    /// Path of the socket.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.place.path()
    }
}

/// Tells news to whoever follows them.
#[derive(Clone, Debug)]
pub struct Teller(Arc<Shared>);

impl Teller {
    /// Tells this. Never waits: who is too slow misses it, and is told so.
    pub fn tell(&self, news: &News) {
        self.0.feed().tell(news);
    }
}

/// The next inquiry, if anybody can ask. Cancel safe.
pub async fn next(control: &mut Option<Control>) -> Inquiry {
    if let Some(known) = control
        && let Some(inquiry) = known.next().await
    {
        return inquiry;
    }
    std::future::pending().await
}
