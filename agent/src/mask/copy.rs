//! Masking of COPY data on its way to the client.
//!
//! The server sends one row in each CopyData message, but nothing in the protocol says so: data is
//! put together again to whole rows here, whatever the messages' borders. What is held of a row
//! that is not complete is bounded by [`MAX_ROW`].

#[cfg(test)]
mod tests;

use std::sync::Arc;

use super::{Applied, ColumnMask, Fired, Format, MaskSet, REDACTED};
use crate::sql::{Copy, CopyFormat};

/// Longest row in bytes that is masked. A longer one ends the COPY with [`CopyError::RowTooLong`].
pub const MAX_ROW: usize = 32 << 20;

/// Leads binary COPY data (PostgreSQL documentation, COPY, "Binary Format").
const SIGNATURE: &[u8; 11] = b"PGCOPY\n\xff\r\n\0";

/// Signature, flags, and the length of the header's extension.
const HEADER: usize = SIGNATURE.len() + 8;

/// One column of a COPY, in the order in which it travels.
#[derive(Debug, Clone)]
pub struct CopyColumn {
    /// The mask on it.
    pub mask: Option<ColumnMask>,
    /// Its type, from the catalog; 0 when it is not known (a masked value is then NULL).
    pub type_oid: u32,
    /// Its type modifier; -1 for none.
    pub typmod: i32,
}

/// COPY data that cannot be masked. Nothing more of it may be passed on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CopyError {
    /// One row is longer than what is held of it.
    #[error(
        "a row of COPY data is longer than {MAX_ROW} bytes, more than can be masked; leave the large column out, or exempt it"
    )]
    RowTooLong,
    /// A row has not the columns that it should have.
    #[error("a row of COPY data has {found} columns where {expected} were expected")]
    Columns {
        /// As the statement says.
        expected: usize,
        /// As the row has.
        found: usize,
    },
    /// The data is not what its format prescribes.
    #[error("malformed COPY data: {0}")]
    Malformed(&'static str),
}

/// Masks the data of one COPY as it comes, however it is cut into messages.
#[derive(Debug)]
pub struct CopyMasker {
    masks: Arc<MaskSet>,
    columns: Vec<CopyColumn>,
    format: CopyFormat,
    delimiter: u8,
    null: Vec<u8>,
    quote: u8,
    escape: u8,
    /// Lines that pass as they are: CSV's or text's header.
    header: bool,
    /// Where binary data stands.
    binary: Binary,
    /// The start of a row whose end has not come.
    held: Vec<u8>,
    /// Of `held`: searched for the row's end so far, and whether that was within quotes or an escape.
    searched: usize,
    quoted: bool,
    escaped: bool,
    /// One field, and what it becomes.
    field: Vec<u8>,
    masked: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Binary {
    Header,
    Rows,
    Trailer,
}

impl CopyMasker {
    /// A masker for this COPY. `columns` empty: only the detectors apply. Otherwise every row must
    /// have just these columns.
    pub fn new(masks: Arc<MaskSet>, copy: &Copy, columns: Vec<CopyColumn>) -> Self {
        Self {
            masks,
            columns,
            format: copy.format,
            delimiter: copy.delimiter,
            null: copy.null.clone().into_bytes(),
            quote: copy.quote,
            escape: copy.escape,
            header: copy.header && copy.format != CopyFormat::Binary,
            binary: Binary::Header,
            held: Vec::new(),
            searched: 0,
            quoted: false,
            escaped: false,
            field: Vec::new(),
            masked: Vec::new(),
        }
    }

    /// Takes the payload of one CopyData message; appends the masked rows that are complete with it
    /// to `out`.
    ///
    /// # Errors
    /// The data cannot be masked. The COPY must then be ended with an error; what is in `out` may
    /// still be sent.
    pub fn push(&mut self, data: &[u8], out: &mut Vec<u8>, fired: &mut Fired) -> Result<(), CopyError> {
        // Nearly always a message is one row: then it is worked on where it is.
        if self.held.is_empty() {
            let used = self.rows(data, out, fired)?;
            self.held.extend_from_slice(data.get(used..).unwrap_or_default());
        } else {
            let mut held = std::mem::take(&mut self.held);
            held.extend_from_slice(data);
            let used = self.rows(&held, out, fired)?;
            held.drain(..used);
            self.held = held;
        }
        if self.held.len() > MAX_ROW {
            return Err(CopyError::RowTooLong);
        }
        Ok(())
    }

    /// At CopyDone: a last line that no newline ends.
    ///
    /// # Errors
    /// As for [`CopyMasker::push`]; binary data that breaks off.
    pub fn finish(&mut self, out: &mut Vec<u8>, fired: &mut Fired) -> Result<(), CopyError> {
        let held = std::mem::take(&mut self.held);
        if held.is_empty() {
            return Ok(());
        }
        if self.format == CopyFormat::Binary {
            return Err(CopyError::Malformed("it breaks off in the middle of a row"));
        }
        self.line(&held, out, fired)
    }

    /// Works on all rows that are whole; gives the number of bytes that they take.
    fn rows(&mut self, data: &[u8], out: &mut Vec<u8>, fired: &mut Fired) -> Result<usize, CopyError> {
        let mut used = 0;
        loop {
            let rest = data.get(used..).unwrap_or_default();
            if rest.is_empty() {
                return Ok(used);
            }
            let taken = match self.format {
                CopyFormat::Binary => self.tuple(rest, out, fired)?,
                CopyFormat::Text | CopyFormat::Csv => match self.line_end(rest) {
                    Some(end) => {
                        self.line(rest.get(..end).unwrap_or_default(), out, fired)?;
                        Some(end)
                    }
                    None => None,
                },
            };
            match taken {
                Some(taken) => used += taken,
                None => return Ok(used),
            }
        }
    }

    /// The end of the first line, its newline included. Goes on where the last search stopped.
    fn line_end(&mut self, data: &[u8]) -> Option<usize> {
        if self.format != CopyFormat::Csv {
            // Text has its newlines escaped as letters; a backslash before a real one is as good as none.
            let found = memchr::memchr(b'\n', data.get(self.searched..).unwrap_or_default());
            let end = found.map(|at| self.searched + at + 1);
            self.searched = if end.is_some() { 0 } else { data.len() };
            return end;
        }
        for (at, byte) in data.iter().enumerate().skip(self.searched) {
            if self.escaped {
                self.escaped = false;
            } else if self.quoted && *byte == self.escape && self.escape != self.quote {
                self.escaped = true;
            } else if *byte == self.quote {
                self.quoted = !self.quoted;
            }
            if *byte == b'\n' && !self.quoted {
                (self.searched, self.escaped) = (0, false);
                return Some(at + 1);
            }
        }
        self.searched = data.len();
        None
    }

    fn line(&mut self, line: &[u8], out: &mut Vec<u8>, fired: &mut Fired) -> Result<(), CopyError> {
        let text = line.strip_suffix(b"\n").unwrap_or(line);
        let text = text.strip_suffix(b"\r").unwrap_or(text);
        let end = line.get(text.len()..).unwrap_or_default();
        let first = std::mem::take(&mut self.header);
        if first || text == b"\\." {
            out.extend_from_slice(line);
            return Ok(());
        }
        let mut rest = text;
        let mut column = 0;
        // A table without columns gives empty lines.
        let mut more = !(text.is_empty() && self.columns.is_empty());
        while more {
            let length = self.field_end(rest);
            let (field, after) = rest.split_at_checked(length).unwrap_or((rest, &[]));
            self.text_field(column, field, out, fired);
            column += 1;
            more = !after.is_empty();
            if more {
                out.push(self.delimiter);
            }
            rest = after.get(1..).unwrap_or_default();
        }
        out.extend_from_slice(end);
        self.count(column)
    }

    fn count(&self, found: usize) -> Result<(), CopyError> {
        let expected = self.columns.len();
        if expected != 0 && expected != found {
            return Err(CopyError::Columns { expected, found });
        }
        Ok(())
    }

    /// Where the first field of a line ends.
    fn field_end(&self, line: &[u8]) -> usize {
        if self.format != CopyFormat::Csv {
            let mut at = 0;
            while let Some(found) = memchr::memchr2(self.delimiter, b'\\', line.get(at..).unwrap_or_default())
            {
                at += found;
                // A backslash comes first where both are the same, and takes the next byte with it.
                if line.get(at) != Some(&b'\\') {
                    return at;
                }
                at += 2;
            }
            return line.len();
        }
        let (mut quoted, mut escaped) = (false, false);
        let end = line.iter().position(|byte| {
            if escaped {
                escaped = false;
                return false;
            }
            if quoted && *byte == self.escape && self.escape != self.quote {
                escaped = true;
                return false;
            }
            quoted ^= *byte == self.quote;
            *byte == self.delimiter && !quoted
        });
        end.unwrap_or(line.len())
    }

    /// One field of text or CSV: decoded, masked, encoded again. One that no mask concerns passes
    /// byte for byte.
    fn text_field(&mut self, column: usize, raw: &[u8], out: &mut Vec<u8>, fired: &mut Fired) {
        if raw == self.null {
            out.extend_from_slice(raw);
            return;
        }
        let known = self.columns.get(column);
        let mask = known.and_then(|column| column.mask.as_ref());
        if mask.is_none() && !self.masks.has_detectors() {
            out.extend_from_slice(raw);
            return;
        }
        let csv = self.format == CopyFormat::Csv;
        let coded = if csv { raw.contains(&self.quote) } else { raw.contains(&b'\\') };
        let field = if coded {
            self.field.clear();
            if csv {
                decode_csv(raw, self.quote, self.escape, &mut self.field);
            } else {
                decode_text(raw, &mut self.field);
            }
            &self.field
        } else {
            raw
        };
        self.masked.clear();
        let (oid, typmod) = known.map_or((0, -1), |column| (column.type_oid, column.typmod));
        let applied = match mask {
            Some(mask) => {
                fired.insert(mask.id());
                Some(mask.apply(oid, typmod, Format::Text, field, &mut self.masked))
            }
            None => self.masks.detect_typed(oid, Format::Text, field, &mut self.masked, fired),
        };
        match applied {
            None => out.extend_from_slice(raw),
            Some(Applied::Null) => out.extend_from_slice(&self.null),
            Some(Applied::Value) if csv => {
                // Always quoted, so that it is not taken for NULL.
                out.push(self.quote);
                for byte in &self.masked {
                    if *byte == self.quote || *byte == self.escape {
                        out.push(self.escape);
                    }
                    out.push(*byte);
                }
                out.push(self.quote);
            }
            Some(Applied::Value) => {
                if self.masked == self.null {
                    // As unlikely as it is: a value that would be read as NULL.
                    out.extend_from_slice(REDACTED.as_bytes());
                } else {
                    encode_text(&self.masked, self.delimiter, out);
                }
            }
        }
    }

    /// One tuple, or the header or trailer, of binary data; `None` when it is not whole yet.
    fn tuple(
        &mut self,
        data: &[u8],
        out: &mut Vec<u8>,
        fired: &mut Fired,
    ) -> Result<Option<usize>, CopyError> {
        let word = |at: usize| data.get(at..at + 4)?.first_chunk().map(|b| i32::from_be_bytes(*b));
        match self.binary {
            Binary::Header => {
                let compared = data.len().min(SIGNATURE.len());
                if data.get(..compared) != SIGNATURE.get(..compared) {
                    return Err(CopyError::Malformed("it has not the signature of binary data"));
                }
                let Some(extension) = word(SIGNATURE.len() + 4) else { return Ok(None) };
                let extension = usize::try_from(extension)
                    .map_err(|_| CopyError::Malformed("its header has a negative length"))?;
                let Some(header) = data.get(..HEADER.saturating_add(extension)) else { return Ok(None) };
                out.extend_from_slice(header);
                self.binary = Binary::Rows;
                return Ok(Some(header.len()));
            }
            Binary::Trailer => return Err(CopyError::Malformed("it goes on behind its trailer")),
            Binary::Rows => {}
        }
        let Some(count) = data.first_chunk().map(|b| i16::from_be_bytes(*b)) else { return Ok(None) };
        if count == -1 {
            out.extend_from_slice(&count.to_be_bytes());
            self.binary = Binary::Trailer;
            return Ok(Some(2));
        }
        let fields = usize::try_from(count)
            .map_err(|_| CopyError::Malformed("a row has a negative number of columns"))?;
        self.count(fields)?;
        // Whole first, so that nothing of half a row is written.
        let mut end = 2usize;
        for _ in 0..fields {
            let Some(length) = word(end) else { return Ok(None) };
            end = end.saturating_add(4).saturating_add(match length {
                -1 => 0,
                length => usize::try_from(length)
                    .map_err(|_| CopyError::Malformed("a value has a negative length"))?,
            });
            if end > MAX_ROW {
                return Err(CopyError::RowTooLong);
            }
        }
        if data.len() < end {
            return Ok(None);
        }
        out.extend_from_slice(&count.to_be_bytes());
        let mut at = 2;
        for column in 0..fields {
            let length = word(at).unwrap_or(-1);
            at += 4;
            let Ok(length) = usize::try_from(length) else {
                out.extend_from_slice(&(-1i32).to_be_bytes());
                continue;
            };
            let field = data.get(at..at + length).unwrap_or_default();
            at += length;
            self.binary_field(column, field, out, fired);
        }
        Ok(Some(end))
    }

    fn binary_field(&mut self, column: usize, field: &[u8], out: &mut Vec<u8>, fired: &mut Fired) {
        let known = self.columns.get(column);
        let (oid, typmod) = known.map_or((0, -1), |column| (column.type_oid, column.typmod));
        self.masked.clear();
        let applied = match known.and_then(|column| column.mask.as_ref()) {
            Some(mask) => {
                fired.insert(mask.id());
                Some(mask.apply(oid, typmod, Format::Binary, field, &mut self.masked))
            }
            None => self.masks.detect_typed(oid, Format::Binary, field, &mut self.masked, fired),
        };
        let written = match applied {
            None => Some(field),
            Some(Applied::Value) => Some(&self.masked[..]),
            Some(Applied::Null) => None,
        };
        let length = written.map_or(-1, |written| i32::try_from(written.len()).unwrap_or(-1));
        out.extend_from_slice(&length.to_be_bytes());
        if length >= 0 {
            out.extend_from_slice(written.unwrap_or_default());
        }
    }
}

/// Takes the quotes off a CSV field, wherever in it they stand.
fn decode_csv(raw: &[u8], quote: u8, escape: u8, field: &mut Vec<u8>) {
    let mut quoted = false;
    let mut bytes = raw.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        let escaped = quoted && byte == escape && bytes.peek().is_some_and(|b| *b == quote || *b == escape);
        if escaped {
            field.extend(bytes.next());
        } else if byte == quote {
            quoted = !quoted;
        } else {
            field.push(byte);
        }
    }
}

/// Reads the backslash escapes of COPY's text format, those that only input knows included.
fn decode_text(raw: &[u8], field: &mut Vec<u8>) {
    let mut bytes = raw.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        if byte != b'\\' {
            field.push(byte);
            continue;
        }
        let Some(letter) = bytes.next() else {
            field.push(b'\\');
            break;
        };
        field.push(match letter {
            b'b' => 8,
            b'f' => 12,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'v' => 11,
            b'0'..=b'7' => {
                let mut value = u32::from(letter - b'0');
                for _ in 0..2 {
                    if let Some(digit) = bytes.next_if(|b| matches!(b, b'0'..=b'7')) {
                        value = value * 8 + u32::from(digit - b'0');
                    }
                }
                value as u8
            }
            b'x' if bytes.peek().is_some_and(u8::is_ascii_hexdigit) => {
                let mut value = 0;
                for _ in 0..2 {
                    if let Some(digit) = bytes.next_if(u8::is_ascii_hexdigit) {
                        value = value * 16 + char::from(digit).to_digit(16).unwrap_or(0);
                    }
                }
                value as u8
            }
            other => other,
        });
    }
}

/// Writes the escapes that the server writes (`CopyAttributeOutText`).
fn encode_text(field: &[u8], delimiter: u8, out: &mut Vec<u8>) {
    for byte in field {
        let letter = match byte {
            8 => b'b',
            12 => b'f',
            b'\n' => b'n',
            b'\r' => b'r',
            b'\t' => b't',
            11 => b'v',
            b'\\' => b'\\',
            other if *other == delimiter => delimiter,
            other => {
                out.push(*other);
                continue;
            }
        };
        out.extend_from_slice(&[b'\\', letter]);
    }
}
