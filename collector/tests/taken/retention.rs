//! Retention, legal holds and tombstones.

use std::fs;

use interlock_collector::archive::{ArchiveError, SegmentFile};
use interlock_collector::config::Retention;
use interlock_collector::store::NewHold;
use interlock_collector::{audit, retention};
use interlock_recording::log::segment_name;
use interlock_recording::{HostKey, SessionId, hex};

use crate::made;
use crate::support::{Collector, run_sql};

#[tokio::test]
async fn what_is_too_old_is_deleted_and_its_tombstone_stays() {
    let (state, spool) =
        (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
    let collector = Collector::start(state.path()).await;
    let host = HostKey::from_seed(&[42; 32]);
    let id = hex(&host.public().fingerprint());
    let identity = collector.enrol(&collector.token().await, &host).await.expect("enrolled");
    let mut log = made::recording(spool.path());
    log.seal();
    let (mut call, _) = collector.call(&identity).await.expect("a call");
    for number in 0..3 {
        let file = fs::read(spool.path().join(segment_name(number, true))).expect("a segment");
        call.ship(number, &file).await.expect("taken");
    }
    let intake = &collector.intake;
    let rule = |name: &str, hosts: &[&str], keep_days| Retention {
        name: name.into(),
        hosts: hosts.iter().map(|&host| host.to_owned()).collect(),
        keep_days,
    };
    // The events are from 2023 by the host's clock; they came today, so nothing is too old yet.
    assert_eq!(retention::apply(intake, &[rule("year", &[], 365)]).await.expect("applied"), 0);
    run_sql(state.path(), "UPDATE segments SET received_ns = received_ns - 34560000000000000").await;
    let mut write = intake.store.write().await.expect("writes");
    let hold = NewHold { label: "case 7", host: &id, from_ns: 0, until_ns: i64::MAX, by: "legal" };
    let hold = write.add_hold(&hold).await.expect("held");
    write.commit().await.expect("committed");
    let rules = [rule("others", &["elsewhere"], 1), rule("year", &["bastion"], 365)];
    assert_eq!(retention::apply(intake, &rules).await.expect("applied"), 0, "a hold comes first");
    let mut write = intake.store.write().await.expect("writes");
    assert_eq!(write.release_hold(hold, "legal").await.expect("released").as_deref(), Some("case 7"));
    assert_eq!(write.release_hold(hold, "legal").await.expect("once only"), None);
    write.commit().await.expect("committed");
    assert_eq!(retention::apply(intake, &rules[..1]).await.expect("applied"), 0, "no rule for this host");
    assert_eq!(retention::apply(intake, &rules).await.expect("applied"), 3);
    assert_eq!(retention::apply(intake, &rules).await.expect("applied"), 0);
    for segment in intake.store.segments(&id, 0, 2).await.expect("segments") {
        let file =
            SegmentFile::new(&id, segment.number, segment.bytes, &segment.file_sha256).expect("a hash");
        let gone = intake.archive.fetch(&file).await;
        assert!(matches!(gone, Err(ArchiveError::Missing { .. })), "{gone:?}");
    }
    let session = SessionId::new(1_700_000_000_000, made::SESSION).to_string();
    assert_eq!(intake.store.command_count(&session).await.expect("a count"), 0);
    assert!(intake.store.session_place(&session).await.expect("read").is_none());
    // What was there, and that it was deleted, stays proven.
    let report = audit::verify(intake, None).await.expect("a report");
    assert!(report.ok, "{report:?}");
    assert_eq!((report.segments, report.deleted), (0, 3));
    // The recording goes on behind it.
    log.event(false, 11, |_| {});
    log.head();
    log.seal();
    let file = fs::read(spool.path().join(segment_name(3, true))).expect("a segment");
    assert_eq!(call.ship(3, &file).await.expect("taken").next_segment, 4);
    let report = audit::verify(intake, None).await.expect("a report");
    assert!(report.ok, "{report:?}");
    assert_eq!((report.segments, report.deleted), (1, 3));
}
