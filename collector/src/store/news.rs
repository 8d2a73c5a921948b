//! What has come of requests for approval, as the journal tells of it: whole, so that it is told the same however often
//! and however late.

use interlock_shipping::v1::{ApprovalBy, ApprovalStanding};
use serde::{Deserialize, Serialize};

use super::approvals::{ApprovalNews, clip};
use super::journal::{JournalKind, JournalRow, NewRow};
use super::{StoreError, Write};

/// Characters of a name and of a reason, and approvers, that are told.
const NAME: usize = 256;
const REASON: usize = 1000;
const APPROVERS: usize = 64;

/// Somebody who decided.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToldBy {
    /// The user of the host, or the account.
    pub name: String,
    /// The login user; empty when there is none.
    pub login: String,
    /// host or collector.
    pub via: String,
}

/// What has changed of a request.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ApprovalChange {
    /// How it stands then.
    pub state: String,
    /// Who approved last, refused, broke the glass, or looked into it.
    pub by: Option<ToldBy>,
    /// Of one that has ended: who had approved.
    pub approved_by: Vec<ToldBy>,
    /// What the approval covers.
    pub scope: String,
    /// A shape for how long.
    pub seconds: u64,
    /// Why.
    pub reason: String,
    /// How many more are needed at least.
    pub missing: u32,
}

fn told_by(by: &ApprovalBy) -> ToldBy {
    ToldBy { name: clip(&by.name, NAME), login: clip(&by.login, NAME), via: clip(&by.via, NAME) }
}

impl ApprovalChange {
    /// By how a request stands now.
    pub(super) fn of(standing: &ApprovalStanding) -> Self {
        let last = standing.votes.last();
        let pending = standing.state == "pending";
        let votes = if pending { &[] } else { standing.votes.as_slice() };
        let approved: Vec<ToldBy> =
            votes.iter().take(APPROVERS).filter_map(|vote| vote.by.as_ref()).map(told_by).collect();
        let by = standing.by.as_ref().or_else(|| last.filter(|_| pending).and_then(|vote| vote.by.as_ref()));
        let (scope, seconds, reason) = match last {
            Some(vote) if pending => (&vote.scope, vote.seconds, &vote.reason),
            _ => (&standing.scope, standing.seconds, &standing.reason),
        };
        Self {
            state: standing.state.clone(),
            by: by.map(told_by),
            approved_by: approved,
            scope: clip(scope, NAME),
            seconds,
            reason: clip(reason, REASON),
            missing: standing.missing,
        }
    }

    /// Somebody has looked into one that went through unapproved.
    pub(super) fn reviewed(by: &str, review: &str) -> Self {
        let by = ToldBy { name: clip(by, NAME), via: "collector".to_owned(), ..ToldBy::default() };
        Self {
            state: "broken_glass".to_owned(),
            by: Some(by),
            reason: clip(review, REASON),
            ..Self::default()
        }
    }

    /// As the journal has it, behind the request's id.
    pub(super) fn about(&self, news: ApprovalNews) -> String {
        format!(" {} {}", news.word(), serde_json::to_string(self).unwrap_or_default())
    }
}

impl JournalRow {
    /// Of a row about a request for approval: its id, what has come of it, and what has changed.
    pub fn approval(&self) -> Option<(&str, ApprovalNews, ApprovalChange)> {
        if self.kind != JournalKind::Approval {
            return None;
        }
        let mut parts = self.about.splitn(3, ' ');
        let (id, news) = (parts.next()?, ApprovalNews::of(parts.next()?)?);
        let change = parts.next().and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
        Some((id, news, change))
    }
}

impl Write<'_> {
    /// Notes for outputs, and for whatever asks people in other ways, what has come of a request.
    pub(super) async fn approval_news(
        &mut self,
        host: &str,
        id: &str,
        news: ApprovalNews,
        change: &ApprovalChange,
    ) -> Result<(), StoreError> {
        let about = format!("{id}{}", change.about(news));
        self.journal(NewRow {
            kind: JournalKind::Approval,
            host,
            segment: 0,
            first: 0,
            last: 0,
            about: &about,
        })
        .await
    }
}
