//! What stands before every route: who asks, may they, and did they mean to.

use std::net::{IpAddr, SocketAddr};

use axum::body::Body;
use axum::extract::{ConnectInfo, FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Redirect, Response};

use super::params::MOST_BYTES;
use super::problem::Problem;
use super::role::{Role, Roles};
use super::routes::{Access, Route};
use super::scope::{Needs, covers, needs};
use super::{State, secret, sha256};
use crate::sign_in::Providers;
use crate::store::now_ns;

/// When a sign-in or a token was last used is written down once in so long.
const NOTED_NS: i64 = 60 * 1_000_000_000;

/// Who asks.
#[derive(Debug, Clone)]
pub(super) struct Actor {
    /// The account.
    pub(super) name: String,
    pub(super) role: Role,
    /// The identity provider that the account comes from; empty for one of the collector's own.
    pub(super) provider: String,
    /// When its owner has shown who they are, as far as that is known of a browser.
    pub(super) authenticated_ns: Option<i64>,
    pub(super) by: By,
    pub(super) address: String,
}

/// How they showed who they are.
#[derive(Debug, Clone)]
pub(super) enum By {
    /// A signed-in browser.
    Browser {
        /// The sign-in.
        id: String,
        /// What its forms hold.
        csrf: String,
    },
    /// A token.
    Token {
        /// What it is for.
        label: String,
        /// What of its role's rights it has.
        scopes: String,
    },
}

impl Actor {
    /// As the audit trail names them.
    pub(super) fn trail(&self) -> String {
        match &self.by {
            By::Browser { .. } => self.name.clone(),
            By::Token { label, .. } => format!("{} via token {label}", self.name),
        }
    }

    pub(super) fn may(&self, roles: Roles) -> bool {
        self.role.may(roles)
    }

    /// Whether what they showed is for something of this kind too.
    fn reaches(&self, needs: Needs) -> bool {
        match &self.by {
            By::Browser { .. } => true,
            By::Token { scopes, .. } => covers(scopes, needs),
        }
    }

    /// Asked in templates.
    pub(super) fn csrf(&self) -> &str {
        match &self.by {
            By::Browser { csrf, .. } => csrf,
            By::Token { .. } => "",
        }
    }

    pub(super) fn sign_in(&self) -> &str {
        match &self.by {
            By::Browser { id, .. } => id,
            By::Token { .. } => "",
        }
    }
}

impl<S: Sync> FromRequestParts<S> for Actor {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        // The guard puts it there; a route that is for nobody in particular has none.
        parts.extensions.get().cloned().ok_or_else(signed_out)
    }
}

/// Someone who is not signed in and fills in a form.
#[derive(Debug, Clone)]
pub(super) struct Visitor {
    /// What the form holds.
    pub(super) csrf: String,
    /// They are signed in.
    pub(super) signed_in: bool,
    pub(super) address: String,
    pub(super) user_agent: String,
}

impl<S: Sync> FromRequestParts<S> for Visitor {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        parts.extensions.get().cloned().ok_or_else(|| Problem::internal("a route without a visitor"))
    }
}

/// The names of the cookies.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cookies {
    secure: bool,
}

impl Cookies {
    pub(super) fn of(state: &State) -> Self {
        Self { secure: state.config.secure }
    }

    fn session(self) -> &'static str {
        if self.secure { "__Host-interlock" } else { "interlock" }
    }

    fn form(self) -> &'static str {
        if self.secure { "__Host-interlock-form" } else { "interlock-form" }
    }

    /// The whole name of a cookie.
    pub(super) fn named(self, name: &str) -> String {
        if self.secure { format!("__Host-interlock-{name}") } else { format!("interlock-{name}") }
    }

    /// What a browser keeps of a sign-in that it has begun, while it is at an identity provider: it comes back
    /// from there, from another site.
    pub(super) fn flow(self, name: &str, value: &str, seconds: u64) -> HeaderValue {
        self.set_for("Lax", &self.named(name), value, seconds)
    }

    fn set(self, name: &str, value: &str, seconds: u64) -> HeaderValue {
        self.set_for("Strict", name, value, seconds)
    }

    fn set_for(self, sites: &str, name: &str, value: &str, seconds: u64) -> HeaderValue {
        let secure = if self.secure { "; Secure" } else { "" };
        let text = format!("{name}={value}; Path=/; HttpOnly; SameSite={sites}; Max-Age={seconds}{secure}");
        HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static(""))
    }

    /// Signs the browser in.
    pub(super) fn sign_in(self, token: &str, seconds: u64) -> HeaderValue {
        self.set(self.session(), token, seconds)
    }

    /// Signs the browser out.
    pub(super) fn sign_out(self) -> HeaderValue {
        self.set(self.session(), "", 0)
    }
}

pub(super) fn cookie<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .find(|(key, value)| *key == name && !value.is_empty())
        .map(|(_, value)| value)
}

/// What the forms of a browser with this cookie hold: other sites cannot know it, nor find out the cookie
/// from it.
fn csrf(cookie: &str) -> String {
    sha256(&format!("interlock form {cookie}"))
}

fn signed_out() -> Problem {
    Problem::new(
        StatusCode::UNAUTHORIZED,
        "Sign in, or send an API token as `Authorization: Bearer TOKEN`. A token that was sent has expired, \
         was revoked, or never was one.",
    )
}

/// Stands before one route.
pub(super) async fn guard(state: State, route: &'static Route, request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    match admit(&state, route, parts, body).await {
        Ok((request, cookie)) => {
            let mut response = next.run(request).await;
            if let Some(cookie) = cookie {
                response.headers_mut().append(header::SET_COOKIE, cookie);
            }
            response
        }
        Err(Refusal::Problem(problem)) => problem.into_response(),
        Err(Refusal::SignIn(back)) => {
            let query = form_urlencoded::Serializer::new(String::new()).append_pair("back", &back).finish();
            Redirect::to(&format!("/sign-in?{query}")).into_response()
        }
    }
}

enum Refusal {
    Problem(Problem),
    /// To the sign-in page, and back here from there.
    SignIn(String),
}

impl<P: Into<Problem>> From<P> for Refusal {
    fn from(problem: P) -> Self {
        Self::Problem(problem.into())
    }
}

async fn admit(
    state: &State,
    route: &Route,
    mut parts: Parts,
    body: Body,
) -> Result<(Request, Option<HeaderValue>), Refusal> {
    let cookies = Cookies::of(state);
    let address = address(&parts);
    if !state.config.secure {
        known_name(state, &parts.headers)?;
    }
    let (actor, own) = actor(state, cookies, &parts.headers, &address).await?;
    if let Access::For(roles) = route.access {
        let Some(actor) = &actor else {
            let back = parts.uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
            if route.is_page() && route.method == Method::GET {
                return Err(Refusal::SignIn(back));
            }
            return Err(signed_out().into());
        };
        if !actor.may(roles) {
            let names: Vec<_> = roles.iter().map(|role| role.name()).collect();
            let detail = format!(
                "This is for the role {}; yours is {}. An administrator can change it.",
                names.join(" or "),
                actor.role
            );
            return Err(Problem::new(StatusCode::FORBIDDEN, detail).into());
        }
        if route.browsers_only && matches!(actor.by, By::Token { .. }) {
            let detail = "This cannot be done with an API token: sign in with a browser.";
            return Err(Problem::new(StatusCode::FORBIDDEN, detail).into());
        }
        let needs = needs(&route.method, route.path);
        if !actor.reaches(needs) {
            let detail = match needs {
                Needs::One(scope) => format!("The token is not for this: it needs the scope {scope}. Make another token."),
                Needs::Nothing | Needs::All => {
                    "The token is confined to some scopes, and this is in none: make one that is for everything.".into()
                }
            };
            return Err(Problem::new(StatusCode::FORBIDDEN, detail).into());
        }
    }

    // A form that is filled in signed out is bound to a cookie of its own.
    let mut fresh = None;
    let csrf = match (&actor, &own) {
        (Some(actor), Some(_)) => actor.csrf().to_owned(),
        _ => match cookie(&parts.headers, cookies.form()) {
            Some(form) => csrf(form),
            None => {
                let form = secret()?;
                let expected = csrf(&form);
                if route.is_page() {
                    fresh = Some(cookies.set(cookies.form(), &form, 3600));
                }
                expected
            }
        },
    };
    let by_token = actor.as_ref().is_some_and(|actor| matches!(actor.by, By::Token { .. }));
    let body = if parts.method.is_safe() || by_token || route.from_elsewhere {
        body
    } else {
        meant(state, &parts, &csrf, body).await?
    };
    let user_agent: String = parts
        .headers
        .get(header::USER_AGENT)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default()
        .chars()
        .take(200)
        .collect();
    parts.extensions.insert(Visitor { csrf, signed_in: actor.is_some(), address, user_agent });
    if let Some(actor) = actor {
        parts.extensions.insert(actor);
    }
    Ok((Request::from_parts(parts, body), fresh))
}

/// From which address someone asks, as the listener noted.
fn address(parts: &Parts) -> String {
    let peer = parts.extensions.get::<ConnectInfo<SocketAddr>>();
    peer.map_or_else(|| "unknown".to_owned(), |ConnectInfo(peer)| peer.ip().to_canonical().to_string())
}

/// Without TLS nothing proves to a browser whom it talks to, so another site's name could be made to lead
/// here (DNS rebinding): only names that are known are answered to.
fn known_name(state: &State, headers: &HeaderMap) -> Result<(), Problem> {
    let host = headers.get(header::HOST).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next(),
        None => host.split(':').next(),
    };
    let name = name.unwrap_or_default();
    let loopback =
        name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
    if loopback || state.config.names.iter().any(|known| known.eq_ignore_ascii_case(name)) {
        return Ok(());
    }
    let detail = "The collector is not called so. Ask for it by localhost, or set `web.url` to the address that people use.";
    Err(Problem::new(StatusCode::MISDIRECTED_REQUEST, detail))
}

/// Whether the configuration still lets an account in: one of a provider that it has, if the name is not
/// another's by now; one of the collector's own while those sign in or this one is being recovered.
pub(super) fn lets_in(providers: &Providers, provider: &str, issuer: &str, recovery_until_ns: i64) -> bool {
    match provider {
        "" => providers.local || recovery_until_ns > now_ns(),
        provider => providers.get(provider).is_some_and(|provider| provider.issuer() == issuer),
    }
}

/// Who asks; and the browser's token, if it was a browser.
async fn actor(
    state: &State,
    cookies: Cookies,
    headers: &HeaderMap,
    address: &str,
) -> Result<(Option<Actor>, Option<String>), Problem> {
    if let Some(value) = headers.get(header::AUTHORIZATION) {
        let token = value.to_str().ok().and_then(|value| value.split_once(' '));
        let Some((scheme, token)) = token else { return Err(signed_out()) };
        if !scheme.eq_ignore_ascii_case("bearer") {
            return Err(signed_out());
        }
        let Some((token, owner)) = state.store.api_token(&sha256(token.trim())).await? else {
            return Err(signed_out());
        };
        let role: Role = token.role.parse().map_err(Problem::internal)?;
        let owner_role: Role = owner.role.parse().map_err(Problem::internal)?;
        if !owner_role.covers(role) {
            let detail = format!(
                "The token is for the role {role}, and its owner's is {owner_role} by now. Make another token."
            );
            return Err(Problem::new(StatusCode::FORBIDDEN, detail));
        }
        let providers = &state.config.providers;
        if !lets_in(providers, &owner.provider, &owner.issuer, owner.recovery_until_ns) {
            return Err(signed_out());
        }
        if !owner.provider.is_empty() {
            let since = now_ns().saturating_sub(providers.token_ns);
            if owner.last_sign_in_ns.is_none_or(|last| last < since) {
                let detail = "The token's owner has not signed in for long, so it is not known whether they still \
                     may. The token counts again when they have.";
                return Err(Problem::new(StatusCode::UNAUTHORIZED, detail));
            }
        }
        if token.last_used_ns.is_none_or(|last| last < now_ns() - NOTED_NS) {
            state.store.api_token_used(&token.id).await?;
        }
        let by = By::Token { label: token.label, scopes: token.scopes };
        let actor = Actor {
            name: token.owner,
            role,
            provider: owner.provider,
            authenticated_ns: None,
            by,
            address: address.to_owned(),
        };
        return Ok((Some(actor), None));
    }
    let Some(token) = cookie(headers, cookies.session()) else { return Ok((None, None)) };
    let hash = sha256(token);
    let Some(sign_in) = state.store.sign_in(&hash, state.idle_ns()).await? else { return Ok((None, None)) };
    // What the configuration no longer lets in is out at once.
    if !lets_in(&state.config.providers, &sign_in.provider, &sign_in.issuer, sign_in.recovery_until_ns) {
        return Ok((None, None));
    }
    if sign_in.last_used_ns < now_ns() - NOTED_NS {
        state.store.sign_in_used(&hash).await?;
    }
    let role = sign_in.role.parse().map_err(Problem::internal)?;
    let by = By::Browser { id: sign_in.id, csrf: csrf(token) };
    let (name, provider) = (sign_in.user, sign_in.provider);
    let authenticated_ns = Some(sign_in.authenticated_ns);
    Ok((Some(Actor { name, role, provider, authenticated_ns, by, address: address.to_owned() }), Some(hash)))
}

/// Whether whoever sits before the browser meant it: the request comes from a page of the collector's own,
/// and has what only such a page knows.
async fn meant(state: &State, parts: &Parts, csrf: &str, body: Body) -> Result<Body, Problem> {
    let refused = |detail: &str| Err(Problem::new(StatusCode::FORBIDDEN, detail));
    let text = |name: &str| parts.headers.get(name).and_then(|value| value.to_str().ok());
    let host = parts.headers.get(header::HOST).and_then(|value| value.to_str().ok()).map(str::to_owned);
    // HTTP/2 has it in the URI.
    let host = host.or_else(|| parts.uri.authority().map(ToString::to_string)).unwrap_or_default();
    let scheme = if state.config.secure { "https" } else { "http" };
    let same = match (text("sec-fetch-site"), text("origin")) {
        (Some(site), _) => site == "same-origin",
        (None, Some(origin)) => origin == format!("{scheme}://{host}") || origin == format!("https://{host}"),
        (None, None) => false,
    };
    if !same {
        return refused(
            "The request comes from another site, or from a program. Programs send an API token.",
        );
    }
    let bytes = axum::body::to_bytes(body, MOST_BYTES).await.map_err(|_| {
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "What was sent is longer than 64 KiB, or was cut off.")
    })?;
    let shown = match text("x-interlock-form") {
        Some(shown) => shown.to_owned(),
        None => form_urlencoded::parse(&bytes)
            .find(|(name, _)| name == "csrf")
            .map(|(_, value)| value.into_owned())
            .unwrap_or_default(),
    };
    // Hashes of both are compared, so that the time taken tells nothing.
    if sha256(&shown) != sha256(csrf) {
        return refused(
            "The page was open for too long, or you signed in anew meanwhile. Load it again and repeat this.",
        );
    }
    Ok(Body::from(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cookies_are_found_by_their_whole_name() {
        let mut headers = HeaderMap::new();
        headers.insert(header::COOKIE, HeaderValue::from_static("xinterlock=a; interlock=; interlock=b;c"));
        assert_eq!(cookie(&headers, "interlock"), Some("b"));
        assert_eq!(cookie(&headers, "terlock"), None);
    }
}
