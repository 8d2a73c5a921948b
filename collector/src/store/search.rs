//! Searches: statements whose text depends on what is asked for, and which may be asked for much. Each has so much time
//! and is really stopped then, so that a few people's searches do not take the collector from the others.

use std::str::FromStr as _;
use std::time::{Duration, Instant};

use sqlx::any::AnyRow;
use sqlx::sqlite::{SqliteConnectOptions, SqlitePoolOptions};
use sqlx::{AnyPool, AssertSqlSafe, Executor as _, SqlitePool};

use super::StoreError;
use super::page::{Sql, Value};

/// How long a search may take.
pub(super) const LIMIT: Duration = Duration::from_secs(20);
/// The same for a connection to PostgreSQL, and memory for which rows have a word: where it does not do, whole pages
/// of rows are looked at, word by word.
pub(super) const POSTGRES_LIMIT: &str =
    "SELECT set_config('statement_timeout', '20s', false), set_config('work_mem', '64MB', false)";
/// Steps of SQLite's machine between two looks at the time: some tens of microseconds.
const STEPS: i32 = 10_000;

/// Connections for searching.
#[derive(Debug)]
pub(crate) enum Searchers {
    /// SQLite is asked to look at the time now and then.
    Sqlite(SqlitePool),
    /// PostgreSQL does by itself (`statement_timeout`).
    Postgres(AnyPool),
}

impl Searchers {
    /// Those of a file of SQLite; `settings` is run on each.
    pub(super) async fn of_file(
        url: &str,
        settings: &'static str,
        connections: u32,
    ) -> Result<Self, StoreError> {
        let options = SqliteConnectOptions::from_str(url)?;
        let pool = SqlitePoolOptions::new()
            .max_connections(connections)
            .acquire_timeout(LIMIT)
            .after_connect(move |connection, _| {
                Box::pin(async move {
                    connection.execute(settings).await?;
                    Ok(())
                })
            })
            .connect_with(options)
            .await?;
        Ok(Self::Sqlite(pool))
    }

    /// Runs a search for at most `limit`.
    pub(super) async fn all(&self, sql: &Sql, limit: Duration) -> Result<Vec<AnyRow>, StoreError> {
        let text = AssertSqlSafe(sql.statement().to_owned());
        let rows = match self {
            Self::Postgres(pool) => {
                let query = sql.values().iter().fold(sqlx::query(text), |query, value| match value {
                    Value::Text(text) => query.bind(text.clone()),
                    Value::Number(number) => query.bind(*number),
                });
                query.fetch_all(pool).await
            }
            Self::Sqlite(pool) => {
                let mut connection = pool.acquire().await?;
                let until = Instant::now() + limit;
                // It counts for this statement: the next one sets its own, and one that nobody waits for any more
                // ends by it too.
                connection.lock_handle().await?.set_progress_handler(STEPS, move || Instant::now() < until);
                let query = sql.values().iter().fold(sqlx::query(text), |query, value| match value {
                    Value::Text(text) => query.bind(text.clone()),
                    Value::Number(number) => query.bind(*number),
                });
                let rows = query.fetch_all(&mut *connection).await;
                rows.and_then(|rows| rows.iter().map(AnyRow::try_from).collect())
            }
        };
        rows.map_err(|error| if was_stopped(&error) { StoreError::TooLong(limit) } else { error.into() })
    }
}

/// The database stopped the statement because its time was over.
fn was_stopped(error: &sqlx::Error) -> bool {
    match error {
        // SQLITE_INTERRUPT; query_canceled.
        sqlx::Error::Database(error) => error.code().is_some_and(|code| code == "9" || code == "57014"),
        // All connections search, for all of their time.
        sqlx::Error::PoolTimedOut => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::super::Store;
    use super::*;

    /// A statement that takes hours.
    fn endless() -> Sql {
        Sql::new(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000000000000) SELECT MAX(i) FROM n",
        )
    }

    #[tokio::test]
    async fn a_search_is_stopped_and_gives_its_connection_back() {
        let directory = tempfile::tempdir().expect("a directory");
        let store = Store::open_file(&directory.path().join("c.db")).await.expect("opens");
        // More of them than there are connections: each must really end.
        for _ in 0..20 {
            let stopped = store.searchers().all(&endless(), Duration::from_millis(20)).await;
            assert!(matches!(stopped.err(), Some(StoreError::TooLong(_))), "it was not stopped");
        }
        let rows = Sql::new("SELECT 1").all(store.searchers()).await.expect("searches");
        assert_eq!(rows.len(), 1);
    }

    #[tokio::test]
    async fn a_search_that_nobody_waits_for_ends_too() {
        let directory = tempfile::tempdir().expect("a directory");
        let store = Store::open_file(&directory.path().join("c.db")).await.expect("opens");
        for _ in 0..20 {
            let search = endless();
            let all = store.searchers().all(&search, Duration::from_millis(200));
            let left = tokio::time::timeout(Duration::from_millis(5), all).await;
            assert!(left.is_err(), "nobody waits for it");
        }
        Sql::new("SELECT 1").all(store.searchers()).await.expect("connections are free again");
    }
}
