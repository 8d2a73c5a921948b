//! Administration: accounts, everyone's API tokens, enrolment tokens.

use askama::Template;
use axum::extract::{Path, State as Use};
use axum::http::StatusCode;
use axum::response::Response;
use zeroize::Zeroizing;

use super::State;
use super::actions::{self, Made};
use super::filters;
use super::guard::Actor;
use super::page::{Layout, Notice, done, show};
use super::params::{Fields, Params};
use super::problem::Problem;
use crate::store::{ApiToken, EnrolmentToken, OwnerOf, User, now_ns};

#[derive(Template)]
#[template(path = "users.html")]
struct UsersPage {
    page: Layout,
    users: Vec<User>,
}

async fn users_page(state: &State, actor: Actor, notice: Option<Notice>) -> Result<Response, Problem> {
    let users = state.store.users().await?;
    let page = Layout::new(state, actor, "users", "Accounts", notice).await?;
    show(page.status(), &UsersPage { page, users })
}

/// `GET /admin/users`
pub(super) async fn users(Use(state): Use<State>, actor: Actor, params: Params) -> Result<Response, Problem> {
    params.only(&[&["done"]])?;
    users_page(&state, actor, Notice::done(params.get("done"))).await
}

/// `POST /admin/users`
pub(super) async fn add_user(
    Use(state): Use<State>,
    actor: Actor,
    Fields(fields): Fields,
) -> Result<Response, Problem> {
    let given = Zeroizing::new(fields.exact("password").to_owned());
    let name = fields.get("name").unwrap_or_default();
    match actions::add_user(&state, &actor, name, given, fields.exact("role")).await {
        Ok(()) => Ok(done("/admin/users", "user-added")),
        Err(problem) if problem.is_theirs() => users_page(&state, actor, Some(Notice::bad(&problem))).await,
        Err(problem) => Err(problem),
    }
}

#[derive(Template)]
#[template(path = "user.html")]
struct UserPage {
    page: Layout,
    user: User,
    own: bool,
    owner: OwnerOf,
}

async fn user_page(
    state: &State,
    actor: Actor,
    name: &str,
    notice: Option<Notice>,
) -> Result<Response, Problem> {
    let user = state.store.user(name).await?.ok_or_else(|| Problem::not_found("account"))?;
    let own = user.name == actor.name;
    let owner = state.store.owner_of(name).await?;
    let page = Layout::new(state, actor, "users", format!("Account {name}"), notice).await?;
    show(page.status(), &UserPage { page, user, own, owner })
}

/// `GET /admin/users/{name}`
pub(super) async fn user(
    Use(state): Use<State>,
    actor: Actor,
    Path(name): Path<String>,
) -> Result<Response, Problem> {
    user_page(&state, actor, &name, None).await
}

/// `POST /admin/users/{name}`
pub(super) async fn set_user(
    Use(state): Use<State>,
    actor: Actor,
    Path(name): Path<String>,
    Fields(fields): Fields,
) -> Result<Response, Problem> {
    let active = fields.get("active").is_some();
    let role = fields.get("role");
    match actions::set_user(&state, &actor, &name, role, active).await {
        Ok(()) => Ok(done("/admin/users", "user-changed")),
        Err(problem) if problem.is_theirs() => {
            user_page(&state, actor, &name, Some(Notice::bad(&problem))).await
        }
        Err(problem) => Err(problem),
    }
}

/// `POST /admin/users/{name}/owner`
pub(super) async fn set_owner(
    Use(state): Use<State>,
    actor: Actor,
    Path(name): Path<String>,
    Fields(fields): Fields,
) -> Result<Response, Problem> {
    let words =
        |text: &str| text.split([' ', ',']).filter(|word| !word.is_empty()).map(str::to_owned).collect();
    let field = |name: &str| fields.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone());
    let (groups, logins, email) = (field("groups"), field("logins"), field("email"));
    let (groups, logins) = (groups.as_deref().map(words), logins.as_deref().map(words));
    match actions::set_owner(&state, &actor, &name, groups, logins, email).await {
        Ok(()) => Ok(done("/admin/users", "user-owner")),
        Err(problem) if problem.is_theirs() => {
            user_page(&state, actor, &name, Some(Notice::bad(&problem))).await
        }
        Err(problem) => Err(problem),
    }
}

/// `POST /admin/users/{name}/reset`
pub(super) async fn reset_user(
    Use(state): Use<State>,
    actor: Actor,
    Path(name): Path<String>,
    Fields(fields): Fields,
) -> Result<Response, Problem> {
    let given = Zeroizing::new(fields.exact("password").to_owned());
    match actions::reset_user(&state, &actor, &name, given).await {
        Ok(()) => Ok(done("/admin/users", "user-password")),
        Err(problem) if problem.is_theirs() => {
            user_page(&state, actor, &name, Some(Notice::bad(&problem))).await
        }
        Err(problem) => Err(problem),
    }
}

#[derive(Template)]
#[template(path = "tokens.html")]
struct TokensPage {
    page: Layout,
    tokens: Vec<ApiToken>,
}

/// `GET /admin/tokens`
pub(super) async fn tokens(
    Use(state): Use<State>,
    actor: Actor,
    params: Params,
) -> Result<Response, Problem> {
    params.only(&[&["done"]])?;
    let tokens = state.store.api_tokens(None).await?;
    let page = Layout::new(&state, actor, "tokens", "API tokens", Notice::done(params.get("done"))).await?;
    show(StatusCode::OK, &TokensPage { page, tokens })
}

/// `POST /admin/tokens/{id}/revoke`
pub(super) async fn revoke_api_token(
    Use(state): Use<State>,
    actor: Actor,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    actions::revoke_api_token(&state, &actor, &id).await?;
    Ok(done("/admin/tokens", "token-revoked"))
}

#[derive(Template)]
#[template(path = "enrolment.html")]
struct EnrolmentPage {
    page: Layout,
    tokens: Vec<EnrolmentToken>,
    made: Option<Made>,
    agents_url: String,
    now: i64,
}

async fn enrolment_page(
    state: &State,
    actor: Actor,
    notice: Option<Notice>,
    made: Option<Made>,
) -> Result<Response, Problem> {
    let tokens = state.store.enrolment_tokens().await?;
    let page = Layout::new(state, actor, "enrolment", "Enrolment", notice).await?;
    show(
        page.status(),
        &EnrolmentPage { page, tokens, made, agents_url: state.config.agents_url.clone(), now: now_ns() },
    )
}

/// `GET /admin/enrolment`
pub(super) async fn enrolment(
    Use(state): Use<State>,
    actor: Actor,
    params: Params,
) -> Result<Response, Problem> {
    params.only(&[&["done"]])?;
    enrolment_page(&state, actor, Notice::done(params.get("done")), None).await
}

/// `POST /admin/enrolment`
pub(super) async fn add_enrolment_token(
    Use(state): Use<State>,
    actor: Actor,
    Fields(fields): Fields,
) -> Result<Response, Problem> {
    let (uses, days) =
        (fields.number("uses")?.unwrap_or_default(), fields.number("days")?.unwrap_or_default());
    match actions::add_enrolment_token(
        &state,
        &actor,
        fields.exact("label"),
        uses,
        days,
        fields.exact("labels"),
    )
    .await
    {
        Ok(made) => enrolment_page(&state, actor, None, Some(made)).await,
        Err(problem) if problem.is_theirs() => {
            enrolment_page(&state, actor, Some(Notice::bad(&problem)), None).await
        }
        Err(problem) => Err(problem),
    }
}

/// `POST /admin/enrolment/{id}/revoke`
pub(super) async fn revoke_enrolment_token(
    Use(state): Use<State>,
    actor: Actor,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    actions::revoke_enrolment_token(&state, &actor, &id).await?;
    Ok(done("/admin/enrolment", "token-revoked"))
}
