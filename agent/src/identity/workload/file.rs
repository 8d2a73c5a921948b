//! Reading a file as a process sees it, with what that process may read.
//!
//! The path is the process's: it may be a link, lead to a pipe, or to a file system that the process itself
//! answers for. So it is opened below the process's root, on a thread that has the process's user and groups
//! for the file system (the kernel itself decides what may be read), and nobody waits long for it.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::Duration;

use rustix::fs::{Gid, Mode, OFlags, ResolveFlags, Uid};
use zeroize::Zeroizing;

use super::tree::Account;
use crate::identity::oidc::MAX_TOKEN;

/// How long a file may take to be read.
const PATIENCE: Duration = Duration::from_secs(2);

/// Readings of one user that may be under way: those whose file system does not answer stay so.
const MAX_READINGS: usize = 4;

/// Readings that are under way, by user.
#[derive(Debug, Default)]
pub(super) struct Readings(Mutex<HashMap<u32, usize>>);

struct Reading {
    readings: Arc<Readings>,
    uid: u32,
}

impl Readings {
    fn begin(self: &Arc<Self>, uid: u32) -> io::Result<Reading> {
        let mut readings = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let own = readings.entry(uid).or_default();
        if *own >= MAX_READINGS {
            return Err(io::Error::other("files of this user do not answer"));
        }
        *own += 1;
        Ok(Reading { readings: Arc::clone(self), uid })
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        let mut readings = self.readings.0.lock().unwrap_or_else(PoisonError::into_inner);
        match readings.get_mut(&self.uid) {
            Some(own) if *own > 1 => *own -= 1,
            _ => drop(readings.remove(&self.uid)),
        }
    }
}

/// Reads a file of a process, at most one byte more than a token may have.
pub(super) fn read(
    pid: i32,
    account: &Account,
    path: &Path,
    readings: &Arc<Readings>,
) -> io::Result<Zeroizing<Vec<u8>>> {
    if !path.is_absolute() {
        return Err(io::Error::other("it is no absolute path"));
    }
    let reading = readings.begin(account.uid)?;
    // Before the thread becomes another user: only root may open another's root.
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(format!("/proc/{pid}/root"), flags, Mode::empty())?;
    let (account, path) = (account.clone(), path.to_owned());
    let (done, result) = mpsc::sync_channel(1);
    // A thread of its own, which ends with it: who a thread is must not stay on one that is used again.
    std::thread::Builder::new().name("token-file".to_owned()).spawn(move || {
        let _ = done.send(become_user(&account).and_then(|()| open(&root, &path)));
        drop(reading);
    })?;
    result.recv_timeout(PATIENCE).unwrap_or_else(|_| Err(io::Error::other("it does not answer")))
}

/// Has this thread see files as that user. Root of this host stays who it is.
fn become_user(account: &Account) -> io::Result<()> {
    if !rustix::process::geteuid().is_root() || account.fs_uid == 0 {
        return Ok(());
    }
    let groups: Vec<Gid> = account.groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
    rustix::thread::set_thread_groups(&groups)?;
    rustix::thread::set_thread_res_gid(None, Some(Gid::from_raw(account.fs_gid)), None)?;
    // With it go root's rights to read everything.
    rustix::thread::set_thread_res_uid(None, Some(Uid::from_raw(account.fs_uid)), None)?;
    Ok(())
}

fn open(root: &impl std::os::fd::AsFd, path: &Path) -> io::Result<Zeroizing<Vec<u8>>> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    // Links lead nowhere but below the root; those of /proc lead nowhere.
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let file = File::from(rustix::fs::openat2(root, path, flags, Mode::empty(), resolve)?);
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    // Room for all of it at once: none of it is left behind in memory that was too small.
    let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_TOKEN + 64));
    file.take(MAX_TOKEN as u64 + 2).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    fn me() -> (i32, Account) {
        let pid = i32::try_from(std::process::id()).unwrap();
        (pid, Account::of(pid).unwrap())
    }

    fn look(account: &Account, path: &Path) -> io::Result<Vec<u8>> {
        read(me().0, account, path, &Arc::default()).map(|bytes| bytes.to_vec())
    }

    #[test]
    fn links_are_followed_and_what_is_no_file_is_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let (token, link) = (dir.path().join("token"), dir.path().join("link"));
        std::fs::write(&token, "abc").unwrap();
        symlink("token", &link).unwrap();
        let (_, own) = me();
        assert_eq!(look(&own, &link).unwrap(), b"abc");
        assert_eq!(look(&own, &dir.path().join("none")).unwrap_err().kind(), io::ErrorKind::NotFound);
        for other in [Path::new("/dev/zero"), dir.path(), Path::new("/proc/self/fd/0"), Path::new("token")] {
            assert!(look(&own, other).is_err(), "{}", other.display());
        }
        let pipe = dir.path().join("pipe");
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, Mode::RUSR, 0).unwrap();
        assert!(look(&own, &pipe).is_err());
        std::fs::write(&token, vec![b'a'; 2 * MAX_TOKEN]).unwrap();
        assert_eq!(look(&own, &token).unwrap().len(), MAX_TOKEN + 2);
    }

    /// The rights are those of the process, directories on the way included.
    #[test]
    fn what_the_process_cannot_read_is_not_read_for_it() {
        let (_, own) = me();
        if own.uid != 0 {
            return;
        }
        let nobody = Account { uid: 65534, fs_uid: 65534, fs_gid: 65534, groups: vec![12], depth: 1 };
        let dir = tempfile::tempdir().unwrap();
        let token = dir.path().join("token");
        std::fs::write(&token, "abc").unwrap();
        let mode = |path: &Path, mode| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode));
        mode(&token, 0o644).unwrap();
        mode(dir.path(), 0o700).unwrap();
        assert_eq!(look(&nobody, &token).unwrap_err().kind(), io::ErrorKind::PermissionDenied);
        mode(dir.path(), 0o755).unwrap();
        assert_eq!(look(&nobody, &token).unwrap(), b"abc");
        mode(&token, 0o640).unwrap();
        assert!(look(&nobody, &token).is_err());
        rustix::fs::chown(&token, None, Some(Gid::from_raw(12))).unwrap();
        assert_eq!(look(&nobody, &token).unwrap(), b"abc");
        assert_eq!(rustix::process::geteuid().as_raw(), 0, "this thread is who it was");
    }

    #[test]
    fn a_user_whose_files_do_not_answer_takes_few_threads() {
        let readings: Arc<Readings> = Arc::default();
        let held: Vec<_> = (0..MAX_READINGS).map(|_| readings.begin(7).unwrap()).collect();
        assert!(readings.begin(7).is_err());
        assert!(readings.begin(8).is_ok());
        drop(held);
        assert!(readings.0.lock().unwrap().is_empty());
    }
}
