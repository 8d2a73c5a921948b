//! UUIDs, bytes, network addresses and bit strings.

use std::net::IpAddr;

use super::oid::Kind;
use super::{Format, Mask};
use crate::mask::{REDACTED, Transform};

fn hex(bytes: &[u8], out: &mut Vec<u8>) {
    let digit = |nibble: u8| b"0123456789abcdef".get(usize::from(nibble)).copied().unwrap_or(b'0');
    out.extend(bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]));
}

/// The bytes that hexadecimal digits stand for; what separates them is left out.
pub(in crate::mask) fn unhex(text: &[u8]) -> Option<Vec<u8>> {
    let digits: Vec<u8> = text
        .iter()
        .filter(|b| !matches!(b, b'-' | b':' | b'{' | b'}'))
        .map(|b| char::from(*b).to_digit(16).map(|d| d as u8))
        .collect::<Option<_>>()?;
    let (pairs, odd) = digits.as_chunks::<2>();
    odd.is_empty().then(|| pairs.iter().map(|[high, low]| high << 4 | low).collect())
}

/// The hexadecimal text form of `bytea`.
pub(in crate::mask) fn bytea_text(bytes: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(b"\\x");
    hex(bytes, out);
}

impl Mask<'_> {
    pub(super) fn other(&self, value: &[u8], out: &mut Vec<u8>) {
        let mac = match self.transform {
            Transform::Hash => Some(self.mac(&self.canonical(value))),
            _ => None,
        };
        let hashed = mac.as_ref().map(|mac| &mac[..]);
        let text = self.format == Format::Text;
        match self.kind {
            Kind::Uuid => {
                let uuid = self.uuid(value, hashed);
                if !text {
                    out.extend_from_slice(&uuid);
                    return;
                }
                for (at, byte) in uuid.iter().enumerate() {
                    if matches!(at, 4 | 6 | 8 | 10) {
                        out.push(b'-');
                    }
                    hex(&[*byte], out);
                }
            }
            Kind::Bytea => {
                let bytes = hashed.and_then(|mac| mac.get(..16)).unwrap_or(REDACTED.as_bytes());
                if text {
                    bytea_text(bytes, out);
                } else {
                    out.extend_from_slice(bytes);
                }
            }
            Kind::Inet { cidr } => {
                // Hashed addresses stand in 240.0.0.0/4, which nobody has.
                let address = match hashed {
                    Some([a, b, c, d, ..]) => [240 | a & 15, *b, *c, *d],
                    _ => [0; 4],
                };
                if text {
                    let [a, b, c, d] = address;
                    let width = if cidr { "/32" } else { "" };
                    out.extend_from_slice(format!("{a}.{b}.{c}.{d}{width}").as_bytes());
                } else {
                    // Family (PGSQL_AF_INET), bits, whether it is a cidr, bytes of the address.
                    out.extend_from_slice(&[2, 32, u8::from(cidr), 4]);
                    out.extend_from_slice(&address);
                }
            }
            Kind::Mac { width } => {
                // Hashed ones are locally administered, which no manufacturer gives out.
                let mut address = [0; 8];
                if let Some(mac) = hashed {
                    address.iter_mut().zip(mac).for_each(|(to, from)| *to = *from);
                    address[0] = 2;
                }
                for (at, byte) in address.iter().take(width.into()).enumerate() {
                    if !text {
                        out.push(*byte);
                        continue;
                    }
                    if at > 0 {
                        out.push(b':');
                    }
                    hex(&[*byte], out);
                }
            }
            Kind::Bits { fixed } => self.bits(value, fixed, hashed, out),
            _ => {}
        }
    }

    /// The same bytes for the same value in text and binary.
    fn canonical(&self, value: &[u8]) -> Vec<u8> {
        let text = self.format == Format::Text;
        let canonical = match self.kind {
            Kind::Uuid | Kind::Mac { .. } if text => unhex(value),
            Kind::Bytea if text => value.strip_prefix(b"\\x").and_then(unhex),
            Kind::Inet { .. } if text => inet(value),
            // Without the flag that tells a cidr from an inet.
            Kind::Inet { .. } => match value {
                [family, bits, _, length, address @ ..] => {
                    Some([&[*family, *bits, 0, *length], address].concat())
                }
                _ => None,
            },
            Kind::Bits { .. } if !text => value.split_first_chunk().map(|(length, bytes)| {
                let length = usize::try_from(i32::from_be_bytes(*length)).unwrap_or(0);
                let bits = bytes.iter().flat_map(|byte| (0..8).rev().map(move |at| b'0' + (byte >> at & 1)));
                bits.take(length).collect()
            }),
            _ => None,
        };
        canonical.unwrap_or_else(|| value.to_vec())
    }

    fn uuid(&self, value: &[u8], hashed: Option<&[u8]>) -> [u8; 16] {
        let mut uuid = [0; 16];
        if let Some(mac) = hashed {
            uuid.iter_mut().zip(mac).for_each(|(to, from)| *to = *from);
            // Version 8, for what is made up some other way (RFC 9562).
            uuid[6] = uuid[6] & 0x0f | 0x80;
            uuid[8] = uuid[8] & 0x3f | 0x80;
            return uuid;
        }
        let Transform::Partial { keep_first, keep_last } = self.transform else { return uuid };
        let (first, last) = (usize::from(keep_first), usize::from(keep_last));
        let Ok(original) = <[u8; 16]>::try_from(self.canonical(value)) else { return uuid };
        if first + last < 32 {
            for (at, (to, from)) in uuid.iter_mut().zip(original).enumerate() {
                let kept = |digit: usize| digit < first || digit >= 32 - last;
                let high = if kept(at * 2) { from & 0xf0 } else { 0 };
                let low = if kept(at * 2 + 1) { from & 0x0f } else { 0 };
                *to = high | low;
            }
        }
        uuid
    }

    fn bits(&self, value: &[u8], fixed: bool, hashed: Option<&[u8]>, out: &mut Vec<u8>) {
        let length = match self.format {
            Format::Text => value.len(),
            Format::Binary => {
                let length = value.first_chunk().map_or(0, |b| i32::from_be_bytes(*b));
                usize::try_from(length).unwrap_or(0).min(value.len().saturating_sub(4) * 8)
            }
        };
        // A bit(n) keeps its length, which all of its column have; a varying one does not tell it.
        let length = if fixed { length } else { length.min(if hashed.is_some() { 64 } else { 0 }) };
        let bit = |at: usize| {
            let byte = hashed.and_then(|mac| mac.get(at / 8 % 32)).copied().unwrap_or(0);
            byte >> (7 - at % 8) & 1
        };
        match self.format {
            Format::Text => out.extend((0..length).map(|at| b'0' + bit(at))),
            Format::Binary => {
                out.extend_from_slice(&(length as i32).to_be_bytes());
                out.extend((0..length.div_ceil(8)).map(|byte| {
                    (byte * 8..byte * 8 + 8)
                        .fold(0, |all, at| all << 1 | if at < length { bit(at) } else { 0 })
                }));
            }
        }
    }
}

/// The binary form of an `inet` or `cidr` in text.
fn inet(text: &[u8]) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(text).ok()?;
    let (address, width) =
        text.split_once('/').map_or((text, None), |(address, width)| (address, Some(width)));
    Some(match address.parse().ok()? {
        IpAddr::V4(v4) => {
            let width = width.map_or(Ok(32), str::parse).ok()?;
            [&[2, width, 0, 4], &v4.octets()[..]].concat()
        }
        IpAddr::V6(v6) => {
            let width = width.map_or(Ok(128), str::parse).ok()?;
            [&[3, width, 0, 16], &v6.octets()[..]].concat()
        }
    })
}
