//! Reads the ring buffer on a thread of its own, at raised priority, so that a machine whose
//! CPUs all fork does not starve it.
//!
//! The kernel wakes the reader only for a record that finds the ring empty. The reader lets
//! [`COALESCE`] pass after each read, so however many records come, it is woken a hundred times
//! a second at most, and not at all while nothing happens. Who needs to be up to date asks with
//! [`Reader::flush`].

use std::{io, thread, time::Duration};

use aya::maps::{MapData, RingBuf};
use bytes::{BufMut as _, Bytes, BytesMut};
use thiserror::Error;
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
};

/// How long records gather between two reads.
const COALESCE: Duration = Duration::from_millis(10);
/// A batch is sent when it is this long, bytes.
const BATCH: usize = 256 << 10;
/// Nice value of the reader's thread.
const PRIORITY: i32 = -20;

/// The reader could not be started.
#[derive(Debug, Error)]
#[error("start the thread that reads the ring buffer: {0}")]
pub struct ReaderError(#[source] io::Error);

/// What the reader sends.
#[derive(Debug)]
pub enum Batch {
    /// Records, each behind its length; see [`Records`].
    Records(Bytes),
    /// Everything that was in the ring when [`Reader::flush`] was called has been sent.
    Flushed,
}

/// The reading thread. It ends when this is dropped.
#[derive(Debug)]
pub struct Reader {
    requests: UnboundedSender<()>,
    batches: UnboundedReceiver<Batch>,
}

impl Reader {
    /// Starts to read.
    ///
    /// # Errors
    /// No thread or no epoll instance to be had.
    pub fn start(ring: RingBuf<MapData>) -> Result<Self, ReaderError> {
        let (requests, wanted) = unbounded_channel();
        let (send, batches) = unbounded_channel();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(ReaderError)?;
        thread::Builder::new()
            .name("tracer-ring".to_owned())
            .spawn(move || {
                raise_priority();
                runtime.block_on(read(ring, wanted, send));
            })
            .map_err(ReaderError)?;
        Ok(Self { requests, batches })
    }

    /// Asks for everything that is in the ring now, then [`Batch::Flushed`].
    pub fn flush(&self) {
        // A reader that is gone answers by the end of its batches.
        let _ = self.requests.send(());
    }

    /// The next batch; `None` when the reader is gone. Cancel safe.
    pub async fn next(&mut self) -> Option<Batch> {
        self.batches.recv().await
    }
}

/// Linux gives each thread its own nice value (`man 2 setpriority`, "C library/kernel
/// differences"), so COMMAND, forked by another thread, does not inherit it.
fn raise_priority() {
    if let Err(error) = rustix::process::setpriority_process(None, PRIORITY) {
        log::debug!("failed to raise the reader's priority: {error}");
    }
}

async fn read(
    ring: RingBuf<MapData>,
    mut wanted: UnboundedReceiver<()>,
    send: UnboundedSender<Batch>,
) {
    // SAFETY: the ring owns its descriptor and never replaces it.
    let ring = unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) };
    let mut ring = match ring {
        Ok(ring) => ring,
        Err(error) => {
            log::error!("failed to poll the ring buffer: {error}");
            return;
        }
    };
    loop {
        tokio::select! {
            request = wanted.recv() => {
                if request.is_none() {
                    return;
                }
                if !drain(ring.get_mut(), &send) || send.send(Batch::Flushed).is_err() {
                    return;
                }
            }
            ready = ring.readable_mut() => {
                let Ok(mut ready) = ready else { return };
                // Before reading: what comes meanwhile is notified again.
                ready.clear_ready();
                if !drain(ring.get_mut(), &send) {
                    return;
                }
                tokio::select! {
                    () = tokio::time::sleep(COALESCE) => {}
                    request = wanted.recv() => {
                        if request.is_none() {
                            return;
                        }
                        if !drain(ring.get_mut(), &send) || send.send(Batch::Flushed).is_err() {
                            return;
                        }
                    }
                }
                if !drain(ring.get_mut(), &send) {
                    return;
                }
            }
        }
    }
}

/// Sends all that is there; `false` when nobody listens.
fn drain(ring: &mut RingBuf<MapData>, send: &UnboundedSender<Batch>) -> bool {
    let mut batch = BytesMut::new();
    while let Some(record) = ring.next() {
        let Ok(len) = u32::try_from(record.len()) else { continue };
        batch.reserve(record.len() + 4);
        batch.put_u32_ne(len);
        batch.put_slice(&record);
        if batch.len() >= BATCH && send.send(Batch::Records(batch.split().freeze())).is_err() {
            return false;
        }
    }
    batch.is_empty() || send.send(Batch::Records(batch.freeze())).is_ok()
}

/// The records of a batch, in order.
#[derive(Clone, Debug)]
pub struct Records<'a>(&'a [u8]);

impl<'a> Records<'a> {
    /// The records in `batch`.
    #[must_use]
    pub fn of(batch: &'a [u8]) -> Self {
        Self(batch)
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let (len, rest) = self.0.split_first_chunk::<4>()?;
        let (record, rest) = rest.split_at_checked(u32::from_ne_bytes(*len) as usize)?;
        self.0 = rest;
        Some(record)
    }
}
