//! `interlock-collector migrate`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::{actor, output};
use crate::config::Config;
use crate::migrate;

#[derive(Debug, Args)]
pub(super) struct Migrate {
    /// The configuration of the collectors to be, with `store`, `segments` and `keys`.
    #[arg(long, value_name = "FILE", required_unless_present = "undo")]
    to: Option<PathBuf>,
    /// Have a collector that was moved serve here again. Only if no collector was ever started where it was moved
    /// to: otherwise there are two ledgers under one key.
    #[arg(long, conflicts_with = "to")]
    undo: bool,
}

pub(super) async fn run(config: &Config, arguments: &Migrate) -> anyhow::Result<ExitCode> {
    output::log()?;
    let Some(file) = &arguments.to else {
        let place = migrate::undo(config, &actor()).await?;
        output::print(&format!(
            "this collector serves again. What is in {place} must not: empty that database\n"
        ));
        return Ok(ExitCode::SUCCESS);
    };
    let to = Config::load(file)?;
    let moved = migrate::run(config, &to, &mut |line| output::print(&format!("{line}\n"))).await?;
    output::print(&format!(
        "moved and checked: {} entries of the ledger, {} rows, {} segments, {} disputed files\n\
         start the collectors with {}; what is in {} does not serve any more, and is not needed\n",
        moved.entries,
        moved.rows,
        moved.segments,
        moved.disputed,
        file.display(),
        config.state.display()
    ));
    Ok(ExitCode::SUCCESS)
}
