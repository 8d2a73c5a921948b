//! Evidence bundles, from the collector to an auditor's desk.

use std::fs;

use crate::made;
use crate::support::Collector;
use interlock_collector::evidence::{self, EvidenceError};
use interlock_recording::bundle::{Trusted, verify};
use interlock_recording::log::segment_name;
use interlock_recording::{HostKey, SessionId};

#[tokio::test]
async fn a_bundle_proves_its_sessions() {
    let (state, spool) =
        (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
    let collector = Collector::start(state.path()).await;
    let host = HostKey::from_seed(&[42; 32]);
    let identity = collector.enrol(&collector.token().await, &host).await.expect("enrolled");
    let mut log = made::recording(spool.path());
    let (mut call, _) = collector.call(&identity).await.expect("a call");
    let sealed = |number| fs::read(spool.path().join(segment_name(number, true))).expect("a segment");
    for number in 0..2 {
        call.ship(number, &sealed(number)).await.expect("taken");
    }
    let session = SessionId::new(1_700_000_000_000, made::SESSION).to_string();
    let make = async |sessions: &[String]| {
        evidence::write(&collector.intake, sessions, "auditor", "case 7", Vec::new()).await
    };
    // The session goes on in the segment that is still open.
    let error = make(std::slice::from_ref(&session)).await.expect_err("not sealed");
    assert!(matches!(error, EvidenceError::Unsealed { .. }), "{error}");
    log.seal();
    call.ship(2, &sealed(2)).await.expect("taken");

    let (bundle, written) = make(std::slice::from_ref(&session)).await.expect("made");
    assert_eq!((written.segments, written.events), (3, 13));
    let path = spool.path().join("bundle.tar");
    fs::write(&path, &bundle).expect("written");
    let trusted = Trusted {
        collectors: vec![collector.intake.signer.public().clone()],
        hosts: vec![host.public().clone()],
        ..Trusted::default()
    };
    let report = verify(&path, &trusted).expect("a report");
    assert!(report.ok, "{report:?}");
    assert_eq!((report.sessions.len(), report.sessions[0].commands), (1, 11));
    // Neither one byte of it nor another collector's key passes.
    let mut altered = bundle.clone();
    let at = altered.len() / 2;
    altered[at] ^= 1;
    fs::write(&path, &altered).expect("written");
    assert!(verify(&path, &trusted).map_or(true, |report| !report.ok), "an altered bundle is found");

    let error = make(&["00".repeat(16)]).await.expect_err("no such session");
    assert!(matches!(error, EvidenceError::NoSession(_)), "{error}");
    let error = make(&["x".to_owned()]).await.expect_err("no session's id");
    assert!(matches!(error, EvidenceError::NoSession(_)), "{error}");
}
