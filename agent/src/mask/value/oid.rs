//! The types that are known, by the OIDs that PostgreSQL fixes in `pg_type.dat`.

/// What a type's values are like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::mask) enum Kind {
    Text {
        /// Most characters.
        limit: Option<usize>,
        /// Filled up with blanks.
        padded: bool,
    },
    /// `"char"`, one byte.
    Char,
    Bool,
    Int {
        /// Bytes in binary.
        width: u8,
        /// Without a sign (`oid`).
        unsigned: bool,
    },
    Numeric {
        /// Digits in all and behind the point.
        precision: Option<(u16, i16)>,
    },
    Float {
        width: u8,
    },
    Money,
    Date,
    Time,
    TimeTz,
    Timestamp {
        zone: bool,
    },
    Interval,
    Uuid,
    Json {
        /// The byte that leads the binary form.
        version: Option<u8>,
    },
    Xml {
        version: Option<u8>,
    },
    Bytea,
    Inet {
        cidr: bool,
    },
    Mac {
        /// Bytes: 6, or 8 for `macaddr8`.
        width: u8,
    },
    Bits {
        /// `bit(n)`: all values have the same length.
        fixed: bool,
    },
}

/// The kind of a scalar type; `None` for one that is not known.
pub(in crate::mask) fn kind(oid: u32, typmod: i32) -> Option<Kind> {
    // Text types count four bytes of header in their modifier.
    let limit = typmod.checked_sub(4).and_then(|n| usize::try_from(n).ok());
    Some(match oid {
        16 => Kind::Bool,
        17 => Kind::Bytea,
        18 => Kind::Char,
        // A name has 63 bytes; what is put in its place is ASCII unless it keeps characters of a name.
        19 => Kind::Text { limit: Some(63), padded: false },
        20 => Kind::Int { width: 8, unsigned: false },
        21 => Kind::Int { width: 2, unsigned: false },
        23 => Kind::Int { width: 4, unsigned: false },
        26 => Kind::Int { width: 4, unsigned: true },
        25 | 705 => Kind::Text { limit: None, padded: false },
        1043 => Kind::Text { limit, padded: false },
        1042 => Kind::Text { limit, padded: true },
        114 => Kind::Json { version: None },
        3802 => Kind::Json { version: Some(1) },
        142 => Kind::Xml { version: None },
        650 => Kind::Inet { cidr: true },
        869 => Kind::Inet { cidr: false },
        700 => Kind::Float { width: 4 },
        701 => Kind::Float { width: 8 },
        774 => Kind::Mac { width: 8 },
        829 => Kind::Mac { width: 6 },
        790 => Kind::Money,
        1082 => Kind::Date,
        1083 => Kind::Time,
        1266 => Kind::TimeTz,
        1114 => Kind::Timestamp { zone: false },
        1184 => Kind::Timestamp { zone: true },
        1186 => Kind::Interval,
        1560 => Kind::Bits { fixed: true },
        1562 => Kind::Bits { fixed: false },
        1700 => Kind::Numeric { precision: limit.map(numeric_precision) },
        2950 => Kind::Uuid,
        _ => return None,
    })
}

/// Precision in the upper half, scale in the lower eleven bits, signed (`numeric.c`).
fn numeric_precision(modifier: usize) -> (u16, i16) {
    let scale = (modifier & 0x7ff) as i16;
    ((modifier >> 16 & 0xffff) as u16, if scale >= 0x400 { scale - 0x800 } else { scale })
}

/// The element type of an array type.
pub(in crate::mask) fn element(oid: u32) -> Option<u32> {
    Some(match oid {
        143 => 142,
        199 => 114,
        651 => 650,
        775 => 774,
        791 => 790,
        1000 => 16,
        1001 => 17,
        1002 => 18,
        1003 => 19,
        1005 => 21,
        1007 => 23,
        1009 => 25,
        1014 => 1042,
        1015 => 1043,
        1016 => 20,
        1021 => 700,
        1022 => 701,
        1028 => 26,
        1040 => 829,
        1041 => 869,
        1115 => 1114,
        1182 => 1082,
        1183 => 1083,
        1185 => 1184,
        1187 => 1186,
        1231 => 1700,
        1270 => 1266,
        1561 => 1560,
        1563 => 1562,
        2951 => 2950,
        3807 => 3802,
        _ => return None,
    })
}
