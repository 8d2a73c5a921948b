//! What no single key's type tells of a configuration.

use std::path::Path;

use super::{Approvals, Config, Record};

/// Least `record.max_bytes`: below it there is no room for even one segment of ordinary commands.
const MIN_RECORDING: u64 = 64 << 10;

impl Config {
    /// Whether the values can be worked with.
    ///
    /// # Errors
    /// What is wrong, and what to write instead.
    pub(super) fn check(&self) -> Result<(), String> {
        let Self { cgroup, policies, state, run, record, approvals, .. } = self;
        let paths = [("policies", policies), ("state", state), ("run", run)];
        for (key, path) in paths.into_iter().chain(cgroup.iter().map(|path| ("cgroup", path))) {
            absolute(key, path)?;
        }
        approvals.check()?;
        record.check()
    }
}

impl Approvals {
    fn check(&self) -> Result<(), String> {
        if self.notice_seconds == 0 {
            return Err(
                "`approvals.notice_seconds: 0` would tell clients without end; write at least 1".to_owned()
            );
        }
        if let Some(link) = &self.link {
            let plain = |c: char| c.is_ascii_graphic() && !matches!(c, '"' | '\\' | '<' | '>');
            let web = link.starts_with("https://") || link.starts_with("http://");
            if !web || link.len() > 200 || !link.chars().all(plain) {
                return Err(format!(
                    "`approvals.link: {}` must be the address of the collector's pages, such as \
                     https://interlock.example.com",
                    interlock_recording::text::printable(link)
                ));
            }
        }
        Ok(())
    }
}

impl Record {
    fn check(&self) -> Result<(), String> {
        if self.max_bytes < MIN_RECORDING {
            return Err(format!(
                "`record.max_bytes: {}` leaves no room for a recording, so that every command would be \
                 refused; write at least {MIN_RECORDING}, such as 4GiB",
                self.max_bytes
            ));
        }
        if self.segment_seconds == 0 {
            return Err("`record.segment_seconds: 0` would seal without end; write at least 1".to_owned());
        }
        Ok(())
    }
}

/// A path that depends on where the agent was started would be another one for the other commands.
fn absolute(key: &str, path: &Path) -> Result<(), String> {
    if path.is_absolute() {
        return Ok(());
    }
    Err(format!("`{key}: {}` must be an absolute path, such as /{}", path.display(), path.display()))
}
