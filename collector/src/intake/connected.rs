//! The agents that are there now.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use interlock_shipping::v1::EndSession;
use tokio::sync::{mpsc, watch};

/// The agents that are there now, and word of what they bring.
#[derive(Debug)]
pub struct Connected {
    agents: Mutex<HashMap<String, Call>>,
    /// One for each host that ever came: what it ships is taken in one call at a time.
    turns: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
    calls: AtomicU64,
    changed: watch::Sender<u64>,
}

/// What the call of an agent is to do.
#[derive(Debug)]
pub(super) enum Errand {
    /// Tell it to end a session.
    End(EndSession),
    /// Tell it what was decided on its requests for approval.
    Votes,
}

#[derive(Debug)]
struct Call {
    number: u64,
    commands: mpsc::Sender<Errand>,
}

/// An agent's place among those that are there; it leaves when this is dropped.
#[derive(Debug)]
pub(super) struct Presence<'c> {
    connected: &'c Connected,
    host: String,
    number: u64,
}

impl Default for Connected {
    fn default() -> Self {
        Self {
            agents: Mutex::default(),
            turns: Mutex::default(),
            calls: AtomicU64::new(0),
            changed: watch::channel(0).0,
        }
    }
}

impl Connected {
    /// Takes an agent in. The call that it had before ends: its commands' receiver closes.
    pub(super) fn enter(&self, host: &str, commands: mpsc::Sender<Errand>) -> Presence<'_> {
        let number = self.calls.fetch_add(1, Ordering::Relaxed);
        if let Ok(mut agents) = self.agents.lock() {
            agents.insert(host.to_owned(), Call { number, commands });
        }
        Presence { connected: self, host: host.to_owned(), number }
    }

    /// The turn of a host: whoever holds it takes in what the host ships, and nobody else.
    pub(super) fn turn(&self, host: &str) -> Arc<tokio::sync::Mutex<()>> {
        match self.turns.lock() {
            Ok(mut turns) => Arc::clone(turns.entry(host.to_owned()).or_default()),
            Err(_) => Arc::default(),
        }
    }

    /// Whether an agent is there.
    pub fn is_there(&self, host: &str) -> bool {
        self.agents.lock().is_ok_and(|agents| agents.contains_key(host))
    }

    /// How many agents are there.
    pub fn count(&self) -> usize {
        self.agents.lock().map_or(0, |agents| agents.len())
    }

    /// Asks an agent to end a session; gives whether it was told.
    pub fn end_session(&self, host: &str, session: [u8; 16], reason: &str) -> bool {
        let end = EndSession { session: session.to_vec(), reason: reason.to_owned() };
        self.send(host, Errand::End(end))
    }

    /// Has an agent told what was decided on its requests; gives whether it is there.
    pub fn tell_votes(&self, host: &str) -> bool {
        self.send(host, Errand::Votes)
    }

    fn send(&self, host: &str, command: Errand) -> bool {
        self.agents
            .lock()
            .is_ok_and(|agents| agents.get(host).is_some_and(|call| call.commands.try_send(command).is_ok()))
    }

    /// Ends an agent's call: it is not let in any more.
    pub fn end(&self, host: &str) {
        if let Ok(mut agents) = self.agents.lock() {
            agents.remove(host);
        }
    }

    /// Changes whenever something was taken in.
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Says that something was taken in, or found.
    pub(crate) fn change(&self) {
        self.changed.send_modify(|count| *count += 1);
    }
}

impl Drop for Presence<'_> {
    fn drop(&mut self) {
        if let Ok(mut agents) = self.connected.agents.lock()
            && agents.get(&self.host).is_some_and(|call| call.number == self.number)
        {
            agents.remove(&self.host);
        }
    }
}
