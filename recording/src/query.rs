//! Finds sessions and events by what they say.

use std::collections::HashMap;
use std::path::Path;

use serde::Serialize;

use crate::SessionId;
use crate::json;
use crate::log::{Entry, ReadError, Reader, SegmentFile};
use crate::proto::event::Body;
use crate::proto::{Command, EgressConnection, Event, VerifiedIdentity};

/// What to look for. Every field that is given must hold; texts are compared without regard to case.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// Not before (nanoseconds since the Unix epoch).
    pub since: Option<u64>,
    /// Before.
    pub until: Option<u64>,
    /// The host user's name or number.
    pub user: Option<String>,
    /// Part of what a verified person or workload behind it is called: name, subject or issuer.
    pub identity: Option<String>,
    /// The database user.
    pub db_user: Option<String>,
    /// The database.
    pub database: Option<String>,
    /// Part of the executable's or script's path.
    pub exe: Option<String>,
    /// Part of the destination's address or host names.
    pub destination: Option<String>,
    /// The rule that decided, or one that matched.
    pub rule: Option<String>,
    /// The verdict.
    pub verdict: Option<String>,
    /// A verdict that some rule in observe mode would have given.
    pub observed: Option<String>,
    /// Part of a command's text.
    pub text: Option<String>,
}

impl Filter {
    /// Whether it looks at single commands.
    pub fn by_command(&self) -> bool {
        [&self.rule, &self.verdict, &self.observed, &self.text].iter().any(|key| key.is_some())
    }

    /// Whether it looks at who and where to.
    pub fn by_session(&self) -> bool {
        [&self.user, &self.identity, &self.db_user, &self.database, &self.exe, &self.destination]
            .iter()
            .any(|key| key.is_some())
    }

    /// Whether the time is within the bounds.
    pub fn at(&self, wall_ns: u64) -> bool {
        self.since.is_none_or(|since| wall_ns >= since) && self.until.is_none_or(|until| wall_ns < until)
    }

    /// Whether a connection that no session is about is one: by who, where to, verdict and time. What only
    /// sessions and commands have takes in none of them.
    pub fn egress(&self, wall_ns: u64, egress: &EgressConnection) -> bool {
        let about_commands = [&self.db_user, &self.database, &self.rule, &self.observed, &self.text];
        let subject = egress.subject.clone().unwrap_or_default();
        let who = Summary {
            identities: identities(subject.person.as_ref(), subject.workload.as_ref()),
            user: subject.user,
            uid: subject.uid,
            exe: subject.exe,
            script: subject.script,
            destination: egress.destination.clone(),
            started_ns: wall_ns,
            last_ns: wall_ns,
            ..Summary::default()
        };
        about_commands.iter().all(|key| key.is_none())
            && self.at(wall_ns)
            && self.verdict.as_deref().is_none_or(|verdict| egress.verdict.eq_ignore_ascii_case(verdict))
            && self.session(&who)
    }

    /// Whether the session is one by who and where to, and reaches into the time asked for.
    pub fn session(&self, summary: &Summary) -> bool {
        let same = |key: &Option<String>, values: &[&str]| {
            key.as_deref().is_none_or(|key| values.iter().any(|value| value.eq_ignore_ascii_case(key)))
        };
        let part = |key: &Option<String>, values: &[&str]| {
            key.as_deref().is_none_or(|key| values.iter().any(|value| contains(value, key)))
        };
        let hosts: Vec<_> =
            summary.hosts.iter().map(String::as_str).chain([summary.destination.as_str()]).collect();
        let identities: Vec<_> = summary.identities.iter().map(String::as_str).collect();
        same(&self.user, &[&summary.user, &summary.uid.to_string()])
            && part(&self.identity, &identities)
            && same(&self.db_user, &[&summary.db_user])
            && same(&self.database, &[&summary.database])
            && part(&self.exe, &[&summary.exe, summary.script.as_deref().unwrap_or_default()])
            && part(&self.destination, &hosts)
            && self.since.is_none_or(|since| summary.last_ns >= since)
            && self.until.is_none_or(|until| summary.started_ns < until)
    }

    /// Whether the command is one.
    pub fn command(&self, command: &Command) -> bool {
        let rule = |rule: &str| {
            command.rule.iter().chain(&command.matched).any(|name| name.eq_ignore_ascii_case(rule))
        };
        self.rule.as_deref().is_none_or(rule)
            && self.verdict.as_deref().is_none_or(|verdict| command.verdict.eq_ignore_ascii_case(verdict))
            && self.observed.as_deref().is_none_or(|verdict| {
                command.observed.iter().any(|rule| rule.verdict.eq_ignore_ascii_case(verdict))
            })
            && self.text.as_deref().is_none_or(|text| contains(&command.text, text))
    }
}

/// Most identities of one session that are told.
const MAX_IDENTITIES: usize = 64;

/// What identities are found by.
fn identities(person: Option<&VerifiedIdentity>, workload: Option<&VerifiedIdentity>) -> Vec<String> {
    let both = person.into_iter().chain(workload);
    let text = |one: &VerifiedIdentity| match one.name == one.subject {
        true => format!("{} of {}", one.subject, one.issuer_name),
        false => format!("{} ({}) of {}", one.name, one.subject, one.issuer_name),
    };
    both.map(text).collect()
}

fn contains(text: &str, part: &str) -> bool {
    text.to_lowercase().contains(&part.to_lowercase())
}

/// What a session came to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Its id.
    pub session: String,
    /// When it began and when its last event was (RFC 3339).
    pub started: String,
    /// The last event's time.
    pub last: String,
    /// How it ended; `None` while it goes on, or when the agent was killed.
    pub ended: Option<String>,
    /// The host user.
    pub user: String,
    /// Its number.
    pub uid: u32,
    /// The verified people and workloads that stood behind it: name, subject and issuer.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub identities: Vec<String>,
    /// The process.
    pub pid: u32,
    /// Its executable.
    pub exe: String,
    /// The script it runs.
    pub script: Option<String>,
    /// The protocol.
    pub protocol: String,
    /// Where to.
    pub destination: String,
    /// Host names of it.
    pub hosts: Vec<String>,
    /// The database user.
    pub db_user: String,
    /// The database.
    pub database: String,
    /// Commands.
    pub commands: u64,
    /// Commands with the verdict deny.
    pub denied: u64,
    /// Commands with the verdict hold.
    pub held: u64,
    /// Commands that did not reach the server: denied, held, or taken back because they could not be
    /// recorded.
    pub refused: u64,
    /// Commands that passed and that rules in observe mode would have refused.
    pub observed: u64,
    /// Commands that failed at the server.
    pub failed: u64,
    /// Rows returned.
    pub rows: u64,
    /// Values that masks changed.
    pub masked: u64,
    /// The same times in nanoseconds since the Unix epoch, for comparing.
    #[serde(skip)]
    pub started_ns: u64,
    /// The last event's time.
    #[serde(skip)]
    pub last_ns: u64,
    /// The first and the last segment that it has events in.
    #[serde(skip)]
    pub segments: (u64, u64),
    /// Some command of it is one that the filter looks for.
    #[serde(skip)]
    pub matched: bool,
}

impl Summary {
    /// `filter`, which it was made with, takes it in.
    pub fn is_one(&self, filter: &Filter) -> bool {
        filter.session(self) && (self.matched || !filter.by_command())
    }

    /// Those that are not there yet; of a session that goes on for ever not without end.
    fn add_identities(&mut self, identities: Vec<String>) {
        for identity in identities {
            if self.identities.len() < MAX_IDENTITIES && !self.identities.contains(&identity) {
                self.identities.push(identity);
            }
        }
    }

    fn take(&mut self, entry: &Entry, filter: &Filter) {
        let event = &entry.event;
        if self.session.is_empty() {
            self.session = crate::hex(&event.session);
            self.started_ns = event.wall_ns;
            self.started = json::time(event.wall_ns);
            self.segments.0 = entry.segment;
        }
        self.segments.1 = entry.segment;
        self.last_ns = event.wall_ns;
        match &event.body {
            Some(Body::FlowStarted(body)) => {
                if let Some(subject) = &body.subject {
                    self.user.clone_from(&subject.user);
                    self.uid = subject.uid;
                    self.add_identities(identities(subject.person.as_ref(), subject.workload.as_ref()));
                    self.pid = subject.pid;
                    self.exe.clone_from(&subject.exe);
                    self.script.clone_from(&subject.script);
                }
                self.protocol.clone_from(&body.protocol);
                self.destination.clone_from(&body.destination);
                self.hosts.clone_from(&body.hosts);
            }
            Some(Body::IdentityChanged(body)) => {
                self.add_identities(identities(body.person.as_ref(), body.workload.as_ref()));
            }
            Some(Body::Login(body)) => {
                self.db_user.clone_from(&body.user);
                self.database.clone_from(&body.database);
            }
            Some(Body::Command(body)) => {
                self.commands += 1;
                self.denied += u64::from(body.verdict == "deny");
                self.held += u64::from(body.verdict == "hold");
                self.refused += u64::from(body.verdict != "allow");
                self.observed += u64::from(!body.enforced);
                self.matched |= filter.at(event.wall_ns) && filter.command(body);
            }
            Some(Body::CommandsWithdrawn(body)) => {
                self.refused += body.last.saturating_sub(body.first).saturating_add(1);
            }
            Some(Body::Result(body)) => {
                self.failed += u64::from(body.status == "error");
                if let Some(rows) = &body.rows {
                    self.rows += rows.count;
                    self.masked += rows.masks.iter().map(|mask| mask.count).sum::<u64>();
                }
            }
            Some(Body::CopyData(body)) => {
                if let Some(lines) = &body.lines {
                    self.rows += lines.count;
                    self.masked += lines.masks.iter().map(|mask| mask.count).sum::<u64>();
                }
            }
            Some(Body::SessionEnded(body)) => self.ended = Some(body.reason.clone()),
            _ => {}
        }
    }
}

/// Sums up the sessions of a directory that `filter` takes in. Memory grows with their number, not with
/// their length. What could not be read is told to `broken`.
///
/// # Errors
/// The directory cannot be read.
pub fn sessions(
    directory: &Path,
    filter: &Filter,
    broken: impl FnMut(ReadError),
) -> Result<HashMap<SessionId, Summary>, ReadError> {
    let mut sessions = all_sessions(directory, filter, broken)?;
    sessions.retain(|_, summary| summary.is_one(filter));
    Ok(sessions)
}

/// As [`sessions`], but with those that `filter` leaves out: [`Summary::is_one`] tells them apart.
///
/// # Errors
/// The directory cannot be read.
pub fn all_sessions(
    directory: &Path,
    filter: &Filter,
    mut broken: impl FnMut(ReadError),
) -> Result<HashMap<SessionId, Summary>, ReadError> {
    let mut sessions: HashMap<SessionId, Summary> = HashMap::new();
    for entry in Reader::new(directory)? {
        match entry {
            Ok(entry) => {
                if let Some(session) = SessionId::from_slice(&entry.event.session) {
                    sessions.entry(session).or_default().take(&entry, filter);
                }
            }
            Err(error) => broken(error),
        }
    }
    sessions.values_mut().for_each(|summary| summary.last = json::time(summary.last_ns));
    Ok(sessions)
}

/// Picks the events that `filter` takes in out of those of `sessions`: when it looks at single commands,
/// these and what belongs to them, otherwise all. Connections that no session is about count by what they
/// say themselves, other events of the host when it looks at nothing but time.
#[derive(Debug)]
pub struct Picker<'f> {
    filter: &'f Filter,
    sessions: &'f HashMap<SessionId, Summary>,
    /// Commands that were picked and whose ends are still to come.
    open: HashMap<SessionId, Vec<u64>>,
}

impl<'f> Picker<'f> {
    /// Picks by `filter`, which `sessions` were found by.
    pub fn new(filter: &'f Filter, sessions: &'f HashMap<SessionId, Summary>) -> Self {
        Self { filter, sessions, open: HashMap::new() }
    }

    /// Whether the event, next in order, is one.
    pub fn picks(&mut self, event: &Event) -> bool {
        if !self.filter.at(event.wall_ns) {
            return false;
        }
        let Some(session) = SessionId::from_slice(&event.session) else {
            return match &event.body {
                Some(Body::Egress(egress)) => self.filter.egress(event.wall_ns, egress),
                _ => !self.filter.by_session() && !self.filter.by_command(),
            };
        };
        if !self.sessions.contains_key(&session) {
            return false;
        }
        if !self.filter.by_command() {
            return true;
        }
        let mut belongs = |command: u64, last: bool| {
            let Some(open) = self.open.get_mut(&session) else { return false };
            let before = open.len();
            let found = open.contains(&command);
            if last {
                open.retain(|number| *number != command);
            }
            found || open.len() < before
        };
        match &event.body {
            Some(Body::Command(command)) => {
                let picked = self.filter.command(command) || (command.of != 0 && belongs(command.of, false));
                if picked {
                    self.open.entry(session).or_default().push(command.command);
                }
                picked
            }
            Some(Body::Result(result)) => belongs(result.command, result.status != "suspended"),
            Some(Body::CopyData(copy)) => belongs(copy.command, false),
            Some(Body::SessionEnded(_)) => {
                self.open.remove(&session);
                false
            }
            _ => false,
        }
    }
}

/// The segments that a session can have events in.
pub fn segments_of(segments: Vec<SegmentFile>, summary: &Summary) -> Vec<SegmentFile> {
    let (first, last) = summary.segments;
    segments.into_iter().filter(|segment| (first..=last).contains(&segment.number)).collect()
}
