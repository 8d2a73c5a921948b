//! What was done in the collector, and by whom.

use serde::Serialize;
use sqlx::Row as _;

use super::page::{Sql, rfc3339};
use super::{Page, Store, StoreError};

/// Something that was done.
#[derive(Debug, Clone, Serialize)]
pub struct AuditEntry {
    /// Its number.
    pub id: i64,
    /// When.
    #[serde(rename = "at", serialize_with = "rfc3339")]
    pub at_ns: i64,
    /// By whom: an account, `account via token label`, or what else acted.
    pub actor: String,
    /// What, such as `session.end`.
    pub action: String,
    /// On what.
    pub target: String,
    /// More about it. Never a secret.
    pub detail: String,
    /// From which address.
    pub address: String,
}

/// Which entries to list.
#[derive(Debug, Clone, Default)]
pub struct AuditFilter {
    /// By this actor.
    pub actor: Option<String>,
    /// This action.
    pub action: Option<String>,
    /// Not before.
    pub since_ns: Option<i64>,
    /// Before.
    pub until_ns: Option<i64>,
}

impl Store {
    /// Entries before `cursor`, the newest first.
    ///
    /// # Errors
    /// The database fails.
    pub async fn audit(
        &self,
        filter: &AuditFilter,
        cursor: Option<i64>,
        limit: usize,
    ) -> Result<Page<AuditEntry>, StoreError> {
        let mut sql = Sql::new("SELECT id, at_ns, actor, action, target, detail, address FROM audit");
        for (column, value) in [("actor = ", &filter.actor), ("action = ", &filter.action)] {
            if let Some(value) = value {
                sql.and(column).text(value);
            }
        }
        for (column, value) in
            [("at_ns >= ", filter.since_ns), ("at_ns < ", filter.until_ns), ("id < ", cursor)]
        {
            if let Some(value) = value {
                sql.and(column).number(value);
            }
        }
        sql.push(" ORDER BY id DESC LIMIT ").number(limit as i64 + 1);
        let rows = sql.all(self.searchers()).await?;
        let items: Result<Vec<_>, StoreError> = rows
            .iter()
            .map(|row| {
                Ok(AuditEntry {
                    id: row.try_get(0)?,
                    at_ns: row.try_get(1)?,
                    actor: row.try_get(2)?,
                    action: row.try_get(3)?,
                    target: row.try_get(4)?,
                    detail: row.try_get(5)?,
                    address: row.try_get(6)?,
                })
            })
            .collect();
        Ok(Page::cut(items?, limit, |entry| entry.id.to_string()))
    }
}
