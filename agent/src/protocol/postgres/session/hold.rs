//! Commands that wait for approval.
//!
//! A held message stays where it is, undecided in the client's pipe, and all behind it: nothing of it has
//! reached the server. Once its request is decided it is judged again like any other, so that the newest
//! policies count, and only then goes on by what was decided.

use std::io;
use std::os::fd::AsFd;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::Sleep;

use super::cancel::Cancel;
use super::judge::Asked;
use super::pipe::Pipe;
use super::refusal::Refusal;
use super::statements::Prepared;
use super::{Core, Phase};
use crate::approval::{
    self, CancelKey, Covered, DeskError, Does, Event, Grant, Outcome, Shape, Shown, Ticket, Withdrawal,
};
use crate::policy::{Decision, Scope, Terms, Verdict};
use crate::protocol::SessionError;
use crate::protocol::postgres::codec::{self, Header};
use crate::record::{Approval, ApprovalDecided, ApprovalRequested, Step};
use crate::sql::{Class, Kind, Script, Statement};
use crate::tls::Stream;

/// Bytes of a text that approvers are shown; of each text that it runs by name; of each parameter, and of all.
const TEXT: usize = 16 << 10;
const RUN: usize = 4 << 10;
const PARAM: usize = 1 << 10;
const PARAMS: usize = 16 << 10;
/// Texts, statements, and entries of a list that they are shown.
const RUNS: usize = 8;
const STATEMENTS: usize = 20;
const LIST: usize = 50;

/// A command that waits, or has waited.
pub(super) struct Held {
    state: State,
    digest: [u8; 32],
    terms: Arc<Terms>,
    shape: Option<Shape>,
    since: Instant,
    /// Who has approved.
    by: Vec<Arc<str>>,
    /// Notes that the client has not been sent yet.
    notice: Option<Vec<u8>>,
    remind: Pin<Box<Sleep>>,
    /// Tells when the client goes: its bytes are not read while it waits.
    client: Option<TcpStream>,
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

/// What is held.
pub(super) struct Operation<'a> {
    pub(super) step: Step,
    /// What may run: candidates; none where it is no SQL text.
    pub(super) statements: &'a [Arc<Prepared>],
    /// What it does.
    pub(super) script: &'a Script,
    /// The text, masked, where there are no candidates.
    pub(super) text: &'a str,
    /// Parameters, masked.
    pub(super) params: &'a [Option<String>],
    pub(super) asked: &'a Asked<'a>,
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
            since: Instant::now(),
            by: Vec::new(),
            notice: None,
            remind: Box::pin(tokio::time::sleep(remind)),
            client: None,
        }
    }

    fn rules(&self) -> String {
        let rules: Vec<_> = self.terms.rules().map(|rule| format!("\"{rule}\"")).collect();
        rules.join(", ")
    }

    /// The NoticeResponse that tells the client what it waits for.
    fn tell(&mut self) {
        let State::Waiting(ticket) = &self.state else { return };
        let id = ticket.id();
        let left = self.terms.within.saturating_sub(self.since.elapsed());
        let message = format!(
            "interlock: this command waits for approval {id} (rule {}): {}, within {}",
            self.rules(),
            self.terms.words(),
            span(left)
        );
        let mut hint = format!("On this host: interlock approvals approve {id}");
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
        self.held.as_ref().is_some_and(|held| matches!(held.state, State::Waiting(_)))
    }

    /// What becomes of an operation that `decision` holds.
    pub(super) fn hold(&mut self, decision: &Decision, operation: &Operation<'_>) -> Holding {
        let held = self.held.take_if(|held| !matches!(held.state, State::Waiting(_)));
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
        if let Some(grant) = self.desk.granted(self.log.session().id(), shape, terms) {
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
            };
            return Holding::Pass(Arc::new(Approved { recorded, terms: Arc::clone(terms) }));
        }
        self.to_hold = Some(Box::new(approval::Request {
            subject: Arc::clone(&self.subject),
            server: self.server.address,
            hosts: self.server.hosts.clone(),
            session: self.log.session().id(),
            shown: self.shown(operation),
            digest,
            terms: Arc::clone(terms),
            shape,
            likeness: self.likeness(operation),
            cancel: self
                .cancel
                .as_deref()
                .map(|cancel: &Cancel| CancelKey { server: self.server.address, key: cancel.key().clone() }),
            bytes: 0,
        }));
        Holding::Wait
    }

    /// What was held does not need its approval any more: the policies have changed.
    pub(super) fn forget_held(&mut self) {
        self.held.take_if(|held| !matches!(held.state, State::Waiting(_)));
    }

    /// Asks for what is to be held, everything before it being recorded and on its way. Says whether that
    /// is decided already.
    pub(super) fn begin_holding(&mut self, pipe: &mut Pipe) -> bool {
        let Some(mut request) = self.to_hold.take() else { return false };
        let length = Header::read(pipe.undecided()).ok().flatten().map_or(0, Header::total);
        request.bytes = length.saturating_add(TEXT + PARAMS + RUN * RUNS);
        let (shown, digest) = (request.shown.clone(), request.digest);
        let (terms, remind) = (Arc::clone(&request.terms), self.desk.remind());
        let mut held = Held::new(&request, State::Failed(unrecorded()), remind);
        match self.desk.ask(*request) {
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
                        held.state = State::Waiting(ticket);
                        held.tell();
                    }
                    Err(error) => {
                        tracing::error!(%error, "a command is refused because its request cannot be recorded");
                    }
                }
            }
        }
        let waits = matches!(held.state, State::Waiting(_));
        self.held = Some(Box::new(held));
        if waits && self.pending.len() > 0 {
            // So that what came before it is answered while it waits.
            codec_flush(pipe);
        }
        !waits
    }

    /// Looks at what has become of the held command. Ready when it is decided.
    pub(super) fn poll_held(&mut self, cx: &mut Context<'_>, client: &Stream) -> Poll<()> {
        let Some(held) = &mut self.held else { return Poll::Pending };
        let State::Waiting(ticket) = &mut held.state else { return Poll::Pending };
        if self.pending.skips() {
            ticket.withdraw(because("an earlier command of the pipeline failed"));
        } else if gone(cx, client, &mut held.client) {
            ticket.withdraw(because("the client has gone"));
        }
        while let Poll::Ready(event) = ticket.poll(cx) {
            let id = ticket.id();
            match event {
                Event::Vote(vote) => {
                    held.by.push(Arc::clone(&vote.by.name));
                    if let Err(error) = self.log.session().approval_voted(&id.to_string(), &vote) {
                        tracing::error!(%error, "a command is refused because an approval cannot be recorded");
                        held.state = State::Failed(unrecorded());
                        return Poll::Ready(());
                    }
                }
                Event::Over(outcome) => {
                    self.over(id, outcome);
                    return Poll::Ready(());
                }
            }
        }
        if held.remind.as_mut().poll(cx).is_ready() {
            held.tell();
            let next = tokio::time::Instant::now() + self.desk.remind();
            held.remind.as_mut().reset(next);
            // Registers with the timer.
            if held.remind.as_mut().poll(cx).is_ready() {
                cx.waker().wake_by_ref();
            }
        }
        Poll::Pending
    }

    /// Records what was decided, and puts in force what covers more than the one command.
    fn over(&mut self, id: approval::Id, outcome: Outcome) {
        let Some(held) = &mut self.held else { return };
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
                (Scope::Session, _) => Some(Covered::Session(self.log.session().id())),
                _ => None,
            };
            if let Some(covered) = covered {
                let by = held.by.clone().into();
                self.desk.grant(Grant { request: id, by, terms: Arc::clone(&held.terms), covered });
            }
        }
        held.state = State::Over(id, outcome);
    }

    /// What the client is to be told, once that fits between the server's messages.
    pub(super) fn take_notice(&mut self) -> Option<Vec<u8>> {
        if self.from_server.left > 0 || self.phase != Phase::Ready {
            return None;
        }
        self.held.as_mut()?.notice.take()
    }

    /// The flow ends: what waits is withdrawn.
    pub(super) fn end_holding(&mut self, error: Option<&SessionError>) {
        if let Some(Held { state: State::Waiting(ticket), .. }) = self.held.as_deref_mut() {
            ticket.withdraw(match error {
                Some(error) => Withdrawal::Because(error.to_string().into()),
                None => because("the server has closed the connection"),
            });
            let id = ticket.id();
            let over = std::iter::from_fn(|| ticket.take()).find_map(|event| match event {
                Event::Over(outcome) => Some(outcome),
                Event::Vote(_) => None,
            });
            if let Some(outcome) = over {
                self.over(id, outcome);
            }
        }
        self.desk.session_ended(self.log.session().id());
    }

    /// Before the server's last words: that they came while the agent held a command back.
    pub(super) fn explain_end(&mut self) {
        let Some(held) = &self.held else { return };
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

    /// A settings, a role or the catalog may be others from here on, so that the same text may mean
    /// something else: approvals of a shape do not reach over that.
    pub(super) fn note_surroundings(&mut self, prepared: &Prepared) {
        let alters = |statement: &Statement| {
            !statement.settings.is_empty()
                || statement.dynamic
                || statement.classes.contains(&Class::Ddl)
                || statement.classes.contains(&Class::Privilege)
                || statement.kinds.contains(&Kind::Unparsed)
                || statement.functions.iter().any(|function| function.name == "set_config")
        };
        if !self.flow.can_hold() || !self.effective(prepared).statements.iter().any(alters) {
            return;
        }
        let mut hash = Sha256::new();
        hash.update(self.surroundings);
        hash.update(prepared.text.as_bytes());
        if prepared.text.contains('$') {
            // What its parameters were is not looked at here.
            hash.update(self.log.session().id().to_string());
        }
        self.surroundings = hash.finalize().into();
    }

    /// The whole operation with all that belongs to it.
    fn digest(&self, operation: &Operation<'_>) -> [u8; 32] {
        let mut hash = Parts::new("interlock approval 1");
        hash.text(step_word(operation.step));
        self.who_and_where(&mut hash);
        hash.number(self.subject.pid.into());
        hash.number(self.subject.start_time_ns);
        hash.text(&self.log.session().id().to_string());
        hash.number(self.log.next().0);
        hash.number(operation.statements.len() as u64);
        for prepared in operation.statements {
            hash.text(&prepared.text);
        }
        for text in self.runs(operation) {
            hash.text(&text.text);
        }
        hash.bytes(operation.asked.statement);
        hash.bytes(operation.asked.portal);
        hash.number(operation.asked.of.map_or(0, |of| of.0));
        hash.number(operation.asked.params.len() as u64);
        for param in &operation.asked.params {
            hash.number(u64::from(param.is_some()));
            hash.text(param.as_deref().unwrap_or_default());
        }
        hash.bytes(operation.asked.message);
        hash.finish()
    }

    fn who_and_where(&self, hash: &mut Parts) {
        let subject = &self.subject;
        hash.number(subject.uid.into());
        for id in [subject.login_uid, subject.login_session] {
            hash.number(id.map_or(u64::MAX, u64::from));
        }
        hash.text(&subject.exe.to_string_lossy());
        hash.text(&subject.exe_sha256);
        for script in [&subject.script, &subject.script_claimed] {
            hash.text(&script.as_ref().map(|path| path.to_string_lossy()).unwrap_or_default());
        }
        hash.text(&subject.unit);
        hash.text(&subject.container);
        hash.text(&self.server.address.to_string());
        hash.text(&self.database);
        hash.text(&self.user);
    }

    /// What commands have in common that an approval of this one's shape covers. `None` where its text
    /// alone does not say what it does.
    fn shape(&self, operation: &Operation<'_>) -> Option<Shape> {
        let [prepared] = operation.statements else { return None };
        if !matches!(operation.step, Step::Query | Step::Bind | Step::Execute) {
            return None;
        }
        let plain = |statement: &Statement| {
            statement.executes.is_empty()
                && statement.cursor.is_none()
                && !statement.dynamic
                && !statement.kinds.contains(&Kind::Unparsed)
                && !statement.kinds.contains(&Kind::Fetch)
        };
        if !operation.script.statements.iter().all(plain) {
            return None;
        }
        let mut hash = Parts::new("interlock shape 1");
        self.who_and_where(&mut hash);
        hash.text(&self.scripts.template(&prepared.text));
        hash.bytes(&self.surroundings);
        Some(Shape(hash.finish()))
    }

    fn likeness(&self, operation: &Operation<'_>) -> [u8; 32] {
        let mut hash = Parts::new("interlock likeness 1");
        hash.text(&self.server.address.to_string());
        hash.text(&self.database);
        match operation.statements {
            [] => hash.text(operation.text),
            all => all.iter().for_each(|prepared| hash.text(&self.scripts.template(&prepared.text))),
        }
        hash.finish()
    }

    /// What it runs by name.
    fn runs<'s>(&'s self, operation: &'s Operation<'_>) -> impl Iterator<Item = &'s Arc<Prepared>> {
        let names = operation.statements.iter().flat_map(|prepared| &prepared.script.statements);
        let names = names.flat_map(|statement| &statement.executes);
        names.flat_map(|name| self.names.candidates(name.as_bytes())).take(256)
    }

    /// An argument of a function call as approvers may see it.
    pub(super) fn recorded_argument(&self, value: Option<&[u8]>) -> Option<String> {
        let value = String::from_utf8_lossy(value?);
        Some(super::masking::recorded_parameter(self.flow.record_masks(), &value))
    }

    /// What approvers see of it.
    fn shown(&self, operation: &Operation<'_>) -> Shown {
        let texts: Vec<&str> = match operation.statements {
            [] => vec![operation.text],
            all => all.iter().map(|prepared| &*prepared.recorded).collect(),
        };
        let whole = texts.join("\n-- or, as it cannot be told which is prepared under this name:\n");
        let text = clipped(&whole, TEXT).to_owned();
        let mut room = PARAMS;
        let mut params = Vec::new();
        for param in operation.params {
            if room == 0 {
                break;
            }
            let shown = param.as_deref().map(|value| {
                let shown = clipped(value, PARAM.min(room));
                let omitted = value.len() - shown.len();
                if omitted == 0 { shown.to_owned() } else { format!("{shown}… ({omitted} more bytes)") }
            });
            room = room.saturating_sub(shown.as_ref().map_or(1, |shown| shown.len().max(1)));
            params.push(shown);
        }
        Shown {
            step: step_word(operation.step),
            text_omitted_bytes: whole.len() - text.len(),
            text,
            runs: self
                .runs(operation)
                .take(RUNS)
                .map(|prepared| clipped(&prepared.recorded, RUN).to_owned())
                .collect(),
            params_omitted: operation.params.len() - params.len(),
            params,
            statements: operation.script.statements.iter().take(STATEMENTS).map(does).collect(),
            statements_omitted: operation.script.statements.len().saturating_sub(STATEMENTS),
            db_user: Arc::clone(&self.user),
            database: Arc::clone(&self.database),
            transaction: match self.status {
                b'T' => "open",
                b'E' => "failed",
                _ => "none",
            },
            command: self.log.next().0,
        }
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

fn step_word(step: Step) -> &'static str {
    match step {
        Step::Query => "query",
        Step::Prepare => "prepare",
        Step::Bind => "bind",
        Step::Execute => "execute",
        Step::FunctionCall => "function_call",
        Step::Replication => "replication",
        Step::Cancel => "cancel",
    }
}

fn does(statement: &Statement) -> Does {
    fn words<T: serde::Serialize>(items: impl IntoIterator<Item = T>) -> Vec<String> {
        let word = |item: T| match serde_json::to_value(item) {
            Ok(serde_json::Value::String(word)) => Some(word),
            _ => None,
        };
        items.into_iter().filter_map(word).take(LIST).collect()
    }
    fn names<T: ToString>(items: impl IntoIterator<Item = T>) -> Vec<String> {
        items.into_iter().take(LIST).map(|item| clipped(&item.to_string(), 200).to_owned()).collect()
    }
    let others = statement.kinds.iter().filter(|kind| **kind != statement.kind);
    Does {
        kinds: words(std::iter::once(&statement.kind).chain(others)),
        classes: words(&statement.classes),
        reads: names(&statement.reads),
        writes: names(&statement.writes),
        functions: names(&statement.functions),
        r#where: words(statement.where_clause).concat(),
        limit: words(statement.limit).concat(),
        dynamic: statement.dynamic,
        // The reason quotes the text, which may hold what is masked.
        unparsed: if statement.error.is_some() { "it cannot be read".to_owned() } else { String::new() },
    }
}

/// The beginning of a text, at most `most` bytes.
fn clipped(text: &str, most: usize) -> &str {
    text.get(..text.floor_char_boundary(most)).unwrap_or_default()
}

/// A digest over parts that cannot run into one another.
struct Parts(Sha256);

impl Parts {
    fn new(purpose: &str) -> Self {
        let mut parts = Self(Sha256::new());
        parts.text(purpose);
        parts
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.0.update((bytes.len() as u64).to_be_bytes());
        self.0.update(bytes);
    }

    fn text(&mut self, text: &str) {
        self.bytes(text.as_bytes());
    }

    fn number(&mut self, number: u64) {
        self.0.update(number.to_be_bytes());
    }

    fn finish(self) -> [u8; 32] {
        self.0.finalize().into()
    }
}

/// The digest of a flow's start-up: what its approvals of shapes begin from.
pub(super) fn surroundings(parameters: &[(String, String)]) -> [u8; 32] {
    let mut hash = Parts::new("interlock surroundings 1");
    for (name, value) in parameters.iter().filter(|(name, _)| name != "application_name") {
        hash.text(name);
        hash.text(value);
    }
    hash.finish()
}
