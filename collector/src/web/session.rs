//! A session's page: who, where to, and everything that happened in it.

mod items;
mod who;

use askama::Template;
use axum::extract::{Path, State as Use};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Redirect, Response};
use interlock_recording::proto::Event;
use interlock_recording::proto::event::Body;

use super::State;
use super::actions;
use super::display;
use super::filters;
use super::guard::Actor;
use super::page::{Layout, Notice, show};
use super::params::{Fields, Params};
use super::problem::Problem;
use super::prove;
use super::role::{REVIEW, VALUES};
use super::routes::PLAYER_POLICY;
use crate::store::{DeletedSegments, SessionItem};
use items::{Item, What, items};
pub(super) use who::Identity;

/// Events on one page.
const EVENTS: usize = 200;

#[derive(Template)]
#[template(path = "session.html")]
struct SessionPage {
    page: Layout,
    session: SessionItem,
    identity: Option<Identity>,
    client: String,
    items: Vec<Item>,
    /// The index of the last event on the page.
    last: i64,
    /// More events follow.
    more: bool,
    /// This is not the first page.
    later: bool,
    values: bool,
    ends: bool,
    /// Why the recording cannot be shown.
    unreadable: String,
    /// Parts of it that were deleted.
    deleted: Vec<DeletedSegments>,
}

/// The events alone, which the page's script adds to those that are there.
#[derive(Template)]
#[template(path = "events.html")]
struct EventsPart {
    items: Vec<Item>,
    last: i64,
    more: bool,
    values: bool,
}

async fn find(state: &State, id: &str) -> Result<SessionItem, Problem> {
    state.store.session(id).await?.ok_or_else(|| Problem::not_found("session"))
}

/// Events after one, as many as a page has; the last one's index, and whether more follow.
async fn read(
    state: &State,
    session: &SessionItem,
    after: Option<i64>,
) -> Result<(Vec<Event>, i64, bool), Problem> {
    let mut events = state.archive.session_events(&state.store, &session.id, after, EVENTS + 1).await?;
    let more = events.len() > EVENTS;
    events.truncate(EVENTS);
    let last =
        events.last().map_or(after.unwrap_or(-1), |event| i64::try_from(event.index).unwrap_or(i64::MAX));
    Ok((events, last, more))
}

/// `GET /sessions/{id}`
pub(super) async fn page(
    Use(state): Use<State>,
    actor: Actor,
    Path(id): Path<String>,
    params: Params,
) -> Result<Response, Problem> {
    params.only(&[&["after", "done"]])?;
    let session = find(&state, &id).await?;
    let after = params.number("after")?;
    if after.is_none() {
        actions::noted(&state, &actor, "session.view", &id, "").await?;
    }
    let values = actor.may(VALUES);
    let mut unreadable = String::new();
    let (events, last, more) = match read(&state, &session, after).await {
        Ok(read) => read,
        Err(problem) => {
            unreadable = problem.detail;
            (Vec::new(), -1, false)
        }
    };
    // Who it is stands in the first event, whichever page this is.
    let first = if after.is_none() {
        events.first().cloned()
    } else {
        state.archive.session_events(&state.store, &id, None, 1).await.unwrap_or_default().into_iter().next()
    };
    let mut identity = None;
    let mut client = String::new();
    if let Some(Body::FlowStarted(flow)) = first.and_then(|event| event.body) {
        identity = flow.subject.as_ref().map(Identity::new);
        client = flow.client;
    }
    let items = items(&events, session.started_ns, values);
    let ends = actor.may(REVIEW) && session.ended_ns.is_none();
    let title = format!("Session {}", display::beginning(&id, 16));
    let page = Layout::new(&state, actor, "sessions", title, Notice::done(params.get("done"))).await?;
    let later = after.is_some();
    let deleted = state.store.deleted_of_session(&id).await?;
    let page = SessionPage {
        page,
        session,
        identity,
        client,
        items,
        last,
        more,
        later,
        values,
        ends,
        unreadable,
        deleted,
    };
    let mut response = show(StatusCode::OK, &page)?;
    if page.values && page.session.terminal_bytes > 0 {
        let policy = HeaderValue::from_static(PLAYER_POLICY);
        response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, policy);
    }
    Ok(response)
}

/// `GET /sessions/{id}/events`
pub(super) async fn events(
    Use(state): Use<State>,
    actor: Actor,
    Path(id): Path<String>,
    params: Params,
) -> Result<Response, Problem> {
    params.only(&[&["after"]])?;
    let session = find(&state, &id).await?;
    let (events, last, more) = read(&state, &session, params.number("after")?).await?;
    let values = actor.may(VALUES);
    let items = items(&events, session.started_ns, values);
    show(StatusCode::OK, &EventsPart { items, last, more, values })
}

#[derive(Template)]
#[template(path = "session_end.html")]
struct EndPage {
    page: Layout,
    session: SessionItem,
}

/// `GET /sessions/{id}/end`
pub(super) async fn end_page(
    Use(state): Use<State>,
    actor: Actor,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let session = find(&state, &id).await?;
    let page = Layout::new(&state, actor, "sessions", "End a session", None).await?;
    show(StatusCode::OK, &EndPage { page, session })
}

/// `POST /sessions/{id}/end`
pub(super) async fn end(
    Use(state): Use<State>,
    actor: Actor,
    Path(id): Path<String>,
    Fields(fields): Fields,
) -> Result<Response, Problem> {
    match actions::end_session(&state, &actor, &id, fields.get("reason").unwrap_or_default()).await {
        Ok(()) => Ok(Redirect::to(&format!("/sessions/{id}?done=ended")).into_response()),
        Err(problem) if problem.is_theirs() && problem.status != StatusCode::NOT_FOUND => {
            let session = find(&state, &id).await?;
            let notice = Some(Notice::bad(&problem));
            let page = Layout::new(&state, actor, "sessions", "End a session", notice).await?;
            show(problem.status, &EndPage { page, session })
        }
        Err(problem) => Err(problem),
    }
}

#[derive(Template)]
#[template(path = "session_evidence.html")]
struct EvidencePage {
    page: Layout,
    session: SessionItem,
}

/// `GET /sessions/{id}/evidence`
pub(super) async fn evidence_page(
    Use(state): Use<State>,
    actor: Actor,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let session = find(&state, &id).await?;
    let page = Layout::new(&state, actor, "sessions", "Evidence", None).await?;
    show(StatusCode::OK, &EvidencePage { page, session })
}

/// `POST /sessions/{id}/evidence`: the bundle.
pub(super) async fn evidence(
    Use(state): Use<State>,
    actor: Actor,
    Path(id): Path<String>,
    Fields(fields): Fields,
) -> Result<Response, Problem> {
    let reason = fields.get("reason").unwrap_or_default();
    match prove::made(&state, &actor, std::slice::from_ref(&id), reason).await {
        Ok(bundle) => Ok(bundle),
        Err(problem) if problem.is_theirs() && problem.status != StatusCode::NOT_FOUND => {
            let session = find(&state, &id).await?;
            let notice = Some(Notice::bad(&problem));
            let page = Layout::new(&state, actor, "sessions", "Evidence", notice).await?;
            show(problem.status, &EvidencePage { page, session })
        }
        Err(problem) => Err(problem),
    }
}
