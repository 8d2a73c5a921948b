//! Commands that were approved before they were sent.

use std::sync::Arc;

use super::super::Core;
use super::{Approved, Operation};
use crate::approval::ahead::Use;
use crate::approval::{Covered, Grant};
use crate::policy::{Scope, Terms};
use crate::record::{Approval, Step};

impl Core {
    /// The approval that was asked for before this command was sent, if there is one. It is used up by this.
    pub(super) fn asked_beforehand(
        &self,
        operation: &Operation<'_>,
        terms: &Arc<Terms>,
    ) -> Option<Arc<Approved>> {
        // Nobody knew then what a session would change.
        if !self.holds.surroundings.unchanged() || !matches!(operation.step, Step::Query | Step::Bind) {
            return None;
        }
        let [prepared] = operation.statements else { return None };
        let utf8 = self.lexing.is_utf8();
        if !utf8 && !prepared.text.is_ascii() {
            return None;
        }
        let params = operation.asked.params.as_slice();
        // A value whose bytes are no text, or of a type that is not known, is rendered as others are too.
        let exact = |value: &str| {
            (utf8 || value.is_ascii())
                && !value.contains(char::REPLACEMENT_CHARACTER)
                && !value.starts_with("\\x")
        };
        let exact = params.iter().flatten().all(|value| exact(value)) && !operation.asked.incomplete;
        let shape = self.shape(operation).map(|_| self.scripts.template(&prepared.text));
        let taken = self.holds.desk.ahead().take(&Use {
            subject: &self.subject,
            server: self.holds.server.address,
            database: &self.database,
            db_user: &self.user,
            time_zone: self.holds.surroundings.time_zone(),
            text: &prepared.text,
            params: exact.then_some(params),
            shape: shape.as_deref(),
            terms,
        })?;
        if taken.scope == Scope::Session {
            // It begins with the command that was asked for, and so is of its session.
            self.holds.desk.grant(Grant {
                request: taken.request,
                by: taken.by.clone().into(),
                terms: Arc::clone(terms),
                covered: Covered::Session(self.log.session().id()),
            });
        }
        let recorded = Approval {
            request: taken.request.to_string(),
            outcome: "approved",
            by: taken.by,
            scope: taken.scope.word(),
            earlier: true,
            beforehand: true,
        };
        Some(Arc::new(Approved { recorded, terms: Arc::clone(terms) }))
    }
}
