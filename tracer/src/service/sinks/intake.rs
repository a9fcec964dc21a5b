//! What was told and not taken on yet: bounded, in memory, and whoever tells waits for nobody.

use std::{
    collections::VecDeque,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// Lines that wait at most; and bytes of them.
pub(super) const MOST_LINES: usize = 8192;
const MOST_BYTES: usize = 8 << 20;

/// Lines in the order they were told. They stay until they are [`Intake::done`].
#[derive(Debug, Default)]
pub(super) struct Intake {
    inner: Mutex<Inner>,
    changed: Condvar,
}

/// Lines that were taken on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Done {
    /// How many. Whoever ended the intake has counted the others.
    pub(super) lines: u64,
    /// Lines that were refused while there was no room, once there is room for all.
    pub(super) refused: u64,
}

#[derive(Debug, Default)]
struct Inner {
    lines: VecDeque<Arc<str>>,
    bytes: usize,
    /// Lines refused since there was last room for all.
    refused: u64,
    phase: Phase,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd)]
enum Phase {
    /// Lines come and are taken.
    #[default]
    Open,
    /// None comes any more, what is there is taken.
    Closed,
    /// Nobody takes any.
    Ended,
}

impl Intake {
    /// Adds a line; whether there was room.
    pub(super) fn put(&self, line: Arc<str>) -> bool {
        let mut inner = self.inner();
        if inner.phase != Phase::Open {
            return false;
        }
        let bytes = inner.bytes.saturating_add(line.len());
        if inner.lines.len() >= MOST_LINES || (bytes > MOST_BYTES && !inner.lines.is_empty()) {
            inner.refused += 1;
            return false;
        }
        inner.bytes = bytes;
        inner.lines.push_back(line);
        self.changed.notify_all();
        true
    }

    /// Waits until there is a line, or none will come; whether there is one.
    pub(super) fn wait(&self) -> bool {
        self.wait_for(Duration::MAX)
    }

    /// The same, but for so long at most.
    pub(super) fn wait_for(&self, time: Duration) -> bool {
        let waits = |inner: &mut Inner| inner.lines.is_empty() && inner.phase == Phase::Open;
        let waited = self.changed.wait_timeout_while(self.inner(), time, waits);
        let (inner, _) = waited.unwrap_or_else(PoisonError::into_inner);
        !inner.lines.is_empty()
    }

    /// Whether more lines can come.
    pub(super) fn is_open(&self) -> bool {
        self.inner().phase == Phase::Open
    }

    /// Waits for so long; `false`, and at once, when no more lines come.
    pub(super) fn pause(&self, time: Duration) -> bool {
        let waits = |inner: &mut Inner| inner.phase == Phase::Open;
        let waited = self.changed.wait_timeout_while(self.inner(), time, waits);
        let (inner, _) = waited.unwrap_or_else(PoisonError::into_inner);
        inner.phase == Phase::Open
    }

    /// The first lines, of so many bytes together, but one at least.
    pub(super) fn front(&self, most_bytes: usize) -> Vec<Arc<str>> {
        let inner = self.inner();
        let mut bytes = 0_usize;
        let fits = |line: &&Arc<str>| {
            let is_first = bytes == 0;
            bytes = bytes.saturating_add(line.len());
            is_first || bytes <= most_bytes
        };
        inner.lines.iter().take_while(fits).cloned().collect()
    }

    /// So many of the first lines are taken on. Fewer are, where the end came before.
    pub(super) fn done(&self, lines: usize) -> Done {
        let mut inner = self.inner();
        let lines = lines.min(inner.lines.len());
        let bytes: usize = inner.lines.drain(..lines).map(|line| line.len()).sum();
        inner.bytes -= bytes;
        let has_room = inner.lines.is_empty();
        let refused = if has_room { std::mem::take(&mut inner.refused) } else { 0 };
        Done { lines: lines as u64, refused }
    }

    /// No more lines come.
    pub(super) fn close(&self) {
        let mut inner = self.inner();
        if inner.phase == Phase::Open {
            inner.phase = Phase::Closed;
            self.changed.notify_all();
        }
    }

    /// Nobody takes lines any more. Gives the number of those that are left and go.
    pub(super) fn end(&self) -> u64 {
        let mut inner = self.inner();
        inner.phase = Phase::Ended;
        inner.bytes = 0;
        self.changed.notify_all();
        inner.lines.drain(..).count() as u64
    }

    /// Waits for [`Intake::end`].
    pub(super) fn wait_for_end(&self, until: Instant) {
        let time = until.saturating_duration_since(Instant::now());
        let waits = |inner: &mut Inner| inner.phase != Phase::Ended;
        drop(self.changed.wait_timeout_while(self.inner(), time, waits));
    }

    pub(super) fn len(&self) -> usize {
        self.inner().lines.len()
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(bytes: usize) -> Arc<str> {
        Arc::from("x".repeat(bytes))
    }

    #[test]
    fn lines_beyond_the_bound_are_refused_and_told_once_there_is_room() {
        let intake = Intake::default();
        for _ in 0..MOST_LINES {
            assert!(intake.put(line(1)));
        }
        assert!(!intake.put(line(1)));
        assert!(!intake.put(line(1)));
        assert_eq!(intake.done(1), Done { lines: 1, refused: 0 });
        assert!(intake.put(line(1)));
        assert_eq!(intake.done(MOST_LINES), Done { lines: MOST_LINES as u64, refused: 2 });
        assert_eq!(intake.done(1), Done { lines: 0, refused: 0 });
    }

    #[test]
    fn bytes_are_bounded_but_one_line_is_always_taken() {
        let intake = Intake::default();
        assert!(intake.put(line(MOST_BYTES + 1)));
        assert!(!intake.put(line(1)));
        assert_eq!(intake.front(1).len(), 1);
        intake.done(1);
        for (bytes, fits) in [(MOST_BYTES - 1, true), (1, true), (1, false)] {
            assert_eq!(intake.put(line(bytes)), fits, "{bytes}");
        }
    }

    #[test]
    fn front_gives_whole_lines_up_to_so_many_bytes() {
        let intake = Intake::default();
        for bytes in [3, 3, 3] {
            intake.put(line(bytes));
        }
        for (most, lines) in [(0, 1), (1, 1), (5, 1), (6, 2), (8, 2), (9, 3), (100, 3)] {
            assert_eq!(intake.front(most).len(), lines, "{most}");
        }
    }

    #[test]
    fn what_is_there_when_it_closes_is_still_taken() {
        let intake = Intake::default();
        intake.put(line(1));
        intake.close();
        assert!(!intake.put(line(1)));
        assert!(!intake.pause(Duration::MAX));
        assert!(intake.wait());
        intake.done(1);
        assert!(!intake.wait());
        assert_eq!(intake.end(), 0);
    }

    #[test]
    fn line_is_taken_on_or_left_at_the_end_but_not_both() {
        let intake = Intake::default();
        intake.put(line(1));
        assert_eq!(intake.front(1).len(), 1);
        assert_eq!(intake.end(), 1);
        assert_eq!(intake.done(1), Done { lines: 0, refused: 0 });
        assert!(!intake.wait());
    }
}
