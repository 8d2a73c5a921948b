//! Shipping to collectors of all kinds.

use super::fake::Manner;
use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_comes_once_and_in_order() {
    let mut stage = Stage::new().await;
    stage.enrol().await;
    stage.record(100, 500);
    stage.start();
    for _ in 0..20 {
        stage.record(40, 300);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // On a busy machine sealing may be ahead of HEAD all the while: then nothing came live yet.
    for _ in 0..200 {
        if stage.fake.has().live_messages > 0 {
            break;
        }
        stage.record(1, 100);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // Nor are there as many segments as on an idle one.
    for _ in 0..200 {
        if stage.segments().len() > 10 {
            break;
        }
        stage.record(40, 300);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    stage.all_there().await;
    stage.recorder.close().unwrap();
    stage.finish().await;
    let has = stage.fake.has();
    assert_eq!(has.wrong, Vec::<String>::new());
    assert_eq!(has.events, stage.recorded());
    assert!(has.live_messages > 0 && has.segments.len() > 10, "{} segments", has.segments.len());
    for (number, file) in has.segments.iter().enumerate() {
        let path = stage.recorder.directory().join(format!("{number:012}.seg"));
        assert_eq!(file, &std::fs::read(path).unwrap());
    }
    assert_eq!(has.segments.len(), stage.segments().len(), "all of them are sealed, and there");
    assert_eq!(has.hellos.len(), 1);
    assert_eq!((has.health[0].policy_hash.as_str(), has.health[0].flows), ("abc", 3));
    assert!(has.health[0].spool_limit == 64 << 20 && has.health[0].now_ns > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_any_moment_it_goes_on_where_it_was() {
    let mut stage = Stage::new().await;
    stage.enrol().await;
    for round in 0..25 {
        // The calls end in all ways: cut by the collector after some messages, or killed here.
        stage.fake.behave(if round % 3 == 0 { Manner::Cut(round / 2 + 2) } else { Manner::Honest });
        stage.start();
        stage.record(60, 400);
        tokio::time::sleep(Duration::from_millis(13 * (hash(round) % 7) as u64)).await;
        stage.kill().await;
    }
    stage.fake.behave(Manner::Honest);
    stage.start();
    stage.all_there().await;
    stage.recorder.close().unwrap();
    stage.finish().await;
    let has = stage.fake.has();
    assert_eq!(has.wrong, Vec::<String>::new());
    assert_eq!(has.events, stage.recorded());
    assert!(has.hellos.len() > 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_cannot_be_right_gets_nothing_removed() {
    for (manner, words) in [
        (Manner::AheadAtOnce, "was the state directory put back"),
        (Manner::Ahead, "which it was not sent"),
        (Manner::Back, "had taken all segments before"),
        (Manner::Torn, "says that it has all segments before 1"),
        (Manner::Speechless, "does not say where to go on"),
        (Manner::Endless, "without end"),
        (Manner::Refuse(tonic::Code::PermissionDenied, "this host was revoked"), "this host was revoked"),
        (Manner::Refuse(tonic::Code::FailedPrecondition, "event 7 was rewritten"), "event 7 was rewritten"),
        (Manner::Refuse(tonic::Code::Internal, "it failed\u{1b}[2J"), "it failed\u{fffd}[2J"),
    ] {
        let mut stage = Stage::with(Own::default(), |config| config.ship.keep = 0).await;
        stage.enrol().await;
        stage.fill(5).await;
        // Some of it is there already.
        stage.fake.behave(manner.clone());
        stage.start();
        until(words, || {
            stage.error().is_some_and(|error| error.to_lowercase().contains(&words.to_lowercase()))
        })
        .await;
        if matches!(manner, Manner::AheadAtOnce | Manner::Torn | Manner::Speechless | Manner::Refuse(..)) {
            assert_eq!(stage.segments()[0], 0, "{manner:?}");
        }
        stage.kill().await;
        // What it had not taken is here.
        let sealed = stage.fake.has().sealed.map_or(0, |sealed| sealed.segment);
        assert!(stage.segments()[0] <= sealed, "{manner:?}");
        // The recorder goes on.
        stage.record(10, 100);
        stage.recorder.close().unwrap();
        stage.verify();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_takes_nothing_is_sent_a_few_segments_only() {
    let mut stage = Stage::with(Own::default(), |config| config.ship.keep = 0).await;
    stage.enrol().await;
    stage.fill(12).await;
    stage.fake.behave(Manner::Silent);
    // It says where to go on, and then nothing more.
    stage.start();
    until("some segments", || stage.fake.has().segments.len() >= 4).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(stage.fake.has().segments.len(), 4);
    assert_eq!(stage.segments()[0], 0);
    assert!(stage.fake.has().largest <= interlock_shipping::MAX_LIVE);
    // It can be ended all the same.
    stage.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_taken_makes_room_and_the_rest_verifies() {
    let mut stage = Stage::with(Own::default(), |config| {
        config.ship.keep = 0;
        config.record.max_bytes = 512 << 10;
    })
    .await;
    stage.enrol().await;
    // Until there is no more room.
    let mut recorded = 0;
    while stage.recorder.policy_loaded(&"y".repeat(2000), &[]).is_ok() {
        recorded += 1;
        assert!(recorded < 100_000, "it never fills up");
    }
    stage.recorder.status().refusing.unwrap();
    stage.start();
    until("room", || stage.recorder.status().refusing.is_none()).await;
    // Several times as much as fits.
    until("more than fits", || {
        while stage.recorder.policy_loaded(&"z".repeat(2000), &[]).is_ok() {}
        stage.fake.has().segments.len() > 60
    })
    .await;
    stage.all_there().await;
    assert!(stage.segments()[0] > 10);
    stage.recorder.close().unwrap();
    stage.finish().await;
    stage.verify();
    let has = stage.fake.has();
    let here = stage.recorded();
    assert_eq!(has.events[has.events.len() - here.len()..], here);
    // The next agent goes on from there.
    drop(has);
    let Stage { config, recorder, directory, .. } = stage;
    drop(recorder);
    Recorder::open(&config).unwrap().close().unwrap();
    drop(directory);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn as_much_stays_as_is_to_be_kept() {
    let mut stage = Stage::with(Own::default(), |config| config.ship.keep = 40_000).await;
    stage.enrol().await;
    stage.start();
    for _ in 0..40 {
        stage.record(40, 500);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    stage.all_there().await;
    until("removals", || stage.segments()[0] > 0).await;
    let status = || stage.shipping.status(stage.events(), stage.recorder.status().used_bytes);
    until("the last answer", || status().lag.events == 0).await;
    let status = status();
    assert!(status.kept_bytes <= 40_000 && status.kept_segments > 0, "{status:?}");
    assert_eq!((status.lag.events, status.lag.bytes), (0, 0));
    stage.recorder.close().unwrap();
    stage.finish().await;
    stage.verify();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_recording_of_the_same_host_is_not_taken_for_the_first() {
    let mut stage = Stage::with(Own::default(), |config| config.ship.keep = 0).await;
    stage.enrol().await;
    stage.start();
    stage.record(200, 500);
    stage.all_there().await;
    stage.recorder.close().unwrap();
    stage.finish().await;
    let there = stage.fake.has().segments.len();
    // Somebody begins a new recording under the same key, and lets it grow beyond the first.
    std::fs::rename(stage.recorder.directory(), stage.directory.path().join("kept")).unwrap();
    let shipped = stage.recorder.status().events;
    stage.shipping = Arc::default();
    let config = stage.config.clone();
    let old = std::mem::replace(&mut stage.recorder, {
        // The lock is the old recorder's.
        let elsewhere = tempfile::tempdir().unwrap();
        Recorder::open(&super::config(elsewhere.path())).unwrap()
    });
    drop(old);
    stage.recorder = Recorder::open(&config).unwrap();
    while stage.events() < shipped + 200 {
        stage.record(100, 700);
    }
    stage.fill(there + 3).await;
    stage.start();
    until("the contradiction", || !stage.fake.has().wrong.is_empty() || stage.error().is_some()).await;
    assert_eq!(stage.segments()[0], 0, "none of the new segments was taken, so none is removed");
    stage.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reviewer_can_end_a_session() {
    let mut stage = Stage::new().await;
    stage.enrol().await;
    let id = interlock_recording::SessionId::new(9, [1; 10]);
    let (_registered, mut reason) = stage.shipping.sessions().register(id);
    stage.fake.behave(Manner::End(*id.as_bytes()));
    stage.start();
    let told = tokio::time::timeout(Duration::from_secs(30), reason.wait_for(Option::is_some)).await;
    assert_eq!(told.unwrap().unwrap().as_deref(), Some("enough"));
    stage.finish().await;
}
