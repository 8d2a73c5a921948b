//! Collectors that are processes of their own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use interlock_collector::config::Config;
use interlock_collector::intake::Intake;
use interlock_tests::process::{Daemon, Finished, LIMIT, finish};
use interlock_tests::wait_for;
use rustix::process::Signal;

use crate::kept::Kept;
use crate::support::Collector;

/// The configuration as a file, for a collector with a state directory of its own.
pub(crate) fn write_config(config: &Config, file: &Path, state: &Path, agents: u16, web: u16) {
    let (store, segments) =
        (config.store.as_ref().expect("a database"), config.segments.as_ref().expect("S3"));
    let (s3, keys) = (&segments.s3, config.keys.as_ref().expect("keys"));
    let text = format!(
        "name: {}\nstate: {}\nkeys: {}\nagents: {{listen: '127.0.0.1:{agents}', names: [localhost]}}\n\
         web: {{listen: '127.0.0.1:{web}'}}\n\
         store: {{database: '{}', password_file: {}, connections: 4}}\n\
         segments: {{s3: {{bucket: {}, endpoint: '{}', prefix: {}, access_key: {}, secret_key_file: {}}}}}\n",
        config.name.as_deref().expect("a name"),
        state.display(),
        keys.display(),
        store.database,
        store.password_file.as_ref().expect("a password").display(),
        s3.bucket,
        s3.endpoint.as_ref().expect("an endpoint"),
        s3.prefix,
        s3.access_key.as_ref().expect("a key"),
        s3.secret_key_file.as_ref().expect("a secret").display(),
    );
    fs::write(file, text).expect("written");
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address").port()
}

/// `interlock-collector serve`, stopped when dropped.
pub(crate) struct Process {
    daemon: Daemon,
    directory: PathBuf,
    pub(crate) port: u16,
    pub(crate) web: u16,
}

/// `interlock-collector --config FILE ARGUMENTS`.
pub(crate) fn command(file: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_interlock-collector"));
    command.arg("--config").arg(file).current_dir("/");
    command
}

/// The same to its end.
pub(crate) fn run(file: &Path, arguments: &[&str]) -> Finished {
    finish(command(file).args(arguments), "", LIMIT).expect("started")
}

impl Process {
    /// Starts one, which may not serve yet.
    pub(crate) fn start(config: &Config, directory: &Path) -> Self {
        fs::create_dir_all(directory).expect("a directory");
        let (port, web) = (free_port(), free_port());
        let file = directory.join("collector.yaml");
        write_config(config, &file, &directory.join("state"), port, web);
        let log = fs::File::create(directory.join("log")).expect("a log");
        let mut command = command(&file);
        command.arg("serve").stdout(log.try_clone().expect("a log")).stderr(log);
        let daemon = Daemon::start(&mut command, Signal::TERM).expect("started");
        Self { daemon, directory: directory.to_owned(), port, web }
    }

    pub(crate) fn file(&self) -> PathBuf {
        self.directory.join("collector.yaml")
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.directory.join("log")).unwrap_or_default()
    }

    /// Waits until it serves agents.
    pub(crate) fn wait(&mut self) {
        let (port, daemon) = (self.port, &mut self.daemon);
        let served = wait_for("a collector", Duration::from_secs(60), || {
            daemon.ended().is_some() || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        assert!(served.is_ok() && self.daemon.ended().is_none(), "it does not serve:\n{}", self.log());
    }

    pub(crate) fn has_ended(&mut self) -> bool {
        self.daemon.ended().is_some()
    }

    pub(crate) fn signal(&mut self, signal: Signal) {
        self.daemon.signal(signal);
    }

    /// What agents that are made by hand talk to; `intake` looks into the same database.
    pub(crate) fn door(&self, intake: &Arc<Intake>, config: &Config, kept: &Kept) -> Collector {
        Collector::elsewhere(Arc::clone(intake), config.clone(), self.port, Arc::clone(kept))
    }
}
