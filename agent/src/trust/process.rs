//! Running other programs, bounded in time and output.

use std::ffi::OsStr;
use std::io::Read;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process_group};

/// Most of a program's output that is kept, in bytes.
const MAX_OUTPUT: u64 = 4 << 20;
/// How long a tool that rebuilds a store may take: on a slow disk they take many seconds.
const TOOL_LIMIT: Duration = Duration::from_secs(180);

/// What a program left.
#[derive(Debug)]
pub(super) struct Finished {
    /// `None`: it took too long and was killed.
    pub(super) status: Option<ExitStatus>,
    pub(super) stdout: String,
    pub(super) stderr: String,
}

impl Finished {
    pub(super) fn success(&self) -> bool {
        self.status.is_some_and(|status| status.success())
    }

    /// The line that tells most of why it failed: one about certificates, else the last.
    pub(super) fn reason(&self) -> &str {
        let lines = || self.stderr.lines().chain(self.stdout.lines()).map(str::trim);
        let telling = |line: &&str| {
            let line = line.to_ascii_lowercase();
            ["certificate", "verif", "pkix", "ssl", "tls"].iter().any(|word| line.contains(word))
        };
        lines().find(telling).unwrap_or_else(|| self.last_line())
    }

    /// The last line of its errors (or of its output) that is not empty.
    pub(super) fn last_line(&self) -> &str {
        let of = |text| str::lines(text).map(str::trim).rfind(|line| !line.is_empty());
        of(&self.stderr).or_else(|| of(&self.stdout)).unwrap_or_default()
    }
}

/// Runs `command` to its end, or until `limit` has passed: then it is killed with all that it started.
pub(super) fn finish(command: &mut Command, limit: Duration) -> anyhow::Result<Finished> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .with_context(|| format!("cannot start {}", command.get_program().display()))?;
    let end = Instant::now() + limit;
    let stdout = drain(child.stdout.take());
    let stderr = drain(child.stderr.take());
    let mut pause = Duration::from_millis(1);
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break Some(status);
        }
        if Instant::now() >= end {
            if let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
                let _ = kill_process_group(group, Signal::KILL);
            }
            let _ = child.kill();
            child.wait()?;
            break None;
        }
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    };
    // A process that it left behind may hold the pipes: what came until then is enough.
    let text = |receiver: mpsc::Receiver<Vec<u8>>| {
        let bytes = receiver.recv_timeout(Duration::from_secs(1)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    };
    Ok(Finished { status, stdout: text(stdout), stderr: text(stderr) })
}

fn drain(pipe: Option<impl Read + Send + 'static>) -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            let _ = pipe.by_ref().take(MAX_OUTPUT).read_to_end(&mut bytes);
            // The rest is read all the same, so that the program does not block.
            let _ = std::io::copy(&mut pipe, &mut std::io::sink());
        }
        let _ = sender.send(bytes);
    });
    receiver
}

/// The programs that keep stores of certificates.
pub(super) trait Tools {
    /// Runs `program` with `root` as its root directory and gives what it printed.
    ///
    /// # Errors
    /// It cannot be started, fails, or takes too long; the message has its last words.
    fn run(&self, root: &Path, program: &Path, arguments: &[&OsStr]) -> anyhow::Result<String>;

    /// Where this program is on the host, if it is.
    fn find(&self, program: &str) -> Option<PathBuf>;
}

/// Those of this host.
#[derive(Debug)]
pub(super) struct HostTools;

impl Tools for HostTools {
    fn run(&self, root: &Path, program: &Path, arguments: &[&OsStr]) -> anyhow::Result<String> {
        let mut command = if root == Path::new("/") {
            Command::new(program)
        } else {
            let mut command = Command::new("chroot");
            command.arg(root).arg(program);
            command
        };
        command.args(arguments).current_dir("/").env("LC_ALL", "C");
        // The root that is worked on, not what the caller's shell trusts or loads into Java.
        for name in
            ["SSL_CERT_FILE", "SSL_CERT_DIR", "JAVA_TOOL_OPTIONS", "_JAVA_OPTIONS", "JDK_JAVA_OPTIONS"]
        {
            command.env_remove(name);
        }
        let finished = finish(&mut command, TOOL_LIMIT)?;
        match finished.status {
            Some(status) if status.success() => Ok(finished.stdout),
            Some(status) => bail!("{} failed ({status}): {}", program.display(), finished.last_line()),
            None => bail!("{} took longer than {} s", program.display(), TOOL_LIMIT.as_secs()),
        }
    }

    fn find(&self, program: &str) -> Option<PathBuf> {
        find(program, std::env::var_os("PATH").as_deref())
    }
}

/// Looks `program` up in `path`, and where systems have programs for root.
pub(super) fn find(program: &str, path: Option<&OsStr>) -> Option<PathBuf> {
    let further = ["/usr/local/sbin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"].map(PathBuf::from);
    let directories = path.into_iter().flat_map(std::env::split_paths).chain(further);
    directories.map(|directory| directory.join(program)).find(|path| is_program(path))
}

fn is_program(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    path.is_absolute()
        && path.metadata().is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_hangs_is_ended_with_what_it_started() {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "echo begun; sleep 1000 & echo $! ; sleep 1000"]);
        let finished = finish(&mut command, Duration::from_millis(300)).unwrap();
        assert!(finished.status.is_none());
        assert!(finished.stdout.starts_with("begun"), "{}", finished.stdout);
        let left: i32 = finished.stdout.lines().nth(1).unwrap().parse().unwrap();
        // The kernel takes a moment to end it.
        let ended = (0..500).any(|_| {
            thread::sleep(Duration::from_millis(10));
            let stat = std::fs::read_to_string(format!("/proc/{left}/stat")).unwrap_or_default();
            stat.is_empty() || stat.contains(") Z ")
        });
        assert!(ended, "{left} goes on");
    }

    #[test]
    fn the_last_words_of_a_failure_are_told() {
        let arguments = ["-c", "echo first >&2; echo second >&2; echo >&2; exit 3"].map(OsStr::new);
        let error = HostTools.run(Path::new("/"), Path::new("/bin/sh"), &arguments).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("second") && text.contains('3'), "{text}");
    }
}
