//! Approvers who are asked by mail, through a real mail server.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use interlock_collector::sample::{HOSTILE, SampleHost};
use interlock_collector::store::Store;
use interlock_recording::proto::Subject;
use interlock_shipping::v1::{ApprovalQuorum, ApprovalRequest, ApprovalStanding};
use interlock_tests::cache;
use prost::Message as _;
use serde_json::Value;

use crate::kafka::{certificate, fails, secret};
use crate::{Collector, LIMIT};

/// aiosmtpd.
struct Server {
    port: u16,
    process: Child,
    mails: Arc<Mutex<Vec<Value>>>,
}

impl Server {
    fn start(certificate: &Path, key: &Path) -> Self {
        let mut process = Command::new(cache::receivers().join("bin/python"))
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/outputs/mail.py"))
            .args([certificate, key])
            .args(["interlock", "open sesame"])
            .stdout(Stdio::piped())
            .spawn()
            .expect("aiosmtpd: `cargo xtask setup` installs it");
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let port = lines.next().expect("aiosmtpd: `cargo xtask setup` installs it").unwrap();
        let mails = Arc::new(Mutex::new(Vec::new()));
        let to = Arc::clone(&mails);
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                to.lock().unwrap().push(serde_json::from_str(&line).unwrap());
            }
        });
        Self { port: port.parse().unwrap(), process, mails }
    }

    async fn until(&self, count: usize, collector: &Collector) -> Vec<Value> {
        for _ in 0..LIMIT.as_millis() / 50 {
            let mails = self.mails.lock().unwrap().clone();
            if mails.len() >= count {
                return mails;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{:?} came: {}", self.mails.lock().unwrap(), collector.log());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

async fn take(store: &Store, host: &SampleHost, name: &str) -> ApprovalRequest {
    let evil = format!("{HOSTILE}\r\nBcc: everyone@example.com\r\n\r\n.\r\nQUIT");
    let told = ApprovalRequest {
        request: name.into(),
        digest: vec![7; 32],
        text: format!("DELETE FROM t; -- {evil}"),
        subject: Subject { user: evil.clone(), ..Subject::default() }.encode_to_vec(),
        quorums: vec![ApprovalQuorum { groups: vec!["dba".into()], needed: 1, ..ApprovalQuorum::default() }],
        collector: "decide".into(),
        left_ns: 600_000_000_000,
        ..ApprovalRequest::default()
    };
    let mut write = store.write().await.unwrap();
    assert!(write.take_approval(&host.id, &told).await.unwrap());
    write.commit().await.unwrap();
    told
}

#[tokio::test(flavor = "multi_thread")]
async fn approvers_are_asked_by_mail_and_nothing_in_it_is_a_header() {
    let directory = tempfile::tempdir().unwrap();
    let (crt, key) = certificate(directory.path(), "mail");
    let password = directory.path().join("password");
    secret(&password, "open barley\n");
    let server = Server::start(&crt, &key);
    let ask = |name: &str, to: &str| {
        format!(
            "- {{kind: email, name: {name}, server: 'starttls://localhost:{}', from: 'Interlock <a@collector.test>', to: \
             [{to}], user: interlock, password: {}, ca: {}}}\n",
            server.port,
            password.display(),
            crt.display()
        )
    };
    let more = format!(
        "[]\napprovals:\n  ask:\n  {}  {}",
        ask("oncall", "oncall@example.com, dba@example.com"),
        ask("gone", "gone@example.com")
    );
    let mut collector = Collector::with(directory.path(), ", url: 'https://collector.example'", &more);
    let store = collector.store(2).await;
    let host = SampleHost::enrol(&store, "runner-3", 1).await.unwrap();
    let told = take(&store, &host, "aaaaaaaa").await;
    // A wrong password is of the configuration: it is tried again.
    let error = fails(&store, "535", &collector).await;
    assert!(!error.contains("barley"), "{error}");
    secret(&password, "open sesame\n");
    let first = server.until(1, &collector).await[0].clone();
    assert_eq!(first["tls"], true);
    assert_eq!(first["to"], serde_json::json!(["oncall@example.com", "dba@example.com"]));
    let text = first["text"].as_str().unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    assert!(!head.contains("everyone@"), "{head}");
    let headers: Vec<&str> = head
        .lines()
        .filter(|line| !line.starts_with([' ', '\t']))
        .filter_map(|line| line.split(':').next())
        .collect();
    for header in &headers {
        let known = [
            "From",
            "To",
            "Subject",
            "Message-ID",
            "Date",
            "MIME-Version",
            "Content-Type",
            "Content-Transfer-Encoding",
        ];
        assert!(known.contains(header), "{header}: {head}");
    }
    assert!(head.to_lowercase().contains("text/plain"), "{head}");
    assert!(!body.is_empty());

    let ended = ApprovalStanding {
        request: told.request.clone(),
        digest: told.digest.clone(),
        state: "denied".into(),
        reason: "no".into(),
        ..ApprovalStanding::default()
    };
    let mut write = store.write().await.unwrap();
    assert!(write.take_standing(&host.id, &ended).await.unwrap());
    write.commit().await.unwrap();
    let second = server.until(2, &collector).await[1]["text"].as_str().unwrap().to_owned();
    let id = |text: &str, name: &str| {
        let line =
            text.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{name}: {text}"));
        line.split_once(": ").unwrap().1.to_owned()
    };
    assert_eq!(id(&second, "In-Reply-To"), id(text, "Message-ID"));
    // A mailbox that is not there keeps nobody up, and is found.
    for _ in 0..LIMIT.as_millis() / 50 {
        let findings = store.findings(true, None, 10).await.unwrap().items;
        if findings.iter().any(|finding| finding.detail.contains("by gone: the mail server answers with 550"))
        {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("it is not found: {}", collector.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn members_are_written_to_by_verified_addresses_one_mail_a_person() {
    let directory = tempfile::tempdir().unwrap();
    let (crt, key) = certificate(directory.path(), "mail");
    let password = directory.path().join("password");
    secret(&password, "open sesame\n");
    let server = Server::start(&crt, &key);
    let more = format!(
        "[]\napprovals:\n  ask:\n  - {{kind: email, name: members, groups: [dba], members: true, domains: [example.com], \
         server: 'starttls://localhost:{}', from: 'a@collector.test', user: interlock, password: {}, ca: {}}}\n",
        server.port,
        password.display(),
        crt.display()
    );
    let mut collector = Collector::with(directory.path(), ", url: 'https://collector.example'", &more);
    let store = collector.store(1).await;
    let host = SampleHost::enrol(&store, "runner-3", 1).await.unwrap();
    let mut write = store.write().await.unwrap();
    for (name, email, verified, groups) in [
        ("alice", "alice@example.com", true, "dba"),
        // Another account of the same person, and another group of the request's.
        ("alice2", "Alice@Example.com", true, "dba"),
        ("bob", "bob@example.com", true, "oncall"),
        ("gone", "gone@example.com", true, "dba"),
        ("zoe", "zoe@example.com", true, "dba"),
        // Who only says so, asks, is elsewhere, disabled, in no group of these, or would write a header.
        ("claims", "claims@example.com", false, "dba"),
        ("carol", "carol@example.com", true, "dba"),
        ("away", "away@example.org", true, "dba"),
        ("disabled", "disabled@example.com", true, "dba"),
        ("other", "other@example.com", true, "other"),
        ("evil", "evil@example.com\r\nBcc: everyone@example.com", true, "dba"),
        ("many", "many@example.com,everyone@example.com", true, "dba"),
    ] {
        write.add_user(name, "*", "viewer", "test").await.unwrap();
        write.set_groups(name, &[groups.to_owned()]).await.unwrap();
        write.set_email(name, email).await.unwrap();
        if verified {
            write.verify_email(name).await.unwrap();
        }
    }
    assert!(write.set_user("disabled", "viewer", false).await.unwrap());
    write.commit().await.unwrap();

    let told = ApprovalRequest {
        request: "aaaaaaaa".into(),
        digest: vec![7; 32],
        text: "DELETE FROM t".into(),
        subject: Subject { user: "deploy".into(), login_user: "carol".into(), ..Subject::default() }
            .encode_to_vec(),
        quorums: vec![ApprovalQuorum {
            groups: vec!["dba".into(), "oncall".into()],
            needed: 1,
            ..ApprovalQuorum::default()
        }],
        collector: "decide".into(),
        left_ns: 600_000_000_000,
        ..ApprovalRequest::default()
    };
    let mut write = store.write().await.unwrap();
    assert!(write.take_approval(&host.id, &told).await.unwrap());
    write.commit().await.unwrap();
    let to = |mails: &[Value]| -> Vec<String> {
        mails.iter().map(|mail| mail["to"][0].as_str().unwrap().to_owned()).collect()
    };
    // `bob` is of a group that this way does not ask; a mailbox that is not there keeps nobody up.
    let mails = server.until(2, &collector).await;
    assert_eq!(to(&mails), ["alice@example.com", "zoe@example.com"]);
    for mail in &mails {
        assert_eq!(mail["to"].as_array().unwrap().len(), 1, "nobody learns who else is asked");
        assert!(!mail["text"].as_str().unwrap().contains("everyone@"));
    }
    // It is approved by one and needs no more; whoever was asked hears how it ended, in the same thread.
    let stands = |state: &str| ApprovalStanding {
        request: told.request.clone(),
        digest: told.digest.clone(),
        state: state.into(),
        reason: "no".into(),
        ..ApprovalStanding::default()
    };
    let mut write = store.write().await.unwrap();
    assert!(write.take_standing(&host.id, &stands("denied")).await.unwrap());
    write.commit().await.unwrap();
    let mails = server.until(4, &collector).await;
    assert_eq!(to(&mails[2..]), ["alice@example.com", "zoe@example.com"]);
    let line = |mail: &Value, name: &str| {
        let text = mail["text"].as_str().unwrap();
        text.lines()
            .find_map(|line| line.strip_prefix(name))
            .unwrap_or_else(|| panic!("{name}: {text}"))
            .to_owned()
    };
    for at in [0, 1] {
        assert_eq!(line(&mails[at + 2], "In-Reply-To: "), line(&mails[at], "Message-ID: "));
    }
    assert_ne!(line(&mails[0], "Message-ID: "), line(&mails[1], "Message-ID: "));
    // Killed and started anew, nobody has one again; the next request is told of.
    collector.kill();
    collector.start();
    let next = ApprovalRequest { request: "bbbbbbbb".into(), ..told };
    let mut write = store.write().await.unwrap();
    assert!(write.take_approval(&host.id, &next).await.unwrap());
    write.commit().await.unwrap();
    let mails = server.until(6, &collector).await;
    assert_eq!(to(&mails[4..]), ["alice@example.com", "zoe@example.com"]);
    assert_eq!(mails.len(), 6);
    let findings = store.findings(true, None, 100).await.unwrap().items;
    let gone = findings.iter().filter(|found| found.detail.contains("to account gone")).count();
    assert_eq!(gone, 1, "once, and not for each request: {findings:?}");
}
