//! The host's log, open for appending.
//!
//! Whoever appends takes the lock, gives its events their index and hash, and puts them into `pending`.
//! Who needs them on disk then either writes all of `pending` (its own events and whatever others have
//! put there meanwhile), or, when somebody is writing already, waits: group commit. There is no writer
//! thread in the path of a command, because waking one up and being woken by it costs more than the
//! write itself.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use interlock_recording::chain::{self, Hash, Stamp};
use interlock_recording::proto::Checkpoint;
use interlock_recording::segment::{FRAME_OVERHEAD, put_frame};
use interlock_recording::{HostKey, checkpoint};

use super::encode::Batch;
use super::{RecordError, files};
use crate::config;

/// Buffered events are written inline when this many bytes wait.
const INLINE: usize = 256 << 10;
/// While the disk cannot be written no more than this is kept in memory.
const MAX_PENDING: usize = 4 << 20;

/// How much room an event may take up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    /// New work: refused while something is kept free for what must still be said about the old. On disk
    /// when the append returns.
    Command,
    /// The result of a command: may use half of what is kept free.
    Result,
    /// The ends of things: may use all of it.
    Terminal,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Position {
    /// The next event's index.
    pub(super) index: u64,
    pub(super) hash: Hash,
}

/// The segment that is appended to.
#[derive(Debug, Clone)]
pub(super) struct OpenSegment {
    pub(super) number: u64,
    pub(super) file: Arc<File>,
    pub(super) header_sha256: Hash,
    /// Size of the file up to the last whole write.
    pub(super) bytes: u64,
    pub(super) begun: Instant,
}

/// A segment that is to be sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SealJob {
    pub(super) number: u64,
    pub(super) bytes: u64,
    /// Where the log stood at its end.
    pub(super) end: Position,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) max_bytes: u64,
    /// Kept free of new commands: for results, session ends, and what sealing needs for a moment.
    pub(super) reserve: u64,
    pub(super) segment_bytes: u64,
    pub(super) segment_age: Duration,
    pub(super) sync: bool,
}

impl Limits {
    pub(super) fn new(config: &config::Record) -> Self {
        let segment_bytes =
            config.segment_bytes.min(config.max_bytes / 8).clamp(4 << 10, chain::MAX_EVENT as u64 * 4);
        Self {
            max_bytes: config.max_bytes,
            reserve: (2 * segment_bytes).min(config.max_bytes / 4),
            segment_bytes,
            segment_age: Duration::from_secs(config.segment_seconds.max(1)),
            sync: config.sync,
        }
    }
}

#[derive(Debug)]
pub(super) struct Log {
    pub(super) directory: PathBuf,
    pub(super) key: HostKey,
    pub(super) limits: Limits,
    state: Mutex<State>,
    /// Something was written, or failed to be.
    written: Condvar,
    /// There is something for the background thread to do.
    work: Condvar,
    /// `HEAD`'s content is made and written under this lock, so that an older one never follows a newer.
    /// Holds what was last written.
    head: Mutex<Option<(u64, u64)>>,
    /// The disk is full, as far as the operator has been told.
    told_full: AtomicBool,
}

#[derive(Debug)]
struct State {
    segment: OpenSegment,
    /// Bytes of all other segments.
    other_bytes: u64,
    /// Records that are not written yet.
    pending: Vec<u8>,
    /// The buffer that `pending` is exchanged with.
    spare: Vec<u8>,
    /// Where the log stands with `pending`, and without it.
    position: Position,
    durable: Position,
    /// Bytes of records over the log's whole time in this process: appended, and written.
    appended: u64,
    flushed: u64,
    /// Somebody writes, or exchanges the file.
    busy: bool,
    failure: Option<RecordError>,
    lost: u64,
    closed: bool,
    /// The background thread sleeps until it is woken.
    idle: bool,
}

/// What `status` shows.
#[derive(Debug)]
pub(super) struct Figures {
    pub(super) used: u64,
    pub(super) events: u64,
    pub(super) segment: u64,
    pub(super) failure: Option<RecordError>,
    pub(super) lost: u64,
}

impl Log {
    pub(super) fn new(
        directory: PathBuf,
        key: HostKey,
        limits: Limits,
        segment: OpenSegment,
        position: Position,
        other_bytes: u64,
    ) -> Self {
        let state = State {
            segment,
            other_bytes,
            pending: Vec::with_capacity(INLINE),
            spare: Vec::with_capacity(INLINE),
            position,
            durable: position,
            appended: 0,
            flushed: 0,
            busy: false,
            failure: None,
            lost: 0,
            closed: false,
            idle: false,
        };
        Self {
            directory,
            key,
            limits,
            state: Mutex::new(state),
            written: Condvar::new(),
            work: Condvar::new(),
            head: Mutex::new(None),
            told_full: AtomicBool::new(false),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that is done under this lock panics half-way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends events. `sequence` counts the events of their session. For [`Class::Command`] they are on
    /// disk when this returns `Ok`; when it returns `Err(_, true)` they are in the log but perhaps not on
    /// disk.
    pub(super) fn append(
        &self,
        batch: &mut Batch,
        sequence: Option<&AtomicU64>,
        class: Class,
    ) -> Result<(), (RecordError, bool)> {
        let size = batch.bytes.len() + batch.ends.len() * FRAME_OVERHEAD;
        let mut begin = 0;
        for &end in &batch.ends {
            if end - begin > chain::MAX_EVENT {
                return Err((RecordError::TooLarge { size: end - begin, limit: chain::MAX_EVENT }, false));
            }
            begin = end;
        }
        let mut state = self.lock();
        self.admit(&mut state, size, batch.ends.len(), class).map_err(|error| (error, false))?;

        let wall_ns = wall_ns();
        let monotonic_ns = monotonic_ns();
        let mut begin = 0;
        for &end in &batch.ends {
            let Some(event) = batch.bytes.get_mut(begin..end) else { break };
            begin = end;
            let sequence = sequence.map_or(0, |sequence| sequence.fetch_add(1, Ordering::Relaxed));
            chain::stamp(event, &Stamp { index: state.position.index, wall_ns, monotonic_ns, sequence });
            state.position.hash = chain::link(&state.position.hash, event);
            state.position.index += 1;
            let hash = state.position.hash;
            put_frame(&mut state.pending, event, &hash);
        }
        state.appended += size as u64;

        if class == Class::Command {
            let until = state.appended;
            return self.write_until(state, until).map_err(|error| (error, true));
        }
        if state.pending.len() > INLINE && !state.busy && state.failure.is_none() {
            drop(self.write(state));
        } else if state.idle {
            state.idle = false;
            self.work.notify_one();
        }
        Ok(())
    }

    /// Whether there is room for `size` bytes.
    fn admit(&self, state: &mut State, size: usize, events: usize, class: Class) -> Result<(), RecordError> {
        if state.closed {
            return Err(RecordError::Closed);
        }
        if let Some(failure) = &state.failure {
            if class == Class::Command {
                return Err(failure.clone());
            }
            if state.pending.len() + size > MAX_PENDING {
                state.lost += events as u64;
                return Err(failure.clone());
            }
        }
        let used = state.used();
        let limit = match class {
            Class::Command => self.limits.max_bytes - self.limits.reserve,
            Class::Result => self.limits.max_bytes - self.limits.reserve / 2,
            Class::Terminal => self.limits.max_bytes,
        };
        if used + size as u64 <= limit {
            if class == Class::Command && self.told_full.load(Ordering::Relaxed) {
                self.told_full.store(false, Ordering::Relaxed);
                tracing::info!("there is room for recordings again: commands are taken");
            }
            return Ok(());
        }
        let error = RecordError::Full { path: self.directory.clone(), used, limit: self.limits.max_bytes };
        match class {
            Class::Command => {
                if !self.told_full.swap(true, Ordering::Relaxed) {
                    tracing::error!("{error}");
                }
            }
            Class::Result => {}
            Class::Terminal => state.lost += events as u64,
        }
        Err(error)
    }

    /// Returns when everything up to `until` is on disk, writing it if nobody does.
    fn write_until<'l>(&'l self, mut state: MutexGuard<'l, State>, until: u64) -> Result<(), RecordError> {
        loop {
            if state.flushed >= until {
                return Ok(());
            }
            if let Some(failure) = &state.failure {
                return Err(failure.clone());
            }
            state = if state.busy {
                self.written.wait(state).unwrap_or_else(PoisonError::into_inner)
            } else {
                self.write(state)
            };
        }
    }

    /// Writes all that is pending; nobody else may be at it. A failure is noted in the state.
    fn write<'l>(&'l self, mut state: MutexGuard<'l, State>) -> MutexGuard<'l, State> {
        if state.pending.is_empty() {
            return state;
        }
        state.busy = true;
        let spare = std::mem::take(&mut state.spare);
        let mut buffer = std::mem::replace(&mut state.pending, spare);
        let file = Arc::clone(&state.segment.file);
        let at = state.segment.bytes;
        let number = state.segment.number;
        let target = state.position;
        drop(state);

        let result = file
            .write_all_at(&buffer, at)
            .and_then(|()| if self.limits.sync { file.sync_data() } else { Ok(()) });
        if result.is_err() {
            // What was written in part is taken back, so that readers see whole records only. Should this
            // fail too, the next write goes to the same place.
            let _ = file.set_len(at);
        }

        let mut state = self.lock();
        state.busy = false;
        match result {
            Ok(()) => {
                state.segment.bytes += buffer.len() as u64;
                state.flushed += buffer.len() as u64;
                state.durable = target;
                buffer.clear();
                buffer.shrink_to(4 * INLINE);
                state.spare = buffer;
                if state.idle && state.segment.bytes >= self.limits.segment_bytes {
                    state.idle = false;
                    self.work.notify_one();
                }
                if state.failure.take().is_some() {
                    tracing::info!("the recording can be written again: commands are taken");
                }
            }
            Err(error) => {
                let path = self.directory.join(interlock_recording::log::segment_name(number, false));
                let failure = RecordError::Io { action: "write", path, error: Arc::new(error) };
                if state.failure.is_none() {
                    tracing::error!("{failure}: new commands are refused until it can be written");
                }
                state.failure = Some(failure);
                buffer.append(&mut state.pending);
                state.spare = std::mem::replace(&mut state.pending, buffer);
            }
        }
        self.written.notify_all();
        state
    }

    /// Writes what is pending, also after a failure.
    pub(super) fn flush(&self) -> Result<(), RecordError> {
        let mut state = self.lock();
        while state.busy {
            state = self.written.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state = self.write(state);
        let lost = state.lost;
        let result = state.failure.clone().map_or(Ok(()), Err);
        if result.is_ok() && lost > 0 && !state.closed {
            drop(state);
            self.tell_lost(lost);
        }
        result
    }

    /// Records that `lost` events could not be kept.
    fn tell_lost(&self, lost: u64) {
        let mut batch = Batch::default();
        batch.lost(lost, "the disk could not be written, or was full");
        let before = self.lock().lost;
        if self.append(&mut batch, None, Class::Result).is_ok() {
            tracing::warn!("{lost} buffered events could not be recorded");
            let mut state = self.lock();
            state.lost = state.lost.saturating_sub(before);
        }
    }

    /// Sleeps until there may be something to flush: `pause` while events come in, up to `idle`
    /// otherwise. Gives whether the log is closed.
    pub(super) fn wait_for_work(&self, pause: Duration, idle: Duration) -> bool {
        let mut state = self.lock();
        if state.closed {
            return true;
        }
        let time = if state.pending.is_empty() && state.position == state.durable && !state.busy {
            state.idle = true;
            idle
        } else {
            pause
        };
        let (mut state, timeout) =
            self.work.wait_timeout(state, time).unwrap_or_else(PoisonError::into_inner);
        let woken = !timeout.timed_out();
        state.idle = false;
        let closed = state.closed;
        drop(state);
        if woken && !closed {
            // The first of some events has come; the others may follow before they are written.
            std::thread::sleep(pause);
        }
        closed
    }

    /// Begins a new segment if the open one is large or old enough (or `always`), and gives the old one
    /// to be sealed.
    pub(super) fn rotate(&self, always: bool) -> Result<Option<SealJob>, RecordError> {
        let mut state = self.lock();
        let due = |state: &State| {
            let old = state.segment.begun.elapsed() >= self.limits.segment_age
                && state.segment.bytes > files::MAX_PREAMBLE;
            always || old || state.segment.bytes >= self.limits.segment_bytes
        };
        if !due(&state) {
            return Ok(None);
        }
        while state.busy {
            state = self.written.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state = self.write(state);
        if let Some(failure) = &state.failure {
            return Err(failure.clone());
        }
        if state.closed {
            // Whoever closed it has the open segment sealed, which is this one.
            return Ok(None);
        }
        // Others append to `pending` meanwhile; it goes to the new file, which begins where the old ends.
        state.busy = true;
        let old = state.segment.clone();
        let end = state.durable;
        drop(state);

        let begun = old
            .file
            .sync_data()
            .map_err(|error| RecordError::io("write", &self.directory, error))
            .and_then(|()| {
                files::begin_segment(&self.directory, &self.key, old.number + 1, end, Some(old.header_sha256))
            });

        let mut state = self.lock();
        state.busy = false;
        let result = begun.map(|segment| {
            state.other_bytes += old.bytes;
            state.segment = segment;
            Some(SealJob { number: old.number, bytes: old.bytes, end })
        });
        self.written.notify_all();
        result
    }

    /// A segment of `from` bytes now takes `to`.
    pub(super) fn sealed(&self, from: u64, to: u64) {
        let mut state = self.lock();
        state.other_bytes = state.other_bytes.saturating_sub(from) + to;
    }

    /// Segments of so many bytes were removed.
    pub(super) fn freed(&self, bytes: u64) {
        let mut state = self.lock();
        state.other_bytes = state.other_bytes.saturating_sub(bytes);
    }

    /// Writes `HEAD` if the log has gone on since the last time.
    pub(super) fn checkpoint(&self) -> Result<(), RecordError> {
        let mut head = self.head.lock().unwrap_or_else(PoisonError::into_inner);
        let (segment, durable) = {
            let mut state = self.lock();
            // While a file is exchanged the segment and the place in it do not belong together.
            while state.busy {
                state = self.written.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            (state.segment.clone(), state.durable)
        };
        let now = (segment.number, durable.index);
        if *head == Some(now) {
            return Ok(());
        }
        // HEAD must never be ahead of what a crash of the host leaves.
        segment.file.sync_data().map_err(|error| RecordError::io("write", &self.directory, error))?;
        let content = Checkpoint {
            host: self.key.public().fingerprint().to_vec(),
            segment: segment.number,
            header_sha256: segment.header_sha256.to_vec(),
            events: durable.index,
            hash: durable.hash.to_vec(),
            wall_ns: wall_ns(),
            monotonic_ns: monotonic_ns(),
        };
        checkpoint::write(&self.directory, &content, &self.key)
            .map_err(|error| RecordError::io("write", &self.directory.join(checkpoint::HEAD), error))?;
        *head = Some(now);
        Ok(())
    }

    /// Takes no more events. Gives the open segment to be sealed; `None` when it was closed before.
    pub(super) fn close(&self) -> Option<SealJob> {
        let mut state = self.lock();
        let first = !std::mem::replace(&mut state.closed, true);
        self.work.notify_all();
        // A segment that is just being begun is the one to seal, not the one before it.
        while state.busy {
            state = self.written.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        first.then(|| SealJob {
            number: state.segment.number,
            bytes: state.segment.bytes,
            end: state.durable,
        })
    }

    /// The same job, with where the log stands now.
    pub(super) fn at_end(&self, job: SealJob) -> SealJob {
        let state = self.lock();
        SealJob { bytes: state.segment.bytes, end: state.durable, ..job }
    }

    /// Exchanges the file for one that cannot be written, and back.
    #[cfg(test)]
    pub(super) fn break_disk(&self, broken: bool) {
        let mut state = self.lock();
        let path = self.directory.join(interlock_recording::log::segment_name(state.segment.number, false));
        let file = File::options().write(!broken).read(true).open(path).expect("the open segment");
        state.segment.file = Arc::new(file);
    }

    pub(super) fn figures(&self) -> Figures {
        let state = self.lock();
        Figures {
            used: state.used(),
            events: state.position.index,
            segment: state.segment.number,
            failure: state.failure.clone(),
            lost: state.lost,
        }
    }
}

impl State {
    fn used(&self) -> u64 {
        self.other_bytes + self.segment.bytes + self.pending.len() as u64
    }
}

pub(super) fn wall_ns() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

pub(super) fn monotonic_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}
