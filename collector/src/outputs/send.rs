//! What the ways to other systems have in common.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use ureq::http::{HeaderMap, header};
use zeroize::Zeroizing;

use super::config::Output;
use super::kafka::Producer;
use super::message::Message;
use super::otlp::Logs;
use super::syslog::Syslog;
use super::webhook::Hook;

/// The longest secret file that is read, bytes.
const SECRET_FILE: u64 = 64 << 10;

/// It was not sent.
#[derive(Debug)]
pub(super) enum Failure {
    /// It may go another time; the receiver may have said when.
    Later(String, Option<Duration>),
    /// The receiver does not take these messages, whatever the time.
    Refused(String),
}

/// The way to another system.
pub(super) enum Sender {
    Webhook(Hook),
    Syslog(Box<Syslog>),
    Otlp(Logs),
    Kafka(Box<Producer>),
}

impl Sender {
    /// Makes it ready. Nothing is sent yet.
    ///
    /// # Errors
    /// A file that it needs is no use.
    pub(super) fn new(output: &Output, collector: &str) -> anyhow::Result<Self> {
        if let Some(webhook) = &output.webhook {
            return Ok(Self::Webhook(Hook::new(webhook, collector)?));
        }
        if let Some(syslog) = &output.syslog {
            return Ok(Self::Syslog(Box::new(Syslog::new(syslog, collector)?)));
        }
        if let Some(otlp) = &output.otlp {
            return Ok(Self::Otlp(Logs::new(otlp, collector)?));
        }
        if let Some(kafka) = &output.kafka {
            return Ok(Self::Kafka(Box::new(Producer::new(kafka, output.plaintext, collector)?)));
        }
        anyhow::bail!("it names no system")
    }

    /// Messages that are sent at one time, at most.
    pub(super) fn batch(&self) -> usize {
        match self {
            Self::Webhook(hook) => hook.batch(),
            Self::Syslog(_) | Self::Otlp(_) | Self::Kafka(_) => 500,
        }
    }

    /// What is sent counts as there after so long, while the connection holds: the receiver acknowledges
    /// nothing. `None` where it does.
    pub(super) fn settles(&self) -> Option<Duration> {
        match self {
            Self::Webhook(_) | Self::Otlp(_) | Self::Kafka(_) => None,
            Self::Syslog(_) => Some(super::syslog::SETTLES),
        }
    }

    /// Sends messages, in order.
    pub(super) async fn send(&mut self, messages: &[&Message]) -> Result<(), Failure> {
        match self {
            Self::Webhook(hook) => hook.send(messages).await,
            Self::Syslog(syslog) => syslog.send(messages).await,
            Self::Otlp(logs) => logs.send(messages).await,
            Self::Kafka(producer) => producer.send(messages).await,
        }
    }

    /// Ends the connection; whether the receiver has read all that was sent.
    pub(super) async fn finish(&mut self) -> bool {
        match self {
            Self::Webhook(_) | Self::Otlp(_) | Self::Kafka(_) => true,
            Self::Syslog(syslog) => syslog.finish().await,
        }
    }

    /// Whether the connection that was sent on still holds.
    pub(super) async fn holds(&mut self) -> Result<(), Failure> {
        match self {
            Self::Webhook(_) | Self::Otlp(_) | Self::Kafka(_) => Ok(()),
            Self::Syslog(syslog) => syslog.holds().await,
        }
    }
}

/// When the receiver wants to be asked again.
pub(crate) fn later(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}

/// Reads a secret from a file that is not for everyone: its first line.
///
/// # Errors
/// As [`secret_file`], or the line is empty.
pub(crate) fn secret_line(path: &Path) -> anyhow::Result<Zeroizing<String>> {
    let text = secret_file(path)?;
    let line = text.lines().next().unwrap_or_default().trim();
    anyhow::ensure!(!line.is_empty(), "{}: the first line holds no secret", path.display());
    Ok(Zeroizing::new(line.to_owned()))
}

/// Reads a secret from a file that is not for everyone.
///
/// # Errors
/// It cannot be read, is too long, no text, or readable to everyone.
pub(super) fn secret_file(path: &Path) -> anyhow::Result<Zeroizing<String>> {
    use std::io::Read as _;
    let file = std::fs::File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    let known = file.metadata().with_context(|| format!("cannot read {}", path.display()))?;
    anyhow::ensure!(
        known.permissions().mode() & 0o007 == 0,
        "{} holds a secret and everyone may read it: chmod 600 it, and make another secret if others were on this host",
        path.display()
    );
    let mut text = Zeroizing::new(String::new());
    file.take(SECRET_FILE)
        .read_to_string(&mut text)
        .with_context(|| format!("cannot read {}", path.display()))?;
    Ok(text)
}
