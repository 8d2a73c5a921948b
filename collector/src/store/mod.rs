//! What the collector knows, in one database. Today that is a file of SQLite; the SQL is written so that
//! PostgreSQL can take its place, which is not built yet: nothing opens one, and nothing has been tried on one.
//!
//! All SQL stands in this folder, one text for both databases: parameters are `$1`, and the few places
//! where they differ ask [`Dialect`].

mod agents;
mod api_tokens;
mod attempts;
mod audit;
mod commands;
mod deleted;
mod findings;
mod holds;
mod index;
mod journal;
mod ledger;
mod page;
mod recording;
mod retention;
mod rules;
mod schema;
mod sessions;
mod sign_ins;
mod tokens;
mod users;

use std::path::Path;
use std::time::{Duration, SystemTime};

use interlock_recording::chain::Hash;
use sqlx::any::AnyPoolOptions;
use sqlx::{AnyConnection, AnyPool, AssertSqlSafe, Executor as _, Row as _};
use tokio::sync::{Mutex, MutexGuard};

pub use agents::{Agent, Enrolment, HealthReport};
pub use api_tokens::{ApiToken, NewApiToken};
pub use audit::{AuditEntry, AuditFilter};
pub use commands::{CommandFilter, CommandItem};
pub use deleted::DeletedSegments;
pub use findings::Finding;
pub use holds::{Hold, NewHold};
pub use index::Batch;
pub(crate) use journal::lease_of;
pub use journal::{JournalKind, JournalRow, OutputState, Progress, ToldCommand, ToldHostEvent};
pub use ledger::{LedgerStoreError, StoredEntry};
pub use page::Page;
pub use recording::{HeadWent, KeptSegment, LiveRun, SessionPlace, TakenSegment, Totals};
pub use retention::Expired;
pub use rules::{HostEvent, RuleCount};
pub use sessions::{SessionFilter, SessionItem};
pub use sign_ins::{NewSignIn, SignIn};
pub use tokens::{EnrolmentToken, TokenError};
pub use users::{Credentials, User};

/// The database failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A statement failed.
    #[error("the database: {0}")]
    Database(#[from] sqlx::Error),
    /// A number in it is no number that it can have.
    #[error("the database holds {0}, which cannot be: it was altered, or is another program's")]
    Damaged(&'static str),
    /// The database is newer than this program.
    #[error(
        "the database has schema {found}, this version knows {known}: run the newer version of interlock-collector"
    )]
    Newer {
        /// Its schema.
        found: usize,
        /// The newest that is known.
        known: usize,
    },
}

/// The two databases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// A file of the collector's own.
    Sqlite,
    /// A server. Not built yet.
    Postgres,
}

/// The database.
#[derive(Debug)]
pub struct Store {
    /// For reading: however many search, those who write have connections of their own.
    pool: AnyPool,
    writers: AnyPool,
    dialect: Dialect,
    /// SQLite has one writer at a time; waiting here is fairer than its busy handler.
    writer: Mutex<()>,
}

/// A transaction that writes.
pub struct Write<'s> {
    dialect: Dialect,
    transaction: sqlx::Transaction<'static, sqlx::Any>,
    _writer: Option<MutexGuard<'s, ()>>,
}

fn number(value: i64) -> Result<u64, StoreError> {
    u64::try_from(value).map_err(|_| StoreError::Damaged("a negative number"))
}

fn hash(bytes: Vec<u8>) -> Result<Hash, StoreError> {
    bytes.try_into().map_err(|_| StoreError::Damaged("a hash that is none"))
}

/// Now, in nanoseconds since the Unix epoch.
pub fn now_ns() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

impl Store {
    /// Opens the file `path`, or makes it (mode 0600).
    ///
    /// # Errors
    /// It cannot be opened, or a newer version made it.
    pub async fn open_file(path: &Path) -> Result<Self, StoreError> {
        let url = format!("sqlite://{}?mode=rwc", path.display());
        // A power cut must not take back what an agent was told is kept: FULL.
        let store = Self::connect(&url, Dialect::Sqlite, 8).await?;
        Ok(store)
    }

    async fn connect(url: &str, dialect: Dialect, connections: u32) -> Result<Self, StoreError> {
        sqlx::any::install_default_drivers();
        let (pool, writers) = (Self::pool_of(url, dialect, connections), Self::pool_of(url, dialect, 2));
        let store = Self { pool: pool.await?, writers: writers.await?, dialect, writer: Mutex::new(()) };
        store.migrate().await?;
        Ok(store)
    }

    async fn pool_of(url: &str, dialect: Dialect, connections: u32) -> Result<AnyPool, StoreError> {
        let pool = AnyPoolOptions::new()
            .max_connections(connections)
            .acquire_timeout(Duration::from_secs(10))
            .after_connect(move |connection, _| {
                Box::pin(async move {
                    if dialect == Dialect::Sqlite {
                        connection
                            .execute(
                                "PRAGMA busy_timeout = 30000; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; \
                                 PRAGMA secure_delete = FAST; PRAGMA cache_size = -32768; PRAGMA temp_store = MEMORY; PRAGMA mmap_size = 268435456;",
                            )
                            .await?;
                    }
                    Ok(())
                })
            })
            .connect(url)
            .await?;
        Ok(pool)
    }

    async fn migrate(&self) -> Result<(), StoreError> {
        let _writer = self.writer.lock().await;
        let mut transaction = self.writers.begin().await?;
        transaction.execute("CREATE TABLE IF NOT EXISTS schema_steps (step BIGINT PRIMARY KEY)").await?;
        let row = sqlx::query("SELECT COUNT(*) FROM schema_steps").fetch_one(&mut *transaction).await?;
        let done = usize::try_from(row.try_get::<i64, _>(0)?).map_err(|_| StoreError::Damaged("a schema"))?;
        let steps =
            schema::STEPS.get(done..).ok_or(StoreError::Newer { found: done, known: schema::STEPS.len() })?;
        for (number, step) in (done..).zip(steps) {
            let (blob, serial) = match self.dialect {
                Dialect::Sqlite => ("BLOB", "INTEGER PRIMARY KEY"),
                Dialect::Postgres => ("BYTEA", "BIGSERIAL PRIMARY KEY"),
            };
            let text = step.replace("{blob}", blob).replace("{serial}", serial);
            transaction.execute(sqlx::raw_sql(AssertSqlSafe(text))).await?;
            sqlx::query("INSERT INTO schema_steps (step) VALUES ($1)")
                .bind(number as i64)
                .execute(&mut *transaction)
                .await?;
        }
        if self.dialect == Dialect::Sqlite {
            transaction.execute(sqlx::raw_sql(schema::SQLITE_SEARCH)).await?;
        }
        transaction.commit().await?;
        Ok(())
    }

    /// The connections, for reading.
    pub(crate) fn pool(&self) -> &AnyPool {
        &self.pool
    }

    /// Which database it is.
    pub fn dialect(&self) -> Dialect {
        self.dialect
    }

    /// Begins to write. Everything written is there after [`Write::commit`], durably, or nothing of it.
    ///
    /// # Errors
    /// The database fails.
    pub async fn write(&self) -> Result<Write<'_>, StoreError> {
        let writer = match self.dialect {
            Dialect::Sqlite => Some(self.writer.lock().await),
            Dialect::Postgres => None,
        };
        let mut transaction = self.writers.begin().await?;
        if self.dialect == Dialect::Sqlite {
            // Takes the write lock at once: a transaction that read first could not be promoted.
            sqlx::query("UPDATE facts SET value = value WHERE name = ''").execute(&mut *transaction).await?;
        }
        Ok(Write { dialect: self.dialect, transaction, _writer: writer })
    }
}

impl Write<'_> {
    /// Makes all of it durable.
    ///
    /// # Errors
    /// The database fails; then nothing was written.
    pub async fn commit(self) -> Result<(), StoreError> {
        Ok(self.transaction.commit().await?)
    }

    fn on(&mut self) -> &mut AnyConnection {
        &mut self.transaction
    }

    /// Writes down who did what.
    ///
    /// # Errors
    /// The database fails.
    pub async fn audit(
        &mut self,
        actor: &str,
        action: &'static str,
        target: &str,
        detail: &str,
        address: &str,
    ) -> Result<(), StoreError> {
        let row = sqlx::query(
            "INSERT INTO audit (at_ns, actor, action, target, detail, address) VALUES ($1, $2, $3, $4, $5, $6) \
             RETURNING id",
        )
        .bind(now_ns())
        .bind(actor)
        .bind(action)
        .bind(target)
        .bind(detail)
        .bind(address)
        .fetch_one(self.on())
        .await?;
        self.journal_number(JournalKind::Audit, row.try_get(0)?).await
    }
}

impl Store {
    /// A fact by its name.
    ///
    /// # Errors
    /// The database fails.
    pub async fn fact(&self, name: &str) -> Result<Option<String>, StoreError> {
        let row = sqlx::query("SELECT value FROM facts WHERE name = $1")
            .bind(name)
            .fetch_optional(self.pool())
            .await?;
        Ok(row.map(|row| row.try_get(0)).transpose()?)
    }
}

impl Write<'_> {
    /// Sets a fact.
    ///
    /// # Errors
    /// The database fails.
    pub async fn set_fact(&mut self, name: &str, value: &str) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO facts (name, value) VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET value = $2",
        )
        .bind(name)
        .bind(value)
        .execute(self.on())
        .await?;
        Ok(())
    }

    /// Sets a fact that has not been set.
    ///
    /// # Errors
    /// The database fails.
    pub async fn set_fact_once(&mut self, name: &str, value: &str) -> Result<(), StoreError> {
        sqlx::query("INSERT INTO facts (name, value) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING")
            .bind(name)
            .bind(value)
            .execute(self.on())
            .await?;
        Ok(())
    }
}
