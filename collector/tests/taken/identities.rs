//! People whom identity providers know, as the database keeps them.

use interlock_collector::store::{NewApiToken, NewSignIn, now_ns};

use crate::support::Collector;

const ISSUER: &str = "https://idp.example";

#[tokio::test(flavor = "multi_thread")]
async fn an_identity_has_one_account_and_what_counts_once_counts_once() {
    let state = tempfile::tempdir().expect("a directory");
    let collector = Collector::start(state.path()).await;
    let store = &collector.intake.store;
    let mut write = store.write().await.expect("writes");
    assert!(write.add_user("root", "*", "admin", "test").await.expect("added"));
    assert!(write.identity(ISSUER, "1").await.expect("looked").is_none());
    let first = write.add_identity("okta", ISSUER, "1", "okta:alice", "viewer").await.expect("added");
    let second = write.add_identity("okta", ISSUER, "2", "okta:alice", "admin").await.expect("added");
    assert_eq!((first.as_str(), second.as_str()), ("okta:alice", "okta:alice~2"));
    write.set_identity_role(&first, "other", "auditor").await.expect("set");
    write.set_identity_role("root", "okta", "viewer").await.expect("set");
    assert!(!write.set_password(&first, "a hash").await.expect("asked"), "a password for who has none");
    let token = "0".repeat(64);
    let new = NewSignIn {
        token_sha256: &token,
        user: &first,
        expires_ns: i64::MAX,
        address: "127.0.0.1",
        user_agent: "test",
        authenticated_ns: 0,
    };
    write.add_sign_in(&new).await.expect("signed in");
    let new = NewApiToken {
        token_sha256: &token,
        id: "0000",
        label: "test",
        owner: &first,
        role: "viewer",
        scopes: "read export",
        expires_ns: i64::MAX,
    };
    write.add_api_token(&new).await.expect("a token");
    write.commit().await.expect("written");

    let mut write = store.write().await.expect("writes");
    let known = write.identity(ISSUER, "1").await.expect("looked").expect("there");
    assert_eq!((known.user.as_str(), known.role.as_str(), known.active), ("okta:alice", "auditor", true));
    drop(write);
    let user = store.user("root").await.expect("looked").expect("there");
    assert_eq!(
        (user.role.as_str(), user.provider.as_str()),
        ("admin", ""),
        "a local account became a provider's"
    );
    assert!(store.credentials(&first).await.expect("looked").is_none());
    let sign_in = store.sign_in(&token, i64::MAX).await.expect("looked").expect("there");
    assert_eq!((sign_in.provider.as_str(), sign_in.recovery_until_ns), ("other", 0));
    let (token, owner) = store.api_token(&token).await.expect("looked").expect("there");
    assert_eq!((token.scopes.as_str(), owner.role.as_str()), ("read export", "auditor"));
    assert!(owner.provider == "other" && owner.last_sign_in_ns.is_some());

    // Many at the same time: one uses it up, one takes it.
    let later = now_ns() + 60_000_000_000;
    let mut write = store.write().await.expect("writes");
    write.add_proven("handle", "what was proven", later).await.expect("kept");
    write.commit().await.expect("written");
    let tries = (0..8).map(|_| {
        let store = collector.intake.store.clone();
        tokio::spawn(async move {
            let mut write = store.write().await.expect("writes");
            let used = write.use_once("an assertion", later).await.expect("asked");
            write.commit().await.expect("written");
            let mut write = store.write().await.expect("writes");
            let taken = write.take_proven("handle").await.expect("asked");
            write.commit().await.expect("written");
            (used, taken.is_some())
        })
    });
    let (mut used, mut taken) = (0, 0);
    for one in tries.collect::<Vec<_>>() {
        let (did_use, did_take) = one.await.expect("a task");
        used += i32::from(did_use);
        taken += i32::from(did_take);
    }
    assert_eq!((used, taken), (1, 1));
    // What is over is forgotten.
    let mut write = store.write().await.expect("writes");
    assert!(write.use_once("old", now_ns() - 1).await.expect("asked"));
    assert!(write.use_once("old", later).await.expect("asked"));
    write.add_proven("old", "x", now_ns() - 1).await.expect("kept");
    assert!(write.take_proven("old").await.expect("asked").is_none());
    write.commit().await.expect("written");
}
