//! The rows of one result, as far as they are recorded.

use interlock_recording::wire::Writer;

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
    /// A row was left out, so that no later one may be recorded.
    full: bool,
    /// The columns and the recorded rows, encoded as fields of `Rows`.
    columns: Vec<u8>,
    values: Vec<u8>,
    masks: Vec<(Box<str>, u64)>,
}

impl ResultBuilder {
    pub(super) fn new(max_rows: u32, max_bytes: u32) -> Self {
        Self {
            max_rows,
            max_bytes,
            rows: 0,
            bytes: 0,
            recorded: 0,
            full: false,
            columns: Vec::new(),
            values: Vec::new(),
            masks: Vec::new(),
        }
    }

    /// Sets the columns; replaces those set before.
    pub fn columns<'a>(&mut self, columns: impl IntoIterator<Item = ResultColumn<'a>>) {
        self.columns.clear();
        for column in columns {
            Writer::new(&mut self.columns).message(3, |field| {
                field.string(1, column.name);
                field.uint(2, column.type_oid.into());
                field.bool(3, column.format == 1);
            });
        }
    }

    /// Whether the next row's values are still recorded. When not, [`Self::count_row`] is enough.
    pub fn wants_row(&self) -> bool {
        !self.full && self.recorded < self.max_rows
    }

    /// Adds a row of `bytes` bytes on the wire: counts it, and records its values (masked, in their
    /// column's format; `None` is NULL) if the limits allow.
    pub fn push_row<'v>(&mut self, bytes: u64, values: impl IntoIterator<Item = Option<&'v [u8]>>) {
        if self.wants_row() {
            let before = self.values.len();
            Writer::new(&mut self.values).message(4, |row| {
                for value in values {
                    row.message(1, |field| {
                        if let Some(value) = value {
                            field.always_bytes(1, value);
                        }
                    });
                }
            });
            if self.values.len() > self.max_bytes as usize {
                self.values.truncate(before);
                self.full = true;
            } else {
                self.recorded += 1;
            }
        }
        self.count_row(bytes);
    }

    /// Counts a row of `bytes` bytes on the wire without recording its values.
    pub fn count_row(&mut self, bytes: u64) {
        self.rows += 1;
        self.bytes = self.bytes.saturating_add(bytes);
    }

    /// Counts that the mask `name` changed `count` values.
    pub fn masked(&mut self, name: &str, count: u64) {
        match self.masks.iter_mut().find(|(mask, _)| **mask == *name) {
            Some((_, counted)) => *counted += count,
            None => self.masks.push((name.into(), count)),
        }
    }

    /// Rows so far.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Empties it for the next result. Its memory is kept.
    pub fn clear(&mut self) {
        self.rows = 0;
        self.bytes = 0;
        self.recorded = 0;
        self.full = false;
        self.columns.clear();
        self.values.clear();
        self.masks.clear();
    }

    /// Writes the fields of `Rows`; without the values when they have no room.
    pub(super) fn encode(&self, rows: &mut Writer<'_>, with_values: bool) {
        rows.uint(1, self.rows);
        rows.uint(2, self.bytes);
        rows.raw(&self.columns);
        if with_values {
            rows.raw(&self.values);
        }
        for (mask, count) in &self.masks {
            rows.message(5, |field| {
                field.string(1, mask);
                field.uint(2, *count);
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use interlock_recording::proto::Rows;
    use prost::Message as _;

    use super::*;

    fn decoded(builder: &ResultBuilder, with_values: bool) -> Rows {
        let mut bytes = Vec::new();
        builder.encode(&mut Writer::new(&mut bytes), with_values);
        Rows::decode(bytes.as_slice()).expect("decodes")
    }

    #[test]
    fn rows_stop_at_the_limits_and_counts_go_on() {
        let mut builder = ResultBuilder::new(3, 60);
        builder.columns([ResultColumn { name: "card", type_oid: 25, format: 0 }]);
        builder.push_row(10, [Some(b"****".as_slice())]);
        builder.push_row(100, [Some([b'x'; 100].as_slice())]);
        // A short row after one that was left out is left out as well: what is recorded are the first rows.
        builder.push_row(10, [None]);
        builder.count_row(7);
        builder.masked("cards", 2);
        builder.masked("leaks", 1);
        builder.masked("cards", 3);
        let rows = decoded(&builder, true);
        assert_eq!((rows.count, rows.bytes, rows.rows.len()), (4, 127, 1));
        assert_eq!(rows.rows[0].values[0].data.as_deref(), Some(b"****".as_slice()));
        assert_eq!(rows.columns[0].name, "card");
        let masks: Vec<_> = rows.masks.iter().map(|mask| (mask.mask.as_str(), mask.count)).collect();
        assert_eq!(masks, [("cards", 5), ("leaks", 1)]);
        assert_eq!(decoded(&builder, false).rows, []);

        builder.clear();
        for _ in 0..5 {
            builder.push_row(1, [None, Some(b"".as_slice())]);
        }
        let rows = decoded(&builder, true);
        assert_eq!((rows.count, rows.rows.len(), rows.masks.len()), (5, 3, 0));
        assert_eq!(rows.rows[0].values[0].data, None);
        assert_eq!(rows.rows[0].values[1].data.as_deref(), Some(b"".as_slice()));
    }
}
