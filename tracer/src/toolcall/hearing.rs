//! Announcements on their way to the core, in the order in which they were made.

use std::{collections::HashSet, os::unix::net::SocketAddr};

use super::{
    answer::{Answer, MAX_FINDINGS, Told},
    kill::Reply,
    listener::{Listener, Received},
};
use crate::lineage::{Finding, FindingKind, Nanos};

/// The listener, if there is one, and what it has heard that the core has not taken yet.
#[derive(Debug)]
pub(crate) struct Hearing {
    listener: Option<Listener>,
    /// By the time that each is about, the latest first.
    waiting: Vec<(Nanos, Received)>,
    /// Findings that an agent was told of: run and number.
    told: HashSet<(u32, u64)>,
}

impl Hearing {
    pub(crate) fn new(listener: Option<Listener>) -> Self {
        Self { listener, waiting: Vec::new(), told: HashSet::new() }
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
        // After those of the same time: they come out from the end.
        let place = self.waiting.partition_point(|&(other, _)| other > at);
        self.waiting.insert(place, (at, received));
    }

    /// The next, if it is about a time before this one.
    pub(crate) fn next(&mut self, before: Option<Nanos>) -> Option<Received> {
        let &(at, _) = self.waiting.last()?;
        if before.is_some_and(|before| at > before) {
            return None;
        }
        self.waiting.pop().map(|(_, received)| received)
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
        self.listener.as_ref().map_or(0, Listener::refused)
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
