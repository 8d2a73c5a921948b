//! Real PostgreSQL clients.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use crate::process::{Finished, LIMIT, finish};
use crate::{Cgroup, Postgres, cache, postgres};

/// Where Debian puts PostgreSQL's JDBC driver.
pub const JDBC_DRIVER: &str = "/usr/share/java/postgresql.jar";

/// A client library or program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Client {
    /// psql, reading SQL.
    Psql,
    /// Python with psycopg 2, psycopg 3 and asyncpg at hand, reading a script.
    Python,
    /// Node.js with node-postgres at hand, reading a script.
    Node,
}

impl Client {
    /// Runs `script` against `server` (over TCP, by the address that the script would have used all
    /// along), in `cgroup` or in ours.
    ///
    /// # Errors
    /// The client cannot be started.
    pub fn run(self, server: &Postgres, cgroup: Option<&Cgroup>, script: &str) -> Result<Finished> {
        let mut command = self.command(server, cgroup);
        finish(&mut command, script, LIMIT)
    }

    /// The client, ready to read a script from its standard input.
    pub fn command(self, server: &Postgres, cgroup: Option<&Cgroup>) -> Command {
        match self {
            Self::Psql => {
                let mut command = start(cgroup, server.programs().join("psql"));
                // Errors do not stop it, as in the scripts that people write; they are told in full.
                command.args(["-X", "-A", "-q", "-v", "VERBOSITY=verbose", "-v", "SHOW_CONTEXT=never"]);
                command.arg(server.url());
                command
            }
            Self::Python => {
                let mut command = start(cgroup, cache::venv().join("bin/python"));
                command.arg("-");
                environment(&mut command, server);
                command
            }
            Self::Node => {
                let mut command = start(cgroup, PathBuf::from("node"));
                command.arg("-").env("NODE_PATH", cache::node().join("node_modules"));
                environment(&mut command, server);
                command
            }
        }
    }
}

/// Runs a Java program of one file against `server`, the JDBC driver on its class path.
///
/// # Errors
/// It cannot be written or started.
pub fn java(server: &Postgres, cgroup: Option<&Cgroup>, source: &str) -> Result<Finished> {
    let directory = crate::temporary_directory("java")?;
    let file = directory.path().join("Main.java");
    std::fs::write(&file, source)?;
    let mut command = start(cgroup, PathBuf::from("java"));
    command.args(["-XX:TieredStopAtLevel=1", "-Xshare:auto", "-cp", JDBC_DRIVER]).arg(file);
    environment(&mut command, server);
    finish(&mut command, "", 2 * LIMIT)
}

/// Where Debian puts the sources of Go libraries.
const GO_LIBRARIES: &str = "/usr/share/gocode";

/// Go's driver as Debian has it: the directory of its sources.
pub fn pgx() -> PathBuf {
    PathBuf::from(GO_LIBRARIES).join("src/github.com/jackc/pgx/v4")
}

/// Builds a program in Go in `directory`. It runs its arguments as queries by pgx, on the server that
/// `PGURL` names.
///
/// # Errors
/// It cannot be built.
pub fn build_go(directory: &Path) -> Result<PathBuf> {
    const SOURCE: &str = include_str!("../clients/pgx.go");
    let (source, program) = (directory.join("pgx.go"), directory.join("pgx"));
    std::fs::write(&source, SOURCE)?;
    let mut command = Command::new("go");
    // Without modules nothing is fetched from the network.
    command
        .args(["build", "-o"])
        .args([&program, &source])
        .env("GO111MODULE", "off")
        .env("GOPATH", GO_LIBRARIES)
        .env("GOCACHE", cache::go())
        .env("CGO_ENABLED", "0");
    let built = finish(&mut command, "", 5 * LIMIT)?;
    anyhow::ensure!(built.success(), "go build: {}", built.both());
    Ok(program)
}

/// pgbench with `arguments`, against `server`.
///
/// # Errors
/// It cannot be started.
pub fn pgbench(
    server: &Postgres,
    cgroup: Option<&Cgroup>,
    arguments: &[&str],
    input: &str,
) -> Result<Finished> {
    let mut command = start(cgroup, server.programs().join("pgbench"));
    command.args(arguments);
    environment(&mut command, server);
    finish(&mut command, input, 2 * LIMIT)
}

/// `program` in `cgroup`, or in ours.
pub fn start(cgroup: Option<&Cgroup>, program: PathBuf) -> Command {
    match cgroup {
        Some(cgroup) => cgroup.command(program),
        None => Command::new(program),
    }
}

/// What libpq and its like read of the environment.
pub fn environment(command: &mut Command, server: &Postgres) {
    command
        .env("PGHOST", "127.0.0.1")
        .env("PGPORT", server.port().to_string())
        .env("PGUSER", postgres::USER)
        .env("PGPASSWORD", postgres::PASSWORD)
        .env("PGDATABASE", postgres::DATABASE)
        .env("PGURL", server.url());
}
