//! What the history's thread does: gathers news, commits them, and stays on its feet whatever
//! becomes of the disk.
//!
//! ```text
//!        damaged: set aside, begun anew
//!          +--+
//!          |  v     full, read-only, ...
//! open -> Disk ---------------------------> Memory    (a copy of what stands)
//!          ^                                  |
//!          +----------------------------------+
//!             every minute: all that memory holds
//! ```

use std::{
    collections::HashSet,
    fs::File,
    mem,
    sync::{
        Arc,
        atomic::Ordering,
        mpsc::{Receiver, RecvTimeoutError},
    },
    time::{Duration, Instant},
};

use rusqlite::Connection;

use super::{
    EndedOnRequest, FindingKey, HistoryError, Limits, LostRun, Message, Mode, Options, Question,
    Reason, Settlement, Shared, now, on_request,
    retention::{self, Bounds},
    rows,
    schema::TABLES,
    standing, store,
};
use crate::service::news::{Change, News, Origin, What};

/// News are committed no later than this after they came.
const COMMIT_AFTER: Duration = Duration::from_millis(200);
/// News that are committed at once.
const MOST_PENDING: usize = 500;
/// News that are not taken apart any more where not all of them fit into memory.
const LEAST_AT_ONCE: usize = 8;
/// How often what is too old is looked for.
const MAINTAIN_EVERY: Duration = Duration::from_secs(10 * 60);
/// How often it is looked whether what stands leaves room again.
const SHRINK_EVERY: Duration = Duration::from_secs(10);
/// Withdrawn findings that are remembered while the disk cannot be told. What is forgotten stands
/// there until the daemon settles it.
const MOST_WITHDRAWN: usize = 1 << 16;

/// What is to be kept.
pub(super) enum Told {
    News(Box<News>),
    Settled(Settlement),
    Closed(LostRun),
    OnRequest(Box<EndedOnRequest>),
}

enum Place {
    Disk(Connection),
    Memory {
        connection: Connection,
        /// Findings that may be on disk and are none.
        withdrawn: HashSet<FindingKey>,
    },
    Nowhere,
}

impl Place {
    fn connection(&mut self) -> Option<&mut Connection> {
        match self {
            Self::Disk(connection) | Self::Memory { connection, withdrawn: _ } => Some(connection),
            Self::Nowhere => None,
        }
    }
}

/// The history as its thread has it.
pub(super) struct Keeper {
    options: Options,
    origin: Origin,
    shared: Arc<Shared>,
    place: Place,
    /// While it is held, the file is no other daemon's.
    lock: Option<File>,
    pending: Vec<Told>,
    commit_at: Option<Instant>,
    retry_at: Option<Instant>,
    maintain_at: Instant,
    /// There is no room on disk for more that stands.
    full: Option<Full>,
}

/// What stands alone is as large as the database may be.
#[derive(Clone, Copy, Debug)]
struct Full {
    /// When it is looked again.
    until: Instant,
    /// How large it was then, bytes.
    size: u64,
}

impl Keeper {
    /// Opens the database, or whatever can be had in its place.
    pub(super) fn open(options: Options, origin: Origin, shared: Arc<Shared>) -> Self {
        let mut keeper = Self {
            options,
            origin,
            shared,
            place: Place::Nowhere,
            lock: None,
            pending: Vec::new(),
            commit_at: None,
            retry_at: None,
            maintain_at: Instant::now(),
            full: None,
        };
        match keeper.open_disk() {
            Ok(connection) => keeper.place = Place::Disk(connection),
            Err(error) => keeper.fall_back(&error),
        }
        keeper.tell_size();
        keeper
    }

    /// Works until nobody can tell or ask any more.
    pub(super) fn run(mut self, messages: &Receiver<Message>) {
        loop {
            let full_until = self.full.map(|full| full.until);
            let due = [self.commit_at, self.retry_at, Some(self.maintain_at), full_until];
            let due = due.into_iter().flatten().min().unwrap_or(self.maintain_at);
            match messages.recv_timeout(due.saturating_duration_since(Instant::now())) {
                Ok(Message::Tell(told, bytes)) => {
                    self.shared.queued.fetch_sub(bytes, Ordering::Relaxed);
                    self.take(told);
                }
                Ok(Message::Ask(question)) => self.answer(question),
                Ok(Message::Limited) => {}
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    self.commit();
                    return;
                }
            }
            self.go_by_new_limits();
            self.do_what_is_due(Instant::now());
        }
    }

    /// Removes what is beyond them, if there are any.
    fn go_by_new_limits(&mut self) {
        let Some(limits) = self.shared.limits().take() else { return };
        let Limits { max_age, max_size } = limits;
        let Options { max_age: old_age, max_size: old_size, .. } = &mut self.options;
        if (max_age, max_size) != (mem::replace(old_age, max_age), mem::replace(old_size, max_size))
        {
            self.commit();
            self.maintain();
            if let Some(full) = &mut self.full {
                full.until = Instant::now();
            }
        }
    }

    fn take(&mut self, told: Told) {
        self.pending.push(told);
        self.commit_at.get_or_insert(Instant::now() + COMMIT_AFTER);
        if self.pending.len() >= MOST_PENDING {
            self.commit();
        }
    }

    fn do_what_is_due(&mut self, now: Instant) {
        if self.commit_at.is_some_and(|at| at <= now) {
            self.commit();
        }
        if self.retry_at.is_some_and(|at| at <= now) {
            self.retry();
        }
        if self.maintain_at <= now {
            self.maintain();
        }
        if self.full.is_some_and(|full| full.until <= now) {
            self.make_room(now);
        }
    }

    fn answer(&mut self, question: Question) {
        self.commit();
        let Some(connection) = self.place.connection() else { return };
        // Whatever else is wrong is wrong with the question.
        if question(connection, &self.origin) == Some(Reason::Damaged) {
            let path = self.options.database.clone();
            let found = "as was found when it was read".to_owned();
            self.leave_disk(&HistoryError::Damaged { path, found });
        }
    }

    /// Keeps what is pending, wherever that can be.
    pub(super) fn commit(&mut self) {
        self.commit_at = None;
        let pending = mem::take(&mut self.pending);
        if pending.is_empty() {
            return;
        }
        self.keep(&pending);
        self.make_room(Instant::now());
    }

    /// Removes the oldest of what is closed where the database is too large. Where that is not enough no more
    /// is taken in that stands, and it is looked again after a while, or when much has come: that takes a
    /// look at every row.
    pub(super) fn make_room(&mut self, now: Instant) {
        let (size, most) = (self.tell_size(), self.max_size());
        if self.full.is_some_and(|full| now < full.until && size <= full.size + most / 8) {
            return;
        }
        if size > most {
            self.retain(i64::MIN, self.max_size());
        }
        let (size, most) = (self.tell_size(), self.max_size());
        let is_full = matches!(self.place, Place::Disk(_)) && size > most;
        let full = is_full.then(|| Full { until: now + SHRINK_EVERY, size });
        match (mem::replace(&mut self.full, full), is_full) {
            (None, true) => log::error!(
                "the history takes in no more that stands: that takes {size} bytes, and history.max_size is {most}: raise it, or end what leaks"
            ),
            (Some(_), false) => log::warn!("the history takes in again what stands"),
            (None, false) | (Some(_), true) => {}
        }
    }

    /// Keeps these, wherever that can be.
    fn keep(&mut self, pending: &[Told]) {
        let number = u64::try_from(pending.len()).unwrap_or(u64::MAX);
        let mut kept = self.write(pending);
        // From a damaged database to a new one, from that to memory, and there after making room.
        for _ in 0..3 {
            match &kept {
                Err(error) if self.get_over(error) => kept = self.write(pending),
                _ => break,
            }
        }
        match kept {
            Ok(refused) => {
                self.shared.written.fetch_add(number.saturating_sub(refused), Ordering::Relaxed);
                self.shared.drop_news(refused);
            }
            // So many are too large for what memory may have; fewer need not be.
            Err(error) if error.reason() == Reason::Full && pending.len() > LEAST_AT_ONCE => {
                let (first, rest) = pending.split_at(pending.len() / 2);
                self.keep(first);
                self.keep(rest);
            }
            Err(error) => {
                log::debug!("{number} news are not in the history: failed to {error}");
                self.shared.drop_news(number);
            }
        }
    }

    /// Says how many there was no room for.
    fn write(&mut self, pending: &[Told]) -> Result<u64, HistoryError> {
        let Self { origin, place, full, .. } = self;
        let is_full = full.is_some() && matches!(place, Place::Disk(_));
        let mut refused = 0;
        let step = place.connection().ok_or(HistoryError::Stopped)?.transaction()?;
        for told in pending {
            match told {
                Told::News(news) if is_full && rows::adds(&step, &origin.boot_id, news)? => {
                    refused += 1;
                }
                Told::News(news) => rows::put(&step, origin, news)?,
                Told::Settled(settlement) => standing::settle(&step, &origin.boot_id, *settlement)?,
                Told::OnRequest(ended) => on_request::put(&step, origin, ended)?,
                Told::Closed(run) => standing::close_run(&step, &origin.boot_id, run)?,
            }
        }
        step.commit()?;
        if let Place::Memory { connection: _, withdrawn } = place {
            pending.iter().for_each(|told| remember(withdrawn, told));
        }
        Ok(refused)
    }

    /// Does what can be done about an error. `false`: nothing can.
    fn get_over(&mut self, error: &HistoryError) -> bool {
        match self.place {
            Place::Disk(_) => self.leave_disk(error),
            Place::Memory { .. } if error.reason() == Reason::Full => {
                self.retain(i64::MIN, self.max_size() / 2);
            }
            Place::Memory { .. } | Place::Nowhere => return false,
        }
        true
    }

    /// Opens the database; a damaged one is set aside, and a new one begun.
    fn open_disk(&mut self) -> Result<Connection, HistoryError> {
        let path = &self.options.database;
        if self.lock.is_none() {
            self.lock = Some(store::own(path)?);
        }
        let connection = match store::open(path) {
            Err(error) if error.reason() == Reason::Damaged => {
                let aside = store::set_aside(path)?;
                let aside = super::shown(&aside);
                log::error!("the history begins anew: failed to {error}; it is now at {aside}");
                store::open(path)?
            }
            other => other?,
        };
        standing::close_other_boots(&connection, &self.origin.boot_id, now())?;
        Ok(connection)
    }

    /// The database on disk cannot be used as it is.
    fn leave_disk(&mut self, error: &HistoryError) {
        if !matches!(self.place, Place::Disk(_)) {
            return;
        }
        // Closed, before anything is done to its files.
        self.place = Place::Nowhere;
        if error.reason() != Reason::Damaged {
            return self.fall_back(error);
        }
        let path = &self.options.database;
        let anew = store::set_aside(path).and_then(|aside| {
            let aside = super::shown(&aside);
            log::error!("the history begins anew: failed to {error}; it is now at {aside}");
            self.open_disk()
        });
        match anew {
            Ok(connection) => self.place = Place::Disk(connection),
            Err(error) => self.fall_back(&error),
        }
    }

    /// Keeps in memory what the disk does not take.
    fn fall_back(&mut self, error: &HistoryError) {
        let reason = error.reason();
        let every = self.options.retry_every;
        let next = if reason.may_pass() {
            format!("; tried again every {every:?}")
        } else {
            String::new()
        };
        log::error!("history is kept in memory alone, and not for long: failed to {error}{next}");
        self.retry_at = reason.may_pass().then(|| Instant::now() + every);
        self.place = match store::in_memory(self.options.max_memory) {
            Ok(connection) => {
                // What stands in another daemon's is for that one to settle.
                let is_own = !matches!(error, HistoryError::Taken { .. });
                if is_own && let Err(error) = self.copy_what_stands(&connection) {
                    log::debug!("what stands is not copied from disk: failed to {error}");
                }
                Place::Memory { connection, withdrawn: HashSet::new() }
            }
            Err(error) => {
                log::error!("no history is kept: failed to open a database in memory: {error}");
                Place::Nowhere
            }
        };
        self.tell_place(Some(reason));
    }

    /// What this boot's daemon has yet to settle, as far as the disk can still be read.
    fn copy_what_stands(&self, memory: &Connection) -> Result<(), HistoryError> {
        let disk = store::open_to_read(&self.options.database)?;
        for table in &TABLES {
            store::copy(&disk, memory, table, Some(&self.origin.boot_id))?;
        }
        Ok(())
    }

    /// Tries the disk again, and brings it all that memory holds.
    pub(super) fn retry(&mut self) {
        self.retry_at = None;
        self.commit();
        match self.open_disk().and_then(|mut disk| {
            self.carry_over(&mut disk)?;
            Ok(disk)
        }) {
            Ok(disk) => {
                log::warn!("the history is on disk again");
                self.place = Place::Disk(disk);
                self.tell_place(None);
                self.tell_size();
            }
            Err(error) => {
                log::debug!("the history stays in memory: failed to {error}");
                let reason = error.reason();
                self.retry_at =
                    reason.may_pass().then(|| Instant::now() + self.options.retry_every);
                self.tell_place(Some(reason));
            }
        }
    }

    fn carry_over(&self, disk: &mut Connection) -> Result<(), HistoryError> {
        let Place::Memory { connection, withdrawn } = &self.place else { return Ok(()) };
        let step = disk.transaction()?;
        for table in &TABLES {
            store::copy(connection, &step, table, None)?;
        }
        for key in withdrawn {
            rows::remove_finding(&step, &self.origin.boot_id, *key)?;
        }
        step.commit()?;
        Ok(())
    }

    /// Removes what is too old, or too much.
    pub(super) fn maintain(&mut self) {
        self.maintain_at = Instant::now() + MAINTAIN_EVERY;
        let path = &self.options.database;
        if matches!(self.place, Place::Disk(_)) && matches!(path.try_exists(), Ok(false)) {
            // Somebody removed it: what is written goes nowhere.
            return self.leave_disk(&HistoryError::Missing { path: path.clone() });
        }
        let max_age = i64::try_from(self.options.max_age.as_nanos()).unwrap_or(i64::MAX);
        self.retain(now().saturating_sub(max_age), self.max_size());
    }

    fn retain(&mut self, oldest: i64, max_size: u64) {
        let Some(connection) = self.place.connection() else { return };
        let retained =
            retention::retain(connection, Bounds { oldest, max_size }).and_then(|removed| {
                connection.execute_batch("PRAGMA shrink_memory")?;
                Ok(removed)
            });
        match retained {
            // It has been nowhere else.
            Ok(removed) if matches!(self.place, Place::Memory { .. }) => {
                self.shared.drop_news(removed);
            }
            Ok(_) => {}
            Err(error) => self.leave_disk(&error.into()),
        }
        self.tell_size();
    }

    fn max_size(&self) -> u64 {
        match self.place {
            Place::Disk(_) => self.options.max_size,
            Place::Memory { .. } | Place::Nowhere => self.options.max_memory / 8 * 7,
        }
    }

    fn tell_place(&self, reason: Option<Reason>) {
        let mode = match self.place {
            Place::Disk(_) => Mode::Disk,
            Place::Memory { .. } => Mode::Memory,
            Place::Nowhere => Mode::Nowhere,
        };
        self.shared.put(mode, reason);
    }

    /// Says how large the database is.
    fn tell_size(&mut self) -> u64 {
        let bytes = self.place.connection().map(|connection| retention::size(connection));
        let bytes = bytes.and_then(Result::ok).unwrap_or(0);
        self.shared.bytes.store(bytes, Ordering::Relaxed);
        bytes
    }
}

/// Remembers what the disk is yet to be told.
fn remember(withdrawn: &mut HashSet<FindingKey>, told: &Told) {
    let Told::News(news) = told else { return };
    let What::Finding(news) = &news.what else { return };
    if news.change != Change::Withdrawn {
        withdrawn.remove(&news.key());
    } else if withdrawn.len() < MOST_WITHDRAWN {
        withdrawn.insert(news.key());
    }
}

#[cfg(test)]
mod tests;
