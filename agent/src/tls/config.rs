//! The `tls:` part of the agent's configuration.

use std::path::PathBuf;

use serde::Deserialize;

/// How servers are verified, and what the agent shows them. Files are read at start and again on
/// `interlock reload` and SIGHUP.
#[derive(Debug, Clone, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TlsConfig {
    /// Trust the authorities that the system trusts.
    pub system_roots: bool,
    /// PEM files of further authorities to trust.
    pub roots: Vec<PathBuf>,
    /// PEM files of revocation lists. A certificate that one of them names is refused; so is one whose
    /// authority's list is out of date.
    pub crls: Vec<PathBuf>,
    /// What holds for single servers. The first entry that takes in a connection counts alone.
    pub upstreams: Vec<Upstream>,
}

impl Default for TlsConfig {
    fn default() -> Self {
        Self { system_roots: true, roots: Vec::new(), crls: Vec::new(), upstreams: Vec::new() }
    }
}

/// What holds for connections to certain servers. Of `host`, `cidr` and `port` all that are given must
/// hold.
#[derive(Debug, Clone, Default, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Upstream {
    /// A host name; the agent looks it up now and then. What the client calls the server does not count.
    pub host: Option<String>,
    /// A network, `10.0.0.0/8`, or one address.
    pub cidr: Option<String>,
    /// A port.
    pub port: Option<u16>,
    /// How the server's certificate is verified.
    pub verify: Verify,
    /// SHA-256 of public keys (SubjectPublicKeyInfo), in base64 or hexadecimal: the server must have one
    /// of them, whatever else is verified.
    pub pins: Vec<String>,
    /// PEM files of the authorities to trust here, in the place of the general ones. A server's own
    /// certificate may be among them.
    pub roots: Vec<PathBuf>,
    /// The name that the server's certificate must have, in the place of what the client or a policy
    /// calls the server.
    pub server_name: Option<String>,
    /// PEM file of a certificate, and of those that lead to its authority, to show to a server that asks
    /// for one.
    pub client_certificate: Option<PathBuf>,
    /// PEM file of its key; for root's eyes alone.
    pub client_key: Option<PathBuf>,
    /// How the agent answers clients that ask for TLS.
    pub client_leg: ClientLeg,
    /// Whether the agent asks the server for TLS.
    pub server_leg: ServerLeg,
}

/// How a server's certificate is verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Verify {
    /// A trusted authority has issued it, for the name by which the server is known.
    #[default]
    Full,
    /// A trusted authority has issued it, for whatever name. Clients that verify names still do.
    Ca,
    /// Its key is one of `pins`; who has issued it, for what name and until when, does not count.
    Pin,
    /// Not at all. Clients that verify are shown a certificate that nobody trusts, so that they refuse
    /// as they would without the agent.
    None,
}

impl Verify {
    /// Its word in configurations and recordings.
    pub fn word(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Ca => "ca",
            Self::Pin => "pin",
            Self::None => "none",
        }
    }
}

/// The leg between client and agent, which does not leave the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ClientLeg {
    /// TLS if the client asks for it and the server has it.
    #[default]
    AsAsked,
    /// Never TLS: a client that asks is told that there is none. The leg to the server is TLS then.
    Plaintext,
}

/// The leg between agent and server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ServerLeg {
    /// TLS if the client asks for it.
    #[default]
    AsAsked,
    /// TLS whatever the client asks for. A server that has none is refused.
    Tls,
}
