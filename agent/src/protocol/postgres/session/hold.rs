//! Commands that wait for approval.
//!
//! A held message stays where it is, undecided in the client's pipe, and all behind it: nothing of it has
//! reached the server. Once its request is decided it is judged again like any other, so that the newest
//! policies count, and only then goes on by what was decided.

mod ahead;
mod operation;
mod surroundings;

use std::io;
use std::os::fd::AsFd;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::Sleep;

use super::cancel::Cancel;
use super::judge::who;
use super::look::Look;
use super::pipe::Pipe;
use super::refusal::Refusal;
use super::{Core, Phase};
use crate::approval::{
    self, CancelKey, Covered, Desk, DeskError, Estimate, Event, Grant, Outcome, Shape, Shown, Ticket,
    Withdrawal,
};
use crate::identity::Subject;
use crate::policy::{Decision, Destination, Scope, Terms, Verdict};
use crate::protocol::SessionError;
use crate::protocol::postgres::codec::{self, Header};
use crate::protocol::postgres::request::OWN;
use crate::record::{Approval, ApprovalDecided, ApprovalRequested};
use crate::sql::Hidden;
use crate::tls::Stream;

pub(super) use self::operation::Operation;
use self::operation::{not_seen, not_shown};
pub(super) use self::surroundings::Standing;
use self::surroundings::Surroundings;

/// A flow's part in it.
pub(super) struct Holds {
    /// Where what is held is decided on.
    pub(super) desk: Arc<Desk>,
    server: Destination,
    /// What is to be held once all before it is recorded.
    pub(super) to_hold: Option<Box<approval::Request>>,
    /// What is held.
    pub(super) held: Option<Held>,
    /// What may change what texts mean.
    pub(super) surroundings: Surroundings,
    /// The server is asked for the client's time limit before a command is held.
    looks: bool,
    /// It is being asked.
    pub(super) looking: Option<Box<Look>>,
    /// What it said: `None` where there is no limit, or none is known.
    pub(super) looked: Option<Option<Duration>>,
    /// Meanwhile the command was cancelled, or its transaction has failed: there is nothing to ask for any more.
    pub(super) ended: bool,
    /// The server is at work on what came before what is held.
    running: Arc<AtomicBool>,
    /// Something has begun to wait that was not looked at yet.
    pub(super) began: bool,
}

impl Holds {
    /// For a flow to `server` that begins with these parameters.
    pub(super) fn new(desk: Arc<Desk>, server: Destination, parameters: &[(String, String)]) -> Box<Self> {
        let surroundings = Surroundings::new(parameters);
        Box::new(Self {
            desk,
            server,
            to_hold: None,
            held: None,
            surroundings,
            looks: false,
            looking: None,
            looked: None,
            ended: false,
            running: Arc::default(),
            began: false,
        })
    }

    /// The server is asked for the client's time limit.
    pub(super) fn looks(&self) -> bool {
        self.looks
    }

    /// Asks the server for the client's time limit before it holds a command.
    pub(super) fn looking(mut self: Box<Self>) -> Box<Self> {
        self.looks = true;
        self
    }
}

/// A command that waits, or has waited.
pub(super) struct Held {
    state: State,
    digest: [u8; 32],
    terms: Arc<Terms>,
    shape: Option<Shape>,
    /// Who asks, as approvers were shown.
    subject: Arc<Subject>,
    since: Instant,
    /// Who has approved.
    by: Vec<Arc<str>>,
    /// The rule's own words.
    message: String,
    /// Notes that the client has not been sent yet.
    notice: Option<Vec<u8>>,
    remind: Pin<Box<Sleep>>,
    /// Tells when the client goes: its bytes are not read while it waits.
    client: Option<TcpStream>,
    /// When the client's `statement_timeout` is over.
    timeout: Option<Pin<Box<Sleep>>>,
    /// It is withdrawn for that.
    timed_out: bool,
}

enum State {
    Waiting(Ticket),
    Over(approval::Id, Outcome),
    /// It cannot be asked for, or not be recorded.
    Failed(Refusal),
}

/// An approval that a command goes on by.
#[derive(Debug)]
pub(super) struct Approved {
    pub(super) recorded: Approval,
    terms: Arc<Terms>,
}

/// What becomes of an operation that a rule holds.
pub(super) enum Holding {
    /// It waits.
    Wait,
    /// It goes on.
    Pass(Arc<Approved>),
    /// It is refused.
    Refuse(Refusal, Option<Approval>),
}

impl Decision {
    /// The same for an operation that goes on by an approval.
    pub(super) fn approved(&self) -> Self {
        Self { verdict: Verdict::Allow, ..self.clone() }
    }
}

impl Held {
    fn new(request: &approval::Request, state: State, remind: Duration) -> Self {
        Self {
            state,
            digest: request.digest,
            terms: Arc::clone(&request.terms),
            shape: request.shape,
            subject: Arc::clone(&request.subject),
            since: Instant::now(),
            by: Vec::new(),
            message: request.shown.message.clone(),
            notice: None,
            remind: Box::pin(tokio::time::sleep(remind)),
            client: None,
            timeout: None,
            timed_out: false,
        }
    }

    /// Its shape, if an approval can cover that.
    #[cfg(test)]
    pub(super) fn shape(&self) -> Option<Shape> {
        self.shape
    }

    fn rules(&self) -> String {
        let rules: Vec<_> = self.terms.rules().map(|rule| format!("\"{rule}\"")).collect();
        rules.join(", ")
    }

    /// The NoticeResponse that tells the client what it waits for.
    fn tell(&mut self, desk: &Desk) {
        let State::Waiting(ticket) = &self.state else { return };
        let id = ticket.id();
        let left = self.terms.within.saturating_sub(self.since.elapsed());
        let mut message = format!(
            "interlock: this command waits for approval {id} (rule {}): {}, within {}",
            self.rules(),
            self.terms.words(),
            span(left)
        );
        if !self.message.is_empty() {
            message.push_str(&format!(". {}", self.message));
        }
        let mut hint = format!("On this host: interlock approvals approve {id}");
        if let Some(link) = desk.link(id) {
            hint = format!("{link} · {hint}");
        }
        if self.terms.break_glass {
            hint.push_str(&format!(
                "; in an emergency yourself: interlock approvals break-glass {id} --reason …"
            ));
        }
        self.notice = Some(notice(&message, &hint));
    }
}

fn notice(message: &str, hint: &str) -> Vec<u8> {
    let mut out = Vec::new();
    codec::put_message(&mut out, b'N', |out| {
        for (code, text) in
            [(b'S', "NOTICE"), (b'V', "NOTICE"), (b'C', "00000"), (b'M', message), (b'H', hint)]
        {
            out.push(code);
            codec::put_cstr(out, text.as_bytes());
        }
        out.push(0);
    });
    out
}

/// `15 min`, `90 s`.
fn span(time: Duration) -> String {
    match time.as_secs() {
        seconds if seconds >= 120 => format!("{} min", seconds / 60),
        seconds => format!("{seconds} s"),
    }
}

impl Core {
    /// A command waits for approval.
    pub(super) fn waits(&self) -> bool {
        self.holds.looking.is_some()
            || self.holds.held.as_ref().is_some_and(|held| matches!(held.state, State::Waiting(_)))
    }

    /// What becomes of an operation that `decision` holds.
    pub(super) fn hold(&mut self, decision: &Decision, operation: &Operation<'_>) -> Holding {
        let held = self.holds.held.take_if(|held| !matches!(held.state, State::Waiting(_)));
        let Some(terms) = &decision.approval else {
            return Holding::Refuse(Refusal::by_rule(decision), None);
        };
        if operation.asked.incomplete {
            return Holding::Refuse(super::frontend::unjudged_parameters(), None);
        }
        let digest = self.digest(operation);
        if let Some(held) = held {
            let over = held.over(decision);
            match over {
                Holding::Pass(_) if held.digest != digest || *held.terms != **terms => {}
                over => return over,
            }
        }
        if let Some(approved) = &operation.asked.approved
            && *approved.terms == **terms
        {
            let recorded = Approval { earlier: true, ..approved.recorded.clone() };
            return Holding::Pass(Arc::new(Approved { recorded, terms: Arc::clone(terms) }));
        }
        let shape = self.shape(operation);
        if let Some(grant) = self.holds.desk.granted(self.log.session().id(), shape, terms) {
            let scope = match grant.covered {
                Covered::Shape(..) => Scope::Shape.word(),
                Covered::Session(_) => Scope::Session.word(),
            };
            let recorded = Approval {
                request: grant.request.to_string(),
                outcome: "approved",
                by: grant.by.to_vec(),
                scope,
                earlier: true,
                beforehand: false,
            };
            return Holding::Pass(Arc::new(Approved { recorded, terms: Arc::clone(terms) }));
        }
        if let Some(approved) = self.asked_beforehand(operation, terms) {
            return Holding::Pass(approved);
        }
        if self.hidden(operation) == Hidden::Code {
            return Holding::Refuse(not_seen(), None);
        }
        let Some(shown) = self.shown(operation) else { return Holding::Refuse(not_shown(), None) };
        self.holds.to_hold = Some(Box::new(approval::Request {
            subject: Arc::clone(&self.subject),
            server: self.holds.server.address,
            hosts: self.holds.server.hosts.clone(),
            session: self.log.session().id(),
            shown: Shown { message: decision.message.as_deref().unwrap_or_default().to_owned(), ..shown },
            digest,
            terms: Arc::clone(terms),
            shape,
            likeness: self.likeness(operation),
            cancel: self.cancel.as_deref().map(|cancel: &Cancel| CancelKey {
                server: self.holds.server.address,
                key: cancel.key().clone(),
                running: Arc::clone(&self.holds.running),
            }),
            bytes: 0,
        }));
        Holding::Wait
    }

    /// What was held does not need its approval any more: the policies have changed.
    pub(super) fn forget_held(&mut self) {
        self.holds.held.take_if(|held| !matches!(held.state, State::Waiting(_)));
    }

    /// Asks for what is to be held, everything before it being recorded and on its way. Says whether that
    /// is decided already.
    pub(super) fn begin_holding(&mut self, pipe: &mut Pipe) -> bool {
        let Some(request) = self.holds.to_hold.take() else { return false };
        let Some(mut request) = self.look(pipe, request) else { return false };
        let timeout = self.holds.looked.take().flatten();
        if request.terms.estimate && request.shown.estimate.is_none() {
            let why_not =
                "the server could not be asked, for it has run what came before in the pipeline".to_owned();
            request.shown.estimate = Some(Estimate { why_not, ..Estimate::default() });
        }
        let length = Header::read(pipe.undecided()).ok().flatten().map_or(0, Header::total);
        request.bytes = length.saturating_add(OWN);
        let (shown, digest) = (request.shown.clone(), request.digest);
        let (terms, remind) = (Arc::clone(&request.terms), self.holds.desk.remind());
        let mut held = Held::new(&request, State::Failed(unrecorded()), remind);
        held.timeout = timeout.map(|timeout| Box::pin(tokio::time::sleep(timeout)));
        if std::mem::take(&mut self.holds.ended) {
            // The server's own words for it.
            let message = "canceling statement due to user request".to_owned();
            held.state = State::Failed(Refusal::held("57014", message, None, held.rules()));
            self.holds.held = Some(held);
            self.holds.began = true;
            return true;
        }
        self.holds.running.store(self.pending.len() > 0, Ordering::Relaxed);
        match self.holds.desk.ask(*request) {
            Err(error) => held.state = State::Failed(not_asked(&error, &held.rules())),
            Ok(ticket) => {
                let id = ticket.id().to_string();
                let asked = ApprovalRequested { request: &id, shown: &shown, digest: &digest, terms: &terms };
                match self.log.session().approval_requested(&asked) {
                    Ok(()) => {
                        tracing::info!(
                            request = id,
                            user = self.subject.user,
                            "a command waits for approval"
                        );
                        self.holds.desk.recorded(ticket.id());
                        held.state = State::Waiting(ticket);
                        held.tell(&self.holds.desk);
                    }
                    Err(error) => {
                        tracing::error!(%error, "a command is refused because its request cannot be recorded");
                    }
                }
            }
        }
        let waits = matches!(held.state, State::Waiting(_));
        self.holds.held = Some(held);
        self.holds.began = true;
        if waits && self.pending.len() > 0 {
            // So that what came before it is answered while it waits.
            codec_flush(pipe);
        }
        !waits
    }

    /// Looks at what has become of the held command. Ready when it is decided.
    pub(super) fn poll_held(&mut self, cx: &mut Context<'_>, client: &Stream) -> Poll<()> {
        let Some(held) = &mut self.holds.held else { return Poll::Pending };
        let State::Waiting(waits) = &mut held.state else { return Poll::Pending };
        let mut ticket = waits;
        self.holds.running.store(self.pending.len() > 0, Ordering::Relaxed);
        if held.timeout.as_mut().is_some_and(|timeout| timeout.as_mut().poll(cx).is_ready()) {
            held.timeout = None;
            held.timed_out = true;
            ticket.withdraw(because("the client's statement_timeout is over"));
        }
        if self.pending.skips() {
            ticket.withdraw(because("an earlier command of the pipeline failed"));
        } else if gone(cx, client, &mut held.client) {
            ticket.withdraw(because("the client has gone"));
        }
        while let Poll::Ready(event) = ticket.poll(cx) {
            let id = ticket.id();
            if self.take_event(id, event) {
                return Poll::Ready(());
            }
            let Some(Held { state: State::Waiting(waits), .. }) = &mut self.holds.held else {
                return Poll::Ready(());
            };
            ticket = waits;
        }
        let Some(held) = &mut self.holds.held else { return Poll::Pending };
        if held.remind.as_mut().poll(cx).is_ready() {
            held.tell(&self.holds.desk);
            let next = tokio::time::Instant::now() + self.holds.desk.remind();
            held.remind.as_mut().reset(next);
            // Registers with the timer.
            if held.remind.as_mut().poll(cx).is_ready() {
                cx.waker().wake_by_ref();
            }
        }
        Poll::Pending
    }

    /// Takes note of what has come of a request. Says whether it is decided.
    fn take_event(&mut self, id: approval::Id, event: Event) -> bool {
        let Some(held) = &mut self.holds.held else { return true };
        match event {
            Event::Vote(vote) => {
                held.by.push(Arc::clone(&vote.by.name));
                let recorded = self.log.session().approval_voted(&id.to_string(), &vote);
                if let Err(error) = &recorded {
                    tracing::error!(%error, "a command is refused because an approval cannot be recorded");
                    held.state = State::Failed(unrecorded());
                }
                recorded.is_err()
            }
            Event::Over(outcome) => {
                self.over(id, outcome);
                true
            }
        }
    }

    /// Records what was decided, and puts in force what covers more than the one command.
    fn over(&mut self, id: approval::Id, outcome: Outcome) {
        let Some(held) = &mut self.holds.held else { return };
        let request = id.to_string();
        let waited = held.since.elapsed();
        let decided = ApprovalDecided { request: &request, outcome: &outcome, waited };
        if let Err(error) = self.log.session().approval_decided(&decided) {
            tracing::error!(%error, request, "how a request for approval ended cannot be recorded");
            if outcome.passes() {
                held.state = State::Failed(unrecorded());
                return;
            }
        }
        match &outcome {
            Outcome::BrokenGlass { by, reason } => tracing::warn!(
                request,
                user = &*by.name,
                login_user = &*by.login,
                reason = &**reason,
                "glass was broken: a held command goes on without approval and needs review"
            ),
            outcome => tracing::info!(request, outcome = outcome.word(), "a request for approval has ended"),
        }
        if let Outcome::Approved { scope, seconds } = &outcome {
            let covered = match (scope, held.shape) {
                (Scope::Shape, Some(shape)) => {
                    Some(Covered::Shape(shape, Instant::now() + Duration::from_secs(*seconds)))
                }
                (Scope::Session, _) if who(&held.subject) == who(&self.subject) => {
                    Some(Covered::Session(self.log.session().id()))
                }
                _ => None,
            };
            if let Some(covered) = covered {
                let by = held.by.clone().into();
                self.holds.desk.grant(Grant { request: id, by, terms: Arc::clone(&held.terms), covered });
            }
        }
        held.state = State::Over(id, outcome);
    }

    /// What the client is to be told, once that fits between the server's messages.
    pub(super) fn take_notice(&mut self) -> Option<Vec<u8>> {
        if self.from_server.left > 0 || self.phase != Phase::Ready {
            return None;
        }
        self.holds.held.as_mut()?.notice.take()
    }

    /// The flow ends: what waits is withdrawn.
    pub(super) fn end_holding(&mut self, error: Option<&SessionError>) {
        if let Some(Held { state: State::Waiting(ticket), .. }) = self.holds.held.as_mut() {
            ticket.withdraw(match error {
                Some(error) => Withdrawal::Because(error.to_string().into()),
                None => because("the server has closed the connection"),
            });
            let id = ticket.id();
            let events: Vec<Event> = std::iter::from_fn(|| ticket.take()).collect();
            for event in events {
                if self.take_event(id, event) {
                    break;
                }
            }
        }
        self.holds.desk.session_ended(self.log.session().id());
    }

    /// Before the server's last words: that they came while the agent held a command back.
    pub(super) fn explain_end(&mut self) {
        let Some(held) = &self.holds.held else { return };
        let State::Waiting(ticket) = &held.state else { return };
        let message = format!(
            "interlock: the server ended the connection while the agent held a command back for approval {} \
             (rule {}), for {} so far",
            ticket.id(),
            held.rules(),
            span(held.since.elapsed())
        );
        let hint = "The server saw an idle connection: look at idle_in_transaction_session_timeout and \
                    idle_session_timeout, or ask for approval outside of a transaction.";
        self.scratch.extend_from_slice(&notice(&message, hint));
    }
}

impl Held {
    /// What was decided.
    fn over(&self, decision: &Decision) -> Holding {
        let (id, outcome) = match &self.state {
            State::Over(id, outcome) => (id, outcome),
            State::Failed(refusal) => return Holding::Refuse(refusal.clone(), None),
            State::Waiting(_) => return Holding::Wait,
        };
        let recorded = |by: Vec<Arc<str>>, scope| Approval {
            request: id.to_string(),
            outcome: outcome.word(),
            by,
            scope,
            earlier: false,
            beforehand: false,
        };
        let pass = |recorded| Holding::Pass(Arc::new(Approved { recorded, terms: Arc::clone(&self.terms) }));
        let rule = || decision.rule.as_deref().unwrap_or("interlock").to_owned();
        let because = |code, message: String, hint: Option<&str>| Refusal::held(code, message, hint, rule());
        match outcome {
            Outcome::Approved { scope, .. } => pass(recorded(self.by.clone(), scope.word())),
            Outcome::BrokenGlass { by, .. } => pass(recorded(vec![Arc::clone(&by.name)], Scope::Once.word())),
            Outcome::Denied { by, reason } => {
                let message = format!(
                    "interlock: approval {id} (rule {}) was denied by {}: {reason}",
                    self.rules(),
                    by.name
                );
                let recorded = recorded(vec![Arc::clone(&by.name)], "");
                Holding::Refuse(because("42501", message, None), Some(recorded))
            }
            Outcome::Expired => {
                let message = format!(
                    "interlock: nobody approved {id} (rule {}) within {}",
                    self.rules(),
                    span(self.terms.within)
                );
                let hint = format!("Who may approve: {}.", self.terms.words());
                Holding::Refuse(because("42501", message, Some(&hint)), Some(recorded(Vec::new(), "")))
            }
            Outcome::Withdrawn(Withdrawal::Cancelled) => {
                // The server's own words for it.
                let message = "canceling statement due to user request".to_owned();
                Holding::Refuse(because("57014", message, None), Some(recorded(Vec::new(), "")))
            }
            Outcome::Withdrawn(_) if self.timed_out => {
                let message = "canceling statement due to statement timeout".to_owned();
                Holding::Refuse(because("57014", message, None), Some(recorded(Vec::new(), "")))
            }
            Outcome::Withdrawn(Withdrawal::Because(reason)) => {
                let message =
                    format!("interlock: approval {id} (rule {}) was withdrawn: {reason}", self.rules());
                Holding::Refuse(because("57014", message, None), Some(recorded(Vec::new(), "")))
            }
        }
    }
}

fn because(reason: &str) -> Withdrawal {
    Withdrawal::Because(reason.into())
}

/// Flush: the server sends what it has.
fn codec_flush(pipe: &mut Pipe) {
    let mut message = Vec::new();
    codec::put_message(&mut message, b'H', |_| {});
    pipe.insert(&message);
}

fn unrecorded() -> Refusal {
    Refusal::own(
        "53100",
        "refused: its approval could not be recorded",
        "The agent's log on this host says why; `interlock status` shows the space in use.",
    )
}

fn not_asked(error: &DeskError, rules: &str) -> Refusal {
    let code = if matches!(error, DeskError::Closed) { "42501" } else { "53400" };
    let reason = format!("refused by rule {rules}, which asks for approval: {error}");
    Refusal::own(code, &reason, "See `interlock approvals list` and docs/approval.md.")
}

/// The client has closed its connection, or its end of it.
fn gone(cx: &mut Context<'_>, client: &Stream, watched: &mut Option<TcpStream>) -> bool {
    if watched.is_none() {
        let Some(tcp) = client.tcp() else { return false };
        // Apart from the stream's own registration, which tells of bytes that are not to be read now.
        let watch = tcp.as_fd().try_clone_to_owned().map(std::net::TcpStream::from);
        *watched = watch.and_then(TcpStream::from_std).ok();
    }
    let Some(watched) = watched else { return false };
    while watched.poll_read_ready(cx).is_ready() {
        let ready = pin!(watched.ready(Interest::READABLE)).poll(cx);
        if matches!(ready, Poll::Ready(Ok(ready)) if ready.is_read_closed()) {
            return true;
        }
        // There are bytes: wait for what comes next.
        let _ = watched.try_io(Interest::READABLE, || Err::<(), _>(io::ErrorKind::WouldBlock.into()));
    }
    false
}
