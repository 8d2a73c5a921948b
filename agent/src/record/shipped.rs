//! What becomes of segments that a collector has taken: they stay for a while, and make room.

use std::fs::{self, File};
use std::path::Path;

use interlock_recording::PublicKey;
use interlock_recording::log::{self as segments, SegmentFile};

use super::log::Limits;
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
        self.taken(taken).map(|(kept, _, _)| kept)
    }

    /// Sealed segments before `taken`, with the number of the newest sealed segment of all.
    fn taken(&self, taken: u64) -> Result<(Kept, Vec<SegmentFile>, Option<u64>), RecordError> {
        let directory = &self.log.directory;
        let listing = segments::list(directory).map_err(|error| RecordError::io("read", directory, error))?;
        let newest =
            listing.segments.iter().rev().find(|segment| segment.sealed).map(|segment| segment.number);
        let oldest = listing.segments.first().map_or(0, |segment| segment.number);
        // An open segment before it: what comes then is not to be touched.
        let files = listing.segments.into_iter().take_while(|file| file.sealed && file.number < taken);
        let files: Vec<_> = files.collect();
        let bytes = files.iter().map(|segment| segment.bytes).sum();
        Ok((Kept { oldest, segments: files.len() as u64, bytes, removed: 0 }, files, newest))
    }

    /// Removes sealed segments before `taken`, the oldest first, until no more than `keep` bytes of them are
    /// left and commands have room. The newest sealed segment always stays: after a crash the log goes on
    /// from it.
    ///
    /// `taken` is what the collector has on durable storage; what it has not is never touched.
    ///
    /// # Errors
    /// The directory cannot be read, or a file cannot be removed.
    pub fn remove_taken(&self, taken: u64, keep: u64) -> Result<Kept, RecordError> {
        let (mut kept, files, newest) = self.taken(taken)?;
        let mut used = self.log.figures().used;
        let mut going = Vec::new();
        for segment in files {
            let may_stay = kept.bytes <= keep && used <= pressure(&self.log.limits);
            if may_stay || Some(segment.number) == newest {
                break;
            }
            kept.segments -= 1;
            kept.bytes -= segment.bytes;
            kept.removed += 1;
            kept.oldest = segment.number + 1;
            used = used.saturating_sub(segment.bytes);
            going.push(segment);
        }
        if !going.is_empty() {
            self.remove(&going)?;
        }
        Ok(kept)
    }

    /// The recording takes so much room that what a collector has taken should go now.
    pub fn wants_room(&self) -> bool {
        self.log.figures().used > pressure(&self.log.limits)
    }

    fn remove(&self, going: &[SegmentFile]) -> Result<(), RecordError> {
        for segment in going {
            fs::remove_file(&segment.path)
                .map_err(|error| RecordError::io("remove", &segment.path, error))?;
            self.log.freed(segment.bytes);
            tracing::debug!(segment = segment.number, bytes = segment.bytes, "removed what was shipped");
        }
        let directory = &self.log.directory;
        File::open(directory)
            .and_then(|file| file.sync_all())
            .map_err(|error| RecordError::io("write", directory, error))
    }
}

/// Two thirds of the room that commands may use.
fn pressure(limits: &Limits) -> u64 {
    (limits.max_bytes - limits.reserve) / 3 * 2
}
