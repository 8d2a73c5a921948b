//! `interlock run`: a command as a designated process.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use anyhow::Context;

use crate::config::Config;
use crate::control::{Request, ask};

/// Arguments of `interlock run`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example: interlock run --as nightly-report -- /usr/local/bin/nightly-report --all\n\n\
    The command becomes a designated process of every policy that has `run: NAME` or `run: \"*\"` among its \
    `processes`, and so does whatever it starts. It is not run when there is no such policy, or no agent. \
    Exits with the command's own status."
)]
pub(super) struct Args {
    /// The name under which policies know this run.
    #[arg(long = "as", value_name = "NAME", default_value = "default")]
    name: String,
    /// The command and its arguments.
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "CMD")]
    command: Vec<OsString>,
}

/// Has this process designated, then becomes the command: signals, terminal and status are its own.
pub(super) fn run(args: Args, config: &Config) -> anyhow::Result<ExitCode> {
    let mut command = args.command.into_iter();
    let program = command.next().context("no command given")?;
    ask(&config.run, &Request::Run { name: args.name })
        .with_context(|| format!("{} was not run", program.display()))?;
    let error = Command::new(&program).args(command).exec();
    eprintln!("interlock: cannot run {}: {error}", program.display());
    // As shells do: 127 is "not found", 126 "found but not runnable".
    Ok(ExitCode::from(if error.kind() == std::io::ErrorKind::NotFound { 127 } else { 126 }))
}
