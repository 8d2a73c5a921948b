//! `interlock enroll`.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use interlock_recording::HostKey;
use interlock_shipping::Token;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::status::shown_time;
use super::{Address, Store, enrol};
use crate::cli::output;
use crate::cli::report;
use crate::config::Config;
use crate::control::{ControlError, Request, ask};
use crate::record::{KEYS, private_directory};

/// A token is shorter by far.
const LONGEST_TOKEN: u64 = 4096;

/// Arguments of `interlock enroll`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "`interlock-collector tokens create` prints a token. Give it by --token-file or INTERLOCK_TOKEN \
    rather than by --token: other users see the arguments of running commands. The agent may run or not; one that \
    runs begins to ship within seconds."
)]
pub(crate) struct Args {
    /// The collector, such as https://collector.example.com:7443.
    #[arg(value_name = "URL", required_unless_present_any = ["status", "leave"])]
    url: Option<Address>,
    /// The enrolment token.
    #[arg(long, value_name = "TOKEN", env = "INTERLOCK_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// A file that holds the token; `-` for standard input. It goes before --token and INTERLOCK_TOKEN.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Tell which collector this host is enrolled with, and how far the recording is shipped.
    #[arg(long, conflicts_with_all = ["url", "leave", "token_file"])]
    status: bool,
    /// Ship no more, and forget the collector. Recordings stay here from then on.
    #[arg(long, conflicts_with_all = ["url", "token_file"])]
    leave: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Enrols, leaves, or tells how it is.
pub(crate) fn run(args: Args, config: &Config) -> anyhow::Result<ExitCode> {
    let store = Store::new(&config.state);
    if args.status {
        return status(&store, config, args.json);
    }
    // Keys pass through this process.
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)
        .context("cannot turn core dumps off")?;
    if args.leave {
        return leave(&store, config, args.json);
    }
    let Some(address) = args.url else { anyhow::bail!("no collector is named") };
    let token = token(args.token, args.token_file.as_deref())?;
    let keys = config.state.join(KEYS);
    for path in [&config.state, &keys] {
        private_directory(path)?;
    }
    let host_key = HostKey::load_or_create(&keys)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let enrolment = runtime.block_on(enrol::enrol(address, &token, &host_key));
    enrol::forget(token);
    let enrolment = enrolment.context("this host was not enrolled")?;
    store.save(&enrolment, None).context("the enrolment was granted, but cannot be kept")?;
    let running = ask(&config.run, &Request::Status).is_ok();
    let expires = enrolment.validity().map(|(_, until)| shown_time(until)).unwrap_or_default();
    let host = interlock_recording::hex(&host_key.public().fingerprint());
    output::print(&if args.json {
        let answer = json!({
            "enrolled": true,
            "url": enrolment.address.to_string(),
            "collector": enrolment.collector,
            "ledger_key": enrolment.ledger_key,
            "host": host,
            "certificate_expires": expires,
            "agent_running": running,
        });
        format!("{answer}\n")
    } else {
        let then =
            if running { "The agent begins to ship within seconds" } else { "The agent ships once it runs" };
        format!(
            "enrolled with the collector {} at {}\n  host         {host}\n  ledger key   {}\n  certificate  until \
             {expires}, renewed by itself\n{then}: `interlock enroll --status` tells how far it is.\n",
            enrolment.collector, enrolment.address, enrolment.ledger_key
        )
    })?;
    Ok(ExitCode::SUCCESS)
}

fn token(given: Option<String>, file: Option<&Path>) -> anyhow::Result<Token> {
    let text = match (file, given) {
        (Some(file), _) => {
            let mut text = Zeroizing::new(String::with_capacity(LONGEST_TOKEN as usize));
            let read = if file == Path::new("-") {
                std::io::stdin().lock().take(LONGEST_TOKEN).read_to_string(&mut text)
            } else {
                std::fs::File::open(file).and_then(|file| file.take(LONGEST_TOKEN).read_to_string(&mut text))
            };
            read.with_context(|| format!("cannot read the token from {}", file.display()))?;
            text
        }
        (None, Some(given)) => Zeroizing::new(given),
        (None, None) => anyhow::bail!(
            "a token is needed: give it by --token-file FILE (`-` for standard input) or in INTERLOCK_TOKEN. \
             `interlock-collector tokens create` prints one"
        ),
    };
    Ok(text.parse()?)
}

fn leave(store: &Store, config: &Config, json: bool) -> anyhow::Result<ExitCode> {
    let left = store.remove().context("cannot forget the enrolment")?;
    output::print(&if json {
        format!("{}\n", json!({ "left": left }))
    } else if left {
        let required = if config.ship.required {
            "\nThe configuration has `ship: {required: true}`: the agent will not start again until this host is \
             enrolled."
        } else {
            ""
        };
        format!(
            "this host ships no more. Its certificate still counts until it is revoked at the collector.{required}\n"
        )
    } else {
        "this host was not enrolled\n".to_owned()
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Exits with 0 when the host is enrolled and nothing is wrong.
fn status(store: &Store, config: &Config, json: bool) -> anyhow::Result<ExitCode> {
    let (shipping, running) = match ask(&config.run, &Request::Status) {
        Ok(status) => (status["shipping"].clone(), true),
        Err(ControlError::NotRunning(_)) => (at_rest(store)?, false),
        Err(error) => return Err(error.into()),
    };
    let well = shipping["enrolled"] == true && shipping["error"].is_null();
    output::print(&if json { format!("{shipping}\n") } else { told(&shipping, running) })?;
    Ok(if well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What is known without an agent.
fn at_rest(store: &Store) -> anyhow::Result<Value> {
    let Some(enrolment) = store.load()? else { return Ok(json!({ "enrolled": false })) };
    let mark = store.mark(&enrolment);
    Ok(json!({
        "enrolled": true,
        "url": enrolment.address.to_string(),
        "collector": enrolment.collector,
        "ledger_key": enrolment.ledger_key,
        "next_segment": mark.segment,
        "next_event": mark.event,
        "certificate_expires": enrolment.validity().map(|(_, until)| shown_time(until)),
    }))
}

fn told(shipping: &Value, running: bool) -> String {
    use std::fmt::Write as _;
    let text_of = |name: &str| shipping[name].as_str().unwrap_or("unknown").to_owned();
    if shipping["enrolled"] != true {
        return "not enrolled: recordings stay on this host\n".to_owned();
    }
    let mut text = String::new();
    if let Some(error) = shipping["error"].as_str() {
        let _ = writeln!(text, "NOT SHIPPING since {}: {error}", text_of("error_since"));
    }
    let _ = writeln!(text, "enrolled with the collector {} at {}", text_of("collector"), text_of("url"));
    if running {
        let _ = writeln!(text, "  shipping     {}", report::shipping(shipping));
    } else {
        let _ = writeln!(text, "  shipping     no agent runs");
    }
    let _ = writeln!(
        text,
        "  taken        segments before {} and events before {}",
        shipping["next_segment"], shipping["next_event"]
    );
    let _ = writeln!(text, "  certificate  until {}, renewed by itself", text_of("certificate_expires"));
    let _ = writeln!(text, "  ledger key   {}", text_of("ledger_key"));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_begins_with_what_is_wrong() {
        assert!(told(&json!({ "enrolled": false }), true).starts_with("not enrolled"));
        let mut shipping = json!({
            "enrolled": true, "url": "https://c:1", "collector": "c", "ledger_key": "c+1+2", "next_segment": 3,
            "next_event": 40, "certificate_expires": "2030-01-01T00:00:00Z", "connected_since": "x",
            "lag": {"events": 0, "bytes": 0, "seconds": 0}, "error": null,
        });
        let text = told(&shipping, true);
        assert!(text.starts_with("enrolled with the collector c at https://c:1"), "{text}");
        assert!(text.contains("all is there") && text.contains("segments before 3"), "{text}");
        shipping["error"] = "it broke".into();
        shipping["error_since"] = "2026".into();
        shipping["lag"] = json!({"events": 7, "bytes": 2048, "seconds": 9});
        let text = told(&shipping, true);
        assert!(text.starts_with("NOT SHIPPING since 2026: it broke"), "{text}");
        assert!(text.contains("7 events behind (2.0 KiB, 9 s)"), "{text}");
    }

    #[test]
    fn a_token_comes_from_a_file_or_by_value() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        let made = Token::new(&[1; 24], [2; 32]);
        std::fs::write(&path, format!("{made}\n")).unwrap();
        assert_eq!(token(None, Some(&path)).unwrap(), made);
        assert_eq!(token(Some(made.to_string()), None).unwrap(), made);
        assert!(token(None, None).unwrap_err().to_string().contains("--token-file"));
        std::fs::write(&path, "ilk1.half").unwrap();
        let error = token(None, Some(&path)).unwrap_err().to_string();
        assert!(error.contains("not a whole enrolment token") && !error.contains("half"), "{error}");
    }
}
