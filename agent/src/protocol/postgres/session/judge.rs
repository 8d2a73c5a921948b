//! Texts to operations, operations to verdicts.

use std::borrow::Cow;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use super::Core;
use super::catalog::{self, Catalog, Reading};
use super::hold::{self, Approved, Holding};
use super::log::{Note, lossy};
use super::made::Made;
use super::masking::{RowPlan, recorded_parameter, secret_parameter};
use super::pending::{Entry, What};
use super::pipe::Pipe;
use super::refusal::Refusal;
use super::statements::{Names, Prepared};
use crate::identity::Subject;
use crate::operation::{Operation, Protocol};
use crate::policy::{Decision, Verdict};
use crate::protocol::postgres::{codec, operation};
use crate::record::{CommandId, Step};
use crate::sql::{self, Class, Hidden, Kind, Recordable, Script, Secrets, Statement};

/// What is recorded in a secret's place.
pub(in crate::protocol::postgres) const REDACTED: &str = "***";

/// Transaction status: not in a transaction.
pub(super) const IDLE: u8 = b'I';

/// What is asked, besides the statement itself.
#[derive(Debug, Default)]
pub(super) struct Asked<'a> {
    pub(super) statement: &'a [u8],
    pub(super) portal: &'a [u8],
    /// Parameters as sent.
    pub(super) params: Vec<Option<String>>,
    pub(super) of: Option<CommandId>,
    /// The message's body as sent.
    pub(super) message: &'a [u8],
    /// Not all of it could be looked at.
    pub(super) incomplete: bool,
    /// What is hidden in `params` already.
    pub(super) hidden: Hidden,
    /// An approval that it goes on by: that of its portal.
    pub(super) approved: Option<Arc<Approved>>,
}

/// What was found of a command.
pub(super) struct Ruling {
    /// Its number.
    pub(super) command: CommandId,
    /// Why it is refused, if it is.
    pub(super) refusal: Option<Refusal>,
    /// What it goes on by, where a rule holds it.
    pub(super) approved: Option<Arc<Approved>>,
}

/// A verdict on one candidate.
struct Judged {
    /// What was judged; none where the verdict was known from before.
    operation: Option<Operation>,
    decision: Arc<Decision>,
    recorded: Arc<str>,
}

impl Judged {
    /// Of two that pass, the one that would have been refused without observe mode counts.
    fn strictness(&self) -> (Verdict, bool) {
        (self.decision.verdict, !self.decision.enforced)
    }

    /// The stricter of two candidates for one statement, the first if they are equal. If both are held,
    /// whatever either asks for has to be fulfilled: either may be the one that runs.
    fn or(self, other: Self) -> Self {
        let both = self.decision.verdict == Verdict::Hold && other.decision.verdict == Verdict::Hold;
        let (mut best, rest) =
            if other.strictness() > self.strictness() { (other, self) } else { (self, other) };
        if both {
            best.decision = Arc::new(best.decision.held_with(&rest.decision));
        }
        best
    }
}

/// The person and the workload, whose tokens may be newer ones.
pub(super) fn who(subject: &Subject) -> [Option<(&str, &str)>; 2] {
    [&subject.person, &subject.workload]
        .map(|one| one.as_deref().map(|one| (&*one.issuer, one.subject.as_str())))
}

impl Core {
    /// Takes the newest policy, if it changed.
    pub(super) fn refresh_policy(&mut self) {
        let generation = self.policy.generation();
        if generation != self.generation {
            self.generation = generation;
            self.flow = self.policy.load();
            if let Some(subject) = self.policy.subject() {
                self.take_subject(subject);
            }
            self.catalog = None;
            self.plans.clear();
        }
    }

    /// Whoever stands behind the flow from now on is recorded before anything that they ask for.
    fn take_subject(&mut self, subject: Arc<Subject>) {
        let known = |subject: &Subject| (subject.person.clone(), subject.workload.clone());
        if known(&subject) != known(&self.subject) {
            self.log.session().identity_changed(&subject);
        }
        if who(&subject) != who(&self.subject) {
            // What was approved for the session was so for whom approvers were shown.
            self.holds.desk.session_ended(self.log.session().id());
        }
        self.subject = subject;
    }

    /// Asks the server for its catalog, if that is due and can be done now, and says whether the client's
    /// commands have to wait for the answer.
    pub(super) fn consult_catalog(&mut self, pipe: &mut Pipe) -> bool {
        if self.reading.is_some()
            || matches!(self.pending.front().map(|front| &front.what), Some(What::Catalog))
        {
            return true;
        }
        let due = self.catalog_stale || self.catalog.as_ref().is_none_or(Catalog::old);
        let masks = Arc::clone(self.flow.masks());
        if !due || !masks.has_columns() || self.replication {
            return false;
        }
        // Within a transaction the query would be part of it: it would fail in a failed one, and take
        // the snapshot of one that has not begun to read. Before a Sync it would commit what came before,
        // or be skipped.
        if self.status != IDLE || self.pending.busy() {
            return false;
        }
        let mut message = Vec::new();
        codec::put_message(&mut message, b'Q', |out| codec::put_cstr(out, catalog::query(&masks).as_bytes()));
        pipe.insert(&message);
        self.pending.push(Entry::new(What::Catalog));
        self.reading = Some(Box::new(Reading::new(&self.changes)));
        true
    }

    /// The answer is complete, or an error came in its place.
    pub(super) fn catalog_read(&mut self) {
        let read = self.reading.take().and_then(|reading| reading.finish(self.flow.masks(), &self.scripts));
        self.made = Made::default();
        if read.is_none() {
            tracing::warn!(
                database = &*self.database,
                user = &*self.user,
                "the server's catalog could not be read; commands that need it are refused"
            );
        }
        self.catalog = read;
        self.catalog_stale = self.catalog.is_none();
        self.catalog_tried = true;
        self.plans.clear();
    }

    /// The plan for the rows of one statement of a Query.
    pub(super) fn plan_of(
        &mut self,
        prepared: &[Arc<Prepared>],
        index: usize,
        description: &[u8],
    ) -> Result<Arc<RowPlan>, codec::CodecError> {
        let names = std::mem::take(&mut self.names);
        let plan = self.plan(description, &names.running(prepared, index));
        self.names = names;
        plan
    }

    /// Reads a text as the server will.
    pub(super) fn read(&mut self, text: &[u8], epoch: Option<u64>) -> Arc<Prepared> {
        let (text, script, read): (Arc<str>, _, _) = match self.lexing.read(text, self.pending.busy()) {
            Ok(text) => {
                let script = self.scripts.analyze(&text);
                (text.into(), script, true)
            }
            Err(reason) => {
                let text = lossy(text);
                let script = Arc::new(Script::unparsed(&text, reason));
                (text.into(), script, false)
            }
        };
        let script = if self.replication {
            Arc::new(operation::replication_command(Script::clone(&script), &text))
        } else {
            script
        };
        let secrets = Secrets::of(&text);
        let masks = self.flow.record_masks();
        let shown = match read {
            true => Recordable::of(&text, &secrets, masks),
            false => Recordable::of_unread(&text, &secrets, masks),
        };
        let hidden = shown.hidden;
        let recorded: Arc<str> = match shown.text {
            Cow::Borrowed(same) if std::ptr::eq(same, &*text) => Arc::clone(&text),
            masked => masked.into(),
        };
        Arc::new(Prepared {
            order: self.names.next_order(),
            epoch,
            text,
            recorded,
            hidden,
            secrets,
            script,
            types: OnceLock::new(),
            dead: AtomicBool::new(false),
            made: AtomicBool::new(false),
            command: OnceLock::new(),
            decided: Mutex::default(),
        })
    }

    /// A message as it may be recorded. It runs nothing: masks see it as a whole.
    pub(super) fn recordable<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let masks = self.flow.record_masks();
        match sql::redact_secrets(text) {
            Cow::Borrowed(text) => masks.mask_text(text),
            Cow::Owned(text) => Cow::Owned(masks.mask_text(&text).into_owned()),
        }
    }

    /// An error's or notice's message as it may be recorded: without the secrets of the statement that
    /// it is about, which it may quote.
    pub(super) fn recordable_message(&self, message: &str, secrets: &[String]) -> String {
        self.recordable(&sql::redact_repeated(secrets, message)).into_owned()
    }

    /// What `prepared` does, with what it runs by name put in.
    pub(super) fn effective(&self, prepared: &Prepared) -> Arc<Script> {
        effective(&self.names, &prepared.script)
    }

    fn operation(&self, text: &Arc<str>, script: Arc<Script>, params: Arc<[Option<String>]>) -> Operation {
        Operation {
            protocol: Protocol::Postgres,
            user: Arc::clone(&self.user),
            database: Arc::clone(&self.database),
            text: Arc::clone(text),
            script,
            params,
        }
    }

    /// Decides on what `statements` do, all of them candidates for the one that runs, and notes it for
    /// the recording. Gives the strictest verdict; `None` when it has to wait for approval.
    pub(super) fn judge(
        &mut self,
        step: Step,
        statements: &[Arc<Prepared>],
        asked: &Asked<'_>,
    ) -> Option<Ruling> {
        let params: Arc<[Option<String>]> = asked.params.as_slice().into();
        let mut strictest: Option<Judged> = None;
        for prepared in statements {
            let judged = self.judge_one(step, prepared, &params);
            strictest = Some(match strictest {
                Some(best) => best.or(judged),
                None => judged,
            });
        }
        let Judged { operation, mut decision, recorded } = strictest.unwrap_or_else(|| {
            let name = lossy(if step == Step::Bind { asked.statement } else { asked.portal });
            let text: Arc<str> = name.as_ref().into();
            let script = Script::unparsed(&name, "no statement of this name was seen to be prepared");
            let operation = self.operation(&text, Arc::new(script), Arc::clone(&params));
            let decision = Arc::new(self.flow.decide(&operation, &self.subject));
            Judged { operation: Some(operation), decision, recorded: text }
        });
        let masks = self.flow.record_masks();
        let secret = |number| statements.iter().any(|prepared| prepared.secrets.has_param(number));
        let mut hidden = Hidden::Nothing;
        let mask = |(number, value): (usize, &Option<String>)| {
            let value = value.as_ref()?;
            let (value, hides) = match secret(number) {
                true => secret_parameter(value),
                false => recorded_parameter(masks, value),
            };
            hidden = hidden.max(hides);
            Some(value)
        };
        let sent = params;
        let params: Vec<Option<String>> = (1..).zip(sent.iter()).map(mask).collect();
        let mut held = None;
        if decision.verdict == Verdict::Hold && self.refuse_all.is_none() {
            if step == Step::Prepare && decision.approval.is_some() {
                // It runs nothing; what is bound to it is held, with its parameters.
                decision = Arc::new(decision.approved());
            } else {
                let script = match (&operation, statements) {
                    (Some(operation), [] | [_]) => Arc::clone(&operation.script),
                    (None, []) => Arc::default(),
                    (None, [one]) => self.effective(one),
                    // What any of them does.
                    (_, all) => {
                        let scripts = all.iter().map(|one| self.effective(one));
                        let statements = scripts.flat_map(|script| script.statements.clone());
                        Arc::new(Script { statements: statements.collect() })
                    }
                };
                let about = hold::Operation {
                    step,
                    statements,
                    script: &script,
                    text: &recorded,
                    hidden: if params.as_slice() == &*sent { hidden } else { hidden.max(Hidden::Constants) },
                    params: &params,
                    asked,
                };
                match self.hold(&decision, &about) {
                    Holding::Wait => return None,
                    holding => held = Some(holding),
                }
            }
        } else {
            self.forget_held();
        }
        let refers = asked.of.is_some();
        let note = Note {
            statement: lossy(asked.statement).into_owned(),
            portal: lossy(asked.portal).into_owned(),
            params,
            of: asked.of,
            operation: operation.filter(|_| !refers),
            ..Note::new(step, if refers { Arc::default() } else { recorded }, decision)
        };
        Some(self.note(note, held))
    }

    fn judge_one(&self, step: Step, prepared: &Arc<Prepared>, params: &Arc<[Option<String>]>) -> Judged {
        let recorded = Arc::clone(&prepared.recorded);
        // What it runs by name may come to be something else.
        let lasting = self.flow.is_static(&prepared.script)
            && prepared.script.statements.iter().all(|one| one.executes.is_empty());
        let known = || prepared.decided.lock().unwrap_or_else(PoisonError::into_inner);
        if lasting
            && let Some((generation, decision)) = &*known()
            && *generation == self.generation
        {
            return Judged { operation: None, decision: Arc::clone(decision), recorded };
        }
        let operation = self.operation(&prepared.text, self.effective(prepared), Arc::clone(params));
        let decision = Arc::new(match step {
            Step::Prepare => self.flow.decide_unbound(&operation, &self.subject),
            _ => self.flow.decide(&operation, &self.subject),
        });
        if lasting {
            *known() = Some((self.generation, Arc::clone(&decision)));
        }
        Judged { operation: Some(operation), decision, recorded }
    }

    /// Judges an operation that is no SQL text.
    pub(super) fn judge_other(
        &mut self,
        step: Step,
        operation: Operation,
        asked: &Asked<'_>,
    ) -> Option<Ruling> {
        let decision = self.flow.decide(&operation, &self.subject);
        let mut held = None;
        if decision.verdict == Verdict::Hold && self.refuse_all.is_none() {
            let (script, text) = (&operation.script, &operation.text);
            let params = &asked.params;
            let hidden = asked.hidden;
            let about = hold::Operation { step, statements: &[], script, text, params, hidden, asked };
            match self.hold(&decision, &about) {
                Holding::Wait => return None,
                holding => held = Some(holding),
            }
        } else {
            self.forget_held();
        }
        let note = Note {
            operation: Some(operation.clone()),
            ..Note::new(step, operation.text, Arc::new(decision))
        };
        Some(self.note(note, held))
    }

    /// Puts a command into the batch, with what became of its being held.
    fn note(&mut self, mut note: Note, held: Option<Holding>) -> Ruling {
        let mut approved = None;
        let refusal = match (&self.refuse_all, held) {
            (Some(refusal), _) => Some(Refusal::clone(refusal)),
            (None, Some(Holding::Pass(approval))) => {
                note.decision = Arc::new(note.decision.approved());
                note.approval = Some(approval.recorded.clone());
                approved = Some(approval);
                None
            }
            (None, Some(Holding::Refuse(refusal, approval))) => {
                note.approval = approval;
                Some(refusal)
            }
            (None, _) => (!note.decision.passes()).then(|| Refusal::by_rule(&note.decision)),
        };
        self.summary.commands += 1;
        self.summary.refused += u64::from(refusal.is_some());
        Ruling { command: self.log.command(note), refusal, approved }
    }

    /// What it runs, by name or in its own text, says that it changes how texts are read, or does not say
    /// what it runs.
    fn changes_reading(&self, prepared: &Prepared) -> bool {
        (0..prepared.script.statements.len()).any(|index| {
            let running = self.names.running_one(prepared, index);
            running.unknown
                || running.statements.iter().any(|statement| {
                    statement.changes_lexing || statement.dynamic || statement.kinds.contains(&Kind::Unparsed)
                })
        })
    }

    /// Remembers what a passed text leaves behind: statements and cursors that it makes, settings that
    /// it changes. `false` when there is no room.
    pub(super) fn remember(&mut self, prepared: &Arc<Prepared>) -> bool {
        let mut room = true;
        if !prepared.script.statements.iter().all(runs_nothing) {
            self.holds.surroundings.ran();
        }
        if self.changes_reading(prepared) {
            self.lexing.change();
        } else if !prepared.script.statements.iter().all(runs_nothing) {
            self.lexing.doubt();
        }
        self.note_hidden(prepared);
        self.note_surroundings(prepared);
        for statement in &prepared.script.statements {
            if statement.classes.contains(&Class::Ddl) {
                self.catalog_stale = true;
            }
            for name in &statement.prepares {
                let order = self.names.next_order();
                let inner = Arc::new(Prepared::part(prepared, statement, order));
                room &= self.names.add_again(name.as_bytes(), inner, &self.limits);
            }
            if statement.kinds.contains(&Kind::DeclareCursor) {
                let inner = Arc::new(Prepared::part(prepared, statement, prepared.order));
                room &= self.names.declare(inner, &self.limits);
            }
        }
        room
    }
}

/// It runs no code but the server's own, and changes no setting: neither can a function, an operator, a
/// view, a trigger or what it prepared before.
fn runs_nothing(statement: &Statement) -> bool {
    matches!(
        statement.kind,
        Kind::Begin
            | Kind::Savepoint
            | Kind::ReleaseSavepoint
            | Kind::RollbackToSavepoint
            | Kind::Show
            | Kind::Deallocate
            | Kind::Listen
    ) && statement.kinds.len() == 1
        && !statement.changes_lexing
}

/// What the statements of one text may run by name at the most; more is judged as `unparsed`.
const MOST_EXECUTED: usize = 256;

/// `script` with what its EXECUTEs run put behind it. The texts of those were recorded, as they may be,
/// when they were prepared; here they are left out.
fn effective(names: &Names, script: &Arc<Script>) -> Arc<Script> {
    if script.statements.iter().all(|statement| statement.executes.is_empty()) {
        return Arc::clone(script);
    }
    let mut all = Script::clone(script);
    for (index, statement) in script.statements.iter().enumerate() {
        let mut known = true;
        for name in &statement.executes {
            let mut one = script.statements.iter().take(index).any(|earlier| earlier.prepares.contains(name));
            let inner = names.candidates(name.as_bytes()).flat_map(|candidate| &candidate.script.statements);
            for statement in inner.take(MOST_EXECUTED) {
                one = true;
                all.statements.push(Statement { text: String::new(), ..statement.clone() });
            }
            known &= one;
        }
        let reason = if all.statements.len() >= MOST_EXECUTED {
            "too many statements may run under these names"
        } else if !known {
            "EXECUTE of a statement that was not seen to be prepared"
        } else {
            continue;
        };
        all.statements.extend(Script::unparsed("", reason).statements);
        if all.statements.len() > MOST_EXECUTED {
            break;
        }
    }
    Arc::new(all)
}
