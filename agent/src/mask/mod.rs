//! Detectors and transformations: what happens to values on the way back.
//!
//! A [`MaskSet`] holds the masks of one flow. A result column whose origin a mask names goes through
//! [`ColumnMask::apply`], which keeps it valid for its type and wire format; every other field, and
//! every error or notice text, goes through [`MaskSet::detect_typed`] or [`MaskSet::detect`], one
//! pass over the bytes for all detectors; COPY data goes through [`copy::CopyMasker`].
//!
//! ```
//! use interlock_agent::mask::{Detector, Fired, HashKey, MaskSet, Transform};
//!
//! let masks = MaskSet::builder()
//!     .detector("leaks".into(), Detector::Email, Transform::Redact)
//!     .build(&HashKey::new(&[7; 32]));
//! let (mut out, mut fired) = (Vec::new(), Fired::default());
//! assert!(masks.detect(b"write to ann@example.com", &mut out, &mut fired));
//! assert_eq!(out, b"write to [redacted]");
//! assert_eq!(fired.names(&masks).collect::<Vec<_>>(), ["leaks"]);
//! ```

pub mod copy;
mod detector;
pub(crate) mod glob;
mod key;
mod scan;
mod text;
mod transform;
mod typed;
pub mod value;

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use glob::Glob;
use scan::Rules;

pub use detector::{Detector, UnknownDetector};
pub use key::{HashKey, KeyError, KeyProblem};
pub use transform::Transform;
pub use value::{Applied, Format};

/// What stands where a value was redacted.
pub const REDACTED: &str = "[redacted]";

/// Longest value in bytes that detectors look through. In a longer one the whole value is replaced:
/// [`MaskSet::detect`] writes [`REDACTED`] and [`MaskSet::detect_typed`] gives NULL, so a session
/// need not hold more than this of a value.
pub const MAX_DETECT: usize = 16 << 20;

/// The masks of one flow, compiled: columns by name and detectors on values. Immutable.
#[derive(Debug, Default)]
pub struct MaskSet {
    names: Vec<Arc<str>>,
    columns: Vec<ColumnMask>,
    rules: Rules,
}

/// One mask of a set, by its place in [`MaskSet::names`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MaskId(u16);

/// Which masks of a set have changed something. Made once and passed along; it allocates only for
/// sets of more than 64 masks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fired {
    first: u64,
    more: Vec<u64>,
}

/// A mask on columns: where they stand and what is done to their values.
#[derive(Debug, Clone)]
pub struct ColumnMask {
    id: MaskId,
    name: Arc<str>,
    schema: Glob,
    table: Glob,
    column: Glob,
    transform: Transform,
    key: Arc<HashKey>,
}

/// Collects the masks of a [`MaskSet`].
#[derive(Debug, Default)]
pub struct Builder {
    names: Vec<Arc<str>>,
    columns: Vec<(MaskId, [Glob; 3], Transform)>,
    detectors: Vec<(MaskId, Detector, Transform)>,
}

// === impl MaskSet ===

impl MaskSet {
    /// An empty set to add to.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// It changes nothing.
    pub fn is_empty(&self) -> bool {
        !self.has_columns() && !self.has_detectors()
    }

    /// Some masks are on columns.
    pub fn has_columns(&self) -> bool {
        !self.columns.is_empty()
    }

    /// Some masks are detectors on values.
    pub fn has_detectors(&self) -> bool {
        !self.rules.is_empty()
    }

    /// Every mask's name once, in the order in which they were added.
    pub fn names(&self) -> &[Arc<str>] {
        &self.names
    }

    /// The name of one mask; empty for an id of another set.
    pub fn name(&self, id: MaskId) -> &str {
        self.names.get(usize::from(id.0)).map_or("", |name| name)
    }

    /// The strictest mask on the column of this name, as it stands in the catalog (case counts).
    /// The one added first where several are equally strict.
    pub fn column(&self, schema: &str, table: &str, column: &str) -> Option<&ColumnMask> {
        self.columns
            .iter()
            .filter(|mask| mask.matches(schema, table, column))
            .reduce(|best, mask| if mask.transform > best.transform { mask } else { best })
    }

    /// All masks on columns, with their patterns.
    pub fn columns(&self) -> impl ExactSizeIterator<Item = &ColumnMask> {
        self.columns.iter()
    }

    /// Runs all detectors over a text. When any of them finds something, appends the masked text to
    /// `out`, notes the masks in `fired` and returns `true`; otherwise leaves both as they are.
    ///
    /// [`Transform::Null`] works like redact here, since the rest of the text stays.
    pub fn detect(&self, value: &[u8], out: &mut Vec<u8>, fired: &mut Fired) -> bool {
        self.rules.mask(value, out, fired).is_some()
    }

    /// The same for text that is recorded or logged: parameters, messages. Not for SQL, of which it would hide what
    /// runs: see [`Recordable`](crate::sql::Recordable).
    pub fn mask_text<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let mut out = Vec::new();
        if !self.detect(text.as_bytes(), &mut out, &mut Fired::default()) {
            return Cow::Borrowed(text);
        }
        // Masks replace whole characters; were one ever to cut one, the text stays a string.
        Cow::Owned(
            String::from_utf8(out).unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned()),
        )
    }

    /// What detectors find in a text, from left to right, and what each is to be replaced by; `None` where it is too
    /// long to be looked through.
    pub(crate) fn find(&self, text: &str) -> Option<Vec<(Range<usize>, String)>> {
        if self.has_detectors() && text.len() > MAX_DETECT {
            return None;
        }
        let replaced = |hit: scan::Hit| {
            let mut out = Vec::new();
            self.rules.write(hit, text.as_bytes(), &mut out);
            let range = text.floor_char_boundary(hit.start)..text.ceil_char_boundary(hit.end);
            (range, String::from_utf8(out).unwrap_or_else(|_| REDACTED.to_owned()))
        };
        Some(self.rules.find(text.as_bytes()).into_iter().map(replaced).collect())
    }

    /// Detectors find something in a text, or it is too long to be looked through.
    pub(crate) fn finds(&self, text: &str) -> bool {
        self.has_detectors() && (text.len() > MAX_DETECT || !self.rules.find(text.as_bytes()).is_empty())
    }

    /// Runs all detectors over a field of a type that may hold text (or numbers that could be card
    /// or id numbers). When any finds something: the masked field is appended to `out`, valid for
    /// the type and format, or it is to become NULL. `None` when nothing was found.
    pub fn detect_typed(
        &self,
        type_oid: u32,
        format: Format,
        value: &[u8],
        out: &mut Vec<u8>,
        fired: &mut Fired,
    ) -> Option<Applied> {
        typed::detect(&self.rules, type_oid, format, value, out, fired)
    }
}

// === impl Builder ===

impl Builder {
    /// Adds a mask on the columns that three globs (`*`, `?`; case counts) take in.
    #[must_use]
    pub fn column(
        mut self,
        name: Arc<str>,
        schema_glob: &str,
        table_glob: &str,
        column_glob: &str,
        transform: Transform,
    ) -> Self {
        let id = self.id(name);
        self.columns.push((id, [schema_glob, table_glob, column_glob].map(Glob::new), transform));
        self
    }

    /// Adds a detector on values. Where several masks use the same detector the strictest applies.
    #[must_use]
    pub fn detector(mut self, name: Arc<str>, detector: Detector, transform: Transform) -> Self {
        let id = self.id(name);
        self.detectors.push((id, detector, transform));
        self
    }

    /// The id of this name; a mask of many columns and detectors is added under one name.
    fn id(&mut self, name: Arc<str>) -> MaskId {
        let at = self.names.iter().position(|known| *known == name).unwrap_or_else(|| {
            self.names.push(name);
            self.names.len() - 1
        });
        // Beyond 65,535 names (no policy directory comes near) the last one answers for the rest.
        MaskId(u16::try_from(at).unwrap_or(u16::MAX))
    }

    /// Compiles the set. `key` is for [`Transform::Hash`].
    pub fn build(self, key: &HashKey) -> MaskSet {
        let key = Arc::new(key.clone());
        let columns = self
            .columns
            .into_iter()
            .map(|(id, [schema, table, column], transform)| ColumnMask {
                id,
                name: self.names.get(usize::from(id.0)).cloned().unwrap_or_default(),
                schema,
                table,
                column,
                transform,
                key: Arc::clone(&key),
            })
            .collect();
        let rules = Rules::new(&self.detectors, &key);
        MaskSet { names: self.names, columns, rules }
    }
}

// === impl ColumnMask ===

impl ColumnMask {
    /// Which mask of the set it is.
    pub fn id(&self) -> MaskId {
        self.id
    }

    /// The mask's name in the policy.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// What is done to the values.
    pub fn transform(&self) -> Transform {
        self.transform
    }

    /// The globs for schema, table and column, as given.
    pub fn patterns(&self) -> (&str, &str, &str) {
        (self.schema.pattern(), self.table.pattern(), self.column.pattern())
    }

    /// It takes in the column of this name.
    pub fn matches(&self, schema: &str, table: &str, column: &str) -> bool {
        self.column.matches(column) && self.table.matches(table) && self.schema.matches(schema)
    }

    /// Masks one value of a column of this type: see [`value::apply`].
    pub fn apply(
        &self,
        type_oid: u32,
        typmod: i32,
        format: Format,
        value: &[u8],
        out: &mut Vec<u8>,
    ) -> Applied {
        value::apply(self.transform, &self.key, type_oid, typmod, format, value, out)
    }
}

// === impl Fired ===

impl Fired {
    /// Notes that this mask changed something.
    pub fn insert(&mut self, id: MaskId) {
        let (word, bit) = (usize::from(id.0 / 64), id.0 % 64);
        let Some(word) = word.checked_sub(1) else {
            self.first |= 1 << bit;
            return;
        };
        if self.more.len() <= word {
            self.more.resize(word + 1, 0);
        }
        if let Some(word) = self.more.get_mut(word) {
            *word |= 1 << bit;
        }
    }

    /// Adds all of another's.
    pub fn merge(&mut self, other: &Self) {
        other.iter().for_each(|id| self.insert(id));
    }

    /// Nothing was changed.
    pub fn is_empty(&self) -> bool {
        self.first == 0 && self.more.iter().all(|word| *word == 0)
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.first = 0;
        self.more.clear();
    }

    /// The masks, in the order of [`MaskSet::names`].
    pub fn iter(&self) -> impl Iterator<Item = MaskId> + '_ {
        std::iter::once(&self.first).chain(&self.more).zip(0u16..).flat_map(|(word, at)| {
            (0..64u16).filter(move |bit| word >> bit & 1 == 1).map(move |bit| MaskId(at * 64 + bit))
        })
    }

    /// Their names.
    pub fn names<'a>(&'a self, masks: &'a MaskSet) -> impl Iterator<Item = &'a str> {
        self.iter().map(|id| masks.name(id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> HashKey {
        HashKey::new(&[1; 32])
    }

    #[test]
    fn the_strictest_column_mask_applies() {
        let masks = MaskSet::builder()
            .column("a".into(), "public", "cust*", "*", Transform::Partial { keep_first: 0, keep_last: 4 })
            .column("b".into(), "*", "customers", "card_number", Transform::Hash)
            .column("c".into(), "*", "*", "card_*", Transform::Null)
            .column("d".into(), "*", "*", "card_*", Transform::Redact)
            .build(&key());
        let name = |s, t, c| masks.column(s, t, c).map(|m| &**m.name());
        assert_eq!(name("public", "customers", "card_number"), Some("c"));
        assert_eq!(name("public", "customers", "email"), Some("a"));
        assert_eq!(name("sales", "customers", "email"), None);
        assert_eq!(name("public", "Customers", "email"), None);
        assert_eq!(masks.columns().next().unwrap().patterns(), ("public", "cust*", "*"));
        assert!(masks.has_columns() && !masks.has_detectors() && !masks.is_empty());
        assert!(MaskSet::default().is_empty());
    }

    #[test]
    fn fired_holds_any_number_of_masks() {
        let mut fired = Fired::default();
        assert!(fired.is_empty());
        for id in [0, 63, 64, 200] {
            fired.insert(MaskId(id));
        }
        assert_eq!(fired.iter().map(|id| id.0).collect::<Vec<_>>(), [0, 63, 64, 200]);
        let mut other = Fired::default();
        other.merge(&fired);
        assert_eq!(other, fired);
        fired.clear();
        assert!(fired.is_empty());
    }

    #[test]
    fn one_name_is_one_mask() {
        let masks = MaskSet::builder()
            .detector("leaks".into(), Detector::Email, Transform::Redact)
            .detector("leaks".into(), Detector::Jwt, Transform::Redact)
            .column("cards".into(), "*", "*", "card", Transform::Null)
            .build(&key());
        assert_eq!(masks.names().iter().map(|n| &**n).collect::<Vec<_>>(), ["leaks", "cards"]);
    }
}
