//! `interlock status`, `reload` and `detach`.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use serde_json::Value;

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
    match answer {
        Ok(status) => {
            print(&status, args.json)?;
            Ok(ExitCode::SUCCESS)
        }
        Err(ControlError::NotRunning(socket)) => {
            let left = match Interceptor::status_of(&pin_dir(&config.run)) {
                Ok(left) => Some(left),
                Err(InterceptError::NotAttached(_)) => None,
                Err(error) => return Err(error.into()),
            };
            let status = serde_json::json!({ "serving": false, "socket": socket, "interception": left });
            print(&status, args.json)?;
            Ok(ExitCode::FAILURE)
        }
        Err(error) => Err(error.into()),
    }
}

/// Has the policies read again.
pub(super) fn reload(config: &Config) -> anyhow::Result<ExitCode> {
    let answer = ask(&config.run, &Request::Reload)?;
    println!("policies {} are in force", answer["policies"].as_str().unwrap_or_default());
    Ok(ExitCode::SUCCESS)
}

/// Takes everything out of the kernel.
pub(super) fn detach(args: &DetachArgs, config: &Config) -> anyhow::Result<ExitCode> {
    if !args.force && ask(&config.run, &Request::Status).is_ok() {
        anyhow::bail!(
            "an agent runs with the run directory {}; stop it first, or detach under it with --force",
            config.run.display()
        );
    }
    match Interceptor::detach(&pin_dir(&config.run)) {
        Ok(()) => println!("detached"),
        Err(InterceptError::NotAttached(_)) => println!("nothing was attached"),
        Err(error) => return Err(error.into()),
    }
    Ok(ExitCode::SUCCESS)
}

fn print(status: &Value, json: bool) -> anyhow::Result<()> {
    if json {
        println!("{}", serde_json::to_string(status)?);
        return Ok(());
    }
    println!("{}", if status["serving"] == true { "serving" } else { "not serving" });
    print_tree(status, 1);
    Ok(())
}

/// Prints a JSON object as an indented list of names and values.
fn print_tree(value: &Value, depth: usize) {
    let Value::Object(fields) = value else { return };
    for (name, value) in fields {
        let name = name.replace('_', " ");
        let indent = "  ".repeat(depth);
        match value {
            Value::Null => {}
            Value::Bool(_) if depth == 1 => {}
            Value::Object(_) => {
                println!("{indent}{name}:");
                print_tree(value, depth + 1);
            }
            Value::Array(items) if items.iter().any(Value::is_object) => {
                for item in items {
                    println!("{indent}{name}:");
                    print_tree(item, depth + 1);
                }
            }
            Value::Array(items) => {
                let items: Vec<_> = items.iter().map(plain).collect();
                println!("{indent}{name}: {}", items.join(", "));
            }
            _ => println!("{indent}{name}: {}", plain(value)),
        }
    }
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
