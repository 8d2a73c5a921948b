//! The agent measured beside others that stand between client and server, in one run.

mod ingest;
mod load;
mod postgres;
mod process;
mod tls;

pub(crate) use load::{Client, Server};
pub(crate) use postgres::copier;
pub(crate) use tls::{NGINX, NGINX_STREAM};

use std::net::TcpListener;
use std::path::PathBuf;

use anyhow::{Result, bail};
use interlock_tests::Agent;

use crate::interrupt;
use crate::setup::{self, Part};
use crate::shell::{cargo, run as sh, say, workspace};

/// What rules cost is measured with rules in force.
const RULES: &str = r#"
rules:
  - name: no-drop
    match: {sql: {kind: [drop_table, drop_database, truncate]}}
    action: deny
  - name: unbounded-write
    match: {sql: {kind: [update, delete], where: missing}}
    action: hold
  - name: outside
    match: {sql: {class: external}}
    action: deny
  - name: bulk-read
    match: {sql: {class: read, tables: [public.customers], limit: missing}}
    when: subject.ci.branch != "main"
    action: deny
"#;

/// And masks by detector, likewise.
const DETECTORS: &str =
    "  - {name: leaks, detect: [payment_card, email, private_key, aws_access_key], with: redact}\n";

/// Measure the agent beside PgBouncer, nginx, a byte copier and a direct connection, in one run.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// How long each measurement takes.
    #[arg(long, default_value_t = 5)]
    seconds: u32,
    /// How often each is repeated; the tables have the medians.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// One part alone.
    #[arg(long)]
    only: Option<Only>,
}

/// A part of the bench.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Only {
    /// Queries: pgbench, beside PgBouncer.
    Queries,
    /// TLS: connections, bulk and idle flows, beside nginx.
    Tls,
    /// What a collector takes in, beside JSON Lines in a file.
    Ingest,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    if arguments.only == Some(Only::Ingest) {
        interrupt::catch();
        return ingest::run(arguments);
    }
    crate::test::check_host()?;
    setup::ensure(Part::Bench)?;
    say("building the agent, and what puts load on it, in release mode");
    sh(cargo().args([
        "build",
        "--quiet",
        "--release",
        "--package",
        "interlock-agent",
        "--bin",
        "interlock",
        "--package",
        "xtask",
        "--bin",
        "xtask",
    ]))?;
    interrupt::catch();
    if arguments.only != Some(Only::Tls) {
        postgres::run(arguments)?;
    }
    if arguments.only != Some(Only::Queries) {
        tls::run(arguments)?;
    }
    if arguments.only.is_none() {
        ingest::run(arguments)?;
    }
    Ok(())
}

/// A program of the release build.
fn release(name: &str) -> PathBuf {
    workspace().join("target/release").join(name)
}

fn rounds(arguments: &Arguments) -> usize {
    arguments.rounds.max(1)
}

fn verify_recording(agent: &Agent) -> Result<()> {
    let verified = agent.interlock(&["sessions", "verify"])?;
    if !verified.success() {
        bail!("the recording does not verify: {}", verified.both());
    }
    Ok(())
}

fn median<T>(measured: &[T], of: impl Fn(&T) -> f64) -> f64 {
    let mut values: Vec<_> = measured.iter().map(of).collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}
