//! Does what a cleaner says, as far as that takes nobody but the processes themselves.

use super::{
    claim::Claim,
    cleaner::{Act, Cleaner},
    hand::{Hand, Identity},
};
use crate::{
    lineage::{CleanupNews, Lineage, Lot, ProcessId, Receipt},
    procfs::BootClock,
};

/// What is left to whoever follows the run.
#[derive(Debug)]
pub enum Errand {
    /// [`Act::Decide`].
    Decide(ProcessId, Lot),
    /// Tell the core.
    Tell(CleanupNews),
    /// [`Act::KillCgroup`].
    KillCgroup(Claim),
    /// [`Act::CatchUp`].
    CatchUp,
    /// [`Act::Fulfilled`].
    Fulfilled {
        /// The request's number.
        request: u64,
        /// What became of each process, oldest first.
        receipts: Vec<Receipt>,
    },
}

impl Hand {
    /// Does it and answers the cleaner, or says what is left to be done. `lives`: see [`Hand::signal`].
    pub fn act(
        &mut self,
        act: Act,
        cleaner: &mut Cleaner,
        lineage: &Lineage,
        clock: BootClock,
        lives: impl FnOnce(ProcessId) -> Option<bool>,
    ) -> Option<Errand> {
        match act {
            Act::Decide(process, lot) => return Some(Errand::Decide(process, lot)),
            Act::Doom(process) => return Some(Errand::Tell(CleanupNews::Doomed(process))),
            Act::Signal { process, pids, signal, about } => {
                let sent = self.signal(Identity { id: process, pids }, signal, lives);
                log::info!("signal {signal} to {process:?}: {sent:?}");
                cleaner.sent(process, about, signal, clock.now(), &sent);
            }
            Act::Place(members) => {
                let members = members.into_iter();
                let places: Vec<_> =
                    members.map(|(id, pids)| self.place(Identity { id, pids })).collect();
                cleaner.placed(&places, clock.now(), lineage);
            }
            Act::SignalGroup(group) => {
                let leader = Identity { id: group.leader, pids: group.pids };
                let sent = self.kill_group(leader, lives);
                log::info!("signal 9 to the process group of {:?}: {sent:?}", group.leader);
                cleaner.sent_to_group(&group, clock.now(), &sent);
            }
            Act::HoldPorts { process, pids, addresses } => {
                self.hold_ports(Identity { id: process, pids }, addresses);
            }
            Act::CheckPorts(process) => {
                let now = clock.now();
                for address in self.freed_ports(process) {
                    cleaner.port_freed(process, &address, now);
                }
            }
            Act::KillCgroup(claim) => return Some(Errand::KillCgroup(claim)),
            Act::CatchUp => return Some(Errand::CatchUp),
            Act::Unkillable { process, since } => {
                return Some(Errand::Tell(CleanupNews::Unkillable { process, since }));
            }
            Act::Receipt(receipt) => {
                log::info!("{:?}: {}", receipt.process, receipt.result.as_str());
                return Some(Errand::Tell(CleanupNews::Receipt(*receipt)));
            }
            Act::Requested(process) => {
                return Some(Errand::Tell(CleanupNews::Requested(process)));
            }
            Act::Fulfilled { request, receipts } => {
                return Some(Errand::Fulfilled { request, receipts });
            }
        }
        None
    }
}
