//! What keeps the history from working, and what that means for it.

use std::{io, path::PathBuf};

use rusqlite::{ErrorCode, ffi};
use serde::Serialize;
use thiserror::Error;

use super::shown;

/// Why the history cannot be kept or read. Reads on after "failed to".
#[derive(Debug, Error)]
pub enum HistoryError {
    /// There is no database.
    #[error(
        "open the history {}: there is none; the daemon writes it, --database says where else to look",
        shown(path)
    )]
    Missing {
        /// The database.
        path: PathBuf,
    },
    /// Its folder or file cannot be made, moved or looked at.
    #[error("{what} {}: {reason}", shown(path))]
    File {
        /// What was to be done.
        what: &'static str,
        /// With what.
        path: PathBuf,
        /// What the kernel says.
        reason: io::Error,
    },
    /// `SQLite` cannot open it.
    #[error("open the history {}: {source}", shown(path))]
    Open {
        /// The database.
        path: PathBuf,
        /// What `SQLite` says.
        source: rusqlite::Error,
    },
    /// Its content contradicts itself.
    #[error("open the history {}: it is damaged: {found}", shown(path))]
    Damaged {
        /// The database.
        path: PathBuf,
        /// What the first thing is that is wrong.
        found: String,
    },
    /// A newer tracer has written it.
    #[error(
        "open the history {}: its form is {found}, this tracer knows {known}; it is left as it is: \
         use the newer tracer, or move the file away",
        shown(path)
    )]
    Newer {
        /// The database.
        path: PathBuf,
        /// Its version.
        found: i64,
        /// Ours.
        known: i64,
    },
    /// An older tracer has written it, and it is opened for reading only.
    #[error(
        "read the history {}: its form is {found}, this tracer knows {known}; start this tracer's \
         daemon once, which brings it up to date",
        shown(path)
    )]
    Older {
        /// The database.
        path: PathBuf,
        /// Its version.
        found: i64,
        /// Ours.
        known: i64,
    },
    /// It is some other program's.
    #[error(
        "open the history {}: it is a database, but not one of tracer's; it is left as it is: name \
         another file",
        shown(path)
    )]
    Foreign {
        /// The database.
        path: PathBuf,
    },
    /// Another daemon writes it.
    #[error(
        "keep the history {}: another tracer daemon keeps it; name another file in the configuration, \
         [history] path",
        shown(path)
    )]
    Taken {
        /// The database.
        path: PathBuf,
    },
    /// A statement failed.
    #[error("use the history: {0}")]
    Statement(#[from] rusqlite::Error),
    /// A row holds what tracer never writes.
    #[error("read the history: {what} is not as tracer writes it")]
    Row {
        /// Which part of it.
        what: &'static str,
    },
    /// Its thread has ended, or never began.
    #[error("ask the history: it is not kept any more; the daemon's log says why")]
    Stopped,
    /// It has not answered.
    #[error("ask the history: it does not answer in time; its disk may hang")]
    TooSlow,
}

/// Why the history is not on disk, in a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The disk is full.
    Full,
    /// The file or its folder cannot be written.
    ReadOnly,
    /// The file is damaged and could not be set aside.
    Damaged,
    /// A newer tracer has written the file.
    Newer,
    /// The file is another program's.
    Foreign,
    /// Another daemon keeps the file, or somebody else holds a lock on it.
    Busy,
    /// Something else.
    Failed,
}

impl Reason {
    /// As metrics spell it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::ReadOnly => "read_only",
            Self::Damaged => "damaged",
            Self::Newer => "newer",
            Self::Foreign => "foreign",
            Self::Busy => "busy",
            Self::Failed => "failed",
        }
    }

    /// Whether the same file may do later.
    pub(super) fn may_pass(self) -> bool {
        !matches!(self, Self::Newer | Self::Foreign)
    }
}

impl HistoryError {
    /// What it means for the history.
    #[must_use]
    pub fn reason(&self) -> Reason {
        match self {
            Self::Open { path: _, source } | Self::Statement(source) => of_sqlite(source),
            Self::File { what: _, path: _, reason } => of_kernel(reason),
            Self::Damaged { .. } => Reason::Damaged,
            Self::Newer { .. } => Reason::Newer,
            Self::Foreign { .. } => Reason::Foreign,
            Self::Taken { .. } | Self::TooSlow => Reason::Busy,
            Self::Missing { .. } | Self::Older { .. } | Self::Row { .. } | Self::Stopped => {
                Reason::Failed
            }
        }
    }
}

fn of_kernel(error: &io::Error) -> Reason {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Reason::Full,
        io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied => Reason::ReadOnly,
        _ => Reason::Failed,
    }
}

fn of_sqlite(error: &rusqlite::Error) -> Reason {
    let rusqlite::Error::SqliteFailure(error, _) = error else { return Reason::Failed };
    match error.code {
        ErrorCode::DiskFull => Reason::Full,
        ErrorCode::ReadOnly | ErrorCode::CannotOpen | ErrorCode::PermissionDenied => {
            Reason::ReadOnly
        }
        ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase => Reason::Damaged,
        ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked => Reason::Busy,
        // The wal-index is made as large as it must be before anything is written to it.
        ErrorCode::SystemIoFailure if error.extended_code == ffi::SQLITE_IOERR_SHMSIZE => {
            Reason::Full
        }
        _ => Reason::Failed,
    }
}
