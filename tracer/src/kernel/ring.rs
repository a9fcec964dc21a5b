//! Reads the ring buffer on a thread of its own, at raised priority, so that a machine whose
//! CPUs all fork does not starve it.
//!
//! The kernel wakes the reader only for a record that finds the ring empty. The reader lets
//! [`COALESCE`] pass after each read, so however many records come, it is woken a hundred times
//! a second at most, and not at all while nothing happens. Who needs to be up to date asks with
//! [`Reader::flush`].
//!
//! What is on its way to the taker is bounded by [`QUEUE`]: beyond, the reader waits, the ring
//! fills, and the kernel counts what does not fit. That can be recovered from; a tracer that runs
//! out of memory can not.

use std::{io, os::fd::AsFd as _, sync::Arc, thread, time::Duration};

use aya::maps::{MapData, RingBuf};
use bytes::{BufMut as _, Bytes, BytesMut};
use thiserror::Error;
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::{
        Semaphore,
        mpsc::{UnboundedReceiver, UnboundedSender, error::TryRecvError, unbounded_channel},
    },
};

use super::position::Position;
use crate::{memory, priority, runtime};

/// How long records gather between two reads.
const COALESCE: Duration = Duration::from_millis(10);
/// A batch is sent when it is this long, bytes.
const BATCH: usize = 256 << 10;
/// Most bytes of records that have been read and not been taken.
const QUEUE: usize = 16 << 20;
/// What each record takes in the ring besides itself, and what it is padded to, bytes
/// (`BPF_RINGBUF_HDR_SZ` of include/uapi/linux/bpf.h).
const RECORD_HEADER: usize = 8;

/// The reader could not be started.
#[derive(Debug, Error)]
#[error("start the thread that reads the ring buffer: {0}")]
pub struct ReaderError(#[source] io::Error);

/// What the reader sends.
#[derive(Debug)]
pub enum Batch {
    /// Records, each behind its length, see [`Records`]; and where in the ring they end, bytes since it was
    /// made.
    Records(Bytes, u64),
    /// Everything that was in the ring when [`Reader::flush`] was called has been sent.
    Flushed,
}

/// The reading thread. It ends when this is dropped.
#[derive(Debug)]
pub struct Reader {
    requests: UnboundedSender<()>,
    batches: Taker,
}

impl Reader {
    /// Starts to read a ring of `capacity` bytes.
    ///
    /// # Errors
    /// No thread or no epoll instance to be had.
    pub fn start(ring: RingBuf<MapData>, capacity: u32) -> Result<Self, ReaderError> {
        // Batches are: where one waits for the next, memory would else stay at their most.
        memory::give_back_what_is_large();
        let (requests, wanted) = unbounded_channel();
        let (queue, batches) = queue(QUEUE);
        let position = Position::of_reader(ring.as_fd()).map_err(ReaderError)?;
        let capacity = usize::try_from(capacity).unwrap_or(usize::MAX);
        // Made on its own thread, because it panics when it is dropped within another one, as when
        // the thread cannot be started.
        let (tell, told) = std::sync::mpsc::channel();
        let work = move || {
            let runtime = runtime::builder().and_then(|mut builder| builder.build());
            let (runtime, result) = match runtime {
                Ok(runtime) => (Some(runtime), Ok(())),
                Err(error) => (None, Err(error)),
            };
            if tell.send(result).is_ok()
                && let Some(runtime) = runtime
            {
                priority::raise(priority::READER);
                runtime.block_on(read(ring, position, capacity, wanted, queue));
            }
        };
        thread::Builder::new().name("tracer-ring".to_owned()).spawn(work).map_err(ReaderError)?;
        // A thread that panicked has told nothing.
        told.recv().map_err(io::Error::other).flatten().map_err(ReaderError)?;
        Ok(Self { requests, batches })
    }

    /// Asks for everything that is in the ring now, then [`Batch::Flushed`]. Batches have to be
    /// taken until that comes: the reader may be waiting for room.
    pub fn flush(&self) {
        // A reader that is gone answers by the end of its batches.
        let _ = self.requests.send(());
    }

    /// The next batch; `None` when the reader is gone. Cancel safe.
    pub async fn next(&mut self) -> Option<Batch> {
        self.batches.take().await
    }
}

/// A queue with room for so many bytes of records.
fn queue(bytes: usize) -> (Queue, Taker) {
    let (send, batches) = unbounded_channel();
    let room = Arc::new(Semaphore::new(bytes));
    (Queue { send, room: Arc::clone(&room) }, Taker { batches, room })
}

/// The end that batches are put into.
#[derive(Debug)]
struct Queue {
    send: UnboundedSender<Batch>,
    room: Arc<Semaphore>,
}

impl Queue {
    /// Sends records, as soon as there is room for them; `false` when nobody takes any more.
    async fn send(&self, records: Bytes, end: u64) -> bool {
        let len = u32::try_from(records.len()).unwrap_or(u32::MAX);
        tokio::select! {
            room = self.room.acquire_many(len) => match room {
                Ok(room) => room.forget(),
                Err(_) => return false,
            },
            () = self.send.closed() => return false,
        }
        self.send.send(Batch::Records(records, end)).is_ok()
    }

    /// Says that everything asked for has been sent.
    fn flushed(&self) -> bool {
        self.send.send(Batch::Flushed).is_ok()
    }
}

/// The end that batches are taken from.
#[derive(Debug)]
struct Taker {
    batches: UnboundedReceiver<Batch>,
    room: Arc<Semaphore>,
}

impl Taker {
    /// The next one. Cancel safe.
    async fn take(&mut self) -> Option<Batch> {
        let batch = self.batches.recv().await?;
        if let Batch::Records(records, _) = &batch {
            self.room.add_permits(records.len());
        }
        Some(batch)
    }
}

async fn read(
    ring: RingBuf<MapData>,
    position: Position,
    capacity: usize,
    mut wanted: UnboundedReceiver<()>,
    queue: Queue,
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
    // Records are left, which the kernel will not notify of again.
    let mut behind = false;
    loop {
        let asked = if behind {
            match wanted.try_recv() {
                Ok(()) => true,
                Err(TryRecvError::Empty) => false,
                Err(TryRecvError::Disconnected) => return,
            }
        } else {
            tokio::select! {
                request = wanted.recv() => match request {
                    Some(()) => true,
                    None => return,
                },
                ready = ring.readable_mut() => match ready {
                    // Before reading: what comes meanwhile is notified again.
                    Ok(mut ready) => { ready.clear_ready(); false }
                    Err(_) => return,
                },
            }
        };
        let Some(drained) = drain(ring.get_mut(), || position.get(), capacity, &queue).await else {
            return;
        };
        behind = drained == Drained::Enough;
        if asked {
            if !queue.flushed() {
                return;
            }
        } else if !behind {
            let asked = tokio::select! {
                () = tokio::time::sleep(COALESCE) => false,
                request = wanted.recv() => match request {
                    Some(()) => true,
                    None => return,
                },
            };
            let Some(drained) = drain(ring.get_mut(), || position.get(), capacity, &queue).await
            else {
                return;
            };
            behind = drained == Drained::Enough;
            if asked && !queue.flushed() {
                return;
            }
        }
    }
}

/// Something that records come out of, oldest first.
trait Source {
    /// Shows `see` the next record and consumes it; `false` if there is none now.
    fn consume(&mut self, see: impl FnOnce(&[u8])) -> bool;
}

impl Source for RingBuf<MapData> {
    fn consume(&mut self, see: impl FnOnce(&[u8])) -> bool {
        self.next().map(|record| see(&record)).is_some()
    }
}

/// Why draining came to an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Drained {
    /// Nothing is left.
    Empty,
    /// As much was read as the ring holds, so all that was in it at the beginning.
    Enough,
}

/// Sends what is in a ring of `capacity` bytes, and what comes meanwhile, but not for ever: while
/// all CPUs fork there is always more. `None` when nobody takes it.
async fn drain(
    ring: &mut impl Source,
    position: impl Fn() -> u64,
    capacity: usize,
    queue: &Queue,
) -> Option<Drained> {
    let mut batch = BytesMut::new();
    let mut read = 0;
    let drained = loop {
        if read >= capacity {
            break Drained::Enough;
        }
        let more = ring.consume(|record| {
            read += (record.len() + RECORD_HEADER).next_multiple_of(RECORD_HEADER);
            // The kernel's own limit on a record is below that.
            if let Ok(len) = u32::try_from(record.len()) {
                batch.reserve(record.len() + size_of::<u32>());
                batch.put_u32_ne(len);
                batch.put_slice(record);
            }
        });
        if !more {
            break Drained::Empty;
        }
        if batch.len() >= BATCH && !queue.send(batch.split().freeze(), position()).await {
            return None;
        }
    };
    (batch.is_empty() || queue.send(batch.freeze(), position()).await).then_some(drained)
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A ring that has always more, or some.
    struct Some64 {
        left: usize,
    }

    impl Source for Some64 {
        fn consume(&mut self, see: impl FnOnce(&[u8])) -> bool {
            let more = self.left > 0;
            if more {
                self.left -= 1;
                see(&[7; 64]);
            }
            more
        }
    }

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
    }

    /// Whether this has to wait for something.
    async fn waits(future: impl Future) -> bool {
        tokio::select! {
            biased;
            _ = future => false,
            () = std::future::ready(()) => true,
        }
    }

    fn bytes(len: usize) -> Bytes {
        Bytes::from(vec![0; len])
    }

    #[test]
    fn a_full_queue_makes_the_reader_wait_until_something_is_taken() {
        block_on(async {
            let (queue, mut taker) = queue(100);
            assert!(queue.send(bytes(60), 0).await);
            assert!(queue.send(bytes(40), 0).await);
            assert!(waits(queue.send(bytes(50), 0)).await);
            assert!(
                matches!(taker.take().await, Some(Batch::Records(batch, 0)) if batch.len() == 60)
            );
            assert!(queue.send(bytes(50), 0).await);
            assert!(waits(queue.send(bytes(50), 0)).await, "what waited in vain took no room");
        });
    }

    #[test]
    fn an_answer_to_a_flush_needs_no_room() {
        block_on(async {
            let (queue, mut taker) = queue(100);
            assert!(queue.send(bytes(100), 0).await);
            assert!(queue.flushed());
            assert!(matches!(taker.take().await, Some(Batch::Records(..))));
            assert!(matches!(taker.take().await, Some(Batch::Flushed)));
        });
    }

    #[test]
    fn nobody_waits_for_a_taker_that_is_gone() {
        block_on(async {
            let (queue, taker) = queue(100);
            assert!(queue.send(bytes(100), 0).await);
            let waiting = queue.send(bytes(1), 0);
            drop(taker);
            assert!(!waiting.await);
            assert!(!queue.flushed());
        });
    }

    #[test]
    fn a_ring_that_never_gets_empty_is_drained_once() {
        block_on(async {
            let (queue, mut taker) = queue(1 << 20);
            let mut ring = Some64 { left: usize::MAX };
            assert_eq!(drain(&mut ring, || 0, 720, &queue).await, Some(Drained::Enough));
            let Some(Batch::Records(batch, _)) = taker.take().await else { panic!("no records") };
            // 64 bytes and a header of 8 each: ten fill it.
            assert_eq!(Records::of(&batch).count(), 10);
            let mut ring = Some64 { left: 9 };
            assert_eq!(drain(&mut ring, || 0, 720, &queue).await, Some(Drained::Empty));
        });
    }

    #[test]
    fn a_slow_taker_gets_everything_in_order_within_the_bound() {
        block_on(async {
            const RECORDS: usize = 40_000;
            let (queue, mut taker) = queue(2 * BATCH);
            let room = Arc::clone(&queue.room);
            let reader = tokio::spawn(async move {
                let mut ring = Some64 { left: RECORDS };
                drain(&mut ring, || 0, usize::MAX, &queue).await
            });
            let mut taken = 0;
            while let Some(batch) = taker.take().await {
                let Batch::Records(batch, _) = batch else { panic!("nobody flushed") };
                taken += Records::of(&batch).count();
                assert!(room.available_permits() <= 2 * BATCH);
            }
            assert_eq!((taken, reader.await.unwrap()), (RECORDS, Some(Drained::Empty)));
        });
    }
}
