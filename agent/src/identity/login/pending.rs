//! Sign-ins under way: from `interlock login` until somebody has signed in, or will not.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::AbortHandle;
use zeroize::Zeroizing;

use super::fault::{self, SignInError};
use super::provider::{self, Provider, SignedIn, blocking};
use super::{
    Bound, Caller, Logins, MOST, PersonEvent, PersonKey, Place, SESSION, Seat, What, give_back,
    provider::Browser,
};
use crate::identity::Verified;

/// Sign-ins of one user under way at once, and of all. More are refused.
const PER_USER: usize = 4;
const IN_ALL: usize = 64;

/// Of these, kept for users who have none under way: a few others cannot take all places.
const FIRST: usize = 24;

/// A sign-in that nobody has asked about for so long is given up: the command has ended.
pub(super) const FORGOTTEN: Duration = Duration::from_secs(90);

/// For how long one question after a sign-in is kept waiting: shorter than who asks waits.
const WAIT: Duration = Duration::from_secs(15);

/// For how long a browser may take.
const BROWSER: Duration = Duration::from_secs(15 * 60);

/// By which way somebody signs in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Way {
    /// With a code that is typed on any device (RFC 8628).
    Device,
    /// In a browser on this host (RFC 8252), which comes back to this port of its loopback address.
    Browser {
        /// Where the command listens.
        port: u16,
    },
}

impl Way {
    fn word(self) -> &'static str {
        match self {
            Self::Device => "device",
            Self::Browser { .. } => "browser",
        }
    }
}

/// What the command is told to begin with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Begun {
    /// Names the sign-in from here on; of use to the same process alone.
    pub id: String,
    /// The provider's name in agent.yaml.
    pub issuer: String,
    /// Where to sign in.
    pub url: String,
    /// The same with the code in it.
    pub complete_url: Option<String>,
    /// What to type there.
    pub code: Option<String>,
    /// How long that counts, in seconds.
    pub seconds: u64,
    /// For whom: the host's name and the user's.
    pub who: String,
    /// Where it will count.
    pub place: Place,
    /// Why that is not the login session, where it is not.
    pub note: Option<String>,
}

/// What the browser has brought back to the command's loopback port.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Brought {
    /// Which page it comes from.
    pub state: String,
    /// What the provider gives the tokens for.
    pub code: String,
    /// Which provider it comes from (RFC 9207).
    pub iss: Option<String>,
    /// The provider's word for why it refuses, in place of a code.
    pub error: Option<String>,
}

impl fmt::Debug for Brought {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Brought").field("iss", &self.iss).field("error", &self.error).finish_non_exhaustive()
    }
}

/// How a sign-in went.
type Outcome = Result<Value, String>;

/// One under way.
pub(super) struct Pending {
    pub(super) caller: Caller,
    provider: Arc<Provider>,
    /// Since when somebody must have shown who they are, where a fresh sign-in is asked for.
    since: Option<Timestamp>,
    /// What is compared with what the browser brings; `None` for a device code, or once it was brought.
    browser: Option<Browser>,
    task: Option<AbortHandle>,
    outcome: watch::Receiver<Option<Outcome>>,
    tell: watch::Sender<Option<Outcome>>,
    pub(super) touched: Instant,
    until: Instant,
}

impl Pending {
    /// Nobody waits for it any more.
    pub(super) fn is_forgotten(&self) -> bool {
        let asks = |caller: &Seat| Seat::of(caller.pid, None).is_ok_and(|now| now.start == caller.start);
        self.touched.elapsed() > FORGOTTEN || Instant::now() > self.until || !asks(&self.caller.seat)
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

/// The place of a sign-in that is being begun; free again if that fails.
struct Reserved<'l> {
    logins: &'l Logins,
    id: &'l str,
    kept: bool,
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        if !self.kept {
            self.logins.inner().pending.remove(self.id);
        }
    }
}

impl Logins {
    /// Begins a sign-in for the place of whoever calls.
    ///
    /// # Errors
    /// What the caller is told.
    pub async fn begin(
        self: &Arc<Self>,
        caller: Caller,
        issuer: Option<&str>,
        way: Way,
        fresh: bool,
    ) -> Result<Begun, String> {
        let provider = self.provider(issuer)?;
        let id = interlock_recording::hex(&random()?);
        // Whoever signs in must have shown who they are since now.
        let since = fresh.then(Timestamp::now);
        let (tell, outcome) = watch::channel(None);
        let pending = Pending {
            caller: caller.clone(),
            provider: Arc::clone(&provider),
            since,
            browser: None,
            task: None,
            outcome,
            tell: tell.clone(),
            touched: Instant::now(),
            until: Instant::now() + BROWSER,
        };
        {
            let mut inner = self.inner();
            inner.pending.retain(|_, pending| !pending.is_forgotten());
            let own = inner.pending.values().filter(|pending| pending.caller.uid == caller.uid).count();
            let places = if own == 0 { IN_ALL } else { IN_ALL - FIRST };
            if own >= PER_USER || inner.pending.len() >= places {
                return Err(
                    "too many sign-ins are under way: end one of them (Ctrl-C) and try again".to_owned()
                );
            }
            // Taken before the provider is asked: others begin meanwhile.
            inner.pending.insert(id.clone(), pending);
        }
        let mut reserved = Reserved { logins: self, id: &id, kept: false };
        let (mut browser, mut task) = (None, None);
        let mut until = Instant::now() + BROWSER;
        let mut begun = Begun {
            id: id.clone(),
            issuer: provider.name().to_string(),
            url: String::new(),
            complete_url: None,
            code: None,
            seconds: BROWSER.as_secs(),
            who: who(&caller),
            place: caller.place,
            note: caller.no_session.map(|why| why.to_string()),
        };
        let asked = Arc::clone(&provider);
        match way {
            Way::Device => {
                let device =
                    blocking(move || asked.begin_device(fresh)).await.map_err(|error| error.to_string())?;
                begun.url = device.url();
                begun.complete_url = device.complete_url();
                begun.code = Some(device.code().to_owned());
                begun.seconds = device.lasts().as_secs();
                until = Instant::now() + device.lasts() + FORGOTTEN;
                let logins = Arc::clone(self);
                let finish = tokio::spawn(async move {
                    let signed_in = provider.finish_device(device).await;
                    let signed_in = signed_in.and_then(|signed_in| anew(&provider, signed_in, since));
                    let outcome = logins.settle(&caller, &provider, signed_in, way).await;
                    tell.send_replace(Some(outcome));
                });
                task = Some(finish.abort_handle());
            }
            Way::Browser { port } => {
                let redirect = format!("http://127.0.0.1:{port}/signed-in");
                let (url, sent) = blocking(move || asked.begin_browser(redirect, fresh))
                    .await
                    .map_err(|error| error.to_string())?;
                begun.url = url;
                browser = Some(sent);
            }
        }
        let mut inner = self.inner();
        let Some(pending) = inner.pending.get_mut(&id) else {
            drop(inner);
            if let Some(task) = task {
                task.abort();
            }
            return Err("the sign-in was given up: the provider was too slow".to_owned());
        };
        (pending.browser, pending.task, pending.until) = (browser, task, until);
        pending.touched = Instant::now();
        reserved.kept = true;
        drop(inner);
        Ok(begun)
    }

    /// Waits a while for a sign-in. `None` while nobody has signed in.
    ///
    /// # Errors
    /// Nobody will, or it is none of this process.
    pub async fn wait(&self, seat: &Seat, id: &str) -> Result<Option<Value>, String> {
        let mut outcome = self.of_caller(seat, id, |pending| pending.outcome.clone())?;
        let done = tokio::time::timeout(WAIT, outcome.wait_for(Option::is_some)).await;
        let done = match done {
            Err(_) => return Ok(None),
            Ok(Err(_)) => return Err("the sign-in was given up".to_owned()),
            Ok(Ok(done)) => done.clone(),
        };
        self.inner().pending.remove(id);
        done.transpose()
    }

    /// Takes what a browser has brought back.
    ///
    /// # Errors
    /// Nobody is signed in, or it is none of this process.
    pub async fn brought(self: &Arc<Self>, seat: &Seat, id: &str, brought: Brought) -> Result<Value, String> {
        let state = Zeroizing::new(brought.state);
        let taken = self.of_caller(seat, id, |pending| {
            // Others can reach the port too: what they bring ends nothing.
            let own = pending.browser.as_ref().is_some_and(|browser| browser.is_state(&state));
            let browser = if own { pending.browser.take() } else { None };
            browser.map(|browser| {
                (browser, pending.caller.clone(), Arc::clone(&pending.provider), pending.since)
            })
        })?;
        let Some((browser, caller, provider, since)) = taken else {
            return Err("it belongs to another sign-in (state)".to_owned());
        };
        let asked = Arc::clone(&provider);
        let name = Arc::clone(provider.name());
        let signed_in = match brought.error {
            Some(word) if word == "access_denied" => Err(SignInError::Denied(name)),
            Some(word) => Err(SignInError::Refused(name, fault::said(&word))),
            None => {
                let answer =
                    provider::Brought { state, code: Zeroizing::new(brought.code), iss: brought.iss };
                let signed_in = blocking(move || asked.finish_browser(&browser, &answer)).await;
                signed_in.and_then(|signed_in| anew(&provider, signed_in, since))
            }
        };
        let outcome = self.settle(&caller, &provider, signed_in, Way::Browser { port: 0 }).await;
        if let Some(pending) = self.inner().pending.remove(id) {
            pending.tell.send_replace(Some(outcome.clone()));
        }
        outcome
    }

    /// Works on a sign-in that this process has begun.
    fn of_caller<R>(&self, seat: &Seat, id: &str, work: impl FnOnce(&mut Pending) -> R) -> Result<R, String> {
        let mut inner = self.inner();
        let pending = inner
            .pending
            .get_mut(id)
            .filter(|pending| (pending.caller.seat.pid, pending.caller.seat.start) == (seat.pid, seat.start));
        let pending = pending.ok_or("this process has no such sign-in under way")?;
        pending.touched = Instant::now();
        Ok(work(pending))
    }

    fn provider(&self, name: Option<&str>) -> Result<Arc<Provider>, String> {
        let names = || self.names().iter().map(|name| name.to_string()).collect::<Vec<_>>().join(", ");
        match (name, self.providers.as_slice()) {
            (_, []) => {
                Err("people cannot sign in on this host: agent.yaml has no issuer with `kind: person` under \
                            `identity: {issuers: […]}`"
                    .to_owned())
            }
            (None, [one]) => Ok(Arc::clone(one)),
            (None, _) => Err(format!("say where to sign in, with --issuer: {}", names())),
            (Some(name), all) => {
                all.iter().find(|provider| **provider.name() == *name).cloned().ok_or_else(|| {
                    format!("people cannot sign in at {:?} here, but at {}", fault::said(name), names())
                })
            }
        }
    }

    /// Makes what came of a sign-in count, and tells the recording.
    async fn settle(
        self: &Arc<Self>,
        caller: &Caller,
        provider: &Arc<Provider>,
        signed_in: Result<SignedIn, SignInError>,
        way: Way,
    ) -> Outcome {
        let (logins, provider, caller) = (Arc::clone(self), Arc::clone(provider), caller.clone());
        let work = move || {
            let bound = signed_in
                .map_err(|error| (error.to_string(), None))
                .and_then(|signed_in| logins.bind(&caller, &provider, signed_in, way));
            bound
                .inspect_err(|(reason, person)| {
                    let told = (logins.journal)(&PersonEvent {
                        what: What::Refused { reason },
                        person: person.as_deref(),
                        issuer_name: provider.name(),
                        subject: &caller.subject,
                        place: caller.place,
                        until: None,
                    });
                    if let Err(error) = told {
                        tracing::error!(error, "cannot record that a sign-in was refused");
                    }
                })
                .map_err(|(reason, _)| reason)
        };
        // It waits for the disk, and looks at processes.
        tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(error.to_string()))
    }

    /// Binds who has signed in to the place of whoever called.
    fn bind(
        &self,
        caller: &Caller,
        provider: &Arc<Provider>,
        signed_in: SignedIn,
        way: Way,
    ) -> Result<Value, (String, Option<Box<Verified>>)> {
        let SignedIn { person, signed, refresh } = signed_in;
        let refused = |reason: String| (reason, Some(Box::new(person.clone())));
        let config = provider.issuer().config();
        if let Some(claim) = &config.user_claim {
            let said = person.claim(claim).and_then(Value::as_str).unwrap_or_default();
            let user = user(caller);
            if said.is_empty() || said != user {
                return Err(refused(format!(
                    "{} signed in as {said:?} ({claim}), and who logged in on this host is {user:?}: people sign in \
                     for themselves here",
                    fault::said(&person.name)
                )));
            }
        }
        let mut witness = i32::try_from(caller.seat.pid).ok();
        let still = Seat::of(caller.seat.pid, None).is_ok_and(|now| now.start == caller.seat.start);
        if !still || !caller.place.is_there(&mut witness) {
            return Err(refused("who ran `interlock login` has gone meanwhile".to_owned()));
        }
        let now = Timestamp::now();
        let session = match config.session_minutes {
            Some(minutes) => Some(Duration::from_secs(u64::from(minutes) * 60)),
            None if refresh.is_some() => Some(SESSION),
            None => None,
        };
        let until = session.map_or(person.expires, |session| now.checked_add(session).unwrap_or(now));
        let person = Arc::new(Verified { expires: until, ..person });
        let recheck = Duration::from_secs(u64::from(config.recheck_seconds.max(1)));
        let mut bound = Bound {
            person: Arc::clone(&person),
            signed: Arc::new(signed),
            provider: Arc::clone(provider),
            subject: Arc::clone(&caller.subject),
            since: now,
            until,
            refresh,
            checked: Instant::now(),
            next: Some(Instant::now() + recheck),
            serial: 0,
            witness,
        };
        {
            let inner = self.inner();
            if inner.bound.len() >= MOST && !inner.bound.contains_key(&caller.place) {
                drop(inner);
                give_back(bound);
                return Err(("as many people are signed in on this host as may be".to_owned(), None));
            }
        }
        // On disk before it counts.
        let what = What::SignedIn { way: way.word() };
        if let Err(error) = self.told(caller.place, &bound, &what) {
            give_back(bound);
            return Err((format!("it cannot be recorded: {error}"), None));
        }
        let before = {
            let mut inner = self.inner();
            inner.serial += 1;
            bound.serial = inner.serial;
            inner.bound.insert(caller.place, bound)
        };
        self.changed(caller.place);
        let mut replaced = Value::Null;
        if let Some(before) = before {
            if !PersonKey::of(&before.person).is(&PersonKey::of(&person)) {
                replaced = before.person.name.as_str().into();
            }
            let detail = format!("{} signed in at the same place", fault::said(&person.name));
            // What was replaced counts no more, recorded or not.
            let what = What::SignedOut { reason: "replaced", detail: &detail };
            let _ = self.ended(caller.place, &before, &what);
            give_back(before);
        }
        Ok(json!({
            "person": describe(&person),
            "place": caller.place,
            "until": format!("{until:.0}"),
            "replaced": replaced,
        }))
    }
}

/// A sign-in, if it is as fresh as was asked for.
fn anew(provider: &Provider, signed_in: SignedIn, since: Option<Timestamp>) -> Result<SignedIn, SignInError> {
    match since {
        Some(since) => provider.check_fresh(&signed_in.person, since).map(|()| signed_in),
        None => Ok(signed_in),
    }
}

/// A person as commands show them.
pub(super) fn describe(person: &Verified) -> Value {
    json!({
        "issuer_name": person.issuer_name,
        "issuer": person.issuer,
        "subject": person.subject,
        "name": person.name,
        "groups": person.groups,
        "authenticated": person.authenticated.map(|at| format!("{at:.0}")),
    })
}

/// Who logged in: the login user, else the user of the process.
fn user(caller: &Caller) -> String {
    match caller.place {
        Place::Session { .. } => caller.subject.login_user.clone(),
        Place::Tree { .. } => caller.subject.user.clone(),
    }
}

/// Whose sign-in it is, for whoever is shown it.
fn who(caller: &Caller) -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let Caller { subject, .. } = caller;
    let name = if subject.user.is_empty() { format!("uid {}", subject.uid) } else { subject.user.clone() };
    let login = match subject.login_user.as_str() {
        login if login.is_empty() || login == name => String::new(),
        login => format!(" (logged in as {login})"),
    };
    format!("{name}{login} on {}", host.trim())
}

fn random() -> Result<[u8; 16], String> {
    let mut bytes = [0; 16];
    interlock_recording::fill_random(&mut bytes).map_err(|error| format!("no random numbers: {error}"))?;
    Ok(bytes)
}
