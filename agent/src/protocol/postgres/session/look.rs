//! A look at the server before a command is held: how long the client lets a statement take.
//!
//! `statement_timeout` comes from many places (start-up options, SET, roles, functions), is undone by rollbacks, and
//! is never reported. So the server itself is asked, on the flow's own connection, where that leaves no trace:
//! SHOW takes no snapshot and no lock, and goes by a statement and a portal of names that nobody else has, so that
//! the client's unnamed ones stay. Between two commands a Sync ends it; within a pipeline that has only prepared
//! so far there is none, for what it has prepared may fail, and the server has to skip what comes behind that.
//!
//! Where a rule has it asked, the plan comes next ([`estimate`]). It is asked for behind a Sync: once all that the
//! client has prepared in a pipeline is answered, that ends an implicit transaction in which nothing was run.

use std::time::{Duration, Instant};

use interlock_recording::{fill_random, hex};

use super::Core;
use super::estimate;
use super::judge::IDLE;
use super::log::lossy;
use super::pending::{Entry, What};
use super::pipe::Pipe;
use crate::approval::{Estimate, Request};
use crate::protocol::postgres::codec;

/// What is asked.
const TEXT: &[u8] = b"SHOW statement_timeout";
/// How many messages close what it made: a statement and a portal.
const CLOSES: u8 = 2;
/// Asks which snapshots the client's transaction takes; takes none.
const ISOLATION: &[u8] = b"SHOW transaction_isolation";

/// A look that is under way.
pub(super) struct Look {
    /// What is to be held.
    request: Box<Request>,
    /// The name of what it makes.
    name: Vec<u8>,
    /// What the server said.
    answer: Option<Duration>,
    closed: u8,
    stage: Stage,
    /// The client's transaction takes a snapshot for each statement, once that is known.
    each: Option<bool>,
    /// How the server stood before, and since when it plans.
    before: u8,
    since: Instant,
    /// Somebody has cancelled it, and so the client's command.
    cancelled: bool,
}

impl Look {
    /// How long the server may take for the plan: as long as the client lets it at most.
    fn patience(&self) -> Duration {
        self.answer.map_or(estimate::LIMIT, |limit| limit.min(estimate::LIMIT))
    }
}

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The time limit is asked for.
    Limit,
    /// So is the isolation of the client's transaction.
    Isolation,
    /// So is the plan.
    Plan,
    /// The transaction that the plan was made in is to be ended, for it has failed.
    Undo,
    /// It is being ended.
    Undone,
    /// The next of these is to be asked for.
    Next,
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
        let Some(name) = own_name() else { return Some(request) };
        let mut message = Vec::new();
        put_run(&mut message, &name, TEXT, &[], &[]);
        codec::put_message(&mut message, if sync { b'S' } else { b'H' }, |_| {});
        pipe.insert(&message);
        self.pending.push(Entry::new(What::Own { sync }));
        self.holds.looking = Some(Box::new(Look {
            request,
            name,
            answer: None,
            closed: 0,
            stage: Stage::Limit,
            each: None,
            before: self.status,
            since: Instant::now(),
            cancelled: false,
        }));
        None
    }

    /// A message of the answer came. Says whether it was the last before ReadyForQuery.
    pub(super) fn look_goes_on(&mut self, tag: u8) -> bool {
        let Some(look) = &mut self.holds.looking else { return true };
        look.closed += u8::from(tag == b'3');
        look.closed == CLOSES
    }

    /// The answer to the time limit is complete, within the client's pipeline.
    pub(super) fn look_answered(&mut self) {
        let further = self.pending.settled();
        match &mut self.holds.looking {
            Some(look) if look.request.terms.estimate && further => look.stage = Stage::Next,
            _ => self.looked(),
        }
    }

    /// The row that says it.
    pub(super) fn look_row(&mut self, body: &[u8]) {
        let value = codec::values(body).ok().and_then(|mut values| values.next()?.ok()?);
        let (Some(look), Some(value)) = (&mut self.holds.looking, value) else { return };
        match look.stage {
            Stage::Limit => look.answer = std::str::from_utf8(value).ok().and_then(limit),
            Stage::Isolation => look.each = Some(value == b"read committed"),
            Stage::Plan => look.request.shown.estimate = Some(estimate::read(value)),
            Stage::Undo | Stage::Undone | Stage::Next => {}
        }
    }

    /// ReadyForQuery came behind it.
    pub(super) fn look_ended(&mut self) {
        let status = self.status;
        let Some(look) = &mut self.holds.looking else { return };
        match look.stage {
            Stage::Limit if look.request.terms.estimate && status == look.before => look.stage = Stage::Next,
            Stage::Isolation if status == look.before => {
                look.each.get_or_insert(false);
                look.stage = Stage::Next;
            }
            Stage::Plan if status != look.before => look.stage = Stage::Undo,
            _ => self.looked(),
        }
    }

    /// Asks for what comes next of it.
    pub(super) fn look_further(&mut self, pipe: &mut Pipe) {
        if self.pending.busy() && !self.pending.settled() {
            return;
        }
        let Some(look) = &self.holds.looking else { return };
        let mut message = Vec::new();
        let stage = match look.stage {
            Stage::Next if self.status == IDLE || look.each == Some(true) => {
                match self.ask_plan(pipe.undecided(), &look.name, look.patience()) {
                    Ok(plan) => message = plan,
                    Err(why) => {
                        self.no_estimate(why);
                        return self.looked();
                    }
                }
                Stage::Plan
            }
            Stage::Next if look.each.is_none() => {
                put_run(&mut message, &look.name, ISOLATION, &[], &[]);
                codec::put_message(&mut message, b'S', |_| {});
                Stage::Isolation
            }
            Stage::Next => {
                self.no_estimate("it stands in a transaction whose snapshot would be taken for it");
                return self.looked();
            }
            Stage::Undo => {
                message = estimate::undo(&look.name, look.before != IDLE);
                Stage::Undone
            }
            Stage::Limit | Stage::Isolation | Stage::Plan | Stage::Undone => return,
        };
        if let Some(look) = &mut self.holds.looking {
            look.stage = stage;
            look.since = Instant::now();
        }
        pipe.insert(&message);
        self.pending.push(Entry::new(What::Own { sync: true }));
    }

    fn no_estimate(&mut self, why: &str) {
        if let Some(look) = &mut self.holds.looking {
            look.request.shown.estimate = Some(Estimate { why_not: why.to_owned(), ..Estimate::default() });
        }
    }

    /// The answer is complete: what is to be held is asked for next.
    pub(super) fn looked(&mut self) {
        if let Some(look) = self.holds.looking.take() {
            self.holds.looked = Some(look.answer);
            // A transaction that has failed since is not what the client sees.
            self.holds.ended = look.cancelled || self.status != look.before;
            self.holds.to_hold = Some(look.request);
        }
    }

    /// The server does not say. Why stands in its own words, which may quote values: only the code is kept.
    pub(super) fn look_failed(&mut self, body: &[u8]) {
        let code = codec::notice_fields(body).find(|&(code, _)| code == b'C').map(|(_, text)| lossy(text));
        let code: String =
            code.unwrap_or_default().chars().filter(char::is_ascii_alphanumeric).take(5).collect();
        let Some(look) = &mut self.holds.looking else { return };
        // Before its time is over nothing but a cancel request ends it so.
        look.cancelled |= code == "57014" && look.since.elapsed() < look.patience();
        if look.stage == Stage::Plan {
            self.no_estimate(&estimate::refused(&code));
        }
    }

    /// Where the server has skipped it, for what came before has failed, nothing is known.
    pub(super) fn look_skipped(&mut self) {
        let asked = self.holds.looking.as_ref().is_some_and(|look| look.stage == Stage::Limit);
        if asked && !self.pending.has_own() {
            self.looked();
        }
    }
}

/// A name that nobody else has.
pub(super) fn own_name() -> Option<Vec<u8>> {
    let mut random = [0; 12];
    fill_random(&mut random).ok()?;
    Some(format!("interlock {}", hex(&random)).into_bytes())
}

/// Prepares a text, binds parameters (format and value) to it, runs it, and closes both.
pub(super) fn put_run(
    message: &mut Vec<u8>,
    name: &[u8],
    text: &[u8],
    types: &[u32],
    params: &[(i16, Option<&[u8]>)],
) {
    codec::put_message(message, b'P', |out| {
        codec::put_cstr(out, name);
        codec::put_cstr(out, text);
        out.extend(u16::try_from(types.len()).unwrap_or(0).to_be_bytes());
        types.iter().for_each(|kind| out.extend(kind.to_be_bytes()));
    });
    codec::put_message(message, b'B', |out| {
        codec::put_cstr(out, name);
        codec::put_cstr(out, name);
        let count = u16::try_from(params.len()).unwrap_or(0).to_be_bytes();
        out.extend(count);
        params.iter().for_each(|(format, _)| out.extend(format.to_be_bytes()));
        out.extend(count);
        for (_, value) in params {
            let length = value.map_or(Ok(-1), |value| i32::try_from(value.len()));
            out.extend(length.unwrap_or(-1).to_be_bytes());
            out.extend(value.unwrap_or_default());
        }
        // Results as text.
        out.extend([0, 0]);
    });
    codec::put_message(message, b'E', |out| {
        codec::put_cstr(out, name);
        out.extend([0; 4]);
    });
    for kind in [b'P', b'S'] {
        put_close(message, kind, name);
    }
}

/// Closes a portal (`P`) or a statement (`S`), if there is one of that name.
pub(super) fn put_close(message: &mut Vec<u8>, kind: u8, name: &[u8]) {
    codec::put_message(message, b'C', |out| {
        out.push(kind);
        codec::put_cstr(out, name);
    });
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
