//! Encodes what happens to people's sign-ins.

use super::encode::{Batch, subject};
use crate::identity::login::{PersonEvent, Place, What};

impl Batch {
    pub(super) fn person(&mut self, event: &PersonEvent<'_>) {
        let number = match event.what {
            What::SignedIn { .. } => 65,
            What::SignedOut { .. } => 66,
            What::Expired => 67,
            What::GroupsChanged { .. } => 68,
            What::Refused { .. } => 69,
        };
        let ns = |at: Option<jiff::Timestamp>| {
            at.and_then(|at| u64::try_from(at.as_nanosecond()).ok()).unwrap_or_default()
        };
        self.event(None, number, |body| {
            body.string(1, event.issuer_name);
            if let Some(person) = event.person {
                body.string(2, &person.issuer);
                body.string(3, &person.subject);
                body.string(4, &person.name);
                person.groups.iter().for_each(|group| body.always_string(5, group));
                body.always_fixed64(6, ns(person.authenticated));
            }
            body.always_fixed64(7, ns(event.until));
            match event.place {
                Place::Session { session, login_uid } => {
                    body.always_uint(8, session.into());
                    body.always_uint(9, login_uid.into());
                }
                Place::Tree { pid, start } => {
                    body.always_uint(10, pid.into());
                    body.uint(11, start);
                }
            }
            match event.what {
                What::SignedIn { way } => body.string(12, way),
                What::SignedOut { reason, detail } => {
                    body.string(13, reason);
                    body.string(14, detail);
                }
                What::Refused { reason } => body.string(13, reason),
                What::GroupsChanged { before } => {
                    before.iter().for_each(|group| body.always_string(15, group));
                }
                What::Expired => {}
            }
            body.message(16, |field| subject(field, event.subject));
        });
    }
}
