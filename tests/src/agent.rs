//! An agent of one's own: configuration, policies, state, pins and cgroup apart from any other's.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::process::{Daemon, Finished, LIMIT, finish};
use crate::{Cgroup, wait_for};

/// An agent in the foreground of its own cgroup. When dropped it is stopped and detached, and all its
/// files are removed.
#[derive(Debug)]
pub struct Agent {
    // The order of the fields is the order of dropping: the agent goes before its cgroup.
    daemon: Option<Daemon>,
    binary: PathBuf,
    directory: TempDir,
    run: PathBuf,
    /// The cgroup that it attaches to.
    cgroup: Cgroup,
}

/// The `interlock` program of the same build as this one, or what `INTERLOCK_BIN` names.
///
/// # Errors
/// It has not been built.
pub fn binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("INTERLOCK_BIN") {
        return Ok(path.into());
    }
    let own = std::env::current_exe().context("cannot tell our own path")?;
    // target/PROFILE/xtask, target/PROFILE/deps/test-1234 or target/PROFILE/examples/x.
    own.ancestors()
        .skip(1)
        .take(2)
        .map(|directory| directory.join("interlock"))
        .find(|path| path.is_file())
        .with_context(|| format!("no `interlock` beside {} (cargo build)", own.display()))
}

impl Agent {
    /// Starts one under the given policies (file name and text) and waits until it serves.
    ///
    /// # Errors
    /// It does not start; the message has its log.
    pub fn start(policies: &[(&str, &str)]) -> Result<Self> {
        Self::start_with(policies, "", Cgroup::new()?)
    }

    /// Starts one with further configuration (YAML, appended to its file) in a given cgroup.
    ///
    /// # Errors
    /// As [`Agent::start`].
    pub fn start_with(policies: &[(&str, &str)], configuration: &str, cgroup: Cgroup) -> Result<Self> {
        let mut agent = Self::prepare(binary()?, policies, configuration, cgroup)?;
        agent.launch()?;
        Ok(agent)
    }

    /// All of it but the agent's process.
    ///
    /// # Errors
    /// Its files cannot be written.
    pub fn prepare(
        binary: PathBuf,
        policies: &[(&str, &str)],
        configuration: &str,
        cgroup: Cgroup,
    ) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let directory = crate::temporary_directory("agent")?;
        // The pins' directory in bpffs takes its name from this one; by the last part we find it again.
        let name = format!("run{}x{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let run = directory.path().join(name);
        fs::create_dir(directory.path().join("policies.d"))?;
        let agent = Self { daemon: None, binary, directory, run, cgroup };
        for (name, text) in policies {
            agent.write_policy(name, text)?;
        }
        let text = format!(
            "cgroup: {}\npolicies: {}\nstate: {}\nrun: {}\n{configuration}\n",
            agent.cgroup.path().display(),
            agent.policies().display(),
            agent.state().display(),
            agent.run.display()
        );
        fs::write(agent.config(), text)?;
        Ok(agent)
    }

    /// Starts the agent's process (again) and waits until it serves.
    ///
    /// # Errors
    /// It does not within 30 s; the message has its log.
    pub fn launch(&mut self) -> Result<()> {
        self.spawn()?;
        let waiting = self.interlock(&["status", "--wait", "30"])?;
        let ended = self.daemon.as_mut().and_then(Daemon::ended);
        if !waiting.success() || ended.is_some() {
            bail!("the agent does not serve ({ended:?}): {}\n-- its log\n{}", waiting.both(), self.log());
        }
        Ok(())
    }

    /// Starts the agent's process and does not wait for it.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn spawn(&mut self) -> Result<()> {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.directory.path().join("log"))?;
        let mut command = Command::new(&self.binary);
        command
            .arg("--config")
            .arg(self.config())
            .arg("agent")
            .current_dir("/")
            .stdout(log.try_clone()?)
            .stderr(log);
        self.daemon = Some(Daemon::start(&mut command, Signal::TERM)?);
        Ok(())
    }

    /// The process id of the running agent.
    pub fn pid(&self) -> Option<u32> {
        self.daemon.as_ref().map(Daemon::pid)
    }

    /// Stops it in good order.
    pub fn stop(&mut self) -> Option<std::process::ExitStatus> {
        self.daemon.take().map(|mut daemon| daemon.stop(Duration::from_secs(20)))
    }

    /// Waits until it has ended by itself.
    ///
    /// # Errors
    /// It has not been started, or still runs after `limit`.
    pub fn wait(&mut self, limit: Duration) -> Result<std::process::ExitStatus> {
        let daemon = self.daemon.as_mut().context("the agent has not been started")?;
        let mut ended = None;
        wait_for("the agent's end", limit, || {
            ended = daemon.ended();
            ended.is_some()
        })?;
        ended.context("the agent has no exit status")
    }

    /// kill -9.
    pub fn kill(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            daemon.kill();
        }
    }

    /// `interlock --config … ARGUMENTS`, to its end.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn interlock(&self, arguments: &[&str]) -> Result<Finished> {
        finish(self.command().args(arguments), "", LIMIT)
    }

    /// `interlock --config …`, arguments to follow.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.binary);
        command.arg("--config").arg(self.config());
        command
    }

    /// What an `interlock … --json` command prints: one JSON value a line.
    ///
    /// # Errors
    /// It fails, or prints something else.
    pub fn json(&self, arguments: &[&str]) -> Result<Vec<Value>> {
        let finished = self.interlock(arguments)?;
        if !finished.success() {
            bail!("interlock {}: {}", arguments.join(" "), finished.both());
        }
        let values = serde_json::Deserializer::from_str(&finished.stdout).into_iter::<Value>();
        let values: Vec<Value> = values
            .collect::<Result<_, _>>()
            .with_context(|| format!("interlock {}: {}", arguments.join(" "), finished.stdout))?;
        // One array is a list of its elements.
        match values.as_slice() {
            [Value::Array(elements)] => Ok(elements.clone()),
            _ => Ok(values),
        }
    }

    /// Every event of every session, as `sessions export` gives them. Those of a client that has gone
    /// are there: what a flow's end adds to the recording is waited for.
    ///
    /// # Errors
    /// The export fails.
    pub fn events(&self) -> Result<Vec<Value>> {
        self.settle();
        self.json(&["sessions", "export", "--format", "jsonl"])
    }

    /// Waits until no flow is open, for as long as that may take once the clients are gone. A client
    /// that stays, or an agent that does not run, is no error here.
    fn settle(&self) {
        let _ = wait_for("the flows' end", Duration::from_secs(3), || {
            self.json(&["status", "--json"])
                .map_or(true, |status| status.first().is_some_and(|status| status["flows"]["open"] == 0))
        });
    }

    /// Every command event of every session, in order.
    ///
    /// # Errors
    /// The export fails.
    pub fn commands(&self) -> Result<Vec<Value>> {
        let events = self.events()?;
        Ok(events.into_iter().filter(|event| event["event"] == "command").collect())
    }

    /// The texts of all commands on which `verdict` was given, in order.
    ///
    /// # Errors
    /// The export fails.
    pub fn texts(&self, verdict: &str) -> Result<Vec<String>> {
        let commands = self.commands()?;
        let judged = commands.iter().filter(|command| command["verdict"] == verdict);
        Ok(judged.filter_map(|command| command["text"].as_str()).map(str::to_owned).collect())
    }

    /// Writes a policy file; the agent takes it up by itself or by [`Agent::reload`].
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write_policy(&self, name: &str, text: &str) -> Result<()> {
        // By renaming, so that no half of it is ever read.
        let temporary = self.directory.path().join("policy.tmp");
        fs::write(&temporary, text)?;
        fs::rename(temporary, self.policies().join(name))?;
        Ok(())
    }

    /// `interlock reload`.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn reload(&self) -> Result<Finished> {
        self.interlock(&["reload"])
    }

    /// The configuration file.
    pub fn config(&self) -> PathBuf {
        self.directory.path().join("agent.yaml")
    }

    /// The directory of policy files.
    pub fn policies(&self) -> PathBuf {
        self.directory.path().join("policies.d")
    }

    /// The state directory: recordings and keys.
    pub fn state(&self) -> PathBuf {
        self.directory.path().join("state")
    }

    /// The run directory: control socket and lock.
    pub fn run(&self) -> &Path {
        &self.run
    }

    /// The cgroup that it attaches to.
    pub fn cgroup(&self) -> &Cgroup {
        &self.cgroup
    }

    /// What the agent has logged since it was first started.
    pub fn log(&self) -> String {
        let bytes = fs::read(self.directory.path().join("log")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Its directory of pins, if there is one.
    pub fn pins(&self) -> Option<PathBuf> {
        let name = self.run.file_name()?.to_str()?;
        let mounts = bpffs_mounts().into_iter().flat_map(fs::read_dir);
        mounts
            .flatten()
            .flatten()
            .map(|entry| entry.path())
            .find(|path| path.to_string_lossy().ends_with(name))
    }
}

/// The bpffs mounts that the mount table names.
fn bpffs_mounts() -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    table
        .lines()
        .map(|line| line.split(' '))
        .filter_map(|mut fields| {
            let point = fields.nth(1)?;
            (fields.next()? == "bpf").then(|| PathBuf::from(point))
        })
        .collect()
}

impl Drop for Agent {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("-- the agent's log\n{}", self.log());
        }
        self.stop();
        if self.pins().is_none() {
            return;
        }
        let detached = self.interlock(&["detach"]);
        let gone = wait_for("the pins' removal", Duration::from_secs(2), || self.pins().is_none());
        if let (Err(error), Some(pins)) = (gone, self.pins()) {
            // Left pinned, the programs would cut off whatever runs in a cgroup of the same number later.
            eprintln!("{error}: interlock detach gave {detached:?}; removing {}", pins.display());
            let _ = fs::remove_dir_all(pins);
        }
    }
}
