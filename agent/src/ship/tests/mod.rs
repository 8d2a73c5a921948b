//! The shipper against a collector in the same process, honest or not.

mod approvals;
mod enrolling;
mod fake;
mod reading;
mod shipping;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use interlock_recording::HostKey;
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::enrolment::Store;
use super::{Report, Shipper, Shipping, enrol};
use crate::approval::Desk;
use crate::config::{Config, Record};
use crate::record::{KEYS, Recorder};
use fake::{Fake, Own};

/// An agent's recording, and what ships it.
struct Stage {
    directory: TempDir,
    config: Config,
    recorder: Arc<Recorder>,
    shipping: Arc<Shipping>,
    store: Store,
    fake: Fake,
    desk: Option<Arc<Desk>>,
    running: Option<(watch::Sender<bool>, JoinHandle<()>)>,
}

fn config(directory: &Path) -> Config {
    let record = Record { max_bytes: 64 << 20, segment_bytes: 16 << 10, ..Record::default() };
    Config { state: directory.join("state"), record, ..Config::default() }
}

/// Waits for what is sure to come.
async fn until(what: &str, ready: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !ready() {
        assert!(Instant::now() < end, "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

impl Stage {
    async fn new() -> Self {
        Self::with(Own::default(), |_| {}).await
    }

    async fn with(own: Own, change: impl FnOnce(&mut Config)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut config = config(directory.path());
        change(&mut config);
        let recorder = Recorder::open(&config).unwrap();
        let store = Store::new(&config.state);
        let fake = Fake::start(own).await;
        let shipping = Arc::default();
        Self { directory, config, recorder, shipping, store, fake, desk: None, running: None }
    }

    fn host_key(&self) -> HostKey {
        HostKey::load_or_create(&self.config.state.join(KEYS)).unwrap()
    }

    async fn enrol(&self) {
        let enrolment =
            enrol::enrol(self.fake.address(), &self.fake.token(), &self.host_key()).await.unwrap();
        self.store.save(&enrolment, None).unwrap();
    }

    fn start(&mut self) {
        let (recorder, shipping) = (Arc::clone(&self.recorder), Arc::clone(&self.shipping));
        let report = || Report { policy_hash: "abc".to_owned(), flows: 3, ..Report::default() };
        let shipper = Shipper::new(self.store.clone(), recorder, shipping, self.config.ship.keep, report);
        let shipper = match &self.desk {
            Some(desk) => shipper.with_approvals(Arc::clone(desk)),
            None => shipper,
        };
        let (finish, finishing) = watch::channel(false);
        self.running = Some((finish, tokio::spawn(shipper.run(finishing))));
    }

    /// As if the agent were killed.
    async fn kill(&mut self) {
        if let Some((_, task)) = self.running.take() {
            task.abort();
            let _ = task.await;
        }
    }

    /// Ends in good order.
    async fn finish(&mut self) {
        if let Some((finish, task)) = self.running.take() {
            finish.send_replace(true);
            tokio::time::timeout(Duration::from_secs(30), task).await.unwrap().unwrap();
        }
    }

    /// Records so many events with about so many bytes each.
    fn record(&self, events: usize, bytes: usize) {
        for n in 0..events {
            // What does not compress, so that segments have a size.
            let text: String =
                (0..bytes).map(|at| char::from(b'a' + (hash(n * 31 + at) % 26) as u8)).collect();
            self.recorder.policy_loaded(&text, &[]).unwrap();
        }
    }

    /// Records until there are so many segments.
    async fn fill(&self, segments: usize) {
        for round in 0.. {
            if self.segments().len() > segments {
                return;
            }
            assert!(round < 10_000, "no new segment is begun");
            self.record(30, 600);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn events(&self) -> u64 {
        self.recorder.status().events
    }

    async fn all_there(&self) {
        until("all events at the collector", || {
            self.fake.has().live.is_some_and(|live| live.index >= self.events())
        })
        .await;
        assert_eq!(self.fake.has().wrong, Vec::<String>::new());
    }

    fn error(&self) -> Option<String> {
        self.shipping.status(0, 0).error
    }

    /// The numbers of the segments that are here.
    fn segments(&self) -> Vec<u64> {
        let listing = interlock_recording::log::list(self.recorder.directory()).unwrap();
        listing.segments.iter().map(|segment| segment.number).collect()
    }

    /// The bytes of each event that is recorded.
    fn recorded(&self) -> Vec<Vec<u8>> {
        let listing = interlock_recording::log::list(self.recorder.directory()).unwrap();
        let mut events = Vec::new();
        for segment in &listing.segments {
            let (mut reader, _) = interlock_recording::log::open(segment).unwrap();
            while let Ok(Some(frame)) = reader.next_frame() {
                events.push(frame.event.to_vec());
            }
        }
        events
    }

    fn verify(&self) {
        let report =
            interlock_recording::verify(self.recorder.directory(), self.recorder.public_key()).unwrap();
        assert!(report.ok, "{report:?}");
    }
}

fn hash(n: usize) -> usize {
    let n = (n as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (n ^ (n >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9) as usize >> 33
}
