//! Lines that wait to be delivered, in the order they came: on disk where there is a folder, else,
//! and while the disk refuses them, in memory. Both are bounded; where there is no room the oldest go.
//!
//! ```text
//!   done      next                            end
//! ----|---------|------------------------------|
//!     | being   |  on disk        | in memory  |
//!     |delivered|
//! ```
//!
//! A line on disk is synced before it can be delivered. A delivery is written to the cursor, and
//! synced, before it begins, so that a daemon that is killed delivers the same lines under the same id again.
//! That it is done is written and not synced: the worst is that it is delivered again.

use std::{collections::VecDeque, io, path::Path, sync::Arc};

use super::{
    Reason,
    cursor::{Cursor, CursorFile, Delivery},
    random,
    segments::{Lines, Segments},
};
use crate::recording::MAX_PAYLOAD;

/// How much is kept, and delivered at once.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Bytes kept.
    pub(super) bytes: u64,
    /// Lines of one delivery.
    pub(super) batch_lines: u64,
    /// Bytes of one delivery, unless a single line is longer.
    pub(super) batch_bytes: usize,
}

/// The lines of one delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Batch {
    /// Unique; the same whenever these lines are delivered again.
    pub(super) id: String,
    pub(super) lines: u64,
    /// The lines, as they are sent.
    pub(super) body: Vec<u8>,
    /// Number of the line after the last.
    end: u64,
}

/// The queue.
#[derive(Debug)]
pub(super) struct Queue {
    disk: Option<Disk>,
    /// Lines after those on disk.
    memory: VecDeque<Arc<str>>,
    memory_bytes: u64,
    /// Number of the first line in memory, or of the next to come.
    memory_first: u64,
    /// Number of the first line that is not done.
    done: u64,
    /// Number of the first line that was not given out.
    next: u64,
    limits: Limits,
    /// What deliveries since the start are called.
    prefix: String,
    deliveries: u64,
    /// A delivery that a former process began.
    begun: Option<Batch>,
}

#[derive(Debug)]
struct Disk {
    segments: Segments,
    cursor: CursorFile,
}

impl Queue {
    /// A queue in a folder, with what it holds, or in memory.
    ///
    /// # Errors
    /// The folder cannot be made, read or written, or another process has it.
    pub(super) fn open(folder: Option<&Path>, limits: Limits) -> Result<Self, Reason> {
        let mut queue = Self {
            disk: None,
            memory: VecDeque::new(),
            memory_bytes: 0,
            memory_first: 0,
            done: 0,
            next: 0,
            limits,
            prefix: format!("{:016x}", random()),
            deliveries: 0,
            begun: None,
        };
        if let Some(folder) = folder {
            queue.open_disk(folder).map_err(|reason| match reason.kind() {
                io::ErrorKind::WouldBlock => Reason::QueueTaken(folder.to_owned()),
                _ => Reason::Queue { folder: folder.to_owned(), reason },
            })?;
        }
        Ok(queue)
    }

    fn open_disk(&mut self, folder: &Path) -> io::Result<()> {
        // Eight or nine of them, so that little goes at once.
        let mut segments = Segments::open(folder, self.limits.bytes / 8)?;
        let (cursor_file, cursor) = CursorFile::open(segments.cursor()?);
        let Cursor { done, delivery } = cursor.unwrap_or_default();
        // Only lines that went without being done have lower numbers than the first.
        self.done = segments.first().map_or(done, |first| done.max(first));
        self.memory_first = segments.end().map_or(self.done, |end| end.max(self.done));
        self.next = self.done;
        if let Some(delivery) = delivery {
            self.begun = again(&mut segments, self.done, delivery)?;
        }
        if let Some(Batch { end, .. }) = &self.begun {
            self.next = *end;
        }
        self.disk = Some(Disk { segments, cursor: cursor_file });
        Ok(())
    }

    /// Lines that wait or are being delivered.
    pub(super) fn len(&self) -> u64 {
        self.end() - self.done
    }

    /// Lines that go with this process.
    pub(super) fn in_memory(&self) -> u64 {
        self.end() - self.done.max(self.memory_first)
    }

    /// Bytes of lines that the disk refused.
    pub(super) fn unsaved_bytes(&self) -> u64 {
        if self.disk.is_some() { self.memory_bytes } else { 0 }
    }

    /// Adds lines; how many went for them, and why they are not on disk if they should be.
    pub(super) fn push(&mut self, lines: Vec<Arc<str>>) -> (u64, io::Result<()>) {
        let mut dropped = 0;
        for line in lines {
            if line.len() > MAX_PAYLOAD as usize {
                // What a process showed is never so long.
                dropped += 1;
                continue;
            }
            self.memory_bytes += line.len() as u64;
            self.memory.push_back(line);
        }
        let saved = self.save();
        (dropped + self.make_room(), saved)
    }

    /// What is to be delivered next, when the last is done; `None`: nothing waits. With the number of
    /// lines before it that cannot be read any more.
    ///
    /// # Errors
    /// The disk cannot be read now.
    pub(super) fn next(&mut self) -> io::Result<(Option<Batch>, u64)> {
        if let Some(begun) = self.begun.take() {
            return Ok((Some(begun), 0));
        }
        let lines = self.read()?;
        let first = lines.as_ref().map_or(self.memory_first.max(self.next), |lines| lines.first);
        let lost = first - self.next;
        (self.done, self.next) = (first, first);
        let Some(Lines { first, number, text: body }) = lines else { return Ok((None, lost)) };
        self.next = first + number;
        self.deliveries += 1;
        let id = format!("{}-{}", self.prefix, self.deliveries);
        if let Some(Disk { segments: _, cursor }) = &mut self.disk {
            let sum = crc32fast::hash(&body);
            let delivery = Some(Delivery { id: id.clone(), end: self.next, sum });
            // Without it, it would get another id after a restart.
            if let Err(error) = cursor.write(&Cursor { done: self.done, delivery }, true) {
                log::debug!("failed to note that a delivery begins: {error}");
            }
        }
        Ok((Some(Batch { id, lines: number, body, end: self.next }), lost))
    }

    /// A batch is delivered, or given up.
    pub(super) fn done(&mut self, batch: &Batch) {
        self.done = self.done.max(batch.end);
        while self.memory_first < self.done && self.pop().is_some() {}
        if let Some(Disk { segments, cursor }) = &mut self.disk {
            if let Err(error) = cursor.write(&Cursor { done: self.done, delivery: None }, false) {
                log::debug!("failed to note that a delivery is done: {error}");
            }
            segments.remove_before(self.done);
        }
    }

    /// Whether something of a batch is still there, and did not have to go.
    pub(super) fn holds(&self, batch: &Batch) -> bool {
        batch.end > self.done
    }

    fn end(&self) -> u64 {
        self.memory_first + self.memory.len() as u64
    }

    /// Lines from `next` on.
    fn read(&mut self) -> io::Result<Option<Lines>> {
        let Limits { batch_lines, batch_bytes, .. } = self.limits;
        if self.next < self.memory_first
            && let Some(Disk { segments, cursor: _ }) = &mut self.disk
            && let Some(lines) = segments.read(self.next, batch_lines, batch_bytes)?
        {
            return Ok(Some(lines));
        }
        let first = self.next.max(self.memory_first);
        let skipped = usize::try_from(first - self.memory_first).unwrap_or(usize::MAX);
        let mut lines = Lines { first, ..Lines::default() };
        for line in self.memory.iter().skip(skipped) {
            let is_full =
                lines.number == batch_lines || lines.text.len() + line.len() > batch_bytes;
            if lines.number > 0 && is_full {
                break;
            }
            lines.text.extend(line.as_bytes());
            lines.number += 1;
        }
        Ok((lines.number > 0).then_some(lines))
    }

    /// Moves lines from memory to disk, if there is one.
    fn save(&mut self) -> io::Result<()> {
        let Some(Disk { segments, cursor: _ }) = &mut self.disk else { return Ok(()) };
        if self.memory.is_empty() {
            return Ok(());
        }
        let lines = self.memory.make_contiguous();
        let (saved, result) = segments.append(self.memory_first, lines);
        for _ in 0..saved {
            self.pop();
        }
        result
    }

    /// Lets the oldest go until there is room; how many of them were not given out.
    fn make_room(&mut self) -> u64 {
        let before = self.next;
        let mut gone = self.done;
        let Limits { bytes: most, .. } = self.limits;
        if let Some(Disk { segments, cursor: _ }) = &mut self.disk {
            while segments.bytes() > most && segments.len() > 1 {
                gone = gone.max(segments.remove_oldest().unwrap_or(gone));
            }
        } else {
            while self.memory_bytes > most && self.memory.len() > 1 {
                self.pop();
                gone = self.memory_first;
            }
        }
        self.done = self.done.max(gone);
        self.next = self.next.max(gone);
        self.next - before
    }

    fn pop(&mut self) -> Option<Arc<str>> {
        let line = self.memory.pop_front()?;
        self.memory_bytes -= line.len() as u64;
        self.memory_first += 1;
        Some(line)
    }
}

/// A delivery as it was begun by a former process, if its lines are all there.
fn again(segments: &mut Segments, first: u64, delivery: Delivery) -> io::Result<Option<Batch>> {
    let Delivery { id, end, sum } = delivery;
    let Some(most) = end.checked_sub(first).filter(|most| *most > 0) else { return Ok(None) };
    let lines = segments.read(first, most, usize::MAX)?;
    Ok(lines.and_then(|lines| {
        let Lines { first: found, number, text: body } = lines;
        let is_same = found == first && number == most && crc32fast::hash(&body) == sum;
        is_same.then_some(Batch { id, lines: number, body, end })
    }))
}
