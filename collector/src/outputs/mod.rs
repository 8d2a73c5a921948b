//! Out to other systems: what the collector takes in is told to webhooks, syslog servers,
//! OpenTelemetry and Kafka.
//!
//! Each output goes along the journal (`store/journal.rs`) and keeps its place in the database: nothing is
//! queued in memory, and one that was away for days goes on where it was. It is moved only after the receiver
//! has what was sent, so after a failure messages can come again, with the same id. Intake never waits for
//! an output. `docs/outputs.md` says what is sent and what is guaranteed.

mod approval;
pub mod config;
mod feed;
mod kafka;
pub mod message;
mod otlp;
mod run;
mod send;
mod syslog;
#[cfg(test)]
mod tests;
mod tls;
mod view;
mod webhook;

use std::sync::Arc;
use std::time::Duration;

use interlock_recording::{fill_random, hex};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::intake::Connected;
use crate::store::{OutputState, Store, StoreError};

pub use config::Output;
pub use kafka::exercise;
use run::Runner;
use send::Sender;
pub(crate) use send::{later, secret_line};
pub use view::{Configured, OutputView, view};
pub(crate) use webhook::{check_secrets, signed_request};

/// How often what all outputs have passed is removed from the journal.
const PRUNE: Duration = Duration::from_secs(600);

/// How long things take. Tests are less patient.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// How often the journal is looked at when nothing is said to have come.
    pub poll: Duration,
    /// How long is waited for more before the next batch, when the last one was not full.
    pub gather: Duration,
    /// How long is waited after the first failure; twice as long after each further one.
    pub least_wait: Duration,
    /// How long is waited at most.
    pub most_wait: Duration,
    /// After so long without success it is a finding.
    pub stuck: Duration,
    /// For how long a collector has an output for itself.
    pub lease: Duration,
    /// What stands for an hour in `skip_refused_after_hours`.
    pub hour: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            poll: Duration::from_secs(1),
            gather: Duration::from_millis(200),
            least_wait: Duration::from_secs(1),
            most_wait: Duration::from_secs(300),
            stuck: Duration::from_secs(600),
            lease: Duration::from_secs(90),
            hour: Duration::from_secs(3600),
        }
    }
}

/// Checks the outputs, gives each its place, and has them run until `stopped` says so.
///
/// # Errors
/// A file that an output needs is no use, or the database fails.
pub async fn start(
    outputs: &[Output],
    collector: &str,
    store: &Arc<Store>,
    connected: &Arc<Connected>,
    stopped: &watch::Receiver<bool>,
    timing: Timing,
) -> anyhow::Result<Vec<JoinHandle<()>>> {
    let owner = owner()?;
    let mut ready = Vec::new();
    for output in outputs {
        let sender = Sender::new(output, collector)
            .map_err(|error| anyhow::anyhow!("outputs: {}: {error:#}", output.name))?;
        ready.push((output.clone(), sender));
    }
    // The state directory is this process's alone: whoever held them was killed.
    store.release_own().await?;
    store.settle_journal().await?;
    add_places(store, outputs.iter().map(|output| output.name.clone())).await?;
    for state in store.outputs().await? {
        // Ways to ask approvers have a place here too.
        let ask = state.name.starts_with("ask:");
        if !ask && !outputs.iter().any(|output| output.name == state.name) {
            tracing::warn!(
                output = state.name,
                "this output is not configured any more, and what it was not told is kept for it: `interlock-collector \
                 outputs remove {}` forgets it",
                state.name
            );
        }
    }
    let mut tasks: Vec<JoinHandle<()>> = Vec::new();
    for (output, sender) in ready {
        let store = Arc::clone(store);
        let runner =
            Runner::new(output, sender, store, owner.clone(), timing, stopped.clone(), connected.changed());
        tasks.push(tokio::spawn(runner.run()));
    }
    if !store.outputs().await?.is_empty() {
        tasks.push(tokio::spawn(prune(Arc::clone(store), stopped.clone())));
    }
    Ok(tasks)
}

/// A name for this process in leases.
pub(crate) fn owner() -> std::io::Result<String> {
    let mut random = [0; 16];
    fill_random(&mut random)?;
    Ok(hex(&random))
}

/// Gives each of these its place in the journal, if it has none.
pub(crate) async fn add_places(store: &Store, names: impl Iterator<Item = String>) -> Result<(), StoreError> {
    let mut write = store.write().await?;
    for name in names {
        if write.add_output(&name).await? {
            tracing::info!(output = name, "it is new: it is told what comes from now on");
        }
    }
    write.commit().await
}

/// Opens the files that an output names.
///
/// # Errors
/// One cannot be read, or is of no use; the message names it.
pub fn check_files(output: &Output) -> anyhow::Result<()> {
    Sender::new(output, "").map(drop)
}

/// How the outputs fare, in Prometheus' text format.
pub fn metrics(outputs: &[OutputState], now_ns: i64) -> String {
    /// A metric's name, its type, what it says, and its value for an output.
    type Metric = (&'static str, &'static str, &'static str, fn(&OutputState, i64) -> i64);
    const METRICS: [Metric; 5] = [
        ("behind_seconds", "gauge", "Since when what is to be sent next has waited.", |output, now| {
            output.waiting_since_ns.map_or(0, |since| now.saturating_sub(since) / 1_000_000_000)
        }),
        ("failing_seconds", "gauge", "Since when sending has failed.", |output, now| {
            output.failing_since_ns.map_or(0, |since| now.saturating_sub(since) / 1_000_000_000)
        }),
        ("sent_total", "counter", "Messages that were sent.", |output, _| output.sent),
        ("skipped_total", "counter", "Messages that were refused for too long and skipped.", |output, _| {
            output.skipped
        }),
        (
            "gaps_total",
            "counter",
            "Gaps, where recordings were deleted before they could be sent.",
            |output, _| output.deleted,
        ),
    ];
    let mut text = String::new();
    for (name, kind, help, value) in METRICS.iter().filter(|_| !outputs.is_empty()) {
        let name = format!("interlock_collector_output_{name}");
        text.push_str(&format!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
        for output in outputs {
            // Names are letters, digits, `-` and `_`.
            text.push_str(&format!("{name}{{output=\"{}\"}} {}\n", output.name, value(output, now_ns)));
        }
    }
    text
}

/// Removes what all outputs have passed, now and then.
async fn prune(store: Arc<Store>, mut stopped: watch::Receiver<bool>) {
    loop {
        let pruned = async {
            store.settle_journal().await?;
            let mut write = store.write().await?;
            write.prune_journal().await?;
            write.commit().await
        };
        if let Err(error) = pruned.await {
            tracing::warn!("the outputs' journal could not be pruned: {error}");
        }
        tokio::select! {
            _ = stopped.wait_for(|stop| *stop) => return,
            () = tokio::time::sleep(PRUNE) => {}
        }
    }
}
