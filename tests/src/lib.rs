//! What the end-to-end tests, the demo and the bench share: throwaway servers, cgroups, agents and
//! clients. Each cleans up after itself when dropped, on a panic too.

pub mod agent;
pub mod browser;
pub mod cache;
pub mod cgroup;
pub mod client;
pub mod collector;
pub mod credentials;
pub mod issuer;
pub mod mcp;
pub mod people;
pub mod postgres;
pub mod process;
pub mod s3;
pub mod secrets;
pub mod stage;
pub mod tls;

pub use agent::Agent;
pub use browser::Browser;
pub use cgroup::Cgroup;
pub use collector::Collector;
pub use postgres::Postgres;
pub use stage::Stage;

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

/// This process runs as root.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Waits until `ready` holds, looking every few milliseconds, for as long as `limit`.
///
/// # Errors
/// The limit passed; the message says what was waited for.
pub fn wait_for(what: &str, limit: Duration, mut ready: impl FnMut() -> bool) -> Result<()> {
    let end = Instant::now() + limit;
    while !ready() {
        if Instant::now() >= end {
            bail!("{what}: not within {} s", limit.as_secs());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// A temporary directory that other users may enter.
///
/// # Errors
/// It cannot be made.
pub fn temporary_directory(purpose: &str) -> Result<tempfile::TempDir> {
    let directory = tempfile::Builder::new()
        .prefix(&format!("interlock-{purpose}-"))
        .tempdir()
        .context("cannot make a temporary directory")?;
    open_to_all(directory.path())?;
    Ok(directory)
}

/// Gives a directory the mode 0755, whatever the umask says.
///
/// # Errors
/// It cannot be changed.
pub fn open_to_all(directory: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o755))
        .with_context(|| format!("cannot change the mode of {}", directory.display()))
}
