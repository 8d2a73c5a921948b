//! All requests of this agent: who waits for what, what was decided, what is approved for longer.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use interlock_recording::{SessionId, fill_random};
use jiff::Timestamp;
use serde::Serialize;
use tokio::sync::{mpsc, watch};
use tokio::time::Sleep;
use zeroize::Zeroizing;

use super::ahead::Ahead;
use super::case::{Case, NotCounted, Outcome, Vote, Withdrawal};
use super::listed::{Listed, Shown, Similar, decided_by};
use super::memory::{Memory, Remembered};
use super::past::{Past, Pasts};
use super::person::{Approver, Requester};
use super::rate::Rate;
use super::remote::{Remote, Shared};
use super::started::started_by;
use crate::identity::Subject;
use crate::policy::Terms;

/// Most approvals in force for longer than one command; of more the oldest go.
const GRANTS: usize = 4096;

/// Similar requests of the past that are shown.
const SIMILAR: usize = 5;

/// The longest reason, in bytes.
pub const REASON: usize = 1000;

/// Names a request: eight letters and digits that can be told and typed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id([u8; 8]);

/// Without those that are taken for others.
const LETTERS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

impl Id {
    fn new() -> Result<Self, DeskError> {
        let mut random = [0; 8];
        fill_random(&mut random).map_err(|error| DeskError::Random(error.to_string()))?;
        Ok(Self(random.map(|byte| LETTERS.get(usize::from(byte % 32)).copied().unwrap_or(b'0'))))
    }

    /// What somebody has typed.
    pub fn parse(text: &str) -> Option<Self> {
        let bytes: [u8; 8] = text.trim().to_ascii_lowercase().as_bytes().try_into().ok()?;
        bytes.iter().all(|byte| LETTERS.contains(byte)).then_some(Self(bytes))
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(std::str::from_utf8(&self.0).unwrap_or_default())
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Id({self})")
    }
}

impl Serialize for Id {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// How much may be held.
#[derive(Debug, Clone)]
pub struct Bounds {
    /// Commands held at once.
    pub held: usize,
    /// Commands of one user held at once.
    pub held_per_user: usize,
    /// Requests that one user makes within ten minutes.
    pub asked_per_user: usize,
    /// Bytes of the messages that are held, together.
    pub bytes: usize,
    /// How often a client that waits is told so.
    pub remind: Duration,
    /// What the collector may do.
    pub remote: Remote,
    /// The address of its pages.
    pub link: Option<Arc<str>>,
}

/// Why something cannot be asked for, or a request not be found.
#[derive(Debug, thiserror::Error)]
pub enum DeskError {
    /// As many are held as may be.
    #[error("{0} commands wait for approval already")]
    Full(usize),
    /// Of this user.
    #[error("{0} commands of this user wait for approval already")]
    UserFull(usize),
    /// By their size.
    #[error("what waits for approval takes as much memory as it may")]
    Bytes,
    /// This user asks beforehand more often than they may.
    #[error("{0} approvals were asked for beforehand within an hour: wait, and ask for less at a time")]
    TooOften(usize),
    /// This user asks more often than they may.
    #[error(
        "this user has asked for approval {0} times within ten minutes, as often as one may: wait, ask for approval of a \
         shape or a session, or have the host's administrator raise approvals.max_asked_per_user in agent.yaml"
    )]
    Rate(usize),
    /// It is not the time for it.
    #[error("approvals cannot be asked for at this time of day")]
    Closed,
    /// There are no random numbers.
    #[error("no random numbers: {0}")]
    Random(String),
    /// There is no such request, or it is none of the asker's business.
    #[error("there is no request {0} that is open and that you may see")]
    Unknown(String),
    /// The decision does not count.
    #[error(transparent)]
    NotCounted(#[from] NotCounted),
}

/// What commands of one shape by one subject have in common, as a digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape(pub [u8; 32]);

/// What a cancel request of the held session would say.
#[derive(Clone)]
pub struct CancelKey {
    /// The server.
    pub server: SocketAddr,
    /// Process id and secret, as in BackendKeyData.
    pub key: Zeroizing<Box<[u8]>>,
    /// The server is at work on what the session sent before.
    pub running: Arc<AtomicBool>,
}

impl fmt::Debug for CancelKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CancelKey").field("server", &self.server).finish_non_exhaustive()
    }
}

/// What is asked for.
#[derive(Debug)]
pub struct Request {
    /// Who asks.
    pub subject: Arc<Subject>,
    /// Where to.
    pub server: SocketAddr,
    /// Its names.
    pub hosts: Vec<Arc<str>>,
    /// In which session.
    pub session: SessionId,
    /// What approvers see.
    pub shown: Shown,
    /// SHA-256 over the operation with all that belongs to it.
    pub digest: [u8; 32],
    /// What has to be fulfilled.
    pub terms: Arc<Terms>,
    /// Its shape, where it can be approved by that.
    pub shape: Option<Shape>,
    /// The same for any subject: to find similar ones.
    pub likeness: [u8; 32],
    /// What cancels it.
    pub cancel: Option<CancelKey>,
    /// Bytes that are held for it.
    pub bytes: usize,
}

impl Request {
    pub(super) fn requester(&self) -> Requester {
        Requester::of(&self.subject)
    }
}

/// What the flow that waits is told.
#[derive(Debug)]
pub enum Event {
    /// Somebody has approved; more are needed, or [`Event::Over`] follows.
    Vote(Vote),
    /// It is decided.
    Over(Outcome),
}

/// An approval that covers more than one command.
#[derive(Debug, Clone)]
pub struct Grant {
    /// The request that it came by.
    pub request: Id,
    /// Who approved.
    pub by: Arc<[Arc<str>]>,
    /// Under which terms: others make it void.
    pub terms: Arc<Terms>,
    /// What it covers.
    pub covered: Covered,
}

/// What an approval covers beyond its own command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Covered {
    /// The shape, until then.
    Shape(Shape, Instant),
    /// The session.
    Session(SessionId),
}

#[derive(Debug)]
pub(super) struct Open {
    pub(super) case: Case,
    pub(super) request: Request,
    pub(super) asked: Timestamp,
    pub(super) events: mpsc::UnboundedSender<Event>,
    /// It is on disk: others may be told. Then the state of the desk in which that, or its last vote, came.
    pub(super) recorded: Option<u64>,
}

#[derive(Debug, Default)]
pub(super) struct Inner {
    pub(super) open: BTreeMap<Id, Open>,
    pub(super) past: Pasts,
    grants: VecDeque<Grant>,
    bytes: usize,
    rate: Rate,
    /// What concerns the collector.
    pub(super) shared: Shared,
}

/// Where requests lie open.
#[derive(Debug)]
pub struct Desk {
    pub(super) bounds: Bounds,
    inner: Mutex<Inner>,
    ahead: Ahead,
    memory: Memory,
    /// Changes whenever there is something to tell.
    pub(super) changed: watch::Sender<()>,
}

/// A flow's own end of its request. Dropped, the request is withdrawn.
#[derive(Debug)]
pub struct Ticket {
    desk: Arc<Desk>,
    id: Id,
    events: mpsc::UnboundedReceiver<Event>,
    until: Pin<Box<Sleep>>,
}

// === impl Desk ===

impl Desk {
    /// An empty one.
    pub fn new(bounds: Bounds) -> Arc<Self> {
        Self::holding(bounds, Memory::default())
    }

    /// One that knows how requests of earlier agents ended, and lets later ones know: by a file in `state`.
    pub fn remembering(bounds: Bounds, state: &Path) -> Arc<Self> {
        Self::holding(bounds, Memory::open(state))
    }

    fn holding(bounds: Bounds, memory: Memory) -> Arc<Self> {
        Arc::new(Self {
            bounds,
            inner: Mutex::default(),
            ahead: Ahead::default(),
            memory,
            changed: watch::channel(()).0,
        })
    }

    /// How often a client that waits is told so.
    pub fn remind(&self) -> Duration {
        self.bounds.remind
    }

    /// What was asked for before it was sent.
    pub fn ahead(&self) -> &Ahead {
        &self.ahead
    }

    pub(super) fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens a request.
    ///
    /// # Errors
    /// It cannot be asked for now; what is held must be refused.
    pub fn ask(self: &Arc<Self>, mut request: Request) -> Result<Ticket, DeskError> {
        if !request.terms.open_at(Timestamp::now()) {
            return Err(DeskError::Closed);
        }
        request.shown.started_by = started_by(&request.subject);
        let mut inner = self.inner();
        if inner.open.len() >= self.bounds.held {
            return Err(DeskError::Full(inner.open.len()));
        }
        let uid = request.subject.uid;
        let of_user = inner.open.values().filter(|open| open.request.subject.uid == uid).count();
        if of_user >= self.bounds.held_per_user {
            return Err(DeskError::UserFull(of_user));
        }
        if inner.bytes.saturating_add(request.bytes) > self.bounds.bytes {
            return Err(DeskError::Bytes);
        }
        // Whoever logged in, as far as it is known: as which users they do it makes no difference.
        let user = request.subject.login_uid.unwrap_or(uid);
        let counted = inner.rate.ask(user, self.bounds.asked_per_user, Instant::now());
        counted.map_err(DeskError::Rate)?;
        let mut id = Id::new()?;
        while inner.open.contains_key(&id) || inner.past.iter().any(|past| past.id == id) {
            id = Id::new()?;
        }
        let within = request.terms.within;
        let deadline = Instant::now() + within;
        let case =
            Case::new(Arc::clone(&request.terms), request.requester(), request.shape.is_some(), deadline);
        let (events, receiver) = mpsc::unbounded_channel();
        inner.bytes += request.bytes;
        inner.open.insert(id, Open { case, request, asked: Timestamp::now(), events, recorded: None });
        let until = Box::pin(tokio::time::sleep(within));
        Ok(Ticket { desk: Arc::clone(self), id, events: receiver, until })
    }

    /// Works on an open request; takes it off the desk if it is decided then.
    pub(super) fn with<R>(&self, id: Id, work: impl FnOnce(&mut Open) -> R) -> Option<R> {
        let mut inner = self.inner();
        let open = inner.open.get_mut(&id)?;
        let result = work(open);
        if open.case.outcome().is_some()
            && let Some(mut open) = inner.open.remove(&id)
            && let Some(outcome) = open.case.outcome().cloned()
        {
            inner.bytes = inner.bytes.saturating_sub(open.request.bytes);
            let by = open.case.votes().iter().map(|vote| Arc::clone(&vote.by.name)).collect();
            // A secret of the server's, of no more use.
            open.request.cancel = None;
            // A flow that has gone does not hear it.
            let _ = open.events.send(Event::Over(outcome.clone()));
            // What is not on disk nobody is told of.
            let told = open.recorded.is_none();
            if !told {
                inner.shared.ended(id, &open.case, &open.request);
                let _ = self.changed.send(());
            }
            let past = Past { id, asked: open.asked, request: open.request, outcome, by, told };
            let remembered = (!told).then(|| Remembered::of(&past));
            inner.past.add(past);
            drop(inner);
            if let Some(remembered) = remembered {
                self.memory.add(&remembered);
            }
        }
        Some(result)
    }

    /// The same for somebody who has typed a request's name and may see it.
    pub(super) fn decide<R>(
        &self,
        id: &str,
        by: &Approver,
        work: impl FnOnce(&mut Open) -> Result<R, NotCounted>,
    ) -> Result<R, DeskError> {
        let unknown = || DeskError::Unknown(id.chars().take(20).collect());
        let id = Id::parse(id).ok_or_else(unknown)?;
        let decided = self.with(id, |open| {
            if !may_see(by, open.case.terms(), open.case.requester()) {
                return Err(unknown());
            }
            Ok(work(open)?)
        });
        match decided {
            Some(decided) => decided,
            None => {
                let inner = self.inner();
                let past = inner.past.iter().find(|past| past.id == id);
                let seen = past.filter(|past| may_see(by, &past.request.terms, &past.request.requester()));
                Err(seen.map_or_else(unknown, |past| NotCounted::Over(past.outcome.word()).into()))
            }
        }
    }

    /// Somebody approves. Gives how many more approvals are needed at least.
    ///
    /// # Errors
    /// There is no such request, or the approval does not count.
    pub fn approve(&self, id: &str, vote: Vote) -> Result<usize, DeskError> {
        let by = vote.by.clone();
        self.decide(id, &by, |open| {
            let missing = open.case.approve(vote.clone(), Instant::now())?;
            let _ = open.events.send(Event::Vote(vote));
            Ok(missing)
        })
        .inspect(|_| self.news(id))
    }

    /// Somebody refuses.
    ///
    /// # Errors
    /// There is no such request, or it does not count.
    pub fn deny(&self, id: &str, by: &Approver, reason: Arc<str>) -> Result<(), DeskError> {
        self.decide(id, by, |open| open.case.deny(by.clone(), reason, Instant::now()))
    }

    /// Who asks lets it through unapproved.
    ///
    /// # Errors
    /// There is no such request, or it does not count.
    pub fn break_glass(&self, id: &str, by: &Approver, reason: Arc<str>) -> Result<(), DeskError> {
        self.decide(id, by, |open| open.case.break_glass(by.clone(), reason, Instant::now()))
    }

    /// A cancel request came. One for a session whose command is held withdraws that. Says whether that was all
    /// of it: where the server is at work on what came before, it is to get the request too.
    pub fn cancel(&self, server: SocketAddr, key: &[u8]) -> bool {
        let held = |open: &Open| {
            open.request.cancel.as_ref().is_some_and(|cancel| cancel.server == server && **cancel.key == *key)
        };
        let found = self.inner().open.iter().find(|(_, open)| held(open)).map(|(id, open)| {
            let running = open.request.cancel.as_ref().is_some_and(|key| key.running.load(Ordering::Relaxed));
            (*id, running)
        });
        let Some((id, running)) = found else { return false };
        let withdraw = |open: &mut Open| open.case.withdraw(Withdrawal::Cancelled, Instant::now());
        self.with(id, withdraw).unwrap_or(false) && !running
    }

    /// Puts an approval in force that covers more than its own command. It is recorded by now.
    pub fn grant(&self, grant: Grant) {
        let mut inner = self.inner();
        let now = Instant::now();
        inner.grants.retain(|grant| !matches!(grant.covered, Covered::Shape(_, until) if until <= now));
        if inner.grants.len() >= GRANTS {
            inner.grants.pop_front();
        }
        inner.grants.push_back(grant);
    }

    /// The approval that covers an operation already, if one does.
    pub fn granted(&self, session: SessionId, shape: Option<Shape>, terms: &Terms) -> Option<Grant> {
        let now = Instant::now();
        let covers = |grant: &&Grant| {
            *grant.terms == *terms
                && match grant.covered {
                    Covered::Shape(of, until) => Some(of) == shape && now < until,
                    Covered::Session(of) => of == session,
                }
        };
        self.inner().grants.iter().find(covers).cloned()
    }

    /// What was approved for a session ends with it.
    pub fn session_ended(&self, session: SessionId) {
        let mut inner = self.inner();
        if !inner.grants.is_empty() {
            inner.grants.retain(|grant| grant.covered != Covered::Session(session));
        }
    }

    /// How many commands wait.
    pub fn waiting(&self) -> usize {
        self.inner().open.len()
    }

    /// What `viewer` may see: the open requests, oldest first, and with `past` those that were decided.
    pub fn list(&self, viewer: &Approver, past: bool) -> Vec<Listed> {
        let inner = self.inner();
        let mut list: Vec<Listed> = inner
            .past
            .iter()
            .filter(|entry| past && may_see(viewer, &entry.request.terms, &entry.request.requester()))
            .map(Listed::past)
            .collect();
        let open = inner.open.iter();
        let mut open: Vec<_> = open
            .filter(|(_, open)| may_see(viewer, open.case.terms(), open.case.requester()))
            .map(|(id, open)| Listed::open(*id, open))
            .collect();
        open.sort_by_key(|listed| listed.asked);
        list.append(&mut open);
        list
    }

    /// One request with similar ones of the past.
    ///
    /// # Errors
    /// There is none that the viewer may see.
    pub fn show(&self, id: &str, viewer: &Approver) -> Result<Listed, DeskError> {
        let unknown = || DeskError::Unknown(id.chars().take(20).collect());
        let parsed = Id::parse(id).ok_or_else(unknown)?;
        let inner = self.inner();
        let open = inner.open.get(&parsed).map(|open| (Listed::open(parsed, open), &open.request));
        let past = || {
            let past = inner.past.iter().find(|past| past.id == parsed)?;
            Some((Listed::past(past), &past.request))
        };
        let (mut listed, request) = open.or_else(past).ok_or_else(unknown)?;
        if !may_see(viewer, &request.terms, &request.requester()) {
            return Err(unknown());
        }
        let similar = inner.past.iter().rev().filter(|past| {
            past.id != parsed
                && past.request.likeness == request.likeness
                && may_see(viewer, &past.request.terms, &past.request.requester())
        });
        listed.similar = similar
            .map(|past| Similar {
                id: past.id,
                asked: past.asked,
                user: past.request.subject.user.clone(),
                outcome: past.outcome.word(),
                by: decided_by(&past.outcome, &past.by),
            })
            .chain(self.memory.similar(&request.likeness, viewer))
            .take(SIMILAR)
            .collect();
        Ok(listed)
    }
}

/// Approvers see what they may decide on, people what they ask for themselves, and root, who can read the
/// recording, everything.
fn may_see(viewer: &Approver, terms: &Terms, requester: &Requester) -> bool {
    viewer.person().is_some_and(|person| person.uid == 0)
        || viewer.groups.iter().any(|group| terms.groups().contains(&group))
        || requester.surely_is(viewer)
}

// === impl Ticket ===

impl Ticket {
    /// The request's name.
    pub fn id(&self) -> Id {
        self.id
    }

    /// What comes next of it. After [`Event::Over`] nothing does.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        if let Poll::Ready(Some(event)) = self.events.poll_recv(cx) {
            return Poll::Ready(event);
        }
        if self.until.as_mut().poll(cx).is_ready() {
            let over = self.desk.with(self.id, |open| open.case.expire(Instant::now()));
            if over == Some(false) {
                // The timer's clock is coarser than the deadline's.
                self.until.as_mut().reset(tokio::time::Instant::now() + Duration::from_millis(1));
                if self.until.as_mut().poll(cx).is_ready() {
                    cx.waker().wake_by_ref();
                }
            }
            if let Poll::Ready(Some(event)) = self.events.poll_recv(cx) {
                return Poll::Ready(event);
            }
        }
        Poll::Pending
    }

    /// Withdraws the request, unless it is decided: what was decided then comes out of [`Ticket::poll`].
    pub fn withdraw(&self, why: Withdrawal) {
        self.desk.with(self.id, |open| open.case.withdraw(why, Instant::now()));
    }

    /// What has come that was not taken yet.
    pub fn take(&mut self) -> Option<Event> {
        self.events.try_recv().ok()
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.withdraw(Withdrawal::Because("the connection has ended".into()));
    }
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
