//! Secrets within a text that is no SQL itself: connection strings, URLs, JSON, command lines, comments.

use std::ops::Range;

use super::SECRET_WORDS;

/// Finds `password=…`, `PASSWORD ''…''`, `"password": "…"` and `//user:…@host`. The places are counted
/// from `offset` before the text.
pub(super) fn within_text(text: &str, offset: usize, found: &mut Vec<Range<usize>>) {
    let lower = text.to_ascii_lowercase();
    for word in SECRET_WORDS {
        for (at, _) in lower.match_indices(word) {
            let start = at + word.len();
            let rest = text.get(start..).unwrap_or_default();
            // The end of a longer name, and of its quotes.
            let rest = rest.trim_start_matches(|c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-'));
            let unquoted = rest.trim_start_matches(['"', '\'', '\\']).trim_start();
            let (value, assigned) = match unquoted.strip_prefix(['=', ':']) {
                Some(value) => (value.strip_prefix([':', '=', '>']).unwrap_or(value).trim_start(), true),
                None => (rest.trim_start(), false),
            };
            found.extend(
                value_of(text, text.len() - value.len(), assigned).map(|range| shifted(range, offset)),
            );
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
            found.push(shifted(start + colon + 1..start + host, offset));
        }
    }
}

/// The same, and what command lines have besides: `--password x`, `-u user:x`, `Authorization: Bearer x`.
pub(super) fn within_command(text: &str, offset: usize, found: &mut Vec<Range<usize>>) {
    within_text(text, offset, found);
    let words: Vec<Range<usize>> = words(text);
    let of = |range: &Range<usize>| text.get(range.clone()).unwrap_or_default();
    let plain = |range: &Range<usize>| of(range).trim_matches(['\'', '"']).to_ascii_lowercase();
    for (index, word) in words.iter().enumerate() {
        let name = plain(word);
        let Some(next) = words.get(index + 1) else { break };
        let option = name.starts_with('-') && SECRET_WORDS.iter().any(|secret| name.contains(secret));
        if option && !name.contains('=') && !of(next).starts_with('-') {
            found.push(shifted(next.clone(), offset));
        }
        if matches!(name.as_str(), "bearer" | "basic" | "token" | "apikey") {
            let end = text.get(next.clone()).and_then(|word| word.find(['\'', '"']));
            found.push(shifted(next.start..end.map_or(next.end, |end| next.start + end.max(1)), offset));
        }
        if matches!(name.as_str(), "-u" | "--user" | "--proxy-user")
            && let Some(colon) = of(next).find(':')
        {
            found.push(shifted(next.start + colon + 1..next.end, offset));
        }
    }
}

/// Where the words of a command line are, quotes and all.
fn words(text: &str) -> Vec<Range<usize>> {
    let mut words = Vec::new();
    let mut start = None;
    for (at, c) in text.char_indices().chain([(text.len(), ' ')]) {
        match (c.is_whitespace(), start) {
            (true, Some(from)) => {
                words.push(from..at);
                start = None;
            }
            (false, None) => start = Some(at),
            _ => {}
        }
    }
    words
}

/// The value that begins at `start`: what stands in quotes, or, if it is assigned, up to white space. A
/// backslash takes the next character along, as in connection strings.
fn value_of(text: &str, start: usize, assigned: bool) -> Option<Range<usize>> {
    let value = text.get(start..)?;
    let quote = ["\\'", "''", "\\\"", "'", "\""].into_iter().find(|quote| value.starts_with(quote));
    let range = match quote {
        Some(quote) => {
            let start = start + quote.len();
            start..start + quoted(text.get(start..)?, quote)
        }
        None if assigned => start..start + unquoted(value),
        None => return None,
    };
    (!range.is_empty()).then_some(range)
}

/// How many bytes stand before the closing `quote`. All of them if there is none.
fn quoted(text: &str, quote: &str) -> usize {
    let mut at = 0;
    while let Some(rest) = text.get(at..).filter(|rest| !rest.is_empty()) {
        if rest.starts_with(quote) {
            return at;
        }
        let escaped = rest.starts_with('\\');
        at += 1;
        if escaped {
            // The escaped quote is written as the quotes are.
            let rest = text.get(at..).unwrap_or_default();
            at += match rest.strip_prefix(quote) {
                Some(_) => quote.len(),
                None => rest.chars().next().map_or(0, char::len_utf8),
            };
        }
        while !text.is_char_boundary(at) {
            at += 1;
        }
    }
    text.len()
}

fn unquoted(text: &str) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c.is_whitespace() || matches!(c, '&' | ';') => return at,
            _ => {}
        }
    }
    text.len()
}

fn shifted(range: Range<usize>, offset: usize) -> Range<usize> {
    range.start + offset..range.end + offset
}

#[cfg(test)]
mod tests {
    use super::*;

    fn redacted(text: &str, within: fn(&str, usize, &mut Vec<Range<usize>>)) -> String {
        let mut found = Vec::new();
        within(text, 0, &mut found);
        super::super::replace(text, found)
    }

    #[test]
    fn connection_strings() {
        for (text, shown) in [
            ("host=h password=hunter2 user=u", "host=h password=*** user=u"),
            ("password = 'two words' host=h", "password = '***' host=h"),
            ("password='it\\'s' host=h", "password='***' host=h"),
            ("password=''it\\''s two'' host=h", "password=''***'' host=h"),
            ("password=two\\ words host=h", "password=*** host=h"),
            ("postgresql://u:p%20w@h/d?sslpassword=x&y=1", "postgresql://u:***@h/d?sslpassword=***&y=1"),
            (
                "{\"user\": \"u\", \"db_password\": \"hunter2\"}",
                "{\"user\": \"u\", \"db_password\": \"***\"}",
            ),
            ("AWS_SECRET_ACCESS_KEY=abc/d+e x", "AWS_SECRET_ACCESS_KEY=*** x"),
            ("host=h user=password", "host=h user=password"),
            ("the password is long", "the password is long"),
        ] {
            assert_eq!(redacted(text, within_text), shown);
        }
    }

    #[test]
    fn command_lines() {
        for (text, shown) in [
            (
                "curl -H \"Authorization: Bearer abc.def\" http://h",
                "curl -H \"Authorization: Bearer ***\" http://h",
            ),
            ("curl -u bob:hunter2 http://h", "curl -u bob:*** http://h"),
            ("x --password hunter2 --verbose", "x --password *** --verbose"),
            ("x --api-token=hunter2 y", "x --api-token=*** y"),
            ("x --password --verbose", "x --password --verbose"),
            ("curl -H 'X-Auth-Token: hunter2' http://h", "curl -H 'X-Auth-Token: *** http://h"),
            ("PGPASSWORD=hunter2 psql", "PGPASSWORD=*** psql"),
            ("gzip > /backup/x.gz", "gzip > /backup/x.gz"),
        ] {
            assert_eq!(redacted(text, within_command), shown);
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_taken(text in "(?s).{0,30}(password|token|://)?['\"=:\\\\ ]{0,4}.{0,30}") {
            redacted(&text, within_text);
            redacted(&text, within_command);
        }
    }
}
