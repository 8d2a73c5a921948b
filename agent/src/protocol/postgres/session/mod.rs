//! One flow from its first byte to its last.
//!
//! `login` opens it; then [`Relay`] moves bytes both ways in one task. [`Core`] reads what passes and
//! decides: `frontend` what the client sends, `backend` what the server answers, with `pending` as the
//! mirror of what the server still has to answer.

mod backend;
mod broker;
mod cancel;
mod catalog;
mod copy;
mod encrypt;
mod estimate;
mod frontend;
mod hold;
mod judge;
mod lexing;
mod log;
mod login;
mod look;
mod made;
mod masking;
mod notice;
mod pending;
mod pipe;
mod refusal;
mod run;
mod scram;
mod statements;

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::BytesMut;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use self::broker::Brokered;
use self::cancel::Cancel;
use self::catalog::{Catalog, Changes, Reading};
use self::frontend::LastDescribed;
use self::hold::Holds;
use self::lexing::Lexing;
use self::log::Log;
use self::made::Made;
use self::masking::{RowPlan, Unread};
use self::pending::Pending;
use self::pipe::{Edit, Pipe};
use self::refusal::Refusal;
use self::statements::Names;
use super::codec::CodecError;
use crate::identity::Subject;
use crate::mask::Fired;
use crate::mask::copy::CopyMasker;
use crate::protocol::{FlowContext, Limits, PolicyHandle, Rules, SessionError, Summary};
use crate::record::EndReason;
use crate::sql;
use crate::tls::{Leg, Stream};

pub use login::turn_away;
pub(super) use masking::{recorded_parameter, secret_parameter};

/// How long a client that was told why it is cut off may take to read it.
const LINGER: Duration = Duration::from_secs(2);

/// How often a silent connection is looked at.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// Serves one flow to its end.
///
/// # Errors
/// The flow had to be ended before client or server ended it. The client has been told by then, as far
/// as it could be.
pub async fn serve(context: FlowContext) -> Result<Summary, SessionError> {
    let _ = context.client.set_nodelay(true);
    let _ = context.upstream.set_nodelay(true);
    // A held command keeps both waiting without a byte.
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE);
    let _ = SockRef::from(&context.client).set_tcp_keepalive(&keepalive);
    let _ = SockRef::from(&context.upstream).set_tcp_keepalive(&keepalive);
    let mut stop = context.stop.clone();
    let (tls, server) = (context.tls.clone(), context.destination.address);
    // The opening has buffers of its own, which a flow does not keep.
    let Some(mut relay) = Box::pin(login::open(context)).await? else { return Ok(Summary::default()) };
    let ended = tokio::select! {
        biased;
        ended = poll_fn(|cx| relay.poll(cx)) => ended,
        error = stop.asked() => Err(error),
    };
    relay.core.finish(ended.as_ref().err());
    if let Err(error) = ended {
        if matches!(error, SessionError::Refused { .. }) && relay.client.is_encrypted() {
            tls.remember_refusal();
        }
        // A cut-off session is not to finish what it is at. The server closes it only after that.
        if matches!(error, SessionError::CutOff(_))
            && relay.core.pending.busy()
            && let Some(cancel) = &relay.core.cancel
        {
            cancel.send(&tls, server).await;
        }
        relay.part(&error).await;
        return Err(error);
    }
    Ok(relay.core.summary)
}

/// Both sockets and both directions.
struct Relay {
    client: Stream,
    upstream: Stream,
    up: Pipe,
    down: Pipe,
    core: Core,
}

impl Relay {
    /// Moves what can be moved. Ready at the end of the flow.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SessionError>> {
        loop {
            let mut moved = self.core.poll_held(cx, &self.client).is_ready();
            if let Some(notice) = self.core.take_notice() {
                self.down.insert(&notice);
                moved = true;
            }
            if self.up.wants_input()
                && self.core.wants_client(self.up.undecided().len())
                && let Poll::Ready(read) = self.up.poll_fill(cx, &mut self.client, self.core.limits.statement)
            {
                self.core.summary.from_client += read.map_err(SessionError::Client)? as u64;
                self.core.client_left = self.up.eof;
                moved = true;
            }
            if !self.up.undecided().is_empty() {
                self.core.client(&mut self.up)?;
                // What has begun to wait is looked at, so that it wakes this task.
                moved |= std::mem::take(&mut self.core.holds.began);
            }
            if self.up.wants_drain() {
                match self.up.poll_drain(cx, &mut self.upstream) {
                    Poll::Ready(Ok(())) => moved = true,
                    // The server may have said why before it went; what it said is still to be read.
                    Poll::Ready(Err(_)) => self.up = Pipe::closed(),
                    Poll::Pending => {}
                }
            }
            if self.down.wants_input()
                && let Poll::Ready(read) = self.down.poll_fill(cx, &mut self.upstream, self.core.limits.row)
            {
                // A reset ends the flow as an end of file does; what came before it is passed on.
                match read {
                    Ok(read) => self.core.summary.from_server += read as u64,
                    Err(_) => self.down.eof = true,
                }
                moved = true;
            }
            if !self.down.undecided().is_empty() {
                self.core.server(&mut self.down)?;
            }
            if self.down.wants_drain()
                && let Poll::Ready(written) = self.down.poll_drain(cx, &mut self.client)
            {
                written.map_err(SessionError::Client)?;
                moved = true;
            }
            if self.down.eof && self.down.outgoing() == 0 {
                // Where the server was cut off without a goodbye the client gets none either.
                ready!(self.client.poll_end(cx, !self.upstream.cut_short())).ok();
                return Poll::Ready(Ok(()));
            }
            if self.up.eof
                && !self.up.shut
                && self.up.outgoing() == 0
                && !self.core.holding(&self.up)
                && self.upstream.poll_end(cx, !self.client.cut_short()).is_ready()
            {
                self.up.shut = true;
            }
            if !moved {
                return Poll::Pending;
            }
        }
    }

    /// Tells the client why the flow ends, and gives it the time to read it.
    async fn part(mut self, error: &SessionError) {
        drop(self.upstream);
        let (code, reason, hint) = match error {
            SessionError::Client(_) => return,
            SessionError::Stopping => {
                ("57P01", "the agent on this host is stopping".to_owned(), "Try again.")
            }
            SessionError::CutOff(_) => ("57P01", error.to_string(), "Ask whoever reviews sessions here."),
            SessionError::Recording(_) => {
                ("53100", error.to_string(), "See the agent's log on this host and `interlock status`.")
            }
            SessionError::Refused { code, reason, hint } => (*code, reason.clone(), hint.as_str()),
            _ => ("08P01", error.to_string(), "The agent's log on this host has the details."),
        };
        self.down.discard_undecided();
        self.down.insert(&refusal::fatal(code, &reason, hint));
        let _ = tokio::time::timeout(LINGER, async {
            let _ = poll_fn(|cx| self.down.poll_drain(cx, &mut self.client)).await;
            linger(&mut self.client).await;
        })
        .await;
    }
}

/// Ends a connection so that what was sent last arrives: closing with unread input would reset it.
async fn linger(stream: &mut Stream) {
    if stream.shutdown().await.is_err() {
        return;
    }
    let mut sink = BytesMut::with_capacity(4096);
    while matches!(stream.read_buf(&mut sink).await, Ok(read) if read > 0) {
        sink.clear();
    }
}

/// Where a flow stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Until the first ReadyForQuery.
    Login,
    /// After it.
    Ready,
    /// The client has said goodbye.
    Over,
}

/// The rest of a message whose front has been decided on.
#[derive(Debug, Clone, Copy, Default)]
struct Rest {
    /// Bytes still to come.
    left: usize,
    /// They are thrown away.
    discard: bool,
}

/// All that a flow knows, but for its sockets and buffers.
struct Core {
    subject: Arc<Subject>,
    policy: PolicyHandle,
    flow: Arc<dyn Rules>,
    generation: u64,
    limits: Limits,
    user: Arc<str>,
    database: Arc<str>,
    replication: bool,
    phase: Phase,
    /// Transaction status of the last ReadyForQuery: `I`, `T` or `E`.
    status: u8,
    pending: Pending,
    /// Syncs taken from the client.
    epoch: u64,
    names: Names,
    lexing: Lexing,
    log: Log,
    from_client: Rest,
    from_server: Rest,
    edits: Vec<Edit>,
    scratch: Vec<u8>,
    summary: Summary,
    scripts: Arc<sql::Cache>,
    /// Why every command is refused: the recording does not take them.
    refuse_all: Option<Box<Refusal>>,
    /// Masked columns, once known.
    catalog: Option<Catalog>,
    /// It has to be read again before it is next relied on.
    catalog_stale: bool,
    /// It could not be read before the commands that wait now: they are judged without it.
    catalog_tried: bool,
    /// It is being read.
    reading: Option<Box<Reading>>,
    /// What the session made since.
    made: Made,
    unread: Option<Unread>,
    /// What flows change of that database's catalog.
    changes: Changes,
    plans: Vec<Arc<RowPlan>>,
    described: Option<LastDescribed>,
    /// Code whose doings with masked columns are not seen was sent in this transaction.
    opaque: bool,
    /// The server's process for this session.
    process: i32,
    /// Stops what it is at.
    cancel: Option<Box<Cancel>>,
    /// What is done to the rows that are coming in.
    current: Option<Arc<RowPlan>>,
    copying: Option<Box<CopyMasker>>,
    /// CopyData messages from the client, and the bytes in them, since the last COPY ended.
    copied_in: (u64, u64),
    fired: Fired,
    /// One masked value.
    cell: Vec<u8>,
    /// The log-in, until it is recorded.
    login: Option<Box<LogIn>>,
    login_failed: bool,
    /// The client has closed its side.
    client_left: bool,
    sasl: scram::Sasl,
    /// What concerns commands that wait for approval.
    holds: Box<Holds>,
}

/// What is recorded of a log-in. An open flow does not keep it.
struct LogIn {
    method: &'static str,
    /// How the agent logged in for the client, if it did.
    brokered: Option<Box<Brokered>>,
    /// Start-up parameters, masked.
    parameters: Box<[(String, String)]>,
    server_version: String,
    legs: Legs,
}

/// How the legs are encrypted; forgotten once it is recorded.
#[derive(Debug, Default)]
struct Legs {
    client: Option<Box<Leg>>,
    server: Option<Box<Leg>>,
}

/// What a flow's opening has settled.
struct Opened {
    subject: Arc<Subject>,
    policy: PolicyHandle,
    generation: u64,
    flow: Arc<dyn Rules>,
    limits: Limits,
    scripts: Arc<sql::Cache>,
    log: Log,
    user: Arc<str>,
    database: Arc<str>,
    replication: bool,
    lexing: Lexing,
    /// Start-up parameters, masked.
    parameters: Box<[(String, String)]>,
    /// Bytes that came so far.
    received: u64,
    legs: Legs,
    brokered: Option<Box<Brokered>>,
    holds: Box<Holds>,
}

impl Core {
    fn new(opened: Opened) -> Self {
        Self {
            subject: opened.subject,
            policy: opened.policy,
            flow: opened.flow,
            generation: opened.generation,
            limits: opened.limits,
            user: opened.user,
            changes: Changes::of(&opened.database),
            database: opened.database,
            replication: opened.replication,
            phase: Phase::Login,
            status: judge::IDLE,
            pending: Pending::default(),
            epoch: 0,
            names: Names::default(),
            lexing: opened.lexing,
            log: opened.log,
            from_client: Rest::default(),
            from_server: Rest::default(),
            edits: Vec::new(),
            scratch: Vec::new(),
            summary: Summary { from_client: opened.received, ..Summary::default() },
            scripts: opened.scripts,
            refuse_all: None,
            catalog: None,
            catalog_stale: false,
            catalog_tried: false,
            reading: None,
            made: Made::default(),
            unread: None,
            plans: Vec::new(),
            described: None,
            opaque: false,
            process: 0,
            cancel: None,
            current: None,
            copying: None,
            copied_in: (0, 0),
            fired: Fired::default(),
            cell: Vec::new(),
            sasl: scram::Sasl::new(opened.legs.server.is_some()),
            login: Some(Box::new(LogIn {
                method: opened.brokered.as_ref().map_or("trust", |brokered| brokered.method),
                brokered: opened.brokered,
                parameters: opened.parameters,
                server_version: String::new(),
                legs: opened.legs,
            })),
            login_failed: false,
            client_left: false,
            holds: opened.holds,
        }
    }

    /// More of the client's bytes are wanted, with `undecided` of them waiting.
    fn wants_client(&self, undecided: usize) -> bool {
        match self.phase {
            // What comes early waits for the login's end, and the rest in the kernel.
            Phase::Login => undecided < startup_hold(),
            Phase::Ready => undecided == 0 || !self.stalled(),
            Phase::Over => true,
        }
    }

    /// Whole messages of the client wait for the server.
    fn stalled(&self) -> bool {
        self.pending.len() >= frontend::MOST_PENDING || self.reading.is_some() || self.waits()
    }

    /// Empties the lists of edits, and gives them back if they have grown large.
    fn reset_scratch(&mut self) {
        const KEPT: usize = 4 << 10;
        self.edits.clear();
        self.scratch.clear();
        if self.scratch.capacity() > KEPT {
            self.scratch = Vec::new();
        }
        if self.edits.capacity() > 64 {
            self.edits = Vec::new();
        }
        if self.cell.capacity() > KEPT {
            self.cell = Vec::new();
        }
    }

    /// The client's undecided bytes may still be decided on.
    fn holding(&self, up: &Pipe) -> bool {
        !up.undecided().is_empty()
            && self.phase != Phase::Over
            && (self.phase == Phase::Login || self.stalled())
    }

    /// Records the flow's end.
    fn finish(&mut self, error: Option<&SessionError>) {
        self.end_holding(error);
        let (client, server) = (self.summary.from_client, self.summary.from_server);
        match error {
            Some(error) => self.log.failed(error, client, server),
            None => {
                let reason = match self.phase {
                    Phase::Login if self.login_failed => EndReason::LoginFailed,
                    Phase::Over => EndReason::ClientClosed,
                    _ if self.client_left => EndReason::ClientClosed,
                    _ => EndReason::ServerClosed,
                };
                self.log.end(reason, "", client, server);
            }
        }
    }
}

/// How much of what a client sends before the login is through is kept.
const fn startup_hold() -> usize {
    64 << 10
}

impl From<CodecError> for SessionError {
    fn from(error: CodecError) -> Self {
        Self::Frontend(error.to_string())
    }
}

#[cfg(test)]
mod tests;
