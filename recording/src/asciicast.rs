//! Terminal recordings as asciicast, [version 2](https://docs.asciinema.org/manual/asciicast/v2/) and
//! [version 3](https://docs.asciinema.org/manual/asciicast/v3/), for asciinema and its player.
//!
//! What does more than draw is taken out (see [`crate::terminal`]): a cast is played in a real terminal.
//! The bytes as they were stand in the recording.

use std::io::{self, Write};

use serde::Serialize as _;
use serde_json::{Value, json};

use crate::proto::Event;
use crate::proto::event::Body;
use crate::terminal::{self, Tame, Utf8};
use crate::text::SafeJson;

/// The version of the format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// Times count from the beginning.
    V2,
    /// Times count from the event before.
    V3,
}

/// The size when none was recorded.
const SIZE: (u32, u32) = (80, 24);

/// Writes the terminal of one session. Events of other kinds are passed over.
#[derive(Debug)]
pub struct Asciicast<W: Write> {
    output: W,
    version: Version,
    title: String,
    /// The terminal that is written: the first one of the session.
    command: Option<u64>,
    size: (u32, u32),
    term: String,
    begun: bool,
    first_ns: u64,
    last_ns: u64,
    written: (Utf8, Tame),
    typed: Utf8,
}

fn line(output: &mut impl Write, value: &Value) -> io::Result<()> {
    value.serialize(&mut serde_json::Serializer::with_formatter(&mut *output, SafeJson))?;
    output.write_all(b"\n")
}

impl<W: Write> Asciicast<W> {
    /// Writes to `output`. The title is shown by players.
    pub fn new(output: W, version: Version, title: impl Into<String>) -> Self {
        Self {
            output,
            version,
            title: title.into(),
            command: None,
            size: SIZE,
            term: String::new(),
            begun: false,
            first_ns: 0,
            last_ns: 0,
            written: Default::default(),
            typed: Utf8::default(),
        }
    }

    /// What it writes to.
    pub fn output(&mut self) -> &mut W {
        &mut self.output
    }

    /// Writes an event, if it is the terminal's. A session with several terminals has the first in its cast.
    ///
    /// # Errors
    /// `output` cannot be written.
    pub fn event(&mut self, event: &Event) -> io::Result<()> {
        let command = match &event.body {
            Some(Body::TerminalSize(body)) => body.command,
            Some(Body::TerminalOutput(body)) => body.command,
            Some(Body::TerminalInput(body)) => body.command,
            _ => return Ok(()),
        };
        if *self.command.get_or_insert(command) != command {
            return Ok(());
        }
        match &event.body {
            Some(Body::TerminalSize(body)) => {
                self.size = terminal::size(body.columns, body.rows);
                if !body.term.is_empty() {
                    self.term.clone_from(&body.term);
                }
                if self.begun {
                    let size = format!("{}x{}", self.size.0, self.size.1);
                    self.write(event, "r", &size)?;
                }
            }
            Some(Body::TerminalOutput(body)) => {
                let text = self.written.0.take(&body.data);
                let mut text = self.written.1.take(&text);
                if body.omitted_bytes > 0 {
                    text.push_str(&format!("\r\n[{} bytes were not recorded]\r\n", body.omitted_bytes));
                }
                self.write(event, "o", &text)?;
            }
            Some(Body::TerminalInput(body)) => {
                let text = self.typed.take(&body.data);
                self.write(event, "i", &text)?;
            }
            _ => {}
        }
        Ok(())
    }

    /// Writes a line of one's own on the terminal, at the time of the last event.
    ///
    /// # Errors
    /// `output` cannot be written.
    pub fn notice(&mut self, text: &str) -> io::Result<()> {
        let event = Event { monotonic_ns: self.last_ns, ..Event::default() };
        self.write(&event, "o", &format!("\r\n\u{1b}[0m[{text}]\r\n"))
    }

    /// Ends the cast. Without any terminal events it is a header alone.
    ///
    /// # Errors
    /// `output` cannot be written.
    pub fn finish(mut self) -> io::Result<W> {
        self.begin(0, 0)?;
        Ok(self.output)
    }

    fn begin(&mut self, monotonic_ns: u64, wall_ns: u64) -> io::Result<()> {
        if self.begun {
            return Ok(());
        }
        self.begun = true;
        (self.first_ns, self.last_ns) = (monotonic_ns, monotonic_ns);
        let (columns, rows) = self.size;
        let timestamp = wall_ns / 1_000_000_000;
        let header = match self.version {
            Version::V2 => json!({
                "version": 2, "width": columns, "height": rows, "timestamp": timestamp, "title": self.title,
                "env": {"TERM": self.term},
            }),
            Version::V3 => json!({
                "version": 3, "term": {"cols": columns, "rows": rows, "type": self.term}, "timestamp": timestamp,
                "title": self.title,
            }),
        };
        line(&mut self.output, &header)
    }

    fn write(&mut self, event: &Event, code: &str, data: &str) -> io::Result<()> {
        self.begin(event.monotonic_ns, event.wall_ns)?;
        if data.is_empty() {
            return Ok(());
        }
        // The clock does not go back.
        let now = event.monotonic_ns.max(self.last_ns);
        let before = match self.version {
            Version::V2 => self.first_ns,
            Version::V3 => self.last_ns,
        };
        self.last_ns = now;
        // Whole microseconds, which are exact for some centuries.
        let seconds = ((now - before) / 1000) as f64 / 1e6;
        line(&mut self.output, &json!([seconds, code, data]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::{TerminalInput, TerminalOutput, TerminalSize};

    fn at(milliseconds: u64, body: Body) -> Event {
        Event {
            monotonic_ns: 5_000_000_000 + milliseconds * 1_000_000,
            wall_ns: 1_700_000_000_000_000_000,
            body: Some(body),
            ..Event::default()
        }
    }

    fn events() -> Vec<Event> {
        let size = |columns, rows, term: &str| {
            Body::TerminalSize(TerminalSize { command: 1, columns, rows, term: term.into() })
        };
        let output = |command, data: &[u8]| {
            Body::TerminalOutput(TerminalOutput { command, data: data.to_vec(), omitted_bytes: 0 })
        };
        vec![
            at(0, size(100, 30, "xterm")),
            at(0, output(1, b"$ ")),
            at(
                1500,
                Body::TerminalInput(TerminalInput { command: 1, data: b"ls\r".to_vec(), omitted_bytes: 0 }),
            ),
            at(1600, output(1, b"\x1b]52;c;eA==\x07\x1b[31m\xe4\xbd")),
            at(1700, output(2, b"of another terminal")),
            at(1700, output(1, b"\xa0\xff")),
            at(1650, size(u32::MAX, 0, "")),
        ]
    }

    fn cast(version: Version) -> Vec<Value> {
        let mut cast = Asciicast::new(Vec::new(), version, "alice on db");
        for event in events() {
            cast.event(&event).unwrap();
        }
        let text = String::from_utf8(cast.finish().unwrap()).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[test]
    fn version_2_counts_from_the_beginning() {
        assert_eq!(
            cast(Version::V2),
            [
                json!({"version": 2, "width": 100, "height": 30, "timestamp": 1_700_000_000, "title": "alice on db",
                       "env": {"TERM": "xterm"}}),
                json!([0.0, "o", "$ "]),
                json!([1.5, "i", "ls\r"]),
                json!([1.6, "o", "\u{1b}[31m"]),
                json!([1.7, "o", "你\u{fffd}"]),
                json!([1.7, "r", "500x1"]),
            ]
        );
    }

    #[test]
    fn version_3_counts_from_the_event_before() {
        let cast = cast(Version::V3);
        assert_eq!(cast[0]["term"], json!({"cols": 100, "rows": 30, "type": "xterm"}));
        let times: Vec<f64> = cast[1..].iter().map(|event| event[0].as_f64().unwrap()).collect();
        assert_eq!(times, [0.0, 1.5, 0.1, 0.1, 0.0]);
    }

    #[test]
    fn without_a_terminal_it_is_a_header() {
        let cast = Asciicast::new(Vec::new(), Version::V2, "x").finish().unwrap();
        let header: Value = serde_json::from_slice(&cast).unwrap();
        assert_eq!((&header["width"], &header["height"]), (&json!(80), &json!(24)));
    }
}
