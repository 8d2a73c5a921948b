//! Statements that were read before.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, PoisonError};

use super::{Script, analyze};

/// Locks, so that flows do not wait for one another; a power of two.
const SHARDS: usize = 16;

/// Keeps what [`analyze`] gave, by text. Bounded by entries and by bytes of text; what was not used
/// for longest goes first, roughly.
///
/// Texts are told apart by comparing them, so one text never gets another's script.
#[derive(Debug)]
pub struct Cache {
    hasher: RandomState,
    shards: Box<[Mutex<Shard>]>,
    max_entries: usize,
    max_bytes: usize,
}

#[derive(Debug, Default)]
struct Shard {
    /// By hash of the text. Of two texts with one hash the later stays.
    entries: HashMap<u64, Entry, Hashed>,
    bytes: usize,
    clock: u64,
}

#[derive(Debug)]
struct Entry {
    text: Box<str>,
    script: Arc<Script>,
    used: u64,
}

impl Cache {
    /// A cache of at most `max_entries` texts of together at most `max_bytes` bytes. The scripts take
    /// a small multiple of that.
    pub fn new(max_entries: usize, max_bytes: usize) -> Self {
        Self {
            hasher: RandomState::new(),
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            max_entries: max_entries.div_ceil(SHARDS),
            max_bytes: max_bytes / SHARDS,
        }
    }

    /// What `text` does: as it was read before, or else read now.
    ///
    /// A hit hashes the text, compares it and takes a lock for that long; it allocates nothing. A miss
    /// waits as [`analyze`] does, without a lock.
    pub fn analyze(&self, text: &str) -> Arc<Script> {
        let hash = self.hasher.hash_one(text);
        let Some(shard) = self.shards.get(hash as usize % SHARDS) else { return Arc::new(analyze(text)) };
        {
            let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            shard.clock += 1;
            let now = shard.clock;
            if let Some(entry) = shard.entries.get_mut(&hash)
                && *entry.text == *text
            {
                entry.used = now;
                return Arc::clone(&entry.script);
            }
        }
        let script = Arc::new(analyze(text));
        // A text that would push out a shard's worth of others stays outside.
        if text.len() <= self.max_bytes / 4 && self.max_entries > 0 {
            let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            shard.insert(hash, text, &script, self.max_entries, self.max_bytes);
        }
        script
    }

    /// Texts in it, and their bytes together.
    pub fn size(&self) -> (usize, usize) {
        self.shards.iter().fold((0, 0), |(entries, bytes), shard| {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            (entries + shard.entries.len(), bytes + shard.bytes)
        })
    }
}

impl Shard {
    fn insert(&mut self, hash: u64, text: &str, script: &Arc<Script>, max_entries: usize, max_bytes: usize) {
        self.remove(hash);
        while self.entries.len() >= max_entries || self.bytes + text.len() > max_bytes {
            let Some(victim) = self.victim() else { break };
            self.remove(victim);
        }
        self.bytes += text.len();
        let used = self.clock;
        self.entries.insert(hash, Entry { text: Box::from(text), script: Arc::clone(script), used });
    }

    /// The least lately used of a few entries, which is near enough to the least of all and keeps the
    /// cost of an insertion the same however many entries there are. The map's order is that of the
    /// hashes, which start from a random key.
    fn victim(&self) -> Option<u64> {
        const SAMPLE: usize = 8;
        let skip =
            if self.entries.len() > SAMPLE { self.clock as usize % (self.entries.len() - SAMPLE) } else { 0 };
        let sample = self.entries.iter().skip(skip).take(SAMPLE);
        sample.min_by_key(|(_, entry)| entry.used).map(|(hash, _)| *hash)
    }

    fn remove(&mut self, hash: u64) {
        if let Some(entry) = self.entries.remove(&hash) {
            self.bytes -= entry.text.len();
        }
    }
}

/// The keys are hashes already.
#[derive(Debug, Clone, Default)]
struct Hashed(u64);

impl BuildHasher for Hashed {
    type Hasher = Self;

    fn build_hasher(&self) -> Self {
        Self(0)
    }
}

impl std::hash::Hasher for Hashed {
    fn finish(&self) -> u64 {
        // The low bits chose the shard.
        self.0.rotate_right(SHARDS.trailing_zeros())
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_read_once() {
        let cache = Cache::new(100, 1 << 20);
        let first = cache.analyze("select 1");
        let again = cache.analyze("select 1");
        assert!(Arc::ptr_eq(&first, &again));
        assert!(!Arc::ptr_eq(&first, &cache.analyze("select 2")));
        assert_eq!(cache.size(), (2, 16));
    }

    #[test]
    fn it_stays_within_its_bounds() {
        let cache = Cache::new(64, 16 << 10);
        for number in 0..2000 {
            cache.analyze(&format!("select {number} /* {} */", "x".repeat(number % 500)));
            let (entries, bytes) = cache.size();
            assert!(entries <= 64 && bytes <= 16 << 10, "{entries} entries of {bytes} bytes");
        }
        assert!(cache.size().0 > 16);
        let huge = format!("select '{}'", "x".repeat(32 << 10));
        assert_eq!(cache.analyze(&huge).statements.len(), 1);
        assert!(cache.size().1 <= 16 << 10);
    }

    #[test]
    fn texts_with_one_hash_are_told_apart() {
        let mut shard = Shard::default();
        shard.insert(7, "a", &Arc::new(Script::unparsed("a", "")), 10, 100);
        shard.insert(7, "bb", &Arc::new(Script::unparsed("bb", "")), 10, 100);
        assert_eq!((shard.entries.len(), shard.bytes), (1, 2));
    }
}
