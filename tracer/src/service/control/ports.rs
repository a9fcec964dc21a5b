//! Who of all runs listens at a port.

use super::{
    answers::World,
    desk::{Inquiry, Key, Member},
    protocol::{Code, Refusal},
};
use crate::{
    kernel::sockets::{SocketsError, Waiting},
    lineage::ProcessId,
};

/// A process that listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Holder {
    pub(super) key: Key,
    /// Its pid in the tracer's PID namespace.
    pub(super) local: Option<u32>,
    /// Where, as findings tell it.
    pub(super) addresses: Vec<String>,
}

impl World {
    /// Whoever of all runs listens at a port, in whatever network namespace, oldest first: a server
    /// comes before those that it forked and that share its socket.
    pub(super) async fn holders(&self, port: u16) -> Result<Vec<Holder>, Refusal> {
        let refused = |error: SocketsError| Refusal::new(Code::Failed, error.to_string());
        let list = self.desk.ask(Inquiry::Sockets).await?.map_err(refused)?;
        let waiting = super::answers::aside(move || list.at_port(port)).await?.map_err(refused)?;
        let found = by_process(waiting);
        let ids = found.iter().map(|(id, _)| *id).collect();
        let whose = self.desk.ask(|reply| Inquiry::Members(ids, reply)).await?;
        let holders = whose.into_iter().zip(found).filter_map(|(member, (_, addresses))| {
            let Member { key, local } = member?;
            Some(Holder { key, local, addresses })
        });
        Ok(holders.collect())
    }
}

/// Each process once, oldest first, with where it waits.
fn by_process(mut waiting: Vec<Waiting>) -> Vec<(ProcessId, Vec<String>)> {
    waiting.sort_by_key(|one| one.process.by_birth());
    let same = waiting.chunk_by(|one, next| one.process == next.process);
    let told = same.map(|of_one| {
        let address =
            |one: &Waiting| format!("{}{}", if one.is_udp { "udp " } else { "" }, one.address);
        let mut addresses: Vec<_> = of_one.iter().map(address).collect();
        // One that has two descriptors of it, or two of this address in different namespaces.
        addresses.sort_unstable();
        addresses.dedup();
        (of_one[0].process, addresses)
    });
    told.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_process_is_told_once_the_oldest_first() {
        let waits = |pid, start, address: &str, is_udp| Waiting {
            process: ProcessId { pid, start },
            address: address.parse().unwrap(),
            is_udp,
        };
        let told = by_process(vec![
            waits(5, 200, "[::]:53", false),
            waits(9, 100, "127.0.0.1:53", true),
            waits(9, 100, "127.0.0.1:53", false),
            // Another network namespace's of the same address.
            waits(9, 100, "127.0.0.1:53", false),
        ]);
        let (old, young) = (ProcessId { pid: 9, start: 100 }, ProcessId { pid: 5, start: 200 });
        let expected = [
            (old, vec!["127.0.0.1:53".to_owned(), "udp 127.0.0.1:53".to_owned()]),
            (young, vec!["[::]:53".to_owned()]),
        ];
        assert_eq!(told, expected);
    }
}
