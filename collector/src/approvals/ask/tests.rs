//! Ways to ask, against servers that take, refuse and go away.

use std::collections::HashMap;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use interlock_recording::proto::Subject;
use interlock_shipping::v1::{
    ApprovalBeforehand, ApprovalBy, ApprovalCounted, ApprovalEstimate, ApprovalParam, ApprovalQuorum,
    ApprovalRequest, ApprovalStanding, ApprovalStatement,
};
use prost::Message as _;
use serde_json::{Value, json};
use sha2::Sha256;
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::{Approvals, Asker, shown, start};
use crate::intake::Connected;
use crate::outputs::Timing;
use crate::sample::{HOSTILE, SampleHost};
use crate::store::{Store, approval_id};

/// The Slack app's signing secret.
pub(crate) const SIGNING: &str = "8f742231b10e8888abcd99yyyzzz85a5";
/// The webhooks' secret.
const SECRET: [u8; 32] = [9; 32];

/// A request that came: its path, its headers, its body.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) path: String,
    headers: HashMap<String, String>,
    body: Vec<u8>,
}

impl Asked {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

type Answers = dyn Fn(&Asked) -> (u16, Value) + Send + Sync;

/// An HTTP server that notes what it is asked.
pub(crate) struct Fake {
    pub(crate) address: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
    answers: Arc<Mutex<Arc<Answers>>>,
}

impl Fake {
    pub(crate) fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let well: Arc<Answers> =
            Arc::new(|_: &Asked| (200, json!({"ok": true, "channel": "C0123456789", "ts": "1700.5"})));
        let answers = Arc::new(Mutex::new(well));
        let (to, how) = (Arc::clone(&asked), Arc::clone(&answers));
        std::thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                let (to, how) = (Arc::clone(&to), Arc::clone(&how));
                std::thread::spawn(move || while serve(&stream, &to, &how).is_some() {});
            }
        });
        Self { address, asked, answers }
    }

    fn answer(&self, answers: impl Fn(&Asked) -> (u16, Value) + Send + Sync + 'static) {
        *self.answers.lock().unwrap() = Arc::new(answers);
    }

    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    /// Waits for so many requests.
    pub(crate) async fn until(&self, count: usize) -> Vec<Asked> {
        for _ in 0..3000 {
            let asked = self.asked();
            assert!(asked.len() <= count, "{} of {count} came", asked.len());
            if asked.len() == count {
                return asked;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("{} of {count} came", self.asked().len());
    }
}

fn serve(mut stream: &TcpStream, asked: &Mutex<Vec<Asked>>, answers: &Mutex<Arc<Answers>>) -> Option<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap();
    let path = head.split(' ').nth(1).unwrap().to_owned();
    let headers: HashMap<String, String> = head
        .lines()
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
        .collect();
    let mut body = vec![0; headers["content-length"].parse().unwrap()];
    stream.read_exact(&mut body).ok()?;
    let one = Asked { path, headers, body };
    let how = Arc::clone(&answers.lock().unwrap());
    let (status, body) = how(&one);
    asked.lock().unwrap().push(one);
    let body = body.to_string();
    let length = body.len();
    stream.write_all(format!("HTTP/1.1 {status} X\r\nContent-Length: {length}\r\n\r\n{body}").as_bytes()).ok()
}

/// A request of the group `dba`, with this name.
pub(crate) fn request(name: &str) -> ApprovalRequest {
    let subject = Subject {
        user: "deploy".into(),
        login_user: "carol".into(),
        exe: "/usr/bin/psql".into(),
        ..Subject::default()
    };
    ApprovalRequest {
        request: name.to_owned(),
        digest: vec![7; 32],
        step: "query".into(),
        text: "DELETE FROM customers".into(),
        statements: vec![ApprovalStatement {
            kinds: vec!["delete".into()],
            writes: vec!["public.customers".into()],
            r#where: "missing".into(),
            ..ApprovalStatement::default()
        }],
        subject: subject.encode_to_vec(),
        server: "10.0.0.7:5432".into(),
        hosts: vec!["db.internal".into()],
        database: "shop".into(),
        transaction: "none".into(),
        quorums: vec![ApprovalQuorum {
            rule: "unbounded-write".into(),
            groups: vec!["dba".into()],
            needed: 1,
            ..ApprovalQuorum::default()
        }],
        scopes: vec!["once".into()],
        collector: "decide".into(),
        left_ns: 600_000_000_000,
        ..ApprovalRequest::default()
    }
}

/// How a request stands.
fn standing(of: &ApprovalRequest, state: &str) -> ApprovalStanding {
    let bob = ApprovalBy { name: "bob".into(), ..ApprovalBy::default() };
    ApprovalStanding {
        request: of.request.clone(),
        digest: of.digest.clone(),
        state: state.into(),
        votes: vec![ApprovalCounted { by: Some(bob.clone()), ..ApprovalCounted::default() }],
        missing: 1,
        by: Some(bob),
        reason: "too \u{202e}late".into(),
        ..ApprovalStanding::default()
    }
}

struct Site {
    directory: TempDir,
    store: Arc<Store>,
    connected: Arc<Connected>,
    host: SampleHost,
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
        let host = SampleHost::enrol(&store, "runner-3", 1).await.unwrap();
        let stop = watch::channel(false).0;
        Self { directory, store, connected: Arc::default(), host, stop, running: Vec::new() }
    }

    fn secret(&self, name: &str, text: &str) -> PathBuf {
        let path = self.directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        path
    }

    async fn start(&mut self, asks: &str) {
        let approvals: Approvals = serde_saphyr::from_str(&format!("{{ask: [{asks}]}}")).unwrap();
        self.stop = watch::channel(false).0;
        let timing = Timing {
            poll: Duration::from_millis(20),
            gather: Duration::ZERO,
            least_wait: Duration::from_millis(5),
            most_wait: Duration::from_millis(50),
            stuck: Duration::from_millis(50),
            lease: Duration::from_secs(2),
            hour: Duration::from_millis(50),
        };
        let stopped = self.stop.subscribe();
        let asker = Asker { name: "collector.test", base: "https://collector.example", token_ns: i64::MAX };
        self.running =
            start(&approvals, asker, &self.store, &self.connected, &stopped, timing).await.unwrap();
    }

    async fn stop(&mut self) {
        self.stop.send(true).unwrap();
        for running in self.running.drain(..) {
            running.await.unwrap();
        }
    }

    async fn take(&self, told: &ApprovalRequest) -> String {
        let mut write = self.store.write().await.unwrap();
        assert!(write.take_approval(&self.host.id, told).await.unwrap());
        write.commit().await.unwrap();
        self.connected.change();
        approval_id(&self.host.id, &told.request, &told.digest)
    }

    async fn stands(&self, told: &ApprovalStanding) {
        let mut write = self.store.write().await.unwrap();
        assert!(write.take_standing(&self.host.id, told).await.unwrap());
        write.commit().await.unwrap();
        self.connected.change();
    }

    async fn until(&self, what: &str, found: impl AsyncFn(&Store) -> bool) {
        for _ in 0..3000 {
            if found(&self.store).await {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("{what}: {:#?}", self.store.outputs().await);
    }

    fn slack(&self, server: &Fake, more: &str) -> String {
        let (token, signing) = (self.secret("token", "xoxb-7\n"), self.secret("signing", SIGNING));
        format!(
            "{{kind: slack, name: chat, channel: C0123456789, team: T1, app: A1, token: {}, signing_secret: {}, api: 'http://{}/api'{more}}}",
            token.display(),
            signing.display(),
            server.address
        )
    }
}

/// Every text of a message that Slack or Teams reads as markup.
fn markup(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            if matches!(fields.get("type").and_then(Value::as_str), Some("mrkdwn" | "TextBlock" | "FactSet"))
            {
                found.push(value.to_string());
            }
            fields.values().for_each(|value| markup(value, found));
        }
        Value::Array(values) => values.iter().for_each(|value| markup(value, found)),
        _ => {}
    }
}

fn actions(message: &Value) -> Vec<String> {
    let blocks = message["blocks"].as_array().unwrap();
    let elements = blocks.last().unwrap()["elements"].as_array().unwrap();
    elements.iter().map(|element| element["action_id"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn slack_is_asked_and_its_message_follows_the_request() {
    let mut site = Site::new().await;
    let slack = Fake::new();
    let ask = site.slack(&slack, ", groups: [dba]");
    site.start(&ask).await;
    let told = request("aaaaaaaa");
    let id = site.take(&told).await;
    // Of another group.
    let mut other = request("bbbbbbbb");
    other.quorums[0].groups = vec!["network".into()];
    site.take(&other).await;
    let asked = slack.until(1).await;
    assert_eq!(
        (asked[0].path.as_str(), &asked[0].headers["authorization"]),
        ("/api/chat.postMessage", &"Bearer xoxb-7".to_owned())
    );
    let message = asked[0].json();
    assert_eq!(message["channel"], "C0123456789");
    let text = message.to_string();
    for part in [
        "deploy (signed in as carol)",
        "/usr/bin/psql",
        "runner-3",
        "db.internal (10.0.0.7:5432)",
        "shop",
        "delete",
        "public.customers",
        "no WHERE",
        "unbounded-write",
        "1 of dba",
        "DELETE FROM customers",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(text.contains(&format!("https://collector.example/approvals/{id}")), "{text}");
    assert_eq!(actions(&message), ["approve", "deny", "open"]);

    site.stands(&standing(&told, "pending")).await;
    let asked = slack.until(2).await;
    assert_eq!(asked[1].path, "/api/chat.update");
    let message = asked[1].json();
    assert_eq!((&message["ts"], &message["channel"]), (&"1700.5".into(), &"C0123456789".into()));
    assert!(message.to_string().contains("Approved by bob; 1 more needed."), "{message}");

    site.stands(&standing(&told, "denied")).await;
    let message = slack.until(3).await[2].json();
    assert!(message.to_string().contains("Refused by bob: too \\\\u{202e}late"), "{message}");
    assert_eq!(actions(&message), ["open"]);
    site.stop().await;
}

#[tokio::test]
async fn only_what_is_shown_whole_is_approved_by_a_button() {
    let mut site = Site::new().await;
    let slack = Fake::new();
    let ask = site.slack(&slack, "");
    site.start(&ask).await;
    let whole = || request("aaaaaaaa");
    let statement = || whole().statements.remove(0);
    let parts = [
        ApprovalRequest { text: format!("SELECT 1{};DROP TABLE customers", " ".repeat(1600)), ..whole() },
        ApprovalRequest { text: String::new(), ..whole() },
        ApprovalRequest { runs: vec!["DROP TABLE customers".into()], text: "EXECUTE a".into(), ..whole() },
        ApprovalRequest { params: vec![ApprovalParam { value: None }], ..whole() },
        ApprovalRequest { omitted_params: 1, ..whole() },
        ApprovalRequest { redacted: true, ..whole() },
        ApprovalRequest { database: format!("test{}shop", " ".repeat(300)), ..whole() },
        ApprovalRequest { hosts: vec!["a".repeat(200), "b".repeat(200)], ..whole() },
        ApprovalRequest { message: "x".repeat(301), ..whole() },
        ApprovalRequest { subject: vec![0xff], ..whole() },
        ApprovalRequest {
            statements: vec![ApprovalStatement {
                writes: vec!["a".repeat(290), "customers".into()],
                ..statement()
            }],
            ..whole()
        },
    ];
    for (at, told) in parts.into_iter().enumerate() {
        let told = ApprovalRequest { request: format!("bbbbbb{at:02}"), ..told };
        site.take(&told).await;
        let message = slack.until(at + 1).await[at].json();
        assert_eq!(actions(&message), ["deny", "open"], "{message}");
        assert!(message.to_string().contains("This is not all of it"), "{message}");
    }
    site.take(&whole()).await;
    let message = slack.until(12).await[11].json();
    assert_eq!(actions(&message), ["approve", "deny", "open"]);
    // A menu of what the rule lets be approved beyond that, of whole messages alone.
    let all = || ["once", "shape", "session"].map(str::to_owned).to_vec();
    let offers = [
        (
            ApprovalRequest { scopes: all(), shape_for_seconds: 1800, ..whole() },
            vec!["shape-5", "shape-15", "shape-30", "session"],
        ),
        (ApprovalRequest { scopes: all(), shape_for_seconds: 59, ..whole() }, vec!["session"]),
        (
            ApprovalRequest { scopes: vec!["shape".into()], shape_for_seconds: 900, ..whole() },
            vec!["shape-5", "shape-15"],
        ),
        (
            ApprovalRequest { scopes: vec!["shape".into()], shape_for_seconds: u64::MAX, ..whole() },
            vec!["shape-5", "shape-15", "shape-60", "shape-1440"],
        ),
        (ApprovalRequest { scopes: all(), shape_for_seconds: 1800, omitted_params: 1, ..whole() }, vec![]),
        (
            ApprovalRequest { scopes: all(), shape_for_seconds: 1800, collector: "show".into(), ..whole() },
            vec![],
        ),
    ];
    for (at, (told, offered)) in offers.into_iter().enumerate() {
        let told = ApprovalRequest { request: format!("cccccc{at:02}"), ..told };
        let id = site.take(&told).await;
        let message = slack.until(13 + at).await[12 + at].json();
        let elements = message["blocks"].as_array().unwrap().last().unwrap()["elements"].clone();
        let menu =
            elements.as_array().unwrap().iter().find(|element| element["action_id"] == "cover").cloned();
        let values: Vec<String> = menu
            .iter()
            .flat_map(|menu| menu["options"].as_array().unwrap())
            .map(|option| option["value"].as_str().unwrap().to_owned())
            .collect();
        let offered: Vec<String> = offered.into_iter().map(|cover| format!("{cover}:{id}")).collect();
        assert_eq!(values, offered, "{at}");
        if let Some(menu) = menu {
            // Slack's own bounds.
            assert_eq!(menu["type"], "static_select");
            assert!(menu["confirm"]["text"]["text"].as_str().unwrap().len() <= 300);
            assert!(values.iter().all(|value| value.len() <= 75));
        }
    }
    site.stop().await;
}

#[tokio::test]
async fn what_a_chat_missed_it_is_told_as_it_stands() {
    let mut site = Site::new().await;
    let slack = Fake::new();
    let ask = site.slack(&slack, "");
    site.start(&ask).await;
    site.stop().await;
    // While nobody was there: one that waits, and one that has ended.
    let (waits, ended) = (request("aaaaaaaa"), request("bbbbbbbb"));
    site.take(&waits).await;
    site.take(&ended).await;
    site.stands(&standing(&ended, "expired")).await;
    slack.answer(|_| (200, json!({"ok": false, "error": "not_in_channel"})));
    site.start(&ask).await;
    site.until("what is wrong is said", async |store| {
        let outputs = store.outputs().await.unwrap();
        outputs[0].name == "ask:chat" && outputs[0].error.contains("invite the app into channel C0123456789")
    })
    .await;
    site.until("it is found", async |store| {
        let findings = store.findings(true, None, 10).await.unwrap().items;
        findings.iter().any(|finding| finding.detail.contains("approvers have not been asked by chat"))
    })
    .await;
    slack.answer(|_| (200, json!({"ok": true, "channel": "C0123456789", "ts": "1.1"})));
    site.until("all is told", async |store| store.outputs().await.unwrap()[0].waiting_since_ns.is_none())
        .await;
    let told = slack.asked();
    let last = told.last().unwrap().json().to_string();
    assert!(last.contains("aaaaaaaa") && told.iter().all(|one| !one.json().to_string().contains("bbbbbbbb")));
    // Killed, and started anew: it is not told again.
    let count = told.len();
    for running in site.running.drain(..) {
        running.abort();
        let _ = running.await;
    }
    site.store.release_own().await.unwrap();
    site.start(&ask).await;
    // What Slack does not take keeps nothing else up.
    slack.answer(|one| {
        let refused = one.json().to_string().contains("cccccccc");
        (
            200,
            if refused {
                json!({"ok": false, "error": "invalid_blocks"})
            } else {
                json!({"ok": true, "channel": "C0123456789", "ts": "1.2"})
            },
        )
    });
    site.take(&request("cccccccc")).await;
    site.take(&request("dddddddd")).await;
    let told = slack.until(count + 2).await;
    assert!(told[count + 1].json().to_string().contains("dddddddd"));
    site.until("it is found", async |store| {
        let findings = store.findings(true, None, 10).await.unwrap().items;
        findings.iter().any(|finding| finding.detail.contains("invalid_blocks"))
    })
    .await;
    site.stop().await;
}

#[tokio::test]
async fn all_ways_tell_how_many_rows_are_expected() {
    let mut site = Site::new().await;
    let (slack, teams, hook) = (Fake::new(), Fake::new(), Fake::new());
    let url = site.secret("teams", &format!("http://{}/x\n", teams.address));
    let secret = site.secret("secret", &format!("whsec_{}\n", STANDARD.encode(SECRET)));
    let asks = format!(
        "{}, {{kind: teams, name: cards, url: {}}}, {{kind: webhook, name: hook, url: 'http://{}/x', secret: {}}}",
        site.slack(&slack, ""),
        url.display(),
        hook.address,
        secret.display()
    );
    site.start(&asks).await;
    let known = ApprovalEstimate { rows: Some(4_182_000), why_not: String::new() };
    let unknown = ApprovalEstimate { rows: None, why_not: "planning it may run functions".into() };
    let words =
        ["about 4 182 000, as the server expects", "no estimate, because planning it may run functions"];
    for (nth, (estimate, words)) in (1..).zip([known, unknown].into_iter().zip(words)) {
        let name = if nth == 1 { "aaaaaaaa" } else { "bbbbbbbb" };
        let told = ApprovalRequest { estimate: Some(estimate), ..request(name) };
        site.take(&told).await;
        for way in [&slack, &teams, &hook] {
            let asked = way.until(nth).await;
            assert!(asked[nth - 1].json().to_string().contains(words), "{}", asked[nth - 1].json());
        }
        assert_eq!(hook.asked()[nth - 1].json()["data"]["facts"]["rows"], words);
    }
    // Where no rule has it asked nothing is said.
    site.take(&request("cccccccc")).await;
    assert!(hook.until(3).await[2].json()["data"]["facts"].get("rows").is_none());
    site.stop().await;
}

#[tokio::test]
async fn hostile_text_is_text_and_no_more_everywhere() {
    let mut site = Site::new().await;
    let (slack, teams, hook) = (Fake::new(), Fake::new(), Fake::new());
    let url = site.secret("teams", &format!("http://{}/workflows/s3cret?sig=x\n", teams.address));
    let secret = site.secret("secret", &format!("whsec_{}\n", STANDARD.encode(SECRET)));
    let asks = format!(
        "{}, {{kind: teams, name: cards, url: {}}}, {{kind: webhook, name: hook, url: 'http://{}/x', secret: {}}}",
        site.slack(&slack, ""),
        url.display(),
        hook.address,
        secret.display()
    );
    site.start(&asks).await;
    let evil =
        format!("{HOSTILE} <!channel> <https://evil.example|click> [click](https://evil.example) *b* `` ```");
    let subject =
        Subject { user: evil.clone(), login_user: evil.clone(), exe: evil.clone(), ..Subject::default() };
    let told = ApprovalRequest {
        text: format!("{evil}\n{}", "x".repeat(100_000)),
        subject: subject.encode_to_vec(),
        database: evil.clone(),
        message: evil.clone(),
        server: evil.clone(),
        estimate: Some(ApprovalEstimate { rows: None, why_not: evil.repeat(100) }),
        statements: vec![ApprovalStatement {
            writes: vec![evil.clone(); 50],
            kinds: vec![evil.clone()],
            ..ApprovalStatement::default()
        }],
        ..request("aaaaaaaa")
    };
    site.take(&told).await;
    let message = slack.until(1).await[0].json();
    let card = teams.until(1).await[0].json();
    let event = hook.until(1).await;
    for value in [&message, &card] {
        let mut found = Vec::new();
        markup(value, &mut found);
        assert!(found.is_empty(), "{found:?}");
        let text = value.to_string();
        assert!(text.len() < 20_000, "{} bytes", text.len());
        assert!(!text.chars().any(interlock_recording::text::is_unprintable), "{text}");
        assert!(text.contains("This is not all of it"), "{text}");
    }
    let fallback = message["text"].as_str().unwrap();
    assert!(!fallback.contains(['<', '>']), "{fallback}");
    assert_eq!(card["attachments"][0]["content"]["actions"].as_array().unwrap().len(), 1);
    assert_eq!(teams.asked()[0].path, "/workflows/s3cret?sig=x");

    // The webhook's signature is that of Standard Webhooks.
    let one = &event[0];
    let mut mac = Hmac::<Sha256>::new_from_slice(&SECRET).unwrap();
    mac.update(format!("{}.{}.", one.headers["webhook-id"], one.headers["webhook-timestamp"]).as_bytes());
    mac.update(&one.body);
    assert_eq!(
        one.headers["webhook-signature"],
        format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
    );
    assert_eq!(
        (&one.json()["type"], &one.json()["data"]["state"]),
        (&"approval.requested".into(), &"pending".into())
    );

    site.stands(&standing(&told, "pending")).await;
    site.stands(&standing(&told, "approved")).await;
    let types: Vec<Value> = hook.until(3).await.iter().map(|one| one.json()["type"].clone()).collect();
    assert_eq!(types, ["approval.requested", "approval.voted", "approval.ended"]);
    // Teams is told that it is over, in a card of its own.
    let card = teams.until(2).await[1].json().to_string();
    assert!(card.contains("Approved by bob") && !card.contains("and decide"), "{card}");
    site.until("all is told", async |store| {
        store.outputs().await.unwrap().iter().all(|output| output.waiting_since_ns.is_none())
    })
    .await;
    for output in site.store.outputs().await.unwrap() {
        assert!(!output.error.contains("s3cret"), "{output:?}");
    }
    site.stop().await;
}

#[tokio::test]
async fn who_asks_again_and_again_is_told_of_once_more_and_nobody_else_waits() {
    let mut site = Site::new().await;
    let (slack, hook) = (Fake::new(), Fake::new());
    let secret = site.secret("secret", &format!("whsec_{}\n", STANDARD.encode(SECRET)));
    let asks = format!(
        "{}, {{kind: webhook, name: hook, url: 'http://{}/x', secret: {}}}",
        site.slack(&slack, ""),
        hook.address,
        secret.display()
    );
    site.start(&asks).await;
    let of = |name: String, user: &str| {
        let subject = Subject { user: "deploy".into(), login_user: user.into(), ..Subject::default() };
        ApprovalRequest { subject: subject.encode_to_vec(), ..request(&name) }
    };
    let mut ids = Vec::new();
    for nth in 0..30 {
        ids.push(site.take(&of(format!("aaaaaa{nth:02}"), "carol")).await);
    }
    // Programs are told of all, people of so many, and then that there are more.
    hook.until(30).await;
    let told = slack.until(21).await;
    let more = told[20].json();
    assert_eq!(told[20].path, "/api/chat.postMessage");
    assert!(more.to_string().contains("asks again and again"), "{more}");
    assert_eq!(actions(&more), ["open"], "nothing is decided by it");
    assert!(more.to_string().contains("https://collector.example/approvals\""), "{more}");
    assert!(told[..20].iter().zip(&ids).all(|(one, id)| one.json().to_string().contains(id.as_str())));
    // Another user of the host is told of at once, and what comes of those that were told still is.
    let other = site.take(&of("bbbbbbbb".into(), "dora")).await;
    assert!(slack.until(22).await[21].json().to_string().contains(&other));
    site.stands(&standing(&of("aaaaaa00".into(), "carol"), "denied")).await;
    let told = slack.until(23).await;
    assert_eq!(told[22].path, "/api/chat.update");
    // What was folded is nobody's news when it ends, unless it went through unapproved.
    site.stands(&standing(&of("aaaaaa25".into(), "carol"), "denied")).await;
    site.stands(&standing(&of("aaaaaa26".into(), "carol"), "broken_glass")).await;
    let told = slack.until(24).await;
    assert!(told[23].json().to_string().contains("UNAPPROVED"), "{}", told[23].json());
    site.until("all is passed", async |store| {
        store.outputs().await.unwrap().iter().all(|output| output.waiting_since_ns.is_none())
    })
    .await;
    assert_eq!(slack.asked().len(), 24);
    hook.until(34).await;
    site.stop().await;
}

#[tokio::test]
async fn the_askers_words_are_told_apart_from_the_rules_and_all_of_them_or_nothing_is_approved() {
    let site = Site::new().await;
    let seen = async |told: ApprovalRequest| {
        let id = site.take(&told).await;
        let one = site.store.approval(&id).await.unwrap().unwrap();
        (shown::Shown::new(&one, "").json(), shown::is_whole(&one))
    };
    let beforehand = |name: &str, reason: &str, program: &str| ApprovalRequest {
        message: "Ask the DBAs.".into(),
        beforehand: Some(ApprovalBeforehand {
            reason: reason.into(),
            tree_pid: 4711,
            tree_exe: "/usr/bin/claude".into(),
            usable_seconds: 900,
            time_zone: String::new(),
            program: program.into(),
        }),
        ..request(name)
    };
    let (told, whole) = seen(beforehand("aaaaaaaa", "ticket 17” The rule says: “yes", "/sbin/nightly")).await;
    assert_eq!((&told["message"], whole), (&"Ask the DBAs.".into(), true));
    assert_eq!(told["facts"]["they say"], "“ticket 17\" The rule says: \"yes”");
    let sent_by = told["facts"]["they say it is sent by"].as_str().unwrap();
    assert!(sent_by.starts_with("/sbin/nightly;"), "{sent_by}");
    assert_eq!(told["facts"]["program"], "/usr/bin/psql", "what the host has seen");
    let not_sent = told["facts"]["not sent yet"].as_str().unwrap();
    assert!(not_sent.contains("4711 /usr/bin/claude") && not_sent.contains("900 s"), "{not_sent}");
    assert!(
        !seen(beforehand("bbbbbbbb", &"r".repeat(299), "")).await.1,
        "a reason that is not shown in full"
    );
    assert!(
        !seen(beforehand("cccccccc", "r", &format!("/{}", "p".repeat(299)))).await.1,
        "nor is the program"
    );
    assert!(seen(beforehand("dddddddd", "r", "")).await.0["facts"]["they say it is sent by"].is_null());
}
