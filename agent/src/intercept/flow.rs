//! The proxy's listeners, and what arrives on them.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener as StdListener},
    os::fd::{AsFd as _, OwnedFd},
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use aya::maps::{MapData, SkStorage};
use interlock_agent_common::{Endpoint4, LISTENERS_V4, LISTENERS_V6, Listeners, Origin};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::AbortHandle,
};

use super::{
    alarm::{Alarm, Guard},
    compile::Bits,
    sys,
};
use crate::policy::EntryId;

/// Connections that wait in the kernel for each listener.
const BACKLOG: i32 = 4096;
/// How long to wait when the agent is out of file descriptors.
const PAUSE: Duration = Duration::from_millis(50);

/// A connection of a designated process, taken on its way.
#[derive(Debug)]
pub struct Flow {
    /// To the client.
    pub stream: TcpStream,
    /// Where the client wanted to go. An IPv4 destination is IPv4 here whatever the client's socket.
    pub original: SocketAddr,
    /// Every entry that takes the process in.
    pub entries: Vec<EntryId>,
    /// Who made it.
    pub process: FlowProcess,
}

/// The process behind a flow, as the kernel had it when it called connect().
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FlowProcess {
    /// Process id.
    pub tgid: u32,
    /// When the process was started, in nanoseconds since boot (`CLOCK_BOOTTIME`). Together with the
    /// id it names a process for good.
    pub start_time_ns: u64,
    /// Real user id.
    pub uid: u32,
    /// Real group id.
    pub gid: u32,
    /// Id of its cgroup: the inode number of the cgroup's directory.
    pub cgroup_id: u64,
    /// Inode number of its network namespace, as in `/proc/PID/ns/net`.
    pub netns: u32,
    /// Tells one program from the next in the same process: see [`Program`](super::Program).
    pub exec_id: u64,
}

/// Opens the listeners of one network namespace: the calling thread's.
pub(super) fn listen() -> io::Result<(Listeners, Vec<StdListener>)> {
    let mut listeners = Listeners::default();
    let mut sockets = Vec::with_capacity(LISTENERS_V4 + LISTENERS_V6);
    for (index, endpoint) in listeners.v4.iter_mut().enumerate() {
        let address = Ipv4Addr::new(127, 0, 0, index as u8 + 1);
        let (socket, port) = bind(SocketAddr::from((address, 0)))?;
        *endpoint =
            Endpoint4 { address: u32::from_ne_bytes(address.octets()), port: u32::from(port.to_be()) };
        sockets.push(socket);
    }
    for endpoint in &mut listeners.v6 {
        match bind(SocketAddr::from((Ipv6Addr::LOCALHOST, 0))) {
            Ok((socket, port)) => {
                *endpoint = u32::from(port.to_be());
                sockets.push(socket);
            }
            Err(error) => {
                tracing::debug!("no listener on ::1 ({error}): IPv6 clients come over mapped addresses");
                break;
            }
        }
    }
    // All of them or none: the kernel side looks at any one.
    if listeners.v6.contains(&0) {
        listeners.v6 = [0; LISTENERS_V6];
    }
    Ok((listeners, sockets))
}

/// The same in another network namespace, by a thread that ends there.
pub(super) fn listen_in(netns: OwnedFd) -> io::Result<(Listeners, Vec<StdListener>)> {
    std::thread::Builder::new()
        .name("netns".to_owned())
        .spawn(move || {
            sys::enter_netns(netns.as_fd())?;
            listen()
        })?
        .join()
        .map_err(|_| io::Error::other("the thread for the other network namespace has failed"))?
}

fn bind(address: SocketAddr) -> io::Result<(StdListener, u16)> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    let listener = StdListener::from(socket);
    let port = listener.local_addr()?.port();
    Ok((listener, port))
}

/// Accepts on listeners and sends what comes to whoever serves the flows.
pub(super) struct Acceptor {
    pub(super) origins: Arc<SkStorage<MapData, Origin>>,
    pub(super) bits: Arc<RwLock<Bits>>,
    pub(super) flows: mpsc::Sender<Flow>,
    pub(super) alarm: Arc<Alarm>,
}

impl Acceptor {
    /// Serves these listeners until the handles are used.
    pub(super) fn serve(&self, sockets: Vec<StdListener>) -> io::Result<Vec<AbortHandle>> {
        sockets
            .into_iter()
            .map(|socket| {
                let listener = TcpListener::from_std(socket)?;
                let (origins, bits, flows) =
                    (Arc::clone(&self.origins), Arc::clone(&self.bits), self.flows.clone());
                let alarm = Arc::clone(&self.alarm);
                Ok(tokio::spawn(accept(listener, origins, bits, flows, alarm)).abort_handle())
            })
            .collect()
    }
}

async fn accept(
    listener: TcpListener,
    origins: Arc<SkStorage<MapData, Origin>>,
    bits: Arc<RwLock<Bits>>,
    flows: mpsc::Sender<Flow>,
    alarm: Arc<Alarm>,
) {
    let _guard = Guard(alarm);
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!("cannot accept a connection: {error}");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let Ok(origin) = origins.get(&stream, 0) else {
            // Not one of ours: somebody has connected to the listener itself.
            tracing::debug!("a connection without an original destination is closed");
            continue;
        };
        let flow = {
            let bits = bits.read().unwrap_or_else(PoisonError::into_inner);
            flow(stream, &origin, &bits)
        };
        if flows.send(flow).await.is_err() {
            return;
        }
    }
}

fn flow(stream: TcpStream, origin: &Origin, bits: &Bits) -> Flow {
    Flow {
        stream,
        original: address(&origin.address, origin.port),
        entries: entries(bits, origin.bits),
        process: FlowProcess {
            tgid: origin.tgid,
            start_time_ns: origin.start,
            uid: origin.uid,
            gid: origin.gid,
            cgroup_id: origin.cgroup,
            netns: origin.netns,
            exec_id: origin.exec_id,
        },
    }
}

/// The entries that a mask stands for.
pub(super) fn entries(bits: &Bits, mask: u64) -> Vec<EntryId> {
    bits.iter()
        .enumerate()
        .filter(|(index, _)| mask >> index & 1 != 0)
        .filter_map(|(_, entry)| *entry)
        .collect()
}

/// A socket address out of the kernel side's form.
pub(super) fn address(address: &[u8; 16], port: u32) -> SocketAddr {
    SocketAddr::new(Ipv6Addr::from(*address).to_canonical(), port as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mapped_addresses_are_ipv4() {
        let mapped = Ipv4Addr::new(192, 0, 2, 1).to_ipv6_mapped().octets();
        assert_eq!(address(&mapped, 5432), "192.0.2.1:5432".parse().unwrap());
        let v6: Ipv6Addr = "2001:db8::1".parse().unwrap();
        assert_eq!(address(&v6.octets(), 1), "[2001:db8::1]:1".parse().unwrap());
    }

    #[test]
    fn a_mask_names_its_entries() {
        let mut bits = [None; 64];
        bits[0] = Some(EntryId([1; 16]));
        bits[63] = Some(EntryId([2; 16]));
        assert_eq!(entries(&bits, 1 | 1 << 5 | 1 << 63), [EntryId([1; 16]), EntryId([2; 16])]);
    }
}
