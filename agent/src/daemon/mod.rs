//! The running agent: it puts the stages together and keeps them going.

mod ahead;
mod control;
mod copy;
mod egress;
mod flow;
mod identity;
mod limits;
mod lock;
mod login;
mod notify;
mod orders;
mod selection;
mod traced;

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use anyhow::Context;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::approval::Desk;
use crate::config::Config;
use crate::control::Server;
use crate::credential::Credentials;
use crate::identity::Reader;
use crate::identity::login::Logins;
use crate::identity::oidc::Issuers;
use crate::identity::workload::{Bindings, Workloads};
use crate::intercept::{self, Interceptor, Selection};
use crate::policy::{Central, PolicySet, PolicyStore, Watcher};
use crate::protocol::Limits;
use crate::record::Recorder;
use crate::ship::{self, Shipper, Shipping};
use crate::sql;
use crate::tls;
use limits::{Admission, Readers};
use lock::Lock;

/// How long flows may take to end when the agent stops.
const GRACE: Duration = Duration::from_secs(3);

/// How long what was recorded last may take to be shipped then.
const LAST_SHIPPED: Duration = Duration::from_secs(5);

/// Statements that are remembered as read: how many, and bytes of text in all.
const SCRIPTS: (usize, usize) = (10_000, 64 << 20);

/// How often files and cgroups that selectors name are looked at again.
const REFRESH: Duration = Duration::from_secs(1);

/// Every how many such looks users and groups that the host did not know are looked up again,
const ACCOUNTS: u32 = 10;

/// and bundles of trusted roots: the system's change with package updates.
const TRUST: u32 = 60;

/// What every flow and request works with.
pub(crate) struct Agent {
    config: Config,
    interceptor: Interceptor,
    policies: PolicyStore,
    /// The collector's orders about policies.
    central: Arc<Central>,
    credentials: Arc<Credentials>,
    recorder: Arc<Recorder>,
    shipping: Arc<Shipping>,
    approvals: Arc<Desk>,
    identity: Arc<Reader>,
    workloads: Workloads,
    traced: traced::Traced,
    /// People who have signed in.
    logins: Arc<Logins>,
    /// Itself, for tasks that outlive a request.
    me: Weak<Self>,
    tls: Arc<tls::Engine>,
    scripts: Arc<sql::Cache>,
    limits: Limits,
    counts: Counts,
    readers: Readers,
    questions: ahead::Questions,
    applied: Mutex<Applied>,
    /// Connections that the kernel side reports cannot be recorded.
    egress_fails: AtomicBool,
    shutdown: watch::Sender<bool>,
    since: jiff::Timestamp,
}

/// What the kernel side works by.
#[derive(Debug, Default)]
struct Applied {
    /// The last selection that was put in force whole, of this agent or an earlier one.
    last: Option<Selection>,
    /// That one is what the current policies select.
    current: bool,
    /// Why it is not.
    failure: Option<String>,
}

/// What `interlock status` counts.
#[derive(Debug, Default)]
struct Counts {
    flows: AtomicU64,
    open: AtomicU64,
    commands: AtomicU64,
    refused: AtomicU64,
    /// Tokens that were shown by processes that they are not for.
    tokens_refused: AtomicU64,
}

/// Runs the agent until it is told to stop.
///
/// # Errors
/// It could not start. What an earlier agent attached stays attached then, and refuses.
pub async fn run(config: Config, file: &Path) -> anyhow::Result<()> {
    let _lock = Lock::take(&config.run)?;
    let cgroup = match &config.cgroup {
        Some(cgroup) => cgroup.clone(),
        None => intercept::cgroup_root().context("cannot tell where to attach; set `cgroup:`")?,
    };
    let options = intercept::Options { cgroup, pins: intercept::pin_dir(&config.run) };
    let interceptor = Interceptor::attach(&options).context("cannot attach to the kernel")?;
    let last = selection::load(&config.state);
    // First of all what was designated before the host was started again is refused: whatever fails from
    // here on, it stays so.
    if interceptor.selects_nothing()?
        && let Some(last) = &last
        && let Err(error) = interceptor.hold(last)
    {
        tracing::warn!(%error, "the last selection cannot be put in force");
    }
    // Looked at before anything is written: a start that fails over and over must not fill the recording.
    PolicySet::load(&config.policies).context("cannot load the policies")?;
    let enrolment = ship::Store::new(&config.state);
    anyhow::ensure!(
        !config.ship.required || enrolment.is_enrolled(),
        "the configuration has `ship: {{required: true}}`, and this host is not enrolled with a collector: run \
         `interlock enroll URL --token-file -`"
    );
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
    let (credentials, warnings) =
        tokio::task::block_in_place(|| Credentials::load(&config.credentials, file))?;
    warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    let names = &tls.hosts() | &credentials.host_names();
    let central = Central::open(&config.state, recorder.public_key().fingerprint(), config.central_policies);
    let central = Arc::new(central.context("cannot go by the collector's policies")?);
    let policies = PolicyStore::load_with(&config.policies, &config.state, names, Some(Arc::clone(&central)))
        .context("cannot load the policies")?;
    let events = interceptor.events().context("the kernel's reports are taken already")?;
    let programs = interceptor.programs().context("cannot read what the kernel side knows of processes")?;

    let issuers = Arc::new(Issuers::new(&config.identity)?);
    let bindings = {
        let state = config.state.clone();
        Arc::new(tokio::task::spawn_blocking(move || Bindings::open(&state)).await?)
    };
    let logins = {
        let recorder = Arc::clone(&recorder);
        Logins::new(
            &issuers,
            Box::new(move |event| recorder.person(event).map_err(|error| error.to_string())),
        )?
    };

    refresh_trust(&config);
    let (shutdown, stopping) = watch::channel(false);
    let agent = Arc::new_cyclic(|me| Agent {
        interceptor,
        policies,
        central,
        credentials: Arc::new(credentials),
        recorder,
        shipping: Arc::default(),
        approvals: Desk::remembering(config.approvals.bounds(), &config.state),
        identity: Arc::new(Reader::new(Box::new(move |pid| programs.of(pid)))),
        workloads: Workloads::new(issuers, bindings),
        traced: traced::Traced::default(),
        logins,
        me: Weak::clone(me),
        tls,
        scripts: Arc::new(sql::Cache::new(SCRIPTS.0, SCRIPTS.1)),
        limits: Limits::default(),
        counts: Counts::default(),
        readers: Readers::default(),
        questions: ahead::Questions::default(),
        applied: Mutex::new(Applied { last, ..Applied::default() }),
        egress_fails: AtomicBool::new(false),
        shutdown,
        since: jiff::Timestamp::now(),
        config,
    });
    agent.record_policies()?;
    agent.put_in_force().map_err(|error| anyhow::anyhow!("cannot put the policies in force: {error}"))?;
    let admission = Arc::new(Admission::new());
    let control = Server::bind(&agent.config.run)
        .with_context(|| format!("cannot listen in {}", agent.config.run.display()))?;
    let control = tokio::spawn(control.serve(Arc::clone(&agent)));
    let credentials = Arc::clone(&agent.credentials);
    let refreshing = tokio::spawn(async move { credentials.keep_fresh().await });
    let (finish_shipping, finishing) = watch::channel(false);
    let shipper = tokio::spawn(agent.shipper(enrolment).run(finishing));
    let (changed, changes) = tokio::sync::mpsc::channel(1);
    let _watcher = Watcher::watch(&agent.config.policies, move || {
        // A change that is already announced is enough.
        let _ = changed.try_send(());
    })
    .inspect_err(|error| tracing::warn!(%error, "policy files are not watched; use `interlock reload`"));

    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let egress = tokio::spawn(egress::serve(Arc::clone(&agent), events, stopping.clone()));
    // Apart from the loop below: what they wait for must not keep flows waiting.
    let upkeep = [
        tokio::spawn(Arc::clone(&agent).reload_on(changes, signal(SignalKind::hangup())?)),
        tokio::spawn(Arc::clone(&agent).keep_fresh()),
        tokio::spawn(Arc::clone(&agent.logins).keep()),
        tokio::spawn(Arc::clone(&agent).watch_for_tracers()),
    ];
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
                match admission.admit(accepted.process.uid) {
                    Some(admitted) => {
                        let (agent, stopping) = (Arc::clone(&agent), stopping.clone());
                        flows.spawn(async move {
                            flow::serve(agent, accepted, stopping).await;
                            drop(admitted);
                        });
                    }
                    None => copy::reset(&accepted.stream),
                }
            }
            () = agent.interceptor.failed() => {
                // By now connections are refused. What is open goes with this process.
                anyhow::bail!("a part of interception has failed: see the log above");
            }
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
    if let Err(error) = agent.interceptor.refuse() {
        // The kernel side finds out by itself when this process has ended.
        tracing::warn!(%error, "cannot tell the kernel side to refuse yet");
    }
    tracing::info!("stopping; designated processes are refused from now on");
    for task in upkeep {
        task.abort();
        let _ = task.await;
    }
    control.abort();
    refreshing.abort();
    let _ = control.await;
    agent.shutdown.send_replace(true);
    let _ = tokio::time::timeout(GRACE, async { while flows.join_next().await.is_some() {} }).await;
    flows.shutdown().await;
    let _ = tokio::time::timeout(GRACE, egress).await;
    let recorder = Arc::clone(&agent.recorder);
    let closed = tokio::task::spawn_blocking(move || recorder.close()).await?;
    // What is not through by then is shipped at the next start.
    finish_shipping.send_replace(true);
    let mut shipper = shipper;
    if tokio::time::timeout(LAST_SHIPPED, &mut shipper).await.is_err() {
        shipper.abort();
    }
    closed.context("cannot close the recording")
}

/// Makes what clients are pointed to for their trusted roots. Trouble there holds up nothing: a client
/// that does not find the authority refuses, as it should.
fn refresh_trust(config: &Config) {
    if let Err(error) = crate::trust::refresh(config) {
        tracing::warn!("cannot make the bundles of trusted roots: {error:#}");
    }
}

impl Agent {
    /// What ships this agent's recording.
    fn shipper(self: &Arc<Self>, enrolment: ship::Store) -> Shipper {
        let agent = Arc::downgrade(self);
        let report = move || match agent.upgrade() {
            Some(agent) => ship::Report {
                policy_hash: agent.policies.current().hash().to_owned(),
                flows: agent.counts.open.load(Ordering::Relaxed),
                full: agent.recorder.status().refusing.is_some(),
                policy: agent.central.status(),
            },
            None => ship::Report::default(),
        };
        let (recorder, shipping) = (Arc::clone(&self.recorder), Arc::clone(&self.shipping));
        let orders = Arc::new(orders::Obeying(Arc::downgrade(self)));
        Shipper::new(enrolment, recorder, shipping, self.config.ship.keep, report)
            .with_orders(orders)
            .with_approvals(Arc::clone(&self.approvals))
            .with_tokens(Arc::clone(self.workloads.bindings()))
    }

    /// Does what waits for the kernel or for files off the tasks that serve flows.
    async fn in_background<T: Send + 'static>(self: &Arc<Self>, work: fn(&Self) -> T) -> Option<T> {
        let agent = Arc::clone(self);
        let done = tokio::task::spawn_blocking(move || work(&agent)).await;
        done.inspect_err(|error| tracing::error!(%error, "a task failed")).ok()
    }

    /// Reads the policies again whenever their files change or a SIGHUP comes.
    async fn reload_on(self: Arc<Self>, mut changes: tokio::sync::mpsc::Receiver<()>, mut hang_up: Signal) {
        loop {
            tokio::select! {
                Some(()) = changes.recv() => {}
                _ = hang_up.recv() => {}
            }
            drop(self.in_background(Self::reload).await);
        }
    }

    /// Looks again and again at what selectors name.
    async fn keep_fresh(self: Arc<Self>) {
        let mut refresh = tokio::time::interval(REFRESH);
        refresh.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        for round in 1_u32.. {
            refresh.tick().await;
            let _ = self.in_background(Self::refresh).await;
            if round % ACCOUNTS == 0 {
                let _ = self.in_background(Self::find_accounts).await;
            }
            if round % TRUST == 0 {
                let _ = self.in_background(|agent| refresh_trust(&agent.config)).await;
            }
        }
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
            Ok(changed) => {
                if changed {
                    self.applied().current = false;
                }
                self.put_in_force()?;
                if changed {
                    if let Err(error) = self.record_policies() {
                        tracing::error!(%error, "cannot record that policies changed");
                    }
                    tracing::info!(hash = self.policies.current().hash(), "policies reloaded");
                }
                Ok(changed)
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

    /// The processes that policies designate, and those that credentials tell apart.
    fn selection(&self) -> Selection {
        let mut selection = self.policies.current().selection();
        // Entries of the same id become one, with the policy's destinations.
        selection.entries.extend_from_slice(self.credentials.entries());
        selection
    }

    /// Tells the kernel side what the current policies select, unless it works by that already.
    fn put_in_force(&self) -> Result<(), String> {
        let mut applied = self.applied();
        if applied.current {
            return Ok(());
        }
        let selection = selection::keep_numbers(self.selection(), applied.last.as_ref());
        if let Err(error) = self.interceptor.apply(&selection) {
            let failure = format!("the policies were read, but could not be put in force whole: {error}");
            if applied.failure.as_ref() != Some(&failure) {
                tracing::error!("{failure}; this is tried again every second");
            }
            applied.failure = Some(failure.clone());
            return Err(failure);
        }
        if let Err(error) = selection::save(&self.config.state, &selection) {
            tracing::warn!(%error, "the selection cannot be kept: after a restart of the host an earlier one counts until the policies are read");
        }
        *applied = Applied { last: Some(selection), current: true, failure: None };
        Ok(())
    }

    fn applied(&self) -> std::sync::MutexGuard<'_, Applied> {
        self.applied.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn refresh(&self) {
        if let Err(error) = self.interceptor.refresh() {
            tracing::warn!(%error, "cannot look again at what selectors name");
        }
        self.look_after_orders();
        // The reason is logged when it is a new one.
        let _ = self.put_in_force();
    }

    /// Looks again for users and groups that the host did not know.
    fn find_accounts(&self) {
        if self.selection().entries.iter().any(|entry| entry.impossible) {
            let _ = self.reload();
        }
    }

    /// Tells the kernel side whether connections can be recorded.
    fn say_whether_recording(&self, works: bool) {
        match self.interceptor.set_recording(works) {
            Ok(()) => self.egress_fails.store(!works, Ordering::Relaxed),
            Err(error) => tracing::error!(%error, "cannot tell the kernel side whether recording works"),
        }
    }

    fn count(&self, counter: impl Fn(&Counts) -> &AtomicU64, n: u64) {
        counter(&self.counts).fetch_add(n, Ordering::Relaxed);
    }
}
