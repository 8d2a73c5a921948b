//! Tokens belong to the host that showed them first, where this host is enrolled with a collector.
//!
//! The collector is told what is bound here, and says whether another host had it first ([`Bindings::word`]). It
//! learns hashes alone. While it is away tokens count, unless their issuer's entry in agent.yaml demands its word
//! (`one_host: required`); what it says later counts from then on.

use std::time::{Duration, Instant};

use interlock_recording::chain::Hash;
use jiff::Timestamp;
use tokio::sync::watch;

use super::bind::Bindings;
use super::holder::OtherHost;
use super::kept::Word;

/// How long the first connection with a token waits for the collector's word at most.
const PATIENCE: Duration = Duration::from_secs(2);

/// How it stands with the collector.
#[derive(Debug, Default)]
pub(super) struct Link {
    /// Calls that are open.
    open: u32,
    /// It has not answered in time when it was last waited for: nobody waits until it does.
    slow: bool,
}

/// A token as the collector is told of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Bound {
    pub(crate) digest: Hash,
    /// What tells it from others in recordings.
    pub(crate) token_hash: String,
    pub(crate) issuer: String,
    /// How much longer it counts.
    pub(crate) left: Duration,
}

/// As long as this lives, a collector can be told of tokens.
#[derive(Debug)]
pub(crate) struct Linked(std::sync::Arc<Bindings>);

impl Linked {
    pub(crate) fn new(bindings: &std::sync::Arc<Bindings>) -> Self {
        let mut state = bindings.lock();
        state.link.open += 1;
        state.link.slow = false;
        drop(state);
        Self(std::sync::Arc::clone(bindings))
    }
}

impl Drop for Linked {
    fn drop(&mut self) {
        self.0.lock().link.open -= 1;
        self.0.heard.notify_all();
    }
}

impl Bindings {
    /// Changes when there is something new to tell.
    pub(crate) fn news(&self) -> watch::Receiver<()> {
        self.news.subscribe()
    }

    /// Changes when another host is found to have had a token first.
    pub(crate) fn others(&self) -> watch::Receiver<()> {
        self.others.subscribe()
    }

    /// What is to be told behind the place `after`, which is moved on; nothing when that was all.
    pub(crate) fn next(&self, after: &mut u64, most: usize) -> Vec<Bound> {
        let (state, now) = (self.lock(), Timestamp::now());
        let mut told = Vec::new();
        for (place, hash) in state.order.range(after.saturating_add(1)..) {
            *after = *place;
            let Some(known) = state.bound.get(hash).filter(|known| known.until > now) else { continue };
            let Some(tells) = &known.told else { continue };
            told.push(Bound {
                digest: tells.digest,
                token_hash: hash.clone(),
                issuer: tells.issuer.as_ref().to_owned(),
                left: known.until.duration_since(now).unsigned_abs(),
            });
            if told.len() >= most {
                break;
            }
        }
        told
    }

    /// Takes the collector's word on tokens; `None` is that it cannot say. What it was not told of, and what it
    /// has not the right to say, is passed over. Writes to the disk.
    pub(crate) fn hear(&self, words: &[(Hash, Option<Option<OtherHost>>)]) {
        let (mut changed, mut elsewhere) = (None, false);
        {
            let mut state = self.lock();
            state.link.slow = false;
            for (digest, word) in words {
                let Some(hash) = state.digests.get(digest).cloned() else { continue };
                let word = match word {
                    None => continue,
                    Some(None) => Word::Own,
                    Some(Some(other)) => Word::Other(other.clone()),
                };
                let other = matches!(word, Word::Other(_));
                if let Some(change) = state.hear(&hash, word) {
                    changed = Some(change);
                    elsewhere |= other;
                }
            }
        }
        self.heard.notify_all();
        if elsewhere {
            self.others.send_replace(());
        }
        if let Some(changed) = changed
            && let Err(error) = self.save(changed)
        {
            tracing::error!("what the collector said of tokens is not kept: {error}");
        }
    }

    /// What the collector has said of a bound token. Waits a short while for it where it can be asked.
    pub(super) fn word(&self, hash: &str, waits: bool) -> Option<Word> {
        let end = Instant::now() + PATIENCE;
        let mut state = self.lock();
        loop {
            let known = state.bound.get(hash)?;
            if known.word.is_some() || !waits || known.told.is_none() {
                return known.word.clone();
            }
            if state.link.open == 0 || state.link.slow {
                return None;
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                state.link.slow = true;
                return None;
            }
            let waited = self.heard.wait_timeout(state, left);
            state = waited.unwrap_or_else(std::sync::PoisonError::into_inner).0;
        }
    }

    /// How many are bound, and how many of them another host had first.
    pub fn counts(&self) -> (usize, usize) {
        let (state, now) = (self.lock(), Timestamp::now());
        let current = || state.bound.values().filter(|known| known.until > now);
        let elsewhere = current().filter(|known| matches!(known.word, Some(Word::Other(_))));
        (current().count(), elsewhere.count())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::bind::Binding;
    use super::super::holder::Holder;
    use super::*;

    fn bind(bindings: &Bindings, n: u8, seconds: u64) {
        let hash = format!("{n:02x}").repeat(32);
        let until = Timestamp::now().checked_add(Duration::from_secs(seconds)).unwrap();
        let told = Some(([n; 32], Arc::from("https://id.example")));
        let binding = Binding { hash: &hash, until, lives: false, uid: 7, told };
        bindings.bind(&binding, &Holder::Container("c".to_owned())).unwrap();
    }

    fn hash(n: u8) -> String {
        format!("{n:02x}").repeat(32)
    }

    fn told(bindings: &Bindings, after: &mut u64, most: usize) -> Vec<u8> {
        bindings.next(after, most).iter().map(|bound| bound.digest[0]).collect()
    }

    fn other(name: &str) -> Option<Option<OtherHost>> {
        Some(Some(OtherHost { id: "ab".repeat(32), name: name.to_owned() }))
    }

    #[test]
    fn each_call_is_told_all_and_then_what_is_new_or_prolonged() {
        let bindings = Bindings::default();
        let news = bindings.news();
        for n in 1..=3 {
            bind(&bindings, n, 60);
        }
        assert!(news.has_changed().unwrap());
        let mut after = 0;
        assert_eq!(told(&bindings, &mut after, 2), [1, 2]);
        assert_eq!(told(&bindings, &mut after, 2), [3]);
        assert!(told(&bindings, &mut after, 2).is_empty());
        bind(&bindings, 2, 30);
        assert!(told(&bindings, &mut after, 9).is_empty(), "it is told for longer than that");
        bind(&bindings, 1, 600);
        bind(&bindings, 4, 60);
        assert_eq!(told(&bindings, &mut after, 9), [1, 4]);
        assert_eq!(told(&bindings, &mut 0, 9), [2, 3, 1, 4]);
        // What is no secret, and what has ended, is not told.
        let binding = Binding { hash: "x", until: Timestamp::MAX, lives: false, uid: 7, told: None };
        bindings.bind(&binding, &Holder::Container("c".to_owned())).unwrap();
        bind(&bindings, 5, 0);
        assert!(told(&bindings, &mut after, 9).is_empty());
    }

    #[test]
    fn what_another_host_had_first_it_has_until_it_ends() {
        let bindings = Bindings::default();
        (1..=3).for_each(|n| bind(&bindings, n, 60));
        let others = bindings.others();
        bindings.hear(&[([1; 32], Some(None)), ([2; 32], None), ([9; 32], other("unasked"))]);
        assert!(!others.has_changed().unwrap());
        assert_eq!(bindings.word(&hash(1), false), Some(Word::Own));
        assert_eq!((bindings.word(&hash(2), false), bindings.word(&hash(9), false)), (None, None));
        bindings.hear(&[([1; 32], other("first")), ([3; 32], other("first"))]);
        assert!(others.has_changed().unwrap());
        bindings.hear(&[([1; 32], Some(None)), ([1; 32], other("second"))]);
        let Some(Word::Other(host)) = bindings.word(&hash(1), true) else { panic!("taken back") };
        assert_eq!((host.name.as_str(), bindings.counts()), ("first", (3, 2)));
    }

    #[test]
    fn it_is_waited_for_a_word_only_where_one_can_come() {
        let bindings = Arc::new(Bindings::default());
        bind(&bindings, 1, 60);
        assert_eq!(bindings.word(&hash(1), true), None, "there is no collector");
        let linked = Linked::new(&bindings);
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| bindings.word(&hash(1), true));
            bindings.hear(&[([1; 32], Some(None))]);
            assert_eq!(waiting.join().unwrap(), Some(Word::Own));
        });
        bind(&bindings, 2, 60);
        // It ends while somebody waits.
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| bindings.word(&hash(2), true));
            drop(linked);
            assert_eq!(waiting.join().unwrap(), None);
        });
        // One that does not answer is waited for once.
        let _linked = Linked::new(&bindings);
        assert_eq!(bindings.word(&hash(2), true), None);
        assert!(bindings.lock().link.slow);
        assert_eq!(bindings.word(&hash(2), true), None);
        bindings.hear(&[]);
        assert!(!bindings.lock().link.slow);
    }
}
