//! Verifying tokens of OpenID Connect issuers: of CI systems, Kubernetes, SPIFFE, and of the identity
//! providers that people sign in at.
//!
//! [`Issuers::new`] takes agent.yaml's `identity:`; [`Issuer::verify`] makes a [`Verified`] of a token or says
//! why not; [`Issuer::endpoints`] is what the provider's metadata says of its other addresses, and
//! [`Issuer::http`] asks them. All of it blocks: call it from a blocking thread, with a time limit on the
//! waiting side. A request takes at most [`http::TIMEOUT`], and there is one at a time for an issuer's keys.
//!
//! Who owns what: this module, [`Verified`] and the finding of workloads' tokens belong together. Signing in
//! of people (the device flow, the code flow, and what binds a person to a login session) is apart: it gets
//! an ID token by itself, has it verified here, compares the claims that belong to its flow (`nonce`, `azp`,
//! `auth_time`), and puts the result into [`Subject::person`](super::Subject::person).

pub mod http;
mod json;
mod keys;
mod metadata;
mod token;
mod verify;

#[cfg(test)]
pub(crate) mod fake;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64;
use zeroize::Zeroizing;

use super::config::{IdentityConfig, IssuerConfig, Provider};
use super::verified::{IdentityKind, Verified};
use http::{Http, HttpError};
use keys::Keys;
use metadata::Discovery;

pub use keys::KeysError;
pub use metadata::{DiscoveryError, Endpoints};
pub use token::TokenError;
pub use verify::VerifyError;

/// The longest token that is looked at, in bytes.
pub const MAX_TOKEN: usize = 16 << 10;

/// Why an issuer's entry in agent.yaml cannot be worked with.
#[derive(Debug, thiserror::Error)]
#[error("`identity.issuers`, {name:?}: {problem}; {advice}")]
pub struct IssuerError {
    name: String,
    problem: String,
    advice: String,
}

/// An issuer of tokens, with what is known of its keys.
#[derive(Debug)]
pub struct Issuer {
    config: IssuerConfig,
    name: Arc<str>,
    /// `iss` of its tokens. Of SPIFFE without an `issuer` the trust domain's id.
    id: Arc<str>,
    audiences: Vec<String>,
    http: Http,
    discovery: Option<Discovery>,
    keys: Keys,
}

/// The issuers whose tokens count on this host.
#[derive(Debug, Default)]
pub struct Issuers(Vec<Arc<Issuer>>);

// === impl Issuers ===

impl Issuers {
    /// Takes the configuration. Nothing is asked over the network yet.
    ///
    /// # Errors
    /// An entry cannot be worked with.
    pub fn new(config: &IdentityConfig) -> Result<Self, IssuerError> {
        let mut issuers: Vec<Arc<Issuer>> = Vec::new();
        for entry in &config.issuers {
            let issuer = Issuer::new(entry)?;
            if issuers.iter().any(|other| other.name == issuer.name) {
                return Err(issuer.wrong("another entry has this name", "give each its own"));
            }
            issuers.push(Arc::new(issuer));
        }
        Ok(Self(issuers))
    }

    /// Those of one kind.
    pub fn of_kind(&self, kind: IdentityKind) -> impl Iterator<Item = &Arc<Issuer>> {
        self.0.iter().filter(move |issuer| issuer.config.kind == kind)
    }

    /// The one of this name.
    pub fn named(&self, name: &str) -> Option<&Arc<Issuer>> {
        self.0.iter().find(|issuer| &*issuer.name == name)
    }
}

// === impl Issuer ===

impl Issuer {
    /// Takes an entry of agent.yaml. Nothing is asked over the network yet.
    ///
    /// # Errors
    /// It cannot be worked with.
    pub fn new(config: &IssuerConfig) -> Result<Self, IssuerError> {
        let wrong = |problem: &str, advice: &str| IssuerError {
            name: config.name.clone(),
            problem: problem.to_owned(),
            advice: advice.to_owned(),
        };
        let word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if config.name.is_empty() || config.name.len() > 64 || !config.name.chars().all(word) {
            return Err(wrong("its name is no word", "write letters, digits, `-`, `_` and `.`, at most 64"));
        }
        let spiffe = config.provider == Provider::Spiffe;
        if config.kind == IdentityKind::Person && config.provider != Provider::Oidc {
            return Err(wrong(
                "its provider makes tokens for workloads",
                "write `kind: workload`, or leave `provider` out",
            ));
        }
        match &config.trust_domain {
            None if spiffe => {
                return Err(wrong("it has no `trust_domain`", "write the one that subjects must be of"));
            }
            Some(_) if !spiffe => {
                return Err(wrong("only SPIFFE has a `trust_domain`", "write `provider: spiffe`"));
            }
            Some(domain) if !verify::is_trust_domain(domain) => {
                return Err(wrong(
                    "its `trust_domain` is none",
                    "write it as in spiffe://THIS/path: small letters, digits, `.`, `-` and `_`",
                ));
            }
            _ => {}
        }
        let id: Arc<str> = match (&config.issuer, &config.trust_domain) {
            (Some(issuer), _) => issuer.as_str().into(),
            (None, Some(domain)) => format!("spiffe://{domain}").into(),
            (None, None) => {
                return Err(wrong("it has no `issuer`", "write the URL that its tokens have (`iss`)"));
            }
        };
        let mut audiences = config.audience.as_slice().to_vec();
        if config.kind == IdentityKind::Person && audiences.is_empty() {
            audiences.extend(config.client_id.clone());
        }
        if audiences.is_empty() || audiences.iter().any(String::is_empty) {
            let advice = match config.kind {
                IdentityKind::Person => "write its `client_id`",
                IdentityKind::Workload => {
                    "write the `audience` that jobs' tokens are made for, for this agent alone"
                }
            };
            return Err(wrong("any token of it would count, whatever it was made for", advice));
        }
        if config.clock_skew_seconds > 600 {
            return Err(wrong("`clock_skew_seconds` is more than 600", "have the clocks set by NTP"));
        }
        if config.keys_kept_minutes > 7 * 24 * 60 {
            return Err(wrong(
                "`keys_kept_minutes` is more than a week",
                "a key that the issuer has withdrawn would count for so long; write less, or `jwks_file`",
            ));
        }
        let place = &config.token;
        let somewhere = place.variable.is_some() || place.file_variable.is_some() || place.file.is_some();
        let github = config.provider == Provider::GithubActions;
        match config.kind {
            IdentityKind::Person if somewhere || !place.request_hosts.is_empty() => {
                return Err(wrong("people have no `token`", "leave `token` out: they run `interlock login`"));
            }
            IdentityKind::Workload if github && !somewhere && place.request_hosts.is_empty() => {
                let advice = "write `token: {request_hosts: [\"*.actions.githubusercontent.com\"]}`";
                return Err(wrong("no host may be asked for a job's token", advice));
            }
            IdentityKind::Workload if !github && !somewhere => {
                let advice = "write `token: {variable: NAME}`, `file_variable: NAME` or `file: PATH`";
                return Err(wrong("nothing says where a job has its token", advice));
            }
            _ => {}
        }
        if place.file.as_ref().is_some_and(|path| !path.is_absolute()) {
            return Err(wrong("`token.file` is no absolute path", "write it as the job sees it"));
        }
        let of_http = |error: HttpError| wrong(&error.to_string(), "write `https://HOST/…`");
        let http = Http::new(config.ca.as_deref());
        let (discovery, keys) = match (&config.jwks_file, &config.jwks_uri, &config.issuer) {
            (Some(_), Some(_), _) => {
                return Err(wrong("it has `jwks_file` and `jwks_uri`", "write one of them"));
            }
            // People's issuers are asked for more than keys.
            (file, uri, Some(issuer)) if config.kind == IdentityKind::Person => {
                let discovery = Discovery::new(issuer).map_err(of_http)?;
                let keys = match (file, uri) {
                    (Some(path), _) => Keys::in_file(path),
                    (_, Some(uri)) => Keys::at(uri).map_err(of_http)?,
                    _ => Keys::discovered(),
                };
                (Some(discovery), keys)
            }
            (Some(path), None, _) => (None, Keys::in_file(path)),
            (None, Some(uri), _) => (None, Keys::at(uri).map_err(of_http)?),
            (None, None, Some(issuer)) => {
                (Some(Discovery::new(issuer).map_err(of_http)?), Keys::discovered())
            }
            (None, None, None) => {
                return Err(wrong("nothing says where its keys are", "write `jwks_file` or `jwks_uri`"));
            }
        };
        Ok(Self {
            name: config.name.as_str().into(),
            config: config.clone(),
            id,
            audiences,
            http,
            discovery,
            keys,
        })
    }

    fn wrong(&self, problem: &str, advice: &str) -> IssuerError {
        IssuerError { name: self.config.name.clone(), problem: problem.to_owned(), advice: advice.to_owned() }
    }

    /// What agent.yaml calls it.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Its `iss`.
    pub fn id(&self) -> &Arc<str> {
        &self.id
    }

    /// Its entry in agent.yaml.
    pub fn config(&self) -> &IssuerConfig {
        &self.config
    }

    /// What its tokens must have been made for.
    pub fn audiences(&self) -> &[String] {
        &self.audiences
    }

    /// Asks its server, and trusts the authorities that agent.yaml names.
    pub fn http(&self) -> &Http {
        &self.http
    }

    /// What its metadata says of its addresses; asked for anew every ten minutes. Blocks.
    ///
    /// # Errors
    /// The metadata cannot be had or is not this issuer's, or it is not asked for metadata at all.
    pub fn endpoints(&self) -> Result<Arc<Endpoints>, DiscoveryError> {
        match &self.discovery {
            Some(discovery) => discovery.endpoints(&self.http),
            None => Err(DiscoveryError::None),
        }
    }

    /// Who the token is about, if this issuer made it, for one of its audiences, and it counts now. Blocks
    /// where keys have to be fetched.
    ///
    /// # Errors
    /// What is wrong with the token, or why the issuer's keys cannot be had. No part of the token is told.
    pub fn verify(&self, token: &Zeroizing<String>) -> Result<Verified, VerifyError> {
        self.verify_at(token, jiff::Timestamp::now())
    }
}

/// Reads arbitrary bytes as a token, as a token's header and claims, and as an issuer's keys and metadata: the
/// entry for fuzzing. None may panic.
pub fn exercise(bytes: &[u8]) {
    let _ = std::str::from_utf8(bytes).map(token::Parts::of);
    // Most of what begins otherwise is no base64.
    let (header, claims) = bytes.split_at(bytes.len() / 2);
    let encode = |bytes: &[u8]| BASE64.encode(bytes);
    let _ = token::Parts::of(&format!("{}.{}.c2ln", encode(header), encode(claims)));
    let _ = token::Parts::of(&format!("eyJhbGciOiJSUzI1NiJ9.{}.c2ln", encode(bytes)));
    if let Ok(keys) = keys::KeySet::parse(bytes, None) {
        for algorithm in
            ["RS256", "PS512", "ES256", "ES384", "EdDSA"].into_iter().filter_map(token::algorithm)
        {
            let _ = keys.verify(None, &algorithm, header, claims);
        }
    }
    let _ = Endpoints::parse(bytes);
}
