//! Secrets that the agent is to hold, and scripts that it logs in.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::Result;
use serde_json::Value;
use tempfile::TempDir;

use crate::postgres::USER;
use crate::process::Finished;
use crate::secrets::OpenBao;
use crate::{Agent, Postgres, Stage};

/// A directory of root's, for secrets.
#[derive(Debug)]
pub struct Secrets(TempDir);

impl Secrets {
    /// An empty one.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn new() -> Result<Self> {
        Ok(Self(crate::temporary_directory("secrets")?))
    }

    /// Where they are.
    pub fn directory(&self) -> &Path {
        self.0.path()
    }

    /// The path of one of them.
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Writes a file as an operator rotates one: whole, under another name, then renamed. Gives its path.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write(&self, name: &str, text: &str, mode: u32) -> Result<String> {
        let temporary = self.path(".new");
        fs::write(&temporary, text)?;
        fs::set_permissions(&temporary, fs::Permissions::from_mode(mode))?;
        fs::rename(&temporary, self.path(name))?;
        Ok(self.path(name).display().to_string())
    }
}

/// Gives the role that scripts ask for another password.
///
/// # Errors
/// The server does not take it.
pub fn rotate(postgres: &Postgres, password: &str) -> Result<()> {
    postgres.admin(&format!("ALTER ROLE {USER} PASSWORD '{password}'")).map(drop)
}

/// `credentials:` with one entry, named shop-app, for the test's server.
pub fn entry(postgres: &Postgres, rest: &str) -> String {
    format!(
        "credentials:\n  - name: shop-app\n    destination: {{cidr: 127.0.0.1, port: {}, protocol: postgres}}\n    {}\n",
        postgres.port(),
        rest.replace('\n', "\n    ")
    )
}

/// The rest of an entry that asks scripts for nothing.
pub fn any(user: &str, source: &str) -> String {
    format!("client_auth: any\nlogin: {{user: {user}, password: {source}}}")
}

/// A `vault` source.
pub fn vault(openbao: &OpenBao, path: &str, auth: &str, rest: &str) -> String {
    format!("{{vault: {{address: \"{}\", path: {path}, auth: {auth}{rest}}}}}", openbao.address())
}

/// What the script prints.
///
/// # Errors
/// psql cannot be started.
pub fn asked(stage: &Stage) -> Result<Finished> {
    stage.psql("SELECT 'logged in as ' || current_user;")
}

/// The script gets in, as `user`.
///
/// # Panics
/// It does not.
#[track_caller]
#[allow(clippy::unwrap_used, reason = "a test panics when something is not as it must be")]
pub fn works_as(stage: &Stage, user: &str) {
    let printed = asked(stage).unwrap().expect_success();
    assert!(printed.contains(&format!("logged in as {user}\n")), "{printed}\n{}", stage.agent.log());
}

/// The script does not get in, and is told all of `what`.
///
/// # Panics
/// It is not so.
#[track_caller]
#[allow(clippy::unwrap_used, reason = "a test panics when something is not as it must be")]
pub fn fails_with(stage: &Stage, what: &[&str]) {
    let printed = asked(stage).unwrap().expect_failure();
    for what in what {
        assert!(printed.contains(what), "{what:?} is not in {printed}\n{}", stage.agent.log());
    }
}

/// Events of this name.
///
/// # Errors
/// The export fails.
pub fn events(agent: &Agent, name: &str) -> Result<Vec<Value>> {
    Ok(agent.events()?.into_iter().filter(|event| event["event"] == name).collect())
}
