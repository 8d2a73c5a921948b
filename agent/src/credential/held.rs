//! A secret while it is held: fetched once for all who want it, refreshed before it expires.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::CredentialError;
use super::secret::Secret;
use super::source::{Fetched, Source, SourceError, Stamp, Validity};

/// How long a source that failed is left in peace, so that a script that tries again and again does not
/// have it asked as often.
const PEACE: Duration = Duration::from_secs(2);

/// The longest that the background task sleeps: after a failure, and where nothing is due.
const LOOK: Duration = Duration::from_secs(15);

/// The shortest.
const SHORT: Duration = Duration::from_millis(200);

/// A user's name and password.
pub(crate) struct Login {
    /// The database user.
    pub(crate) user: String,
    password: Secret,
}

impl Login {
    /// The password, to be written to the server and nowhere else.
    pub(crate) fn password(&self) -> &[u8] {
        self.password.expose()
    }

    #[cfg(test)]
    pub(crate) fn new(user: &str, password: &str) -> Self {
        Self { user: user.to_owned(), password: Secret::new(password.as_bytes()).unwrap() }
    }
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login").field("user", &self.user).finish_non_exhaustive()
    }
}

/// A credential's secret.
#[derive(Debug)]
pub(super) struct Held {
    name: Arc<str>,
    /// The configured user.
    user: Option<String>,
    source: Arc<Source>,
    /// Never locked while anything is waited for.
    current: Mutex<Option<Current>>,
    /// When the source last failed, and how, as long as it has not been asked with success again.
    trouble: Mutex<Option<(jiff::Timestamp, SourceError)>>,
    /// Locked while the source is asked, so that it is asked once for all who wait; holds its last failure.
    asking: tokio::sync::Mutex<Option<(Instant, SourceError)>>,
}

#[derive(Debug, Clone)]
struct Current {
    login: Arc<Login>,
    validity: Validity,
    /// Of the file, from before it was read.
    stamp: Option<Stamp>,
    /// When it was fetched, or renewed.
    since: jiff::Timestamp,
}

/// What asking a source once has shown.
#[derive(Debug)]
pub(super) struct Tried {
    /// Whom the agent would log in as.
    pub(super) user: String,
    pub(super) validity: Validity,
    /// A login was made for it that could not be ended again.
    pub(super) left_behind: bool,
}

impl Current {
    fn expired(&self) -> bool {
        self.validity.expires.is_some_and(|at| at <= Instant::now())
    }

    fn due(&self) -> bool {
        self.expired() || self.validity.refresh.is_some_and(|at| at <= Instant::now())
    }
}

impl Held {
    pub(super) fn new(name: Arc<str>, user: Option<String>, source: Source) -> Self {
        Self {
            name,
            user,
            source: Arc::new(source),
            current: Mutex::default(),
            trouble: Mutex::default(),
            asking: Default::default(),
        }
    }

    /// Where it comes from.
    pub(super) fn source(&self) -> &Source {
        &self.source
    }

    /// Asks the source once and keeps nothing. Blocks.
    pub(super) fn try_once(&self) -> Result<Tried, CredentialError> {
        let fetched = self.source.fetch();
        let left_behind = !self.source.give_back();
        let Fetched { user, validity, .. } = fetched.map_err(|error| self.error(error))?;
        let user = self.user.clone().or(user);
        let user = user.ok_or_else(|| CredentialError::NoUser { name: Arc::clone(&self.name) })?;
        Ok(Tried { user, validity, left_behind })
    }

    /// How it is, for `interlock status`.
    pub(super) fn status(&self) -> Value {
        let trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let current = self.current();
        let state = match &current {
            Some(current) if !current.expired() => "held",
            _ if trouble.is_some() => "cannot_be_had",
            Some(_) => "expired",
            None => "not_asked_yet",
        };
        let later = |at: Option<Instant>| {
            let left = at?.saturating_duration_since(Instant::now());
            jiff::Timestamp::now().checked_add(left).ok().map(|at| format!("{at:.0}"))
        };
        let validity = current.as_ref().map(|current| current.validity);
        json!({
            "name": self.name,
            "source": self.source.to_string(),
            "state": state,
            "login_user": current.as_ref().map(|current| &current.login.user).or(self.user.as_ref()),
            "refreshed": current.as_ref().map(|current| format!("{:.0}", current.since)),
            "refresh": validity.and_then(|validity| later(validity.refresh)),
            "expires": validity.and_then(|validity| later(validity.expires)),
            "error": trouble.as_ref().map(|(_, error)| error.to_string()),
            "failed": trouble.as_ref().map(|(at, _)| format!("{at:.0}")),
        })
    }

    fn current(&self) -> Option<Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What is held, if it may be used. That it is due to be refreshed is the background task's to see.
    fn usable(&self) -> Option<Arc<Login>> {
        let current = self.current()?;
        (!current.expired() && current.stamp == self.source.stamp()).then_some(current.login)
    }

    /// The login in force.
    pub(super) async fn get(&self) -> Result<Arc<Login>, CredentialError> {
        if let Some(login) = self.usable() {
            return Ok(login);
        }
        let mut failed = self.asking.lock().await;
        match self.usable() {
            Some(login) => Ok(login),
            None => self.fetch(&mut failed).await,
        }
    }

    /// One fetched after `refused` was; the same again when the source has no other.
    pub(super) async fn get_other_than(&self, refused: &Login) -> Result<Arc<Login>, CredentialError> {
        let mut failed = self.asking.lock().await;
        match self.usable() {
            // Another flow was refused, too, and has asked already.
            Some(login) if !std::ptr::eq(&*login, refused) => Ok(login),
            _ => self.fetch(&mut failed).await,
        }
    }

    /// Fetches from slow sources before a flow needs it, and before it expires. Ends never, but for files,
    /// which are looked at each time.
    pub(super) async fn keep_fresh(&self) {
        if matches!(*self.source, Source::File(_)) {
            return;
        }
        loop {
            if self.current().is_none_or(|current| current.due()) {
                let mut failed = self.asking.lock().await;
                if let Err(error) = self.refresh(&mut failed).await {
                    let held = self.usable().is_some();
                    tracing::warn!(
                        %error,
                        "cannot refresh a password; until it can be {}",
                        if held { "the one held stays in use" } else { "its connections are refused" }
                    );
                }
            }
            let next = self.current().and_then(|current| current.validity.refresh);
            let wait = next.map_or(LOOK, |at| at.saturating_duration_since(Instant::now()));
            tokio::time::sleep(wait.clamp(SHORT, LOOK)).await;
        }
    }

    /// Has what is held last longer, or fetches it anew.
    async fn refresh(&self, failed: &mut Option<(Instant, SourceError)>) -> Result<(), CredentialError> {
        if self.usable().is_some() {
            let source = Arc::clone(&self.source);
            if let Ok(Some(validity)) = tokio::task::spawn_blocking(move || source.renew()).await {
                let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(current) = current.as_mut() {
                    current.validity = validity;
                    current.since = jiff::Timestamp::now();
                }
                return Ok(());
            }
        }
        self.fetch(failed).await.map(drop)
    }

    /// Fetches it. A failure leaves what is held as it is: whoever asks decides whether that will do.
    async fn fetch(
        &self,
        failed: &mut Option<(Instant, SourceError)>,
    ) -> Result<Arc<Login>, CredentialError> {
        if let Some((at, error)) = failed
            && at.elapsed() < PEACE
            && !matches!(*self.source, Source::File(_))
        {
            return Err(self.error(error.clone()));
        }
        let source = Arc::clone(&self.source);
        let fetched = tokio::task::spawn_blocking(move || (source.stamp(), source.fetch())).await;
        let (stamp, fetched) = match fetched {
            Ok((stamp, Ok(fetched))) => (stamp, fetched),
            Ok((_, Err(error))) => {
                tracing::warn!(credential = %self.name, source = %self.source, %error, "a password cannot be had");
                *failed = Some((Instant::now(), error.clone()));
                self.note(Some(&error));
                return Err(self.error(error));
            }
            Err(_) => {
                let error = SourceError {
                    problem: "the agent failed while asking for it".to_owned(),
                    help: "see the agent's log".to_owned(),
                    forbidden: false,
                };
                return Err(self.error(error));
            }
        };
        let Fetched { user, password, validity } = fetched;
        let user = self.user.clone().or(user);
        let user = user.ok_or_else(|| CredentialError::NoUser { name: Arc::clone(&self.name) })?;
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let login = match current.take() {
            // The same, so that nobody takes it for another.
            Some(known) if known.login.user == user && known.login.password() == password.expose() => {
                known.login
            }
            known => {
                if known.is_some() {
                    tracing::info!(credential = %self.name, source = %self.source, user, "a password has changed");
                }
                Arc::new(Login { user, password })
            }
        };
        *failed = None;
        self.note(None);
        *current =
            Some(Current { login: Arc::clone(&login), validity, stamp, since: jiff::Timestamp::now() });
        Ok(login)
    }

    /// Notes for `interlock status` how asking the source went.
    fn note(&self, error: Option<&SourceError>) {
        let mut trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        *trouble = error.map(|error| (jiff::Timestamp::now(), error.clone()));
    }

    fn error(&self, error: SourceError) -> CredentialError {
        CredentialError::Source { name: Arc::clone(&self.name), error }
    }
}
