//! Numbers, times and texts as people read them.

use std::time::Duration;

use interlock_recording::json;

/// A time, to the second, as `<time>` shows it; the page's script adds the local one.
pub(super) fn time(ns: i64) -> String {
    if ns <= 0 {
        return "never".into();
    }
    let text = json::time(u64::try_from(ns).unwrap_or_default());
    let text = text.replacen('T', " ", 1);
    match text.split_once('.') {
        Some((seconds, _)) => format!("{seconds} UTC"),
        None => text,
    }
}

/// The same for programs.
pub(super) fn machine_time(ns: i64) -> String {
    json::time(u64::try_from(ns).unwrap_or_default())
}

/// How long something took.
pub(super) fn duration(ns: i64) -> String {
    let ns = u64::try_from(ns).unwrap_or_default();
    let took = Duration::from_nanos(ns);
    match took.as_secs() {
        0 => match (took.as_nanos(), took.as_micros()) {
            (ns, 0) => format!("{ns} ns"),
            (_, us @ ..1000) => format!("{us} µs"),
            _ => format!("{:.1} ms", took.as_secs_f64() * 1000.0),
        },
        1..=59 => format!("{:.1} s", took.as_secs_f64()),
        60..=3599 => format!("{} min {} s", took.as_secs() / 60, took.as_secs() % 60),
        3600..=86_399 => format!("{} h {} min", took.as_secs() / 3600, took.as_secs() % 3600 / 60),
        seconds => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

/// How long ago, in whole seconds at the finest.
pub(super) fn ago(ns: i64, now: i64) -> String {
    let seconds = (now - ns).max(0) / 1_000_000_000;
    match (ns, seconds) {
        (..=0, _) => "never".into(),
        (_, ..60) => format!("{seconds} s ago"),
        _ => format!("{} ago", duration(seconds * 1_000_000_000)),
    }
}

/// How many bytes.
pub(super) fn bytes(bytes: i64) -> String {
    let mut amount = bytes as f64;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if amount < 1024.0 {
            return if unit == "B" { format!("{bytes} B") } else { format!("{amount:.1} {unit}") };
        }
        amount /= 1024.0;
    }
    format!("{amount:.1} TiB")
}

/// A number with its thousands apart.
pub(super) fn count(number: i64) -> String {
    let digits = number.unsigned_abs().to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push('\u{2009}');
        }
        text.push(digit);
    }
    if number < 0 { format!("−{text}") } else { text }
}

/// The beginning of a text, at most `most` characters.
pub(super) fn beginning(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((at, _)) => format!("{}…", text.get(..at).unwrap_or_default()),
        None => text.to_owned(),
    }
}

/// How long something is open still.
pub(super) fn left(until_ns: i64, now: i64) -> String {
    let seconds = (until_ns - now).max(0) / 1_000_000_000;
    match seconds {
        0 => "its time is over".to_owned(),
        ..60 => format!("{seconds} s left"),
        _ => format!("{} left", duration(seconds * 1_000_000_000)),
    }
}

/// A word of programs as people write it.
pub(super) fn plain(word: &str) -> String {
    word.replace('_', " ")
}

/// The same at the beginning of a sentence.
pub(super) fn sentence(word: &str) -> String {
    let mut letters = word.chars();
    let first = letters.next().map(|letter| letter.to_uppercase().to_string()).unwrap_or_default();
    plain(&format!("{first}{}", letters.as_str()))
}

/// The last part of a path.
pub(super) fn base(path: &str) -> &str {
    path.rsplit('/').find(|part| !part.is_empty()).unwrap_or(path)
}

/// The words that CSS knows a verdict, or an outcome, by.
pub(super) fn tone(word: &str) -> &'static str {
    match word {
        "allow" | "complete" | "client_closed" | "record" | "approved" => "good",
        "hold" | "suspended" | "skipped" | "pending" => "wait",
        "deny" | "error" | "refused" | "denied" | "broken_glass" => "bad",
        _ => "plain",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_times_read_well() {
        assert_eq!(count(1_234_567), "1\u{2009}234\u{2009}567");
        assert_eq!(count(-12), "−12");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(duration(3_700_000_000_000), "1 h 1 min");
        assert_eq!(duration(1_500_000), "1.5 ms");
        assert_eq!(ago(0, 5), "never");
        assert_eq!(ago(1, 7_900_000_001), "7 s ago");
        assert_eq!(time(1_700_000_000_000_000_001), "2023-11-14 22:13:20 UTC");
        assert_eq!(beginning("äöü", 2), "äö…");
        assert_eq!(base("/usr/bin/psql"), "psql");
        assert_eq!(left(90_500_000_000, 0), "1 min 30 s left");
        assert_eq!(
            (left(1, 5), sentence("broken_glass")),
            ("its time is over".into(), "Broken glass".into())
        );
    }
}
