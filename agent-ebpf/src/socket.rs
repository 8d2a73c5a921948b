//! Carries a connection's origin to the socket that the proxy accepts, and refuses kinds of sockets
//! that would go around the other programs.

use aya_ebpf::{
    bindings::bpf_sock,
    helpers::{
        bpf_get_current_cgroup_id, bpf_get_current_pid_tgid, bpf_get_current_uid_gid,
        generated::{bpf_sk_storage_get, bpf_sock_ops_cb_flags_set},
    },
    macros::{cgroup_sock, sock_ops},
    programs::{SockContext, SockOpsContext},
};
use interlock_agent_common::{Counter, Kind, Origin, Reason, Tuple};

use crate::{
    designate::{Hierarchy, Writer, designate, is_agent, process},
    event,
    kernel::{current, netns},
    maps::{FLOWS, HANDSHAKES, ORIGINS, count, rules},
};

const CONNECTING: u32 = 3; // BPF_SOCK_OPS_TCP_CONNECT_CB
const ACCEPTED: u32 = 5; // BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB
const STATE: u32 = 10; // BPF_SOCK_OPS_STATE_CB
const STATE_FLAG: i32 = 1 << 2; // BPF_SOCK_OPS_STATE_CB_FLAG
const TCP_CLOSE: u32 = 7;
const CREATE: u64 = 1; // BPF_SK_STORAGE_GET_F_CREATE
const AF_INET: u32 = 2;
const MAPPED: u32 = 0xffff_u32.to_be();

/// Three moments of a redirected connection:
/// - the client's SYN is about to go: the tuple is final, and is noted with the origin;
/// - the proxy's socket is established: it takes the origin over from the tuple;
/// - the client's socket closes: a tuple that was not taken must not wait for someone else's connection.
#[sock_ops]
pub fn handshake(ctx: SockOpsContext) -> u32 {
    match ctx.op() {
        CONNECTING => connecting(&ctx),
        ACCEPTED => accepted(&ctx),
        STATE if ctx.arg(1) == TCP_CLOSE => {
            let socket = socket(&ctx);
            if !socket.is_null() {
                let _ = HANDSHAKES.remove(client_tuple(&ctx, socket));
            }
        }
        _ => {}
    }
    1
}

#[inline(always)]
fn connecting(ctx: &SockOpsContext) {
    let socket = socket(ctx);
    if socket.is_null() {
        return;
    }
    // SAFETY: the socket of the context.
    let origin = unsafe {
        bpf_sk_storage_get((&raw const ORIGINS).cast_mut().cast(), socket.cast(), core::ptr::null_mut(), 0)
    }
    .cast::<Origin>();
    if origin.is_null() {
        return;
    }
    // SAFETY: a value of the map, of this socket alone.
    if HANDSHAKES.insert(client_tuple(ctx, socket), unsafe { *origin }, 0).is_ok() {
        // SAFETY: the context itself.
        unsafe { bpf_sock_ops_cb_flags_set(ctx.ops, STATE_FLAG) };
    }
}

#[inline(always)]
fn accepted(ctx: &SockOpsContext) {
    let socket = socket(ctx);
    if socket.is_null() {
        return;
    }
    let (local, remote) = ends(ctx);
    let tuple = Tuple {
        client: remote,
        proxy: local,
        client_port: remote_port(ctx),
        proxy_port: ctx.local_port(),
        netns: netns(socket),
        reserved: 0,
    };
    // SAFETY: copied at once; the tuple is this connection's alone.
    let Some(mut origin) = (unsafe { HANDSHAKES.get(&tuple) }).copied() else { return };
    let _ = HANDSHAKES.remove(&tuple);
    // SAFETY: the socket of the context.
    let kept = unsafe {
        bpf_sk_storage_get(
            (&raw const FLOWS).cast_mut().cast(),
            socket.cast(),
            (&raw mut origin).cast(),
            CREATE,
        )
    };
    // Without it the proxy closes the connection: it does not know where it was to go.
    if !kept.is_null() {
        count(Counter::Accepted);
    }
}

#[inline(always)]
fn socket(ctx: &SockOpsContext) -> *mut bpf_sock {
    // SAFETY: the context is readable.
    unsafe { (*ctx.ops).__bindgen_anon_2.sk }
}

#[inline(always)]
fn client_tuple(ctx: &SockOpsContext, socket: *const bpf_sock) -> Tuple {
    let (local, remote) = ends(ctx);
    Tuple {
        client: local,
        proxy: remote,
        client_port: ctx.local_port(),
        proxy_port: remote_port(ctx),
        netns: netns(socket),
        reserved: 0,
    }
}

/// The remote port in host byte order. The kernel leaves it in network order, in the upper half.
#[inline(always)]
fn remote_port(ctx: &SockOpsContext) -> u32 {
    u32::from_be(ctx.remote_port())
}

/// Local and remote address. An IPv6 socket may be on an IPv4 connection: both ends are to agree.
#[inline(always)]
fn ends(ctx: &SockOpsContext) -> ([u32; 4], [u32; 4]) {
    let v4 = ([0, 0, MAPPED, ctx.local_ip4()], [0, 0, MAPPED, ctx.remote_ip4()]);
    if ctx.family() == AF_INET {
        return v4;
    }
    let remote = ctx.remote_ip6();
    if remote[0] | remote[1] == 0 && remote[2] == MAPPED { v4 } else { (ctx.local_ip6(), remote) }
}

/// A socket is made. Of designated processes that something is redirected or denied for, only kinds
/// pass that the other programs see.
#[cgroup_sock(sock_create)]
pub fn socket_create(ctx: SockContext) -> i32 {
    const SOCK_STREAM: u32 = 1;
    const SOCK_DGRAM: u32 = 2;
    const ICMP: u32 = 1;
    const TCP: u32 = 6;
    const UDP: u32 = 17;
    const ICMP6: u32 = 58;
    // SAFETY: the context is readable.
    let (kind, protocol) = unsafe { ((*ctx.sock).type_, (*ctx.sock).protocol) };
    let ping = kind == SOCK_DGRAM && (protocol == ICMP || protocol == ICMP6);
    if kind == SOCK_STREAM && (protocol == TCP || protocol == 0)
        || kind == SOCK_DGRAM && (protocol == UDP || protocol == 0)
    {
        return 1;
    }
    let tgid = (bpf_get_current_pid_tgid() >> 32) as u32;
    if is_agent(tgid) {
        return 1;
    }
    let Some(rules) = rules() else { return 1 };
    // Echo requests cannot carry a redirected protocol, but they can carry data out.
    let guarding = if ping { rules.deny } else { rules.redirect | rules.deny };
    if rules.active & guarding == 0 {
        return 1;
    }
    let task = current();
    let known = process(rules, task, tgid);
    let bits = designate(rules, known, task, tgid, Hierarchy::Helper, Writer::Own);
    if bits & guarding == 0 {
        return 1;
    }
    count(Counter::SocketRefused);
    let owner = bpf_get_current_uid_gid();
    let origin = Origin {
        address: [0; 16],
        port: 0,
        tgid,
        // SAFETY: null or a value of the map.
        start: if known.is_null() { 0 } else { unsafe { (*known).start } },
        uid: owner as u32,
        gid: (owner >> 32) as u32,
        // SAFETY: no arguments.
        cgroup: unsafe { bpf_get_current_cgroup_id() },
        bits,
        // SAFETY: null or a value of the map.
        exec_id: if known.is_null() { 0 } else { unsafe { (*known).exec_id } },
        netns: netns(ctx.sock),
        reserved: 0,
    };
    event::connection(Kind::Refused, Reason::Socket, &origin, protocol);
    0
}
