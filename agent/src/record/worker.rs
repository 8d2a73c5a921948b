//! The threads behind the log: one writes what is buffered and signs `HEAD`, one seals segments.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::log::{Log, SealJob};
use super::{RecordError, files};

/// Buffered events are on disk after about this time.
const FLUSH: Duration = Duration::from_millis(20);
/// `HEAD` follows the log after about this time.
const CHECKPOINT: Duration = Duration::from_secs(1);
/// What could not be sealed is tried again after this time.
const RETRY: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(super) struct Workers {
    flusher: JoinHandle<()>,
    sealer: JoinHandle<Result<(), RecordError>>,
    jobs: Sender<SealJob>,
}

impl Workers {
    pub(super) fn start(log: &Arc<Log>, unsealed: Vec<SealJob>) -> Result<Self, RecordError> {
        let (jobs, queue) = channel();
        let spawn_error = |error| RecordError::io("start a thread for", &log.directory, error);
        let sealer = {
            let log = Arc::clone(log);
            thread::Builder::new()
                .name("record-seal".into())
                .spawn(move || seal(&log, &queue, unsealed))
                .map_err(spawn_error)?
        };
        let flusher = {
            let (log, jobs) = (Arc::clone(log), jobs.clone());
            thread::Builder::new()
                .name("record-flush".into())
                .spawn(move || flush(&log, &jobs))
                .map_err(spawn_error)?
        };
        Ok(Self { flusher, sealer, jobs })
    }

    /// Lets both end, after sealing a last segment. The log must be closed.
    pub(super) fn finish(self, last: Option<SealJob>) -> Result<(), RecordError> {
        let died = || RecordError::State("a thread of the recorder has died".into());
        let flushed = self.flusher.join().map_err(|_| died());
        if let Some(job) = last {
            // A sealer that is gone is reported below.
            self.jobs.send(job).ok();
        }
        drop(self.jobs);
        self.sealer.join().map_err(|_| died()).flatten().and(flushed)
    }
}

fn flush(log: &Log, jobs: &Sender<SealJob>) {
    let mut checked = Instant::now();
    while !log.wait_for_work(FLUSH, CHECKPOINT) {
        // A failure to write is noted by the log, said once, and tried again on the next round.
        log.flush().ok();
        match log.rotate(false) {
            // The sealer lives as long as this sender.
            Ok(Some(job)) => drop(jobs.send(job)),
            Ok(None) => {}
            Err(error) => tracing::debug!("no new segment could be begun: {error}"),
        }
        if checked.elapsed() >= CHECKPOINT {
            checked = Instant::now();
            if let Err(error) = log.checkpoint() {
                tracing::warn!("the end of the recording could not be signed: {error}");
            }
        }
    }
}

/// Seals segments until every sender is gone; the result is that of the last round.
fn seal(log: &Log, queue: &Receiver<SealJob>, mut waiting: Vec<SealJob>) -> Result<(), RecordError> {
    loop {
        let result = seal_all(log, &mut waiting);
        let received = if waiting.is_empty() {
            queue.recv().map_err(|_| RecvTimeoutError::Disconnected)
        } else {
            queue.recv_timeout(RETRY)
        };
        match received {
            Ok(job) => waiting.push(job),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return result,
        }
    }
}

fn seal_all(log: &Log, waiting: &mut Vec<SealJob>) -> Result<(), RecordError> {
    let mut result = Ok(());
    waiting.retain(|job| {
        // HEAD first: what is sealed is never beyond it.
        let sealed = log.checkpoint().and_then(|()| files::seal(&log.directory, &log.key, job));
        match sealed {
            Ok(bytes) => {
                log.sealed(job.bytes, bytes);
                false
            }
            Err(error) => {
                tracing::error!("a segment could not be sealed: {error}");
                // What is not as it was written will not become so.
                let again = matches!(error, RecordError::Io { .. });
                result = Err(error);
                again
            }
        }
    });
    result
}
