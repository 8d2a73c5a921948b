//! Dates and times.

use super::oid::Kind;
use super::{Format, Mask};
use crate::civil;
use crate::mask::Transform;

const MICROS: i64 = 1_000_000;
const DAY: i64 = 86_400;

/// Days from 1970-01-01 to PostgreSQL's epoch, 2000-01-01.
const EPOCH: i64 = 10_957;

/// Hashed days stand between 1950-01-01 and 2024-12-31, counted from 1970-01-01.
const FIRST_DAY: i64 = -7_305;
const DAYS: u64 = 27_394;

impl Mask<'_> {
    pub(super) fn time(&self, value: &[u8], out: &mut Vec<u8>) {
        // A date with some of its digits hidden is no date any more: that is redacted.
        let hash = match self.transform {
            Transform::Hash => Some(self.hash(&self.canonical_time(value))),
            _ => None,
        };
        let day = hash.map_or(0, |hash| FIRST_DAY + (hash % DAYS) as i64);
        let second = hash.map_or(0, |hash| (hash >> 32) as i64 % DAY);
        match self.format {
            Format::Text => {
                let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
                let clock = format!("{hour:02}:{minute:02}:{second:02}");
                let (year, month, day) = civil::date(day);
                let date = format!("{year:04}-{month:02}-{day:02}");
                let text = match self.kind {
                    Kind::Date => date,
                    Kind::Timestamp { zone: false } => format!("{date} {clock}"),
                    Kind::Timestamp { zone: true } => format!("{date} {clock}+00"),
                    Kind::TimeTz => format!("{clock}+00"),
                    _ => clock,
                };
                out.extend_from_slice(text.as_bytes());
            }
            Format::Binary => {
                let since_epoch = day - EPOCH;
                let micros = second * MICROS;
                match self.kind {
                    Kind::Date => out.extend_from_slice(&(since_epoch as i32).to_be_bytes()),
                    Kind::Timestamp { .. } => {
                        out.extend_from_slice(&(since_epoch * DAY * MICROS + micros).to_be_bytes());
                    }
                    // Microseconds, then the zone, or days and months.
                    Kind::TimeTz => {
                        out.extend_from_slice(&micros.to_be_bytes());
                        out.extend_from_slice(&[0; 4]);
                    }
                    Kind::Interval => {
                        out.extend_from_slice(&micros.to_be_bytes());
                        out.extend_from_slice(&[0; 8]);
                    }
                    _ => out.extend_from_slice(&micros.to_be_bytes()),
                }
            }
        }
    }

    /// The same bytes for the same moment in text (ISO style) and binary; the value as it is where
    /// it is written otherwise.
    fn canonical_time(&self, value: &[u8]) -> Vec<u8> {
        let number = match (self.kind, self.format) {
            (Kind::Date, Format::Binary) => {
                <[u8; 4]>::try_from(value).ok().map(|b| i64::from(i32::from_be_bytes(b)))
            }
            (Kind::Date, Format::Text) => iso_date(value),
            (Kind::Timestamp { .. } | Kind::Time, Format::Binary) => {
                <[u8; 8]>::try_from(value).ok().map(i64::from_be_bytes)
            }
            (Kind::Timestamp { .. }, Format::Text) => iso_timestamp(value),
            (Kind::Time, Format::Text) => iso_time(value).map(|(micros, _)| micros),
            _ => None,
        };
        number.map_or_else(|| value.to_vec(), |number| number.to_be_bytes().to_vec())
    }
}

fn digits(text: &[u8]) -> Option<i64> {
    let short = !text.is_empty() && text.len() <= 7 && text.iter().all(u8::is_ascii_digit);
    short.then(|| text.iter().fold(0, |n, d| n * 10 + i64::from(d - b'0')))
}

/// Days since 2000-01-01 of `YYYY-MM-DD`.
fn iso_date(text: &[u8]) -> Option<i64> {
    let mut parts = text.split(|b| *b == b'-').map(digits);
    let (year, month, day) = (parts.next()??, parts.next()??, parts.next()??);
    (parts.next().is_none() && (1..=12).contains(&month)).then(|| civil::day(year, month, day) - EPOCH)
}

/// Microseconds of `HH:MM:SS[.ffffff]`, and what follows.
fn iso_time(text: &[u8]) -> Option<(i64, &[u8])> {
    let end =
        text.iter().position(|b| !(b.is_ascii_digit() || matches!(b, b':' | b'.'))).unwrap_or(text.len());
    let (clock, rest) = text.split_at_checked(end)?;
    let mut parts = clock.split(|b| *b == b':');
    let (hour, minute) = (digits(parts.next()?)?, digits(parts.next()?)?);
    let mut seconds = parts.next()?.split(|b| *b == b'.');
    let second = digits(seconds.next()?)?;
    let fraction = seconds.next().unwrap_or_default();
    let micros =
        fraction.iter().chain(b"000000").take(6).fold(0, |n, d| n * 10 + i64::from(d.wrapping_sub(b'0')));
    Some((((hour * 60 + minute) * 60 + second) * MICROS + micros, rest))
}

/// Microseconds since 2000-01-01 of `YYYY-MM-DD HH:MM:SS[.ffffff][+ZZ[:ZZ]]`, in UTC when there is a zone.
fn iso_timestamp(text: &[u8]) -> Option<i64> {
    let space = text.iter().position(|b| *b == b' ')?;
    let (micros, zone) = iso_time(text.get(space + 1..)?)?;
    let offset = match zone {
        [] => 0,
        [sign @ (b'+' | b'-'), zone @ ..] => {
            let mut parts = zone.split(|b| *b == b':').map(digits);
            let (hours, minutes) = (parts.next()??, parts.next().unwrap_or(Some(0))?);
            let seconds = parts.next().unwrap_or(Some(0))?;
            let offset = (hours * 60 + minutes) * 60 + seconds;
            if *sign == b'-' { -offset } else { offset }
        }
        // BC, or another DateStyle.
        _ => return None,
    };
    Some(iso_date(text.get(..space)?)? * DAY * MICROS + micros - offset * MICROS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_count_from_the_servers_epoch() {
        assert_eq!(iso_date(b"2000-01-01"), Some(0));
        assert_eq!(civil::date(FIRST_DAY), (1950, 1, 1));
        assert_eq!(civil::date(FIRST_DAY + DAYS as i64 - 1), (2024, 12, 31));
    }

    #[test]
    fn zones_are_the_same_moment() {
        let utc = iso_timestamp(b"2024-03-05 12:00:00.5+00");
        assert_eq!(utc, iso_timestamp(b"2024-03-05 17:30:00.5+05:30"));
        assert_eq!(utc, iso_timestamp(b"2024-03-05 04:00:00.500000-08"));
        assert_eq!(iso_timestamp(b"2000-01-01 00:00:01"), Some(MICROS));
        assert_eq!(iso_timestamp(b"infinity"), None);
    }
}
