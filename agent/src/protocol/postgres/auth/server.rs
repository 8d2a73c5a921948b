//! The agent as the server: has the script prove that it knows the password it always had.

use bytes::{BufMut as _, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};

use super::scram::{self, Exchange, ScramError};
use super::{MAX_SASL, ReadError, SCRAM, SCRAM_PLUS, read};
use crate::credential::verifier::Verifier;
use crate::protocol::postgres::codec::{self, HEADER, Reader};

/// Why a client is turned away.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    /// Its connection broke, or what it sent is no message of the protocol.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// Its connection broke.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// It is told so: SQLSTATE, message and detail are those of a server.
    #[error("{message}")]
    Refused {
        /// SQLSTATE.
        code: &'static str,
        /// The primary message.
        message: String,
        /// More on it.
        detail: Option<&'static str>,
    },
}

impl ClientError {
    fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self::Refused { code, message: message.into(), detail: None }
    }

    /// The FATAL ErrorResponse that the client gets, in PostgreSQL's own words; none when it cannot be
    /// reached any more.
    pub(crate) fn response(&self) -> Option<Vec<u8>> {
        let (code, message, detail) = match self {
            Self::Read(ReadError::Io(_) | ReadError::Closed) | Self::Io(_) => return None,
            Self::Read(error) => ("08P01", error.to_string(), None),
            Self::Refused { code, message, detail } => (*code, message.clone(), *detail),
        };
        let mut out = Vec::with_capacity(HEADER + 64 + message.len());
        codec::put_message(&mut out, b'E', |out| {
            let mut field = |code: u8, text: &str| {
                out.put_u8(code);
                codec::put_cstr(out, text.as_bytes());
            };
            field(b'S', "FATAL");
            field(b'V', "FATAL");
            field(b'C', code);
            field(b'M', &message);
            if let Some(detail) = detail {
                field(b'D', detail);
            }
            out.put_u8(0);
        });
        Some(out)
    }
}

/// Has the client prove by SCRAM-SHA-256 that it knows the password behind `verifier`; with the channel's
/// `binding` SCRAM-SHA-256-PLUS is offered too. Gives the mechanism that it chose. Afterwards the client
/// waits for AuthenticationOk.
///
/// # Errors
/// It could not, or did not keep to the protocol. [`ClientError::response`] is what to tell it.
pub(crate) async fn authenticate(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    input: &mut BytesMut,
    user: &str,
    verifier: &Verifier,
    binding: Option<&[u8]>,
) -> Result<&'static str, ClientError> {
    let mut offer = Vec::new();
    put_request(&mut offer, 10, |out| {
        if binding.is_some() {
            codec::put_cstr(out, SCRAM_PLUS.as_bytes());
        }
        codec::put_cstr(out, SCRAM.as_bytes());
        out.put_u8(0);
    });
    stream.write_all(&offer).await?;
    stream.flush().await?;

    let first = password_message(stream, input).await?;
    let mut reader = Reader::new(&first);
    let (mechanism, data) = (|| {
        let mechanism = reader.cstr()?;
        Ok((mechanism, reader.value()?))
    })()
    .map_err(|error| ClientError::Read(ReadError::Malformed(error)))?;
    let (mechanism, plus) = match mechanism {
        name if name == SCRAM.as_bytes() => (SCRAM, false),
        name if name == SCRAM_PLUS.as_bytes() && binding.is_some() => (SCRAM_PLUS, true),
        _ => {
            return Err(ClientError::new(
                "08P01",
                "client selected an invalid SASL authentication mechanism",
            ));
        }
    };
    let later;
    let data = match data {
        Some(data) => data,
        // A client may leave its first message out and be asked for it.
        None => {
            send(stream, 11, b"").await?;
            later = password_message(stream, input).await?;
            &later
        }
    };
    let told = |error| refused(error, user);
    let nonce = scram::nonce()?;
    let exchange = Exchange::begin(verifier, data, plus, binding, &nonce).map_err(told)?;
    send(stream, 11, exchange.server_first().as_bytes()).await?;
    let last = password_message(stream, input).await?;
    let proven = exchange.finish(&last).map_err(told)?;
    send(stream, 12, proven.as_bytes()).await?;
    Ok(mechanism)
}

async fn password_message(
    stream: &mut (impl AsyncRead + Unpin),
    input: &mut BytesMut,
) -> Result<BytesMut, ClientError> {
    // The mechanism's name and lengths come on top.
    let mut message = read(stream, input, MAX_SASL + 64).await?;
    if message.tag() != b'p' {
        let text = format!("expected SASL response, got message type {}", message.tag());
        return Err(ClientError::new("08P01", text));
    }
    Ok(message.0.split_off(HEADER))
}

async fn send(stream: &mut (impl AsyncWrite + Unpin), code: i32, data: &[u8]) -> std::io::Result<()> {
    let mut out = Vec::with_capacity(HEADER + 4 + data.len());
    put_request(&mut out, code, |out| out.put_slice(data));
    stream.write_all(&out).await?;
    stream.flush().await
}

fn put_request(out: &mut Vec<u8>, code: i32, data: impl FnOnce(&mut Vec<u8>)) {
    codec::put_message(out, b'R', |out| {
        out.put_i32(code);
        data(out);
    });
}

/// What PostgreSQL says in such a case.
fn refused(error: ScramError, user: &str) -> ClientError {
    let (code, message, detail) = match error {
        ScramError::Malformed(detail) => ("08P01", "malformed SCRAM message".to_owned(), Some(detail)),
        ScramError::Downgraded => (
            "28000",
            "SCRAM channel binding negotiation error".to_owned(),
            Some(
                "The client supports SCRAM channel binding but thinks the server does not.  However, this \
                 server does support channel binding.",
            ),
        ),
        ScramError::AuthorizationIdentity => {
            ("0A000", "client uses authorization identity, but it is not supported".to_owned(), None)
        }
        ScramError::OtherChannel => ("28000", "SCRAM channel binding check failed".to_owned(), None),
        ScramError::WrongPassword => {
            ("28P01", format!("password authentication failed for user \"{user}\""), None)
        }
    };
    ClientError::Refused { code, message, detail }
}
