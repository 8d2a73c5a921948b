//! `interlock-collector config`.

use std::path::Path;
use std::process::ExitCode;

use clap::Subcommand;

use super::output;
use crate::config::Config;
use crate::serve;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Say what is wrong in the configuration that `--config` names (exit code 1), or what it comes to.
    Check,
    /// Print the JSON Schema of the configuration file.
    Schema,
}

/// Runs a subcommand on the configuration at `path`; `load` reads it.
pub(super) fn run(
    command: &Command,
    path: &Path,
    load: impl FnOnce() -> anyhow::Result<Config>,
) -> anyhow::Result<ExitCode> {
    match command {
        Command::Check => {
            let config = load()?;
            let missing = if path.exists() { "" } else { " (it is missing: the defaults hold)" };
            output::print(&format!(
                "{}{missing}: no errors\n  state      {}\n  agents     {} as {}\n  people     {}\n  retention  {}\n",
                path.display(),
                config.state.display(),
                config.agents.listen,
                serve::names(&config).join(", "),
                serve::web_url(&config, config.web.listen),
                match config.retention.len() {
                    0 => "all is kept for ever".to_owned(),
                    1 => "1 rule".to_owned(),
                    rules => format!("{rules} rules"),
                },
            ));
        }
        Command::Schema => output::print(&format!("{:#}\n", schemars::schema_for!(Config).to_value())),
    }
    Ok(ExitCode::SUCCESS)
}
