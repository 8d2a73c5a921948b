//! What the tests of interception share: a cgroup and pins of their own, and clients in it.
//!
//! They need root, a kernel that takes eBPF programs, and python3 for clients.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failure of any step is a failure of the test")]

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, ExitStatus, Stdio},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

pub use interlock_agent::intercept::Entry;
use interlock_agent::{
    intercept::{Event, Flow, Interceptor, Options, Pattern, Selection, cgroup_root},
    policy::{Egress, EntryId},
};
use tokio::sync::mpsc;

/// The process moves between cgroups, so one test at a time.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
static NUMBER: AtomicU32 = AtomicU32::new(0);

/// Long enough for a busy machine: a test that works never waits for it.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A cgroup to attach to, with a child for clients, and a directory for pins. All of it goes at the end.
pub struct Bed {
    pub cgroup: PathBuf,
    pub pins: PathBuf,
    home: PathBuf,
    _guard: MutexGuard<'static, ()>,
}

impl Bed {
    pub fn new() -> Self {
        let guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        assert!(rustix::process::geteuid().is_root(), "these tests need root and eBPF");
        let root = cgroup_root().expect("these tests need a cgroup2 mount");
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("interlock-test-{}-{number}", std::process::id());
        let cgroup = root.join(&name);
        fs::create_dir(&cgroup).expect("a cgroup can be made below the cgroup2 mount");
        fs::create_dir(cgroup.join("clients")).unwrap();
        let own = fs::read_to_string("/proc/self/cgroup").unwrap();
        let own = own.lines().find_map(|line| line.strip_prefix("0::/")).unwrap();
        Self { pins: Path::new("/sys/fs/bpf").join(name), home: root.join(own), cgroup, _guard: guard }
    }

    pub fn options(&self) -> Options {
        Options { cgroup: self.cgroup.clone(), pins: self.pins.clone() }
    }

    pub fn attach(&self) -> Interceptor {
        Interceptor::attach(&self.options()).unwrap_or_else(|error| {
            let mut text = error.to_string();
            let mut cause: Option<&dyn std::error::Error> = std::error::Error::source(&error);
            while let Some(error) = cause {
                text = format!("{text}: {error}");
                cause = error.source();
            }
            panic!("{text}")
        })
    }

    /// The path of a child as a selection names it.
    pub fn path(&self, child: &str) -> PathBuf {
        Path::new("/").join(self.cgroup.file_name().unwrap()).join(child)
    }

    /// An entry that takes in the child cgroup `clients`.
    pub fn clients(&self) -> Entry {
        Entry { cgroup: Some(self.path("clients")), ..entry(1) }
    }

    /// A command that runs in a child cgroup.
    pub fn command_in(&self, child: &str, program: &str) -> Command {
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", r#"echo $$ > "$0" && exec "$@""#])
            .arg(self.cgroup.join(child).join("cgroup.procs"))
            .arg(program);
        command
    }

    /// A Python client in the cgroup `clients`.
    pub fn client(&self, script: &str) -> Client {
        self.client_in("clients", script)
    }

    pub fn client_in(&self, child: &str, script: &str) -> Client {
        let mut command = self.command_in(child, "python3");
        command.args(["-c", &format!("{PRELUDE}\n{script}")]);
        Client::spawn(command)
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        let _ = Interceptor::detach(&self.pins);
        let _ = fs::write(self.home.join("cgroup.procs"), "0");
        // Clients that a failed test has left.
        for _ in 0..100 {
            remove_tree(&self.cgroup);
            if !self.cgroup.exists() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn remove_tree(cgroup: &Path) {
    for entry in fs::read_dir(cgroup).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&entry.path());
        }
    }
    let _ = fs::remove_dir(cgroup);
}

/// What every client can do.
const PRELUDE: &str = r#"
import errno, os, socket, struct, subprocess, sys, time
def say(*words):
    print(*words, flush=True)
def attempt(address, family=socket.AF_INET, kind=socket.SOCK_STREAM):
    "Connects, and says the answer of whoever it reaches, or the error's name."
    try:
        s = socket.socket(family, kind)
        s.settimeout(20)
        s.connect(address)
        if kind == socket.SOCK_DGRAM:
            s.send(b'x')
            return 'sent'
        return s.recv(100).decode()
    except OSError as e:
        return errno.errorcode.get(e.errno, repr(e))
"#;

/// A child process that says lines.
pub struct Client {
    pub child: Child,
    input: Option<ChildStdin>,
    output: mpsc::UnboundedReceiver<String>,
}

impl Client {
    pub fn spawn(mut command: Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let (sender, receiver) = mpsc::unbounded_channel();
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        Self { input: child.stdin.take(), child, output: receiver }
    }

    /// The next line.
    pub async fn line(&mut self) -> String {
        tokio::time::timeout(PATIENCE, self.output.recv())
            .await
            .expect("the client says something in time")
            .expect("the client says another line")
    }

    pub fn tell(&mut self, line: &str) {
        writeln!(self.input.as_mut().unwrap(), "{line}").unwrap();
    }

    pub fn wait(mut self) -> ExitStatus {
        self.input = None;
        self.child.wait().unwrap()
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An entry without any key.
pub fn entry(id: u8) -> Entry {
    Entry {
        id: EntryId([id; 16]),
        uid: None,
        gid: None,
        exe: None,
        cgroup: None,
        unit: None,
        run: None,
        descendants: true,
        impossible: false,
        destinations: vec![to("192.0.2.0/24", 5432), to("2001:db8::/32", 5432)],
        egress: Egress::Allow,
        resolvers: false,
    }
}

pub fn to(net: &str, port: u16) -> Pattern {
    Pattern { net: Some(net.parse().unwrap()), port: (port != 0).then_some(port) }
}

pub fn selection(entries: impl IntoIterator<Item = Entry>) -> Selection {
    Selection { entries: entries.into_iter().collect() }
}

/// The next flow, answered with `proxy`.
pub async fn answer(interceptor: &Interceptor) -> Flow {
    use tokio::io::AsyncWriteExt as _;
    let mut flow = tokio::time::timeout(PATIENCE, interceptor.accept()).await.expect("a flow arrives");
    flow.stream.write_all(b"proxy").await.unwrap();
    flow
}

/// The next event that is of interest.
pub async fn event<T>(events: &mut mpsc::Receiver<Event>, mut wanted: impl FnMut(Event) -> Option<T>) -> T {
    tokio::time::timeout(PATIENCE, async {
        loop {
            if let Some(found) = wanted(events.recv().await.expect("events go on")) {
                return found;
            }
        }
    })
    .await
    .expect("the event comes in time")
}

/// A server that answers each connection with `real` and closes it.
pub fn real_server(address: &str) -> (SocketAddr, std::sync::Arc<AtomicU32>) {
    let listener = std::net::TcpListener::bind(address).unwrap();
    let address = listener.local_addr().unwrap();
    let reached = std::sync::Arc::new(AtomicU32::new(0));
    let count = reached.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            count.fetch_add(1, Ordering::SeqCst);
            let _ = stream.and_then(|mut stream| stream.write_all(b"real"));
        }
    });
    (address, reached)
}
