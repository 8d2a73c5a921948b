//! Proof by the API: the ledger's checkpoints, and evidence bundles.

use std::fs::File;
use std::io::{self, BufWriter, Read as _, Seek as _};

use axum::body::{Body, Bytes};
use axum::extract::State as Use;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use interlock_recording::bundle::{Base64Hash, ConsistencyProof};
use interlock_recording::merkle::Plan;
use serde::Deserialize;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::State;
use super::guard::Actor;
use super::params::{Json, Params};
use super::problem::Problem;
use crate::evidence::{self, EvidenceError};

/// `GET /api/v1/ledger/checkpoint`: the newest checkpoint, a signed note.
pub(super) async fn checkpoint(Use(state): Use<State>) -> Result<Response, Problem> {
    let note = state.store.checkpoint(None).await.map_err(Problem::internal)?;
    let note = note.ok_or_else(|| Problem::not_found("checkpoint"))?;
    let kind = HeaderValue::from_static("text/plain; charset=utf-8");
    Ok(([(header::CONTENT_TYPE, kind)], note.to_string()).into_response())
}

/// `GET /api/v1/ledger/consistency?first=N[&second=M]`: the proof that the ledger of M entries goes on from that
/// of N.
pub(super) async fn consistency(Use(state): Use<State>, params: Params) -> Result<Response, Problem> {
    params.only(&[&["first", "second"]])?;
    let number = |name: &str| {
        let text = params.get(name);
        text.map(|text| {
            text.parse::<u64>().map_err(|_| Problem::invalid(format!("{name} is a number of entries.")))
        })
        .transpose()
    };
    let size = state.store.ledger_size().await?;
    let first =
        number("first")?.ok_or_else(|| Problem::invalid("first is the earlier number of entries."))?;
    let second = number("second")?.unwrap_or(size);
    if second > size || first > second {
        return Err(Problem::invalid(format!("The ledger has {size} entries: first ≤ second ≤ {size}.")));
    }
    let plan = Plan::consistency(first, second).map_err(Problem::internal)?;
    let proof = state.store.prove(&plan).await.map_err(Problem::internal)?;
    let proof = ConsistencyProof { first, second, proof: proof.into_iter().map(Base64Hash).collect() };
    Ok(axum::Json(proof).into_response())
}

/// What evidence is asked for.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    sessions: Vec<String>,
    reason: String,
}

impl From<EvidenceError> for Problem {
    fn from(error: EvidenceError) -> Self {
        match &error {
            EvidenceError::NoSession(_) => Self::not_found("session"),
            EvidenceError::Count(_) => Self::invalid(format!("{error}.")),
            EvidenceError::Unsealed { .. } | EvidenceError::Deleted { .. } => {
                Self::new(StatusCode::CONFLICT, format!("{error}."))
            }
            _ => Self::internal(error),
        }
    }
}

/// `POST /api/v1/evidence`: a bundle of the sessions asked for.
pub(super) async fn bundle(
    Use(state): Use<State>,
    actor: Actor,
    Json(wanted): Json<Wanted>,
) -> Result<Response, Problem> {
    made(&state, &actor, &wanted.sessions, &wanted.reason).await
}

/// Makes a bundle and sends it.
pub(super) async fn made(
    state: &State,
    actor: &Actor,
    sessions: &[String],
    reason: &str,
) -> Result<Response, Problem> {
    let reason = reason.trim();
    if reason.is_empty() || reason.chars().count() > 200 {
        return Err(Problem::invalid("Say in up to 200 characters why it is made."));
    }
    // It is made as a whole before any of it is sent: what fails in the making is told properly.
    let file = state.archive.scratch()?;
    let output = BufWriter::with_capacity(128 << 10, file);
    let (output, _) = evidence::write(&state.intake, sessions, &actor.trail(), reason, output).await?;
    let mut file = output.into_inner().map_err(io::IntoInnerError::into_error)?;
    file.rewind()?;
    let bytes = file.metadata()?.len();
    let (to, from) = mpsc::channel::<io::Result<Bytes>>(4);
    tokio::task::spawn_blocking(move || send(file, &to));
    let mut response = Body::from_stream(ReceiverStream::new(from)).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-tar"));
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(bytes));
    let name = HeaderValue::from_static("attachment; filename=\"evidence.tar\"");
    headers.insert(header::CONTENT_DISPOSITION, name);
    Ok(response)
}

fn send(mut file: File, to: &mpsc::Sender<io::Result<Bytes>>) {
    loop {
        let mut part = vec![0; 64 << 10];
        let part = match file.read(&mut part) {
            Ok(0) => return,
            Ok(read) => {
                part.truncate(read);
                Ok(Bytes::from(part))
            }
            Err(error) => Err(error),
        };
        let failed = part.is_err();
        // Whoever asked has gone.
        if to.blocking_send(part).is_err() || failed {
            return;
        }
    }
}
