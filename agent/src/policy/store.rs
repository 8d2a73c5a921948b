//! The policies in force, and their replacement when the files change.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant, SystemTime};

use notify::{EventKind, RecursiveMode, Watcher as _};

use super::central::{Candidate, Central, CentralError, Refused};
use super::hosts::Hosts;
use super::origin::PolicyFile;
use super::problem::PolicyErrors;
use super::read::{Trust, is_policy};
use super::set::PolicySet;
use crate::mask::{HashKey, KeyError};

/// How long after a change others are waited for: editors and package managers write in several steps.
const SETTLE: Duration = Duration::from_millis(150);
/// The longest that changes are waited for to end.
const SETTLE_AT_MOST: Duration = Duration::from_secs(2);
/// How often the files are looked at without having been told of a change.
const LOOK: Duration = Duration::from_secs(10);

/// Why policies could not be put in force at the start.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Something is wrong in the files.
    #[error("{0}")]
    Policies(#[from] PolicyErrors),
    /// What was kept of a collector's order cannot be used.
    #[error(transparent)]
    Central(#[from] CentralError),
    /// The key of keyed hashes cannot be used.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// A thread could not be started.
    #[error("cannot start looking up host names: {0}")]
    Hosts(#[source] std::io::Error),
}

/// Holds the policies in force. A reload replaces them whole, or leaves them as they are.
#[derive(Debug)]
pub struct PolicyStore {
    directory: PathBuf,
    key: HashKey,
    current: RwLock<Arc<PolicySet>>,
    generation: Arc<AtomicU64>,
    hosts: Arc<Hosts>,
    /// Names to look up beside those of the policies.
    others: BTreeSet<Arc<str>>,
    /// Policies that a collector keeps.
    central: Option<Arc<Central>>,
    /// Why the last reload failed. Held while one runs, so that no two do.
    rejected: Mutex<Option<Arc<PolicyErrors>>>,
}

impl PolicyStore {
    /// Reads the policies in `directory`, and the key of keyed hashes, `mask.key`, in the state
    /// directory (it is made there when there is none). `others` are host names to look up beside those
    /// that the policies name.
    ///
    /// # Errors
    /// Something is wrong in a policy, or the key cannot be used.
    pub fn load(directory: &Path, state: &Path, others: BTreeSet<Arc<str>>) -> Result<Self, StoreError> {
        Self::load_with(directory, state, others, None)
    }

    /// The same, with policies that a collector keeps.
    pub(crate) fn load_with(
        directory: &Path,
        state: &Path,
        others: BTreeSet<Arc<str>>,
        central: Option<Arc<Central>>,
    ) -> Result<Self, StoreError> {
        let key = HashKey::load_or_create(&state.join("mask.key"))?;
        let store = Self { others, ..Self::new(directory, key, central)? };
        store.look_up(&store.current());
        Hosts::keep_fresh(&store.hosts).map_err(StoreError::Hosts)?;
        Ok(store)
    }

    fn new(directory: &Path, key: HashKey, central: Option<Arc<Central>>) -> Result<Self, PolicyErrors> {
        let in_force = central.as_ref().and_then(|central| central.in_force());
        let set =
            PolicySet::load_with(directory, Trust::of_process(), in_force.as_ref())?.with_key(key.clone());
        let hosts = Arc::new(Hosts::default());
        hosts.set_names(set.host_names());
        Ok(Self {
            directory: directory.to_owned(),
            key,
            current: RwLock::new(Arc::new(set)),
            generation: Arc::new(AtomicU64::new(1)),
            hosts,
            others: BTreeSet::new(),
            central,
            rejected: Mutex::new(None),
        })
    }

    /// Has the names looked up that these policies need.
    fn look_up(&self, policies: &PolicySet) {
        let mut names = policies.host_names();
        names.extend(self.others.iter().cloned());
        self.hosts.set_names(names);
    }

    /// The policies in force.
    pub fn current(&self) -> Arc<PolicySet> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Counts the states: a flow that has seen another number is to get its policy anew from
    /// [`PolicyStore::current`]. It is counted up after the new policies are in place.
    pub fn generation(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.generation)
    }

    /// The addresses of the host names that destinations name.
    pub fn hosts(&self) -> &Hosts {
        &self.hosts
    }

    /// Why the last reload left the policies as they were, if it did.
    pub fn last_error(&self) -> Option<String> {
        let rejected = self.rejected.lock().unwrap_or_else(PoisonError::into_inner);
        rejected.as_ref().map(ToString::to_string)
    }

    /// Reads the policies again. `true` when they have changed and are in force now; `false` when they
    /// are the same.
    ///
    /// # Errors
    /// Something is wrong in them; the earlier ones stay in force.
    pub fn reload(&self) -> Result<bool, PolicyErrors> {
        let mut rejected = self.rejected.lock().unwrap_or_else(PoisonError::into_inner);
        let central = self.central.as_ref().and_then(|central| central.in_force());
        let set = PolicySet::load_with(&self.directory, Trust::of_process(), central.as_ref());
        let set = set.inspect_err(|errors| {
            *rejected = Some(Arc::new(errors.clone()));
        })?;
        *rejected = None;
        if let Some(central) = &self.central {
            central.try_again();
        }
        let current = self.current();
        // The selection as well: a user may have got another number.
        if set.hash() == current.hash() && set.selection() == current.selection() {
            return Ok(false);
        }
        self.replace(set);
        Ok(true)
    }

    /// Puts a collector's order in force: loaded together with this host's files, kept on disk, and only
    /// then decided by.
    pub(crate) fn obey(
        &self,
        central: &Central,
        candidate: &Candidate,
        files: Vec<Vec<PolicyFile>>,
    ) -> Result<(), Refused> {
        // No reload runs meanwhile.
        let _rejected = self.rejected.lock().unwrap_or_else(PoisonError::into_inner);
        let (policies, keeping) = central.assemble(candidate, files)?;
        let refused = |why: String, passing| Refused { issue: policies.order.issue, why, passing };
        let loaded = PolicySet::load_with(&self.directory, Trust::of_process(), Some(&policies));
        let set = loaded.map_err(|errors| {
            // What is wrong in its own files stays wrong.
            let passing = PolicySet::is_sound(&policies);
            refused(format!("its policies cannot be loaded:\n{errors}"), passing)
        })?;
        let kept = central.keep(policies.clone(), keeping);
        kept.map_err(|error| refused(format!("it cannot be kept on this host: {error}"), true))?;
        self.replace(set);
        Ok(())
    }

    fn replace(&self, set: PolicySet) {
        let generation = self.generation.load(Ordering::Relaxed) + 1;
        self.look_up(&set);
        let set = Arc::new(set.with_key(self.key.clone()));
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = set;
        self.generation.store(generation, Ordering::Release);
    }
}

/// Tells of changes in a directory of policies until it is dropped.
#[derive(Debug)]
pub struct Watcher {
    /// Dropping it ends the thread.
    _stop: Sender<()>,
}

impl Watcher {
    /// Calls `changed` after the policy files in `directory` have changed in any way: written, replaced
    /// by renaming, added, removed, linked elsewhere.
    ///
    /// # Errors
    /// The kernel's watches cannot be had.
    pub fn watch(directory: &Path, changed: impl FnMut() + Send + 'static) -> std::io::Result<Self> {
        let mut changed = changed;
        let directory = directory.to_owned();
        let (told, events) = channel::<()>();
        let (stop, stopped) = channel::<()>();
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // Reading the files is no change.
            if !matches!(&event, Ok(event) if matches!(event.kind, EventKind::Access(_))) {
                let _ = told.send(());
            }
        })
        .map_err(std::io::Error::other)?;
        watcher.watch(&directory, RecursiveMode::NonRecursive).map_err(std::io::Error::other)?;
        let mut seen = fingerprint(&directory);
        std::thread::Builder::new().name("policy-files".to_owned()).spawn(move || {
            let mut looked = Instant::now();
            loop {
                match stopped.try_recv() {
                    Ok(()) | Err(std::sync::mpsc::TryRecvError::Disconnected) => return,
                    Err(std::sync::mpsc::TryRecvError::Empty) => {}
                }
                let told = match events.recv_timeout(Duration::from_millis(500)) {
                    Ok(()) => true,
                    Err(RecvTimeoutError::Timeout) => false,
                    Err(RecvTimeoutError::Disconnected) => return,
                };
                if told {
                    let first = Instant::now();
                    while first.elapsed() < SETTLE_AT_MOST && events.recv_timeout(SETTLE).is_ok() {}
                } else if looked.elapsed() < LOOK {
                    continue;
                }
                looked = Instant::now();
                let now = fingerprint(&directory);
                if told || now != seen {
                    // The directory may have been replaced, and the watch with it.
                    let _ = watcher.watch(&directory, RecursiveMode::NonRecursive);
                }
                if now != seen {
                    seen = now;
                    changed();
                }
            }
        })?;
        Ok(Self { _stop: stop })
    }
}

/// What tells one state of the files from another without reading them.
type Fingerprint = Vec<(PathBuf, u64, u64, Option<SystemTime>, i64, i64, u32)>;

fn fingerprint(directory: &Path) -> Fingerprint {
    use std::os::unix::fs::MetadataExt;
    let mut files: Vec<PathBuf> = match std::fs::read_dir(directory) {
        Ok(entries) => {
            entries.filter_map(|entry| Some(entry.ok()?.path())).filter(|p| is_policy(p)).collect()
        }
        Err(_) => vec![directory.to_owned()],
    };
    files.push(directory.to_owned());
    files.sort();
    let state = |path: PathBuf| {
        // Through links: the file that is read counts.
        let metadata = std::fs::metadata(&path).ok();
        let number = |of: fn(&std::fs::Metadata) -> u64| metadata.as_ref().map_or(0, of);
        let changed = metadata.as_ref().map_or((0, 0), |m| (m.ctime(), m.ctime_nsec()));
        // A directory's own times change with files that are no policies.
        let times = path != *directory;
        (
            path,
            number(MetadataExt::ino),
            if times { number(MetadataExt::size) } else { 0 },
            metadata.as_ref().filter(|_| times).and_then(|m| m.modified().ok()),
            if times { changed.0 } else { 0 },
            if times { changed.1 } else { 0 },
            metadata.as_ref().map_or(0, MetadataExt::mode),
        )
    };
    files.into_iter().map(state).collect()
}
