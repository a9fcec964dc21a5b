//! When a delivery that failed is tried again.

use std::time::{Duration, SystemTime};

use jiff::{Timestamp, fmt::rfc2822};

/// A server that asks for more patience gets so much.
const MOST_PATIENCE: Duration = Duration::from_secs(3600);

/// Pauses between attempts: twice as long each time, and somewhere between half of that and all of
/// it, so that many daemons do not come at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retry {
    /// The first, at most.
    pub base: Duration,
    /// The longest.
    pub max: Duration,
}

impl Default for Retry {
    /// From one second to five minutes.
    fn default() -> Self {
        Self { base: Duration::from_secs(1), max: Duration::from_secs(300) }
    }
}

impl Retry {
    /// The pause after so many attempts, of which `asked` is what the server wants at least.
    /// `chance` is any number.
    pub(super) fn pause(self, attempts: u32, asked: Option<Duration>, chance: u64) -> Duration {
        let Self { base, max } = self;
        let doubled = 2_u32.saturating_pow(attempts.saturating_sub(1));
        let longest = base.saturating_mul(doubled).min(max);
        let half = longest / 2;
        let part = u32::try_from(chance >> 32).unwrap_or(0);
        let pause = half + half.mul_f64(f64::from(part) / f64::from(u32::MAX));
        pause.max(asked.unwrap_or_default().min(MOST_PATIENCE))
    }
}

/// What `Retry-After` asks for (RFC 9110, section 10.2.3): seconds, or a time.
pub(super) fn retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    let value = value.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let until = rfc2822::DateTimeParser::new().parse_timestamp(value).ok()?;
    let pause = until.duration_since(Timestamp::try_from(now).ok()?);
    // A time that has passed asks for nothing.
    Some(Duration::try_from(pause).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn pauses_double_up_to_the_longest() {
        let retry = Retry { base: SECOND, max: 10 * SECOND };
        for (attempts, longest) in [(1, 1), (2, 2), (3, 4), (4, 8), (5, 10), (u32::MAX, 10)] {
            assert_eq!(retry.pause(attempts, None, u64::MAX), longest * SECOND, "{attempts}");
            assert_eq!(retry.pause(attempts, None, 0), longest * SECOND / 2, "{attempts}");
        }
    }

    #[test]
    fn server_is_given_the_time_it_asks_for_within_reason() {
        let retry = Retry { base: SECOND, max: 10 * SECOND };
        assert_eq!(retry.pause(1, Some(7 * SECOND), 0), 7 * SECOND);
        assert_eq!(retry.pause(9, Some(SECOND), 0), 5 * SECOND);
        assert_eq!(retry.pause(1, Some(Duration::MAX), 0), MOST_PATIENCE);
    }

    #[test]
    fn retry_after_is_seconds_or_a_time() {
        // 1994-11-06T08:49:37Z, the example of RFC 9110.
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777 - 30);
        let parse = |value| retry_after(value, now).map(|time| time.as_secs());
        assert_eq!(parse("120"), Some(120));
        assert_eq!(parse(" 0 "), Some(0));
        assert_eq!(parse("Sun, 06 Nov 1994 08:49:37 GMT"), Some(30));
        assert_eq!(parse("Sun, 06 Nov 1994 08:48:37 GMT"), Some(0));
        for none in ["", "-1", "1.5", "soon", "99999999999999999999", "\u{202e}"] {
            assert_eq!(parse(none), None, "{none}");
        }
    }

    proptest! {
        #[test]
        fn no_pause_overflows_or_is_too_long(base: u64, max: u64, attempts: u32, asked: u64, chance: u64) {
            let time = Duration::from_millis;
            let retry = Retry { base: time(base), max: time(max) };
            let pause = retry.pause(attempts, Some(time(asked)), chance);
            prop_assert!(pause <= time(max).max(MOST_PATIENCE) + Duration::from_micros(1));
        }
    }
}
