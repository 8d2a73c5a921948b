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

    #[expect(clippy::too_many_arguments, reason = "each is one field")]
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
    let mut actor = json!({"process": process, "user": user});
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
