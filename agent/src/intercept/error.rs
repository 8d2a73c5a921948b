//! What can go wrong between the agent and the kernel.

use std::{io, path::PathBuf};

/// Interception could not be set up, changed or taken down.
#[derive(Debug, thiserror::Error)]
pub enum InterceptError {
    /// Process ids of the kernel would not be those that the agent sees.
    #[error("the agent must run in the host's own PID namespace (`--pid=host` in a container)")]
    PidNamespace,
    /// No cgroup v2 hierarchy is mounted.
    #[error("no cgroup2 file system is mounted; mount one, or name a cgroup directory with `cgroup:`")]
    NoCgroup2,
    /// The path is not in a cgroup v2 hierarchy.
    #[error("{0} is not a directory of a cgroup2 file system")]
    NotCgroup2(PathBuf),
    /// A selected cgroup lies deeper than the programs look.
    #[error("the cgroup {0} lies deeper than {max} levels", max = interlock_agent_common::CGROUP_LEVELS - 1)]
    CgroupTooDeep(PathBuf),
    /// No BPF file system to pin to.
    #[error("{0} is not on a bpf file system, and none could be mounted: {1}")]
    NoBpffs(PathBuf, io::Error),
    /// Another agent uses the same pins.
    #[error("another agent is running with the same `run:` directory (it holds {0})")]
    Busy(PathBuf),
    /// The kernel does not describe its structures, or not as expected.
    #[error(
        "the kernel's type information {path} cannot be used: {reason} (CONFIG_DEBUG_INFO_BTF is needed)"
    )]
    Btf {
        /// Where it was looked for.
        path: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The kernel did not take a program or map.
    #[error("the kernel refuses the eBPF object: {0}")]
    Load(#[source] Box<aya::EbpfError>),
    /// The kernel did not take a program.
    #[error("the kernel refuses the eBPF program {name}: {source}")]
    Program {
        /// The program.
        name: &'static str,
        /// What the kernel says.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A map could not be read or written.
    #[error("eBPF map {name}: {source}")]
    Map {
        /// The map.
        name: &'static str,
        /// What the kernel says.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A selection has more entries than there are bits.
    #[error(
        "the policies have {0} process entries, and the kernel side takes {max}: put some together",
        max = interlock_agent_common::MAX_ENTRIES
    )]
    TooManyEntries(usize),
    /// A name or path that is longer than the kernel side compares.
    #[error("`{0}` is longer than {max} bytes", max = interlock_agent_common::TEXT_MAX)]
    TooLong(String),
    /// Who asks may not look at the pins, so nothing can be said of them.
    #[error("this needs root: {0} cannot be looked at")]
    NeedsRoot(PathBuf),
    /// Nothing is pinned there.
    #[error("nothing is attached: there is no {0}")]
    NotAttached(PathBuf),
    /// A process has ended meanwhile.
    #[error("process {0} has ended")]
    Gone(u32),
    /// Others than root could write where the programs are to be pinned.
    #[error("{0} must belong to root, and nobody else may write to it: remove it and start again")]
    Exposed(PathBuf),
    /// A system call failed.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// What the system says.
        source: io::Error,
    },
}

impl InterceptError {
    pub(super) fn map(name: &'static str) -> impl FnOnce(aya::maps::MapError) -> Self {
        move |source| Self::Map { name, source: Box::new(source) }
    }

    pub(super) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { what: what.into(), source }
    }

    pub(super) fn program<E: Into<Box<dyn std::error::Error + Send + Sync>>>(
        name: &'static str,
    ) -> impl FnOnce(E) -> Self {
        move |source| Self::Program { name, source: source.into() }
    }
}
