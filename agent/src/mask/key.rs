//! The key of keyed hashes.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

/// The secret behind [`Transform::Hash`](super::Transform::Hash): HMAC-SHA256 under it, so that who
/// knows the possible values cannot compute their hashes. It never shows in logs or errors.
#[derive(Clone)]
pub struct HashKey {
    /// SHA-256 after the inner and the outer padded key (RFC 2104).
    inner: Sha256,
    outer: Sha256,
}

/// The key file could not be used.
#[derive(Debug, thiserror::Error)]
#[error("mask key {}: {problem}", path.display())]
pub struct KeyError {
    /// The key file.
    pub path: PathBuf,
    /// What is wrong with it.
    #[source]
    pub problem: KeyProblem,
}

/// What is wrong with a key file.
#[derive(Debug, thiserror::Error)]
pub enum KeyProblem {
    /// It could not be read or made.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// It has not exactly 32 bytes.
    #[error(
        "it has {0} bytes instead of 32; restore it, or remove it to have a new one made (hashes of old recordings will no longer compare)"
    )]
    Length(u64),
    /// Others than its owner can read it.
    #[error("mode {0:o} lets others than its owner use it; chmod it to 600")]
    Mode(u32),
}

impl HashKey {
    /// Length of a key in bytes.
    pub const LEN: usize = 32;

    /// The key made of these bytes.
    pub fn new(key: &[u8; Self::LEN]) -> Self {
        let pad = |with: u8| {
            let mut block = [with; 64];
            block.iter_mut().zip(key).for_each(|(b, k)| *b ^= k);
            Sha256::new_with_prefix(block)
        };
        Self { inner: pad(0x36), outer: pad(0x5c) }
    }

    /// Reads the key from `path`; makes a random one there (mode 0600) when there is no such file.
    ///
    /// # Errors
    /// The file cannot be read or made, has another length, or others than its owner can use it.
    pub fn load_or_create(path: &Path) -> Result<Self, KeyError> {
        Self::load(path).map_err(|problem| KeyError { path: path.to_owned(), problem })
    }

    fn load(path: &Path) -> Result<Self, KeyProblem> {
        let mut key = [0; Self::LEN];
        let mut file = match File::open(path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                create(path)?;
                File::open(path)?
            }
            Err(e) => return Err(e.into()),
        };
        let metadata = file.metadata()?;
        if metadata.len() != Self::LEN as u64 {
            return Err(KeyProblem::Length(metadata.len()));
        }
        if metadata.mode() & 0o077 != 0 {
            return Err(KeyProblem::Mode(metadata.mode() & 0o7777));
        }
        file.read_exact(&mut key)?;
        Ok(Self::new(&key))
    }

    /// HMAC-SHA256 of the parts, one after the other.
    pub(crate) fn mac(&self, parts: &[&[u8]]) -> [u8; 32] {
        let mut inner = self.inner.clone();
        parts.iter().for_each(|part| inner.update(part));
        let mut outer = self.outer.clone();
        outer.update(inner.finalize());
        outer.finalize().into()
    }
}

/// Writes a new key beside `path` and links it into place: whoever opens `path` finds a whole key,
/// and of two agents that start at once both use the first one's.
fn create(path: &Path) -> io::Result<()> {
    let mut key = [0; HashKey::LEN];
    File::open("/dev/urandom")?.read_exact(&mut key)?;
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let temporary = PathBuf::from(name);
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    file.write_all(&key)?;
    file.sync_all()?;
    let linked = match fs::hard_link(&temporary, path) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    };
    fs::remove_file(&temporary)?;
    linked
}

impl fmt::Debug for HashKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HashKey(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn hmac_as_in_rfc_4231() {
        // Test case 1: a key of 20 bytes 0x0b, padded with zeros to ours of 32.
        let mut key = [0; 32];
        key[..20].fill(0x0b);
        let mac = HashKey::new(&key).mac(&[b"Hi ", b"There"]);
        let hex: String = mac.iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(hex, "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7");
    }

    #[test]
    fn a_key_is_made_once_and_guarded() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mask.key");
        let first = HashKey::load_or_create(&path).unwrap();
        let second = HashKey::load_or_create(&path).unwrap();
        assert_eq!(first.mac(&[b"x"]), second.mac(&[b"x"]));
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        assert_eq!(format!("{first:?}"), "HashKey(..)");

        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let error = HashKey::load_or_create(&path).unwrap_err();
        assert!(matches!(error.problem, KeyProblem::Mode(0o640)), "{error}");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&path, b"short").unwrap();
        assert!(matches!(HashKey::load_or_create(&path).unwrap_err().problem, KeyProblem::Length(5)));
    }
}
