//! Copies of segments on this host, so that what people look at is not fetched from afar each time.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use interlock_recording::hex;

/// A directory of copies, each under its SHA-256, with so many bytes in all.
#[derive(Debug)]
pub(crate) struct Cache {
    directory: PathBuf,
    most: u64,
    copies: Mutex<Copies>,
}

#[derive(Debug, Default)]
struct Copies {
    bytes: u64,
    /// Counts uses.
    now: u64,
    /// By name: bytes, and when it was last used.
    all: HashMap<String, (u64, u64)>,
}

impl Cache {
    /// An empty one. What is in the directory may be another process's, such as a command's beside a collector.
    pub(crate) fn new(directory: &Path, most: u64) -> Self {
        Self { directory: directory.to_owned(), most, copies: Mutex::default() }
    }

    /// Removes what is in the directory from before.
    ///
    /// # Errors
    /// The directory cannot be emptied.
    pub(crate) fn clear(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.directory)? {
            fs::remove_file(entry?.path())?;
        }
        Ok(())
    }

    /// A copy, if there is one.
    pub(crate) fn get(&self, sha256: &[u8]) -> Option<File> {
        let name = hex(sha256);
        let mut copies = self.copies.lock().ok()?;
        copies.now += 1;
        let now = copies.now;
        copies.all.get_mut(&name)?.1 = now;
        let file = File::open(self.directory.join(&name)).ok();
        if file.is_none() {
            self.forget(&mut copies, &name);
        }
        file
    }

    /// Moves a file here, which was checked to be what its hash says; whether it was moved.
    pub(crate) fn add(&self, sha256: &[u8], bytes: u64, path: &Path) -> bool {
        let Ok(mut copies) = self.copies.lock() else { return false };
        let name = hex(sha256);
        if bytes > self.most || copies.all.contains_key(&name) {
            return false;
        }
        while copies.bytes + bytes > self.most {
            let oldest = copies.all.iter().min_by_key(|(_, (_, used))| *used).map(|(name, _)| name.clone());
            let Some(oldest) = oldest else { break };
            self.forget(&mut copies, &oldest);
        }
        if fs::rename(path, self.directory.join(&name)).is_err() {
            return false;
        }
        copies.now += 1;
        let now = copies.now;
        copies.bytes += bytes;
        copies.all.insert(name, (bytes, now));
        true
    }

    /// Removes a copy, if there is one.
    pub(crate) fn remove(&self, sha256: &[u8]) {
        if let Ok(mut copies) = self.copies.lock() {
            self.forget(&mut copies, &hex(sha256));
        }
    }

    fn forget(&self, copies: &mut Copies, name: &str) {
        if let Some((bytes, _)) = copies.all.remove(name) {
            copies.bytes -= bytes;
            // One that is being read goes with its last reader.
            let _ = fs::remove_file(self.directory.join(name));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    #[test]
    fn what_was_not_used_for_longest_goes_first() {
        let directory = tempfile::tempdir().expect("a directory");
        let (copies, incoming) = (directory.path().join("copies"), directory.path().join("incoming"));
        fs::create_dir(&copies).expect("made");
        fs::write(copies.join("from before"), "x").expect("written");
        let cache = Cache::new(&copies, 10);
        cache.clear().expect("cleared");
        let add = |name: &[u8], bytes: usize| {
            fs::write(&incoming, vec![b'x'; bytes]).expect("written");
            cache.add(name, bytes as u64, &incoming)
        };
        assert!(add(b"a", 4) && add(b"b", 4));
        assert!(cache.get(b"a").is_some());
        assert!(add(b"c", 4));
        assert!(cache.get(b"b").is_none(), "it was not used for longest");
        let mut text = String::new();
        cache.get(b"a").expect("a copy").read_to_string(&mut text).expect("read");
        assert_eq!(text, "xxxx");
        assert!(!add(b"d", 11), "larger than all");
        cache.remove(b"a");
        assert!(cache.get(b"a").is_none());
        assert_eq!(fs::read_dir(&copies).expect("read").count(), 1);
    }
}
