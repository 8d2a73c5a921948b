//! Asking an identity provider who somebody is: the device authorization grant (RFC 8628), the authorization
//! code with PKCE (RFC 6749, 7636, 8252), refreshing (RFC 6749, section 6) and giving back (RFC 7009).
//!
//! The agent asks, never the process of whoever signs in: tokens do not leave the agent.

mod browser;
mod device;
mod person;
mod refresh;

use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use oauth2::basic::{
    BasicErrorResponse, BasicErrorResponseType, BasicRevocationErrorResponse,
    BasicTokenIntrospectionResponse, BasicTokenType,
};
use oauth2::{
    AuthType, ClientId, ClientSecret, EndpointNotSet, EndpointSet, ErrorResponse, ExtraTokenFields,
    HttpRequest, HttpResponse, RequestTokenError, Scope, StandardRevocableToken, StandardTokenResponse,
    TokenUrl,
};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tokio::sync::Semaphore;
use zeroize::Zeroizing;

use super::fault::{SignInError, said, said_of};
use crate::identity::oidc::http::HttpError;
use crate::identity::oidc::{Endpoints, Issuer};

pub(super) use browser::{Brought, Browser};
pub(super) use person::SignedIn;
pub(super) use refresh::Refreshed;

/// What is asked for besides `openid` where agent.yaml does not say, as far as the provider offers it:
/// `offline_access` is what most give a refresh token for.
const SCOPES: [&str; 4] = ["profile", "email", "groups", "offline_access"];

/// Sign-ins that one provider is asked about at once: other work waits for the same threads.
const AT_ONCE: usize = 4;

/// What asks a provider to have somebody prove anew who they are, though they are signed in there (OpenID Connect
/// Core, section 3.1.2.1). Whoever opens the address can leave it out: `auth_time` is what tells.
const ANEW: [(&str, &str); 2] = [("prompt", "login"), ("max_age", "0")];

/// What a token endpoint adds to RFC 6749.
#[derive(Default, Serialize, Deserialize)]
struct WithIdToken {
    #[serde(default, skip_serializing, deserialize_with = "secret")]
    id_token: Option<Zeroizing<String>>,
}

fn secret<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<Zeroizing<String>>, D::Error> {
    Ok(Option::<String>::deserialize(from)?.map(Zeroizing::new))
}

impl fmt::Debug for WithIdToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WithIdToken(..)")
    }
}

impl ExtraTokenFields for WithIdToken {}

type Tokens = StandardTokenResponse<WithIdToken, BasicTokenType>;

type Client = oauth2::Client<
    BasicErrorResponse,
    Tokens,
    BasicTokenIntrospectionResponse,
    StandardRevocableToken,
    BasicRevocationErrorResponse,
    EndpointNotSet,
    EndpointNotSet,
    EndpointNotSet,
    EndpointNotSet,
    EndpointSet,
>;

/// A provider that people sign in at.
pub(super) struct Provider {
    issuer: Arc<Issuer>,
    secret: Option<Zeroizing<String>>,
    /// Sign-ins that it is asked about at once. Its own: one that answers slowly holds up no other.
    turns: Arc<Semaphore>,
}

impl fmt::Debug for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Provider").field("issuer", self.issuer.name()).finish_non_exhaustive()
    }
}

// === impl Provider ===

impl Provider {
    /// Reads the client's secret, where there is one.
    ///
    /// # Errors
    /// It has no client id, or the secret cannot be read.
    pub(super) fn new(issuer: Arc<Issuer>) -> anyhow::Result<Self> {
        let config = issuer.config();
        let name = issuer.name();
        anyhow::ensure!(
            config.client_id.as_ref().is_some_and(|id| !id.is_empty()),
            "`identity.issuers`, {name:?}: nobody can sign in there; write the `client_id` that it calls Interlock by"
        );
        let secret = match &config.client_secret_file {
            None => None,
            Some(path) => {
                let wrong = |what: &dyn fmt::Display| {
                    anyhow::anyhow!("`identity.issuers`, {name:?}: `client_secret_file`: {what}")
                };
                let text = crate::credential::read_private(path).map_err(|error| wrong(&error))?;
                let text = std::str::from_utf8(&text).map(str::trim).unwrap_or_default();
                anyhow::ensure!(!text.is_empty(), wrong(&"it is empty, or no text"));
                Some(Zeroizing::new(text.to_owned()))
            }
        };
        Ok(Self { issuer, secret, turns: Arc::new(Semaphore::new(AT_ONCE)) })
    }

    /// Whose turn it is to ask it about a sign-in.
    pub(super) fn turns(&self) -> Arc<Semaphore> {
        Arc::clone(&self.turns)
    }

    pub(super) fn issuer(&self) -> &Arc<Issuer> {
        &self.issuer
    }

    pub(super) fn name(&self) -> &Arc<str> {
        self.issuer.name()
    }

    fn endpoints(&self) -> Result<Arc<Endpoints>, SignInError> {
        self.issuer
            .endpoints()
            .map_err(|error| SignInError::Unavailable(Arc::clone(self.name()), said(&error.to_string())))
    }

    fn client(&self, endpoints: &Endpoints) -> Result<Client, SignInError> {
        let Some(place) = &endpoints.token_endpoint else {
            return Err(self.not_offered("names no token endpoint in its metadata"));
        };
        let id = self.issuer.config().client_id.clone().unwrap_or_default();
        let mut client =
            oauth2::Client::new(ClientId::new(id)).set_token_uri(TokenUrl::from_url(place.clone()));
        if let Some(secret) = &self.secret {
            client = client.set_client_secret(ClientSecret::new(secret.to_string()));
        }
        // RFC 8414: `client_secret_basic` where it does not say.
        let methods = endpoints.token_endpoint_auth_methods_supported.as_deref();
        let has = |methods: &[String], name: &str| methods.iter().any(|method| method == name);
        let in_body = methods.is_some_and(|methods| {
            has(methods, "client_secret_post") && !has(methods, "client_secret_basic")
        });
        Ok(if in_body { client.set_auth_type(AuthType::RequestBody) } else { client })
    }

    fn scopes(&self) -> Vec<Scope> {
        let asked = &self.issuer.config().scopes;
        let mut scopes = vec![Scope::new("openid".to_owned())];
        let offered = self.issuer.endpoints().ok().and_then(|endpoints| endpoints.scopes_supported.clone());
        if asked.is_empty() {
            let offers = |scope: &str| offered.as_ref().is_none_or(|all| all.iter().any(|one| one == scope));
            scopes.extend(
                SCOPES.iter().filter(|scope| offers(scope)).map(|scope| Scope::new((*scope).to_owned())),
            );
        } else {
            scopes.extend(asked.iter().filter(|scope| *scope != "openid").cloned().map(Scope::new));
        }
        scopes
    }

    fn send(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let answer = self.issuer.http().send(request)?;
        Ok(answer.map(|body| body.to_vec()))
    }

    fn untrusted(&self, why: &str) -> SignInError {
        SignInError::Untrusted(Arc::clone(self.name()), said(why))
    }

    fn not_offered(&self, why: &'static str) -> SignInError {
        SignInError::NotOffered(Arc::clone(self.name()), why)
    }

    fn refused<T>(&self, answer: &oauth2::StandardErrorResponse<T>) -> SignInError
    where
        T: oauth2::ErrorResponseType + AsRef<str>,
    {
        SignInError::Refused(Arc::clone(self.name()), said_of(answer))
    }

    fn failed(&self, error: RequestTokenError<HttpError, BasicErrorResponse>) -> SignInError {
        match error {
            RequestTokenError::ServerResponse(answer) => match answer.error() {
                BasicErrorResponseType::Extension(word) if word == "access_denied" => {
                    SignInError::Denied(Arc::clone(self.name()))
                }
                _ => self.refused(&answer),
            },
            error => self.broken(error),
        }
    }

    fn broken<T: ErrorResponse>(&self, error: RequestTokenError<HttpError, T>) -> SignInError {
        let name = Arc::clone(self.name());
        match error {
            RequestTokenError::Request(error) => SignInError::Unavailable(name, said(&error.to_string())),
            // As a proxy's page of errors is. Its words could hold what was read, a token among it.
            RequestTokenError::Parse(..) => {
                SignInError::Unavailable(name, "its answer is not as RFC 6749 has it".to_owned())
            }
            RequestTokenError::Other(error) => SignInError::Untrusted(name, said(&error)),
            RequestTokenError::ServerResponse(_) => SignInError::Refused(name, String::new()),
        }
    }

    /// 32 random bytes, as text.
    fn random(&self) -> Result<Zeroizing<String>, SignInError> {
        let mut bytes = Zeroizing::new([0; 32]);
        interlock_recording::fill_random(&mut *bytes).map_err(|error| {
            SignInError::Unavailable(Arc::clone(self.name()), format!("no random numbers: {error}"))
        })?;
        Ok(Zeroizing::new(URL_SAFE_NO_PAD.encode(*bytes)))
    }
}

/// Compares without telling by its time how much is the same.
fn constant_time(a: &str, b: &str) -> bool {
    let digest = |text: &str| Sha256::digest(text.as_bytes());
    digest(a).iter().zip(digest(b).iter()).fold(0, |different, (a, b)| different | (a ^ b)) == 0
}

/// Runs what blocks.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, SignInError> + Send + 'static,
) -> Result<T, SignInError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(SignInError::Unavailable("the provider".into(), error.to_string())))
}
