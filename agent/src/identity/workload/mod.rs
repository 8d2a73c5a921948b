//! Which job or service a process belongs to, by a token that it holds.
//!
//! [`Workloads::find`] looks where the issuers of agent.yaml say (`places`): in the environment of the process
//! and of its parents, in a file that the process itself can read (`file`), or at the address in the job's
//! environment that gives out tokens (`request`). What it finds it has verified ([`super::oidc`]), and binds
//! to who connected with it first (`bind`): the same token shown by another process tree counts no more there,
//! and is told as [`Misused`]. What two trees show before it is bound counts for neither.
//!
//! All of it blocks. No token is kept: what is kept are hashes, and what the tokens said.

mod bind;
mod file;
mod holder;
mod hosts;
mod kept;
mod places;
mod request;
mod secret;
mod tree;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use super::config::OneHost;
use super::oidc::{Issuer, Issuers};
use super::process::Known;
use super::tracer::{self, tracer_of};
use super::verified::{IdentityKind, Verified};
use bind::Binding;
use file::Readings;
use holder::Refused;
use kept::Word;
use places::Candidate;
use tree::Tree;

pub use bind::Bindings;
pub use holder::OtherHost;
pub(crate) use hosts::{Bound, Linked};

/// A token that was verified is taken to be so for this long, while it counts: then it is verified anew, for
/// its issuer may have withdrawn the key.
const VERIFIED: Duration = Duration::from_secs(5 * 60);

/// What did not hold is not looked at again for this long.
const REFUSED: Duration = Duration::from_secs(3);

/// Most tokens that are remembered.
const MAX_KNOWN: usize = 10_000;

/// A newer token is looked for when this much of its time is left at the most, or a third of it.
const AHEAD: Duration = Duration::from_secs(60);

/// What asks for tokens, and does not say when it ends, belongs to somebody for at least so long after it was last
/// seen with them.
const ASKS: Duration = Duration::from_secs(24 * 60 * 60);

/// The longest that what asks for tokens belongs to somebody without being seen, whatever it says.
const ASKS_MOST: Duration = Duration::from_secs(31 * 24 * 60 * 60);

/// Its end is told anew that often.
const ASKS_TOLD: i64 = 60 * 60;

/// Finds and keeps the workloads of this host.
#[derive(Debug)]
pub struct Workloads {
    issuers: Arc<Issuers>,
    bindings: Arc<Bindings>,
    readings: Arc<Readings>,
    /// What is known of tokens, by a hash of issuer and token.
    known: Mutex<HashMap<[u8; 32], Outcome>>,
    /// [`VERIFIED`], but in tests.
    verified_for: Duration,
}

/// What a workload is looked for for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// A connection: what is found belongs to who connects from then on.
    Flow,
    /// Somebody asks who they are: that makes nothing theirs.
    Question,
}

/// What was found of a process's workload.
#[derive(Debug, Default)]
pub struct Found {
    /// Who it is.
    pub identity: Option<Arc<Verified>>,
    /// Why it is nobody, or not who else might have been: each begins with `workload:`.
    pub why: Vec<String>,
    /// Tokens that it showed and that are not for it.
    pub misused: Vec<Misused>,
}

/// A token that was shown by a process that it is not for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Misused {
    /// What agent.yaml calls its issuer.
    pub issuer_name: Arc<str>,
    /// Tells it from other tokens.
    pub token_hash: String,
    /// Who it is for.
    pub reason: String,
    /// The process at the top of the tree that it is bound to; 0 where it is bound to a container.
    pub owner_pid: u32,
    /// Its user.
    pub owner_uid: u32,
    /// The host that had it first, where it is another one.
    pub other_host: Option<OtherHost>,
}

/// What is known of a token.
#[derive(Debug, Clone)]
struct Outcome {
    result: Result<Arc<Verified>, String>,
    at: Instant,
}

impl Outcome {
    fn counts(&self, verified_for: Duration) -> bool {
        match &self.result {
            Ok(identity) => self.at.elapsed() < verified_for && identity.is_current(Timestamp::now()),
            Err(_) => self.at.elapsed() < REFUSED,
        }
    }
}

/// When a newer token than this one is to be looked for.
fn renew_after(identity: &Verified, since: Timestamp) -> Timestamp {
    let left = identity.expires.duration_since(since).unsigned_abs();
    let ahead = (left / 3).min(AHEAD);
    identity.expires.checked_sub(ahead).unwrap_or(since).max(since)
}

/// Until when what asks for tokens belongs to who shows it: longer than the token that it got last.
fn asks_until(bearer: &str, got: Timestamp, now: Timestamp) -> Timestamp {
    let after = |time: Duration| now.checked_add(time).unwrap_or(now);
    let until = match secret::expires(bearer) {
        Some(end) => end.min(after(ASKS_MOST)),
        None => {
            let least = after(ASKS).as_second();
            Timestamp::from_second(least + ASKS_TOLD - least.rem_euclid(ASKS_TOLD)).unwrap_or(now)
        }
    };
    until.max(got)
}

impl Workloads {
    /// Looks for workloads of these issuers, whose tokens are bound as `bindings` says.
    pub fn new(issuers: Arc<Issuers>, bindings: Arc<Bindings>) -> Self {
        Self { issuers, bindings, readings: Arc::default(), known: Mutex::default(), verified_for: VERIFIED }
    }

    /// Who holds which token.
    pub fn bindings(&self) -> &Arc<Bindings> {
        &self.bindings
    }

    /// When the workload of a flow is to be looked for again: before its token ends, and as often as tokens are
    /// verified anew.
    pub fn next_look(&self, identity: &Verified, now: Timestamp) -> Duration {
        renew_after(identity, now).duration_since(now).unsigned_abs().min(self.verified_for)
    }

    /// With tokens that are verified anew after so long.
    #[cfg(test)]
    pub(crate) fn verifying_after(self, verified_for: Duration) -> Self {
        Self { verified_for, ..self }
    }

    /// There is nobody to look for.
    pub fn is_empty(&self) -> bool {
        self.issuers.of_kind(IdentityKind::Workload).next().is_none()
    }

    /// Which workload a process belongs to. The first issuer in the order of agent.yaml whose token holds
    /// counts. Blocks, for as long as requests to issuers take.
    pub fn find(&self, known: &Known, purpose: Purpose) -> Found {
        let mut found = self.search(known, purpose);
        if let Some(identity) = &found.identity
            && let Some(tracer) = tracer_of(known.pid)
            && self.is_outside(known, tracer, identity)
        {
            let reason = tracer::why(tracer);
            found.why.push(format!("workload: {}: {reason}", identity.issuer_name));
            found.misused.push(Misused {
                issuer_name: Arc::clone(&identity.issuer_name),
                token_hash: identity.token_hash.clone(),
                reason,
                owner_pid: known.pid,
                owner_uid: known.uid,
                other_host: None,
            });
            found.identity = None;
        }
        found
    }

    /// Whether another process has not the identity of this one by itself. Blocks as [`Workloads::find`] does.
    pub(crate) fn is_outside(&self, known: &Known, other: u32, identity: &Verified) -> bool {
        let hash = |known: &Known| Some(self.search(known, Purpose::Question).identity?.token_hash.clone());
        let Some(other) = hash(&Known { pid: other, ..Known::default() }) else { return true };
        // The job may have got a newer token meanwhile.
        other != identity.token_hash && hash(known) != Some(other)
    }

    fn search(&self, known: &Known, purpose: Purpose) -> Found {
        let mut found = Found::default();
        if self.is_empty() {
            return found;
        }
        let Some(tree) = Tree::of(known) else {
            found.why.push("workload: the process had gone before its token could be looked for".to_owned());
            return found;
        };
        for issuer in self.issuers.of_kind(IdentityKind::Workload) {
            let before = found.why.len();
            for candidate in places::candidates(issuer, &tree, &self.readings) {
                let checked = candidate
                    .and_then(|candidate| self.check(issuer, &tree, candidate, purpose, &mut found.misused));
                match checked {
                    // The tree was read while the process was this one.
                    Ok(_) if !tree.is_still_there() => {}
                    Ok(identity) => {
                        found.identity = Some(identity);
                        found.why.clear();
                        return found;
                    }
                    Err(why) => found.why.push(format!("workload: {}: {why}", issuer.name())),
                }
            }
            if found.why.len() == before {
                found.why.push(format!("workload: {}: no token was found", issuer.name()));
            }
        }
        found
    }

    /// Verifies what was found, and binds it to who connects with it.
    fn check(
        &self,
        issuer: &Issuer,
        tree: &Tree,
        candidate: Candidate,
        purpose: Purpose,
        misused: &mut Vec<Misused>,
    ) -> Result<Arc<Verified>, String> {
        let mut refused = |hash: &str, refused: Refused| {
            let reason = refused.to_string();
            if let Some((owner_pid, owner_uid)) = refused.owner() {
                misused.push(Misused {
                    issuer_name: Arc::clone(issuer.name()),
                    token_hash: hash.to_owned(),
                    reason: reason.clone(),
                    owner_pid,
                    owner_uid,
                    other_host: refused.other_host().cloned(),
                });
            }
            reason
        };
        // What asks for tokens is as good as a token, and belongs to somebody once it has got one.
        let (identity, holder, shown, asker, digest, issued) = match candidate {
            Candidate::Token { token, holder, shown } => {
                let identity = self.verified(issuer, &token)?;
                let issued = identity.claim("iat").and_then(secret::issued_at);
                (identity, holder, shown, None, secret::digest_of(&token), issued)
            }
            Candidate::Request { request, holder, shown } => {
                let hash = hex(&request.bearer_hash(issuer));
                self.bindings.is_of(&hash, &holder).map_err(|error| refused(&hash, error))?;
                let (digest, issued) = (secret::digest_of(&shown.value), secret::issued(&shown.value));
                let identity = self.requested(issuer, &request)?;
                let until = asks_until(&shown.value, identity.expires, Timestamp::now());
                (identity, holder, Some(shown), Some((hash, until)), digest, issued)
            }
        };
        // Of a pod the kernel's word says which one it is.
        let said = identity.claim("/kubernetes.io/pod/uid").and_then(serde_json::Value::as_str);
        if let Some(said) = said
            && tree.pod().as_deref() != Some(said)
        {
            let said = said.chars().filter(|c| !c.is_control()).take(64).collect();
            return Err(refused(&identity.token_hash, Refused::Pod(said)));
        }
        let first = asker.as_ref().map_or(&identity.token_hash, |(hash, _)| hash);
        let is_bound = self.bindings.is_of(first, &holder).map_err(|error| refused(first, error))?;
        // Who reads another job's environment is not to be the first by being quick.
        if !is_bound
            && let Some(shown) = shown
            && let Some(rival) = tree.rival(&shown, &holder)
        {
            return Err(refused(&identity.token_hash, rival.rivals()));
        }
        let skew = Duration::from_secs(issuer.config().clock_skew_seconds.into());
        let issued = issued.and_then(|issued| issued.checked_sub(skew).ok());
        if !is_bound && self.bindings.may_be_lost(issued) {
            return Err(refused(first, Refused::Lost));
        }
        let one_host = issuer.config().one_host;
        let told =
            digest.filter(|_| one_host != OneHost::Off).map(|digest| (digest, Arc::clone(issuer.id())));
        let token = Some((&identity.token_hash, identity.expires));
        let asks = asker.as_ref().map(|(hash, until)| (hash, *until));
        for (hash, until) in [token, asks].into_iter().flatten() {
            let bound = match purpose {
                Purpose::Flow => {
                    let told = told.clone().filter(|_| hash == first);
                    let lives = asker.as_ref().is_some_and(|(asker, _)| asker == hash);
                    let binding = Binding { hash, until, lives, uid: tree.account.uid, told };
                    self.bindings.bind(&binding, &holder)
                }
                Purpose::Question => self.bindings.is_of(hash, &holder).map(drop),
            };
            bound.map_err(|error| refused(hash, error))?;
        }
        let counts = match one_host {
            OneHost::Off => Ok(()),
            one_host => self.is_of_this_host(first, digest.is_some(), purpose, one_host),
        };
        counts.map_err(|error| refused(first, error))?;
        Ok(identity)
    }

    /// No other host had it first, as far as that must be known.
    fn is_of_this_host(
        &self,
        hash: &str,
        is_told: bool,
        purpose: Purpose,
        one_host: OneHost,
    ) -> Result<(), Refused> {
        match self.bindings.word(hash, purpose == Purpose::Flow) {
            Some(Word::Own) => Ok(()),
            Some(Word::Other(host)) => Err(Refused::OtherHost(host)),
            None if one_host != OneHost::Required => Ok(()),
            None if !is_told => Err(Refused::NoWord("this one is too short to be told apart by a hash")),
            None if purpose == Purpose::Question => {
                Err(Refused::NoWord("it is asked when the process connects"))
            }
            None => Err(Refused::NoWord("it has not said so yet: see `interlock enroll --status`")),
        }
    }

    fn verified(&self, issuer: &Issuer, token: &Zeroizing<String>) -> Result<Arc<Verified>, String> {
        let key = digest(&[b"token", issuer.name().as_bytes(), token.as_bytes()]);
        if let Some(outcome) = self.known().get(&key).filter(|outcome| outcome.counts(self.verified_for)) {
            return outcome.result.clone();
        }
        let result = issuer.verify(token).map(Arc::new).map_err(|error| error.to_string());
        self.remember(key, result)
    }

    /// Asks for a token, unless the last one counts for a while.
    fn requested(&self, issuer: &Issuer, request: &request::Request) -> Result<Arc<Verified>, String> {
        let key = request.hash(issuer);
        let earlier = self.known().get(&key).cloned();
        let now = Timestamp::now();
        let earlier = match earlier {
            Some(Outcome { result: Err(why), at }) if at.elapsed() < REFUSED => return Err(why),
            Some(Outcome { result: Ok(identity), at }) => {
                // Instants do not tell the time of day: as long ago as it has been known.
                let since = now.checked_sub(at.elapsed()).unwrap_or(now);
                let is_fresh = at.elapsed() < self.verified_for;
                if is_fresh && now < renew_after(&identity, since) {
                    return Ok(identity);
                }
                // The token itself is not kept: what cannot be asked for again cannot be verified again.
                Some(identity).filter(|identity| is_fresh && identity.is_current(now))
            }
            _ => None,
        };
        let asked = request
            .ask(issuer)
            .and_then(|token| issuer.verify(&token).map(Arc::new).map_err(|error| error.to_string()));
        match (asked, earlier) {
            (Err(_), Some(earlier)) => Ok(earlier),
            (result, _) => self.remember(key, result),
        }
    }

    fn remember(
        &self,
        key: [u8; 32],
        result: Result<Arc<Verified>, String>,
    ) -> Result<Arc<Verified>, String> {
        let mut known = self.known();
        if known.len() >= MAX_KNOWN {
            known.retain(|_, outcome| outcome.counts(self.verified_for));
        }
        if known.len() < MAX_KNOWN {
            known.insert(key, Outcome { result: result.clone(), at: Instant::now() });
        }
        result
    }

    fn known(&self) -> MutexGuard<'_, HashMap<[u8; 32], Outcome>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A hash of parts, none of which can run into the next.
fn digest(parts: &[&[u8]]) -> [u8; 32] {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update((part.len() as u64).to_be_bytes());
        hasher.update(part);
    }
    hasher.finalize().into()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// 32 bytes from their hexadecimal digits.
fn unhex(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * at..2 * at + 2)?, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests;
