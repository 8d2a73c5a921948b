//! Whatever is done to a recording is found.

mod support;

use std::fs;
use std::path::{Path, PathBuf};

use interlock_recording::chain::{self, Hash};
use interlock_recording::log::segment_name;
use interlock_recording::segment::{self, SegmentReader};
use interlock_recording::{HostKey, ProblemKind, Report, fuzz_segment, verify};
use proptest::prelude::*;
use support::{Log, recording};

fn check(directory: &Path) -> Report {
    verify(directory, HostKey::from_seed(&[42; 32]).public()).expect("verifiable")
}

fn made() -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("a directory");
    recording(directory.path());
    directory
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> =
        fs::read_dir(directory).expect("read").map(|entry| entry.expect("an entry").path()).collect();
    files.sort();
    files
}

fn found(report: &Report, kind: ProblemKind) -> Option<u64> {
    let problem = report.problems.iter().find(|problem| problem.kind == kind);
    assert!(problem.is_some(), "no {kind:?} in {report:?}");
    problem.and_then(|problem| problem.event)
}

/// The records of an open segment, and what stands before them.
fn records(path: &Path) -> (Vec<u8>, Vec<Vec<u8>>) {
    let bytes = fs::read(path).expect("read");
    let mut reader = SegmentReader::open(path).expect("opens");
    let mut at = reader.offset() as usize;
    let preamble = bytes[..at].to_vec();
    let mut records = Vec::new();
    while reader.next_frame().expect("a record").is_some() {
        let end = reader.offset() as usize;
        records.push(bytes[at..end].to_vec());
        at = end;
    }
    (preamble, records)
}

#[test]
fn an_untouched_recording_is_whole() {
    let directory = made();
    let report = check(directory.path());
    assert!(report.ok, "{report:?}");
    assert_eq!((report.segments, report.open_segments, report.events), (3, 1, 14));
    assert_eq!((report.sessions, report.unfinished_sessions, report.unattested), (1, 0, 0));
    let other = verify(directory.path(), HostKey::from_seed(&[1; 32]).public()).expect("verifiable");
    assert!(!other.ok, "under another host's key");
}

#[test]
fn any_changed_byte_in_any_file_is_found() {
    let directory = made();
    for path in files(directory.path()) {
        let whole = fs::read(&path).expect("read");
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 1 << (at % 8);
            fs::write(&path, &bytes).expect("written");
            assert!(!check(directory.path()).ok, "byte {at} of {}", path.display());
        }
        fs::write(&path, &whole).expect("written");
    }
    assert!(check(directory.path()).ok);
}

#[test]
fn any_cut_or_lengthened_file_is_found() {
    let directory = made();
    for path in files(directory.path()) {
        let whole = fs::read(&path).expect("read");
        for length in 0..whole.len() {
            fs::write(&path, &whole[..length]).expect("written");
            assert!(!check(directory.path()).ok, "{} cut to {length} bytes", path.display());
        }
        // More of an open segment may be on its way: a whole foreign record is found, a begun one noted.
        fs::write(&path, [whole.as_slice(), b"\x03\0\0\0abc", &[0; 32]].concat()).expect("written");
        assert!(!check(directory.path()).ok, "{} lengthened", path.display());
        fs::write(&path, &whole).expect("written");
    }
}

#[test]
fn a_removed_file_is_found_and_named() {
    for (name, kind) in [
        (segment_name(0, true), ProblemKind::Missing),
        (segment_name(1, true), ProblemKind::Missing),
        (segment_name(2, false), ProblemKind::Truncated),
        ("HEAD".into(), ProblemKind::Missing),
    ] {
        let directory = made();
        fs::remove_file(directory.path().join(&name)).expect("removed");
        let report = check(directory.path());
        found(&report, kind);
        assert!(
            report.problems.iter().any(|problem| problem.file.as_deref() == Some(&name)),
            "{name}: {report:?}"
        );
    }
    // Everything but HEAD, then HEAD too: nothing is left that could say that there was something.
    let directory = made();
    for number in 0..2 {
        fs::remove_file(directory.path().join(segment_name(number, true))).expect("removed");
    }
    fs::remove_file(directory.path().join(segment_name(2, false))).expect("removed");
    found(&check(directory.path()), ProblemKind::Truncated);
}

#[test]
fn exchanged_and_repeated_files_are_found() {
    let directory = made();
    let path = |number| directory.path().join(segment_name(number, true));
    let (first, second) = (fs::read(path(0)).expect("read"), fs::read(path(1)).expect("read"));
    fs::write(path(0), &second).expect("written");
    fs::write(path(1), &first).expect("written");
    found(&check(directory.path()), ProblemKind::Reordered);
    fs::write(path(0), &first).expect("written");
    found(&check(directory.path()), ProblemKind::Reordered);
    fs::write(path(1), &second).expect("written");
    assert!(check(directory.path()).ok);
    // A segment of another recording of the same host.
    let other = tempfile::tempdir().expect("a directory");
    let mut log = Log::new(other.path());
    log.event(false, 11, |_| {});
    log.seal();
    fs::copy(other.path().join(segment_name(0, true)), path(0)).expect("copied");
    assert!(!check(directory.path()).ok);
}

#[test]
fn what_is_done_to_single_events_is_found_at_the_event() {
    type Attack = fn(&mut Vec<Vec<u8>>);
    let attacks: [(&str, Attack, ProblemKind, u64); 5] = [
        ("altered", |records| records[1][80] ^= 1, ProblemKind::Altered, 11),
        ("removed", |records| drop(records.remove(1)), ProblemKind::Missing, 11),
        ("swapped", |records| records.swap(1, 2), ProblemKind::Missing, 11),
        ("repeated", |records| records.insert(2, records[1].clone()), ProblemKind::Reordered, 12),
        ("cut off", |records| drop(records.pop()), ProblemKind::Truncated, 13),
    ];
    for (name, attack, kind, event) in attacks {
        let directory = made();
        let path = directory.path().join(segment_name(2, false));
        let (preamble, mut records) = records(&path);
        attack(&mut records);
        fs::write(&path, [preamble, records.concat()].concat()).expect("written");
        assert_eq!(found(&check(directory.path()), kind), Some(event), "{name}");
    }
}

/// Someone who knows the format, but not the key.
#[test]
fn a_chain_that_is_computed_anew_is_found() {
    let directory = made();
    let path = directory.path().join(segment_name(2, false));
    let (preamble, records) = records(&path);
    let mut hash: Hash = SegmentReader::open(&path)
        .expect("opens")
        .header()
        .previous_hash
        .as_slice()
        .try_into()
        .expect("a hash");
    let mut body = Vec::new();
    for record in &records {
        let event = &record[4..record.len() - 32];
        let text = event.windows(5).position(|window| window == b"x = 1");
        let mut event = event.to_vec();
        if let Some(at) = text {
            event[at + 4] = b'2';
        }
        hash = chain::link(&hash, &event);
        segment::put_frame(&mut body, &event, &hash);
    }
    fs::write(&path, [preamble, body].concat()).expect("written");
    assert_eq!(found(&check(directory.path()), ProblemKind::Altered), Some(13));

    // Sealed by another key.
    let directory = made();
    let sealed = directory.path().join(segment_name(2, true));
    let open = directory.path().join(segment_name(2, false));
    let mut file = fs::File::create(&sealed).expect("created");
    let evil = HostKey::from_seed(&[66; 32]);
    segment::seal(SegmentReader::open(&open).expect("opens"), &mut file, &evil, 1).expect("sealed");
    fs::remove_file(open).expect("removed");
    found(&check(directory.path()), ProblemKind::Signature);
}

#[test]
fn a_head_that_was_put_back_is_found() {
    // The whole end is cut off with it: to before the last sealing, and to within the open segment.
    let directory = tempfile::tempdir().expect("a directory");
    let mut log = Log::new(directory.path());
    log.event(false, 10, |_| {});
    log.head();
    let early = fs::read(directory.path().join("HEAD")).expect("read");
    log.event(false, 13, |_| {});
    log.head();
    log.seal();
    log.head();
    assert!(check(directory.path()).ok);
    fs::write(directory.path().join("HEAD"), &early).expect("written");
    assert_eq!(found(&check(directory.path()), ProblemKind::RolledBack), Some(1), "behind a sealed segment");

    // Behind an agent's start: an agent signs HEAD before it records anything else.
    let directory = tempfile::tempdir().expect("a directory");
    let mut log = Log::new(directory.path());
    log.event(false, 10, |_| {});
    log.head();
    log.event(false, 13, |_| {});
    assert_eq!(check(directory.path()).unattested, 1, "as a crash leaves it");
    log.event(false, 10, |_| {});
    log.event(false, 12, |_| {});
    assert!(check(directory.path()).ok, "as a crash at the start leaves it");
    log.event(false, 13, |_| {});
    assert_eq!(found(&check(directory.path()), ProblemKind::RolledBack), Some(1));
}

#[test]
fn a_gap_in_a_session_is_found_even_in_a_sound_chain() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut log = Log::new(directory.path());
    // The host itself leaves an event of a session out: it begins without its beginning.
    log.command("SELECT 1");
    log.head();
    let report = check(directory.path());
    found(&report, ProblemKind::Missing);
    assert!(report.problems[0].session.is_some());
}

#[test]
fn a_compression_bomb_is_not_unpacked() {
    // A record that claims 64 MiB, in a body that would unpack to far more than the footer counts.
    let zeros = zstd::encode_all(std::io::Cursor::new(vec![0; 32 << 20]), 3).expect("compressed");
    let directory = made();
    let whole = fs::read(directory.path().join(segment_name(0, true))).expect("read");
    let header = 12 + u32::from_le_bytes(whole[8..12].try_into().expect("four")) as usize;
    let length = u64::from_le_bytes(whole[header..header + 8].try_into().expect("eight")) as usize;
    let mut bomb = whole[..header].to_vec();
    bomb.extend_from_slice(&(zeros.len() as u64).to_le_bytes());
    bomb.extend_from_slice(&zeros);
    bomb.extend_from_slice(&whole[header + 8 + length..]);
    fs::write(directory.path().join(segment_name(0, true)), &bomb).expect("written");
    assert!(!check(directory.path()).ok);
    let mut reader = SegmentReader::new(std::io::Cursor::new(&bomb)).expect("opens");
    let mut events = 0;
    while let Ok(Some(_)) = reader.next_frame() {
        events += 1;
    }
    assert!(events < 100, "no more than the footer's bytes are unpacked: {events}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn random_damage_is_found(damage in proptest::collection::vec((any::<prop::sample::Index>(), 1..=255_u8), 1..8),
                              file in any::<prop::sample::Index>()) {
        let directory = made();
        let files = files(directory.path());
        let path = file.get(&files);
        let whole = fs::read(path).expect("read");
        let mut bytes = whole.clone();
        for (at, change) in &damage {
            let at = at.index(bytes.len());
            bytes[at] ^= change;
        }
        prop_assume!(bytes != whole);
        fs::write(path, &bytes).expect("written");
        prop_assert!(!check(directory.path()).ok);
    }

    #[test]
    fn arbitrary_bytes_do_no_harm(bytes in proptest::collection::vec(any::<u8>(), 0..600), cut in any::<prop::sample::Index>()) {
        fuzz_segment(&bytes);
        // The same behind a sound beginning.
        let directory = made();
        for number in [0, 2] {
            let whole = fs::read(directory.path().join(segment_name(number, number == 0))).expect("read");
            fuzz_segment(&[&whole[..cut.index(whole.len())], &bytes].concat());
        }
    }
}
