//! Which sockets of a network namespace wait for others, by inode number.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::ops::ControlFlow;

use super::known;
use crate::procfs::{InetTable, TaskDir};

/// The listening sockets of each network namespace that was asked about.
///
/// The kernel walks its whole table of connections, a quarter of a million buckets, for one read
/// of `net/tcp`, which takes milliseconds even when there is none. So what was read serves every
/// process of that namespace.
#[derive(Debug, Default)]
pub(super) struct Ports {
    namespaces: BTreeMap<u64, Sockets>,
}

type Sockets = BTreeMap<u64, Listening>;

/// One of them; ordered as lists show them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Listening {
    Tcp(SocketAddr),
    Udp(SocketAddr),
    /// The name; an abstract one begins with `@`.
    Unix(Vec<u8>),
}

impl Listening {
    fn text(&self) -> Vec<u8> {
        match self {
            Self::Tcp(local) => local.to_string().into_bytes(),
            Self::Udp(local) => format!("udp {local}").into_bytes(),
            Self::Unix(name) => [b"unix ", name.as_slice()].concat(),
        }
    }
}

impl Ports {
    /// Where those of the task's sockets wait that do, given the inode numbers of all.
    pub(super) fn listening(&mut self, task: &TaskDir, own: &BTreeSet<u64>) -> Vec<Vec<u8>> {
        if own.is_empty() {
            return Vec::new();
        }
        let namespace = known(task.namespace("net"));
        let among = |sockets: &Sockets| {
            let mut found: Vec<_> = own.iter().filter_map(|inode| sockets.get(inode)).collect();
            found.sort_unstable();
            found.into_iter().map(Listening::text).collect()
        };
        if let Some(sockets) = namespace.and_then(|namespace| self.namespaces.get(&namespace)) {
            return among(sockets);
        }
        let sockets = sockets(task);
        let found = among(&sockets);
        // Of a task that ended meanwhile the rest is missing.
        if let Some(namespace) = namespace
            && task.stat().is_ok_and(|stat| !stat.is_dead())
        {
            self.namespaces.insert(namespace, sockets);
        }
        found
    }
}

/// Every socket of the task's network namespace that accepts connections or, for UDP, is bound
/// and takes packets from anyone.
fn sockets(task: &TaskDir) -> Sockets {
    let mut found = Sockets::new();
    for table in InetTable::ALL {
        known(task.inet_sockets(table, |socket| {
            if table.awaits_anybody(socket.state)? {
                let kind = if table.is_tcp() { Listening::Tcp } else { Listening::Udp };
                found.insert(socket.inode, kind(socket.local));
            }
            ControlFlow::Continue(())
        }));
    }
    known(task.unix_sockets(|socket| {
        if socket.listening && !socket.name.is_empty() {
            found.insert(socket.inode, Listening::Unix(socket.name.to_vec()));
        }
        ControlFlow::Continue(())
    }));
    found
}
