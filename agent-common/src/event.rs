//! What the kernel side reports through its ring buffer.

use crate::FileId;

/// Bytes of the path given to exec that an event holds, the closing zero included.
pub const FILENAME_MAX: usize = 256;
/// Bytes of the argument vector that an event holds.
pub const ARGV_MAX: usize = 512;

/// First field of every event.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// [`ExecEvent`].
    Exec = 1,
    /// [`ExitEvent`].
    Exit = 2,
    /// [`ConnectEvent`]: went its way and is to be recorded.
    EgressRecorded = 3,
    /// [`ConnectEvent`]: refused by `egress: deny`.
    EgressDenied = 4,
    /// [`ConnectEvent`]: refused for another [`Reason`].
    Refused = 5,
}

/// Why a connection, datagram or socket was refused.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// It was not, or its egress rule says it all.
    None = 0,
    /// No agent was alive to take the connection.
    AgentDead = 1,
    /// The process's network namespace has no listener.
    NoListener = 2,
    /// A datagram to a destination whose connections are redirected.
    Udp = 3,
    /// A kind of socket that would go around.
    Socket = 4,
    /// The kernel had no memory to note the original destination.
    NoMemory = 5,
    /// It is to be recorded, which is not possible now.
    Unrecorded = 6,
    /// Its packets would take another way than to its destination.
    Rerouted = 7,
}

/// A designated process has begun a program.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct ExecEvent {
    /// [`Kind`].
    pub kind: u32,
    /// Process id.
    pub tgid: u32,
    /// When the process was started, in nanoseconds since boot.
    pub start: u64,
    /// Process id of its parent.
    pub parent: u32,
    /// Real user id.
    pub uid: u32,
    /// Real group id.
    pub gid: u32,
    /// Bytes used of `argv`; [`ARGV_MAX`] may mean that it is cut.
    pub argv_len: u32,
    /// Id of its cgroup.
    pub cgroup: u64,
    /// Entries that take it in.
    pub bits: u64,
    /// The kernel's count of the process's execs.
    pub exec_id: u64,
    /// The executable.
    pub exe: FileId,
    /// What was asked for, if that is a script; else zeros.
    pub script: FileId,
    /// The path as given to exec, closed by a zero.
    pub filename: [u8; FILENAME_MAX],
    /// The arguments, each closed by a zero.
    pub argv: [u8; ARGV_MAX],
}

/// A process that an exec event told of has ended.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct ExitEvent {
    /// [`Kind`].
    pub kind: u32,
    /// Process id.
    pub tgid: u32,
    /// When the process was started, in nanoseconds since boot.
    pub start: u64,
}

/// A connection, datagram or socket that the kernel side decided on alone.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct ConnectEvent {
    /// [`Kind`].
    pub kind: u32,
    /// [`Reason`].
    pub reason: u32,
    /// v4-mapped; all zeros for sockets.
    pub address: [u8; 16],
    /// In host byte order.
    pub port: u32,
    /// `IPPROTO_*`.
    pub protocol: u32,
    /// Process id.
    pub tgid: u32,
    /// Real user id.
    pub uid: u32,
    /// Real group id.
    pub gid: u32,
    /// Inode number of its network namespace.
    pub netns: u32,
    /// When the process was started, in nanoseconds since boot.
    pub start: u64,
    /// Id of its cgroup.
    pub cgroup: u64,
    /// Entries that take it in.
    pub bits: u64,
    /// The kernel's count of the process's execs.
    pub exec_id: u64,
}
