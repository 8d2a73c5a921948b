//! The journal: what came in, in one order, for the outputs to other systems to go along.
//!
//! It has a row for each batch of events, not for each event, and refers to what stands in the other
//! tables. A row is written in the transaction that it tells of, and only while there are outputs. Each
//! output's place in it is kept in `outputs`, and what all of them have passed is removed.

use serde::Serialize;
use sqlx::Row as _;
use sqlx::any::AnyRow;

use super::batch::MAX_TEXT;
use super::page::rfc3339_or_null;
use super::{Dialect, Finding, Store, StoreError, Write, now_ns};

/// The tables of this module.
pub(super) const TABLES: &str = "
-- What came in, in one order. PostgreSQL gives out ids before transactions end, so there the order is that
-- of the transactions, and a row counts when every earlier transaction has ended.
CREATE TABLE journal (
    id {serial},
    xact BIGINT NOT NULL,
    at_ns BIGINT NOT NULL,
    -- events, results, session_begun, session_ended, finding, hold, audit
    kind TEXT NOT NULL,
    host TEXT NOT NULL,
    segment BIGINT NOT NULL,
    -- Events: from the first up to, and without, the last. Otherwise the number of what it is about.
    first BIGINT NOT NULL,
    last BIGINT NOT NULL,
    -- The session; of results, sessions and numbers of commands.
    about TEXT NOT NULL
);
CREATE INDEX journal_in_order ON journal (xact, id);

-- How far each output has come in the journal, and how it fares.
CREATE TABLE outputs (
    name TEXT PRIMARY KEY,
    added_ns BIGINT NOT NULL,
    xact BIGINT NOT NULL,
    id BIGINT NOT NULL,
    -- How much of the row after that place is done.
    done BIGINT NOT NULL,
    sent BIGINT NOT NULL,
    skipped BIGINT NOT NULL,
    deleted BIGINT NOT NULL,
    last_sent_ns BIGINT,
    failing_since_ns BIGINT,
    -- Since when the receiver has refused the message that is next.
    refused_since_ns BIGINT,
    error TEXT NOT NULL
);

CREATE INDEX segments_deleted ON segments (host, number) WHERE state = 'deleted';

-- Bytes that were written to a terminal.
ALTER TABLE sessions ADD COLUMN terminal_bytes BIGINT NOT NULL DEFAULT 0;
";

/// Results in one row.
const RESULTS: usize = 500;

/// What a row of the journal is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JournalKind {
    /// Commands and events of hosts.
    Events,
    /// Commands that ended.
    Results,
    /// A session began.
    SessionBegun,
    /// A session ended.
    SessionEnded,
    /// Something is wrong.
    Finding,
    /// A legal hold was set or released.
    Hold,
    /// Something was done in the collector.
    Audit,
    /// Something has come of a request for approval.
    Approval,
}

impl JournalKind {
    fn name(self) -> &'static str {
        match self {
            Self::Events => "events",
            Self::Results => "results",
            Self::SessionBegun => "session_begun",
            Self::SessionEnded => "session_ended",
            Self::Finding => "finding",
            Self::Hold => "hold",
            Self::Audit => "audit",
            Self::Approval => "approval",
        }
    }

    fn of(name: &str) -> Result<Self, StoreError> {
        let all = [
            Self::Events,
            Self::Results,
            Self::SessionBegun,
            Self::SessionEnded,
            Self::Finding,
            Self::Hold,
            Self::Audit,
            Self::Approval,
        ];
        all.into_iter()
            .find(|kind| kind.name() == name)
            .ok_or(StoreError::Damaged("a journal's row of a kind that is none"))
    }
}

/// A row of the journal.
#[derive(Debug, Clone)]
pub struct JournalRow {
    /// Its place.
    pub place: (i64, i64),
    /// When it was written.
    pub at_ns: i64,
    /// What it is about.
    pub kind: JournalKind,
    /// The host; empty when it is about none.
    pub host: String,
    /// The segment that its events are in.
    pub segment: i64,
    /// The first event, or the number of what it is about.
    pub first: i64,
    /// The event after the last.
    pub last: i64,
    /// The session; of results, `session/number` of each command, with blanks between; of approvals, the id and
    /// what has come of it ([`ApprovalNews`](super::ApprovalNews)).
    pub about: String,
}

/// A row to be written.
pub(super) struct NewRow<'r> {
    pub(super) kind: JournalKind,
    pub(super) host: &'r str,
    pub(super) segment: i64,
    pub(super) first: i64,
    pub(super) last: i64,
    pub(super) about: &'r str,
}

/// How far an output has come, and how it fares.
#[derive(Debug, Clone, Serialize)]
pub struct OutputState {
    /// Its name.
    pub name: String,
    /// The place in the journal up to which all is done.
    #[serde(skip)]
    pub place: (i64, i64),
    /// How much of the row after that is done.
    #[serde(skip)]
    pub done: i64,
    /// Messages that were sent.
    pub sent: i64,
    /// Messages that were skipped, because they were refused for too long.
    pub skipped: i64,
    /// Gaps that it was told of: what retention deleted before it could be sent.
    pub deleted: i64,
    /// When something was last sent.
    #[serde(rename = "last_sent", serialize_with = "rfc3339_or_null")]
    pub last_sent_ns: Option<i64>,
    /// Since when sending has failed.
    #[serde(rename = "failing_since", serialize_with = "rfc3339_or_null")]
    pub failing_since_ns: Option<i64>,
    /// Since when the receiver has refused the message that is next.
    #[serde(rename = "refused_since", serialize_with = "rfc3339_or_null")]
    pub refused_since_ns: Option<i64>,
    /// Why.
    pub error: String,
    /// When what is to be sent next came in; none when nothing is.
    #[serde(rename = "waiting_since", serialize_with = "rfc3339_or_null")]
    pub waiting_since_ns: Option<i64>,
}

/// Progress of an output, to be kept.
#[derive(Debug, Clone, Copy, Default)]
pub struct Progress {
    /// The place in the journal up to which all is done.
    pub place: (i64, i64),
    /// How much of the row after that is done.
    pub done: i64,
    /// Messages sent since the last progress.
    pub sent: i64,
    /// Messages skipped.
    pub skipped: i64,
    /// Gaps told of.
    pub deleted: i64,
}

/// A command with the session that it is of.
#[derive(Debug, Clone)]
pub struct ToldCommand {
    /// Its event's index in the host's log.
    pub event: i64,
    /// The host's id, and its name.
    pub host: String,
    /// The host's name.
    pub host_name: String,
    /// Its session.
    pub session: String,
    /// Its number in the session.
    pub number: i64,
    /// The command that it goes on with; 0 for none.
    pub goes_on: i64,
    /// query, prepare, bind, execute …
    pub step: String,
    /// When.
    pub at_ns: i64,
    /// What it does.
    pub kind: String,
    /// What happened.
    pub verdict: String,
    /// What a rule in observe mode would have had happen.
    pub observed: String,
    /// The rule that decided.
    pub rule: String,
    /// Its text, as far as the index keeps it.
    pub text: String,
    /// The index does not keep the whole text.
    pub clipped: bool,
    /// How it ended.
    pub status: String,
    /// How long it took.
    pub duration_ns: i64,
    /// Rows returned.
    pub rows: i64,
    /// The error.
    pub sqlstate: String,
    /// The process.
    pub pid: i64,
    /// The host user.
    pub user: String,
    /// Who logged in to the host.
    pub login_user: String,
    /// The executable.
    pub exe: String,
    /// The systemd unit.
    pub unit: String,
    /// Where to.
    pub destination: String,
    /// Host names of it.
    pub host_names: String,
    /// The protocol.
    pub protocol: String,
    /// The database user.
    pub db_user: String,
    /// The database.
    pub database: String,
}

/// An event of a host.
#[derive(Debug, Clone)]
pub struct ToldHostEvent {
    /// Its index in the host's log.
    pub event: i64,
    /// When.
    pub at_ns: i64,
    /// Its name, such as `policy_loaded`.
    pub kind: String,
    /// The event as JSON.
    pub detail: String,
}

const COMMAND: &str = "SELECT c.event, c.host, COALESCE(a.name, ''), c.session, c.number, c.goes_on, c.step, c.at_ns, \
     c.kind, c.verdict, c.observed, c.rule, c.text, c.status, c.duration_ns, c.rows_returned, c.sqlstate, \
     COALESCE(s.pid, 0), COALESCE(s.user_name, ''), COALESCE(s.login_user, ''), COALESCE(s.exe, ''), \
     COALESCE(s.unit, ''), COALESCE(s.destination, ''), COALESCE(s.host_names, ''), COALESCE(s.protocol, ''), \
     COALESCE(s.db_user, ''), COALESCE(s.database_name, '') FROM commands c LEFT JOIN sessions s ON s.id = c.session \
     LEFT JOIN agents a ON a.host = c.host";

fn command(row: &AnyRow) -> Result<ToldCommand, StoreError> {
    let text: String = row.try_get(12)?;
    Ok(ToldCommand {
        event: row.try_get(0)?,
        host: row.try_get(1)?,
        host_name: row.try_get(2)?,
        session: row.try_get(3)?,
        number: row.try_get(4)?,
        goes_on: row.try_get(5)?,
        step: row.try_get(6)?,
        at_ns: row.try_get(7)?,
        kind: row.try_get(8)?,
        verdict: row.try_get(9)?,
        observed: row.try_get(10)?,
        rule: row.try_get(11)?,
        // A character has four bytes at most, so a text that was cut is hardly shorter than the limit.
        clipped: text.len() + 4 > MAX_TEXT,
        text,
        status: row.try_get(13)?,
        duration_ns: row.try_get(14)?,
        rows: row.try_get(15)?,
        sqlstate: row.try_get(16)?,
        pid: row.try_get(17)?,
        user: row.try_get(18)?,
        login_user: row.try_get(19)?,
        exe: row.try_get(20)?,
        unit: row.try_get(21)?,
        destination: row.try_get(22)?,
        host_names: row.try_get(23)?,
        protocol: row.try_get(24)?,
        db_user: row.try_get(25)?,
        database: row.try_get(26)?,
    })
}

/// This transaction's place in the order.
fn this_transaction(dialect: Dialect) -> &'static str {
    match dialect {
        // There is one writer at a time: ids are given out in order.
        Dialect::Sqlite => "0",
        Dialect::Postgres => "CAST(CAST(pg_current_xact_id() AS TEXT) AS BIGINT)",
    }
}

/// Rows before which nothing can come any more.
fn settled(dialect: Dialect) -> &'static str {
    match dialect {
        Dialect::Sqlite => "1 = 1",
        Dialect::Postgres => "xact < CAST(CAST(pg_snapshot_xmin(pg_current_snapshot()) AS TEXT) AS BIGINT)",
    }
}

/// That a transaction's number, `xact`, is of another cluster: in this one none that can be seen is so high.
/// Dumped and restored, or replicated to a newer version, rows and places keep the numbers of the old cluster,
/// and a new one begins with low ones.
fn foreign(dialect: Dialect, xact: &str) -> String {
    match dialect {
        Dialect::Sqlite => "1 = 0".to_owned(),
        Dialect::Postgres => {
            format!("{xact} >= CAST(CAST(pg_snapshot_xmax(pg_current_snapshot()) AS TEXT) AS BIGINT)")
        }
    }
}

impl Store {
    /// Whether a transaction's number is of another cluster.
    ///
    /// # Errors
    /// The database fails.
    pub async fn is_foreign(&self, xact: i64) -> Result<bool, StoreError> {
        if self.dialect() == Dialect::Sqlite || xact == 0 {
            return Ok(false);
        }
        let text = format!("SELECT 1 WHERE {}", foreign(self.dialect(), "$1"));
        let row = sqlx::query(sqlx::AssertSqlSafe(text)).bind(xact).fetch_optional(self.pool()).await?;
        Ok(row.is_some())
    }

    /// Looks whether the database was moved to another cluster of PostgreSQL, where the journal's order does not
    /// go on. If it was, all that is in the journal comes first, and outputs begin with it: what they were told
    /// already they are told again, and nothing is lost. Gives whether it was.
    ///
    /// # Errors
    /// The database fails.
    pub async fn settle_journal(&self) -> Result<bool, StoreError> {
        let newest = "(SELECT GREATEST((SELECT MAX(xact) FROM journal), (SELECT MAX(xact) FROM outputs)))";
        let text = format!("SELECT 1 WHERE {}", foreign(self.dialect(), newest));
        if self.dialect() == Dialect::Sqlite
            || sqlx::query(sqlx::AssertSqlSafe(text.as_str())).fetch_optional(self.pool()).await?.is_none()
        {
            return Ok(false);
        }
        let mut write = self.write().await?;
        // Whoever writes into it has ended then, and is seen.
        sqlx::query("LOCK TABLE journal, outputs IN SHARE ROW EXCLUSIVE MODE").execute(write.on()).await?;
        if sqlx::query(sqlx::AssertSqlSafe(text)).fetch_optional(write.on()).await?.is_none() {
            return Ok(false);
        }
        sqlx::query("UPDATE journal SET xact = 0").execute(write.on()).await?;
        sqlx::query("UPDATE outputs SET xact = 0, id = 0, done = 0").execute(write.on()).await?;
        write.commit().await?;
        tracing::warn!(
            "the database was moved to another cluster of PostgreSQL: outputs are told again what is left in the journal"
        );
        Ok(true)
    }
}

impl Write<'_> {
    /// Whether anything is to be written into the journal.
    ///
    /// # Errors
    /// The database fails.
    pub(super) async fn has_outputs(&mut self) -> Result<bool, StoreError> {
        Ok(sqlx::query("SELECT 1 FROM outputs LIMIT 1").fetch_optional(self.on()).await?.is_some())
    }

    /// Writes a row into the journal, if there are outputs.
    ///
    /// # Errors
    /// The database fails.
    pub(super) async fn journal(&mut self, row: NewRow<'_>) -> Result<(), StoreError> {
        let xact = this_transaction(self.dialect);
        let text = format!(
            "INSERT INTO journal (xact, at_ns, kind, host, segment, first, last, about) \
             SELECT {xact}, $1, $2, $3, $4, $5, $6, $7 WHERE EXISTS (SELECT 1 FROM outputs)"
        );
        sqlx::query(sqlx::AssertSqlSafe(text))
            .bind(now_ns())
            .bind(row.kind.name())
            .bind(row.host)
            .bind(row.segment)
            .bind(row.first)
            .bind(row.last)
            .bind(row.about)
            .execute(self.on())
            .await?;
        Ok(())
    }

    /// Writes a row about one thing that has a number.
    ///
    /// # Errors
    /// The database fails.
    pub(super) async fn journal_number(&mut self, kind: JournalKind, number: i64) -> Result<(), StoreError> {
        self.journal(NewRow { kind, host: "", segment: 0, first: number, last: number, about: "" }).await
    }

    /// Writes rows about commands that ended.
    ///
    /// # Errors
    /// The database fails.
    pub(super) async fn journal_results(
        &mut self,
        host: &str,
        segment: i64,
        ended: &[String],
    ) -> Result<(), StoreError> {
        for some in ended.chunks(RESULTS) {
            let about = some.join(" ");
            let last = i64::try_from(some.len()).unwrap_or(i64::MAX);
            self.journal(NewRow { kind: JournalKind::Results, host, segment, first: 0, last, about: &about })
                .await?;
        }
        Ok(())
    }

    /// Makes sure that there is an output of this name; a new one begins with what comes from now on.
    ///
    /// # Errors
    /// The database fails.
    pub async fn add_output(&mut self, name: &str) -> Result<bool, StoreError> {
        let last = sqlx::query("SELECT xact, id FROM journal ORDER BY xact DESC, id DESC LIMIT 1")
            .fetch_optional(self.on())
            .await?;
        let (xact, id): (i64, i64) = match last {
            Some(row) => (row.try_get(0)?, row.try_get(1)?),
            None => (0, 0),
        };
        let done = sqlx::query(
            "INSERT INTO outputs (name, added_ns, xact, id, done, sent, skipped, deleted, error) \
             VALUES ($1, $2, $3, $4, 0, 0, 0, 0, '') ON CONFLICT (name) DO NOTHING",
        )
        .bind(name)
        .bind(now_ns())
        .bind(xact)
        .bind(id)
        .execute(self.on())
        .await?;
        Ok(done.rows_affected() == 1)
    }

    /// Forgets an output and its place; whether there was one.
    ///
    /// # Errors
    /// The database fails.
    pub async fn remove_output(&mut self, name: &str) -> Result<bool, StoreError> {
        let done = sqlx::query("DELETE FROM outputs WHERE name = $1").bind(name).execute(self.on()).await?;
        Ok(done.rows_affected() == 1)
    }

    /// Keeps an output's progress, if `owner` has its lease: whoever lost it must not put the place back.
    ///
    /// # Errors
    /// The database fails.
    pub async fn progress(&mut self, name: &str, owner: &str, to: &Progress) -> Result<bool, StoreError> {
        let sent = to.sent > 0 || to.skipped > 0;
        let last_sent = if sent {
            "last_sent_ns = $8, failing_since_ns = NULL, refused_since_ns = NULL, error = '',"
        } else {
            ""
        };
        let text = format!(
            "UPDATE outputs SET {last_sent} xact = $2, id = $3, done = $4, sent = sent + $5, skipped = skipped + $6, \
             deleted = deleted + $7 WHERE name = $1 AND EXISTS (SELECT 1 FROM leases WHERE leases.name = $9 AND holder = $10) \
             AND $8 > 0 AND NOT ({})",
            foreign(self.dialect, "$2")
        );
        let done = sqlx::query(sqlx::AssertSqlSafe(text))
            .bind(name)
            .bind(to.place.0)
            .bind(to.place.1)
            .bind(to.done)
            .bind(to.sent)
            .bind(to.skipped)
            .bind(to.deleted)
            .bind(now_ns())
            .bind(lease_of(name))
            .bind(owner)
            .execute(self.on())
            .await?;
        Ok(done.rows_affected() == 1)
    }

    /// Notes that sending fails; `refused` when the receiver does not take the very message.
    ///
    /// # Errors
    /// The database fails.
    pub async fn output_fails(
        &mut self,
        name: &str,
        owner: &str,
        error: &str,
        refused: bool,
    ) -> Result<(), StoreError> {
        let refused = if refused { ", refused_since_ns = COALESCE(refused_since_ns, $2)" } else { "" };
        let text = format!(
            "UPDATE outputs SET failing_since_ns = COALESCE(failing_since_ns, $2), error = $3{refused} \
             WHERE name = $1 AND EXISTS (SELECT 1 FROM leases WHERE leases.name = $4 AND holder = $5)"
        );
        sqlx::query(sqlx::AssertSqlSafe(text))
            .bind(name)
            .bind(now_ns())
            .bind(super::plain(error).as_ref())
            .bind(lease_of(name))
            .bind(owner)
            .execute(self.on())
            .await?;
        Ok(())
    }

    /// Removes what every output has passed. The row that the last of them stands at stays: SQLite gives the
    /// number of a last row that was removed out again.
    ///
    /// # Errors
    /// The database fails.
    pub async fn prune_journal(&mut self) -> Result<u64, StoreError> {
        let least = sqlx::query("SELECT xact, id FROM outputs ORDER BY xact, id LIMIT 1")
            .fetch_optional(self.on())
            .await?;
        let Some(least) = least else { return Ok(0) };
        // A place of another cluster says nothing about rows of this one.
        let text = format!(
            "DELETE FROM journal WHERE (xact, id) < ($1, $2) AND NOT ({})",
            foreign(self.dialect, "$1")
        );
        let done = sqlx::query(sqlx::AssertSqlSafe(text))
            .bind(least.try_get::<i64, _>(0)?)
            .bind(least.try_get::<i64, _>(1)?)
            .execute(self.on())
            .await?;
        Ok(done.rows_affected())
    }
}

/// The lease of the one who serves an output.
pub(crate) fn lease_of(output: &str) -> String {
    format!("output {output}")
}

impl Store {
    /// Rows of the journal after `place`, in order.
    ///
    /// # Errors
    /// The database fails.
    pub async fn journal(&self, place: (i64, i64), limit: i64) -> Result<Vec<JournalRow>, StoreError> {
        let text = format!(
            "SELECT xact, id, at_ns, kind, host, segment, first, last, about FROM journal \
             WHERE (xact, id) > ($1, $2) AND {} ORDER BY xact, id LIMIT $3",
            settled(self.dialect())
        );
        let rows = sqlx::query(sqlx::AssertSqlSafe(text))
            .bind(place.0)
            .bind(place.1)
            .bind(limit)
            .fetch_all(self.pool())
            .await?;
        rows.iter()
            .map(|row| {
                Ok(JournalRow {
                    place: (row.try_get(0)?, row.try_get(1)?),
                    at_ns: row.try_get(2)?,
                    kind: JournalKind::of(row.try_get(3)?)?,
                    host: row.try_get(4)?,
                    segment: row.try_get(5)?,
                    first: row.try_get(6)?,
                    last: row.try_get(7)?,
                    about: row.try_get(8)?,
                })
            })
            .collect()
    }

    /// Every output that there is or was, by name.
    ///
    /// # Errors
    /// The database fails.
    pub async fn outputs(&self) -> Result<Vec<OutputState>, StoreError> {
        let rows = sqlx::query(
            "SELECT o.name, o.xact, o.id, o.done, o.sent, o.skipped, o.deleted, o.last_sent_ns, o.failing_since_ns, \
             o.refused_since_ns, o.error, (SELECT j.at_ns FROM journal j WHERE (j.xact, j.id) > (o.xact, o.id) \
             ORDER BY j.xact, j.id LIMIT 1) FROM outputs o ORDER BY o.name",
        )
        .fetch_all(self.pool())
        .await?;
        rows.iter()
            .map(|row| {
                Ok(OutputState {
                    name: row.try_get(0)?,
                    place: (row.try_get(1)?, row.try_get(2)?),
                    done: row.try_get(3)?,
                    sent: row.try_get(4)?,
                    skipped: row.try_get(5)?,
                    deleted: row.try_get(6)?,
                    last_sent_ns: row.try_get(7)?,
                    failing_since_ns: row.try_get(8)?,
                    refused_since_ns: row.try_get(9)?,
                    error: row.try_get(10)?,
                    waiting_since_ns: row.try_get(11)?,
                })
            })
            .collect()
    }

    /// Commands of a host with these events' indexes, in order, at most `limit`.
    ///
    /// # Errors
    /// The database fails.
    pub async fn told_commands(
        &self,
        host: &str,
        first: i64,
        end: i64,
        limit: i64,
    ) -> Result<Vec<ToldCommand>, StoreError> {
        let text = format!(
            "{COMMAND} WHERE c.host = $1 AND c.event >= $2 AND c.event < $3 ORDER BY c.event LIMIT $4"
        );
        let rows = sqlx::query(sqlx::AssertSqlSafe(text))
            .bind(host)
            .bind(first)
            .bind(end)
            .bind(limit)
            .fetch_all(self.pool())
            .await?;
        rows.iter().map(command).collect()
    }

    /// A command by its number in its session.
    ///
    /// # Errors
    /// The database fails.
    pub async fn told_command(
        &self,
        host: &str,
        session: &str,
        number: i64,
    ) -> Result<Option<ToldCommand>, StoreError> {
        let text = format!("{COMMAND} WHERE c.session = $1 AND c.number = $2 AND c.host = $3");
        let row = sqlx::query(sqlx::AssertSqlSafe(text))
            .bind(session)
            .bind(number)
            .bind(host)
            .fetch_optional(self.pool())
            .await?;
        row.as_ref().map(command).transpose()
    }

    /// Events of a host with these indexes, in order, at most `limit`.
    ///
    /// # Errors
    /// The database fails.
    pub async fn told_host_events(
        &self,
        host: &str,
        first: i64,
        end: i64,
        limit: i64,
    ) -> Result<Vec<ToldHostEvent>, StoreError> {
        let rows = sqlx::query(
            "SELECT event, at_ns, kind, detail FROM host_events WHERE host = $1 AND event >= $2 AND event < $3 \
             ORDER BY event LIMIT $4",
        )
        .bind(host)
        .bind(first)
        .bind(end)
        .bind(limit)
        .fetch_all(self.pool())
        .await?;
        rows.iter()
            .map(|row| {
                Ok(ToldHostEvent {
                    event: row.try_get(0)?,
                    at_ns: row.try_get(1)?,
                    kind: row.try_get(2)?,
                    detail: row.try_get(3)?,
                })
            })
            .collect()
    }

    /// Whether a segment was deleted.
    ///
    /// # Errors
    /// The database fails.
    pub async fn is_deleted(&self, host: &str, segment: i64) -> Result<bool, StoreError> {
        let row = sqlx::query("SELECT 1 FROM segments WHERE host = $1 AND number = $2 AND state = 'deleted'")
            .bind(host)
            .bind(segment)
            .fetch_optional(self.pool())
            .await?;
        Ok(row.is_some())
    }

    /// A finding by its number.
    ///
    /// # Errors
    /// The database fails.
    pub async fn finding(&self, number: i64) -> Result<Option<Finding>, StoreError> {
        let page = self.findings(false, number.checked_add(1), 1).await?;
        Ok(page.items.into_iter().find(|finding| finding.id == number))
    }
}
