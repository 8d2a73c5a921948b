//! Encodes events from what the stages hand over, into a buffer that is used again and again.

mod approval;
mod statement;
mod subject;
mod tls;

use std::path::PathBuf;
use std::time::Duration;

use interlock_recording::order::Order;
use interlock_recording::wire::Writer;
use interlock_recording::{SessionId, chain, hex};
use serde::Serialize;

use self::statement::statements;
pub(super) use self::subject::subject;
pub(crate) use self::subject::subject_bytes;
use self::subject::verified;
use self::tls::{tls, write_certificate};
use super::event::{
    Command, CommandId, CopyData, EgressConnection, End, EndReason, FlowStart, Login, Notice, Outcome,
    PolicyExplained, Status, Step, TlsPassed, TokenRefused,
};
use super::rows::ResultBuilder;
use crate::identity::Subject;

/// Bytes of one bind parameter that are recorded; of what is longer the rest is counted.
const MAX_PARAM: usize = 1 << 20;

/// Bytes of a text that is recorded of a question what the policies say of it.
const MAX_QUESTION: usize = 16 << 10;

/// Events that go to the log together: encoded, not yet stamped.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) bytes: Vec<u8>,
    /// Where each event ends in `bytes`.
    pub(super) ends: Vec<usize>,
}

impl Batch {
    /// Empties it, and gives up memory that one large event has left.
    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
        self.bytes.shrink_to(1 << 20);
    }

    pub(super) fn event(
        &mut self,
        session: Option<SessionId>,
        field: u32,
        fill: impl FnOnce(&mut Writer<'_>),
    ) {
        chain::begin(&mut self.bytes, session);
        Writer::new(&mut self.bytes).message(field, fill);
        self.ends.push(self.bytes.len());
    }

    // === The host's events ===

    pub(super) fn agent_started(&mut self) {
        let read = |path| std::fs::read_to_string(path).unwrap_or_default();
        self.event(None, 10, |body| {
            body.string(1, env!("CARGO_PKG_VERSION"));
            body.uint(2, std::process::id().into());
            body.string(3, read("/proc/sys/kernel/hostname").trim_end());
            body.string(4, read("/proc/sys/kernel/osrelease").trim_end());
        });
    }

    pub(super) fn agent_stopped(&mut self) {
        self.event(None, 11, |_| {});
    }

    pub(super) fn recovered(&mut self, segment: u64, cut_bytes: u64) {
        self.event(None, 12, |body| {
            body.uint(1, segment);
            body.uint(2, cut_bytes);
        });
    }

    pub(super) fn policy_loaded(
        &mut self,
        hash: &str,
        files: &[PathBuf],
        order: Option<&Order>,
        staged: bool,
    ) {
        self.event(None, 13, |body| {
            body.string(1, hash);
            files.iter().for_each(|file| body.display(2, file.display()));
            let Some(order) = order else { return };
            body.uint(3, order.issue);
            let staged = [(&order.enforce, staged), (&order.observe, true)];
            for (ordered, staged) in staged.into_iter().filter_map(|(o, staged)| Some((o.as_ref()?, staged)))
            {
                body.message(4, |set| {
                    set.string(1, &ordered.set);
                    set.uint(2, ordered.version);
                    set.string(3, &hex(&ordered.content));
                    set.string(4, &ordered.author);
                    set.uint(5, staged.into());
                });
            }
        });
    }

    pub(super) fn policy_rejected(&mut self, reason: &str) {
        self.event(None, 14, |body| body.string(1, reason));
    }

    pub(super) fn egress(&mut self, connection: &EgressConnection<'_>) {
        self.event(None, 15, |body| {
            body.message(1, |field| subject(field, connection.subject));
            body.display(2, connection.destination);
            body.uint(3, connection.ip_protocol.into());
            word(body, 4, connection.verdict);
            if let Some(entry) = &connection.entry {
                body.always_bytes(5, &entry.0);
            }
            body.uint(6, connection.count);
        });
    }

    pub(super) fn lost(&mut self, events: u64, reason: &str) {
        self.event(None, 16, |body| {
            body.uint(1, events);
            body.string(2, reason);
        });
    }

    // === A session's events ===

    pub(super) fn flow_started(&mut self, session: SessionId, start: &FlowStart<'_>) {
        self.event(Some(session), 20, |body| {
            body.message(1, |field| subject(field, start.subject));
            body.display(2, start.client);
            body.display(3, start.destination.address);
            start.destination.hosts.iter().for_each(|host| body.always_string(4, host));
            body.string(5, start.protocol);
            body.string(6, start.policy_hash);
            start.entries.iter().for_each(|entry| body.always_bytes(7, &entry.0));
        });
    }

    pub(super) fn identity_changed(&mut self, session: SessionId, subject: &Subject) {
        self.event(Some(session), 60, |body| {
            if let Some(person) = &subject.person {
                body.message(1, |field| verified(field, person));
            }
            if let Some(workload) = &subject.workload {
                body.message(2, |field| verified(field, workload));
            }
            subject.missing.iter().for_each(|what| body.always_string(3, what));
        });
    }

    pub(super) fn token_refused(&mut self, refused: &TokenRefused<'_>) {
        self.event(None, 61, |body| {
            body.message(1, |field| subject(field, refused.subject));
            body.string(2, refused.issuer_name);
            body.string(3, refused.token_hash);
            body.string(4, &refused.reason);
            body.uint(5, refused.owner_pid.into());
            body.uint(6, refused.owner_uid.into());
            if let Some(other) = refused.other_host {
                body.string(7, &other.id);
                body.string(8, &other.name);
            }
        });
    }

    pub(super) fn login(&mut self, session: SessionId, login: &Login<'_>) {
        self.event(Some(session), 21, |body| {
            body.string(1, login.user);
            body.string(2, login.database);
            for (name, value) in login.parameters {
                body.message(3, |field| {
                    field.string(1, name);
                    field.string(2, value);
                });
            }
            body.string(4, login.auth_method);
            body.string(5, login.server_version);
            if let Some(leg) = login.client_tls {
                body.message(6, |field| tls(field, leg));
            }
            if let Some(leg) = login.server_tls {
                body.message(7, |field| tls(field, leg));
            }
            if let Some(brokered) = login.brokered {
                body.string(16, brokered.credential);
                body.string(17, brokered.client_auth);
                body.string(18, brokered.user);
                body.string(19, brokered.database);
            }
        });
    }

    pub(super) fn tls_passed(&mut self, session: SessionId, seen: &TlsPassed) {
        self.event(Some(session), 28, |body| {
            body.string(1, seen.side);
            body.string(2, seen.version);
            body.string(3, &seen.server_name);
            seen.alpn.iter().for_each(|protocol| body.always_string(4, protocol));
            if let Some(certificate) = &seen.certificate {
                body.message(5, |field| write_certificate(field, certificate));
            }
            body.string(6, seen.note);
        });
    }

    pub(super) fn command(&mut self, session: SessionId, number: u64, command: &Command<'_>) {
        self.event(Some(session), 22, |body| {
            body.uint(1, number);
            body.string(2, step(command.step));
            body.string(3, command.text);
            body.string(4, command.statement);
            body.string(5, command.portal);
            command
                .params
                .iter()
                .for_each(|param| body.message(6, |field| parameter(field, param.as_deref())));
            body.uint(7, command.of.map_or(0, |of| of.0));
            if let Some(operation) = command.operation {
                let masked = *operation.text != *command.text;
                statements(body, &operation.script, masked);
            }
            let decision = command.decision;
            word(body, 9, decision.verdict);
            body.bool(10, decision.enforced);
            if let Some(rule) = &decision.rule {
                body.always_string(11, rule);
            }
            if let Some(message) = &decision.message {
                body.always_string(12, message);
            }
            decision.matched.iter().for_each(|rule| body.always_string(13, rule));
            for observed in &decision.observed {
                body.message(14, |field| {
                    field.string(1, &observed.rule);
                    word(field, 2, observed.verdict);
                });
            }
            if let Some(approval) = command.approval {
                body.message(15, |field| {
                    field.string(1, &approval.request);
                    field.string(2, approval.outcome);
                    approval.by.iter().for_each(|by| field.always_string(3, by));
                    field.string(4, approval.scope);
                    field.bool(5, approval.earlier);
                    field.bool(70, approval.beforehand);
                });
            }
        });
    }

    pub(super) fn policy_explained(&mut self, told: &PolicyExplained<'_>) {
        self.event(None, 71, |body| {
            body.message(1, |field| subject(field, told.subject));
            body.display(2, told.destination.address);
            told.destination.hosts.iter().for_each(|host| body.always_string(3, host));
            body.string(4, told.database);
            body.string(5, told.db_user);
            let text = told.text.get(..told.text.floor_char_boundary(MAX_QUESTION)).unwrap_or_default();
            body.string(6, text);
            body.uint(7, (told.text.len() - text.len()) as u64);
            body.string(8, told.verdict);
            body.string(9, told.rule);
            if let Some(program) = told.program {
                body.display(92, program.display());
            }
        });
    }

    pub(super) fn result(
        &mut self,
        session: SessionId,
        outcome: &Outcome<'_>,
        rows: Option<&ResultBuilder>,
        with_values: bool,
    ) {
        self.event(Some(session), 23, |body| {
            body.uint(1, outcome.command.0);
            let (status, tag, sqlstate, message) = match outcome.status {
                Status::Complete(tag) => ("complete", tag, "", ""),
                Status::Error { sqlstate, message } => ("error", "", sqlstate, message),
                Status::Refused { sqlstate, message } => ("refused", "", sqlstate, message),
                Status::Suspended => ("suspended", "", "", ""),
                Status::Skipped => ("skipped", "", "", ""),
            };
            body.string(2, status);
            body.string(3, tag);
            body.string(4, sqlstate);
            body.string(5, message);
            body.uint(6, nanoseconds(outcome.duration));
            if let Some(rows) = rows {
                body.message(7, |field| rows.encode(field, with_values));
            }
        });
    }

    pub(super) fn copy_data(
        &mut self,
        session: SessionId,
        copy: &CopyData,
        lines: Option<&ResultBuilder>,
        with_values: bool,
    ) {
        self.event(Some(session), 24, |body| {
            body.uint(1, copy.command.0);
            body.bool(2, copy.to_client);
            body.uint(3, copy.messages);
            body.uint(4, copy.bytes);
            if let Some(lines) = lines {
                body.message(5, |field| lines.encode(field, with_values));
            }
        });
    }

    pub(super) fn notice(&mut self, session: SessionId, notice: &Notice<'_>) {
        self.event(Some(session), 25, |body| {
            body.string(1, notice.severity);
            body.string(2, notice.sqlstate);
            body.string(3, notice.message);
        });
    }

    pub(super) fn commands_withdrawn(
        &mut self,
        session: SessionId,
        first: CommandId,
        last: CommandId,
        reason: &str,
    ) {
        self.event(Some(session), 26, |body| {
            body.uint(1, first.0);
            body.uint(2, last.0);
            body.string(3, reason);
        });
    }

    pub(super) fn session_ended(&mut self, session: SessionId, end: &End<'_>, commands: u64, refused: u64) {
        self.event(Some(session), 27, |body| {
            body.string(1, reason(end.reason));
            body.string(2, end.detail);
            body.uint(3, end.client_bytes);
            body.uint(4, end.server_bytes);
            body.uint(5, commands);
            body.uint(6, refused);
        });
    }
}

/// Writes a unit variant by the name that it has in policies and in JSON.
fn word(writer: &mut Writer<'_>, field: u32, value: impl Serialize) {
    let mut json = [0_u8; 64];
    let mut rest = json.as_mut_slice();
    let free = if serde_json::to_writer(&mut rest, &value).is_ok() { rest.len() } else { json.len() };
    let written = json.len() - free;
    // Without the quotes; the names have no characters that JSON escapes.
    writer.bytes(field, json.get(1..written.saturating_sub(1)).unwrap_or_default());
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn step(step: Step) -> &'static str {
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

fn reason(reason: EndReason) -> &'static str {
    match reason {
        EndReason::ClientClosed => "client_closed",
        EndReason::ServerClosed => "server_closed",
        EndReason::ConnectFailed => "connect_failed",
        EndReason::LoginFailed => "login_failed",
        EndReason::Refused => "refused",
        EndReason::ProtocolError => "protocol_error",
        EndReason::RecordingFailed => "recording_failed",
        EndReason::Shutdown => "shutdown",
        EndReason::CutOff => "cut_off",
        EndReason::InternalError => "internal_error",
    }
}

fn parameter(writer: &mut Writer<'_>, value: Option<&str>) {
    let Some(value) = value else { return };
    let end = value.floor_char_boundary(MAX_PARAM);
    writer.always_string(1, value.get(..end).unwrap_or_default());
    writer.uint(2, (value.len() - end) as u64);
}
