//! Whether something was lost since the last look.

use super::load::{Counts, LoadError, Probes};

/// What was lost so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Losses {
    /// As of the last look, records that could not be decoded among those that were dropped.
    pub(crate) counts: Counts,
    /// Records that could not be decoded.
    pub(crate) damaged: u64,
}

impl Losses {
    /// Everything that is counted now, records that could not be decoded among those that were dropped.
    ///
    /// # Errors
    /// The counters cannot be read.
    pub(crate) fn now(&self, probes: &Probes) -> Result<Counts, LoadError> {
        let mut counts = probes.counts()?;
        counts.dropped += self.damaged;
        Ok(counts)
    }

    /// Whether something was lost since the last look.
    ///
    /// # Errors
    /// The counters cannot be read.
    pub(crate) fn look(&mut self, probes: &Probes) -> Result<bool, LoadError> {
        let counts = self.now(probes)?;
        let lossy = counts.dropped > self.counts.dropped || counts.failed > self.counts.failed;
        self.counts = counts;
        if lossy {
            log::warn!(
                "{} records were lost and {} updates failed; recovering from PROCS",
                counts.dropped,
                counts.failed
            );
        }
        Ok(lossy)
    }
}
