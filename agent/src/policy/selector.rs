//! Policies' selectors of destinations, processes and names, for the agent's own configuration.
//!
//! They are written as in a policy file and decoded by the same code, so that one way of writing means
//! the same in both.

use std::borrow::Cow;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use serde::de::{Deserialize, Deserializer, Error as _};

use super::decode::{At, Decode, Decoder, OneOrMany};
use super::file::{Process, Target};
use super::pattern::{Text, text_covers};
use super::problem::Severity;
use super::select::{self, Accounts};
use super::values::Ports;
use super::yaml::Node;
use super::{Destination, Hosts};
use crate::intercept::Entry;

/// Something that is written as in a policy file.
#[derive(Debug, Clone)]
pub(crate) struct Selector<T>(At<T>);

/// A set of connections: an entry of a policy's `destinations`.
pub(crate) type DestinationSelector = Selector<Target>;
/// A way for a process to be taken in: an entry of a policy's `processes`.
pub(crate) type ProcessSelector = Selector<Process>;
/// A glob, or a list of them.
pub(crate) type NameSelector = Selector<OneOrMany<Text>>;

/// Whether a destination is the one that is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Meant {
    /// It is.
    Yes,
    /// It is not.
    No,
    /// It is if the address is the host's, and the host's name has not been answered yet.
    Unknown,
}

impl<'de, T: Decode> Deserialize<'de> for Selector<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let node = Node::deserialize(deserializer)?;
        let mut decoder = Decoder::new("");
        let value = At::<T>::decode(&node, &mut decoder);
        let mut errors = decoder.problems.iter().filter(|problem| problem.severity == Severity::Error);
        if let Some(problem) = errors.next() {
            let help = problem.help.as_deref().map(|help| format!("; {help}")).unwrap_or_default();
            return Err(D::Error::custom(format!("{}{help}", problem.message)));
        }
        value.map(Self).ok_or_else(|| D::Error::custom("this cannot be read"))
    }
}

impl<T: schemars::JsonSchema> schemars::JsonSchema for Selector<T> {
    fn inline_schema() -> bool {
        T::inline_schema()
    }

    fn schema_name() -> Cow<'static, str> {
        T::schema_name()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        T::json_schema(generator)
    }
}

impl Selector<Target> {
    /// Whether `destination` is among these connections. Other than a policy's rules, which apply when
    /// they may, this gives [`Meant::Unknown`] for a host that has not been looked up yet.
    pub(crate) fn meant(&self, destination: &Destination, hosts: &Hosts) -> Meant {
        let target = &self.0.value;
        if !target.takes(destination) {
            return Meant::No;
        }
        match &target.host {
            Some(host) if !hosts.answers(&host.0, destination.address.ip()) => Meant::Unknown,
            _ => Meant::Yes,
        }
    }

    /// The host that it names.
    pub(crate) fn host(&self) -> Option<Arc<str>> {
        self.0.value.host.as_ref().map(|host| host.0.as_str().into())
    }

    /// It names a host or an address, so that not just any server is meant.
    pub(crate) fn names_a_server(&self) -> bool {
        self.0.value.host.is_some() || self.0.value.cidr.is_some()
    }

    /// It takes in whatever `other` does. May say no where the answer is yes.
    pub(crate) fn covers(&self, other: &Self) -> bool {
        let (broad, narrow) = (&self.0.value, &other.0.value);
        let same_or_any = |given: bool, same: bool| !given || same;
        same_or_any(broad.host.is_some(), broad.host == narrow.host)
            && same_or_any(broad.cidr.is_some(), broad.cidr == narrow.cidr)
            && same_or_any(broad.port.is_some(), broad.port == narrow.port)
    }
}

impl fmt::Display for Selector<Target> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let target = &self.0.value;
        let ports = |ports: &Ports| match (ports.first, ports.last) {
            (first, last) if first == last => first.to_string(),
            (first, last) => format!("{first}-{last}"),
        };
        let list = |items: Vec<String>| items.join(", ");
        let host = target.host.as_ref().map(|host| host.0.clone());
        let nets =
            target.cidr.as_ref().map(|nets| list(nets.0.iter().map(|net| net.0.to_string()).collect()));
        let ports =
            target.port.as_ref().map(|all| format!("port {}", list(all.0.iter().map(ports).collect())));
        let protocol = target.protocol.map(|protocol| protocol.word().to_owned());
        let parts: Vec<String> = [host, nets, ports, protocol].into_iter().flatten().collect();
        f.write_str(&parts.join(" "))
    }
}

impl fmt::Display for Selector<OneOrMany<Text>> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let patterns: Vec<&str> = self.0.value.0.iter().map(Text::pattern).collect();
        f.write_str(&patterns.join(", "))
    }
}

impl Selector<Process> {
    /// What the kernel side is told to know such processes by: an entry that redirects nothing.
    ///
    /// # Errors
    /// It would take in every process.
    pub(crate) fn entry(&self, warnings: &mut Vec<String>) -> Result<Entry, String> {
        let mut decoder = Decoder::new("");
        let mut noted = Vec::new();
        let entry = select::entry(&self.0, Accounts::HOST, &mut decoder, &mut noted);
        warnings.extend(noted.into_iter().map(|problem| problem.message));
        entry.ok_or_else(|| {
            let problem = decoder.problems.first();
            problem.map_or_else(String::new, |problem| {
                let help = problem.help.as_deref().map(|help| format!("; {help}")).unwrap_or_default();
                format!("{}{help}", problem.message)
            })
        })
    }
}

impl Selector<OneOrMany<Text>> {
    /// One of the globs matches.
    pub(crate) fn matches(&self, text: &str) -> bool {
        self.0.value.0.iter().any(|pattern| pattern.matches(text))
    }

    /// It matches whatever `other` does. May say no where the answer is yes.
    pub(crate) fn covers(&self, other: &Self) -> bool {
        other.0.value.0.iter().all(|narrow| self.0.value.0.iter().any(|broad| text_covers(broad, narrow)))
    }
}

impl Hosts {
    /// The name has been answered with this address.
    pub(crate) fn answers(&self, name: &str, address: IpAddr) -> bool {
        // A name without any answer is among the names of every address, but has no age.
        self.age(name).is_some() && self.names_of(address).iter().any(|known| **known == *name)
    }
}
