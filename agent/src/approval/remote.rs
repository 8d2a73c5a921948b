//! What the collector is told of requests, and what it brings.
//!
//! A call to a collector keeps in [`Told`] what it was told; [`Desk::next_news`] gives the next thing to tell,
//! one at a time, so that nothing is copied before it can be sent. A call begins with an empty one, so that a
//! collector that was started anew is right again. Only what is on disk is told.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use interlock_shipping::MAX_REASON;
use jiff::Timestamp;
use serde::Deserialize;
use tokio::sync::watch;

use super::case::{Case, NotCounted, Outcome, Vote};
use super::desk::{Desk, DeskError, Event, Id, Inner, Open, Request};
use super::listed::Shown;
use super::person::{Account, Approver};
use crate::identity::Subject;
use crate::policy::{Scope, Terms};

/// How requests ended is remembered for so many.
const ENDED: usize = 512;
/// What became of votes is remembered for so many: a vote that is told again later is one of its request, which
/// is over by then.
const ANSWERED: usize = 1024;
/// A collector's clock may be ahead by so much.
const AHEAD: Duration = Duration::from_secs(60);

/// What the collector may do about requests of this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Remote {
    /// Nothing: it is not told of them as they are made.
    Off,
    /// Show them, and refuse them.
    #[default]
    Show,
    /// Approve them, too.
    Decide,
}

impl Remote {
    /// Its word in configurations.
    pub fn word(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Show => "show",
            Self::Decide => "decide",
        }
    }
}

/// A request by its name and what it is for.
pub type Name = (Id, [u8; 32]);

/// How a request stands.
#[derive(Debug, Clone)]
pub struct Standing {
    /// The request.
    pub name: Name,
    /// The approvals that counted.
    pub votes: Vec<Vote>,
    /// How many more are needed at least.
    pub missing: usize,
    /// How it ended, and when; `None` while it is open.
    pub outcome: Option<(Outcome, Timestamp)>,
}

/// A request as the collector is told it.
#[derive(Debug, Clone)]
pub struct Opened {
    /// The request.
    pub name: Name,
    /// Since when.
    pub asked: Timestamp,
    /// Until when it is, or was, open.
    pub deadline: Timestamp,
    /// In which session.
    pub session: interlock_recording::SessionId,
    /// What is shown of it.
    pub shown: Shown,
    /// Who asks.
    pub subject: Arc<Subject>,
    /// Where to.
    pub server: std::net::SocketAddr,
    /// Its names.
    pub hosts: Vec<Arc<str>>,
    /// What has to be fulfilled.
    pub terms: Arc<Terms>,
    /// What can be chosen to be covered.
    pub scopes: Vec<Scope>,
    /// The same for commands that are alike.
    pub likeness: [u8; 32],
    /// What the collector may do about it.
    pub remote: Remote,
}

/// Something to tell a collector.
#[derive(Debug)]
pub enum News {
    /// A request.
    Request(Box<Opened>),
    /// How one stands.
    Standing(Box<Standing>),
    /// All that is open, each of which was told.
    All(Vec<Name>),
}

/// What a call to a collector was told.
#[derive(Debug, Default)]
pub struct Told {
    /// Open requests, and the state of the desk in which each was told.
    open: HashMap<Id, u64>,
    /// Requests that had ended.
    past: HashSet<Id>,
    /// How requests ended that did up to this state of the desk.
    ended: u64,
    /// All that was open when the call began.
    complete: bool,
}

/// Somebody decides at the collector.
#[derive(Debug, Clone)]
pub struct RemoteVote {
    /// The request.
    pub request: String,
    /// What they were shown.
    pub digest: [u8; 32],
    /// They approve; else they refuse.
    pub approve: bool,
    /// What it is to cover.
    pub scope: Scope,
    /// A shape for so long.
    pub seconds: u64,
    /// Why.
    pub reason: Arc<str>,
    /// Who.
    pub account: Account,
    /// The groups that the account is in.
    pub groups: Box<[Arc<str>]>,
}

/// What became of a vote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answered {
    /// Why it did not count; `None` when it did.
    pub refused: Option<String>,
    /// How many more approvals are needed at least.
    pub missing: usize,
}

/// The desk's memory of what concerns the collector.
#[derive(Debug, Default)]
pub(super) struct Shared {
    /// Counts what was to be told.
    state: u64,
    ended: VecDeque<(u64, Standing)>,
    answered: VecDeque<(String, Answered)>,
}

impl Shared {
    /// A request that was told, or could have been, has ended.
    pub(super) fn ended(&mut self, id: Id, case: &Case, request: &Request) {
        self.state += 1;
        if self.ended.len() >= ENDED {
            self.ended.pop_front();
        }
        self.ended.push_back((self.state, standing(id, case, request)));
    }
}

fn standing(id: Id, case: &Case, request: &Request) -> Standing {
    Standing {
        name: (id, request.digest),
        votes: case.votes().to_vec(),
        missing: case.missing(),
        outcome: case.outcome().map(|outcome| (outcome.clone(), Timestamp::now())),
    }
}

/// How long ago something was by another host's clock, which may be a little ahead; `None` where it is said to be
/// much later than now.
fn ago(ns: u64, now: Timestamp) -> Option<Duration> {
    let then = Timestamp::from_nanosecond(i128::from(ns)).ok()?;
    let ago = now.duration_since(then);
    match ago.is_negative() {
        true if ago.unsigned_abs() > AHEAD => None,
        true => Some(Duration::ZERO),
        false => Some(ago.unsigned_abs()),
    }
}

impl Desk {
    /// What the collector may do.
    pub fn remote_may(&self) -> Remote {
        self.bounds.remote
    }

    /// The address of the collector's page about a request, where it is known and has one.
    pub fn link(&self, id: Id) -> Option<String> {
        let link = self.bounds.link.as_ref().filter(|_| self.bounds.remote != Remote::Off)?;
        Some(format!("{link}/approvals/{id}"))
    }

    /// Fires whenever there is something to tell.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// A request is on disk: from now on others may be told of it.
    pub fn recorded(&self, id: Id) {
        let mut inner = self.inner();
        inner.shared.state += 1;
        let state = inner.shared.state;
        if let Some(open) = inner.open.get_mut(&id) {
            open.recorded = Some(state);
        }
        drop(inner);
        let _ = self.changed.send(());
    }

    /// Something has changed about an open request.
    pub(super) fn news(&self, id: &str) {
        let Some(id) = Id::parse(id) else { return };
        let mut inner = self.inner();
        let state = inner.shared.state + 1;
        if let Some(open) = inner.open.get_mut(&id)
            && open.recorded.is_some()
        {
            open.recorded = Some(state);
            inner.shared.state = state;
            drop(inner);
            let _ = self.changed.send(());
        }
    }

    /// What is to be told next.
    pub fn next_news(&self, told: &mut Told) -> Option<News> {
        let inner = self.inner();
        let remote = self.bounds.remote;
        if remote == Remote::Off {
            // What was told before it was turned off is open no more.
            return (!std::mem::replace(&mut told.complete, true)).then(|| News::All(Vec::new()));
        }
        // While no collector was there.
        // Whether what an earlier call was told has come there nobody knows: each is told all of them.
        while let Some(past) = inner.past.iter().find(|past| !past.told && !told.past.contains(&past.id)) {
            told.past.insert(past.id);
            let deadline = past.asked.checked_add(past.request.terms.within).unwrap_or(past.asked);
            let known = told.open.contains_key(&past.id);
            if !known {
                let scopes = past.request.terms.scopes.to_vec();
                let opened = opened(past.id, &past.request, past.asked, deadline, scopes, remote);
                return Some(News::Request(opened));
            }
        }
        let ended = inner.shared.ended.partition_point(|(state, _)| *state <= told.ended);
        if let Some((state, standing)) = inner.shared.ended.get(ended) {
            told.ended = *state;
            told.open.remove(&standing.name.0);
            return Some(News::Standing(Box::new(standing.clone())));
        }
        let Inner { open, .. } = &*inner;
        for (id, open) in open {
            let Some(state) = open.recorded else { continue };
            match told.open.get(id) {
                None => {
                    // Without what it was voted, which follows.
                    let state = if open.case.votes().is_empty() { state } else { 0 };
                    told.open.insert(*id, state);
                    return Some(News::Request(open.opened(*id, remote)));
                }
                Some(last) if *last < state => {
                    told.open.insert(*id, state);
                    return Some(News::Standing(Box::new(standing(*id, &open.case, &open.request))));
                }
                Some(_) => {}
            }
        }
        if !std::mem::replace(&mut told.complete, true) {
            let open = open.iter().filter(|(_, open)| open.recorded.is_some());
            return Some(News::All(open.map(|(id, open)| (*id, open.request.digest)).collect()));
        }
        None
    }

    /// Takes what somebody has decided at the collector. The same one again has the same answer, and no other
    /// effect.
    pub fn remote(&self, vote: RemoteVote) -> Answered {
        let id = vote.account.vote.clone();
        let known = |inner: &Inner| {
            let mut answered = inner.shared.answered.iter();
            answered.find(|(vote, _)| *vote == id).map(|(_, answer)| answer.clone())
        };
        if let Some(answer) = known(&self.inner()) {
            return answer;
        }
        let answer = match self.decide_remotely(vote) {
            Ok(missing) => Answered { refused: None, missing },
            Err(error) => Answered { refused: Some(error.to_string()), missing: 0 },
        };
        let mut inner = self.inner();
        if inner.shared.answered.len() >= ANSWERED {
            inner.shared.answered.pop_front();
        }
        inner.shared.answered.push_back((id, answer.clone()));
        answer
    }

    fn decide_remotely(&self, vote: RemoteVote) -> Result<usize, DeskError> {
        let RemoteVote { request, digest, approve, scope, seconds, mut reason, account, groups } = vote;
        if self.bounds.remote == Remote::Off {
            return Err(DeskError::Unknown(request.chars().take(20).collect()));
        }
        if reason.len() > MAX_REASON {
            reason = reason.get(..reason.floor_char_boundary(MAX_REASON)).unwrap_or_default().into();
        }
        let signed_in = account.authenticated_ns.and_then(|ns| ago(ns, Timestamp::now()));
        let by = Approver::of_account(account, groups, signed_in);
        let remote = self.bounds.remote;
        let decided = self.decide(&request, &by, |open| {
            // Before it is on disk nobody can have been shown it.
            if open.recorded.is_none() || open.request.digest != digest {
                return Err(NotCounted::Digest);
            }
            if !approve {
                return open.case.deny(by.clone(), reason, Instant::now()).map(|()| 0);
            }
            if remote != Remote::Decide {
                return Err(NotCounted::NotRemote);
            }
            let subject = &open.request.subject;
            let unnamed = subject.login_claimed.as_ref().is_some_and(|claimed| claimed.user.is_empty());
            if subject.user.is_empty()
                || subject.login_uid.is_some() && subject.login_user.is_empty()
                || unnamed
            {
                return Err(NotCounted::Nameless);
            }
            let vote = Vote { by: by.clone(), reason, scope, seconds };
            let missing = open.case.approve(vote.clone(), Instant::now())?;
            let _ = open.events.send(Event::Vote(vote));
            Ok(missing)
        });
        if decided.is_ok() {
            self.news(&request);
        }
        decided
    }
}

impl Open {
    fn opened(&self, id: Id, remote: Remote) -> Box<Opened> {
        let left = self.case.deadline().saturating_duration_since(Instant::now());
        let deadline = Timestamp::now().checked_add(left).unwrap_or(self.asked);
        opened(id, &self.request, self.asked, deadline, self.case.scopes().collect(), remote)
    }
}

fn opened(
    id: Id,
    request: &Request,
    asked: Timestamp,
    deadline: Timestamp,
    scopes: Vec<Scope>,
    remote: Remote,
) -> Box<Opened> {
    Box::new(Opened {
        name: (id, request.digest),
        asked,
        deadline,
        session: request.session,
        shown: request.shown.clone(),
        subject: Arc::clone(&request.subject),
        server: request.server,
        hosts: request.hosts.clone(),
        terms: Arc::clone(&request.terms),
        scopes,
        likeness: request.likeness,
        remote,
    })
}

#[cfg(test)]
pub(crate) mod tests;
