//! `outputs:` of the configuration.

use std::net::IpAddr;
use std::path::PathBuf;

use serde::Deserialize;

/// Another system that is told what the collector takes in.
#[derive(Debug, Clone, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Output {
    /// Its name: its place in what is sent is kept by it, so another name is another output.
    pub name: String,
    /// What it is told. By default `command`, `session`, `finding`, `hold`, `audit` and `approval`.
    #[serde(default = "default_kinds")]
    pub kinds: Vec<Kind>,
    /// Which of them. What is left out is not told.
    #[serde(default)]
    pub only: Only,
    /// After so many hours a message that the receiver refuses for what it is (not one that it cannot take
    /// at the moment) is skipped, with a finding. Without it, it is never skipped: nothing goes on until the
    /// receiver takes it.
    pub skip_refused_after_hours: Option<u32>,
    /// Send without TLS to another machine. Whoever is on the way can then read, alter and leave out what is
    /// sent.
    #[serde(default)]
    pub plaintext: bool,
    /// HTTP requests with JSON, signed as Standard Webhooks says.
    pub webhook: Option<Webhook>,
    /// Syslog messages (RFC 5424).
    pub syslog: Option<Syslog>,
    /// OpenTelemetry log records (OTLP over HTTP, protobuf).
    pub otlp: Option<Otlp>,
    /// Records in a topic of Kafka.
    pub kafka: Option<Kafka>,
}

/// What an output can be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A command, when it has been recorded, with the verdict on it.
    Command,
    /// A command, when it has ended, with how.
    Result,
    /// A session that began or ended.
    Session,
    /// An event of a host that no session is about, such as a policy that was loaded.
    HostEvent,
    /// A finding.
    Finding,
    /// A legal hold that was set or released.
    Hold,
    /// What was done in the collector.
    Audit,
    /// A request for approval that was made, approved by one of several, ended, or looked into afterwards.
    Approval,
}

/// Which messages. Each list that is given must hold one that fits.
#[derive(Debug, Clone, Default, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Only {
    /// Of commands and results: those with one of these verdicts (`allow`, `deny`, `hold`).
    pub verdict: Vec<String>,
    /// Of commands and results: those that a rule in observe mode would have given one of these verdicts.
    pub observed: Vec<String>,
    /// Of commands and results: those that one of these rules decided; of approvals: those that one of them holds.
    pub rules: Vec<String>,
    /// Of what hosts send: those of one of these hosts, by name or id.
    pub hosts: Vec<String>,
}

/// HTTP requests, signed.
#[derive(Debug, Clone, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Webhook {
    /// Where to. It is not shown anywhere: secrets can stand in its path.
    pub url: String,
    /// A file with the secret that requests are signed with, as `whsec_` and base64. Several lines are several
    /// secrets: requests are signed with each, so that a secret can be changed without a gap. Read again for each
    /// request.
    pub secret: PathBuf,
    /// Certificate authorities (PEM) in the place of the system's.
    pub ca: Option<PathBuf>,
    /// Messages in one request, at most (1 to 1000).
    #[serde(default = "default_batch")]
    pub batch: u16,
}

/// OpenTelemetry log records.
#[derive(Debug, Clone, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Otlp {
    /// The receiver's address, path and all, such as `https://otel.example:4318/v1/logs`.
    pub url: String,
    /// A file with headers, `Name: value` on each line, such as for a token. Read again for each request.
    pub headers: Option<PathBuf>,
    /// Certificate authorities (PEM) in the place of the system's.
    pub ca: Option<PathBuf>,
}

/// Syslog messages.
#[derive(Debug, Clone, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Syslog {
    /// `tls://HOST:PORT` (RFC 5425) or `tcp://HOST:PORT` (RFC 6587, octet counting).
    pub server: String,
    /// Certificate authorities (PEM) in the place of the system's.
    pub ca: Option<PathBuf>,
    /// The certificate (PEM) to show, and those between it and its authority.
    pub certificate: Option<PathBuf>,
    /// Its private key (PEM).
    pub key: Option<PathBuf>,
    /// The facility, 0 to 23; by default 13 (log audit).
    #[serde(default = "default_facility")]
    pub facility: u8,
    /// Bytes of one message, at most; what is longer is cut off and says so. At least 2048.
    #[serde(default = "default_message_bytes")]
    pub max_bytes: usize,
}

/// Records in a topic of Kafka, or of what speaks its protocol.
#[derive(Debug, Clone, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Kafka {
    /// Brokers to begin with, each `tls://HOST:PORT`, or each `tcp://HOST:PORT`; the others are told by them.
    pub servers: Vec<String>,
    /// The topic. It is never created.
    pub topic: String,
    /// Certificate authorities (PEM) in the place of the system's.
    pub ca: Option<PathBuf>,
    /// The certificate (PEM) to show, and those between it and its authority.
    pub certificate: Option<PathBuf>,
    /// Its private key (PEM).
    pub key: Option<PathBuf>,
    /// How to sign in to the brokers (SASL).
    pub sasl: Option<Sasl>,
    /// Bytes of one batch of a partition, at most (64 KiB to 64 MiB); what the topic's `max.message.bytes` allows. A
    /// message that is longer goes alone, and the broker says whether it takes it.
    #[serde(default = "default_kafka_bytes")]
    pub max_bytes: usize,
}

/// How to sign in to Kafka's brokers.
#[derive(Debug, Clone, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Sasl {
    /// How the password is shown to be known.
    pub mechanism: SaslMechanism,
    /// The user's name.
    pub user: String,
    /// A file with the password, on its first line. Read again for each connection.
    pub password: PathBuf,
}

/// A SASL mechanism.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum SaslMechanism {
    /// The password itself is sent (RFC 4616).
    Plain,
    /// SCRAM (RFC 5802, RFC 7677): the password is not sent, and the broker shows that it knows it.
    #[serde(rename = "scram-sha-256")]
    ScramSha256,
    /// The same with SHA-512.
    #[serde(rename = "scram-sha-512")]
    ScramSha512,
}

fn default_kinds() -> Vec<Kind> {
    vec![Kind::Command, Kind::Session, Kind::Finding, Kind::Hold, Kind::Audit, Kind::Approval]
}

fn default_batch() -> u16 {
    100
}

fn default_facility() -> u8 {
    13
}

fn default_kafka_bytes() -> usize {
    1_000_000
}

fn default_message_bytes() -> usize {
    8192
}

/// Scheme, host and port of a URL.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Server {
    pub(crate) scheme: String,
    pub(crate) host: String,
    pub(crate) port: Option<u16>,
}

/// Takes a URL apart; `None` when it is none. What is after the port is left out.
pub(crate) fn server(url: &str) -> Option<Server> {
    let (scheme, rest) = url.split_once("://")?;
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if authority.contains('@') || url.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return None;
    }
    let (host, port) = match authority.strip_prefix('[') {
        Some(v6) => {
            let (host, port) = v6.split_once(']')?;
            host.parse::<std::net::Ipv6Addr>().ok()?;
            match port.strip_prefix(':') {
                None if !port.is_empty() => return None,
                port => (host, port),
            }
        }
        None => match authority.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        },
    };
    let port = port.map(str::parse).transpose().ok()?;
    (!host.is_empty()).then(|| Server { scheme: scheme.to_owned(), host: host.to_owned(), port })
}

/// Whether it is this machine.
pub(crate) fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Checks what the types do not say.
///
/// # Errors
/// A value cannot be worked with.
pub fn check(outputs: &[Output]) -> Result<(), String> {
    for (at, output) in outputs.iter().enumerate() {
        let name = &output.name;
        let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_';
        if name.is_empty() || name.len() > 64 || !name.chars().all(fits) {
            return Err(format!(
                "outputs: {name:?} is no name: 1 to 64 small letters (a to z), digits, `-` and `_`"
            ));
        }
        if outputs.iter().take(at).any(|other| other.name == *name) {
            return Err(format!("outputs: there are two called {name:?}"));
        }
        output.check().map_err(|message| format!("outputs: {name}: {message}"))?;
    }
    Ok(())
}

impl Output {
    fn check(&self) -> Result<(), String> {
        let systems =
            [self.webhook.is_some(), self.syslog.is_some(), self.otlp.is_some(), self.kafka.is_some()];
        if systems.iter().filter(|there| **there).count() != 1 {
            return Err("name one system that is told: webhook, syslog, otlp or kafka".into());
        }
        if self.kinds.is_empty() {
            return Err("kinds: nothing is told".into());
        }
        if self.skip_refused_after_hours == Some(0) {
            return Err("skip_refused_after_hours: at least 1".into());
        }
        for verdict in self.only.verdict.iter().chain(&self.only.observed) {
            if !matches!(verdict.as_str(), "allow" | "deny" | "hold") {
                return Err(format!("only: {verdict:?} is no verdict: allow, deny or hold"));
            }
        }
        if let Some(webhook) = &self.webhook {
            self.address("webhook.url", &webhook.url, &[("https", true), ("http", false)])?;
            if !(1..=1000).contains(&webhook.batch) {
                return Err("webhook.batch: 1 to 1000".into());
            }
        }
        if let Some(otlp) = &self.otlp {
            self.address("otlp.url", &otlp.url, &[("https", true), ("http", false)])?;
        }
        if let Some(syslog) = &self.syslog {
            let server = self.address("syslog.server", &syslog.server, &[("tls", true), ("tcp", false)])?;
            if server.port.is_none() {
                return Err("syslog.server: it has no port: 6514 is usual for tls, 514 or 601 for tcp".into());
            }
            if syslog.facility > 23 {
                return Err("syslog.facility: 0 to 23".into());
            }
            if !(2048..=1 << 20).contains(&syslog.max_bytes) {
                return Err("syslog.max_bytes: 2048 to 1048576".into());
            }
            if syslog.certificate.is_some() != syslog.key.is_some() {
                return Err("syslog: certificate and key go together".into());
            }
        }
        self.kafka.as_ref().map_or(Ok(()), |kafka| self.check_kafka(kafka))
    }

    fn check_kafka(&self, kafka: &Kafka) -> Result<(), String> {
        let Some(first) = kafka.servers.first() else {
            return Err(
                "kafka.servers: name one broker at least, such as tls://kafka.example.com:9093".into()
            );
        };
        let scheme = first.split("://").next();
        for server in &kafka.servers {
            let address = self.address("kafka.servers", server, &[("tls", true), ("tcp", false)])?;
            if address.port.is_none() {
                return Err("kafka.servers: one has no port: 9092 is usual for tcp, 9093 for tls".into());
            }
            if server.split("://").next() != scheme {
                return Err(
                    "kafka.servers: all are tls:// or all are tcp://, for the other brokers too".into()
                );
            }
        }
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if !(1..=249).contains(&kafka.topic.len()) || !kafka.topic.chars().all(fits) {
            return Err("kafka.topic: 1 to 249 letters, digits, `.`, `_` and `-`".into());
        }
        if kafka.certificate.is_some() != kafka.key.is_some() {
            return Err("kafka: certificate and key go together".into());
        }
        if !(64 << 10..=64 << 20).contains(&kafka.max_bytes) {
            return Err("kafka.max_bytes: 65536 to 67108864".into());
        }
        if kafka.sasl.as_ref().is_some_and(|sasl| !(1..=256).contains(&sasl.user.len())) {
            return Err("kafka.sasl.user: 1 to 256 bytes".into());
        }
        Ok(())
    }

    /// Checks where it leads.
    fn address(&self, key: &str, url: &str, schemes: &[(&str, bool)]) -> Result<Server, String> {
        let known = schemes.iter().map(|(scheme, _)| format!("{scheme}://")).collect::<Vec<_>>().join(" or ");
        // The URL itself is not shown: secrets can stand in it.
        let server = server(url).ok_or_else(|| {
            format!("{key}: it is no address: {known}, a host, and no user name or password in it")
        })?;
        let Some((_, encrypted)) = schemes.iter().find(|(scheme, _)| *scheme == server.scheme) else {
            return Err(format!("{key}: it begins with {}://, and {known} is known", server.scheme));
        };
        if !encrypted && !self.plaintext && !is_loopback(&server.host) {
            return Err(format!(
                "{key}: recordings would cross the network to {} in the clear. Use TLS, or set `plaintext: true` if \
                 that is what you want",
                server.host
            ));
        }
        Ok(server)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_text(text: &str) -> Result<(), String> {
        let outputs: Vec<Output> =
            serde_saphyr::from_str(text).map_err(|error| error.without_snippet().to_string())?;
        check(&outputs)
    }

    #[test]
    fn what_cannot_be_worked_with_is_refused_with_its_name() {
        let hook = "webhook: {url: 'https://siem.example/hook/s3cret', secret: /etc/secret}";
        assert_eq!(check_text(&format!("[{{name: siem, {hook}}}]")), Ok(()));
        for (text, says) in [
            (format!("[{{name: 'a b', {hook}}}]"), "no name"),
            (format!("[{{name: a, {hook}}}, {{name: a, {hook}}}]"), "two called"),
            ("[{name: a}]".into(), "name one system"),
            (format!("[{{name: a, {hook}, syslog: {{server: 'tls://h:1'}}}}]"), "name one system"),
            (format!("[{{name: a, kinds: [], {hook}}}]"), "nothing is told"),
            (format!("[{{name: a, kinds: [everything], {hook}}}]"), "everything"),
            (format!("[{{name: a, only: {{verdict: [denied]}}, {hook}}}]"), "no verdict"),
            ("[{name: a, webhook: {url: 'http://h/s3cret', secret: /s}}]".into(), "in the clear"),
            ("[{name: a, webhook: {url: 'ftp://h/s3cret', secret: /s}}]".into(), "ftp"),
            ("[{name: a, webhook: {url: 'https://u:s3cret@h/', secret: /s}}]".into(), "no address"),
            ("[{name: a, syslog: {server: 'tcp://logs:514'}}]".into(), "in the clear"),
            ("[{name: a, syslog: {server: 'tls://logs'}}]".into(), "no port"),
            ("[{name: a, syslog: {server: 'tls://logs:6514', key: /k}}]".into(), "go together"),
            ("[{name: a, kafka: {servers: [], topic: t}}]".into(), "one broker"),
            ("[{name: a, kafka: {servers: ['tcp://k:9092'], topic: t}}]".into(), "in the clear"),
            ("[{name: a, kafka: {servers: ['tls://k'], topic: t}}]".into(), "no port"),
            ("[{name: a, kafka: {servers: ['tls://k:1', 'tcp://[::1]:1'], topic: t}}]".into(), "all are"),
            ("[{name: a, kafka: {servers: ['tls://k:1'], topic: 'a/b'}}]".into(), "kafka.topic"),
            ("[{name: a, kafka: {servers: ['tls://k:1'], topic: t, max_bytes: 9}}]".into(), "max_bytes"),
            (
                "[{name: a, kafka: {servers: ['tls://k:1'], topic: t, sasl: {mechanism: md5, user: u, password: /p}}}]".into(),
                "md5",
            ),
        ] {
            let message = check_text(&text).expect_err(&text);
            assert!(message.contains(says) && !message.contains("s3cret"), "{text}: {message}");
        }
        assert_eq!(check_text("[{name: a, plaintext: true, syslog: {server: 'tcp://logs:514'}}]"), Ok(()));
        assert_eq!(check_text("[{name: a, syslog: {server: 'tcp://[::1]:514'}}]"), Ok(()));
    }
}
