//! One way to ask at work.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::config::Ask;
use super::limit::{Limits, Verdict};
use super::send::{Failure, Sender};
use super::shown::Shown;
use crate::outputs::Timing;
use crate::store::{
    ApprovalNews, JournalKind, JournalRow, Progress, Store, StoreError, WholeApproval, lease_of, now_ns,
};

/// Rows of the journal that are read at one time.
const ROWS: i64 = 64;

/// Serves one way to ask.
pub(super) struct Runner {
    pub(super) ask: Ask,
    pub(super) sender: Sender,
    /// The address that people use.
    pub(super) base: String,
    pub(super) store: Arc<Store>,
    /// This collector, in leases.
    pub(super) owner: String,
    pub(super) timing: Timing,
    pub(super) stopped: watch::Receiver<bool>,
    pub(super) changed: watch::Receiver<u64>,
    pub(super) limits: Limits,
    /// For how long accounts of providers count after their owners have signed in, nanoseconds.
    pub(super) token_ns: i64,
}

/// Why it does not go on.
enum Interrupt {
    /// The collector stops.
    Stopped,
    /// Another collector serves it.
    Lost,
    /// The database fails.
    Store(StoreError),
}

impl From<StoreError> for Interrupt {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// Whether who is asked for these groups, or for all, is asked about a request.
pub(super) fn serves(groups: &[String], approval: &WholeApproval) -> bool {
    let serves = |group: &String| groups.is_empty() || groups.contains(group);
    approval.told.quorums.iter().flat_map(|quorum| &quorum.groups).any(serves)
}

impl Runner {
    pub(super) async fn run(mut self) {
        let name = self.ask.place();
        loop {
            let pause = match self.turn(&name).await {
                Ok(never) => match never {},
                Err(Interrupt::Stopped) => break,
                Err(Interrupt::Lost) => self.timing.lease / 6,
                Err(Interrupt::Store(error)) => {
                    tracing::error!(ask = self.ask.name(), "{error}");
                    self.timing.most_wait.min(Duration::from_secs(5))
                }
            };
            if self.pause(pause).await.is_err() {
                break;
            }
        }
        if let Err(error) = self.store.release(&lease_of(&name), &self.owner).await {
            tracing::warn!(ask = self.ask.name(), "{error}");
        }
    }

    async fn pause(&mut self, time: Duration) -> Result<(), Interrupt> {
        tokio::select! {
            _ = self.stopped.wait_for(|stop| *stop) => Err(Interrupt::Stopped),
            () = tokio::time::sleep(time) => Ok(()),
        }
    }

    async fn keep_lease(&self, name: &str, until: &mut Option<Instant>) -> Result<(), Interrupt> {
        let now = Instant::now();
        if until.is_some_and(|until| until > now + self.timing.lease / 2) {
            return Ok(());
        }
        if !self.store.lease(&lease_of(name), &self.owner, self.timing.lease).await? {
            return Err(Interrupt::Lost);
        }
        *until = Some(now + self.timing.lease);
        Ok(())
    }

    /// Goes along the journal from the place that is kept on.
    async fn turn(&mut self, name: &str) -> Result<std::convert::Infallible, Interrupt> {
        let mut lease = None;
        self.keep_lease(name, &mut lease).await?;
        let state = self.store.outputs().await?.into_iter().find(|state| state.name == name);
        let Some(state) = state else {
            // Forgotten by command while it is still configured.
            let mut write = self.store.write().await?;
            write.add_output(name).await?;
            write.commit().await?;
            return Err(Interrupt::Lost);
        };
        let mut place = state.place;
        loop {
            self.keep_lease(name, &mut lease).await?;
            let rows = self.store.journal(place, ROWS).await?;
            if rows.is_empty() && self.store.is_foreign(place.0).await? {
                self.store.settle_journal().await?;
                return Err(Interrupt::Lost);
            }
            let mut passed = None;
            for row in &rows {
                place = row.place;
                passed = Some(place);
                if row.kind == JournalKind::Approval && self.deliver(name, row, &mut lease).await? {
                    passed = None;
                    self.keep(name, place, 1).await?;
                }
            }
            if let Some(place) = passed {
                self.keep(name, place, 0).await?;
            }
            if *self.stopped.borrow() {
                return Err(Interrupt::Stopped);
            }
            if rows.is_empty() {
                tokio::select! {
                    _ = self.stopped.wait_for(|stop| *stop) => return Err(Interrupt::Stopped),
                    Ok(()) = self.changed.changed() => {}
                    () = tokio::time::sleep(self.timing.poll) => {}
                }
            }
        }
    }

    async fn keep(&self, name: &str, place: (i64, i64), sent: i64) -> Result<(), Interrupt> {
        let progress = Progress { place, sent, ..Progress::default() };
        let mut write = self.store.write().await?;
        if !write.progress(name, &self.owner, &progress).await? {
            return Err(Interrupt::Lost);
        }
        Ok(write.commit().await?)
    }

    /// Tells of one row, however long that takes; whether there was something to tell.
    async fn deliver(
        &mut self,
        name: &str,
        row: &JournalRow,
        lease: &mut Option<Instant>,
    ) -> Result<bool, Interrupt> {
        let Some((id, news, _)) = row.approval() else { return Ok(false) };
        let mut wait = self.timing.least_wait;
        loop {
            self.keep_lease(name, lease).await?;
            let mut stopped = self.stopped.clone();
            let told = tokio::select! {
                told = self.tell(id, news) => told?,
                _ = stopped.wait_for(|stop| *stop) => return Err(Interrupt::Stopped),
            };
            let (why, later) = match told {
                Ok(told) => return Ok(told),
                // Others are not kept waiting for it: whoever would have been asked by it is asked in the inbox.
                Err(Failure::Refused(why)) => {
                    self.skip(id, &why).await?;
                    return Ok(false);
                }
                Err(Failure::Later(why, later)) => (why, later),
            };
            self.failed(name, &why).await?;
            let pause = wait.max(later.unwrap_or_default()).min(self.timing.most_wait);
            wait = wait.saturating_mul(2).min(self.timing.most_wait);
            let until = Instant::now() + pause;
            while Instant::now() < until {
                self.pause((until - Instant::now()).min(self.timing.lease / 4)).await?;
                self.keep_lease(name, lease).await?;
            }
        }
    }

    /// Tells of a request as it stands now; whether there was something to tell.
    async fn tell(&mut self, id: &str, news: ApprovalNews) -> Result<Result<bool, Failure>, StoreError> {
        let Some(one) = self.store.approval(id).await? else { return Ok(Ok(false)) };
        if !serves(self.ask.groups(), &one) {
            return Ok(Ok(false));
        }
        let sent = self.store.approval_message(self.ask.name(), id).await?;
        // Programs are told of all; people of no more than they can read. What went through unapproved is told always.
        let new = sent.is_none() && one.item.state == "pending" && !matches!(self.ask, Ask::Webhook(_));
        let user = if one.item.login_user.is_empty() { &one.item.user } else { &one.item.login_user };
        let host = &one.item.host;
        let verdict = if new { self.limits.verdict(host, user, Instant::now()) } else { Verdict::Post };
        let shown = match verdict {
            Verdict::Post => Shown::new(&one, &self.base),
            Verdict::Fold => return Ok(Ok(false)),
            Verdict::Summary => {
                let more = Shown::more(&one, &self.base);
                return Ok(match self.sender.post(&more).await {
                    Err(failure) => Err(failure),
                    Ok(()) => {
                        self.limits.note(host, user, verdict, Instant::now());
                        Ok(true)
                    }
                });
            }
        };
        match self.sender.tell(&shown, news, sent.as_ref()).await {
            Err(failure) => return Ok(Err(failure)),
            Ok(None) => {}
            Ok(Some(now)) => {
                if new {
                    self.limits.note(host, user, verdict, Instant::now());
                }
                let mut write = self.store.write().await?;
                write.note_message(self.ask.name(), id, &now).await?;
                write.commit().await?;
            }
        }
        Ok(self.tell_members(&one, &shown).await?.map(|()| true))
    }

    /// Says what failed; when it has for long, it is a finding.
    async fn failed(&self, name: &str, why: &str) -> Result<(), Interrupt> {
        let before = self.store.outputs().await?.into_iter().find(|state| state.name == name);
        let since = before.as_ref().and_then(|state| state.failing_since_ns).unwrap_or_else(now_ns);
        if before.is_none_or(|state| state.error != why) {
            tracing::warn!(ask = self.ask.name(), "approvers cannot be asked, and it is tried again: {why}");
        }
        let mut write = self.store.write().await?;
        write.output_fails(name, &self.owner, why, false).await?;
        let stuck = i64::try_from(self.timing.stuck.as_nanos()).unwrap_or(i64::MAX);
        if now_ns().saturating_sub(since) >= stuck {
            let detail = format!(
                "approvers have not been asked by {} for a while: `interlock-collector outputs list` says why",
                self.ask.name()
            );
            if !write.is_found("", "output", &detail).await? {
                write.add_finding("", "output", &detail, None).await?;
            }
        }
        Ok(write.commit().await?)
    }

    /// Leaves a message out that the receiver does not take.
    async fn skip(&self, id: &str, why: &str) -> Result<(), Interrupt> {
        Ok(self.untold(id, self.ask.name(), why).await?)
    }

    /// Notes that mail to an account's address is not taken: once, for it is so with each request.
    pub(super) async fn refused(&self, account: &str, why: &str) -> Result<(), StoreError> {
        let way = self.ask.name();
        tracing::warn!(ask = way, account, "mail for a member is not taken: {why}");
        let detail = format!(
            "{way} cannot write to account {account} about requests for approval: the mail server refuses its address"
        );
        let mut write = self.store.write().await?;
        if !write.is_found("", "output", &detail).await? {
            write.note("", "output", &detail).await?;
            write.audit("approvals", "approval.untold", account, &format!("{way}: {why}"), "").await?;
        }
        write.commit().await
    }

    /// Notes that a message was not taken.
    pub(super) async fn untold(&self, id: &str, whom: &str, why: &str) -> Result<(), StoreError> {
        let detail = format!("approvers were not told of request {id} by {whom}: {why}");
        tracing::error!(ask = self.ask.name(), "{detail}");
        let mut write = self.store.write().await?;
        write.add_finding("", "output", &detail, None).await?;
        write.audit("approvals", "approval.untold", id, &format!("{whom}: {why}"), "").await?;
        write.commit().await
    }
}
