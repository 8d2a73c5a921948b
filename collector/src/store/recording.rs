//! What has been taken of agents' recordings: sealed segments, and live records.

use interlock_recording::chain::Hash;
use interlock_recording::verify::{Boundary, Position};
use sqlx::{AssertSqlSafe, Row as _};

use super::{Dialect, JournalKind, Store, StoreError, Write, hash, now_ns, number, plain};

/// A sealed segment that has been verified and stored.
#[derive(Debug, Clone)]
pub struct TakenSegment {
    /// Its number.
    pub number: u64,
    /// The index of its first event, and how many it has.
    pub first_index: u64,
    /// How many events it has.
    pub events: u64,
    /// Its file's size in bytes.
    pub bytes: u64,
    /// SHA-256 of its file.
    pub file_sha256: [u8; 32],
    /// The times of its first and last event, by the agent's clock.
    pub first_ns: i64,
    /// The time of the last.
    pub last_ns: i64,
    /// Its entry in the ledger.
    pub entry: u64,
    /// Where the next one begins.
    pub next: Boundary,
}

/// Live records, one after another in one segment.
#[derive(Debug, Clone)]
pub struct LiveRun {
    /// The segment that they are of.
    pub segment: u64,
    /// The index of the first.
    pub first_index: u64,
    /// How many.
    pub events: u64,
    /// The segment's header, if these are its first records.
    pub header: Option<Vec<u8>>,
    /// The records, as they stand in the agent's file.
    pub records: Vec<u8>,
    /// The chain's hash after them.
    pub end_hash: Hash,
}

/// A segment that is kept.
#[derive(Debug, Clone)]
pub struct KeptSegment {
    /// Its number.
    pub number: u64,
    /// The index of its first event.
    pub first_index: u64,
    /// How many events it has.
    pub events: u64,
    /// Its file's size in bytes.
    pub bytes: u64,
    /// SHA-256 of its file.
    pub file_sha256: Vec<u8>,
    /// Its entry in the ledger.
    pub entry: u64,
    /// It was deleted; a tombstone stands in the ledger.
    pub deleted: bool,
}

impl Write<'_> {
    /// Notes a sealed segment; live records of it go.
    ///
    /// # Errors
    /// The database fails.
    pub async fn add_segment(&mut self, host: &str, segment: &TakenSegment) -> Result<(), StoreError> {
        let end = &segment.next;
        sqlx::query(
            "INSERT INTO segments (host, number, first_index, events, bytes, file_sha256, final_hash, first_ns, \
             last_ns, received_ns, entry, state) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, 'kept')",
        )
        .bind(host)
        .bind(segment.number as i64)
        .bind(segment.first_index as i64)
        .bind(segment.events as i64)
        .bind(segment.bytes as i64)
        .bind(segment.file_sha256.to_vec())
        .bind(end.position.hash.to_vec())
        .bind(segment.first_ns)
        .bind(segment.last_ns)
        .bind(now_ns())
        .bind(segment.entry as i64)
        .execute(self.on())
        .await?;
        sqlx::query(
            "UPDATE agents SET next_segment = $2, next_index = $3, chain_hash = $4, header_sha256 = $5, \
             indexed_index = 0, indexed_hash = NULL WHERE host = $1",
        )
        .bind(host)
        .bind(end.segment as i64)
        .bind(end.position.index as i64)
        .bind(end.position.hash.to_vec())
        .bind(end.header_sha256.map_or_else(Vec::new, |hash| hash.to_vec()))
        .execute(self.on())
        .await?;
        // What was beyond the live records is known now.
        sqlx::query("UPDATE agents SET live_index = $2, live_hash = $3 WHERE host = $1 AND live_index < $2")
            .bind(host)
            .bind(end.position.index as i64)
            .bind(end.position.hash.to_vec())
            .execute(self.on())
            .await?;
        sqlx::query("DELETE FROM live_records WHERE host = $1 AND first_index + events <= $2")
            .bind(host)
            .bind(end.position.index as i64)
            .execute(self.on())
            .await?;
        Ok(())
    }

    /// Keeps live records, after which the log stands at `next`, and the HEAD that covers them.
    ///
    /// # Errors
    /// The database fails.
    pub async fn add_live(
        &mut self,
        host: &str,
        run: &LiveRun,
        next: &Position,
        head: &[u8],
    ) -> Result<(), StoreError> {
        self.add_runs(&[(host, run, next, head)]).await
    }

    /// Keeps live records of several hosts.
    ///
    /// # Errors
    /// The database fails.
    pub(super) async fn add_runs(
        &mut self,
        runs: &[(&str, &LiveRun, &Position, &[u8])],
    ) -> Result<(), StoreError> {
        let now = now_ns();
        self.rows(
            "INSERT INTO live_records (host, first_index, segment, events, header, records, end_hash, received_ns) \
             VALUES {rows}",
            8,
            runs,
            |query, (host, run, ..)| {
                query
                    .bind((*host).to_owned())
                    .bind(run.first_index as i64)
                    .bind(run.segment as i64)
                    .bind(run.events as i64)
                    .bind(run.header.clone())
                    .bind(run.records.clone())
                    .bind(run.end_hash.to_vec())
                    .bind(now)
            },
        )
        .await?;
        self.rows(
            "UPDATE agents SET live_index = v.column2, live_hash = v.column3, head = v.column4, \
             last_seen_ns = v.column5 FROM (VALUES {rows}) AS v WHERE agents.host = v.column1",
            5,
            runs,
            |query, (host, _, next, head)| {
                query
                    .bind((*host).to_owned())
                    .bind(next.index as i64)
                    .bind(next.hash.to_vec())
                    .bind(head.to_vec())
                    .bind(now)
            },
        )
        .await
    }

    /// Whether this has been found already, and nobody has acknowledged it.
    ///
    /// # Errors
    /// The database fails.
    pub async fn is_found(&mut self, host: &str, kind: &str, detail: &str) -> Result<bool, StoreError> {
        let row = sqlx::query(
            "SELECT 1 FROM findings WHERE host = $1 AND kind = $2 AND detail = $3 AND acknowledged_ns IS NULL",
        )
        .bind(host)
        .bind(kind)
        .bind(plain(detail).as_ref())
        .fetch_optional(self.on())
        .await?;
        Ok(row.is_some())
    }

    /// Writes down that something is wrong.
    ///
    /// # Errors
    /// The database fails.
    pub async fn add_finding(
        &mut self,
        host: &str,
        kind: &str,
        detail: &str,
        entry: Option<u64>,
    ) -> Result<(), StoreError> {
        let row = sqlx::query(
            "INSERT INTO findings (at_ns, host, kind, detail, entry) VALUES ($1, $2, $3, $4, $5) RETURNING id",
        )
        .bind(now_ns())
        .bind(host)
        .bind(kind)
        .bind(plain(detail).as_ref())
        .bind(entry.map(|entry| entry as i64))
        .fetch_one(self.on())
        .await?;
        self.journal_number(JournalKind::Finding, row.try_get(0)?).await
    }
}

impl Store {
    /// The segments of a host from `first` to `last`.
    ///
    /// # Errors
    /// The database fails.
    pub async fn segments(&self, host: &str, first: u64, last: u64) -> Result<Vec<KeptSegment>, StoreError> {
        let rows = sqlx::query(
            "SELECT number, first_index, events, bytes, file_sha256, entry, state FROM segments \
             WHERE host = $1 AND number >= $2 AND number <= $3 ORDER BY number",
        )
        .bind(host)
        .bind(first as i64)
        .bind(i64::try_from(last).unwrap_or(i64::MAX))
        .fetch_all(self.pool())
        .await?;
        rows.iter()
            .map(|row| {
                Ok(KeptSegment {
                    number: number(row.try_get(0)?)?,
                    first_index: number(row.try_get(1)?)?,
                    events: number(row.try_get(2)?)?,
                    bytes: number(row.try_get(3)?)?,
                    file_sha256: row.try_get(4)?,
                    entry: number(row.try_get(5)?)?,
                    deleted: row.try_get::<String, _>(6)? == "deleted",
                })
            })
            .collect()
    }

    /// Where the live runs of a host end: the segment, the index of the event after, and the chain's hash there.
    ///
    /// # Errors
    /// The database fails.
    pub async fn live_marks(&self, host: &str) -> Result<Vec<(u64, Position)>, StoreError> {
        let rows = sqlx::query(
            "SELECT segment, first_index + events, end_hash FROM live_records WHERE host = $1 ORDER BY first_index",
        )
        .bind(host)
        .fetch_all(self.pool())
        .await?;
        rows.iter()
            .map(|row| {
                let end = Position { index: number(row.try_get(1)?)?, hash: hash(row.try_get(2)?)? };
                Ok((number(row.try_get(0)?)?, end))
            })
            .collect()
    }

    /// Bytes of a host's live records, and of its segments that are kept.
    ///
    /// # Errors
    /// The database fails.
    pub async fn kept_bytes(&self, host: &str) -> Result<(u64, u64), StoreError> {
        let row = sqlx::query(
            "SELECT (SELECT CAST(COALESCE(SUM(LENGTH(records)), 0) AS BIGINT) FROM live_records WHERE host = $1), \
             (SELECT CAST(COALESCE(SUM(bytes), 0) AS BIGINT) FROM segments WHERE host = $1 AND state = 'kept')",
        )
        .bind(host)
        .fetch_one(self.pool())
        .await?;
        Ok((number(row.try_get(0)?)?, number(row.try_get(1)?)?))
    }

    /// The first live run of a host with events from `from` on.
    ///
    /// # Errors
    /// The database fails.
    pub async fn live_run(&self, host: &str, from: u64) -> Result<Option<LiveRun>, StoreError> {
        let row = sqlx::query(
            "SELECT segment, first_index, events, header, records, end_hash FROM live_records \
             WHERE host = $1 AND first_index + events > $2 ORDER BY first_index LIMIT 1",
        )
        .bind(host)
        .bind(i64::try_from(from).unwrap_or(i64::MAX))
        .fetch_optional(self.pool())
        .await?;
        let Some(row) = row else { return Ok(None) };
        Ok(Some(LiveRun {
            segment: number(row.try_get(0)?)?,
            first_index: number(row.try_get(1)?)?,
            events: number(row.try_get(2)?)?,
            header: row.try_get(3)?,
            records: row.try_get(4)?,
            end_hash: hash(row.try_get(5)?)?,
        }))
    }

    /// The number of the segment before which all of a host's have come sealed.
    ///
    /// # Errors
    /// The database fails.
    pub async fn sealed_before(&self, host: &str) -> Result<u64, StoreError> {
        let row =
            sqlx::query("SELECT next_segment FROM agents WHERE host = $1").bind(host).fetch_one(self.pool());
        number(row.await?.try_get(0)?)
    }
}

/// Where a session's events are.
#[derive(Debug, Clone)]
pub struct SessionPlace {
    /// The host.
    pub host: String,
    /// The first segment with events of it.
    pub first_segment: u64,
    /// The last.
    pub last_segment: u64,
    /// Its first event.
    pub first_event: u64,
    /// Its last event so far.
    pub last_event: u64,
    /// Its end was recorded.
    pub ended: bool,
}

impl Store {
    /// Where a session's events are.
    ///
    /// # Errors
    /// The database fails.
    pub async fn session_place(&self, session: &str) -> Result<Option<SessionPlace>, StoreError> {
        let row = sqlx::query(
            "SELECT host, first_segment, last_segment, first_event, last_event, \
             CASE WHEN ended_ns IS NULL THEN 0 ELSE 1 END FROM sessions \
             WHERE id = $1",
        )
        .bind(session)
        .fetch_optional(self.pool())
        .await?;
        let Some(row) = row else { return Ok(None) };
        Ok(Some(SessionPlace {
            host: row.try_get(0)?,
            first_segment: number(row.try_get(1)?)?,
            last_segment: number(row.try_get(2)?)?,
            first_event: number(row.try_get(3)?)?,
            last_event: number(row.try_get(4)?)?,
            ended: row.try_get::<i64, _>(5)? != 0,
        }))
    }

    /// The segment in which the host's agent started next after `event`, once that has come in sealed.
    ///
    /// # Errors
    /// The database fails.
    pub async fn next_start(&self, host: &str, event: u64) -> Result<Option<u64>, StoreError> {
        let row = sqlx::query(
            "SELECT s.number FROM host_events e JOIN segments s ON s.host = e.host AND s.first_index <= e.event \
             AND e.event < s.first_index + s.events \
             WHERE e.host = $1 AND e.event > $2 AND e.kind = 'agent_started' ORDER BY e.event LIMIT 1",
        )
        .bind(host)
        .bind(i64::try_from(event).unwrap_or(i64::MAX))
        .fetch_optional(self.pool())
        .await?;
        row.map(|row| number(row.try_get(0)?)).transpose()
    }
}

impl Store {
    /// How many commands of a session are indexed.
    ///
    /// # Errors
    /// The database fails.
    pub async fn command_count(&self, session: &str) -> Result<i64, StoreError> {
        let row = sqlx::query("SELECT COUNT(*) FROM commands WHERE session = $1")
            .bind(session)
            .fetch_one(self.pool());
        Ok(row.await?.try_get(0)?)
    }
}

/// What the collector holds in all.
#[derive(Debug, Clone, Copy)]
pub struct Totals {
    /// Events that were taken in.
    pub events: i64,
    /// Segments that are kept.
    pub segments: i64,
    /// Bytes of them.
    pub bytes: i64,
    /// Entries in the ledger.
    pub entries: i64,
    /// Findings that nobody has acknowledged.
    pub findings: i64,
}

impl Store {
    /// What the collector holds in all.
    ///
    /// # Errors
    /// The database fails.
    pub async fn totals(&self) -> Result<Totals, StoreError> {
        let row = sqlx::query(
            "SELECT (SELECT CAST(COALESCE(SUM(live_index), 0) AS BIGINT) FROM agents), \
             (SELECT COUNT(*) FROM segments WHERE state = 'kept'), \
             (SELECT CAST(COALESCE(SUM(bytes), 0) AS BIGINT) FROM segments WHERE state = 'kept'), \
             (SELECT COUNT(*) FROM ledger_entries), \
             (SELECT COUNT(*) FROM findings WHERE acknowledged_ns IS NULL)",
        )
        .fetch_one(self.pool())
        .await?;
        Ok(Totals {
            events: row.try_get(0)?,
            segments: row.try_get(1)?,
            bytes: row.try_get(2)?,
            entries: row.try_get(3)?,
            findings: row.try_get(4)?,
        })
    }
}

/// A host whose HEAD went on since the ledger last had an entry about it.
#[derive(Debug)]
pub struct HeadWent {
    /// The host's public key, 32 bytes.
    pub public_key: Vec<u8>,
    /// How far what was taken of it goes.
    pub live: Position,
    /// The content of its HEAD.
    pub head: Vec<u8>,
}

impl Write<'_> {
    /// The hosts whose live records went on since the ledger last had an entry about it, which is noted as made.
    ///
    /// # Errors
    /// The database fails.
    pub async fn heads_went(&mut self) -> Result<Vec<HeadWent>, StoreError> {
        // Locked: a HEAD that comes meanwhile would be noted as entered and never be.
        let lock = if self.dialect == Dialect::Postgres { " FOR UPDATE" } else { "" };
        let text = format!(
            "SELECT public_key, live_index, live_hash, head, host FROM agents WHERE live_index > head_entry_events \
             AND live_index > next_index AND head IS NOT NULL ORDER BY host{lock}"
        );
        let rows = sqlx::query(AssertSqlSafe(text)).fetch_all(self.on()).await?;
        let went = rows
            .iter()
            .map(|row| {
                Ok(HeadWent {
                    public_key: row.try_get(0)?,
                    live: Position { index: number(row.try_get(1)?)?, hash: hash(row.try_get(2)?)? },
                    head: row.try_get(3)?,
                })
            })
            .collect::<Result<Vec<_>, StoreError>>()?;
        for row in &rows {
            sqlx::query("UPDATE agents SET head_entry_events = $2 WHERE host = $1")
                .bind(row.try_get::<String, _>(4)?)
                .bind(row.try_get::<i64, _>(1)?)
                .execute(self.on())
                .await?;
        }
        Ok(went)
    }
}
