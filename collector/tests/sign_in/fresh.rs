//! A sign-in that counts as fresh is one that the provider has asked for anew, and the groups that approvals go by
//! are those of the last sign-in.

use std::process::Command;
use std::sync::Arc;

use interlock_collector::intake::Intake;
use interlock_collector::sample::SampleHost;
use interlock_collector::store::{approval_id, now_ns};
use interlock_recording::proto::Subject;
use interlock_shipping::v1::{ApprovalQuorum, ApprovalRequest};
use interlock_tests::cache;
use prost::Message as _;
use serde_json::{Value, json};

use super::{Program, Site, file, node, start};

/// Whoever approves must have signed in within so long, seconds; and how long ago somebody has who signed in before.
const FRESH: u64 = 600;
const LONG_AGO: u64 = 3600;

/// Goes through `steps`; gives what came of each.
async fn visit(site: &Site, steps: &Value) -> Vec<Value> {
    let mut command = node("visit.mjs");
    command.args([&site.base, &steps.to_string()]);
    let output = tokio::task::spawn_blocking(move || command.output().expect("node")).await.unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said} {}", String::from_utf8_lossy(&output.stderr));
    said.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Has a host hold commands that only who has signed in just now may approve; their ids.
async fn held(intake: &Intake, count: u8) -> Vec<String> {
    let host = SampleHost::enrol(&intake.store, "bastion", 1).await.unwrap().id;
    let subject = Subject { user: "deploy".into(), ..Subject::default() }.encode_to_vec();
    let mut ids = Vec::new();
    for nth in 0..count {
        let quorum = |group: &str| ApprovalQuorum {
            rule: "unbounded-write".into(),
            groups: vec![group.into()],
            needed: 1,
            ..ApprovalQuorum::default()
        };
        let told = ApprovalRequest {
            request: format!("k7m2q9x{nth}"),
            digest: vec![nth; 32],
            session: vec![nth; 16],
            asked_ns: now_ns().unsigned_abs(),
            left_ns: 900_000_000_000,
            step: "query".into(),
            text: "UPDATE customers SET vip = true".into(),
            subject: subject.clone(),
            server: "10.0.0.7:5432".into(),
            quorums: vec![quorum("dba"), quorum("oncall")],
            scopes: vec!["once".into()],
            fresh_seconds: FRESH,
            likeness: vec![1; 32],
            collector: "decide".into(),
            ..ApprovalRequest::default()
        };
        let mut write = intake.store.write().await.unwrap();
        write.take_approval(&host, &told).await.unwrap();
        write.commit().await.unwrap();
        ids.push(approval_id(&host, &told.request, &told.digest));
    }
    ids
}

fn oidc(site: &Site, in_token: bool) -> (Program, String, Value) {
    let people = json!({"alice": ["staff", "dba", "sre"], "bob": ["staff"]});
    let mut command = node("provider.mjs");
    command.arg(format!("{}/sign-in/oidc/corp/callback", site.base));
    command.arg(format!("{}/sign-in", site.base)).args([people.to_string(), in_token.to_string()]);
    let (program, said) = start(&mut command);
    let issuer = said["issuer"].as_str().unwrap().to_owned();
    let secret = site.write("secret", "a secret that the provider and the collector know\n");
    let sign_in = json!({"oidc": [{
        "name": "corp", "issuer": issuer, "client_id": "interlock", "client_secret_file": secret,
        "roles": {"viewer": ["staff"]}, "approver_groups": ["dba", "oncall"],
    }]});
    (program, format!("{issuer}/steer"), sign_in)
}

fn saml(site: &Site) -> (Program, String, Value) {
    let people = json!({"alice": ["staff", "dba", "sre"], "bob": ["staff"]});
    let mut command = Command::new(cache::saml().join("bin/python"));
    command.args(["-W", "ignore"]);
    command.arg(file("idp.py")).arg(site.directory.path());
    command.arg(format!("{}/sign-in/saml/corp/metadata", site.base)).args([&people.to_string(), "assertion"]);
    let (program, said) = start(&mut command);
    let sign_in = json!({"saml": [{
        "name": "corp", "metadata_file": said["metadata"], "name_attribute": "mail",
        "roles": {"viewer": ["staff"]}, "approver_groups": ["dba", "oncall"],
    }]});
    (program, format!("{}/steer", said["base"].as_str().unwrap()), sign_in)
}

/// What an old sign-in cannot be passed off as.
async fn only_who_was_asked_anew_is_fresh(site: &Site, intake: &Arc<Intake>, steer: &str, ids: &[String]) {
    let sign_in = json!({"open": "/sign-in/with/corp?back=/approvals", "name": "alice"});
    let again = |more: Value| {
        let mut step = json!({"open": "/sign-in/with/corp?again=true&back=/approvals", "name": "alice"});
        step.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        step
    };
    let to = |what: Value| json!({"steer": steer, "to": what});
    let approve = |nth: usize| json!({"approve": ids[nth]});
    let day = 86_400;
    let now = now_ns() / 1_000_000_000;
    let steps = [
        // 0: by the provider's form, just now.
        (sign_in.clone(), Some(1)),
        (approve(0), None),
        // 2: an hour later they are still signed in at the provider.
        (to(json!({"age": LONG_AGO})), None),
        (sign_in, Some(0)),
        (approve(1), None),
        // 5: what asks the provider to ask anew is taken away on the way there.
        (again(json!({"drop": ["prompt", "max_age"], "unforce": true})), Some(0)),
        (approve(1), None),
        // 7: as it is meant.
        (again(json!({})), Some(1)),
        (approve(1), None),
        // 9: the provider asks, and says that it was long ago; or that it is to be.
        (to(json!({"authenticated": now - LONG_AGO as i64})), None),
        (again(json!({})), None),
        (approve(2), None),
        (to(json!({"authenticated": now + day})), None),
        (again(json!({})), None),
        (approve(2), None),
        (to(json!({"authenticated": null})), None),
        // 16: the answer that was given once, once more, though it was a good one.
        (again(json!({})), Some(1)),
        (to(json!({"authenticated": now - LONG_AGO as i64})), None),
        (json!({"replay": true}), None),
    ];
    let (steps, asked): (Vec<Value>, Vec<Option<u64>>) = steps.into_iter().unzip();
    let came = visit(site, &steps.into()).await;
    for (nth, asked) in asked.iter().enumerate() {
        if let Some(asked) = asked {
            assert_eq!(
                came[nth]["asked"].as_u64().map(|times| times.min(1)),
                Some(*asked),
                "{nth}: {}",
                came[nth]
            );
        }
    }
    let passed = |nth: usize| came[nth]["status"] == 200;
    for stale in [4, 6, 11, 14] {
        let text = came[stale]["text"].as_str().unwrap();
        assert!(!passed(stale) && text.contains("sign in again"), "{stale}: {}", came[stale]);
    }
    for good in [0, 1, 3, 5, 7, 8, 16] {
        assert!(passed(good), "{good}: {}", came[good]);
    }
    assert_eq!(came[18]["status"], 403, "{}", came[18]);
    let mut votes = Vec::new();
    for id in ids.iter().take(3) {
        votes.push(intake.store.approval_votes(id).await.unwrap().len());
    }
    assert_eq!(votes, [1, 1, 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn openid_connect_asks_anew_for_a_fresh_sign_in() {
    let mut site = Site::new().await;
    let (_provider, steer, sign_in) = oidc(&site, true);
    let intake = site.serve(&sign_in.to_string()).await;
    let ids = held(&intake, 4).await;
    only_who_was_asked_anew_is_fresh(&site, &intake, &steer, &ids).await;
    // One that does not say when is none.
    let id = &ids[3];
    let said = visit(
        &site,
        &json!([
            {"steer": steer, "to": {"claims": {"auth_time": null}}},
            {"open": "/sign-in/with/corp?again=true&back=/approvals", "name": "alice"},
            {"approve": id},
        ]),
    )
    .await;
    assert!(said[1]["status"] == 200 && said[1]["asked"] == 1, "{}", said[1]);
    assert!(
        said[2]["status"] != 200 && said[2]["text"].as_str().unwrap().contains("sign in again"),
        "{}",
        said[2]
    );
    assert!(intake.store.approval_votes(id).await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn saml_asks_anew_for_a_fresh_sign_in() {
    let mut site = Site::new().await;
    let (_provider, steer, sign_in) = saml(&site);
    let intake = site.serve(&sign_in.to_string()).await;
    let ids = held(&intake, 3).await;
    only_who_was_asked_anew_is_fresh(&site, &intake, &steer, &ids).await;
}

/// Groups of the provider's, from sign-in to sign-in.
async fn groups_are_those_of_the_last_sign_in(site: &Site, intake: &Arc<Intake>, steer: &str) {
    let sign_in = json!([{"open": "/sign-in/with/corp?back=/approvals", "name": "alice"}]);
    let account = "corp:alice@example.com";
    let groups = async || intake.store.owner_of(account).await.unwrap().groups;
    let to = |groups: Value| json!([{"steer": steer, "to": {"groups": {"alice": groups}}}]);
    let enter = async || visit(site, &sign_in).await.remove(0);
    let entered = enter().await;
    assert_eq!(entered["status"], 200, "{entered}");
    // Of those that give a role or none only what the configuration lets count.
    assert_eq!(groups().await, ["dba"]);
    // Others at the provider are others here from the next sign-in on.
    visit(site, &to(json!(["staff", "oncall", "DBA", "dbas", "root"]))).await;
    assert_eq!(groups().await, ["dba"]);
    enter().await;
    assert_eq!(groups().await, ["oncall"]);
    visit(site, &to(json!(["staff"]))).await;
    enter().await;
    assert!(groups().await.is_empty());
    visit(site, &to(json!(["staff", "dba", "oncall"]))).await;
    enter().await;
    assert_eq!(groups().await, ["dba", "oncall"]);
    // What says nothing of groups any more takes them all, with the role.
    visit(site, &to(Value::Null)).await;
    let refused = enter().await;
    assert_eq!(refused["status"], 403, "{refused}");
    assert!(groups().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn groups_of_openid_connect_are_those_of_the_last_sign_in() {
    for in_token in [true, false] {
        let mut site = Site::new().await;
        let (_provider, steer, sign_in) = oidc(&site, in_token);
        let intake = site.serve(&sign_in.to_string()).await;
        groups_are_those_of_the_last_sign_in(&site, &intake, &steer).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn groups_of_saml_are_those_of_the_last_sign_in() {
    let mut site = Site::new().await;
    let (_provider, steer, sign_in) = saml(&site);
    let intake = site.serve(&sign_in.to_string()).await;
    groups_are_those_of_the_last_sign_in(&site, &intake, &steer).await;
}
