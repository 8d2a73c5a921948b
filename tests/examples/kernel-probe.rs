//! Shows that the eBPF programs load, attach, redirect and fail closed on the kernel at hand. Run by
//! `cargo xtask kernels` in machines that have little more than this program; it prints PASS at the end.
//!
//! It starts itself again in three roles: as an agent that prints the flows it gets, as a designated
//! client, and as one that is not.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a failure of any step is a failure of the probe")]

use std::io::{BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use interlock_agent::intercept::{Entry, Interceptor, Options, Pattern, Selection};
use interlock_agent::policy::{Egress, EntryId};
use interlock_tests::Cgroup;

/// Where the pins go.
const PINS: &str = "/sys/fs/bpf/interlock-kernel-probe";
/// How long a client waits for a connection.
const LIMIT: Duration = Duration::from_secs(20);

fn main() {
    let arguments: Vec<_> = std::env::args().collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        [_, "agent", cgroup, clients, port] => {
            agent(Path::new(cgroup), Path::new(clients), port.parse().unwrap());
        }
        [_, "tcp", address] => tcp(address.parse().unwrap()),
        [_, "udp", address] => udp(address.parse().unwrap()),
        [_] => probe(),
        other => panic!("wrong usage: {other:?}"),
    }
}

/// Attaches, designates all in the cgroup `clients`, and prints each flow.
fn agent(cgroup: &Path, clients: &Path, port: u16) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let interceptor = match Interceptor::attach(&Options { cgroup: cgroup.to_owned(), pins: PINS.into() })
        {
            Ok(interceptor) => interceptor,
            Err(error) => {
                // The verifier's log is in the sources.
                let mut source: Option<&dyn std::error::Error> = Some(&error);
                while let Some(error) = source {
                    eprintln!("{error}");
                    source = error.source();
                }
                std::process::exit(1);
            }
        };
        let entry = Entry {
            id: EntryId([7; 16]),
            uid: None,
            gid: None,
            exe: None,
            cgroup: Some(clients.to_owned()),
            unit: None,
            run: None,
            descendants: true,
            impossible: false,
            destinations: vec![Pattern { net: None, port: Some(port) }],
            egress: Egress::Deny,
            resolvers: false,
        };
        interceptor.apply(&Selection { entries: vec![entry] }).unwrap();
        println!("ready");
        loop {
            let flow = interceptor.accept().await;
            println!("flow {} {} {:?}", flow.original, flow.process.tgid, flow.entries == [EntryId([7; 16])]);
        }
    });
}

/// Connects and prints what address it seems to be connected to.
fn tcp(address: SocketAddr) {
    match TcpStream::connect_timeout(&address, LIMIT) {
        Ok(mut stream) => {
            println!("connected {}", stream.peer_addr().unwrap());
            let _ = stream.write_all(b"x");
        }
        Err(error) => println!("refused {:?}", error.kind()),
    }
}

/// Sends a datagram, by sendto and by connect and send.
fn udp(address: SocketAddr) {
    let local: SocketAddr =
        if address.is_ipv4() { ([127, 0, 0, 1], 0).into() } else { ([0_u16; 8], 0).into() };
    let socket = UdpSocket::bind(local).unwrap();
    let told = |sent: std::io::Result<usize>| if sent.is_ok() { "sent" } else { "refused" };
    let by_address = told(socket.send_to(b"x", address));
    let connected = told(socket.connect(address).and_then(|()| socket.send(b"x")));
    println!("{by_address} {connected}");
}

struct Probe {
    cgroup: Cgroup,
    clients: Cgroup,
    others: Cgroup,
    /// The server that clients mean to reach at its real address.
    server: TcpListener,
    port: u16,
}

fn probe() {
    // What the programs counted tells most of why they did otherwise than expected.
    let told = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        told(panic);
        if let Ok(status) = Interceptor::status_of(Path::new(PINS)) {
            println!("counters {:?}", status.counters);
        }
    }));
    let cgroup = Cgroup::new().unwrap();
    let clients = cgroup.child("clients").unwrap();
    let others = cgroup.child("others").unwrap();
    let server = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    server.set_nonblocking(true).unwrap();
    let port = server.local_addr().unwrap().port();
    let probe = Probe { cgroup, clients, others, server, port };

    let (mut agent, mut flows) = probe.agent();
    probe.redirects(&mut flows);
    probe.refuses_the_rest();
    probe.leaves_others_alone();

    agent.kill().unwrap();
    agent.wait().unwrap();
    println!("agent killed");
    let refused = probe.client(&probe.clients, "tcp", &format!("127.0.0.1:{port}"));
    assert_eq!(refused, "refused ConnectionRefused", "the agent is dead");
    assert!(probe.server.accept().is_err(), "a connection went around the dead agent");
    probe.leaves_others_alone();

    let (mut agent, mut flows) = probe.agent();
    println!("agent started again");
    probe.redirects(&mut flows);
    agent.kill().unwrap();
    agent.wait().unwrap();

    Interceptor::detach(Path::new(PINS)).unwrap();
    assert!(!Path::new(PINS).exists());
    let direct = probe.client(&probe.clients, "tcp", &format!("127.0.0.1:{port}"));
    assert_eq!(direct, format!("connected 127.0.0.1:{port}"), "detached");
    probe.server.accept().unwrap();
    drop(probe);
    println!("PASS");
}

impl Probe {
    fn agent(&self) -> (Child, BufReader<ChildStdout>) {
        let mut agent = Command::new(std::env::current_exe().unwrap())
            .arg("agent")
            .arg(self.cgroup.path())
            .arg(self.clients.below_mount())
            .arg(self.port.to_string())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(agent.stdout.take().unwrap());
        assert_eq!(line(&mut lines), "ready");
        (agent, lines)
    }

    /// What a client in `cgroup` prints.
    fn client(&self, cgroup: &Cgroup, what: &str, address: &str) -> String {
        let output = cgroup.command(std::env::current_exe().unwrap()).args([what, address]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// Addresses that nobody has, the server's own, and all three ways to write one.
    fn redirects(&self, flows: &mut impl std::io::BufRead) {
        let port = self.port;
        for (asked, original) in [
            (format!("192.0.2.7:{port}"), format!("192.0.2.7:{port}")),
            (format!("127.0.0.1:{port}"), format!("127.0.0.1:{port}")),
            (format!("[2001:db8::7]:{port}"), format!("[2001:db8::7]:{port}")),
            (format!("[::ffff:192.0.2.7]:{port}"), format!("192.0.2.7:{port}")),
        ] {
            let told = self.client(&self.clients, "tcp", &asked);
            assert_eq!(told, format!("connected {asked}"), "the client must see the address it asked for");
            let flow = line(flows);
            let fields: Vec<_> = flow.split(' ').collect();
            assert_eq!(fields[..2], ["flow", &original], "{flow}");
            assert_eq!(fields[3], "true", "entries: {flow}");
            println!("redirected {asked}");
        }
        assert!(self.server.accept().is_err(), "a connection reached the server past the agent");
    }

    fn refuses_the_rest(&self) {
        let elsewhere = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let egress = elsewhere.local_addr().unwrap().to_string();
        let told = self.client(&self.clients, "tcp", &egress);
        assert!(told.starts_with("refused"), "egress: deny, but {told}");
        let six = format!("[::ffff:127.0.0.1]:{}", elsewhere.local_addr().unwrap().port());
        let told = self.client(&self.clients, "tcp", &six);
        assert!(told.starts_with("refused"), "egress: deny, but {told}");
        for address in
            [format!("127.0.0.1:{}", self.port), format!("[::1]:{}", self.port), "127.0.0.1:443".into()]
        {
            assert_eq!(self.client(&self.clients, "udp", &address), "refused refused", "UDP to {address}");
        }
        println!("refused the rest");
    }

    fn leaves_others_alone(&self) {
        let address = format!("127.0.0.1:{}", self.port);
        assert_eq!(self.client(&self.others, "tcp", &address), format!("connected {address}"));
        self.server.accept().unwrap();
        let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = receiver.local_addr().unwrap().to_string();
        assert_eq!(self.client(&self.others, "udp", &address), "sent sent");
        println!("left others alone");
    }
}

fn line(lines: &mut impl std::io::BufRead) -> String {
    let mut line = String::new();
    lines.read_line(&mut line).unwrap();
    line.trim().to_owned()
}
