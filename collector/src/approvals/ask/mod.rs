//! Approvers are asked elsewhere too: in Slack and Teams, by mail, through programs of one's own.
//!
//! Each way goes along the journal as outputs do, and keeps its place there (`outputs` in the database, by the name
//! `ask:NAME`): what a channel could not be told while it was away it is told later, as it stands then. Whoever answers
//! does so through [`decide`](super::decide), as an account of the collector's. `docs/asking.md` says how each is set up.

pub mod config;
mod cover;
mod hook;
mod limit;
mod mail;
mod members;
mod run;
mod send;
mod shown;
pub mod slack;
mod teams;
#[cfg(test)]
pub(crate) mod tests;

use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::intake::Connected;
use crate::outputs::{self, Timing};
use crate::store::Store;

pub use config::{Approvals, Ask};
pub(crate) use cover::Cover;
use limit::Limits;
use run::Runner;
use send::Sender;
pub(crate) use shown::{estimate, is_whole, tame};

/// Opens the files that a way to ask names.
///
/// # Errors
/// One cannot be read, or is of no use; the message names it.
pub fn check_files(ask: &Ask) -> anyhow::Result<()> {
    Sender::new(ask, "collector").map(drop)
}

/// The apps of Slack whose buttons are answered to.
///
/// # Errors
/// A file that one needs is no use.
pub fn slack_apps(approvals: &Approvals) -> anyhow::Result<Vec<slack::Slack>> {
    let apps = approvals.ask.iter().filter_map(|ask| match ask {
        Ask::Slack(config) => Some(
            slack::Slack::new(config)
                .map_err(|error| anyhow::anyhow!("approvals: {}: {error:#}", config.name)),
        ),
        _ => None,
    });
    apps.collect()
}

/// The collector, as messages and accounts go by it.
#[derive(Debug, Clone, Copy)]
pub struct Asker<'a> {
    /// Its name.
    pub name: &'a str,
    /// The address that people use.
    pub base: &'a str,
    /// For how long accounts of providers count after their owners have signed in, nanoseconds.
    pub token_ns: i64,
}

/// Checks the ways to ask, gives each its place, and has them run until `stopped` says so.
///
/// # Errors
/// A file that one needs is no use, or the database fails.
pub async fn start(
    approvals: &Approvals,
    asker: Asker<'_>,
    store: &Arc<Store>,
    connected: &Arc<Connected>,
    stopped: &watch::Receiver<bool>,
    timing: Timing,
) -> anyhow::Result<Vec<JoinHandle<()>>> {
    let owner = outputs::owner()?;
    let mut ready = Vec::new();
    for ask in &approvals.ask {
        let sender = Sender::new(ask, asker.name)
            .map_err(|error| anyhow::anyhow!("approvals: {}: {error:#}", ask.name()))?;
        ready.push((ask.clone(), sender));
    }
    outputs::add_places(store, approvals.ask.iter().map(Ask::place)).await?;
    let mut tasks = Vec::new();
    for (ask, sender) in ready {
        let runner = Runner {
            ask,
            sender,
            base: asker.base.to_owned(),
            store: Arc::clone(store),
            owner: owner.clone(),
            timing,
            stopped: stopped.clone(),
            changed: connected.changed(),
            limits: Limits::default(),
            token_ns: asker.token_ns,
        };
        tasks.push(tokio::spawn(runner.run()));
    }
    Ok(tasks)
}
