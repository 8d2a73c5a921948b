//! A connection, encrypted or not.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::{client, server};

use super::Leg;

/// One leg of a flow: a TCP connection, or TLS on one.
#[derive(Debug)]
pub struct Stream {
    io: Io,
    leg: Option<Box<Leg>>,
    /// TLS was broken off without a goodbye.
    cut_short: bool,
}

#[derive(Debug)]
enum Io {
    Plain(TcpStream),
    /// The leg to a client.
    Server(Box<server::TlsStream<TcpStream>>),
    /// The leg to a server.
    Client(Box<client::TlsStream<TcpStream>>),
    /// Taken for a handshake that failed.
    Gone,
}

impl From<TcpStream> for Stream {
    fn from(stream: TcpStream) -> Self {
        Self { io: Io::Plain(stream), leg: None, cut_short: false }
    }
}

impl Stream {
    pub(super) fn to_client(stream: server::TlsStream<TcpStream>, leg: Leg) -> Self {
        Self { io: Io::Server(Box::new(stream)), leg: Some(Box::new(leg)), cut_short: false }
    }

    pub(super) fn to_server(stream: client::TlsStream<TcpStream>, leg: Leg) -> Self {
        Self { io: Io::Client(Box::new(stream)), leg: Some(Box::new(leg)), cut_short: false }
    }

    /// How it is encrypted; `None` when it is not.
    pub fn leg(&self) -> Option<&Leg> {
        self.leg.as_deref()
    }

    /// [`Stream::leg`], which is then forgotten: it is needed to log in, not after.
    pub fn take_leg(&mut self) -> Option<Box<Leg>> {
        self.leg.take()
    }

    /// It is encrypted.
    pub fn is_encrypted(&self) -> bool {
        matches!(self.io, Io::Server(_) | Io::Client(_))
    }

    /// The channel binding `tls-server-end-point` (RFC 5929): the hash of the certificate that the server
    /// of this leg showed, which on the leg to a client is the agent's own.
    pub fn server_end_point(&self) -> Option<&[u8]> {
        self.leg.as_ref()?.certificate.as_ref()?.end_point.as_deref()
    }

    /// The TCP connection, unless it is encrypted. Nothing can be read or written then any more.
    pub(crate) fn take_plain(&mut self) -> Option<TcpStream> {
        match std::mem::replace(&mut self.io, Io::Gone) {
            Io::Plain(stream) => Some(stream),
            other => {
                self.io = other;
                None
            }
        }
    }

    /// The TCP connection beneath.
    pub(crate) fn tcp(&self) -> Option<&TcpStream> {
        match &self.io {
            Io::Plain(stream) => Some(stream),
            Io::Server(stream) => Some(stream.get_ref().0),
            Io::Client(stream) => Some(stream.get_ref().0),
            Io::Gone => None,
        }
    }

    /// The peer of an encrypted connection went without a goodbye: what it sent last may be missing.
    pub fn cut_short(&self) -> bool {
        self.cut_short
    }

    /// Ends the writing side. Without `orderly`, an encrypted peer gets no goodbye either, and so can
    /// tell that something may be missing.
    pub fn poll_end(&mut self, cx: &mut Context<'_>, orderly: bool) -> Poll<io::Result<()>> {
        if orderly {
            return Pin::new(self).poll_shutdown(cx);
        }
        match &mut self.io {
            Io::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Io::Server(stream) => Pin::new(stream.get_mut().0).poll_shutdown(cx),
            Io::Client(stream) => Pin::new(stream.get_mut().0).poll_shutdown(cx),
            Io::Gone => Poll::Ready(Ok(())),
        }
    }
}

fn gone() -> io::Error {
    io::ErrorKind::NotConnected.into()
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let read = match &mut this.io {
            Io::Plain(stream) => return Pin::new(stream).poll_read(cx, buffer),
            Io::Server(stream) => Pin::new(stream).poll_read(cx, buffer),
            Io::Client(stream) => Pin::new(stream).poll_read(cx, buffer),
            Io::Gone => return Poll::Ready(Err(gone())),
        };
        match read {
            Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {
                this.cut_short = true;
                Poll::Ready(Ok(()))
            }
            read => read,
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().io {
            Io::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Io::Server(stream) => Pin::new(stream).poll_write(cx, bytes),
            Io::Client(stream) => Pin::new(stream).poll_write(cx, bytes),
            Io::Gone => Poll::Ready(Err(gone())),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().io {
            Io::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, bytes),
            Io::Server(stream) => Pin::new(stream).poll_write_vectored(cx, bytes),
            Io::Client(stream) => Pin::new(stream).poll_write_vectored(cx, bytes),
            Io::Gone => Poll::Ready(Err(gone())),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().io {
            Io::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Io::Server(stream) => Pin::new(stream).poll_flush(cx),
            Io::Client(stream) => Pin::new(stream).poll_flush(cx),
            Io::Gone => Poll::Ready(Err(gone())),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().io {
            Io::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Io::Server(stream) => Pin::new(stream).poll_shutdown(cx),
            Io::Client(stream) => Pin::new(stream).poll_shutdown(cx),
            Io::Gone => Poll::Ready(Ok(())),
        }
    }
}
