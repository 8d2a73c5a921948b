//! A process's parents.
//!
//! A script that connects often has the same ones each time, and looking at all of them took most of the
//! time that opening a flow does. So what is read of one is kept for a moment, for as long as its process
//! is the same and runs the same program.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use super::process::{Reader, TICK_NS, arguments, ci_of, command_line, memory};
use super::{Ancestor, Ci, Subject};
use crate::intercept::Program;

/// Most ancestors that are followed.
const MAX_ANCESTORS: usize = 32;

/// How long an ancestor is taken to be as it was: it can change its user, arguments and environment.
const KEPT: Duration = Duration::from_secs(1);

/// Most ancestors that are kept; when there are more the memory starts afresh.
const MAX_KEPT: usize = 1024;

/// Ancestors that were looked at.
#[derive(Debug, Default)]
pub(super) struct Ancestors(Mutex<HashMap<i32, Arc<Seen>>>);

/// An ancestor as it was.
#[derive(Debug)]
struct Seen {
    at: Instant,
    /// When it started, in clock ticks since boot.
    start: u64,
    program: Option<Program>,
    ancestor: Ancestor,
    /// The job that its environment names, once that was looked at.
    ci: OnceLock<Option<Ci>>,
}

/// What /proc/PID/stat tells of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stat {
    /// Its parent's process id.
    pub(crate) parent: i32,
    /// When it started, in clock ticks since boot.
    pub(crate) start: u64,
}

impl Stat {
    /// Of a process that is there.
    pub(crate) fn of(pid: i32) -> io::Result<Self> {
        let mut text = Vec::with_capacity(1024);
        File::open(format!("/proc/{pid}/stat"))?.read_to_end(&mut text)?;
        Self::parse(&text).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    fn parse(text: &[u8]) -> Option<Self> {
        // Behind the name, which stands in parentheses and may hold anything, comes field 3.
        let name = text.iter().rposition(|byte| *byte == b')')?;
        let mut fields = std::str::from_utf8(text.get(name + 1..)?).ok()?.split_ascii_whitespace();
        let parent = fields.nth(1)?.parse().ok()?;
        let start = fields.nth(17)?.parse().ok()?;
        Some(Self { parent, start })
    }
}

/// The real user of a process.
pub(super) fn user(pid: i32) -> Option<u32> {
    let status = memory(pid, "status").ok()?;
    // A process's name, which stands above, has its newlines escaped.
    let line = status.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(b"Uid:"))?;
    std::str::from_utf8(line).ok()?.split_ascii_whitespace().next()?.parse().ok()
}

impl Reader {
    /// Follows the ancestors from `parent` on.
    pub(super) fn parents(&self, mut parent: i32, subject: &mut Subject) {
        while parent > 0 && subject.ancestors.len() < MAX_ANCESTORS {
            let Ok(stat) = Stat::of(parent) else { break };
            let seen = self.ancestor(parent, stat.start);
            subject.ancestors.push(seen.ancestor.clone());
            // A job's children may have cleared their environment; the nearest that names it counts.
            if subject.ci.system.is_empty()
                && let Some(job) = seen.ci.get_or_init(|| ci_of(parent))
            {
                subject.ci = job.clone();
            }
            parent = stat.parent;
        }
    }

    fn ancestor(&self, pid: i32, start: u64) -> Arc<Seen> {
        let program =
            self.program(pid.unsigned_abs()).filter(|program| program.start_time_ns / TICK_NS == start);
        let kept = || self.ancestors.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(seen) = kept().get(&pid)
            && seen.start == start
            && seen.program == program
            && seen.at.elapsed() < KEPT
        {
            return Arc::clone(seen);
        }
        let exe = std::fs::read_link(format!("/proc/{pid}/exe")).ok();
        let exe = exe.filter(|exe: &PathBuf| self.is_file(exe, program.and_then(|program| program.exe)));
        let seen = Arc::new(Seen {
            at: Instant::now(),
            start,
            program,
            ancestor: Ancestor {
                pid: pid.unsigned_abs(),
                start_time_ns: start.saturating_mul(TICK_NS),
                uid: user(pid).unwrap_or(u32::MAX),
                exe: exe.unwrap_or_default(),
                argv: arguments(command_line(pid).unwrap_or_default()),
            },
            ci: OnceLock::new(),
        });
        let mut kept = kept();
        if kept.len() >= MAX_KEPT {
            kept.clear();
        }
        kept.insert(pid, Arc::clone(&seen));
        seen
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_hold_anything() {
        let rest = "S 7 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 12345 1 2";
        for name in ["x", "a b", ") S 9 9", "(((", "\u{fffd}"] {
            let stat = Stat::parse(format!("42 ({name}) {rest}").as_bytes());
            assert_eq!(stat, Some(Stat { parent: 7, start: 12345 }), "{name}");
        }
        for broken in ["", "42 (x", "42 (x) S", "42 (x) S 7 1"] {
            assert_eq!(Stat::parse(broken.as_bytes()), None, "{broken}");
        }
    }

    #[test]
    fn it_tells_what_the_kernel_does() {
        let own = i32::try_from(std::process::id()).unwrap();
        let process = procfs::process::Process::myself().unwrap();
        let stat = process.stat().unwrap();
        assert_eq!(Stat::of(own).unwrap(), Stat { parent: stat.ppid, start: stat.starttime });
        assert_eq!(user(own), Some(process.status().unwrap().ruid));
        assert!(Stat::of(i32::MAX).is_err() && user(i32::MAX).is_none());
    }

    #[test]
    fn another_program_in_the_same_process_is_looked_at_anew() {
        use std::sync::atomic::{AtomicU64, Ordering};
        let exec = Arc::new(AtomicU64::new(1));
        let own = i32::try_from(std::process::id()).unwrap();
        let start = Stat::of(own).unwrap().start;
        let known = Arc::clone(&exec);
        let reader = Reader::new(Box::new(move |_| {
            let exec_id = known.load(Ordering::Relaxed);
            Some(Program { start_time_ns: start * TICK_NS, exec_id, ..Program::default() })
        }));
        let first = reader.ancestor(own, start);
        assert_eq!(first.ancestor.uid, user(own).unwrap());
        assert!(Arc::ptr_eq(&first, &reader.ancestor(own, start)), "kept");
        exec.store(2, Ordering::Relaxed);
        assert!(!Arc::ptr_eq(&first, &reader.ancestor(own, start)), "it runs another program");
        let second = reader.ancestor(own, start);
        assert!(!Arc::ptr_eq(&second, &reader.ancestor(own, start + 1)), "it is another process");
    }
}
