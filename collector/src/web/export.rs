//! Exports: everything that was recorded of the sessions that are asked for, as JSON Lines, CSV, OCSF, or the
//! terminal of one as asciicast. What was deleted is told of in each.

use std::collections::{HashMap, HashSet};
use std::io;

use axum::body::{Body, Bytes};
use axum::extract::{Path, State as Use};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use interlock_recording::asciicast::{Asciicast, Version};
use interlock_recording::ocsf::{self, Host, Ocsf};
use interlock_recording::proto::Event;
use interlock_recording::query::Summary;
use interlock_recording::text::SafeJson;
use interlock_recording::{SessionId, csv, json};
use serde::Serialize as _;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::State;
use super::actions;
use super::guard::Actor;
use super::params::{Params, SESSIONS};
use super::problem::Problem;
use crate::store::{DeletedSegments, SessionFilter, SessionItem};

/// Sessions and events that are read at a time.
const AT_ONCE: usize = 200;

/// Segments that were deleted, which one look takes in.
const DELETED: i64 = 1000;

/// The formats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    JsonLines,
    Csv,
    Ocsf,
    Asciicast(Version),
}

impl Format {
    fn of(name: &str) -> Result<Self, Problem> {
        match name {
            "jsonl" => Ok(Self::JsonLines),
            "csv" => Ok(Self::Csv),
            "ocsf" => Ok(Self::Ocsf),
            "asciicast" => Ok(Self::Asciicast(Version::V2)),
            "asciicast-v3" => Ok(Self::Asciicast(Version::V3)),
            other => {
                let detail = format!("format is jsonl, csv, ocsf, asciicast or asciicast-v3, not {other:?}.");
                Err(Problem::new(StatusCode::BAD_REQUEST, detail))
            }
        }
    }

    /// Its media type, and the name of its file.
    fn headers(self) -> (&'static str, &'static str) {
        match self {
            Self::JsonLines => {
                ("application/jsonl; charset=utf-8", "attachment; filename=\"interlock.jsonl\"")
            }
            Self::Csv => {
                ("text/csv; charset=utf-8; header=present", "attachment; filename=\"interlock.csv\"")
            }
            Self::Ocsf => {
                ("application/jsonl; charset=utf-8", "attachment; filename=\"interlock.ocsf.jsonl\"")
            }
            Self::Asciicast(_) => ("application/x-asciicast", "attachment; filename=\"interlock.cast\""),
        }
    }
}

/// `GET /api/v1/export`
pub(super) async fn export(
    Use(state): Use<State>,
    actor: Actor,
    params: Params,
) -> Result<Response, Problem> {
    params.only(&[SESSIONS, &["format", "session"]])?;
    let format = Format::of(params.get("format").unwrap_or("jsonl"))?;
    let filter = params.sessions(&state.store).await?;
    let only = match params.get("session") {
        Some(id) => Some(state.store.session(id).await?.ok_or_else(|| Problem::not_found("session"))?),
        None => None,
    };
    if let Format::Asciicast(_) = format {
        match &only {
            None => return Err(Problem::invalid("An asciicast is of one session: name it as session.")),
            Some(session) if session.terminal_bytes == 0 => return Err(no_terminal()),
            Some(_) => {}
        }
    }
    let target = params.get("session").unwrap_or_default();
    actions::noted(&state, &actor, "export", target, &params.with("", "")).await?;
    Ok(stream(state, format, filter, only))
}

/// `GET /sessions/{id}/terminal`: the terminal of a session, for the player on its page.
pub(super) async fn terminal(
    Use(state): Use<State>,
    actor: Actor,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let session = state.store.session(&id).await?.ok_or_else(|| Problem::not_found("session"))?;
    if session.terminal_bytes == 0 {
        return Err(no_terminal());
    }
    actions::noted(&state, &actor, "terminal.view", &id, "").await?;
    Ok(stream(state, Format::Asciicast(Version::V2), SessionFilter::default(), Some(session)))
}

fn no_terminal() -> Problem {
    Problem::invalid("This session has no terminal: other formats have what was recorded of it.")
}

fn stream(state: State, format: Format, filter: SessionFilter, only: Option<SessionItem>) -> Response {
    let (kind, name) = format.headers();
    let (to, from) = mpsc::channel::<io::Result<Bytes>>(4);
    tokio::spawn(async move {
        let cast = match format {
            Format::Asciicast(version) => {
                let title = only.as_ref().map(|session| format!("{} on {}", session.user, session.host_name));
                Some(Asciicast::new(Vec::new(), version, title.unwrap_or_default()))
            }
            _ => None,
        };
        let mut writer = Writer { format, to, ocsf: Ocsf::new(), cast };
        // An export that cannot be completed is cut off where it fails, so that half of it does not pass
        // for the whole: the connection ends without its proper end.
        if let Err(problem) = writer.run(&state, &filter, only).await {
            let error = io::Error::other(problem.detail);
            drop(writer.to.send(Err(error)).await);
        }
    });
    let mut response = Body::from_stream(ReceiverStream::new(from)).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(header::CONTENT_DISPOSITION, HeaderValue::from_static(name));
    response
}

struct Writer {
    format: Format,
    to: mpsc::Sender<io::Result<Bytes>>,
    ocsf: Ocsf,
    cast: Option<Asciicast<Vec<u8>>>,
}

fn line(text: &mut Vec<u8>, value: &Value) -> Result<(), Problem> {
    let mut to = serde_json::Serializer::with_formatter(&mut *text, SafeJson);
    value.serialize(&mut to).map_err(Problem::internal)?;
    text.push(b'\n');
    Ok(())
}

impl Writer {
    async fn run(
        &mut self,
        state: &State,
        filter: &SessionFilter,
        only: Option<SessionItem>,
    ) -> Result<(), Problem> {
        if self.format == Format::Csv {
            let mut header = Vec::new();
            csv::header(&mut header)?;
            self.send(header).await?;
        }
        if let Some(session) = only {
            self.session(state, &session).await?;
            return match self.cast.take() {
                Some(cast) => self.send(cast.finish()?).await,
                None => Ok(()),
            };
        }
        // A list by words can have a long session on two of its pages; an export has it once.
        let mut written = HashSet::new();
        let mut cursor: Option<String> = None;
        loop {
            let page = state.store.sessions(filter, cursor.as_deref(), AT_ONCE).await?;
            for session in &page.items {
                if filter.text.is_some() && !written.insert(session.id.clone()) {
                    continue;
                }
                self.session(state, session).await?;
            }
            cursor = page.next;
            if cursor.is_none() {
                return self.deleted(state, filter).await;
            }
        }
    }

    async fn session(&mut self, state: &State, session: &SessionItem) -> Result<(), Problem> {
        let known = summary(session);
        let host = Host { id: session.host.clone(), name: session.host_name.clone() };
        for (id, summary) in &known {
            self.ocsf.know(*id, summary);
        }
        let mut after = None;
        loop {
            let events = state.archive.session_events(&state.store, &session.id, after, AT_ONCE).await?;
            let Some(last) = events.last() else { break };
            after = Some(i64::try_from(last.index).unwrap_or(i64::MAX));
            let mut text = Vec::new();
            for event in &events {
                self.event(&mut text, event, session, &host, &known)?;
            }
            let full = events.len() == AT_ONCE;
            self.send(text).await?;
            if !full {
                break;
            }
        }
        let mut text = Vec::new();
        for event in self.ocsf.flush(&host) {
            line(&mut text, &event)?;
        }
        for run in state.store.deleted_of_session(&session.id).await? {
            self.notice(&mut text, &run, Some(&session.id))?;
        }
        self.send(text).await
    }

    fn event(
        &mut self,
        text: &mut Vec<u8>,
        event: &Event,
        session: &SessionItem,
        host: &Host,
        known: &HashMap<SessionId, Summary>,
    ) -> Result<(), Problem> {
        match self.format {
            Format::Csv => csv::event(text, event, known)?,
            Format::JsonLines => {
                let mut object = json::event(event);
                if let Value::Object(fields) = &mut object {
                    fields.insert("host".into(), session.host.clone().into());
                    fields.insert("host_name".into(), session.host_name.clone().into());
                }
                line(text, &object)?;
            }
            Format::Ocsf => {
                for made in self.ocsf.event(host, event) {
                    line(text, &made)?;
                }
            }
            Format::Asciicast(_) => {
                if let Some(cast) = &mut self.cast {
                    cast.event(event)?;
                    text.append(cast.output());
                }
            }
        }
        Ok(())
    }

    /// Says which segments in what was asked for were deleted: sessions that had events in these alone are not
    /// listed any more, so whether they were among those asked for is not known.
    async fn deleted(&mut self, state: &State, filter: &SessionFilter) -> Result<(), Problem> {
        let mut after: Option<(String, i64)> = None;
        loop {
            let from = after.as_ref().map(|(host, number)| (host.as_str(), *number));
            let (hosts, since, until) = (filter.hosts.as_deref(), filter.since_ns, filter.until_ns);
            let runs = state.store.deleted_segments(hosts, since, until, from, DELETED).await?;
            let Some(last) = runs.last() else { return Ok(()) };
            after = Some((last.host.clone(), last.last_segment));
            let mut text = Vec::new();
            for run in &runs {
                self.notice(&mut text, run, None)?;
            }
            self.send(text).await?;
        }
    }

    /// Says that segments were deleted.
    fn notice(
        &mut self,
        text: &mut Vec<u8>,
        run: &DeletedSegments,
        session: Option<&str>,
    ) -> Result<(), Problem> {
        const NAME: &str = "segments_deleted";
        let detail = match session {
            Some(_) => {
                "What these segments held of this session is not in this export: they were deleted. Their tombstones \
                 stand in the ledger."
            }
            None => {
                "These segments were deleted, and with them may have been sessions that were asked for. Their \
                 tombstones stand in the ledger."
            }
        };
        let mut object = serde_json::to_value(run).map_err(Problem::internal)?;
        if let Value::Object(fields) = &mut object {
            fields.insert("event".into(), NAME.into());
            fields.insert("detail".into(), detail.into());
            if let Some(session) = session {
                fields.insert("session".into(), session.into());
            }
        }
        match self.format {
            Format::JsonLines => line(text, &object)?,
            Format::Csv => {
                let detail = format!(
                    "host {} ({}), segments {} to {}, events {} to {}: {detail}",
                    run.host_name,
                    run.host,
                    run.first_segment,
                    run.last_segment,
                    run.first_event,
                    run.last_event
                );
                csv::notice(text, NAME, &json::time(run.first_ns.unsigned_abs()), &detail)?;
            }
            Format::Ocsf => {
                let host = Host { id: run.host.clone(), name: run.host_name.clone() };
                line(text, &ocsf::notice(&host, NAME, run.last_ns.unsigned_abs(), detail, object))?;
            }
            Format::Asciicast(_) => {
                if let Some(cast) = &mut self.cast {
                    cast.notice(&format!("Events {} to {} were deleted.", run.first_event, run.last_event))?;
                    text.append(cast.output());
                }
            }
        }
        Ok(())
    }

    async fn send(&self, bytes: Vec<u8>) -> Result<(), Problem> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.to.send(Ok(bytes.into())).await.map_err(|_| Problem::invalid("whoever asked has gone"))
    }
}

/// What stands on every line of a session in CSV.
fn summary(session: &SessionItem) -> HashMap<SessionId, Summary> {
    let Ok(id) = session.id.parse() else { return HashMap::new() };
    let summary = Summary {
        session: session.id.clone(),
        user: session.user.clone(),
        exe: session.exe.clone(),
        destination: session.destination.clone(),
        db_user: session.db_user.clone(),
        database: session.database.clone(),
        ..Summary::default()
    };
    HashMap::from([(id, summary)])
}
