//! Exports: what was deleted is told of in each, and terminals are harmless.

use super::*;
use crate::sample::terminal;

/// A site with a session of commands, one with a terminal, and one that retention has deleted.
async fn site() -> (Site, String, String, Caller) {
    let site = Site::new().await;
    let store = &site.intake.store;
    let mut old = SampleHost::enrol(store, "gone", 7).await.unwrap();
    old.session(store, &SampleSession::default()).await.unwrap();
    old.delete(store).await.unwrap();
    let mut host = SampleHost::enrol(store, "bastion", 1).await.unwrap();
    let session = host.session(store, &SampleSession::default()).await.unwrap().to_string();
    let started_ns = now_ns() - 60_000_000_000;
    let sample = SampleSession { started_ns, commands: Vec::new(), ended: false, ..SampleSession::default() };
    let id = host.session(store, &sample).await.unwrap();
    host.record(store, id, started_ns, 2, terminal()).await.unwrap();
    let auditor = site.signed_in(Role::Auditor).await;
    (site, session, id.to_string(), auditor)
}

#[tokio::test]
async fn every_export_says_what_was_deleted() {
    let (site, _, _, auditor) = site().await;
    for format in ["jsonl", "csv", "ocsf"] {
        let reply = site.get(&format!("/api/v1/export?format={format}"), &auditor).await;
        assert_eq!(reply.status, StatusCode::OK);
        let last = reply.text.lines().last().unwrap();
        assert!(last.contains("segments_deleted") && last.contains("gone"), "{format}: {last}");
        // Asked for another host, it says nothing of this one's.
        let reply = site.get(&format!("/api/v1/export?format={format}&host=bastion"), &auditor).await;
        assert!(!reply.text.contains("segments_deleted"), "{format}: {}", reply.text);
    }
    let reply = site.get("/api/v1/export", &auditor).await;
    let last: Value = serde_json::from_str(reply.text.lines().last().unwrap()).unwrap();
    assert_eq!((&last["first_segment"], &last["first_event"]), (&0.into(), &0.into()));
}

#[tokio::test]
async fn ocsf_is_one_event_a_line() {
    let (site, session, _, auditor) = site().await;
    let reply = site.get(&format!("/api/v1/export?format=ocsf&session={session}"), &auditor).await;
    let events: Vec<Value> = reply.text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let classes: Vec<u64> = events.iter().map(|event| event["class_uid"].as_u64().unwrap()).collect();
    assert_eq!(classes, [4001, 3002, 6005, 4001]);
    assert_eq!(events[2]["device"]["hostname"], "bastion");
    assert_eq!(events[2]["status"], "Success");
}

#[tokio::test]
async fn a_terminal_is_exported_and_played_and_does_no_harm() {
    let (site, session, id, auditor) = site().await;
    for path in [
        format!("/api/v1/export?format=asciicast&session={id}"),
        format!("/api/v1/export?format=asciicast-v3&session={id}"),
        format!("/sessions/{id}/terminal"),
    ] {
        let reply = site.get(&path, &auditor).await;
        assert_eq!(reply.status, StatusCode::OK, "{path}: {}", reply.text);
        let lines: Vec<Value> = reply.text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert!(lines[0]["version"] == 2 || lines[0]["version"] == 3);
        let written: String = lines[1..]
            .iter()
            .filter(|event| event[1] == "o")
            .map(|event| event[2].as_str().unwrap())
            .collect();
        assert!(written.contains("hello from the terminal"), "{written}");
        for harm in ["\u{1b}]", "\u{1b}P", "\u{1b}[6n", "\u{1b}[c", "52;c", "owned"] {
            assert!(!written.contains(harm), "{harm:?} in {written:?}");
        }
        let sizes: Vec<&str> = lines[1..]
            .iter()
            .filter(|event| event[1] == "r")
            .map(|event| event[2].as_str().unwrap())
            .collect();
        assert_eq!(sizes, ["500x200"]);
        assert!(!reply.text.contains(|c: char| c != '\n' && is_unprintable(c)));
    }
    // What the bytes were stands in the recording.
    let all = site.get(&format!("/api/v1/export?session={id}"), &auditor).await.text;
    assert!(all.contains("]52;c;") && all.contains("\"hex\""), "{all}");
    let compiles = |reply: &Reply| {
        reply.headers["content-security-policy"]
            .to_str()
            .unwrap()
            .contains("script-src 'self' 'wasm-unsafe-eval';")
    };
    let page = site.get(&format!("/sessions/{id}"), &auditor).await;
    assert!(page.text.contains(&format!("data-cast=\"/sessions/{id}/terminal\"")) && compiles(&page));
    let page = site.get(&format!("/sessions/{session}"), &auditor).await;
    assert!(!page.text.contains("data-cast") && !compiles(&page));
    for path in [
        format!("/api/v1/export?format=asciicast&session={session}"),
        "/api/v1/export?format=asciicast".to_owned(),
        format!("/sessions/{session}/terminal"),
    ] {
        assert_eq!(site.get(&path, &auditor).await.status, StatusCode::UNPROCESSABLE_ENTITY, "{path}");
    }
    // What stood on a terminal is a result: not for viewers.
    let viewer = site.signed_in(Role::Viewer).await;
    assert_eq!(site.get(&format!("/sessions/{id}/terminal"), &viewer).await.status, StatusCode::FORBIDDEN);
    assert!(!site.get(&format!("/sessions/{id}"), &viewer).await.text.contains("data-cast"));
    assert!(site.trail().await.iter().any(|(_, action, target)| action == "terminal.view" && *target == id));
}

#[tokio::test]
async fn only_a_page_with_a_terminal_may_compile() {
    let site = Site::new().await;
    for path in [
        "/assets/player.js",
        "/assets/player-worker.js",
        "/assets/terminal.js",
        "/assets/player.css",
        "/sign-in",
    ] {
        let reply = site.get(path, &Caller::default()).await;
        assert!(!reply.headers["content-security-policy"].to_str().unwrap().contains("unsafe"), "{path}");
    }
}
