//! People's verified identity on this host: who has signed in at an identity provider, for which login
//! session or process tree, and until when.
//!
//! [`Logins`] knows them all. `interlock login` begins a sign-in over the control socket ([`Logins::begin`]);
//! the agent itself talks to the provider (`provider`); once somebody is verified they are bound to the
//! [`Place`] that the command was run in. Whoever asks who stands behind a process asks [`Logins::person`].
//! Nothing is kept over the agent's end, tokens least of all: after a restart people sign in anew. So there
//! is no file of sessions that could be stolen, forged, or read after the host was started again, when its
//! audit sessions are counted from one.

pub mod cli;
mod fault;
mod keep;
mod loopback;
mod pending;
mod place;
mod provider;
mod watch;

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use tokio::sync::Semaphore;
use zeroize::Zeroizing;

use super::oidc::Issuers;
use super::tracer::tracer_of;
use super::{IdentityKind, Subject, Verified};
use pending::Pending;
use provider::Provider;

pub use fault::SignInError;
pub use pending::{Begun, Brought, Way};
pub use place::{NoSession, Place, PlaceError, Seat};
pub use watch::Watched;

/// For how long a sign-in counts where agent.yaml does not say.
const SESSION: Duration = Duration::from_secs(8 * 3600);

/// Most people who are signed in at once.
const MOST: usize = 4096;

/// How a sign-in or what became of it is told to the recording.
#[derive(Debug)]
pub struct PersonEvent<'a> {
    /// What happened.
    pub what: What<'a>,
    /// Who it is about, if that is known.
    pub person: Option<&'a Verified>,
    /// The issuer's name in agent.yaml.
    pub issuer_name: &'a str,
    /// The process that ran `interlock login`.
    pub subject: &'a Subject,
    /// Where the sign-in counts.
    pub place: Place,
    /// Until when.
    pub until: Option<Timestamp>,
}

/// What happened to a sign-in.
#[derive(Debug)]
pub enum What<'a> {
    /// Somebody signed in.
    SignedIn {
        /// `device` or `browser`.
        way: &'a str,
    },
    /// A sign-in ended before its time.
    SignedOut {
        /// `logout`, `replaced`, `revoked`, `session_ended` or `unchecked`.
        reason: &'a str,
        /// In more words.
        detail: &'a str,
    },
    /// A sign-in ended by its time.
    Expired,
    /// The provider names other groups than before.
    GroupsChanged {
        /// Those of before.
        before: &'a [String],
    },
    /// Nobody was signed in.
    Refused {
        /// Why.
        reason: &'a str,
    },
}

/// Takes events to the recording; the error says why it cannot.
pub type Journal = Box<dyn Fn(&PersonEvent<'_>) -> Result<(), String> + Send + Sync>;

/// Who asks for something over the control socket.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The process.
    pub seat: Seat,
    /// Whose it is.
    pub uid: u32,
    /// All that is known of it.
    pub subject: Arc<Subject>,
    /// Where it may sign in,
    pub place: Place,
    /// and why that is not its login session, where it is not.
    pub no_session: Option<NoSession>,
}

/// A sign-in that counts.
struct Bound {
    person: Arc<Verified>,
    /// The same with nothing but what the provider has signed.
    signed: Arc<Verified>,
    provider: Arc<Provider>,
    /// Who ran `interlock login`.
    subject: Arc<Subject>,
    since: Timestamp,
    until: Timestamp,
    /// What the provider is asked with whether it still counts.
    refresh: Option<Zeroizing<String>>,
    /// When it last said so.
    checked: Instant,
    /// When it is asked again; `None` while that is under way.
    next: Option<Instant>,
    /// Tells this sign-in from a later one at the same place.
    serial: u64,
    /// A process of the place.
    witness: Option<i32>,
}

#[derive(Default)]
struct Inner {
    bound: HashMap<Place, Bound>,
    pending: HashMap<String, Pending>,
    serial: u64,
}

/// Flows that are told of changes, by number.
#[derive(Debug, Default)]
struct Watches {
    all: HashMap<u64, Arc<watch::Watch>>,
    last: u64,
}

/// All who are signed in on this host.
pub struct Logins {
    providers: Vec<Arc<Provider>>,
    inner: Mutex<Inner>,
    /// Counted up whenever [`Logins::person`] may answer something else.
    generation: AtomicU64,
    watches: Mutex<Watches>,
    journal: Journal,
}

/// What tells one verified person from another, whichever user or login session they come by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PersonKey {
    subject: [u8; 32],
    email: Option<[u8; 32]>,
}

/// Who is signed in at a place, as `interlock whoami` tells it.
#[derive(Debug, Clone)]
pub struct Standing {
    /// Who.
    pub person: Arc<Verified>,
    /// Where.
    pub place: Place,
    /// Since when.
    pub since: Timestamp,
    /// Until when at most.
    pub until: Timestamp,
    /// The provider is asked again and again whether it still counts.
    pub checked: bool,
}

// === impl Bound ===

impl Bound {
    /// What is told of it, without what it is refreshed with.
    fn snapshot(&self) -> Self {
        Self {
            person: Arc::clone(&self.person),
            signed: Arc::clone(&self.signed),
            provider: Arc::clone(&self.provider),
            subject: Arc::clone(&self.subject),
            refresh: None,
            ..*self
        }
    }
}

// === impl PersonKey ===

impl PersonKey {
    /// Of somebody whom an issuer has verified.
    pub fn of(person: &Verified) -> Self {
        // Only an address that the provider has verified: any other is a claim.
        let verified = person
            .claims
            .get("email_verified")
            .is_some_and(|verified| verified == &Value::Bool(true) || verified.as_str() == Some("true"));
        let email = person
            .claims
            .get("email")
            .and_then(Value::as_str)
            .filter(|email| verified && email.contains('@'));
        Self {
            subject: Self::digest("subject", [&person.issuer, &person.subject]),
            email: email.map(Self::address),
        }
    }

    fn address(email: &str) -> [u8; 32] {
        Self::digest("email", [&email.trim().to_lowercase(), ""])
    }

    fn digest(kind: &str, parts: [&str; 2]) -> [u8; 32] {
        let mut hasher = Sha256::new();
        hasher.update(kind);
        for part in parts {
            hasher.update((part.len() as u64).to_be_bytes());
            hasher.update(part);
        }
        hasher.finalize().into()
    }

    /// Whether the provider has verified that they have this e-mail address.
    pub fn has_address(&self, email: &str) -> bool {
        email.contains('@') && self.email == Some(Self::address(email))
    }

    /// Whether both are one person: the same subject of the same issuer, or the same verified address.
    pub fn is(&self, other: &Self) -> bool {
        self.subject == other.subject || self.email.is_some() && self.email == other.email
    }
}

/// How long before `now` a person has proved who they are, as their provider says (`auth_time`): what a rule that
/// asks for a fresh sign-in goes by. `None` where it does not say, or names a time to come.
pub fn signed_in_ago(person: &Verified, now: Timestamp) -> Option<Duration> {
    let ago = now.duration_since(person.authenticated?);
    // A clock that runs ahead by a little is none of the person's doing.
    (ago.as_secs() >= -60).then(|| Duration::try_from(ago).unwrap_or_default())
}

// === impl Logins ===

impl fmt::Debug for Logins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Logins").field("providers", &self.providers).finish_non_exhaustive()
    }
}

impl Logins {
    /// Nobody is signed in yet. `journal` records what happens.
    ///
    /// # Errors
    /// A provider's client secret cannot be read, or it has no client id.
    pub fn new(issuers: &Issuers, journal: Journal) -> anyhow::Result<Arc<Self>> {
        let providers = issuers.of_kind(IdentityKind::Person).map(|issuer| Provider::new(Arc::clone(issuer)));
        let providers = providers.map(|provider| provider.map(Arc::new)).collect::<anyhow::Result<_>>()?;
        let (inner, generation, watches) = (Mutex::default(), AtomicU64::new(0), Mutex::default());
        Ok(Arc::new(Self { providers, inner, generation, watches, journal }))
    }

    /// People can sign in at all.
    pub fn is_offered(&self) -> bool {
        !self.providers.is_empty()
    }

    /// The names of the providers that people can sign in at.
    pub fn names(&self) -> Vec<Arc<str>> {
        self.providers.iter().map(|provider| Arc::clone(provider.name())).collect()
    }

    /// Groups of this issuer's count for approvals.
    pub fn approver_groups(&self, issuer_name: &str) -> bool {
        let of = |provider: &&Arc<Provider>| **provider.name() == *issuer_name;
        self.providers.iter().find(of).is_some_and(|provider| provider.issuer().config().approver_groups)
    }

    /// Counted up whenever somebody signs in or out, or is in other groups. Read it before
    /// [`Logins::person`].
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// How many are signed in.
    pub fn count(&self) -> usize {
        let now = Timestamp::now();
        self.inner().bound.values().filter(|bound| now < bound.until).count()
    }

    /// Who is signed in where a process belongs, if anybody is.
    pub fn person(&self, seat: &Seat) -> Option<Arc<Verified>> {
        self.standing(seat).map(|standing| standing.person)
    }

    /// The same with all that is known of it.
    pub fn standing(&self, seat: &Seat) -> Option<Standing> {
        // Nobody to look for is the common case, and costs nothing.
        let trees = {
            let inner = self.inner();
            if inner.bound.is_empty() {
                return None;
            }
            inner.bound.keys().any(|place| matches!(place, Place::Tree { .. }))
        };
        // Not under the lock: it reads /proc.
        let line = if trees { place::line(seat) } else { Vec::new() };
        let session = seat.login.map(|(session, login_uid)| Place::Session { session, login_uid });
        let now = Timestamp::now();
        let inner = self.inner();
        // The nearest process that somebody signed in for, then the login session.
        let (place, bound) = line
            .into_iter()
            .chain(session)
            .find_map(|place| Some((place, inner.bound.get(&place).filter(|bound| now < bound.until)?)))?;
        let standing = Standing {
            person: Arc::clone(&bound.person),
            place,
            since: bound.since,
            until: bound.until,
            checked: bound.refresh.is_some(),
        };
        drop(inner);
        // Another that steers the process, from outside of the place, would act as the person.
        match tracer_of(seat.pid) {
            Some(tracer) if !self.is_of(place, tracer, seat) => None,
            _ => Some(standing),
        }
    }

    /// Whether a process that traces one of `place` is of it too.
    fn is_of(&self, place: Place, tracer: u32, traced: &Seat) -> bool {
        let login = traced.login.map(|(_, login_uid)| login_uid);
        Seat::of(tracer, login).is_ok_and(|tracer| place.has(&tracer))
    }

    /// Signs out whoever is signed in at `place`. Says who it was.
    ///
    /// # Errors
    /// It cannot be recorded; they are signed out all the same.
    pub fn sign_out(&self, place: Place) -> Option<(Arc<Verified>, Result<(), String>)> {
        let bound = self.inner().bound.remove(&place)?;
        let recorded = self.ended(place, &bound, &What::SignedOut { reason: "logout", detail: "" });
        let person = Arc::clone(&bound.person);
        give_back(bound);
        Some((person, recorded))
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Who is signed in at a place has changed. Running flows know when this returns. Not to be called under the
    /// lock.
    fn changed(&self, place: Place) {
        self.generation.fetch_add(1, Ordering::AcqRel);
        self.tell(place);
    }

    /// Records that a sign-in has ended, which it has by now.
    fn ended(&self, place: Place, bound: &Bound, what: &What<'_>) -> Result<(), String> {
        self.changed(place);
        let told = self.told(place, bound, what);
        if let Err(error) = &told {
            tracing::error!(error, "cannot record that a sign-in has ended");
        }
        told
    }

    fn told(&self, place: Place, bound: &Bound, what: &What<'_>) -> Result<(), String> {
        let Bound { person, subject, until, .. } = bound;
        tracing::info!(
            person = %interlock_recording::text::printable(&person.name),
            issuer = %person.issuer_name,
            %place,
            "{}",
            what.word()
        );
        (self.journal)(&PersonEvent {
            what: what.again(),
            person: Some(person),
            issuer_name: &person.issuer_name,
            subject,
            place,
            until: Some(*until),
        })
    }
}

impl<'a> What<'a> {
    /// Its word in the log.
    fn word(&self) -> &'static str {
        match self {
            Self::SignedIn { .. } => "a person has signed in",
            Self::SignedOut { .. } => "a person is signed out",
            Self::Expired => "a person's sign-in has expired",
            Self::GroupsChanged { .. } => "a person is in other groups",
            Self::Refused { .. } => "nobody was signed in",
        }
    }

    fn again(&self) -> What<'a> {
        match *self {
            Self::SignedIn { way } => What::SignedIn { way },
            Self::SignedOut { reason, detail } => What::SignedOut { reason, detail },
            Self::Expired => What::Expired,
            Self::GroupsChanged { before } => What::GroupsChanged { before },
            Self::Refused { reason } => What::Refused { reason },
        }
    }
}

/// Gives the refresh token of a sign-in that has ended back to the provider, as far as it answers.
fn give_back(bound: Bound) {
    /// Few at once: other work waits for the same threads.
    static TURNS: Semaphore = Semaphore::const_new(4);
    let (Some(token), Ok(runtime)) = (bound.refresh, tokio::runtime::Handle::try_current()) else { return };
    let provider = bound.provider;
    // Nobody waits for it.
    runtime.spawn(async move {
        let _turn = TURNS.acquire().await;
        let _ = tokio::task::spawn_blocking(move || provider.revoke(&token)).await;
    });
}

#[cfg(test)]
mod tests;
