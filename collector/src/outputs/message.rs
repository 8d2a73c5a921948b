//! What is told: one message for one thing.

use interlock_recording::json::time;
use serde_json::{Map, Value, json};

use super::approval::ToldApproval;
use super::config::Kind;
use crate::store::{AuditEntry, Finding, SessionItem, ToldCommand, ToldHostEvent};

/// A message.
#[derive(Debug, Clone)]
pub struct Message {
    /// The same each time that this is sent: by it a receiver knows what it has already.
    pub id: String,
    /// What it tells of.
    pub body: Body,
}

/// What a message tells of.
#[derive(Debug, Clone)]
pub enum Body {
    /// A command was recorded.
    Command(Box<ToldCommand>),
    /// A command ended.
    Result(Box<ToldCommand>),
    /// A session began.
    SessionBegun(Box<SessionItem>),
    /// A session ended.
    SessionEnded(Box<SessionItem>),
    /// An event of a host.
    HostEvent {
        /// The host's id.
        host: String,
        /// Its name.
        host_name: String,
        /// The event.
        event: ToldHostEvent,
    },
    /// A finding.
    Finding(Finding),
    /// A legal hold was set or released.
    Hold(Hold),
    /// Something was done in the collector.
    Audit(AuditEntry),
    /// Something has come of a request for approval.
    Approval(Box<ToldApproval>),
    /// What stood here cannot be told any more.
    Deleted(Deleted),
}

/// A legal hold that was set or released.
#[derive(Debug, Clone)]
pub struct Hold {
    /// The entry in the ledger.
    pub entry: u64,
    /// When.
    pub at_ns: i64,
    /// Whether it was set.
    pub set: bool,
    /// The hold's name.
    pub hold: String,
    /// Why.
    pub reason: String,
    /// By whom.
    pub who: String,
    /// What it covers.
    pub scope: String,
}

/// What cannot be told any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deleted {
    /// The host.
    pub host: String,
    /// Its name.
    pub host_name: String,
    /// What is missing.
    pub what: Missing,
    /// When it came in.
    pub at_ns: i64,
    /// Retention deleted it, rather than something else.
    pub retention: bool,
}

/// What is missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Missing {
    /// Commands and events of the host.
    Events {
        /// The first, by its index in the host's log.
        first: i64,
        /// The one after the last.
        end: i64,
    },
    /// That a session began or ended.
    Session(String),
    /// How a command ended: its session, and its number in that.
    Result(String, i64),
    /// What came of a request for approval: its id, and which of its messages.
    Approval(String, i64),
}

/// How bad it is, in the numbers of syslog.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// Something is wrong.
    Error = 3,
    /// Something was refused.
    Warning = 4,
    /// Something that someone should know.
    Notice = 5,
    /// What goes on all the time.
    Info = 6,
}

impl Message {
    /// About what.
    pub fn name(&self) -> &'static str {
        match &self.body {
            Body::Command(_) => "command",
            Body::Result(_) => "result",
            Body::SessionBegun(_) => "session_begun",
            Body::SessionEnded(_) => "session_ended",
            Body::HostEvent { .. } => "host_event",
            Body::Finding(_) => "finding",
            Body::Hold(hold) if hold.set => "hold_set",
            Body::Hold(_) => "hold_released",
            Body::Audit(_) => "audit",
            Body::Approval(told) => told.name(),
            Body::Deleted(_) => "deleted",
        }
    }

    /// When it happened: by the host's clock what a host recorded, by the collector's own what it did.
    pub fn time_ns(&self) -> i64 {
        match &self.body {
            Body::Command(command) => command.at_ns,
            Body::Result(command) => command.at_ns.saturating_add(command.duration_ns),
            Body::SessionBegun(session) => session.started_ns,
            Body::SessionEnded(session) => session.ended_ns.unwrap_or(session.started_ns),
            Body::HostEvent { event, .. } => event.at_ns,
            Body::Finding(finding) => finding.at_ns,
            Body::Hold(hold) => hold.at_ns,
            Body::Audit(entry) => entry.at_ns,
            Body::Approval(told) => told.time_ns(),
            Body::Deleted(deleted) => deleted.at_ns,
        }
    }

    /// The host's name and id, where it is about one.
    pub fn host(&self) -> Option<(&str, &str)> {
        match &self.body {
            Body::Command(command) | Body::Result(command) => Some((&command.host_name, &command.host)),
            Body::SessionBegun(session) | Body::SessionEnded(session) => {
                Some((&session.host_name, &session.host))
            }
            Body::HostEvent { host, host_name, .. } => Some((host_name, host)),
            Body::Finding(finding) if !finding.host.is_empty() => Some((&finding.host_name, &finding.host)),
            Body::Approval(told) => Some((&told.item.host_name, &told.item.host)),
            Body::Deleted(deleted) => Some((&deleted.host_name, &deleted.host)),
            Body::Finding(_) | Body::Hold(_) | Body::Audit(_) => None,
        }
    }

    /// The session, where it is about one.
    pub fn session(&self) -> Option<&str> {
        match &self.body {
            Body::Command(command) | Body::Result(command) => Some(&command.session),
            Body::SessionBegun(session) | Body::SessionEnded(session) => Some(&session.id),
            Body::Approval(told) if !told.item.session.is_empty() => Some(&told.item.session),
            _ => None,
        }
    }

    /// How bad it is.
    pub fn severity(&self) -> Severity {
        match &self.body {
            Body::Command(command) if command.verdict != "allow" => Severity::Warning,
            Body::Command(command) if matches!(command.observed.as_str(), "deny" | "hold") => {
                Severity::Notice
            }
            Body::Finding(_) => Severity::Error,
            Body::Deleted(_) => Severity::Warning,
            Body::Hold(_) | Body::Audit(_) => Severity::Notice,
            Body::Approval(told) => told.severity(),
            _ => Severity::Info,
        }
    }

    /// One line for people. It can hold whatever the recorded process chose.
    pub fn line(&self) -> String {
        match &self.body {
            Body::Command(command) => format!(
                "{} {} by {} on {}: {}",
                command.verdict, command.step, command.user, command.host_name, command.text
            ),
            Body::Result(command) => format!(
                "{} after {} ms, {} rows, {} by {} on {}: {}",
                command.status,
                command.duration_ns / 1_000_000,
                command.rows,
                command.step,
                command.user,
                command.host_name,
                command.text
            ),
            Body::SessionBegun(session) => format!(
                "session of {} ({}) on {} to {} began",
                session.user, session.exe, session.host_name, session.destination
            ),
            Body::SessionEnded(session) => format!(
                "session of {} ({}) on {} to {} ended: {}",
                session.user,
                session.exe,
                session.host_name,
                session.destination,
                session.end_reason.as_deref().unwrap_or_default()
            ),
            Body::HostEvent { host_name, event, .. } => format!("{} on {host_name}", event.kind),
            Body::Finding(finding) => {
                format!("{} on {}: {}", finding.kind, finding.host_name, finding.detail)
            }
            Body::Hold(hold) => {
                format!(
                    "legal hold {:?} {} by {}",
                    hold.hold,
                    if hold.set { "set" } else { "released" },
                    hold.who
                )
            }
            Body::Audit(entry) => {
                format!("{}: {} {} {}", entry.actor, entry.action, entry.target, entry.detail)
            }
            Body::Approval(told) => told.line(),
            Body::Deleted(deleted) => {
                let what = match &deleted.what {
                    Missing::Events { first, end } => format!("events {first} to {}", end.saturating_sub(1)),
                    Missing::Session(session) => format!("session {session}"),
                    Missing::Result(session, number) => {
                        format!("the end of command {number} of session {session}")
                    }
                    Missing::Approval(id, _) => format!("what came of request {id}"),
                };
                format!("{what} of {} cannot be sent: {}", deleted.host_name, deleted.why())
            }
        }
    }

    /// The message as a JSON object. `collector` is the collector's name.
    pub fn json(&self, collector: &str) -> Map<String, Value> {
        let mut object = Map::new();
        let mut put = |key: &str, value: Value| drop(object.insert(key.to_owned(), value));
        put("id", self.id.as_str().into());
        put("kind", self.name().into());
        put("time", time(self.time_ns().unsigned_abs()).into());
        put("collector", collector.into());
        if let Some((name, id)) = self.host() {
            put("host", id.into());
            put("host_name", name.into());
        }
        let fields = match &self.body {
            Body::Command(body) => command(body, false),
            Body::Result(body) => command(body, true),
            Body::SessionBegun(body) => session(body, false),
            Body::SessionEnded(body) => session(body, true),
            Body::HostEvent { event, .. } => {
                let detail: Value = serde_json::from_str(&event.detail).unwrap_or(Value::Null);
                json!({"event": event.event, "event_kind": event.kind, "detail": detail})
            }
            Body::Finding(body) => {
                json!({"finding": body.id, "finding_kind": body.kind, "detail": body.detail, "entry": body.entry})
            }
            Body::Hold(body) => json!({
                "entry": body.entry, "hold": body.hold, "reason": body.reason, "who": body.who, "scope": body.scope,
            }),
            Body::Audit(body) => json!({
                "entry": body.id, "actor": body.actor, "action": body.action, "target": body.target,
                "detail": body.detail, "address": body.address,
            }),
            Body::Approval(body) => body.json(),
            Body::Deleted(body) => match &body.what {
                Missing::Events { first, end } => json!({
                    "first_event": first, "last_event": end.saturating_sub(1), "reason": body.why(),
                }),
                Missing::Session(session) => json!({"session": session, "reason": body.why()}),
                Missing::Result(session, number) => {
                    json!({"session": session, "command": number, "reason": body.why()})
                }
                Missing::Approval(id, _) => json!({"approval": id, "reason": body.why()}),
            },
        };
        if let Value::Object(fields) = fields {
            object.extend(fields);
        }
        object
    }
}

impl Deleted {
    /// The message's id.
    pub(super) fn id(&self, kind: &str) -> String {
        match &self.what {
            Missing::Events { first, end } => format!("deleted:{}:{first}-{end}", self.host),
            Missing::Session(session) => format!("deleted:{kind}:{session}"),
            Missing::Result(session, number) => format!("deleted:{kind}:{session}:{number}"),
            Missing::Approval(id, which) => format!("deleted:{kind}:{id}:{which}"),
        }
    }

    fn why(&self) -> &'static str {
        if self.retention {
            "deleted by retention before it was sent"
        } else {
            "no longer in the collector's index"
        }
    }
}

fn words(text: &str) -> Vec<&str> {
    text.split_whitespace().collect()
}

fn or_null(text: &str) -> Value {
    if text.is_empty() { Value::Null } else { text.into() }
}

fn command(body: &ToldCommand, ended: bool) -> Value {
    let mut value = json!({
        "session": body.session,
        "command": body.number,
        "goes_on": if body.goes_on == 0 { Value::Null } else { body.goes_on.into() },
        "event": body.event,
        "step": body.step,
        "kinds": words(&body.kind),
        "text": body.text,
        "text_clipped": body.clipped,
        "verdict": body.verdict,
        "observed": or_null(&body.observed),
        "rule": or_null(&body.rule),
        "pid": body.pid,
        "user": body.user,
        "login_user": body.login_user,
        "exe": body.exe,
        "unit": body.unit,
        "destination": body.destination,
        "host_names": words(&body.host_names),
        "protocol": body.protocol,
        "db_user": body.db_user,
        "database": body.database,
    });
    if ended && let Some(object) = value.as_object_mut() {
        object.insert("status".into(), body.status.as_str().into());
        object.insert("duration_ns".into(), body.duration_ns.into());
        object.insert("rows".into(), body.rows.into());
        object.insert("sqlstate".into(), or_null(&body.sqlstate));
    }
    value
}

fn session(body: &SessionItem, ended: bool) -> Value {
    let mut value = json!({
        "session": body.id,
        "started": time(body.started_ns.unsigned_abs()),
        "pid": body.pid,
        "user": body.user,
        "login_user": body.login_user,
        "exe": body.exe,
        "command_line": body.command_line,
        "unit": body.unit,
        "destination": body.destination,
        "host_names": words(&body.host_names),
        "protocol": body.protocol,
        "policy_hash": body.policy_hash,
    });
    if ended && let Some(object) = value.as_object_mut() {
        let ended = body.ended_ns.map(|ns| time(ns.unsigned_abs()));
        object.extend([
            ("ended".to_owned(), ended.into()),
            ("end_reason".to_owned(), body.end_reason.clone().into()),
            ("db_user".to_owned(), body.db_user.clone().into()),
            ("database".to_owned(), body.database.clone().into()),
            ("commands".to_owned(), body.commands.into()),
            ("denied".to_owned(), body.denied.into()),
            ("held".to_owned(), body.held.into()),
            ("observed".to_owned(), body.observed.into()),
            ("masked_values".to_owned(), body.masked_values.into()),
            ("rows_returned".to_owned(), body.rows_returned.into()),
        ]);
    }
    value
}

/// The kind that a configuration calls it by; `None` for what every output is told.
pub(super) fn kind(body: &Body) -> Option<Kind> {
    match body {
        Body::Command(_) => Some(Kind::Command),
        Body::Result(_) => Some(Kind::Result),
        Body::SessionBegun(_) | Body::SessionEnded(_) => Some(Kind::Session),
        Body::HostEvent { .. } => Some(Kind::HostEvent),
        Body::Finding(_) => Some(Kind::Finding),
        Body::Hold(_) => Some(Kind::Hold),
        Body::Audit(_) => Some(Kind::Audit),
        Body::Approval(_) => Some(Kind::Approval),
        Body::Deleted(_) => None,
    }
}
