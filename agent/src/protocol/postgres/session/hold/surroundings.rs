//! What may change what texts mean: settings, roles, the catalog. Approvals of a shape do not reach over that.

use std::time::{Duration, Instant};

use super::super::Core;
use super::super::judge::IDLE;
use super::super::statements::Prepared;
use crate::protocol::postgres::request::Parts;
use crate::sql::{Class, Kind, Statement};

/// How long a portal goes on by what it was approved by: other sessions change meanwhile what it finds.
const LASTS: Duration = Duration::from_secs(5 * 60);

/// What was changed so far in a session.
///
/// Where nothing has failed the same changes lead to the same digest in every session. What was changed and
/// may have been undone since leads to one of its own.
pub(in super::super) struct Surroundings {
    digest: [u8; 32],
    /// The digest at the start, where texts mean there what they do in any session of this user in this
    /// database.
    usual: Option<[u8; 32]>,
    /// The time zone that it was started with.
    time_zone: Option<Box<str>>,
    /// Something was changed, and its transaction may not be over.
    altered: bool,
    /// It is not answered yet: it may fail.
    unanswered: bool,
    /// Something has failed since.
    failed: bool,
    /// It was changed in a transaction that was still open when it was answered.
    in_transaction: bool,
    /// How many texts were sent that may run code, whatever it does.
    ran: u64,
}

/// Under what a portal was approved: what its text means there, and who stands behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) struct Standing {
    surroundings: [u8; 32],
    unanswered: bool,
    who: [u8; 32],
    ran: u64,
    /// When that was.
    at: Instant,
}

impl Standing {
    /// What was approved under it may go on under `now`: nothing has changed, and it is not long ago. A portal that has begun runs between
    /// others of its session, whose texts say that they change nothing.
    pub(in super::super) fn lasts(&self, now: &Self, begun: bool) -> bool {
        let ran = if begun { now.ran } else { self.ran };
        now.at.saturating_duration_since(self.at) < LASTS && Self { ran, at: now.at, ..*self } == *now
    }
}

impl Surroundings {
    /// The digest of a flow's start-up: what its approvals of shapes begin from.
    pub(super) fn new(parameters: &[(String, String)]) -> Self {
        let mut hash = Parts::new("interlock surroundings 1");
        for (name, value) in parameters.iter().filter(|(name, _)| name != "application_name") {
            hash.text(name);
            hash.text(value);
        }
        let digest = hash.finish();
        let mut zones = parameters.iter().filter(|(name, _)| is_time_zone(name));
        Self {
            digest,
            // The last of several counts.
            time_zone: zones.next_back().map(|(_, zone)| zone.as_str().into()),
            usual: parameters.iter().all(|(name, value)| is_usual(name, value)).then_some(digest),
            altered: false,
            unanswered: false,
            failed: false,
            in_transaction: false,
            ran: 0,
        }
    }

    /// `None` while it is not known what they are.
    pub(in super::super) fn digest(&self) -> Option<&[u8; 32]> {
        (!self.unanswered).then_some(&self.digest)
    }

    /// Nothing was changed that may change what a text means, since the start or by how it began: what was
    /// asked for without a session means the same here.
    pub(super) fn unchanged(&self) -> bool {
        !self.unanswered && self.usual == Some(self.digest)
    }

    /// The time zone that its start-up parameters have set, which [`Surroundings::unchanged`] lets be any.
    pub(super) fn time_zone(&self) -> Option<&str> {
        self.time_zone.as_deref()
    }

    /// A text runs that may run code: functions, triggers, views.
    pub(in super::super) fn ran(&mut self) {
        self.ran += 1;
    }

    fn mix(&mut self, what: &str, text: &str, own: Option<&(String, u64)>) {
        let mut hash = Parts::new(what);
        hash.bytes(&self.digest);
        hash.text(text);
        if let Some((session, command)) = own {
            hash.text(session);
            hash.number(*command);
        }
        self.digest = hash.finish();
    }
}

fn is_time_zone(name: &str) -> bool {
    name.eq_ignore_ascii_case("timezone")
}

/// A setting that changes nothing of what a text means. Drivers set these by themselves.
fn is_harmless(setting: &str) -> bool {
    matches!(setting, "application_name" | "extra_float_digits")
}

/// A start-up parameter that changes nothing of what a text means, or the time zone, which is told apart.
fn is_usual(name: &str, value: &str) -> bool {
    match name {
        "user" | "database" | "application_name" | "client_encoding" | "extra_float_digits" => true,
        name if is_time_zone(name) => true,
        // Without an order of day and month, which stays the server's.
        "DateStyle" | "datestyle" => value.eq_ignore_ascii_case("iso"),
        _ => value.is_empty(),
    }
}

impl Core {
    /// What nothing else has in common with this session at this command.
    fn own(&self) -> (String, u64) {
        (self.log.session().id().to_string(), self.log.next().0)
    }

    /// What holds now.
    pub(in super::super) fn standing(&self) -> Standing {
        let mut who = Parts::new("interlock standing 1");
        self.who_and_where(&mut who);
        who.number(self.subject.pid.into());
        who.number(self.subject.start_time_ns);
        let Surroundings { digest, unanswered, ran, .. } = &self.holds.surroundings;
        Standing {
            surroundings: *digest,
            unanswered: *unanswered,
            who: who.finish(),
            ran: *ran,
            at: Instant::now(),
        }
    }

    /// A text runs that may change them, or undo a change.
    pub(in super::super) fn note_surroundings(&mut self, prepared: &Prepared) {
        let alters = |statement: &Statement| {
            statement.settings.iter().any(|setting| !is_harmless(setting))
                || statement.dynamic
                || statement.classes.contains(&Class::Ddl)
                || statement.classes.contains(&Class::Privilege)
                || statement.kinds.contains(&Kind::Unparsed)
                || statement.functions.iter().any(|function| function.name == "set_config")
        };
        let ends = |statement: &Statement| {
            [Kind::Commit, Kind::Rollback, Kind::RollbackToSavepoint, Kind::PrepareTransaction]
                .iter()
                .any(|kind| statement.kinds.contains(kind))
        };
        let script = self.effective(prepared);
        let undoes = self.holds.surroundings.altered && script.statements.iter().any(ends);
        if !undoes && !script.statements.iter().any(alters) {
            return;
        }
        // What its parameters were is not looked at here.
        let own = (undoes || prepared.text.contains('$')).then(|| self.own());
        let skipped = self.pending.skips();
        let surroundings = &mut self.holds.surroundings;
        surroundings.mix("interlock surroundings: text", &prepared.text, own.as_ref());
        surroundings.altered = true;
        surroundings.unanswered = true;
        surroundings.failed |= skipped;
    }

    /// A function is called by its number: it may be `set_config`.
    pub(in super::super) fn note_call(&mut self) {
        let own = self.own();
        let surroundings = &mut self.holds.surroundings;
        surroundings.ran();
        surroundings.mix("interlock surroundings: call", "", Some(&own));
        surroundings.altered = true;
        surroundings.unanswered = true;
    }

    /// The server has reported an error: what was to be changed may not have been.
    pub(in super::super) fn surroundings_failed(&mut self) {
        self.holds.surroundings.failed |= self.holds.surroundings.altered;
    }

    /// The server has answered all, and is in no transaction or in one.
    pub(in super::super) fn surroundings_answered(&mut self) {
        if !self.holds.surroundings.altered {
            return;
        }
        let (own, over) = (self.own(), self.status == IDLE);
        let surroundings = &mut self.holds.surroundings;
        if surroundings.failed || (over && surroundings.in_transaction) {
            surroundings.mix("interlock surroundings: undone", "", Some(&own));
        } else if !over && surroundings.unanswered {
            // The same text has another effect outside of a transaction.
            surroundings.mix("interlock surroundings: open", "", None);
        }
        surroundings.failed = false;
        surroundings.unanswered = false;
        surroundings.altered = !over;
        surroundings.in_transaction = !over;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_portal_goes_on_by_its_approval_for_five_minutes() {
        let at = Instant::now();
        let was = Standing { surroundings: [1; 32], unanswered: false, who: [2; 32], ran: 3, at };
        let after = |seconds| Standing { at: at + Duration::from_secs(seconds), ..was };
        for begun in [false, true] {
            assert!(was.lasts(&after(0), begun) && was.lasts(&after(299), begun));
            assert!(!was.lasts(&after(300), begun) && !was.lasts(&after(17 * 3600), begun));
            assert!(!was.lasts(&Standing { surroundings: [9; 32], ..after(1) }, begun));
            assert!(!was.lasts(&Standing { who: [9; 32], ..after(1) }, begun));
            assert_eq!(was.lasts(&Standing { ran: 4, ..after(1) }, begun), begun);
        }
    }
}
