//! Objects that several classes of OCSF's have.

use serde_json::{Value, json};

use super::{Host, VERSION, class};
use crate::json::name;
use crate::keys::hex;
use crate::proto::{Event, Subject};

pub(super) fn put(object: &mut Value, key: &str, value: Value) {
    if let Some(object) = object.as_object_mut() {
        object.insert(key.to_owned(), value);
    }
}

pub(super) fn milliseconds(ns: u64) -> Value {
    (ns / 1_000_000).into()
}

pub(super) fn or_unknown(text: &str) -> &str {
    if text.is_empty() { "unknown" } else { text }
}

/// What stands in every event.
pub(super) fn base(host: &Host, event: &Event, class: u32, activity: u32, what: &str) -> Value {
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

/// Who stands behind it.
pub(super) fn actor(subject: &Subject) -> Value {
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

pub(super) fn source(host: &Host, client: &str) -> Value {
    let mut made = endpoint(client, &[]);
    put(&mut made, "hostname", or_unknown(&host.name).into());
    made
}

/// `address:port`, as OCSF has it.
pub(super) fn endpoint(address: &str, hosts: &[String]) -> Value {
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
