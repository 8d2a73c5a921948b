//! Tokens belong to who showed them first.

use jiff::Timestamp;
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

/// Most tokens that are bound at a time.
const MAX_BOUND: usize = 20_000;

/// Most of them that one user's processes hold: nobody else is shut out by them.
const MAX_OF_USER: usize = 1000;

/// A process, for good: process ids are used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Process {
    pub(super) pid: i32,
    /// Clock ticks since boot.
    pub(super) start: u64,
}

/// Who holds a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Holder {
    /// A process tree: the topmost process that has it in its environment.
    Tree {
        top: Process,
        /// What has started that: of a CI system the runner, which may start one process after the other for
        /// a job.
        parent: Process,
        uid: u32,
        cgroup: String,
    },
    /// Whoever sees the file that it is in.
    Container(String),
}

/// Why a token does not count for a process.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refused {
    /// Others hold it.
    #[error("its token belongs to {0}")]
    Others(String, u32, u32),
    /// It is of a pod, and this is another one or none.
    #[error("its token belongs to the pod {0}, and this process is not known to be in it")]
    Pod(String),
    /// There are too many.
    #[error("more tokens are in use than can be told apart")]
    Full,
    /// Nobody holds it yet, and others show it as well.
    #[error(
        "its token stands in the environment of the processes below {0} of user {1} as well, so nobody can \
         tell whose it is: it counts for neither until one of them has ended"
    )]
    Several(u32, u32),
}

impl Refused {
    /// The process at the top of the tree that holds it, and its user.
    pub(super) fn owner(&self) -> Option<(u32, u32)> {
        match self {
            Self::Others(_, pid, uid) | Self::Several(pid, uid) => Some((*pid, *uid)),
            Self::Pod(_) => Some((0, 0)),
            Self::Full => None,
        }
    }
}

/// Which tokens belong to whom.
#[derive(Debug, Default)]
pub(super) struct Bindings(Mutex<HashMap<String, Bound>>);

#[derive(Debug)]
struct Bound {
    holder: Holder,
    /// Whose share of the room it takes.
    uid: u32,
    until: Timestamp,
}

impl Holder {
    /// What `other` holds is this one's, too.
    pub(super) fn shares_with(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Container(own), Self::Container(other)) => own == other,
            (
                Self::Tree { top, parent, uid, cgroup },
                Self::Tree { top: other_top, parent: other_parent, uid: other_uid, cgroup: other_cgroup },
            ) => {
                // A runner starts the steps of a job one after the other. What has lost its parent is init's
                // child, and so is everything.
                let siblings = parent == other_parent && parent.pid > 1 && parent.start > 0;
                uid == other_uid && (top == other_top || (siblings && cgroup == other_cgroup))
            }
            _ => false,
        }
    }

    /// Its topmost process has lost its parent.
    pub(super) fn is_left(&self) -> bool {
        matches!(self, Self::Tree { parent, .. } if parent.pid <= 1)
    }

    /// Nobody holds it yet, and this one shows it as well.
    pub(super) fn rivals(&self) -> Refused {
        match self {
            Self::Tree { top, uid, .. } => Refused::Several(top.pid.unsigned_abs(), *uid),
            Self::Container(_) => Refused::Several(0, 0),
        }
    }

    fn told(&self) -> Refused {
        match self {
            Self::Tree { top, uid, .. } => {
                let pid = top.pid.unsigned_abs();
                Refused::Others(format!("the processes below {pid} of user {uid}"), pid, *uid)
            }
            Self::Container(name) => Refused::Others(name.clone(), 0, 0),
        }
    }
}

impl Bindings {
    /// Whether it is bound to this one. Nothing is changed.
    pub(super) fn is_of(&self, hash: &str, holder: &Holder) -> Result<bool, Refused> {
        let bound = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match bound.get(hash).filter(|known| known.until > Timestamp::now()) {
            Some(known) if known.holder.shares_with(holder) => Ok(true),
            Some(known) => Err(known.holder.told()),
            None => Ok(false),
        }
    }

    /// Binds a token until it ends, unless others hold it. `uid` is the user of who shows it.
    pub(super) fn bind(
        &self,
        hash: &str,
        until: Timestamp,
        holder: &Holder,
        uid: u32,
    ) -> Result<(), Refused> {
        let now = Timestamp::now();
        let mut bound = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = bound.get_mut(hash).filter(|known| known.until > now) {
            if !known.holder.shares_with(holder) {
                return Err(known.holder.told());
            }
            known.until = known.until.max(until);
            return Ok(());
        }
        let is_full = |bound: &HashMap<String, Bound>| {
            bound.len() >= MAX_BOUND || bound.values().filter(|known| known.uid == uid).count() >= MAX_OF_USER
        };
        if is_full(&bound) {
            bound.retain(|_, known| known.until > now);
            // What still counts is not given up: who has filled the room would get at others' tokens.
            if is_full(&bound) {
                return Err(Refused::Full);
            }
        }
        bound.insert(hash.to_owned(), Bound { holder: holder.clone(), uid, until });
        Ok(())
    }
}

#[cfg(test)]
impl Bindings {
    pub(super) fn len(&self) -> usize {
        self.0.lock().unwrap().len()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn tree(top: i32, parent: i32, uid: u32, cgroup: &str) -> Holder {
        let process = |pid: i32| Process { pid, start: pid.unsigned_abs().into() };
        Holder::Tree { top: process(top), parent: process(parent), uid, cgroup: cgroup.to_owned() }
    }

    #[test]
    fn the_first_tree_keeps_it() {
        let bindings = Bindings::default();
        let (now, hour) = (Timestamp::now(), Duration::from_secs(3600));
        let later = now.checked_add(hour).unwrap();
        let bind = |holder: &Holder| bindings.bind("h", later, holder, 1000);
        let job = tree(10, 5, 1000, "/job");
        assert_eq!(bind(&job), Ok(()));
        assert_eq!(bind(&job), Ok(()));
        assert_eq!(bind(&tree(11, 5, 1000, "/job")), Ok(()), "the runner's next step");
        for other in [
            tree(11, 6, 1000, "/job"),
            tree(11, 5, 1000, "/other"),
            tree(11, 5, 1001, "/job"),
            tree(10, 5, 1001, "/job"),
            Holder::Container("container x".to_owned()),
        ] {
            let refused = bind(&other).unwrap_err();
            assert_eq!(refused.owner(), Some((10, 1000)), "{refused}");
        }
        // The same number, another process.
        let mut again = job;
        let Holder::Tree { top, parent, .. } = &mut again else { unreachable!() };
        (top.start, parent.start) = (99, 98);
        assert!(bind(&again).is_err());
        assert_eq!(bindings.bind("other", later, &again, 1000), Ok(()));
    }

    #[test]
    fn orphans_are_nobodys_siblings() {
        let bindings = Bindings::default();
        let later = Timestamp::now().checked_add(Duration::from_secs(60)).unwrap();
        assert_eq!(bindings.bind("h", later, &tree(10, 1, 1000, "/job"), 1000), Ok(()));
        assert!(bindings.bind("h", later, &tree(11, 1, 1000, "/job"), 1000).is_err());
    }

    #[test]
    fn what_has_ended_is_bound_anew() {
        let bindings = Bindings::default();
        let (job, other) = (tree(10, 5, 1000, "/job"), tree(20, 6, 1000, "/job"));
        let later = Timestamp::now().checked_add(Duration::from_secs(60)).unwrap();
        assert_eq!(bindings.bind("h", Timestamp::UNIX_EPOCH, &job, 1000), Ok(()));
        assert_eq!(bindings.is_of("h", &job), Ok(false));
        assert_eq!(bindings.bind("h", later, &other, 1000), Ok(()));
        assert!(bindings.bind("h", later, &job, 1000).is_err());
        assert!(bindings.is_of("h", &job).is_err());
        assert_eq!(bindings.is_of("h", &other), Ok(true));
    }

    #[test]
    fn one_user_takes_the_room_of_nobody_else() {
        let bindings = Bindings::default();
        let (now, minute) = (Timestamp::now(), Duration::from_secs(60));
        let later = now.checked_add(minute).unwrap();
        let greedy = tree(10, 5, 1000, "/job");
        for at in 0..MAX_OF_USER {
            assert_eq!(bindings.bind(&format!("h{at}"), later, &greedy, 1000), Ok(()));
        }
        assert_eq!(bindings.bind("more", later, &greedy, 1000), Err(Refused::Full));
        assert_eq!(bindings.bind("h0", later, &greedy, 1000), Ok(()), "it has that one");
        let other = tree(20, 6, 1001, "/job");
        assert_eq!(bindings.bind("more", later, &other, 1001), Ok(()));
        assert!(bindings.bind("h0", later, &other, 1001).is_err(), "nothing was given up");
    }
}
