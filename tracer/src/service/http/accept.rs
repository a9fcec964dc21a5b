//! What a client would rather have: the `Accept` header (RFC 9110, 12.5.1).

/// Media ranges that are looked at, of all headers together.
const MOST: usize = 32;

/// A client's wishes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Accept {
    ranges: Vec<Range>,
}

/// `text/plain;version=0.0.4;q=0.5`
#[derive(Clone, Debug, PartialEq, Eq)]
struct Range {
    /// In lower case.
    media_type: String,
    version: Option<String>,
    /// Thousandths.
    quality: u16,
}

impl Accept {
    /// Of the values of the header, as often as it was given.
    #[must_use]
    pub fn of(values: impl IntoIterator<Item = impl AsRef<str>>) -> Self {
        let mut ranges = Vec::new();
        for value in values {
            let more = value.as_ref().split(',').filter_map(Range::of);
            ranges.extend(more.take(MOST - ranges.len()));
        }
        Self { ranges }
    }

    /// How much this media type is wanted, in one of these versions or in whichever: 0 to 1000. The
    /// range counts that says most (RFC 9110, 12.5.1); who says nothing wants everything.
    #[must_use]
    pub fn quality(&self, media_type: &str, versions: &[&str]) -> u16 {
        if self.ranges.is_empty() {
            return 1000;
        }
        let any = media_type.split_once('/').map(|(family, _)| format!("{family}/*"));
        let is_meant = |range: &&Range| {
            range.version.as_deref().is_none_or(|version| versions.contains(&version))
        };
        let best = |wanted: &str| {
            let meant = self.ranges.iter().filter(|range| range.media_type == wanted);
            meant.filter(is_meant).map(|range| range.quality).max()
        };
        let family = || any.as_deref().and_then(best);
        best(media_type).or_else(family).or_else(|| best("*/*")).unwrap_or(0)
    }
}

impl Range {
    fn of(text: &str) -> Option<Self> {
        let mut parts = text.split(';').map(str::trim);
        let media_type = parts.next().filter(|name| !name.is_empty())?.to_ascii_lowercase();
        let (mut version, mut quality) = (None, 1000);
        for parameter in parts {
            let Some((name, value)) = parameter.split_once('=') else { continue };
            let value = value.trim().trim_matches('"');
            if name.trim().eq_ignore_ascii_case("version") {
                version = Some(value.to_owned());
            } else if name.trim().eq_ignore_ascii_case("q") {
                quality = thousandths(value)?;
            }
        }
        Some(Self { media_type, version, quality })
    }
}

/// `0.75`; `None`: no weight.
fn thousandths(text: &str) -> Option<u16> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if fraction.len() > 3 || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let fraction = format!("{fraction:0<3}").parse().ok()?;
    match (whole, fraction) {
        ("0", fraction) => Some(fraction),
        ("1", 0) => Some(1000),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quality(header: &str, media_type: &str) -> u16 {
        Accept::of([header]).quality(media_type, &["1.0.0", "0.0.1"])
    }

    #[test]
    fn who_says_nothing_wants_everything() {
        assert_eq!(Accept::default().quality("text/plain", &[]), 1000);
        assert_eq!(quality("", "text/plain"), 1000);
    }

    #[test]
    fn range_that_says_most_counts() {
        let header = "*/*;q=0.1, text/*;q=0.2, text/plain;q=0.3";
        assert_eq!(quality(header, "text/plain"), 300);
        assert_eq!(quality(header, "text/html"), 200);
        assert_eq!(quality(header, "image/png"), 100);
        assert_eq!(quality("text/html", "text/plain"), 0);
    }

    #[test]
    fn version_that_is_not_there_is_not_meant() {
        assert_eq!(quality("a/b;version=1.0.0;q=0.8,a/b;version=2.0.0", "a/b"), 800);
        assert_eq!(quality("a/b;version=2.0.0", "a/b"), 0);
        assert_eq!(quality("A/B; Version=\"0.0.1\"; Q=0.5", "a/b"), 500);
    }

    #[test]
    fn what_is_no_weight_is_left_out() {
        for wrong in ["2", "1.001", "0.1234", "-1", "0.x", "", ".5", "1.0000"] {
            assert_eq!(quality(&format!("a/b;q={wrong},*/*;q=0.4"), "a/b"), 400, "{wrong}");
        }
        for (right, thousandths) in [("0", 0), ("1", 1000), ("1.000", 1000), ("0.05", 50)] {
            assert_eq!(quality(&format!("a/b;q={right}"), "a/b"), thousandths, "{right}");
        }
    }

    #[test]
    fn so_many_ranges_are_looked_at_and_no_more() {
        let many = "x/y,".repeat(100_000) + "a/b";
        assert_eq!(quality(&many, "a/b"), 0);
        assert_eq!(quality("x/y", "x/y"), 1000);
    }
}
