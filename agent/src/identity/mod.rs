//! Who is behind a flow: the process and its surroundings, read from /proc.
//!
//! [`Reader::subject`] is called as soon as a flow is accepted, while the process is (nearly always)
//! still there. What the kernel side noted at connect() needs no /proc and holds even if it is not.

mod ancestors;
mod cgroup;
mod ci;
pub mod config;
mod hash;
mod live;
pub mod login;
pub mod oidc;
mod process;
mod secrets;
pub(crate) mod tracer;
pub mod users;
mod verified;
pub mod workload;

pub(crate) use ancestors::Stat;
pub use live::LiveSubject;
pub(crate) use process::TICK_NS;
pub use process::{Known, ProgramOf, Reader};
pub use verified::{GroupsKnown, IdentityKind, Job, Verified};

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use serde::Serialize;

/// Who stands behind a flow. Every field is filled as far as it could be known; policies see an empty
/// string or zero for what is not.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Subject {
    /// Process id (thread group), in the host's namespace.
    pub pid: u32,
    /// When it started, nanoseconds since boot: with `pid` it names the process for good.
    pub start_time_ns: u64,
    /// Real user id.
    pub uid: u32,
    /// Its name, if the host knows one.
    pub user: String,
    /// Real group id.
    pub gid: u32,
    /// Its name, if the host knows one.
    pub group: String,
    /// The audit login user id (`loginuid`); `None` when not set, or not by root: where none is set any
    /// process may set its own.
    pub login_uid: Option<u32>,
    /// The login user's name.
    pub login_user: String,
    /// The audit session id.
    pub login_session: Option<u32>,
    /// A login that it has by its own word.
    pub login_claimed: Option<ClaimedLogin>,
    /// The executable's path on this host; of a script, its interpreter. Empty where the file there is not
    /// the one that the kernel saw begin (in a container, or by a mount of the process's own).
    pub exe: PathBuf,
    /// The script's path, when the process was begun by executing one (`#!`).
    pub script: Option<PathBuf>,
    /// The script that an interpreter's arguments name, where the kernel did not see it executed: a claim,
    /// for a process can change its arguments, and an interpreter be told to run something else.
    pub script_claimed: Option<PathBuf>,
    /// SHA-256 of the executable's content, hex; empty when it could not be read, or is not known to be
    /// the file that the kernel saw begin.
    pub exe_sha256: String,
    /// Arguments, secrets in them masked. A process can change its own.
    pub argv: Vec<String>,
    /// Working directory.
    pub cwd: PathBuf,
    /// The cgroup v2 path.
    pub cgroup: String,
    /// The systemd unit that the cgroup belongs to.
    pub unit: String,
    /// The container id that the cgroup names.
    pub container: String,
    /// Parents, nearest first, up to pid 1. Where one has ended its children are its parent's, or pid 1's.
    pub ancestors: Vec<Ancestor>,
    /// The CI job, if it runs in one.
    pub ci: Ci,
    /// The person who signed in, if a verified one stands behind it.
    pub person: Option<Arc<Verified>>,
    /// The job or service, if a verified token of its own names it.
    pub workload: Option<Arc<Verified>>,
    /// Kinds of identity that nobody can have on this host: agent.yaml has no issuer of them. Where that is
    /// not known it is empty: then what is missing may be hidden.
    #[serde(skip)]
    pub no_issuer: Vec<IdentityKind>,
    /// What could not be found out or verified, if anything, and why.
    pub missing: Vec<String>,
}

/// A login user that a process has without root having been seen to set it: in a session from before the agent's
/// first start it is whose session it is, else the process may have set it itself. Policies do not see it; it
/// keeps whoever it names from deciding on what the process asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ClaimedLogin {
    /// The audit login user id (`loginuid`).
    pub uid: u32,
    /// Its name, if the host knows one.
    pub user: String,
    /// The audit session id.
    pub session: Option<u32>,
}

/// A parent process.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Ancestor {
    /// Process id.
    pub pid: u32,
    /// When it started, nanoseconds since boot, as exact as /proc tells: a hundredth of a second.
    #[serde(skip)]
    pub start_time_ns: u64,
    /// Real user id.
    pub uid: u32,
    /// Executable; empty where it could not be verified, as for [`Subject::exe`].
    pub exe: PathBuf,
    /// Arguments, secrets in them masked.
    pub argv: Vec<String>,
}

/// A CI job as its environment names it (GitHub Actions, GitLab, Jenkins, Buildkite). These variables
/// are the job's own claim: who starts the process can set them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Ci {
    /// `github_actions`, `gitlab`, `jenkins` or `buildkite`; empty when none.
    pub system: String,
    /// Repository or project.
    pub project: String,
    /// Workflow or pipeline.
    pub pipeline: String,
    /// Job name.
    pub job: String,
    /// Run or build id.
    pub run: String,
    /// Branch or tag.
    pub branch: String,
    /// Commit.
    pub commit: String,
    /// Who triggered it.
    pub actor: String,
    /// Its page.
    pub url: String,
    /// Further variables of the job, by name, secrets left out.
    pub variables: BTreeMap<String, String>,
}
