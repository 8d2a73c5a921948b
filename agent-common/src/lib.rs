//! Types that the eBPF programs and the agent share: map keys and values, events, counters.
//!
//! Everything here is plain data without padding. What is stored in pinned maps outlives the agent, so
//! a change to any of it raises [`LAYOUT`].
#![no_std]

mod event;
mod hash;

pub use event::{ARGV_MAX, ConnectEvent, ExecEvent, ExitEvent, FILENAME_MAX, Kind, Reason};
pub use hash::{TEXT_MAX, fold, seed, text_hash};

/// Version of the pinned maps' layout. Pins of different layouts stand in different directories.
pub const LAYOUT: u32 = 2;

/// Entries that a selection may have: one bit each in a `u64`.
pub const MAX_ENTRIES: usize = 64;
/// Listeners on IPv4 loopback addresses in one network namespace. Each gives room for as many
/// connections as there are ephemeral ports.
pub const LISTENERS_V4: usize = 8;
/// Listeners on `::1` (at different ports) in one network namespace.
pub const LISTENERS_V6: usize = 4;
/// Files that one exec may run through: the kernel gives up after five interpreters.
pub const IMAGES_MAX: usize = 6;
/// Levels of the cgroup hierarchy that are looked at, from its root. A selected cgroup that lies
/// deeper is refused by the agent; how deep a process lies below a selected one does not matter.
pub const CGROUP_LEVELS: u32 = 24;

/// The program knows the process's executable (`images` is filled).
pub const PROCESS_IMAGES: u32 = 1;
/// The executable is an interpreter that takes a script as an argument.
pub const PROCESS_INTERPRETER: u32 = 1 << 1;
/// The executable could not be found out; it is taken to be any that is selected.
pub const PROCESS_UNKNOWN: u32 = 1 << 2;
/// An exec event was sent, so an exit event is to follow.
pub const PROCESS_REPORTED: u32 = 1 << 3;
/// The login user id in `login` was set by a task of root's.
pub const PROCESS_LOGIN: u32 = 1 << 4;

/// Where the kernel keeps what the programs read, in bytes from the start of each structure. Found in
/// the running kernel's type information.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "each field is named after the structure and the member")]
pub struct Offsets {
    pub task_tgid: u32,
    pub task_pid: u32,
    pub task_group_leader: u32,
    pub task_start_boottime: u32,
    pub task_self_exec_id: u32,
    pub task_mm: u32,
    pub task_cred: u32,
    pub task_real_parent: u32,
    pub task_cgroups: u32,
    pub task_signal: u32,
    pub cred_uid: u32,
    pub cred_gid: u32,
    pub mm_exe_file: u32,
    pub mm_arg_start: u32,
    pub mm_arg_end: u32,
    pub file_inode: u32,
    pub file_flags: u32,
    /// `f_path.dentry`.
    pub file_dentry: u32,
    pub inode_ino: u32,
    pub inode_sb: u32,
    pub super_dev: u32,
    /// `d_name.name`.
    pub dentry_name: u32,
    pub bprm_file: u32,
    pub bprm_filename: u32,
    pub bprm_interp: u32,
    pub css_set_dfl_cgrp: u32,
    pub cgroup_kn: u32,
    pub cgroup_level: u32,
    pub cgroup_root: u32,
    /// `ancestors` (since 6.1) or `ancestor_ids`.
    pub cgroup_ancestors: u32,
    /// 1 when the array above holds pointers to cgroups, 0 when it holds their ids.
    pub cgroup_ancestors_are_pointers: u32,
    pub kernfs_id: u32,
    pub kernfs_name: u32,
    pub root_hierarchy_id: u32,
    /// `live.counter`.
    pub signal_live: u32,
    /// `__sk_common.skc_net.net`.
    pub sock_net: u32,
    /// `ns.inum`.
    pub net_inum: u32,
    /// 0 where the kernel has no audit.
    pub task_loginuid: u32,
    /// IP options of a socket: source routes among them.
    pub inet_options: u32,
    /// 0 where the kernel has no IPv6.
    pub inet_pinet6: u32,
    /// Extension headers of an IPv6 socket.
    pub ipv6_options: u32,
}

/// What the running kernel can do. Constants to the verifier: code for what is missing is cut out.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features {
    /// `bpf_set_retval` may be called from socket address programs (since 5.18).
    pub set_retval: u32,
    /// Each file of an exec is seen (`fentry` works), not only the last.
    pub exec_stages: u32,
}

/// A selection, compiled: for each question a bit mask over the entries.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// Entries of the selection now in force.
    pub active: u64,
    /// Entries whose bits have a meaning; a process may have inherited one that is not active now.
    pub assigned: u64,
    /// Entries that do not ask for a user.
    pub any_uid: u64,
    /// Entries that do not ask for a group.
    pub any_gid: u64,
    /// Entries that do not ask for a cgroup.
    pub any_cgroup: u64,
    /// Entries that do not ask for a unit.
    pub any_unit: u64,
    /// Entries that do not ask for an executable.
    pub any_exe: u64,
    /// Entries that do not ask for a run.
    pub any_run: u64,
    /// Entries that ask for a run of any name.
    pub every_run: u64,
    /// Entries that take in what their processes start.
    pub descendants: u64,
    /// Entries that redirect some destination.
    pub redirect: u64,
    /// Entries with `egress: deny`.
    pub deny: u64,
    /// Entries with `egress: record`.
    pub record: u64,
    /// Entries under which name look-ups stay allowed.
    pub resolvers: u64,
}

/// The agent's process, while it lives.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Agent {
    /// Process id; 0 when no agent is alive.
    pub tgid: u32,
    /// Not 0 while connections cannot be recorded: then what must be is refused.
    pub unrecorded: u32,
}

/// A file, whatever its name: the file system's device number as the kernel has it, and the inode.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileId {
    /// Inode number. 0 is no file.
    pub ino: u64,
    /// `s_dev` of the super block: major << 20 | minor.
    pub dev: u64,
}

/// What is known of a process (thread group).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Process {
    /// When it was started, in nanoseconds since boot; 0 for one that was there before the programs.
    pub start: u64,
    /// Entries that took it in, or one it descends from, for good: as the process itself found by what
    /// it did. The two below are of other writers, so that no two of them write the same word.
    pub inherited: u64,
    /// The same, as a sweep found.
    pub swept: u64,
    /// The same, as somebody found who moved it to another cgroup.
    pub moved: u64,
    /// The kernel's count of execs at the last one seen; tells one program from the next in the same
    /// process. 0 as long as none was seen.
    pub exec_id: u64,
    /// Hash of the name of the run it belongs to; 0 for none.
    pub run: u64,
    /// Hash of the path that was given to exec.
    pub path: u64,
    /// The executable; of a script, its (last) interpreter.
    pub exe: FileId,
    /// The script, its interpreter and so on, or just the executable; then selected files that it has
    /// opened as an interpreter.
    pub images: [FileId; IMAGES_MAX],
    /// `PROCESS_*`.
    pub flags: u32,
    /// How many of `images` the exec came through.
    pub stages: u32,
    /// The audit login user id, as it was last seen.
    pub login: u32,
    /// 0.
    pub reserved: u32,
}

impl Process {
    /// Entries that took it in for good.
    #[inline(always)]
    pub const fn lasting(&self) -> u64 {
        self.inherited | self.swept | self.moved
    }
}

/// A process that the agent has made part of a run.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    /// [`Process::start`]: another process of the same id is not meant.
    pub start: u64,
    /// Hash of the run's name.
    pub run: u64,
}

/// Files that an exec under way has come through: the script, its interpreter and so on.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stages {
    /// In their order.
    pub images: [FileId; IMAGES_MAX],
    /// How many of them.
    pub count: u32,
    /// 0.
    pub reserved: u32,
}

/// A script that a process of before the programs runs, found by user space in its arguments.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Argument {
    /// [`Process::exec_id`] at that time: stale as soon as the process runs something else.
    pub exec_id: u64,
    /// The script.
    pub script: FileId,
}

/// Entries that ask for a cgroup, by path and by unit name.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CgroupBits {
    /// By path.
    pub path: u64,
    /// By unit name.
    pub unit: u64,
}

/// Where connections are redirected to in one network namespace. Everything in network byte order,
/// the port in the lower half, as the socket address context has it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Listeners {
    /// On IPv4 loopback addresses.
    pub v4: [Endpoint4; LISTENERS_V4],
    /// Ports on `::1`; 0 when the host has no IPv6.
    pub v6: [u32; LISTENERS_V6],
}

/// An IPv4 address and port.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Endpoint4 {
    /// In network byte order.
    pub address: u32,
    /// In network byte order, in the lower half.
    pub port: u32,
}

/// A redirected connection: where it was to go and who made it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// IPv4 addresses are v4-mapped.
    pub address: [u8; 16],
    /// In host byte order.
    pub port: u32,
    /// Process id.
    pub tgid: u32,
    /// When the process was started, in nanoseconds since boot.
    pub start: u64,
    /// Real user id.
    pub uid: u32,
    /// Real group id.
    pub gid: u32,
    /// Id of its cgroup.
    pub cgroup: u64,
    /// Every entry that takes the process in.
    pub bits: u64,
    /// [`Process::exec_id`] at that moment.
    pub exec_id: u64,
    /// Inode number of the network namespace.
    pub netns: u32,
    /// 0.
    pub reserved: u32,
}

/// The two ends of a redirected connection. IPv4 addresses are v4-mapped, whatever the socket's family.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tuple {
    /// The client's address.
    pub client: [u32; 4],
    /// The proxy's address.
    pub proxy: [u32; 4],
    /// The client's port, in host byte order.
    pub client_port: u32,
    /// The proxy's port, in host byte order.
    pub proxy_port: u32,
    /// Inode number of the network namespace.
    pub netns: u32,
    /// 0.
    pub reserved: u32,
}

/// Key of the destinations' trie: port (big endian; 0 stands for any), then the address, v4-mapped.
pub type DestinationKey = [u8; 18];

/// Bits of the port in a [`DestinationKey`].
pub const PORT_BITS: u32 = 16;

/// Key for a destination.
#[inline(always)]
pub const fn destination_key(address: &[u8; 16], port: u16) -> DestinationKey {
    let p = port.to_be_bytes();
    let a = address;
    [
        p[0], p[1], a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7], a[8], a[9], a[10], a[11], a[12], a[13],
        a[14], a[15],
    ]
}

/// The pinned set of programs and maps, for whoever looks at it without a live agent.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Meta {
    /// [`LAYOUT`].
    pub layout: u32,
    /// [`Features::exec_stages`].
    pub exec_stages: u32,
    /// Id of the cgroup that the programs are attached to.
    pub cgroup: u64,
    /// When they were first attached, in seconds since 1970.
    pub since: u64,
    /// When the agent now or last serving began, in seconds since 1970.
    pub agent_since: u64,
}

/// What the kernel side counts, on each processor.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counter {
    /// connect() calls seen, of all processes and protocols.
    Connects,
    /// Connections redirected.
    Redirected,
    /// Other connections and datagrams of designated processes that went their way.
    EgressAllowed,
    /// The same, recorded.
    EgressRecorded,
    /// The same, refused.
    EgressDenied,
    /// Datagrams to redirected destinations, refused.
    UdpRefused,
    /// Connections refused since no agent was alive.
    AgentDead,
    /// Connections refused since their network namespace has no listener.
    NoListener,
    /// Sockets refused that would go around (raw, SCTP, MPTCP and so on).
    SocketRefused,
    /// Connections refused for want of memory.
    NoMemory,
    /// Events that found the ring buffer full.
    EventsLost,
    /// Processes that could not be tracked.
    Untracked,
    /// Connections that reached the proxy, original destination and all.
    Accepted,
    /// Exec events' processes: designated at exec.
    Execs,
    /// Connections and datagrams refused since they could not be recorded.
    Unrecorded,
    /// Sockets refused for the source route that they were given.
    Rerouted,
    /// Selected cgroups that could not be noted.
    CgroupsLost,
}

/// Number of [`Counter`]s.
pub const COUNTERS: u32 = 17;

#[cfg(feature = "user")]
#[allow(unsafe_code)]
mod pod {
    macro_rules! pod {
        ($($type:ty),+ $(,)?) => {$(
            // SAFETY: `repr(C)`, made of integers only, and without padding.
            unsafe impl aya::Pod for $type {}
        )+};
    }
    pod!(
        super::Offsets,
        super::Features,
        super::Rules,
        super::Agent,
        super::FileId,
        super::Process,
        super::Mark,
        super::Stages,
        super::Argument,
        super::CgroupBits,
        super::Listeners,
        super::Origin,
        super::Tuple,
        super::Meta,
    );
}
