//! Outputs as people and programs see them: what is configured, and how each fares.

use serde::Serialize;

use super::config::{Output, server};
use crate::approvals::ask::Ask;
use crate::config::Config;
use crate::store::OutputState;

/// What is shown of an output's configuration.
#[derive(Debug, Clone)]
pub struct Configured {
    name: String,
    kind: &'static str,
    to: String,
}

/// An output, and how it fares.
#[derive(Debug, Clone, Serialize)]
pub struct OutputView {
    /// How it fares, in a word or two: `well`, `failing`, `refused` or `not configured`.
    pub state: &'static str,
    /// webhook, syslog, otlp, kafka, or how approvers are asked; empty when it is not configured.
    pub kind: &'static str,
    /// Where to, without what can be secret; empty when it is not configured.
    pub to: String,
    /// Its place, and what stands in its way.
    #[serde(flatten)]
    pub fares: OutputState,
}

/// Scheme, host and port alone: secrets can stand in what follows.
fn bare(url: &str) -> String {
    let Some(server) = server(url) else { return String::new() };
    let host = if server.host.contains(':') { format!("[{}]", server.host) } else { server.host };
    let port = server.port.map(|port| format!(":{port}")).unwrap_or_default();
    format!("{}://{host}{port}", server.scheme)
}

impl Configured {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What is shown of a way to ask approvers.
    pub fn asking(ask: &Ask) -> Self {
        let to = match ask {
            Ask::Slack(slack) => format!("channel {}", slack.channel),
            Ask::Teams(_) => String::new(),
            Ask::Email(email) => email.to.join(", "),
            Ask::Webhook(webhook) => bare(&webhook.url),
        };
        let kind = match ask.kind() {
            "slack" => "asks in Slack",
            "teams" => "asks in Teams",
            "email" => "asks by mail",
            _ => "asks by webhook",
        };
        Self { name: ask.place(), kind, to }
    }

    /// All outputs of a configuration, and all ways to ask.
    pub fn all(config: &Config) -> Vec<Self> {
        let asks = config.approvals.ask.iter().map(Self::asking);
        config.outputs.iter().map(Self::of).chain(asks).collect()
    }

    /// What is shown of `output`.
    pub fn of(output: &Output) -> Self {
        let (kind, to) = if let Some(webhook) = &output.webhook {
            ("webhook", bare(&webhook.url))
        } else if let Some(syslog) = &output.syslog {
            ("syslog", bare(&syslog.server))
        } else if let Some(otlp) = &output.otlp {
            ("otlp", bare(&otlp.url))
        } else if let Some(kafka) = &output.kafka {
            let servers: Vec<String> = kafka.servers.iter().map(|server| bare(server)).collect();
            ("kafka", format!("{} at {}", kafka.topic, servers.join(", ")))
        } else {
            ("", String::new())
        };
        Self { name: output.name.clone(), kind, to }
    }
}

/// Every output that there is or was, with what is configured of it.
pub fn view(configured: &[Configured], fares: Vec<OutputState>) -> Vec<OutputView> {
    let shown = |fares: OutputState| {
        let output = configured.iter().find(|output| output.name == fares.name);
        let state = if output.is_none() {
            "not configured"
        } else if fares.refused_since_ns.is_some() {
            "refused"
        } else if fares.failing_since_ns.is_some() {
            "failing"
        } else {
            "well"
        };
        let (kind, to) = output.map(|output| (output.kind, output.to.clone())).unwrap_or_default();
        OutputView { state, kind, to, fares }
    };
    fares.into_iter().map(shown).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_secret_of_an_address_is_shown() {
        for (text, to) in [
            ("{name: a, webhook: {url: 'https://h.example/s3cret?s3cret', secret: /s}}", "https://h.example"),
            ("{name: a, otlp: {url: 'https://[::1]:4318/s3cret'}}", "https://[::1]:4318"),
            (
                "{name: a, kafka: {servers: ['tls://k:1', 'tls://l:2'], topic: t}}",
                "t at tls://k:1, tls://l:2",
            ),
        ] {
            let output: Output = serde_saphyr::from_str(text).unwrap();
            assert_eq!(Configured::of(&output).to, to);
        }
    }
}
