//! The connection to the collector, which remembers what it broke with.
//!
//! In TLS 1.3 a server that does not accept the client's certificate says so only after the client's
//! handshake is done. By then HTTP/2 is at work above, and what it makes of it is that the connection ended.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use rustls::AlertDescription;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

/// The alert by which the collector ended TLS, once it has.
pub(super) type LastAlert = Arc<OnceLock<AlertDescription>>;

/// The connection.
#[derive(Debug)]
pub(super) struct Wire {
    stream: TlsStream<TcpStream>,
    alert: LastAlert,
}

impl Wire {
    pub(super) fn new(stream: TlsStream<TcpStream>) -> (Self, LastAlert) {
        let alert = LastAlert::default();
        (Self { stream, alert: Arc::clone(&alert) }, alert)
    }

    fn note<T>(&self, result: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if let Poll::Ready(Err(error)) = &result
            && let Some(inner) = error.get_ref()
            && let Some(rustls::Error::AlertReceived(alert)) = inner.downcast_ref()
        {
            // The first is the one that says why.
            self.alert.get_or_init(|| *alert);
        }
        result
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        to: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.stream).poll_read(cx, to);
        self.note(result)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.note(result)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.stream).poll_flush(cx);
        self.note(result)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.note(result)
    }
}
