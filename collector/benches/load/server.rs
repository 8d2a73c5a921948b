//! The collector that is measured: a process of its own, with a state directory of its own.

use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use interlock_shipping::Token;
use rustix::process::{Pid, Signal, kill_process};

use crate::measure::bytes_in;

/// A collector. It is killed when this is dropped.
pub(crate) struct Server {
    binary: PathBuf,
    directory: PathBuf,
    port: u16,
    child: Option<Child>,
}

/// What a collector's state takes, in bytes.
#[derive(Debug)]
pub(crate) struct Sizes {
    pub(crate) segments: u64,
    pub(crate) database: u64,
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

impl Server {
    pub(crate) fn start(binary: Option<PathBuf>, directory: &Path) -> Result<Self> {
        let binary = binary.unwrap_or_else(|| env!("CARGO_BIN_EXE_interlock-collector").into());
        let port = free_port()?;
        let config = format!(
            "name: load.test\nstate: {}\nagents: {{ listen: '127.0.0.1:{port}', names: [localhost] }}\nweb: {{ listen: \
             '127.0.0.1:{}' }}\n",
            directory.join("state").display(),
            free_port()?
        );
        fs::write(directory.join("collector.yaml"), config)?;
        let mut server = Self { binary, directory: directory.into(), port, child: None };
        server.spawn()?;
        Ok(server)
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.binary);
        command.arg("--config").arg(self.directory.join("collector.yaml"));
        command.stdin(Stdio::null()).env_remove("INTERLOCK_COLLECTOR_STATE");
        command
    }

    fn spawn(&mut self) -> Result<()> {
        let log = File::options().create(true).append(true).open(self.directory.join("log"))?;
        let child =
            self.command().arg("serve").env("RUST_LOG", "warn").stderr(log).stdout(Stdio::null()).spawn();
        self.child = Some(child.with_context(|| format!("cannot start {}", self.binary.display()))?);
        let began = Instant::now();
        while TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).is_err() {
            let ended = self.child.as_mut().and_then(|child| child.try_wait().ok().flatten());
            if ended.is_some() || began.elapsed() > Duration::from_secs(60) {
                bail!(
                    "the collector does not serve: {}",
                    fs::read_to_string(self.directory.join("log")).unwrap_or_default()
                );
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.as_ref().map_or(0, Child::id)
    }

    fn output(&self, arguments: &[&str]) -> Result<String> {
        let output = self.command().args(arguments).output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(
            output.status.success(),
            "interlock-collector {}: {text}{}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(text)
    }

    /// A token for as many hosts.
    pub(crate) fn token(&self, hosts: u32) -> Result<Token> {
        let made = self.output(&["tokens", "create", "--json", "--uses", &hosts.to_string()])?;
        let made: serde_json::Value = serde_json::from_str(&made)?;
        Ok(made["token"].as_str().context("no token")?.parse()?)
    }

    /// Kills it, as a loss of power would, and starts it again.
    pub(crate) fn kill_and_start(&mut self) -> Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill()?;
            child.wait()?;
        }
        self.spawn()
    }

    /// Ends it in good order; gives its state directory.
    pub(crate) fn stop(&mut self) -> Result<PathBuf> {
        if let Some(mut child) = self.child.take() {
            let pid = Pid::from_raw(i32::try_from(child.id())?).context("no process")?;
            kill_process(pid, Signal::TERM)?;
            let status = child.wait()?;
            ensure!(
                status.success(),
                "the collector ended with {status}: {}",
                fs::read_to_string(self.directory.join("log")).unwrap_or_default()
            );
        }
        Ok(self.directory.join("state"))
    }

    /// Has everything verified that is kept; gives how many segments and events that is.
    pub(crate) fn verify(&self) -> Result<(u64, u64)> {
        let report: serde_json::Value = serde_json::from_str(&self.output(&["verify", "--json"])?)?;
        let number = |name: &str| report[name].as_u64().with_context(|| format!("no {name} in {report}"));
        Ok((number("segments")?, number("events")?))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// What the state of a collector that has ended takes.
pub(crate) async fn sizes(state: &Path) -> Result<Sizes> {
    // What is in the write-ahead log is put where it belongs.
    sqlx::any::install_default_drivers();
    let pool = sqlx::AnyPool::connect(&format!("sqlite://{}", state.join("collector.db").display())).await?;
    sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)").execute(&pool).await?;
    pool.close().await;
    Ok(Sizes {
        segments: bytes_in(&state.join("segments")),
        database: fs::metadata(state.join("collector.db"))?.len(),
    })
}
