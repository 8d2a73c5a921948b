//! A flow's opening: requests for encryption, cancel requests, the start-up message.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::broker::{self, Asked, Begun, Channels};
use super::lexing::Lexing;
use super::log::{Log, Note, lossy};
use super::refusal::{self, Refusal};
use super::{Core, LINGER, Opened, Relay, linger};
use crate::operation::Operation;
use crate::policy::Decision;
use crate::protocol::postgres::operation;
use crate::protocol::postgres::startup::{self, Packet, StartupError};
use crate::protocol::{FlowContext, SessionError};
use crate::record::{EndReason, Step};
use crate::sql;

/// The server's own default for `authentication_timeout`.
pub(super) const OPENING: Duration = Duration::from_secs(60);
/// How often a client may ask for encryption before it must go on without.
const MOST_REQUESTS: usize = 4;

/// Reads the opening and judges it. `None` when the flow is over with it: a cancel request, or a client
/// that left.
pub(super) async fn open(mut context: FlowContext) -> Result<Option<Relay>, SessionError> {
    let mut input = BytesMut::with_capacity(1024);
    match tokio::time::timeout(OPENING, negotiate(&mut context.client, &mut input)).await {
        Err(_) => Err(SessionError::Frontend("no start-up message within 60 s".to_owned())),
        Ok(Err(error)) => {
            let own = match &error {
                SessionError::Client(_) | SessionError::Server(_) => None,
                other => Some(refusal::fatal("08P01", &other.to_string(), "")),
            };
            if let Some(message) = own {
                say(&mut context.client, &message).await;
            }
            Err(error)
        }
        Ok(Ok(Opening::Closed)) => Ok(None),
        Ok(Ok(Opening::Cancel(length))) => {
            cancel(context, input.split_to(length)).await?;
            Ok(None)
        }
        Ok(Ok(Opening::Startup(length))) => start(context, input, length).await,
    }
}

/// Opens a flow only to tell the client why it is not served: `code` is the SQLSTATE. A cancel request is
/// closed without a word, as servers do.
pub async fn turn_away(mut client: TcpStream, code: &'static str, reason: &str, hint: &str) {
    let mut input = BytesMut::with_capacity(1024);
    let opening = tokio::time::timeout(OPENING, negotiate(&mut client, &mut input)).await;
    if matches!(opening, Ok(Ok(Opening::Startup(_)))) {
        say(&mut client, &refusal::fatal(code, reason, hint)).await;
    }
}

enum Opening {
    Closed,
    Cancel(usize),
    Startup(usize),
}

async fn negotiate(client: &mut TcpStream, input: &mut BytesMut) -> Result<Opening, SessionError> {
    let mut requests = 0;
    loop {
        let (consumed, opening) = match startup::read(input).map_err(frontend)? {
            Some((Packet::Ssl | Packet::GssEnc, length)) => (length, None),
            Some((Packet::Cancel { .. }, length)) => return Ok(Opening::Cancel(length)),
            Some((Packet::Startup(_), length)) => (0, Some(Opening::Startup(length))),
            None => {
                if client.read_buf(input).await.map_err(SessionError::Client)? == 0 {
                    return Ok(Opening::Closed);
                }
                continue;
            }
        };
        if let Some(opening) = opening {
            return Ok(opening);
        }
        requests += 1;
        if requests > MOST_REQUESTS {
            return Err(SessionError::Frontend("too many requests for encryption".to_owned()));
        }
        input.advance(consumed);
        client.write_all(b"N").await.map_err(SessionError::Client)?;
    }
}

fn frontend(error: StartupError) -> SessionError {
    SessionError::Frontend(error.to_string())
}

/// Sends the client a last message.
async fn say(client: &mut TcpStream, message: &[u8]) {
    let _ = tokio::time::timeout(LINGER, async {
        if client.write_all(message).await.is_ok() {
            linger(client).await;
        }
    })
    .await;
}

/// Records a cancel request and hands it on as it is. The server answers by closing.
async fn cancel(mut context: FlowContext, packet: BytesMut) -> Result<(), SessionError> {
    let process = match startup::read(&packet) {
        Ok(Some((Packet::Cancel { process }, _))) => process,
        _ => 0,
    };
    let operation = operation::cancel(process);
    let decision = Arc::new(context.policy.load().decide(&operation, &context.subject));
    let mut log = Log::new(context.recording);
    note(&mut log, Step::Cancel, &operation, &decision)?;
    if !decision.passes() {
        log.end(EndReason::Refused, "", packet.len() as u64, 0);
        return Ok(());
    }
    context.upstream.write_all(&packet).await.map_err(SessionError::Server)?;
    let mut rest = BytesMut::with_capacity(64);
    let _ = tokio::time::timeout(OPENING, async {
        while matches!(context.upstream.read_buf(&mut rest).await, Ok(read) if read > 0) {
            if context.client.write_all(&rest).await.is_err() {
                break;
            }
            rest.clear();
        }
    })
    .await;
    let _ = context.client.shutdown().await;
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

async fn start(
    context: FlowContext,
    mut input: BytesMut,
    length: usize,
) -> Result<Option<Relay>, SessionError> {
    let Ok(Some((Packet::Startup(startup), _))) = startup::read(&input) else { return Ok(None) };
    let text = |value: Option<&[u8]>| value.map(|value| String::from_utf8_lossy(value).into_owned());
    let user: Arc<str> = text(startup.get("user")).unwrap_or_default().into();
    let database = text(startup.get("database")).filter(|name| !name.is_empty());
    let database: Arc<str> = database.map_or_else(|| Arc::clone(&user), Into::into);
    let replication = startup.replication();
    let lexing = Lexing::at_start(&startup);
    let generation = context.policy.generation();
    let flow = context.policy.load();
    let shown = |text: &[u8]| flow.record_masks().mask_text(&sql::redact_text(&lossy(text))).into_owned();
    let parameters = startup.parameters().map(|(name, value)| (shown(name), shown(value))).collect();

    let FlowContext { mut client, upstream, recording, subject, policy, limits, scripts, .. } = context;
    let (credentials, address) = (context.credentials, context.destination.address);
    let mut log = Log::new(recording);
    if let Some(reason) = flow.refuses_plaintext() {
        log.end(EndReason::Refused, &reason, length as u64, 0);
        let hint = "The agent does not speak TLS to clients yet; the policy's `plaintext` is what refuses.";
        say(&mut client, &refusal::fatal("28000", &reason, hint)).await;
        return Ok(None);
    }
    if replication {
        let operation = operation::replication(&user, &database);
        let decision = Arc::new(flow.decide(&operation, &subject));
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
    let reconnect = || TcpStream::connect(address);
    let begun =
        broker::begin(&mut client, early, upstream, &credentials, asked, Channels::default(), reconnect)
            .await;
    let Begun { upstream, up, down, brokered } = match begun {
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
    let core = Core::new(Opened {
        subject,
        policy,
        generation,
        flow,
        limits,
        scripts,
        log,
        user,
        database,
        replication,
        lexing,
        parameters,
        received,
        brokered,
    });
    Ok(Some(Relay { client, upstream, up, down, core }))
}
