//! The statements and portals that a session has made, by protocol and by SQL.
//!
//! On the server both ways share one namespace, so they do here. Whether a PREPARE or Parse succeeded is
//! known only later (a pipeline may hold many of them), so a name can have several candidates, and what
//! runs under it is judged as the strictest of them.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::OnceLock;

use crate::sql::Script;

/// A statement that the client asked to prepare.
#[derive(Debug)]
pub(super) struct Prepared {
    /// Its place among all of the session: what closes a name closes what came before it.
    pub(super) order: u64,
    /// The text as sent.
    pub(super) text: Arc<str>,
    /// What it does.
    pub(super) script: Arc<Script>,
    /// Parameter types: as Parse fixed them, then as the server says.
    pub(super) types: OnceLock<Box<[u32]>>,
    /// It failed, or was replaced or closed.
    pub(super) dead: AtomicBool,
}

impl Prepared {
    pub(super) fn kill(&self) {
        self.dead.store(true, Ordering::Relaxed);
    }

    fn alive(&self) -> bool {
        !self.dead.load(Ordering::Relaxed)
    }
}

/// A portal: a statement with its parameters, ready to run.
#[derive(Debug, Default)]
pub(super) struct Portal {
    /// What it may run; empty when it is not known.
    pub(super) statements: Vec<Arc<Prepared>>,
    /// Its columns were asked for.
    pub(super) described: AtomicBool,
}

/// All names of a session.
#[derive(Debug, Default)]
pub(super) struct Names {
    statements: HashMap<Box<[u8]>, Vec<Arc<Prepared>>>,
    portals: HashMap<Box<[u8]>, Arc<Portal>>,
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
    pub(super) fn add(&mut self, name: &[u8], prepared: Arc<Prepared>, most: usize, most_text: usize) -> bool {
        let candidates = match self.statements.get_mut(name) {
            Some(candidates) => candidates,
            None => self.statements.entry(name.into()).or_default(),
        };
        let (count, text) = (&mut self.count, &mut self.text);
        candidates.retain(|one| {
            if !one.alive() {
                *count -= 1;
                *text -= one.text.len();
            }
            one.alive()
        });
        if *count >= most || *text + prepared.text.len() > most_text {
            return false;
        }
        *count += 1;
        *text += prepared.text.len();
        candidates.push(prepared);
        true
    }

    /// What may run under `name`.
    pub(super) fn candidates(&self, name: &[u8]) -> impl Iterator<Item = &Arc<Prepared>> {
        self.statements.get(name).into_iter().flatten().filter(|one| one.alive())
    }

    /// `name` is free of all that came before `order`; with no name, all names are.
    pub(super) fn close(&mut self, name: Option<&[u8]>, order: u64) {
        let (count, text) = (&mut self.count, &mut self.text);
        let mut sweep = |candidates: &mut Vec<Arc<Prepared>>| {
            candidates.retain(|one| {
                let keep = one.alive() && one.order >= order;
                if !keep {
                    one.kill();
                    *count -= 1;
                    *text -= one.text.len();
                }
                keep
            });
            !candidates.is_empty()
        };
        match name {
            Some(name) => {
                if self.statements.get_mut(name).is_some_and(|candidates| !sweep(candidates)) {
                    self.statements.remove(name);
                }
            }
            None => self.statements.retain(|_, candidates| sweep(candidates)),
        }
    }

    /// A portal was bound or a cursor declared; `false` when there is no room.
    pub(super) fn open(&mut self, name: &[u8], portal: Arc<Portal>, most: usize) -> bool {
        match self.portals.get_mut(name) {
            Some(old) => *old = portal,
            None if self.portals.len() >= most => return false,
            None => {
                self.portals.insert(name.into(), portal);
            }
        }
        true
    }

    /// A portal or cursor by name.
    pub(super) fn portal(&self, name: &[u8]) -> Option<&Arc<Portal>> {
        self.portals.get(name)
    }
}
