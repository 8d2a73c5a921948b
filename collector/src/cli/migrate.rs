//! `interlock-collector migrate`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::output;
use crate::config::Config;
use crate::migrate;

#[derive(Debug, Args)]
pub(super) struct Migrate {
    /// The configuration of the collectors to be, with `store`, `segments` and `keys`.
    #[arg(long, value_name = "FILE")]
    to: PathBuf,
}

pub(super) async fn run(config: &Config, arguments: &Migrate) -> anyhow::Result<ExitCode> {
    output::log();
    let to = Config::load(&arguments.to)?;
    let moved = migrate::run(config, &to, &mut |line| output::print(&format!("{line}\n"))).await?;
    output::print(&format!(
        "moved and checked: {} entries of the ledger, {} rows, {} segments, {} disputed files\n\
         start the collectors with {}; {} is as it was, and is not needed any more\n",
        moved.entries,
        moved.rows,
        moved.segments,
        moved.disputed,
        arguments.to.display(),
        config.state.display()
    ));
    Ok(ExitCode::SUCCESS)
}
