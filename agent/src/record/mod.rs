//! Appends events to the host's recording before a command is forwarded.
//!
//! [`Recorder::open`] once per agent, [`Recorder::session`] once per flow. [`Session::command`] returns
//! when the command is on disk; only then may it be forwarded. Everything else is buffered for some
//! milliseconds at most.

pub mod cli;
mod encode;
mod event;
mod files;
mod log;
mod person;
mod rows;
mod shipped;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_shipped;
mod worker;

use std::cell::RefCell;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

pub use event::{
    Approval, ApprovalAsked, ApprovalDecided, ApprovalRequested, BrokeredLogin, Command, CommandId, CopyData,
    EgressConnection, End, EndReason, FlowStart, Login, Notice, Outcome, PolicyExplained, Status, Step,
    TlsPassed, TokenRefused,
};
pub(crate) use files::private_directory;
pub use interlock_recording::SessionId;
pub use rows::{ResultBuilder, ResultColumn};
pub use shipped::Kept;

use crate::approval::Vote;
use crate::config::Config;
use crate::identity::Subject;
use crate::identity::login::PersonEvent;
use encode::Batch;
pub(crate) use encode::subject_bytes;
use interlock_recording::order::Order;
use interlock_recording::{HostKey, fill_random};
use log::{Class, Limits, Log};
use worker::Workers;

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

impl RecordError {
    fn io(action: &'static str, path: &Path, error: std::io::Error) -> Self {
        Self::Io { action, path: path.into(), error: Arc::new(error) }
    }
}

/// Where the recordings lie below the state directory.
pub const SESSIONS: &str = "sessions";
/// Where the host's keys (`host.key`, `host.pub`) lie below the state directory.
pub const KEYS: &str = "keys";

/// The host's recording, open for appending. One per agent; dropping the last handle closes it as
/// [`Recorder::close`] does.
#[derive(Debug)]
pub struct Recorder {
    log: Arc<Log>,
    workers: Mutex<Option<Workers>>,
    max_rows: u32,
    max_result_bytes: u32,
    /// Holds the state directory for this agent.
    _lock: File,
}

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

thread_local! {
    /// Events are encoded outside of the log's lock, without allocating anew each time.
    static BATCH: RefCell<Batch> = RefCell::default();
}

/// Encodes and appends one batch of events.
fn append(
    log: &Log,
    sequence: Option<&AtomicU64>,
    class: Class,
    encode: impl FnOnce(&mut Batch),
) -> Result<(), (RecordError, bool)> {
    BATCH.with_borrow_mut(|batch| {
        batch.clear();
        encode(batch);
        if class == Class::Command && log.limits.sync {
            off_runtime(|| log.append(batch, sequence, class))
        } else {
            log.append(batch, sequence, class)
        }
    })
}

/// Runs what waits for the disk so that other tasks of this thread's runtime go on elsewhere.
fn off_runtime<R>(wait: impl FnOnce() -> R) -> R {
    use tokio::runtime::{Handle, RuntimeFlavor};
    match Handle::try_current() {
        Ok(handle) if handle.runtime_flavor() == RuntimeFlavor::MultiThread => {
            tokio::task::block_in_place(wait)
        }
        _ => wait(),
    }
}

// === impl Recorder ===

impl Recorder {
    /// Opens (or creates) the recording in the configured state directory, repairs what a crash left,
    /// and starts the background threads.
    ///
    /// # Errors
    /// The directory is readable by others, belongs to another user, is in use by another agent, cannot
    /// be written, or holds a recording that is not as the last agent left it.
    pub fn open(config: &Config) -> Result<Arc<Self>, RecordError> {
        let directory = config.state.join(SESSIONS);
        let keys = config.state.join(KEYS);
        for path in [&config.state, &directory, &keys] {
            files::private_directory(path)?;
        }
        let lock = files::lock(&config.state)?;
        let key = HostKey::load_or_create(&keys).map_err(|error| RecordError::State(error.to_string()))?;
        let left = files::recover(&directory, &key)?;
        let segment = files::begin_segment(&directory, &key, left.next, left.position, left.previous_header)?;
        let limits = Limits::new(&config.record);
        let log = Arc::new(Log::new(directory, key, limits, segment, left.position, left.bytes));
        let refused = |(error, _)| error;
        // Before the first event: a log with events has a HEAD.
        log.checkpoint()?;
        // Nothing else is recorded before HEAD covers this: an event after a start that HEAD does not
        // know shows that HEAD was put back.
        append(&log, None, Class::Terminal, Batch::agent_started).map_err(refused)?;
        if let Some((segment, cut)) = left.crashed {
            tracing::warn!(segment, cut, "the recording was left open by a crash, and is taken up again");
            append(&log, None, Class::Terminal, |batch| batch.recovered(segment, cut)).map_err(refused)?;
        }
        log.flush()?;
        log.checkpoint()?;
        let workers = Workers::start(&log, left.unsealed)?;
        Ok(Arc::new(Self {
            log,
            workers: Mutex::new(Some(workers)),
            max_rows: config.record.max_rows,
            max_result_bytes: config.record.max_result_bytes,
            _lock: lock,
        }))
    }

    /// Begins the session of a flow. The event is on disk when this returns.
    ///
    /// # Errors
    /// As for [`Session::command`]; the flow must then be refused.
    pub fn session(self: &Arc<Self>, start: &FlowStart<'_>) -> Result<Session, RecordError> {
        let mut random = [0; 10];
        fill_random(&mut random)
            .map_err(|error| RecordError::io("read", Path::new("/dev/urandom"), error))?;
        let id = SessionId::new(log::wall_ns() / 1_000_000, random);
        let session = Session {
            recorder: Arc::clone(self),
            id,
            sequence: AtomicU64::new(0),
            commands: AtomicU64::new(0),
            recorded: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            ended: AtomicBool::new(true),
        };
        append(&self.log, Some(&session.sequence), Class::Command, |batch| batch.flow_started(id, start))
            .map_err(|(error, _)| error)?;
        session.ended.store(false, Ordering::Relaxed);
        Ok(session)
    }

    /// Records that the agent now works by the policies of this hash, made of `files`.
    ///
    /// # Errors
    /// As for [`Session::command`].
    pub fn policy_loaded(&self, hash: &str, files: &[PathBuf]) -> Result<(), RecordError> {
        self.policies_loaded(hash, files, None, false)
    }

    /// The same, with the collector's order that is a part of them; `staged` when all of it is only worked
    /// out and recorded here.
    ///
    /// # Errors
    /// As for [`Session::command`].
    pub(crate) fn policies_loaded(
        &self,
        hash: &str,
        files: &[PathBuf],
        order: Option<&Order>,
        staged: bool,
    ) -> Result<(), RecordError> {
        self.host(|batch| batch.policy_loaded(hash, files, order, staged))
    }

    /// Records that policies were rejected: the earlier ones stay.
    ///
    /// # Errors
    /// As for [`Session::command`].
    pub fn policy_rejected(&self, reason: &str) -> Result<(), RecordError> {
        self.host(|batch| batch.policy_rejected(reason))
    }

    /// Records that a person has signed in or out. The event is on disk when this returns.
    ///
    /// # Errors
    /// As for [`Session::command`]; nobody may be signed in then.
    pub fn person(&self, event: &PersonEvent<'_>) -> Result<(), RecordError> {
        append(&self.log, None, Class::Command, |batch| batch.person(event)).map_err(|(error, _)| error)
    }

    /// Records a connection that is not redirected. Buffered.
    ///
    /// # Errors
    /// As for [`Session::command`].
    pub fn egress(&self, connection: &EgressConnection<'_>) -> Result<(), RecordError> {
        self.host(|batch| batch.egress(connection))
    }

    /// The same for a connection that is about to be let go: the event is on disk when this returns.
    ///
    /// # Errors
    /// As for [`Session::command`]; the connection must then be refused.
    pub fn egress_first(&self, connection: &EgressConnection<'_>) -> Result<(), RecordError> {
        append(&self.log, None, Class::Command, |batch| batch.egress(connection)).map_err(|(error, _)| error)
    }

    /// The same for a connection that has been let go already: it may take all the room that is kept free.
    ///
    /// # Errors
    /// As for [`Session::command`].
    pub fn egress_gone(&self, connection: &EgressConnection<'_>) -> Result<(), RecordError> {
        append(&self.log, None, Class::Terminal, |batch| batch.egress(connection)).map_err(|(error, _)| error)
    }

    /// Records that approval is asked for before a command is sent. On disk when this returns.
    ///
    /// # Errors
    /// As for [`Session::command`]; nobody must be asked then.
    pub fn approval_asked(&self, asked: &ApprovalAsked<'_>) -> Result<(), RecordError> {
        self.host_first(|batch| batch.approval_asked(asked))
    }

    /// Records that somebody has approved what [`Recorder::approval_asked`] tells of. On disk when this returns.
    ///
    /// # Errors
    /// As for [`Session::command`]; the approval must not count then.
    pub fn approval_voted(&self, request: &str, vote: &Vote) -> Result<(), RecordError> {
        self.host_first(|batch| batch.approval_voted(None, request, vote))
    }

    /// Records how such a request has ended. On disk when this returns.
    ///
    /// # Errors
    /// As for [`Session::command`]; nothing may go on by it then.
    pub fn approval_decided(&self, decided: &ApprovalDecided<'_>) -> Result<(), RecordError> {
        let class = if decided.outcome.passes() { Class::Command } else { Class::Terminal };
        append(&self.log, None, class, |batch| batch.approval_decided(None, decided))
            .map_err(|(error, _)| error)
    }

    /// Records what somebody was told of the policies. On disk when this returns.
    ///
    /// # Errors
    /// As for [`Session::command`]; they must not be told then.
    pub fn policy_explained(&self, told: &PolicyExplained<'_>) -> Result<(), RecordError> {
        self.host_first(|batch| batch.policy_explained(told))
    }

    fn host_first(&self, encode: impl FnOnce(&mut Batch)) -> Result<(), RecordError> {
        append(&self.log, None, Class::Command, encode).map_err(|(error, _)| error)
    }

    /// Records that a token was shown by a process that it is not for. Buffered.
    ///
    /// # Errors
    /// As for [`Session::command`].
    pub fn token_refused(&self, refused: &TokenRefused<'_>) -> Result<(), RecordError> {
        self.host(|batch| batch.token_refused(refused))
    }

    fn host(&self, encode: impl FnOnce(&mut Batch)) -> Result<(), RecordError> {
        append(&self.log, None, Class::Result, encode).map_err(|(error, _)| error)
    }

    /// How the recording is.
    pub fn status(&self) -> RecorderStatus {
        let figures = self.log.figures();
        let Limits { max_bytes, reserve, .. } = self.log.limits;
        // What is left would not take an ordinary command.
        let full = figures.used + 1024 >= max_bytes - reserve;
        RecorderStatus {
            path: self.log.directory.clone(),
            used_bytes: figures.used,
            max_bytes,
            events: figures.events,
            segment: figures.segment,
            refusing: figures.failure.map(|failure| failure.to_string()).or_else(|| {
                let path = self.log.directory.clone();
                full.then(|| RecordError::Full { path, used: figures.used, limit: max_bytes }.to_string())
            }),
            lost: figures.lost,
        }
    }

    /// Records that the agent stops, seals the open segment and signs the end. Later appends give
    /// [`RecordError::Closed`].
    ///
    /// # Errors
    /// Something could not be written; what is on disk stays valid.
    pub fn close(&self) -> Result<(), RecordError> {
        let Some(workers) = self.workers.lock().unwrap_or_else(PoisonError::into_inner).take() else {
            return Ok(());
        };
        append(&self.log, None, Class::Terminal, Batch::agent_stopped).ok();
        let flushed = self.log.flush();
        let job = self.log.close();
        // An event may have come in between.
        let flushed = self.log.flush().and(flushed);
        // HEAD first: what is sealed is never beyond it.
        let signed = self.log.checkpoint();
        let job = job.map(|job| self.log.at_end(job));
        let sealed = workers.finish(job.filter(|_| flushed.is_ok() && signed.is_ok()));
        flushed.and(signed).and(sealed)
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        if let Err(error) = self.close() {
            tracing::error!("the recording could not be closed: {error}");
        }
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
    recorder: Arc<Recorder>,
    id: SessionId,
    /// The next event's place in the session; changed under the log's lock only.
    sequence: AtomicU64,
    /// The last command's number; how many were recorded; how many were refused.
    commands: AtomicU64,
    recorded: AtomicU64,
    refused: AtomicU64,
    ended: AtomicBool,
}

// === impl Session ===

impl Session {
    /// Its name.
    pub fn id(&self) -> SessionId {
        self.id
    }

    fn append(&self, class: Class, encode: impl FnOnce(&mut Batch)) -> Result<(), (RecordError, bool)> {
        if self.ended.load(Ordering::Relaxed) {
            return Err((RecordError::Closed, false));
        }
        append(&self.recorder.log, Some(&self.sequence), class, encode)
    }

    /// Records the log-in. Buffered.
    pub fn login(&self, login: &Login<'_>) {
        self.append(Class::Terminal, |batch| batch.login(self.id, login)).ok();
    }

    /// Records what is seen of TLS that is passed on as it is. On disk when this returns.
    ///
    /// # Errors
    /// As for [`Session::command`]; nothing may be passed on then.
    pub fn tls_passed(&self, seen: &TlsPassed) -> Result<(), RecordError> {
        self.append(Class::Command, |batch| batch.tls_passed(self.id, seen)).map_err(|(error, _)| error)
    }

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
    pub fn commands(&self, commands: &[Command<'_>]) -> Result<CommandId, RecordError> {
        let count = commands.len() as u64;
        let first = self.commands.fetch_add(count, Ordering::Relaxed) + 1;
        let refused = commands.iter().filter(|command| !command.decision.passes()).count() as u64;
        let result = self.append(Class::Command, |batch| {
            for (number, command) in (first..).zip(commands) {
                batch.command(self.id, number, command);
            }
        });
        match result {
            Ok(()) => {
                self.recorded.fetch_add(count, Ordering::Relaxed);
                self.refused.fetch_add(refused, Ordering::Relaxed);
                Ok(CommandId(first))
            }
            Err((error, appended)) => {
                if appended {
                    self.recorded.fetch_add(count, Ordering::Relaxed);
                    let last = CommandId(first + count.saturating_sub(1));
                    let reason = error.to_string();
                    self.append(Class::Terminal, |batch| {
                        batch.commands_withdrawn(self.id, CommandId(first), last, &reason);
                    })
                    .ok();
                }
                self.refused.fetch_add(count, Ordering::Relaxed);
                Err(error)
            }
        }
    }

    /// An empty result builder with the configured limits. It can be used for one result after another.
    pub fn result_builder(&self) -> ResultBuilder {
        ResultBuilder::new(self.recorder.max_rows, self.recorder.max_result_bytes)
    }

    /// Records how a command ended, with the rows that were returned (`rows` is left empty for the next
    /// result). Buffered. When the recordings are about to be full, the rows' values are left out.
    pub fn result(&self, outcome: &Outcome<'_>, rows: Option<&mut ResultBuilder>) {
        self.with_rows(rows, |batch, rows, values| batch.result(self.id, outcome, rows, values));
    }

    /// Records what travelled in a COPY, with its first lines (each a row of one value), masked.
    /// Buffered.
    pub fn copy(&self, copy: &CopyData, lines: Option<&mut ResultBuilder>) {
        self.with_rows(lines, |batch, lines, values| batch.copy_data(self.id, copy, lines, values));
    }

    fn with_rows(
        &self,
        mut rows: Option<&mut ResultBuilder>,
        encode: impl Fn(&mut Batch, Option<&ResultBuilder>, bool),
    ) {
        let full = self.append(Class::Result, |batch| encode(batch, rows.as_deref(), true));
        if let Err((RecordError::Full { .. } | RecordError::TooLarge { .. }, _)) = full {
            self.append(Class::Terminal, |batch| encode(batch, rows.as_deref(), false)).ok();
        }
        if let Some(rows) = &mut rows {
            rows.clear();
        }
    }

    /// Records a notice, or an error that belongs to no command. Buffered.
    pub fn notice(&self, notice: &Notice<'_>) {
        self.append(Class::Result, |batch| batch.notice(self.id, notice)).ok();
    }

    /// Records that another person or workload stands behind the flow from here on, or none any more.
    pub fn identity_changed(&self, subject: &Subject) {
        self.append(Class::Command, |batch| batch.identity_changed(self.id, subject)).ok();
    }

    /// Records that a command is held and people are asked to approve it. On disk when this returns.
    ///
    /// # Errors
    /// As for [`Session::command`]; the command must then be refused.
    pub fn approval_requested(&self, asked: &ApprovalRequested<'_>) -> Result<(), RecordError> {
        self.append(Class::Command, |batch| batch.approval_requested(self.id, asked))
            .map_err(|(error, _)| error)
    }

    /// Records that somebody has approved. On disk when this returns.
    ///
    /// # Errors
    /// As for [`Session::command`]; the approval must not count then.
    pub fn approval_voted(&self, request: &str, vote: &Vote) -> Result<(), RecordError> {
        self.append(Class::Command, |batch| batch.approval_voted(Some(self.id), request, vote))
            .map_err(|(error, _)| error)
    }

    /// Records how a request has ended. On disk when this returns.
    ///
    /// # Errors
    /// As for [`Session::command`]; the command must then be refused.
    pub fn approval_decided(&self, decided: &ApprovalDecided<'_>) -> Result<(), RecordError> {
        // What did not go on may take all the room that is kept free.
        let class = if decided.outcome.passes() { Class::Command } else { Class::Terminal };
        self.append(class, |batch| batch.approval_decided(Some(self.id), decided)).map_err(|(error, _)| error)
    }

    /// Records the session's end. Later events of this session are dropped. Buffered.
    pub fn end(&self, end: &End<'_>) {
        if self.ended.swap(true, Ordering::Relaxed) {
            return;
        }
        let commands = self.recorded.load(Ordering::Relaxed);
        let refused = self.refused.load(Ordering::Relaxed);
        append(&self.recorder.log, Some(&self.sequence), Class::Terminal, |batch| {
            batch.session_ended(self.id, end, commands, refused);
        })
        .ok();
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let reason = EndReason::InternalError;
        self.end(&End { reason, detail: "the flow was given up", client_bytes: 0, server_bytes: 0 });
    }
}
