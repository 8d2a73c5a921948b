//! Words of texts and of questions.
//!
//! SQLite's full-text search takes texts apart by itself (`unicode61`, without diacritics, `_` in words). For
//! PostgreSQL the same is done here, so that a question has the same answers on both.

use unicode_normalization::UnicodeNormalization as _;

use super::page::Sql;

/// Bytes of a word that PostgreSQL's index looks at. What is longer is compared as a whole.
const LONGEST: usize = 1000;
/// Words of a question that are looked for; those beyond are left out.
const MOST_WORDS: usize = 32;

/// A part of a question: words that must stand one after another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Phrase {
    /// The words, as they were written.
    text: String,
    /// The last one is the beginning of a word.
    beginning: bool,
}

/// Takes a question apart: all of the words must stand in the text, those in double quotes one after another,
/// and one that ends in `*` is the beginning of a word. Empty when nothing is left to look for.
pub(super) fn phrases(text: &str) -> Vec<Phrase> {
    let mut found = Vec::new();
    for (at, part) in text.split('"').enumerate() {
        let phrases: Vec<&str> = if at % 2 == 1 { vec![part] } else { part.split_whitespace().collect() };
        for phrase in phrases {
            let (phrase, beginning) = match phrase.strip_suffix('*') {
                Some(phrase) => (phrase, true),
                None => (phrase, false),
            };
            // NUL ends a text in SQLite.
            let text = phrase.replace('\0', " ");
            if text.contains(is_of_word) && found.len() < MOST_WORDS {
                found.push(Phrase { text, beginning });
            }
        }
    }
    found
}

/// Whether a character can stand in a word.
fn is_of_word(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

/// A mark that is put onto the letter before it.
fn is_mark(character: char) -> bool {
    matches!(character, '\u{300}'..='\u{36f}')
}

/// A letter as it is compared: small, and a Latin one without marks.
fn fold(character: char, to: &mut String) {
    if character.is_ascii() {
        to.push(character.to_ascii_lowercase());
        return;
    }
    let mut parts = std::iter::once(character).nfd();
    let base = parts.next().unwrap_or(character);
    if base.is_ascii_alphabetic() && parts.all(is_mark) {
        to.push(base.to_ascii_lowercase());
        return;
    }
    let mut small = character.to_lowercase();
    match (small.next(), small.next()) {
        (Some(small), None) => to.push(small),
        _ => to.push(character),
    }
}

/// The words of a text, one blank between each two.
pub(super) fn words(text: &str) -> String {
    let mut words = String::with_capacity(text.len());
    let mut inside = false;
    for character in text.chars() {
        if is_mark(character) {
            // Part of a word, and not compared.
            continue;
        }
        if is_of_word(character) {
            if !inside && !words.is_empty() {
                words.push(' ');
            }
            inside = true;
            fold(character, &mut words);
        } else {
            inside = false;
        }
    }
    // PostgreSQL's lexemes have an end.
    if words.split(' ').any(|word| word.len() > LONGEST) {
        let cut: Vec<&str> = words.split(' ').map(clip).collect();
        return cut.join(" ");
    }
    words
}

fn clip(word: &str) -> &str {
    let mut end = word.len().min(LONGEST);
    while !word.is_char_boundary(end) {
        end -= 1;
    }
    word.get(..end).unwrap_or_default()
}

/// The question in the words of SQLite's FTS5; `None` when there is nothing to look for.
pub(super) fn sqlite(text: &str) -> Option<String> {
    let mut question = String::new();
    for phrase in phrases(text) {
        question.push_str(&format!("\"{}\"{} ", phrase.text, if phrase.beginning { "*" } else { "" }));
    }
    (!question.is_empty()).then_some(question)
}

/// The question asks for words by their beginning.
pub(super) fn has_beginning(text: &str) -> bool {
    phrases(text).iter().any(|phrase| phrase.beginning)
}

/// Puts the question as a condition on PostgreSQL's `commands`; `false` when there is nothing to look for.
pub(super) fn postgres(text: &str, sql: &mut Sql) -> bool {
    let mut query = Vec::new();
    let mut rows = Vec::new();
    for phrase in phrases(text) {
        let text = words(&phrase.text);
        let count = text.split(' ').count();
        for (at, word) in text.split(' ').enumerate().filter(|(_, word)| !word.is_empty()) {
            let beginning = if phrase.beginning && at + 1 == count { ":*" } else { "" };
            // Letters, digits and `_`: nothing in it needs to be quoted.
            query.push(format!("'{word}'{beginning}"));
        }
        if count > 1 {
            rows.push(if phrase.beginning { format!(" {text}") } else { format!(" {text} ") });
        }
    }
    if query.is_empty() {
        return false;
    }
    sql.and("array_to_tsvector(string_to_array(search, ' ')) @@ CAST(").text(&query.join(" & "));
    sql.push(" AS tsquery)");
    for row in &rows {
        // One after another: the index knows words and not their order.
        sql.and("strpos(' ' || search || ' ', ").text(row).push(") > 0");
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_are_words_and_never_operators() {
        assert_eq!(sqlite("select FROM").as_deref(), Some("\"select\" \"FROM\" "));
        assert_eq!(
            sqlite("drop NOT x OR (a:b) ^y").as_deref(),
            Some("\"drop\" \"NOT\" \"x\" \"OR\" \"(a:b)\" \"^y\" ")
        );
        assert_eq!(sqlite("\"delete from\" pub*").as_deref(), Some("\"delete from\" \"pub\"* "));
        assert_eq!(sqlite("a\"b"), Some("\"a\" \"b\" ".into()));
        assert_eq!(sqlite(" * - \" \" \0"), None);
    }

    #[test]
    fn texts_become_words() {
        assert_eq!(words("SELECT a.b_c, 'É́TÉ' FROM \"T1\"--x"), "select a b_c ete from t1 x");
        assert_eq!(words("  \u{301} !? "), "");
        assert_eq!(words(&"x".repeat(5000)).len(), LONGEST);
        assert_eq!(words("Ünï你好 Ёж"), "uni你好 ёж");
    }
}
