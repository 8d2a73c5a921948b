//! What an agent tells of its requests for approval, and what it is told of decisions.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use interlock_shipping::v1::{
    ApprovalAnswer, ApprovalBy, ApprovalName, ApprovalRequest, ApprovalStanding, ApprovalVote, ApprovalsOpen,
};
use interlock_shipping::{MAX_APPROVAL, MAX_REASON};
use prost::Message as _;
use tokio::time::Instant;

use super::Intake;
use crate::store::{HeldBy, HeldUsage, KEPT, StoreError, approval_id, is_request, now_ns, whose};

/// Requests of one host that are kept as open; more are an agent's that has lost its bounds.
const OPEN: i64 = 20_000;
/// Of what a host may have, one user has one part in so many, and so many requests at least: others have room then.
const SHARES: i64 = 4;
const SHARE: i64 = 1000;
/// Users of one host that are counted in one call before it is looked anew who has the most.
const USERS: usize = 4000;
/// Rules, groups of all of them, and approvals, that one request has at most.
const RULES: usize = 64;
const GROUPS: usize = 1024;
const VOTES: usize = 256;
/// Names of one server, and statements of one text. An agent tells of fewer.
const LISTED: usize = 256;
/// Parameters of one command: PostgreSQL's own bound.
const PARAMS: usize = 65_535;
/// Bytes of a name, and of a path or an identifier.
const NAME: usize = 256;
const LONG: usize = 16 << 10;
/// Bytes of how a request stands.
const STANDING: usize = 128 << 10;
/// Bytes that are kept of a request beside what was told.
const ROW: usize = 1024;
/// Each message counts as so many bytes at least towards how fast a host may ship: it is a transaction.
pub(super) const LEAST: usize = 4096;
/// Over a bound, it is looked so often whether there is room again.
const AGAIN: Duration = Duration::from_secs(10);
const DAY_NS: i64 = 86_400 * 1_000_000_000;

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

/// How much is kept of a host's requests, as far as one call knows: what it has taken since it looked is added, what
/// was removed since is found when it looks again.
#[derive(Debug, Default)]
pub(super) struct Room {
    usage: HeldUsage,
    /// Of which user: see `whose`.
    by: HashMap<String, HeldBy>,
    looked: Option<Instant>,
}

impl Room {
    /// Looks how much there is.
    pub(super) async fn look(&mut self, intake: &Intake, host: &str) -> Result<(), StoreError> {
        let since = now_ns().saturating_sub(DAY_NS);
        self.usage = intake.store.held_usage(host, since).await?;
        self.by = intake.store.held_by(host, since).await?;
        self.looked = Some(Instant::now());
        Ok(())
    }

    /// Bytes of the host's requests.
    pub(super) fn bytes(&self) -> u64 {
        u64::try_from(self.usage.bytes).unwrap_or_default()
    }

    /// Why a request of this user of so many bytes is not taken beside so many of recordings.
    fn over(&self, intake: &Intake, whose: &str, recorded: u64, bytes: u64) -> Option<String> {
        let HeldUsage { rows, lately, open, .. } = self.usage;
        if open >= OPEN {
            return Some("more requests for approval are open than an agent holds".to_owned());
        }
        if rows >= KEPT {
            return Some(
                "more requests for approval came within a month than one host may have kept: those beyond are not shown \
                 here, and wait on the host"
                    .to_owned(),
            );
        }
        if intake.quota.is_request_over(lately) {
            return Some(
                "more requests for approval came within a day than may (agents.requests_per_day_per_host): those beyond \
                 are not shown here, and wait on the host"
                    .to_owned(),
            );
        }
        let HeldBy { rows, lately } = self.by.get(whose).copied().unwrap_or_default();
        if rows >= share(KEPT) || intake.quota.is_share_over(lately, share) {
            let who = if whose.is_empty() { "users without a name" } else { whose };
            return Some(format!(
                "more requests for approval of {} came than one user may have of what their host may \
                 (agents.requests_per_day_per_host): further ones of theirs are not shown here, and wait on the host",
                interlock_recording::text::printable(who)
            ));
        }
        intake.quota.is_over(recorded.saturating_add(self.bytes()), bytes).map(|_| {
            "more of its recording and of its requests for approval is to be kept than may be \
             (agents.keep_gib_per_host): further requests are not shown here, and wait on the host"
                .to_owned()
        })
    }
}

/// One user's share of what a host may have.
fn share(all: i64) -> i64 {
    (all / SHARES).max(all.min(SHARE))
}

/// Why a request cannot be one.
fn wrong(told: &ApprovalRequest) -> Option<&'static str> {
    let groups: usize = told.quorums.iter().map(|quorum| quorum.groups.len()).sum();
    let quorum = |quorum: &interlock_shipping::v1::ApprovalQuorum| {
        !quorum.groups.is_empty()
            && quorum.rule.len() <= NAME
            && quorum.groups.iter().all(|group| (1..=NAME).contains(&group.len()))
            && quorum.via.len() <= 2
            && quorum.via.iter().all(|via| via.len() <= NAME)
    };
    let beforehand = told.beforehand.iter().all(|told| {
        told.reason.len() <= 4 * MAX_REASON
            && told.tree_exe.len() <= LONG
            && told.program.len() <= LONG
            && told.time_zone.len() <= NAME
    });
    let short = [&told.step, &told.transaction].into_iter().all(|word| word.len() <= NAME);
    let long = [&told.server, &told.database, &told.db_user, &told.started_by]
        .into_iter()
        .all(|name| name.len() <= LONG);
    if !is_request(&told.request, &told.digest) {
        Some("a request for approval without a name")
    } else if told.encoded_len() > MAX_APPROVAL {
        Some("a request for approval that is too large")
    } else if told.quorums.is_empty()
        || told.quorums.len() > RULES
        || groups > GROUPS
        || !told.quorums.iter().all(quorum)
    {
        Some("a request for approval that nobody, or too many, may decide on")
    } else if !matches!(told.session.len(), 0 | 16) || !matches!(told.likeness.len(), 0 | 32) {
        Some("a request for approval of no session, or like no other")
    } else if !matches!(told.collector.as_str(), "show" | "decide")
        || told.scopes.iter().any(|scope| !matches!(scope.as_str(), "once" | "shape" | "session"))
        || told.scopes.len() > 3
    {
        Some("a request for approval with words that it cannot have")
    } else if !short
        || !long
        || !beforehand
        || told.hosts.len() > LISTED
        || told.hosts.iter().any(|host| host.len() > LONG)
        || told.statements.len() > LISTED
        || told.estimate.as_ref().is_some_and(|estimate| estimate.why_not.len() > LONG)
        || told.params.len() > PARAMS
    {
        Some("a request for approval with more in it than an agent tells")
    } else {
        None
    }
}

/// Whether a request can stand so.
fn stands(told: &ApprovalStanding) -> bool {
    let states = ["pending", "approved", "broken_glass", "denied", "expired", "withdrawn"];
    let by = |by: Option<&ApprovalBy>| {
        by.is_none_or(|by| {
            by.name.len() <= LONG
                && by.login.len() <= LONG
                && by.issuer.len() <= LONG
                && by.subject.len() <= LONG
                && by.via.len() <= NAME
                && by.groups.len() <= GROUPS
                && by.groups.iter().all(|group| group.len() <= LONG)
                && by.names.len() <= GROUPS
                && by.names.iter().all(|name| name.len() <= LONG)
        })
    };
    is_request(&told.request, &told.digest)
        && states.contains(&told.state.as_str())
        && told.votes.len() <= VOTES
        && told.votes.iter().all(|vote| {
            vote.reason.len() <= 4 * MAX_REASON && vote.scope.len() <= NAME && by(vote.by.as_ref())
        })
        && by(told.by.as_ref())
        && told.scope.len() <= NAME
        && told.reason.len() <= 4 * MAX_REASON
        && told.encoded_len() <= STANDING
}

impl Intake {
    /// Takes in a request. `recorded` is how much is kept of the host's recording; what is wrong is said.
    pub(super) async fn take_approval(
        &self,
        room: &mut Room,
        host: &str,
        told: &ApprovalRequest,
        recorded: u64,
    ) -> Result<Result<(), String>, StoreError> {
        if let Some(why) = wrong(told) {
            return Ok(Err(why.to_owned()));
        }
        let bytes = told.encoded_len() + ROW;
        let whose = whose(told);
        if room.by.len() > USERS
            || room.over(self, &whose, recorded, bytes as u64).is_some()
                && room.looked.is_none_or(|looked| looked.elapsed() >= AGAIN)
        {
            room.look(self, host).await?;
        }
        if let Some(why) = room.over(self, &whose, recorded, bytes as u64) {
            // One that is here is told again when the agent begins another call.
            let id = approval_id(host, &told.request, &told.digest);
            return Ok(if self.store.has_approval(&id).await? { Ok(()) } else { Err(why) });
        }
        let mut write = self.store.write().await?;
        let new = write.take_approval(host, told).await?;
        write.commit().await?;
        if new {
            let usage = &mut room.usage;
            usage.rows += 1;
            usage.open += 1;
            usage.lately += 1;
            let by = room.by.entry(whose).or_default();
            by.rows += 1;
            by.lately += 1;
            usage.bytes = usage.bytes.saturating_add(i64::try_from(bytes).unwrap_or(i64::MAX));
            self.connected.change();
        }
        Ok(Ok(()))
    }

    /// Takes in how one stands.
    pub(super) async fn take_standing(
        &self,
        host: &str,
        told: &ApprovalStanding,
    ) -> Result<Result<(), String>, StoreError> {
        if !stands(told) {
            return Ok(Err("how a request for approval stands, in a form that it cannot have".to_owned()));
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
    ) -> Result<Result<(), String>, StoreError> {
        let wrong = |open: &ApprovalName| !is_request(&open.request, &open.digest);
        if i64::try_from(all.open.len()).is_ok_and(|open| open > OPEN) || all.open.iter().any(wrong) {
            return Ok(Err("open requests for approval, in a form that they cannot have".to_owned()));
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
