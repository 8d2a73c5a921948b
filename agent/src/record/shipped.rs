//! What becomes of segments that a collector has taken: they stay for a while, and make room.

use std::path::Path;

use interlock_recording::PublicKey;
use interlock_recording::log::{self as segments, SegmentFile};
use interlock_recording::segment::SegmentReader;
use interlock_recording::shipped::{self, ShippedError};

use super::log::{Limits, Log, wall_ns};
use super::{RecordError, Recorder};

/// Segments that a collector has taken and that are still here.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Kept {
    /// The lowest number among all segments that are here.
    pub oldest: u64,
    /// How many have been taken.
    pub segments: u64,
    /// Their size in bytes.
    pub bytes: u64,
    /// How many were removed just now.
    pub removed: u64,
}

impl Recorder {
    /// The directory of recordings.
    pub fn directory(&self) -> &Path {
        &self.log.directory
    }

    /// The key by which the recording is verified.
    pub fn public_key(&self) -> &PublicKey {
        self.log.key.public()
    }

    /// What is still here of the sealed segments before `taken`.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn kept(&self, taken: u64) -> Result<Kept, RecordError> {
        self.taken(taken).map(|(kept, _)| kept)
    }

    /// Sealed segments before `taken`.
    fn taken(&self, taken: u64) -> Result<(Kept, Vec<SegmentFile>), RecordError> {
        let directory = &self.log.directory;
        let listing = segments::list(directory).map_err(|error| RecordError::io("read", directory, error))?;
        let oldest = listing.segments.first().map_or(0, |segment| segment.number);
        // The last segment stays in any case: the log goes on from it.
        let last = listing.segments.last().map_or(0, |segment| segment.number);
        let goes = |file: &SegmentFile| file.sealed && file.number < taken && file.number < last;
        // An open segment before it: what comes then is not to be touched.
        let files: Vec<_> = listing.segments.into_iter().take_while(goes).collect();
        let bytes = files.iter().map(|segment| segment.bytes).sum();
        Ok((Kept { oldest, segments: files.len() as u64, bytes, removed: 0 }, files))
    }

    /// Removes sealed segments before `taken`, the oldest first, until no more than `keep` bytes of them are
    /// left and commands have room. That `collector` has them is signed first (`SHIPPED`), so that what is
    /// left can still be verified.
    ///
    /// `taken` is what the collector has on durable storage; what it has not is never touched.
    ///
    /// # Errors
    /// The directory cannot be read or written, or what is in it is not as it must be.
    pub fn remove_taken(&self, taken: u64, keep: u64, collector: &str) -> Result<Kept, RecordError> {
        let (mut kept, files) = self.taken(taken)?;
        let mut used = self.log.figures().used;
        let mut last = None;
        for segment in files {
            if kept.bytes <= keep && used <= pressure(&self.log.limits) {
                break;
            }
            kept.segments -= 1;
            kept.bytes -= segment.bytes;
            kept.removed += 1;
            kept.oldest = segment.number + 1;
            used = used.saturating_sub(segment.bytes);
            last = Some(segment);
        }
        if let Some(last) = last {
            self.remove_up_to(&last, collector)?;
        }
        Ok(kept)
    }

    /// The recording takes so much room that what a collector has taken should go now.
    pub fn wants_room(&self) -> bool {
        self.log.figures().used > pressure(&self.log.limits)
    }

    fn remove_up_to(&self, last: &SegmentFile, collector: &str) -> Result<(), RecordError> {
        let Log { directory, key, .. } = &*self.log;
        let damaged = |what: &str| RecordError::State(format!("{} {what}", last.path.display()));
        let reader = SegmentReader::open(&last.path).map_err(|error| damaged(&error.to_string()))?;
        let end = reader.footer().and_then(|footer| footer.footer.final_hash.as_slice().try_into().ok());
        let end = end.ok_or_else(|| damaged("has a damaged footer"))?;
        let failed = |error: ShippedError| match error {
            ShippedError::Io { action, path, error } => RecordError::io(action, &path, error),
            error => RecordError::State(error.to_string()),
        };
        shipped::write(directory, collector, last.number, &end, wall_ns(), key).map_err(failed)?;
        let freed = shipped::prune(directory, key.public()).map_err(failed)?;
        self.log.freed(freed);
        Ok(())
    }
}

/// Two thirds of the room that commands may use.
fn pressure(limits: &Limits) -> u64 {
    (limits.max_bytes - limits.reserve) / 3 * 2
}
