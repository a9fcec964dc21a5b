//! Which time `/proc` and the clocks speak of.
//!
//! The kernel programs know `CLOCK_BOOTTIME` as it is. A process in a time namespace sees it
//! shifted by that namespace's offset: in `clock_gettime`, and since 5.11 also in field 22 of
//! `stat`, where the *reader's* namespace counts:
//! `nsec_to_clock_t(timens_add_boottime_ns(task->start_boottime))` (`do_task_stat` in
//! fs/proc/array.c; without `timens_add_boottime_ns` before 5.11). tracer speaks of the unshifted
//! clock everywhere and shifts here, where it meets the other one.

use rustix::time::{ClockId, Timespec, clock_gettime};

use super::fields::{Fields, lines, unsigned};
use super::release::kernel_version;
use crate::lineage::model::Nanos;

const NANOS_PER_SECOND: i64 = 1_000_000_000;

/// The kernel's own `CLOCK_BOOTTIME`, whatever time namespace the tracer runs in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BootClock {
    /// What the tracer's namespace adds to the clock, ns.
    offset: i64,
}

impl BootClock {
    /// A clock in a time namespace that adds `offset` ns.
    pub(super) fn with_offset(offset: i64) -> Self {
        Self { offset }
    }

    /// Now.
    #[must_use]
    pub fn now(self) -> Nanos {
        let seen = nanos(clock_gettime(ClockId::Boottime));
        self.of_seen(u64::try_from(seen).unwrap_or(0))
    }

    /// The time that a process in the tracer's time namespace sees as `seen` ns.
    #[must_use]
    pub fn of_seen(self, seen: u64) -> Nanos {
        Nanos(seen.saturating_sub_signed(self.offset))
    }

    /// The time that was `real` on the realtime clock, as the clocks stand to each other now.
    #[must_use]
    pub fn of_realtime(self, real: Timespec) -> Nanos {
        let since_boot = nanos(real).saturating_sub(self.epoch_offset());
        Nanos(u64::try_from(since_boot).unwrap_or(0))
    }

    /// Realtime minus boottime, ns: added to a [`Nanos`] it gives nanoseconds since the epoch, as
    /// realtime stands now.
    #[must_use]
    pub fn epoch_offset(self) -> i64 {
        // The reading that was interrupted least tells best.
        (0..3)
            .map(|_| {
                let before = self.now();
                let real = nanos(clock_gettime(ClockId::Realtime));
                let after = self.now();
                let middle = before.0 / 2 + after.0 / 2;
                let middle = i64::try_from(middle).unwrap_or(i64::MAX);
                (after.since(before), real.saturating_sub(middle))
            })
            .min()
            .map_or(0, |(_, offset)| offset)
    }
}

fn nanos(time: Timespec) -> i64 {
    time.tv_sec.saturating_mul(NANOS_PER_SECOND).saturating_add(time.tv_nsec)
}

/// How a start time in ns becomes field 22 of `stat`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct StartTicks {
    /// Ticks per second in procfs: `USER_HZ`, 100 nearly everywhere.
    per_second: u64,
    /// What the reader's time namespace adds, ns; 0 where the kernel does not apply it.
    offset: i64,
}

impl StartTicks {
    /// The rule for a reader in a time namespace that adds `offset` ns, on kernel `release`.
    pub(super) fn new(per_second: u64, offset: i64, release: &[u8]) -> Self {
        let applied = kernel_version(release).is_none_or(|version| version >= (5, 11));
        Self { per_second: per_second.max(1), offset: if applied { offset } else { 0 } }
    }

    /// Field 22 for a task with this `start_boottime`, ns. Truncates, as the kernel does.
    pub(super) fn of(self, start: u64) -> u64 {
        let shifted = start.saturating_add_signed(self.offset);
        shifted / (1_000_000_000 / self.per_second).max(1)
    }
}

/// The boottime offset in `timens_offsets`, ns: lines of `clock seconds nanoseconds`.
pub(super) fn boottime_offset(bytes: &[u8]) -> Option<i64> {
    lines(bytes).find_map(|(number, line)| {
        let mut fields = Fields::new(number, line);
        if fields.next()? != b"boottime" {
            return None;
        }
        let seconds = signed(fields.next()?)?;
        let nanos = signed(fields.next()?)?;
        seconds.checked_mul(NANOS_PER_SECOND)?.checked_add(nanos)
    })
}

fn signed(field: &[u8]) -> Option<i64> {
    match field.strip_prefix(b"-") {
        Some(digits) => 0i64.checked_sub_unsigned(unsigned(digits, 10)?),
        None => i64::try_from(unsigned(field, 10)?).ok(),
    }
}
