//! The cgroup v2 hierarchy: where it is mounted, which cgroups a selection names, and where the agent
//! itself stands in it.

use std::{
    collections::{HashMap, HashSet},
    fs, io,
    os::unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    path::{Component, Path, PathBuf},
};

use interlock_agent_common::{CGROUP_LEVELS, CgroupBits};

use super::{error::InterceptError, sys};

/// The child of the attached cgroup that the agent moves to when it is not below it.
const AGENT_CGROUP: &str = "interlock-agent";
/// The child of the attached cgroup for the processes of `interlock run`.
const RUN_CGROUP: &str = "interlock-run";
/// Cgroups that are looked through for a unit's name.
const CGROUPS_MAX: usize = 200_000;

/// Where the cgroup v2 hierarchy is mounted.
///
/// # Errors
/// [`InterceptError::NoCgroup2`] when it is not.
pub fn cgroup_root() -> Result<PathBuf, InterceptError> {
    let mounts = sys::mounts().map_err(InterceptError::io("cannot read the mount table"))?;
    mounts
        .into_iter()
        .find(|mount| mount.kind == "cgroup2" && mount.root == Path::new("/"))
        .map(|mount| mount.path)
        .ok_or(InterceptError::NoCgroup2)
}

/// The attached cgroup and the hierarchy it is in.
#[derive(Debug, Clone)]
pub(super) struct Hierarchy {
    /// The mount.
    pub(super) root: PathBuf,
    /// The attached cgroup's directory.
    pub(super) attached: PathBuf,
    /// Its id.
    pub(super) id: u64,
}

impl Hierarchy {
    pub(super) fn new(attached: &Path) -> Result<Self, InterceptError> {
        let io = |error| InterceptError::Io { what: attached.display().to_string(), source: error };
        let attached = attached.canonicalize().map_err(io)?;
        let mounts = sys::mounts().map_err(InterceptError::io("cannot read the mount table"))?;
        let root = mounts
            .into_iter()
            .filter(|mount| mount.kind == "cgroup2" && attached.starts_with(&mount.path))
            .max_by_key(|mount| mount.path.as_os_str().len())
            .ok_or_else(|| InterceptError::NotCgroup2(attached.clone()))?
            .path;
        let id = id(&attached).map_err(io)?;
        Ok(Self { root, attached, id })
    }

    /// Makes sure that the agent's sockets are in the attached cgroup: the kernel runs the program
    /// that hands over a connection's origin by the cgroup of the socket that is accepted.
    pub(super) fn enter(&self) -> Result<(), InterceptError> {
        if self.contains(rustix::process::getpid().as_raw_nonzero().get() as u32)? {
            return Ok(());
        }
        let own = self.attached.join(AGENT_CGROUP);
        join(&own, "0").map_err(InterceptError::io(format!("cannot move the agent to {}", own.display())))
    }

    /// Moves a process below the attached cgroup unless it is there.
    pub(super) fn take_in(&self, pid: u32) -> Result<(), InterceptError> {
        if self.contains(pid)? {
            return Ok(());
        }
        let runs = self.attached.join(RUN_CGROUP);
        join(&runs, &pid.to_string())
            .map_err(InterceptError::io(format!("cannot move process {pid} to {}", runs.display())))
    }

    fn contains(&self, pid: u32) -> Result<bool, InterceptError> {
        let file = format!("/proc/{pid}/cgroup");
        let text = fs::read_to_string(&file).map_err(InterceptError::io(file))?;
        let path = text.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
        Ok(self.root.join(path).starts_with(&self.attached))
    }

    /// Removes the cgroups that were made here, if nobody is in them.
    pub(super) fn clean(attached: &Path) {
        for name in [AGENT_CGROUP, RUN_CGROUP] {
            // One that is in use stays: the kernel does not let it go.
            let _ = fs::remove_dir(attached.join(name));
        }
    }

    /// The path of a selected cgroup as the kernel has it, `/` in front.
    pub(super) fn kernel_path(path: &Path) -> Result<String, InterceptError> {
        let names: Vec<_> = path
            .components()
            .filter_map(|part| match part {
                Component::Normal(name) => Some(name.to_string_lossy()),
                _ => None,
            })
            .collect();
        if names.len() >= CGROUP_LEVELS as usize {
            return Err(InterceptError::CgroupTooDeep(path.to_owned()));
        }
        Ok(format!("/{}", names.join("/")))
    }

    /// The cgroups that exist of the given paths and names, by id, and whether all were looked through.
    pub(super) fn find(
        &self,
        paths: &HashMap<String, u64>,
        units: &HashMap<String, u64>,
    ) -> (HashMap<u64, CgroupBits>, bool) {
        let mut found: HashMap<u64, CgroupBits> = HashMap::new();
        for (path, bits) in paths {
            if let Ok(id) = id(&self.root.join(path.trim_start_matches('/'))) {
                found.entry(id).or_default().path |= bits;
            }
        }
        if units.is_empty() {
            return (found, true);
        }
        let mut seen = 0;
        let mut open = vec![self.root.clone()];
        while let Some(directory) = open.pop() {
            // One that is gone meanwhile has no processes.
            let Ok(entries) = fs::read_dir(&directory) else { continue };
            for entry in entries.flatten() {
                if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    continue;
                }
                seen += 1;
                if seen > CGROUPS_MAX {
                    tracing::error!("more than {CGROUPS_MAX} cgroups: the rest is not looked through");
                    return (found, false);
                }
                let path = entry.path();
                let bits =
                    std::str::from_utf8(entry.file_name().as_bytes()).ok().and_then(|name| units.get(name));
                if let (Some(bits), Ok(id)) = (bits, id(&path)) {
                    found.entry(id).or_default().unit |= bits;
                }
                open.push(path);
            }
        }
        (found, true)
    }

    /// The ids of all cgroups.
    pub(super) fn ids(&self) -> HashSet<u64> {
        let mut found = HashSet::new();
        let mut open = vec![self.root.clone()];
        while let Some(directory) = open.pop() {
            found.extend(id(&directory));
            let entries = fs::read_dir(&directory).into_iter().flatten().flatten();
            open.extend(
                entries
                    .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
                    .map(|entry| entry.path()),
            );
        }
        found
    }
}

/// A cgroup's id is its directory's inode number.
pub(super) fn id(directory: &Path) -> io::Result<u64> {
    Ok(fs::metadata(directory)?.ino())
}

fn join(cgroup: &Path, pid: &str) -> io::Result<()> {
    match fs::create_dir(cgroup) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    fs::write(cgroup.join("cgroup.procs"), pid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_as_the_kernel_has_them() {
        assert_eq!(Hierarchy::kernel_path(Path::new("/a/b/")).unwrap(), "/a/b");
        assert_eq!(Hierarchy::kernel_path(Path::new("a//b")).unwrap(), "/a/b");
        assert_eq!(Hierarchy::kernel_path(Path::new("/")).unwrap(), "/");
        assert!(Hierarchy::kernel_path(Path::new(&"/x".repeat(30))).is_err());
    }
}
