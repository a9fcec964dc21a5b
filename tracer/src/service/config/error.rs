//! What is wrong with a configuration, and where.

use std::{fmt, io, ops::Range, path::PathBuf};

use thiserror::Error;

use crate::escape;

/// Things that are told of one configuration at most; nobody mends more at once.
pub const MOST_PROBLEMS: usize = 20;
/// Longest text of one of them, in characters: it may quote what is wrong.
const LONG: usize = 600;

/// Why a configuration cannot be used. Reads after "failed to".
#[derive(Debug, Error)]
pub enum ConfigError {
    /// Its file cannot be read.
    #[error("read {}: {source}", shown(.path))]
    Read {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Its file is none to be trusted, or none at all.
    #[error("use {}: {reason}", shown(.path))]
    Refused {
        /// The file.
        path: PathBuf,
        /// Why, and what to do.
        reason: Refusal,
    },
    /// It is wrong. There is at least one problem.
    #[error("use the configuration: {}", in_one_line(.0))]
    Wrong(Vec<Problem>),
}

impl ConfigError {
    /// Whether there is no such file.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Read { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

/// Why a file is not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    /// A folder, a fifo, a device.
    #[error("it is no regular file")]
    NotAFile,
    /// Nobody writes so much by hand.
    #[error("it has more than {0} bytes")]
    TooLong(u64),
    /// Others than its owner may write to it.
    #[error(
        "others than its owner can write to it (mode {mode:04o}), and it decides what is killed: run chmod go-w on it"
    )]
    Writable {
        /// Its permissions.
        mode: u32,
    },
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// In which file.
    pub path: PathBuf,
    /// Where in it, if it is about one place.
    pub at: Option<Position>,
    /// What. Safe to show.
    pub text: String,
}

/// `path:line:column: what`.
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, at, text } = self;
        f.write_str(&shown(path))?;
        if let Some(Position { line, column }) = at {
            write!(f, ":{line}:{column}")?;
        }
        write!(f, ": {text}")
    }
}

/// A place in a text. Both count from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// The line.
    pub line: usize,
    /// The column, in characters.
    pub column: usize,
}

impl Position {
    /// Of a byte.
    fn of(text: &str, byte: usize) -> Self {
        let before = &text[..text.floor_char_boundary(byte)];
        let start = before.rfind('\n').map_or(0, |newline| newline + 1);
        Self { line: before.matches('\n').count() + 1, column: before[start..].chars().count() + 1 }
    }
}

/// Collects what is wrong with one file.
#[derive(Debug)]
pub(super) struct Problems<'a> {
    path: PathBuf,
    text: &'a str,
    found: Vec<Problem>,
}

impl<'a> Problems<'a> {
    pub(super) fn of(path: PathBuf, text: &'a str) -> Self {
        Self { path, text, found: Vec::new() }
    }

    pub(super) fn add(&mut self, at: Option<Range<usize>>, text: &str) {
        let at = at.map(|span| Position::of(self.text, span.start));
        let text = escape::terminal_short(text.trim_end().as_bytes(), LONG);
        self.found.push(Problem { path: self.path.clone(), at, text });
    }

    /// What is wrong with another file.
    pub(super) fn extend(&mut self, others: Vec<Problem>) {
        self.found.extend(others);
    }

    pub(super) fn len(&self) -> usize {
        self.found.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    pub(super) fn is_full(&self) -> bool {
        self.found.len() >= MOST_PROBLEMS
    }

    /// In the order of places; other files' after this one's.
    pub(super) fn into_found(self) -> Vec<Problem> {
        let Self { path, text: _, mut found } = self;
        found.sort_by_key(|problem| (problem.path != path, problem.at));
        found.truncate(MOST_PROBLEMS);
        found
    }
}

fn in_one_line(problems: &[Problem]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

pub(super) fn shown(path: &std::path::Path) -> String {
    escape::terminal(path.as_os_str().as_encoded_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_count_lines_and_characters_from_one() {
        let text = "a\nüb = 1\n\nc";
        for (byte, line, column) in [
            (0, 1, 1),
            (1, 1, 2),
            (2, 2, 1),
            (3, 2, 1),
            (4, 2, 2),
            (9, 2, 7),
            (10, 3, 1),
            (11, 4, 1),
        ] {
            assert_eq!(Position::of(text, byte), Position { line, column }, "{byte}");
        }
        assert_eq!(Position::of(text, 99), Position { line: 4, column: 2 });
        assert_eq!(Position::of("", 0), Position { line: 1, column: 1 });
    }
}
