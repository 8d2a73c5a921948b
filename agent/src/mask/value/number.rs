//! Integers, `numeric`, floating point and `money`.

use super::oid::Kind;
use super::{Format, Mask};
use crate::mask::Transform;

/// A hashed number has at most this many bits, so that it is exact in a double too: the same value
/// has the same hash in bigint, numeric and double precision columns.
const HASH_BITS: u32 = 53;

/// Longest decimal that is worked with digit by digit; longer ones are redacted.
const LONGEST: usize = 4096;

/// A decimal number in digits.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::mask) struct Decimal {
    pub(in crate::mask) negative: bool,
    /// ASCII digits before the point, none leading that is zero.
    pub(in crate::mask) whole: Vec<u8>,
    /// ASCII digits behind the point.
    pub(in crate::mask) fraction: Vec<u8>,
}

impl Decimal {
    /// From digits with an optional sign and point; `None` for anything else (NaN, exponents).
    pub(in crate::mask) fn from_text(text: &[u8]) -> Option<Self> {
        let (negative, digits) = match text {
            [b'-', rest @ ..] => (true, rest),
            _ => (false, text),
        };
        let (whole, fraction) = match digits.iter().position(|b| *b == b'.') {
            Some(point) => (digits.get(..point)?, digits.get(point + 1..)?),
            None => (digits, &[][..]),
        };
        let all_digits = whole.iter().chain(fraction).all(u8::is_ascii_digit);
        if !all_digits || digits.is_empty() || digits.len() > LONGEST {
            return None;
        }
        let zeros = whole.iter().take_while(|b| **b == b'0').count();
        Some(Self { negative, whole: whole.get(zeros..)?.to_vec(), fraction: fraction.to_vec() })
    }

    /// From the binary form of `numeric`: digits of base 10,000 (`numeric_send`).
    pub(in crate::mask) fn from_binary(value: &[u8]) -> Option<Self> {
        let mut words = value.as_chunks::<2>().0.iter().map(|w| i16::from_be_bytes(*w));
        let (count, weight) = (words.next()?, words.next()?);
        let (sign, scale) = (words.next()? as u16, words.next()?);
        let (weight, scale) = (i32::from(weight), usize::try_from(scale).ok()?);
        if !matches!(sign, 0 | 0x4000) || weight.unsigned_abs() as usize > LONGEST / 4 || scale > LONGEST {
            return None;
        }
        let digits: Vec<i16> = words.collect();
        if digits.len() != usize::try_from(count).ok()? || digits.iter().any(|d| !(0..10_000).contains(d)) {
            return None;
        }
        let group = |at: i32| {
            let digit = usize::try_from(at).ok().and_then(|at| digits.get(at)).copied().unwrap_or(0);
            [1000, 100, 10, 1].map(|power| b'0' + (digit / power % 10) as u8)
        };
        let whole: Vec<u8> = (0..=weight).flat_map(group).skip_while(|d| *d == b'0').collect();
        let groups = i32::try_from(scale.div_ceil(4)).ok()?;
        let fraction = (weight + 1..weight + 1 + groups).flat_map(group).take(scale).collect();
        Some(Self { negative: sign == 0x4000, whole, fraction })
    }

    fn from_int(value: i64) -> Self {
        let whole = if value == 0 { Vec::new() } else { value.unsigned_abs().to_string().into_bytes() };
        Self { negative: value < 0, whole, fraction: Vec::new() }
    }

    /// The value alone, however it was written: no trailing zeros, no minus zero.
    fn canonical(&self) -> Vec<u8> {
        let significant = self.fraction.iter().rposition(|b| *b != b'0').map_or(0, |at| at + 1);
        let mut text = Vec::with_capacity(self.whole.len() + significant + 2);
        if self.negative && (significant > 0 || !self.whole.is_empty()) {
            text.push(b'-');
        }
        text.extend_from_slice(&self.whole);
        if significant > 0 {
            text.push(b'.');
            text.extend(self.fraction.iter().take(significant));
        }
        text
    }

    /// Digits and a point, as the server writes them.
    pub(in crate::mask) fn write_text(&self, out: &mut Vec<u8>) {
        if self.negative {
            out.push(b'-');
        }
        out.extend_from_slice(if self.whole.is_empty() { b"0" } else { &self.whole });
        if !self.fraction.is_empty() {
            out.push(b'.');
            out.extend_from_slice(&self.fraction);
        }
    }

    pub(super) fn write_binary(&self, out: &mut Vec<u8>) {
        // Groups of four digits, counted from the point both ways.
        let lead = (4 - self.whole.len() % 4) % 4;
        let tail = (4 - self.fraction.len() % 4) % 4;
        let zeros = [b'0'; 3];
        let padded: Vec<u8> = zeros
            .iter()
            .take(lead)
            .chain(&self.whole)
            .chain(&self.fraction)
            .chain(zeros.iter().take(tail))
            .copied()
            .collect();
        let mut groups: Vec<i16> =
            padded.chunks(4).map(|g| g.iter().fold(0, |n, d| n * 10 + i16::from(d - b'0'))).collect();
        let mut weight = ((self.whole.len() + lead) / 4) as i16 - 1;
        while groups.last() == Some(&0) {
            groups.pop();
        }
        let leading = groups.iter().take_while(|g| **g == 0).count();
        groups.drain(..leading);
        weight = if groups.is_empty() { 0 } else { weight - leading as i16 };
        let sign = if self.negative && !groups.is_empty() { 0x4000 } else { 0 };
        for word in [groups.len() as i16, weight, sign, self.fraction.len() as i16].iter().chain(&groups) {
            out.extend_from_slice(&word.to_be_bytes());
        }
    }

    /// Keeps digits at both ends; the others become zero. All do when all would be kept.
    fn partial(&mut self, keep_first: u16, keep_last: u16) {
        let count = self.whole.len() + self.fraction.len();
        let (first, last) = (usize::from(keep_first), usize::from(keep_last));
        let whole = first.saturating_add(last) >= count;
        for (at, digit) in self.whole.iter_mut().chain(&mut self.fraction).enumerate() {
            if whole || (at >= first && at < count - last) {
                *digit = b'0';
            }
        }
        let zeros = self.whole.iter().take_while(|b| **b == b'0').count();
        self.whole.drain(..zeros);
        self.negative = false;
    }
}

impl Mask<'_> {
    pub(super) fn number(&self, value: &[u8], out: &mut Vec<u8>) {
        let decimal = match self.transform {
            Transform::Partial { keep_first, keep_last } => self.partial_number(value, keep_first, keep_last),
            Transform::Hash => Some(self.hashed(value)),
            Transform::Redact | Transform::Null => None,
        };
        let mut decimal = decimal.unwrap_or_default();
        match self.kind {
            Kind::Int { width, .. } => {
                let number = decimal
                    .whole
                    .iter()
                    .fold(0i64, |n, d| n.wrapping_mul(10).wrapping_add((d - b'0').into()));
                match self.format {
                    Format::Text => decimal.write_text(out),
                    Format::Binary => {
                        let bytes = number.to_be_bytes();
                        out.extend_from_slice(bytes.get(8 - usize::from(width.min(8))..).unwrap_or_default());
                    }
                }
            }
            Kind::Numeric { precision } => {
                if decimal.fraction.is_empty() {
                    // As many decimals as the column has.
                    let scale = precision.map_or(0, |(_, scale)| usize::try_from(scale).unwrap_or(0));
                    decimal.fraction.resize(scale.min(LONGEST), b'0');
                }
                match self.format {
                    Format::Text => decimal.write_text(out),
                    Format::Binary => decimal.write_binary(out),
                }
            }
            Kind::Float { width } => {
                let number = decimal.whole.iter().fold(0.0, |n, d| n * 10.0 + f64::from(d - b'0'));
                match (self.format, width) {
                    (Format::Text, _) => decimal.write_text(out),
                    (Format::Binary, 4) => out.extend_from_slice(&(number as f32).to_be_bytes()),
                    (Format::Binary, _) => out.extend_from_slice(&number.to_be_bytes()),
                }
            }
            _ => {
                let cents = decimal
                    .whole
                    .iter()
                    .fold(0i64, |n, d| n.wrapping_mul(10).wrapping_add((d - b'0').into()));
                match self.format {
                    Format::Text => {
                        out.push(b'$');
                        let text = format!("{}.{:02}", cents / 100, cents % 100);
                        out.extend_from_slice(text.as_bytes());
                    }
                    Format::Binary => out.extend_from_slice(&cents.to_be_bytes()),
                }
            }
        }
    }

    /// `None` where keeping digits makes no sense.
    fn partial_number(&self, value: &[u8], keep_first: u16, keep_last: u16) -> Option<Decimal> {
        if !matches!(self.kind, Kind::Int { .. } | Kind::Numeric { .. }) {
            return None;
        }
        let mut decimal = self.decimal(value)?;
        decimal.partial(keep_first, keep_last);
        Some(decimal)
    }

    fn decimal(&self, value: &[u8]) -> Option<Decimal> {
        match (self.kind, self.format) {
            (Kind::Numeric { .. }, Format::Binary) => Decimal::from_binary(value),
            (Kind::Int { unsigned: true, .. }, Format::Binary) => {
                <[u8; 4]>::try_from(value).ok().map(|b| Decimal::from_int(u32::from_be_bytes(b).into()))
            }
            (Kind::Int { .. }, Format::Binary) => signed(value).map(Decimal::from_int),
            (_, Format::Text) => Decimal::from_text(value),
            _ => None,
        }
    }

    /// What is hashed is the number, in whichever format it comes.
    fn hashed(&self, value: &[u8]) -> Decimal {
        let canonical = match (self.kind, self.format) {
            (Kind::Float { width: 4 }, Format::Binary) => {
                <[u8; 4]>::try_from(value).ok().map(|b| f32::from_be_bytes(b).to_string().into_bytes())
            }
            (Kind::Float { .. }, Format::Binary) => {
                <[u8; 8]>::try_from(value).ok().map(|b| f64::from_be_bytes(b).to_string().into_bytes())
            }
            (Kind::Float { width }, Format::Text) => std::str::from_utf8(value).ok().and_then(|text| {
                Some(
                    if width == 4 {
                        text.parse::<f32>().ok()?.to_string()
                    } else {
                        text.parse::<f64>().ok()?.to_string()
                    }
                    .into_bytes(),
                )
            }),
            (Kind::Money, Format::Binary) => signed(value).map(|cents| cents.to_string().into_bytes()),
            (Kind::Money, Format::Text) => Some(money_in_cents(value)),
            _ => self.decimal(value).map(|decimal| decimal.canonical()),
        };
        // Decimals of floats in the same spelling as those of numerics.
        let canonical = canonical
            .map(|text| Decimal::from_text(&text).map_or(text, |decimal| decimal.canonical()))
            .unwrap_or_else(|| value.to_vec());
        let hash = self.hash(&canonical);
        let bits = |n: u32| Decimal::from_int((hash >> (64 - n)) as i64);
        match self.kind {
            Kind::Int { width: 2, .. } => bits(15),
            Kind::Int { width: 4, .. } => bits(31),
            Kind::Float { width: 4 } => bits(24),
            Kind::Money => bits(32),
            Kind::Numeric { precision: Some((precision, scale)) } => {
                let digits = (hash >> (64 - HASH_BITS)).to_string().into_bytes();
                let fits = i32::from(precision) - i32::from(scale).max(0);
                let low =
                    |n: usize| digits.get(digits.len().saturating_sub(n)..).unwrap_or_default().to_vec();
                match usize::try_from(fits) {
                    Ok(fits) if fits > 0 => {
                        let mut decimal = Decimal::from_text(&low(fits)).unwrap_or_default();
                        // A negative scale rounds to tens, hundreds …
                        if !decimal.whole.is_empty() {
                            let zeros = decimal.whole.len() + usize::try_from(-scale).unwrap_or(0);
                            decimal.whole.resize(zeros, b'0');
                        }
                        decimal
                    }
                    // All digits are behind the point, and the first ones of them zero where the scale is larger.
                    _ => {
                        let scale = usize::try_from(scale).unwrap_or(0);
                        let mut fraction = vec![b'0'; scale.saturating_sub(precision.into())];
                        fraction.extend(low(precision.into()));
                        fraction.resize(scale, b'0');
                        Decimal { fraction, ..Decimal::default() }
                    }
                }
            }
            _ => bits(HASH_BITS),
        }
    }
}

/// A signed integer of two, four or eight bytes.
pub(in crate::mask) fn signed(value: &[u8]) -> Option<i64> {
    Some(match *value {
        [a, b] => i16::from_be_bytes([a, b]).into(),
        [a, b, c, d] => i32::from_be_bytes([a, b, c, d]).into(),
        _ => i64::from_be_bytes(value.try_into().ok()?),
    })
}

/// `-$1,234.56` and its like as the number of cents that the binary form has.
fn money_in_cents(text: &[u8]) -> Vec<u8> {
    let negative = text.iter().any(|b| matches!(b, b'-' | b'('));
    let digits = text.iter().filter(|b| b.is_ascii_digit()).skip_while(|b| **b == b'0');
    let mut cents: Vec<u8> = negative.then_some(b'-').into_iter().chain(digits.copied()).collect();
    if cents.iter().all(|b| *b == b'-') {
        cents = b"0".to_vec();
    }
    cents
}
