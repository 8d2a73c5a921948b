//! The agent's own configuration file, `agent.yaml`.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::credential::CredentialConfig;

/// Where the configuration is looked for unless `--config` names another file.
pub const DEFAULT_PATH: &str = "/etc/interlock/agent.yaml";

/// The agent's configuration. Every key may be left out.
#[derive(Debug, Clone, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The cgroup v2 directory to attach to; by default the cgroup2 mount that the mount table names.
    pub cgroup: Option<PathBuf>,
    /// Directory of policy files.
    pub policies: PathBuf,
    /// Recordings, spool and keys; kept at mode 0700.
    pub state: PathBuf,
    /// Control socket and lock. Pins stand below the bpffs mount under the last part of this name.
    pub run: PathBuf,
    /// Limits of the recording.
    pub record: Record,
    /// What the agent logs in with on scripts' behalf (docs/credentials.md).
    pub credentials: Vec<CredentialConfig>,
}

/// Limits of the recording.
#[derive(Debug, Clone, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Record {
    /// Bytes that all recordings together may take on disk. When they are reached new commands are refused.
    pub max_bytes: u64,
    /// Rows of a result that are recorded (masked); their true number is recorded always.
    pub max_rows: u32,
    /// Bytes of a result that are recorded.
    pub max_result_bytes: u32,
    /// Call fdatasync before each command is forwarded. Without it a recording survives the agent's
    /// death at any moment; with it also the host's.
    pub sync: bool,
    /// A segment is sealed when it has reached this size in bytes (before compression),
    pub segment_bytes: u64,
    /// or when it has been open for this many seconds.
    pub segment_seconds: u64,
}

impl Default for Record {
    fn default() -> Self {
        Self {
            max_bytes: 4 << 30,
            max_rows: 100,
            max_result_bytes: 64 << 10,
            sync: false,
            segment_bytes: 8 << 20,
            segment_seconds: 600,
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            cgroup: None,
            policies: "/etc/interlock/policies.d".into(),
            state: "/var/lib/interlock".into(),
            run: "/run/interlock".into(),
            record: Record::default(),
            credentials: Vec::new(),
        }
    }
}

impl Config {
    /// Reads `path`. A missing file at the default place gives the defaults.
    ///
    /// # Errors
    /// The file cannot be read, or a key in it is unknown or ill-formed; the message says where.
    pub fn load(path: &Path) -> anyhow::Result<Self> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && path == Path::new(DEFAULT_PATH) => {
                return Ok(Self::default());
            }
            Err(error) => anyhow::bail!("cannot read the configuration {}: {error}", path.display()),
        };
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        serde_saphyr::from_str(&text).map_err(|error| anyhow::anyhow!("{}: {error}", path.display()))
    }
}
