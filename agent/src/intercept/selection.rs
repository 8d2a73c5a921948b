//! What the kernel side is told: which processes are designated and where their connections go.

use std::path::PathBuf;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::policy::{Egress, EntryId};

/// Which processes are designated, and what becomes of their connections.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Selection {
    /// At most 64. A process is taken in by every entry all of whose keys hold for it.
    pub entries: Vec<Entry>,
}

/// One way for a process to be designated. Every key that is given must hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Names the entry over reloads and restarts.
    pub id: EntryId,
    /// Real user id.
    pub uid: Option<u32>,
    /// Real group id.
    pub gid: Option<u32>,
    /// Executable or script, by absolute path.
    pub exe: Option<PathBuf>,
    /// Cgroup path below the cgroup2 mount (`/system.slice/x.service`), its descendants included.
    pub cgroup: Option<PathBuf>,
    /// A systemd unit or slice: any cgroup of this name, wherever it is, its descendants included.
    pub unit: Option<String>,
    /// Processes started by `interlock run --as NAME` (`*` is any name).
    pub run: Option<String>,
    /// What a process taken in by this entry starts (and what that starts) is taken in too, whatever
    /// becomes of the process itself.
    pub descendants: bool,
    /// Some key names a user, group or the like that this host does not have: it can hold for no process.
    pub impossible: bool,
    /// TCP connections to any of these are redirected (and UDP to them refused). The kernel's view is
    /// coarse: a destination by host name stands here by its port alone, and the proxy looks closer.
    pub destinations: Vec<Pattern>,
    /// What becomes of all other connections.
    pub egress: Egress,
    /// Name look-ups (UDP and TCP port 53) to the host's configured resolvers stay allowed under `egress: deny`.
    pub resolvers: bool,
}

/// A set of addresses and ports.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Pattern {
    /// `None` is any address, of both families.
    pub net: Option<IpNet>,
    /// `None` is any port.
    pub port: Option<u16>,
}
