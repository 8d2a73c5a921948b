//! Who traces a process (ptrace): what it does may be the other's doing.
//!
//! The kernel tells it of each thread. One that begins and ends between two looks is not seen.

use std::fs;

use super::process::memory;

/// Most threads of a process that are looked at. Of one with more nobody can tell.
const MAX_THREADS: usize = 4096;

/// The process that traces this one or a thread of it, if any does; 0 where that cannot be told.
pub(crate) fn tracer_of(pid: u32) -> Option<u32> {
    let pid = i32::try_from(pid).ok()?;
    let (tracer, threads) = look(&memory(pid, "status").ok()?);
    if tracer.is_some() || threads <= 1 {
        return tracer;
    }
    for (looked, thread) in fs::read_dir(format!("/proc/{pid}/task")).ok()?.flatten().enumerate() {
        if looked >= MAX_THREADS {
            return Some(0);
        }
        // One that has ended traces nobody's command.
        let Ok(status) = memory(pid, &format!("task/{}/status", thread.file_name().to_string_lossy())) else {
            continue;
        };
        if let (Some(tracer), _) = look(&status) {
            return Some(tracer);
        }
    }
    None
}

/// Who traces, and how many threads there are.
fn look(status: &[u8]) -> (Option<u32>, u32) {
    let number = |key: &[u8]| -> Option<u32> {
        let line = status.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(key))?;
        std::str::from_utf8(line).ok()?.trim().parse().ok()
    };
    (number(b"TracerPid:").filter(|pid| *pid != 0), number(b"Threads:").unwrap_or(0))
}

/// Why a process that is traced has none of its identities.
pub(crate) fn why(tracer: u32) -> String {
    match tracer {
        0 => "it has so many threads that nobody can tell whether it is traced".to_owned(),
        tracer => format!(
            "process {tracer} traces it (ptrace) and is not of the same tree, session or container: what it does may be \
             the other's doing"
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader};
    use std::process::{Command, Stdio};

    use super::*;

    /// A child with a thread besides its own, and a process that traces it: the one or the other.
    fn traced(which: &str) {
        let script = "import ctypes, os, sys, threading, time\n\
            libc = ctypes.CDLL(None, use_errno=True)\n\
            pid = os.fork()\n\
            if pid == 0:\n    threading.Thread(target=time.sleep, args=(100,)).start()\n    time.sleep(100)\n\
            while len(os.listdir(f'/proc/{pid}/task')) < 2: time.sleep(0.01)\n\
            tid = [int(t) for t in os.listdir(f'/proc/{pid}/task') if (int(t) == pid) == (sys.argv[1] == 'main')][0]\n\
            r = libc.ptrace(0x4206, tid, 0, 0)\n\
            print(pid, r, flush=True)\n\
            sys.stdin.readline()\n\
            os.kill(pid, 9)\n";
        let mut tracer = Command::new("python3")
            .args(["-c", script, which])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(tracer.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let (pid, result) = line.trim().split_once(' ').unwrap();
        // Where the host lets nobody trace there is nothing to see.
        if result == "0" {
            assert_eq!(tracer_of(pid.parse().unwrap()), Some(tracer.id()), "{which}");
        }
        drop(tracer.stdin.take());
        tracer.wait().unwrap();
    }

    #[test]
    fn who_traces_any_thread_is_seen() {
        assert_eq!(tracer_of(std::process::id()), None);
        traced("main");
        traced("other");
        assert_eq!(tracer_of(u32::MAX), None);
        // A name is anything that a process likes.
        assert_eq!(look(b"Name:\tTracerPid:\t7\nThreads:\t3\nTracerPid:\t0\n"), (None, 3));
    }
}
