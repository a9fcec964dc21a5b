//! Serves one who is traced for: decides whether he may, hands his requests to the main task, and brings
//! him what it tells. See [`crate::tap`].

use std::{
    collections::HashMap,
    io,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::{
    net::UnixStream,
    sync::Semaphore,
    time::{sleep, timeout},
};
use tracer_common::RECORD_VERSION;

use super::{
    desk::{Closed, Inquiry, Reply},
    peer::Asker,
    protocol::{Code, Refusal, line},
    serve::{Hall, write, write_all},
};
use crate::{
    procfs::Procfs,
    tap::{
        SCHEMA,
        outbox::{MOST_BYTES, Outbox, Taker, outbox},
        wire::{Ask, Frames, MAX_REQUEST, Request, Told, frame},
    },
};

/// Who is traced for, by number.
pub type TapId = u64;

/// Who wants to be traced for.
#[derive(Debug)]
pub struct TapBegin {
    /// What it has started, which has executed nothing yet: pid in the tracer's PID namespace.
    pub pid: u32,
    /// And start, clock ticks.
    pub start_ticks: u64,
    /// Its own pid there.
    pub parent: u32,
    /// May know what processes execute that are not wholly this user's; `None`: of everybody's.
    pub user: Option<u32>,
    /// Where what it is told goes.
    pub outbox: Outbox,
}

/// A question to the main task, which answers into the outbox.
#[derive(Debug)]
pub enum TapAsked {
    /// `None`: it is refused.
    Begin(TapBegin, Reply<Option<TapId>>),
    /// `false`: that is not to be asked.
    Of(TapId, Asked, Reply<bool>),
}

/// What one who is traced for asks.
#[derive(Debug)]
pub struct Asked(pub(crate) Ask);

/// Those who are traced for at once.
const MOST_TRACES: usize = 64;
/// Those of one user who is not trusted.
const MOST_OF_ONE: usize = 16;
/// How long may pass until COMMAND is there.
const TO_BEGIN: Duration = Duration::from_secs(30);
/// What passes at least between two requests of those who are not trusted, all of them.
const BETWEEN: Duration = Duration::from_millis(1);
/// The same behind a reading of the table.
const AFTER_WALK: Duration = Duration::from_millis(20);
/// Why somebody is not traced for.
pub(crate) const NOT_HIS: &str = "it is no child of yours, or not your user's";
/// Bytes read at once.
const AT_ONCE: usize = 4096;

/// What shows a client that he will be traced for.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct Ready {
    schema: String,
    record_version: u8,
}

impl Ready {
    /// Whether the client can read what he will be told.
    pub(super) fn is_understood(&self) -> bool {
        self.schema == SCHEMA && self.record_version == RECORD_VERSION
    }
}

/// Who is traced for, in numbers.
#[derive(Clone, Debug)]
pub(super) struct Traces {
    by_uid: Arc<Mutex<HashMap<u32, usize>>>,
    /// Of those who are not trusted one asks at a time.
    turns: Arc<Semaphore>,
}

impl Default for Traces {
    fn default() -> Self {
        Self { by_uid: Arc::default(), turns: Arc::new(Semaphore::new(1)) }
    }
}

/// One of them. Dropped, there is room for another.
#[derive(Debug)]
struct Place {
    traces: Traces,
    uid: u32,
}

impl Traces {
    fn enter(&self, asker: Asker) -> Option<Place> {
        let mut by_uid = self.by_uid.lock().unwrap_or_else(PoisonError::into_inner);
        let own = by_uid.get(&asker.uid).copied().unwrap_or(0);
        let is_one_too_many = !asker.is_trusted && own >= MOST_OF_ONE;
        if is_one_too_many || by_uid.values().sum::<usize>() >= MOST_TRACES {
            return None;
        }
        by_uid.insert(asker.uid, own + 1);
        Some(Place { traces: self.clone(), uid: asker.uid })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut by_uid = self.traces.by_uid.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = by_uid.get_mut(&self.uid) {
            *own = own.saturating_sub(1);
            if *own == 0 {
                by_uid.remove(&self.uid);
            }
        }
    }
}

impl Hall {
    /// Traces for him until he goes.
    pub(super) async fn trace(&self, stream: &UnixStream, asker: Asker) -> Result<(), Refusal> {
        let Some(_place) = self.traces.enter(asker) else {
            return Err(Refusal::new(Code::Busy, "trace: the daemon traces for too many"));
        };
        if !self.world.maps_all_uids && !asker.is_trusted {
            let reason = "trace: the daemon is in a user namespace where users are not told apart";
            return Err(Refusal::new(Code::NotPermitted, reason));
        }
        if !shares_namespace(&self.world.procfs, asker) {
            let reason = "trace: the daemon is in another PID namespace";
            return Err(Refusal::new(Code::NotPermitted, reason));
        }
        let ready = line(&Ready { schema: SCHEMA.to_owned(), record_version: RECORD_VERSION });
        if !write(stream, ready.as_bytes()).await {
            return Ok(());
        }
        let mut requests = Requests { stream, frames: Frames::at_most(MAX_REQUEST) };
        let Ok(Some(Ask::Begin(pid))) = timeout(TO_BEGIN, requests.next()).await else {
            return Ok(());
        };
        let Some((parent, start_ticks)) = self.child(asker, pid) else {
            let why = format!("begin with process {pid}: {NOT_HIS}");
            write(stream, &frame(Told::Refused(why))).await;
            return Ok(());
        };
        let (outbox, taker) = outbox(MOST_BYTES);
        let user = (!asker.is_trusted).then_some(asker.uid);
        let begin = TapBegin { pid, start_ticks, parent, user, outbox };
        let asked = |reply| Inquiry::Tap(TapAsked::Begin(begin, reply));
        match self.in_turn(asker, AFTER_WALK, asked).await? {
            Some(tap) => tokio::select! {
                () = bring(stream, &taker) => {}
                () = self.take_requests(&mut requests, tap, asker, &taker) => {}
            },
            // He is told why.
            None => bring(stream, &taker).await,
        }
        Ok(())
    }

    /// A child of his, and wholly his user's: his own pid, and when the child started, clock ticks.
    fn child(&self, asker: Asker, pid: u32) -> Option<(u32, u64)> {
        // Bound to the very process.
        let dir = self.world.procfs.process(pid).ok()?;
        let stat = dir.stat().ok()?;
        let parent = u32::try_from(asker.pid).ok()?;
        let is_his = dir.status().ok()?.only_uid == Some(asker.uid) && stat.ppid == parent;
        is_his.then_some((parent, stat.start_ticks))
    }

    /// Asks the main task, for those who are not trusted one at a time and with a pause behind it.
    async fn in_turn<T>(
        &self,
        asker: Asker,
        pause: Duration,
        inquiry: impl FnOnce(Reply<T>) -> Inquiry,
    ) -> Result<T, Closed> {
        if asker.is_trusted {
            return self.world.desk.ask(inquiry).await;
        }
        let turn = Arc::clone(&self.traces.turns).acquire_owned().await;
        let answer = self.world.desk.ask(inquiry).await;
        tokio::spawn(async move {
            sleep(pause).await;
            drop(turn);
        });
        answer
    }

    /// One after the other, each once the one before is answered. Ends when he goes, or says what is not
    /// to be said.
    async fn take_requests(
        &self,
        requests: &mut Requests<'_>,
        tap: TapId,
        asker: Asker,
        taker: &Taker,
    ) {
        while let Some(ask) = requests.next().await {
            // Who does not read his answers gets no more.
            taker.until_room().await;
            let pause = if matches!(ask, Ask::Walk(_)) { AFTER_WALK } else { BETWEEN };
            let asked = |reply| Inquiry::Tap(TapAsked::Of(tap, Asked(ask), reply));
            if self.in_turn(asker, pause, asked).await != Ok(true) {
                return;
            }
        }
    }
}

/// Brings him what there is for him, until there is no more.
async fn bring(stream: &UnixStream, taker: &Taker) {
    while let Some(frame) = taker.next().await {
        // However slow he is: what he misses is counted.
        if write_all(stream, &frame).await.is_err() {
            return;
        }
    }
}

/// What he sends.
struct Requests<'a> {
    stream: &'a UnixStream,
    frames: Frames,
}

impl Requests<'_> {
    /// The next; `None`: he has gone, or sent what is none. Cancel safe.
    async fn next(&mut self) -> Option<Ask> {
        let mut buffer = [0; AT_ONCE];
        loop {
            match self.frames.next::<Request>() {
                Ok(Some(Request { ask })) => return ask,
                Ok(None) => {}
                Err(error) => {
                    log::debug!("one who is traced for sends what is no request: {error}");
                    return None;
                }
            }
            self.stream.readable().await.ok()?;
            match self.stream.try_read(&mut buffer) {
                Ok(0) => return None,
                Ok(len) => self.frames.came(buffer.get(..len).unwrap_or_default()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return None,
            }
        }
    }
}

/// Whether pids mean the same to both.
fn shares_namespace(procfs: &Procfs, asker: Asker) -> bool {
    let own = procfs.own().and_then(|dir| dir.namespace("pid")).ok();
    let pid = u32::try_from(asker.pid).ok().filter(|pid| *pid != 0);
    let his = pid.and_then(|pid| procfs.process(pid).and_then(|dir| dir.namespace("pid")).ok());
    own.is_some() && own == his
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_takes_all_places() {
        let traces = Traces::default();
        let enter = |uid: u32, is_trusted, most: usize| {
            let asker = Asker { pid: 1, uid, is_trusted };
            std::iter::from_fn(|| traces.enter(asker)).take(most).collect::<Vec<_>>()
        };
        let one = enter(1000, false, 1000);
        assert_eq!(one.len(), MOST_OF_ONE);
        let trusted = enter(0, true, MOST_OF_ONE + 1);
        assert_eq!(trusted.len(), MOST_OF_ONE + 1);
        let others: Vec<_> = (2000..2100).flat_map(|uid| enter(uid, false, 1)).collect();
        assert_eq!(one.len() + trusted.len() + others.len(), MOST_TRACES);
        drop((one, trusted, others));
        assert!(traces.by_uid.lock().unwrap().is_empty());
    }
}
