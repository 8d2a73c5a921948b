//! A connection to one broker: TLS, signing in, one request after another.

use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use zeroize::Zeroizing;

use super::scram::{Hash, Scram};
use super::wire::{self, Garbled, Reader, Writer, error, key};
use crate::outputs::config::{Sasl, SaslMechanism};
use crate::outputs::send::secret_line;

/// For connecting, and for the TLS handshake.
const CONNECT: Duration = Duration::from_secs(5);
/// The longest answer that is read, bytes: Metadata of some hundred thousand partitions.
const MAX_ANSWER: usize = 8 << 20;
/// By this name brokers know the collector, in their logs and quotas.
const CLIENT: &str = "interlock-collector";

trait Stream: AsyncRead + AsyncWrite + Send + Sync + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Sync + Unpin> Stream for T {}

/// What went wrong with a broker.
#[derive(Debug, thiserror::Error)]
pub(super) enum BrokerError {
    /// There is no connection, or it broke: another one may do.
    #[error("{place}: {why}")]
    Broken { place: String, why: String },
    /// It does not go on with this broker whatever the connection.
    #[error("{place}: {why}")]
    Wrong { place: String, why: String },
}

/// A connection that is signed in.
pub(super) struct Connection {
    stream: Box<dyn Stream>,
    place: String,
    correlation: i32,
    /// The version in which Produce is asked for.
    pub(super) produce: i16,
}

impl Connection {
    /// Connects to a broker and signs in.
    pub(super) async fn open(
        host: &str,
        port: u16,
        tls: Option<&TlsConnector>,
        sasl: Option<&Sasl>,
    ) -> Result<Self, BrokerError> {
        let place = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
        let broken = |why: String| BrokerError::Broken { place: place.clone(), why };
        let late = |what: &str| broken(format!("{what} took longer than {} s", CONNECT.as_secs()));
        let stream = timeout(CONNECT, TcpStream::connect((host, port)))
            .await
            .map_err(|_| late("connecting"))?
            .map_err(|error| broken(format!("it cannot be connected to: {error}")))?;
        stream.set_nodelay(true).map_err(|error| broken(error.to_string()))?;
        let stream: Box<dyn Stream> = match tls {
            None => Box::new(stream),
            Some(tls) => {
                let name = ServerName::try_from(host.to_owned())
                    .map_err(|_| broken("the broker's name is none that a certificate can have".into()))?;
                let handshake = timeout(CONNECT, tls.connect(name, stream)).await;
                let stream = handshake
                    .map_err(|_| late("the TLS handshake"))?
                    .map_err(|error| broken(format!("TLS: {error}")))?;
                Box::new(stream)
            }
        };
        let mut this = Self { stream, place, correlation: 0, produce: *wire::PRODUCE_VERSIONS.start() };
        this.agree().await?;
        if let Some(sasl) = sasl {
            this.sign_in(sasl).await?;
        }
        Ok(this)
    }

    fn broken(&self, why: impl std::fmt::Display) -> BrokerError {
        BrokerError::Broken { place: self.place.clone(), why: why.to_string() }
    }

    pub(super) fn wrong(&self, why: impl std::fmt::Display) -> BrokerError {
        BrokerError::Wrong { place: self.place.clone(), why: why.to_string() }
    }

    /// Asks, and reads the answer. After an error the connection is of no more use.
    pub(super) async fn ask(&mut self, api: i16, version: i16, body: &[u8]) -> Result<Vec<u8>, BrokerError> {
        self.correlation = self.correlation.wrapping_add(1) & i32::MAX;
        let request = wire::request(api, version, self.correlation, CLIENT, body);
        let answered = async {
            let length = u32::try_from(request.len()).map_err(std::io::Error::other)?;
            self.stream.write_all(&length.to_be_bytes()).await?;
            self.stream.write_all(&request).await?;
            self.stream.flush().await?;
            let length = self.stream.read_u32().await?;
            let fits = usize::try_from(length).ok().filter(|length| (4..=MAX_ANSWER).contains(length));
            let length = fits.ok_or_else(|| std::io::Error::other(Garbled))?;
            let correlation = self.stream.read_i32().await?;
            if correlation != self.correlation {
                return Err(std::io::Error::other(Garbled));
            }
            // Room is made as bytes come, not because the broker says how many will.
            let mut answer = Vec::new();
            let rest = length - 4;
            (&mut self.stream).take(rest as u64).read_to_end(&mut answer).await?;
            if answer.len() < rest { Err(std::io::ErrorKind::UnexpectedEof.into()) } else { Ok(answer) }
        };
        let answered: std::io::Result<Vec<u8>> = answered.await;
        answered.map_err(|error| match error.kind() {
            std::io::ErrorKind::UnexpectedEof => self.broken("it ended the connection"),
            _ => self.broken(format_args!("the connection broke: {error}")),
        })
    }

    /// Finds versions that both sides know.
    async fn agree(&mut self) -> Result<(), BrokerError> {
        let answer = self.ask(key::API_VERSIONS, 0, &[]).await?;
        let known = wire::api_versions(&answer).map_err(|error| self.wrong(error))?;
        let range = |key: i16| known.get(&key).copied().unwrap_or((0, -1));
        let (least, most) = range(key::PRODUCE);
        let ours = wire::PRODUCE_VERSIONS;
        self.produce = most.min(*ours.end());
        let (from, to) = range(key::METADATA);
        let metadata = (from..=to).contains(&wire::METADATA_VERSION);
        if self.produce < least.max(*ours.start()) || !metadata {
            return Err(
                self.wrong("it does not know the versions of the protocol that Kafka has had since 0.11")
            );
        }
        Ok(())
    }

    async fn sign_in(&mut self, sasl: &Sasl) -> Result<(), BrokerError> {
        let password = secret_line(&sasl.password).map_err(|error| self.wrong(format_args!("{error:#}")))?;
        let name = match sasl.mechanism {
            SaslMechanism::Plain => "PLAIN",
            SaslMechanism::ScramSha256 => "SCRAM-SHA-256",
            SaslMechanism::ScramSha512 => "SCRAM-SHA-512",
        };
        let mut body = Writer::default();
        body.text(name);
        let answer = self.ask(key::SASL_HANDSHAKE, 1, &body.0).await.map_err(|error| match error {
            // Brokers whose listener has no SASL end the connection.
            BrokerError::Broken { place, .. } => {
                BrokerError::Wrong { place, why: "it ended the connection when SASL was asked for".into() }
            }
            wrong @ BrokerError::Wrong { .. } => wrong,
        })?;
        let code = Reader(&answer).i16().map_err(|error| self.wrong(error))?;
        if code != error::NONE {
            return Err(self.wrong(format_args!("{name}: {}", error::meaning(code))));
        }
        let hash = match sasl.mechanism {
            SaslMechanism::Plain => {
                let mut message = Zeroizing::new(Vec::with_capacity(sasl.user.len() + password.len() + 2));
                for part in [sasl.user.as_bytes(), password.as_bytes()] {
                    message.push(0);
                    message.extend(part);
                }
                return self.authenticate(&message, name).await.map(drop);
            }
            SaslMechanism::ScramSha256 => Hash::Sha256,
            SaslMechanism::ScramSha512 => Hash::Sha512,
        };
        let scram = Scram::new(hash, &sasl.user).map_err(|error| self.wrong(error))?;
        let server = self.authenticate(&scram.first(), name).await?;
        // Off the threads that serve everyone else.
        let derived = tokio::task::spawn_blocking(move || scram.last(&password, &server)).await;
        let (last, expected) = derived
            .map_err(|error| self.wrong(error))?
            .map_err(|error| self.wrong(format_args!("{name}: {error}")))?;
        let server = self.authenticate(&last, name).await?;
        expected.check(&server).map_err(|error| self.wrong(format_args!("{name}: {error}")))
    }

    async fn authenticate(&mut self, message: &[u8], name: &str) -> Result<Vec<u8>, BrokerError> {
        let mut body = Writer::default();
        body.bytes(message);
        let body = Zeroizing::new(body.0);
        let answer = self.ask(key::SASL_AUTHENTICATE, 0, &body).await?;
        let read = || {
            let mut reader = Reader(&answer);
            let code = reader.i16()?;
            reader.text()?; // The broker's own words are not shown.
            Ok((code, reader.bytes()?.to_vec()))
        };
        let (code, bytes) = read().map_err(|error: Garbled| self.wrong(error))?;
        if code != error::NONE {
            return Err(self.wrong(format_args!("{name}: {}", error::meaning(code))));
        }
        Ok(bytes)
    }
}
