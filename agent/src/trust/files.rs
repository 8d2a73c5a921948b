//! What stands at a path, and putting something else there so that a crash leaves either the one or
//! the other.

use std::collections::BTreeMap;
use std::fs::{self, File, FileTimes, OpenOptions};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// Largest file in bytes that is read: a store of roots has some hundred kilobytes.
const MAX_FILE: u64 = 32 << 20;
/// Most entries of a tree.
const MAX_ENTRIES: usize = 20_000;
/// Most directories within each other.
const MAX_DEPTH: usize = 16;

/// What stands at a path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Entry {
    /// Nothing.
    Absent,
    /// A file.
    File {
        /// SHA-256 of its contents, hex.
        sha256: String,
        /// Owner and mode.
        #[serde(flatten)]
        attributes: Attributes,
        /// When it was last written: seconds and nanoseconds since 1970.
        modified: (u64, u32),
    },
    /// A symbolic link.
    Link {
        /// Where to.
        target: PathBuf,
    },
    /// A directory.
    Directory {
        /// Owner and mode.
        #[serde(flatten)]
        attributes: Attributes,
    },
}

/// Owner and mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Attributes {
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
}

impl Attributes {
    /// Root's, readable by all.
    pub(super) fn public() -> Self {
        Self::own(0o644)
    }

    /// Of whoever runs this.
    pub(super) fn own(mode: u32) -> Self {
        let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        Self { mode, uid, gid }
    }

    fn of(metadata: &fs::Metadata) -> Self {
        Self { mode: metadata.mode() & 0o7777, uid: metadata.uid(), gid: metadata.gid() }
    }
}

/// Entries by their path below a directory.
pub(super) type Tree = BTreeMap<PathBuf, Entry>;

impl Entry {
    /// The same contents, owner and mode, whenever it was written.
    pub(super) fn same(&self, other: &Self) -> bool {
        match (self, other) {
            (
                Self::File { sha256, attributes, .. },
                Self::File { sha256: other, attributes: of_other, .. },
            ) => sha256 == other && attributes == of_other,
            _ => self == other,
        }
    }

    /// A file with these contents.
    pub(super) fn holds(&self, digest: &str) -> bool {
        matches!(self, Self::File { sha256, .. } if sha256 == digest)
    }
}

/// Lower-case hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// SHA-256, hex.
pub(super) fn digest(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// Reads a file of bounded size. A named pipe or device is refused, so that nothing blocks.
pub(super) fn read(path: &Path) -> io::Result<Vec<u8>> {
    let nonblocking = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or_default();
    let file = OpenOptions::new().read(true).custom_flags(nonblocking).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(ErrorKind::InvalidInput, "it is no regular file"));
    }
    let mut bytes = Vec::new();
    file.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(io::Error::new(ErrorKind::FileTooLarge, "it is larger than 32 MiB"));
    }
    Ok(bytes)
}

/// What stands at `path`, links not followed.
pub(super) fn look(path: &Path) -> io::Result<Entry> {
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(Entry::Absent);
        }
        Err(error) => return Err(error),
    };
    let attributes = Attributes::of(&metadata);
    if metadata.is_symlink() {
        return Ok(Entry::Link { target: fs::read_link(path)? });
    }
    if metadata.is_dir() {
        return Ok(Entry::Directory { attributes });
    }
    let modified = (
        u64::try_from(metadata.mtime()).unwrap_or_default(),
        u32::try_from(metadata.mtime_nsec()).unwrap_or_default(),
    );
    Ok(Entry::File { sha256: digest(&read(path)?), attributes, modified })
}

/// All that stands below `directory`; nothing when it is missing.
pub(super) fn tree(directory: &Path) -> io::Result<Tree> {
    let mut tree = Tree::new();
    gather(directory, Path::new(""), 0, &mut tree)?;
    Ok(tree)
}

fn gather(directory: &Path, below: &Path, depth: usize, tree: &mut Tree) -> io::Result<()> {
    let listing = match fs::read_dir(directory.join(below)) {
        Ok(listing) => listing,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in listing {
        let path = below.join(entry?.file_name());
        let found = look(&directory.join(&path))?;
        let deeper = matches!(found, Entry::Directory { .. });
        tree.insert(path.clone(), found);
        if tree.len() > MAX_ENTRIES || depth > MAX_DEPTH {
            return Err(io::Error::other("it holds more than a store of certificates does"));
        }
        if deeper {
            gather(directory, &path, depth + 1, tree)?;
        }
    }
    Ok(())
}

/// Where a file's new contents stand until they are whole.
pub(super) fn temporary(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".interlock-new");
    path.with_file_name(name)
}

/// Puts a file in the place of what stands at `path`: at every moment the one or the other is there, whole.
pub(super) fn replace(path: &Path, contents: &[u8], attributes: Attributes) -> io::Result<()> {
    put(path, contents, attributes, None)
}

fn put(path: &Path, contents: &[u8], attributes: Attributes, modified: Option<(u64, u32)>) -> io::Result<()> {
    #[cfg(test)]
    fault::step()?;
    let temporary = temporary(path);
    remove_file(&temporary)?;
    // Readable by nobody else until it is whole and has its owner.
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
    file.write_all(contents)?;
    give(&file, attributes)?;
    if let Some((seconds, nanoseconds)) = modified {
        let since = Duration::new(seconds, nanoseconds);
        file.set_times(FileTimes::new().set_modified(SystemTime::UNIX_EPOCH + since))?;
    }
    file.sync_all()?;
    #[cfg(test)]
    fault::step()?;
    fs::rename(&temporary, path)?;
    #[cfg(test)]
    fault::step()?;
    sync_directory(path)
}

/// Gives an open file its owner and mode.
pub(super) fn give(file: &File, attributes: Attributes) -> io::Result<()> {
    let metadata = file.metadata()?;
    if (metadata.uid(), metadata.gid()) != (attributes.uid, attributes.gid) {
        fchown(file, Some(attributes.uid), Some(attributes.gid))?;
    }
    file.set_permissions(fs::Permissions::from_mode(attributes.mode))
}

fn sync_directory(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

/// Deletes a file or link; it may be gone already.
pub(super) fn remove_file(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if !matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Err(error),
        _ => Ok(()),
    }
}

/// Puts back what stood at `path`. `contents` gives those of a file by their digest.
pub(super) fn restore(
    path: &Path,
    entry: &Entry,
    contents: impl FnOnce(&str) -> io::Result<Vec<u8>>,
) -> io::Result<()> {
    remove_file(&temporary(path))?;
    match entry {
        Entry::Absent => match look(path)? {
            Entry::Directory { .. } => fs::remove_dir(path),
            _ => remove_file(path),
        },
        Entry::File { sha256, attributes, modified } => {
            put(path, &contents(sha256)?, *attributes, Some(*modified))
        }
        Entry::Link { target } => {
            let temporary = temporary(path);
            symlink(target, &temporary)?;
            fs::rename(&temporary, path)?;
            sync_directory(path)
        }
        Entry::Directory { attributes } => {
            fs::create_dir_all(path)?;
            give(&File::open(path)?, *attributes)
        }
    }
}

/// Lets a test end an installation before any chosen step, as a crash would.
#[cfg(test)]
pub(super) mod fault {
    use std::cell::Cell;
    use std::io;

    thread_local! {
        static LEFT: Cell<Option<usize>> = const { Cell::new(None) };
    }

    /// From the step of this number on nothing succeeds any more; `None` takes that back.
    pub(in crate::trust) fn after(steps: Option<usize>) {
        LEFT.set(steps);
    }

    pub(in crate::trust) fn step() -> io::Result<()> {
        match LEFT.get() {
            Some(0) => Err(io::Error::other("the crash that the test asked for")),
            Some(left) => {
                LEFT.set(Some(left - 1));
                Ok(())
            }
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_restored_is_the_same_in_all_that_can_be_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, "before").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let before = look(&path).unwrap();
        replace(&path, b"after", Attributes::public()).unwrap();
        assert!(!look(&path).unwrap().same(&before));
        restore(&path, &before, |_| Ok(b"before".to_vec())).unwrap();
        assert_eq!(look(&path).unwrap(), before);

        let link = dir.path().join("link");
        symlink("file", &link).unwrap();
        let before = look(&link).unwrap();
        remove_file(&link).unwrap();
        restore(&link, &before, |_| unreachable!()).unwrap();
        assert_eq!(look(&link).unwrap(), before);
        restore(&link, &Entry::Absent, |_| unreachable!()).unwrap();
        assert_eq!(look(&link).unwrap(), Entry::Absent);
    }

    #[test]
    fn a_link_is_replaced_itself_and_not_what_it_points_to() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("precious"), "precious").unwrap();
        let link = dir.path().join("link");
        symlink("precious", &link).unwrap();
        replace(&link, b"new", Attributes::own(0o600)).unwrap();
        assert_eq!(fs::read(dir.path().join("precious")).unwrap(), b"precious");
        assert_eq!(fs::read(&link).unwrap(), b"new");
    }

    #[test]
    fn a_pipe_is_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pipe");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &path,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::from_raw_mode(0o600),
            0,
        )
        .unwrap();
        assert!(read(&path).is_err());
    }
}
