//! `interlock trust status`: asks each client that is found whether it accepts the authority.
//!
//! Not by looking into its configuration: it is pointed to a server on loopback whose certificate the
//! authority has signed, and the server sees whether it goes on.

mod clients;
mod context;
mod server;

use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use serde::Serialize;

use super::files::{self, Entry};
use super::manifest::{Change, Manifest};
use super::store::Family;
use super::{Authority, Host, process};
use crate::config::Config;
use clients::{CLIENTS, Client};
use context::Context;
use server::{Identity, Seen, Server};

/// In what environment clients are asked.
#[derive(Debug, Clone)]
pub(super) enum Where {
    Shell,
    Run,
    Unit(String),
}

/// What was found.
#[derive(Debug, Serialize)]
pub(super) struct Status {
    /// SHA-256 of the authority's certificate, hex.
    pub(super) authority: String,
    /// In what environment clients were asked.
    pub(super) environment: String,
    /// An installation's manifest is there.
    pub(super) installed: bool,
    /// What was installed and is no longer as it was left, and what else is to be known.
    pub(super) notes: Vec<String>,
    pub(super) clients: Vec<Answer>,
}

/// What one client did.
#[derive(Debug, Serialize)]
pub(super) struct Answer {
    pub(super) client: String,
    pub(super) program: PathBuf,
    /// What it was asked to do.
    pub(super) asked: String,
    pub(super) accepts: bool,
    /// Why it does not.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) why: String,
}

/// Asks all clients that are found, or those of the given names.
pub(super) fn status(
    config: &Config,
    place: &Where,
    only: &[String],
    limit: Duration,
) -> anyhow::Result<Status> {
    let host = Host::new(config, None);
    for name in only {
        anyhow::ensure!(
            CLIENTS.iter().any(|client| client.name == name),
            "no client is called `{name}`; they are: {}",
            CLIENTS.iter().map(|client| client.name).collect::<Vec<_>>().join(", ")
        );
    }
    let authority = Authority::load(&host)?;
    // The authority's key is read: no core dump may hold it.
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)
        .context("cannot turn core dumps off")?;
    let identity = Identity::mint(&authority, &crate::tls::Authority::key_path(&host.state))?;
    let context = match place {
        Where::Shell => Context::shell(limit),
        Where::Run => Context::run(config, limit),
        Where::Unit(name) => Context::unit(&host, name, limit)?,
    };
    let scratch = Scratch::new()?;
    let mut answers = Vec::new();
    for client in CLIENTS {
        let wanted = only.is_empty() || only.iter().any(|name| name == client.name);
        let Some(program) = context.find(client.program).filter(|_| wanted) else { continue };
        if (client.applies)(&context, &program) {
            answers.push(ask(client, &context, &program, &identity, &scratch.0)?);
        }
    }
    let manifest = Manifest::read(&host.manifest())?;
    let mut notes = manifest.as_ref().map(|manifest| drift(&host, &authority, manifest)).unwrap_or_default();
    if manifest.is_none() {
        notes.push("nothing is installed: `interlock trust install`".to_owned());
    }
    notes.push("ssh: not intercepted yet, so nothing is installed for it".to_owned());
    Ok(Status {
        authority: authority.fingerprint(),
        environment: context.name,
        installed: manifest.is_some(),
        notes,
        clients: answers,
    })
}

fn ask(
    client: &Client,
    context: &Context,
    program: &Path,
    identity: &Identity,
    directory: &Path,
) -> anyhow::Result<Answer> {
    let server = Server::start(identity)?;
    let mut command = clients::command(client, context, program, server.port(), directory)?;
    let finished = process::finish(&mut command, context.limit)?;
    let words = finished.reason().chars().take(200).collect::<String>();
    let (accepts, why) = match server.seen() {
        Seen::Accepted => (true, String::new()),
        Seen::Refused(alert) => (false, format!("refused ({alert}): {words}; {}", client.help)),
        Seen::Left => (false, format!("refused: {words}; {}", client.help)),
        Seen::Nothing if finished.status.is_none() => {
            (false, format!("did not connect within {} s", context.limit.as_secs()))
        }
        Seen::Nothing => (false, format!("could not be asked: {words}")),
    };
    let (client, asked) = (client.name.to_owned(), client.asks.to_owned());
    Ok(Answer { client, program: program.to_owned(), asked, accepts, why })
}

/// What is not as the installation left it.
fn drift(host: &Host, authority: &Authority, manifest: &Manifest) -> Vec<String> {
    let mut notes = Vec::new();
    if manifest.authority != authority.pem {
        notes.push(
            "another authority is installed than the present one: `interlock trust install` again".to_owned(),
        );
    }
    for change in &manifest.changes {
        match change {
            Change::Directory { .. } => {}
            Change::Store { after, .. } => {
                let holds = Family::of(host).is_some_and(|family| family.holds(host, authority));
                if after.is_none() || !holds {
                    notes.push(
                        "the system's store does not hold the authority (any more): `interlock trust install` again"
                            .to_owned(),
                    );
                }
            }
            Change::File { path, written, .. } => match files::look(&host.at(path)) {
                Ok(there) if written.iter().any(|digest| there.holds(digest)) => {}
                Ok(Entry::Absent) => {
                    notes.push(format!("{} is gone: `interlock trust install` again", path.display()));
                }
                Ok(_) => notes.push(format!("{} was changed by others since", path.display())),
                Err(error) => notes.push(format!("{}: {error}", path.display())),
            },
        }
    }
    for bundle in &manifest.bundles {
        let path = bundle.path(host);
        if !host.at(&path).is_file() {
            notes.push(format!(
                "{} is missing: the agent makes it when it starts, `interlock trust install` at once",
                path.display()
            ));
        }
    }
    notes
}

/// A directory that all users may read, deleted when dropped: a unit's user runs what is in it.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> anyhow::Result<Self> {
        let base = std::env::temp_dir();
        for number in 0..100u32 {
            let path = base.join(format!("interlock-trust-status-{}-{number}", std::process::id()));
            if DirBuilder::new().mode(0o755).create(&path).is_ok() {
                return Ok(Self(path));
            }
        }
        anyhow::bail!("cannot make a directory in {}", base.display())
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
