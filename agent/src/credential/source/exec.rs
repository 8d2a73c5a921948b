//! Programs that print a secret.

use std::io::Read as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};
use zeroize::Zeroizing;

use super::json::SecretJson;
use super::{Fetched, MAX_SECRET, SourceError, Validity, check_unchangeable, password, without_newline};
use crate::credential::config::{ExecConfig, ExecOutput};

/// How often it is looked whether the program has ended, after its output has.
const LOOK: Duration = Duration::from_millis(5);

/// A program that prints a secret.
#[derive(Debug)]
pub(in super::super) struct Exec {
    config: ExecConfig,
    program: String,
}

impl Exec {
    pub(super) fn new(config: &ExecConfig) -> Result<Self, SourceError> {
        let program = config.command.first().cloned().unwrap_or_default();
        if !Path::new(&program).is_absolute() {
            return Err(SourceError::forbidden(
                format!("{program:?} is no absolute path of a program"),
                "write `command: [/path/of/program, argument, …]`",
            ));
        }
        if !(1..=300).contains(&config.timeout_seconds) || config.refresh_seconds == 0 {
            return Err(SourceError::forbidden(
                format!("program {program}: its times are out of bounds"),
                "`timeout_seconds` is from 1 to 300, `refresh_seconds` at least 1",
            ));
        }
        match check_unchangeable(Path::new(&program)) {
            Err(error) if error.forbidden => Err(error),
            // It may yet be put there.
            _ => Ok(Self { config: config.clone(), program }),
        }
    }

    pub(super) fn program(&self) -> &str {
        &self.program
    }

    pub(super) fn fetch(&self) -> Result<Fetched, SourceError> {
        check_unchangeable(Path::new(&self.program))?;
        let output = self.run()?;
        let whence = format!("the output of {}", self.program);
        let period = Duration::from_secs(self.config.refresh_seconds);
        match self.config.output {
            ExecOutput::Text => Ok(Fetched {
                user: None,
                password: password(without_newline(&output), &whence)?,
                validity: Validity::refreshed_after(period),
            }),
            ExecOutput::Json => self.json(&output, &whence, period),
        }
    }

    fn json(&self, output: &[u8], whence: &str, period: Duration) -> Result<Fetched, SourceError> {
        let help = "print {\"password\": \"…\", \"username\": \"…\", \"expires_at\": \"2026-01-31T12:00:00Z\"}, the last two if need be";
        let wrong = |what: &str| SourceError::new(format!("{whence} {what}"), help);
        let json = SecretJson::parse(output).ok_or_else(|| wrong("is not JSON"))?;
        let text = |field: &str| json.value().get(field).and_then(serde_json::Value::as_str);
        let given = text("password").ok_or_else(|| wrong("has no \"password\""))?;
        let validity = match json.value().get("expires_at") {
            None | Some(serde_json::Value::Null) => Validity::refreshed_after(period),
            Some(at) => {
                let at: jiff::Timestamp = at
                    .as_str()
                    .and_then(|at| at.parse().ok())
                    .ok_or_else(|| wrong("has an \"expires_at\" that is no time of RFC 3339"))?;
                let left = Duration::try_from(at.duration_since(jiff::Timestamp::now()))
                    .ok()
                    .filter(|left| !left.is_zero())
                    .ok_or_else(|| wrong("has an \"expires_at\" that has passed"))?;
                Validity::lasting(left)
            }
        };
        let user = text("username").map(str::to_owned);
        Ok(Fetched { user, password: password(given.as_bytes(), whence)?, validity })
    }

    /// What the program prints. Its errors are not taken: they may show the secret (`set -x`).
    fn run(&self) -> Result<Zeroizing<Vec<u8>>, SourceError> {
        let failed = |what: String| {
            SourceError::new(
                format!("program {} {what}", self.program),
                "run it by hand as root to see what it says (its environment is empty but for PATH)",
            )
        };
        let deadline = Instant::now() + Duration::from_secs(self.config.timeout_seconds);
        let mut child = Command::new(&self.program)
            .args(self.config.command.get(1..).unwrap_or_default())
            .env_clear()
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .map(|child| Running(child, false))
            .map_err(|error| failed(format!("cannot be started: {error}")))?;
        let stdout = child.0.stdout.take();
        let (send, received) = channel();
        // Ends with the program, which is killed at the latest below.
        std::thread::spawn(move || {
            let mut output = Zeroizing::new(Vec::with_capacity(MAX_SECRET + 64));
            let read = stdout.map(|stdout| stdout.take(MAX_SECRET as u64 + 1).read_to_end(&mut output));
            let _ = send.send(read.transpose().map(|_| output));
        });
        let seconds = self.config.timeout_seconds;
        let output = received
            .recv_timeout(deadline.saturating_duration_since(Instant::now()))
            .map_err(|_| failed(format!("did not finish within {seconds} s")))?
            .map_err(|error| failed(format!("cannot be read: {error}")))?;
        if output.len() > MAX_SECRET {
            return Err(failed(format!("printed more than {MAX_SECRET} bytes")));
        }
        let status = loop {
            if let Some(status) = child.0.try_wait().map_err(|error| failed(error.to_string()))? {
                child.1 = true;
                break status;
            }
            if Instant::now() >= deadline {
                return Err(failed(format!("did not finish within {seconds} s")));
            }
            std::thread::sleep(LOOK);
        };
        if status.success() { Ok(output) } else { Err(failed(format!("failed ({status})"))) }
    }
}

/// Killed with all that it has started when dropped, unless it has ended: its number may be another's then.
struct Running(Child, bool);

impl Drop for Running {
    fn drop(&mut self) {
        if self.1 {
            return;
        }
        if let Some(group) = i32::try_from(self.0.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process_group(group, Signal::KILL);
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exec(script: &str, output: ExecOutput, timeout_seconds: u64) -> Result<Fetched, SourceError> {
        let command = ["/bin/sh", "-c", script].map(str::to_owned).to_vec();
        Exec::new(&ExecConfig { command, output, timeout_seconds, refresh_seconds: 60 })?.fetch()
    }

    fn text(script: &str) -> Result<Fetched, SourceError> {
        exec(script, ExecOutput::Text, 10)
    }

    #[test]
    fn the_output_is_the_password() {
        let fetched = text("echo hunter2").unwrap();
        assert_eq!(fetched.password.expose(), b"hunter2");
        assert!(fetched.validity.refresh.is_some() && fetched.validity.expires.is_none());
    }

    #[test]
    fn json_tells_the_user_and_how_long() {
        let json = |script| exec(script, ExecOutput::Json, 10);
        let fetched =
            json(r#"echo '{"password":"p\"w","username":"u","expires_at":"2999-01-01T00:00:00Z"}'"#).unwrap();
        assert_eq!((fetched.password.expose(), fetched.user.as_deref()), (&b"p\"w"[..], Some("u")));
        assert!(fetched.validity.refresh < fetched.validity.expires);
        for (script, what) in [
            ("echo hunter2", "not JSON"),
            (r#"echo '{"username":"u"}'"#, "no \"password\""),
            (r#"echo '{"password":"hunter2","expires_at":"2001-01-01T00:00:00Z"}'"#, "has passed"),
            (r#"echo '{"password":"hunter2","expires_at":12}'"#, "RFC 3339"),
        ] {
            let error = json(script).unwrap_err().to_string();
            assert!(error.contains(what) && !error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn the_environment_is_clean() {
        let fetched = text("/usr/bin/env | cut -d= -f1 | sort | tr '\\n' ' '").unwrap();
        // The shell sets PWD itself.
        let names = String::from_utf8(fetched.password.expose().to_vec()).unwrap();
        assert!(
            names.split_whitespace().all(|name| ["PATH", "PWD", "_", "SHLVL", "OLDPWD"].contains(&name)),
            "{names}"
        );
    }

    #[test]
    fn what_fails_says_so_and_shows_nothing() {
        for (script, what) in [
            ("echo hunter2; echo hunter2 >&2; exit 3", "exit status: 3"),
            ("true", "no password"),
            ("yes hunter2", "more than"),
            ("kill -9 $$", "signal: 9"),
        ] {
            let error = text(script).unwrap_err().to_string();
            assert!(error.contains(what) && !error.contains("hunter2"), "{error}");
        }
        let missing = ExecConfig {
            command: vec!["/nonexistent/program".into()],
            output: ExecOutput::Text,
            timeout_seconds: 1,
            refresh_seconds: 1,
        };
        assert!(Exec::new(&missing).unwrap().fetch().is_err());
        assert!(Exec::new(&ExecConfig { command: vec!["sh".into()], ..missing }).is_err());
    }

    #[test]
    fn a_program_that_hangs_is_killed_with_its_children() {
        let directory = tempfile::tempdir().unwrap();
        let pid = directory.path().join("pid");
        let script = format!("sleep 1000 & echo $! > {}; wait", pid.display());
        assert!(exec(&script, ExecOutput::Text, 1).unwrap_err().problem.contains("within 1 s"));
        let child: i32 = std::fs::read_to_string(pid).unwrap().trim().parse().unwrap();
        let gone = || {
            let stat = std::fs::read_to_string(format!("/proc/{child}/stat"));
            stat.map_or(true, |stat| stat.contains(") Z "))
        };
        for _ in 0..1000 {
            if gone() {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("{child} lives on");
    }

    #[test]
    fn a_program_that_others_can_change_is_not_run() {
        use std::os::unix::fs::PermissionsExt as _;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("program");
        std::fs::write(&path, "#!/bin/sh\necho hunter2\n").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o777)).unwrap();
        let config = ExecConfig {
            command: vec![path.to_string_lossy().into_owned()],
            output: ExecOutput::Text,
            timeout_seconds: 5,
            refresh_seconds: 60,
        };
        assert!(Exec::new(&config).unwrap_err().forbidden);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).unwrap();
        assert_eq!(Exec::new(&config).unwrap().fetch().unwrap().password.expose(), b"hunter2");
    }
}
