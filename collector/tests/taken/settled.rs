//! A dispute that an administrator has looked into.

use std::fs;

use crate::intake::{enrolled, host, open, sealed};
use crate::made::{self, Log};
use crate::support::Collector;
use interlock_collector::administer::{self, AdministerError, By};
use interlock_collector::audit;
use interlock_recording::{HostKey, SessionId, hex};
use interlock_shipping::v1::Live;
use tonic::Code;

const ADMIN: By<'static> = By { who: "ada", address: "" };

async fn kinds(collector: &Collector) -> Vec<String> {
    let entries = collector.intake.store.ledger_entries(0, 1000).await.expect("entries");
    entries.into_iter().map(|entry| entry.kind).collect()
}

#[tokio::test]
async fn a_disputed_host_goes_on_under_a_new_key_and_nothing_is_deleted() {
    let (state, spool) =
        (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
    let collector = Collector::start(state.path()).await;
    let identity = enrolled(&collector).await;
    let id = hex(&host().public().fingerprint());
    let nothing = administer::settle_dispute(&collector.intake, ADMIN, &id, "why not", false).await;
    assert!(matches!(nothing, Err(AdministerError::NotFound(_))), "there is no dispute: {nothing:?}");

    let mut log = Log::new(spool.path());
    log.event(true, 20, |body| body.string(3, "10.0.0.7:5432"));
    log.command("DROP TABLE evidence");
    log.head();
    let (mut call, _) = collector.call(&identity).await.expect("a call");
    call.live(open(spool.path(), 0)).await.expect("taken");
    let again = tempfile::tempdir().expect("a directory");
    let mut forged = Log::new(again.path());
    forged.event(true, 20, |body| body.string(3, "10.0.0.7:5432"));
    forged.command("SELECT 1");
    forged.head();
    forged.seal();
    call.ship(0, &sealed(again.path(), 0)).await.expect_err("disputed");

    let intake = &collector.intake;
    administer::settle_dispute(intake, ADMIN, &id, "rewritten by root; host rebuilt", false)
        .await
        .expect("settled");
    let agent = intake.store.agent(&id).await.expect("read").expect("an agent");
    assert!(agent.closed && !agent.active && agent.dispute.is_none());
    // What came first, what was forged, and what was found are all still there.
    let session = SessionId::new(1_700_000_000_000, made::SESSION).to_string();
    let events = intake.archive.session_events(&intake.store, &session, None, 100).await.expect("events");
    assert_eq!(events.len(), 2);
    let disputed: Vec<_> = fs::read_dir(state.path().join("disputed")).expect("evidence").flatten().collect();
    assert_eq!(fs::read_dir(disputed[0].path()).expect("files").count(), 1);
    let kinds = kinds(&collector).await;
    assert!(kinds.ends_with(&["finding".into(), "dispute_settled".into()]), "{kinds:?}");
    let report = audit::verify(intake, None).await.expect("a report");
    assert!(report.ok, "{report:?}");
    let twice = administer::settle_dispute(intake, ADMIN, &id, "once more", true).await;
    assert!(matches!(twice, Err(AdministerError::NotFound(_))), "what has ended does not go on: {twice:?}");

    // Whoever has the old key gets nowhere with it, not even with a new token.
    let refused = collector.call(&identity).await.err().expect("refused");
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    let token = collector.token().await;
    let refused = collector.enrol(&token, &host()).await.err().expect("refused");
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    assert!(refused.message().contains("move its state directory away"), "{refused}");
    // The token was not used up by that, and a new key makes a new recording.
    let key = HostKey::from_seed(&[43; 32]);
    let identity = collector.enrol(&token, &key).await.expect("enrolled");
    let fresh = tempfile::tempdir().expect("a directory");
    let mut log = Log::of(fresh.path(), key);
    log.session = [6; 10];
    log.event(true, 20, |body| body.string(3, "10.0.0.7:5432"));
    log.head();
    log.seal();
    let (mut call, _) = collector.call(&identity).await.expect("a call");
    assert_eq!(call.ship(0, &sealed(fresh.path(), 0)).await.expect("taken").next_segment, 1);
    assert_eq!(intake.store.agents().await.expect("agents").len(), 2);
}

#[tokio::test]
async fn a_recording_that_is_in_order_again_may_go_on_and_only_that() {
    let (state, spool) =
        (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
    let collector = Collector::start(state.path()).await;
    let identity = enrolled(&collector).await;
    let id = hex(&host().public().fingerprint());
    let mut log = made::recording(spool.path());
    let (mut call, _) = collector.call(&identity).await.expect("a call");
    for number in 0..2 {
        call.ship(number, &sealed(spool.path(), number)).await.expect("taken");
    }
    // Somebody starts the host from a snapshot.
    let back = tempfile::tempdir().expect("a directory");
    let mut older = Log::new(back.path());
    older.event(true, 20, |body| body.string(3, "10.0.0.7:5432"));
    older.head();
    let live = Live { first_index: 10, records: Vec::new().into(), ..open(back.path(), 0) };
    let refused = call.live(live.clone()).await.expect_err("disputed");
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    collector.call(&identity).await.err().expect("refused");

    // And puts back the disk that the host really had.
    administer::settle_dispute(&collector.intake, ADMIN, &id, "the right disk is back", true)
        .await
        .expect("settled");
    let (mut call, taken) = collector.call(&identity).await.expect("a call");
    assert_eq!((taken.next_segment, taken.next_index), (2, 10), "it goes on where it was");
    log.seal();
    assert_eq!(call.ship(2, &sealed(spool.path(), 2)).await.expect("taken").next_segment, 3);
    assert!(audit::verify(&collector.intake, None).await.expect("a report").ok);
    assert!(kinds(&collector).await.contains(&"dispute_settled".to_owned()));
    // The other recording is no more taken than before.
    let refused = call.live(live).await.expect_err("disputed again");
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
}
