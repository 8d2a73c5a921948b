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

/// Classifies a block of which only the first `length` bytes matter.
#[cfg(target_arch = "x86_64")]
#[inline]
#[allow(unsafe_code)] // A third of the time that the portable form takes, on every byte there is.
pub(super) fn classify(block: &[u8; BLOCK], length: usize, anchors: &[u8; ANCHORS]) -> Bits {
    // SAFETY: SSE2 is a part of x86_64 itself; there is no processor of this kind without.
    unsafe { sse2(block, length, anchors) }
}

#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "sse2")]
fn sse2(block: &[u8; BLOCK], length: usize, anchors: &[u8; ANCHORS]) -> Bits {
    use std::arch::x86_64::{
        _mm_cmpeq_epi8, _mm_min_epu8, _mm_movemask_epi8, _mm_or_si128, _mm_set_epi64x, _mm_set1_epi8,
        _mm_setzero_si128, _mm_sub_epi8,
    };

    let mut all = Bits { digits: 0, anchors: 0, dashes: 0 };
    let (lanes, _) = block.as_chunks::<16>();
    for (at, lane) in lanes.iter().take(length.div_ceil(16)).enumerate() {
        // The two halves become one unaligned load.
        let lane = u128::from_le_bytes(*lane);
        let lane = _mm_set_epi64x((lane >> 64) as i64, lane as i64);
        let above_zero = _mm_sub_epi8(lane, _mm_set1_epi8(b'0' as i8));
        let digits = _mm_cmpeq_epi8(_mm_min_epu8(above_zero, _mm_set1_epi8(9)), above_zero);
        let mut found = _mm_setzero_si128();
        for anchor in anchors {
            found = _mm_or_si128(found, _mm_cmpeq_epi8(lane, _mm_set1_epi8(*anchor as i8)));
        }
        let dashes = _mm_cmpeq_epi8(lane, _mm_set1_epi8(b'-' as i8));
        let shift = at * 16;
        all.digits |= u64::from(_mm_movemask_epi8(digits) as u16) << shift;
        all.anchors |= u64::from(_mm_movemask_epi8(found) as u16) << shift;
        all.dashes |= u64::from(_mm_movemask_epi8(dashes) as u16) << shift;
    }
    all
}

/// Classifies a block of which only the first `length` bytes matter.
#[cfg(not(target_arch = "x86_64"))]
#[inline]
pub(super) fn classify(block: &[u8; BLOCK], _length: usize, anchors: &[u8; ANCHORS]) -> Bits {
    portable(block, anchors)
}

/// The same on any machine: the comparisons byte by byte, which compilers make vectors of, then one
/// bit of each byte gathered by a multiplication.
#[cfg(any(test, not(target_arch = "x86_64")))]
fn portable(block: &[u8; BLOCK], anchors: &[u8; ANCHORS]) -> Bits {
    const ONES: u64 = 0x0101_0101_0101_0101;

    let gather = |classes: &[u8; BLOCK]| {
        let (words, _) = classes.as_chunks::<8>();
        words.iter().zip(0..).fold(0u64, |bits, (word, at)| {
            let low = u64::from_le_bytes(*word) & ONES;
            bits | (low.wrapping_mul(0x0102_0408_1020_4080) >> 56) << (at * 8)
        })
    };
    let mut found = [0u8; BLOCK];
    for anchor in anchors {
        for (class, byte) in found.iter_mut().zip(block) {
            *class |= u8::from(byte == anchor);
        }
    }
    Bits {
        digits: gather(&block.map(|byte| u8::from(byte.wrapping_sub(b'0') < 10))),
        anchors: gather(&found),
        dashes: gather(&block.map(|byte| u8::from(byte == b'-'))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn both_ways_agree_with_the_definition(block in proptest::array::uniform32(any::<u8>()), near in any::<bool>()) {
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
            prop_assert_eq!(classify(&whole, BLOCK, &anchors), bits);
            prop_assert_eq!(portable(&whole, &anchors), bits);
        }
    }
}
