//! Signing in by SAML, from the first request to the last. What answers prove is tested with what reads them.

use super::*;
use crate::sign_in::forge::{Forge, ISSUER, Told, laborious, posted};
use crate::sign_in::{Begun, Providers, SignIn};

/// The providers `corp` and `other`, which have the same key; the second's entity id is as given.
fn providers(forge: &Forge, other: &str) -> anyhow::Result<Providers> {
    let directory = tempfile::tempdir().unwrap();
    let one = |name: &str, issuer: &str| {
        let metadata = directory.path().join(name);
        std::fs::write(&metadata, forge.metadata().replace(ISSUER, issuer)).unwrap();
        format!(
            "  - {{name: {name}, metadata_file: {}, roles: {{admin: [sre], viewer: [staff]}}}}\n",
            metadata.display()
        )
    };
    let text = format!("saml:\n{}{}", one("corp", ISSUER), one("other", other));
    let config: SignIn = serde_saphyr::from_str(&text).unwrap();
    config.check(Some("http://localhost:7480")).unwrap();
    Providers::new(&config, "http://localhost:7480")
}

async fn site(forge: &Forge) -> Site {
    let providers = providers(forge, "https://other.example").unwrap();
    Site::with(Config { providers, ..Config::default() }).await
}

/// A sign-in that was begun: what comes back with the browser, the request's id, and the browser.
async fn begin(site: &Site) -> (String, String, Caller) {
    let reply = site.get("/sign-in/with/corp?back=%2Fhosts", &Caller::default()).await;
    assert_eq!(reply.status, StatusCode::SEE_OTHER, "{}", reply.text);
    assert!(reply.location().starts_with("https://idp.example/sso?a=b&SAMLRequest="), "{}", reply.location());
    let cookies: Vec<&str> =
        reply.headers.get_all(header::SET_COOKIE).iter().map(|value| value.to_str().unwrap()).collect();
    let flow = cookies.iter().find(|cookie| cookie.starts_with("interlock-flow-")).unwrap();
    let cookie = flow.split(';').next().unwrap().to_owned();
    let begun = Begun::from_kept(&format!("corp {}", cookie.split_once('=').unwrap().1));
    let request = crate::sign_in::SamlProvider::request_id(&begun);
    (begun.state, request, Caller { other: Some(cookie), ..Caller::default() })
}

/// As the provider's page has a browser post it: from another site, so without cookies.
async fn post_answer(site: &Site, provider: &str, answer: &str, state: &str) -> Reply {
    let form = form_urlencoded::Serializer::new(String::new())
        .append_pair("SAMLResponse", &posted(answer))
        .append_pair("RelayState", state)
        .finish();
    let path = format!("/sign-in/saml/{provider}/consume");
    let request = site
        .request(&Method::POST, &path, &Caller::default())
        .header("sec-fetch-site", "cross-site")
        .header(header::ORIGIN, "https://idp.example")
        .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
    site.ask(request.body(Body::from(form)).unwrap()).await
}

#[track_caller]
fn refused(reply: &Reply, why: &str) {
    assert_eq!(reply.status, StatusCode::FORBIDDEN, "{why}: {}", reply.text);
    assert!(reply.text.contains(why), "{why}: {}", reply.text);
    assert_eq!(reply.cookie("interlock"), None, "{why}");
}

#[tokio::test]
async fn an_answer_signs_in_the_browser_that_asked_and_only_once() {
    let forge = Forge::new();
    let site = site(&forge).await;
    let (state, request, browser) = begin(&site).await;
    let told = Told { request, groups: vec!["staff".into(), "sre".into()], ..Told::default() };
    let answer = forge.answer(&told);
    let reply = post_answer(&site, "corp", &answer, &state).await;
    assert_eq!(reply.status, StatusCode::SEE_OTHER, "{}", reply.text);
    assert_eq!(reply.cookie("interlock"), None, "nobody is signed in by what another site posts");
    let finish = reply.location().to_owned();
    assert!(finish.starts_with("/sign-in/saml/corp/finish?handle="), "{finish}");

    // Not in a browser that has not begun it: an answer of one's own cannot be slipped to another (login CSRF).
    let (_, _, another) = begin(&site).await;
    for (browser, path) in [
        (&Caller::default(), finish.clone()),
        (&another, finish.clone()),
        (&browser, finish.replace("/corp/", "/other/")),
        (&browser, finish.split('?').next().unwrap().to_owned()),
    ] {
        refused(&site.get(&path, browser).await, "not begun in this browser");
    }
    let reply = site.get(&finish, &browser).await;
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.text);
    assert!(reply.text.contains("content=\"0;url=/hosts\""), "{}", reply.text);
    let alice = Caller { session: reply.cookie("interlock"), ..Caller::default() };
    let me = site.get("/api/v1/me", &alice).await.json();
    assert_eq!((me["name"].as_str(), me["role"].as_str()), (Some("corp:alice"), Some("admin")));

    // Neither the answer nor what it was exchanged for counts again.
    refused(&site.get(&finish, &browser).await, "not begun in this browser");
    refused(&post_answer(&site, "corp", &answer, &state).await, "was used before");
    let (state, _, browser) = begin(&site).await;
    refused(&post_answer(&site, "corp", &answer, &state).await, "was used before");

    // One that answers another request, though it is right in itself.
    let other = Told { request: "_unheard-of".into(), assertion: "_second".into(), ..told.clone() };
    let reply = post_answer(&site, "corp", &forge.answer(&other), &state).await;
    refused(&site.get(reply.location(), &browser).await, "not begun in this browser");
    let trail = format!("{:?}", site.trail().await);
    assert!(
        trail.contains("(\"corp\", \"user.add\", \"corp:alice\")") && trail.contains("sign_in.refused"),
        "{trail}"
    );
}

#[tokio::test]
async fn answers_that_prove_nothing_are_told_why_and_counted() {
    let forge = Forge::new();
    let site = site(&forge).await;
    let (state, request, browser) = begin(&site).await;
    let told = Told { request, ..Told::default() };
    // To the address of another provider, though by the same key.
    refused(&post_answer(&site, "other", &forge.answer(&told), &state).await, "made for another place");
    let unsolicited = told.assertion().replace(&format!(" InResponseTo=\"{}\"", told.request), "");
    let unsolicited = forge.sign(&told.response(&unsolicited), "_assertion");
    refused(&post_answer(&site, "corp", &unsolicited, &state).await, "nobody has asked for it");
    refused(
        &post_answer(&site, "corp", &Forge::new().answer(&told), &state).await,
        "none of the certificates",
    );
    let request = |body: Vec<u8>| {
        let request = site.request(&Method::POST, "/sign-in/saml/corp/consume", &Caller::default());
        request.body(Body::from(body)).unwrap()
    };
    let twice = format!("SAMLResponse=a&SAMLResponse=b&RelayState={state}");
    refused(&site.ask(request(twice.into_bytes())).await, "not begun in this browser");
    let long = site.ask(request(vec![b'a'; 600 << 10])).await;
    assert_eq!(long.status, StatusCode::PAYLOAD_TOO_LARGE);
    for (path, status) in [
        ("/sign-in/saml/corp/metadata", StatusCode::OK),
        ("/sign-in/saml/nobody/metadata", StatusCode::NOT_FOUND),
        ("/sign-in/oidc/corp/callback", StatusCode::NOT_FOUND),
    ] {
        assert_eq!(site.get(path, &Caller::default()).await.status, status, "{path}");
    }
    loop {
        let reply = post_answer(&site, "corp", "garbage", &state).await;
        if reply.status == StatusCode::TOO_MANY_REQUESTS {
            break;
        }
        assert_eq!(reply.status, StatusCode::FORBIDDEN);
    }
    assert!(!site.intake.store.has_users().await.unwrap());
    // That keeps out nobody who can prove who they are.
    let reply = post_answer(&site, "corp", &forge.answer(&told), &state).await;
    assert_eq!(site.get(reply.location(), &browser).await.status, StatusCode::OK);
}

#[tokio::test]
async fn answers_that_are_much_work_are_not_read_and_few_are_read_from_one_address() {
    let forge = Forge::new();
    let site = site(&forge).await;
    let (state, request, browser) = begin(&site).await;
    let (attributes, spaces) = laborious();
    refused(&post_answer(&site, "corp", &attributes, &state).await, "too many attributes");
    refused(&post_answer(&site, "corp", &spaces, &state).await, "too many namespaces");
    let answer = forge.answer(&Told { request, ..Told::default() });
    let reply = post_answer(&site, "corp", &answer, &state).await;
    assert_eq!(site.get(reply.location(), &browser).await.status, StatusCode::OK);

    // However right it is, an answer is not read any more from where so many were wrong.
    let second = Told { assertion: "_second".into(), ..Told::default() };
    let path = "/sign-in/saml/corp/consume";
    for _ in 0..300 {
        let request = site.request(&Method::POST, path, &Caller::default());
        site.ask(request.body(Body::from("SAMLResponse=Z2FyYmFnZQ&RelayState=a")).unwrap()).await;
    }
    let reply = post_answer(&site, "corp", &forge.answer(&second), &state).await;
    assert_eq!(reply.status, StatusCode::TOO_MANY_REQUESTS, "{}", reply.text);
}

#[test]
fn one_entity_is_no_two_providers() {
    let error = providers(&Forge::new(), ISSUER).unwrap_err().to_string();
    assert!(error.contains("other: metadata_file: it is of the entity id of corp too"), "{error}");
}
