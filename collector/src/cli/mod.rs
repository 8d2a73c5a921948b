//! The command line.

mod agents;
mod approvals;
mod config;
mod evidence;
mod holds;
mod keys;
mod ledger;
mod links;
mod migrate;
mod output;
mod outputs;
mod policies;
mod queries;
mod tokens;
mod users;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{CommandFactory, Parser, Subcommand};

use crate::administer::By;
use crate::config::{Config, DEFAULT_PATH};

/// Receives the recordings of Interlock's agents, keeps them, proves them whole, and shows them to
/// reviewers and auditors.
///
/// Without a configuration file it keeps everything in one directory and needs no other service.
#[derive(Debug, Parser)]
#[command(
    name = "interlock-collector",
    version,
    about,
    long_about,
    propagate_version = true,
    max_term_width = 100
)]
#[command(
    after_help = "Exit codes: 0 it went well; 1 it did not, or a check found something; 2 wrong usage; \
    3 a check could not be made."
)]
pub struct Cli {
    /// The collector's configuration file.
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        default_value = DEFAULT_PATH,
        env = "INTERLOCK_COLLECTOR_CONFIG"
    )]
    config: PathBuf,
    /// The directory of keys, database and recordings, in the place of the configuration's.
    #[arg(long, global = true, value_name = "DIR", env = "INTERLOCK_COLLECTOR_STATE")]
    state: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the collector in the foreground.
    Serve,
    /// Make and list the tokens that agents are enrolled with.
    #[command(subcommand)]
    Tokens(tokens::Command),
    /// List and revoke agents.
    #[command(subcommand)]
    Agents(agents::Command),
    /// Show and check the ledger: the append-only log over all that was taken in.
    #[command(subcommand)]
    Ledger(ledger::Command),
    /// Keep policies centrally: add versions, have hosts go by them, stage, promote and roll back.
    #[command(subcommand)]
    Policies(policies::Command),
    /// Set, list and release legal holds.
    #[command(subcommand)]
    Holds(holds::Command),
    /// List sessions, search them, and show one.
    #[command(subcommand)]
    Sessions(queries::Sessions),
    /// List commands, and search them.
    Commands(queries::Commands),
    /// List rules: how often each decided.
    Rules(queries::Rules),
    /// List what waits for approval and what was decided, and show one.
    #[command(subcommand)]
    Approvals(approvals::Command),
    /// List what was found wrong with recordings.
    Findings(queries::Findings),
    /// List what was done in the collector.
    Audit(queries::Audit),
    /// List events of a host that no session is about.
    HostEvents(queries::HostEvents),
    /// List the outputs to other systems and how they fare, and forget those that are not configured any more.
    #[command(subcommand)]
    Outputs(outputs::Command),
    /// List accounts, and let one that is locked out in again.
    #[command(subcommand)]
    Users(users::Command),
    /// List which users of chats decide as which accounts, and end that.
    #[command(subcommand)]
    Links(links::Command),
    /// Write an evidence bundle: sessions with all that proves them, in one file.
    Evidence(evidence::Evidence),
    /// Check everything that is kept against the ledger. The same as `ledger verify`.
    Verify(ledger::Verify),
    /// Check the configuration file; print its JSON Schema.
    #[command(subcommand)]
    Config(config::Command),
    /// Move from the embedded default to PostgreSQL and S3. The collector must be stopped, and does not
    /// start again from where it was.
    Migrate(migrate::Migrate),
    /// Make the keys that all collectors of one ledger have.
    #[command(subcommand)]
    Keys(keys::Command),
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
    let run = || -> anyhow::Result<ExitCode> {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        runtime.block_on(run(cli))
    };
    run().unwrap_or_else(|error| {
        output::complain(format_args!("{error:#}"));
        ExitCode::FAILURE
    })
}

async fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let load = || -> anyhow::Result<Config> {
        let mut config = Config::load(&cli.config)?;
        if let Some(state) = cli.state {
            config.state = state;
        }
        Ok(config)
    };
    let command = match cli.command {
        Command::Config(command) => return config::run(&command, &cli.config, load),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut command(), "interlock-collector", &mut script);
            output::print(&String::from_utf8_lossy(&script));
            return Ok(ExitCode::SUCCESS);
        }
        Command::Man { directory } => {
            let written = std::fs::create_dir_all(&directory)
                .and_then(|()| clap_mangen::generate_to(command(), &directory));
            written.with_context(|| format!("cannot write into {}", directory.display()))?;
            return Ok(ExitCode::SUCCESS);
        }
        other => other,
    };
    let config = load()?;
    match command {
        Command::Serve => {
            output::log()?;
            crate::serve::serve(&config).await?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Tokens(command) => tokens::run(&config, command).await,
        Command::Agents(command) => agents::run(&config, command).await,
        Command::Ledger(command) => ledger::run(&config, command).await,
        Command::Policies(command) => policies::run(&config, command).await,
        Command::Holds(command) => holds::run(&config, command).await,
        Command::Sessions(command) => queries::sessions(&config, command).await,
        Command::Commands(arguments) => queries::commands(&config, &arguments).await,
        Command::Rules(arguments) => queries::rules(&config, &arguments).await,
        Command::Approvals(command) => approvals::run(&config, command).await,
        Command::Findings(arguments) => queries::findings(&config, &arguments).await,
        Command::Audit(arguments) => queries::audit(&config, &arguments).await,
        Command::HostEvents(arguments) => queries::host_events(&config, &arguments).await,
        Command::Outputs(command) => outputs::run(&config, command).await,
        Command::Users(command) => users::run(&config, command).await,
        Command::Links(command) => links::run(&config, command).await,
        Command::Evidence(arguments) => evidence::run(&config, &arguments).await,
        Command::Verify(arguments) => ledger::verify(&config, &arguments).await,
        Command::Migrate(arguments) => migrate::run(&config, &arguments).await,
        Command::Keys(command) => keys::run(&config, command).await,
        Command::Config(_) | Command::Completions { .. } | Command::Man { .. } => Ok(ExitCode::SUCCESS),
    }
}

/// Who acts, when somebody acts on the collector's own host: for the audit trail.
fn actor() -> String {
    let uid = rustix::process::getuid().as_raw();
    match std::env::var("SUDO_USER") {
        Ok(user) if uid == 0 => format!("uid 0 (sudo by {user})"),
        _ => format!("uid {uid}"),
    }
}

fn by(who: &str) -> By<'_> {
    By { who, address: "" }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_definition_holds() {
        super::command().debug_assert();
    }
}
