//! From a YAML tree to types, noting every problem on the way.

use std::fmt::Write as _;

use super::problem::{Position, Problem};
use super::yaml::{Node, Value, shortened};

/// What decoding notes on its way through one file.
#[derive(Debug)]
pub(crate) struct Decoder<'a> {
    /// The file's name, for messages.
    pub(crate) file: &'a str,
    pub(crate) problems: Vec<Problem>,
}

impl<'a> Decoder<'a> {
    pub(crate) fn new(file: &'a str) -> Self {
        Self { file, problems: Vec::new() }
    }

    /// Notes an error.
    pub(crate) fn error(&mut self, at: Position, message: impl Into<String>) {
        self.problems.push(Problem::error(self.file, at, message));
    }

    /// Notes an error with what to write instead.
    pub(crate) fn error_help(&mut self, at: Position, message: impl Into<String>, help: impl Into<String>) {
        self.problems.push(Problem::error(self.file, at, message).help(help));
    }
}

/// A type that a YAML value is decoded to. On a problem it is noted and `None` is given.
pub(crate) trait Decode: Sized {
    /// Decodes a value.
    fn decode(node: &Node, decoder: &mut Decoder<'_>) -> Option<Self>;

    /// What stands for a key that is not there; by default a problem.
    fn absent(key: &str, mapping: Position, decoder: &mut Decoder<'_>) -> Option<Self> {
        decoder.error_help(mapping, format!("`{key}` is missing"), format!("write `{key}: …` here"));
        None
    }
}

/// A value and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct At<T> {
    pub(crate) value: T,
    pub(crate) at: Position,
}

impl<T: Decode> Decode for At<T> {
    fn decode(node: &Node, decoder: &mut Decoder<'_>) -> Option<Self> {
        T::decode(node, decoder).map(|value| Self { value, at: node.at })
    }
}

impl<T: Decode> Decode for Option<T> {
    /// A value that cannot be decoded counts as not given, so that the rest is looked at as well.
    fn decode(node: &Node, decoder: &mut Decoder<'_>) -> Option<Self> {
        Some(T::decode(node, decoder))
    }

    fn absent(_: &str, _: Position, _: &mut Decoder<'_>) -> Option<Self> {
        Some(None)
    }
}

/// A list of what stands under a key; a key that is not there is an empty list.
impl<T: Decode> Decode for Vec<T> {
    fn decode(node: &Node, decoder: &mut Decoder<'_>) -> Option<Self> {
        match &node.value {
            Value::List(items) => Some(items.iter().filter_map(|item| T::decode(item, decoder)).collect()),
            // `rules:` with all rules commented out.
            Value::Null => Some(Vec::new()),
            _ => {
                decoder.error_help(
                    node.at,
                    format!("expected a list, found {}", node.describe()),
                    "begin each entry with `- `",
                );
                None
            }
        }
    }

    fn absent(_: &str, _: Position, _: &mut Decoder<'_>) -> Option<Self> {
        Some(Vec::new())
    }
}

/// One value or a list of them: any of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OneOrMany<T>(pub(crate) Vec<T>);

impl<T: Decode> Decode for OneOrMany<T> {
    fn decode(node: &Node, decoder: &mut Decoder<'_>) -> Option<Self> {
        let items = match &node.value {
            Value::List(items) => items.iter().filter_map(|item| T::decode(item, decoder)).collect(),
            _ => vec![T::decode(node, decoder)?],
        };
        if matches!(&node.value, Value::List(list) if list.is_empty()) {
            decoder.error_help(node.at, "this list is empty", "name at least one, or leave the key out");
            return None;
        }
        Some(Self(items))
    }
}

impl Decode for bool {
    fn decode(node: &Node, decoder: &mut Decoder<'_>) -> Option<Self> {
        if let Value::Bool(value) = node.value {
            return Some(value);
        }
        decoder.error_help(
            node.at,
            format!("expected true or false, found {}", node.describe()),
            "write `true` or `false`",
        );
        None
    }
}

impl Decode for String {
    fn decode(node: &Node, decoder: &mut Decoder<'_>) -> Option<Self> {
        match &node.value {
            Value::String(value) => Some(value.clone()),
            Value::Int(_) | Value::Bool(_) | Value::Float(_) => {
                decoder.error_help(
                    node.at,
                    format!("expected text, found {}", node.describe()),
                    "put it in quotes",
                );
                None
            }
            _ => {
                decoder.error(node.at, format!("expected text, found {}", node.describe()));
                None
            }
        }
    }
}

impl Decode for u16 {
    fn decode(node: &Node, decoder: &mut Decoder<'_>) -> Option<Self> {
        if let Value::Int(value) = node.value
            && let Ok(value) = Self::try_from(value)
        {
            return Some(value);
        }
        decoder.error(node.at, format!("expected a number from 0 to 65535, found {}", node.describe()));
        None
    }
}

/// A type whose values are words from a fixed list.
pub(crate) trait Word: Copy + Sized + 'static {
    /// What the words are, in the singular with its article: `a kind of statement`.
    const WHAT: &'static str;

    /// Every word with its value.
    fn words() -> Vec<(String, Self)>;

    /// A hint for a word that is known, but elsewhere.
    fn hint(_word: &str) -> Option<String> {
        None
    }
}

/// Every value of a plain enum with the word that serde writes for it.
pub(crate) fn serde_words<T: serde::Serialize + Copy>(all: &[T]) -> Vec<(String, T)> {
    all.iter()
        .filter_map(|value| match serde_json::to_value(value) {
            Ok(serde_json::Value::String(word)) => Some((word, *value)),
            _ => None,
        })
        .collect()
}

/// Decodes a word of `T`'s list.
pub(crate) fn decode_word<T: Word>(node: &Node, decoder: &mut Decoder<'_>) -> Option<T> {
    let words = T::words();
    let given = node.word().unwrap_or_default();
    if let Some((_, value)) = words.iter().find(|(word, _)| *word == given) {
        return Some(*value);
    }
    let message = format!("{} is not {}", node.describe(), T::WHAT);
    let help =
        T::hint(&given).unwrap_or_else(|| suggestion(&given, words.iter().map(|(word, _)| word.as_str())));
    decoder.error_help(node.at, message, help);
    None
}

macro_rules! words {
    ($($type:ty: $what:literal $([$($value:ident),* $(,)?])? $(= $words:expr)? $(, hint $hint:expr)?;)*) => {
        $(
            impl $crate::policy::decode::Word for $type {
                const WHAT: &'static str = $what;

                fn words() -> Vec<(String, Self)> {
                    $($crate::policy::decode::serde_words(&[$(Self::$value),*]))?
                    $($words)?
                }

                $(fn hint(word: &str) -> Option<String> {
                    $hint(word)
                })?
            }

            impl $crate::policy::decode::Decode for $type {
                fn decode(
                    node: &$crate::policy::yaml::Node,
                    decoder: &mut $crate::policy::decode::Decoder<'_>,
                ) -> Option<Self> {
                    $crate::policy::decode::decode_word(node, decoder)
                }
            }
        )*
    };
}
pub(crate) use words;

/// Declares a mapping: its keys are the fields' names. Gives it [`Decode`] and a JSON Schema, both
/// with what the fields' documentation says.
macro_rules! record {
    ($(#[$attribute:meta])* $visibility:vis struct $name:ident {
        $($(#[$field_attribute:meta])* $field:ident: $type:ty,)*
    }) => {
        $(#[$attribute])*
        #[derive(Debug, Clone, schemars::JsonSchema)]
        #[schemars(deny_unknown_fields)]
        $visibility struct $name {
            $($(#[$field_attribute])* pub(crate) $field: $type,)*
        }

        impl $name {
            /// The keys that it can have.
            pub(crate) const KEYS: &[&str] = &[$($crate::policy::decode::key(stringify!($field))),*];
        }

        impl $crate::policy::decode::Decode for $name {
            fn decode(
                node: &$crate::policy::yaml::Node,
                decoder: &mut $crate::policy::decode::Decoder<'_>,
            ) -> Option<Self> {
                let map = $crate::policy::decode::mapping(node, Self::KEYS, decoder)?;
                $(let $field = $crate::policy::decode::field(
                    map,
                    $crate::policy::decode::key(stringify!($field)),
                    node.at,
                    decoder,
                );)*
                Some(Self { $($field: $field?,)* })
            }
        }
    };
}
pub(crate) use record;

/// A field's name as a key: without the mark of a raw identifier.
pub(crate) const fn key(name: &str) -> &str {
    match name.as_bytes() {
        [b'r', b'#', ..] => name.split_at(2).1,
        _ => name,
    }
}

/// The entries of a mapping, after noting the keys that are none of `keys`.
pub(crate) fn mapping<'n>(
    node: &'n Node,
    keys: &[&str],
    decoder: &mut Decoder<'_>,
) -> Option<&'n [(Node, Node)]> {
    let Value::Map(map) = &node.value else {
        decoder.error_help(
            node.at,
            format!("expected a mapping, found {}", node.describe()),
            format!("write keys with values; {}", list("the keys are", keys.iter().copied())),
        );
        return None;
    };
    for (key, _) in map {
        let Some(word) = key.word() else {
            decoder.error(key.at, format!("expected a key, found {}", key.describe()));
            continue;
        };
        if !keys.contains(&&*word) {
            let message = format!("`{}` is no key that can stand here", shortened(&word));
            decoder.error_help(key.at, message, suggestion(&word, keys.iter().copied()));
        }
    }
    Some(map)
}

/// Decodes what stands under `key`.
pub(crate) fn field<T: Decode>(
    map: &[(Node, Node)],
    key: &str,
    mapping: Position,
    decoder: &mut Decoder<'_>,
) -> Option<T> {
    match map.iter().find(|(name, _)| name.word().as_deref() == Some(key)) {
        Some((_, value)) => T::decode(value, decoder),
        None => T::absent(key, mapping, decoder),
    }
}

/// `did you mean …?` where one of the words is near, else the words that are allowed.
pub(crate) fn suggestion<'w>(given: &str, words: impl Iterator<Item = &'w str> + Clone) -> String {
    match nearest(given, words.clone()) {
        Some(word) => format!("did you mean `{word}`?"),
        None => list("write one of", words),
    }
}

/// The words in a sentence; of many the first ones.
fn list<'w>(lead: &str, words: impl Iterator<Item = &'w str>) -> String {
    const SHOWN: usize = 24;
    let mut text = lead.to_owned();
    let mut more = 0usize;
    for (i, word) in words.enumerate() {
        if i >= SHOWN {
            more += 1;
            continue;
        }
        let _ = write!(text, "{}{word}", if i == 0 { " " } else { ", " });
    }
    if more > 0 {
        let _ = write!(text, " … ({more} more: see docs/policy.md)");
    }
    text
}

/// The word that a slip of the keyboard may have turned into `given`, if there is one.
pub(crate) fn nearest<'w>(given: &str, words: impl Iterator<Item = &'w str> + Clone) -> Option<&'w str> {
    if given.is_empty() || given.len() > 64 {
        return None;
    }
    let normal = given.to_lowercase().replace(['-', ' '], "_");
    let slip = words
        .clone()
        .map(|word| (distance(&normal, word), word))
        .filter(|(distance, word)| *distance <= 1 + word.len() / 4 && *distance < word.len())
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, word)| word);
    // Or the only one that shares a part of some length: `creditcard` for `payment_card`.
    let shares = |word: &&str| word.split('_').any(|part| part.len() >= 4 && normal.contains(part));
    let mut sharing = words.filter(shares);
    slip.or_else(|| sharing.next().filter(|_| sharing.next().is_none()))
}

/// Levenshtein distance, with the exchange of two neighbours as one step.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut before = vec![0; b.len() + 1];
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, y) in b.iter().enumerate() {
            let at = |row: &[usize], j: usize| row.get(j).copied().unwrap_or(usize::MAX - 1);
            let mut best = at(&last, j) + usize::from(x != y);
            best = best.min(at(&last, j + 1) + 1).min(at(&row, j) + 1);
            if i > 0 && j > 0 && a.get(i - 1) == Some(y) && b.get(j - 1) == Some(x) {
                best = best.min(at(&before, j - 1) + 1);
            }
            row.push(best);
        }
        before = last;
        last = row;
    }
    last.last().copied().unwrap_or_default()
}

/// In a JSON Schema a value is what it is, wherever it stands.
impl<T: schemars::JsonSchema> schemars::JsonSchema for At<T> {
    fn inline_schema() -> bool {
        T::inline_schema()
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        T::schema_name()
    }

    fn schema_id() -> std::borrow::Cow<'static, str> {
        T::schema_id()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        T::json_schema(generator)
    }
}

impl<T: schemars::JsonSchema> schemars::JsonSchema for OneOrMany<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        format!("OneOrMany_{}", T::schema_name()).into()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let one = generator.subschema_for::<T>();
        schemars::json_schema!({
            "anyOf": [one, {"type": "array", "items": one, "minItems": 1}]
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_recognised() {
        let near = |given| nearest(given, ["truncate", "drop_table", "update", "select"].into_iter());
        assert_eq!(near("trunctae"), Some("truncate"));
        assert_eq!(near("DROP TABLE"), Some("drop_table"));
        assert_eq!(near("drop-table"), Some("drop_table"));
        assert_eq!(near("slect"), Some("select"));
        assert_eq!(near("vacuum"), None);
        assert_eq!(near(""), None);
    }

    #[test]
    fn keys_are_without_the_raw_mark() {
        assert_eq!((key("r#where"), key("rules"), key("r")), ("where", "rules", "r"));
    }
}
