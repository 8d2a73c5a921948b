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

/// Passes on what the server says until the client speaks, whose bytes stay where they are. `tell` says
/// of its first bytes (at most `most` are looked at) whether they may pass, or `None` for more. Gives that
/// answer; `false` where it stops for `patience` before it can be told, `true` when a side has closed.
pub(super) async fn server_first(
    client: &mut TcpStream,
    server: &mut TcpStream,
    most: usize,
    patience: Duration,
    mut tell: impl FnMut(&[u8]) -> Option<bool>,
) -> io::Result<bool> {
    let mut looked = vec![0; most];
    let mut buffer = Vec::with_capacity(CHUNK);
    let mut until = None;
    loop {
        tokio::select! {
            seen = client.peek(&mut looked) => {
                let seen = seen?;
                if seen == 0 {
                    return Ok(true);
                }
                if let Some(passes) = tell(looked.get(..seen).unwrap_or_default()) {
                    return Ok(passes);
                }
                let until = *until.get_or_insert_with(|| tokio::time::Instant::now() + patience);
                if tokio::time::Instant::now() >= until {
                    return Ok(false);
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            read = server.read_buf(&mut buffer) => {
                if read? == 0 {
                    return Ok(true);
                }
                client.write_all(&buffer).await?;
                buffer.clear();
            }
        }
    }
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test panics when something is not as it must be")]

    use tokio::net::TcpListener;

    use super::*;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let outer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (outer, listener.accept().await.unwrap().0)
    }

    /// What becomes of a client that gets a greeting and answers it with `answer`.
    async fn after_greeting(answer: &[u8]) -> bool {
        let (mut client, mut inner) = pair().await;
        let (mut server, mut upstream) = pair().await;
        let tell = |bytes: &[u8]| (bytes.len() >= 2).then(|| bytes.starts_with(b"ok"));
        let passing = async {
            server_first(&mut inner, &mut upstream, 64, Duration::from_millis(50), tell).await.unwrap()
        };
        let talking = async {
            server.write_all(b"hello").await.unwrap();
            let mut greeting = [0; 5];
            client.read_exact(&mut greeting).await.unwrap();
            assert_eq!(&greeting, b"hello");
            client.write_all(answer).await.unwrap();
        };
        let (passes, ()) = tokio::join!(passing, talking);
        // Nothing of the answer has gone further.
        assert_eq!(server.try_read(&mut [0; 1]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        passes
    }

    #[tokio::test]
    async fn a_client_is_told_by_what_it_says_after_the_greeting() {
        assert!(after_greeting(b"ok, go on").await);
        assert!(!after_greeting(b"startup").await);
        // It begins, and says no more.
        assert!(!after_greeting(b"o").await);
    }
}
