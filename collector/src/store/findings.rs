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
        let rows = sql.all(self.searchers()).await?;
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

/// Findings of one kind about one host that nobody has acknowledged; a host that makes more of them tells nothing
/// new.
const MOST_OF_A_KIND: i64 = 100;

impl Write<'_> {
    /// Writes down something that is wrong with what a host records, once; of very many, the first ones.
    ///
    /// # Errors
    /// The database fails.
    pub async fn note(&mut self, host: &str, kind: &str, detail: &str) -> Result<(), StoreError> {
        let row = sqlx::query(
            "SELECT COUNT(*) FROM (SELECT 1 FROM findings WHERE host = $1 AND kind = $2 \
             AND acknowledged_ns IS NULL LIMIT $3) AS found",
        )
        .bind(host)
        .bind(kind)
        .bind(MOST_OF_A_KIND)
        .fetch_one(self.on())
        .await?;
        let open: i64 = row.try_get(0)?;
        if open >= MOST_OF_A_KIND || self.is_found(host, kind, detail).await? {
            return Ok(());
        }
        tracing::error!(host, kind, "{detail}");
        if open + 1 == MOST_OF_A_KIND {
            let more = "more of these are not listed one by one until some have been acknowledged";
            return self.add_finding(host, kind, &format!("{detail}; {more}"), None).await;
        }
        self.add_finding(host, kind, detail, None).await
    }

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
