//! What outputs are told of requests for approval.

use interlock_recording::proto::Subject;
use interlock_shipping::v1::{ApprovalBy, ApprovalCounted, ApprovalStanding};
use prost::Message as _;
use serde_json::Value;

use super::{Receiver, Site, until};
use crate::approvals::ask::tests::request;
use crate::sample::SampleHost;
use crate::store::approval_id;

fn by(name: &str) -> ApprovalBy {
    ApprovalBy { name: name.into(), login: "bob".into(), via: "host".into(), ..ApprovalBy::default() }
}

fn vote(name: &str) -> ApprovalCounted {
    let by = Some(by(name));
    ApprovalCounted { by, reason: "looked\nat".into(), scope: "shape".into(), seconds: 60 }
}

fn stands(of: &str, state: &str) -> ApprovalStanding {
    let told = request(of);
    ApprovalStanding {
        request: told.request,
        digest: told.digest,
        state: state.into(),
        ..ApprovalStanding::default()
    }
}

async fn take(site: &Site, host: &SampleHost, told: &[ApprovalStanding]) {
    for told in told {
        let mut write = site.store.write().await.unwrap();
        assert!(write.take_standing(&host.id, told).await.unwrap(), "{told:?}");
        write.commit().await.unwrap();
    }
    site.connected.change();
}

async fn ask(site: &Site, host: &SampleHost, name: &str) -> String {
    let subject = Subject { user: "deploy".into(), login_user: "carol".into(), ..Subject::default() };
    let told = interlock_shipping::v1::ApprovalRequest {
        subject: subject.encode_to_vec(),
        text: format!("DELETE FROM customers -- {}", "é".repeat(20 << 10)),
        params: vec![Default::default(); 3],
        ..request(name)
    };
    let mut write = site.store.write().await.unwrap();
    assert!(write.take_approval(&host.id, &told).await.unwrap());
    write.commit().await.unwrap();
    site.connected.change();
    approval_id(&host.id, &told.request, &told.digest)
}

#[tokio::test]
async fn what_comes_of_requests_is_told_as_it_was_however_late() {
    let mut site = Site::new().await;
    let receiver = Receiver::new();
    let host = SampleHost::enrol(&site.store, "db-1", 1).await.unwrap();
    let output = site.hook(receiver.address, ", kinds: [approval]");
    site.start(std::slice::from_ref(&output)).await;
    // The receiver is away while everything happens, so that it is told after the end.
    receiver.answer(|_| 503);
    let id = ask(&site, &host, "aaaaaaaa").await;
    let voted = ApprovalStanding { votes: vec![vote("anna")], missing: 1, ..stands("aaaaaaaa", "pending") };
    let approved = ApprovalStanding {
        votes: vec![vote("anna"), vote("bert")],
        scope: "shape".into(),
        seconds: 60,
        ..stands("aaaaaaaa", "approved")
    };
    take(&site, &host, &[voted.clone(), approved]).await;
    // Nobody is told twice of what has not changed.
    let mut write = site.store.write().await.unwrap();
    let again = ApprovalStanding { missing: 7, ..voted };
    assert!(!write.take_standing(&host.id, &again).await.unwrap());
    write.commit().await.unwrap();
    let glass = ask(&site, &host, "bbbbbbbb").await;
    let broken = ApprovalStanding {
        by: Some(by("deploy")),
        reason: "the shop is \u{202e}down".into(),
        ..stands("bbbbbbbb", "broken_glass")
    };
    take(&site, &host, &[broken]).await;
    let mut write = site.store.write().await.unwrap();
    assert!(write.review_approval(&host.id, &glass, "anna", "it was in order").await.unwrap());
    write.commit().await.unwrap();
    let refused = ask(&site, &host, "cccccccc").await;
    let denied =
        ApprovalStanding { by: Some(by("bert")), reason: "no".into(), ..stands("cccccccc", "denied") };
    take(&site, &host, &[denied]).await;
    // The collector is killed before it could tell any of it.
    site.kill().await;
    site.store.release_own().await.unwrap();
    receiver.answer(|_| 200);
    site.start(&[output]).await;
    until("all is told", async || receiver.taken().len() >= 8).await;
    until("it is passed", async || site.state().await.waiting_since_ns.is_none()).await;
    site.stop().await;

    let taken = receiver.taken();
    let told: Vec<(&str, &str)> =
        taken.iter().map(|one| (one["kind"].as_str().unwrap(), one["approval"].as_str().unwrap())).collect();
    let (id, glass, refused) = (id.as_str(), glass.as_str(), refused.as_str());
    assert_eq!(
        told,
        [
            ("approval_requested", id),
            ("approval_voted", id),
            ("approval_ended", id),
            ("approval_requested", glass),
            ("approval_ended", glass),
            ("approval_reviewed", glass),
            ("approval_requested", refused),
            ("approval_ended", refused),
        ]
    );
    let made = &taken[0];
    for (field, value) in [
        ("host_name", "db-1"),
        ("request", "aaaaaaaa"),
        ("user", "deploy"),
        ("login_user", "carol"),
        ("database", "shop"),
        ("destination", "db.internal (10.0.0.7:5432)"),
        ("needs", "1 of dba"),
        ("collector_may", "decide"),
    ] {
        assert_eq!(made[field], value, "{made}");
    }
    assert_eq!(made["rules"], serde_json::json!(["unbounded-write"]));
    assert_eq!((made["params"].as_u64(), made["text_clipped"].as_bool()), (Some(3), Some(true)));
    assert!(made["text"].as_str().unwrap().len() <= 16 << 10);
    assert!(made["state"].is_null(), "what comes later is told later: {made}");
    // As it stood after the first of two approvals.
    let voted = &taken[1];
    assert_eq!(voted["by"], serde_json::json!({"name": "anna", "login": "bob", "via": "host"}));
    assert_eq!(
        (&voted["missing"], &voted["scope"], &voted["reason"]),
        (&1.into(), &"shape".into(), &"looked\nat".into())
    );
    let names = |of: &Value| -> Vec<String> {
        of.as_array().unwrap().iter().map(|by| by["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names(&taken[2]["approved_by"]), ["anna", "bert"]);
    assert_eq!((&taken[4]["state"], &taken[4]["by"]["name"]), (&"broken_glass".into(), &"deploy".into()));
    assert_eq!((&taken[5]["by"]["name"], &taken[5]["reason"]), (&"anna".into(), &"it was in order".into()));
    assert_eq!((&taken[7]["state"], &taken[7]["reason"]), (&"denied".into(), &"no".into()));
    let ids: std::collections::HashSet<&str> = taken.iter().map(|one| one["id"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), 8);
}

#[tokio::test]
async fn only_what_is_asked_for_is_told_and_what_is_gone_is_said() {
    let mut site = Site::new().await;
    let (receiver, other) = (Receiver::new(), Receiver::new());
    let host = SampleHost::enrol(&site.store, "db-1", 1).await.unwrap();
    let output =
        site.hook(receiver.address, ", kinds: [approval], only: {rules: [unbounded-write], hosts: [db-1]}");
    let mut second = site.hook(other.address, ", kinds: [approval, finding], only: {rules: [another]}");
    second.name = "second".into();
    site.start(&[output.clone(), second.clone()]).await;
    let first = ask(&site, &host, "aaaaaaaa").await;
    until("it is told", async || receiver.taken().len() == 1).await;
    // A receiver has it a moment before that is noted.
    until("it is passed", async || {
        site.store.outputs().await.unwrap().iter().all(|output| output.waiting_since_ns.is_none())
    })
    .await;
    site.stop().await;
    // Pruned before it could be told.
    ask(&site, &host, "bbbbbbbb").await;
    let pool = sqlx::AnyPool::connect(&format!("sqlite://{}", site.directory.path().join("db").display()))
        .await
        .unwrap();
    sqlx::raw_sql("DELETE FROM approvals WHERE request = 'bbbbbbbb'").execute(&pool).await.unwrap();
    pool.close().await;
    ask(&site, &host, "cccccccc").await;
    let mut write = site.store.write().await.unwrap();
    write.add_finding(&host.id, "altered", "event 3", None).await.unwrap();
    write.commit().await.unwrap();
    site.start(&[output, second]).await;
    until("the rest is told", async || receiver.taken().len() == 3).await;
    until("the finding is told", async || other.taken().iter().any(|one| one["kind"] == "finding")).await;
    site.stop().await;
    let kinds: Vec<Value> = receiver.taken().iter().map(|one| one["kind"].clone()).collect();
    assert_eq!(kinds, ["approval_requested", "deleted", "approval_requested"]);
    assert_eq!(receiver.taken()[0]["approval"], first.as_str());
    let kinds: Vec<Value> = other.taken().iter().map(|one| one["kind"].clone()).collect();
    // A gap is a finding, too.
    assert_eq!(kinds[0], "deleted");
    assert!(kinds[1..].iter().all(|kind| kind == "finding"), "none of its rule: {kinds:?}");
}
