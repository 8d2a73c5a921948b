//! Secrets that stand in statements, and how they stay out of recordings.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::OnceLock;

use aho_corasick::AhoCorasick;
use pg_query::protobuf::{ScanToken, Token};

use super::parser;

/// What stands in a secret's place.
const REDACTED: &str = "***";

/// Words after which, in a name or within a text, a secret comes.
const SECRET_WORDS: &[&str] =
    &["password", "passwd", "passphrase", "passfile", "secret", "token", "api_key", "apikey", "access_key"];

/// Dollar-quoted texts within one another deeper than this go out whole.
const MAX_NESTED: usize = 8;

/// `text` with every secret in it replaced, the rest exact.
///
/// Replaced are the constants after `PASSWORD` (CREATE or ALTER ROLE, USER, GROUP; options of servers
/// and user mappings), after anything else of a name that speaks of a secret (`SET password = '…'`),
/// and within constants the password of a connection string or URL (dblink, subscriptions,
/// `primary_conninfo`), and such statements in dollar quotes. A text that is no SQL is searched for the
/// same words.
pub fn redact_secrets(text: &str) -> Cow<'_, str> {
    if !may_hold_a_secret(text) {
        return Cow::Borrowed(text);
    }
    let owned = text.to_owned();
    let found = parser::run(text.len(), move || secrets(&owned, 0));
    match found {
        Ok(ranges) if ranges.is_empty() => Cow::Borrowed(text),
        Ok(ranges) => Cow::Owned(replace(text, ranges)),
        // Without a parser nothing tells the secrets from the rest.
        Err(_) => Cow::Borrowed(REDACTED),
    }
}

fn may_hold_a_secret(text: &str) -> bool {
    static WORDS: OnceLock<Option<AhoCorasick>> = OnceLock::new();
    let words = WORDS.get_or_init(|| {
        let words = SECRET_WORDS.iter().copied().chain(["://", "connection", "dblink", "u&\""]);
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

/// Where the secrets of `text` are.
fn secrets(text: &str, nested: usize) -> Vec<Range<usize>> {
    match parser::scan(text) {
        Ok(tokens) => {
            let tokens: Vec<ScanToken> = tokens
                .into_iter()
                .filter(|token| !matches!(token.token(), Token::SqlComment | Token::CComment))
                .collect();
            let mut found = Vec::new();
            for index in 0..tokens.len() {
                constant(text, &tokens, index, nested, &mut found);
            }
            found
        }
        Err(_) => without_tokens(text),
    }
}

/// Looks at the token at `index`, where it is a constant.
fn constant(text: &str, tokens: &[ScanToken], index: usize, nested: usize, found: &mut Vec<Range<usize>>) {
    let Some(token) = tokens.get(index) else { return };
    if !matches!(token.token(), Token::Sconst | Token::Usconst) {
        return;
    }
    let Some((range, literal)) = slice(text, token) else { return };
    let content = content(literal, range.start);
    // The name that the constant is given to: right before it, or before `=`, `:=`, `=>` or TO.
    let before = |back: usize| index.checked_sub(back).and_then(|index| tokens.get(index));
    let name = match before(1).map(ScanToken::token) {
        Some(Token::Ascii61 | Token::ColonEquals | Token::EqualsGreater | Token::To) => before(2),
        _ => before(1),
    };
    if name.is_some_and(|name| is_secret_name(text, name)) {
        found.push(content);
        return;
    }
    let Some(inner) = text.get(content.clone()) else { return };
    if literal.starts_with('$') {
        if nested >= MAX_NESTED {
            found.push(content);
            return;
        }
        let within = secrets(inner, nested + 1);
        found.extend(within.into_iter().map(|range| range.start + content.start..range.end + content.start));
    }
    let escapes = !literal.starts_with(['\'', '$']) && literal.contains('\\');
    let connects = before(1).is_some_and(|token| token.token() == Token::Connection)
        || tokens.get(..index).unwrap_or_default().iter().rev().take(4).any(|token| {
            slice(text, token).is_some_and(|(_, name)| name.to_ascii_lowercase().contains("dblink"))
        });
    if escapes && connects {
        // Escapes could hide the words that are looked for.
        found.push(content);
        return;
    }
    within_text(inner, content.start, found);
}

fn slice<'t>(text: &'t str, token: &ScanToken) -> Option<(Range<usize>, &'t str)> {
    let range = usize::try_from(token.start).ok()?..usize::try_from(token.end).ok()?;
    text.get(range.clone()).map(|slice| (range, slice))
}

/// Where a constant's content is, without its quotes.
fn content(literal: &str, start: usize) -> Range<usize> {
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

fn is_secret_name(text: &str, token: &ScanToken) -> bool {
    // A name in Unicode escapes could be any.
    token.token() == Token::Uident
        || !matches!(token.token(), Token::Sconst | Token::Usconst)
            && slice(text, token).is_some_and(|(_, name)| {
                let name = name.to_ascii_lowercase();
                SECRET_WORDS.iter().any(|word| name.contains(word))
            })
}

/// Secrets within a text: `password=…`, `PASSWORD ''…''`, `//user:…@host`.
fn within_text(text: &str, offset: usize, found: &mut Vec<Range<usize>>) {
    let lower = text.to_ascii_lowercase();
    for word in SECRET_WORDS {
        for (at, _) in lower.match_indices(word) {
            let after = at + word.len();
            let rest = text.get(after..).unwrap_or_default();
            let trimmed = rest.trim_start();
            let (value, assigned) = match trimmed.strip_prefix('=') {
                Some(value) => (value.trim_start(), true),
                None => (trimmed, false),
            };
            let start = text.len() - value.len();
            let quote = ["\\'", "''", "'", "\""].into_iter().find(|quote| value.starts_with(quote));
            let range = match quote {
                Some(quote) => {
                    let start = start + quote.len();
                    let end = text.get(start..).and_then(|rest| rest.find(quote));
                    start..end.map_or(text.len(), |end| start + end)
                }
                None if assigned => {
                    let length = value.find(|c: char| c.is_whitespace() || c == '&').unwrap_or(value.len());
                    start..start + length
                }
                None => continue,
            };
            if !range.is_empty() {
                found.push(range.start + offset..range.end + offset);
            }
        }
    }
    for (at, _) in text.match_indices("://") {
        let start = at + 3;
        let authority = text.get(start..).unwrap_or_default();
        let authority = authority
            .find(|c: char| c == '/' || c == '?' || c.is_whitespace())
            .and_then(|end| authority.get(..end))
            .unwrap_or(authority);
        if let (Some(colon), Some(host)) = (authority.find(':'), authority.rfind('@'))
            && colon + 1 < host
        {
            found.push(start + offset + colon + 1..start + offset + host);
        }
    }
}

/// For a text that is no SQL: the rest of whatever quote opens after one of the words, and what a
/// connection string holds.
fn without_tokens(text: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    within_text(text, 0, &mut found);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_replaced_and_the_rest_is_exact() {
        for (text, redacted) in [
            ("ALTER ROLE bob PASSWORD 'hunter2'", "ALTER ROLE bob PASSWORD '***'"),
            (
                "create user x with encrypted  password\n'a''b' login;",
                "create user x with encrypted  password\n'***' login;",
            ),
            ("ALTER USER x PASSWORD /* c */ E'a\\'b'", "ALTER USER x PASSWORD /* c */ E'***'"),
            ("ALTER USER x PASSWORD $a$se$cret$a$", "ALTER USER x PASSWORD $a$***$a$"),
            (
                "alter role x password U&'\\0061' valid until 'now'",
                "alter role x password U&'***' valid until 'now'",
            ),
            (
                "CREATE USER MAPPING FOR a SERVER s OPTIONS (user 'u', password 'p')",
                "CREATE USER MAPPING FOR a SERVER s OPTIONS (user 'u', password '***')",
            ),
            (
                "ALTER SERVER s OPTIONS (SET \"sslpassword\" 'p', ADD U&\"p\\0061ssword\" 'q')",
                "ALTER SERVER s OPTIONS (SET \"sslpassword\" '***', ADD U&\"p\\0061ssword\" '***')",
            ),
            (
                "CREATE SUBSCRIPTION s CONNECTION 'host=h password=p dbname=d' PUBLICATION p",
                "CREATE SUBSCRIPTION s CONNECTION 'host=h password=*** dbname=d' PUBLICATION p",
            ),
            (
                "SELECT * FROM dblink('host=h PASSWORD = ''a b'' user=u', 'select 1') AS t(a int)",
                "SELECT * FROM dblink('host=h PASSWORD = ''***'' user=u', 'select 1') AS t(a int)",
            ),
            ("select dblink_connect(E'host=h p\\141ssword=p')", "select dblink_connect(E'***')"),
            (
                "select dblink_connect('postgresql://u:p%20w@h:5432/d')",
                "select dblink_connect('postgresql://u:***@h:5432/d')",
            ),
            (
                "DO $$BEGIN EXECUTE 'ALTER ROLE x PASSWORD ''pw'''; ALTER ROLE y PASSWORD 'q'; END$$",
                "DO $$BEGIN EXECUTE 'ALTER ROLE x PASSWORD ''***'''; ALTER ROLE y PASSWORD '***'; END$$",
            ),
            (
                "update users set password = 'x' where name = 'y'",
                "update users set password = '***' where name = 'y'",
            ),
            (
                "ALTER SYSTEM SET ssl_passphrase_command TO 'echo x'",
                "ALTER SYSTEM SET ssl_passphrase_command TO '***'",
            ),
            (
                "select 'password', name from t -- password 'x'",
                "select 'password', name from t -- password 'x'",
            ),
            ("select 1", "select 1"),
            // No SQL.
            ("ALTER ROLE x PASSWORD 'never closed", "ALTER ROLE x PASSWORD '***"),
            ("ALTER ROLE x PASSWORD 'a\\'b' \"", "ALTER ROLE x PASSWORD '***' \""),
            ("ALTER ROLE x PASSWORD 'a''b' \"", "ALTER ROLE x PASSWORD '***' \""),
        ] {
            assert_eq!(redact_secrets(text), redacted);
        }
    }

    #[test]
    fn a_text_without_secrets_is_not_copied() {
        assert!(matches!(redact_secrets("select 'x' from t"), Cow::Borrowed(_)));
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_taken(text in "(?s).{0,60}(password|://)?.{0,3}['$=@:]{0,3}.{0,60}") {
            redact_secrets(&text);
        }

        #[test]
        fn no_secret_is_left(secret in "[a-z]{12}", tail in "(?s).{0,40}", verb in "(?i)(alter role x|create user y)") {
            let text = format!("{verb} PASSWORD '{secret}' {tail}");
            proptest::prop_assert!(!redact_secrets(&text).contains(&secret));
        }
    }
}
