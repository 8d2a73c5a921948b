//! Looks after those who are signed in: asks providers again, and ends what counts no more.

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use zeroize::Zeroizing;

use super::fault::SignInError;
use super::provider::{Provider, Refreshed};
use super::{Logins, Place, What, give_back};
use crate::identity::Verified;

/// Every how long it is looked.
const TICK: Duration = Duration::from_secs(1);

/// Every how many looks it is seen whether login sessions are still there.
const SESSIONS: u32 = 5;

/// A provider that did not answer is asked again after this, or as often as it would be anyway.
const AGAIN: Duration = Duration::from_secs(30);

/// A sign-in that its provider is to be asked about.
struct Due {
    place: Place,
    serial: u64,
    provider: Arc<Provider>,
    token: Zeroizing<String>,
    /// What was signed of the person last.
    signed: Arc<Verified>,
}

/// The longest that asking about one sign-in takes: a few requests, each with its own limit.
const SLOWEST: Duration = Duration::from_secs(60);

/// Claims that each token has anew, and that say nothing new of the person.
const OF_TOKEN: [&str; 7] = ["iat", "exp", "nbf", "jti", "at_hash", "auth_time", "nonce"];

/// The provider says something else of a person than before.
fn differs(person: &Verified, before: &Verified) -> bool {
    let lasting = |one: &Verified| {
        let mut claims = one.claims.clone();
        claims.retain(|name, _| !OF_TOKEN.contains(&name.as_str()));
        claims
    };
    person.groups != before.groups || person.name != before.name || lasting(person) != lasting(before)
}

impl Logins {
    /// Does so until it is dropped.
    pub async fn keep(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        for round in 0_u32.. {
            ticks.tick().await;
            let logins = Arc::clone(&self);
            let sessions = round.is_multiple_of(SESSIONS);
            let due = tokio::task::spawn_blocking(move || logins.look(sessions)).await.unwrap_or_default();
            for due in due {
                let (logins, turns) = (Arc::clone(&self), due.provider.turns());
                tokio::spawn(async move {
                    let turn = turns.acquire_owned().await;
                    let _ = tokio::task::spawn_blocking(move || logins.ask_again(&due)).await;
                    drop(turn);
                });
            }
        }
    }

    /// Ends what counts no more, and gives what its provider is to be asked about.
    fn look(&self, sessions: bool) -> Vec<Due> {
        let (instant, now) = (Instant::now(), Timestamp::now());
        let mut over = Vec::new();
        let mut due = Vec::new();
        let mut seen = Vec::new();
        let mut unchecked = Vec::new();
        {
            let mut inner = self.inner();
            inner.pending.retain(|_, pending| !pending.is_forgotten());
            let expired: Vec<Place> =
                inner.bound.iter().filter(|(_, bound)| now >= bound.until).map(|(place, _)| *place).collect();
            over.extend(expired.into_iter().filter_map(|place| Some((place, inner.bound.remove(&place)?))));
            for (place, bound) in &mut inner.bound {
                // However long its turn to be asked about may take.
                let config = bound.provider.issuer().config();
                let kept = Duration::from_secs(u64::from(config.keys_kept_minutes) * 60);
                let recheck = Duration::from_secs(u64::from(config.recheck_seconds));
                if bound.refresh.is_some() && bound.checked.elapsed() > kept.max(recheck) + SLOWEST {
                    unchecked.push((*place, bound.serial));
                    continue;
                }
                if let (Some(token), Some(at)) = (&bound.refresh, bound.next)
                    && instant >= at
                {
                    bound.next = None;
                    due.push(Due {
                        place: *place,
                        serial: bound.serial,
                        provider: Arc::clone(&bound.provider),
                        token: token.clone(),
                        signed: Arc::clone(&bound.signed),
                    });
                }
                if sessions || matches!(place, Place::Tree { .. }) {
                    seen.push((*place, bound.serial, bound.witness));
                }
            }
        }
        for (place, bound) in over {
            let _ = self.ended(place, &bound, &What::Expired);
            give_back(bound);
        }
        for (place, serial) in unchecked {
            self.end(place, serial, "unchecked", "the provider could not be asked in time");
        }
        // Not under the lock: it reads /proc.
        for (place, serial, mut witness) in seen {
            if place.is_there(&mut witness) {
                let mut inner = self.inner();
                if let Some(bound) = inner.bound.get_mut(&place).filter(|bound| bound.serial == serial) {
                    bound.witness = witness;
                }
            } else {
                self.end(place, serial, "session_ended", "none of its processes is there any more");
            }
        }
        due
    }

    /// Asks a provider whether a sign-in still counts.
    fn ask_again(&self, due: &Due) {
        let answer = due.provider.refresh(&due.token, &due.signed);
        let config = due.provider.issuer().config();
        let recheck = Duration::from_secs(u64::from(config.recheck_seconds.max(1)));
        let kept = Duration::from_secs(u64::from(config.keys_kept_minutes) * 60);
        match answer {
            Ok(refreshed) => self.refreshed(due, refreshed, recheck),
            Err(error) if error.is_passing() => {
                let mut inner = self.inner();
                let Some(bound) = inner.bound.get_mut(&due.place).filter(|bound| bound.serial == due.serial)
                else {
                    return;
                };
                if bound.checked.elapsed() <= kept {
                    bound.next = Some(Instant::now() + AGAIN.min(recheck));
                    drop(inner);
                    return tracing::warn!(%error, "a sign-in cannot be checked; it is tried again");
                }
                drop(inner);
                self.end(due.place, due.serial, "unchecked", &error.to_string());
            }
            Err(error @ SignInError::Revoked(..)) => {
                self.end(due.place, due.serial, "revoked", &error.to_string());
            }
            Err(error) => self.end(due.place, due.serial, "refused", &error.to_string()),
        }
    }

    fn refreshed(&self, due: &Due, refreshed: Refreshed, recheck: Duration) {
        let mut changed = None;
        {
            let mut inner = self.inner();
            let Some(bound) = inner.bound.get_mut(&due.place).filter(|bound| bound.serial == due.serial)
            else {
                drop(inner);
                // Signed out meanwhile: what was just given is of no use to anybody.
                if let Some(token) = &refreshed.refresh {
                    due.provider.revoke(token);
                }
                return;
            };
            bound.refresh = refreshed.refresh;
            bound.checked = Instant::now();
            bound.next = Some(Instant::now() + recheck);
            if let Some(signed) = refreshed.signed {
                bound.signed = Arc::new(signed);
            }
            if let Some(person) = refreshed.person {
                let authenticated = bound.person.authenticated;
                let person = Verified { expires: bound.until, authenticated, ..person };
                let before = std::mem::replace(&mut bound.person, Arc::new(person));
                if differs(&bound.person, &before) {
                    changed = Some((before, bound.snapshot()));
                }
            }
        }
        if let Some((before, bound)) = changed {
            // From the next operation on, whether it can be recorded or not: a group may have been left.
            if before.groups != bound.person.groups || before.name != bound.person.name {
                let _ = self.ended(due.place, &bound, &What::GroupsChanged { before: &before.groups });
            } else {
                self.changed(due.place);
            }
        }
    }

    /// Ends a sign-in, if it is still the same.
    fn end(&self, place: Place, serial: u64, reason: &str, detail: &str) {
        let bound = {
            let mut inner = self.inner();
            if inner.bound.get(&place).is_none_or(|bound| bound.serial != serial) {
                return;
            }
            inner.bound.remove(&place)
        };
        if let Some(bound) = bound {
            let _ = self.ended(place, &bound, &What::SignedOut { reason, detail });
            if reason != "revoked" {
                give_back(bound);
            }
        }
    }
}
