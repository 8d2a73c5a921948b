//! Credentials that the agent holds, so that scripts need not: which log-in goes with which connection,
//! where its secret comes from, and how it is kept and refreshed.
//!
//! [`Credentials::load`] once per agent, [`Credentials::for_flow`] once per flow. A protocol asks
//! `FlowCredentials::find` once it knows the user, then `Credential::login`. See
//! `docs/credentials.md`.

mod check;
pub(crate) mod cli;
mod config;
mod held;
pub(crate) mod secret;
mod source;
pub(crate) mod verifier;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

pub use config::{
    ApproleConfig, AwsConfig, AwsKeys, ClientAuth, CredentialConfig, ExecConfig, ExecOutput, LoginConfig,
    ServerAuth, SourceConfig, VaultAuth, VaultConfig, VerifierText,
};
pub(crate) use held::Login;
pub use source::SourceError;
pub(crate) use source::read_private;

use crate::intercept::Entry;
use crate::policy::{Destination, EntryId, Hosts, Meant, NameSelector};
use held::Held;
use source::Source;
use verifier::{KEY, Verifier, Verifiers};

/// Why a connection that a credential is meant for is refused.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CredentialError {
    /// Its secret cannot be had.
    #[error("the password of credential {name:?} cannot be had: {error}")]
    Source {
        /// The credential.
        name: Arc<str>,
        /// What is wrong, and what to do.
        error: SourceError,
    },
    /// No user to log in as is known.
    #[error("credential {name:?} has no `login.user`, and its source names none; write one")]
    NoUser {
        /// The credential.
        name: Arc<str>,
    },
    /// Its destination is a host whose name has not been looked up yet.
    #[error(
        "whether credential {name:?} is meant cannot be told: the name {host} has not been answered; see \
         that this host can look it up, or name the server by `cidr`"
    )]
    Host {
        /// The credential.
        name: Arc<str>,
        /// The host.
        host: Arc<str>,
    },
}

/// All credentials, in order.
#[derive(Debug, Default)]
pub struct Credentials {
    all: Vec<Arc<Credential>>,
    entries: Vec<Entry>,
}

/// One credential.
#[derive(Debug)]
pub struct Credential {
    name: Arc<str>,
    config: CredentialConfig,
    /// Ids of the process entries that get it; `None` is every process.
    subjects: Option<Vec<EntryId>>,
    verifiers: Option<Verifiers>,
    /// What the verifiers of users who do not exist are made with.
    mock_key: [u8; KEY],
    held: Held,
}

/// The credentials that may be meant for one flow.
#[derive(Debug, Clone, Default)]
pub struct FlowCredentials(Arc<[Candidate]>);

#[derive(Debug)]
struct Candidate {
    credential: Arc<Credential>,
    /// The host that it is for, if the flow's destination cannot be told to be that host.
    unknown: Option<Arc<str>>,
}

// === impl Credentials ===

impl Credentials {
    /// Checks the credentials of `file`, the agent's configuration. What could not be meant, but does no
    /// harm, is given as warnings.
    ///
    /// # Errors
    /// The first thing that is wrong, with what to do.
    pub fn load(config: &[CredentialConfig], file: &Path) -> anyhow::Result<(Self, Vec<String>)> {
        let mut warnings = Vec::new();
        if !config.is_empty() {
            check_configuration(file)?;
        }
        let mut loaded = Self::default();
        for (index, one) in config.iter().enumerate() {
            let told = |message: String| anyhow::anyhow!("credential {:?}: {message}", one.name);
            check_name(&one.name)?;
            if config.iter().take(index).any(|other| other.name == one.name) {
                return Err(told(SAME_NAME.to_owned()));
            }
            if let Some(broad) = shadowing(config, index) {
                warnings.push(format!("credential {:?} {}", one.name, never_used(broad)));
            }
            let mut noted = Vec::new();
            let (credential, entries) = Credential::new(one, &mut noted).map_err(told)?;
            credential.look_at_file(&mut noted).map_err(told)?;
            warnings.extend(noted.iter().map(|note| format!("credential {:?}: {note}", one.name)));
            loaded.all.push(Arc::new(credential));
            for entry in entries {
                if loaded.entries.iter().all(|known| known.id != entry.id) {
                    loaded.entries.push(entry);
                }
            }
        }
        Ok((loaded, warnings))
    }

    /// The process entries that `subjects` name. They redirect nothing.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The host names that destinations name.
    pub fn host_names(&self) -> BTreeSet<Arc<str>> {
        self.all.iter().filter_map(|credential| credential.config.destination.host()).collect()
    }

    /// Those that may be meant for a flow of a process that these entries take in.
    pub fn for_flow(&self, entries: &[EntryId], destination: &Destination, hosts: &Hosts) -> FlowCredentials {
        let candidate = |credential: &Arc<Credential>| {
            let subjects = credential.subjects.as_ref();
            if subjects.is_some_and(|ids| !ids.iter().any(|id| entries.contains(id))) {
                return None;
            }
            let selector = &credential.config.destination;
            let unknown = match selector.meant(destination, hosts) {
                Meant::No => return None,
                Meant::Yes => None,
                Meant::Unknown => selector.host(),
            };
            Some(Candidate { credential: Arc::clone(credential), unknown })
        };
        FlowCredentials(self.all.iter().filter_map(candidate).collect())
    }

    /// How each is, in order: name, source, state, times and the last error, never a secret.
    pub fn status(&self) -> serde_json::Value {
        self.all.iter().map(|credential| credential.held.status()).collect()
    }

    /// Fetches what takes a while to fetch before it is needed, and again before it expires. Ends never.
    pub async fn keep_fresh(&self) {
        let mut tasks = tokio::task::JoinSet::new();
        for credential in &self.all {
            let credential = Arc::clone(credential);
            tasks.spawn(async move { credential.held.keep_fresh().await });
        }
        while tasks.join_next().await.is_some() {}
        std::future::pending::<()>().await;
    }
}

const SAME_NAME: &str = "another one has the same name; choose a name for each";

/// The entry that takes all of the connections that this one is for.
fn shadowing(config: &[CredentialConfig], index: usize) -> Option<&CredentialConfig> {
    let one = config.get(index)?;
    config.iter().take(index).find(|other| other.covers(one))
}

fn never_used(broad: &CredentialConfig) -> String {
    format!("is never used: {:?} before it takes all of its connections", broad.name)
}

/// Who can change the configuration can have the agent send passwords anywhere.
fn check_configuration(file: &Path) -> anyhow::Result<()> {
    use std::os::unix::fs::MetadataExt as _;
    let metadata = std::fs::metadata(file)
        .map_err(|error| anyhow::anyhow!("cannot look at {}: {error}", file.display()))?;
    let own = rustix::process::geteuid().as_raw();
    if (metadata.uid() != 0 && metadata.uid() != own) || metadata.mode() & 0o022 != 0 {
        anyhow::bail!(
            "{} holds credentials and can be changed by others than root; chown root and chmod go-w it",
            file.display()
        );
    }
    Ok(())
}

fn check_name(name: &str) -> anyhow::Result<()> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.is_empty() || name.len() > 100 || !name.chars().all(plain) {
        anyhow::bail!("credential {name:?}: a name is 1 to 100 letters, digits, `-`, `_` and `.`");
    }
    Ok(())
}

impl CredentialConfig {
    /// Whatever `other` is for, this is for, too. May say no where the answer is yes.
    fn covers(&self, other: &Self) -> bool {
        let name = |broad: &Option<NameSelector>, narrow: &Option<NameSelector>| match (broad, narrow) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(broad), Some(narrow)) => broad.covers(narrow),
        };
        self.subjects.is_empty()
            && self.destination.covers(&other.destination)
            && name(&self.user, &other.user)
            && name(&self.database, &other.database)
    }
}

// === impl Credential ===

impl Credential {
    fn new(config: &CredentialConfig, warnings: &mut Vec<String>) -> Result<(Self, Vec<Entry>), String> {
        if !config.destination.names_a_server() {
            return Err("its destination is any server that the script names, and would be given the \
                        password; write `host` or `cidr`"
                .to_owned());
        }
        for text in [&config.login.user, &config.login.database].into_iter().flatten() {
            if text.is_empty() || text.len() > 255 || text.contains('\0') {
                return Err(format!("{text:?} is no name to log in with"));
            }
        }
        let verifiers = verifiers(config)?;
        let entries: Vec<Entry> =
            config.subjects.iter().map(|subject| subject.entry(warnings)).collect::<Result<_, _>>()?;
        let source = Source::new(&config.login.password).map_err(|error| error.to_string())?;
        let mut mock_key = [0; KEY];
        interlock_recording::fill_random(&mut mock_key).map_err(|error| error.to_string())?;
        let name: Arc<str> = config.name.as_str().into();
        let credential = Self {
            held: Held::new(Arc::clone(&name), config.login.user.clone(), source),
            name,
            subjects: (!config.subjects.is_empty()).then(|| entries.iter().map(|entry| entry.id).collect()),
            verifiers,
            mock_key,
            config: config.clone(),
        };
        Ok((credential, entries))
    }

    /// Files can be looked at at once; other sources are asked in the background.
    fn look_at_file(&self, warnings: &mut Vec<String>) -> Result<(), String> {
        if matches!(self.held.source(), Source::File(_)) {
            match self.held.source().fetch() {
                Ok(_) => {}
                Err(error) if error.forbidden => return Err(error.to_string()),
                Err(error) => warnings.push(format!("{error}; until then its connections are refused")),
            }
        }
        Ok(())
    }

    /// Its name.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// What the script's password is checked against; `None` when it need not show one. A user who does
    /// not exist gets a verifier that no password fits.
    pub(crate) fn verifier(&self, user: &str) -> Option<Verifier> {
        let known = self.verifiers.as_ref()?.of(user);
        Some(known.cloned().unwrap_or_else(|| Verifier::mock(&self.mock_key, user)))
    }

    /// The database to log in to, for a script that asks for this one.
    pub(crate) fn database<'a>(&'a self, asked: &'a str) -> &'a str {
        self.config.login.database.as_deref().unwrap_or(asked)
    }

    /// Ways of logging in that are allowed.
    pub(crate) fn server_auth(&self) -> ServerAuth {
        self.config.server_auth
    }

    /// What to log in with now.
    ///
    /// # Errors
    /// It cannot be had: the connection must be refused.
    pub(crate) async fn login(&self) -> Result<Arc<Login>, CredentialError> {
        self.held.get().await
    }

    /// What to log in with after the server has refused `refused`: `None` when the source still gives
    /// the same.
    ///
    /// # Errors
    /// As [`Credential::login`].
    pub(crate) async fn login_after(&self, refused: &Login) -> Result<Option<Arc<Login>>, CredentialError> {
        let now = self.held.get_other_than(refused).await?;
        let same = now.user == refused.user && now.password() == refused.password();
        Ok((!same).then_some(now))
    }
}

fn verifiers(config: &CredentialConfig) -> Result<Option<Verifiers>, String> {
    const HELP: &str =
        "write `verifier: SCRAM-SHA-256$4096:…` (SELECT rolpassword FROM pg_authid) or `verifier_file`";
    match (config.client_auth, &config.verifier, &config.verifier_file) {
        (ClientAuth::Any, None, None) => Ok(None),
        (ClientAuth::Any, ..) => {
            Err("`client_auth: any` checks no password; take the verifier out, or write \
                                      `client_auth: match`"
                .to_owned())
        }
        (ClientAuth::Match, None, None) => {
            Err(format!("`client_auth: match` has nothing to check the script's password against; {HELP}"))
        }
        (ClientAuth::Match, Some(_), Some(_)) => {
            Err("`verifier` and `verifier_file` cannot both be given; keep one".to_owned())
        }
        (ClientAuth::Match, Some(text), None) => match Verifier::parse(&text.0) {
            Some(verifier) => Ok(Some(Verifiers::One(verifier))),
            None => Err(format!("`verifier` is no SCRAM-SHA-256 verifier; {HELP}")),
        },
        (ClientAuth::Match, None, Some(path)) => {
            let text = source::read_text(path).map_err(|error| error.to_string())?;
            let read = Verifiers::parse_file(&text);
            read.map(Some).map_err(|error| format!("{}: {error}; {HELP}", path.display()))
        }
    }
}

// === impl FlowCredentials ===

impl FlowCredentials {
    /// The credential for a client that asks for this user and database: the first that fits. `None`
    /// when there is none: the client's own log-in passes through.
    ///
    /// # Errors
    /// Whether one fits cannot be told: the connection must be refused.
    pub(crate) fn find(
        &self,
        user: &str,
        database: &str,
    ) -> Result<Option<&Arc<Credential>>, CredentialError> {
        let fits =
            |names: &Option<NameSelector>, name| names.as_ref().is_none_or(|names| names.matches(name));
        let found = self.0.iter().find(|candidate| {
            let config = &candidate.credential.config;
            fits(&config.user, user) && fits(&config.database, database)
        });
        match found {
            None => Ok(None),
            Some(Candidate { credential, unknown: None }) => Ok(Some(credential)),
            Some(Candidate { credential, unknown: Some(host) }) => {
                Err(CredentialError::Host { name: Arc::clone(&credential.name), host: Arc::clone(host) })
            }
        }
    }
}

#[cfg(test)]
mod tests;
