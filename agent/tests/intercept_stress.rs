//! No flow may have a wrong or missing destination, under load and heavy port reuse.
#![allow(clippy::unwrap_used, reason = "a failure of any step is a failure of the test")]

mod intercept_support;

use std::{
    collections::HashMap,
    io::{Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream},
    sync::Arc,
    time::Duration,
};

use intercept_support::{Bed, Client, selection, to};
use interlock_agent::intercept::Interceptor;
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const THREADS: u32 = 16;
const EACH: u32 = 1500;
const ROLE: &str = "INTERLOCK_TEST_STRESS_CLIENT";

#[tokio::test(flavor = "multi_thread")]
async fn every_destination_is_exact() {
    if std::env::var_os(ROLE).is_some() {
        return stress(); // this process is the client, started below
    }
    let bed = Bed::new();
    let interceptor = Arc::new(bed.attach());
    let mut clients = bed.clients();
    clients.destinations = vec![to("127.0.0.0/8", 0), to("2001:db8::/32", 0)];
    interceptor.apply(&selection([clients])).unwrap();

    let serving = tokio::spawn(serve(Arc::clone(&interceptor)));
    let own = std::env::current_exe().unwrap();
    let mut command = bed.command_in("clients", own.to_str().unwrap());
    command.args(["--exact", "every_destination_is_exact", "--nocapture"]).env(ROLE, "1");
    let client = Client::spawn(command);
    let status = tokio::task::spawn_blocking(move || client.wait()).await.unwrap();
    assert!(status.success(), "the client has seen a wrong peer or answer");
    // What the client has closed may still be on its way to being accepted.
    let counters = tokio::time::timeout(Duration::from_secs(60), async {
        loop {
            let counters = interceptor.status().unwrap().counters;
            if counters["redirected"] == counters["accepted"] {
                return counters;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .expect("not every redirected connection was accepted");
    serving.abort();
    assert_eq!(counters["redirected"], counters["accepted"], "{counters:?}");
    assert!(counters["redirected"] >= u64::from(THREADS * EACH), "{counters:?}");
}

/// Each flow says where it meant to go; the answer says whether that is where it went.
async fn serve(interceptor: Arc<Interceptor>) {
    loop {
        let mut flow = interceptor.accept().await;
        tokio::spawn(async move {
            let mut claim = [0; 64];
            let Ok(length) = flow.stream.read(&mut claim).await else { return };
            let right =
                std::str::from_utf8(&claim[..length]).is_ok_and(|claim| claim == flow.original.to_string());
            let _ = flow.stream.write_all(if right { b"1" } else { b"0" }).await;
        });
    }
}

fn stress() {
    let threads: Vec<_> = (0..THREADS).map(|thread| std::thread::spawn(move || run(thread))).collect();
    for thread in threads {
        thread.join().unwrap();
    }
}

fn run(thread: u32) {
    let mut sequence = thread.wrapping_mul(0x9e37_79b9) | 1;
    let mut random = move || {
        sequence ^= sequence << 13;
        sequence ^= sequence >> 17;
        sequence ^= sequence << 5;
        sequence
    };
    let mut used: HashMap<u16, u32> = HashMap::new();
    for number in 0..EACH {
        let port = 1024 + (random() % 60_000) as u16;
        let v4 = Ipv4Addr::from(0x7f00_0000 | (random() % 0x00ff_fffe));
        let v4 = if v4.is_unspecified() { Ipv4Addr::LOCALHOST } else { v4 };
        let original = SocketAddr::new(IpAddr::V4(v4), port);
        let (target, expected): (SocketAddr, SocketAddr) = match number % 5 {
            0 => {
                let address = format!("[2001:db8::{:x}]:{port}", random() % 0xffff).parse().unwrap();
                (address, address)
            }
            1 => (SocketAddr::new(IpAddr::V6(v4.to_ipv6_mapped()), port), original),
            _ => (original, original),
        };
        let socket = Socket::new(Domain::for_address(target), Type::STREAM, None).unwrap();
        if number % 3 == 0 && target.is_ipv4() {
            // The same few local ports again and again, without waiting.
            let local = 20_000 + (thread * 8 + random() % 8) as u16;
            socket.set_reuse_address(true).unwrap();
            if socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, local)).into()).is_ok() {
                *used.entry(local).or_default() += 1;
            }
        }
        socket.set_linger(Some(Duration::ZERO)).unwrap();
        connect(&socket, target, number % 2 == 0);
        let mut stream = TcpStream::from(socket);
        assert_eq!(stream.peer_addr().unwrap(), target);
        stream.write_all(expected.to_string().as_bytes()).unwrap();
        let mut answer = [0; 1];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(answer, *b"1", "{target} did not arrive as {expected}");
    }
    assert!(used.values().any(|times| *times > 10), "local ports were reused");
}

fn connect(socket: &Socket, target: SocketAddr, blocking: bool) {
    let address = SockAddr::from(target);
    if blocking {
        return socket.connect(&address).unwrap();
    }
    socket.set_nonblocking(true).unwrap();
    let error = socket.connect(&address).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EINPROGRESS));
    let mut fds = [rustix::event::PollFd::new(socket, rustix::event::PollFlags::OUT)];
    rustix::event::poll(&mut fds, None).unwrap();
    assert!(socket.take_error().unwrap().is_none());
    socket.set_nonblocking(false).unwrap();
}
