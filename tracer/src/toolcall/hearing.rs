//! Announcements on their way to the core, in the order in which they were made.

use std::{
    collections::{BTreeMap, HashSet},
    os::unix::net::SocketAddr,
};

use super::{
    answer::{Answer, MAX_FINDINGS, Told},
    held::{self, MOST_HELD},
    kill::Reply,
    listener::{Listener, Received},
};
use crate::lineage::{Finding, FindingKind, Nanos};

/// The listener, if there is one, and what it has heard that the core has not taken yet.
#[derive(Debug)]
pub(crate) struct Hearing {
    listener: Option<Listener>,
    /// By the time that each is about, and in the order in which they came.
    waiting: BTreeMap<(Nanos, u64), Received>,
    /// What waits takes so many bytes.
    held: usize,
    /// How many came.
    heard: u64,
    /// Those that there was no room for.
    refused: u64,
    /// Findings that an agent was told of: run and number.
    told: HashSet<(u32, u64)>,
}

impl Hearing {
    pub(crate) fn new(listener: Option<Listener>) -> Self {
        Self {
            listener,
            waiting: BTreeMap::new(),
            held: 0,
            heard: 0,
            refused: 0,
            told: HashSet::new(),
        }
    }

    /// Ends when something was heard; never where there is nothing to hear with.
    pub(crate) async fn listen(&self) {
        match &self.listener {
            // Read beside records that are older than it: the listener has nothing to tell of it.
            _ if !self.waiting.is_empty() => {}
            Some(listener) => listener.heard().await,
            None => std::future::pending().await,
        }
    }

    /// Notes what was said by now.
    pub(crate) fn drain(&mut self) {
        let heard = self.listener.as_ref().map(Listener::take).unwrap_or_default();
        heard.into_iter().for_each(|received| self.note(received));
    }

    fn note(&mut self, received: Received) {
        let sent_at = received.sent_at;
        let at = received.at.filter(|at| *at <= sent_at).unwrap_or(sent_at);
        let held = self.held + held::bytes(&received);
        if held > MOST_HELD {
            self.refused += 1;
            return;
        }
        (self.held, self.heard) = (held, self.heard + 1);
        self.waiting.insert((at, self.heard), received);
    }

    /// The next, if it is about a time before this one.
    pub(crate) fn next(&mut self, before: Option<Nanos>) -> Option<Received> {
        let next = self.waiting.first_entry()?;
        if before.is_some_and(|before| next.key().0 > before) {
            return None;
        }
        let received = next.remove();
        self.held -= held::bytes(&received);
        Some(received)
    }

    /// Answers what stands open of the calls of an asker's agent: numbers and findings of `run`. Who wants
    /// to `tell` them to the agent gets each once.
    pub(crate) fn answer(
        &mut self,
        asked: &Received,
        tell: bool,
        run: u32,
        open: Vec<(u64, Finding)>,
    ) {
        let is_wanted = |(number, finding): &(u64, Finding)| {
            !tell || !self.told.contains(&(run, *number)) && finding.kind != FindingKind::Orphan
        };
        let open: Vec<_> = open.into_iter().filter(is_wanted).collect();
        let told = open.iter().map(|(number, finding)| Told::of(*number, finding)).collect();
        let (Some(listener), Some(from)) = (&self.listener, &asked.from) else { return };
        let reached = listener.answer(from, &Answer::of(told).encode());
        if tell && reached {
            // What there is no room for is for the next time.
            self.told.extend(open.iter().take(MAX_FINDINGS).map(|(number, _)| (run, *number)));
        }
    }

    /// Forgets what agents were told of, if that is more than this.
    pub(crate) fn forget_told_beyond(&mut self, most: usize) {
        if self.told.len() >= most {
            self.told.clear();
        }
    }

    /// Answers a request to end processes. Who has not heard it asks again.
    pub(crate) fn reply(&self, to: &SocketAddr, reply: &Reply) {
        if let Some(listener) = &self.listener {
            listener.answer(to, &reply.encode());
        }
    }

    /// Messages that were malformed, too long or too many.
    pub(crate) fn refused(&self) -> u64 {
        self.refused + self.listener.as_ref().map_or(0, Listener::refused)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        os::unix::net::UnixDatagram,
        task::{Context, Poll, Waker},
    };

    use super::*;
    use crate::procfs::Procfs;

    fn is_ready(hearing: &Hearing) -> bool {
        let mut listening = std::pin::pin!(hearing.listen());
        listening.as_mut().poll(&mut Context::from_waker(Waker::noop())) == Poll::Ready(())
    }

    fn received(at: u64, text: usize) -> Received {
        let json = format!(
            r#"{{"v":1,"type":"call_start","id":"{at}","command":"{}"}}"#,
            "x".repeat(text)
        );
        let message = crate::toolcall::message::decode(json.as_bytes()).unwrap();
        Received { sender: 1, uid: None, sent_at: Nanos(at), at: None, message, from: None }
    }

    #[test]
    fn what_was_announced_comes_out_by_time_and_in_the_order_in_which_it_came() {
        let mut hearing = Hearing::new(None);
        for (sent_at, about) in [(9, 5), (9, 3), (9, 5), (9, 4), (2, 8)] {
            let mut received = received(sent_at, hearing.waiting.len());
            received.at = Some(Nanos(about));
            hearing.note(received);
        }
        let order = std::iter::from_fn(|| hearing.next(Some(Nanos(5))));
        let order: Vec<_> = order.map(|next| (next.sent_at.0, next.at.unwrap().0)).collect();
        // What would come after it was sent is about when it was sent.
        assert_eq!(order, [(2, 8), (9, 3), (9, 4), (9, 5), (9, 5)]);
        assert_eq!(hearing.held, 0);
    }

    #[test]
    fn what_waits_for_the_core_is_bounded_in_bytes() {
        let mut hearing = Hearing::new(None);
        for at in 0..10_000 {
            hearing.note(received(at, 4_000));
        }
        let waiting = u64::try_from(hearing.waiting.len()).unwrap();
        assert!((1_000..2_100).contains(&waiting), "{waiting}");
        assert!(hearing.held <= MOST_HELD && hearing.held + 5_000 > MOST_HELD);
        assert_eq!(hearing.refused(), 10_000 - waiting);
        // The first that came are heard, and then there is room again.
        assert_eq!(hearing.next(None).unwrap().sent_at, Nanos(0));
        hearing.note(received(20_000, 4_000));
        assert_eq!(hearing.refused(), 10_000 - waiting);
    }

    #[test]
    fn what_was_read_beside_records_is_heard_without_anything_else_coming() {
        // Not started: nobody but `drain` reads the socket, as when that is quicker.
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let socket = UnixDatagram::bind(&path).unwrap();
        let clock = Procfs::of_host().unwrap().clock();
        let listener = Listener::at(path.clone(), socket, clock).unwrap();
        let mut hearing = Hearing::new(Some(listener));
        assert!(!is_ready(&hearing));
        let sender = UnixDatagram::unbound().unwrap();
        sender.send_to(br#"{"v":1,"type":"findings"}"#, path).unwrap();
        hearing.drain();
        assert!(hearing.next(Some(Nanos(1))).is_none(), "it is later than that");
        assert!(is_ready(&hearing));
        assert!(hearing.next(None).is_some());
        assert!(!is_ready(&hearing));
    }
}
