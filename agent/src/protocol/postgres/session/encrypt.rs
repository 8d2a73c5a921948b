//! The encryption of both legs: what client and server ask for and answer before the start-up message
//! (PostgreSQL manual, "SSL Session Encryption" and "GSSAPI Session Encryption").
//!
//! The server is asked before the client is answered, so that the client gets the server's own answer.
//! What came in the clear is never read as if it had come encrypted (CVE-2021-23214, CVE-2021-23222).

use std::io;
use std::net::SocketAddr;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::policy::TlsTreatment;
use crate::protocol::SessionError;
use crate::protocol::postgres::startup::{self, Packet, StartupError};
use crate::tls::{ClientLeg, ConnectError, FlowTls, Hello, Leg, Stream};

/// How often a client may ask for encryption before it must go on without.
const MOST_REQUESTS: usize = 4;
/// SSLRequest.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];
/// The protocol's name in ALPN, which a client that begins with TLS must offer.
const ALPN: &[u8] = b"postgresql";
/// A first byte that only TLS has.
const HANDSHAKE: u8 = 22;

/// The opening of a flow, as far as it has come.
#[derive(Debug)]
pub(super) struct Opening {
    pub(super) client: Stream,
    /// `None` where the client is only to be told why it is not served.
    pub(super) upstream: Option<Stream>,
    /// What the client sent and was not used yet.
    pub(super) input: BytesMut,
    /// The server was asked for TLS and has none.
    declined: bool,
    /// The client asked for TLS, and got none from the agent although the server may have it.
    withheld: bool,
}

/// What the client opens the connection for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// It left.
    Nothing,
    /// A cancel request of this many bytes.
    Cancel(usize),
    /// A start-up message of this many bytes.
    Startup(usize),
    /// TLS that is passed on unread: both legs are as they were, and the client goes on with TLS.
    Pass,
}

impl Opening {
    pub(super) fn new(client: TcpStream, upstream: Option<TcpStream>) -> Self {
        Self {
            client: client.into(),
            upstream: upstream.map(Stream::from),
            input: BytesMut::with_capacity(1024),
            declined: false,
            withheld: false,
        }
    }

    /// Both legs are encrypted.
    pub(super) fn is_encrypted(&self) -> bool {
        self.client.is_encrypted() && self.upstream.as_ref().is_some_and(Stream::is_encrypted)
    }

    /// Settles the encryption of both legs and reads what the client wants. After an error the client is
    /// ready to be told about it, if it can be at all.
    pub(super) async fn negotiate(&mut self, tls: &FlowTls) -> Result<Purpose, SessionError> {
        if self.begins_with_tls().await? {
            return self.direct(tls).await;
        }
        let mut requests = 0;
        loop {
            let purpose = match startup::read(&self.input).map_err(frontend)? {
                Some((Packet::Ssl | Packet::GssEnc, _)) if self.client.is_encrypted() => {
                    return Err(SessionError::Frontend("encryption was asked for twice".to_owned()));
                }
                Some((packet @ (Packet::Ssl | Packet::GssEnc), length)) => {
                    requests += 1;
                    if requests > MOST_REQUESTS {
                        return Err(SessionError::Frontend("too many requests for encryption".to_owned()));
                    }
                    let asked_for_tls = packet == Packet::Ssl;
                    self.input.advance(length);
                    if !asked_for_tls || !self.offers_tls(tls).await? {
                        self.client.write_all(b"N").await.map_err(SessionError::Client)?;
                        continue;
                    }
                    if !self.input.is_empty() {
                        // In the server's own words.
                        return Err(SessionError::Frontend(
                            "received unencrypted data after SSL request".to_owned(),
                        ));
                    }
                    self.client.write_all(b"S").await.map_err(SessionError::Client)?;
                    if tls.treatment() == TlsTreatment::Passthrough && self.upstream.is_some() {
                        return Ok(Purpose::Pass);
                    }
                    let hello = self.hello().await?;
                    self.encrypt(tls, hello).await?;
                    continue;
                }
                Some((Packet::Cancel { .. }, length)) => Purpose::Cancel(length),
                Some((Packet::Startup(_), length)) => Purpose::Startup(length),
                None => {
                    if self.client.read_buf(&mut self.input).await.map_err(SessionError::Client)? == 0 {
                        return Ok(Purpose::Nothing);
                    }
                    continue;
                }
            };
            self.encrypt_server(tls).await?;
            return Ok(purpose);
        }
    }

    /// Looks at the client's first byte and leaves it where it is.
    async fn begins_with_tls(&mut self) -> Result<bool, SessionError> {
        let Some(client) = self.client.take_plain() else { return Ok(false) };
        let mut first = [0];
        let peeked = client.peek(&mut first).await;
        self.client = client.into();
        Ok(peeked.map_err(SessionError::Client)? > 0 && first == [HANDSHAKE])
    }

    /// A client that begins with TLS (`sslnegotiation=direct`).
    async fn direct(&mut self, tls: &FlowTls) -> Result<Purpose, SessionError> {
        match tls.treatment() {
            TlsTreatment::Passthrough if self.upstream.is_some() => return Ok(Purpose::Pass),
            TlsTreatment::Deny => {
                return Err(refused("08004", "the policies do not allow TLS to this server", ""));
            }
            _ if tls.client_leg() == ClientLeg::Plaintext => {
                return Err(refused(
                    "08004",
                    "the client began with TLS, and `client_leg: plaintext` is set for this server",
                    "Set sslnegotiation=postgres in the client, or take `client_leg` out of `tls: upstreams:`.",
                ));
            }
            _ => {}
        }
        let hello = self.hello().await?;
        if !hello.alpn.iter().any(|protocol| protocol == ALPN) {
            self.refuse(tls, hello).await?;
            return Err(refused(
                "08P01",
                "TLS without ALPN `postgresql`: what is in it is not known",
                "Set sslnegotiation=postgres in the client, or `tls: passthrough` in the policy.",
            ));
        }
        self.encrypt(tls, hello).await?;
        loop {
            match startup::read(&self.input).map_err(frontend)? {
                Some((Packet::Cancel { .. }, length)) => return Ok(Purpose::Cancel(length)),
                Some((Packet::Startup(_), length)) => return Ok(Purpose::Startup(length)),
                Some((Packet::Ssl | Packet::GssEnc, _)) => {
                    return Err(SessionError::Frontend("encryption was asked for twice".to_owned()));
                }
                None => {
                    if self.client.read_buf(&mut self.input).await.map_err(SessionError::Client)? == 0 {
                        return Ok(Purpose::Nothing);
                    }
                }
            }
        }
    }

    /// Whether the client that asks for TLS gets it.
    async fn offers_tls(&mut self, tls: &FlowTls) -> Result<bool, SessionError> {
        if tls.treatment() == TlsTreatment::Deny {
            return Ok(false);
        }
        if tls.client_leg() == ClientLeg::Plaintext {
            self.withheld = true;
            return Ok(false);
        }
        match &mut self.upstream {
            None => Ok(true),
            Some(_) if self.declined => Ok(false),
            Some(upstream) => {
                let offers = ask(upstream).await?;
                self.declined = !offers;
                Ok(offers)
            }
        }
    }

    async fn hello(&mut self) -> Result<Hello, SessionError> {
        let gone = || SessionError::Client(std::io::ErrorKind::NotConnected.into());
        let client = self.client.take_plain().ok_or_else(gone)?;
        FlowTls::hello(client).await.map_err(|error| {
            SessionError::Frontend(format!("what the client sent in the place of TLS is none: {error}"))
        })
    }

    /// TLS on both legs: first with the server, then with the client.
    async fn encrypt(&mut self, tls: &FlowTls, hello: Hello) -> Result<(), SessionError> {
        let Some(upstream) = self.upstream.as_mut().and_then(Stream::take_plain) else {
            return self.refuse(tls, hello).await;
        };
        match tls.connect(upstream, hello.server_name.as_deref(), &hello.alpn).await {
            Ok(upstream) => {
                let accepted = tls.accept(hello, &upstream).await;
                // A client that does not take the agent's certificate may come again without TLS.
                self.client =
                    accepted.inspect_err(|_| tls.remember_refusal()).map_err(SessionError::Client)?;
                self.upstream = Some(upstream);
                Ok(())
            }
            Err(error) => {
                tls.remember_refusal();
                self.refuse(tls, hello).await?;
                Err(unreachable_by_tls(&error))
            }
        }
    }

    /// TLS with the client alone, to tell it why there is no more.
    async fn refuse(&mut self, tls: &FlowTls, hello: Hello) -> Result<(), SessionError> {
        self.client = tls.accept_to_refuse(hello).await.map_err(SessionError::Client)?;
        Ok(())
    }

    /// TLS with the server where the client has none and the leg must not leave the host in the clear.
    async fn encrypt_server(&mut self, tls: &FlowTls) -> Result<(), SessionError> {
        let Some(upstream) = &mut self.upstream else { return Ok(()) };
        if upstream.is_encrypted() || !(self.withheld || tls.must_encrypt()) {
            return Ok(());
        }
        if self.declined || !ask(upstream).await? {
            return Err(refused(
                "08001",
                "the server has no TLS, and must be reached by TLS",
                "Have the server turn TLS on, or change `client_leg` and `server_leg` for it under `tls: \
                 upstreams:` in the agent's configuration.",
            ));
        }
        let Some(plain) = upstream.take_plain() else { return Ok(()) };
        *upstream = tls.connect(plain, None, &[]).await.map_err(|error| unreachable_by_tls(&error))?;
        Ok(())
    }
}

/// Another connection to the server of a flow, encrypted as the first one was.
pub(super) async fn again(tls: &FlowTls, server: SocketAddr, first: Option<&Leg>) -> io::Result<Stream> {
    let mut upstream = Stream::from(TcpStream::connect(server).await?);
    let Some(first) = first else { return Ok(upstream) };
    if !ask(&mut upstream).await.map_err(io::Error::other)? {
        return Err(io::Error::other("the server has no TLS any more"));
    }
    let plain = upstream.take_plain().ok_or(io::ErrorKind::NotConnected)?;
    let alpn: Vec<Vec<u8>> = first.alpn.iter().map(|protocol| protocol.clone().into_bytes()).collect();
    tls.connect(plain, first.server_name.as_deref(), &alpn).await.map_err(io::Error::other)
}

/// Asks the server for TLS. Not a byte more than its answer is read: what follows is TLS.
async fn ask(upstream: &mut Stream) -> Result<bool, SessionError> {
    upstream.write_all(&SSL_REQUEST).await.map_err(SessionError::Server)?;
    upstream.flush().await.map_err(SessionError::Server)?;
    match upstream.read_u8().await.map_err(SessionError::Server)? {
        b'S' => Ok(true),
        b'N' => Ok(false),
        // ErrorResponse: it could not even start a process for the connection.
        b'E' => {
            Err(SessionError::Backend("the server answered the request for TLS with an error".to_owned()))
        }
        other => Err(SessionError::Backend(format!("the server answered the request for TLS with {other}"))),
    }
}

fn refused(code: &'static str, reason: &str, hint: &str) -> SessionError {
    SessionError::Refused { code, reason: reason.to_owned(), hint: hint.to_owned() }
}

fn unreachable_by_tls(error: &ConnectError) -> SessionError {
    SessionError::Refused { code: "08001", reason: error.to_string(), hint: error.hint().to_owned() }
}

fn frontend(error: StartupError) -> SessionError {
    SessionError::Frontend(error.to_string())
}

/// The flow's connections, to be passed on unread.
pub(super) fn plain(opening: Opening) -> Option<(TcpStream, TcpStream)> {
    let Opening { mut client, upstream, .. } = opening;
    Some((client.take_plain()?, upstream?.take_plain()?))
}

/// The server of a flow, for messages.
pub(super) fn plaintext_refused(reason: String, server: SocketAddr) -> SessionError {
    SessionError::Refused {
        code: "28000",
        reason,
        hint: format!(
            "Set sslmode=require (or stricter) in the client. If it is, either {server} has no TLS, or \
             `client_leg: plaintext` is set for it in the agent's configuration."
        ),
    }
}
