//! Events as JSON, in the words of policies and of `interlock policy explain`.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use crate::keys::hex;
use crate::proto::event::Body;
use crate::proto::{self, Column, Event, Rows, Statement, Subject, VerifiedIdentity};

type Object = Map<String, Value>;

/// A time (nanoseconds since the Unix epoch) as RFC 3339, in UTC.
pub fn time(wall_ns: u64) -> String {
    jiff::Timestamp::from_nanosecond(i128::from(wall_ns))
        .map_or_else(|_| wall_ns.to_string(), |time| format!("{time:.9}"))
}

/// An event's name, as it stands in `event` of its JSON.
pub fn name(event: &Event) -> &'static str {
    match &event.body {
        Some(Body::AgentStarted(_)) => "agent_started",
        Some(Body::AgentStopped(_)) => "agent_stopped",
        Some(Body::Recovered(_)) => "recovered",
        Some(Body::PolicyLoaded(_)) => "policy_loaded",
        Some(Body::PolicyRejected(_)) => "policy_rejected",
        Some(Body::Egress(_)) => "egress",
        Some(Body::Lost(_)) => "lost",
        Some(Body::PersonSignedIn(_)) => "person_signed_in",
        Some(Body::PersonSignedOut(_)) => "person_signed_out",
        Some(Body::PersonExpired(_)) => "person_expired",
        Some(Body::PersonGroupsChanged(_)) => "person_groups_changed",
        Some(Body::PersonRefused(_)) => "person_refused",
        Some(Body::FlowStarted(_)) => "flow_started",
        Some(Body::Login(_)) => "login",
        Some(Body::TlsPassed(_)) => "tls_passed",
        Some(Body::Command(_)) => "command",
        Some(Body::Result(_)) => "result",
        Some(Body::CopyData(_)) => "copy_data",
        Some(Body::TerminalSize(_)) => "terminal_size",
        Some(Body::TerminalOutput(_)) => "terminal_output",
        Some(Body::TerminalInput(_)) => "terminal_input",
        Some(Body::Notice(_)) => "notice",
        Some(Body::CommandsWithdrawn(_)) => "commands_withdrawn",
        Some(Body::SessionEnded(_)) => "session_ended",
        Some(Body::ApprovalRequested(_)) => "approval_requested",
        Some(Body::ApprovalVoted(_)) => "approval_voted",
        Some(Body::ApprovalDecided(_)) => "approval_decided",
        Some(Body::ApprovalAsked(_)) => "approval_asked",
        Some(Body::PolicyExplained(_)) => "policy_explained",
        Some(Body::IdentityChanged(_)) => "identity_changed",
        Some(Body::TokenRefused(_)) => "token_refused",
        None => "unknown",
    }
}

/// One object for one event.
pub fn event(event: &Event) -> Value {
    let mut object = Object::new();
    let mut put = |key: &str, value: Value| drop(object.insert(key.into(), value));
    put("index", event.index.into());
    put("time", time(event.wall_ns).into());
    put("monotonic_ns", event.monotonic_ns.into());
    if !event.session.is_empty() {
        put("session", hex(&event.session).into());
        put("sequence", event.sequence.into());
    }
    put("event", name(event).into());
    if let Some(body) = &event.body
        && let Value::Object(fields) = self::body(body)
    {
        object.extend(fields);
    }
    Value::Object(object)
}

fn body(body: &Body) -> Value {
    match body {
        Body::AgentStarted(body) => json!({
            "version": body.version, "pid": body.pid, "host_name": body.host_name, "kernel": body.kernel,
        }),
        Body::AgentStopped(_) => json!({}),
        Body::Recovered(body) => json!({"segment": body.segment, "cut_bytes": body.cut_bytes}),
        Body::PolicyLoaded(body) => {
            let mut loaded = json!({"hash": body.hash, "files": body.files});
            if body.issue > 0 {
                let sets = body.central.iter().map(|set| {
                    json!({
                        "set": set.set, "version": set.version, "content": set.content, "author": set.author,
                        "mode": if set.observe { "observe" } else { "enforce" },
                    })
                });
                loaded["issue"] = body.issue.into();
                loaded["central"] = sets.collect();
            }
            loaded
        }
        Body::PolicyRejected(body) => json!({"reason": body.reason}),
        Body::Egress(body) => json!({
            "subject": body.subject.as_ref().map(subject),
            "destination": body.destination,
            "ip_protocol": body.ip_protocol,
            "verdict": body.verdict,
            "entry": hex(&body.entry),
            "count": body.count,
        }),
        Body::Lost(body) => json!({"events": body.events, "reason": body.reason}),
        Body::IdentityChanged(body) => json!({
            "person": body.person.as_ref().map(verified),
            "workload": body.workload.as_ref().map(verified),
            "missing": body.missing,
        }),
        Body::TokenRefused(body) => json!({
            "subject": body.subject.as_ref().map(subject),
            "issuer_name": body.issuer_name,
            "token_hash": body.token_hash,
            "reason": body.reason,
            "owner_pid": body.owner_pid,
            "owner_uid": body.owner_uid,
            "other_host": body.other_host,
            "other_host_name": body.other_host_name,
        }),
        Body::PersonSignedIn(body)
        | Body::PersonSignedOut(body)
        | Body::PersonExpired(body)
        | Body::PersonGroupsChanged(body)
        | Body::PersonRefused(body) => person(body),
        Body::FlowStarted(body) => json!({
            "subject": body.subject.as_ref().map(subject),
            "client": body.client,
            "destination": body.destination,
            "hosts": body.hosts,
            "protocol": body.protocol,
            "policy_hash": body.policy_hash,
            "entries": body.entries.iter().map(|entry| hex(entry)).collect::<Vec<_>>(),
        }),
        Body::Login(body) => json!({
            "user": body.user,
            "db_user": body.user,
            "database": body.database,
            "parameters": body.parameters.iter()
                .map(|parameter| (parameter.name.clone(), parameter.value.clone().into()))
                .collect::<Object>(),
            "auth_method": body.auth_method,
            "server_version": body.server_version,
            "client_tls": body.client_tls.as_ref().map(tls),
            "server_tls": body.server_tls.as_ref().map(tls),
            "credential": body.credential,
            "client_auth": body.client_auth,
            "login_user": body.login_user,
            "login_database": body.login_database,
        }),
        Body::TlsPassed(body) => json!({
            "side": body.side,
            "version": body.version,
            "server_name": body.server_name,
            "alpn": body.alpn,
            "certificate": body.certificate.as_ref().map(certificate),
            "note": body.note,
        }),
        Body::Command(body) => command(body),
        Body::Result(body) => json!({
            "command": body.command,
            "status": body.status,
            "tag": body.tag,
            "sqlstate": body.sqlstate,
            "message": body.message,
            "duration_ns": body.duration_ns,
            "rows": body.rows.as_ref().map(rows),
        }),
        Body::CopyData(body) => json!({
            "command": body.command,
            "to_client": body.to_client,
            "messages": body.messages,
            "bytes": body.bytes,
            "lines": body.lines.as_ref().map(rows),
        }),
        Body::TerminalSize(body) => json!({
            "command": body.command, "columns": body.columns, "rows": body.rows, "term": body.term,
        }),
        Body::TerminalOutput(body) => terminal(body.command, &body.data, body.omitted_bytes),
        Body::TerminalInput(body) => terminal(body.command, &body.data, body.omitted_bytes),
        Body::Notice(body) => json!({
            "severity": body.severity, "sqlstate": body.sqlstate, "message": body.message,
        }),
        Body::CommandsWithdrawn(body) => json!({
            "first": body.first, "last": body.last, "reason": body.reason,
        }),
        Body::ApprovalRequested(body) => requested(body),
        Body::ApprovalVoted(body) => json!({
            "request": body.request,
            "by": body.by.as_ref().map(approver),
            "reason": body.reason,
            "scope": body.scope,
        }),
        Body::ApprovalDecided(body) => json!({
            "request": body.request,
            "outcome": body.outcome,
            "by": body.by.as_ref().map(approver),
            "reason": body.reason,
            "scope": body.scope,
            "lasts_ns": body.lasts_ns,
            "needs_review": body.needs_review,
            "waited_ns": body.waited_ns,
        }),
        Body::ApprovalAsked(body) => {
            let mut object = body.request.as_ref().map_or_else(|| json!({}), requested);
            if let Value::Object(object) = &mut object {
                let more = json!({
                    "subject": body.subject.as_ref().map(subject),
                    "server": body.server,
                    "hosts": body.hosts,
                    "database": body.database,
                    "db_user": body.db_user,
                    "reason": body.reason,
                    "usable_ns": body.usable_ns,
                    "tree_pid": body.tree_pid,
                    "tree_start_ns": body.tree_start_ns,
                    "program_claimed": body.program_claimed,
                });
                if let Value::Object(more) = more {
                    object.extend(more);
                }
            }
            object
        }
        Body::PolicyExplained(body) => json!({
            "subject": body.subject.as_ref().map(subject),
            "server": body.server,
            "hosts": body.hosts,
            "database": body.database,
            "db_user": body.db_user,
            "text": body.text,
            "omitted_bytes": body.omitted_bytes,
            "program_claimed": body.program_claimed,
            "verdict": body.verdict,
            "rule": body.rule,
        }),
        Body::SessionEnded(body) => json!({
            "reason": body.reason,
            "detail": body.detail,
            "client_bytes": body.client_bytes,
            "server_bytes": body.server_bytes,
            "commands": body.commands,
            "refused": body.refused,
        }),
    }
}

fn requested(body: &proto::ApprovalRequested) -> Value {
    json!({
        "request": body.request,
        "step": body.step,
        "text": body.text,
        "params": body.params.iter().map(|param| param.value.as_deref()).collect::<Vec<_>>(),
        "omitted_params": body.omitted_params,
        "runs": body.runs,
        "redacted": body.redacted,
        "command": body.command,
        "digest": hex(&body.digest),
        "quorums": body.quorums.iter().map(|quorum| json!({
            "rule": quorum.rule, "groups": quorum.groups, "needed": quorum.needed, "all_of": quorum.all_of,
            "via": quorum.via,
        })).collect::<Vec<_>>(),
        "within_ns": body.within_ns,
        "fresh_ns": body.fresh_ns,
        "approver_verified": body.approver_verified,
        "estimate": body.estimate.as_ref().map(|estimate| json!({
            "rows": estimate.known.then_some(estimate.rows), "why_not": estimate.why_not,
        })),
    })
}

fn approver(body: &proto::Approver) -> Value {
    if let Some(account) = &body.account {
        return json!({
            "account": body.user,
            "issuer": account.issuer,
            "subject": account.subject,
            "email": account.email,
            "logins": account.logins,
            "authenticated": account.authenticated_ns.map(time),
            "vote": account.vote,
            "groups": body.groups,
            "via": body.via,
        });
    }
    json!({
        "user": body.user,
        "uid": body.uid,
        "login_uid": body.login_uid,
        "login_user": body.login_user,
        "login_session": body.login_session,
        "groups": body.groups,
        "via": body.via,
        "person": (!body.person_subject.is_empty()).then(|| json!({
            "issuer_name": body.person_issuer_name,
            "issuer": body.person_issuer,
            "subject": body.person_subject,
            "name": body.person_name,
            "names": body.person_names,
        })),
        "login_claimed": body.login_claimed,
    })
}

/// Bytes of a terminal: as text, and where they are no text in hexadecimal digits as well.
fn terminal(command: u64, data: &[u8], omitted_bytes: u64) -> Value {
    let mut object = json!({"command": command, "data": String::from_utf8_lossy(data)});
    let mut put = |key: &str, value: Value| drop(object.as_object_mut().map(|o| o.insert(key.into(), value)));
    if std::str::from_utf8(data).is_err() {
        put("hex", hex(data).into());
    }
    if omitted_bytes != 0 {
        put("omitted_bytes", omitted_bytes.into());
    }
    object
}

fn tls(body: &proto::Tls) -> Value {
    json!({
        "version": body.version,
        "cipher": body.cipher,
        "server_name": body.server_name,
        "alpn": body.alpn,
        "certificate": body.certificate.as_ref().map(certificate),
        "verified": body.verified,
        "names": body.names,
        "resumed": body.resumed,
    })
}

fn certificate(body: &proto::Certificate) -> Value {
    json!({
        "subject": body.subject,
        "issuer": body.issuer,
        "sha256": hex(&body.sha256),
        "key_sha256": hex(&body.key_sha256),
        "not_after": body.not_after,
    })
}

fn command(body: &proto::Command) -> Value {
    let mut object = Object::new();
    let mut put = |key: &str, value: Value| drop(object.insert(key.into(), value));
    put("command", body.command.into());
    put("step", body.step.as_str().into());
    put("text", body.text.as_str().into());
    if !body.statement_name.is_empty() {
        put("statement_name", body.statement_name.as_str().into());
    }
    if !body.portal.is_empty() {
        put("portal", body.portal.as_str().into());
    }
    if body.of != 0 {
        put("of", body.of.into());
    }
    put("params", body.params.iter().map(|param| param.value.as_deref()).collect());
    let omitted: u64 = body.params.iter().map(|param| param.omitted_bytes).sum();
    if omitted != 0 {
        put("params_omitted_bytes", omitted.into());
    }
    // One statement's words stand with the command itself.
    match body.statements.as_slice() {
        [] => {}
        [single] => {
            if let Value::Object(fields) = statement(single) {
                fields.into_iter().filter(|(key, _)| key != "text").for_each(|(key, value)| put(&key, value));
            }
        }
        several => {
            // What stands anywhere in it, as in explanations.
            let mut all = |key: &str, of: fn(&Statement) -> &Vec<String>| {
                let words: BTreeSet<&str> = several.iter().flat_map(of).map(String::as_str).collect();
                put(key, words.into_iter().collect());
            };
            all("kinds", |statement| &statement.kinds);
            all("classes", |statement| &statement.classes);
            all("reads", |statement| &statement.reads);
            all("writes", |statement| &statement.writes);
            all("functions", |statement| &statement.functions);
            put("statements", several.iter().map(statement).collect());
        }
    }
    put("verdict", body.verdict.as_str().into());
    put("enforced", body.enforced.into());
    put("rule", body.rule.as_deref().into());
    put("message", body.message.as_deref().into());
    put("matched", body.matched.clone().into());
    let observed = |rule: &proto::Observed| json!({"rule": rule.rule, "verdict": rule.verdict});
    put("observed", body.observed.iter().map(observed).collect());
    if let Some(approval) = &body.approval {
        put(
            "approval",
            json!({
                "request": approval.request,
                "outcome": approval.outcome,
                "by": approval.by,
                "scope": approval.scope,
                "earlier": approval.earlier,
                "beforehand": approval.beforehand,
            }),
        );
    }
    Value::Object(object)
}

fn statement(statement: &Statement) -> Value {
    let word = |word: &str| if word.is_empty() { Value::Null } else { word.into() };
    let mut object = json!({
        "text": word(&statement.text),
        "kind": statement.kind,
        "kinds": statement.kinds,
        "classes": statement.classes,
        "reads": statement.reads,
        "writes": statement.writes,
        "columns_read": statement.columns_read,
        "columns_written": statement.columns_written,
        "functions": statement.functions,
        "where": word(&statement.r#where),
        "limit": word(&statement.limit),
        "dynamic": statement.dynamic,
        "changes_lexing": statement.changes_lexing,
    });
    // These stand only where there is something to say, in explanations too.
    let mut put = |key: &str, value: Value| drop(object.as_object_mut().map(|o| o.insert(key.into(), value)));
    if statement.columns_omitted != 0 {
        put("columns_omitted", statement.columns_omitted.into());
    }
    let names = [
        ("settings", &statement.settings),
        ("executes", &statement.executes),
        ("prepares", &statement.prepares),
    ];
    for (key, names) in names.into_iter().filter(|(_, names)| !names.is_empty()) {
        put(key, names.clone().into());
    }
    for (key, clause) in [("where_read", &statement.where_read), ("where_write", &statement.where_write)] {
        if !clause.is_empty() {
            put(key, clause.as_str().into());
        }
    }
    if !statement.limit_rows.is_empty() {
        let bound = |rows: &String| rows.parse::<u64>().map_or_else(|_| rows.as_str().into(), Value::from);
        put("limit_rows", statement.limit_rows.iter().map(bound).collect());
    }
    if let Some(error) = &statement.error {
        put("error", error.as_str().into());
    }
    object
}

fn person(person: &proto::PersonChange) -> Value {
    let at = |ns: u64| if ns == 0 { Value::Null } else { time(ns).into() };
    json!({
        "issuer_name": person.issuer_name,
        "issuer": person.issuer,
        "subject": person.subject,
        "name": person.name,
        "groups": person.groups,
        "groups_before": person.groups_before,
        "authenticated": at(person.authenticated_ns),
        "until": at(person.until_ns),
        "login_session": person.login_session,
        "login_uid": person.login_uid,
        "tree_pid": person.tree_pid,
        "way": person.way,
        "reason": person.reason,
        "detail": person.detail,
        "process": person.process.as_ref().map(subject),
    })
}

/// A subject's object.
pub fn subject(subject: &Subject) -> Value {
    let ci = subject.ci.as_ref().map(|ci| {
        json!({
            "system": ci.system, "project": ci.project, "pipeline": ci.pipeline, "job": ci.job, "run": ci.run,
            "branch": ci.branch, "commit": ci.commit, "actor": ci.actor, "url": ci.url,
            "variables": ci.variables,
        })
    });
    let ancestors: Vec<_> = subject
        .ancestors
        .iter()
        .map(|parent| json!({"pid": parent.pid, "uid": parent.uid, "exe": parent.exe, "argv": parent.argv}))
        .collect();
    let mut object = json!({
        "pid": subject.pid,
        "start_time_ns": subject.start_time_ns,
        "uid": subject.uid,
        "user": subject.user,
        "gid": subject.gid,
        "group": subject.group,
        "login_uid": subject.login_uid,
        "login_user": subject.login_user,
        "login_session": subject.login_session,
        "exe": subject.exe,
        "script": subject.script,
        "exe_sha256": subject.exe_sha256,
        "argv": subject.argv,
        "cwd": subject.cwd,
        "cgroup": subject.cgroup,
        "unit": subject.unit,
        "container": subject.container,
        "ancestors": ancestors,
        "ci": ci,
        "missing": subject.missing,
    });
    for (key, identity) in [("person", &subject.person), ("workload", &subject.workload)] {
        if let Some(identity) = identity {
            object[key] = verified(identity);
        }
    }
    if let Some(claimed) = &subject.login_claimed {
        object["login_claimed"] =
            json!({"uid": claimed.uid, "user": claimed.user, "session": claimed.session});
    }
    object
}

fn verified(identity: &VerifiedIdentity) -> Value {
    let seconds = |at: u64| (at > 0).then(|| time(at.saturating_mul(1_000_000_000)));
    json!({
        "kind": identity.kind,
        "issuer_name": identity.issuer_name,
        "issuer": identity.issuer,
        "subject": identity.subject,
        "name": identity.name,
        "groups": identity.groups,
        "project": identity.project,
        "branch": identity.branch,
        "environment": identity.environment,
        "actor": identity.actor,
        "claims": identity.claims,
        "expires": seconds(identity.expires),
        "authenticated": seconds(identity.authenticated),
        "token_hash": identity.token_hash,
    })
}

fn rows(rows: &Rows) -> Value {
    let columns: Vec<_> = rows
        .columns
        .iter()
        .map(|column| {
            let format = if column.binary { "binary" } else { "text" };
            json!({"name": column.name, "type_oid": column.type_oid, "format": format})
        })
        .collect();
    let masks: Object = rows.masks.iter().map(|mask| (mask.mask.clone(), mask.count.into())).collect();
    json!({
        "count": rows.count, "bytes": rows.bytes, "columns": columns, "rows": texts(rows), "masks": masks,
    })
}

/// The recorded rows with each value as text.
pub fn texts(rows: &Rows) -> Vec<Vec<Option<String>>> {
    let line = |row: &proto::Row| {
        let value = |(at, value): (usize, &proto::Value)| {
            value.data.as_deref().map(|data| value_text(data, rows.columns.get(at)))
        };
        row.values.iter().enumerate().map(value).collect()
    };
    rows.rows.iter().map(line).collect()
}

/// A value as text: binary ones of the common PostgreSQL types by their meaning, others as `\x` and
/// hexadecimal digits.
fn value_text(data: &[u8], column: Option<&Column>) -> String {
    let binary = column.is_some_and(|column| column.binary);
    let known = match column.map_or(0, |column| column.type_oid) {
        _ if !binary => None,
        16 => <[u8; 1]>::try_from(data).ok().map(|[value]| if value == 0 { "f" } else { "t" }.to_owned()),
        20 => data.try_into().ok().map(|value| i64::from_be_bytes(value).to_string()),
        21 => data.try_into().ok().map(|value| i16::from_be_bytes(value).to_string()),
        23 => data.try_into().ok().map(|value| i32::from_be_bytes(value).to_string()),
        26 => data.try_into().ok().map(|value| u32::from_be_bytes(value).to_string()),
        700 => data.try_into().ok().map(|value| f32::from_be_bytes(value).to_string()),
        701 => data.try_into().ok().map(|value| f64::from_be_bytes(value).to_string()),
        2950 if data.len() == 16 => {
            let digits = hex(data);
            let part = |from, to| digits.get(from..to).unwrap_or_default();
            Some(format!("{}-{}-{}-{}-{}", part(0, 8), part(8, 12), part(12, 16), part(16, 20), part(20, 32)))
        }
        3802 => data.split_first().and_then(|(_, json)| utf8(json)),
        // char, name, text, json, xml, bpchar, varchar, unknown: the same in both formats.
        18 | 19 | 25 | 114 | 142 | 1042 | 1043 | 705 => utf8(data),
        _ => None,
    };
    let text = || if binary { None } else { utf8(data) };
    known.or_else(text).unwrap_or_else(|| format!("\\x{}", hex(data)))
}

fn utf8(data: &[u8]) -> Option<String> {
    std::str::from_utf8(data).ok().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_statement_stands_with_its_command_and_several_below_it() {
        let select = Statement { kind: "select".into(), r#where: "missing".into(), ..Statement::default() };
        let mut command = proto::Command {
            text: "SELECT 1".into(),
            statements: vec![select.clone()],
            ..Default::default()
        };
        let single = super::command(&command);
        assert_eq!(single["kind"], "select");
        assert_eq!(single["where"], "missing");
        assert_eq!(single["limit"], Value::Null);
        assert_eq!(single["text"], "SELECT 1");
        command.statements.push(select);
        let several = super::command(&command);
        assert_eq!(several["statements"].as_array().map(Vec::len), Some(2));
        assert_eq!(several.get("kind"), None);
    }

    #[test]
    fn values_are_text_whatever_their_format() {
        let column = |type_oid, binary| Column { name: String::new(), type_oid, binary };
        assert_eq!(value_text(b"7", Some(&column(23, false))), "7");
        assert_eq!(value_text(&[0xff, 0xff, 0xff, 0xfe], Some(&column(23, true))), "-2");
        assert_eq!(value_text(&[1], Some(&column(16, true))), "t");
        assert_eq!(value_text(b"\x01{}", Some(&column(3802, true))), "{}");
        assert_eq!(value_text(&[0; 16], Some(&column(2950, true))), "00000000-0000-0000-0000-000000000000");
        // Not what the type says it must be, or no type that is known.
        assert_eq!(value_text(&[1, 2], Some(&column(23, true))), "\\x0102");
        assert_eq!(value_text(&[0xff], Some(&column(25, false))), "\\xff");
        assert_eq!(value_text(b"abc", Some(&column(1700, true))), "\\x616263");
        assert_eq!(value_text(b"", None), "");
    }

    #[test]
    fn times_are_rfc_3339_in_utc() {
        assert_eq!(time(1_700_000_000_000_000_001), "2023-11-14T22:13:20.000000001Z");
    }
}
