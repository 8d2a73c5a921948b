//! `interlock status`, `reload` and `detach`.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context;
use serde_json::json;

use super::{output, report};
use crate::config::Config;
use crate::control::{ControlError, Request, ask};
use crate::intercept::{InterceptError, Interceptor, pin_dir};

/// How often `--wait` asks.
const POLL: Duration = Duration::from_millis(50);

/// Arguments of `interlock status`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exits with 0 when an agent serves, else with 1. What a dead agent left attached is shown: \
    it refuses designated processes until an agent runs again or `interlock detach` takes it out."
)]
pub(super) struct StatusArgs {
    /// Wait up to this many seconds for the agent to serve.
    #[arg(long, value_name = "SECONDS")]
    wait: Option<u64>,
    /// Print all there is: every program, entry and counter.
    #[arg(long, short, conflicts_with = "json")]
    verbose: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Arguments of `interlock reload`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exits with 1 when the new policies are rejected; the earlier ones stay in force then."
)]
pub(super) struct ReloadArgs {
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Arguments of `interlock detach`.
#[derive(Debug, clap::Args)]
pub(super) struct DetachArgs {
    /// Detach although an agent runs. It goes on recording what it holds, but takes nothing new.
    #[arg(long)]
    force: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Tells how the agent is.
pub(super) fn status(args: &StatusArgs, config: &Config) -> anyhow::Result<ExitCode> {
    let until = Instant::now() + Duration::from_secs(args.wait.unwrap_or(0));
    let answer = loop {
        match ask(&config.run, &Request::Status) {
            Err(ControlError::NotRunning(_)) if Instant::now() < until => std::thread::sleep(POLL),
            answer => break answer,
        }
    };
    let (status, code) = match answer {
        Ok(status) => (status, ExitCode::SUCCESS),
        Err(ControlError::NotRunning(socket)) => {
            // Others cannot see what is pinned, and "nothing" would be a wrong answer.
            require_root("interlock status")?;
            let left = match Interceptor::status_of(&pin_dir(&config.run)) {
                Ok(left) => Some(left),
                Err(InterceptError::NotAttached(_)) => None,
                Err(error) => return Err(error.into()),
            };
            (json!({ "serving": false, "socket": socket, "interception": left }), ExitCode::FAILURE)
        }
        Err(error) => return Err(error.into()),
    };
    output::print(&if args.json {
        format!("{status}\n")
    } else if args.verbose {
        format!("{}\n{}", report::status(&status), report::tree(&status))
    } else {
        report::status(&status)
    })?;
    Ok(code)
}

/// Has the policies read again.
pub(super) fn reload(args: &ReloadArgs, config: &Config) -> anyhow::Result<ExitCode> {
    let answer = ask(&config.run, &Request::Reload)?;
    output::print(&if args.json { format!("{answer}\n") } else { report::reload(&answer) })?;
    Ok(ExitCode::SUCCESS)
}

/// Takes everything out of the kernel.
pub(super) fn detach(args: &DetachArgs, config: &Config) -> anyhow::Result<ExitCode> {
    require_root("interlock detach")?;
    if !args.force {
        match ask(&config.run, &Request::Status) {
            Err(ControlError::NotRunning(_)) => {}
            Ok(_) => anyhow::bail!(
                "an agent runs with the run directory {}; stop it first, or detach under it with --force",
                config.run.display()
            ),
            // Busy, hanging or of another version: it lives all the same.
            Err(error) => {
                return Err(error).context(
                    "an agent may be running, so nothing was detached; stop it first, or detach with --force",
                );
            }
        }
    }
    let pins = pin_dir(&config.run);
    let detached = match Interceptor::detach(&pins) {
        Ok(()) => true,
        Err(InterceptError::NotAttached(_)) => false,
        Err(error) => return Err(error.into()),
    };
    output::print(&if args.json {
        format!("{}\n", json!({ "detached": detached, "pins": pins }))
    } else if detached {
        format!("detached: {} is gone\n", pins.display())
    } else {
        format!("nothing was attached: there is no {}\n", pins.display())
    })?;
    Ok(ExitCode::SUCCESS)
}

fn require_root(command: &str) -> anyhow::Result<()> {
    let user = rustix::process::geteuid();
    anyhow::ensure!(user.is_root(), "`{command}` needs root; you are user id {}", user.as_raw());
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn an_agent_that_gives_no_answer_is_not_detached() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let config = Config { run: directory.path().to_owned(), ..Config::default() };
        let listener = UnixListener::bind(crate::control::socket_path(&config.run)).unwrap();
        let hangs_up = std::thread::spawn(move || drop(listener.accept()));
        let args = DetachArgs { force: false, json: false };
        let error = format!("{:#}", detach(&args, &config).unwrap_err());
        assert!(error.contains("nothing was detached"), "{error}");
        hangs_up.join().unwrap();
    }
}
