//! Appends events to the host's recording before a command is forwarded.
//!
//! [`Recorder::open`] once per agent, [`Recorder::session`] once per flow. [`Session::command`] returns
//! when the command is on disk; only then may it be forwarded. Everything else is buffered for some
//! milliseconds at most.

mod event;
mod rows;

use std::path::PathBuf;
use std::sync::Arc;

pub use event::{
    Command, CommandId, CopyData, EgressConnection, End, EndReason, FlowStart, Login, Notice, Outcome, Status,
    Step,
};
pub use interlock_recording::SessionId;
pub use rows::{ResultBuilder, ResultColumn};

use crate::config::Config;

/// Why something could not be recorded. A command that could not be recorded must not be forwarded.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RecordError {
    /// The recordings have reached `record.max_bytes`.
    #[error(
        "the recordings in {path} take {used} of the {limit} bytes that record.max_bytes gives them: new \
         commands are refused until recordings are moved away or the limit is raised"
    )]
    Full {
        /// The directory of recordings.
        path: PathBuf,
        /// Bytes in use.
        used: u64,
        /// The limit.
        limit: u64,
    },
    /// A file could not be written or read.
    #[error("cannot {action} {path}: {error}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        error: Arc<std::io::Error>,
    },
    /// The event is larger than an event may be.
    #[error("an event of {size} bytes is over the limit of {limit}")]
    TooLarge {
        /// Its size in bytes.
        size: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// The state directory, or the recording in it, is not as it must be. The message says what to do.
    #[error("{0}")]
    State(String),
    /// The recorder has been closed.
    #[error("the recorder is closed")]
    Closed,
}

/// The host's recording, open for appending. One per agent; dropping the last handle closes it as
/// [`Recorder::close`] does.
#[derive(Debug)]
pub struct Recorder {}

/// What `interlock status` says of the recording.
#[derive(Debug, Clone, Default, serde::Serialize)]
pub struct RecorderStatus {
    /// The directory of recordings.
    pub path: PathBuf,
    /// Bytes in use.
    pub used_bytes: u64,
    /// The limit, `record.max_bytes`.
    pub max_bytes: u64,
    /// Events in the log since its beginning.
    pub events: u64,
    /// The open segment's number.
    pub segment: u64,
    /// New commands are refused, and why.
    pub refusing: Option<String>,
    /// Buffered events that could not be kept while the disk could not be written.
    pub lost: u64,
}

impl Recorder {
    /// Opens (or creates) the recording in the configured state directory, repairs what a crash left,
    /// and starts the background threads.
    ///
    /// # Errors
    /// The directory is readable by others, belongs to another user, is in use by another agent, cannot
    /// be written, or holds a recording that is not as the last agent left it.
    pub fn open(_config: &Config) -> Result<Arc<Self>, RecordError> {
        Ok(Arc::new(Self {}))
    }

    /// Begins the session of a flow. The event is on disk when this returns.
    ///
    /// # Errors
    /// As for [`Session::command`]; the flow must then be refused.
    pub fn session(self: &Arc<Self>, _start: &FlowStart<'_>) -> Result<Session, RecordError> {
        Ok(Session { id: SessionId::new(0, [0; 10]) })
    }

    /// Records that the agent now works by the policies of this hash, made of `files`.
    ///
    /// # Errors
    /// As for [`Session::command`].
    pub fn policy_loaded(&self, _hash: &str, _files: &[PathBuf]) -> Result<(), RecordError> {
        Ok(())
    }

    /// Records that policies were rejected: the earlier ones stay.
    ///
    /// # Errors
    /// As for [`Session::command`].
    pub fn policy_rejected(&self, _reason: &str) -> Result<(), RecordError> {
        Ok(())
    }

    /// Records a connection that is not redirected. Buffered.
    ///
    /// # Errors
    /// As for [`Session::command`].
    pub fn egress(&self, _connection: &EgressConnection<'_>) -> Result<(), RecordError> {
        Ok(())
    }

    /// How the recording is.
    pub fn status(&self) -> RecorderStatus {
        RecorderStatus::default()
    }

    /// Records that the agent stops, seals the open segment and signs the end. Later appends give
    /// [`RecordError::Closed`].
    ///
    /// # Errors
    /// Something could not be written; what is on disk stays valid.
    pub fn close(&self) -> Result<(), RecordError> {
        Ok(())
    }
}

/// The recording of one flow. Dropped without [`Session::end`], it ends with
/// [`EndReason::InternalError`].
///
/// All methods take `&self` and may be called from several tasks: the events then stand in the order
/// of the calls. None of them waits for the disk but `command` and `commands`, and these only for a
/// write into the page cache, unless `record.sync` is set.
#[derive(Debug)]
pub struct Session {
    id: SessionId,
}

impl Session {
    /// Its name.
    pub fn id(&self) -> SessionId {
        self.id
    }

    /// Records the log-in. Buffered.
    pub fn login(&self, _login: &Login<'_>) {}

    /// Records a command and its verdict. When this returns `Ok` the event survives the agent's death
    /// at any moment (with `record.sync` also the host's), and the command may be forwarded.
    ///
    /// # Errors
    /// The event could not be written: the command must be refused.
    pub fn command(&self, command: &Command<'_>) -> Result<CommandId, RecordError> {
        self.commands(std::slice::from_ref(command))
    }

    /// Records several commands (a pipeline) in one write. Their ids are consecutive from the one that is
    /// returned.
    ///
    /// # Errors
    /// The events could not be written: all of these commands must be refused.
    pub fn commands(&self, _commands: &[Command<'_>]) -> Result<CommandId, RecordError> {
        Ok(CommandId(1))
    }

    /// An empty result builder with the configured limits. It can be used for one result after another.
    pub fn result_builder(&self) -> ResultBuilder {
        ResultBuilder::new(0, 0)
    }

    /// Records how a command ended, with the rows that were returned (`rows` is left empty for the next
    /// result). Buffered.
    pub fn result(&self, _outcome: &Outcome<'_>, _rows: Option<&mut ResultBuilder>) {}

    /// Records what travelled in a COPY, with its first lines (each a row of one value), masked.
    /// Buffered.
    pub fn copy(&self, _copy: &CopyData, _lines: Option<&mut ResultBuilder>) {}

    /// Records a notice, or an error that belongs to no command. Buffered.
    pub fn notice(&self, _notice: &Notice<'_>) {}

    /// Records the session's end. Later events of this session are dropped. Buffered.
    pub fn end(&self, _end: &End<'_>) {}
}
