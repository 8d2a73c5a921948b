//! Whether a token's claims hold (RFC 7519, section 7.2; OpenID Connect Core, section 3.1.3.7; SPIFFE
//! JWT-SVID, section 5), and what they say.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use super::super::config::{IssuerConfig, Provider};
use super::super::verified::{Claims, GroupsKnown, IdentityKind, Job, Verified, claim};
use super::Issuer;
use super::keys::{KeySet, KeysError, Means};
use super::token::{Parts, TokenError};

/// The longest name of a subject, in bytes.
const MAX_SUBJECT: usize = 2048;

/// The longest name, group or word of a job that is taken, in bytes.
const MAX_WORD: usize = 512;

/// The longest claim that is recorded, in characters, and how many claims.
const MAX_RECORDED: usize = 300;
const MAX_RECORDED_CLAIMS: usize = 32;

/// Why a token does not count. What it shows of the token's claims is cut short and printable.
#[derive(Debug, Clone, thiserror::Error)]
pub enum VerifyError {
    /// It is no token that is looked at.
    #[error("the token does not count: {0}")]
    Token(#[from] TokenError),
    /// The issuer's keys cannot be had.
    #[error("the token cannot be verified: {0}")]
    Keys(#[from] KeysError),
    /// No key of the issuer's signed it.
    #[error("the token does not count: no key of the issuer's has signed it")]
    Signature,
    /// Another issuer made it.
    #[error("the token does not count: it was made by {said:?}, and this is about {expected:?}")]
    Issuer {
        /// Who made it, as it says.
        said: String,
        /// Who should have.
        expected: String,
    },
    /// It was made for others.
    #[error("the token does not count: it was made for {said:?}, and not for {expected:?} (aud)")]
    Audience {
        /// What it was made for, as it says.
        said: String,
        /// What it should have been made for.
        expected: String,
    },
    /// It is too old.
    #[error("the token has expired, at {0}")]
    Expired(Timestamp),
    /// It does not count yet.
    #[error("the token does not count before {0}: are the clocks apart?")]
    Early(Timestamp),
    /// A claim is missing, or is not what it should be.
    #[error("the token does not count: its claim {claim:?} {problem}")]
    Claim {
        /// Its name.
        claim: &'static str,
        /// What is wrong with it.
        problem: &'static str,
    },
}

/// Whether `text` is a trust domain (SPIFFE ID, section 2.1).
pub(super) fn is_trust_domain(text: &str) -> bool {
    let may = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '-' | '_');
    (1..=255).contains(&text.len()) && text.chars().all(may)
}

/// Whether `id` is one of a workload in the trust domain (SPIFFE ID, section 2).
fn is_spiffe_id(id: &str, domain: &str) -> bool {
    let path = id.strip_prefix("spiffe://").and_then(|rest| rest.strip_prefix(domain));
    let Some(path) = path.and_then(|path| path.strip_prefix('/')) else { return false };
    let may = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    let segment = |s: &str| !s.is_empty() && s != "." && s != ".." && s.chars().all(may);
    path.split('/').all(segment)
}

impl Issuer {
    pub(super) fn verify_at(
        &self,
        token: &Zeroizing<String>,
        now: Timestamp,
    ) -> Result<Verified, VerifyError> {
        let parts = Parts::of(token)?;
        // Before any key is asked for: tokens of others must not have this issuer's server asked.
        self.check_issuer(&parts.claims)?;
        self.check_signature(&parts)?;
        let times = self.check_claims(&parts.claims, now)?;
        Ok(self.verified(parts.claims, times))
    }

    fn means(&self) -> Means<'_> {
        let kept = Duration::from_secs(u64::from(self.config.keys_kept_minutes) * 60);
        let purpose = (self.config.provider == Provider::Spiffe).then_some("jwt-svid");
        Means { http: &self.http, discovery: self.discovery.as_ref(), kept, purpose }
    }

    fn check_issuer(&self, claims: &Claims) -> Result<(), VerifyError> {
        let said = match claims.get("iss") {
            Some(Value::String(said)) => said.as_str(),
            // JWT-SVIDs need not name one: the trust domain does.
            None if self.config.issuer.is_none() => return Ok(()),
            _ => return Err(VerifyError::Claim { claim: "iss", problem: "is missing, or no text" }),
        };
        if self.config.issuer.as_deref().is_none_or(|expected| expected == said) {
            return Ok(());
        }
        Err(VerifyError::Issuer { said: shown(said), expected: self.id.to_string() })
    }

    fn check_signature(&self, parts: &Parts<'_>) -> Result<(), VerifyError> {
        let id = parts.key_id.as_deref();
        let signed = |set: &KeySet| set.verify(id, &parts.algorithm, parts.signed, &parts.signature);
        let set = self.keys.current(self.means())?;
        if signed(&set) {
            return Ok(());
        }
        // A key that is not known may be a new one.
        let newer = if set.knows(id) && id.is_some() { None } else { self.keys.newer(&set, self.means())? };
        if newer.is_some_and(|set| signed(&set)) { Ok(()) } else { Err(VerifyError::Signature) }
    }

    fn check_claims(&self, claims: &Claims, now: Timestamp) -> Result<Times, VerifyError> {
        let wrong = |claim, problem| VerifyError::Claim { claim, problem };
        let audiences: Vec<&str> = match claims.get("aud") {
            Some(Value::String(one)) => vec![one],
            Some(Value::Array(several)) if several.iter().all(Value::is_string) => {
                several.iter().filter_map(Value::as_str).collect()
            }
            _ => return Err(wrong("aud", "is missing, or no text and no list of texts")),
        };
        if !audiences.iter().any(|audience| self.audiences.iter().any(|expected| expected == audience)) {
            let (said, expected) = (shown(&audiences.join(", ")), self.audiences.join(", "));
            return Err(VerifyError::Audience { said, expected });
        }
        let person = self.config.kind == IdentityKind::Person;
        // OpenID Connect Core, section 3.1.3.7, 4 and 5.
        if person {
            let own = |party: &str| self.config.client_id.as_deref() == Some(party);
            match claims.get("azp") {
                None if audiences.len() > 1 => return Err(wrong("azp", "is missing, and it is for several")),
                None => {}
                Some(Value::String(party)) if own(party) => {}
                Some(_) => return Err(wrong("azp", "says that it was made for another client")),
            }
        }
        let skew = Duration::from_secs(u64::from(self.config.clock_skew_seconds));
        let time = |claim| match claims.get(claim) {
            None => Ok(None),
            Some(value) => date(value).map(Some).ok_or(wrong(claim, "is no time")),
        };
        let expires = time("exp")?.ok_or(wrong("exp", "is missing: it would count for ever"))?;
        // One that lasts longer than can be told lasts too long.
        let expires = expires.checked_add(skew).map_err(|_| wrong("exp", "is no time"))?;
        if now >= expires {
            return Err(VerifyError::Expired(expires));
        }
        let soon = now.checked_add(skew).unwrap_or(now);
        let made = time("iat")?;
        if person && made.is_none() {
            return Err(wrong("iat", "is missing"));
        }
        for from in [time("nbf")?, made].into_iter().flatten() {
            if from > soon {
                return Err(VerifyError::Early(from));
            }
        }
        let subject = claims.get("sub").and_then(Value::as_str).unwrap_or_default();
        if subject.is_empty() || subject.len() > MAX_SUBJECT || subject.contains(char::is_control) {
            return Err(wrong("sub", "is missing, too long, or no text to be read"));
        }
        if let Some(domain) = &self.config.trust_domain
            && !is_spiffe_id(subject, domain)
        {
            return Err(wrong("sub", "is no SPIFFE id of the trust domain"));
        }
        if self.config.provider == Provider::Kubernetes
            && !claims.get("kubernetes.io").is_some_and(Value::is_object)
        {
            return Err(wrong("kubernetes.io", "is missing: it is no token of a service account"));
        }
        // What a job is matched by. Left out, a rule about it would not apply.
        for &name in job_claims(self.config.provider) {
            let unfit = |value: &Value| match value {
                Value::Null => false,
                Value::String(text) => !text.is_empty() && word(Some(value)).is_empty(),
                _ => true,
            };
            if claim(claims, name).is_some_and(unfit) {
                return Err(wrong(name, "is too long, or no text to be read"));
            }
        }
        Ok(Times { expires, authenticated: time("auth_time")? })
    }

    /// The same person with what the provider says of them besides (its userinfo): what is signed counts
    /// before that.
    pub(in crate::identity) fn with_more(
        &self,
        person: &Verified,
        more: impl IntoIterator<Item = (String, Value)>,
    ) -> Verified {
        let mut claims = person.claims.clone();
        for (name, value) in more {
            claims.entry(name).or_insert(value);
        }
        let times = Times { expires: person.expires, authenticated: person.authenticated };
        Verified { token_hash: person.token_hash.clone(), ..self.verified(claims, times) }
    }

    /// The same person with what the provider says of them later than what it has signed: that counts before it.
    /// What makes the token one stays as it was signed.
    pub(in crate::identity) fn with_newer(
        &self,
        person: &Verified,
        newer: impl IntoIterator<Item = (String, Value)>,
    ) -> Verified {
        const SIGNED: [&str; 13] = [
            "iss",
            "sub",
            "aud",
            "azp",
            "exp",
            "iat",
            "nbf",
            "jti",
            "nonce",
            "at_hash",
            "auth_time",
            "acr",
            "amr",
        ];
        let mut claims = person.claims.clone();
        claims.extend(newer.into_iter().filter(|(name, _)| !SIGNED.contains(&name.as_str())));
        let times = Times { expires: person.expires, authenticated: person.authenticated };
        Verified { token_hash: person.token_hash.clone(), ..self.verified(claims, times) }
    }

    fn verified(&self, claims: Claims, times: Times) -> Verified {
        let subject = claims.get("sub").and_then(Value::as_str).unwrap_or_default().to_owned();
        let job = job(self.config.provider, &claims);
        let name = match &self.config.name_claim {
            Some(name) => word(claim(&claims, name)),
            None => name(self.config.provider, &claims, &job),
        };
        let (groups, groups_known) = groups(&self.config, &claims);
        Verified {
            kind: self.config.kind,
            issuer_name: self.name.clone(),
            issuer: self.id.clone(),
            name: if name.is_empty() { subject.clone() } else { name },
            subject,
            groups,
            groups_known,
            job,
            token_hash: hash(&self.id, &claims),
            recorded: recorded(&self.config, &claims),
            claims,
            expires: times.expires,
            authenticated: times.authenticated,
        }
    }
}

/// The claims that are recorded, as texts.
fn recorded(config: &IssuerConfig, claims: &Claims) -> BTreeMap<String, String> {
    let known: &[&str] = match config.provider {
        Provider::GithubActions => &[
            "repository",
            "repository_id",
            "repository_owner",
            "ref",
            "ref_type",
            "sha",
            "workflow_ref",
            "job_workflow_ref",
            "run_id",
            "run_attempt",
            "environment",
            "actor",
            "event_name",
        ],
        Provider::Gitlab => &[
            "project_path",
            "project_id",
            "ref",
            "ref_type",
            "ref_protected",
            "sha",
            "pipeline_id",
            "pipeline_source",
            "job_id",
            "environment",
            "user_login",
        ],
        Provider::Buildkite => &[
            "organization_slug",
            "pipeline_slug",
            "build_number",
            "build_branch",
            "build_tag",
            "build_commit",
            "step_key",
            "job_id",
            "agent_id",
        ],
        Provider::Kubernetes => &[
            "/kubernetes.io/namespace",
            "/kubernetes.io/serviceaccount/name",
            "/kubernetes.io/pod/name",
            "/kubernetes.io/pod/uid",
            "/kubernetes.io/node/name",
        ],
        Provider::Oidc => &["email", "acr", "amr"],
        Provider::Spiffe => &[],
    };
    let names = known.iter().copied().chain(config.record_claims.iter().map(String::as_str));
    let text = |name: &str| {
        let value = match claim(claims, name)? {
            Value::Null => return None,
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        let value: String = value.chars().filter(|c| !c.is_control()).take(MAX_RECORDED).collect();
        Some((name.to_owned(), value))
    };
    names.filter_map(text).take(MAX_RECORDED_CLAIMS).collect()
}

#[derive(Clone, Copy)]
struct Times {
    expires: Timestamp,
    authenticated: Option<Timestamp>,
}

/// Tells a token from every other. Not of its text: a signature can be written in more than one way.
fn hash(issuer: &str, claims: &Claims) -> String {
    let once = match claims.get("jti") {
        Some(Value::String(id)) if !id.is_empty() => format!("jti {id}"),
        _ => serde_json::json!(claims).to_string(),
    };
    let mut hasher = Sha256::new();
    hasher.update((issuer.len() as u64).to_be_bytes());
    hasher.update(issuer);
    hasher.update(once);
    hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// NumericDate (RFC 7519, section 2): seconds, maybe with a fraction.
fn date(value: &Value) -> Option<Timestamp> {
    let seconds = match value.as_i64() {
        Some(seconds) => seconds,
        None => {
            let seconds = value.as_f64()?;
            // Both ends are told exactly as a float.
            if !(0.0..=9_007_199_254_740_992.0).contains(&seconds) {
                return None;
            }
            seconds as i64
        }
    };
    Timestamp::from_second(seconds).ok()
}

/// What can be shown of a claim that is not proven.
fn shown(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(200).collect()
}

/// A text that is fit to be matched and shown; empty where there is none.
fn word(value: Option<&Value>) -> String {
    match value.and_then(Value::as_str) {
        Some(text) if text.len() <= MAX_WORD && !text.contains(char::is_control) => text.to_owned(),
        _ => String::new(),
    }
}

/// The groups that the claims tell, and whether there may be others.
fn groups(config: &IssuerConfig, claims: &Claims) -> (Vec<String>, GroupsKnown) {
    let name = &config.groups_claim;
    let list = match claim(claims, name) {
        Some(Value::Array(list)) => list.as_slice(),
        None | Some(Value::Null) => {
            // OpenID Connect Core, section 5.6.2, and what Entra ID says where there are too many.
            let first = name.strip_prefix('/').and_then(|path| path.split('/').next());
            let elsewhere = claims.get("_claim_names").is_some_and(|names| {
                names.get(name).is_some() || first.is_some_and(|first| names.get(first).is_some())
            });
            let indirect = elsewhere || claims.get("hasgroups").is_some_and(|has| has != false);
            let known = match config.provider {
                _ if indirect => GroupsKnown::Partly,
                Provider::Oidc => GroupsKnown::Unsaid,
                // Their tokens have none.
                Provider::GithubActions
                | Provider::Gitlab
                | Provider::Buildkite
                | Provider::Kubernetes
                | Provider::Spiffe => GroupsKnown::All,
            };
            return (Vec::new(), known);
        }
        Some(one) => std::slice::from_ref(one),
    };
    let mut groups: Vec<String> =
        list.iter().map(|group| word(Some(group))).filter(|g| !g.is_empty()).collect();
    let known = if groups.len() == list.len() { GroupsKnown::All } else { GroupsKnown::Partly };
    groups.sort();
    groups.dedup();
    (groups, known)
}

/// The claims that [`job`] reads.
fn job_claims(provider: Provider) -> &'static [&'static str] {
    match provider {
        Provider::GithubActions => &["repository", "ref", "environment", "actor"],
        Provider::Gitlab => {
            &["project_path", "ref", "ref_path", "ref_type", "pipeline_source", "environment", "user_login"]
        }
        Provider::Buildkite => &["organization_slug", "pipeline_slug", "build_branch"],
        Provider::Kubernetes => &["/kubernetes.io/namespace"],
        Provider::Oidc | Provider::Spiffe => &[],
    }
}

/// The job that a CI system's claims name. A tag is no branch, whatever it is called.
fn job(provider: Provider, claims: &Claims) -> Job {
    let claim = |name: &str| word(claims.get(name));
    match provider {
        Provider::GithubActions => Job {
            project: claim("repository"),
            branch: claim("ref").strip_prefix("refs/heads/").unwrap_or_default().to_owned(),
            environment: claim("environment"),
            actor: claim("actor"),
        },
        Provider::Gitlab => {
            // Older versions have no `ref_path`.
            let of_branch =
                claim("ref_type") == "branch" && claim("pipeline_source") != "merge_request_event";
            let branch = match claim("ref_path") {
                path if !path.is_empty() => path.strip_prefix("refs/heads/").unwrap_or_default().to_owned(),
                _ if of_branch => claim("ref"),
                _ => String::new(),
            };
            Job {
                project: claim("project_path"),
                branch,
                environment: claim("environment"),
                actor: claim("user_login"),
            }
        }
        Provider::Buildkite => {
            let (organization, pipeline) = (claim("organization_slug"), claim("pipeline_slug"));
            let whole = !organization.is_empty() && !pipeline.is_empty();
            // Of a tag's build the branch is the tag's name.
            let tagged = claims.get("build_tag").is_some_and(|tag| !tag.is_null() && tag != "");
            Job {
                project: if whole { format!("{organization}/{pipeline}") } else { String::new() },
                branch: if tagged { String::new() } else { claim("build_branch") },
                environment: String::new(),
                actor: String::new(),
            }
        }
        Provider::Kubernetes => {
            let namespace = claims.get("kubernetes.io").and_then(|io| io.get("namespace"));
            Job { project: word(namespace), ..Job::default() }
        }
        Provider::Oidc | Provider::Spiffe => Job::default(),
    }
}

/// A name to read.
fn name(provider: Provider, claims: &Claims, job: &Job) -> String {
    match provider {
        Provider::GithubActions | Provider::Gitlab | Provider::Buildkite => job.project.clone(),
        Provider::Kubernetes => {
            let io = claims.get("kubernetes.io");
            let account = word(io.and_then(|io| io.pointer("/serviceaccount/name")));
            if account.is_empty() { account } else { format!("{}/{account}", job.project) }
        }
        Provider::Spiffe => String::new(),
        Provider::Oidc => {
            let verified = claims.get("email_verified") == Some(&Value::Bool(true));
            let email = if verified { word(claims.get("email")) } else { String::new() };
            [word(claims.get("preferred_username")), email, word(claims.get("name"))]
                .into_iter()
                .find(|name| !name.is_empty())
                .unwrap_or_default()
        }
    }
}
