//! What an installation changed, written down before it is changed.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use super::bundle::Bundle;
use super::files::{self, Attributes, Entry, Tree};

const VERSION: u32 = 1;
const FILE: &str = "manifest.json";
/// Directory of the contents that were there before, each named by its digest.
const BEFORE: &str = "before";
/// How long another one at work is waited for.
const PATIENCE: Duration = if cfg!(test) { Duration::ZERO } else { Duration::from_secs(120) };

/// All that an installation changed. Paths are those of the installed system, without `--root`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Manifest {
    version: u32,
    /// The authority's certificate, PEM: the present one may be another.
    pub(super) authority: String,
    /// In the order in which they were begun.
    pub(super) changes: Vec<Change>,
    /// What is kept up to date in the run directory.
    pub(super) bundles: Vec<Bundle>,
}

/// One thing that was changed.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Change {
    /// A directory that was made.
    Directory { path: PathBuf },
    /// A file that was written.
    File {
        path: PathBuf,
        before: Entry,
        /// Digests of all contents that were ever put there, the newest last.
        written: Vec<String>,
        /// How the authority is taken out again of a file that others have changed since.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        database: Option<Database>,
    },
    /// A system store: an anchor, and all that the distribution's tool made of it.
    Store {
        /// The family's name.
        family: String,
        anchor_before: Entry,
        /// Digest of the anchor's contents.
        anchor: String,
        before: Tree,
        /// Known when the tool has ended.
        after: Option<Tree>,
    },
}

/// A file that holds certificates of many owners.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Database {
    /// A Java keystore.
    Keystore,
    /// An NSS database.
    Nss,
}

/// The manifest and the contents kept beside it, held by one process at a time.
#[derive(Debug)]
pub(super) struct Journal {
    directory: PathBuf,
    pub(super) manifest: Manifest,
    _lock: File,
}

impl Manifest {
    /// Reads the manifest in `directory`; `None` when nothing is installed.
    pub(super) fn read(directory: &Path) -> anyhow::Result<Option<Self>> {
        let path = directory.join(FILE);
        let text = match files::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
        };
        let manifest: Self = serde_json::from_slice(&text)
            .with_context(|| format!("{} is damaged: it must be mended by hand", path.display()))?;
        if manifest.version != VERSION {
            bail!(
                "{} has version {}, and this program knows {VERSION}: use the program that wrote it",
                path.display(),
                manifest.version
            );
        }
        Ok(Some(manifest))
    }
}

/// Waits for the lock: a tool that outlived an installation that was killed takes some seconds.
fn take(lock: &File) -> anyhow::Result<()> {
    let end = Instant::now() + PATIENCE;
    loop {
        match flock(lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(()),
            Err(rustix::io::Errno::WOULDBLOCK) if Instant::now() < end => {
                std::thread::sleep(Duration::from_millis(50));
            }
            Err(rustix::io::Errno::WOULDBLOCK) => {
                bail!(
                    "another `interlock trust`, or a tool that it started, is at work; wait until it has ended"
                )
            }
            Err(error) => return Err(io::Error::from(error)).context("cannot lock the manifest"),
        }
    }
}

impl Journal {
    /// Takes the manifest in `directory`, which is made if it is missing.
    pub(super) fn open(directory: &Path) -> anyhow::Result<Self> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory.join(BEFORE))
            .with_context(|| format!("cannot make {}", directory.display()))?;
        let path = directory.join("lock");
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .with_context(|| format!("cannot open {}", path.display()))?;
        take(&lock)?;
        // The tools that we start inherit it: when we are killed, what they still do keeps others out.
        rustix::io::fcntl_setfd(&lock, rustix::io::FdFlags::empty())
            .map_err(io::Error::from)
            .context("cannot hand down the lock")?;
        let manifest = Manifest::read(directory)?;
        let manifest = manifest.unwrap_or_else(|| Manifest { version: VERSION, ..Manifest::default() });
        Ok(Self { directory: directory.to_owned(), manifest, _lock: lock })
    }

    /// Writes the manifest down, durably.
    pub(super) fn save(&self) -> anyhow::Result<()> {
        let path = self.directory.join(FILE);
        let text = serde_json::to_vec_pretty(&self.manifest)?;
        files::replace(&path, &text, Attributes::own(0o600))
            .with_context(|| format!("cannot write {}", path.display()))
    }

    /// Writes down that a change is about to be made, and gives its place.
    pub(super) fn begin(&mut self, change: Change) -> anyhow::Result<usize> {
        self.manifest.changes.push(change);
        self.save()?;
        Ok(self.manifest.changes.len() - 1)
    }

    /// Keeps the contents of what stands at `path` and says what it is.
    pub(super) fn keep(&self, path: &Path) -> anyhow::Result<Entry> {
        let keep = || -> io::Result<Entry> {
            let entry = files::look(path)?;
            if let Entry::File { sha256, .. } = &entry {
                self.keep_contents(sha256, path)?;
            }
            Ok(entry)
        };
        keep().with_context(|| format!("cannot keep a copy of {}", path.display()))
    }

    /// The same for all that stands below `directory`.
    pub(super) fn keep_tree(&self, directory: &Path) -> anyhow::Result<Tree> {
        let keep = || -> io::Result<Tree> {
            let tree = files::tree(directory)?;
            for (path, entry) in &tree {
                if let Entry::File { sha256, .. } = entry {
                    self.keep_contents(sha256, &directory.join(path))?;
                }
            }
            Ok(tree)
        };
        keep().with_context(|| format!("cannot keep a copy of {}", directory.display()))
    }

    fn keep_contents(&self, sha256: &str, from: &Path) -> io::Result<()> {
        let path = self.kept(sha256);
        if path.exists() {
            return Ok(());
        }
        let contents = files::read(from)?;
        if files::digest(&contents) != sha256 {
            return Err(io::Error::other("it changes while it is read; try again"));
        }
        files::replace(&path, &contents, Attributes::own(0o600))
    }

    /// Where contents are kept.
    pub(super) fn kept(&self, sha256: &str) -> PathBuf {
        self.directory.join(BEFORE).join(sha256)
    }

    /// Contents that were kept. Damaged ones are an error, so that nothing wrong is put back.
    pub(super) fn contents(&self, sha256: &str) -> io::Result<Vec<u8>> {
        let contents = files::read(&self.kept(sha256))?;
        if files::digest(&contents) != sha256 {
            return Err(io::Error::other(format!("the copy {} is damaged", self.kept(sha256).display())));
        }
        Ok(contents)
    }

    /// Forgets the change at `place`: it has been undone.
    pub(super) fn forget(&mut self, place: usize) -> anyhow::Result<()> {
        if place < self.manifest.changes.len() {
            self.manifest.changes.remove(place);
        }
        self.save()
    }

    /// Deletes the manifest and all that was kept.
    pub(super) fn clear(self) -> anyhow::Result<()> {
        // The manifest last: while it stands, what it names may be needed.
        let manifest = self.directory.join(FILE);
        let clear = || -> io::Result<()> {
            fs::remove_dir_all(self.directory.join(BEFORE))?;
            files::remove_file(&manifest)?;
            files::remove_file(&files::temporary(&manifest))?;
            files::remove_file(&self.directory.join("lock"))?;
            fs::remove_dir(&self.directory)
        };
        clear().with_context(|| format!("cannot clear {}", self.directory.display()))
    }
}
