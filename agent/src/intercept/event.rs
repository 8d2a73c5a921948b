//! What the kernel side reports.

use std::{
    ffi::OsString,
    io,
    mem::offset_of,
    net::SocketAddr,
    os::unix::ffi::OsStringExt as _,
    path::PathBuf,
    sync::{Arc, PoisonError, RwLock},
};

use aya::maps::{MapData, RingBuf};
use interlock_agent_common::{
    ARGV_MAX, ConnectEvent, ExecEvent, ExitEvent, FILENAME_MAX, FileId, Kind, Reason,
};
use tokio::{io::unix::AsyncFd, sync::mpsc};

use super::{
    alarm::{Alarm, Guard},
    compile::Bits,
    flow::{FlowProcess, address, entries},
    program::Program,
};
use crate::policy::EntryId;

/// A report of the kernel side. When reports come faster than they are taken the kernel side drops and
/// counts them (`events_lost`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A designated process has begun a program.
    Exec {
        /// The process; its network namespace is not known here (0).
        process: FlowProcess,
        /// What the kernel knows of the program.
        program: Program,
        /// Process id of its parent.
        parent: u32,
        /// Entries that take it in.
        entries: Vec<EntryId>,
        /// The path as given to exec, of at most 255 bytes.
        filename: PathBuf,
        /// The first 512 bytes of its arguments. They may hold secrets.
        argv: Vec<OsString>,
        /// There were more arguments.
        cut: bool,
    },
    /// A process that an `Exec` told of has ended.
    Exit {
        /// Process id.
        tgid: u32,
        /// When it was started, in nanoseconds since boot.
        start_time_ns: u64,
    },
    /// A connection or datagram that no destination takes in went its way, and is to be recorded.
    EgressRecorded(Egressed),
    /// The same, but refused by `egress: deny`.
    EgressDenied(Egressed),
    /// A connection, datagram or socket was refused for another reason.
    Refused {
        /// What, and whose.
        connection: Egressed,
        /// Why.
        reason: RefusalReason,
    },
}

/// A connection, datagram or socket that the kernel side decided on alone.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Egressed {
    /// Who made it.
    pub process: FlowProcess,
    /// Entries that take the process in.
    pub entries: Vec<EntryId>,
    /// Where it was to go; `[::]:0` for sockets.
    pub destination: SocketAddr,
    /// IP protocol number: 6 is TCP, 17 UDP.
    pub protocol: u32,
}

/// Why the kernel side refused something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RefusalReason {
    /// No agent was alive.
    AgentDead,
    /// The process's network namespace has no listener: see `Interceptor::listen_in`.
    NoListener,
    /// A datagram to a destination whose connections are redirected.
    Udp,
    /// A kind of socket (raw, SCTP, MPTCP and so on) that would go around.
    Socket,
    /// The kernel had no memory for the original destination.
    NoMemory,
    /// It is to be recorded, which is not possible now.
    Unrecorded,
    /// The socket has a source route, so its packets would go elsewhere.
    Rerouted,
}

/// Lets tokio wait for the ring buffer.
#[allow(unsafe_code)]
pub(super) fn register(ring: RingBuf<MapData>) -> io::Result<AsyncFd<RingBuf<MapData>>> {
    // SAFETY: the ring buffer keeps its descriptor open, and the same, as long as it lives.
    unsafe { AsyncFd::register(ring) }.map_err(io::Error::from)
}

/// Passes reports on until nobody listens any more.
pub(super) async fn pump(
    mut ring: AsyncFd<RingBuf<MapData>>,
    bits: Arc<RwLock<Bits>>,
    events: mpsc::Sender<Event>,
    alarm: Arc<Alarm>,
) {
    let _guard = Guard(alarm);
    loop {
        let Ok(mut ready) = ring.readable_mut().await else { return };
        loop {
            let event = {
                let Some(item) = ready.get_inner_mut().next() else { break };
                let bits = bits.read().unwrap_or_else(PoisonError::into_inner);
                decode(&item, &bits)
            };
            if let Some(event) = event
                && events.send(event).await.is_err()
            {
                return;
            }
        }
        ready.clear_ready();
    }
}

fn bytes<const N: usize>(data: &[u8], at: usize) -> Option<[u8; N]> {
    data.get(at..at + N)?.try_into().ok()
}

fn u32_at(data: &[u8], at: usize) -> Option<u32> {
    bytes(data, at).map(u32::from_ne_bytes)
}

fn u64_at(data: &[u8], at: usize) -> Option<u64> {
    bytes(data, at).map(u64::from_ne_bytes)
}

fn decode(data: &[u8], bits: &Bits) -> Option<Event> {
    const EXEC: u32 = Kind::Exec as u32;
    const EXIT: u32 = Kind::Exit as u32;
    const RECORDED: u32 = Kind::EgressRecorded as u32;
    const DENIED: u32 = Kind::EgressDenied as u32;
    const REFUSED: u32 = Kind::Refused as u32;
    match u32_at(data, 0)? {
        EXEC => exec(data, bits),
        EXIT => Some(Event::Exit {
            tgid: u32_at(data, offset_of!(ExitEvent, tgid))?,
            start_time_ns: u64_at(data, offset_of!(ExitEvent, start))?,
        }),
        RECORDED => Some(Event::EgressRecorded(connection(data, bits)?)),
        DENIED => Some(Event::EgressDenied(connection(data, bits)?)),
        REFUSED => Some(Event::Refused {
            connection: connection(data, bits)?,
            reason: reason(u32_at(data, offset_of!(ConnectEvent, reason))?)?,
        }),
        _ => None,
    }
}

fn reason(code: u32) -> Option<RefusalReason> {
    [
        (Reason::AgentDead, RefusalReason::AgentDead),
        (Reason::NoListener, RefusalReason::NoListener),
        (Reason::Udp, RefusalReason::Udp),
        (Reason::Socket, RefusalReason::Socket),
        (Reason::NoMemory, RefusalReason::NoMemory),
        (Reason::Unrecorded, RefusalReason::Unrecorded),
        (Reason::Rerouted, RefusalReason::Rerouted),
    ]
    .into_iter()
    .find_map(|(kernel, reason)| (kernel as u32 == code).then_some(reason))
}

/// A file's identity, or that of none.
fn file(data: &[u8], at: usize) -> Option<Option<FileId>> {
    let id = FileId {
        ino: u64_at(data, at + offset_of!(FileId, ino))?,
        dev: u64_at(data, at + offset_of!(FileId, dev))?,
    };
    Some((id.ino != 0).then_some(id))
}

fn exec(data: &[u8], bits: &Bits) -> Option<Event> {
    let start_time_ns = u64_at(data, offset_of!(ExecEvent, start))?;
    let exec_id = u64_at(data, offset_of!(ExecEvent, exec_id))?;
    let filename: [u8; FILENAME_MAX] = bytes(data, offset_of!(ExecEvent, filename))?;
    let argv: [u8; ARGV_MAX] = bytes(data, offset_of!(ExecEvent, argv))?;
    let length = (u32_at(data, offset_of!(ExecEvent, argv_len))? as usize).min(ARGV_MAX);
    let filename = filename.split(|byte| *byte == 0).next().unwrap_or_default();
    let argv = argv.get(..length).unwrap_or_default();
    let whole = argv.strip_suffix(&[0]).unwrap_or(argv);
    Some(Event::Exec {
        process: FlowProcess {
            tgid: u32_at(data, offset_of!(ExecEvent, tgid))?,
            start_time_ns,
            uid: u32_at(data, offset_of!(ExecEvent, uid))?,
            gid: u32_at(data, offset_of!(ExecEvent, gid))?,
            cgroup_id: u64_at(data, offset_of!(ExecEvent, cgroup))?,
            netns: 0,
            exec_id,
        },
        program: Program {
            start_time_ns,
            exec_id,
            exe: file(data, offset_of!(ExecEvent, exe))?,
            script: file(data, offset_of!(ExecEvent, script))?,
            login: None,
        },
        parent: u32_at(data, offset_of!(ExecEvent, parent))?,
        entries: entries(bits, u64_at(data, offset_of!(ExecEvent, bits))?),
        filename: OsString::from_vec(filename.to_vec()).into(),
        argv: whole.split(|byte| *byte == 0).map(|part| OsString::from_vec(part.to_vec())).collect(),
        cut: length == ARGV_MAX,
    })
}

fn connection(data: &[u8], bits: &Bits) -> Option<Egressed> {
    let to: [u8; 16] = bytes(data, offset_of!(ConnectEvent, address))?;
    Some(Egressed {
        process: FlowProcess {
            tgid: u32_at(data, offset_of!(ConnectEvent, tgid))?,
            start_time_ns: u64_at(data, offset_of!(ConnectEvent, start))?,
            uid: u32_at(data, offset_of!(ConnectEvent, uid))?,
            gid: u32_at(data, offset_of!(ConnectEvent, gid))?,
            cgroup_id: u64_at(data, offset_of!(ConnectEvent, cgroup))?,
            netns: u32_at(data, offset_of!(ConnectEvent, netns))?,
            exec_id: u64_at(data, offset_of!(ConnectEvent, exec_id))?,
        },
        entries: entries(bits, u64_at(data, offset_of!(ConnectEvent, bits))?),
        destination: address(&to, u32_at(data, offset_of!(ConnectEvent, port))?),
        protocol: u32_at(data, offset_of!(ConnectEvent, protocol))?,
    })
}
