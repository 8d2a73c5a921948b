//! Writes protobuf from borrowed data, so that the path before a command is forwarded allocates nothing.
//!
//! Follows the same rule as generated code for proto3: a field that has its default value is left out,
//! but for the `always_` methods, which are for `optional` fields.

/// Appends protobuf fields to a buffer.
#[derive(Debug)]
pub struct Writer<'a>(&'a mut Vec<u8>);

const VARINT: u32 = 0;
const FIXED64: u32 = 1;
const LENGTH: u32 = 2;

impl<'a> Writer<'a> {
    /// Appends to `buffer`.
    pub fn new(buffer: &'a mut Vec<u8>) -> Self {
        Self(buffer)
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn key(&mut self, field: u32, wire_type: u32) {
        self.varint(u64::from(field << 3 | wire_type));
    }

    /// A `uint32` or `uint64`.
    pub fn uint(&mut self, field: u32, value: u64) {
        if value != 0 {
            self.always_uint(field, value);
        }
    }

    /// An `optional` `uint32` or `uint64` that is present.
    pub fn always_uint(&mut self, field: u32, value: u64) {
        self.key(field, VARINT);
        self.varint(value);
    }

    /// A `bool`.
    pub fn bool(&mut self, field: u32, value: bool) {
        self.uint(field, u64::from(value));
    }

    /// A `fixed64` that is always written.
    pub fn always_fixed64(&mut self, field: u32, value: u64) {
        self.key(field, FIXED64);
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    /// A `string`.
    pub fn string(&mut self, field: u32, value: &str) {
        self.bytes(field, value.as_bytes());
    }

    /// An `optional` `string` that is present, or an element of a repeated one.
    pub fn always_string(&mut self, field: u32, value: &str) {
        self.always_bytes(field, value.as_bytes());
    }

    /// A `bytes`, or a `string` that is known to be UTF-8.
    pub fn bytes(&mut self, field: u32, value: &[u8]) {
        if !value.is_empty() {
            self.always_bytes(field, value);
        }
    }

    /// An `optional` `bytes` that is present, or an element of a repeated one.
    pub fn always_bytes(&mut self, field: u32, value: &[u8]) {
        self.key(field, LENGTH);
        self.varint(value.len() as u64);
        self.0.extend_from_slice(value);
    }

    /// A `string` (always written) from something that can be displayed.
    pub fn display(&mut self, field: u32, value: impl std::fmt::Display) {
        use std::io::Write as _;
        // A Vec takes everything.
        self.message(field, |writer| drop(write!(writer.0, "{value}")));
    }

    /// A nested message, always written; `fill` appends its fields.
    pub fn message(&mut self, field: u32, fill: impl FnOnce(&mut Writer<'_>)) {
        self.key(field, LENGTH);
        // One byte is kept free for the length; when it needs more, the content moves up.
        let start = self.0.len() + 1;
        self.0.push(0);
        fill(&mut Writer(self.0));
        let length = self.0.len() - start;
        if length < 0x80 {
            if let Some(place) = self.0.get_mut(start - 1) {
                *place = length as u8;
            }
            return;
        }
        self.0.truncate(start + length);
        let mut prefix = [0_u8; 10];
        let mut used = 0;
        let mut rest = length as u64;
        for place in &mut prefix {
            used += 1;
            *place = rest as u8 | if rest >= 0x80 { 0x80 } else { 0 };
            rest >>= 7;
            if rest == 0 {
                break;
            }
        }
        self.0.splice(start - 1..start, prefix.iter().copied().take(used));
    }

    /// Appends bytes that are protobuf already.
    pub fn raw(&mut self, encoded: &[u8]) {
        self.0.extend_from_slice(encoded);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::Message as _;

    use super::*;
    use crate::proto;

    proptest! {
        #[test]
        fn writes_what_generated_code_reads(
            texts in proptest::collection::vec(".{0,300}", 0..6),
            number in any::<u64>(),
            data in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..400)),
            binary in any::<bool>(),
        ) {
            let mut bytes = Vec::new();
            let mut writer = Writer::new(&mut bytes);
            writer.message(22, |command| {
                command.uint(1, number);
                for text in &texts {
                    command.display(13, text);
                }
            });
            let expected = proto::Event {
                body: Some(proto::event::Body::Command(proto::Command {
                    command: number, matched: texts.clone(), ..Default::default()
                })),
                ..Default::default()
            };
            prop_assert_eq!(&bytes, &expected.encode_to_vec());

            bytes.clear();
            let mut writer = Writer::new(&mut bytes);
            writer.uint(1, number);
            writer.message(3, |column| { column.string(1, &texts.concat()); column.bool(3, binary); });
            writer.message(4, |row| row.message(1, |value| if let Some(data) = &data { value.always_bytes(1, data) }));
            let rows = proto::Rows {
                count: number,
                columns: vec![proto::Column { name: texts.concat(), binary, ..Default::default() }],
                rows: vec![proto::Row { values: vec![proto::Value { data }] }],
                ..Default::default()
            };
            prop_assert_eq!(proto::Rows::decode(bytes.as_slice()).expect("decodes"), rows);
        }
    }
}
