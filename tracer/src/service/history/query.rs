//! What is asked of the history.

use std::time::Duration;

use rusqlite::{Connection, OptionalExtension as _, Row, ToSql, named_params};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::HistoryError;
use crate::{
    lineage::{FindingKind, Nanos, ProcessId},
    report::json::Writer,
};

/// Lines of each of the lists in a [`Summary`].
const LISTED: i64 = 50;

/// Which leaks are wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query {
    /// Those that were there at some time within the last so long; `None`: ever.
    pub since: Option<Duration>,
    /// Those of an agent of this name.
    pub agent: Option<String>,
    /// Those of this kind.
    pub kind: Option<FindingKind>,
    /// Those that stand.
    pub only_standing: bool,
    /// Also what is kept, and so is no leak.
    pub with_kept: bool,
    /// At most so many, the latest.
    pub limit: usize,
    /// Those of runs that this user began.
    pub uid: Option<u32>,
}

/// Leaks, the latest first: the contract `tracer.leaks/1`.
#[derive(Debug, Deserialize, Serialize)]
pub struct Leaks {
    /// `tracer.leaks/1`.
    pub schema: String,
    /// When it was asked.
    pub at: Option<String>,
    /// How many there are, listed or not.
    pub total: u64,
    /// Those that are listed.
    pub leaks: Vec<Leak>,
    /// The history that was asked; `null`: only what stands now was.
    pub history: Option<Reach>,
}

/// How far back a history goes.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Reach {
    /// When the first run began that it has; `null`: it has none.
    pub first_run_at: Option<String>,
}

/// One leak, in the words of `tracer.event/1`.
#[derive(Debug, Deserialize, Serialize)]
pub struct Leak {
    /// The host's name.
    pub node: String,
    /// The boot that it is of.
    pub boot_id: String,
    /// Unique within that.
    pub key: String,
    /// The user who began its run, where that is known.
    pub uid: Option<u32>,
    /// The outermost agent's run that it belongs to.
    pub invocation: String,
    /// What was told of it last.
    pub change: String,
    /// When that was.
    pub told_at: Option<String>,
    /// When its process was gone; `null`: it is there, or nobody saw it go.
    pub gone_at: Option<String>,
    /// The boot ended while it stood, or while nobody looked.
    pub boot_over: bool,
    /// Why it does not count; `null`: it does.
    pub kept_by: Option<String>,
    /// Whether it is there now, and counts.
    pub stands: bool,
    /// For how long it leaked, as far as is known: until it was put right or gone, until now, or,
    /// where the boot is over, until it was told of last.
    pub seconds: f64,
    /// As in `tracer.report/1`, when it was told of last.
    pub finding: Box<RawValue>,
}

/// Who leaks most: the contract `tracer.history/1`.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct Summary {
    /// `tracer.history/1`.
    pub schema: String,
    /// When it was asked.
    pub at: Option<String>,
    /// What was over by then is left out; `null`: nothing is.
    pub since: Option<String>,
    /// Runs of agents.
    pub invocations: Invocations,
    /// What was found in all.
    pub findings: Tally,
    /// Processes that were ended.
    pub ended: Ended,
    /// By agent.
    pub by_agent: Vec<AgentTally>,
    /// By agent and tool.
    pub by_tool: Vec<ToolTally>,
    /// By the name of the program that was left.
    pub by_program: Vec<ProgramTally>,
    /// By how it came about.
    pub by_cause: Vec<CauseTally>,
}

/// Runs of agents.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct Invocations {
    /// All.
    pub total: u64,
    /// Those that left something that was never put right.
    pub leaked: u64,
    /// Those of which events were lost that could have changed what was found.
    pub uncertain: u64,
}

/// What was found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct Tally {
    /// All of it.
    pub found: u64,
    /// What was never put right.
    pub leaked: u64,
    /// What is there now.
    pub standing: u64,
}

/// Processes that a signal of tracer's ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct Ended {
    /// For what they leaked.
    pub for_leaks: u64,
    /// Because somebody asked for it, whatever was found of them.
    pub on_request: u64,
}

/// What was found of an agent.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct AgentTally {
    /// The agent; `null`: a command that no rule knows.
    pub agent: Option<String>,
    /// Its runs, as the outermost agent.
    pub invocations: Invocations,
    /// What was found of it, nested runs too.
    pub findings: Tally,
}

/// What was found of a tool of an agent's.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct ToolTally {
    /// The agent.
    pub agent: Option<String>,
    /// The tool; `null`: no call is known that it belongs to.
    pub tool: Option<String>,
    /// What was found.
    pub findings: Tally,
}

/// What was found of a program.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct ProgramTally {
    /// Its name.
    pub name: String,
    /// What was found.
    pub findings: Tally,
}

/// What came about in the same way.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct CauseTally {
    /// The cause's code.
    pub cause: String,
    /// What was found.
    pub findings: Tally,
}

/// What leaked, as it is `now` (ns since the epoch).
pub(super) fn leaks(
    connection: &Connection,
    query: &Query,
    now: i64,
) -> Result<Leaks, HistoryError> {
    let Query { since, agent, kind, only_standing, with_kept, limit, uid } = query;
    let wanted = "FROM findings WHERE (:oldest IS NULL OR closed_at IS NULL OR closed_at >= :oldest) \
                  AND (:agent IS NULL OR agent = :agent) AND (:kind IS NULL OR kind = :kind) \
                  AND (:uid IS NULL OR uid = :uid) AND (:kept OR kept_by IS NULL) \
                  AND (NOT :standing OR (closed_at IS NULL AND kept_by IS NULL))";
    let (oldest, kind) = (oldest(*since, now), kind.map(FindingKind::as_str));
    let limit = i64::try_from(*limit).unwrap_or(i64::MAX);
    let mut parameters: Vec<(&str, &dyn ToSql)> = vec![
        (":oldest", &oldest),
        (":agent", agent),
        (":kind", &kind),
        (":uid", uid),
        (":standing", only_standing),
        (":kept", with_kept),
    ];
    let count = format!("SELECT count(*) AS total {wanted}");
    let of_row = |row: &Row<'_>| unsigned(row, "total");
    let total = connection.query_row(&count, parameters.as_slice(), of_row)?;
    parameters.push((":limit", &limit));
    let mut latest = connection.prepare(&format!(
        "SELECT node, boot_id, pid, start, kind, uid, invocation, change, told_at, gone_at, \
         boot_over, closed_at, since_at, kept_by, json {wanted} ORDER BY since_at DESC, id DESC LIMIT :limit"
    ))?;
    let mut rows = latest.query(parameters.as_slice())?;
    let mut leaks = Vec::new();
    while let Some(row) = rows.next()? {
        leaks.push(leak(row, now)?);
    }
    let history = Some(reach(connection)?);
    Ok(Leaks { schema: "tracer.leaks/1".to_owned(), at: calendar(now), total, leaks, history })
}

fn reach(connection: &Connection) -> Result<Reach, HistoryError> {
    // Rows are added in the order in which runs are told of, and go in about the same.
    let mut first = connection.prepare("SELECT started_at FROM invocations ORDER BY id LIMIT 1")?;
    let started_at: Option<i64> = first.query_row([], |row| row.get(0)).optional()?;
    Ok(Reach { first_run_at: started_at.and_then(calendar) })
}

fn leak(row: &Row<'_>, now: i64) -> Result<Leak, HistoryError> {
    let process = ProcessId { pid: row.get("pid")?, start: unsigned(row, "start")? };
    let kind: String = row.get("kind")?;
    let told_at: i64 = row.get("told_at")?;
    let closed_at: Option<i64> = row.get("closed_at")?;
    let boot_over = row.get("boot_over")?;
    let until = if boot_over { told_at } else { closed_at.unwrap_or(now) };
    let span = until.saturating_sub(row.get("since_at")?);
    let gone_at: Option<i64> = row.get("gone_at")?;
    let kept_by: Option<String> = row.get("kept_by")?;
    let finding = RawValue::from_string(row.get("json")?);
    Ok(Leak {
        node: row.get("node")?,
        boot_id: row.get("boot_id")?,
        key: format!("{process}:{kind}"),
        uid: row.get("uid")?,
        invocation: row.get("invocation")?,
        change: row.get("change")?,
        told_at: calendar(told_at),
        gone_at: gone_at.and_then(calendar),
        boot_over,
        stands: closed_at.is_none() && kept_by.is_none(),
        kept_by,
        seconds: Duration::from_nanos(u64::try_from(span).unwrap_or(0)).as_secs_f64(),
        finding: finding.map_err(|_| HistoryError::Row { what: "a finding" })?,
    })
}

/// Figures of findings in a group.
const TALLY: &str = "count(*) AS found, count(CASE WHEN state = 'open' THEN 1 END) AS leaked, \
                     count(CASE WHEN closed_at IS NULL THEN 1 END) AS standing";
/// The findings that count and were there at some time since.
const FINDINGS: &str = "findings WHERE kept_by IS NULL \
                        AND (:oldest IS NULL OR closed_at IS NULL OR closed_at >= :oldest)";
/// The runs that went on at some time since, or that a finding of is wanted.
const INVOCATIONS: &str = "
    SELECT agent, uncertain, EXISTS (SELECT 1 FROM findings
            WHERE findings.boot_id = invocations.boot_id
            AND findings.invocation = invocations.invocation AND state = 'open' AND kept_by IS NULL
            AND (:oldest IS NULL OR closed_at IS NULL OR closed_at >= :oldest)) AS leaked
    FROM invocations
    WHERE :oldest IS NULL OR closed_at IS NULL OR closed_at >= :oldest
        OR EXISTS (SELECT 1 FROM findings WHERE findings.boot_id = invocations.boot_id
            AND findings.invocation = invocations.invocation AND kept_by IS NULL
            AND (closed_at IS NULL OR closed_at >= :oldest))";

/// Who leaks most, as it is `now` (ns since the epoch).
pub(super) fn summary(
    connection: &Connection,
    since: Option<Duration>,
    now: i64,
) -> Result<Summary, HistoryError> {
    let oldest = oldest(since, now);
    let by_agent = by_agent(connection, oldest)?;
    let mut invocations = Invocations::default();
    for AgentTally { agent: _, invocations: Invocations { total, leaked, uncertain }, .. } in
        &by_agent
    {
        invocations.total += total;
        invocations.leaked += leaked;
        invocations.uncertain += uncertain;
    }
    let in_all = format!("SELECT {TALLY} FROM {FINDINGS}");
    let findings = connection.query_row(&in_all, named_params! { ":oldest": oldest }, tally)?;
    Ok(Summary {
        schema: "tracer.history/1".to_owned(),
        at: calendar(now),
        since: oldest.and_then(calendar),
        invocations,
        findings,
        ended: ended(connection, oldest)?,
        by_agent,
        by_tool: tallies(connection, "agent, tool", oldest, |row| {
            Ok(ToolTally {
                agent: row.get("agent")?,
                tool: row.get("tool")?,
                findings: tally(row)?,
            })
        })?,
        by_program: tallies(connection, "name", oldest, |row| {
            Ok(ProgramTally { name: row.get("name")?, findings: tally(row)? })
        })?,
        by_cause: tallies(connection, "cause", oldest, |row| {
            Ok(CauseTally { cause: row.get("cause")?, findings: tally(row)? })
        })?,
    })
}

/// Each process counts once.
fn ended(connection: &Connection, oldest: Option<i64>) -> Result<Ended, HistoryError> {
    let of = |table: &str, more: &str| {
        let sql = format!(
            "SELECT count(*) AS ended FROM (SELECT DISTINCT boot_id, pid, start FROM {table} \
             WHERE result = 'ended' AND (:oldest IS NULL OR closed_at IS NULL OR closed_at >= :oldest) \
             {more})"
        );
        connection
            .query_row(&sql, named_params! { ":oldest": oldest }, |row| unsigned(row, "ended"))
    };
    let not_on_request = "AND NOT EXISTS (SELECT 1 FROM on_request WHERE result = 'ended' \
                          AND on_request.boot_id = findings.boot_id \
                          AND on_request.pid = findings.pid AND on_request.start = findings.start)";
    Ok(Ended { for_leaks: of("findings", not_on_request)?, on_request: of("on_request", "")? })
}

/// Agents that ran or that something was found of, the worst first. There are as many as rules name.
fn by_agent(connection: &Connection, oldest: Option<i64>) -> Result<Vec<AgentTally>, HistoryError> {
    let mut agents: Vec<AgentTally> = tallies(connection, "agent", oldest, |row| {
        let invocations = Invocations::default();
        Ok(AgentTally { agent: row.get("agent")?, invocations, findings: tally(row)? })
    })?;
    let mut runs = connection.prepare(&format!(
        "SELECT agent, count(*) AS total, sum(leaked) AS leaked, sum(uncertain) AS uncertain \
         FROM ({INVOCATIONS}) GROUP BY agent ORDER BY agent"
    ))?;
    let mut rows = runs.query(named_params! { ":oldest": oldest })?;
    while let Some(row) = rows.next()? {
        let agent: Option<String> = row.get("agent")?;
        let invocations = Invocations {
            total: unsigned(row, "total")?,
            leaked: unsigned(row, "leaked")?,
            uncertain: unsigned(row, "uncertain")?,
        };
        match agents.iter_mut().find(|tally| tally.agent == agent) {
            Some(tally) => tally.invocations = invocations,
            None => agents.push(AgentTally { agent, invocations, findings: Tally::default() }),
        }
    }
    Ok(agents)
}

/// Figures of findings that have `columns` in common, the worst first.
fn tallies<T>(
    connection: &Connection,
    columns: &'static str,
    oldest: Option<i64>,
    of_row: impl Fn(&Row<'_>) -> rusqlite::Result<T>,
) -> Result<Vec<T>, HistoryError> {
    let mut groups = connection.prepare(&format!(
        "SELECT {columns}, {TALLY} FROM {FINDINGS} GROUP BY {columns} \
         ORDER BY leaked DESC, found DESC, {columns} LIMIT :listed"
    ))?;
    let parameters = named_params! { ":oldest": oldest, ":listed": LISTED };
    let groups = groups.query_map(parameters, |row| of_row(row))?;
    Ok(groups.collect::<Result<_, _>>()?)
}

fn tally(row: &Row<'_>) -> rusqlite::Result<Tally> {
    Ok(Tally {
        found: unsigned(row, "found")?,
        leaked: unsigned(row, "leaked")?,
        standing: unsigned(row, "standing")?,
    })
}

pub(super) fn unsigned(row: &Row<'_>, column: &str) -> rusqlite::Result<u64> {
    Ok(u64::try_from(row.get::<_, i64>(column)?).unwrap_or(0))
}

/// What was over by then is left out.
fn oldest(since: Option<Duration>, now: i64) -> Option<i64> {
    since.map(|since| now.saturating_sub(i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)))
}

/// ns since the epoch as contracts have them.
fn calendar(unix: i64) -> Option<String> {
    Writer { epoch_offset: unix }.time(Nanos(0))
}
