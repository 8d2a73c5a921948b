//! What is shown, listed and exported.

use super::super::scope::{Needs, needs};
use super::*;

#[tokio::test]
async fn problems_are_json_for_programs_and_pages_for_people() {
    let site = Site::new().await;
    let caller = site.signed_in(Role::Viewer).await;
    let reply = site.get("/api/v1/sessions?usr=alice", &caller).await;
    assert_eq!(reply.status, StatusCode::BAD_REQUEST);
    assert_eq!(reply.headers[header::CONTENT_TYPE], "application/problem+json");
    assert_eq!(reply.json()["status"], 400);
    assert!(reply.json()["detail"].as_str().unwrap().contains("\"usr\""));
    for path in ["/api/v1/nowhere", "/api/v1/sessions/0123", "/api/v1/agents/%ff"] {
        let reply = site.get(path, &caller).await;
        assert_eq!(reply.headers[header::CONTENT_TYPE], "application/problem+json", "{path}");
        assert!(reply.status.is_client_error(), "{path}");
    }
    let reply = site.get("/nowhere", &caller).await;
    assert_eq!(reply.status, StatusCode::NOT_FOUND);
    assert!(reply.text.contains("<h1>Not Found</h1>"), "{}", reply.text);
    let reply = site.send(Method::PUT, "/api/v1/sessions", &caller, "").await;
    assert_eq!(reply.status, StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(reply.json()["title"], "Method Not Allowed");
}

#[tokio::test]
async fn the_document_describes_every_route_and_its_roles() {
    let document: Value = serde_json::from_str(crate::web::api::DOCUMENT).unwrap();
    let mut described = Vec::new();
    for (path, operations) in document["paths"].as_object().unwrap() {
        for (method, operation) in operations.as_object().unwrap() {
            let roles = operation["x-roles"]
                .as_array()
                .map(|roles| roles.iter().map(|role| role.as_str().unwrap().to_owned()).collect::<Vec<_>>());
            let browsers_only = operation["security"][0].get("browser").is_some();
            // What says nothing needs a token for everything.
            let scope = operation["x-scope"].as_str().unwrap_or("*").to_owned();
            let scope = if roles.is_none() || browsers_only { String::new() } else { scope };
            described.push((method.to_uppercase(), path.clone(), roles, browsers_only, scope));
        }
    }
    let mut served: Vec<_> = ROUTES
        .iter()
        .filter(|route| !route.is_page())
        .map(|route| {
            let roles = match route.access {
                Access::Public => None,
                Access::For(roles) => Some(roles.iter().map(|role| role.name().to_owned()).collect()),
            };
            let scope = match needs(&route.method, route.path) {
                _ if roles.is_none() || route.browsers_only => String::new(),
                Needs::One(scope) => scope.to_string(),
                Needs::All => "*".into(),
                Needs::Nothing => "none".into(),
            };
            (route.method.to_string(), route.path.to_owned(), roles, route.browsers_only, scope)
        })
        .collect();
    described.sort();
    served.sort();
    assert_eq!(described, served);
}

#[tokio::test]
async fn answers_have_the_fields_that_the_document_says() {
    let document: Value = serde_json::from_str(crate::web::api::DOCUMENT).unwrap();
    let site = Site::new().await;
    let mut host = SampleHost::enrol(&site.intake.store, "bastion", 1).await.unwrap();
    let commands = vec![("DROP TABLE x".into(), "deny", "no-drops", "")];
    let sample = SampleSession { commands, ..SampleSession::default() };
    let session = host.session(&site.intake.store, &sample).await.unwrap();
    let mut write = site.intake.store.write().await.unwrap();
    write.add_finding(&host.id, "gap", "an event is missing", Some(3)).await.unwrap();
    write.add_output("siem").await.unwrap();
    write.commit().await.unwrap();
    let admin = site.signed_in(Role::Admin).await;
    let token = site.program("admin", Role::Admin).await;
    for hold in [
        r#"{"label": "case 7", "reason": "asked by counsel", "from": "7d", "until": "1h"}"#,
        r#"{"label": "case 8", "reason": "asked by counsel"}"#,
    ] {
        let made = site.send(Method::POST, "/api/v1/holds", &token, hold).await;
        assert_eq!(made.status, StatusCode::NO_CONTENT);
    }
    let without = site.send(Method::POST, "/api/v1/holds", &token, r#"{"label": "x", "reason": " "}"#).await;
    assert_eq!(without.status, StatusCode::UNPROCESSABLE_ENTITY);
    let open = site.get("/api/v1/holds", &token).await.json();
    assert!(open["items"][0]["from"].is_null() && open["items"][0]["until"].is_null(), "{open}");
    let page = site.get("/holds", &admin).await.text;
    assert!(page.contains("the beginning") && page.contains("it is released"), "{page}");
    let new = r#"{"label": "bastions", "uses": 2, "days": 1}"#;
    let made = site.send(Method::POST, "/api/v1/enrolment-tokens", &token, new).await;
    assert_eq!(made.status, StatusCode::CREATED);
    made.json()["token"].as_str().unwrap().parse::<interlock_shipping::Token>().expect("an enrolment token");
    let events = format!("/api/v1/sessions/{session}/events");
    let commands = format!("/api/v1/sessions/{session}/commands");
    for (path, schema) in [
        ("/api/v1/sessions", "Session"),
        (commands.as_str(), "Command"),
        (events.as_str(), "Event"),
        ("/api/v1/commands", "Command"),
        ("/api/v1/agents", "Agent"),
        ("/api/v1/rules", "Rule"),
        ("/api/v1/findings", "Finding"),
        ("/api/v1/audit", "AuditEntry"),
        ("/api/v1/outputs", "Output"),
        ("/api/v1/holds", "Hold"),
        ("/api/v1/users", "User"),
        ("/api/v1/enrolment-tokens", "EnrolmentToken"),
        ("/api/v1/tokens", "ApiToken"),
        ("/api/v1/sign-ins", "SignIn"),
    ] {
        let reply = site.get(path, &admin).await;
        assert_eq!(reply.status, StatusCode::OK, "{path} {}", reply.text);
        let answer = reply.json();
        let schema = &document["components"]["schemas"][schema];
        let item = answer["items"][0].as_object().unwrap_or_else(|| panic!("{path}: {answer}"));
        let properties = schema["properties"].as_object().unwrap();
        for name in schema["required"].as_array().unwrap() {
            assert!(item.contains_key(name.as_str().unwrap()), "{path}: {name} is missing in {item:?}");
        }
        if schema["additionalProperties"] != true {
            for name in item.keys() {
                assert!(properties.contains_key(name), "{path}: {name} is not described");
            }
        }
    }
}

#[tokio::test]
async fn what_hosts_send_is_shown_and_never_obeyed() {
    let site = Site::new().await;
    let store = &site.intake.store;
    let mut host = SampleHost::enrol(store, HOSTILE, 1).await.unwrap();
    let evil = || HOSTILE.to_owned();
    let sample = SampleSession {
        user: evil(),
        exe: format!("/{HOSTILE}"),
        argv: vec![evil(), "x".repeat(100_000)],
        destination: evil(),
        host_name: evil(),
        db_user: evil(),
        database: evil(),
        commands: vec![
            (evil(), "allow", "", ""),
            (evil(), "deny", "<b>rule</b>\u{202e}", ""),
            (format!("{HOSTILE} {}", "y".repeat(200_000)), "allow", "", "deny"),
        ],
        ended: false,
        ..SampleSession::default()
    };
    let session = host.session(store, &sample).await.unwrap();
    let mut write = store.write().await.unwrap();
    write.add_finding(&host.id, HOSTILE, HOSTILE, None).await.unwrap();
    // What an output's receiver can have said.
    write.add_output("siem").await.unwrap();
    write.commit().await.unwrap();
    assert!(store.lease("output siem", "us", std::time::Duration::from_secs(60)).await.unwrap());
    let mut write = store.write().await.unwrap();
    write.output_fails("siem", "us", HOSTILE, false).await.unwrap();
    write.commit().await.unwrap();
    let admin = site.signed_in(Role::Admin).await;
    let paths = [
        "/sessions".to_owned(),
        format!("/sessions/{session}"),
        format!("/sessions/{session}/events"),
        format!("/sessions/{session}/end"),
        "/commands".into(),
        "/hosts".into(),
        format!("/hosts/{}", host.id),
        format!("/hosts/{}/revoke", host.id),
        "/rules".into(),
        "/findings".into(),
        "/outputs".into(),
        "/audit".into(),
        "/sessions?text=script&user=%3Cscript%3Ealert(1)%3C%2Fscript%3E&exe=%E2%80%AE".into(),
        format!("/api/v1/sessions/{session}/events"),
        "/api/v1/sessions".into(),
        "/api/v1/export".into(),
    ];
    for path in &paths {
        let reply = site.get(path, &admin).await;
        assert_eq!(reply.status, StatusCode::OK, "{path} {}", reply.text);
        let bad = reply.text.chars().find(|c| !matches!(c, '\n' | '\t') && is_unprintable(*c));
        assert_eq!(bad, None, "{path}");
        if !path.starts_with("/api/") {
            for markup in ["<script>alert", "<img src=x", "<b>rule", "\" onmouseover=\"alert"] {
                assert!(!reply.text.contains(markup), "{path}: {markup}");
            }
            assert!(reply.text.len() < 400_000, "{path}: {} bytes", reply.text.len());
        }
    }
    // And it is there to be seen.
    let page = site.get(&paths[1], &admin).await.text;
    assert!(page.contains("&#60;script&#62;alert(1)"), "{page}");
    assert!(page.contains("\\u{202e}desrever"));
}

#[tokio::test]
async fn a_session_is_ended_through_its_agent_and_that_is_written_down() {
    let site = Site::new().await;
    let mut host = SampleHost::enrol(&site.intake.store, "bastion", 1).await.unwrap();
    let sample = SampleSession { ended: false, ..SampleSession::default() };
    let session = host.session(&site.intake.store, &sample).await.unwrap();
    let over = host.session(&site.intake.store, &SampleSession::default()).await.unwrap();
    let reviewer = site.signed_in(Role::Reviewer).await;
    let reply = site.post(&format!("/sessions/{session}/end"), &reviewer, &[("reason", "not us")]).await;
    // No agent is connected here.
    assert_eq!(reply.status, StatusCode::CONFLICT);
    assert!(reply.text.contains("is not connected"), "{}", reply.text);
    let reply = site.send(Method::POST, &format!("/api/v1/sessions/{over}/end"), &reviewer, "").await;
    assert_eq!(reply.status, StatusCode::CONFLICT);
    assert!(reply.text.contains("has ended already"));
    let trail = site.trail().await;
    let actions: Vec<_> = trail.iter().map(|(_, action, _)| action.as_str()).collect();
    assert_eq!(actions, ["session.end", "session.end.failed"]);
}

#[tokio::test]
async fn exports_have_all_events_of_the_sessions_asked_for() {
    let site = Site::new().await;
    let store = &site.intake.store;
    let mut host = SampleHost::enrol(store, "bastion", 1).await.unwrap();
    let session = host.session(store, &SampleSession::default()).await.unwrap().to_string();
    let other = SampleSession { user: "=cmd()".into(), ..SampleSession::default() };
    host.session(store, &other).await.unwrap();
    let auditor = site.signed_in(Role::Auditor).await;
    let all = site.get("/api/v1/export", &auditor).await;
    assert_eq!(all.headers[header::CONTENT_TYPE], "application/jsonl; charset=utf-8");
    assert_eq!(all.text.lines().count(), 10);
    let one = site.get(&format!("/api/v1/export?session={session}"), &auditor).await;
    assert_eq!(one.text.lines().count(), 5);
    for line in one.text.lines() {
        let event: Value = serde_json::from_str(line).unwrap();
        assert_eq!((&event["session"], &event["host_name"]), (&session.as_str().into(), &"bastion".into()));
    }
    let csv = site.get("/api/v1/export?format=csv&user=%3Dcmd()", &auditor).await.text;
    assert_eq!(csv.lines().count(), 6);
    assert!(csv.contains("'=cmd()"), "{csv}");
    assert!(site.trail().await.iter().any(|(_, action, _)| action == "export"));
}

/// Every filter gives what looking at each session gives, page by page.
#[tokio::test]
async fn filters_and_pages_miss_nothing_and_repeat_nothing() {
    let site = Site::new().await;
    let store = &site.intake.store;
    let mut hosts =
        [SampleHost::enrol(store, "a", 1).await.unwrap(), SampleHost::enrol(store, "b", 2).await.unwrap()];
    let mut made = Vec::new();
    let begin = now_ns() - 1_000_000_000_000;
    for at in 0..120_usize {
        let sample = SampleSession {
            started_ns: begin + (at as i64) * 1_000_000_000,
            user: format!("user{}", at % 7),
            exe: ["/usr/bin/psql", "/opt/job/run.py", "/usr/bin/python3"][at % 3].into(),
            destination: format!("10.0.0.{}:5432", at % 5),
            host_name: if at % 10 == 0 { "main.db".into() } else { String::new() },
            database: if at % 2 == 0 { "shop" } else { "crm" }.into(),
            commands: vec![
                (format!("SELECT word{}", at % 11), "allow", "", if at % 13 == 0 { "deny" } else { "" }),
                (
                    "DELETE FROM t".into(),
                    if at % 9 == 0 { "deny" } else { "allow" },
                    if at % 9 == 0 { "no-deletes" } else { "" },
                    "",
                ),
                (
                    "SELECT 2".into(),
                    if at % 17 == 0 { "hold" } else { "allow" },
                    if at % 17 == 0 { "ask" } else { "" },
                    "",
                ),
            ],
            ended: at % 4 != 0,
            ..SampleSession::default()
        };
        let id = hosts[at % 2].session(store, &sample).await.unwrap().to_string();
        made.push((at, id));
    }
    let some = |text: &str| Some(text.to_owned());
    let default = SessionFilter::default;
    type Check = fn(usize) -> bool;
    let cases: Vec<(SessionFilter, Check)> = vec![
        (default(), |_| true),
        (SessionFilter { user: some("user3"), ..default() }, |at| at % 7 == 3),
        (SessionFilter { user: some("user3"), database: some("shop"), ..default() }, |at| {
            at % 7 == 3 && at % 2 == 0
        }),
        (SessionFilter { exe: some("PSQL"), ..default() }, |at| at % 3 == 0),
        (SessionFilter { exe: some("bin/"), ..default() }, |at| at % 3 != 1),
        (SessionFilter { exe: some("%"), ..default() }, |_| false),
        (SessionFilter { destination: some(".3:"), ..default() }, |at| at % 5 == 3),
        (SessionFilter { destination: some("main"), ..default() }, |at| at % 10 == 0),
        (SessionFilter { destination: some("m"), user: some("user0"), ..default() }, |at| at % 70 == 0),
        (SessionFilter { verdict: some("deny"), ..default() }, |at| at % 9 == 0),
        (SessionFilter { verdict: some("hold"), exe: some("psql"), ..default() }, |at| {
            at % 17 == 0 && at % 3 == 0
        }),
        (SessionFilter { verdict: some("allow"), ..default() }, |_| true),
        (SessionFilter { rule: some("no-deletes"), ..default() }, |at| at % 9 == 0),
        (SessionFilter { rule: some("no-deletes"), verdict: some("hold"), ..default() }, |_| false),
        (SessionFilter { rule: some("would-refuse"), ..default() }, |at| at % 13 == 0),
        (SessionFilter { observed: some("deny"), database: some("crm"), ..default() }, |at| {
            at % 13 == 0 && at % 2 == 1
        }),
        (SessionFilter { text: some("word5"), ..default() }, |at| at % 11 == 5),
        (SessionFilter { text: some("\"delete from t\" no-deletes"), ..default() }, |at| at % 9 == 0),
        (SessionFilter { text: some("word1*"), ..default() }, |at| matches!(at % 11, 1 | 10)),
        (SessionFilter { text: some("delete"), verdict: some("deny"), ..default() }, |at| at % 9 == 0),
        (SessionFilter { text: some("select"), user: some("user1"), ..default() }, |at| at % 7 == 1),
        (SessionFilter { open: true, ..default() }, |at| at % 4 == 0),
        (SessionFilter { open: true, rule: some("ask"), ..default() }, |at| at % 68 == 0),
        (SessionFilter { hosts: Some(vec![hosts[1].id.clone()]), ..default() }, |at| at % 2 == 1),
        (SessionFilter { hosts: Some(vec![hosts[0].id.clone(), hosts[1].id.clone()]), ..default() }, |_| {
            true
        }),
        (SessionFilter { hosts: Some(Vec::new()), ..default() }, |_| false),
        (SessionFilter { since_ns: Some(begin + 50_000_000_000), ..default() }, |at| at >= 50),
        (SessionFilter { until_ns: Some(begin + 50_000_000_000), user: some("user3"), ..default() }, |at| {
            at < 50 && at % 7 == 3
        }),
        (
            SessionFilter { since_ns: Some(begin + 50_000_000_000), rule: some("no-deletes"), ..default() },
            |at| at >= 50 && at % 9 == 0,
        ),
    ];
    for (filter, check) in &cases {
        let expected: Vec<&String> =
            made.iter().rev().filter(|(at, _)| check(*at)).map(|(_, id)| id).collect();
        for limit in [7, 200] {
            let mut found = Vec::new();
            let mut cursor: Option<String> = None;
            loop {
                let page = store.sessions(filter, cursor.as_deref(), limit).await.unwrap();
                assert!(page.items.len() <= limit);
                found.extend(page.items.into_iter().map(|session| session.id));
                cursor = page.next;
                if cursor.is_none() {
                    break;
                }
            }
            assert_eq!(found.iter().collect::<Vec<_>>(), expected, "{filter:?}, {limit} a page");
        }
    }
}
