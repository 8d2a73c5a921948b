//! The running agent: it puts the stages together and keeps them going.

mod control;
mod copy;
mod egress;
mod flow;
mod lock;
mod notify;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::config::Config;
use crate::control::Server;
use crate::identity::Reader;
use crate::intercept::{self, Interceptor};
use crate::policy::{PolicySet, PolicyStore, Watcher};
use crate::protocol::Limits;
use crate::record::Recorder;
use crate::sql;
use crate::tls;
use lock::Lock;

/// How long flows may take to end when the agent stops.
const GRACE: Duration = Duration::from_secs(3);

/// Statements that are remembered as read: how many, and bytes of text in all.
const SCRIPTS: (usize, usize) = (10_000, 64 << 20);

/// How often files and cgroups that selectors name are looked at again.
const REFRESH: Duration = Duration::from_secs(1);

/// How often bundles of trusted roots are looked at again: the system's change with package updates.
const TRUST_REFRESH: Duration = Duration::from_secs(60);

/// What every flow and request works with.
pub(crate) struct Agent {
    config: Config,
    interceptor: Interceptor,
    policies: PolicyStore,
    recorder: Arc<Recorder>,
    identity: Reader,
    tls: Arc<tls::Engine>,
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
pub async fn run(config: Config) -> anyhow::Result<()> {
    let _lock = Lock::take(&config.run)?;
    // Looked at before anything is written: a start that fails over and over must not fill the recording.
    PolicySet::load(&config.policies).context("cannot load the policies")?;
    let cgroup = match &config.cgroup {
        Some(cgroup) => cgroup.clone(),
        None => intercept::cgroup_root().context("cannot tell where to attach; set `cgroup:`")?,
    };
    let recorder = {
        let config = config.clone();
        tokio::task::spawn_blocking(move || Recorder::open(&config)).await?
    }
    .context("cannot open the recording")?;
    let tls = {
        let config = config.clone();
        // Off the runtime's threads: files are read, and keys made.
        tokio::task::spawn_blocking(move || tls::Engine::open(&config)).await?
    }
    .context("cannot set up TLS")?;
    tls.authority().publish(&config).context("cannot publish the host's authority")?;
    let policies = PolicyStore::load(&config.policies, &config.state, tls.hosts())
        .context("cannot load the policies")?;
    let options = intercept::Options { cgroup, pins: intercept::pin_dir(&config.run) };
    let interceptor = Interceptor::attach(&options).context("cannot attach to the kernel")?;
    interceptor.apply(&policies.current().selection()).context("cannot put the policies in force")?;
    let mut events = interceptor.events().context("the kernel's reports are taken already")?;
    recorder.policy_loaded(policies.current().hash(), policies.current().files())?;

    refresh_trust(&config);
    let (shutdown, stopping) = watch::channel(false);
    let agent = Arc::new(Agent {
        interceptor,
        policies,
        recorder,
        identity: Reader::default(),
        tls,
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
    let mut trust = tokio::time::interval(TRUST_REFRESH);
    trust.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
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
            _ = trust.tick() => drop(agent.in_background(|agent| refresh_trust(&agent.config)).await),
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
    let _ = control.await;
    agent.shutdown.send_replace(true);
    let _ = tokio::time::timeout(GRACE, async { while flows.join_next().await.is_some() {} }).await;
    flows.shutdown().await;
    let recorder = Arc::clone(&agent.recorder);
    tokio::task::spawn_blocking(move || recorder.close()).await?.context("cannot close the recording")?;
    Ok(())
}

/// Makes what clients are pointed to for their trusted roots. Trouble there holds up nothing: a client
/// that does not find the authority refuses, as it should.
fn refresh_trust(config: &Config) {
    if let Err(error) = crate::trust::refresh(config) {
        tracing::warn!("cannot make the bundles of trusted roots: {error:#}");
    }
}

impl Agent {
    /// Does what waits for the kernel or for files off the tasks that serve flows.
    async fn in_background<T: Send + 'static>(self: &Arc<Self>, work: fn(&Self) -> T) -> Option<T> {
        let agent = Arc::clone(self);
        tokio::task::spawn_blocking(move || work(&agent)).await.ok()
    }

    /// Reads the policies and the files under `tls:` again; the earlier ones stay when anything is wrong
    /// with the new. Tells whether the policies have changed.
    fn reload(&self) -> Result<bool, String> {
        let tls = self.tls.reload().map_err(|error| {
            tracing::error!(%error, "what was read of the files under `tls:` before stays in force");
            format!("what was read before stays in force: {error}")
        });
        let changed = self.reload_policies()?;
        tls.map(|()| changed)
    }

    fn reload_policies(&self) -> Result<bool, String> {
        match self.policies.reload() {
            Ok(false) => Ok(false),
            Ok(true) => {
                let current = self.policies.current();
                let applied = self.interceptor.apply(&current.selection());
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
                Ok(true)
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
