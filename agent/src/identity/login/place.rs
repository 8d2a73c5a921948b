//! Where a sign-in is bound to, and whether a process is of it.
//!
//! The kernel's audit session is the better place: each time a login user is set the kernel counts a new
//! one up (`audit_set_loginuid`), every process that is started inherits it, whatever sudo or su make of
//! its user, and none can take on that of another. It counts where the kernel side has seen root set the
//! login user, as `pam_loginuid` does. Without one (containers, hosts without PAM) the place is a process
//! tree: whatever descends from one process, by the kernel's own account of who is whose child.

use std::fmt;
use std::io;

use serde::{Deserialize, Serialize};

use crate::identity::ancestors::{Stat, user};
use crate::identity::process::{TICK_NS, audit_id};

/// Most parents that are followed. Deeper down a process is of no tree.
const DEPTH: usize = 128;

/// Where a sign-in counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// A login session, as the kernel's audit counts them.
    Session {
        /// Its number; never given twice while the host runs.
        session: u32,
        /// Who logged in.
        login_uid: u32,
    },
    /// A process and what descends from it.
    Tree {
        /// The process.
        pid: u32,
        /// When it started, in clock ticks since boot: another of the same id is not meant.
        start: u64,
    },
}

/// Why a sign-in is bound to a process tree rather than to the login session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoSession {
    /// The kernel has none for the process.
    Unset,
    /// The kernel side has not seen root set it.
    Unconfirmed,
    /// It is that of the user's service manager, which all of the user's logins share.
    Manager,
}

/// Why there is no place.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// The caller cannot be looked at.
    #[error("process {pid} cannot be looked at: {error}")]
    Gone {
        /// The caller.
        pid: u32,
        /// What the system said.
        error: io::Error,
    },
    /// What started it has ended, or is the first process.
    #[error(
        "there is no login session that the agent has seen begin, and the shell that started this has ended: run \
         `interlock login` from a shell that stays"
    )]
    NoShell,
    /// What started it is somebody else's.
    #[error(
        "there is no login session that the agent has seen begin, and what started this (process {pid}) runs as \
         another user (uid {uid}): run `interlock login` from a shell of your own"
    )]
    NotOwn {
        /// The parent.
        pid: u32,
        /// Whose it is.
        uid: u32,
    },
    /// What started it starts other things too: a service manager, or what runs containers.
    #[error(
        "there is no login session that the agent has seen begin, and what started this (process {pid}) is a \
         service manager or runs containers, and starts others' programs too: run `interlock login` from a shell"
    )]
    Starter {
        /// The parent.
        pid: u32,
    },
}

/// A process that may be of a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seat {
    /// Its id.
    pub pid: u32,
    /// When it started, in clock ticks since boot.
    pub start: u64,
    /// Its login session and login user, if the kernel side has seen root set them.
    pub login: Option<(u32, u32)>,
}

// === impl Place ===

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Session { session, .. } => write!(f, "login session {session}"),
            Self::Tree { pid, .. } => write!(f, "process {pid} and what it starts"),
        }
    }
}

impl fmt::Display for NoSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unset => "this process has no login session (no pam_loginuid, or a container)",
            Self::Unconfirmed => "the agent has not seen root begin this login session",
            Self::Manager => "this session is that of the user's service manager, which all logins share",
        })
    }
}

impl Place {
    /// The place of whoever calls, and why it is not the login session where it is not. `login` is the login
    /// user that the kernel side has seen root set; `uid` whose process calls.
    ///
    /// # Errors
    /// There is none that could be told later.
    pub fn of_caller(
        pid: u32,
        uid: u32,
        login: Option<u32>,
    ) -> Result<(Self, Option<NoSession>), PlaceError> {
        let number = i32::try_from(pid).unwrap_or(i32::MAX);
        let gone = |error| PlaceError::Gone { pid, error };
        let no_session = match (audit_id(number, "loginuid"), audit_id(number, "sessionid")) {
            (Some(login_uid), Some(session)) if login == Some(login_uid) => {
                if !of_manager(&cgroups(number).map_err(gone)?) {
                    return Ok((Self::Session { session, login_uid }, None));
                }
                NoSession::Manager
            }
            (Some(_), Some(_)) => NoSession::Unconfirmed,
            _ => NoSession::Unset,
        };
        let (parent, stat) = parent_of(number).map_err(gone)?.ok_or(PlaceError::NoShell)?;
        if parent <= 1 {
            return Err(PlaceError::NoShell);
        }
        let parent_id = parent.unsigned_abs();
        let owner = user(parent).ok_or(PlaceError::NoShell)?;
        if owner != uid {
            return Err(PlaceError::NotOwn { pid: parent_id, uid: owner });
        }
        let groups = cgroups(parent).map_err(gone)?;
        let manages = of_manager(&groups) && groups.lines().any(|line| line.ends_with("/init.scope"));
        if manages || !shares_namespaces(number, parent) {
            return Err(PlaceError::Starter { pid: parent_id });
        }
        Ok((Self::Tree { pid: parent_id, start: stat.start }, Some(no_session)))
    }

    /// Whether a process is of this place.
    pub fn has(&self, seat: &Seat) -> bool {
        match self {
            Self::Session { session, login_uid } => seat.login == Some((*session, *login_uid)),
            Self::Tree { .. } => line(seat).contains(self),
        }
    }

    /// Whether anything of this place is left, as far as can be seen. `witness` is a process that was of it,
    /// and is set to another one.
    pub fn is_there(&self, witness: &mut Option<i32>) -> bool {
        match self {
            Self::Tree { pid, start } => i32::try_from(*pid)
                .ok()
                .and_then(|pid| Stat::of(pid).ok())
                .is_some_and(|stat| stat.start == *start),
            Self::Session { session, .. } => {
                let of_it = |pid: &i32| audit_id(*pid, "sessionid") == Some(*session);
                if witness.as_ref().is_some_and(of_it) {
                    return true;
                }
                let Ok(all) = std::fs::read_dir("/proc") else { return true };
                let mut pids = all.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
                *witness = pids.find(of_it);
                witness.is_some()
            }
        }
    }
}

// === impl Seat ===

impl Seat {
    /// Of a process that is there. `login` as for [`Place::of_caller`].
    ///
    /// # Errors
    /// It cannot be looked at.
    pub fn of(pid: u32, login: Option<u32>) -> io::Result<Self> {
        let number = i32::try_from(pid).map_err(|_| io::ErrorKind::NotFound)?;
        let start = Stat::of(number)?.start;
        let login = login.filter(|login| audit_id(number, "loginuid") == Some(*login));
        let login = login.and_then(|login| Some((audit_id(number, "sessionid")?, login)));
        Ok(Self { pid, start, login })
    }

    /// Of a process as it was noted when it connected.
    pub fn noted(pid: u32, start_time_ns: u64, login: Option<(u32, u32)>) -> Self {
        Self { pid, start: start_time_ns / TICK_NS, login }
    }
}

/// The process itself and those it descends from, nearest first, as the trees that they are the roots of.
/// Empty when it has ended.
pub(super) fn line(seat: &Seat) -> Vec<Place> {
    let mut line = Vec::new();
    let Some(mut pid) = i32::try_from(seat.pid).ok() else { return line };
    match Stat::of(pid) {
        Ok(stat) if stat.start == seat.start => {
            line.push(Place::Tree { pid: seat.pid, start: stat.start });
        }
        _ => return line,
    }
    while line.len() < DEPTH {
        let Ok(Some((parent, stat))) = parent_of(pid) else { break };
        line.push(Place::Tree { pid: parent.unsigned_abs(), start: stat.start });
        pid = parent;
    }
    // What was read of its parents is of another process if it has ended meanwhile.
    match Stat::of(i32::try_from(seat.pid).unwrap_or(i32::MAX)) {
        Ok(stat) if stat.start == seat.start => line,
        _ => Vec::new(),
    }
}

/// A process's parent. `None` for the first process of all.
///
/// A parent that ends hands its children on before its id is free again. So as long as the child still names
/// it afterwards, what was read was the parent's.
fn parent_of(pid: i32) -> io::Result<Option<(i32, Stat)>> {
    for _ in 0..16 {
        let parent = Stat::of(pid)?.parent;
        if parent <= 0 {
            return Ok(None);
        }
        let found = Stat::of(parent);
        if Stat::of(pid)?.parent == parent
            && let Ok(found) = found
        {
            return Ok(Some((parent, found)));
        }
    }
    Err(io::Error::other("its parents change all the time"))
}

/// Whether two processes are in the same process and mount namespaces: what starts containers is outside of
/// them. What cannot be looked at is not.
fn shares_namespaces(one: i32, other: i32) -> bool {
    ["pid", "mnt"].iter().all(|kind| {
        let of = |pid: i32| std::fs::read_link(format!("/proc/{pid}/ns/{kind}"));
        matches!((of(one), of(other)), (Ok(one), Ok(other)) if one == other)
    })
}

/// The cgroups of a process, as /proc/PID/cgroup lists them.
fn cgroups(pid: i32) -> io::Result<String> {
    std::fs::read_to_string(format!("/proc/{pid}/cgroup"))
}

/// Whether a process is run by a user's service manager (`user@UID.service`): its audit session is one for
/// all of the user's logins, and for timers and services of theirs too.
fn of_manager(cgroups: &str) -> bool {
    cgroups.lines().any(|line| {
        line.split('/').any(|part| {
            part.strip_prefix("user@").is_some_and(|rest| {
                rest.strip_suffix(".service").is_some_and(|uid| uid.bytes().all(|byte| byte.is_ascii_digit()))
            })
        })
    })
}

#[cfg(test)]
mod tests;
