//! One agent per run directory.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use anyhow::Context;
use rustix::fs::{FlockOperation, flock};

/// Held as long as the agent lives; the kernel lets go of it however the agent ends.
#[derive(Debug)]
pub(super) struct Lock {
    _file: File,
}

impl Lock {
    /// Makes the run directory and takes its lock.
    pub(super) fn take(run: &Path) -> anyhow::Result<Self> {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(run)
            .with_context(|| format!("cannot make the run directory {}", run.display()))?;
        let path = run.join("agent.lock");
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            // Whoever can open it, to read only, can take the lock and keep the next agent out.
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&path)
            .with_context(|| format!("cannot open {}", path.display()))?;
        if file.metadata()?.mode() & 0o077 != 0 {
            file.set_permissions(std::fs::Permissions::from_mode(0o600))
                .with_context(|| format!("cannot change the mode of {}", path.display()))?;
        }
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => anyhow::bail!(
                "another agent runs with the run directory {}; give this one a `run:` of its own",
                run.display()
            ),
            Err(error) => {
                return Err(io::Error::from(error))
                    .with_context(|| format!("cannot lock {}", path.display()));
            }
        }
        file.set_len(0)?;
        writeln!(file, "{}", std::process::id())?;
        Ok(Self { _file: file })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_agent_is_kept_out_until_the_first_has_gone() {
        let dir = tempfile::tempdir().unwrap();
        let run = dir.path().join("run");
        let first = Lock::take(&run).unwrap();
        assert!(Lock::take(&run).unwrap_err().to_string().contains("another agent"));
        drop(first);
        Lock::take(&run).unwrap();
    }

    #[test]
    fn nobody_else_can_take_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.lock");
        let mode = || std::fs::metadata(&path).unwrap().mode() & 0o777;
        drop(Lock::take(dir.path()).unwrap());
        assert_eq!(mode(), 0o600);
        // One that an earlier version has left.
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        drop(Lock::take(dir.path()).unwrap());
        assert_eq!(mode(), 0o600);
        // Nor lead it elsewhere.
        let other = dir.path().join("other");
        std::fs::write(&other, "precious").unwrap();
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink(&other, &path).unwrap();
        Lock::take(dir.path()).unwrap_err();
        assert_eq!(std::fs::read_to_string(&other).unwrap(), "precious");
    }
}
