//! How much of the agent one user can take up: flows, and threads that look at processes.
//!
//! What /proc shows of a process is read from its memory and its files, and these can be such that whoever
//! reads them waits for ever (a file system of the user's own). So that nobody waits for another user's,
//! each has a share.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::sync::Semaphore;

use super::Agent;
use crate::identity::{Known, Subject};

/// File descriptors that a flow may take: to the client, to the server, and one to spare.
const FDS_PER_FLOW: u64 = 3;
/// File descriptors that flows leave alone: maps, listeners, recordings, and whatever is open for a moment.
const FDS_KEPT: u64 = 256;
/// Threads that look at the processes of one user at once.
const READERS: usize = 32;
/// How long looking at a process may take, and waiting for one's turn.
const PATIENCE: Duration = Duration::from_secs(10);
/// Users whose shares are remembered while they use none of them.
const USERS: usize = 1024;
/// How often a log line of the same kind is written at most.
const QUIET: Duration = Duration::from_secs(1);

/// Flows that are open, by user.
#[derive(Debug)]
pub(super) struct Admission {
    most: usize,
    most_of_one: usize,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    total: usize,
    by_user: HashMap<u32, usize>,
    told: Option<Instant>,
}

/// A flow that has been let in. It counts until this is dropped.
#[derive(Debug)]
pub(super) struct Admitted {
    admission: Arc<Admission>,
    uid: u32,
}

impl Admission {
    /// Lets in as many flows as there are file descriptors for; the limit on these is raised as far as it
    /// goes. No user but root gets more than half of them.
    pub(super) fn new() -> Self {
        let limit = getrlimit(Resource::Nofile);
        let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
        let fds = match setrlimit(Resource::Nofile, raised) {
            Ok(()) => limit.maximum,
            Err(_) => limit.current,
        };
        // No limit at all is as good as any that is never reached.
        let flows = fds.unwrap_or(1 << 20).saturating_sub(FDS_KEPT) / FDS_PER_FLOW;
        Self::with(usize::try_from(flows).unwrap_or(usize::MAX).max(2))
    }

    fn with(most: usize) -> Self {
        Self { most, most_of_one: most / 2, open: Mutex::default() }
    }

    /// Lets a user's flow in, or not.
    pub(super) fn admit(self: &Arc<Self>, uid: u32) -> Option<Admitted> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let own = open.by_user.get(&uid).copied().unwrap_or(0);
        let most_of_one = if uid == 0 { self.most } else { self.most_of_one };
        if open.total >= self.most || own >= most_of_one {
            if open.told.is_none_or(|told| told.elapsed() >= QUIET) {
                open.told = Some(Instant::now());
                tracing::warn!(
                    uid,
                    open = open.total,
                    of_this_user = own,
                    most = self.most,
                    "flows are refused: too many are open (raise LimitNOFILE= of the agent's unit)"
                );
            }
            return None;
        }
        open.total += 1;
        open.by_user.insert(uid, own + 1);
        Some(Admitted { admission: Arc::clone(self), uid })
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let mut open = self.admission.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.total = open.total.saturating_sub(1);
        match open.by_user.get_mut(&self.uid) {
            Some(own) if *own > 1 => *own -= 1,
            _ => drop(open.by_user.remove(&self.uid)),
        }
    }
}

/// Each user's share of the threads that look at processes.
#[derive(Debug, Default)]
pub(super) struct Readers(Mutex<HashMap<u32, Arc<Semaphore>>>);

impl Readers {
    pub(super) fn of(&self, uid: u32) -> Arc<Semaphore> {
        let mut users = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if users.len() >= USERS {
            users
                .retain(|_, readers| Arc::strong_count(readers) > 1 || readers.available_permits() < READERS);
        }
        Arc::clone(users.entry(uid).or_insert_with(|| Arc::new(Semaphore::new(READERS))))
    }
}

impl Agent {
    /// Looks at a process. `None` when that takes too long: the process, or others of its user, are such
    /// that whoever reads them waits.
    pub(super) async fn identify(&self, known: Known) -> Option<Subject> {
        let readers = self.readers.of(known.uid);
        let identity = Arc::clone(&self.identity);
        let looked = tokio::time::timeout(PATIENCE, async move {
            let permit = readers.acquire_owned().await.ok()?;
            tokio::task::spawn_blocking(move || {
                let subject = identity.subject(&known);
                drop(permit);
                subject
            })
            .await
            .ok()
        })
        .await;
        looked.ok().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_user_gets_half_and_gives_back() {
        let admission = Arc::new(Admission::with(4));
        let mut held = vec![admission.admit(1000).unwrap(), admission.admit(1000).unwrap()];
        assert!(admission.admit(1000).is_none());
        held.push(admission.admit(1001).unwrap());
        held.push(admission.admit(0).unwrap());
        assert!(admission.admit(1001).is_none() && admission.admit(0).is_none(), "all are taken");
        held.remove(0);
        held.push(admission.admit(1000).unwrap());
        held.clear();
        let open = admission.open.lock().unwrap();
        assert!(open.total == 0 && open.by_user.is_empty());
    }

    #[test]
    fn shares_in_use_are_not_forgotten() {
        let readers = Readers::default();
        let held = readers.of(1).try_acquire_owned().unwrap();
        for uid in 2..3 * USERS as u32 {
            readers.of(uid);
        }
        assert_eq!(readers.of(1).available_permits(), READERS - 1);
        drop(held);
        assert!(readers.0.lock().unwrap().len() <= USERS + 1);
    }
}
