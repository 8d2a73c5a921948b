//! Finds the bytes worth a look, 64 at a time.

/// How many bytes are classified at once.
pub(super) const BLOCK: usize = 64;

/// Bits of a block, the first byte in the lowest bit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bits {
    /// ASCII digits.
    pub(super) digits: u64,
    /// The anchor bytes asked for.
    pub(super) anchors: u64,
    /// Dashes.
    pub(super) dashes: u64,
}

/// Number of anchor bytes; fewer are filled up by repeating one.
pub(super) const ANCHORS: usize = 7;

/// Classifies a block.
///
/// The first loop compares every byte with every class without a branch, so the compiler makes
/// vector instructions of it on any machine; the second gathers one bit a byte by a multiplication.
#[inline]
pub(super) fn classify(block: &[u8; BLOCK], anchors: &[u8; ANCHORS]) -> Bits {
    const DIGIT: u8 = 1;
    const ANCHOR: u8 = 2;
    const DASH: u8 = 4;
    const ONES: u64 = 0x0101_0101_0101_0101;

    let mut classes = [0u8; BLOCK];
    for (class, byte) in classes.iter_mut().zip(block) {
        let anchor = anchors.iter().fold(false, |found, anchor| found | (byte == anchor));
        *class = u8::from(byte.wrapping_sub(b'0') < 10) * DIGIT
            | u8::from(anchor) * ANCHOR
            | u8::from(*byte == b'-') * DASH;
    }
    let mut bits = Bits { digits: 0, anchors: 0, dashes: 0 };
    let (words, _) = classes.as_chunks::<8>();
    for (at, word) in words.iter().enumerate() {
        let word = u64::from_le_bytes(*word);
        let gather = |class: u8| {
            let lowest = (word >> class.trailing_zeros()) & ONES;
            (lowest.wrapping_mul(0x0102_0408_1020_4080) >> 56) << (at * 8)
        };
        bits.digits |= gather(DIGIT);
        bits.anchors |= gather(ANCHOR);
        bits.dashes |= gather(DASH);
    }
    bits
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn agrees_with_the_definition(block in proptest::array::uniform32(any::<u8>()), near in any::<bool>()) {
            let mut whole = [0; BLOCK];
            for (i, b) in block.iter().enumerate() {
                whole[i] = *b;
                // The bytes around the classes' borders, and those with the high bit set.
                whole[32 + i] = if near { b'0'.wrapping_add(b % 14).wrapping_sub(2) } else { b | 0x80 };
            }
            let anchors = *b"@:_-=JI";
            let expected = |test: &dyn Fn(u8) -> bool| {
                whole.iter().enumerate().filter(|(_, b)| test(**b)).fold(0u64, |bits, (i, _)| bits | 1 << i)
            };
            let bits = Bits {
                digits: expected(&|b| b.is_ascii_digit()),
                anchors: expected(&|b| anchors.contains(&b)),
                dashes: expected(&|b| b == b'-'),
            };
            prop_assert_eq!(classify(&whole, &anchors), bits);
        }
    }
}
