//! Requests for approval, as outputs are told of them.

use interlock_recording::json::time;
use serde_json::{Value, json};

use super::message::Severity;
use crate::store::{Approval, ApprovalChange, ApprovalNews, ToldBy, WholeApproval};

/// Bytes of a text.
const TEXT: usize = 16 << 10;

/// A request, and what has come of it.
#[derive(Debug, Clone)]
pub struct ToldApproval {
    /// As it is listed.
    pub item: Approval,
    /// Its text.
    pub text: String,
    /// It is not the whole text.
    pub clipped: bool,
    /// The command's number in its session.
    command: u64,
    /// Rules that hold it.
    rules: Vec<String>,
    /// Parameters that it has.
    params: u64,
    /// What has come of it, and when that came here.
    news: ApprovalNews,
    change: ApprovalChange,
    at_ns: i64,
}

/// The message's kind.
pub(super) fn name_of(news: ApprovalNews) -> &'static str {
    match news {
        ApprovalNews::Made => "approval_requested",
        ApprovalNews::Changed => "approval_voted",
        ApprovalNews::Ended => "approval_ended",
        ApprovalNews::Reviewed => "approval_reviewed",
    }
}

fn by(by: &ToldBy) -> Value {
    let login = if by.login.is_empty() { Value::Null } else { by.login.as_str().into() };
    json!({"name": by.name, "login": login, "via": by.via})
}

impl ToldApproval {
    pub(super) fn new(one: WholeApproval, news: ApprovalNews, change: ApprovalChange, at_ns: i64) -> Self {
        let mut text = one.told.text;
        let clipped = text.len() > TEXT;
        text.truncate(text.floor_char_boundary(TEXT));
        Self {
            item: one.item,
            text,
            clipped,
            command: one.told.command,
            rules: one.told.quorums.into_iter().map(|quorum| quorum.rule).collect(),
            params: one.told.omitted_params.saturating_add(one.told.params.len() as u64),
            news,
            change,
            at_ns,
        }
    }

    pub(super) fn rules(&self) -> Vec<&str> {
        self.rules.iter().map(String::as_str).collect()
    }

    pub(super) fn name(&self) -> &'static str {
        name_of(self.news)
    }

    /// By the collector's clock.
    pub(super) fn time_ns(&self) -> i64 {
        self.at_ns
    }

    pub(super) fn severity(&self) -> Severity {
        match (self.news, self.change.state.as_str()) {
            (ApprovalNews::Ended, "broken_glass") => Severity::Error,
            (ApprovalNews::Ended, "denied" | "expired") => Severity::Warning,
            _ => Severity::Notice,
        }
    }

    fn who(&self) -> &str {
        self.change.by.as_ref().map_or("somebody", |by| &by.name)
    }

    pub(super) fn line(&self) -> String {
        let Approval { user, host_name, rules, request, .. } = &self.item;
        let what = match (self.news, self.change.state.as_str()) {
            (ApprovalNews::Made, _) => "is asked for".to_owned(),
            (ApprovalNews::Changed, _) => {
                format!("was given by {}, {} more needed,", self.who(), self.change.missing)
            }
            (ApprovalNews::Reviewed, _) => format!("was passed over; {} has looked into it,", self.who()),
            (ApprovalNews::Ended, "approved") => "was given".to_owned(),
            (ApprovalNews::Ended, "broken_glass") => format!("was passed over by {},", self.who()),
            (ApprovalNews::Ended, "denied") => format!("was refused by {},", self.who()),
            (ApprovalNews::Ended, state) => format!("ended ({state}),"),
        };
        format!("approval {request} {what} for {user} on {host_name} by {rules}: {}", self.text)
    }

    pub(super) fn json(&self) -> Value {
        let item = &self.item;
        let mut value = json!({
            "approval": item.id,
            "request": item.request,
            "session": item.session,
            "command": self.command,
            "asked": time(item.asked_ns.unsigned_abs()),
            "deadline": time(item.deadline_ns.unsigned_abs()),
            "rules": self.rules,
            "needs": item.needs,
            "collector_may": item.collector,
            "user": item.user,
            "login_user": item.login_user,
            "exe": item.exe,
            "destination": item.destination,
            "db_user": item.db_user,
            "database": item.database,
            "text": self.text,
            "text_clipped": self.clipped,
            "params": self.params,
        });
        let Some(object) = value.as_object_mut() else { return value };
        if self.news == ApprovalNews::Made {
            return value;
        }
        let change = &self.change;
        let scope = if change.scope.is_empty() { Value::Null } else { change.scope.as_str().into() };
        object.extend([
            ("state".to_owned(), change.state.as_str().into()),
            ("by".to_owned(), change.by.as_ref().map_or(Value::Null, by)),
            ("approved_by".to_owned(), change.approved_by.iter().map(by).collect()),
            ("scope".to_owned(), scope),
            ("seconds".to_owned(), change.seconds.into()),
            ("reason".to_owned(), change.reason.as_str().into()),
            ("missing".to_owned(), change.missing.into()),
        ]);
        value
    }
}
