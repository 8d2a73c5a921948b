//! What a provider says of itself (OpenID Connect Discovery 1.0, RFC 8414).

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use openidconnect::url::Url;
use serde::Deserialize;

use super::http::{self, Http, HttpError};

/// For so long metadata are used before they are asked for again.
const KEPT: Duration = Duration::from_secs(10 * 60);

/// A provider that did not answer is left alone for so long.
const FAILED: Duration = Duration::from_secs(5);

/// Why a provider's metadata cannot be had.
#[derive(Debug, Clone, thiserror::Error)]
pub enum DiscoveryError {
    /// It is not asked for any: its keys are named in agent.yaml.
    #[error("it is not asked for its metadata: agent.yaml says where its keys are")]
    None,
    /// It cannot be asked.
    #[error("{0}")]
    Unavailable(Arc<str>),
    /// It says it is another one.
    #[error(
        "its metadata are another issuer's: they say {said:?}, agent.yaml has {configured:?}; write the issuer exactly as it names itself"
    )]
    OtherIssuer {
        /// Who it says it is.
        said: Arc<str>,
        /// Who it should be.
        configured: Arc<str>,
    },
}

/// What a provider's metadata say. Every address in it may be asked: it has TLS, or the provider itself is
/// this host.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Endpoints {
    /// Who it says it is; compared with agent.yaml.
    pub issuer: String,
    /// Its keys.
    pub jwks_uri: Url,
    /// Where a browser is sent to sign in.
    #[serde(default)]
    pub authorization_endpoint: Option<Url>,
    /// Where codes are exchanged for tokens.
    #[serde(default)]
    pub token_endpoint: Option<Url>,
    /// Where the device flow begins (RFC 8628).
    #[serde(default)]
    pub device_authorization_endpoint: Option<Url>,
    /// Where it tells more of a person.
    #[serde(default)]
    pub userinfo_endpoint: Option<Url>,
    /// Where tokens are given back (RFC 7009).
    #[serde(default)]
    pub revocation_endpoint: Option<Url>,
    /// Where a browser signs out.
    #[serde(default)]
    pub end_session_endpoint: Option<Url>,
    /// How clients show who they are at the token endpoint.
    #[serde(default)]
    pub token_endpoint_auth_methods_supported: Option<Vec<String>>,
    /// Which methods of PKCE it knows (RFC 7636).
    #[serde(default)]
    pub code_challenge_methods_supported: Option<Vec<String>>,
    /// What can be asked for, as far as it says.
    #[serde(default)]
    pub scopes_supported: Option<Vec<String>>,
    /// Answers say which provider they come from (RFC 9207).
    #[serde(default)]
    pub authorization_response_iss_parameter_supported: bool,
}

/// Asks one provider for its metadata, and keeps them.
#[derive(Debug)]
pub(super) struct Discovery {
    issuer: Url,
    /// As written: a comparison by characters (OpenID Connect Discovery, section 4.3).
    text: Arc<str>,
    known: Mutex<Known>,
}

#[derive(Debug)]
enum Known {
    Nothing,
    Endpoints(Arc<Endpoints>, Instant),
    Failed(DiscoveryError, Instant),
}

impl Discovery {
    pub(super) fn new(issuer: &str) -> Result<Self, HttpError> {
        let url = http::address(issuer)?;
        if url.query().is_some() {
            let address = http::server(&url);
            return Err(HttpError::Address { address, problem: "has a query in its address" });
        }
        Ok(Self { issuer: url, text: issuer.into(), known: Mutex::new(Known::Nothing) })
    }

    /// Its metadata. Whoever else needs them waits, so that it is asked once.
    pub(super) fn endpoints(&self, http: &Http) -> Result<Arc<Endpoints>, DiscoveryError> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let earlier = match &*known {
            Known::Endpoints(endpoints, at) if at.elapsed() < KEPT => return Ok(Arc::clone(endpoints)),
            Known::Failed(error, at) if at.elapsed() < FAILED => return Err(error.clone()),
            Known::Endpoints(endpoints, _) => Some(Arc::clone(endpoints)),
            Known::Failed(..) | Known::Nothing => None,
        };
        match (self.ask(http), earlier) {
            (Ok(endpoints), _) => {
                let endpoints = Arc::new(endpoints);
                *known = Known::Endpoints(Arc::clone(&endpoints), Instant::now());
                Ok(endpoints)
            }
            // Where its keys are does not change because it is away. How long they count is bounded there.
            (Err(DiscoveryError::Unavailable(_)), Some(earlier)) => {
                let soon = Instant::now().checked_sub(KEPT - FAILED).unwrap_or_else(Instant::now);
                *known = Known::Endpoints(Arc::clone(&earlier), soon);
                Ok(earlier)
            }
            (Err(error), _) => {
                *known = Known::Failed(error.clone(), Instant::now());
                Err(error)
            }
        }
    }

    fn ask(&self, http: &Http) -> Result<Endpoints, DiscoveryError> {
        let unavailable =
            |error: &dyn std::fmt::Display| DiscoveryError::Unavailable(error.to_string().into());
        let path = self.issuer.path().trim_end_matches('/');
        let at = |path: String| {
            let mut url = self.issuer.clone();
            url.set_path(&path);
            url
        };
        let answer = http.get(&at(format!("{path}/.well-known/openid-configuration"))).or_else(|first| {
            // RFC 8414, section 3: the well-known part stands before the issuer's path.
            http.get(&at(format!("/.well-known/oauth-authorization-server{path}"))).map_err(|_| first)
        });
        let answer = answer.map_err(|error| unavailable(&error))?;
        let endpoints = Endpoints::parse(&answer).map_err(|error| {
            unavailable(&format_args!("{}: its metadata: {error}", http::server(&self.issuer)))
        })?;
        if *endpoints.issuer != *self.text {
            return Err(DiscoveryError::OtherIssuer {
                said: endpoints
                    .issuer
                    .chars()
                    .filter(|c| !c.is_control())
                    .take(200)
                    .collect::<String>()
                    .into(),
                configured: Arc::clone(&self.text),
            });
        }
        endpoints.check(http::is_loopback(&self.issuer)).map_err(|error| unavailable(&error))?;
        Ok(endpoints)
    }
}

impl Endpoints {
    /// Takes a provider's metadata (OpenID Connect Discovery 1.0, section 3).
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        super::json::object(bytes).and_then(|object| serde_json::from_value(object.into()))
    }

    /// A provider elsewhere must not have this host's own services asked.
    fn check(&self, own: bool) -> Result<(), HttpError> {
        let places = [
            Some(&self.jwks_uri),
            self.authorization_endpoint.as_ref(),
            self.token_endpoint.as_ref(),
            self.device_authorization_endpoint.as_ref(),
            self.userinfo_endpoint.as_ref(),
            self.revocation_endpoint.as_ref(),
            self.end_session_endpoint.as_ref(),
        ];
        for place in places.into_iter().flatten() {
            http::address(place.as_str())?;
            if !own && http::is_loopback(place) {
                let address = http::server(place);
                return Err(HttpError::Address {
                    address,
                    problem: "stands in its metadata and is this host",
                });
            }
        }
        Ok(())
    }
}
