//! Who may do what, and that they meant to.

use super::super::scope::SCOPES;
use super::*;

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
                .replace("{provider}", "nobody")
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
                    let form = route.path.starts_with("/sign-in") || route.path.starts_with("/set-up");
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
    // One alone takes what another site sends: what that does is bound to the browser in another way.
    let elsewhere: Vec<_> =
        ROUTES.iter().filter(|route| route.from_elsewhere).map(|route| route.path).collect();
    assert_eq!(elsewhere, ["/sign-in/saml/{provider}/consume", "/hooks/slack"]);
    let unsafe_routes = ROUTES.iter().filter(|route| !route.method.is_safe() && !route.from_elsewhere);
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
async fn a_token_does_what_it_is_for_and_nothing_else() {
    let site = Site::new().await;
    let mut host = SampleHost::enrol(&site.intake.store, "bastion", 1).await.unwrap();
    let session = host.session(&site.intake.store, &SampleSession::default()).await.unwrap().to_string();
    let admin = site.signed_in(Role::Admin).await;
    let document: Value = serde_json::from_str(crate::web::api::DOCUMENT).unwrap();
    let scopes = SCOPES.iter().map(|scope| scope.name()).chain(["", "read holds", "*", "nonsense"]);
    for scopes in scopes {
        let token = site.program_for("admin", Role::Admin, scopes).await;
        for route in
            ROUTES.iter().filter(|route| matches!(route.access, Access::For(_)) && !route.browsers_only)
        {
            let id = if route.path.contains("sessions") { session.as_str() } else { "1" };
            let path = route.path.replace("{id}", id).replace("{host}", "nowhere").replace("{name}", "x");
            let reply = site.send(route.method.clone(), &path, &token, "{}").await;
            let operation = &document["paths"][route.path][route.method.as_str().to_lowercase()];
            let needed = operation["x-scope"].as_str().unwrap_or("*");
            let may = scopes == "*" || needed == "none" || scopes.split(' ').any(|scope| scope == needed);
            let said = format!("{} {path} with {scopes:?}: {} {}", route.method, reply.status, reply.text);
            assert_eq!(reply.status != StatusCode::FORBIDDEN, may, "{said}");
            assert!(!reply.status.is_server_error(), "{said}");
        }
    }
    // They are chosen when it is made, and none of them is not all of them.
    let make = |body: &'static str| site.send(Method::POST, "/api/v1/tokens", &admin, body);
    let made = make(r#"{"label": "prometheus", "role": "viewer", "scopes": ["metrics"], "days": 30}"#).await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.text);
    let token = made.json()["token"].as_str().unwrap().to_owned();
    let prometheus = Caller { token: Some(token), ..Caller::default() };
    assert_eq!(site.get("/metrics", &prometheus).await.status, StatusCode::OK);
    let reply = site.get("/api/v1/sessions", &prometheus).await;
    assert_eq!(reply.status, StatusCode::FORBIDDEN);
    assert!(reply.text.contains("needs the scope read"), "{}", reply.text);
    for bad in [
        r#"{"label": "x", "role": "viewer", "scopes": [], "days": 1}"#,
        r#"{"label": "x", "role": "viewer", "scopes": ["everything"], "days": 1}"#,
        r#"{"label": "x", "role": "viewer", "scopes": ["read", "*"], "days": 1}"#,
    ] {
        assert_eq!(make(bad).await.status, StatusCode::UNPROCESSABLE_ENTITY, "{bad}");
    }
    let form = [("label", "x"), ("role", "viewer"), ("days", "1")];
    assert_eq!(site.post("/account/tokens", &admin, &form).await.status, StatusCode::UNPROCESSABLE_ENTITY);
    let form =
        [("label", "exports"), ("role", "auditor"), ("days", "1"), ("scope", "read"), ("scope", "export")];
    assert_eq!(site.post("/account/tokens", &admin, &form).await.status, StatusCode::OK);
    let listed = site.get("/api/v1/tokens", &admin).await.json();
    let exports =
        listed["items"].as_array().unwrap().iter().find(|token| token["label"] == "exports").unwrap();
    assert_eq!(exports["scopes"], serde_json::json!(["read", "export"]));
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

/// The table says it again, in other words, so that a slip in it is found.
#[test]
fn pages_are_for_the_roles_that_the_docs_say() {
    use super::super::role::{ADMIN, AUDIT, REVIEW, VALUES};
    for route in ROUTES.iter().filter(|route| route.is_page()) {
        let parts: Vec<&str> = route.path.split('/').skip(1).collect();
        let expected = match (parts.as_slice(), &route.method) {
            (["assets" | "hooks" | "sign-in" | "set-up" | "healthz" | "readyz", ..], _) => None,
            (["admin", ..] | ["hosts", _, "revoke"], _) => Some(ADMIN),
            (["audit" | "holds", ..], _) => Some(AUDIT),
            (["findings" | "policies" | "outputs", ..], &Method::GET) => Some(VALUES),
            (["policies", ..] | ["hosts", _, "labels"], _) => Some(ADMIN),
            (["findings", ..], _) => Some(AUDIT),
            (["sessions", _, "end"], _) => Some(REVIEW),
            (["sessions", _, "terminal"], _) => Some(VALUES),
            (["sessions", _, "evidence"], _) => Some(AUDIT),
            _ => Some(ALL),
        };
        let roles = match route.access {
            Access::Public => None,
            Access::For(roles) => Some(roles),
        };
        assert_eq!(roles, expected, "{} {}", route.method, route.path);
        assert!(route.browsers_only, "{}", route.path);
    }
}

#[tokio::test]
async fn a_reset_takes_everything_that_opened_the_account() {
    let site = Site::new().await;
    let admin = site.signed_in(Role::Admin).await;
    site.account("carol", Role::Reviewer).await;
    let browser = site.browser("carol").await;
    let token = site.program("carol", Role::Reviewer).await;
    let body = format!(r#"{{"password": "{PASSWORD}"}}"#);
    let reply = site.send(Method::POST, "/api/v1/users/carol/reset", &admin, &body).await;
    assert_eq!(reply.status, StatusCode::NO_CONTENT, "{}", reply.text);
    assert_eq!(site.get("/api/v1/me", &browser).await.status, StatusCode::UNAUTHORIZED);
    assert_eq!(site.get("/api/v1/me", &token).await.status, StatusCode::UNAUTHORIZED);
    let trail =
        format!("{:?}", site.intake.store.audit(&crate::store::AuditFilter::default(), None, 9).await);
    assert!(trail.contains("1 API tokens revoked") && !trail.contains(PASSWORD), "{trail}");
}
