//! `interlock-collector approvals`: what waits for approval, and what was decided. Decisions are made by accounts, in
//! the inbox and by the API.

use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::queries::{Paging, cut, line, open, page, params, refused};
use super::{actor, output};
use crate::config::Config;
use crate::web::approvals::whole;
use crate::web::params::APPROVALS;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List what waits; with `--status` what was decided.
    List(Box<List>),
    /// Show one with all that is known of it, as JSON. The audit trail says who looked.
    Show {
        /// Its id, or the name that its host gave it.
        id: String,
    },
}

#[derive(Debug, Args)]
pub(super) struct List {
    /// pending, decided, unreviewed, or one outcome: approved, broken_glass, denied, expired, withdrawn; any for all.
    #[arg(long, default_value = "pending")]
    status: String,
    /// Part of the text, or the name that the host gave it.
    #[arg(long)]
    text: Option<String>,
    /// The host's name, or 8 or more digits of its id.
    #[arg(long)]
    host: Option<String>,
    /// The host user, or the login user.
    #[arg(long)]
    user: Option<String>,
    /// Held by this rule.
    #[arg(long)]
    rule: Option<String>,
    /// Asked then or later: RFC 3339, or how long ago (15m, 1h, 7d).
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Asked before then.
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    #[command(flatten)]
    paging: Paging,
}

pub(super) async fn run(config: &Config, command: Command) -> anyhow::Result<ExitCode> {
    let intake = open(config).await?;
    let store = &intake.store;
    let list = match command {
        Command::List(list) => list,
        Command::Show { id } => {
            let mut found = store.approval(&id).await?;
            if found.is_none()
                && let [only] = store.approvals_named(&id).await?.as_slice()
            {
                found = store.approval(only).await?;
            }
            let one = found.ok_or_else(|| {
                anyhow::anyhow!(
                    "there is no request {id}: `interlock-collector approvals list --status any` shows them"
                )
            })?;
            let mut write = store.write().await?;
            write.audit(&actor(), "approval.view", &one.item.id, "", "").await?;
            write.commit().await?;
            let votes = store.approval_votes(&one.item.id).await?;
            let alike = store.approvals_alike(&one, None).await?;
            line(&whole(&one, None, &votes, &alike).map_err(refused)?)?;
            return Ok(ExitCode::SUCCESS);
        }
    };
    let state = Some(list.status).filter(|status| status != "any");
    let params = params(&[
        ("state", &state),
        ("text", &list.text),
        ("host", &list.host),
        ("user", &list.user),
        ("rule", &list.rule),
        ("since", &list.since),
        ("until", &list.until),
    ]);
    params.only(&[APPROVALS]).map_err(refused)?;
    let filter = params.approvals(store, None).await.map_err(refused)?;
    let cursor = super::queries::cursor(&list.paging)?;
    let found = store.approvals(&filter, cursor, usize::from(list.paging.limit)).await?;
    let head = ["ID", "STATE", "ASKED", "HOST", "USER", "TO", "DATABASE", "NEEDS", "TEXT"];
    page(&found, list.paging.json, &head, |item| {
        vec![
            item.id.clone(),
            item.state.clone(),
            output::time(item.asked_ns),
            cut(&item.host_name, 30),
            cut(&item.user, 20),
            cut(&item.destination, 40),
            cut(&item.database, 20),
            cut(&item.needs, 40),
            cut(&item.text, 60),
        ]
    })
}
