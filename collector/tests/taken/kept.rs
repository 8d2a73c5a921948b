//! Where a collector of these tests keeps things: in its state directory.

use std::path::Path;

use interlock_collector::config::Config;

/// What is there is a directory, which a test can alter.
pub(crate) const IS_DIRECTORY: bool = true;

/// What must be there as long as a collector works.
#[derive(Clone)]
pub(crate) struct Kept;

/// The configuration of a collector with this state directory.
#[expect(clippy::unused_async, reason = "another place needs it")]
pub(crate) async fn config(state: &Path) -> (Config, Kept) {
    let name = Some("collector.test".into());
    (Config { state: state.into(), name, ..Config::default() }, Kept)
}

/// Runs statements on a database as whoever has got at it would.
pub(crate) async fn run_sql(state: &Path, sql: &'static str) {
    let url = format!("sqlite://{}", state.join("collector.db").display());
    let pool = sqlx::AnyPool::connect(&url).await.expect("opened");
    sqlx::raw_sql(sql).execute(&pool).await.expect("run");
    pool.close().await;
}
