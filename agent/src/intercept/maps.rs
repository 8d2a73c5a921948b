//! The maps that user space writes, and the order in which a change of the selection reaches them.

use std::{
    collections::{HashMap, HashSet},
    fs,
    hash::Hash,
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use aya::{
    Ebpf, Pod,
    maps::{Array, HashMap as BpfHashMap, LpmTrie, Map, MapData, MapError, lpm_trie::Key},
};
use interlock_agent_common::{
    Agent, Argument, CgroupBits, DestinationKey, FileId, Listeners, MAX_ENTRIES, Mark, Meta,
    PROCESS_INTERPRETER, PROCESS_UNKNOWN, Process, Rules,
};

use super::{
    cgroup::Hierarchy,
    compile::{self, Bits, Compiled},
    error::InterceptError,
    file_id::Resolver,
    sys,
};
use crate::policy::EntryId;

/// File names of interpreters, without version: such a process, when it opens a selected file, is
/// taken to run it. `ld` is the dynamic linker, which can be told to run a program.
const INTERPRETERS: [&str; 30] = [
    "ash", "awk", "bash", "bun", "busybox", "dash", "deno", "expect", "fish", "gawk", "groovy", "java",
    "ksh", "ld", "lua", "luajit", "make", "mawk", "mksh", "node", "nodejs", "perl", "php", "pypy", "python",
    "rbash", "ruby", "sh", "tclsh", "zsh",
];
const RSCRIPT: &str = "Rscript";
/// Where the host's name servers stand.
const RESOLV_CONF: &str = "/etc/resolv.conf";

type Table<K, V> = BpfHashMap<MapData, K, V>;

/// The maps.
pub(super) struct Maps {
    rules: Array<MapData, Rules>,
    generation: Array<MapData, u32>,
    ids: Array<MapData, [u8; 16]>,
    meta: Array<MapData, Meta>,
    agent: Array<MapData, Agent>,
    swept: Array<MapData, u64>,
    overflow: Array<MapData, u32>,
    cgroups_lost: Array<MapData, u32>,
    uids: Table<u32, u64>,
    gids: Table<u32, u64>,
    exes: Table<FileId, u64>,
    paths: Table<u64, u64>,
    runs: Table<u64, u64>,
    cgroups: Table<u64, CgroupBits>,
    cgroup_paths: Table<u64, u64>,
    units: Table<u64, u64>,
    interpreters: Table<[u8; 8], u32>,
    processes: Table<u32, Process>,
    arguments: Table<u32, Argument>,
    marks: Table<u32, Mark>,
    destinations: LpmTrie<MapData, DestinationKey, u64>,
    resolvers: Table<[u8; 16], u32>,
    listeners: Table<u32, Listeners>,
}

/// Takes a map out of the object.
pub(super) fn take<M>(ebpf: &mut Ebpf, name: &'static str) -> Result<M, InterceptError>
where
    M: TryFrom<Map, Error = MapError>,
{
    let map =
        ebpf.take_map(name).ok_or(InterceptError::Map { name, source: "it is not in the object".into() })?;
    M::try_from(map).map_err(InterceptError::map(name))
}

impl Maps {
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, InterceptError> {
        Ok(Self {
            rules: take(ebpf, "RULES")?,
            generation: take(ebpf, "GENERATION")?,
            ids: take(ebpf, "IDS")?,
            meta: take(ebpf, "META")?,
            agent: take(ebpf, "AGENT")?,
            swept: take(ebpf, "SWEPT")?,
            overflow: take(ebpf, "OVERFLOW")?,
            cgroups_lost: take(ebpf, "CGROUPS_LOST")?,
            uids: take(ebpf, "UIDS")?,
            gids: take(ebpf, "GIDS")?,
            exes: take(ebpf, "EXES")?,
            paths: take(ebpf, "PATHS")?,
            runs: take(ebpf, "RUNS")?,
            cgroups: take(ebpf, "CGROUPS")?,
            cgroup_paths: take(ebpf, "CGROUP_PATHS")?,
            units: take(ebpf, "UNITS")?,
            interpreters: take(ebpf, "INTERPRETERS")?,
            processes: take(ebpf, "PROCESSES")?,
            arguments: take(ebpf, "ARGUMENTS")?,
            marks: take(ebpf, "MARKS")?,
            destinations: take(ebpf, "DESTINATIONS")?,
            resolvers: take(ebpf, "RESOLVERS")?,
            listeners: take(ebpf, "LISTENERS")?,
        })
    }

    pub(super) fn write_interpreters(&mut self) -> Result<(), InterceptError> {
        for name in INTERPRETERS.into_iter().chain([RSCRIPT]) {
            let mut key = [0; 8];
            for (to, from) in key.iter_mut().zip(name.bytes()) {
                *to = from;
            }
            self.interpreters.insert(key, 1, 0).map_err(InterceptError::map("INTERPRETERS"))?;
        }
        Ok(())
    }

    pub(super) fn meta(&self) -> Result<Meta, InterceptError> {
        self.meta.get(&0, 0).map_err(InterceptError::map("META"))
    }

    pub(super) fn set_meta(&mut self, meta: Meta) -> Result<(), InterceptError> {
        self.meta.set(0, meta, 0).map_err(InterceptError::map("META"))
    }

    /// Says which process is the agent; 0 that none is.
    pub(super) fn set_agent(&mut self, tgid: u32) -> Result<(), InterceptError> {
        self.agent.set(0, Agent { tgid, unrecorded: 0 }, 0).map_err(InterceptError::map("AGENT"))
    }

    /// Says whether connections can be recorded.
    pub(super) fn set_unrecorded(&mut self, unrecorded: bool) -> Result<(), InterceptError> {
        let agent = self.agent.get(&0, 0).map_err(InterceptError::map("AGENT"))?;
        let agent = Agent { unrecorded: u32::from(unrecorded), ..agent };
        self.agent.set(0, agent, 0).map_err(InterceptError::map("AGENT"))
    }

    /// Forgets the listeners of an earlier agent.
    pub(super) fn clear_listeners(&mut self) -> Result<(), InterceptError> {
        let keys: Vec<u32> = self.listeners.keys().flatten().collect();
        for key in keys {
            remove(&mut self.listeners, &key).map_err(InterceptError::map("LISTENERS"))?;
        }
        Ok(())
    }

    pub(super) fn set_listeners(&mut self, netns: u32, listeners: Listeners) -> Result<(), InterceptError> {
        self.listeners.insert(netns, listeners, 0).map_err(InterceptError::map("LISTENERS"))
    }

    /// The bits as they were left.
    pub(super) fn bits(&self) -> Result<Bits, InterceptError> {
        let mut bits: Bits = [None; MAX_ENTRIES];
        for (index, bit) in bits.iter_mut().enumerate() {
            let id = self.ids.get(&(index as u32), 0).map_err(InterceptError::map("IDS"))?;
            *bit = (id != [0; 16]).then_some(EntryId(id));
        }
        Ok(bits)
    }

    pub(super) fn rules(&self) -> Result<Rules, InterceptError> {
        let generation = self.generation.get(&0, 0).map_err(InterceptError::map("GENERATION"))?;
        self.rules.get(&(generation & 1), 0).map_err(InterceptError::map("RULES"))
    }

    /// Puts rules into force, as a whole.
    fn publish(&mut self, rules: Rules) -> Result<(), InterceptError> {
        let generation = self.generation.get(&0, 0).map_err(InterceptError::map("GENERATION"))?;
        let next = (generation & 1) ^ 1;
        // Nobody may still read what is written over: it was in force until the last change.
        sys::wait_for_programs();
        self.rules.set(next, rules, 0).map_err(InterceptError::map("RULES"))?;
        self.generation.set(0, next, 0).map_err(InterceptError::map("GENERATION"))
    }

    /// Frees bits of what they meant. From here on no fork hands them down; a sweep takes them from the
    /// processes that have them.
    pub(super) fn retire(&mut self, mask: u64) -> Result<(), InterceptError> {
        let mut rules = self.rules()?;
        rules.active &= !mask;
        rules.assigned &= !mask;
        rules.descendants &= !mask;
        self.publish(rules)
    }

    /// Brings a compiled selection into the kernel: first all that it adds, then the switch. At no moment
    /// less is taken in than both selections do. An error leaves the earlier one in force.
    pub(super) fn widen(
        &mut self,
        compiled: &Compiled,
        bits: &Bits,
        hierarchy: &Hierarchy,
        exes: &Exes,
    ) -> Result<(), InterceptError> {
        for (index, bit) in bits.iter().enumerate() {
            let id = bit.map_or([0; 16], |id| id.0);
            self.ids.set(index as u32, id, 0).map_err(InterceptError::map("IDS"))?;
        }
        let mut cgroup_paths = HashMap::new();
        for (path, bits) in &compiled.cgroups {
            *cgroup_paths.entry(compile::hash(path)?).or_default() |= bits;
        }
        let mut units = HashMap::new();
        for (unit, bits) in &compiled.units {
            *units.entry(compile::hash(unit)?).or_default() |= bits;
        }
        widen(&mut self.uids, &compiled.uids).map_err(InterceptError::map("UIDS"))?;
        widen(&mut self.gids, &compiled.gids).map_err(InterceptError::map("GIDS"))?;
        widen(&mut self.runs, &compiled.runs).map_err(InterceptError::map("RUNS"))?;
        widen(&mut self.paths, &exes.paths).map_err(InterceptError::map("PATHS"))?;
        widen(&mut self.exes, &exes.files).map_err(InterceptError::map("EXES"))?;
        widen(&mut self.cgroup_paths, &cgroup_paths).map_err(InterceptError::map("CGROUP_PATHS"))?;
        widen(&mut self.units, &units).map_err(InterceptError::map("UNITS"))?;
        self.find_cgroups(compiled, hierarchy)?;
        self.widen_destinations(compiled).map_err(InterceptError::map("DESTINATIONS"))?;

        self.publish(compiled.rules)
    }

    /// Takes away what only the selection before had.
    pub(super) fn narrow(&mut self, compiled: &Compiled, exes: &Exes) -> Result<(), InterceptError> {
        let mut cgroup_paths = HashMap::new();
        for (path, bits) in &compiled.cgroups {
            *cgroup_paths.entry(compile::hash(path)?).or_default() |= bits;
        }
        let mut units = HashMap::new();
        for (unit, bits) in &compiled.units {
            *units.entry(compile::hash(unit)?).or_default() |= bits;
        }
        let active = compiled.rules.active;
        narrow(&mut self.uids, &compiled.uids).map_err(InterceptError::map("UIDS"))?;
        narrow(&mut self.gids, &compiled.gids).map_err(InterceptError::map("GIDS"))?;
        narrow(&mut self.runs, &compiled.runs).map_err(InterceptError::map("RUNS"))?;
        narrow(&mut self.paths, &exes.paths).map_err(InterceptError::map("PATHS"))?;
        narrow(&mut self.cgroup_paths, &cgroup_paths).map_err(InterceptError::map("CGROUP_PATHS"))?;
        narrow(&mut self.units, &units).map_err(InterceptError::map("UNITS"))?;
        self.narrow_files(active, exes).map_err(InterceptError::map("EXES"))?;
        self.narrow_cgroups(active).map_err(InterceptError::map("CGROUPS"))?;
        self.narrow_destinations(compiled).map_err(InterceptError::map("DESTINATIONS"))
    }

    /// Notes the cgroups that exist of those selected. The kernel side finds later ones itself. Where one
    /// cannot be noted, every process counts as being in it, until [`Maps::make_room`] has noted all.
    /// Says whether all could be.
    pub(super) fn find_cgroups(
        &mut self,
        compiled: &Compiled,
        hierarchy: &Hierarchy,
    ) -> Result<bool, InterceptError> {
        let (found, mut whole) = hierarchy.find(&compiled.cgroups, &compiled.units);
        for (id, mut bits) in found {
            let known = self.cgroups.get(&id, 0).unwrap_or_default();
            if bits.path & !known.path | bits.unit & !known.unit != 0 {
                bits.path |= known.path;
                bits.unit |= known.unit;
                whole &= self.cgroups.insert(id, bits, 0).is_ok();
            }
        }
        if !whole {
            tracing::error!(
                "not all cgroups of selected names can be noted: until there are less, every process counts \
                 as being in one"
            );
            let lost = self.lost_cgroups()?;
            self.set_lost_cgroups(lost.wrapping_add(1).max(1))?;
        }
        Ok(whole)
    }

    fn lost_cgroups(&self) -> Result<u32, InterceptError> {
        self.cgroups_lost.get(&0, 0).map_err(InterceptError::map("CGROUPS_LOST"))
    }

    fn set_lost_cgroups(&mut self, lost: u32) -> Result<(), InterceptError> {
        self.cgroups_lost.set(0, lost, 0).map_err(InterceptError::map("CGROUPS_LOST"))
    }

    /// Tries again where selected cgroups could not be noted.
    pub(super) fn make_room(
        &mut self,
        compiled: &Compiled,
        hierarchy: &Hierarchy,
    ) -> Result<(), InterceptError> {
        let lost = self.lost_cgroups()?;
        if lost == 0 {
            return Ok(());
        }
        let known: Vec<u64> = self.cgroups.keys().flatten().collect();
        let there = hierarchy.ids();
        for id in known.into_iter().filter(|id| !there.contains(id)) {
            remove(&mut self.cgroups, &id).map_err(InterceptError::map("CGROUPS"))?;
        }
        // One that is made and lost meanwhile has changed the count.
        if self.find_cgroups(compiled, hierarchy)? && self.lost_cgroups()? == lost {
            self.set_lost_cgroups(0)?;
            // Or it was made and lost between the two lines above: that is seen here.
            self.find_cgroups(compiled, hierarchy)?;
        }
        Ok(())
    }

    /// Whether there were more processes than could be tracked, and there is room again.
    pub(super) fn can_track_again(&self) -> Result<bool, InterceptError> {
        /// Three quarters of what the kernel side holds.
        const ROOM: usize = 65_536 / 4 * 3;
        let overflow = self.overflow.get(&0, 0).map_err(InterceptError::map("OVERFLOW"))?;
        Ok(overflow != 0 && self.processes.keys().take(ROOM).count() < ROOM)
    }

    /// Every process there is is known: unknown ones are new again.
    pub(super) fn end_overflow(&mut self) -> Result<(), InterceptError> {
        self.overflow.set(0, 0, 0).map_err(InterceptError::map("OVERFLOW"))
    }

    /// A cgroup keeps its path and name as long as it is there, so only bits out of use go.
    fn narrow_cgroups(&mut self, active: u64) -> Result<(), MapError> {
        let known: Vec<(u64, CgroupBits)> = self.cgroups.iter().flatten().collect();
        for (id, bits) in known {
            let left = CgroupBits { path: bits.path & active, unit: bits.unit & active };
            if left.path | left.unit == 0 {
                remove(&mut self.cgroups, &id)?;
            } else if left != bits {
                self.cgroups.insert(id, left, 0)?;
            }
        }
        Ok(())
    }

    /// Brings in the files as they are now. What a selected path held before stays selected as long
    /// as a process runs it.
    pub(super) fn refresh_files(&mut self, active: u64, exes: &Exes) -> Result<(), InterceptError> {
        widen(&mut self.exes, &exes.files).map_err(InterceptError::map("EXES"))?;
        widen(&mut self.paths, &exes.paths).map_err(InterceptError::map("PATHS"))?;
        self.narrow_files(active, exes).map_err(InterceptError::map("EXES"))
    }

    fn narrow_files(&mut self, active: u64, exes: &Exes) -> Result<(), MapError> {
        let known: Vec<(FileId, u64)> = self.exes.iter().flatten().collect();
        let stale: Vec<_> =
            known.into_iter().filter(|(file, bits)| exes.files.get(file) != Some(bits)).collect();
        if stale.is_empty() {
            return Ok(());
        }
        let mut running: HashSet<FileId> = HashSet::new();
        for (_, process) in self.processes.iter().flatten() {
            running.extend(process.images);
        }
        for (_, argument) in self.arguments.iter().flatten() {
            running.insert(argument.script);
        }
        for (file, bits) in stale {
            let current = exes.files.get(&file).copied().unwrap_or(0);
            let left = if running.contains(&file) { bits & active | current } else { current };
            if left == 0 {
                remove(&mut self.exes, &file)?;
            } else if left != bits {
                self.exes.insert(file, left, 0)?;
            }
        }
        Ok(())
    }

    fn widen_destinations(&mut self, compiled: &Compiled) -> Result<(), MapError> {
        let known: HashMap<(u32, DestinationKey), u64> = self
            .destinations
            .iter()
            .flatten()
            .map(|(key, bits)| ((key.prefix_len(), key.data()), bits))
            .collect();
        // A key that is new below an old one must hold what the old one holds, and the other way
        // round: both selections' masks over all keys of both.
        for (key, bits) in known.iter().chain(&compiled.destinations) {
            let both = bits | covering(&known, key) | covering(&compiled.destinations, key);
            if known.get(key) != Some(&both) {
                self.destinations.insert(&Key::new(key.0, key.1), both, 0)?;
            }
        }
        Ok(())
    }

    fn narrow_destinations(&mut self, compiled: &Compiled) -> Result<(), MapError> {
        for ((length, key), bits) in &compiled.destinations {
            self.destinations.insert(&Key::new(*length, *key), bits, 0)?;
        }
        let stale: Vec<_> = self
            .destinations
            .keys()
            .flatten()
            .filter(|key| !compiled.destinations.contains_key(&(key.prefix_len(), key.data())))
            .collect();
        for key in stale {
            match self.destinations.remove(&key) {
                Err(error) if !is_missing(&error) => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// The host's name servers, as they are configured now.
    pub(super) fn refresh_resolvers(&mut self) -> Result<(), InterceptError> {
        let text = fs::read_to_string(RESOLV_CONF).unwrap_or_default();
        let wanted: HashSet<[u8; 16]> = name_servers(&text).collect();
        let known: HashSet<[u8; 16]> = self.resolvers.keys().flatten().collect();
        for address in wanted.difference(&known) {
            self.resolvers.insert(address, 1, 0).map_err(InterceptError::map("RESOLVERS"))?;
        }
        for address in known.difference(&wanted) {
            remove(&mut self.resolvers, address).map_err(InterceptError::map("RESOLVERS"))?;
        }
        Ok(())
    }

    /// Finds processes that already run a selected script: the kernel side knows only their
    /// interpreter. To be called after a sweep, by which all of them are known.
    ///
    /// # Errors
    /// One of them could not be noted; the others are.
    pub(super) fn find_scripts(&mut self, exes: &Exes) -> Result<(), InterceptError> {
        let resolver = Resolver::new().map_err(InterceptError::io("cannot read the mount table"))?;
        let mut result = Ok(());
        for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
                continue;
            };
            // Read before the arguments: if the process has run something else by then, this is stale.
            let Ok(process) = self.processes.get(&pid, 0) else { continue };
            if process.flags & PROCESS_INTERPRETER == 0 {
                continue;
            }
            let Some(script) = script_of(&entry.path(), &resolver, exes) else { continue };
            if let Err(error) = self.arguments.insert(pid, Argument { exec_id: process.exec_id, script }, 0) {
                result = Err(InterceptError::map("ARGUMENTS")(error));
            }
            if self.start_of(pid) != Some(process.start) {
                // It has ended, perhaps before this stood there: nobody else would remove it.
                remove(&mut self.arguments, &pid).map_err(InterceptError::map("ARGUMENTS"))?;
            }
        }
        result
    }

    /// Processes that sweeps have found so far.
    pub(super) fn swept(&self) -> Result<u64, InterceptError> {
        self.swept.get(&0, 0).map_err(InterceptError::map("SWEPT"))
    }

    /// When a process was started, in nanoseconds since boot, if the kernel side knows it.
    pub(super) fn start_of(&self, pid: u32) -> Option<u64> {
        self.processes.get(&pid, 0).ok().map(|process| process.start).filter(|start| *start != 0)
    }

    /// What is known of a process.
    pub(super) fn process(&self, pid: u32) -> Option<Process> {
        self.processes.get(&pid, 0).ok()
    }

    /// The entries whose executable a process runs.
    pub(super) fn by_exe(&self, process: &Process, exes: &Exes) -> u64 {
        if process.flags & PROCESS_UNKNOWN != 0 {
            return u64::MAX;
        }
        let images = process.images.iter().take_while(|image| image.ino != 0);
        let files = images.filter_map(|image| exes.files.get(image));
        let path = exes.paths.get(&process.path).filter(|_| process.path != 0);
        files.chain(path).fold(0, |bits, more| bits | more)
    }

    /// Notes that a process belongs to a run.
    pub(super) fn set_run(&mut self, pid: u32, start: u64, run: u64) -> Result<(), InterceptError> {
        self.marks.insert(pid, Mark { start, run }, 0).map_err(InterceptError::map("MARKS"))?;
        if self.start_of(pid) != Some(start) {
            // It has ended, perhaps before the mark stood there.
            remove(&mut self.marks, &pid).map_err(InterceptError::map("MARKS"))?;
            return Err(InterceptError::Gone(pid));
        }
        Ok(())
    }
}

/// What all shorter prefixes of a key hold.
fn covering(keys: &HashMap<(u32, DestinationKey), u64>, key: &(u32, DestinationKey)) -> u64 {
    // Only the longest counts, as in a look-up: it holds what shorter ones do.
    keys.iter()
        .filter(|((length, other), _)| *length <= key.0 && same_prefix(other, &key.1, *length))
        .max_by_key(|((length, _), _)| *length)
        .map_or(0, |(_, bits)| *bits)
}

fn same_prefix(a: &DestinationKey, b: &DestinationKey, length: u32) -> bool {
    let whole = (length / 8) as usize;
    let rest = length % 8;
    let differ = |index: usize| a.get(index).zip(b.get(index)).map_or(0, |(a, b)| a ^ b);
    (0..whole).all(|index| differ(index) == 0) && (rest == 0 || differ(whole) >> (8 - rest) == 0)
}

fn widen<K: Pod + Eq + Hash>(table: &mut Table<K, u64>, wanted: &HashMap<K, u64>) -> Result<(), MapError> {
    for (key, bits) in wanted {
        let known = table.get(key, 0).unwrap_or(0);
        if bits & !known != 0 {
            table.insert(key, known | bits, 0)?;
        }
    }
    Ok(())
}

fn narrow<K: Pod + Eq + Hash>(table: &mut Table<K, u64>, wanted: &HashMap<K, u64>) -> Result<(), MapError> {
    let known: Vec<(K, u64)> = table.iter().collect::<Result<_, _>>()?;
    for (key, bits) in known {
        match wanted.get(&key) {
            Some(right) if *right == bits => {}
            Some(right) => table.insert(key, right, 0)?,
            None => remove(table, &key)?,
        }
    }
    Ok(())
}

fn remove<K: Pod, V: Pod>(table: &mut Table<K, V>, key: &K) -> Result<(), MapError> {
    match table.remove(key) {
        Err(error) if !is_missing(&error) => Err(error),
        _ => Ok(()),
    }
}

fn is_missing(error: &MapError) -> bool {
    match error {
        MapError::KeyNotFound | MapError::ElementNotFound => true,
        MapError::SyscallError(error) => error.io_error.kind() == io::ErrorKind::NotFound,
        _ => false,
    }
}

/// The selected executables, resolved.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Exes {
    pub(super) files: HashMap<FileId, u64>,
    /// By hash of the path.
    pub(super) paths: HashMap<u64, u64>,
}

impl Exes {
    /// Resolves paths to the files that they name now.
    pub(super) fn resolve(wanted: &HashMap<PathBuf, u64>) -> Result<Self, InterceptError> {
        let mut found = Self::default();
        if wanted.is_empty() {
            return Ok(found);
        }
        let resolver = Resolver::new().map_err(InterceptError::io("cannot read the mount table"))?;
        for (path, bits) in wanted {
            let mut note = |path: &Path| -> Result<(), InterceptError> {
                *found.paths.entry(compile::hash(&path.to_string_lossy())?).or_default() |= bits;
                Ok(())
            };
            note(path)?;
            if let Ok(real) = path.canonicalize() {
                note(&real)?;
            }
            // One that is not there yet matches by its path, and by itself once it is.
            if let Ok(file) = resolver.resolve(path) {
                *found.files.entry(file).or_default() |= bits;
            }
        }
        Ok(found)
    }
}

/// The selected file among the first arguments of a process.
fn script_of(process: &Path, resolver: &Resolver, exes: &Exes) -> Option<FileId> {
    use std::{ffi::OsStr, os::unix::ffi::OsStrExt as _};
    const ARGUMENTS: usize = 8;
    /// Bytes that are read: a process can claim to have any number.
    const BYTES: u64 = 64 << 10;
    let mut line = Vec::new();
    fs::File::open(process.join("cmdline")).ok()?.take(BYTES).read_to_end(&mut line).ok()?;
    line.split(|byte| *byte == 0)
        .skip(1)
        .take(ARGUMENTS)
        .filter(|argument| !argument.is_empty() && !argument.starts_with(b"-"))
        .find_map(|argument| {
            let path = Path::new(OsStr::from_bytes(argument));
            let full = match path.strip_prefix("/") {
                Ok(inside) => process.join("root").join(inside),
                Err(_) => process.join("cwd").join(path),
            };
            resolver.resolve(&full).ok().filter(|file| exes.files.contains_key(file))
        })
}

/// The addresses on `nameserver` lines, v4-mapped. Format: resolv.conf(5).
fn name_servers(text: &str) -> impl Iterator<Item = [u8; 16]> + '_ {
    text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        if words.next() != Some("nameserver") {
            return None;
        }
        // A zone (`fe80::1%eth0`) says only which interface.
        let address = words.next()?.split('%').next()?;
        Some(match address.parse().ok()? {
            std::net::IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
            std::net::IpAddr::V6(address) => address.octets(),
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_servers_are_read() {
        let text =
            "search x\nnameserver 192.0.2.1\n nameserver fe80::1%eth0 \nnameserver\n#nameserver 1.1.1.1\n";
        let found: Vec<_> = name_servers(text).collect();
        assert_eq!(found.len(), 2);
        assert_eq!(found[0][12..], [192, 0, 2, 1]);
    }

    #[test]
    fn the_longest_covering_key_is_found() {
        let key = |length, first: u8| {
            (length, {
                let mut key = [0; 18];
                key[2] = first;
                key
            })
        };
        let keys = HashMap::from([(key(16, 0), 1), (key(17, 0x80), 3), (key(24, 0x81), 7)]);
        assert_eq!(covering(&keys, &key(144, 0x81)), 7);
        assert_eq!(covering(&keys, &key(144, 0x90)), 3);
        assert_eq!(covering(&keys, &key(144, 0x10)), 1);
        assert_eq!(covering(&keys, &key(15, 0)), 0);
    }
}
