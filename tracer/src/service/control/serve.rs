//! The thread that serves the socket: takes clients in, hears each one's request, answers and lets it go.
//!
//! A client has a seat from when it connects until it is answered, and each step of that has a deadline.
//! Seats are counted in all and for each user; some are kept for root.

use std::{
    collections::HashMap,
    io,
    os::{fd::AsFd as _, unix::net::UnixListener},
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
    time::Duration,
};

use tokio::{
    io::{Interest, unix::AsyncFd},
    net::UnixStream,
    runtime::Runtime,
    sync::{Semaphore, watch},
    time::{sleep, timeout},
};

use super::{
    answers::World,
    feed::{Following, Next, Told},
    peer::Asker,
    protocol::{self, Ask, Code, MAX_REQUEST, Refusal, SCHEMA, line},
    trace::Traces,
};
use crate::{lineage::Nanos, runtime, service::news::News};

/// Clients at once.
const MOST_SEATS: usize = 256;
/// Those among them who are not trusted.
const MOST_UNTRUSTED: usize = 192;
/// Those of one such user.
const MOST_OF_ONE: usize = 32;
/// Requests that are looked into at once, of those who are trusted.
const TRUSTED_AT_ONCE: usize = 4;
/// Threads that look at processes.
const LOOKERS: usize = 6;
/// How long a client may take to say what it wants.
const TO_ASK: Duration = Duration::from_secs(3);
/// How long an answer may take.
const TO_ANSWER: Duration = Duration::from_secs(20);
/// How long a client may take to read its answer, or a follower a line.
const TO_TAKE: Duration = Duration::from_secs(20);
/// How long nobody is taken in where descriptors are lacking.
const PAUSE: Duration = Duration::from_millis(100);
/// Lines after which a follower who never catches up is told how many he has missed.
const TELL_MISSED_EVERY: u32 = 4096;

/// What runs the thread.
pub(super) fn own_runtime() -> io::Result<Runtime> {
    runtime::builder()?.max_blocking_threads(LOOKERS).build()
}

/// Serves until `over` closes.
pub(super) fn serve(
    runtime: &Runtime,
    listener: UnixListener,
    world: World,
    mut over: watch::Receiver<()>,
) {
    runtime.block_on(async {
        tokio::select! {
            () = take_in(listener, world) => {}
            // Nothing is ever sent.
            _ = over.changed() => {}
        }
    });
    // Clients are dropped with the runtime; looks that hang are left to themselves.
}

#[derive(Clone, Debug)]
pub(super) struct Hall {
    pub(super) world: World,
    seats: Arc<Mutex<Seats>>,
    pub(super) traces: Traces,
    trusted: Arc<Semaphore>,
    /// One at a time: what strangers ask costs no more than that.
    untrusted: Arc<Semaphore>,
}

async fn take_in(listener: UnixListener, world: World) {
    let listener = match tokio::net::UnixListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => {
            log::error!("failed to serve the control socket: {error}");
            return;
        }
    };
    let hall = Hall {
        world,
        seats: Arc::new(Mutex::new(Seats::default())),
        traces: Traces::default(),
        trusted: Arc::new(Semaphore::new(TRUSTED_AT_ONCE)),
        untrusted: Arc::new(Semaphore::new(1)),
    };
    loop {
        match listener.accept().await {
            Ok((stream, _)) => hall.admit(stream),
            Err(error) => {
                log::warn!("failed to take in a client of the control socket: {error}");
                sleep(PAUSE).await;
            }
        }
        // Those who are in have their turn, however many come.
        tokio::task::yield_now().await;
    }
}

impl Hall {
    fn admit(&self, stream: UnixStream) {
        let shared = &self.world.shared;
        let asker = match Asker::of(&stream, shared.group()) {
            Ok(asker) => asker,
            Err(error) => {
                log::debug!("a client of the control socket is refused: {error}");
                return;
            }
        };
        let Some(seat) = Seat::take(&self.seats, asker) else {
            shared.refused.fetch_add(1, Ordering::Relaxed);
            let refusal = Refusal::new(Code::Busy, "be heard: too many ask at once; ask again");
            // Its queue is empty, and nobody waits for it.
            let _ = stream.try_write(refusal.line().as_bytes());
            return;
        };
        let hall = self.clone();
        tokio::spawn(async move {
            let served = hall.serve(&stream, asker).await;
            drop(stream);
            drop(seat);
            let shared = &hall.world.shared;
            match served {
                Served::Answered => shared.answered.fetch_add(1, Ordering::Relaxed),
                Served::Refused => shared.refused.fetch_add(1, Ordering::Relaxed),
            };
        });
    }

    async fn serve(&self, stream: &UnixStream, asker: Asker) -> Served {
        let asked = match timeout(TO_ASK, read_request(stream)).await {
            Ok(asked) => asked,
            Err(_) => Err(Refusal::new(Code::TooSlow, "read the request: it did not come in time")),
        };
        let answer = match asked {
            Ok(Ask::Events { follow, since_seconds }) => {
                self.tell_events(stream, asker, follow, since_seconds).await;
                return Served::Answered;
            }
            Ok(Ask::Trace {}) => match self.trace(stream, asker).await {
                Ok(()) => return Served::Answered,
                Err(refusal) => Err(refusal),
            },
            Ok(ask) => {
                let answered = timeout(TO_ANSWER, self.answer(asker, ask)).await;
                answered.unwrap_or_else(|_| {
                    Err(Refusal::new(Code::Busy, "answer in time: the host or the daemon is busy"))
                })
            }
            Err(refusal) => Err(refusal),
        };
        let (line, served) = match answer {
            Ok(line) => (line, Served::Answered),
            Err(refusal) => {
                log::debug!(
                    "a client of the control socket (pid {}, uid {}) is refused: {}",
                    asker.pid,
                    asker.uid,
                    refusal.reason
                );
                (refusal.line(), Served::Refused)
            }
        };
        let _ = write(stream, line.as_bytes()).await;
        served
    }

    async fn answer(&self, asker: Asker, ask: Ask) -> Result<String, Refusal> {
        let gate = if asker.is_trusted { &self.trusted } else { &self.untrusted };
        let _turn = gate.acquire().await;
        self.world.answer(asker, ask).await
    }

    async fn tell_events(
        &self,
        stream: &UnixStream,
        asker: Asker,
        follow: bool,
        since_seconds: Option<u64>,
    ) {
        let world = &self.world;
        let now = world.clock.now();
        let since = match since_seconds {
            Some(seconds) => Nanos(now.0.saturating_sub(seconds.saturating_mul(1_000_000_000))),
            None if follow => Nanos(u64::MAX),
            None => Nanos(0),
        };
        let (before, following) = {
            // At once: nothing is told twice or missed in between.
            let mut feed = world.shared.feed();
            (feed.since(since), follow.then(|| feed.follow(asker.is_trusted)))
        };
        for told in before {
            if !self.tell(stream, asker, &told).await {
                return;
            }
        }
        if let Some(following) = following {
            tokio::select! {
                () = self.follow(stream, asker, following) => {}
                () = until_closed(stream) => {}
            }
        }
    }

    async fn follow(&self, stream: &UnixStream, asker: Asker, mut following: Following) {
        // What shows the client that it is heard before anything happens.
        #[derive(serde::Serialize)]
        struct Note {
            schema: &'static str,
            #[serde(skip_serializing_if = "Option::is_none")]
            following: Option<bool>,
            #[serde(skip_serializing_if = "Option::is_none")]
            missed: Option<u64>,
        }
        let note = |missed: Option<u64>| {
            let following = missed.is_none().then_some(true);
            line(&Note { schema: SCHEMA, following, missed })
        };
        if !write(stream, note(None).as_bytes()).await {
            return;
        }
        let mut lines = 0_u32;
        loop {
            lines = lines.wrapping_add(1);
            let is_due = lines.is_multiple_of(TELL_MISSED_EVERY);
            let next = match is_due.then(|| following.missed()).flatten() {
                Some(missed) => Some(missed),
                None => following.next().await,
            };
            let is_taken = match next {
                Some(Next::News(told)) => self.tell(stream, asker, &told).await,
                Some(Next::Missed(missed)) => write(stream, note(Some(missed)).as_bytes()).await,
                None => false,
            };
            if !is_taken {
                return;
            }
        }
    }

    /// Tells what the asker may know; `false`: he does not take it.
    async fn tell(&self, stream: &UnixStream, asker: Asker, told: &Told) -> bool {
        let world = &self.world;
        let view = world.view(asker);
        if view.is_whole() {
            return write(stream, told.line(&world.origin).as_bytes()).await;
        }
        let News { at, epoch_offset, what } = &told.news;
        let Some(what) = view.news(what) else {
            // A stranger's followers take turns with everybody.
            tokio::task::yield_now().await;
            return true;
        };
        let news = News { at: *at, epoch_offset: *epoch_offset, what };
        write(stream, news.line(&world.origin).as_bytes()).await
    }
}

#[derive(Clone, Copy, Debug)]
enum Served {
    Answered,
    Refused,
}

/// One line, as far as its line feed or the end of what the client sends.
async fn read_request(stream: &UnixStream) -> Result<Ask, Refusal> {
    let failed =
        |error: io::Error| Refusal::new(Code::Malformed, format!("read the request: {error}"));
    let mut request = Vec::with_capacity(256);
    let mut buffer = [0; MAX_REQUEST + 1];
    loop {
        stream.readable().await.map_err(failed)?;
        match stream.try_read(&mut buffer) {
            Ok(0) => return protocol::decode(&request),
            Ok(length) => {
                request.extend_from_slice(buffer.get(..length).unwrap_or_default());
                if let Some(end) = request.iter().position(|&byte| byte == b'\n') {
                    request.truncate(end);
                    return protocol::decode(&request);
                }
                if request.len() >= MAX_REQUEST {
                    let reason = format!("read the request: it is longer than {MAX_REQUEST} bytes");
                    return Err(Refusal::new(Code::Malformed, reason));
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(failed(error)),
        }
    }
}

/// Writes all of it in time; `false`: the client does not take it.
pub(super) async fn write(stream: &UnixStream, bytes: &[u8]) -> bool {
    matches!(timeout(TO_TAKE, write_all(stream, bytes)).await, Ok(Ok(())))
}

/// Writes all of it, however long that takes.
pub(super) async fn write_all(stream: &UnixStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        stream.writable().await?;
        match stream.try_write(bytes) {
            Ok(length) => bytes = bytes.get(length..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Ends when the client closes, and not when it only says that it will send no more. What it still
/// sends is nobody's.
async fn until_closed(stream: &UnixStream) {
    let mut buffer = [0; 512];
    while stream.readable().await.is_ok() {
        match stream.try_read(&mut buffer) {
            Ok(0) => return until_hung_up(stream).await,
            Ok(_) => tokio::task::yield_now().await,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
    }
}

/// Ends when the client, who sends no more, reads no more either.
///
/// The kernel always tells of a hang-up (`EPOLLHUP`), which is that both sides are shut down: `unix_poll` in
/// `net/unix/af_unix.c`. That one side is (`EPOLLRDHUP`) it tells those who ask for what can be read, so
/// here only what never comes is asked for.
async fn until_hung_up(stream: &UnixStream) {
    let watched = stream.as_fd().try_clone_to_owned().and_then(|own| {
        // SAFETY: the `OwnedFd` that is moved into the `AsyncFd` holds one open descriptor for as long.
        Ok(unsafe { AsyncFd::register_with_interest(own, Interest::PRIORITY) }?)
    });
    match watched {
        Ok(watched) => drop(watched.ready(Interest::PRIORITY).await),
        Err(error) => {
            // The next line that cannot be written says so as well.
            log::debug!("failed to watch a follower for its hang-up: {error}");
            std::future::pending::<()>().await;
        }
    }
}

/// Who is in.
#[derive(Debug, Default)]
struct Seats {
    all: usize,
    untrusted: usize,
    /// Of each user who is not trusted and in.
    by_uid: HashMap<u32, usize>,
}

/// One client's place. Dropped, it is free.
#[derive(Debug)]
struct Seat {
    seats: Arc<Mutex<Seats>>,
    asker: Asker,
}

impl Seat {
    fn take(seats: &Arc<Mutex<Seats>>, asker: Asker) -> Option<Self> {
        let mut taken = seats.lock().unwrap_or_else(PoisonError::into_inner);
        let Seats { all, untrusted, by_uid } = &mut *taken;
        if *all >= MOST_SEATS {
            return None;
        }
        if !asker.is_trusted {
            let own = by_uid.get(&asker.uid).copied().unwrap_or(0);
            if *untrusted >= MOST_UNTRUSTED || own >= MOST_OF_ONE {
                return None;
            }
            by_uid.insert(asker.uid, own + 1);
            *untrusted += 1;
        }
        *all += 1;
        Some(Self { seats: Arc::clone(seats), asker })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.seats.lock().unwrap_or_else(PoisonError::into_inner);
        let Seats { all, untrusted, by_uid } = &mut *taken;
        *all = all.saturating_sub(1);
        if !self.asker.is_trusted {
            *untrusted = untrusted.saturating_sub(1);
            if let Some(own) = by_uid.get_mut(&self.asker.uid) {
                *own = own.saturating_sub(1);
                if *own == 0 {
                    by_uid.remove(&self.asker.uid);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Shutdown;

    use super::*;

    fn seats_of(uid: u32, is_trusted: bool, number: usize, seats: &Arc<Mutex<Seats>>) -> Vec<Seat> {
        let asker = Asker { pid: 1, uid, is_trusted };
        std::iter::from_fn(|| Seat::take(seats, asker)).take(number).collect()
    }

    #[test]
    fn client_that_sends_no_more_has_closed_when_it_closes() {
        own_runtime().unwrap().block_on(async {
            let (client, server) = UnixStream::pair().unwrap();
            let client = client.into_std().unwrap();
            client.shutdown(Shutdown::Write).unwrap();
            // Whether it is seen to hang up or has done so before.
            let closes = async {
                for _ in 0..100 {
                    tokio::task::yield_now().await;
                }
                drop(client);
            };
            tokio::join!(until_closed(&server), closes);
        });
    }

    #[test]
    fn no_user_takes_all_seats_and_some_are_roots() {
        let seats = Arc::new(Mutex::new(Seats::default()));
        let one = seats_of(1000, false, 1000, &seats);
        assert_eq!(one.len(), MOST_OF_ONE);
        let others: Vec<_> =
            (2000..2100).flat_map(|uid| seats_of(uid, false, 10, &seats)).collect();
        assert_eq!(others.len(), MOST_UNTRUSTED - MOST_OF_ONE);
        let roots = seats_of(0, true, 1000, &seats);
        assert_eq!(roots.len(), MOST_SEATS - MOST_UNTRUSTED);
        drop(one);
        assert_eq!(seats_of(3000, false, 1000, &seats).len(), MOST_OF_ONE);
        drop((others, roots));
        let left = seats.lock().unwrap();
        assert_eq!((left.all, left.untrusted, left.by_uid.len()), (0, 0, 0));
    }
}
