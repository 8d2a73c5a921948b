//! A flow's opening: requests for encryption, cancel requests, the start-up message.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::judge;
use super::lexing::Lexing;
use super::log::Log;
use super::pending::Pending;
use super::pipe::Pipe;
use super::refusal::{self, Refusal};
use super::statements::Names;
use super::{Core, LINGER, Phase, Relay, Rest, linger};
use crate::operation::Operation;
use crate::protocol::postgres::operation;
use crate::protocol::postgres::startup::{self, Packet, StartupError};
use crate::protocol::{FlowContext, SessionError, Summary};

/// The server's own default for `authentication_timeout`.
const OPENING: Duration = Duration::from_secs(60);
/// How often a client may ask for encryption before it must go on without.
const MOST_REQUESTS: usize = 4;

/// Reads the opening and judges it. `None` when the flow is over with it: a cancel request, or a client
/// that left.
pub(super) async fn open(mut context: FlowContext) -> Result<Option<Relay>, SessionError> {
    let mut input = BytesMut::with_capacity(1024);
    match tokio::time::timeout(OPENING, negotiate(&mut context, &mut input)).await {
        Err(_) => Err(SessionError::Frontend("no start-up message within 60 s".to_owned())),
        Ok(Err(error)) => {
            let own = match &error {
                SessionError::Client(_) | SessionError::Server(_) => None,
                other => Some(refusal::fatal("08P01", &other.to_string(), "")),
            };
            if let Some(message) = own {
                say(&mut context, &message).await;
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

enum Opening {
    Closed,
    Cancel(usize),
    Startup(usize),
}

async fn negotiate(context: &mut FlowContext, input: &mut BytesMut) -> Result<Opening, SessionError> {
    let mut requests = 0;
    loop {
        let (consumed, opening) = match startup::read(input).map_err(frontend)? {
            Some((Packet::Ssl | Packet::GssEnc, length)) => (length, None),
            Some((Packet::Cancel { .. }, length)) => return Ok(Opening::Cancel(length)),
            Some((Packet::Startup(_), length)) => (0, Some(Opening::Startup(length))),
            None => {
                if context.client.read_buf(input).await.map_err(SessionError::Client)? == 0 {
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
        context.client.write_all(b"N").await.map_err(SessionError::Client)?;
    }
}

#[expect(clippy::needless_pass_by_value, reason = "used in map_err")]
fn frontend(error: StartupError) -> SessionError {
    SessionError::Frontend(error.to_string())
}

/// Sends the client a last message.
async fn say(context: &mut FlowContext, message: &[u8]) {
    let _ = tokio::time::timeout(LINGER, async {
        if context.client.write_all(message).await.is_ok() {
            linger(&mut context.client).await;
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
    let mut log = Log::open(&context, "", "");
    let operation = operation::cancel(process);
    let decision = context.policy.load().decide(&operation, &context.subject);
    log.command(&operation, &decision, &[]);
    log.flush()?;
    if !decision.passes() {
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
    log.finish(None);
    Ok(())
}

async fn start(
    mut context: FlowContext,
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
    let mut log = Log::open(&context, &user, &database);
    let generation = context.policy.generation();
    let flow = context.policy.load();

    if replication {
        let operation: Operation = operation::replication(&user, &database);
        let decision = flow.decide(&operation, &context.subject);
        log.command(&operation, &decision, &[]);
        log.flush()?;
        if !decision.passes() {
            let mut message = BytesMut::new();
            Refusal::by_rule(&decision).put_fatal(&mut message);
            say(&mut context, &message).await;
            log.finish(None);
            return Ok(None);
        }
    }
    let early = input.split_off(length);
    let mut up = Pipe::with(input);
    up.release(length, &[], &[]);
    if !early.is_empty() {
        up.append(&early);
    }
    let core = Core {
        subject: Arc::clone(&context.subject),
        policy: context.policy.clone(),
        flow,
        generation,
        limits: context.limits,
        user,
        database,
        replication,
        phase: Phase::Login,
        status: judge::IDLE,
        pending: Pending::default(),
        names: Names::default(),
        lexing,
        log,
        from_client: Rest::default(),
        from_server: Rest::default(),
        edits: Vec::new(),
        scratch: BytesMut::new(),
        summary: Summary::default(),
    };
    let FlowContext { client, upstream, .. } = context;
    Ok(Some(Relay { client, upstream, up, down: Pipe::default(), core }))
}
