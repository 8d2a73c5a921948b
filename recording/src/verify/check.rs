//! Strict verification of what a host sends: one sealed segment, or a run of records that are not sealed
//! yet. It stops at the first thing that is wrong, hands out each event on the way, and takes no more
//! memory than its limits say, whatever it is given.

use std::cell::Cell;
use std::convert::Infallible;
use std::io::{self, Read, Seek, SeekFrom};

use super::position::judge;
use super::{Boundary, Position, Problem, ProblemKind};
use crate::chain::Hash;
use crate::checkpoint;
use crate::keys::PublicKey;
use crate::proto::{Checkpoint, Event};
use crate::segment::{FrameError, SegmentError, SegmentReader, read_frame};
use crate::signed::SignedFileError;

/// What a hostile host may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes that a segment's body may unpack to.
    pub body_bytes: u64,
    /// Bytes of memory that an event may take up when it is decoded, besides its own.
    pub event_memory: u64,
}

impl Default for Limits {
    /// More than an agent ever needs: 512 MiB each.
    fn default() -> Self {
        Self { body_bytes: 512 << 20, event_memory: 512 << 20 }
    }
}

/// An event that stands where it belongs.
#[derive(Debug)]
pub struct Checked<'a> {
    /// The event. Its `index` is the one that was due.
    pub event: Event,
    /// Its exact bytes.
    pub bytes: &'a [u8],
    /// The chain's hash after it.
    pub hash: Hash,
}

/// A sealed segment that is whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CheckedSegment {
    /// Its number.
    pub segment: u64,
    /// The index of its first event.
    pub first_index: u64,
    /// How many events it has.
    pub events: u64,
    /// SHA-256 of its header.
    pub header_sha256: Hash,
    /// When it was begun and when it was sealed, by the host's clock (nanoseconds since the Unix epoch).
    pub created_ns: u64,
    /// See `created_ns`.
    pub closed_ns: u64,
    /// Where the next segment begins.
    pub next: Boundary,
}

/// A run of records that is whole.
#[derive(Debug, Clone, PartialEq)]
pub struct CheckedRun {
    /// Where the log stands after them.
    pub next: Position,
    /// They go right up to what the host has signed, and lead to the hash that it has signed. Without
    /// that they are chained, and what proves them is still to come.
    pub attested: bool,
    /// What the host has signed.
    pub head: Checkpoint,
}

/// What was sent is not taken.
#[derive(Debug, thiserror::Error)]
pub enum CheckError<E = Infallible> {
    /// Something is wrong with it.
    #[error("{}", .0.detail)]
    Problem(Problem),
    /// It could not be read, through no fault of the host's.
    #[error("cannot be read: {0}")]
    Io(io::Error),
    /// Whoever was given the events could not take one.
    #[error(transparent)]
    Each(E),
}

fn problem<E>(kind: ProblemKind, event: Option<u64>, detail: impl Into<String>) -> CheckError<E> {
    CheckError::Problem(Problem { kind, file: None, event, session: None, detail: detail.into() })
}

/// Remembers that the source itself failed, which what lies above it cannot tell from damage.
struct Source<'c, R> {
    inner: R,
    failed: &'c Cell<Option<io::Error>>,
}

impl<R> Source<'_, R> {
    fn keep<T>(&self, result: io::Result<T>) -> io::Result<T> {
        result.map_err(|error| {
            let kind = error.kind();
            if kind != io::ErrorKind::Interrupted {
                self.failed.set(Some(error));
            }
            kind.into()
        })
    }
}

impl<R: Read> Read for Source<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let result = self.inner.read(buffer);
        self.keep(result)
    }
}

impl<R: Seek> Seek for Source<'_, R> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let result = self.inner.seek(to);
        self.keep(result)
    }
}

/// Verifies the sealed segment in `file`, which must go on at `from` in the log of the host with the key
/// `host`, and hands each of its events to `each`, in order. Without `from` the segment's own word for
/// where it begins is taken, which the host has signed: that is for segments out of the middle of a log.
///
/// An event that was handed out may be followed by something that is wrong: what is done with events must
/// be taken back when this returns an error.
///
/// # Errors
/// Something is wrong with the segment, `file` cannot be read, or `each` refused an event.
pub fn check_segment<E>(
    file: impl Read + Seek,
    host: &PublicKey,
    from: Option<&Boundary>,
    limits: &Limits,
    each: impl FnMut(Checked<'_>) -> Result<(), E>,
) -> Result<CheckedSegment, CheckError<E>> {
    let failed = Cell::new(None);
    let source = Source { inner: file, failed: &failed };
    let result = segment(source, host, from, limits, each);
    match (result, failed.take()) {
        (Err(CheckError::Problem(_)), Some(error)) => Err(CheckError::Io(error)),
        (result, _) => result,
    }
}

fn segment<E>(
    file: impl Read + Seek,
    host: &PublicKey,
    from: Option<&Boundary>,
    limits: &Limits,
    mut each: impl FnMut(Checked<'_>) -> Result<(), E>,
) -> Result<CheckedSegment, CheckError<E>> {
    let mut reader = SegmentReader::new(file).map_err(|error| match error {
        SegmentError::Format(_) | SegmentError::Magic => {
            problem(ProblemKind::Unreadable, None, format!("the file {error}"))
        }
        error => problem(ProblemKind::Altered, None, format!("the file {error}")),
    })?;
    let header = reader.header().clone();
    let header_sha256 = reader.header_sha256();
    if header.host != host.fingerprint() {
        return Err(problem(ProblemKind::Signature, None, "the segment is another host's"));
    }
    let Some(signed) = reader.footer().cloned() else {
        return Err(problem(ProblemKind::Signature, None, "the segment is not sealed"));
    };
    if !signed.verifies(host) {
        let detail = "the footer does not bear the signature of this host's key";
        return Err(problem(ProblemKind::Signature, None, detail));
    }
    let footer = signed.footer;
    if footer.header_sha256 != header_sha256 {
        return Err(problem(ProblemKind::Altered, None, "the header is not the one that was sealed"));
    }
    // From here on the host has signed what the header and the footer say.
    let claimed = Boundary::before(&header)
        .ok_or_else(|| problem(ProblemKind::Altered, None, "the header is damaged"))?;
    if let Some(from) = from.filter(|from| **from != claimed) {
        let detail = format!(
            "segment {} beginning at event {} does not go on where the log ends: segment {} beginning at event {} \
             is due",
            claimed.segment, claimed.position.index, from.segment, from.position.index
        );
        return Err(problem(ProblemKind::Reordered, Some(from.position.index), detail));
    }
    if footer.body_bytes > limits.body_bytes {
        let detail = format!(
            "its body unpacks to {} bytes, over the limit of {}",
            footer.body_bytes, limits.body_bytes
        );
        return Err(problem(ProblemKind::Unreadable, None, detail));
    }
    let mut position = claimed.position;
    loop {
        let at = position.index;
        let unreadable = |error: FrameError| {
            problem(ProblemKind::Altered, Some(at), format!("no event can be read from here on: {error}"))
        };
        let Some(frame) = reader.next_frame().map_err(unreadable)? else { break };
        event(frame.event, &frame.hash, &mut position, limits, &mut each)?;
    }
    let body = reader.finish().map_err(|error| problem(ProblemKind::Altered, None, error.to_string()))?;
    let events = position.index - header.first_index;
    if body.is_none_or(|hash| footer.body_sha256 != hash) {
        return Err(problem(
            ProblemKind::Altered,
            None,
            "the compressed body is not the one that was sealed",
        ));
    }
    if footer.events != events || footer.final_hash != position.hash {
        let detail = format!("its {events} events are not the {} that were sealed", footer.events);
        return Err(problem(ProblemKind::Altered, None, detail));
    }
    // There is no number after the last one.
    let next = header
        .segment
        .checked_add(1)
        .filter(|_| position.index < u64::MAX)
        .ok_or_else(|| problem(ProblemKind::Unreadable, None, "its number is beyond every log's"))?;
    Ok(CheckedSegment {
        segment: header.segment,
        first_index: header.first_index,
        events,
        header_sha256,
        created_ns: header.created_ns,
        closed_ns: footer.closed_ns,
        next: Boundary { segment: next, position, header_sha256: Some(header_sha256) },
    })
}

/// Verifies `records`, bytes as they stand in an open segment's file, which must go on at `from`, under
/// the content of the `HEAD` file that came with them, and hands each event to `each`, in order. Records
/// beyond what `HEAD` covers are refused. There may be none: then it is about `HEAD` alone.
///
/// # Errors
/// Something is wrong with the records or with `HEAD`, or `each` refused an event. What was done with
/// events must be taken back then.
pub fn check_records<E>(
    records: &[u8],
    head: &[u8],
    host: &PublicKey,
    from: &Position,
    limits: &Limits,
    mut each: impl FnMut(Checked<'_>) -> Result<(), E>,
) -> Result<CheckedRun, CheckError<E>> {
    let head = checkpoint::parse(head, host).map_err(|error| {
        let kind = match &error {
            SignedFileError::Signature => ProblemKind::Signature,
            _ => ProblemKind::Altered,
        };
        problem(kind, None, format!("HEAD {error}"))
    })?;
    if head.host != host.fingerprint() {
        return Err(problem(ProblemKind::Signature, None, "HEAD is another host's"));
    }
    if head.events < from.index {
        let detail = format!(
            "HEAD was put back to an earlier one: it ends before event {}, although events up to {} came already",
            head.events,
            from.index - 1
        );
        return Err(problem(ProblemKind::RolledBack, Some(head.events), detail));
    }
    let mut position = *from;
    let (mut rest, mut buffer, mut offset) = (records, Vec::new(), 0);
    loop {
        let at = position.index;
        let unreadable = |error: FrameError| {
            problem(ProblemKind::Altered, Some(at), format!("no event can be read from here on: {error}"))
        };
        let frame = read_frame(&mut rest, &mut buffer, &mut offset, None).map_err(unreadable)?;
        let Some(frame) = frame else { break };
        if at >= head.events {
            let detail = format!("the HEAD that came with it covers no event from {} on", head.events);
            return Err(problem(ProblemKind::Signature, Some(at), detail));
        }
        event(frame.event, &frame.hash, &mut position, limits, &mut each)?;
    }
    let attested = position.index == head.events;
    if attested && head.hash != position.hash {
        let detail = "events up to here were rewritten: their chain holds, but does not lead to the hash that \
                      HEAD has";
        return Err(problem(ProblemKind::Altered, head.events.checked_sub(1), detail));
    }
    Ok(CheckedRun { next: position, attested, head })
}

fn event<E>(
    bytes: &[u8],
    stored: &Hash,
    position: &mut Position,
    limits: &Limits,
    each: &mut impl FnMut(Checked<'_>) -> Result<(), E>,
) -> Result<(), CheckError<E>> {
    let judged = judge(position, bytes, stored, limits.event_memory);
    if let Some((kind, detail)) = judged.wrong {
        return Err(problem(kind, Some(position.index), detail));
    }
    *position = judged.next;
    match judged.event {
        Some(event) => each(Checked { event, bytes, hash: *stored }).map_err(CheckError::Each),
        None => Ok(()),
    }
}
