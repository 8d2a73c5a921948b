//! Who someone is by a token of an identity provider, once the token was verified.
//!
//! A [`Verified`] is made by [`Issuer::verify`](super::oidc::Issuer::verify) alone. It holds no part of the
//! token that could be used again: a recording or a log may show all of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The claims of a token.
pub(super) type Claims = BTreeMap<String, Value>;

/// What an issuer vouches for.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum IdentityKind {
    /// People, who sign in with `interlock login`.
    Person,
    /// Jobs and services, which find their token in their environment.
    Workload,
}

impl IdentityKind {
    /// Its word in configuration, policies and recordings.
    pub fn word(self) -> &'static str {
        match self {
            Self::Person => "person",
            Self::Workload => "workload",
        }
    }
}

/// A person or workload as a verified token names them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Verified {
    /// A person or a workload, as the issuer's entry in agent.yaml says.
    pub kind: IdentityKind,
    /// What agent.yaml calls the issuer.
    pub issuer_name: Arc<str>,
    /// The issuer as the token names it (`iss`).
    pub issuer: Arc<str>,
    /// The issuer's own name for them (`sub`), never given to another.
    pub subject: String,
    /// A name to read. People may change theirs: policies that grant something match on `subject` or
    /// `groups`.
    pub name: String,
    /// Groups, from the claim that agent.yaml names.
    pub groups: Vec<String>,
    /// Whether there may be others.
    #[serde(skip)]
    pub groups_known: GroupsKnown,
    /// The job, where the issuer is one of a CI system; empty texts else.
    pub job: Job,
    /// All claims of the token, at most [`MAX_TOKEN`](super::oidc::MAX_TOKEN) bytes of JSON.
    pub claims: Claims,
    /// Those of them that are recorded, as texts; few and short.
    pub recorded: BTreeMap<String, String>,
    /// From when on it counts no more: what the token says (`exp`), with the difference between clocks that
    /// is allowed for.
    #[serde(serialize_with = "shown")]
    pub expires: Timestamp,
    /// When a person has proved who they are (`auth_time`), if the token says so.
    #[serde(serialize_with = "shown_if_any")]
    pub authenticated: Option<Timestamp>,
    /// SHA-256 in hexadecimal of the issuer and of what is in the token only once (`jti`, else all of its
    /// claims). It tells tokens apart, and cannot be used as one.
    pub token_hash: String,
}

/// How much is known of someone's groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GroupsKnown {
    /// All of them.
    All,
    /// The claim is not there: whether they have any is not said.
    Unsaid,
    /// The claim holds what is no group, or stands elsewhere (`_claim_names`).
    Partly,
}

/// A job of a CI system, from claims that the system itself has filled in.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Job {
    /// Repository or project, such as `shop/api`; of Kubernetes the namespace.
    pub project: String,
    /// The branch, without `refs/heads/`. Empty for tags and merge requests.
    pub branch: String,
    /// The environment that the job deploys to.
    pub environment: String,
    /// Who started it.
    pub actor: String,
}

impl Verified {
    /// One that never expires, to try policies on.
    pub(crate) fn example(kind: IdentityKind) -> Self {
        Self {
            kind,
            issuer_name: "example".into(),
            issuer: "https://id.example".into(),
            subject: "example".to_owned(),
            name: "example".to_owned(),
            groups: Vec::new(),
            groups_known: GroupsKnown::All,
            job: Job::default(),
            claims: Claims::new(),
            recorded: BTreeMap::new(),
            expires: Timestamp::MAX,
            authenticated: None,
            token_hash: String::new(),
        }
    }

    /// A claim by its name, or by a JSON pointer.
    pub fn claim(&self, name: &str) -> Option<&Value> {
        claim(&self.claims, name)
    }

    /// Whether it counts at `now`.
    pub fn is_current(&self, now: Timestamp) -> bool {
        now < self.expires
    }
}

/// A claim by its name, or by a JSON pointer (RFC 6901). A claim whose name is written out comes first:
/// `https://example.com/groups` is one.
pub(super) fn claim<'c>(claims: &'c Claims, name: &str) -> Option<&'c Value> {
    if let Some(value) = claims.get(name) {
        return Some(value);
    }
    let rest = name.strip_prefix('/')?;
    let (first, rest) = rest.split_once('/').map_or((rest, None), |(first, rest)| (first, Some(rest)));
    let value = claims.get(&first.replace("~1", "/").replace("~0", "~"))?;
    match rest {
        Some(rest) => value.pointer(&format!("/{rest}")),
        None => Some(value),
    }
}

fn shown<S: serde::Serializer>(at: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(at)
}

fn shown_if_any<S: serde::Serializer>(at: &Option<Timestamp>, serializer: S) -> Result<S::Ok, S::Error> {
    match at {
        Some(at) => serializer.collect_str(at),
        None => serializer.serialize_none(),
    }
}
