//! Whether tracer is ready, and whether it still sees what happens.

use std::fmt;

/// Probes in a row that have to fail before something is wrong: one may be lost among many events.
const MOST_MISSED: u32 = 2;

/// What a probe of oneself came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum ProbeResult {
    /// It was seen to execute and to end.
    Seen,
    /// That it executed was not told: the hook, the ring or the main task stands still.
    NotTold,
    /// The kernel side does not know it, or not that it ended.
    NotNoted,
    /// It could not be started, which says nothing about tracer.
    NotStarted,
}

impl ProbeResult {
    pub(super) const ALL: [Self; 4] = [Self::Seen, Self::NotTold, Self::NotNoted, Self::NotStarted];

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Seen => "seen",
            Self::NotTold => "not_told",
            Self::NotNoted => "not_noted",
            Self::NotStarted => "not_started",
        }
    }
}

/// How far the daemon has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Stage {
    /// Hooks are attached, and what was there is looked at.
    #[default]
    Starting,
    /// It sees everything.
    Ready,
    /// It ends.
    Stopping,
}

/// What was found out so far.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Health {
    pub(super) stage: Stage,
    /// Processes that are there and that nobody follows: the table had no room for them.
    pub(super) unknown: u64,
    /// Probes that failed since the last one that did not.
    missed: u32,
    /// The last of them.
    last_missed: Option<ProbeResult>,
    /// By result, in the order of [`ProbeResult::ALL`].
    counts: [u64; ProbeResult::ALL.len()],
}

/// Why something is not well, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ailment(String);

impl fmt::Display for Ailment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Health {
    /// A probe is over.
    pub(super) fn probed(&mut self, result: ProbeResult) {
        for (known, count) in ProbeResult::ALL.into_iter().zip(&mut self.counts) {
            *count += u64::from(known == result);
        }
        match result {
            ProbeResult::Seen => self.missed = 0,
            ProbeResult::NotTold | ProbeResult::NotNoted => {
                self.missed = self.missed.saturating_add(1);
                self.last_missed = Some(result);
            }
            ProbeResult::NotStarted => {}
        }
    }

    /// Probes by result.
    pub(super) fn probes(&self) -> impl Iterator<Item = (ProbeResult, u64)> {
        ProbeResult::ALL.into_iter().zip(self.counts)
    }

    /// Whether it sees all that happens from now on.
    pub(super) fn ready(&self) -> Result<(), Ailment> {
        match self.stage {
            Stage::Ready if self.unknown > 0 => Err(Ailment(format!(
                "not ready: the table of processes was full, and {} of those that are there are not \
                 followed: raise kernel.max_processes and start tracer daemon anew",
                self.unknown
            ))),
            Stage::Ready => Ok(()),
            Stage::Starting => {
                Err(Ailment("not ready: what runs on this host is still looked at".to_owned()))
            }
            Stage::Stopping => Err(Ailment("not ready: it ends".to_owned())),
        }
    }

    /// Whether it still sees what happens, as far as is known.
    pub(super) fn alive(&self) -> Result<(), Ailment> {
        if self.missed < MOST_MISSED {
            return Ok(());
        }
        let why = match self.last_missed {
            Some(ProbeResult::NotNoted) => "hooks are not run, or the table of processes is full",
            _ => "hooks are not run, records are lost, or they are not taken in",
        };
        let missed = self.missed;
        Err(Ailment(format!("unhealthy: the last {missed} probes of itself were not seen: {why}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_ready_between_start_and_end() {
        let mut health = Health::default();
        assert!(health.ready().unwrap_err().to_string().starts_with("not ready: "));
        health.stage = Stage::Ready;
        assert_eq!(health.ready(), Ok(()));
        health.unknown = 3;
        let said = health.ready().unwrap_err().to_string();
        assert!(said.contains("3 of those") && said.contains("kernel.max_processes"), "{said}");
        health.unknown = 0;
        assert_eq!(health.ready(), Ok(()));
        health.stage = Stage::Stopping;
        assert!(health.ready().is_err());
    }

    #[test]
    fn one_missed_probe_is_no_matter_two_are_and_one_that_is_seen_mends_it() {
        let mut health = Health::default();
        for result in [ProbeResult::NotTold, ProbeResult::Seen, ProbeResult::NotNoted] {
            health.probed(result);
            assert_eq!(health.alive(), Ok(()));
        }
        health.probed(ProbeResult::NotTold);
        let said = health.alive().unwrap_err().to_string();
        assert!(said.contains("last 2 probes") && said.contains("records are lost"), "{said}");
        health.probed(ProbeResult::NotNoted);
        let said = health.alive().unwrap_err().to_string();
        assert!(said.contains("last 3 probes") && said.contains("table"), "{said}");
        health.probed(ProbeResult::Seen);
        assert_eq!(health.alive(), Ok(()));
        assert_eq!(health.probes().map(|(_, count)| count).collect::<Vec<_>>(), [2, 2, 2, 0]);
    }

    #[test]
    fn probe_that_cannot_be_started_says_nothing_either_way() {
        let mut health = Health::default();
        for _ in 0..9 {
            health.probed(ProbeResult::NotStarted);
        }
        assert_eq!(health.alive(), Ok(()));
        health.probed(ProbeResult::NotTold);
        health.probed(ProbeResult::NotStarted);
        health.probed(ProbeResult::NotTold);
        assert!(health.alive().is_err());
    }
}
