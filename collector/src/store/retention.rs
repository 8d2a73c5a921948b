//! Segments whose time has come.

use sqlx::Row as _;

use super::{KeptSegment, Store, StoreError, Write, number};

/// A segment whose time has come.
#[derive(Debug, Clone)]
pub struct Expired {
    /// The host, hexadecimal.
    pub host: String,
    /// The segment.
    pub segment: KeptSegment,
}

impl Write<'_> {
    /// Whether a segment is under a legal hold now.
    ///
    /// # Errors
    /// The database fails.
    pub async fn is_held(&mut self, host: &str, number: u64) -> Result<bool, StoreError> {
        let row = sqlx::query(
            "SELECT 1 FROM segments s JOIN legal_holds h ON h.released_ns IS NULL AND (h.host = '' OR h.host = s.host) \
             AND h.from_ns <= s.last_ns AND s.first_ns <= h.until_ns WHERE s.host = $1 AND s.number = $2 LIMIT 1",
        )
        .bind(host)
        .bind(number as i64)
        .fetch_optional(self.on())
        .await?;
        Ok(row.is_some())
    }

    /// Notes that a segment is deleted, and takes its events out of the index. Sessions go with the last of
    /// their segments.
    ///
    /// # Errors
    /// The database fails.
    pub async fn delete_segment(&mut self, host: &str, segment: &KeptSegment) -> Result<(), StoreError> {
        sqlx::query("UPDATE segments SET state = 'deleted' WHERE host = $1 AND number = $2")
            .bind(host)
            .bind(segment.number as i64)
            .execute(self.on())
            .await?;
        let (first, end) = (segment.first_index as i64, (segment.first_index + segment.events) as i64);
        for table in ["commands", "host_events"] {
            let text = format!("DELETE FROM {table} WHERE host = $1 AND event >= $2 AND event < $3");
            sqlx::query(sqlx::AssertSqlSafe(text))
                .bind(host)
                .bind(first)
                .bind(end)
                .execute(self.on())
                .await?;
        }
        sqlx::query(
            "DELETE FROM sessions WHERE host = $1 AND last_event >= $2 AND last_event < $3 AND NOT EXISTS \
             (SELECT 1 FROM segments s WHERE s.host = sessions.host AND s.state = 'kept' \
             AND s.number >= sessions.first_segment AND s.number <= sessions.last_segment)",
        )
        .bind(host)
        .bind(first)
        .bind(end)
        .execute(self.on())
        .await?;
        Ok(())
    }
}

impl Store {
    /// Segments of `host` that were taken and whose last event is from before `before_ns`, and which no legal
    /// hold covers; at most `limit`. The collector's clock counts as well as the host's: a host cannot have
    /// its recording deleted early by a clock that is behind.
    ///
    /// # Errors
    /// The database fails.
    pub async fn expired(&self, host: &str, before_ns: i64, limit: u32) -> Result<Vec<Expired>, StoreError> {
        let rows = sqlx::query(
            "SELECT s.number, s.first_index, s.events, s.bytes, s.file_sha256, s.entry FROM segments s \
             WHERE s.host = $1 AND s.state = 'kept' AND s.last_ns < $2 AND s.received_ns < $2 AND NOT EXISTS \
             (SELECT 1 FROM legal_holds h WHERE h.released_ns IS NULL AND (h.host = '' OR h.host = s.host) \
             AND h.from_ns <= s.last_ns AND s.first_ns <= h.until_ns) ORDER BY s.number LIMIT $3",
        )
        .bind(host)
        .bind(before_ns)
        .bind(i64::from(limit))
        .fetch_all(self.pool())
        .await?;
        rows.iter()
            .map(|row| {
                Ok(Expired {
                    host: host.to_owned(),
                    segment: KeptSegment {
                        number: number(row.try_get(0)?)?,
                        first_index: number(row.try_get(1)?)?,
                        events: number(row.try_get(2)?)?,
                        bytes: number(row.try_get(3)?)?,
                        file_sha256: row.try_get(4)?,
                        entry: number(row.try_get(5)?)?,
                        deleted: false,
                    },
                })
            })
            .collect()
    }
}
