//! Tokens belong to who showed them first.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;

/// Most tokens that are bound at a time.
const MAX_BOUND: usize = 20_000;

/// For how long something is bound that does not say when it ends.
const A_DAY: Duration = Duration::from_secs(24 * 60 * 60);

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
    /// There are too many.
    #[error("more tokens are in use than can be told apart")]
    Full,
}

impl Refused {
    /// The process at the top of the tree that holds it, and its user.
    pub(super) fn owner(&self) -> Option<(u32, u32)> {
        match self {
            Self::Others(_, pid, uid) => Some((*pid, *uid)),
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
    until: Timestamp,
}

impl Holder {
    /// What `other` holds is this one's, too.
    fn shares_with(&self, other: &Self) -> bool {
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
    /// Binds a token until it ends, unless others hold it; one that does not say when for a day.
    pub(super) fn bind(&self, hash: &str, until: Option<Timestamp>, holder: &Holder) -> Result<(), Refused> {
        let now = Timestamp::now();
        let until = until.unwrap_or_else(|| now.checked_add(A_DAY).unwrap_or(now));
        let mut bound = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = bound.get_mut(hash).filter(|known| known.until > now) {
            if !known.holder.shares_with(holder) {
                return Err(known.holder.told());
            }
            known.until = known.until.max(until);
            return Ok(());
        }
        if bound.len() >= MAX_BOUND {
            bound.retain(|_, known| known.until > now);
        }
        if bound.len() >= MAX_BOUND {
            return Err(Refused::Full);
        }
        bound.insert(hash.to_owned(), Bound { holder: holder.clone(), until });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
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
        let bind = |holder: &Holder| bindings.bind("h", Some(later), holder);
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
        let mut again = job.clone();
        let Holder::Tree { top, parent, .. } = &mut again else { unreachable!() };
        (top.start, parent.start) = (99, 98);
        assert!(bind(&again).is_err());
        assert_eq!(bindings.bind("other", Some(later), &again), Ok(()));
    }

    #[test]
    fn orphans_are_nobodys_siblings() {
        let bindings = Bindings::default();
        let later = Timestamp::now().checked_add(Duration::from_secs(60)).unwrap();
        assert_eq!(bindings.bind("h", Some(later), &tree(10, 1, 1000, "/job")), Ok(()));
        assert!(bindings.bind("h", Some(later), &tree(11, 1, 1000, "/job")).is_err());
    }

    #[test]
    fn what_has_ended_is_bound_anew() {
        let bindings = Bindings::default();
        let (job, other) = (tree(10, 5, 1000, "/job"), tree(20, 6, 1000, "/job"));
        assert_eq!(bindings.bind("h", Some(Timestamp::UNIX_EPOCH), &job), Ok(()));
        assert_eq!(bindings.bind("h", None, &other), Ok(()));
        assert!(bindings.bind("h", None, &job).is_err());
    }
}
