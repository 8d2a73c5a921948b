//! Control groups made for one test and removed after it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};

/// A cgroup v2 directory of our own. When dropped, all processes in it are killed and it is removed,
/// cgroups below it included.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
    below_mount: PathBuf,
}

impl Cgroup {
    /// A new cgroup directly below the cgroup2 mount.
    ///
    /// # Errors
    /// There is no cgroup v2 here, or no right to make one.
    pub fn new() -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("interlock-test-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        Self::make(&mount()?, Path::new("/"), &name)
    }

    /// A new cgroup below this one.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn child(&self, name: &str) -> Result<Self> {
        Self::make(&self.path, &self.below_mount, name)
    }

    fn make(parent: &Path, below_mount: &Path, name: &str) -> Result<Self> {
        let path = parent.join(name);
        fs::create_dir(&path).with_context(|| format!("cannot make the cgroup {}", path.display()))?;
        Ok(Self { path, below_mount: below_mount.join(name) })
    }

    /// Its directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its path as /proc/PID/cgroup has it: below the mount, with a leading slash.
    pub fn below_mount(&self) -> &Path {
        &self.below_mount
    }

    /// A command that moves itself into this cgroup and then becomes `program`.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        // The move must come before the program's exec, and from the process itself.
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", r#"echo 0 > "$0" && exec "$@""#])
            .arg(self.path.join("cgroup.procs"))
            .arg(program);
        command
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        remove(&self.path);
    }
}

/// Kills all that runs in the cgroup and below it and removes them.
fn remove(path: &Path) {
    // cgroup.kill is there from 5.14 on.
    if fs::write(path.join("cgroup.kill"), "1").is_err() {
        kill_each(path);
    }
    let removed = crate::wait_for("removing a cgroup", Duration::from_secs(5), || {
        remove_tree(path);
        !path.exists()
    });
    if let Err(error) = removed {
        eprintln!("{}: {error}", path.display());
    }
}

fn kill_each(path: &Path) {
    for pid in fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default().lines() {
        if let Some(pid) = pid.parse().ok().and_then(rustix::process::Pid::from_raw) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }
    for child in children(path) {
        kill_each(&child);
    }
}

fn remove_tree(path: &Path) {
    for child in children(path) {
        remove_tree(&child);
    }
    let _ = fs::remove_dir(path);
}

fn children(path: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}

/// The cgroup2 mount that the mount table names.
///
/// # Errors
/// There is none.
pub fn mount() -> Result<PathBuf> {
    let table = fs::read_to_string("/proc/self/mounts").context("cannot read the mount table")?;
    table
        .lines()
        .map(|line| line.split(' '))
        .find_map(|mut fields| {
            let point = fields.nth(1)?;
            (fields.next()? == "cgroup2").then(|| PathBuf::from(point))
        })
        .context("no cgroup v2 here: the mount table names no cgroup2 file system")
}
