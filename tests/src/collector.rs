//! A collector of one's own, and a network that can be cut.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::process::{Daemon, Finished, LIMIT, finish};
use crate::secrets::free_port;
use crate::{Agent, wait_for};

/// A collector. When dropped it is stopped, and all its files are removed.
#[derive(Debug)]
pub struct Collector {
    daemon: Option<Daemon>,
    binary: PathBuf,
    directory: TempDir,
    address: SocketAddr,
    network: Option<Network>,
}

/// A network namespace, reached from here by a pair of virtual interfaces that can be cut.
#[derive(Debug)]
pub struct Network {
    name: String,
    interface: String,
    peer: String,
    inside: Ipv4Addr,
}

impl Network {
    /// A new one.
    ///
    /// # Errors
    /// `ip` fails, or there is no right to make one.
    pub fn new() -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let process = std::process::id();
        // 198.18.0.0/15 is for tests (RFC 2544); a name of an interface has 15 characters at most.
        let [high, low] = ((process as u16).wrapping_mul(31).wrapping_add(count as u16)).to_be_bytes();
        let (outside, inside) =
            (Ipv4Addr::new(198, 18, high, (low & 0xfc) | 1), Ipv4Addr::new(198, 18, high, (low & 0xfc) | 2));
        let name = format!("interlock-{process}-{count}");
        let interface = format!("ilk{:x}a{count}", process & 0xff_ffff);
        let peer = format!("ilk{:x}b{count}", process & 0xff_ffff);
        ip(&["netns", "add", &name])?;
        let network = Self { name, interface, peer, inside };
        let Self { name, interface, peer, .. } = &network;
        ip(&["link", "add", interface, "type", "veth", "peer", "name", peer, "netns", name])?;
        ip(&["addr", "add", &format!("{outside}/30"), "dev", interface])?;
        ip(&["link", "set", interface, "up"])?;
        ip(&["-n", name, "addr", "add", &format!("{inside}/30"), "dev", peer])?;
        ip(&["-n", name, "link", "set", peer, "up"])?;
        ip(&["-n", name, "link", "set", "lo", "up"])?;
        Ok(network)
    }

    /// Nothing comes through any more, and nobody is told.
    ///
    /// # Errors
    /// `ip` fails.
    pub fn cut(&self) -> Result<()> {
        self.inside(&["link", "set", &self.peer, "down"])
    }

    /// It works again.
    ///
    /// # Errors
    /// `ip` fails.
    pub fn mend(&self) -> Result<()> {
        self.inside(&["link", "set", &self.peer, "up"])
    }

    fn inside(&self, arguments: &[&str]) -> Result<()> {
        ip(&[&["-n", &self.name], arguments].concat())
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // Its interfaces go with it.
        let _ = ip(&["link", "del", &self.interface]);
        let _ = ip(&["netns", "del", &self.name]);
    }
}

fn ip(arguments: &[&str]) -> Result<()> {
    let finished = finish(Command::new("ip").args(arguments), "", LIMIT)?;
    ensure!(finished.success(), "ip {}: {}", arguments.join(" "), finished.both());
    Ok(())
}

/// The `interlock-collector` program of the same build as this one, or what `INTERLOCK_COLLECTOR_BIN` names.
///
/// # Errors
/// It has not been built.
pub fn binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("INTERLOCK_COLLECTOR_BIN") {
        return Ok(path.into());
    }
    let beside = crate::agent::binary()?.with_file_name("interlock-collector");
    ensure!(beside.is_file(), "no `interlock-collector` beside `interlock` (cargo build)");
    Ok(beside)
}

impl Collector {
    /// Starts one on the loopback address and waits until it serves.
    ///
    /// # Errors
    /// It does not start; the message has its log.
    pub fn start() -> Result<Self> {
        Self::start_in(None)
    }

    /// Starts one in a network of its own.
    ///
    /// # Errors
    /// As [`Collector::start`].
    pub fn start_in(network: Option<Network>) -> Result<Self> {
        let directory = crate::temporary_directory("collector")?;
        let host = network.as_ref().map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |network| network.inside.into());
        let address = SocketAddr::new(host, free_port()?);
        let text = format!(
            "name: collector.test\nstate: {}\nagents: {{listen: \"{address}\", names: [\"{host}\", localhost]}}\nweb: \
             {{listen: \"127.0.0.1:{}\"}}\n",
            directory.path().join("state").display(),
            free_port()?
        );
        fs::write(directory.path().join("collector.yaml"), text)?;
        let mut collector = Self { daemon: None, binary: binary()?, directory, address, network };
        collector.launch()?;
        Ok(collector)
    }

    /// `interlock-collector --config …`, arguments to follow.
    pub fn command(&self) -> Command {
        let mut command = match &self.network {
            None => Command::new(&self.binary),
            Some(network) => {
                let mut command = Command::new("ip");
                // `ip` becomes the collector, which then has its process id.
                command.args(["netns", "exec", &network.name]).arg(&self.binary);
                command
            }
        };
        command.arg("--config").arg(self.directory.path().join("collector.yaml"));
        command
    }

    /// Starts its process (again) and waits until it serves.
    ///
    /// # Errors
    /// It does not within 30 s; the message has its log.
    pub fn launch(&mut self) -> Result<()> {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.directory.path().join("log"))?;
        let mut command = self.command();
        command.arg("serve").current_dir("/").stdout(log.try_clone()?).stderr(log);
        self.daemon = Some(Daemon::start(&mut command, Signal::TERM)?);
        let serves = wait_for("the collector", Duration::from_secs(30), || {
            TcpStream::connect_timeout(&self.address, Duration::from_secs(1)).is_ok()
        });
        serves.with_context(|| format!("its log:\n{}", self.log()))
    }

    /// kill -9.
    pub fn kill(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            daemon.kill();
        }
    }

    /// Stops it in good order.
    pub fn stop(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            daemon.stop(Duration::from_secs(20));
        }
    }

    /// What it has logged since it was first started.
    pub fn log(&self) -> String {
        let bytes = fs::read(self.directory.path().join("log")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Its network, if it has one of its own.
    pub fn network(&self) -> Option<&Network> {
        self.network.as_ref()
    }

    /// Where agents reach it.
    pub fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// `interlock-collector … ARGUMENTS`, to its end.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn run(&self, arguments: &[&str]) -> Result<Finished> {
        finish(self.command().args(arguments), "", LIMIT)
    }

    /// The JSON that a command prints.
    ///
    /// # Errors
    /// It fails, or prints something else.
    pub fn json(&self, arguments: &[&str]) -> Result<Value> {
        let finished = self.run(arguments)?;
        if !finished.success() {
            bail!("interlock-collector {}: {}", arguments.join(" "), finished.both());
        }
        serde_json::from_str(&finished.stdout).with_context(|| finished.stdout.clone())
    }

    /// A new enrolment token.
    ///
    /// # Errors
    /// As for [`Collector::json`].
    pub fn token(&self) -> Result<String> {
        let made = self.json(&["tokens", "create", "--json"])?;
        made["token"].as_str().map(str::to_owned).context("no token")
    }

    /// Enrols an agent with it.
    ///
    /// # Errors
    /// The enrolment fails.
    pub fn enrol(&self, agent: &Agent) -> Result<()> {
        let mut command = agent.command();
        let finished =
            finish(command.args(["enroll", &self.url(), "--token-file", "-"]), &self.token()?, LIMIT)?;
        ensure!(finished.success(), "interlock enroll: {}", finished.both());
        Ok(())
    }

    /// What it says of the one agent that it has.
    ///
    /// # Errors
    /// It has none, or several.
    pub fn agent(&self) -> Result<Value> {
        match self.json(&["agents", "list", "--json"])? {
            Value::Array(agents) if agents.len() == 1 => agents.into_iter().next().context("no agent"),
            other => bail!("not one agent: {other}"),
        }
    }

    /// The rows that a question to its database gives, as JSON.
    ///
    /// # Errors
    /// The question is wrong.
    pub fn query(&self, sql: &str) -> Result<Vec<Value>> {
        let script = "import json, sqlite3, sys
database = sqlite3.connect(f'file:{sys.argv[1]}?mode=ro', uri=True, timeout=30)
print(json.dumps(database.execute(sys.argv[2]).fetchall()))";
        let database = self.state().join("collector.db");
        let mut command = Command::new("python3");
        let finished = finish(command.args(["-c", script]).arg(database).arg(sql), "", LIMIT)?;
        ensure!(finished.success(), "{sql}: {}", finished.both());
        match serde_json::from_str(&finished.stdout)? {
            Value::Array(rows) => Ok(rows),
            other => bail!("{sql}: {other}"),
        }
    }

    /// Its state directory.
    pub fn state(&self) -> PathBuf {
        self.directory.path().join("state")
    }

    /// The segment files that it has of a host (hexadecimal id), by number: names and contents.
    ///
    /// # Errors
    /// They cannot be read.
    pub fn segments(&self, host: &str) -> Result<Vec<(String, Vec<u8>)>> {
        let mut files = Vec::new();
        for entry in fs::read_dir(self.state().join("segments").join(host))? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            files.push((name, fs::read(path)?));
        }
        files.sort();
        Ok(files)
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("-- the collector's log\n{}", self.log());
        }
        self.stop();
    }
}
