//! Events as [OCSF](https://schema.ocsf.io) 1.8.0. `docs/outputs.md` has the table of what becomes what.

use std::collections::{BTreeMap, HashMap};

use serde_json::{Map, Value, json};

use crate::SessionId;
use crate::json::name;
use crate::keys::hex;
use crate::proto::event::Body;
use crate::proto::{self, Event, Subject};
use crate::query::Summary;

/// The version of OCSF.
pub const VERSION: &str = "1.8.0";

/// Commands of one session whose end is waited for.
const PENDING: usize = 1000;

/// OCSF's numbers for what was done.
mod class {
    pub(super) const BASE: u32 = 0;
    pub(super) const AUTHENTICATION: u32 = 3002;
    pub(super) const NETWORK_ACTIVITY: u32 = 4001;
    pub(super) const APPLICATION_LIFECYCLE: u32 = 6002;
    pub(super) const DATASTORE_ACTIVITY: u32 = 6005;
}

/// Where events were recorded.
#[derive(Debug, Clone, Default)]
pub struct Host {
    /// The host's id.
    pub id: String,
    /// Its name.
    pub name: String,
}

/// What is known of a session.
#[derive(Debug, Default)]
struct Known {
    subject: Subject,
    client: String,
    destination: String,
    hosts: Vec<String>,
    protocol: String,
    db_user: String,
    database: String,
}

/// Makes OCSF events out of a recording's, which come in their order. A command and its end become one.
#[derive(Debug, Default)]
pub struct Ocsf {
    sessions: HashMap<SessionId, Known>,
    /// Commands whose end has not come, by session and number.
    pending: BTreeMap<(SessionId, u64), Event>,
}

impl Ocsf {
    /// One that knows of no session yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Says what is known of a session, should its beginning not be among the events.
    pub fn know(&mut self, session: SessionId, summary: &Summary) {
        self.sessions.entry(session).or_insert_with(|| Known {
            subject: Subject {
                pid: summary.pid,
                uid: summary.uid,
                user: summary.user.clone(),
                exe: summary.exe.clone(),
                script: summary.script.clone(),
                ..Subject::default()
            },
            destination: summary.destination.clone(),
            hosts: summary.hosts.clone(),
            protocol: summary.protocol.clone(),
            db_user: summary.db_user.clone(),
            database: summary.database.clone(),
            ..Known::default()
        });
    }

    /// What an event becomes: nothing, when it waits for its end or has no place in OCSF, or more than one.
    pub fn event(&mut self, host: &Host, event: &Event) -> Vec<Value> {
        let session = SessionId::from_slice(&event.session);
        let mut made = Vec::new();
        match (&event.body, session) {
            (Some(Body::Command(body)), Some(session)) => {
                if self.pending.len() >= PENDING
                    && let Some((_, first)) = self.pending.pop_first()
                {
                    made.push(self.command(host, &first, None));
                }
                self.pending.insert((session, body.command), event.clone());
            }
            (Some(Body::Result(body)), Some(session)) => {
                match self.pending.remove(&(session, body.command)) {
                    Some(command) => made.push(self.command(host, &command, Some((event, body)))),
                    None => made.push(self.orphan(host, event)),
                }
            }
            (Some(Body::FlowStarted(body)), Some(session)) => {
                let known = Known {
                    subject: body.subject.clone().unwrap_or_default(),
                    client: body.client.clone(),
                    destination: body.destination.clone(),
                    hosts: body.hosts.clone(),
                    protocol: body.protocol.clone(),
                    ..Known::default()
                };
                made.push(self.network(host, event, &known, 1, "Open", true));
                self.sessions.insert(session, known);
            }
            (Some(Body::IdentityChanged(body)), Some(session)) => {
                let known = self.sessions.entry(session).or_default();
                known.subject.person.clone_from(&body.person);
                known.subject.workload.clone_from(&body.workload);
                made.push(self.orphan(host, event));
            }
            (Some(Body::Login(body)), Some(session)) => {
                let known = self.sessions.entry(session).or_default();
                known.db_user.clone_from(&body.user);
                known.database.clone_from(&body.database);
                made.push(self.login(host, event, body));
            }
            (Some(Body::SessionEnded(body)), Some(session)) => {
                made.extend(self.flush_session(host, session));
                let known = self.sessions.remove(&session).unwrap_or_default();
                let mut end = self.network(host, event, &known, 2, "Close", true);
                put(
                    &mut end,
                    "traffic",
                    json!({
                        "bytes_in": body.server_bytes, "bytes_out": body.client_bytes,
                        "bytes": body.server_bytes.saturating_add(body.client_bytes),
                    }),
                );
                put(&mut end, "status_detail", body.reason.as_str().into());
                made.push(end);
            }
            (Some(Body::Egress(body)), _) => {
                let known = Known {
                    subject: body.subject.clone().unwrap_or_default(),
                    destination: body.destination.clone(),
                    ..Known::default()
                };
                let allowed = body.verdict != "deny";
                let (activity, what) = if allowed { (1, "Open") } else { (5, "Refuse") };
                let mut made_of = self.network(host, event, &known, activity, what, allowed);
                put(&mut made_of, "count", body.count.into());
                made.push(made_of);
            }
            (Some(Body::AgentStarted(_)), _) => made.push(lifecycle(host, event, 3, "Start")),
            (Some(Body::AgentStopped(_)), _) => made.push(lifecycle(host, event, 4, "Stop")),
            (Some(Body::TerminalOutput(_) | Body::TerminalInput(_) | Body::TerminalSize(_)) | None, _) => {}
            (Some(_), _) => made.push(self.orphan(host, event)),
        }
        made
    }

    /// Commands whose end is not among the events.
    pub fn flush(&mut self, host: &Host) -> Vec<Value> {
        let pending = std::mem::take(&mut self.pending);
        pending.into_values().map(|event| self.command(host, &event, None)).collect()
    }

    fn flush_session(&mut self, host: &Host, session: SessionId) -> Vec<Value> {
        let ids: Vec<_> = self.pending.range((session, 0)..=(session, u64::MAX)).map(|(id, _)| *id).collect();
        let events: Vec<_> = ids.iter().filter_map(|id| self.pending.remove(id)).collect();
        events.iter().map(|event| self.command(host, event, None)).collect()
    }

    fn known(&self, event: &Event) -> Option<&Known> {
        self.sessions.get(&SessionId::from_slice(&event.session)?)
    }

    fn command(&self, host: &Host, event: &Event, end: Option<(&Event, &proto::CommandResult)>) -> Value {
        let Some(Body::Command(body)) = &event.body else { return Value::Null };
        let nothing = Known::default();
        let known = self.known(event).unwrap_or(&nothing);
        let kind = body.statements.first().map_or("", |statement| statement.kind.as_str());
        let classes: Vec<&str> =
            body.statements.iter().flat_map(|statement| &statement.classes).map(String::as_str).collect();
        let (activity, what) = activity(kind, &classes);
        let mut made = base(host, event, class::DATASTORE_ACTIVITY, activity, what);
        let would = body.observed.iter().any(|rule| rule.verdict != "allow");
        let (severity, word) = match body.verdict.as_str() {
            "allow" if would => (2, "Low"),
            "allow" => (1, "Informational"),
            _ => (3, "Medium"),
        };
        put(&mut made, "severity_id", severity.into());
        put(&mut made, "severity", word.into());
        put(&mut made, "message", body.text.as_str().into());
        put(&mut made, "actor", actor(&known.subject));
        put(&mut made, "src_endpoint", source(host, &known.client));
        put(&mut made, "dst_endpoint", endpoint(&known.destination, &known.hosts));
        put(&mut made, "type_id", 1.into());
        put(&mut made, "type", "Database".into());
        let database = if known.database.is_empty() { "unknown" } else { &known.database };
        put(
            &mut made,
            "database",
            json!({
                "name": database, "type_id": if known.protocol == "postgres" { 1 } else { 0 },
                "type": if known.protocol == "postgres" { "Relational" } else { "Unknown" },
            }),
        );
        let rows = end.and_then(|(_, end)| end.rows.as_ref());
        let mut query = json!({"query_string": body.text, "uid": body.command.to_string()});
        if let Some(rows) = rows {
            put(&mut query, "bytes", rows.bytes.into());
        }
        put(&mut made, "query_info", query);
        let (action, action_name, disposition, disposition_name) = match body.verdict.as_str() {
            "allow" => (1, "Allowed", 1, "Allowed"),
            "hold" => (2, "Denied", 14, "Delayed"),
            _ => (2, "Denied", 2, "Blocked"),
        };
        put(&mut made, "action_id", action.into());
        put(&mut made, "action", action_name.into());
        put(&mut made, "disposition_id", disposition.into());
        put(&mut made, "disposition", disposition_name.into());
        if let Some(rule) = body.rule.as_ref().or(body.observed.first().map(|observed| &observed.rule)) {
            put(&mut made, "policy", json!({"name": rule, "is_applied": body.rule.is_some()}));
        }
        let list = |of: fn(&proto::Statement) -> &Vec<String>| -> Vec<&String> {
            body.statements.iter().flat_map(of).collect()
        };
        let mut rest = json!({
            "step": body.step, "verdict": body.verdict, "enforced": body.enforced, "matched": body.matched,
            "observed": body.observed.iter().map(|rule| json!({"rule": rule.rule, "verdict": rule.verdict}))
                .collect::<Vec<_>>(),
            "kinds": list(|statement| &statement.kinds), "reads": list(|statement| &statement.reads),
            "writes": list(|statement| &statement.writes), "functions": list(|statement| &statement.functions),
            "db_user": known.db_user, "protocol": known.protocol, "index": event.index, "sequence": event.sequence,
        });
        if let Some((at, end)) = end {
            let (status, word) = match end.status.as_str() {
                "complete" | "suspended" => (1, "Success"),
                "error" | "refused" => (2, "Failure"),
                _ => (99, "Other"),
            };
            put(&mut made, "status_id", status.into());
            put(&mut made, "status", word.into());
            if !end.sqlstate.is_empty() {
                put(&mut made, "status_code", end.sqlstate.as_str().into());
            }
            if !end.message.is_empty() {
                put(&mut made, "status_detail", end.message.as_str().into());
            }
            put(&mut made, "start_time", milliseconds(event.wall_ns));
            put(&mut made, "end_time", milliseconds(at.wall_ns));
            put(&mut made, "duration", (end.duration_ns / 1_000_000).into());
            put(&mut rest, "tag", end.tag.as_str().into());
            if let Some(rows) = rows {
                put(&mut rest, "rows", rows.count.into());
                let masks: Map<String, Value> =
                    rows.masks.iter().map(|mask| (mask.mask.clone(), mask.count.into())).collect();
                put(&mut rest, "masks", masks.into());
            }
        } else {
            put(&mut made, "status_id", 0.into());
            put(&mut made, "status", "Unknown".into());
        }
        put(&mut made, "unmapped", rest);
        made
    }

    fn login(&self, host: &Host, event: &Event, body: &proto::Login) -> Value {
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

    fn network(
        &self,
        host: &Host,
        event: &Event,
        known: &Known,
        activity: u32,
        what: &str,
        allowed: bool,
    ) -> Value {
        let mut made = base(host, event, class::NETWORK_ACTIVITY, activity, what);
        put(&mut made, "status_id", if allowed { 1 } else { 2 }.into());
        put(&mut made, "status", if allowed { "Success" } else { "Failure" }.into());
        put(&mut made, "actor", actor(&known.subject));
        put(&mut made, "src_endpoint", source(host, &known.client));
        put(&mut made, "dst_endpoint", endpoint(&known.destination, &known.hosts));
        if !known.protocol.is_empty() {
            put(&mut made, "app_name", known.protocol.as_str().into());
        }
        let (id, word) = if allowed { (1, "Allowed") } else { (2, "Denied") };
        put(&mut made, "action_id", id.into());
        put(&mut made, "action", word.into());
        made
    }

    /// What OCSF has no class for: a base event with all of it.
    fn orphan(&self, host: &Host, event: &Event) -> Value {
        let mut made = base(host, event, class::BASE, 99, name(event));
        put(&mut made, "message", name(event).into());
        put(&mut made, "unmapped", crate::json::event(event));
        made
    }
}

/// Something that is no event of a recording, such as that a part of it was deleted.
pub fn notice(host: &Host, name: &str, wall_ns: u64, message: &str, detail: Value) -> Value {
    let event = Event { wall_ns, ..Event::default() };
    let mut made = base(host, &event, class::BASE, 99, name);
    put(&mut made, "message", message.into());
    put(&mut made, "unmapped", detail);
    if let Some(metadata) = made.get_mut("metadata") {
        put(metadata, "event_code", name.into());
        put(metadata, "uid", format!("{}:{name}:{wall_ns}", host.id).into());
    }
    made
}

fn put(object: &mut Value, key: &str, value: Value) {
    if let Some(object) = object.as_object_mut() {
        object.insert(key.to_owned(), value);
    }
}

fn milliseconds(ns: u64) -> Value {
    (ns / 1_000_000).into()
}

fn or_unknown(text: &str) -> &str {
    if text.is_empty() { "unknown" } else { text }
}

/// What stands in every event.
fn base(host: &Host, event: &Event, class: u32, activity: u32, what: &str) -> Value {
    let (category, category_name, class_name) = match class {
        class::AUTHENTICATION => (3, "Identity & Access Management", "Authentication"),
        class::NETWORK_ACTIVITY => (4, "Network Activity", "Network Activity"),
        class::APPLICATION_LIFECYCLE => (6, "Application Activity", "Application Lifecycle"),
        class::DATASTORE_ACTIVITY => (6, "Application Activity", "Datastore Activity"),
        _ => (0, "Uncategorized", "Base Event"),
    };
    let profiles: &[&str] = match class {
        class::DATASTORE_ACTIVITY | class::NETWORK_ACTIVITY => &["host", "security_control"],
        _ => &["host"],
    };
    let mut metadata = json!({
        "version": VERSION,
        "product": {"name": "Interlock", "vendor_name": "Interlock", "version": env!("CARGO_PKG_VERSION")},
        "profiles": profiles,
        "uid": format!("{}:{}", host.id, event.index),
        "sequence": event.sequence,
        "log_name": "recording",
        "event_code": name(event),
    });
    if !event.session.is_empty() {
        put(&mut metadata, "correlation_uid", hex(&event.session).into());
    }
    json!({
        "metadata": metadata,
        "class_uid": class,
        "class_name": class_name,
        "category_uid": category,
        "category_name": category_name,
        "activity_id": activity,
        "activity_name": what,
        "type_uid": class * 100 + activity,
        "type_name": format!("{class_name}: {what}"),
        "severity_id": 1,
        "severity": "Informational",
        "time": milliseconds(event.wall_ns),
        "device": {"type_id": 1, "type": "Server", "hostname": or_unknown(&host.name), "uid": host.id},
    })
}

fn lifecycle(host: &Host, event: &Event, activity: u32, what: &str) -> Value {
    let mut made = base(host, event, class::APPLICATION_LIFECYCLE, activity, what);
    put(
        &mut made,
        "app",
        json!({
            "name": "interlock", "vendor_name": "Interlock", "version": env!("CARGO_PKG_VERSION"),
        }),
    );
    if let Some(Body::AgentStarted(body)) = &event.body {
        put(
            &mut made,
            "unmapped",
            json!({
                "agent_version": body.version, "pid": body.pid, "kernel": body.kernel,
            }),
        );
    }
    made
}

/// What a statement does, in OCSF's words.
fn activity(kind: &str, classes: &[&str]) -> (u32, &'static str) {
    match kind {
        "select" => (4, "Query"),
        "update" | "merge" => (2, "Update"),
        "insert" => (5, "Write"),
        "delete" | "truncate" => (7, "Delete"),
        kind if kind.starts_with("drop_") => (7, "Delete"),
        kind if kind.starts_with("create_") => (6, "Create"),
        kind if kind.starts_with("alter_") => (2, "Update"),
        "" => (0, "Unknown"),
        _ if classes.contains(&"write") => (5, "Write"),
        _ if classes.contains(&"read") => (1, "Read"),
        _ => (99, "Other"),
    }
}

/// Who stands behind it.
fn actor(subject: &Subject) -> Value {
    let base_name = |path: &str| or_unknown(path.rsplit('/').next().unwrap_or_default()).to_owned();
    let mut file =
        json!({"name": base_name(&subject.exe), "path": subject.exe, "type_id": 1, "type": "Regular File"});
    if !subject.exe_sha256.is_empty() {
        put(
            &mut file,
            "hashes",
            json!([{
                "algorithm_id": 3, "algorithm": "SHA-256", "value": subject.exe_sha256,
            }]),
        );
    }
    let user = json!({"name": or_unknown(&subject.user), "uid": subject.uid.to_string()});
    let mut process =
        json!({"pid": subject.pid, "name": base_name(&subject.exe), "file": file, "user": user});
    let line = subject.argv.join(" ");
    if !line.is_empty() {
        put(&mut process, "cmd_line", line.into());
    }
    if let Some(parent) = subject.ancestors.first() {
        put(
            &mut process,
            "parent_process",
            json!({
                "pid": parent.pid, "name": base_name(&parent.exe), "cmd_line": parent.argv.join(" "),
                "file": {"name": base_name(&parent.exe), "path": parent.exe, "type_id": 1, "type": "Regular File"},
            }),
        );
    }
    // Who is proven to stand behind it before what the process runs as.
    let identity = subject.person.as_ref().or(subject.workload.as_ref());
    let proven = identity.map(|identity| {
        let groups: Vec<_> = identity.groups.iter().map(|group| json!({"name": group})).collect();
        json!({"name": or_unknown(&identity.name), "uid": identity.subject, "groups": groups})
    });
    let mut actor = json!({"process": process, "user": proven.unwrap_or(user)});
    if let Some(identity) = identity {
        put(&mut actor, "idp", json!({"name": identity.issuer_name, "uid": identity.issuer}));
    }
    if !subject.unit.is_empty() {
        put(&mut actor, "invoked_by", subject.unit.as_str().into());
    }
    actor
}

fn source(host: &Host, client: &str) -> Value {
    let mut made = endpoint(client, &[]);
    put(&mut made, "hostname", or_unknown(&host.name).into());
    made
}

/// `address:port`, as OCSF has it.
fn endpoint(address: &str, hosts: &[String]) -> Value {
    let mut made = json!({});
    if let Some((ip, port)) = address.rsplit_once(':') {
        let ip = ip.trim_matches(['[', ']']);
        if ip.parse::<std::net::IpAddr>().is_ok() {
            put(&mut made, "ip", ip.into());
        }
        if let Ok(port) = port.parse::<u16>() {
            put(&mut made, "port", port.into());
        }
    }
    if let Some(host) = hosts.first() {
        put(&mut made, "hostname", host.as_str().into());
    } else if made.get("ip").is_none() {
        put(&mut made, "name", or_unknown(address).into());
    }
    made
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What OCSF 1.8.0 requires of an event, of its class, and of the objects in it; and the numbers that it knows.
    fn check(event: &Value) {
        let is = |value: &Value, names: &[&str], what: &str| {
            for name in names {
                assert!(
                    value.get(name).is_some_and(|value| !value.is_null()),
                    "{what} has no {name}: {event}"
                );
            }
        };
        is(
            event,
            &["activity_id", "category_uid", "class_uid", "metadata", "severity_id", "time", "type_uid"],
            "it",
        );
        is(&event["metadata"], &["product", "version"], "metadata");
        is(&event["metadata"]["product"], &["name", "vendor_name"], "product");
        is(&event["device"], &["type_id", "hostname"], "device");
        let number = |name: &str| event[name].as_u64().unwrap();
        assert_eq!(number("type_uid"), number("class_uid") * 100 + number("activity_id"));
        assert!(number("time") > 1_600_000_000_000 && number("time") < 10_000_000_000_000, "milliseconds");
        assert!(number("severity_id") <= 6);
        let (category, activities): (u64, &[u64]) = match number("class_uid") {
            0 => (0, &[0, 99]),
            3002 => (3, &[0, 1, 2, 3, 4, 5, 6, 7, 99]),
            4001 => (4, &[0, 1, 2, 3, 4, 5, 6, 7, 99]),
            6002 => (6, &[0, 1, 2, 3, 4, 5, 6, 7, 8, 99]),
            6005 => (6, &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 99]),
            other => panic!("a class that is not known: {other}"),
        };
        assert_eq!(number("category_uid"), category);
        assert!(activities.contains(&number("activity_id")), "{event}");
        match number("class_uid") {
            3002 => is(event, &["user", "service", "dst_endpoint"], "an authentication"),
            4001 => is(event, &["src_endpoint", "dst_endpoint"], "network activity"),
            6002 => is(event, &["app"], "a lifecycle"),
            6005 => {
                is(event, &["actor", "src_endpoint", "database", "query_info"], "datastore activity");
                is(&event["query_info"], &["query_string"], "query_info");
                is(&event["database"], &["type_id", "name"], "database");
                assert!(event["type_id"].as_u64().is_some_and(|id| [0, 1, 2, 3, 99].contains(&id)));
            }
            _ => {}
        }
        for endpoint in [&event["src_endpoint"], &event["dst_endpoint"]] {
            let one = ["ip", "uid", "name", "hostname", "svc_name"];
            assert!(endpoint.is_null() || one.iter().any(|name| endpoint.get(name).is_some()), "{event}");
        }
        if let Some(process) = event.pointer("/actor/process") {
            is(process, &["pid"], "a process");
            is(&process["file"], &["name", "type_id"], "a file");
        }
        if let Some(action) = event.get("action_id") {
            assert!([0, 1, 2, 99].contains(&action.as_u64().unwrap()));
        }
        if let Some(disposition) = event.get("disposition_id") {
            assert!(disposition.as_u64().unwrap() <= 27);
        }
    }

    fn event(index: u64, session: u8, body: Body) -> Event {
        Event {
            index,
            wall_ns: 1_700_000_000_000_000_000 + index * 1_000_000_000,
            session: if session == 0 { Vec::new() } else { vec![session; 16] },
            sequence: index,
            body: Some(body),
            ..Event::default()
        }
    }

    fn command(number: u64, kind: &str, verdict: &str) -> Body {
        Body::Command(proto::Command {
            command: number,
            text: format!("{kind} …"),
            statements: vec![proto::Statement { kind: kind.into(), ..Default::default() }],
            verdict: verdict.into(),
            rule: (verdict != "allow").then(|| "no-such".into()),
            ..Default::default()
        })
    }

    #[test]
    fn every_event_is_one_of_ocsf() {
        let subject =
            Subject { user: "alice".into(), exe: "/usr/bin/psql".into(), pid: 7, ..Default::default() };
        let bodies = vec![
            (0, Body::AgentStarted(proto::AgentStarted { version: "0.1".into(), ..Default::default() })),
            (0, Body::PolicyLoaded(proto::PolicyLoaded::default())),
            (0, Body::Lost(proto::Lost::default())),
            (0, Body::Egress(proto::EgressConnection { verdict: "deny".into(), ..Default::default() })),
            (
                1,
                Body::FlowStarted(proto::FlowStarted {
                    subject: Some(subject),
                    client: "10.0.0.5:51234".into(),
                    destination: "[fd00::7]:5432".into(),
                    hosts: vec!["db.internal".into()],
                    protocol: "postgres".into(),
                    ..Default::default()
                }),
            ),
            (
                1,
                Body::Login(proto::Login {
                    user: "app".into(),
                    database: "shop".into(),
                    ..Default::default()
                }),
            ),
            (1, command(1, "select", "allow")),
            (1, command(2, "drop_table", "deny")),
            (
                1,
                Body::Result(proto::CommandResult {
                    command: 1,
                    status: "complete".into(),
                    duration_ns: 5_000_000,
                    rows: Some(proto::Rows { count: 3, bytes: 99, ..Default::default() }),
                    ..Default::default()
                }),
            ),
            (1, Body::Result(proto::CommandResult { command: 9, ..Default::default() })),
            (1, Body::Notice(proto::Notice::default())),
            (1, Body::TerminalOutput(proto::TerminalOutput::default())),
            (1, command(3, "no_such_kind", "hold")),
            (1, Body::SessionEnded(proto::SessionEnded::default())),
            // Of a session whose beginning is not there.
            (2, command(1, "", "allow")),
            (2, Body::SessionEnded(proto::SessionEnded::default())),
            (0, Body::AgentStopped(proto::AgentStopped {})),
        ];
        let host = Host { id: "ab".repeat(32), name: "bastion".into() };
        let mut ocsf = Ocsf::new();
        let mut made = Vec::new();
        for (index, (session, body)) in (0..).zip(bodies) {
            made.extend(ocsf.event(&host, &event(index, session, body)));
        }
        made.extend(ocsf.flush(&host));
        made.push(notice(&host, "segments_deleted", 1_700_000_000_000_000_000, "gone", json!({})));
        made.iter().for_each(check);
        let commands: Vec<&Value> = made.iter().filter(|event| event["class_uid"] == 6005).collect();
        assert_eq!(commands.len(), 4);
        let select = commands[0];
        assert_eq!((&select["activity_name"], &select["status"]), (&json!("Query"), &json!("Success")));
        assert_eq!(select["duration"], 5);
        assert_eq!(select["actor"]["user"]["name"], "alice");
        assert_eq!(select["dst_endpoint"], json!({"ip": "fd00::7", "port": 5432, "hostname": "db.internal"}));
        assert_eq!(select["database"]["name"], "shop");
        assert_eq!(select["unmapped"]["rows"], 3);
        let drop = commands[1];
        assert_eq!((&drop["activity_name"], &drop["disposition"]), (&json!("Delete"), &json!("Blocked")));
        assert_eq!(drop["policy"], json!({"name": "no-such", "is_applied": true}));
        assert_eq!(drop["status"], "Unknown");
    }

    #[test]
    fn commands_that_never_end_do_not_fill_memory() {
        let (host, mut ocsf) = (Host::default(), Ocsf::new());
        let mut made = 0;
        for number in 0..3000 {
            made += ocsf.event(&host, &event(number, 1, command(number + 1, "select", "allow"))).len();
        }
        assert!(ocsf.pending.len() <= PENDING);
        assert_eq!(made + ocsf.flush(&host).len(), 3000);
    }
}
