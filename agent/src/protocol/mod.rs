//! Wire protocols: each folder decodes one, in the same shape (`codec`, `session`, `operation`).
//!
//! A protocol gets a [`FlowContext`] and runs the flow to its end. It knows nothing of policy files and
//! recordings' formats: it makes an operation of each thing the client asks, has it decided and
//! recorded, and forwards or refuses it.

pub mod postgres;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::net::TcpStream;
use tokio::sync::watch;

use crate::approval::Desk;
use crate::credential::FlowCredentials;
use crate::identity::{LiveSubject, Subject};
use crate::mask::MaskSet;
use crate::operation::Operation;
use crate::policy::{Decision, Destination, FlowPolicy};
use crate::record::Session;
use crate::sql;
use crate::tls::FlowTls;

/// What a flow is served with.
#[derive(Debug)]
pub struct FlowContext {
    /// The client's redirected connection.
    pub client: TcpStream,
    /// A connection to where the client wanted to go.
    pub upstream: TcpStream,
    /// TLS on both of them.
    pub tls: FlowTls,
    /// Who is behind the flow.
    pub subject: Arc<Subject>,
    /// Where the client wanted to go.
    pub destination: Destination,
    /// The rules and masks, as of now and as they change.
    pub policy: PolicyHandle,
    /// What the agent logs in with for the client, if it does.
    pub credentials: FlowCredentials,
    /// The flow's recording, begun.
    pub recording: Session,
    /// Statements that were read before, by any flow.
    pub scripts: Arc<sql::Cache>,
    /// Bounds on what is held in memory.
    pub limits: Limits,
    /// Where what is held is decided on.
    pub approvals: Arc<Desk>,
    /// Ends the flow from outside.
    pub stop: Stop,
}

/// What ends a flow although neither client nor server does.
#[derive(Debug, Clone)]
pub struct Stop {
    shutdown: watch::Receiver<bool>,
    cut_off: watch::Receiver<Option<Arc<str>>>,
}

// === impl Stop ===

impl Stop {
    /// `shutdown` becomes `true` when the agent stops; `cut_off` gets a reason when a reviewer ends the
    /// session.
    pub fn new(shutdown: watch::Receiver<bool>, cut_off: watch::Receiver<Option<Arc<str>>>) -> Self {
        Self { shutdown, cut_off }
    }

    /// Waits until the flow is to end, and gives why.
    pub async fn asked(&mut self) -> SessionError {
        tokio::select! {
            biased;
            reason = cut_off(&mut self.cut_off) => SessionError::CutOff(reason),
            () = stopping(&mut self.shutdown) => SessionError::Stopping,
        }
    }
}

async fn cut_off(reasons: &mut watch::Receiver<Option<Arc<str>>>) -> Arc<str> {
    let reason = reasons.wait_for(Option::is_some).await.ok().and_then(|reason| reason.clone());
    match reason {
        Some(reason) => reason,
        // Whoever could end the flow has gone without doing so.
        None => std::future::pending().await,
    }
}

async fn stopping(shutdown: &mut watch::Receiver<bool>) {
    if shutdown.wait_for(|stop| *stop).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// What a protocol asks of the policies: a verdict on each operation, and what to mask.
pub trait Rules: Send + Sync {
    /// Decides on one operation.
    fn decide(&self, operation: &Operation, subject: &Subject) -> Decision;

    /// Decides on a statement that is judged again once its parameters are known.
    fn decide_unbound(&self, operation: &Operation, subject: &Subject) -> Decision {
        self.decide(operation, subject)
    }

    /// The masks that apply to what the client gets.
    fn masks(&self) -> &Arc<MaskSet>;

    /// The masks that apply to what is recorded: at least those that apply to what the client gets.
    fn record_masks(&self) -> &Arc<MaskSet> {
        self.masks()
    }

    /// A rule looks at parameters.
    fn depends_on_params(&self) -> bool {
        false
    }

    /// An operation of this script gets the same decision, whatever its parameters and the time.
    fn is_static(&self, _script: &sql::Script) -> bool {
        false
    }

    /// Some rule has operations wait for an approval.
    fn can_hold(&self) -> bool {
        false
    }

    /// Why connections that are not encrypted are refused, if they are.
    fn refuses_plaintext(&self) -> Option<String> {
        None
    }

    /// Why connections of this subject are refused as such, if they are.
    fn refuses_subject(&self, _subject: &Subject) -> Option<String> {
        None
    }
}

impl Rules for FlowPolicy {
    fn decide(&self, operation: &Operation, subject: &Subject) -> Decision {
        Self::decide(self, operation, subject)
    }

    fn decide_unbound(&self, operation: &Operation, subject: &Subject) -> Decision {
        if self.depends_on_params() {
            Self::decide_unbound(self, operation, subject)
        } else {
            Self::decide(self, operation, subject)
        }
    }

    fn masks(&self) -> &Arc<MaskSet> {
        Self::masks(self)
    }

    fn record_masks(&self) -> &Arc<MaskSet> {
        Self::record_masks(self)
    }

    fn depends_on_params(&self) -> bool {
        Self::depends_on_params(self)
    }

    fn is_static(&self, script: &sql::Script) -> bool {
        self.is_static_for(script)
    }

    fn can_hold(&self) -> bool {
        Self::can_hold(self)
    }

    fn refuses_plaintext(&self) -> Option<String> {
        Self::refuses_plaintext(self)
    }

    fn refuses_subject(&self, subject: &Subject) -> Option<String> {
        Self::refuses_subject(self, subject)
    }
}

type LoadPolicy = dyn Fn() -> Arc<dyn Rules> + Send + Sync;

/// A running flow's view of the policies: asking whether they changed costs one atomic load.
#[derive(Clone)]
pub struct PolicyHandle {
    generation: Arc<AtomicU64>,
    load: Arc<LoadPolicy>,
    /// Who stands behind the flow, where that can change.
    subject: Option<Arc<LiveSubject>>,
}

impl PolicyHandle {
    /// `generation` is counted up after each reload; `load` narrows the newest policies to the flow.
    pub fn new(
        generation: Arc<AtomicU64>,
        load: impl Fn() -> Arc<dyn Rules> + Send + Sync + 'static,
    ) -> Self {
        Self { generation, load: Arc::new(load), subject: None }
    }

    /// A policy that never changes.
    pub fn fixed(policy: Arc<dyn Rules>) -> Self {
        Self::new(Arc::default(), move || Arc::clone(&policy))
    }

    /// With who stands behind the flow: when that changes, [`PolicyHandle::generation`] does.
    #[must_use]
    pub fn about(self, subject: Arc<LiveSubject>) -> Self {
        Self { subject: Some(subject), ..self }
    }

    /// Which policies are in force, for whom. Read it before [`PolicyHandle::load`] and
    /// [`PolicyHandle::subject`]. Both that it is made of only grow, so that it changes when either does.
    pub fn generation(&self) -> u64 {
        let subject = self.subject.as_ref().map_or(0, |subject| subject.generation());
        self.generation.load(Ordering::Acquire).wrapping_add(subject)
    }

    /// Who stands behind the flow now, where that can change.
    pub fn subject(&self) -> Option<Arc<Subject>> {
        self.subject.as_ref().map(|subject| subject.current())
    }

    /// The flow's rules and masks now.
    pub fn load(&self) -> Arc<dyn Rules> {
        (self.load)()
    }
}

impl fmt::Debug for PolicyHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PolicyHandle").field("generation", &self.generation()).finish_non_exhaustive()
    }
}

/// Bounds on what one flow holds in memory, in bytes unless named otherwise. What is larger is refused
/// or streamed, as each says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The longest statement text that is judged; a longer one is refused.
    pub statement: usize,
    /// How much of a statement's parameters is decoded and recorded; the rest is forwarded unseen.
    pub parameters: usize,
    /// The longest row that is masked; a longer one ends the flow.
    pub row: usize,
    /// Statements, portals and cursors that are remembered, in number; the next one is refused.
    pub prepared: usize,
    /// The text of all statements that are remembered; the next one is refused.
    pub prepared_text: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            statement: 16 << 20,
            parameters: 1 << 20,
            row: 64 << 20,
            prepared: 10_000,
            prepared_text: 64 << 20,
        }
    }
}

/// How a flow went.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Summary {
    /// Commands that were judged.
    pub commands: u64,
    /// Of these, how many were refused.
    pub refused: u64,
    /// Bytes from the client.
    pub from_client: u64,
    /// Bytes from the server.
    pub from_server: u64,
}

/// Why a flow was ended before client or server ended it.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The client's connection broke.
    #[error("connection to the client: {0}")]
    Client(#[source] std::io::Error),
    /// The server's connection broke.
    #[error("connection to the server: {0}")]
    Server(#[source] std::io::Error),
    /// The client sent what cannot be followed, or what is not allowed.
    #[error("client: {0}")]
    Frontend(String),
    /// The server sent what cannot be followed.
    #[error("server: {0}")]
    Backend(String),
    /// The flow is not to be served.
    #[error("{reason}")]
    Refused {
        /// SQLSTATE, or its like in the protocol.
        code: &'static str,
        /// Why, as the client is told.
        reason: String,
        /// What to do about it.
        hint: String,
    },
    /// The agent could not log in for the client.
    #[error("{0}")]
    Login(String),
    /// A command could not be recorded and so was not forwarded.
    #[error("the recording failed: {0}")]
    Recording(String),
    /// The agent is stopping.
    #[error("the agent is stopping")]
    Stopping,
    /// A reviewer has ended the session, with this reason.
    #[error("a reviewer has ended this session: {0}")]
    CutOff(Arc<str>),
}
