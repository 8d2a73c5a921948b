//! Requests for approval, who decides on them, and how they end.

use interlock_recording::SessionId;
use interlock_recording::wire::Writer;

use super::subject::subject;
use super::{Batch, nanoseconds, parameter};
use crate::approval::{Approver, Outcome as Ended, Vote, Who, Withdrawal};
use crate::policy::Scope;
use crate::record::event::{ApprovalAsked, ApprovalDecided, ApprovalRequested};

impl Batch {
    pub(in super::super) fn approval_requested(&mut self, session: SessionId, asked: &ApprovalRequested<'_>) {
        self.event(Some(session), 40, |body| requested(body, asked));
    }

    pub(in super::super) fn approval_asked(&mut self, asked: &ApprovalAsked<'_>) {
        self.event(None, 70, |body| {
            body.message(1, |field| requested(field, &asked.request));
            body.message(2, |field| subject(field, asked.subject));
            body.display(3, asked.destination.address);
            asked.destination.hosts.iter().for_each(|host| body.always_string(4, host));
            body.string(5, &asked.request.shown.database);
            body.string(6, &asked.request.shown.db_user);
            body.string(7, asked.reason);
            body.uint(8, nanoseconds(asked.usable));
            body.uint(9, asked.tree.0.into());
            body.uint(10, asked.tree.1);
            if let Some(program) = asked.program {
                body.display(92, program.display());
            }
        });
    }

    pub(in super::super) fn approval_voted(
        &mut self,
        session: Option<SessionId>,
        request: &str,
        vote: &Vote,
    ) {
        self.event(session, 41, |body| {
            body.string(1, request);
            body.message(2, |field| approver(field, &vote.by));
            body.string(3, &vote.reason);
            body.string(4, vote.scope.word());
        });
    }

    pub(in super::super) fn approval_decided(
        &mut self,
        session: Option<SessionId>,
        decided: &ApprovalDecided<'_>,
    ) {
        self.event(session, 42, |body| {
            body.string(1, decided.request);
            body.string(2, decided.outcome.word());
            match decided.outcome {
                Ended::Approved { scope, seconds } => {
                    body.string(5, scope.word());
                    if *scope == Scope::Shape {
                        body.uint(6, seconds.saturating_mul(1_000_000_000));
                    }
                }
                Ended::BrokenGlass { by, reason } | Ended::Denied { by, reason } => {
                    body.message(3, |field| approver(field, by));
                    body.string(4, reason);
                }
                Ended::Expired => {}
                Ended::Withdrawn(Withdrawal::Cancelled) => body.string(4, "cancelled by the client"),
                Ended::Withdrawn(Withdrawal::Because(reason)) => body.string(4, reason),
            }
            body.bool(7, matches!(decided.outcome, Ended::BrokenGlass { .. }));
            body.uint(8, nanoseconds(decided.waited));
        });
    }
}

fn requested(body: &mut Writer<'_>, asked: &ApprovalRequested<'_>) {
    let shown = asked.shown;
    body.string(1, asked.request);
    body.string(2, shown.step);
    body.string(3, &shown.text);
    shown.params.iter().for_each(|param| body.message(5, |field| parameter(field, param.as_deref())));
    body.uint(6, shown.params_omitted as u64);
    shown.runs.iter().for_each(|text| body.always_string(7, text));
    body.uint(8, shown.command);
    body.bytes(9, asked.digest);
    for quorum in &asked.terms.quorums {
        body.message(10, |field| {
            field.string(1, &quorum.rule);
            quorum.groups.iter().for_each(|group| field.always_string(2, group));
            field.uint(3, quorum.needed as u64);
            field.bool(4, quorum.all_of);
            quorum.via.iter().for_each(|way| field.string(50, way.word()));
        });
    }
    body.uint(11, nanoseconds(asked.terms.within));
    body.uint(50, asked.terms.fresh.map_or(0, nanoseconds));
    body.bool(88, shown.redacted);
    body.bool(90, asked.terms.verified);
    if let Some(estimate) = &shown.estimate {
        body.message(70, |field| {
            field.bool(1, estimate.rows.is_some());
            field.uint(2, estimate.rows.unwrap_or_default());
            field.string(3, &estimate.why_not);
        });
    }
}

/// Names of one approver by their provider that are recorded, and bytes of one.
const NAMES: usize = 16;
const NAME: usize = 1024;

fn approver(writer: &mut Writer<'_>, by: &Approver) {
    writer.string(1, &by.name);
    if let Who::Host(person) = &by.who {
        writer.uint(2, person.uid.into());
        if let Some(login) = person.login() {
            writer.always_uint(3, login.into());
        }
        writer.string(4, &by.login);
        if let Some(session) = person.session() {
            writer.always_uint(5, session.into());
        }
    }
    by.groups.iter().for_each(|group| writer.always_string(6, group));
    writer.string(7, by.way().word());
    if let Some(person) = &by.verified {
        writer.string(65, &person.issuer_name);
        writer.string(66, &person.issuer);
        writer.string(67, &person.subject);
        writer.string(68, &person.name);
    }
    writer.string(94, &by.login_claimed);
    by.provided_names().take(NAMES).for_each(|name| {
        let end = name.floor_char_boundary(NAME);
        writer.string(95, name.get(..end).unwrap_or_default());
    });
    if let Who::Account(account) = &by.who {
        writer.message(50, |field| {
            field.string(1, &account.issuer);
            field.string(2, &account.subject);
            field.string(3, &account.email);
            account.logins.iter().for_each(|login| field.always_string(4, login));
            if let Some(authenticated) = account.authenticated_ns {
                field.always_fixed64(5, authenticated);
            }
            field.string(6, &account.vote);
        });
    }
}
