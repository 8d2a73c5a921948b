//! For machines that watch over the collector: `/healthz`, `/readyz`, and `/metrics` in Prometheus' text
//! format (version 0.0.4).

use std::fmt::Write as _;

use axum::extract::State as Use;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::State;

use super::problem::Problem;
use crate::outputs;
use crate::store::now_ns;

fn text(status: StatusCode, text: String) -> Response {
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    (status, [(header::CONTENT_TYPE, kind)], text).into_response()
}

/// `GET /healthz`: the process answers.
pub(super) async fn alive() -> Response {
    text(StatusCode::OK, "ok\n".to_owned())
}

/// `GET /readyz`: it can do its work, as far as the database is concerned.
pub(super) async fn ready(Use(state): Use<State>) -> Response {
    match state.store.ledger_size().await {
        Ok(_) => text(StatusCode::OK, "ok\n".to_owned()),
        Err(error) => {
            tracing::error!("not ready: {error}");
            text(StatusCode::SERVICE_UNAVAILABLE, "the database does not answer\n".to_owned())
        }
    }
}

/// `GET /metrics`.
pub(super) async fn metrics(Use(state): Use<State>) -> Result<Response, Problem> {
    let totals = state.store.totals().await?;
    let agents = state.store.agents().await?;
    let connected = agents.iter().filter(|agent| state.connected.is_there(&agent.host)).count();
    let mut out = String::new();
    let mut metric = |name: &str, kind: &str, help: &str, value: i64| {
        let _ = write!(
            out,
            "# HELP interlock_collector_{name} {help}\n# TYPE interlock_collector_{name} {kind}\n\
             interlock_collector_{name} {value}\n"
        );
    };
    let active = agents.iter().filter(|agent| agent.active).count();
    metric("agents", "gauge", "Agents that are enrolled and not revoked.", active as i64);
    metric("agents_connected", "gauge", "Agents that are connected to this collector.", connected as i64);
    let disputed = agents.iter().filter(|agent| agent.active && agent.dispute.is_some()).count();
    metric("agents_disputed", "gauge", "Agents whose recording contradicts itself.", disputed as i64);
    let full = agents.iter().filter(|agent| agent.active && agent.spool_full).count();
    metric("agents_full", "gauge", "Agents that refuse commands for want of room.", full as i64);
    let silent = agents
        .iter()
        .filter(|agent| agent.active)
        .map(|agent| now_ns().saturating_sub(agent.last_seen_ns.max(agent.enrolled_ns)) / 1_000_000_000)
        .max();
    metric(
        "agents_silent_seconds",
        "gauge",
        "Time since the most silent agent was heard of.",
        silent.unwrap_or(0),
    );
    metric("events_total", "counter", "Events taken in.", totals.events);
    metric("segments", "gauge", "Segments that are kept.", totals.segments);
    metric("segment_bytes", "gauge", "Bytes of the segments that are kept.", totals.bytes);
    metric("ledger_entries", "counter", "Entries in the ledger.", totals.entries);
    metric("findings_open", "gauge", "Findings that nobody has acknowledged.", totals.findings);
    out.push_str(&outputs::metrics(&state.store.outputs().await?, now_ns()));
    Ok(text(StatusCode::OK, out))
}
