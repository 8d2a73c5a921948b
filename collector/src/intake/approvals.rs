//! What an agent tells of its requests for approval, and what it is told of decisions.

use std::collections::HashSet;

use interlock_shipping::v1::{
    ApprovalAnswer, ApprovalName, ApprovalRequest, ApprovalStanding, ApprovalVote, ApprovalsOpen,
};
use interlock_shipping::{MAX_APPROVAL, MAX_REASON};
use prost::Message as _;

use super::Intake;
use crate::store::{StoreError, approval_id};

/// Requests of one host that are kept as open; more are an agent's that has lost its bounds.
const OPEN: i64 = 20_000;
/// Requests of one host that are kept at all: those that have ended are kept for a month.
const KEPT: i64 = 50_000;
/// Rules, groups of one, and approvals, that one request has at most.
const RULES: usize = 64;
const GROUPS: usize = 64;
const VOTES: usize = 256;
/// Bytes of a name.
const NAME: usize = 256;

/// What was told in one call.
#[derive(Debug, Default)]
pub(super) struct Votes {
    told: HashSet<String>,
}

impl Votes {
    /// What the agent is to be told now.
    pub(super) async fn next(
        &mut self,
        intake: &Intake,
        host: &str,
    ) -> Result<Vec<ApprovalVote>, StoreError> {
        let (mut votes, void) = intake.store.waiting_votes(host).await?;
        if !void.is_empty() {
            let mut write = intake.store.write().await?;
            for vote in void {
                let why = "the account is disabled, or in none of the groups any more".to_owned();
                let answer = ApprovalAnswer { vote, counted: false, why, missing: 0 };
                write.answer_vote(host, &answer).await?;
            }
            write.commit().await?;
            intake.connected.change();
        }
        votes.retain(|vote| self.told.insert(vote.vote.clone()));
        Ok(votes)
    }

    /// Hears what became of one.
    pub(super) async fn answered(
        &mut self,
        intake: &Intake,
        host: &str,
        answer: &ApprovalAnswer,
    ) -> Result<(), StoreError> {
        if !self.told.remove(&answer.vote) {
            // Nothing was asked.
            return Ok(());
        }
        let mut write = intake.store.write().await?;
        write.answer_vote(host, answer).await?;
        write.commit().await?;
        if !answer.counted {
            tracing::warn!(host, vote = answer.vote, "a decision did not count: {:?}", answer.why);
        }
        intake.connected.change();
        Ok(())
    }
}

/// A request's name and digest as they must be.
fn is_name(request: &str, digest: &[u8]) -> bool {
    request.len() == 8 && request.bytes().all(|byte| byte.is_ascii_alphanumeric()) && digest.len() == 32
}

/// Why a request cannot be one.
fn wrong(told: &ApprovalRequest) -> Option<&'static str> {
    let quorum = |quorum: &interlock_shipping::v1::ApprovalQuorum| {
        quorum.groups.len() <= GROUPS
            && quorum.rule.len() <= NAME
            && quorum.groups.iter().all(|group| group.len() <= NAME)
    };
    if !is_name(&told.request, &told.digest) {
        Some("a request for approval without a name")
    } else if told.encoded_len() > MAX_APPROVAL {
        Some("a request for approval that is too large")
    } else if told.quorums.is_empty() || told.quorums.len() > RULES || !told.quorums.iter().all(quorum) {
        Some("a request for approval that nobody, or too many, may decide on")
    } else {
        None
    }
}

impl Intake {
    /// Takes in a request.
    pub(super) async fn take_approval(
        &self,
        host: &str,
        told: &ApprovalRequest,
    ) -> Result<Result<(), &'static str>, StoreError> {
        if let Some(why) = wrong(told) {
            return Ok(Err(why));
        }
        if self.store.open_approvals_of(host).await? >= OPEN {
            return Ok(Err("more requests for approval are open than an agent holds"));
        }
        if self.store.kept_approvals_of(host).await? >= KEPT {
            return Ok(Err("more requests for approval are kept than one host may have"));
        }
        let mut write = self.store.write().await?;
        write.take_approval(host, told).await?;
        write.commit().await?;
        self.connected.change();
        Ok(Ok(()))
    }

    /// Takes in how one stands.
    pub(super) async fn take_standing(
        &self,
        host: &str,
        told: &ApprovalStanding,
    ) -> Result<Result<(), &'static str>, StoreError> {
        let states = ["pending", "approved", "broken_glass", "denied", "expired", "withdrawn"];
        if !is_name(&told.request, &told.digest)
            || !states.contains(&told.state.as_str())
            || told.votes.len() > VOTES
            || told.votes.iter().any(|vote| vote.reason.len() > 4 * MAX_REASON)
            || told.scope.len() > NAME
            || told.reason.len() > 4 * MAX_REASON
            || told.encoded_len() > MAX_APPROVAL
        {
            return Ok(Err("how a request for approval stands, in a form that it cannot have"));
        }
        let mut write = self.store.write().await?;
        write.take_standing(host, told).await?;
        write.commit().await?;
        self.connected.change();
        Ok(Ok(()))
    }

    /// Takes in which are open.
    pub(super) async fn take_open(
        &self,
        host: &str,
        all: &ApprovalsOpen,
    ) -> Result<Result<(), &'static str>, StoreError> {
        let wrong = |open: &ApprovalName| !is_name(&open.request, &open.digest);
        if i64::try_from(all.open.len()).is_ok_and(|open| open > OPEN) || all.open.iter().any(wrong) {
            return Ok(Err("open requests for approval, in a form that they cannot have"));
        }
        let ids: HashSet<String> =
            all.open.iter().map(|open| approval_id(host, &open.request, &open.digest)).collect();
        let mut write = self.store.write().await?;
        let closed = write.close_approvals(host, &ids).await?;
        write.commit().await?;
        if closed > 0 {
            tracing::info!(host, closed, "requests for approval are open no more");
            self.connected.change();
        }
        Ok(Ok(()))
    }
}
