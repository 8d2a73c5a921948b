//! The connection to the collector, which remembers what it broke with.
//!
//! In TLS 1.3 a server that does not accept the client's certificate says so only after the client's
//! handshake is done. By then HTTP/2 is at work above, and what it makes of it is that the connection ended.
//! When the server closes at once, our own writing may fail before the alert has been read: then it is looked
//! for in what has arrived.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use rustls::AlertDescription;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

/// What a connection broke with.
#[derive(Debug, Clone, Default)]
pub(super) struct End {
    alert: Arc<OnceLock<AlertDescription>>,
    error: Arc<OnceLock<String>>,
}

impl End {
    /// The alert by which the collector ended TLS, once it has.
    pub(super) fn alert(&self) -> Option<AlertDescription> {
        self.alert.get().copied()
    }

    /// What else the connection broke with.
    pub(super) fn error(&self) -> Option<&str> {
        self.error.get().map(String::as_str)
    }

    fn note(&self, error: &io::Error) {
        let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
        // The first is the one that says why.
        if let Some(rustls::Error::AlertReceived(alert)) = inner {
            self.alert.get_or_init(|| *alert);
        } else {
            self.error.get_or_init(|| error.to_string());
        }
    }
}

/// The connection.
#[derive(Debug)]
pub(super) struct Wire {
    stream: TlsStream<TcpStream>,
    end: End,
}

impl Wire {
    pub(super) fn new(stream: TlsStream<TcpStream>) -> (Self, End) {
        let end = End::default();
        (Self { stream, end: end.clone() }, end)
    }

    fn wrote<T>(&mut self, cx: &mut Context<'_>, result: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if let Poll::Ready(Err(error)) = &result {
            self.look_for_alert(cx);
            self.end.note(error);
        }
        result
    }

    /// Reads what has arrived, for the alert in it. The connection is broken: nobody else will read it.
    fn look_for_alert(&mut self, cx: &mut Context<'_>) {
        let mut room = [0; 4096];
        // So much is more than a server sends before it has read anything.
        for _ in 0..16 {
            let mut to = ReadBuf::new(&mut room);
            match Pin::new(&mut self.stream).poll_read(cx, &mut to) {
                Poll::Ready(Ok(())) if !to.filled().is_empty() => {}
                Poll::Ready(Err(error)) => return self.end.note(&error),
                Poll::Ready(Ok(())) | Poll::Pending => return,
            }
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        to: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.stream).poll_read(cx, to);
        if let Poll::Ready(Err(error)) = &result {
            self.end.note(error);
        }
        result
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.wrote(cx, result)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.stream).poll_flush(cx);
        self.wrote(cx, result)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.wrote(cx, result)
    }
}
