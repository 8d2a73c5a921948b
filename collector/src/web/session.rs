//! A session's page: who, where to, and everything that happened in it.

use std::time::Duration;

use askama::Template;
use axum::extract::{Path, State as Use};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Redirect, Response};
use interlock_recording::json;
use interlock_recording::proto::event::Body;
use interlock_recording::proto::{self, Event, Rows, Subject};

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

/// Events on one page.
const EVENTS: usize = 200;
/// Characters of a command's text, of a value, and rows and columns of a result that a page shows. The
/// export has all that was recorded.
const TEXT: usize = 20_000;
const VALUE: usize = 500;
const ROWS: usize = 100;
const COLUMNS: usize = 40;

/// One thing that happened.
#[derive(Debug)]
struct Item {
    /// Since the session began.
    at: String,
    /// When, for programs.
    time: String,
    what: What,
}

#[derive(Debug)]
enum What {
    Command(Box<Command>),
    /// The end of a command that stands on an earlier page.
    Outcome(Box<Outcome>),
    /// Anything else, in a line.
    Line {
        label: String,
        text: String,
        tone: &'static str,
    },
}

#[derive(Debug)]
struct Command {
    number: u64,
    step: String,
    of: u64,
    verdict: String,
    tone: &'static str,
    rule: String,
    message: String,
    observed: Vec<(String, String)>,
    text: String,
    omitted: usize,
    params: Vec<(usize, Option<String>)>,
    objects: Vec<(&'static str, String)>,
    outcomes: Vec<Outcome>,
}

/// What came of a command, or a part of it.
#[derive(Debug)]
struct Outcome {
    number: u64,
    status: String,
    tone: &'static str,
    tag: String,
    error: String,
    took: String,
    rows: Option<Table>,
}

#[derive(Debug)]
struct Table {
    count: String,
    columns: Vec<String>,
    rows: Vec<Vec<Option<String>>>,
    /// Rows and columns that are not shown.
    more_rows: u64,
    more_columns: usize,
    masks: String,
}

impl Table {
    fn new(rows: &Rows, values: bool) -> Self {
        let cut = |text: String| display::beginning(&text, VALUE);
        let mut lines = Vec::new();
        if values {
            let shown = Rows {
                columns: rows.columns.clone(),
                rows: rows.rows.iter().take(ROWS).cloned().collect(),
                ..Rows::default()
            };
            lines = json::texts(&shown)
                .into_iter()
                .map(|row| row.into_iter().take(COLUMNS).map(|value| value.map(cut)).collect())
                .collect();
        }
        let masks: Vec<_> = rows.masks.iter().map(|mask| format!("{} {}", mask.mask, mask.count)).collect();
        Self {
            count: display::count(i64::try_from(rows.count).unwrap_or(i64::MAX)),
            columns: rows.columns.iter().take(COLUMNS).map(|column| cut(column.name.clone())).collect(),
            more_rows: rows.count.saturating_sub(lines.len() as u64),
            more_columns: rows.columns.len().saturating_sub(COLUMNS),
            rows: lines,
            masks: masks.join(", "),
        }
    }
}

/// Events as a page shows them: the ends of commands stand with the commands.
fn items(events: &[Event], started_ns: i64, values: bool) -> Vec<Item> {
    let mut items: Vec<Item> = Vec::new();
    let started_ns = u64::try_from(started_ns).unwrap_or_default();
    for event in events {
        let what = match &event.body {
            // These stand at the head of the page.
            Some(Body::FlowStarted(_)) | None => continue,
            // These are played.
            Some(Body::TerminalSize(_) | Body::TerminalOutput(_) | Body::TerminalInput(_)) => continue,
            Some(Body::Command(body)) => What::Command(Box::new(command(body, values))),
            Some(Body::Result(body)) => match attach(&mut items, outcome(body, values)) {
                Some(outcome) => What::Outcome(Box::new(outcome)),
                None => continue,
            },
            Some(Body::CopyData(body)) => match attach(&mut items, copied(body, values)) {
                Some(outcome) => What::Outcome(Box::new(outcome)),
                None => continue,
            },
            Some(other) => line(other),
        };
        let since = Duration::from_nanos(event.wall_ns.saturating_sub(started_ns));
        let at = format!("+{:.3} s", since.as_secs_f64());
        items.push(Item { at, time: json::time(event.wall_ns), what });
    }
    items
}

/// Puts an outcome to its command; gives it back when that is not on the page.
fn attach(items: &mut [Item], outcome: Outcome) -> Option<Outcome> {
    for item in items.iter_mut().rev() {
        if let What::Command(command) = &mut item.what
            && command.number == outcome.number
        {
            command.outcomes.push(outcome);
            return None;
        }
    }
    Some(outcome)
}

fn command(body: &proto::Command, values: bool) -> Command {
    let join = |of: fn(&proto::Statement) -> &Vec<String>| {
        let mut words: Vec<&str> = body.statements.iter().flat_map(of).map(String::as_str).collect();
        words.sort_unstable();
        words.dedup();
        display::beginning(&words.join(", "), VALUE)
    };
    let objects = [
        ("does", join(|statement| &statement.kinds)),
        ("reads", join(|statement| &statement.reads)),
        ("writes", join(|statement| &statement.writes)),
        ("calls", join(|statement| &statement.functions)),
    ];
    let params = body.params.iter().take(200).enumerate().map(|(at, param)| {
        let value = param.value.as_deref().map(|value| {
            let mut text = display::beginning(value, VALUE);
            if param.omitted_bytes > 0 {
                text.push('…');
            }
            text
        });
        (at + 1, value)
    });
    Command {
        number: body.command,
        step: body.step.clone(),
        of: body.of,
        tone: display::tone(&body.verdict),
        verdict: body.verdict.clone(),
        rule: body.rule.clone().unwrap_or_default(),
        message: body.message.clone().filter(|_| body.verdict != "allow").unwrap_or_default(),
        observed: body.observed.iter().map(|rule| (rule.rule.clone(), rule.verdict.clone())).collect(),
        omitted: body.text.chars().count().saturating_sub(TEXT),
        text: display::beginning(&body.text, TEXT),
        params: if values { params.collect() } else { Vec::new() },
        objects: objects.into_iter().filter(|(_, text)| !text.is_empty()).collect(),
        outcomes: Vec::new(),
    }
}

fn outcome(body: &proto::CommandResult, values: bool) -> Outcome {
    let error = [body.sqlstate.as_str(), body.message.as_str()];
    let error: Vec<_> = error.into_iter().filter(|part| !part.is_empty()).collect();
    Outcome {
        number: body.command,
        tone: display::tone(&body.status),
        status: body.status.clone(),
        tag: body.tag.clone(),
        error: display::beginning(&error.join(" "), TEXT),
        // What was not forwarded took no time.
        took: match i64::try_from(body.duration_ns).unwrap_or(i64::MAX) {
            0 => String::new(),
            ns => display::duration(ns),
        },
        rows: body.rows.as_ref().map(|rows| Table::new(rows, values)),
    }
}

fn copied(body: &proto::CopyData, values: bool) -> Outcome {
    let way = if body.to_client { "to the client" } else { "from the client" };
    let bytes = display::bytes(i64::try_from(body.bytes).unwrap_or(i64::MAX));
    Outcome {
        number: body.command,
        tone: "plain",
        status: "copied".into(),
        tag: format!("{bytes} {way}"),
        error: String::new(),
        took: String::new(),
        rows: body.lines.as_ref().map(|rows| Table::new(rows, values)),
    }
}

fn line(body: &Body) -> What {
    let line = |label: &str, text: String, tone| What::Line {
        label: label.into(),
        text: display::beginning(&text, TEXT),
        tone,
    };
    match body {
        Body::Login(body) => {
            let mut text = format!("as {} to {} ({})", body.user, body.database, body.auth_method);
            if !body.credential.is_empty() {
                text.push_str(&format!(
                    ", by credential {} as {} to {}",
                    body.credential, body.login_user, body.login_database
                ));
            }
            for (leg, tls) in [("client", &body.client_tls), ("server", &body.server_tls)] {
                match tls {
                    Some(tls) => text.push_str(&format!("; {leg} leg {} {}", tls.version, tls.cipher)),
                    None => text.push_str(&format!("; {leg} leg not encrypted")),
                }
            }
            line("logged in", text, "plain")
        }
        Body::TlsPassed(body) => {
            let text = format!("{} {} {}", body.side, body.version, body.server_name);
            line("TLS, passed on unread", text, "plain")
        }
        Body::Notice(body) => {
            line("notice", format!("{} {} {}", body.severity, body.sqlstate, body.message), "plain")
        }
        Body::ApprovalRequested(body) => {
            let needs: Vec<_> = body
                .quorums
                .iter()
                .map(|quorum| {
                    format!("{} of {} (rule {})", quorum.needed, quorum.groups.join(", "), quorum.rule)
                })
                .collect();
            line(
                "approval asked for",
                format!("{}: {}; {}", body.request, needs.join(", "), body.text),
                "plain",
            )
        }
        Body::ApprovalVoted(body) => {
            let text = format!("{} by {}. {}", body.request, approver(body.by.as_ref()), body.reason);
            line("approved", text, "plain")
        }
        Body::IdentityChanged(body) => {
            let who: Vec<_> = body.person.iter().chain(&body.workload).map(identity).collect();
            match who.as_slice() {
                [] => line("identity", format!("none any more. {}", body.missing.join("; ")), "bad"),
                who => line("identity", who.join("; "), "plain"),
            }
        }
        Body::ApprovalDecided(body) => {
            let by = approver(body.by.as_ref());
            let by = if by.is_empty() { by } else { format!(" by {by}") };
            let text = format!("{} {}{by}. {}", body.request, body.outcome, body.reason);
            let (label, tone) = match (body.needs_review, body.outcome.as_str()) {
                (true, _) => ("approval, needs review", "bad"),
                (_, "approved") => ("approval", "good"),
                _ => ("approval", "plain"),
            };
            line(label, text, tone)
        }
        Body::CommandsWithdrawn(body) => {
            let text = format!("commands {} to {}: {}", body.first, body.last, body.reason);
            line("refused after all", text, "bad")
        }
        Body::SessionEnded(body) => {
            let detail = if body.detail.is_empty() { String::new() } else { format!(": {}", body.detail) };
            let text = format!(
                "{}{detail}. {} commands, {} refused; {} sent, {} received",
                body.reason,
                body.commands,
                body.refused,
                display::bytes(i64::try_from(body.client_bytes).unwrap_or(i64::MAX)),
                display::bytes(i64::try_from(body.server_bytes).unwrap_or(i64::MAX)),
            );
            line("ended", text, display::tone(&body.reason))
        }
        other => line(
            "event",
            json::name(&Event { body: Some(other.clone()), ..Event::default() }).into(),
            "plain",
        ),
    }
}

/// Who decided, with the login user where that is somebody else.
fn approver(by: Option<&proto::Approver>) -> String {
    match by {
        Some(by) if by.account.is_some() => format!("{} (at the collector)", by.user),
        Some(by) if by.login_user.is_empty() || by.login_user == by.user => by.user.clone(),
        Some(by) => format!("{} (logged in as {})", by.user, by.login_user),
        None => String::new(),
    }
}

/// A verified person or workload, with who vouches for it and what belongs to it.
fn identity(identity: &proto::VerifiedIdentity) -> String {
    let name = if identity.name.is_empty() { &identity.subject } else { &identity.name };
    let mut text = format!("{name} ({}), says {}", identity.subject, identity.issuer_name);
    let more = [
        ("project", &identity.project),
        ("branch", &identity.branch),
        ("environment", &identity.environment),
        ("started by", &identity.actor),
    ];
    for (word, value) in more.into_iter().filter(|(_, value)| !value.is_empty()) {
        text.push_str(&format!("; {word} {value}"));
    }
    if !identity.groups.is_empty() {
        text.push_str(&format!("; groups {}", identity.groups.join(", ")));
    }
    display::beginning(&text, 2000)
}

/// A process above the one that connected.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) pid: u32,
    pub(super) uid: u32,
    pub(super) line: String,
    exe: String,
    pub(super) depth: usize,
}

/// Who is behind the session.
#[derive(Debug)]
pub(super) struct Identity {
    pub(super) facts: Vec<(&'static str, String)>,
    pub(super) processes: Vec<Process>,
}

impl Identity {
    pub(super) fn new(subject: &Subject) -> Self {
        let text = |text: &str| display::beginning(text, 2000);
        let mut facts = vec![("user", format!("{} (uid {})", subject.user, subject.uid))];
        let mut put = |name, value: String| {
            if !value.is_empty() {
                facts.push((name, value));
            }
        };
        put("verified person", subject.person.as_ref().map(identity).unwrap_or_default());
        put("verified workload", subject.workload.as_ref().map(identity).unwrap_or_default());
        if subject.login_uid.is_some() {
            put("logged in to the host as", text(&subject.login_user));
        }
        if let Some(claimed) = &subject.login_claimed {
            let user = display::beginning(&claimed.user, 200);
            put("claims a login as", format!("{user} (uid {}): root was not seen to set it", claimed.uid));
        }
        put("group", text(&subject.group));
        put("script", text(subject.script.as_deref().unwrap_or_default()));
        put("unit", text(&subject.unit));
        put("container", text(&subject.container));
        put("cgroup", text(&subject.cgroup));
        put("directory", text(&subject.cwd));
        put("SHA-256", text(&subject.exe_sha256));
        if let Some(ci) = &subject.ci {
            let parts =
                [&ci.system, &ci.project, &ci.pipeline, &ci.job, &ci.run, &ci.branch, &ci.commit, &ci.actor];
            let parts: Vec<_> =
                parts.into_iter().filter(|part| !part.is_empty()).map(String::as_str).collect();
            put("CI job, as it claims", text(&parts.join(" / ")));
        }
        put("could not be found out", text(&subject.missing.join(", ")));
        let above = subject
            .ancestors
            .iter()
            .take(64)
            .rev()
            .map(|parent| (parent.pid, parent.uid, &parent.exe, &parent.argv));
        let own = (subject.pid, subject.uid, &subject.exe, &subject.argv);
        let processes = above
            .chain([own])
            .enumerate()
            .map(|(depth, (pid, uid, exe, argv))| Process {
                pid,
                uid,
                line: text(&if argv.is_empty() { exe.clone() } else { argv.join(" ") }),
                exe: text(exe),
                depth: depth.min(12),
            })
            .collect();
        Self { facts, processes }
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;

    fn event(body: Body) -> Event {
        Event { body: Some(body), ..Event::default() }
    }

    fn select(number: u64) -> Event {
        event(Body::Command(proto::Command {
            command: number,
            params: vec![proto::BindParameter { value: Some("secret".into()), omitted_bytes: 0 }],
            ..Default::default()
        }))
    }

    fn result(number: u64) -> Event {
        let row = proto::Row { values: vec![proto::Value { data: Some(b"value".to_vec()) }] };
        let rows = Rows { count: 250, rows: vec![row; 150], ..Rows::default() };
        event(Body::Result(proto::CommandResult { command: number, rows: Some(rows), ..Default::default() }))
    }

    #[test]
    fn ends_stand_with_their_commands_and_alone_when_these_are_elsewhere() {
        let items = items(&[select(1), select(2), result(1), result(7)], 0, true);
        assert_eq!(items.len(), 3);
        let What::Command(first) = &items[0].what else { panic!("a command") };
        assert_eq!(first.outcomes.len(), 1);
        let table = first.outcomes[0].rows.as_ref().unwrap();
        assert_eq!((table.rows.len(), table.more_rows), (ROWS, 150));
        assert!(matches!(&items[2].what, What::Outcome(outcome) if outcome.number == 7));
    }

    #[test]
    fn without_the_right_to_values_there_are_none() {
        let items = items(&[select(1), result(1)], 0, false);
        let text = format!("{items:?}");
        assert!(!text.contains("secret") && !text.contains("value\""), "{text}");
    }
}
