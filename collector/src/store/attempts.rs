//! How often someone may guess.

use super::{Store, StoreError, now_ns};

impl Store {
    /// Counts an attempt under `key`; whether it may be made. After `limit` attempts no more are taken
    /// until `window_ns` have passed since the first. Counted before the guess is looked at, so that many
    /// at once are no way around it.
    ///
    /// # Errors
    /// The database fails.
    pub async fn attempt(&self, key: &str, limit: i64, window_ns: i64) -> Result<bool, StoreError> {
        let now = now_ns();
        let mut write = self.write().await?;
        sqlx::query("DELETE FROM attempts WHERE since_ns < $1")
            .bind(now.saturating_sub(window_ns))
            .execute(write.on())
            .await?;
        let counted = sqlx::query("UPDATE attempts SET count = count + 1 WHERE key = $1 AND count < $2")
            .bind(key)
            .bind(limit)
            .execute(write.on())
            .await?;
        let mut may = counted.rows_affected() == 1;
        if !may {
            let first = sqlx::query(
                "INSERT INTO attempts (key, count, since_ns) VALUES ($1, 1, $2) ON CONFLICT DO NOTHING",
            )
            .bind(key)
            .bind(now)
            .execute(write.on())
            .await?;
            may = first.rows_affected() == 1;
        }
        write.commit().await?;
        Ok(may)
    }

    /// Takes back one attempt under `key`: it was right.
    ///
    /// # Errors
    /// The database fails.
    pub async fn take_back_attempt(&self, key: &str) -> Result<(), StoreError> {
        let mut write = self.write().await?;
        sqlx::query("UPDATE attempts SET count = count - 1 WHERE key = $1 AND count > 0")
            .bind(key)
            .execute(write.on())
            .await?;
        write.commit().await
    }

    /// Forgets the attempts under `key`: the last one was right.
    ///
    /// # Errors
    /// The database fails.
    pub async fn forget_attempts(&self, key: &str) -> Result<(), StoreError> {
        let mut write = self.write().await?;
        sqlx::query("DELETE FROM attempts WHERE key = $1").bind(key).execute(write.on()).await?;
        write.commit().await
    }
}
