//! Who sees requests for approval, who decides on them, and what is written down of it.

use std::collections::HashSet;

use interlock_recording::proto::Subject;
use interlock_shipping::v1::{
    ApprovalAnswer, ApprovalBeforehand, ApprovalBy, ApprovalEstimate, ApprovalParam, ApprovalQuorum,
    ApprovalRequest, ApprovalStanding, ApprovalStatement, ApprovalVote,
};
use prost::Message as _;
use serde_json::json;

use super::*;
use crate::store::{JournalRow, approval_id};

/// What `alice`, who has become `deploy`, asks for on a host.
pub(super) fn request() -> ApprovalRequest {
    let subject = Subject {
        user: "deploy".into(),
        login_user: "alice".into(),
        exe: "/usr/bin/psql".into(),
        argv: vec!["psql".into(), "shop".into()],
        ..Subject::default()
    };
    ApprovalRequest {
        request: "k7m2q9xd".into(),
        digest: vec![7; 32],
        session: vec![1; 16],
        asked_ns: now_ns().unsigned_abs(),
        deadline_ns: now_ns().unsigned_abs() + 600_000_000_000,
        left_ns: 600_000_000_000,
        step: "query".into(),
        text: "UPDATE customers SET vip = $1".into(),
        params: vec![ApprovalParam { value: Some("secret-parameter".into()) }, ApprovalParam { value: None }],
        statements: vec![ApprovalStatement {
            kinds: vec!["update".into()],
            writes: vec!["customers".into()],
            r#where: "missing".into(),
            ..ApprovalStatement::default()
        }],
        subject: subject.encode_to_vec(),
        server: "10.0.0.1:5432".into(),
        database: "shop".into(),
        db_user: "app".into(),
        quorums: vec![ApprovalQuorum {
            rule: "unbounded".into(),
            groups: vec!["dba".into()],
            needed: 1,
            ..ApprovalQuorum::default()
        }],
        scopes: vec!["once".into(), "shape".into()],
        shape_for_seconds: 1800,
        likeness: vec![3; 32],
        collector: "decide".into(),
        ..ApprovalRequest::default()
    }
}

/// The state that a host tells.
fn standing(of: &ApprovalRequest, state: &str) -> ApprovalStanding {
    let (request, digest) = (of.request.clone(), of.digest.clone());
    ApprovalStanding { request, digest, state: state.into(), ..ApprovalStanding::default() }
}

impl Site {
    /// A host has this request open; gives its id here.
    async fn asked(&self, host: &str, told: &ApprovalRequest) -> String {
        let mut write = self.intake.store.write().await.unwrap();
        write.take_approval(host, told).await.unwrap();
        write.commit().await.unwrap();
        approval_id(host, &told.request, &told.digest)
    }

    async fn stands(&self, host: &str, told: &ApprovalStanding) {
        let mut write = self.intake.store.write().await.unwrap();
        write.take_standing(host, told).await.unwrap();
        write.commit().await.unwrap();
    }

    /// An account in these groups, with its browser.
    async fn member(&self, name: &str, role: Role, groups: &[&str]) -> Caller {
        self.account(name, role).await;
        let groups: Vec<String> = groups.iter().map(|group| (*group).to_owned()).collect();
        let mut write = self.intake.store.write().await.unwrap();
        write.set_groups(name, &groups).await.unwrap();
        write.commit().await.unwrap();
        self.browser(name).await
    }

    /// The host's agent, which counts whatever it is told but what `refuses` says otherwise of.
    fn agent(
        &self,
        host: &str,
        refuses: fn(&ApprovalVote) -> Option<&'static str>,
    ) -> tokio::task::JoinHandle<()> {
        let (intake, host) = (Arc::clone(&self.intake), host.to_owned());
        tokio::spawn(async move {
            loop {
                for vote in intake.store.waiting_votes(&host).await.unwrap().0 {
                    let why = refuses(&vote);
                    let answer = ApprovalAnswer {
                        vote: vote.vote.clone(),
                        counted: why.is_none(),
                        why: why.unwrap_or_default().into(),
                        missing: 0,
                    };
                    let mut write = intake.store.write().await.unwrap();
                    assert!(!write.answer_vote("another", &answer).await.unwrap(), "not that host's");
                    assert!(write.answer_vote(&host, &answer).await.unwrap());
                    write.commit().await.unwrap();
                }
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        })
    }

    async fn host(&self) -> String {
        SampleHost::enrol(&self.intake.store, "bastion", 1).await.unwrap().id
    }
}

const APPROVE: &str = r#"{"reason": "ticket 17"}"#;

#[tokio::test]
async fn members_decide_whatever_their_role_and_nobody_else_whatever_theirs() {
    let site = Site::new().await;
    let host = site.host().await;
    let agent = site.agent(&host, |_| None);
    for role in ALL {
        site.member(role.name(), *role, &[]).await;
        site.member(&format!("member-{role}"), *role, &["dba"]).await;
        site.member(&format!("other-{role}"), *role, &["sec"]).await;
    }
    for (nth, role) in ALL.iter().enumerate() {
        for (name, member) in [
            (role.name().to_owned(), false),
            (format!("other-{role}"), false),
            (format!("member-{role}"), true),
        ] {
            for by_token in [false, true] {
                // A request for each of them.
                let digest =
                    [u8::try_from(nth).unwrap(), u8::from(by_token), u8::from(member), name.len() as u8];
                let told = ApprovalRequest { digest: digest.repeat(8), ..request() };
                let id = site.asked(&host, &told).await;
                let caller =
                    if by_token { site.program(&name, *role).await } else { site.browser(&name).await };
                let sees = member || *role != Role::Viewer;
                let what = format!("{name}, by token: {by_token}");
                let path = format!("/api/v1/approvals/{id}");
                let shown = site.get(&path, &caller).await;
                assert_eq!(shown.status == StatusCode::OK, sees, "{what}: {}", shown.text);
                assert_eq!(shown.text.contains("secret-parameter"), sees, "{what}");
                let listed = site.get("/api/v1/approvals?state=pending", &caller).await;
                assert_eq!(listed.text.contains(&id), sees, "{what}: {}", listed.text);
                if !by_token {
                    for page in [format!("/approvals/{id}"), format!("/approvals/{id}/standing")] {
                        assert_eq!(
                            site.get(&page, &caller).await.status == StatusCode::OK,
                            sees,
                            "{what} {page}"
                        );
                    }
                    let list = site.get("/approvals/list", &caller).await;
                    assert_eq!(list.text.contains(&id), sees, "{what}");
                }
                let denied = |sees| if sees { StatusCode::FORBIDDEN } else { StatusCode::NOT_FOUND };
                let deny =
                    site.send(Method::POST, &format!("{path}/deny"), &caller, r#"{"reason": "no"}"#).await;
                let approve = site.send(Method::POST, &format!("{path}/approve"), &caller, APPROVE).await;
                for reply in [deny, approve] {
                    let expected = if member { StatusCode::OK } else { denied(sees) };
                    assert_eq!(reply.status, expected, "{what}: {}", reply.text);
                }
                if !by_token {
                    let form = [("reason", "again")];
                    let reply = site.post(&format!("/approvals/{id}/deny"), &caller, &form).await;
                    assert!(reply.status.is_client_error(), "{what}: {} {}", reply.status, reply.text);
                }
                // It is of no consequence to those that come later.
                site.stands(&host, &standing(&told, "denied")).await;
            }
        }
    }
    let trail = site.trail().await;
    let done = |action: &str| trail.iter().filter(|(_, done, _)| done == action).count();
    assert_eq!((done("approval.approve"), done("approval.deny")), (8, 8));
    assert!(done("approval.refused") > 0, "what somebody tried is written down");
    // Each stands in the ledger.
    let entries = site.intake.store.ledger_entries(0, 500).await.unwrap();
    assert_eq!(
        entries.iter().filter(|entry| entry.kind == "approval_given" && entry.host == host).count(),
        16
    );
    agent.abort();
}

#[tokio::test]
async fn what_cannot_count_is_not_passed_on_and_says_why() {
    let site = Site::new().await;
    let host = site.host().await;
    let agent = site.agent(&host, |vote| (vote.reason == "late").then_some("it is expired already"));
    let bob = site.member("bob", Role::Viewer, &["dba"]).await;
    let path = |id: &str, what: &str| format!("/api/v1/approvals/{id}/{what}");
    let with = |nth: u8, change: fn(&mut ApprovalRequest)| {
        let mut told = ApprovalRequest { digest: vec![nth; 32], ..request() };
        change(&mut told);
        told
    };
    for (nth, change, body, status, why) in [
        (
            1,
            (|told| told.collector = "show".into()) as fn(&mut ApprovalRequest),
            APPROVE,
            409,
            "takes no approvals",
        ),
        (2, |told| told.quorums[0].via = vec!["host".into()], APPROVE, 409, "only on the host"),
        (3, |told| told.reason_required = true, "{}", 422, "asks for a reason"),
        (4, |_| (), r#"{"scope": "session"}"#, 422, "lets you approve once, shape"),
        (5, |told| told.fresh_seconds = 600, APPROVE, 403, "sign in again"),
        (6, |told| told.left_ns = 0, APPROVE, 409, "expired already"),
        (7, |_| (), r#"{"reason": "late"}"#, 409, "expired already"),
    ] {
        let id = site.asked(&host, &with(nth, change)).await;
        let reply = site.send(Method::POST, &path(&id, "approve"), &bob, body).await;
        assert_eq!(reply.status.as_u16(), status, "{nth}: {}", reply.text);
        assert!(reply.text.contains(why), "{nth}: {}", reply.text);
        // A refusal counts, but after the time.
        let reply = site.send(Method::POST, &path(&id, "deny"), &bob, r#"{"reason": "no"}"#).await;
        let expected = if nth == 6 { StatusCode::CONFLICT } else { StatusCode::OK };
        assert_eq!(reply.status, expected, "{nth}: {}", reply.text);
    }
    // Nobody says the same twice, or without a reason for a refusal.
    let id = site.asked(&host, &with(8, |_| ())).await;
    let reply = site.send(Method::POST, &path(&id, "deny"), &bob, r#"{"reason": "  "}"#).await;
    assert_eq!(reply.status, StatusCode::UNPROCESSABLE_ENTITY);
    let reply =
        site.send(Method::POST, &path(&id, "approve"), &bob, r#"{"scope": "shape", "minutes": 5}"#).await;
    assert_eq!((reply.status, &reply.json()["seconds"]), (StatusCode::OK, &300.into()), "{}", reply.text);
    let reply = site.send(Method::POST, &path(&id, "approve"), &bob, "{}").await;
    assert!(
        reply.status == StatusCode::CONFLICT && reply.text.contains("approved it already"),
        "{}",
        reply.text
    );
    // By the name that the host gave it, where that is one's.
    let reply = site.get("/api/v1/approvals/k7m2q9xd", &bob).await;
    assert_eq!(reply.status, StatusCode::NOT_FOUND, "several are called so");
    let other = site.asked(&host, &ApprovalRequest { request: "aaaaaaaa".into(), ..with(9, |_| ()) }).await;
    let reply = site.get("/api/v1/approvals/aaaaaaaa", &bob).await;
    assert_eq!(reply.json()["id"], other.as_str());
    assert_eq!(site.get("/approvals/aaaaaaaa", &bob).await.location(), format!("/approvals/{other}"));
    for bad in ["%2e%2e", "k7m2q9xd-0000000000000000", "'", "%00"] {
        assert_eq!(
            site.get(&format!("/api/v1/approvals/{bad}"), &bob).await.status,
            StatusCode::NOT_FOUND,
            "{bad}"
        );
    }
    assert_eq!(site.get("/api/v1/approvals?state=x", &bob).await.status, StatusCode::BAD_REQUEST);
    agent.abort();
}

#[tokio::test]
async fn nobody_decides_on_their_own_request_by_any_of_their_names() {
    let site = Site::new().await;
    let host = site.host().await;
    let id = site.asked(&host, &request()).await;
    let admin = site.signed_in(Role::Admin).await;
    for (name, body) in [
        ("alice", r#"{"groups": ["dba"]}"#),
        ("deploy", r#"{"groups": ["dba"]}"#),
        ("boss", r#"{"groups": ["dba"], "logins": ["x", "Alice"]}"#),
        ("mail", r#"{"groups": ["dba"], "email": "ALICE@corp.example"}"#),
    ] {
        site.account(name, Role::Reviewer).await;
        let reply = site.send(Method::PATCH, &format!("/api/v1/users/{name}/owner"), &admin, body).await;
        assert_eq!(reply.status, StatusCode::NO_CONTENT, "{}", reply.text);
        let browser = site.browser(name).await;
        let page = site.get(&format!("/approvals/{id}"), &browser).await.text;
        assert!(page.contains("You ask for it yourself") && !page.contains("/approve\""), "{page}");
        for (what, body) in [("approve", APPROVE), ("deny", r#"{"reason": "no"}"#)] {
            let path = format!("/api/v1/approvals/{id}/{what}");
            let reply = site.send(Method::POST, &path, &browser, body).await;
            assert_eq!(reply.status, StatusCode::FORBIDDEN, "{name}");
            assert!(reply.text.contains("own request"), "{}", reply.text);
        }
    }
    assert!(site.intake.store.approval_votes(&id).await.unwrap().is_empty());
    // However the host writes them, and by a login that the process only claims.
    let claimed =
        interlock_recording::proto::ClaimedLogin { uid: 7, user: "CORP+carol".into(), session: None };
    let subject =
        Subject { user: "eve+batch@corp.example".into(), login_claimed: Some(claimed), ..Subject::default() };
    let told = ApprovalRequest {
        request: "k7m2q9x2".into(),
        digest: vec![8; 32],
        subject: subject.encode_to_vec(),
        ..request()
    };
    let claims = site.asked(&host, &told).await;
    for (name, own) in [("carol", true), ("Eve", true), ("corp", true), ("dave", false), ("batch2", false)] {
        let browser = site.member(name, Role::Reviewer, &["dba"]).await;
        let path = format!("/api/v1/approvals/{claims}/deny");
        let reply = site.send(Method::POST, &path, &browser, r#"{"reason": "no"}"#).await;
        let refused = reply.status == StatusCode::FORBIDDEN && reply.text.contains("own request");
        assert_eq!(refused, own, "{name}: {} {}", reply.status, reply.text);
    }
    // Who may decide on what is not for oneself to say, and groups are what policies can name.
    let own = site.send(Method::PATCH, "/api/v1/users/admin/owner", &admin, r#"{"groups": ["dba"]}"#).await;
    assert_eq!(own.status, StatusCode::UNPROCESSABLE_ENTITY, "{}", own.text);
    for bad in
        [r#"{"groups": ["a b"]}"#, r#"{"groups": [""]}"#, r#"{"logins": ["a b"]}"#, r#"{"email": "\n"}"#]
    {
        let reply = site.send(Method::PATCH, "/api/v1/users/boss/owner", &admin, bad).await;
        let none = bad.contains("\\n");
        assert_eq!(reply.status == StatusCode::UNPROCESSABLE_ENTITY, !none, "{bad}: {}", reply.text);
    }
    let page = site.get("/admin/users/boss", &admin).await.text;
    assert!(page.contains("value=\"x Alice\""), "{page}");
}

#[tokio::test]
async fn a_fresh_sign_in_is_asked_for_and_counts() {
    let site = Site::new().await;
    let host = site.host().await;
    let agent = site
        .agent(&host, |vote| (vote.by.as_ref().is_none_or(|by| by.authenticated_ns == 0)).then_some("stale"));
    let told = ApprovalRequest { fresh_seconds: 600, ..request() };
    let id = site.asked(&host, &told).await;
    let bob = site.member("bob", Role::Viewer, &["dba"]).await;
    let admin = site.signed_in(Role::Admin).await;
    let body = format!(r#"{{"password": "{PASSWORD}"}}"#);
    site.send(Method::POST, "/api/v1/users/bob/reset", &admin, &body).await;
    let bob = Caller { session: site.browser("bob").await.session, ..bob };
    let page = site.get(&format!("/approvals/{id}"), &bob).await.text;
    assert!(page.contains("Sign in again to approve") && page.contains("/account/again?back="), "{page}");
    let path = format!("/approvals/{id}/approve");
    assert_eq!(site.post(&path, &bob, &[("scope", "once")]).await.status, StatusCode::UNPROCESSABLE_ENTITY);
    let back = format!("/approvals/{id}");
    let wrong = [("password", "wrong wrong wrong"), ("back", back.as_str())];
    assert_eq!(site.post("/account/again", &bob, &wrong).await.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(site.post(&path, &bob, &[("scope", "once")]).await.status, StatusCode::UNPROCESSABLE_ENTITY);
    let right = [("password", PASSWORD), ("back", back.as_str())];
    assert_eq!(site.post("/account/again", &bob, &right).await.location(), back);
    let elsewhere = [("password", PASSWORD), ("back", "//evil.example")];
    assert_eq!(site.post("/account/again", &bob, &elsewhere).await.location(), "/sessions");
    let reply = site.post(&path, &bob, &[("scope", "once")]).await;
    assert_eq!(reply.location(), format!("{back}?done=approval-approved"), "{}", reply.text);
    // A program's token has never signed in.
    let id = site.asked(&host, &ApprovalRequest { digest: vec![8; 32], ..told }).await;
    let token = site.program("bob", Role::Viewer).await;
    let reply = site.send(Method::POST, &format!("/api/v1/approvals/{id}/approve"), &token, "{}").await;
    assert_eq!(reply.status, StatusCode::FORBIDDEN, "{}", reply.text);
    agent.abort();
}

#[tokio::test]
async fn how_many_rows_are_expected_is_shown() {
    let site = Site::new().await;
    let host = site.host().await;
    let bob = site.member("bob", Role::Viewer, &["dba"]).await;
    let why_not = "the server does not plan it (SQLSTATE 55P03)";
    for (nth, estimate, page, api) in [
        (1, None, "", Value::Null),
        (
            2,
            Some(ApprovalEstimate { rows: Some(4_182_000), why_not: String::new() }),
            "about 4 182 000, as the server expects",
            json!({"rows": 4_182_000, "why_not": ""}),
        ),
        (
            3,
            Some(ApprovalEstimate { rows: None, why_not: why_not.into() }),
            "no estimate, because the server does not plan it (SQLSTATE 55P03)",
            json!({"rows": null, "why_not": why_not}),
        ),
    ] {
        let told = ApprovalRequest { digest: vec![nth; 32], estimate, ..request() };
        let id = site.asked(&host, &told).await;
        let shown = site.get(&format!("/approvals/{id}"), &bob).await.text;
        assert!(shown.contains(page), "{shown}");
        assert_eq!(shown.contains(">rows<"), nth > 1, "{shown}");
        assert_eq!(site.get(&format!("/api/v1/approvals/{id}"), &bob).await.json()["estimate"], api);
    }
}

#[tokio::test]
async fn what_hosts_tell_is_shown_harmlessly() {
    let site = Site::new().await;
    let host = site.host().await;
    let evil = format!("{HOSTILE}<script>alert(1)</script>\" onmouseover=\"alert\u{202e}");
    let subject = Subject {
        user: evil.clone(),
        login_user: evil.clone(),
        exe: evil.clone(),
        argv: vec![evil.clone()],
        ..Subject::default()
    };
    let told = ApprovalRequest {
        subject: subject.encode_to_vec(),
        text: evil.clone(),
        runs: vec![evil.clone()],
        params: vec![ApprovalParam { value: Some(evil.clone()) }],
        server: evil.clone(),
        hosts: vec![evil.clone()],
        database: evil.clone(),
        db_user: evil.clone(),
        message: evil.clone(),
        estimate: Some(ApprovalEstimate { rows: None, why_not: evil.clone() }),
        started_by: evil.clone(),
        beforehand: Some(ApprovalBeforehand {
            reason: evil.clone(),
            tree_pid: 7,
            tree_exe: evil.clone(),
            usable_seconds: 9,
            time_zone: evil.clone(),
            program: evil.clone(),
        }),
        step: evil.clone(),
        transaction: evil.clone(),
        quorums: vec![ApprovalQuorum {
            rule: evil.clone(),
            groups: vec!["dba".into(), evil.clone()],
            needed: 1,
            ..ApprovalQuorum::default()
        }],
        scopes: vec!["once".into(), evil.clone()],
        statements: vec![ApprovalStatement {
            kinds: vec![evil.clone()],
            classes: vec![evil.clone()],
            reads: vec![evil.clone()],
            writes: vec![evil.clone()],
            functions: vec![evil.clone()],
            r#where: evil.clone(),
            unparsed: evil.clone(),
            ..ApprovalStatement::default()
        }],
        ..request()
    };
    let id = site.asked(&host, &told).await;
    let other = site.asked(&host, &ApprovalRequest { digest: vec![9; 32], ..told.clone() }).await;
    let mut ended = standing(&told, "denied");
    ended.reason = evil.clone();
    ended.by =
        Some(interlock_shipping::v1::ApprovalBy { name: evil.clone(), login: evil, ..Default::default() });
    site.stands(&host, &ended).await;
    let bob = site.member("bob", Role::Viewer, &["dba"]).await;
    for path in [
        "/approvals".to_owned(),
        "/approvals?state=decided&text=%3Cscript%3Ealert".into(),
        "/approvals/list".into(),
        format!("/approvals/{id}"),
        format!("/approvals/{other}"),
        format!("/approvals/{id}/standing"),
        format!("/api/v1/approvals/{id}"),
        "/api/v1/approvals".into(),
    ] {
        let reply = site.get(&path, &bob).await;
        assert_eq!(reply.status, StatusCode::OK, "{path} {}", reply.text);
        let bad = reply.text.chars().find(|c| !matches!(c, '\n' | '\t') && is_unprintable(*c));
        assert_eq!(bad, None, "{path}");
        if !path.starts_with("/api/") {
            for markup in ["<script>alert", "<img src=x", "<b>rule", "\" onmouseover=\"alert"] {
                assert!(!reply.text.contains(markup), "{path}: {markup}");
            }
        }
    }
}

#[tokio::test]
async fn a_broken_glass_stays_open_until_a_member_has_looked_into_it() {
    let site = Site::new().await;
    let host = site.host().await;
    let told = request();
    let id = site.asked(&host, &told).await;
    // By somebody whose process claims a login, and who has signed in on the host.
    let by = ApprovalBy {
        name: "deploy".into(),
        names: vec!["CORP+dave".into(), "erin@corp.example".into()],
        ..ApprovalBy::default()
    };
    let broken = ApprovalStanding { reason: "fire".into(), by: Some(by), ..standing(&told, "broken_glass") };
    site.stands(&host, &broken).await;
    let bob = site.member("bob", Role::Viewer, &["dba"]).await;
    let alice = site.member("alice", Role::Admin, &["dba"]).await;
    let dave = site.member("dave", Role::Viewer, &["dba"]).await;
    let erin = site.member("erin", Role::Viewer, &["dba"]).await;
    let auditor = site.signed_in(Role::Auditor).await;
    for caller in [&bob, &auditor] {
        assert!(site.get("/approvals?state=unreviewed", caller).await.text.contains("needs review"));
    }
    let path = format!("/api/v1/approvals/{id}/review");
    let body = r#"{"reason": "the disk was full"}"#;
    // Who asked, who broke it by any of their names, and who is in no group, cannot close it.
    for caller in [&alice, &dave, &erin, &auditor] {
        assert_eq!(site.send(Method::POST, &path, caller, body).await.status, StatusCode::FORBIDDEN);
    }
    let empty = site.post(&format!("/approvals/{id}/review"), &bob, &[("reason", " ")]).await;
    assert_eq!(empty.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(site.send(Method::POST, &path, &bob, body).await.status, StatusCode::NO_CONTENT);
    assert_eq!(site.send(Method::POST, &path, &bob, body).await.status, StatusCode::UNPROCESSABLE_ENTITY);
    let listed = site.get("/api/v1/approvals?state=unreviewed", &auditor).await.json();
    assert_eq!(listed["items"].as_array().unwrap().len(), 0);
    let one = site.get(&format!("/api/v1/approvals/{id}"), &auditor).await.json();
    assert_eq!((&one["reviewed_by"], &one["review"]), (&"bob".into(), &"the disk was full".into()));
    assert!(site.trail().await.iter().any(|(who, action, _)| who == "bob" && action == "approval.review"));
}

#[tokio::test]
async fn each_change_is_in_the_journal_and_what_is_over_stays_so() {
    let site = Site::new().await;
    let host = site.host().await;
    let store = &site.intake.store;
    let mut write = store.write().await.unwrap();
    write.add_output("chat").await.unwrap();
    write.commit().await.unwrap();
    let told = request();
    let id = site.asked(&host, &told).await;
    // Told again after a connection that broke.
    site.asked(&host, &told).await;
    site.stands(
        &host,
        &ApprovalStanding { missing: 1, votes: vec![Default::default()], ..standing(&told, "pending") },
    )
    .await;
    site.stands("another", &standing(&told, "approved")).await;
    site.stands(&host, &standing(&told, "expired")).await;
    site.stands(&host, &standing(&told, "approved")).await;
    let second = ApprovalRequest { digest: vec![8; 32], ..told };
    let second_id = site.asked(&host, &second).await;
    let mut write = store.write().await.unwrap();
    assert_eq!(write.close_approvals("another", &HashSet::new()).await.unwrap(), 0);
    assert_eq!(write.close_approvals(&host, &HashSet::from([second_id.clone()])).await.unwrap(), 0);
    assert_eq!(write.close_approvals(&host, &HashSet::new()).await.unwrap(), 1);
    write.commit().await.unwrap();
    let rows = store.journal((0, 0), 100).await.unwrap();
    let rows = rows.iter().filter_map(JournalRow::approval);
    let about: Vec<_> = rows.map(|(id, news, _)| format!("{id} {}", news.word())).collect();
    let expected = [
        format!("{id} made"),
        format!("{id} changed"),
        format!("{id} ended"),
        format!("{second_id} made"),
        format!("{second_id} ended"),
    ];
    assert_eq!(about, expected);
    assert_eq!(store.approval(&id).await.unwrap().unwrap().item.state, "expired");
    let closed = store.approval(&second_id).await.unwrap().unwrap();
    assert!(closed.item.state == "withdrawn" && closed.standing.reason.contains("started anew"));
    assert_eq!(store.open_approvals(None).await.unwrap(), 0);
}

#[tokio::test]
async fn filters_find_and_miss() {
    let site = Site::new().await;
    let host = site.host().await;
    let told = |nth: u8, text: &str, rule: &str| {
        let mut told = ApprovalRequest { digest: vec![nth; 32], text: text.into(), ..request() };
        told.quorums[0].rule = rule.into();
        told
    };
    let first = told(1, "DELETE FROM a_b", "no-delete");
    for told in [&first, &told(2, "DELETE FROM axb", "no"), &told(3, "UPDATE t", "no-update")] {
        site.asked(&host, told).await;
    }
    site.stands(&host, &standing(&first, "denied")).await;
    let reviewer = site.signed_in(Role::Reviewer).await;
    for (query, count) in [
        ("", 3),
        ("state=pending", 2),
        ("state=decided", 1),
        ("state=denied", 1),
        ("state=approved", 0),
        ("text=a_b", 1),
        ("text=DELETE", 2),
        ("text=k7m2q9xd", 3),
        ("user=deploy", 3),
        ("user=alice", 3),
        ("user=bob", 0),
        ("rule=no", 1),
        ("rule=no-update", 1),
        ("host=bastion", 3),
        ("host=nowhere", 0),
        ("since=1h", 3),
        ("until=1h", 0),
    ] {
        let found = site.get(&format!("/api/v1/approvals?{query}"), &reviewer).await.json();
        assert_eq!(found["items"].as_array().unwrap().len(), count, "{query}");
    }
    let page = site.get("/api/v1/approvals?limit=2", &reviewer).await.json();
    let rest = site
        .get(&format!("/api/v1/approvals?limit=2&cursor={}", page["next"].as_str().unwrap()), &reviewer)
        .await;
    assert_eq!((rest.json()["items"].as_array().unwrap().len(), &rest.json()["next"]), (1, &Value::Null));
    let alike = site.get("/api/v1/approvals?state=denied", &reviewer).await.json();
    let id = alike["items"][0]["id"].as_str().unwrap().to_owned();
    let one = site.get(&format!("/api/v1/approvals/{id}"), &reviewer).await.json();
    assert_eq!(one["alike"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn what_is_asked_for_beforehand_is_shown_as_the_askers_words() {
    let site = Site::new().await;
    let host = site.host().await;
    let reason = format!("{}: the rule says: fine, approve it. END OF REASON", "ticket 17 ".repeat(90));
    let beforehand = ApprovalBeforehand {
        reason: reason.clone(),
        tree_pid: 4711,
        tree_exe: "/usr/bin/claude".into(),
        usable_seconds: 900,
        time_zone: "Asia/Tokyo".into(),
        program: "/usr/local/sbin/nightly-backup".into(),
    };
    let told = ApprovalRequest {
        message: "Ask the DBAs.".into(),
        session: Vec::new(),
        beforehand: Some(beforehand),
        ..request()
    };
    let id = site.asked(&host, &told).await;
    let bob = site.member("bob", Role::Viewer, &["dba"]).await;
    let page = site.get(&format!("/approvals/{id}"), &bob).await.text;
    for part in [
        "<p class=\"notice\">Ask the DBAs.</p>",
        "not sent yet",
        "4711",
        "/usr/bin/claude",
        "900 s",
        "Asia/Tokyo",
        "To be sent by, as they say",
        "/usr/local/sbin/nightly-backup",
        "Who asks says, in their own words",
        "END OF REASON",
    ] {
        assert!(page.contains(part), "{part}: {page}");
    }
    assert!(!page.contains("/sessions/") && !page.contains("of the session"), "{page}");
    let one = site.get(&format!("/api/v1/approvals/{id}"), &bob).await.json();
    let expected = serde_json::json!({
        "reason": reason, "tree_pid": 4711, "tree_exe": "/usr/bin/claude", "usable_seconds": 900,
        "time_zone": "Asia/Tokyo", "program_claimed": "/usr/local/sbin/nightly-backup",
    });
    assert_eq!((&one["beforehand"], &one["message"]), (&expected, &"Ask the DBAs.".into()));
    let waits = site.asked(&host, &ApprovalRequest { digest: vec![9; 32], ..request() }).await;
    let one = site.get(&format!("/api/v1/approvals/{waits}"), &bob).await.json();
    assert!(one["beforehand"].is_null());
}

#[tokio::test]
async fn whoever_broke_the_glass_or_voted_does_not_review_it() {
    let site = Site::new().await;
    let host = site.host().await;
    // The account of a provider, whose names are none of the host's.
    let owner = async |name: &str, subject: &str| {
        let caller = site.member(name, Role::Viewer, &["dba"]).await;
        sqlx::query(
            "INSERT INTO identities (issuer, subject, user_name) VALUES ('https://id.example', $1, $2)",
        )
        .bind(subject)
        .bind(name)
        .execute(site.intake.store.pool())
        .await
        .unwrap();
        caller
    };
    let (broke, voted) = (owner("sunny", "00u1").await, owner("windy", "00u2").await);
    let (here, free) = (owner("rainy", "00u3").await, owner("foggy", "00u4").await);
    let other_issuer = ApprovalBy {
        name: "x1".into(),
        issuer: "https://other.example".into(),
        subject: "00u4".into(),
        ..ApprovalBy::default()
    };
    let by = |name: &str, subject: &str| ApprovalBy {
        name: name.into(),
        issuer: "https://id.example".into(),
        subject: subject.into(),
        ..ApprovalBy::default()
    };
    let told = ApprovalRequest {
        quorums: vec![ApprovalQuorum { needed: 3, ..request().quorums.remove(0) }],
        ..request()
    };
    let id = site.asked(&host, &told).await;
    // Approved here, as the host has not heard yet.
    let approve = format!("/api/v1/approvals/{id}/approve");
    let reply = site.send(Method::POST, &approve, &here, "{}").await;
    assert!(reply.status.is_success(), "{}", reply.text);
    let votes = [by("deploy", "00u2"), other_issuer];
    let votes =
        votes.map(|by| interlock_shipping::v1::ApprovalCounted { by: Some(by), ..Default::default() });
    let broken = ApprovalStanding {
        reason: "fire".into(),
        by: Some(by("deploy", "00u1")),
        votes: votes.into(),
        ..standing(&told, "broken_glass")
    };
    site.stands(&host, &broken).await;
    let path = format!("/api/v1/approvals/{id}/review");
    let body = r#"{"reason": "fine"}"#;
    for (caller, why) in [(&broke, "own request"), (&voted, "has decided"), (&here, "has decided")] {
        let reply = site.send(Method::POST, &path, caller, body).await;
        assert_eq!(reply.status, StatusCode::FORBIDDEN, "{}", reply.text);
        assert!(reply.text.contains(why), "{why}: {}", reply.text);
        let page = site.get(&format!("/approvals/{id}"), caller).await.text;
        assert!(!page.contains("Close the review"), "{page}");
    }
    assert!(site.get(&format!("/approvals/{id}"), &free).await.text.contains("Close the review"));
    assert_eq!(site.send(Method::POST, &path, &free, body).await.status, StatusCode::NO_CONTENT);
}

#[tokio::test]
async fn who_may_stand_behind_it_is_shown_and_a_verified_person_wanted() {
    let site = Site::new().await;
    let host = site.host().await;
    let agent = site.agent(&host, |_| None);
    let started_by = "started by cron (unit cron.service): whoever may become deploy may stand behind it";
    let told = ApprovalRequest { approver_verified: true, started_by: started_by.into(), ..request() };
    let id = site.asked(&host, &told).await;
    let bob = site.member("bob", Role::Viewer, &["dba"]).await;
    let page = site.get(&format!("/approvals/{id}"), &bob).await.text;
    assert!(page.contains(started_by) && page.contains("whom an identity provider has verified"), "{page}");
    assert!(!page.contains("id=\"approve\"") && page.contains("id=\"deny\""), "{page}");
    let one = site.get(&format!("/api/v1/approvals/{id}"), &bob).await.json();
    assert_eq!((&one["approver_verified"], &one["started_by"]), (&true.into(), &started_by.into()));
    let approve = format!("/api/v1/approvals/{id}/approve");
    let reply = site.send(Method::POST, &approve, &bob, "{}").await;
    assert_eq!(reply.status, StatusCode::CONFLICT, "{}", reply.text);
    assert!(reply.text.contains("identity provider"), "{}", reply.text);
    // The account of a provider.
    let carol = site.member("carol", Role::Viewer, &["dba"]).await;
    sqlx::query(
        "INSERT INTO identities (issuer, subject, user_name) VALUES ('https://id.example', '00u1', 'carol')",
    )
    .execute(site.intake.store.pool())
    .await
    .unwrap();
    assert!(site.get(&format!("/approvals/{id}"), &carol).await.text.contains("id=\"approve\""));
    let reply = site.send(Method::POST, &approve, &carol, "{}").await;
    assert!(reply.status.is_success(), "{} {}", reply.status, reply.text);
    // A refusal counts from anybody who may decide.
    let id = site.asked(&host, &ApprovalRequest { digest: vec![8; 32], ..told }).await;
    let deny = format!("/api/v1/approvals/{id}/deny");
    let reply = site.send(Method::POST, &deny, &bob, r#"{"reason": "not by cron"}"#).await;
    assert!(reply.status.is_success(), "{} {}", reply.status, reply.text);
    agent.abort();
}
