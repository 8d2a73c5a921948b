//! The running agent: it puts the stages together and keeps them going.

mod control;
mod copy;
mod egress;
mod flow;
mod lock;
mod notify;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::config::Config;
use crate::control::Server;
use crate::credential::Credentials;
use crate::identity::Reader;
use crate::intercept::{self, Interceptor, Selection};
use crate::policy::{PolicyStore, Watcher};
use crate::protocol::Limits;
use crate::record::Recorder;
use crate::sql;
use lock::Lock;

/// How long flows may take to end when the agent stops.
const GRACE: Duration = Duration::from_secs(3);

/// Statements that are remembered as read: how many, and bytes of text in all.
const SCRIPTS: (usize, usize) = (10_000, 64 << 20);

/// How often files and cgroups that selectors name are looked at again.
const REFRESH: Duration = Duration::from_secs(1);

/// What every flow and request works with.
pub(crate) struct Agent {
    config: Config,
    interceptor: Interceptor,
    policies: PolicyStore,
    credentials: Arc<Credentials>,
    recorder: Arc<Recorder>,
    identity: Reader,
    scripts: Arc<sql::Cache>,
    limits: Limits,
    counts: Counts,
    shutdown: watch::Sender<bool>,
    since: jiff::Timestamp,
}

/// What `interlock status` counts.
#[derive(Debug, Default)]
struct Counts {
    flows: AtomicU64,
    open: AtomicU64,
    commands: AtomicU64,
    refused: AtomicU64,
}

/// Runs the agent until it is told to stop.
///
/// # Errors
/// It could not start. What an earlier agent attached stays attached then, and refuses.
pub async fn run(config: Config, file: &Path) -> anyhow::Result<()> {
    let _lock = Lock::take(&config.run)?;
    let recorder = {
        let config = config.clone();
        tokio::task::spawn_blocking(move || Recorder::open(&config)).await?
    }
    .context("cannot open the recording")?;
    let (credentials, warnings) =
        tokio::task::block_in_place(|| Credentials::load(&config.credentials, file))?;
    warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    let policies = PolicyStore::load(&config.policies, &config.state, credentials.host_names())
        .context("cannot load the policies")?;
    let cgroup = match &config.cgroup {
        Some(cgroup) => cgroup.clone(),
        None => intercept::cgroup_root().context("cannot tell where to attach; set `cgroup:`")?,
    };
    let options = intercept::Options { cgroup, pins: intercept::pin_dir(&config.run) };
    let interceptor = Interceptor::attach(&options).context("cannot attach to the kernel")?;
    interceptor.apply(&selection(&policies, &credentials)).context("cannot put the policies in force")?;
    let mut events = interceptor.events().context("the kernel's reports are taken already")?;
    recorder.policy_loaded(policies.current().hash(), policies.current().files())?;

    let (shutdown, stopping) = watch::channel(false);
    let agent = Arc::new(Agent {
        interceptor,
        policies,
        credentials: Arc::new(credentials),
        recorder,
        identity: Reader::default(),
        scripts: Arc::new(sql::Cache::new(SCRIPTS.0, SCRIPTS.1)),
        limits: Limits::default(),
        counts: Counts::default(),
        shutdown,
        since: jiff::Timestamp::now(),
        config,
    });
    let control = Server::bind(&agent.config.run)
        .with_context(|| format!("cannot listen in {}", agent.config.run.display()))?;
    let control = tokio::spawn(control.serve(Arc::clone(&agent)));
    let credentials = Arc::clone(&agent.credentials);
    let refreshing = tokio::spawn(async move { credentials.keep_fresh().await });
    let (changed, mut changes) = tokio::sync::mpsc::channel(1);
    let _watcher = Watcher::watch(&agent.config.policies, move || {
        // A change that is already announced is enough.
        let _ = changed.try_send(());
    })
    .inspect_err(|error| tracing::warn!(%error, "policy files are not watched; use `interlock reload`"));

    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    let mut refresh = tokio::time::interval(REFRESH);
    refresh.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut flows = JoinSet::new();
    tracing::info!(
        policies = agent.policies.current().files().len(),
        hash = agent.policies.current().hash(),
        "serving"
    );
    notify::ready();

    loop {
        tokio::select! {
            accepted = agent.interceptor.accept() => {
                flows.spawn(flow::serve(Arc::clone(&agent), accepted, stopping.clone()));
            }
            Some(event) = events.recv() => egress::note(&agent, event),
            Some(()) = changes.recv() => drop(agent.in_background(Agent::reload).await),
            _ = hang_up.recv() => drop(agent.in_background(Agent::reload).await),
            _ = refresh.tick() => drop(agent.in_background(Agent::refresh).await),
            Some(ended) = flows.join_next(), if !flows.is_empty() => {
                if let Err(error) = ended {
                    tracing::error!(%error, "a flow's task failed");
                }
            }
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
        }
    }

    notify::stopping();
    tracing::info!("stopping; designated processes are refused from now on");
    control.abort();
    refreshing.abort();
    let _ = control.await;
    agent.shutdown.send_replace(true);
    let _ = tokio::time::timeout(GRACE, async { while flows.join_next().await.is_some() {} }).await;
    flows.shutdown().await;
    let recorder = Arc::clone(&agent.recorder);
    tokio::task::spawn_blocking(move || recorder.close()).await?.context("cannot close the recording")?;
    Ok(())
}

/// The processes that policies designate, and those that credentials tell apart.
fn selection(policies: &PolicyStore, credentials: &Credentials) -> Selection {
    let mut selection = policies.current().selection();
    // Entries of the same id become one, with the policy's destinations.
    selection.entries.extend_from_slice(credentials.entries());
    selection
}

impl Agent {
    /// Does what waits for the kernel or for files off the tasks that serve flows.
    async fn in_background<T: Send + 'static>(self: &Arc<Self>, work: fn(&Self) -> T) -> Option<T> {
        let agent = Arc::clone(self);
        tokio::task::spawn_blocking(move || work(&agent)).await.ok()
    }

    /// Reads the policies again; the earlier ones stay when anything is wrong with the new.
    fn reload(&self) -> Result<(), String> {
        match self.policies.reload() {
            Ok(false) => Ok(()),
            Ok(true) => {
                let current = self.policies.current();
                let applied = self.interceptor.apply(&selection(&self.policies, &self.credentials));
                if let Err(error) = applied {
                    tracing::error!(%error, "the kernel still works by the earlier selection of processes");
                    return Err(format!(
                        "the policies were read, but could not be put in force whole: {error}"
                    ));
                }
                if let Err(error) = self.recorder.policy_loaded(current.hash(), current.files()) {
                    tracing::error!(%error, "cannot record that policies changed");
                }
                tracing::info!(hash = current.hash(), "policies reloaded");
                Ok(())
            }
            Err(errors) => {
                tracing::error!("the earlier policies stay in force: {errors}");
                if let Err(error) = self.recorder.policy_rejected(&errors.to_string()) {
                    tracing::error!(%error, "cannot record that policies were rejected");
                }
                Err(format!("the earlier policies stay in force: {errors}"))
            }
        }
    }

    fn refresh(&self) {
        if let Err(error) = self.interceptor.refresh() {
            tracing::warn!(%error, "cannot look again at what selectors name");
        }
    }

    fn count(&self, counter: impl Fn(&Counts) -> &AtomicU64, n: u64) {
        counter(&self.counts).fetch_add(n, Ordering::Relaxed);
    }
}
