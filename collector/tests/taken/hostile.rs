//! What an insider with root on a host, and its key, tries.

use std::fs;
use std::path::Path;

use interlock_collector::config::{Config, Retention};
use interlock_collector::keeper::Keeper;
use interlock_collector::store::NewHold;
use interlock_collector::{audit, retention, serve};
use interlock_recording::{HostKey, SessionId, hex};
use interlock_shipping::v1::RenewRequest;
use interlock_shipping::v1::shipping_client::ShippingClient;
use rcgen::KeyPair;
use tonic::Code;

use crate::intake::{enrolled, host, open, sealed};
use crate::kept::IS_DIRECTORY;
use crate::made::{self, Log};
use crate::support::{Collector, Identity, request, run_sql};

fn directories() -> (tempfile::TempDir, tempfile::TempDir) {
    (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"))
}

/// A log that begins with a flow and these commands, with HEAD at its end.
fn log<'d>(directory: &'d Path, commands: &[&str]) -> Log<'d> {
    let mut log = Log::new(directory);
    log.event(true, 20, |body| body.string(3, "10.0.0.7:5432"));
    for command in commands {
        log.command(command);
    }
    log.head();
    log
}

async fn disputed(collector: &Collector) -> bool {
    collector.intake.store.agents().await.expect("agents")[0].dispute.is_some()
}

#[tokio::test]
async fn sealing_less_than_was_shipped_live_is_found() {
    let (state, spool) = directories();
    let collector = Collector::start(state.path()).await;
    let identity = enrolled(&collector).await;
    log(spool.path(), &["SELECT 1", "DROP TABLE evidence", "SELECT 2"]);
    let (mut call, _) = collector.call(&identity).await.expect("a call");
    call.live(open(spool.path(), 0)).await.expect("taken");
    // The log is written anew, and sealed before the place where it would be compared.
    let again = tempfile::tempdir().expect("a directory");
    log(again.path(), &["SELECT 1"]).seal();
    let refused = call.ship(0, &sealed(again.path(), 0)).await.expect_err("refused");
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    assert!(disputed(&collector).await);
    let session = SessionId::new(1_700_000_000_000, made::SESSION).to_string();
    let store = &collector.intake.store;
    let events = collector.intake.archive.session_events(store, &session, None, 99).await.expect("events");
    assert_eq!(events.len(), 4, "what came first stays");
}

#[tokio::test]
async fn live_records_are_of_the_segment_that_is_due() {
    let (state, spool) = directories();
    let collector = Collector::start(state.path()).await;
    let identity = enrolled(&collector).await;
    log(spool.path(), &["SELECT 1"]);
    for wrong in [1, u64::MAX, 1 << 63] {
        let (mut call, _) = collector.call(&identity).await.expect("a call");
        let mut live = open(spool.path(), 0);
        live.segment = wrong;
        let refused = call.live(live).await.expect_err("refused");
        assert_eq!(refused.code(), Code::Aborted, "{refused}");
    }
    let (mut call, _) = collector.call(&identity).await.expect("a call");
    call.live(open(spool.path(), 0)).await.expect("taken");
    assert!(!disputed(&collector).await);
}

#[tokio::test]
async fn a_revoked_host_does_not_come_back_by_an_old_token() {
    let state = tempfile::tempdir().expect("a directory");
    let collector = Collector::start(state.path()).await;
    let token = collector.token_for(100, 3600).await;
    collector.enrol(&token, &host()).await.expect("enrolled");
    let mut write = collector.intake.store.write().await.expect("writes");
    write.revoke_agent(&hex(&host().public().fingerprint())).await.expect("revoked");
    write.commit().await.expect("committed");
    let refused = collector.enrol(&token, &host()).await.err().expect("refused");
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    collector.enrol(&token, &HostKey::from_seed(&[1; 32])).await.expect("others are enrolled by it");
    collector.enrol(&collector.token().await, &host()).await.expect("a new token brings it back");
}

#[tokio::test]
async fn a_host_keeps_the_name_that_it_was_first_enrolled_by() {
    let state = tempfile::tempdir().expect("a directory");
    let collector = Collector::start(state.path()).await;
    let token = collector.token().await;
    collector.enrol(&token, &host()).await.expect("enrolled");
    let key = KeyPair::generate().expect("a key");
    collector.enrol_as(&token, &host(), &host(), &key, "kept-for-a-day").await.expect("enrolled again");
    assert_eq!(collector.intake.store.agents().await.expect("agents")[0].name, "bastion");
}

#[tokio::test]
async fn lost_answers_to_renewals_lock_nobody_out() {
    let state = tempfile::tempdir().expect("a directory");
    let collector = Collector::start(state.path()).await;
    let first = enrolled(&collector).await;
    let mut last = None;
    for _ in 0..3 {
        let key = KeyPair::generate().expect("a key");
        let mut client = ShippingClient::new(collector.connect(Some(&first)).await);
        let request = RenewRequest { certificate_request: request(&key) };
        let renewed = client.renew(request).await.expect("the first one still counts").into_inner();
        last = Some(Identity { key, certificate: renewed.certificate });
    }
    collector.call(&last.expect("renewed")).await.expect("the last one counts");
    assert!(collector.call(&first).await.is_err(), "and ends the first");
}

#[tokio::test]
async fn a_wrong_clock_takes_nothing_out_of_a_hold() {
    let (state, spool) = directories();
    let collector = Collector::start(state.path()).await;
    let identity = enrolled(&collector).await;
    made::recording(spool.path());
    let (mut call, _) = collector.call(&identity).await.expect("a call");
    call.ship(0, &sealed(spool.path(), 0)).await.expect("taken");
    // The host says that it was 2023; it came today, and is under a hold of this year. Its rule's time is over.
    let intake = &collector.intake;
    let mut write = intake.store.write().await.expect("writes");
    let now = interlock_collector::store::now_ns();
    let year = 365 * 86_400 * 1_000_000_000_i64;
    let hold = NewHold { label: "case", host: "", from_ns: now - year, until_ns: i64::MAX, by: "legal" };
    write.add_hold(&hold).await.expect("held");
    write.commit().await.expect("committed");
    run_sql(state.path(), "UPDATE segments SET received_ns = received_ns - 864000000000000").await;
    let rule = Retention { name: "short".into(), hosts: Vec::new(), keep_days: 1 };
    assert_eq!(retention::apply(intake, std::slice::from_ref(&rule)).await.expect("applied"), 0);
}

#[tokio::test]
async fn a_host_that_was_put_back_is_found_when_it_says_hello() {
    let (state, spool) = directories();
    let collector = Collector::start(state.path()).await;
    let identity = enrolled(&collector).await;
    log(spool.path(), &["SELECT 1", "SELECT 2"]);
    let (mut call, _) = collector.call(&identity).await.expect("a call");
    call.live(open(spool.path(), 0)).await.expect("taken");
    let back = tempfile::tempdir().expect("a directory");
    log(back.path(), &[]);
    let head = fs::read(back.path().join("HEAD")).expect("HEAD");
    let refused = collector.call_with(&identity, head, 0).await.err().expect("refused");
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    assert!(disputed(&collector).await);
}

#[tokio::test]
async fn segments_that_were_removed_unshipped_are_found() {
    let state = tempfile::tempdir().expect("a directory");
    let collector = Collector::start(state.path()).await;
    let identity = enrolled(&collector).await;
    for _ in 0..2 {
        let refused = collector.call_with(&identity, Vec::new(), 3).await.err().expect("refused");
        assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    }
    assert_eq!(collector.intake.store.totals().await.expect("totals").findings, 1, "once");
}

#[tokio::test]
async fn another_hosts_session_is_not_added_to() {
    let (state, spool) = directories();
    let collector = Collector::start(state.path()).await;
    let honest = collector.enrol(&collector.token().await, &host()).await.expect("enrolled");
    let (mut call, _) = collector.call(&honest).await.expect("a call");
    log(spool.path(), &["SELECT 1"]);
    call.live(open(spool.path(), 0)).await.expect("taken");
    let other = tempfile::tempdir().expect("a directory");
    let thief = HostKey::from_seed(&[7; 32]);
    let mut forged = Log::of(other.path(), HostKey::from_seed(&[7; 32]));
    forged.event(true, 20, |body| body.string(3, "10.0.0.7:5432"));
    forged.command("DROP TABLE blame");
    forged.head();
    let identity = collector.enrol(&collector.token().await, &thief).await.expect("enrolled");
    let (mut call, _) = collector.call(&identity).await.expect("a call");
    call.live(open(other.path(), 0)).await.expect("taken: it is its own recording");
    let session = SessionId::new(1_700_000_000_000, made::SESSION).to_string();
    assert_eq!(collector.intake.store.command_count(&session).await.expect("a count"), 1);
    assert_eq!(collector.intake.store.totals().await.expect("totals").findings, 1);
}

#[tokio::test]
async fn live_records_that_are_removed_are_missed() {
    let (state, spool) = directories();
    let collector = Collector::start(state.path()).await;
    let identity = enrolled(&collector).await;
    log(spool.path(), &["SELECT 1", "SELECT 2"]);
    let (mut call, _) = collector.call(&identity).await.expect("a call");
    call.live(open(spool.path(), 0)).await.expect("taken");
    serve::enter_heads(&collector.intake).await.expect("entered");
    serve::enter_heads(&collector.intake).await.expect("once only");
    let report = audit::verify(&collector.intake, None).await.expect("a report");
    assert!(report.ok, "{report:?}");
    assert_eq!(report.entries, 3, "begun, enrolled, HEAD");
    run_sql(state.path(), "DELETE FROM live_records").await;
    let report = audit::verify(&collector.intake, None).await.expect("a report");
    assert!(report.problems.iter().any(|problem| problem.contains("removed")), "{report:?}");
}

#[tokio::test]
async fn a_database_that_was_put_back_does_not_go_on() {
    if !IS_DIRECTORY {
        return;
    }
    let (state, spool) = directories();
    let config = Config {
        state: state.path().join("state"),
        name: Some("collector.test".into()),
        checkpoints: Some(spool.path().into()),
        ..Config::default()
    };
    let database = config.state.join("collector.db");
    let copy = state.path().join("copy.db");
    let keeper = Keeper::new(&config.state, config.checkpoints.clone());
    let enter = async |seed: u8| {
        let collector = Collector::start(&config.state).await;
        collector.enrol(&collector.token().await, &HostKey::from_seed(&[seed; 32])).await.expect("enrolled");
        let mut write = collector.intake.store.write().await.expect("writes");
        let note = write.sign_checkpoint(&collector.intake.signer).await.expect("signed");
        write.commit().await.expect("committed");
        collector.intake.store.close().await;
        run_sql(&config.state, "PRAGMA wal_checkpoint(TRUNCATE)").await;
        note
    };
    keeper.keep(&enter(1).await).expect("kept");
    fs::copy(&database, &copy).expect("copied");
    keeper.keep(&enter(2).await).expect("kept");
    let parts = serve::open(&config).await.expect("opened");
    keeper.check(&parts.intake).await.expect("it goes on");
    parts.intake.store.close().await;
    // The database is put back, and something else is entered in the place of what was.
    for file in ["collector.db-wal", "collector.db-shm"] {
        let _ = fs::remove_file(config.state.join(file));
    }
    fs::copy(&copy, &database).expect("put back");
    let parts = serve::open(&config).await.expect("opened");
    let error = keeper.check(&parts.intake).await.expect_err("put back");
    assert!(format!("{error:#}").contains("put back"), "{error:#}");
    parts.intake.store.close().await;
    let forged = enter(3).await;
    let parts = serve::open(&config).await.expect("opened");
    assert!(keeper.check(&parts.intake).await.is_err(), "other entries in the place of those that were");
    let error = keeper.keep(&forged).expect_err("another checkpoint over as many entries");
    assert!(format!("{error:#}").contains("another checkpoint"), "{error:#}");
}
