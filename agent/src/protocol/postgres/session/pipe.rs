//! One direction's bytes between two sockets.
//!
//! What passes unchanged is written from the buffer that it was read into. Only from the first message
//! that is changed, and only until the next write, are bytes copied.

use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWrite};

use crate::tls::Stream;

/// What a read buffer starts at, and what an idle flow may keep in each direction.
const SMALL: usize = 4 << 10;
/// What it grows to once a read has filled it.
const LARGE: usize = 64 << 10;
/// Nothing more is read while so much waits to be written.
const HIGH_WATER: usize = 256 << 10;

/// A stretch of not yet decided bytes that is replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Edit {
    /// Where it begins, counted from the first undecided byte.
    pub(super) at: usize,
    /// How many bytes go.
    pub(super) remove: usize,
    /// How many bytes of the scratch buffer take their place, after those of the edits before.
    pub(super) insert: usize,
}

/// One direction.
#[derive(Debug, Default)]
pub(super) struct Pipe {
    /// Changed bytes; they go before those of `input`.
    changed: BytesMut,
    /// Bytes as read.
    input: BytesMut,
    /// How many at the front of `input` may be written.
    ready: usize,
    /// The reading side has ended.
    pub(super) eof: bool,
    /// The end was passed on to the writing side.
    pub(super) shut: bool,
    /// The last read filled the buffer.
    filled: bool,
    /// What was written last may still wait in the writing side's own buffer.
    unflushed: bool,
}

impl Pipe {
    /// Starts with bytes already read.
    pub(super) fn with(input: BytesMut) -> Self {
        Self { input, ..Self::default() }
    }

    /// One that carries nothing any more.
    pub(super) fn closed() -> Self {
        Self { eof: true, shut: true, ..Self::default() }
    }

    /// The bytes that have not been decided on.
    pub(super) fn undecided(&self) -> &[u8] {
        self.input.get(self.ready..).unwrap_or_default()
    }

    /// Bytes that may be written and have not been.
    pub(super) fn outgoing(&self) -> usize {
        self.changed.len() + self.ready
    }

    /// Something waits to be written.
    pub(super) fn wants_drain(&self) -> bool {
        self.outgoing() > 0 || self.unflushed
    }

    /// More may be read now.
    pub(super) fn wants_input(&self) -> bool {
        !self.eof && self.outgoing() < HIGH_WATER
    }

    /// Lets `length` undecided bytes go out, with `edits` (in order, not overlapping) made to them
    /// from `scratch`.
    pub(super) fn release(&mut self, length: usize, edits: &[Edit], scratch: &[u8]) {
        let mut done = 0; // undecided bytes already moved on
        let mut used = 0; // scratch bytes used
        for edit in edits {
            self.ready += edit.at - done;
            self.changed.extend_from_slice(self.input.get(..self.ready).unwrap_or_default());
            self.input.advance(self.ready + edit.remove);
            self.ready = 0;
            self.changed.extend_from_slice(scratch.get(used..used + edit.insert).unwrap_or_default());
            used += edit.insert;
            done = edit.at + edit.remove;
        }
        self.ready += length - done;
    }

    /// Puts bytes of our own behind what has been let go.
    pub(super) fn insert(&mut self, bytes: &[u8]) {
        self.release(0, &[Edit { at: 0, remove: 0, insert: bytes.len() }], bytes);
    }

    /// Adds bytes as if they had been read.
    pub(super) fn append(&mut self, bytes: &[u8]) {
        self.input.extend_from_slice(bytes);
    }

    /// Throws away what has not been decided on.
    pub(super) fn discard_undecided(&mut self) {
        self.input.truncate(self.ready);
    }

    /// What would be written, as if it had been.
    #[cfg(test)]
    pub(super) fn take_outgoing(&mut self) -> Vec<u8> {
        let mut out = std::mem::take(&mut self.changed).to_vec();
        out.extend(self.input.split_to(std::mem::take(&mut self.ready)));
        out
    }

    /// Reads what is there. Ready with how many bytes; 0 is the end.
    pub(super) fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut Stream,
        most: usize,
    ) -> Poll<io::Result<usize>> {
        if self.input.is_empty() && self.input.capacity() < SMALL {
            // Takes the same memory again once all of it has been written.
            self.input.reserve(SMALL);
        } else if self.input.len() == self.input.capacity() || self.filled {
            self.input.reserve(LARGE.min(most.max(SMALL)));
        }
        let room = self.input.capacity() - self.input.len();
        let read = std::task::ready!(pin!(from.read_buf(&mut self.input)).poll(cx))?;
        self.filled = read == room && room >= SMALL / 2;
        self.eof = read == 0;
        Poll::Ready(Ok(read))
    }

    /// Writes what may be written. Ready when nothing is left.
    pub(super) fn poll_drain(&mut self, cx: &mut Context<'_>, to: &mut Stream) -> Poll<io::Result<()>> {
        while self.outgoing() > 0 {
            let ready = self.input.get(..self.ready).unwrap_or_default();
            let to = Pin::new(&mut *to);
            let written = if self.changed.is_empty() {
                to.poll_write(cx, ready)
            } else {
                to.poll_write_vectored(cx, &[IoSlice::new(&self.changed), IoSlice::new(ready)])
            };
            let written = std::task::ready!(written)?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.unflushed = true;
            let first = written.min(self.changed.len());
            self.changed.advance(first);
            self.input.advance(written - first);
            self.ready -= written - first;
        }
        self.trim();
        if self.unflushed {
            // TLS keeps what the socket does not take at once.
            std::task::ready!(Pin::new(to).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Gives large buffers back once they are empty: a flow may stay idle for hours.
    fn trim(&mut self) {
        if self.changed.is_empty() && self.changed.capacity() > 0 {
            self.changed = BytesMut::new();
        }
        if self.input.is_empty() && !self.filled && self.input.capacity() > SMALL {
            self.input = BytesMut::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edits_keep_order() {
        let mut pipe = Pipe::with(BytesMut::from(&b"aaXXbbYYcc"[..]));
        pipe.release(2, &[], b"");
        let edits = [Edit { at: 0, remove: 2, insert: 3 }, Edit { at: 4, remove: 2, insert: 1 }];
        pipe.release(7, &edits, b"123z");
        assert_eq!(&pipe.changed[..], b"aa123bbz");
        assert_eq!(&pipe.input[..pipe.ready], b"c");
        assert_eq!(pipe.undecided(), b"c");
        pipe.insert(b"!");
        assert_eq!(&pipe.changed[..], b"aa123bbzc!");
        assert_eq!(pipe.outgoing(), 10);
        pipe.discard_undecided();
        assert_eq!(pipe.undecided(), b"");
        assert_eq!(pipe.outgoing(), 10);
    }
}
