//! How long to wait before the next try.

use std::time::Duration;

use interlock_recording::fill_random;

const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(30);
/// What only somebody can mend is tried again after this long.
const SLOW: Duration = Duration::from_secs(300);

/// Doubles with each failure, up to a limit.
#[derive(Debug)]
pub(super) struct Backoff {
    next: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { next: FIRST }
    }
}

impl Backoff {
    /// After a try that got somewhere.
    pub(super) fn reset(&mut self) {
        *self = Self::default();
    }

    /// The pause after a failure: between half of the time and all of it, so that a thousand agents do not
    /// come at once when their collector is back.
    pub(super) fn pause(&mut self, slow: bool) -> Duration {
        let whole = if slow { SLOW } else { self.next };
        self.next = (self.next * 2).min(LONGEST);
        let mut random = [0; 2];
        // Without randomness, which is not to be expected, the pause is the longest.
        if fill_random(&mut random).is_err() {
            return whole;
        }
        whole / 2 + whole * u32::from(u16::from_le_bytes(random)) / (2 * u32::from(u16::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_limit_and_begin_anew() {
        let mut backoff = Backoff::default();
        let mut expected = FIRST;
        for _ in 0..12 {
            let pause = backoff.pause(false);
            assert!(pause >= expected / 2 && pause <= expected, "{pause:?} of {expected:?}");
            expected = (expected * 2).min(LONGEST);
        }
        assert!(backoff.pause(true) >= SLOW / 2);
        backoff.reset();
        assert!(backoff.pause(false) <= FIRST);
    }
}
