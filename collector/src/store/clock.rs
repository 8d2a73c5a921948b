//! A host's two clocks, as its events tell of them: the time of day, which may be set, and the time since its
//! boot, which only goes on.

use interlock_recording::json;
use interlock_recording::proto::Event;
use interlock_recording::proto::event::Body;

/// So far may the two clocks drift apart between two events: what is more is a clock that was set.
const SET_NS: i64 = 60_000_000_000;

/// Where a host's clocks stand after an event.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Clock {
    /// The last event's time since boot, and how far the time of day was ahead of that.
    last: Option<(i64, i64)>,
    /// How far it was ahead before the clock was last set, and the first event after that.
    before: Option<(i64, i64)>,
}

impl Clock {
    /// As it was stored (see [`Clock::stored`]).
    pub(super) fn load(stored: [Option<i64>; 4]) -> Self {
        let [monotonic, ahead, before, event] = stored;
        Self { last: monotonic.zip(ahead), before: before.zip(event) }
    }

    /// To be stored.
    pub(super) fn stored(&self) -> [Option<i64>; 4] {
        [
            self.last.map(|(monotonic, _)| monotonic),
            self.last.map(|(_, ahead)| ahead),
            self.before.map(|(before, _)| before),
            self.before.map(|(_, event)| event),
        ]
    }

    /// Goes on to the next event; gives what is wrong with its times. One clock that is set explains that times of
    /// day jump, and a boot that the time since boot begins anew. What neither explains: that the time since
    /// boot goes back on a running host, and that the times of day jump and then go on as if they had not,
    /// which is what events look like that were given other times than their own.
    pub(super) fn event(&mut self, event: &Event) -> Option<String> {
        let int = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        let (index, wall, monotonic) = (int(event.index), int(event.wall_ns), int(event.monotonic_ns));
        let ahead = wall.saturating_sub(monotonic);
        let Some((last, was_ahead)) = self.last else {
            self.last = Some((monotonic, ahead));
            return None;
        };
        // Over a boot both begin anew, and an agent that starts says so first.
        let starts = matches!(event.body, Some(Body::AgentStarted(_) | Body::Recovered(_)));
        if monotonic < last {
            *self = Self { last: Some((monotonic, ahead)), before: None };
            return (!starts).then(|| {
                format!(
                    "event {index} says that it came {} before the event ahead of it, by the time since the host's boot",
                    span(last.saturating_sub(monotonic))
                )
            });
        }
        self.last = Some((monotonic, ahead));
        let jump = ahead.saturating_sub(was_ahead);
        if jump.saturating_abs() <= SET_NS {
            return None;
        }
        match self.before.take() {
            Some((before, first)) if ahead.saturating_sub(before).saturating_abs() <= SET_NS => {
                let (way, by) =
                    if was_ahead < before { ("back", jump) } else { ("forward", jump.saturating_neg()) };
                Some(format!(
                    "events {first} to {} have times {} {} from those before and after them (which go on at {}): the \
                     clock was set {way} and then right again, or these events were given other times than their own",
                    index.saturating_sub(1),
                    span(by),
                    if way == "back" { "earlier" } else { "later" },
                    json::time(event.wall_ns)
                ))
            }
            _ => {
                self.before = Some((was_ahead, index));
                None
            }
        }
    }
}

/// A length of time, for people.
fn span(ns: i64) -> String {
    let seconds = ns / 1_000_000_000;
    match seconds {
        0 => format!("{} ms", ns / 1_000_000),
        1..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use interlock_recording::proto::AgentStarted;

    use super::*;

    const SECOND: u64 = 1_000_000_000;
    const HOUR: u64 = 3600 * SECOND;

    /// Judges events of these times of day and since boot.
    fn judge(times: &[(u64, u64)]) -> Vec<Option<String>> {
        let mut clock = Clock::default();
        let events = (0..).zip(times).map(|(index, (wall_ns, monotonic_ns))| Event {
            index,
            wall_ns: *wall_ns,
            monotonic_ns: *monotonic_ns,
            ..Event::default()
        });
        events
            .map(|event| {
                clock = Clock::load(clock.stored());
                clock.event(&event)
            })
            .collect()
    }

    #[test]
    fn a_clock_may_be_set_once_and_drift() {
        let day = 24 * HOUR;
        let times =
            [(day, 1), (day + HOUR, HOUR), (day, HOUR + SECOND), (day + 90 * SECOND, HOUR + 61 * SECOND)];
        assert_eq!(judge(&times), [None, None, None, None], "set back by an hour, then 30 s of drift");
    }

    #[test]
    fn events_with_other_times_than_their_own_are_found() {
        let day = 24 * HOUR;
        let times = [
            (day, 1),
            (day - 3 * HOUR, SECOND),
            (day - 3 * HOUR, 2 * SECOND),
            (day + 3 * SECOND, 3 * SECOND),
        ];
        let found = judge(&times);
        assert_eq!(found[..3], [None, None, None]);
        let found = found[3].as_deref().unwrap_or_default();
        assert!(found.contains("events 1 to 2") && found.contains("3 h earlier"), "{found}");
        let found = judge(&[(day, 1), (day + 3 * HOUR, SECOND), (day + 2 * SECOND, 2 * SECOND)]);
        assert!(found[2].as_deref().is_some_and(|found| found.contains("later")), "{found:?}");
    }

    #[test]
    fn the_time_since_boot_goes_back_over_a_boot_only() {
        let found = judge(&[(HOUR, 5 * SECOND), (HOUR, 2 * SECOND)]);
        assert!(
            found[1].as_deref().is_some_and(|found| found.contains("since the host's boot")),
            "{found:?}"
        );
        let mut clock = Clock::load([Some(5), Some(9), None, None]);
        let start = Some(Body::AgentStarted(AgentStarted::default()));
        assert_eq!(
            clock.event(&Event { index: 7, wall_ns: 1, monotonic_ns: 2, body: start, ..Event::default() }),
            None
        );
    }

    #[test]
    fn no_times_are_too_large() {
        judge(&[(u64::MAX, 0), (0, u64::MAX), (u64::MAX, u64::MAX), (0, 0), (u64::MAX, 1)]);
    }
}
