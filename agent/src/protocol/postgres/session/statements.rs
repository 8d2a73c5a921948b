//! The statements and portals that a session has made, by protocol and by SQL.
//!
//! On the server both ways share one namespace, so they do here. Whether a PREPARE or Parse succeeded is
//! known only later (a pipeline may hold many of them), so a name can have several candidates, and what
//! runs under it is judged as the strictest of them.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use crate::policy::Decision;
use crate::protocol::Limits;
use crate::record::CommandId;
use crate::sql::{Kind, Script, Secrets, Statement};

use super::masking::RowPlan;

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
    /// Where in the text secrets stand.
    pub(super) secrets: Secrets,
    /// What it does.
    pub(super) script: Arc<Script>,
    /// Parameter types: as Parse fixed them, then as the server says.
    pub(super) types: OnceLock<Box<[u32]>>,
    /// It failed, or was replaced or closed.
    pub(super) dead: AtomicBool,
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
            secrets: Secrets::of(&statement.text),
            script: Arc::new(Script { statements: vec![statement.clone()] }),
            types: OnceLock::new(),
            dead: AtomicBool::new(false),
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
    /// Those of its parameters that are secrets.
    pub(super) secrets: Box<[String]>,
    /// Which policies it was judged under.
    pub(super) generation: u64,
    /// It was run before.
    pub(super) executed: AtomicBool,
    /// Its columns have been asked for.
    pub(super) described: AtomicBool,
    /// Its columns, once the server has described them. They do not change in a portal's life.
    pub(super) plan: OnceLock<Arc<RowPlan>>,
}

impl Portal {
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
    portals: HashMap<Box<[u8]>, Arc<Portal>>,
    /// What DECLARE CURSOR has opened, whatever its name.
    cursors: Vec<Arc<Prepared>>,
    order: u64,
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
            b"PREPARE" => prepares.iter().for_each(|name| self.close(Some(name.as_bytes()), order)),
            _ => {}
        }
    }

    /// What may run under `name`.
    pub(super) fn candidates(&self, name: &[u8]) -> impl Iterator<Item = &Arc<Prepared>> {
        self.statements.get(name).into_iter().flatten().filter(|one| one.alive())
    }

    /// `name` is free of all that came before `order`; with no name, all names are.
    pub(super) fn close(&mut self, name: Option<&[u8]>, order: u64) {
        let kill = |candidates: &Vec<Arc<Prepared>>| {
            candidates.iter().filter(|one| one.order < order).for_each(|one| one.kill());
        };
        match name {
            Some(name) => {
                if let Some(candidates) = self.statements.get(name) {
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
    }

    /// A portal was bound; `false` when there is no room.
    pub(super) fn open(&mut self, name: &[u8], portal: Arc<Portal>, limits: &Limits) -> bool {
        if let Some(old) = self.portals.get_mut(name) {
            *old = portal;
            return true;
        }
        let room = self.portals.len() < limits.prepared;
        if room {
            self.portals.insert(name.into(), portal);
        }
        room
    }

    /// A cursor was declared; `false` when there is no room.
    pub(super) fn declare(&mut self, cursor: Arc<Prepared>, limits: &Limits) -> bool {
        let same = |one: &Arc<Prepared>| one.text == cursor.text && one.script == cursor.script;
        if self.cursors.iter().any(same) {
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

    /// Every cursor that was declared. Their names are not followed: what may be open is judged and
    /// masked as any of them.
    pub(super) fn cursors(&self) -> &[Arc<Prepared>] {
        &self.cursors
    }

    /// What a Bind of `name` may take, with `epoch` Syncs sent before it.
    ///
    /// A Parse since the last Sync settles it: had it failed, the Bind would be skipped as well. What was
    /// prepared before it is out of the question then.
    pub(super) fn bindable(&self, name: &[u8], epoch: u64) -> Vec<Arc<Prepared>> {
        let candidates = self.statements.get(name).map(Vec::as_slice).unwrap_or_default();
        let settled = candidates.iter().rposition(|one| one.alive() && one.epoch == Some(epoch));
        let candidates = candidates.get(settled.unwrap_or(0)..).unwrap_or_default();
        candidates.iter().filter(|one| one.alive()).cloned().collect()
    }

    /// Adds to `all` a statement, or what it runs by name.
    pub(super) fn expand<'a>(&'a self, statement: &'a Statement, all: &mut Vec<&'a Statement>) {
        if let Some(name) = &statement.executes {
            all.extend(self.candidates(name.as_bytes()).flat_map(|prepared| &prepared.script.statements));
        }
        if statement.kinds.contains(&Kind::Fetch) {
            all.extend(self.cursors.iter().flat_map(|cursor| &cursor.script.statements));
        }
        all.push(statement);
    }

    /// A portal by name.
    pub(super) fn portal(&self, name: &[u8]) -> Option<&Arc<Portal>> {
        self.portals.get(name)
    }

    /// All portals but cursors end with their transaction.
    pub(super) fn transaction_ended(&mut self) {
        // The unnamed one is kept to be found again without a new entry.
        if self.portals.len() > 1 {
            self.portals.retain(|name, _| name.is_empty());
        }
    }
}
