//! Proves a recording whole, or says what is wrong with it and where.

mod check;
mod position;
mod report;
mod weight;

use std::collections::HashMap;
use std::io::ErrorKind;
use std::path::Path;

use crate::chain::Hash;
use crate::checkpoint;
use crate::keys::{PublicKey, hex};
use crate::log::{self, SegmentFile};
use crate::proto::event::Body;
use crate::proto::{Checkpoint, Event, Shipped};
use crate::segment::{FrameError, SegmentError, SegmentReader};
use crate::shipped::{self, SHIPPED};
use crate::signed::SignedFileError;
use crate::{SessionId, json, log::Listing};
pub use check::{CheckError, Checked, CheckedRun, CheckedSegment, Limits, check_records, check_segment};
use position::judge;
pub use position::{Boundary, Position, session_step};
pub use report::{Problem, ProblemKind, Report, VerifyError};

/// What an event may take up in memory, in bytes. More than any that an agent writes.
const EVENT_MEMORY: u64 = 1 << 30;
/// Problems beyond this many are counted, not kept.
const MAX_PROBLEMS: usize = 1000;
/// Sessions that may be open at one time; bounds the memory that a made-up recording can ask for.
const MAX_OPEN_SESSIONS: usize = 1 << 20;
/// `HEAD` is rewritten about every second. An event this much later than the `HEAD` that does not cover
/// it shows that `HEAD` was put back.
const HEAD_LAG_NS: u64 = 30_000_000_000;

/// Verifies the recording in `directory` against the host's key. Streams: memory does not grow with the
/// recording's size. An agent may go on appending meanwhile.
///
/// # Errors
/// The directory cannot be read. Whatever is wrong in it is in the report.
pub fn verify(directory: &Path, key: &PublicKey) -> Result<Report, VerifyError> {
    // HEAD before the listing: what is appended in between is beyond HEAD, not missing.
    let head = checkpoint::read(directory, key);
    let listing = log::list(directory).map_err(|error| VerifyError { path: directory.into(), error })?;
    let shipped = shipped::read(directory, key);
    let mut verifier = Verifier::new(key, head);
    verifier.run(&listing, shipped);
    // An agent may have sealed segments since, and have moved HEAD first.
    let now = checkpoint::read(directory, key).map_or(0, |head| head.events);
    Ok(verifier.finish(now))
}

/// Reads arbitrary bytes as a segment and verifies it: the entry point for fuzzing.
#[cfg(feature = "fuzz")]
pub fn fuzz_segment(bytes: &[u8]) {
    let key = crate::HostKey::from_seed(&[7; 32]);
    let mut verifier = Verifier::new(key.public(), Err(SignedFileError::Missing));
    if let Ok(reader) = SegmentReader::new(std::io::Cursor::new(bytes)) {
        verifier.segment(reader, &Place { name: "fuzz".into(), number: 0, last: true });
    }
    verifier.finish(0);
    let limits = Limits { body_bytes: 1 << 20, event_memory: 1 << 20 };
    let each = |_: Checked<'_>| Ok::<_, std::convert::Infallible>(());
    let _ = check_segment(std::io::Cursor::new(bytes), key.public(), None, &limits, each);
    // The same as records that were sent by themselves, under a HEAD that covers everything.
    let covers =
        Checkpoint { host: key.public().fingerprint().to_vec(), events: u64::MAX, ..Checkpoint::default() };
    let head = checkpoint::encode(&covers, &key);
    let _ = check_records(bytes, &head, key.public(), &Position::genesis(key.public()), &limits, each);
    // A checkpoint's parser takes hostile bytes as well.
    let _ = checkpoint::parse(bytes, key.public());
}

struct Place {
    name: String,
    number: u64,
    last: bool,
}

struct Verifier<'k> {
    key: &'k PublicKey,
    head: Result<Checkpoint, SignedFileError>,
    /// Where the next segment must begin; `None` after something that leaves it open.
    expected: Option<Boundary>,
    /// What became of the place that HEAD names.
    head_hash: Option<Hash>,
    head_header: Option<Hash>,
    last_segment: Option<u64>,
    sessions: HashMap<SessionId, u64>,
    /// An agent started beyond HEAD.
    started_beyond: bool,
    /// Up to where a HEAD that was not put back must reach, and the file that shows it.
    covered: Option<(u64, String)>,
    report: Report,
}

impl<'k> Verifier<'k> {
    fn new(key: &'k PublicKey, head: Result<Checkpoint, SignedFileError>) -> Self {
        let report = Report {
            ok: false,
            host: hex(&key.fingerprint()),
            segments: 0,
            open_segments: 0,
            events: 0,
            shipped_events: 0,
            unattested: 0,
            sessions: 0,
            unfinished_sessions: 0,
            problems: Vec::new(),
            further_problems: 0,
            notes: Vec::new(),
        };
        Self {
            key,
            head,
            expected: Some(Boundary::genesis(key)),
            head_hash: None,
            head_header: None,
            last_segment: None,
            sessions: HashMap::new(),
            started_beyond: false,
            covered: None,
            report,
        }
    }

    fn problem(&mut self, problem: Problem) {
        if self.report.problems.len() < MAX_PROBLEMS {
            self.report.problems.push(problem);
        } else {
            self.report.further_problems += 1;
        }
    }

    fn file_problem(&mut self, kind: ProblemKind, file: &str, detail: String) {
        self.problem(Problem { kind, file: Some(file.into()), event: None, session: None, detail });
    }

    fn run(&mut self, listing: &Listing, shipped: Result<(Shipped, Boundary), SignedFileError>) {
        let last = listing.segments.last().map(|segment| segment.number);
        let first = listing.segments.first().map_or(0, |segment| segment.number);
        let mut start = match shipped {
            Ok((shipped, start)) => {
                self.shipped(&shipped);
                Some(start)
            }
            Err(SignedFileError::Missing) => None,
            Err(error) => {
                let kind = kind_of(&error);
                let detail = format!("{SHIPPED} {error}: it does not show that anything was shipped");
                self.file_problem(kind, SHIPPED, detail);
                None
            }
        };
        let mut next = 0;
        if let Some(start) = start
            && 0 < first
            && first < start.segment
        {
            // Removing went this far. What is left of it is tied to what follows by where it ends.
            next = first;
            self.expected = None;
        }
        for segment in &listing.segments {
            if let Some(begins) = start.take_if(|start| segment.number >= start.segment) {
                self.begin_at(begins);
                next = begins.segment;
            }
            if segment.number != next {
                self.missing_segments(next, segment.number - 1);
            }
            next = segment.number.saturating_add(1);
            self.segment_file(segment, last == Some(segment.number));
        }
        if let Some(begins) = start {
            self.begin_at(begins);
        }
        for file in &listing.superseded {
            self.report.notes.push(format!(
                "{} is left over from its sealing; the sealed segment counts",
                name_of(&file.path)
            ));
        }
        for file in &listing.strangers {
            self.report.notes.push(format!("{} is no part of the recording", name_of(file)));
        }
    }

    fn shipped(&mut self, shipped: &Shipped) {
        self.report.shipped_events = shipped.first_index;
        self.report.notes.push(format!(
            "the segments before {} (events 0 to {}) were shipped to {:?} by {} and may be removed here: what was \
             in them the collector's copy shows",
            shipped.segment,
            shipped.first_index.wrapping_sub(1),
            shipped.collector,
            json::time(shipped.wall_ns)
        ));
        if let Ok(head) = &self.head
            && head.events < shipped.first_index
        {
            // HEAD is written before a segment is sealed, and nothing is shipped before that.
            self.covered = Some((shipped.first_index, SHIPPED.into()));
        }
    }

    /// From here on the log is to be here.
    fn begin_at(&mut self, begins: Boundary) {
        if let Some(before) = self.expected
            && before.position.index != 0
            && before != begins
        {
            let detail = format!(
                "the segments before {} do not lead to where it says that they end (event {})",
                begins.segment, begins.position.index
            );
            self.file_problem(ProblemKind::Reordered, SHIPPED, detail);
        }
        self.expected = Some(begins);
        self.pass(&begins.position);
    }

    fn missing_segments(&mut self, first: u64, last: u64) {
        let detail = if first == last {
            "the segment is missing".to_owned()
        } else {
            format!("the segments {first} to {last} are missing")
        };
        let event = self.expected.map(|boundary| boundary.position.index);
        let file = Some(log::segment_name(first, true));
        self.problem(Problem { kind: ProblemKind::Missing, file, event, session: None, detail });
        self.expected = None;
    }

    fn segment_file(&mut self, segment: &SegmentFile, last: bool) {
        self.report.segments += 1;
        self.last_segment = Some(segment.number);
        let place = Place { name: name_of(&segment.path), number: segment.number, last };
        match log::open(segment) {
            Ok((reader, _)) => self.segment(reader, &place),
            Err(SegmentError::Io(error)) if error.kind() == ErrorKind::NotFound && self.gone(segment) => {
                self.report.segments -= 1;
                self.expected = None;
            }
            Err(error) => {
                self.file_problem(ProblemKind::Unreadable, &place.name, format!("the file {error}"));
                self.expected = None;
            }
        }
    }

    /// An agent has shipped and removed the segment since it was listed.
    fn gone(&self, segment: &SegmentFile) -> bool {
        let directory = segment.path.parent().unwrap_or(Path::new("."));
        shipped::read(directory, self.key).is_ok_and(|(_, begins)| segment.number < begins.segment)
    }

    fn segment(&mut self, mut reader: SegmentReader<'_>, place: &Place) {
        let header = reader.header().clone();
        let header_sha256 = reader.header_sha256();
        if header.host != self.key.fingerprint() {
            let detail = "the segment is another host's, or its header was altered".into();
            self.file_problem(ProblemKind::Signature, &place.name, detail);
        }
        if header.segment != place.number {
            let detail = format!("the file holds segment {}, by its header", header.segment);
            self.file_problem(ProblemKind::Reordered, &place.name, detail);
        }
        let begins = Boundary::before(&header);
        if let Some(expected) = self.expected
            && begins.is_none_or(|begins| Boundary { segment: expected.segment, ..begins } != expected)
        {
            let detail = format!(
                "the segment does not go on where the one before ends (event {}): this file or the one before was \
                 altered, exchanged or cut",
                expected.position.index
            );
            self.file_problem(ProblemKind::Reordered, &place.name, detail);
        }
        if let Ok(head) = &self.head
            && head.segment == place.number
        {
            self.head_header = Some(header_sha256);
        }
        let signed = reader.footer().cloned();
        let signed_well = signed.as_ref().is_some_and(|signed| signed.verifies(self.key));
        if let Some(signed) = &signed {
            if !signed_well {
                let detail = "the footer does not bear the signature of this host's key".into();
                self.file_problem(ProblemKind::Signature, &place.name, detail);
            } else if signed.footer.header_sha256 != header_sha256 {
                let detail = "the header is not the one that was sealed".into();
                self.file_problem(ProblemKind::Altered, &place.name, detail);
            }
        } else {
            self.report.open_segments += 1;
        }
        let Some(begins) = begins else {
            self.file_problem(ProblemKind::Altered, &place.name, "the header is damaged".into());
            self.expected = None;
            return;
        };

        let mut position = begins.position;
        let after = |position| Boundary {
            segment: place.number.saturating_add(1),
            position,
            header_sha256: Some(header_sha256),
        };
        let problems = self.report.problems.len() as u64 + self.report.further_problems;
        self.pass(&position);
        let mut broken = false;
        let mut count = 0_u64;
        loop {
            match reader.next_frame() {
                Ok(Some(frame)) => {
                    self.event(frame.event, &frame.hash, &mut position, place);
                    count += 1;
                }
                Ok(None) => break,
                Err(FrameError::Torn) if signed.is_none() && place.last => {
                    // Being written, or left by a crash. If HEAD covers it, that is found at the end.
                    self.report.notes.push(format!(
                        "{}: the record after event {} is incomplete: it is being written, or a crash cut it \
                         off",
                        place.name,
                        position.index.wrapping_sub(1)
                    ));
                    break;
                }
                Err(error) => {
                    self.problem(Problem {
                        kind: ProblemKind::Altered,
                        file: Some(place.name.clone()),
                        event: Some(position.index),
                        session: None,
                        detail: format!("no event can be read from here on: {error}"),
                    });
                    broken = true;
                    break;
                }
            }
        }
        self.report.events += count;

        let Some(signed) = signed else {
            self.expected = (!broken).then(|| after(position));
            return;
        };
        let footer = &signed.footer;
        let clean = self.report.problems.len() as u64 + self.report.further_problems == problems;
        if !broken {
            match reader.finish() {
                Ok(Some(hash)) if footer.body_sha256 == hash => {}
                Ok(_) if clean => {
                    let detail = "the compressed body is not the one that was sealed".into();
                    self.file_problem(ProblemKind::Altered, &place.name, detail);
                }
                Ok(_) => {}
                Err(error) => self.file_problem(ProblemKind::Altered, &place.name, error.to_string()),
            }
            if signed_well && footer.events != count {
                let detail = format!("it holds {count} events, {} were sealed", footer.events);
                self.file_problem(ProblemKind::Missing, &place.name, detail);
            } else if clean && footer.final_hash != position.hash {
                let detail = format!(
                    "its events ({} to {}) were rewritten: their chain holds, but does not end in the hash that \
                     was sealed",
                    header.first_index,
                    position.index.wrapping_sub(1)
                );
                self.file_problem(ProblemKind::Altered, &place.name, detail);
            }
        }
        // What was signed tells where the next segment begins, whatever became of the body.
        self.expected = match Hash::try_from(footer.final_hash.as_slice()) {
            Ok(hash) if signed_well => {
                let index = header.first_index.saturating_add(footer.events);
                Some(after(Position { index, hash }))
            }
            _ => None,
        };
        if let Ok(head) = &self.head
            && header.first_index.saturating_add(footer.events) > head.events
            && signed_well
        {
            // HEAD is written before a segment is sealed.
            let end = header.first_index.saturating_add(footer.events);
            self.must_cover(place, end);
        }
    }

    /// Checks one event and moves `position` behind it.
    fn event(&mut self, bytes: &[u8], stored: &Hash, position: &mut Position, place: &Place) {
        let judged = judge(position, bytes, stored, EVENT_MEMORY);
        let session = judged.event.as_ref().and_then(|event| SessionId::from_slice(&event.session));
        match (judged.wrong, &judged.event) {
            (Some((kind, detail)), _) => self.problem(Problem {
                kind,
                file: Some(place.name.clone()),
                event: Some(position.index),
                session: session.map(|session| session.to_string()),
                detail,
            }),
            (None, Some(event)) => {
                self.beyond_head(event, place);
                self.in_session(event, session, place);
            }
            (None, None) => {}
        }
        *position = judged.next;
        self.pass(position);
    }

    fn pass(&mut self, position: &Position) {
        if let Ok(head) = &self.head
            && head.events == position.index
            && self.head_hash.is_none()
        {
            self.head_hash = Some(position.hash);
        }
    }

    fn beyond_head(&mut self, event: &Event, place: &Place) {
        let Ok(head) = &self.head else { return };
        if event.index < head.events {
            return;
        }
        let late = event.monotonic_ns.saturating_sub(head.monotonic_ns) > HEAD_LAG_NS;
        let start = matches!(event.body, Some(Body::AgentStarted(_) | Body::Recovered(_)));
        // An agent writes HEAD at its start, before it records anything else.
        if !start && (late || self.started_beyond) {
            self.must_cover(place, event.index.saturating_add(1));
        }
        self.started_beyond |= matches!(event.body, Some(Body::AgentStarted(_)));
    }

    fn must_cover(&mut self, place: &Place, events: u64) {
        if self.covered.as_ref().is_none_or(|(covered, _)| *covered < events) {
            self.covered = Some((events, place.name.clone()));
        }
    }

    fn in_session(&mut self, event: &Event, session: Option<SessionId>, place: &Place) {
        let Some(session) = session else { return };
        let next = self.sessions.get(&session).copied();
        let mut step = session_step(next, event);
        self.report.sessions += u64::from(next.is_none() && step.is_ok());
        if next.is_none() && self.report.shipped_events > 0 {
            // It can have begun in what was shipped. From here on it has no gaps.
            step = session_step(Some(event.sequence), event);
        }
        // What is missing in the log is missing in its sessions; that was said where it is missing.
        if let Err(detail) = &step
            && self.report.problems.is_empty()
        {
            self.problem(Problem {
                kind: ProblemKind::Missing,
                file: Some(place.name.clone()),
                event: Some(event.index),
                session: Some(session.to_string()),
                detail: detail.clone(),
            });
        }
        if matches!(event.body, Some(Body::SessionEnded(_))) {
            self.sessions.remove(&session);
        } else if self.sessions.len() < MAX_OPEN_SESSIONS || next.is_some() {
            self.sessions.insert(session, event.sequence.saturating_add(1));
        }
    }

    /// `now` is what a second look at HEAD showed.
    fn finish(mut self, now: u64) -> Report {
        let head = std::mem::replace(&mut self.head, Err(SignedFileError::Missing));
        let end = self.expected.map(|boundary| boundary.position.index);
        match head {
            Ok(head) => {
                self.head(&head, end);
                self.rolled_back(head.events.max(now));
            }
            // Not even without any events: whoever emptied the directory would leave the same behind.
            Err(error) => {
                let kind = kind_of(&error);
                let detail = format!("HEAD {error}: the end of the recording cannot be proven");
                self.file_problem(kind, checkpoint::HEAD, detail);
                self.report.unattested = 0;
            }
        }
        self.report.unfinished_sessions = self.sessions.len() as u64;
        self.report.ok = self.report.problems.is_empty();
        self.report
    }

    fn rolled_back(&mut self, events: u64) {
        let Some((covered, file)) = self.covered.take().filter(|(covered, _)| *covered > events) else {
            return;
        };
        self.problem(Problem {
            kind: ProblemKind::RolledBack,
            file: Some(checkpoint::HEAD.into()),
            event: Some(events),
            session: None,
            detail: format!(
                "HEAD was put back to an earlier one: it ends before event {events}, although the host had \
                 signed up to event {} ({file}) or beyond",
                covered - 1
            ),
        });
    }

    fn head(&mut self, head: &Checkpoint, end: Option<u64>) {
        if head.host != self.key.fingerprint() {
            self.file_problem(ProblemKind::Signature, checkpoint::HEAD, "HEAD is another host's".into());
        }
        let truncated = match (self.last_segment, end) {
            (None, _) => head.events > 0,
            (Some(last), _) if head.segment > last => true,
            (_, Some(end)) => end < head.events,
            (_, None) => false,
        };
        if truncated {
            let end = end.unwrap_or(0);
            let detail = if end < head.events {
                format!(
                    "the end is missing: events {end} to {} (HEAD proves that they were there)",
                    head.events - 1
                )
            } else {
                format!("the end is missing: segment {} (HEAD proves that it was there)", head.segment)
            };
            self.problem(Problem {
                kind: ProblemKind::Truncated,
                file: self.last_segment.map(|_| log::segment_name(head.segment, false)),
                event: Some(end),
                session: None,
                detail,
            });
            return;
        }
        // Without a known end, or a place, something is wrong before it and has been said.
        if let Some(hash) = self.head_hash
            && head.hash != hash
            && self.report.problems.is_empty()
        {
            self.problem(Problem {
                kind: ProblemKind::Altered,
                file: None,
                event: head.events.checked_sub(1),
                session: None,
                detail:
                    "events up to here were rewritten: their chain holds, but does not lead to the hash that \
                         HEAD has"
                        .into(),
            });
        }
        if let Some(header) = self.head_header
            && head.header_sha256 != header
            && self.report.problems.is_empty()
        {
            let file = log::segment_name(head.segment, false);
            self.file_problem(
                ProblemKind::Altered,
                &file,
                "the header is not the one that HEAD names".into(),
            );
        }
        self.report.unattested = end.map_or(0, |end| end.saturating_sub(head.events));
    }
}

fn kind_of(error: &SignedFileError) -> ProblemKind {
    match error {
        SignedFileError::Io(_) => ProblemKind::Unreadable,
        SignedFileError::Missing => ProblemKind::Missing,
        SignedFileError::Damaged => ProblemKind::Altered,
        SignedFileError::Signature => ProblemKind::Signature,
    }
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
