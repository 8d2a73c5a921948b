//! What is held: its digest, its shape, and what approvers see of it.

use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::super::Core;
use super::super::judge::Asked;
use super::super::masking::recorded_parameter;
use super::super::refusal::Refusal;
use super::super::statements::Prepared;
use crate::approval::{Does, Shape, Shown};
use crate::record::Step;
use crate::sql::{Kind, Script, Statement};

/// Bytes of a text that approvers are shown; of all texts that it runs by name; of each parameter, and of all.
const TEXT: usize = 16 << 10;
const RUNS: usize = 16 << 10;
const PARAM: usize = 1 << 10;
const PARAMS: usize = 16 << 10;
/// Statements, and entries of a list, that they are shown.
const STATEMENTS: usize = 25;
const LIST: usize = 12;
/// Texts that it runs by name, at the most.
const MOST_RUN: usize = 256;
/// Bytes of a name.
const NAME: usize = 130;
/// What a request may take beside the message that is held.
pub(super) const OWN: usize = TEXT + RUNS + PARAMS + STATEMENTS * 5 * LIST * NAME;

/// What is held.
pub(in super::super) struct Operation<'a> {
    pub(in super::super) step: Step,
    /// What may run: candidates; none where it is no SQL text.
    pub(in super::super) statements: &'a [Arc<Prepared>],
    /// What it does.
    pub(in super::super) script: &'a Script,
    /// The text, masked, where there are no candidates.
    pub(in super::super) text: &'a str,
    /// Parameters, masked.
    pub(in super::super) params: &'a [Option<String>],
    pub(in super::super) asked: &'a Asked<'a>,
}

impl Core {
    /// The whole operation with all that belongs to it.
    pub(super) fn digest(&self, operation: &Operation<'_>) -> [u8; 32] {
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
        // An approval for a person or a job is for them alone, whichever token they show it with.
        for identity in [&subject.person, &subject.workload] {
            hash.number(u64::from(identity.is_some()));
            let parts = identity.as_ref().map(|one| (&*one.issuer_name, &*one.issuer, one.subject.as_str()));
            let (name, issuer, subject) = parts.unwrap_or_default();
            [name, issuer, subject].into_iter().for_each(|part| hash.text(part));
        }
        hash.text(&subject.unit);
        hash.text(&subject.container);
        hash.text(&self.holds.server.address.to_string());
        hash.text(&self.database);
        hash.text(&self.user);
    }

    /// What commands have in common that an approval of this one's shape covers. `None` where its text
    /// alone does not say what it does, or it is not known yet what it means.
    pub(super) fn shape(&self, operation: &Operation<'_>) -> Option<Shape> {
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
        hash.bytes(self.holds.surroundings.digest()?);
        Some(Shape(hash.finish()))
    }

    pub(super) fn likeness(&self, operation: &Operation<'_>) -> [u8; 32] {
        let mut hash = Parts::new("interlock likeness 1");
        hash.text(&self.holds.server.address.to_string());
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
        names.flat_map(|name| self.names.candidates(name.as_bytes())).take(MOST_RUN)
    }

    /// An argument of a function call as approvers may see it.
    pub(in super::super) fn recorded_argument(&self, value: Option<&[u8]>) -> Option<String> {
        let value = String::from_utf8_lossy(value?);
        Some(recorded_parameter(self.flow.record_masks(), &value))
    }

    /// What approvers see of it: all that runs. `None` where that is more than they are shown.
    pub(super) fn shown(&self, operation: &Operation<'_>) -> Option<Shown> {
        let texts: Vec<&str> = match operation.statements {
            [] => vec![operation.text],
            all => all.iter().map(|prepared| &*prepared.recorded).collect(),
        };
        let text = texts.join("\n-- or, as it cannot be told which is prepared under this name:\n");
        let runs: Vec<String> =
            self.runs(operation).map(|prepared| prepared.recorded.as_ref().to_owned()).collect();
        if text.len() > TEXT
            || runs.iter().map(String::len).sum::<usize>() > RUNS
            || runs.len() >= MOST_RUN
            || operation.script.statements.len() > STATEMENTS
        {
            return None;
        }
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
        Some(Shown {
            message: String::new(),
            step: step_word(operation.step),
            text,
            runs,
            params_omitted: operation.params.len() - params.len(),
            params,
            statements: operation.script.statements.iter().map(does).collect(),
            db_user: Arc::clone(&self.user),
            database: Arc::clone(&self.database),
            transaction: match self.status {
                b'T' => "open",
                b'E' => "failed",
                _ => "none",
            },
            command: self.log.next().0,
        })
    }
}

/// What cannot be shown whole is not held.
pub(super) fn not_shown() -> Refusal {
    Refusal::own(
        "54000",
        "refused: it needs approval, and is more than can be shown to who would approve it",
        &format!(
            "Approvers see all that runs: up to {} KiB of text, {} KiB of what it runs by name, and {STATEMENTS} \
             statements. Send less at once.",
            TEXT >> 10,
            RUNS >> 10
        ),
    )
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
        let mut items = items.into_iter();
        let mut names: Vec<String> =
            items.by_ref().take(LIST).map(|item| clipped(&item.to_string(), NAME).to_owned()).collect();
        let more = items.count();
        if more > 0 {
            names.push(format!("… and {more} more"));
        }
        names
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
pub(super) struct Parts(Sha256);

impl Parts {
    pub(super) fn new(purpose: &str) -> Self {
        let mut parts = Self(Sha256::new());
        parts.text(purpose);
        parts
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.0.update((bytes.len() as u64).to_be_bytes());
        self.0.update(bytes);
    }

    pub(super) fn text(&mut self, text: &str) {
        self.bytes(text.as_bytes());
    }

    pub(super) fn number(&mut self, number: u64) {
        self.0.update(number.to_be_bytes());
    }

    pub(super) fn finish(self) -> [u8; 32] {
        self.0.finalize().into()
    }
}
