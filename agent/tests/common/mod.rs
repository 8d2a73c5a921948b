//! A throwaway PostgreSQL, the agent's relay in front of it, and a raw client of the protocol.
#![allow(
    dead_code,
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests: each test uses its own part, and fails by panicking"
)]

pub mod wire;

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use interlock_agent::approval::Desk;
use interlock_agent::config::Config;
use interlock_agent::credential::FlowCredentials;
use interlock_agent::identity::Subject;
use interlock_agent::mask::MaskSet;
use interlock_agent::operation::Operation;
use interlock_agent::policy::{Decision, Destination, TlsTreatment, Verdict};
use interlock_agent::protocol::{FlowContext, Limits, PolicyHandle, Rules, Stop, postgres};
use interlock_agent::record::{FlowStart, Recorder};
use interlock_agent::tls::Engine;
use interlock_recording::segment::SegmentReader;
use tempfile::TempDir;
use tokio::net::TcpStream;

/// Where the server's programs are; `None` where PostgreSQL is not installed.
fn programs() -> Option<PathBuf> {
    let mut versions: Vec<_> =
        std::fs::read_dir("/usr/lib/postgresql").ok()?.filter_map(|entry| Some(entry.ok()?.path())).collect();
    versions.sort();
    versions.into_iter().rev().map(|version| version.join("bin")).find(|bin| bin.join("postgres").exists())
}

/// A server on a loopback port with its data in a temporary directory; it ends with the test.
pub struct Server {
    pub port: u16,
    child: Child,
    directory: TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        // Fast shutdown; the server is a direct child.
        let _ = Command::new("kill").args(["-INT", &self.child.id().to_string()]).status();
        let _ = self.child.wait();
    }
}

/// Runs a command as `postgres` if the tests run as root, which the server refuses to run as.
fn unprivileged(program: &Path) -> Command {
    let root =
        std::fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0);
    if root {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]).arg(program);
        command
    } else {
        Command::new(program)
    }
}

impl Server {
    pub fn start() -> Self {
        let bin = programs().expect("PostgreSQL's server programs are needed: apt-get install postgresql");
        let directory = TempDir::new().unwrap();
        let _ = Command::new("chown").arg("postgres").arg(directory.path()).status();
        let data = directory.path().join("data");
        let made = unprivileged(&bin.join("initdb"))
            .args(["--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync", "-D"])
            .arg(&data)
            .stdout(Stdio::null())
            .status()
            .unwrap();
        assert!(made.success(), "initdb failed");
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
        let child = unprivileged(&bin.join("postgres"))
            .args(["-c", "fsync=off", "-c", "listen_addresses=127.0.0.1", "-c", "max_connections=50"])
            .args(["-c", "wal_level=logical"])
            .args(["-p", &port.to_string()])
            .arg("-k")
            .arg(directory.path())
            .arg("-D")
            .arg(&data)
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(directory.path().join("log")).unwrap())
            .spawn()
            .unwrap();
        let server = Self { port, child, directory };
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let ready = Command::new(bin.join("pg_isready"))
                .args(["-q", "-h", "127.0.0.1", "-p", &port.to_string()])
                .status()
                .unwrap();
            if ready.success() {
                break;
            }
            assert!(Instant::now() < deadline, "the server does not start: {}", server.log());
            std::thread::sleep(Duration::from_millis(50));
        }
        server
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// Runs SQL with psql, directly.
    pub fn sql(&self, text: &str) -> String {
        let (output, error) = psql(self.port, text);
        assert!(error.is_empty(), "{error}");
        output
    }
}

/// One server for all tests of a binary.
pub fn server() -> &'static Server {
    static SERVER: OnceLock<Server> = OnceLock::new();
    extern "C" fn stop() {
        if let Some(server) = SERVER.get() {
            let _ = Command::new("kill").args(["-INT", &server.child.id().to_string()]).status();
            // Statics are not dropped.
            std::thread::sleep(Duration::from_millis(300));
            let _ = std::fs::remove_dir_all(server.directory.path());
        }
    }
    SERVER.get_or_init(|| {
        #[allow(unsafe_code, reason = "the server has to end with the test binary")]
        // SAFETY: the function registered does not unwind and touches nothing that exit takes down.
        unsafe {
            libc::atexit(stop);
        }
        Server::start()
    })
}

/// psql's output and errors for one script.
pub fn psql(port: u16, text: &str) -> (String, String) {
    let output = Command::new("psql")
        .args(["-X", "-A", "-t", "-q", "-h", "127.0.0.1", "-U", "postgres", "-p", &port.to_string()])
        .args(["-c", text])
        .env("PGSSLMODE", "prefer")
        .output()
        .unwrap();
    (
        String::from_utf8_lossy(&output.stdout).into_owned(),
        String::from_utf8_lossy(&output.stderr).into_owned(),
    )
}

/// The relay, listening.
pub struct Relay {
    pub address: SocketAddr,
    pub recorder: Arc<Recorder>,
    pub state: TempDir,
    /// Ends all sessions, with this reason.
    pub cut_off: tokio::sync::watch::Sender<Option<Arc<str>>>,
    runtime: tokio::runtime::Runtime,
}

impl Relay {
    /// Serves connections to `server` under `policy`.
    pub fn start(server: SocketAddr, policy: Arc<dyn Rules>) -> Self {
        Self::with(server, PolicyHandle::fixed(policy), Limits::default(), |_| ())
    }

    pub fn with(
        server: SocketAddr,
        policy: PolicyHandle,
        limits: Limits,
        change: impl FnOnce(&mut Config),
    ) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let state = TempDir::new().unwrap();
        let mut config = Config { state: state.path().join("state"), ..Config::default() };
        change(&mut config);
        let recorder = Recorder::open(&config).unwrap();
        let listener = runtime.block_on(tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).unwrap();
        let address = listener.local_addr().unwrap();
        let recording = Arc::clone(&recorder);
        let tls = Engine::open(&config).unwrap();
        let scripts = Arc::new(interlock_agent::sql::Cache::new(1000, 1 << 20));
        let (cut_off, reason) = tokio::sync::watch::channel(None);
        let desk = Desk::new(config.approvals.bounds());
        runtime.spawn(async move {
            let (_stop, shutdown) = tokio::sync::watch::channel(false);
            let stop = Stop::new(shutdown, reason);
            while let Ok((client, peer)) = listener.accept().await {
                let Ok(upstream) = TcpStream::connect(server).await else { continue };
                let destination = Destination { address: server, hosts: Vec::new() };
                let subject = Arc::new(Subject::default());
                let start = FlowStart {
                    subject: &subject,
                    client: peer,
                    destination: &destination,
                    protocol: "postgres",
                    policy_hash: "",
                    entries: &[],
                };
                let Ok(recording) = recording.session(&start) else { continue };
                let names = Vec::new();
                let tls = tls.flow(&subject, &destination, names, TlsTreatment::default());
                let context = FlowContext {
                    client,
                    upstream,
                    tls,
                    subject,
                    destination,
                    policy: policy.clone(),
                    credentials: FlowCredentials::default(),
                    recording,
                    scripts: Arc::clone(&scripts),
                    limits,
                    approvals: Arc::clone(&desk),
                    stop: stop.clone(),
                };
                tokio::spawn(async move {
                    if let Err(error) = postgres::serve(context).await {
                        eprintln!("flow: {error}");
                    }
                });
            }
        });
        Self { address, recorder, state, cut_off, runtime }
    }

    /// All events of the recording, one after the other.
    pub fn stored(&self) -> Vec<u8> {
        let mut all = Vec::new();
        for entry in std::fs::read_dir(self.state.path().join("state/sessions")).unwrap() {
            let Ok(mut segment) = SegmentReader::open(&entry.unwrap().path()) else { continue };
            while let Some(frame) = segment.next_frame().unwrap() {
                all.extend(frame.event);
            }
        }
        all
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }
}

type Matches = dyn Fn(&Operation) -> bool + Send + Sync;

/// Rules made by hand: what `denies` takes in is refused by a rule of this name.
pub struct HandMade {
    pub rule: &'static str,
    pub denies: Box<Matches>,
    pub masks: Arc<MaskSet>,
    pub depends_on_params: bool,
}

impl HandMade {
    pub fn denying_by_params(denies: impl Fn(&Operation) -> bool + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self {
            rule: "no-drop",
            denies: Box::new(denies),
            masks: Arc::default(),
            depends_on_params: true,
        })
    }

    pub fn denying(denies: impl Fn(&Operation) -> bool + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self {
            rule: "no-drop",
            denies: Box::new(denies),
            masks: Arc::default(),
            depends_on_params: false,
        })
    }

    pub fn masking(masks: MaskSet) -> Arc<Self> {
        Arc::new(Self {
            rule: "none",
            denies: Box::new(|_| false),
            masks: Arc::new(masks),
            depends_on_params: false,
        })
    }
}

impl Rules for HandMade {
    fn decide(&self, operation: &Operation, _subject: &Subject) -> Decision {
        let denied = (self.denies)(operation);
        let name: Option<Arc<str>> = denied.then(|| self.rule.into());
        Decision {
            verdict: if denied { Verdict::Deny } else { Verdict::Allow },
            enforced: true,
            rule: name.clone(),
            message: denied.then(|| "Tables are dropped by migrations only.".into()),
            matched: name.into_iter().collect(),
            observed: Vec::new(),
            approval: None,
        }
    }

    fn masks(&self) -> &Arc<MaskSet> {
        &self.masks
    }

    fn depends_on_params(&self) -> bool {
        self.depends_on_params
    }
}
