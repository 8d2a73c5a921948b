//! `interlock-collector agents`.

use std::process::ExitCode;

use clap::Subcommand;
use interlock_recording::json;

use super::{actor, by, output};
use crate::config::Config;
use crate::store::Agent;
use crate::{administer, policies, serve};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List the agents.
    List {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Give a host labels in the place of those that it has: what policies it goes by follows from them.
    Label {
        /// The host's id, its beginning, or its name.
        host: String,
        /// Labels such as env=prod,tier=db.
        #[arg(required_unless_present = "none")]
        labels: Option<String>,
        /// Take all labels from it.
        #[arg(long, conflicts_with = "labels")]
        none: bool,
        /// Why; it stands in the ledger.
        #[arg(long)]
        reason: String,
    },
    /// Let an agent ship no more. What it has shipped stays.
    Revoke {
        /// The host's id, its beginning, or its name.
        host: String,
        /// Why; it stands in the ledger.
        #[arg(long)]
        reason: String,
    },
    /// End the dispute about a host that contradicted itself, after it was looked into. What was taken stays; the
    /// host is to be enrolled anew with a new key and recording.
    Settle {
        /// The host's id, its beginning, or its name.
        host: String,
        /// What was found out; it stands in the ledger.
        #[arg(long)]
        reason: String,
        /// Let this recording go on where it was taken to, for a host whose own recording is in order again.
        #[arg(long)]
        resume: bool,
    },
}

/// The one agent that is meant.
pub(super) fn find<'a>(agents: &'a [Agent], host: &str) -> anyhow::Result<&'a Agent> {
    anyhow::ensure!(!host.is_empty(), "a host is needed: `interlock-collector agents list` lists them");
    let by_id = |agent: &&Agent| host.len() >= 6 && agent.host.starts_with(host);
    let mut found = agents.iter().filter(|agent| agent.name == host || by_id(agent));
    let first = found.next();
    let first = first.ok_or_else(|| {
        anyhow::anyhow!("there is no agent {host:?}; `interlock-collector agents list` lists them")
    })?;
    anyhow::ensure!(found.next().is_none(), "{host:?} stands for several agents: give more of the id");
    Ok(first)
}

fn state(agent: &Agent) -> &'static str {
    match (agent.active, &agent.dispute) {
        (false, _) if agent.closed => "closed",
        (false, _) => "revoked",
        (true, Some(_)) => "disputed",
        (true, None) => "active",
    }
}

pub(super) async fn run(config: &Config, command: Command) -> anyhow::Result<ExitCode> {
    let parts = serve::open_existing(config).await?;
    let store = &parts.intake.store;
    let agents = store.agents().await?;
    match command {
        Command::List { json: true } => {
            let agents: Vec<_> = agents
                .iter()
                .map(|agent| {
                    serde_json::json!({
                        "host": agent.host,
                        "name": agent.name,
                        "state": state(agent),
                        "dispute": agent.dispute,
                        "enrolled": json::time(agent.enrolled_ns.unsigned_abs()),
                        "last_seen": (agent.last_seen_ns > 0)
                            .then(|| json::time(agent.last_seen_ns.unsigned_abs())),
                        "certificate_expires": json::time(agent.certificate_expires_ns.unsigned_abs()),
                        "next_segment": agent.sealed.segment,
                        "sealed_events": agent.sealed.position.index,
                        "events": agent.live.index,
                        "version": agent.version,
                        "kernel": agent.kernel,
                        "policy_hash": agent.policy_hash,
                        "clock_ahead_ns": agent.clock_ahead_ns,
                        "spool_bytes": agent.spool_bytes,
                        "spool_limit": agent.spool_limit,
                        "spool_full": agent.spool_full,
                        "flows": agent.flows,
                    })
                })
                .collect();
            output::print(&format!("{}\n", serde_json::to_string_pretty(&agents)?));
            Ok(ExitCode::SUCCESS)
        }
        Command::List { json: false } => {
            let rows: Vec<Vec<String>> = agents
                .iter()
                .map(|agent| {
                    vec![
                        agent.host.chars().take(12).collect(),
                        agent.name.clone(),
                        state(agent).to_owned(),
                        agent.live.index.to_string(),
                        agent.sealed.segment.to_string(),
                        output::time(agent.last_seen_ns),
                        agent.version.clone(),
                    ]
                })
                .collect();
            let head = ["HOST", "NAME", "STATE", "EVENTS", "SEGMENTS", "LAST SEEN", "VERSION"];
            output::print(&output::table(&head, &rows));
            Ok(ExitCode::SUCCESS)
        }
        Command::Label { host, labels, none: _, reason } => {
            let agent = find(&agents, &host)?;
            let labels = policies::parse_given(&labels.unwrap_or_default())?;
            policies::set_labels(&parts.intake, by(&actor()), &agent.host, &labels, &reason).await?;
            output::print(&format!("{} ({}): {}\n", agent.name, agent.host, policies::written(&labels)));
            Ok(ExitCode::SUCCESS)
        }
        Command::Revoke { host, reason } => {
            let agent = find(&agents, &host)?;
            anyhow::ensure!(agent.active, "{} is revoked already", agent.name);
            administer::revoke_agent(&parts.intake, by(&actor()), &agent.host, &reason).await?;
            output::print(&format!("{} ({}) is revoked\n", agent.name, agent.host));
            Ok(ExitCode::SUCCESS)
        }
        Command::Settle { host, reason, resume } => {
            let agent = find(&agents, &host)?;
            anyhow::ensure!(
                !reason.trim().is_empty(),
                "a reason is needed: it stands in the ledger for whoever asks later"
            );
            anyhow::ensure!(
                agent.dispute.is_some(),
                "{} is not disputed: there is nothing to settle",
                agent.name
            );
            administer::settle_dispute(&parts.intake, by(&actor()), &agent.host, &reason, resume).await?;
            let (name, host) = (&agent.name, &agent.host);
            output::print(&if resume {
                format!(
                    "{name} ({host}) may ship again; what goes on from event {} is taken\n",
                    agent.live.index
                )
            } else {
                format!(
                    "the recording of {name} ({host}) has ended. On the host, with its agent stopped: move the agent's \
                     state directory away, start the agent, and enrol it with a new token\n"
                )
            });
            Ok(ExitCode::SUCCESS)
        }
    }
}
