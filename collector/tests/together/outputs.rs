//! Outputs of collectors that share a database: one of them at a time serves each, and nothing is lost when
//! many write at once or one ends in the middle.

use std::collections::HashSet;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::time::Duration;

use interlock_collector::outputs::{Output, Timing, start};
use interlock_collector::sample::{SampleHost, SampleSession};
use interlock_collector::serve;
use interlock_collector::store::Progress;
use tokio::sync::watch;

use crate::kept;
use crate::receivers::{Hook, SECRET};

const HOSTS: u8 = 4;
const SESSIONS: usize = 40;

#[tokio::test(flavor = "multi_thread")]
async fn one_at_a_time_serves_an_output_and_nothing_is_lost() {
    let state = tempfile::tempdir().expect("a directory");
    let (config, _servers) = kept::config(state.path()).await;
    let mut other = config.clone();
    other.state = state.path().join("other");
    let first = serve::open(&config).await.expect("opened").intake;
    let second = serve::open(&other).await.expect("opened").intake;
    let secret = state.path().join("hook.secret");
    std::fs::write(&secret, SECRET).expect("written");
    std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o600)).expect("set");
    let hook = Hook::start();
    let outputs: Vec<Output> = serde_saphyr::from_str(&format!(
        "[{{name: siem, kinds: [command], webhook: {{url: 'http://{}/x', secret: {}, batch: 5}}}}]",
        hook.address,
        secret.display()
    ))
    .expect("an output");
    let timing = Timing {
        poll: Duration::from_millis(20),
        gather: Duration::ZERO,
        least_wait: Duration::from_millis(10),
        lease: Duration::from_secs(2),
        ..Timing::default()
    };
    let (_stop, stopped) = watch::channel(false);
    let mut running = Vec::new();
    for intake in [&first, &second] {
        let tasks =
            start(&outputs, "collector.test", &intake.store, &intake.connected, &stopped, timing).await;
        running.push(tasks.expect("started"));
    }
    // Transactions that overlap: their rows get numbers in another order than that in which they end.
    let mut writers = Vec::new();
    for seed in 0..HOSTS {
        let store = Arc::clone(if seed % 2 == 0 { &first.store } else { &second.store });
        writers.push(tokio::spawn(async move {
            let mut host = SampleHost::enrol(&store, &format!("host-{seed}"), seed).await.expect("enrolled");
            let mut texts = Vec::new();
            for session in 0..SESSIONS {
                let text = format!("SELECT {seed}.{session}");
                let commands = vec![(text.clone(), "allow", "", "")];
                host.session(&store, &SampleSession { commands, ..SampleSession::default() })
                    .await
                    .expect("recorded");
                texts.push(text);
            }
            texts
        }));
    }
    let until = async |count: usize| {
        for _ in 0..6000 {
            if hook.told().iter().map(|(id, _)| id.clone()).collect::<HashSet<_>>().len() >= count {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("of {count} came {}: {:?}", hook.told().len(), first.store.outputs().await);
    };
    until(20).await;
    // As if it were killed: it does not give its lease back.
    for task in running.remove(0) {
        task.abort();
    }
    let mut expected = Vec::new();
    for writer in writers {
        expected.push(writer.await.expect("written"));
    }
    until(usize::from(HOSTS) * SESSIONS).await;
    let mut seen = HashSet::new();
    let mut told = hook.told();
    told.retain(|(id, _)| seen.insert(id.clone()));
    for (seed, texts) in expected.iter().enumerate() {
        let of_host: Vec<&String> = told
            .iter()
            .map(|(_, text)| text)
            .filter(|text| text.starts_with(&format!("SELECT {seed}.")))
            .collect();
        assert_eq!(of_host, texts.iter().collect::<Vec<_>>(), "in the order of the host");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_was_moved_to_another_cluster_loses_nothing() {
    let state = tempfile::tempdir().expect("a directory");
    let (config, _servers) = kept::config(state.path()).await;
    let store = Arc::clone(&serve::open(&config).await.expect("opened").intake.store);
    let mut write = store.write().await.expect("writes");
    write.add_output("siem").await.expect("added");
    write.commit().await.expect("committed");
    let mut host = SampleHost::enrol(&store, "host", 1).await.expect("enrolled");
    host.session(&store, &SampleSession::default()).await.expect("recorded");
    // Rows count when all earlier transactions of the server have ended, those of other tests too.
    let rows_after = async |place: (i64, i64), count: usize| {
        for _ in 0..3000 {
            let rows = store.journal(place, 1000).await.expect("read");
            if rows.len() >= count {
                return rows;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("never {count} rows");
    };
    // It begins, its events, its results, it ends.
    assert_eq!(rows_after((0, 0), 4).await.len(), 4);
    assert!(!store.settle_journal().await.expect("looked"), "it is where it was");

    // As it looks in a cluster whose transactions begin anew: rows and places have numbers from far ahead.
    kept::run_sql(
        state.path(),
        "UPDATE journal SET xact = xact + 1000000000000; UPDATE outputs SET xact = 2000000000000, id = 7, done = 3",
    )
    .await;
    host.session(&store, &SampleSession::default()).await.expect("recorded");
    // Nothing is removed by such a place, nor is one kept.
    let mut write = store.write().await.expect("writes");
    assert_eq!(write.prune_journal().await.expect("pruned"), 0);
    write.commit().await.expect("committed");
    assert!(store.lease("output siem", "me", Duration::from_secs(60)).await.expect("a lease"));
    let mut write = store.write().await.expect("writes");
    let stale = Progress { place: (2_000_000_000_000, 8), ..Progress::default() };
    assert!(!write.progress("siem", "me", &stale).await.expect("asked"));
    write.commit().await.expect("committed");
    assert!(store.is_foreign(2_000_000_000_000).await.expect("asked"));

    assert!(store.settle_journal().await.expect("settled"));
    assert!(!store.settle_journal().await.expect("looked"), "once");
    let output = store.outputs().await.expect("read").remove(0);
    assert_eq!((output.place, output.done), ((0, 0), 0));
    let rows = rows_after(output.place, 8).await;
    assert_eq!(rows.len(), 8, "all of it is there");
    assert!(rows.is_sorted_by_key(|row| row.place.1), "the old before the new");
    host.session(&store, &SampleSession::default()).await.expect("recorded");
    let more = rows_after(rows.last().expect("a row").place, 4).await;
    assert_eq!(more.len(), 4, "and it goes on");
}
