//! Files that only root can read, systemd's credentials among them.

use std::fs::{Metadata, OpenOptions};
use std::io::{ErrorKind, Read as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::{Fetched, MAX_SECRET, SourceError, Validity, password, without_newline};

/// Where systemd keeps the credentials of the agent's unit.
const UNITS_CREDENTIALS: &str = "/run/credentials/interlock.service";

/// A file that holds a password.
#[derive(Debug)]
pub(in super::super) struct File(PathBuf);

/// What tells one state of a file from another without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    changed: (i64, i64),
}

impl From<&Metadata> for Stamp {
    fn from(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            // Unlike the time of the last write, this one cannot be set back.
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

impl File {
    pub(super) fn new(path: &Path) -> Result<Self, SourceError> {
        if !path.is_absolute() {
            return Err(SourceError::forbidden(
                format!("{} is no absolute path", path.display()),
                "write the path from the root",
            ));
        }
        Ok(Self(path.to_owned()))
    }

    /// `$CREDENTIALS_DIRECTORY/NAME` (systemd.exec(5), "Credentials").
    pub(super) fn of_systemd(name: &str) -> Result<Self, SourceError> {
        let plain = !name.is_empty()
            && name.len() <= 255
            && !name.contains(['/', '\0'])
            && name != "."
            && name != "..";
        if !plain {
            return Err(SourceError::forbidden(
                format!("{name:?} is no name of a systemd credential"),
                "write the name that stands before the colon in LoadCredential=",
            ));
        }
        let own = std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from);
        // Who checks by hand what the agent's unit has is not started by systemd.
        let units = || Some(PathBuf::from(UNITS_CREDENTIALS)).filter(|directory| directory.is_dir());
        let directory = own.or_else(units).ok_or_else(|| {
            SourceError::forbidden(
                format!("the systemd credential {name} cannot be had: the agent was started without any"),
                format!("set LoadCredential={name}:/path in a drop-in of interlock.service"),
            )
        })?;
        Self::new(&directory.join(name))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    pub(super) fn stamp(&self) -> Option<Stamp> {
        std::fs::metadata(&self.0).ok().as_ref().map(Stamp::from)
    }

    pub(super) fn fetch(&self) -> Result<Fetched, SourceError> {
        let content = read_private(&self.0)?;
        let password = password(without_newline(&content), &self.0.display().to_string())?;
        Ok(Fetched { user: None, password, validity: Validity::UNTIL_CHANGED })
    }
}

/// Reads a file that belongs to root (or to whom the agent runs as) and that nobody else can read.
pub(crate) fn read_private(path: &Path) -> Result<Zeroizing<Vec<u8>>, SourceError> {
    let shown = path.display();
    let unreadable = |error: std::io::Error| {
        let help = match error.kind() {
            ErrorKind::NotFound => "put it there, owned by root with mode 0600",
            _ => "see that the agent can read it",
        };
        SourceError::new(format!("cannot read {shown}: {error}"), help)
    };
    // A pipe would have the agent wait for a writer.
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path).map_err(unreadable)?;
    // Of what was opened, not of what has the name by now.
    let metadata = file.metadata().map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(SourceError::forbidden(format!("{shown} is no file"), "name a file"));
    }
    let own = rustix::process::geteuid().as_raw();
    if metadata.uid() != 0 && metadata.uid() != own {
        return Err(SourceError::forbidden(
            format!("{shown} belongs to user {}, not to root", metadata.uid()),
            format!("chown root {shown}"),
        ));
    }
    if metadata.mode() & 0o077 != 0 {
        return Err(SourceError::forbidden(
            format!("{shown} can be used by others than root (mode {:o})", metadata.mode() & 0o7777),
            format!("chmod 600 {shown}"),
        ));
    }
    // Large enough never to be moved, which would leave a copy behind.
    let mut content = Zeroizing::new(Vec::with_capacity(MAX_SECRET + 64));
    file.take(MAX_SECRET as u64 + 1).read_to_end(&mut content).map_err(unreadable)?;
    if content.len() > MAX_SECRET {
        return Err(SourceError::forbidden(
            format!("{shown} has more than {MAX_SECRET} bytes"),
            "see whether it is the right file",
        ));
    }
    Ok(content)
}

/// The same for a text, such as a token: without white space around it.
pub(in super::super) fn read_text(path: &Path) -> Result<Zeroizing<String>, SourceError> {
    let content = read_private(path)?;
    match std::str::from_utf8(&content) {
        Ok(text) => Ok(Zeroizing::new(text.trim().to_owned())),
        Err(_) => Err(SourceError::forbidden(
            format!("{} is no text", path.display()),
            "see whether it is the right file",
        )),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn file(content: &[u8], mode: u32) -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("secret");
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        (directory, path)
    }

    #[test]
    fn one_newline_at_the_end_does_not_count() {
        for (content, password) in [
            (&b"hunter2"[..], &b"hunter2"[..]),
            (b"hunter2\n", b"hunter2"),
            (b"hunter2\r\n", b"hunter2"),
            (b" hunter2 \n\n", b" hunter2 \n"),
        ] {
            let (_directory, path) = file(content, 0o600);
            assert_eq!(File::new(&path).unwrap().fetch().unwrap().password.expose(), password);
        }
    }

    #[test]
    fn what_others_can_read_is_not_taken() {
        for mode in [0o640, 0o604, 0o610, 0o666] {
            let (_directory, path) = file(b"hunter2", mode);
            let error = File::new(&path).unwrap().fetch().unwrap_err();
            assert!(error.forbidden && error.to_string().contains("chmod 600"), "{error}");
        }
    }

    #[test]
    fn what_is_no_password_is_not_taken() {
        for (content, what) in [
            (&b""[..], "no password"),
            (b"\n", "no password"),
            (b"a\0b", "zero byte"),
            (&[b'x'; MAX_SECRET + 1], "more than"),
        ] {
            let (_directory, path) = file(content, 0o600);
            let error = File::new(&path).unwrap().fetch().unwrap_err();
            assert!(error.problem.contains(what), "{error}");
        }
        let directory = tempfile::tempdir().unwrap();
        let missing = File::new(&directory.path().join("none")).unwrap().fetch().unwrap_err();
        assert!(!missing.forbidden && missing.help.contains("0600"), "{missing}");
        assert!(File::new(directory.path()).unwrap().fetch().unwrap_err().problem.contains("no file"));
        assert!(File::new(Path::new("secret")).is_err());
        for name in ["", "..", "a/b"] {
            assert!(File::of_systemd(name).is_err());
        }
    }

    #[test]
    fn a_change_shows() {
        let (_directory, path) = file(b"one", 0o600);
        let source = File::new(&path).unwrap();
        let before = source.stamp();
        assert_eq!(before, source.stamp());
        fs::write(path.with_extension("new"), b"two").unwrap();
        fs::rename(path.with_extension("new"), &path).unwrap();
        assert_ne!(before, source.stamp());
    }
}
