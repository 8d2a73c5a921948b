//! The recording's directory: whose it is, how segments begin, and what a crash leaves.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{BufWriter, ErrorKind, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use interlock_recording::chain::{self, Hash};
use interlock_recording::log::{self as segments, Listing, SegmentFile, segment_name};
use interlock_recording::proto::{Checkpoint, Event, SegmentHeader};
use interlock_recording::segment::{self, FORMAT, FrameError, SegmentReader};
use interlock_recording::shipped::{self, SHIPPED, ShippedError};
use interlock_recording::verify::Boundary;
use interlock_recording::{HostKey, SignedFileError, checkpoint, log};
use prost::Message as _;

use super::RecordError;
use super::log::{OpenSegment, Position, SealJob, wall_ns};

/// A segment's header with what stands before it takes no more than this, in bytes.
pub(super) const MAX_PREAMBLE: u64 = 512;

/// Makes `path` if it is missing, and refuses it if others than its owner, who must be this process's
/// user, can get in.
pub(crate) fn private_directory(path: &Path) -> Result<(), RecordError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|error| RecordError::io("make the directory", path, error))?;
    let metadata = fs::metadata(path).map_err(|error| RecordError::io("read", path, error))?;
    let me = rustix::process::geteuid().as_raw();
    let mode = metadata.mode() & 0o777;
    let path = path.display();
    if metadata.uid() != me {
        return Err(RecordError::State(format!(
            "{path} belongs to the user with id {}, not to the one that the agent runs as ({me}): recordings \
             would be in another's hands. Run `chown {me} {path}`, or set `state` to another directory",
            metadata.uid()
        )));
    }
    if mode & 0o077 != 0 {
        return Err(RecordError::State(format!(
            "{path} has mode {mode:03o}, so others can get at the recordings. Run `chmod 700 {path}`"
        )));
    }
    Ok(())
}

/// Takes the state directory for this agent, as long as the file is held open.
pub(super) fn lock(state: &Path) -> Result<File, RecordError> {
    let path = state.join("lock");
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&path)
        .map_err(|error| RecordError::io("open", &path, error))?;
    match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(RecordError::State(format!(
            "{} is in use by another agent. Stop that one, or set `state` to another directory",
            state.display()
        ))),
        Err(error) => Err(RecordError::io("lock", &path, error.into())),
    }
}

/// Begins segment `number` where the log stands. The file is there with its whole header, or not at all.
pub(super) fn begin_segment(
    directory: &Path,
    key: &HostKey,
    number: u64,
    position: Position,
    previous_header: Option<Hash>,
) -> Result<OpenSegment, RecordError> {
    let header = SegmentHeader {
        format: FORMAT,
        host: key.public().fingerprint().to_vec(),
        segment: number,
        previous_hash: position.hash.to_vec(),
        previous_header_sha256: previous_header.map(Vec::from).unwrap_or_default(),
        first_index: position.index,
        created_ns: wall_ns(),
    };
    let name = segment_name(number, false);
    let path = directory.join(&name);
    let temporary = directory.join(format!("{name}.tmp"));
    let preamble = segment::open_preamble(&header);
    let write = || {
        let mut options = OpenOptions::new();
        let file = options.create(true).truncate(true).write(true).mode(0o600).open(&temporary)?;
        std::os::unix::fs::FileExt::write_all_at(&file, &preamble, 0)?;
        file.sync_all()?;
        fs::rename(&temporary, &path)?;
        File::open(directory)?.sync_all()?;
        Ok(file)
    };
    let file = write().map_err(|error| RecordError::io("begin the segment", &path, error))?;
    Ok(OpenSegment {
        number,
        file: Arc::new(file),
        header_sha256: chain::digest(&header.encode_to_vec()),
        bytes: preamble.len() as u64,
        begun: Instant::now(),
    })
}

/// Seals a segment: writes the sealed file beside the open one, then removes the open one. Killed at any
/// point, it leaves the open file or the whole sealed one (or both, and then the sealed one counts). Gives
/// the sealed file's size.
pub(super) fn seal(directory: &Path, key: &HostKey, job: &SealJob) -> Result<u64, RecordError> {
    let open = directory.join(segment_name(job.number, false));
    let sealed = directory.join(segment_name(job.number, true));
    let temporary = sealed.with_extension("seg.tmp");
    let io = |error| RecordError::io("seal", &open, error);
    let reader = SegmentReader::open(&open)
        .map_err(|error| RecordError::State(format!("{} {error}", open.display())))?;
    let mut options = OpenOptions::new();
    let file = options.create(true).truncate(true).write(true).mode(0o600).open(&temporary).map_err(io)?;
    let mut output = BufWriter::with_capacity(256 << 10, file);
    let result = segment::seal(reader, &mut output, key, wall_ns());
    let done = match result {
        Ok(done) if done.final_hash == job.end.hash => done,
        result => {
            drop(fs::remove_file(&temporary));
            return Err(match result {
                Err(segment::SealError::Write(error)) => io(error),
                Err(error) => RecordError::State(format!("cannot seal {}: {error}", open.display())),
                Ok(_) => RecordError::State(format!(
                    "{} was changed by someone else after it was written; it is left as it is, and \
                     `interlock sessions verify` will tell",
                    open.display()
                )),
            });
        }
    };
    let file = output.into_inner().map_err(|error| io(error.into_error()))?;
    file.sync_all().map_err(io)?;
    let bytes = file.metadata().map_err(io)?.len();
    fs::rename(&temporary, &sealed).map_err(io)?;
    File::open(directory).and_then(|directory| directory.sync_all()).map_err(io)?;
    fs::remove_file(&open).map_err(io)?;
    tracing::debug!(segment = job.number, events = done.events, bytes, "sealed a segment");
    Ok(bytes)
}

/// Where an earlier agent left the log.
#[derive(Debug)]
pub(super) struct Left {
    pub(super) position: Position,
    /// The number for the next segment, and the header of the last.
    pub(super) next: u64,
    pub(super) previous_header: Option<Hash>,
    /// Bytes of all segments.
    pub(super) bytes: u64,
    /// Segments that are still to be sealed.
    pub(super) unsealed: Vec<SealJob>,
    /// A crash left this segment open; bytes that were cut off.
    pub(super) crashed: Option<(u64, u64)>,
}

/// Finds where the log ends, and cuts off what a crash left of an incomplete last record.
pub(super) fn recover(directory: &Path, key: &HostKey) -> Result<Left, RecordError> {
    let (begins, listing) = remaining(directory, key)?;
    for path in &listing.strangers {
        if path.extension().is_some_and(|extension| extension == "tmp") {
            fs::remove_file(path).map_err(|error| RecordError::io("remove", path, error))?;
        }
    }
    let head = match checkpoint::read(directory, key.public()) {
        Ok(head) => Some(head),
        Err(SignedFileError::Missing) => None,
        Err(error) => return Err(refuse(directory, &format!("HEAD {error}"))),
    };
    let mut left = Left {
        position: Position { index: begins.position.index, hash: begins.position.hash },
        next: begins.segment,
        previous_header: begins.header_sha256,
        bytes: 0,
        unsealed: Vec::new(),
        crashed: None,
    };
    let last = listing.segments.len();
    let first_open = listing.segments.iter().position(|segment| !segment.sealed).unwrap_or(last);
    // Sealed segments are proven by their footers; only the last one's end is needed.
    if let Some(sealed) = first_open.checked_sub(1).and_then(|at| listing.segments.get(at)) {
        after_sealed(directory, sealed, key, &mut left)?;
    }
    left.bytes = listing.segments.iter().map(|segment| segment.bytes).sum();
    for (at, file) in listing.segments.iter().enumerate().skip(first_open) {
        if file.sealed {
            let what =
                format!("{} is open, although later segments are sealed", segment_name(left.next, false));
            return Err(refuse(directory, &what));
        }
        after_open(directory, file, at + 1 == last, head.as_ref(), &mut left)?;
    }
    // Only now: an open file whose sealed form is sound is not needed any more.
    for file in &listing.superseded {
        let sealed = SegmentReader::open(&directory.join(segment_name(file.number, true)));
        let sound =
            sealed.is_ok_and(|sealed| sealed.footer().is_some_and(|footer| footer.verifies(key.public())));
        if !sound {
            let what = format!("{} is damaged", segment_name(file.number, true));
            return Err(refuse(directory, &what));
        }
        fs::remove_file(&file.path).map_err(|error| RecordError::io("remove", &file.path, error))?;
    }
    match head {
        Some(head) if head.events > left.position.index || head.segment >= left.next => {
            let what = format!(
                "its end is missing: HEAD proves {} events in segments up to {}, there are {} in segments \
                 below {}",
                head.events, head.segment, left.position.index, left.next
            );
            Err(refuse(directory, &what))
        }
        Some(head) if head.events == left.position.index && head.hash != left.position.hash => {
            Err(refuse(directory, "its last events are not those that HEAD proves"))
        }
        None if left.position.index > 0 => Err(refuse(directory, "HEAD is missing")),
        _ => Ok(left),
    }
}

/// Where the log begins here, and what is here of it. Segments that were shipped before a crash kept them
/// from being removed are removed now.
fn remaining(directory: &Path, key: &HostKey) -> Result<(Boundary, Listing), RecordError> {
    let unreadable = |error| RecordError::io("read", directory, error);
    let begins = match shipped::read(directory, key.public()) {
        Ok((_, begins)) => begins,
        Err(SignedFileError::Missing) => {
            return Ok((Boundary::genesis(key.public()), log::list(directory).map_err(unreadable)?));
        }
        Err(error) => return Err(refuse(directory, &format!("{SHIPPED} {error}"))),
    };
    let listing = log::list(directory).map_err(unreadable)?;
    if !listing.segments.iter().any(|segment| segment.number == begins.segment) {
        let what = format!(
            "{} is missing, with which it begins since what was before was shipped",
            segment_name(begins.segment, true)
        );
        return Err(refuse(directory, &what));
    }
    shipped::prune(directory, key.public()).map_err(|error| match error {
        ShippedError::Io { action, path, error } => RecordError::io(action, &path, error),
        error => refuse(directory, &error.to_string()),
    })?;
    Ok((begins, log::list(directory).map_err(unreadable)?))
}

fn refuse(directory: &Path, what: &str) -> RecordError {
    let directory = directory.display();
    RecordError::State(format!(
        "the recording in {directory} is not as the agent left it: {what}. Nothing is appended to it. Run \
         `interlock sessions verify` to see what is wrong and keep a copy for whoever investigates; to begin a \
         new recording, move it away: `mv {directory} {directory}.kept`"
    ))
}

fn after_sealed(
    directory: &Path,
    file: &SegmentFile,
    key: &HostKey,
    left: &mut Left,
) -> Result<(), RecordError> {
    let name = segment_name(file.number, true);
    let reader = SegmentReader::open(&file.path)
        .map_err(|error| refuse(directory, &format!("the file {name} {error}")))?;
    let footer = reader
        .footer()
        .filter(|footer| {
            footer.verifies(key.public()) && footer.footer.header_sha256 == reader.header_sha256()
        })
        .ok_or_else(|| {
            refuse(directory, &format!("{name} does not bear the signature of this host's key"))
        })?;
    let hash = Hash::try_from(footer.footer.final_hash.as_slice())
        .map_err(|_| refuse(directory, &format!("{name} has a damaged footer")))?;
    left.position = Position { index: reader.header().first_index + footer.footer.events, hash };
    left.next = file.number + 1;
    left.previous_header = Some(reader.header_sha256());
    Ok(())
}

fn after_open(
    directory: &Path,
    file: &SegmentFile,
    last: bool,
    head: Option<&Checkpoint>,
    left: &mut Left,
) -> Result<(), RecordError> {
    let name = segment_name(file.number, false);
    let mut reader = segments::open(file)
        .map(|(reader, _)| reader)
        .map_err(|error| refuse(directory, &format!("the file {name} {error}")))?;
    let header = reader.header();
    let links = header.segment == file.number
        && file.number == left.next
        && header.first_index == left.position.index
        && header.previous_hash == left.position.hash
        && header.previous_header_sha256 == left.previous_header.map(Vec::from).unwrap_or_default();
    if !links {
        return Err(refuse(directory, &format!("{name} does not go on where the segment before it ends")));
    }
    left.previous_header = Some(reader.header_sha256());
    left.next = file.number + 1;
    let mut torn = false;
    loop {
        let offset = reader.offset();
        let index = left.position.index;
        match reader.next_frame() {
            Ok(Some(frame)) => {
                let hash = chain::link(&left.position.hash, frame.event);
                let whole =
                    hash == frame.hash && Event::decode(frame.event).is_ok_and(|event| event.index == index);
                if whole {
                    left.position = Position { index: index + 1, hash };
                    if let Some(head) = head.filter(|head| head.events == index + 1)
                        && head.hash != hash
                    {
                        return Err(refuse(
                            directory,
                            &format!("event {index} is not the one that HEAD proves"),
                        ));
                    }
                    continue;
                }
                // After a crash of the host, the end of a file may be there in length only.
                let proven = head.is_some_and(|head| index < head.events);
                if last && !proven && zeros(&file.path, offset)? {
                    torn = true;
                    return cut(directory, file, offset, left, torn);
                }
                return Err(refuse(directory, &format!("event {index} in {name} was altered")));
            }
            Ok(None) => break,
            Err(FrameError::Torn) if last => {
                torn = true;
                break;
            }
            Err(error) => return Err(refuse(directory, &format!("{name}, event {index}: {error}"))),
        }
    }
    if last {
        cut(directory, file, reader.offset(), left, torn)
    } else {
        left.unsealed.push(SealJob { number: file.number, bytes: file.bytes, end: left.position });
        Ok(())
    }
}

fn cut(
    directory: &Path,
    file: &SegmentFile,
    at: u64,
    left: &mut Left,
    torn: bool,
) -> Result<(), RecordError> {
    let io = |error| RecordError::io("repair", &directory.join(segment_name(file.number, false)), error);
    let open = OpenOptions::new().write(true).open(&file.path).map_err(io)?;
    let bytes = open.metadata().map_err(io)?.len();
    if torn {
        open.set_len(at).map_err(io)?;
    }
    open.sync_all().map_err(io)?;
    let cut = bytes.saturating_sub(at);
    left.bytes = left.bytes.saturating_sub(cut);
    left.crashed = Some((file.number, cut));
    left.unsealed.push(SealJob { number: file.number, bytes: at, end: left.position });
    Ok(())
}

fn zeros(path: &Path, from: u64) -> Result<bool, RecordError> {
    let io = |error| RecordError::io("read", path, error);
    let mut file = File::open(path).map_err(io)?;
    file.seek(SeekFrom::Start(from)).map_err(io)?;
    let mut buffer = [0; 64 << 10];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(true),
            Ok(read) if buffer.iter().take(read).any(|byte| *byte != 0) => return Ok(false),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(io(error)),
        }
    }
}
