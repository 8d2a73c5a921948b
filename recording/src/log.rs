//! A directory of recordings: its segments, and the events in them one after another.

use std::io;
use std::path::{Path, PathBuf};

use prost::Message as _;

use crate::proto::Event;
use crate::segment::{FrameError, SegmentError, SegmentReader};

/// A segment's file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentFile {
    /// The segment's number, as its file's name has it.
    pub number: u64,
    /// The file.
    pub path: PathBuf,
    /// Sealed, or still open.
    pub sealed: bool,
    /// The file's size in bytes.
    pub bytes: u64,
}

/// What a directory of recordings holds.
#[derive(Debug, Clone, Default)]
pub struct Listing {
    /// The segments by number. Of a segment that is there both open and sealed (its sealing was
    /// interrupted) the sealed one.
    pub segments: Vec<SegmentFile>,
    /// Open segments that are there sealed as well.
    pub superseded: Vec<SegmentFile>,
    /// Files that are no part of a recording.
    pub strangers: Vec<PathBuf>,
}

/// The file name of a segment.
pub fn segment_name(number: u64, sealed: bool) -> String {
    format!("{number:012}.{}", if sealed { "seg" } else { "open" })
}

fn parse_name(name: &str) -> Option<(u64, bool)> {
    let (digits, extension) = name.split_once('.')?;
    let sealed = match extension {
        "seg" => true,
        "open" => false,
        _ => return None,
    };
    let number = digits.parse().ok()?;
    // One name for one segment.
    (segment_name(number, sealed) == name).then_some((number, sealed))
}

/// Lists a directory of recordings.
///
/// # Errors
/// The directory cannot be read.
pub fn list(directory: &Path) -> io::Result<Listing> {
    let mut listing = Listing::default();
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let path = entry.path();
        let name = entry.file_name();
        match name.to_str().and_then(parse_name) {
            Some((number, sealed)) => {
                let bytes = match entry.metadata() {
                    Ok(metadata) => metadata.len(),
                    // It has just been sealed; the sealed one is in the listing or is found in its place.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
                    Err(error) => return Err(error),
                };
                listing.segments.push(SegmentFile { number, path, sealed, bytes });
            }
            None if name == crate::checkpoint::HEAD || name == crate::shipped::SHIPPED => {}
            None => listing.strangers.push(path),
        }
    }
    listing.segments.sort_by_key(|segment| (segment.number, !segment.sealed));
    let mut last = None;
    let superseded = &mut listing.superseded;
    listing.segments.retain(|segment| {
        let keep = last != Some(segment.number);
        last = Some(segment.number);
        if !keep {
            superseded.push(segment.clone());
        }
        keep
    });
    listing.strangers.sort();
    Ok(listing)
}

/// Opens a listed segment, even if it has been sealed since it was listed.
///
/// # Errors
/// As for [`SegmentReader::open`].
pub fn open(segment: &SegmentFile) -> Result<(SegmentReader<'static>, bool), SegmentError> {
    match SegmentReader::open(&segment.path) {
        Err(SegmentError::Io(error)) if error.kind() == io::ErrorKind::NotFound && !segment.sealed => {
            let sealed = segment.path.with_file_name(segment_name(segment.number, true));
            Ok((SegmentReader::open(&sealed)?, true))
        }
        result => Ok((result?, segment.sealed)),
    }
}

/// An event where it stands.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The segment's number.
    pub segment: u64,
    /// The event.
    pub event: Event,
}

/// A recording cannot be read on.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The directory cannot be read.
    #[error("cannot read the directory {path}: {error}")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// A segment cannot be read.
    #[error("{path} {error}")]
    Segment {
        /// Its file.
        path: PathBuf,
        /// What is wrong.
        error: SegmentError,
    },
    /// A record cannot be read.
    #[error("{path}, at byte {offset}: {reason}")]
    Record {
        /// Its file.
        path: PathBuf,
        /// Where in the (uncompressed) file the record begins.
        offset: u64,
        /// What is wrong.
        reason: String,
    },
}

/// Reads the events of a directory in order, in bounded memory. What it gives is not verified. An
/// agent may go on appending meanwhile; a record that is being written ends the reading.
pub struct Reader {
    segments: std::vec::IntoIter<SegmentFile>,
    current: Option<(SegmentFile, SegmentReader<'static>)>,
}

impl Reader {
    /// Reads the events in `directory`.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn new(directory: &Path) -> Result<Self, ReadError> {
        let listing =
            list(directory).map_err(|error| ReadError::Directory { path: directory.into(), error })?;
        Ok(Self::of(listing.segments))
    }

    /// Reads the events in these segments.
    pub fn of(segments: Vec<SegmentFile>) -> Self {
        Self { segments: segments.into_iter(), current: None }
    }
}

impl Iterator for Reader {
    type Item = Result<Entry, ReadError>;

    /// The next event. After an error in a segment the reading goes on with the next segment.
    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if self.current.is_none() {
                let segment = self.segments.next()?;
                match open(&segment) {
                    Ok((reader, _)) => self.current = Some((segment, reader)),
                    Err(error) => return Some(Err(ReadError::Segment { path: segment.path, error })),
                }
            }
            let (segment, reader) = self.current.as_mut()?;
            let offset = reader.offset();
            let failed = match reader.next_frame() {
                Ok(Some(frame)) => match Event::decode(frame.event) {
                    Ok(event) => return Some(Ok(Entry { segment: segment.number, event })),
                    Err(error) => format!("the event cannot be decoded: {error}"),
                },
                Ok(None) => {
                    self.current = None;
                    continue;
                }
                Err(FrameError::Torn) if !segment.sealed && self.segments.len() == 0 => return None,
                Err(error) => error.to_string(),
            };
            let path = segment.path.clone();
            self.current = None;
            return Some(Err(ReadError::Record { path, offset, reason: failed }));
        }
    }
}
