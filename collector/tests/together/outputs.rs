//! Outputs of collectors that share a database: one of them at a time serves each, and nothing is lost when
//! many write at once or one ends in the middle.

use std::collections::HashSet;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::time::Duration;

use interlock_collector::outputs::{Output, Timing, start};
use interlock_collector::sample::{SampleHost, SampleSession};
use interlock_collector::serve;
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
