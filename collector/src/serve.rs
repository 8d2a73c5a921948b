//! The collector at work.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use interlock_recording::ledger::proto::LedgerStarted;
use interlock_recording::ledger::proto::entry::Body;
use interlock_recording::note::Signer;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::archive::Archive;
use crate::authority::Authority;
use crate::config::{Config, Retention};
use crate::intake::{self, Connected, Intake};
use crate::store::{LedgerStoreError, Store};
use crate::{audit, retention, web};

/// How often a checkpoint is signed over what has come to the ledger.
const CHECKPOINT: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);

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

/// Opens what is in the state directory, and makes what is not there.
///
/// # Errors
/// Something in it cannot be read or made, or it belongs to a collector of another name.
pub async fn open(config: &Config) -> anyhow::Result<Parts> {
    let state = &config.state;
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(state)
        .with_context(|| format!("cannot make the state directory {}", state.display()))?;
    let database = state.join("collector.db");
    // It holds what was recorded: for its owner alone, from the beginning.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    let store = Store::open_file(&database)
        .await
        .with_context(|| format!("cannot open the database {}", database.display()))?;
    let name = match (store.fact("name").await?, &config.name) {
        (Some(known), Some(name)) if known != *name => anyhow::bail!(
            "this collector's name is {known:?}, which stands in every proof that it has given; the configuration \
             calls it {name:?}. Set `name: {known}`"
        ),
        (Some(known), _) => known,
        (None, name) => {
            let name = name.clone().unwrap_or_else(host_name);
            let mut write = store.write().await?;
            write.set_fact("name", &name).await?;
            write.commit().await?;
            name
        }
    };
    let keys = state.join("keys");
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&keys)
        .context("cannot make the directory of keys")?;
    let signer = Signer::load_or_create(&keys, "ledger", &name)?;
    let authority = Authority::load_or_create(&state.join("authority"), &name)?;
    let archive = Archive::open(state)?;
    let mut write = store.write().await?;
    write.set_fact_once("ledger", "1").await?;
    if write.ledger_is_empty().await? {
        let started = LedgerStarted { origin: name.clone(), public_key: signer.public().as_bytes().to_vec() };
        write.append(vec![Body::LedgerStarted(started)]).await?;
    }
    write.commit().await?;
    let intake = Intake {
        store: Arc::new(store),
        archive: Arc::new(archive),
        authority: Arc::new(authority),
        signer: Arc::new(signer),
        connected: Arc::new(Connected::default()),
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
fn web_url(config: &Config, listens: std::net::SocketAddr) -> String {
    match (&config.web.url, &config.web.tls) {
        (Some(url), _) => url.trim_end_matches('/').to_owned(),
        (None, Some(_)) => format!("https://{listens}"),
        (None, None) => format!("http://{listens}"),
    }
}

/// How pages are served: behind a proxy with TLS as `web.url` says.
fn web_config(config: &Config) -> web::Config {
    let url = config.web.url.as_deref().unwrap_or_default();
    let secure = config.web.tls.is_some() || url.starts_with("https://");
    let name = url.split_once("://").map(|(_, rest)| rest.split(['/', ':']).next().unwrap_or_default());
    let names = name.filter(|name| !name.is_empty()).map(str::to_owned).into_iter().collect();
    web::Config { secure, names, ..web::Config::default() }
}

/// Serves until SIGTERM or SIGINT.
///
/// # Errors
/// Something cannot be opened or listened on, or a server fails.
pub async fn serve(config: &Config) -> anyhow::Result<()> {
    let _lock = lock(config)?;
    let parts = open(config).await?;
    parts.intake.archive.clear()?;
    let mut write = parts.intake.store.write().await?;
    write.sign_checkpoint(&parts.intake.signer).await?;
    write.commit().await?;
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
        let state = web::State::new(&parts.intake, web_config(config))?;
        let (tls, stopped) = (config.web.tls.clone(), waits(stopped.clone()));
        async move { web::serve(state, browsers, tls.as_ref(), stopped).await }
    });
    let checkpoints = tokio::spawn(sign_checkpoints(
        Arc::clone(&parts.intake),
        config.checkpoints.clone(),
        stopped.clone(),
    ));
    let chores = tokio::spawn(chores(Arc::clone(&parts.intake), config.retention.clone()));
    tracing::info!(name = parts.name, "agents connect to {address}, people to {url}");
    if let Some(path) = web::setup_link(&parts.intake.store).await? {
        tracing::info!("there is no account yet. Make the first administrator at {url}{path}");
    }

    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    let mut agents = agents;
    let mut checkpoints = checkpoints;
    let mut web = web;
    let outcome = tokio::select! {
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
        ended = &mut agents => ended.context("the server for agents")?.map_err(anyhow::Error::from),
        ended = &mut web => ended.context("the server for browsers")?,
        ended = &mut checkpoints => ended.context("the ledger")?.map_err(anyhow::Error::from),
    };
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    let _ = stop.send(true);
    chores.abort();
    // Calls of agents do not end by themselves; what they have not been told is kept comes again.
    let _ = tokio::time::timeout(Duration::from_secs(2), async {
        if !agents.is_finished() {
            let _ = agents.await;
        }
    })
    .await;
    outcome
}

/// One collector for each state directory.
fn lock(config: &Config) -> anyhow::Result<std::fs::File> {
    DirBuilder::new().recursive(true).mode(0o700).create(&config.state)?;
    let path = config.state.join("lock");
    let file = std::fs::OpenOptions::new().create(true).truncate(false).write(true).open(&path)?;
    rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive).map_err(|_| {
        anyhow::anyhow!("another collector works in {} (it holds {})", config.state.display(), path.display())
    })?;
    Ok(file)
}

/// Signs what comes to the ledger. A ledger that went back ends the collector: it must not go on as if
/// nothing had happened.
async fn sign_checkpoints(
    intake: Arc<Intake>,
    export: Option<PathBuf>,
    mut stopped: watch::Receiver<bool>,
) -> Result<(), LedgerStoreError> {
    let mut exported = None;
    loop {
        let mut write = intake.store.write().await?;
        match write.sign_checkpoint(&intake.signer).await {
            Ok(note) => {
                write.commit().await?;
                if let Some(directory) = &export
                    && exported.as_ref() != Some(&note)
                {
                    match export_checkpoint(directory, &note) {
                        Ok(()) => exported = Some(note),
                        // It is tried again with the next round; the ledger goes on.
                        Err(error) => tracing::error!(
                            "the checkpoint was not written into {} (checkpoints): {error}",
                            directory.display()
                        ),
                    }
                }
            }
            Err(error @ LedgerStoreError::RolledBack { .. }) => return Err(error),
            Err(error) => tracing::error!("no checkpoint was signed: {error}"),
        }
        tokio::select! {
            _ = stopped.wait_for(|stop| *stop) => return Ok(()),
            () = tokio::time::sleep(CHECKPOINT) => {}
        }
    }
}

/// Writes a checkpoint under its own name, which is never written again, and as `latest`.
fn export_checkpoint(directory: &Path, note: &str) -> std::io::Result<()> {
    let size = note.lines().nth(1).unwrap_or_default();
    for name in [format!("checkpoint-{size}"), "latest".to_owned()] {
        let temporary = directory.join(format!(".{name}.tmp"));
        std::fs::write(&temporary, note)?;
        std::fs::rename(&temporary, directory.join(name))?;
    }
    Ok(())
}

/// What is done now and then: retention, and the check of all that is kept.
async fn chores(intake: Arc<Intake>, rules: Vec<Retention>) {
    if let Err(error) = retention::sweep(&intake).await {
        tracing::error!("files of deleted segments are left: {error}");
    }
    let (mut hourly, mut daily) = (tokio::time::interval(HOUR), tokio::time::interval(24 * HOUR));
    loop {
        tokio::select! {
            _ = hourly.tick() => match retention::apply(&intake, &rules).await {
                Ok(0) => {}
                Ok(deleted) => tracing::info!("retention deleted {deleted} segments"),
                Err(error) => tracing::error!("retention: {error}"),
            },
            _ = daily.tick() => {
                if let Err(error) = audit::watch(&intake).await {
                    tracing::error!("what is kept could not be checked: {error}");
                }
            }
        }
    }
}
