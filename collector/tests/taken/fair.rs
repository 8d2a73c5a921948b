//! Many hosts at once: none keeps the others from being taken, and none has more kept than it may.

use std::collections::HashSet;
use std::fs::File;
use std::path::Path;

use crate::intake::{enrolled, host, open, sealed};
use crate::kept;
use crate::made::{self, Log};
use crate::support::Collector;
use interlock_collector::audit;
use interlock_collector::intake::Quota;
use interlock_collector::store::{Batch, Take, What};
use interlock_recording::proto::Event;
use interlock_recording::segment::SegmentReader;
use interlock_recording::verify::Position;
use interlock_recording::{HostKey, SessionId, hex};
use interlock_shipping::v1::Live;
use interlock_shipping::v1::to_collector::Message;
use prost::Message as _;
use tonic::Code;

async fn bounded(state: &Path, quota: Quota) -> Collector {
    let (config, kept) = kept::config(state).await;
    Collector::start_as(config, kept, quota).await
}

async fn kinds(collector: &Collector) -> Vec<String> {
    let page = collector.intake.store.findings(true, None, 1000).await.expect("findings");
    page.items.into_iter().map(|finding| finding.kind).collect()
}

async fn commands(collector: &Collector) -> i64 {
    let session = SessionId::new(1_700_000_000_000, made::SESSION).to_string();
    collector.intake.store.command_count(&session).await.expect("a count")
}

#[tokio::test]
async fn over_its_bound_a_host_keeps_its_recording_and_ships_it_later() {
    let (state, spool) =
        (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
    made::recording(spool.path());
    let first = sealed(spool.path(), 0);
    let collector = bounded(state.path(), Quota::new(first.len() as u64 + 100, 0)).await;
    let identity = enrolled(&collector).await;
    let (mut call, _) = collector.call(&identity).await.expect("a call");
    call.ship(0, &first).await.expect("taken");
    let refused = call.ship(1, &sealed(spool.path(), 1)).await.expect_err("over the bound");
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    assert!(refused.message().contains("agents.keep_gib_per_host"), "{refused}");
    assert_eq!(kinds(&collector).await, ["quota"]);
    // It comes again and again, and that is found once.
    let (mut call, taken) = collector.call(&identity).await.expect("a call");
    assert_eq!(taken.next_segment, 1);
    call.ship(1, &sealed(spool.path(), 1)).await.expect_err("over the bound");
    assert_eq!(kinds(&collector).await, ["quota"]);
    assert_eq!(collector.intake.store.agents().await.expect("agents")[0].dispute, None);
    drop((call, collector));

    let collector = bounded(state.path(), Quota::new(1 << 30, 0)).await;
    let (mut call, _) = collector.call(&identity).await.expect("a call");
    for number in 1..2 {
        call.ship(number, &sealed(spool.path(), number)).await.expect("there is room");
    }
    let taken = call.live(open(spool.path(), 2)).await.expect("there is room");
    assert_eq!((taken.next_segment, taken.next_index), (2, 14), "nothing is lost");
}

#[tokio::test]
async fn a_host_that_floods_is_slowed_down_and_a_quiet_one_is_not() {
    let (state, noisy, quiet) = (
        tempfile::tempdir().expect("a directory"),
        tempfile::tempdir().expect("a directory"),
        tempfile::tempdir().expect("a directory"),
    );
    // At this rate it would take hours to take what comes.
    let collector = bounded(state.path(), Quota::new(0, 100)).await;
    let flood = enrolled(&collector).await;
    let key = HostKey::from_seed(&[43; 32]);
    let other = collector.enrol(&collector.token().await, &key).await.expect("enrolled");
    let mut log = Log::new(noisy.path());
    log.event(true, 20, |body| body.string(3, "10.0.0.7:5432"));
    log.command(&"x".repeat(10_000));
    log.head();
    let (mut flooding, _) = collector.call(&flood).await.expect("a call");
    flooding.live(open(noisy.path(), 0)).await.expect("the first is taken");
    let skip = open(noisy.path(), 0).records.len();
    log.command(&"y".repeat(300_000));
    log.head();
    let all = open(noisy.path(), 0);
    let more = Live { first_index: 2, header: Vec::new(), records: all.records.slice(skip..), ..all };
    // It does not wait for anything.
    for _ in 0..20 {
        flooding.say(Message::Live(more.clone())).await;
    }
    let mut log = Log::of(quiet.path(), key);
    log.session = [6; 10];
    log.event(true, 20, |body| body.string(3, "10.0.0.7:5432"));
    log.head();
    let (mut call, _) = collector.call(&other).await.expect("a call");
    let taken = call.live(open(quiet.path(), 0)).await.expect("taken while the other one waits");
    assert_eq!(taken.next_index, 1);
    while kinds(&collector).await != ["quota"] {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let agents = collector.intake.store.agents().await.expect("agents");
    assert!(agents.iter().all(|agent| agent.dispute.is_none() && agent.active), "slowed down, no more");
}

/// Everybody's batch is written with others', and what is wrong with one is its own trouble.
#[tokio::test]
async fn one_hosts_bad_records_do_not_fail_the_others() {
    let state = tempfile::tempdir().expect("a directory");
    let collector = Collector::start(state.path()).await;
    let token = collector.token_for(30, 3600).await;
    let mut hosts = Vec::new();
    for number in 0..30_u8 {
        let spool = tempfile::tempdir().expect("a directory");
        let key = HostKey::from_seed(&[100 + number; 32]);
        let identity = collector.enrol(&token, &key).await.expect("enrolled");
        let mut log = Log::of(spool.path(), key);
        // Every third says that a session is its own which is another's.
        let random = if number % 3 == 0 { [1; 10] } else { [100 + number; 10] };
        log.session = random;
        log.event(true, 20, |body| body.string(3, "10.0.0.7:5432"));
        log.command("SELECT 1");
        log.head();
        let mut live = open(spool.path(), 0);
        // Every fifth has altered what it recorded.
        if number % 5 == 0 {
            let mut records = live.records.to_vec();
            let at = records.len() - 40;
            records[at] ^= 1;
            live.records = records.into();
        }
        let (call, _) = collector.call(&identity).await.expect("a call");
        hosts.push((number, call, live));
    }
    let all = hosts.into_iter().map(|(number, mut call, live)| {
        tokio::spawn(async move { (number, call.live(live).await.map(|taken| taken.next_index)) })
    });
    for host in all.collect::<Vec<_>>() {
        let (number, taken) = host.await.expect("ended");
        match taken {
            Ok(index) => assert!(index == 2 && number % 5 != 0, "host {number}"),
            Err(status) => {
                assert!(
                    number % 5 == 0 && status.code() == Code::FailedPrecondition,
                    "host {number}: {status}"
                );
            }
        }
    }
    let agents = collector.intake.store.agents().await.expect("agents");
    let disputed = agents.iter().filter(|agent| agent.dispute.is_some()).count();
    assert_eq!(disputed, 6, "those, and no others");
    assert_eq!(agents.iter().filter(|agent| agent.live.index == 2).count(), 24);
    let claims: HashSet<_> = kinds(&collector).await.into_iter().collect();
    assert!(claims.contains("session"), "one of those who share a session has it: {claims:?}");
}

/// A segment with more events than are indexed at once.
fn long(directory: &Path, events: u64) -> Vec<u8> {
    let mut log = Log::new(directory);
    log.event(true, 20, |body| body.string(3, "10.0.0.7:5432"));
    for number in 1..events {
        log.put(true, 22, |body| {
            body.string(3, &format!("SELECT {number}"));
        });
    }
    log.command("the last");
    log.head();
    log.seal();
    sealed(directory, 0)
}

/// The events of a segment up to `end`, and where they end.
fn beginning(directory: &Path, end: u64) -> (Batch, Position) {
    let file =
        File::open(directory.join(interlock_recording::log::segment_name(0, true))).expect("a segment");
    let mut reader = SegmentReader::new(file).expect("opens");
    let mut batch = Batch::after(Default::default());
    loop {
        let frame = reader.next_frame().expect("read").expect("an event");
        let event = Event::decode(frame.event).expect("decodes");
        batch.add(&event, 0);
        if event.index + 1 == end {
            return (batch, Position { index: end, hash: frame.hash });
        }
    }
}

#[tokio::test]
async fn a_long_segment_is_indexed_in_parts_and_once() {
    let (state, spool) =
        (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
    let collector = Collector::start(state.path()).await;
    let identity = enrolled(&collector).await;
    let file = long(spool.path(), 5000);
    // A collector that was killed had come so far.
    let (batch, end) = beginning(spool.path(), 2048);
    let id = hex(&host().public().fingerprint());
    let store = &collector.intake.store;
    let agent = store.agent(&id).await.expect("read").expect("an agent");
    let part = Take { host: id.clone(), was: agent.standing(), batch, what: What::Part(end) };
    store.take(part).await.expect("written");
    assert_eq!(commands(&collector).await, 2047);

    let (mut call, taken) = collector.call(&identity).await.expect("a call");
    assert_eq!((taken.next_segment, taken.next_index), (0, 0), "it is not said to be kept before it is");
    let taken = call.ship(0, &file).await.expect("taken");
    assert_eq!((taken.next_segment, taken.next_index), (1, 5001));
    assert_eq!(commands(&collector).await, 5000);
    let session = SessionId::new(1_700_000_000_000, made::SESSION).to_string();
    let shown = store.session(&session).await.expect("read").expect("a session");
    assert_eq!(shown.commands, 5000, "each is counted once");
    assert!(kinds(&collector).await.is_empty(), "{:?}", kinds(&collector).await);
    assert!(audit::verify(&collector.intake, None).await.expect("a report").ok);
}

#[tokio::test]
async fn another_segment_than_the_one_that_was_indexed_is_found() {
    let (state, spool) =
        (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
    let collector = Collector::start(state.path()).await;
    let identity = enrolled(&collector).await;
    long(spool.path(), 30);
    let (batch, end) = beginning(spool.path(), 20);
    let id = hex(&host().public().fingerprint());
    let store = &collector.intake.store;
    let agent = store.agent(&id).await.expect("read").expect("an agent");
    let part = Take { host: id, was: agent.standing(), batch, what: What::Part(end) };
    store.take(part).await.expect("written");
    // While the collector is away the host seals another one in its place.
    for events in [40, 10] {
        let again = tempfile::tempdir().expect("a directory");
        let mut log = Log::new(again.path());
        log.event(true, 20, |body| body.string(3, "10.0.0.8:5432"));
        for number in 1..events {
            log.command(&format!("SELECT {number}"));
        }
        log.head();
        log.seal();
        let Ok((mut call, _)) = collector.call(&identity).await else { break };
        let refused = call.ship(0, &sealed(again.path(), 0)).await.expect_err("refused");
        assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    }
    assert_eq!(kinds(&collector).await, ["altered"]);
}
