//! Requests as they are shown to people.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use jiff::Timestamp;
use serde::Serialize;

use super::case::{Outcome, Withdrawal};
use super::desk::{Id, Open, Request};
use super::past::Past;
use crate::identity::Subject;
use crate::policy::{Scope, Terms};

/// Bytes of a text in a list.
const BRIEF: usize = 300;

/// What a request shows to whoever decides. Masked as the recording is, and bounded.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Shown {
    /// The protocol step: `query`, `bind`, `execute`, `function_call`, `replication`.
    pub step: &'static str,
    /// The command's text.
    pub text: String,
    /// What it runs by name: texts of prepared statements.
    pub runs: Vec<String>,
    /// Its parameters, as far as they are shown; null for NULL.
    pub params: Vec<Option<String>>,
    /// Parameters that are not.
    pub params_omitted: usize,
    /// Constants of the text, comments or parameters are masked: what they are is not for approvers.
    pub redacted: bool,
    /// What each of its statements does.
    pub statements: Vec<Does>,
    /// The database user.
    pub db_user: Arc<str>,
    /// The database.
    pub database: Arc<str>,
    /// `none`, `open` or `failed`.
    pub transaction: &'static str,
    /// The number that the command will have in its session.
    pub command: u64,
    /// The rule's own words; may be empty.
    pub message: String,
    /// How many rows the server expects it to touch, where a rule has that asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub estimate: Option<Estimate>,
    /// What has started the process that asks, where nobody sits in front of it, and who else may stand behind it;
    /// empty where somebody may sit there. Set by the desk.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub started_by: String,
    /// It was asked for before the command is sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub beforehand: Option<Beforehand>,
}

/// What the server's planner expects of a statement.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Estimate {
    /// Rows that it reads, or changes.
    pub rows: Option<u64>,
    /// What that would cost, in the planner's own measure.
    pub cost: Option<f64>,
    /// Why there is none; empty when there is one.
    pub why_not: String,
}

/// What is told of a request for a command that is not sent yet.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Beforehand {
    /// Why it is asked for, in the asker's own words, which nobody has verified.
    pub reason: String,
    /// The process whose descendants may use the approval.
    pub tree_pid: u32,
    /// Its executable.
    pub tree_exe: String,
    /// For how many seconds after its approval it can be used.
    pub usable_seconds: u64,
    /// The time zone of the sessions that it is for; the server's own when there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time_zone: Option<Arc<str>>,
    /// The program that will send it, by the asker's own word; its own where that says none. No other program's
    /// command goes on by it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub program: String,
}

/// What one statement does, in words.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Does {
    /// Every kind that stands in it, its own first.
    pub kinds: Vec<String>,
    /// What it amounts to.
    pub classes: Vec<String>,
    /// Relations that it reads.
    pub reads: Vec<String>,
    /// Relations that it writes.
    pub writes: Vec<String>,
    /// Functions that it calls.
    pub functions: Vec<String>,
    /// Its WHERE: `missing`, `always_true`, `present`, or empty.
    pub r#where: String,
    /// Its LIMIT, likewise.
    pub limit: String,
    /// It runs text that is not known.
    pub dynamic: bool,
    /// Why it could not be read; empty when it could.
    pub unparsed: String,
}

pub(super) fn decided_by(outcome: &Outcome, approvers: &[Arc<str>]) -> Vec<Arc<str>> {
    match outcome {
        Outcome::Denied { by, .. } | Outcome::BrokenGlass { by, .. } => vec![Arc::clone(&by.name)],
        _ => approvers.to_vec(),
    }
}

fn time<S: serde::Serializer>(time: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{time:.3}"))
}

/// A request as it is listed.
#[derive(Debug, Serialize)]
pub struct Listed {
    id: Id,
    /// `pending`, or how it ended.
    state: &'static str,
    #[serde(serialize_with = "time")]
    pub(super) asked: Timestamp,
    /// Seconds that are left.
    left: Option<u64>,
    /// What the rules ask for, in words, and as they are.
    needs: String,
    terms: Arc<Terms>,
    /// What can be chosen to be covered.
    scopes: Vec<Scope>,
    /// Who has approved, or decided.
    by: Vec<Arc<str>>,
    /// Why.
    reasons: Vec<Arc<str>>,
    subject: Arc<Subject>,
    server: SocketAddr,
    hosts: Vec<Arc<str>>,
    session: String,
    #[serde(flatten)]
    shown: Shown,
    /// SHA-256, hexadecimal.
    digest: String,
    pub(super) similar: Vec<Similar>,
}

/// A similar request of the past.
#[derive(Debug, Serialize)]
pub(super) struct Similar {
    pub(super) id: Id,
    #[serde(serialize_with = "time")]
    pub(super) asked: Timestamp,
    pub(super) user: String,
    pub(super) outcome: &'static str,
    pub(super) by: Vec<Arc<str>>,
}

impl Listed {
    /// In short, for lists.
    pub fn brief(&self) -> serde_json::Value {
        let text = &self.shown.text;
        serde_json::json!({
            "id": self.id,
            "state": self.state,
            "asked": format!("{:.3}", self.asked),
            "left": self.left,
            "needs": self.needs,
            "by": self.by,
            "user": self.subject.user,
            "login_user": self.subject.login_user,
            "exe": self.subject.exe.to_string_lossy(),
            "pid": self.subject.pid,
            "server": self.server,
            "database": self.shown.database,
            "kinds": self.shown.statements.first().map(|does| &does.kinds),
            "beforehand": self.shown.beforehand.is_some(),
            "program_claimed": self.shown.beforehand.as_ref().map(|told| &told.program).filter(|path| !path.is_empty()),
            "text": text.get(..text.floor_char_boundary(BRIEF)),
        })
    }

    fn of(id: Id, request: &Request, asked: Timestamp) -> Self {
        Self {
            id,
            state: "pending",
            asked,
            left: None,
            needs: request.terms.words(),
            terms: Arc::clone(&request.terms),
            scopes: Vec::new(),
            by: Vec::new(),
            reasons: Vec::new(),
            subject: Arc::clone(&request.subject),
            server: request.server,
            hosts: request.hosts.clone(),
            session: match &request.shown.beforehand {
                Some(_) => String::new(),
                None => request.session.to_string(),
            },
            shown: request.shown.clone(),
            digest: interlock_recording::hex(&request.digest),
            similar: Vec::new(),
        }
    }

    pub(super) fn open(id: Id, open: &Open) -> Self {
        let left = open.case.deadline().saturating_duration_since(Instant::now());
        Self {
            left: Some(left.as_secs()),
            scopes: open.case.scopes().collect(),
            by: open.case.votes().iter().map(|vote| Arc::clone(&vote.by.name)).collect(),
            reasons: open.case.votes().iter().map(|vote| Arc::clone(&vote.reason)).collect(),
            ..Self::of(id, &open.request, open.asked)
        }
    }

    pub(super) fn past(past: &Past) -> Self {
        let reasons = match &past.outcome {
            Outcome::Denied { reason, .. } | Outcome::BrokenGlass { reason, .. } => vec![Arc::clone(reason)],
            Outcome::Withdrawn(Withdrawal::Because(reason)) => vec![Arc::clone(reason)],
            _ => Vec::new(),
        };
        Self {
            state: past.outcome.word(),
            by: decided_by(&past.outcome, &past.by),
            reasons,
            ..Self::of(past.id, &past.request, past.asked)
        }
    }
}
