//! The recording of one simulated host: real events in a real chain, signed and sealed by its own key.

use std::collections::VecDeque;
use std::io::Cursor;

use anyhow::Result;
use interlock_collector::sample::SampleSession;
use interlock_recording::chain::{self, Hash};
use interlock_recording::proto::event::Body;
use interlock_recording::proto::{Checkpoint, Event, SegmentHeader};
use interlock_recording::segment::{self, FORMAT, SegmentReader, put_frame};
use interlock_recording::{HostKey, SessionId, checkpoint};
use interlock_shipping::MAX_LIVE;
use interlock_shipping::v1::Live;
use prost::Message as _;

use crate::clock_ns;

/// What recordings are made of.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    /// Commands in a session.
    pub(crate) commands: usize,
    /// Events in a segment.
    pub(crate) segment: u64,
}

/// A sealed segment that has not been taken yet.
struct Sealed {
    number: u64,
    /// The index of the first event after it.
    end: u64,
    file: Vec<u8>,
}

/// The recording of one host. What was taken is forgotten.
pub(crate) struct Recording {
    pub(crate) key: HostKey,
    shape: Shape,
    numbers: Numbers,
    /// The segment that is open.
    segment: u64,
    header: SegmentHeader,
    header_bytes: Vec<u8>,
    previous_header: Vec<u8>,
    first: u64,
    index: u64,
    hash: Hash,
    body: Vec<u8>,
    /// Where each record begins in `body`.
    offsets: Vec<usize>,
    sealed: VecDeque<Sealed>,
    session: Option<(SessionId, u64, std::vec::IntoIter<Body>)>,
    /// Sessions that were begun, and bytes of all records.
    pub(crate) sessions: u64,
    pub(crate) bytes: u64,
}

/// Numbers that look like chance, the same in each run.
pub(crate) struct Numbers(u64);

impl Numbers {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn next(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % below.max(1)
    }
}

impl Recording {
    /// That of host `number`.
    pub(crate) fn new(number: u64, shape: Shape) -> Self {
        let mut seed = [7; 32];
        seed[..8].copy_from_slice(&number.to_le_bytes());
        let key = HostKey::from_seed(&seed);
        let hash = chain::genesis(key.public());
        let mut recording = Self {
            key,
            shape,
            numbers: Numbers::new(number + 1),
            segment: 0,
            header: SegmentHeader::default(),
            header_bytes: Vec::new(),
            previous_header: Vec::new(),
            first: 0,
            index: 0,
            hash,
            body: Vec::new(),
            offsets: Vec::new(),
            sealed: VecDeque::new(),
            session: None,
            sessions: 0,
            bytes: 0,
        };
        recording.begin();
        recording
    }

    fn begin(&mut self) {
        self.first = self.index;
        self.header = SegmentHeader {
            format: FORMAT,
            host: self.key.public().fingerprint().to_vec(),
            segment: self.segment,
            previous_hash: self.hash.to_vec(),
            previous_header_sha256: self.previous_header.clone(),
            first_index: self.first,
            created_ns: clock_ns(),
        };
        self.header_bytes = self.header.encode_to_vec();
        self.body.clear();
        self.offsets.clear();
    }

    /// The number of events so far.
    pub(crate) fn events(&self) -> u64 {
        self.index
    }

    /// The number of the open segment.
    pub(crate) fn open_segment(&self) -> u64 {
        self.segment
    }

    fn body_of_session(&mut self) -> Option<(SessionId, u64, Body)> {
        loop {
            if let Some((id, sequence, bodies)) = &mut self.session
                && let Some(body) = bodies.next()
            {
                let at = *sequence;
                *sequence += 1;
                return Some((*id, at, body));
            }
            let numbers = &mut self.numbers;
            let mut random = [0; 10];
            random[..8].copy_from_slice(&numbers.next(u64::MAX).to_le_bytes());
            let id = SessionId::new(clock_ns() / 1_000_000, random);
            let commands = (0..self.shape.commands).map(|_| {
                let (table, customer) = (numbers.next(3000), numbers.next(100_000));
                let text = format!(
                    "SELECT id, name, amount FROM public.table{table} WHERE customer = {customer} ORDER BY id LIMIT 3"
                );
                let (verdict, rule) = match numbers.next(1000) {
                    0 => ("deny", "no-payments"),
                    1..200 => ("allow", "reads-are-fine"),
                    _ => ("allow", ""),
                };
                (text, verdict, rule, "")
            });
            let commands = commands.collect();
            let job = numbers.next(2000);
            let session = SampleSession {
                user: format!("user{}", numbers.next(50)),
                exe: format!("/srv/jobs/job-{job}/run.py"),
                argv: vec!["python3".into(), format!("/srv/jobs/job-{job}/run.py")],
                db_user: format!("role{}", numbers.next(200)),
                commands,
                ..SampleSession::default()
            };
            self.session = Some((id, 0, session.bodies().into_iter()));
            self.sessions += 1;
        }
    }

    /// The next event; it stands in the log when this returns.
    pub(crate) fn event(&mut self) -> Option<Event> {
        let (session, sequence, body) = self.body_of_session()?;
        let now = clock_ns();
        let event = Event {
            index: self.index,
            wall_ns: now,
            monotonic_ns: now,
            session: session.as_bytes().to_vec(),
            sequence,
            body: Some(body),
        };
        let bytes = event.encode_to_vec();
        self.hash = chain::link(&self.hash, &bytes);
        self.offsets.push(self.body.len());
        let before = self.body.len();
        put_frame(&mut self.body, &bytes, &self.hash);
        self.bytes += (self.body.len() - before) as u64;
        self.index += 1;
        Some(event)
    }

    /// Records `events` events, and seals segments as they are full.
    pub(crate) fn grow(&mut self, events: u64) -> Result<()> {
        for _ in 0..events {
            self.event();
            if self.index - self.first >= self.shape.segment {
                self.seal()?;
            }
        }
        Ok(())
    }

    /// Seals the open segment, if there is something in it, and begins the next.
    pub(crate) fn seal(&mut self) -> Result<()> {
        if self.index == self.first {
            return Ok(());
        }
        let mut open = segment::open_preamble(&self.header);
        open.extend_from_slice(&self.body);
        let mut file = Cursor::new(Vec::new());
        segment::seal(SegmentReader::new(Cursor::new(open))?, &mut file, &self.key, clock_ns())?;
        self.sealed.push_back(Sealed { number: self.segment, end: self.index, file: file.into_inner() });
        self.previous_header = chain::digest(&self.header_bytes).to_vec();
        self.segment += 1;
        self.begin();
        Ok(())
    }

    /// HEAD, as it is now.
    pub(crate) fn head(&self) -> Vec<u8> {
        let now = clock_ns();
        let head = Checkpoint {
            host: self.key.public().fingerprint().to_vec(),
            segment: self.segment,
            header_sha256: chain::digest(&self.header_bytes).to_vec(),
            events: self.index,
            hash: self.hash.to_vec(),
            wall_ns: now,
            monotonic_ns: now,
        };
        checkpoint::encode(&head, &self.key)
    }

    /// Forgets what is in the open segment: for whoever takes the events as they are made.
    pub(crate) fn drop_open(&mut self) {
        self.body.clear();
        self.offsets.clear();
    }

    /// The file of a sealed segment, and the index of the event after it.
    pub(crate) fn sealed(&self, number: u64) -> Option<(&[u8], u64)> {
        let found = self.sealed.iter().find(|sealed| sealed.number == number)?;
        Some((&found.file, found.end))
    }

    /// Forgets the sealed segments before `segment`.
    pub(crate) fn forget(&mut self, segment: u64) {
        self.sealed.retain(|sealed| sealed.number >= segment);
    }

    /// Live records of the open segment from event `from` on, and the index of the event after them.
    pub(crate) fn live(&self, from: u64, first: bool) -> Option<(Live, u64)> {
        let from = from.max(self.first);
        let at = usize::try_from(from - self.first).ok()?;
        let begin = *self.offsets.get(at)?;
        let mut end = self.body.len();
        let mut next = self.index;
        if end - begin > MAX_LIVE {
            let rest = self.offsets.get(at + 1..)?;
            let fits = rest.partition_point(|offset| offset - begin <= MAX_LIVE);
            end = *rest.get(fits.checked_sub(1)?)?;
            next = from + fits as u64;
        }
        let live = Live {
            segment: self.segment,
            first_index: from,
            header: if first { self.header_bytes.clone() } else { Vec::new() },
            records: self.body.get(begin..end)?.to_vec().into(),
            head: self.head(),
        };
        Some((live, next))
    }
}
