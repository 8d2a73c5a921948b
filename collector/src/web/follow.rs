//! Follows a session as it goes on: the browser is told that there is something new, and fetches it.

use std::convert::Infallible;
use std::time::Duration;

use axum::extract::{Path, State as Use};
use axum::http::StatusCode;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tokio_stream::wrappers::ReceiverStream;

use super::State;
use super::guard::Actor;
use super::problem::Problem;

/// Browsers that follow sessions at one time.
pub(super) const MOST: usize = 200;
/// After so long a browser asks again, as browsers do by themselves: rights are then looked at anew.
const LONGEST: Duration = Duration::from_secs(300);
/// Rights, and the session, are looked at this often when nothing fires.
const TICK: Duration = Duration::from_secs(5);
/// A busy collector fires often; a browser is told no more often than this.
const APART: Duration = Duration::from_millis(300);

/// `GET /sessions/{id}/follow`: server-sent events `changed` and, at last, `ended`.
pub(super) async fn follow(
    Use(state): Use<State>,
    actor: Actor,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let Some(session) = state.store.session(&id).await? else { return Err(Problem::not_found("session")) };
    let Ok(permit) = state.followers.clone().try_acquire_owned() else {
        return Err(Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "Too many sessions are being followed. Reload the page from time to time instead.",
        ));
    };
    let (to, from) = mpsc::channel::<Result<Event, Infallible>>(4);
    let mut last = session.last_event;
    tokio::spawn(async move {
        let _permit = permit;
        let mut changed = state.connected.changed();
        let end = Instant::now() + LONGEST;
        let mut looked = Instant::now();
        loop {
            let quiet = Instant::now() + APART;
            tokio::select! {
                _ = changed.changed() => {}
                () = sleep_until(Instant::now() + TICK) => {}
                () = sleep_until(end) => return,
                () = to.closed() => return,
            }
            sleep_until(quiet).await;
            let Ok(Some(now)) = state.store.session(&id).await else { return };
            let news = now.last_event != last || now.ended_ns.is_some();
            if !news && looked.elapsed() < TICK {
                continue;
            }
            // Whoever has been signed out follows nothing any more.
            looked = Instant::now();
            let signed_in = state.store.sign_ins(&actor.name, state.idle_ns()).await;
            if !signed_in.is_ok_and(|all| all.iter().any(|sign_in| sign_in.id == actor.sign_in())) {
                return;
            }
            if news {
                last = now.last_event;
                if to.send(Ok(Event::default().event("changed").data("."))).await.is_err() {
                    return;
                }
            }
            if now.ended_ns.is_some() {
                drop(to.send(Ok(Event::default().event("ended").data("."))).await);
                return;
            }
        }
    });
    Ok(Sse::new(ReceiverStream::new(from)).keep_alive(KeepAlive::default()).into_response())
}
