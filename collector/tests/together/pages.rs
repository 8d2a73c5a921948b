//! The pages and the API on both databases: everything that a link leads to is there, and the same on both.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;

use interlock_collector::config::Config;
use interlock_collector::intake::Intake;
use interlock_collector::sample::{self, HOSTILE, SampleHost, SampleSession};
use interlock_collector::store::now_ns;
use interlock_collector::{serve, web};
use interlock_tests::Browser;

use crate::kept;

/// More pages than there are.
const PAGES: usize = 400;

async fn fill(intake: &Intake) {
    let store = &intake.store;
    let mut host = SampleHost::enrol(store, "bastion", 5).await.expect("enrolled");
    // Names of hosts are looked at when they enrol.
    let name = HOSTILE.replace('\0', "");
    let mut other = SampleHost::enrol(store, &name, 6).await.expect("enrolled");
    for number in 0..60 {
        let session = SampleSession {
            started_ns: now_ns() - 1_000_000_000 * (1000 - number),
            commands: vec![
                ("SELECT name FROM customers".into(), "allow", "", if number == 3 { "deny" } else { "" }),
                ("DROP TABLE customers".into(), "deny", "no-drop", ""),
            ],
            ..SampleSession::default()
        };
        host.session(store, &session).await.expect("recorded");
    }
    let evil = || HOSTILE.to_owned();
    let session = SampleSession {
        user: evil(),
        destination: evil(),
        database: evil(),
        commands: vec![(evil(), "deny", "<b>rule</b>", "")],
        ..SampleSession::default()
    };
    other.session(store, &session).await.expect("recorded");
    let begun = now_ns() - 30_000_000_000;
    let session =
        SampleSession { started_ns: begun, commands: Vec::new(), ended: false, ..SampleSession::default() };
    let terminal = host.session(store, &session).await.expect("recorded");
    host.record(store, terminal, begun, 2, sample::terminal()).await.expect("recorded");
    let mut write = store.write().await.expect("writes");
    write.add_finding(&host.id, "segment_missing", HOSTILE, Some(12)).await.expect("added");
    write.commit().await.expect("committed");
}

/// A path without what differs from one collector to another.
fn shape(path: &str) -> String {
    let mut shape = String::new();
    for c in path.chars() {
        match c {
            '0'..='9' | 'a'..='f' if shape.ends_with('#') => {}
            '0'..='9' => shape.push('#'),
            c => shape.push(c),
        }
    }
    shape
}

/// Where the links of a page lead on this site.
fn links(page: &str) -> impl Iterator<Item = String> + '_ {
    page.split("href=\"").skip(1).filter_map(|rest| {
        let link = rest.split('"').next()?.split('#').next()?.replace("&amp;", "&").replace("&#38;", "&");
        (link.starts_with('/') && !link.starts_with("//")).then_some(link)
    })
}

/// Looks at all that can be reached, and at every list of the API; gives what there was.
async fn walk(intake: Arc<Intake>) -> BTreeSet<String> {
    let state = web::State::new(&intake, web::Config::default()).expect("a site");
    let router = web::router(state);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let base = format!("http://{}", listener.local_addr().expect("an address"));
    let server = tokio::spawn(async move {
        axum::serve(listener, router.into_make_service_with_connect_info::<SocketAddr>())
            .await
            .expect("served");
    });
    let setup = web::setup_link(&intake.store).await.expect("a link").expect("no account yet");
    let link = if setup.starts_with('/') { format!("{base}{setup}") } else { setup };
    let walked = tokio::task::spawn_blocking(move || {
        let browser = Browser::by_link(&link).expect("set up");
        let mut ahead: Vec<String> = vec!["/sessions".into()];
        let document: serde_json::Value =
            serde_json::from_str(&browser.get("/api/v1/openapi.json").expect("the document")).expect("JSON");
        let paths = document["paths"].as_object().expect("paths");
        // What needs more than its address is reached by links or not at all, and nobody has signed checkpoints here.
        let plain = paths.iter().filter(|(path, about)| !path.contains('{') && about.get("get").is_some());
        let needs_more = ["/api/v1/ledger/consistency", "/api/v1/ledger/checkpoint"];
        ahead.extend(plain.map(|(path, _)| path.clone()).filter(|path| !needs_more.contains(&path.as_str())));
        let (mut met, mut seen) = (BTreeSet::new(), BTreeSet::new());
        while let Some(path) = ahead.pop() {
            // Of pages that differ by a number only, one each is looked at.
            if !met.insert(shape(&path)) {
                continue;
            }
            assert!(met.len() < PAGES, "{met:#?}");
            // It goes on for as long as the session does.
            if path.ends_with("/follow") {
                continue;
            }
            let page = browser.get(&path).expect("a page");
            let items = serde_json::from_str::<serde_json::Value>(&page).ok();
            let items = items.as_ref().and_then(|list| list["items"].as_array().map(Vec::len));
            seen.insert(format!("{} {items:?}", shape(&path)));
            ahead.extend(links(&page));
        }
        seen
    });
    let walked = walked.await.expect("walked");
    server.abort();
    walked
}

#[tokio::test(flavor = "multi_thread")]
async fn every_page_is_the_same_on_both_databases() {
    let (state, own) = (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
    let (config, _kept) = kept::config(state.path()).await;
    let shared = serve::open(&config).await.expect("opened").intake;
    let config =
        Config { state: own.path().into(), name: Some("collector.test".into()), ..Config::default() };
    let embedded = serve::open(&config).await.expect("opened").intake;
    fill(&embedded).await;
    fill(&shared).await;
    let (embedded, shared) = (walk(embedded).await, walk(shared).await);
    let apart: Vec<_> = embedded.symmetric_difference(&shared).collect();
    assert!(apart.is_empty(), "{apart:#?}");
    for page in
        ["/sessions None", "/findings None", "/rules None", "/admin/users None", "/api/v#/sessions Some(50)"]
    {
        assert!(shared.contains(page), "{page} is not among {shared:#?}");
    }
}
