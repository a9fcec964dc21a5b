//! What became of a sink's lines, and what stands in their way.

use std::sync::{
    Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use super::SinkKind;
use crate::escape::terminal;

/// How a sink does. Every line that it was told is written, dropped or queued, but for what a queue
/// on disk held before it was started, which is queued and then written or dropped too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SinkStatus {
    /// As it was given.
    pub name: String,
    /// What it is.
    pub kind: SinkKind,
    /// Lines that are where they should be; of a webhook, that the server took.
    pub written: u64,
    /// Lines that will never be there.
    pub dropped: u64,
    /// Attempts to write or deliver that failed, whether or not they are made again.
    pub failed: u64,
    /// Lines that wait, in memory or on disk.
    pub queued: u64,
    /// What stands in the way now, in one line for people. `None`: the last attempt went well.
    pub last_error: Option<String>,
}

/// Counts, for status and log.
#[derive(Debug)]
pub(super) struct Account {
    name: String,
    kind: SinkKind,
    written: AtomicU64,
    dropped: AtomicU64,
    failed: AtomicU64,
    troubles: Mutex<Troubles>,
}

/// What went wrong, until it goes well.
#[derive(Debug, Default)]
struct Troubles {
    target: Option<String>,
    queue: Option<String>,
}

/// Where something goes wrong.
#[derive(Clone, Copy, Debug)]
pub(super) enum Place {
    /// Where lines go.
    Target,
    /// Where they wait.
    Queue,
}

impl Account {
    pub(super) fn new(name: &str, kind: SinkKind) -> Self {
        Self {
            name: name.to_owned(),
            kind,
            written: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            troubles: Mutex::new(Troubles::default()),
        }
    }

    /// For messages.
    pub(super) fn name(&self) -> String {
        terminal(self.name.as_bytes())
    }

    pub(super) fn kind(&self) -> SinkKind {
        self.kind
    }

    pub(super) fn written(&self, lines: u64) {
        self.written.fetch_add(lines, Ordering::Relaxed);
    }

    pub(super) fn dropped(&self, lines: u64) {
        self.dropped.fetch_add(lines, Ordering::Relaxed);
    }

    /// So many lines were there when the sink ended, and go.
    pub(super) fn left(&self, lines: u64) {
        if lines > 0 {
            self.dropped(lines);
            log::warn!("sink {}: {lines} lines were left when it ended", self.name());
        }
    }

    /// So many lines were refused because others came faster than they were taken on. They are
    /// counted already.
    pub(super) fn was_behind(&self, lines: u64) {
        if lines > 0 {
            log::warn!("sink {}: {lines} lines were dropped while it was behind", self.name());
        }
    }

    /// An attempt failed. It is logged when it failed otherwise before, or went well.
    pub(super) fn failed(&self, place: Place, error: &str) {
        self.failed.fetch_add(1, Ordering::Relaxed);
        let error = terminal(error.as_bytes());
        let mut troubles = self.troubles();
        let trouble = troubles.at(place);
        if trouble.as_ref() != Some(&error) {
            log::warn!("sink {}: failed to {error}", self.name());
            *trouble = Some(error);
        }
    }

    /// An attempt went well.
    pub(super) fn went_well(&self, place: Place) {
        if self.troubles().at(place).take().is_some() {
            let what = match place {
                Place::Target => "writes",
                Place::Queue => "queues on disk",
            };
            log::info!("sink {}: {what} again", self.name());
        }
    }

    pub(super) fn status(&self, queued: u64) -> SinkStatus {
        let Self { name, kind, written, dropped, failed, troubles: _ } = self;
        let Troubles { target, queue } = &*self.troubles();
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        SinkStatus {
            name: name.clone(),
            kind: *kind,
            written: read(written),
            dropped: read(dropped),
            failed: read(failed),
            queued,
            last_error: target.as_ref().or(queue.as_ref()).cloned(),
        }
    }

    fn troubles(&self) -> MutexGuard<'_, Troubles> {
        self.troubles.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Troubles {
    fn at(&mut self, place: Place) -> &mut Option<String> {
        match place {
            Place::Target => &mut self.target,
            Place::Queue => &mut self.queue,
        }
    }
}
