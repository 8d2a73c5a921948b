//! What one host may have kept here, and how fast it may ship, so that it leaves room for the others.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use tokio::time::Instant;

use crate::config::Agents;

/// A host may ship as much at once as it may in this time.
const AT_ONCE: Duration = Duration::from_secs(60);

/// The bounds for each host.
#[derive(Debug)]
pub struct Quota {
    /// Bytes that are kept of a host's recording; 0 for no bound.
    keep: u64,
    /// Bytes a second; 0 for no bound.
    rate: u64,
    /// Requests for approval within a day; 0 for no bound.
    requests: u64,
    /// How much each host may ship at once now, and since when. It may be less than nothing: then it waits.
    rooms: Mutex<HashMap<String, (f64, Instant)>>,
}

impl Quota {
    /// Bounds in bytes, and bytes a second; 0 is none.
    pub fn new(keep: u64, rate: u64) -> Self {
        Self { keep, rate, requests: 0, rooms: Mutex::default() }
    }

    /// With so many requests for approval within a day; 0 is no bound.
    pub fn with_requests(self, requests: u64) -> Self {
        Self { requests, ..self }
    }

    /// Those of the configuration.
    pub fn of(agents: &Agents) -> Self {
        Self::new(
            agents.keep_gib_per_host.saturating_mul(1 << 30),
            agents.mib_per_second_per_host.saturating_mul(1 << 20),
        )
        .with_requests(agents.requests_per_day_per_host)
    }

    /// Whether one more request for approval is too many beside those that came within a day.
    pub(super) fn is_request_over(&self, lately: i64) -> bool {
        self.requests > 0 && u64::try_from(lately).is_ok_and(|lately| lately >= self.requests)
    }

    /// The same of one user's requests, of which there may be a share of the host's.
    pub(super) fn is_share_over(&self, lately: i64, share: fn(i64) -> i64) -> bool {
        self.requests > 0 && lately >= share(i64::try_from(self.requests).unwrap_or(i64::MAX))
    }

    /// Whether `bytes` more are too many beside `kept`; says so in words.
    pub(super) fn is_over(&self, kept: u64, bytes: u64) -> Option<String> {
        (self.keep > 0 && kept.saturating_add(bytes) > self.keep).then(|| {
            format!(
                "the collector keeps {} of this host's recording, and may keep {} (agents.keep_gib_per_host): it takes more \
                 when retention has made room, or the bound is raised. Until then the recording waits on the host",
                size(kept),
                size(self.keep)
            )
        })
    }

    /// Counts `bytes` that a host shipped; gives for how long nothing more is to be read of it.
    pub(super) fn wait(&self, host: &str, bytes: usize, now: Instant) -> Option<Duration> {
        if self.rate == 0 {
            return None;
        }
        let rate = self.rate as f64;
        let most = rate * AT_ONCE.as_secs_f64();
        let mut rooms = self.rooms.lock().ok()?;
        let (room, at) = rooms.entry(host.to_owned()).or_insert((most, now));
        *room = (*room + now.saturating_duration_since(*at).as_secs_f64() * rate).min(most) - bytes as f64;
        *at = now;
        (*room < 0.0).then(|| Duration::from_secs_f64(-*room / rate))
    }

    /// What is found of a host that was slowed down.
    pub(super) fn too_fast(&self) -> String {
        format!(
            "it ships more than {} a second (agents.mib_per_second_per_host) and is slowed down, so that others come to \
             their turn; nothing is lost",
            size(self.rate)
        )
    }
}

/// Bytes, for people.
fn size(bytes: u64) -> String {
    match bytes {
        0..1024 => format!("{bytes} bytes"),
        1024..1_048_576 => format!("{} KiB", bytes >> 10),
        1_048_576..1_073_741_824 => format!("{} MiB", bytes >> 20),
        _ => format!("{:.1} GiB", bytes as f64 / (1_u64 << 30) as f64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_that_ships_too_fast_waits_and_no_other_does() {
        let quota = Quota::new(0, 1000);
        let now = Instant::now();
        assert_eq!(quota.wait("a", 60_000, now), None, "a minute's worth at once");
        assert_eq!(quota.wait("a", 2000, now), Some(Duration::from_secs(2)));
        assert_eq!(quota.wait("b", 500, now), None);
        let later = now + Duration::from_secs(5);
        assert_eq!(quota.wait("a", 3000, later), None, "the two seconds are over, and three more");
        assert!(quota.wait("a", 1000, later).is_some());
        assert_eq!(Quota::new(0, 0).wait("a", usize::MAX, now), None, "no bound");
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let quota = Quota::new(10_000, 0);
        assert_eq!(quota.is_over(9000, 1000), None);
        let over = quota.is_over(9000, 1001).unwrap_or_default();
        assert!(over.contains("8 KiB") && over.contains("keep_gib_per_host"), "{over}");
        assert!(quota.is_over(u64::MAX, u64::MAX).is_some());
        assert_eq!(Quota::new(0, 0).is_over(u64::MAX, 1), None, "no bound");
    }
}
