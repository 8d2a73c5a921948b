//! Where secrets come from. Each source is asked in a blocking way, on a thread that may wait.

mod aws;
mod exec;
mod file;
mod http;
mod json;
mod sigv4;
mod vault;

use std::fmt;
use std::path::Path;
use std::time::{Duration, Instant};

use super::config::SourceConfig;
use super::secret::{MAX_SECRET, Secret};
use aws::Aws;
use exec::Exec;
pub(crate) use file::read_private;
pub(super) use file::{Stamp, read_text};
use vault::Vault;

/// Why a secret cannot be had, and what to do about it. Neither holds a part of any secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{problem}; {help}")]
pub struct SourceError {
    /// What is wrong.
    pub problem: String,
    /// What to do.
    pub help: String,
    /// A file or the like is as it must not be, rather than missing or out of reach: it will not get
    /// better by waiting.
    pub(crate) forbidden: bool,
}

impl SourceError {
    fn new(problem: impl Into<String>, help: impl Into<String>) -> Self {
        Self { problem: problem.into(), help: help.into(), forbidden: false }
    }

    fn forbidden(problem: impl Into<String>, help: impl Into<String>) -> Self {
        Self { forbidden: true, ..Self::new(problem, help) }
    }
}

/// A secret as a source gave it.
#[derive(Debug)]
pub(super) struct Fetched {
    /// The user's name, where the source gives one.
    pub(super) user: Option<String>,
    pub(super) password: Secret,
    pub(super) validity: Validity,
}

/// How long what was fetched may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Validity {
    /// When it is to be asked for again; `None` when the source tells of changes by itself.
    pub(super) refresh: Option<Instant>,
    /// From when on it must not be used any more.
    pub(super) expires: Option<Instant>,
}

impl Validity {
    /// Until the source shows a change.
    const UNTIL_CHANGED: Self = Self { refresh: None, expires: None };

    /// To be asked again after this time, but not known to expire.
    fn refreshed_after(period: Duration) -> Self {
        Self { refresh: after(period), expires: None }
    }

    /// For this long. It is asked for again after two thirds of it.
    fn lasting(period: Duration) -> Self {
        Self { refresh: after(period * 2 / 3), expires: after(period) }
    }
}

/// So long from now.
fn after(period: Duration) -> Option<Instant> {
    Instant::now().checked_add(period)
}

/// A configured source.
#[derive(Debug)]
pub(super) enum Source {
    File(file::File),
    Exec(Exec),
    Vault(Box<Vault>),
    Aws(Box<Aws>),
}

impl Source {
    /// Checks what can be checked without asking.
    pub(super) fn new(config: &SourceConfig) -> Result<Self, SourceError> {
        Ok(match config {
            SourceConfig::File(path) => Self::File(file::File::new(path)?),
            SourceConfig::Systemd(name) => Self::File(file::File::of_systemd(name)?),
            SourceConfig::Exec(config) => Self::Exec(Exec::new(config)?),
            SourceConfig::Vault(config) => Self::Vault(Box::new(Vault::new(config)?)),
            SourceConfig::AwsSecretsManager(config) => Self::Aws(Box::new(Aws::new(config)?)),
        })
    }

    /// Asks for the secret. Blocks.
    pub(super) fn fetch(&self) -> Result<Fetched, SourceError> {
        match self {
            Self::File(file) => file.fetch(),
            Self::Exec(exec) => exec.fetch(),
            Self::Vault(vault) => vault.fetch(),
            Self::Aws(aws) => aws.fetch(),
        }
    }

    /// Has what was fetched last be valid for longer, where the source can. `None` when it has to be
    /// fetched anew. Blocks.
    pub(super) fn renew(&self) -> Option<Validity> {
        match self {
            Self::Vault(vault) => vault.renew(),
            Self::File(_) | Self::Exec(_) | Self::Aws(_) => None,
        }
    }

    /// Ends what was fetched only to see whether it can be. `false` when something of it is left that ends
    /// by itself later. Blocks.
    pub(super) fn give_back(&self) -> bool {
        match self {
            Self::Vault(vault) => vault.give_back(),
            Self::File(_) | Self::Exec(_) | Self::Aws(_) => true,
        }
    }

    /// What tells one state of a file from another; `None` of other sources. Costs a system call.
    pub(super) fn stamp(&self) -> Option<Stamp> {
        match self {
            Self::File(file) => file.stamp(),
            Self::Exec(_) | Self::Vault(_) | Self::Aws(_) => None,
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(file) => write!(f, "file {}", file.path().display()),
            Self::Exec(exec) => write!(f, "program {}", exec.program()),
            Self::Vault(vault) => write!(f, "Vault {}", vault.place()),
            Self::Aws(aws) => write!(f, "AWS Secrets Manager {}", aws.place()),
        }
    }
}

/// A password as a source gave it, put where secrets are kept.
fn password(value: &[u8], whence: &str) -> Result<Secret, SourceError> {
    if value.is_empty() {
        return Err(SourceError::new(format!("{whence} holds no password"), "put one there"));
    }
    if value.contains(&0) {
        return Err(SourceError::new(
            format!("{whence} holds a zero byte, which no password can"),
            "store it as text",
        ));
    }
    Secret::new(value).map_err(|error| {
        SourceError::new(format!("{whence} cannot be kept: {error}"), "see the host's memory limits")
    })
}

/// Without the newline that editors and `echo` put at the end.
fn without_newline(text: &[u8]) -> &[u8] {
    let text = text.strip_suffix(b"\n").unwrap_or(text);
    text.strip_suffix(b"\r").unwrap_or(text)
}

/// Refuses a file that others than root can change.
fn check_unchangeable(path: &Path) -> Result<(), SourceError> {
    use std::os::unix::fs::MetadataExt as _;
    let metadata = std::fs::metadata(path).map_err(|error| {
        SourceError::new(format!("cannot look at {}: {error}", path.display()), "put it there")
    })?;
    let own = rustix::process::geteuid().as_raw();
    if !metadata.is_file() {
        return Err(SourceError::forbidden(format!("{} is no file", path.display()), "name one"));
    }
    if metadata.uid() != 0 && metadata.uid() != own {
        return Err(SourceError::forbidden(
            format!("{} belongs to user {}", path.display(), metadata.uid()),
            format!("chown root {}", path.display()),
        ));
    }
    if metadata.mode() & 0o022 != 0 {
        return Err(SourceError::forbidden(
            format!(
                "{} can be changed by others than root (mode {:o})",
                path.display(),
                metadata.mode() & 0o7777
            ),
            format!("chmod go-w {}", path.display()),
        ));
    }
    Ok(())
}
