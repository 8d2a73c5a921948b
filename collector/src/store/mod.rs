//! What the collector knows, in one database: a file of SQLite, or PostgreSQL, which several collectors can
//! share.
//!
//! All SQL stands in this folder, one text for both databases: parameters are `$1`, and the few places
//! where they differ ask [`Dialect`].
//!
//! On PostgreSQL, transactions take locks in this order, so that none waits for another in a circle: agents,
//! then the ledger, then everything else.

mod addresses;
mod agents;
mod api_tokens;
mod approvals;
mod asks;
mod attempts;
mod audit;
mod batch;
mod bound;
mod clock;
mod commands;
mod copy;
mod deleted;
mod findings;
mod glass;
mod group;
mod held;
mod holds;
mod identities;
mod index;
mod journal;
mod ledger;
mod moved;
mod news;
mod outputs;
mod page;
mod people;
mod policies;
mod postgres;
mod recording;
mod retention;
mod rules;
mod schema;
mod search;
mod sessions;
mod shared;
mod sign_ins;
mod tokens;
mod told;
mod users;
mod votes;
mod words;

use std::borrow::Cow;
use std::path::Path;
use std::time::{Duration, SystemTime};

use interlock_recording::chain::Hash;
use sqlx::any::AnyPoolOptions;
use sqlx::{AnyConnection, AnyPool, AssertSqlSafe, Executor as _, Row as _};
use tokio::sync::{Mutex, MutexGuard};

pub use agents::{Agent, Enrolment, HealthReport};
pub use api_tokens::{ApiToken, NewApiToken, TokenOwner};
pub use approvals::{Approval, ApprovalFilter, ApprovalNews, WholeApproval, approval_id};
pub use asks::{ChatLink, ChatLinkChange, Linked, Person, SentMessage};
pub use audit::{AuditEntry, AuditFilter};
pub use batch::Batch;
pub use bound::{BoundToken, FirstHost};
pub use clock::Clock;
pub use commands::{CommandFilter, CommandItem};
pub use copy::Table;
pub use deleted::DeletedSegments;
pub use findings::Finding;
pub use group::{NotTaken, Standing, Take, What};
pub(crate) use held::whose;
pub use held::{HeldBy, HeldUsage, KEPT, is_request};
pub use holds::{Hold, NewHold};
pub use identities::KnownIdentity;
pub use journal::{JournalKind, JournalRow};
pub use ledger::{LedgerStoreError, StoredEntry};
pub use news::{ApprovalChange, ToldBy};
pub(crate) use outputs::lease_of;
pub use outputs::{OutputState, Progress};
pub use page::Page;
pub use people::OwnerOf;
pub use policies::{
    Assignment, Former, IssuedOrder, Labels, PolicyStanding, PolicyVersion, VersionName, named,
};
pub use postgres::Server;
pub(crate) use postgres::{check_url, is_loopback};
pub use recording::{HeadWent, KeptSegment, LiveRun, SessionPlace, TakenSegment, Totals};
pub use retention::Expired;
pub use rules::{HostEvent, RuleCount};
use search::Searchers;
pub use sessions::{SessionFilter, SessionItem};
pub use shared::Order;
pub use sign_ins::{NewSignIn, SignIn};
pub use tokens::{EnrolmentToken, TokenError};
pub use told::{ToldCommand, ToldHostEvent};
pub use users::{Credentials, User};
pub use votes::{NewVote, Vote};

/// The database failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A statement failed.
    #[error("the database: {0}")]
    Database(#[from] sqlx::Error),
    /// A number in it is no number that it can have.
    #[error("the database holds {0}, which cannot be: it was altered, or is another program's")]
    Damaged(&'static str),
    /// The database is not there, or is not one that recordings can be kept in.
    #[error("{0}")]
    Unfit(String),
    /// A search took too long and was stopped.
    #[error("the search was stopped after {} seconds", .0.as_secs())]
    TooLong(Duration),
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
    /// A server, which other collectors may use too.
    Postgres,
}

/// What each connection to SQLite is told. A power cut must not take back what an agent was told is kept: FULL.
const SQLITE_SETTINGS: &str = "PRAGMA busy_timeout = 30000; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; \
     PRAGMA secure_delete = FAST; PRAGMA cache_size = -32768; PRAGMA temp_store = MEMORY; \
     PRAGMA mmap_size = 268435456;";

/// The database.
#[derive(Debug)]
pub struct Store {
    /// For reading: however many search, those who write have connections of their own.
    pool: AnyPool,
    /// For searching, each within its time.
    searchers: Searchers,
    writers: AnyPool,
    dialect: Dialect,
    /// SQLite has one writer at a time; waiting here is fairer than its busy handler.
    writer: Mutex<()>,
    /// What agents shipped and is to be written.
    group: group::Group,
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

/// A text without zeros, which PostgreSQL does not take.
fn plain(text: &str) -> Cow<'_, str> {
    if text.contains('\0') { Cow::Owned(text.replace('\0', "\u{fffd}")) } else { Cow::Borrowed(text) }
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
        let store = Self::connect(&url, Dialect::Sqlite, 8).await?;
        Ok(store)
    }

    async fn connect(url: &str, dialect: Dialect, connections: u32) -> Result<Self, StoreError> {
        sqlx::any::install_default_drivers();
        let writing = if dialect == Dialect::Postgres { connections } else { 2 };
        let (pool, writers) =
            (Self::pool_of(url, dialect, connections, true), Self::pool_of(url, dialect, writing, false));
        let pool = pool.await?;
        let searchers = match dialect {
            Dialect::Sqlite => Searchers::of_file(url, SQLITE_SETTINGS, connections).await?,
            Dialect::Postgres => Searchers::Postgres(pool.clone()),
        };
        let store = Self {
            pool,
            searchers,
            writers: writers.await?,
            dialect,
            writer: Mutex::new(()),
            group: group::Group::default(),
        };
        store.migrate().await?;
        Ok(store)
    }

    async fn pool_of(
        url: &str,
        dialect: Dialect,
        connections: u32,
        reading: bool,
    ) -> Result<AnyPool, StoreError> {
        let pool = AnyPoolOptions::new()
            .max_connections(connections)
            .acquire_timeout(Duration::from_secs(10))
            .after_connect(move |connection, _| {
                Box::pin(async move {
                    if dialect == Dialect::Postgres {
                        postgres::settle(connection).await?;
                        if reading {
                            connection.execute(search::POSTGRES_LIMIT).await?;
                        }
                    } else {
                        connection.execute(SQLITE_SETTINGS).await?;
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
        const NOTES: &str = "CREATE TABLE IF NOT EXISTS schema_steps (step BIGINT PRIMARY KEY)";
        if self.dialect == Dialect::Sqlite {
            (&self.writers).execute(NOTES).await?;
        }
        let mut transaction = self.writers.begin().await?;
        if self.dialect == Dialect::Sqlite {
            // Takes the write lock at once, and waits for it: another process, such as a command, may be writing.
            transaction.execute("DELETE FROM schema_steps WHERE step < 0").await?;
        }
        if self.dialect == Dialect::Postgres {
            // Collectors that start at the same time do this one after another.
            transaction.execute(sqlx::raw_sql(postgres::BEFORE_STEPS)).await?;
        }
        transaction.execute(NOTES).await?;
        let row = sqlx::query("SELECT COUNT(*) FROM schema_steps").fetch_one(&mut *transaction).await?;
        let done = usize::try_from(row.try_get::<i64, _>(0)?).map_err(|_| StoreError::Damaged("a schema"))?;
        let steps =
            schema::STEPS.get(done..).ok_or(StoreError::Newer { found: done, known: schema::STEPS.len() })?;
        for (number, step) in (done..).zip(steps) {
            let text = match self.dialect {
                Dialect::Sqlite => step.replace("{blob}", "BLOB").replace("{serial}", "INTEGER PRIMARY KEY"),
                Dialect::Postgres => postgres::step(step),
            };
            transaction.execute(sqlx::raw_sql(AssertSqlSafe(text))).await?;
            sqlx::query("INSERT INTO schema_steps (step) VALUES ($1)")
                .bind(number as i64)
                .execute(&mut *transaction)
                .await?;
        }
        let search = match self.dialect {
            Dialect::Sqlite => schema::SQLITE_SEARCH,
            Dialect::Postgres => postgres::SEARCH,
        };
        transaction.execute(sqlx::raw_sql(search)).await?;
        transaction.commit().await?;
        Ok(())
    }

    /// The connections, for reading.
    pub(crate) fn pool(&self) -> &AnyPool {
        &self.pool
    }

    /// Closes all connections, when those who use them have given them back.
    pub async fn close(&self) {
        if let Searchers::Sqlite(pool) = &self.searchers {
            pool.close().await;
        }
        self.pool.close().await;
        self.writers.close().await;
    }

    /// The connections, for searching.
    pub(crate) fn searchers(&self) -> &Searchers {
        &self.searchers
    }

    /// Which database it is.
    pub fn dialect(&self) -> Dialect {
        self.dialect
    }

    /// Other collectors may work with it, too.
    pub fn is_shared(&self) -> bool {
        self.dialect == Dialect::Postgres
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
        .bind(plain(actor).as_ref())
        .bind(action)
        .bind(plain(target).as_ref())
        .bind(plain(detail).as_ref())
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
