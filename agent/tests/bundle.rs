//! `interlock verify` on bundles, by its exit code and what it says.

#[path = "../../recording/tests/evidence/mod.rs"]
mod evidence;
#[path = "../../recording/tests/support/mod.rs"]
mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use evidence::Collector;
use interlock_recording::log::segment_name;
use interlock_recording::merkle::Plan;
use interlock_recording::{HostKey, SessionId};
use support::{SESSION, recording};

struct Case {
    directory: tempfile::TempDir,
    collector: Collector,
    earlier: u64,
}

fn case() -> Case {
    let directory = tempfile::tempdir().expect("a directory");
    let sessions = directory.path().join("sessions");
    fs::create_dir(&sessions).expect("made");
    let mut log = recording(&sessions);
    log.seal();
    let host = log.key.public().clone();
    let mut collector = Collector::new(7);
    collector.enrol(&host, "db-bastion \u{1b}[2J");
    let (earlier, root) = (collector.size(), collector.root());
    fs::write(directory.path().join("kept"), collector.checkpoint()).expect("written");
    (0..3).for_each(|number| collector.take(&sessions, number, &host));
    let segments: Vec<_> =
        (0..3).map(|number| fs::read(sessions.join(segment_name(number, true))).expect("read")).collect();
    let chosen = (host.fingerprint(), SessionId::new(1_700_000_000_000, SESSION));
    let put = |name: &str, content: &[u8]| fs::write(directory.path().join(name), content).expect("written");
    put("bundle.tar", &collector.bundle(&[chosen], &segments, None).expect("made"));
    put("proven.tar", &collector.bundle(&[chosen], &segments, Some((earlier, root))).expect("made"));
    put("ledger.vkey", format!("{}\n", collector.signer.public()).as_bytes());
    put("host.pub", host.to_pem().as_bytes());
    put("other.vkey", format!("{}\n", Collector::new(8).signer.public()).as_bytes());
    put("other.pub", HostKey::from_seed(&[1; 32]).public().to_pem().as_bytes());
    Case { directory, collector, earlier }
}

impl Case {
    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Runs the command in the directory; gives its exit code and what it printed.
    fn verify(&self, line: &str) -> (i32, String, String) {
        let Output { status, stdout, stderr } = Command::new(env!("CARGO_BIN_EXE_interlock"))
            .arg("verify")
            .args(line.split_whitespace())
            .current_dir(self.directory.path())
            .output()
            .expect("runs");
        let text = |bytes| String::from_utf8(bytes).expect("text");
        (status.code().expect("a code"), text(stdout), text(stderr))
    }
}

fn altered(path: &Path) {
    let mut bytes = fs::read(path).expect("read");
    let at = bytes.len() / 3;
    bytes[at] ^= 1;
    fs::write(path, bytes).expect("written");
}

#[test]
fn exit_codes_tell_whole_from_not_whole_from_not_verified() {
    let case = case();
    let (code, out, err) = case.verify("bundle.tar --collector-key ledger.vkey --host-key host.pub");
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
    assert!(out.contains("whole: nothing was altered, nothing is missing"), "{out}");
    assert!(out.contains("13 events, 11 commands"), "{out}");
    assert!(!out.contains('\u{1b}'), "a host's name is not run by the terminal: {out}");

    let (code, out, _) = case.verify("bundle.tar");
    assert_eq!(code, 0, "{out}");
    assert!(out.contains("came out of the bundle itself") && out.contains("BUT NOT BY A KEY"), "{out}");

    for line in [
        "bundle.tar --collector-key other.vkey",
        "bundle.tar --collector-key ledger.vkey --host-key other.pub",
    ] {
        let (code, out, _) = case.verify(line);
        assert_eq!(code, 1, "{line}: {out}");
        assert!(out.contains("NOT WHOLE") && out.contains("signature"), "{out}");
    }
    let (code, out, _) = case.verify("bundle.tar --collector-key other.vkey --json");
    assert_eq!(code, 1);
    let report: serde_json::Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!(report["ok"], false);

    for line in [
        "missing.tar",
        ".",
        "bundle.tar --collector-key missing",
        "bundle.tar --collector-key host.pub",
        "bundle.tar --host-key ledger.vkey",
        "bundle.tar --witness-key ledger.vkey",
        "bundle.tar --checkpoint ledger.vkey",
    ] {
        let (code, out, err) = case.verify(line);
        assert_eq!(code, 3, "{line}: {out} {err}");
        assert!(err.starts_with("interlock: "), "{err}");
    }
    assert_eq!(case.verify("").0, 2);
    altered(&case.path("bundle.tar"));
    assert_eq!(case.verify("bundle.tar --collector-key ledger.vkey").0, 1);
}

#[test]
fn a_checkpoint_that_was_kept_is_compared() {
    let case = case();
    let keys = "--collector-key ledger.vkey --checkpoint kept";
    assert_eq!(case.verify(&format!("proven.tar {keys}")).0, 0);
    let (code, _, err) = case.verify(&format!("bundle.tar {keys}"));
    assert_eq!(code, 3);
    assert!(err.contains("from 2 to 5"), "{err}");
    // The proof comes by another way.
    let plan = Plan::consistency(case.earlier, case.collector.size()).expect("sizes");
    let proof: Vec<_> =
        case.collector.proof(&plan).into_iter().map(interlock_recording::bundle::Base64Hash).collect();
    let proof = serde_json::json!({"first": case.earlier, "second": case.collector.size(), "proof": proof});
    fs::write(case.path("proof.json"), proof.to_string()).expect("written");
    assert_eq!(case.verify(&format!("bundle.tar {keys} --consistency proof.json")).0, 0);
    // Another history under the same key.
    let mut other = Collector::new(7);
    other.enrol(HostKey::from_seed(&[9; 32]).public(), "another");
    fs::write(case.path("kept"), other.checkpoint()).expect("written");
    let (code, out, _) = case.verify(&format!("proven.tar {keys}"));
    assert_eq!(code, 1, "{out}");
    assert!(out.contains("rolled_back") && out.contains("rewritten"), "{out}");
}
