//! The command line.

mod agent;
mod operate;
mod run;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use crate::config::{self, Config};

/// Takes what scripts, CI jobs and agents do on databases under control, without touching the scripts.
///
/// The agent redirects the outbound connections of designated processes to itself, decides on every
/// command by the policies in /etc/interlock/policies.d, masks what comes back, and records it all.
#[derive(Debug, Parser)]
#[command(name = "interlock", version, about, long_about, propagate_version = true, max_term_width = 100)]
#[command(
    after_help = "Exit codes: 0 it went well; 1 it did not, or a check found something; 2 wrong usage.\n\
    `interlock run` exits with the status of the command it ran."
)]
pub struct Cli {
    /// The agent's configuration file.
    #[arg(long, global = true, value_name = "FILE", default_value = config::DEFAULT_PATH, env = "INTERLOCK_CONFIG")]
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
    /// Have the agent read its policies again.
    Reload,
    /// Take everything out of the kernel. Designated processes are no longer held.
    Detach(operate::DetachArgs),
    /// Check, explain and test policies.
    Policy(crate::policy::cli::Args),
    /// Read, replay, export and verify recordings.
    Sessions(crate::record::cli::Args),
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
            eprintln!("interlock: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let load = || Config::load(&cli.config);
    match cli.command {
        Command::Agent(args) => agent::run(&args, load()?, &cli.config),
        Command::Status(args) => operate::status(&args, &load()?),
        Command::Run(args) => run::run(args, &load()?),
        Command::Reload => operate::reload(&load()?),
        Command::Detach(args) => operate::detach(&args, &load()?),
        Command::Policy(args) => crate::policy::cli::run(args, &load),
        Command::Sessions(args) => crate::record::cli::run(args, &load),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut command(), "interlock", &mut std::io::stdout());
            Ok(ExitCode::SUCCESS)
        }
        Command::Man { directory } => {
            std::fs::create_dir_all(&directory)?;
            clap_mangen::generate_to(command(), &directory)?;
            Ok(ExitCode::SUCCESS)
        }
    }
}
