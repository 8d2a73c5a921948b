//! What collectors that share a database tell one another: who does what only one is to do, and what is to be
//! told agents that are connected to another.

use std::time::Duration;

use sqlx::Row as _;

use super::{Dialect, Store, StoreError, Write, plain};

/// Now by the database's clock: those of the collectors may be apart.
const NOW: &str = "CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000000000 AS BIGINT)";

/// Orders older than this are forgotten.
const OLD: Duration = Duration::from_secs(600);

/// Something to be told an agent.
#[derive(Debug, Clone)]
pub struct Order {
    /// Its number.
    pub id: i64,
    /// The host.
    pub host: String,
    /// The session that is to be ended.
    pub session: [u8; 16],
    /// Why, in words for the client.
    pub reason: String,
}

fn ns(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}

impl Store {
    /// Takes a lease for `holder`, or goes on with it; whether it is `holder`'s now, for `time`.
    ///
    /// What is done under a lease must be harmless when another one does it too: a process that was stopped does
    /// not know for how long.
    ///
    /// # Errors
    /// The database fails.
    pub async fn lease(&self, name: &str, holder: &str, time: Duration) -> Result<bool, StoreError> {
        let now = match self.dialect {
            Dialect::Sqlite => super::now_ns().to_string(),
            Dialect::Postgres => NOW.to_owned(),
        };
        let text = format!(
            "INSERT INTO leases (name, holder, until_ns) VALUES ($1, $2, {now} + $3) ON CONFLICT (name) DO UPDATE \
             SET holder = excluded.holder, until_ns = excluded.until_ns \
             WHERE leases.holder = excluded.holder OR leases.until_ns < {now}"
        );
        let mut write = self.write().await?;
        let taken = sqlx::query(sqlx::AssertSqlSafe(text))
            .bind(name)
            .bind(holder)
            .bind(ns(time))
            .execute(write.on())
            .await?;
        write.commit().await?;
        Ok(taken.rows_affected() == 1)
    }

    /// Gives up what another process of this collector held, where nobody else can be at work on the database.
    ///
    /// # Errors
    /// The database fails.
    pub async fn release_own(&self) -> Result<(), StoreError> {
        if self.is_shared() {
            return Ok(());
        }
        let mut write = self.write().await?;
        sqlx::query("DELETE FROM leases").execute(write.on()).await?;
        write.commit().await
    }

    /// Gives a lease back.
    ///
    /// # Errors
    /// The database fails.
    pub async fn release(&self, name: &str, holder: &str) -> Result<(), StoreError> {
        let mut write = self.write().await?;
        sqlx::query("DELETE FROM leases WHERE name = $1 AND holder = $2")
            .bind(name)
            .bind(holder)
            .execute(write.on())
            .await?;
        write.commit().await
    }

    /// Leaves an order for whichever collector the agent is connected to; gives its number.
    ///
    /// # Errors
    /// The database fails.
    pub async fn order(&self, host: &str, session: [u8; 16], reason: &str) -> Result<i64, StoreError> {
        let mut write = self.write().await?;
        let now = super::now_ns();
        sqlx::query("DELETE FROM orders WHERE created_ns < $1")
            .bind(now.saturating_sub(ns(OLD)))
            .execute(write.on())
            .await?;
        let row = sqlx::query(
            "INSERT INTO orders (host, session, reason, created_ns) VALUES ($1, $2, $3, $4) RETURNING id",
        )
        .bind(host)
        .bind(session.to_vec())
        .bind(plain(reason).as_ref())
        .bind(now)
        .fetch_one(write.on())
        .await?;
        let id = row.try_get(0)?;
        write.commit().await?;
        Ok(id)
    }

    /// The orders that nobody has carried out, at most 1000.
    ///
    /// # Errors
    /// The database fails.
    pub async fn orders(&self) -> Result<Vec<Order>, StoreError> {
        let rows = sqlx::query(
            "SELECT id, host, session, reason FROM orders WHERE told_ns IS NULL ORDER BY id LIMIT 1000",
        )
        .fetch_all(self.pool())
        .await?;
        rows.iter()
            .map(|row| {
                Ok(Order {
                    id: row.try_get(0)?,
                    host: row.try_get(1)?,
                    session: row
                        .try_get::<Vec<u8>, _>(2)?
                        .try_into()
                        .map_err(|_| StoreError::Damaged("a session's id that is none"))?,
                    reason: row.try_get(3)?,
                })
            })
            .collect()
    }

    /// Takes an order back that nobody has carried out; whether there was one. When there is none, it was.
    ///
    /// # Errors
    /// The database fails.
    pub async fn withdraw(&self, id: i64) -> Result<bool, StoreError> {
        let mut write = self.write().await?;
        let gone = sqlx::query("DELETE FROM orders WHERE id = $1 AND told_ns IS NULL")
            .bind(id)
            .execute(write.on())
            .await?;
        write.commit().await?;
        Ok(gone.rows_affected() == 1)
    }

    /// Whether an order was carried out.
    ///
    /// # Errors
    /// The database fails.
    pub async fn was_told(&self, id: i64) -> Result<bool, StoreError> {
        let row = sqlx::query("SELECT 1 FROM orders WHERE id = $1 AND told_ns IS NOT NULL")
            .bind(id)
            .fetch_optional(self.pool())
            .await?;
        Ok(row.is_some())
    }
}

impl Write<'_> {
    /// Claims an order to carry it out; whether it still stood.
    ///
    /// # Errors
    /// The database fails.
    pub async fn claim_order(&mut self, id: i64) -> Result<bool, StoreError> {
        let claimed = sqlx::query("UPDATE orders SET told_ns = $2 WHERE id = $1 AND told_ns IS NULL")
            .bind(id)
            .bind(super::now_ns())
            .execute(self.on())
            .await?;
        Ok(claimed.rows_affected() == 1)
    }
}
