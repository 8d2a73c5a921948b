//! Secrets that stand in statements, and how they stay out of recordings.

#[cfg(test)]
mod tests;
mod text;

use std::borrow::Cow;
use std::ops::Range;
use std::sync::OnceLock;

use aho_corasick::AhoCorasick;
use pg_query::protobuf::{ScanToken, Token};

use self::text::{within_command, within_text};
use super::literal::{self, Runs, Value, Within, content, is_comment, is_string, slice};
use super::parser;

/// What stands in a secret's place.
const REDACTED: &str = "***";

/// Words after which, in a name or within a text, a secret comes.
const SECRET_WORDS: &[&str] =
    &["password", "passwd", "passphrase", "passfile", "secret", "token", "api_key", "apikey", "access_key"];

/// Dollar-quoted texts within one another deeper than this go out whole.
const MAX_NESTED: usize = 8;

/// Functions whose constants are secrets: passwords, keys, credentials.
const SECRET_FUNCTIONS: &[&str] = &[
    "crypt",
    "encrypt",
    "encrypt_iv",
    "decrypt",
    "decrypt_iv",
    "pgp_sym_encrypt",
    "pgp_sym_encrypt_bytea",
    "pgp_sym_decrypt",
    "pgp_sym_decrypt_bytea",
    "pgp_pub_decrypt",
    "pgp_pub_decrypt_bytea",
    "create_aws_credentials",
];

/// Where such functions are, when their schema is named.
const EXTENSION_SCHEMAS: &[&str] = &[
    "pg_catalog",
    "public",
    "extensions",
    "extension",
    "ext",
    "crypto",
    "pgcrypto",
    "dblink",
    "aws_commons",
    "aws_s3",
];

/// Where the secrets of a text are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Secrets {
    ranges: Box<[Range<usize>]>,
    /// Numbers of the parameters that are given where a secret stands, from 1.
    params: Box<[usize]>,
    /// The text could not be looked through: all of it counts.
    all: bool,
}

/// `text` with every secret in it replaced, the rest exact: see [`Secrets::of`].
pub fn redact_secrets(text: &str) -> Cow<'_, str> {
    Secrets::of(text).redact(text)
}

/// A list of settings as in the start-up message's `options`, or another text that is no SQL, with every
/// secret in it replaced.
pub fn redact_text(text: &str) -> Cow<'_, str> {
    let mut found = Vec::new();
    within_command(text, 0, &mut found);
    if found.is_empty() { Cow::Borrowed(text) } else { Cow::Owned(replace(text, found)) }
}

impl Secrets {
    /// Finds them.
    ///
    /// A secret is what follows `PASSWORD` (CREATE or ALTER ROLE, USER, GROUP, in quotes or not; options
    /// of servers and user mappings) or another name that speaks of one (`SET app.token = …`,
    /// `set_config('app.token', …)`, `password => …`); the arguments of functions that take keys
    /// (`crypt`, `pgp_sym_encrypt`); within constants and comments the password of a connection string,
    /// URL, JSON object or command line (dblink, subscriptions, `primary_conninfo`, COPY … PROGRAM); and
    /// such statements in dollar quotes and in strings that make SQL. A text that is no SQL is searched
    /// for the same words.
    pub fn of(text: &str) -> Self {
        if !may_hold_a_secret(text) {
            return Self::default();
        }
        let owned = text.to_owned();
        match parser::run(text.len(), move || secrets(&owned, 0)) {
            Ok(Found { ranges, mut params }) => {
                params.sort_unstable();
                params.dedup();
                Self { ranges: ranges.into(), params: params.into(), all: false }
            }
            // Without a parser nothing tells the secrets from the rest.
            Err(_) => Self { all: true, ..Self::default() },
        }
    }

    /// `text`, of which these are, with each replaced.
    pub fn redact<'t>(&self, text: &'t str) -> Cow<'t, str> {
        match (self.all, &*self.ranges) {
            (true, _) => Cow::Borrowed(REDACTED),
            (false, []) => Cow::Borrowed(text),
            (false, ranges) => Cow::Owned(replace(text, ranges.to_vec())),
        }
    }

    /// The parameter with this number, from 1, is a secret.
    pub fn has_param(&self, number: usize) -> bool {
        self.all || self.params.contains(&number)
    }

    /// The secrets themselves, as they stand in `text`: what answers it may repeat them.
    pub fn words<'t>(&self, text: &'t str) -> impl Iterator<Item = &'t str> {
        let whole = self.all.then_some(text);
        let parts: Vec<&str> = self.ranges.iter().filter_map(|range| text.get(range.clone())).collect();
        whole.into_iter().chain(parts).filter(|word| !word.is_empty())
    }
}

/// `message`, which may repeat `words`, without them.
pub fn redact_repeated<'m>(words: &[String], message: &'m str) -> Cow<'m, str> {
    let mut shown = Cow::Borrowed(message);
    for word in words {
        for quotes in if is_short(word) { &["'", "\""][..] } else { &[""][..] } {
            let repeated = format!("{quotes}{word}{quotes}");
            if shown.contains(&repeated) {
                shown = Cow::Owned(shown.replace(&repeated, &format!("{quotes}{REDACTED}{quotes}")));
            }
        }
    }
    shown
}

/// A value repeats one of `words`.
pub fn repeats(words: &[String], value: &[u8]) -> bool {
    words.iter().map(String::as_bytes).any(|word| {
        value == word
            || !word.is_empty()
                && std::str::from_utf8(word).is_ok_and(|word| !is_short(word))
                && value.windows(word.len()).any(|part| part == word)
    })
}

/// It is in every message; what repeats it, does so in quotes.
fn is_short(word: &str) -> bool {
    word.chars().count() < 3
}

fn may_hold_a_secret(text: &str) -> bool {
    static WORDS: OnceLock<Option<AhoCorasick>> = OnceLock::new();
    let words = WORDS.get_or_init(|| {
        let words = SECRET_WORDS.iter().copied().chain([
            "://",
            "connection",
            "dblink",
            "u&\"",
            "crypt",
            "aws_credentials",
            "program",
            "set_config",
        ]);
        AhoCorasick::builder().ascii_case_insensitive(true).build(words).ok()
    });
    words.as_ref().is_none_or(|words| words.is_match(text))
}

/// Puts [`REDACTED`] in the place of each range.
fn replace(text: &str, mut ranges: Vec<Range<usize>>) -> String {
    ranges.sort_by_key(|range| range.start);
    ranges.dedup_by(|next, kept| {
        let overlaps = next.start <= kept.end;
        if overlaps {
            kept.end = kept.end.max(next.end);
        }
        overlaps
    });
    let mut redacted = String::with_capacity(text.len());
    let mut at = 0;
    for range in ranges {
        redacted.push_str(text.get(at..range.start).unwrap_or_default());
        redacted.push_str(REDACTED);
        at = range.end;
    }
    redacted.push_str(text.get(at..).unwrap_or_default());
    redacted
}

/// What was found.
#[derive(Debug, Default)]
struct Found {
    ranges: Vec<Range<usize>>,
    params: Vec<usize>,
}

/// Where the secrets of `text` are.
fn secrets(text: &str, nested: usize) -> Found {
    let Ok(all) = parser::scan(text) else {
        return Found { ranges: without_tokens(text), params: Vec::new() };
    };
    let mut found = Found::default();
    for token in all.iter().filter(|token| is_comment(token)) {
        if let Some((range, content)) = slice(text, token) {
            within_text(content, range.start, &mut found.ranges);
        }
    }
    let tokens: Vec<ScanToken> = all.into_iter().filter(|token| !is_comment(token)).collect();
    let within = Within::new(nested > 0, &tokens);
    let mut place = Place { text, tokens: &tokens, statement: 0, within, calls: Vec::new(), awaited: false };
    for index in 0..tokens.len() {
        place.enter(index);
        place.look(index, nested, &mut found);
    }
    found
}

/// Where in a text we are.
struct Place<'t> {
    text: &'t str,
    tokens: &'t [ScanToken],
    /// The first token of the statement.
    statement: usize,
    within: Within,
    /// The parentheses that are open.
    calls: Vec<Call>,
    /// A constant that makes SQL has ended with a word after which a secret comes.
    awaited: bool,
}

/// An open parenthesis.
struct Call {
    /// The function that it belongs to, in lower case; empty if it belongs to none.
    name: String,
    /// The token after it.
    first: usize,
    /// Commas since.
    argument: usize,
    /// The token that its current argument begins with.
    argument_at: usize,
}

impl Place<'_> {
    fn kind(&self, index: usize) -> Option<Token> {
        self.tokens.get(index).map(ScanToken::token)
    }

    fn before(&self, index: usize, back: usize) -> Option<usize> {
        index.checked_sub(back).filter(|index| *index >= self.statement)
    }

    fn written(&self, index: usize) -> String {
        let token = self.tokens.get(index).and_then(|token| slice(self.text, token));
        token.map_or_else(String::new, |(_, text)| text.trim_matches('"').to_ascii_lowercase())
    }

    /// Keeps track of statements and parentheses.
    fn enter(&mut self, index: usize) {
        if let Some(token) = self.tokens.get(index) {
            self.within.pass(index, token);
        }
        match self.kind(index) {
            Some(Token::Ascii59) => {
                self.statement = index + 1;
                self.calls.clear();
                self.awaited = false;
            }
            Some(Token::Ascii40) => {
                let name = self.called(index).unwrap_or_default();
                self.calls.push(Call { name, first: index + 1, argument: 0, argument_at: index + 1 });
            }
            Some(Token::Ascii41) => drop(self.calls.pop()),
            Some(Token::Ascii44) => {
                if let Some(call) = self.calls.last_mut() {
                    call.argument += 1;
                    call.argument_at = index + 1;
                }
            }
            _ => {}
        }
    }

    /// The function whose arguments open at `index`, in lower case. One in a schema where anybody may have put it is
    /// not what its name says.
    fn called(&self, index: usize) -> Option<String> {
        let name = self.before(index, 1)?;
        if self.before(name, 1).and_then(|dot| self.kind(dot)) == Some(Token::Ascii46) {
            let schema = self.before(name, 2).map(|schema| self.written(schema)).unwrap_or_default();
            if !EXTENSION_SCHEMAS.contains(&&*schema) {
                return None;
            }
        }
        Some(self.written(name))
    }

    /// Looks at one token.
    fn look(&mut self, index: usize, nested: usize, found: &mut Found) {
        let Some(token) = self.tokens.get(index) else { return };
        match token.token() {
            Token::Sconst | Token::Usconst => self.constant(index, nested, found),
            Token::Param => {
                if self.is_given_to_a_secret(index) {
                    let number = self.written(index).trim_start_matches('$').parse::<usize>();
                    found.params.extend(number.ok());
                }
            }
            Token::Ascii59 | Token::Ascii40 | Token::Ascii41 | Token::Ascii44 => {}
            // A word or number, where a name is set or where the quotes were forgotten.
            _ => {
                if let Some((range, _)) = slice(self.text, token)
                    && (self.is_set(index) || self.is_bare_password(index))
                {
                    found.ranges.push(range);
                } else if let Some((range, name)) = slice(self.text, token)
                    && let Some(open) = name.find('"')
                {
                    // Not its quotes: what follows a name is never hidden with it.
                    let inner = name.get(open + 1..name.len().saturating_sub(1)).unwrap_or_default();
                    within_text(inner, range.start + open + 1, &mut found.ranges);
                }
            }
        }
    }

    /// What is given here belongs to a name, or to a function, that speaks of a secret.
    fn is_given_to_a_secret(&self, index: usize) -> bool {
        // Right before it, or before `=`, `:=`, `=>` or TO.
        let name = match self.before(index, 1).and_then(|before| self.kind(before)) {
            Some(Token::Ascii61 | Token::ColonEquals | Token::EqualsGreater | Token::To) => {
                self.before(index, 2)
            }
            _ => self.before(index, 1),
        };
        let name = name.and_then(|name| self.tokens.get(name));
        name.is_some_and(|name| is_secret_name(self.text, name))
            || self.is_set(index)
            || self.calls.iter().any(|call| self.takes_secrets(call))
    }

    /// The current argument of an open call is a secret.
    fn takes_secrets(&self, call: &Call) -> bool {
        if SECRET_FUNCTIONS.contains(&&*call.name) {
            return true;
        }
        // What is said of arguments after the first holds by what the first one is.
        let told = || match self.lone_constant(call) {
            Some((text, escapes)) => escapes || speaks_of_a_secret(text),
            // A name or text that is made as it runs.
            None => true,
        };
        match &*call.name {
            "set_config" => call.argument == 1 && told(),
            "format" => {
                call.argument > 0
                    && self.lone_constant(call).is_some_and(|(text, _)| speaks_of_a_secret(text))
            }
            _ => false,
        }
    }

    /// The first argument of a call, if it is one constant, and whether that has escapes.
    fn lone_constant(&self, call: &Call) -> Option<(&str, bool)> {
        let ends = matches!(self.kind(call.first + 1), Some(Token::Ascii44 | Token::Ascii41));
        let token = self.tokens.get(call.first).filter(|_| ends)?;
        if !matches!(token.token(), Token::Sconst | Token::Usconst) {
            return None;
        }
        let (_, literal) = slice(self.text, token)?;
        let escapes = !literal.starts_with(['\'', '$']) && literal.contains('\\');
        Some((literal, escapes))
    }

    /// A value in `SET name = …`, `ALTER ROLE … SET name TO …`, where the name speaks of a secret.
    fn is_set(&self, index: usize) -> bool {
        // Behind these words no other clause can follow the values.
        let (only, sets) = match (self.kind(self.statement), self.kind(self.statement + 1)) {
            (Some(Token::Set), _) => (true, true),
            (
                Some(Token::Alter),
                Some(Token::Role | Token::User | Token::GroupP | Token::Database | Token::SystemP),
            ) => (true, true),
            (Some(Token::Alter), Some(Token::Function | Token::Procedure | Token::Routine)) => (false, true),
            _ => (false, false),
        };
        if !sets || !self.calls.is_empty() {
            return false;
        }
        let sign = |at: &usize| matches!(self.kind(*at), Some(Token::Ascii61 | Token::To));
        let Some(sign) = (self.statement..index).rev().find(sign) else { return false };
        // Of `RENAME TO`, `OWNER TO` and the like no name is set.
        let set = (self.statement..sign).rev().take(6).any(|at| self.kind(at) == Some(Token::Set));
        let name = self.before(sign, 1).and_then(|name| self.tokens.get(name));
        let listed = || {
            (index - sign) % 2 == 1
                && (sign + 2..index).step_by(2).all(|at| self.kind(at) == Some(Token::Ascii44))
        };
        set && (only || listed()) && name.is_some_and(|name| is_secret_name(self.text, name))
    }

    /// It stands behind PASSWORD in CREATE or ALTER ROLE, without the quotes that belong there.
    fn is_bare_password(&self, index: usize) -> bool {
        let role = matches!(self.kind(self.statement), Some(Token::Create | Token::Alter))
            && matches!(self.kind(self.statement + 1), Some(Token::Role | Token::User | Token::GroupP))
            && self.kind(self.statement + 2) != Some(Token::Mapping);
        if !role || self.kind(index) == Some(Token::NullP) {
            return false;
        }
        let end = |at: usize| self.tokens.get(at).map(|token| token.end);
        let start = |at: usize| self.tokens.get(at).map(|token| token.start);
        let mut at = index;
        // All that hangs together is one word of whoever typed it.
        while let Some(before) = self.before(at, 1) {
            if self.kind(before) == Some(Token::Password) {
                // Behind a password in quotes come other options.
                let quoted = self.tokens.get(at).is_some_and(is_string);
                return !quoted || self.tokens.get(index).is_some_and(is_string);
            }
            if end(before) != start(at) && self.kind(before) != Some(Token::Ascii61) {
                return false;
            }
            at = before;
        }
        false
    }

    /// Looks at a constant.
    fn constant(&mut self, index: usize, nested: usize, found: &mut Found) {
        let Some(token) = self.tokens.get(index) else { return };
        let Some((range, literal)) = slice(self.text, token) else { return };
        let content = content(literal, range.start);
        let awaited = std::mem::take(&mut self.awaited);
        if awaited || self.is_given_to_a_secret(index) || self.is_bare_password(index) {
            found.ranges.push(content);
            return;
        }
        let Some(inner) = self.text.get(content.clone()) else { return };
        self.awaited = ends_before_a_secret(inner);
        let value = || Value::of(literal, literal::escape(self.text, self.tokens, index));
        let known = self.within.runs(self.text, self.tokens, index);
        if matches!(known, Runs::Sql | Runs::Piece) {
            let value = value();
            if known == Runs::Sql || value.as_ref().is_some_and(|value| known.is_sql(&value.text)) {
                self.run(range.start, content, value.as_ref(), nested, found);
                return;
            }
        }
        let mut own = Vec::new();
        if literal.starts_with('$') {
            if nested >= MAX_NESTED {
                found.ranges.push(content);
                return;
            }
            let within = secrets(inner, nested + 1).ranges;
            own.extend(within.into_iter().map(|part| part.start + content.start..part.end + content.start));
        }
        let connects =
            self.before(index, 1).is_some_and(|before| self.kind(before) == Some(Token::Connection));
        let dblink = self.calls.iter().find(|call| call.name.starts_with("dblink"));
        let escapes = !literal.starts_with(['\'', '$']) && literal.contains('\\');
        if escapes && (connects || dblink.is_some()) {
            // Escapes could hide the words that are looked for.
            found.ranges.push(content);
            return;
        }
        if let Some(call) = dblink
            && (call.argument == 0 || call.name.starts_with("dblink_connect"))
            && self.is_composed(call, index)
        {
            // A connection string in pieces.
            found.ranges.push(content);
            return;
        }
        if self.within.is_command(self.text, self.tokens, index) {
            within_command(inner, content.start, &mut own);
        } else {
            within_text(inner, content.start, &mut own);
        }
        // What a text that is SQL runs is not hidden with the secret's surroundings.
        match value() {
            Some(value) if !own.is_empty() && known == Runs::Unknown && known.is_sql(&value.text) => {
                self.run(range.start, content, Some(&value), nested, found);
            }
            _ => found.ranges.extend(own),
        }
    }

    /// Looks through a constant that is run: it begins at `start`, and stands for `value`.
    fn run(
        &self,
        start: usize,
        content: Range<usize>,
        value: Option<&Value>,
        nested: usize,
        found: &mut Found,
    ) {
        let Some(value) = value.filter(|_| nested < MAX_NESTED) else {
            found.ranges.push(content);
            return;
        };
        let within = secrets(&value.text, nested + 1).ranges;
        found.ranges.extend(within.iter().map(|part| {
            let part = value.written(part);
            part.start + start..part.end + start
        }));
    }

    /// The argument that the constant at `index` is in is more than that constant.
    fn is_composed(&self, call: &Call, index: usize) -> bool {
        index != call.argument_at
            || !matches!(self.kind(index + 1), Some(Token::Ascii44 | Token::Ascii41) | None)
    }
}

/// It holds one of the words after which a secret comes.
fn speaks_of_a_secret(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    SECRET_WORDS.iter().any(|word| text.contains(word))
}

/// It ends with such a word, so that what it is joined to is the secret.
fn ends_before_a_secret(text: &str) -> bool {
    let end = text.trim_end_matches(|c: char| c.is_whitespace() || matches!(c, '=' | '\'' | '"' | ':'));
    let end = end.to_ascii_lowercase();
    let more = end.len() < text.len();
    more && SECRET_WORDS.iter().any(|word| end.ends_with(word))
}

fn is_secret_name(text: &str, token: &ScanToken) -> bool {
    // A name in Unicode escapes could be any.
    token.token() == Token::Uident
        || !matches!(token.token(), Token::Sconst | Token::Usconst)
            && slice(text, token).is_some_and(|(_, name)| speaks_of_a_secret(name))
}

/// For a text that is no SQL: the rest of whatever quote opens after one of the words, and what a
/// connection string holds.
fn without_tokens(text: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    within_command(text, 0, &mut found);
    let lower = text.to_ascii_lowercase();
    for word in SECRET_WORDS {
        for (at, _) in lower.match_indices(word) {
            let after = at + word.len();
            let Some(quote) = text.get(after..).and_then(|rest| rest.find(['\'', '$'])) else { continue };
            let start = after + quote + 1;
            let mut end = text.len();
            let mut escaped = false;
            for (index, c) in text.get(start..).unwrap_or_default().char_indices() {
                let at = start + index;
                match c {
                    '\\' => escaped = !escaped,
                    '\'' if !escaped && !text.get(at + 1..).is_some_and(|rest| rest.starts_with('\'')) => {
                        // The second of two quotes is part of the text, like the first.
                        let doubled = text.get(start..at).is_some_and(|before| {
                            (before.len() - before.trim_end_matches('\'').len()) % 2 == 1
                        });
                        if !doubled {
                            end = at;
                            break;
                        }
                    }
                    _ => escaped = false,
                }
            }
            found.push(start..end);
        }
    }
    found
}
