//! The maps, and the constants that the agent sets before it loads the programs.

use aya_ebpf::{
    btf_maps::SkStorage,
    macros::{btf_map, map},
    maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, RingBuf},
};
use interlock_agent_common::{
    Agent, Argument, COUNTERS, CgroupBits, Counter, DestinationKey, Features, FileId, Listeners, MAX_ENTRIES,
    Mark, Meta, Offsets, Origin, Process, Rules, Stages, TEXT_MAX, Tuple,
};

/// Set by the agent from the kernel's type information.
#[unsafe(no_mangle)]
pub(crate) static OFFSETS: Offsets = zeroed_offsets();
/// Set by the agent from what it probed.
#[unsafe(no_mangle)]
static FEATURES: Features = Features { set_retval: 0, exec_stages: 0 };

const fn zeroed_offsets() -> Offsets {
    // SAFETY: integers only.
    unsafe { core::mem::zeroed() }
}

/// One offset. Read as volatile, for its value is not the one that the compiler sees.
macro_rules! offset {
    ($field:ident) => {
        // SAFETY: a static of integers.
        unsafe { core::ptr::read_volatile(&raw const $crate::maps::OFFSETS.$field) as usize }
    };
}
pub(crate) use offset;

#[inline(always)]
pub(crate) fn set_retval_works() -> bool {
    // SAFETY: a static of integers.
    unsafe { core::ptr::read_volatile(&raw const FEATURES.set_retval) != 0 }
}

#[inline(always)]
pub(crate) fn exec_stages_seen() -> bool {
    // SAFETY: a static of integers.
    unsafe { core::ptr::read_volatile(&raw const FEATURES.exec_stages) != 0 }
}

/// Two generations of the compiled selection: one in force, one to write the next into.
#[map]
static RULES: Array<Rules> = Array::with_max_entries(2, 0);
/// Which of the two is in force.
#[map]
static GENERATION: Array<u32> = Array::with_max_entries(1, 0);
/// Which entry each bit stands for. User space alone uses it.
#[map]
static IDS: Array<[u8; 16]> = Array::with_max_entries(MAX_ENTRIES as u32, 0);
/// User space alone uses it.
#[map]
static META: Array<Meta> = Array::with_max_entries(1, 0);
#[map]
pub(crate) static AGENT: Array<Agent> = Array::with_max_entries(1, 0);
/// Not 0 while a process could not be tracked: as long as that is so unknown processes are taken in.
#[map]
pub(crate) static OVERFLOW: Array<u32> = Array::with_max_entries(1, 0);
/// Counts selected cgroups that could not be noted: while it is not 0 every process counts as one of
/// theirs.
#[map]
pub(crate) static CGROUPS_LOST: Array<u32> = Array::with_max_entries(1, 0);

/// Processes that a sweep found designated.
#[map]
pub(crate) static SWEPT: Array<u64> = Array::with_max_entries(1, 0);

#[map]
pub(crate) static UIDS: HashMap<u32, u64> = HashMap::with_max_entries(4096, 0);
#[map]
pub(crate) static GIDS: HashMap<u32, u64> = HashMap::with_max_entries(4096, 0);
#[map]
pub(crate) static EXES: HashMap<FileId, u64> = HashMap::with_max_entries(8192, 0);
/// By hash of the path given to exec.
#[map]
pub(crate) static PATHS: HashMap<u64, u64> = HashMap::with_max_entries(4096, 0);
/// By hash of the run's name.
#[map]
pub(crate) static RUNS: HashMap<u64, u64> = HashMap::with_max_entries(4096, 0);
/// By cgroup id.
#[map]
pub(crate) static CGROUPS: HashMap<u64, CgroupBits> = HashMap::with_max_entries(65536, 0);
/// By hash of the cgroup's path: for cgroups made from now on.
#[map]
pub(crate) static CGROUP_PATHS: HashMap<u64, u64> = HashMap::with_max_entries(4096, 0);
/// By hash of the cgroup's name: for cgroups made from now on.
#[map]
pub(crate) static UNITS: HashMap<u64, u64> = HashMap::with_max_entries(4096, 0);
/// By the letters that an interpreter's file name begins with.
#[map]
pub(crate) static INTERPRETERS: HashMap<[u8; 8], u32> = HashMap::with_max_entries(64, 0);

#[map]
pub(crate) static PROCESSES: HashMap<u32, Process> = HashMap::with_max_entries(65536, 0);
#[map]
pub(crate) static ARGUMENTS: HashMap<u32, Argument> = HashMap::with_max_entries(65536, 0);
/// Processes that the agent has made part of a run. The kernel side takes it over into `PROCESSES`,
/// which nobody else writes.
#[map]
pub(crate) static MARKS: HashMap<u32, Mark> = HashMap::with_max_entries(16384, 0);
/// By process and thread.
#[map]
pub(crate) static PENDING: HashMap<u64, Stages> = HashMap::with_max_entries(16384, 0);

/// Selected files that a process has opened to execute, written by the agent where the kernel cannot
/// show the stages of an exec.
#[map]
pub(crate) static STAGED: HashMap<u32, Stages> = HashMap::with_max_entries(16384, 0);

#[map]
pub(crate) static DESTINATIONS: LpmTrie<DestinationKey, u64> = LpmTrie::with_max_entries(16384, 0);
/// The host's name servers, v4-mapped.
#[map]
pub(crate) static RESOLVERS: HashMap<[u8; 16], u32> = HashMap::with_max_entries(64, 0);
/// By inode number of the network namespace.
#[map]
pub(crate) static LISTENERS: HashMap<u32, Listeners> = HashMap::with_max_entries(1024, 0);

/// Of the client's socket: where it wanted to go.
#[btf_map]
pub(crate) static ORIGINS: SkStorage<Origin> = SkStorage::new();
/// Of the socket that the proxy accepts: a copy of its client's.
#[btf_map]
pub(crate) static FLOWS: SkStorage<Origin> = SkStorage::new();
/// From the one to the other, while the connection is being established.
#[map]
pub(crate) static HANDSHAKES: LruHashMap<Tuple, Origin> = LruHashMap::with_max_entries(32768, 0);

#[map]
pub(crate) static COUNTS: PerCpuArray<u64> = PerCpuArray::with_max_entries(COUNTERS, 0);
/// Bytes of the ring buffer.
pub(crate) const EVENTS_SIZE: u32 = 1 << 20;
#[map]
pub(crate) static EVENTS: RingBuf = RingBuf::with_byte_size(EVENTS_SIZE, 0);

/// Room for a text. Only tracepoint programs use it, which cannot be preempted.
#[repr(C)]
pub(crate) struct Scratch {
    pub(crate) text: [u64; TEXT_MAX.div_ceil(8)],
}
#[map]
pub(crate) static SCRATCH: PerCpuArray<Scratch> = PerCpuArray::with_max_entries(1, 0);

/// The selection in force.
#[inline(always)]
pub(crate) fn rules() -> Option<&'static Rules> {
    let generation = *GENERATION.get(0)?;
    RULES.get(generation & 1)
}

#[inline(always)]
pub(crate) fn count(counter: Counter) {
    if let Some(cell) = COUNTS.get_ptr_mut(counter as u32) {
        // SAFETY: a cell of this processor's own.
        unsafe { *cell += 1 };
    }
}
