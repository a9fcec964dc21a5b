//! Why `/proc` could not be read.

use std::fmt;
use std::path::PathBuf;

use rustix::io::Errno;

/// The result of reading `/proc`.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why something of `/proc` is not known. The texts read after "failed to".
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A system call failed.
    #[error("{action} {}: {source}", path.display())]
    Io {
        /// What was tried: `open`, `read`, ...
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// The kernel's answer.
        source: Errno,
    },
    /// The file holds more than any kernel writes there.
    #[error("read {}: longer than {limit} bytes", path.display())]
    TooLong {
        /// Which file.
        path: PathBuf,
        /// Most bytes that are taken.
        limit: usize,
    },
    /// The content is not what the format says.
    #[error("parse {}, {malformed}", path.display())]
    Malformed {
        /// Which file.
        path: PathBuf,
        /// Where in it, and what was expected.
        malformed: Malformed,
    },
}

impl Error {
    /// The process has been reaped, or never was, or has no such file. procfs answers `ENOENT`
    /// when a file is looked up in a dead process's directory and `ESRCH` when one that was
    /// opened before is read.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        matches!(self, Self::Io { source: Errno::NOENT | Errno::SRCH, .. })
    }

    /// The tracer may not look: another user's process and no `CAP_SYS_PTRACE`, or `hidepid`.
    #[must_use]
    pub fn is_denied(&self) -> bool {
        matches!(self, Self::Io { source: Errno::ACCESS | Errno::PERM, .. })
    }
}

/// What is wrong with a file's content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Malformed {
    /// Line, from 1.
    pub line: usize,
    /// The item that could not be read.
    pub item: &'static str,
    /// The type that it should have.
    pub expected: &'static str,
    /// What stood there, at most [`Malformed::MAX_FOUND`] bytes of it; `None`: the line ended.
    pub found: Option<Vec<u8>>,
}

impl Malformed {
    /// Most bytes of untrusted content that an error carries.
    pub const MAX_FOUND: usize = 64;

    /// An error about `found`.
    pub(super) fn new(
        line: usize,
        item: &'static str,
        expected: &'static str,
        found: Option<&[u8]>,
    ) -> Self {
        let found = found.map(|bytes| bytes.iter().copied().take(Self::MAX_FOUND).collect());
        Self { line, item, expected, found }
    }
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { line, item, expected, found } = self;
        write!(f, "line {line}, item {item}: expected {expected}, ")?;
        match found {
            Some(bytes) => write!(f, "found \"{}\"", bytes.escape_ascii()),
            None => f.write_str("found the end"),
        }
    }
}

impl std::error::Error for Malformed {}
