//! What the server still owes an answer for: the mirror of the server's own way through the messages
//! that it was sent (`PostgresMain` and `CopyGetData` in its source).
//!
//! The rules that it mirrors:
//! * Query and FunctionCall end with ReadyForQuery, whatever happens in between. Sync does too.
//! * After an error in Parse, Bind, Describe, Execute or Close the server ignores every message up to
//!   the next Sync, **Query and FunctionCall among them**.
//! * While it takes COPY data it ignores Sync and Flush; any message but CopyData, CopyDone, CopyFail,
//!   Sync and Flush makes it end the connection.
//! * CopyData, CopyDone and CopyFail outside of a COPY are ignored.
//!
//! An answer that the mirror cannot explain is [`Desync`], and the flow ends: with a wrong mirror a
//! result could be taken for another statement's and go unmasked.

use std::collections::VecDeque;
use std::sync::Arc;

use super::refusal::Refusal;
use super::run::{Described, Run};
use super::statements::{Found, Portal, Prepared};
use crate::record::CommandId;

/// The server's answer does not fit what it was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the server sent message {:?} where the protocol does not allow it", char::from(*.tag))]
pub struct Desync {
    /// The message's type byte.
    pub tag: u8,
}

/// What one message asks the server for.
#[derive(Debug)]
pub(super) enum What {
    /// Query.
    Query,
    /// FunctionCall.
    Function,
    /// Parse; the statement becomes known when it succeeds.
    Parse(Option<Arc<Prepared>>),
    /// Bind; the portal becomes known when it succeeds.
    Bind(Arc<Portal>),
    /// Describe of a statement.
    DescribeStatement(Option<Arc<Prepared>>),
    /// Describe of a portal.
    DescribePortal {
        /// What it may run.
        found: Box<Found>,
        /// Where the plan for its rows goes.
        plan: Described,
        /// The agent asks, not the client: the answer goes no further.
        injected: bool,
    },
    /// Execute.
    Execute,
    /// Close of a statement, by name.
    CloseStatement {
        /// Which.
        name: Box<[u8]>,
        /// Only what was prepared before this is closed by it.
        before: u64,
    },
    /// Close of a portal, by name.
    ClosePortal {
        /// Which.
        name: Box<[u8]>,
        /// Only what was bound before this is closed by it.
        before: u64,
    },
    /// Sync.
    Sync,
    /// One or more CopyData.
    CopyData,
    /// CopyDone or CopyFail.
    CopyEnd,
    /// The agent's own query of the catalog.
    Catalog,
    /// The agent's own look at a setting: with a Sync behind it, or within the client's pipeline.
    Own {
        /// It ends with ReadyForQuery.
        sync: bool,
    },
}

impl What {
    /// Nothing came of it.
    pub(super) fn failed(&self) {
        match self {
            Self::Parse(Some(prepared)) => prepared.kill(),
            Self::Bind(portal) => portal.kill(),
            _ => {}
        }
    }
}

/// One message that waits for its answer.
#[derive(Debug)]
pub(super) struct Entry {
    /// What it is.
    pub(super) what: What,
    /// It was replaced by one that fails; that error is replaced by this refusal.
    pub(super) refusal: Option<Box<Refusal>>,
    /// What runs, for those that return results.
    pub(super) run: Option<Box<Run>>,
}

impl Entry {
    pub(super) fn new(what: What) -> Self {
        Self { what, refusal: None, run: None }
    }

    /// After an error in it the server skips to the next Sync.
    fn extended(&self) -> bool {
        !matches!(
            self.what,
            What::Query | What::Function | What::Sync | What::Catalog | What::Own { sync: true }
        )
    }

    /// It runs nothing.
    fn prepares(&self) -> bool {
        let what = matches!(
            self.what,
            What::Parse(_)
                | What::DescribeStatement(_)
                | What::CloseStatement { .. }
                | What::ClosePortal { .. }
        );
        what && self.refusal.is_none()
    }

    fn ends_with_ready(&self) -> bool {
        matches!(
            self.what,
            What::Query | What::Function | What::Sync | What::Catalog | What::Own { sync: true }
        )
    }
}

/// The queue, oldest first.
#[derive(Debug, Default)]
pub(super) struct Pending {
    queue: VecDeque<Entry>,
    /// The server ignores all up to the next Sync.
    skipping: bool,
    /// Something was sent since the server last said that it is ready for a query with nothing left to
    /// answer.
    busy: bool,
    /// Some of that may have run something.
    ran: bool,
    /// The front entry takes COPY data.
    copying: bool,
    /// Recorded commands that the server skipped, not reported yet.
    skipped: Vec<CommandId>,
}

impl Pending {
    pub(super) fn len(&self) -> usize {
        self.queue.len()
    }

    /// The server may be at work, or wait for a Sync: what it reports before ReadyForQuery may still be
    /// to come. An empty queue alone does not tell, for a client may send Flush.
    pub(super) fn busy(&self) -> bool {
        self.busy
    }

    /// Nothing that it works on runs anything: what is asked next is answered soon.
    pub(super) fn only_prepares(&self) -> bool {
        !self.skipping && self.queue.iter().all(Entry::prepares)
    }

    /// All is answered, and nothing of what was sent since the server was last ready has run or failed: a Sync
    /// changes nothing for what comes next.
    pub(super) fn settled(&self) -> bool {
        !self.skipping && self.queue.is_empty() && !self.ran
    }

    /// The agent's own look is still to be answered.
    pub(super) fn has_own(&self) -> bool {
        self.queue.iter().any(|entry| matches!(entry.what, What::Own { .. }))
    }

    /// The server is known to ignore what is sent up to the next Sync.
    pub(super) fn skips(&self) -> bool {
        self.skipping && self.queue.is_empty()
    }

    /// Adds what is about to be sent.
    pub(super) fn push(&mut self, entry: Entry) {
        self.busy = true;
        self.ran |= !entry.prepares() && !matches!(entry.what, What::Own { .. });
        match entry.what {
            // One entry stands for a run of them; and none is needed where nothing can come of it.
            What::CopyData
                if matches!(self.queue.back(), None | Some(Entry { what: What::CopyData, .. })) => {}
            What::CopyEnd if self.queue.is_empty() => {}
            _ => self.queue.push_back(entry),
        }
        self.settle();
    }

    /// Takes back what was pushed since there were `length` entries and was not sent after all.
    pub(super) fn truncate(&mut self, length: usize) {
        self.queue.truncate(length);
    }

    /// What the server works on.
    pub(super) fn front(&mut self) -> Option<&mut Entry> {
        self.queue.front_mut()
    }

    /// The front entry is done.
    pub(super) fn pop(&mut self) -> Option<Entry> {
        let entry = self.queue.pop_front();
        self.settle();
        entry
    }

    /// The server asks for COPY data.
    pub(super) fn copy_in(&mut self) {
        self.copying = true;
    }

    /// The front entry's COPY from the client, if it is one, is complete: all Sync and Flush that came
    /// before the CopyDone were swallowed. Says whether it is one.
    pub(super) fn copy_in_complete(&mut self, tag: u8) -> Result<bool, Desync> {
        if !std::mem::take(&mut self.copying) {
            return Ok(false);
        }
        let end = self.queue.iter().position(|entry| matches!(entry.what, What::CopyEnd));
        let end = end.ok_or(Desync { tag })?;
        let swallowed: Vec<Entry> = self.queue.drain(1..=end).collect();
        let clean =
            swallowed.iter().all(|entry| matches!(entry.what, What::Sync | What::CopyData | What::CopyEnd));
        if clean { Ok(true) } else { Err(Desync { tag }) }
    }

    /// The server reported an error. The front entry is taken off and given unless ReadyForQuery is
    /// still to come for it.
    pub(super) fn failed(&mut self) -> Result<Option<Entry>, Desync> {
        if std::mem::take(&mut self.copying) {
            self.copy_in_failed()?;
        }
        let Some(front) = self.queue.front() else { return Ok(None) };
        if !front.extended() {
            return Ok(None);
        }
        let failed = self.queue.pop_front();
        self.skipping = true;
        self.settle();
        Ok(failed)
    }

    /// A COPY from the client failed. The Syncs before its first data were swallowed for certain. One
    /// after its first data may have been swallowed or not: that depends on which data failed, which the
    /// error does not tell, so the mirror is lost.
    fn copy_in_failed(&mut self) -> Result<(), Desync> {
        let is_sync = |entry: &Entry| matches!(entry.what, What::Sync);
        while self.queue.get(1).is_some_and(is_sync) {
            self.queue.remove(1);
        }
        if matches!(self.queue.get(1), Some(Entry { what: What::CopyData, .. }))
            && self.queue.get(2).is_some_and(is_sync)
        {
            return Err(Desync { tag: b'E' });
        }
        Ok(())
    }

    /// Drops entries at the front that get no answer.
    fn settle(&mut self) {
        while let Some(front) = self.queue.front() {
            let unanswered = match front.what {
                What::Sync => {
                    self.skipping = false;
                    false
                }
                What::CopyData | What::CopyEnd => true,
                _ => self.skipping,
            };
            if !unanswered {
                break;
            }
            let Some(entry) = self.queue.pop_front() else { break };
            entry.what.failed();
            self.skipped.extend(entry.run.and_then(|run| run.command));
        }
    }

    /// Commands that were skipped since this was last asked.
    pub(super) fn take_skipped(&mut self) -> Vec<CommandId> {
        std::mem::take(&mut self.skipped)
    }

    /// ReadyForQuery came.
    pub(super) fn ready(&mut self) -> Result<Entry, Desync> {
        self.copying = false;
        match self.queue.front() {
            Some(front) if front.ends_with_ready() => {
                let entry = self.pop().ok_or(Desync { tag: b'Z' });
                self.busy = !self.queue.is_empty();
                self.ran &= self.busy;
                entry
            }
            _ => Err(Desync { tag: b'Z' }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(kinds: &str) -> Pending {
        let mut pending = Pending::default();
        kinds.chars().for_each(|kind| push(&mut pending, kind));
        pending
    }

    fn push(pending: &mut Pending, kind: char) {
        pending.push(Entry::new(match kind {
            'Q' => What::Query,
            'F' => What::Function,
            'P' => What::Parse(None),
            'B' => What::Bind(Arc::default()),
            'E' => What::Execute,
            'S' => What::Sync,
            'd' => What::CopyData,
            'c' => What::CopyEnd,
            other => panic!("{other}"),
        }));
    }

    fn kinds(pending: &Pending) -> String {
        let kind = |entry: &Entry| match entry.what {
            What::Query => 'Q',
            What::Function => 'F',
            What::Parse(_) => 'P',
            What::Bind(_) => 'B',
            What::Execute => 'E',
            What::Sync => 'S',
            What::CopyData => 'd',
            What::CopyEnd => 'c',
            _ => '?',
        };
        pending.queue.iter().map(kind).collect()
    }

    #[test]
    fn an_error_skips_to_sync_queries_included() {
        let mut pending = queue("PBEQFPSQ");
        pending.failed().unwrap();
        assert_eq!(kinds(&pending), "SQ");
        pending.ready().unwrap();
        assert_eq!(kinds(&pending), "Q");
        // What is sent while the server skips is skipped too.
        let mut pending = queue("PB");
        pending.failed().unwrap();
        "EQPB".chars().for_each(|kind| push(&mut pending, kind));
        assert_eq!(kinds(&pending), "");
        "SQ".chars().for_each(|kind| push(&mut pending, kind));
        assert_eq!(kinds(&pending), "SQ");
        pending.ready().unwrap();
        pending.ready().unwrap();
        assert!(pending.ready().is_err());
    }

    #[test]
    fn an_error_in_a_query_skips_nothing() {
        let mut pending = queue("QPS");
        assert!(pending.failed().unwrap().is_none());
        assert_eq!(kinds(&pending), "QPS");
        pending.ready().unwrap();
        assert!(pending.ready().is_err(), "Parse is not answered by ReadyForQuery");
    }

    #[test]
    fn copy_swallows_syncs() {
        let mut pending = queue("ESSdddSdcSQ");
        pending.copy_in();
        assert_eq!(pending.copy_in_complete(b'C'), Ok(true));
        assert_eq!(kinds(&pending), "ESQ");
        // CopyDone must have come before the COPY can be complete.
        let mut pending = queue("ESd");
        pending.copy_in();
        assert!(pending.copy_in_complete(b'C').is_err());
        // A Query within COPY data ends the connection on a real server.
        let mut pending = queue("EdQdc");
        pending.copy_in();
        assert!(pending.copy_in_complete(b'C').is_err());
    }

    #[test]
    fn a_failed_copy() {
        let mut pending = queue("ESdcS");
        pending.copy_in();
        pending.failed().unwrap();
        assert_eq!(kinds(&pending), "S");
        // Whether this Sync was swallowed depends on where the data failed.
        let mut pending = queue("EdSdcS");
        pending.copy_in();
        assert!(pending.failed().is_err());
        let mut pending = queue("QdcQ");
        pending.copy_in();
        pending.failed().unwrap();
        pending.ready().unwrap();
        assert_eq!(kinds(&pending), "Q");
    }

    #[test]
    fn settled_while_all_that_was_sent_only_prepares() {
        let mut pending = queue("P");
        assert!(!pending.settled(), "not answered");
        pending.pop();
        assert!(pending.settled() && pending.busy());
        // What has run may be undone by a Sync, or be committed too early.
        for kind in ['B', 'E', 'Q', 'F', 'S'] {
            let mut pending = queue("P");
            push(&mut pending, kind);
            while pending.pop().is_some() {}
            assert!(!pending.settled(), "{kind}");
        }
        let mut pending = queue("PBES");
        (0..3).for_each(|_| drop(pending.pop()));
        pending.ready().unwrap();
        assert!(pending.settled());
        push(&mut pending, 'P');
        pending.failed().unwrap();
        assert!(!pending.settled(), "it skips");
    }

    #[test]
    fn stray_copy_data_takes_no_room() {
        assert_eq!(kinds(&queue("dcdcdd")), "");
        assert_eq!(kinds(&queue("Qdddcd")), "Qdcd");
    }
}
