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

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, mpsc};

    use serde_json::{Value, json};

    use super::super::{Bound, PersonEvent, Seat};
    use super::*;
    use crate::identity::config::IdentityConfig;
    use crate::identity::oidc::Issuers;
    use crate::identity::oidc::fake::{Key, Server, config};
    use crate::identity::{IdentityKind, LiveSubject, Subject};

    const PLACE: Place = Place::Session { session: 7, login_uid: 1000 };

    /// A provider that gives no ID token on refreshing, and somebody who has signed in there with the groups of
    /// the first one.
    struct Scene {
        server: Server,
        logins: Arc<Logins>,
        told: mpsc::Receiver<String>,
        live: Arc<LiveSubject>,
        _watched: super::super::watch::Watched,
    }

    impl Scene {
        fn new(groups: &Value) -> Self {
            let (server, key) = (Server::start(), Key::ec("1"));
            server.publish(&[&key]);
            let at = |path: &str| format!("{}{path}", server.url);
            let metadata = json!({
                "issuer": server.url, "jwks_uri": at("/keys"), "token_endpoint": at("/token"),
                "userinfo_endpoint": at("/userinfo"),
            });
            server.answer("/.well-known/openid-configuration", 200, &metadata);
            let tokens = json!({"access_token": "access", "token_type": "Bearer", "refresh_token": "next"});
            server.answer("/token", 200, &tokens);
            let issuer = config(&format!(
                "{{name: okta, kind: person, issuer: '{}', client_id: interlock}}",
                server.url
            ));
            let issuers = Issuers::new(&IdentityConfig { issuers: vec![issuer] }).unwrap();
            let (tell, told) = mpsc::channel();
            let tell = Mutex::new(tell);
            let journal = move |event: &PersonEvent<'_>| {
                let line = match &event.what {
                    What::GroupsChanged { before } => format!("groups {}", before.join(" ")),
                    What::SignedOut { reason, detail } => format!("out {reason}: {detail}"),
                    other => other.word().to_owned(),
                };
                tell.lock().unwrap().send(line).map_err(|error| error.to_string())
            };
            let logins = Logins::new(&issuers, Box::new(journal)).unwrap();
            let mut claims = server.claims();
            claims["sub"] = "alice".into();
            claims["groups"] = groups.clone();
            let provider = Arc::clone(&logins.providers[0]);
            let person = Arc::new(provider.issuer().verify(&key.sign(&claims)).unwrap());
            let now = Timestamp::now();
            let bound = Bound {
                person: Arc::clone(&person),
                signed: person,
                provider,
                subject: Arc::default(),
                since: now,
                until: now + Duration::from_secs(3600),
                refresh: Some(Zeroizing::new("first".to_owned())),
                checked: Instant::now(),
                next: Some(Instant::now()),
                serial: 1,
                witness: None,
            };
            logins.inner().bound.insert(PLACE, bound);
            let own = Seat::of(std::process::id(), None).unwrap();
            let live = Arc::new(LiveSubject::new(Arc::new(Subject::default())));
            let watched = logins.watch(Seat { login: Some((7, 1000)), ..own }, &live).unwrap();
            Self { server, logins, told, live, _watched: watched }
        }

        /// The provider's userinfo answer from now on, and what becomes of the sign-in.
        fn asked(&self, userinfo: &Value) -> Option<Vec<String>> {
            self.server.answer("/userinfo", 200, userinfo);
            if let Some(bound) = self.logins.inner().bound.get_mut(&PLACE) {
                bound.next = Some(Instant::now());
            }
            let [due] = &self.logins.look(false)[..] else { panic!("nothing is due") };
            self.logins.ask_again(due);
            let current = self.live.current();
            Some(current.identity(IdentityKind::Person)?.groups.clone())
        }
    }

    #[test]
    fn a_group_that_was_lost_is_seen_without_an_id_token() {
        let scene = Scene::new(&json!(["dba", "staff"]));
        let before = scene.live.current().person.clone().unwrap();
        assert_eq!(before.groups, ["dba", "staff"]);
        // It cannot make itself another's, or last longer.
        let userinfo = json!({
            "sub": "alice", "groups": ["staff"], "iss": "https://evil.example", "exp": 9_999_999_999_u64,
            "auth_time": 9_999_999_999_u64, "jti": "another",
        });
        assert_eq!(scene.asked(&userinfo).unwrap(), ["staff"]);
        let person = scene.live.current().person.clone().unwrap();
        assert_eq!((&person.issuer, &person.token_hash), (&before.issuer, &before.token_hash));
        assert_eq!(person.claims.get("jti"), before.claims.get("jti"));
        assert!(
            person.authenticated == before.authenticated
                && person.expires <= before.expires + Duration::from_secs(3600)
        );
        assert_eq!(scene.told.try_iter().collect::<Vec<_>>(), ["groups dba staff"]);
        // What is asked with the next time is what was given last; all groups gone is a change, too.
        let refresh = scene.logins.inner().bound.get(&PLACE).unwrap().refresh.clone().unwrap();
        assert_eq!(refresh.as_str(), "next");
        assert_eq!(scene.asked(&json!({"sub": "alice", "groups": []})).unwrap(), [""; 0]);
        assert_eq!(scene.told.try_iter().collect::<Vec<_>>(), ["groups staff"]);
    }

    #[test]
    fn groups_that_nobody_speaks_of_any_more_end_the_sign_in() {
        let scene = Scene::new(&json!(["dba"]));
        assert_eq!(scene.asked(&json!({"sub": "alice", "name": "Alice"})), None);
        let [told] = &scene.told.try_iter().collect::<Vec<_>>()[..] else { panic!("not told") };
        assert!(told.starts_with("out refused") && told.contains("first ID token alone"), "{told}");
        // Who never had any loses none.
        let scene = Scene::new(&json!([]));
        assert_eq!(scene.asked(&json!({"sub": "alice", "name": "Alice"})).unwrap(), [""; 0]);
        assert_eq!(scene.live.current().person.as_ref().unwrap().name, "Alice");
        assert_eq!(scene.asked(&json!({"sub": "alice", "groups": ["dba"]})).unwrap(), ["dba"]);
    }

    #[test]
    fn an_answer_about_somebody_else_and_a_revoked_token_end_it() {
        let scene = Scene::new(&json!(["dba"]));
        assert_eq!(scene.asked(&json!({"sub": "bob", "groups": ["dba"]})), None);
        assert!(scene.told.try_iter().any(|told| told.contains("somebody else")));
        let scene = Scene::new(&json!(["dba"]));
        scene.server.answer("/token", 400, &json!({"error": "invalid_grant"}));
        assert_eq!(scene.asked(&json!({"sub": "alice", "groups": ["dba"]})), None);
        assert!(scene.told.try_iter().any(|told| told.starts_with("out revoked")));
    }
}
