//! One output at work.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::Timing;
use super::config::Output;
use super::feed::{self, Batch, Place};
use super::message::{Body, Message};
use super::send::{Failure, Sender};
use crate::store::{OutputState, Progress, Store, StoreError, lease_of, now_ns};

/// How long is waited after the database has failed.
const DATABASE: Duration = Duration::from_secs(5);

/// Serves one output.
pub(super) struct Runner {
    output: Output,
    sender: Sender,
    store: Arc<Store>,
    /// This collector, in leases.
    owner: String,
    timing: Timing,
    leased_until: Option<Instant>,
    stopped: watch::Receiver<bool>,
    changed: watch::Receiver<u64>,
    /// How long is waited after the next failure.
    wait: Duration,
    /// What failed last, so that the log says it once.
    failed: Option<String>,
    /// Since when the database does not say what is next, or does not keep the place.
    unread_since: Option<Instant>,
}

/// Why it does not go on.
enum Interrupt {
    /// The collector stops.
    Stopped,
    /// Another collector has the output.
    Lost,
    /// What was sent may not be there: back to the place that is kept.
    Back,
    /// The database fails.
    Store(StoreError),
}

impl From<StoreError> for Interrupt {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// Where an output stands.
struct Turn {
    /// The place after what was sent last.
    place: Place,
    /// What was sent and is not kept yet: when it may be, and what is kept then.
    pending: VecDeque<(Instant, Progress)>,
    /// Gaps that were told of, by host.
    gaps: Vec<(String, String)>,
    kept_at: Instant,
    state: OutputState,
}

fn ns(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}

fn progress(place: Place) -> Progress {
    Progress { place: place.row, done: place.done, ..Progress::default() }
}

impl Runner {
    pub(super) fn new(
        output: Output,
        sender: Sender,
        store: Arc<Store>,
        owner: String,
        timing: Timing,
        stopped: watch::Receiver<bool>,
        changed: watch::Receiver<u64>,
    ) -> Self {
        let wait = timing.least_wait;
        Self {
            output,
            sender,
            store,
            owner,
            timing,
            leased_until: None,
            stopped,
            changed,
            wait,
            failed: None,
            unread_since: None,
        }
    }

    pub(super) async fn run(mut self) {
        loop {
            let ended = self.turn().await;
            let pause = match ended {
                Ok(never) => match never {},
                Err(Interrupt::Stopped) => break,
                Err(Interrupt::Back) => Duration::ZERO,
                Err(Interrupt::Lost) => {
                    self.leased_until = None;
                    self.timing.lease / 6
                }
                Err(Interrupt::Store(error)) => {
                    tracing::error!(output = self.output.name, "{error}");
                    self.unread().await;
                    DATABASE.min(self.timing.most_wait)
                }
            };
            if self.pause(pause).await.is_err() {
                break;
            }
        }
        if let Err(error) = self.store.release(&lease_of(&self.output.name), &self.owner).await {
            tracing::warn!(output = self.output.name, "{error}");
        }
    }

    /// Has it found that the database has failed for long. One that fails altogether does not take that either.
    async fn unread(&mut self) {
        let since = *self.unread_since.get_or_insert_with(Instant::now);
        if since.elapsed() < self.timing.stuck {
            return;
        }
        let detail = format!(
            "output {} is stuck: what is to be sent next cannot be read from the database, or its place not be kept. \
             The collector's log says why",
            self.output.name
        );
        let found = async {
            let mut write = self.store.write().await?;
            if !write.is_found("", "output", &detail).await? {
                write.add_finding("", "output", &detail, None).await?;
            }
            write.commit().await
        };
        if let Err(error) = found.await {
            tracing::error!(output = self.output.name, "it cannot be written down that it is stuck: {error}");
        }
    }

    /// Waits; fails when the collector stops meanwhile.
    async fn pause(&mut self, time: Duration) -> Result<(), Interrupt> {
        tokio::select! {
            _ = self.stopped.wait_for(|stop| *stop) => Err(Interrupt::Stopped),
            () = tokio::time::sleep(time) => Ok(()),
        }
    }

    /// Takes or keeps the lease.
    async fn keep_lease(&mut self) -> Result<(), Interrupt> {
        let now = Instant::now();
        if self.leased_until.is_some_and(|until| until > now + self.timing.lease / 2) {
            return Ok(());
        }
        match self.store.lease(&lease_of(&self.output.name), &self.owner, self.timing.lease).await {
            Ok(true) => {
                self.leased_until = Some(now + self.timing.lease);
                Ok(())
            }
            Ok(false) => Err(Interrupt::Lost),
            // It is still ours for a while.
            Err(_) if self.leased_until.is_some_and(|until| until > now + self.timing.lease / 4) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Sends what is there, from the place that is kept on.
    async fn turn(&mut self) -> Result<std::convert::Infallible, Interrupt> {
        self.keep_lease().await?;
        let all = self.store.outputs().await?;
        // Forgotten by command while it is still configured.
        let Some(state) = all.into_iter().find(|state| state.name == self.output.name) else {
            let mut write = self.store.write().await?;
            write.add_output(&self.output.name).await?;
            write.commit().await?;
            return Err(Interrupt::Back);
        };
        let place = Place { row: state.place, done: state.done };
        let kept_at = Instant::now();
        let mut turn = Turn { place, pending: VecDeque::new(), gaps: Vec::new(), kept_at, state };
        let ended = self.go(&mut turn).await;
        if matches!(ended, Err(Interrupt::Stopped)) && self.sender.finish().await {
            for (at, _) in &mut turn.pending {
                *at = kept_at;
            }
            self.keep(&mut turn).await?;
        }
        ended
    }

    async fn go(&mut self, turn: &mut Turn) -> Result<std::convert::Infallible, Interrupt> {
        loop {
            self.keep_lease().await?;
            if let Err(failure) = self.sender.holds().await {
                self.fail(turn, failure).await?;
                return Err(Interrupt::Back);
            }
            let batch = feed::next(&self.store, &self.output, turn.place, self.sender.batch()).await?;
            let more = batch.more;
            if batch.messages.is_empty() {
                // The database may be another by now, to which the connections were led.
                if self.store.is_foreign(turn.place.row.0).await? {
                    self.store.settle_journal().await?;
                    return Err(Interrupt::Back);
                }
                self.pass(turn, batch.end);
            } else {
                self.deliver(turn, batch).await?;
            }
            self.keep(turn).await?;
            self.unread_since = None;
            if *self.stopped.borrow() {
                return Err(Interrupt::Stopped);
            }
            if !more {
                tokio::select! {
                    _ = self.stopped.wait_for(|stop| *stop) => return Err(Interrupt::Stopped),
                    Ok(()) = self.changed.changed() => {}
                    () = tokio::time::sleep(self.timing.poll) => {}
                }
                // What comes within a moment goes together.
                self.pause(self.timing.gather).await?;
            }
        }
    }

    /// Notes that there was nothing to send up to `end`.
    fn pass(&self, turn: &mut Turn, end: Place) {
        if turn.place == end {
            return;
        }
        turn.place = end;
        match turn.pending.back_mut() {
            Some((_, last)) => (last.place, last.done) = (end.row, end.done),
            None => turn.pending.push_back((Instant::now(), progress(end))),
        }
    }

    /// Sends all of a batch, however long that takes.
    async fn deliver(&mut self, turn: &mut Turn, batch: Batch) -> Result<(), Interrupt> {
        let mut rest = batch.messages.as_slice();
        let mut most = rest.len();
        while !rest.is_empty() {
            self.keep_lease().await?;
            let (some, others) = rest.split_at(most.clamp(1, rest.len()));
            let messages: Vec<&Message> = some.iter().map(|(message, _)| message).collect();
            let sent = tokio::select! {
                sent = self.sender.send(&messages) => sent,
                _ = self.stopped.wait_for(|stop| *stop) => return Err(Interrupt::Stopped),
            };
            let after = match some.last() {
                Some((_, after)) if !others.is_empty() => *after,
                _ => batch.end,
            };
            match sent {
                Ok(()) => {
                    self.sent(turn, &messages, after);
                    rest = others;
                    most = most.saturating_mul(2);
                    self.keep(turn).await?;
                }
                // One of them is refused: which?
                Err(Failure::Refused(_)) if some.len() > 1 => most = 1,
                Err(Failure::Refused(why)) => {
                    let Some(message) = messages.first() else { continue };
                    if self.skips(turn) {
                        self.skip(turn, message, &why, after).await?;
                        rest = others;
                    } else {
                        let why = format!("{why} to {}", message.id);
                        self.fail(turn, Failure::Refused(why)).await?;
                    }
                }
                Err(failure) => {
                    self.fail(turn, failure).await?;
                    if self.sender.settles().is_some() {
                        return Err(Interrupt::Back);
                    }
                }
            }
        }
        Ok(())
    }

    fn sent(&mut self, turn: &mut Turn, messages: &[&Message], after: Place) {
        let mut sent = progress(after);
        sent.sent = i64::try_from(messages.len()).unwrap_or(i64::MAX);
        for message in messages {
            if let Body::Deleted(deleted) = &message.body {
                sent.deleted += 1;
                let host = (deleted.host.clone(), deleted.host_name.clone());
                if !turn.gaps.contains(&host) {
                    turn.gaps.push(host);
                }
            }
        }
        turn.place = after;
        turn.pending.push_back((Instant::now() + self.sender.settles().unwrap_or_default(), sent));
    }

    /// Keeps the place, as far as what was sent counts as there.
    async fn keep(&mut self, turn: &mut Turn) -> Result<(), Interrupt> {
        let now = Instant::now();
        let mut kept: Option<Progress> = None;
        let settled = turn.pending.iter().take_while(|(at, _)| *at <= now).count();
        for (_, next) in turn.pending.iter().take(settled) {
            let sum = kept.get_or_insert_default();
            (sum.place, sum.done) = (next.place, next.done);
            sum.sent += next.sent;
            sum.skipped += next.skipped;
            sum.deleted += next.deleted;
        }
        let Some(kept) = kept else { return Ok(()) };
        let quiet = kept.sent == 0 && kept.skipped == 0;
        // Where nothing was sent it costs nothing to walk that way again.
        if quiet && turn.kept_at + self.timing.poll > now {
            return Ok(());
        }
        let mut write = self.store.write().await?;
        if !write.progress(&self.output.name, &self.owner, &kept).await? {
            return Err(Interrupt::Lost);
        }
        for (host, name) in &turn.gaps {
            let detail = format!(
                "output {} could not be told of all that {name} recorded: parts were deleted before they could be sent",
                self.output.name
            );
            if !write.is_found(host, "output", &detail).await? {
                write.add_finding(host, "output", &detail, None).await?;
            }
        }
        write.commit().await?;
        turn.pending.drain(..settled);
        turn.kept_at = now;
        turn.gaps.clear();
        if !quiet {
            turn.state.refused_since_ns = None;
            turn.state.failing_since_ns = None;
            self.wait = self.timing.least_wait;
            if self.failed.take().is_some() {
                tracing::info!(output = self.output.name, "it is told again");
            }
        }
        Ok(())
    }

    /// Says what failed, and waits.
    async fn fail(&mut self, turn: &mut Turn, failure: Failure) -> Result<(), Interrupt> {
        let (why, refused, later) = match failure {
            Failure::Refused(why) => (why, true, None),
            Failure::Later(why, later) => (why, false, later),
        };
        if self.failed.as_ref() != Some(&why) {
            tracing::warn!(output = self.output.name, "it cannot be told, and is tried again: {why}");
            self.failed = Some(why.clone());
        }
        let now = now_ns();
        let since = *turn.state.failing_since_ns.get_or_insert(now);
        if refused {
            turn.state.refused_since_ns.get_or_insert(now);
        }
        let mut write = self.store.write().await?;
        write.output_fails(&self.output.name, &self.owner, &why, refused).await?;
        if now.saturating_sub(since) >= ns(self.timing.stuck) {
            let detail = format!(
                "output {} is stuck: nothing could be sent for a while. `interlock-collector outputs list` says why",
                self.output.name
            );
            if !write.is_found("", "output", &detail).await? {
                tracing::error!(output = self.output.name, "it is stuck: {why}");
                write.add_finding("", "output", &detail, None).await?;
            }
        }
        write.commit().await?;
        let wait = self.wait.max(later.unwrap_or_default()).min(self.timing.most_wait);
        self.wait = self.wait.saturating_mul(2).min(self.timing.most_wait);
        // The lease must be kept however long that is.
        let until = Instant::now() + wait;
        while Instant::now() < until {
            self.pause((until - Instant::now()).min(self.timing.lease / 4)).await?;
            self.keep_lease().await?;
        }
        Ok(())
    }

    /// Whether the message that is next has been refused for as long as the configuration has patience.
    fn skips(&self, turn: &Turn) -> bool {
        let (Some(hours), Some(since)) = (self.output.skip_refused_after_hours, turn.state.refused_since_ns)
        else {
            return false;
        };
        now_ns().saturating_sub(since) >= ns(self.timing.hour.saturating_mul(hours))
    }

    /// Skips a message that the receiver does not take. The finding names it.
    async fn skip(
        &mut self,
        turn: &mut Turn,
        message: &Message,
        why: &str,
        after: Place,
    ) -> Result<(), Interrupt> {
        let skipped = Progress { skipped: 1, ..progress(after) };
        let (host, detail) = (
            message.host().map_or("", |(_, id)| id),
            format!("output {} was not told of {}: {why}", self.output.name, message.id),
        );
        tracing::error!(output = self.output.name, "{detail}");
        let mut write = self.store.write().await?;
        write.add_finding(host, "output", &detail, None).await?;
        write.audit("outputs", "output.skip", &self.output.name, &message.id, "").await?;
        if !write.progress(&self.output.name, &self.owner, &skipped).await? {
            return Err(Interrupt::Lost);
        }
        write.commit().await?;
        turn.place = after;
        turn.state.refused_since_ns = None;
        Ok(())
    }
}
