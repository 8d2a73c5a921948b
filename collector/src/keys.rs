//! The keys of a ledger, of its authority and of orders about policies. All collectors of one ledger have the same ones.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;

use anyhow::Context as _;
use interlock_recording::hex;
use interlock_recording::ledger::decode;
use interlock_recording::ledger::proto::LedgerStarted;
use interlock_recording::ledger::proto::entry::Body;
use interlock_recording::note::Signer;

use crate::authority::Authority;
use crate::config::Config;
use crate::intake::Intake;
use crate::store::Store;

/// The fact that names the authority by the SHA-256 of its certificate.
const AUTHORITY: &str = "authority";

/// The fact that names the key of orders about policies.
const POLICIES: &str = "policies key";

/// The files that are the keys.
const FILES: [&str; 4] = ["ledger.key", "policies.key", "authority.key", "authority.crt"];

/// What is wrong with the files of a directory that all collectors have the same of.
pub(crate) fn check_files(directory: &Path) -> Vec<anyhow::Error> {
    let open = |file: &str| {
        let path = directory.join(file);
        std::fs::File::open(&path).with_context(|| format!("keys: cannot read {}", path.display())).err()
    };
    FILES.into_iter().filter_map(open).collect()
}

/// The keys.
pub(crate) struct Keys {
    /// Of the ledger's checkpoints.
    pub(crate) signer: Signer,
    /// Of orders about policies.
    pub(crate) policies: Signer,
    /// Of certificates.
    pub(crate) authority: Authority,
}

/// Makes a directory for its owner alone, unless it is there.
fn make(directory: &Path) -> anyhow::Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .with_context(|| format!("cannot make the directory of keys {}", directory.display()))
}

/// Makes keys for a ledger of this name in a directory that has none.
///
/// # Errors
/// There are some, or they cannot be written.
pub fn create(directory: &Path, name: &str) -> anyhow::Result<String> {
    if let Some(there) = FILES.into_iter().find(|file| directory.join(file).exists()) {
        anyhow::bail!("{} is there already: keys are made once", directory.join(there).display());
    }
    make(directory)?;
    let signer = Signer::load_or_create(directory, "ledger", name)?;
    Signer::load_or_create(directory, "policies", &of_policies(name))?;
    Authority::load_or_create(directory, name)?;
    Ok(signer.public().to_string())
}

/// Reads the keys in a directory that all collectors have the same of.
fn load(directory: &Path, name: &str) -> anyhow::Result<Keys> {
    for file in FILES {
        let path = directory.join(file);
        if path.try_exists().with_context(|| {
            format!("{} cannot be looked at: who runs this must be able to read it", path.display())
        })? {
            continue;
        }
        anyhow::bail!(
            "{} is missing. All collectors of a ledger have the same keys: `interlock-collector keys create DIR` makes \
             them once, and each gets a copy. Those of a collector that was moved here are in keys/ and authority/ of \
             its state directory",
            path.display()
        );
    }
    Ok(Keys {
        signer: Signer::load(directory, "ledger", name)?,
        policies: Signer::load(directory, "policies", &of_policies(name))?,
        authority: Authority::load(directory)?,
    })
}

/// The name of the key of orders about policies.
fn of_policies(name: &str) -> String {
    format!("{name}/policies")
}

/// The keys that the configuration names, or those in the state directory, which are made there when the
/// database is this collector's own.
///
/// # Errors
/// They are missing, or cannot be read or made, or the ledger in the database is another key's.
pub(crate) async fn open(config: &Config, store: &Store, name: &str) -> anyhow::Result<Keys> {
    let keys = match &config.keys {
        Some(directory) => load(directory, name)?,
        None if config.store.is_some() => anyhow::bail!(
            "`keys` is not set, and the database is one that several collectors share: name the directory with the \
             ledger's and the authority's keys, which all of them have the same of (`interlock-collector keys create \
             DIR` makes them once)"
        ),
        None => {
            let directory = config.state.join("keys");
            make(&directory)?;
            Keys {
                signer: Signer::load_or_create(&directory, "ledger", name)?,
                policies: Signer::load_or_create(&directory, "policies", &of_policies(name))?,
                authority: Authority::load_or_create(&config.state.join("authority"), name)?,
            }
        }
    };
    fits(store, &keys.signer, name).await?;
    if config.store.is_none() {
        told_of(store, &keys.policies).await?;
    }
    if config.store.is_some() {
        let mut write = store.write().await?;
        let own = hex(&keys.authority.fingerprint());
        write.set_fact_once(AUTHORITY, &own).await?;
        let orders = keys.policies.public().to_string();
        write.set_fact_once(POLICIES, &orders).await?;
        write.commit().await?;
        let known = store.fact(POLICIES).await?.unwrap_or_default();
        anyhow::ensure!(
            known == orders,
            "policies.key is {orders}, the other collectors' {known}: agents would refuse its orders. Copy it from one \
             of them"
        );
        let known = store.fact(AUTHORITY).await?.unwrap_or_default();
        anyhow::ensure!(
            known == own,
            "the authority's certificate has SHA-256 {own}, the other collectors' {known}: agents of one would be \
             refused by the others. Copy authority.key and authority.crt from one of them. If the authority was \
             exchanged on purpose, and every agent is to be enrolled anew: `interlock-collector keys adopt`"
        );
    }
    Ok(keys)
}

/// Hosts keep the first key of orders that they are told: another one is of no use to them, and recordings
/// are taken in all the same.
async fn told_of(store: &Store, signer: &Signer) -> anyhow::Result<()> {
    let own = signer.public().to_string();
    let known = match store.fact(POLICIES).await? {
        Some(known) => known,
        None => {
            let mut write = store.write().await?;
            write.set_fact_once(POLICIES, &own).await?;
            write.commit().await?;
            own.clone()
        }
    };
    if known != own {
        tracing::error!(
            "the key of orders about policies (policies.key) is {own}, and hosts were told {known}: they refuse what is \
             ordered now. Restore that key, or enrol them anew"
        );
    }
    Ok(())
}

/// The ledger's first entry names its key: it must be this one.
///
/// # Errors
/// It is another one, or the database fails.
pub(crate) async fn fits(store: &Store, signer: &Signer, name: &str) -> anyhow::Result<()> {
    let Some(first) = store.ledger_entries(0, 1).await?.pop() else { return Ok(()) };
    let started = match decode(&first.bytes).map(|entry| entry.body) {
        Ok(Some(Body::LedgerStarted(started))) => started,
        // What is wrong with it is for `verify` to say.
        _ => return Ok(()),
    };
    let LedgerStarted { origin, public_key } = started;
    anyhow::ensure!(
        public_key == signer.public().as_bytes() && origin == name,
        "the ledger in the database was begun as {origin} with the key {}, and ledger.key is {} of {name}: it is another \
         ledger's. Nothing is signed with it. Copy the right one from another collector, or name the right database",
        hex(&public_key),
        hex(signer.public().as_bytes()),
    );
    Ok(())
}

/// Checks that the keys that `config` names are those of `intake`.
///
/// # Errors
/// They are not, or cannot be read.
pub(crate) fn same(config: &Config, intake: &Intake, name: &str) -> anyhow::Result<()> {
    let keys = load(config.keys.as_deref().context("`keys` is not set")?, name)?;
    anyhow::ensure!(
        keys.signer.public() == intake.signer.public()
            && keys.authority.fingerprint() == intake.authority.fingerprint(),
        "the keys that `keys` names are not those of the collector"
    );
    Ok(())
}

/// Has the authority that is configured take the place of the one before.
///
/// # Errors
/// The keys or the database cannot be read or written.
pub async fn adopt(config: &Config, store: &Store, who: &str) -> anyhow::Result<String> {
    let directory = config.keys.as_deref().context("`keys` is not set")?;
    let own = hex(&Authority::load(directory)?.fingerprint());
    let mut write = store.write().await?;
    write.set_fact(AUTHORITY, &own).await?;
    write.audit(who, "authority.adopt", &own, "", "").await?;
    write.commit().await?;
    Ok(own)
}
