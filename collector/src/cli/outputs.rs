//! `interlock-collector outputs`.

use std::process::ExitCode;

use clap::Subcommand;

use super::{actor, output};
use crate::config::Config;
use crate::outputs::{self, Configured};
use crate::serve;

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

pub(super) async fn run(config: &Config, command: Command) -> anyhow::Result<ExitCode> {
    let parts = serve::open_existing(config).await?;
    let store = &parts.intake.store;
    let configured: Vec<Configured> = Configured::all(config);
    match command {
        Command::List { json: true } => {
            for item in outputs::view(&configured, store.outputs().await?) {
                output::print(&format!("{}\n", serde_json::to_string(&item)?));
            }
        }
        Command::List { json: false } => {
            let rows: Vec<Vec<String>> = outputs::view(&configured, store.outputs().await?)
                .iter()
                .map(|view| {
                    let item = &view.fares;
                    vec![
                        item.name.clone(),
                        view.kind.to_owned(),
                        view.state.to_owned(),
                        item.sent.to_string(),
                        item.skipped.to_string(),
                        item.deleted.to_string(),
                        output::time(item.last_sent_ns.unwrap_or_default()),
                        item.waiting_since_ns.map_or_else(|| "nothing".to_owned(), output::time),
                        item.error.clone(),
                    ]
                })
                .collect();
            let head =
                ["NAME", "KIND", "STATE", "SENT", "SKIPPED", "GAPS", "LAST SENT", "WAITING SINCE", "ERROR"];
            output::print(&output::table(&head, &rows));
        }
        Command::Remove { name } => {
            anyhow::ensure!(
                !Configured::all(config).iter().any(|configured| configured.name() == name),
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
