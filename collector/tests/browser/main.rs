//! The pages in a real browser, Chromium, driven by a script (`drive.mjs`).

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test panics when something is not as it must be")]

mod inbox;

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use interlock_collector::config::Config;
use interlock_collector::sample::{self, HOSTILE, SampleHost, SampleSession};
use interlock_collector::store::now_ns;
use interlock_collector::{serve, web};
use interlock_recording::SessionId;
use interlock_recording::proto;
use interlock_recording::proto::event::Body;
use interlock_tests::cache;

fn chromium() -> PathBuf {
    let found =
        ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"].map(PathBuf::from);
    found.into_iter().find(|path| path.exists()).expect("Chromium: `cargo xtask setup` installs it")
}

/// A session whose first command's end, second command and own end are still to come.
async fn live_session(host: &mut SampleHost, store: &interlock_collector::store::Store) -> (SessionId, i64) {
    let started_ns = now_ns() - 5_000_000_000;
    let sample = SampleSession { started_ns, ended: false, commands: Vec::new(), ..SampleSession::default() };
    let session = host.session(store, &sample).await.unwrap();
    let first = proto::Command {
        command: 1,
        step: "query".into(),
        verdict: "allow".into(),
        text: "SELECT pg_sleep(5)".into(),
        ..Default::default()
    };
    host.record(store, session, started_ns, 2, vec![Body::Command(first)]).await.unwrap();
    (session, started_ns)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_shows_it_all() {
    let directory = tempfile::tempdir().unwrap();
    let config = Config {
        state: directory.path().join("state"),
        name: Some("collector.test".into()),
        ..Config::default()
    };
    let parts = serve::open(&config).await.unwrap();
    let store = &parts.intake.store;
    let mut host = SampleHost::enrol(store, "bastion-1.example", 1).await.unwrap();
    let mut other = SampleHost::enrol(store, HOSTILE, 2).await.unwrap();

    for at in 0..60_i64 {
        let sample = SampleSession {
            started_ns: now_ns() - 86_400_000_000_000 + at * 1_200_000_000_000,
            user: ["deploy", "ci-runner", "reports"][at as usize % 3].into(),
            exe: ["/usr/bin/psql", "/srv/jobs/nightly.py", "/usr/bin/pg_dump"][at as usize % 3].into(),
            db_user: ["shop_rw", "ci", "readonly"][at as usize % 3].into(),
            database: ["shop", "billing", "warehouse"][at as usize % 3].into(),
            commands: vec![
                ("SELECT id, name, email FROM public.customers ORDER BY id".into(), "allow", "", ""),
                (
                    "UPDATE public.orders SET state = 'sent'".into(),
                    if at % 5 == 0 { "deny" } else { "allow" },
                    if at % 5 == 0 { "unbounded-write" } else { "" },
                    "",
                ),
                ("SELECT * FROM public.payments".into(), "allow", "", if at % 7 == 0 { "hold" } else { "" }),
            ],
            ..SampleSession::default()
        };
        host.session(store, &sample).await.unwrap();
    }
    let text = "-- who earns what\nSELECT e.name,\n       s.amount\n  FROM hr.employees e\n  JOIN hr.salaries s USING (employee_id)\n WHERE s.amount > $1";
    let sample = SampleSession {
        commands: vec![
            ("BEGIN".into(), "allow", "", ""),
            (text.into(), "allow", "", "hold"),
            ("DELETE FROM public.customers".into(), "deny", "unbounded-write", ""),
            ("TRUNCATE audit_log".into(), "hold", "ask-for-truncate", ""),
            ("ROLLBACK".into(), "allow", "", ""),
        ],
        ..SampleSession::default()
    };
    let session = host.session(store, &sample).await.unwrap();
    let evil = || HOSTILE.to_owned();
    let sample = SampleSession {
        user: evil(),
        exe: format!("/tmp/{HOSTILE}"),
        argv: vec![evil(), "x".repeat(3000)],
        destination: evil(),
        host_name: evil(),
        db_user: evil(),
        database: evil(),
        commands: vec![
            (evil(), "allow", "", ""),
            (format!("{HOSTILE} {}", "unbroken".repeat(4000)), "deny", "<b>rule</b>", ""),
        ],
        ..SampleSession::default()
    };
    let hostile = other.session(store, &sample).await.unwrap();
    let (live, started_ns) = live_session(&mut host, store).await;
    let begun = now_ns() - 30_000_000_000;
    let sample =
        SampleSession { started_ns: begun, commands: Vec::new(), ended: false, ..SampleSession::default() };
    let terminal = host.session(store, &sample).await.unwrap();
    host.record(store, terminal, begun, 2, sample::terminal()).await.unwrap();
    let mut write = store.write().await.unwrap();
    write
        .add_finding(&host.id, "segment_missing", "Segment 7 has not come, and segment 8 has.", Some(12))
        .await
        .unwrap();
    write.add_finding(&other.id, HOSTILE, HOSTILE, None).await.unwrap();
    write.commit().await.unwrap();

    let state = web::State::new(&parts.intake, web::Config::default()).unwrap();
    let router = web::router(state);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let server = tokio::spawn(async move {
        axum::serve(listener, router.into_make_service_with_connect_info::<SocketAddr>()).await.unwrap();
    });
    let setup = web::setup_link(store).await.unwrap().expect("there is no account yet");

    let screenshots = Path::new(env!("CARGO_TARGET_TMPDIR")).join("collector-pages");
    let mut script = Command::new("node")
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/browser/drive.mjs"))
        .arg(chromium())
        .args([
            base.as_str(),
            &setup,
            &session.to_string(),
            &hostile.to_string(),
            &live.to_string(),
            &host.id,
            &terminal.to_string(),
        ])
        .arg(&screenshots)
        .env("NODE_PATH", cache::node().join("node_modules"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("node");
    let mut said = Vec::new();
    let mut input = script.stdin.take().unwrap();
    let mut lines = BufReader::new(script.stdout.take().unwrap()).lines();
    loop {
        let (line, rest) = tokio::task::spawn_blocking(move || (lines.next(), lines)).await.unwrap();
        lines = rest;
        let Some(line) = line else { break };
        let line = line.unwrap();
        if line == "following" {
            let result = proto::CommandResult {
                command: 1,
                status: "complete".into(),
                tag: "SELECT 1".into(),
                ..Default::default()
            };
            let second = proto::Command {
                command: 2,
                step: "query".into(),
                verdict: "allow".into(),
                text: "SELECT 'later'".into(),
                ..Default::default()
            };
            let end = proto::SessionEnded { reason: "client_closed".into(), ..Default::default() };
            let bodies = vec![Body::Result(result), Body::Command(second), Body::SessionEnded(end)];
            host.record(store, live, started_ns, 3, bodies).await.unwrap();
            input.write_all(b"recorded\n").unwrap();
        }
        said.push(line);
    }
    let status = script.wait().unwrap();
    server.abort();
    let wrong: Vec<_> = said.iter().filter(|line| line.starts_with("wrong: ")).collect();
    assert!(wrong.is_empty(), "screenshots are in {}\n{wrong:#?}", screenshots.display());
    assert!(
        status.success() && said.last().is_some_and(|line| line == "looked"),
        "it stopped after {said:?}"
    );
}
