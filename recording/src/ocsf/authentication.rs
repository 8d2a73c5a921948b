//! Signing in, as Authentication (3002): processes at servers, people at identity providers.

use serde_json::{Map, Value, json};

use super::objects::{actor, base, endpoint, milliseconds, or_unknown, put, source};
use super::{Host, Known, Ocsf, class};
use crate::proto::{self, Event};

impl Ocsf {
    /// A process has logged in at a server.
    pub(super) fn login(&self, host: &Host, event: &Event, body: &proto::Login) -> Value {
        let nothing = Known::default();
        let known = self.known(event).unwrap_or(&nothing);
        let mut made = base(host, event, class::AUTHENTICATION, 1, "Logon");
        put(&mut made, "status_id", 1.into());
        put(&mut made, "status", "Success".into());
        put(&mut made, "user", json!({"name": or_unknown(&body.user)}));
        put(&mut made, "actor", actor(&known.subject));
        put(&mut made, "src_endpoint", source(host, &known.client));
        put(&mut made, "dst_endpoint", endpoint(&known.destination, &known.hosts));
        put(&mut made, "service", json!({"name": or_unknown(&known.protocol)}));
        put(&mut made, "auth_protocol_id", 99.into());
        put(&mut made, "auth_protocol", or_unknown(&body.auth_method).into());
        put(&mut made, "is_remote", true.into());
        put(&mut made, "is_cleartext", (body.auth_method == "cleartext").into());
        let Value::Object(all) = crate::json::event(event) else { return made };
        let kept = ["database", "server_version", "client_tls", "server_tls", "credential", "login_user"];
        let rest: Map<String, Value> =
            all.into_iter().filter(|(key, _)| kept.contains(&key.as_str())).collect();
        put(&mut made, "unmapped", rest.into());
        made
    }
}

/// How a person's sign-in on the host changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// It begins.
    In,
    /// It has ended.
    Out,
    /// Their groups there are others.
    Groups,
    /// It did not come about.
    Refused,
}

/// Somebody has signed in at an identity provider to stand behind what a login session of the host does, or has
/// not, or does so no more.
pub(super) fn person(host: &Host, event: &Event, body: &proto::PersonChange, change: Change) -> Value {
    let (activity, what) = match change {
        Change::In | Change::Refused => (1, "Logon"),
        Change::Out => (2, "Logoff"),
        Change::Groups => (99, "Groups changed"),
    };
    let mut made = base(host, event, class::AUTHENTICATION, activity, what);
    let failed = change == Change::Refused;
    let (status, word) = if failed { (2, "Failure") } else { (1, "Success") };
    put(&mut made, "status_id", status.into());
    put(&mut made, "status", word.into());
    if failed {
        put(&mut made, "severity_id", 3.into());
        put(&mut made, "severity", "Medium".into());
    }
    let detail = if body.detail.is_empty() { &body.reason } else { &body.detail };
    if !detail.is_empty() {
        put(&mut made, "status_detail", detail.as_str().into());
    }
    let named = if body.name.is_empty() { &body.subject } else { &body.name };
    let groups: Vec<_> = body.groups.iter().map(|group| json!({"name": group})).collect();
    let mut user = json!({"name": or_unknown(named), "groups": groups});
    if !body.subject.is_empty() {
        put(&mut user, "uid", body.subject.as_str().into());
    }
    put(&mut made, "user", user);
    let mut idp = json!({"name": or_unknown(&body.issuer_name)});
    if !body.issuer.is_empty() {
        put(&mut idp, "uid", body.issuer.as_str().into());
    }
    let mut by = body.process.as_ref().map_or_else(|| json!({}), actor);
    put(&mut by, "idp", idp);
    put(&mut made, "actor", by);
    // The sign-in counts for the host, by the provider's word.
    put(&mut made, "service", json!({"name": or_unknown(&body.issuer_name)}));
    put(&mut made, "dst_endpoint", source(host, ""));
    put(&mut made, "auth_protocol_id", 4.into());
    put(&mut made, "auth_protocol", "OpenID".into());
    put(&mut made, "is_remote", true.into());
    put(&mut made, "is_cleartext", false.into());
    let mut session = json!({"issuer": or_unknown(&body.issuer)});
    if let Some(number) = body.login_session {
        put(&mut session, "uid", number.to_string().into());
    }
    if body.authenticated_ns > 0 {
        put(&mut session, "created_time", milliseconds(body.authenticated_ns));
    }
    if body.until_ns > 0 {
        put(&mut session, "expiration_time", milliseconds(body.until_ns));
    }
    put(&mut made, "session", session);
    let Value::Object(all) = crate::json::event(event) else { return made };
    let kept = ["login_session", "login_uid", "tree_pid", "way", "reason", "groups_before", "authenticated"];
    let rest: Map<String, Value> =
        all.into_iter().filter(|(key, value)| kept.contains(&key.as_str()) && !value.is_null()).collect();
    put(&mut made, "unmapped", rest.into());
    made
}
