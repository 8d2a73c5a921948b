//! What is held: its digest, its shape, and what approvers see of it.

use std::sync::Arc;

use super::super::Core;
use super::super::judge::Asked;
use super::super::masking::recorded_parameter;
use super::super::refusal::Refusal;
use super::super::statements::Prepared;
use crate::approval::{Shape, Shown};
use crate::protocol::postgres::request::{self, MOST_RUN, Parts, has_shape, show, step_word};
use crate::record::Step;
use crate::sql::{Hidden, Script};

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
    /// What is hidden in them.
    pub(in super::super) hidden: Hidden,
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

    pub(super) fn who_and_where(&self, hash: &mut Parts) {
        let subject = &self.subject;
        hash.number(subject.uid.into());
        let claimed = subject.login_claimed.as_ref();
        let claimed = [claimed.map(|claimed| claimed.uid), claimed.and_then(|claimed| claimed.session)];
        for id in [subject.login_uid, subject.login_session].into_iter().chain(claimed) {
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
        if !has_shape(operation.script) {
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
    pub(in super::super) fn recorded_argument(&self, value: Option<&[u8]>) -> Option<(String, Hidden)> {
        let value = String::from_utf8_lossy(value?);
        Some(recorded_parameter(self.flow.record_masks(), &value))
    }

    /// What is hidden in the texts and parameters that approvers would see.
    pub(super) fn hidden(&self, operation: &Operation<'_>) -> Hidden {
        let texts = operation.statements.iter().chain(self.runs(operation));
        texts.map(|prepared| prepared.hidden).fold(operation.hidden, Hidden::max)
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
        let shown = show(operation.step, text, runs, operation.params, operation.script)?;
        Some(Shown {
            db_user: Arc::clone(&self.user),
            database: Arc::clone(&self.database),
            transaction: match self.status {
                b'T' => "open",
                b'E' => "failed",
                _ => "none",
            },
            command: self.log.next().0,
            redacted: self.hidden(operation) != Hidden::Nothing,
            ..shown
        })
    }
}

/// What runs something that is hidden is not held: nobody could see what they approve.
pub(super) fn not_seen() -> Refusal {
    Refusal::own(
        "54000",
        "refused: it needs approval, and what it runs cannot be shown, for a mask or a secret hides more of it than \
         constants",
        "Write values as constants in quotes, or send them as parameters, in a text that PostgreSQL can read and in \
         UTF-8. docs/masking.md has more.",
    )
}

/// What cannot be shown whole is not held.
pub(super) fn not_shown() -> Refusal {
    Refusal::own(
        "54000",
        "refused: it needs approval, and is more than can be shown to who would approve it",
        &format!(
            "Approvers see all that runs: up to {} KiB of text, {} KiB of what it runs by name, and {} \
             statements. Send less at once.",
            request::TEXT >> 10,
            request::RUNS >> 10,
            request::STATEMENTS,
        ),
    )
}
