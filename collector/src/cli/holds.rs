//! `interlock-collector holds`.

use std::process::ExitCode;

use clap::Subcommand;

use super::{actor, agents, by, output};
use crate::config::Config;
use crate::store::NewHold;
use crate::{administer, serve};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Set a legal hold: what it covers is not deleted, whatever the rules of retention say.
    Set {
        /// What it is called.
        label: String,
        /// Why; it stands in the ledger.
        #[arg(long)]
        reason: String,
        /// The host that it covers, by id or name; without it, all.
        #[arg(long)]
        host: Option<String>,
        /// From this time on (RFC 3339).
        #[arg(long, value_name = "TIME")]
        from: Option<jiff::Timestamp>,
        /// Up to this time.
        #[arg(long, value_name = "TIME")]
        until: Option<jiff::Timestamp>,
    },
    /// List the legal holds.
    List {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Release a legal hold.
    Release {
        /// Its number, as `list` shows it.
        id: i64,
        /// Why; it stands in the ledger.
        #[arg(long)]
        reason: String,
    },
}

fn ns(time: Option<jiff::Timestamp>, otherwise: i64) -> i64 {
    time.map_or(otherwise, |time| i64::try_from(time.as_nanosecond()).unwrap_or(otherwise))
}

pub(super) async fn run(config: &Config, command: Command) -> anyhow::Result<ExitCode> {
    let parts = serve::open_existing(config).await?;
    let store = &parts.intake.store;
    match command {
        Command::Set { label, reason, host, from, until } => {
            let empty = label.trim().is_empty() || reason.trim().is_empty();
            anyhow::ensure!(!empty, "say what the hold is called, and why it is set");
            let all = store.agents().await?;
            let host = match &host {
                Some(host) => agents::find(&all, host)?.host.clone(),
                None => String::new(),
            };
            let (from_ns, until_ns) = (ns(from, 0), ns(until, i64::MAX));
            anyhow::ensure!(
                from_ns <= until_ns,
                "--from is later than --until: the hold would cover nothing"
            );
            let hold = NewHold { label: &label, host: &host, from_ns, until_ns, by: &actor() };
            let id = administer::set_hold(&parts.intake, by(&actor()), &hold, &reason).await?;
            output::print(&format!("hold {id}: {label}\n"));
        }
        Command::List { json } => {
            let holds = store.holds().await?;
            if json {
                output::print(&format!("{}\n", serde_json::to_string_pretty(&holds)?));
                return Ok(ExitCode::SUCCESS);
            }
            let rows: Vec<Vec<String>> = holds
                .into_iter()
                .map(|hold| {
                    vec![
                        hold.id.to_string(),
                        hold.label,
                        if hold.host.is_empty() {
                            "any".into()
                        } else {
                            hold.host.chars().take(12).collect()
                        },
                        if hold.from_ns == 0 { "the beginning".into() } else { output::time(hold.from_ns) },
                        if hold.until_ns == i64::MAX { "open".into() } else { output::time(hold.until_ns) },
                        hold.created_by,
                        hold.released_ns.map_or_else(|| "holds".into(), output::time),
                    ]
                })
                .collect();
            let head = ["ID", "LABEL", "HOST", "FROM", "UNTIL", "SET BY", "RELEASED"];
            output::print(&output::table(&head, &rows));
        }
        Command::Release { id, reason } => {
            let label = administer::release_hold(&parts.intake, by(&actor()), id, &reason).await?;
            output::print(&format!("hold {id} ({label}) is released\n"));
        }
    }
    Ok(ExitCode::SUCCESS)
}
