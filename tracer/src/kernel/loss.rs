//! Whether something was lost since the last look.

use super::load::Counts;

/// What was lost so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Losses {
    /// As of the last look, records that could not be decoded among those that were dropped.
    pub(crate) counts: Counts,
    /// Records that could not be decoded.
    pub(crate) damaged: u64,
}

impl Losses {
    /// Everything that is counted, records that could not be decoded among those that were dropped.
    /// `counts`: what the kernel side says now.
    pub(crate) fn with(&self, mut counts: Counts) -> Counts {
        counts.dropped += self.damaged;
        counts
    }

    /// Whether something was lost since the last look. `counts`: what the kernel side says now.
    pub(crate) fn look(&mut self, counts: Counts) -> bool {
        let counts = self.with(counts);
        let lossy = counts.dropped > self.counts.dropped || counts.failed > self.counts.failed;
        self.counts = counts;
        if lossy {
            let full = match counts.refused {
                0 => String::new(),
                refused => format!(" ({refused} for want of room in the table of processes)"),
            };
            log::warn!(
                "{} records were lost and {} updates failed{full}; recovering from PROCS",
                counts.dropped,
                counts.failed
            );
        }
        lossy
    }
}
