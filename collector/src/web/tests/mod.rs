//! The pages and the API as browsers and programs meet them, without a network between.

mod access;
mod approvals;
mod exported;
mod fake;
mod federated;
mod policies;
mod saml;
mod shown;
mod sign_in;
mod slack;

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
    /// Another cookie, as it is sent.
    other: Option<String>,
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
        cookies.extend(caller.other.clone());
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
            authenticated_ns: 0,
        };
        write.add_sign_in(&new).await.unwrap();
        write.commit().await.unwrap();
        Caller { session: Some(token), ..Caller::default() }
    }

    async fn program(&self, owner: &str, role: Role) -> Caller {
        self.program_for(owner, role, "*").await
    }

    async fn program_for(&self, owner: &str, role: Role, scopes: &str) -> Caller {
        let token = super::secret().unwrap();
        let mut write = self.intake.store.write().await.unwrap();
        let new = NewApiToken {
            token_sha256: &sha256(&token),
            id: &token[..12],
            label: "test",
            owner,
            role: role.name(),
            scopes,
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
