//! The agent as the client: logs in to a server with a password that it holds.

use bytes::{BufMut as _, BytesMut};
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{ChannelBinding, ScramSha256};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use zeroize::Zeroize as _;

use super::{MAX_MESSAGE, Message, ReadError, SCRAM, SCRAM_PLUS, read, request};
use crate::credential::{Login, ServerAuth};
use crate::protocol::postgres::codec::{self, HEADER, Reader};

/// Most notices and the like that a server may send before it asks for anything.
const MOST_ASIDE: usize = 16;

/// Why the agent is not logged in.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoginError {
    /// The connection broke, or what the server sent is no message of the protocol.
    #[error("server: {0}")]
    Read(#[from] ReadError),
    /// The connection broke.
    #[error("server: {0}")]
    Io(#[from] std::io::Error),
    /// The server sent this ErrorResponse (whole, framed).
    #[error("the server refused the log-in: {} ({})", .0.message(), .0.code())]
    Refused(ServerError),
    /// The server asks for something that the agent does not do; the message says what to set.
    #[error("{0}")]
    NotAllowed(String),
    /// The server could not prove that it knows the password's verifier, or broke the exchange.
    #[error("the server's part of the SCRAM exchange does not hold: {0}")]
    Exchange(String),
}

/// An ErrorResponse of the server's.
#[derive(Debug)]
pub(crate) struct ServerError(BytesMut);

impl ServerError {
    fn field(&self, wanted: u8) -> String {
        let body = self.0.get(HEADER..).unwrap_or_default();
        let found = codec::notice_fields(body).find(|(code, _)| *code == wanted);
        found.map(|(_, text)| String::from_utf8_lossy(text).into_owned()).unwrap_or_default()
    }

    /// SQLSTATE.
    pub(crate) fn code(&self) -> String {
        self.field(b'C')
    }

    /// The primary message.
    pub(crate) fn message(&self) -> String {
        self.field(b'M')
    }

    /// The server does not accept this user with this password (class 28), rather than being unable to
    /// serve anybody.
    pub(crate) fn is_about_the_login(&self) -> bool {
        self.code().starts_with("28")
    }

    /// The message as it came.
    pub(crate) fn into_bytes(self) -> BytesMut {
        self.0
    }
}

/// A server's first word after the start-up message.
#[derive(Debug)]
pub(crate) struct Greeting {
    /// NegotiateProtocolVersion, which is the client's to know; empty when there was none.
    pub(crate) negotiation: BytesMut,
    /// The body of the first authentication request.
    request: BytesMut,
}

/// Sends the start-up message and reads what the server asks for.
///
/// # Errors
/// It refuses at once, or the connection breaks.
pub(crate) async fn greet(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    input: &mut BytesMut,
    startup: &[u8],
) -> Result<Greeting, LoginError> {
    stream.write_all(startup).await?;
    stream.flush().await?;
    let mut negotiation = BytesMut::new();
    for _ in 0..MOST_ASIDE {
        let Message(mut bytes) = read(stream, input, MAX_MESSAGE).await?;
        match bytes.first() {
            Some(b'v') if negotiation.is_empty() => negotiation = bytes,
            Some(b'R') => return Ok(Greeting { negotiation, request: bytes.split_off(HEADER) }),
            Some(b'E') => return Err(LoginError::Refused(ServerError(bytes))),
            Some(b'N') => {}
            tag => return Err(unexpected(tag.copied())),
        }
    }
    Err(LoginError::Exchange("more notices than a server sends".to_owned()))
}

/// Answers the server's requests until it says AuthenticationOk, and gives the method by which. What
/// the server sent behind that stays in `input`. `binding` is the channel's (`tls-server-end-point`),
/// `encrypted` whether the connection to the server is.
///
/// # Errors
/// The server refuses, asks for what the agent does not do, or cannot prove itself.
pub(crate) async fn log_in(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    input: &mut BytesMut,
    greeting: Greeting,
    login: &Login,
    allowed: ServerAuth,
    binding: Option<&[u8]>,
    encrypted: bool,
) -> Result<&'static str, LoginError> {
    let (code, rest) = request(&greeting.request).map_err(ReadError::from)?;
    let method = match code {
        0 => {
            allowed.check("trust", allowed.trust)?;
            return Ok("trust");
        }
        3 => {
            let cleartext = allowed.cleartext.unwrap_or(encrypted);
            allowed.check("cleartext", cleartext)?;
            answer(stream, |out| {
                out.put_slice(login.password());
                out.put_u8(0);
            })
            .await?;
            "cleartext"
        }
        5 => {
            allowed.check("md5", allowed.md5)?;
            let salt: [u8; 4] =
                rest.try_into().map_err(|_| LoginError::Exchange("no salt of 4 bytes".into()))?;
            let mut hash = md5_hash(login.user.as_bytes(), login.password(), salt);
            answer(stream, |out| {
                out.put_slice(hash.as_bytes());
                out.put_u8(0);
            })
            .await?;
            hash.zeroize();
            "md5"
        }
        10 => scram(stream, input, rest, login, binding).await?,
        2 | 6..=9 => {
            return Err(LoginError::NotAllowed(
                "the server asks for GSSAPI or SSPI, which the agent cannot do: let it accept scram-sha-256 \
                 from this host (pg_hba.conf)"
                    .to_owned(),
            ));
        }
        other => {
            return Err(LoginError::NotAllowed(format!(
                "the server asks for unknown authentication {other}"
            )));
        }
    };
    let message = next(stream, input).await?;
    match request(message.body()).map_err(ReadError::from)? {
        (0, _) => Ok(method),
        (other, _) => Err(LoginError::Exchange(format!("authentication request {other} after the password"))),
    }
}

async fn scram(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    input: &mut BytesMut,
    offered: &[u8],
    login: &Login,
    binding: Option<&[u8]>,
) -> Result<&'static str, LoginError> {
    let mut reader = Reader::new(offered);
    let (mut plain, mut plus) = (false, false);
    loop {
        match reader.cstr().map_err(ReadError::from)? {
            b"" => break,
            name if name == SCRAM.as_bytes() => plain = true,
            name if name == SCRAM_PLUS.as_bytes() => plus = true,
            _ => {}
        }
    }
    let (mechanism, method, channel) = match binding {
        Some(binding) if plus => {
            (SCRAM_PLUS, "scram-sha-256-plus", ChannelBinding::tls_server_end_point(binding.to_vec()))
        }
        // The server notices if its offer of binding was taken out on the way.
        Some(_) if plain => (SCRAM, "scram-sha-256", ChannelBinding::unrequested()),
        None if plain => (SCRAM, "scram-sha-256", ChannelBinding::unsupported()),
        _ => {
            return Err(LoginError::NotAllowed(
                "the server offers no SASL mechanism that the agent can do here (SCRAM-SHA-256; \
                 SCRAM-SHA-256-PLUS over TLS)"
                    .to_owned(),
            ));
        }
    };
    let mut scram = ScramSha256::new(login.password(), channel);
    answer(stream, |out| {
        codec::put_cstr(out, mechanism.as_bytes());
        // At most some hundred bytes.
        out.put_i32(i32::try_from(scram.message().len()).unwrap_or_default());
        out.put_slice(scram.message());
    })
    .await?;

    let broken = |error: std::io::Error| LoginError::Exchange(error.to_string());
    let message = next(stream, input).await?;
    let (11, first) = request(message.body()).map_err(ReadError::from)? else {
        return Err(LoginError::Exchange("no server-first-message".to_owned()));
    };
    let first = first.to_vec();
    // The server chooses how many rounds this takes.
    let (mut scram, updated) = tokio::task::spawn_blocking(move || {
        let updated = scram.update(&first);
        (scram, updated)
    })
    .await
    .map_err(|error| LoginError::Exchange(error.to_string()))?;
    updated.map_err(broken)?;
    answer(stream, |out| out.put_slice(scram.message())).await?;

    let message = next(stream, input).await?;
    let (12, last) = request(message.body()).map_err(ReadError::from)? else {
        return Err(LoginError::Exchange("no server-final-message".to_owned()));
    };
    scram.finish(last).map_err(broken)?;
    Ok(method)
}

/// The next authentication request.
async fn next(stream: &mut (impl AsyncRead + Unpin), input: &mut BytesMut) -> Result<Message, LoginError> {
    for _ in 0..MOST_ASIDE {
        let message = read(stream, input, MAX_MESSAGE).await?;
        match message.tag() {
            b'R' => return Ok(message),
            b'E' => return Err(LoginError::Refused(ServerError(message.0))),
            b'N' => {}
            tag => return Err(unexpected(Some(tag))),
        }
    }
    Err(LoginError::Exchange("more notices than a server sends".to_owned()))
}

async fn answer(
    stream: &mut (impl AsyncWrite + Unpin),
    body: impl FnOnce(&mut Vec<u8>),
) -> std::io::Result<()> {
    // Large enough not to be moved, which would leave a copy behind.
    let mut out = Vec::with_capacity(HEADER + crate::credential::secret::MAX_SECRET + 1024);
    codec::put_message(&mut out, b'p', body);
    let written = stream.write_all(&out).await;
    out.zeroize();
    written?;
    stream.flush().await
}

fn unexpected(tag: Option<u8>) -> LoginError {
    LoginError::Exchange(format!("message {:?} during the log-in", char::from(tag.unwrap_or_default())))
}

impl ServerAuth {
    fn check(self, method: &str, allowed: bool) -> Result<(), LoginError> {
        if allowed {
            return Ok(());
        }
        Err(LoginError::NotAllowed(format!(
            "the server asks for a log-in by {method}, which this credential does not allow: have the server \
             ask for scram-sha-256 (pg_hba.conf), or set `server_auth: {{{method}: true}}`"
        )))
    }
}

/// The start-up message with another user and database; all else stays, in its order.
pub(crate) fn rewrite_startup(startup: &[u8], user: &str, database: &str) -> Vec<u8> {
    let mut out = vec![0; 4];
    out.extend_from_slice(startup.get(4..8).unwrap_or_default());
    let mut reader = Reader::new(startup.get(8..).unwrap_or_default());
    let mut put = |name: &[u8], value: &[u8]| {
        codec::put_cstr(&mut out, name);
        codec::put_cstr(&mut out, value);
    };
    put(b"user", user.as_bytes());
    put(b"database", database.as_bytes());
    while let (Ok(name), Ok(value)) = (reader.cstr(), reader.cstr()) {
        if name.is_empty() {
            break;
        }
        if name != b"user" && name != b"database" {
            put(name, value);
        }
    }
    out.push(0);
    let length = u32::try_from(out.len()).unwrap_or(u32::MAX).to_be_bytes();
    out.iter_mut().zip(length).for_each(|(to, from)| *to = from);
    out
}
