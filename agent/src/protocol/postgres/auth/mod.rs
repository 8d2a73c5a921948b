//! Authentication, both sides of it: [`client`] logs in to a server with a secret that the agent holds,
//! [`server`] has the script prove itself to the agent.

pub(crate) mod client;
pub(crate) mod scram;
pub(crate) mod server;
#[cfg(test)]
mod tests;

use std::io;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt as _};

use super::codec::{self, CodecError, HEADER, Header};

/// The longest message of a log-in in bytes. Errors and notices are the longest there are.
const MAX_MESSAGE: usize = 30_000;

/// The longest SASL message in bytes that PostgreSQL takes from a client (`PG_MAX_SASL_MESSAGE_LENGTH`).
const MAX_SASL: usize = 1024;

pub(crate) const SCRAM: &str = "SCRAM-SHA-256";
pub(crate) const SCRAM_PLUS: &str = "SCRAM-SHA-256-PLUS";

/// AuthenticationOk, whole.
pub(crate) const OK: [u8; 9] = [b'R', 0, 0, 0, 8, 0, 0, 0, 0];

/// Why no whole message could be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("the connection was closed during the log-in")]
    Closed,
    #[error(transparent)]
    Malformed(#[from] CodecError),
    #[error("message {:?} of {length} bytes during the log-in", char::from(*.tag))]
    TooLong { tag: u8, length: usize },
}

/// A message, still framed.
#[derive(Debug)]
struct Message(BytesMut);

impl Message {
    fn tag(&self) -> u8 {
        self.0.first().copied().unwrap_or_default()
    }

    fn body(&self) -> &[u8] {
        self.0.get(HEADER..).unwrap_or_default()
    }
}

/// Reads a whole message of at most `most` bytes. What comes behind it stays in `input`.
async fn read(
    stream: &mut (impl AsyncRead + Unpin),
    input: &mut BytesMut,
    most: usize,
) -> Result<Message, ReadError> {
    loop {
        if let Some(header) = Header::read(input)? {
            if header.body > most {
                return Err(ReadError::TooLong { tag: header.tag, length: header.body });
            }
            if input.len() >= header.total() {
                return Ok(Message(input.split_to(header.total())));
            }
        }
        if stream.read_buf(input).await? == 0 {
            return Err(ReadError::Closed);
        }
    }
}

/// An authentication request: its code and what comes behind that.
fn request(body: &[u8]) -> Result<(i32, &[u8]), CodecError> {
    let mut reader = codec::Reader::new(body);
    let code = reader.i32()?;
    Ok((code, reader.rest()))
}
