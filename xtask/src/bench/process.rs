//! What a proxy's processes have used so far.

use std::fs;

use anyhow::{Context as _, Result};

/// User and system time of a process and its children, in seconds.
pub(super) fn cpu_time(pid: u32) -> Result<f64> {
    let mut ticks = 0;
    for pid in with_children(pid) {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).context("a proxy has ended")?;
        // utime and stime are fields 14 and 15.
        ticks += fields(&stat).skip(11).take(2).filter_map(|word| word.parse::<u64>().ok()).sum::<u64>();
    }
    Ok(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}

/// Resident memory of a process and its children in KiB; what they share counts once.
pub(super) fn memory(pid: u32) -> Result<f64> {
    let mut kib = 0;
    for pid in with_children(pid) {
        let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).context("a proxy has ended")?;
        let shares = rollup.lines().filter_map(|line| line.strip_prefix("Pss:"));
        kib += shares.filter_map(|line| line.split_whitespace().next()?.parse::<u64>().ok()).sum::<u64>();
    }
    Ok(kib as f64)
}

fn with_children(pid: u32) -> Vec<u32> {
    let all = fs::read_dir("/proc").into_iter().flatten().flatten();
    let children = all.filter_map(|entry| {
        let child: u32 = entry.file_name().to_str()?.parse().ok()?;
        let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
        (fields(&stat).nth(1)?.parse() == Ok(pid)).then_some(child)
    });
    std::iter::once(pid).chain(children).collect()
}

/// The fields from the third (the state) on: the name before them, in parentheses, may hold anything.
fn fields(stat: &str) -> impl Iterator<Item = &str> {
    stat.rsplit_once(')').map(|(_, rest)| rest).unwrap_or_default().split_whitespace()
}
