//! Asking an identity provider who somebody is: the device authorization grant (RFC 8628), the authorization
//! code with PKCE (RFC 6749, 7636, 8252), refreshing (RFC 6749, section 6) and giving back (RFC 7009).
//!
//! The agent asks, never the process of whoever signs in: tokens do not leave the agent.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use oauth2::basic::{
    BasicErrorResponse, BasicErrorResponseType, BasicRevocationErrorResponse,
    BasicTokenIntrospectionResponse, BasicTokenType,
};
use oauth2::{
    AuthType, AuthUrl, AuthorizationCode, ClientId, ClientSecret, CsrfToken, DeviceAuthorizationUrl,
    DeviceCodeErrorResponseType, EndpointNotSet, EndpointSet, ErrorResponse, ExtraTokenFields, HttpRequest,
    HttpResponse, PkceCodeChallenge, PkceCodeVerifier, RedirectUrl, RefreshToken, RequestTokenError,
    RevocationUrl, Scope, StandardDeviceAuthorizationResponse, StandardRevocableToken, StandardTokenResponse,
    TokenResponse as _, TokenUrl,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest as _, Sha256, Sha384, Sha512};
use tokio::sync::Semaphore;
use zeroize::Zeroizing;

use super::fault::{SignInError, said, said_of};
use crate::identity::oidc::http::HttpError;
use crate::identity::oidc::{Endpoints, Issuer};
use crate::identity::verified::{self, Claims};
use crate::identity::{GroupsKnown, Verified};

/// What is asked for besides `openid` where agent.yaml does not say, as far as the provider offers it:
/// `offline_access` is what most give a refresh token for.
const SCOPES: [&str; 4] = ["profile", "email", "groups", "offline_access"];

/// An ID token that was made longer ago than this is not of this sign-in.
const OLDEST: Duration = Duration::from_secs(10 * 60);

/// The longest that a device code is waited for, whatever the provider says.
const LONGEST: Duration = Duration::from_secs(30 * 60);

/// Groups of one person that are looked at; nobody is signed in with more, rather than with a part of them.
const MOST_GROUPS: usize = 2000;

/// Sign-ins that one provider is asked about at once: other work waits for the same threads.
const AT_ONCE: usize = 4;

/// What asks a provider to have somebody prove anew who they are, though they are signed in there (OpenID Connect
/// Core, section 3.1.2.1). Whoever opens the address can leave it out: `auth_time` is what tells.
const ANEW: [(&str, &str); 2] = [("prompt", "login"), ("max_age", "0")];

/// The longest answer about a person that is read, in bytes.
const MAX_USERINFO: usize = 128 << 10;

/// Between two questions after a device code, at least and at most, whatever the provider says.
const INTERVAL: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

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

/// A device code that waits for somebody to sign in.
pub(super) struct Device {
    details: StandardDeviceAuthorizationResponse,
}

/// What has to be known again when a browser comes back.
pub(super) struct Browser {
    /// Where it comes back to, on this host.
    redirect: RedirectUrl,
    state: Zeroizing<String>,
    nonce: Zeroizing<String>,
    verifier: Zeroizing<String>,
}

/// What a browser has brought back.
pub(super) struct Brought {
    /// Which of the pages that were opened it comes from.
    pub(super) state: Zeroizing<String>,
    /// What the provider gives the tokens for.
    pub(super) code: Zeroizing<String>,
    /// Which provider it comes from (RFC 9207).
    pub(super) iss: Option<String>,
}

/// Who has signed in.
pub(super) struct SignedIn {
    pub(super) person: Verified,
    /// The same with nothing but what the provider has signed.
    pub(super) signed: Verified,
    pub(super) refresh: Option<Zeroizing<String>>,
}

/// What became of a sign-in that was asked about again.
pub(super) struct Refreshed {
    /// Groups, name and when they signed in, if the provider has said.
    pub(super) person: Option<Verified>,
    /// What it has signed of them, if it has anew.
    pub(super) signed: Option<Verified>,
    /// What to ask with the next time; the same as before when the provider gave no other.
    pub(super) refresh: Option<Zeroizing<String>>,
}

// === impl Device ===

impl Device {
    /// Where to sign in.
    pub(super) fn url(&self) -> String {
        self.details.verification_uri().to_string()
    }

    /// The same with the code in it, if the provider has such an address.
    pub(super) fn complete_url(&self) -> Option<String> {
        self.details.verification_uri_complete().map(|url| url.secret().to_owned())
    }

    /// What to type there.
    pub(super) fn code(&self) -> &str {
        self.details.user_code().secret()
    }

    /// For how long it counts.
    pub(super) fn lasts(&self) -> Duration {
        self.details.expires_in().min(LONGEST)
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

    /// Asks for a device code. Blocks.
    ///
    /// # Errors
    /// The provider cannot be asked, has no device flow, or refuses.
    pub(super) fn begin_device(&self, fresh: bool) -> Result<Device, SignInError> {
        let endpoints = self.endpoints()?;
        let Some(place) = &endpoints.device_authorization_endpoint else {
            return Err(self.not_offered("has no device flow: use `interlock login --browser`"));
        };
        let client = self.client(&endpoints)?;
        let client = client.set_device_authorization_url(DeviceAuthorizationUrl::from_url(place.clone()));
        let mut request = client.exchange_device_code().add_scopes(self.scopes());
        if fresh {
            // RFC 8628 has no such parameters; providers that do not know them ignore them.
            request =
                ANEW.iter().fold(request, |request, (name, value)| request.add_extra_param(*name, *value));
        }
        let details: StandardDeviceAuthorizationResponse =
            request.request(&|request| self.send(request)).map_err(|error| self.failed(error))?;
        let plain = |text: &str| !text.is_empty() && text.len() <= 2048 && !text.contains(unfit);
        let shown = [Some(details.verification_uri().as_str()), Some(details.user_code().secret())];
        let complete = details.verification_uri_complete().map(|url| url.secret().as_str());
        if shown.into_iter().chain([complete]).flatten().any(|text| !plain(text)) {
            return Err(self.untrusted("its code or address cannot be shown"));
        }
        // Shown to people to open: nothing that runs something.
        for url in [Some(details.verification_uri().as_str()), complete].into_iter().flatten() {
            if !oauth2::url::Url::parse(url).is_ok_and(|url| matches!(url.scheme(), "https" | "http")) {
                return Err(self.untrusted("the address to sign in at is none of the web"));
            }
        }
        Ok(Device { details })
    }

    /// Waits until somebody has signed in with the code, or it is clear that nobody will.
    ///
    /// # Errors
    /// Nobody did, or it does not prove who.
    pub(super) async fn finish_device(self: &Arc<Self>, device: Device) -> Result<SignedIn, SignInError> {
        let lasts = device.lasts();
        let interval = device.details.interval().clamp(INTERVAL.0, INTERVAL.1);
        let provider = Arc::clone(self);
        let endpoints = blocking(move || provider.endpoints()).await?;
        let client = self.client(&endpoints)?;
        let asker = Arc::clone(self);
        let ask = move |request| {
            let provider = Arc::clone(&asker);
            async move { blocking_http(move || provider.send(request)).await }
        };
        // The library waits as long as the provider says; what it says is bounded here.
        let wait = |said: Duration| tokio::time::sleep(said.clamp(interval, INTERVAL.1));
        tokio::time::sleep(interval).await;
        let asked =
            client.exchange_device_access_token(&device.details).request_async(&ask, wait, Some(lasts));
        let tokens = match tokio::time::timeout(lasts, asked).await {
            Err(_) => return Err(SignInError::Expired(Arc::clone(self.name()))),
            Ok(tokens) => tokens,
        };
        let tokens = tokens.map_err(|error| match error {
            RequestTokenError::ServerResponse(answer) => match answer.error() {
                DeviceCodeErrorResponseType::ExpiredToken => SignInError::Expired(Arc::clone(self.name())),
                DeviceCodeErrorResponseType::Basic(BasicErrorResponseType::Extension(word))
                    if word == "access_denied" =>
                {
                    SignInError::Denied(Arc::clone(self.name()))
                }
                DeviceCodeErrorResponseType::AccessDenied => SignInError::Denied(Arc::clone(self.name())),
                _ => self.refused(&answer),
            },
            error => self.broken(error),
        })?;
        let provider = Arc::clone(self);
        blocking(move || provider.accept(&tokens, None)).await
    }

    /// Where to send a browser, which comes back to `redirect` on this host. Blocks.
    ///
    /// # Errors
    /// The provider cannot be asked for its metadata, or does not offer this way.
    pub(super) fn begin_browser(
        &self,
        redirect: String,
        fresh: bool,
    ) -> Result<(String, Browser), SignInError> {
        let endpoints = self.endpoints()?;
        let Some(place) = &endpoints.authorization_endpoint else {
            return Err(self.not_offered("has nothing to open in a browser: use `interlock login --device`"));
        };
        let methods = endpoints.code_challenge_methods_supported.as_deref();
        if methods.is_some_and(|methods| !methods.iter().any(|method| method == "S256")) {
            return Err(self.not_offered("does not know PKCE with S256: use `interlock login --device`"));
        }
        let random = || self.random();
        let browser = Browser {
            redirect: RedirectUrl::new(redirect)
                .map_err(|error| self.untrusted(&format!("where to come back to: {error}")))?,
            state: random()?,
            nonce: random()?,
            verifier: random()?,
        };
        let verifier = PkceCodeVerifier::new(browser.verifier.to_string());
        let client = self.client(&endpoints)?.set_auth_uri(AuthUrl::from_url(place.clone()));
        let client = client.set_redirect_uri(browser.redirect.clone());
        let state = browser.state.to_string();
        let mut request = client
            .authorize_url(move || CsrfToken::new(state))
            .add_scopes(self.scopes())
            .add_extra_param("nonce", browser.nonce.as_str())
            .set_pkce_challenge(PkceCodeChallenge::from_code_verifier_sha256(&verifier));
        if fresh {
            request =
                ANEW.iter().fold(request, |request, (name, value)| request.add_extra_param(*name, *value));
        }
        let (url, _) = request.url();
        Ok((url.into(), browser))
    }

    /// Exchanges what the browser has brought. Blocks.
    ///
    /// # Errors
    /// It is not of this sign-in, the provider refuses it, or it does not prove who it is.
    pub(super) fn finish_browser(
        &self,
        browser: &Browser,
        brought: &Brought,
    ) -> Result<SignedIn, SignInError> {
        if !browser.is_state(&brought.state) {
            return Err(self.untrusted("it belongs to another sign-in (state)"));
        }
        let endpoints = self.endpoints()?;
        // RFC 9207: an answer that another provider gave must not be taken for this one's.
        match brought.iss.as_deref() {
            Some(iss) if *iss != **self.issuer.id() => {
                return Err(self.untrusted(&format!("it comes from {:?}, another provider", said(iss))));
            }
            None if endpoints.authorization_response_iss_parameter_supported => {
                return Err(self.untrusted("it does not say which provider it comes from (iss)"));
            }
            _ => {}
        }
        let client = self.client(&endpoints)?.set_redirect_uri(browser.redirect.clone());
        let tokens = client
            .exchange_code(AuthorizationCode::new(brought.code.to_string()))
            .set_pkce_verifier(PkceCodeVerifier::new(browser.verifier.to_string()))
            .request(&|request| self.send(request))
            .map_err(|error| self.failed(error))?;
        self.accept(&tokens, Some(&browser.nonce))
    }

    /// Asks whether a sign-in still counts, and for the groups of now. `before` is what was signed of the person
    /// last: what was said of them besides has to be said anew. Blocks.
    ///
    /// # Errors
    /// It does not count any more ([`SignInError::Revoked`]), or the provider cannot be asked.
    pub(super) fn refresh(&self, token: &str, before: &Verified) -> Result<Refreshed, SignInError> {
        let endpoints = self.endpoints()?;
        let tokens = self
            .client(&endpoints)?
            .exchange_refresh_token(&RefreshToken::new(token.to_owned()))
            .request(&|request| self.send(request))
            .map_err(|error| match error {
                RequestTokenError::ServerResponse(answer)
                    if matches!(answer.error(), BasicErrorResponseType::InvalidGrant) =>
                {
                    SignInError::Revoked(Arc::clone(self.name()), said_of(&answer))
                }
                error => self.failed(error),
            })?;
        let refresh = Some(tokens.refresh_token().map_or_else(
            || Zeroizing::new(token.to_owned()),
            |token| Zeroizing::new(token.secret().clone()),
        ));
        let signed = match &tokens.extra_fields().id_token {
            None => None,
            Some(id_token) => {
                let person = self.verify(id_token)?;
                self.check_hash(id_token, &person, tokens.access_token().secret())?;
                if person.subject != before.subject {
                    return Err(self.untrusted("it is about somebody else than before"));
                }
                Some(person)
            }
        };
        let access = tokens.access_token().secret();
        let person = match &signed {
            Some(signed) if !self.lacks(signed) => Some(signed.clone()),
            Some(signed) => {
                let more = self.userinfo(&endpoints, signed, access)?;
                Some(more.map_or_else(|| signed.clone(), |more| self.issuer.with_more(signed, more)))
            }
            None => {
                let newer = self.userinfo(&endpoints, before, access)?;
                let claim = self.issuer.config().groups_claim.as_str();
                // Groups that nobody says anything about any more may have been left long ago.
                if !self.lacks(before)
                    && newer.as_ref().is_none_or(|newer| verified::claim(newer, claim).is_none())
                {
                    return Err(self.untrusted(
                        "it names the groups in the first ID token alone: have it give one on refreshing too, or \
                         name the groups in the userinfo answer",
                    ));
                }
                newer.map(|newer| self.issuer.with_newer(before, newer))
            }
        };
        person.as_ref().map_or(Ok(()), |person| self.check_groups(person))?;
        // Refreshing is no sign-in.
        let person = person.map(|person| Verified { authenticated: before.authenticated, ..person });
        Ok(Refreshed { person, signed, refresh })
    }

    /// Gives a token back, where the provider takes it. Blocks.
    pub(super) fn revoke(&self, token: &str) {
        let revoked = self.endpoints().and_then(|endpoints| {
            let Some(place) = &endpoints.revocation_endpoint else { return Ok(()) };
            // The library sends a token over TLS alone; to this host itself it may go without.
            let client = self.client(&endpoints)?;
            let client = client.set_revocation_url(RevocationUrl::from_url(place.clone()));
            let token = StandardRevocableToken::RefreshToken(RefreshToken::new(token.to_owned()));
            let Ok(request) = client.revoke_token(token) else { return Ok(()) };
            request
                .request(&|request| self.send(request))
                .map_err(|error| SignInError::Unavailable(Arc::clone(self.name()), said(&error.to_string())))
        });
        if let Err(error) = revoked {
            tracing::debug!(%error, "a refresh token was not given back");
        }
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

    /// 32 random bytes, as text.
    fn random(&self) -> Result<Zeroizing<String>, SignInError> {
        let mut bytes = Zeroizing::new([0; 32]);
        interlock_recording::fill_random(&mut *bytes).map_err(|error| {
            SignInError::Unavailable(Arc::clone(self.name()), format!("no random numbers: {error}"))
        })?;
        Ok(Zeroizing::new(URL_SAFE_NO_PAD.encode(*bytes)))
    }

    /// Who the tokens are about.
    fn accept(&self, tokens: &Tokens, nonce: Option<&str>) -> Result<SignedIn, SignInError> {
        let Some(id_token) = &tokens.extra_fields().id_token else {
            return Err(self.untrusted("it has no ID token: is the scope openid allowed?"));
        };
        let person = self.verify(id_token)?;
        let claim = |name: &str| person.claims.get(name);
        match (nonce, claim("nonce").map(Value::as_str)) {
            (Some(asked), Some(Some(said))) if constant_time(asked, said) => {}
            (Some(_), _) => return Err(self.untrusted("its ID token is of another sign-in (nonce)")),
            // The device flow has none: the token comes from the provider itself.
            (None, _) => {}
        }
        let made = claim("iat").and_then(Value::as_i64).and_then(|made| Timestamp::from_second(made).ok());
        let skew = Duration::from_secs(self.issuer.config().clock_skew_seconds.into());
        let now = Timestamp::now();
        if made.is_none_or(|made| now > made && now.duration_since(made).unsigned_abs() > OLDEST + skew) {
            return Err(self.untrusted("its ID token was not made just now (iat)"));
        }
        self.check_hash(id_token, &person, tokens.access_token().secret())?;
        let signed = person.clone();
        let more = if self.lacks(&signed) {
            let endpoints = self.endpoints()?;
            self.userinfo(&endpoints, &signed, tokens.access_token().secret())?
        } else {
            None
        };
        let person = more.map_or(person, |more| self.issuer.with_more(&signed, more));
        self.check_groups(&person)?;
        let refresh = tokens.refresh_token().map(|token| Zeroizing::new(token.secret().clone()));
        Ok(SignedIn { person, signed, refresh })
    }

    fn verify(&self, token: &Zeroizing<String>) -> Result<Verified, SignInError> {
        self.issuer.verify(token).map_err(|error| self.untrusted(&error.to_string()))
    }

    /// OpenID Connect Core, section 3.1.3.8: the ID token names the access token that came with it.
    fn check_hash(&self, id_token: &str, person: &Verified, access: &str) -> Result<(), SignInError> {
        let Some(said) = person.claims.get("at_hash") else { return Ok(()) };
        let wrong = || self.untrusted("its ID token is about another access token (at_hash)");
        let header = id_token.split('.').next().and_then(|part| URL_SAFE_NO_PAD.decode(part).ok());
        let header: Value =
            header.and_then(|header| serde_json::from_slice(&header).ok()).ok_or_else(wrong)?;
        let algorithm = header.get("alg").and_then(Value::as_str).unwrap_or_default();
        let digest = match algorithm.get(2..) {
            _ if algorithm == "EdDSA" => Sha512::digest(access).to_vec(),
            Some("256") => Sha256::digest(access).to_vec(),
            Some("384") => Sha384::digest(access).to_vec(),
            Some("512") => Sha512::digest(access).to_vec(),
            _ => return Err(wrong()),
        };
        let half = URL_SAFE_NO_PAD.encode(digest.get(..digest.len() / 2).unwrap_or_default());
        let same = said.as_str().is_some_and(|said| constant_time(said.trim_end_matches('='), &half));
        if same { Ok(()) } else { Err(wrong()) }
    }

    fn check_groups(&self, person: &Verified) -> Result<(), SignInError> {
        if person.groups_known == GroupsKnown::Partly {
            return Err(self.untrusted(
                "it does not tell all groups of the person (some are no text, too long, or stand elsewhere): \
                 have it name only those that concern Interlock, as texts, in the token",
            ));
        }
        if person.groups.len() > MOST_GROUPS {
            return Err(self.untrusted(&format!(
                "it names more than {MOST_GROUPS} groups of the person: have it name those that concern Interlock"
            )));
        }
        Ok(())
    }

    /// The token does not say in which groups they are.
    fn lacks(&self, person: &Verified) -> bool {
        person.groups.is_empty()
    }

    /// What the provider says of a person beyond the ID token. `None` where it has no such place.
    fn userinfo(
        &self,
        endpoints: &Endpoints,
        person: &Verified,
        access: &str,
    ) -> Result<Option<Claims>, SignInError> {
        let Some(place) = &endpoints.userinfo_endpoint else { return Ok(None) };
        let unavailable = |error: String| SignInError::Unavailable(Arc::clone(self.name()), said(&error));
        let request = oauth2::http::Request::get(place.as_str())
            .header("Accept", "application/json")
            .header("Authorization", format!("Bearer {access}"))
            .body(Vec::new())
            .map_err(|error| unavailable(error.to_string()))?;
        let answer = self.issuer.http().send(request).map_err(|error| unavailable(error.to_string()))?;
        match answer.status().as_u16() {
            200 => {}
            401 | 403 => {
                let word =
                    format!("it does not tell more of the person (status {})", answer.status().as_u16());
                return Err(SignInError::Revoked(Arc::clone(self.name()), word));
            }
            status => return Err(unavailable(format!("it answers with status {status}"))),
        }
        if answer.body().len() > MAX_USERINFO {
            return Err(self.untrusted("what it says of the person is too long"));
        }
        let more: Claims = serde_json::from_slice(answer.body())
            .map_err(|_| self.untrusted("what it says of the person is no JSON object"))?;
        // OpenID Connect Core, section 5.3.2.
        if more.get("sub").and_then(Value::as_str) != Some(&person.subject) {
            return Err(self.untrusted("what it says is about somebody else (sub)"));
        }
        Ok(Some(more))
    }

    /// That somebody has proven who they are no earlier than at `since`, by the provider's word.
    ///
    /// # Errors
    /// They have not, or it does not say.
    pub(super) fn check_fresh(&self, person: &Verified, since: Timestamp) -> Result<(), SignInError> {
        let name = Arc::clone(self.name());
        // The clocks may be apart, and `auth_time` is in whole seconds.
        let skew = Duration::from_secs(u64::from(self.issuer.config().clock_skew_seconds).max(1));
        match person.authenticated {
            None => Err(SignInError::NotAnew(
                name,
                "does not say when you have shown who you are (auth_time), so nothing there is a fresh sign-in"
                    .to_owned(),
            )),
            Some(at) if at < since && since.duration_since(at).unsigned_abs() > skew => {
                Err(SignInError::NotAnew(
                    name,
                    format!(
                        "has not asked you anew (the last time was {at:.0}): sign out there, or open the address in a \
                         private window, and try again; --browser may ask where --device does not"
                    ),
                ))
            }
            Some(_) => Ok(()),
        }
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
}

impl Browser {
    /// Whether a browser that comes with this state is the one that was sent.
    pub(super) fn is_state(&self, state: &str) -> bool {
        constant_time(&self.state, state)
    }
}

/// Compares without telling by its time how much is the same.
fn constant_time(a: &str, b: &str) -> bool {
    let digest = |text: &str| Sha256::digest(text.as_bytes());
    digest(a).iter().zip(digest(b).iter()).fold(0, |different, (a, b)| different | (a ^ b)) == 0
}

fn unfit(c: char) -> bool {
    interlock_recording::text::is_unprintable(c)
}

/// Runs what blocks.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, SignInError> + Send + 'static,
) -> Result<T, SignInError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(SignInError::Unavailable("the provider".into(), error.to_string())))
}

async fn blocking_http(
    work: impl FnOnce() -> Result<HttpResponse, HttpError> + Send + 'static,
) -> Result<HttpResponse, HttpError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| {
        Err(HttpError::Unreachable { server: "the provider".to_owned(), reason: error.to_string() })
    })
}
