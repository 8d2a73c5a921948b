//! Arrays: each element is masked; one that cannot be read becomes an empty array.

use super::{Applied, Format, apply as apply_element};
use crate::mask::{HashKey, Transform};

/// Most elements of an array that are masked one by one; a longer one becomes empty.
const LONGEST: usize = 1 << 20;

/// Most dimensions of an array (PostgreSQL's MAXDIM).
const DIMENSIONS: usize = 6;

/// An array of `element`s.
pub(super) fn apply(
    transform: Transform,
    key: &HashKey,
    element: u32,
    typmod: i32,
    format: Format,
    value: &[u8],
    out: &mut Vec<u8>,
) {
    let start = out.len();
    let mut mask =
        |value: &[u8], out: &mut Vec<u8>| apply_element(transform, key, element, typmod, format, value, out);
    let done = match format {
        Format::Text => text(value, out, &mut mask),
        Format::Binary => binary(value, out, &mut mask),
    };
    if done.is_none() {
        out.truncate(start);
        match format {
            Format::Text => out.extend_from_slice(b"{}"),
            // Dimensions, whether there are NULLs, the element type.
            Format::Binary => {
                out.extend_from_slice(&[0; 8]);
                out.extend_from_slice(&element.to_be_bytes());
            }
        }
    }
}

/// Rewrites the elements of an array's text form (`array_out`), whatever its dimensions.
fn text(value: &[u8], out: &mut Vec<u8>, mask: &mut dyn FnMut(&[u8], &mut Vec<u8>) -> Applied) -> Option<()> {
    // Bounds that do not start at 1: [0:2]={…}
    let start = if value.first() == Some(&b'[') { value.iter().position(|b| *b == b'=')? + 1 } else { 0 };
    let (bounds, mut rest) = value.split_at_checked(start)?;
    if !bounds.iter().all(|b| b.is_ascii_digit() || b"[]:-+=".contains(b)) {
        return None;
    }
    out.extend_from_slice(bounds);
    let (mut depth, mut count) = (0usize, 0usize);
    let mut element = Vec::new();
    let mut masked = Vec::new();
    while let Some(byte) = rest.first() {
        match byte {
            b'{' => depth += 1,
            b'}' => depth = depth.checked_sub(1)?,
            b',' => {}
            _ => {
                let null;
                (rest, null) = take_element(rest, &mut element)?;
                count += 1;
                if depth == 0 || count > LONGEST {
                    return None;
                }
                masked.clear();
                if null || mask(&element, &mut masked) == Applied::Null {
                    out.extend_from_slice(b"NULL");
                } else {
                    out.push(b'"');
                    out.extend(masked.iter().flat_map(|b| {
                        matches!(b, b'"' | b'\\').then_some(b'\\').into_iter().chain(Some(*b))
                    }));
                    out.push(b'"');
                }
                continue;
            }
        }
        out.push(*byte);
        rest = rest.get(1..)?;
    }
    (depth == 0 && out.last() == Some(&b'}')).then_some(())
}

/// Unquotes the element at the start; gives the rest, and whether it is NULL.
fn take_element<'a>(value: &'a [u8], element: &mut Vec<u8>) -> Option<(&'a [u8], bool)> {
    element.clear();
    let quoted = value.first() == Some(&b'"');
    let mut at = usize::from(quoted);
    loop {
        match value.get(at)? {
            b'\\' => {
                at += 1;
                element.push(*value.get(at)?);
            }
            b'"' if quoted => return Some((value.get(at + 1..)?, false)),
            b',' | b'}' if !quoted => {
                return Some((value.get(at..)?, element.eq_ignore_ascii_case(b"null")));
            }
            b'{' | b'"' if !quoted => return None,
            byte => element.push(*byte),
        }
        at += 1;
    }
}

/// One element of an array's binary form: its bytes, or NULL.
pub(in crate::mask) type Element<'a> = Option<&'a [u8]>;

/// The header and the elements of an array's binary form (`array_send`).
pub(in crate::mask) fn elements(value: &[u8]) -> Option<(&[u8], Vec<Element<'_>>)> {
    let word = |at: usize| value.get(at..at + 4)?.first_chunk().map(|b| i32::from_be_bytes(*b));
    let dimensions = usize::try_from(word(0)?).ok().filter(|n| *n <= DIMENSIONS)?;
    let header = 12 + dimensions * 8;
    let mut count = usize::from(dimensions > 0);
    for dimension in 0..dimensions {
        count = count.checked_mul(usize::try_from(word(12 + dimension * 8)?).ok()?)?;
    }
    if count > LONGEST {
        return None;
    }
    // Each element takes four bytes at least, so a false count reserves no more than was received.
    let mut elements = Vec::with_capacity(count.min(value.len() / 4));
    let mut at = header;
    for _ in 0..count {
        let length = word(at)?;
        at += 4;
        if length == -1 {
            elements.push(None);
            continue;
        }
        let end = at.checked_add(usize::try_from(length).ok()?)?;
        elements.push(Some(value.get(at..end)?));
        at = end;
    }
    (at == value.len()).then_some((value.get(..header)?, elements))
}

fn binary(
    value: &[u8],
    out: &mut Vec<u8>,
    mask: &mut dyn FnMut(&[u8], &mut Vec<u8>) -> Applied,
) -> Option<()> {
    let (header, elements) = elements(value)?;
    let start = out.len();
    out.extend_from_slice(header);
    let mut nulls = false;
    for element in elements {
        let length_at = out.len();
        out.extend_from_slice(&[0xff; 4]);
        let masked = element.map(|element| mask(element, out));
        if masked == Some(Applied::Value) {
            let length = i32::try_from(out.len() - length_at - 4).ok()?;
            out.get_mut(length_at..length_at + 4)?.copy_from_slice(&length.to_be_bytes());
        } else {
            nulls = true;
        }
    }
    if nulls {
        out.get_mut(start + 4..start + 8)?.copy_from_slice(&1i32.to_be_bytes());
    }
    Some(())
}
