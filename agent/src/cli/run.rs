//! `interlock run`: a command as a designated process.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use anyhow::Context;

use super::output;
use crate::config::Config;
use crate::control::{Request, ask};

/// Arguments of `interlock run`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example: interlock run --as nightly-report -- /usr/local/bin/nightly-report --all\n\n\
    The command becomes a designated process of every policy that has `run: NAME` or `run: \"*\"` among its \
    `processes`, and so does whatever it starts. It is not run when there is no such policy, or no agent. \
    Exits with the command's own status; with 125 when it was not run (no agent, no such policy, the \
    configuration cannot be read), 126 when it was found but is not runnable, 127 when it was not found.\n\n\
    Clients that bring roots of their own are pointed to the system's roots and the host's authority: \
    SSL_CERT_FILE, REQUESTS_CA_BUNDLE, AWS_CA_BUNDLE and NODE_EXTRA_CA_CERTS are set where they are not. One \
    that is set keeps its roots: the command gets a copy of the file it names, with the authority added. So \
    does libpq, by PGSSLROOTCERT, where ~/.postgresql/root.crt is there."
)]
pub(super) struct Args {
    /// The name under which policies know this run.
    #[arg(long = "as", value_name = "NAME", default_value = "default")]
    name: String,
    /// Leave the variables that name files of trusted roots as they are.
    #[arg(long)]
    keep_environment: bool,
    /// The command and its arguments.
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "CMD")]
    command: Vec<OsString>,
}

/// Has this process designated, then becomes the command: signals, terminal and status are its own.
///
/// Returns only when it was not run. The codes are those of env(1), timeout(1) and shells, so that a
/// caller can tell them from the command's own.
pub(super) fn run(args: Args, load: &dyn Fn() -> anyhow::Result<Config>) -> ExitCode {
    match become_command(args, load) {
        Ok(code) => code,
        Err(error) => {
            output::complain(format_args!("{error:#}"));
            ExitCode::from(125)
        }
    }
}

fn become_command(args: Args, load: &dyn Fn() -> anyhow::Result<Config>) -> anyhow::Result<ExitCode> {
    let mut command = args.command.into_iter();
    let program = command.next().context("no command given")?;
    let config = load()
        .and_then(|config| {
            ask(&config.run, &Request::Run { name: args.name })?;
            Ok(config)
        })
        .with_context(|| format!("{} was not run", program.display()))?;
    let mut command = {
        let mut child = Command::new(&program);
        child.args(command);
        child
    };
    if !args.keep_environment {
        let (variables, troubles) = crate::trust::for_run(&config, &|name| std::env::var_os(name));
        command.envs(variables.into_iter().map(|variable| (variable.name, variable.value)));
        troubles.iter().for_each(|trouble| output::complain(format_args!("{trouble}")));
    }
    let error = command.exec();
    output::complain(format_args!("cannot run {}: {error}", program.display()));
    Ok(ExitCode::from(if error.kind() == std::io::ErrorKind::NotFound { 127 } else { 126 }))
}
