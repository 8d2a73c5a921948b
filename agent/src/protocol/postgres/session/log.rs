//! The flow's recording: commands in batches, each batch on disk before any of it is forwarded.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::operation::Operation;
use crate::policy::Decision;
use crate::protocol::SessionError;
use crate::record::{
    Approval, Command, CommandId, CopyData, End, EndReason, Notice, Outcome, RecordError, ResultBuilder,
    Session, Status, Step,
};

/// Commands in one batch at the most.
const BATCH: usize = 256;

/// A judged command that waits for its batch.
#[derive(Debug)]
pub(super) struct Note {
    pub(super) step: Step,
    /// The text, masked.
    pub(super) text: Arc<str>,
    pub(super) statement: String,
    pub(super) portal: String,
    /// Parameters, masked.
    pub(super) params: Vec<Option<String>>,
    pub(super) of: Option<CommandId>,
    pub(super) operation: Option<Operation>,
    pub(super) decision: Arc<Decision>,
    /// Where a rule held it: how that ended.
    pub(super) approval: Option<Approval>,
}

impl Note {
    pub(super) fn new(step: Step, text: Arc<str>, decision: Arc<Decision>) -> Self {
        Self {
            step,
            text,
            statement: String::new(),
            portal: String::new(),
            params: Vec::new(),
            of: None,
            operation: None,
            decision,
            approval: None,
        }
    }

    fn command(&self) -> Command<'_> {
        Command {
            step: self.step,
            text: &self.text,
            statement: &self.statement,
            portal: &self.portal,
            params: &self.params,
            of: self.of,
            operation: self.operation.as_ref(),
            decision: &self.decision,
            approval: self.approval.as_ref(),
        }
    }
}

/// The recording session of a flow.
#[derive(Debug)]
pub(super) struct Log {
    session: Session,
    batch: Vec<Note>,
    /// The id of the next command.
    next: u64,
    /// The result that is coming in.
    pub(super) rows: ResultBuilder,
}

impl Log {
    pub(super) fn new(session: Session) -> Self {
        let rows = session.result_builder();
        Self { session, batch: Vec::new(), next: 1, rows }
    }

    pub(super) fn session(&self) -> &Session {
        &self.session
    }

    /// The id that the next command will have.
    pub(super) fn next(&self) -> CommandId {
        CommandId(self.next + self.batch.len() as u64)
    }

    /// Adds a command to the batch, and says which id it will have.
    pub(super) fn command(&mut self, note: Note) -> CommandId {
        let id = self.next();
        self.batch.push(note);
        id
    }

    /// The batch is as large as one should get: what waits in it takes memory.
    pub(super) fn is_full(&self) -> bool {
        self.batch.len() >= BATCH
    }

    /// Puts the batch on disk.
    pub(super) fn flush(&mut self) -> Result<(), RecordError> {
        let first = match self.batch.as_slice() {
            [] => return Ok(()),
            [one] => self.session.command(&one.command()),
            all => self.session.commands(&all.iter().map(Note::command).collect::<Vec<_>>()),
        };
        let count = self.batch.len() as u64;
        self.batch.clear();
        if self.batch.capacity() > 64 {
            self.batch = Vec::new();
        }
        // Nobody else appends commands to this session, so the ids given out beforehand hold; those of
        // commands that could not be recorded are not given out again.
        self.next += count;
        first.map(drop)
    }

    /// Puts the batch, which is all of refused commands, on disk if that is possible.
    pub(super) fn flush_refused(&mut self) {
        // The commands do not go to the server whether this succeeds or not.
        let _ = self.flush();
    }

    /// Notes how a command ended, with the rows gathered.
    pub(super) fn result(&mut self, command: CommandId, status: Status<'_>, since: Instant) {
        let outcome = Outcome { command, status, duration: since.elapsed() };
        self.session.result(&outcome, Some(&mut self.rows));
        self.rows.clear();
    }

    /// Notes that a command was never run.
    pub(super) fn skipped(&mut self, command: CommandId) {
        self.session.result(&Outcome { command, status: Status::Skipped, duration: Duration::ZERO }, None);
    }

    pub(super) fn copy(&mut self, copy: &CopyData) {
        self.session.copy(copy, None);
    }

    pub(super) fn notice(&self, severity: &[u8], sqlstate: &[u8], message: &str) {
        self.session.notice(&Notice { severity: &lossy(severity), sqlstate: &lossy(sqlstate), message });
    }

    /// Ends the recording.
    pub(super) fn end(&self, reason: EndReason, detail: &str, client_bytes: u64, server_bytes: u64) {
        self.session.end(&End { reason, detail, client_bytes, server_bytes });
    }

    /// Ends it with what went wrong.
    pub(super) fn failed(&self, error: &SessionError, client_bytes: u64, server_bytes: u64) {
        let reason = match error {
            SessionError::Client(_) => EndReason::ClientClosed,
            SessionError::Server(_) => EndReason::ServerClosed,
            SessionError::Frontend(_) | SessionError::Backend(_) => EndReason::ProtocolError,
            SessionError::Login(_) => EndReason::LoginFailed,
            SessionError::Recording(_) => EndReason::RecordingFailed,
            SessionError::Refused { .. } => EndReason::Refused,
            SessionError::Stopping => EndReason::Shutdown,
            SessionError::CutOff(_) => EndReason::CutOff,
        };
        self.end(reason, &error.to_string(), client_bytes, server_bytes);
    }
}

/// Bytes of the server or client for a human.
pub(super) fn lossy(bytes: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(bytes)
}
