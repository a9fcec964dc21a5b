//! What is removed: what closed long ago, and the oldest of that where the database is too large.
//!
//! What still stands or runs is never removed, and a run not while something found or ended in it is kept.

use rusqlite::{Connection, OptionalExtension as _, named_params};

/// Part of what is closed that goes at once where there is too much of it.
const PORTION: i64 = 16;

/// What there is, the runs last, and which of what is closed may go.
const PARTS: [(&str, &str); 3] = [
    ("findings", "TRUE"),
    ("on_request", "TRUE"),
    (
        "invocations",
        "NOT EXISTS (SELECT 1 FROM findings WHERE findings.boot_id = invocations.boot_id \
         AND findings.invocation = invocations.invocation) \
         AND NOT EXISTS (SELECT 1 FROM on_request WHERE on_request.boot_id = invocations.boot_id \
         AND on_request.invocation = invocations.invocation)",
    ),
];

/// How much is kept.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// What was closed before is removed: ns since the epoch.
    pub(super) oldest: i64,
    /// Bytes of the whole database.
    pub(super) max_size: u64,
}

/// Removes what is to go and gives its pages back to the file system. Says how many rows it was.
pub(super) fn retain(connection: &mut Connection, bounds: Bounds) -> rusqlite::Result<u64> {
    let Bounds { oldest, max_size } = bounds;
    let mut removed = remove(connection, oldest)?;
    while used(connection)? > max_size {
        let Some(closed_by) = oldest_portion(connection)? else { break };
        let portion = remove(connection, closed_by.saturating_add(1))?;
        if portion == 0 {
            break;
        }
        removed += portion;
    }
    if size(connection)? > used(connection)? {
        vacuum(connection)?;
    }
    Ok(removed)
}

/// Bytes of the whole database.
pub(super) fn size(connection: &Connection) -> rusqlite::Result<u64> {
    Ok(pragma(connection, "page_count")?.saturating_mul(pragma(connection, "page_size")?))
}

/// Bytes of its pages that hold something.
fn used(connection: &Connection) -> rusqlite::Result<u64> {
    let pages = pragma(connection, "page_count")?;
    let free = pragma(connection, "freelist_count")?;
    Ok(pages.saturating_sub(free).saturating_mul(pragma(connection, "page_size")?))
}

fn pragma(connection: &Connection, name: &str) -> rusqlite::Result<u64> {
    let number: i64 = connection.pragma_query_value(None, name, |row| row.get(0))?;
    Ok(u64::try_from(number).unwrap_or(0))
}

/// Removes what was closed before `oldest`.
fn remove(connection: &mut Connection, oldest: i64) -> rusqlite::Result<u64> {
    let step = connection.transaction()?;
    let mut removed = 0;
    for (table, may_go) in PARTS {
        let sql = format!("DELETE FROM {table} WHERE closed_at < :oldest AND {may_go}");
        removed += step.execute(&sql, named_params! { ":oldest": oldest })?;
    }
    step.commit()?;
    Ok(u64::try_from(removed).unwrap_or(u64::MAX))
}

/// By when the oldest portion of what may go was closed; `None`: nothing may.
fn oldest_portion(connection: &Connection) -> rusqlite::Result<Option<i64>> {
    let closed = PARTS.map(|(table, may_go)| {
        format!("SELECT closed_at FROM {table} WHERE closed_at IS NOT NULL AND {may_go}")
    });
    let closed = closed.join(" UNION ALL ");
    let number: i64 =
        connection.query_row(&format!("SELECT count(*) FROM ({closed})"), [], |row| row.get(0))?;
    let sql = format!("{closed} ORDER BY closed_at LIMIT 1 OFFSET :skipped");
    let skipped = named_params! { ":skipped": number / PORTION };
    connection.query_row(&sql, skipped, |row| row.get(0)).optional()
}

/// Gives free pages back to the file system, those of the log too.
fn vacuum(connection: &Connection) -> rusqlite::Result<()> {
    // Each step frees one page.
    let mut vacuum = connection.prepare("PRAGMA incremental_vacuum")?;
    let mut freed = vacuum.query([])?;
    while freed.next()?.is_some() {}
    checkpoint(connection)
}

/// Brings the write-ahead log into the database and empties it; not while somebody reads in it.
pub(super) fn checkpoint(connection: &Connection) -> rusqlite::Result<()> {
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
}
