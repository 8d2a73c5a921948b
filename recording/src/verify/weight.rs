//! What an event takes up in memory when it is decoded, found out before it is. Two bytes can be an empty
//! message that takes up hundreds, so that a hostile event of 64 MiB would ask for more than a machine has.

/// Events up to this size (bytes) are harmless, whatever they hold.
const HARMLESS: usize = 64 << 10;
/// A string, a list, or a small message with its place in a list.
const FIELD: u64 = 64;
/// The largest message that can be repeated.
const STATEMENT: u64 = 1024;

/// A message, as far as it matters here which messages can be in it.
#[derive(Clone, Copy)]
enum Message {
    Event,
    Command,
    Result,
    Copy,
    Flow,
    Subject,
    Login,
    Rows,
    Row,
    Small,
}

impl Message {
    /// The message in this field; `None` for text and bytes, which are not looked into.
    fn child(self, field: u64) -> Option<Self> {
        match (self, field) {
            (Self::Event, 22) => Some(Self::Command),
            (Self::Event, 23) => Some(Self::Result),
            (Self::Event, 24) => Some(Self::Copy),
            (Self::Event, 15 | 20) => Some(Self::Flow),
            (Self::Event, 21) => Some(Self::Login),
            (Self::Event, 10..) => Some(Self::Small),
            (Self::Command, 6 | 8 | 14) => Some(Self::Small),
            (Self::Result, 7) | (Self::Copy, 5) => Some(Self::Rows),
            (Self::Flow, 1) => Some(Self::Subject),
            (Self::Subject, 18) => Some(Self::Small),
            // The job's variables.
            (Self::Subject, 19) => Some(Self::Small),
            (Self::Login, 3 | 6 | 7) => Some(Self::Small),
            (Self::Rows, 3 | 5) => Some(Self::Small),
            (Self::Rows, 4) => Some(Self::Row),
            (Self::Row, 1) => Some(Self::Small),
            _ => None,
        }
    }

    fn cost(self, field: u64) -> u64 {
        if matches!((self, field), (Self::Command, 8)) { STATEMENT } else { FIELD }
    }
}

/// At most how many bytes the event takes up when it is decoded, besides its own.
pub(super) fn weight(event: &[u8]) -> u64 {
    if event.len() <= HARMLESS { 0 } else { of(event, Message::Event) }
}

/// Goes no deeper than messages are nested in events.
fn of(mut bytes: &[u8], message: Message) -> u64 {
    let mut sum = 0_u64;
    // What is malformed is the decoder's to refuse, at the same place.
    while let Some(tag) = varint(&mut bytes) {
        let field = tag >> 3;
        let skipped = match tag & 7 {
            0 => varint(&mut bytes).map(|_| ()),
            1 => skip(&mut bytes, 8).map(|_| ()),
            5 => skip(&mut bytes, 4).map(|_| ()),
            2 => varint(&mut bytes).and_then(|length| skip(&mut bytes, length)).map(|content| {
                let inside = message.child(field).map_or(0, |child| of(content, child));
                sum = sum.saturating_add(message.cost(field)).saturating_add(inside);
            }),
            _ => None,
        };
        if skipped.is_none() {
            break;
        }
    }
    sum
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..70).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f).checked_shl(shift).unwrap_or(0);
        if *byte < 0x80 {
            return Some(value);
        }
    }
    None
}

fn skip<'b>(bytes: &mut &'b [u8], length: u64) -> Option<&'b [u8]> {
    let (content, rest) = bytes.split_at_checked(usize::try_from(length).ok()?)?;
    *bytes = rest;
    Some(content)
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;
    use crate::proto::{self, Event};

    fn event(body: proto::event::Body) -> Vec<u8> {
        Event { body: Some(body), ..Event::default() }.encode_to_vec()
    }

    #[test]
    fn what_blows_up_is_weighed() {
        let statements = vec![proto::Statement::default(); 100_000];
        assert!(size_of::<proto::Statement>() < STATEMENT as usize);
        let command = proto::Command { statements, ..Default::default() };
        let bytes = event(proto::event::Body::Command(command));
        assert!(weight(&bytes) >= 100_000 * size_of::<proto::Statement>() as u64);
        let row = proto::Row { values: vec![proto::Value { data: None }; 1000] };
        let rows = proto::Rows { rows: vec![row; 1000], ..Default::default() };
        let result = proto::CommandResult { rows: Some(rows), ..Default::default() };
        let bytes = event(proto::event::Body::Result(result));
        assert!(weight(&bytes) >= 1_000_000 * size_of::<proto::Value>() as u64);
        for size in [
            size_of::<proto::Ancestor>(),
            size_of::<proto::Column>(),
            size_of::<proto::Observed>(),
            size_of::<proto::BindParameter>(),
            size_of::<proto::Parameter>(),
            size_of::<proto::Row>(),
        ] {
            assert!(size <= FIELD as usize, "{size}");
        }
    }

    #[test]
    fn a_long_text_weighs_nothing() {
        let command = proto::Command { text: "x".repeat(10 << 20), ..Default::default() };
        assert!(weight(&event(proto::event::Body::Command(command))) < 1000);
    }
}
