//! Whatever is done to an evidence bundle is found.

mod evidence;
mod support;

use std::fs;
use std::io::Cursor;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use evidence::{BEGUN_NS, Collector};
use interlock_recording::bundle::{BundleError, BundleReport, Trusted, WriteError, fuzz_files, verify_file};
use interlock_recording::chain::{Hash, digest};
use interlock_recording::ledger;
use interlock_recording::ledger::proto::Tombstone;
use interlock_recording::ledger::proto::entry::Body;
use interlock_recording::log::segment_name;
use interlock_recording::note::{KeyKind, Note, Signer};
use interlock_recording::{HostKey, ProblemKind, PublicKey, SessionId, hex};
use proptest::prelude::*;
use serde_json::Value;
use support::{Log, SESSION, recording};

fn host() -> PublicKey {
    HostKey::from_seed(&[42; 32]).public().clone()
}

fn chosen() -> (Hash, SessionId) {
    (host().fingerprint(), SessionId::new(1_700_000_000_000, SESSION))
}

fn segment(directory: &Path, number: u64) -> Vec<u8> {
    fs::read(directory.join(segment_name(number, true))).expect("read")
}

struct Case {
    collector: Collector,
    segments: Vec<Vec<u8>>,
    /// Size and root when two segments were taken.
    earlier: (u64, Hash),
    earlier_checkpoint: Vec<u8>,
    bundle: Vec<u8>,
}

/// A session over three segments, all taken.
fn case() -> Case {
    let directory = tempfile::tempdir().expect("a directory");
    let mut log = recording(directory.path());
    log.seal();
    log.head();
    let mut collector = Collector::new(7);
    collector.enrol(&host(), "db-bastion");
    collector.take(directory.path(), 0, &host());
    collector.take(directory.path(), 1, &host());
    let earlier = (collector.size(), collector.root());
    let earlier_checkpoint = collector.checkpoint();
    collector.take(directory.path(), 2, &host());
    let segments: Vec<_> = (0..3).map(|number| segment(directory.path(), number)).collect();
    let bundle = collector.bundle(&[chosen()], &segments, Some(earlier)).expect("made");
    Case { collector, segments, earlier, earlier_checkpoint, bundle }
}

impl Case {
    fn trusted(&self) -> Trusted {
        Trusted { collectors: vec![self.collector.signer.public().clone()], ..Trusted::default() }
    }

    fn check(&self, bundle: &[u8]) -> BundleReport {
        check(bundle, &self.trusted())
    }
}

fn check(bundle: &[u8], trusted: &Trusted) -> BundleReport {
    verify_file(&mut Cursor::new(bundle), trusted).expect("verifiable")
}

fn found(report: &BundleReport, kind: ProblemKind) {
    assert!(!report.ok);
    assert!(report.problems.iter().any(|problem| problem.kind == kind), "no {kind:?} in {report:#?}");
}

type Files = Vec<(String, Vec<u8>)>;

fn unpack(bundle: &[u8]) -> Files {
    let mut archive = tar::Archive::new(bundle);
    let entries = archive.entries().expect("an archive");
    entries
        .map(|entry| {
            let mut entry = entry.expect("an entry");
            let mut content = Vec::new();
            std::io::Read::read_to_end(&mut entry, &mut content).expect("read");
            (entry.path().expect("a name").to_str().expect("text").to_owned(), content)
        })
        .collect()
}

fn header(name: &str, bytes: usize) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    if let Some(place) = header.as_old_mut().name.get_mut(..name.len()) {
        place.copy_from_slice(name.as_bytes());
    }
    header.set_size(bytes as u64);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_entry_type(tar::EntryType::Regular);
    header.set_cksum();
    header
}

fn pack(files: &Files) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (name, content) in files {
        archive.append(&header(name, content.len()), content.as_slice()).expect("packed");
    }
    archive.into_inner().expect("packed")
}

fn content<'f>(files: &'f mut Files, name: &str) -> &'f mut Vec<u8> {
    &mut files.iter_mut().find(|(of, _)| of.ends_with(name)).expect("there").1
}

/// What someone can do who makes the list of files anew, and signs it with `signer`.
fn relist(files: &mut Files, signer: &Signer) {
    let listed: Vec<Value> = files
        .iter()
        .filter(|(name, _)| !name.contains("/manifest."))
        .map(|(name, content)| {
            serde_json::json!({"name": name, "bytes": content.len(), "sha256": hex(&digest(content))})
        })
        .collect();
    let manifest = content(files, "manifest.json");
    let mut value: Value = serde_json::from_slice(manifest).expect("JSON");
    value["files"] = listed.into();
    *manifest = serde_json::to_vec(&value).expect("JSON");
    let text = format!("interlock evidence manifest v1\n{}\n", hex(&digest(manifest)));
    let mut note = Note::new(text).expect("a note");
    note.sign(signer, 0);
    *content(files, "manifest.sig") = note.to_string().into_bytes();
}

fn lines(files: &mut Files, change: impl FnOnce(&mut Vec<Value>)) {
    let ledger = content(files, "ledger.jsonl");
    let text = String::from_utf8(ledger.clone()).expect("text");
    let mut lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    change(&mut lines);
    *ledger = lines.iter().map(|line| format!("{line}\n")).collect::<String>().into_bytes();
}

#[test]
fn an_untouched_bundle_is_whole() {
    let case = case();
    let report = case.check(&case.bundle);
    assert!(report.ok, "{report:#?}");
    assert!(report.collector_trusted);
    assert_eq!((report.segments, report.events, report.ledger_entries), (3, 14, 5));
    assert_eq!((report.hosts.len(), report.hosts[0].name.as_str()), (1, "db-bastion"));
    let session = &report.sessions[0];
    assert_eq!((session.events, session.commands, session.whole), (13, 11, true));
    assert_eq!(session.ended.as_deref(), Some("client_closed"));
    assert_eq!(session.taken.as_deref(), Some("2023-11-14T22:15:04.000000000Z"), "when the last was taken");
    assert_eq!((report.requested_by.as_str(), report.reason.as_str()), ("auditor@example.test", "case 7"));
    // Without a key it agrees with itself, and says that this is all.
    let report = check(&case.bundle, &Trusted::default());
    assert!(report.ok && !report.collector_trusted, "{report:#?}");
    assert!(report.notes.iter().any(|note| note.contains("out of the bundle itself")));
    // With the host's key alone.
    let trusted = Trusted { hosts: vec![host()], ..Trusted::default() };
    assert!(check(&case.bundle, &trusted).hosts[0].trusted);
}

#[test]
fn keys_that_are_not_those_that_were_given_are_found() {
    let case = case();
    let other = Signer::from_seed(evidence::ORIGIN, KeyKind::Note, &[8; 32]).expect("a key");
    let trusted = Trusted { collectors: vec![other.public().clone()], ..Trusted::default() };
    found(&check(&case.bundle, &trusted), ProblemKind::Signature);
    let trusted = Trusted { hosts: vec![HostKey::from_seed(&[1; 32]).public().clone()], ..case.trusted() };
    found(&check(&case.bundle, &trusted), ProblemKind::Signature);
    let witness = Signer::from_seed("w.test", KeyKind::Witness, &[3; 32]).expect("a key");
    let trusted = Trusted { witnesses: vec![witness.public().clone()], ..case.trusted() };
    found(&check(&case.bundle, &trusted), ProblemKind::Signature);

    // A witness that did sign.
    let mut files = unpack(&case.bundle);
    let checkpoint = content(&mut files, "checkpoint");
    let mut note = Note::parse(checkpoint).expect("a note");
    note.sign(&witness, 1_700_000_200);
    *checkpoint = note.to_string().into_bytes();
    relist(&mut files, &case.collector.signer);
    let report = check(&pack(&files), &trusted);
    assert!(report.ok, "{report:#?}");
    assert_eq!(report.witnesses, [("w.test".to_owned(), "2023-11-14T22:16:40.000000000Z".to_owned())]);

    // Everything made anew by someone with a collector of their own.
    let directory = tempfile::tempdir().expect("a directory");
    let mut log = Log::new(directory.path());
    log.event(true, 20, |_| {});
    log.event(true, 27, |_| {});
    log.seal();
    let mut evil = Collector::new(66);
    evil.enrol(&host(), "db-bastion");
    evil.take(directory.path(), 0, &host());
    let bundle = evil.bundle(&[chosen()], &[segment(directory.path(), 0)], None).expect("made");
    assert!(check(&bundle, &Trusted::default()).ok, "no key, no proof");
    found(&case.check(&bundle), ProblemKind::Signature);
    // With the true collector's key and checkpoint put in.
    let (mut files, mut true_files) = (unpack(&bundle), unpack(&case.bundle));
    for name in ["collector.vkey", "checkpoint"] {
        *content(&mut files, name) = content(&mut true_files, name).clone();
    }
    relist(&mut files, &evil.signer);
    found(&case.check(&pack(&files)), ProblemKind::Signature);
    found(&case.check(&pack(&files)), ProblemKind::Proof);

    // The host's key exchanged in its file alone.
    let mut files = unpack(&case.bundle);
    *content(&mut files, ".pub") = HostKey::from_seed(&[1; 32]).public().to_pem().into_bytes();
    relist(&mut files, &case.collector.signer);
    found(&case.check(&pack(&files)), ProblemKind::Altered);
}

#[test]
fn what_is_altered_dropped_or_swapped_is_found() {
    let case = case();
    let signer = &case.collector.signer;
    // Someone without any key.
    let mut files = unpack(&case.bundle);
    files.retain(|(name, _)| !name.ends_with("000000000001.seg"));
    found(&case.check(&pack(&files)), ProblemKind::Missing);
    // Someone with the collector's key, who makes the list anew: the ledger's checkpoint is out of reach of
    // that, and so are the hosts' signatures.
    relist(&mut files, signer);
    found(&case.check(&pack(&files)), ProblemKind::Missing);
    for dropped in 0..3_u64 {
        let mut files = unpack(&case.bundle);
        files.retain(|(name, _)| !name.ends_with(&segment_name(dropped, true)));
        lines(&mut files, |lines| drop(lines.remove(dropped as usize + 2)));
        relist(&mut files, signer);
        let report = case.check(&pack(&files));
        found(&report, ProblemKind::Missing);
        assert!(!report.sessions[0].whole, "segment {dropped}");
    }

    // Reordered: each in the other's place.
    let mut files = unpack(&case.bundle);
    *content(&mut files, "000000000000.seg") = case.segments[1].clone();
    *content(&mut files, "000000000001.seg") = case.segments[0].clone();
    relist(&mut files, signer);
    let report = case.check(&pack(&files));
    found(&report, ProblemKind::Altered);
    found(&report, ProblemKind::Proof);

    // Back-dated: the entry says an earlier time.
    let mut files = unpack(&case.bundle);
    lines(&mut files, |lines| {
        let bytes = STANDARD.decode(lines[3]["entry"].as_str().expect("text")).expect("base64");
        let entry = ledger::decode(&bytes).expect("an entry");
        let earlier = ledger::encode(BEGUN_NS - 86_400_000_000_000, entry.body.expect("a body"));
        lines[3]["entry"] = STANDARD.encode(earlier.expect("sound").bytes).into();
    });
    relist(&mut files, signer);
    found(&case.check(&pack(&files)), ProblemKind::Proof);

    // Swapped proofs, an entry in another's place, twice, and out of order.
    type Change = fn(&mut Vec<Value>);
    let changes: [(Change, ProblemKind); 6] = [
        (
            |lines| {
                let (a, b) = (lines[2]["proof"].clone(), lines[3]["proof"].clone());
                (lines[2]["proof"], lines[3]["proof"]) = (b, a);
            },
            ProblemKind::Proof,
        ),
        (|lines| lines[2]["index"] = 3.into(), ProblemKind::Proof),
        (|lines| lines[2]["index"] = u64::MAX.into(), ProblemKind::Proof),
        (|lines| lines[2]["proof"] = Value::Array(Vec::new()), ProblemKind::Proof),
        (|lines| lines.push(lines[4].clone()), ProblemKind::Reordered),
        (|lines| lines.swap(2, 3), ProblemKind::Reordered),
    ];
    for (number, (change, kind)) in changes.into_iter().enumerate() {
        let mut files = unpack(&case.bundle);
        lines(&mut files, change);
        relist(&mut files, signer);
        let report = case.check(&pack(&files));
        assert!(report.problems.iter().any(|problem| problem.kind == kind), "{number}: {report:#?}");
    }

    // Another session than those that are there, and none.
    for sessions in [
        serde_json::json!([{"session": "0".repeat(32), "host": hex(&host().fingerprint())}]),
        serde_json::json!([]),
        serde_json::json!([{"session": "x", "host": "y"}]),
    ] {
        let mut files = unpack(&case.bundle);
        let manifest = content(&mut files, "manifest.json");
        let mut value: Value = serde_json::from_slice(manifest).expect("JSON");
        value["sessions"] = sessions;
        *manifest = serde_json::to_vec(&value).expect("JSON");
        assert!(!case.check(&pack(&files)).ok, "not signed");
        relist(&mut files, signer);
        assert!(!case.check(&pack(&files)).ok);
    }
    // Who asked for it, and when.
    let mut files = unpack(&case.bundle);
    let manifest = content(&mut files, "manifest.json");
    *manifest = String::from_utf8(manifest.clone()).expect("text").replace("case 7", "case 8").into_bytes();
    found(&case.check(&pack(&files)), ProblemKind::Altered);
}

#[test]
fn a_ledger_that_was_rolled_back_or_rewritten_is_found() {
    let case = case();
    // The checkpoint of the older tree: what was taken after it is not proven by it.
    let mut files = unpack(&case.bundle);
    *content(&mut files, "checkpoint") = case.earlier_checkpoint.clone();
    relist(&mut files, &case.collector.signer);
    found(&case.check(&pack(&files)), ProblemKind::Proof);

    // Whoever kept the earlier checkpoint can tell that the later ledger goes on from it.
    let kept = |checkpoint: &[u8]| Trusted { checkpoint: Some(checkpoint.to_vec()), ..case.trusted() };
    let report = check(&case.bundle, &kept(&case.earlier_checkpoint));
    assert!(report.ok, "{report:#?}");
    // Without the proof it cannot be told.
    let bare = case.collector.bundle(&[chosen()], &case.segments, None).expect("made");
    let result = verify_file(&mut Cursor::new(&bare), &kept(&case.earlier_checkpoint));
    assert!(matches!(result, Err(BundleError::NoConsistency { known: 4, bundle: 5 })));
    let other = Collector::new(8).checkpoint();
    let result = verify_file(&mut Cursor::new(&bare), &kept(&other));
    assert!(matches!(result, Err(BundleError::Known(_))));

    // The collector itself tells another history: another entry before the segments.
    let directory = tempfile::tempdir().expect("a directory");
    let mut log = recording(directory.path());
    log.seal();
    let mut rewritten = Collector::new(7);
    rewritten.enrol(&host(), "db-bastion-2");
    (0..3).for_each(|number| rewritten.take(directory.path(), number, &host()));
    let fork = rewritten.bundle(&[chosen()], &case.segments, None).expect("made");
    assert!(case.check(&fork).ok, "it agrees with itself");
    found(&check(&fork, &kept(&case.collector.checkpoint())), ProblemKind::RolledBack);
    // With a proof of the true history.
    let mut files = unpack(&fork);
    let proof = content(&mut unpack(&case.bundle), "consistency.jsonl").clone();
    files.push(("evidence/consistency.jsonl".into(), proof));
    relist(&mut files, &rewritten.signer);
    found(&check(&pack(&files), &kept(&case.earlier_checkpoint)), ProblemKind::RolledBack);
    assert_eq!(case.earlier.0, 4);
}

#[test]
fn archives_that_are_more_than_files_are_refused() {
    let case = case();
    let signer = &case.collector.signer;
    // Listed and signed, but without a place in a bundle; not listed.
    for listed in [true, false] {
        let mut files = unpack(&case.bundle);
        files.push(("evidence/readme.html".into(), b"<script>".to_vec()));
        if listed {
            relist(&mut files, signer);
        }
        found(&case.check(&pack(&files)), ProblemKind::Unexpected);
    }
    for name in [
        "../../etc/cron.d/x",
        "/etc/passwd",
        "evidence/../../x",
        "evidence/./x",
        "evidence//x",
        "evidence/.ssh",
        "evidence/a\\b",
        "evidence/a\u{202e}b",
        "x",
        "evidence/",
    ] {
        let mut files = unpack(&case.bundle);
        files.push((name.into(), b"x".to_vec()));
        relist(&mut files, signer);
        found(&case.check(&pack(&files)), ProblemKind::Altered);
    }
    // The same name twice: unpacked, the last would count.
    let mut files = unpack(&case.bundle);
    files.push(("evidence/viewer.html".into(), b"<script>".to_vec()));
    found(&case.check(&pack(&files)), ProblemKind::Altered);

    // Links, devices, long names, holes, and extended headers.
    for kind in [b'1', b'2', b'3', b'5', b'6', b'L', b'K', b'S', b'x', b'g', b'\0'] {
        let mut extra = header("evidence/viewer.html", 0);
        extra.set_entry_type(tar::EntryType::new(kind));
        extra.set_cksum();
        let bundle = [extra.as_bytes().as_slice(), &case.bundle].concat();
        assert!(!case.check(&bundle).ok, "{kind}");
    }
    // More than there is.
    for size in [1 << 40, (1 << 63) - 1, u64::MAX] {
        let mut extra = header("evidence/viewer.html", 0);
        extra.set_size(size);
        extra.set_cksum();
        found(&case.check(&[extra.as_bytes().as_slice(), &case.bundle].concat()), ProblemKind::Altered);
    }
    // Hidden behind the end.
    assert!(!case.check(&[case.bundle.as_slice(), &[0; 512]].concat()).ok);
    assert!(!case.check(&[case.bundle.as_slice(), b"x"].concat()).ok);
    assert!(!case.check(&[case.bundle.as_slice(), &case.bundle].concat()).ok);
    assert!(!case.check(b"").ok);
    assert!(!case.check(&[0; 1024]).ok);
    assert!(!case.check(&case.segments[0]).ok, "not an archive at all");
    // Packed again by someone who meant no harm: it is not the collector's file any more.
    let mut packed = tar::Builder::new(Vec::new());
    for (name, content) in unpack(&case.bundle) {
        let mut header = header(&name, content.len());
        header.set_mtime(1_700_000_000);
        header.set_cksum();
        packed.append(&header, content.as_slice()).expect("packed");
    }
    found(&case.check(&packed.into_inner().expect("packed")), ProblemKind::Altered);
}

#[test]
fn every_cut_is_found() {
    let case = case();
    for length in (0..case.bundle.len()).step_by(97).chain([case.bundle.len() - 512, case.bundle.len() - 1]) {
        assert!(!case.check(&case.bundle[..length]).ok, "cut to {length} bytes");
    }
}

#[test]
fn a_bundle_that_would_not_be_whole_is_not_made() {
    let case = case();
    let make = |segments: &[Vec<u8>]| case.collector.bundle(&[chosen()], segments, None);
    let [first, second, third] = [0, 1, 2].map(|at: usize| case.segments[at].clone());
    let session = |result| matches!(result, Err(WriteError::Session { .. }));
    assert!(session(make(&[first.clone(), second.clone()])), "its end is missing");
    assert!(session(make(&[second.clone(), third.clone()])), "its beginning is missing");
    assert!(session(make(&[first.clone(), third])), "its middle is missing");
    assert!(session(make(&[])));
    assert!(matches!(make(&[second, first.clone()]), Err(WriteError::Segment { .. })), "out of order");
    let mut altered = first.clone();
    let at = altered.len() - 70;
    altered[at] ^= 1;
    assert!(matches!(make(&[altered]), Err(WriteError::Segment { .. })));
    assert!(make(&[b"x".to_vec()]).is_err());
    assert!(make(&[[first.as_slice(), b"x"].concat()]).is_err());
    assert!(matches!(case.collector.bundle(&[], &case.segments, None), Err(WriteError::Unsound(_))));
    // A segment that the ledger does not speak of.
    let mut collector = Collector::new(7);
    collector.enrol(&host(), "a");
    let result = collector.bundle(&[chosen()], &case.segments, None);
    assert!(matches!(result, Err(WriteError::Segment { .. })));
}

#[test]
fn a_session_that_its_agent_cut_off_is_whole_when_that_can_be_seen() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut log = Log::new(directory.path());
    log.event(false, 10, |_| {});
    log.event(true, 20, |body| body.string(3, "10.0.0.7:5432"));
    log.command("SELECT '</script><img src=x onerror=alert(1)>'");
    log.seal();
    log.event(false, 13, |_| {});
    log.seal();
    log.event(false, 10, |_| {});
    log.event(false, 12, |_| {});
    log.seal();
    let mut collector = Collector::new(7);
    collector.enrol(&host(), "a");
    (0..3).for_each(|number| collector.take(directory.path(), number, &host()));
    let segments: Vec<_> = (0..3).map(|number| segment(directory.path(), number)).collect();
    let few = collector.bundle(&[chosen()], &segments[..2], None);
    assert!(matches!(few, Err(WriteError::Session { .. })), "its end could be in the next segment");
    let gap = collector.bundle(&[chosen()], &[segments[0].clone(), segments[2].clone()], None);
    assert!(matches!(gap, Err(WriteError::Session { .. })), "its end could be in the one between");
    let bundle = collector.bundle(&[chosen()], &segments, None).expect("made");
    let trusted = Trusted { collectors: vec![collector.signer.public().clone()], ..Trusted::default() };
    let report = check(&bundle, &trusted);
    assert!(report.ok && report.sessions[0].ended.is_none(), "{report:#?}");
    assert!(report.notes.iter().any(|note| note.contains("no end of its own")));
    let page = String::from_utf8(content(&mut unpack(&bundle), "viewer.html").clone()).expect("text");
    assert!(!page.contains("<img"), "what was recorded is no part of the page");
    assert!(page.contains("\\u003cimg"));
}

#[test]
fn what_was_deleted_is_told() {
    // Sessions in segments that stand apart, and what was between them is deleted.
    let directory = tempfile::tempdir().expect("a directory");
    let mut log = Log::new(directory.path());
    log.event(false, 10, |_| {});
    log.seal();
    log.event(false, 13, |_| {});
    log.seal();
    log.event(true, 20, |_| {});
    log.event(true, 27, |_| {});
    log.seal();
    let mut collector = Collector::new(7);
    collector.enrol(&host(), "a");
    (0..3).for_each(|number| collector.take(directory.path(), number, &host()));
    let tombstone = |segment: u64, bytes: &[u8]| Tombstone {
        host: host().fingerprint().to_vec(),
        segment,
        file_sha256: digest(bytes).to_vec(),
        reason: "older than 90 days".into(),
        who: "retention".into(),
        rule: "default".into(),
    };
    for number in 0..2 {
        let bytes = segment(directory.path(), number);
        collector.append(Body::Tombstone(tombstone(number, &bytes)));
    }
    let bundle = collector.bundle(&[chosen()], &[segment(directory.path(), 2)], None).expect("made");
    let trusted = Trusted { collectors: vec![collector.signer.public().clone()], ..Trusted::default() };
    let report = check(&bundle, &trusted);
    assert!(report.ok, "{report:#?}");
    assert!(report.notes.iter().any(|note| note.contains("segment 1") && note.contains("deleted")));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn no_altered_byte_passes(at in any::<prop::sample::Index>(), change in 1..=255_u8) {
        thread_local!(static CASE: Case = case());
        CASE.with(|case| {
            let mut bundle = case.bundle.clone();
            let at = at.index(bundle.len());
            bundle[at] ^= change;
            let report = verify_file(&mut Cursor::new(&bundle), &case.trusted());
            prop_assert!(report.is_err() || report.is_ok_and(|report| !report.ok), "byte {at}");
            Ok(())
        })?;
    }

    /// Each file by itself, with a list that was made anew and signed.
    #[test]
    fn any_content_of_a_file_does_no_harm(
        bytes in proptest::collection::vec(any::<u8>(), 0..400),
        file in any::<prop::sample::Index>(),
        from in any::<prop::sample::Index>(),
    ) {
        thread_local!(static CASE: Case = case());
        CASE.with(|case| {
            let mut files = unpack(&case.bundle);
            let place = file.index(files.len());
            let (name, content) = &mut files[place];
            let signed = name.contains("/manifest.");
            let at = from.index(content.len());
            let end = content.len().min(at + bytes.len());
            let same = content[at..end] == bytes;
            content.splice(at..end, bytes);
            // The page alone is nothing that is verified.
            // Nor are blanks, which a few bytes can happen to be.
            let matters = !name.ends_with("viewer.html") && !same && end - at > 16;
            if !signed {
                relist(&mut files, &case.collector.signer);
            }
            let report = verify_file(&mut Cursor::new(pack(&files)), &case.trusted());
            prop_assert!(!matters || !report.is_ok_and(|report| report.ok));
            Ok(())
        })?;
    }

    #[test]
    fn any_bytes_do_no_harm(bytes in proptest::collection::vec(any::<u8>(), 0..3000), cut in any::<prop::sample::Index>()) {
        thread_local!(static CASE: Case = case());
        CASE.with(|case| {
            let _ = verify_file(&mut Cursor::new(&bytes), &Trusted::default());
            fuzz_files(&bytes);
            let whole = &case.bundle;
            let _ = verify_file(&mut Cursor::new([&whole[..cut.index(whole.len())], &bytes].concat()), &case.trusted());
        });
    }
}
