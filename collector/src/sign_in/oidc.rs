//! OpenID Connect: the authorization code flow with PKCE, by discovery.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context as _;
use openidconnect::core::{
    CoreAuthDisplay, CoreAuthPrompt, CoreAuthenticationFlow, CoreClaimName, CoreClaimType,
    CoreClientAuthMethod, CoreErrorResponseType, CoreGenderClaim, CoreGrantType, CoreJsonWebKey,
    CoreJweContentEncryptionAlgorithm, CoreJweKeyManagementAlgorithm, CoreJwsSigningAlgorithm as Alg,
    CoreResponseMode, CoreResponseType, CoreRevocableToken, CoreRevocationErrorResponse,
    CoreSubjectIdentifierType, CoreTokenIntrospectionResponse, CoreTokenType,
};
use openidconnect::{
    AccessTokenHash, AdditionalClaims, AdditionalProviderMetadata, AuthType, AuthorizationCode,
    ClaimsVerificationError, ClientId, ClientSecret, CsrfToken, EmptyExtraTokenFields, EndpointMaybeSet,
    EndpointNotSet, EndpointSet, IdToken, IdTokenFields, IdTokenVerifier, IssuerUrl, Nonce,
    OAuth2TokenResponse as _, PkceCodeChallenge, PkceCodeVerifier, ProviderMetadata, RedirectUrl,
    RequestTokenError, Scope, SignatureVerificationError, StandardErrorResponse, StandardTokenResponse,
    TokenResponse as _, UserInfoClaims,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::{Mutex, Semaphore};
use zeroize::Zeroizing;

use super::config::{Oidc, is_safe};
use super::{Begun, Identity, MOST_GROUPS, said};
use crate::http::{Client as Http, HttpError};

/// How far the clocks of provider and collector may be apart.
const SKEW: Duration = Duration::from_secs(60);
/// An ID token that was made longer ago is not of this sign-in.
const OLDEST: Duration = Duration::from_secs(10 * 60);
/// For so long a provider's metadata and keys are used before they are asked for again: keys that it has
/// withdrawn count no longer then.
const KEPT: Duration = Duration::from_secs(10 * 60);
/// An unknown key has them asked for at once, but not more often than this.
const ANEW: Duration = Duration::from_secs(30);
/// A provider that did not answer is left alone for so long.
const FAILED: Duration = Duration::from_secs(5);
/// Sign-ins that one provider is asked about at a time; others wait.
const AT_ONCE: usize = 8;

/// What may sign an ID token. No MAC: its key would be the client's secret, and a public key passed off as one
/// is an old attack.
const ALGORITHMS: [Alg; 9] = [
    Alg::RsaSsaPkcs1V15Sha256,
    Alg::RsaSsaPkcs1V15Sha384,
    Alg::RsaSsaPkcs1V15Sha512,
    Alg::RsaSsaPssSha256,
    Alg::RsaSsaPssSha384,
    Alg::RsaSsaPssSha512,
    Alg::EcdsaP256Sha256,
    Alg::EcdsaP384Sha384,
    Alg::EdDsa,
];

/// Why someone is not signed in.
#[derive(Debug, thiserror::Error)]
pub enum OidcError {
    /// The provider cannot be asked, or its metadata cannot be used.
    #[error("the provider cannot be asked: {0}")]
    Unavailable(String),
    /// The provider refused to say who it is.
    #[error("the provider refused: {0}")]
    Refused(String),
    /// What it said does not prove who it is.
    #[error("the provider's answer cannot be trusted: {0}")]
    Untrusted(String),
}

/// Claims beyond the standard ones.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct More(BTreeMap<String, Value>);

impl AdditionalClaims for More {}

/// Metadata beyond the standard one.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct MoreMetadata {
    /// RFC 9207: answers say which provider they come from.
    #[serde(default)]
    authorization_response_iss_parameter_supported: bool,
    #[serde(default)]
    end_session_endpoint: Option<String>,
}

impl AdditionalProviderMetadata for MoreMetadata {}

type Metadata = ProviderMetadata<
    MoreMetadata,
    CoreAuthDisplay,
    CoreClientAuthMethod,
    CoreClaimName,
    CoreClaimType,
    CoreGrantType,
    CoreJweContentEncryptionAlgorithm,
    CoreJweKeyManagementAlgorithm,
    CoreJsonWebKey,
    CoreResponseMode,
    CoreResponseType,
    CoreSubjectIdentifierType,
>;

type Token = IdToken<More, CoreGenderClaim, CoreJweContentEncryptionAlgorithm, Alg>;

type TokenAnswer = StandardTokenResponse<
    IdTokenFields<More, EmptyExtraTokenFields, CoreGenderClaim, CoreJweContentEncryptionAlgorithm, Alg>,
    CoreTokenType,
>;

type Client = openidconnect::Client<
    More,
    CoreAuthDisplay,
    CoreGenderClaim,
    CoreJweContentEncryptionAlgorithm,
    CoreJsonWebKey,
    CoreAuthPrompt,
    StandardErrorResponse<CoreErrorResponseType>,
    TokenAnswer,
    CoreTokenIntrospectionResponse,
    CoreRevocableToken,
    CoreRevocationErrorResponse,
    EndpointSet,
    EndpointNotSet,
    EndpointNotSet,
    EndpointNotSet,
    EndpointMaybeSet,
    EndpointMaybeSet,
>;

/// What the browser brings back from the provider.
#[derive(Debug, Clone)]
pub struct Answer {
    /// What the provider is asked about who it is with.
    pub code: String,
    /// Which provider it comes from, as it says (RFC 9207).
    pub iss: Option<String>,
}

/// What is known of a provider, and when it was last asked because of an unknown key.
#[derive(Debug)]
struct Cache {
    known: Known,
    anew: Option<Instant>,
}

/// What is known of a provider.
#[derive(Debug)]
enum Known {
    Nothing,
    Metadata(Arc<Metadata>, Instant),
    Failed(String, Instant),
}

/// A provider of OpenID Connect.
#[derive(Debug)]
pub struct OidcProvider {
    config: Oidc,
    issuer: IssuerUrl,
    redirect: RedirectUrl,
    /// Where the provider sends browsers back to that have signed out of it.
    signed_out: String,
    secret: Option<Zeroizing<String>>,
    http: Http,
    cache: Mutex<Cache>,
    turns: Semaphore,
}

impl OidcProvider {
    /// Reads the client's secret. The provider itself is asked when someone signs in.
    ///
    /// # Errors
    /// The secret or the authorities cannot be read.
    pub(super) fn new(config: &Oidc, url: &str) -> anyhow::Result<Self> {
        let at = || format!("sign_in: {}", config.name);
        let secret = config.client_secret_file.as_ref().map(|path| {
            let text = std::fs::read_to_string(path).map(Zeroizing::new);
            let text = text.with_context(|| format!("{}: client_secret_file {}", at(), path.display()))?;
            let secret = Zeroizing::new(text.trim().to_owned());
            anyhow::ensure!(!secret.is_empty(), "{}: client_secret_file {} is empty", at(), path.display());
            Ok(secret)
        });
        let http = Http::new(config.ca.as_deref()).with_context(at)?;
        Ok(Self {
            issuer: IssuerUrl::new(config.issuer.clone()).with_context(at)?,
            redirect: RedirectUrl::new(format!("{url}/sign-in/oidc/{}/callback", config.name))
                .with_context(at)?,
            signed_out: format!("{url}/sign-in"),
            secret: secret.transpose()?,
            http,
            cache: Mutex::new(Cache { known: Known::Nothing, anew: None }),
            turns: Semaphore::new(AT_ONCE),
            config: config.clone(),
        })
    }

    pub(super) fn config(&self) -> &Oidc {
        &self.config
    }

    /// As it stands in identities.
    pub(super) fn issuer(&self) -> &str {
        self.issuer.as_str()
    }

    /// Where to send the browser; `again` when who they are is to be shown there anew.
    ///
    /// # Errors
    /// The provider cannot be asked for its metadata.
    pub async fn begin(&self, begun: &Begun, again: bool) -> Result<String, OidcError> {
        let metadata = self.metadata(None).await?;
        let client = self.client(&metadata);
        let (state, nonce) = (begun.state.clone(), begun.nonce.clone());
        let verifier = PkceCodeVerifier::new(begun.verifier.clone());
        let mut request = client
            .authorize_url(
                CoreAuthenticationFlow::AuthorizationCode,
                move || CsrfToken::new(state),
                move || Nonce::new(nonce),
            )
            .set_pkce_challenge(PkceCodeChallenge::from_code_verifier_sha256(&verifier))
            .add_scopes(self.config.scopes.iter().cloned().map(Scope::new));
        if again {
            // Then its answer says when they have (OpenID Connect Core 3.1.2.1).
            request = request.set_max_age(Duration::ZERO).add_prompt(CoreAuthPrompt::Login);
        } else if let Some(minutes) = self.config.max_age_minutes {
            request = request.set_max_age(Duration::from_secs(u64::from(minutes) * 60));
        }
        Ok(request.url().0.to_string())
    }

    /// Where a browser signs out of the provider too, if the provider has such a place and is known.
    pub(super) fn sign_out_url(&self) -> Option<String> {
        // Nobody waits for a provider that is being asked just now.
        let metadata = match &self.cache.try_lock().ok()?.known {
            Known::Metadata(metadata, _) => Arc::clone(metadata),
            _ => return None,
        };
        let place = metadata.additional_metadata().end_session_endpoint.as_deref()?;
        let mut url = openidconnect::url::Url::parse(place).ok().filter(|url| self.may_ask(url))?;
        url.query_pairs_mut()
            .append_pair("client_id", &self.config.client_id)
            .append_pair("post_logout_redirect_uri", &self.signed_out);
        Some(url.into())
    }

    /// Who it is that came back with `answer`.
    ///
    /// # Errors
    /// The provider cannot be asked, refuses, or does not prove it.
    pub async fn finish(&self, begun: &Begun, answer: Answer) -> Result<Identity, OidcError> {
        let metadata = self.metadata(None).await?;
        self.check_sender(&metadata, answer.iss.as_deref())?;
        let _turn = self.turns.acquire().await.map_err(|error| OidcError::Unavailable(error.to_string()))?;
        let (client, http) = (self.client(&metadata), self.http.clone());
        let (code, verifier) = (answer.code, begun.verifier.clone());
        let tokens = blocking(move || exchange(&client, &http, code, verifier)).await?;
        let token = tokens
            .id_token()
            .ok_or_else(|| OidcError::Untrusted("it has no ID token: is the scope openid allowed?".into()))?;
        // A key that is not known may be a new one.
        let (metadata, verified) = match self.verify(&metadata, token, &tokens, begun) {
            Err(ClaimsVerificationError::SignatureVerification(
                SignatureVerificationError::NoMatchingKey,
            )) => {
                let newer = self.metadata(Some(&metadata)).await?;
                let verified = self.verify(&newer, token, &tokens, begun);
                (newer, verified)
            }
            verified => (metadata, verified),
        };
        let mut claims = verified.map_err(|error| OidcError::Untrusted(said(&reason(&error))))?;
        if self.groups(&claims).is_none() && metadata.userinfo_endpoint().is_some() {
            self.ask_more(&metadata, &tokens, &mut claims).await?;
        }
        self.identity(claims)
    }

    /// An answer that another provider gave must not be taken for this one's.
    fn check_sender(&self, metadata: &Metadata, iss: Option<&str>) -> Result<(), OidcError> {
        match iss {
            Some(iss) if iss != self.issuer.as_str() => {
                Err(OidcError::Untrusted(format!("it comes from {:?}, another provider", said(iss))))
            }
            None if metadata.additional_metadata().authorization_response_iss_parameter_supported => {
                Err(OidcError::Untrusted("it does not say which provider it comes from (iss)".into()))
            }
            _ => Ok(()),
        }
    }

    fn may_ask(&self, url: &openidconnect::url::Url) -> bool {
        is_safe(url) && (url.scheme() == "https" || self.issuer.url().scheme() == "http")
    }

    fn client(&self, metadata: &Metadata) -> Client {
        let secret = self.secret.as_ref().map(|secret| ClientSecret::new(secret.to_string()));
        let methods = metadata.token_endpoint_auth_methods_supported();
        let client = Client::from_provider_metadata(
            metadata.clone(),
            ClientId::new(self.config.client_id.clone()),
            secret,
        );
        let in_body = methods.is_some_and(|methods| {
            methods.contains(&CoreClientAuthMethod::ClientSecretPost)
                && !methods.contains(&CoreClientAuthMethod::ClientSecretBasic)
        });
        let client = client.set_redirect_uri(self.redirect.clone());
        if in_body { client.set_auth_type(AuthType::RequestBody) } else { client }
    }

    /// The provider's metadata and keys; newer ones than `than`, if it is given and not of just now.
    async fn metadata(&self, than: Option<&Arc<Metadata>>) -> Result<Arc<Metadata>, OidcError> {
        // Whoever else needs it waits here, so that the provider is asked once.
        let mut cache = self.cache.lock().await;
        match &cache.known {
            Known::Metadata(metadata, at) => {
                let stale = than.is_some_and(|than| Arc::ptr_eq(than, metadata))
                    && cache.anew.is_none_or(|at| at.elapsed() > ANEW);
                if at.elapsed() < KEPT && !stale {
                    return Ok(Arc::clone(metadata));
                }
                if stale {
                    cache.anew = Some(Instant::now());
                }
            }
            Known::Failed(error, at) if at.elapsed() < FAILED => {
                return Err(OidcError::Unavailable(error.clone()));
            }
            Known::Failed(..) | Known::Nothing => {}
        }
        let (issuer, http) = (self.issuer.clone(), self.http.clone());
        let found = blocking(move || {
            let ask = |request| http.send_blocking(request);
            Metadata::discover(&issuer, &ask).map_err(|error| OidcError::Unavailable(said(&whole(&error))))
        })
        .await
        .and_then(|metadata| self.check_metadata(metadata));
        match found {
            Ok(metadata) => {
                let metadata = Arc::new(metadata);
                cache.known = Known::Metadata(Arc::clone(&metadata), Instant::now());
                Ok(metadata)
            }
            Err(error) => {
                tracing::warn!(provider = self.config.name, "{error}");
                let OidcError::Unavailable(text) = &error else { return Err(error) };
                cache.known = Known::Failed(text.clone(), Instant::now());
                Err(error)
            }
        }
    }

    fn check_metadata(&self, metadata: Metadata) -> Result<Metadata, OidcError> {
        let places = [
            Some(metadata.authorization_endpoint().url()),
            metadata.token_endpoint().map(|place| place.url()),
            metadata.userinfo_endpoint().map(|place| place.url()),
            Some(metadata.jwks_uri().url()),
        ];
        for url in places.into_iter().flatten() {
            if !self.may_ask(url) {
                return Err(OidcError::Unavailable(format!(
                    "its metadata leads to {}, without TLS",
                    said(url.as_str())
                )));
            }
        }
        if metadata.token_endpoint().is_none() {
            return Err(OidcError::Unavailable("its metadata names no token endpoint".into()));
        }
        Ok(metadata)
    }

    fn verifier<'m>(&self, metadata: &'m Metadata) -> IdTokenVerifier<'m, CoreJsonWebKey> {
        let client = ClientId::new(self.config.client_id.clone());
        let most = self.config.max_age_minutes.map(|minutes| Duration::from_secs(u64::from(minutes) * 60));
        // Also with a secret it is verified as for a public client: the secret signs nothing.
        IdTokenVerifier::new_public_client(client, self.issuer.clone(), metadata.jwks().clone())
            .set_allowed_algs(ALGORITHMS)
            // Others may be among the audience if the token was made for this client (azp), checked below.
            .set_other_audience_verifier_fn(|_| true)
            .set_time_fn(|| (SystemTime::now() - SKEW).into())
            .set_issue_time_verifier_fn(|at| {
                let (at, now) = (SystemTime::from(at), SystemTime::now());
                if at > now + SKEW {
                    Err("it was made in the future: the clocks are apart".into())
                } else if at + OLDEST + SKEW < now {
                    Err("it was made too long ago".into())
                } else {
                    Ok(())
                }
            })
            .set_auth_time_verifier_fn(move |at| match (most, at.map(SystemTime::from)) {
                (None, _) => Ok(()),
                (Some(_), None) => Err("it does not say when the password was typed (auth_time)".into()),
                (Some(most), Some(at)) if at + most + SKEW < SystemTime::now() => {
                    Err("the password was typed too long ago: sign in at the provider anew".into())
                }
                (Some(_), Some(_)) => Ok(()),
            })
    }

    /// The claims of an ID token that proves them.
    fn verify(
        &self,
        metadata: &Metadata,
        token: &Token,
        tokens: &TokenAnswer,
        begun: &Begun,
    ) -> Result<Claims, ClaimsVerificationError> {
        let verifier = self.verifier(metadata);
        let claims = token.claims(&verifier, &Nonce::new(begun.nonce.clone()))?;
        let mine = claims.authorized_party().map(|party| party.as_str() == self.config.client_id);
        if mine == Some(false) || mine.is_none() && claims.audiences().len() > 1 {
            let text = "it was made for another client (azp)".to_owned();
            return Err(ClaimsVerificationError::InvalidAudience(text));
        }
        if let Some(expected) = claims.access_token_hash() {
            let hash = token
                .signing_alg()
                .and_then(|alg| Ok((alg, token.signing_key(&verifier)?)))
                .map_err(ClaimsVerificationError::SignatureVerification)
                .and_then(|(alg, key)| {
                    AccessTokenHash::from_token(tokens.access_token(), alg, key)
                        .map_err(|error| ClaimsVerificationError::Unsupported(error.to_string()))
                })?;
            if hash != *expected {
                let text = "the access token beside it is another one (at_hash)".to_owned();
                return Err(ClaimsVerificationError::Other(text));
            }
        }
        let subject = claims.subject().as_str();
        if subject.is_empty() || subject.len() > 255 || subject.contains(char::is_control) {
            return Err(ClaimsVerificationError::InvalidSubject(
                "it is empty, too long, or has control characters".into(),
            ));
        }
        Ok(Claims {
            subject: subject.to_owned(),
            username: claims.preferred_username().map(|name| name.to_string()),
            email: claims.email().map(|email| email.to_string()),
            email_verified: claims.email_verified().unwrap_or(false),
            authenticated_ns: claims.auth_time().and_then(|at| at.timestamp_nanos_opt()),
            more: claims.additional_claims().0.clone(),
        })
    }

    /// Asks the provider for claims that the ID token has not.
    async fn ask_more(
        &self,
        metadata: &Metadata,
        tokens: &TokenAnswer,
        claims: &mut Claims,
    ) -> Result<(), OidcError> {
        let access = tokens.access_token().clone();
        if !access.secret().bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(OidcError::Untrusted("its access token is none".into()));
        }
        let subject = openidconnect::SubjectIdentifier::new(claims.subject.clone());
        let request = self.client(metadata);
        let http = self.http.clone();
        let found: UserInfoClaims<More, CoreGenderClaim> = blocking(move || {
            let ask = |request| http.send_blocking(request);
            request
                .user_info(access, Some(subject))
                .map_err(|error| OidcError::Unavailable(error.to_string()))?
                .request(&ask)
                .map_err(|error| OidcError::Untrusted(said(&whole(&error))))
        })
        .await?;
        claims.username = claims.username.take().or(found.preferred_username().map(|name| name.to_string()));
        if claims.email.is_none() {
            claims.email = found.email().map(|email| email.to_string());
            claims.email_verified = found.email_verified().unwrap_or(false);
        }
        for (name, value) in &found.additional_claims().0 {
            claims.more.entry(name.clone()).or_insert_with(|| value.clone());
        }
        Ok(())
    }

    /// The groups that the configured claim names; none when there is no such claim.
    fn groups(&self, claims: &Claims) -> Option<Vec<String>> {
        let claim = self.config.groups_claim.as_str();
        if claim == "email" {
            return Some(claims.verified_email().map(str::to_owned).into_iter().collect());
        }
        let value = match claim.split_once('/') {
            Some(("", rest)) => {
                let (first, rest) = rest.split_once('/').map_or((rest, ""), |(first, rest)| (first, rest));
                let value = claims.more.get(&first.replace("~1", "/").replace("~0", "~"))?;
                if rest.is_empty() { value } else { value.pointer(&format!("/{rest}"))? }
            }
            _ => claims.more.get(claim)?,
        };
        match value {
            Value::String(one) => Some(vec![one.clone()]),
            Value::Array(several) => Some(
                several
                    .iter()
                    .take(MOST_GROUPS)
                    .filter_map(|group| group.as_str().map(str::to_owned))
                    .collect(),
            ),
            _ => None,
        }
    }

    fn identity(&self, claims: Claims) -> Result<Identity, OidcError> {
        let groups = self.groups(&claims);
        let hint = match &groups {
            None if claims.more.contains_key("_claim_names") || claims.more.contains_key("hasgroups") => Some(
                "the provider left the groups out because there are too many: let it send application roles \
                      or only assigned groups"
                    .to_owned(),
            ),
            None => Some(format!("the provider sent no claim {:?}", self.config.groups_claim)),
            Some(groups) if groups.is_empty() && self.config.groups_claim == "email" => {
                Some("the provider does not say that it has verified the e-mail address".to_owned())
            }
            Some(_) => None,
        };
        // At some providers people can choose what they are called (preferred_username), and so call themselves as
        // someone else; the provider has made sure of the address.
        let called =
            claims.verified_email().or(claims.username.as_deref()).unwrap_or(&claims.subject).to_owned();
        Ok(Identity {
            issuer: self.issuer.to_string(),
            subject: claims.subject,
            called,
            groups: groups.unwrap_or_default(),
            email: claims.email,
            email_verified: claims.email_verified,
            authenticated_ns: claims.authenticated_ns,
            hint,
        })
    }
}

/// What is taken from an ID token, and from what the provider says of the person beside it.
struct Claims {
    subject: String,
    username: Option<String>,
    email: Option<String>,
    email_verified: bool,
    authenticated_ns: Option<i64>,
    more: BTreeMap<String, Value>,
}

impl Claims {
    fn verified_email(&self) -> Option<&str> {
        self.email.as_deref().filter(|_| self.email_verified)
    }
}

/// Off the threads that serve everyone.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, OidcError> + Send + 'static,
) -> Result<T, OidcError> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(OidcError::Unavailable(error.to_string())))
}

/// Exchanges the code for tokens.
fn exchange(client: &Client, http: &Http, code: String, verifier: String) -> Result<TokenAnswer, OidcError> {
    let ask = |request| http.send_blocking(request);
    let request = client
        .exchange_code(AuthorizationCode::new(code))
        .map_err(|error| OidcError::Unavailable(error.to_string()))?
        .set_pkce_verifier(PkceCodeVerifier::new(verifier));
    request.request(&ask).map_err(|error| match error {
        RequestTokenError::ServerResponse(answer) => {
            let more = answer.error_description().map(String::as_str).unwrap_or_default();
            OidcError::Refused(said(format!("{} {more}", answer.error().as_ref()).trim()))
        }
        RequestTokenError::Request(error) => OidcError::Unavailable(said(&whole(&error))),
        RequestTokenError::Parse(error, _) => OidcError::Untrusted(said(&error.to_string())),
        RequestTokenError::Other(error) => OidcError::Untrusted(said(&error)),
    })
}

/// An error with its causes.
fn whole(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

fn reason(error: &ClaimsVerificationError) -> String {
    whole(error)
}

impl From<HttpError> for OidcError {
    fn from(error: HttpError) -> Self {
        Self::Unavailable(error.to_string())
    }
}
