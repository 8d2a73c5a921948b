//! A selection as the kernel side takes it: bit masks.

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, Ipv6Addr},
    path::PathBuf,
};

use interlock_agent_common::{DestinationKey, MAX_ENTRIES, PORT_BITS, Rules, destination_key, text_hash};
use ipnet::IpNet;

use super::{Entry, Pattern, Selection, cgroup::Hierarchy, error::InterceptError};
use crate::policy::{Egress, EntryId};

/// Which entry each bit stands for.
pub(super) type Bits = [Option<EntryId>; MAX_ENTRIES];

/// Prefix length in bits, port included, and key.
pub(super) type DestinationPrefix = (u32, DestinationKey);

/// A compiled selection.
#[derive(Debug, Default)]
pub(super) struct Compiled {
    pub(super) rules: Rules,
    pub(super) uids: HashMap<u32, u64>,
    pub(super) gids: HashMap<u32, u64>,
    pub(super) exes: HashMap<PathBuf, u64>,
    /// By hash.
    pub(super) runs: HashMap<u64, u64>,
    pub(super) cgroups: HashMap<String, u64>,
    pub(super) units: HashMap<String, u64>,
    pub(super) destinations: HashMap<DestinationPrefix, u64>,
}

/// Entries of the same id put together: they take in the same processes.
pub(super) fn merge(selection: &Selection) -> Result<Vec<Entry>, InterceptError> {
    let mut merged: Vec<Entry> = Vec::new();
    for entry in &selection.entries {
        match merged.iter_mut().find(|other| other.id == entry.id) {
            Some(other) => {
                other.destinations.extend(entry.destinations.iter().cloned());
                other.resolvers &= entry.resolvers || entry.egress != Egress::Deny;
                other.egress = other.egress.max(entry.egress);
                other.descendants |= entry.descendants;
            }
            None => merged.push(entry.clone()),
        }
    }
    if merged.len() > MAX_ENTRIES { Err(InterceptError::TooManyEntries(merged.len())) } else { Ok(merged) }
}

/// Gives each entry a bit: the one it has, else a free one, else one whose entry is gone.
/// Returns the bits, and a mask of those that have changed their meaning.
pub(super) fn assign(old: &Bits, entries: &[Entry]) -> (Bits, u64) {
    let mut bits = *old;
    let mut reused = 0;
    let wanted = |id: &EntryId| entries.iter().any(|entry| entry.id == *id);
    for entry in entries {
        if bits.contains(&Some(entry.id)) {
            continue;
        }
        let free = bits.iter().position(Option::is_none);
        let gone = || bits.iter().position(|bit| bit.as_ref().is_some_and(|id| !wanted(id)));
        if let Some(index) = free.or_else(gone)
            && let Some(bit) = bits.get_mut(index)
        {
            reused |= u64::from(bit.is_some()) << index;
            *bit = Some(entry.id);
        }
    }
    (bits, reused)
}

/// Compiles entries under the bits that they were given.
pub(super) fn compile(bits: &Bits, entries: &[Entry]) -> Result<Compiled, InterceptError> {
    let mut compiled = Compiled::default();
    let mut patterns: Vec<(Pattern, u64)> = Vec::new();
    for (index, _) in bits.iter().enumerate().filter(|(_, bit)| bit.is_some()) {
        compiled.rules.assigned |= 1 << index;
    }
    for entry in entries {
        let Some(index) = bits.iter().position(|bit| *bit == Some(entry.id)) else { continue };
        if entry.impossible {
            continue;
        }
        let bit = 1_u64 << index;
        let rules = &mut compiled.rules;
        rules.active |= bit;
        let key = |asked: bool, any: &mut u64| *any |= if asked { 0 } else { bit };
        key(entry.uid.is_some(), &mut rules.any_uid);
        key(entry.gid.is_some(), &mut rules.any_gid);
        key(entry.exe.is_some(), &mut rules.any_exe);
        key(entry.cgroup.is_some(), &mut rules.any_cgroup);
        key(entry.unit.is_some(), &mut rules.any_unit);
        key(entry.run.is_some(), &mut rules.any_run);
        rules.descendants |= if entry.descendants { bit } else { 0 };
        rules.redirect |= if entry.destinations.is_empty() { 0 } else { bit };
        rules.deny |= if entry.egress == Egress::Deny { bit } else { 0 };
        rules.record |= if entry.egress == Egress::Record { bit } else { 0 };
        rules.resolvers |= if entry.resolvers { bit } else { 0 };
        rules.every_run |= if entry.run.as_deref() == Some("*") { bit } else { 0 };

        if let Some(uid) = entry.uid {
            *compiled.uids.entry(uid).or_default() |= bit;
        }
        if let Some(gid) = entry.gid {
            *compiled.gids.entry(gid).or_default() |= bit;
        }
        if let Some(exe) = &entry.exe {
            *compiled.exes.entry(exe.clone()).or_default() |= bit;
        }
        if let Some(cgroup) = &entry.cgroup {
            *compiled.cgroups.entry(Hierarchy::kernel_path(cgroup)?).or_default() |= bit;
        }
        if let Some(unit) = &entry.unit {
            *compiled.units.entry(unit.clone()).or_default() |= bit;
        }
        if let Some(run) = entry.run.as_deref().filter(|run| *run != "*") {
            *compiled.runs.entry(hash(run)?).or_default() |= bit;
        }
        patterns.extend(entry.destinations.iter().map(|pattern| (pattern.clone(), bit)));
    }
    compiled.destinations = destinations(&patterns);
    Ok(compiled)
}

/// The hash of a name or path.
pub(super) fn hash(text: &str) -> Result<u64, InterceptError> {
    text_hash(text.as_bytes()).ok_or_else(|| InterceptError::TooLong(text.to_owned()))
}

/// The trie's keys and masks. A look-up finds only the longest prefix, so each key also holds what
/// its shorter ones hold; ports are looked up apart from "any port" and need no such care.
pub(super) fn destinations(patterns: &[(Pattern, u64)]) -> HashMap<DestinationPrefix, u64> {
    let mut ports: BTreeMap<u16, Vec<(Prefix, u64)>> = BTreeMap::new();
    for (pattern, bits) in patterns {
        ports.entry(pattern.port.unwrap_or(0)).or_default().push((Prefix::new(pattern.net), *bits));
    }
    let mut keys = HashMap::new();
    for (port, prefixes) in ports {
        let mut nodes: Vec<Prefix> = prefixes.iter().map(|(prefix, _)| *prefix).collect();
        // IPv4 addresses lie in the trie below `::ffff:0:0`, where short IPv6 prefixes reach: this
        // node keeps those from taking them in.
        nodes.push(Prefix { family: Family::V4, address: MAPPED, length: 96 });
        nodes.sort_unstable();
        nodes.dedup();
        for node in nodes {
            let mask = prefixes
                .iter()
                .filter(|(prefix, _)| prefix.covers(&node))
                .fold(0, |mask, (_, bits)| mask | bits);
            // `::/0` and "any" have the same key. Only IPv6 addresses get as far up as that.
            let key = (PORT_BITS + node.length, destination_key(&node.address.octets(), port));
            *keys.entry(key).or_default() |= mask;
        }
    }
    keys
}

const MAPPED: Ipv6Addr = Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Family {
    Any,
    V4,
    V6,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Prefix {
    family: Family,
    /// v4-mapped where the family is `V4`.
    address: Ipv6Addr,
    length: u32,
}

impl Prefix {
    fn new(net: Option<IpNet>) -> Self {
        let Some(net) = net else {
            return Self { family: Family::Any, address: Ipv6Addr::UNSPECIFIED, length: 0 };
        };
        let length = u32::from(net.prefix_len());
        match net.network() {
            IpAddr::V4(address) => {
                Self { family: Family::V4, address: address.to_ipv6_mapped(), length: 96 + length }
            }
            IpAddr::V6(address) if length >= 96 && address.to_ipv4_mapped().is_some() => {
                Self { family: Family::V4, address, length }
            }
            IpAddr::V6(address) => Self { family: Family::V6, address, length },
        }
    }

    fn covers(&self, other: &Self) -> bool {
        let compatible = self.family == Family::Any || self.family == other.family;
        let shift = 128 - self.length.min(128);
        let differ = self.address.to_bits() ^ other.address.to_bits();
        compatible && self.length <= other.length && differ.checked_shr(shift).unwrap_or(0) == 0
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::*;

    fn pattern(net: Option<&str>, port: Option<u16>) -> Pattern {
        Pattern { net: net.map(|net| net.parse().unwrap()), port }
    }

    /// What the kernel does: the longest prefix for the port, and for any port.
    fn look_up(keys: &HashMap<DestinationPrefix, u64>, address: IpAddr, port: u16) -> u64 {
        let address = match address {
            IpAddr::V4(address) => address.to_ipv6_mapped(),
            IpAddr::V6(address) => address,
        };
        [port, 0]
            .iter()
            .map(|port| {
                let wanted = destination_key(&address.octets(), *port);
                keys.iter()
                    .filter(|((length, key), _)| {
                        (0..*length as usize).all(|bit| {
                            let byte = |key: &DestinationKey| key[bit / 8] >> (7 - bit % 8) & 1;
                            byte(key) == byte(&wanted)
                        })
                    })
                    .max_by_key(|((length, _), _)| *length)
                    .map_or(0, |(_, mask)| *mask)
            })
            .fold(0, |all, mask| all | mask)
    }

    fn matches(pattern: &Pattern, address: IpAddr, port: u16) -> bool {
        pattern.port.is_none_or(|wanted| wanted == port)
            && pattern.net.is_none_or(|net| net.contains(&address))
    }

    #[test]
    fn ipv6_prefixes_leave_ipv4_alone() {
        let keys = destinations(&[
            (pattern(Some("::/0"), Some(5432)), 1),
            (pattern(Some("10.0.0.0/8"), Some(5432)), 2),
            (pattern(None, None), 4),
        ]);
        assert_eq!(look_up(&keys, "10.1.2.3".parse().unwrap(), 5432), 6);
        assert_eq!(look_up(&keys, "192.0.2.1".parse().unwrap(), 5432), 4);
        assert_eq!(look_up(&keys, "2001:db8::1".parse().unwrap(), 5432), 5);
        assert_eq!(look_up(&keys, "2001:db8::1".parse().unwrap(), 80), 4);
    }

    fn any_pattern() -> impl Strategy<Value = Pattern> {
        let v4 = (0_u32..4, 0_u8..=32).prop_map(|(address, length)| {
            IpNet::new(IpAddr::V4(Ipv4Addr::from(0x0a00_0000 | address << 8)), length).unwrap().trunc()
        });
        let v6 = (0_u128..4, 0_u8..=128).prop_map(|(address, length)| {
            IpNet::new(IpAddr::V6(Ipv6Addr::from(0x2001 << 112 | address << 64)), length).unwrap().trunc()
        });
        let zero =
            (0_u8..96).prop_map(|length| IpNet::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), length).unwrap());
        let net = prop_oneof![Just(None), v4.prop_map(Some), v6.prop_map(Some), zero.prop_map(Some)];
        (net, prop_oneof![Just(None), Just(Some(80)), Just(Some(5432))])
            .prop_map(|(net, port)| Pattern { net, port })
    }

    fn any_address() -> impl Strategy<Value = IpAddr> {
        prop_oneof![
            (0_u32..1024).prop_map(|low| IpAddr::V4(Ipv4Addr::from(0x0a00_0000 | low))),
            (0_u128..4, 0_u128..2)
                .prop_map(|(net, low)| IpAddr::V6(Ipv6Addr::from(0x2001 << 112 | net << 64 | low))),
            (1_u128..3).prop_map(|low| IpAddr::V6(Ipv6Addr::from(low))),
        ]
    }

    proptest! {
        #[test]
        fn a_look_up_gives_every_pattern_that_matches(
            patterns in prop::collection::vec(any_pattern(), 0..12),
            address in any_address(),
            port in prop_oneof![Just(80_u16), Just(5432), Just(1)],
        ) {
            let with_bits: Vec<_> =
                patterns.into_iter().enumerate().map(|(index, pattern)| (pattern, 1_u64 << index)).collect();
            let expected = with_bits
                .iter()
                .filter(|(pattern, _)| matches(pattern, address, port))
                .fold(0, |mask, (_, bit)| mask | bit);
            prop_assert_eq!(look_up(&destinations(&with_bits), address, port), expected);
        }
    }

    fn entry(id: u8) -> Entry {
        Entry {
            id: EntryId([id; 16]),
            uid: None,
            gid: None,
            exe: None,
            cgroup: None,
            unit: None,
            run: None,
            descendants: true,
            impossible: false,
            destinations: Vec::new(),
            egress: Egress::Allow,
            resolvers: false,
        }
    }

    #[test]
    fn bits_stay_and_only_those_of_gone_entries_are_reused() {
        let all: Vec<Entry> = (1..=64).map(entry).collect();
        let (bits, reused) = assign(&[None; MAX_ENTRIES], &all);
        assert_eq!(reused, 0);
        assert!(bits.iter().all(Option::is_some));
        // Without entry 10, entry 100 takes its bit; entry 20 keeps its own.
        let mut changed: Vec<Entry> = all.iter().filter(|entry| entry.id.0[0] != 10).cloned().collect();
        changed.reverse();
        changed.push(entry(100));
        let (after, reused) = assign(&bits, &changed);
        assert_eq!(reused, 1 << 9);
        assert_eq!(after[9], Some(EntryId([100; 16])));
        assert_eq!(after[19], bits[19]);
        // An entry that comes back while its bit is free has it again.
        let (kept, _) = assign(&bits, &all[..3]);
        assert_eq!(kept, bits);
    }

    #[test]
    fn too_many_entries_are_refused_and_equal_ones_merged() {
        let mut selection = Selection { entries: (1..=65).map(entry).collect() };
        assert!(matches!(merge(&selection), Err(InterceptError::TooManyEntries(65))));
        selection.entries[64] = Entry { egress: Egress::Deny, ..entry(1) };
        let merged = merge(&selection).unwrap();
        assert_eq!(merged.len(), 64);
        assert_eq!(merged[0].egress, Egress::Deny);
    }

    #[test]
    fn an_impossible_entry_is_never_active() {
        let entries = [Entry { impossible: true, ..entry(1) }];
        let (bits, _) = assign(&[None; MAX_ENTRIES], &entries);
        let compiled = compile(&bits, &entries).unwrap();
        assert_eq!(compiled.rules.active, 0);
        assert_eq!(compiled.rules.assigned, 1);
    }
}
