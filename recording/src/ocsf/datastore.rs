//! Commands, as Datastore Activity (6005).

use serde_json::{Map, Value, json};

use super::objects::{actor, base, endpoint, milliseconds, put, source};
use super::{Host, Known, Ocsf, class};
use crate::proto::event::Body;
use crate::proto::{self, Event};

impl Ocsf {
    /// A command with its end, if that is known.
    pub(super) fn command(
        &self,
        host: &Host,
        event: &Event,
        end: Option<(&Event, &proto::CommandResult)>,
    ) -> Value {
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
