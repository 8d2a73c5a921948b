//! Segment files: open ones, which are appended to, and sealed ones.
//!
//! ```text
//! open:   "ILKOPEN1"  u32 length, SegmentHeader  { u32 length, Event, 32 bytes chain hash }*
//! sealed: "ILKSEAL1"  u32 length, SegmentHeader  u64 length, zstd( { … }* )
//!         u32 length, SegmentFooter  64 bytes signature
//! ```
//! All lengths are little-endian and count bytes.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::Path;

use prost::Message as _;
use sha2::{Digest as _, Sha256};

use crate::chain::{Hash, MAX_EVENT, digest, link};
use crate::keys::{Domain, HostKey, PublicKey, SIGNATURE};
use crate::proto::{SegmentFooter, SegmentHeader};

/// The format's version, as it stands in every segment's header.
pub const FORMAT: u32 = 1;

pub(crate) const OPEN_MAGIC: &[u8; 8] = b"ILKOPEN1";
const SEALED_MAGIC: &[u8; 8] = b"ILKSEAL1";

/// Headers and footers are far smaller; one that claims more is not ours.
const MAX_HEADER: u32 = 4096;
/// The compressor's window is at most 8 MiB, so that reading needs no more memory than that.
const WINDOW_LOG: u32 = 23;
const LEVEL: i32 = 3;

/// What is wrong with a segment file.
#[derive(Debug, thiserror::Error)]
pub enum SegmentError {
    /// It cannot be read.
    #[error("cannot be read: {0}")]
    Io(#[from] io::Error),
    /// It does not begin as a segment does.
    #[error("is not a segment: it does not begin with a segment's eight bytes")]
    Magic,
    /// It ends too early.
    #[error("is cut short: it ends within its {0}")]
    Short(&'static str),
    /// There is more in it than there should be.
    #[error("has {0} bytes after its end")]
    Trailing(u64),
    /// A part cannot be read.
    #[error("has a damaged {0}")]
    Damaged(&'static str),
    /// A newer version.
    #[error("is of format {0}, which this version does not read")]
    Format(u32),
}

/// What is wrong with a record.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The file ends within the record.
    #[error("the record is incomplete: the file ends within it")]
    Torn,
    /// Its length is over the limit.
    #[error("the record claims a length of {0} bytes, over the limit")]
    Length(u32),
    /// The compressed body cannot be read.
    #[error("the compressed body is damaged: {0}")]
    Body(io::Error),
}

/// One record of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    /// The event's exact bytes.
    pub event: &'a [u8],
    /// The chain's hash after it, as the file has it.
    pub hash: Hash,
}

/// A segment's footer and the host's signature over it.
#[derive(Debug, Clone)]
pub struct SignedFooter {
    /// The footer.
    pub footer: SegmentFooter,
    bytes: Vec<u8>,
    signature: [u8; SIGNATURE],
}

impl SignedFooter {
    /// Whether `host` signed it.
    pub fn verifies(&self, host: &PublicKey) -> bool {
        host.verifies(Domain::Footer, &self.bytes, &self.signature)
    }
}

/// Appends a record to `buffer`.
pub fn put_frame(buffer: &mut Vec<u8>, event: &[u8], hash: &Hash) {
    buffer.extend_from_slice(&(event.len() as u32).to_le_bytes());
    buffer.extend_from_slice(event);
    buffer.extend_from_slice(hash);
}

/// Bytes that a record takes beyond its event.
pub const FRAME_OVERHEAD: usize = 4 + size_of::<Hash>();

/// The beginning of an open segment's file.
pub fn open_preamble(header: &SegmentHeader) -> Vec<u8> {
    preamble(OPEN_MAGIC, &header.encode_to_vec())
}

fn preamble(magic: &[u8; 8], header: &[u8]) -> Vec<u8> {
    [magic.as_slice(), &(header.len() as u32).to_le_bytes(), header].concat()
}

// === Reading ===

/// Reads a segment's records one after another, in bounded memory. It checks the file's form; what the
/// records say is [`mod@crate::verify`]'s to judge.
pub struct SegmentReader<'r> {
    header: SegmentHeader,
    header_bytes: Vec<u8>,
    footer: Option<SignedFooter>,
    body: Body<'r>,
    event: Vec<u8>,
    offset: u64,
}

type Unpacker<'r> = zstd::Decoder<'static, BufReader<Hashing<Box<dyn Read + 'r>>>>;

enum Body<'r> {
    Open(BufReader<Box<dyn Read + 'r>>),
    Sealed(Box<Unpacker<'r>>),
}

/// Hashes what is read through it.
struct Hashing<R> {
    inner: io::Take<R>,
    hash: Sha256,
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.hash.update(buffer.get(..read).unwrap_or_default());
        Ok(read)
    }
}

impl SegmentReader<'static> {
    /// Opens a segment's file, open or sealed.
    ///
    /// # Errors
    /// The file cannot be read or does not have a segment's form.
    pub fn open(path: &Path) -> Result<Self, SegmentError> {
        Self::new(File::open(path)?)
    }
}

impl<'r> SegmentReader<'r> {
    /// Reads a segment from anything that can be read and sought in.
    ///
    /// # Errors
    /// As for [`SegmentReader::open`].
    pub fn new<R: Read + Seek + 'r>(mut file: R) -> Result<Self, SegmentError> {
        let mut magic = [0; 8];
        exact(&mut file, &mut magic, "first eight bytes")?;
        let sealed = match &magic {
            OPEN_MAGIC => false,
            SEALED_MAGIC => true,
            _ => return Err(SegmentError::Magic),
        };
        let header_bytes = small_part(&mut file, "header")?;
        let header =
            SegmentHeader::decode(header_bytes.as_slice()).map_err(|_| SegmentError::Damaged("header"))?;
        if header.format != FORMAT {
            return Err(SegmentError::Format(header.format));
        }
        let mut offset = 12 + header_bytes.len() as u64;
        let (footer, body) = if sealed {
            let mut length = [0; 8];
            exact(&mut file, &mut length, "body")?;
            let length = u64::from_le_bytes(length);
            offset += 8;
            let end = file.seek(SeekFrom::End(0))?;
            let footer_at =
                offset.checked_add(length).filter(|at| *at <= end).ok_or(SegmentError::Short("body"))?;
            file.seek(SeekFrom::Start(footer_at))?;
            let bytes = small_part(&mut file, "footer")?;
            let mut signature = [0; SIGNATURE];
            exact(&mut file, &mut signature, "signature")?;
            let trailing = end.saturating_sub(file.stream_position()?);
            if trailing != 0 {
                return Err(SegmentError::Trailing(trailing));
            }
            let footer =
                SegmentFooter::decode(bytes.as_slice()).map_err(|_| SegmentError::Damaged("footer"))?;
            file.seek(SeekFrom::Start(offset))?;
            let raw: Box<dyn Read + 'r> = Box::new(file);
            let hashing = Hashing { inner: raw.take(length), hash: Sha256::new() };
            let mut decoder = zstd::Decoder::with_buffer(BufReader::with_capacity(128 << 10, hashing))?;
            decoder.window_log_max(WINDOW_LOG)?;
            (Some(SignedFooter { footer, bytes, signature }), Body::Sealed(Box::new(decoder)))
        } else {
            (None, Body::Open(BufReader::with_capacity(128 << 10, Box::new(file))))
        };
        Ok(Self {
            header,
            header_bytes,
            footer,
            body,
            event: Vec::new(),
            offset: if sealed { 0 } else { offset },
        })
    }

    /// The segment's header.
    pub fn header(&self) -> &SegmentHeader {
        &self.header
    }

    /// SHA-256 of the header's bytes.
    pub fn header_sha256(&self) -> Hash {
        digest(&self.header_bytes)
    }

    /// A sealed segment's footer.
    pub fn footer(&self) -> Option<&SignedFooter> {
        self.footer.as_ref()
    }

    /// Bytes up to the end of the last whole record that was read: of the file for an open segment, of
    /// the body before compression for a sealed one.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The next record; `None` at the segment's end.
    ///
    /// # Errors
    /// The record is incomplete or cannot be read; nothing can be read after it.
    pub fn next_frame(&mut self) -> Result<Option<Frame<'_>>, FrameError> {
        let reader: &mut dyn BufRead = match &mut self.body {
            Body::Open(reader) => reader,
            Body::Sealed(decoder) => {
                // A sealed body ends with its footer's count of bytes, whatever the compressor would
                // still make of the rest.
                let limit = self.footer.as_ref().map_or(0, |signed| signed.footer.body_bytes);
                return read_frame(decoder, &mut self.event, &mut self.offset, Some(limit));
            }
        };
        read_frame(reader, &mut self.event, &mut self.offset, None)
    }

    /// After the last record of a sealed segment: SHA-256 of the compressed body, read to its end.
    /// `None` for an open segment.
    ///
    /// # Errors
    /// The body goes on after the records' end, or cannot be read.
    pub fn finish(self) -> Result<Option<Hash>, FrameError> {
        let Body::Sealed(mut decoder) = self.body else { return Ok(None) };
        let mut more = [0; 1];
        if decoder.read(&mut more).map_err(FrameError::Body)? != 0 {
            return Err(FrameError::Body(io::Error::other("it holds more than its footer counts")));
        }
        let mut hashing = decoder.finish();
        io::copy(&mut hashing, &mut io::sink()).map_err(FrameError::Body)?;
        Ok(Some(hashing.into_inner().hash.finalize().into()))
    }
}

/// Reads one record into `event`, and moves `offset` behind it; `limit` is where the records must end.
///
/// # Errors
/// The record is incomplete or cannot be read.
pub fn read_frame<'b, R: Read + ?Sized>(
    reader: &mut R,
    event: &'b mut Vec<u8>,
    offset: &mut u64,
    limit: Option<u64>,
) -> Result<Option<Frame<'b>>, FrameError> {
    if limit == Some(*offset) {
        return Ok(None);
    }
    let mut length = [0; 4];
    match fill(reader, &mut length) {
        Ok(0) if limit.is_none() => return Ok(None),
        Ok(4) => {}
        Ok(_) => return Err(FrameError::Torn),
        Err(error) => return Err(FrameError::Body(error)),
    }
    let length = u32::from_le_bytes(length);
    let whole = u64::from(length) + FRAME_OVERHEAD as u64;
    if length as usize > MAX_EVENT || limit.is_some_and(|limit| limit - *offset < whole) {
        return Err(FrameError::Length(length));
    }
    event.clear();
    // Grows with what is really there, not with what the length claims.
    let read = reader.take(u64::from(length)).read_to_end(event).map_err(FrameError::Body)?;
    if read != length as usize {
        return Err(FrameError::Torn);
    }
    let mut hash = [0; 32];
    match fill(reader, &mut hash) {
        Ok(32) => {}
        Ok(_) => return Err(FrameError::Torn),
        Err(error) => return Err(FrameError::Body(error)),
    }
    *offset += whole;
    Ok(Some(Frame { event, hash }))
}

/// Reads until `buffer` is full or the file ends; gives how much was read.
fn fill<R: Read + ?Sized>(reader: &mut R, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match reader.read(rest) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

fn exact(reader: &mut impl Read, buffer: &mut [u8], part: &'static str) -> Result<(), SegmentError> {
    if fill(reader, buffer)? == buffer.len() { Ok(()) } else { Err(SegmentError::Short(part)) }
}

fn small_part(reader: &mut impl Read, part: &'static str) -> Result<Vec<u8>, SegmentError> {
    let mut length = [0; 4];
    exact(reader, &mut length, part)?;
    let length = u32::from_le_bytes(length);
    if length > MAX_HEADER {
        return Err(SegmentError::Damaged(part));
    }
    let mut bytes = vec![0; length as usize];
    exact(reader, &mut bytes, part)?;
    Ok(bytes)
}

// === Sealing ===

/// What the sealing of a segment came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sealed {
    /// Number of events.
    pub events: u64,
    /// The chain's hash after the last of them.
    pub final_hash: Hash,
}

/// A segment could not be sealed.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// The open segment is not well-formed.
    #[error(transparent)]
    Segment(#[from] SegmentError),
    /// A record of it is not.
    #[error("record {index}: {error}")]
    Frame {
        /// The event's index.
        index: u64,
        /// What is wrong.
        error: FrameError,
    },
    /// A record's hash does not follow from the record and the hash before it.
    #[error("the chain is broken at event {index}: the file was changed after it was written")]
    Chain {
        /// The event's index.
        index: u64,
    },
    /// The sealed segment could not be written.
    #[error(transparent)]
    Write(io::Error),
}

/// Writes the sealed form of the open segment `open` to `output`, checking its chain on the way.
///
/// # Errors
/// The open segment is not whole, or `output` cannot be written.
pub fn seal(
    mut open: SegmentReader<'_>,
    output: &mut (impl Write + Seek),
    key: &HostKey,
    closed_ns: u64,
) -> Result<Sealed, SealError> {
    let header = open.header_bytes.clone();
    let beginning = preamble(SEALED_MAGIC, &header);
    // The body's length is filled in when it is known.
    let length_at = beginning.len() as u64;
    output.write_all(&beginning).and_then(|()| output.write_all(&[0; 8])).map_err(SealError::Write)?;
    let mut encoder =
        zstd::Encoder::new(HashingWriter { inner: output, hash: Sha256::new(), written: 0 }, LEVEL)
            .map_err(SealError::Write)?;
    encoder
        .set_parameter(zstd::zstd_safe::CParameter::WindowLog(WINDOW_LOG - 2))
        .map_err(SealError::Write)?;

    let mut hash: Hash =
        open.header.previous_hash.as_slice().try_into().map_err(|_| SegmentError::Damaged("header"))?;
    let (mut events, mut body_bytes) = (0, 0);
    loop {
        let index = open.header.first_index.saturating_add(events);
        let frame = match open.next_frame() {
            Ok(Some(frame)) => frame,
            Ok(None) => break,
            Err(error) => return Err(SealError::Frame { index, error }),
        };
        hash = link(&hash, frame.event);
        if hash != frame.hash {
            return Err(SealError::Chain { index });
        }
        let length = (frame.event.len() as u32).to_le_bytes();
        for part in [length.as_slice(), frame.event, &frame.hash] {
            encoder.write_all(part).map_err(SealError::Write)?;
        }
        events += 1;
        body_bytes += (frame.event.len() + FRAME_OVERHEAD) as u64;
    }
    let writer = encoder.finish().map_err(SealError::Write)?;
    let footer = SegmentFooter {
        header_sha256: digest(&header).to_vec(),
        body_sha256: writer.hash.finalize().to_vec(),
        body_bytes,
        events,
        final_hash: hash.to_vec(),
        closed_ns,
    }
    .encode_to_vec();
    finish(writer.inner, &footer, key, length_at, writer.written).map_err(SealError::Write)?;
    Ok(Sealed { events, final_hash: hash })
}

fn finish(
    output: &mut (impl Write + Seek),
    footer: &[u8],
    key: &HostKey,
    length_at: u64,
    written: u64,
) -> io::Result<()> {
    output.write_all(&(footer.len() as u32).to_le_bytes())?;
    output.write_all(footer)?;
    output.write_all(&key.sign(Domain::Footer, footer))?;
    output.seek(SeekFrom::Start(length_at))?;
    output.write_all(&written.to_le_bytes())?;
    output.flush()
}

struct HashingWriter<'w, W> {
    inner: &'w mut W,
    hash: Sha256,
    written: u64,
}

impl<W: Write> Write for HashingWriter<'_, W> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(buffer)?;
        self.hash.update(buffer.get(..written).unwrap_or_default());
        self.written += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
