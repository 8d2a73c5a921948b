//! Statements that were read before.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::shape::Shape;
use super::{Script, analyze, analyze_shape};

/// Locks, so that flows do not wait for one another; a power of two.
const SHARDS: usize = 16;

/// Keeps what [`analyze`] gave, by text, and by the shape that texts share which differ in plain
/// constants alone. Bounded by entries and by bytes of text; what was not used for longest goes first,
/// roughly.
///
/// Texts are told apart by comparing them, so one text never gets another's script.
#[derive(Debug)]
pub struct Cache {
    texts: Shards<Arc<Script>>,
    /// `None` for a shape whose texts have to be read each by itself.
    shapes: Shards<Option<Arc<Script>>>,
}

impl Cache {
    /// A cache of at most `max_entries` texts of together at most `max_bytes` bytes, and as many
    /// shapes. The scripts take a small multiple of that.
    pub fn new(max_entries: usize, max_bytes: usize) -> Self {
        Self { texts: Shards::new(max_entries, max_bytes), shapes: Shards::new(max_entries, max_bytes) }
    }

    /// What `text` does: as it was read before, or else read now.
    ///
    /// A hit hashes the text, compares it and takes a lock for that long; it allocates nothing. A text
    /// of a known shape costs a pass over it and a copy of the script. A miss waits as [`analyze`] does,
    /// without a lock.
    pub fn analyze(&self, text: &str) -> Arc<Script> {
        if let Some(script) = self.texts.get(text) {
            return script;
        }
        if let Some(shape) = Shape::of(text) {
            let known = self.shapes.get(&shape.template).unwrap_or_else(|| {
                let script = analyze_shape(&shape).map(Arc::new);
                self.shapes.put(&shape.template, script.clone());
                script
            });
            if let Some(script) = known {
                return Arc::new(shape.fill(&script));
            }
        }
        let script = Arc::new(analyze(text));
        self.texts.put(text, Arc::clone(&script));
        script
    }

    /// The text with its constants taken out, where what it does is known not to depend on them; else the
    /// text itself.
    pub fn template(&self, text: &str) -> String {
        match Shape::of(text) {
            Some(shape) if self.shapes.get(&shape.template).flatten().is_some() => shape.template,
            _ => text.to_owned(),
        }
    }

    /// Texts and shapes in it, and their bytes together.
    pub fn size(&self) -> (usize, usize) {
        let (texts, shapes) = (self.texts.size(), self.shapes.size());
        (texts.0 + shapes.0, texts.1 + shapes.1)
    }
}

/// Values by text.
#[derive(Debug)]
struct Shards<V> {
    hasher: RandomState,
    shards: Box<[Mutex<Shard<V>>]>,
    max_entries: usize,
    max_bytes: usize,
}

#[derive(Debug)]
struct Shard<V> {
    /// By hash of the text. Of two texts with one hash the later stays.
    entries: HashMap<u64, Entry<V>, Hashed>,
    bytes: usize,
    clock: u64,
}

#[derive(Debug)]
struct Entry<V> {
    text: Box<str>,
    value: V,
    used: u64,
}

impl<V: Clone> Shards<V> {
    fn new(max_entries: usize, max_bytes: usize) -> Self {
        Self {
            hasher: RandomState::new(),
            shards: (0..SHARDS).map(|_| Mutex::new(Shard::new())).collect(),
            max_entries: max_entries.div_ceil(SHARDS),
            max_bytes: max_bytes / SHARDS,
        }
    }

    fn shard(&self, text: &str) -> Option<(u64, MutexGuard<'_, Shard<V>>)> {
        let hash = self.hasher.hash_one(text);
        let shard = self.shards.get(hash as usize % SHARDS)?;
        Some((hash, shard.lock().unwrap_or_else(PoisonError::into_inner)))
    }

    fn get(&self, text: &str) -> Option<V> {
        let (hash, mut shard) = self.shard(text)?;
        shard.clock += 1;
        let now = shard.clock;
        let entry = shard.entries.get_mut(&hash).filter(|entry| *entry.text == *text)?;
        entry.used = now;
        Some(entry.value.clone())
    }

    fn put(&self, text: &str, value: V) {
        // A text that would push out a shard's worth of others stays outside.
        if text.len() <= self.max_bytes / 4
            && self.max_entries > 0
            && let Some((hash, mut shard)) = self.shard(text)
        {
            shard.insert(hash, text, value, self.max_entries, self.max_bytes);
        }
    }

    fn size(&self) -> (usize, usize) {
        self.shards.iter().fold((0, 0), |(entries, bytes), shard| {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            (entries + shard.entries.len(), bytes + shard.bytes)
        })
    }
}

impl<V> Shard<V> {
    fn new() -> Self {
        Self { entries: HashMap::default(), bytes: 0, clock: 0 }
    }

    fn insert(&mut self, hash: u64, text: &str, value: V, max_entries: usize, max_bytes: usize) {
        self.remove(hash);
        while self.entries.len() >= max_entries || self.bytes + text.len() > max_bytes {
            let Some(victim) = self.victim() else { break };
            self.remove(victim);
        }
        self.bytes += text.len();
        let used = self.clock;
        self.entries.insert(hash, Entry { text: Box::from(text), value, used });
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
        let first = cache.analyze("select a");
        let again = cache.analyze("select a");
        assert!(Arc::ptr_eq(&first, &again));
        assert!(!Arc::ptr_eq(&first, &cache.analyze("select b")));
        assert_eq!(cache.size(), (2, 16));
    }

    #[test]
    fn a_shape_is_read_once() {
        let cache = Cache::new(100, 1 << 20);
        for number in 0..100 {
            let text = format!("select a from t where id = {number} and name = 'n{number}';");
            assert_eq!(*cache.analyze(&text), analyze(&text));
        }
        assert_eq!(cache.size().0, 1);
    }

    /// What is said of a text does not depend on what was asked before.
    #[test]
    fn texts_of_one_shape_whose_values_matter_are_told_apart() {
        for pair in [
            ["delete from t where 1 = 2", "delete from t where 1 = 1"],
            ["delete from t where 'a' = 'b'", "delete from t where 'a' = 'a'"],
            ["delete from t where a = 1 or a <> 2", "delete from t where a = 1 or a <> 1"],
            ["delete from t where a < 1 or a >= 2", "delete from t where a < 2 or a >= 2"],
            ["delete from t where not (a = 1) or a = 2", "delete from t where not (a = 1) or a = 1"],
            ["delete from t where a = 1 or 0 = 1", "delete from t where a = 1 or 1 = 1"],
            ["delete from t where a like 'x'", "delete from t where a like '%'"],
            ["delete from t where a ~ 'x'", "delete from t where a ~ ''"],
            ["delete from t where a = any('{1}') or 1 = 2", "delete from t where a = any('{1}') or 2 = 2"],
            [
                "delete from t where exists (select 1 where 1 = 2)",
                "delete from t where exists (select 1 where 1 = 1)",
            ],
            ["delete from t where 1 in (select 2)", "delete from t where 1 in (select 1)"],
            ["delete from t where 3 between 1 and 2", "delete from t where 1 between 1 and 2"],
            [
                "delete from t where case when 1 = 2 then a = 1 else true end",
                "delete from t where case when 1 = 1 then a = 1 else true end",
            ],
            ["delete from t where coalesce(a = 1, 1 = 2)", "delete from t where coalesce(a = 1, 1 = 1)"],
            [
                "delete from t where (a = 1) is not distinct from (a = 2)",
                "delete from t where (a = 1) is not distinct from (a = 1)",
            ],
            ["delete from t where (a = 1) = (a = 2)", "delete from t where (a = 1) = (a = 1)"],
            ["delete from t where (a, 1) = (a, 2)", "delete from t where (a, 1) = (a, 1)"],
            ["delete from t where a + 1 = a + 2", "delete from t where a + 1 = a + 1"],
            ["update t set a = 1 where 1 = 2", "update t set a = 1 where 1 = 1"],
            ["select set_config('work_mem', '1', true)", "select set_config('search_path', '1', true)"],
            ["select 'a'::regclass", "select 'b'::regclass"],
            ["select nextval('a')", "select nextval('b')"],
            [
                "select query_to_xml('select 1', true, true, '')",
                "select query_to_xml('drop table t', true, true, '')",
            ],
            [
                "insert into t select 'a'::regclass where 1 = 2",
                "insert into t select 'b'::regclass where 1 = 1",
            ],
            ["select a from t limit 1 + 1", "select a from t limit nullif(1, 1)"],
            ["set work_mem = 1", "set work_mem = 2"],
            ["set search_path = 'a'", "set search_path = 'b'"],
            ["do 'begin end'", "do 'begin delete from t; end'"],
            ["copy t to '/tmp/a'", "copy t to '/tmp/b'"],
        ] {
            let cache = Cache::new(100, 1 << 20);
            for text in pair.iter().chain(pair.iter().rev()) {
                assert_eq!(*cache.analyze(text), analyze(text), "after {pair:?}");
            }
        }
    }

    #[test]
    fn it_stays_within_its_bounds() {
        let cache = Cache::new(64, 16 << 10);
        for number in 0..2000 {
            cache.analyze(&format!("select a{number} /* {} */", "x".repeat(number % 500)));
            cache.analyze(&format!("select a{number} from {} where b = 1", "x".repeat(number % 500 + 1)));
            let (entries, bytes) = cache.size();
            assert!(entries <= 128 && bytes <= 32 << 10, "{entries} entries of {bytes} bytes");
        }
        assert!(cache.size().0 > 32);
        let huge = format!("select '{}'", "x".repeat(32 << 10));
        assert_eq!(cache.analyze(&huge).statements.len(), 1);
        assert!(cache.size().1 <= 32 << 10);
    }

    #[test]
    fn texts_with_one_hash_are_told_apart() {
        let mut shard = Shard::new();
        shard.insert(7, "a", 1, 10, 100);
        shard.insert(7, "bb", 2, 10, 100);
        assert_eq!((shard.entries.len(), shard.bytes), (1, 2));
    }
}
