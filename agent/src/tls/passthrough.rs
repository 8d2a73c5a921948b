//! TLS that is passed on as it is: not read, but recorded as far as it can be seen.

use std::io;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::certificate::{Certificate, shown};
use super::hello::{self, Answer, ClientHello, Opening};
use crate::record::{RecordError, Session, TlsPassed};

/// Bytes read at once, in each direction.
const CHUNK: usize = 16 << 10;

/// Bytes passed on, by direction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Passed {
    /// From the client.
    pub from_client: u64,
    /// From the server.
    pub from_server: u64,
}

/// Why TLS was not passed on.
#[derive(Debug, thiserror::Error)]
pub enum PassError {
    /// What the client sent is no TLS.
    #[error("what the client sent is no TLS, so it is not passed on unseen")]
    NoTls,
    /// It could not be recorded.
    #[error("{0}")]
    Record(#[from] RecordError),
    /// A connection broke.
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// Passes a client's TLS on to the server, and what comes back to the client, until both have closed.
/// What can be seen of the handshake is on disk before any of it is passed on.
///
/// # Errors
/// The client sends something else than TLS, the recording fails, or a connection breaks.
pub async fn pass(
    mut client: TcpStream,
    mut server: TcpStream,
    session: &Session,
) -> Result<Passed, PassError> {
    let mut first = BytesMut::with_capacity(CHUNK);
    let hello = loop {
        match hello::opening(&first) {
            Opening::Hello(hello) => break hello,
            Opening::Other | Opening::Malformed => return Err(PassError::NoTls),
            Opening::NeedMore => {
                if client.read_buf(&mut first).await? == 0 {
                    return Ok(Passed::default());
                }
            }
        }
    };
    session.tls_passed(&seen_of_client(&hello))?;
    let mut passed = Passed { from_client: first.len() as u64, from_server: 0 };
    server.write_all(&first).await?;
    let mut answer = first;
    answer.clear();
    let (client_read, mut client_write) = client.split();
    let (mut server_read, server_write) = server.split();
    let up = one_way(client_read, server_write);
    let down = async {
        // Until the server's certificate has come by, or it is known that it will not.
        let mut copied = 0;
        loop {
            let before = answer.len();
            if server_read.read_buf(&mut answer).await? == 0 {
                client_write.shutdown().await?;
                return Ok(copied);
            }
            let seen = hello::answer(&answer);
            if seen != Answer::NeedMore {
                session.tls_passed(&seen_of_server(&seen)).map_err(io::Error::other)?;
            }
            let new = answer.get(before..).unwrap_or_default();
            copied += new.len() as u64;
            client_write.write_all(new).await?;
            if seen != Answer::NeedMore {
                break;
            }
        }
        drop(answer);
        Ok(copied + one_way(server_read, client_write).await?)
    };
    let (up, down): (u64, u64) = tokio::try_join!(up, down)?;
    passed.from_client += up;
    passed.from_server += down;
    Ok(passed)
}

fn seen_of_client(hello: &ClientHello) -> TlsPassed {
    let alpn = hello.alpn.iter().map(|name| shown(&String::from_utf8_lossy(name))).collect();
    TlsPassed {
        side: "client",
        version: if hello.tls13 { "TLSv1.3" } else { "TLSv1.2" },
        server_name: hello.server_name.clone().unwrap_or_default(),
        alpn,
        certificate: None,
        note: "",
    }
}

fn seen_of_server(answer: &Answer) -> TlsPassed {
    let (version, certificate, note) = match answer {
        Answer::Hidden => ("TLSv1.3", None, "TLS 1.3 encrypts the server's certificate"),
        Answer::Certificate { version, der } => {
            let version = match version {
                0x0303 => "TLSv1.2",
                0x0302 => "TLSv1.1",
                0x0301 => "TLSv1",
                _ => "SSLv3",
            };
            (version, Certificate::read(der).ok(), "the certificate was not verified by the agent")
        }
        Answer::Unknown | Answer::NeedMore => ("", None, "no certificate was seen"),
    };
    TlsPassed { side: "server", version, certificate, note, ..TlsPassed::default() }
}

async fn one_way(
    mut from: tokio::net::tcp::ReadHalf<'_>,
    mut to: tokio::net::tcp::WriteHalf<'_>,
) -> io::Result<u64> {
    let mut buffer = Vec::with_capacity(CHUNK);
    let mut copied = 0;
    while from.read_buf(&mut buffer).await? > 0 {
        copied += buffer.len() as u64;
        to.write_all(&buffer).await?;
        buffer.clear();
    }
    to.shutdown().await?;
    Ok(copied)
}
