//! Does what cleaning up asks for, between the core and the world.

use super::{Driver, RunError};
use crate::{
    cleanup::{Act, Cleaner, Identity},
    lineage::{CleanupNews, Event},
};

impl Driver<'_> {
    /// Decides anew what is to be done about what was found, and does it.
    pub(super) async fn clean_up(&mut self) -> Result<(), RunError> {
        let Some(mut cleaner) = self.cleaner.take() else { return Ok(()) };
        if cleaner.next_deadline().is_some_and(|at| at <= self.clock.now()) {
            // Whoever is late may have ended long since.
            self.cleaner = Some(cleaner);
            self.catch_up().await?;
            let Some(again) = self.cleaner.take() else { return Ok(()) };
            cleaner = again;
        }
        cleaner.step(self.clock.now(), &self.lineage);
        while let Some(act) = cleaner.poll_act() {
            self.act(act, &mut cleaner).await?;
        }
        self.cleaner = Some(cleaner);
        Ok(())
    }

    async fn act(&mut self, act: Act, cleaner: &mut Cleaner<'_>) -> Result<(), RunError> {
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
                let sent = self.hand.signal(who, signal, |id| procs.lives(id));
                log::info!("signal {signal} to {process:?}: {sent:?}");
                cleaner.sent(about, signal, self.clock.now(), &sent);
            }
            Act::HoldPorts { process, pids, addresses } => {
                self.hand.hold_ports(Identity { id: process, pids }, addresses);
            }
            Act::CheckPorts(process) => {
                let now = self.clock.now();
                for address in self.hand.freed_ports(process) {
                    cleaner.port_freed(process, &address, now);
                }
            }
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
        }
        Ok(())
    }

    fn tell(&mut self, news: CleanupNews) {
        self.lineage.handle(Event::CleanedUp(Box::new(news)));
    }
}
