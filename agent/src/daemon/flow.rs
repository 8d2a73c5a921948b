//! One redirected connection: who it is, where it goes, and who takes it from there.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::watch;

use super::{Agent, copy};
use crate::identity::{Known, Subject};
use crate::intercept;
use crate::operation::Protocol;
use crate::policy::{Destination, Egress, EntryId, FlowPolicy, Treatment};
use crate::protocol::postgres::{self, Detection};
use crate::protocol::{FlowContext, PolicyHandle, SessionError};
use crate::record::{EgressConnection, End, EndReason, FlowStart, RecordError};

/// How long a client of an unlisted port may take until its first bytes tell the protocol.
const FIRST_BYTES: Duration = Duration::from_secs(10);

/// Bytes that are looked at to tell the protocol.
const PEEK: usize = 64;

/// A flow before its protocol is known.
#[derive(Debug)]
struct Flow {
    client: TcpStream,
    peer: SocketAddr,
    subject: Arc<Subject>,
    destination: Destination,
    entries: Arc<[EntryId]>,
}

/// Serves one flow to its end.
pub(super) async fn serve(agent: Arc<Agent>, accepted: intercept::Flow, stopping: watch::Receiver<bool>) {
    agent.count(|c| &c.flows, 1);
    agent.count(|c| &c.open, 1);
    let opened = Opened(&agent);
    let intercept::Flow { stream: client, original, entries, process } = accepted;
    let Ok(peer) = client.peer_addr() else { return };
    let known = Known::from(&process);
    // Now, before the process can go away.
    let Some(subject) = agent.identify(known).await else {
        tracing::warn!(
            uid = process.uid,
            pid = process.tgid,
            "a flow is refused: its process cannot be looked at"
        );
        return copy::reset(&client);
    };
    let destination =
        Destination { address: original, hosts: agent.policies.hosts().names_of(original.ip()) };
    let flow = Flow { client, peer, subject: Arc::new(subject), destination, entries: entries.into() };
    let policy = flow.policy(&agent);
    let treatment = match policy.treatment() {
        Treatment::Detect(otherwise) => detect(&flow.client, otherwise).await,
        known => known,
    };
    match treatment {
        Treatment::Intercept(Protocol::Postgres) => intercept(&agent, flow, policy, stopping).await,
        Treatment::Egress(Egress::Deny) => {
            if let Err(error) = flow.record_egress(&agent, Egress::Deny) {
                tracing::error!(%error, "cannot record a refused connection");
            }
            copy::reset(&flow.client);
        }
        Treatment::Egress(verdict) => pass(&agent, flow, verdict, stopping).await,
        // detect() has told which.
        Treatment::Detect(_) => copy::reset(&flow.client),
    }
    drop(opened);
}

/// Counts a flow as open as long as it lives.
struct Opened<'a>(&'a Agent);

impl Drop for Opened<'_> {
    fn drop(&mut self) {
        self.0.counts.open.fetch_sub(1, std::sync::atomic::Ordering::Relaxed);
    }
}

impl Flow {
    /// The rules and masks that are now in force for it.
    fn policy(&self, agent: &Agent) -> Arc<FlowPolicy> {
        Arc::new(agent.policies.current().flow(&self.entries, &self.subject, &self.destination))
    }

    /// Records that it is let go or refused. One that is let go is on disk when this returns.
    fn record_egress(&self, agent: &Agent, verdict: Egress) -> Result<(), RecordError> {
        let connection = EgressConnection {
            subject: &self.subject,
            destination: self.destination.address,
            ip_protocol: 6,
            verdict,
            entry: self.entries.first().copied(),
            count: 1,
        };
        match verdict {
            Egress::Deny => agent.recorder.egress(&connection),
            Egress::Allow | Egress::Record => agent.recorder.egress_first(&connection),
        }
    }
}

/// Tells the protocol from the client's first bytes. A client that waits for the server to speak first
/// speaks no protocol that is known here.
async fn detect(client: &TcpStream, otherwise: Egress) -> Treatment {
    let mut first = [0; PEEK];
    let looked = tokio::time::timeout(FIRST_BYTES, async {
        loop {
            let n = client.peek(&mut first).await.unwrap_or(0);
            match postgres::looks_like(first.get(..n).unwrap_or_default()) {
                Detection::Yes => return true,
                Detection::No => return false,
                Detection::NeedMore if n == 0 => return false,
                Detection::NeedMore => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    })
    .await;
    match looked {
        Ok(true) => Treatment::Intercept(Protocol::Postgres),
        _ => Treatment::Egress(otherwise),
    }
}

/// Hands the flow to its protocol.
async fn intercept(agent: &Arc<Agent>, flow: Flow, policy: Arc<FlowPolicy>, stopping: watch::Receiver<bool>) {
    let current = agent.policies.current();
    let start = FlowStart {
        subject: &flow.subject,
        client: flow.peer,
        destination: &flow.destination,
        protocol: Protocol::Postgres,
        policy_hash: current.hash(),
        entries: &flow.entries,
    };
    let session = match agent.recorder.session(&start) {
        Ok(session) => session,
        Err(error) => {
            tracing::error!(%error, destination = %flow.destination.address, "a flow is refused: it cannot be recorded");
            let hint = "See the agent's log on this host and `interlock status`.";
            return postgres::turn_away(flow.client, "53100", &format!("interlock: {error}"), hint).await;
        }
    };
    if let Some(reason) = policy.refuses_plaintext() {
        session.end(&End { reason: EndReason::Refused, detail: &reason, client_bytes: 0, server_bytes: 0 });
        let hint = "The agent on this host does not speak TLS yet: see `plaintext:` in its policies.";
        return postgres::turn_away(flow.client, "42501", &reason, hint).await;
    }
    let upstream = match TcpStream::connect(flow.destination.address).await {
        Ok(upstream) => upstream,
        Err(error) => {
            let reason = format!("interlock: cannot connect to {}: {error}", flow.destination.address);
            session.end(&End {
                reason: EndReason::ConnectFailed,
                detail: &reason,
                client_bytes: 0,
                server_bytes: 0,
            });
            let hint = "The connection was taken by the agent on this host; the server did not answer it.";
            return postgres::turn_away(flow.client, "08001", &reason, hint).await;
        }
    };
    drop(policy);
    let Flow { client, subject, destination, entries, .. } = flow;
    let handle = {
        let (agent, subject, destination) = (Arc::clone(agent), Arc::clone(&subject), destination.clone());
        PolicyHandle::new(agent.policies.generation(), move || {
            Arc::new(agent.policies.current().flow(&entries, &subject, &destination))
        })
    };
    let context = FlowContext {
        client,
        upstream,
        subject,
        destination,
        policy: handle,
        recording: session,
        scripts: Arc::clone(&agent.scripts),
        limits: agent.limits,
        shutdown: stopping,
    };
    let address = context.destination.address;
    match postgres::serve(context).await {
        Ok(summary) => {
            agent.count(|c| &c.commands, summary.commands);
            agent.count(|c| &c.refused, summary.refused);
        }
        Err(SessionError::Client(error)) => {
            tracing::debug!(%error, destination = %address, "the client left");
        }
        Err(error) => tracing::warn!(%error, destination = %address, "a flow was cut off"),
    }
}

/// Lets a flow go its way through the proxy, unseen but counted.
async fn pass(agent: &Agent, flow: Flow, verdict: Egress, mut stopping: watch::Receiver<bool>) {
    if verdict == Egress::Record
        && let Err(error) = flow.record_egress(agent, verdict)
    {
        tracing::error!(%error, destination = %flow.destination.address, "a flow is refused: it cannot be recorded");
        return copy::reset(&flow.client);
    }
    let upstream = match TcpStream::connect(flow.destination.address).await {
        Ok(upstream) => upstream,
        Err(error) => {
            tracing::debug!(%error, destination = %flow.destination.address, "cannot connect");
            return copy::reset(&flow.client);
        }
    };
    tokio::select! {
        ended = copy::both_ways(flow.client, upstream) => match ended {
            Ok(copied) => tracing::trace!(?copied, "passed"),
            Err(error) => tracing::debug!(%error, "a passed connection broke"),
        },
        _ = stopping.wait_for(|stop| *stop) => {}
    }
}
