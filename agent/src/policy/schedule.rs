//! Time windows: days of the week and hours in a time zone.

use jiff::Timestamp;
use jiff::civil::{Time, Weekday};
use jiff::tz::TimeZone;
use serde::Serialize;

use super::decode::{At, Decode, Decoder, OneOrMany, record, words};
use super::yaml::{Node, Value};

/// A day of the week.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Day {
    Mon,
    Tue,
    Wed,
    Thu,
    Fri,
    Sat,
    Sun,
}

words! {
    Day: "a day" [Mon, Tue, Wed, Thu, Fri, Sat, Sun], hint |word: &str| {
        word.contains('-').then(|| "list the days: [mon, tue, wed, thu, fri]".to_owned())
    };
}

impl Day {
    fn weekday(self) -> Weekday {
        match self {
            Self::Mon => Weekday::Monday,
            Self::Tue => Weekday::Tuesday,
            Self::Wed => Weekday::Wednesday,
            Self::Thu => Weekday::Thursday,
            Self::Fri => Weekday::Friday,
            Self::Sat => Weekday::Saturday,
            Self::Sun => Weekday::Sunday,
        }
    }
}

/// A time of day in minutes since midnight; 24:00 is 1440.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Clock(u16);

impl Decode for Clock {
    fn decode(node: &Node, decoder: &mut Decoder<'_>) -> Option<Self> {
        let clock = match &node.value {
            Value::String(text) => text.split_once(':').and_then(|(hours, minutes)| {
                let two = |part: &str| {
                    (part.len() <= 2 && !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()))
                        .then(|| part.parse::<u16>().ok())?
                };
                let (hours, minutes) = (two(hours)?, two(minutes).filter(|_| minutes.len() == 2)?);
                let total = hours * 60 + minutes;
                (minutes < 60 && total <= 24 * 60).then_some(Self(total))
            }),
            _ => None,
        };
        if clock.is_none() {
            decoder.error_help(
                node.at,
                format!("{} is no time of day", node.describe()),
                "write hours and minutes in quotes, such as \"08:30\" (\"24:00\" is the day's end)",
            );
        }
        clock
    }
}

/// A time zone by its IANA name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Zone(TimeZone);

impl Decode for Zone {
    fn decode(node: &Node, decoder: &mut Decoder<'_>) -> Option<Self> {
        let name = String::decode(node, decoder)?;
        if name == "UTC" {
            return Some(Self(TimeZone::UTC));
        }
        match TimeZone::get(&name) {
            Ok(zone) => Some(Self(zone)),
            Err(_) => {
                decoder.error_help(
                    node.at,
                    format!("this host knows no time zone called {}", node.describe()),
                    "write an IANA name such as `Europe/Berlin` (its data is in the package tzdata), or `UTC`",
                );
                None
            }
        }
    }
}

record! {
    /// A time window. The keys that are given must all hold.
    #[derive(PartialEq, Eq)]
    pub(crate) struct Schedule {
        /// Days of the week; any when left out. A window that goes past midnight belongs to the day on
        /// which it began.
        days: Option<OneOrMany<Day>>,
        /// When it begins, `"HH:MM"`; midnight when left out.
        from: Option<At<Clock>>,
        /// When it ends (this minute excluded), `"HH:MM"`; the day's end when left out. Earlier than
        /// `from`, it is on the next day.
        to: Option<At<Clock>>,
        /// IANA name of the time zone, such as `Europe/Berlin`; UTC when left out.
        timezone: Option<Zone>,
    }
}

impl Schedule {
    /// The moment is within the window.
    pub(crate) fn contains(&self, now: Timestamp) -> bool {
        let zone = self.timezone.as_ref().map_or(TimeZone::UTC, |zone| zone.0.clone());
        let local = now.to_zoned(zone);
        let minute = minute(local.time());
        let (from, to) = (self.start(), self.end());
        let today = local.weekday();
        let on = |day: Weekday| match &self.days {
            Some(days) => days.0.iter().any(|d| d.weekday() == day),
            None => true,
        };
        if from < to {
            on(today) && (from..to).contains(&minute)
        } else {
            (minute >= from && on(today)) || (minute < to && on(today.previous()))
        }
    }

    /// It holds at no time, or at any: its two ends are the same.
    pub(crate) fn is_degenerate(&self) -> bool {
        self.start() == self.end()
    }

    fn start(&self) -> u16 {
        self.from.as_ref().map_or(0, |clock| clock.value.0)
    }

    fn end(&self) -> u16 {
        self.to.as_ref().map_or(24 * 60, |clock| clock.value.0)
    }
}

fn minute(time: Time) -> u16 {
    let part = |value: i8| u16::try_from(value).unwrap_or_default();
    part(time.hour()) * 60 + part(time.minute())
}

impl schemars::JsonSchema for Clock {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "TimeOfDay".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "pattern": "^([01]?[0-9]|2[0-3]):[0-5][0-9]$|^24:00$",
            "description": "Hours and minutes in quotes, `\"08:30\"`.",
        })
    }
}

impl schemars::JsonSchema for Zone {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "TimeZone".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({"type": "string", "description": "An IANA time zone name, or `UTC`."})
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::yaml;

    fn decode(text: &str) -> Result<Schedule, String> {
        let mut decoder = Decoder::new("t");
        let node = yaml::parse("t", text).unwrap();
        let schedule = Schedule::decode(&node, &mut decoder);
        match decoder.problems.first() {
            Some(problem) => Err(problem.to_string()),
            None => Ok(schedule.unwrap()),
        }
    }

    fn holds(schedule: &str, at: &str) -> bool {
        decode(schedule).unwrap().contains(at.parse().unwrap())
    }

    #[test]
    fn windows() {
        // 2026-01-05 is a Monday.
        let office = "{days: [mon, tue, wed, thu, fri], from: \"08:00\", to: \"18:00\"}";
        assert!(holds(office, "2026-01-05T08:00:00Z"));
        assert!(holds(office, "2026-01-05T17:59:59Z"));
        assert!(!holds(office, "2026-01-05T18:00:00Z"));
        assert!(!holds(office, "2026-01-04T12:00:00Z"));
        assert!(holds("{from: \"18:00\"}", "2026-01-04T23:59:59Z"));
        assert!(holds("{to: \"24:00\"}", "2026-01-04T23:59:59Z"));
        assert!(holds("{days: sun}", "2026-01-04T00:00:00Z"));
    }

    #[test]
    fn a_window_past_midnight_belongs_to_the_day_it_began_on() {
        let night = "{days: [fri], from: 22:00, to: 06:00}";
        assert!(holds(night, "2026-01-09T23:00:00Z"));
        assert!(holds(night, "2026-01-10T05:59:00Z"), "Saturday morning belongs to Friday's window");
        assert!(!holds(night, "2026-01-10T06:00:00Z"));
        assert!(!holds(night, "2026-01-10T23:00:00Z"));
        assert!(!holds(night, "2026-01-09T05:00:00Z"));
    }

    #[test]
    fn zones_follow_daylight_saving() {
        if TimeZone::get("Europe/Berlin").is_err() {
            return; // No time zone data on this host.
        }
        let office = "{from: \"09:00\", to: \"10:00\", timezone: Europe/Berlin}";
        assert!(holds(office, "2026-01-05T08:30:00Z") && !holds(office, "2026-01-05T07:30:00Z"));
        assert!(holds(office, "2026-07-06T07:30:00Z") && !holds(office, "2026-07-06T08:30:00Z"));
    }

    #[test]
    fn ill_formed_times_are_told_how_to_be_written() {
        for text in ["from: 8", "from: \"25:00\"", "from: \"8:5\"", "from: \"24:01\"", "from: \":30\""] {
            assert!(decode(text).unwrap_err().contains("08:30"), "{text}");
        }
        assert!(decode("timezone: Europe/Berln").unwrap_err().contains("no time zone"));
        assert!(decode("days: mon-fri").unwrap_err().contains("list the days"));
        assert!(decode("days: [mo]").unwrap_err().contains("did you mean `mon`"));
    }
}
