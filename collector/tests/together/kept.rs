//! Where a collector of these tests keeps things: in a PostgreSQL database and an S3 bucket, each collector that
//! is given the same state directory's parent in the same ones.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use interlock_collector::config::Config;
use interlock_collector::keys;
use interlock_collector::storage::{Database, S3, Segments};
use interlock_tests::postgres::{PASSWORD, USER};
use interlock_tests::s3::{ACCESS_KEY, BUCKET, SECRET_KEY};
use sha2::{Digest as _, Sha256};

/// What is there is not a directory, which a test could alter.
pub(crate) const IS_DIRECTORY: bool = false;

/// The servers. All tests that run at the same time share them; they end with the last.
pub(crate) struct Servers {
    pub(crate) postgres: interlock_tests::Postgres,
    pub(crate) s3: interlock_tests::s3::S3,
}

/// What must be there as long as a collector works.
pub(crate) type Kept = Arc<Servers>;

static SERVERS: Mutex<Weak<Servers>> = Mutex::new(Weak::new());

/// The servers, started when they are not there.
pub(crate) async fn servers() -> Kept {
    let started = tokio::task::spawn_blocking(|| {
        let mut there = SERVERS.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(servers) = there.upgrade() {
            return servers;
        }
        let servers = Arc::new(Servers {
            postgres: interlock_tests::Postgres::start().expect("PostgreSQL"),
            s3: interlock_tests::s3::S3::start().expect("S3"),
        });
        *there = Arc::downgrade(&servers);
        servers
    });
    started.await.expect("the servers")
}

/// The name of the database, and of the place in the bucket, for a state directory.
fn place(state: &Path) -> String {
    let hash = interlock_recording::hex(&Sha256::digest(state.as_os_str().as_encoded_bytes()));
    format!("t{}", &hash[..12])
}

/// The configuration of a collector with this state directory.
pub(crate) async fn config(state: &Path) -> (Config, Kept) {
    let servers = servers().await;
    let name = place(state);
    if servers
        .postgres
        .admin(&format!("SELECT 1 FROM pg_database WHERE datname = '{name}'"))
        .expect("asked")
        .is_empty()
    {
        servers
            .postgres
            .admin(&format!("CREATE DATABASE {name} OWNER {USER} TEMPLATE template0 ENCODING 'UTF8'"))
            .expect("a database");
        keys::create(&state.join("shared"), "collector.test").expect("keys");
        for (file, secret) in [("password", PASSWORD), ("secret", SECRET_KEY)] {
            std::fs::write(state.join("shared").join(file), secret).expect("written");
        }
    }
    (on(&servers, state, &name), servers)
}

fn on(servers: &Servers, state: &Path, name: &str) -> Config {
    let shared = state.join("shared");
    Config {
        state: state.join("own"),
        name: Some("collector.test".into()),
        store: Some(Database {
            database: format!("postgres://{USER}@127.0.0.1:{}/{name}", servers.postgres.port()),
            password_file: Some(shared.join("password")),
            connections: 4,
        }),
        segments: Some(Segments {
            s3: S3 {
                bucket: BUCKET.into(),
                endpoint: Some(servers.s3.endpoint()),
                region: "us-east-1".into(),
                prefix: name.into(),
                access_key: Some(ACCESS_KEY.into()),
                secret_key_file: Some(shared.join("secret")),
                authority: None,
            },
            cache: 1 << 20,
        }),
        keys: Some(shared),
        ..Config::default()
    }
}

/// Runs statements on a database as whoever has got at it would.
pub(crate) async fn run_sql(state: &Path, sql: &'static str) {
    let port = servers().await.postgres.port();
    let url = format!("postgres://{USER}:{PASSWORD}@127.0.0.1:{port}/{}", place(state));
    let pool = sqlx::AnyPool::connect(&url).await.expect("opened");
    sqlx::raw_sql(sql).execute(&pool).await.expect("run");
    pool.close().await;
}
