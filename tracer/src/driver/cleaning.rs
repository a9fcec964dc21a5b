//! Does what cleaning up asks for, between the core and the world.

use super::{Driver, RunError};
use crate::{
    cleanup::{Act, Cleaner, Hand, Identity, Settings},
    lineage::{CleanupNews, Event},
    procfs::{self, Procfs},
};

/// Who decides and who does it.
#[derive(Debug)]
pub(super) struct Cleaning<'r> {
    pub(super) cleaner: Cleaner<'r>,
    hand: Hand,
}

impl<'r> Cleaning<'r> {
    /// Makes ready.
    ///
    /// # Errors
    /// `/proc` cannot be used.
    pub(super) fn begin(settings: Settings<'r>) -> Result<Self, procfs::Error> {
        let hand = Hand::new(Procfs::of_host()?);
        Ok(Self { cleaner: Cleaner::new(settings), hand })
    }
}

impl Driver<'_> {
    /// Decides anew what is to be done about what was found, and does it.
    pub(super) async fn clean_up(&mut self) -> Result<(), RunError> {
        // Taken out while it works on the rest of the driver.
        let Some(mut cleaning) = self.cleaning.take() else { return Ok(()) };
        for request in self.requests.take_agreed() {
            cleaning.cleaner.request(request, self.clock.now(), &self.lineage);
        }
        if cleaning.cleaner.next_deadline().is_some_and(|at| at <= self.clock.now()) {
            // Whoever is late may have ended long since.
            self.catch_up().await?;
        }
        cleaning.cleaner.step(self.clock.now(), &self.lineage);
        while let Some(act) = cleaning.cleaner.poll_act() {
            self.act(act, &mut cleaning).await?;
        }
        self.cleaning = Some(cleaning);
        Ok(())
    }

    async fn act(&mut self, act: Act, cleaning: &mut Cleaning<'_>) -> Result<(), RunError> {
        let Cleaning { cleaner, hand } = cleaning;
        match act {
            Act::Decide(process, lot) => match self.probes.doom(process, lot) {
                Ok(reach) => log::debug!("{process:?} is {lot:?}; the kernel side: {reach:?}"),
                // User space goes on alone.
                Err(error) => log::warn!("failed to {error}"),
            },
            Act::Doom(process) => self.tell(CleanupNews::Doomed(process)),
            Act::Signal { process, pids, signal, about } => {
                let procs = self.probes.procs();
                let who = Identity { id: process, pids };
                let sent = hand.signal(who, signal, |id| procs.lives(id));
                log::info!("signal {signal} to {process:?}: {sent:?}");
                cleaner.sent(process, about, signal, self.clock.now(), &sent);
            }
            Act::Place(members) => {
                let members = members.into_iter();
                let places: Vec<_> =
                    members.map(|(id, pids)| hand.place(Identity { id, pids })).collect();
                cleaner.placed(&places, self.clock.now(), &self.lineage);
            }
            Act::SignalGroup(group) => {
                let procs = self.probes.procs();
                let leader = Identity { id: group.leader, pids: group.pids };
                let sent = hand.kill_group(leader, |id| procs.lives(id));
                log::info!("signal 9 to the process group of {:?}: {sent:?}", group.leader);
                cleaner.sent_to_group(&group, self.clock.now(), &sent);
            }
            Act::HoldPorts { process, pids, addresses } => {
                hand.hold_ports(Identity { id: process, pids }, addresses);
            }
            Act::CheckPorts(process) => {
                let now = self.clock.now();
                for address in hand.freed_ports(process) {
                    cleaner.port_freed(process, &address, now);
                }
            }
            Act::KillCgroup(claim) => self.kill_cgroup(&claim, cleaner, hand).await?,
            Act::CatchUp => {
                self.catch_up().await?;
                self.recover_if_lossy().await?;
                cleaner.step(self.clock.now(), &self.lineage);
            }
            Act::Unkillable { process, since } => {
                self.tell(CleanupNews::Unkillable { process, since });
            }
            Act::Receipt(receipt) => {
                log::info!("{:?}: {}", receipt.process, receipt.result.as_str());
                self.tell(CleanupNews::Receipt(*receipt));
            }
            Act::Requested(process) => self.tell(CleanupNews::Requested(process)),
            Act::Fulfilled { request, receipts } => {
                self.requests.fulfilled(request, &receipts, &self.lineage);
            }
        }
        Ok(())
    }

    fn tell(&mut self, news: CleanupNews) {
        self.lineage.handle(Event::CleanedUp(Box::new(news)));
    }
}
