//! `interlock config`: the agent's own configuration file.

use std::path::Path;
use std::process::ExitCode;

use clap::Subcommand;

use super::output;
use crate::config::Config;

/// Arguments of `interlock config`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Say what is wrong in the configuration that `--config` names (exit code 1), or what it comes to.
    Check,
    /// Print the JSON Schema of the configuration file.
    Schema,
}

/// Runs a subcommand on the configuration at `path`.
pub(super) fn run(args: &Args, path: &Path) -> anyhow::Result<ExitCode> {
    match args.command {
        Command::Check => {
            let config = Config::load(path)?;
            let missing = if path.exists() { "" } else { " (it is missing: the defaults hold)" };
            output::print(&format!(
                "{}{missing}: no errors\n  cgroup     {}\n  policies   {}\n  state      {}\n  run        {}\n",
                path.display(),
                config.cgroup.as_deref().unwrap_or(Path::new("as the mount table says")).display(),
                config.policies.display(),
                config.state.display(),
                config.run.display(),
            ))?;
        }
        Command::Schema => {
            let schema = schemars::schema_for!(Config);
            output::print(&format!("{}\n", serde_json::to_string_pretty(&schema)?))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
