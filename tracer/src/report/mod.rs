//! What a run found, told: to people, to CI systems, to programs.
//!
//! Each sink is a pure function of an [`Outcome`]: [`text`] for a terminal, [`json`], [`junit`]
//! and [`markdown`] for files, [`github`] for annotations. [`ReportFile`] and [`LifeLog`] are the only
//! parts that touch the file system. `digest` sorts findings for people, `prose` and `held` put them into
//! words and `tree` draws whence they came; the sinks for people share these, so that all of them
//! say the same.

use std::path::Path;

use crate::lineage::model::{Nanos, Outcome};

mod action;
mod digest;
mod file;
pub mod github;
mod held;
pub mod json;
pub mod junit;
mod lives;
pub mod markdown;
#[cfg(test)]
mod properties;
mod prose;
#[cfg(test)]
pub(crate) mod sample;
pub(crate) mod table;
pub mod text;
mod tree;
mod words;

pub use file::{ReportError, ReportFile};
pub use lives::{LifeLog, LogError};
pub(crate) use words::{count, duration};

/// A kind of report file, told by the ending of its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `.json`: the contract `tracer.report/1`.
    Json,
    /// `.xml`: `JUnit`.
    Junit,
    /// `.md`: a summary for a CI job page.
    Markdown,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 3] = [Self::Json, Self::Junit, Self::Markdown];

    /// The ending of its files, without the dot.
    #[must_use]
    pub fn ending(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Junit => "xml",
            Self::Markdown => "md",
        }
    }

    /// The kind of a file, by its ending in either case; `None` where it is not one of ours.
    #[must_use]
    pub fn of(path: &Path) -> Option<Self> {
        let ending = path.extension()?;
        Self::ALL.into_iter().find(|kind| ending.eq_ignore_ascii_case(kind.ending()))
    }
}

/// The content of a report file.
#[must_use]
pub fn render(kind: Kind, outcome: &Outcome) -> Vec<u8> {
    match kind {
        Kind::Json => json::render(outcome).into_bytes(),
        Kind::Junit => junit::render(outcome).into_bytes(),
        Kind::Markdown => markdown::render(outcome).into_bytes(),
    }
}

/// Calendar time of `at`; `None` outside jiff's years -9999 to 9999.
fn calendar(at: Nanos, epoch_offset: i64) -> Option<jiff::Timestamp> {
    jiff::Timestamp::from_nanosecond(i128::from(at.0) + i128::from(epoch_offset)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kind_is_told_by_the_ending() {
        assert_eq!(Kind::of(Path::new("ci/report.json")), Some(Kind::Json));
        assert_eq!(Kind::of(Path::new("REPORT.XML")), Some(Kind::Junit));
        assert_eq!(Kind::of(Path::new("summary.md")), Some(Kind::Markdown));
        assert_eq!(Kind::of(Path::new("report.txt")), None);
        assert_eq!(Kind::of(Path::new("json")), None);
        assert_eq!(Kind::of(Path::new(".json")), None);
    }
}
