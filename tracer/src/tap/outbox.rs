//! What waits for one client to read it, and is bounded: whoever is too slow loses records, and is told
//! how many, instead of holding up the daemon or filling its memory.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use tokio::sync::Notify;

/// Bytes beyond which no more records are put in.
pub const MOST_BYTES: usize = 8 << 20;

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// Something was put in, or no more comes.
    put: Notify,
    /// Something was taken out.
    taken: Notify,
}

#[derive(Debug, Default)]
struct State {
    frames: VecDeque<Bytes>,
    bytes: usize,
    /// Nobody takes any more.
    is_abandoned: bool,
    /// Nothing more comes.
    is_over: bool,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The end that frames are put into. Dropped, no more come.
#[derive(Debug)]
pub struct Outbox {
    shared: Arc<Shared>,
    most: usize,
}

/// The end that they are taken from, in order. Dropped, nobody takes them.
#[derive(Debug)]
pub struct Taker(Arc<Shared>);

/// One with room for so many bytes.
#[must_use]
pub fn outbox(most: usize) -> (Outbox, Taker) {
    let shared = Arc::new(Shared::default());
    (Outbox { shared: Arc::clone(&shared), most }, Taker(shared))
}

impl Outbox {
    /// Puts in what may be lost; `false`: there is no room for it.
    pub fn put_if_room(&self, frame: Bytes) -> bool {
        let mut state = self.shared.state();
        if state.bytes + frame.len() > self.most {
            return false;
        }
        self.put_into(&mut state, frame);
        true
    }

    /// Puts in an answer, which there is one of at a time.
    pub fn put(&self, frame: Bytes) {
        self.put_into(&mut self.shared.state(), frame);
    }

    fn put_into(&self, state: &mut State, frame: Bytes) {
        if !state.is_abandoned {
            state.bytes += frame.len();
            state.frames.push_back(frame);
            self.shared.put.notify_one();
        }
    }

    /// Whether nobody takes any more.
    #[must_use]
    pub fn is_abandoned(&self) -> bool {
        self.shared.state().is_abandoned
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        self.shared.state().is_over = true;
        self.shared.put.notify_one();
    }
}

impl Taker {
    /// The next frame; `None`: no more come. Cancel safe. One at a time may wait.
    pub async fn next(&self) -> Option<Bytes> {
        loop {
            {
                let mut state = self.0.state();
                if let Some(frame) = state.frames.pop_front() {
                    state.bytes -= frame.len();
                    self.0.taken.notify_one();
                    return Some(frame);
                }
                if state.is_over {
                    return None;
                }
            }
            self.0.put.notified().await;
        }
    }

    /// Waits until there is room for what may be lost. Cancel safe. One at a time may wait.
    pub async fn until_room(&self) {
        while self.0.state().bytes >= MOST_BYTES {
            self.0.taken.notified().await;
        }
    }
}

impl Drop for Taker {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.is_abandoned = true;
        state.frames.clear();
        state.bytes = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
    }

    #[test]
    fn records_are_lost_where_there_is_no_room_and_answers_are_not() {
        let (outbox, taker) = outbox(10);
        let frame = |byte: u8, len: usize| Bytes::from(vec![byte; len]);
        assert!(outbox.put_if_room(frame(1, 6)));
        assert!(!outbox.put_if_room(frame(2, 5)));
        assert!(outbox.put_if_room(frame(3, 4)));
        outbox.put(frame(4, 100));
        assert!(!outbox.put_if_room(frame(5, 1)));
        assert_eq!(block_on(taker.next()), Some(frame(1, 6)));
        // The answer still stands in the way.
        assert!(!outbox.put_if_room(frame(6, 1)));
        assert_eq!(block_on(taker.next()), Some(frame(3, 4)));
        assert_eq!(block_on(taker.next()), Some(frame(4, 100)));
        assert!(outbox.put_if_room(frame(7, 10)));
        drop(outbox);
        assert_eq!(block_on(taker.next()), Some(frame(7, 10)));
        assert_eq!(block_on(taker.next()), None);
    }

    #[test]
    fn nothing_is_kept_for_who_is_gone() {
        let (outbox, taker) = outbox(10);
        assert!(outbox.put_if_room(Bytes::from_static(b"one")));
        assert!(!outbox.is_abandoned());
        drop(taker);
        assert!(outbox.is_abandoned());
        outbox.put(Bytes::from_static(b"two"));
        assert_eq!(outbox.shared.state().frames.len(), 0);
    }

    #[test]
    fn who_waits_for_room_is_woken_when_there_is_some() {
        block_on(async {
            let (outbox, taker) = outbox(MOST_BYTES);
            taker.until_room().await;
            outbox.put(Bytes::from(vec![0; MOST_BYTES]));
            tokio::select! {
                biased;
                () = taker.until_room() => panic!("there is no room"),
                frame = taker.next() => assert_eq!(frame.map(|frame| frame.len()), Some(MOST_BYTES)),
            }
            taker.until_room().await;
        });
    }

    #[test]
    fn who_waits_is_woken() {
        block_on(async {
            let (outbox, taker) = outbox(10);
            let waiting = tokio::spawn(async move { (taker.next().await, taker.next().await) });
            tokio::task::yield_now().await;
            outbox.put(Bytes::from_static(b"one"));
            tokio::task::yield_now().await;
            drop(outbox);
            assert_eq!(waiting.await.unwrap(), (Some(Bytes::from_static(b"one")), None));
        });
    }
}
