//! Encodes events from what the stages hand over, into a buffer that is used again and again.

use std::path::{Path, PathBuf};
use std::time::Duration;

use interlock_recording::order::Order;
use interlock_recording::wire::Writer;
use interlock_recording::{SessionId, chain, hex};
use serde::Serialize;

use super::event::{
    ApprovalAsked, ApprovalDecided, ApprovalRequested, Command, CommandId, CopyData, EgressConnection, End,
    EndReason, FlowStart, Login, Notice, Outcome, PolicyExplained, Status, Step, TlsPassed, TokenRefused,
};
use super::rows::ResultBuilder;
use crate::approval::{Approver, Outcome as Ended, Vote, Who, Withdrawal};
use crate::identity::{Ci, Subject, Verified};
use crate::policy::Scope;
use crate::sql::{Script, Statement};
use crate::tls::{Certificate, Leg, Verify};

/// Bytes of one bind parameter that are recorded; of what is longer the rest is counted.
const MAX_PARAM: usize = 1 << 20;

/// Columns of one statement that are recorded, read and written each: every one has its table's name with
/// it, so that they can be many times longer than the text.
const MAX_COLUMNS: usize = 1000;

/// Bytes of a text that is recorded of a question what the policies say of it.
const MAX_QUESTION: usize = 16 << 10;

/// Bytes of the reason why a text could not be read.
const MAX_ERROR: usize = 1024;

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

    pub(super) fn approval_requested(&mut self, session: SessionId, asked: &ApprovalRequested<'_>) {
        self.event(Some(session), 40, |body| requested(body, asked));
    }

    pub(super) fn approval_asked(&mut self, asked: &ApprovalAsked<'_>) {
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

    pub(super) fn approval_voted(&mut self, session: Option<SessionId>, request: &str, vote: &Vote) {
        self.event(session, 41, |body| {
            body.string(1, request);
            body.message(2, |field| approver(field, &vote.by));
            body.string(3, &vote.reason);
            body.string(4, vote.scope.word());
        });
    }

    pub(super) fn approval_decided(&mut self, session: Option<SessionId>, decided: &ApprovalDecided<'_>) {
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

/// A subject's bytes.
pub(crate) fn subject_bytes(of: &Subject) -> Vec<u8> {
    let mut bytes = Vec::new();
    subject(&mut Writer::new(&mut bytes), of);
    bytes
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn path(writer: &mut Writer<'_>, field: u32, path: &Path) {
    writer.string(field, &path.to_string_lossy());
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

fn statements(writer: &mut Writer<'_>, script: &Script, masked: bool) {
    let single = script.statements.len() == 1;
    for entry in &script.statements {
        writer.message(8, |field| statement(field, entry, !single && !masked, !masked));
    }
}

fn statement(writer: &mut Writer<'_>, statement: &Statement, with_text: bool, unmasked: bool) {
    if with_text {
        writer.string(1, &statement.text);
    }
    word(writer, 2, statement.kind);
    statement.kinds.iter().for_each(|kind| word(writer, 3, kind));
    statement.classes.iter().for_each(|class| word(writer, 4, class));
    statement.reads.iter().for_each(|relation| writer.display(5, relation));
    statement.writes.iter().for_each(|relation| writer.display(6, relation));
    statement.functions.iter().for_each(|function| writer.display(7, function));
    if let Some(clause) = statement.where_clause {
        word(writer, 8, clause);
    }
    if let Some(limit) = statement.limit {
        word(writer, 9, limit);
    }
    writer.bool(10, statement.dynamic);
    let mut omitted = 0;
    // Where something in the text was masked, a name in quotes may be it.
    let shown = |name: &str| unmasked || is_plain(name);
    for (field, columns) in [(11, &statement.columns_read), (12, &statement.columns_written)] {
        let mut written = 0;
        for column in columns.iter().filter(|column| shown(&column.name)).take(MAX_COLUMNS) {
            writer.display(field, column);
            written += 1;
        }
        omitted += columns.len() - written;
    }
    writer.uint(13, omitted as u64);
    writer.bool(14, statement.changes_lexing);
    statement.settings.iter().filter(|name| shown(name)).for_each(|setting| writer.string(15, setting));
    for (field, names) in [(16, &statement.executes), (17, &statement.prepares)] {
        names.iter().filter(|name| shown(name)).for_each(|name| writer.always_string(field, name));
    }
    for (field, clause) in [(19, statement.where_read), (20, statement.where_write)] {
        if let Some(clause) = clause {
            word(writer, field, clause);
        }
    }
    statement.limit_rows.iter().for_each(|rows| writer.display(21, rows));
    // The reason quotes the text.
    if let Some(error) = statement.error.as_ref().filter(|_| unmasked) {
        writer.always_string(18, error.get(..error.floor_char_boundary(MAX_ERROR)).unwrap_or_default());
    }
}

/// A name as people give them: `*`, or letters, digits, `_` and dots, not beginning with a digit.
fn is_plain(name: &str) -> bool {
    name == "*"
        || !name.starts_with(|c: char| c.is_ascii_digit())
            && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'.')
}

fn tls(writer: &mut Writer<'_>, leg: &Leg) {
    writer.string(1, leg.version);
    writer.string(2, &leg.cipher);
    writer.string(3, leg.server_name.as_deref().unwrap_or_default());
    writer.string(4, leg.alpn.as_deref().unwrap_or_default());
    if let Some(certificate) = &leg.certificate {
        writer.message(5, |field| write_certificate(field, certificate));
    }
    if let Some(verified) = &leg.verified {
        writer.string(6, verified.how.word());
        if verified.how == Verify::Full {
            verified.names.iter().for_each(|name| writer.always_string(7, name));
        }
    }
    writer.bool(8, leg.resumed);
}

fn write_certificate(writer: &mut Writer<'_>, certificate: &Certificate) {
    writer.string(1, &certificate.subject);
    writer.string(2, &certificate.issuer);
    writer.bytes(3, &certificate.sha256);
    writer.bytes(4, &certificate.key_sha256);
    writer.uint(5, certificate.not_after.cast_unsigned());
}

pub(super) fn subject(writer: &mut Writer<'_>, subject: &Subject) {
    writer.uint(1, subject.pid.into());
    writer.uint(2, subject.start_time_ns);
    writer.uint(3, subject.uid.into());
    writer.string(4, &subject.user);
    writer.uint(5, subject.gid.into());
    writer.string(6, &subject.group);
    if let Some(uid) = subject.login_uid {
        writer.always_uint(7, uid.into());
    }
    writer.string(8, &subject.login_user);
    if let Some(session) = subject.login_session {
        writer.always_uint(9, session.into());
    }
    path(writer, 10, &subject.exe);
    if let Some(script) = &subject.script {
        writer.always_string(11, &script.to_string_lossy());
    }
    writer.string(12, &subject.exe_sha256);
    subject.argv.iter().for_each(|argument| writer.always_string(13, argument));
    path(writer, 14, &subject.cwd);
    writer.string(15, &subject.cgroup);
    writer.string(16, &subject.unit);
    writer.string(17, &subject.container);
    for ancestor in &subject.ancestors {
        writer.message(18, |field| {
            field.uint(1, ancestor.pid.into());
            field.uint(2, ancestor.uid.into());
            path(field, 3, &ancestor.exe);
            ancestor.argv.iter().for_each(|argument| field.always_string(4, argument));
        });
    }
    if subject.ci != Ci::default() {
        writer.message(19, |field| ci(field, &subject.ci));
    }
    subject.missing.iter().for_each(|what| writer.always_string(20, what));
    if let Some(person) = &subject.person {
        writer.message(60, |field| verified(field, person));
    }
    if let Some(workload) = &subject.workload {
        writer.message(61, |field| verified(field, workload));
    }
    if let Some(claimed) = &subject.login_claimed {
        writer.message(76, |field| {
            field.uint(1, claimed.uid.into());
            field.string(2, &claimed.user);
            if let Some(session) = claimed.session {
                field.always_uint(3, session.into());
            }
        });
    }
}

fn verified(writer: &mut Writer<'_>, identity: &Verified) {
    writer.string(1, identity.kind.word());
    writer.string(2, &identity.issuer_name);
    writer.string(3, &identity.issuer);
    writer.string(4, &identity.subject);
    writer.string(5, &identity.name);
    identity.groups.iter().for_each(|group| writer.always_string(6, group));
    let job = &identity.job;
    let job = [&job.project, &job.branch, &job.environment, &job.actor];
    (7..).zip(job).for_each(|(field, value)| writer.string(field, value));
    for (name, value) in &identity.recorded {
        writer.message(11, |entry| {
            entry.string(1, name);
            entry.string(2, value);
        });
    }
    writer.uint(12, seconds(identity.expires));
    writer.uint(13, identity.authenticated.map_or(0, seconds));
    writer.string(14, &identity.token_hash);
}

/// Since 1970; what was before is nothing.
fn seconds(at: jiff::Timestamp) -> u64 {
    at.as_second().try_into().unwrap_or_default()
}

fn ci(writer: &mut Writer<'_>, ci: &Ci) {
    let fields =
        [&ci.system, &ci.project, &ci.pipeline, &ci.job, &ci.run, &ci.branch, &ci.commit, &ci.actor, &ci.url];
    (1..).zip(fields).for_each(|(field, value)| writer.string(field, value));
    for (name, value) in &ci.variables {
        writer.message(10, |entry| {
            entry.string(1, name);
            entry.string(2, value);
        });
    }
}
