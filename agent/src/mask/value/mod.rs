//! Masking a whole value so that it stays valid for its PostgreSQL type and wire format.
//!
//! Formats are those of the types' output and send functions (PostgreSQL sources,
//! `src/backend/utils/adt`); `docs/masking.md` has the table of what each transformation gives.

mod array;
mod number;
pub(super) mod oid;
mod other;
#[cfg(test)]
mod tests;
mod time;

use super::{HashKey, REDACTED, Transform, text};
use oid::Kind;

pub(super) use array::elements;
pub(super) use number::Decimal;
pub(super) use other::{bytea_text, unhex};

/// How a value is written on the wire (PostgreSQL protocol, section 55.2.4 "Formats and Format Codes").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// The type's text output.
    Text,
    /// The type's binary output.
    Binary,
}

/// What became of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Applied {
    /// The bytes appended to the output stand in its place.
    Value,
    /// It is to be sent as NULL; nothing was appended.
    Null,
}

/// Masks a value of the type `type_oid` with modifier `typmod` (-1 for none), and appends what
/// stands in its place to `out`. That is valid for the type in this format, within the length or
/// precision that the modifier allows; a value that is malformed itself is redacted.
///
/// NULL for [`Transform::Null`], and for every type whose values cannot be made up: ranges, enums,
/// composite and extension types. For `citext` and domains pass the OID of the type beneath (25 for
/// `citext`).
pub fn apply(
    transform: Transform,
    key: &HashKey,
    type_oid: u32,
    typmod: i32,
    format: Format,
    value: &[u8],
    out: &mut Vec<u8>,
) -> Applied {
    if transform == Transform::Null {
        return Applied::Null;
    }
    if let Some(element) = oid::element(type_oid) {
        array::apply(transform, key, element, typmod, format, value, out);
        return Applied::Value;
    }
    let Some(kind) = oid::kind(type_oid, typmod) else { return Applied::Null };
    let mask = Mask { transform, key, kind, format };
    mask.write(value, out);
    Applied::Value
}

/// One value's masking.
struct Mask<'a> {
    transform: Transform,
    key: &'a HashKey,
    kind: Kind,
    format: Format,
}

impl Mask<'_> {
    fn write(&self, value: &[u8], out: &mut Vec<u8>) {
        match self.kind {
            Kind::Text { limit, padded } => self.text(value, limit, padded, out),
            Kind::Char => out.push(match self.transform {
                Transform::Hash => b'a' + (self.hash(value) % 26) as u8,
                _ => b'*',
            }),
            Kind::Bool => match self.format {
                Format::Text => out.push(b'f'),
                Format::Binary => out.push(0),
            },
            Kind::Int { .. } | Kind::Numeric { .. } | Kind::Float { .. } | Kind::Money => {
                self.number(value, out);
            }
            Kind::Date | Kind::Time | Kind::TimeTz | Kind::Timestamp { .. } | Kind::Interval => {
                self.time(value, out);
            }
            Kind::Json { version } | Kind::Xml { version } => self.document(value, version, out),
            Kind::Uuid | Kind::Bytea | Kind::Inet { .. } | Kind::Mac { .. } | Kind::Bits { .. } => {
                self.other(value, out);
            }
        }
    }

    /// The first bytes of the keyed hash as a number.
    fn hash(&self, canonical: &[u8]) -> u64 {
        self.mac(canonical).first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes))
    }

    fn mac(&self, canonical: &[u8]) -> [u8; 32] {
        self.key.mac(&[canonical])
    }

    fn text(&self, value: &[u8], limit: Option<usize>, padded: bool, out: &mut Vec<u8>) {
        // The blanks that fill a char(n) are no part of the value.
        let value = if padded { value.trim_ascii_end() } else { value };
        let mut masked = Vec::with_capacity(REDACTED.len().max(value.len()));
        text::write(self.transform, self.key, value, &mut masked);
        let Some(limit) = limit else {
            out.extend_from_slice(&masked);
            return;
        };
        let masked = text::cut(&masked, limit);
        out.extend_from_slice(masked);
        if padded {
            let characters = masked.iter().filter(|b| **b & 0xc0 != 0x80).count();
            // A char(n) can be 10,485,760 characters long; the blanks matter to no reader by then.
            out.resize(out.len() + (limit - characters.min(limit)).min(1 << 16), b' ');
        }
    }

    fn document(&self, value: &[u8], version: Option<u8>, out: &mut Vec<u8>) {
        let value = match version {
            Some(version) if self.format == Format::Binary => {
                out.push(version);
                value.get(1..).unwrap_or_default()
            }
            _ => value,
        };
        let (open, close): (&[u8], &[u8]) = match self.kind {
            Kind::Xml { .. } => (b"<masked>", b"</masked>"),
            _ => (b"\"", b"\""),
        };
        out.extend_from_slice(open);
        match self.transform {
            Transform::Hash => text::write(Transform::Hash, self.key, value, out),
            _ => out.extend_from_slice(REDACTED.as_bytes()),
        }
        out.extend_from_slice(close);
    }
}
