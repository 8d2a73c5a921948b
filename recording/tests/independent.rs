//! The documentation is enough to write a verifier from: one that shares no code with this crate agrees
//! with it. Needs `python3` and `openssl`.

mod evidence;
mod support;

use std::fs;
use std::io::{self, Write as _};
use std::path::Path;
use std::process::{Command, Output};

use evidence::Collector;
use interlock_recording::SessionId;
use interlock_recording::log::segment_name;
use interlock_recording::segment::SegmentReader;
use interlock_recording::shipped::{self, SHIPPED};
use support::{SESSION, recording};

/// A public key of the test's host in PEM form: the fixed beginning of a SubjectPublicKeyInfo (RFC 8410)
/// and the key.
fn write_key(path: &Path, key: &[u8; 32]) {
    let mut der = vec![0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
    der.extend_from_slice(key);
    let mut child = Command::new("openssl")
        .args(["pkey", "-pubin", "-inform", "DER", "-pubout", "-out"])
        .arg(path)
        .stdin(std::process::Stdio::piped())
        .spawn()
        .expect("openssl runs");
    child.stdin.take().expect("piped").write_all(&der).expect("written");
    assert!(child.wait().expect("ends").success());
}

fn python(script: &str, what: &Path, key: &Path) -> Output {
    // This test's own program unpacks, so that no zstd program is needed.
    let me = std::env::current_exe().expect("a path");
    Command::new("python3")
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(script))
        .args([what, key, &me])
        .arg("unpack")
        .output()
        .expect("python3 runs")
}

/// The same of evidence bundles.
fn bundles(scratch: &Path) {
    let recorded = scratch.join("bundled");
    fs::create_dir(&recorded).expect("made");
    let mut log = recording(&recorded);
    log.seal();
    let host = log.key.public().clone();
    let mut collector = Collector::new(7);
    collector.enrol(&host, "a");
    collector.take(&recorded, 0, &host);
    let earlier = (collector.size(), collector.root());
    (1..3).for_each(|number| collector.take(&recorded, number, &host));
    let segments: Vec<_> =
        (0..3).map(|number| fs::read(recorded.join(segment_name(number, true))).expect("read")).collect();
    let chosen = (host.fingerprint(), SessionId::new(1_700_000_000_000, SESSION));
    let bundle = collector.bundle(&[chosen], &segments, Some(earlier)).expect("made");
    let (path, vkey) = (scratch.join("bundle.tar"), scratch.join("ledger.vkey"));
    fs::write(&vkey, format!("{}\n", collector.signer.public())).expect("written");
    fs::write(&path, &bundle).expect("written");
    let whole = python("verify_bundle.py", &path, &vkey);
    let said = String::from_utf8_lossy(&whole.stdout);
    assert_eq!(said, "whole: 1 sessions, 3 segments, ledger of 5 entries\n", "{whole:?}");
    assert!(whole.status.success());

    let not_whole = |bundle: &[u8]| {
        fs::write(&path, bundle).expect("written");
        assert_eq!(python("verify_bundle.py", &path, &vkey).status.code(), Some(1));
    };
    // Bytes all over it, and cut off.
    for at in (700..bundle.len() - 1024).step_by(bundle.len() / 6) {
        let mut altered = bundle.clone();
        altered[at] ^= 1;
        not_whole(&altered);
    }
    not_whole(&bundle[..bundle.len() - 512]);
    // Another collector's.
    let mut other = Collector::new(8);
    other.enrol(&host, "a");
    (0..3).for_each(|number| other.take(&recorded, number, &host));
    not_whole(&other.bundle(&[chosen], &segments, None).expect("made"));
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments == ["unpack"] {
        zstd::stream::copy_decode(io::stdin(), io::stdout()).expect("unpacks");
        return;
    }
    if arguments.iter().any(|argument| argument == "--list") {
        return;
    }
    let directory = tempfile::tempdir().expect("a directory");
    let (sessions, key) = (directory.path().join("sessions"), directory.path().join("host.pub"));
    fs::create_dir(&sessions).expect("made");
    let host = recording(&sessions).key;
    write_key(&key, host.public().as_bytes());

    let whole = python("verify.py", &sessions, &key);
    assert!(whole.status.success(), "{whole:?}");
    assert_eq!(String::from_utf8_lossy(&whole.stdout), "whole: 14 events, 1 sessions\n");

    let open = sessions.join(segment_name(2, false));
    let kept = fs::read(&open).expect("read");
    let mut altered = kept.clone();
    // Within the last event.
    let at = altered.len() - 40;
    altered[at] ^= 1;
    fs::write(&open, altered).expect("written");
    let found = python("verify.py", &sessions, &key);
    assert_eq!(found.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&found.stdout).contains("event 13 was altered"), "{found:?}");
    fs::write(&open, kept).expect("written");

    let first = SegmentReader::open(&sessions.join(segment_name(0, true))).expect("opens");
    let hash = first.footer().expect("sealed").footer.final_hash.as_slice().try_into().expect("a hash");
    shipped::write(&sessions, "c.test", 0, &hash, 5, &host).expect("written");
    shipped::prune(&sessions, host.public()).expect("removed");
    let whole = python("verify.py", &sessions, &key);
    assert_eq!(String::from_utf8_lossy(&whole.stdout), "whole: 8 events, 1 sessions\n");
    let signed = fs::read(sessions.join(SHIPPED)).expect("read");
    let mut forged = signed.clone();
    forged[12] ^= 1;
    fs::write(sessions.join(SHIPPED), forged).expect("written");
    assert_eq!(python("verify.py", &sessions, &key).status.code(), Some(1));
    fs::write(sessions.join(SHIPPED), signed).expect("written");

    fs::remove_file(sessions.join(segment_name(1, true))).expect("removed");
    assert_eq!(python("verify.py", &sessions, &key).status.code(), Some(1));
    bundles(directory.path());
    println!("2 passed, 0 failed");
}
