//! The statements and portals that a session has made, by protocol and by SQL.
//!
//! On the server both ways share one namespace, so they do here. Whether a PREPARE or Parse succeeded is
//! known only later (a pipeline may hold many of them), so a name can have several candidates, and what
//! runs under it is judged as the strictest of them. The same goes for portals, whose namespace cursors
//! share.
//!
//! What code on the server does with names (a DO block that runs `DEALLOCATE` and `PREPARE`, or opens a
//! cursor) is not seen: from then on what a name stands for is *unknown* until it is seen to be made anew.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Instant;

use super::hold::{Approved, Standing};
use crate::policy::Decision;
use crate::protocol::Limits;
use crate::record::CommandId;
use crate::sql::{Hidden, Kind, Script, Secrets, Statement};

/// Of longer names the server takes this many bytes (`NAMEDATALEN`), those of the protocol's messages
/// included.
const NAME: usize = 63;

/// A FETCH from the portal of an EXECUTE, and the like, deeper than this are not followed.
const MOST_NESTED: usize = 8;

fn key(name: &[u8]) -> &[u8] {
    name.get(..NAME).unwrap_or(name)
}

/// A statement that the client asked to prepare.
#[derive(Debug)]
pub(super) struct Prepared {
    /// Its place among all of the session: what closes a name closes what came before it.
    pub(super) order: u64,
    /// For one made by Parse, how many Syncs had been sent before it; for one made by SQL, none.
    pub(super) epoch: Option<u64>,
    /// The text as sent.
    pub(super) text: Arc<str>,
    /// The text as it may be recorded.
    pub(super) recorded: Arc<str>,
    /// What is hidden in that.
    pub(super) hidden: Hidden,
    /// Where in the text secrets stand.
    pub(super) secrets: Secrets,
    /// What it does.
    pub(super) script: Arc<Script>,
    /// Parameter types: as Parse fixed them, then as the server says.
    pub(super) types: OnceLock<Box<[u32]>>,
    /// It failed, or was replaced or closed.
    pub(super) dead: AtomicBool,
    /// The server has said that it made it.
    pub(super) made: AtomicBool,
    /// The recorded command that prepared it.
    pub(super) command: OnceLock<CommandId>,
    /// The verdict on it and the policies it was given under, where it depends on nothing else.
    pub(super) decided: Mutex<Option<(u64, Arc<Decision>)>>,
}

impl Prepared {
    /// One statement of a text, as SQL PREPARE or DECLARE makes it.
    pub(super) fn part(whole: &Self, statement: &Statement, order: u64) -> Self {
        Self {
            order,
            epoch: None,
            text: statement.text.as_str().into(),
            recorded: Arc::clone(&whole.recorded),
            hidden: whole.hidden,
            secrets: Secrets::of(&statement.text),
            script: Arc::new(Script { statements: vec![statement.clone()] }),
            types: OnceLock::new(),
            dead: AtomicBool::new(false),
            made: AtomicBool::new(false),
            command: OnceLock::new(),
            decided: Mutex::default(),
        }
    }

    pub(super) fn kill(&self) {
        self.dead.store(true, Ordering::Relaxed);
    }

    fn alive(&self) -> bool {
        !self.dead.load(Ordering::Relaxed)
    }

    /// Whether it is alive; if not, it is counted no more.
    fn keep(&self, count: &mut usize, text: &mut usize) -> bool {
        if !self.alive() {
            *count -= 1;
            *text -= self.text.len();
        }
        self.alive()
    }
}

/// A portal: a statement with its parameters, ready to run.
#[derive(Debug, Default)]
pub(super) struct Portal {
    /// What it may run; empty when it is not known.
    pub(super) statements: Vec<Arc<Prepared>>,
    /// The recorded Bind.
    pub(super) command: Option<CommandId>,
    /// Its parameters as text, where a rule looks at them.
    pub(super) params: Option<Vec<Option<String>>>,
    /// Those of its parameters that are secrets.
    pub(super) secrets: Box<[String]>,
    /// What it goes on by, where a rule holds it, and under what it was approved.
    pub(super) approved: Mutex<Option<(Arc<Approved>, Standing)>>,
    /// When it was judged,
    pub(super) judged: Option<Instant>,
    /// and under which policies.
    pub(super) generation: u64,
    /// It has begun to run.
    pub(super) executed: AtomicBool,
    /// Its place among all that the session made.
    pub(super) order: u64,
    /// How many Syncs had been sent before it.
    pub(super) epoch: u64,
    /// It may run something else than `statements`.
    pub(super) unknown: bool,
    /// It failed, or was replaced or closed.
    pub(super) dead: AtomicBool,
}

impl Portal {
    pub(super) fn kill(&self) {
        self.dead.store(true, Ordering::Relaxed);
    }

    fn alive(&self) -> bool {
        !self.dead.load(Ordering::Relaxed)
    }
}

/// The statements that may be running.
#[derive(Debug, Default)]
pub(super) struct Running<'a> {
    pub(super) statements: Vec<&'a Statement>,
    /// It may be something else as well.
    pub(super) unknown: bool,
}

/// What an Execute may run.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// The portals that a Bind made under the name; those that may be.
    pub(super) portals: Vec<Arc<Portal>>,
    /// The statements of these, and of cursors of that name.
    pub(super) statements: Vec<Arc<Prepared>>,
    /// Something else may run.
    pub(super) unknown: bool,
}

impl Portal {
    /// What it was approved by, and under what.
    pub(super) fn approval(&self) -> Option<(Arc<Approved>, Standing)> {
        self.approved.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// It goes on by another approval from now on.
    pub(super) fn approve(&self, by: Arc<Approved>, standing: Standing) {
        *self.approved.lock().unwrap_or_else(PoisonError::into_inner) = Some((by, standing));
    }

    /// The secrets that it was given, in its statement's text and as parameters.
    pub(super) fn given_secrets(&self) -> impl Iterator<Item = String> {
        let stated = self.statements.iter().flat_map(|prepared| prepared.secrets.words(&prepared.text));
        stated.map(str::to_owned).chain(self.secrets.iter().cloned())
    }
}

/// All names of a session.
#[derive(Debug, Default)]
pub(super) struct Names {
    statements: HashMap<Box<[u8]>, Vec<Arc<Prepared>>>,
    portals: HashMap<Box<[u8]>, Vec<Arc<Portal>>>,
    /// What DECLARE CURSOR has opened.
    cursors: Vec<Arc<Prepared>>,
    order: u64,
    /// When code was last run that may have made and freed names of every sort, and such that may have
    /// done so to those that SQL makes.
    hidden: u64,
    hidden_sql: u64,
    count: usize,
    text: usize,
}

impl Names {
    /// The next place.
    pub(super) fn next_order(&mut self) -> u64 {
        self.order += 1;
        self.order
    }

    /// Remembers a statement; `false` when there is no room.
    pub(super) fn add(&mut self, name: &[u8], prepared: Arc<Prepared>, limits: &Limits) -> bool {
        let room = |names: &Self| {
            names.count < limits.prepared && names.text + prepared.text.len() <= limits.prepared_text
        };
        if !room(self) {
            // Some may have failed or been replaced.
            self.sweep();
        }
        if !room(self) {
            return false;
        }
        self.count += 1;
        self.text += prepared.text.len();
        let name = key(name);
        let candidates = match self.statements.get_mut(name) {
            Some(candidates) => candidates,
            None => self.statements.entry(name.into()).or_default(),
        };
        let (count, text) = (&mut self.count, &mut self.text);
        candidates.retain(|one| one.keep(count, text));
        candidates.push(prepared);
        true
    }

    /// Forgets what is dead.
    fn sweep(&mut self) {
        let (count, text) = (&mut self.count, &mut self.text);
        self.statements.retain(|_, candidates| {
            candidates.retain(|one| one.keep(count, text));
            !candidates.is_empty()
        });
    }

    /// The same for SQL PREPARE, which may be sent again and again.
    pub(super) fn add_again(&mut self, name: &[u8], prepared: Arc<Prepared>, limits: &Limits) -> bool {
        let same = |one: &&Arc<Prepared>| one.text == prepared.text && one.script == prepared.script;
        if let Some(old) = self.candidates(name).find(same) {
            old.kill();
        }
        self.add(name, prepared, limits)
    }

    /// A Parse succeeded: its name was free before, or is the unnamed one.
    pub(super) fn prepared(&mut self, prepared: &Arc<Prepared>) {
        let order = prepared.order;
        prepared.made.store(true, Ordering::Relaxed);
        let holder = self.statements.values().find(|candidates| {
            candidates.len() > 1 && candidates.iter().any(|one| Arc::ptr_eq(one, prepared))
        });
        for one in holder.into_iter().flatten().filter(|one| one.order < order) {
            one.kill();
        }
    }

    /// A text of one statement was run with this command tag; it may have freed names.
    pub(super) fn tag(&mut self, tag: &[u8], prepares: &[String], order: u64) {
        match tag {
            b"DEALLOCATE ALL" | b"DISCARD ALL" => self.close(None, order),
            b"PREPARE" => {
                for name in prepares {
                    self.close(Some(name.as_bytes()), order);
                    // The one that this text made has the place behind the text's own.
                    self.candidates(name.as_bytes())
                        .filter(|one| one.order == order + 1)
                        .for_each(|one| one.made.store(true, Ordering::Relaxed));
                }
            }
            b"DECLARE CURSOR" => {
                let cursors = self.cursors.iter().filter(|one| one.order == order);
                cursors.for_each(|one| one.made.store(true, Ordering::Relaxed));
            }
            _ => {}
        }
    }

    /// A text of one statement, read as `order`, failed: the PREPARE in it made nothing.
    pub(super) fn not_prepared(&self, name: &str, order: u64) {
        let made = |one: &&Arc<Prepared>| one.epoch.is_none() && one.order == order + 1;
        self.candidates(name.as_bytes()).filter(made).for_each(|one| one.kill());
    }

    /// What may run under `name`.
    pub(super) fn candidates(&self, name: &[u8]) -> impl Iterator<Item = &Arc<Prepared>> {
        self.statements.get(key(name)).into_iter().flatten().filter(|one| one.alive())
    }

    /// `name` is free of all that came before `order`; with no name, all names are.
    pub(super) fn close(&mut self, name: Option<&[u8]>, order: u64) {
        let kill = |candidates: &Vec<Arc<Prepared>>| {
            candidates.iter().filter(|one| one.order < order).for_each(|one| one.kill());
        };
        match name {
            Some(name) => {
                if let Some(candidates) = self.statements.get(key(name)) {
                    kill(candidates);
                }
            }
            None => self.statements.values().for_each(kill),
        }
    }

    /// Nothing that came after `order` was sent after all.
    pub(super) fn take_back(&mut self, order: u64) {
        for prepared in self.statements.values().flatten().filter(|one| one.order > order) {
            prepared.kill();
        }
        for portal in self.portals.values().flatten().filter(|one| one.order > order) {
            portal.kill();
        }
    }

    /// Code was run that may have made and freed names: those that SQL makes, or `all`.
    pub(super) fn hide(&mut self, all: bool) {
        self.hidden_sql = self.next_order();
        if all {
            self.hidden = self.hidden_sql;
        }
    }

    /// When code was run that may have made and freed names.
    pub(super) fn hidden(&self) -> (u64, u64) {
        (self.hidden, self.hidden_sql)
    }

    /// What was noted since was not run after all.
    pub(super) fn not_hidden(&mut self, before: (u64, u64)) {
        (self.hidden, self.hidden_sql) = before;
    }

    /// Whether what `prepared` was made under is it, whatever code was run.
    fn certain(prepared: &Prepared, hidden: u64) -> bool {
        hidden == 0 || prepared.order > hidden && prepared.made.load(Ordering::Relaxed)
    }

    /// A Bind may run something else than the statements of that name that are known.
    pub(super) fn bound_to_unknown(&self, name: &[u8], statements: &[Arc<Prepared>], epoch: u64) -> bool {
        // No SQL can name the unnamed one, and a Parse since the last Sync has succeeded or the Bind will
        // not run.
        let certain = |one: &Arc<Prepared>| {
            name.is_empty()
                || Self::certain(one, self.hidden)
                || one.order > self.hidden && one.epoch == Some(epoch)
        };
        statements.is_empty() || !statements.iter().all(certain)
    }

    /// A portal is to be bound; `false` when there is no room.
    pub(super) fn open(&mut self, name: &[u8], portal: Arc<Portal>, limits: &Limits) -> bool {
        let name = key(name);
        if let Some(candidates) = self.portals.get_mut(name) {
            candidates.retain(|one| one.alive());
            candidates.push(portal);
            return true;
        }
        if self.portals.len() >= limits.prepared {
            self.portals.retain(|_, candidates| candidates.iter().any(|one| one.alive()));
        }
        let room = self.portals.len() < limits.prepared;
        if room {
            self.portals.insert(name.into(), vec![portal]);
        }
        room
    }

    /// A Bind succeeded: its name was free before, or is the unnamed one.
    pub(super) fn bound(&mut self, portal: &Arc<Portal>) {
        let holder = self
            .portals
            .values()
            .find(|candidates| candidates.len() > 1 && candidates.iter().any(|one| Arc::ptr_eq(one, portal)));
        let older = |one: &&Arc<Portal>| one.order < portal.order;
        holder.into_iter().flatten().filter(older).for_each(|one| one.kill());
    }

    /// The portal `name` is closed, unless it was bound after `before`.
    pub(super) fn close_portal(&mut self, name: &[u8], before: u64) {
        if let Some(candidates) = self.portals.get(key(name)) {
            candidates.iter().filter(|one| one.order < before).for_each(|one| one.kill());
        }
    }

    /// A cursor was declared; `false` when there is no room.
    pub(super) fn declare(&mut self, cursor: Arc<Prepared>, limits: &Limits) -> bool {
        let same = |one: &&mut Arc<Prepared>| one.text == cursor.text && one.script == cursor.script;
        if let Some(old) = self.cursors.iter_mut().find(same) {
            *old = cursor;
            return true;
        }
        let room =
            self.cursors.len() < limits.prepared && self.text + cursor.text.len() <= limits.prepared_text;
        if room {
            self.text += cursor.text.len();
            self.cursors.push(cursor);
        }
        room
    }

    /// Every cursor that was ever declared under `name`; whether it was closed is not followed.
    fn cursors(&self, name: &[u8]) -> impl Iterator<Item = &Arc<Prepared>> {
        let of = |cursor: &Prepared| cursor.script.statements.first().and_then(|one| one.cursor.clone());
        self.cursors.iter().filter(move |cursor| of(cursor).is_some_and(|own| own.as_bytes() == key(name)))
    }

    /// What an Execute or Describe of a portal or cursor finds, with `epoch` Syncs sent before it.
    ///
    /// As with [`Names::bindable`], a Bind since the last Sync settles which portal it is.
    pub(super) fn find(&self, name: &[u8], epoch: u64) -> Found {
        let candidates = self.portals.get(key(name)).map(Vec::as_slice).unwrap_or_default();
        let settled = candidates.iter().rposition(|one| one.alive() && one.epoch == epoch);
        let candidates = candidates.get(settled.unwrap_or(0)..).unwrap_or_default();
        let alive = candidates.iter().filter(|one| one.alive());
        let mut found = Found { portals: alive.cloned().collect(), ..Found::default() };
        for portal in &found.portals {
            found.unknown |= portal.unknown || portal.order < self.hidden;
            found.statements.extend(portal.statements.iter().cloned());
        }
        for cursor in self.cursors(name) {
            found.unknown |= !Self::certain(cursor, self.hidden_sql);
            found.statements.push(Arc::clone(cursor));
        }
        found.unknown |= found.statements.is_empty();
        found
    }

    /// What a Bind of `name` may take, with `epoch` Syncs sent before it.
    ///
    /// A Parse since the last Sync settles it: had it failed, the Bind would be skipped as well. What was
    /// prepared before it is out of the question then.
    pub(super) fn bindable(&self, name: &[u8], epoch: u64) -> Vec<Arc<Prepared>> {
        let candidates = self.statements.get(key(name)).map(Vec::as_slice).unwrap_or_default();
        let settled = candidates.iter().rposition(|one| one.alive() && one.epoch == Some(epoch));
        let candidates = candidates.get(settled.unwrap_or(0)..).unwrap_or_default();
        candidates.iter().filter(|one| one.alive()).cloned().collect()
    }

    /// What runs as number `index` of any of these.
    pub(super) fn running<'a>(&'a self, candidates: &'a [Arc<Prepared>], index: usize) -> Running<'a> {
        let mut running = Running { unknown: candidates.is_empty(), ..Running::default() };
        for prepared in candidates {
            self.expand(prepared, index, 0, &mut running);
        }
        running
    }

    /// The same for a single candidate.
    pub(super) fn running_one<'a>(&'a self, prepared: &'a Prepared, index: usize) -> Running<'a> {
        let mut running = Running::default();
        self.expand(prepared, index, 0, &mut running);
        running
    }

    /// Adds a statement and what it runs by name.
    fn expand<'a>(&'a self, prepared: &'a Prepared, index: usize, depth: usize, running: &mut Running<'a>) {
        let Some(statement) = prepared.script.at(index).filter(|_| depth < MOST_NESTED) else {
            running.unknown = true;
            return;
        };
        running.statements.push(statement);
        for name in &statement.executes {
            let before = running.statements.len();
            for candidate in self.candidates(name.as_bytes()) {
                running.unknown |= !Self::certain(candidate, self.hidden_sql);
                self.expand(candidate, 0, depth + 1, running);
            }
            running.unknown |= running.statements.len() == before;
        }
        if let Some(name) = &statement.cursor
            && statement.kinds.contains(&Kind::Fetch)
        {
            let name = name.as_bytes();
            let portals = self.portals.get(key(name)).into_iter().flatten().filter(|one| one.alive());
            let before = running.statements.len();
            for portal in portals {
                running.unknown |= portal.unknown || portal.order < self.hidden;
                for prepared in &portal.statements {
                    self.expand(prepared, 0, depth + 1, running);
                }
            }
            for cursor in self.cursors(name) {
                running.unknown |= !Self::certain(cursor, self.hidden_sql);
                self.expand(cursor, 0, depth + 1, running);
            }
            running.unknown |= running.statements.len() == before;
        }
    }

    /// All portals but cursors end with their transaction.
    pub(super) fn transaction_ended(&mut self) {
        // The unnamed one is kept to be found again without a new entry.
        if self.portals.len() > 1 {
            self.portals.retain(|name, _| name.is_empty());
        }
    }
}
