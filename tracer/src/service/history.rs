//! What was found on this host, and of which runs: kept for weeks in an embedded database
//! (`SQLite`), for `tracer leaks` and `tracer history`.
//!
//! ```text
//! News -> bounded queue -> thread of its own: Keeper -> database on disk
//!                                                       (in memory while that cannot be)
//! ```
//!
//! It never stops tracing: [`History::tell`] neither waits nor fails. Where the disk is full, read-only
//! or the file damaged, less is kept, and [`HistoryStatus`] says so.

mod error;
mod keeper;
mod on_request;
mod query;
pub mod render;
mod retention;
mod rows;
mod schema;
mod standing;
mod store;
#[cfg(test)]
mod tests;

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
        mpsc::{self, RecvTimeoutError, SyncSender, TrySendError, sync_channel},
    },
    thread,
    time::{Duration, Instant, SystemTime},
};

use rusqlite::Connection;
use serde::Serialize;

pub use error::{HistoryError, Reason};
pub use on_request::EndedOnRequest;
pub use query::{
    AgentTally, CauseTally, Ended, Invocations, Leak, Leaks, ProgramTally, Query, Summary, Tally,
    ToolTally,
};
pub use standing::{LostRun, OpenFinding, OpenRun, Over, Settlement};

use super::news::{FindingNews, InvocationNews, News, Origin, What};
use crate::{
    escape,
    lineage::{FindingKind, Process, ProcessId},
};
use keeper::{Keeper, Told};

/// Where the daemon keeps its history.
pub const DEFAULT_DATABASE: &str = "/var/lib/tracer/history.db";
/// Most news that wait to be kept.
const MOST_QUEUED: usize = 4096;
/// Most of what is over that a daemon remembers at its start.
const MOST_OVER: usize = 1 << 16;
/// How often it is looked whether there is room in the queue again.
const LOOK: Duration = Duration::from_millis(5);
/// How long a question about leaks may take.
const TO_ANSWER: Duration = Duration::from_secs(20);
/// Most bytes that they may hold: what a hostile process is called is up to it.
const MOST_BYTES: usize = 16 << 20;

/// What tells findings of one boot apart.
pub type FindingKey = (ProcessId, FindingKind);

/// How much is kept, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The database. It and its folder are made where they are missing, for their owner alone.
    pub database: PathBuf,
    /// For how long, from the end of a run or of a finding on. What stands is never removed.
    pub max_age: Duration,
    /// Largest database on disk, bytes. What is closed goes first that closed first; where that is not enough
    /// no more is taken in that stands.
    pub max_size: u64,
    /// Largest database in memory, bytes, while there can be none on disk.
    pub max_memory: u64,
    /// How often the disk is tried again when it could not be written.
    pub retry_every: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            database: DEFAULT_DATABASE.into(),
            max_age: Duration::from_secs(30 * 24 * 60 * 60),
            max_size: 256 << 20,
            max_memory: 8 << 20,
            retry_every: Duration::from_secs(60),
        }
    }
}

/// How much is kept on disk: see [`Options::max_age`] and [`Options::max_size`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// For how long.
    pub max_age: Duration,
    /// Bytes.
    pub max_size: u64,
}

/// Where the history is kept now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// In the database.
    Disk,
    /// In memory: it ends with the daemon.
    Memory,
    /// Nowhere: not even in memory.
    Nowhere,
}

/// How the history does, for metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct HistoryStatus {
    /// Where it is kept.
    pub mode: Mode,
    /// Why not on disk; `None`: it is.
    pub reason: Option<Reason>,
    /// News that were not kept, and what was kept in memory alone and had to make room.
    pub dropped: u64,
    /// News that were kept.
    pub written: u64,
    /// Size of the database.
    pub bytes: u64,
}

/// The status as the threads share it.
#[derive(Debug)]
struct Shared {
    /// Held for no longer than it takes to copy two bytes.
    place: Mutex<(Mode, Option<Reason>)>,
    dropped: AtomicU64,
    written: AtomicU64,
    bytes: AtomicU64,
    /// Bytes that wait in the queue.
    queued: AtomicUsize,
    /// What it was told to go by and does not yet. Held for no longer than it takes to copy it.
    limits: Mutex<Option<Limits>>,
}

impl Shared {
    fn new() -> Self {
        Self {
            place: Mutex::new((Mode::Disk, None)),
            dropped: AtomicU64::new(0),
            written: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            queued: AtomicUsize::new(0),
            limits: Mutex::new(None),
        }
    }

    fn limits(&self) -> MutexGuard<'_, Option<Limits>> {
        self.limits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, mode: Mode, reason: Option<Reason>) {
        *self.place.lock().unwrap_or_else(PoisonError::into_inner) = (mode, reason);
    }

    fn drop_news(&self, number: u64) {
        self.dropped.fetch_add(number, Ordering::Relaxed);
    }

    fn read(&self) -> HistoryStatus {
        let Self { place, dropped, written, bytes, queued: _, limits: _ } = self;
        let (mode, reason) = *place.lock().unwrap_or_else(PoisonError::into_inner);
        HistoryStatus {
            mode,
            reason,
            dropped: dropped.load(Ordering::Relaxed),
            written: written.load(Ordering::Relaxed),
            bytes: bytes.load(Ordering::Relaxed),
        }
    }
}

/// What is asked of the thread. Answers by itself; says what is wrong with the database, if it is.
type Question = Box<dyn FnOnce(&Connection, &Origin) -> Option<Reason> + Send>;

enum Message {
    /// What is to be kept, and how many bytes of the queue's it holds.
    Tell(Told, usize),
    Ask(Question),
    /// There are new limits.
    Limited,
}

/// The history. Dropped, it keeps what it was told by then, in its own time; see [`History::flush`].
pub struct History {
    queue: SyncSender<Message>,
    shared: Arc<Shared>,
}

impl fmt::Debug for History {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { queue: _, shared } = self;
        f.debug_struct("History").field("status", &shared.read()).finish_non_exhaustive()
    }
}

impl History {
    /// Starts to keep history. The database is opened by its own thread: nothing is waited for, and
    /// where it cannot be opened the status says so.
    #[must_use]
    pub fn start(options: Options, origin: Origin) -> Self {
        let (queue, messages) = sync_channel(MOST_QUEUED);
        let shared = Arc::new(Shared::new());
        let kept = Arc::clone(&shared);
        let work = move || Keeper::open(options, origin, kept).run(&messages);
        if let Err(error) = thread::Builder::new().name("tracer-history".to_owned()).spawn(work) {
            log::error!("no history is kept: failed to start its thread: {error}");
            shared.put(Mode::Nowhere, Some(Reason::Failed));
        }
        Self { queue, shared }
    }

    /// Keeps this. Never waits: what finds the queue full is dropped and counted.
    pub fn tell(&self, news: &News) {
        self.offer(weight(news), || Told::News(Box::new(news.clone())));
    }

    /// Keeps what came of a request to end a process. Never waits, as [`History::tell`].
    pub fn tell_on_request(&self, ended: EndedOnRequest) {
        self.offer(ended.weight(), || Told::OnRequest(Box::new(ended)));
    }

    /// Puts it into the queue, if there is room for so many bytes; else it is dropped and counted.
    fn offer(&self, bytes: usize, told: impl FnOnce() -> Told) {
        let queued = self.shared.queued.fetch_add(bytes, Ordering::Relaxed);
        let sent = if queued.saturating_add(bytes) > MOST_BYTES {
            false
        } else {
            match self.queue.try_send(Message::Tell(told(), bytes)) {
                Ok(()) => true,
                Err(TrySendError::Full(_)) => false,
                Err(TrySendError::Disconnected(_)) => {
                    self.shared.put(Mode::Nowhere, Some(Reason::Failed));
                    false
                }
            }
        };
        if !sent {
            self.shared.queued.fetch_sub(bytes, Ordering::Relaxed);
            self.shared.drop_news(1);
        }
    }

    /// From now on keeps no more than this: what is beyond is removed at once. Never waits.
    pub fn limit(&self, limits: Limits) {
        *self.shared.limits() = Some(limits);
        // Where there is no room for that, there is something that wakes it as well.
        let _ = self.queue.try_send(Message::Limited);
    }

    /// How it does. Never waits.
    #[must_use]
    pub fn status(&self) -> HistoryStatus {
        self.shared.read()
    }

    /// Findings of this boot that stand as far as is known: at start, those that stood when the
    /// daemon before this one ended. Waits for the database, at most so long.
    ///
    /// # Errors
    /// When the history cannot be read, or not in time.
    pub fn open_findings(&self, within: Duration) -> Result<Vec<OpenFinding>, HistoryError> {
        self.ask(within, |connection, origin| standing::open_findings(connection, &origin.boot_id))
    }

    /// A finding that stands does so no more. One that does not stand stays as it is. Never waits; `false`:
    /// there is no room for it now.
    #[must_use]
    pub fn settle(&self, settlement: Settlement) -> bool {
        self.put(Told::Settled(settlement))
    }

    /// Runs of this boot that go on as far as is known: at start, those that did when the daemon before
    /// this one ended. Waits for the database, at most so long.
    ///
    /// # Errors
    /// When the history cannot be read, or not in time.
    pub fn open_runs(&self, within: Duration) -> Result<Vec<OpenRun>, HistoryError> {
        self.ask(within, |connection, origin| standing::open_runs(connection, &origin.boot_id))
    }

    /// What of this boot is over, of findings and of runs the last 65,536: at start, what no daemon needs
    /// to be told of again. Waits for the database, at most so long.
    ///
    /// # Errors
    /// When the history cannot be read, or not in time.
    pub fn over(&self, within: Duration) -> Result<Over, HistoryError> {
        self.ask(within, |connection, origin| {
            standing::over(connection, &origin.boot_id, MOST_OVER)
        })
    }

    /// A run that goes on does so no more. One that has ended stays as it is. Never waits; `false`: there is
    /// no room for it now.
    #[must_use]
    pub fn close(&self, run: LostRun) -> bool {
        self.put(Told::Closed(run))
    }

    /// Puts into the queue what may come later as well. `false`: there is no room.
    fn put(&self, told: Told) -> bool {
        match self.queue.try_send(Message::Tell(told, 0)) {
            Ok(()) => true,
            Err(TrySendError::Full(_)) => false,
            // Nor will there ever be anybody who keeps it.
            Err(TrySendError::Disconnected(_)) => {
                self.shared.drop_news(1);
                true
            }
        }
    }

    /// What leaked. Waits for the database; not for the daemon's main task.
    ///
    /// # Errors
    /// When the history cannot be read, or not in time.
    pub fn leaks(&self, query: Query) -> Result<Leaks, HistoryError> {
        self.ask(TO_ANSWER, move |connection, _| query::leaks(connection, &query, now()))
    }

    /// Who leaks most, of what was there at some time within the last `since`, or ever. Waits for the
    /// database; not for the daemon's main task.
    ///
    /// # Errors
    /// When the history cannot be read, or not in time.
    pub fn summary(&self, since: Option<Duration>) -> Result<Summary, HistoryError> {
        self.ask(TO_ANSWER, move |connection, _| query::summary(connection, since, now()))
    }

    /// Waits until everything told so far is kept, at most so long. Says whether it is.
    #[must_use]
    pub fn flush(&self, within: Duration) -> bool {
        self.ask(within, |_, _| Ok(())).is_ok()
    }

    /// Asks, and waits for the answer, at most so long: the disk may hang.
    fn ask<T: Send + 'static>(
        &self,
        within: Duration,
        question: impl FnOnce(&Connection, &Origin) -> Result<T, HistoryError> + Send + 'static,
    ) -> Result<T, HistoryError> {
        let until = Instant::now() + within;
        let (answer, answered) = mpsc::channel();
        let question = move |connection: &Connection, origin: &Origin| {
            let found = question(connection, origin);
            let reason = found.as_ref().err().map(HistoryError::reason);
            // Who asked may have gone.
            let _ = answer.send(found);
            reason
        };
        self.send(Message::Ask(Box::new(question)), until)?;
        match answered.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(found) => found,
            Err(RecvTimeoutError::Timeout) => Err(HistoryError::TooSlow),
            Err(RecvTimeoutError::Disconnected) => Err(HistoryError::Stopped),
        }
    }

    /// Puts it into the queue as soon as there is room.
    fn send(&self, mut message: Message, until: Instant) -> Result<(), HistoryError> {
        loop {
            message = match self.queue.try_send(message) {
                Ok(()) => return Ok(()),
                Err(TrySendError::Disconnected(_)) => return Err(HistoryError::Stopped),
                Err(TrySendError::Full(message)) => message,
            };
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(HistoryError::TooSlow);
            }
            thread::sleep(left.min(LOOK));
        }
    }

    /// Keeps it from doing anything, as a disk that hangs does, until what this gives is dropped.
    #[cfg(test)]
    pub(super) fn hangs(&self) -> mpsc::Sender<()> {
        let (release, released) = mpsc::channel();
        let (hang, hung) = mpsc::channel();
        let question = move |_: &Connection, _: &Origin| {
            hang.send(()).expect("somebody waits for that");
            let _ = released.recv();
            None
        };
        self.queue.send(Message::Ask(Box::new(question))).expect("it takes questions");
        hung.recv().expect("it comes to that");
        release
    }
}

/// A history that another process keeps, or kept.
#[derive(Debug)]
pub struct Reader {
    connection: Connection,
}

impl Reader {
    /// Opens a database for reading. Whoever writes it is not kept from that.
    ///
    /// # Errors
    /// Where there is none that this tracer can read.
    pub fn open(database: &Path) -> Result<Self, HistoryError> {
        Ok(Self { connection: store::open_to_read(database)? })
    }

    /// What leaked.
    ///
    /// # Errors
    /// When the history cannot be read.
    pub fn leaks(&self, query: &Query) -> Result<Leaks, HistoryError> {
        query::leaks(&self.connection, query, now())
    }

    /// Who leaks most, of what was there at some time within the last `since`, or ever.
    ///
    /// # Errors
    /// When the history cannot be read.
    pub fn summary(&self, since: Option<Duration>) -> Result<Summary, HistoryError> {
        query::summary(&self.connection, since, now())
    }
}

/// ns since the epoch.
fn now() -> i64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_nanos()).unwrap_or(i64::MAX)
}

/// Bytes that news hold, roughly.
pub(super) fn weight(news: &News) -> usize {
    let words = |words: &[Vec<u8>]| words.iter().map(|word| word.len() + 24).sum::<usize>();
    let News { at: _, epoch_offset: _, what } = news;
    let held = match what {
        What::Opened(news) | What::Ended(news) => {
            let InvocationNews { invocation, uid: _, stats: _, is_uncertain: _ } = &**news;
            words(&invocation.command) + words(&invocation.root.args)
        }
        What::Finding(news) => {
            let FindingNews { finding, .. } = &**news;
            let lineage = finding.lineage.iter().map(|ancestor| words(&ancestor.args) + 100);
            let Process { exe, args, cwd, cgroup, .. } = &finding.process;
            let paths = [exe, cwd, cgroup].into_iter().flatten().map(Vec::len).sum::<usize>();
            let call = finding.tool_call.as_ref();
            let summary = call.and_then(|call| call.summary.as_ref()).map_or(0, Vec::len);
            let child = call.and_then(|call| call.child.as_ref());
            let child = child.map_or(0, |child| words(&child.args));
            words(args) + paths + summary + child + lineage.sum::<usize>()
        }
    };
    size_of::<News>() + 1024 + held
}

/// A path as messages have it.
fn shown(path: &Path) -> String {
    escape::terminal(path.as_os_str().as_encoded_bytes())
}
