//! Decides on connections and datagrams, and redirects.

use aya_ebpf::{
    EbpfContext as _,
    bindings::{bpf_sock, bpf_sock_addr},
    helpers::{
        bpf_get_current_cgroup_id, bpf_get_current_pid_tgid, bpf_get_current_uid_gid,
        generated::{bpf_get_prandom_u32, bpf_set_retval, bpf_setsockopt},
    },
    macros::cgroup_sock_addr,
    maps::lpm_trie::Key,
    programs::SockAddrContext,
};
use interlock_agent_common::{
    Counter, DestinationKey, Endpoint4, Kind, LISTENERS_V4, LISTENERS_V6, Listeners, Origin, PORT_BITS,
    Process, Reason, Rules, destination_key,
};

use crate::{
    designate::{Hierarchy, Writer, designate, is_agent, process},
    event,
    kernel::{current, is_rerouted, netns},
    maps::{AGENT, DESTINATIONS, LISTENERS, ORIGINS, RESOLVERS, count, rules, set_retval_works},
};

const GO: i32 = 1;
const REFUSE: i32 = 0;
const ECONNREFUSED: i32 = 111;
const SOCK_STREAM: u32 = 1;
const IPPROTO_TCP: u32 = 6;
const IPPROTO_UDP: u32 = 17;
/// `::ffff:0:0`, third word, in network byte order.
const MAPPED: u32 = 0xffff_u32.to_be();
/// `127.0.0.1`, in network byte order.
const LOOPBACK4: u32 = 0x7f00_0001_u32.to_be();
const ONE: u32 = 1_u32.to_be();

/// What becomes of a connection.
enum Fate {
    Go,
    /// The same, of a designated process.
    Pass,
    Refuse,
    Redirect(Listeners4or6),
}

enum Listeners4or6 {
    V4(Endpoint4),
    V6(u32),
}

/// An address family's way to write an address into the context.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Family {
    V4,
    V6,
    /// An IPv4 address in an IPv6 socket.
    Mapped,
}

#[cgroup_sock_addr(connect4)]
pub fn connect4(ctx: SockAddrContext) -> i32 {
    // SAFETY: the context is readable.
    let (address, own) = unsafe { ((*ctx.sock_addr).user_ip4, (*socket(&ctx)).src_ip4) };
    connect(&ctx, Family::V4, mapped(address, own))
}

#[cgroup_sock_addr(connect6)]
pub fn connect6(ctx: SockAddrContext) -> i32 {
    let (family, address) = address6(&ctx);
    connect(&ctx, family, address)
}

#[cgroup_sock_addr(sendmsg4)]
pub fn sendmsg4(ctx: SockAddrContext) -> i32 {
    // SAFETY: the context is readable.
    let (address, own) = unsafe { ((*ctx.sock_addr).user_ip4, (*ctx.sock_addr).msg_src_ip4) };
    send(&ctx, Family::V4, mapped(address, own))
}

#[cgroup_sock_addr(sendmsg6)]
pub fn sendmsg6(ctx: SockAddrContext) -> i32 {
    let (family, address) = address6(&ctx);
    send(&ctx, family, address)
}

/// The v4-mapped form. The kernel takes 0.0.0.0 for the address that the socket is bound to (`own`), or
/// for 127.0.0.1 where that is none or none of a single host. So do the rules; and what they have
/// looked up is what the kernel is then given ([`settle`]).
#[inline(always)]
fn mapped(address: u32, own: u32) -> [u32; 4] {
    let address = match address {
        0 if own == 0 || u32::from_be(own) >> 28 >= 0xe => LOOPBACK4,
        0 => own,
        address => address,
    };
    [0, 0, MAPPED, address]
}

/// Writes the address that was looked up in the place of 0.0.0.0.
#[inline(always)]
fn settle(ctx: &SockAddrContext, family: Family, address: [u32; 4]) {
    // SAFETY: these fields are readable, and writable, each as a whole.
    unsafe {
        match family {
            Family::V4 if (*ctx.sock_addr).user_ip4 == 0 => {
                store(&raw mut (*ctx.sock_addr).user_ip4, address[3]);
            }
            Family::Mapped if (*ctx.sock_addr).user_ip6[3] == 0 => store6(ctx.sock_addr, address),
            _ => {}
        }
    }
}

/// The address of an IPv6 context. The kernel takes `::` for `::1`, or for 127.0.0.1 where the socket
/// is bound to a mapped address.
#[inline(always)]
fn address6(ctx: &SockAddrContext) -> (Family, [u32; 4]) {
    // SAFETY: the context is readable, the socket's own address too.
    let address = unsafe { (*ctx.sock_addr).user_ip6 };
    if address[0] | address[1] != 0 {
        return (Family::V6, address);
    }
    let source = unsafe { (*socket(ctx)).src_ip6 };
    let bound_to_mapped = source[0] | source[1] == 0 && source[2] == MAPPED;
    if address[2] == MAPPED {
        return (Family::Mapped, mapped(address[3], if bound_to_mapped { source[3] } else { 0 }));
    }
    if address[2] | address[3] == 0 {
        if bound_to_mapped {
            return (Family::Mapped, mapped(0, 0));
        }
        return (Family::V6, [0, 0, 0, ONE]);
    }
    (Family::V6, address)
}

#[inline(always)]
fn socket(ctx: &SockAddrContext) -> *mut bpf_sock {
    // SAFETY: the context is readable; the socket is there in all of these hooks.
    unsafe { (*ctx.sock_addr).__bindgen_anon_1.sk }
}

#[inline(always)]
fn connect(ctx: &SockAddrContext, family: Family, address: [u32; 4]) -> i32 {
    count(Counter::Connects);
    // SAFETY: the context is readable.
    let (kind, protocol) = unsafe { ((*ctx.sock_addr).type_, (*ctx.sock_addr).protocol) };
    let tcp = kind == SOCK_STREAM && protocol == IPPROTO_TCP;
    if tcp {
        // What an earlier connect() of this socket left must not be taken for this one's.
        // SAFETY: the socket of the context.
        let _ = unsafe { ORIGINS.delete(socket(ctx)) };
    }
    match decide(ctx, family, address, tcp, protocol) {
        Fate::Go => GO,
        Fate::Pass => {
            settle(ctx, family, address);
            GO
        }
        Fate::Refuse => refuse(ctx, family, tcp),
        Fate::Redirect(to) => {
            unbind_device(ctx);
            match to {
                Listeners4or6::V4(endpoint) => write4(ctx, family, endpoint),
                Listeners4or6::V6(port) => write6(ctx, port),
            }
            GO
        }
    }
}

#[inline(always)]
fn send(ctx: &SockAddrContext, family: Family, address: [u32; 4]) -> i32 {
    match decide(ctx, family, address, false, IPPROTO_UDP) {
        Fate::Go => GO,
        Fate::Pass => {
            // What is sent to a mapped address comes as IPv4.
            if family == Family::V4 {
                settle(ctx, family, address);
            }
            GO
        }
        Fate::Refuse | Fate::Redirect(_) => {
            if set_retval_works() {
                // SAFETY: any value is fine.
                unsafe { bpf_set_retval(-ECONNREFUSED) };
            }
            REFUSE
        }
    }
}

#[inline(always)]
fn decide(ctx: &SockAddrContext, family: Family, address: [u32; 4], tcp: bool, protocol: u32) -> Fate {
    let tgid = (bpf_get_current_pid_tgid() >> 32) as u32;
    if is_agent(tgid) {
        return Fate::Go;
    }
    let Some(rules) = rules() else { return Fate::Go };
    if rules.active == 0 {
        return Fate::Go;
    }
    let task = current();
    let known = process(rules, task, tgid);
    let bits = designate(rules, known, task, tgid, Hierarchy::Helper, Writer::Own);
    if bits == 0 {
        return Fate::Go;
    }
    // SAFETY: the context is readable; same size and any bytes are fine.
    let (port, address) = unsafe {
        (u16::from_be((*ctx.sock_addr).user_port as u16), core::mem::transmute::<[u32; 4], [u8; 16]>(address))
    };
    let origin = origin(ctx, address, port, tgid, known, bits);

    // SAFETY: only its presence counts.
    let lookup = port == 53 && unsafe { RESOLVERS.get(address) }.is_some();
    let mut wanted = bits & redirecting(&address, port);
    if bits & rules.deny | wanted != 0 && is_rerouted(socket(ctx), family != Family::V4) {
        count(Counter::Rerouted);
        event::connection(Kind::Refused, Reason::Rerouted, &origin, protocol);
        return Fate::Refuse;
    }
    if lookup && !tcp {
        wanted &= !rules.resolvers;
    }
    if wanted == 0 {
        return egress(rules, &origin, protocol, lookup);
    }
    if !tcp {
        count(Counter::UdpRefused);
        event::connection(Kind::Refused, Reason::Udp, &origin, protocol);
        return Fate::Refuse;
    }
    redirect(ctx, family, &origin)
}

#[inline(always)]
fn origin(
    ctx: &SockAddrContext,
    address: [u8; 16],
    port: u16,
    tgid: u32,
    process: *const Process,
    bits: u64,
) -> Origin {
    let owner = bpf_get_current_uid_gid();
    // SAFETY: null or a value of the map.
    let (start, exec_id) =
        if process.is_null() { (0, 0) } else { unsafe { ((*process).start, (*process).exec_id) } };
    Origin {
        address,
        port: u32::from(port),
        tgid,
        start,
        uid: owner as u32,
        gid: (owner >> 32) as u32,
        // SAFETY: no arguments.
        cgroup: unsafe { bpf_get_current_cgroup_id() },
        bits,
        exec_id,
        netns: netns(socket(ctx)),
        reserved: 0,
    }
}

/// Entries that want connections to a destination redirected.
#[inline(always)]
fn redirecting(address: &[u8; 16], port: u16) -> u64 {
    let mut key = Key::<DestinationKey>::new(PORT_BITS + 128, destination_key(address, port));
    let exact = DESTINATIONS.get(&key).copied().unwrap_or(0);
    key.data[0] = 0;
    key.data[1] = 0;
    exact | DESTINATIONS.get(&key).copied().unwrap_or(0)
}

/// What becomes of a connection that no entry redirects. Deny beats record beats allow.
#[inline(always)]
fn egress(rules: &Rules, origin: &Origin, protocol: u32, lookup: bool) -> Fate {
    let mut deny = origin.bits & rules.deny;
    if lookup {
        deny &= !rules.resolvers;
    }
    if deny != 0 {
        count(Counter::EgressDenied);
        event::connection(Kind::EgressDenied, Reason::None, origin, protocol);
        return Fate::Refuse;
    }
    if origin.bits & rules.record != 0 {
        if AGENT.get(0).is_some_and(|agent| agent.unrecorded != 0) {
            count(Counter::Unrecorded);
            event::connection(Kind::Refused, Reason::Unrecorded, origin, protocol);
            return Fate::Refuse;
        }
        if !event::connection(Kind::EgressRecorded, Reason::None, origin, protocol) {
            count(Counter::Unrecorded);
            return Fate::Refuse;
        }
        count(Counter::EgressRecorded);
    } else {
        count(Counter::EgressAllowed);
    }
    Fate::Pass
}

#[inline(always)]
fn redirect(ctx: &SockAddrContext, family: Family, origin: &Origin) -> Fate {
    if AGENT.get(0).is_none_or(|agent| agent.tgid == 0) {
        count(Counter::AgentDead);
        event::connection(Kind::Refused, Reason::AgentDead, origin, IPPROTO_TCP);
        return Fate::Refuse;
    }
    // SAFETY: user space writes whole values, and only before it serves.
    let Some(listeners) = (unsafe { LISTENERS.get(origin.netns) }) else {
        count(Counter::NoListener);
        event::connection(Kind::Refused, Reason::NoListener, origin, IPPROTO_TCP);
        return Fate::Refuse;
    };
    let mut copy = *origin;
    // SAFETY: the socket of the context.
    if unsafe { ORIGINS.get_or_insert_ptr_mut(ctx, Some(&mut copy)) }.is_null() {
        count(Counter::NoMemory);
        event::connection(Kind::Refused, Reason::NoMemory, origin, IPPROTO_TCP);
        return Fate::Refuse;
    }
    count(Counter::Redirected);
    Fate::Redirect(choose(family, listeners))
}

/// One of the listeners, by chance: each has its own set of ephemeral ports.
#[inline(always)]
fn choose(family: Family, listeners: &Listeners) -> Listeners4or6 {
    // SAFETY: no arguments.
    let chance = unsafe { bpf_get_prandom_u32() } as usize;
    if family == Family::V6 {
        let port = listeners.v6[chance % LISTENERS_V6];
        if port != 0 {
            return Listeners4or6::V6(port);
        }
    }
    Listeners4or6::V4(listeners.v4[chance % LISTENERS_V4])
}

/// Refuses: with the error that a client knows, or on kernels that cannot say it by sending the
/// connection to port 0 of the loopback, where nobody listens.
#[inline(always)]
fn refuse(ctx: &SockAddrContext, family: Family, tcp: bool) -> i32 {
    if set_retval_works() {
        // SAFETY: any value is fine.
        unsafe { bpf_set_retval(-ECONNREFUSED) };
        return REFUSE;
    }
    if !tcp {
        return REFUSE;
    }
    unbind_device(ctx);
    match family {
        Family::V6 => write6(ctx, 0),
        Family::V4 | Family::Mapped => write4(ctx, family, Endpoint4 { address: LOOPBACK4, port: 0 }),
    }
    GO
}

/// A socket bound to a device would not reach the loopback.
#[inline(always)]
fn unbind_device(ctx: &SockAddrContext) {
    const SOL_SOCKET: i32 = 1;
    const SO_BINDTODEVICE: i32 = 25;
    // SAFETY: the socket of the context is readable.
    if unsafe { (*socket(ctx)).bound_dev_if } != 0 {
        let mut none = [0_u8; 4];
        // SAFETY: the option's value is read within its four bytes.
        unsafe {
            bpf_setsockopt(ctx.as_ptr(), SOL_SOCKET, SO_BINDTODEVICE, none.as_mut_ptr().cast(), 4);
        }
    }
}

#[inline(always)]
fn write4(ctx: &SockAddrContext, family: Family, endpoint: Endpoint4) {
    let to = ctx.sock_addr;
    if family == Family::V4 {
        // SAFETY: these fields are writable, each as a whole.
        unsafe { store(&raw mut (*to).user_ip4, endpoint.address) };
    } else {
        store6(to, [0, 0, MAPPED, endpoint.address]);
    }
    // SAFETY: as above.
    unsafe { store(&raw mut (*to).user_port, endpoint.port) };
}

#[inline(always)]
fn write6(ctx: &SockAddrContext, port: u32) {
    let to = ctx.sock_addr;
    store6(to, [0, 0, 0, ONE]);
    // SAFETY: this field is writable as a whole.
    unsafe { store(&raw mut (*to).user_port, port) };
}

#[inline(always)]
fn store6(to: *mut bpf_sock_addr, address: [u32; 4]) {
    // SAFETY: these fields are writable, each as a whole.
    unsafe {
        store(&raw mut (*to).user_ip6[0], address[0]);
        store(&raw mut (*to).user_ip6[1], address[1]);
        store(&raw mut (*to).user_ip6[2], address[2]);
        store(&raw mut (*to).user_ip6[3], address[3]);
    }
}

/// A store that the compiler leaves as it is: the kernel takes no others into a context.
#[inline(always)]
unsafe fn store(to: *mut u32, value: u32) {
    // SAFETY: the caller's.
    unsafe { core::ptr::write_volatile(to, value) };
}

/// The client asks who it talks to: whom it wanted to.
#[cgroup_sock_addr(getpeername4)]
pub fn getpeername4(ctx: SockAddrContext) -> i32 {
    // SAFETY: the socket of the context.
    let origin = unsafe { ORIGINS.get_ptr_mut(&ctx) };
    if !origin.is_null() {
        // SAFETY: a value of the map; these fields are writable.
        unsafe {
            let words = core::mem::transmute::<[u8; 16], [u32; 4]>((*origin).address);
            store(&raw mut (*ctx.sock_addr).user_ip4, words[3]);
            store(&raw mut (*ctx.sock_addr).user_port, u32::from(((*origin).port as u16).to_be()));
        }
    }
    1
}

/// The same for IPv6 sockets.
#[cgroup_sock_addr(getpeername6)]
pub fn getpeername6(ctx: SockAddrContext) -> i32 {
    // SAFETY: the socket of the context.
    let origin = unsafe { ORIGINS.get_ptr_mut(&ctx) };
    if !origin.is_null() {
        // SAFETY: a value of the map; these fields are writable.
        unsafe {
            let words = core::mem::transmute::<[u8; 16], [u32; 4]>((*origin).address);
            store6(ctx.sock_addr, words);
            store(&raw mut (*ctx.sock_addr).user_port, u32::from(((*origin).port as u16).to_be()));
        }
    }
    1
}
