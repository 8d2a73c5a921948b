//! What is kept of requests, on SQLite.

use std::collections::HashSet;

use interlock_recording::SessionId;
use interlock_recording::proto::{
    ApprovalDecided, ApprovalRequested, Approver, BindParameter, Quorum, Subject,
};
use interlock_shipping::v1::{ApprovalBy, ApprovalQuorum, ApprovalRequest, ApprovalStanding};
use prost::Message as _;
use sqlx::Row as _;

use super::super::batch::Batch;
use super::super::glass::Recorded;
use super::*;

const HOST: &str = "aa";

async fn store() -> (tempfile::TempDir, Store) {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open_file(&directory.path().join("db")).await.unwrap();
    (directory, store)
}

fn told(request: &str, user: &str, login: &str) -> ApprovalRequest {
    let subject = Subject { user: user.into(), login_user: login.into(), ..Subject::default() };
    ApprovalRequest {
        request: request.into(),
        digest: vec![1; 32],
        subject: subject.encode_to_vec(),
        quorums: vec![ApprovalQuorum { rule: "r".into(), groups: vec!["dba".into()], ..Default::default() }],
        collector: "decide".into(),
        ..ApprovalRequest::default()
    }
}

fn stands(request: &str, state: &str, by: Option<ApprovalBy>) -> ApprovalStanding {
    let (request, state) = (request.into(), state.into());
    ApprovalStanding { request, digest: vec![1; 32], state, by, ..ApprovalStanding::default() }
}

async fn count(store: &Store, what: &str) -> i64 {
    let text = format!("SELECT COUNT(*) FROM {what}");
    sqlx::query(sqlx::AssertSqlSafe(text)).fetch_one(store.pool()).await.unwrap().try_get(0).unwrap()
}

#[tokio::test]
async fn what_is_older_than_a_month_makes_room_and_what_is_open_stays() {
    let (_directory, store) = store().await;
    let mut write = store.write().await.unwrap();
    for request in ["openopen", "glassgla", "reviewed", "newdenie", "olddenie"] {
        write.take_approval(HOST, &told(request, "deploy", "")).await.unwrap();
    }
    for (request, state) in [
        ("glassgla", "broken_glass"),
        ("reviewed", "broken_glass"),
        ("newdenie", "denied"),
        ("olddenie", "denied"),
    ] {
        write.take_standing(HOST, &stands(request, state, None)).await.unwrap();
    }
    let id = |request: &str| approval_id(HOST, request, &[1; 32]);
    assert!(write.review_approval(HOST, &id("reviewed"), "bob", "in order").await.unwrap());
    let old = now_ns() - KEPT_NS - 1_000_000_000;
    for request in ["openopen", "glassgla", "reviewed", "olddenie"] {
        sqlx::query("UPDATE approvals SET received_ns = $2 WHERE id = $1")
            .bind(id(request))
            .bind(old)
            .execute(write.on())
            .await
            .unwrap();
    }
    write.commit().await.unwrap();
    let usage = store.held_usage(HOST, 0).await.unwrap();
    assert_eq!((usage.rows, usage.lately, usage.open), (1, 5, 1), "the last month counts");
    // More than a host may have, of which the oldest go.
    let text = format!(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {KEPT}) \
         INSERT INTO approvals (id, host, request, digest, likeness, session, asked_ns, received_ns, deadline_ns, state, \
         user_name, login_user, exe, destination, database_name, db_user, rules, text, collector, told, standing, needs, \
         changed_ns, bytes, ended_ns) SELECT 'x' || n.i, host, request, digest, likeness, session, asked_ns, \
         received_ns + 1 + n.i, deadline_ns, state, user_name, login_user, exe, destination, database_name, db_user, rules, \
         text, collector, told, standing, needs, changed_ns, bytes, ended_ns FROM approvals, n WHERE id = $1"
    );
    sqlx::query(sqlx::AssertSqlSafe(text)).bind(id("olddenie")).execute(store.pool()).await.unwrap();
    let mut write = store.write().await.unwrap();
    // As if all of their sessions were there.
    assert_eq!(write.remove_over(now_ns() - KEPT_NS).await.unwrap(), 5);
    assert_eq!(write.remove_over(now_ns() - KEPT_NS).await.unwrap(), 0);
    write.commit().await.unwrap();
    assert_eq!(count(&store, "approvals").await, KEPT);
    for (request, stays) in
        [("openopen", true), ("glassgla", true), ("newdenie", true), ("reviewed", false), ("olddenie", false)]
    {
        assert_eq!(store.has_approval(&id(request)).await.unwrap(), stays, "{request}");
    }
}

#[tokio::test]
async fn users_requests_are_counted_by_who_logged_in() {
    let (_directory, store) = store().await;
    let mut write = store.write().await.unwrap();
    let all = [
        told("aaaaaaa1", "deploy", ""),
        told("aaaaaaa2", "deploy", "alice"),
        told("aaaaaaa3", "root", "alice"),
        told("aaaaaaa4", "100001", ""),
        told("aaaaaaa5", "100002", ""),
        told("aaaaaaa6", "", ""),
    ];
    for one in &all {
        write.take_approval(HOST, one).await.unwrap();
    }
    write.take_approval("bb", &told("aaaaaaa7", "deploy", "")).await.unwrap();
    write.commit().await.unwrap();
    assert_eq!(all.iter().map(whose).collect::<Vec<_>>(), ["deploy", "alice", "alice", "", "", ""]);
    let by = store.held_by(HOST, 0).await.unwrap();
    let rows = |who: &str| by.get(who).copied().unwrap();
    assert_eq!(rows("deploy"), HeldBy { rows: 1, lately: 1 });
    assert_eq!(rows("alice"), HeldBy { rows: 2, lately: 2 });
    assert_eq!(rows(""), HeldBy { rows: 3, lately: 3 });
    let none = store.held_by(HOST, i64::MAX).await.unwrap();
    assert_eq!(none["alice"], HeldBy { rows: 2, lately: 0 });
}

#[tokio::test]
async fn who_broke_the_glass_is_known_by_all_that_is_told_until_it_is_reviewed() {
    let (_directory, store) = store().await;
    let by = |names: &[&str]| {
        Some(ApprovalBy {
            name: "deploy".into(),
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            ..ApprovalBy::default()
        })
    };
    let mut write = store.write().await.unwrap();
    write.take_approval(HOST, &told("aaaaaaaa", "deploy", "")).await.unwrap();
    let glass = |names: &[&str]| stands("aaaaaaaa", "broken_glass", by(names));
    write.take_standing(HOST, &glass(&["7"])).await.unwrap();
    write.take_standing(HOST, &glass(&["bob", "bob@corp.example"])).await.unwrap();
    // Told by less it is known as well, and another end changes nothing.
    write.take_standing(HOST, &glass(&[])).await.unwrap();
    write.take_standing(HOST, &stands("aaaaaaaa", "denied", by(&["carol"]))).await.unwrap();
    let many: Vec<String> = (0..1000).map(|at| format!("n{at}")).collect();
    write.commit().await.unwrap();
    let id = approval_id(HOST, "aaaaaaaa", &[1; 32]);
    let names = || async { store.approval(&id).await.unwrap().unwrap().standing.by.unwrap().names };
    assert_eq!(names().await, ["7", "bob", "bob@corp.example"]);
    let mut write = store.write().await.unwrap();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    write.take_standing(HOST, &glass(&many)).await.unwrap();
    write.commit().await.unwrap();
    assert_eq!(names().await.len(), NAMES);
    let mut write = store.write().await.unwrap();
    assert!(write.review_approval(HOST, &id, "erin", "in order").await.unwrap());
    let mut late = glass(&[]);
    late.by.as_mut().unwrap().login = "erin".into();
    write.take_standing(HOST, &late).await.unwrap();
    write.commit().await.unwrap();
    let one = store.approval(&id).await.unwrap().unwrap();
    assert_eq!(one.standing.by.unwrap().login, "", "what was reviewed stays as it was");
}

fn asked(request: String, fill: usize) -> ApprovalRequested {
    let param = BindParameter { value: Some("p".repeat(fill)), ..BindParameter::default() };
    ApprovalRequested {
        request,
        digest: vec![1; 32],
        text: "é".repeat(fill),
        params: vec![param; 3],
        runs: vec!["r".repeat(fill); 3],
        quorums: vec![
            Quorum {
                rule: "r".into(),
                groups: vec!["g".repeat(fill.min(300)); fill.min(200)],
                ..Quorum::default()
            };
            if fill > 1 { 64 } else { 1 }
        ],
        ..ApprovalRequested::default()
    }
}

#[tokio::test]
async fn what_recordings_tell_of_requests_takes_so_much_room_and_counts() {
    let (_directory, store) = store().await;
    let session = SessionId::new(1, [7; 10]);
    let mut batch = Batch::new();
    let mut ask = |request: &str, fill| {
        batch.recorded.push(Recorded::Asked(session, 1, Box::new(asked(request.to_owned(), fill))));
    };
    ask("aaaaaaaa", 400_000);
    ask("bbbbbbbb", 5000);
    ask("bbbbbbbb", 5000);
    ask("cccccccc", 1);
    ask("dddddddd", 1);
    let over = ApprovalDecided { request: "dddddddd".into(), ..ApprovalDecided::default() };
    batch.recorded.push(Recorded::Decided(session, 2, Box::new(over)));
    let mut write = store.write().await.unwrap();
    write.take_recorded(HOST, &batch, &HashSet::new()).await.unwrap();
    write.commit().await.unwrap();
    assert_eq!(count(&store, "approval_recorded").await, 3);
    let usage = store.held_usage(HOST, 0).await.unwrap();
    assert!((20_000..250_000).contains(&usage.bytes) && usage.rows == 0, "{usage:?}");
    let rows = sqlx::query("SELECT told FROM approval_recorded ORDER BY request")
        .fetch_all(store.pool())
        .await
        .unwrap();
    let all: Vec<ApprovalRequest> =
        rows.iter().map(|row| decoded(row.try_get(0).unwrap()).unwrap()).collect();
    assert!(all.iter().all(|told| told.encoded_len() < 100_000));
    assert!(
        all[0].text.contains("in the recording") && all[0].params.is_empty() && all[0].omitted_params == 3
    );
    assert_eq!((all[1].params.len(), all[1].runs.len()), (3, 3), "what fits is all there");
    assert_eq!((all[2].text.as_str(), all[2].quorums.len()), ("é", 1));

    // Of very many the oldest are forgotten, and the end of one that is has its listing all the same.
    let mut batch = Batch::new();
    for at in 0..20_000 {
        batch.recorded.push(Recorded::Asked(session, 3, Box::new(asked(format!("{at:08}"), 1))));
    }
    let by = Approver {
        user: "deploy".into(),
        login_claimed: "bob".into(),
        person_names: vec!["bob@corp.example".into()],
        ..Approver::default()
    };
    let glass = |request: &str| ApprovalDecided {
        request: request.into(),
        outcome: "broken_glass".into(),
        by: Some(by.clone()),
        needs_review: true,
        ..ApprovalDecided::default()
    };
    for request in ["aaaaaaaa", "00000001"] {
        batch.recorded.push(Recorded::Decided(session, 4, Box::new(glass(request))));
    }
    let mut write = store.write().await.unwrap();
    write.take_recorded(HOST, &batch, &HashSet::new()).await.unwrap();
    write.commit().await.unwrap();
    assert_eq!(count(&store, "approval_recorded").await, 19_999);
    assert_eq!(count(&store, "approvals WHERE state = 'broken_glass'").await, 2);
    let id = approval_id(HOST, "00000001", &[1; 32]);
    let names = store.approval(&id).await.unwrap().unwrap().standing.by.unwrap().names;
    assert_eq!(names, ["bob", "bob@corp.example"], "what the recording tells of who it was");
}
