//! Connections to the collector: HTTP/2 over TLS 1.3 of our own.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use interlock_shipping::ALPN;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, OtherError, RootCertStore, SignatureScheme,
};
use sha2::{Digest as _, Sha256};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use zeroize::Zeroizing;

use super::enrolment::Enrolment;
use super::wire::{End, Wire};
use super::{Address, Fault, printable};

/// How long looking the name up, connecting and TLS may take together.
const CONNECTING: Duration = Duration::from_secs(15);
/// The other side is asked for a sign of life after so long without one,
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// and has so long to answer.
const KEEP_ALIVE_ANSWER: Duration = Duration::from_secs(15);
/// Bytes of headers that are taken in an answer.
const MAX_HEADERS: u32 = 16 << 10;

/// The collector's authority, as an enrolment token names it.
#[derive(Debug)]
struct Pinned {
    /// SHA-256 of the authority's certificate.
    authority: [u8; 32],
    provider: Arc<CryptoProvider>,
}

/// None of the certificates that were shown is the one that the token names.
#[derive(Debug, thiserror::Error)]
#[error(
    "none of the certificates that it shows is the one that the token names. The token is of another collector, \
     or another server answers at this address"
)]
struct OtherAuthority;

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let authority = intermediates.iter().find(|shown| Sha256::digest(shown)[..] == self.authority);
        let Some(authority) = authority else {
            return Err(CertificateError::Other(OtherError(Arc::new(OtherAuthority))).into());
        };
        // It alone, and as an authority: that it was shown proves nothing by itself.
        verifier(authority, &self.provider)?.verify_server_cert(end_entity, &[], name, ocsp, now)
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2 is not spoken here".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Verifies against one authority.
fn verifier(
    authority: &CertificateDer<'_>,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<WebPkiServerVerifier>, Error> {
    let mut roots = RootCertStore::empty();
    roots.add(authority.clone().into_owned())?;
    WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider))
        .build()
        .map_err(|error| Error::General(error.to_string()))
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// TLS with a collector whose authority is only known by its hash, without a certificate of our own.
pub(super) fn first_contact(authority: [u8; 32]) -> Result<ClientConfig, Fault> {
    let provider = provider();
    let pinned = Arc::new(Pinned { authority, provider: Arc::clone(&provider) });
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(unusable)?
        .dangerous()
        .with_custom_certificate_verifier(pinned)
        .with_no_client_auth();
    Ok(settle(config))
}

/// TLS with the collector that this host is enrolled with.
pub(super) fn enrolled(enrolment: &Enrolment) -> Result<ClientConfig, Fault> {
    let provider = provider();
    let authority = CertificateDer::from(enrolment.authority.as_slice());
    let verifier = verifier(&authority, &provider).map_err(unusable)?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(enrolment.key.to_vec()));
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(unusable)?
        .with_webpki_verifier(verifier)
        .with_client_auth_cert(vec![CertificateDer::from(enrolment.certificate.clone())], key)
        .map_err(unusable)?;
    Ok(settle(config))
}

#[expect(clippy::needless_pass_by_value, reason = "it stands in map_err")]
fn unusable(error: Error) -> Fault {
    Fault::Enrolment(format!("what is kept of the enrolment cannot be used ({error}): enrol this host anew"))
}

fn settle(mut config: ClientConfig) -> ClientConfig {
    config.alpn_protocols = vec![ALPN.to_vec()];
    // Whether a certificate still counts is looked at on both sides, each time.
    config.resumption = Resumption::disabled();
    config
}

/// A connection to the collector.
#[derive(Debug, Clone)]
pub(super) struct Connection {
    pub(super) channel: Channel,
    end: End,
}

impl Connection {
    /// Why a call over it failed.
    pub(super) fn fault(&self, status: &Status) -> Fault {
        match (self.end.alert(), self.end.error()) {
            (Some(alert), _) => Fault::alert(alert),
            // What the call says is only that nobody connects again.
            (None, Some(error)) if status.code() == Code::Unavailable => Fault::Broke(printable(error)),
            (None, _) => Fault::of_call(status),
        }
    }
}

/// Connects to the collector.
pub(super) async fn connect(address: &Address, config: ClientConfig) -> Result<Connection, Fault> {
    let shown = address.to_string();
    let failed = |error: io::Error| Fault::connecting(&shown, &error);
    let late = |_| failed(io::Error::new(io::ErrorKind::TimedOut, "it did not answer in time"));
    let stream =
        tokio::time::timeout(CONNECTING, open(address, config)).await.map_err(late)?.map_err(failed)?;
    let (wire, end) = Wire::new(stream);
    let mut wire = Some(TokioIo::new(wire));
    // Whatever the connection breaks with, the next one is made here, not behind our back.
    let once = tower::service_fn(move |_| {
        let wire = wire.take();
        async move { wire.ok_or_else(|| io::Error::other("it has ended")) }
    });
    let channel = Endpoint::from_shared(address.to_string())
        .map_err(|error| failed(io::Error::other(error)))?
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE_ANSWER)
        .keep_alive_while_idle(true)
        .http2_max_header_list_size(MAX_HEADERS)
        .connect_with_connector(once)
        .await
        .map_err(|error| match end.alert() {
            Some(alert) => Fault::alert(alert),
            None => failed(io::Error::other(error)),
        })?;
    Ok(Connection { channel, end })
}

async fn open(address: &Address, config: ClientConfig) -> io::Result<TlsStream<TcpStream>> {
    let name = address.server_name().ok_or_else(|| io::Error::other("it has no host name"))?;
    let stream = TcpStream::connect(address.target()).await?;
    stream.set_nodelay(true)?;
    let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
    if stream.get_ref().1.alpn_protocol() != Some(ALPN) {
        return Err(io::Error::other("it does not speak HTTP/2: is this the collector's port for agents?"));
    }
    Ok(stream)
}

/// A key of this host's own and a request for a certificate for it, DER.
pub(super) fn make_request(host: &str) -> Result<(Zeroizing<Vec<u8>>, Vec<u8>), Fault> {
    let failed = |error: rcgen::Error| Fault::Enrolment(format!("cannot make a key: {error}"));
    let key = crate::tls::Secret::generate().map_err(failed)?;
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    // The longest common name that RFC 5280 allows.
    params.distinguished_name.push(rcgen::DnType::CommonName, host.chars().take(64).collect::<String>());
    let request = params.serialize_request(&key).map_err(failed)?;
    Ok((Zeroizing::new(key.der().to_vec()), request.der().to_vec()))
}
