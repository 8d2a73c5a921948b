//! What is shipped, read from the recording's files: one message after another, in bounded memory.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use interlock_recording::chain::MAX_EVENT;
use interlock_recording::checkpoint::{self, HEAD};
use interlock_recording::log::{self as segments, segment_name};
use interlock_recording::proto::{Checkpoint, SegmentHeader};
use interlock_recording::segment::FRAME_OVERHEAD;
use interlock_recording::{PublicKey, SignedFileError};
use interlock_shipping::v1::to_collector::Message;
use interlock_shipping::v1::{Live, SealedPart};
use interlock_shipping::{MAX_LIVE, MAX_PART};
use prost::Message as _;

use super::Fault;
use super::enrolment::Mark;

/// Where an open segment's header begins: after eight bytes and its length.
const HEADER_AT: u64 = 12;
/// Headers are far smaller.
const MAX_HEADER: u32 = 4096;
/// A file of this kind is smaller.
const MAX_HEAD: u64 = 4096;

/// Reads the recording from where the collector wants it on.
#[derive(Debug)]
pub(super) struct Source {
    directory: PathBuf,
    key: PublicKey,
    /// The first segment that has not been read to its end as a sealed one.
    next: u64,
    sealed: Option<Sealed>,
    live: Option<OpenSegment>,
    /// Live events before this one need not be sent.
    live_from: u64,
    /// Nothing more of the segment `next` is sent live.
    live_over: bool,
}

#[derive(Debug)]
struct Sealed {
    file: File,
    size: u64,
    offset: u64,
}

/// A place in an open segment's file.
#[derive(Debug)]
struct OpenSegment {
    file: File,
    /// Until it has been sent.
    header: Option<Vec<u8>>,
    /// Index of the record that begins at `offset`.
    index: u64,
    offset: u64,
}

/// The newest signed word on how far the log went.
#[derive(Debug)]
pub(super) struct Head {
    content: Vec<u8>,
    pub(super) checkpoint: Checkpoint,
}

impl Head {
    /// The file's content.
    pub(super) fn into_content(self) -> Vec<u8> {
        self.content
    }
}

fn damaged(path: &Path, what: impl std::fmt::Display) -> Fault {
    Fault::Recording(format!("{}: {what}. `interlock sessions verify` tells more", path.display()))
}

/// Reads `HEAD`.
pub(super) fn head(directory: &Path, key: &PublicKey) -> Result<Head, Fault> {
    let path = directory.join(HEAD);
    let read = || -> Result<Head, SignedFileError> {
        if std::fs::metadata(&path)?.len() > MAX_HEAD {
            return Err(SignedFileError::Damaged);
        }
        let content = std::fs::read(&path)?;
        let checkpoint = checkpoint::parse(&content, key)?;
        Ok(Head { content, checkpoint })
    };
    read().map_err(|error| damaged(&path, error))
}

/// What there is of the recording.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Extent {
    /// The lowest number among the segments,
    pub(super) oldest: u64,
    /// and the first that is not sealed.
    pub(super) unsealed: u64,
}

/// Looks what there is of the recording.
pub(super) fn extent(directory: &Path) -> Result<Extent, Fault> {
    let listing = segments::list(directory).map_err(|error| damaged(directory, error))?;
    let oldest = listing.segments.first().map_or(0, |segment| segment.number);
    let mut unsealed = oldest;
    for segment in &listing.segments {
        if !segment.sealed || segment.number != unsealed {
            break;
        }
        unsealed += 1;
    }
    Ok(Extent { oldest, unsealed })
}

/// When a segment was begun, in seconds since the Unix epoch, if the segment is there.
pub(super) fn begun(directory: &Path, number: u64) -> Result<Option<i64>, Fault> {
    let header = header_of(directory, number)?;
    Ok(header.and_then(|header| i64::try_from(header.created_ns / 1_000_000_000).ok()))
}

/// A segment's header, if the segment is there.
fn header_of(directory: &Path, number: u64) -> Result<Option<SegmentHeader>, Fault> {
    // Again, for it may have been sealed in between.
    for sealed in [true, false, true] {
        let path = directory.join(segment_name(number, sealed));
        let read = File::open(&path).and_then(|file| read_header(&file));
        match read {
            Ok((_, header)) => return Ok(Some(header)),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(damaged(&path, error)),
        }
    }
    Ok(None)
}

impl Source {
    /// Goes on where the collector says that it is. What it says is checked against what there is.
    pub(super) fn start(directory: &Path, key: &PublicKey, taken: Mark) -> Result<Self, Fault> {
        let extent = extent(directory)?;
        let events = head(directory, key)?.checkpoint.events;
        let Mark { segment, event } = taken;
        if segment > extent.unsealed || event > events {
            return Err(Fault::Contradiction(format!(
                "the collector says that it has this host's segments before {segment} and events before {event}, \
                 but the recording here goes only to segment {} and event {events}. Was the state directory put \
                 back, or copied from another host? `interlock sessions verify` and the collector's own check \
                 tell more; a host with a new state directory is enrolled anew",
                extent.unsealed
            )));
        }
        if segment < extent.oldest {
            return Err(Fault::Contradiction(format!(
                "the collector asks for segment {segment}, but the oldest one here is {}: the ones before were \
                 moved away, or removed after a collector had taken them. What is missing must be restored there",
                extent.oldest
            )));
        }
        let header = header_of(directory, segment)?;
        if let Some(first) = header.map(|header| header.first_index)
            && event < first
        {
            return Err(Fault::Contradiction(format!(
                "the collector says that it has all segments before {segment}, but of the events before {first}, \
                 which these hold, only those before {event}"
            )));
        }
        Ok(Self {
            directory: directory.to_owned(),
            key: key.clone(),
            next: segment,
            sealed: None,
            live: None,
            live_from: event,
            live_over: false,
        })
    }

    /// The first segment that has not been read to its end as a sealed one.
    pub(super) fn next(&self) -> u64 {
        self.next
    }

    fn path(&self, number: u64, sealed: bool) -> PathBuf {
        self.directory.join(segment_name(number, sealed))
    }

    /// Opens a file, if it is there.
    fn open(&self, number: u64, sealed: bool) -> Result<Option<File>, Fault> {
        let path = self.path(number, sealed);
        match File::open(&path) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(damaged(&path, error)),
        }
    }

    /// The next message; `None` when there is nothing to send now. With `sealed` a segment may be begun.
    pub(super) fn next_message(&mut self, sealed: bool) -> Result<Option<Message>, Fault> {
        if self.sealed.is_none() {
            if !sealed {
                return Ok(None);
            }
            match self.open(self.next, true)? {
                Some(file) => {
                    let path = self.path(self.next, true);
                    let size = file.metadata().map_err(|error| damaged(&path, error))?.len();
                    self.sealed = Some(Sealed { file, size, offset: 0 });
                    // Of the whole segment nothing need come live any more.
                    self.live = None;
                }
                None => return self.next_live(),
            }
        }
        self.next_part().map(Some)
    }

    fn next_part(&mut self) -> Result<Message, Fault> {
        let path = self.path(self.next, true);
        let Some(sealed) = &mut self.sealed else { return Err(damaged(&path, "it is not open")) };
        let left = sealed.size.saturating_sub(sealed.offset);
        let mut data = vec![0; usize::try_from(left).unwrap_or(usize::MAX).min(MAX_PART)];
        sealed.file.read_exact_at(&mut data, sealed.offset).map_err(|error| damaged(&path, error))?;
        let offset = sealed.offset;
        sealed.offset += data.len() as u64;
        let last = sealed.offset == sealed.size;
        let segment = self.next;
        if last {
            self.sealed = None;
            self.next += 1;
            self.live_over = false;
        }
        Ok(Message::Sealed(SealedPart { segment, offset, data: Bytes::from(data), last }))
    }

    fn next_live(&mut self) -> Result<Option<Message>, Fault> {
        if self.live_over {
            return Ok(None);
        }
        let head = head(&self.directory, &self.key)?;
        let path = self.path(self.next, false);
        if self.live.is_none() {
            let Some(file) = self.open(self.next, false)? else {
                // Sealed since it was looked for, or there is none yet.
                if self.next <= head.checkpoint.segment && self.open(self.next, true)?.is_none() {
                    return Err(damaged(&path, "the segment is missing"));
                }
                return Ok(None);
            };
            let (header, decoded) = read_header(&file).map_err(|error| damaged(&path, error))?;
            if decoded.segment != self.next {
                return Err(damaged(&path, "it is another segment"));
            }
            self.live = Some(OpenSegment {
                file,
                index: decoded.first_index,
                offset: HEADER_AT + header.len() as u64,
                header: Some(header),
            });
        }
        let Some(live) = &mut self.live else { return Ok(None) };
        live.skip(self.live_from.min(head.checkpoint.events)).map_err(|error| damaged(&path, error))?;
        if live.index < self.live_from {
            // What the collector has goes beyond this segment: it wants the sealed one only.
            return Ok(None);
        }
        let read = live.records(head.checkpoint.events).map_err(|error| damaged(&path, error))?;
        let first_index = live.index;
        match read {
            Records::None => {
                // Of the segment that HEAD stands in there must be all that it covers.
                if head.checkpoint.segment == self.next && live.index < head.checkpoint.events {
                    return Err(damaged(&path, "it ends before what HEAD covers"));
                }
                Ok(None)
            }
            Records::TooLarge => {
                self.live_over = true;
                self.live = None;
                Ok(None)
            }
            Records::Some { bytes, count } => {
                live.index += count;
                live.offset += bytes.len() as u64;
                self.live_from = live.index;
                Ok(Some(Message::Live(Live {
                    segment: self.next,
                    first_index,
                    header: live.header.take().unwrap_or_default(),
                    records: Bytes::from(bytes),
                    head: head.content,
                })))
            }
        }
    }
}

enum Records {
    /// There are no more that may be sent.
    None,
    /// The next one is larger than a message may be.
    TooLarge,
    /// These.
    Some { bytes: Vec<u8>, count: u64 },
}

impl OpenSegment {
    /// Goes to event `index`, or to the last one there is.
    fn skip(&mut self, index: u64) -> io::Result<()> {
        while self.index < index {
            let Some(length) = self.length_at(self.offset)? else { return Ok(()) };
            self.offset += length;
            self.index += 1;
        }
        Ok(())
    }

    /// Bytes of the whole record that begins at `offset`; `None` at the end of the file.
    fn length_at(&self, offset: u64) -> io::Result<Option<u64>> {
        let size = self.file.metadata()?.len();
        if offset >= size {
            return Ok(None);
        }
        let mut length = [0; 4];
        self.file.read_exact_at(&mut length, offset)?;
        let length = whole(length)?;
        if offset + length > size {
            return Err(io::Error::other("it ends within a record"));
        }
        Ok(Some(length))
    }

    /// Records from here on, before the event `until`: as many as one message takes.
    fn records(&self, until: u64) -> io::Result<Records> {
        if self.index >= until {
            return Ok(Records::None);
        }
        match self.length_at(self.offset)? {
            None => return Ok(Records::None),
            Some(length) if length > MAX_LIVE as u64 => return Ok(Records::TooLarge),
            Some(_) => {}
        }
        let left = self.file.metadata()?.len().saturating_sub(self.offset);
        let mut bytes = vec![0; usize::try_from(left).unwrap_or(usize::MAX).min(MAX_LIVE)];
        self.file.read_exact_at(&mut bytes, self.offset)?;
        let (mut used, mut count) = (0, 0);
        while self.index + count < until
            && let Some(length) = bytes.get(used..).and_then(|rest| rest.first_chunk::<4>())
        {
            let length = usize::try_from(whole(*length)?).unwrap_or(usize::MAX);
            // The rest of it is in the next message, or not yet written.
            if bytes.len() - used < length {
                break;
            }
            used += length;
            count += 1;
        }
        bytes.truncate(used);
        Ok(Records::Some { bytes, count })
    }
}

/// Bytes of a whole record, by the length that stands at its beginning.
fn whole(length: [u8; 4]) -> io::Result<u64> {
    let length = u32::from_le_bytes(length);
    if length as usize > MAX_EVENT {
        return Err(io::Error::other("a record in it claims a length over the limit"));
    }
    Ok(u64::from(length) + FRAME_OVERHEAD as u64)
}

/// A segment's header as it stands in its file.
fn read_header(file: &File) -> io::Result<(Vec<u8>, SegmentHeader)> {
    let mut length = [0; 4];
    file.read_exact_at(&mut length, HEADER_AT - 4)?;
    let length = u32::from_le_bytes(length);
    if length > MAX_HEADER {
        return Err(io::Error::other("its header is damaged"));
    }
    let mut bytes = vec![0; length as usize];
    file.read_exact_at(&mut bytes, HEADER_AT)?;
    let header =
        SegmentHeader::decode(bytes.as_slice()).map_err(|_| io::Error::other("its header is damaged"))?;
    Ok((bytes, header))
}
