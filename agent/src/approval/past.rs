//! Requests that were decided, as far as they are remembered.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use jiff::Timestamp;
use serde::Serialize;

use super::case::Outcome;
use super::desk::{Id, Request};
use crate::identity::Subject;

/// How many there are at the most, and what all of them take.
const MOST: usize = 256;
const BYTES: usize = 8 << 20;
/// What something counts as that cannot be written, as a path that is no UTF-8.
const UNKNOWN: usize = 128 << 10;

/// A request that was decided.
#[derive(Debug)]
pub(super) struct Past {
    pub(super) id: Id,
    pub(super) asked: Timestamp,
    pub(super) request: Request,
    pub(super) outcome: Outcome,
    pub(super) by: Vec<Arc<str>>,
    /// No collector is to be told of it.
    pub(super) told: bool,
}

/// All of them, the oldest first, each with what it takes.
#[derive(Debug, Default)]
pub(super) struct Pasts {
    all: VecDeque<(usize, Past)>,
    bytes: usize,
}

impl Pasts {
    /// Keeps one; the oldest make room.
    pub(super) fn add(&mut self, past: Past) {
        let bytes = past.request.shown_bytes();
        self.bytes += bytes;
        self.all.push_back((bytes, past));
        while self.all.len() > MOST || self.bytes > BYTES {
            let Some((bytes, _)) = self.all.pop_front() else { break };
            self.bytes = self.bytes.saturating_sub(bytes);
        }
    }

    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = &Past> {
        self.all.iter().map(|(_, past)| past)
    }
}

impl Request {
    /// What it takes, about, without what is held for it.
    pub fn shown_bytes(&self) -> usize {
        let hosts: usize = self.hosts.iter().map(|host| host.len()).sum();
        size_of::<Self>() + written(&self.shown) + subject_bytes(&self.subject) + hosts
    }
}

/// What a subject takes, about.
pub(super) fn subject_bytes(subject: &Subject) -> usize {
    size_of::<Subject>() + written(subject)
}

/// Bytes of something as it is written: every string of it counts.
fn written(value: &impl Serialize) -> usize {
    let mut count = Count(0);
    match serde_json::to_writer(&mut count, value) {
        Ok(()) => count.0,
        Err(_) => count.0.max(UNKNOWN),
    }
}

struct Count(usize);

impl io::Write for Count {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 = self.0.saturating_add(bytes.len());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::approval::desk::Bounds;
    use crate::approval::{Desk, Shown};
    use crate::policy::Terms;

    fn desk() -> Arc<Desk> {
        let bounds = crate::config::Config::default().approvals.bounds();
        Desk::new(Bounds { asked_per_user: 10_000, remind: Duration::from_secs(60), ..bounds })
    }

    fn request(text: usize, argv: usize) -> Request {
        Request {
            subject: Arc::new(Subject { argv: vec!["a".repeat(argv)], ..Subject::default() }),
            server: ([127, 0, 0, 1], 5432).into(),
            hosts: Vec::new(),
            session: interlock_recording::SessionId::new(1, [1; 10]),
            shown: Shown { text: "x".repeat(text), ..Shown::default() },
            digest: [0; 32],
            terms: Arc::new(Terms::sample()),
            shape: None,
            likeness: [0; 32],
            cancel: None,
            bytes: 10,
        }
    }

    #[tokio::test]
    async fn what_is_over_takes_no_more_than_it_may() {
        let desk = desk();
        for _ in 0..MOST + 10 {
            drop(desk.ask(request(10, 0)).unwrap());
        }
        assert_eq!(desk.inner().past.iter().count(), MOST);
        // What who asks is called with counts as well as what they ask for.
        for (text, argv) in [(64 << 10, 0), (0, 64 << 10)] {
            for _ in 0..MOST {
                let ticket = desk.ask(request(text, argv)).unwrap();
                let id = ticket.id();
                drop(ticket);
                let inner = desk.inner();
                assert!(inner.past.bytes <= BYTES, "{}", inner.past.bytes);
                assert_eq!(inner.past.iter().next_back().map(|past| past.id), Some(id));
            }
            let count = desk.inner().past.iter().count();
            assert!((100..MOST).contains(&count), "{count}");
        }
        // And what takes little again is kept again.
        for _ in 0..MOST {
            drop(desk.ask(request(10, 0)).unwrap());
        }
        let inner = desk.inner();
        assert_eq!((inner.past.iter().count(), inner.past.all.len()), (MOST, MOST));
        assert!(inner.past.bytes < BYTES / 4);
    }
}
