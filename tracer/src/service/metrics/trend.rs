//! How fast something grows, and when it will have reached its limit at that rate.

use crate::lineage::Nanos;

/// Seconds after which what was seen before weighs a third: longer than a build's burst of processes,
/// shorter than it takes to see to a leak.
const MEMORY: f64 = 120.0;
/// Seconds that have to be seen before anything is said: a moment tells nothing.
const LEAST: f64 = 30.0;
/// Beyond so many seconds it is as good as never: a year.
const NEVER: f64 = 365.0 * 24.0 * 3600.0;

/// The smoothed rate of something that is looked at now and again.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Trend {
    last: Option<(Nanos, f64)>,
    /// Seconds that were seen.
    seen: f64,
    /// A second, of what was seen so far.
    growth: f64,
    /// How much was seen so far: 0 nothing, 1 enough.
    weight: f64,
}

impl Trend {
    /// It was so much at that time.
    pub(super) fn note(&mut self, at: Nanos, value: u64) {
        #[expect(clippy::cast_precision_loss, reason = "fewer than 2^53 tasks")]
        let value = value as f64;
        if let Some((before, last)) = self.last {
            let seconds = at.since(before).as_secs_f64();
            if seconds <= 0.0 {
                return;
            }
            let old = (-seconds / MEMORY).exp();
            self.growth = self.growth * old + (value - last) / seconds * (1.0 - old);
            self.weight = self.weight * old + (1.0 - old);
            self.seen += seconds;
        }
        self.last = Some((at, value));
    }

    /// Seconds until it reaches the limit. `None`: it does not grow, or that takes more than a year.
    pub(super) fn seconds_until(&self, limit: u64) -> Option<f64> {
        let (_, value) = self.last?;
        #[expect(clippy::cast_precision_loss, reason = "fewer than 2^53 tasks")]
        let left = limit as f64 - value;
        if left <= 0.0 {
            return Some(0.0);
        }
        let rate = if self.seen >= LEAST { self.growth / self.weight } else { 0.0 };
        let seconds = if rate > 0.0 { left / rate } else { NEVER };
        (seconds < NEVER).then_some(seconds)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Looked at every ten seconds.
    fn trend(values: impl IntoIterator<Item = u64>) -> Trend {
        let mut trend = Trend::default();
        for (step, value) in values.into_iter().enumerate() {
            let since = Duration::from_secs(10 * u64::try_from(step).unwrap());
            trend.note(Nanos(1).after(since), value);
        }
        trend
    }

    #[test]
    fn steady_growth_is_known_when_it_has_lasted() {
        for looks in [1, 2, 3] {
            assert_eq!(trend((0..looks).map(|step| step * 50)).seconds_until(400), None);
        }
        for looks in [4, 5, 100] {
            let seconds = trend((0..looks).map(|step| step * 50)).seconds_until(looks * 50 + 450);
            assert!((seconds.unwrap() - 100.0).abs() < 0.001, "{looks}: {seconds:?}");
        }
    }

    #[test]
    fn what_does_not_grow_reaches_nothing() {
        assert_eq!(trend([300, 300, 300]).seconds_until(400), None);
        assert_eq!(trend([300, 200, 100]).seconds_until(400), None);
        // In 300 years.
        assert_eq!(trend((0..100).map(|step| step / 99)).seconds_until(1 << 24), None);
    }

    #[test]
    fn limit_that_is_reached_is_reached_now() {
        assert_eq!(trend([400]).seconds_until(400), Some(0.0));
        assert_eq!(trend([500, 490]).seconds_until(400), Some(0.0));
    }

    #[test]
    fn burst_that_is_over_is_forgotten() {
        let burst = [100, 1000].into_iter().chain([1000; 90]);
        let after = trend(burst).seconds_until(2000).unwrap();
        assert!(after > 24.0 * 3600.0, "{after}");
    }

    #[test]
    fn look_at_the_same_time_changes_nothing() {
        let mut trend = trend([0, 50]);
        let before = trend;
        trend.note(Nanos(1).after(Duration::from_secs(10)), 900);
        assert_eq!(trend, before);
    }
}
