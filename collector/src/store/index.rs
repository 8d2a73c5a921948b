//! The index over recordings: sessions, commands, rules and events of hosts, filled as events come in.
//!
//! Each event is indexed once, in the transaction that takes it in: live when it comes live, otherwise with
//! its sealed segment. The recording itself stays what it is; the index can be made anew from it.

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;

use interlock_recording::proto::event::Body;
use interlock_recording::proto::{Command, CommandResult, Event, FlowStarted, SessionEnded};
use interlock_recording::{SessionId, json};
use sqlx::{AssertSqlSafe, Row as _};

use super::journal::{JournalKind, NewRow};
use super::{Dialect, StoreError, Write, words};

/// Bytes of a name: PostgreSQL's indexes do not take longer ones.
pub(super) const MAX_NAME: usize = 1000;

/// Bytes of a text that are kept in the index; the whole stands in the recording.
pub(super) const MAX_TEXT: usize = 16 << 10;
/// Kinds of statements that are listed of one command.
const MAX_KINDS: usize = 32;
/// So far may the time in a session's id be from its first event's: the agent makes both at once.
const APART_MS: i64 = 60_000;
/// Rows in one statement.
const ROWS: usize = 100;

/// Events of one host, made ready for the index.
#[derive(Debug, Default)]
pub struct Batch {
    sessions: HashMap<SessionId, SessionChange>,
    /// In the order in which sessions first appear.
    order: Vec<SessionId>,
    commands: Vec<CommandRow>,
    /// Where a session's command stands in `commands`.
    places: HashMap<(SessionId, u64), usize>,
    /// Results of commands that came in earlier batches.
    results: Vec<(SessionId, u64, Outcome)>,
    /// Commands that ended.
    ended: Vec<(SessionId, u64)>,
    rules: HashMap<(String, String, bool), (i64, i64)>,
    host_events: Vec<HostEvent>,
    events: u64,
    first_ns: i64,
    last_ns: i64,
    /// The segment of the last event: those of a batch are of one.
    segment: i64,
}

#[derive(Debug, Default)]
struct SessionChange {
    start: Option<(i64, Box<FlowStarted>)>,
    login: Option<(String, String)>,
    end: Option<(i64, SessionEnded)>,
    first_event: i64,
    last_event: i64,
    first_segment: i64,
    last_segment: i64,
    commands: i64,
    denied: i64,
    held: i64,
    observed: i64,
    masked: i64,
    rows: i64,
    terminal: i64,
}

#[derive(Debug)]
struct CommandRow {
    event: i64,
    segment: i64,
    session: SessionId,
    number: i64,
    goes_on: i64,
    step: String,
    at_ns: i64,
    kind: String,
    verdict: String,
    observed: String,
    rule: String,
    text: String,
    search: String,
    outcome: Outcome,
}

#[derive(Debug, Default)]
struct Outcome {
    status: String,
    duration_ns: i64,
    rows: i64,
    sqlstate: String,
}

#[derive(Debug)]
struct HostEvent {
    event: i64,
    at_ns: i64,
    kind: &'static str,
    detail: String,
}

/// A text for the database: neither longer than the index keeps nor with a zero in it, which PostgreSQL
/// does not take.
fn clip(text: &str) -> String {
    clip_to(text, MAX_TEXT)
}

/// The same of something that an index goes by.
fn clip_name(text: &str) -> String {
    clip_to(text, MAX_NAME)
}

pub(super) fn clip_to(text: &str, most: usize) -> String {
    let mut end = text.len().min(most);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let clipped = text.get(..end).unwrap_or_default();
    if clipped.contains('\0') { clipped.replace('\0', "\u{fffd}") } else { clipped.to_owned() }
}

fn int(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

impl Batch {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// Number of events in it.
    pub fn events(&self) -> u64 {
        self.events
    }

    /// The times of the first and the last event in it, by the host's clock.
    pub fn span(&self) -> (i64, i64) {
        (self.first_ns, self.last_ns)
    }

    /// Adds an event of segment `segment`.
    pub fn add(&mut self, event: &Event, segment: u64) {
        let (index, at_ns, segment) = (int(event.index), int(event.wall_ns), int(segment));
        if self.events == 0 {
            self.first_ns = at_ns;
        }
        self.last_ns = at_ns;
        self.events += 1;
        self.segment = segment;
        let Some(id) = SessionId::from_slice(&event.session) else {
            let detail = clip(&json::event(event).to_string());
            self.host_events.push(HostEvent { event: index, at_ns, kind: json::name(event), detail });
            return;
        };
        let order = &mut self.order;
        let session = self.sessions.entry(id).or_insert_with(|| {
            order.push(id);
            SessionChange { first_event: index, first_segment: segment, ..SessionChange::default() }
        });
        session.last_event = index;
        session.last_segment = segment;
        match &event.body {
            Some(Body::FlowStarted(body)) => session.start = Some((at_ns, Box::new(body.clone()))),
            Some(Body::Login(body)) => {
                session.login = Some((clip_name(&body.user), clip_name(&body.database)))
            }
            Some(Body::SessionEnded(body)) => session.end = Some((at_ns, body.clone())),
            Some(Body::Command(body)) => self.command(body, id, index, segment, at_ns),
            Some(Body::Result(body)) => self.result(body, id),
            Some(Body::TerminalOutput(body)) => {
                session.terminal = session.terminal.saturating_add(int(body.data.len() as u64));
            }
            _ => {}
        }
    }

    fn command(&mut self, body: &Command, id: SessionId, event: i64, segment: i64, at_ns: i64) {
        let observed = body.observed.iter().map(|observed| observed.verdict.as_str());
        // deny beats hold beats allow.
        let observed = observed.min_by_key(|verdict| match *verdict {
            "deny" => 0,
            "hold" => 1,
            _ => 2,
        });
        let observed = observed.unwrap_or_default().to_owned();
        if let Some(session) = self.sessions.get_mut(&id) {
            session.commands += 1;
            session.denied += i64::from(body.verdict == "deny");
            session.held += i64::from(body.verdict == "hold");
            session.observed += i64::from(matches!(observed.as_str(), "deny" | "hold"));
        }
        let rule = body.rule.as_deref().unwrap_or_default();
        let would = body.observed.first().map_or("", |observed| observed.rule.as_str());
        let mut count = |rule: &str, verdict: &str, observed: bool| {
            let counted =
                self.rules.entry((clip_name(rule), clip_name(verdict), observed)).or_insert((0, at_ns));
            counted.0 += 1;
            counted.1 = at_ns;
        };
        if !rule.is_empty() {
            count(rule, &body.verdict, false);
        }
        for observed in &body.observed {
            count(&observed.rule, &observed.verdict, true);
        }
        let mut kinds = Vec::new();
        for statement in &body.statements {
            if kinds.len() < MAX_KINDS && !kinds.contains(&statement.kind.as_str()) {
                kinds.push(statement.kind.as_str());
            }
        }
        let mut search = clip(&body.text);
        for statement in &body.statements {
            for object in statement.reads.iter().chain(&statement.writes).chain(&statement.functions) {
                if search.len() < 2 * MAX_TEXT && object.len() < MAX_TEXT {
                    let _ = write!(search, " {object}");
                }
            }
        }
        for rule in &body.matched {
            if search.len() < 2 * MAX_TEXT {
                let _ = write!(search, " {}", clip(rule));
            }
        }
        self.places.insert((id, body.command), self.commands.len());
        self.commands.push(CommandRow {
            event,
            segment,
            session: id,
            number: int(body.command),
            goes_on: int(body.of),
            step: clip(&body.step),
            at_ns,
            kind: clip(&kinds.join(" ")),
            verdict: clip_name(&body.verdict),
            observed: clip_name(&observed),
            rule: clip_name(if rule.is_empty() { would } else { rule }),
            text: clip(&body.text),
            search: search.replace('\0', "\u{fffd}"),
            outcome: Outcome::default(),
        });
    }

    fn result(&mut self, body: &CommandResult, id: SessionId) {
        let rows = body.rows.as_ref().map_or(0, |rows| int(rows.count));
        let masked = body.rows.iter().flat_map(|rows| &rows.masks).map(|mask| int(mask.count));
        if let Some(session) = self.sessions.get_mut(&id) {
            session.masked = session.masked.saturating_add(masked.fold(0, i64::saturating_add));
            session.rows = session.rows.saturating_add(rows);
        }
        let outcome = Outcome {
            status: clip(&body.status),
            duration_ns: int(body.duration_ns),
            rows,
            sqlstate: clip(&body.sqlstate),
        };
        self.ended.push((id, body.command));
        let place = self.places.get(&(id, body.command)).and_then(|&place| self.commands.get_mut(place));
        match place {
            Some(command) => command.outcome = outcome,
            None => self.results.push((id, body.command, outcome)),
        }
    }
}

/// The time in a session's id (UUID version 7), milliseconds since the Unix epoch.
fn time_of(id: SessionId) -> i64 {
    id.as_bytes().iter().take(6).fold(0, |time, byte| (time << 8) | i64::from(*byte))
}

/// `($1, $2), ($3, $4)` …
pub(super) fn places(rows: usize, columns: usize) -> String {
    let mut text = String::with_capacity(rows * columns * 6);
    for row in 0..rows {
        text.push_str(if row == 0 { "(" } else { ", (" });
        for column in 0..columns {
            let _ = write!(text, "{}${}", if column == 0 { "" } else { ", " }, row * columns + column + 1);
        }
        text.push(')');
    }
    text
}

impl Write<'_> {
    /// Indexes a batch of events of `host`.
    ///
    /// # Errors
    /// The database fails.
    pub async fn index(&mut self, host: &str, batch: &Batch) -> Result<(), StoreError> {
        let mut strangers = HashSet::new();
        for id in &batch.order {
            if let Some(change) = batch.sessions.get(id)
                && !self.index_session(host, *id, change).await?
            {
                strangers.insert(*id);
            }
        }
        // What a host says of another one's session is not listed with that.
        let commands: Vec<&CommandRow> =
            batch.commands.iter().filter(|row| !strangers.contains(&row.session)).collect();
        for rows in commands.chunks(ROWS) {
            let text = format!(
                "INSERT INTO commands (host, event, segment, session, number, goes_on, step, at_ns, kind, verdict, \
                 observed, rule, text, search, status, duration_ns, rows_returned, sqlstate) VALUES {} \
                 ON CONFLICT (host, event) DO NOTHING",
                places(rows.len(), 18)
            );
            // SQLite takes texts apart itself.
            let dialect = self.dialect;
            let search = |row: &CommandRow| match dialect {
                Dialect::Sqlite => row.search.clone(),
                Dialect::Postgres => words::words(&row.search),
            };
            let mut query = sqlx::query(AssertSqlSafe(text));
            for row in rows {
                query = query
                    .bind(host)
                    .bind(row.event)
                    .bind(row.segment)
                    .bind(row.session.to_string())
                    .bind(row.number)
                    .bind(row.goes_on)
                    .bind(row.step.as_str())
                    .bind(row.at_ns)
                    .bind(row.kind.as_str())
                    .bind(row.verdict.as_str())
                    .bind(row.observed.as_str())
                    .bind(row.rule.as_str())
                    .bind(row.text.as_str())
                    .bind(search(row))
                    .bind(row.outcome.status.as_str())
                    .bind(row.outcome.duration_ns)
                    .bind(row.outcome.rows)
                    .bind(row.outcome.sqlstate.as_str());
            }
            query.execute(self.on()).await?;
        }
        for (session, number, outcome) in &batch.results {
            sqlx::query(
                "UPDATE commands SET status = $4, duration_ns = $5, rows_returned = $6, sqlstate = $7 \
                 WHERE session = $1 AND number = $2 AND host = $3",
            )
            .bind(session.to_string())
            .bind(int(*number))
            .bind(host)
            .bind(outcome.status.as_str())
            .bind(outcome.duration_ns)
            .bind(outcome.rows)
            .bind(outcome.sqlstate.as_str())
            .execute(self.on())
            .await?;
        }
        self.tell(host, batch, &commands, &strangers).await?;
        for ((rule, verdict, observed), (count, last_ns)) in &batch.rules {
            sqlx::query(
                "INSERT INTO rule_counts (host, rule, verdict, observed, count, last_ns) \
                 VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (host, rule, verdict, observed) DO UPDATE SET \
                 count = rule_counts.count + excluded.count, last_ns = excluded.last_ns",
            )
            .bind(host)
            .bind(rule)
            .bind(verdict)
            .bind(i64::from(*observed))
            .bind(*count)
            .bind(*last_ns)
            .execute(self.on())
            .await?;
        }
        for rows in batch.host_events.chunks(ROWS) {
            let text = format!(
                "INSERT INTO host_events (host, event, at_ns, kind, detail) VALUES {} \
                 ON CONFLICT (host, event) DO NOTHING",
                places(rows.len(), 5)
            );
            let mut query = sqlx::query(AssertSqlSafe(text));
            for row in rows {
                query =
                    query.bind(host).bind(row.event).bind(row.at_ns).bind(row.kind).bind(row.detail.as_str());
            }
            query.execute(self.on()).await?;
        }
        Ok(())
    }

    /// Writes into the journal what came.
    async fn tell(
        &mut self,
        host: &str,
        batch: &Batch,
        commands: &[&CommandRow],
        strangers: &HashSet<SessionId>,
    ) -> Result<(), StoreError> {
        if !self.has_outputs().await? {
            return Ok(());
        }
        let sessions: Vec<(&SessionId, &SessionChange)> = batch
            .order
            .iter()
            .filter(|id| !strangers.contains(*id))
            .filter_map(|id| Some((id, batch.sessions.get(id)?)))
            .collect();
        fn of_session<'r>(host: &'r str, kind: JournalKind, at: (i64, i64), about: &'r str) -> NewRow<'r> {
            NewRow { kind, host, segment: at.0, first: at.1, last: at.1, about }
        }
        for (id, change) in sessions.iter().filter(|(_, change)| change.start.is_some()) {
            let about = id.to_string();
            let at = (change.first_segment, change.first_event);
            self.journal(of_session(host, JournalKind::SessionBegun, at, &about)).await?;
        }
        let events = commands.iter().map(|row| row.event);
        let events = events.chain(batch.host_events.iter().map(|row| row.event));
        let (first, last) =
            events.fold((i64::MAX, -1), |(first, last), event| (first.min(event), last.max(event)));
        if last >= 0 {
            let row = NewRow {
                kind: JournalKind::Events,
                host,
                segment: batch.segment,
                first,
                last: last.saturating_add(1),
                about: "",
            };
            self.journal(row).await?;
        }
        let ended: Vec<String> = batch
            .ended
            .iter()
            .filter(|(session, _)| !strangers.contains(session))
            .map(|(session, number)| format!("{session}/{number}"))
            .collect();
        self.journal_results(host, batch.segment, &ended).await?;
        for (id, change) in sessions.iter().filter(|(_, change)| change.end.is_some()) {
            let about = id.to_string();
            let at = (change.last_segment, change.last_event);
            self.journal(of_session(host, JournalKind::SessionEnded, at, &about)).await?;
        }
        Ok(())
    }

    /// Indexes what came of a session; gives whether it is this host's.
    async fn index_session(
        &mut self,
        host: &str,
        id: SessionId,
        change: &SessionChange,
    ) -> Result<bool, StoreError> {
        let session = id;
        let id = id.to_string();
        let known = sqlx::query("SELECT host FROM sessions WHERE id = $1")
            .bind(&id)
            .fetch_optional(self.on())
            .await?;
        let known: Option<String> = known.map(|row| row.try_get(0)).transpose()?;
        if known.as_deref().is_some_and(|known| known != host) || (known.is_some() && change.start.is_some())
        {
            let detail =
                format!("it records a session {id} that is there already: the events are not indexed");
            if !self.is_found(host, "session", &detail).await? {
                self.add_finding(host, "session", &detail, None).await?;
            }
            return Ok(false);
        }
        if let Some((started_ns, start)) = &change.start {
            // Lists go by ids, which begin with a time: one that says another could hide in the past.
            let (said, began) = (time_of(session), *started_ns / 1_000_000);
            if (said - began).abs() > APART_MS {
                let detail = format!("the id of session {id} says another time than its first event");
                self.add_finding(host, "session", &detail, None).await?;
            }
            let subject = start.subject.clone().unwrap_or_default();
            let exe = subject.script.as_deref().unwrap_or(&subject.exe);
            sqlx::query(
                "INSERT INTO sessions (id, host, started_ns, first_segment, last_segment, first_event, last_event, \
                 pid, user_name, login_user, exe, command_line, unit, destination, host_names, protocol, db_user, \
                 database_name, policy_hash, commands, denied, observed, masked_values, rows_returned) \
                 VALUES ($1, $2, $3, $4, $4, $5, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, '', '', $15, 0, 0, 0, \
                 0, 0)",
            )
            .bind(&id)
            .bind(host)
            .bind(*started_ns)
            .bind(change.first_segment)
            .bind(change.first_event)
            .bind(i64::from(subject.pid))
            .bind(clip_name(&subject.user))
            .bind(clip(&subject.login_user))
            .bind(clip_name(exe))
            .bind(clip(&subject.argv.join(" ")))
            .bind(clip(&subject.unit))
            .bind(clip_name(&start.destination))
            .bind(clip_name(&start.hosts.join(" ")))
            .bind(clip(&start.protocol))
            .bind(clip(&start.policy_hash))
            .execute(self.on())
            .await?;
        }
        if let Some((user, database)) = &change.login {
            sqlx::query("UPDATE sessions SET db_user = $3, database_name = $4 WHERE id = $1 AND host = $2")
                .bind(&id)
                .bind(host)
                .bind(user)
                .bind(database)
                .execute(self.on())
                .await?;
        }
        sqlx::query(
            "UPDATE sessions SET last_segment = $3, last_event = $4, commands = commands + $5, \
             denied = denied + $6, held = held + $7, observed = observed + $8, \
             masked_values = masked_values + $9, rows_returned = rows_returned + $10, \
             terminal_bytes = terminal_bytes + $11 WHERE id = $1 AND host = $2",
        )
        .bind(&id)
        .bind(host)
        .bind(change.last_segment)
        .bind(change.last_event)
        .bind(change.commands)
        .bind(change.denied)
        .bind(change.held)
        .bind(change.observed)
        .bind(change.masked)
        .bind(change.rows)
        .bind(change.terminal)
        .execute(self.on())
        .await?;
        if let Some((ended_ns, end)) = &change.end {
            sqlx::query("UPDATE sessions SET ended_ns = $3, end_reason = $4 WHERE id = $1 AND host = $2")
                .bind(&id)
                .bind(host)
                .bind(*ended_ns)
                .bind(clip(&end.reason))
                .execute(self.on())
                .await?;
        }
        Ok(true)
    }
}
