//! What designated processes open besides: allowed, recorded or denied in the kernel, and the ways
//! around a redirect that are refused.
#![allow(clippy::unwrap_used, reason = "a failure of any step is a failure of the test")]

mod intercept_support;

use intercept_support::{Bed, entry, event, real_server, selection, to};
use interlock_agent::{
    intercept::{Event, RefusalReason},
    policy::Egress,
};

#[tokio::test(flavor = "multi_thread")]
async fn egress_is_allowed_recorded_or_denied() {
    let bed = Bed::new();
    let interceptor = bed.attach();
    let mut events = interceptor.events().unwrap();
    let (v4, reached4) = real_server("127.0.0.1:0");
    let (v6, reached6) = real_server("[::1]:0");
    let sink = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let udp = sink.local_addr().unwrap().port();
    let script = format!(
        r"
say(attempt(('127.0.0.1', {p4})), attempt(('::1', {p6}), socket.AF_INET6),
    attempt(('::ffff:127.0.0.1', {p4}), socket.AF_INET6),
    attempt(('127.0.0.1', {udp}), kind=socket.SOCK_DGRAM))
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
try: s.sendto(b'y', ('127.0.0.1', {udp})); say('sent')
except OSError as e: say(errno.errorcode[e.errno])
s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
try: s.sendto(b'y', ('::ffff:127.0.0.1', {udp})); say('sent')
except OSError as e: say(errno.errorcode[e.errno])",
        p4 = v4.port(),
        p6 = v6.port(),
    );
    let counters = || interceptor.status().unwrap().counters;
    for egress in [Egress::Allow, Egress::Record, Egress::Deny] {
        interceptor.apply(&selection([intercept_support::Entry { egress, ..bed.clients() }])).unwrap();
        let before = (counters(), reached4.load(SeqCst) + reached6.load(SeqCst));
        let mut client = bed.client(&script);
        let pid = client.child.id();
        let (first, second, third) = (client.line().await, client.line().await, client.line().await);
        let reached = reached4.load(SeqCst) + reached6.load(SeqCst) - before.1;
        let counted = |name: &str| counters()[name] - before.0[name];
        if egress == Egress::Deny {
            assert_eq!(first, "ECONNREFUSED ECONNREFUSED ECONNREFUSED ECONNREFUSED");
            assert_eq!((second.as_str(), third.as_str()), ("ECONNREFUSED", "ECONNREFUSED"));
            assert_eq!(reached, 0);
            assert_eq!(counted("egress_denied"), 6);
        } else {
            assert_eq!(first, "real real real sent");
            assert_eq!((second.as_str(), third.as_str()), ("sent", "sent"));
            assert_eq!(reached, 3);
            let name = if egress == Egress::Allow { "egress_allowed" } else { "egress_recorded" };
            assert_eq!(counted(name), 6);
        }
        for (protocol, port, family) in
            [(6, v4.port(), 4), (6, v6.port(), 6), (6, v4.port(), 4), (17, udp, 4)]
        {
            let seen = |seen: Event| match (egress, seen) {
                (Egress::Record, Event::EgressRecorded(seen)) | (Egress::Deny, Event::EgressDenied(seen)) => {
                    Some(seen)
                }
                (_, Event::Exec { .. } | Event::Exit { .. }) => None,
                (_, other) => panic!("{other:?}"),
            };
            if egress != Egress::Allow {
                let seen = event(&mut events, seen).await;
                assert_eq!(
                    (seen.process.tgid, seen.protocol, seen.destination.port()),
                    (pid, protocol, port)
                );
                assert_eq!(seen.destination.is_ipv4(), family == 4);
                assert_eq!(seen.entries, [entry(1).id]);
            }
        }
        for _ in 0..if egress == Egress::Allow { 0 } else { 2 } {
            event(&mut events, |event| {
                matches!(event, Event::EgressRecorded(_) | Event::EgressDenied(_)).then_some(())
            })
            .await;
        }
    }
}
use std::sync::atomic::Ordering::SeqCst;

#[tokio::test(flavor = "multi_thread")]
async fn the_strictest_of_several_entries_decides() {
    let bed = Bed::new();
    let interceptor = bed.attach();
    let (real, _) = real_server("127.0.0.1:0");
    let deny = intercept_support::Entry { egress: Egress::Deny, ..bed.clients() };
    let mut record = intercept_support::Entry { egress: Egress::Record, ..entry(2) };
    record.uid = Some(0);
    record.cgroup = Some(bed.path(""));
    interceptor.apply(&selection([deny, record.clone()])).unwrap();
    let script = format!("say(attempt(('127.0.0.1', {})))", real.port());
    assert_eq!(bed.client(&script).line().await, "ECONNREFUSED");
    interceptor.apply(&selection([bed.clients(), record])).unwrap();
    assert_eq!(bed.client(&script).line().await, "real");
    assert_eq!(interceptor.status().unwrap().counters["egress_recorded"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn datagrams_to_redirected_destinations_are_refused() {
    let bed = Bed::new();
    let interceptor = bed.attach();
    let mut events = interceptor.events().unwrap();
    interceptor.apply(&selection([bed.clients()])).unwrap();
    let mut client = bed.client(
        r"
say(attempt(('192.0.2.1', 5432), kind=socket.SOCK_DGRAM))
say(attempt(('2001:db8::1', 5432), socket.AF_INET6, socket.SOCK_DGRAM))
for family, address in (socket.AF_INET, '192.0.2.1'), (socket.AF_INET6, '2001:db8::1'), (socket.AF_INET6, '::ffff:192.0.2.1'):
    s = socket.socket(family, socket.SOCK_DGRAM)
    try: s.sendto(b'y', (address, 5432)); say('sent')
    except OSError as e: say(errno.errorcode[e.errno])
# A connected one that sends elsewhere.
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.connect(('127.0.0.1', 9))
try: s.sendto(b'y', ('192.0.2.1', 5432)); say('sent')
except OSError as e: say(errno.errorcode[e.errno])",
    );
    for _ in 0..6 {
        assert_eq!(client.line().await, "ECONNREFUSED");
        let (connection, reason) = event(&mut events, |event| match event {
            Event::Refused { connection, reason } => Some((connection, reason)),
            _ => None,
        })
        .await;
        assert_eq!(reason, RefusalReason::Udp);
        assert_eq!((connection.protocol, connection.destination.port()), (17, 5432));
    }
    assert_eq!(interceptor.status().unwrap().counters["udp_refused"], 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn sockets_that_would_go_around_are_refused() {
    let bed = Bed::new();
    let interceptor = bed.attach();
    let mut events = interceptor.events().unwrap();
    let script = r"
def make(family, kind, protocol):
    try: socket.socket(family, kind, protocol).close(); return 'made'
    except OSError as e: return errno.errorcode[e.errno]
say(make(2, socket.SOCK_RAW, 6), make(10, socket.SOCK_RAW, 6), make(2, socket.SOCK_RAW, 255), make(2, socket.SOCK_STREAM, 262),
    make(2, socket.SOCK_STREAM, 0), make(2, socket.SOCK_STREAM, 6), make(10, socket.SOCK_DGRAM, 17), make(2, socket.SOCK_DGRAM, 136))";
    interceptor.apply(&selection([bed.clients()])).unwrap();
    assert_eq!(bed.client(script).line().await, "EPERM EPERM EPERM EPERM made made made EPERM");
    let reason = event(&mut events, |event| match event {
        Event::Refused { reason, .. } => Some(reason),
        _ => None,
    })
    .await;
    assert_eq!(reason, RefusalReason::Socket);
    // With nothing to go around they are nobody's business.
    let harmless = intercept_support::Entry { destinations: Vec::new(), ..bed.clients() };
    interceptor.apply(&selection([harmless])).unwrap();
    assert_eq!(bed.client(script).line().await, "made made made made made made made made");
    // Neither are those of other processes.
    interceptor.apply(&selection([bed.clients()])).unwrap();
    std::fs::create_dir(bed.cgroup.join("others")).unwrap();
    assert_eq!(bed.client_in("others", script).line().await, "made made made made made made made made");
}

#[tokio::test(flavor = "multi_thread")]
async fn name_lookups_pass_if_the_policy_says_so() {
    let text = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let server = text.lines().find_map(|line| line.strip_prefix("nameserver ")).map(str::trim);
    let bed = Bed::new();
    let interceptor = bed.attach();
    let mut deny = intercept_support::Entry { egress: Egress::Deny, ..bed.clients() };
    deny.destinations = vec![to("0.0.0.0/0", 53)];
    // An address that is no resolver's, and one that is, if this host has one.
    let other = "192.0.2.53";
    let script = format!(
        "say(attempt(('{other}', 53), kind=socket.SOCK_DGRAM), attempt(('{}', 53), kind=socket.SOCK_DGRAM))",
        server.unwrap_or(other),
    );
    for resolvers in [false, true] {
        deny.resolvers = resolvers;
        interceptor.apply(&selection([deny.clone()])).unwrap();
        let expected = if resolvers && server.is_some_and(|server| server.contains('.')) {
            "sent"
        } else {
            "ECONNREFUSED"
        };
        assert_eq!(bed.client(&script).line().await, format!("ECONNREFUSED {expected}"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn programs_of_designated_processes_are_reported() {
    let bed = Bed::new();
    let interceptor = bed.attach();
    let mut events = interceptor.events().unwrap();
    interceptor.apply(&selection([bed.clients()])).unwrap();
    let mut client =
        bed.client("subprocess.run(['/bin/echo', 'a b', 'x' * 600], stdout=subprocess.DEVNULL); say('done')");
    client.line().await;
    let (child, parent, argv, cut) = event(&mut events, |event| match event {
        Event::Exec { process, parent, filename, argv, cut, entries, .. } if filename.ends_with("echo") => {
            assert_eq!(entries, [entry(1).id]);
            Some((process, parent, argv, cut))
        }
        _ => None,
    })
    .await;
    assert_eq!(parent, client.child.id());
    assert_eq!(argv[..2], ["/bin/echo", "a b"]);
    assert!(cut && argv[2].len() > 400);
    let ended = event(&mut events, |event| match event {
        Event::Exit { tgid, start_time_ns } if tgid == child.tgid => Some(start_time_ns),
        _ => None,
    })
    .await;
    assert_eq!(ended, child.start_time_ns);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_recorded_does_not_go() {
    let bed = Bed::new();
    std::fs::create_dir(bed.cgroup.join("denied")).unwrap();
    let interceptor = bed.attach();
    let record = intercept_support::Entry { egress: Egress::Record, ..bed.clients() };
    let deny =
        intercept_support::Entry { egress: Egress::Deny, cgroup: Some(bed.path("denied")), ..entry(2) };
    interceptor.apply(&selection([record, deny])).unwrap();
    // Nobody takes the reports: what is refused does not take the room of what is let go.
    let flood = |count: u32| {
        format!(
            r"
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); sent = 0
for n in range({count}):
    try: s.sendto(b'y', ('127.0.0.1', 9 + n % 1000)); sent += 1
    except OSError as e: pass
say(sent)"
        )
    };
    assert_eq!(bed.client_in("denied", &flood(40_000)).line().await, "0");
    let mut client = bed.client(&flood(40_000));
    let sent: usize = client.line().await.parse().unwrap();
    assert!(sent > 0 && sent < 40_000, "{sent}");
    let refused = format!("say(attempt(('127.0.0.1', {}), kind=socket.SOCK_DGRAM))", 9);
    assert_eq!(bed.client(&refused).line().await, "ECONNREFUSED");
    assert!(interceptor.status().unwrap().counters["unrecorded"] > 0);
    // Each that has gone is told of.
    let mut events = interceptor.events().unwrap();
    let pid = client.child.id();
    for _ in 0..sent {
        event(&mut events, |event| match event {
            Event::EgressRecorded(seen) if seen.process.tgid == pid => Some(()),
            _ => None,
        })
        .await;
    }
    assert_eq!(bed.client(&refused).line().await, "sent");
    // The agent says that it cannot record.
    interceptor.set_recording(false).unwrap();
    assert_eq!(bed.client(&refused).line().await, "ECONNREFUSED");
    let reason = event(&mut events, |event| match event {
        Event::Refused { reason, .. } => Some(reason),
        _ => None,
    })
    .await;
    assert_eq!(reason, RefusalReason::Unrecorded);
    interceptor.set_recording(true).unwrap();
    assert_eq!(bed.client(&refused).line().await, "sent");
}
