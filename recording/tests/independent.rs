//! The documentation is enough to write a verifier from: one that shares no code with this crate agrees
//! with it. Needs `python3` and `openssl`.

mod support;

use std::fs;
use std::io::{self, Write as _};
use std::path::Path;
use std::process::{Command, Output};

use interlock_recording::log::segment_name;
use interlock_recording::segment::SegmentReader;
use interlock_recording::shipped::{self, SHIPPED};
use support::recording;

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

fn python(recording: &Path, key: &Path) -> Output {
    // This test's own program unpacks, so that no zstd program is needed.
    let me = std::env::current_exe().expect("a path");
    Command::new("python3")
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/verify.py"))
        .args([recording, key, &me])
        .arg("unpack")
        .output()
        .expect("python3 runs")
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

    let whole = python(&sessions, &key);
    assert!(whole.status.success(), "{whole:?}");
    assert_eq!(String::from_utf8_lossy(&whole.stdout), "whole: 14 events, 1 sessions\n");

    let open = sessions.join(segment_name(2, false));
    let kept = fs::read(&open).expect("read");
    let mut altered = kept.clone();
    // Within the last event.
    let at = altered.len() - 40;
    altered[at] ^= 1;
    fs::write(&open, altered).expect("written");
    let found = python(&sessions, &key);
    assert_eq!(found.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&found.stdout).contains("event 13 was altered"), "{found:?}");
    fs::write(&open, kept).expect("written");

    let first = SegmentReader::open(&sessions.join(segment_name(0, true))).expect("opens");
    let hash = first.footer().expect("sealed").footer.final_hash.as_slice().try_into().expect("a hash");
    shipped::write(&sessions, "c.test", 0, &hash, 5, &host).expect("written");
    shipped::prune(&sessions, host.public()).expect("removed");
    let whole = python(&sessions, &key);
    assert_eq!(String::from_utf8_lossy(&whole.stdout), "whole: 8 events, 1 sessions\n");
    let signed = fs::read(sessions.join(SHIPPED)).expect("read");
    let mut forged = signed.clone();
    forged[12] ^= 1;
    fs::write(sessions.join(SHIPPED), forged).expect("written");
    assert_eq!(python(&sessions, &key).status.code(), Some(1));
    fs::write(sessions.join(SHIPPED), signed).expect("written");

    fs::remove_file(sessions.join(segment_name(1, true))).expect("removed");
    assert_eq!(python(&sessions, &key).status.code(), Some(1));
    println!("1 passed, 0 failed");
}
