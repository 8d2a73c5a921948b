//! Numbers with letters in them: IBANs and national numbers.

use super::Scan;
use super::checks;
use super::number::Group;
use crate::mask::Detector;

/// The characters of the longest number with letters (an IBAN).
const LONGEST: usize = 34;

/// IBAN countries and the length of their IBANs (SWIFT's IBAN registry).
const IBAN: &[(&[u8; 2], u8)] = &[
    (b"AD", 24),
    (b"AE", 23),
    (b"AL", 28),
    (b"AT", 20),
    (b"AZ", 28),
    (b"BA", 20),
    (b"BE", 16),
    (b"BG", 22),
    (b"BH", 22),
    (b"BI", 27),
    (b"BR", 29),
    (b"BY", 28),
    (b"CH", 21),
    (b"CR", 22),
    (b"CY", 28),
    (b"CZ", 24),
    (b"DE", 22),
    (b"DJ", 27),
    (b"DK", 18),
    (b"DO", 28),
    (b"EE", 20),
    (b"EG", 29),
    (b"ES", 24),
    (b"FI", 18),
    (b"FK", 18),
    (b"FO", 18),
    (b"FR", 27),
    (b"GB", 22),
    (b"GE", 22),
    (b"GI", 23),
    (b"GL", 18),
    (b"GR", 27),
    (b"GT", 28),
    (b"HN", 28),
    (b"HR", 21),
    (b"HU", 28),
    (b"IE", 22),
    (b"IL", 23),
    (b"IQ", 23),
    (b"IS", 26),
    (b"IT", 27),
    (b"JO", 30),
    (b"KW", 30),
    (b"KZ", 20),
    (b"LB", 28),
    (b"LC", 32),
    (b"LI", 21),
    (b"LT", 20),
    (b"LU", 20),
    (b"LV", 21),
    (b"LY", 25),
    (b"MC", 27),
    (b"MD", 24),
    (b"ME", 22),
    (b"MK", 19),
    (b"MN", 20),
    (b"MR", 27),
    (b"MT", 31),
    (b"MU", 30),
    (b"NI", 28),
    (b"NL", 18),
    (b"NO", 15),
    (b"OM", 23),
    (b"PK", 24),
    (b"PL", 28),
    (b"PS", 29),
    (b"PT", 25),
    (b"QA", 29),
    (b"RO", 24),
    (b"RS", 22),
    (b"RU", 33),
    (b"SA", 24),
    (b"SC", 31),
    (b"SD", 18),
    (b"SE", 24),
    (b"SI", 19),
    (b"SK", 24),
    (b"SM", 27),
    (b"SO", 23),
    (b"ST", 25),
    (b"SV", 28),
    (b"TL", 23),
    (b"TN", 24),
    (b"TR", 26),
    (b"UA", 29),
    (b"VA", 22),
    (b"VG", 24),
    (b"XK", 20),
    (b"YE", 30),
];

/// Countries whose account numbers have no letters.
const NUMERIC: &[[u8; 2]] = &[
    *b"AE", *b"AT", *b"BA", *b"BE", *b"CR", *b"CZ", *b"DE", *b"DK", *b"EE", *b"ES", *b"FI", *b"FO", *b"GL",
    *b"HR", *b"HU", *b"IL", *b"IS", *b"LT", *b"ME", *b"NO", *b"PL", *b"PT", *b"RS", *b"SE", *b"SI", *b"SK",
    *b"TL", *b"TN", *b"VA", *b"XK",
];

/// A word in capitals.
struct Word {
    letters: [u8; LONGEST],
    len: usize,
}

impl Word {
    fn new(bytes: &[u8]) -> Self {
        let mut word = Self { letters: [0; LONGEST], len: bytes.len().min(LONGEST) };
        word.letters.iter_mut().zip(bytes).for_each(|(to, from)| *to = from.to_ascii_uppercase());
        word
    }

    fn as_bytes(&self) -> &[u8] {
        self.letters.get(..self.len).unwrap_or_default()
    }
}

/// The values of the digits in a text of digits only.
fn values<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    let text: &[u8; N] = text.try_into().ok()?;
    text.iter().all(u8::is_ascii_digit).then(|| text.map(|b| b - b'0'))
}

impl Scan<'_> {
    /// At the first digit of a word that starts with letters.
    pub(super) fn word_with_digits(&mut self, at: usize) {
        self.resume = self.word_end(at);
        let mut start = at;
        while at - start < 8 && self.byte_before(start).is_ascii_alphabetic() {
            start -= 1;
        }
        if self.byte_before(start).is_ascii_alphanumeric() {
            return;
        }
        // The first letter belongs to an escape such as \n.
        if self.byte_before(start) == b'\\' {
            start += 1;
        }
        let end = self.resume;
        let letters = at - start;
        if letters == 2
            && self.on(Detector::Iban)
            && let Some(iban_end) = self.iban(start)
        {
            self.hit(Detector::Iban, start, iban_end);
            self.resume = self.resume.max(iban_end);
            return;
        }
        let Some(bytes) = self.value.get(start..end) else { return };
        let detector = match (letters, bytes.len()) {
            (1, 9) => Detector::EsNif,
            (2, 9) => Detector::UkNino,
            (4, 18) => Detector::MxCurp,
            (5, 10) => Detector::InPan,
            (6, 16) => Detector::ItCodiceFiscale,
            _ => return,
        };
        if !self.on(detector) {
            return;
        }
        let word = Word::new(bytes);
        let valid = match detector {
            Detector::EsNif => es_nie(word.as_bytes()),
            Detector::UkNino => uk_nino(word.as_bytes()),
            Detector::MxCurp => mx_curp(word.as_bytes()),
            // Without a check character it has to look the part in case too.
            Detector::InPan => in_pan(bytes),
            _ => it_codice_fiscale(word.as_bytes()),
        };
        if valid {
            self.hit(detector, start, end);
        }
    }

    /// A run of digits with a letter right behind it. `group` are the runs before it.
    pub(super) fn number_with_letter(&mut self, group: &Group<'_>, start: usize, end: usize) {
        let word_end = self.word_end(end);
        self.resume = word_end;
        let Some(bytes) = self.value.get(start..word_end) else { return };
        let (start, detector, valid) = match (end - start, bytes.len()) {
            (8, 9) => (start, Detector::EsNif, es_dni(bytes)),
            (17, 18) => (start, Detector::CnResidentId, cn_resident_id(bytes)),
            (6, 11) => (start, Detector::FiHetu, fi_hetu(bytes)),
            (6, 15) => (start, Detector::FrNir, corsica(bytes)),
            // 131052-308T
            (3, 4) => {
                let Some(from) = group.ends_with_six(start) else { return };
                let Some(bytes) = self.value.get(from..word_end) else { return };
                (from, Detector::FiHetu, fi_hetu(bytes))
            }
            _ => return,
        };
        if valid && self.on(detector) {
            self.hit(detector, start, word_end);
        }
    }

    /// A National Insurance number in its printed form: `AB 12 34 56 C`.
    pub(super) fn spaced_nino(&mut self, start: usize, end: usize) -> bool {
        let (Some(lead), Some(last)) = (start.checked_sub(3), self.value.get(end + 1)) else { return false };
        let Some(digits) = self.value.get(start..end) else { return false };
        let mut word = Word::new(self.value.get(lead..lead + 2).unwrap_or_default());
        for byte in digits.iter().filter(|b| b.is_ascii_digit()).chain([last]) {
            if let Some(place) = word.letters.get_mut(word.len) {
                *place = byte.to_ascii_uppercase();
                word.len += 1;
            }
        }
        let whole = self.byte_before(start) == b' '
            && self.byte(end) == b' '
            && !self.byte(end + 2).is_ascii_alphanumeric()
            && (!self.byte_before(lead).is_ascii_alphanumeric() || self.escaped(lead));
        if whole && uk_nino(word.as_bytes()) {
            self.hit(Detector::UkNino, lead, end + 2);
            return true;
        }
        false
    }

    /// Where the IBAN that starts here ends. Its groups may be set off by single spaces or dashes.
    fn iban(&self, start: usize) -> Option<usize> {
        let country = [self.byte(start).to_ascii_uppercase(), self.byte(start + 1).to_ascii_uppercase()];
        let (_, length) = IBAN.iter().find(|(code, _)| **code == country)?;
        let numeric = NUMERIC.contains(&country);
        // Words in small letters with dashes between them are UUIDs and the like.
        let separated = self.byte(start).is_ascii_uppercase();
        let mut remainder = 0u32;
        let mut head = 0u32;
        let mut pos = start;
        for at in 0..*length {
            let mut byte = self.byte(pos);
            if at > 3 && separated && !byte.is_ascii_alphanumeric() {
                pos += match (byte, self.byte(pos + 1)) {
                    (b' ' | b'-', _) => 1,
                    (0xc2, 0xa0) => 2,
                    _ => return None,
                };
                byte = self.byte(pos);
            }
            // ISO 7064 MOD 97-10 with A as 10 to Z as 35, the first four characters moved to the end.
            let (value, shift) = match byte.to_ascii_uppercase() {
                digit @ b'0'..=b'9' => (u32::from(digit - b'0'), 10),
                letter @ b'A'..=b'Z' if !(numeric && at > 1 || matches!(at, 2 | 3)) => {
                    (u32::from(letter - b'A') + 10, 100)
                }
                _ => return None,
            };
            let target = if at < 4 { &mut head } else { &mut remainder };
            *target = if at < 4 { *target * shift + value } else { (*target * shift + value) % 97 };
            pos += 1;
        }
        // Four characters moved to the end: two letters and two digits are six digits.
        let valid = (u64::from(remainder) * 1_000_000 + u64::from(head)) % 97 == 1;
        (valid && !self.byte(pos).is_ascii_alphanumeric()).then_some(pos)
    }
}

fn es_dni(word: &[u8]) -> bool {
    let Some((letter, digits)) = word.split_last() else { return false };
    values::<8>(digits).is_some_and(|d| checks::es_letter(&d) == Some(letter.to_ascii_uppercase()))
}

fn es_nie(word: &[u8]) -> bool {
    let [first @ b'X'..=b'Z', digits @ .., letter] = word else { return false };
    let Some([a, b, c, d, e, f, g]) = values::<7>(digits) else { return false };
    checks::es_letter(&[first - b'X', a, b, c, d, e, f, g]) == Some(*letter)
}

fn cn_resident_id(word: &[u8]) -> bool {
    let [digits @ .., b'X' | b'x'] = word else { return false };
    values::<17>(digits).is_some_and(|d| checks::cn_resident_id(&d, 10))
}

/// `ddmmyy`, a sign for the century, three digits, a check character.
fn fi_hetu(word: &[u8]) -> bool {
    let [a, b, c, d, e, f, century, g, h, i, check] = word else { return false };
    matches!(century, b'-' | b'+' | b'A'..=b'F' | b'U'..=b'Y')
        && values::<9>(&[*a, *b, *c, *d, *e, *f, *g, *h, *i])
            .is_some_and(|d| checks::fi_character(&d) == Some(check.to_ascii_uppercase()))
}

/// A French number of Corsica: for the key 2A counts as 19 and 2B as 18.
fn corsica(word: &[u8]) -> bool {
    let Ok(mut digits) = <[u8; 15]>::try_from(word) else { return false };
    let [_, _, _, _, _, tens, units, ..] = &mut digits;
    *units = match (*tens, *units) {
        (b'2', b'A' | b'a') => b'9',
        (b'2', b'B' | b'b') => b'8',
        _ => return false,
    };
    *tens = b'1';
    values::<15>(&digits).is_some_and(|d| checks::fr_nir(&d))
}

fn uk_nino(word: &[u8]) -> bool {
    let [a, b, digits @ .., b'A'..=b'D'] = word else { return false };
    digits.len() == 6
        && digits.iter().all(u8::is_ascii_digit)
        && a.is_ascii_uppercase()
        && b.is_ascii_uppercase()
        && !b"DFIQUV".contains(a)
        && !b"DFIOQUV".contains(b)
        && ![*b"BG", *b"GB", *b"NK", *b"KN", *b"TN", *b"NT", *b"ZZ"].contains(&[*a, *b])
}

/// Holder's type in the fourth place.
fn in_pan(word: &[u8]) -> bool {
    let [a, b, c, holder, e, digits @ .., last] = word else { return false };
    digits.len() == 4
        && [a, b, c, e, last].iter().all(|l| l.is_ascii_uppercase())
        && digits.iter().all(u8::is_ascii_digit)
        && digits != b"0000"
        && b"ABCFGHLJPT".contains(holder)
}

fn mx_curp(word: &[u8]) -> bool {
    let Some((body, [check])) = word.split_at_checked(17) else { return false };
    let dated = body.get(4..10).and_then(values::<6>).is_some_and(|d| checks::yymmdd(&d));
    let sex = matches!(body.get(10), Some(b'H' | b'M' | b'X'));
    let letters = body.get(11..16).is_some_and(|l| l.iter().all(u8::is_ascii_uppercase));
    // The values count an Ñ after N.
    let value = |b: u8| match b {
        b'0'..=b'9' => u32::from(b - b'0'),
        b'A'..=b'N' => u32::from(b - b'A') + 10,
        _ => u32::from(b.saturating_sub(b'O')) + 25,
    };
    let sum: u32 = body.iter().zip((2..=18u32).rev()).map(|(b, weight)| value(*b) * weight).sum();
    dated && sex && letters && check.is_ascii_digit() && (10 - sum % 10) % 10 == u32::from(check - b'0')
}

fn it_codice_fiscale(word: &[u8]) -> bool {
    // Where digits would repeat somebody's code, letters stand for them (omocodia).
    const DIGITS: &[u8] = b"0123456789LMNPQRSTUV";
    const ODD: [u8; 26] =
        [1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 2, 4, 18, 20, 11, 3, 6, 8, 12, 14, 16, 10, 22, 25, 24, 23];
    let Some((body, [check])) = word.split_at_checked(15) else { return false };
    let shaped = body.iter().zip(b"LLLLLLDDMDDLDDD").all(|(b, shape)| match shape {
        b'D' => DIGITS.contains(b),
        b'M' => b"ABCDEHLMPRST".contains(b),
        _ => b.is_ascii_uppercase(),
    });
    let value = |b: &u8| usize::from(if b.is_ascii_digit() { b - b'0' } else { b.saturating_sub(b'A') });
    let sum: u32 = body
        .iter()
        .zip([true, false].into_iter().cycle())
        .map(|(b, odd)| match ODD.get(value(b)) {
            Some(weight) if odd => u32::from(*weight),
            _ => value(b) as u32,
        })
        .sum();
    shaped && u32::from(check.wrapping_sub(b'A')) == sum % 26
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_examples() {
        assert!(es_dni(b"12345678Z") && !es_dni(b"12345678A"));
        assert!(es_nie(b"X1234567L") && !es_nie(b"Y1234567L"));
        assert!(fi_hetu(b"131052-308T") && fi_hetu(b"131052A308T") && !fi_hetu(b"131052-308U"));
        assert!(uk_nino(b"AB123456C") && !uk_nino(b"QQ123456C") && !uk_nino(b"GB123456C"));
        assert!(in_pan(b"ABCPE1234F") && !in_pan(b"ABCXE1234F") && !in_pan(b"abcpe1234f"));
        assert!(mx_curp(b"HEGG560427MVZRRL04") && !mx_curp(b"HEGG560427MVZRRL05"));
        assert!(it_codice_fiscale(b"RSSMRA85T10A562S") && !it_codice_fiscale(b"RSSMRA85T10A562T"));
        assert!(cn_resident_id(b"11010519491231002X"));
        assert!(!corsica(b"184122B45108946") || corsica(b"184122A45108946") != corsica(b"184122B45108946"));
    }
}
