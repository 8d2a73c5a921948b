//! What is attached, for operators: with a live agent or without.

use std::{collections::BTreeMap, path::Path};

use aya::maps::{Array, HashMap as BpfHashMap, Map, PerCpuArray};
use interlock_agent_common::{Agent, COUNTERS, MAX_ENTRIES, Process, Rules};
use serde::Serialize;

use super::{
    error::InterceptError,
    object::{self, Pins},
};

/// Names of the counters, in the order of `Counter`.
const COUNTER_NAMES: [&str; COUNTERS as usize] = [
    "connects",
    "redirected",
    "egress_allowed",
    "egress_recorded",
    "egress_denied",
    "udp_refused",
    "agent_dead",
    "no_listener",
    "socket_refused",
    "no_memory",
    "events_lost",
    "untracked",
    "accepted",
    "execs",
    "unrecorded",
    "rerouted",
    "cgroups_lost",
];

/// What is attached, and what it has done.
#[derive(Debug, Clone, Serialize)]
pub struct InterceptStatus {
    /// The cgroup that the programs are attached to; empty when it is gone.
    pub cgroup: String,
    /// Its id.
    pub cgroup_id: u64,
    /// Where programs and maps are pinned.
    pub pins: String,
    /// When the programs were first attached, in seconds since 1970; RFC 3339 in JSON.
    #[serde(serialize_with = "rfc3339")]
    pub since: u64,
    /// Process id of the live agent. Without one, what would be redirected is refused.
    pub agent: Option<u32>,
    /// When the last agent began to serve, in seconds since 1970; RFC 3339 in JSON.
    #[serde(serialize_with = "rfc3339")]
    pub agent_since: u64,
    /// The programs.
    pub programs: Vec<ProgramStatus>,
    /// `false` when the kernel cannot show each file of an exec: scripts then match by their path as it
    /// was given to exec, or not at all.
    pub exec_stages: bool,
    /// There are more processes than can be tracked. As long as that is so an unknown process is taken in
    /// by every entry with `descendants`.
    pub overflow: bool,
    /// There are more cgroups of selected names than can be noted. As long as that is so every process
    /// counts as one of theirs.
    pub cgroups_lost: bool,
    /// Processes that are tracked.
    pub processes: u32,
    /// Of these, those that some entry has taken in for good.
    pub designated: u32,
    /// Entries in force, each named by its id.
    pub entries: Vec<String>,
    /// Counts since the programs were first attached.
    pub counters: BTreeMap<&'static str, u64>,
}

/// A program.
#[derive(Debug, Clone, Serialize)]
pub struct ProgramStatus {
    /// Its name.
    pub name: String,
    /// The kernel's id of the program.
    pub program_id: u32,
    /// The kernel's id of its attachment.
    pub link_id: u32,
}

/// One format for times wherever they are shown.
fn rfc3339<S: serde::Serializer>(seconds: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    match i64::try_from(*seconds).ok().and_then(|seconds| jiff::Timestamp::from_second(seconds).ok()) {
        Some(time) => serializer.collect_str(&time),
        None => serializer.serialize_u64(*seconds),
    }
}

fn array<V: aya::Pod>(
    pins: &Pins,
    name: &'static str,
) -> Result<Array<aya::maps::MapData, V>, InterceptError> {
    Array::try_from(Map::Array(pins.map(name)?)).map_err(InterceptError::map(name))
}

/// Reads the pins.
pub(super) fn read(base: &Path) -> Result<InterceptStatus, InterceptError> {
    let pins = Pins::new(base);
    let meta = object::meta(&pins)?;
    let agent: Agent = array(&pins, "AGENT")?.get(&0, 0).map_err(InterceptError::map("AGENT"))?;
    let overflow: u32 = array(&pins, "OVERFLOW")?.get(&0, 0).map_err(InterceptError::map("OVERFLOW"))?;
    let cgroups_lost: u32 =
        array(&pins, "CGROUPS_LOST")?.get(&0, 0).map_err(InterceptError::map("CGROUPS_LOST"))?;
    let generation: u32 =
        array(&pins, "GENERATION")?.get(&0, 0).map_err(InterceptError::map("GENERATION"))?;
    let rules: Rules =
        array(&pins, "RULES")?.get(&(generation & 1), 0).map_err(InterceptError::map("RULES"))?;
    let ids = array::<[u8; 16]>(&pins, "IDS")?;
    let mut entries = Vec::new();
    for index in (0..MAX_ENTRIES as u32).filter(|index| rules.active >> index & 1 != 0) {
        let id = ids.get(&index, 0).map_err(InterceptError::map("IDS"))?;
        entries.push(id.iter().map(|byte| format!("{byte:02x}")).collect());
    }
    let table: BpfHashMap<_, u32, Process> = BpfHashMap::try_from(Map::HashMap(pins.map("PROCESSES")?))
        .map_err(InterceptError::map("PROCESSES"))?;
    let (mut processes, mut designated) = (0, 0);
    for (_, process) in table.iter().flatten() {
        processes += 1;
        designated += u32::from(process.lasting() & rules.active != 0);
    }
    Ok(InterceptStatus {
        cgroup: cgroup_path(meta.cgroup),
        cgroup_id: meta.cgroup,
        pins: base.display().to_string(),
        since: meta.since,
        agent: (agent.tgid != 0).then_some(agent.tgid),
        agent_since: meta.agent_since,
        programs: pins
            .list_links()
            .into_iter()
            .map(|(name, info)| ProgramStatus { name, program_id: info.program, link_id: info.id })
            .collect(),
        exec_stages: meta.exec_stages != 0,
        overflow: overflow != 0,
        cgroups_lost: cgroups_lost != 0,
        processes,
        designated,
        entries,
        counters: counters(&pins)?,
    })
}

fn counters(pins: &Pins) -> Result<BTreeMap<&'static str, u64>, InterceptError> {
    let map: PerCpuArray<_, u64> = PerCpuArray::try_from(Map::PerCpuArray(pins.map("COUNTS")?))
        .map_err(InterceptError::map("COUNTS"))?;
    let mut counters = BTreeMap::new();
    for (index, name) in COUNTER_NAMES.iter().enumerate() {
        let cells = map.get(&(index as u32), 0).map_err(InterceptError::map("COUNTS"))?;
        counters.insert(*name, cells.iter().sum());
    }
    Ok(counters)
}

/// The directory of a cgroup, by its id.
fn cgroup_path(id: u64) -> String {
    let Ok(root) = super::cgroup_root() else { return String::new() };
    let mut open = vec![root];
    while let Some(directory) = open.pop() {
        if super::cgroup::id(&directory).is_ok_and(|found| found == id) {
            return directory.display().to_string();
        }
        for entry in std::fs::read_dir(&directory).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                open.push(entry.path());
            }
        }
    }
    String::new()
}
