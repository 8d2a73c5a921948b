//! What is kept of the enrolment: `<state>/ship/`.

use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use x509_parser::prelude::{FromDer as _, X509Certificate};
use zeroize::{Zeroize as _, Zeroizing};

use super::{Address, DIRECTORY, Fault};

/// The enrolment, in one file, so that it is always of one piece.
const ENROLMENT: &str = "enrolment.json";
/// How far the collector had taken the recording.
const TAKEN: &str = "taken.json";
/// A file of ours is smaller by far.
const LARGEST: u64 = 64 << 10;

/// What a host has of its collector.
#[derive(Clone)]
pub(super) struct Enrolment {
    pub(super) address: Address,
    /// The collector's name: the origin of its ledger's checkpoints.
    pub(super) collector: String,
    /// The key of its ledger's checkpoints.
    pub(super) ledger_key: String,
    /// The key of its orders about policies; one that knew of none when this host was enrolled gave none.
    pub(super) policy_key: Option<String>,
    /// The authority's certificate, DER.
    pub(super) authority: Vec<u8>,
    /// The agent's certificate, DER.
    pub(super) certificate: Vec<u8>,
    /// Its key, PKCS #8.
    pub(super) key: Zeroizing<Vec<u8>>,
}

/// How far the collector has taken the recording.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Mark {
    /// It has all sealed segments before this one,
    pub(super) segment: u64,
    /// and all events before this one.
    pub(super) event: u64,
}

/// Tells one enrolment on disk from another without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    inode: u64,
    changed: (i64, i64),
}

/// The directory.
#[derive(Debug, Clone)]
pub struct Store {
    directory: PathBuf,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    version: u32,
    url: String,
    collector: String,
    ledger_key: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    policy_key: Option<String>,
    /// Base64 of DER, and of PKCS #8.
    authority: String,
    certificate: String,
    key: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredMark {
    /// SHA-256 of the authority's certificate: of which collector this is.
    authority: String,
    segment: u64,
    event: u64,
}

// === impl Enrolment ===

impl fmt::Debug for Enrolment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Enrolment").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Enrolment {
    /// From when until when the certificate counts, in seconds since the Unix epoch.
    pub(super) fn validity(&self) -> Option<(i64, i64)> {
        let (_, parsed) = X509Certificate::from_der(&self.certificate).ok()?;
        let validity = parsed.validity();
        Some((validity.not_before.timestamp(), validity.not_after.timestamp()))
    }

    /// Two thirds of the certificate's life are over at `now` (seconds since the Unix epoch).
    pub(super) fn is_due(&self, now: i64) -> bool {
        self.validity().is_some_and(|(from, until)| now >= from + (until - from) / 3 * 2)
    }

    /// SHA-256 of the authority's certificate, hexadecimal.
    pub(super) fn fingerprint(&self) -> String {
        interlock_recording::hex(&Sha256::digest(&self.authority))
    }
}

// === impl Store ===

impl Store {
    /// The one below this state directory.
    pub fn new(state: &Path) -> Self {
        Self { directory: state.join(DIRECTORY) }
    }

    /// This host is enrolled.
    pub fn is_enrolled(&self) -> bool {
        self.path(ENROLMENT).exists()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Which enrolment is there now.
    pub(super) fn stamp(&self) -> Option<Stamp> {
        let metadata = fs::symlink_metadata(self.path(ENROLMENT)).ok()?;
        Some(Stamp { inode: metadata.ino(), changed: (metadata.ctime(), metadata.ctime_nsec()) })
    }

    /// Reads the enrolment, if there is one.
    pub(super) fn load(&self) -> Result<Option<Enrolment>, Fault> {
        let path = self.path(ENROLMENT);
        let wrong = |what: &str| {
            Fault::Enrolment(format!("{} {what}: enrol this host anew (`interlock enroll`)", path.display()))
        };
        let content = match read(&path) {
            Ok(content) => content,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Fault::Enrolment(format!("cannot read {}: {error}", path.display()))),
        };
        let mut stored: Stored =
            serde_json::from_slice(&content).map_err(|_| wrong("is damaged, or of another version"))?;
        let key = Zeroizing::new(std::mem::take(&mut stored.key));
        let der = |text: &str| STANDARD.decode(text).map_err(|_| wrong("is damaged"));
        if stored.version != 1 {
            return Err(wrong("is of another version"));
        }
        Ok(Some(Enrolment {
            address: stored.url.parse().map_err(|_| wrong("has no collector's address"))?,
            collector: stored.collector,
            ledger_key: stored.ledger_key,
            policy_key: stored.policy_key,
            authority: der(&stored.authority)?,
            certificate: der(&stored.certificate)?,
            key: Zeroizing::new(der(&key)?),
        }))
    }

    /// Keeps an enrolment in the place of whatever there is; with `instead_of` only while that one is
    /// still there. Gives whether it was kept.
    pub(super) fn save(&self, enrolment: &Enrolment, instead_of: Option<Stamp>) -> io::Result<bool> {
        let _lock = self.lock()?;
        if instead_of.is_some() && self.stamp() != instead_of {
            return Ok(false);
        }
        let mut stored = Stored {
            version: 1,
            url: enrolment.address.to_string(),
            collector: enrolment.collector.clone(),
            ledger_key: enrolment.ledger_key.clone(),
            policy_key: enrolment.policy_key.clone(),
            authority: STANDARD.encode(&enrolment.authority),
            certificate: STANDARD.encode(&enrolment.certificate),
            key: STANDARD.encode(&*enrolment.key),
        };
        let content = serde_json::to_vec_pretty(&stored).map(Zeroizing::new);
        stored.key.zeroize();
        self.write(ENROLMENT, &content?)?;
        Ok(true)
    }

    /// Forgets the enrolment; gives whether there was one.
    pub(super) fn remove(&self) -> io::Result<bool> {
        if !self.is_enrolled() {
            return Ok(false);
        }
        let _lock = self.lock()?;
        fs::remove_file(self.path(ENROLMENT))?;
        for name in [TAKEN, "enrolment.json.tmp"] {
            match fs::remove_file(self.path(name)) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        File::open(&self.directory)?.sync_all()?;
        Ok(true)
    }

    /// How far this collector had taken the recording when that was last noted.
    pub(super) fn mark(&self, enrolment: &Enrolment) -> Mark {
        let stored = read(&self.path(TAKEN)).ok();
        let stored = stored.and_then(|content| serde_json::from_slice::<StoredMark>(&content).ok());
        stored
            .filter(|stored| stored.authority == enrolment.fingerprint())
            .map_or_else(Mark::default, |stored| Mark { segment: stored.segment, event: stored.event })
    }

    /// Notes it.
    pub(super) fn save_mark(&self, enrolment: &Enrolment, mark: Mark) -> io::Result<()> {
        let Mark { segment, event } = mark;
        let content = serde_json::to_vec(&StoredMark { authority: enrolment.fingerprint(), segment, event })?;
        self.write(TAKEN, &content)
    }

    /// Keeps others from writing.
    fn lock(&self) -> io::Result<File> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.directory)?;
        let metadata = fs::metadata(&self.directory)?;
        if metadata.mode() & 0o077 != 0 {
            fs::set_permissions(&self.directory, fs::Permissions::from_mode(0o700))?;
        }
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(self.path("lock"))?;
        flock(&file, FlockOperation::LockExclusive)?;
        Ok(file)
    }

    /// Writes a file whole or not at all.
    fn write(&self, name: &str, content: &[u8]) -> io::Result<()> {
        let temporary = self.path(&format!("{name}.tmp"));
        match fs::remove_file(&temporary) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&temporary, self.path(name))?;
        File::open(&self.directory)?.sync_all()
    }
}

/// Reads a file that nobody but this process's user can have read or written.
fn read(path: &Path) -> io::Result<Zeroizing<Vec<u8>>> {
    use std::io::Read as _;
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(path)?;
    let metadata = file.metadata()?;
    if metadata.uid() != rustix::process::geteuid().as_raw() {
        return Err(io::Error::other("it belongs to another user"));
    }
    if metadata.mode() & 0o077 != 0 {
        return Err(io::Error::other(format!(
            "it has mode {:03o}, so others may have read the key in it. Enrol this host anew, and revoke the old \
             certificate at the collector",
            metadata.mode() & 0o777
        )));
    }
    if metadata.len() > LARGEST {
        return Err(io::Error::other("it is too large to be ours"));
    }
    // As long as the file from the beginning, so that no part of it is left behind in memory.
    let mut content = Zeroizing::new(Vec::with_capacity(LARGEST as usize));
    file.take(LARGEST).read_to_end(&mut content)?;
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn enrolment(authority: &[u8]) -> Enrolment {
        Enrolment {
            address: "https://c.example:1".parse().unwrap(),
            collector: "c".into(),
            ledger_key: "c+1+2".into(),
            policy_key: None,
            authority: authority.to_vec(),
            certificate: vec![2],
            key: Zeroizing::new(b"secret-key".to_vec()),
        }
    }

    #[test]
    fn it_is_kept_whole_and_private() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::new(directory.path());
        assert!(store.load().unwrap().is_none() && store.stamp().is_none() && !store.is_enrolled());
        assert!(store.save(&enrolment(&[1]), None).unwrap());
        let read = store.load().unwrap().unwrap();
        assert_eq!(
            (read.authority.as_slice(), read.key.as_slice()),
            ([1].as_slice(), b"secret-key".as_slice())
        );
        assert!(!format!("{read:?}").contains("secret"), "{read:?}");
        let path = store.path(ENROLMENT);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(&store.directory).unwrap().mode() & 0o777, 0o700);
        // What was exposed is not used any more.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(store.load().unwrap_err().to_string().contains("Enrol this host anew"));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&path, "{}").unwrap();
        assert!(store.load().unwrap_err().to_string().contains("damaged"));
        assert!(store.remove().unwrap() && !store.remove().unwrap());
        assert!(store.load().unwrap().is_none());
    }

    #[test]
    fn a_renewal_does_not_overwrite_a_new_enrolment() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::new(directory.path());
        store.save(&enrolment(&[1]), None).unwrap();
        let stamp = store.stamp();
        store.save(&enrolment(&[2]), None).unwrap();
        assert!(!store.save(&enrolment(&[3]), stamp).unwrap());
        assert_eq!(store.load().unwrap().unwrap().authority, [2]);
        assert!(store.save(&enrolment(&[3]), store.stamp()).unwrap());
        store.remove().unwrap();
        assert!(!store.save(&enrolment(&[4]), stamp).unwrap(), "one that has left is not enrolled again");
    }

    #[test]
    fn a_mark_is_of_one_collector() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::new(directory.path());
        store.save(&enrolment(&[1]), None).unwrap();
        let mark = Mark { segment: 3, event: 40 };
        store.save_mark(&enrolment(&[1]), mark).unwrap();
        assert_eq!(store.mark(&enrolment(&[1])), mark);
        assert_eq!(store.mark(&enrolment(&[2])), Mark::default());
    }
}
