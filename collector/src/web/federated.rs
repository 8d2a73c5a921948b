//! Signing in through an identity provider.
//!
//! The browser keeps what was begun in a cookie of its own, `Lax` since it comes back from another site; the
//! `Strict` cookie of who is signed in is set at the end, on a page that leads on by itself: a browser would
//! not send it along a redirection that began elsewhere.

use std::sync::Arc;

use askama::Template;
use axum::extract::{Path, Request, State as Use};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Redirect, Response};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::guard::{Cookies, Visitor, cookie};
use super::page::show;
use super::params::Params;
use super::problem::Problem;
use super::sign_in::{self, Entered, back};
use super::{State, sha256};
use crate::sign_in::{Answer, Begun, Identity, OidcError, Proven, Provider, SamlProvider, random};
use crate::store::now_ns;

/// A sign-in is finished within so long, seconds.
const LASTS: u64 = 10 * 60;
/// The longest path that is gone back to, bytes: it is kept in a cookie.
const LONGEST_BACK: usize = 600;
const SECOND_NS: i64 = 1_000_000_000;
/// So often in 15 minutes it is written down that an address is refused.
const REFUSED: (&str, i64) = ("refused", 60);
/// So many sign-ins that were begun may fail from one address in 15 minutes: each is asked about at the provider.
const BEGUN: (&str, i64) = ("begun", 300);
/// So many answers of SAML providers that prove nothing are read from one address in 15 minutes.
const ANSWERED: (&str, i64) = ("answered", 300);
/// So many of them are read at a time, whoever sends them: it is work, and anyone may send some.
pub(super) const ANSWERS: usize = 2;
/// The most that a SAML provider's page posts, bytes: base64 of what is parsed at most, as a form has it.
const MOST_POSTED: usize = 512 << 10;
/// A browser fetches at once what was proven.
const FETCHED_NS: i64 = 60 * SECOND_NS;

/// Groups of one account that are kept.
const MOST_GROUPS: usize = 1000;

/// A sign-in that this browser has begun.
struct Kept {
    begun: Begun,
    back: String,
    /// The cookie that it stood in.
    cookie: String,
}

/// Begins a sign-in: what the browser keeps of it, and the cookie's name and value.
fn begin(provider: &Provider, back: &str) -> Result<(Begun, String, String), Problem> {
    let back = if back.len() > LONGEST_BACK { "/sessions" } else { back };
    let value = format!("{}.{}.{}", random()?, now_ns() / SECOND_NS, URL_SAFE_NO_PAD.encode(back));
    let begun = Begun::from_kept(&format!("{} {value}", provider.name()));
    let name = flow_name(&begun.state);
    Ok((begun, name, value))
}

/// Each has a cookie of its own, so that two tabs do not undo each other.
fn flow_name(state: &str) -> String {
    format!("flow-{}", state.chars().take(16).collect::<String>())
}

/// The sign-in that `state` is of, if this browser has begun it, at this provider, not too long ago.
fn kept(cookies: Cookies, headers: &HeaderMap, provider: &Provider, state: &str) -> Option<Kept> {
    if state.len() != 64 || !state.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let name = flow_name(state);
    let value = cookie(headers, &cookies.named(&name))?;
    let begun = Begun::from_kept(&format!("{} {value}", provider.name()));
    if sha256(&begun.state) != sha256(state) {
        return None;
    }
    let mut parts = value.split('.').skip(1);
    let at: i64 = parts.next()?.parse().ok()?;
    let age = (now_ns() / SECOND_NS).checked_sub(at)?;
    if !(0..=LASTS as i64).contains(&age) {
        return None;
    }
    let path = String::from_utf8(URL_SAFE_NO_PAD.decode(parts.next()?).ok()?).ok()?;
    Some(Kept { begun, back: back(&path).to_owned(), cookie: name })
}

fn find<'s>(state: &'s State, name: &str) -> Result<&'s Provider, Problem> {
    state.config.providers.get(name).ok_or_else(|| Problem::not_found("identity provider"))
}

/// `GET /sign-in/with/{provider}`: off to the provider.
pub(super) async fn start(
    Use(state): Use<State>,
    Path(name): Path<String>,
    params: Params,
) -> Result<Response, Problem> {
    let provider = find(&state, &name)?;
    // Whoever is signed in at the provider has to show there anew who they are.
    let again = params.get("again").is_some();
    let (begun, cookie, value) = begin(provider, back(params.get("back").unwrap_or("/sessions")))?;
    let place = match provider {
        Provider::Oidc(oidc) => oidc.begin(&begun, again).await,
        Provider::Saml(saml) => Ok(saml.begin(&begun, again)),
    };
    let place = match place {
        Ok(place) => place,
        Err(error) => return Err(unavailable(provider, &error)),
    };
    let mut response = Redirect::to(&place).into_response();
    response.headers_mut().append(header::SET_COOKIE, Cookies::of(&state).flow(&cookie, &value, LASTS));
    Ok(response)
}

fn unavailable(provider: &Provider, error: &OidcError) -> Problem {
    tracing::warn!(provider = provider.name(), "nobody can sign in: {error}");
    Problem::new(
        StatusCode::BAD_GATEWAY,
        format!(
            "{} cannot be asked who you are. Try again; if it goes on, whoever runs the collector finds the reason \
             in its log.",
            provider.label()
        ),
    )
}

/// `GET /sign-in/oidc/{provider}/callback`: back from a provider of OpenID Connect.
pub(super) async fn oidc_callback(
    Use(state): Use<State>,
    visitor: Visitor,
    Path(name): Path<String>,
    headers: HeaderMap,
    params: Params,
) -> Result<Response, Problem> {
    let provider = find(&state, &name)?;
    let Provider::Oidc(oidc) = provider else { return Err(Problem::not_found("identity provider")) };
    let twice = ["state", "code", "iss", "error"]
        .into_iter()
        .any(|name| params.0.iter().filter(|(key, _)| key == name).count() > 1);
    let known = params.get("state").filter(|_| !twice);
    let known = known.and_then(|given| kept(Cookies::of(&state), &headers, provider, given));
    let Some(Kept { begun, back, cookie }) = known else {
        return refuse(&state, &visitor, provider, NOT_BEGUN).await;
    };
    let mut response = async {
        let limit = sign_in::count_from(&state, BEGUN.0, &visitor.address, BEGUN.1).await?;
        // Only now: what stands in an address that anyone could have made is not shown.
        if let Some(error) = params.get("error") {
            let text = format!("{error} {}", params.get("error_description").unwrap_or_default());
            let said = crate::sign_in::said(text.trim());
            let detail = format!("{} refused: “{said}”", provider.label());
            return refuse(&state, &visitor, provider, &detail).await;
        }
        let Some(code) = params.get("code") else {
            return refuse(&state, &visitor, provider, "The answer has no code.").await;
        };
        if !use_once(&state, &format!("state {}", begun.state)).await? {
            return refuse(&state, &visitor, provider, "This answer was used before.").await;
        }
        let answer = Answer { code: code.to_owned(), iss: params.get("iss").map(str::to_owned) };
        match oidc.finish(&begun, answer).await {
            Ok(identity) => {
                enter(&state, &visitor, provider, &identity, &back, limit).await
            }
            Err(error @ OidcError::Unavailable(_)) => Err(unavailable(provider, &error)),
            Err(error) => {
                let detail = format!(
                    "You are not signed in: {error}. Begin anew; if it goes on, tell whoever runs the collector."
                );
                refuse(&state, &visitor, provider, &detail).await
            }
        }
    }
    .await
    .unwrap_or_else(IntoResponse::into_response);
    response.headers_mut().append(header::SET_COOKIE, Cookies::of(&state).flow(&cookie, "", 0));
    Ok(response)
}

fn find_saml<'s>(state: &'s State, name: &str) -> Result<(&'s Provider, &'s Arc<SamlProvider>), Problem> {
    match find(state, name)? {
        provider @ Provider::Saml(saml) => Ok((provider, saml)),
        Provider::Oidc(_) => Err(Problem::not_found("identity provider")),
    }
}

/// `GET /sign-in/saml/{provider}/metadata`: what the provider has to know of the collector.
pub(super) async fn saml_metadata(
    Use(state): Use<State>,
    Path(name): Path<String>,
) -> Result<Response, Problem> {
    let (_, saml) = find_saml(&state, &name)?;
    Ok(([(header::CONTENT_TYPE, "application/samlmetadata+xml")], saml.metadata()).into_response())
}

/// `POST /sign-in/saml/{provider}/consume`: an answer of a SAML provider. A browser that another site's page
/// has made post it sends no cookie along, so what it proves is kept for a moment, and the browser sent to
/// fetch it with its cookie.
pub(super) async fn saml_consume(
    Use(state): Use<State>,
    visitor: Visitor,
    Path(name): Path<String>,
    request: Request,
) -> Result<Response, Problem> {
    let (provider, saml) = find_saml(&state, &name)?;
    let limit = sign_in::count_from(&state, ANSWERED.0, &visitor.address, ANSWERED.1).await?;
    let fields = axum::body::to_bytes(request.into_body(), MOST_POSTED).await.map_err(|_| {
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "The provider's answer is longer than 512 KiB.")
    })?;
    let field = |wanted: &str| {
        let mut found = form_urlencoded::parse(&fields).filter(|(name, _)| name == wanted);
        found.next().map(|(_, value)| value.into_owned()).filter(|_| found.next().is_none())
    };
    let (Some(posted), Some(relayed)) = (field("SAMLResponse"), field("RelayState")) else {
        return refuse(&state, &visitor, provider, NOT_BEGUN).await;
    };
    let turn = Arc::clone(&state.answers).acquire_owned().await.map_err(Problem::internal)?;
    let saml = Arc::clone(saml);
    // Off the threads that serve everyone. It keeps its turn though nobody waits for it any more.
    let read = tokio::task::spawn_blocking(move || {
        let read = saml.consume(&posted);
        drop(turn);
        read
    });
    let proven = match read.await.map_err(Problem::internal)? {
        Ok(proven) => proven,
        Err(error) => {
            let detail = format!("You are not signed in: {error}.");
            return refuse(&state, &visitor, provider, &detail).await;
        }
    };
    let handle = random()?;
    let kept = serde_json::to_string(&proven).map_err(Problem::internal)?;
    let mut write = state.store.write().await?;
    // It is remembered for as long as it counts, and for as long as a sign-in lasts at the least.
    let until = proven.until_ns.max(now_ns().saturating_add(2 * LASTS as i64 * SECOND_NS));
    if !write.use_once(&sha256(&format!("assertion {}", proven.assertion)), until).await? {
        drop(write);
        let detail = "You are not signed in: this answer was used before.";
        return refuse(&state, &visitor, provider, detail).await;
    }
    write.add_proven(&sha256(&handle), &kept, now_ns().saturating_add(FETCHED_NS)).await?;
    write.commit().await?;
    limit.take_back(&state).await?;
    let query = form_urlencoded::Serializer::new(String::new())
        .append_pair("handle", &handle)
        .append_pair("state", &relayed)
        .finish();
    Ok(Redirect::to(&format!("/sign-in/saml/{}/finish?{query}", provider.name())).into_response())
}

/// `GET /sign-in/saml/{provider}/finish`: the browser that began fetches what the provider has proven.
pub(super) async fn saml_finish(
    Use(state): Use<State>,
    visitor: Visitor,
    Path(name): Path<String>,
    headers: HeaderMap,
    params: Params,
) -> Result<Response, Problem> {
    let (provider, _) = find_saml(&state, &name)?;
    let known = params.get("state").and_then(|given| kept(Cookies::of(&state), &headers, provider, given));
    let Some(Kept { begun, back, cookie }) = known else {
        return refuse(&state, &visitor, provider, NOT_BEGUN).await;
    };
    let mut response = async {
        let limit = sign_in::count_from(&state, BEGUN.0, &visitor.address, BEGUN.1).await?;
        let mut write = state.store.write().await?;
        let taken = write.take_proven(&sha256(params.get("handle").unwrap_or_default())).await?;
        write.commit().await?;
        let proven: Option<Proven> = taken.and_then(|kept| serde_json::from_str(&kept).ok());
        let proven = proven.filter(|proven| {
            proven.provider == provider.name()
                && proven.identity.issuer == provider.issuer()
                && proven.request == SamlProvider::request_id(&begun)
        });
        let Some(Proven { identity, .. }) = proven else {
            return refuse(&state, &visitor, provider, NOT_BEGUN).await;
        };
        enter(&state, &visitor, provider, &identity, &back, limit).await
    }
    .await
    .unwrap_or_else(IntoResponse::into_response);
    response.headers_mut().append(header::SET_COOKIE, Cookies::of(&state).flow(&cookie, "", 0));
    Ok(response)
}

const NOT_BEGUN: &str = "This sign-in was not begun in this browser, or longer than 10 minutes ago, or has been \
     finished. Begin anew.";

/// Uses something up; whether it was still to be used.
async fn use_once(state: &State, what: &str) -> Result<bool, Problem> {
    let until = now_ns().saturating_add(2 * LASTS as i64 * SECOND_NS);
    let mut write = state.store.write().await?;
    let fresh = write.use_once(&sha256(what), until).await?;
    write.commit().await?;
    Ok(fresh)
}

/// Says why someone is not signed in, to them and in the audit trail: so often that nobody fills it from one
/// address. What would sign someone in is looked at however often others are refused.
async fn refuse(
    state: &State,
    visitor: &Visitor,
    provider: &Provider,
    why: &str,
) -> Result<Response, Problem> {
    sign_in::count_from(state, REFUSED.0, &visitor.address, REFUSED.1).await?;
    let mut write = state.store.write().await?;
    write.audit("unknown", "sign_in.refused", provider.name(), why, &visitor.address).await?;
    write.commit().await?;
    sign_in::refused_page(state, visitor, StatusCode::FORBIDDEN, why)
}

/// The name of the account of someone new: plain letters, after the provider's name and a colon, which no
/// account of the collector's own has.
fn account_name(provider: &str, called: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || "._-@".contains(c) { c } else { '_' };
    let name: String = called.trim().chars().take(64).map(plain).collect();
    format!("{provider}:{}", if name.is_empty() { "someone" } else { &name })
}

#[derive(Template)]
#[template(path = "signed_in.html")]
struct SignedInPage<'p> {
    back: &'p str,
}

/// Lets someone in whom a provider has proven to be who they are, if a group of theirs has a role.
async fn enter(
    state: &State,
    visitor: &Visitor,
    provider: &Provider,
    identity: &Identity,
    back: &str,
    limit: sign_in::Counted,
) -> Result<Response, Problem> {
    let issuer = identity.issuer.as_str();
    let found = provider.roles().role(&identity.groups);
    let mut write = state.store.write().await?;
    let known = write.identity(issuer, &identity.subject).await?;
    let wanted = account_name(provider.name(), &identity.called);
    let address = visitor.address.as_str();
    let Some((role, group)) = found else {
        // What they had while they were in such a group goes too.
        let mut took = String::new();
        if let Some(known) = &known {
            write.set_groups(&known.user, &[]).await?;
            let browsers = write.end_sign_ins(&known.user, "").await?;
            let tokens = write.revoke_api_tokens(&known.user).await?;
            took = format!("; {browsers} browsers signed out, {tokens} API tokens revoked");
        }
        let who = known.as_ref().map_or("unknown", |known| known.user.as_str());
        let count = identity.groups.len();
        let hint = identity.hint.as_ref().map(|hint| format!("; {hint}")).unwrap_or_default();
        let detail = format!("{wanted}: none of their groups ({count}) has a role{hint}{took}");
        write.audit(who, "sign_in.refused", provider.name(), &detail, address).await?;
        write.commit().await?;
        let text = format!(
            "{} knows you as {}, but none of your groups there ({count}) has a role here{hint}. Ask whoever runs the \
             collector to add one of them to its configuration, or to add you to a group.",
            provider.label(),
            crate::sign_in::said(&identity.called),
        );
        return sign_in::refused_page(state, visitor, StatusCode::FORBIDDEN, &text);
    };
    let by = format!("by the group {} of {}", crate::sign_in::said(group), provider.name());
    let user = match known {
        Some(known) if !known.active => {
            write
                .audit(&known.user, "sign_in.refused", provider.name(), "the account is disabled", address)
                .await?;
            write.commit().await?;
            let text = format!("Your account {} is disabled. An administrator can enable it.", known.user);
            return sign_in::refused_page(state, visitor, StatusCode::FORBIDDEN, &text);
        }
        Some(known) => {
            write.set_identity_role(&known.user, provider.name(), role.name()).await?;
            if known.role != role.name() {
                let detail = format!("role {} to {role} {by}", known.role);
                write.audit(provider.name(), "user.change", &known.user, &detail, address).await?;
            }
            known.user
        }
        None => {
            let subject = identity.subject.as_str();
            let user = write.add_identity(provider.name(), issuer, subject, &wanted, role.name()).await?;
            let detail = format!("role {role} {by}; {issuer} {}", crate::sign_in::said(subject));
            write.audit(provider.name(), "user.add", &user, &detail, address).await?;
            user
        }
    };
    write.keep_called(&user, &identity.called).await?;
    let mut response = show(StatusCode::OK, &SignedInPage { back })?;
    // Whoever is in which groups counts from now on; of these only what the configuration lets count for approvals.
    let count = provider.approver_groups();
    let mut groups: Vec<String> =
        identity.groups.iter().filter(|group| count.contains(group)).take(MOST_GROUPS).cloned().collect();
    groups.sort_unstable();
    groups.dedup();
    write.set_groups(&user, &groups).await?;
    write.set_email(&user, identity.email.as_deref().unwrap_or_default()).await?;
    if identity.email_verified {
        write.verify_email(&user).await?;
    }
    let entered = Entered {
        user: &user,
        provider: provider.name(),
        detail: &format!("role {role} {by}"),
        authenticated_ns: identity.authenticated_ns.unwrap_or(0),
    };
    sign_in::admit(state, visitor, write, &entered, &mut response).await?;
    limit.take_back(state).await?;
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_providers_accounts_are_never_those_of_the_collectors_own() {
        for (called, expected) in [
            ("admin", "okta:admin"),
            ("alice@example.com", "okta:alice@example.com"),
            (" ", "okta:someone"),
            ("a/b?c#\u{202e}\n", "okta:a_b_c__"),
        ] {
            let name = account_name("okta", called);
            assert_eq!(name, expected);
            assert!(super::super::actions::check_name(&name).is_err(), "{name} could be a local account's");
        }
        assert!(account_name("okta", &"x".repeat(500)).len() < 100);
    }
}
