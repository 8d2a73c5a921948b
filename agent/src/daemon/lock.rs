//! One agent per run directory.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
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
            .open(&path)
            .with_context(|| format!("cannot open {}", path.display()))?;
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
}
