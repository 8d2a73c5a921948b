//! Segments that were shipped may go, and nothing else.

mod support;

use std::fs;
use std::path::Path;

use interlock_recording::chain::Hash;
use interlock_recording::log::segment_name;
use interlock_recording::segment::SegmentReader;
use interlock_recording::shipped::{self, SHIPPED, ShippedError, prune, read};
use interlock_recording::{HostKey, ProblemKind, Report, verify};
use support::{Log, recording};

fn key() -> HostKey {
    HostKey::from_seed(&[42; 32])
}

fn check(directory: &Path) -> Report {
    verify(directory, key().public()).expect("verifiable")
}

fn kinds(directory: &Path) -> Vec<ProblemKind> {
    check(directory).problems.iter().map(|problem| problem.kind).collect()
}

fn path(directory: &Path, number: u64) -> std::path::PathBuf {
    directory.join(segment_name(number, true))
}

fn final_hash(directory: &Path, number: u64) -> Hash {
    let reader = SegmentReader::open(&path(directory, number)).expect("opens");
    reader.footer().expect("sealed").footer.final_hash.as_slice().try_into().expect("a hash")
}

/// A collector acknowledged everything up to `segment`.
fn ship(directory: &Path, segment: u64) {
    let hash = final_hash(directory, segment);
    shipped::write(directory, "c.test", segment, &hash, 5, &key()).expect("written");
}

fn made() -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("a directory");
    recording(directory.path());
    directory
}

#[test]
fn what_was_shipped_may_be_removed_and_the_rest_is_whole() {
    let directory = made();
    ship(directory.path(), 0);
    assert!(check(directory.path()).ok, "before it is removed");
    let bytes = fs::metadata(path(directory.path(), 0)).expect("there").len();
    assert_eq!(prune(directory.path(), key().public()).expect("removed"), bytes);
    let report = check(directory.path());
    assert!(report.ok, "{report:?}");
    assert_eq!((report.shipped_events, report.events, report.segments), (6, 8, 2));
    assert_eq!(report.sessions, 0, "the only one began before");
    assert!(report.notes.iter().any(|note| note.contains("c.test")), "{:?}", report.notes);
    // Further, and not back again.
    ship(directory.path(), 1);
    prune(directory.path(), key().public()).expect("removed");
    assert!(check(directory.path()).ok);
    assert_eq!(prune(directory.path(), key().public()).expect("nothing to do"), 0);
    assert_eq!(read(directory.path(), key().public()).expect("there").1.segment, 2);
}

#[test]
fn removing_may_be_cut_off_anywhere() {
    let directory = made();
    ship(directory.path(), 1);
    assert!(check(directory.path()).ok, "nothing is removed yet");
    fs::remove_file(path(directory.path(), 0)).expect("removed");
    let report = check(directory.path());
    assert!(report.ok, "{report:?}");
    fs::remove_file(path(directory.path(), 1)).expect("removed");
    assert!(check(directory.path()).ok);
    // What is left over must still be what it was.
    let directory = made();
    let first = fs::read(path(directory.path(), 0)).expect("read");
    ship(directory.path(), 1);
    fs::remove_file(path(directory.path(), 0)).expect("removed");
    fs::write(path(directory.path(), 1), first).expect("written");
    assert!(!check(directory.path()).ok);
}

#[test]
fn it_opens_no_way_around_verification() {
    // More is gone than was shipped.
    let directory = made();
    ship(directory.path(), 0);
    prune(directory.path(), key().public()).expect("removed");
    fs::remove_file(path(directory.path(), 1)).expect("removed");
    assert!(kinds(directory.path()).contains(&ProblemKind::Missing));
    // Everything is gone.
    fs::remove_file(directory.path().join(segment_name(2, false))).expect("removed");
    assert!(kinds(directory.path()).contains(&ProblemKind::Truncated));

    // It is missing itself, cut, altered, or an older one.
    let directory = made();
    ship(directory.path(), 0);
    let older = fs::read(directory.path().join(SHIPPED)).expect("read");
    ship(directory.path(), 1);
    prune(directory.path(), key().public()).expect("removed");
    let whole = fs::read(directory.path().join(SHIPPED)).expect("read");
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        fs::write(directory.path().join(SHIPPED), &bytes).expect("written");
        assert!(!check(directory.path()).ok, "byte {at}");
        fs::write(directory.path().join(SHIPPED), &whole[..at]).expect("written");
        assert!(!check(directory.path()).ok, "cut to {at}");
    }
    fs::write(directory.path().join(SHIPPED), older).expect("written");
    assert!(kinds(directory.path()).contains(&ProblemKind::Missing));
    fs::remove_file(directory.path().join(SHIPPED)).expect("removed");
    assert!(kinds(directory.path()).contains(&ProblemKind::Missing));

    // Another host's, beside a whole recording.
    let directory = made();
    ship(directory.path(), 0);
    let mut bytes = fs::read(directory.path().join(SHIPPED)).expect("read");
    let at = bytes.len() - 1;
    bytes[at] ^= 1;
    fs::write(directory.path().join(SHIPPED), bytes).expect("written");
    assert_eq!(kinds(directory.path()), [ProblemKind::Signature]);
    assert!(matches!(prune(directory.path(), key().public()), Err(ShippedError::File(_))));
    assert!(path(directory.path(), 0).exists());

    // HEAD from before what was shipped.
    let directory = tempfile::tempdir().expect("a directory");
    let mut log = Log::new(directory.path());
    log.event(false, 10, |_| {});
    log.head();
    let early = fs::read(directory.path().join("HEAD")).expect("read");
    log.event(false, 13, |_| {});
    log.head();
    log.seal();
    log.head();
    ship(directory.path(), 0);
    prune(directory.path(), key().public()).expect("removed");
    assert!(check(directory.path()).ok);
    fs::write(directory.path().join("HEAD"), early).expect("written");
    assert!(kinds(directory.path()).contains(&ProblemKind::RolledBack));
}

#[test]
fn it_is_signed_only_for_what_the_collector_has() {
    let write = |directory: &Path, segment, hash: &Hash, key: &HostKey| {
        shipped::write(directory, "c.test", segment, hash, 5, key)
    };
    let directory = made();
    let hash = final_hash(directory.path(), 0);
    let mut other = hash;
    other[0] ^= 1;
    assert!(matches!(write(directory.path(), 0, &other, &key()), Err(ShippedError::Differs { .. })));
    assert!(matches!(write(directory.path(), 2, &hash, &key()), Err(ShippedError::Segment { .. })), "open");
    assert!(matches!(
        write(directory.path(), 0, &hash, &HostKey::from_seed(&[1; 32])),
        Err(ShippedError::Differs { .. })
    ));
    let long = "c".repeat(300);
    assert!(matches!(shipped::write(directory.path(), &long, 0, &hash, 5, &key()), Err(ShippedError::Name)));
    // Someone exchanged a segment for another that the host sealed, so that it signs a place that is none.
    let elsewhere = tempfile::tempdir().expect("a directory");
    let mut log = Log::new(elsewhere.path());
    log.event(false, 13, |_| {});
    log.seal();
    fs::copy(path(elsewhere.path(), 0), path(directory.path(), 0)).expect("copied");
    let hash = final_hash(directory.path(), 0);
    assert!(matches!(write(directory.path(), 0, &hash, &key()), Err(ShippedError::Differs { .. })));
    assert!(!directory.path().join(SHIPPED).exists());
    // The last segment stays: the next one must have something to go on from.
    let directory = made();
    fs::remove_file(directory.path().join(segment_name(2, false))).expect("removed");
    let hash = final_hash(directory.path(), 1);
    assert!(matches!(write(directory.path(), 1, &hash, &key()), Err(ShippedError::Differs { .. })));
}

#[test]
fn an_emptied_directory_is_not_whole() {
    let directory = tempfile::tempdir().expect("a directory");
    assert_eq!(kinds(directory.path()), [ProblemKind::Missing]);
    // Nor is one that someone without the key began anew.
    Log::new(directory.path());
    assert_eq!(kinds(directory.path()), [ProblemKind::Missing]);
    Log::new(directory.path()).head();
    assert!(check(directory.path()).ok, "as the agent leaves it at its first start");
}
