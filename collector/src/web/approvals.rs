//! Requests for approval: the REST API, and what it and the pages have in common.
//!
//! Members of the groups that a request names see and decide on it, whatever their role; other roles that see
//! values see it, too.

use axum::extract::{Path, State as Use};
use axum::http::StatusCode;
use interlock_recording::json as words;
use interlock_recording::proto::Subject;
use interlock_shipping::v1::ApprovalBy;
use prost::Message as _;
use serde::Deserialize;
use serde_json::{Value, json};

use super::State;
use super::actions;
use super::api::{Answer, answer, done, ok};
use super::guard::{Actor, By};
use super::params::{APPROVALS, Json, PAGING, Params};
use super::problem::Problem;
use super::role::VALUES;
use crate::administer;
use crate::approvals::{self, Account, DecideError, Decision};
use crate::store::{Approval, Vote, WholeApproval};

impl From<DecideError> for Problem {
    fn from(error: DecideError) -> Self {
        let status = match &error {
            DecideError::NotFound => return Self::not_found("request for approval"),
            DecideError::NotMember(_) | DecideError::Own | DecideError::Decided | DecideError::Stale(_) => {
                StatusCode::FORBIDDEN
            }
            DecideError::Over(_) | DecideError::NotFromHere(_) | DecideError::Twice(_) => {
                StatusCode::CONFLICT
            }
            DecideError::Invalid(_) => StatusCode::UNPROCESSABLE_ENTITY,
            DecideError::Random(_) | DecideError::Store(_) | DecideError::Ledger(_) => {
                return Self::internal(error);
            }
        };
        let text = error.to_string();
        let mut letters = text.chars();
        let first = letters.next().map(|letter| letter.to_uppercase().to_string()).unwrap_or_default();
        Self::new(status, format!("{first}{}.", letters.as_str()))
    }
}

/// The account of whoever asks.
pub(super) async fn account(state: &State, actor: &Actor) -> Result<Account, Problem> {
    Ok(Account::of(&state.store, &actor.name, actor.authenticated_ns).await?)
}

/// The groups whose requests someone sees; `None` for all.
pub(super) fn sees(actor: &Actor, account: &Account) -> Option<Vec<String>> {
    (!actor.may(VALUES)).then(|| account.owner.groups.clone())
}

/// A request that someone may see.
pub(super) async fn find(
    state: &State,
    actor: &Actor,
    account: &Account,
    id: &str,
) -> Result<WholeApproval, Problem> {
    let missing = || Problem::not_found("request for approval");
    let mut found = state.store.approval(id).await?;
    if found.is_none() {
        // By the name that the host calls it, where only one is called so.
        if let [id] = state.store.approvals_named(id).await?.as_slice() {
            found = state.store.approval(id).await?;
        }
    }
    let found = found.ok_or_else(missing)?;
    if actor.may(VALUES) || !account.entitled(&found).is_empty() { Ok(found) } else { Err(missing()) }
}

pub(super) async fn list(Use(state): Use<State>, actor: Actor, params: Params) -> Answer {
    params.only(&[APPROVALS, PAGING])?;
    let account = account(&state, &actor).await?;
    let filter = params.approvals(&state.store, sees(&actor, &account)).await?;
    ok(&state.store.approvals(&filter, params.number("cursor")?, params.limit()?).await?)
}

fn by(by: Option<&ApprovalBy>) -> Value {
    by.map_or(
        Value::Null,
        |by| json!({"name": by.name, "login": by.login, "via": by.via, "groups": by.groups}),
    )
}

/// All of a request; `account` is whoever looks at it.
pub(crate) fn whole(
    one: &WholeApproval,
    account: Option<&Account>,
    votes: &[Vote],
    alike: &[Approval],
) -> Result<Value, Problem> {
    let WholeApproval { item, digest, told, standing } = one;
    let mut value = serde_json::to_value(item).map_err(Problem::internal)?;
    let subject = Subject::decode(&*told.subject).unwrap_or_default();
    let quorum = |quorum: &interlock_shipping::v1::ApprovalQuorum| {
        json!({
            "rule": quorum.rule, "groups": quorum.groups, "needed": quorum.needed, "all_of": quorum.all_of,
            "via": quorum.via,
        })
    };
    let statement = |does: &interlock_shipping::v1::ApprovalStatement| {
        json!({
            "kinds": does.kinds, "classes": does.classes, "reads": does.reads, "writes": does.writes,
            "functions": does.functions, "where": does.r#where, "limit": does.limit, "dynamic": does.dynamic,
            "unparsed": does.unparsed,
        })
    };
    let counted = |vote: &interlock_shipping::v1::ApprovalCounted| json!({"by": by(vote.by.as_ref()), "reason": vote.reason, "scope": vote.scope, "seconds": vote.seconds});
    let more = json!({
        "digest": interlock_recording::hex(digest),
        "step": told.step,
        "text": told.text,
        "params": told.params.iter().map(|param| param.value.as_deref()).collect::<Vec<_>>(),
        "omitted_params": told.omitted_params,
        "runs": told.runs,
        "redacted": told.redacted,
        "statements": told.statements.iter().map(statement).collect::<Vec<_>>(),
        "subject": words::subject(&subject),
        "server": told.server,
        "hosts": told.hosts,
        "transaction": told.transaction,
        "command": told.command,
        "message": told.message,
        "beforehand": told.beforehand.as_ref().map(|told| json!({
            "reason": told.reason, "tree_pid": told.tree_pid, "tree_exe": told.tree_exe,
            "usable_seconds": told.usable_seconds, "time_zone": told.time_zone, "program_claimed": told.program,
        })),
        "estimate": told.estimate.as_ref().map(|told| json!({"rows": told.rows, "why_not": told.why_not})),
        "quorums": told.quorums.iter().map(quorum).collect::<Vec<_>>(),
        "scopes": told.scopes,
        "shape_for_seconds": told.shape_for_seconds,
        "reason_required": told.reason_required,
        "fresh_seconds": told.fresh_seconds,
        "approver_verified": told.approver_verified,
        "started_by": told.started_by,
        "break_glass": told.break_glass,
        "counted": standing.votes.iter().map(counted).collect::<Vec<_>>(),
        "missing": standing.missing,
        "decided_by": by(standing.by.as_ref()),
        "decided_because": standing.reason,
        "scope": standing.scope,
        "votes": votes,
        "alike": alike,
        "may_decide": account.is_some_and(|account| {
            item.state == "pending" && !account.entitled(one).is_empty() && !account.asks(one)
        }),
    });
    if let (Value::Object(value), Value::Object(more)) = (&mut value, more) {
        value.extend(more);
    }
    Ok(value)
}

pub(super) async fn show(Use(state): Use<State>, actor: Actor, Path(id): Path<String>) -> Answer {
    let account = account(&state, &actor).await?;
    let one = find(&state, &actor, &account, &id).await?;
    actions::noted(&state, &actor, "approval.view", &one.item.id, "").await?;
    let votes = state.store.approval_votes(&one.item.id).await?;
    let alike = state.store.approvals_alike(&one, sees(&actor, &account).as_deref()).await?;
    ok(&whole(&one, Some(&account), &votes, &alike)?)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Approve {
    #[serde(default)]
    reason: String,
    #[serde(default = "once")]
    scope: String,
    minutes: Option<u32>,
}

fn once() -> String {
    "once".to_owned()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Why {
    reason: String,
}

/// Passes a decision on; gives what became of it, as far as the host has said.
pub(super) async fn decide(
    state: &State,
    actor: &Actor,
    id: &str,
    decision: &Decision,
) -> Result<Vote, Problem> {
    let account = account(state, actor).await?;
    // Whoever may not see it learns nothing of it.
    let one = find(state, actor, &account, id).await?;
    let trail = actor.trail();
    let by = administer::By { who: &trail, address: &actor.address };
    let vote = approvals::decide(&state.intake, by, &account, &one.item.id, decision).await?;
    let missing = || Problem::internal("a decision that was kept is not there");
    approvals::answer(&state.intake, &vote).await?.ok_or_else(missing)
}

fn way(actor: &Actor) -> &'static str {
    match actor.by {
        By::Browser { .. } => "web",
        By::Token { .. } => "api",
    }
}

/// What the host has said: 200 when it counts, 202 when the host has not answered, 409 when it does not.
fn said(vote: &Vote) -> Answer {
    match vote.state.as_str() {
        "counted" => ok(vote),
        "given" => answer(StatusCode::ACCEPTED, vote),
        _ => Err(Problem::new(StatusCode::CONFLICT, format!("The host does not count it: {}.", vote.why))),
    }
}

pub(super) async fn approve(
    Use(state): Use<State>,
    actor: Actor,
    Path(id): Path<String>,
    Json(given): Json<Approve>,
) -> Answer {
    let Approve { reason, scope, minutes } = given;
    let decision = Decision { approve: true, scope, minutes, reason, via: way(&actor) };
    said(&decide(&state, &actor, &id, &decision).await?)
}

pub(super) async fn deny(
    Use(state): Use<State>,
    actor: Actor,
    Path(id): Path<String>,
    Json(given): Json<Why>,
) -> Answer {
    let via = way(&actor);
    let decision =
        Decision { approve: false, scope: String::new(), minutes: None, reason: given.reason, via };
    said(&decide(&state, &actor, &id, &decision).await?)
}

/// Notes that someone has looked into what went through unapproved.
pub(super) async fn reviewed(state: &State, actor: &Actor, id: &str, reason: &str) -> Result<(), Problem> {
    let account = account(state, actor).await?;
    let one = find(state, actor, &account, id).await?;
    let trail = actor.trail();
    let by = administer::By { who: &trail, address: &actor.address };
    Ok(approvals::review(&state.intake, by, &account, &one.item.id, reason).await?)
}

pub(super) async fn review(
    Use(state): Use<State>,
    actor: Actor,
    Path(id): Path<String>,
    Json(given): Json<Why>,
) -> Answer {
    reviewed(&state, &actor, &id, &given.reason).await?;
    done()
}

pub(super) async fn owner(Use(state): Use<State>, Path(name): Path<String>) -> Answer {
    if state.store.user(&name).await?.is_none() {
        return Err(Problem::not_found("account"));
    }
    ok(&state.store.owner_of(&name).await?)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Owner {
    groups: Option<Vec<String>>,
    logins: Option<Vec<String>>,
    email: Option<String>,
}

pub(super) async fn set_owner(
    Use(state): Use<State>,
    actor: Actor,
    Path(name): Path<String>,
    Json(given): Json<Owner>,
) -> Answer {
    let Owner { groups, logins, email } = given;
    actions::set_owner(&state, &actor, &name, groups.as_deref(), logins.as_deref(), email.as_deref()).await?;
    done()
}
