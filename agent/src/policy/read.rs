//! Finding and reading policy files, and who could have changed them.

use std::fs::{File, Metadata, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use super::problem::{Position, Problem};
use super::yaml::MAX_FILE;

/// Whether files that others than root can change are refused. The agent always asks
/// [`Trust::of_process`], and so does `policy check`: what it passes the agent takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trust {
    /// They are: who is held by a policy must not be able to change it.
    Root,
    /// They are noted.
    Anyone,
}

impl Trust {
    /// What holds for this process: policies matter to root alone.
    pub(crate) fn of_process() -> Self {
        if rustix::process::geteuid().is_root() { Self::Root } else { Self::Anyone }
    }
}

/// It is a policy file by its name.
pub(crate) fn is_policy(path: &Path) -> bool {
    let name = path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
    (name.ends_with(".yaml") || name.ends_with(".yml")) && !is_test(path) && !name.starts_with(['.', '#'])
}

/// It holds test cases by its name.
pub(crate) fn is_test(path: &Path) -> bool {
    let name = path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
    (name.ends_with(".test.yaml") || name.ends_with(".test.yml")) && !name.starts_with('.')
}

/// A file's text, with a warning where others than root can change it.
pub(crate) fn read(path: &Path, trust: Trust) -> Result<(String, Option<Problem>), Problem> {
    let name = path.to_string_lossy();
    let problem = |message: String| Problem::error(&name, Position::WHOLE, message);
    // A pipe must not stop the agent.
    let nonblocking = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let mut open = OpenOptions::new();
    let file: File = open
        .read(true)
        .custom_flags(nonblocking)
        .open(path)
        .map_err(|error| problem(format!("cannot be opened: {error}")))?;
    let metadata = file.metadata().map_err(|error| problem(format!("cannot be read: {error}")))?;
    if !metadata.is_file() {
        return Err(problem("is no regular file".to_owned()).help("remove or rename it"));
    }
    let warning = distrust(&name, &metadata, trust)?;
    let mut bytes = Vec::new();
    file.take(MAX_FILE as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| problem(format!("cannot be read: {error}")))?;
    let text = String::from_utf8(bytes).map_err(|error| {
        problem(format!("is not UTF-8: byte {} is no part of a character", error.utf8_error().valid_up_to()))
            .help("save it as UTF-8")
    })?;
    Ok((text, warning))
}

/// Others than root can change it: refused, or a warning, depending on `trust`.
pub(super) fn distrust(name: &str, metadata: &Metadata, trust: Trust) -> Result<Option<Problem>, Problem> {
    let mode = metadata.mode();
    let found = if metadata.uid() != 0 {
        Some((
            format!("belongs to user {} and not to root", metadata.uid()),
            format!("chown root:root {name}"),
        ))
    } else if mode & 0o002 != 0 {
        Some(("can be changed by everybody".to_owned(), format!("chmod o-w {name}")))
    } else if mode & 0o020 != 0 {
        Some((format!("can be changed by group {}", metadata.gid()), format!("chmod g-w {name}")))
    } else {
        None
    };
    let Some((what, command)) = found else { return Ok(None) };
    let message = format!("{what}: who is held by a policy must not be able to change it");
    let help = format!("run `{command}`");
    match trust {
        Trust::Root => Err(Problem::error(name, Position::WHOLE, message).help(help)),
        Trust::Anyone => Ok(Some(Problem::warning(name, Position::WHOLE, message).help(help))),
    }
}
