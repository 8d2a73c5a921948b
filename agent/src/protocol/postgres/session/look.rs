//! A look at the server before a command is held: how long the client lets a statement take.
//!
//! `statement_timeout` comes from many places (start-up options, SET, roles, functions), is undone by rollbacks, and
//! is never reported. So the server itself is asked, on the flow's own connection, where that leaves no trace:
//! SHOW takes no snapshot and no lock, and goes by a statement and a portal of names that nobody else has, so that
//! the client's unnamed ones stay. Between two commands a Sync ends it; within a pipeline that has only prepared
//! so far there is none, for it would end the client's own implicit transaction.

use std::time::Duration;

use interlock_recording::{fill_random, hex};

use super::Core;
use super::pending::{Entry, What};
use super::pipe::Pipe;
use crate::approval::Request;
use crate::protocol::postgres::codec;

/// What is asked.
const TEXT: &[u8] = b"SHOW statement_timeout";
/// How many messages close what it made: a statement and a portal.
const CLOSES: u8 = 2;

/// A look that is under way.
pub(super) struct Look {
    /// What is to be held.
    request: Box<Request>,
    /// What the server said.
    answer: Option<Duration>,
    closed: u8,
}

impl Core {
    /// Asks the server for the client's time limit, if that can be done now and was not done yet. Gives the request
    /// back where nothing is waited for.
    pub(super) fn look(&mut self, pipe: &mut Pipe, request: Box<Request>) -> Option<Box<Request>> {
        let sync = !self.pending.busy();
        let possible = self.holds.looks() && self.holds.looked.is_none() && !self.replication;
        // In a failed transaction nothing is answered but its end.
        if !possible || self.status == b'E' || !(sync || self.pending.only_prepares()) {
            return Some(request);
        }
        let mut random = [0; 12];
        if fill_random(&mut random).is_err() {
            return Some(request);
        }
        let name = format!("interlock {}", hex(&random));
        let name = name.as_bytes();
        let mut message = Vec::new();
        codec::put_message(&mut message, b'P', |out| {
            codec::put_cstr(out, name);
            codec::put_cstr(out, TEXT);
            out.extend([0, 0]);
        });
        codec::put_message(&mut message, b'B', |out| {
            codec::put_cstr(out, name);
            codec::put_cstr(out, name);
            // No formats, no parameters, no formats of results: text.
            out.extend([0; 6]);
        });
        codec::put_message(&mut message, b'E', |out| {
            codec::put_cstr(out, name);
            out.extend([0; 4]);
        });
        for kind in [b'P', b'S'] {
            codec::put_message(&mut message, b'C', |out| {
                out.push(kind);
                codec::put_cstr(out, name);
            });
        }
        codec::put_message(&mut message, if sync { b'S' } else { b'H' }, |_| {});
        pipe.insert(&message);
        self.pending.push(Entry::new(What::Own { sync }));
        self.holds.looking = Some(Box::new(Look { request, answer: None, closed: 0 }));
        None
    }

    /// A message of the answer came. Says whether it was the last before ReadyForQuery.
    pub(super) fn look_goes_on(&mut self, tag: u8) -> bool {
        let Some(look) = &mut self.holds.looking else { return true };
        look.closed += u8::from(tag == b'3');
        look.closed == CLOSES
    }

    /// The row that says it.
    pub(super) fn look_row(&mut self, body: &[u8]) {
        let value = codec::values(body).ok().and_then(|mut values| values.next()?.ok()?);
        if let (Some(look), Some(value)) = (&mut self.holds.looking, value) {
            look.answer = std::str::from_utf8(value).ok().and_then(limit);
        }
    }

    /// The answer is complete: what is to be held is asked for next.
    pub(super) fn looked(&mut self) {
        if let Some(look) = self.holds.looking.take() {
            self.holds.looked = Some(look.answer);
            self.holds.to_hold = Some(look.request);
        }
    }

    /// The server does not say.
    pub(super) fn look_failed(&mut self) {
        if let Some(look) = &mut self.holds.looking {
            look.answer = None;
        }
    }

    /// Where the server has skipped it, for what came before has failed, nothing is known.
    pub(super) fn look_skipped(&mut self) {
        if self.holds.looking.is_some() && !self.pending.has_own() {
            self.looked();
        }
    }
}

/// A time as the server shows it, such as `90s` or `1500ms`; `None` for none.
fn limit(text: &str) -> Option<Duration> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at_checked(digits)?;
    let number: u64 = number.parse().ok().filter(|number| *number > 0)?;
    let milliseconds = match unit {
        "" | "ms" => 1,
        "s" => 1000,
        "min" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    number.checked_mul(milliseconds).map(Duration::from_millis)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_as_servers_show_them() {
        for (text, milliseconds) in [
            ("1500ms", Some(1500)),
            ("90s", Some(90_000)),
            ("15min", Some(900_000)),
            ("2h", Some(7_200_000)),
            ("24d", Some(2_073_600_000)),
            ("0", None),
            ("", None),
            ("s", None),
            ("-1", None),
            ("99999999999999999999s", None),
            ("18446744073709551615d", None),
            ("5 apples", None),
        ] {
            assert_eq!(limit(text), milliseconds.map(Duration::from_millis), "{text}");
        }
    }
}
