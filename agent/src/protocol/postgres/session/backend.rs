//! What the server sends: followed in the mirror of what it owes, masked, recorded.

use std::sync::Arc;

use super::cancel::Cancel;
use super::judge::REDACTED;
use super::log::lossy;
use super::masking::RowPlan;
use super::pending::{Desync, What};
use super::pipe::{Edit, Pipe};
use super::{Core, Phase, Rest};
use crate::protocol::SessionError;
use crate::protocol::postgres::codec::{self, HEADER, Header, Reader};
use crate::record::{self, BrokeredLogin, Login, ResultColumn, Status};
use crate::sql;

/// A longer row is recorded by its size alone.
const RECORDED_ROW: usize = 64 << 10;

/// What to do with a message.
pub(super) enum Verdict {
    /// It is not whole yet and must be.
    NeedMore,
    /// It passes as it comes.
    Pass,
    /// It was replaced, or is kept from the client.
    Drop,
}

impl From<Desync> for SessionError {
    fn from(error: Desync) -> Self {
        Self::Backend(error.to_string())
    }
}

pub(super) fn malformed(error: impl std::fmt::Display) -> SessionError {
    SessionError::Backend(error.to_string())
}

impl Core {
    /// Takes what the server has sent.
    pub(super) fn server(&mut self, pipe: &mut Pipe) -> Result<(), SessionError> {
        self.reset_scratch();
        let bytes = pipe.undecided();
        let mut at = 0;
        while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
            if self.from_server.left > 0 {
                let here = self.from_server.left.min(rest.len());
                if self.from_server.discard {
                    self.edits.push(Edit { at, remove: here, insert: 0 });
                }
                self.from_server.left -= here;
                at += here;
                continue;
            }
            let Some(header) = self.server_header(rest)? else { break };
            let body = rest.get(HEADER..header.total().min(rest.len())).unwrap_or_default();
            let start = self.scratch.len();
            let verdict = self.server_message(header, body)?;
            if self.scratch.len() > start {
                self.edits.push(Edit { at, remove: 0, insert: self.scratch.len() - start });
            }
            let discard = match verdict {
                Verdict::NeedMore => break,
                Verdict::Pass => false,
                Verdict::Drop => true,
            };
            self.from_server = Rest { left: header.total(), discard };
        }
        pipe.release(at, &self.edits, &self.scratch);
        self.reset_scratch();
        Ok(())
    }

    fn server_header(&self, bytes: &[u8]) -> Result<Option<Header>, SessionError> {
        match Header::read(bytes) {
            // A postmaster that cannot even fork answers in the words of protocol 1: `E`, a text, a zero
            // byte. It sends nothing else.
            Ok(Some(header)) if self.phase == Phase::Login && header.tag == b'E' && header.body > 30_000 => {
                Ok(Some(Header { tag: b'!', body: usize::MAX - HEADER }))
            }
            Ok(header) => Ok(header),
            Err(_) if self.phase == Phase::Login && bytes.first() == Some(&b'E') => {
                Ok(Some(Header { tag: b'!', body: usize::MAX - HEADER }))
            }
            Err(error) => Err(malformed(error)),
        }
    }

    fn server_message(&mut self, header: Header, body: &[u8]) -> Result<Verdict, SessionError> {
        match header.tag {
            b'!' => return Ok(Verdict::Pass),
            b'D' => return self.data_row(header, body),
            b'd' => return self.copy_data(header, body),
            _ => {}
        }
        if body.len() < header.body {
            if header.body > self.limits.row {
                return Err(malformed(format_args!(
                    "message {:?} of {} bytes is longer than {} bytes",
                    char::from(header.tag),
                    header.body,
                    self.limits.row
                )));
            }
            return Ok(Verdict::NeedMore);
        }
        match header.tag {
            b'N' => return Ok(self.notice(body)),
            b'A' => return Ok(self.notification(body)),
            b'S' => return self.parameter_status(body).map_err(malformed),
            _ => {}
        }
        if self.phase == Phase::Login { self.login_message(header, body) } else { self.answer(header, body) }
    }

    fn logs_in_by(&mut self, method: &'static str) {
        if let Some(login) = &mut self.login {
            login.method = method;
        }
    }

    fn login_message(&mut self, header: Header, body: &[u8]) -> Result<Verdict, SessionError> {
        match header.tag {
            b'R' => match Reader::new(body).i32().map_err(malformed)? {
                0 => {}
                3 => self.logs_in_by("cleartext"),
                5 => self.logs_in_by("md5"),
                10 => {
                    self.logs_in_by("scram-sha-256");
                    if let Some(offer) = self.sasl.offered(body)? {
                        codec::put_message(&mut self.scratch, b'R', |out| out.extend_from_slice(&offer));
                        return Ok(Verdict::Drop);
                    }
                }
                11 | 12 => {}
                2 | 6 | 7 | 8 | 9 => {
                    return Err(SessionError::Backend(
                        "the server asks for GSSAPI, SSPI or another log-in that is bound to the host name: \
                         let it accept scram-sha-256 from this host (pg_hba.conf), or set \
                         gssencmode=disable and require_auth on the client"
                            .to_owned(),
                    ));
                }
                other => return Err(malformed(format_args!("unknown authentication method {other}"))),
            },
            b'K' => {
                self.process = Reader::new(body).i32().map_err(malformed)?;
                self.cancel = Cancel::new(body).map(Box::new);
            }
            b'v' => {}
            b'E' => {
                let field = |wanted| codec::notice_fields(body).find(|&(code, _)| code == wanted);
                let text = |wanted| field(wanted).map(|(_, text)| text).unwrap_or_default();
                let message = lossy(text(b'M'));
                self.log.notice(text(b'V'), text(b'C'), &self.recordable(&message));
                self.login_failed = true;
            }
            b'Z' => {
                self.status = body.first().copied().unwrap_or(super::judge::IDLE);
                self.phase = Phase::Ready;
                let Some(login) = self.login.take() else { return Err(Desync { tag: b'Z' }.into()) };
                if let (Some(cancel), Some(leg)) = (&mut self.cancel, &login.legs.server) {
                    cancel.encrypted_as(leg);
                }
                let parameters: Vec<_> =
                    login.parameters.iter().map(|(name, value)| (&**name, &**value)).collect();
                self.log.session().login(&Login {
                    user: &self.user,
                    database: &self.database,
                    parameters: &parameters,
                    auth_method: login.method,
                    server_version: &login.server_version,
                    client_tls: login.legs.client.as_deref(),
                    server_tls: login.legs.server.as_deref(),
                    brokered: login.brokered.as_deref().map(|brokered| BrokeredLogin {
                        credential: &brokered.credential,
                        client_auth: brokered.client_auth,
                        user: &brokered.user,
                        database: &brokered.database,
                    }),
                });
            }
            tag => return Err(Desync { tag }.into()),
        }
        Ok(Verdict::Pass)
    }

    /// An answer to what the client (or the agent) has asked.
    fn answer(&mut self, header: Header, body: &[u8]) -> Result<Verdict, SessionError> {
        let tag = header.tag;
        let desync = || SessionError::from(Desync { tag });
        if tag == b'E' {
            // The agent's own looks change nothing.
            if !matches!(self.pending.front().map(|front| &front.what), Some(What::Own { sync: true })) {
                self.surroundings_failed();
            }
            return self.error(body);
        }
        if tag == b'Z' {
            return self.ready(body);
        }
        let front = self.pending.front().ok_or_else(desync)?;
        match (tag, &front.what) {
            // The agent's own query of the catalog: nothing of its answer concerns the client.
            (b'T' | b'C', What::Catalog) => return Ok(Verdict::Drop),
            (b'1' | b'2' | b'3' | b'C', What::Own { sync }) => {
                let sync = *sync;
                if self.look_goes_on(tag) && !sync {
                    self.pending.pop();
                    self.look_answered();
                }
                return Ok(Verdict::Drop);
            }
            (b'1', What::Parse(_)) => {
                if let Some(What::Parse(Some(prepared))) = self.pending.pop().map(|entry| entry.what) {
                    // It could be prepared, so the name was free before.
                    self.names.prepared(&prepared);
                }
            }
            (b'2', What::Bind(portal)) => {
                self.names.bound(portal);
                self.pending.pop();
            }
            (b'3', What::ClosePortal { name, before }) => {
                self.names.close_portal(name, *before);
                self.pending.pop();
            }
            (b'3', What::CloseStatement { .. }) => {
                if let Some(What::CloseStatement { name, before }) =
                    self.pending.pop().map(|entry| entry.what)
                {
                    self.names.close(Some(&name), before);
                }
            }
            (b't', What::DescribeStatement(prepared)) => {
                if let Some(prepared) = prepared {
                    let mut reader = Reader::new(body);
                    let count = reader.count().map_err(malformed)?;
                    let types: Result<Box<[u32]>, _> = (0..count).map(|_| reader.oid()).collect();
                    let _ = prepared.types.set(types.map_err(malformed)?);
                }
            }
            (b'T' | b'n', What::DescribeStatement(_)) => {
                self.pending.pop();
            }
            (b'T' | b'n', What::DescribePortal { .. }) => {
                let Some(What::DescribePortal { found, plan, injected }) =
                    self.pending.pop().map(|entry| entry.what)
                else {
                    return Err(desync());
                };
                if tag == b'T' {
                    self.portal_described(&found, &plan, body).map_err(malformed)?;
                }
                return Ok(if injected { Verdict::Drop } else { Verdict::Pass });
            }
            (b'T', What::Query) => {
                let run = front.run.take().ok_or_else(desync)?;
                let statements: Vec<_> = run.statements.clone();
                let plan = self.plan_of(&statements, run.index, body).map_err(malformed)?;
                self.begin_rows(&plan);
                self.current = Some(plan);
                if let Some(front) = self.pending.front() {
                    front.run = Some(run);
                }
            }
            (b'C' | b'I', What::Query) => self.query_complete(tag, body)?,
            (b'C' | b'I' | b's', What::Execute) => self.execute_complete(tag, body)?,
            (b'V', What::Function) => return Ok(self.function_result(body)),
            (b'G', What::Query | What::Execute) => self.pending.copy_in(),
            (b'H', What::Query | What::Execute) => self.copy_out()?,
            (b'W', What::Query) if self.replication => {}
            (b'c', What::Query | What::Execute) => return self.copy_done(),
            _ => return Err(desync()),
        }
        Ok(Verdict::Pass)
    }

    fn ready(&mut self, body: &[u8]) -> Result<Verdict, SessionError> {
        let entry = self.pending.ready()?;
        self.status = body.first().copied().unwrap_or(super::judge::IDLE);
        self.current = None;
        self.copying = None;
        self.report_skipped();
        if !self.pending.busy() {
            self.lexing.settled();
            self.surroundings_answered();
            if self.status == super::judge::IDLE {
                self.opaque = false;
                if std::mem::take(&mut self.made.tell) {
                    self.changes.count();
                }
                self.names.transaction_ended();
            }
        }
        if matches!(entry.what, What::Catalog) {
            self.catalog_read();
            return Ok(Verdict::Drop);
        }
        if matches!(entry.what, What::Own { .. }) {
            self.look_ended();
            return Ok(Verdict::Drop);
        }
        if let (What::Function, Some(run)) = (&entry.what, &entry.run)
            && let Some(command) = run.command
        {
            self.log.result(command, Status::Complete(""), run.since);
        }
        Ok(Verdict::Pass)
    }

    fn report_skipped(&mut self) {
        for command in self.pending.take_skipped() {
            self.log.skipped(command);
        }
    }

    /// ErrorResponse: passed on, masked, or replaced by the refusal that caused it.
    fn error(&mut self, body: &[u8]) -> Result<Verdict, SessionError> {
        let field =
            |wanted| codec::notice_fields(body).find(|&(code, _)| code == wanted).map(|(_, text)| text);
        // Servers before 9.6 have no V.
        let severity = field(b'V').or_else(|| field(b'S')).unwrap_or_default();
        let fatal = matches!(severity, b"FATAL" | b"PANIC");
        let context = self.context();
        if fatal {
            self.explain_end();
        }
        let start = self.scratch.len();
        if let Some(front) = self.pending.front()
            && let Some(refusal) = &front.refusal
            && refusal.put_error(&mut self.scratch, body)
        {
            let run = front.run.take();
            if let Some(run) = run
                && let Some(command) = run.command
                && let Some(refusal) = front.refusal.take()
            {
                let status = Status::Refused { sqlstate: refusal.code, message: &refusal.message };
                self.log.result(command, status, run.since);
            }
            self.pending.failed()?;
            self.look_skipped();
            self.report_skipped();
            return Ok(Verdict::Drop);
        }
        self.scratch.truncate(start);
        if matches!(self.pending.front().map(|front| &front.what), Some(What::Catalog)) && !fatal {
            self.reading = None;
            return Ok(Verdict::Drop);
        }
        if matches!(self.pending.front().map(|front| &front.what), Some(What::Own { sync: true })) && !fatal {
            self.look_failed(body);
            return Ok(Verdict::Drop);
        }
        let replaced = self.replace_notice(b'E', body, &context);
        let recorded = self.recorded_notice(body, &context, replaced);
        let text = |wanted| {
            codec::notice_fields(&recorded)
                .find(|&(code, _)| code == wanted)
                .map(|(_, text)| text)
                .unwrap_or_default()
        };
        let (state, message) = (lossy(text(b'C')).into_owned(), lossy(text(b'M')).into_owned());
        let secrets = self.pending.front().map(|front| match (&front.what, &front.run) {
            (What::Parse(Some(prepared)), _) => {
                prepared.secrets.words(&prepared.text).map(str::to_owned).collect()
            }
            // A parameter that is no value of its type.
            (What::Bind(portal), _) => portal.given_secrets().collect(),
            (_, Some(run)) => run.secrets(),
            (_, None) => Vec::new(),
        });
        let message = self.recordable_message(&message, &secrets.unwrap_or_default());
        let run = self.pending.front().and_then(|front| front.run.take());
        if let Some(prepared) = run.as_ref().and_then(|run| run.statements.first())
            && let [statement] = prepared.script.statements.as_slice()
        {
            statement.prepares.iter().for_each(|name| self.names.not_prepared(name, prepared.order));
        }
        match run {
            Some(run) if run.command.is_some() => {
                if let [text] = run.statements.as_slice()
                    && super::notice::is_syntax_error(body)
                {
                    self.rejected(text.order);
                }
                if let Some(command) = run.command {
                    self.log.result(
                        command,
                        Status::Error { sqlstate: &state, message: &message },
                        run.since,
                    );
                }
            }
            _ => self.log.notice(severity, state.as_bytes(), &message),
        }
        self.current = None;
        self.copying = None;
        self.made.failed();
        if !fatal && let Some(failed) = self.pending.failed()? {
            failed.what.failed();
        }
        self.look_skipped();
        self.report_skipped();
        Ok(if replaced.is_some() { Verdict::Drop } else { Verdict::Pass })
    }

    /// One statement of a Query is done.
    fn query_complete(&mut self, tag: u8, body: &[u8]) -> Result<(), SessionError> {
        let copied_in = self.pending.copy_in_complete(tag)?;
        self.current = None;
        self.copying = None;
        let Some(front) = self.pending.front() else { return Ok(()) };
        let Some(run) = &mut front.run else { return Ok(()) };
        run.index += 1;
        if let Some(prepared) = run.statements.first()
            && prepared.script.statements.len() <= 1
        {
            let names: Vec<_> =
                prepared.script.statements.iter().flat_map(|one| one.prepares.iter().cloned()).collect();
            let order = prepared.order;
            self.names.tag(Reader::new(body).cstr().unwrap_or_default(), &names, order);
        }
        let Some(front) = self.pending.front() else { return Ok(()) };
        if let Some(run) = &mut front.run
            && let Some(command) = run.command
        {
            let copied = std::mem::take(&mut run.copied);
            let since = run.since;
            self.copied(command, copied, copied_in);
            self.complete(command, since, tag, body);
        }
        Ok(())
    }

    fn execute_complete(&mut self, tag: u8, body: &[u8]) -> Result<(), SessionError> {
        let copied_in = self.pending.copy_in_complete(tag)?;
        self.copying = None;
        self.current = None;
        if let Some(entry) = self.pending.pop()
            && let Some(run) = entry.run
            && let Some(command) = run.command
        {
            self.copied(command, run.copied, copied_in);
            self.complete(command, run.since, tag, body);
        }
        Ok(())
    }

    /// Notes what travelled in a COPY that is complete.
    fn copied(&mut self, command: record::CommandId, out: (u64, u64), inward: bool) {
        if out.0 > 0 {
            self.log.copy(&record::CopyData { command, to_client: true, messages: out.0, bytes: out.1 });
        }
        if inward {
            let (messages, bytes) = std::mem::take(&mut self.copied_in);
            self.log.copy(&record::CopyData { command, to_client: false, messages, bytes });
        }
    }

    fn complete(&mut self, command: record::CommandId, since: std::time::Instant, tag: u8, body: &[u8]) {
        self.count_masked();
        let text = Reader::new(body).cstr().unwrap_or_default();
        let status = match tag {
            b's' => Status::Suspended,
            _ => Status::Complete(std::str::from_utf8(text).unwrap_or_default()),
        };
        self.log.result(command, status, since);
    }

    fn count_masked(&mut self) {
        if !self.fired.is_empty() {
            for name in self.fired.names(self.flow.masks()) {
                self.log.rows.masked(name, 1);
            }
            self.fired.clear();
        }
    }

    fn begin_rows(&mut self, plan: &RowPlan) {
        let Ok(fields) = codec::fields(&plan.description) else { return };
        let masks = self.flow.record_masks();
        let fields: Vec<_> = fields.map_while(Result::ok).collect();
        let names: Vec<_> = fields
            .iter()
            .map(|field| masks.mask_text(std::str::from_utf8(field.name).unwrap_or("?")))
            .collect();
        self.log.rows.columns(fields.iter().zip(&names).map(|(field, name)| ResultColumn {
            name,
            type_oid: field.kind,
            format: field.format,
        }));
    }

    fn data_row(&mut self, header: Header, body: &[u8]) -> Result<Verdict, SessionError> {
        let whole = body.len() == header.body;
        let front = self.pending.front().ok_or(Desync { tag: b'D' })?;
        match front.what {
            What::Own { .. } if !whole && header.body <= self.limits.row => return Ok(Verdict::NeedMore),
            What::Own { .. } => {
                self.look_row(body);
                return Ok(Verdict::Drop);
            }
            What::Catalog if !whole && header.body <= self.limits.row => return Ok(Verdict::NeedMore),
            What::Catalog => {
                if let Some(reading) = &mut self.reading {
                    reading.row(body);
                }
                return Ok(Verdict::Drop);
            }
            What::Query | What::Execute => {}
            _ => return Err(Desync { tag: b'D' }.into()),
        }
        if self.current.is_none()
            && matches!(front.what, What::Execute)
            && let Some(plan) = front.run.as_ref().and_then(|run| run.plan.get())
        {
            let plan = Arc::clone(plan);
            self.begin_rows(&plan);
            self.current = Some(plan);
        }
        let masks = self.flow.masks();
        if self.current.as_ref().is_none_or(|plan| !plan.masks) {
            if self.current.is_none() && !masks.is_empty() {
                return Err(malformed("a row came whose columns are not known, so it cannot be masked"));
            }
            return self.plain_row(header, body);
        }
        if !whole {
            if header.body > self.limits.row {
                return Err(malformed(format_args!(
                    "a row of {} bytes is longer than {} bytes, more than can be masked",
                    header.body, self.limits.row
                )));
            }
            return Ok(Verdict::NeedMore);
        }
        let secrets = self.running_secrets();
        let masks = self.flow.masks();
        let Some(plan) = &self.current else { return Err(Desync { tag: b'D' }.into()) };
        let start = self.scratch.len();
        let changed = Self::mask_row(masks, plan, body, &mut self.cell, &mut self.scratch, &mut self.fired)
            .map_err(malformed)?;
        let shown = if changed { self.scratch.get(start + HEADER..).unwrap_or_default() } else { body };
        // Masks in observe mode hold for the recording alone: then rows are only counted.
        if Arc::ptr_eq(masks, self.flow.record_masks()) {
            record_row(&mut self.log.rows, header.total(), shown, &secrets);
        } else {
            self.log.rows.count_row(header.total() as u64);
        }
        Ok(if changed { Verdict::Drop } else { Verdict::Pass })
    }

    fn plain_row(&mut self, header: Header, body: &[u8]) -> Result<Verdict, SessionError> {
        let masks = (self.flow.masks(), self.flow.record_masks());
        if !self.log.rows.wants_row() || header.body > RECORDED_ROW || !Arc::ptr_eq(masks.0, masks.1) {
            self.log.rows.count_row(header.total() as u64);
            return Ok(Verdict::Pass);
        }
        if body.len() < header.body {
            return Ok(Verdict::NeedMore);
        }
        let secrets = self.running_secrets();
        record_row(&mut self.log.rows, header.total(), body, &secrets);
        Ok(Verdict::Pass)
    }

    /// The secrets that the running statement was given, as long as its rows are recorded.
    fn running_secrets(&mut self) -> Vec<String> {
        if !self.log.rows.wants_row() {
            return Vec::new();
        }
        let run = self.pending.front().and_then(|front| front.run.as_ref());
        run.map(|run| run.secrets()).unwrap_or_default()
    }

    fn function_result(&mut self, body: &[u8]) -> Verdict {
        let masks = Arc::clone(self.flow.masks());
        let Ok(Some(value)) = Reader::new(body).value() else { return Verdict::Pass };
        let mut masked = Vec::new();
        if !masks.detect(value, &mut masked, &mut self.fired) {
            return Verdict::Pass;
        }
        codec::put_message(&mut self.scratch, b'V', |out| {
            out.extend_from_slice(&u32::try_from(masked.len()).unwrap_or(u32::MAX).to_be_bytes());
            out.extend_from_slice(&masked);
        });
        Verdict::Drop
    }
}

fn record_row(rows: &mut record::ResultBuilder, bytes: usize, body: &[u8], secrets: &[String]) {
    if rows.wants_row()
        && let Ok(values) = codec::values(body)
    {
        let shown = |value: &'_ [u8]| !secrets.is_empty() && sql::repeats(secrets, value);
        rows.push_row(
            bytes as u64,
            values.map(|value| {
                let value = value.ok().flatten()?;
                Some(if shown(value) { REDACTED.as_bytes() } else { value })
            }),
        );
    } else {
        rows.count_row(bytes as u64);
    }
}
