//! The inbox, as requests come, are decided on, and go.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use interlock_collector::config::Config;
use interlock_collector::sample::{HOSTILE, SampleHost};
use interlock_collector::store::{Store, now_ns};
use interlock_collector::{serve, web};
use interlock_recording::proto::{Ancestor, Ci, Subject};
use interlock_shipping::v1::{
    ApprovalAnswer, ApprovalBy, ApprovalCounted, ApprovalParam, ApprovalQuorum, ApprovalRequest,
    ApprovalStanding, ApprovalStatement,
};
use interlock_tests::cache;
use prost::Message as _;

use super::chromium;

fn request(nth: u8, text: &str, user: &str) -> ApprovalRequest {
    let subject = Subject {
        pid: 4711,
        user: user.into(),
        login_user: "anna".into(),
        login_uid: Some(1000),
        exe: "/usr/bin/python3.11".into(),
        script: Some("/srv/jobs/nightly.py".into()),
        argv: vec!["python3".into(), "/srv/jobs/nightly.py".into(), "--all".into()],
        unit: "nightly.service".into(),
        ci: Some(Ci {
            system: "gitlab".into(),
            project: "shop/jobs".into(),
            job: "nightly".into(),
            ..Ci::default()
        }),
        ancestors: vec![Ancestor { pid: 1, exe: "/usr/lib/systemd/systemd".into(), ..Ancestor::default() }],
        ..Subject::default()
    };
    ApprovalRequest {
        request: format!("k7m2q9x{nth}"),
        digest: vec![nth; 32],
        session: vec![nth; 16],
        asked_ns: now_ns().unsigned_abs(),
        left_ns: 900_000_000_000 + u64::from(nth) * 60_000_000_000,
        step: "query".into(),
        text: text.into(),
        params: vec![ApprovalParam { value: Some("secret-parameter".into()) }, ApprovalParam::default()],
        statements: vec![ApprovalStatement {
            kinds: vec!["update".into()],
            writes: vec!["public.customers".into()],
            reads: vec!["public.orders".into()],
            r#where: "missing".into(),
            ..ApprovalStatement::default()
        }],
        subject: subject.encode_to_vec(),
        server: "10.0.0.7:5432".into(),
        hosts: vec!["main.db.example".into()],
        database: "shop".into(),
        db_user: "shop_rw".into(),
        transaction: "open".into(),
        command: 12,
        message: "Ask in #dba if in doubt.".into(),
        quorums: vec![ApprovalQuorum {
            rule: "unbounded-write".into(),
            groups: vec!["dba".into(), "oncall".into()],
            needed: 1,
            ..ApprovalQuorum::default()
        }],
        scopes: vec!["once".into(), "shape".into(), "session".into()],
        shape_for_seconds: 1800,
        likeness: vec![1; 32],
        collector: "decide".into(),
        ..ApprovalRequest::default()
    }
}

async fn ask(store: &Store, host: &str, told: &ApprovalRequest) {
    let mut write = store.write().await.unwrap();
    write.take_approval(host, told).await.unwrap();
    write.commit().await.unwrap();
}

async fn end(store: &Store, host: &str, of: &ApprovalRequest, state: &str, by: &str) {
    let by = ApprovalBy { name: by.into(), via: "host".into(), ..ApprovalBy::default() };
    let standing = ApprovalStanding {
        request: of.request.clone(),
        digest: of.digest.clone(),
        state: state.into(),
        reason: "not today".into(),
        by: Some(by),
        ..ApprovalStanding::default()
    };
    let mut write = store.write().await.unwrap();
    write.take_standing(host, &standing).await.unwrap();
    write.commit().await.unwrap();
}

/// The agent: it counts what it is told.
async fn agent(store: Arc<Store>, host: String) {
    loop {
        for vote in store.waiting_votes(&host).await.unwrap().0 {
            let by = vote.by.clone().unwrap_or_default();
            let by = ApprovalBy {
                name: by.name,
                via: "collector".into(),
                groups: by.groups,
                ..ApprovalBy::default()
            };
            let counted = ApprovalCounted {
                by: Some(by),
                reason: vote.reason.clone(),
                scope: vote.scope.clone(),
                seconds: 0,
            };
            let standing = ApprovalStanding {
                request: vote.request.clone(),
                digest: vote.digest.clone(),
                state: "approved".into(),
                votes: vec![counted],
                ..ApprovalStanding::default()
            };
            let mut write = store.write().await.unwrap();
            write
                .answer_vote(
                    &host,
                    &ApprovalAnswer { vote: vote.vote, counted: true, ..ApprovalAnswer::default() },
                )
                .await
                .unwrap();
            write.take_standing(&host, &standing).await.unwrap();
            write.commit().await.unwrap();
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_come_and_go_in_the_inbox() {
    let directory = tempfile::tempdir().unwrap();
    let config = Config {
        state: directory.path().join("state"),
        name: Some("collector.test".into()),
        ..Config::default()
    };
    let parts = serve::open(&config).await.unwrap();
    let store = Arc::clone(&parts.intake.store);
    let host = SampleHost::enrol(&store, "bastion-1.example", 1).await.unwrap().id;
    let counting = tokio::spawn(agent(Arc::clone(&store), host.clone()));
    let state = web::State::new(&parts.intake, web::Config::default()).unwrap();
    let router = web::router(state.clone());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let server = tokio::spawn(async move {
        axum::serve(listener, router.into_make_service_with_connect_info::<SocketAddr>()).await.unwrap();
    });
    let setup = web::setup_link(&store).await.unwrap().expect("there is no account yet");
    let screenshots = Path::new(env!("CARGO_TARGET_TMPDIR")).join("collector-inbox");
    let mut script = Command::new("node")
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/browser/inbox.mjs"))
        .arg(chromium())
        .args([base.as_str(), &setup])
        .arg(&screenshots)
        .env("NODE_PATH", cache::node().join("node_modules"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("node");
    let text = "UPDATE public.customers\n   SET newsletter = $1,\n       note = $2";
    let first = request(1, text, "deploy");
    let second = request(2, "DELETE FROM public.orders", "ci-runner");
    let mut hostile = request(3, &format!("{HOSTILE} {}", "unbroken".repeat(60)), HOSTILE);
    hostile.database = HOSTILE.into();
    hostile.message = HOSTILE.into();
    hostile.statements[0].writes = vec![HOSTILE.into(), "unbroken".repeat(40)];
    hostile.quorums[0].rule = HOSTILE.into();
    let mut input = script.stdin.take().unwrap();
    let mut lines = BufReader::new(script.stdout.take().unwrap()).lines();
    let mut said = Vec::new();
    loop {
        let (line, rest) = tokio::task::spawn_blocking(move || (lines.next(), lines)).await.unwrap();
        lines = rest;
        let Some(line) = line else { break };
        let line = line.unwrap();
        match line.as_str() {
            "in the group" => {
                let groups = Some(vec!["dba".to_owned()]);
                web::set_owner(&state, "root", "test", groups, None, None).await.unwrap();
            }
            "first request" => ask(&store, &host, &first).await,
            "two more requests" => {
                ask(&store, &host, &second).await;
                ask(&store, &host, &hostile).await;
            }
            "one goes" => end(&store, &host, &second, "withdrawn", "").await,
            "the last is decided elsewhere" => end(&store, &host, &hostile, "denied", HOSTILE).await,
            _ => {
                said.push(line);
                continue;
            }
        }
        input.write_all(b"done\n").unwrap();
        said.push(line);
    }
    let status = script.wait().unwrap();
    server.abort();
    counting.abort();
    let wrong: Vec<_> = said.iter().filter(|line| line.starts_with("wrong: ")).collect();
    assert!(wrong.is_empty(), "screenshots are in {}\n{wrong:#?}", screenshots.display());
    assert!(status.success() && said.last().is_some_and(|line| line == "well"), "it stopped after {said:?}");
}
