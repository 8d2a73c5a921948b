//! `interlock-collector tokens`.

use std::process::ExitCode;
use std::time::Duration;

use clap::Subcommand;

use super::{actor, by, output};
use crate::config::Config;
use crate::store::now_ns;
use crate::{administer, policies, serve};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Make a token. It is shown once, with the command that uses it.
    Create {
        /// What it is for.
        #[arg(long, default_value = "")]
        label: String,
        /// A label, such as env=prod, that hosts get which are enrolled with it for the first time; may be repeated.
        #[arg(long = "host-label", value_name = "KEY=VALUE")]
        host_labels: Vec<String>,
        /// For how many hosts it counts.
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(i64).range(1..=1_000_000))]
        uses: i64,
        /// For how long, such as 30m, 24h or 7d.
        #[arg(long = "for", default_value = "1h", value_name = "TIME", value_parser = duration)]
        valid: Duration,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// List the tokens that there are.
    List {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Take a token back. Hosts that were enrolled with it stay.
    Revoke {
        /// Its id, as `list` shows it.
        id: String,
    },
}

/// A time such as 30m, 24h or 7d.
fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is no time such as 30m, 24h or 7d");
    let (number, unit) = text.split_at_checked(text.len().saturating_sub(1)).ok_or_else(wrong)?;
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 24 * 3600,
        _ => return Err(wrong()),
    };
    let seconds = number.checked_mul(seconds).filter(|seconds| (1..=366 * 24 * 3600).contains(seconds));
    seconds.map(Duration::from_secs).ok_or_else(|| "a token is valid for a second to a year".to_owned())
}

pub(super) async fn run(config: &Config, command: Command) -> anyhow::Result<ExitCode> {
    let parts = serve::open_existing(config).await?;
    let store = &parts.intake.store;
    match command {
        Command::Create { label, host_labels, uses, valid, json } => {
            let labels = policies::parse_given(&host_labels.join(","))?;
            let (token, expires_ns) =
                administer::make_enrolment_token(&parts.intake, by(&actor()), &label, uses, valid, &labels)
                    .await?;
            let url = serve::agents_url(config);
            if json {
                let value = serde_json::json!({
                    "token": token.to_string(), "url": url, "expires": output::time(expires_ns), "uses": uses,
                });
                output::print(&format!("{value}\n"));
            } else {
                output::print(&format!(
                    "{token}\n\nOn {}, within {}:\n  interlock enroll {url} --token-file -   (and paste the token)\n",
                    if uses == 1 { "the host".to_owned() } else { format!("up to {uses} hosts") },
                    output::time(expires_ns)
                ));
            }
            Ok(ExitCode::SUCCESS)
        }
        Command::List { json } => {
            let tokens = store.enrolment_tokens().await?;
            if json {
                output::print(&format!("{}\n", serde_json::to_string_pretty(&tokens)?));
                return Ok(ExitCode::SUCCESS);
            }
            let rows: Vec<Vec<String>> = tokens
                .into_iter()
                .map(|token| {
                    let left = if token.expires_ns < now_ns() { 0 } else { token.uses_left };
                    vec![
                        token.id,
                        token.label,
                        left.to_string(),
                        output::time(token.expires_ns),
                        token.created_by,
                    ]
                })
                .collect();
            output::print(&output::table(&["ID", "LABEL", "USES LEFT", "EXPIRES", "MADE BY"], &rows));
            Ok(ExitCode::SUCCESS)
        }
        Command::Revoke { id } => {
            let mut write = store.write().await?;
            let gone = write.revoke_enrolment_token(&id).await?;
            anyhow::ensure!(
                gone > 0,
                "there is no token {id:?}; `interlock-collector tokens list` lists them"
            );
            write.audit(&actor(), "enrolment_token.revoke", &id, "", "").await?;
            write.commit().await?;
            output::print(&format!("token {id} is revoked\n"));
            Ok(ExitCode::SUCCESS)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        assert_eq!(duration("30m"), Ok(Duration::from_secs(1800)));
        assert_eq!(duration("7d"), Ok(Duration::from_secs(7 * 24 * 3600)));
        for wrong in ["", "m", "0h", "5", "-1h", "1y", "999999999999h", "1µ"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }
}
