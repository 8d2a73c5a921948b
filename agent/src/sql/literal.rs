//! Constants: where their content stands, what value it has, and whether that is run.

use std::ops::Range;

use pg_query::protobuf::{ScanToken, Token};

use super::parser::{self, Grammar};

/// The text of a token, and where it stands.
pub(super) fn slice<'t>(text: &'t str, token: &ScanToken) -> Option<(Range<usize>, &'t str)> {
    let range = usize::try_from(token.start).ok()?..usize::try_from(token.end).ok()?;
    text.get(range.clone()).map(|slice| (range, slice))
}

/// A string, in any way of writing it.
pub(super) fn is_string(token: &ScanToken) -> bool {
    matches!(token.token(), Token::Sconst | Token::Usconst)
}

/// A string, number or row of bits.
pub(super) fn is_constant(token: &ScanToken) -> bool {
    is_string(token) || matches!(token.token(), Token::Iconst | Token::Fconst | Token::Bconst | Token::Xconst)
}

pub(super) fn is_comment(token: &ScanToken) -> bool {
    matches!(token.token(), Token::SqlComment | Token::CComment)
}

/// Where a constant's content is, without its quotes.
pub(super) fn content(literal: &str, start: usize) -> Range<usize> {
    let (open, close) = if literal.starts_with('$') {
        let tag = literal.get(1..).and_then(|rest| rest.find('$')).map_or(1, |end| end + 2);
        (tag, tag)
    } else {
        (literal.find('\'').map_or(0, |quote| quote + 1), 1)
    };
    let end = start + literal.len();
    let open = (start + open).min(end);
    open..end.saturating_sub(close).max(open)
}

/// What a string constant stands for, and where each byte of that is written.
#[derive(Debug)]
pub(super) struct Value {
    pub(super) text: String,
    /// For each byte of `text`, and for its end, where in the literal it is written.
    at: Vec<usize>,
}

impl Value {
    /// The value of a literal; `escape` is that of its UESCAPE, `None` where that is not known. `None` where it has
    /// none, or one that is no text.
    pub(super) fn of(literal: &str, escape: Option<char>) -> Option<Self> {
        let inner = content(literal, 0);
        if literal.starts_with('$') {
            let text = literal.get(inner.clone())?.to_owned();
            return Some(Self { text, at: inner.clone().chain([inner.end]).collect() });
        }
        let escape = match literal.as_bytes().first()? {
            b'e' | b'E' => Escape::Backslash,
            b'u' | b'U' => Escape::Unicode(escape?),
            _ => Escape::None,
        };
        let mut reading =
            Reading { literal, here: inner.start, end: inner.end, bytes: Vec::new(), at: Vec::new() };
        while reading.here < reading.end {
            reading.one(escape)?;
        }
        // The server takes none.
        if reading.bytes.contains(&0) {
            return None;
        }
        reading.at.push(inner.end);
        Some(Self { text: String::from_utf8(reading.bytes).ok()?, at: reading.at })
    }

    /// Where in the literal a part of the value is written.
    pub(super) fn written(&self, part: &Range<usize>) -> Range<usize> {
        let at = |index: usize| self.at.get(index).or(self.at.last()).copied().unwrap_or_default();
        at(part.start)..at(part.end)
    }
}

#[derive(Debug, Clone, Copy)]
enum Escape {
    None,
    Backslash,
    Unicode(char),
}

struct Reading<'t> {
    literal: &'t str,
    here: usize,
    end: usize,
    bytes: Vec<u8>,
    at: Vec<usize>,
}

impl Reading<'_> {
    fn rest(&self) -> &str {
        self.literal.get(self.here..self.end).unwrap_or_default()
    }

    fn put(&mut self, c: char, length: usize) {
        self.put_bytes(c.encode_utf8(&mut [0; 4]).as_bytes(), length);
    }

    fn put_bytes(&mut self, bytes: &[u8], length: usize) {
        for byte in bytes {
            self.bytes.push(*byte);
            self.at.push(self.here);
        }
        self.here += length;
    }

    fn one(&mut self, escape: Escape) -> Option<()> {
        let rest = self.rest();
        let c = rest.chars().next()?;
        match (c, escape) {
            ('\'', _) if rest.starts_with("''") => self.put('\'', 2),
            // It goes on on another line.
            ('\'', _) => {
                let mut gap = 1;
                loop {
                    let after = rest.get(gap..)?;
                    if after.starts_with('\'') {
                        break;
                    }
                    gap += match after.strip_prefix("--") {
                        Some(comment) => 2 + comment.find(['\n', '\r'])?,
                        None => after
                            .chars()
                            .next()
                            .filter(|c| c.is_ascii_whitespace() || *c == '\u{b}')?
                            .len_utf8(),
                    };
                }
                self.here += gap + 1;
            }
            ('\\', Escape::Backslash) => self.backslash()?,
            (c, Escape::Unicode(sign)) if c == sign => self.unicode(sign)?,
            (c, _) => self.put(c, c.len_utf8()),
        }
        Some(())
    }

    fn backslash(&mut self) -> Option<()> {
        let after = self.rest().get(1..)?;
        let number = |skip: usize, most: usize, radix: u32| {
            let digits = after.get(skip..).unwrap_or_default();
            let count = digits.chars().take(most).take_while(|digit| digit.is_digit(radix)).count();
            let value = digits.get(..count).and_then(|digits| u32::from_str_radix(digits, radix).ok());
            value.map(|value| (value, 1 + skip + count))
        };
        let c = after.chars().next()?;
        match c {
            'b' => self.put('\u{8}', 2),
            'f' => self.put('\u{c}', 2),
            'n' => self.put('\n', 2),
            'r' => self.put('\r', 2),
            't' => self.put('\t', 2),
            // Before PostgreSQL 16 it is the letter.
            'v' => self.put('\u{b}', 2),
            'u' | 'U' => {
                let (value, length) = number(1, if c == 'u' { 4 } else { 8 }, 16)?;
                if let Some(c) = char::from_u32(value) {
                    self.put(c, length);
                    return Some(());
                }
                // The other half of it.
                let next = after.get(length - 1..)?.strip_prefix('\\')?;
                let digits = match next.chars().next()? {
                    'u' => next.get(1..5)?,
                    'U' => next.get(1..9)?,
                    _ => return None,
                };
                let (c, width) = (pair(value, digits)?, digits.len() + 2);
                self.put(c, length + width);
            }
            '0'..='7' => {
                let (value, length) = number(0, 3, 8)?;
                self.put_bytes(&[u8::try_from(value & 0xff).ok()?], length);
            }
            'x' if number(1, 2, 16).is_some() => {
                let (value, length) = number(1, 2, 16)?;
                self.put_bytes(&[u8::try_from(value).ok()?], length);
            }
            c => self.put(c, 1 + c.len_utf8()),
        }
        Some(())
    }

    fn unicode(&mut self, sign: char) -> Option<()> {
        let width = sign.len_utf8();
        let after = self.rest().get(width..)?;
        if after.starts_with(sign) {
            self.put(sign, 2 * width);
            return Some(());
        }
        let (digits, rest) = unicode_digits(after)?;
        let value = u32::from_str_radix(digits, 16).ok()?;
        let length = self.rest().len() - rest.len();
        if let Some(c) = char::from_u32(value) {
            self.put(c, length);
            return Some(());
        }
        // The other half of it.
        let (digits, after) = unicode_digits(rest.strip_prefix(sign)?)?;
        let (c, length) = (pair(value, digits)?, self.rest().len() - after.len());
        self.put(c, length);
        Some(())
    }
}

/// The digits behind the sign of a `U&'…'`, and what follows them.
fn unicode_digits(after: &str) -> Option<(&str, &str)> {
    let (after, count) = match after.strip_prefix('+') {
        Some(after) => (after, 6),
        None => (after, 4),
    };
    let digits = after.get(..count).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()))?;
    Some((digits, after.get(count..)?))
}

/// What two halves of UTF-16 stand for: the server takes each written by itself.
fn pair(high: u32, low: &str) -> Option<char> {
    let halves = [u16::try_from(high).ok()?, u16::from_str_radix(low, 16).ok()?];
    let mut read = char::decode_utf16(halves);
    let c = read.next()?.ok()?;
    read.next().is_none().then_some(c)
}

/// The escape sign of a `U&'…'` whose token is at `index`; `None` where what is said of it is none that the server
/// takes. It is a string's value, in any way of writing it: `UESCAPE '!'`, `UESCAPE $$!$$`, `UESCAPE E'\x21'`.
pub(super) fn escape(text: &str, tokens: &[ScanToken], index: usize) -> Option<char> {
    if tokens.get(index + 1).is_none_or(|token| token.token() != Token::Uescape) {
        return Some('\\');
    }
    let named = tokens.get(index + 2).filter(|token| token.token() == Token::Sconst)?;
    let value = Value::of(slice(text, named)?.1, Some('\\'))?.text;
    let mut signs = value.chars();
    let sign = signs.next().filter(|_| signs.next().is_none())?;
    let is_none = !sign.is_ascii()
        || sign.is_ascii_hexdigit()
        || matches!(sign, '+' | '\'' | '"' | '\u{b}')
        || sign.is_ascii_whitespace();
    (!is_none).then_some(sign)
}

/// What it stands for is written with escapes.
pub(super) fn has_escapes(literal: &str) -> bool {
    match literal.as_bytes().first() {
        Some(b'u' | b'U') => true,
        Some(b'e' | b'E') => literal.contains('\\'),
        _ => false,
    }
}

/// What is known of a string being run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Runs {
    /// It stands where texts are run.
    Sql,
    /// It does, and is in a language that is not read.
    Foreign,
    /// It may be a part of a text that is put together and run, or a value for it: EXECUTE stands in the same body.
    Piece,
    /// It does not: what it holds says whether it is SQL.
    Unknown,
}

/// Where in a text we are, as far as it says whether a string is run.
#[derive(Debug, Default)]
pub(super) struct Within {
    /// The first token of the statement.
    statement: usize,
    /// The text is run itself, and puts texts together that it runs: EXECUTE stands in it. Which of its strings go
    /// into them is not followed.
    executes: bool,
    creates: bool,
    /// It makes a function.
    function: bool,
    /// Its LANGUAGE is not one that is read here, once that was looked at.
    foreign: Option<bool>,
}

impl Runs {
    /// A string of which this is known, and that stands for `value`, is looked into as SQL.
    pub(super) fn is_sql(self, value: &str) -> bool {
        match self {
            Self::Sql => true,
            Self::Piece => may_be_sql(value),
            Self::Foreign => false,
            Self::Unknown => is_sql(value),
        }
    }
}

impl Within {
    /// At the beginning of a text.
    pub(super) fn new(nested: bool, tokens: &[ScanToken]) -> Self {
        let executes = nested && tokens.iter().any(|token| token.token() == Token::Execute);
        Self { executes, ..Self::default() }
    }

    /// Passes the token at `index`.
    pub(super) fn pass(&mut self, index: usize, token: &ScanToken) {
        match token.token() {
            Token::Ascii59 => {
                *self = Self { statement: index + 1, executes: self.executes, ..Self::default() };
            }
            Token::Create => self.creates = true,
            Token::Function | Token::Procedure => self.function = self.creates,
            _ => {}
        }
    }

    /// Whether the string at `index` is run: the body of DO and of functions, COPY's program, commands in settings, and
    /// within a body in which EXECUTE stands any, whatever it is given to.
    pub(super) fn runs(&mut self, text: &str, tokens: &[ScanToken], index: usize) -> Runs {
        let back = |steps: usize| {
            let at = index.checked_sub(steps).filter(|at| *at >= self.statement);
            at.and_then(|at| tokens.get(at)).map(ScanToken::token)
        };
        if self.is_command(text, tokens, index) {
            return Runs::Foreign;
        }
        let body = back(1) == Some(Token::Do)
            || back(2) == Some(Token::Language) && back(3) == Some(Token::Do)
            || back(1) == Some(Token::As) && self.function;
        if body {
            let statement = self.statement;
            let foreign = *self.foreign.get_or_insert_with(|| is_foreign(text, tokens, statement));
            return if foreign { Runs::Foreign } else { Runs::Sql };
        }
        if self.executes { Runs::Piece } else { Runs::Unknown }
    }

    /// A shell runs the string at `index`: COPY's program, or the value of a setting such as `archive_command`.
    pub(super) fn is_command(&self, text: &str, tokens: &[ScanToken], index: usize) -> bool {
        let back = |steps: usize| {
            let at = index.checked_sub(steps).filter(|at| *at >= self.statement);
            at.and_then(|at| tokens.get(at))
        };
        let begins = tokens.get(self.statement).map(ScanToken::token);
        match back(1).map(ScanToken::token) {
            Some(Token::Program) => true,
            Some(Token::Ascii61 | Token::To) if matches!(begins, Some(Token::Alter | Token::Set)) => {
                // A name in Unicode escapes could be any.
                back(2).is_some_and(|name| name.token() == Token::Uident || names_a_command(text, name))
                    || back(3).is_some_and(|sign| sign.token() == Token::Uescape)
            }
            _ => false,
        }
    }
}

fn names_a_command(text: &str, token: &ScanToken) -> bool {
    slice(text, token).is_some_and(|(_, name)| {
        let name = name.trim_matches('"').to_ascii_lowercase();
        name.ends_with("_command")
    })
}

/// The statement's LANGUAGE is not one that is read here.
fn is_foreign(text: &str, tokens: &[ScanToken], statement: usize) -> bool {
    let rest = tokens.get(statement..).unwrap_or_default();
    let rest = rest.split(|token| token.token() == Token::Ascii59).next().unwrap_or_default();
    rest.windows(2).any(|pair| {
        let [word, name] = pair else { return false };
        let name = slice(text, name).map_or("", |(_, name)| name).trim_matches(['\'', '"']);
        word.token() == Token::Language
            && !["sql", "plpgsql"].iter().any(|read| name.eq_ignore_ascii_case(read))
    })
}

/// Words that a statement begins with.
const BEGIN: &[&str] = &[
    "abort",
    "alter",
    "analyse",
    "analyze",
    "begin",
    "call",
    "checkpoint",
    "close",
    "cluster",
    "comment",
    "commit",
    "copy",
    "create",
    "deallocate",
    "declare",
    "delete",
    "discard",
    "do",
    "drop",
    "end",
    "execute",
    "explain",
    "fetch",
    "grant",
    "import",
    "insert",
    "listen",
    "load",
    "lock",
    "merge",
    "move",
    "notify",
    "prepare",
    "reassign",
    "refresh",
    "reindex",
    "release",
    "reset",
    "revoke",
    "rollback",
    "savepoint",
    "security",
    "select",
    "set",
    "show",
    "start",
    "table",
    "truncate",
    "unlisten",
    "update",
    "vacuum",
    "values",
    "with",
];

/// It begins as a statement does; most values do not.
fn may_be_sql(text: &str) -> bool {
    let text = text.trim_start_matches(|c: char| c.is_ascii_whitespace() || matches!(c, ';' | '(' | '\u{b}'));
    let end = text.bytes().position(|byte| !byte.is_ascii_alphabetic()).unwrap_or(text.len());
    let word = text.get(..end).unwrap_or_default();
    text.starts_with("--")
        || text.starts_with("/*")
        || text.starts_with("<<")
        || BEGIN.iter().any(|begin| word.eq_ignore_ascii_case(begin))
}

/// A text holds statements that PostgreSQL's grammar takes, or a block of PL/pgSQL.
pub(crate) fn is_sql(text: &str) -> bool {
    if !may_be_sql(text) {
        return false;
    }
    let trimmed = text.trim().trim_end_matches(';').trim_end();
    let begins = |word: &str| trimmed.get(..word.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(word));
    let end = trimmed.len().checked_sub(3).and_then(|at| trimmed.get(at..));
    if (begins("begin") || begins("declare") || begins("<<"))
        && end.is_some_and(|end| end.eq_ignore_ascii_case("end"))
    {
        return true;
    }
    let owned = text.to_owned();
    parser::run(text.len(), move || parser::parse(&owned, Grammar::Sql).is_ok_and(|found| !found.is_empty()))
        .unwrap_or(true)
}

/// The tokens of a text, comments included; `None` where it cannot be split.
pub(super) fn scan(text: &str) -> Option<Vec<ScanToken>> {
    if text.len() > parser::MAX_TEXT {
        return None;
    }
    let owned = text.to_owned();
    parser::run(text.len(), move || parser::scan(&owned)).ok()?.ok()
}
