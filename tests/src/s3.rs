//! Throwaway storage that speaks S3: SeaweedFS, on loopback ports of its own.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, bail, ensure};
use rustix::process::Signal;

use crate::process::{Daemon, LIMIT};
use crate::secrets::{answers, free_port};
use crate::{cache, wait_for};

/// The id of the key that may do everything on it.
pub const ACCESS_KEY: &str = "interlock-tests";
/// And its secret.
pub const SECRET_KEY: &str = "wJalrXUtnFEMI-K7MDENG-bPxRfiCYEXAMPLEKEY";
/// The bucket that is there.
pub const BUCKET: &str = "recordings";

/// A SeaweedFS server with one bucket. Stopped and removed when dropped.
#[derive(Debug)]
pub struct S3 {
    // Before the directory that it writes to.
    server: Daemon,
    directory: tempfile::TempDir,
    port: u16,
    program: PathBuf,
    others: [u16; 7],
}

/// SeaweedFS's program, from the Python package that carries it.
///
/// # Errors
/// It is not installed.
pub fn weed() -> Result<PathBuf> {
    let program = cache::object_store().join("bin/weed");
    ensure!(program.is_file(), "no SeaweedFS in {} (cargo xtask setup)", program.display());
    Ok(program)
}

impl S3 {
    /// Starts one, and makes the bucket.
    ///
    /// # Errors
    /// It is not installed, or does not start; the message has the end of its log.
    pub fn start() -> Result<Self> {
        let program = weed()?;
        let directory = crate::temporary_directory("s3")?;
        let identities = format!(
            "{{\"identities\": [{{\"name\": \"tests\", \"credentials\": [{{\"accessKey\": \"{ACCESS_KEY}\", \
             \"secretKey\": \"{SECRET_KEY}\"}}], \"actions\": [\"Admin\", \"Read\", \"Write\", \"List\"]}}]}}"
        );
        fs::write(directory.path().join("s3.json"), identities)?;
        let mut others = [0; 7];
        for port in &mut others {
            *port = free_port()?;
        }
        let port = free_port()?;
        let server = run(&program, directory.path(), port, others)?;
        let mut started = Self { server, directory, port, program, others };
        started.wait()?;
        started.make_bucket()?;
        Ok(started)
    }

    fn wait(&mut self) -> Result<()> {
        let (port, server) = (self.port, &mut self.server);
        let ready =
            wait_for("SeaweedFS starting", LIMIT, || server.ended().is_some() || answers(port, "/status"));
        if ready.is_err() || server.ended().is_some() {
            bail!("SeaweedFS did not start:\n{}", self.log());
        }
        Ok(())
    }

    fn log(&self) -> String {
        let log = fs::read_to_string(self.directory.path().join("log")).unwrap_or_default();
        let from = log.char_indices().nth_back(4000).map_or(0, |(at, _)| at);
        log.get(from..).unwrap_or_default().to_owned()
    }

    /// A bucket is a directory under `/buckets` of the filer.
    fn make_bucket(&self) -> Result<()> {
        let master = format!("127.0.0.1:{}.{}", self.others[0], self.others[1]);
        let filer = format!("127.0.0.1:{}.{}", self.others[4], self.others[5]);
        let mut said = String::new();
        let made = wait_for("the bucket", LIMIT, || {
            let mut command = Command::new(&self.program);
            command.args(["shell", "-master", &master, "-filer", &filer]);
            let script = format!("s3.bucket.create -name {BUCKET}\ns3.bucket.list\nexit\n");
            match crate::process::finish(&mut command, &script, LIMIT) {
                Ok(finished) => {
                    said = finished.both();
                    finished.stdout.lines().any(|line| line.trim_start().starts_with(BUCKET))
                }
                Err(error) => {
                    said = error.to_string();
                    false
                }
            }
        });
        made.map_err(|error| anyhow::anyhow!("{error}: {said}"))
    }

    /// `http://127.0.0.1:PORT`.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// kill -9: nothing answers any more.
    pub fn kill(&mut self) {
        self.server.kill();
    }

    /// Starts it again, with what it had.
    ///
    /// # Errors
    /// As for [`S3::start`].
    pub fn restart(&mut self) -> Result<()> {
        self.server.kill();
        self.server = run(&self.program, self.directory.path(), self.port, self.others)?;
        self.wait()
    }
}

fn run(
    program: &std::path::Path,
    directory: &std::path::Path,
    port: u16,
    others: [u16; 7],
) -> Result<Daemon> {
    let log = fs::OpenOptions::new().create(true).append(true).open(directory.join("log"))?;
    let [master, master_grpc, volume, volume_grpc, filer, filer_grpc, s3_grpc] = others;
    let mut command = Command::new(program);
    command
        .args(["-logtostderr", "server", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-filer", "-s3"])
        .arg(format!("-dir={}", directory.display()))
        .args(["-volume.max=50", "-master.volumeSizeLimitMB=64", "-master.telemetry=false"])
        .arg(format!("-master.port={master}"))
        .arg(format!("-master.port.grpc={master_grpc}"))
        .arg(format!("-volume.port={volume}"))
        .arg(format!("-volume.port.grpc={volume_grpc}"))
        .arg(format!("-filer.port={filer}"))
        .arg(format!("-filer.port.grpc={filer_grpc}"))
        .args([format!("-s3.port={port}"), format!("-s3.port.grpc={s3_grpc}")])
        .args(["-s3.port.iceberg=0", "-s3.port.lance=0"])
        .arg(format!("-s3.config={}", directory.join("s3.json").display()))
        .current_dir(directory)
        .env("HOME", directory)
        .stdout(log.try_clone()?)
        .stderr(log);
    Daemon::start(&mut command, Signal::TERM)
}
