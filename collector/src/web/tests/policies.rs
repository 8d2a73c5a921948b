//! Policies that are kept centrally, as administrators and reviewers meet them.

use super::*;
use crate::policies;

const RULE: &str = "version: 1\nprocesses: [{run: a}]\nrules: [{name: r, action: deny}]\n";

fn body(text: &str, reason: &str) -> String {
    serde_json::json!({"reason": reason, "files": [{"name": "a.yaml", "text": text}]}).to_string()
}

async fn entries(site: &Site, kind: &str) -> usize {
    let all = site.intake.store.ledger_entries(0, 1000).await.unwrap();
    all.iter().filter(|entry| entry.kind == kind).count()
}

#[tokio::test]
async fn a_version_is_added_assigned_promoted_and_rolled_back_and_all_of_it_stands_in_the_ledger() {
    let site = Site::new().await;
    let store = &site.intake.store;
    let host = SampleHost::enrol(store, "bastion", 1).await.unwrap().id;
    let admin = site.signed_in(Role::Admin).await;
    let admin_token = site.program("admin", Role::Admin).await;
    let versions = "/api/v1/policy-sets/base/versions";
    let send = |path: &'static str, body: String| {
        let (site, admin_token) = (&site, &admin_token);
        async move { site.send(Method::POST, path, admin_token, &body).await }
    };
    assert_eq!(send(versions, body(RULE, "first")).await.status, StatusCode::CREATED);
    let same = send(versions, body(RULE, "again")).await;
    assert_eq!((same.status, same.json()["version"].as_u64()), (StatusCode::OK, Some(1)));
    let second = RULE.replace("deny", "hold");
    assert_eq!(send(versions, body(&second, "second")).await.json()["version"], 2);
    for (text, reason) in [("version: 2\n", "x"), (RULE, " "), ("- a\n", "x"), (RULE, &"x".repeat(501))] {
        let refused = send(versions, body(text, reason)).await;
        assert_eq!(refused.status, StatusCode::UNPROCESSABLE_ENTITY, "{}", refused.text);
    }
    // More than a set may have, and more than is read.
    let large = format!("version: 1\n# {}\n", "x".repeat(512 << 10));
    assert_eq!(send(versions, body(&large, "x")).await.status, StatusCode::UNPROCESSABLE_ENTITY);
    let larger = format!("version: 1\n# {}\n", "x".repeat(2 << 20));
    assert_eq!(send(versions, body(&larger, "x")).await.status, StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(send("/api/v1/policy-sets/Base/versions", body(RULE, "x")).await.status, 422);

    // Nobody is ordered anything before something is assigned to them.
    assert!(policies::order_for(&site.intake, &host).await.unwrap().is_none());
    let labels = format!("/api/v1/agents/{host}/labels");
    let labelled =
        site.send(Method::POST, &labels, &admin_token, r#"{"labels": "env=prod", "reason": "it is"}"#).await;
    assert_eq!(labelled.status, StatusCode::NO_CONTENT, "{}", labelled.text);
    let wrong =
        site.send(Method::POST, &labels, &admin_token, r#"{"labels": "host=x", "reason": "r"}"#).await;
    assert_eq!(wrong.status, StatusCode::UNPROCESSABLE_ENTITY);
    let change = |text: &str| send("/api/v1/policy-assignments", text.to_owned());
    let assign = r#"{"change": "assign", "selector": "env=prod", "version": "base@1", "mode": "observe", "reason": "try"}"#;
    assert_eq!(change(assign).await.json()["observe"]["version"], 1);
    let ordered = |issue: u64, enforce: &'static str, observe: &'static str| {
        let (site, host) = (&site, &host);
        async move {
            let order = policies::order_for(&site.intake, host).await.unwrap().unwrap();
            assert_eq!((order.issue, &*order.enforce, &*order.observe), (issue, enforce, observe));
            // Asked again, it is the same one.
            assert_eq!(policies::order_for(&site.intake, host).await.unwrap().unwrap(), order);
        }
    };
    ordered(1, "", "base@1").await;
    let promote = r#"{"change": "promote", "selector": "env=prod", "reason": "good"}"#;
    assert_eq!(change(promote).await.json()["enforce"]["version"], 1);
    assert_eq!(change(promote).await.status, StatusCode::UNPROCESSABLE_ENTITY, "nothing is staged");
    ordered(2, "base@1", "").await;
    let second = assign.replace("base@1", "base@2").replace("observe", "enforce");
    change(&second).await;
    ordered(3, "base@2", "").await;
    let back = r#"{"change": "roll_back", "selector": "env=prod", "reason": "bad"}"#;
    assert_eq!(change(back).await.json()["enforce"]["version"], 1);
    assert_eq!(
        change(back).await.status,
        StatusCode::UNPROCESSABLE_ENTITY,
        "going back twice would go forth"
    );
    ordered(4, "base@1", "").await;
    // Of other labels from now on: what was ordered is taken back.
    let unlabelled = r#"{"labels": "", "reason": "moved"}"#;
    site.send(Method::POST, &labels, &admin_token, unlabelled).await;
    ordered(5, "", "").await;
    let missing = assign.replace("base@1", "base@9");
    assert_eq!(change(&missing).await.status, StatusCode::NOT_FOUND);

    assert_eq!(entries(&site, "policy_version_added").await, 2);
    assert_eq!(entries(&site, "policy_assigned").await, 4);
    assert_eq!(entries(&site, "policy_ordered").await, 5);
    assert_eq!(entries(&site, "host_labelled").await, 2);
    let trail: Vec<String> = site.trail().await.into_iter().map(|(_, action, _)| action).collect();
    for action in ["policy.push", "policy.assign", "policy.promote", "policy.roll_back", "host.label"] {
        assert!(trail.iter().any(|there| there == action), "{action}: {trail:?}");
    }
    // The files are for hosts whose newest order names them.
    let content = site.get("/api/v1/policy-sets", &admin).await.json()["items"][0]["content_sha256"].clone();
    let bytes: Vec<u8> = (0..32)
        .map(|at| u8::from_str_radix(&content.as_str().unwrap()[at * 2..at * 2 + 2], 16).unwrap())
        .collect();
    assert!(policies::files_for(&site.intake, &host, &bytes).await.unwrap().is_none());
    let host_page = site.get(&format!("/hosts/{host}"), &admin).await;
    assert!(host_page.text.contains("order 5"), "{}", host_page.text);
}

#[tokio::test]
async fn only_administrators_change_policies() {
    let site = Site::new().await;
    for role in [Role::Viewer, Role::Auditor, Role::Reviewer] {
        let browser = site.signed_in(role).await;
        let token = site.program(role.name(), role).await;
        for (path, sent) in [
            ("/api/v1/policy-sets/base/versions", body(RULE, "x")),
            (
                "/api/v1/policy-assignments",
                r#"{"change": "promote", "selector": "*", "reason": "x"}"#.to_owned(),
            ),
        ] {
            for caller in [&browser, &token] {
                let reply = site.send(Method::POST, path, caller, &sent).await;
                assert_eq!(reply.status, StatusCode::FORBIDDEN, "{path} as {role}");
            }
        }
        for path in ["/policies", "/policies/assignments"] {
            let reply = site.post(path, &browser, &[("set", "base")]).await;
            assert_eq!(reply.status, StatusCode::FORBIDDEN, "{path} as {role}");
        }
        let seen = site.get("/policies", &browser).await.status;
        assert_eq!(seen, if role == Role::Viewer { StatusCode::FORBIDDEN } else { StatusCode::OK });
    }
    assert!(site.intake.store.policy_versions().await.unwrap().is_empty());
}

#[tokio::test]
async fn pages_show_versions_differences_and_hostile_text_as_text() {
    let site = Site::new().await;
    let admin = site.signed_in(Role::Admin).await;
    let add = |text: String, reason: &'static str| {
        let (site, admin) = (&site, &admin);
        async move {
            let fields = [("set", "base"), ("file", "a.yaml"), ("text", text.as_str()), ("reason", reason)];
            site.post("/policies", admin, &fields).await
        }
    };
    let first = add(RULE.replace('\n', "\r\n"), "first").await;
    assert_eq!(first.location(), "/policies/base/1?done=policy-added", "{}", first.text);
    let evil = format!("{RULE}description: |\n  <script>alert(1)</script>\n");
    let second = add(evil, "<b>why</b>").await;
    assert_eq!(second.location(), "/policies/base/2?done=policy-added", "{}", second.text);
    let page = site.get("/policies/base/2", &admin).await.text;
    assert!(!page.contains("<script>alert") && !page.contains("<b>why"), "{page}");
    assert!(page.contains("class=\"added\"") && !page.contains("class=\"removed\""), "{page}");
    let refused = add("version: 3\n".into(), "x").await;
    assert_eq!(refused.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(refused.text.contains("version: 1"), "{}", refused.text);
    let assigned = [
        ("change", "assign"),
        ("selector", "*"),
        ("version", "base@2"),
        ("mode", "observe"),
        ("reason", "r"),
    ];
    let reply = site.post("/policies/assignments", &admin, &assigned).await;
    assert_eq!(reply.location(), "/policies?done=policy-assigned", "{}", reply.text);
    let page = site.get("/policies", &admin).await.text;
    assert!(page.contains("every host") && page.contains("base@2"), "{page}");
    assert_eq!(site.get("/policies/base/9", &admin).await.status, StatusCode::NOT_FOUND);
}
