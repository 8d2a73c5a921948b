//! Transformations of text.

use super::{HashKey, REDACTED, Transform};

/// What hides a character.
const HIDDEN: u8 = b'*';

/// Bytes of the keyed hash that are shown, as twice as many hexadecimal digits.
const HASH_BYTES: usize = 16;

/// Writes the masked form of a text. Characters are those of UTF-8; what is not UTF-8 counts as one
/// character a piece and is always hidden.
pub(super) fn write(transform: Transform, key: &HashKey, value: &[u8], out: &mut Vec<u8>) {
    match transform {
        Transform::Redact | Transform::Null => out.extend_from_slice(REDACTED.as_bytes()),
        Transform::Hash => hex(key, value, out),
        Transform::Partial { keep_first, keep_last } => {
            partial(value, keep_first.into(), keep_last.into(), out);
        }
    }
}

fn hex(key: &HashKey, value: &[u8], out: &mut Vec<u8>) {
    let digit = |nibble: u8| b"0123456789abcdef".get(usize::from(nibble)).copied().unwrap_or(b'0');
    let mac = key.mac(&[value]);
    out.extend(mac.iter().take(HASH_BYTES).flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]));
}

fn partial(value: &[u8], keep_first: usize, keep_last: usize, out: &mut Vec<u8>) {
    // Each valid character, and one entry for each piece that is none.
    let characters = || {
        value.utf8_chunks().flat_map(|chunk| {
            let broken = !chunk.invalid().is_empty();
            chunk.valid().chars().map(Some).chain(broken.then_some(None))
        })
    };
    let count = characters().count();
    let whole = keep_first.saturating_add(keep_last) >= count;
    for (at, character) in characters().enumerate() {
        match character {
            Some(c) if !whole && (at < keep_first || at >= count - keep_last) => {
                out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            }
            _ => out.push(HIDDEN),
        }
    }
}

/// The longest start of a text that has at most `limit` characters.
pub(super) fn cut(text: &[u8], limit: usize) -> &[u8] {
    let starts = text.iter().enumerate().filter(|(_, b)| **b & 0xc0 != 0x80);
    starts.map(|(at, _)| at).nth(limit).and_then(|end| text.get(..end)).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn masked(transform: Transform, value: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        write(transform, &HashKey::new(&[3; 32]), value, &mut out);
        out
    }

    fn partial(keep_first: u16, keep_last: u16) -> Transform {
        Transform::Partial { keep_first, keep_last }
    }

    #[test]
    fn partial_goes_by_characters() {
        assert_eq!(masked(partial(0, 4), b"4111111111111111"), b"************1111");
        assert_eq!(masked(partial(1, 1), "Ünïcödé".as_bytes()), "Ü*****é".as_bytes());
        assert_eq!(masked(partial(2, 2), b"abcd"), b"****");
        assert_eq!(masked(partial(u16::MAX, u16::MAX), b"abcd"), b"****");
        assert_eq!(masked(partial(1, 1), b"a\xff\xfeb"), b"a**b");
        assert_eq!(masked(partial(3, 0), b"\xff\xff\xffsecret"), b"*********");
        assert_eq!(masked(partial(1, 0), b""), b"");
    }

    #[test]
    fn hashes_are_equal_for_equal_values_alone() {
        assert_eq!(masked(Transform::Hash, b"ann"), masked(Transform::Hash, b"ann"));
        assert_ne!(masked(Transform::Hash, b"ann"), masked(Transform::Hash, b"Ann"));
        assert_eq!(masked(Transform::Hash, b"ann").len(), 32);
    }

    #[test]
    fn cuts_between_characters() {
        assert_eq!(cut("añb".as_bytes(), 2), "añ".as_bytes());
        assert_eq!(cut(b"ab", 2), b"ab");
        assert_eq!(cut(b"ab", 0), b"");
    }

    proptest! {
        #[test]
        fn masked_text_is_utf8_and_stable(value in proptest::collection::vec(any::<u8>(), 0..64), first in 0u16..8, last in 0u16..8) {
            let once = masked(partial(first, last), &value);
            prop_assert!(std::str::from_utf8(&once).is_ok());
            prop_assert_eq!(&masked(partial(first, last), &once), &once);
            if value.iter().any(|b| *b != b'*') {
                prop_assert_ne!(once, value);
            }
        }
    }
}
