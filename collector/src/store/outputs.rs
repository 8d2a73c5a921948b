//! How far each output has come in the journal, and how it fares.

use serde::Serialize;
use sqlx::Row as _;

use super::journal::foreign;
use super::page::rfc3339_or_null;
use super::{Store, StoreError, Write, now_ns};

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

/// The lease of the one who serves an output.
pub(crate) fn lease_of(output: &str) -> String {
    format!("output {output}")
}

impl Write<'_> {
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

impl Store {
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
}
