//! The collector at work.

use std::fs::DirBuilder;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use interlock_recording::ledger::proto::entry::Body;
use interlock_recording::ledger::proto::{HeadTaken, LedgerStarted};
use sha2::{Digest as _, Sha256};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::approvals::ask;
use crate::archive::Archive;
use crate::config::{Config, Retention};
use crate::intake::{self, Connected, Intake};
use crate::keeper::{KEPT, KeepError, Keeper};
use crate::keys::{self, Keys};
use crate::objects::Objects;
use crate::sign_in::Providers;
use crate::store::{LedgerStoreError, Store, StoreError, now_ns};
use crate::together::{self, Lead};
use crate::{audit, outputs, retention, web};

/// How often a checkpoint is signed over what has come to the ledger.
const CHECKPOINT: Duration = Duration::from_secs(1);
/// How often it is entered in the ledger how far hosts have come.
const HEADS: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

/// The database's file in the state directory.
const DATABASE: &str = "collector.db";

/// The parts of a collector, opened.
pub struct Parts {
    /// What taking in needs, and everything else.
    pub intake: Arc<Intake>,
    /// The collector's name.
    pub name: String,
}

/// The host's name.
fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// Opens a collector that is there.
///
/// # Errors
/// There is none, or as for [`open`].
pub async fn open_existing(config: &Config) -> anyhow::Result<Parts> {
    if config.store.is_some() {
        let store = open_store(config, false).await?;
        anyhow::ensure!(
            store.ledger_size().await? > 0,
            "there is no collector in this database yet: `interlock-collector serve` makes one"
        );
        return put_together(config, store).await;
    }
    let database = config.state.join(DATABASE);
    std::fs::metadata(&database).with_context(|| {
        format!(
            "there is no collector in {}, or none that you may read (its owner and root may): --state names another \
             directory, and `interlock-collector serve` makes one",
            config.state.display()
        )
    })?;
    open(config).await
}

/// Opens what is in the state directory, or makes a collector in one where there is nothing of one. With
/// `store` in the configuration the same of a database.
///
/// # Errors
/// Something in it is missing, or cannot be read or made, or it belongs to a collector of another name.
pub async fn open(config: &Config) -> anyhow::Result<Parts> {
    let store = open_store(config, false).await?;
    put_together(config, store).await
}

fn missing(config: &Config, what: &str) -> anyhow::Error {
    anyhow::anyhow!(
        "{} is of a collector that has been at work, and {what} is missing: restore it from a backup. What is made \
         anew would not be this collector's",
        config.state.display()
    )
}

fn make_state(config: &Config) -> anyhow::Result<()> {
    let state = &config.state;
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(state)
        .with_context(|| format!("cannot make the state directory {}", state.display()))
}

/// Opens the database. With `patient` it is waited for a server that is not there.
pub(crate) async fn open_store(config: &Config, patient: bool) -> anyhow::Result<Store> {
    if let Some(database) = &config.store {
        make_state(config)?;
        let store = Store::open_server(&database.server()?, patient)
            .await
            .with_context(|| format!("cannot work with {} (store.database)", database.database))?;
        let moving = store.fact("migration").await?.is_some_and(|mark| !mark.starts_with("done"));
        anyhow::ensure!(
            !moving,
            "a collector is being moved into {}, and not all of it is there: run `interlock-collector migrate` again, \
             to its end",
            database.database
        );
        return Ok(store);
    }
    let state = &config.state;
    if state.join(KEPT).exists() && !state.join(DATABASE).exists() {
        return Err(missing(config, DATABASE));
    }
    make_state(config)?;
    let database = state.join(DATABASE);
    // It holds what was recorded: for its owner alone, from the beginning.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    let store = Store::open_file(&database)
        .await
        .with_context(|| format!("cannot open the database {}", database.display()))?;
    if store.ledger_size().await? > 0 && config.keys.is_none() {
        let keys = ["keys/ledger.key", "authority/authority.key", "authority/authority.crt"];
        if let Some(lost) = keys.into_iter().find(|key| !state.join(key).exists()) {
            return Err(missing(config, lost));
        }
    }
    Ok(store)
}

/// The collector's name, which never changes.
async fn name(config: &Config, store: &Store) -> anyhow::Result<String> {
    if store.fact("name").await?.is_none() {
        let name = match (&config.name, &config.store) {
            (Some(name), _) => name.clone(),
            (None, None) => host_name(),
            (None, Some(_)) => anyhow::bail!(
                "`name` is not set: several collectors are one to those who check their proofs, so they need a name \
                 that is not one host's"
            ),
        };
        let mut write = store.write().await?;
        // Another collector may be first.
        write.set_fact_once("name", &name).await?;
        write.commit().await?;
    }
    let known = store.fact("name").await?.unwrap_or_default();
    match &config.name {
        Some(name) if known != *name => anyhow::bail!(
            "this collector's name is {known:?}, which stands in every proof that it has given; the configuration \
             calls it {name:?}. Set `name: {known}`"
        ),
        _ => Ok(known),
    }
}

/// Puts a collector together that works on this database.
///
/// # Errors
/// As for [`open`].
pub(crate) async fn put_together(config: &Config, store: Store) -> anyhow::Result<Parts> {
    let name = name(config, &store).await?;
    let Keys { signer, policies, authority } = keys::open(config, &store, &name).await?;
    let archive = match &config.segments {
        None => Archive::open(&config.state)?,
        Some(segments) => {
            rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
            let objects = Objects::new(&segments.s3).context("segments.s3")?;
            Archive::of_objects(&config.state, objects, segments.cache)?
        }
    };
    let mut write = store.write().await?;
    write.set_fact_once("ledger", "1").await?;
    write.lock_ledger().await?;
    if write.ledger_is_empty().await? {
        let started = LedgerStarted { origin: name.clone(), public_key: signer.public().as_bytes().to_vec() };
        write.append(vec![Body::LedgerStarted(started)]).await?;
    }
    write.commit().await?;
    // Two may have begun it at the same time.
    keys::fits(&store, &signer, &name).await?;
    let (checks, large) = Intake::turns();
    let intake = Intake {
        store: Arc::new(store),
        archive: Arc::new(archive),
        authority: Arc::new(authority),
        signer: Arc::new(signer),
        policy_signer: Arc::new(policies),
        connected: Arc::new(Connected::default()),
        shared: config.store.is_some(),
        checks,
        large,
        admission: intake::Admission::default(),
        quota: intake::Quota::of(&config.agents),
    };
    Ok(Parts { intake: Arc::new(intake), name })
}

/// The names that stand in the collector's certificate for agents.
pub fn names(config: &Config) -> Vec<String> {
    if !config.agents.names.is_empty() {
        return config.agents.names.clone();
    }
    let mut names = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
    let host = host_name();
    if !host.is_empty() && host != "localhost" {
        names.push(host);
    }
    let listen = config.agents.listen.ip();
    if !listen.is_unspecified() && !listen.is_loopback() {
        names.push(listen.to_string());
    }
    names
}

/// The URL that agents are enrolled with: the collector's most telling name.
pub fn agents_url(config: &Config) -> String {
    let names = names(config);
    let configured = !config.agents.names.is_empty();
    // A collector that only its own host can reach has no better name.
    let first = configured || config.agents.listen.ip().is_loopback();
    let name = if first { names.first() } else { names.last() };
    let name = name.map_or("localhost", String::as_str);
    let port = config.agents.listen.port();
    match name.parse::<std::net::Ipv6Addr>() {
        Ok(address) => format!("https://[{address}]:{port}"),
        Err(_) => format!("https://{name}:{port}"),
    }
}

/// The address that people use.
pub(crate) fn web_url(config: &Config, listens: std::net::SocketAddr) -> String {
    let host = host_name();
    let listens = match listens.ip().is_unspecified() && !host.is_empty() {
        true => format!("{host}:{}", listens.port()),
        false => listens.to_string(),
    };
    match (&config.web.url, &config.web.tls) {
        (Some(url), _) => url.trim_end_matches('/').to_owned(),
        (None, Some(_)) => format!("https://{listens}"),
        (None, None) => format!("http://{listens}"),
    }
}

/// How pages are served: behind a proxy with TLS as `web.url` says.
fn web_config(config: &Config) -> anyhow::Result<web::Config> {
    let url = config.web.url.as_deref().unwrap_or_default();
    let secure = config.web.tls.is_some() || url.starts_with("https://");
    let name = url.split_once("://").map(|(_, rest)| rest.split(['/', ':']).next().unwrap_or_default());
    let names = name.filter(|name| !name.is_empty()).map(str::to_owned).into_iter().collect();
    let sign_in = &config.sign_in;
    Ok(web::Config {
        secure,
        names,
        agents_url: agents_url(config),
        providers: Providers::new(sign_in, url.trim_end_matches('/'))?,
        idle: Duration::from_secs(u64::from(sign_in.idle_minutes) * 60),
        absolute: Duration::from_secs(u64::from(sign_in.hours) * 3600),
        outputs: outputs::Configured::all(config),
        slack: ask::slack_apps(&config.approvals)?,
        url: web_url(config, config.web.listen),
    })
}

/// What a provider's account was in before the configuration said that it does not count.
async fn keep_groups(config: &Config, store: &Store) -> Result<(), StoreError> {
    let oidc = config.sign_in.oidc.iter().map(|one| (&one.name, &one.approver_groups));
    let saml = config.sign_in.saml.iter().map(|one| (&one.name, &one.approver_groups));
    let mut write = store.write().await?;
    for (name, groups) in oidc.chain(saml) {
        let gone = write.keep_groups(name, groups).await?;
        if gone > 0 {
            let detail =
                format!("{gone} memberships count no longer: approver_groups does not name their groups");
            write.audit("configuration", "user.owner", name, &detail, "").await?;
        }
    }
    write.commit().await
}

/// Serves until SIGTERM or SIGINT.
///
/// # Errors
/// Something cannot be opened or listened on, or a server fails.
pub async fn serve(config: &Config) -> anyhow::Result<()> {
    let _lock = lock(config)?;
    let parts = {
        let store = tokio::select! {
            store = open_store(config, true) => store?,
            () = asked_to_end() => return Ok(()),
        };
        store.not_moved().await?;
        // Before anything is written into it.
        store.settle_journal().await?;
        put_together(config, store).await?
    };
    parts.intake.archive.clear()?;
    let keeper = Keeper::new(&config.state, config.checkpoints.clone());
    // Before anything is signed: what was signed and kept beside the database must still be so.
    keeper.check(&parts.intake).await?;
    let (stop, stopped) = watch::channel(false);
    let waits = |mut stopped: watch::Receiver<bool>| async move {
        let _ = stopped.wait_for(|stop| *stop).await;
    };
    let listener = TcpListener::bind(config.agents.listen)
        .await
        .with_context(|| format!("cannot listen on {} for agents (agents.listen)", config.agents.listen))?;
    let address = listener.local_addr()?;
    let agents = tokio::spawn({
        let (intake, names, stopped) = (Arc::clone(&parts.intake), names(config), waits(stopped.clone()));
        async move { intake::serve(intake, listener, &names, stopped).await }
    });
    let browsers = TcpListener::bind(config.web.listen)
        .await
        .with_context(|| format!("cannot listen on {} for browsers (web.listen)", config.web.listen))?;
    let url = web_url(config, browsers.local_addr()?);
    let web = tokio::spawn({
        let state = web::State::new(&parts.intake, web_config(config)?)?;
        let (tls, stopped) = (config.web.tls.clone(), waits(stopped.clone()));
        async move { web::serve(state, browsers, tls.as_ref(), stopped).await }
    });
    let lead = Arc::new(Lead::new()?);
    let checkpoints =
        tokio::spawn(sign_checkpoints(Arc::clone(&parts.intake), keeper, Arc::clone(&lead), stopped.clone()));
    let chores = tokio::spawn(chores(Arc::clone(&parts.intake), config.retention.clone(), Arc::clone(&lead)));
    let relay = parts.intake.shared.then(|| tokio::spawn(together::relay(Arc::clone(&parts.intake))));
    let intake = &parts.intake;
    let timing = outputs::Timing::default();
    let outputs =
        outputs::start(&config.outputs, &parts.name, &intake.store, &intake.connected, &stopped, timing)
            .await?;
    let base = web_url(config, config.web.listen);
    let (store, connected) = (&intake.store, &intake.connected);
    keep_groups(config, store).await?;
    let token_ns = crate::sign_in::token_ns(config.sign_in.token_days);
    let asker = ask::Asker { name: &parts.name, base: &base, token_ns };
    let asks = ask::start(&config.approvals, asker, store, connected, &stopped, timing).await?;
    tracing::info!(name = parts.name, "agents connect to {address}, people to {url}");
    if config.sign_in.local
        && let Some(path) = web::setup_link(&parts.intake.store).await?
    {
        tracing::info!("there is no account yet. Make the first administrator at {url}{path}");
    }

    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    let mut agents = agents;
    let mut checkpoints = checkpoints;
    let mut web = web;
    let outcome = tokio::select! {
        () = asked_to_end() => Ok(()),
        ended = &mut agents => ended.context("the server for agents")?.map_err(anyhow::Error::from),
        ended = &mut web => ended.context("the server for browsers")?,
        ended = &mut checkpoints => ended.context("the ledger")?,
    };
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    let _ = stop.send(true);
    chores.abort();
    if let Some(relay) = relay {
        relay.abort();
    }
    lead.release(&parts.intake.store).await;
    // Calls of agents do not end by themselves; what they have not been told is kept comes again.
    let _ = tokio::time::timeout(Duration::from_secs(2), async {
        if !agents.is_finished() {
            let _ = agents.await;
        }
        for output in outputs.into_iter().chain(asks) {
            let _ = output.await;
        }
    })
    .await;
    outcome
}

/// Ends when the process is asked to end.
async fn asked_to_end() {
    let (Ok(mut terminate), Ok(mut interrupt)) =
        (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        return;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

/// One collector for each state directory.
pub(crate) fn lock(config: &Config) -> anyhow::Result<std::fs::File> {
    make_state(config)?;
    let path = config.state.join("lock");
    let file = std::fs::OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&path)
        .with_context(|| format!("cannot open {}: run it as the directory's owner", path.display()))?;
    rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive).map_err(|_| {
        anyhow::anyhow!("another collector works in {} (it holds {})", config.state.display(), path.display())
    })?;
    Ok(file)
}

/// Signs what comes to the ledger, and hands checkpoints out. Of several collectors the one that leads does; the
/// others keep what it signed. A ledger that went back ends the collector: it must not go on as if nothing had
/// happened.
async fn sign_checkpoints(
    intake: Arc<Intake>,
    mut keeper: Keeper,
    lead: Arc<Lead>,
    mut stopped: watch::Receiver<bool>,
) -> anyhow::Result<()> {
    let mut heads = Instant::now();
    let mut failing = false;
    loop {
        let mut done = async {
            if lead.renew(&intake.store).await? {
                keeper.sign(&intake).await
            } else {
                keeper.follow(&intake).await
            }
        }
        .await;
        if done.is_ok() && lead.is_held() && Instant::now() >= heads {
            heads = Instant::now() + HEADS;
            done = enter_heads(&intake).await.map_err(KeepError::from);
        }
        match done {
            Ok(()) => failing = false,
            Err(KeepError::Final(why)) => anyhow::bail!(why),
            // A server may come back.
            Err(error) if intake.shared && failing => tracing::debug!("no checkpoint was signed: {error}"),
            Err(error) => {
                failing = true;
                tracing::error!("no checkpoint was signed: {error}");
            }
        }
        tokio::select! {
            () = async { drop(stopped.wait_for(|stop| *stop).await) } => return Ok(()),
            () = tokio::time::sleep(CHECKPOINT) => {}
        }
    }
}

/// Enters how far hosts have come in the ledger, so that what came live and is not sealed yet is covered too.
///
/// # Errors
/// The database or the ledger fails.
pub async fn enter_heads(intake: &Intake) -> Result<(), LedgerStoreError> {
    let mut write = intake.store.write().await?;
    let entries: Vec<Body> = write
        .heads_went()
        .await?
        .into_iter()
        .map(|went| {
            Body::HeadTaken(HeadTaken {
                host: Sha256::digest(&went.public_key).to_vec(),
                events: went.live.index,
                hash: went.live.hash.to_vec(),
                head_sha256: Sha256::digest(&went.head).to_vec(),
            })
        })
        .collect();
    if !entries.is_empty() {
        write.append(entries).await?;
    }
    Ok(write.commit().await?)
}

/// What is done now and then: retention, and the check of all that is kept. Of several collectors the one that
/// leads does it.
async fn chores(intake: Arc<Intake>, rules: Vec<Retention>, lead: Arc<Lead>) {
    let mut swept = false;
    let (mut retained, mut checked, mut pruned, mut ended) = (None, None, None, None);
    loop {
        if lead.is_held() {
            if !swept {
                swept = true;
                if let Err(error) = retention::sweep(&intake).await {
                    tracing::error!("what is left of deleted segments cannot be removed: {error}");
                }
            }
            if is_due(&intake, "retention", &mut retained, HOUR).await {
                match retention::apply(&intake, &rules).await {
                    Ok(0) => {}
                    Ok(deleted) => tracing::info!("retention deleted {deleted} segments"),
                    Err(error) => tracing::error!("retention: {error}"),
                }
            }
            if is_due(&intake, "approvals", &mut pruned, HOUR).await
                && let Err(error) = prune_approvals(&intake).await
            {
                tracing::error!("requests for approval that are too old cannot be removed: {error}");
            }
            if is_due(&intake, "tokens", &mut ended, HOUR).await
                && let Err(error) = prune_bound_tokens(&intake).await
            {
                tracing::error!("tokens that have ended cannot be removed: {error}");
            }
            if is_due(&intake, "check", &mut checked, 24 * HOUR).await
                && let Err(error) = audit::watch(&intake).await
            {
                tracing::error!("what is kept could not be checked: {error}");
            }
        }
        tokio::time::sleep(CHECKPOINT).await;
    }
}

/// Removes requests for approval whose session's recording is gone.
async fn prune_approvals(intake: &Intake) -> Result<(), StoreError> {
    loop {
        let mut write = intake.store.write().await?;
        let gone = write.prune_approvals().await?;
        write.commit().await?;
        if gone == 0 {
            return Ok(());
        }
        tracing::info!("{gone} old requests for approval were removed");
    }
}

/// Removes tokens of workloads that count no more.
async fn prune_bound_tokens(intake: &Intake) -> Result<(), StoreError> {
    let mut write = intake.store.write().await?;
    write.prune_bound_tokens().await?;
    write.commit().await
}

/// Whether something that is done so often is to be done now: by when this collector last did it, or when any of
/// several did. If it is, it counts as done.
async fn is_due(intake: &Intake, what: &str, last: &mut Option<Instant>, every: Duration) -> bool {
    if last.is_some_and(|last| last.elapsed() < every) {
        return false;
    }
    *last = Some(Instant::now());
    if !intake.shared {
        return true;
    }
    let fact = format!("last {what}");
    let due = async {
        let done: i64 =
            intake.store.fact(&fact).await?.and_then(|done| done.parse().ok()).unwrap_or_default();
        let since = now_ns().saturating_sub(done);
        if i64::try_from(every.as_nanos()).is_ok_and(|every| since < every) {
            return Ok(false);
        }
        let mut write = intake.store.write().await?;
        write.set_fact(&fact, &now_ns().to_string()).await?;
        write.commit().await.map(|()| true)
    };
    let due: Result<bool, StoreError> = due.await;
    if !matches!(due, Ok(true)) {
        // Whoever did it may not do it next time.
        *last = Instant::now().checked_sub(every.saturating_sub(Duration::from_secs(60)));
    }
    due.unwrap_or(false)
}
