//! How often rules decided, and what happened on hosts outside of sessions.

use serde::Serialize;
use sqlx::Row as _;

use super::page::{Sql, rfc3339};
use super::{Page, Store, StoreError};

/// How often a rule decided in one way.
#[derive(Debug, Clone, Serialize)]
pub struct RuleCount {
    /// The rule.
    pub rule: String,
    /// What it decided.
    pub verdict: String,
    /// In observe mode: it would have.
    pub observed: bool,
    /// On how many hosts.
    pub hosts: i64,
    /// How often.
    pub count: i64,
    /// When last.
    #[serde(rename = "last", serialize_with = "rfc3339")]
    pub last_ns: i64,
}

/// An event of a host, or a connection that no session is about.
#[derive(Debug, Clone)]
pub struct HostEvent {
    /// Its index in the host's log.
    pub event: i64,
    /// When.
    pub at_ns: i64,
    /// Its name.
    pub kind: String,
    /// The event as JSON.
    pub detail: String,
}

impl Store {
    /// How often each rule decided, over all hosts or on one; the most frequent first, at most 1000.
    ///
    /// # Errors
    /// The database fails.
    pub async fn rule_counts(&self, host: Option<&str>) -> Result<Vec<RuleCount>, StoreError> {
        let mut sql = Sql::new(
            "SELECT rule, verdict, observed, CAST(COUNT(DISTINCT host) AS BIGINT), CAST(SUM(count) AS BIGINT) AS total, \
             MAX(last_ns) FROM rule_counts",
        );
        sql.and("rule <> ''");
        if let Some(host) = host {
            sql.and("host = ").text(host);
        }
        sql.push(" GROUP BY rule, verdict, observed ORDER BY total DESC, rule LIMIT 1000");
        let rows = sql.all(self.searchers()).await?;
        rows.iter()
            .map(|row| {
                Ok(RuleCount {
                    rule: row.try_get(0)?,
                    verdict: row.try_get(1)?,
                    observed: row.try_get::<i64, _>(2)? != 0,
                    hosts: row.try_get(3)?,
                    count: row.try_get(4)?,
                    last_ns: row.try_get(5)?,
                })
            })
            .collect()
    }

    /// Events of a host before `cursor`, the newest first.
    ///
    /// # Errors
    /// The database fails.
    pub async fn host_events(
        &self,
        host: &str,
        cursor: Option<i64>,
        limit: usize,
    ) -> Result<Page<HostEvent>, StoreError> {
        let mut sql = Sql::new("SELECT event, at_ns, kind, detail FROM host_events");
        sql.and("host = ").text(host);
        if let Some(cursor) = cursor {
            sql.and("event < ").number(cursor);
        }
        sql.push(" ORDER BY event DESC LIMIT ").number(limit as i64 + 1);
        let rows = sql.all(self.searchers()).await?;
        let items: Result<Vec<_>, StoreError> = rows
            .iter()
            .map(|row| {
                Ok(HostEvent {
                    event: row.try_get(0)?,
                    at_ns: row.try_get(1)?,
                    kind: row.try_get(2)?,
                    detail: row.try_get(3)?,
                })
            })
            .collect();
        Ok(Page::cut(items?, limit, |event| event.event.to_string()))
    }
}
