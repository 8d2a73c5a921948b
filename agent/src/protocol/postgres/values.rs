//! Values in text form: what a bind parameter says, whatever format it was sent in.
//!
//! The binary layouts are those of the types' send and receive functions in the server's source. A type
//! without a rendering here, or bytes that do not fit its layout, are given as `\x` and hexadecimal, as
//! the server writes bytea.

use std::fmt::Write as _;

use crate::civil;

/// Object ids of built-in types (`pg_type.dat`); they are the same in every version.
pub mod oid {
    #![expect(missing_docs, reason = "the names are those of the types")]
    pub const BOOL: u32 = 16;
    pub const BYTEA: u32 = 17;
    pub const CHAR: u32 = 18;
    pub const NAME: u32 = 19;
    pub const INT8: u32 = 20;
    pub const INT2: u32 = 21;
    pub const INT4: u32 = 23;
    pub const TEXT: u32 = 25;
    pub const OID: u32 = 26;
    pub const XID: u32 = 28;
    pub const CID: u32 = 29;
    pub const JSON: u32 = 114;
    pub const XML: u32 = 142;
    pub const FLOAT4: u32 = 700;
    pub const FLOAT8: u32 = 701;
    pub const UNKNOWN: u32 = 705;
    pub const BPCHAR: u32 = 1042;
    pub const VARCHAR: u32 = 1043;
    pub const DATE: u32 = 1082;
    pub const TIME: u32 = 1083;
    pub const TIMESTAMP: u32 = 1114;
    pub const TIMESTAMPTZ: u32 = 1184;
    pub const NUMERIC: u32 = 1700;
    pub const UUID: u32 = 2950;
    pub const JSONB: u32 = 3802;
}

/// A numeric that would be longer than this as text, in bytes, is given in hexadecimal: a few bytes can
/// stand for a number of more than 100,000 digits.
const MAX_NUMERIC: usize = 4096;

/// Days from the Unix epoch to PostgreSQL's (2000-01-01).
const EPOCH_DAYS: i64 = 10_957;
const MICROS_PER_DAY: i64 = 86_400_000_000;

/// A parameter as text. `format` is the protocol's: 0 text, 1 binary; `kind` is the type's object id, 0
/// when it is not known.
pub fn render(kind: u32, format: i16, value: &[u8]) -> String {
    if format == 0 {
        return String::from_utf8_lossy(value).into_owned();
    }
    binary(kind, value).unwrap_or_else(|| hex(value))
}

fn hex(value: &[u8]) -> String {
    let mut text = String::with_capacity(2 + value.len() * 2);
    text.push_str("\\x");
    for byte in value {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

fn binary(kind: u32, value: &[u8]) -> Option<String> {
    use oid::*;
    Some(match kind {
        BOOL => match value {
            [0] => "f".to_owned(),
            [_] => "t".to_owned(),
            _ => return None,
        },
        INT2 => i16::from_be_bytes(value.try_into().ok()?).to_string(),
        INT4 => i32::from_be_bytes(value.try_into().ok()?).to_string(),
        INT8 => i64::from_be_bytes(value.try_into().ok()?).to_string(),
        OID | XID | CID => u32::from_be_bytes(value.try_into().ok()?).to_string(),
        FLOAT4 => f32::from_be_bytes(value.try_into().ok()?).to_string(),
        FLOAT8 => f64::from_be_bytes(value.try_into().ok()?).to_string(),
        // Unknown type: a client that sends text in binary format, most often.
        TEXT | VARCHAR | BPCHAR | NAME | CHAR | JSON | XML | UNKNOWN => {
            std::str::from_utf8(value).ok()?.to_owned()
        }
        JSONB => match value {
            [1, text @ ..] => std::str::from_utf8(text).ok()?.to_owned(),
            _ => return None,
        },
        UUID => uuid(value.try_into().ok()?),
        NUMERIC => numeric(value)?,
        DATE => date(i64::from(i32::from_be_bytes(value.try_into().ok()?))),
        TIME => time(i64::from_be_bytes(value.try_into().ok()?)),
        TIMESTAMP => timestamp(i64::from_be_bytes(value.try_into().ok()?), ""),
        TIMESTAMPTZ => timestamp(i64::from_be_bytes(value.try_into().ok()?), "+00"),
        _ => return None,
    })
}

fn uuid(bytes: &[u8; 16]) -> String {
    let mut text = String::with_capacity(36);
    for (index, byte) in bytes.iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// `numeric_send`: digits in base 10,000, weight of the first, sign, decimal places.
fn numeric(value: &[u8]) -> Option<String> {
    let mut words = value.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]]));
    let count = words.next()?;
    let weight = i32::from(words.next()?.cast_signed());
    let sign = words.next()?;
    let scale = usize::from(words.next()?);
    let digits: Vec<u16> = words.collect();
    if digits.len() != usize::from(count) || digits.iter().any(|&digit| digit > 9999) {
        return None;
    }
    match sign {
        0 | 0x4000 => {}
        0xc000 => return Some("NaN".to_owned()),
        0xd000 => return Some("Infinity".to_owned()),
        0xf000 => return Some("-Infinity".to_owned()),
        _ => return None,
    }
    if 4 * usize::from(weight.unsigned_abs() as u16) + scale > MAX_NUMERIC {
        return None;
    }
    let digit = |place: i32| {
        usize::try_from(place).ok().and_then(|place| digits.get(place)).copied().unwrap_or_default()
    };
    let mut text = String::new();
    if sign == 0x4000 {
        text.push('-');
    }
    if weight < 0 {
        text.push('0');
    } else {
        for place in 0..=weight {
            if place == 0 {
                let _ = write!(text, "{}", digit(place));
            } else {
                let _ = write!(text, "{:04}", digit(place));
            }
        }
    }
    if scale > 0 {
        text.push('.');
        let whole = text.len();
        let mut place = weight + 1;
        // Below a negative weight come zero digits that were not sent.
        if weight < -1 {
            place = 0;
            for _ in 0..(-weight - 1) {
                text.push_str("0000");
            }
        }
        while text.len() - whole < scale {
            let _ = write!(text, "{:04}", digit(place));
            place += 1;
        }
        text.truncate(whole + scale);
    }
    Some(text)
}

fn date(days: i64) -> String {
    if days == i64::from(i32::MAX) {
        return "infinity".to_owned();
    }
    if days == i64::from(i32::MIN) {
        return "-infinity".to_owned();
    }
    let (year, month, day) = civil::date(days + EPOCH_DAYS);
    if year > 0 {
        format!("{year:04}-{month:02}-{day:02}")
    } else {
        format!("{:04}-{month:02}-{day:02} BC", 1 - year)
    }
}

fn time(micros: i64) -> String {
    let seconds = micros.div_euclid(1_000_000);
    let mut text = format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60);
    let fraction = micros.rem_euclid(1_000_000);
    if fraction != 0 {
        let _ = write!(text, ".{fraction:06}");
        text.truncate(text.trim_end_matches('0').len());
    }
    text
}

fn timestamp(micros: i64, zone: &str) -> String {
    match micros {
        i64::MAX => "infinity".to_owned(),
        i64::MIN => "-infinity".to_owned(),
        _ => {
            let day = date(micros.div_euclid(MICROS_PER_DAY));
            let time = time(micros.rem_euclid(MICROS_PER_DAY));
            match day.strip_suffix(" BC") {
                Some(day) => format!("{day} {time}{zone} BC"),
                None => format!("{day} {time}{zone}"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn renders_as_the_server_writes() {
        let cases: &[(u32, &[u8], &str)] = &[
            (oid::BOOL, &[1], "t"),
            (oid::INT4, &(-5i32).to_be_bytes(), "-5"),
            (oid::INT8, &7i64.to_be_bytes(), "7"),
            (oid::FLOAT8, &1.5f64.to_be_bytes(), "1.5"),
            (oid::TEXT, b"caf\xc3\xa9", "caf\u{e9}"),
            (oid::TEXT, b"\xff", "\\xff"),
            (oid::JSONB, b"\x01{}", "{}"),
            (oid::DATE, &0i32.to_be_bytes(), "2000-01-01"),
            (oid::DATE, &(-730_119i32).to_be_bytes(), "0001-01-01"),
            (oid::DATE, &(-730_120i32).to_be_bytes(), "0001-12-31 BC"),
            (oid::DATE, &i32::MAX.to_be_bytes(), "infinity"),
            (oid::TIMESTAMP, &1_500_000i64.to_be_bytes(), "2000-01-01 00:00:01.5"),
            (oid::TIMESTAMPTZ, &(-1_000_000i64).to_be_bytes(), "1999-12-31 23:59:59+00"),
            // 12345.678, as numeric_send gives it
            (oid::NUMERIC, &[0, 3, 0, 1, 0, 0, 0, 3, 0, 1, 0x09, 0x29, 0x1a, 0x7c], "12345.678"),
            // -0.00001234
            (oid::NUMERIC, &[0, 1, 0xff, 0xfe, 0x40, 0, 0, 8, 0x04, 0xd2], "-0.00001234"),
            // 10000
            (oid::NUMERIC, &[0, 1, 0, 1, 0, 0, 0, 0, 0, 1], "10000"),
            (oid::NUMERIC, &[0, 0, 0, 0, 0xc0, 0, 0, 0], "NaN"),
            // 0e131068, and one of 16,383 places
            (oid::NUMERIC, &[0, 0, 0x7f, 0xff, 0, 0, 0, 0], "\\x00007fff00000000"),
            (oid::NUMERIC, &[0, 0, 0, 0, 0, 0, 0x3f, 0xff], "\\x0000000000003fff"),
            (600, &[1, 2], "\\x0102"),
            (oid::INT4, &[1, 2], "\\x0102"),
        ];
        for &(kind, value, expected) in cases {
            assert_eq!(render(kind, 1, value), expected, "type {kind}");
        }
        let id = render(oid::UUID, 1, &(0u8..16).collect::<Vec<_>>());
        assert_eq!(id, "00010203-0405-0607-0809-0a0b0c0d0e0f");
    }

    proptest! {
        #[test]
        fn hostile_values_never_panic(kind in 0u32..4000, value in prop::collection::vec(any::<u8>(), 0..40)) {
            render(kind, 1, &value);
            render(oid::NUMERIC, 1, &value);
            render(oid::TIMESTAMP, 1, &value);
        }
    }
}
