//! Whether a bundle's sessions are there from their first event to their last.

use std::collections::BTreeMap;

use crate::SessionId;
use crate::chain::Hash;
use crate::proto::Event;
use crate::proto::event::Body;
use crate::verify::session_step;

/// Follows the chosen sessions through the segments, which are given in order.
#[derive(Debug)]
pub(super) struct Sessions {
    chosen: BTreeMap<Hash, BTreeMap<SessionId, Session>>,
}

/// What is known of a session.
#[derive(Debug, Default)]
pub(super) struct Session {
    due: Option<u64>,
    pub(super) begun: bool,
    /// Why it ended. One that the agent's own end cut off has no such event.
    pub(super) ended: Option<String>,
    /// The agent started again after its last event: there is no more of it.
    pub(super) cut_off: bool,
    pub(super) wrong: Option<String>,
    pub(super) events: u64,
    pub(super) commands: u64,
    pub(super) started_ns: u64,
    pub(super) last_ns: u64,
    pub(super) segments: (u64, u64),
}

impl Session {
    fn open(&self) -> bool {
        self.begun && self.ended.is_none() && !self.cut_off
    }
}

impl Sessions {
    pub(super) fn new(chosen: impl IntoIterator<Item = (Hash, SessionId)>) -> Self {
        let mut hosts: BTreeMap<Hash, BTreeMap<SessionId, Session>> = BTreeMap::new();
        for (host, session) in chosen {
            hosts.entry(host).or_default().insert(session, Session::default());
        }
        Self { chosen: hosts }
    }

    fn open(&mut self, host: &Hash) -> impl Iterator<Item = &mut Session> {
        self.chosen.get_mut(host).into_iter().flat_map(BTreeMap::values_mut).filter(|session| session.open())
    }

    /// A segment begins that does not go on where the one before in the bundle ends.
    pub(super) fn gap(&mut self, host: &Hash) {
        for session in self.open(host) {
            let wrong = "it goes on, and the segments in which it could are not all there";
            session.wrong.get_or_insert_with(|| wrong.into());
        }
    }

    /// Takes the host's next event; tells whether it is one of a chosen session.
    pub(super) fn event(&mut self, host: &Hash, segment: u64, event: &Event) -> bool {
        if matches!(event.body, Some(Body::AgentStarted(_))) {
            // No session outlives its agent.
            self.open(host).for_each(|session| session.cut_off = true);
        }
        let Some(id) = SessionId::from_slice(&event.session) else { return false };
        let Some(session) = self.chosen.get_mut(host).and_then(|sessions| sessions.get_mut(&id)) else {
            return false;
        };
        let step = if session.ended.is_some() || session.cut_off {
            Err("it goes on after its end".to_owned())
        } else {
            session_step(session.due, event)
        };
        match step {
            Ok(due) => session.due = due,
            Err(why) => {
                session.wrong.get_or_insert(why);
            }
        }
        if !session.begun {
            session.begun = true;
            session.started_ns = event.wall_ns;
            session.segments.0 = segment;
        }
        session.segments.1 = segment;
        session.last_ns = event.wall_ns;
        session.events += 1;
        match &event.body {
            Some(Body::Command(_)) => session.commands += 1,
            Some(Body::SessionEnded(end)) => session.ended = Some(end.reason.clone()),
            _ => {}
        }
        true
    }

    /// The sessions, and what is wrong with each.
    pub(super) fn finish(self) -> impl Iterator<Item = (Hash, SessionId, Session)> {
        let sessions = |(host, sessions): (Hash, BTreeMap<SessionId, Session>)| {
            sessions.into_iter().map(move |(id, session)| (host, id, session))
        };
        self.chosen.into_iter().flat_map(sessions).map(|(host, id, mut session)| {
            if !session.begun {
                session.wrong = Some("no event of it is there".into());
            } else if session.open() {
                session.wrong.get_or_insert_with(|| "its end is not there".into());
            }
            (host, id, session)
        })
    }
}
