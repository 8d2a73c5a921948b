//! How shipping goes, for `interlock status` and for whoever else asks.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Serialize;

use super::enrolment::{Enrolment, Mark};
use super::{Fault, Sessions};
use crate::record::Kept;

/// Points in time that are remembered for telling how old the oldest unshipped event is.
const MOST_SAMPLES: usize = 512;

/// What is not at the collector yet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Lag {
    /// How many events.
    pub events: u64,
    /// How many bytes their segments take on this host, about.
    pub bytes: u64,
    /// How old the oldest of them is, about, in seconds.
    pub seconds: u64,
}

/// How shipping goes.
#[derive(Debug, Clone, Default, Serialize)]
pub struct ShipStatus {
    /// This host is enrolled.
    pub enrolled: bool,
    /// The collector's address.
    pub url: Option<String>,
    /// The collector's name.
    pub collector: Option<String>,
    /// The key of its ledger's checkpoints, as C2SP signed notes have it.
    pub ledger_key: Option<String>,
    /// Since when it is connected, if it is.
    pub connected_since: Option<String>,
    /// The collector has all sealed segments before this one.
    pub next_segment: u64,
    /// The collector has all events before this one.
    pub next_event: u64,
    /// When it last said that it has more.
    pub taken: Option<String>,
    /// What it has not.
    pub lag: Lag,
    /// Segments that it has and that are still here: how many, and bytes.
    pub kept_segments: u64,
    /// Their bytes.
    pub kept_bytes: u64,
    /// Why what it has cannot be removed here, when that is to be done.
    pub not_removed: Option<String>,
    /// Why nothing is shipped now.
    pub error: Option<String>,
    /// Since when.
    pub error_since: Option<String>,
    /// When the agent's certificate expires; it is renewed before.
    pub certificate_expires: Option<String>,
}

/// What the shipper tells the rest of the agent, and takes from it.
#[derive(Debug, Default)]
pub struct Shipping {
    sessions: Arc<Sessions>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    status: ShipStatus,
    /// Where the recording stood at some times: seconds, and the next event's index.
    samples: VecDeque<(i64, u64)>,
}

fn shown_now() -> String {
    shown_time(jiff::Timestamp::now().as_second())
}

/// A time in seconds since the Unix epoch.
pub(super) fn shown_time(seconds: i64) -> String {
    jiff::Timestamp::from_second(seconds).map_or_else(|_| seconds.to_string(), |time| time.to_string())
}

impl Shipping {
    /// The sessions that a collector may have ended.
    pub fn sessions(&self) -> &Arc<Sessions> {
        &self.sessions
    }

    /// How it goes. `events` is where the recording stands, `used` its bytes on disk.
    pub fn status(&self, events: u64, used: u64) -> ShipStatus {
        let state = self.lock();
        let mut status = state.status.clone();
        if status.enrolled {
            let behind = events.saturating_sub(status.next_event);
            let oldest = state.samples.iter().find(|(_, upto)| *upto > status.next_event);
            let now = jiff::Timestamp::now().as_second();
            status.lag = Lag {
                events: behind,
                bytes: if behind == 0 { 0 } else { used.saturating_sub(status.kept_bytes) },
                seconds: oldest
                    .filter(|_| behind > 0)
                    .map_or(0, |(at, _)| u64::try_from(now.saturating_sub(*at)).unwrap_or(0)),
            };
        }
        status
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn not_enrolled(&self) {
        *self.lock() = State::default();
    }

    pub(super) fn enrolled(&self, enrolment: &Enrolment, mark: Mark) {
        let mut state = self.lock();
        let status = &mut state.status;
        status.enrolled = true;
        status.url = Some(enrolment.address.to_string());
        status.collector = Some(enrolment.collector.clone());
        status.ledger_key = Some(enrolment.ledger_key.clone());
        status.certificate_expires = enrolment.validity().map(|(_, until)| shown_time(until));
        (status.next_segment, status.next_event) = (mark.segment, mark.event);
    }

    pub(super) fn connected(&self) {
        let status = &mut self.lock().status;
        status.connected_since = Some(shown_now());
        (status.error, status.error_since) = (None, None);
    }

    /// Notes why nothing is shipped; gives whether that is news.
    pub(super) fn failed(&self, fault: &Fault) -> bool {
        let status = &mut self.lock().status;
        let words = fault.to_string();
        status.connected_since = None;
        let news = status.error.as_ref() != Some(&words);
        if status.error.is_none() {
            status.error_since = Some(shown_now());
        }
        status.error = Some(words);
        news
    }

    pub(super) fn taken(&self, mark: Mark) {
        let mut state = self.lock();
        let status = &mut state.status;
        (status.next_segment, status.next_event) = (mark.segment, mark.event);
        status.taken = Some(shown_now());
        let done = mark.event;
        while state.samples.front().is_some_and(|(_, upto)| *upto <= done) {
            state.samples.pop_front();
        }
    }

    pub(super) fn kept(&self, kept: Kept) {
        let status = &mut self.lock().status;
        (status.kept_segments, status.kept_bytes) = (kept.segments, kept.bytes);
    }

    /// Segments that the collector has are still here.
    pub(super) fn keeps_some(&self) -> bool {
        self.lock().status.kept_segments > 0
    }

    /// Notes why nothing can be removed, or that something can; gives the reason if it is a new one.
    pub(super) fn not_removed(&self, reason: Option<String>) -> Option<String> {
        let status = &mut self.lock().status;
        let news = reason.clone().filter(|_| status.not_removed != reason);
        status.not_removed = reason;
        news
    }

    /// Notes where the recording stands, once in a while.
    pub(super) fn sample(&self, events: u64) {
        let mut state = self.lock();
        if events <= state.status.next_event || state.samples.back().is_some_and(|(_, upto)| *upto >= events)
        {
            return;
        }
        if state.samples.len() >= MOST_SAMPLES {
            // Every second one is as good over so long a time.
            let mut n = 0;
            state.samples.retain(|_| {
                n += 1;
                n % 2 == 1
            });
        }
        state.samples.push_back((jiff::Timestamp::now().as_second(), events));
    }

    /// Notes since when the first of what is not shipped is there: from before this agent's start.
    pub(super) fn since(&self, seconds: i64, event: u64) {
        let mut state = self.lock();
        let earlier = state.samples.front().is_none_or(|(at, _)| *at > seconds);
        if earlier {
            state.samples.push_front((seconds, event + 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lag_is_what_the_collector_has_not() {
        let shipping = Shipping::default();
        assert!(!shipping.status(100, 1000).enrolled);
        assert_eq!(shipping.status(100, 1000).lag, Lag::default());
        shipping.lock().status.enrolled = true;
        shipping.taken(Mark { segment: 1, event: 40 });
        shipping.kept(Kept { bytes: 600, segments: 1, ..Kept::default() });
        let lag = shipping.status(100, 1000).lag;
        assert_eq!((lag.events, lag.bytes, lag.seconds), (60, 400, 0));
        shipping.since(1000, 40);
        assert!(shipping.status(100, 1000).lag.seconds > 1_000_000_000);
        for events in 41..3000 {
            shipping.sample(events);
        }
        assert!(shipping.lock().samples.len() <= MOST_SAMPLES);
        assert!(shipping.status(3000, 1000).lag.seconds > 1_000_000_000, "the oldest is still not there");
        shipping.taken(Mark { segment: 1, event: 3000 });
        assert_eq!(shipping.status(3000, 1000).lag, Lag::default());
        assert!(shipping.lock().samples.is_empty());
    }

    #[test]
    fn an_error_is_news_once() {
        let shipping = Shipping::default();
        let fault = Fault::Broke("x".into());
        assert!(shipping.failed(&fault));
        let since = shipping.status(0, 0).error_since;
        assert!(!shipping.failed(&fault) && shipping.failed(&Fault::Broke("y".into())));
        assert_eq!(shipping.status(0, 0).error_since, since);
        shipping.connected();
        assert!(shipping.status(0, 0).error.is_none());
        assert!(shipping.failed(&fault));
    }
}
