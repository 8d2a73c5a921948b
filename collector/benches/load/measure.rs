//! What a process has used so far, and what lies in a directory.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::time::{ClockId, clock_gettime};

/// What a process has used.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Used {
    /// User and system time, in seconds.
    pub(crate) cpu: f64,
    /// Resident memory in bytes that is its own, not a file's.
    pub(crate) memory: u64,
    /// Files and sockets that it holds open.
    pub(crate) files: usize,
    /// Bytes that it had written to disks.
    pub(crate) written: u64,
}

pub(crate) fn used(pid: u32) -> Result<Used> {
    let read = |name: &str| {
        fs::read_to_string(format!("/proc/{pid}/{name}")).with_context(|| format!("cannot read its {name}"))
    };
    let stat = read("stat")?;
    // The name before the other fields may hold anything; utime and stime are fields 14 and 15.
    let fields = stat.rsplit_once(')').map(|(_, rest)| rest).unwrap_or_default().split_whitespace();
    let ticks: u64 = fields.skip(11).take(2).filter_map(|word| word.parse::<u64>().ok()).sum();
    let number = |text: &str, name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
        line.trim_start_matches(':').split_whitespace().next().and_then(|word| word.parse::<u64>().ok())
    };
    let status = read("status")?;
    Ok(Used {
        cpu: ticks as f64 / rustix::param::clock_ticks_per_second() as f64,
        memory: number(&status, "RssAnon").unwrap_or_default() * 1024,
        files: fs::read_dir(format!("/proc/{pid}/fd")).map(Iterator::count).unwrap_or_default(),
        written: number(&read("io")?, "write_bytes").unwrap_or_default(),
    })
}

/// The processor time that this thread has used.
pub(crate) fn thread_cpu() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or_default())
}

/// Bytes of all files in a directory, as they are long.
pub(crate) fn bytes_in(directory: &Path) -> u64 {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => bytes_in(&entry.path()),
            Ok(metadata) => metadata.len(),
            Err(_) => 0,
        })
        .sum()
}
