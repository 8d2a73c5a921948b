//! What a collector takes: segments and records that are whole, and nothing else.

mod support;

use std::convert::Infallible;
use std::fs;
use std::io::{self, Cursor};
use std::path::Path;

use interlock_recording::checkpoint;
use interlock_recording::log::segment_name;
use interlock_recording::proto::Checkpoint;
use interlock_recording::segment::SegmentReader;
use interlock_recording::verify::{
    Boundary, CheckError, CheckedSegment, Limits, Position, check_records, check_segment,
};
use interlock_recording::{HostKey, ProblemKind, PublicKey};
use proptest::prelude::*;
use support::{Log, recording};

fn host() -> PublicKey {
    HostKey::from_seed(&[42; 32]).public().clone()
}

fn sealed(directory: &Path, number: u64) -> Vec<u8> {
    fs::read(directory.join(segment_name(number, true))).expect("read")
}

fn take(bytes: &[u8], from: Option<&Boundary>) -> Result<(CheckedSegment, Vec<u64>), CheckError> {
    let mut seen = Vec::new();
    let segment = check_segment(Cursor::new(bytes), &host(), from, &Limits::default(), |checked| {
        seen.push(checked.event.index);
        Ok::<_, Infallible>(())
    })?;
    Ok((segment, seen))
}

fn kind(result: Result<impl Sized, CheckError>) -> Option<ProblemKind> {
    match result {
        Err(CheckError::Problem(problem)) => Some(problem.kind),
        _ => None,
    }
}

#[test]
fn segments_are_taken_in_their_order_only() {
    let directory = tempfile::tempdir().expect("a directory");
    recording(directory.path());
    let (first, second) = (sealed(directory.path(), 0), sealed(directory.path(), 1));
    let genesis = Boundary::genesis(&host());
    let (segment, seen) = take(&first, Some(&genesis)).expect("whole");
    assert_eq!((segment.segment, segment.first_index, segment.events), (0, 0, 6));
    assert_eq!(seen, [0, 1, 2, 3, 4, 5]);
    let (next, seen) = take(&second, Some(&segment.next)).expect("whole");
    assert_eq!((next.next.segment, next.next.position.index), (2, 10));
    assert_eq!(seen, [6, 7, 8, 9]);
    assert_eq!(next.next.header_sha256, Some(next.header_sha256));
    // Out of its place, and twice.
    assert_eq!(kind(take(&second, Some(&genesis))), Some(ProblemKind::Reordered));
    assert_eq!(kind(take(&first, Some(&segment.next))), Some(ProblemKind::Reordered));
    // A fork: the same place, another past.
    let mut fork = segment.next;
    fork.position.hash[0] ^= 1;
    assert_eq!(kind(take(&second, Some(&fork))), Some(ProblemKind::Reordered));
    let mut fork = segment.next;
    fork.header_sha256 = Some([0; 32]);
    assert_eq!(kind(take(&second, Some(&fork))), Some(ProblemKind::Reordered));
    // By itself, and under another host's key.
    assert_eq!(take(&second, None).expect("whole").0, next);
    let other = HostKey::from_seed(&[1; 32]);
    let result = check_segment(Cursor::new(&first), other.public(), None, &Limits::default(), |_| {
        Ok::<_, Infallible>(())
    });
    assert_eq!(kind(result), Some(ProblemKind::Signature));
    let open = fs::read(directory.path().join(segment_name(2, false))).expect("read");
    assert_eq!(kind(take(&open, None)), Some(ProblemKind::Signature), "not sealed");
}

#[test]
fn every_changed_byte_and_every_cut_is_refused() {
    let directory = tempfile::tempdir().expect("a directory");
    recording(directory.path());
    let whole = sealed(directory.path(), 0);
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << (at % 8);
        assert!(take(&bytes, None).is_err(), "byte {at}");
        assert!(take(&whole[..at], None).is_err(), "cut to {at}");
    }
    assert!(take(&[whole.as_slice(), b"x"].concat(), None).is_err(), "lengthened");
}

#[test]
fn a_segment_may_not_unpack_to_more_than_the_limit() {
    // The host itself has signed it: its key does not make it harmless.
    let directory = tempfile::tempdir().expect("a directory");
    let mut log = Log::new(directory.path());
    log.command(&"x".repeat(5 << 20));
    log.head();
    log.seal();
    let bytes = sealed(directory.path(), 0);
    assert!(bytes.len() < 10_000, "it packs well");
    let limits = Limits { body_bytes: 4 << 20, ..Limits::default() };
    let mut seen = 0;
    let result = check_segment(Cursor::new(&bytes), &host(), None, &limits, |_| {
        seen += 1;
        Ok::<_, Infallible>(())
    });
    assert_eq!(kind(result), Some(ProblemKind::Unreadable));
    assert_eq!(seen, 0);

    // An event that is small itself, and would be large when it is decoded.
    let directory = tempfile::tempdir().expect("a directory");
    let mut log = Log::new(directory.path());
    log.event(true, 22, |body| (0..200_000).for_each(|_| body.message(8, |_| {})));
    log.head();
    log.seal();
    let limits = Limits { event_memory: 64 << 20, ..Limits::default() };
    let result = check_segment(Cursor::new(sealed(directory.path(), 0)), &host(), None, &limits, |_| {
        Ok::<_, Infallible>(())
    });
    assert_eq!(kind(result), Some(ProblemKind::Altered));
}

/// A disk that fails is no fault of the host's.
#[test]
fn a_source_that_fails_is_told_from_damage() {
    struct Failing(Cursor<Vec<u8>>);
    impl io::Read for Failing {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            if self.0.position() > 300 {
                return Err(io::Error::from_raw_os_error(5));
            }
            let small = buffer.len().min(64);
            self.0.read(&mut buffer[..small])
        }
    }
    impl io::Seek for Failing {
        fn seek(&mut self, to: io::SeekFrom) -> io::Result<u64> {
            self.0.seek(to)
        }
    }
    let directory = tempfile::tempdir().expect("a directory");
    recording(directory.path());
    let file = Failing(Cursor::new(sealed(directory.path(), 0)));
    let result = check_segment(file, &host(), None, &Limits::default(), |_| Ok::<_, Infallible>(()));
    assert!(matches!(result, Err(CheckError::Io(error)) if error.raw_os_error() == Some(5)));
    let bytes = sealed(directory.path(), 0);
    let result = check_segment(Cursor::new(bytes), &host(), None, &Limits::default(), |_| {
        Err(io::Error::other("the database is gone"))
    });
    assert!(matches!(result, Err(CheckError::Each(_))));
}

/// The records of the open segment, where they begin, and HEAD.
fn live(directory: &Path) -> (Vec<u8>, Position, Vec<u8>) {
    let path = directory.join(segment_name(2, false));
    let bytes = fs::read(&path).expect("read");
    let reader = SegmentReader::open(&path).expect("opens");
    let from = Boundary::before(reader.header()).expect("a header").position;
    let head = fs::read(directory.join(checkpoint::HEAD)).expect("read");
    (bytes[reader.offset() as usize..].to_vec(), from, head)
}

fn follow(records: &[u8], head: &[u8], from: &Position) -> Result<(Position, bool, u64), CheckError> {
    let mut seen = 0;
    let run = check_records(records, head, &host(), from, &Limits::default(), |_| {
        seen += 1;
        Ok::<_, Infallible>(())
    })?;
    Ok((run.next, run.attested, seen))
}

fn cuts(records: &[u8]) -> Vec<usize> {
    let mut at = 0;
    let mut cuts = Vec::new();
    while at < records.len() {
        cuts.push(at);
        at += 36 + u32::from_le_bytes(records[at..at + 4].try_into().expect("four")) as usize;
    }
    cuts
}

#[test]
fn live_records_are_followed_up_to_head() {
    let directory = tempfile::tempdir().expect("a directory");
    let log = recording(directory.path());
    let (records, from, head) = live(directory.path());
    let end = Position { index: log.index, hash: log.hash };
    assert_eq!(follow(&records, &head, &from).expect("whole"), (end, true, 4));
    // In two parts, the first of which only the second proves.
    let cut = cuts(&records)[2];
    let (middle, attested, seen) = follow(&records[..cut], &head, &from).expect("whole");
    assert_eq!((middle.index, attested, seen), (12, false, 2));
    assert_eq!(follow(&records[cut..], &head, &middle).expect("whole"), (end, true, 2));
    // HEAD alone.
    assert_eq!(follow(&[], &head, &end).expect("whole"), (end, true, 0));

    // Not from here, not all of it, not in this order.
    assert_eq!(kind(follow(&records, &head, &middle)), Some(ProblemKind::Reordered));
    assert_eq!(kind(follow(&records[cut..], &head, &from)), Some(ProblemKind::Missing));
    assert_eq!(kind(follow(&records[..records.len() - 1], &head, &from)), Some(ProblemKind::Altered));
    let swapped = [&records[cut..], &records[..cut]].concat();
    assert_eq!(kind(follow(&swapped, &head, &from)), Some(ProblemKind::Missing));
    let mut fork = end;
    fork.hash[0] ^= 1;
    assert_eq!(kind(follow(&[], &head, &fork)), Some(ProblemKind::Altered), "a HEAD of another history");
}

#[test]
fn what_head_does_not_cover_is_refused() {
    let directory = tempfile::tempdir().expect("a directory");
    let log = recording(directory.path());
    let (records, from, head) = live(directory.path());
    let signed = checkpoint::parse(&head, &host()).expect("a checkpoint");
    let with = |change: &dyn Fn(&mut Checkpoint)| {
        let mut head = signed.clone();
        change(&mut head);
        checkpoint::encode(&head, &log.key)
    };
    let short = with(&|head| head.events = 12);
    assert_eq!(kind(follow(&records, &short, &from)), Some(ProblemKind::Signature));
    let end = Position { index: 14, hash: log.hash };
    assert_eq!(kind(follow(&[], &short, &end)), Some(ProblemKind::RolledBack));
    let rewritten = with(&|head| head.hash[3] ^= 1);
    assert_eq!(kind(follow(&records, &rewritten, &from)), Some(ProblemKind::Altered));
    let others = with(&|head| head.host[0] ^= 1);
    assert_eq!(kind(follow(&records, &others, &from)), Some(ProblemKind::Signature));
    let forged = checkpoint::encode(&signed, &HostKey::from_seed(&[1; 32]));
    assert_eq!(kind(follow(&records, &forged, &from)), Some(ProblemKind::Signature));
    assert_eq!(kind(follow(&records, b"ILKHEAD1", &from)), Some(ProblemKind::Altered));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn damaged_records_are_never_taken_whole(
        damage in proptest::collection::vec((any::<prop::sample::Index>(), 1..=255_u8), 1..8),
    ) {
        let directory = tempfile::tempdir().expect("a directory");
        recording(directory.path());
        let (records, from, head) = live(directory.path());
        let mut bytes = records.clone();
        for (at, change) in &damage {
            let at = at.index(bytes.len());
            bytes[at] ^= change;
        }
        prop_assume!(bytes != records);
        let taken = follow(&bytes, &head, &from);
        prop_assert!(!matches!(taken, Ok((_, true, _))));
    }
}
