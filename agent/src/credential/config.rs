//! `credentials:` in agent.yaml. The documentation of these fields is the reference.

use std::fmt;
use std::path::PathBuf;

use serde::Deserialize;

use crate::policy::{DestinationSelector, NameSelector, ProcessSelector};

/// One credential: who gets which log-in, where. The first in the list that fits a connection is taken.
#[derive(Debug, Clone, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CredentialConfig {
    /// Its name. Recordings, errors and the agent's log bear it.
    pub name: String,
    /// The server, as in a policy's `destinations`. It names a `host` or `cidr`.
    pub(crate) destination: DestinationSelector,
    /// The user that the script asks for: a glob, or a list of them; any when left out.
    #[serde(default)]
    pub(crate) user: Option<NameSelector>,
    /// The database that the script asks for: a glob, or a list of them; any when left out.
    #[serde(default)]
    pub(crate) database: Option<NameSelector>,
    /// The processes that get it: any of these entries, written as in a policy's `processes`; every
    /// process that the policies designate when left out.
    #[serde(default)]
    pub(crate) subjects: Vec<ProcessSelector>,
    /// What the script has to show.
    pub client_auth: ClientAuth,
    /// With `client_auth: match`: what the script's own password is checked against, as PostgreSQL keeps
    /// it, `SCRAM-SHA-256$4096:…`.
    #[serde(default)]
    pub verifier: Option<VerifierText>,
    /// The same in a file of root's: one verifier, or lines of a user's name and a verifier.
    #[serde(default)]
    pub verifier_file: Option<PathBuf>,
    /// What the agent logs in as.
    pub login: LoginConfig,
    /// Which ways of logging in to the server are allowed besides SCRAM-SHA-256.
    #[serde(default)]
    pub server_auth: ServerAuth,
}

/// What a script has to show before the agent logs in for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ClientAuth {
    /// Nothing: which process it is, is enough.
    Any,
    /// The password that it always had.
    Match,
}

/// A verifier as it is written. It shows in no `Debug` output.
#[derive(Clone, Deserialize, schemars::JsonSchema)]
#[serde(transparent)]
pub struct VerifierText(pub String);

impl fmt::Debug for VerifierText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("VerifierText(..)")
    }
}

/// What the agent logs in as.
#[derive(Debug, Clone, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LoginConfig {
    /// The database user. May be left out where the source gives a user's name too.
    #[serde(default)]
    pub user: Option<String>,
    /// The database; the one that the script asks for when left out.
    #[serde(default)]
    pub database: Option<String>,
    /// Where the password comes from.
    pub password: SourceConfig,
}

/// Ways of logging in to a server. SCRAM-SHA-256 (with channel binding where the connection has one) is
/// always allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ServerAuth {
    /// MD5; `true` when left out. Whoever reads along can search for the password, and a server that
    /// has an MD5 verifier stolen can be logged in to with it.
    pub md5: bool,
    /// The password in clear text; over TLS alone when left out.
    pub cleartext: Option<bool>,
    /// No password at all; `true` when left out.
    pub trust: bool,
}

impl Default for ServerAuth {
    fn default() -> Self {
        Self { md5: true, cleartext: None, trust: true }
    }
}

/// Where a secret comes from.
#[derive(Debug, Clone, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SourceConfig {
    /// A file that only root can read. Its content is the password; a newline at its end is not part of it.
    File(PathBuf),
    /// A credential of systemd's, by name: `LoadCredential=` or `LoadCredentialEncrypted=` in the
    /// agent's unit.
    Systemd(String),
    /// A program that prints it.
    Exec(ExecConfig),
    /// HashiCorp Vault or OpenBao.
    Vault(VaultConfig),
    /// AWS Secrets Manager.
    AwsSecretsManager(AwsConfig),
}

/// A program that prints a secret.
#[derive(Debug, Clone, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ExecConfig {
    /// The program by absolute path, and its arguments. Nobody but root may be able to change it.
    pub command: Vec<String>,
    /// What it prints: the password alone, or JSON.
    #[serde(default)]
    pub output: ExecOutput,
    /// Seconds that it may take.
    #[serde(default = "ten")]
    pub timeout_seconds: u64,
    /// Seconds after which it is asked again, unless it says itself when its answer expires.
    #[serde(default = "five_minutes")]
    pub refresh_seconds: u64,
}

/// What a program prints.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ExecOutput {
    /// The password; a newline at its end is not part of it.
    #[default]
    Text,
    /// `{"password": "…", "username": "…", "expires_at": "2026-01-31T12:00:00Z"}`, the last two if it likes.
    Json,
}

/// HashiCorp Vault or OpenBao, by its HTTP API.
#[derive(Debug, Clone, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct VaultConfig {
    /// `https://vault.internal:8200`. Plain `http://` is for this host alone.
    pub address: String,
    /// What to read, as in the API: `secret/data/shop` (KV version 2), `kv/shop` (version 1),
    /// `database/creds/app` (database engine).
    pub path: String,
    /// The field with the password; `password` when left out.
    #[serde(default = "password")]
    pub field: String,
    /// The field with the user's name, if the user is to come from there; `username` of a database
    /// engine when left out.
    #[serde(default)]
    pub user_field: Option<String>,
    /// How the agent proves itself.
    pub auth: VaultAuth,
    /// The namespace (Vault Enterprise, OpenBao).
    #[serde(default)]
    pub namespace: Option<String>,
    /// A PEM file of certificate authorities, instead of the system's.
    #[serde(default)]
    pub ca: Option<PathBuf>,
    /// Seconds after which what has no lease is read again.
    #[serde(default = "five_minutes")]
    pub refresh_seconds: u64,
}

/// How the agent proves itself to Vault.
#[derive(Debug, Clone, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum VaultAuth {
    /// A file that holds a token, such as Vault Agent keeps one. Read anew each time.
    TokenFile(PathBuf),
    /// An AppRole.
    Approle(ApproleConfig),
}

/// An AppRole of Vault's.
#[derive(Debug, Clone, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ApproleConfig {
    /// Its role id.
    pub role_id: String,
    /// A file that holds its secret id.
    pub secret_id_file: PathBuf,
    /// Where the method is mounted; `approle` when left out.
    #[serde(default = "approle")]
    pub mount: String,
}

/// AWS Secrets Manager.
#[derive(Debug, Clone, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AwsConfig {
    /// The secret's name or ARN.
    pub secret: String,
    /// The region: `eu-central-1`.
    pub region: String,
    /// The field of a secret that is a JSON object; when left out the whole secret is the password.
    #[serde(default)]
    pub field: Option<String>,
    /// The field with the user's name, if the user is to come from there.
    #[serde(default)]
    pub user_field: Option<String>,
    /// Which version; `AWSCURRENT` when left out.
    #[serde(default)]
    pub version_stage: Option<String>,
    /// The agent's keys.
    pub keys: AwsKeys,
    /// Another address than `https://secretsmanager.<region>.amazonaws.com`, such as a VPC endpoint's.
    #[serde(default)]
    pub endpoint: Option<String>,
    /// A PEM file of certificate authorities, instead of the system's.
    #[serde(default)]
    pub ca: Option<PathBuf>,
    /// Seconds after which it is read again.
    #[serde(default = "five_minutes")]
    pub refresh_seconds: u64,
}

/// Where the agent's AWS keys come from.
#[derive(Debug, Clone, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AwsKeys {
    /// A file as the AWS command line has it (`aws_access_key_id`, `aws_secret_access_key`,
    /// `aws_session_token`), its `[default]` section. Read anew each time.
    File(PathBuf),
    /// The role of the EC2 instance, from the instance metadata service (version 2) at this address:
    /// `http://169.254.169.254`.
    Instance(String),
}

const fn ten() -> u64 {
    10
}

const fn five_minutes() -> u64 {
    300
}

fn password() -> String {
    "password".to_owned()
}

fn approle() -> String {
    "approle".to_owned()
}
