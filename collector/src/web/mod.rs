//! What reviewers and auditors see: pages, the REST API, and who may do what.
//!
//! `routes::ROUTES` is the one table of what there is and for which roles. `guard` stands before
//! every route in it; pages and API ask the same `actions` to do things.

mod account;
mod actions;
mod admin;
mod api;
pub(crate) mod approvals;
mod assets;
mod display;
mod export;
mod federated;
mod filters;
mod follow;
mod guard;
mod health;
mod hosts;
mod inbox;
mod listen;
mod lists;
mod page;
pub(crate) mod params;
mod password;
mod policies;
pub(crate) mod problem;
mod prove;
mod role;
mod routes;
mod scope;
mod session;
mod sign_in;
mod slack;
#[cfg(test)]
mod tests;
mod totp;

use std::sync::Arc;
use std::time::Duration;

use interlock_recording::{fill_random, hex};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use crate::administer::By;
use crate::approvals::ask::slack::Slack;
use crate::archive::Archive;
use crate::intake::{Connected, Intake};
use crate::outputs::Configured;
use crate::sign_in::Providers;
use crate::store::{Store, StoreError, now_ns};

pub(crate) use actions::is_group;
pub use listen::{check_files, serve};
pub use role::Role;
pub use routes::router;

/// What the pages and the API work with.
#[derive(Clone)]
pub struct State {
    intake: Arc<Intake>,
    store: Arc<Store>,
    archive: Arc<Archive>,
    connected: Arc<Connected>,
    config: Arc<Config>,
    passwords: Arc<password::Passwords>,
    followers: Arc<tokio::sync::Semaphore>,
    answers: Arc<tokio::sync::Semaphore>,
}

/// How the pages and the API are served.
#[derive(Debug, Clone)]
pub struct Config {
    /// Browsers reach them by HTTPS. Without it only loopback may be listened on.
    pub secure: bool,
    /// Names, other than loopback's, by which browsers ask for them without TLS, such as that of a proxy
    /// on the same host.
    pub names: Vec<String>,
    /// The address by which agents reach the collector, such as `https://interlock.example.com:7443`, for
    /// the command that enrols a host.
    pub agents_url: String,
    /// The identity providers that people sign in with, and whether passwords count.
    pub providers: Providers,
    /// A browser that was not used for so long is signed out.
    pub idle: Duration,
    /// A browser is signed out that long after it was signed in.
    pub absolute: Duration,
    /// The outputs to other systems, and ways to ask approvers.
    pub outputs: Vec<Configured>,
    /// The apps of Slack whose buttons are answered to.
    pub slack: Vec<Slack>,
    /// The address that people use, without a slash at the end.
    pub url: String,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            secure: false,
            names: Vec::new(),
            agents_url: "https://localhost:7443".into(),
            providers: Providers::default(),
            idle: Duration::from_secs(60 * 60),
            absolute: Duration::from_secs(12 * 60 * 60),
            outputs: Vec::new(),
            slack: Vec::new(),
            url: "http://localhost:7480".into(),
        }
    }
}

impl State {
    /// Puts it together with what takes recordings in.
    ///
    /// # Errors
    /// The system gives no random bytes.
    pub fn new(intake: &Arc<Intake>, config: Config) -> std::io::Result<Self> {
        Ok(Self {
            intake: Arc::clone(intake),
            store: Arc::clone(&intake.store),
            archive: Arc::clone(&intake.archive),
            connected: Arc::clone(&intake.connected),
            config: Arc::new(config),
            passwords: Arc::new(password::Passwords::new()?),
            followers: Arc::new(tokio::sync::Semaphore::new(follow::MOST)),
            answers: Arc::new(tokio::sync::Semaphore::new(federated::ANSWERS)),
        })
    }

    fn idle_ns(&self) -> i64 {
        i64::try_from(self.config.idle.as_nanos()).unwrap_or(i64::MAX)
    }
}

/// For so long a password that was set by command counts where passwords are turned off.
const RECOVERY_NS: i64 = 3600 * 1_000_000_000;

/// Gives an account a new password, for a command on the collector's host. Its one-time codes, API tokens
/// and signed-in browsers go. For an hour it counts although passwords are turned off.
///
/// # Errors
/// There is no such account, or the database fails.
pub async fn reset_account(state: &State, name: &str, who: &str) -> anyhow::Result<Zeroizing<String>> {
    let password = Zeroizing::new(secret()?.chars().take(24).collect::<String>());
    let by = By { who, address: "" };
    actions::reset(state, by, name, password.clone())
        .await
        .map_err(|problem| anyhow::anyhow!("{name}: {}", problem.detail))?;
    let mut write = state.store.write().await?;
    write.set_recovery(name, now_ns().saturating_add(RECOVERY_NS)).await?;
    write.commit().await?;
    Ok(password)
}

/// Sets what is known of an account's owner, for a command on the collector's host.
///
/// # Errors
/// There is no such account, something cannot be so, or the database fails.
pub async fn set_owner(
    state: &State,
    name: &str,
    who: &str,
    groups: Option<Vec<String>>,
    logins: Option<Vec<String>>,
    email: Option<String>,
) -> anyhow::Result<()> {
    let by = By { who, address: "" };
    actions::owner(state, by, name, groups.as_deref(), logins.as_deref(), email.as_deref())
        .await
        .map_err(|problem| anyhow::anyhow!("{name}: {}", problem.detail))
}

/// How long a set-up link counts.
const SETUP_NS: i64 = 24 * 3600 * 1_000_000_000;

/// The path of a new set-up link, while there is no account: whoever opens it makes the first
/// administrator. It counts once, for a day, and until the next one is made.
///
/// # Errors
/// The database fails, or the system gives no random bytes.
pub async fn setup_link(store: &Store) -> Result<Option<String>, SetupError> {
    if store.has_users().await? {
        return Ok(None);
    }
    let token = secret()?;
    let mut write = store.write().await?;
    write.set_setup(&sha256(&token), now_ns().saturating_add(SETUP_NS)).await?;
    write.commit().await?;
    Ok(Some(format!("/set-up/{token}")))
}

/// No set-up link can be made.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The database fails.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The system gives no random bytes.
    #[error("the system gives no random bytes: {0}")]
    Random(#[from] std::io::Error),
}

/// 32 random bytes, hexadecimal.
fn secret() -> std::io::Result<String> {
    let mut bytes = [0; 32];
    fill_random(&mut bytes)?;
    Ok(hex(&bytes))
}

/// SHA-256 of a secret, hexadecimal: what is kept of it. The secrets are random and long, so the hash
/// needs no salt and no time.
fn sha256(secret: &str) -> String {
    hex(&Sha256::digest(secret.as_bytes()))
}
