//! The tables, and how a database of an older form becomes one of the newest.
//!
//! `PRAGMA user_version` is the number of [`MIGRATIONS`] that a database has been through. They
//! only ever go forward: one that is out in the world is never edited, the next is added.
//!
//! Columns that end in `_at` are ns since the epoch, those that end in `_boot` ns of
//! `CLOCK_BOOTTIME`. What a process chose is text in the lossless form of [`crate::escape`] that
//! terminals may be shown, since people read tables with tools of their own; lists and objects are
//! JSON, as in the contracts.

use rusqlite::Connection;

/// `PRAGMA application_id` of tracer's databases: `trcr`.
pub(super) const APPLICATION: i64 = 0x7472_6372;

/// What leads from each form to the next, from an empty database on.
const MIGRATIONS: &[&str] = &[FIRST, ENDED_ON_REQUEST];

/// `closed_at` is null while a run goes on and while a finding stands: neither is removed. The text
/// that may be long comes last, so that a scan of the rest does not read it.
const FIRST: &str = "
CREATE TABLE invocations (
    id INTEGER PRIMARY KEY,
    boot_id TEXT NOT NULL,
    node TEXT NOT NULL,
    invocation TEXT NOT NULL,
    parent TEXT,
    agent TEXT,
    version TEXT,
    session TEXT,
    root_pid INTEGER NOT NULL,
    uid INTEGER,
    started_at INTEGER NOT NULL,
    ended_at INTEGER,
    boot_over INTEGER NOT NULL,
    closed_at INTEGER,
    uncertain INTEGER NOT NULL,
    stats TEXT NOT NULL,
    exit TEXT,
    command TEXT NOT NULL,
    json TEXT NOT NULL,
    UNIQUE (boot_id, invocation)
) STRICT;
CREATE INDEX invocations_closed ON invocations (closed_at);

CREATE TABLE findings (
    id INTEGER PRIMARY KEY,
    boot_id TEXT NOT NULL,
    node TEXT NOT NULL,
    pid INTEGER NOT NULL,
    start INTEGER NOT NULL,
    kind TEXT NOT NULL,
    invocation TEXT NOT NULL,
    change TEXT NOT NULL,
    state TEXT NOT NULL,
    since_at INTEGER NOT NULL,
    since_boot INTEGER NOT NULL,
    told_at INTEGER NOT NULL,
    told_boot INTEGER NOT NULL,
    resolved_at INTEGER,
    gone_at INTEGER,
    boot_over INTEGER NOT NULL,
    closed_at INTEGER,
    uid INTEGER,
    local_pid INTEGER,
    parent_pid INTEGER,
    parent_name TEXT,
    agent TEXT,
    agent_invocation TEXT,
    tool_call TEXT,
    tool TEXT,
    confidence TEXT,
    source TEXT,
    cause TEXT NOT NULL,
    rss_bytes INTEGER,
    remedy TEXT,
    result TEXT,
    dry_run INTEGER,
    kept_by TEXT,
    name TEXT NOT NULL,
    exe TEXT,
    tool_summary TEXT,
    cause_text TEXT NOT NULL,
    cause_hint TEXT NOT NULL,
    ports TEXT NOT NULL,
    args TEXT NOT NULL,
    action TEXT,
    json TEXT NOT NULL,
    UNIQUE (boot_id, pid, start, kind)
) STRICT;
CREATE INDEX findings_closed ON findings (closed_at);
CREATE INDEX findings_since ON findings (since_at);
CREATE INDEX findings_invocation ON findings (boot_id, invocation);

CREATE VIEW tool_calls AS
    SELECT boot_id, agent_invocation AS invocation, tool_call AS id, max(tool) AS name,
        max(tool_summary) AS summary, confidence, count(*) AS findings
    FROM findings WHERE tool_call IS NOT NULL
    GROUP BY boot_id, agent_invocation, tool_call, confidence;
CREATE VIEW receipts AS
    SELECT boot_id, pid, start, kind, invocation, remedy, result, dry_run, action AS json
    FROM findings WHERE action IS NOT NULL;
";

/// What came of processes that somebody asked to be ended, whatever was found of them. All of it is over.
/// A finding of such a process may tell of the same.
const ENDED_ON_REQUEST: &str = "
CREATE TABLE on_request (
    id INTEGER PRIMARY KEY,
    boot_id TEXT NOT NULL,
    node TEXT NOT NULL,
    pid INTEGER NOT NULL,
    start INTEGER NOT NULL,
    invocation TEXT NOT NULL,
    decided_at INTEGER NOT NULL,
    closed_at INTEGER NOT NULL,
    local_pid INTEGER,
    agent TEXT,
    tool_call TEXT,
    tool TEXT,
    confidence TEXT,
    remedy TEXT NOT NULL,
    result TEXT NOT NULL,
    decided_by TEXT NOT NULL,
    name TEXT NOT NULL,
    exe TEXT,
    args TEXT NOT NULL,
    action TEXT NOT NULL,
    UNIQUE (boot_id, pid, start, decided_at)
) STRICT;
CREATE INDEX on_request_closed ON on_request (closed_at);
CREATE INDEX on_request_invocation ON on_request (boot_id, invocation);

DROP VIEW receipts;
CREATE VIEW receipts AS
    SELECT boot_id, pid, start, kind, invocation, remedy, result, dry_run, action AS json
    FROM findings WHERE action IS NOT NULL
    UNION ALL
    SELECT boot_id, pid, start, NULL, invocation, remedy, result, 0, action
    FROM on_request WHERE NOT EXISTS (SELECT 1 FROM findings
        WHERE findings.boot_id = on_request.boot_id AND findings.pid = on_request.pid
        AND findings.start = on_request.start
        AND findings.action ->> 'decided_at' = on_request.action ->> 'decided_at'
        AND findings.action ->> 'decided_by' = on_request.action ->> 'decided_by');
";

/// The form that this tracer writes.
pub(super) fn newest() -> i64 {
    i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX)
}

/// Brings a database of form `found` up to date.
pub(super) fn migrate(connection: &mut Connection, found: i64) -> rusqlite::Result<()> {
    let done = usize::try_from(found).unwrap_or(0);
    for (number, migration) in MIGRATIONS.iter().enumerate().skip(done) {
        let step = connection.transaction()?;
        step.execute_batch(migration)?;
        step.pragma_update(None, "application_id", APPLICATION)?;
        step.pragma_update(None, "user_version", i64::try_from(number + 1).unwrap_or(i64::MAX))?;
        step.commit()?;
    }
    Ok(())
}

/// A table that rows are put into, one of which has the place of any other of the same key.
pub(super) struct Table {
    name: &'static str,
    /// All but `id`.
    columns: &'static [&'static str],
}

pub(super) const INVOCATIONS: Table = Table {
    name: "invocations",
    columns: &[
        "boot_id",
        "node",
        "invocation",
        "parent",
        "agent",
        "version",
        "session",
        "root_pid",
        "uid",
        "started_at",
        "ended_at",
        "boot_over",
        "closed_at",
        "uncertain",
        "stats",
        "exit",
        "command",
        "json",
    ],
};

pub(super) const FINDINGS: Table = Table {
    name: "findings",
    columns: &[
        "boot_id",
        "node",
        "pid",
        "start",
        "kind",
        "invocation",
        "change",
        "state",
        "since_at",
        "since_boot",
        "told_at",
        "told_boot",
        "resolved_at",
        "gone_at",
        "boot_over",
        "closed_at",
        "uid",
        "local_pid",
        "parent_pid",
        "parent_name",
        "agent",
        "agent_invocation",
        "tool_call",
        "tool",
        "confidence",
        "source",
        "cause",
        "rss_bytes",
        "remedy",
        "result",
        "dry_run",
        "kept_by",
        "name",
        "exe",
        "tool_summary",
        "cause_text",
        "cause_hint",
        "ports",
        "args",
        "action",
        "json",
    ],
};

pub(super) const ON_REQUEST: Table = Table {
    name: "on_request",
    columns: &[
        "boot_id",
        "node",
        "pid",
        "start",
        "invocation",
        "decided_at",
        "closed_at",
        "local_pid",
        "agent",
        "tool_call",
        "tool",
        "confidence",
        "remedy",
        "result",
        "decided_by",
        "name",
        "exe",
        "args",
        "action",
    ],
};

/// All tables.
pub(super) const TABLES: [Table; 3] = [INVOCATIONS, FINDINGS, ON_REQUEST];

impl Table {
    /// A statement with a parameter of its name for each column, in their order.
    pub(super) fn put(&self) -> String {
        let Self { name, columns } = self;
        let parameters = columns.join(", :");
        let columns = columns.join(", ");
        format!("INSERT OR REPLACE INTO {name} ({columns}) VALUES (:{parameters})")
    }

    /// A query for all columns, in the order of [`Self::put`], of all rows; or, where its parameter
    /// is not null, of what goes on in that boot.
    pub(super) fn all(&self) -> String {
        let Self { name, columns } = self;
        let columns = columns.join(", ");
        format!(
            "SELECT {columns} FROM {name} WHERE :standing_in IS NULL \
             OR (closed_at IS NULL AND boot_id = :standing_in)"
        )
    }

    pub(super) fn width(&self) -> usize {
        self.columns.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_known_by_all_their_columns() {
        let mut connection = Connection::open_in_memory().unwrap();
        migrate(&mut connection, 0).unwrap();
        for table in TABLES {
            let all = connection.prepare(&format!("SELECT * FROM {}", table.name)).unwrap();
            let mut wanted = vec!["id"];
            wanted.extend(table.columns);
            assert_eq!(all.column_names().collect::<Vec<_>>(), wanted);
        }
        for view in ["tool_calls", "receipts"] {
            connection.prepare(&format!("SELECT * FROM {view}")).unwrap();
        }
    }

    #[test]
    fn database_of_the_first_form_keeps_its_rows_and_its_receipts() {
        let mut connection = Connection::open_in_memory().unwrap();
        connection.execute_batch(FIRST).unwrap();
        let mut row = vec!["'x'"; FINDINGS.width()];
        for (place, column) in FINDINGS.columns.iter().enumerate() {
            let is_number = ["pid", "start", "dry_run", "uid", "local_pid", "parent_pid"];
            let is_number = is_number.contains(column)
                || ["_at", "_boot", "_over", "_bytes"].iter().any(|end| column.ends_with(end));
            if is_number {
                row[place] = "7";
            }
        }
        let columns = FINDINGS.columns.join(", ");
        let put = format!("INSERT INTO findings ({columns}) VALUES ({})", row.join(", "));
        connection.execute_batch(&put).unwrap();
        connection.execute_batch("UPDATE findings SET action = '{}'").unwrap();
        migrate(&mut connection, 1).unwrap();
        let receipts = "SELECT kind, json FROM receipts";
        let receipt: (String, String) =
            connection.query_row(receipts, [], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
        assert_eq!(receipt, ("x".to_owned(), "{}".to_owned()));
    }

    #[test]
    fn migrations_that_were_done_are_not_done_again() {
        let mut connection = Connection::open_in_memory().unwrap();
        migrate(&mut connection, 0).unwrap();
        migrate(&mut connection, newest()).unwrap();
        let version: i64 =
            connection.pragma_query_value(None, "user_version", |row| row.get(0)).unwrap();
        assert_eq!(version, newest());
    }
}
