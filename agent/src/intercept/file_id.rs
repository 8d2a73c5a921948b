//! Files as the kernel tells them apart.

use std::{
    fs, io,
    os::fd::{AsFd, AsRawFd as _},
    path::Path,
};

use interlock_agent_common::FileId;
use rustix::fs::{FileType, Mode, OFlags};

use super::sys::{self, Mount};

/// Finds out the identity of files: the device of the mount they are on (which on btrfs and overlayfs
/// is not what `stat` tells) and their inode number.
#[derive(Debug)]
pub(crate) struct Resolver {
    mounts: Vec<Mount>,
}

impl Resolver {
    /// With the mount table of now.
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self { mounts: sys::mounts()? })
    }

    /// The regular file at a path, symbolic links followed.
    pub(crate) fn resolve(&self, path: &Path) -> io::Result<FileId> {
        // For its path only: nothing is asked of whoever serves the file.
        self.identify(rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?)
    }

    /// An open regular file.
    pub(crate) fn identify(&self, file: impl AsFd) -> io::Result<FileId> {
        let file = file.as_fd();
        let stat = rustix::fs::fstat(file)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", file.as_raw_fd()))?;
        let mount: Option<u64> =
            info.lines().find_map(|line| line.strip_prefix("mnt_id:")?.trim().parse().ok());
        let device = self.mounts.iter().find(|found| Some(found.id) == mount).map_or_else(
            // A mount of another namespace: the best that is left.
            || u64::from(rustix::fs::major(stat.st_dev)) << 20 | u64::from(rustix::fs::minor(stat.st_dev)),
            |found| found.device,
        );
        Ok(FileId { ino: stat.st_ino, dev: device })
    }
}
