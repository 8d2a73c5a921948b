//! `interlock-collector ledger` and `verify`.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use interlock_recording::hex;
use interlock_recording::ledger::proto::entry::Body;
use interlock_recording::ledger::{self, open_checkpoint};

use super::output;
use crate::config::Config;
use crate::keeper::Keeper;
use crate::{audit, serve};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Print the newest signed checkpoint: keep a copy elsewhere, and what the ledger holds cannot be taken
    /// back unseen.
    Checkpoint,
    /// Print the key that checkpoints are verified with.
    Key,
    /// List entries.
    List {
        /// From this entry on.
        #[arg(long, default_value_t = 0)]
        from: u64,
        /// At most so many.
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
        limit: u32,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Check everything that is kept against the ledger, and the ledger against its checkpoints.
    Verify(Verify),
}

#[derive(Debug, Args)]
pub(super) struct Verify {
    /// A checkpoint that was kept elsewhere: the ledger must go on from it.
    #[arg(long, value_name = "FILE")]
    checkpoint: Option<std::path::PathBuf>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(config: &Config, command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Verify(arguments) => return verify(config, &arguments).await,
        Command::Checkpoint => {
            let parts = serve::open_existing(config).await?;
            let note = parts.intake.store.checkpoint(None).await?;
            let note = note.ok_or_else(|| anyhow::anyhow!("no checkpoint has been signed yet"))?;
            output::print(&note.to_string());
        }
        Command::Key => {
            let parts = serve::open_existing(config).await?;
            output::print(&format!("{}\n", parts.intake.signer.public()));
        }
        Command::List { from, limit, json } => {
            let parts = serve::open_existing(config).await?;
            let entries = parts.intake.store.ledger_entries(from, limit).await?;
            if json {
                for entry in &entries {
                    let value = serde_json::json!({
                        "number": entry.number,
                        "time": output::time(entry.at_ns),
                        "kind": entry.kind,
                        "host": entry.host,
                        "detail": detail(&entry.bytes),
                        "entry": hex(&entry.bytes),
                    });
                    output::print(&format!("{value}\n"));
                }
            } else {
                let rows: Vec<Vec<String>> = entries
                    .iter()
                    .map(|entry| {
                        let host = entry.host.chars().take(12).collect();
                        let time = output::time(entry.at_ns);
                        vec![entry.number.to_string(), time, entry.kind.clone(), host, detail(&entry.bytes)]
                    })
                    .collect();
                output::print(&output::table(&["NUMBER", "TIME", "KIND", "HOST", "DETAIL"], &rows));
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// What an entry says besides its kind and host.
fn detail(bytes: &[u8]) -> String {
    let entry = match ledger::decode(bytes) {
        Ok(entry) => entry,
        Err(error) => return format!("not readable: {error}"),
    };
    match entry.body {
        None => "of a kind that this version does not know".to_owned(),
        Some(Body::LedgerStarted(started)) => {
            format!("{}, key {}", started.origin, hex(&started.public_key))
        }
        Some(Body::HostEnrolled(host)) => format!("{}, by {}", host.name, host.who),
        Some(Body::HostRevoked(host)) => format!("{}, by {}", host.reason, host.who),
        Some(Body::DisputeSettled(settled)) => {
            let what = if settled.resumed { "the recording goes on" } else { "the recording has ended" };
            format!("{what}, by {}: {}", settled.who, settled.reason)
        }
        Some(Body::SegmentTaken(taken)) => format!(
            "segment {}: events {} to {}, {} bytes, SHA-256 {}",
            taken.segment,
            taken.first_index,
            (taken.first_index + taken.events).saturating_sub(1),
            taken.file_bytes,
            hex(&taken.file_sha256)
        ),
        Some(Body::HeadTaken(head)) => format!("{} events, hash {}", head.events, hex(&head.hash)),
        Some(Body::Finding(finding)) => format!("{}: {}", finding.kind, finding.detail),
        Some(Body::HoldSet(hold)) => {
            format!("{} on {}, by {}: {}", hold.hold, hold.scope, hold.who, hold.reason)
        }
        Some(Body::HoldReleased(hold)) => format!("{}, by {}: {}", hold.hold, hold.who, hold.reason),
        Some(Body::Tombstone(gone)) if gone.rule.is_empty() => {
            format!("segment {}, by {}: {}", gone.segment, gone.who, gone.reason)
        }
        Some(Body::Tombstone(gone)) => {
            format!("segment {}, by rule {}: {}", gone.segment, gone.rule, gone.reason)
        }
        Some(Body::BundleMade(bundle)) => {
            let sessions: Vec<_> = bundle.sessions.iter().map(|session| hex(session)).collect();
            format!("by {}: {}; sessions {}", bundle.who, bundle.reason, sessions.join(" "))
        }
        Some(Body::PolicyVersionAdded(added)) => format!(
            "{}@{}, by {}: {}; SHA-256 {}",
            added.set,
            added.version,
            added.who,
            added.reason,
            hex(&added.content_sha256)
        ),
        Some(Body::PolicyAssigned(assigned)) => format!(
            "{} for hosts {:?}: {}, by {}: {}",
            assigned.change,
            assigned.selector,
            policies(&assigned.enforce, &assigned.observe),
            assigned.who,
            assigned.reason
        ),
        Some(Body::ApprovalGiven(given)) => format!(
            "request {} {} by {}{}",
            given.request,
            if given.approved { "approved" } else { "refused" },
            given.who,
            if given.reason.is_empty() { String::new() } else { format!(": {}", given.reason) }
        ),
        Some(Body::GlassReviewed(review)) => {
            format!("request {}, reviewed by {}: {}", review.request, review.who, review.reason)
        }
        Some(Body::PolicyOrdered(order)) => {
            format!("order {}: {}", order.issue, policies(&order.enforce, &order.observe))
        }
        Some(Body::HostLabelled(labelled)) => {
            format!("{:?}, by {}: {}", labelled.labels, labelled.who, labelled.reason)
        }
    }
}

/// What a host goes by.
fn policies(enforce: &str, observe: &str) -> String {
    match (enforce, observe) {
        ("", "") => "nothing".to_owned(),
        (enforce, "") => format!("enforce {enforce}"),
        ("", observe) => format!("observe {observe}"),
        (enforce, observe) => format!("enforce {enforce}, observe {observe}"),
    }
}

pub(super) async fn verify(config: &Config, arguments: &Verify) -> anyhow::Result<ExitCode> {
    let parts = match serve::open_existing(config).await {
        Ok(parts) => parts,
        Err(error) => {
            output::complain(format_args!("it cannot be verified: {error:#}"));
            return Ok(ExitCode::from(3));
        }
    };
    let earlier = arguments.checkpoint.as_deref().map(std::fs::read).transpose();
    let earlier = match earlier {
        Ok(earlier) => earlier,
        Err(error) => {
            output::complain(format_args!("the checkpoint cannot be read: {error}"));
            return Ok(ExitCode::from(3));
        }
    };
    if let Some(content) = &earlier
        && let Err(error) = open_checkpoint(content, parts.intake.signer.public())
    {
        output::complain(format_args!("what was given is no checkpoint of this ledger: {error}"));
        return Ok(ExitCode::from(3));
    }
    let report = match audit::verify(&parts.intake, earlier.as_deref()).await {
        Ok(mut report) => {
            // Against what was kept beside the database as well.
            let keeper = Keeper::new(&config.state, config.checkpoints.clone());
            if let Err(error) = keeper.check(&parts.intake).await {
                report.problem(format!("{error:#}"));
                report.ok = false;
            }
            report
        }
        Err(error) => {
            output::complain(format_args!("it cannot be verified: {error}"));
            return Ok(ExitCode::from(3));
        }
    };
    if arguments.json {
        output::print(&format!("{}\n", serde_json::to_string_pretty(&report)?));
    } else {
        output::print(&format!(
            "{} entries, {} segments of {} hosts, {} events, {} deleted by tombstone\n",
            report.entries, report.segments, report.hosts, report.events, report.deleted
        ));
        for problem in &report.problems {
            output::print(&format!("{problem}\n"));
        }
        output::print(if report.ok { "whole\n" } else { "NOT WHOLE\n" });
    }
    Ok(if report.ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
