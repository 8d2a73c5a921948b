//! The file that bindings are kept in over a restart of the agent.
//!
//! It holds hashes, whose they are, and until when; no tokens. Written whole or not at all.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::holder::{Holder, OtherHost};

const FILE: &str = "bindings.json";

/// Where one is put that cannot be used, to be looked into.
const DAMAGED: &str = "bindings.damaged";

/// The longest file, in bytes: room for as many as there may be.
const MAX_FILE: u64 = 64 << 20;

/// The form of what is kept.
const VERSION: u32 = 1;

/// All that is kept.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Kept {
    version: u32,
    /// Which start of the host processes are of.
    boot: String,
    /// What was bound before this time is not known, seconds since the Unix epoch.
    pub(super) lost: Option<i64>,
    pub(super) bound: Vec<Entry>,
}

/// A token that belongs to somebody.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Entry {
    pub(super) hash: String,
    pub(super) holder: Holder,
    pub(super) uid: u32,
    /// Milliseconds since the Unix epoch.
    pub(super) until: i64,
    /// It is theirs beyond that while their tree lives.
    #[serde(default)]
    pub(super) lives: bool,
    /// By what a collector knows it, hexadecimal, and its issuer.
    pub(super) digest: Option<String>,
    pub(super) issuer: String,
    /// What the collector has said.
    pub(super) word: Option<Word>,
}

/// What a collector says of a token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub(super) enum Word {
    /// This host had it first.
    Own,
    /// Another one had.
    Other(OtherHost),
}

impl Kept {
    pub(super) fn new(lost: Option<i64>, bound: Vec<Entry>) -> io::Result<Self> {
        Ok(Self { version: VERSION, boot: boot()?, lost, bound })
    }
}

/// Which start of the host this is.
fn boot() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

/// Reads what was kept; `None` when nothing was. Of another start of the host, holders are what is left of them.
pub(super) fn load(state: &Path, most: usize) -> io::Result<Option<Kept>> {
    let wrong = |why: &str| io::Error::new(io::ErrorKind::InvalidData, why.to_owned());
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC;
    let file = match OpenOptions::new().read(true).custom_flags(flags).open(state.join(FILE)) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let found = file.metadata()?;
    if !found.is_file() || found.uid() != rustix::process::geteuid().as_raw() || found.mode() & 0o077 != 0 {
        return Err(wrong("others than the agent's user could have read or written it"));
    }
    let mut bytes = Vec::new();
    file.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(wrong("it is too long"));
    }
    let mut kept: Kept = serde_json::from_slice(&bytes)?;
    let is_hash = |text: &str| text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let is_sound = |entry: &Entry| is_hash(&entry.hash) && entry.digest.as_deref().is_none_or(is_hash);
    if kept.version != VERSION || kept.bound.len() > most || !kept.bound.iter().all(is_sound) {
        return Err(wrong("it holds what this version does not keep"));
    }
    if kept.boot != boot()? {
        kept.bound = kept
            .bound
            .into_iter()
            .filter_map(|entry| Some(Entry { holder: entry.holder.clone().after_boot()?, ..entry }))
            .collect();
    }
    Ok(Some(kept))
}

/// Puts a file that cannot be used out of the way.
pub(super) fn set_aside(state: &Path) {
    let _ = fs::rename(state.join(FILE), state.join(DAMAGED));
}

/// Keeps all of it; on disk when this returns.
pub(super) fn save(state: &Path, kept: &Kept) -> io::Result<()> {
    let fresh = state.join("bindings.json.new");
    match fs::remove_file(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh)?;
    file.write_all(&serde_json::to_vec(kept)?)?;
    file.sync_all()?;
    fs::rename(&fresh, state.join(FILE))?;
    File::open(state)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::super::holder::Process;
    use super::*;

    fn entry(holder: Holder) -> Entry {
        let (hash, issuer) = ("ab".repeat(32), "https://id.example".to_owned());
        Entry { hash, holder, uid: 7, until: 5000, lives: false, digest: None, issuer, word: Some(Word::Own) }
    }

    #[test]
    fn what_is_kept_is_read_again_and_of_another_boot_what_is_left_of_it() {
        let dir = tempfile::tempdir().unwrap();
        assert!(load(dir.path(), 9).unwrap().is_none());
        let process = Process { pid: 4, start: 5 };
        let tree = Holder::Tree { top: process, parent: process, uid: 7, cgroup: "/job".to_owned() };
        let all = || {
            let container = |name: &str| Holder::Container(name.to_owned());
            [tree.clone(), container("pod 1-2"), container("user 7 in mount namespace 1")]
                .map(entry)
                .into_iter()
                .collect::<Vec<_>>()
        };
        let mut kept = Kept::new(Some(3), all()).unwrap();
        save(dir.path(), &kept).unwrap();
        save(dir.path(), &kept).unwrap();
        let mode = fs::metadata(dir.path().join(FILE)).unwrap().mode();
        assert_eq!(mode & 0o777, 0o600);
        let read = load(dir.path(), 9).unwrap().unwrap();
        assert_eq!((read.lost, read.bound), (Some(3), all()));
        kept.boot = "another".to_owned();
        save(dir.path(), &kept).unwrap();
        let holders: Vec<_> =
            load(dir.path(), 9).unwrap().unwrap().bound.into_iter().map(|entry| entry.holder).collect();
        assert_eq!(holders, [Holder::Ended { uid: 7 }, Holder::Container("pod 1-2".to_owned())]);
    }

    #[test]
    fn what_is_damaged_or_others_could_have_written_is_not_used() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        let kept = Kept::new(None, vec![entry(Holder::Ended { uid: 1 })]).unwrap();
        save(dir.path(), &kept).unwrap();
        let good = fs::read_to_string(&path).unwrap();
        assert!(load(dir.path(), 0).is_err(), "more than there may be");
        for bad in [
            String::new(),
            good[..good.len() - 3].to_owned(),
            good.replace("\"version\":1", "\"version\":2"),
            good.replace("\"uid\":7", "\"uid\":7,\"more\":1"),
            good.replace("abab", "zzzz"),
            "[".repeat(100_000),
        ] {
            fs::write(&path, bad).unwrap();
            assert!(load(dir.path(), 9).is_err());
        }
        fs::write(&path, &good).unwrap();
        assert!(load(dir.path(), 9).unwrap().is_some());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(load(dir.path(), 9).is_err());
        fs::rename(&path, dir.path().join("elsewhere")).unwrap();
        symlink("elsewhere", &path).unwrap();
        assert!(load(dir.path(), 9).is_err(), "a link");
        set_aside(dir.path());
        assert!(load(dir.path(), 9).unwrap().is_none());
    }
}
