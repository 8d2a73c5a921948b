//! Flows that the proxy holds but does not look into: bytes are passed on as they are.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

/// Bytes passed on, by direction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Copied {
    /// From the client to the server.
    pub from_client: u64,
    /// From the server to the client.
    pub from_server: u64,
}

/// Bytes read at once, in each direction.
const CHUNK: usize = 16 << 10;

/// Passes bytes both ways until both sides have closed, or one is broken.
pub(super) async fn both_ways(mut client: TcpStream, mut server: TcpStream) -> io::Result<Copied> {
    let (client_read, client_write) = client.split();
    let (server_read, server_write) = server.split();
    let (from_client, from_server) =
        tokio::try_join!(one_way(client_read, server_write), one_way(server_read, client_write))?;
    Ok(Copied { from_client, from_server })
}

async fn one_way(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin) -> io::Result<u64> {
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

/// Closes a connection so that its peer gets a reset rather than an orderly end.
pub(super) fn reset(stream: &TcpStream) {
    if let Err(error) = socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO)) {
        tracing::debug!(%error, "cannot reset a connection");
    }
}
