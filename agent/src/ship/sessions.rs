//! The sessions that are going on, by their names, so that one can be ended from the collector.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use interlock_recording::SessionId;
use tokio::sync::watch;

/// A reviewer's reason is cut to so many characters.
const LONGEST_REASON: usize = 500;

type Reason = Option<Arc<str>>;

/// All sessions that can be ended.
#[derive(Debug, Default)]
pub struct Sessions(Mutex<HashMap<SessionId, watch::Sender<Reason>>>);

/// Keeps a session among them.
#[derive(Debug)]
pub struct Registered {
    sessions: Arc<Sessions>,
    id: SessionId,
}

impl Sessions {
    fn lock(&self) -> MutexGuard<'_, HashMap<SessionId, watch::Sender<Reason>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a session, for as long as the first of what is given back lives. The second gets the reason
    /// when the session is to end.
    pub fn register(self: &Arc<Self>, id: SessionId) -> (Registered, watch::Receiver<Reason>) {
        let (sender, receiver) = watch::channel(None);
        self.lock().insert(id, sender);
        (Registered { sessions: Arc::clone(self), id }, receiver)
    }

    /// Has a session end; gives whether it was there. Of the reason, which comes from another host, only
    /// what can be shown is left.
    pub fn end(&self, id: SessionId, reason: &str) -> bool {
        let reason: String = reason.chars().filter(|c| !c.is_control()).take(LONGEST_REASON).collect();
        let reason = if reason.trim().is_empty() { "no reason was given" } else { reason.trim() };
        let sessions = self.lock();
        let Some(sender) = sessions.get(&id) else { return false };
        // The first reason counts.
        sender.send_if_modified(|current| {
            let first = current.is_none();
            current.get_or_insert_with(|| reason.into());
            first
        });
        true
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.sessions.lock().remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_ended_once_and_only_while_it_is_there() {
        let sessions = Arc::new(Sessions::default());
        let id = SessionId::new(1, [2; 10]);
        assert!(!sessions.end(id, "too early"));
        let (registered, reason) = sessions.register(id);
        assert!(!sessions.end(SessionId::new(2, [2; 10]), "another"));
        assert!(reason.borrow().is_none());
        assert!(sessions.end(id, &format!(" leaked\u{1b}[2J\n{}", "x".repeat(9000))));
        assert!(sessions.end(id, "again"));
        let told = reason.borrow().clone().unwrap();
        assert!(told.starts_with("leaked[2Jxxx") && told.len() <= LONGEST_REASON, "{told}");
        drop(registered);
        assert!(!sessions.end(id, "too late"));
        let (_registered, reason) = sessions.register(id);
        sessions.end(id, "\n");
        assert_eq!(reason.borrow().as_deref(), Some("no reason was given"));
    }
}
