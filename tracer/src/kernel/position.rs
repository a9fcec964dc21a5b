//! How far a ring buffer has been read, as the kernel sees it, and back to where that was dealt with.
//!
//! Whoever reads tells the kernel at once, so that there is room; whoever deals with what was read may
//! be killed before. The next one then reads that again, as long as it has not been overwritten.
//!
//! ```text
//!   page 0: how far it was read (written by the reader)     kernel/bpf/ringbuf.c,
//!   page 1: how far it was written (by the kernel)           struct bpf_ringbuf
//! ```

use std::{
    io,
    os::fd::BorrowedFd,
    ptr::{self, NonNull},
    sync::atomic::{AtomicU64, Ordering},
};

use rustix::{
    mm::{MapFlags, ProtFlags, mmap, munmap},
    param::page_size,
};

/// One of the two pages.
#[derive(Debug)]
pub(super) struct Position {
    page: NonNull<AtomicU64>,
}

// SAFETY: a mapping is the whole process's, and is only touched atomically.
unsafe impl Send for Position {}

impl Position {
    /// How far the ring of this descriptor has been read.
    pub(super) fn of_reader(ring: BorrowedFd<'_>) -> io::Result<Self> {
        Self::map(ring, ProtFlags::READ | ProtFlags::WRITE, 0)
    }

    /// How far it has been written.
    fn of_writer(ring: BorrowedFd<'_>) -> io::Result<Self> {
        Self::map(ring, ProtFlags::READ, 1)
    }

    fn map(ring: BorrowedFd<'_>, access: ProtFlags, page: u64) -> io::Result<Self> {
        let offset = page * u64::try_from(page_size()).unwrap_or(4096);
        // SAFETY: a new mapping at a place of the kernel's choice.
        let page =
            unsafe { mmap(ptr::null_mut(), page_size(), access, MapFlags::SHARED, ring, offset) }?;
        let page = NonNull::new(page.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { page })
    }

    fn word(&self) -> &AtomicU64 {
        // SAFETY: mapped as long as this lives, aligned to a page, shared with the kernel, which reads
        // and writes the word atomically.
        unsafe { self.page.as_ref() }
    }

    /// Bytes since the ring was made.
    pub(super) fn get(&self) -> u64 {
        self.word().load(Ordering::Acquire)
    }
}

impl Drop for Position {
    fn drop(&mut self) {
        // SAFETY: mapped by `map`, of this length, and nothing refers to it any more.
        let _ = unsafe { munmap(self.page.as_ptr().cast(), page_size()) };
    }
}

/// Goes back to where what was read has been dealt with, and says how many bytes that is. `None`: it has
/// been overwritten. Nobody else may read meanwhile.
///
/// The kernel takes what lies behind the reader for free. So that nothing is taken for records that is
/// not, it is looked at again once the kernel has to keep off.
pub(super) fn go_back(ring: BorrowedFd<'_>, size: u64, to: u64) -> io::Result<Option<u64>> {
    let (reader, writer) = (Position::of_reader(ring)?, Position::of_writer(ring)?);
    let read = reader.get();
    let is_there = || writer.get().saturating_sub(to) <= size;
    if to > read || !is_there() {
        return Ok(None);
    }
    reader.word().store(to, Ordering::SeqCst);
    if is_there() {
        return Ok(Some(read - to));
    }
    reader.word().store(read, Ordering::SeqCst);
    Ok(None)
}
