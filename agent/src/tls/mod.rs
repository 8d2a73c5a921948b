//! TLS on both legs of a flow: the agent ends the client's with a certificate of its own, made for the
//! occasion, and has one of its own with the server, whose certificate it verifies.
//!
//! [`Engine`] is one per agent; [`FlowTls`] is what a protocol gets of it for a flow. A protocol that finds
//! a client to begin TLS reads its [`Hello`], connects to the server with what the client asked for
//! ([`FlowTls::connect`]), and only then goes on with the client ([`FlowTls::accept`]), so that the client's
//! certificate can have the names of the server's. See `docs/tls.md`.

mod authority;
mod certificate;
mod config;
pub mod hello;
mod leaf;
mod passthrough;
mod settings;
mod stream;
mod verify;

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use rustls::crypto::CryptoProvider;
use rustls::pki_types::{ServerName, UnixTime};
use rustls::server::Acceptor;
use rustls::{CommonState, HandshakeKind, ProtocolVersion};
use tokio::net::TcpStream;
use tokio_rustls::{LazyConfigAcceptor, StartHandshake, TlsConnector};

pub(crate) use authority::Secret;
pub use authority::{Authority, AuthorityError};
pub use certificate::{Certificate, Names};
pub use config::{ClientLeg, ServerLeg, TlsConfig, Upstream, Verify};
pub use passthrough::{PassError, Passed, pass};
pub use settings::SettingsError;
pub use stream::Stream;
pub use verify::{Fault, Refused};

use crate::config::Config;
use crate::identity::Subject;
use crate::policy::{Destination, TlsTreatment};
use leaf::{Leaf, Leaves};
use settings::{Entry, Settings};

/// Processes and servers that are remembered for having had TLS refused.
const MOST_REFUSED: usize = 1024;

/// How a leg is encrypted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leg {
    /// `TLSv1.3` or `TLSv1.2`.
    pub version: &'static str,
    /// The cipher suite, as IANA names it.
    pub cipher: String,
    /// The host name that was asked for; of the server's leg, what the agent asked for.
    pub server_name: Option<String>,
    /// The protocol that was agreed on.
    pub alpn: Option<String>,
    /// The certificate that the server of this leg showed: on the leg to a client, the agent's own.
    pub certificate: Option<Arc<Certificate>>,
    /// How the server was verified; `None` on the leg to a client.
    pub verified: Option<Verified>,
    /// A session was resumed.
    pub resumed: bool,
}

/// How a server was verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// How thoroughly.
    pub how: Verify,
    /// The names of which its certificate had one.
    pub names: Vec<String>,
    /// The names come from the configuration, from policies or from the address, not from the client
    /// alone.
    pub by_host: bool,
}

/// Why there is no TLS with a server.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Its certificate was refused.
    #[error("the certificate of the server {address} is refused: {refused}")]
    Certificate {
        /// The server.
        address: SocketAddr,
        /// Which certificate, and why.
        refused: Box<Refused>,
    },
    /// The handshake failed otherwise.
    #[error("no TLS with the server {address}: {reason}")]
    Handshake {
        /// The server.
        address: SocketAddr,
        /// What went wrong.
        reason: String,
    },
}

impl ConnectError {
    /// What to do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Certificate { refused, .. } => refused.hint(),
            Self::Handshake { .. } => "The agent speaks TLS 1.2 and 1.3.",
        }
    }
}

/// What the agent has for TLS: one for all flows.
#[derive(Debug)]
pub struct Engine {
    config: TlsConfig,
    leaves: Leaves,
    settings: RwLock<Arc<Settings>>,
    provider: Arc<CryptoProvider>,
    refused: Mutex<VecDeque<Client>>,
}

/// A process, and a server that it was refused TLS with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Client {
    pid: u32,
    start_time_ns: u64,
    server: SocketAddr,
}

/// TLS for one flow.
#[derive(Debug, Clone)]
pub struct FlowTls {
    engine: Arc<Engine>,
    entry: Arc<Entry>,
    settings: Arc<Settings>,
    client: Client,
    names: Arc<[Arc<str>]>,
    must_encrypt: bool,
    treatment: TlsTreatment,
}

/// A client's first message, read; the client waits.
#[derive(Debug)]
pub struct Hello {
    start: StartHandshake<TcpStream>,
    /// The host name that it asks for.
    pub server_name: Option<String>,
    /// The protocols that it offers.
    pub alpn: Vec<Vec<u8>>,
}

// === impl Engine ===

impl Engine {
    /// Reads or makes the host's authority, and reads what the configuration names.
    ///
    /// # Errors
    /// The authority cannot be had, or the configuration cannot be used; the message says what to do.
    pub fn open(config: &Config) -> anyhow::Result<Arc<Self>> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let authority = Authority::load_or_create(config)?;
        let settings = Settings::read(&config.tls, &provider)?;
        Ok(Arc::new(Self {
            config: config.tls.clone(),
            leaves: Leaves::new(authority, Arc::clone(&provider))?,
            settings: RwLock::new(Arc::new(settings)),
            provider,
            refused: Mutex::default(),
        }))
    }

    /// Reads the files that the configuration names again. Flows that are open keep what they have.
    ///
    /// # Errors
    /// One of them cannot be used; what was read before stays in force.
    pub fn reload(&self) -> Result<(), SettingsError> {
        let settings = Settings::read(&self.config, &self.provider)?;
        *self.settings.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(settings);
        Ok(())
    }

    /// The host's authority.
    pub fn authority(&self) -> &Authority {
        self.leaves.authority()
    }

    /// The host names of the configuration, which must be looked up.
    pub fn hosts(&self) -> BTreeSet<Arc<str>> {
        self.settings.read().unwrap_or_else(PoisonError::into_inner).hosts()
    }

    /// TLS for a flow of `subject` to `destination`, which is known by these names for certain.
    pub fn flow(
        self: &Arc<Self>,
        subject: &Subject,
        destination: &Destination,
        names: Vec<Arc<str>>,
        treatment: TlsTreatment,
    ) -> FlowTls {
        let settings = Arc::clone(&self.settings.read().unwrap_or_else(PoisonError::into_inner));
        let server = destination.address;
        FlowTls {
            must_encrypt: settings.may_have_to_encrypt(server, &destination.hosts),
            entry: Arc::clone(settings.entry(server, &names)),
            engine: Arc::clone(self),
            settings,
            client: Client { pid: subject.pid, start_time_ns: subject.start_time_ns, server },
            names: names.into(),
            treatment,
        }
    }
}

// === impl FlowTls ===

impl FlowTls {
    /// What the policies say of TLS on this flow.
    pub fn treatment(&self) -> TlsTreatment {
        self.treatment
    }

    /// How clients that ask for TLS are answered.
    pub fn client_leg(&self) -> ClientLeg {
        self.entry.client_leg
    }

    /// The server must be reached by TLS, whatever the client asks for.
    pub fn must_encrypt(&self) -> bool {
        self.must_encrypt || self.was_refused()
    }

    /// Remembers that this process asked for TLS with this server and was refused by the agent. Many
    /// clients try again without TLS; what would have left the host encrypted must do so then, too.
    pub fn remember_refusal(&self) {
        let mut refused = self.engine.refused.lock().unwrap_or_else(PoisonError::into_inner);
        if !refused.contains(&self.client) {
            if refused.len() >= MOST_REFUSED {
                refused.pop_front();
            }
            refused.push_back(self.client);
        }
    }

    fn was_refused(&self) -> bool {
        self.engine.refused.lock().unwrap_or_else(PoisonError::into_inner).contains(&self.client)
    }

    /// Reads the first message of a client that begins TLS.
    ///
    /// # Errors
    /// It went, or what it sent is no ClientHello; it has been told so in an alert.
    pub async fn hello(client: TcpStream) -> io::Result<Hello> {
        let start = LazyConfigAcceptor::new(Acceptor::default(), client).await?;
        let hello = start.client_hello();
        let server_name = hello.server_name().map(str::to_owned);
        let alpn = hello.alpn().map(|offered| offered.map(<[u8]>::to_vec).collect());
        Ok(Hello { start, server_name, alpn: alpn.unwrap_or_default() })
    }

    /// TLS with the server: the client's host name is passed on, and so are the protocols it offers.
    ///
    /// # Errors
    /// The server's certificate is refused, or the handshake fails.
    pub async fn connect(
        &self,
        server: TcpStream,
        server_name: Option<&str>,
        alpn: &[Vec<u8>],
    ) -> Result<Stream, ConnectError> {
        let address = self.client.server;
        let failed = |reason: String| ConnectError::Handshake { address, reason };
        let (names, by_host) = self.wanted(server_name);
        let said = names.iter().map(|name| name.to_str().into_owned()).collect();
        let client =
            self.settings.client(&self.entry, address, names).map_err(|error| failed(error.to_string()))?;
        let sent = server_name.and_then(|name| ServerName::try_from(name.to_owned()).ok());
        let sent = sent.or_else(|| match self.names.first() {
            Some(name) if server_name.is_none() => ServerName::try_from(name.to_string()).ok(),
            _ => None,
        });
        let name = sent.unwrap_or_else(|| ServerName::IpAddress(address.ip().to_canonical().into()));
        let shown_name = match &name {
            ServerName::DnsName(name) => Some(name.as_ref().to_owned()),
            _ => None,
        };
        let stream = TlsConnector::from(client.config).with_alpn(alpn.to_vec()).connect(name, server).await;
        let stream = stream.map_err(|error| self.explain(&error))?;
        let state: &CommonState = stream.get_ref().1;
        let resumed = state.handshake_kind() == Some(HandshakeKind::Resumed);
        let chain = state.peer_certificates().unwrap_or_default();
        let Some((shown, others)) = chain.split_first() else {
            return Err(failed("it showed no certificate".to_owned()));
        };
        if resumed {
            // It was verified when the session began; it may have expired since.
            client
                .verifier
                .judge(shown, others, UnixTime::now())
                .map_err(|refused| ConnectError::Certificate { address, refused: Box::new(refused) })?;
        }
        let certificate = Certificate::read(shown).ok();
        let verified = Verified { how: self.entry.verify, names: said, by_host };
        let leg = Leg::new(state, shown_name, certificate.map(Arc::new), Some(verified), resumed);
        Ok(Stream::to_server(stream, leg))
    }

    /// The names of which the server's certificate must have one, and whether they are more than the
    /// client's word.
    fn wanted(&self, server_name: Option<&str>) -> (Vec<ServerName<'static>>, bool) {
        if let Some(name) = &self.entry.server_name {
            return (vec![name.clone()], true);
        }
        let parse = |name: &str| ServerName::try_from(name.to_owned()).ok();
        if let Some(name) = server_name.and_then(parse) {
            let known = self.names.iter().any(|known| Some(known.as_ref()) == server_name);
            return (vec![name], known);
        }
        let known: Vec<_> = self.names.iter().filter_map(|name| parse(name)).collect();
        if known.is_empty() {
            let ip: IpAddr = self.client.server.ip().to_canonical();
            return (vec![ServerName::IpAddress(ip.into())], true);
        }
        (known, true)
    }

    fn explain(&self, error: &io::Error) -> ConnectError {
        let address = self.client.server;
        let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        if let Some(refused) = inner.and_then(Refused::find) {
            return ConnectError::Certificate { address, refused: Box::new(refused.clone()) };
        }
        let reason = match inner {
            Some(rustls::Error::AlertReceived(alert)) => {
                format!("it broke the handshake off with the alert {alert:?}")
            }
            Some(rustls::Error::InvalidMessage(_)) => "what it sent is no TLS".to_owned(),
            Some(other) => certificate::shown(&other.to_string()),
            None if error.kind() == io::ErrorKind::UnexpectedEof => {
                "it closed the connection in the handshake".to_owned()
            }
            None => error.to_string(),
        };
        ConnectError::Handshake { address, reason }
    }

    /// Goes on with the client, as the server that `upstream` leads to.
    ///
    /// # Errors
    /// No certificate could be made, or the client broke the handshake off.
    pub async fn accept(&self, hello: Hello, upstream: &Stream) -> io::Result<Stream> {
        let missing = || io::Error::other("the server showed no certificate");
        let leg = upstream.leg().ok_or_else(missing)?;
        let certificate = leg.certificate.as_ref().ok_or_else(missing)?;
        let trusted = self.entry.verify != Verify::None;
        let alpn = leg.alpn.as_deref().map(str::as_bytes);
        let leaf = self.engine.leaves.standing_for(certificate, trusted, alpn).map_err(io::Error::other)?;
        hello.finish(leaf).await
    }

    /// Goes on with the client without a server, only to tell it in the protocol's own words why there is
    /// none. Nothing that the client sends may go any further.
    ///
    /// # Errors
    /// As for [`FlowTls::accept`].
    pub async fn accept_to_refuse(&self, hello: Hello) -> io::Result<Stream> {
        let mut names = Names { ip: vec![self.client.server.ip().to_canonical()], ..Names::default() };
        names.dns.extend(hello.server_name.clone());
        names.dns.extend(self.names.iter().map(ToString::to_string));
        let alpn = hello.alpn.first().cloned();
        let leaf = self.engine.leaves.for_refusal(&names, alpn.as_deref()).map_err(io::Error::other)?;
        hello.finish(leaf).await
    }
}

// === impl Hello ===

impl Hello {
    async fn finish(self, leaf: Leaf) -> io::Result<Stream> {
        let Leaf { config, certificate } = leaf;
        let stream = self.start.into_stream(config).await.map_err(client_error)?;
        let state: &CommonState = stream.get_ref().1;
        let resumed = state.handshake_kind() == Some(HandshakeKind::Resumed);
        let leg = Leg::new(state, self.server_name, Some(certificate), None, resumed);
        Ok(Stream::to_client(stream, leg))
    }
}

/// A client's own words for not trusting us are short: says what they mean.
fn client_error(error: io::Error) -> io::Error {
    use rustls::AlertDescription as Alert;
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    let text = match inner {
        Some(rustls::Error::AlertReceived(
            alert @ (Alert::UnknownCA
            | Alert::BadCertificate
            | Alert::CertificateUnknown
            | Alert::CertificateExpired
            | Alert::AccessDenied),
        )) => format!(
            "the client does not accept the agent's certificate (alert {alert:?}): it does not trust the host's \
             authority, or it pins the server's own certificate (see `interlock trust status`)"
        ),
        Some(rustls::Error::AlertReceived(alert)) => {
            format!("the client broke the TLS handshake off with the alert {alert:?}")
        }
        Some(other) => format!("TLS handshake: {}", certificate::shown(&other.to_string())),
        None if error.kind() == io::ErrorKind::UnexpectedEof => {
            "the client closed the connection in the TLS handshake: it may not trust the host's authority"
                .to_owned()
        }
        None => return error,
    };
    io::Error::new(error.kind(), text)
}

// === impl Leg ===

impl Leg {
    fn new(
        state: &CommonState,
        server_name: Option<String>,
        certificate: Option<Arc<Certificate>>,
        verified: Option<Verified>,
        resumed: bool,
    ) -> Self {
        let version = match state.protocol_version() {
            Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
            Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
            _ => "unknown",
        };
        let suite = state.negotiated_cipher_suite();
        let alpn = state.alpn_protocol().map(|name| certificate::shown(&String::from_utf8_lossy(name)));
        Self {
            version,
            cipher: suite.map(|suite| format!("{:?}", suite.suite())).unwrap_or_default(),
            server_name: server_name.map(|name| certificate::shown(&name)),
            alpn,
            certificate,
            verified,
            resumed,
        }
    }
}

#[cfg(test)]
mod tests;
