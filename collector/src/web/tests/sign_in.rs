//! Signing in, and the very first account.

use super::*;

#[tokio::test]
async fn the_set_up_link_makes_one_administrator_once() {
    let site = Site::new().await;
    let old = setup_link(&site.intake.store).await.unwrap().expect("a link");
    let link = setup_link(&site.intake.store).await.unwrap().expect("another");
    let page = site.get(&link, &Caller::default()).await;
    assert_eq!(page.status, StatusCode::OK);
    let visitor = Caller { form: page.cookie("interlock-form"), ..Caller::default() };
    let fields = [("name", "root"), ("password", PASSWORD), ("repeated", PASSWORD)];
    assert_eq!(site.post(&old, &visitor, &fields).await.status, StatusCode::NOT_FOUND, "an older link");
    let short = [("name", "root"), ("password", "short"), ("repeated", "short")];
    let reply = site.post(&link, &visitor, &short).await;
    assert_eq!(reply.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(reply.text.contains("fewer than 12 characters"));
    let reply = site.post(&link, &visitor, &fields).await;
    assert_eq!((reply.status, reply.location()), (StatusCode::SEE_OTHER, "/sessions"));
    let admin = Caller { session: reply.cookie("interlock"), ..Caller::default() };
    let me = site.get("/api/v1/me", &admin).await;
    assert_eq!(me.json()["role"], "admin");
    assert_eq!(site.post(&link, &visitor, &fields).await.status, StatusCode::NOT_FOUND, "once more");
    assert_eq!(site.get(&link, &visitor).await.status, StatusCode::NOT_FOUND);
    assert_eq!(setup_link(&site.intake.store).await.unwrap(), None);
    // Neither the link nor the password is kept anywhere.
    let trail = format!("{:?}", site.trail().await);
    assert!(!trail.contains(link.trim_start_matches("/set-up/")) && !trail.contains(PASSWORD), "{trail}");
}

#[tokio::test]
async fn guessing_is_slow_and_tells_nothing() {
    let site = Site::new().await;
    let hash = crate::web::password::Passwords::new()
        .unwrap()
        .hash(zeroize::Zeroizing::new(PASSWORD.into()))
        .await
        .unwrap();
    let mut write = site.intake.store.write().await.unwrap();
    write.add_user("alice", &hash, "viewer", "test").await.unwrap();
    write.add_user("bob", &hash, "viewer", "test").await.unwrap();
    write.set_user("bob", "viewer", false).await.unwrap();
    write.commit().await.unwrap();
    let page = site.get("/sign-in", &Caller::default()).await;
    let visitor = Caller { form: page.cookie("interlock-form"), ..Caller::default() };
    let sign_in = |name: &'static str, password: &'static str| {
        let (site, visitor) = (&site, &visitor);
        async move { site.post("/sign-in", visitor, &[("name", name), ("password", password)]).await }
    };
    let said = |reply: &Reply| {
        let at = reply.text.find("class=\"notice bad\"").expect("a message");
        reply.text[at..].split("</p>").next().unwrap().to_owned()
    };
    let wrong = sign_in("alice", "wrong").await;
    assert_eq!(wrong.status, StatusCode::UNAUTHORIZED);
    for (name, password) in [("nobody", "wrong"), ("bob", PASSWORD), ("hunter2-my-password", "alice")] {
        let reply = sign_in(name, password).await;
        assert_eq!(reply.status, StatusCode::UNAUTHORIZED, "{name}");
        assert_eq!(said(&reply), said(&wrong), "{name}");
    }
    let trail = site.trail().await;
    assert!(trail.iter().any(|(actor, action, _)| actor == "alice" && action == "sign_in.failed"));
    // What was typed as a name can be a password: it is not written down.
    assert!(!format!("{trail:?}").contains("hunter2"), "{trail:?}");
    for _ in 0..9 {
        assert_eq!(sign_in("alice", "wrong").await.status, StatusCode::UNAUTHORIZED);
    }
    let reply = sign_in("alice", PASSWORD).await;
    assert_eq!(reply.status, StatusCode::TOO_MANY_REQUESTS, "the right password, too late");
    assert!(site.trail().await.iter().any(|(_, action, _)| action == "sign_in.limited"));
}

#[tokio::test]
async fn one_time_codes_count_once_and_passwords_sign_others_out() {
    let site = Site::new().await;
    let link = setup_link(&site.intake.store).await.unwrap().unwrap();
    let page = site.get(&link, &Caller::default()).await;
    let visitor = Caller { form: page.cookie("interlock-form"), ..Caller::default() };
    let fields = [("name", "root"), ("password", PASSWORD), ("repeated", PASSWORD)];
    let first = Caller {
        session: site.post(&link, &visitor, &fields).await.cookie("interlock"),
        ..Caller::default()
    };
    assert!(first.session.is_some());

    let reply = site.post("/account/codes", &first, &[("current", "not it at all")]).await;
    assert_eq!(reply.status, StatusCode::UNPROCESSABLE_ENTITY);
    let reply = site.post("/account/codes", &first, &[("current", PASSWORD)]).await;
    assert_eq!(reply.status, StatusCode::OK);
    assert!(reply.text.contains("otpauth://totp/Interlock:root?secret="));
    let secret = site.intake.store.credentials("root").await.unwrap().unwrap().totp_pending.unwrap();
    let code = |shift: i64| totp::now_code(&secret, u64::try_from(now_ns() / 1_000_000_000 + shift).unwrap());
    let reply = site.post("/account/codes/confirm", &first, &[("code", "12345")]).await;
    assert_eq!(reply.status, StatusCode::UNPROCESSABLE_ENTITY);
    // An earlier step's code confirms, so that now's is still to be used.
    let reply = site.post("/account/codes/confirm", &first, &[("code", &code(-30))]).await;
    assert_eq!(reply.location(), "/account?done=totp");

    let password = [("name", "root"), ("password", PASSWORD)];
    assert_eq!(
        site.post("/sign-in", &visitor, &password).await.status,
        StatusCode::UNAUTHORIZED,
        "without a code"
    );
    let now = code(0);
    let with = [("name", "root"), ("password", PASSWORD), ("code", now.as_str())];
    let reply = site.post("/sign-in", &visitor, &with).await;
    assert_eq!(reply.status, StatusCode::SEE_OTHER);
    let second = Caller { session: reply.cookie("interlock"), ..Caller::default() };
    assert_eq!(
        site.post("/sign-in", &visitor, &with).await.status,
        StatusCode::UNAUTHORIZED,
        "the same code again"
    );

    let new = "another horse, another battery";
    let fields = [("current", PASSWORD), ("password", new), ("repeated", new)];
    let reply = site.post("/account/password", &second, &fields).await;
    assert_eq!(reply.location(), "/account?done=password");
    assert_eq!(site.get("/api/v1/me", &first).await.status, StatusCode::UNAUTHORIZED);
    assert_eq!(site.get("/api/v1/me", &second).await.status, StatusCode::OK);
    assert_eq!(site.post("/sign-out", &second, &[]).await.location(), "/sign-in");
    assert_eq!(site.get("/api/v1/me", &second).await.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn a_browser_that_is_left_alone_is_signed_out() {
    let site = Site::with(Config { idle: std::time::Duration::ZERO, ..Config::default() }).await;
    let browser = site.signed_in(Role::Admin).await;
    assert_eq!(site.get("/api/v1/me", &browser).await.status, StatusCode::UNAUTHORIZED);
}
