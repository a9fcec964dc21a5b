//! Numbers, times and lists as people write them.

use std::fmt::Display;
use std::time::Duration;

/// Most names that a list gives.
pub(super) const LISTED: usize = 5;

/// `1 zombie`, `3 processes`.
pub(crate) fn count<N: Copy + Display + PartialEq + From<u8>>(number: N, noun: &str) -> String {
    let ending = match noun {
        _ if number == N::from(1) => "",
        // An adjective that stands for "stuck processes".
        "stuck" => "",
        _ if noun.ends_with('s') => "es",
        _ => "s",
    };
    format!("{number} {noun}{ending}")
}

/// `350 ms`, `1.2 s`, `2 min 5 s`, `5 h 32 min`, `3 d 4 h`; rounded down.
pub(crate) fn duration(span: Duration) -> String {
    let seconds = span.as_secs();
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match seconds {
        0 => format!("{} ms", span.as_millis()),
        1..60 => format!("{seconds}.{} s", span.subsec_millis() / 100),
        60..3600 => format!("{minutes} min {} s", seconds % 60),
        3600..172_800 => format!("{hours} h {} min", minutes % 60),
        _ => format!("{days} d {} h", hours % 24),
    }
}

/// `512 B`, `18.2 MiB`; rounded down.
pub(super) fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    // Tenths of the unit at hand.
    let mut tenths = u128::from(bytes) * 10 / 1024;
    let mut units = UNITS.into_iter();
    let mut unit = units.next().unwrap_or_default();
    for next in units {
        if tenths < 10_240 {
            break;
        }
        tenths /= 1024;
        unit = next;
    }
    format!("{}.{} {unit}", tenths / 10, tenths % 10)
}

/// `a, b and 3 more`.
pub(super) fn list(names: &[String]) -> String {
    let (shown, more) = names.split_at(names.len().min(LISTED));
    let mut shown = shown.to_vec();
    if !more.is_empty() {
        shown.push(format!("{} more", more.len()));
    }
    enumerate(&shown)
}

/// `a, b and c`.
pub(super) fn enumerate(names: &[String]) -> String {
    match names {
        [] => String::new(),
        [one] => one.clone(),
        [init @ .., last] => format!("{} and {last}", init.join(", ")),
    }
}

/// The same text with a capital first letter.
pub(super) fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map(|first| first.to_uppercase().chain(chars).collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_in_units_that_fit() {
        let shown = |millis| duration(Duration::from_millis(millis));
        assert_eq!(shown(0), "0 ms");
        assert_eq!(shown(999), "999 ms");
        assert_eq!(shown(1_000), "1.0 s");
        assert_eq!(shown(59_999), "59.9 s");
        assert_eq!(shown(60_000), "1 min 0 s");
        assert_eq!(shown((5 * 60 + 32) * 60_000), "5 h 32 min");
        assert_eq!(shown(172_800_000), "2 d 0 h");
    }

    #[test]
    fn sizes_in_units_that_fit() {
        assert_eq!(size(0), "0 B");
        assert_eq!(size(1023), "1023 B");
        assert_eq!(size(1024), "1.0 KiB");
        assert_eq!(size(1024 * 1024 - 1), "1023.9 KiB");
        assert_eq!(size(1024 * 1024), "1.0 MiB");
        assert_eq!(size(4_724_464_025), "4.3 GiB");
        assert_eq!(size(u64::MAX), "15.9 EiB");
    }

    #[test]
    fn nouns_follow_their_number() {
        assert_eq!(count(1_u64, "process"), "1 process");
        assert_eq!(count(0_usize, "process"), "0 processes");
        assert_eq!(count(2_usize, "zombie"), "2 zombies");
        assert_eq!(count(2_usize, "stuck"), "2 stuck");
    }

    #[test]
    fn lists_are_short() {
        let names = |number| (1..=number).map(|n: u32| n.to_string()).collect::<Vec<_>>();
        assert_eq!(list(&names(0)), "");
        assert_eq!(list(&names(1)), "1");
        assert_eq!(list(&names(5)), "1, 2, 3, 4 and 5");
        assert_eq!(list(&names(500)), "1, 2, 3, 4, 5 and 495 more");
    }
}
