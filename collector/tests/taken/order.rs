//! What the order of events tells although their chain is whole, and clocks that are apart.

use std::path::Path;

use crate::intake::{enrolled, host, open, sealed};
use crate::made::{self, Log};
use crate::support::{Collector, run_sql};
use interlock_collector::config::Retention;
use interlock_collector::retention;
use interlock_collector::store::now_ns;
use interlock_recording::hex;
use interlock_shipping::v1::to_collector::Message;
use interlock_shipping::v1::{Health, Live};

const HOUR_NS: i64 = 3600 * 1_000_000_000;
/// Where the clock of a [`Log`] stands.
const LOG_NS: i64 = 1_700_000_000_000_000_000;

/// What has been found, as kind and detail, the oldest first.
async fn findings(collector: &Collector) -> Vec<(String, String)> {
    let page = collector.intake.store.findings(true, None, 1000).await.expect("findings");
    page.items.into_iter().rev().map(|finding| (finding.kind, finding.detail)).collect()
}

/// The records of the open segment from event `from` on, of which the first `skip` bytes of records came before.
fn rest(directory: &Path, number: u64, from: u64, skip: usize) -> Live {
    let live = open(directory, number);
    Live { first_index: from, header: Vec::new(), records: live.records.slice(skip..), ..live }
}

fn begin(log: &mut Log<'_>) {
    log.event(true, 20, |body| body.string(3, "10.0.0.7:5432"));
}

#[tokio::test]
async fn a_whole_recording_has_no_findings() {
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
    assert_eq!(findings(&collector).await, []);
}

#[tokio::test]
async fn numbers_of_a_session_that_are_missing_or_come_twice_are_found() {
    for (step, sealed_only) in [(3, false), (-1, false), (3, true)] {
        let (state, spool) =
            (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
        let collector = Collector::start(state.path()).await;
        let identity = enrolled(&collector).await;
        let mut log = Log::new(spool.path());
        begin(&mut log);
        log.command("SELECT 1");
        // Root on the host has the key: what it leaves out it can chain over.
        log.sequence = log.sequence.saturating_add_signed(step);
        log.command("SELECT 2");
        log.head();
        let (mut call, _) = collector.call(&identity).await.expect("a call");
        let taken = if sealed_only {
            log.seal();
            call.ship(0, &sealed(spool.path(), 0)).await.expect("taken")
        } else {
            call.live(open(spool.path(), 0)).await.expect("taken")
        };
        assert_eq!(taken.next_index, 3, "it is taken all the same");
        let found = findings(&collector).await;
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].0 == "session" && found[0].1.contains("event 2 is due"), "{found:?}");
        let agents = collector.intake.store.agents().await.expect("agents");
        assert_eq!(agents[0].dispute, None, "its chain is whole: nothing is disputed");
    }
}

#[tokio::test]
async fn a_gap_between_two_messages_is_found_and_so_is_a_session_that_goes_on_after_its_end() {
    let (state, spool) =
        (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
    let collector = Collector::start(state.path()).await;
    let identity = enrolled(&collector).await;
    let mut log = Log::new(spool.path());
    begin(&mut log);
    log.head();
    let (mut call, _) = collector.call(&identity).await.expect("a call");
    call.live(open(spool.path(), 0)).await.expect("taken");
    let mut skip = open(spool.path(), 0).records.len();
    log.sequence += 1;
    log.command("SELECT 1");
    log.head();
    call.live(rest(spool.path(), 0, 1, skip)).await.expect("taken");
    skip = open(spool.path(), 0).records.len();
    assert_eq!(findings(&collector).await.len(), 1);
    log.event(true, 27, |body| body.string(1, "client_closed"));
    log.head();
    call.live(rest(spool.path(), 0, 2, skip)).await.expect("taken");
    skip = open(spool.path(), 0).records.len();
    assert_eq!(findings(&collector).await.len(), 1, "from the gap on it is whole");
    log.command("DROP TABLE evidence");
    log.head();
    call.live(rest(spool.path(), 0, 3, skip)).await.expect("taken");
    let found = findings(&collector).await;
    assert!(found.len() == 2 && found[1].1.contains("after its end"), "{found:?}");
}

#[tokio::test]
async fn a_session_without_its_beginning_is_found() {
    let (state, spool) =
        (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
    let collector = Collector::start(state.path()).await;
    let identity = enrolled(&collector).await;
    let mut log = Log::new(spool.path());
    log.sequence = 4;
    log.command("SELECT 1");
    log.head();
    let (mut call, _) = collector.call(&identity).await.expect("a call");
    call.live(open(spool.path(), 0)).await.expect("taken");
    let found = findings(&collector).await;
    assert!(found.len() == 1 && found[0].1.contains("has not begun"), "{found:?}");
}

#[tokio::test]
async fn back_dated_events_are_found_and_a_clock_that_is_set_is_not() {
    let (state, spool) =
        (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
    let collector = Collector::start(state.path()).await;
    let identity = enrolled(&collector).await;
    let mut log = Log::new(spool.path());
    begin(&mut log);
    log.command("SELECT 1");
    log.head();
    let (mut call, _) = collector.call(&identity).await.expect("a call");
    call.live(open(spool.path(), 0)).await.expect("taken");
    let mut skip = open(spool.path(), 0).records.len();
    // As if it had been three hours earlier: that alone can be a clock that was set.
    log.ahead_ns = -3 * HOUR_NS;
    log.command("DELETE FROM payments");
    log.head();
    call.live(rest(spool.path(), 0, 2, skip)).await.expect("taken");
    skip = open(spool.path(), 0).records.len();
    assert_eq!(findings(&collector).await, []);
    log.ahead_ns = 0;
    log.command("SELECT 2");
    log.head();
    call.live(rest(spool.path(), 0, 3, skip)).await.expect("taken");
    let found = findings(&collector).await;
    assert!(
        found.len() == 1
            && found[0].0 == "clock"
            && found[0].1.contains("events 2 to 2")
            && found[0].1.contains("3 h earlier"),
        "{found:?}"
    );
}

#[tokio::test]
async fn a_host_that_lies_without_end_fills_no_list() {
    let (state, spool) =
        (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
    let collector = Collector::start(state.path()).await;
    let identity = enrolled(&collector).await;
    let mut log = Log::new(spool.path());
    for number in 0..300_u64 {
        // A session that begins in its middle, each one another.
        let mut random = made::SESSION;
        random[2..].copy_from_slice(&number.to_le_bytes());
        log.session = random;
        log.sequence = 7;
        log.command("SELECT 1");
    }
    log.head();
    let (mut call, _) = collector.call(&identity).await.expect("a call");
    call.live(open(spool.path(), 0)).await.expect("taken");
    let found = findings(&collector).await;
    assert_eq!(found.len(), 100);
    assert!(found[99].1.contains("not listed one by one"), "{:?}", found[99]);
}

/// A host whose clock is hours or days from the collector's ships all the same, nothing is deleted early, and it is
/// shown how far it is off.
#[tokio::test]
async fn clocks_that_are_apart_lose_nothing() {
    for apart in [-72 * HOUR_NS, -6 * HOUR_NS, 6 * HOUR_NS, 72 * HOUR_NS] {
        let (state, spool) =
            (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
        let collector = Collector::start(state.path()).await;
        let identity = enrolled(&collector).await;
        let mut log = Log::new(spool.path());
        log.ahead_ns = now_ns() - LOG_NS + apart;
        log.session_ms = u64::try_from((now_ns() + apart) / 1_000_000).expect("a time");
        begin(&mut log);
        log.command("SELECT 1");
        log.head();
        log.seal();
        log.command("SELECT 2");
        log.head();
        let (mut call, _) = collector.call(&identity).await.expect("a call");
        call.ship(0, &sealed(spool.path(), 0)).await.expect("taken");
        let taken = call.live(open(spool.path(), 1)).await.expect("taken");
        assert_eq!((taken.next_segment, taken.next_index), (1, 3));
        let now = u64::try_from(now_ns() + apart).expect("a time");
        call.say(Message::Health(Health { now_ns: now, ..Health::default() })).await;
        let id = hex(&host().public().fingerprint());
        let ahead = loop {
            let agent = collector.intake.store.agent(&id).await.expect("read").expect("an agent");
            if agent.clock_ahead_ns != 0 {
                break agent.clock_ahead_ns;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        };
        assert!((ahead - apart).abs() < HOUR_NS, "{ahead} is shown, {apart} it is");
        assert_eq!(findings(&collector).await, [], "a wrong clock is no lie");

        // A day is to be kept: by either clock.
        let rules = [Retention { name: "day".into(), hosts: Vec::new(), keep_days: 1 }];
        assert_eq!(retention::apply(&collector.intake, &rules).await.expect("applied"), 0);
        run_sql(state.path(), "UPDATE segments SET received_ns = received_ns - 172800000000000").await;
        let deleted = retention::apply(&collector.intake, &rules).await.expect("applied");
        assert_eq!(deleted, u64::from(apart == -72 * HOUR_NS), "old by both, or kept");
        // Whatever was deleted, the recording goes on.
        log.command("SELECT 3");
        log.head();
        log.seal();
        let taken = call.ship(1, &sealed(spool.path(), 1)).await.expect("taken");
        assert_eq!((taken.next_segment, taken.next_index), (2, 4));
        assert_eq!(findings(&collector).await, []);
    }
}
