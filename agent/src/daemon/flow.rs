//! One redirected connection: who it is, where it goes, and who takes it from there.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::watch;

use super::{Agent, copy, login};
use crate::identity::workload::Purpose;
use crate::identity::{Known, LiveSubject, Subject};
use crate::intercept;
use crate::operation::Protocol;
use crate::policy::{Destination, Egress, EntryId, FlowPolicy, TlsTreatment, Treatment};
use crate::protocol::postgres::{self, Detection};
use crate::protocol::{FlowContext, PolicyHandle, SessionError, Stop};
use crate::record::{EgressConnection, End, EndReason, FlowStart, RecordError, Session};
use crate::tls::hello::{self, ClientHello, Opening};
use crate::tls::{self, PassError, Passed};

/// How long a client of an unlisted port may take until its first bytes tell the protocol.
const FIRST_BYTES: Duration = Duration::from_secs(10);

/// Bytes that are looked at to tell the protocol: a ClientHello as long as OpenSSL would take it.
const PEEK: usize = 17 << 10;

/// What is done with a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// It is read.
    Protocol(Protocol),
    /// It is TLS, and passed on unread.
    Tls,
    /// It is none of the policies' destinations, or no protocol that is known here.
    Egress(Egress),
    /// The client waits for the server to speak first. What it says then is still looked at.
    Late(Egress),
}

/// What a client's first bytes are.
enum Said {
    Protocol(Protocol),
    Hello(ClientHello),
    /// No protocol that is known here.
    Other,
    /// It begins as one that is known here and goes on as nothing that a server would take.
    Malformed,
}

/// What `bytes`, the first that a client sent, are; `None` where more are needed to tell.
fn said(bytes: &[u8]) -> Option<Said> {
    match (postgres::looks_like(bytes), hello::opening(bytes)) {
        (Detection::Yes, _) => Some(Said::Protocol(Protocol::Postgres)),
        (_, Opening::Hello(hello)) => Some(Said::Hello(hello)),
        (_, Opening::Malformed) => Some(Said::Malformed),
        (Detection::No, Opening::Other) => Some(Said::Other),
        // As much as can be looked at is there, and it is still not whole.
        _ if bytes.len() >= PEEK => Some(Said::Malformed),
        _ => None,
    }
}

/// A flow before its protocol is known.
#[derive(Debug)]
struct Flow {
    client: TcpStream,
    peer: SocketAddr,
    /// The process as the kernel side told it.
    known: Known,
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
    let Some(mut subject) = agent.identify(known.clone()).await else {
        tracing::warn!(
            uid = process.uid,
            pid = process.tgid,
            "a flow is refused: its process cannot be looked at"
        );
        return copy::reset(&client);
    };
    agent.find_workload(&known, &mut subject, Purpose::Flow).await;
    agent.find_person(&known, &mut subject);
    let destination =
        Destination { address: original, hosts: agent.policies.hosts().names_of(original.ip()) };
    let subject = Arc::new(subject);
    let flow = Flow { client, peer, known, subject, destination, entries: entries.into() };
    let policy = flow.policy(&agent);
    let way = match policy.treatment() {
        Treatment::Intercept(protocol) => Way::Protocol(protocol),
        Treatment::Detect(otherwise) => detect(&flow.client, policy.tls(), otherwise).await,
        Treatment::Egress(verdict) => Way::Egress(verdict),
    };
    match way {
        // Who has not the identity that a policy needs gets nowhere; a protocol says so in its own words.
        Way::Tls | Way::Egress(_) | Way::Late(_)
            if let Some(reason) = policy.refuses_subject(&flow.subject) =>
        {
            tracing::warn!(destination = %flow.destination.address, "a connection is refused: {reason}");
            flow.record_refused(&agent);
            copy::reset(&flow.client);
        }
        Way::Protocol(Protocol::Postgres) => intercept(&agent, flow, &policy, stopping).await,
        Way::Tls => pass_tls(&agent, flow, stopping).await,
        Way::Egress(Egress::Deny) | Way::Late(Egress::Deny) => {
            flow.record_refused(&agent);
            copy::reset(&flow.client);
        }
        Way::Egress(verdict) => pass(&agent, flow, verdict, false, stopping).await,
        Way::Late(verdict) => pass(&agent, flow, verdict, true, stopping).await,
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

    /// Begins its recording.
    fn session(&self, agent: &Agent, protocol: &str) -> Result<Session, RecordError> {
        let current = agent.policies.current();
        agent.recorder.session(&FlowStart {
            subject: &self.subject,
            client: self.peer,
            destination: &self.destination,
            protocol,
            policy_hash: current.hash(),
            entries: &self.entries,
        })
    }

    /// Records that it is refused.
    fn record_refused(&self, agent: &Agent) {
        if let Err(error) = self.record_egress(agent, Egress::Deny) {
            tracing::error!(%error, "cannot record a refused connection");
        }
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
/// speaks no protocol that is known here, unless it only pretends to wait.
async fn detect(client: &TcpStream, tls: TlsTreatment, otherwise: Egress) -> Way {
    let mut first = vec![0; PEEK];
    let mut before = 0;
    let looked = tokio::time::timeout(FIRST_BYTES, async {
        loop {
            let n = client.peek(&mut first).await.unwrap_or(0);
            let bytes = first.get(..n).unwrap_or_default();
            match said(bytes) {
                Some(Said::Protocol(protocol)) => return Way::Protocol(protocol),
                Some(Said::Hello(hello)) => return of_tls(&hello, tls, otherwise),
                Some(Said::Malformed) => return Way::Egress(Egress::Deny),
                Some(Said::Other) => return Way::Egress(otherwise),
                None if n == 0 => return Way::Egress(otherwise),
                None => {}
            }
            // The bytes stay in the socket, so it is ready all the time: look again when more may be there.
            let pause = if n > before { 1 } else { 5 };
            before = n;
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
    })
    .await;
    match looked {
        Ok(way) => way,
        // It has begun to say something, and stopped where it could not be told what.
        Err(_) if before > 0 => Way::Egress(Egress::Deny),
        Err(_) => Way::Late(otherwise),
    }
}

/// What is done with a flow that begins with TLS on a port that no protocol is named for.
fn of_tls(hello: &ClientHello, tls: TlsTreatment, otherwise: Egress) -> Way {
    let known = hello.alpn.iter().any(|protocol| protocol == b"postgresql");
    match tls {
        TlsTreatment::Deny => Way::Egress(Egress::Deny),
        TlsTreatment::Passthrough => Way::Tls,
        _ if known => Way::Protocol(Protocol::Postgres),
        // It was to be read, and cannot be.
        TlsTreatment::Intercept => Way::Egress(Egress::Deny),
        TlsTreatment::WhereKnown if otherwise == Egress::Deny => Way::Egress(Egress::Deny),
        TlsTreatment::WhereKnown => Way::Tls,
    }
}

/// Hands the flow to its protocol.
async fn intercept(agent: &Arc<Agent>, flow: Flow, policy: &FlowPolicy, stopping: watch::Receiver<bool>) {
    // For certain: what is opened for a name must not be opened for every address.
    let names = agent.policies.hosts().answered(flow.destination.address.ip());
    let tls = agent.tls.flow(&flow.subject, &flow.destination, names, policy.tls());
    let session = match flow.session(agent, Protocol::Postgres.word()) {
        Ok(session) => session,
        Err(error) => {
            tracing::error!(%error, destination = %flow.destination.address, "a flow is refused: it cannot be recorded");
            let hint = "See the agent's log on this host and `interlock status`.";
            return postgres::turn_away(flow.client, &tls, "53100", &error.to_string(), hint).await;
        }
    };
    let (registered, cut_off) = agent.shipping.sessions().register(session.id());
    let upstream = match TcpStream::connect(flow.destination.address).await {
        Ok(upstream) => upstream,
        Err(error) => {
            let reason = format!("cannot connect to {}: {error}", flow.destination.address);
            session.end(&End {
                reason: EndReason::ConnectFailed,
                detail: &reason,
                client_bytes: 0,
                server_bytes: 0,
            });
            let hint = "The connection was taken by the agent on this host; the server did not answer it.";
            return postgres::turn_away(flow.client, &tls, "08001", &reason, hint).await;
        }
    };
    let Flow { client, subject, destination, entries, known, .. } = flow;
    let live = Arc::new(LiveSubject::new(Arc::clone(&subject)));
    let seat = login::seat(&known, &subject);
    let told = agent.logins.watch(seat, &live);
    let looked = agent.look_for_tracers(&known, seat, &live);
    let keeper = agent.keep_identity(known, &live);
    let credentials = agent.credentials.for_flow(&entries, &destination, agent.policies.hosts());
    let handle = {
        let (agent, live, destination) = (Arc::clone(agent), Arc::clone(&live), destination.clone());
        PolicyHandle::new(agent.policies.generation(), move || {
            Arc::new(agent.policies.current().flow(&entries, &live.current(), &destination))
        })
    };
    let handle = handle.about(live);
    let context = FlowContext {
        client,
        upstream,
        tls,
        subject,
        destination,
        policy: handle,
        credentials,
        recording: session,
        scripts: Arc::clone(&agent.scripts),
        limits: agent.limits,
        approvals: Arc::clone(&agent.approvals),
        stop: Stop::new(stopping, cut_off),
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
    drop((registered, keeper, told, looked));
}

/// Passes TLS on as it is, recorded as not inspected.
async fn pass_tls(agent: &Agent, flow: Flow, stopping: watch::Receiver<bool>) {
    let address = flow.destination.address;
    let session = match flow.session(agent, "tls") {
        Ok(session) => session,
        Err(error) => {
            tracing::error!(%error, destination = %address, "a flow is refused: it cannot be recorded");
            return copy::reset(&flow.client);
        }
    };
    let (registered, cut_off) = agent.shipping.sessions().register(session.id());
    let mut stop = Stop::new(stopping, cut_off);
    let end = |reason, detail: &str, passed: Passed| {
        let Passed { from_client, from_server } = passed;
        session.end(&End { reason, detail, client_bytes: from_client, server_bytes: from_server });
    };
    let upstream = match TcpStream::connect(address).await {
        Ok(upstream) => upstream,
        Err(error) => {
            end(EndReason::ConnectFailed, &error.to_string(), Passed::default());
            return copy::reset(&flow.client);
        }
    };
    tokio::select! {
        ended = tls::pass(flow.client, upstream, &session) => match ended {
            Ok(passed) => end(EndReason::ClientClosed, "", passed),
            Err(error) => {
                let reason = match &error {
                    PassError::NoTls => EndReason::Refused,
                    PassError::Record(_) => EndReason::RecordingFailed,
                    PassError::Io(_) => EndReason::ServerClosed,
                };
                tracing::debug!(%error, destination = %address, "TLS that was passed on ended");
                end(reason, &error.to_string(), Passed::default());
            }
        },
        asked = stop.asked() => match asked {
            SessionError::CutOff(reason) => end(EndReason::CutOff, &reason, Passed::default()),
            _ => end(EndReason::Shutdown, "", Passed::default()),
        },
    }
    drop(registered);
}

/// Lets a flow go its way through the proxy, unseen but counted. With `late` the client has said nothing
/// yet: should it then speak a protocol that is known here, it is cut off, for nobody would read it.
async fn pass(
    agent: &Agent,
    mut flow: Flow,
    verdict: Egress,
    late: bool,
    mut stopping: watch::Receiver<bool>,
) {
    let address = flow.destination.address;
    if verdict == Egress::Record
        && let Err(error) = flow.record_egress(agent, verdict)
    {
        tracing::error!(%error, destination = %address, "a flow is refused: it cannot be recorded");
        return copy::reset(&flow.client);
    }
    let mut upstream = match TcpStream::connect(address).await {
        Ok(upstream) => upstream,
        Err(error) => {
            tracing::debug!(%error, destination = %address, "cannot connect");
            return copy::reset(&flow.client);
        }
    };
    if late {
        let tell = |bytes: &[u8]| said(bytes).map(|said| matches!(said, Said::Other));
        let other = tokio::select! {
            other = copy::server_first(&mut flow.client, &mut upstream, PEEK, FIRST_BYTES, tell) => other,
            _ = stopping.wait_for(|stop| *stop) => return,
        };
        match other {
            Ok(true) => {}
            Ok(false) => {
                tracing::warn!(destination = %address, "a client that waited before it spoke is refused");
                flow.record_refused(agent);
                return copy::reset(&flow.client);
            }
            Err(error) => return tracing::debug!(%error, destination = %address, "a passed connection broke"),
        }
    }
    tokio::select! {
        ended = copy::both_ways(flow.client, upstream) => match ended {
            Ok(copied) => tracing::trace!(?copied, "passed"),
            Err(error) => tracing::debug!(%error, "a passed connection broke"),
        },
        _ = stopping.wait_for(|stop| *stop) => {}
    }
}
