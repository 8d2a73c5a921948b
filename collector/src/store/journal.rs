//! The journal: what came in, in one order, for the outputs to other systems to go along.
//!
//! It has a row for each batch of events, not for each event, and refers to what stands in the other
//! tables (`told.rs`). A row is written in the transaction that it tells of, and only while there are outputs.
//! Each output's place in it is kept in `outputs` (`outputs.rs`), and what all of them have passed is removed.

use sqlx::Row as _;

use super::{Dialect, Store, StoreError, Write, now_ns};

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
    /// what has come of it ([`JournalRow::approval`]).
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
pub(super) fn foreign(dialect: Dialect, xact: &str) -> String {
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

    /// Writes a row about each request for approval whose id `of` gives, of a host (`$1`) and a time (`$2`): `about`
    /// stands behind the id.
    ///
    /// # Errors
    /// The database fails.
    pub(super) async fn journal_all(
        &mut self,
        host: &str,
        of: &str,
        at_ns: i64,
        about: &str,
    ) -> Result<(), StoreError> {
        let xact = this_transaction(self.dialect);
        let kind = JournalKind::Approval.name();
        let text = format!(
            "INSERT INTO journal (xact, at_ns, kind, host, segment, first, last, about) \
             SELECT {xact}, CAST($2 AS BIGINT), '{kind}', CAST($1 AS TEXT), 0, 0, 0, ids.id || CAST($3 AS TEXT) FROM ({of}) AS ids \
             WHERE EXISTS (SELECT 1 FROM outputs)"
        );
        sqlx::query(sqlx::AssertSqlSafe(text)).bind(host).bind(at_ns).bind(about).execute(self.on()).await?;
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
}
