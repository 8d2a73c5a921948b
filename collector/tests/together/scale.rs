//! Several collectors at once: killed, stopped, without their database or their segments for a while.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use interlock_collector::store::NewSignIn;
use interlock_collector::{audit, serve};
use interlock_recording::{HostKey, SessionId, hex};
use interlock_shipping::v1::ApprovalAnswer;
use interlock_shipping::v1::to_agent::Message as FromCollector;
use interlock_shipping::v1::to_collector::Message;
use rustix::process::Signal;

use crate::intake::{open, sealed};
use crate::kept::{self, Kept};
use crate::made::Log;
use crate::process::Process;
use crate::support::{Collector, Identity};

/// Agents that ship at the same time.
const HOSTS: u8 = 8;
/// Segments of each.
const SEGMENTS: u64 = 12;
/// Commands in each segment.
const COMMANDS: u64 = 5;

/// A host's recording: segments with commands of one session, the last segment open.
fn record(directory: &Path, seed: u8) {
    let mut log = Log::of(directory, HostKey::from_seed(&[seed; 32]));
    log.session = [seed; 10];
    log.event(false, 10, |body| body.string(1, "0.1"));
    log.event(true, 20, |body| body.string(3, "10.0.0.7:5432"));
    for segment in 0..SEGMENTS {
        for number in 0..COMMANDS {
            log.command(&format!("SELECT {segment}, {number}"));
        }
        log.head();
        log.seal();
    }
    log.command("SELECT 'live'");
    log.head();
}

fn session(seed: u8) -> String {
    SessionId::new(1_700_000_000_000, [seed; 10]).to_string()
}

/// Ships everything, to one collector after another until one takes it.
async fn ship(
    doors: Arc<Vec<Collector>>,
    identity: Identity,
    spool: std::path::PathBuf,
    seed: u8,
    shipped: Arc<AtomicU64>,
) {
    let mut at = usize::from(seed);
    loop {
        at += 1;
        let door = &doors[at % doors.len()];
        let done = async {
            let (mut call, mut taken) = door.call(&identity).await?;
            while taken.next_segment < SEGMENTS {
                let next = taken.next_segment;
                taken = call.ship(next, &sealed(&spool, next)).await?;
                assert!(taken.next_segment == next + 1, "it was acknowledged and is not there");
                shipped.fetch_add(1, Ordering::Relaxed);
            }
            if taken.next_index < 2 + SEGMENTS * COMMANDS + 1 {
                call.live(open(&spool, SEGMENTS)).await?;
            }
            Ok::<_, tonic::Status>(())
        };
        // One that was stopped answers nobody.
        match tokio::time::timeout(Duration::from_secs(5), done).await {
            Ok(Ok(())) => return,
            Ok(Err(_)) | Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

/// Everything is there once, and in the ledger.
async fn assert_whole(collector: &Collector) {
    let intake = &collector.intake;
    let report = audit::verify(intake, None).await.expect("a report");
    assert!(report.ok, "{report:?}");
    assert_eq!(report.segments, u64::from(HOSTS) * SEGMENTS);
    assert_eq!(report.events, u64::from(HOSTS) * (2 + SEGMENTS * COMMANDS));
    for seed in 1..=HOSTS {
        let id = session(seed);
        let commands = intake.store.command_count(&id).await.expect("a count");
        assert_eq!(commands as u64, SEGMENTS * COMMANDS + 1, "host {seed}");
        let events = intake.archive.session_events(&intake.store, &id, None, 10_000).await.expect("events");
        let mut indexes: Vec<u64> = events.iter().map(|event| event.index).collect();
        indexes.dedup();
        assert_eq!(indexes.len() as u64, 1 + SEGMENTS * COMMANDS + 1, "host {seed}: each once");
    }
    let findings = intake.store.findings(false, None, 100).await.expect("findings").items;
    assert!(findings.is_empty(), "{findings:?}");
}

struct Several {
    processes: Vec<Process>,
    doors: Arc<Vec<Collector>>,
    own: Collector,
    kept: Kept,
    _state: tempfile::TempDir,
}

/// Three that start at the same time on a database where there is nothing.
async fn three() -> Several {
    let state = tempfile::tempdir().expect("a directory");
    let (config, kept) = kept::config(state.path()).await;
    let mut processes: Vec<Process> =
        (0..3).map(|number| Process::start(&config, &state.path().join(format!("c{number}")))).collect();
    processes.iter_mut().for_each(Process::wait);
    let parts = serve::open_existing(&config).await.expect("opened");
    let doors = processes.iter().map(|process| process.door(&parts.intake, &config, &kept)).collect();
    let own = Collector::elsewhere(parts.intake, config, 0, Arc::clone(&kept));
    Several { processes, doors: Arc::new(doors), own, kept, _state: state }
}

async fn enrol(door: &Collector, seed: u8) -> Identity {
    door.enrol(&door.token().await, &HostKey::from_seed(&[seed; 32])).await.expect("enrolled")
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_three_is_killed_another_stopped_and_nothing_is_lost_or_twice() {
    let mut several = three().await;
    let spools = tempfile::tempdir().expect("a directory");
    let shipped = Arc::new(AtomicU64::new(0));
    let mut agents = tokio::task::JoinSet::new();
    for seed in 1..=HOSTS {
        let spool = spools.path().join(seed.to_string());
        std::fs::create_dir(&spool).expect("made");
        record(&spool, seed);
        let identity = enrol(&several.doors[usize::from(seed) % 3], seed).await;
        agents.spawn(ship(Arc::clone(&several.doors), identity, spool, seed, Arc::clone(&shipped)));
    }
    let reached = async |part: u64| {
        while shipped.load(Ordering::Relaxed) < u64::from(HOSTS) * SEGMENTS * part / 10 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    reached(2).await;
    several.processes[0].signal(Signal::KILL);
    reached(4).await;
    several.processes[1].signal(Signal::STOP);
    reached(5).await;
    // Every connection to the database breaks in the middle of whatever goes on.
    let killed = several
        .kept
        .postgres
        .admin(&format!(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
             WHERE application_name = 'interlock-collector' AND datname = '{}'",
            several
                .own
                .config
                .store
                .as_ref()
                .and_then(|store| store.database.rsplit('/').next())
                .expect("a name")
        ))
        .expect("ended");
    assert_ne!(killed, "0");
    reached(7).await;
    several.processes[1].signal(Signal::CONT);
    while let Some(done) = agents.join_next().await {
        done.expect("shipped");
    }
    assert_whole(&several.own).await;
    // One history, signed: each checkpoint is over the tree that there is, which `verify` has looked at. And another
    // one leads now, if it was the one that was killed.
    let size = several.own.intake.store.ledger_size().await.expect("a size");
    let mut signed = 0;
    while signed < size {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let checkpoints = several.own.intake.store.checkpoints().await.expect("checkpoints");
        signed = checkpoints.last().map_or(0, |(size, _)| *size);
    }
    for process in &several.processes {
        let log = process.log();
        for secret in [interlock_tests::postgres::PASSWORD, interlock_tests::s3::SECRET_KEY] {
            assert!(!log.contains(secret), "a secret is in the log");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_for_an_agent_reaches_it_through_the_collector_it_is_connected_to() {
    let several = three().await;
    let spool = tempfile::tempdir().expect("a directory");
    record(spool.path(), 9);
    let (first, second) = (&several.doors[0], &several.doors[1]);
    let identity = enrol(first, 9).await;
    let (mut call, _) = first.call(&identity).await.expect("a call");
    for number in 0..SEGMENTS {
        call.ship(number, &sealed(spool.path(), number)).await.expect("taken");
    }
    let host = hex(&HostKey::from_seed(&[9; 32]).public().fingerprint());
    let id = *session(9).parse::<SessionId>().expect("an id").as_bytes();
    // Asked of a collector that the agent is not connected to.
    let told = several.own.intake.end_session(&host, id, "ended by anna: enough").await.expect("asked");
    assert!(told);
    match call.hear().await.expect("heard") {
        FromCollector::EndSession(end) => {
            assert_eq!((end.session.as_slice(), end.reason.as_str()), (&id[..], "ended by anna: enough"));
        }
        other => panic!("it was not told: {other:?}"),
    }
    // One who is connected nowhere is told nothing, also not later.
    let told = several.own.intake.end_session(&hex(&[1; 32]), id, "too late").await.expect("asked");
    assert!(!told);
    assert!(several.own.intake.store.orders().await.expect("orders").is_empty());
    // Revoked at one, cut off at the other.
    let by = interlock_collector::administer::By { who: "anna", address: "" };
    interlock_collector::administer::revoke_agent(&second.intake, by, &host, "gone").await.expect("revoked");
    let ended = call.hear().await.expect_err("ended");
    assert_eq!(ended.code(), tonic::Code::PermissionDenied, "{ended}");
    assert!(second.call(&identity).await.is_err(), "and nowhere let in again");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_collectors_tell_the_same_decision_and_it_has_one_answer() {
    let several = three().await;
    let (first, second) = (&several.doors[0], &several.doors[1]);
    let identity = enrol(first, 12).await;
    let (mut one, _) = first.call(&identity).await.expect("a call");
    // An agent whose first collector does not notice that it has gone: both have a call of it.
    let (mut two, _) = second.call(&identity).await.expect("a call");
    let host = hex(&HostKey::from_seed(&[12; 32]).public().fingerprint());
    let told = crate::approvals::request(1);
    let id = interlock_collector::store::approval_id(&host, &told.request, &told.digest);
    for call in [&one, &two] {
        call.say(Message::ApprovalRequest(told.clone())).await;
    }
    crate::approvals::until(&several.own.intake, &id, "pending").await;
    let given = crate::approvals::decides(&several.own.intake, &id, true).await;
    for call in [&mut one, &mut two] {
        match call.hear().await.expect("heard") {
            FromCollector::ApprovalVote(vote) => assert_eq!(vote.vote, given),
            other => panic!("it was not told: {other:?}"),
        }
    }
    let answer = |counted| {
        let why = "another answer".to_owned();
        Message::ApprovalAnswer(ApprovalAnswer { vote: given.clone(), counted, why, missing: 0 })
    };
    two.say(answer(true)).await;
    crate::approvals::answered(&several.own.intake, &given, "counted").await;
    // What the other one hears later changes nothing.
    one.say(answer(false)).await;
    let ended = interlock_shipping::v1::ApprovalStanding {
        request: told.request.clone(),
        digest: told.digest.clone(),
        state: "approved".into(),
        ..interlock_shipping::v1::ApprovalStanding::default()
    };
    one.say(Message::ApprovalStanding(ended)).await;
    crate::approvals::until(&several.own.intake, &id, "approved").await;
    crate::approvals::answered(&several.own.intake, &given, "counted").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_decision_reaches_the_agent_through_the_collector_it_is_connected_to() {
    let several = three().await;
    let (first, second) = (&several.doors[0], &several.doors[1]);
    let identity = enrol(first, 11).await;
    let (mut call, _) = first.call(&identity).await.expect("a call");
    let host = hex(&HostKey::from_seed(&[11; 32]).public().fingerprint());
    let told = crate::approvals::request(1);
    let id = interlock_collector::store::approval_id(&host, &told.request, &told.digest);
    call.say(Message::ApprovalRequest(told)).await;
    crate::approvals::until(&several.own.intake, &id, "pending").await;
    // Decided at a collector that the agent is not connected to.
    let given = crate::approvals::decides(&several.own.intake, &id, false).await;
    match call.hear().await.expect("heard") {
        FromCollector::ApprovalVote(vote) => assert_eq!((&vote.vote, vote.approve), (&given, false)),
        other => panic!("it was not told: {other:?}"),
    }
    // It goes over to another one before it has answered.
    drop(call);
    let (mut call, _) = second.call(&identity).await.expect("a call");
    match call.hear().await.expect("heard") {
        FromCollector::ApprovalVote(vote) => assert_eq!(vote.vote, given),
        other => panic!("it was not told again: {other:?}"),
    }
    let answer = ApprovalAnswer { vote: given.clone(), counted: true, ..ApprovalAnswer::default() };
    call.say(Message::ApprovalAnswer(answer)).await;
    crate::approvals::answered(&several.own.intake, &given, "counted").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_histories_of_one_host_are_never_taken() {
    let several = three().await;
    let (spool, other) =
        (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
    record(spool.path(), 7);
    let mut log = Log::of(other.path(), HostKey::from_seed(&[7; 32]));
    log.session = [7; 10];
    log.event(false, 10, |body| body.string(1, "0.1"));
    log.command("SELECT 'another history'");
    log.head();
    log.seal();
    let (first, second) = (&several.doors[0], &several.doors[1]);
    let identity = enrol(first, 7).await;
    // Both collectors have been told that nothing is there yet.
    let (mut one, _) = first.call(&identity).await.expect("a call");
    let (mut two, _) = second.call(&identity).await.expect("a call");
    let (at_one, at_two) = (sealed(spool.path(), 0), sealed(other.path(), 0));
    let (one, two) = tokio::join!(one.ship(0, &at_one), two.ship(0, &at_two));
    assert!(one.is_ok() != two.is_ok(), "one of them: {one:?} {two:?}");
    let report = audit::verify(&several.own.intake, None).await.expect("a report");
    assert!(report.ok && report.segments == 1, "{report:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_acknowledged_without_the_segments_storage() {
    let state = tempfile::tempdir().expect("a directory");
    let (mut config, kept) = kept::config(state.path()).await;
    let mut s3 =
        tokio::task::spawn_blocking(|| interlock_tests::s3::S3::start().expect("S3")).await.expect("S3");
    config.segments.as_mut().expect("segments").s3.endpoint = Some(s3.endpoint());
    let mut process = Process::start(&config, &state.path().join("c"));
    process.wait();
    let parts = serve::open_existing(&config).await.expect("opened");
    let door = process.door(&parts.intake, &config, &kept);
    let spool = tempfile::tempdir().expect("a directory");
    record(spool.path(), 3);
    let identity = enrol(&door, 3).await;
    let (mut call, _) = door.call(&identity).await.expect("a call");
    call.ship(0, &sealed(spool.path(), 0)).await.expect("taken");
    s3.kill();
    let refused = call.ship(1, &sealed(spool.path(), 1)).await.expect_err("not taken");
    assert_eq!(refused.code(), tonic::Code::Internal, "the agent tries again: {refused}");
    let (_, taken) = door.call(&identity).await.expect("a call");
    assert_eq!(taken.next_segment, 1, "it is not there");
    // Live records go into the database, and are taken; segments when the storage is there again.
    tokio::task::block_in_place(|| s3.restart()).expect("S3");
    let taken = loop {
        let (mut call, _) = door.call(&identity).await.expect("a call");
        if let Ok(taken) = call.ship(1, &sealed(spool.path(), 1)).await {
            break taken;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    assert_eq!(taken.next_segment, 2);
    let report = audit::verify(&parts.intake, None).await.expect("a report");
    assert!(report.ok && report.segments == 2, "{report:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_does_not_fit_does_not_start() {
    let state = tempfile::tempdir().expect("a directory");
    let (config, _kept) = kept::config(state.path()).await;
    let parts = serve::open(&config).await.expect("opened");
    let refused = async |config: &interlock_collector::config::Config, word: &str| {
        let error = serve::open(config).await.err().expect("refused");
        let error = format!("{error:#}");
        assert!(error.contains(word), "{error}");
        assert!(!error.contains(interlock_tests::postgres::PASSWORD), "{error}");
    };
    let mut other = config.clone();
    other.keys = None;
    refused(&other, "`keys` is not set").await;
    other.keys = Some(state.path().join("nothing"));
    refused(&other, "is missing").await;
    // The ledger's key is another.
    let keys = state.path().join("other keys");
    interlock_collector::keys::create(&keys, "collector.test").expect("made");
    other.keys = Some(keys.clone());
    refused(&other, "another ledger's").await;
    // The ledger's is the same, the authority's is not.
    std::fs::copy(state.path().join("shared/ledger.key"), keys.join("ledger.key")).expect("copied");
    refused(&other, "policies.key is").await;
    std::fs::copy(state.path().join("shared/policies.key"), keys.join("policies.key")).expect("copied");
    refused(&other, "other collectors'").await;
    other = config.clone();
    other.name = Some("another".into());
    refused(&other, "this collector's name").await;
    other = config.clone();
    let wrong = state.path().join("wrong");
    std::fs::write(&wrong, "not the password").expect("written");
    other.store.as_mut().expect("a database").password_file = Some(wrong);
    refused(&other, "authentication failed").await;
    // A ledger that was put back is found by what is kept beside the segments.
    let keep = async || {
        let mut keeper = interlock_collector::keeper::Keeper::new(&config.state, None);
        keeper.sign(&parts.intake).await
    };
    keep().await.expect("signed");
    let door = Collector::elsewhere(Arc::clone(&parts.intake), config.clone(), 0, Arc::clone(&_kept));
    kept::run_sql(
        state.path(),
        "DELETE FROM checkpoints; DELETE FROM ledger_entries; DELETE FROM ledger_nodes",
    )
    .await;
    std::fs::remove_file(config.state.join("ledger.checkpoint")).expect("an empty state directory");
    let again = serve::open(&config).await.expect("opened");
    let keeper = interlock_collector::keeper::Keeper::new(&config.state, None);
    let at_ns = i64::MAX;
    let sign_in = NewSignIn {
        token_sha256: "t",
        user: "u",
        expires_ns: at_ns,
        address: "",
        user_agent: "",
        authenticated_ns: 0,
    };
    let mut write = door.intake.store.write().await.expect("writes");
    write.add_sign_in(&sign_in).await.expect("added");
    write.commit().await.expect("committed");
    // The same entry at another time is another entry.
    let error = keeper.check(&again.intake).await.expect_err("put back");
    assert!(format!("{error:#}").contains("put back"), "{error:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_waits_for_its_database() {
    let state = tempfile::tempdir().expect("a directory");
    let (config, kept) = kept::config(state.path()).await;
    // Something that listens and says nothing of use comes first, then the server.
    let port = kept.postgres.port();
    let door = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address");
    let mut away = config.clone();
    let store = away.store.as_mut().expect("a database");
    store.database = store.database.replace(&port.to_string(), &door.port().to_string());
    let mut process = Process::start(&away, &state.path().join("c"));
    while !process.log().contains("is not there") {
        assert!(!process.has_ended(), "it gave up:\n{}", process.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let listener = tokio::net::TcpListener::bind(door).await.expect("the port");
    tokio::spawn(async move {
        while let Ok((mut from, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut to = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.expect("the server");
                drop(tokio::io::copy_bidirectional(&mut from, &mut to).await);
            });
        }
    });
    tokio::task::block_in_place(|| process.wait());
    let ready = std::net::TcpStream::connect(("127.0.0.1", process.web));
    assert!(ready.is_ok());
    assert!(crate::process::run(&process.file(), &["ledger", "list"]).success());
}
