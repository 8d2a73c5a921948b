//! One request as a state machine without clocks, sockets or locks: `pending`, then exactly one of
//! `approved`, `broken glass`, `denied`, `expired` and `withdrawn`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::person::{Approver, Requester, Who};
use crate::policy::{Quorum, Scope, Terms, Way};

/// One approval.
#[derive(Debug, Clone)]
pub struct Vote {
    /// Whose.
    pub by: Approver,
    /// Why; may be empty.
    pub reason: Arc<str>,
    /// What they mean it to cover,
    pub scope: Scope,
    /// and a shape for how many seconds.
    pub seconds: u64,
}

/// How a request ended.
#[derive(Debug, Clone)]
pub enum Outcome {
    /// It may go on.
    Approved {
        /// What all approvers together cover: the least that any of them said.
        scope: Scope,
        /// A shape for how many seconds.
        seconds: u64,
    },
    /// Who asked has let it through unapproved.
    BrokenGlass {
        /// Who.
        by: Box<Approver>,
        /// Why.
        reason: Arc<str>,
    },
    /// It is refused.
    Denied {
        /// By whom.
        by: Box<Approver>,
        /// Why.
        reason: Arc<str>,
    },
    /// Nobody has decided in time.
    Expired,
    /// It is not wanted any more, or cannot go on.
    Withdrawn(Withdrawal),
}

/// Why a request is withdrawn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Withdrawal {
    /// By a cancel request.
    Cancelled,
    /// For what the text says.
    Because(Arc<str>),
}

impl Outcome {
    /// Its word in recordings.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Approved { .. } => "approved",
            Self::BrokenGlass { .. } => "broken_glass",
            Self::Denied { .. } => "denied",
            Self::Expired => "expired",
            Self::Withdrawn(_) => "withdrawn",
        }
    }

    /// The operation goes on.
    pub fn passes(&self) -> bool {
        matches!(self, Self::Approved { .. } | Self::BrokenGlass { .. })
    }
}

/// Why a decision does not count.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotCounted {
    /// It is decided already.
    #[error("it is {0} already")]
    Over(&'static str),
    /// The approver is in none of the groups.
    #[error("you are in none of the groups that may decide: {0}")]
    NotEntitled(String),
    /// The approver is who asks.
    #[error("nobody decides on their own request, and you are {0} as who asks")]
    Own(&'static str),
    /// The approver has no login user, so it cannot be told that they are not who asks.
    #[error(
        "who asks has a login user and you have none (no loginuid that root was seen to set), so you cannot be \
         told from them: log in anew by ssh, a console or the like"
    )]
    NoLogin,
    /// The process that asks had ended before it could be looked at, so that nobody can be told from who asks.
    #[error(
        "the process that asks had ended before it was known who logged in, so nobody can be told from who asks: have \
         it asked again"
    )]
    Unseen,
    /// They have approved before.
    #[error("you have approved it already; {0} more are needed")]
    Twice(usize),
    /// A reason is needed.
    #[error("a reason is needed")]
    NoReason,
    /// The rules do not allow this scope.
    #[error("the policy lets you approve {0}")]
    Scope(String),
    /// The rules do not allow to break the glass.
    #[error("the policy does not allow to break the glass for this")]
    NoBreakGlass,
    /// The host cannot tell the name of who asks, so that no account can be told from them.
    #[error(
        "this host knows no name of who asks, so accounts cannot be told from them: approve it on the host"
    )]
    Nameless,
    /// It was shown another operation.
    #[error("it is for another operation than the one that waits now: look at it again")]
    Digest,
    /// The rules take no approvals from there.
    #[error("the policy takes approvals only {0}")]
    Way(&'static str),
    /// The host takes no approvals from its collector.
    #[error(
        "this host takes no approvals from its collector, only refusals: approve it on the host, or have its \
         administrator write `approvals: {{collector: decide}}` into agent.yaml"
    )]
    NotRemote,
    /// The sign-in is older than the rules let it be, or it is not known when it was.
    #[error("the policy asks for a sign-in within {0}: {1}")]
    Stale(String, &'static str),
    /// Nobody sits in front of the approver's process: whoever may become that user may have had it started.
    #[error(
        "your process was started by {0}, which runs what anybody has left for it who may become you: approve it from \
         a session of your own (ssh, a console), or at the collector"
    )]
    Background(Arc<str>),
    /// The rules want a person whom an identity provider has verified.
    #[error("the policy takes approvals only of people whom an identity provider has verified: {0}")]
    Unverified(&'static str),
    /// Only who asks may break the glass.
    #[error("only who asks can break the glass, and you are somebody else")]
    NotOwn,
}

/// One request.
#[derive(Debug)]
pub struct Case {
    terms: Arc<Terms>,
    requester: Requester,
    deadline: Instant,
    /// What may be approved can be of a shape.
    shaped: bool,
    votes: Vec<Vote>,
    outcome: Option<Outcome>,
}

impl Case {
    /// A request that is open until `deadline`. Without `shaped` no approval can cover its shape.
    pub fn new(terms: Arc<Terms>, requester: Requester, shaped: bool, deadline: Instant) -> Self {
        Self { terms, requester, deadline, shaped, votes: Vec::new(), outcome: None }
    }

    /// What has to be fulfilled.
    pub fn terms(&self) -> &Arc<Terms> {
        &self.terms
    }

    /// Who asks.
    pub fn requester(&self) -> &Requester {
        &self.requester
    }

    /// Until when it is open.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// The approvals so far.
    pub fn votes(&self) -> &[Vote] {
        &self.votes
    }

    /// How it ended, if it has.
    pub fn outcome(&self) -> Option<&Outcome> {
        self.outcome.as_ref()
    }

    /// What can be chosen to be covered.
    pub fn scopes(&self) -> impl Iterator<Item = Scope> {
        self.terms.scopes.iter().copied().filter(|scope| self.shaped || *scope != Scope::Shape)
    }

    /// The time is over: it expires if it was still open. Says whether it is over now.
    pub fn expire(&mut self, now: Instant) -> bool {
        if self.outcome.is_none() && now >= self.deadline {
            self.outcome = Some(Outcome::Expired);
        }
        self.outcome.is_some()
    }

    /// It is withdrawn, if it was still open.
    pub fn withdraw(&mut self, why: Withdrawal, now: Instant) -> bool {
        if self.expire(now) {
            return false;
        }
        self.outcome = Some(Outcome::Withdrawn(why));
        true
    }

    /// An approval. Says how many more are needed at least.
    ///
    /// # Errors
    /// It does not count.
    pub fn approve(&mut self, vote: Vote, now: Instant) -> Result<usize, NotCounted> {
        self.entitled(&vote.by, now)?;
        if let Some(started_by) = &vote.by.background {
            return Err(NotCounted::Background(Arc::clone(started_by)));
        }
        if self.votes.iter().any(|other| other.by.same(&vote.by).is_some()) {
            return Err(NotCounted::Twice(self.missing()));
        }
        if self.requester.unseen {
            return Err(NotCounted::Unseen);
        }
        self.counts_from_there(&vote.by)?;
        self.fresh(&vote.by)?;
        self.verified(&vote.by)?;
        if self.terms.reason_required && vote.reason.is_empty() {
            return Err(NotCounted::NoReason);
        }
        if !self.scopes().any(|scope| scope == vote.scope) {
            let scopes: Vec<_> = self.scopes().map(Scope::word).collect();
            return Err(NotCounted::Scope(scopes.join(", ")));
        }
        let seconds = vote.seconds.min(self.terms.shape_for.as_secs());
        self.votes.push(Vote { seconds, ..vote });
        let missing = self.missing();
        if missing == 0 {
            // As far as all of them go. A shape and a session have only the one command in common.
            let all = |scope| self.votes.iter().all(|vote| vote.scope == scope);
            let scope = [Scope::Session, Scope::Shape].into_iter().find(|scope| all(*scope));
            let seconds = self.votes.iter().map(|vote| vote.seconds).min().unwrap_or_default();
            self.outcome = Some(Outcome::Approved { scope: scope.unwrap_or(Scope::Once), seconds });
        }
        Ok(missing)
    }

    /// A refusal: one is enough.
    ///
    /// # Errors
    /// It does not count.
    pub fn deny(&mut self, by: Approver, reason: Arc<str>, now: Instant) -> Result<(), NotCounted> {
        self.entitled(&by, now)?;
        if reason.is_empty() {
            return Err(NotCounted::NoReason);
        }
        self.outcome = Some(Outcome::Denied { by: Box::new(by), reason });
        Ok(())
    }

    /// Who asks lets it through.
    ///
    /// # Errors
    /// It does not count.
    pub fn break_glass(&mut self, by: Approver, reason: Arc<str>, now: Instant) -> Result<(), NotCounted> {
        self.still_open(now)?;
        if !self.terms.break_glass {
            return Err(NotCounted::NoBreakGlass);
        }
        if !self.requester.surely_is(&by) {
            return Err(NotCounted::NotOwn);
        }
        if reason.is_empty() {
            return Err(NotCounted::NoReason);
        }
        self.outcome = Some(Outcome::BrokenGlass { by: Box::new(by), reason });
        Ok(())
    }

    fn still_open(&mut self, now: Instant) -> Result<(), NotCounted> {
        self.expire(now);
        match &self.outcome {
            Some(outcome) => Err(NotCounted::Over(outcome.word())),
            None => Ok(()),
        }
    }

    /// `by` may decide.
    fn entitled(&mut self, by: &Approver, now: Instant) -> Result<(), NotCounted> {
        self.still_open(now)?;
        if !self.terms.quorums.iter().any(|quorum| is_in(by, &quorum.groups)) {
            let groups: Vec<_> = self.terms.groups().into_iter().map(|group| &**group).collect();
            return Err(NotCounted::NotEntitled(groups.join(", ")));
        }
        if let Some(same) = self.requester.same(by) {
            return Err(NotCounted::Own(same));
        }
        // An account always says who it is. A login that who asks only claims is enough to need one.
        let nobody = by.person().is_some_and(|person| person.login().is_none());
        if self.requester.person.login_uid.is_some() && nobody {
            return Err(NotCounted::NoLogin);
        }
        Ok(())
    }

    /// A rule takes approvals from where `by` decides.
    fn counts_from_there(&self, by: &Approver) -> Result<(), NotCounted> {
        if self.terms.quorums.iter().any(|quorum| stands_for(by, quorum)) {
            return Ok(());
        }
        Err(NotCounted::Way(match by.way() {
            Way::Host => "at the collector",
            Way::Collector => "on the host: interlock approvals approve",
        }))
    }

    /// They have signed in no longer ago than the rules let it be.
    fn fresh(&self, by: &Approver) -> Result<(), NotCounted> {
        let Some(fresh) = self.terms.fresh else { return Ok(()) };
        if by.signed_in.is_some_and(|ago| ago <= fresh) {
            return Ok(());
        }
        let what = match (&by.who, by.signed_in) {
            (Who::Account(_), Some(_)) => "sign in again",
            (Who::Account(_), None) => "sign in again, with a browser",
            (Who::Host(_), Some(_)) => "sign in again, with `interlock login --fresh`",
            (Who::Host(_), None) => {
                "it is not known when you have shown who you are on this host; sign in with `interlock login --fresh`, or \
                 approve it at the collector"
            }
        };
        Err(NotCounted::Stale(span(fresh), what))
    }

    /// An identity provider says who they are, where the rules want that.
    fn verified(&self, by: &Approver) -> Result<(), NotCounted> {
        match &by.who {
            _ if !self.terms.verified => Ok(()),
            Who::Host(_) if by.verified.is_some() => Ok(()),
            // The collector's word for it.
            Who::Account(account) if !account.issuer.is_empty() => Ok(()),
            Who::Host(_) => Err(NotCounted::Unverified(
                "sign in with `interlock login`, or approve it at the collector by an account of your provider",
            )),
            Who::Account(_) => Err(NotCounted::Unverified("sign in by an account of your provider")),
        }
    }

    /// How many more approvals are needed at least.
    pub fn missing(&self) -> usize {
        self.terms.quorums.iter().map(|quorum| missing(quorum, &self.votes)).max().unwrap_or(1)
    }
}

/// `10 min`, `90 s`.
fn span(time: Duration) -> String {
    match time.as_secs() {
        seconds if seconds % 60 == 0 => format!("{} min", seconds / 60),
        seconds => format!("{seconds} s"),
    }
}

/// `by`'s approval counts for a rule: one of its groups, and from where they decide.
fn stands_for(by: &Approver, quorum: &Quorum) -> bool {
    quorum.takes(by.way()) && is_in(by, &quorum.groups)
}

fn is_in(by: &Approver, groups: &[Arc<str>]) -> bool {
    by.groups.iter().any(|group| groups.contains(group))
}

/// How many more approvals `quorum` needs at least.
fn missing(quorum: &Quorum, votes: &[Vote]) -> usize {
    let counted: Vec<&Vote> = votes.iter().filter(|vote| stands_for(&vote.by, quorum)).collect();
    let missing = quorum.needed.saturating_sub(counted.len());
    if !quorum.all_of {
        return missing;
    }
    // Who stands for which group: as many groups as can have somebody of their own.
    let mut stands_for: Vec<Option<usize>> = vec![None; quorum.groups.len()];
    let filled = (0..counted.len())
        .filter(|vote| {
            let mut seen = vec![false; quorum.groups.len()];
            place(*vote, &counted, quorum, &mut stands_for, &mut seen)
        })
        .count();
    missing.max(quorum.groups.len() - filled)
}

/// Finds a group for `vote`, having those before it move on where they can.
fn place(
    vote: usize,
    votes: &[&Vote],
    quorum: &Quorum,
    stands_for: &mut [Option<usize>],
    seen: &mut [bool],
) -> bool {
    let Some(by) = votes.get(vote).map(|vote| &vote.by) else { return false };
    for (at, group) in quorum.groups.iter().enumerate() {
        // Only those of their own are tried: another vote may still find the others.
        if !by.groups.contains(group) || seen.get_mut(at).is_none_or(|seen| std::mem::replace(seen, true)) {
            continue;
        }
        let holder = stands_for.get(at).copied().flatten();
        if holder.is_none_or(|holder| place(holder, votes, quorum, stands_for, seen)) {
            if let Some(slot) = stands_for.get_mut(at) {
                *slot = Some(vote);
            }
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests;
