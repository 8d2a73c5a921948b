//! The asking side.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Answer, MAX_LINE, Request, socket_path};

/// How long an answer may take.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// No agent listens there.
    #[error("no agent answers at {0}: is `interlock agent` running with this configuration?")]
    NotRunning(PathBuf),
    /// The socket cannot be reached.
    #[error("cannot talk to the agent at {path}: {error}")]
    Io {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// The agent refused.
    #[error("{0}")]
    Refused(String),
}

/// Asks the agent with this run directory.
///
/// # Errors
/// There is no agent, or it refuses.
pub fn ask(run: &Path, request: &Request) -> Result<serde_json::Value, ControlError> {
    let path = socket_path(run);
    let answer = exchange(&path, request).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => ControlError::NotRunning(path.clone()),
        _ => ControlError::Io { path: path.clone(), error },
    })?;
    match answer {
        Answer::Done(value) => Ok(value),
        Answer::Refused(reason) => Err(ControlError::Refused(reason)),
    }
}

fn exchange(path: &Path, request: &Request) -> io::Result<Answer> {
    let mut stream = UnixStream::connect(path)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    let mut answer = String::new();
    BufReader::new(stream).take(MAX_LINE).read_line(&mut answer)?;
    if answer.is_empty() {
        return Err(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            "it closed the connection without an answer",
        ));
    }
    Ok(serde_json::from_str(&answer)?)
}
