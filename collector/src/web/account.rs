//! One's own account: password, one-time codes, signed-in browsers, API tokens.

use askama::Template;
use axum::extract::{Path, State as Use};
use axum::response::Response;
use zeroize::Zeroizing;

use super::actions::{self, Made};
use super::filters;
use super::guard::Actor;
use super::page::{Layout, Notice, done, show};
use super::params::{Fields, Params};
use super::problem::Problem;
use super::role::{ALL, Role};
use super::scope::{SCOPES, Scope};
use super::{State, totp};
use crate::store::{ApiToken, ChatLink, ChatLinkChange, SignIn};

/// A secret for one-time codes, shown until a code confirms it.
struct Codes {
    base32: String,
    uri: String,
}

#[derive(Template)]
#[template(path = "account.html")]
struct AccountPage {
    page: Layout,
    has_codes: bool,
    codes: Option<Codes>,
    sign_ins: Vec<SignIn>,
    tokens: Vec<ApiToken>,
    made: Option<Made>,
    links: Vec<ChatLink>,
    link_changes: Vec<ChatLinkChange>,
    /// The roles that a token of this account can have.
    roles: Vec<Role>,
    scopes: [Scope; 9],
}

/// What a page shows once.
#[derive(Default)]
struct Once {
    notice: Option<Notice>,
    codes: Option<String>,
    made: Option<Made>,
}

async fn account(state: &State, actor: Actor, once: Once) -> Result<Response, Problem> {
    let known = state.store.credentials(&actor.name).await?;
    let codes = once
        .codes
        .map(|secret| Codes { base32: totp::base32(&secret), uri: totp::uri(&secret, &actor.name) });
    let sign_ins = state.store.sign_ins(&actor.name, state.idle_ns()).await?;
    let tokens = state.store.api_tokens(Some(&actor.name)).await?;
    let links = state.store.chat_links(&actor.name).await?;
    let link_changes = state.store.chat_link_changes(&actor.name).await?;
    let roles = ALL.iter().copied().filter(|role| actor.role.covers(*role)).collect();
    let page = Layout::new(state, actor, "account", "Your account", once.notice).await?;
    let has_codes = known.is_some_and(|known| known.totp_secret.is_some());
    show(
        page.status(),
        &AccountPage {
            page,
            has_codes,
            codes,
            sign_ins,
            tokens,
            made: once.made,
            links,
            link_changes,
            roles,
            scopes: SCOPES,
        },
    )
}

/// The account's page with what went wrong, or on to where it went well.
async fn answer(
    state: &State,
    actor: &Actor,
    result: Result<(), Problem>,
    code: &str,
) -> Result<Response, Problem> {
    match result {
        Ok(()) => Ok(done("/account", code)),
        Err(problem) => failed(state, actor, problem, None).await,
    }
}

async fn failed(
    state: &State,
    actor: &Actor,
    problem: Problem,
    codes: Option<String>,
) -> Result<Response, Problem> {
    if !problem.is_theirs() {
        return Err(problem);
    }
    let once = Once { notice: Some(Notice::bad(&problem)), codes, ..Once::default() };
    account(state, actor.clone(), once).await
}

fn typed(fields: &Params, name: &str) -> Zeroizing<String> {
    Zeroizing::new(fields.exact(name).to_owned())
}

/// `GET /account`
pub(super) async fn page(Use(state): Use<State>, actor: Actor, params: Params) -> Result<Response, Problem> {
    params.only(&[&["done"]])?;
    account(&state, actor, Once { notice: Notice::done(params.get("done")), ..Once::default() }).await
}

/// `POST /account/password`
pub(super) async fn password(
    Use(state): Use<State>,
    actor: Actor,
    Fields(fields): Fields,
) -> Result<Response, Problem> {
    let result = if fields.exact("password") == fields.exact("repeated") {
        actions::change_password(&state, &actor, typed(&fields, "current"), typed(&fields, "password")).await
    } else {
        Err(Problem::invalid("The two new passwords differ."))
    };
    answer(&state, &actor, result, "password").await
}

/// `POST /account/codes`
pub(super) async fn propose_codes(
    Use(state): Use<State>,
    actor: Actor,
    Fields(fields): Fields,
) -> Result<Response, Problem> {
    match actions::propose_codes(&state, &actor, typed(&fields, "current")).await {
        Ok(secret) => account(&state, actor, Once { codes: Some(secret), ..Once::default() }).await,
        Err(problem) => failed(&state, &actor, problem, None).await,
    }
}

/// `POST /account/codes/confirm`
pub(super) async fn confirm_codes(
    Use(state): Use<State>,
    actor: Actor,
    Fields(fields): Fields,
) -> Result<Response, Problem> {
    match actions::confirm_codes(&state, &actor, fields.get("code").unwrap_or_default()).await {
        Ok(()) => Ok(done("/account", "totp")),
        Err(problem) => {
            // The secret is shown again: typing the wrong code must not begin everything anew.
            let known = state.store.credentials(&actor.name).await?;
            failed(&state, &actor, problem, known.and_then(|known| known.totp_pending)).await
        }
    }
}

/// `POST /account/codes/remove`
pub(super) async fn remove_codes(
    Use(state): Use<State>,
    actor: Actor,
    Fields(fields): Fields,
) -> Result<Response, Problem> {
    let result = actions::remove_codes(&state, &actor, typed(&fields, "current")).await;
    answer(&state, &actor, result, "totp-removed").await
}

/// `POST /account/sign-ins/end-others`
pub(super) async fn end_others(Use(state): Use<State>, actor: Actor) -> Result<Response, Problem> {
    let result = actions::end_other_sign_ins(&state, &actor).await;
    answer(&state, &actor, result, "others-signed-out").await
}

/// `POST /account/sign-ins/{id}/end`
pub(super) async fn end_sign_in(
    Use(state): Use<State>,
    actor: Actor,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let result = actions::end_sign_in(&state, &actor, &id).await;
    answer(&state, &actor, result, "signed-out").await
}

/// `POST /account/tokens`
pub(super) async fn add_token(
    Use(state): Use<State>,
    actor: Actor,
    Fields(fields): Fields,
) -> Result<Response, Problem> {
    let days = fields.number("days")?.unwrap_or_default();
    let (label, role) = (fields.exact("label"), fields.exact("role"));
    let scopes: Vec<&str> =
        fields.0.iter().filter(|(name, _)| name == "scope").map(|(_, scope)| scope.as_str()).collect();
    // A page with boxes says what it is for; none of them ticked must not be all.
    let made = match scopes.as_slice() {
        [] => Err(Problem::invalid("Say what the token is for: tick one box at least.")),
        some if some.contains(&"*") => actions::add_api_token(&state, &actor, label, role, &[], days).await,
        some => actions::add_api_token(&state, &actor, label, role, some, days).await,
    };
    match made {
        Ok(made) => account(&state, actor, Once { made: Some(made), ..Once::default() }).await,
        Err(problem) => failed(&state, &actor, problem, None).await,
    }
}

/// `POST /account/tokens/{id}/revoke`
pub(super) async fn revoke_token(
    Use(state): Use<State>,
    actor: Actor,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let result = actions::revoke_api_token(&state, &actor, &id).await;
    answer(&state, &actor, result, "token-revoked").await
}
