//! `interlock-collector users`.

use std::process::ExitCode;

use clap::Subcommand;

use super::{actor, output};
use crate::config::Config;
use crate::{serve, web};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List the accounts.
    List {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Set an account's groups, whose requests for approval it decides on, and who its owner is elsewhere. What is
    /// left out stays; of a provider's account groups and e-mail address come from there.
    Owner {
        /// The account.
        name: String,
        /// Groups as policies name them, with commas between; "" for none.
        #[arg(long, value_name = "GROUPS")]
        groups: Option<String>,
        /// Login names on hosts, beside the account's own name, likewise: by them nobody decides on their own requests.
        #[arg(long, value_name = "NAMES")]
        logins: Option<String>,
        /// E-mail address.
        #[arg(long)]
        email: Option<String>,
    },
    /// Give an account a new password, which is shown once. Its one-time codes, API tokens and signed-in
    /// browsers go. For an administrator who is locked out; where passwords are turned off, it counts for an hour.
    Reset {
        /// The account.
        name: String,
    },
}

pub(super) async fn run(config: &Config, command: Command) -> anyhow::Result<ExitCode> {
    let parts = serve::open_existing(config).await?;
    match command {
        Command::List { json } => {
            let users = parts.intake.store.users().await?;
            if json {
                output::print(&format!("{}\n", serde_json::to_string_pretty(&users)?));
                return Ok(ExitCode::SUCCESS);
            }
            let rows: Vec<Vec<String>> = users
                .into_iter()
                .map(|user| {
                    let state = if user.active { "active" } else { "disabled" };
                    vec![user.name, user.role, state.to_owned(), user.provider]
                })
                .collect();
            output::print(&output::table(&["NAME", "ROLE", "STATE", "PROVIDER"], &rows));
        }
        Command::Owner { name, groups, logins, email } => {
            let words = |text: String| -> Vec<String> {
                text.split([',', ' ']).filter(|word| !word.is_empty()).map(str::to_owned).collect()
            };
            let state = web::State::new(&parts.intake, web::Config::default())?;
            web::set_owner(&state, &name, &actor(), groups.map(words), logins.map(words), email).await?;
            let owner = parts.intake.store.owner_of(&name).await?;
            output::print(&format!("{}\n", serde_json::to_string_pretty(&owner)?));
        }
        Command::Reset { name } => {
            let state = web::State::new(&parts.intake, web::Config::default())?;
            let password = web::reset_account(&state, &name, &actor()).await?;
            output::print(&format!(
                "{name} signs in with this password, and is to change it:\n{}\n",
                *password
            ));
        }
    }
    Ok(ExitCode::SUCCESS)
}
