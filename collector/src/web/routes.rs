//! The one table of what there is and for whom. The router is made from it, and the tests try every route
//! in it as every role and signed out.

use axum::extract::Request;
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, delete, get, patch, post};

use super::problem::Problem;
use super::role::{ADMIN, ALL, AUDIT, REVIEW, Roles, VALUES};
use super::{
    State, account, admin, api, approvals, assets, export, federated, follow, guard, health, hosts, inbox,
    lists, page, policies, prove, session, sign_in, slack,
};

/// For whom a route is.
#[derive(Debug, Clone, Copy)]
pub(super) enum Access {
    /// For everyone, signed out too.
    Public,
    /// For those who are signed in with one of these roles.
    For(Roles),
}

/// A route.
pub(super) struct Route {
    pub(super) method: Method,
    pub(super) path: &'static str,
    pub(super) access: Access,
    /// It cannot be done with an API token: whoever got at one is not to make accounts or tokens that outlive
    /// it.
    pub(super) browsers_only: bool,
    /// Another site's page sends a form to it, so that the request proves nothing about whoever sits before the
    /// browser: what it does is bound to a cookie in another way.
    pub(super) from_elsewhere: bool,
    handler: fn() -> MethodRouter<State>,
}

impl Route {
    const fn page(
        method: Method,
        path: &'static str,
        access: Access,
        handler: fn() -> MethodRouter<State>,
    ) -> Self {
        Self { method, path, access, browsers_only: true, from_elsewhere: false, handler }
    }

    const fn api(
        method: Method,
        path: &'static str,
        access: Access,
        handler: fn() -> MethodRouter<State>,
    ) -> Self {
        Self { method, path, access, browsers_only: false, from_elsewhere: false, handler }
    }

    /// A route of the API about the account itself: a token must not make tokens.
    const fn own(method: Method, path: &'static str, handler: fn() -> MethodRouter<State>) -> Self {
        Self { method, path, access: Access::For(ALL), browsers_only: true, from_elsewhere: false, handler }
    }

    /// A page that another site's page sends a form to.
    const fn from_elsewhere(path: &'static str, handler: fn() -> MethodRouter<State>) -> Self {
        Self { method: POST, path, access: OPEN, browsers_only: true, from_elsewhere: true, handler }
    }

    /// It is for people.
    pub(super) fn is_page(&self) -> bool {
        is_page(self.path)
    }
}

/// A path that people look at; what is for programs is answered in their form.
fn is_page(path: &str) -> bool {
    !path.starts_with("/api/") && path != "/metrics"
}

const GET: Method = Method::GET;
const POST: Method = Method::POST;
const DELETE: Method = Method::DELETE;
const PATCH: Method = Method::PATCH;
const OPEN: Access = Access::Public;
const EVERYONE: Access = Access::For(ALL);

/// All of them.
pub(super) static ROUTES: &[Route] = &[
    // Signed out.
    Route::page(GET, "/assets/{name}", OPEN, || get(assets::asset)),
    Route::page(GET, "/sign-in", OPEN, || get(sign_in::page)),
    Route::page(POST, "/sign-in", OPEN, || post(sign_in::sign_in)),
    Route::page(GET, "/sign-in/with/{provider}", OPEN, || get(federated::start)),
    Route::page(GET, "/sign-in/oidc/{provider}/callback", OPEN, || get(federated::oidc_callback)),
    Route::page(GET, "/sign-in/saml/{provider}/metadata", OPEN, || get(federated::saml_metadata)),
    Route::from_elsewhere("/sign-in/saml/{provider}/consume", || post(federated::saml_consume)),
    Route::page(GET, "/sign-in/saml/{provider}/finish", OPEN, || get(federated::saml_finish)),
    Route::from_elsewhere("/hooks/slack", || post(slack::hook)),
    Route::page(GET, "/set-up/{token}", OPEN, || get(sign_in::set_up_page)),
    Route::page(POST, "/set-up/{token}", OPEN, || post(sign_in::set_up)),
    Route::page(GET, "/healthz", OPEN, || get(health::alive)),
    Route::page(GET, "/readyz", OPEN, || get(health::ready)),
    // Pages.
    Route::page(GET, "/", EVERYONE, || get(lists::home)),
    Route::page(POST, "/sign-out", EVERYONE, || post(sign_in::sign_out)),
    Route::page(GET, "/sessions", EVERYONE, || get(lists::sessions)),
    Route::page(GET, "/sessions/{id}", EVERYONE, || get(session::page)),
    Route::page(GET, "/sessions/{id}/events", EVERYONE, || get(session::events)),
    Route::page(GET, "/sessions/{id}/terminal", Access::For(VALUES), || get(export::terminal)),
    Route::page(GET, "/sessions/{id}/evidence", Access::For(AUDIT), || get(session::evidence_page)),
    Route::page(POST, "/sessions/{id}/evidence", Access::For(AUDIT), || post(session::evidence)),
    Route::page(GET, "/sessions/{id}/follow", EVERYONE, || get(follow::follow)),
    Route::page(GET, "/sessions/{id}/end", Access::For(REVIEW), || get(session::end_page)),
    Route::page(POST, "/sessions/{id}/end", Access::For(REVIEW), || post(session::end)),
    Route::page(GET, "/approvals", EVERYONE, || get(inbox::inbox)),
    Route::page(GET, "/approvals/list", EVERYONE, || get(inbox::list)),
    Route::page(GET, "/approvals/follow", EVERYONE, || get(inbox::follow)),
    Route::page(GET, "/approvals/{id}", EVERYONE, || get(inbox::approval)),
    Route::page(GET, "/approvals/{id}/standing", EVERYONE, || get(inbox::standing)),
    Route::page(POST, "/approvals/{id}/approve", EVERYONE, || post(inbox::approve)),
    Route::page(POST, "/approvals/{id}/deny", EVERYONE, || post(inbox::deny)),
    Route::page(POST, "/approvals/{id}/review", EVERYONE, || post(inbox::review)),
    Route::page(GET, "/commands", EVERYONE, || get(lists::commands)),
    Route::page(GET, "/hosts", EVERYONE, || get(hosts::list)),
    Route::page(GET, "/hosts/{host}", EVERYONE, || get(hosts::page)),
    Route::page(GET, "/hosts/{host}/revoke", Access::For(ADMIN), || get(hosts::revoke_page)),
    Route::page(POST, "/hosts/{host}/revoke", Access::For(ADMIN), || post(hosts::revoke)),
    Route::page(GET, "/rules", EVERYONE, || get(lists::rules)),
    Route::page(GET, "/policies", Access::For(VALUES), || get(policies::page)),
    Route::page(POST, "/policies", Access::For(ADMIN), || post(policies::add)),
    Route::page(POST, "/policies/assignments", Access::For(ADMIN), || post(policies::assign)),
    Route::page(GET, "/policies/{name}/{id}", Access::For(VALUES), || get(policies::version_page)),
    Route::page(POST, "/hosts/{host}/labels", Access::For(ADMIN), || post(policies::label_host)),
    Route::page(GET, "/findings", Access::For(VALUES), || get(lists::findings)),
    Route::page(POST, "/findings/{id}/acknowledge", Access::For(AUDIT), || post(lists::acknowledge)),
    Route::page(GET, "/outputs", Access::For(VALUES), || get(lists::outputs)),
    Route::page(GET, "/holds", Access::For(AUDIT), || get(lists::holds)),
    Route::page(POST, "/holds", Access::For(AUDIT), || post(lists::add_hold)),
    Route::page(POST, "/holds/{id}/release", Access::For(AUDIT), || post(lists::release_hold)),
    Route::page(GET, "/audit", Access::For(AUDIT), || get(lists::audit)),
    Route::page(GET, "/account", EVERYONE, || get(account::page)),
    Route::page(GET, "/account/again", EVERYONE, || get(inbox::again)),
    Route::page(POST, "/account/again", EVERYONE, || post(inbox::sign_in_again)),
    Route::page(GET, "/account/link/{token}", EVERYONE, || get(slack::link_page)),
    Route::page(POST, "/account/link/{token}", EVERYONE, || post(slack::confirm_link)),
    Route::page(POST, "/account/links/end", EVERYONE, || post(slack::end_link)),
    Route::page(POST, "/account/password", EVERYONE, || post(account::password)),
    Route::page(POST, "/account/codes", EVERYONE, || post(account::propose_codes)),
    Route::page(POST, "/account/codes/confirm", EVERYONE, || post(account::confirm_codes)),
    Route::page(POST, "/account/codes/remove", EVERYONE, || post(account::remove_codes)),
    Route::page(POST, "/account/sign-ins/end-others", EVERYONE, || post(account::end_others)),
    Route::page(POST, "/account/sign-ins/{id}/end", EVERYONE, || post(account::end_sign_in)),
    Route::page(POST, "/account/tokens", EVERYONE, || post(account::add_token)),
    Route::page(POST, "/account/tokens/{id}/revoke", EVERYONE, || post(account::revoke_token)),
    Route::page(GET, "/admin/users", Access::For(ADMIN), || get(admin::users)),
    Route::page(POST, "/admin/users", Access::For(ADMIN), || post(admin::add_user)),
    Route::page(GET, "/admin/users/{name}", Access::For(ADMIN), || get(admin::user)),
    Route::page(POST, "/admin/users/{name}", Access::For(ADMIN), || post(admin::set_user)),
    Route::page(POST, "/admin/users/{name}/owner", Access::For(ADMIN), || post(admin::set_owner)),
    Route::page(POST, "/admin/users/{name}/reset", Access::For(ADMIN), || post(admin::reset_user)),
    Route::page(GET, "/admin/tokens", Access::For(ADMIN), || get(admin::tokens)),
    Route::page(POST, "/admin/tokens/{id}/revoke", Access::For(ADMIN), || post(admin::revoke_api_token)),
    Route::page(GET, "/admin/enrolment", Access::For(ADMIN), || get(admin::enrolment)),
    Route::page(POST, "/admin/enrolment", Access::For(ADMIN), || post(admin::add_enrolment_token)),
    Route::page(POST, "/admin/enrolment/{id}/revoke", Access::For(ADMIN), || {
        post(admin::revoke_enrolment_token)
    }),
    // The API.
    Route::api(GET, "/api/v1/openapi.json", OPEN, || get(api::document)),
    Route::api(GET, "/api/v1/me", EVERYONE, || get(api::me)),
    Route::api(GET, "/api/v1/sessions", EVERYONE, || get(api::sessions)),
    Route::api(GET, "/api/v1/sessions/{id}", EVERYONE, || get(api::session)),
    Route::api(GET, "/api/v1/sessions/{id}/commands", EVERYONE, || get(api::session_commands)),
    Route::api(GET, "/api/v1/sessions/{id}/events", Access::For(VALUES), || get(api::session_events)),
    Route::api(POST, "/api/v1/sessions/{id}/end", Access::For(REVIEW), || post(api::end_session)),
    Route::api(GET, "/api/v1/approvals", EVERYONE, || get(approvals::list)),
    Route::api(GET, "/api/v1/approvals/{id}", EVERYONE, || get(approvals::show)),
    Route::api(POST, "/api/v1/approvals/{id}/approve", EVERYONE, || post(approvals::approve)),
    Route::api(POST, "/api/v1/approvals/{id}/deny", EVERYONE, || post(approvals::deny)),
    Route::api(POST, "/api/v1/approvals/{id}/review", EVERYONE, || post(approvals::review)),
    Route::api(GET, "/api/v1/commands", EVERYONE, || get(api::commands)),
    Route::api(GET, "/api/v1/export", Access::For(AUDIT), || get(export::export)),
    Route::api(GET, "/api/v1/agents", EVERYONE, || get(api::agents)),
    Route::api(GET, "/api/v1/agents/{host}", EVERYONE, || get(api::agent)),
    Route::api(GET, "/api/v1/agents/{host}/events", Access::For(VALUES), || get(api::agent_events)),
    Route::api(POST, "/api/v1/agents/{host}/revoke", Access::For(ADMIN), || post(api::revoke_agent)),
    Route::api(POST, "/api/v1/agents/{host}/labels", Access::For(ADMIN), || post(policies::set_labels)),
    Route::api(GET, "/api/v1/agents/{host}/policies", Access::For(VALUES), || get(policies::of_agent)),
    Route::api(POST, "/api/v1/agents/{host}/policies/reissue", Access::For(ADMIN), || {
        post(policies::reissue)
    }),
    Route::api(GET, "/api/v1/policy-sets", Access::For(VALUES), || get(policies::sets)),
    Route::api(POST, "/api/v1/policy-sets/{name}/versions", Access::For(ADMIN), || {
        post(policies::add_version)
    }),
    Route::api(GET, "/api/v1/policy-sets/{name}/versions/{id}", Access::For(VALUES), || {
        get(policies::version)
    }),
    Route::api(GET, "/api/v1/policy-assignments", Access::For(VALUES), || get(policies::assignments)),
    Route::api(POST, "/api/v1/policy-assignments", Access::For(ADMIN), || post(policies::change_assignment)),
    Route::api(GET, "/api/v1/rules", EVERYONE, || get(api::rules)),
    Route::api(GET, "/metrics", EVERYONE, || get(health::metrics)),
    Route::api(GET, "/api/v1/ledger/checkpoint", EVERYONE, || get(prove::checkpoint)),
    Route::api(GET, "/api/v1/ledger/consistency", EVERYONE, || get(prove::consistency)),
    Route::api(POST, "/api/v1/evidence", Access::For(AUDIT), || post(prove::bundle)),
    Route::api(GET, "/api/v1/findings", Access::For(VALUES), || get(api::findings)),
    Route::api(POST, "/api/v1/findings/{id}/acknowledge", Access::For(AUDIT), || post(api::acknowledge)),
    Route::api(GET, "/api/v1/outputs", Access::For(VALUES), || get(api::outputs)),
    Route::api(GET, "/api/v1/audit", Access::For(AUDIT), || get(api::audit)),
    Route::api(GET, "/api/v1/holds", Access::For(AUDIT), || get(api::holds)),
    Route::api(POST, "/api/v1/holds", Access::For(AUDIT), || post(api::add_hold)),
    Route::api(POST, "/api/v1/holds/{id}/release", Access::For(AUDIT), || post(api::release_hold)),
    Route::api(GET, "/api/v1/users", Access::For(ADMIN), || get(api::users)),
    Route::page(POST, "/api/v1/users", Access::For(ADMIN), || post(api::add_user)),
    Route::page(PATCH, "/api/v1/users/{name}", Access::For(ADMIN), || patch(api::set_user)),
    Route::api(GET, "/api/v1/users/{name}/owner", Access::For(ADMIN), || get(approvals::owner)),
    Route::page(PATCH, "/api/v1/users/{name}/owner", Access::For(ADMIN), || patch(approvals::set_owner)),
    Route::api(GET, "/api/v1/users/{name}/links", Access::For(ADMIN), || get(slack::links_of)),
    Route::api(DELETE, "/api/v1/users/{name}/links/{chat}/{app}/{team}/{person}", Access::For(ADMIN), || {
        delete(slack::end_link_of)
    }),
    Route::page(POST, "/api/v1/users/{name}/reset", Access::For(ADMIN), || post(api::reset_user)),
    Route::api(GET, "/api/v1/enrolment-tokens", Access::For(ADMIN), || get(api::enrolment_tokens)),
    Route::api(POST, "/api/v1/enrolment-tokens", Access::For(ADMIN), || post(api::add_enrolment_token)),
    Route::api(DELETE, "/api/v1/enrolment-tokens/{id}", Access::For(ADMIN), || {
        delete(api::revoke_enrolment_token)
    }),
    Route::api(GET, "/api/v1/tokens", EVERYONE, || get(api::tokens)),
    Route::own(POST, "/api/v1/tokens", || post(api::add_token)),
    Route::own(DELETE, "/api/v1/tokens/{id}", || delete(api::revoke_token)),
    Route::own(GET, "/api/v1/sign-ins", || get(api::sign_ins)),
    Route::own(DELETE, "/api/v1/sign-ins/{id}", || delete(api::end_sign_in)),
];

/// The pages and the API. Whoever serves it puts the peer's address into each request's extensions, as
/// `axum::extract::ConnectInfo<SocketAddr>`.
pub fn router(state: State) -> axum::Router {
    let mut router = axum::Router::new();
    for route in ROUTES {
        let before = state.clone();
        let guarded = (route.handler)()
            .route_layer(from_fn(move |request, next| guard::guard(before.clone(), route, request, next)));
        router = router.route(route.path, guarded);
    }
    let secure = state.config.secure;
    router.layer(from_fn(move |request, next| finish(secure, request, next))).with_state(state)
}

macro_rules! policy {
    ($scripts:literal) => {
        concat!(
            "default-src 'none'; script-src 'self'",
            $scripts,
            "; style-src 'self'; img-src 'self' data:; \
     connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
        )
    };
}

const POLICY: &str = policy!("");
/// For a page with a recorded terminal: the player's screen is WebAssembly. Scripts are no freer by it.
pub(super) const PLAYER_POLICY: &str = policy!(" 'wasm-unsafe-eval'");

/// What every response has, and problems as fits what was asked for.
async fn finish(secure: bool, request: Request, next: Next) -> Response {
    let is_page = is_page(request.uri().path());
    let mut response = next.run(request).await;
    let mut problem = response.extensions_mut().remove::<Problem>();
    let status = response.status();
    let bare = response
        .headers()
        .get(header::CONTENT_TYPE)
        .is_none_or(|kind| kind.as_bytes().starts_with(b"text/plain"));
    if problem.is_none() && bare && (status.is_client_error() || status.is_server_error()) {
        let detail = match status {
            StatusCode::NOT_FOUND => {
                "There is nothing at this address. Look for it in the list that it belongs to."
            }
            StatusCode::METHOD_NOT_ALLOWED => "This cannot be done here. The OpenAPI document says what can.",
            _ => "The request cannot be understood. Check its address and what was sent.",
        };
        problem = Some(Problem::new(status, detail));
    }
    if let Some(problem) = problem {
        let shown = if is_page { page::problem(&problem) } else { problem.json() };
        let cookies: Vec<_> = response.headers().get_all(header::SET_COOKIE).iter().cloned().collect();
        let allow = response.headers().get(header::ALLOW).cloned();
        response = shown.into_response();
        for cookie in cookies {
            response.headers_mut().append(header::SET_COOKIE, cookie);
        }
        if let Some(allow) = allow {
            response.headers_mut().insert(header::ALLOW, allow);
        }
    }
    let headers = response.headers_mut();
    let mut put = |name, value| drop(headers.insert(name, HeaderValue::from_static(value)));
    put(header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    put(header::REFERRER_POLICY, "no-referrer");
    put(header::X_FRAME_OPTIONS, "DENY");
    put(header::HeaderName::from_static("cross-origin-opener-policy"), "same-origin");
    put(header::HeaderName::from_static("cross-origin-resource-policy"), "same-origin");
    put(
        header::HeaderName::from_static("permissions-policy"),
        "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    );
    if secure {
        put(header::STRICT_TRANSPORT_SECURITY, "max-age=63072000");
    }
    // Only a page with a recorded terminal has one of its own.
    if !headers.contains_key(header::CONTENT_SECURITY_POLICY) {
        headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    }
    if !headers.contains_key(header::CACHE_CONTROL) {
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
    response
}
