//! What the journal's rows refer to: commands, events of hosts and findings, as outputs are told of them.

use sqlx::Row as _;
use sqlx::any::AnyRow;

use super::batch::MAX_TEXT;
use super::{Finding, Store, StoreError};

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

impl Store {
    /// Rows about events of a host from one index up to another.
    async fn of_events(
        &self,
        text: String,
        host: &str,
        (first, end): (i64, i64),
        limit: i64,
    ) -> Result<Vec<AnyRow>, StoreError> {
        let query = sqlx::query(sqlx::AssertSqlSafe(text)).bind(host).bind(first).bind(end).bind(limit);
        Ok(query.fetch_all(self.pool()).await?)
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
        let rows = self.of_events(text, host, (first, end), limit).await?;
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
        let text = "SELECT event, at_ns, kind, detail FROM host_events WHERE host = $1 AND event >= $2 AND event < $3 \
             ORDER BY event LIMIT $4";
        let rows = self.of_events(text.to_owned(), host, (first, end), limit).await?;
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
