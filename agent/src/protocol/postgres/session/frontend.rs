//! What the client sends: each message is judged, recorded, and then forwarded or replaced.
//!
//! All that the client has sent so far is one batch: decided message by message, recorded in one append,
//! forwarded in one write.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::hold::Standing;
use super::judge::{Asked, Ruling};
use super::pending::{Entry, What};
use super::pipe::{Edit, Pipe};
use super::refusal::Refusal;
use super::run::{Described, Run};
use super::statements::{Found, Portal, Prepared};
use super::{Core, Phase, Rest};
use crate::protocol::SessionError;
use crate::protocol::postgres::codec::{self, BindHead, CodecError, HEADER, Header, Parse, Reader};
use crate::protocol::postgres::{operation, values};
use crate::record::Step;
use crate::sql::{Hidden, Relation, Script};

/// How many messages may wait for the server's answer before no more are taken.
pub(super) const MOST_PENDING: usize = 65_536;
/// How long after its Bind a portal runs without being judged again by rules that look at the time.
const STILL_NOW: Duration = Duration::from_secs(1);
/// The longest message of the kinds that hold only names (the server's own bound).
const SMALL: usize = 10_000;

/// A message within the undecided bytes.
#[derive(Clone, Copy)]
struct Message<'a> {
    /// Where it begins.
    at: usize,
    header: Header,
    /// As much of its body as is there.
    body: &'a [u8],
}

impl Message<'_> {
    fn whole(&self) -> bool {
        self.body.len() == self.header.body
    }
}

/// The portal that was described last; nothing that may make another of its name was sent since.
#[derive(Debug)]
pub(super) struct LastDescribed {
    name: Box<[u8]>,
    /// Under which policies.
    generation: u64,
    plan: Described,
}

impl LastDescribed {
    fn is(&self, name: &[u8], generation: u64) -> bool {
        *self.name == *name && self.generation == generation
    }
}

/// What to do after a look at a message.
enum Taken {
    /// More of it is needed.
    NeedMore,
    /// It waits for approval, and all behind it.
    Held,
    /// It passes, as far as it is there and as it comes.
    Pass,
    /// It was replaced (see the edits); its bytes are thrown away as they come.
    Discard,
}

impl Core {
    /// Decides on what the client has sent.
    pub(super) fn client(&mut self, pipe: &mut Pipe) -> Result<(), SessionError> {
        if self.phase == Phase::Over {
            pipe.discard_undecided();
            return Ok(());
        }
        self.look_further(pipe);
        if self.waits() {
            return Ok(());
        }
        // What waited for a look at the server is asked for now.
        if self.holds.to_hold.is_some() && !self.begin_holding(pipe) {
            return Ok(());
        }
        if self.phase == Phase::Ready && self.from_client.left == 0 {
            self.refresh_policy();
            // Commands that waited for the catalog go on now, whether it could be read or not.
            if !std::mem::take(&mut self.catalog_tried) && self.consult_catalog(pipe) {
                return Ok(());
            }
        }
        while self.take_batch(pipe)? {}
        Ok(())
    }

    /// Takes one batch. `true` when there is more to take at once: what was to be held is refused.
    fn take_batch(&mut self, pipe: &mut Pipe) -> Result<bool, SessionError> {
        let before = (self.pending.len(), self.names.next_order(), self.from_client, self.summary);
        let mut consumed = self.scan_client(pipe.undecided())?;
        if let Err(error) = self.log.flush() {
            // Nothing of the batch has been forwarded: it is taken again, and all of it refused.
            tracing::error!(%error, "commands are refused because they cannot be recorded");
            self.pending.truncate(before.0);
            self.names.take_back(before.1);
            self.described = None;
            self.holds.to_hold = None;
            (self.from_client, self.summary) = (before.2, before.3);
            self.refuse_all = Some(Box::new(Refusal::own(
                "53100",
                "refused: the command could not be recorded",
                "The agent's log on this host says why; `interlock status` shows the space in use.",
            )));
            let scanned = self.scan_client(pipe.undecided());
            self.refuse_all = None;
            self.log.flush_refused();
            consumed = scanned?;
        }
        pipe.release(consumed, &self.edits, &self.scratch);
        self.reset_scratch();
        Ok(self.begin_holding(pipe))
    }

    /// Goes over the messages in `bytes` and says how many bytes are decided.
    fn scan_client(&mut self, bytes: &[u8]) -> Result<usize, SessionError> {
        self.reset_scratch();
        let mut at = 0;
        while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
            if self.from_client.left > 0 {
                let here = self.from_client.left.min(rest.len());
                if self.from_client.discard {
                    self.edits.push(Edit { at, remove: here, insert: 0 });
                }
                self.from_client.left -= here;
                at += here;
                continue;
            }
            if self.phase == Phase::Over || self.stalled() || self.log.is_full() {
                break;
            }
            let Some(header) = Header::read(rest)? else { break };
            if self.phase == Phase::Login && header.tag != b'p' {
                break;
            }
            let body = rest.get(HEADER..header.total().min(rest.len())).unwrap_or_default();
            let discard = match self.client_message(Message { at, header, body })? {
                Taken::NeedMore | Taken::Held => break,
                Taken::Pass => false,
                Taken::Discard => true,
            };
            self.from_client = Rest { left: header.total(), discard };
        }
        Ok(at)
    }

    fn client_message(&mut self, message: Message<'_>) -> Result<Taken, SessionError> {
        let tag = message.header.tag;
        // What follows from here may make another portal of any name.
        if matches!(tag, b'Q' | b'P' | b'B' | b'F' | b'C') {
            self.described = None;
        }
        match tag {
            b'd' => {
                self.copied_in.0 += 1;
                self.copied_in.1 += message.header.body as u64;
                self.pending.push(Entry::new(What::CopyData));
                return Ok(Taken::Pass);
            }
            b'Q' | b'P' => return self.text_message(message),
            b'B' => return self.bind(message),
            b'F' => return self.function_call(message),
            _ => {}
        }
        if !matches!(tag, b'E' | b'D' | b'C' | b'S' | b'H' | b'X' | b'c' | b'f' | b'p') {
            return Err(SessionError::Frontend(format!("invalid frontend message type {tag}")));
        }
        if message.header.body > SMALL && !(tag == b'p' && message.header.body <= 65_536) {
            return Err(CodecError::Length {
                tag,
                length: i32::try_from(message.header.body + 4).unwrap_or(-1),
            }
            .into());
        }
        if !message.whole() {
            return Ok(Taken::NeedMore);
        }
        match tag {
            b'E' => return self.execute(message),
            b'D' => self.describe(message.body)?,
            b'C' => self.close(message.body)?,
            b'S' => {
                self.epoch += 1;
                self.pending.push(Entry::new(What::Sync));
            }
            b'c' | b'f' => self.pending.push(Entry::new(What::CopyEnd)),
            b'X' => self.phase = Phase::Over,
            b'p' if self.phase == Phase::Login => self.sasl.answered(message.body)?,
            // Flush is answered by nothing of its own; a password goes to the server unseen.
            _ => {}
        }
        Ok(Taken::Pass)
    }

    /// Query and Parse.
    fn text_message(&mut self, message: Message<'_>) -> Result<Taken, SessionError> {
        let query = message.header.tag == b'Q';
        if message.header.body > self.limits.statement {
            let refusal = Refusal::own(
                "54000",
                &format!("refused: a statement of {} bytes is too long to be judged", message.header.body),
                &format!("The longest is {} bytes.", self.limits.statement),
            );
            return Ok(self.refuse(message, refusal, None));
        }
        if !message.whole() {
            return Ok(Taken::NeedMore);
        }
        if query { self.query(message) } else { self.parse(message) }
    }

    fn query(&mut self, message: Message<'_>) -> Result<Taken, SessionError> {
        let mut reader = Reader::new(message.body);
        let text = reader.cstr()?;
        reader.end()?;
        let prepared = self.read(text, None);
        let step = if self.replication { Step::Replication } else { Step::Query };
        let statements = [Arc::clone(&prepared)];
        let asked = Asked { message: message.body, ..Asked::default() };
        let Some(Ruling { command, refusal, .. }) = self.judge(step, &statements, &asked) else {
            return Ok(Taken::Held);
        };
        let refusal = refusal.or_else(|| self.unmaskable(&statements)).or_else(|| self.room(&prepared));
        if let Some(refusal) = refusal {
            return Ok(self.refuse(message, refusal, Some(command)));
        }
        let run = Run { statements: statements.into(), ..Run::new(Some(command)) };
        self.pending.push(Entry { run: Some(Box::new(run)), ..Entry::new(What::Query) });
        Ok(Taken::Pass)
    }

    fn room(&mut self, prepared: &Arc<Prepared>) -> Option<Refusal> {
        (!self.remember(prepared)).then(too_many)
    }

    fn parse(&mut self, message: Message<'_>) -> Result<Taken, SessionError> {
        let parse = Parse::read(message.body)?;
        let prepared = self.read(parse.text, Some(self.epoch));
        let types: Box<[u32]> = parse.types().collect();
        if !types.is_empty() && types.iter().all(|&kind| kind != 0) {
            let _ = prepared.types.set(types);
        }
        let statements = [Arc::clone(&prepared)];
        let asked = Asked { statement: parse.name, ..Asked::default() };
        let Some(Ruling { command, refusal, .. }) = self.judge(Step::Prepare, &statements, &asked) else {
            return Ok(Taken::Held);
        };
        let refusal = refusal.or_else(|| self.unmaskable(&statements)).or_else(|| {
            let room = self.names.add(parse.name, Arc::clone(&prepared), &self.limits);
            (!room).then(too_many)
        });
        if let Some(refusal) = refusal {
            return Ok(self.refuse(message, refusal, Some(command)));
        }
        let _ = prepared.command.set(command);
        self.pending.push(Entry::new(What::Parse(Some(prepared))));
        Ok(Taken::Pass)
    }

    /// Judged by the statement it names and its parameters. Only the front of a long one is held.
    fn bind(&mut self, message: Message<'_>) -> Result<Taken, SessionError> {
        if !message.whole() && message.body.len() < self.limits.parameters {
            return Ok(Taken::NeedMore);
        }
        let head = BindHead::read(message.body)?;
        let statements = self.names.bindable(head.statement, self.epoch);
        let types = match statements.as_slice() {
            [one] => one.types.get(),
            _ => None,
        };
        let mut params = Vec::new();
        // A value can be far longer as text than it was on the wire.
        let mut room = self.limits.parameters;
        let read = head.params(|index, format, value| {
            if room == 0 {
                return;
            }
            let kind = types.and_then(|types| types.get(index)).copied().unwrap_or_default();
            let value = value.map(|value| values::render(kind, format, value));
            room = room.saturating_sub(value.as_ref().map_or(0, String::len).max(1));
            params.push(value);
        });
        let decoded = match read {
            Ok(_) => room > 0,
            Err(CodecError::Truncated) if !message.whole() => false,
            Err(error) => return Err(error.into()),
        };
        if !decoded {
            // Those that are left are noted by the size of all.
            params.push(Some(format!("… {} bytes of parameters in all", message.header.body)));
        }
        let of = match statements.as_slice() {
            [one] => one.command.get().copied(),
            _ => None,
        };
        let kept = (self.flow.depends_on_params() || self.flow.can_hold()).then(|| params.clone());
        let secret = |number| statements.iter().any(|prepared| prepared.secrets.has_param(number));
        let secrets = (1..).zip(&params).filter(|(number, _)| secret(*number));
        let secrets = secrets.filter_map(|(_, value)| value.clone()).collect();
        let asked = Asked {
            statement: head.statement,
            portal: head.portal,
            params,
            of,
            message: message.body,
            incomplete: !decoded || !message.whole(),
            ..Asked::default()
        };
        let Some(Ruling { command, refusal, approved }) = self.judge(Step::Bind, &statements, &asked) else {
            return Ok(Taken::Held);
        };
        let refusal = refusal.or_else(|| self.unmaskable(&statements));
        let refusal =
            refusal.or_else(|| (!decoded && self.flow.depends_on_params()).then(unjudged_parameters));
        if let Some(refusal) = refusal {
            return Ok(self.refuse(message, refusal, Some(command)));
        }
        // Planning may run functions that are said to be immutable.
        self.lexing.doubt();
        let portal = Arc::new(Portal {
            unknown: self.names.bound_to_unknown(head.statement, &statements, self.epoch),
            statements,
            command: Some(command),
            params: kept,
            secrets,
            judged: Some(Instant::now()),
            approved: Mutex::new(approved.map(|approved| (approved, self.standing()))),
            generation: self.generation,
            order: self.names.next_order(),
            epoch: self.epoch,
            ..Portal::default()
        });
        if !self.names.open(head.portal, Arc::clone(&portal), &self.limits) {
            return Ok(self.refuse(message, too_many(), Some(command)));
        }
        self.pending.push(Entry::new(What::Bind(portal)));
        Ok(Taken::Pass)
    }

    fn execute(&mut self, message: Message<'_>) -> Result<Taken, SessionError> {
        let name = codec::execute(message.body)?;
        let found = self.names.find(name, self.epoch);
        let portal = match found.portals.as_slice() {
            [one] if one.statements.len() == found.statements.len() => Some(Arc::clone(one)),
            _ => None,
        };
        let begun = portal.as_ref().is_some_and(|portal| portal.executed.load(Ordering::Relaxed));
        // An approval of its Bind is for what the text meant then, and for who stood behind it.
        let approval = portal.as_ref().and_then(|portal| portal.approval());
        let standing = approval.as_ref().map(|_| self.standing());
        let lasts = |(_, was): &(_, Standing)| standing.as_ref().is_some_and(|now| was.lasts(now, begun));
        let ended = approval.as_ref().is_some_and(|approval| !lasts(approval));
        let approved = approval.filter(|_| !ended).map(|(approved, _)| approved);
        // What was judged at the Bind runs now for the first time, if it can be nothing else.
        let judged = portal.as_ref().and_then(|one| {
            let valid = !begun && !ended && self.still_judged(one) && self.refuse_all.is_none();
            one.command.filter(|_| valid)
        });
        let command = match judged {
            Some(command) => command,
            None => {
                let of = found.portals.last().and_then(|portal| portal.command);
                let params = match found.portals.as_slice() {
                    [one] => one.params.clone(),
                    _ => None,
                };
                let unknown = of.is_some() && params.is_none() && self.flow.depends_on_params();
                let asked = Asked {
                    statement: b"",
                    portal: name,
                    of,
                    incomplete: of.is_some() && params.is_none(),
                    params: params.unwrap_or_default(),
                    message: message.body,
                    // A portal runs once; what comes later are more of its rows.
                    approved,
                    hidden: Hidden::Nothing,
                };
                let ruling = self.judge(Step::Execute, &found.statements, &asked);
                let Some(Ruling { command, refusal, approved }) = ruling else { return Ok(Taken::Held) };
                if let (Some(portal), Some(approved)) = (&portal, approved) {
                    portal.approve(approved, self.standing());
                }
                let refusal = refusal.or_else(|| self.unmaskable(&found.statements));
                if let Some(refusal) = refusal.or_else(|| unknown.then(unjudged_parameters)) {
                    return Ok(self.refuse(message, refusal, Some(command)));
                }
                command
            }
        };
        if let Some(portal) = &portal {
            portal.executed.store(true, Ordering::Relaxed);
        }
        for prepared in &found.statements {
            if !self.remember(prepared) {
                return Ok(self.refuse(message, too_many(), Some(command)));
            }
        }
        let mut run = Run::new(Some(command));
        run.given = found.portals.iter().flat_map(|portal| portal.secrets.iter().cloned()).collect();
        run.statements.clone_from(&found.statements);
        run.unknown = found.unknown;
        run.plan = match &self.described {
            Some(described) if described.is(name, self.generation) => Arc::clone(&described.plan),
            // Rows are masked by the columns of the very portal that they come from; if the client does
            // not ask for them right before, the agent does.
            _ if !self.flow.masks().is_empty() => {
                let start = self.scratch.len();
                codec::put_message(&mut self.scratch, b'D', |out| {
                    out.push(b'P');
                    codec::put_cstr(out, name);
                });
                self.edits.push(Edit { at: message.at, remove: 0, insert: self.scratch.len() - start });
                self.describe_portal(name, found, true)
            }
            _ => Described::default(),
        };
        // What runs now may make another portal of any name but this.
        self.described = self.described.take().filter(|described| described.is(name, self.generation));
        self.pending.push(Entry { run: Some(Box::new(run)), ..Entry::new(What::Execute) });
        Ok(Taken::Pass)
    }

    /// The verdict on its Bind still holds: the policies are the same, and where they look at the time
    /// it is as good as the same.
    fn still_judged(&self, portal: &Portal) -> bool {
        let lately = |at: &Instant| at.elapsed() < STILL_NOW;
        portal.generation == self.generation
            && (portal.judged.as_ref().is_some_and(lately)
                || portal.statements.iter().all(|one| self.flow.is_static(&one.script)))
    }

    /// Notes that a portal is being described; gives where its plan will be.
    fn describe_portal(&mut self, name: &[u8], found: Found, injected: bool) -> Described {
        let plan = Described::default();
        self.described =
            Some(LastDescribed { name: name.into(), generation: self.generation, plan: Arc::clone(&plan) });
        let found = Box::new(found);
        self.pending.push(Entry::new(What::DescribePortal { found, plan: Arc::clone(&plan), injected }));
        plan
    }

    fn describe(&mut self, body: &[u8]) -> Result<(), SessionError> {
        let (kind, name) = codec::target(body)?;
        if kind == b'P' {
            let found = self.names.find(name, self.epoch);
            self.describe_portal(name, found, false);
            return Ok(());
        }
        let mut candidates = self.names.bindable(name, self.epoch);
        let one = candidates.pop().filter(|_| candidates.is_empty());
        self.pending.push(Entry::new(What::DescribeStatement(one)));
        Ok(())
    }

    fn close(&mut self, body: &[u8]) -> Result<(), SessionError> {
        let (kind, name) = codec::target(body)?;
        let (name, before) = (name.into(), self.names.next_order());
        let what = if kind == b'S' {
            What::CloseStatement { name, before }
        } else {
            What::ClosePortal { name, before }
        };
        self.pending.push(Entry::new(what));
        Ok(())
    }

    fn function_call(&mut self, message: Message<'_>) -> Result<Taken, SessionError> {
        if message.body.len() < 4 && !message.whole() {
            return Ok(Taken::NeedMore);
        }
        self.lexing.change();
        let function = Reader::new(message.body).oid()?;
        let mut called = None;
        if let Some(name) = operation::reads_by_argument(function) {
            if message.header.body > self.limits.statement {
                let refusal = Refusal::own(
                    "54000",
                    "refused: the arguments of a function call are too long to be judged",
                    "Call the function in a SELECT, with parameters.",
                );
                return Ok(self.refuse(message, refusal, None));
            }
            if !message.whole() {
                return Ok(Taken::NeedMore);
            }
            called = Some(self.called(name, &codec::function_call(message.body)?));
        }
        let operation = operation::function_call(&self.user, &self.database, function, called);
        let held = self.flow.can_hold();
        if held && !message.whole() && message.header.body <= self.limits.statement {
            return Ok(Taken::NeedMore);
        }
        let arguments =
            if held { codec::function_call(message.body).unwrap_or_default() } else { Vec::new() };
        let shown: Vec<_> = arguments.iter().map(|(_, value)| self.recorded_argument(*value)).collect();
        let hidden = shown.iter().flatten().map(|(_, hidden)| *hidden).max().unwrap_or_default();
        let params: Vec<_> = shown.into_iter().map(|shown| shown.map(|(value, _)| value)).collect();
        let exact = |((_, sent), shown): (&codec::Argument<'_>, &Option<String>)| {
            sent.map(String::from_utf8_lossy).as_deref() == shown.as_deref()
        };
        let is_exact = arguments.iter().zip(&params).all(exact);
        let hidden = if is_exact { hidden } else { hidden.max(Hidden::Constants) };
        let incomplete = !message.whole();
        let asked = Asked { params, message: message.body, incomplete, hidden, ..Asked::default() };
        let Some(Ruling { command, refusal, .. }) = self.judge_other(Step::FunctionCall, operation, &asked)
        else {
            return Ok(Taken::Held);
        };
        let unmaskable = || {
            let masked = self.flow.masks().has_columns() && !operation::reads_no_table(function);
            masked.then(|| {
                Refusal::own(
                    "42501",
                    "refused: columns are masked, and what a function call message gives cannot be masked",
                    "Call the function in a SELECT.",
                )
            })
        };
        if let Some(refusal) = refusal.or_else(unmaskable) {
            return Ok(self.refuse(message, refusal, Some(command)));
        }
        self.note_call();
        let run = Run::new(Some(command));
        self.pending.push(Entry { run: Some(Box::new(run)), ..Entry::new(What::Function) });
        Ok(Taken::Pass)
    }

    /// What a call of the function `name` with these arguments does in SQL.
    fn called(&self, name: &str, arguments: &[codec::Argument<'_>]) -> Script {
        // Of a relation's object id nobody knows what it stands for.
        let by_id = |text: &str| name.starts_with("table_to_xml") && text.bytes().all(|b| b.is_ascii_digit());
        let mut unknown = false;
        let literal = |(index, (format, value)): (usize, &codec::Argument<'_>)| {
            let binary = *format != 0 && name.starts_with("table_to_xml");
            let text = value.filter(|value| !binary && !value.contains(&0));
            match text.map(|text| self.lexing.read(text, self.pending.busy())) {
                Some(Ok(text)) if index > 0 || !by_id(&text) => format!("'{}'", text.replace('\'', "''")),
                _ => {
                    unknown |= index == 0;
                    "$1".to_owned()
                }
            }
        };
        let arguments: Vec<String> = arguments.iter().enumerate().map(literal).collect();
        let text = format!("SELECT pg_catalog.{name}({})", arguments.join(", "));
        let mut script = Script::clone(&self.scripts.analyze(&text));
        for statement in script.statements.iter_mut().filter(|_| unknown) {
            statement.reads.insert(Relation { schema: None, name: "*".to_owned() });
        }
        script
    }

    /// Replaces a message by one that is sure to fail.
    fn refuse(
        &mut self,
        message: Message<'_>,
        refusal: Refusal,
        command: Option<crate::record::CommandId>,
    ) -> Taken {
        let start = self.scratch.len();
        let what = match message.header.tag {
            b'Q' | b'F' => {
                refusal.put_query(&mut self.scratch);
                What::Query
            }
            b'P' => {
                let name = Parse::read(message.body).ok().map(|parse| parse.name);
                refusal.put_parse(&mut self.scratch, name);
                What::Parse(None)
            }
            _ => {
                refusal.put_parse(&mut self.scratch, None);
                What::Parse(None)
            }
        };
        self.edits.push(Edit { at: message.at, remove: 0, insert: self.scratch.len() - start });
        let entry = Entry {
            what,
            refusal: Some(Box::new(refusal)),
            run: command.map(|command| Box::new(Run::new(Some(command)))),
        };
        self.pending.push(entry);
        Taken::Discard
    }
}

pub(super) fn unjudged_parameters() -> Refusal {
    Refusal::own(
        "54000",
        "refused: a rule is about parameters, and these cannot be judged",
        "Rules see the parameters of one Bind up to 1 MiB in all. After a change of rules, bind again.",
    )
}

fn too_many() -> Refusal {
    Refusal::own(
        "54000",
        "refused: the session has prepared too many statements",
        "Close or DEALLOCATE statements that are no longer used.",
    )
}
