//! Signing in through a provider of OpenID Connect that says whatever a test wants. The tests in
//! `tests/sign_in` do it with a real one.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::fake::{Fake, Key, unsigned};
use super::*;
use crate::sign_in::{Begun, Providers, SignIn};

const SECRET: &str = "the secret of the client, long enough for a key";

async fn site(fake: &Fake, more: &str) -> Site {
    let directory = tempfile::tempdir().unwrap();
    let secret = directory.path().join("secret");
    std::fs::write(&secret, format!("{SECRET}\n")).unwrap();
    let one = |name: &str, issuer: &str| {
        format!(
            "  - {{name: {name}, label: 'Okta <b>', issuer: '{issuer}', client_id: interlock, client_secret_file: {}, \
             roles: {{admin: [sre], auditor: [audit], viewer: [all]}}{more}}}\n",
            secret.display()
        )
    };
    let other = one("other", "https://other.example");
    let config: SignIn =
        serde_saphyr::from_str(&format!("oidc:\n{}{other}", one("okta", &fake.issuer))).unwrap();
    config.check(Some("http://localhost:7480")).unwrap();
    let providers = Providers::new(&config, "http://localhost:7480").unwrap();
    Site::with(Config { providers, ..Config::default() }).await
}

/// A sign-in that was begun: what the provider was sent, and the browser's cookie.
struct Begin {
    state: String,
    nonce: String,
    browser: Caller,
    url: String,
}

fn parameter(url: &str, name: &str) -> String {
    let query = url.split_once('?').unwrap().1;
    form_urlencoded::parse(query.as_bytes()).find(|(key, _)| key == name).unwrap().1.into_owned()
}

async fn begin(site: &Site) -> Begin {
    let reply = site.get("/sign-in/with/okta?back=%2Fhosts", &Caller::default()).await;
    assert_eq!(reply.status, StatusCode::SEE_OTHER, "{}", reply.text);
    let url = reply.location().to_owned();
    let cookies: Vec<&str> =
        reply.headers.get_all(header::SET_COOKIE).iter().map(|value| value.to_str().unwrap()).collect();
    let flow = cookies.iter().find(|cookie| cookie.starts_with("interlock-flow-")).unwrap();
    assert!(flow.contains("; HttpOnly; SameSite=Lax; Max-Age=600"), "{flow}");
    let browser = Caller { other: Some(flow.split(';').next().unwrap().to_owned()), ..Caller::default() };
    Begin { state: parameter(&url, "state"), nonce: parameter(&url, "nonce"), browser, url }
}

fn claims(fake: &Fake, begin: &Begin) -> Value {
    let now = now_ns() / 1_000_000_000;
    json!({
        "iss": fake.issuer, "sub": "0123", "aud": "interlock", "exp": now + 300, "iat": now, "nonce": begin.nonce,
        "preferred_username": "admin", "groups": ["all", "sre"],
    })
}

async fn come_back(site: &Site, begin: &Begin) -> Reply {
    site.get(&format!("/sign-in/oidc/okta/callback?code=c0de&state={}", begin.state), &begin.browser).await
}

/// A whole sign-in, with what the provider says changed.
async fn try_with(
    site: &Site,
    fake: &Fake,
    change: impl FnOnce(&mut Value, &Key) -> Option<String>,
) -> Reply {
    let begin = begin(site).await;
    let mut claims = claims(fake, &begin);
    let token = change(&mut claims, &fake.key);
    fake.says().id_token = Some(token.unwrap_or_else(|| fake.key.token(&claims)));
    let reply = come_back(site, &begin).await;
    let gone = reply.headers.get_all(header::SET_COOKIE).iter().any(|cookie| {
        let cookie = cookie.to_str().unwrap();
        cookie.starts_with("interlock-flow-") && cookie.contains("Max-Age=0")
    });
    assert!(gone, "what was kept of the sign-in stays");
    reply
}

fn signed_in(reply: &Reply) -> Caller {
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.text);
    assert!(reply.text.contains("You are signed in"), "{}", reply.text);
    Caller { session: Some(reply.cookie("interlock").expect("a session")), ..Caller::default() }
}

#[track_caller]
fn refused(reply: &Reply, why: &str) {
    assert_eq!(reply.status, StatusCode::FORBIDDEN, "{why}: {}", reply.text);
    assert!(reply.text.contains(why), "{why}: {}", reply.text);
    assert_eq!(reply.cookie("interlock"), None, "{why}");
}

#[tokio::test]
async fn only_groups_that_the_configuration_names_count_for_approvals() {
    let fake = Fake::start();
    let everything = |claims: &mut Value, _: &Key| {
        claims["groups"] = json!(["all", "dba", "oncall", "DBA", "audit"]);
        None
    };
    let groups = async |site: &Site| site.intake.store.groups_of("okta:admin").await.unwrap();
    let silent = site(&fake, "").await;
    signed_in(&try_with(&silent, &fake, everything).await);
    assert!(groups(&silent).await.is_empty());
    let site = site(&fake, ", approver_groups: [dba, oncall, network]").await;
    signed_in(&try_with(&site, &fake, everything).await);
    assert_eq!(groups(&site).await, ["dba", "oncall"]);
    // What the configuration names no longer counts no longer, also before the next sign-in; others are left alone.
    site.account("alice", Role::Viewer).await;
    let mut write = site.intake.store.write().await.unwrap();
    write.set_groups("alice", &["dba".to_owned()]).await.unwrap();
    assert_eq!(write.keep_groups("okta", &["oncall".to_owned()]).await.unwrap(), 1);
    write.commit().await.unwrap();
    assert_eq!(groups(&site).await, ["oncall"]);
    assert_eq!(site.intake.store.groups_of("alice").await.unwrap(), ["dba"]);
    // Nor when there is no group of them left.
    signed_in(&try_with(&site, &fake, |_, _| None).await);
    assert!(groups(&site).await.is_empty());
}

#[tokio::test]
async fn groups_give_roles_and_accounts_are_apart_from_local_ones() {
    let fake = Fake::start();
    let site = site(&fake, "").await;
    let local = site.signed_in(Role::Admin).await;
    let page = site.get("/sign-in", &Caller::default()).await.text;
    assert!(
        page.contains("href=\"/sign-in/with/okta?back=%2Fsessions\"") && page.contains("Okta &#60;b&#62;"),
        "{page}"
    );

    let begin = begin(&site).await;
    for (name, expected) in [
        ("response_type", "code"),
        ("client_id", "interlock"),
        ("code_challenge_method", "S256"),
        ("scope", "openid profile email"),
        ("redirect_uri", "http://localhost:7480/sign-in/oidc/okta/callback"),
    ] {
        assert_eq!(parameter(&begin.url, name), expected);
    }
    fake.says().id_token = Some(fake.key.token(&claims(&fake, &begin)));
    let reply = come_back(&site, &begin).await;
    assert!(reply.text.contains("content=\"0;url=/hosts\""), "{}", reply.text);
    let admin = signed_in(&reply);
    let me = site.get("/api/v1/me", &admin).await.json();
    assert_eq!((&me["name"], &me["role"]), (&json!("okta:admin"), &json!("admin")));
    // The code was sent with the secret and what proves that it was this collector that asked.
    let asked = fake.says().asked.join("\n");
    assert!(asked.contains("grant_type=authorization_code") && asked.contains("code_verifier="), "{asked}");
    assert!(asked.to_lowercase().contains("authorization: basic"), "{asked}");
    let kept = begin.browser.other.as_deref().unwrap().split_once('=').unwrap().1;
    assert!(asked.contains(&Begun::from_kept(&format!("okta {kept}")).verifier));

    // Roles are asked for at each sign-in, and count at once, everywhere.
    let token = site.program("okta:admin", Role::Admin).await;
    assert_eq!(site.get("/api/v1/users", &token).await.status, StatusCode::OK);
    let again = try_with(&site, &fake, |claims, _| {
        claims["groups"] = json!("audit");
        claims["preferred_username"] = json!("renamed");
        None
    });
    let again = signed_in(&again.await);
    assert_eq!(site.get("/api/v1/me", &again).await.json()["name"], "okta:admin", "it is the same person");
    assert_eq!(site.get("/api/v1/users", &admin).await.status, StatusCode::FORBIDDEN);
    assert_eq!(site.get("/api/v1/users", &token).await.status, StatusCode::FORBIDDEN);

    // Someone else who is called the same has another account; and so has everyone who is called like a local one.
    let other = try_with(&site, &fake, |claims, _| {
        claims["sub"] = json!("4567");
        claims["groups"] = json!(["all"]);
        None
    });
    let other = signed_in(&other.await);
    assert_eq!(site.get("/api/v1/me", &other).await.json()["name"], "okta:admin~2");

    // An address that the provider has verified comes before what people may have chosen themselves.
    for (subject, verified, name) in [
        ("89", true, "okta:bob@example.com"),
        ("ab", false, "okta:boss"),
        ("cd", true, "okta:bob@example.com~2"),
    ] {
        let reply = try_with(&site, &fake, |claims, _| {
            claims["sub"] = json!(subject);
            claims["preferred_username"] = json!("boss");
            claims["email"] = json!("bob@example.com");
            claims["email_verified"] = json!(verified);
            None
        });
        let browser = signed_in(&reply.await);
        assert_eq!(site.get("/api/v1/me", &browser).await.json()["name"], name);
    }

    // No password opens it, and none can be set for it.
    let body = format!(r#"{{"password": "{PASSWORD}"}}"#);
    let reply = site.send(Method::POST, "/api/v1/users/okta:admin/reset", &local, &body).await;
    assert_eq!(reply.status, StatusCode::NOT_FOUND);
    let visitor = Caller {
        form: site.get("/sign-in", &Caller::default()).await.cookie("interlock-form"),
        ..Caller::default()
    };
    for password in ["*", ""] {
        let reply = site.post("/sign-in", &visitor, &[("name", "okta:admin"), ("password", password)]).await;
        assert_eq!(reply.status, StatusCode::UNAUTHORIZED);
    }
    // Its role is the provider's to give; it can be disabled, and is out at once.
    let set = |body: &'static str| site.send(Method::PATCH, "/api/v1/users/okta:admin", &local, body);
    let reply = set(r#"{"role": "admin", "active": true}"#).await;
    assert_eq!(reply.status, StatusCode::UNPROCESSABLE_ENTITY, "{}", reply.text);
    assert_eq!(set(r#"{"role": "auditor", "active": false}"#).await.status, StatusCode::NO_CONTENT);
    assert_eq!(site.get("/api/v1/me", &again).await.status, StatusCode::UNAUTHORIZED);
    assert_eq!(site.get("/api/v1/me", &token).await.status, StatusCode::UNAUTHORIZED);
    refused(&try_with(&site, &fake, |_, _| None).await, "is disabled");
    assert_eq!(set(r#"{"role": "auditor", "active": true}"#).await.status, StatusCode::NO_CONTENT);

    // Without a group that has a role nobody gets in, and what they had is gone.
    let browser = signed_in(&try_with(&site, &fake, |_, _| None).await);
    let token = site.program("okta:admin", Role::Viewer).await;
    fake.says().userinfo = Some(json!({"sub": "0123"}));
    for groups in [json!([]), json!(["SRE", "users"]), json!(null), json!({"sre": true}), json!([["sre"]])] {
        let reply = try_with(&site, &fake, |claims, _| {
            claims["groups"] = groups.clone();
            None
        });
        refused(&reply.await, "none of your groups there (");
    }
    assert_eq!(site.get("/api/v1/me", &browser).await.status, StatusCode::UNAUTHORIZED);
    assert_eq!(site.get("/api/v1/me", &token).await.status, StatusCode::UNAUTHORIZED);
    let trail = format!("{:?}", site.trail().await);
    for action in ["user.add", "user.change", "sign_in.refused", "\"sign_in\", \"okta\""] {
        assert!(trail.contains(action), "{action}: {trail}");
    }
    assert!(!trail.contains(SECRET) && !trail.contains("c0de"));
}

#[tokio::test]
async fn a_token_that_proves_nothing_signs_nobody_in() {
    let fake = Fake::start();
    let site = site(&fake, "").await;
    let now = now_ns() / 1_000_000_000;
    let thief = Key::new("first");
    let set = |name: &'static str, value: Value| {
        move |claims: &mut Value, _: &Key| {
            claims[name] = value;
            None
        }
    };
    type Change<'c> = Box<dyn FnOnce(&mut Value, &Key) -> Option<String> + 'c>;
    let attacks: Vec<(&str, Change<'_>)> = vec![
        ("nonce", Box::new(set("nonce", json!("another")))),
        ("nonce", Box::new(set("nonce", Value::Null))),
        ("issuer", Box::new(set("iss", json!("https://accounts.example.com")))),
        ("audience", Box::new(set("aud", json!("another-client")))),
        ("audience", Box::new(set("aud", json!([])))),
        ("azp", Box::new(set("aud", json!(["interlock", "another"])))),
        ("azp", Box::new(set("azp", json!("another")))),
        ("xpired", Box::new(set("exp", json!(now - 120)))),
        ("future", Box::new(set("iat", json!(now + 600)))),
        ("too long ago", Box::new(set("iat", json!(now - 3600)))),
        ("at_hash", Box::new(set("at_hash", json!("AAAAAAAAAAAAAAAAAAAAAA")))),
        ("ubject", Box::new(set("sub", json!("")))),
        // A key of the same name that is not the provider's.
        ("ignature", Box::new(|claims, _| Some(thief.token(claims)))),
        (
            "key",
            Box::new(|claims, _| {
                Some(thief.token_with(&json!({"alg": "ES256", "kid": "unheard of"}), claims))
            }),
        ),
        // The key that the token itself brings along.
        (
            "ignature",
            Box::new(|claims, _| {
                Some(thief.token_with(&json!({"alg": "ES256", "jwk": thief.public()}), claims))
            }),
        ),
        ("", Box::new(|claims, _| Some(unsigned(&json!({"alg": "none"}), claims) + "."))),
        ("", Box::new(|claims, _| Some(unsigned(&json!({"alg": "NONE", "kid": "first"}), claims) + "."))),
        // The public key passed off as a shared one, and the client's secret as such.
        (
            "",
            Box::new(|claims, key| {
                let text = unsigned(&json!({"alg": "HS256", "kid": "first"}), claims);
                let mut mac = Hmac::<Sha256>::new_from_slice(key.public().to_string().as_bytes()).unwrap();
                mac.update(text.as_bytes());
                Some(format!("{text}.{}", URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes())))
            }),
        ),
        (
            "algorithm",
            Box::new(|claims, _| {
                let text = unsigned(&json!({"alg": "HS256"}), claims);
                let mut mac = Hmac::<Sha256>::new_from_slice(SECRET.as_bytes()).unwrap();
                mac.update(text.as_bytes());
                Some(format!("{text}.{}", URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes())))
            }),
        ),
        (
            "ritical",
            Box::new(|claims, key| {
                Some(key.token_with(&json!({"alg": "ES256", "kid": "first", "crit": ["x"], "x": 1}), claims))
            }),
        ),
        // A true signature over other claims.
        (
            "ignature",
            Box::new(|claims, key| {
                let whole = key.token(claims);
                let mut parts = whole.split('.');
                let (head, _, signature) = (parts.next()?, parts.next()?, parts.next()?);
                claims["sub"] = json!("root");
                Some(format!("{head}.{}.{signature}", URL_SAFE_NO_PAD.encode(claims.to_string())))
            }),
        ),
        ("", Box::new(|_, _| Some("not a token".into()))),
        ("", Box::new(|_, _| Some("e30.e30.".into()))),
    ];
    for (at, (why, attack)) in attacks.into_iter().enumerate() {
        let reply = try_with(&site, &fake, attack).await;
        assert_eq!(reply.status, StatusCode::FORBIDDEN, "{at} {why}: {}", reply.text);
        refused(&reply, why);
    }
    fake.says().id_token = None;
    let begin = begin(&site).await;
    refused(&come_back(&site, &begin).await, "no ID token");
    assert!(!site.intake.store.has_users().await.unwrap(), "someone got an account");
    // What is right passes: clocks a little apart, several audiences of which this is the party, at_hash.
    let reply = try_with(&site, &fake, |claims, _| {
        claims["exp"] = json!(now - 20);
        claims["aud"] = json!(["interlock", "account"]);
        claims["azp"] = json!("interlock");
        let hash = Sha256::digest(b"access");
        claims["at_hash"] = json!(URL_SAFE_NO_PAD.encode(&hash[..16]));
        None
    });
    signed_in(&reply.await);
}

#[tokio::test]
async fn only_the_browser_that_began_comes_back_and_only_once() {
    let fake = Fake::start();
    let site = site(&fake, "").await;
    let mine = begin(&site).await;
    fake.says().id_token = Some(fake.key.token(&claims(&fake, &mine)));
    let path =
        |provider: &str, state: &str| format!("/sign-in/oidc/{provider}/callback?code=c0de&state={state}");

    // Someone else's answer in a browser that has begun nothing, or another sign-in (login CSRF).
    let another = begin(&site).await;
    let nobody = Caller::default();
    let zeros = "0".repeat(64);
    for (path, browser) in [
        (path("okta", &mine.state), &nobody),
        (path("okta", &mine.state), &another.browser),
        (path("okta", &zeros), &mine.browser),
        (path("okta", ""), &mine.browser),
        ("/sign-in/oidc/okta/callback?code=c0de".to_owned(), &mine.browser),
        (format!("{}&state={}", path("okta", &mine.state), another.state), &mine.browser),
        // Begun with one provider, come back as from another (mix-up).
        (path("other", &mine.state), &mine.browser),
    ] {
        refused(&site.get(&path, browser).await, "not begun in this browser");
    }
    // What is kept cannot be altered: where to go back to, or when it was begun.
    let cookie = mine.browser.other.clone().unwrap();
    let (name, value) = cookie.split_once('=').unwrap();
    let parts: Vec<&str> = value.split('.').collect();
    for altered in [
        format!("{name}={}.{}.{}", parts[0], parts[1], URL_SAFE_NO_PAD.encode("/admin/users")),
        format!("{name}={}.{}.{}", parts[0], 1, parts[2]),
    ] {
        let browser = Caller { other: Some(altered), ..Caller::default() };
        refused(&site.get(&path("okta", &mine.state), &browser).await, "not begun in this browser");
    }
    // One that is older than ten minutes, and one that leads elsewhere.
    let now = now_ns() / 1_000_000_000;
    let made = |at: i64, back: &str| {
        let value = format!("5ec7e7.{at}.{}", URL_SAFE_NO_PAD.encode(back));
        let begun = Begun::from_kept(&format!("okta {value}"));
        let browser = Caller {
            other: Some(format!("interlock-flow-{}={value}", &begun.state[..16])),
            ..Caller::default()
        };
        Begin { state: begun.state, nonce: begun.nonce, browser, url: String::new() }
    };
    for (at, why) in [(now - 601, "old"), (now + 60, "from the future")] {
        let old = made(at, "/hosts");
        let reply = come_back(&site, &old).await;
        assert_eq!(reply.status, StatusCode::FORBIDDEN, "{why}");
    }
    let away = made(now, "//evil.example/");
    fake.says().id_token = Some(fake.key.token(&claims(&fake, &away)));
    assert!(come_back(&site, &away).await.text.contains("content=\"0;url=/sessions\""));

    fake.says().id_token = Some(fake.key.token(&claims(&fake, &mine)));
    signed_in(&come_back(&site, &mine).await);
    refused(&come_back(&site, &mine).await, "used before");
    let asked = fake.says().asked.len();
    assert_eq!(asked, 2, "a code was sent to the provider that should not have been");
}

#[tokio::test]
async fn answers_of_another_provider_and_errors_are_not_believed() {
    let fake = Fake::start();
    let site = site(&fake, "").await;
    let query =
        |begin: &Begin, more: &str| format!("/sign-in/oidc/okta/callback?state={}{more}", begin.state);
    let started = begin(&site).await;
    let reply = site.get(&query(&started, "&code=c&iss=https%3A%2F%2Fevil.example"), &started.browser).await;
    refused(&reply, "another provider");
    let started = begin(&site).await;
    let error = "&error=access_denied&error_description=%3Cscript%3E%E2%80%AEalert(1)";
    let reply = site.get(&query(&started, error), &started.browser).await;
    refused(&reply, "access_denied &#60;script&#62;\u{fffd}alert(1)");
    // Nor is anything shown that anyone could have put into an address.
    let reply = site.get(&format!("/sign-in/oidc/okta/callback?{error}"), &Caller::default()).await;
    refused(&reply, "not begun");
    assert!(!reply.text.contains("access_denied"), "{}", reply.text);
    assert!(fake.says().asked.is_empty());

    // A provider that says it always names itself must do so.
    fake.says().more_metadata = json!({"authorization_response_iss_parameter_supported": true});
    let strict = super::federated::site(&fake, "").await;
    let started = begin(&strict).await;
    fake.says().id_token = Some(fake.key.token(&claims(&fake, &started)));
    let reply = strict.get(&query(&started, "&code=c"), &started.browser).await;
    refused(&reply, "which provider it comes from");
    let started = begin(&strict).await;
    fake.says().id_token = Some(fake.key.token(&claims(&fake, &started)));
    let issuer: String = form_urlencoded::byte_serialize(fake.issuer.as_bytes()).collect();
    signed_in(&strict.get(&query(&started, &format!("&code=c&iss={issuer}")), &started.browser).await);
}

#[tokio::test]
async fn keys_change_and_groups_may_stand_elsewhere() {
    let mut fake = Fake::start();
    let first = site(&fake, "").await;
    signed_in(&try_with(&first, &fake, |_, _| None).await);
    fake.key = Key::new("second");
    let public = fake.key.public();
    fake.says().keys = vec![public];
    signed_in(&try_with(&first, &fake, |_, _| None).await);

    // In what the provider says beside the token, if it is about the same person.
    let without = |claims: &mut Value, _: &Key| {
        claims.as_object_mut().unwrap().remove("groups");
        None
    };
    refused(&try_with(&first, &fake, without).await, "cannot be trusted");
    fake.says().userinfo = Some(json!({"sub": "someone else", "groups": ["sre"]}));
    refused(&try_with(&first, &fake, without).await, "cannot be trusted");
    fake.says().userinfo = Some(json!({"sub": "0123", "groups": ["audit"]}));
    let browser = signed_in(&try_with(&first, &fake, without).await);
    assert_eq!(first.get("/api/v1/me", &browser).await.json()["role"], "auditor");
    fake.says().userinfo = Some(json!({"sub": "0123", "_claim_names": {"groups": "src1"}}));
    refused(&try_with(&first, &fake, without).await, "there are too many");

    // Deep in a claim.
    let nested = site(&fake, ", groups_claim: /realm_access/roles").await;
    let reply = try_with(&nested, &fake, |claims, _| {
        claims["realm_access"] = json!({"roles": ["sre"]});
        None
    });
    signed_in(&reply.await);
    // The address, if it is verified.
    let by_mail = site(&fake, ", groups_claim: email, max_age_minutes: 10").await;
    let now = now_ns() / 1_000_000_000;
    for (verified, auth_time, good) in [
        (json!(true), now - 30, true),
        (json!(false), now, false),
        (Value::Null, now, false),
        (json!(true), now - 3600, false),
    ] {
        let reply = try_with(&by_mail, &fake, |claims, _| {
            claims["email"] = json!("sre");
            if !verified.is_null() {
                claims["email_verified"] = verified.clone();
            }
            claims["auth_time"] = json!(auth_time);
            None
        });
        let reply = reply.await;
        assert_eq!(reply.status == StatusCode::OK, good, "{verified} {auth_time}: {}", reply.text);
    }
}

#[tokio::test]
async fn a_provider_that_cannot_be_used_signs_nobody_in_and_guessing_is_slow() {
    let fake = Fake::start();
    let metadata = |more: Value| fake.says().more_metadata = more;
    for more in [
        json!({"issuer": "https://evil.example"}),
        json!({"token_endpoint": "http://evil.example/token"}),
        json!({"token_endpoint": null}),
        json!({"authorization_endpoint": "javascript:alert(1)"}),
        json!({"jwks_uri": "file:///etc/passwd"}),
    ] {
        metadata(more.clone());
        let site = site(&fake, "").await;
        let reply = site.get("/sign-in/with/okta", &Caller::default()).await;
        assert_eq!(reply.status, StatusCode::BAD_GATEWAY, "{more}: {}", reply.text);
        assert!(reply.text.contains("cannot be asked who you are"), "{}", reply.text);
    }
    metadata(Value::Null);
    let site = site(&fake, "").await;
    assert_eq!(site.get("/sign-in/with/nobody", &Caller::default()).await.status, StatusCode::NOT_FOUND);
    let path = format!("/sign-in/oidc/okta/callback?code=c&state={}", "0".repeat(64));
    for _ in 0..60 {
        assert_eq!(site.get(&path, &Caller::default()).await.status, StatusCode::FORBIDDEN);
    }
    for _ in 0..3 {
        assert_eq!(site.get(&path, &Caller::default()).await.status, StatusCode::TOO_MANY_REQUESTS);
    }
    // That keeps out nobody who can prove who they are.
    signed_in(&try_with(&site, &fake, |_, _| None).await);
    let trail = site.trail().await;
    assert_eq!(trail.iter().filter(|(_, action, _)| action == "sign_in.refused").count(), 60);
    assert_eq!(trail.iter().filter(|(_, action, _)| action == "sign_in.limited").count(), 1);
}

#[tokio::test]
async fn passwords_can_be_turned_off_and_a_host_can_open_one() {
    let fake = Fake::start();
    let site = site(&fake, "").await;
    site.account("root", Role::Admin).await;
    let local = site.browser("root").await;
    let program = site.program("root", Role::Admin).await;
    assert_eq!(site.get("/api/v1/me", &program).await.status, StatusCode::OK);
    let provided = signed_in(&try_with(&site, &fake, |_, _| None).await);
    let token = site.program("okta:admin", Role::Viewer).await;
    let with = |providers| {
        let state = State::new(&site.intake, Config { providers, ..Config::default() }).unwrap();
        Site {
            _directory: tempfile::tempdir().unwrap(),
            intake: Arc::clone(&site.intake),
            router: router(state),
        }
    };
    let issuer = &fake.issuer;
    let text = format!(
        "local: false\noidc: [{{name: okta, issuer: '{issuer}', client_id: interlock, roles: {{viewer: [all]}}}}]"
    );
    let config: SignIn = serde_saphyr::from_str(&text).unwrap();
    let only = with(Providers::new(&config, "http://localhost:7480").unwrap());
    assert_eq!(only.get("/api/v1/me", &local).await.status, StatusCode::UNAUTHORIZED);
    assert_eq!(only.get("/api/v1/me", &program).await.status, StatusCode::UNAUTHORIZED, "its API token too");
    assert_eq!(only.get("/api/v1/me", &provided).await.status, StatusCode::OK);
    let page = only.get("/sign-in", &Caller::default()).await;
    assert!(
        !page.text.contains("type=\"password\"") && page.text.contains("?recovery=true"),
        "{}",
        page.text
    );
    assert!(only.get("/sign-in?recovery=true", &Caller::default()).await.text.contains("type=\"password\""));
    let visitor = Caller { form: page.cookie("interlock-form"), ..Caller::default() };
    let hash = crate::web::password::Passwords::new().unwrap();
    let hash = hash.hash(zeroize::Zeroizing::new(PASSWORD.into())).await.unwrap();
    let mut write = site.intake.store.write().await.unwrap();
    write.set_password("root", &hash).await.unwrap();
    write.commit().await.unwrap();
    let reply = only.post("/sign-in", &visitor, &[("name", "root"), ("password", PASSWORD)]).await;
    assert_eq!(reply.status, StatusCode::UNAUTHORIZED, "the right password, but they are off");
    let state = State::new(&site.intake, Config::default()).unwrap();
    let opened = crate::web::reset_account(&state, "root", "root on the host").await.unwrap();
    let reply = only.post("/sign-in", &visitor, &[("name", "root"), ("password", &opened)]).await;
    assert_eq!(reply.status, StatusCode::SEE_OTHER, "{}", reply.text);
    let recovered = Caller { session: reply.cookie("interlock"), ..Caller::default() };
    assert_eq!(only.get("/api/v1/me", &recovered).await.status, StatusCode::OK);
    assert_eq!(only.get("/api/v1/me", &program).await.status, StatusCode::UNAUTHORIZED, "a reset takes it");
    let program = site.program("root", Role::Admin).await;
    assert_eq!(only.get("/api/v1/me", &program).await.status, StatusCode::OK, "while it is being recovered");
    assert!(crate::web::reset_account(&state, "okta:admin", "root on the host").await.is_err());

    // A provider that is configured no longer lets nobody in, and its tokens count no longer.
    let without = with(Providers::default());
    assert_eq!(without.get("/api/v1/me", &provided).await.status, StatusCode::UNAUTHORIZED);
    assert_eq!(without.get("/api/v1/me", &token).await.status, StatusCode::UNAUTHORIZED);
    assert_eq!(only.get("/api/v1/me", &token).await.status, StatusCode::OK);
    // Nor does one that has the name of theirs and is another.
    let other: SignIn = serde_saphyr::from_str(&text.replace(issuer, "https://other.example")).unwrap();
    let renamed = with(Providers::new(&other, "http://localhost:7480").unwrap());
    assert_eq!(renamed.get("/api/v1/me", &provided).await.status, StatusCode::UNAUTHORIZED);
    assert_eq!(renamed.get("/api/v1/me", &token).await.status, StatusCode::UNAUTHORIZED);
    assert_eq!(only.get("/api/v1/me", &provided).await.status, StatusCode::OK);
    // Nor do those of someone who has not been at the provider for long.
    let mut providers = Providers::new(&config, "http://localhost:7480").unwrap();
    providers.token_ns = 0;
    let reply = with(providers).get("/api/v1/me", &token).await;
    assert_eq!(reply.status, StatusCode::UNAUTHORIZED);
    assert!(reply.text.contains("has not signed in for long"), "{}", reply.text);

    // Out of the collector, and told how to get out of the provider too.
    fake.says().more_metadata = json!({"end_session_endpoint": format!("{issuer}/out?a=b")});
    let reply = site.post("/sign-out", &provided, &[]).await;
    assert_eq!(reply.location(), "/sign-in?left=okta");
    let only = with(Providers::new(&config, "http://localhost:7480").unwrap());
    assert!(only.get("/sign-in?left=okta", &Caller::default()).await.text.contains("but not of"));
    begin(&only).await;
    let page = only.get("/sign-in?left=okta", &Caller::default()).await.text;
    assert!(page.contains("/out?a=b&#38;client_id=interlock&#38;post_logout_redirect_uri=http"), "{page}");
}
