//! The command line.

mod agent;
mod config;
mod man;
mod operate;
pub(crate) mod output;
pub(crate) mod report;
mod run;
pub(crate) mod verify;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use crate::config::{Config, DEFAULT_PATH};
use crate::identity::login::cli as login;

/// Takes what scripts, CI jobs and agents do on databases under control, without touching the scripts.
///
/// The agent redirects the outbound connections of designated processes to itself, decides on every
/// command by the policies in /etc/interlock/policies.d, masks what comes back, and records it all.
#[derive(Debug, Parser)]
#[command(name = "interlock", version, about, long_about, propagate_version = true, max_term_width = 100)]
#[command(
    after_help = "Exit codes: 0 it went well; 1 it did not, or a check found something; 2 wrong usage.\n\
    `interlock run` exits with the status of the command it ran, or with 125 when it was not run."
)]
pub struct Cli {
    /// The agent's configuration file.
    #[arg(long, global = true, value_name = "FILE", default_value = DEFAULT_PATH, env = "INTERLOCK_CONFIG")]
    config: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the agent in the foreground.
    Agent(agent::Args),
    /// Tell how the agent is: what is attached where, policies, recording, counts.
    Status(operate::StatusArgs),
    /// Run a command as a designated process.
    Run(run::Args),
    /// Enrol this host with a collector, which then gets its recordings.
    Enroll(crate::ship::cli::Args),
    /// Have the agent read its policies again.
    Reload(operate::ReloadArgs),
    /// Take everything out of the kernel. Designated processes are no longer held.
    Detach(operate::DetachArgs),
    /// Check the agent's configuration file, or print its schema.
    Config(config::Args),
    /// Check, explain and test policies.
    Policy(crate::policy::cli::Args),
    /// Sign in at an identity provider, as the person who stands behind this login session.
    Login(login::LoginArgs),
    /// Sign out.
    Logout(login::LogoutArgs),
    /// Tell who the agent sees behind this process.
    Whoami(login::WhoamiArgs),
    /// See and decide on what waits for approval.
    Approvals(crate::approval::cli::Args),
    /// Serve AI agents: what policies say of a command, and approval before it is sent (Model Context Protocol).
    Mcp(crate::mcp::Args),
    /// See whether the credentials that the agent is to hold can be had; make verifiers.
    Credentials(crate::credential::cli::Args),
    /// Have clients trust the host's authority, without editing scripts.
    Trust(crate::trust::cli::Args),
    /// Read, replay, export and verify recordings.
    Sessions(crate::record::cli::Args),
    /// Verify an evidence bundle that a collector has given out.
    Verify(verify::Args),
    /// Print shell completions.
    Completions {
        /// For which shell.
        shell: clap_complete::Shell,
    },
    /// Write man pages into a directory.
    Man {
        /// The directory; it is made if it is missing.
        directory: PathBuf,
    },
}

/// The command line's definition, for man pages and completions.
pub fn command() -> clap::Command {
    Cli::command()
}

/// Runs what the command line asks for.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli) {
        Ok(code) => code,
        Err(error) => {
            output::complain(format_args!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let load = || Config::load(&cli.config);
    match cli.command {
        Command::Agent(args) => agent::run(&args, &load, &cli.config),
        Command::Status(args) => operate::status(&args, &load()?),
        Command::Run(args) => Ok(run::run(args, &load)),
        Command::Enroll(args) => crate::ship::cli::run(args, &load()?),
        Command::Reload(args) => operate::reload(&args, &load()?),
        Command::Detach(args) => operate::detach(&args, &load()?),
        Command::Config(args) => config::run(&args, &cli.config),
        Command::Policy(args) => crate::policy::cli::run(args, &load),
        Command::Login(args) => login::login(&args, &load),
        Command::Logout(args) => login::logout(&args, &load),
        Command::Whoami(args) => login::whoami(&args, &load),
        Command::Approvals(args) => crate::approval::cli::run(args, &load),
        Command::Mcp(args) => crate::mcp::run(args, &load),
        Command::Credentials(args) => crate::credential::cli::run(args, &load, &cli.config),
        Command::Trust(args) => crate::trust::cli::run(args, &load),
        Command::Sessions(args) => crate::record::cli::run(args, &load),
        Command::Verify(args) => verify::run(&args),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut command(), "interlock", &mut script);
            output::print(&String::from_utf8_lossy(&script))?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Man { directory } => {
            man::write(&directory)?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_takes_what_the_documentation_says() {
        command().debug_assert();
        let parses = |line: &str| Cli::try_parse_from(line.split(' ')).is_ok();
        for line in [
            "interlock policy explain --protocol postgres --db-user app x",
            "interlock policy explain --protocol postgres --user app x",
            "interlock sessions show 0123456789ab",
            "interlock sessions show --last",
            "interlock sessions replay --last --json",
            "interlock sessions list --observed deny --wide",
            "interlock sessions egress --verdict deny",
            "interlock verify evidence.tar",
            "interlock verify evidence.tar --collector-key c.vkey --host-key a.pub --host-key b.pub --json",
            "interlock verify evidence.tar --checkpoint kept --consistency proof.json",
            "interlock status --wait 10 --verbose",
            "interlock reload --json",
            "interlock enroll https://c.example:7443 --token ilk1.x.y",
            "interlock enroll c.example --token-file -",
            "interlock enroll --status --json",
            "interlock enroll --leave",
            "interlock config check --config x",
            "interlock approvals list --all --json",
            "interlock approvals show k7m2q9xd",
            "interlock approvals approve k7m2q9xd --scope shape --for 10 --reason x",
            "interlock approvals deny k7m2q9xd --reason x",
            "interlock approvals break-glass k7m2q9xd --reason x",
            "interlock approvals watch",
            "interlock mcp",
            "interlock mcp --listen 127.0.0.1:7332 --token-file t",
            "interlock mcp --listen 192.0.2.1:7332 --allow-host mcp.example",
            "interlock login",
            "interlock login --issuer okta --device --json",
            "interlock login --browser",
            "interlock logout",
            "interlock whoami --json",
            "interlock credentials check shop-app --json",
            "interlock credentials verifier --user app",
        ] {
            assert!(parses(line), "{line}");
        }
        for line in [
            "interlock approvals deny k7m2q9xd",
            "interlock approvals approve k7m2q9xd --scope always",
            "interlock verify",
            "interlock verify x --consistency p",
            "interlock sessions show",
            "interlock sessions show --last 01",
            "interlock status -v --json",
            "interlock enroll",
            "interlock enroll c.example --leave",
            "interlock mcp --token-file t",
            "interlock login --device --browser",
        ] {
            assert!(!parses(line), "{line}");
        }
    }
}
