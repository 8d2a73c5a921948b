//! The REST API. What it takes and gives stands in `collector/openapi.json`.

use axum::extract::{Path, State as Use};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use interlock_recording::json;
use interlock_recording::text::SafeJson;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::State;
use super::actions;
use super::guard::{Actor, By};
use super::hosts::health;
use super::lists::{TRAIL, trail};
use super::params::{COMMANDS, Json, PAGING, Params, SESSIONS};
use super::problem::Problem;
use super::role::Role;
use crate::outputs;
use crate::store::{Agent, RuleCount, now_ns};

pub(super) type Answer = Result<Response, Problem>;

/// JSON that is safe to print.
pub(super) fn answer(status: StatusCode, value: &impl Serialize) -> Answer {
    let mut text = Vec::new();
    let mut to = serde_json::Serializer::with_formatter(&mut text, SafeJson);
    value.serialize(&mut to).map_err(Problem::internal)?;
    Ok((status, [(header::CONTENT_TYPE, "application/json")], text).into_response())
}

pub(super) fn ok(value: &impl Serialize) -> Answer {
    answer(StatusCode::OK, value)
}

pub(super) fn done() -> Answer {
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// A list that is given whole.
pub(super) fn list(items: &impl Serialize) -> Answer {
    ok(&json!({"items": items, "next": null}))
}

/// The document that describes all of this.
pub(super) const DOCUMENT: &str = include_str!("../../openapi.json");

pub(super) async fn document() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], DOCUMENT).into_response()
}

pub(super) async fn me(actor: Actor) -> Answer {
    let token = match &actor.by {
        By::Token { label, .. } => Some(label),
        By::Browser { .. } => None,
    };
    ok(&json!({"name": actor.name, "role": actor.role, "token": token}))
}

pub(super) async fn sessions(Use(state): Use<State>, params: Params) -> Answer {
    params.only(&[SESSIONS, PAGING])?;
    let filter = params.sessions(&state.store).await?;
    ok(&state.store.sessions(&filter, params.get("cursor"), params.limit()?).await?)
}

pub(super) async fn session(Use(state): Use<State>, Path(id): Path<String>) -> Answer {
    ok(&state.store.session(&id).await?.ok_or_else(|| Problem::not_found("session"))?)
}

pub(super) async fn session_commands(
    Use(state): Use<State>,
    Path(id): Path<String>,
    params: Params,
) -> Answer {
    params.only(&[PAGING])?;
    if state.store.session(&id).await?.is_none() {
        return Err(Problem::not_found("session"));
    }
    let after = params.number("cursor")?.unwrap_or(0);
    ok(&state.store.session_commands(&id, after, params.limit()?).await?)
}

pub(super) async fn session_events(
    Use(state): Use<State>,
    actor: Actor,
    Path(id): Path<String>,
    params: Params,
) -> Answer {
    params.only(&[PAGING])?;
    if state.store.session(&id).await?.is_none() {
        return Err(Problem::not_found("session"));
    }
    let after = params.number("cursor")?;
    if after.is_none() {
        actions::noted(&state, &actor, "session.view", &id, "").await?;
    }
    let limit = params.limit()?;
    let mut events = state.archive.session_events(&state.store, &id, after, limit + 1).await?;
    let more = events.len() > limit;
    events.truncate(limit);
    let next = events.last().filter(|_| more).map(|event| event.index.to_string());
    let items: Vec<Value> = events.iter().map(json::event).collect();
    ok(&json!({"items": items, "next": next}))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct End {
    #[serde(default)]
    reason: String,
}

pub(super) async fn end_session(
    Use(state): Use<State>,
    actor: Actor,
    Path(id): Path<String>,
    Json(end): Json<End>,
) -> Answer {
    actions::end_session(&state, &actor, &id, &end.reason).await?;
    answer(StatusCode::ACCEPTED, &json!({"session": id}))
}

pub(super) async fn commands(Use(state): Use<State>, params: Params) -> Answer {
    params.only(&[COMMANDS, PAGING])?;
    let filter = params.commands(&state.store).await?;
    ok(&state.store.commands(&filter, params.get("cursor"), params.limit()?).await?)
}

fn agent_json(agent: &Agent, now: i64) -> Value {
    let (health, why) = health(agent, now);
    let time = |ns: i64| (ns > 0).then(|| json::time(u64::try_from(ns).unwrap_or_default()));
    json!({
        "host": agent.host,
        "name": agent.name,
        "health": health,
        "why": why,
        "active": agent.active,
        "enrolled": time(agent.enrolled_ns),
        "certificate_expires": time(agent.certificate_expires_ns),
        "last_seen": time(agent.last_seen_ns),
        "version": agent.version,
        "kernel": agent.kernel,
        "policy_hash": agent.policy_hash,
        "clock_ahead_ns": agent.clock_ahead_ns,
        "sealed_segments": agent.sealed.segment,
        "sealed_events": agent.sealed.position.index,
        "live_events": agent.live.index,
        "spool_bytes": agent.spool_bytes,
        "spool_limit": agent.spool_limit,
        "spool_full": agent.spool_full,
        "flows": agent.flows,
        "dispute": agent.dispute,
    })
}

pub(super) async fn agents(Use(state): Use<State>) -> Answer {
    let now = now_ns();
    let items: Vec<Value> = state.store.agents().await?.iter().map(|agent| agent_json(agent, now)).collect();
    list(&items)
}

pub(super) async fn agent(Use(state): Use<State>, Path(host): Path<String>) -> Answer {
    let agent = state.store.agent(&host).await?.ok_or_else(|| Problem::not_found("host"))?;
    ok(&agent_json(&agent, now_ns()))
}

pub(super) async fn agent_events(Use(state): Use<State>, Path(host): Path<String>, params: Params) -> Answer {
    params.only(&[PAGING])?;
    if state.store.agent(&host).await?.is_none() {
        return Err(Problem::not_found("host"));
    }
    let page = state.store.host_events(&host, params.number("cursor")?, params.limit()?).await?;
    let items: Vec<Value> = page
        .items
        .iter()
        .map(|event| {
            let detail: Value = serde_json::from_str(&event.detail).unwrap_or_default();
            let at = json::time(u64::try_from(event.at_ns).unwrap_or_default());
            json!({"index": event.event, "time": at, "event": event.kind, "detail": detail})
        })
        .collect();
    ok(&json!({"items": items, "next": page.next}))
}

pub(super) async fn revoke_agent(
    Use(state): Use<State>,
    actor: Actor,
    Path(host): Path<String>,
    Json(end): Json<End>,
) -> Answer {
    actions::revoke_agent(&state, &actor, &host, &end.reason).await?;
    done()
}

pub(super) async fn rules(Use(state): Use<State>, params: Params) -> Answer {
    params.only(&[&["host"]])?;
    let host = match params.get("host") {
        None => None,
        Some(name) => match state.store.hosts_called(name).await?.as_slice() {
            [host] => Some(host.clone()),
            [] => return list(&Vec::<RuleCount>::new()),
            _ => {
                return Err(Problem::invalid(format!(
                    "Several hosts are called {name}: give the host's id."
                )));
            }
        },
    };
    list(&state.store.rule_counts(host.as_deref()).await?)
}

pub(super) async fn outputs(Use(state): Use<State>) -> Answer {
    list(&outputs::view(&state.config.outputs, state.store.outputs().await?))
}

pub(super) async fn findings(Use(state): Use<State>, params: Params) -> Answer {
    params.only(&[&["all"], PAGING])?;
    let open = params.get("all").is_none();
    ok(&state.store.findings(open, params.number("cursor")?, params.limit()?).await?)
}

pub(super) async fn acknowledge(Use(state): Use<State>, actor: Actor, Path(id): Path<String>) -> Answer {
    let id = id.parse().map_err(|_| Problem::not_found("finding"))?;
    actions::acknowledge(&state, &actor, id).await?;
    done()
}

pub(super) async fn audit(Use(state): Use<State>, params: Params) -> Answer {
    params.only(&[TRAIL, PAGING])?;
    ok(&state.store.audit(&trail(&params)?, params.number("cursor")?, params.limit()?).await?)
}

pub(super) async fn holds(Use(state): Use<State>) -> Answer {
    list(&state.store.holds().await?)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NewHold {
    label: String,
    reason: String,
    #[serde(default)]
    host: String,
    from: Option<String>,
    until: Option<String>,
}

pub(super) async fn add_hold(Use(state): Use<State>, actor: Actor, Json(new): Json<NewHold>) -> Answer {
    let times = [("from", new.from), ("until", new.until)];
    let times = Params(times.into_iter().filter_map(|(name, time)| Some((name.into(), time?))).collect());
    actions::add_hold(&state, &actor, times.hold(&new.label, &new.host, &actor.name)?, &new.reason).await?;
    done()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Why {
    reason: String,
}

pub(super) async fn release_hold(
    Use(state): Use<State>,
    actor: Actor,
    Path(id): Path<String>,
    Json(why): Json<Why>,
) -> Answer {
    actions::release_hold(&state, &actor, &id, &why.reason).await?;
    done()
}

pub(super) async fn users(Use(state): Use<State>) -> Answer {
    list(&state.store.users().await?)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NewUser {
    name: String,
    password: String,
    role: Role,
}

pub(super) async fn add_user(Use(state): Use<State>, actor: Actor, Json(new): Json<NewUser>) -> Answer {
    actions::add_user(&state, &actor, &new.name, Zeroizing::new(new.password), new.role.name()).await?;
    answer(StatusCode::CREATED, &json!({"name": new.name}))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ChangedUser {
    role: Role,
    active: bool,
}

pub(super) async fn set_user(
    Use(state): Use<State>,
    actor: Actor,
    Path(name): Path<String>,
    Json(changed): Json<ChangedUser>,
) -> Answer {
    actions::set_user(&state, &actor, &name, Some(changed.role.name()), changed.active).await?;
    done()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Reset {
    password: String,
}

pub(super) async fn reset_user(
    Use(state): Use<State>,
    actor: Actor,
    Path(name): Path<String>,
    Json(reset): Json<Reset>,
) -> Answer {
    actions::reset_user(&state, &actor, &name, Zeroizing::new(reset.password)).await?;
    done()
}

pub(super) async fn enrolment_tokens(Use(state): Use<State>) -> Answer {
    let time = |ns: i64| json::time(u64::try_from(ns).unwrap_or_default());
    let tokens = state.store.enrolment_tokens().await?;
    let items: Vec<Value> = tokens
        .iter()
        .map(|token| {
            json!({
                "id": token.id, "label": token.label, "created_by": token.created_by,
                "created": time(token.created_ns), "expires": time(token.expires_ns), "uses_left": token.uses_left,
            })
        })
        .collect();
    list(&items)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NewEnrolmentToken {
    label: String,
    uses: i64,
    days: i64,
    /// Labels of new hosts, as key=value, joined by commas.
    #[serde(default)]
    labels: String,
}

pub(super) async fn add_enrolment_token(
    Use(state): Use<State>,
    actor: Actor,
    Json(new): Json<NewEnrolmentToken>,
) -> Answer {
    let made =
        actions::add_enrolment_token(&state, &actor, &new.label, new.uses, new.days, &new.labels).await?;
    answer(StatusCode::CREATED, &made)
}

pub(super) async fn revoke_enrolment_token(
    Use(state): Use<State>,
    actor: Actor,
    Path(id): Path<String>,
) -> Answer {
    actions::revoke_enrolment_token(&state, &actor, &id).await?;
    done()
}

pub(super) async fn tokens(Use(state): Use<State>, actor: Actor) -> Answer {
    let owner = (actor.role != Role::Admin).then_some(actor.name.as_str());
    list(&state.store.api_tokens(owner).await?)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NewToken {
    label: String,
    role: Role,
    /// Nothing is all that the role may.
    scopes: Option<Vec<String>>,
    days: i64,
}

pub(super) async fn add_token(Use(state): Use<State>, actor: Actor, Json(new): Json<NewToken>) -> Answer {
    let scopes: Vec<&str> = new.scopes.iter().flatten().map(String::as_str).collect();
    if new.scopes.is_some() && scopes.is_empty() {
        return Err(Problem::invalid(
            "scopes: name one at least, or leave it out for all that the role may.",
        ));
    }
    let made = actions::add_api_token(&state, &actor, &new.label, new.role.name(), &scopes, new.days).await?;
    answer(StatusCode::CREATED, &made)
}

pub(super) async fn revoke_token(Use(state): Use<State>, actor: Actor, Path(id): Path<String>) -> Answer {
    actions::revoke_api_token(&state, &actor, &id).await?;
    done()
}

pub(super) async fn sign_ins(Use(state): Use<State>, actor: Actor) -> Answer {
    list(&state.store.sign_ins(&actor.name, state.idle_ns()).await?)
}

pub(super) async fn end_sign_in(Use(state): Use<State>, actor: Actor, Path(id): Path<String>) -> Answer {
    actions::end_sign_in(&state, &actor, &id).await?;
    done()
}
