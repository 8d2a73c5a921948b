//! Tells running flows who stands behind them as that changes.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::{Logins, Place, Seat};
use crate::identity::{IdentityKind, LiveSubject};

/// A flow that is told.
#[derive(Debug)]
pub(super) struct Watch {
    seat: Seat,
    live: Weak<LiveSubject>,
    /// One at a time looks and tells: the last one to look is the last one to tell.
    turn: Mutex<()>,
}

/// A flow is told as long as this lives.
#[derive(Debug)]
pub struct Watched {
    logins: Weak<Logins>,
    id: u64,
}

impl Drop for Watched {
    fn drop(&mut self) {
        if let Some(logins) = self.logins.upgrade() {
            logins.watches.lock().unwrap_or_else(PoisonError::into_inner).all.remove(&self.id);
        }
    }
}

impl Watch {
    fn tell(&self, logins: &Logins) {
        let Some(live) = self.live.upgrade() else { return };
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let person = logins.person(&self.seat);
        let why = logins.why_nobody(person.is_some());
        live.set(IdentityKind::Person, person, &why);
    }
}

impl Logins {
    /// Has a flow of the process at `seat` told from now on, and at once.
    pub fn watch(self: &Arc<Self>, seat: Seat, live: &Arc<LiveSubject>) -> Option<Watched> {
        if !self.is_offered() {
            return None;
        }
        let watch = Arc::new(Watch { seat, live: Arc::downgrade(live), turn: Mutex::default() });
        let id = {
            let mut watches = self.watches.lock().unwrap_or_else(PoisonError::into_inner);
            watches.last += 1;
            let id = watches.last;
            watches.all.insert(id, Arc::clone(&watch));
            id
        };
        // What has changed since its subject was made up is not missed.
        watch.tell(self);
        Some(Watched { logins: Arc::downgrade(self), id })
    }

    /// Why no person stands behind a flow, in the words of [`Subject::missing`].
    ///
    /// [`Subject::missing`]: crate::identity::Subject::missing
    pub fn why_nobody(&self, somebody: bool) -> Vec<String> {
        if somebody || !self.is_offered() {
            return Vec::new();
        }
        vec![
            "person: nobody has signed in for this login session or process tree; run `interlock login`"
                .to_owned(),
        ]
    }

    /// Who is signed in at a place has changed: the flows there know when this returns.
    pub(super) fn tell(&self, place: Place) {
        let concerned = |watch: &Arc<Watch>| match place {
            Place::Session { session, login_uid } => watch.seat.login == Some((session, login_uid)),
            // Whose tree it was can no longer be told once its root has ended.
            Place::Tree { .. } => true,
        };
        let watches: Vec<Arc<Watch>> = {
            let watches = self.watches.lock().unwrap_or_else(PoisonError::into_inner);
            watches.all.values().filter(|watch| concerned(watch)).cloned().collect()
        };
        watches.iter().for_each(|watch| watch.tell(self));
    }
}
