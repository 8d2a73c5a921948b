//! Whether a collector was moved to another database. What is left behind must not go on: there would be two
//! ledgers under one key, and agents would be told that something is kept which the new collectors never get.

use super::{Dialect, Store, StoreError, Write};

/// The fact that says where it was moved to. `copy.rs` does not count facts of this name, and the target forgets
/// them.
const MOVED: &str = "migration of all";

impl Store {
    /// Where the collector was moved to; none when it works here.
    ///
    /// # Errors
    /// The database fails.
    pub async fn moved_to(&self) -> Result<Option<String>, StoreError> {
        match self.dialect() {
            Dialect::Sqlite => self.fact(MOVED).await,
            Dialect::Postgres => Ok(None),
        }
    }

    /// Fails when the collector was moved.
    ///
    /// # Errors
    /// It was, or the database fails.
    pub async fn not_moved(&self) -> Result<(), StoreError> {
        self.moved_to().await?.map_or(Ok(()), |place| Err(moved(&place)))
    }
}

fn moved(place: &str) -> StoreError {
    StoreError::Unfit(format!(
        "this collector was moved to {place}, and its ledger goes on there: two that go on under one key would \
         contradict one another. Start the collectors that it was moved to. Only if none of them was ever started, \
         `interlock-collector migrate --undo` has this one go on"
    ))
}

impl Write<'_> {
    /// Notes where the collector was moved to.
    ///
    /// # Errors
    /// The database fails.
    pub async fn set_moved(&mut self, place: &str) -> Result<(), StoreError> {
        self.set_fact(MOVED, place).await
    }

    /// Has it go on here; whether it was moved.
    ///
    /// # Errors
    /// The database fails.
    pub async fn undo_moved(&mut self) -> Result<bool, StoreError> {
        let done = sqlx::query("DELETE FROM facts WHERE name = $1").bind(MOVED).execute(self.on()).await?;
        Ok(done.rows_affected() > 0)
    }

    /// Fails when the collector was moved.
    ///
    /// # Errors
    /// It was, or the database fails.
    pub(super) async fn not_moved(&mut self) -> Result<(), StoreError> {
        use sqlx::Row as _;
        if self.dialect == Dialect::Postgres {
            return Ok(());
        }
        let row = sqlx::query("SELECT value FROM facts WHERE name = $1")
            .bind(MOVED)
            .fetch_optional(self.on())
            .await?;
        row.map_or(Ok(()), |row| Err(moved(&row.try_get::<String, _>(0)?)))
    }
}

#[cfg(test)]
mod tests {
    use interlock_recording::ledger::proto::LedgerStarted;
    use interlock_recording::ledger::proto::entry::Body;

    use super::*;

    #[tokio::test]
    async fn the_ledger_of_a_collector_that_was_moved_does_not_go_on() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open_file(&directory.path().join("db")).await.unwrap();
        let started = LedgerStarted { origin: "collector.test".into(), public_key: vec![7; 32] };
        let entry = || vec![Body::LedgerStarted(started.clone())];
        let mut write = store.write().await.unwrap();
        write.append(entry()).await.unwrap();
        write.set_moved("postgres://db/interlock").await.unwrap();
        write.commit().await.unwrap();
        let error = store.not_moved().await.unwrap_err().to_string();
        assert!(error.contains("postgres://db/interlock") && error.contains("--undo"), "{error}");
        let mut write = store.write().await.unwrap();
        assert!(write.append(entry()).await.unwrap_err().to_string().contains("was moved to"));
        drop(write);
        let mut write = store.write().await.unwrap();
        assert!(write.undo_moved().await.unwrap());
        assert!(!write.undo_moved().await.unwrap());
        write.append(entry()).await.unwrap();
        write.commit().await.unwrap();
        assert_eq!(store.moved_to().await.unwrap(), None);
    }
}
