//! From `processes`, `destinations` and `egress` to what the kernel side is told.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;

use ipnet::IpNet;
use sha2::{Digest, Sha256};

use super::decode::{At, Decoder};
use super::file::{Open, Process, Target};
use super::problem::Problem;
use super::values::Account;
use super::{Destination, Egress, EntryId};
use crate::identity::users;
use crate::intercept::{Entry, Pattern};
use crate::operation::Protocol;

/// Most process entries of all policies together: the kernel side keeps them as bits of one word.
pub(crate) const MAX_ENTRIES: usize = 64;
/// Most patterns of addresses and ports that the destinations of one policy come to.
const MAX_PATTERNS: usize = 1024;

/// Looks up users and groups by name.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Accounts {
    pub(crate) user: fn(&str) -> io::Result<Option<u32>>,
    pub(crate) group: fn(&str) -> io::Result<Option<u32>>,
}

impl Accounts {
    /// Those of this host.
    pub(crate) const HOST: Self = Self { user: users::user_id, group: users::group_id };
    /// None at all.
    pub(crate) const NONE: Self = Self { user: |_| Ok(None), group: |_| Ok(None) };
}

/// The entry of one `processes` item, without destinations yet. Names that this host does not have
/// make it impossible and give a warning; a look-up that fails is an error, for nobody knows then whom
/// the entry would leave out.
pub(crate) fn entry(
    process: &At<Process>,
    accounts: Accounts,
    decoder: &mut Decoder<'_>,
    warnings: &mut Vec<Problem>,
) -> Option<Entry> {
    let Process { unit, slice, cgroup, user, group, exe, run, descendants } = &process.value;
    let unit_name = match (unit, slice) {
        (Some(_), Some(_)) => {
            decoder.error_help(
                process.at,
                "`unit` and `slice` in one entry",
                "name the unit alone: its name is the only one of its kind on the host",
            );
            return None;
        }
        (Some(unit), None) => Some(unit.0.clone()),
        (None, slice) => slice.as_ref().map(|slice| slice.0.clone()),
    };
    let keyless = [cgroup.is_some(), user.is_some(), group.is_some(), exe.is_some(), run.is_some()]
        .iter()
        .all(|given| !given);
    if unit_name.is_none() && keyless {
        decoder.error_help(
            process.at,
            "this entry would take in every process of the host",
            "name a unit, slice, cgroup, user, group, exe or run",
        );
        return None;
    }
    let mut impossible = false;
    let mut number =
        |account: &Option<Account>, what: &str, find: fn(&str) -> io::Result<Option<u32>>| match account {
            None => None,
            Some(Account::Id(id)) => Some(*id),
            Some(Account::Name(name)) => {
                let id = find(name).unwrap_or_else(|error| {
                    decoder.error_help(
                        process.at,
                        format!("the {what} `{name}` cannot be looked up: {error}"),
                        "see to the host's name service, or name the number",
                    );
                    None
                });
                if id.is_none() {
                    impossible = true;
                    let message = format!("this host has no {what} `{name}`: the entry takes in no process");
                    warnings.push(Problem::warning(decoder.file, process.at, message));
                }
                id
            }
        };
    let uid = number(user, "user", accounts.user);
    let gid = number(group, "group", accounts.group);
    Some(Entry {
        id: id(&process.value, unit_name.as_deref()),
        uid,
        gid,
        exe: exe.as_ref().map(|exe| exe.0.clone()),
        cgroup: cgroup.as_ref().map(|cgroup| cgroup.0.clone()),
        unit: unit_name,
        run: run.as_ref().map(|run| run.0.clone()),
        descendants: descendants.unwrap_or(true),
        impossible,
        destinations: Vec::new(),
        egress: Egress::Allow,
        resolvers: true,
    })
}

/// The first half of SHA-256 over the keys that select processes, as they are written. Users and
/// groups count as written too, so that the id stays when a name gets another number.
fn id(process: &Process, unit: Option<&str>) -> EntryId {
    let account = |account: &Option<Account>| match account {
        None => String::new(),
        Some(Account::Name(name)) => format!("n{name}"),
        Some(Account::Id(id)) => format!("i{id}"),
    };
    let path = |path: Option<&Path>| path.map(|p| p.to_string_lossy().into_owned()).unwrap_or_default();
    let keys = [
        unit.unwrap_or_default().to_owned(),
        path(process.cgroup.as_ref().map(|c| c.0.as_path())),
        account(&process.user),
        account(&process.group),
        path(process.exe.as_ref().map(|e| e.0.as_path())),
        process.run.as_ref().map(|run| run.0.clone()).unwrap_or_default(),
        process.descendants.unwrap_or(true).to_string(),
    ];
    let mut digest = Sha256::new_with_prefix(b"interlock process entry 1");
    for key in keys {
        digest.update((key.len() as u64).to_le_bytes());
        digest.update(key);
    }
    let digest = digest.finalize();
    let mut id = [0; 16];
    id.iter_mut().zip(digest.iter()).for_each(|(to, from)| *to = *from);
    EntryId(id)
}

/// What the kernel redirects for these destinations. A host name stands by its ports alone.
pub(crate) fn patterns(targets: Option<&[At<Target>]>, decoder: &mut Decoder<'_>) -> Vec<Pattern> {
    let Some(targets) = targets else { return vec![Pattern { net: None, port: None }] };
    let mut patterns = BTreeSet::new();
    for target in targets {
        let nets: Vec<Option<IpNet>> = match &target.value.cidr {
            Some(nets) => nets.0.iter().map(|net| Some(net.0)).collect(),
            None => vec![None],
        };
        let ports: Vec<Option<u16>> = match &target.value.port {
            Some(ports) => ports.0.iter().flat_map(|ports| (ports.first..=ports.last).map(Some)).collect(),
            None => vec![None],
        };
        if patterns.len() + nets.len() * ports.len() > MAX_PATTERNS {
            decoder.error_help(
                target.at,
                format!("the destinations come to more than {MAX_PATTERNS} pairs of network and port"),
                "leave `port` out, or join networks",
            );
            break;
        }
        patterns
            .extend(nets.iter().flat_map(|net| ports.iter().map(|port| Pattern { net: *net, port: *port })));
    }
    united(&patterns)
}

/// Drops the patterns that others take in.
fn united(patterns: &BTreeSet<Pattern>) -> Vec<Pattern> {
    let covered = |one: &Pattern| {
        patterns.iter().any(|other| {
            other != one
                && match (other.net, one.net) {
                    (None, _) => true,
                    (Some(other), Some(one)) => other.contains(&one),
                    (Some(_), None) => false,
                }
                && (other.port.is_none() || other.port == one.port)
        })
    };
    patterns.iter().filter(|one| !covered(one)).cloned().collect()
}

/// Adds the entry of a policy to those of the others: equal ones become one, with the destinations of
/// both and the stricter egress.
pub(crate) fn unite(entries: &mut Vec<Entry>, entry: Entry) {
    match entries.iter_mut().find(|known| known.id == entry.id) {
        None => entries.push(entry),
        Some(known) => {
            let all: BTreeSet<Pattern> = known.destinations.drain(..).chain(entry.destinations).collect();
            known.destinations = united(&all);
            known.egress = known.egress.max(entry.egress);
            known.resolvers &= entry.resolvers;
        }
    }
}

impl Target {
    /// It takes in this destination.
    pub(crate) fn takes(&self, destination: &Destination) -> bool {
        let address = destination.address.ip().to_canonical();
        let port = destination.address.port();
        self.cidr.as_ref().is_none_or(|nets| nets.0.iter().any(|net| net.0.contains(&address)))
            && self.port.as_ref().is_none_or(|ports| ports.0.iter().any(|ports| ports.contains(port)))
            && self.host.as_ref().is_none_or(|host| destination.hosts.iter().any(|name| **name == *host.0))
    }

    /// The protocol that is spoken there, where it is named or the port tells it.
    pub(crate) fn protocol(&self, port: u16) -> Option<Protocol> {
        self.protocol.or(well_known(port))
    }
}

/// The protocol of a well-known port.
pub(crate) fn well_known(port: u16) -> Option<Protocol> {
    (port == 5432).then_some(Protocol::Postgres)
}

/// `allow` is open.
pub(crate) fn is_open(open: Option<Open>) -> bool {
    open.unwrap_or_default() == Open::Allow
}
