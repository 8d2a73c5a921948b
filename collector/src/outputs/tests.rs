//! Outputs against receivers that take, refuse, stall and go away.

use std::collections::HashMap;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde_json::Value;
use sha2::Sha256;
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::{Output, Timing, start};
use crate::intake::Connected;
use crate::sample::{SampleHost, SampleSession};
use crate::store::{OutputState, Store};

const SECRET: [u8; 32] = [9; 32];

fn hurried() -> Timing {
    Timing {
        poll: Duration::from_millis(20),
        gather: Duration::ZERO,
        least_wait: Duration::from_millis(5),
        most_wait: Duration::from_millis(20),
        stuck: Duration::from_millis(50),
        lease: Duration::from_secs(2),
        hour: Duration::from_millis(50),
    }
}

/// How a receiver answers the next requests.
type Answers = dyn Fn(&Value) -> u16 + Send + Sync;

/// An HTTP server that checks signatures and keeps what it answers 200 to.
struct Receiver {
    address: SocketAddr,
    taken: Arc<Mutex<Vec<Value>>>,
    answers: Arc<Mutex<Arc<Answers>>>,
}

impl Receiver {
    fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let taken = Arc::new(Mutex::new(Vec::new()));
        let answers: Arc<Mutex<Arc<Answers>>> = Arc::new(Mutex::new(Arc::new(|_: &Value| 200)));
        let (to, how) = (Arc::clone(&taken), Arc::clone(&answers));
        std::thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                let (to, how) = (Arc::clone(&to), Arc::clone(&how));
                std::thread::spawn(move || while serve(&stream, &to, &how).is_some() {});
            }
        });
        Self { address, taken, answers }
    }

    fn answer(&self, answers: impl Fn(&Value) -> u16 + Send + Sync + 'static) {
        *self.answers.lock().unwrap() = Arc::new(answers);
    }

    fn taken(&self) -> Vec<Value> {
        self.taken.lock().unwrap().clone()
    }

    fn ids(&self) -> Vec<String> {
        self.taken().iter().map(|message| message["id"].as_str().unwrap().to_owned()).collect()
    }
}

/// Reads one request and answers it. The signature is checked as Standard Webhooks describes it.
fn serve(mut stream: &TcpStream, taken: &Mutex<Vec<Value>>, answers: &Mutex<Arc<Answers>>) -> Option<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap();
    let headers: HashMap<String, String> = head
        .lines()
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
        .collect();
    let mut body = vec![0; headers["content-length"].parse().unwrap()];
    stream.read_exact(&mut body).ok()?;
    let mut mac = Hmac::<Sha256>::new_from_slice(&SECRET).unwrap();
    mac.update(format!("{}.{}.", headers["webhook-id"], headers["webhook-timestamp"]).as_bytes());
    mac.update(&body);
    let signed = format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()));
    assert_eq!(headers["webhook-signature"], signed);
    let body: Value = serde_json::from_slice(&body).unwrap();
    let how = Arc::clone(&answers.lock().unwrap());
    let status = how(&body);
    if status == 200 {
        taken.lock().unwrap().extend(body["data"].as_array().unwrap().iter().cloned());
    }
    stream.write_all(format!("HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n").as_bytes()).ok()
}

/// A store, and outputs that are run over it.
struct Site {
    directory: TempDir,
    store: Arc<Store>,
    connected: Arc<Connected>,
    stop: watch::Sender<bool>,
    running: Vec<JoinHandle<()>>,
}

impl Site {
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open_file(&directory.path().join("db")).await.unwrap());
        let mut write = store.write().await.unwrap();
        write.set_fact_once("ledger", "1").await.unwrap();
        write.commit().await.unwrap();
        let secret = directory.path().join("secret");
        std::fs::write(&secret, format!("whsec_{}\n", STANDARD.encode(SECRET))).unwrap();
        std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o600)).unwrap();
        let stop = watch::channel(false).0;
        Self { directory, store, connected: Arc::default(), stop, running: Vec::new() }
    }

    fn hook(&self, receiver: SocketAddr, more: &str) -> Output {
        let secret = self.directory.path().join("secret");
        serde_saphyr::from_str(&format!(
            "{{name: siem, webhook: {{url: 'http://{receiver}/hook', secret: {}, batch: 7}}{more}}}",
            secret.display()
        ))
        .unwrap()
    }

    async fn start(&mut self, outputs: &[Output]) {
        self.stop = watch::channel(false).0;
        let stopped = self.stop.subscribe();
        self.running = start(outputs, "collector.test", &self.store, &self.connected, &stopped, hurried())
            .await
            .unwrap();
    }

    async fn stop(&mut self) {
        self.stop.send(true).unwrap();
        for running in self.running.drain(..) {
            running.await.unwrap();
        }
    }

    /// What a kill does: nothing is written down any more.
    async fn kill(&mut self) {
        for running in self.running.drain(..) {
            running.abort();
            drop(running.await);
        }
    }

    async fn state(&self) -> OutputState {
        self.store.outputs().await.unwrap().remove(0)
    }

    async fn findings(&self) -> Vec<String> {
        let page = self.store.findings(true, None, 100).await.unwrap();
        page.items.into_iter().map(|finding| finding.detail).collect()
    }
}

/// Waits until something holds.
async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    for _ in 0..3000 {
        if holds().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("never: {what}");
}

fn session(texts: &[(&str, &'static str)]) -> SampleSession {
    let command = |(text, verdict): &(&str, &'static str)| {
        ((*text).to_owned(), *verdict, if *verdict == "allow" { "" } else { "no-such" }, "")
    };
    SampleSession { commands: texts.iter().map(command).collect(), ..SampleSession::default() }
}

#[tokio::test]
async fn all_that_comes_in_is_told_once_and_in_order() {
    let mut site = Site::new().await;
    let receiver = Receiver::new();
    let mut host = SampleHost::enrol(&site.store, "db-1", 1).await.unwrap();
    host.session(&site.store, &session(&[("SELECT 'before'", "allow")])).await.unwrap();
    let kinds = ", kinds: [command, result, session, finding, audit]";
    site.start(&[site.hook(receiver.address, kinds)]).await;
    let texts: Vec<String> = (0..40).map(|number| format!("SELECT {number}")).collect();
    let wanted: Vec<(&str, &'static str)> = texts.iter().map(|text| (text.as_str(), "allow")).collect();
    let id = host.session(&site.store, &session(&wanted)).await.unwrap().to_string();
    let mut write = site.store.write().await.unwrap();
    write.audit("alice", "sign_in", "", "", "10.0.0.1").await.unwrap();
    write.add_finding(&host.id, "altered", "event 3", None).await.unwrap();
    write.commit().await.unwrap();
    until("all were told", async || receiver.taken().iter().any(|message| message["kind"] == "finding"))
        .await;
    // The receiver has it a moment before that is noted.
    until("it is passed", async || site.state().await.waiting_since_ns.is_none()).await;
    site.stop().await;

    let taken = receiver.taken();
    let kinds: Vec<&str> = taken.iter().map(|message| message["kind"].as_str().unwrap()).collect();
    let mut expected = vec!["session_begun"];
    expected.extend(["command"; 40]);
    expected.extend(["result"; 40]);
    expected.extend(["session_ended", "audit", "finding"]);
    assert_eq!(kinds, expected);
    let told: Vec<&str> = taken[1..41].iter().map(|message| message["text"].as_str().unwrap()).collect();
    assert_eq!(told, texts);
    let command = &taken[1];
    assert_eq!(command["session"], id.as_str());
    assert_eq!(command["user"], "deploy");
    assert_eq!(command["database"], "shop");
    assert_eq!(command["host_name"], "db-1");
    assert_eq!(command["collector"], "collector.test");
    assert!(command.get("status").is_none(), "{command}");
    assert_eq!(taken[41]["status"], "complete");
    let mut ids = receiver.ids();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), taken.len());
    let state = site.state().await;
    assert_eq!((state.sent, state.skipped, state.deleted), (84, 0, 0));
    assert_eq!(state.waiting_since_ns, None);
}

#[tokio::test]
async fn only_what_is_asked_for_is_told() {
    let mut site = Site::new().await;
    let receiver = Receiver::new();
    let mut host = SampleHost::enrol(&site.store, "db-1", 1).await.unwrap();
    let mut other = SampleHost::enrol(&site.store, "db-2", 2).await.unwrap();
    site.start(&[site.hook(receiver.address, ", kinds: [command], only: {verdict: [deny], hosts: [db-1]}")])
        .await;
    let texts = [("DROP TABLE a", "deny"), ("SELECT 1", "allow"), ("DROP TABLE b", "deny")];
    other.session(&site.store, &session(&texts)).await.unwrap();
    host.session(&site.store, &session(&texts)).await.unwrap();
    until("two were told", async || receiver.taken().len() == 2).await;
    until("the rest is passed", async || site.state().await.waiting_since_ns.is_none()).await;
    site.stop().await;
    let told: Vec<Value> = receiver.taken().iter().map(|message| message["text"].clone()).collect();
    assert_eq!(told, ["DROP TABLE a", "DROP TABLE b"]);
}

#[tokio::test]
async fn a_receiver_that_fails_stalls_or_hangs_up_loses_nothing() {
    let mut site = Site::new().await;
    let receiver = Receiver::new();
    let mut host = SampleHost::enrol(&site.store, "db-1", 1).await.unwrap();
    let asked = Arc::new(Mutex::new(0_u32));
    let count = Arc::clone(&asked);
    receiver.answer(move |_| {
        let mut asked = count.lock().unwrap();
        *asked += 1;
        match *asked % 5 {
            0 => 200,
            1 => 500,
            2 => 429,
            3 => 302,
            _ => 410,
        }
    });
    let hook = site.hook(receiver.address, ", kinds: [command]");
    site.start(std::slice::from_ref(&hook)).await;
    let texts: Vec<String> = (0..60).map(|number| format!("SELECT {number}")).collect();
    let wanted: Vec<(&str, &'static str)> = texts.iter().map(|text| (text.as_str(), "allow")).collect();
    let (first, second) = wanted.split_at(30);
    host.session(&site.store, &session(first)).await.unwrap();
    until("some were told", async || receiver.taken().len() >= 7).await;
    // Killed in the middle, again and again.
    for _ in 0..3 {
        site.kill().await;
        site.start(std::slice::from_ref(&hook)).await;
    }
    // It takes them and nobody hears of it.
    let heard = Arc::new(Mutex::new(Vec::new()));
    let hears = Arc::clone(&heard);
    receiver.answer(move |body| {
        hears.lock().unwrap().push(body["data"].clone());
        503
    });
    host.session(&site.store, &session(second)).await.unwrap();
    until("it is tried", async || heard.lock().unwrap().len() > 3).await;
    until("it is told that it fails", async || site.state().await.failing_since_ns.is_some()).await;
    until("it is found", async || site.findings().await.iter().any(|finding| finding.contains("is stuck")))
        .await;
    assert!(site.state().await.error.contains("503"), "{:?}", site.state().await);
    receiver.answer(|_| 200);
    let different = async || receiver.ids().iter().collect::<std::collections::HashSet<_>>().len() == 60;
    until("all were told", different).await;
    until("it is passed", async || site.state().await.waiting_since_ns.is_none()).await;
    site.stop().await;
    // What came again has the id that it had, and without that it is all there is, in order.
    let mut seen = std::collections::HashSet::new();
    let mut told = receiver.taken();
    told.retain(|message| seen.insert(message["id"].clone()));
    let told: Vec<Value> = told.iter().map(|message| message["text"].clone()).collect();
    assert_eq!(told, texts);
    assert_eq!(site.state().await.failing_since_ns, None);
    assert_eq!(site.findings().await.len(), 1, "{:?}", site.findings().await);
}

#[tokio::test]
async fn a_message_that_is_refused_is_skipped_only_by_the_rule_and_never_silently() {
    let mut site = Site::new().await;
    let receiver = Receiver::new();
    let mut host = SampleHost::enrol(&site.store, "db-1", 1).await.unwrap();
    receiver.answer(|body| {
        let poison = body["data"].as_array().unwrap().iter().any(|message| message["text"] == "poison");
        if poison { 400 } else { 200 }
    });
    site.start(&[site.hook(receiver.address, ", kinds: [command]")]).await;
    let texts = [("SELECT 1", "allow"), ("poison", "allow"), ("SELECT 2", "allow"), ("SELECT 3", "allow")];
    host.session(&site.store, &session(&texts)).await.unwrap();
    until("it stands before the poison", async || {
        let state = site.state().await;
        state.sent == 1 && state.refused_since_ns.is_some()
    })
    .await;
    until("it is found", async || site.findings().await.iter().any(|finding| finding.contains("is stuck")))
        .await;
    assert_eq!(receiver.taken().len(), 1);
    site.stop().await;

    site.start(&[site.hook(receiver.address, ", kinds: [command], skip_refused_after_hours: 1")]).await;
    until("the others were told", async || receiver.taken().len() == 3).await;
    until("it is passed", async || site.state().await.waiting_since_ns.is_none()).await;
    site.stop().await;
    let told: Vec<Value> = receiver.taken().iter().map(|message| message["text"].clone()).collect();
    assert_eq!(told, ["SELECT 1", "SELECT 2", "SELECT 3"]);
    assert_eq!(site.state().await.skipped, 1);
    let findings = site.findings().await;
    assert!(
        findings
            .iter()
            .any(|finding| finding.contains("was not told of command:") && finding.contains("400")),
        "{findings:?}"
    );
}

#[tokio::test]
async fn a_row_that_cannot_be_read_is_found() {
    let mut site = Site::new().await;
    let receiver = Receiver::new();
    let hook = site.hook(receiver.address, ", kinds: [result]");
    site.start(std::slice::from_ref(&hook)).await;
    site.stop().await;
    let mut host = SampleHost::enrol(&site.store, "db-1", 1).await.unwrap();
    host.session(&site.store, &session(&[("SELECT 1", "allow")])).await.unwrap();
    sqlx::query("UPDATE commands SET rows_returned = 1.5e19").execute(site.store.pool()).await.unwrap();
    site.start(std::slice::from_ref(&hook)).await;
    until("it is found", async || site.findings().await.iter().any(|finding| finding.contains("is stuck")))
        .await;
    sqlx::query("UPDATE commands SET rows_returned = 3").execute(site.store.pool()).await.unwrap();
    until("it is told", async || receiver.taken().len() == 1).await;
    site.stop().await;
    assert_eq!(site.findings().await.len(), 1);
}

#[tokio::test]
async fn what_retention_deleted_is_told_of() {
    let mut site = Site::new().await;
    let receiver = Receiver::new();
    let mut host = SampleHost::enrol(&site.store, "db-1", 1).await.unwrap();
    receiver.answer(|_| 503);
    let hook = site.hook(receiver.address, ", kinds: [command, session]");
    site.start(std::slice::from_ref(&hook)).await;
    host.session(&site.store, &session(&[("SELECT 1", "allow"), ("SELECT 2", "allow")])).await.unwrap();
    host.session(&site.store, &session(&[("SELECT 3", "allow")])).await.unwrap();
    until("it is tried", async || site.state().await.failing_since_ns.is_some()).await;
    site.kill().await;
    host.delete(&site.store).await.unwrap();
    host.session(&site.store, &session(&[("SELECT 4", "allow")])).await.unwrap();
    receiver.answer(|_| 200);
    site.start(std::slice::from_ref(&hook)).await;
    until("the last is told", async || receiver.taken().iter().any(|message| message["text"] == "SELECT 4"))
        .await;
    until("it is passed", async || site.state().await.waiting_since_ns.is_none()).await;
    site.stop().await;
    let taken = receiver.taken();
    let deleted: Vec<&Value> = taken.iter().filter(|message| message["kind"] == "deleted").collect();
    assert!(deleted.iter().any(|message| message["first_event"].is_u64()), "{deleted:?}");
    assert!(deleted.iter().all(|message| message["reason"].as_str().unwrap().contains("retention")));
    assert_eq!(taken.iter().filter(|message| message["kind"] == "command").count(), 1);
    assert_eq!(site.state().await.deleted, i64::try_from(deleted.len()).unwrap());
    let findings = site.findings().await;
    assert!(
        findings.iter().any(|finding| finding.contains("db-1") && finding.contains("deleted")),
        "{findings:?}"
    );
}

#[tokio::test]
async fn one_collector_at_a_time_serves_an_output() {
    let site = Site::new().await;
    const LONG: Duration = Duration::from_secs(60);
    let lease = |owner, time| site.store.lease("output siem", owner, time);
    assert!(lease("a", LONG).await.unwrap());
    assert!(lease("a", LONG).await.unwrap());
    assert!(!lease("b", LONG).await.unwrap());
    // Who has lost it cannot move the place.
    let mut write = site.store.write().await.unwrap();
    write.add_output("siem").await.unwrap();
    let progress = crate::store::Progress { sent: 1, ..Default::default() };
    assert!(write.progress("siem", "a", &progress).await.unwrap());
    assert!(!write.progress("siem", "b", &progress).await.unwrap());
    write.commit().await.unwrap();
    assert!(lease("a", Duration::ZERO).await.unwrap());
    assert!(lease("b", LONG).await.unwrap());
    site.store.release("output siem", "a").await.unwrap();
    assert!(!lease("a", LONG).await.unwrap());
    site.store.release("output siem", "b").await.unwrap();
    assert!(lease("a", LONG).await.unwrap());
}

#[tokio::test]
async fn the_journal_is_pruned_behind_the_slowest_and_numbers_are_not_given_out_again() {
    let mut site = Site::new().await;
    let mut host = SampleHost::enrol(&site.store, "db-1", 1).await.unwrap();
    host.session(&site.store, &session(&[("SELECT 0", "allow")])).await.unwrap();
    assert_eq!(site.store.journal((0, 0), 10).await.unwrap().len(), 0, "without outputs there is none");
    let receiver = Receiver::new();
    let hook = site.hook(receiver.address, ", kinds: [command]");
    site.start(std::slice::from_ref(&hook)).await;
    for round in 1..4 {
        host.session(&site.store, &session(&[("SELECT 1", "allow")])).await.unwrap();
        until("it is told", async || receiver.taken().len() == round).await;
        until("it is passed", async || site.state().await.waiting_since_ns.is_none()).await;
        let mut write = site.store.write().await.unwrap();
        write.prune_journal().await.unwrap();
        write.commit().await.unwrap();
        assert_eq!(site.store.journal((0, 0), 10).await.unwrap().len(), 1);
    }
    site.stop().await;
}

mod approvals;
