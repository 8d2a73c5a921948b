//! What was found wrong with recordings, or with the collector itself.

use serde::Serialize;
use sqlx::Row as _;

use super::page::{Sql, rfc3339, rfc3339_or_null};
use super::{Page, Store, StoreError, Write, now_ns};

/// Something that is wrong.
#[derive(Debug, Clone, Serialize)]
pub struct Finding {
    /// Its number.
    pub id: i64,
    /// When it was found.
    #[serde(rename = "at", serialize_with = "rfc3339")]
    pub at_ns: i64,
    /// The host's id; empty when it is about the collector.
    pub host: String,
    /// The host's name.
    pub host_name: String,
    /// What kind.
    pub kind: String,
    /// What exactly.
    pub detail: String,
    /// The entry in the ledger.
    pub entry: Option<i64>,
    /// Who has taken note of it.
    pub acknowledged_by: Option<String>,
    /// When.
    #[serde(rename = "acknowledged", serialize_with = "rfc3339_or_null")]
    pub acknowledged_ns: Option<i64>,
}

impl Store {
    /// Findings before `cursor`, the newest first; only those that nobody has taken note of when `open`.
    ///
    /// # Errors
    /// The database fails.
    pub async fn findings(
        &self,
        open: bool,
        cursor: Option<i64>,
        limit: usize,
    ) -> Result<Page<Finding>, StoreError> {
        let mut sql = Sql::new(
            "SELECT f.id, f.at_ns, f.host, COALESCE(a.name, ''), f.kind, f.detail, f.entry, f.acknowledged_by, \
             f.acknowledged_ns FROM findings f LEFT JOIN agents a ON a.host = f.host",
        );
        if open {
            sql.and("f.acknowledged_ns IS NULL");
        }
        if let Some(cursor) = cursor {
            sql.and("f.id < ").number(cursor);
        }
        sql.push(" ORDER BY f.id DESC LIMIT ").number(limit as i64 + 1);
        let rows = sql.all(self.pool()).await?;
        let items: Result<Vec<_>, StoreError> = rows
            .iter()
            .map(|row| {
                Ok(Finding {
                    id: row.try_get(0)?,
                    at_ns: row.try_get(1)?,
                    host: row.try_get(2)?,
                    host_name: row.try_get(3)?,
                    kind: row.try_get(4)?,
                    detail: row.try_get(5)?,
                    entry: row.try_get(6)?,
                    acknowledged_by: row.try_get(7)?,
                    acknowledged_ns: row.try_get(8)?,
                })
            })
            .collect();
        Ok(Page::cut(items?, limit, |finding| finding.id.to_string()))
    }

    /// How many findings nobody has taken note of; 1000 stands for that many or more.
    ///
    /// # Errors
    /// The database fails.
    pub async fn open_findings(&self) -> Result<i64, StoreError> {
        let row = sqlx::query(
            "SELECT COUNT(*) FROM (SELECT 1 FROM findings WHERE acknowledged_ns IS NULL LIMIT 1000) AS found",
        )
        .fetch_one(self.pool())
        .await?;
        Ok(row.try_get(0)?)
    }
}

impl Write<'_> {
    /// Notes that someone has taken note of a finding; whether there was one nobody had.
    ///
    /// # Errors
    /// The database fails.
    pub async fn acknowledge_finding(&mut self, id: i64, by: &str) -> Result<bool, StoreError> {
        let done = sqlx::query(
            "UPDATE findings SET acknowledged_by = $2, acknowledged_ns = $3 \
             WHERE id = $1 AND acknowledged_ns IS NULL",
        )
        .bind(id)
        .bind(by)
        .bind(now_ns())
        .execute(self.on())
        .await?;
        Ok(done.rows_affected() == 1)
    }
}
