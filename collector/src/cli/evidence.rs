//! `interlock-collector evidence`.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use interlock_recording::hex;

use super::{actor, output};
use crate::config::Config;
use crate::{evidence, serve};

#[derive(Debug, Args)]
pub(super) struct Evidence {
    /// The sessions, by their ids.
    #[arg(required = true)]
    sessions: Vec<String>,
    /// Why it is made; it stands in the ledger and in the bundle.
    #[arg(long)]
    reason: String,
    /// The file to write. One that is there is not overwritten.
    #[arg(long, short, value_name = "FILE")]
    output: PathBuf,
}

pub(super) async fn run(config: &Config, arguments: &Evidence) -> anyhow::Result<ExitCode> {
    let parts = serve::open_existing(config).await?;
    let path = &arguments.output;
    // It appears under its name when it is whole.
    let mut partial = path.clone().into_os_string();
    partial.push(".part");
    let partial = PathBuf::from(partial);
    anyhow::ensure!(!path.exists(), "{} is there already: give another name", path.display());
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&partial)
        .map_err(|error| anyhow::anyhow!("cannot make {}: {error}", partial.display()))?;
    let output = io::BufWriter::with_capacity(128 << 10, file);
    let made = evidence::write(&parts.intake, &arguments.sessions, &actor(), &arguments.reason, output).await;
    let written = match made {
        Ok((output, written)) => {
            output.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
            written
        }
        Err(error) => {
            let _ = std::fs::remove_file(&partial);
            return Err(error.into());
        }
    };
    std::fs::rename(&partial, path)?;
    output::print(&format!(
        "{}: {} sessions with {} events, in {} segments\nmanifest {}\nVerify it with: interlock verify --collector-key ledger.vkey {}\n\
         where ledger.vkey is what `interlock-collector ledger key` prints, got by another way than the bundle\n",
        path.display(),
        arguments.sessions.len(),
        written.events,
        written.segments,
        hex(&written.manifest_sha256),
        path.display()
    ));
    Ok(ExitCode::SUCCESS)
}
