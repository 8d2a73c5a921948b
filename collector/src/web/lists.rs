//! The pages that are lists: sessions, commands, rules, findings, holds, the audit trail.

use askama::Template;
use axum::extract::{Path, State as Use};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Redirect, Response};

use super::State;
use super::actions;
use super::display;
use super::filters;
use super::guard::Actor;
use super::page::{Layout, Notice, done, show};
use super::params::{COMMANDS, Fields, PAGING, Params, SESSIONS};
use super::problem::Problem;
use super::role::AUDIT;
use crate::outputs::{self, OutputView};
use crate::store::{
    AuditEntry, AuditFilter, CommandItem, Finding, Hold, Page, RuleCount, SessionItem, now_ns,
};

const DONE: &[&str] = &["done"];

/// `GET /`
pub(super) async fn home() -> Response {
    Redirect::to("/sessions").into_response()
}

/// How a list goes on.
#[derive(Debug, Default)]
pub(super) struct More {
    /// The query of the next page; empty on the last.
    pub(super) next: String,
    /// The query of the first page, when this is another.
    pub(super) first: Option<String>,
    /// The page is short, and more may follow.
    pub(super) searched: bool,
}

impl More {
    pub(super) fn new<T>(params: &Params, page: &Page<T>, limit: usize) -> Self {
        Self {
            next: page.next.as_deref().map(|cursor| params.with("cursor", cursor)).unwrap_or_default(),
            first: params.get("cursor").map(|_| params.with("cursor", "")),
            searched: page.next.is_some() && page.items.len() < limit,
        }
    }
}

/// One filter that is in force, and the query without it.
#[derive(Debug)]
pub(super) struct Chip {
    pub(super) name: String,
    pub(super) value: String,
    pub(super) without: String,
}

/// Whether there is more than words to look for.
fn filtered(chips: &[Chip]) -> bool {
    chips.iter().any(|chip| chip.name != "text")
}

pub(super) fn chips(params: &Params, known: &[&str]) -> Vec<Chip> {
    let set = |name: &&&str| params.get(name).is_some();
    let known: Vec<_> = known.iter().filter(set).collect();
    let chip = |name: &&&str| Chip {
        name: name.replace('_', " "),
        value: display::beginning(params.get(name).unwrap_or_default(), 60),
        without: Params(
            params.0.iter().filter(|(key, _)| key != *name && key != "cursor").cloned().collect(),
        )
        .with("", ""),
    };
    known.iter().map(chip).collect()
}

#[derive(Template)]
#[template(path = "sessions.html")]
struct SessionsPage<'p> {
    page: Layout,
    params: &'p Params,
    items: Vec<SessionItem>,
    more: More,
    chips: Vec<Chip>,
    query: String,
    /// Nothing has been recorded at all.
    nothing: bool,
}

impl SessionsPage<'_> {
    fn value(&self, name: &str) -> &str {
        self.params.get(name).unwrap_or_default()
    }

    fn exports(&self) -> bool {
        self.page.actor.may(AUDIT)
    }
}

/// `GET /sessions`
pub(super) async fn sessions(
    Use(state): Use<State>,
    actor: Actor,
    params: Params,
) -> Result<Response, Problem> {
    params.only(&[SESSIONS, PAGING])?;
    let limit = params.limit()?;
    let filter = params.sessions(&state.store).await?;
    let page = state.store.sessions(&filter, params.get("cursor"), limit).await?;
    let more = More::new(&params, &page, limit);
    let chips = chips(&params, SESSIONS);
    let nothing = page.items.is_empty() && chips.is_empty() && params.get("cursor").is_none();
    let query = Params(params.0.iter().filter(|(key, _)| !PAGING.contains(&key.as_str())).cloned().collect())
        .with("", "");
    let layout = Layout::new(&state, actor, "sessions", "Sessions", None).await?;
    let page = SessionsPage { page: layout, params: &params, items: page.items, more, chips, query, nothing };
    show(StatusCode::OK, &page)
}

#[derive(Template)]
#[template(path = "commands.html")]
struct CommandsPage<'p> {
    page: Layout,
    params: &'p Params,
    items: Vec<CommandItem>,
    more: More,
    chips: Vec<Chip>,
}

impl CommandsPage<'_> {
    fn value(&self, name: &str) -> &str {
        self.params.get(name).unwrap_or_default()
    }
}

/// `GET /commands`
pub(super) async fn commands(
    Use(state): Use<State>,
    actor: Actor,
    params: Params,
) -> Result<Response, Problem> {
    params.only(&[COMMANDS, PAGING])?;
    let limit = params.limit()?;
    let filter = params.commands(&state.store).await?;
    let page = state.store.commands(&filter, params.get("cursor"), limit).await?;
    let more = More::new(&params, &page, limit);
    let layout = Layout::new(&state, actor, "commands", "Commands", None).await?;
    let chips = chips(&params, COMMANDS);
    show(StatusCode::OK, &CommandsPage { page: layout, params: &params, items: page.items, more, chips })
}

#[derive(Template)]
#[template(path = "rules.html")]
struct RulesPage {
    page: Layout,
    rules: Vec<RuleCount>,
    now: i64,
}

impl RulesPage {
    fn link(&self, rule: &RuleCount) -> String {
        let verdict = if rule.observed { "observed" } else { "verdict" };
        form_urlencoded::Serializer::new(String::new())
            .append_pair("rule", &rule.rule)
            .append_pair(verdict, &rule.verdict)
            .finish()
    }
}

/// `GET /rules`
pub(super) async fn rules(Use(state): Use<State>, actor: Actor) -> Result<Response, Problem> {
    let rules = state.store.rule_counts(None).await?;
    let page = Layout::new(&state, actor, "rules", "Rules", None).await?;
    show(StatusCode::OK, &RulesPage { page, rules, now: now_ns() })
}

#[derive(Template)]
#[template(path = "findings.html")]
struct FindingsPage {
    page: Layout,
    items: Vec<Finding>,
    more: More,
    all: bool,
    acknowledges: bool,
}

/// `GET /findings`
pub(super) async fn findings(
    Use(state): Use<State>,
    actor: Actor,
    params: Params,
) -> Result<Response, Problem> {
    params.only(&[&["all"], DONE, PAGING])?;
    let all = params.get("all").is_some();
    let limit = params.limit()?;
    let page = state.store.findings(!all, params.number("cursor")?, limit).await?;
    let more = More::new(&params, &page, limit);
    let acknowledges = actor.may(AUDIT);
    let notice = Notice::done(params.get("done"));
    let layout = Layout::new(&state, actor, "findings", "Findings", notice).await?;
    show(StatusCode::OK, &FindingsPage { page: layout, items: page.items, more, all, acknowledges })
}

/// `POST /findings/{id}/acknowledge`
pub(super) async fn acknowledge(
    Use(state): Use<State>,
    actor: Actor,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let id = id.parse().map_err(|_| Problem::not_found("finding"))?;
    actions::acknowledge(&state, &actor, id).await?;
    Ok(done("/findings", "acknowledged"))
}

#[derive(Template)]
#[template(path = "outputs.html")]
struct OutputsPage {
    page: Layout,
    outputs: Vec<OutputView>,
    now: i64,
}

/// `GET /outputs`
pub(super) async fn outputs(
    Use(state): Use<State>,
    actor: Actor,
    params: Params,
) -> Result<Response, Problem> {
    params.only(&[])?;
    let outputs = outputs::view(&state.config.outputs, state.store.outputs().await?);
    let page = Layout::new(&state, actor, "outputs", "Outputs", None).await?;
    show(StatusCode::OK, &OutputsPage { page, outputs, now: now_ns() })
}

#[derive(Template)]
#[template(path = "holds.html")]
struct HoldsPage {
    page: Layout,
    holds: Vec<Hold>,
}

async fn holds_page(state: &State, actor: Actor, notice: Option<Notice>) -> Result<Response, Problem> {
    let holds = state.store.holds().await?;
    let page = Layout::new(state, actor, "holds", "Legal holds", notice).await?;
    show(page.status(), &HoldsPage { page, holds })
}

/// `GET /holds`
pub(super) async fn holds(Use(state): Use<State>, actor: Actor, params: Params) -> Result<Response, Problem> {
    params.only(&[DONE])?;
    holds_page(&state, actor, Notice::done(params.get("done"))).await
}

/// `POST /holds`
pub(super) async fn add_hold(
    Use(state): Use<State>,
    actor: Actor,
    Fields(fields): Fields,
) -> Result<Response, Problem> {
    let add = async {
        let get = |name| fields.get(name).unwrap_or_default();
        let hold = fields.hold(get("label"), get("host"), &actor.name)?;
        actions::add_hold(&state, &actor, hold, get("reason")).await
    };
    match add.await {
        Ok(()) => Ok(done("/holds", "hold-added")),
        Err(problem) if problem.is_theirs() => {
            holds_page(&state, actor.clone(), Some(Notice::bad(&problem))).await
        }
        Err(problem) => Err(problem),
    }
}

/// `POST /holds/{id}/release`
pub(super) async fn release_hold(
    Use(state): Use<State>,
    actor: Actor,
    Path(id): Path<String>,
    Fields(fields): Fields,
) -> Result<Response, Problem> {
    let reason = fields.get("reason").unwrap_or_default();
    match actions::release_hold(&state, &actor, &id, reason).await {
        Ok(()) => Ok(done("/holds", "hold-released")),
        Err(problem) if problem.is_theirs() => {
            holds_page(&state, actor.clone(), Some(Notice::bad(&problem))).await
        }
        Err(problem) => Err(problem),
    }
}

#[derive(Template)]
#[template(path = "audit.html")]
struct AuditPage<'p> {
    page: Layout,
    params: &'p Params,
    items: Vec<AuditEntry>,
    more: More,
}

impl AuditPage<'_> {
    fn value(&self, name: &str) -> &str {
        self.params.get(name).unwrap_or_default()
    }
}

/// The filters of the audit trail.
pub(super) const TRAIL: &[&str] = &["actor", "action", "since", "until"];

/// The filter that the parameters ask for.
pub(super) fn trail(params: &Params) -> Result<AuditFilter, Problem> {
    Ok(AuditFilter {
        actor: params.get("actor").map(str::to_owned),
        action: params.get("action").map(str::to_owned),
        since_ns: params.time("since")?,
        until_ns: params.time("until")?,
    })
}

/// `GET /audit`
pub(super) async fn audit(Use(state): Use<State>, actor: Actor, params: Params) -> Result<Response, Problem> {
    params.only(&[TRAIL, PAGING])?;
    let limit = params.limit()?;
    let page = state.store.audit(&trail(&params)?, params.number("cursor")?, limit).await?;
    let more = More::new(&params, &page, limit);
    let layout = Layout::new(&state, actor, "audit", "Audit trail", None).await?;
    show(StatusCode::OK, &AuditPage { page: layout, params: &params, items: page.items, more })
}
