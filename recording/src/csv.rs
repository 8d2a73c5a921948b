//! Events as CSV (RFC 4180), safe to open in a spreadsheet.

use std::collections::{HashMap, HashSet};
use std::io::{self, Write};

use crate::SessionId;
use crate::json;
use crate::proto::event::Body;
use crate::proto::{Approver, BindParameter, Event, Subject, TerminalInput, TerminalOutput};
use crate::query::Summary;

const HEADER: [&str; 36] = [
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
    "kinds",
    "classes",
    "reads",
    "writes",
    "functions",
    "where",
    "limit",
    "dynamic",
    "verdict",
    "enforced",
    "rule",
    "message",
    "matched",
    "observed",
    "status",
    "tag",
    "sqlstate",
    "duration_ns",
    "rows",
    "detail",
    "identity",
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
            put("params", &parameters(&body.params));
            // Each word once, in the order in which they first stand.
            let mut join = |name, of: &dyn Fn(&crate::proto::Statement) -> Vec<String>| {
                let mut seen = HashSet::new();
                let words = body.statements.iter().flat_map(of).filter(|word| !word.is_empty());
                let words: Vec<_> = words.filter(|word| seen.insert(word.clone())).collect();
                put(name, &words.join(" "));
            };
            join("kind", &|statement| vec![statement.kind.clone()]);
            join("kinds", &|statement| statement.kinds.clone());
            join("classes", &|statement| statement.classes.clone());
            join("reads", &|statement| statement.reads.clone());
            join("writes", &|statement| statement.writes.clone());
            join("functions", &|statement| statement.functions.clone());
            join("where", &|statement| vec![statement.r#where.clone()]);
            join("limit", &|statement| vec![statement.limit.clone()]);
            if !body.statements.is_empty() {
                put("dynamic", &body.statements.iter().any(|statement| statement.dynamic));
            }
            put("matched", &body.matched.join(" "));
            let observed: Vec<_> =
                body.observed.iter().map(|rule| format!("{}={}", rule.rule, rule.verdict)).collect();
            put("observed", &observed.join(" "));
            put("verdict", &body.verdict);
            put("enforced", &body.enforced);
            put("rule", &body.rule.as_deref().unwrap_or_default());
            put("message", &body.message.as_deref().unwrap_or_default());
            if let Some(approval) = &body.approval {
                let by = approval.by.join(", ");
                put("detail", &format!("approval {}: {} by {by}", approval.request, approval.outcome));
            }
        }
        Some(Body::ApprovalRequested(body)) => {
            put("command", &body.command);
            put("step", &body.step);
            put("text", &body.text);
            put("params", &parameters(&body.params));
            let rules: Vec<_> = body.quorums.iter().map(|quorum| &*quorum.rule).collect();
            put("rule", &rules.join(" "));
            put("detail", &body.request);
        }
        Some(Body::ApprovalAsked(body)) => {
            let request = body.request.clone().unwrap_or_default();
            put("step", &request.step);
            put("text", &request.text);
            put("params", &parameters(&request.params));
            let rules: Vec<_> = request.quorums.iter().map(|quorum| &*quorum.rule).collect();
            put("rule", &rules.join(" "));
            put("message", &body.reason);
            put("detail", &request.request);
        }
        Some(Body::PolicyExplained(body)) => {
            put("text", &body.text);
            put("verdict", &body.verdict);
            put("rule", &body.rule);
        }
        Some(Body::ApprovalVoted(body)) => {
            put("status", &"voted");
            put("message", &body.reason);
            put("detail", &format!("{} by {}", body.request, user(body.by.as_ref())));
        }
        Some(Body::ApprovalDecided(body)) => {
            put("status", &body.outcome);
            put("message", &body.reason);
            put("duration_ns", &body.waited_ns);
            let by = body.by.as_ref().map(|by| format!(" by {}", user(Some(by)))).unwrap_or_default();
            put("detail", &format!("{}{by}", body.request));
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
        Some(Body::TerminalSize(body)) => {
            put("command", &body.command);
            put("detail", &format!("{} columns, {} rows", body.columns, body.rows));
        }
        Some(Body::TerminalOutput(TerminalOutput { command, data, .. })) => {
            put("command", command);
            put("text", &String::from_utf8_lossy(data));
        }
        Some(Body::TerminalInput(TerminalInput { command, data, .. })) => {
            put("command", command);
            put("text", &String::from_utf8_lossy(data));
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
            put("identity", &identities(&subject));
            put("destination", &body.destination);
            put("verdict", &body.verdict);
        }
        Some(Body::IdentityChanged(body)) => {
            let subject = Subject {
                person: body.person.clone(),
                workload: body.workload.clone(),
                ..Subject::default()
            };
            put("identity", &identities(&subject));
            put("detail", &body.missing.join("; "));
        }
        Some(Body::TokenRefused(body)) => {
            let subject = body.subject.clone().unwrap_or_default();
            put("user", &subject.user);
            put("exe", &subject.exe);
            put("status", &"refused");
            put("detail", &format!("{}: {}", body.issuer_name, body.reason));
        }
        Some(
            Body::PersonSignedIn(body)
            | Body::PersonSignedOut(body)
            | Body::PersonExpired(body)
            | Body::PersonGroupsChanged(body)
            | Body::PersonRefused(body),
        ) => {
            put("user", &body.process.clone().unwrap_or_default().user);
            put("status", &body.reason);
            put("detail", &format!("{} ({}) {}", body.name, body.issuer_name, body.groups.join(" ")));
        }
        Some(Body::PolicyLoaded(body)) => put("detail", &body.hash),
        Some(Body::PolicyRejected(body)) => put("detail", &body.reason),
        Some(Body::Recovered(body)) => put("detail", &format!("{} bytes cut off", body.cut_bytes)),
        Some(Body::Lost(body)) => put("detail", &format!("{} events: {}", body.events, body.reason)),
        Some(Body::AgentStarted(body)) => put("detail", &body.version),
        Some(Body::FlowStarted(body)) => {
            put("identity", &identities(&body.subject.clone().unwrap_or_default()));
        }
        Some(Body::Login(_) | Body::TlsPassed(_) | Body::AgentStopped(_)) | None => {}
    }
    record(output, HEADER.iter().map(|name| fields.remove(name)).collect())
}

/// The verified identities behind it, each with its issuer.
fn identities(subject: &Subject) -> String {
    let both = subject.person.iter().chain(&subject.workload);
    let named =
        both.map(|identity| format!("{} ({} of {})", identity.name, identity.subject, identity.issuer_name));
    named.collect::<Vec<_>>().join("; ")
}

/// An approver's user, with the login user where that is somebody else.
fn user(by: Option<&Approver>) -> String {
    match by {
        Some(by) if by.account.is_some() => format!("{} (collector)", by.user),
        Some(by) if by.login_user.is_empty() || by.login_user == by.user => by.user.clone(),
        Some(by) => format!("{} ({})", by.user, by.login_user),
        None => String::new(),
    }
}

/// Writes something that is no event as one line: its name stands where those of events do.
///
/// # Errors
/// `output` cannot be written.
pub fn notice(output: &mut impl Write, name: &str, time: &str, detail: &str) -> io::Result<()> {
    let mut fields = HashMap::from([("event", name), ("time", time), ("detail", detail)]);
    record(output, HEADER.iter().map(|name| fields.remove(name).map(str::to_owned)).collect())
}

/// Bind parameters as `$1=a $2=NULL`; one with blanks, quotes or that word in it stands in quotes.
fn parameters(params: &[BindParameter]) -> String {
    let mut text = String::new();
    for (number, param) in (1..).zip(params) {
        let plain = |value: &str| {
            !value.is_empty() && value != "NULL" && !value.contains(|c: char| c.is_whitespace() || c == '\'')
        };
        let value = match param.value.as_deref() {
            None => "NULL".to_owned(),
            Some(value) if plain(value) => value.to_owned(),
            Some(value) => format!("'{}'", value.replace('\'', "''")),
        };
        let blank = if text.is_empty() { "" } else { " " };
        text.push_str(&format!("{blank}${number}={value}"));
    }
    text
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
    fn lists_are_words_and_each_stands_once() {
        let statement = |kind: &str, reads: [&str; 2]| proto::Statement {
            kind: kind.into(),
            kinds: vec![kind.into()],
            reads: reads.map(String::from).to_vec(),
            r#where: "missing".into(),
            ..Default::default()
        };
        let param =
            |value: Option<&str>| proto::BindParameter { value: value.map(str::to_owned), omitted_bytes: 0 };
        let command = proto::Command {
            statements: vec![
                statement("select", ["b", "a"]),
                statement("delete", ["c", "b"]),
                statement("select", ["a", "b"]),
            ],
            params: vec![param(Some("7")), param(None), param(Some("it's")), param(Some(""))],
            matched: vec!["x".into(), "y".into()],
            observed: vec![proto::Observed { rule: "y".into(), verdict: "deny".into() }],
            ..Default::default()
        };
        let mut output = Vec::new();
        event(
            &mut output,
            &Event { body: Some(Body::Command(command)), ..Default::default() },
            &HashMap::new(),
        )
        .expect("written");
        let line = String::from_utf8(output).expect("text");
        assert!(
            line.contains(
                ",$1=7 $2=NULL $3='it''s' $4='',select delete,select delete,,b a c,,,missing,,false,"
            )
        );
        assert!(line.contains(",x y,y=deny,"), "{line}");
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
