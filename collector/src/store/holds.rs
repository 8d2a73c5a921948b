//! Legal holds: recordings that must not be deleted, whatever retention says.

use serde::{Serialize, Serializer};
use sqlx::Row as _;

use super::page::{rfc3339, rfc3339_or_null};
use super::{Store, StoreError, Write, now_ns};

/// A legal hold.
#[derive(Debug, Clone, Serialize)]
pub struct Hold {
    /// Its number.
    pub id: i64,
    /// What it is for.
    pub label: String,
    /// The host's id; empty for every host.
    pub host: String,
    /// It holds what was recorded from then on (0: from the beginning)
    #[serde(rename = "from", serialize_with = "bound")]
    pub from_ns: i64,
    /// until then (the greatest number: until it is released).
    #[serde(rename = "until", serialize_with = "bound")]
    pub until_ns: i64,
    /// Who made it.
    pub created_by: String,
    /// When.
    #[serde(rename = "created", serialize_with = "rfc3339")]
    pub created_ns: i64,
    /// Who ended it.
    pub released_by: Option<String>,
    /// When.
    #[serde(rename = "released", serialize_with = "rfc3339_or_null")]
    pub released_ns: Option<i64>,
}

/// Writes a time as RFC 3339; null where the hold is open.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
fn bound<S: Serializer>(ns: &i64, to: S) -> Result<S::Ok, S::Error> {
    rfc3339_or_null(&Some(*ns).filter(|ns| !matches!(*ns, 0 | i64::MAX)), to)
}

/// A legal hold to be made.
#[derive(Debug, Clone)]
pub struct NewHold<'h> {
    /// What it is for.
    pub label: &'h str,
    /// The host's id; empty for every host.
    pub host: &'h str,
    /// From when.
    pub from_ns: i64,
    /// Until when.
    pub until_ns: i64,
    /// Who makes it.
    pub by: &'h str,
}

impl Store {
    /// The newest 1000 holds, those that count first.
    ///
    /// # Errors
    /// The database fails.
    pub async fn holds(&self) -> Result<Vec<Hold>, StoreError> {
        let rows = sqlx::query(
            "SELECT id, label, host, from_ns, until_ns, created_by, created_ns, released_by, released_ns \
             FROM legal_holds ORDER BY CASE WHEN released_ns IS NULL THEN 0 ELSE 1 END, id DESC LIMIT 1000",
        )
        .fetch_all(self.pool())
        .await?;
        rows.iter()
            .map(|row| {
                Ok(Hold {
                    id: row.try_get(0)?,
                    label: row.try_get(1)?,
                    host: row.try_get(2)?,
                    from_ns: row.try_get(3)?,
                    until_ns: row.try_get(4)?,
                    created_by: row.try_get(5)?,
                    created_ns: row.try_get(6)?,
                    released_by: row.try_get(7)?,
                    released_ns: row.try_get(8)?,
                })
            })
            .collect()
    }
}

impl Write<'_> {
    /// Makes a hold; gives its number.
    ///
    /// # Errors
    /// The database fails.
    pub async fn add_hold(&mut self, hold: &NewHold<'_>) -> Result<i64, StoreError> {
        let row = sqlx::query(
            "INSERT INTO legal_holds (label, host, from_ns, until_ns, created_by, created_ns) \
             VALUES ($1, $2, $3, $4, $5, $6) RETURNING id",
        )
        .bind(hold.label)
        .bind(hold.host)
        .bind(hold.from_ns)
        .bind(hold.until_ns)
        .bind(hold.by)
        .bind(now_ns())
        .fetch_one(self.on())
        .await?;
        Ok(row.try_get(0)?)
    }

    /// Ends a hold; gives what it is called, `None` when there is none of this number that counts.
    ///
    /// # Errors
    /// The database fails.
    pub async fn release_hold(&mut self, id: i64, by: &str) -> Result<Option<String>, StoreError> {
        let row = sqlx::query(
            "UPDATE legal_holds SET released_by = $2, released_ns = $3 WHERE id = $1 AND released_ns IS NULL \
             RETURNING label",
        )
        .bind(id)
        .bind(by)
        .bind(now_ns())
        .fetch_optional(self.on())
        .await?;
        Ok(row.map(|row| row.try_get(0)).transpose()?)
    }
}
