//! `interlock trust`: install, status, remove.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::Subcommand;
use serde::Serialize;

use super::install::{Done, Report, Request};
use super::probe::{self, Where};
use super::process::HostTools;
use super::{Authority, Host, install, remove};
use crate::config::Config;
use crate::policy::PolicySet;

/// Have clients trust the host's authority, without editing scripts.
///
/// To look into TLS the agent shows clients certificates that it signs itself, by an authority that it
/// made when it first started and whose key never leaves the host. Clients accept them only once the
/// authority's certificate is where they look.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Put the authority's certificate where clients look.
    ///
    /// Into the system's store (Debian and RHEL families) and the keystores of JVMs that bring their own;
    /// units get a drop-in that points clients which bring roots of their own to a bundle of the system's
    /// roots and the authority. All that is changed is written down first, for `remove`. It can be run
    /// again at any time, and should be after units or policies have changed.
    Install(InstallArgs),
    /// Ask each client that is found whether it accepts the authority.
    Status(StatusArgs),
    /// Put back all that `install` changed.
    Remove(RemoveArgs),
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  interlock trust install --dry-run\n  \
    interlock trust install --unit gitlab-runner.service\n  \
    interlock trust install --unit report.service --roots /opt/report/certs/db-ca.pem\n\n\
    Units see their new environment when they are restarted; `install` restarts none. Exits with 1 when \
    something could not be done; the rest is done all the same.")]
struct InstallArgs {
    /// A service whose environment is to be set; those that policies name when left out. Can be repeated.
    #[arg(long = "unit", value_name = "NAME")]
    units: Vec<String>,
    /// Also point these units' JVMs to a keystore, by JAVA_TOOL_OPTIONS. For JVMs with a keystore of
    /// their own elsewhere; each then says so in one line on its standard error.
    #[arg(long)]
    java_tool_options: bool,
    /// A file of roots, such as one that `sslrootcert=` or `ssl-ca=` names: these units see it with the
    /// authority added (mounted over it). Can be repeated.
    #[arg(long, value_name = "FILE", value_parser = absolute)]
    roots: Vec<PathBuf>,
    /// A kubeconfig: these units see it with the authority added to what its clusters trust. Can be repeated.
    #[arg(long = "kubeconfig", value_name = "FILE", value_parser = absolute)]
    kubeconfigs: Vec<PathBuf>,
    /// The directory of an NSS database (~/.pki/nssdb of a user, for Chrome). Can be repeated.
    #[arg(long, value_name = "DIR", value_parser = absolute)]
    nss: Vec<PathBuf>,
    /// The authority's certificate; that of the agent's state directory when left out.
    #[arg(long, value_name = "FILE")]
    authority: Option<PathBuf>,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, clap::Args)]
#[command(
    after_help = "A client is asked by having it connect to a server on loopback whose certificate the \
    authority has signed: what counts is whether it goes on. Exits with 0 when all that were found accept, else \
    with 1. Needs root: the authority's key signs the server's certificate."
)]
struct StatusArgs {
    /// Ask as this service: its environment, its user, what is mounted over its files.
    #[arg(long, value_name = "NAME", conflicts_with = "run")]
    unit: Option<String>,
    /// Ask in the environment that `interlock run` gives its command.
    #[arg(long)]
    run: bool,
    /// Ask only this client. Can be repeated.
    #[arg(long = "client", value_name = "CLIENT")]
    clients: Vec<String>,
    /// How many seconds a client may take.
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=600))]
    timeout: u64,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
#[command(
    after_help = "What others changed since the installation is kept as it is, and told. An installation \
    that was cut short is removed too. Exits with 1 when something could not be put back; run it again then."
)]
struct RemoveArgs {
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, clap::Args)]
struct Common {
    /// Work on the system below this directory, such as an image that is being built. The state, run and
    /// policy directories are taken below it too.
    #[arg(long, value_name = "DIR", value_parser = absolute)]
    root: Option<PathBuf>,
    /// Only tell what would be done.
    #[arg(long)]
    dry_run: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

fn absolute(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    let plain = path.is_absolute()
        && !text.contains('\n')
        && !path.components().any(|part| matches!(part, std::path::Component::ParentDir));
    plain.then_some(path).ok_or_else(|| "give an absolute path without `..`".to_owned())
}

/// Runs a subcommand. `load` reads the configuration.
///
/// # Errors
/// There is no authority yet, the policies can't be read, or what is installed can't be told.
pub fn run(args: Args, load: &dyn Fn() -> anyhow::Result<Config>) -> anyhow::Result<ExitCode> {
    let config = load()?;
    match args.command {
        Command::Install(args) => {
            let host = host(&config, &args.common)?;
            let authority = match &args.authority {
                Some(path) => Authority::read(path)?,
                None => Authority::load(&host)?,
            };
            let units = if args.units.is_empty() { units(&host, &config)? } else { args.units };
            let request = Request {
                units,
                java: args.java_tool_options,
                roots: args.roots,
                kubeconfigs: args.kubeconfigs,
                nss: args.nss,
                dry_run: args.common.dry_run,
            };
            let report = install::install(&host, &HostTools, &authority, &request)?;
            print(&report, args.common.json)
        }
        Command::Remove(args) => {
            let host = host(&config, &args.common)?;
            print(&remove::remove(&host, &HostTools, args.common.dry_run)?, args.common.json)
        }
        Command::Status(args) => status(&args, &config),
    }
}

fn host(config: &Config, common: &Common) -> anyhow::Result<Host> {
    anyhow::ensure!(
        rustix::process::geteuid().is_root(),
        "this needs root: it changes what the whole system trusts"
    );
    Ok(Host::new(config, common.root.as_deref()))
}

/// The services that policies name.
fn units(host: &Host, config: &Config) -> anyhow::Result<Vec<String>> {
    let policies = host.at(&config.policies);
    if !policies.exists() {
        return Ok(Vec::new());
    }
    let set = PolicySet::load(&policies)
        .context("the policies name the units, and can't be read (--unit NAME names them instead)")?;
    let units = set.selection().entries.into_iter().filter_map(|entry| entry.unit);
    let services: BTreeSet<String> = units.filter(|unit| unit.ends_with(".service")).collect();
    Ok(services.into_iter().collect())
}

fn json(value: &impl Serialize) -> anyhow::Result<()> {
    Ok(writeln!(std::io::stdout().lock(), "{}", serde_json::to_string(value)?)?)
}

fn print(report: &Report, as_json: bool) -> anyhow::Result<ExitCode> {
    if as_json {
        json(report)?;
    } else {
        let mut out = std::io::stdout().lock();
        for step in &report.steps {
            let done = match step.done {
                Done::Already => "in place",
                Done::Installed => "installed",
                Done::WouldInstall => "would install",
                Done::Restored => "restored",
                Done::WouldRestore => "would restore",
                Done::Kept => "kept",
            };
            let path = step.path.display();
            let gap = if step.path == Path::new("") { "" } else { " " };
            writeln!(out, "{done:<13} {path}{gap}({})", step.what)?;
            for line in step.text.iter().flat_map(|text| text.lines()) {
                writeln!(out, "              | {line}")?;
            }
        }
        for note in &report.notes {
            writeln!(out, "note: {note}")?;
        }
        if !report.restart.is_empty() {
            writeln!(out, "to take effect: systemctl restart {}", report.restart.join(" "))?;
        }
    }
    for failure in &report.failures {
        eprintln!("interlock: {failure}");
    }
    Ok(if report.failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn status(args: &StatusArgs, config: &Config) -> anyhow::Result<ExitCode> {
    let place = match &args.unit {
        Some(unit) => Where::Unit(unit.clone()),
        None if args.run => Where::Run,
        None => Where::Shell,
    };
    let status = probe::status(config, &place, &args.clients, Duration::from_secs(args.timeout))?;
    if args.json {
        json(&status)?;
    } else {
        let mut out = std::io::stdout().lock();
        writeln!(out, "authority {}", status.authority)?;
        writeln!(out, "asked in {}:", status.environment)?;
        let width = status.clients.iter().map(|answer| answer.client.len()).max().unwrap_or_default();
        for answer in &status.clients {
            let word = if answer.accepts { "accepts" } else { "REFUSES" };
            writeln!(out, "  {:<width$}  {word}  {}", answer.client, answer.asked)?;
            if !answer.accepts {
                writeln!(out, "  {:<width$}           {}", "", printable(&answer.why))?;
            }
        }
        for note in &status.notes {
            writeln!(out, "note: {note}")?;
        }
    }
    let all = status.clients.iter().all(|answer| answer.accepts);
    Ok(if all { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What a client printed, without what would steer a terminal.
fn printable(text: &str) -> String {
    interlock_recording::text::printable(text).to_string()
}
