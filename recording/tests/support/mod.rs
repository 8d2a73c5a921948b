//! Writes recordings the way the agent does, without its threads.

use std::fs;
use std::path::Path;

use interlock_recording::chain::{self, Hash, Stamp};
use interlock_recording::log::segment_name;
use interlock_recording::proto::{Checkpoint, SegmentHeader};
use interlock_recording::segment::{self, FORMAT, SegmentReader};
use interlock_recording::wire::Writer;
use interlock_recording::{HostKey, SessionId, checkpoint};
use prost::Message as _;

pub(crate) struct Log<'d> {
    pub(crate) directory: &'d Path,
    pub(crate) key: HostKey,
    pub(crate) segment: u64,
    pub(crate) index: u64,
    pub(crate) hash: Hash,
    header: Vec<u8>,
    previous_header: Vec<u8>,
    first: u64,
    first_hash: Hash,
    body: Vec<u8>,
    pub(crate) sequence: u64,
    /// How far the host's clock is ahead of 1,700,000,000 seconds.
    pub(crate) ahead_ns: i64,
    /// The time in the session's id, milliseconds since the Unix epoch, and the rest of it.
    pub(crate) session_ms: u64,
    pub(crate) session: [u8; 10],
}

const TIME: u64 = 1_700_000_000_000_000_000;

pub(crate) const SESSION: [u8; 10] = [5; 10];

impl<'d> Log<'d> {
    pub(crate) fn new(directory: &'d Path) -> Self {
        Self::of(directory, HostKey::from_seed(&[42; 32]))
    }

    pub(crate) fn of(directory: &'d Path, key: HostKey) -> Self {
        let hash = chain::genesis(key.public());
        let mut log = Self {
            directory,
            key,
            segment: 0,
            index: 0,
            hash,
            header: Vec::new(),
            previous_header: Vec::new(),
            first: 0,
            first_hash: hash,
            body: Vec::new(),
            sequence: 0,
            ahead_ns: 0,
            session_ms: 1_700_000_000_000,
            session: SESSION,
        };
        log.begin();
        log
    }

    fn begin(&mut self) {
        self.first = self.index;
        self.first_hash = self.hash;
        self.header = SegmentHeader {
            format: FORMAT,
            host: self.key.public().fingerprint().to_vec(),
            segment: self.segment,
            previous_hash: self.first_hash.to_vec(),
            previous_header_sha256: self.previous_header.clone(),
            first_index: self.first,
            created_ns: 7,
        }
        .encode_to_vec();
        self.body.clear();
        self.write();
    }

    fn write(&self) {
        let header = SegmentHeader::decode(self.header.as_slice()).expect("a header");
        let content = [segment::open_preamble(&header), self.body.clone()].concat();
        fs::write(self.directory.join(segment_name(self.segment, false)), content).expect("written");
    }

    pub(crate) fn event(&mut self, session: bool, field: u32, fill: impl FnOnce(&mut Writer<'_>)) {
        self.put(session, field, fill);
        self.write();
    }

    /// An event that stands in the file with the next one.
    pub(crate) fn put(&mut self, session: bool, field: u32, fill: impl FnOnce(&mut Writer<'_>)) {
        let mut event = Vec::new();
        chain::begin(&mut event, session.then(|| SessionId::new(self.session_ms, self.session)));
        Writer::new(&mut event).message(field, fill);
        let time = TIME + self.index * 1000;
        let (index, sequence) = (self.index, self.sequence);
        let wall_ns = time.saturating_add_signed(self.ahead_ns);
        chain::stamp(&mut event, &Stamp { index, wall_ns, monotonic_ns: time / 2, sequence });
        self.index += 1;
        self.sequence += u64::from(session);
        self.hash = chain::link(&self.hash, &event);
        segment::put_frame(&mut self.body, &event, &self.hash);
    }

    pub(crate) fn command(&mut self, text: &str) {
        self.event(true, 22, |body| body.string(3, text));
    }

    pub(crate) fn head(&self) {
        let time = TIME + self.index * 1000;
        let content = Checkpoint {
            host: self.key.public().fingerprint().to_vec(),
            segment: self.segment,
            header_sha256: chain::digest(&self.header).to_vec(),
            events: self.index,
            hash: self.hash.to_vec(),
            wall_ns: time.saturating_add_signed(self.ahead_ns),
            monotonic_ns: time / 2,
        };
        checkpoint::write(self.directory, &content, &self.key).expect("written");
    }

    /// Seals the open segment and begins the next.
    pub(crate) fn seal(&mut self) {
        let open = self.directory.join(segment_name(self.segment, false));
        let mut file =
            fs::File::create(self.directory.join(segment_name(self.segment, true))).expect("created");
        segment::seal(SegmentReader::open(&open).expect("opens"), &mut file, &self.key, 9).expect("sealed");
        fs::remove_file(open).expect("removed");
        self.previous_header = chain::digest(&self.header).to_vec();
        self.segment += 1;
        self.begin();
    }
}

/// Three segments, the last one open, and HEAD at the end.
pub(crate) fn recording(directory: &Path) -> Log<'_> {
    let mut log = Log::new(directory);
    log.event(false, 10, |body| body.string(1, "0.1"));
    log.event(true, 20, |body| body.string(3, "10.0.0.7:5432"));
    for number in 0..4 {
        log.command(&format!("SELECT {number}"));
    }
    log.head();
    log.seal();
    for number in 0..4 {
        log.command(&format!("UPDATE t SET x = {number}"));
    }
    log.head();
    log.seal();
    for number in 0..3 {
        log.command(&format!("DELETE FROM t WHERE x = {number}"));
    }
    log.event(true, 27, |body| body.string(1, "client_closed"));
    log.head();
    log
}
