//! Exit statuses.

use std::process::ExitCode;

use crate::lineage::{ExitStatus, Verdict};

/// What tracer exits with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status(u8);

impl Status {
    /// All is well.
    pub const OK: Self = Self(0);
    /// There is no answer to what was asked.
    pub const NOTHING_FOUND: Self = Self(1);
    /// Something that was to end is alive.
    pub const LEFT_ALIVE: Self = Self(1);
    /// The process that was asked about is dead and unreaped.
    pub const ZOMBIE: Self = Self(1);
    /// There is no such process.
    pub const GONE: Self = Self(2);
    /// The command line is wrong.
    pub const USAGE: Self = Self(2);
    /// What was to be checked is wrong.
    pub const WRONG: Self = Self(1);
    /// Default for a leak: COMMAND succeeded and left something behind.
    pub const LEAKED: u8 = 23;
    /// COMMAND succeeded, and events were lost that could change the verdict.
    pub const INCONCLUSIVE: Self = Self(24);
    /// tracer itself failed. Wins over all others.
    pub const FAILED: Self = Self(125);
    /// COMMAND could not be executed.
    pub const NOT_EXECUTABLE: Self = Self(126);
    /// COMMAND was not found.
    pub const NOT_FOUND: Self = Self(127);
    /// Added to the number of the signal that ended COMMAND.
    const SIGNALLED: u8 = 128;

    /// 128+N, as shells do.
    #[must_use]
    pub fn signalled(signal: u8) -> Self {
        Self(Self::SIGNALLED.saturating_add(signal))
    }

    /// One of the statuses of a run that was not judged; any other means that tracer failed.
    #[must_use]
    pub fn of_refusal(status: u8) -> Self {
        let known = [Self::NOT_EXECUTABLE, Self::NOT_FOUND];
        known.into_iter().find(|known| known.0 == status).unwrap_or(Self::FAILED)
    }

    /// The number.
    #[must_use]
    pub fn code(self) -> u8 {
        self.0
    }

    /// COMMAND's own status unless that is 0; then what the verdict asks for. `gates` is whether
    /// a leak fails at all.
    #[must_use]
    pub fn of_run(wait_status: i32, verdict: Verdict, gates: bool, leaked: u8) -> Self {
        match ExitStatus::from_wait_status(wait_status.cast_unsigned()) {
            ExitStatus::Signal(signal) => Self::signalled(signal),
            ExitStatus::Code(0) if gates => match verdict {
                Verdict::Clean => Self::OK,
                Verdict::Leaked => Self(leaked),
                Verdict::Inconclusive => Self::INCONCLUSIVE,
            },
            ExitStatus::Code(code) => Self(code),
        }
    }
}

impl From<Status> for ExitCode {
    fn from(status: Status) -> Self {
        Self::from(status.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_status_wins_over_the_verdict() {
        let of = |wait, verdict| Status::of_run(wait, verdict, true, 23);
        assert_eq!(of(0, Verdict::Clean), Status(0));
        assert_eq!(of(0, Verdict::Leaked), Status(23));
        assert_eq!(of(0, Verdict::Inconclusive), Status(24));
        assert_eq!(of(3 << 8, Verdict::Leaked), Status(3));
        assert_eq!(of(9, Verdict::Leaked), Status(137));
    }

    #[test]
    fn nothing_fails_where_nothing_gates() {
        for verdict in [Verdict::Clean, Verdict::Leaked, Verdict::Inconclusive] {
            assert_eq!(Status::of_run(0, verdict, false, 23), Status(0));
        }
        assert_eq!(Status::of_run(7 << 8, Verdict::Leaked, false, 23), Status(7));
    }
}
