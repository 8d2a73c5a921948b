//! Tokens belong to who showed them first.
//!
//! That holds over a restart of the agent ([`kept`](super::kept)), and where this host is enrolled over all hosts
//! of its collector ([`hosts`](super::hosts)).

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use interlock_recording::chain::Hash;
use jiff::Timestamp;
use tokio::sync::watch;

use super::holder::{Holder, Refused};
use super::hosts::Link;
use super::kept::{self, Entry, Kept, Word};
use super::{hex, unhex};

/// Most tokens that are bound at a time.
const MAX_BOUND: usize = 20_000;

/// Most of them that one user's processes hold: nobody else is shut out by them.
const MAX_OF_USER: usize = 1000;

/// Which tokens belong to whom.
#[derive(Debug)]
pub struct Bindings {
    state: Mutex<State>,
    /// The collector has said something, or cannot any more.
    pub(super) heard: Condvar,
    /// There is something to tell the collector.
    pub(super) news: watch::Sender<()>,
    /// Another host had a token first that is bound here.
    pub(super) others: watch::Sender<()>,
    file: Option<KeptIn>,
}

/// Where they are kept.
#[derive(Debug)]
struct KeptIn {
    state: PathBuf,
    /// One writes at a time.
    turn: Mutex<()>,
    /// What has changed up to here is on disk.
    saved: AtomicU64,
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) bound: HashMap<String, Bound>,
    /// Those that a collector is told of, in the order that they came or were prolonged in.
    pub(super) order: BTreeMap<u64, String>,
    /// Those that a collector may speak of.
    pub(super) digests: HashMap<Hash, String>,
    pub(super) link: Link,
    /// Counts what has changed.
    changes: u64,
    /// What was bound before this is not known.
    lost: Option<Timestamp>,
}

/// A token that belongs to somebody.
#[derive(Debug)]
pub(super) struct Bound {
    holder: Holder,
    /// Whose share of the room it takes.
    uid: u32,
    pub(super) until: Timestamp,
    /// It is theirs beyond that for as long as the process at the top of their tree lives.
    lives: bool,
    /// What a collector is told of it.
    pub(super) told: Option<Told>,
    pub(super) word: Option<Word>,
    /// When it last changed.
    changed: u64,
}

/// What a collector is told of a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) digest: Hash,
    /// The issuer, as its tokens name it.
    pub(super) issuer: Arc<str>,
    /// Its place in the order.
    pub(super) place: u64,
}

/// A token that is to belong to somebody.
#[derive(Debug)]
pub(super) struct Binding<'b> {
    /// Tells it from others.
    pub(super) hash: &'b str,
    pub(super) until: Timestamp,
    /// It is to be theirs as long as the process at the top of their tree lives, too.
    pub(super) lives: bool,
    /// The user of who shows it.
    pub(super) uid: u32,
    /// Its digest and issuer, where a collector is to be told.
    pub(super) told: Option<(Hash, Arc<str>)>,
}

impl Default for Bindings {
    fn default() -> Self {
        Self::with(State::default(), None)
    }
}

impl Bindings {
    fn with(state: State, file: Option<KeptIn>) -> Self {
        Self {
            state: Mutex::new(state),
            heard: Condvar::new(),
            news: watch::channel(()).0,
            others: watch::channel(()).0,
            file,
        }
    }

    /// Those that an earlier agent of this host has kept in its state directory. Where that cannot be used, tokens
    /// that were issued before now count for nobody: whose they are is not known.
    pub fn open(directory: &Path) -> Self {
        let now = Timestamp::now();
        let mut state = State::default();
        match kept::load(directory, MAX_BOUND) {
            Ok(kept) => {
                let kept = kept.map(|kept| (kept.lost, kept.bound)).unwrap_or_default();
                state.lost = kept.0.and_then(|seconds| Timestamp::from_second(seconds).ok());
                kept.1.into_iter().for_each(|entry| state.take(entry, now));
            }
            Err(error) => {
                tracing::error!(
                    "{}/bindings.json cannot be used: {error}. Whose tokens are is lost: those that were issued before \
                     now are refused. It is kept as bindings.damaged; find out who has changed it",
                    directory.display()
                );
                kept::set_aside(directory);
                state.lost = Some(now);
            }
        }
        state.changes += 1;
        let changes = state.changes;
        let (turn, saved) = (Mutex::default(), AtomicU64::new(0));
        let bindings = Self::with(state, Some(KeptIn { state: directory.to_owned(), turn, saved }));
        if let Err(error) = bindings.save(changes) {
            tracing::error!("{error}; it is tried again with each token");
        }
        bindings
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it is bound to this one. Nothing is changed.
    pub(super) fn is_of(&self, hash: &str, holder: &Holder) -> Result<bool, Refused> {
        let state = self.lock();
        match state.bound.get(hash).filter(|known| known.counts(Timestamp::now())) {
            Some(known) if known.holder.shares_with(holder) => Ok(true),
            Some(known) => Err(known.holder.told()),
            None => Ok(false),
        }
    }

    /// A token that nobody holds, and that was issued then, may have belonged to somebody before that was lost.
    pub(super) fn may_be_lost(&self, issued: Option<Timestamp>) -> bool {
        self.lock().lost.is_some_and(|lost| issued.is_none_or(|issued| issued <= lost))
    }

    /// Binds a token until it ends, unless others hold it. On disk when this returns.
    pub(super) fn bind(&self, binding: &Binding<'_>, holder: &Holder) -> Result<(), Refused> {
        let (changed, is_news) = self.lock().bind(binding, holder)?;
        if is_news {
            self.news.send_replace(());
        }
        self.save(changed)
    }

    /// Sees to it that what changed up to then is on disk. Whoever comes meanwhile waits, and finds it written.
    pub(super) fn save(&self, changed: u64) -> Result<(), Refused> {
        let Some(file) = &self.file else { return Ok(()) };
        if file.saved.load(Ordering::Acquire) >= changed {
            return Ok(());
        }
        let _turn = file.turn.lock().unwrap_or_else(PoisonError::into_inner);
        if file.saved.load(Ordering::Acquire) >= changed {
            return Ok(());
        }
        let (upto, lost, bound) = {
            let state = self.lock();
            let now = Timestamp::now();
            let current = state.bound.iter().filter(|(_, bound)| bound.counts(now));
            (state.changes, state.lost, current.map(|(hash, bound)| bound.entry(hash)).collect())
        };
        Kept::new(lost.map(Timestamp::as_second), bound)
            .and_then(|kept| kept::save(&file.state, &kept))
            .map_err(|error| Refused::Unkept(format!("{}/bindings.json: {error}", file.state.display())))?;
        file.saved.store(upto, Ordering::Release);
        Ok(())
    }
}

impl State {
    /// Takes what was kept.
    fn take(&mut self, entry: Entry, now: Timestamp) {
        let Ok(until) = Timestamp::from_millisecond(entry.until) else { return };
        let is_theirs = entry.lives && entry.holder.lives();
        if until <= now && !is_theirs {
            return;
        }
        let told = entry.digest.as_deref().and_then(unhex).map(|digest| (digest, entry.issuer.into()));
        let bound = Bound {
            holder: entry.holder,
            uid: entry.uid,
            until,
            lives: entry.lives,
            told: None,
            word: entry.word,
            changed: 0,
        };
        self.bound.insert(entry.hash.clone(), bound);
        self.tell(&entry.hash, told);
    }

    /// When it last changed, and whether a collector is to be told.
    fn bind(&mut self, binding: &Binding<'_>, holder: &Holder) -> Result<(u64, bool), Refused> {
        let (now, until, uid) = (Timestamp::now(), binding.until, binding.uid);
        let told = binding.told.clone();
        if let Some(known) = self.bound.get(binding.hash).filter(|known| known.counts(now)) {
            if !known.holder.shares_with(holder) {
                return Err(known.holder.told());
            }
            let (longer, unsaid) = (until > known.until, known.told.is_none() && told.is_some());
            if !longer && !unsaid {
                return Ok((known.changed, false));
            }
        } else {
            self.remove(binding.hash);
            if self.is_full(uid) {
                let ended: Vec<String> = self
                    .bound
                    .iter()
                    .filter(|(_, known)| !known.counts(now))
                    .map(|(hash, _)| hash.clone())
                    .collect();
                ended.iter().for_each(|hash| self.remove(hash));
                // What still counts is not given up: who has filled the room would get at others' tokens.
                if self.is_full(uid) {
                    return Err(Refused::Full);
                }
            }
        }
        self.changes += 1;
        let changed = self.changes;
        let known = self.bound.entry(binding.hash.to_owned()).or_insert_with(|| Bound {
            holder: holder.clone(),
            uid,
            until,
            lives: binding.lives,
            told: None,
            word: None,
            changed,
        });
        known.until = known.until.max(until);
        known.changed = changed;
        Ok((changed, self.tell(binding.hash, told)))
    }

    /// Puts a token at the end of what a collector is to be told; gives whether it is told at all. What it was
    /// first bound with counts.
    fn tell(&mut self, hash: &str, told: Option<(Hash, Arc<str>)>) -> bool {
        let place = self.order.last_key_value().map_or(0, |(last, _)| *last) + 1;
        let Some(known) = self.bound.get_mut(hash) else { return false };
        match (&mut known.told, told) {
            (Some(known), _) => {
                self.order.remove(&known.place);
                known.place = place;
            }
            (unsaid @ None, Some((digest, issuer))) => {
                if self.digests.contains_key(&digest) {
                    return false;
                }
                self.digests.insert(digest, hash.to_owned());
                *unsaid = Some(Told { digest, issuer, place });
            }
            (None, None) => return false,
        }
        self.order.insert(place, hash.to_owned());
        true
    }

    fn remove(&mut self, hash: &str) {
        if let Some(Bound { told: Some(told), .. }) = self.bound.remove(hash) {
            self.order.remove(&told.place);
            self.digests.remove(&told.digest);
        }
    }

    fn is_full(&self, uid: u32) -> bool {
        self.bound.len() >= MAX_BOUND
            || self.bound.values().filter(|known| known.uid == uid).count() >= MAX_OF_USER
    }

    /// Notes what the collector says of a token; the number of the change.
    pub(super) fn hear(&mut self, hash: &str, word: Word) -> Option<u64> {
        let known = self.bound.get_mut(hash)?;
        // What another host had first it has until it ends, whatever is said later.
        if matches!(known.word, Some(Word::Other(_))) || known.word.as_ref() == Some(&word) {
            return None;
        }
        self.changes += 1;
        known.word = Some(word);
        known.changed = self.changes;
        Some(self.changes)
    }
}

impl Bound {
    /// It belongs to who holds it.
    fn counts(&self, now: Timestamp) -> bool {
        self.until > now || self.lives && self.holder.lives()
    }

    fn entry(&self, hash: &str) -> Entry {
        Entry {
            hash: hash.to_owned(),
            holder: self.holder.clone(),
            uid: self.uid,
            until: self.until.as_millisecond(),
            lives: self.lives,
            digest: self.told.as_ref().map(|told| hex(&told.digest)),
            issuer: self.told.as_ref().map(|told| told.issuer.as_ref().to_owned()).unwrap_or_default(),
            word: self.word.clone(),
        }
    }
}

#[cfg(test)]
impl Bindings {
    pub(super) fn len(&self) -> usize {
        self.lock().bound.len()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::holder::Process;
    use super::*;

    fn tree(top: i32, parent: i32, uid: u32, cgroup: &str) -> Holder {
        let process = |pid: i32| Process { pid, start: pid.unsigned_abs().into() };
        Holder::Tree { top: process(top), parent: process(parent), uid, cgroup: cgroup.to_owned() }
    }

    fn binding(hash: &str, until: Timestamp, uid: u32) -> Binding<'_> {
        Binding { hash, until, lives: false, uid, told: None }
    }

    #[test]
    fn the_first_tree_keeps_it() {
        let bindings = Bindings::default();
        let (now, hour) = (Timestamp::now(), Duration::from_secs(3600));
        let later = now.checked_add(hour).unwrap();
        let bind = |holder: &Holder| bindings.bind(&binding("h", later, 1000), holder);
        let job = tree(10, 5, 1000, "/job");
        assert_eq!(bind(&job), Ok(()));
        assert_eq!(bind(&job), Ok(()));
        assert_eq!(bind(&tree(11, 5, 1000, "/job")), Ok(()), "the runner's next step");
        for other in [
            tree(11, 6, 1000, "/job"),
            tree(11, 5, 1000, "/other"),
            tree(11, 5, 1001, "/job"),
            tree(10, 5, 1001, "/job"),
            Holder::Container("container x".to_owned()),
        ] {
            let refused = bind(&other).unwrap_err();
            assert_eq!(refused.owner(), Some((10, 1000)), "{refused}");
        }
        // The same number, another process.
        let mut again = job;
        let Holder::Tree { top, parent, .. } = &mut again else { unreachable!() };
        (top.start, parent.start) = (99, 98);
        assert!(bind(&again).is_err());
        assert_eq!(bindings.bind(&binding("other", later, 1000), &again), Ok(()));
    }

    #[test]
    fn orphans_are_nobodys_siblings() {
        let bindings = Bindings::default();
        let later = Timestamp::now().checked_add(Duration::from_secs(60)).unwrap();
        assert_eq!(bindings.bind(&binding("h", later, 1000), &tree(10, 1, 1000, "/job")), Ok(()));
        assert!(bindings.bind(&binding("h", later, 1000), &tree(11, 1, 1000, "/job")).is_err());
    }

    #[test]
    fn what_has_ended_is_bound_anew() {
        let bindings = Bindings::default();
        let (job, other) = (tree(10, 5, 1000, "/job"), tree(20, 6, 1000, "/job"));
        let later = Timestamp::now().checked_add(Duration::from_secs(60)).unwrap();
        assert_eq!(bindings.bind(&binding("h", Timestamp::UNIX_EPOCH, 1000), &job), Ok(()));
        assert_eq!(bindings.is_of("h", &job), Ok(false));
        assert_eq!(bindings.bind(&binding("h", later, 1000), &other), Ok(()));
        assert!(bindings.bind(&binding("h", later, 1000), &job).is_err());
        assert!(bindings.is_of("h", &job).is_err());
        assert_eq!(bindings.is_of("h", &other), Ok(true));
    }

    #[test]
    fn what_asks_for_tokens_is_its_trees_while_that_lives() {
        let dir = tempfile::tempdir().unwrap();
        let mut child = std::process::Command::new("sleep").arg("600").spawn().unwrap();
        let pid = child.id().cast_signed();
        let start = crate::identity::ancestors::Stat::of(pid).unwrap().start;
        let parent = Process { pid: 5, start: 5 };
        let job = Holder::Tree { top: Process { pid, start }, parent, uid: 1000, cgroup: "/job".to_owned() };
        let other = tree(20, 6, 1000, "/job");
        let (hash, now) = ("a".repeat(64), Timestamp::now());
        let asks = Binding { lives: true, ..binding(&hash, Timestamp::UNIX_EPOCH, 1000) };
        let bindings = Bindings::open(dir.path());
        assert_eq!(bindings.bind(&asks, &job), Ok(()));
        let later = now.checked_add(Duration::from_secs(60)).unwrap();
        for bindings in [bindings, Bindings::open(dir.path())] {
            assert_eq!(bindings.is_of(&hash, &job), Ok(true));
            assert_eq!(bindings.is_of(&hash, &other), Err(job.told()));
            assert_eq!(bindings.bind(&binding(&hash, later, 1000), &other), Err(job.told()));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(Bindings::open(dir.path()).is_of(&hash, &other), Ok(false));
    }

    #[test]
    fn one_user_takes_the_room_of_nobody_else() {
        let bindings = Bindings::default();
        let (now, minute) = (Timestamp::now(), Duration::from_secs(60));
        let later = now.checked_add(minute).unwrap();
        let greedy = tree(10, 5, 1000, "/job");
        for at in 0..MAX_OF_USER {
            assert_eq!(bindings.bind(&binding(&format!("h{at}"), later, 1000), &greedy), Ok(()));
        }
        assert_eq!(bindings.bind(&binding("more", later, 1000), &greedy), Err(Refused::Full));
        assert_eq!(bindings.bind(&binding("h0", later, 1000), &greedy), Ok(()), "it has that one");
        let other = tree(20, 6, 1001, "/job");
        assert_eq!(bindings.bind(&binding("more", later, 1001), &other), Ok(()));
        assert!(bindings.bind(&binding("h0", later, 1001), &other).is_err(), "nothing was given up");
    }

    #[test]
    fn the_next_agent_knows_whose_tokens_are() {
        let dir = tempfile::tempdir().unwrap();
        let later = Timestamp::now().checked_add(Duration::from_secs(60)).unwrap();
        let (job, other) = (tree(10, 5, 1000, "/job"), tree(20, 6, 1000, "/job"));
        let (own, lost, ended) = ("a".repeat(64), "b".repeat(64), "c".repeat(64));
        let bindings = Bindings::open(dir.path());
        let told = Some(([7; 32], Arc::from("https://id.example")));
        let tells = Binding { told, ..binding(&own, later, 1000) };
        assert_eq!(bindings.bind(&tells, &job), Ok(()));
        assert_eq!(bindings.bind(&binding(&ended, Timestamp::UNIX_EPOCH, 1000), &job), Ok(()));
        drop(bindings);
        let bindings = Bindings::open(dir.path());
        assert_eq!(bindings.is_of(&own, &job), Ok(true));
        assert_eq!(bindings.is_of(&own, &other), Err(job.told()));
        assert_eq!((bindings.len(), bindings.lock().order.len()), (1, 1), "it is told again");
        assert!(!bindings.may_be_lost(None));
        drop(bindings);
        // What cannot be read is not taken for nothing.
        std::fs::write(dir.path().join("bindings.json"), "{").unwrap();
        let bindings = Bindings::open(dir.path());
        let ago = |seconds| Timestamp::now().checked_sub(Duration::from_secs(seconds)).ok();
        assert!(bindings.may_be_lost(None) && bindings.may_be_lost(ago(10)));
        let later = Timestamp::now().checked_add(Duration::from_secs(10)).unwrap();
        assert!(!bindings.may_be_lost(Some(later)));
        assert!(dir.path().join("bindings.damaged").exists());
        assert_eq!(bindings.bind(&binding(&lost, later, 1000), &other), Ok(()));
        drop(bindings);
        let bindings = Bindings::open(dir.path());
        assert!(bindings.may_be_lost(ago(10)), "the next agent does not know more");
        assert_eq!(bindings.is_of(&lost, &other), Ok(true));
    }

    #[test]
    fn what_cannot_be_written_down_does_not_count() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        std::fs::create_dir(&state).unwrap();
        let bindings = Bindings::open(&state);
        let later = Timestamp::now().checked_add(Duration::from_secs(60)).unwrap();
        let job = tree(10, 5, 1000, "/job");
        let hash = "a".repeat(64);
        std::fs::rename(&state, dir.path().join("elsewhere")).unwrap();
        for _ in 0..2 {
            assert!(matches!(bindings.bind(&binding(&hash, later, 1000), &job), Err(Refused::Unkept(_))));
        }
        std::fs::rename(dir.path().join("elsewhere"), &state).unwrap();
        assert_eq!(bindings.bind(&binding(&hash, later, 1000), &job), Ok(()));
        assert_eq!(Bindings::open(&state).is_of(&hash, &job), Ok(true));
    }
}
