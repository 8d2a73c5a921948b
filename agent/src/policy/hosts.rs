//! Host names of destinations, looked up now and then.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::io;
use std::net::{IpAddr, ToSocketAddrs};
use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};
use std::time::{Duration, Instant};

/// How often names are looked up.
const INTERVAL: Duration = Duration::from_secs(20);
/// How long an address counts after the last answer that held it. Answers may name a few of many
/// addresses at a time, and connections outlive a change.
const KEPT: Duration = Duration::from_secs(3600);
/// Most addresses that are kept of one name.
const MAX_ADDRESSES: usize = 256;

type Lookup = dyn Fn(&str) -> io::Result<Vec<IpAddr>> + Send + Sync;

/// The addresses of host names that destinations name. Good answers stay while later look-ups fail.
///
/// A name that has never been answered might be any address: [`Hosts::names_of`] gives it for all, so
/// that its rules apply rather than the egress verdict.
pub struct Hosts {
    names: RwLock<HashMap<Arc<str>, Answers>>,
    lookup: Box<Lookup>,
    /// Held while looking up, so that no two do it at once.
    busy: Mutex<()>,
}

/// Addresses of a name with the time of the last answer that held each.
#[derive(Debug, Default, Clone)]
struct Answers(HashMap<IpAddr, Instant>);

impl fmt::Debug for Hosts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hosts").field("names", &self.names).finish_non_exhaustive()
    }
}

impl Default for Hosts {
    fn default() -> Self {
        Self::with_lookup(|name| Ok((name, 0).to_socket_addrs()?.map(|address| address.ip()).collect()))
    }
}

impl Hosts {
    /// With another way of looking names up than the host's.
    pub fn with_lookup(lookup: impl Fn(&str) -> io::Result<Vec<IpAddr>> + Send + Sync + 'static) -> Self {
        Self { names: RwLock::default(), lookup: Box::new(lookup), busy: Mutex::new(()) }
    }

    /// The names to look up from now on. What is known of those that stay is kept.
    pub fn set_names(&self, names: BTreeSet<Arc<str>>) {
        let mut known = self.names.write().unwrap_or_else(PoisonError::into_inner);
        let mut old = std::mem::take(&mut *known);
        *known = names
            .into_iter()
            .map(|name| {
                let answers = old.remove(&name).unwrap_or_default();
                (name, answers)
            })
            .collect();
    }

    /// The names that this address may be meant by.
    pub fn names_of(&self, address: IpAddr) -> Vec<Arc<str>> {
        let address = address.to_canonical();
        let names = self.names.read().unwrap_or_else(PoisonError::into_inner);
        let fits = |answers: &Answers| answers.0.is_empty() || answers.0.contains_key(&address);
        let mut found: Vec<Arc<str>> =
            names.iter().filter(|(_, answers)| fits(answers)).map(|(name, _)| Arc::clone(name)).collect();
        found.sort();
        found
    }

    /// The names whose answers held this address. Unlike [`Hosts::names_of`] it leaves out those that were
    /// never answered: what is opened for a name must not be opened for every address.
    pub fn answered(&self, address: IpAddr) -> Vec<Arc<str>> {
        let address = address.to_canonical();
        let names = self.names.read().unwrap_or_else(PoisonError::into_inner);
        let found = names.iter().filter(|(_, answers)| answers.0.contains_key(&address));
        let mut found: Vec<Arc<str>> = found.map(|(name, _)| Arc::clone(name)).collect();
        found.sort();
        found
    }

    /// How long ago a name was last answered; `None` when it never was.
    pub fn age(&self, name: &str) -> Option<Duration> {
        let names = self.names.read().unwrap_or_else(PoisonError::into_inner);
        names.get(name)?.0.values().max().map(Instant::elapsed)
    }

    /// Looks all names up. Blocks for as long as the name service takes.
    pub fn refresh(&self) {
        let _one = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        let names: Vec<Arc<str>> =
            self.names.read().unwrap_or_else(PoisonError::into_inner).keys().map(Arc::clone).collect();
        for name in names {
            // No lock is held meanwhile: a slow name service stops no flow.
            match (self.lookup)(&name) {
                Ok(addresses) if !addresses.is_empty() => self.answer(&name, &addresses, Instant::now()),
                Ok(_) => {
                    tracing::warn!(%name, "a destination's host name has no address; earlier answers stay");
                }
                Err(error) => {
                    tracing::warn!(%name, %error, "cannot look up a destination's host name; earlier answers stay");
                }
            }
        }
    }

    fn answer(&self, name: &str, addresses: &[IpAddr], now: Instant) {
        let mut names = self.names.write().unwrap_or_else(PoisonError::into_inner);
        let Some(Answers(known)) = names.get_mut(name) else { return };
        known.retain(|_, last| now.duration_since(*last) < KEPT);
        for address in addresses.iter().take(MAX_ADDRESSES) {
            known.insert(address.to_canonical(), now);
        }
        while known.len() > MAX_ADDRESSES {
            let oldest = known.iter().min_by_key(|(_, last)| **last).map(|(address, _)| *address);
            match oldest {
                Some(oldest) => known.remove(&oldest),
                None => break,
            };
        }
    }

    /// Keeps the answers fresh in a thread of its own, as long as they are in use.
    pub(crate) fn keep_fresh(hosts: &Arc<Self>) -> io::Result<()> {
        let hosts: Weak<Self> = Arc::downgrade(hosts);
        let thread = std::thread::Builder::new().name("host-names".to_owned());
        thread.spawn(move || {
            loop {
                let Some(hosts) = hosts.upgrade() else { return };
                hosts.refresh();
                drop(hosts);
                std::thread::sleep(INTERVAL);
            }
        })?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn names(hosts: &Hosts, address: &str) -> Vec<String> {
        hosts.names_of(ip(address)).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn good_answers_stay_and_unanswered_names_may_be_any_address() {
        let turn = Arc::new(Mutex::new(0));
        let turns = Arc::clone(&turn);
        let hosts = Hosts::with_lookup(move |name| {
            let mut turn = turns.lock().unwrap();
            *turn += 1;
            match (name, *turn) {
                ("db", 1) => Ok(vec![ip("10.0.0.1")]),
                ("db", 2) => Ok(vec![ip("10.0.0.2")]),
                _ => Err(io::Error::other("down")),
            }
        });
        hosts.set_names(["db".into()].into());
        assert_eq!(names(&hosts, "192.0.2.1"), ["db"], "not answered yet");
        assert!(hosts.answered(ip("192.0.2.1")).is_empty());
        assert_eq!(hosts.age("db"), None);
        hosts.refresh();
        assert_eq!(names(&hosts, "10.0.0.1"), ["db"]);
        assert_eq!(names(&hosts, "::ffff:10.0.0.1"), ["db"]);
        assert_eq!(hosts.answered(ip("::ffff:10.0.0.1")), ["db".into()]);
        assert!(names(&hosts, "192.0.2.1").is_empty());
        hosts.refresh();
        hosts.refresh();
        assert_eq!(names(&hosts, "10.0.0.1"), ["db"], "an answer of a moment ago");
        assert_eq!(names(&hosts, "10.0.0.2"), ["db"]);
        assert!(hosts.age("db").is_some());
        hosts.set_names(["db".into(), "other".into()].into());
        assert_eq!(names(&hosts, "10.0.0.1"), ["db", "other"]);
    }

    #[test]
    fn a_name_keeps_a_bounded_number_of_addresses() {
        let hosts = Hosts::with_lookup(|_| {
            Ok((0..=u16::MAX)
                .map(|n| IpAddr::from([10, 0, n.to_be_bytes()[0], n.to_be_bytes()[1]]))
                .collect())
        });
        hosts.set_names(["db".into()].into());
        hosts.refresh();
        let names = hosts.names.read().unwrap();
        assert_eq!(names.get("db").unwrap().0.len(), MAX_ADDRESSES);
    }
}
