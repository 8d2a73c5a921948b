//! Exports: everything that was recorded of the sessions that are asked for, as JSON Lines or CSV.

use std::collections::{HashMap, HashSet};
use std::io;

use axum::body::{Body, Bytes};
use axum::extract::State as Use;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
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
use crate::store::{SessionFilter, SessionItem};

/// Sessions and events that are read at a time.
const AT_ONCE: usize = 200;

/// The two formats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    JsonLines,
    Csv,
}

/// `GET /api/v1/export`
pub(super) async fn export(
    Use(state): Use<State>,
    actor: Actor,
    params: Params,
) -> Result<Response, Problem> {
    params.only(&[SESSIONS, &["format", "session"]])?;
    let format = match params.get("format").unwrap_or("jsonl") {
        "jsonl" => Format::JsonLines,
        "csv" => Format::Csv,
        other => {
            let detail = format!("format is jsonl or csv, not {other:?}.");
            return Err(Problem::new(StatusCode::BAD_REQUEST, detail));
        }
    };
    let filter = params.sessions(&state.store).await?;
    let only = match params.get("session") {
        Some(id) => Some(state.store.session(id).await?.ok_or_else(|| Problem::not_found("session"))?),
        None => None,
    };
    let target = params.get("session").unwrap_or_default();
    actions::noted(&state, &actor, "export", target, &params.with("", "")).await?;
    let (kind, name) = match format {
        Format::JsonLines => ("application/jsonl; charset=utf-8", "attachment; filename=\"interlock.jsonl\""),
        Format::Csv => ("text/csv; charset=utf-8; header=present", "attachment; filename=\"interlock.csv\""),
    };
    let (to, from) = mpsc::channel::<io::Result<Bytes>>(4);
    tokio::spawn(async move {
        let mut writer = Writer { format, to };
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
    Ok(response)
}

struct Writer {
    format: Format,
    to: mpsc::Sender<io::Result<Bytes>>,
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
            return self.session(state, &session).await;
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
                return Ok(());
            }
        }
    }

    async fn session(&mut self, state: &State, session: &SessionItem) -> Result<(), Problem> {
        let known = summary(session);
        let mut after = None;
        loop {
            let events = state.archive.session_events(&state.store, &session.id, after, AT_ONCE).await?;
            let Some(last) = events.last() else { return Ok(()) };
            after = Some(i64::try_from(last.index).unwrap_or(i64::MAX));
            let mut text = Vec::new();
            for event in &events {
                self.event(&mut text, event, session, &known)?;
            }
            let full = events.len() == AT_ONCE;
            self.send(text).await?;
            if !full {
                return Ok(());
            }
        }
    }

    fn event(
        &self,
        text: &mut Vec<u8>,
        event: &Event,
        session: &SessionItem,
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
                let mut to = serde_json::Serializer::with_formatter(&mut *text, SafeJson);
                object.serialize(&mut to).map_err(Problem::internal)?;
                text.push(b'\n');
            }
        }
        Ok(())
    }

    async fn send(&self, bytes: Vec<u8>) -> Result<(), Problem> {
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
