//! Does what cleaning up asks for, between the core and the world.

use super::{Driver, RunError};
use crate::{
    cleanup::{Act, Cleaner, Errand, Hand, Settings},
    lineage::Event,
    procfs::{self, Procfs},
};

/// Who decides and who does it.
#[derive(Debug)]
pub(super) struct Cleaning {
    pub(super) cleaner: Cleaner,
    hand: Hand,
}

impl Cleaning {
    /// Makes ready.
    ///
    /// # Errors
    /// `/proc` cannot be used.
    pub(super) fn begin(settings: Settings) -> Result<Self, procfs::Error> {
        let hand = Hand::new(Procfs::of_host()?);
        Ok(Self { cleaner: Cleaner::new(settings), hand })
    }
}

impl Driver<'_> {
    /// Decides anew what is to be done about what was found, and does it.
    pub(super) async fn clean_up(&mut self) -> Result<(), RunError> {
        // Taken out while it works on the rest of the driver.
        let Some(mut cleaning) = self.cleaning.take() else { return Ok(()) };
        for (_, request) in self.requests.take_agreed() {
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

    async fn act(&mut self, act: Act, cleaning: &mut Cleaning) -> Result<(), RunError> {
        let Cleaning { cleaner, hand } = cleaning;
        let lives = |id| self.kernel.lives(id);
        match hand.act(act, cleaner, &self.lineage, self.clock, lives) {
            None => {}
            Some(Errand::Decide(process, lot)) => self.kernel.decide(process, lot),
            Some(Errand::Tell(news)) => self.lineage.handle(Event::CleanedUp(Box::new(news))),
            Some(Errand::KillCgroup(claim)) => self.kill_cgroup(&claim, cleaner, hand).await?,
            Some(Errand::CatchUp) => {
                self.catch_up().await?;
                self.recover_if_lossy().await?;
                cleaner.step(self.clock.now(), &self.lineage);
            }
            Some(Errand::Fulfilled { request, receipts }) => {
                self.requests.fulfilled(request, &receipts, &self.lineage);
            }
        }
        Ok(())
    }
}
