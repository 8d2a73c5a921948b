//! Connections of agents: TLS 1.3, with a client certificate of the collector's authority or none.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, RwLock};
use std::task::{Context, Poll};
use std::time::Duration;

use interlock_recording::hex;
use interlock_shipping::ALPN;
use rustls::RootCertStore;
use rustls::crypto::ring;
use rustls::pki_types::CertificateDer;
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::Sleep;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Connected as Connection;

use super::IntakeError;
use crate::authority::{Authority, AuthorityError};
use crate::gate::{Gate, Pass};

/// Connections that have not shown a certificate: from one address, and in all. More are closed at once.
const STRANGERS: (usize, usize) = (64, 1024);
/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// How long a connection without a certificate may last: enrolment takes one call.
const STRANGER: Duration = Duration::from_secs(30);
/// The collector's own certificate is made anew this often.
const REISSUE: Duration = Duration::from_secs(24 * 3600);

/// The agent of a client certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// The host's id, hexadecimal.
    pub host: String,
    /// The certificate's serial number, hexadecimal.
    pub serial: String,
}

/// What is known of a connection; a request has it among its extensions.
#[derive(Debug, Clone)]
pub struct PeerInfo {
    /// Who it is; `None` without a client certificate.
    pub peer: Option<Peer>,
    /// Where it comes from.
    pub address: SocketAddr,
}

/// A connection of an agent.
#[derive(Debug)]
pub(super) struct Stream {
    inner: TlsStream<TcpStream>,
    info: PeerInfo,
    stranger: Option<Stranger>,
}

/// What bounds a connection without a certificate.
#[derive(Debug)]
struct Stranger {
    until: Pin<Box<Sleep>>,
    _pass: Pass,
}

impl Connection for Stream {
    type ConnectInfo = PeerInfo;

    fn connect_info(&self) -> PeerInfo {
        self.info.clone()
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(stranger) = &mut self.stranger
            && stranger.until.as_mut().poll(context).is_ready()
        {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Pin::new(&mut self.inner).poll_read(context, buffer)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(context, buffer)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

/// The collector's own certificate, which is exchanged while connections go on.
#[derive(Debug)]
struct Own(RwLock<Arc<CertifiedKey>>);

impl ResolvesServerCert for Own {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.read().ok().map(|key| Arc::clone(&key))
    }
}

fn tls(error: impl std::fmt::Display) -> IntakeError {
    IntakeError::Tls(error.to_string())
}

fn issue(authority: &Authority, names: &[String]) -> Result<Arc<CertifiedKey>, IntakeError> {
    let (chain, key) = authority.server(names)?;
    let key = CertifiedKey::from_der(chain, key, &ring::default_provider()).map_err(tls)?;
    Ok(Arc::new(key))
}

/// Accepts connections; gives those whose handshake is done.
pub(super) fn accept(
    listener: TcpListener,
    authority: Arc<Authority>,
    names: &[String],
) -> Result<ReceiverStream<io::Result<Stream>>, IntakeError> {
    let provider = Arc::new(ring::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(authority.certificate().clone()).map_err(tls)?;
    let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), Arc::clone(&provider))
        // Enrolment has none yet. Whatever else is called asks for one.
        .allow_unauthenticated()
        .build()
        .map_err(tls)?;
    let own = Arc::new(Own(RwLock::new(issue(&authority, names)?)));
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(tls)?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::clone(&own) as Arc<dyn ResolvesServerCert>);
    config.alpn_protocols = vec![ALPN.to_vec()];
    // A session that is resumed would not show its certificate again.
    config.send_tls13_tickets = 0;
    let acceptor = TlsAcceptor::from(Arc::new(config));

    let (sender, receiver) = mpsc::channel(32);
    let names = names.to_vec();
    tokio::spawn(async move {
        let gate = Gate::new(STRANGERS.0, STRANGERS.1);
        let mut reissue = tokio::time::interval(REISSUE);
        reissue.tick().await;
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = sender.closed() => return,
                _ = reissue.tick() => {
                    match issue(&authority, &names) {
                        Ok(key) => if let Ok(mut own) = own.0.write() { *own = key },
                        Err(error) => tracing::error!("the collector's certificate was not renewed: {error}"),
                    }
                    continue;
                }
            };
            let (stream, address) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of files, as a rule: some will be closed.
                    tracing::warn!("a connection of an agent was not accepted: {error}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let Some(pass) = gate.enter(address.ip()) else {
                tracing::debug!(%address, "closed: too many connections without a certificate");
                continue;
            };
            let (acceptor, sender) = (acceptor.clone(), sender.clone());
            tokio::spawn(async move {
                let _ = stream.set_nodelay(true);
                match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
                    Ok(Ok(inner)) => {
                        let certificate = inner.get_ref().1.peer_certificates().and_then(<[_]>::first);
                        let peer = match certificate.map(peer) {
                            Some(Err(error)) => {
                                tracing::warn!(%address, "{error}");
                                return;
                            }
                            Some(Ok(peer)) => Some(peer),
                            None => None,
                        };
                        let stranger = peer
                            .is_none()
                            .then(|| Stranger { until: Box::pin(tokio::time::sleep(STRANGER)), _pass: pass });
                        let info = PeerInfo { peer, address };
                        // The server has ended: nothing is to be told anybody.
                        let _ = sender.send(Ok(Stream { inner, info, stranger })).await;
                    }
                    Ok(Err(error)) => tracing::info!(%address, "no TLS with an agent: {error}"),
                    Err(_) => tracing::info!(%address, "no TLS with an agent: it took too long"),
                }
            });
        }
    });
    Ok(ReceiverStream::new(receiver))
}

/// The agent that a certificate of our authority was issued to.
fn peer(certificate: &CertificateDer<'_>) -> Result<Peer, AuthorityError> {
    let invalid = |error: String| AuthorityError::Invalid { what: "an agent's certificate", error };
    let (_, parsed) =
        x509_parser::parse_x509_certificate(certificate).map_err(|error| invalid(error.to_string()))?;
    let mut names = parsed.subject().iter_common_name();
    let host = names.next().and_then(|name| name.as_str().ok()).filter(|_| names.next().is_none());
    let host = host.ok_or_else(|| invalid("it has no name in it".into()))?.to_owned();
    Ok(Peer { host, serial: hex(parsed.raw_serial()) })
}
