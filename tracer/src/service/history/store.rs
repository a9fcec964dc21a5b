//! Where the history is: a database on disk, or one in memory while that cannot be.

use std::{
    ffi::{OsStr, OsString},
    fs::{self, DirBuilder, File, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use rusqlite::{Connection, OpenFlags, config::DbConfig, named_params, types::ToSqlOutput};

use super::{
    HistoryError,
    schema::{self, APPLICATION, Table},
};
use crate::lock;

/// How long a lock of somebody else's is waited for.
const LOCKED: Duration = Duration::from_secs(5);
/// Damaged databases that are kept.
const SET_ASIDE: usize = 2;
/// Bytes of a page of a database in memory.
const PAGE: u64 = 4096;
/// What `SQLite` puts behind a database's name for the files that belong to it.
const COMPANIONS: [&str; 2] = ["-wal", "-shm"];

/// Opens the database, makes it where there is none, and brings it up to date.
///
/// Nothing is changed in a file that is damaged, of a newer tracer, or not of tracer's.
pub(super) fn open(path: &Path) -> Result<Connection, HistoryError> {
    make(path)?;
    let failed = |source| HistoryError::Open { path: path.to_owned(), source };
    let mut connection = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE).map_err(failed)?;
    let Form { found, is_new } = form(&connection, path)?;
    check(&connection, path)?;
    let set_up = |connection: &mut Connection| {
        if is_new {
            // It can only be chosen while there is no table.
            connection.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
        }
        connection.pragma_update(None, "journal_mode", "WAL")?;
        // A power failure may take the last moments, never the whole.
        connection.pragma_update(None, "synchronous", "NORMAL")?;
        connection.pragma_update(None, "journal_size_limit", 4 << 20)?;
        schema::migrate(connection, found)
    };
    set_up(&mut connection).map_err(failed)?;
    Ok(connection)
}

/// Opens the database for reading alone.
pub(super) fn open_to_read(path: &Path) -> Result<Connection, HistoryError> {
    let owned = || path.to_owned();
    if !path.try_exists().map_err(|reason| file("look for the history", path, reason))? {
        return Err(HistoryError::Missing { path: owned() });
    }
    let connection = connect(path, OpenFlags::SQLITE_OPEN_READ_ONLY)
        .map_err(|source| HistoryError::Open { path: owned(), source })?;
    let known = schema::newest();
    match form(&connection, path)? {
        // The daemon has only just made it.
        Form { found: _, is_new: true } => Err(HistoryError::Missing { path: owned() }),
        Form { found, is_new: false } if found < known => {
            Err(HistoryError::Older { path: owned(), found, known })
        }
        Form { .. } => Ok(connection),
    }
}

/// A database in memory, of at most so many bytes.
pub(super) fn in_memory(max_size: u64) -> rusqlite::Result<Connection> {
    let mut connection = guarded(Connection::open_in_memory()?)?;
    connection.pragma_update(None, "page_size", super::rows::integer(PAGE))?;
    connection.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
    schema::migrate(&mut connection, 0)?;
    limit(&connection, max_size / PAGE)?;
    Ok(connection)
}

/// Lets a database have at most so many pages.
pub(super) fn limit(connection: &Connection, pages: u64) -> rusqlite::Result<()> {
    let pages = super::rows::integer(pages.max(1));
    connection.pragma_update_and_check(None, "max_page_count", pages, |_| Ok(()))
}

fn connect(path: &Path, how: OpenFlags) -> rusqlite::Result<Connection> {
    // An absolute path is never taken for a URI.
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let connection = Connection::open_with_flags(absolute, how | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    connection.busy_timeout(LOCKED)?;
    guarded(connection)
}

/// Whatever a file says, it is only data. Sorts use memory: `/tmp` is everybody's.
fn guarded(connection: Connection) -> rusqlite::Result<Connection> {
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
    connection.pragma_update(None, "cell_size_check", true)?;
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    connection.pragma_update(None, "cache_size", -1024)?;
    Ok(connection)
}

struct Form {
    /// `PRAGMA user_version`.
    found: i64,
    /// There is no table.
    is_new: bool,
}

fn form(connection: &Connection, path: &Path) -> Result<Form, HistoryError> {
    let failed = |source| HistoryError::Open { path: path.to_owned(), source };
    let pragma = |name| {
        let value: rusqlite::Result<i64> =
            connection.pragma_query_value(None, name, |row| row.get(0));
        value.map_err(failed)
    };
    let tables: i64 = connection
        .query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))
        .map_err(failed)?;
    let (found, is_new) = (pragma("user_version")?, tables == 0);
    if !is_new && pragma("application_id")? != APPLICATION {
        return Err(HistoryError::Foreign { path: path.to_owned() });
    }
    let known = schema::newest();
    if found > known {
        return Err(HistoryError::Newer { path: path.to_owned(), found, known });
    }
    Ok(Form { found, is_new })
}

fn check(connection: &Connection, path: &Path) -> Result<(), HistoryError> {
    let found: String = connection
        .query_row("PRAGMA quick_check(1)", [], |row| row.get(0))
        .map_err(|source| HistoryError::Open { path: path.to_owned(), source })?;
    if found == "ok" {
        return Ok(());
    }
    Err(HistoryError::Damaged { path: path.to_owned(), found })
}

fn file(what: &'static str, path: &Path, reason: io::Error) -> HistoryError {
    HistoryError::File { what, path: path.to_owned(), reason }
}

/// Has the database for oneself for as long as the file is open: of two daemons each would settle what the
/// other has found. A file beside it is locked, because `SQLite` lets go of locks of the database itself.
///
/// # Errors
/// [`HistoryError::Taken`]; the file cannot be made.
pub(super) fn own(path: &Path) -> Result<File, HistoryError> {
    make_folder(path)?;
    let beside = with(path, ".lock");
    let own = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(&beside)
        .map_err(|reason| file("lock the history with", &beside, reason))?;
    match lock::take(&own) {
        Err(reason) if reason.kind() == io::ErrorKind::WouldBlock => {
            Err(HistoryError::Taken { path: path.to_owned() })
        }
        Err(reason) => Err(file("lock the history with", &beside, reason)),
        Ok(()) => Ok(own),
    }
}

fn make_folder(path: &Path) -> Result<(), HistoryError> {
    let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) else {
        return Ok(());
    };
    let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
    made.map_err(|reason| file("make the folder of the history", folder, reason))
}

/// Makes the file where there is none, for its owner alone: it says what everybody runs. `SQLite`
/// gives the files beside it the same permissions.
fn make(path: &Path) -> Result<(), HistoryError> {
    make_folder(path)?;
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(_) => Ok(()),
        Err(reason) if reason.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(reason) => Err(file("make the history", path, reason)),
    }
}

/// Moves a damaged database out of the way, so that somebody can look at it: the last few are kept.
/// Nobody may have it open any more.
pub(super) fn set_aside(path: &Path) -> Result<PathBuf, HistoryError> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let mut second = now.as_secs();
    let mut target = with(path, &format!(".damaged-{second}"));
    while target.exists() {
        second += 1;
        target = with(path, &format!(".damaged-{second}"));
    }
    fs::rename(path, &target)
        .map_err(|reason| file("set the damaged history aside", path, reason))?;
    for companion in COMPANIONS {
        let moved = fs::rename(with(path, companion), with(&target, companion));
        if let Err(reason) = moved
            && reason.kind() != io::ErrorKind::NotFound
        {
            // With another database's log the next one would be damaged from its start.
            return Err(file("set the damaged history aside", &with(path, companion), reason));
        }
    }
    for old in damaged(path).into_iter().rev().skip(SET_ASIDE) {
        for name in COMPANIONS.map(|companion| with(&old, companion)).iter().chain([&old]) {
            // What cannot be removed takes room, and does no other harm.
            let _ = fs::remove_file(name);
        }
    }
    Ok(target)
}

/// Databases that were set aside, the oldest first.
pub(super) fn damaged(path: &Path) -> Vec<PathBuf> {
    let Some(folder) = path.parent() else { return Vec::new() };
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let mut start = path.file_name().unwrap_or_default().to_owned();
    start.push(".damaged-");
    let second = |name: &OsStr| -> Option<u64> {
        let rest = name.as_encoded_bytes().strip_prefix(start.as_encoded_bytes())?;
        str::from_utf8(rest).ok()?.parse().ok()
    };
    let names = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.file_name());
    let mut found: Vec<_> = names.filter_map(|name| Some((second(&name)?, name))).collect();
    found.sort_unstable();
    found.into_iter().map(|(_, name)| folder.join(name)).collect()
}

fn with(path: &Path, ending: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(ending);
    name.into()
}

/// Puts rows of one database into another, each in the place of one of the same key: all of them,
/// or what goes on in one boot.
pub(super) fn copy(
    from: &Connection,
    to: &Connection,
    table: &Table,
    standing_in: Option<&str>,
) -> rusqlite::Result<()> {
    let mut all = from.prepare(&table.all())?;
    let mut put = to.prepare_cached(&table.put())?;
    let mut rows = all.query(named_params! { ":standing_in": standing_in })?;
    while let Some(row) = rows.next()? {
        for column in 0..table.width() {
            put.raw_bind_parameter(column + 1, ToSqlOutput::Borrowed(row.get_ref(column)?))?;
        }
        put.raw_execute()?;
    }
    Ok(())
}
