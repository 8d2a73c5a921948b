//! Taking in: over real TLS and HTTP/2, with agents that are honest, interrupted, or hostile.

use std::fs;
use std::io::Read as _;
use std::path::Path;

use crate::kept::IS_DIRECTORY;
use crate::made::{self, Log};
use crate::support::{Collector, Identity, request, run_sql};
use interlock_collector::archive::SegmentFile;
use interlock_collector::config::Config;
use interlock_collector::{audit, serve};
use interlock_recording::HostKey;
use interlock_recording::log::segment_name;
use interlock_recording::proto::SegmentHeader;
use interlock_recording::segment::SegmentReader;
use interlock_shipping::v1::shipping_client::ShippingClient;
use interlock_shipping::v1::to_collector::Message;
use interlock_shipping::v1::{Live, RenewRequest, SealedPart};
use prost::Message as _;
use rcgen::KeyPair;
use tonic::Code;

pub(crate) fn sealed(directory: &Path, number: u64) -> Vec<u8> {
    fs::read(directory.join(segment_name(number, true))).expect("a sealed segment")
}

/// The records of an open segment from its beginning, with HEAD.
pub(crate) fn open(directory: &Path, number: u64) -> Live {
    let path = directory.join(segment_name(number, false));
    let content = fs::read(&path).expect("an open segment");
    let header: SegmentHeader = SegmentReader::open(&path).expect("opens").header().clone();
    let bytes = header.encode_to_vec();
    let begin = 12 + bytes.len();
    Live {
        segment: number,
        first_index: header.first_index,
        header: bytes,
        records: content[begin..].to_vec().into(),
        head: fs::read(directory.join("HEAD")).expect("HEAD"),
    }
}

pub(crate) fn host() -> HostKey {
    HostKey::from_seed(&[42; 32])
}

pub(crate) async fn enrolled(collector: &Collector) -> Identity {
    collector.enrol(&collector.token().await, &host()).await.expect("enrolled")
}

async fn counts(collector: &Collector) -> (i64, i64) {
    let session = interlock_recording::SessionId::new(1_700_000_000_000, made::SESSION).to_string();
    let events = collector
        .intake
        .archive
        .session_events(&collector.intake.store, &session, None, 10_000)
        .await
        .expect("events");
    let mut indexes: Vec<u64> = events.iter().map(|event| event.index).collect();
    let all = indexes.len() as i64;
    indexes.dedup();
    assert_eq!(indexes.len() as i64, all, "an event came twice");
    (all, collector.intake.store.command_count(&session).await.expect("a count"))
}

#[tokio::test]
async fn a_recording_comes_in_once_live_and_sealed() {
    let (state, spool) =
        (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
    let collector = Collector::start(state.path()).await;
    let identity = enrolled(&collector).await;
    let mut log = made::recording(spool.path());
    let (mut call, taken) = collector.call(&identity).await.expect("a call");
    assert_eq!((taken.next_segment, taken.next_index), (0, 0));
    let taken = call.ship(0, &sealed(spool.path(), 0)).await.expect("taken");
    assert_eq!((taken.next_segment, taken.next_index), (1, 6));
    let taken = call.ship(1, &sealed(spool.path(), 1)).await.expect("taken");
    assert_eq!((taken.next_segment, taken.next_index), (2, 10));
    // The third is still open.
    let taken = call.live(open(spool.path(), 2)).await.expect("taken");
    assert_eq!((taken.next_segment, taken.next_index), (2, 14));
    assert_eq!(counts(&collector).await, (13, 11));
    // The agent is killed and comes again.
    drop(call);
    let (mut call, taken) = collector.call(&identity).await.expect("a call");
    assert_eq!((taken.next_segment, taken.next_index), (2, 14));
    log.seal();
    let taken = call.ship(2, &sealed(spool.path(), 2)).await.expect("taken");
    assert_eq!((taken.next_segment, taken.next_index), (3, 14));
    assert_eq!(counts(&collector).await, (13, 11), "what came live is not indexed again");
    let report = audit::verify(&collector.intake, None).await.expect("a report");
    assert!(report.ok, "{report:?}");
    assert_eq!((report.segments, report.events), (3, 14));
    let id = interlock_recording::hex(&host().public().fingerprint());
    let kept = collector.intake.store.segments(&id, 1, 1).await.expect("read").pop().expect("a segment");
    let kept = SegmentFile::new(&id, 1, kept.bytes, &kept.file_sha256).expect("a hash");
    let mut content = Vec::new();
    let mut file = collector.intake.archive.fetch_kept(&kept).await.expect("kept");
    file.read_to_end(&mut content).expect("read");
    assert_eq!(content, sealed(spool.path(), 1), "byte for byte");
}

#[tokio::test]
async fn a_token_counts_once() {
    let state = tempfile::tempdir().expect("a directory");
    let collector = Collector::start(state.path()).await;
    let token = collector.token().await;
    let other = HostKey::from_seed(&[1; 32]);
    collector.enrol(&token, &host()).await.expect("enrolled");
    // The answer was lost: the same host asks again.
    collector.enrol(&token, &host()).await.expect("enrolled again");
    let refused = collector.enrol(&token, &other).await.err().expect("refused");
    assert_eq!(refused.code(), Code::PermissionDenied);
    let expired = collector.token_for(5, -1).await;
    assert_eq!(
        collector.enrol(&expired, &other).await.err().map(|status| status.code()),
        Some(Code::PermissionDenied)
    );
    let many = collector.token_for(2, 60).await;
    collector.enrol(&many, &other).await.expect("enrolled");
    collector.enrol(&many, &HostKey::from_seed(&[2; 32])).await.expect("enrolled");
    assert!(collector.enrol(&many, &HostKey::from_seed(&[3; 32])).await.is_err());
}

#[tokio::test]
async fn nobody_enrols_a_host_without_its_key() {
    let state = tempfile::tempdir().expect("a directory");
    let collector = Collector::start(state.path()).await;
    let token = collector.token().await;
    let thief = HostKey::from_seed(&[9; 32]);
    let key = KeyPair::generate().expect("a key");
    let refused = collector.enrol_with(&token, &host(), &thief, &key).await.expect_err("refused");
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    collector.enrol(&token, &host()).await.expect("the token was not used up by that");
}

#[tokio::test]
async fn without_a_certificate_nothing_is_taken() {
    let state = tempfile::tempdir().expect("a directory");
    let collector = Collector::start(state.path()).await;
    let mut client = ShippingClient::new(collector.connect(None).await);
    let refused = client.renew(RenewRequest::default()).await.expect_err("refused");
    assert_eq!(refused.code(), Code::Unauthenticated);
    let refused = client.ship(tokio_stream::empty()).await.expect_err("refused");
    assert_eq!(refused.code(), Code::Unauthenticated);
}

#[tokio::test]
async fn a_revoked_host_is_cut_off() {
    let (state, spool) =
        (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
    let collector = Collector::start(state.path()).await;
    let identity = enrolled(&collector).await;
    made::recording(spool.path());
    let (mut call, _) = collector.call(&identity).await.expect("a call");
    let mut write = collector.intake.store.write().await.expect("writes");
    let id = interlock_recording::hex(&host().public().fingerprint());
    assert!(write.revoke_agent(&id).await.expect("revoked"));
    write.commit().await.expect("committed");
    let ended = call.hear().await.expect_err("the call that goes on is ended");
    assert_eq!(ended.code(), Code::PermissionDenied, "{ended}");
    let refused = collector.call(&identity).await.err().expect("refused");
    assert_eq!(refused.code(), Code::PermissionDenied);
}

#[tokio::test]
async fn a_renewed_certificate_ends_the_one_before() {
    let state = tempfile::tempdir().expect("a directory");
    let collector = Collector::start(state.path()).await;
    let first = enrolled(&collector).await;
    let key = KeyPair::generate().expect("a key");
    let mut client = ShippingClient::new(collector.connect(Some(&first)).await);
    let renewed = client.renew(RenewRequest { certificate_request: request(&key) }).await.expect("renewed");
    let second = Identity { key, certificate: renewed.into_inner().certificate };
    // The answer may have been lost: the first one still counts.
    collector.call(&first).await.expect("still counts");
    collector.call(&second).await.expect("counts");
    let refused = collector.call(&first).await.err().expect("refused");
    assert_eq!(refused.code(), Code::PermissionDenied);
}

#[tokio::test]
async fn what_was_shipped_live_cannot_be_rewritten() {
    let (state, spool) =
        (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
    let collector = Collector::start(state.path()).await;
    let identity = enrolled(&collector).await;
    let mut log = Log::new(spool.path());
    log.event(true, 20, |body| body.string(3, "10.0.0.7:5432"));
    log.command("DROP TABLE evidence");
    log.head();
    let (mut call, _) = collector.call(&identity).await.expect("a call");
    call.live(open(spool.path(), 0)).await.expect("taken");
    // Root on the host has the key, and writes the recording anew.
    let again = tempfile::tempdir().expect("a directory");
    let mut log = Log::new(again.path());
    log.event(true, 20, |body| body.string(3, "10.0.0.7:5432"));
    log.command("SELECT 1");
    log.head();
    log.seal();
    let refused = call.ship(0, &sealed(again.path(), 0)).await.expect_err("refused");
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    assert!(refused.message().contains("rewritten"), "{refused}");
    // Nothing more is taken, the events that came first are still there, and so is the forgery.
    let refused = collector.call(&identity).await.err().expect("refused");
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert_eq!(counts(&collector).await, (2, 1));
    if IS_DIRECTORY {
        let disputed = state.path().join("disputed");
        let hosts: Vec<_> = fs::read_dir(disputed).expect("evidence").flatten().collect();
        assert_eq!(fs::read_dir(hosts[0].path()).expect("files").count(), 1);
    }
    let kinds: Vec<String> = collector
        .intake
        .store
        .ledger_entries(0, 100)
        .await
        .expect("entries")
        .into_iter()
        .map(|entry| entry.kind)
        .collect();
    assert!(kinds.contains(&"finding".to_owned()), "{kinds:?}");
}

#[tokio::test]
async fn a_log_that_was_put_back_is_found() {
    let (state, spool) =
        (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
    let collector = Collector::start(state.path()).await;
    let identity = enrolled(&collector).await;
    made::recording(spool.path());
    let (mut call, _) = collector.call(&identity).await.expect("a call");
    for number in 0..2 {
        call.ship(number, &sealed(spool.path(), number)).await.expect("taken");
    }
    call.live(open(spool.path(), 2)).await.expect("taken");
    // The host's disk is put back, and its agent goes on from there with an older HEAD.
    let back = tempfile::tempdir().expect("a directory");
    let mut log = Log::new(back.path());
    log.event(true, 20, |body| body.string(3, "10.0.0.7:5432"));
    log.head();
    let live = Live { first_index: 14, records: Vec::new().into(), ..open(back.path(), 0) };
    let refused = call.live(live).await.expect_err("refused");
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("put back"), "{refused}");
}

#[tokio::test]
async fn another_hosts_recording_is_not_taken() {
    let (state, spool) =
        (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
    let collector = Collector::start(state.path()).await;
    let other =
        collector.enrol(&collector.token().await, &HostKey::from_seed(&[1; 32])).await.expect("enrolled");
    made::recording(spool.path());
    let (mut call, _) = collector.call(&other).await.expect("a call");
    let refused = call.ship(0, &sealed(spool.path(), 0)).await.expect_err("refused");
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    assert_eq!(
        collector
            .intake
            .store
            .segments(&interlock_recording::hex(&host().public().fingerprint()), 0, 9)
            .await
            .expect("read")
            .len(),
        0
    );
}

#[tokio::test]
async fn what_comes_out_of_order_is_not_taken_and_comes_again() {
    let (state, spool) =
        (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
    let collector = Collector::start(state.path()).await;
    let identity = enrolled(&collector).await;
    made::recording(spool.path());
    let file = sealed(spool.path(), 0);
    // A later segment first; a part twice; half a segment, then the next one; a wrong offset.
    let part = |segment, offset, from: usize, to: usize, last| {
        Message::Sealed(SealedPart { segment, offset, data: file[from..to].to_vec().into(), last })
    };
    let wrong: [&[Message]; 4] = [
        &[part(1, 0, 0, 10, false)],
        &[part(0, 0, 0, 10, false), part(0, 0, 0, 10, false)],
        &[part(0, 0, 0, 10, false), part(1, 0, 0, 10, false)],
        &[part(0, 5, 5, 10, false)],
    ];
    for messages in wrong {
        let (mut call, _) = collector.call(&identity).await.expect("a call");
        for message in messages {
            call.say(message.clone()).await;
        }
        let ended = call.hear().await.expect_err("ended");
        assert_eq!(ended.code(), Code::Aborted, "{ended}");
    }
    // Cut off in the middle, and then once more as a whole.
    let (call, _) = collector.call(&identity).await.expect("a call");
    call.say(part(0, 0, 0, 100, false)).await;
    drop(call);
    let (mut call, taken) = collector.call(&identity).await.expect("a call");
    assert_eq!(taken.next_segment, 0);
    assert_eq!(call.ship(0, &file).await.expect("taken").next_segment, 1);
    // Live records that leave some out.
    let refused = call.live(Live { first_index: 8, ..open(spool.path(), 2) }).await.expect_err("refused");
    assert_eq!(refused.code(), Code::Aborted, "{refused}");
    assert!(collector.intake.store.agents().await.expect("agents")[0].dispute.is_none());
    // Nothing is left of what did not come to its end. The call above may just be ending.
    for _ in 0..100 {
        if fs::read_dir(collector.config.state.join("incoming")).expect("a directory").count() == 0 {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    panic!("incoming files are left");
}

#[tokio::test]
async fn damage_to_what_is_kept_is_found() {
    if !IS_DIRECTORY {
        return;
    }
    let (state, spool) =
        (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
    let collector = Collector::start(state.path()).await;
    let identity = enrolled(&collector).await;
    made::recording(spool.path());
    let (mut call, _) = collector.call(&identity).await.expect("a call");
    for number in 0..2 {
        call.ship(number, &sealed(spool.path(), number)).await.expect("taken");
    }
    drop(call);
    let mut write = collector.intake.store.write().await.expect("writes");
    let checkpoint = write.sign_checkpoint(&collector.intake.signer).await.expect("signed");
    write.commit().await.expect("committed");
    let intake = &collector.intake;
    let ok = audit::verify(intake, Some(checkpoint.as_bytes())).await.expect("a report");
    assert!(ok.ok, "{ok:?}");

    let id = interlock_recording::hex(&host().public().fingerprint());
    let path = intake.archive.path(&id, 0);
    let whole = fs::read(&path).expect("read");
    let found = async |what: &str, word: &str| {
        let report = audit::verify(intake, Some(checkpoint.as_bytes())).await.expect("a report");
        assert!(!report.ok, "{what} was not found");
        assert!(report.problems.iter().any(|problem| problem.contains(word)), "{what}: {report:?}");
    };
    for at in [9, whole.len() / 2, whole.len() - 1] {
        let mut altered = whole.clone();
        altered[at] ^= 1;
        fs::write(&path, altered).expect("written");
        found("an altered byte", "altered").await;
    }
    fs::remove_file(&path).expect("removed");
    found("a missing file", "missing").await;
    fs::write(&path, sealed(spool.path(), 1)).expect("written");
    found("an exchanged file", "altered").await;
    fs::write(&path, &whole).expect("written");

    let attacks = [
        ("a removed segment", "DELETE FROM segments WHERE number = 1", "knows nothing"),
        (
            "an altered entry",
            "UPDATE ledger_entries SET entry = x'09ffffffffffffff7f' WHERE number = 2",
            "was altered",
        ),
        ("a cut ledger", "DELETE FROM ledger_entries WHERE number = 3", "end was removed"),
        ("a missing entry", "DELETE FROM ledger_entries WHERE number = 1", "is missing"),
        (
            "an altered node",
            "UPDATE ledger_nodes SET hash = zeroblob(32) WHERE level = 0 AND number = 1",
            "stands in the tree",
        ),
        (
            "an altered checkpoint",
            "UPDATE checkpoints SET note = replace(note, 'collector', 'c0llector')",
            "the checkpoint over",
        ),
        (
            "a ledger put back with its checkpoints",
            "DELETE FROM checkpoints; DELETE FROM ledger_entries WHERE number = 3",
            "no checkpoint, and one was given",
        ),
    ];
    let copy_of = |from: &Path, to: &Path| {
        fs::create_dir_all(to).expect("made");
        for file in fs::read_dir(from).expect("read").flatten() {
            fs::copy(file.path(), to.join(file.file_name())).expect("copied");
        }
    };
    run_sql(state.path(), "PRAGMA wal_checkpoint(TRUNCATE)").await;
    for (what, sql, word) in attacks {
        let copy = tempfile::tempdir().expect("a directory");
        fs::copy(state.path().join("collector.db"), copy.path().join("collector.db")).expect("copied");
        for directory in ["keys", "authority", &format!("segments/{id}")] {
            copy_of(&state.path().join(directory), &copy.path().join(directory));
        }
        run_sql(copy.path(), sql).await;
        let config = Config { state: copy.path().into(), ..collector.config.clone() };
        let parts = serve::open(&config).await.expect("opened");
        let report = audit::verify(&parts.intake, Some(checkpoint.as_bytes())).await.expect("a report");
        assert!(!report.ok, "{what} was not found");
        assert!(report.problems.iter().any(|problem| problem.contains(word)), "{what}: {report:?}");
    }
}
