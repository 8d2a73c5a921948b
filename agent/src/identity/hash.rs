//! SHA-256 of executables, each computed once as long as the file stays as it is.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use sha2::{Digest, Sha256};

/// Executables remembered; when there are more the memory starts afresh.
const MAX_CACHED: usize = 4096;

/// Largest executable that is hashed, in bytes; beyond it the identity says it is missing.
const MAX_SIZE: u64 = 256 << 20;

/// What tells that a file is the one seen before.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Version {
    device: u64,
    inode: u64,
    size: u64,
    changed: (i64, i64),
}

/// A hash, or why there is none, once it is known.
type Slot = Arc<OnceLock<Result<String, String>>>;

/// Hashes by file version.
#[derive(Debug, Default)]
pub(super) struct Hashes(Mutex<HashMap<Version, Slot>>);

impl Hashes {
    /// The hash of a file, hex. One that is asked for by many at once is computed once.
    ///
    /// # Errors
    /// The file cannot be read, or is larger than [`MAX_SIZE`].
    pub(super) fn of(&self, mut file: File) -> io::Result<String> {
        let metadata = file.metadata()?;
        if metadata.len() > MAX_SIZE {
            return Err(io::Error::other(format!("larger than {MAX_SIZE} bytes")));
        }
        let version = Version {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.len(),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        };
        let slot = {
            let mut cache = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if cache.len() >= MAX_CACHED && !cache.contains_key(&version) {
                cache.clear();
            }
            Arc::clone(cache.entry(version).or_default())
        };
        slot.get_or_init(|| hash(&mut file).map_err(|error| error.to_string()))
            .clone()
            .map_err(io::Error::other)
    }
}

fn hash(file: &mut File) -> io::Result<String> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 64 << 10];
    // It may grow while it is read.
    let mut file = file.take(MAX_SIZE);
    loop {
        let n = file.read(&mut buffer)?;
        let Some(read) = buffer.get(..n).filter(|read| !read.is_empty()) else { break };
        hasher.update(read);
    }
    Ok(hex(&hasher.finalize()))
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_file_is_hashed_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        std::fs::write(&path, "abc").unwrap();
        let hashes = Hashes::default();
        let of = |path: &std::path::Path| hashes.of(File::open(path)?);
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(of(&path).unwrap(), abc);
        assert_eq!(of(&path).unwrap(), abc);
        std::fs::write(&path, "abcd").unwrap();
        assert_ne!(of(&path).unwrap(), abc);
        File::create(&path).unwrap().set_len(MAX_SIZE + 1).unwrap();
        assert!(of(&path).is_err());
    }
}
