//! Events as a page shows them.

use std::time::Duration;

use interlock_recording::json;
use interlock_recording::proto::event::Body;
use interlock_recording::proto::{self, Event, Rows};

use super::super::display;
use super::who::identity;

/// Characters of a command's text, of a value, and rows and columns of a result that a page shows. The
/// export has all that was recorded.
const TEXT: usize = 20_000;
const VALUE: usize = 500;
const ROWS: usize = 100;
const COLUMNS: usize = 40;

/// One thing that happened.
#[derive(Debug)]
pub(super) struct Item {
    /// Since the session began.
    pub(super) at: String,
    /// When, for programs.
    pub(super) time: String,
    pub(super) what: What,
}

#[derive(Debug)]
pub(super) enum What {
    Command(Box<Command>),
    /// The end of a command that stands on an earlier page.
    Outcome(Box<Outcome>),
    /// Anything else, in a line.
    Line {
        label: String,
        text: String,
        tone: &'static str,
    },
}

#[derive(Debug)]
pub(super) struct Command {
    pub(super) number: u64,
    pub(super) step: String,
    pub(super) of: u64,
    pub(super) verdict: String,
    pub(super) tone: &'static str,
    pub(super) rule: String,
    pub(super) message: String,
    pub(super) observed: Vec<(String, String)>,
    pub(super) text: String,
    pub(super) omitted: usize,
    pub(super) params: Vec<(usize, Option<String>)>,
    pub(super) objects: Vec<(&'static str, String)>,
    pub(super) outcomes: Vec<Outcome>,
}

/// What came of a command, or a part of it.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) number: u64,
    pub(super) status: String,
    pub(super) tone: &'static str,
    pub(super) tag: String,
    pub(super) error: String,
    pub(super) took: String,
    pub(super) rows: Option<Table>,
}

#[derive(Debug)]
pub(super) struct Table {
    pub(super) count: String,
    pub(super) columns: Vec<String>,
    pub(super) rows: Vec<Vec<Option<String>>>,
    /// Rows and columns that are not shown.
    pub(super) more_rows: u64,
    pub(super) more_columns: usize,
    pub(super) masks: String,
}

impl Table {
    fn new(rows: &Rows, values: bool) -> Self {
        let cut = |text: String| display::beginning(&text, VALUE);
        let mut lines = Vec::new();
        if values {
            let shown = Rows {
                columns: rows.columns.clone(),
                rows: rows.rows.iter().take(ROWS).cloned().collect(),
                ..Rows::default()
            };
            lines = json::texts(&shown)
                .into_iter()
                .map(|row| row.into_iter().take(COLUMNS).map(|value| value.map(cut)).collect())
                .collect();
        }
        let masks: Vec<_> = rows.masks.iter().map(|mask| format!("{} {}", mask.mask, mask.count)).collect();
        Self {
            count: display::count(i64::try_from(rows.count).unwrap_or(i64::MAX)),
            columns: rows.columns.iter().take(COLUMNS).map(|column| cut(column.name.clone())).collect(),
            more_rows: rows.count.saturating_sub(lines.len() as u64),
            more_columns: rows.columns.len().saturating_sub(COLUMNS),
            rows: lines,
            masks: masks.join(", "),
        }
    }
}

/// Events as a page shows them: the ends of commands stand with the commands.
pub(super) fn items(events: &[Event], started_ns: i64, values: bool) -> Vec<Item> {
    let mut items: Vec<Item> = Vec::new();
    let started_ns = u64::try_from(started_ns).unwrap_or_default();
    for event in events {
        let what = match &event.body {
            // These stand at the head of the page.
            Some(Body::FlowStarted(_)) | None => continue,
            // These are played.
            Some(Body::TerminalSize(_) | Body::TerminalOutput(_) | Body::TerminalInput(_)) => continue,
            Some(Body::Command(body)) => What::Command(Box::new(command(body, values))),
            Some(Body::Result(body)) => match attach(&mut items, outcome(body, values)) {
                Some(outcome) => What::Outcome(Box::new(outcome)),
                None => continue,
            },
            Some(Body::CopyData(body)) => match attach(&mut items, copied(body, values)) {
                Some(outcome) => What::Outcome(Box::new(outcome)),
                None => continue,
            },
            Some(other) => line(other),
        };
        let since = Duration::from_nanos(event.wall_ns.saturating_sub(started_ns));
        let at = format!("+{:.3} s", since.as_secs_f64());
        items.push(Item { at, time: json::time(event.wall_ns), what });
    }
    items
}

/// Puts an outcome to its command; gives it back when that is not on the page.
fn attach(items: &mut [Item], outcome: Outcome) -> Option<Outcome> {
    for item in items.iter_mut().rev() {
        if let What::Command(command) = &mut item.what
            && command.number == outcome.number
        {
            command.outcomes.push(outcome);
            return None;
        }
    }
    Some(outcome)
}

fn command(body: &proto::Command, values: bool) -> Command {
    let join = |of: fn(&proto::Statement) -> &Vec<String>| {
        let mut words: Vec<&str> = body.statements.iter().flat_map(of).map(String::as_str).collect();
        words.sort_unstable();
        words.dedup();
        display::beginning(&words.join(", "), VALUE)
    };
    let objects = [
        ("does", join(|statement| &statement.kinds)),
        ("reads", join(|statement| &statement.reads)),
        ("writes", join(|statement| &statement.writes)),
        ("calls", join(|statement| &statement.functions)),
    ];
    let params = body.params.iter().take(200).enumerate().map(|(at, param)| {
        let value = param.value.as_deref().map(|value| {
            let mut text = display::beginning(value, VALUE);
            if param.omitted_bytes > 0 {
                text.push('…');
            }
            text
        });
        (at + 1, value)
    });
    Command {
        number: body.command,
        step: body.step.clone(),
        of: body.of,
        tone: display::tone(&body.verdict),
        verdict: body.verdict.clone(),
        rule: body.rule.clone().unwrap_or_default(),
        message: body.message.clone().filter(|_| body.verdict != "allow").unwrap_or_default(),
        observed: body.observed.iter().map(|rule| (rule.rule.clone(), rule.verdict.clone())).collect(),
        omitted: body.text.chars().count().saturating_sub(TEXT),
        text: display::beginning(&body.text, TEXT),
        params: if values { params.collect() } else { Vec::new() },
        objects: objects.into_iter().filter(|(_, text)| !text.is_empty()).collect(),
        outcomes: Vec::new(),
    }
}

fn outcome(body: &proto::CommandResult, values: bool) -> Outcome {
    let error = [body.sqlstate.as_str(), body.message.as_str()];
    let error: Vec<_> = error.into_iter().filter(|part| !part.is_empty()).collect();
    Outcome {
        number: body.command,
        tone: display::tone(&body.status),
        status: body.status.clone(),
        tag: body.tag.clone(),
        error: display::beginning(&error.join(" "), TEXT),
        // What was not forwarded took no time.
        took: match i64::try_from(body.duration_ns).unwrap_or(i64::MAX) {
            0 => String::new(),
            ns => display::duration(ns),
        },
        rows: body.rows.as_ref().map(|rows| Table::new(rows, values)),
    }
}

fn copied(body: &proto::CopyData, values: bool) -> Outcome {
    let way = if body.to_client { "to the client" } else { "from the client" };
    let bytes = display::bytes(i64::try_from(body.bytes).unwrap_or(i64::MAX));
    Outcome {
        number: body.command,
        tone: "plain",
        status: "copied".into(),
        tag: format!("{bytes} {way}"),
        error: String::new(),
        took: String::new(),
        rows: body.lines.as_ref().map(|rows| Table::new(rows, values)),
    }
}

fn line(body: &Body) -> What {
    let line = |label: &str, text: String, tone| What::Line {
        label: label.into(),
        text: display::beginning(&text, TEXT),
        tone,
    };
    match body {
        Body::Login(body) => {
            let mut text = format!("as {} to {} ({})", body.user, body.database, body.auth_method);
            if !body.credential.is_empty() {
                text.push_str(&format!(
                    ", by credential {} as {} to {}",
                    body.credential, body.login_user, body.login_database
                ));
            }
            for (leg, tls) in [("client", &body.client_tls), ("server", &body.server_tls)] {
                match tls {
                    Some(tls) => text.push_str(&format!("; {leg} leg {} {}", tls.version, tls.cipher)),
                    None => text.push_str(&format!("; {leg} leg not encrypted")),
                }
            }
            line("logged in", text, "plain")
        }
        Body::TlsPassed(body) => {
            let text = format!("{} {} {}", body.side, body.version, body.server_name);
            line("TLS, passed on unread", text, "plain")
        }
        Body::Notice(body) => {
            line("notice", format!("{} {} {}", body.severity, body.sqlstate, body.message), "plain")
        }
        Body::ApprovalRequested(body) => {
            let needs: Vec<_> = body
                .quorums
                .iter()
                .map(|quorum| {
                    format!("{} of {} (rule {})", quorum.needed, quorum.groups.join(", "), quorum.rule)
                })
                .collect();
            line(
                "approval asked for",
                format!("{}: {}; {}", body.request, needs.join(", "), body.text),
                "plain",
            )
        }
        Body::ApprovalVoted(body) => {
            let text = format!("{} by {}. {}", body.request, approver(body.by.as_ref()), body.reason);
            line("approved", text, "plain")
        }
        Body::IdentityChanged(body) => {
            let who: Vec<_> = body.person.iter().chain(&body.workload).map(identity).collect();
            match who.as_slice() {
                [] => line("identity", format!("none any more. {}", body.missing.join("; ")), "bad"),
                who => line("identity", who.join("; "), "plain"),
            }
        }
        Body::ApprovalDecided(body) => {
            let by = approver(body.by.as_ref());
            let by = if by.is_empty() { by } else { format!(" by {by}") };
            let text = format!("{} {}{by}. {}", body.request, body.outcome, body.reason);
            let (label, tone) = match (body.needs_review, body.outcome.as_str()) {
                (true, _) => ("approval, needs review", "bad"),
                (_, "approved") => ("approval", "good"),
                _ => ("approval", "plain"),
            };
            line(label, text, tone)
        }
        Body::CommandsWithdrawn(body) => {
            let text = format!("commands {} to {}: {}", body.first, body.last, body.reason);
            line("refused after all", text, "bad")
        }
        Body::SessionEnded(body) => {
            let detail = if body.detail.is_empty() { String::new() } else { format!(": {}", body.detail) };
            let text = format!(
                "{}{detail}. {} commands, {} refused; {} sent, {} received",
                body.reason,
                body.commands,
                body.refused,
                display::bytes(i64::try_from(body.client_bytes).unwrap_or(i64::MAX)),
                display::bytes(i64::try_from(body.server_bytes).unwrap_or(i64::MAX)),
            );
            line("ended", text, display::tone(&body.reason))
        }
        other => line(
            "event",
            json::name(&Event { body: Some(other.clone()), ..Event::default() }).into(),
            "plain",
        ),
    }
}

/// Who decided, with the login user where that is somebody else.
fn approver(by: Option<&proto::Approver>) -> String {
    match by {
        Some(by) if by.account.is_some() => format!("{} (at the collector)", by.user),
        Some(by) if by.login_user.is_empty() || by.login_user == by.user => by.user.clone(),
        Some(by) => format!("{} (logged in as {})", by.user, by.login_user),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(body: Body) -> Event {
        Event { body: Some(body), ..Event::default() }
    }

    fn select(number: u64) -> Event {
        event(Body::Command(proto::Command {
            command: number,
            params: vec![proto::BindParameter { value: Some("secret".into()), omitted_bytes: 0 }],
            ..Default::default()
        }))
    }

    fn result(number: u64) -> Event {
        let row = proto::Row { values: vec![proto::Value { data: Some(b"value".to_vec()) }] };
        let rows = Rows { count: 250, rows: vec![row; 150], ..Rows::default() };
        event(Body::Result(proto::CommandResult { command: number, rows: Some(rows), ..Default::default() }))
    }

    #[test]
    fn ends_stand_with_their_commands_and_alone_when_these_are_elsewhere() {
        let items = items(&[select(1), select(2), result(1), result(7)], 0, true);
        assert_eq!(items.len(), 3);
        let What::Command(first) = &items[0].what else { panic!("a command") };
        assert_eq!(first.outcomes.len(), 1);
        let table = first.outcomes[0].rows.as_ref().unwrap();
        assert_eq!((table.rows.len(), table.more_rows), (ROWS, 150));
        assert!(matches!(&items[2].what, What::Outcome(outcome) if outcome.number == 7));
    }

    #[test]
    fn without_the_right_to_values_there_are_none() {
        let items = items(&[select(1), result(1)], 0, false);
        let text = format!("{items:?}");
        assert!(!text.contains("secret") && !text.contains("value\""), "{text}");
    }
}
