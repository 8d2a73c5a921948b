//! Decisions on commands that hosts hold for approval: the one way in for pages, API and whatever else asks people.
//!
//! What has come of requests is told by rows of the journal (`JournalKind::Approval`, about an id and a word of
//! [`ApprovalNews`](crate::store::ApprovalNews)), in the transaction in which it came: who asks people in other ways
//! goes along it as outputs do, and finds all of a request with [`Store::approval`], and whom to ask with
//! [`Store::members`]. When somebody answers, [`Account::of`] and [`decide`].
//!
//! The host checks everything again, and has the last word: [`answer`] waits for it.

pub mod ask;

use std::time::Duration;

use interlock_recording::ledger::proto::entry::Body;
use interlock_recording::ledger::proto::{ApprovalGiven, GlassReviewed};
use interlock_recording::proto::Subject;
use interlock_recording::{fill_random, hex};
use interlock_shipping::v1::{ApprovalAccount, ApprovalVote};
use interlock_shipping::{MAX_NAMES, MAX_REASON, NAME_CLAIMS, Name, Names};
use prost::Message as _;
use sha2::{Digest as _, Sha256};

use crate::administer::By;
use crate::intake::Intake;
use crate::store::{LedgerStoreError, NewVote, OwnerOf, Store, StoreError, Vote, WholeApproval, now_ns};

/// As far as a provider's clock may be ahead.
const SKEW_NS: i64 = 60_000_000_000;

/// How long it is waited for a host to answer.
const PATIENCE: Duration = Duration::from_secs(4);

/// What is said where the rules want a verified person, and an account is of the collector's own.
pub const UNVERIFIED: &str = "the policy takes approvals only of people whom an identity provider has verified: sign in by \
                              an account of your provider";

/// Somebody who decides: an account, and when its owner has shown who they are.
#[derive(Debug, Clone)]
pub struct Account {
    /// Its name.
    pub name: String,
    /// Who its owner is.
    pub owner: OwnerOf,
    /// When its owner last signed in; `None` when that is not known, as of a program with a token.
    pub authenticated_ns: Option<i64>,
}

impl Account {
    /// The account of this name.
    ///
    /// # Errors
    /// The database fails.
    pub async fn of(store: &Store, name: &str, authenticated_ns: Option<i64>) -> Result<Self, StoreError> {
        let authenticated_ns = authenticated_ns.filter(|ns| *ns > 0);
        Ok(Self { name: name.to_owned(), owner: store.owner_of(name).await?, authenticated_ns })
    }

    /// Whether it is the account of who asks, or of who let it through unapproved, as far as can be told. What is
    /// only claimed, as who started a CI job by its environment, counts here too: it can but keep somebody from
    /// deciding.
    pub fn asks(&self, approval: &WholeApproval) -> bool {
        let Ok(subject) = Subject::decode(&*approval.told.subject) else { return true };
        let owner = &self.owner;
        let own = Names::of(&self.name, &owner.email, &owner.logins, &owner.called);
        let item = &approval.item;
        let users = [&item.user, &item.login_user, &subject.user, &subject.login_user];
        let claimed = subject.login_claimed.iter().map(|claimed| &claimed.user);
        let job = subject.workload.iter().map(|job| &job.actor);
        let ci = subject.ci.iter().map(|ci| &ci.actor);
        let broke = approval.standing.by.iter().filter(|_| item.state == "broken_glass");
        let broke = broke.flat_map(|by| [&by.name, &by.login].into_iter().chain(&by.names));
        let verified = [&subject.person, &subject.workload].into_iter().flatten();
        let known = verified.clone().map(|one| (&one.issuer, &one.subject));
        let known = known.chain(
            approval
                .standing
                .by
                .iter()
                .filter(|_| item.state == "broken_glass")
                .map(|by| (&by.issuer, &by.subject)),
        );
        let signed_in = known.into_iter().any(|(issuer, subject)| owner.is(issuer, subject));
        let shown = subject.person.iter().map(|person| Name::shown(&person.name));
        let subjects = subject.person.iter().map(|person| &person.subject);
        let claims = verified.flat_map(|one| {
            let known = one.claims.iter().filter(|(claim, _)| NAME_CLAIMS.contains(&claim.as_str()));
            known.map(|(claim, name)| Name::claimed(claim, name))
        });
        let own_subject = Name::of(&owner.subject);
        signed_in
            || users
                .into_iter()
                .chain(claimed)
                .chain(job)
                .chain(ci)
                .chain(broke)
                .chain(subjects)
                .map(|name| Name::of(name))
                .chain(shown)
                .chain(claims)
                .any(|name| own.may_be(&name) || own_subject.may_be(&name))
    }

    /// Whether its owner has decided on it, here or on the host, as far as can be told.
    pub fn has_decided(&self, approval: &WholeApproval, votes: &[Vote]) -> bool {
        let owner = &self.owner;
        let own = Names::of(&self.name, &owner.email, &owner.logins, &owner.called);
        let by = approval.standing.votes.iter().filter_map(|vote| vote.by.as_ref());
        votes.iter().any(|vote| vote.account == self.name)
            || by.into_iter().any(|by| {
                owner.is(&by.issuer, &by.subject)
                    || [&by.name, &by.login]
                        .into_iter()
                        .chain(&by.names)
                        .any(|name| *name == self.name || own.hold(name))
            })
    }

    /// The groups of it that may decide.
    pub fn entitled(&self, approval: &WholeApproval) -> Vec<String> {
        let named =
            |group: &&String| approval.told.quorums.iter().any(|quorum| quorum.groups.contains(group));
        self.owner.groups.iter().filter(named).cloned().collect()
    }

    /// An identity provider says who its owner is, where the rules ask for that.
    pub fn is_verified(&self, approval: &WholeApproval) -> bool {
        !approval.told.approver_verified || !self.owner.issuer.is_empty()
    }

    /// Its owner has signed in no longer ago than the rules ask for.
    pub fn is_fresh(&self, approval: &WholeApproval) -> bool {
        let fresh =
            i64::try_from(approval.told.fresh_seconds).unwrap_or(i64::MAX).saturating_mul(1_000_000_000);
        // One that is to come is none, as far as the clocks agree.
        let ago = |at: i64| now_ns().saturating_sub(at);
        fresh == 0 || self.authenticated_ns.is_some_and(|at| (-SKEW_NS..=fresh).contains(&ago(at)))
    }
}

/// What somebody decides.
#[derive(Debug, Clone)]
pub struct Decision {
    /// They approve; else they refuse.
    pub approve: bool,
    /// once, shape or session.
    pub scope: String,
    /// A shape for so many minutes; as long as the rules allow, when `None`.
    pub minutes: Option<u32>,
    /// Why.
    pub reason: String,
    /// By which way it came: web, api, or the name of another.
    pub via: &'static str,
}

/// Why a decision is not passed on.
#[derive(Debug, thiserror::Error)]
pub enum DecideError {
    /// There is no such request, or it is none of theirs.
    #[error("there is no such request")]
    NotFound,
    /// They are in none of the groups.
    #[error("only members of {0} decide on this, whatever their role here")]
    NotMember(String),
    /// They ask for it themselves.
    #[error("nobody decides on their own request")]
    Own,
    /// They have decided on it.
    #[error("whoever has decided on it does not look into it afterwards")]
    Decided,
    /// It is over.
    #[error("it is {0} already")]
    Over(String),
    /// The host or the rules do not let it be approved from here.
    #[error("{0}")]
    NotFromHere(&'static str),
    /// They must sign in again first.
    #[error("the policy asks for a sign-in within {} minutes: sign in again, then approve it", .0.div_ceil(60))]
    Stale(u64),
    /// It is not in order.
    #[error("{0}")]
    Invalid(String),
    /// They have said so before.
    #[error("you have {0} it already")]
    Twice(&'static str),
    /// The system gives no random bytes.
    #[error("the system gives no random bytes: {0}")]
    Random(#[from] std::io::Error),
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The ledger failed.
    #[error(transparent)]
    Ledger(#[from] LedgerStoreError),
}

/// Checks what can be checked here of a decision.
fn check(account: &Account, approval: &WholeApproval, decision: &Decision) -> Result<(), DecideError> {
    let told = &approval.told;
    if account.entitled(approval).is_empty() {
        let mut groups: Vec<&str> =
            told.quorums.iter().flat_map(|quorum| &quorum.groups).map(String::as_str).collect();
        groups.sort_unstable();
        groups.dedup();
        return Err(DecideError::NotMember(groups.join(", ")));
    }
    if account.asks(approval) {
        return Err(DecideError::Own);
    }
    if approval.item.state != "pending" {
        return Err(DecideError::Over(approval.item.state.replace('_', " ")));
    }
    if decision.reason.len() > MAX_REASON {
        return Err(DecideError::Invalid(format!("a reason has up to {MAX_REASON} bytes")));
    }
    if !decision.approve {
        if decision.reason.is_empty() {
            return Err(DecideError::Invalid("say why you refuse it: whoever asks is told".into()));
        }
        return Ok(());
    }
    if told.collector != "decide" {
        return Err(DecideError::NotFromHere(
            "this host takes no approvals from its collector, only refusals: approve it on the host, with \
             `interlock approvals approve`",
        ));
    }
    let here = told.quorums.iter().any(|quorum| {
        let takes = quorum.via.is_empty() || quorum.via.iter().any(|via| via == "collector");
        takes && quorum.groups.iter().any(|group| account.owner.groups.contains(group))
    });
    if !here {
        return Err(DecideError::NotFromHere(
            "the policy takes approvals only on the host: interlock approvals approve",
        ));
    }
    if !account.is_verified(approval) {
        return Err(DecideError::NotFromHere(UNVERIFIED));
    }
    if !account.is_fresh(approval) {
        return Err(DecideError::Stale(told.fresh_seconds));
    }
    if !told.scopes.contains(&decision.scope) {
        let scopes = told.scopes.join(", ");
        return Err(DecideError::Invalid(format!("the policy lets you approve {scopes}")));
    }
    if told.reason_required && decision.reason.is_empty() {
        return Err(DecideError::Invalid("the policy asks for a reason".into()));
    }
    Ok(())
}

/// Takes somebody's decision on a request, to be passed on to the host; gives the vote's name. It is in the ledger
/// and in the audit trail then.
///
/// # Errors
/// It cannot count, or cannot be kept.
pub async fn decide(
    intake: &Intake,
    by: By<'_>,
    account: &Account,
    id: &str,
    decision: &Decision,
) -> Result<String, DecideError> {
    let mut decision = decision.clone();
    decision.reason = interlock_recording::text::printable(decision.reason.trim()).into_owned();
    let approval = intake.store.approval(id).await?.ok_or(DecideError::NotFound)?;
    if let Err(error) = check(account, &approval, &decision) {
        // What somebody tried who must not is written down.
        if matches!(error, DecideError::NotMember(_) | DecideError::Own) {
            let mut write = intake.store.write().await?;
            write.audit(by.who, "approval.refused", id, &error.to_string(), by.address).await?;
            write.commit().await?;
        }
        return Err(error);
    }
    let mut random = [0; 16];
    fill_random(&mut random)?;
    let vote = hex(&random);
    let owner = &account.owner;
    let mut groups = account.entitled(&approval);
    groups.truncate(MAX_NAMES);
    let authenticated_ns = account.authenticated_ns.and_then(|ns| u64::try_from(ns).ok()).unwrap_or(0);
    let seconds =
        if decision.scope == "shape" { decision.minutes.map_or(0, |m| u64::from(m) * 60) } else { 0 };
    let scope = if decision.approve { decision.scope.as_str() } else { "" };
    let told = ApprovalVote {
        vote: vote.clone(),
        request: approval.told.request.clone(),
        digest: approval.digest.clone(),
        approve: decision.approve,
        scope: scope.to_owned(),
        seconds,
        reason: decision.reason.clone(),
        by: Some(ApprovalAccount {
            name: account.name.clone(),
            logins: owner.logins.clone(),
            email: owner.email.clone(),
            issuer: owner.issuer.clone(),
            subject: owner.subject.clone(),
            called: owner.called.clone(),
            groups: groups.clone(),
            authenticated_ns,
        }),
    };
    let given = ApprovalGiven {
        host: hash(&approval)?,
        request: told.request.clone(),
        digest: told.digest.clone(),
        vote: vote.clone(),
        approved: decision.approve,
        scope: scope.to_owned(),
        reason: decision.reason.clone(),
        who: by.who.to_owned(),
        groups,
        authenticated_ns,
    };
    let new = NewVote {
        vote: &vote,
        approval: id,
        host: &approval.item.host,
        account: &account.name,
        via: decision.via,
        told: &told,
    };
    let (action, done) =
        if decision.approve { ("approval.approve", "approved") } else { ("approval.deny", "refused") };
    let mut write = intake.store.write().await?;
    write.append(vec![Body::ApprovalGiven(given)]).await?;
    if !write.add_vote(&new).await? {
        return Err(DecideError::Twice(done));
    }
    let what = if scope.is_empty() { String::new() } else { format!("{scope}; ") };
    let detail = format!("{what}by {}; vote {vote}; {}", decision.via, decision.reason);
    write.audit(by.who, action, id, &detail, by.address).await?;
    write.commit().await?;
    intake.connected.tell_votes(&approval.item.host);
    intake.connected.change();
    Ok(vote)
}

/// Waits a while for what became of a vote; as it is kept then, `given` when the host has not answered.
///
/// # Errors
/// The database fails.
pub async fn answer(intake: &Intake, vote: &str) -> Result<Option<Vote>, StoreError> {
    let until = tokio::time::Instant::now() + PATIENCE;
    let mut changed = intake.connected.changed();
    loop {
        let found = intake.store.approval_vote(vote).await?;
        let waits = found.as_ref().is_some_and(|vote| vote.state == "given");
        if !waits || tokio::time::Instant::now() >= until {
            return Ok(found);
        }
        tokio::select! {
            _ = changed.changed() => {}
            () = tokio::time::sleep(Duration::from_millis(250)) => {}
        }
    }
}

/// Notes that somebody has looked into a command that went through unapproved.
///
/// # Errors
/// They may not, there is nothing to look into, or the database fails.
pub async fn review(
    intake: &Intake,
    by: By<'_>,
    account: &Account,
    id: &str,
    reason: &str,
) -> Result<(), DecideError> {
    let reason = interlock_recording::text::printable(reason.trim()).into_owned();
    let approval = intake.store.approval(id).await?.ok_or(DecideError::NotFound)?;
    if approval.told.quorums.is_empty() {
        let unknown =
            "it is not known yet which groups may look into it: its host's recording says so when it comes";
        return Err(DecideError::Invalid(unknown.into()));
    }
    if account.entitled(&approval).is_empty() {
        let groups: Vec<&str> =
            approval.told.quorums.iter().flat_map(|quorum| &quorum.groups).map(String::as_str).collect();
        return Err(DecideError::NotMember(groups.join(", ")));
    }
    if account.asks(&approval) {
        return Err(DecideError::Own);
    }
    if account.has_decided(&approval, &intake.store.approval_votes(id).await?) {
        return Err(DecideError::Decided);
    }
    if reason.is_empty() || reason.len() > MAX_REASON {
        return Err(DecideError::Invalid(format!("say in up to {MAX_REASON} bytes what you have found")));
    }
    let reviewed = GlassReviewed {
        host: hash(&approval)?,
        request: approval.told.request.clone(),
        digest: approval.digest.clone(),
        reason: reason.clone(),
        who: by.who.to_owned(),
    };
    let mut write = intake.store.write().await?;
    write.append(vec![Body::GlassReviewed(reviewed)]).await?;
    if !write.review_approval(&approval.item.host, id, &account.name, &reason).await? {
        return Err(DecideError::Invalid("it needs no review, or somebody has reviewed it".into()));
    }
    write.audit(by.who, "approval.review", id, &reason, by.address).await?;
    write.commit().await?;
    intake.connected.change();
    Ok(())
}

/// The host as the ledger names it.
fn hash(approval: &WholeApproval) -> Result<Vec<u8>, StoreError> {
    let digit =
        |pair: &[u8]| std::str::from_utf8(pair).ok().and_then(|pair| u8::from_str_radix(pair, 16).ok());
    let bytes: Option<Vec<u8>> = approval.item.host.as_bytes().chunks(2).map(digit).collect();
    bytes
        .filter(|bytes| bytes.len() == Sha256::output_size())
        .ok_or(StoreError::Damaged("a host's id that is none"))
}
