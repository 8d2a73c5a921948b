//! Whether the server reads a text as the analyser does.
//!
//! Two settings change how PostgreSQL splits a text into tokens: `standard_conforming_strings` (whether
//! a backslash escapes a quote) and `client_encoding` (in Shift JIS and its like a backslash or quote can
//! be the second half of a character). While either is not known to be harmless, texts that would be read
//! otherwise are judged as `unparsed`; a text of ASCII without a backslash is read in one way always. The
//! server reports both by ParameterStatus, before the ReadyForQuery of what changed them.

use std::borrow::Cow;

use crate::protocol::postgres::startup::Startup;

/// What the server has said of the two settings.
#[derive(Debug)]
pub(super) struct Lexing {
    conforming: bool,
    encoding: Encoding,
    /// A setting was harmful at some time: a rollback may make it so again before the server says so.
    tainted: bool,
    /// Something that may change a setting is under way: any statement that can run code of which the
    /// text says nothing (functions, triggers, views).
    in_doubt: bool,
    /// A statement whose own text says that it changes a setting, or does not say what it runs, is under
    /// way.
    changing: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Encoding {
    Utf8,
    /// One byte a character, ASCII in its lower half.
    SingleByte,
    /// Bytes below 0x80 can be part of a character, or it is not known.
    Other,
}

fn encoding(name: &[u8]) -> Encoding {
    // The server compares names with all but letters and digits taken out.
    let name: Vec<u8> =
        name.iter().filter(|byte| byte.is_ascii_alphanumeric()).map(u8::to_ascii_lowercase).collect();
    match name.as_slice() {
        b"utf8" | b"unicode" => Encoding::Utf8,
        b"sqlascii" | b"koi8" | b"koi8r" | b"koi8u" | b"alt" | b"tcvn" | b"tcvn5712" | b"vscii" | b"abc" => {
            Encoding::SingleByte
        }
        name if [b"latin".as_slice(), b"win", b"windows", b"iso8859"]
            .iter()
            .any(|family| name.starts_with(family)) =>
        {
            match name {
                // Korean and Chinese and Japanese code pages of the same family of names.
                b"win932" | b"win936" | b"win949" | b"win950" | b"windows932" | b"windows936"
                | b"windows949" | b"windows950" => Encoding::Other,
                _ => Encoding::SingleByte,
            }
        }
        // EUC encodings use bytes above 0x7f only, in every byte of a character.
        b"euccn" | b"eucjp" | b"euckr" | b"euctw" | b"eucjis2004" => Encoding::SingleByte,
        _ => Encoding::Other,
    }
}

impl Lexing {
    /// As the start-up message asks for; the server reports what came of it before the first command.
    pub(super) fn at_start(startup: &Startup<'_>) -> Self {
        let mut lexing = Self {
            conforming: true,
            encoding: Encoding::Utf8,
            tainted: false,
            in_doubt: false,
            changing: false,
        };
        for (name, value) in startup.options() {
            lexing.reported(name.as_bytes(), value.as_bytes());
        }
        for (name, value) in startup.parameters() {
            lexing.reported(&name.to_ascii_lowercase(), value);
        }
        lexing
    }

    /// A ParameterStatus, or a setting at start-up.
    pub(super) fn reported(&mut self, name: &[u8], value: &[u8]) {
        match name {
            b"standard_conforming_strings" => self.conforming = value.eq_ignore_ascii_case(b"on"),
            b"client_encoding" => self.encoding = encoding(value),
            _ => return,
        }
        self.tainted |= !self.safe();
    }

    /// The client speaks UTF-8, as the server reports it.
    pub(super) fn is_utf8(&self) -> bool {
        self.encoding == Encoding::Utf8 && !self.changing
    }

    fn safe(&self) -> bool {
        self.conforming && self.encoding != Encoding::Other
    }

    /// The server may send text in which ASCII bytes are parts of letters.
    pub(super) fn splits_letters(&self) -> bool {
        self.encoding == Encoding::Other || self.changing || self.tainted
    }

    /// A statement that may change a setting has been sent.
    pub(super) fn doubt(&mut self) {
        self.in_doubt = true;
    }

    /// One has been sent that does so, as far as its text tells.
    pub(super) fn change(&mut self) {
        self.in_doubt = true;
        self.changing = true;
    }

    /// The server has answered all: what it reported is what holds.
    pub(super) fn settled(&mut self) {
        self.in_doubt = false;
        self.changing = false;
    }

    /// The text as the server will read it; `busy` says that it may not have reported all yet.
    ///
    /// # Errors
    /// Why that is not known.
    pub(super) fn read<'a>(&self, text: &'a [u8], busy: bool) -> Result<Cow<'a, str>, &'static str> {
        if text.is_ascii()
            && !text.contains(&b'\\')
            && let Ok(text) = std::str::from_utf8(text)
        {
            return Ok(Cow::Borrowed(text));
        }
        if !self.conforming {
            return Err("standard_conforming_strings is off: string literals are read in another way");
        }
        if self.encoding == Encoding::Other {
            return Err("client_encoding is one in which quotes cannot be told from letters");
        }
        if busy && (self.in_doubt || self.tainted) {
            return Err("sent before the server confirmed that what came before it changed neither \
                 standard_conforming_strings nor client_encoding");
        }
        match std::str::from_utf8(text) {
            Ok(text) => Ok(Cow::Borrowed(text)),
            Err(_) if self.encoding == Encoding::SingleByte => {
                Ok(Cow::Owned(text.iter().map(|&byte| char::from(byte)).collect()))
            }
            Err(_) => Err("it is not valid UTF-8"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain() -> Lexing {
        Lexing {
            conforming: true,
            encoding: Encoding::Utf8,
            tainted: false,
            in_doubt: false,
            changing: false,
        }
    }

    #[test]
    fn settings_that_change_the_reading() {
        let mut lexing = plain();
        assert!(lexing.read(br"select '\'", true).is_ok());
        lexing.reported(b"standard_conforming_strings", b"off");
        assert!(lexing.read(br"select '\'", false).is_err());
        lexing.reported(b"standard_conforming_strings", b"on");
        assert!(lexing.read(br"select '\'", false).is_ok());
        // A ROLLBACK in the same pipeline could have brought the old value back.
        assert!(lexing.read(br"select '\'", true).is_err());
    }

    #[test]
    fn doubt_lasts_until_all_is_answered() {
        let mut lexing = plain();
        lexing.doubt();
        assert!(lexing.read(br"select '\'", true).is_err());
        lexing.settled();
        assert!(lexing.read(br"select '\'", true).is_ok());
    }

    #[test]
    fn a_text_that_reads_in_one_way_is_read() {
        let mut lexing = plain();
        lexing.doubt();
        lexing.reported(b"standard_conforming_strings", b"off");
        lexing.reported(b"client_encoding", b"SJIS");
        assert_eq!(lexing.read(b"select 'it''s'", true).unwrap(), "select 'it''s'");
        assert!(lexing.read("select 'caf\u{e9}'".as_bytes(), true).is_err());
    }

    #[test]
    fn encodings() {
        for (name, expected) in [
            (&b"UTF8"[..], Encoding::Utf8),
            (b"unicode", Encoding::Utf8),
            (b"SQL_ASCII", Encoding::SingleByte),
            (b"latin1", Encoding::SingleByte),
            (b"WIN1252", Encoding::SingleByte),
            (b"ISO_8859_5", Encoding::SingleByte),
            (b"EUC_JP", Encoding::SingleByte),
            (b"SJIS", Encoding::Other),
            (b"BIG5", Encoding::Other),
            (b"GBK", Encoding::Other),
            (b"GB18030", Encoding::Other),
            (b"UHC", Encoding::Other),
            (b"JOHAB", Encoding::Other),
            (b"WIN949", Encoding::Other),
            (b"WIN932", Encoding::Other),
            (b"Windows_936", Encoding::Other),
            (b"'sjis'", Encoding::Other),
        ] {
            assert_eq!(encoding(name), expected, "{}", String::from_utf8_lossy(name));
        }
        let mut lexing = plain();
        assert!(lexing.read(b"select '\xe9'", false).is_err());
        lexing.reported(b"client_encoding", b"LATIN1");
        assert_eq!(lexing.read(b"select '\xe9'", false).unwrap(), "select '\u{e9}'");
    }
}
