//! A hash of short texts (paths, names) that both sides compute alike.
//!
//! It only ever *designates*: a text made to collide with a selected one takes its process in, it
//! never lets one out. So it need be quick, not strong.

/// Bytes of the longest text that can be matched.
pub const TEXT_MAX: usize = 511;

const PRIME: u64 = 0x9e37_79b9_7f4a_7c15;

/// The state to start from.
#[inline(always)]
pub const fn seed() -> u64 {
    0xcbf2_9ce4_8422_2325
}

/// Takes the next eight bytes (little endian, the last ones padded with zeros) into the state.
#[inline(always)]
pub const fn fold(state: u64, word: u64) -> u64 {
    let mixed = (state ^ word).wrapping_mul(PRIME);
    mixed ^ (mixed >> 29)
}

/// The hash of a text; `None` when it is empty or longer than [`TEXT_MAX`].
pub fn text_hash(text: &[u8]) -> Option<u64> {
    if text.is_empty() || text.len() > TEXT_MAX {
        return None;
    }
    let mut state = seed();
    for chunk in text.chunks(8) {
        let mut word = [0; 8];
        for (to, from) in word.iter_mut().zip(chunk) {
            *to = *from;
        }
        state = fold(state, u64::from_le_bytes(word));
    }
    Some(state)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_told_apart_by_every_byte() {
        assert_ne!(text_hash(b"/usr/bin/a"), text_hash(b"/usr/bin/b"));
        assert_ne!(text_hash(b"12345678"), text_hash(b"123456789"));
        assert_eq!(text_hash(b""), None);
        assert!(text_hash(&[b'x'; TEXT_MAX]).is_some());
        assert_eq!(text_hash(&[b'x'; TEXT_MAX + 1]), None);
    }
}
