//! The agents that are there now.

use std::collections::HashMap;
use std::sync::Mutex;

use interlock_shipping::v1::EndSession;
use tokio::sync::{mpsc, watch};

/// The agents that are there now, and word of what they bring.
#[derive(Debug)]
pub struct Connected {
    agents: Mutex<HashMap<String, Call>>,
    changed: watch::Sender<u64>,
}

#[derive(Debug)]
struct Call {
    number: u64,
    commands: mpsc::Sender<EndSession>,
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
        Self { agents: Mutex::default(), changed: watch::channel(0).0 }
    }
}

impl Connected {
    /// Takes an agent in. The call that it had before ends: its commands' receiver closes.
    pub(super) fn enter(&self, host: &str, commands: mpsc::Sender<EndSession>) -> Presence<'_> {
        let mut number = 0;
        if let Ok(mut agents) = self.agents.lock() {
            number = agents.get(host).map_or(0, |call| call.number + 1);
            agents.insert(host.to_owned(), Call { number, commands });
        }
        Presence { connected: self, host: host.to_owned(), number }
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
        let command = EndSession { session: session.to_vec(), reason: reason.to_owned() };
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
