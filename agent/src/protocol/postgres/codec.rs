//! Framing and message layouts of the frontend/backend protocol 3.x (PostgreSQL manual, sections
//! "Message Flow" and "Message Formats").
//!
//! Everything borrows from the connection's buffer; nothing here copies or allocates. A reader that
//! runs off the end of a message gives [`CodecError`], never a panic.

use bytes::BufMut;

/// Bytes before a message's body: type and length.
pub const HEADER: usize = 5;

/// The longest body that the server itself accepts or sends (`MaxAllocSize`, 1 GB less one byte).
pub const MAX_BODY: usize = 0x3fff_ffff;

/// What is wrong with a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// The length word is below 4 or above 1 GB.
    #[error("message {:?} claims a length of {length}, which the protocol does not allow", char::from(*.tag))]
    Length {
        /// The message's type byte.
        tag: u8,
        /// The length word as sent.
        length: i32,
    },
    /// A field reaches past the end of its message.
    #[error("message ends within a field")]
    Truncated,
    /// A string without its terminating zero byte.
    #[error("string without its terminating zero byte")]
    Unterminated,
    /// A count or length that is negative where it may not be.
    #[error("negative count or length")]
    Negative,
    /// Bytes left over after the last field.
    #[error("message longer than its fields")]
    Trailing,
}

/// Type and body length of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The type byte.
    pub tag: u8,
    /// Bytes of the body, the length word not counted.
    pub body: usize,
}

impl Header {
    /// Reads a header from the front of `bytes`; `None` when not all of it is there yet.
    ///
    /// # Errors
    /// The length is one that no server would accept.
    pub fn read(bytes: &[u8]) -> Result<Option<Self>, CodecError> {
        let Some(&[tag, a, b, c, d]) = bytes.first_chunk::<HEADER>() else { return Ok(None) };
        let length = i32::from_be_bytes([a, b, c, d]);
        match usize::try_from(length).ok().and_then(|length| length.checked_sub(4)) {
            Some(body) if body <= MAX_BODY => Ok(Some(Self { tag, body })),
            _ => Err(CodecError::Length { tag, length }),
        }
    }

    /// Bytes of the whole message.
    pub fn total(self) -> usize {
        HEADER + self.body
    }
}

/// Takes fields off the front of a message's body.
#[derive(Debug, Clone, Copy)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Reads `body`.
    pub fn new(body: &'a [u8]) -> Self {
        Self { rest: body }
    }

    /// What has not been taken yet.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// The next `count` bytes.
    ///
    /// # Errors
    /// [`CodecError::Truncated`].
    pub fn bytes(&mut self, count: usize) -> Result<&'a [u8], CodecError> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(CodecError::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], CodecError> {
        let (taken, rest) = self.rest.split_first_chunk::<N>().ok_or(CodecError::Truncated)?;
        self.rest = rest;
        Ok(*taken)
    }

    /// Byte1.
    ///
    /// # Errors
    /// [`CodecError::Truncated`].
    pub fn u8(&mut self) -> Result<u8, CodecError> {
        Ok(self.array::<1>()?[0])
    }

    /// Int16.
    ///
    /// # Errors
    /// [`CodecError::Truncated`].
    pub fn i16(&mut self) -> Result<i16, CodecError> {
        Ok(i16::from_be_bytes(self.array()?))
    }

    /// Int16 as a count; the server reads it as signed, so a negative one is malformed.
    ///
    /// # Errors
    /// [`CodecError::Truncated`] or [`CodecError::Negative`].
    pub fn count(&mut self) -> Result<usize, CodecError> {
        usize::try_from(self.i16()?).map_err(|_| CodecError::Negative)
    }

    /// Int32.
    ///
    /// # Errors
    /// [`CodecError::Truncated`].
    pub fn i32(&mut self) -> Result<i32, CodecError> {
        Ok(i32::from_be_bytes(self.array()?))
    }

    /// Int32 as an object id.
    ///
    /// # Errors
    /// [`CodecError::Truncated`].
    pub fn oid(&mut self) -> Result<u32, CodecError> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    /// String, without its zero byte.
    ///
    /// # Errors
    /// [`CodecError::Unterminated`].
    pub fn cstr(&mut self) -> Result<&'a [u8], CodecError> {
        let end = self.rest.iter().position(|&byte| byte == 0).ok_or(CodecError::Unterminated)?;
        let (taken, rest) = self.rest.split_at(end);
        self.rest = rest.get(1..).unwrap_or_default();
        Ok(taken)
    }

    /// A value with its Int32 length before it; `None` is NULL (length -1).
    ///
    /// # Errors
    /// [`CodecError::Truncated`] or [`CodecError::Negative`].
    pub fn value(&mut self) -> Result<Option<&'a [u8]>, CodecError> {
        match self.i32()? {
            -1 => Ok(None),
            length => {
                let length = usize::try_from(length).map_err(|_| CodecError::Negative)?;
                self.bytes(length).map(Some)
            }
        }
    }

    /// Asserts that nothing is left.
    ///
    /// # Errors
    /// [`CodecError::Trailing`].
    pub fn end(self) -> Result<(), CodecError> {
        if self.rest.is_empty() { Ok(()) } else { Err(CodecError::Trailing) }
    }
}

/// Parse: the name to prepare under, the text, and the parameter types that the client fixes.
#[derive(Debug, Clone, Copy)]
pub struct Parse<'a> {
    /// Statement name; empty is the unnamed one.
    pub name: &'a [u8],
    /// The SQL text in the client's encoding.
    pub text: &'a [u8],
    types: Reader<'a>,
}

impl<'a> Parse<'a> {
    /// Decodes a body.
    ///
    /// # Errors
    /// The body is malformed.
    pub fn read(body: &'a [u8]) -> Result<Self, CodecError> {
        let mut reader = Reader::new(body);
        let name = reader.cstr()?;
        let text = reader.cstr()?;
        let count = reader.count()?;
        if reader.rest().len() != count * 4 {
            return Err(CodecError::Truncated);
        }
        Ok(Self { name, text, types: reader })
    }

    /// The parameter types given; 0 leaves a type open.
    pub fn types(&self) -> impl Iterator<Item = u32> + use<'a> {
        let mut reader = self.types;
        std::iter::from_fn(move || reader.oid().ok())
    }
}

/// The front of a Bind: whose parameters follow.
#[derive(Debug, Clone, Copy)]
pub struct BindHead<'a> {
    /// Portal to make; empty is the unnamed one.
    pub portal: &'a [u8],
    /// Statement to take.
    pub statement: &'a [u8],
    /// Parameters: formats, values, result formats.
    pub rest: Reader<'a>,
}

impl<'a> BindHead<'a> {
    /// Decodes the names at the front of a body that may not be whole.
    ///
    /// # Errors
    /// The body is malformed.
    pub fn read(body: &'a [u8]) -> Result<Self, CodecError> {
        let mut rest = Reader::new(body);
        Ok(Self { portal: rest.cstr()?, statement: rest.cstr()?, rest })
    }

    /// Calls `each` with every parameter's index, format (0 text, 1 binary) and value as far as they
    /// are in the buffer, and says how many the message has.
    ///
    /// # Errors
    /// The body is malformed. [`CodecError::Truncated`] also when it is just not all there.
    pub fn params(&self, mut each: impl FnMut(usize, i16, Option<&'a [u8]>)) -> Result<usize, CodecError> {
        let mut reader = self.rest;
        let formats = reader.count()?;
        let codes = reader.bytes(formats * 2)?;
        let count = reader.count()?;
        for index in 0..count {
            // None given: all text. One: it holds for all. Else one each.
            let format = match formats {
                0 => 0,
                1 => format_at(codes, 0),
                _ => format_at(codes, index),
            };
            let value = reader.value()?;
            each(index, format, value);
        }
        Ok(count)
    }
}

fn format_at(codes: &[u8], index: usize) -> i16 {
    codes.get(index * 2..index * 2 + 2).map_or(0, |pair| i16::from_be_bytes([pair[0], pair[1]]))
}

/// A value of a FunctionCall with its format.
pub type Argument<'a> = (i16, Option<&'a [u8]>);

/// The arguments of a FunctionCall.
///
/// # Errors
/// It is cut off, or goes on behind its end.
pub fn function_call(body: &[u8]) -> Result<Vec<Argument<'_>>, CodecError> {
    let mut reader = Reader::new(body);
    reader.oid()?;
    let formats = (0..reader.count()?).map(|_| reader.i16()).collect::<Result<Vec<_>, _>>()?;
    let count = reader.count()?;
    let mut arguments = Vec::new();
    for index in 0..count {
        let format = match formats.as_slice() {
            [] => 0,
            [one] => *one,
            all => all.get(index).copied().ok_or(CodecError::Truncated)?,
        };
        arguments.push((format, reader.value()?));
    }
    reader.i16()?;
    reader.end()?;
    Ok(arguments)
}

/// Describe and Close: `S` for a statement or `P` for a portal, and its name.
///
/// # Errors
/// The body is malformed.
pub fn target(body: &[u8]) -> Result<(u8, &[u8]), CodecError> {
    let mut reader = Reader::new(body);
    let kind = reader.u8()?;
    let name = reader.cstr()?;
    reader.end()?;
    Ok((kind, name))
}

/// Execute: the portal. The row limit stays in the message.
///
/// # Errors
/// The body is malformed.
pub fn execute(body: &[u8]) -> Result<&[u8], CodecError> {
    let mut reader = Reader::new(body);
    let portal = reader.cstr()?;
    reader.i32()?;
    reader.end()?;
    Ok(portal)
}

/// One column of a RowDescription.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field<'a> {
    /// The column's name or alias.
    pub name: &'a [u8],
    /// The table it comes from, 0 if it does not come straight from one.
    pub table: u32,
    /// Its number in that table, 0 likewise.
    pub column: i16,
    /// Data type.
    pub kind: u32,
    /// Type modifier, -1 for none.
    pub typmod: i32,
    /// 0 text, 1 binary.
    pub format: i16,
}

/// The columns of a RowDescription body. An item is an error when the body is malformed there.
///
/// # Errors
/// The body has no valid count.
pub fn fields(body: &[u8]) -> Result<impl Iterator<Item = Result<Field<'_>, CodecError>>, CodecError> {
    let mut reader = Reader::new(body);
    let mut left = reader.count()?;
    Ok(std::iter::from_fn(move || {
        left = left.checked_sub(1)?;
        Some(field(&mut reader))
    }))
}

fn field<'a>(reader: &mut Reader<'a>) -> Result<Field<'a>, CodecError> {
    let name = reader.cstr()?;
    let table = reader.oid()?;
    let column = reader.i16()?;
    let kind = reader.oid()?;
    reader.i16()?; // the type's size
    let typmod = reader.i32()?;
    let format = reader.i16()?;
    Ok(Field { name, table, column, kind, typmod, format })
}

/// The values of a DataRow body. An item is an error when the body is malformed there.
///
/// # Errors
/// The body has no valid count.
pub fn values(body: &[u8]) -> Result<impl Iterator<Item = Result<Option<&[u8]>, CodecError>>, CodecError> {
    let mut reader = Reader::new(body);
    let mut left = reader.count()?;
    Ok(std::iter::from_fn(move || {
        left = left.checked_sub(1)?;
        Some(reader.value())
    }))
}

/// The fields of an ErrorResponse or NoticeResponse body, by code.
pub fn notice_fields(body: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    let mut reader = Reader::new(body);
    std::iter::from_fn(move || match reader.u8() {
        Ok(0) | Err(_) => None,
        Ok(code) => reader.cstr().ok().map(|text| (code, text)),
    })
}

/// Appends a message: `write` fills the body.
pub fn put_message(out: &mut Vec<u8>, tag: u8, write: impl FnOnce(&mut Vec<u8>)) {
    out.put_u8(tag);
    let start = out.len();
    out.put_u32(0);
    write(out);
    let length = u32::try_from(out.len() - start).unwrap_or(u32::MAX);
    if let Some(word) = out.get_mut(start..start + 4) {
        word.copy_from_slice(&length.to_be_bytes());
    }
}

/// Appends a String: up to its first zero byte, and one.
pub fn put_cstr(out: &mut Vec<u8>, text: &[u8]) {
    let end = text.iter().position(|&byte| byte == 0).unwrap_or(text.len());
    out.put_slice(text.get(..end).unwrap_or_default());
    out.put_u8(0);
}

/// Runs every decoder over `bytes`: the entry for fuzzing. None may panic.
pub fn exercise(bytes: &[u8]) {
    let _ = Header::read(bytes);
    if let Ok(parse) = Parse::read(bytes) {
        let _ = parse.types().count();
    }
    if let Ok(bind) = BindHead::read(bytes) {
        let _ = bind.params(|_, _, _| ());
    }
    let _ = target(bytes);
    let _ = function_call(bytes);
    let _ = execute(bytes);
    if let Ok(fields) = fields(bytes) {
        let _ = fields.count();
    }
    if let Ok(values) = values(bytes) {
        let _ = values.count();
    }
    let _ = notice_fields(bytes).count();
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn header_bounds() {
        assert_eq!(Header::read(b"Q\0\0\0"), Ok(None));
        assert_eq!(Header::read(b"Q\0\0\0\x04"), Ok(Some(Header { tag: b'Q', body: 0 })));
        assert_eq!(Header::read(b"Q\0\0\0\x03"), Err(CodecError::Length { tag: b'Q', length: 3 }));
        assert_eq!(Header::read(b"Q\xff\xff\xff\xff"), Err(CodecError::Length { tag: b'Q', length: -1 }));
        assert!(Header::read(b"d\x40\0\0\x04").is_err());
        assert!(Header::read(b"d\x40\0\0\x03").unwrap().is_some());
    }

    #[test]
    fn bind_formats() {
        let mut body = Vec::new();
        body.put_slice(b"p\0s\0");
        body.put_i16(1);
        body.put_i16(1);
        body.put_i16(2);
        body.put_i32(2);
        body.put_slice(b"ab");
        body.put_i32(-1);
        let head = BindHead::read(&body).unwrap();
        let mut seen = Vec::new();
        assert_eq!(head.params(|index, format, value| seen.push((index, format, value))), Ok(2));
        assert_eq!(seen, [(0, 1, Some(&b"ab"[..])), (1, 1, None)]);
        let cut = BindHead::read(&body[..body.len() - 5]).unwrap();
        assert_eq!(cut.params(|_, _, _| ()), Err(CodecError::Truncated));
    }

    proptest! {
        #[test]
        fn hostile_bytes_never_panic(body in prop::collection::vec(any::<u8>(), 0..200)) {
            exercise(&body);
        }

        #[test]
        fn written_messages_read_back(tag in any::<u8>(), text in "[^\0]{0,40}") {
            let mut out = Vec::new();
            put_message(&mut out, tag, |out| put_cstr(out, text.as_bytes()));
            let header = Header::read(&out).unwrap().unwrap();
            prop_assert_eq!(header, Header { tag, body: text.len() + 1 });
            prop_assert_eq!(header.total(), out.len());
            let mut reader = Reader::new(&out[HEADER..]);
            prop_assert_eq!(reader.cstr().unwrap(), text.as_bytes());
            prop_assert_eq!(reader.end(), Ok(()));
        }
    }
}
