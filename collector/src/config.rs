//! The collector's configuration file, `collector.yaml`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::approvals::ask::{self, Approvals};
use crate::outputs::{self, Output};
use crate::sign_in::SignIn;
use crate::storage::{Database, Segments};

/// Where the configuration is looked for unless `--config` names another file.
pub const DEFAULT_PATH: &str = "/etc/interlock/collector.yaml";

/// The collector's configuration. Every key may be left out.
#[derive(Debug, Clone, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The collector's name: the origin of its ledger's checkpoints. It must never change; by default the
    /// host's name when the collector first starts.
    pub name: Option<String>,
    /// Keys, the database and the recordings; kept at mode 0700.
    pub state: PathBuf,
    /// Where agents connect to.
    pub agents: Agents,
    /// Where browsers and API clients connect to.
    pub web: Web,
    /// How people sign in.
    pub sign_in: SignIn,
    /// For how long recordings are kept. The first rule that fits a host counts; what no rule fits is kept for
    /// ever. Legal holds come before all of them.
    pub retention: Vec<Retention>,
    /// A directory into which each new checkpoint of the ledger is written, on a disk or share that others
    /// watch over: with a copy of it nobody can take back what the ledger holds unseen.
    pub checkpoints: Option<PathBuf>,
    /// PostgreSQL in the place of a database file, so that several collectors work together. Goes with `segments`.
    pub store: Option<Database>,
    /// Storage that speaks S3 in the place of a directory of segments. Goes with `store`.
    pub segments: Option<Segments>,
    /// A directory with the keys that all collectors of one ledger have: `ledger.key`, `policies.key`, `authority.key` and
    /// `authority.crt`. By default they are made in the state directory; with `store` they are never made, and
    /// `interlock-collector keys create` makes them once.
    pub keys: Option<PathBuf>,
    /// Other systems that are told what the collector takes in.
    pub outputs: Vec<Output>,
    /// Approvals of commands that hosts hold.
    pub approvals: Approvals,
}

/// A rule of retention.
#[derive(Debug, Clone, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Retention {
    /// Its name, which stands in the tombstones of what is deleted by it.
    pub name: String,
    /// The hosts that it is for, by name or id; without any, for all.
    #[serde(default)]
    pub hosts: Vec<String>,
    /// Days after which a segment is deleted, counted from its last event, and from when it was taken.
    pub keep_days: u32,
}

/// Where agents connect to.
#[derive(Debug, Clone, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Agents {
    /// Address and port.
    pub listen: SocketAddr,
    /// Host names and addresses under which agents reach the collector; they stand in its certificate. By
    /// default the host's name, localhost and the loopback addresses.
    pub names: Vec<String>,
    /// GiB of one host's recording that are kept here at most, as the host sealed them; 0 for no bound. Over it nothing
    /// more is taken of that host until there is room, and its recording waits on it.
    pub keep_gib_per_host: u64,
    /// MiB a second that one host may ship, over a minute; 0 for no bound. One that ships more is slowed down.
    pub mib_per_second_per_host: u64,
    /// Requests for approval of one host that are taken within a day; 0 for no bound. What is beyond is not shown here,
    /// and can be decided on the host.
    pub requests_per_day_per_host: u64,
}

/// Where browsers and API clients connect to.
#[derive(Debug, Clone, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Web {
    /// Address and port. Beyond the loopback addresses TLS is needed.
    pub listen: SocketAddr,
    /// The address that people use, such as `https://interlock.example.com`, when it is another one.
    pub url: Option<String>,
    /// The certificate to show.
    pub tls: Option<WebTls>,
}

/// The certificate that browsers are shown.
#[derive(Debug, Clone, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WebTls {
    /// PEM file: the certificate and those between it and its authority. Read again when it changes.
    pub certificate: PathBuf,
    /// PEM file: its private key.
    pub key: PathBuf,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            name: None,
            state: "/var/lib/interlock-collector".into(),
            agents: Agents::default(),
            web: Web::default(),
            sign_in: SignIn::default(),
            retention: Vec::new(),
            checkpoints: None,
            store: None,
            segments: None,
            keys: None,
            outputs: Vec::new(),
            approvals: Approvals::default(),
        }
    }
}

impl Default for Agents {
    fn default() -> Self {
        Self {
            listen: SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), 7443),
            names: Vec::new(),
            keep_gib_per_host: 1024,
            mib_per_second_per_host: 32,
            requests_per_day_per_host: 10_000,
        }
    }
}

impl Default for Web {
    fn default() -> Self {
        Self { listen: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 7480), url: None, tls: None }
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
        let config: Self = if text.trim().is_empty() {
            Self::default()
        } else {
            serde_saphyr::from_str(&text)
                .map_err(|error| anyhow::anyhow!("{}: {}", path.display(), error.without_snippet()))?
        };
        config.check().map_err(|message| anyhow::anyhow!("{}: {message}", path.display()))?;
        Ok(config)
    }

    /// Checks what the types do not say.
    ///
    /// # Errors
    /// A value cannot be worked with.
    pub fn check(&self) -> Result<(), String> {
        if let Some(name) = &self.name
            && (name.is_empty() || name.len() > 253 || name.contains(|c: char| c.is_whitespace() || c == '+'))
        {
            return Err("name: a name has no blanks and no `+`, and at most 253 characters".into());
        }
        match (&self.store, &self.segments) {
            (Some(store), Some(segments)) => {
                store.check()?;
                segments.check()?;
            }
            (None, None) => {}
            _ => {
                return Err(
                    "store and segments go together: what several collectors share is the database and \
                            where the segments are"
                        .into(),
                );
            }
        }
        for rule in &self.retention {
            if rule.keep_days == 0 {
                return Err(format!(
                    "retention: rule {:?} keeps nothing: keep_days is 1 at least",
                    rule.name
                ));
            }
        }
        outputs::config::check(&self.outputs)?;
        ask::config::check(&self.approvals, self.web.url.as_deref())?;
        self.sign_in.check(self.web.url.as_deref())?;
        if !self.web.listen.ip().is_loopback() && self.web.tls.is_none() {
            return Err(format!(
                "web.listen: {} can be reached by others, so passwords would cross the network in the clear. Set \
                 web.tls with a certificate and key, or listen on a loopback address behind a proxy with TLS",
                self.web.listen
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Config {
        serde_saphyr::from_str(text).expect("a configuration")
    }

    #[test]
    fn passwords_never_cross_the_network_in_the_clear() {
        assert_eq!(Config::default().check(), Ok(()));
        let open = parse("web: { listen: '0.0.0.0:7480' }");
        assert!(open.check().is_err_and(|message| message.contains("web.tls")));
        let tls = parse("web: { listen: '0.0.0.0:7480', tls: { certificate: /c, key: /k } }");
        assert_eq!(tls.check(), Ok(()));
    }

    #[test]
    fn unknown_keys_are_refused() {
        assert!(serde_saphyr::from_str::<Config>("webb: {}").is_err());
    }
}
