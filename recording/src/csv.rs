//! Events as CSV (RFC 4180), safe to open in a spreadsheet.

use std::collections::HashMap;
use std::io::{self, Write};

use crate::SessionId;
use crate::json;
use crate::proto::Event;
use crate::proto::event::Body;
use crate::query::Summary;

const HEADER: [&str; 29] = [
    "index",
    "time",
    "session",
    "sequence",
    "event",
    "user",
    "exe",
    "destination",
    "db_user",
    "database",
    "command",
    "step",
    "text",
    "params",
    "kind",
    "classes",
    "reads",
    "writes",
    "functions",
    "verdict",
    "enforced",
    "rule",
    "message",
    "status",
    "tag",
    "sqlstate",
    "duration_ns",
    "rows",
    "detail",
];

/// Writes the line with the columns' names.
///
/// # Errors
/// `output` cannot be written.
pub fn header(output: &mut impl Write) -> io::Result<()> {
    record(output, HEADER.map(|name| Some(name.into())).into())
}

/// Writes an event as one line. Who and where from stands on every line of a session, as far as
/// `sessions` knows it.
///
/// # Errors
/// `output` cannot be written.
pub fn event(
    output: &mut impl Write,
    event: &Event,
    sessions: &HashMap<SessionId, Summary>,
) -> io::Result<()> {
    let session = SessionId::from_slice(&event.session);
    let summary = session.and_then(|session| sessions.get(&session));
    let mut fields: HashMap<&str, String> = HashMap::new();
    let mut put = |name: &'static str, value: &dyn ToString| {
        fields.insert(name, value.to_string());
    };
    put("index", &event.index);
    put("time", &json::time(event.wall_ns));
    put("event", &json::name(event));
    if let Some(session) = session {
        put("session", &session);
        put("sequence", &event.sequence);
    }
    if let Some(summary) = summary {
        put("user", &summary.user);
        put("exe", &summary.exe);
        put("destination", &summary.destination);
        put("db_user", &summary.db_user);
        put("database", &summary.database);
    }
    match &event.body {
        Some(Body::Command(body)) => {
            put("command", &body.command);
            put("step", &body.step);
            put("text", &body.text);
            if !body.params.is_empty() {
                let params: Vec<_> = body.params.iter().map(|param| param.value.as_deref()).collect();
                put("params", &serde_json::json!(params));
            }
            let mut join = |name, of: &dyn Fn(&crate::proto::Statement) -> Vec<String>| {
                let mut words: Vec<_> = body.statements.iter().flat_map(of).collect();
                words.dedup();
                put(name, &words.join(" "));
            };
            join("kind", &|statement| vec![statement.kind.clone()]);
            join("classes", &|statement| statement.classes.clone());
            join("reads", &|statement| statement.reads.clone());
            join("writes", &|statement| statement.writes.clone());
            join("functions", &|statement| statement.functions.clone());
            put("verdict", &body.verdict);
            put("enforced", &body.enforced);
            put("rule", &body.rule.as_deref().unwrap_or_default());
            put("message", &body.message.as_deref().unwrap_or_default());
        }
        Some(Body::Result(body)) => {
            put("command", &body.command);
            put("status", &body.status);
            put("tag", &body.tag);
            put("sqlstate", &body.sqlstate);
            put("message", &body.message);
            put("duration_ns", &body.duration_ns);
            if let Some(rows) = &body.rows {
                put("rows", &rows.count);
            }
        }
        Some(Body::CopyData(body)) => {
            put("command", &body.command);
            put("detail", &format!("{} bytes", body.bytes));
        }
        Some(Body::Notice(body)) => {
            put("sqlstate", &body.sqlstate);
            put("message", &body.message);
            put("detail", &body.severity);
        }
        Some(Body::SessionEnded(body)) => {
            put("status", &body.reason);
            put("detail", &body.detail);
        }
        Some(Body::CommandsWithdrawn(body)) => {
            put("command", &body.first);
            put("status", &"refused");
            put("detail", &format!("commands {} to {}: {}", body.first, body.last, body.reason));
        }
        Some(Body::Egress(body)) => {
            let subject = body.subject.clone().unwrap_or_default();
            put("user", &subject.user);
            put("exe", &subject.exe);
            put("destination", &body.destination);
            put("verdict", &body.verdict);
        }
        Some(Body::PolicyLoaded(body)) => put("detail", &body.hash),
        Some(Body::PolicyRejected(body)) => put("detail", &body.reason),
        Some(Body::Recovered(body)) => put("detail", &format!("{} bytes cut off", body.cut_bytes)),
        Some(Body::Lost(body)) => put("detail", &format!("{} events: {}", body.events, body.reason)),
        Some(Body::AgentStarted(body)) => put("detail", &body.version),
        Some(Body::FlowStarted(_) | Body::Login(_) | Body::TlsPassed(_) | Body::AgentStopped(_)) | None => {}
    }
    record(output, HEADER.iter().map(|name| fields.remove(name)).collect())
}

fn record(output: &mut impl Write, fields: Vec<Option<String>>) -> io::Result<()> {
    let mut line = String::new();
    for (at, field) in fields.into_iter().enumerate() {
        if at > 0 {
            line.push(',');
        }
        if let Some(field) = field.filter(|field| !field.is_empty()) {
            quote(&mut line, &field);
        }
    }
    line.push_str("\r\n");
    output.write_all(line.as_bytes())
}

/// Appends a field. One that a spreadsheet would take for a formula gets an apostrophe before it.
fn quote(line: &mut String, field: &str) {
    let formula = field.trim_start().starts_with(['=', '+', '-', '@', '|', '%', '＝', '＋', '－', '＠'])
        || field.starts_with(['\t', '\r', '\n']);
    let special =
        field.contains([',', '"', '\r', '\n']) || formula || field.starts_with(' ') || field.ends_with(' ');
    if !special {
        line.push_str(field);
        return;
    }
    line.push('"');
    if formula {
        line.push('\'');
    }
    line.push_str(&field.replace('"', "\"\""));
    line.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto;

    fn quoted(field: &str) -> String {
        let mut line = String::new();
        quote(&mut line, field);
        line
    }

    #[test]
    fn fields_are_quoted_and_formulas_are_not_run() {
        assert_eq!(quoted("plain"), "plain");
        assert_eq!(quoted("a,\"b\"\n"), "\"a,\"\"b\"\"\n\"");
        for formula in ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", " =1", "\r=1", "＝1", "|x"] {
            assert!(quoted(formula).starts_with("\"'"), "{formula:?}");
        }
    }

    #[test]
    fn every_line_has_every_field() {
        let mut output = Vec::new();
        header(&mut output).expect("written");
        let text = "=HYPERLINK(\"http://evil\",\"a\")";
        let body = Body::Command(proto::Command { command: 7, text: text.into(), ..Default::default() });
        event(&mut output, &Event { index: 3, body: Some(body), ..Default::default() }, &HashMap::new())
            .expect("written");
        let output = String::from_utf8(output).expect("text");
        let lines: Vec<_> = output.split_terminator("\r\n").collect();
        assert_eq!(lines[0].split(',').count(), HEADER.len());
        assert_eq!(lines[1].matches(',').count(), HEADER.len() - 1 + text.matches(',').count());
        assert!(lines[1].contains("\"'=HYPERLINK(\"\"http://evil\"\",\"\"a\"\")\""), "{}", lines[1]);
    }
}
