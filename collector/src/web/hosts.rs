//! The hosts and their agents.

use askama::Template;
use axum::extract::{Path, State as Use};
use axum::http::StatusCode;
use axum::response::Response;
use serde::Serialize;

use super::State;
use super::actions;
use super::display;
use super::filters;
use super::guard::Actor;
use super::page::{Layout, Notice, done, show};
use super::params::{Fields, PAGING, Params};
use super::policies::Standing;
use super::problem::Problem;
use super::role::{ADMIN, VALUES};
use crate::store::{Agent, HostEvent, Page, RuleCount, now_ns};

/// An agent says how it is about every ten seconds; after so long something is wrong.
const QUIET_NS: i64 = 120 * 1_000_000_000;
/// A clock that is further off than this makes times hard to compare.
const CLOCK_NS: i64 = 5 * 1_000_000_000;

/// How an agent is, in one word, for lists and programs.
#[derive(Debug, Clone, Copy, Serialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub(super) enum Health {
    /// All is well.
    Well,
    /// Something should be looked at: its clock, a nearly full spool.
    Warned,
    /// Nothing has been heard of it for a while, or it refuses commands for want of room.
    Failing,
    /// What it ships contradicts what was taken before.
    Disputed,
    /// It has been revoked.
    Revoked,
    /// It has been enrolled and not been heard of yet.
    New,
}

/// How an agent is, and why that is said.
pub(super) fn health(agent: &Agent, now: i64) -> (Health, String) {
    if agent.closed {
        let why = "Its recording contradicted itself and has ended; what was taken is kept. The host goes on under a \
                   new key.";
        return (Health::Revoked, why.into());
    }
    if !agent.active {
        return (Health::Revoked, "Revoked: nothing more is taken from it.".into());
    }
    if let Some(dispute) = &agent.dispute {
        return (Health::Disputed, format!("What it ships contradicts what was taken before: {dispute}"));
    }
    if agent.last_seen_ns == 0 {
        return (Health::New, "Enrolled, and not heard of yet. Start the agent with `ship.to` set.".into());
    }
    if now - agent.last_seen_ns > QUIET_NS {
        let ago = display::ago(agent.last_seen_ns, now);
        return (Health::Failing, format!("Last heard of {ago}. Look whether the host and its agent run."));
    }
    if agent.spool_full {
        return (
            Health::Failing,
            "Its spool is full: it refuses commands until recordings have been shipped.".into(),
        );
    }
    if agent.clock_ahead_ns.abs() > CLOCK_NS {
        let way = if agent.clock_ahead_ns > 0 { "ahead of" } else { "behind" };
        let off = display::duration(agent.clock_ahead_ns.abs());
        return (
            Health::Warned,
            format!("Its clock is {off} {way} the collector's. Set up time synchronisation."),
        );
    }
    if agent.spool_limit > 0 && agent.spool_bytes.saturating_mul(10) > agent.spool_limit.saturating_mul(8) {
        return (Health::Warned, "Its spool is more than four fifths full.".into());
    }
    if agent.certificate_expires_ns < now {
        return (Health::Failing, "Its certificate has expired. Enrol it anew.".into());
    }
    (Health::Well, String::new())
}

impl Health {
    fn word(self) -> &'static str {
        match self {
            Self::Well => "well",
            Self::Warned => "look",
            Self::Failing => "failing",
            Self::Disputed => "disputed",
            Self::Revoked => "revoked",
            Self::New => "new",
        }
    }

    fn tone(self) -> &'static str {
        match self {
            Self::Well => "good",
            Self::Warned => "wait",
            Self::Failing | Self::Disputed => "bad",
            Self::Revoked | Self::New => "plain",
        }
    }
}

/// An agent on a page.
#[derive(Debug)]
struct Shown {
    agent: Agent,
    health: Health,
    why: String,
}

/// An agent in the list, and how it stands with its policies.
type Listed = (Shown, Standing);

impl Shown {
    fn new(agent: Agent, now: i64) -> Self {
        let (health, why) = health(&agent, now);
        Self { agent, health, why }
    }

    /// Events that were recorded and are not sealed here yet.
    fn lag(&self) -> i64 {
        let lag = self.agent.live.index.saturating_sub(self.agent.sealed.position.index);
        i64::try_from(lag).unwrap_or(i64::MAX)
    }
}

#[derive(Template)]
#[template(path = "hosts.html")]
struct HostsPage {
    page: Layout,
    hosts: Vec<Listed>,
    administers: bool,
    now: i64,
}

/// `GET /hosts`
pub(super) async fn list(Use(state): Use<State>, actor: Actor, params: Params) -> Result<Response, Problem> {
    params.only(&[&["done"]])?;
    let now = now_ns();
    let agents = state.store.agents().await?;
    let standings = Standing::all(&state, agents.iter().map(|agent| agent.host.as_str())).await?;
    let mut hosts: Vec<Listed> =
        agents.into_iter().map(|agent| Shown::new(agent, now)).zip(standings).collect();
    // What needs someone stands first.
    hosts.sort_by_key(|(host, _)| match host.health {
        Health::Disputed => 0,
        Health::Failing => 1,
        Health::Warned => 2,
        Health::New => 3,
        Health::Well => 4,
        Health::Revoked => 5,
    });
    let administers = actor.may(ADMIN);
    let page = Layout::new(&state, actor, "hosts", "Hosts", Notice::done(params.get("done"))).await?;
    show(StatusCode::OK, &HostsPage { page, hosts, administers, now })
}

#[derive(Template)]
#[template(path = "host.html")]
struct HostPage {
    page: Layout,
    host: Shown,
    policies: Standing,
    rules: Vec<RuleCount>,
    events: Page<HostEvent>,
    /// What they say in full, which is not for every role.
    values: bool,
    administers: bool,
    now: i64,
}

/// `GET /hosts/{host}`
pub(super) async fn page(
    Use(state): Use<State>,
    actor: Actor,
    Path(id): Path<String>,
    params: Params,
) -> Result<Response, Problem> {
    params.only(&[PAGING])?;
    let now = now_ns();
    let agent = state.store.agent(&id).await?.ok_or_else(|| Problem::not_found("host"))?;
    let rules = state.store.rule_counts(Some(&id)).await?;
    let values = actor.may(VALUES);
    let events = if values {
        state.store.host_events(&id, params.number("cursor")?, params.limit()?).await?
    } else {
        Page { items: Vec::new(), next: None }
    };
    let administers = actor.may(ADMIN);
    let title = display::beginning(&agent.name, 60);
    let page = Layout::new(&state, actor, "hosts", title, None).await?;
    let host = Shown::new(agent, now);
    let policies = Standing::of(&state, &id).await?;
    show(StatusCode::OK, &HostPage { page, host, policies, rules, events, values, administers, now })
}

#[derive(Template)]
#[template(path = "host_revoke.html")]
struct RevokePage {
    page: Layout,
    agent: Agent,
}

/// `GET /hosts/{host}/revoke`
pub(super) async fn revoke_page(
    Use(state): Use<State>,
    actor: Actor,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let agent = state.store.agent(&id).await?.ok_or_else(|| Problem::not_found("host"))?;
    let page = Layout::new(&state, actor, "hosts", "Revoke an agent", None).await?;
    show(StatusCode::OK, &RevokePage { page, agent })
}

/// `POST /hosts/{host}/revoke`
pub(super) async fn revoke(
    Use(state): Use<State>,
    actor: Actor,
    Path(id): Path<String>,
    Fields(fields): Fields,
) -> Result<Response, Problem> {
    match actions::revoke_agent(&state, &actor, &id, fields.exact("reason")).await {
        Ok(()) => Ok(done("/hosts", "agent-revoked")),
        Err(problem) if problem.is_theirs() => {
            let agent = state.store.agent(&id).await?.ok_or_else(|| Problem::not_found("host"))?;
            let notice = Some(Notice::bad(&problem));
            let page = Layout::new(&state, actor, "hosts", "Revoke an agent", notice).await?;
            show(problem.status, &RevokePage { page, agent })
        }
        Err(problem) => Err(problem),
    }
}
