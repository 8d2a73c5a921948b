//! Starting, feeding, bounding and ending processes.

use std::io::Write as _;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rustix::process::{Pid, Signal, kill_process};

/// How long any one client command of a test may take.
pub const LIMIT: Duration = Duration::from_secs(60);

/// What a finished command left.
#[derive(Debug, Clone)]
pub struct Finished {
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
    /// It was killed because it took longer than it may.
    pub timed_out: bool,
}

impl Finished {
    /// It ended with status 0.
    pub fn success(&self) -> bool {
        self.status.success() && !self.timed_out
    }

    /// Both outputs in one text.
    pub fn both(&self) -> String {
        format!("{}{}", self.stdout, self.stderr)
    }

    /// Standard output of a command that must have succeeded.
    ///
    /// # Panics
    /// It failed; the panic has all that it printed.
    #[track_caller]
    pub fn expect_success(self) -> String {
        assert!(
            self.success(),
            "{}{}\n-- stdout\n{}\n-- stderr\n{}",
            if self.timed_out { "timed out, " } else { "" },
            self.status,
            self.stdout,
            self.stderr
        );
        self.stdout
    }

    /// All output of a command that must have failed.
    ///
    /// # Panics
    /// It succeeded, or hung.
    #[track_caller]
    pub fn expect_failure(self) -> String {
        assert!(!self.timed_out, "timed out\n{}", self.both());
        assert!(!self.status.success(), "succeeded, but should have failed\n{}", self.both());
        self.both()
    }
}

/// Runs `command` with `input` on its standard input until it ends or `limit` has passed.
///
/// # Errors
/// It cannot be started.
pub fn finish(command: &mut Command, input: &str, limit: Duration) -> Result<Finished> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {}", command.get_program().to_string_lossy()))?;
    let stdin = child.stdin.take();
    let stdout = child.stdout.take();
    let stderr = child.stderr.take();
    thread::scope(|scope| {
        scope.spawn(move || {
            if let Some(mut stdin) = stdin {
                // The command may end without reading all of it.
                let _ = stdin.write_all(input.as_bytes());
            }
        });
        let out = scope.spawn(move || drain(stdout));
        let err = scope.spawn(move || drain(stderr));
        let (status, timed_out) = wait(&mut child, limit)?;
        let stdout = out.join().unwrap_or_default();
        let stderr = err.join().unwrap_or_default();
        Ok(Finished { status, stdout, stderr, timed_out })
    })
}

fn drain(pipe: Option<impl std::io::Read>) -> String {
    let mut bytes = Vec::new();
    if let Some(mut pipe) = pipe {
        let _ = pipe.read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Waits for `child` as long as `limit`, then kills it. `true`: it had to be killed.
fn wait(child: &mut Child, limit: Duration) -> Result<(ExitStatus, bool)> {
    let end = Instant::now() + limit;
    let mut pause = Duration::from_micros(500);
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok((status, false));
        }
        if Instant::now() >= end {
            child.kill()?;
            return Ok((child.wait()?, true));
        }
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

/// A server process, ended when dropped.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    /// What asks it to end.
    stop: Signal,
}

impl Daemon {
    /// Starts `command`, in a process group of its own so that a Ctrl-C at the terminal is ours to handle.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(command: &mut Command, stop: Signal) -> Result<Self> {
        use std::os::unix::process::CommandExt as _;
        let child = command
            .stdin(Stdio::null())
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {}", command.get_program().to_string_lossy()))?;
        Ok(Self { child, stop })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Sends it a signal, if it still runs.
    pub fn signal(&mut self, signal: Signal) {
        if self.ended().is_none()
            && let Ok(raw) = i32::try_from(self.child.id())
            && let Some(pid) = Pid::from_raw(raw)
        {
            let _ = kill_process(pid, signal);
        }
    }

    /// Asks it to end, waits as long as `limit`, then kills it.
    pub fn stop(&mut self, limit: Duration) -> ExitStatus {
        self.signal(self.stop);
        wait(&mut self.child, limit).map_or_else(|_| ExitStatus::from_raw(9), |(status, _)| status)
    }

    /// Kills it at once (kill -9) and waits until it is gone.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.stop(Duration::from_secs(5));
    }
}
