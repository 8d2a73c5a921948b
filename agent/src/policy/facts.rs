//! The variables of `when:` expressions and their values.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use cel::Value;
use cel::objects::{Key, Map};
use jiff::Timestamp;
use jiff::civil::Weekday;
use jiff::tz::TimeZone;

use super::Destination;
use crate::identity::{GroupsKnown, Subject, Verified};
use crate::operation::Operation;
use crate::sql::{Kind, Limit, Statement, Where};

/// Longest list of an operation (parameters, tables) that nested loops go over.
const MAX_LOOPED: usize = 256;
/// Longest SQL text in bytes that an expression is given; with a longer one it is an error.
const MAX_TEXT: usize = 16 << 20;

/// The variables of expressions and their fields.
pub(crate) const VARIABLES: &[(&str, &[&str])] = &[
    (
        "subject",
        &[
            "pid",
            "uid",
            "user",
            "gid",
            "group",
            "login_uid",
            "login_user",
            "login_session",
            "exe",
            "script",
            "exe_sha256",
            "argv",
            "cwd",
            "cgroup",
            "unit",
            "container",
            "ancestors",
            "ci",
            "person",
            "workload",
            "missing",
        ],
    ),
    (
        "operation",
        &[
            "protocol",
            "user",
            "database",
            "text",
            "statement",
            "kind",
            "kinds",
            "classes",
            "reads",
            "writes",
            "columns",
            "columns_read",
            "columns_written",
            "functions",
            "where",
            "where_read",
            "where_write",
            "limit",
            "dynamic",
            "changes_lexing",
            "settings",
            "params",
        ],
    ),
    ("destination", &["address", "port", "hosts"]),
    ("time", &["timestamp", "unix", "date", "hour", "minute", "weekday"]),
];

/// The fields of `subject.ci`.
pub(crate) const CI_FIELDS: &[&str] =
    &["system", "project", "pipeline", "job", "run", "branch", "commit", "actor", "url", "variables"];

/// The fields of `subject.person` and `subject.workload`.
pub(crate) const IDENTITY_FIELDS: &[&str] = &[
    "issuer",
    "subject",
    "name",
    "groups",
    "project",
    "branch",
    "environment",
    "actor",
    "claims",
    "authenticated",
];

/// What an expression is evaluated on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Facts<'a> {
    pub(crate) subject: &'a Subject,
    pub(crate) destination: &'a Destination,
    pub(crate) operation: Option<&'a Operation>,
    /// The statement that is judged; none for an operation without any, and for masks.
    pub(crate) statement: Option<&'a Statement>,
    pub(crate) now: Timestamp,
}

/// An expression gave no answer.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub(crate) enum WhenError {
    #[error("{0}")]
    Execution(String),
    #[error("its value is no boolean")]
    NotBoolean,
    #[error("the operation is too large for this expression")]
    TooLarge,
}

/// A mapping of the fields that are used.
struct Fields<F> {
    uses: F,
    map: HashMap<Key, Value>,
}

impl<F: Fn(&str) -> bool> Fields<F> {
    fn new(uses: F) -> Self {
        Self { uses, map: HashMap::new() }
    }

    fn with(mut self, field: &'static str, value: impl FnOnce() -> Value) -> Self {
        if (self.uses)(field) {
            self.map.insert(field.into(), value());
        }
        self
    }

    fn value(self) -> Value {
        Value::Map(Map { map: Arc::new(self.map) })
    }
}

fn text(text: &str) -> Value {
    Value::String(Arc::new(text.to_owned()))
}

fn path(path: &Path) -> Value {
    text(&path.to_string_lossy())
}

fn strings<T: ToString>(items: impl IntoIterator<Item = T>) -> Value {
    Value::List(Arc::new(items.into_iter().map(|item| Value::String(Arc::new(item.to_string()))).collect()))
}

fn int(value: u32) -> Value {
    Value::Int(value.into())
}

/// The word that policies and explanations write for a value.
pub(crate) fn word<T: serde::Serialize>(value: &T) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        _ => String::new(),
    }
}

pub(super) fn subject_value(subject: &Subject, uses: impl Fn(&str) -> bool) -> Value {
    let known = |value: Option<u32>| value.map_or(Value::Null, int);
    Fields::new(uses)
        .with("pid", || int(subject.pid))
        .with("uid", || int(subject.uid))
        .with("user", || text(&subject.user))
        .with("gid", || int(subject.gid))
        .with("group", || text(&subject.group))
        // Not zero when unknown: that is root.
        .with("login_uid", || known(subject.login_uid))
        .with("login_user", || text(&subject.login_user))
        .with("login_session", || known(subject.login_session))
        .with("exe", || path(&subject.exe))
        .with("script", || subject.script.as_deref().map_or_else(|| text(""), path))
        .with("exe_sha256", || text(&subject.exe_sha256))
        .with("argv", || strings(&subject.argv))
        .with("cwd", || path(&subject.cwd))
        .with("cgroup", || text(&subject.cgroup))
        .with("unit", || text(&subject.unit))
        .with("container", || text(&subject.container))
        .with("ancestors", || {
            let ancestors = subject.ancestors.iter().map(|ancestor| {
                Fields::new(|_: &str| true)
                    .with("pid", || int(ancestor.pid))
                    .with("uid", || int(ancestor.uid))
                    .with("exe", || path(&ancestor.exe))
                    .with("argv", || strings(&ancestor.argv))
                    .value()
            });
            Value::List(Arc::new(ancestors.collect()))
        })
        .with("ci", || {
            let ci = &subject.ci;
            Fields::new(|_: &str| true)
                .with("system", || text(&ci.system))
                .with("project", || text(&ci.project))
                .with("pipeline", || text(&ci.pipeline))
                .with("job", || text(&ci.job))
                .with("run", || text(&ci.run))
                .with("branch", || text(&ci.branch))
                .with("commit", || text(&ci.commit))
                .with("actor", || text(&ci.actor))
                .with("url", || text(&ci.url))
                .with("variables", || {
                    let map = ci.variables.iter().map(|(k, v)| (Key::from(k.as_str()), text(v))).collect();
                    Value::Map(Map { map: Arc::new(map) })
                })
                .value()
        })
        .with("person", || identity(subject.person.as_deref()))
        .with("workload", || identity(subject.workload.as_deref()))
        .with("missing", || strings(&subject.missing))
        .value()
}

/// Null where there is none: whatever is asked of it then gives no answer.
fn identity(identity: Option<&Verified>) -> Value {
    let Some(identity) = identity else { return Value::Null };
    Fields::new(|_: &str| true)
        .with("issuer", || text(&identity.issuer_name))
        .with("subject", || text(&identity.subject))
        .with("name", || text(&identity.name))
        .with("groups", || match identity.groups_known {
            GroupsKnown::All => strings(&identity.groups),
            GroupsKnown::Unsaid | GroupsKnown::Partly => Value::Null,
        })
        .with("project", || text(&identity.job.project))
        .with("branch", || text(&identity.job.branch))
        .with("environment", || text(&identity.job.environment))
        .with("actor", || text(&identity.job.actor))
        .with("claims", || {
            let map = identity.claims.iter().map(|(name, value)| (Key::from(name.as_str()), claim(value)));
            Value::Map(Map { map: Arc::new(map.collect()) })
        })
        .with("authenticated", || identity.authenticated.map_or(Value::Null, |at| Value::Int(at.as_second())))
        .value()
}

fn claim(value: &serde_json::Value) -> Value {
    match value {
        serde_json::Value::Null => Value::Null,
        serde_json::Value::Bool(value) => Value::Bool(*value),
        serde_json::Value::Number(number) => match number.as_i64() {
            Some(number) => Value::Int(number),
            None => Value::Float(number.as_f64().unwrap_or(f64::NAN)),
        },
        serde_json::Value::String(value) => text(value),
        serde_json::Value::Array(list) => Value::List(Arc::new(list.iter().map(claim).collect())),
        serde_json::Value::Object(map) => {
            let map = map.iter().map(|(name, value)| (Key::from(name.as_str()), claim(value))).collect();
            Value::Map(Map { map: Arc::new(map) })
        }
    }
}

pub(super) fn operation_value(
    operation: &Operation,
    statement: Option<&Statement>,
    uses: impl Fn(&str) -> bool,
    nested: bool,
) -> Result<Value, WhenError> {
    let nothing = Statement::default();
    let is = statement.is_some();
    let statement = statement.unwrap_or(&nothing);
    let long = uses("text") && operation.text.len() > MAX_TEXT;
    let many = nested
        && [
            operation.params.len(),
            statement.reads.len(),
            statement.writes.len(),
            statement.functions.len(),
            statement.columns_read.len() + statement.columns_written.len(),
        ]
        .iter()
        .any(|len| *len > MAX_LOOPED);
    if long || many {
        return Err(WhenError::TooLarge);
    }
    let clause = |clause: Option<Where>| text(&clause.as_ref().map_or_else(String::new, word::<Where>));
    let params = || {
        let params = operation.params.iter().map(|p| p.as_deref().map_or(Value::Null, text));
        Value::List(Arc::new(params.collect()))
    };
    Ok(Fields::new(uses)
        .with("protocol", || text(&word(&operation.protocol)))
        .with("user", || text(&operation.user))
        .with("database", || text(&operation.database))
        .with("text", || text(&operation.text))
        .with("statement", || text(&statement.text))
        .with("kind", || text(&if is { word(&statement.kind) } else { String::new() }))
        .with("kinds", || strings(statement.kinds.iter().map(word::<Kind>)))
        .with("classes", || strings(statement.classes.iter().map(word)))
        .with("reads", || strings(&statement.reads))
        .with("writes", || strings(&statement.writes))
        .with("columns", || strings(statement.columns_read.union(&statement.columns_written)))
        .with("columns_read", || strings(&statement.columns_read))
        .with("columns_written", || strings(&statement.columns_written))
        .with("functions", || strings(&statement.functions))
        .with("where", || clause(statement.where_clause))
        .with("where_read", || clause(statement.where_read))
        .with("where_write", || clause(statement.where_write))
        .with("limit", || text(&statement.limit.as_ref().map_or_else(String::new, word::<Limit>)))
        .with("dynamic", || Value::Bool(statement.dynamic))
        .with("changes_lexing", || Value::Bool(statement.changes_lexing))
        .with("settings", || strings(&statement.settings))
        .with("params", params)
        .value())
}

pub(super) fn destination_value(destination: &Destination) -> Value {
    let address = match destination.address.ip() {
        IpAddr::V6(ip) => ip.to_canonical(),
        ip @ IpAddr::V4(_) => ip,
    };
    Fields::new(|_: &str| true)
        .with("address", || text(&address.to_string()))
        .with("port", || int(destination.address.port().into()))
        .with("hosts", || strings(&destination.hosts))
        .value()
}

pub(super) fn time_value(now: Timestamp) -> Value {
    let local = now.to_zoned(TimeZone::UTC);
    let weekday = match local.weekday() {
        Weekday::Monday => "mon",
        Weekday::Tuesday => "tue",
        Weekday::Wednesday => "wed",
        Weekday::Thursday => "thu",
        Weekday::Friday => "fri",
        Weekday::Saturday => "sat",
        Weekday::Sunday => "sun",
    };
    Fields::new(|_: &str| true)
        .with("timestamp", || text(&now.to_string()))
        .with("unix", || Value::Int(now.as_second()))
        .with("date", || text(&local.date().to_string()))
        .with("hour", || Value::Int(local.hour().into()))
        .with("minute", || Value::Int(local.minute().into()))
        .with("weekday", || text(weekday))
        .value()
}
