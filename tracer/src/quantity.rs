//! Times and sizes as people write them, on the command line and in files.

use std::time::Duration;

use jiff::SpanRelativeTo;

const NO_TIME: &str = "not a time, such as 300ms, 2s, 1m 30s, 24h or 30d";
const NO_SIZE: &str = "not a size, such as 512MiB, or a number of bytes";

/// `2s`, `300ms`, `1m 30s`, `0s`, `30d`. A day has 24 hours.
///
/// # Errors
/// It is no time, negative, or counts in months or years, which are not all equally long.
pub(crate) fn time(text: &str) -> Result<Duration, String> {
    let span: jiff::Span = text.parse().map_err(|_| NO_TIME.to_owned())?;
    let exact = span.to_duration(SpanRelativeTo::days_are_24_hours());
    let exact = exact.map_err(|_| NO_TIME.to_owned())?;
    Duration::try_from(exact).map_err(|_| "a time cannot be negative".to_owned())
}

/// `512MiB`, `64 KiB`, `4096`: bytes. `kB`, `MB` and `GB` count in thousands.
///
/// # Errors
/// It is no whole number, its unit is none of these, or it is 2^64 or more.
pub(crate) fn bytes(text: &str) -> Result<u64, String> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let unit = match unit.trim_start() {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        "kB" | "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "TB" => 1_000_000_000_000,
        _ => return Err(NO_SIZE.to_owned()),
    };
    let number: u64 = number.parse().map_err(|_| NO_SIZE.to_owned())?;
    number.checked_mul(unit).ok_or_else(|| "more bytes than can be counted".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_people_write_them() {
        for (text, millis) in [
            ("0s", 0),
            ("300ms", 300),
            ("2s", 2_000),
            ("1m 30s", 90_000),
            ("1h", 3_600_000),
            ("30d", 30 * 24 * 3_600_000),
            ("1d 12h", 36 * 3_600_000),
            ("1w 2d", 9 * 24 * 3_600_000),
        ] {
            assert_eq!(time(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for wrong in ["", "5", "-1s", "s", "2 parsecs", "1mo", "1y", "99999999999999999999s"] {
            let said = time(wrong).unwrap_err();
            assert!(said == NO_TIME || said.contains("negative"), "{wrong}: {said}");
        }
    }

    #[test]
    fn sizes_are_read_with_their_unit() {
        for (text, size) in [
            ("0", 0),
            ("4096", 4096),
            ("7B", 7),
            ("64KiB", 64 << 10),
            ("512 MiB", 512 << 20),
            ("2GiB", 2 << 30),
            ("1TiB", 1 << 40),
            ("1kB", 1_000),
            ("5MB", 5_000_000),
            ("18446744073709551615", u64::MAX),
        ] {
            assert_eq!(bytes(text), Ok(size), "{text}");
        }
        for wrong in
            ["", "MiB", "1.5GiB", "-1", "1mib", "1 M iB", "18446744073709551616", "99999999999TiB"]
        {
            assert!(bytes(wrong).is_err(), "{wrong}");
        }
    }
}
