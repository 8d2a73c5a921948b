//! The `identity:` part of the agent's configuration. The documentation of these fields is the reference.
//!
//! Owner: verified identities. Keys that only people's issuers have are read by `interlock login`.

use std::path::PathBuf;

use serde::Deserialize;

pub use super::verified::IdentityKind;

/// Who may say who people and workloads are.
#[derive(Debug, Clone, Default, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct IdentityConfig {
    /// The issuers of tokens that count on this host.
    pub issuers: Vec<IssuerConfig>,
}

/// One issuer of tokens.
#[derive(Debug, Clone, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct IssuerConfig {
    /// A word for it. Policies, recordings and errors bear it.
    pub name: String,
    /// Whether it vouches for people (`person`) or for jobs and services (`workload`).
    pub kind: IdentityKind,
    /// Its URL, exactly as its tokens have it (`iss`). Only with `provider: spiffe` it may be left out.
    #[serde(default)]
    pub issuer: Option<String>,
    /// What makes the tokens; says where the agent finds them and what their claims mean.
    #[serde(default)]
    pub provider: Provider,
    /// What tokens must have been made for (`aud`): one of these, exactly. Of people it is their `client_id`
    /// when left out.
    #[serde(default)]
    pub audience: Audiences,
    /// Of people: what the identity provider calls Interlock.
    #[serde(default)]
    pub client_id: Option<String>,
    /// Of people: a file of root's with the client's secret, where the provider demands one.
    #[serde(default)]
    pub client_secret_file: Option<PathBuf>,
    /// Of people: what is asked for besides `openid`.
    #[serde(default)]
    pub scopes: Vec<String>,
    /// Of people: for how many minutes a sign-in counts at most. When left out: 480 where the provider gives a
    /// refresh token, so that it can be asked whether the sign-in still counts; else as long as its ID token.
    #[serde(default)]
    pub session_minutes: Option<u32>,
    /// Of people: every how many seconds the provider is asked whether a sign-in still counts, and for the
    /// person's groups, where it gives a refresh token.
    #[serde(default = "recheck")]
    pub recheck_seconds: u32,
    /// Of people: the claim that must be the name of the user who logged in on this host, such as
    /// `preferred_username`. Who signs in as somebody else is refused then. That closes what a device code can
    /// be misused for: having somebody else sign in for one's own session.
    #[serde(default)]
    pub user_claim: Option<String>,
    /// Of people: their groups at this issuer count where a rule says whose approval is needed, by the same name
    /// as the host's own groups (`dba`) and with the issuer before it (`okta:dba`).
    #[serde(default)]
    pub approver_groups: bool,
    /// The claim that holds groups, or a JSON pointer to it (`/realm_access/roles`).
    #[serde(default = "groups_claim")]
    pub groups_claim: String,
    /// The claim that holds a name to read; what suits the provider when left out.
    #[serde(default)]
    pub name_claim: Option<String>,
    /// Where the issuer's keys are, if its metadata (OpenID Connect Discovery, RFC 8414) shall not be asked.
    #[serde(default)]
    pub jwks_uri: Option<String>,
    /// A file with the issuer's keys (a JWK set): then nothing is asked over the network.
    #[serde(default)]
    pub jwks_file: Option<PathBuf>,
    /// PEM file of the authorities to trust for its server, instead of the system's.
    #[serde(default)]
    pub ca: Option<PathBuf>,
    /// With `provider: spiffe`: the trust domain that subjects must be of.
    #[serde(default)]
    pub trust_domain: Option<String>,
    /// Where the agent finds the token, where it is not where the provider puts it.
    #[serde(default)]
    pub token: TokenPlace,
    /// Of workloads: whether a token counts on one host alone, as the collector that this host is enrolled with
    /// can tell.
    #[serde(default)]
    pub one_host: OneHost,
    /// Claims that are recorded besides those that the provider's tokens are known by.
    #[serde(default)]
    pub record_claims: Vec<String>,
    /// Seconds that the issuer's clock and this host's may be apart.
    #[serde(default = "clock_skew")]
    pub clock_skew_seconds: u32,
    /// For how many minutes the issuer's keys still count when it cannot be asked for them. People's
    /// sign-ins that it cannot be asked about for so long end.
    #[serde(default = "keys_kept")]
    pub keys_kept_minutes: u32,
}

/// What makes tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Provider {
    /// Any provider of OpenID Connect. Of workloads, `token` must say where the token is.
    #[default]
    Oidc,
    /// GitHub Actions, of github.com or a server of one's own. The agent asks for the job's token at the
    /// address in the job's environment, if `token.request_hosts` has its host.
    GithubActions,
    /// GitLab CI/CD, with `id_tokens:` in the job. `token.variable` names the variable.
    Gitlab,
    /// Buildkite, with `buildkite-agent oidc request-token`. `token` says where the job puts it.
    Buildkite,
    /// Service accounts of Kubernetes, with a projected token.
    Kubernetes,
    /// JWT-SVIDs of SPIFFE.
    Spiffe,
}

/// Whether a token counts on one host alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OneHost {
    /// The host that showed it first has it. While the collector cannot be asked it counts; it is taken away
    /// when the collector says that another host had it first.
    #[default]
    Watch,
    /// It counts only when the collector has said that no other host had it first.
    Required,
    /// Any host may show it: the collector is neither asked nor told.
    Off,
}

/// Where a token is found. All places that are given are looked at, in this order.
#[derive(Debug, Clone, Default, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TokenPlace {
    /// Of GitHub Actions: hosts where a token may be asked for; `*.` at the front stands for any one or more
    /// labels. A job can write any address into its environment: the agent asks only these.
    pub request_hosts: Vec<String>,
    /// The environment variable that holds the token,
    pub variable: Option<String>,
    /// the variable that holds the path of its file,
    pub file_variable: Option<String>,
    /// or the path itself, as the process sees it.
    pub file: Option<PathBuf>,
}

/// One audience or a list of them.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, schemars::JsonSchema)]
#[serde(untagged)]
pub enum Audiences {
    /// One.
    One(String),
    /// Any of several.
    Several(Vec<String>),
}

impl Default for Audiences {
    fn default() -> Self {
        Self::Several(Vec::new())
    }
}

impl Audiences {
    /// Those that are given.
    pub fn as_slice(&self) -> &[String] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Several(several) => several,
        }
    }
}

fn groups_claim() -> String {
    "groups".to_owned()
}

fn recheck() -> u32 {
    180
}

fn clock_skew() -> u32 {
    60
}

fn keys_kept() -> u32 {
    60
}
