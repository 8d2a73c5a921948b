//! A flow's opening: encryption (`encrypt`), cancel requests, the start-up message.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::broker::{self, Asked, Begun, Channels};
use super::encrypt::{self, Opening, Purpose};
use super::hold;
use super::lexing::Lexing;
use super::log::{Log, Note, lossy};
use super::refusal::{self, Refusal};
use super::{Core, LINGER, Legs, Opened, Relay, linger};
use crate::approval::Desk;
use crate::credential::FlowCredentials;
use crate::identity::Subject;
use crate::operation::Operation;
use crate::policy::{Decision, Destination};
use crate::protocol::postgres::operation;
use crate::protocol::postgres::startup::{self, Packet};
use crate::protocol::{FlowContext, Limits, PolicyHandle, SessionError, Stop};
use crate::record::{EndReason, Session, Step};
use crate::sql;
use crate::tls::{self, FlowTls, Leg, Stream, Verify};

/// The server's own default for `authentication_timeout`.
pub(super) const OPENING: Duration = Duration::from_secs(60);

/// What a flow's opening works with, but for its connections.
struct Flow {
    subject: Arc<Subject>,
    policy: PolicyHandle,
    recording: Session,
    limits: Limits,
    scripts: Arc<sql::Cache>,
    server: std::net::SocketAddr,
    destination: Destination,
    tls: FlowTls,
    credentials: FlowCredentials,
    approvals: Arc<Desk>,
    stop: Stop,
}

/// Reads the opening and judges it. `None` when the flow is over with it: a cancel request, TLS that was
/// passed on, or a client that left.
pub(super) async fn open(context: FlowContext) -> Result<Option<Relay>, SessionError> {
    let FlowContext {
        client,
        upstream,
        tls,
        credentials,
        subject,
        destination,
        policy,
        recording,
        scripts,
        limits,
        approvals,
        stop,
    } = context;
    let server = destination.address;
    let flow = Flow {
        subject,
        policy,
        recording,
        limits,
        scripts,
        server,
        destination,
        tls,
        credentials,
        approvals,
        stop,
    };
    let mut opening = Opening::new(client, Some(upstream));
    let negotiated = match tokio::time::timeout(OPENING, opening.negotiate(&flow.tls)).await {
        Ok(negotiated) => negotiated,
        Err(_) => Err(SessionError::Frontend("no start-up message within 60 s".to_owned())),
    };
    match negotiated {
        Ok(Purpose::Nothing) => {
            Log::new(flow.recording).end(EndReason::ClientClosed, "", 0, 0);
            Ok(None)
        }
        Ok(Purpose::Cancel(length)) => {
            cancel(flow, opening, length).await?;
            Ok(None)
        }
        Ok(Purpose::Startup(length)) => start(flow, opening, length).await,
        Ok(Purpose::Pass) => {
            pass(flow, opening).await?;
            Ok(None)
        }
        Err(error) => {
            Log::new(flow.recording).failed(&error, opening.input.len() as u64, 0);
            let own = match &error {
                SessionError::Client(_) | SessionError::Server(_) => None,
                SessionError::Refused { code, reason, hint } => Some(refusal::fatal(code, reason, hint)),
                other => Some(refusal::fatal("08P01", &other.to_string(), "")),
            };
            if let Some(message) = own {
                say(&mut opening.client, &message).await;
            }
            Err(error)
        }
    }
}

/// Opens a flow only to tell the client why it is not served: `code` is the SQLSTATE. A cancel request is
/// closed without a word, as servers do.
pub async fn turn_away(client: TcpStream, tls: &FlowTls, code: &'static str, reason: &str, hint: &str) {
    let mut opening = Opening::new(client, None);
    let purpose = tokio::time::timeout(OPENING, opening.negotiate(tls)).await;
    if matches!(purpose, Ok(Ok(Purpose::Startup(_)))) {
        say(&mut opening.client, &refusal::fatal(code, reason, hint)).await;
    }
}

/// Sends the client a last message.
async fn say(client: &mut Stream, message: &[u8]) {
    let _ = tokio::time::timeout(LINGER, async {
        if client.write_all(message).await.is_ok() && client.flush().await.is_ok() {
            linger(client).await;
        }
    })
    .await;
}

/// Passes TLS on as it is.
async fn pass(mut flow: Flow, opening: Opening) -> Result<(), SessionError> {
    let subject = flow.policy.subject().unwrap_or_else(|| Arc::clone(&flow.subject));
    if let Some(reason) = flow.policy.load().refuses_subject(&subject) {
        Log::new(flow.recording).end(EndReason::Refused, &reason, 0, 0);
        return Ok(());
    }
    let Some((client, upstream)) = encrypt::plain(opening) else { return Ok(()) };
    let ended = tokio::select! {
        ended = tls::pass(client, upstream, &flow.recording) => ended,
        error = flow.stop.asked() => {
            Log::new(flow.recording).failed(&error, 0, 0);
            return Err(error);
        }
    };
    let log = Log::new(flow.recording);
    match ended {
        Ok(passed) => {
            log.end(EndReason::ClientClosed, "", passed.from_client, passed.from_server);
            Ok(())
        }
        Err(error) => {
            let error = match error {
                tls::PassError::NoTls => SessionError::Frontend(error.to_string()),
                tls::PassError::Record(error) => SessionError::Recording(error.to_string()),
                tls::PassError::Io(error) => SessionError::Client(error),
            };
            log.failed(&error, 0, 0);
            Err(error)
        }
    }
}

/// Records a cancel request and hands it on as it is. The server answers by closing.
async fn cancel(flow: Flow, opening: Opening, length: usize) -> Result<(), SessionError> {
    let encrypted = opening.is_encrypted();
    let Opening { mut client, upstream, mut input, .. } = opening;
    let packet = input.split_to(length);
    let process = match startup::read(&packet) {
        Ok(Some((Packet::Cancel { process }, _))) => process,
        _ => 0,
    };
    let operation = operation::cancel(process);
    let rules = flow.policy.load();
    let subject = flow.policy.subject().unwrap_or(flow.subject);
    let decision = Arc::new(rules.decide(&operation, &subject));
    let mut log = Log::new(flow.recording);
    note(&mut log, Step::Cancel, &operation, &decision)?;
    let plaintext = rules.refuses_plaintext().filter(|_| !encrypted);
    if !decision.passes() || plaintext.is_some() {
        log.end(EndReason::Refused, &plaintext.unwrap_or_default(), packet.len() as u64, 0);
        return Ok(());
    }
    // Behind the packet's length and code stands what the server gave the session it is about.
    if packet.get(8..).is_some_and(|key| flow.approvals.cancel(flow.server, key)) {
        log.end(
            EndReason::ClientClosed,
            "a command that waited for approval was withdrawn",
            packet.len() as u64,
            0,
        );
        return Ok(());
    }
    let Some(mut upstream) = upstream else { return Ok(()) };
    upstream.write_all(&packet).await.map_err(SessionError::Server)?;
    upstream.flush().await.map_err(SessionError::Server)?;
    let mut rest = BytesMut::with_capacity(64);
    let _ = tokio::time::timeout(OPENING, async {
        while matches!(upstream.read_buf(&mut rest).await, Ok(read) if read > 0) {
            if client.write_all(&rest).await.is_err() {
                break;
            }
            rest.clear();
        }
    })
    .await;
    let _ = client.shutdown().await;
    log.end(EndReason::ServerClosed, "", packet.len() as u64, 0);
    Ok(())
}

/// Records a judged operation at once.
fn note(
    log: &mut Log,
    step: Step,
    operation: &Operation,
    decision: &Arc<Decision>,
) -> Result<(), SessionError> {
    let text = Arc::clone(&operation.text);
    log.command(Note { operation: Some(operation.clone()), ..Note::new(step, text, Arc::clone(decision)) });
    log.flush().map_err(|error| SessionError::Recording(error.to_string()))
}

async fn start(flow: Flow, opening: Opening, length: usize) -> Result<Option<Relay>, SessionError> {
    let encrypted = opening.is_encrypted();
    let Opening { mut client, upstream, mut input, .. } = opening;
    let Some(mut upstream) = upstream else { return Ok(None) };
    let Ok(Some((Packet::Startup(startup), _))) = startup::read(&input) else { return Ok(None) };
    let text = |value: Option<&[u8]>| value.map(|value| String::from_utf8_lossy(value).into_owned());
    let user: Arc<str> = text(startup.get("user")).unwrap_or_default().into();
    let database = text(startup.get("database")).filter(|name| !name.is_empty());
    let database: Arc<str> = database.map_or_else(|| Arc::clone(&user), Into::into);
    let replication = startup.replication();
    let lexing = Lexing::at_start(&startup);
    let Flow {
        subject,
        policy,
        recording,
        limits,
        scripts,
        server,
        destination,
        tls,
        credentials,
        approvals,
        ..
    } = flow;
    let generation = policy.generation();
    let rules = policy.load();
    let subject = policy.subject().unwrap_or(subject);
    let shown = |text: &[u8]| rules.record_masks().mask_text(&sql::redact_text(&lossy(text))).into_owned();
    let parameters: Box<[(String, String)]> =
        startup.parameters().map(|(name, value)| (shown(name), shown(value))).collect();
    let holds = hold::Holds::new(approvals, destination, &parameters).looking();

    let mut log = Log::new(recording);
    if let Some(reason) = rules.refuses_plaintext().filter(|_| !encrypted) {
        let error = encrypt::plaintext_refused(reason, server);
        log.failed(&error, length as u64, 0);
        if let SessionError::Refused { code, reason, hint } = &error {
            say(&mut client, &refusal::fatal(code, reason, hint)).await;
        }
        return Ok(None);
    }
    if let Some(reason) = rules.refuses_subject(&subject) {
        let hint =
            "See docs/identity.md; `interlock policy explain` shows what a policy asks for.".to_owned();
        let error = SessionError::Refused { code: "28000", reason, hint };
        log.failed(&error, length as u64, 0);
        if let SessionError::Refused { code, reason, hint } = &error {
            say(&mut client, &refusal::fatal(code, reason, hint)).await;
        }
        return Ok(None);
    }
    if replication {
        let operation = operation::replication(&user, &database);
        let mut decision = rules.decide(&operation, &subject);
        if decision.approval.is_some() {
            // Its commands are held, each by itself: a client that logs in cannot be told that it waits.
            decision = decision.approved();
        }
        let decision = Arc::new(decision);
        if let Err(error) = note(&mut log, Step::Replication, &operation, &decision) {
            log.failed(&error, length as u64, 0);
            say(&mut client, &refusal::fatal("53100", &error.to_string(), "")).await;
            return Err(error);
        }
        if !decision.passes() {
            let mut message = Vec::new();
            Refusal::by_rule(&decision).put_fatal(&mut message);
            log.end(EndReason::Refused, "", length as u64, 0);
            say(&mut client, &message).await;
            return Ok(None);
        }
    }
    let received = input.len() as u64;
    let early = input.split_off(length);
    let asked = Asked { startup: &input, user: &user, database: &database };
    let legs = Legs { client: client.take_leg(), server: upstream.take_leg() };
    let bound = |leg: &Option<Box<Leg>>| leg.as_ref()?.certificate.as_ref()?.end_point.clone();
    let (client_bound, server_bound) = (bound(&legs.client), bound(&legs.server));
    let channels = Channels {
        client: client_bound.as_deref(),
        server: server_bound.as_deref(),
        // By a name of the configuration's: the script's own would be whoever the script says.
        server_verified: legs
            .server
            .as_ref()
            .and_then(|leg| leg.verified.as_ref())
            .is_some_and(|verified| verified.how != Verify::None && verified.by_host),
    };
    let reconnect = || encrypt::again(&tls, server, legs.server.as_deref());
    let begun = broker::begin(&mut client, early, upstream, &credentials, asked, channels, reconnect).await;
    let Begun { mut upstream, up, down, brokered } = match begun {
        Ok(begun) => begun,
        Err(refused) => {
            let detail = shown(refused.detail.as_bytes());
            log.notice(b"FATAL", refused.code.as_bytes(), &detail);
            log.end(refused.reason, &detail, received, 0);
            if let Some(message) = &refused.message {
                say(&mut client, message).await;
            }
            return if refused.by_client { Ok(None) } else { Err(SessionError::Login(refused.detail)) };
        }
    };
    // Of another connection, if the first was refused.
    let server_leg = upstream.take_leg().or(legs.server);
    let legs = Legs { client: legs.client, server: server_leg };
    let core = Core::new(Opened {
        subject,
        policy,
        generation,
        flow: rules,
        limits,
        scripts,
        log,
        user,
        database,
        replication,
        lexing,
        parameters,
        received,
        legs,
        brokered,
        holds,
    });
    Ok(Some(Relay { client, upstream, up, down, core }))
}
