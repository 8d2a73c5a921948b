//! Who holds a token, and why it does not count for others.

use serde::{Deserialize, Serialize};

use crate::identity::ancestors::Stat;

/// A process, for good: process ids are used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Process {
    pub(super) pid: i32,
    /// Clock ticks since boot.
    pub(super) start: u64,
}

/// Who holds a token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
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
    /// A process tree that has ended with the host's last start: nobody any more.
    Ended { uid: u32 },
}

/// Another host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OtherHost {
    /// Its id: SHA-256 of its public key, hexadecimal.
    pub id: String,
    /// Its name at the collector.
    pub name: String,
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
    /// Another host had it first.
    #[error("its token was shown on another host first, by the collector's word: {} ({})", .0.name, .0.id)]
    OtherHost(OtherHost),
    /// The collector has to say that no other host had it first, and has not.
    #[error(
        "this issuer's tokens count only when the collector says that no other host had them first (`one_host: \
         required`), and {0}"
    )]
    NoWord(&'static str),
    /// Whose it is cannot be kept over a restart of the agent.
    #[error("it cannot be written down whose its token is: {0}")]
    Unkept(String),
    /// It may have belonged to somebody, and that is not known any more.
    #[error(
        "its token was issued before the agent lost what it had written down of tokens: a newer one counts (the \
         agent's log says what is wrong with bindings.json)"
    )]
    Lost,
}

impl Refused {
    /// The process at the top of the tree that holds it, and its user, where somebody has it who is not this one.
    pub(super) fn owner(&self) -> Option<(u32, u32)> {
        match self {
            Self::Others(_, pid, uid) | Self::Several(pid, uid) => Some((*pid, *uid)),
            Self::Pod(_) | Self::OtherHost(_) => Some((0, 0)),
            Self::Full | Self::NoWord(_) | Self::Unkept(_) | Self::Lost => None,
        }
    }

    /// The host that had it first, where it is another.
    pub(super) fn other_host(&self) -> Option<&OtherHost> {
        match self {
            Self::OtherHost(host) => Some(host),
            _ => None,
        }
    }
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

    /// Its topmost process is there.
    pub(super) fn lives(&self) -> bool {
        matches!(self, Self::Tree { top, .. } if Stat::of(top.pid).is_ok_and(|stat| stat.start == top.start))
    }

    /// Its topmost process has lost its parent.
    pub(super) fn is_left(&self) -> bool {
        matches!(self, Self::Tree { parent, .. } if parent.pid <= 1)
    }

    /// Nobody holds it yet, and this one shows it as well.
    pub(super) fn rivals(&self) -> Refused {
        match self {
            Self::Tree { top, uid, .. } => Refused::Several(top.pid.unsigned_abs(), *uid),
            Self::Ended { uid } => Refused::Several(0, *uid),
            Self::Container(_) => Refused::Several(0, 0),
        }
    }

    pub(super) fn told(&self) -> Refused {
        match self {
            Self::Tree { top, uid, .. } => {
                let pid = top.pid.unsigned_abs();
                Refused::Others(format!("the processes below {pid} of user {uid}"), pid, *uid)
            }
            Self::Container(name) => Refused::Others(name.clone(), 0, 0),
            Self::Ended { uid } => Refused::Others(
                format!("processes of user {uid} that ended when this host was started again"),
                0,
                *uid,
            ),
        }
    }

    /// Who holds it after the host was started again; `None` where nobody can be told from others.
    pub(super) fn after_boot(self) -> Option<Self> {
        match self {
            Self::Tree { uid, .. } | Self::Ended { uid } => Some(Self::Ended { uid }),
            // Pods come back as they were; mount namespaces have other numbers.
            Self::Container(name) => name.starts_with(POD).then_some(Self::Container(name)),
        }
    }
}

/// What a pod's name begins with.
pub(super) const POD: &str = "pod ";
