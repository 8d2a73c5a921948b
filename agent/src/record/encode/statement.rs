//! What statements do.

use interlock_recording::wire::Writer;

use super::word;
use crate::sql::{Script, Statement};

/// Columns of one statement that are recorded, read and written each: every one has its table's name with
/// it, so that they can be many times longer than the text.
const MAX_COLUMNS: usize = 1000;

/// Bytes of the reason why a text could not be read.
const MAX_ERROR: usize = 1024;

pub(super) fn statements(writer: &mut Writer<'_>, script: &Script, masked: bool) {
    let single = script.statements.len() == 1;
    for entry in &script.statements {
        writer.message(8, |field| statement(field, entry, !single && !masked, !masked));
    }
}

fn statement(writer: &mut Writer<'_>, statement: &Statement, with_text: bool, unmasked: bool) {
    if with_text {
        writer.string(1, &statement.text);
    }
    word(writer, 2, statement.kind);
    statement.kinds.iter().for_each(|kind| word(writer, 3, kind));
    statement.classes.iter().for_each(|class| word(writer, 4, class));
    statement.reads.iter().for_each(|relation| writer.display(5, relation));
    statement.writes.iter().for_each(|relation| writer.display(6, relation));
    statement.functions.iter().for_each(|function| writer.display(7, function));
    if let Some(clause) = statement.where_clause {
        word(writer, 8, clause);
    }
    if let Some(limit) = statement.limit {
        word(writer, 9, limit);
    }
    writer.bool(10, statement.dynamic);
    let mut omitted = 0;
    // Where something in the text was masked, a name in quotes may be it.
    let shown = |name: &str| unmasked || is_plain(name);
    for (field, columns) in [(11, &statement.columns_read), (12, &statement.columns_written)] {
        let mut written = 0;
        for column in columns.iter().filter(|column| shown(&column.name)).take(MAX_COLUMNS) {
            writer.display(field, column);
            written += 1;
        }
        omitted += columns.len() - written;
    }
    writer.uint(13, omitted as u64);
    writer.bool(14, statement.changes_lexing);
    statement.settings.iter().filter(|name| shown(name)).for_each(|setting| writer.string(15, setting));
    for (field, names) in [(16, &statement.executes), (17, &statement.prepares)] {
        names.iter().filter(|name| shown(name)).for_each(|name| writer.always_string(field, name));
    }
    for (field, clause) in [(19, statement.where_read), (20, statement.where_write)] {
        if let Some(clause) = clause {
            word(writer, field, clause);
        }
    }
    statement.limit_rows.iter().for_each(|rows| writer.display(21, rows));
    // The reason quotes the text.
    if let Some(error) = statement.error.as_ref().filter(|_| unmasked) {
        writer.always_string(18, error.get(..error.floor_char_boundary(MAX_ERROR)).unwrap_or_default());
    }
}

/// A name as people give them: `*`, or letters, digits, `_` and dots, not beginning with a digit.
fn is_plain(name: &str) -> bool {
    name == "*"
        || !name.starts_with(|c: char| c.is_ascii_digit())
            && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'.')
}
