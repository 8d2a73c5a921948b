//! The agent's own configuration file, `agent.yaml`.

mod check;
mod size;

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use crate::approval::{Bounds, Remote};
use crate::credential::CredentialConfig;
use crate::identity::config::IdentityConfig;
use crate::policy::Accepts;
use crate::tls::TlsConfig;

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
    /// What the policies of the collector that this host is enrolled with may do here
    /// (docs/central-policies.md): `off`, nothing; `observe`, be worked out and recorded; `enforce`, what it
    /// orders. What this host's own files refuse stays refused.
    pub central_policies: Accepts,
    /// Recordings and keys; kept at mode 0700.
    pub state: PathBuf,
    /// Control socket and lock. Pins stand in `/sys/fs/bpf/interlock`; with another directory than
    /// `/run/interlock` under its whole path, its parts joined by `-`.
    pub run: PathBuf,
    /// Limits of the recording.
    pub record: Record,
    /// Shipping the recording to a collector (docs/shipping.md). To which one is said by `interlock enroll`.
    pub ship: Ship,
    /// Commands that wait for approval (docs/approval.md). Who approves is said by policies.
    pub approvals: Approvals,
    /// How servers are verified, and what the agent shows them.
    pub tls: TlsConfig,
    /// What the agent logs in with on scripts' behalf (docs/credentials.md).
    pub credentials: Vec<CredentialConfig>,
    /// Who may say who people and workloads are (docs/identity.md).
    pub identity: IdentityConfig,
}

/// Limits of the recording.
#[derive(Debug, Clone, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Record {
    /// Bytes that all recordings together may take on disk. When they are reached new commands are refused.
    #[serde(deserialize_with = "size::deserialize")]
    #[schemars(with = "size::Size")]
    pub max_bytes: u64,
    /// Rows of a result that are recorded (masked); their true number is recorded always.
    pub max_rows: u32,
    /// Bytes of a result that are recorded.
    pub max_result_bytes: u32,
    /// Call fdatasync before each command is forwarded. Without it a recording survives the agent's
    /// death at any moment; with it also the host's.
    pub sync: bool,
    /// A segment is sealed when it has reached this size in bytes (before compression),
    #[serde(deserialize_with = "size::deserialize")]
    #[schemars(with = "size::Size")]
    pub segment_bytes: u64,
    /// or when it has been open for this many seconds.
    pub segment_seconds: u64,
}

/// Shipping the recording to a collector.
#[derive(Debug, Clone, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Ship {
    /// Do not start unless this host is enrolled with a collector: designated processes are refused until
    /// it is. A collector that is merely away stops nothing; the recording waits for it on this host.
    pub required: bool,
    /// Bytes of sealed segments that stay on this host after the collector has taken them, for `interlock
    /// sessions`; 0 removes them at once. The oldest go first. They go earlier when the recording takes two
    /// thirds of the room that commands may use. What the collector has not taken is never removed.
    #[serde(deserialize_with = "size::deserialize")]
    #[schemars(with = "size::Size")]
    pub keep: u64,
}

/// Commands that wait for approval. More are refused.
#[derive(Debug, Clone, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Approvals {
    /// How many may wait at once.
    pub max_held: usize,
    /// How many of one user.
    pub max_held_per_user: usize,
    /// How often one user, by who logged in where that is known, may ask within ten minutes. What an approval of a
    /// shape or a session covers does not ask.
    pub max_asked_per_user: usize,
    /// Bytes of memory that they may take together.
    #[serde(deserialize_with = "size::deserialize")]
    #[schemars(with = "size::Size")]
    pub max_held_bytes: u64,
    /// Every how many seconds a client that waits is told so again.
    pub notice_seconds: u64,
    /// What the collector that this host ships to may do: `off`, it is not told what waits; `show`, it is, and
    /// its refusals count; `decide`, its approvals count too: who is in which group is then the collector's
    /// word as well.
    pub collector: Remote,
    /// The address of the collector's pages, such as `https://interlock.example.com`: clients that wait are told
    /// it. `collector` says whether what waits is there.
    pub link: Option<String>,
}

impl Default for Approvals {
    fn default() -> Self {
        Self {
            max_held: 1000,
            max_held_per_user: 250,
            max_asked_per_user: 60,
            max_held_bytes: 256 << 20,
            notice_seconds: 60,
            collector: Remote::Show,
            link: None,
        }
    }
}

impl Approvals {
    /// As the desk takes them.
    pub fn bounds(&self) -> Bounds {
        Bounds {
            held: self.max_held,
            held_per_user: self.max_held_per_user,
            asked_per_user: self.max_asked_per_user,
            bytes: usize::try_from(self.max_held_bytes).unwrap_or(usize::MAX),
            remind: Duration::from_secs(self.notice_seconds),
            remote: self.collector,
            link: self.link.as_deref().map(|link| link.trim_end_matches('/').into()),
        }
    }
}

impl Default for Ship {
    fn default() -> Self {
        Self { required: false, keep: 1 << 30 }
    }
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
            central_policies: Accepts::Off,
            state: "/var/lib/interlock".into(),
            run: "/run/interlock".into(),
            record: Record::default(),
            ship: Ship::default(),
            approvals: Approvals::default(),
            tls: TlsConfig::default(),
            credentials: Vec::new(),
            identity: IdentityConfig::default(),
        }
    }
}

impl Config {
    /// Reads `path`. A missing file at the default place gives the defaults.
    ///
    /// # Errors
    /// The file cannot be read, a key in it is unknown or ill-formed (the message says where), or a value
    /// cannot be worked with.
    pub fn load(path: &Path) -> anyhow::Result<Self> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && path == Path::new(DEFAULT_PATH) => {
                return Ok(Self::default());
            }
            Err(error) => anyhow::bail!("cannot read the configuration {}: {error}", path.display()),
        };
        Self::parse(&text).map_err(|message| anyhow::anyhow!("{}{message}", path.display()))
    }

    /// Reads a file's text. The message goes on behind the file's name.
    fn parse(text: &str) -> Result<Self, String> {
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        let config: Self = serde_saphyr::from_str(text).map_err(|error| {
            let error = error.without_snippet();
            let words = error.to_string();
            // The library repeats the place in its words.
            let words = words.split(" at line ").next().unwrap_or(&words).trim_end_matches([':', ' ']);
            match error.location() {
                Some(at) => format!(":{}:{}: {words}", at.line(), at.column()),
                None => format!(": {words}"),
            }
        })?;
        config.check().map_err(|message| format!(": {message}"))?;
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_is_told_once_with_its_place() {
        for (text, message) in [
            ("run: [", ":1:6: "),
            ("record:\n  max_bytess: 1\n", ":2:3: unknown field `max_bytess`"),
            ("record: {max_bytes: 4GB}\n", ":1:21: \"4GB\" is no size"),
            ("ship: {keep: 1 week}", ":1:14: \"1 week\" is no size"),
            ("ship: {url: x}", ":1:8: unknown field `url`"),
            ("record: {max_bytes: 0}", ": `record.max_bytes: 0` leaves no room"),
            ("record: {segment_seconds: 0}", ": `record.segment_seconds: 0`"),
            ("approvals: {notice_seconds: 0}", ": `approvals.notice_seconds: 0`"),
            ("approvals: {collector: approve}", ":1:24: "),
            ("approvals: {link: 'http://a b'}", ": `approvals.link"),
            ("run: relative", ": `run: relative` must be an absolute path, such as /relative"),
            ("cgroup: a/b", ": `cgroup: a/b` must be"),
        ] {
            let error = Config::parse(text).unwrap_err();
            assert!(error.starts_with(message), "{text}: {error}");
            assert!(!error.contains("<input>") && error.lines().count() == 1, "{error}");
        }
    }

    #[test]
    fn every_key_may_be_left_out_and_sizes_have_units() {
        assert_eq!(Config::parse(" \n").unwrap().record.max_bytes, 4 << 30);
        let config =
            Config::parse("run: /run/b\nrecord: {max_bytes: 512MiB, segment_bytes: 4194304}").unwrap();
        assert_eq!((config.record.max_bytes, config.record.segment_bytes), (512 << 20, 4 << 20));
        assert_eq!((config.run, config.record.max_rows), ("/run/b".into(), 100));
    }
}
