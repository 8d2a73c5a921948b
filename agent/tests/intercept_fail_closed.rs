//! With the agent dead nothing goes around it; a new one takes over without a gap.
#![allow(clippy::unwrap_used, reason = "a failure of any step is a failure of the test")]

mod intercept_support;

use std::{
    collections::HashMap,
    fs,
    net::SocketAddr,
    process::Command,
    sync::atomic::Ordering::SeqCst,
    time::{Duration, Instant},
};

use intercept_support::{Bed, Client, Entry, answer, entry, event, real_server, selection};
use interlock_agent::{
    intercept::{Event, InterceptError, Interceptor, Options, Pattern, RefusalReason},
    policy::Egress,
};

const ROLE: &str = "INTERLOCK_TEST_AGENT";

/// Not a test of its own: the agent that the tests below start, and kill. It stands among the tests
/// for they can start nothing but themselves.
#[tokio::test(flavor = "multi_thread")]
async fn agent_process() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let mut role = role.split(' ');
    let mut next = || role.next().unwrap().to_owned();
    let (cgroup, pins, clients, port) = (next(), next(), next(), next().parse().unwrap());
    let options = Options { cgroup: cgroup.into(), pins: pins.into() };
    let interceptor = Interceptor::attach(&options).unwrap();
    println!("attached");
    // The order and number of the entries changes from agent to agent; their bits must not.
    let mut entries = vec![watched(&clients, port)];
    for id in 100..100 + (std::process::id() % 7) as u8 {
        entries.insert(0, Entry { impossible: true, ..entry(id) });
    }
    interceptor.apply(&selection(entries)).unwrap();
    println!("serving");
    loop {
        let flow = answer(&interceptor).await;
        println!("{}", flow.stream.local_addr().unwrap());
    }
}

fn watched(clients: &str, port: u16) -> Entry {
    Entry {
        cgroup: Some(clients.into()),
        destinations: vec![Pattern { net: None, port: Some(port) }],
        ..entry(1)
    }
}

fn start_agent(bed: &Bed, port: u16) -> Client {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "agent_process", "--nocapture"]);
    let (cgroup, pins) = (bed.cgroup.display(), bed.pins.display());
    command.env(ROLE, format!("{cgroup} {pins} {} {port}", bed.path("clients").display()));
    Client::spawn(command)
}

async fn serving(bed: &Bed, port: u16) -> Client {
    let mut agent = start_agent(bed, port);
    while !agent.line().await.ends_with("serving") {}
    agent
}

fn kill(agent: Client) {
    let mut agent = agent;
    agent.child.kill().unwrap(); // SIGKILL
    agent.child.wait().unwrap();
}

/// A client that tries once for each line it is told.
fn asking(port: u16) -> String {
    format!("for _ in sys.stdin: say(attempt(('127.0.0.1', {port})))")
}

async fn ask(client: &mut Client) -> String {
    client.tell("");
    client.line().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_agent_refuses_at_once() {
    let bed = Bed::new();
    fs::create_dir(bed.cgroup.join("others")).unwrap();
    let (real, reached) = real_server("127.0.0.1:0");
    let mut agent = serving(&bed, real.port()).await;
    let mut designated = bed.client(&asking(real.port()));
    let mut other = bed.client_in("others", &asking(real.port()));
    assert_eq!(ask(&mut designated).await, "proxy");
    assert_eq!(ask(&mut other).await, "real");
    // One of its listeners has been used, and cannot be bound for a while.
    let used: SocketAddr = agent.line().await.parse().unwrap();
    let listeners = listeners_of(agent.child.id());
    assert!(listeners.len() >= 8, "{listeners:?}");

    kill(agent);
    // Somebody takes the proxy's place.
    let free = listeners.into_iter().filter(|address| *address != used);
    let impostors: Vec<_> = free.map(|address| std::net::TcpListener::bind(address).unwrap()).collect();
    for _ in 0..50 {
        assert_eq!(ask(&mut designated).await, "ECONNREFUSED");
        assert_eq!(ask(&mut other).await, "real");
    }
    for impostor in &impostors {
        impostor.set_nonblocking(true).unwrap();
        assert_eq!(impostor.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    }
    assert_eq!(bed.client(&asking(real.port())).line_after_asking().await, "ECONNREFUSED", "a new one");
    assert_eq!(reached.load(SeqCst), 51);

    let status = Interceptor::status_of(&bed.pins).unwrap();
    assert_eq!(status.agent, None);
    assert_eq!(status.cgroup, bed.cgroup.display().to_string());
    assert_eq!(status.counters["agent_dead"], 51);
    assert!(status.programs.iter().any(|program| program.name == "connect4" && program.program_id != 0));
    assert!(status.since != 0 && !status.entries.is_empty());

    // Taken out without a live agent.
    Interceptor::detach(&bed.pins).unwrap();
    assert!(!bed.pins.exists());
    assert_eq!(ask(&mut designated).await, "real");
    assert!(matches!(Interceptor::detach(&bed.pins), Err(InterceptError::NotAttached(_))));
    assert!(matches!(Interceptor::status_of(&bed.pins), Err(InterceptError::NotAttached(_))));
}

/// Where a process listens on IPv4.
fn listeners_of(pid: u32) -> Vec<SocketAddr> {
    let open: Vec<String> = fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .filter_map(|entry| fs::read_link(entry.ok()?.path()).ok()?.to_str().map(str::to_owned))
        .collect();
    let listening = |line: &str| -> Option<SocketAddr> {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let mine = fields.get(3) == Some(&"0A") && open.contains(&format!("socket:[{}]", fields.get(9)?));
        let (address, port) = fields.get(1)?.split_once(':')?;
        let address = u32::from_str_radix(address, 16).ok()?.to_ne_bytes();
        mine.then_some(SocketAddr::from((address, u16::from_str_radix(port, 16).ok()?)))
    };
    fs::read_to_string("/proc/net/tcp").unwrap().lines().filter_map(listening).collect()
}

impl Client {
    async fn line_after_asking(&mut self) -> String {
        ask(self).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_connection_goes_around_a_restart() {
    let bed = Bed::new();
    fs::create_dir(bed.cgroup.join("others")).unwrap();
    let (real, reached) = real_server("127.0.0.1:0");
    let mut agent = serving(&bed, real.port()).await;
    let since = Interceptor::status_of(&bed.pins).unwrap().since;
    let restless = format!(
        r"
import threading, collections
seen = collections.Counter(); stop = False
def run():
    while not stop: seen[attempt(('127.0.0.1', {}))] += 1
threads = [threading.Thread(target=run) for _ in range(2)]
[t.start() for t in threads]
say('running'); sys.stdin.readline(); stop = True
[t.join() for t in threads]
say(' '.join('%s=%d' % (k or 'closed', v) for k, v in seen.items()))",
        real.port()
    );
    // Taken in before the restarts, and outside of the cgroup since: only its inherited bit tells.
    let leave = format!("open('{}/others/cgroup.procs', 'w').write('0')\n", bed.cgroup.display());
    let mut inheriting = bed.client(&format!("{leave}{restless}"));
    let mut designated = bed.client(&restless);
    let mut other = bed.client_in("others", &restless);
    for client in [&mut inheriting, &mut designated, &mut other] {
        assert_eq!(client.line().await, "running");
    }
    for round in 0..6 {
        kill(agent);
        if round % 2 == 0 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        agent = serving(&bed, real.port()).await;
        let until = Instant::now() + Duration::from_millis(200);
        while Instant::now() < until {
            agent.line().await;
        }
    }
    let mut tallies = Vec::new();
    for client in [&mut inheriting, &mut designated, &mut other] {
        client.tell("");
        let line = client.line().await;
        let tally: HashMap<String, u32> = line
            .split(' ')
            .filter_map(|part| part.split_once('='))
            .map(|(what, count)| (what.to_owned(), count.parse().unwrap()))
            .collect();
        tallies.push(tally);
    }
    for tally in &tallies[..2] {
        assert!(!tally.contains_key("real"), "{tally:?}");
        assert!(tally["proxy"] > 100 && tally["ECONNREFUSED"] > 0, "{tally:?}");
        let known = ["proxy", "ECONNREFUSED", "ECONNRESET", "closed"];
        assert!(tally.keys().all(|key| known.contains(&key.as_str())), "{tally:?}");
    }
    assert_eq!(tallies[2].keys().collect::<Vec<_>>(), ["real"], "{tallies:?}");
    assert_eq!(reached.load(SeqCst), tallies[2]["real"]);
    assert_eq!(Interceptor::status_of(&bed.pins).unwrap().since, since, "attached ever since");
    kill(agent);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_interceptor_refuses_and_a_new_one_takes_over() {
    let bed = Bed::new();
    let (real, reached) = real_server("127.0.0.1:0");
    let entries = || selection([watched(bed.path("clients").to_str().unwrap(), real.port())]);
    let interceptor = bed.attach();
    interceptor.apply(&entries()).unwrap();
    assert!(matches!(Interceptor::attach(&bed.options()), Err(InterceptError::Busy(_))));
    let links = |status: &[interlock_agent::intercept::ProgramStatus]| -> Vec<(String, u32)> {
        let cgroup =
            |name: &str| ["connect4", "connect6", "sendmsg4", "sendmsg6", "handshake"].contains(&name);
        status
            .iter()
            .filter(|found| cgroup(&found.name))
            .map(|found| (found.name.clone(), found.link_id))
            .collect()
    };
    let before = links(&interceptor.status().unwrap().programs);
    drop(interceptor);
    let mut client = bed.client(&asking(real.port()));
    assert_eq!(ask(&mut client).await, "ECONNREFUSED");
    // What was selected is in force before anything is applied, and refused.
    let interceptor = bed.attach();
    assert!(!interceptor.selects_nothing().unwrap());
    assert_eq!(ask(&mut client).await, "ECONNREFUSED");
    interceptor.hold(&entries()).unwrap();
    assert_eq!(ask(&mut client).await, "ECONNREFUSED");
    interceptor.apply(&entries()).unwrap();
    client.tell("");
    let flow = answer(&interceptor).await;
    assert_eq!(flow.entries, [entry(1).id]);
    assert_eq!(client.line().await, "proxy");
    assert_eq!(links(&interceptor.status().unwrap().programs), before, "replaced in place");
    // On its way out it refuses while it still lives.
    interceptor.refuse().unwrap();
    interceptor.apply(&entries()).unwrap();
    assert_eq!(ask(&mut client).await, "ECONNREFUSED");
    assert_eq!(reached.load(SeqCst), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_agents_egress_rules_hold() {
    let bed = Bed::new();
    let (real, _) = real_server("127.0.0.1:0");
    let interceptor = bed.attach();
    let deny = Entry { egress: Egress::Deny, ..bed.clients() };
    interceptor.apply(&selection([deny])).unwrap();
    drop(interceptor);
    assert_eq!(ask(&mut bed.client(&asking(real.port()))).await, "ECONNREFUSED");
    let interceptor = bed.attach();
    interceptor.apply(&selection([bed.clients()])).unwrap();
    drop(interceptor);
    assert_eq!(ask(&mut bed.client(&asking(real.port()))).await, "real", "not redirected, and allowed");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_agents_stand_side_by_side() {
    let bed = Bed::new();
    let (real, _) = real_server("127.0.0.1:0");
    let second = bed.cgroup.join("second");
    fs::create_dir_all(second.join("clients")).unwrap();
    let interceptor = bed.attach();
    interceptor.apply(&selection([watched(bed.path("clients").to_str().unwrap(), real.port())])).unwrap();
    let pins = bed
        .pins
        .with_extension("")
        .with_file_name(format!("{}-second", bed.pins.file_name().unwrap().to_str().unwrap()));
    // Its process moves below `second`, which is below the first one's cgroup still.
    let mut agent = Command::new(std::env::current_exe().unwrap());
    agent.args(["--exact", "agent_process", "--nocapture"]);
    let clients = bed.path("second/clients");
    agent.env(ROLE, format!("{} {} {} {}", second.display(), pins.display(), clients.display(), real.port()));
    let mut agent = Client::spawn(agent);
    while !agent.line().await.ends_with("serving") {}

    let mut first_client = bed.client(&asking(real.port()));
    first_client.tell("");
    answer(&interceptor).await;
    assert_eq!(first_client.line().await, "proxy");
    let mut second_client = bed.client_in("second/clients", &asking(real.port()));
    assert_eq!(ask(&mut second_client).await, "proxy");
    agent.line().await; // the second one's flow
    kill(agent);
    assert_eq!(ask(&mut second_client).await, "ECONNREFUSED");
    first_client.tell("");
    answer(&interceptor).await;
    assert_eq!(first_client.line().await, "proxy");
    Interceptor::detach(&pins).unwrap();
    assert_eq!(ask(&mut second_client).await, "real");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_network_namespace_is_refused_until_it_has_a_listener() {
    let bed = Bed::new();
    let interceptor = bed.attach();
    let mut events = interceptor.events().unwrap();
    interceptor.apply(&selection([bed.clients()])).unwrap();
    let mut command = bed.command_in("clients", "unshare");
    command.args(["--net", "sh", "-c", "ip link set lo up && exec python3 -c \"$0\""]);
    command.arg(
        "import socket, sys\nfor _ in sys.stdin:\n    try:\n        s = socket.create_connection(('192.0.2.7', 5432)); print(s.recv(9).decode(), s.getpeername(), flush=True)\n    except OSError as e: print(e.errno, flush=True)",
    );
    let mut client = Client::spawn(command);
    assert_eq!(ask(&mut client).await, libc::ECONNREFUSED.to_string());
    let refused = event(&mut events, |event| match event {
        Event::Refused { connection, reason: RefusalReason::NoListener } => Some(connection),
        _ => None,
    })
    .await;
    let path = format!("/proc/{}/ns/net", refused.process.tgid);
    let inode = interceptor.listen_in(fs::File::open(path).unwrap().into()).unwrap();
    assert_eq!(inode, refused.process.netns);
    client.tell("");
    let flow = answer(&interceptor).await;
    assert_eq!(flow.original, "192.0.2.7:5432".parse().unwrap());
    assert_eq!(flow.process.netns, inode);
    assert_eq!(client.line().await, "proxy ('192.0.2.7', 5432)");
}

#[tokio::test(flavor = "multi_thread")]
async fn older_programs_go_only_when_the_new_ones_refuse() {
    let bed = Bed::new();
    let older = bed.pins.join("v1/links");
    let interceptor = bed.attach();
    fs::create_dir_all(&older).unwrap();
    interceptor.hold(&selection([bed.clients()])).unwrap();
    assert!(older.exists());
    interceptor.apply(&selection([bed.clients()])).unwrap();
    assert!(!bed.pins.join("v1").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn pins_are_roots_alone() {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
    let bed = Bed::new();
    let mode = || fs::metadata(&bed.pins).unwrap().mode() & 0o777;
    drop(bed.attach());
    assert_eq!(mode(), 0o700);
    fs::set_permissions(&bed.pins, fs::Permissions::from_mode(0o755)).unwrap();
    drop(bed.attach());
    assert_eq!(mode(), 0o700, "an earlier version left it open to be locked");
    // Somebody else was there first.
    Interceptor::detach(&bed.pins).unwrap();
    fs::create_dir(&bed.pins).unwrap();
    chown(&bed.pins, Some(65_534), None).unwrap();
    assert!(matches!(Interceptor::attach(&bed.options()), Err(InterceptError::Exposed(_))));
    fs::remove_dir(&bed.pins).unwrap();
}
