//! Files as the kernel tells them apart.

use std::{
    fs, io,
    os::fd::{AsFd, AsRawFd as _, BorrowedFd},
    path::Path,
};

use interlock_agent_common::FileId;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, StatxFlags};

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
        let wanted = StatxFlags::TYPE | StatxFlags::INO | StatxFlags::MNT_ID;
        let stat = rustix::fs::statx(file, c"", AtFlags::EMPTY_PATH, wanted)?;
        if FileType::from_raw_mode(stat.stx_mode.into()) != FileType::RegularFile {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        // From 5.8 on in one call.
        let mount = match StatxFlags::from_bits_retain(stat.stx_mask).contains(StatxFlags::MNT_ID) {
            true => Some(stat.stx_mnt_id),
            false => mount_by_proc(file)?,
        };
        let device = self.mounts.iter().find(|found| Some(found.id) == mount).map_or_else(
            // A mount of another namespace: the best that is left.
            || u64::from(stat.stx_dev_major) << 20 | u64::from(stat.stx_dev_minor),
            |found| found.device,
        );
        Ok(FileId { ino: stat.stx_ino, dev: device })
    }
}

/// The number of the mount that an open file is on.
fn mount_by_proc(file: BorrowedFd<'_>) -> io::Result<Option<u64>> {
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", file.as_raw_fd()))?;
    Ok(info.lines().find_map(|line| line.strip_prefix("mnt_id:")?.trim().parse().ok()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_tell_the_same_mount() {
        let resolver = Resolver::new().unwrap();
        for path in ["/proc/self/status", "/etc/passwd"] {
            let file = fs::File::open(path).unwrap();
            let stat = rustix::fs::statx(&file, c"", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID).unwrap();
            let mount = mount_by_proc(file.as_fd()).unwrap();
            assert!(resolver.mounts.iter().any(|known| Some(known.id) == mount), "{path}");
            if stat.stx_mask & StatxFlags::MNT_ID.bits() != 0 {
                assert_eq!(Some(stat.stx_mnt_id), mount, "{path}");
            }
        }
    }
}
