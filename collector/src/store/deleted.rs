//! What was deleted: so that lists of what is there can say what is not.

use serde::Serialize;
use sqlx::Row as _;
use sqlx::any::AnyRow;

use super::page::{Sql, rfc3339};
use super::{Store, StoreError};

/// Segments of one host, one after another, that were deleted. Their tombstones stand in the ledger.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DeletedSegments {
    /// The host's id.
    pub host: String,
    /// The host's name.
    pub host_name: String,
    /// The first of them.
    pub first_segment: i64,
    /// The last.
    pub last_segment: i64,
    /// The index of the first event that they held.
    pub first_event: i64,
    /// The last.
    pub last_event: i64,
    /// The time of the first event, by the host's clock.
    #[serde(rename = "first_time", serialize_with = "rfc3339")]
    pub first_ns: i64,
    /// And of the last.
    #[serde(rename = "last_time", serialize_with = "rfc3339")]
    pub last_ns: i64,
}

const SELECT: &str = "SELECT s.host, COALESCE(a.name, ''), s.number, s.first_index, s.first_index + s.events - 1, \
     s.first_ns, s.last_ns FROM segments s LEFT JOIN agents a ON a.host = s.host";

/// Puts those together that follow one another.
fn runs(rows: &[AnyRow]) -> Result<Vec<DeletedSegments>, StoreError> {
    let mut runs: Vec<DeletedSegments> = Vec::new();
    for row in rows {
        let number: i64 = row.try_get(2)?;
        let next = DeletedSegments {
            host: row.try_get(0)?,
            host_name: row.try_get(1)?,
            first_segment: number,
            last_segment: number,
            first_event: row.try_get(3)?,
            last_event: row.try_get(4)?,
            first_ns: row.try_get(5)?,
            last_ns: row.try_get(6)?,
        };
        match runs.last_mut() {
            Some(last) if last.host == next.host && last.last_segment.saturating_add(1) == number => {
                last.last_segment = number;
                last.last_event = next.last_event;
                last.first_ns = last.first_ns.min(next.first_ns);
                last.last_ns = last.last_ns.max(next.last_ns);
            }
            _ => runs.push(next),
        }
    }
    Ok(runs)
}

impl Store {
    /// Deleted segments with events from `since_ns` on and before `until_ns`, of these hosts or of all, after the
    /// segment `after`: at most `limit` of them, put together where they follow one another.
    ///
    /// # Errors
    /// The database fails.
    pub async fn deleted_segments(
        &self,
        hosts: Option<&[String]>,
        since_ns: Option<i64>,
        until_ns: Option<i64>,
        after: Option<(&str, i64)>,
        limit: i64,
    ) -> Result<Vec<DeletedSegments>, StoreError> {
        if hosts.is_some_and(<[String]>::is_empty) {
            return Ok(Vec::new());
        }
        let mut sql = Sql::new(SELECT);
        sql.and("s.state = 'deleted'");
        if let Some(hosts) = hosts {
            sql.and("s.host").one_of(hosts);
        }
        if let Some(since) = since_ns {
            sql.and("s.last_ns >= ").number(since);
        }
        if let Some(until) = until_ns {
            sql.and("s.first_ns < ").number(until);
        }
        if let Some((host, number)) = after {
            sql.and("(s.host, s.number) > (").text(host).push(", ").number(number).push(")");
        }
        sql.push(" ORDER BY s.host, s.number LIMIT ").number(limit);
        runs(&sql.all(self.searchers()).await?)
    }

    /// Deleted segments that held, or may have held, events of a session.
    ///
    /// # Errors
    /// The database fails.
    pub async fn deleted_of_session(&self, session: &str) -> Result<Vec<DeletedSegments>, StoreError> {
        let mut sql = Sql::new(&format!("{SELECT} JOIN sessions e ON e.host = s.host"));
        sql.and("e.id = ").text(session);
        sql.and("s.number >= e.first_segment AND s.number <= e.last_segment AND s.state = 'deleted'");
        sql.push(" ORDER BY s.host, s.number LIMIT 10000");
        runs(&sql.all(self.searchers()).await?)
    }
}
