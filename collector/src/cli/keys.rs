//! `interlock-collector keys`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Subcommand;

use super::{actor, output};
use crate::config::Config;
use crate::{keys, serve};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Make the ledger's and the authority's keys in a directory, once: each collector gets a copy of it.
    Create {
        /// The directory.
        directory: PathBuf,
    },
    /// Have the authority that is configured take the place of the one before. Every agent must be enrolled anew.
    Adopt,
}

pub(super) async fn run(config: &Config, command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Create { directory } => {
            let name = config.name.as_deref();
            let name = name.ok_or_else(|| {
                anyhow::anyhow!("`name` is not set in the configuration: the keys are made for that name")
            })?;
            let public = keys::create(&directory, name)?;
            output::print(&format!("{public}\n"));
        }
        Command::Adopt => {
            let store = serve::open_store(config, false).await?;
            let adopted = keys::adopt(config, &store, &actor()).await?;
            output::print(&format!("the authority with SHA-256 {adopted} counts from now on\n"));
        }
    }
    Ok(ExitCode::SUCCESS)
}
