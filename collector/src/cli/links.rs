//! `interlock-collector links`.

use std::process::ExitCode;

use anyhow::bail;
use clap::Subcommand;
use interlock_recording::json::time;
use serde_json::json;

use super::{actor, by, output};
use crate::config::Config;
use crate::{administer, serve};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List which users of chats decide as which accounts.
    List {
        /// Of this account alone.
        #[arg(long)]
        account: Option<String>,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// End links of an account. Its owner can make new ones, and nobody else can.
    Remove {
        /// The account.
        account: String,
        /// This user of a chat alone, as `list` shows them.
        #[arg(long, required_unless_present = "all")]
        person: Option<String>,
        /// All its links.
        #[arg(long, conflicts_with = "person")]
        all: bool,
    },
}

pub(super) async fn run(config: &Config, command: Command) -> anyhow::Result<ExitCode> {
    let store = serve::open_existing(config).await?.intake.store.clone();
    let links = store.all_chat_links().await?;
    match command {
        Command::List { account, json } => {
            let wanted =
                links.into_iter().filter(|(of, _)| account.as_ref().is_none_or(|account| account == of));
            if json {
                let wanted: Vec<_> =
                    wanted.map(|(account, link)| json!({"account": account, "link": link})).collect();
                output::print(&format!("{}\n", serde_json::to_string_pretty(&wanted)?));
                return Ok(ExitCode::SUCCESS);
            }
            let rows: Vec<Vec<String>> = wanted
                .map(|(account, link)| {
                    let (since, until) =
                        (time(link.linked_ns.unsigned_abs()), time(link.expires_ns.unsigned_abs()));
                    let of = link.person;
                    vec![account, of.chat, of.team, of.app, of.person, of.name, since, until]
                })
                .collect();
            let head = ["ACCOUNT", "CHAT", "WORKSPACE", "APP", "PERSON", "CALLED", "SINCE", "UNTIL"];
            output::print(&output::table(&head, &rows));
        }
        Command::Remove { account, person, .. } => {
            let mut ended = 0;
            for (of, link) in links {
                if of == account && person.as_ref().is_none_or(|person| *person == link.person.person) {
                    administer::end_chat_link(&store, by(&actor()), &account, &link.person).await?;
                    ended += 1;
                }
            }
            if ended == 0 {
                bail!(
                    "account {account:?} has no such link: `interlock-collector links list` shows those that there are"
                );
            }
            output::print(&format!("{ended} ended\n"));
        }
    }
    Ok(ExitCode::SUCCESS)
}
