//! The pages and the API as browsers and programs meet them, without a network between.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::{HeaderMap, Method, Request, StatusCode, header};
use interlock_recording::text::is_unprintable;
use serde_json::Value;
use tempfile::TempDir;
use tower::ServiceExt as _;

use super::role::{ALL, Role};
use super::routes::{Access, ROUTES};
use super::{Config, State, router, setup_link, sha256, totp};
use crate::intake::Intake;
use crate::sample::{HOSTILE, SampleHost, SampleSession};
use crate::serve;
use crate::store::{NewApiToken, NewSignIn, SessionFilter, now_ns};

const PASSWORD: &str = "correct horse battery staple";

/// A collector with its pages.
struct Site {
    _directory: TempDir,
    intake: Arc<Intake>,
    router: Router,
}

/// What came back.
struct Reply {
    status: StatusCode,
    headers: HeaderMap,
    text: String,
}

impl Reply {
    fn location(&self) -> &str {
        self.headers.get(header::LOCATION).map_or("", |value| value.to_str().unwrap())
    }

    fn cookie(&self, name: &str) -> Option<String> {
        let all = self.headers.get_all(header::SET_COOKIE).iter();
        let found = all.filter_map(|value| value.to_str().unwrap().strip_prefix(&format!("{name}=")));
        found.map(|value| value.split(';').next().unwrap().to_owned()).next_back()
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|_| panic!("JSON: {}", self.text))
    }
}

/// How someone shows who they are.
#[derive(Clone, Debug, Default)]
struct Caller {
    session: Option<String>,
    form: Option<String>,
    token: Option<String>,
}

impl Caller {
    fn csrf(&self) -> String {
        let cookie = self.session.as_ref().or(self.form.as_ref());
        cookie.map(|cookie| sha256(&format!("interlock form {cookie}"))).unwrap_or_default()
    }
}

impl Site {
    async fn new() -> Self {
        Self::with(Config::default()).await
    }

    async fn with(config: Config) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let settings = crate::config::Config {
            state: directory.path().join("state"),
            name: Some("collector.test".into()),
            ..crate::config::Config::default()
        };
        let parts = serve::open(&settings).await.unwrap();
        let router = router(State::new(&parts.intake, config).unwrap());
        Self { _directory: directory, intake: parts.intake, router }
    }

    async fn ask(&self, request: Request<Body>) -> Reply {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let text = if parts.headers.get(header::CONTENT_TYPE).is_some_and(|kind| kind == "text/event-stream")
        {
            String::new()
        } else {
            let bytes = axum::body::to_bytes(body, 64 << 20).await.unwrap();
            String::from_utf8(bytes.to_vec()).expect("text")
        };
        Reply { status: parts.status, headers: parts.headers, text }
    }

    fn request(&self, method: &Method, path: &str, caller: &Caller) -> axum::http::request::Builder {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "localhost:7480")
            .extension(ConnectInfo(SocketAddr::from(([127, 0, 0, 1], 5555))));
        let mut cookies = Vec::new();
        cookies.extend(caller.session.as_ref().map(|value| format!("interlock={value}")));
        cookies.extend(caller.form.as_ref().map(|value| format!("interlock-form={value}")));
        if !cookies.is_empty() {
            request = request.header(header::COOKIE, cookies.join("; "));
        }
        if let Some(token) = &caller.token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        request
    }

    async fn get(&self, path: &str, caller: &Caller) -> Reply {
        self.ask(self.request(&Method::GET, path, caller).body(Body::empty()).unwrap()).await
    }

    /// As a page of the collector's own sends a form.
    async fn post(&self, path: &str, caller: &Caller, fields: &[(&str, &str)]) -> Reply {
        let mut form = form_urlencoded::Serializer::new(String::new());
        form.append_pair("csrf", &caller.csrf()).extend_pairs(fields);
        let request = self
            .request(&Method::POST, path, caller)
            .header("sec-fetch-site", "same-origin")
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
        self.ask(request.body(Body::from(form.finish())).unwrap()).await
    }

    /// As a page's script, or a program, sends JSON.
    async fn send(&self, method: Method, path: &str, caller: &Caller, body: &str) -> Reply {
        let request = self
            .request(&method, path, caller)
            .header("sec-fetch-site", "same-origin")
            .header("x-interlock-form", caller.csrf())
            .header(header::CONTENT_TYPE, "application/json");
        self.ask(request.body(Body::from(body.to_owned())).unwrap()).await
    }

    /// An account that is there without its password having been hashed, which takes long.
    async fn account(&self, name: &str, role: Role) {
        let mut write = self.intake.store.write().await.unwrap();
        write.add_user(name, "*", role.name(), "test").await.unwrap();
        write.commit().await.unwrap();
    }

    /// A browser that is signed in to an account.
    async fn browser(&self, name: &str) -> Caller {
        let token = super::secret().unwrap();
        let mut write = self.intake.store.write().await.unwrap();
        let new = NewSignIn {
            token_sha256: &sha256(&token),
            user: name,
            expires_ns: now_ns() + 3_600_000_000_000,
            address: "127.0.0.1",
            user_agent: "test",
        };
        write.add_sign_in(&new).await.unwrap();
        write.commit().await.unwrap();
        Caller { session: Some(token), ..Caller::default() }
    }

    async fn program(&self, owner: &str, role: Role) -> Caller {
        let token = super::secret().unwrap();
        let mut write = self.intake.store.write().await.unwrap();
        let new = NewApiToken {
            token_sha256: &sha256(&token),
            id: &token[..12],
            label: "test",
            owner,
            role: role.name(),
            expires_ns: now_ns() + 3_600_000_000_000,
        };
        write.add_api_token(&new).await.unwrap();
        write.commit().await.unwrap();
        Caller { token: Some(token), ..Caller::default() }
    }

    /// The browser of a new account of this role.
    async fn signed_in(&self, role: Role) -> Caller {
        self.account(role.name(), role).await;
        self.browser(role.name()).await
    }

    async fn trail(&self) -> Vec<(String, String, String)> {
        let page = self.intake.store.audit(&crate::store::AuditFilter::default(), None, 500).await.unwrap();
        page.items.into_iter().rev().map(|entry| (entry.actor, entry.action, entry.target)).collect()
    }
}

#[tokio::test]
async fn every_route_is_for_its_roles_and_no_one_else() {
    let site = Site::new().await;
    let mut host = SampleHost::enrol(&site.intake.store, "bastion", 1).await.unwrap();
    let session = host.session(&site.intake.store, &SampleSession::default()).await.unwrap().to_string();
    for role in ALL {
        site.account(role.name(), *role).await;
    }
    let mut callers: Vec<(Option<Role>, bool)> = vec![(None, false)];
    callers.extend(ALL.iter().flat_map(|role| [(Some(*role), false), (Some(*role), true)]));
    for route in ROUTES {
        for (role, by_token) in &callers {
            // Each with a browser or token of its own: some routes end them.
            let caller = match role {
                None => Caller::default(),
                Some(role) if *by_token => site.program(role.name(), *role).await,
                Some(role) => site.browser(role.name()).await,
            };
            let id = if route.path.contains("sessions") { session.as_str() } else { "1" };
            let path = route
                .path
                .replace("{id}", id)
                .replace("{host}", &host.id)
                .replace("{name}", if route.path.starts_with("/assets") { "style.css" } else { "viewer" })
                .replace("{token}", "nonsense");
            let reply = if route.is_page() && route.method == Method::POST {
                site.post(&path, &caller, &[]).await
            } else {
                site.send(route.method.clone(), &path, &caller, "{}").await
            };
            let name = format!("{} {path} as {role:?}, by token: {by_token}", route.method);
            let refused = matches!(reply.status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN);
            assert!(!reply.status.is_server_error(), "{name}: {} {}", reply.status, reply.text);
            match (route.access, role) {
                (Access::Public, _) => {
                    let form = route.path == "/sign-in" || route.path.starts_with("/set-up");
                    assert!(!refused || form, "{name}: {}", reply.status);
                }
                (Access::For(_), None) if route.is_page() && route.method == Method::GET => {
                    assert_eq!(reply.status, StatusCode::SEE_OTHER, "{name}");
                    assert!(reply.location().starts_with("/sign-in?back="), "{name}");
                }
                (Access::For(_), None) => assert_eq!(reply.status, StatusCode::UNAUTHORIZED, "{name}"),
                (Access::For(roles), Some(role)) if !roles.contains(role) => {
                    assert_eq!(reply.status, StatusCode::FORBIDDEN, "{name}");
                }
                (Access::For(_), Some(_)) if *by_token && route.browsers_only => {
                    assert_eq!(reply.status, StatusCode::FORBIDDEN, "{name}");
                }
                (Access::For(_), Some(_)) => assert!(!refused, "{name}: {} {}", reply.status, reply.text),
            }
        }
    }
}

#[tokio::test]
async fn nothing_is_done_for_another_site() {
    let site = Site::new().await;
    let admin = site.signed_in(Role::Admin).await;
    let unsafe_routes = ROUTES.iter().filter(|route| !route.method.is_safe());
    for route in unsafe_routes {
        let path = route
            .path
            .replace("{id}", "1")
            .replace("{host}", "x")
            .replace("{name}", "x")
            .replace("{token}", "x");
        let form = |csrf: &str, header: Option<(&'static str, &'static str)>| {
            let mut request = site
                .request(&route.method, &path, &admin)
                .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
            if let Some((name, value)) = header {
                request = request.header(name, value);
            }
            request.body(Body::from(format!("csrf={csrf}"))).unwrap()
        };
        let right = admin.csrf();
        for (request, what) in [
            (form("", Some(("sec-fetch-site", "same-origin"))), "without what the form holds"),
            (form("00", Some(("sec-fetch-site", "same-origin"))), "with something else"),
            (form(&right, None), "from nowhere"),
            (form(&right, Some(("sec-fetch-site", "cross-site"))), "from another site"),
            (form(&right, Some(("sec-fetch-site", "same-site"))), "from a sibling"),
            (form(&right, Some(("origin", "https://evil.example"))), "from another origin"),
            (form(&right, Some(("origin", "null"))), "from an opaque origin"),
        ] {
            let reply = site.ask(request).await;
            assert_eq!(reply.status, StatusCode::FORBIDDEN, "{} {path} {what}", route.method);
        }
    }
    // An older browser, which sends the origin alone, is let in.
    let old = site
        .request(&Method::POST, "/account/sign-ins/end-others", &admin)
        .header(header::ORIGIN, "http://localhost:7480")
        .body(Body::from(format!("csrf={}", admin.csrf())))
        .unwrap();
    assert_eq!(site.ask(old).await.status, StatusCode::SEE_OTHER);
}

#[tokio::test]
async fn without_tls_only_known_names_are_answered_to() {
    let site = Site::with(Config { names: vec!["collector.lan".into()], ..Config::default() }).await;
    for (host, expected) in [
        ("localhost:7480", StatusCode::OK),
        ("127.0.0.1:7480", StatusCode::OK),
        ("[::1]:7480", StatusCode::OK),
        ("collector.lan", StatusCode::OK),
        ("evil.example:7480", StatusCode::MISDIRECTED_REQUEST),
        ("", StatusCode::MISDIRECTED_REQUEST),
    ] {
        let request =
            Request::builder().uri("/sign-in").header(header::HOST, host).body(Body::empty()).unwrap();
        assert_eq!(site.ask(request).await.status, expected, "{host}");
    }
}

#[tokio::test]
async fn what_is_served_is_fenced_in() {
    for secure in [false, true] {
        let site = Site::with(Config { secure, ..Config::default() }).await;
        for path in ["/sign-in", "/api/v1/sessions", "/nowhere", "/api/v1/nowhere", "/assets/style.css"] {
            let reply = site.get(path, &Caller::default()).await;
            let text = |name: &str| reply.headers.get(name).map_or("", |value| value.to_str().unwrap());
            let policy = text("content-security-policy");
            assert!(policy.starts_with("default-src 'none'; script-src 'self';"), "{path}: {policy}");
            assert!(!policy.contains("unsafe"), "{path}");
            assert_eq!(text("x-content-type-options"), "nosniff", "{path}");
            assert_eq!(text("referrer-policy"), "no-referrer", "{path}");
            assert_eq!(!text("strict-transport-security").is_empty(), secure, "{path}");
            let cached = path.starts_with("/assets/");
            assert_eq!(text("cache-control") == "no-store", !cached, "{path}");
        }
        let reply = site.get("/sign-in", &Caller::default()).await;
        let cookie = reply.headers.get(header::SET_COOKIE).unwrap().to_str().unwrap();
        assert_eq!(cookie.contains("; Secure"), secure);
        assert_eq!(cookie.starts_with("__Host-"), secure);
        assert!(cookie.contains("; Path=/; HttpOnly; SameSite=Strict"), "{cookie}");
    }
}

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
    let document: Value = serde_json::from_str(super::api::DOCUMENT).unwrap();
    let mut described = Vec::new();
    for (path, operations) in document["paths"].as_object().unwrap() {
        for (method, operation) in operations.as_object().unwrap() {
            let roles = operation["x-roles"]
                .as_array()
                .map(|roles| roles.iter().map(|role| role.as_str().unwrap().to_owned()).collect::<Vec<_>>());
            let browsers_only = operation["security"][0].get("browser").is_some();
            described.push((method.to_uppercase(), path.clone(), roles, browsers_only));
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
            (route.method.to_string(), route.path.to_owned(), roles, route.browsers_only)
        })
        .collect();
    described.sort();
    served.sort();
    assert_eq!(described, served);
}

#[tokio::test]
async fn answers_have_the_fields_that_the_document_says() {
    let document: Value = serde_json::from_str(super::api::DOCUMENT).unwrap();
    let site = Site::new().await;
    let mut host = SampleHost::enrol(&site.intake.store, "bastion", 1).await.unwrap();
    let commands = vec![("DROP TABLE x".into(), "deny", "no-drops", "")];
    let sample = SampleSession { commands, ..SampleSession::default() };
    let session = host.session(&site.intake.store, &sample).await.unwrap();
    let mut write = site.intake.store.write().await.unwrap();
    write.add_finding(&host.id, "gap", "an event is missing", Some(3)).await.unwrap();
    write.commit().await.unwrap();
    let admin = site.signed_in(Role::Admin).await;
    let token = site.program("admin", Role::Admin).await;
    let hold = r#"{"label": "case 7", "from": "7d", "until": "1h"}"#;
    assert_eq!(site.send(Method::POST, "/api/v1/holds", &token, hold).await.status, StatusCode::NO_CONTENT);
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
    let hash = super::password::Passwords::new()
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
async fn rights_that_are_taken_away_are_gone_at_once() {
    let site = Site::new().await;
    let admin = site.signed_in(Role::Admin).await;
    site.account("carol", Role::Auditor).await;
    let browser = site.browser("carol").await;
    let token = site.program("carol", Role::Auditor).await;
    assert_eq!(site.get("/api/v1/audit", &browser).await.status, StatusCode::OK);
    assert_eq!(site.get("/api/v1/audit", &token).await.status, StatusCode::OK);

    let set = |body: &'static str| site.send(Method::PATCH, "/api/v1/users/carol", &admin, body);
    assert_eq!(set(r#"{"role": "viewer", "active": true}"#).await.status, StatusCode::NO_CONTENT);
    assert_eq!(site.get("/api/v1/audit", &browser).await.status, StatusCode::FORBIDDEN);
    assert_eq!(site.get("/api/v1/audit", &token).await.status, StatusCode::FORBIDDEN);
    assert_eq!(site.get("/api/v1/me", &token).await.status, StatusCode::FORBIDDEN, "more than its owner");

    assert_eq!(set(r#"{"role": "auditor", "active": false}"#).await.status, StatusCode::NO_CONTENT);
    assert_eq!(site.get("/api/v1/me", &browser).await.status, StatusCode::UNAUTHORIZED);
    assert_eq!(site.get("/api/v1/me", &token).await.status, StatusCode::UNAUTHORIZED);
    // Enabled again, a browser that was signed out stays so.
    assert_eq!(set(r#"{"role": "auditor", "active": true}"#).await.status, StatusCode::NO_CONTENT);
    assert_eq!(site.get("/api/v1/me", &browser).await.status, StatusCode::UNAUTHORIZED);

    // The last administrator stays.
    let own = r#"{"role": "viewer", "active": true}"#;
    let reply = site.send(Method::PATCH, "/api/v1/users/admin", &admin, own).await;
    assert_eq!(reply.status, StatusCode::UNPROCESSABLE_ENTITY);
}

#[tokio::test]
async fn a_token_has_no_more_rights_than_its_owner() {
    let site = Site::new().await;
    for (role, allowed) in [
        (Role::Viewer, vec!["viewer"]),
        (Role::Reviewer, vec!["viewer", "reviewer"]),
        (Role::Auditor, vec!["viewer", "auditor"]),
        (Role::Admin, vec!["viewer", "auditor", "reviewer", "admin"]),
    ] {
        let browser = site.signed_in(role).await;
        for wanted in ALL {
            let body = format!(r#"{{"label": "ci", "role": "{wanted}", "days": 30}}"#);
            let reply = site.send(Method::POST, "/api/v1/tokens", &browser, &body).await;
            let expected =
                if allowed.contains(&wanted.name()) { StatusCode::CREATED } else { StatusCode::FORBIDDEN };
            assert_eq!(reply.status, expected, "{role} makes one for {wanted}");
        }
    }
    // Someone else's token cannot be revoked, but by an administrator.
    let viewer = site.browser("viewer").await;
    let admin = site.browser("admin").await;
    let token = site.program("auditor", Role::Auditor).await;
    let path = format!("/api/v1/tokens/{}", &token.token.as_ref().unwrap()[..12]);
    assert_eq!(site.send(Method::DELETE, &path, &viewer, "").await.status, StatusCode::NOT_FOUND);
    assert_eq!(site.get("/api/v1/me", &token).await.status, StatusCode::OK);
    assert_eq!(site.send(Method::DELETE, &path, &admin, "").await.status, StatusCode::NO_CONTENT);
    assert_eq!(site.get("/api/v1/me", &token).await.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn a_browser_that_is_left_alone_is_signed_out() {
    let site = Site::with(Config { idle: std::time::Duration::ZERO, ..Config::default() }).await;
    let browser = site.signed_in(Role::Admin).await;
    assert_eq!(site.get("/api/v1/me", &browser).await.status, StatusCode::UNAUTHORIZED);
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
async fn values_are_not_for_viewers() {
    let site = Site::new().await;
    let mut host = SampleHost::enrol(&site.intake.store, "bastion", 1).await.unwrap();
    let session = host.session(&site.intake.store, &SampleSession::default()).await.unwrap();
    let viewer = site.signed_in(Role::Viewer).await;
    let reviewer = site.signed_in(Role::Reviewer).await;
    for path in [format!("/sessions/{session}"), format!("/sessions/{session}/events")] {
        let hidden = site.get(&path, &viewer).await.text;
        assert!(
            !hidden.contains("Grace Hopper") && hidden.contains("Your role does not see values"),
            "{hidden}"
        );
        assert!(!hidden.contains("class=\"params\""));
        let shown = site.get(&path, &reviewer).await.text;
        assert!(shown.contains("Grace Hopper") && shown.contains("class=\"params\""));
    }
    assert!(site.trail().await.iter().any(|(actor, action, target)| {
        actor == "viewer" && action == "session.view" && *target == session.to_string()
    }));
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
    assert!(reply.text.contains("is not connected to this collector"), "{}", reply.text);
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
