//! What the collector is told of requests for approval, and the decisions that it brings.

use std::collections::VecDeque;
use std::sync::Arc;

use interlock_shipping::v1::to_collector::Message;
use interlock_shipping::v1::{
    ApprovalAnswer, ApprovalBeforehand, ApprovalBy, ApprovalCounted, ApprovalEstimate, ApprovalName,
    ApprovalParam, ApprovalQuorum, ApprovalRequest, ApprovalStanding, ApprovalStatement, ApprovalVote,
    ApprovalsOpen,
};
use interlock_shipping::{MAX_APPROVAL, MAX_NAMES, MAX_REASON};
use prost::Message as _;
use tokio::sync::watch;

use super::printable;
use crate::approval::{
    Account, Approver, Desk, Name, News, Opened, Outcome, RemoteVote, Standing, Told, Vote, Who, Withdrawal,
};
use crate::policy::{Scope, Terms, Way};
use crate::record::subject_bytes;

/// Answers that wait to be told. A collector that sends more votes hears of those no more in this call.
const ANSWERS: usize = 1024;
/// Ancestors of a process that are told.
const ANCESTORS: usize = 32;
/// Bytes of a vote's name, of an account's name, e-mail address, issuer and subject, and of a group's or login's.
const NAME: usize = 64;
const IDENTITY: usize = 512;
const WORD: usize = 256;

/// One call's part in it.
pub(super) struct Approvals {
    desk: Option<Arc<Desk>>,
    changes: Option<watch::Receiver<()>>,
    told: Told,
    answers: VecDeque<ApprovalAnswer>,
    /// There may be something to tell.
    pub(super) pending: bool,
}

impl Approvals {
    pub(super) fn new(desk: Option<&Arc<Desk>>) -> Self {
        Self {
            desk: desk.cloned(),
            changes: desk.map(|desk| desk.changes()),
            told: Told::default(),
            answers: VecDeque::new(),
            pending: desk.is_some(),
        }
    }

    /// Waits until there is something to tell.
    pub(super) async fn changed(&mut self) {
        let Some(changes) = &mut self.changes else { return std::future::pending().await };
        match changes.changed().await {
            Ok(()) => self.pending = true,
            // The desk has gone.
            Err(_) => self.changes = None,
        }
    }

    /// What is to be told next.
    pub(super) fn next(&mut self) -> Option<Message> {
        let answer = self.answers.pop_front().map(Message::ApprovalAnswer);
        let next = answer.or_else(|| {
            let news = self.desk.as_ref()?.next_news(&mut self.told)?;
            Some(match news {
                News::Request(opened) => Message::ApprovalRequest(request(&opened)),
                News::Standing(standing) => Message::ApprovalStanding(stands(&standing)),
                News::All(all) => {
                    Message::ApprovalsOpen(ApprovalsOpen { open: all.iter().map(name).collect() })
                }
            })
        });
        self.pending = next.is_some();
        next
    }

    /// Takes what somebody has decided at the collector.
    pub(super) fn take(&mut self, vote: ApprovalVote) {
        let Some(desk) = &self.desk else { return };
        let id = printable(&vote.vote);
        let answer = match decision(vote) {
            Ok(vote) => {
                let (request, account) = (vote.request.clone(), Arc::clone(&vote.account.name));
                let approve = vote.approve;
                let answer = desk.remote(vote);
                let (request, account) = (printable(&request), printable(&account));
                match &answer.refused {
                    None => tracing::info!(request, account, approve, "a decision of the collector's counts"),
                    Some(why) => {
                        tracing::warn!(
                            request,
                            account,
                            approve,
                            "a decision of the collector's does not count: {why}"
                        );
                    }
                }
                ApprovalAnswer {
                    vote: id,
                    counted: answer.refused.is_none(),
                    why: answer.refused.unwrap_or_default(),
                    missing: u32::try_from(answer.missing).unwrap_or(u32::MAX),
                }
            }
            Err(why) => ApprovalAnswer { vote: id, counted: false, why: why.to_owned(), missing: 0 },
        };
        if self.answers.len() < ANSWERS {
            self.answers.push_back(answer);
        }
        self.pending = true;
    }
}

/// Reads arbitrary bytes as a decision that a collector tells: the entry for fuzzing.
pub fn exercise(bytes: &[u8]) {
    if let Ok(vote) = ApprovalVote::decode(bytes) {
        let _ = decision(vote);
    }
}

/// What somebody has decided, if it is in order. All of it comes from another host.
fn decision(vote: ApprovalVote) -> Result<RemoteVote, &'static str> {
    let ApprovalVote { vote: id, request, digest, approve, scope, seconds, reason, by } = vote;
    let plain = |id: &str| {
        (1..=NAME).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    if !plain(&id) {
        return Err("a vote without a name of its own");
    }
    let Ok(digest) = digest.try_into() else { return Err("a vote that is for no operation") };
    let scope = match scope.as_str() {
        "once" => Scope::Once,
        "shape" => Scope::Shape,
        "session" => Scope::Session,
        // A refusal has none.
        _ if !approve => Scope::Once,
        _ => return Err("the scope is once, shape or session"),
    };
    let Some(by) = by else { return Err("a vote that is nobody's") };
    let fits = |text: &String| text.len() <= IDENTITY;
    let words = |list: &Vec<String>| list.len() <= MAX_NAMES && list.iter().all(|word| word.len() <= WORD);
    let named = !by.name.is_empty() && [&by.name, &by.email, &by.issuer, &by.subject].into_iter().all(fits);
    if !named || !words(&by.logins) || !words(&by.groups) {
        return Err("an account that is too large, or has no name");
    }
    if reason.len() > MAX_REASON {
        return Err("a reason that is too long");
    }
    let shown = |text: &str| interlock_recording::text::printable(text).trim().to_owned();
    Ok(RemoteVote {
        request,
        digest,
        approve,
        scope,
        seconds: if seconds == 0 { u64::MAX } else { seconds },
        reason: shown(&reason).into(),
        groups: by.groups.into_iter().map(Into::into).collect(),
        account: Account {
            name: shown(&by.name).into(),
            logins: by.logins,
            email: by.email,
            issuer: by.issuer,
            subject: by.subject,
            called: cut(&by.called, WORD),
            authenticated_ns: (by.authenticated_ns > 0).then_some(by.authenticated_ns),
            vote: id,
        },
    })
}

fn name((id, digest): &Name) -> ApprovalName {
    ApprovalName { request: id.to_string(), digest: digest.to_vec() }
}

fn ns(time: jiff::Timestamp) -> u64 {
    u64::try_from(time.as_nanosecond()).unwrap_or(0)
}

fn texts(list: &[Arc<str>]) -> Vec<String> {
    list.iter().map(|text| text.as_ref().to_owned()).collect()
}

fn request(opened: &Opened) -> ApprovalRequest {
    let Opened { name: (id, digest), shown, terms, .. } = opened;
    let mut subject = crate::identity::Subject::clone(&opened.subject);
    subject.ancestors.truncate(ANCESTORS);
    subject.ancestors.iter_mut().for_each(|ancestor| ancestor.argv.clear());
    subject.ci.variables.clear();
    let statement = |does: &crate::approval::Does| ApprovalStatement {
        kinds: does.kinds.clone(),
        classes: does.classes.clone(),
        reads: does.reads.clone(),
        writes: does.writes.clone(),
        functions: does.functions.clone(),
        r#where: does.r#where.clone(),
        limit: does.limit.clone(),
        dynamic: does.dynamic,
        unparsed: does.unparsed.clone(),
    };
    let mut request = ApprovalRequest {
        request: id.to_string(),
        digest: digest.to_vec(),
        session: match &shown.beforehand {
            Some(_) => Vec::new(),
            None => opened.session.as_bytes().to_vec(),
        },
        asked_ns: ns(opened.asked),
        deadline_ns: ns(opened.deadline),
        step: shown.step.to_owned(),
        text: shown.text.clone(),
        params: shown.params.iter().map(|value| ApprovalParam { value: value.clone() }).collect(),
        omitted_params: shown.params_omitted as u64,
        runs: shown.runs.clone(),
        redacted: shown.redacted,
        beforehand: shown.beforehand.as_ref().map(|told| ApprovalBeforehand {
            reason: told.reason.clone(),
            tree_pid: told.tree_pid,
            tree_exe: told.tree_exe.clone(),
            usable_seconds: told.usable_seconds,
            time_zone: told.time_zone.as_deref().unwrap_or_default().to_owned(),
            program: told.program.clone(),
        }),
        statements: shown.statements.iter().map(statement).collect(),
        subject: subject_bytes(&subject),
        server: opened.server.to_string(),
        hosts: texts(&opened.hosts),
        database: shown.database.as_ref().to_owned(),
        db_user: shown.db_user.as_ref().to_owned(),
        transaction: shown.transaction.to_owned(),
        command: shown.command,
        message: shown.message.clone(),
        quorums: quorums(terms),
        scopes: opened.scopes.iter().map(|scope| scope.word().to_owned()).collect(),
        shape_for_seconds: terms.shape_for.as_secs(),
        reason_required: terms.reason_required,
        break_glass: terms.break_glass,
        fresh_seconds: terms.fresh.map_or(0, |fresh| fresh.as_secs()),
        approver_verified: terms.verified,
        started_by: shown.started_by.clone(),
        likeness: opened.likeness.to_vec(),
        collector: opened.remote.word().to_owned(),
        left_ns: ns(opened.deadline).saturating_sub(ns(jiff::Timestamp::now())),
        estimate: shown
            .estimate
            .as_ref()
            .map(|told| ApprovalEstimate { rows: told.rows, why_not: told.why_not.clone() }),
    };
    // What is shown is bounded; who asks names files, whose paths may be long.
    if request.encoded_len() > MAX_APPROVAL {
        subject.ancestors.clear();
        subject.argv.clear();
        subject.missing.push("what the process was called with is left out: it is too long".to_owned());
        request.subject = subject_bytes(&subject);
    }
    request
}

fn quorums(terms: &Terms) -> Vec<ApprovalQuorum> {
    let quorum = |quorum: &crate::policy::Quorum| ApprovalQuorum {
        rule: quorum.rule.as_ref().to_owned(),
        groups: texts(&quorum.groups),
        needed: u32::try_from(quorum.needed).unwrap_or(u32::MAX),
        all_of: quorum.all_of,
        via: quorum.via.iter().map(|way: &Way| way.word().to_owned()).collect(),
    };
    terms.quorums.iter().map(quorum).collect()
}

/// Names of one approver beside those of their users that the collector is told.
const FURTHER_NAMES: usize = 16;
/// Bytes of an issuer and of its subject.
const LONG: usize = 4096;

fn cut(text: &str, most: usize) -> String {
    text.get(..text.floor_char_boundary(most)).unwrap_or_default().to_owned()
}

fn by(approver: &Approver) -> ApprovalBy {
    let (issuer, subject) = match (&approver.verified, &approver.who) {
        (Some(person), _) => (&*person.issuer, person.subject.as_str()),
        (None, Who::Account(account)) => (account.issuer.as_str(), account.subject.as_str()),
        (None, Who::Host(_)) => ("", ""),
    };
    ApprovalBy {
        // One that does not fit is nobody's, rather than somebody else's.
        issuer: if issuer.len() <= LONG { issuer.to_owned() } else { String::new() },
        subject: if subject.len() <= LONG { subject.to_owned() } else { String::new() },
        name: approver.name.as_ref().to_owned(),
        login: approver.login.as_ref().to_owned(),
        via: approver.way().word().to_owned(),
        groups: approver.groups.iter().take(64).map(|group| group.as_ref().to_owned()).collect(),
        names: approver.further_names().take(FURTHER_NAMES).map(|name| cut(name, WORD)).collect(),
    }
}

fn stands(standing: &Standing) -> ApprovalStanding {
    let Standing { name: (id, digest), votes, missing, outcome } = standing;
    let counted = |vote: &Vote| ApprovalCounted {
        by: Some(by(&vote.by)),
        reason: vote.reason.as_ref().to_owned(),
        scope: vote.scope.word().to_owned(),
        seconds: vote.seconds,
    };
    let mut told = ApprovalStanding {
        request: id.to_string(),
        digest: digest.to_vec(),
        state: "pending".to_owned(),
        votes: votes.iter().map(counted).collect(),
        missing: u32::try_from(*missing).unwrap_or(u32::MAX),
        ..ApprovalStanding::default()
    };
    let Some((outcome, at)) = outcome else { return told };
    outcome.word().clone_into(&mut told.state);
    told.at_ns = ns(*at);
    match outcome {
        Outcome::Approved { scope, seconds } => {
            scope.word().clone_into(&mut told.scope);
            told.seconds = *seconds;
        }
        Outcome::BrokenGlass { by: who, reason } | Outcome::Denied { by: who, reason } => {
            told.by = Some(by(who));
            reason.as_ref().clone_into(&mut told.reason);
        }
        Outcome::Withdrawn(Withdrawal::Because(reason)) => reason.as_ref().clone_into(&mut told.reason),
        Outcome::Withdrawn(Withdrawal::Cancelled) => "cancelled by the client".clone_into(&mut told.reason),
        Outcome::Expired => {}
    }
    told
}

#[cfg(test)]
mod tests;
