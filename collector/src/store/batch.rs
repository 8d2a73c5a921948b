//! What comes of events, made ready for the index before anything is written.

use std::collections::{BTreeSet, HashMap};
use std::fmt::Write as _;

use interlock_recording::proto::event::Body;
use interlock_recording::proto::{Command, CommandResult, Event, FlowStarted, SessionEnded};
use interlock_recording::query::identities;
use interlock_recording::verify::session_step;
use interlock_recording::{SessionId, json};

use super::clock::Clock;
use super::glass::Recorded;

/// Bytes of a text that are kept in the index; the whole stands in the recording.
pub(super) const MAX_TEXT: usize = 16 << 10;
/// Bytes of a name: PostgreSQL's indexes do not take longer ones.
pub(super) const MAX_NAME: usize = 1000;
/// People and workloads that are taken note of in one batch of a session.
const MAX_IDENTITIES: usize = 64;
/// Kinds of statements that are listed of one command.
const MAX_KINDS: usize = 32;
/// Findings about the order of events in one batch; more of the same tell nobody anything.
const MAX_FAULTS: usize = 8;

/// Events of one host, made ready for the index.
#[derive(Debug, Default)]
pub struct Batch {
    pub(super) sessions: HashMap<SessionId, SessionChange>,
    /// In the order in which sessions first appear.
    pub(super) order: Vec<SessionId>,
    pub(super) commands: Vec<CommandRow>,
    /// Where a session's command stands in `commands`.
    places: HashMap<(SessionId, u64), usize>,
    /// Results of commands that came in earlier batches.
    pub(super) results: Vec<(SessionId, u64, Outcome)>,
    /// Commands that ended.
    pub(super) ended: Vec<(SessionId, u64)>,
    pub(super) rules: HashMap<(String, String, bool), (i64, i64)>,
    pub(super) host_events: Vec<HostEvent>,
    /// Follows the host's clocks; a batch without does not judge them.
    clock: Option<Clock>,
    /// What is wrong with the order of the events.
    pub(super) faults: Vec<String>,
    /// Commands that went through without approval, and have to be looked into.
    pub(super) glass: Vec<String>,
    /// What the events tell of requests for approval.
    pub(super) recorded: Vec<Recorded>,
    events: u64,
    /// The segment of the last event: those of a batch are of one.
    pub(super) segment: i64,
}

#[derive(Debug, Default)]
pub(super) struct SessionChange {
    /// The number of its first event in this batch, unless it begins in it.
    pub(super) goes_on: Option<u64>,
    /// The number that is due after this batch; none when it has ended.
    pub(super) due: Option<u64>,
    /// What is wrong with its numbers.
    pub(super) fault: Option<String>,
    pub(super) start: Option<(i64, Box<FlowStarted>)>,
    pub(super) login: Option<(String, String)>,
    pub(super) end: Option<(i64, SessionEnded)>,
    /// Who has come to stand behind it: what they are found by.
    pub(super) identities: BTreeSet<String>,
    pub(super) first_event: i64,
    pub(super) last_event: i64,
    pub(super) first_segment: i64,
    pub(super) last_segment: i64,
    pub(super) commands: i64,
    pub(super) denied: i64,
    pub(super) held: i64,
    pub(super) observed: i64,
    pub(super) masked: i64,
    pub(super) rows: i64,
    pub(super) terminal: i64,
}

#[derive(Debug)]
pub(super) struct CommandRow {
    pub(super) event: i64,
    pub(super) segment: i64,
    pub(super) session: SessionId,
    pub(super) number: i64,
    pub(super) goes_on: i64,
    pub(super) step: String,
    pub(super) at_ns: i64,
    pub(super) kind: String,
    pub(super) verdict: String,
    pub(super) observed: String,
    pub(super) rule: String,
    pub(super) text: String,
    pub(super) search: String,
    pub(super) outcome: Outcome,
}

#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub(super) status: String,
    pub(super) duration_ns: i64,
    pub(super) rows: i64,
    pub(super) sqlstate: String,
}

#[derive(Debug)]
pub(super) struct HostEvent {
    pub(super) event: i64,
    pub(super) at_ns: i64,
    pub(super) kind: &'static str,
    pub(super) detail: String,
}

impl SessionChange {
    /// Follows the session's numbers.
    fn step(&mut self, event: &Event, first: bool) {
        let begins = matches!(event.body, Some(Body::FlowStarted(_)));
        if first && !begins {
            self.goes_on = Some(event.sequence);
            self.due = Some(event.sequence);
        }
        match session_step(self.due, event) {
            Ok(_) if begins && !first => {
                self.fault.get_or_insert_with(|| format!("at event {}: it begins once more", event.index));
                self.due = Some(event.sequence.saturating_add(1));
            }
            Ok(due) => self.due = due,
            Err(fault) => {
                self.fault.get_or_insert_with(|| format!("at event {}: {fault}", event.index));
                let ended = matches!(event.body, Some(Body::SessionEnded(_)));
                self.due = (!ended).then(|| event.sequence.saturating_add(1));
            }
        }
    }
}

/// A text for the database: neither longer than the index keeps nor with a zero in it, which PostgreSQL
/// does not take.
pub(super) fn clip(text: &str) -> String {
    clip_to(text, MAX_TEXT)
}

/// The same of something that an index goes by.
pub(super) fn clip_name(text: &str) -> String {
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

pub(super) fn int(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

impl Batch {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty one, after events that left the host's clocks at `clock`: it judges the order of what is added.
    pub fn after(clock: Clock) -> Self {
        Self { clock: Some(clock), ..Self::default() }
    }

    /// Where its events leave the host's clocks.
    pub fn clock(&self) -> Option<&Clock> {
        self.clock.as_ref()
    }

    /// Number of events in it.
    pub fn events(&self) -> u64 {
        self.events
    }

    /// Adds an event of segment `segment`.
    pub fn add(&mut self, event: &Event, segment: u64) {
        let (index, at_ns, segment) = (int(event.index), int(event.wall_ns), int(segment));
        self.events += 1;
        self.segment = segment;
        if let Some(fault) = self.clock.as_mut().and_then(|clock| clock.event(event))
            && self.faults.len() < MAX_FAULTS
        {
            self.faults.push(fault);
        }
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
        session.step(event, session.first_event == index);
        session.last_event = index;
        session.last_segment = segment;
        match &event.body {
            Some(Body::FlowStarted(body)) => session.start = Some((at_ns, Box::new(body.clone()))),
            Some(Body::Login(body)) => {
                session.login = Some((clip_name(&body.user), clip_name(&body.database)));
            }
            Some(Body::IdentityChanged(body)) => {
                let all = identities(body.person.as_ref(), body.workload.as_ref());
                let room = MAX_IDENTITIES.saturating_sub(session.identities.len());
                session.identities.extend(all.iter().take(room).map(|one| clip_name(one)));
            }
            Some(Body::SessionEnded(body)) => session.end = Some((at_ns, body.clone())),
            Some(Body::Command(body)) => self.command(body, id, index, segment, at_ns),
            Some(Body::Result(body)) => self.result(body, id),
            Some(Body::TerminalOutput(body)) => {
                session.terminal = session.terminal.saturating_add(int(body.data.len() as u64));
            }
            Some(Body::ApprovalRequested(body)) => {
                self.recorded.push(Recorded::Asked(id, at_ns, Box::new(body.clone())));
            }
            Some(Body::ApprovalDecided(body)) => {
                self.recorded.push(Recorded::Decided(id, at_ns, Box::new(body.clone())));
                if !body.needs_review || self.glass.len() >= MAX_FAULTS {
                    return;
                }
                let who = body.by.as_ref().map_or_else(String::new, |by| match by.login_user.as_str() {
                    "" => by.user.clone(),
                    login => format!("{} (logged in as {login})", by.user),
                });
                let (request, reason) = (clip_name(&body.request), clip(&body.reason));
                self.glass.push(format!(
                    "request {request} of session {id} went through without approval: {who} broke the glass: {reason}"
                ));
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
