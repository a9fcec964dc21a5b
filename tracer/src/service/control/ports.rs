//! Who of many processes listens at a port.
//!
//! The kernel's tables name a socket's inode and nobody who holds it: that is found in the descriptors of
//! the processes, one folder each. With 20,000 processes of an agent that takes a third of a second, so
//! the likely are looked at first: of each program the youngest, then of each the next. A server is
//! seldom one of many that execute the same.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    ops::ControlFlow,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
};

use super::desk::Key;
use crate::{
    lineage::{Present, ProcessId},
    node::RunId,
    procfs::{InetTable, Procfs, TaskDir},
};

/// Threads that look at descriptors.
const THREADS: usize = 2;
/// Descriptors of one process that are looked at: a server listens before it serves.
const MOST_DESCRIPTORS: usize = 16_384;
/// Relatives of a holder that may hold the socket too and are looked at.
const MOST_RELATIVES: usize = 256;
/// Processes of different programs whose network namespaces are looked at before anything else.
const MOST_LIKELY: usize = 256;

/// A process that may listen.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate {
    pub(super) run: RunId,
    pub(super) present: Present,
}

/// A process that listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Holder {
    pub(super) key: Key,
    /// Its pid in the tracer's PID namespace.
    pub(super) local: u32,
    /// Where, as findings tell it.
    pub(super) addresses: Vec<String>,
}

/// Sockets that wait at a port, by inode.
type Sockets = BTreeMap<u64, String>;

/// Who of these listens at a port, in whatever network namespace. A socket that is shared by a server
/// and what it forked is told of each.
pub(super) fn holders(procfs: &Procfs, port: u16, candidates: Vec<Candidate>) -> Vec<Holder> {
    let ordered = by_likelihood(candidates);
    let mut known = Namespaces { seen: HashSet::new(), sockets: Sockets::new() };
    if let Ok(own) = procfs.own() {
        known.read(&own, port);
    }
    let likely = ordered.iter().take(MOST_LIKELY);
    for candidate in likely {
        known.look(procfs, candidate, port);
    }
    let mut first = scan(procfs, &ordered, &known.sockets);
    if first.is_none() {
        let before = known.sockets.len();
        for candidate in ordered.iter().skip(MOST_LIKELY) {
            known.look(procfs, candidate, port);
        }
        if known.sockets.len() > before {
            first = scan(procfs, &ordered, &known.sockets);
        }
    }
    let Some(first) = first else { return Vec::new() };
    let relatives = relatives(&ordered, first.key);
    let others = relatives.iter().filter_map(|candidate| holds(procfs, candidate, &known.sockets));
    std::iter::once(first.clone()).chain(others).collect()
}

/// Network namespaces that were looked at, and what waits there at the port.
struct Namespaces {
    seen: HashSet<u64>,
    sockets: Sockets,
}

impl Namespaces {
    fn look(&mut self, procfs: &Procfs, candidate: &Candidate, port: u16) {
        let Some(local) = candidate.present.local else { return };
        if let Ok(dir) = procfs.process(local) {
            self.read(&dir, port);
        }
    }

    fn read(&mut self, task: &TaskDir, port: u16) {
        let Ok(namespace) = task.namespace("net") else { return };
        if !self.seen.insert(namespace) {
            return;
        }
        for table in InetTable::ALL {
            let sockets = &mut self.sockets;
            // One that is gone meanwhile has no table.
            let _ = task.inet_sockets(table, |socket| {
                if table.awaits_anybody(socket.state)? && socket.local.port() == port {
                    let kind = if table.is_tcp() { "" } else { "udp " };
                    sockets.insert(socket.inode, format!("{kind}{}", socket.local));
                }
                ControlFlow::Continue(())
            });
        }
    }
}

/// The youngest of each program, then the next of each, and so on. The dead hold nothing.
fn by_likelihood(mut candidates: Vec<Candidate>) -> Vec<Candidate> {
    candidates.retain(|candidate| candidate.present.is_alive && candidate.present.local.is_some());
    candidates.sort_unstable_by_key(|candidate| {
        std::cmp::Reverse((candidate.present.id.start, candidate.present.id.pid))
    });
    let mut ranks: HashMap<u64, u32> = HashMap::new();
    let mut ranked: Vec<_> = candidates
        .into_iter()
        .map(|candidate| {
            let rank = ranks.entry(candidate.present.program).or_default();
            *rank += 1;
            (*rank, candidate)
        })
        .collect();
    // Stable: of one rank the youngest first.
    ranked.sort_by_key(|(rank, _)| *rank);
    ranked.into_iter().map(|(_, candidate)| candidate).collect()
}

/// The first that holds one of these sockets, about in this order.
fn scan(procfs: &Procfs, ordered: &[Candidate], sockets: &Sockets) -> Option<Holder> {
    if sockets.is_empty() {
        return None;
    }
    let (next, is_found) = (AtomicUsize::new(0), AtomicBool::new(false));
    let found = Mutex::new(None);
    let look = || {
        while !is_found.load(Ordering::Relaxed)
            && let Some(candidate) = ordered.get(next.fetch_add(1, Ordering::Relaxed))
        {
            if let Some(holder) = holds(procfs, candidate, sockets) {
                is_found.store(true, Ordering::Relaxed);
                found.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(holder);
            }
        }
    };
    thread::scope(|scope| {
        // Where there are no more threads this one does it all.
        for _ in 1..THREADS.min(ordered.len() / 64) {
            let _ =
                thread::Builder::new().name("tracer-ports".to_owned()).spawn_scoped(scope, look);
        }
        look();
    });
    found.into_inner().unwrap_or_else(PoisonError::into_inner)
}

fn holds(procfs: &Procfs, candidate: &Candidate, sockets: &Sockets) -> Option<Holder> {
    let Candidate { run, present } = candidate;
    let local = present.local?;
    let mut addresses = Vec::new();
    let looked = procfs.sockets(local, MOST_DESCRIPTORS, |inode| {
        addresses.extend(sockets.get(&inode).cloned());
        ControlFlow::Continue(())
    });
    if looked.is_err() || addresses.is_empty() {
        return None;
    }
    addresses.sort_unstable();
    addresses.dedup();
    // Its pid may be another's by now.
    procfs.identify(local, present.id).ok().flatten()?;
    Some(Holder { key: (*run, present.id), local, addresses })
}

/// Those who may share what a process holds: whom it descends from, whom it forked, and their like.
fn relatives(all: &[Candidate], (run, id): Key) -> Vec<Candidate> {
    let by_id: HashMap<ProcessId, &Candidate> =
        all.iter().map(|candidate| (candidate.present.id, candidate)).collect();
    let Some(found) = by_id.get(&id) else { return Vec::new() };
    let mut above = HashSet::new();
    let mut at = found.present.forker;
    while let Some(candidate) = by_id.get(&at)
        && above.insert(at)
    {
        at = candidate.present.forker;
    }
    let forker = found.present.forker;
    let is_near = |candidate: &&Candidate| {
        let Present { id: other, forker: others, .. } = candidate.present;
        candidate.run == run
            && other != id
            && (above.contains(&other) || others == id || others == forker)
    };
    all.iter().filter(is_near).take(MOST_RELATIVES).copied().collect()
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn candidate(pid: u32, start: u64, program: u64) -> Candidate {
        let id = ProcessId { pid, start };
        let forker = ProcessId { pid: 1, start: 1 };
        let present = Present { id, local: Some(pid), forker, is_alive: true, program, level: 0 };
        Candidate { run: 1, present }
    }

    #[test]
    fn rare_programs_and_the_young_come_first() {
        let many = (1..=100).map(|n| candidate(n, u64::from(n), 7));
        let mut dead = candidate(300, 300, 9);
        dead.present.is_alive = false;
        let all = many.chain([candidate(200, 5, 8), dead]).collect();
        let pids: Vec<_> = by_likelihood(all).iter().map(|one| one.present.id.pid).collect();
        assert_eq!(pids[..3], [100, 200, 99]);
        assert_eq!((pids.len(), pids[100]), (101, 1));
    }

    #[test]
    fn listener_is_found_among_others_and_by_identity_alone() {
        let procfs = Procfs::of_host().unwrap();
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        let own = procfs.own().unwrap().stat().unwrap();
        let start = own.start_ticks * 10_000_000;
        let found = holders(&procfs, port, vec![candidate(1, 2, 3), candidate(own.pid, start, 4)]);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].addresses, [format!("127.0.0.1:{port}")]);
        assert_eq!(found[0].local, own.pid);
        // It had this pid before.
        let other = candidate(own.pid, start.saturating_sub(1_000_000_000), 4);
        assert_eq!(holders(&procfs, port, vec![other]), []);
        drop(socket);
        assert_eq!(holders(&procfs, port, vec![candidate(own.pid, start, 4)]), []);
    }
}
