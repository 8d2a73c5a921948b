//! `interlock-collector config`.

use std::path::Path;
use std::process::ExitCode;

use clap::Subcommand;

use super::output;
use crate::approvals::ask;
use crate::config::Config;
use crate::sign_in::Providers;
use crate::storage::{Database, Segments};
use crate::{keys, outputs, serve, web};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Say what is wrong in the configuration that `--config` names, and with the files that stand in it (exit code 1), or
    /// what it comes to. Run it as the collector's user, who must be able to read them.
    Check,
    /// Print the JSON Schema of the configuration file.
    Schema,
}

/// Opens the files that the configuration names; what is wrong with each.
fn check_files(config: &Config) -> Vec<anyhow::Error> {
    let mut wrong = Vec::new();
    wrong.extend(config.web.tls.as_ref().and_then(|files| web::check_files(files).err()));
    wrong.extend(Providers::check_files(&config.sign_in, config.web.url.as_deref().unwrap_or_default()));
    wrong.extend(config.store.iter().flat_map(Database::check_files));
    wrong.extend(config.segments.iter().flat_map(Segments::check_files));
    wrong.extend(config.keys.iter().flat_map(|directory| keys::check_files(directory)));
    for output in &config.outputs {
        let error = outputs::check_files(output).err();
        wrong.extend(error.map(|error| error.context(format!("outputs: {}", output.name))));
    }
    for ask in &config.approvals.ask {
        let error = ask::check_files(ask).err();
        wrong.extend(error.map(|error| error.context(format!("approvals: {}", ask.name()))));
    }
    if let Some(directory) = &config.checkpoints
        && !directory.is_dir()
    {
        wrong.push(anyhow::anyhow!("checkpoints: {} is no directory", directory.display()));
    }
    wrong
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
            let wrong = check_files(&config);
            if !wrong.is_empty() {
                for error in &wrong {
                    output::print(&format!("{}: {error:#}\n", path.display()));
                }
                return Ok(ExitCode::FAILURE);
            }
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
