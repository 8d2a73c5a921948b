//! `interlock-collector outputs`.

use std::process::ExitCode;

use clap::Subcommand;
use serde_json::Value;

use super::{actor, output};
use crate::config::Config;
use crate::serve;
use crate::store::OutputState;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List outputs: how far each has come, and what stands in its way.
    List {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Forget an output that is not configured any more, with what it was not told yet.
    Remove {
        /// Its name.
        name: String,
    },
}

fn state(config: &Config, output: &OutputState) -> &'static str {
    if !config.outputs.iter().any(|configured| configured.name == output.name) {
        "not configured"
    } else if output.refused_since_ns.is_some() {
        "refused"
    } else if output.failing_since_ns.is_some() {
        "failing"
    } else {
        "well"
    }
}

pub(super) async fn run(config: &Config, command: Command) -> anyhow::Result<ExitCode> {
    let parts = serve::open_existing(config).await?;
    let store = &parts.intake.store;
    match command {
        Command::List { json: true } => {
            for item in store.outputs().await? {
                let state = state(config, &item);
                let mut item = serde_json::to_value(item)?;
                if let Value::Object(fields) = &mut item {
                    fields.insert("state".into(), state.into());
                }
                output::print(&format!("{item}\n"));
            }
        }
        Command::List { json: false } => {
            let rows: Vec<Vec<String>> = store
                .outputs()
                .await?
                .iter()
                .map(|item| {
                    vec![
                        item.name.clone(),
                        state(config, item).to_owned(),
                        item.sent.to_string(),
                        item.skipped.to_string(),
                        item.deleted.to_string(),
                        output::time(item.last_sent_ns.unwrap_or_default()),
                        item.waiting_since_ns.map_or_else(|| "nothing".to_owned(), output::time),
                        item.error.clone(),
                    ]
                })
                .collect();
            let head = ["NAME", "STATE", "SENT", "SKIPPED", "GAPS", "LAST SENT", "WAITING SINCE", "ERROR"];
            output::print(&output::table(&head, &rows));
        }
        Command::Remove { name } => {
            anyhow::ensure!(
                !config.outputs.iter().any(|configured| configured.name == name),
                "{name} is configured: take it out of `outputs:` first, and start the collector anew"
            );
            let mut write = store.write().await?;
            anyhow::ensure!(
                write.remove_output(&name).await?,
                "there is no output {name}: `interlock-collector outputs list` shows those that there are"
            );
            write.audit(&actor(), "output.remove", &name, "", "").await?;
            write.commit().await?;
            output::print(&format!("{name} is forgotten\n"));
        }
    }
    Ok(ExitCode::SUCCESS)
}
