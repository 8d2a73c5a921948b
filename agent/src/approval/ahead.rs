//! Approval that is asked for before the command is sent.
//!
//! Such a request lies on the [`Desk`] like any other, and people decide on it in the same way. What comes of
//! it is kept here: an approval for exactly that command, for whoever asked, for a bounded time.
//! A command that a rule holds is looked up here ([`Ahead::take`]) before anybody is asked anew.
//!
//! "Whoever asked" is a process tree: the process that started the one which asks, and all that descends
//! from it. An AI agent that asks through a helper so finds the approval for the client that it starts next,
//! and another job of the same user does not.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde::Serialize;

use super::case::{Outcome, Withdrawal};
use super::desk::{Desk, DeskError, Id, Request, Ticket};
use super::past::subject_bytes;
use crate::identity::{Subject, TICK_NS};
use crate::policy::{Scope, Terms};

/// Requests of one user that are open at once.
const OPEN_PER_USER: usize = 8;
/// Requests that one user may make within [`HOUR`].
const ASKED_PER_USER: usize = 60;
const HOUR: Duration = Duration::from_secs(60 * 60);
/// Requests that are remembered: of one user, and of all.
const KEPT_PER_USER: usize = 100;
const KEPT: usize = 2048;
/// Bytes of what can still be used, or is open, of one user. Of all it is as much as may be held.
const BYTES_PER_USER: usize = 2 << 20;
/// Bytes of the text in an answer.
const BRIEF: usize = 300;

/// A process, and all that descends from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tree {
    /// Its process id.
    pub pid: u32,
    /// When it was started, in nanoseconds since boot, as exact as /proc tells.
    pub start_time_ns: u64,
}

impl Tree {
    /// Whether the process belongs to it.
    pub fn holds(&self, subject: &Subject) -> bool {
        let is = |pid: u32, start: u64| {
            pid == self.pid && start != 0 && start / TICK_NS == self.start_time_ns / TICK_NS
        };
        is(subject.pid, subject.start_time_ns)
            || subject.ancestors.iter().any(|parent| is(parent.pid, parent.start_time_ns))
    }
}

/// Who asks.
#[derive(Debug, Clone)]
pub struct Asker {
    /// The process that asks.
    pub subject: Arc<Subject>,
    /// Whose commands the approval is for.
    pub tree: Tree,
}

impl Asker {
    /// Whether a command of `subject` may go on by what this one has asked for: the same user and login, in
    /// the same place, and of the tree.
    fn is_behind(&self, subject: &Subject) -> bool {
        let who = |subject: &Subject| {
            let claimed = subject.login_claimed.as_ref().map(|claimed| (claimed.uid, claimed.session));
            (subject.uid, subject.login_uid, subject.login_session, claimed)
        };
        let verified = |subject: &Subject| {
            [&subject.person, &subject.workload].map(|identity| {
                identity
                    .as_ref()
                    .map(|one| (one.issuer_name.to_string(), one.issuer.to_string(), one.subject.to_string()))
            })
        };
        who(&self.subject) == who(subject)
            && verified(&self.subject) == verified(subject)
            && self.subject.cgroup == subject.cgroup
            && self.subject.unit == subject.unit
            && self.subject.container == subject.container
            && self.tree.holds(subject)
    }

    fn is(&self, other: &Self) -> bool {
        self.subject.uid == other.subject.uid && self.tree == other.tree
    }

    /// As much of it as tells whose it was.
    fn brief(&self) -> Self {
        let subject = Subject { uid: self.subject.uid, ..Subject::default() };
        Self { subject: Arc::new(subject), tree: self.tree }
    }
}

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// The server,
    pub server: SocketAddr,
    /// the database,
    pub database: Arc<str>,
    /// and the database user.
    pub db_user: Arc<str>,
    /// The time zone that the session is started with; the server's own when `None`.
    pub time_zone: Option<Arc<str>>,
    /// The whole text.
    pub text: Arc<str>,
    /// All parameters, in text form.
    pub params: Vec<Option<String>>,
    /// What texts of its shape have in common, where it has one.
    pub shape: Option<String>,
    /// The program that sends it, by the asker's word; the asker's own when `None`.
    pub program: Option<Arc<Path>>,
}

impl Wanted {
    /// Whether a command is of the program that it was asked for.
    fn is_sent_by(&self, asker: &Subject, sender: &Subject) -> bool {
        match &self.program {
            // Of a script that is the script, whatever interprets it.
            Some(program) => match &sender.script {
                Some(script) => **script == **program,
                None => *sender.exe == **program,
            },
            None => {
                let known = !asker.exe.as_os_str().is_empty() || !asker.exe_sha256.is_empty();
                known
                    && asker.exe == sender.exe
                    && asker.exe_sha256 == sender.exe_sha256
                    && asker.script == sender.script
            }
        }
    }

    /// What it takes.
    pub fn bytes(&self) -> usize {
        let params: usize =
            self.params.iter().map(|value| PARAM + value.as_ref().map_or(0, String::len)).sum();
        let shape = self.shape.as_ref().map_or(0, String::len);
        self.text.len() + params + shape
    }
}

/// What a parameter takes beside its own bytes.
const PARAM: usize = size_of::<Option<String>>();

/// A command that is about to be held.
#[derive(Debug, Clone, Copy)]
pub struct Use<'a> {
    /// Whose.
    pub subject: &'a Subject,
    /// Where to.
    pub server: SocketAddr,
    /// The database.
    pub database: &'a str,
    /// The database user.
    pub db_user: &'a str,
    /// The time zone that its session was started with.
    pub time_zone: Option<&'a str>,
    /// The whole text.
    pub text: &'a str,
    /// All parameters, in text form; `None` where their text form does not say exactly what they are.
    pub params: Option<&'a [Option<String>]>,
    /// What texts of its shape have in common, where it has one.
    pub shape: Option<&'a str>,
    /// What has to be fulfilled for it.
    pub terms: &'a Terms,
}

/// An approval that a command goes on by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    /// The request.
    pub request: Id,
    /// Who approved.
    pub by: Vec<Arc<str>>,
    /// What the approval covers.
    pub scope: Scope,
}

#[derive(Debug)]
enum State {
    /// It lies on the desk.
    Open,
    /// It is approved, and can be used until then.
    Usable(Scope, Instant),
    /// Nothing goes on by it any more: the word for why, and what was said about it.
    Over(&'static str, Arc<str>),
}

#[derive(Debug)]
struct Entry {
    id: Id,
    asker: Asker,
    wanted: Wanted,
    /// The beginning of the text as it may be shown.
    shown: String,
    terms: Arc<Terms>,
    asked: Timestamp,
    at: Instant,
    state: State,
    by: Vec<Arc<str>>,
    used: u64,
    /// What it takes while it can still be used.
    bytes: usize,
}

/// A request as whoever asked sees it.
#[derive(Debug, Serialize)]
pub struct Status {
    id: Id,
    /// `pending`, `approved`, `used`, `denied`, `expired`, `withdrawn` or `lapsed` (it was approved, and not
    /// used in time).
    state: &'static str,
    /// When it was asked.
    asked: String,
    /// Seconds that are left to decide on it, or to use it.
    left: Option<u64>,
    /// Who has to approve, in words.
    needs: String,
    /// Who has approved, or refused.
    by: Vec<Arc<str>>,
    /// What they said about it; in their own words.
    reason: Arc<str>,
    /// What the approval covers: `once`, `shape` or `session`.
    scope: Option<Scope>,
    /// Commands that went on by it.
    used: u64,
    server: SocketAddr,
    database: Arc<str>,
    db_user: Arc<str>,
    /// The beginning of the text.
    text: String,
}

impl Status {
    /// Nothing more will come of it by itself.
    pub fn is_over(&self) -> bool {
        self.state != "pending"
    }
}

/// What was asked for beforehand, and what came of it.
#[derive(Debug, Default)]
pub struct Ahead(Mutex<VecDeque<Entry>>);

/// What was asked became a request, or is one already.
#[derive(Debug)]
pub enum Opened {
    /// The request lies on the desk; whoever has this sees to it.
    New(Ticket),
    /// The same was asked before, and is still open or can be used.
    Known(Id),
}

// === impl Ahead ===

impl Ahead {
    fn all(&self) -> MutexGuard<'_, VecDeque<Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The approval that a command goes on by, if there is one. One for a single command is used up by this,
    /// whatever becomes of the command.
    pub fn take(&self, command: &Use<'_>) -> Option<Taken> {
        let now = Instant::now();
        self.all().iter_mut().find_map(|entry| entry.take(command, now))
    }

    /// It is approved by these, and may be used, unless it was called off meanwhile. It is recorded by now.
    pub fn approved(&self, id: Id, scope: Scope, seconds: u64, by: Vec<Arc<str>>) {
        let open = |entry: &&mut Entry| entry.id == id && matches!(entry.state, State::Open);
        if let Some(entry) = self.all().iter_mut().find(open) {
            let lasts = match scope {
                Scope::Shape => Duration::from_secs(seconds),
                Scope::Once | Scope::Session => entry.terms.within,
            };
            entry.state = State::Usable(scope, Instant::now() + lasts);
            entry.by = by;
        }
    }

    /// Somebody has approved; more are needed.
    pub fn voted(&self, id: Id, by: &[Arc<str>]) {
        if let Some(entry) = self.all().iter_mut().find(|entry| entry.id == id) {
            entry.by = by.to_vec();
        }
    }

    /// It is not approved.
    pub fn over(&self, id: Id, outcome: &Outcome) {
        let (word, by, reason): (_, _, Arc<str>) = match outcome {
            Outcome::Denied { by, reason } => ("denied", Some(&by.name), Arc::clone(reason)),
            Outcome::Withdrawn(Withdrawal::Because(reason)) => ("withdrawn", None, Arc::clone(reason)),
            other => (other.word(), None, "".into()),
        };
        self.close(id, word, &reason, by);
    }

    /// Nothing may go on by it: what was decided could not be recorded.
    pub fn unrecorded(&self, id: Id) {
        self.close(id, "withdrawn", &"what was decided could not be recorded".into(), None);
    }

    fn close(&self, id: Id, word: &'static str, reason: &Arc<str>, by: Option<&Arc<str>>) {
        if let Some(entry) = self.all().iter_mut().find(|entry| entry.id == id) {
            entry.end(word, Arc::clone(reason));
            if let Some(by) = by {
                entry.by = vec![Arc::clone(by)];
            }
        }
    }

    /// How a request of this asker's stands.
    pub fn status(&self, id: Id, asker: &Asker) -> Option<Status> {
        let now = Instant::now();
        let mut all = self.all();
        let entry = all.iter_mut().find(|entry| entry.id == id && entry.asker.is(asker))?;
        Some(entry.status(now))
    }

    /// All of this asker's, the newest first.
    pub fn of(&self, asker: &Asker) -> Vec<Status> {
        let now = Instant::now();
        let mut all = self.all();
        let own = all.iter_mut().rev().filter(|entry| entry.asker.is(asker));
        own.map(|entry| entry.status(now)).collect()
    }

    /// Nothing is to come of it any more. Says whether anything still could.
    fn give_up(&self, id: Id, why: &Arc<str>) -> bool {
        let mut all = self.all();
        let alive = |entry: &&mut Entry| entry.id == id && !matches!(entry.state, State::Over(..));
        let found = all.iter_mut().find(alive);
        found.is_some_and(|entry| {
            entry.end("withdrawn", Arc::clone(why));
            true
        })
    }
}

impl Entry {
    fn lapse(&mut self, now: Instant) {
        if matches!(self.state, State::Usable(_, until) if until <= now) {
            self.end(if self.used > 0 { "used" } else { "lapsed" }, "".into());
        }
    }

    /// Nothing goes on by it any more: what is kept of it is what answers say.
    fn end(&mut self, word: &'static str, why: Arc<str>) {
        self.state = State::Over(word, why);
        self.asker = self.asker.brief();
        self.wanted.text = "".into();
        (self.wanted.params, self.wanted.shape, self.wanted.program) = (Vec::new(), None, None);
        self.bytes = 0;
    }

    fn take(&mut self, command: &Use<'_>, now: Instant) -> Option<Taken> {
        self.lapse(now);
        let State::Usable(scope, _) = self.state else { return None };
        let wanted = &self.wanted;
        let there = wanted.server == command.server
            && *wanted.database == *command.database
            && *wanted.db_user == *command.db_user
            && wanted.time_zone.as_deref() == command.time_zone;
        let exactly = *wanted.text == *command.text && command.params == Some(wanted.params.as_slice());
        let alike =
            scope == Scope::Shape && wanted.shape.is_some() && wanted.shape.as_deref() == command.shape;
        // Other terms than were fulfilled make it void.
        let fits = there && (exactly || alike) && *self.terms == *command.terms;
        let asker = &self.asker;
        if !fits || !asker.is_behind(command.subject) || !wanted.is_sent_by(&asker.subject, command.subject) {
            return None;
        }
        self.used += 1;
        if scope != Scope::Shape {
            self.end("used", "".into());
        }
        Some(Taken { request: self.id, by: self.by.clone(), scope })
    }

    fn status(&mut self, now: Instant) -> Status {
        self.lapse(now);
        let (state, until, scope, reason) = match &self.state {
            State::Open => ("pending", Some(self.at + self.terms.within), None, "".into()),
            State::Usable(scope, until) => ("approved", Some(*until), Some(*scope), "".into()),
            State::Over(word, reason) => (*word, None, None, Arc::clone(reason)),
        };
        Status {
            id: self.id,
            state,
            asked: format!("{:.3}", self.asked),
            left: until.map(|until| until.saturating_duration_since(now).as_secs()),
            needs: self.terms.words(),
            by: self.by.clone(),
            reason,
            scope,
            used: self.used,
            server: self.wanted.server,
            database: Arc::clone(&self.wanted.database),
            db_user: Arc::clone(&self.wanted.db_user),
            text: self.shown.clone(),
        }
    }
}

/// Makes room for another request of `uid`.
///
/// # Errors
/// They have as many as they may.
fn make_room(all: &mut VecDeque<Entry>, uid: u32, now: Instant) -> Result<(), DeskError> {
    let own = |entry: &&Entry| entry.asker.subject.uid == uid;
    let open = all.iter().filter(own).filter(|entry| matches!(entry.state, State::Open)).count();
    if open >= OPEN_PER_USER {
        return Err(DeskError::UserFull(open));
    }
    let lately = all.iter().filter(own).filter(|entry| now.duration_since(entry.at) < HOUR).count();
    if lately >= ASKED_PER_USER {
        return Err(DeskError::TooOften(lately));
    }
    // Those that nothing comes of any more go first, then the oldest approvals; what is open stays.
    let over = |entry: &Entry| matches!(entry.state, State::Over(..));
    let not_open = |entry: &Entry| !matches!(entry.state, State::Open);
    if all.iter().filter(own).count() >= KEPT_PER_USER {
        let of = |entry: &Entry| entry.asker.subject.uid == uid;
        let oldest = all.iter().position(|entry| of(entry) && over(entry));
        let oldest = oldest.or_else(|| all.iter().position(|entry| of(entry) && not_open(entry)));
        oldest.and_then(|oldest| all.remove(oldest));
    }
    if all.len() >= KEPT {
        let oldest = all.iter().position(over);
        match oldest {
            Some(oldest) => drop(all.remove(oldest)),
            None => return Err(DeskError::Full(all.len())),
        }
    }
    Ok(())
}

impl Desk {
    /// Asks for approval of a command that is not sent yet. `request` is what people are shown; its terms may
    /// allow less than `terms`, which are those of the command itself.
    ///
    /// # Errors
    /// It cannot be asked for now.
    pub fn ask_ahead(
        self: &Arc<Self>,
        asker: Asker,
        wanted: Wanted,
        terms: Arc<Terms>,
        request: Request,
    ) -> Result<Opened, DeskError> {
        let now = Instant::now();
        let mut all = self.ahead().all();
        all.iter_mut().for_each(|entry| entry.lapse(now));
        let same = all.iter().find(|entry| {
            !matches!(entry.state, State::Over(..))
                && entry.asker.is(&asker)
                && entry.wanted == wanted
                && *entry.terms == *terms
        });
        if let Some(same) = same {
            return Ok(Opened::Known(same.id));
        }
        make_room(&mut all, asker.subject.uid, now)?;
        let bytes = wanted.bytes() + subject_bytes(&asker.subject);
        let taken = |of: &dyn Fn(&Entry) -> bool| -> usize {
            all.iter().filter(|entry| of(entry)).map(|entry| entry.bytes).sum()
        };
        let own = taken(&|entry| entry.asker.subject.uid == asker.subject.uid);
        if own.saturating_add(bytes) > BYTES_PER_USER
            || taken(&|_| true).saturating_add(bytes) > self.bounds.bytes
        {
            return Err(DeskError::Bytes);
        }
        let text = &request.shown.text;
        let shown = text.get(..text.floor_char_boundary(BRIEF)).unwrap_or_default().to_owned();
        let ticket = self.ask(request)?;
        all.push_back(Entry {
            id: ticket.id(),
            asker,
            wanted,
            shown,
            terms,
            asked: Timestamp::now(),
            at: now,
            state: State::Open,
            by: Vec::new(),
            used: 0,
            bytes,
        });
        Ok(Opened::New(ticket))
    }

    /// Whoever asked does not want it any more, be it decided or not.
    ///
    /// # Errors
    /// There is no such request of theirs, or nothing can come of it anyway.
    pub fn call_off(&self, id: &str, asker: &Asker) -> Result<(), DeskError> {
        let unknown = || DeskError::Unknown(id.chars().take(20).collect());
        let id = Id::parse(id).ok_or_else(unknown)?;
        let status = self.ahead().status(id, asker).ok_or_else(unknown)?;
        let why: Arc<str> = "who asked has called it off".into();
        if self.ahead().give_up(id, &why) {
            // Whether it is decided by now or not.
            let why = Withdrawal::Because(why);
            self.with(id, |open| open.case.withdraw(why, Instant::now()));
            return Ok(());
        }
        Err(super::case::NotCounted::Over(status.state).into())
    }
}

#[cfg(test)]
mod tests;
