//! Connections of designated processes arrive at the proxy with their original destination, whatever
//! kind of socket they come from.
#![allow(clippy::unwrap_used, reason = "a failure of any step is a failure of the test")]

mod intercept_support;

use intercept_support::{Bed, answer, entry, real_server, selection, to};
use interlock_agent::intercept::Pattern;
use std::os::unix::fs::MetadataExt as _;

#[tokio::test(flavor = "multi_thread")]
async fn every_address_family_keeps_its_destination() {
    let bed = Bed::new();
    let interceptor = bed.attach();
    interceptor.apply(&selection([bed.clients()])).unwrap();
    for (family, address, seen, original) in [
        ("AF_INET", "192.0.2.7", "192.0.2.7", "192.0.2.7:5432"),
        ("AF_INET6", "2001:db8::7", "2001:db8::7", "[2001:db8::7]:5432"),
        ("AF_INET6", "::ffff:192.0.2.7", "::ffff:192.0.2.7", "192.0.2.7:5432"),
    ] {
        let mut client = bed.client(&format!(
            r"
s = socket.socket(socket.{family}); s.connect(('{address}', 5432))
say(s.recv(9).decode(), s.getpeername()[:2]); sys.stdin.readline()"
        ));
        let flow = answer(&interceptor).await;
        assert_eq!(client.line().await, format!("proxy ('{seen}', 5432)"));
        assert_eq!(flow.original, original.parse().unwrap());
        assert_eq!(flow.entries, [entry(1).id]);
        let process = flow.process;
        assert_eq!(process.tgid, client.child.id());
        assert_eq!((process.uid, process.gid), (0, 0));
        assert_eq!(process.cgroup_id, std::fs::metadata(bed.cgroup.join("clients")).unwrap().ino());
        assert_eq!(u64::from(process.netns), std::fs::metadata("/proc/self/ns/net").unwrap().ino());
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", process.tgid)).unwrap();
        let ticks: u64 =
            stat.rsplit(')').next().unwrap().split_whitespace().nth(19).unwrap().parse().unwrap();
        assert_eq!(process.start_time_ns / 10_000_000, ticks, "start time, at 100 ticks a second");
        client.tell("");
        assert!(client.wait().success());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_way_to_connect_is_redirected() {
    let bed = Bed::new();
    let interceptor = bed.attach();
    interceptor.apply(&selection([bed.clients()])).unwrap();
    let to = "('192.0.2.9', 5432)";
    let mut devices = std::fs::read_dir("/sys/class/net").unwrap().map(|entry| entry.unwrap().file_name());
    let device =
        devices.find(|name| name != "lo").map_or("lo".to_owned(), |name| name.into_string().unwrap());
    for way in [
        // Non-blocking.
        &format!("s.setblocking(False); assert s.connect_ex({to}) == errno.EINPROGRESS; s.setblocking(True)"),
        // Data with the SYN, by flag and by option.
        &format!("s.sendto(b'hello', 0x20000000, {to})"),
        &format!("s.setsockopt(socket.IPPROTO_TCP, 30, 1); s.connect({to}); s.send(b'hello')"),
        // Bound to an address of its own.
        &format!("s.bind(('127.0.0.1', 0)); s.connect({to})"),
        // Bound to a device.
        &format!("s.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b'{device}'); s.connect({to})"),
        // A second use of the same socket.
        &format!(
            "s.connect({to}); s.recv(9)\n\
             import ctypes; u = ctypes.create_string_buffer(16); ctypes.CDLL(None).connect(s.fileno(), u, 16)\n\
             s.connect({to})"
        ),
        // By a thread, and by a child that closes its parent's copy.
        &format!(
            "import threading; t = threading.Thread(target=s.connect, args=[{to}]); t.start(); t.join()"
        ),
    ] {
        let mut client = bed.client(&format!(
            "s = socket.socket()\n{way}\nsay(s.recv(9).decode(), s.getpeername())\nsys.stdin.readline()"
        ));
        let mut flow = answer(&interceptor).await;
        if way.contains("create_string_buffer") {
            flow = answer(&interceptor).await;
        }
        assert_eq!(flow.original, "192.0.2.9:5432".parse().unwrap(), "{way}");
        assert_eq!(flow.process.tgid, client.child.id(), "{way}");
        assert_eq!(client.line().await, format!("proxy {to}"), "{way}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_unspecified_address_is_the_loopback() {
    let bed = Bed::new();
    let interceptor = bed.attach();
    let (real, reached) = real_server("127.0.0.1:0");
    let mut clients = bed.clients();
    clients.destinations = vec![to("127.0.0.0/8", real.port()), to("::1/128", real.port())];
    interceptor.apply(&selection([clients])).unwrap();
    for (family, address, original) in [
        ("AF_INET", "0.0.0.0", "127.0.0.1"),
        ("AF_INET6", "::", "::1"),
        ("AF_INET6", "::ffff:0.0.0.0", "127.0.0.1"),
        ("AF_INET", "127.1.2.3", "127.1.2.3"),
    ] {
        let mut client =
            bed.client(&format!("say(attempt(('{address}', {}), socket.{family}))", real.port()));
        let flow = answer(&interceptor).await;
        assert_eq!(flow.original, (original.parse::<std::net::IpAddr>().unwrap(), real.port()).into());
        assert_eq!(client.line().await, "proxy");
    }
    // Bound to a mapped address, `::` is 127.0.0.1.
    let mut client = bed.client(&format!(
        "s = socket.socket(socket.AF_INET6); s.bind(('::ffff:127.0.0.1', 0)); s.connect(('::', {}))\nsay(s.recv(9).decode())",
        real.port()
    ));
    assert_eq!(answer(&interceptor).await.original.ip(), std::net::Ipv4Addr::LOCALHOST);
    assert_eq!(client.line().await, "proxy");
    assert_eq!(reached.load(std::sync::atomic::Ordering::SeqCst), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_agents_own_connections_are_never_redirected() {
    let bed = Bed::new();
    let interceptor = bed.attach();
    let (real, _) = real_server("127.0.0.1:0");
    // Everybody, everywhere.
    let mut all = entry(1);
    all.cgroup = Some(bed.path(""));
    all.destinations = vec![Pattern { net: None, port: None }];
    interceptor.apply(&selection([all])).unwrap();
    let mut answer_of_real = String::new();
    std::io::Read::read_to_string(&mut std::net::TcpStream::connect(real).unwrap(), &mut answer_of_real)
        .unwrap();
    assert_eq!(answer_of_real, "real");
    let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    udp.send_to(b"x", udp.local_addr().unwrap()).unwrap();
    // Its children are processes like any other.
    let mut child = std::process::Command::new("python3");
    child.args([
        "-c",
        &format!(
            "import socket; s=socket.create_connection(('127.0.0.1',{})); print(s.recv(9))",
            real.port()
        ),
    ]);
    let mut child = intercept_support::Client::spawn(child);
    answer(&interceptor).await;
    assert_eq!(child.line().await, "b'proxy'");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_connects_to_the_proxy_itself_is_turned_away() {
    use tokio::io::AsyncReadExt as _;
    let bed = Bed::new();
    let interceptor = bed.attach();
    interceptor.apply(&selection([bed.clients()])).unwrap();
    let mut client =
        bed.client("s = socket.create_connection(('192.0.2.7', 5432)); say(s.recv(9)); sys.stdin.readline()");
    let flow = answer(&interceptor).await;
    client.line().await;
    let mut direct = tokio::net::TcpStream::connect(flow.stream.local_addr().unwrap()).await.unwrap();
    assert_eq!(direct.read(&mut [0; 1]).await.unwrap_or(0), 0, "closed without a word");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_unspecified_address_of_a_bound_socket_is_its_own() {
    let bed = Bed::new();
    let interceptor = bed.attach();
    let (real, reached) = real_server("127.0.0.5:0");
    let (elsewhere, _) = real_server("127.0.0.6:0");
    let mut clients = bed.clients();
    clients.destinations = vec![to("127.0.0.5/32", 0), to("127.0.0.1/32", 0)];
    interceptor.apply(&selection([clients])).unwrap();
    for (family, own, address, original) in [
        ("AF_INET", "127.0.0.5", "0.0.0.0", "127.0.0.5"),
        ("AF_INET6", "::ffff:127.0.0.5", "::ffff:0.0.0.0", "127.0.0.5"),
        // Bound to a group, it has no address of its own.
        ("AF_INET", "224.0.0.1", "0.0.0.0", "127.0.0.1"),
    ] {
        let mut client = bed.client(&format!(
            "s = socket.socket(socket.{family}); s.bind(('{own}', 0)); s.connect(('{address}', {}))\nsay(s.recv(9).decode(), s.getpeername()[0])",
            real.port()
        ));
        let flow = answer(&interceptor).await;
        assert_eq!(flow.original.ip(), original.parse::<std::net::IpAddr>().unwrap(), "{family} {own}");
        assert_eq!(
            client.line().await.trim_start_matches("proxy ::ffff:").trim_start_matches("proxy "),
            original
        );
    }
    assert_eq!(reached.load(std::sync::atomic::Ordering::SeqCst), 0);
    // One that is not listed is reached there.
    let mut client = bed.client(&format!(
        "s = socket.socket(); s.bind(('127.0.0.6', 0)); s.connect(('0.0.0.0', {}))\nsay(s.recv(9).decode(), s.getpeername()[0])",
        elsewhere.port()
    ));
    assert_eq!(client.line().await, "real 127.0.0.6");
    // Datagrams: bound, and by a source given with the datagram (IP_PKTINFO).
    let mut client = bed.client(&format!(
        r"
for family, own, address in (socket.AF_INET, '127.0.0.5', '0.0.0.0'), (socket.AF_INET6, '::ffff:127.0.0.5', '::ffff:0.0.0.0'):
    s = socket.socket(family, socket.SOCK_DGRAM); s.bind((own, 0))
    try: s.sendto(b'y', (address, {port})); say('sent')
    except OSError as e: say(errno.errorcode[e.errno])
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
info = struct.pack('I4s4s', 0, socket.inet_aton('127.0.0.5'), bytes(4))
try: s.sendmsg([b'y'], [(socket.IPPROTO_IP, 8, info)], 0, ('0.0.0.0', {port})); say('sent')
except OSError as e: say(errno.errorcode[e.errno])",
        port = real.port()
    ));
    for _ in 0..3 {
        assert_eq!(client.line().await, "ECONNREFUSED");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn source_routes_are_refused() {
    let bed = Bed::new();
    let interceptor = bed.attach();
    interceptor.apply(&selection([bed.clients()])).unwrap();
    let mut client = bed.client(
        r"
route = bytes([0x83, 7, 4]) + socket.inet_aton('198.51.100.1') + b'\0'
hop = bytes([0, 0, 1, 4, 0, 0, 0, 0])
for family, level, option, value, address in (
    (socket.AF_INET, socket.IPPROTO_IP, 4, route, '192.0.2.7'),
    (socket.AF_INET6, socket.IPPROTO_IP, 4, route, '::ffff:192.0.2.7'),
    (socket.AF_INET6, socket.IPPROTO_IPV6, socket.IPV6_HOPOPTS, hop, '2001:db8::7'),
):
    s = socket.socket(family)
    s.setsockopt(level, option, value)
    try: s.connect((address, 5432)); say('connected')
    except OSError as e: say(errno.errorcode[e.errno])",
    );
    for _ in 0..3 {
        assert_eq!(client.line().await, "ECONNREFUSED");
    }
    assert_eq!(interceptor.status().unwrap().counters["rerouted"], 3);
}
