//! Patterns for names, and how cautiously they match.

use std::borrow::Cow;
use std::fmt;

use super::decode::{Decode, Decoder};
use super::yaml::{Node, shortened};
use crate::mask::glob::Glob;
use crate::sql::{Column, Function, Relation};

/// Longest pattern in bytes.
const MAX_PATTERN: usize = 512;

/// Whether something matches, when the statement's text alone may not tell.
///
/// A rule that refuses applies from [`Match::May`] on, one that allows at [`Match::Must`] only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Match {
    /// It cannot match.
    No,
    /// It matches on some server, search path or catalog.
    May,
    /// It matches in any case.
    Must,
}

impl From<bool> for Match {
    fn from(holds: bool) -> Self {
        if holds { Self::Must } else { Self::No }
    }
}

impl Match {
    /// Of several things that a statement does, each given as how it matches: a refusing rule asks
    /// for any of them, an allowing one for all (and for one at least).
    pub(crate) fn of_several(each: impl Iterator<Item = Self>) -> Self {
        let (mut best, mut worst) = (Self::No, Self::Must);
        for one in each {
            best = best.max(one);
            worst = worst.min(one);
        }
        match (best, worst) {
            (Self::No, _) => Self::No,
            (_, Self::Must) => Self::Must,
            _ => Self::May,
        }
    }
}

/// A glob over plain text (`*` any characters, `?` any one; case counts).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Text(Glob);

impl Text {
    pub(crate) fn matches(&self, text: &str) -> bool {
        self.0.matches(text)
    }

    pub(crate) fn pattern(&self) -> &str {
        self.0.pattern()
    }
}

impl Decode for Text {
    fn decode(node: &Node, decoder: &mut Decoder<'_>) -> Option<Self> {
        let text = pattern_text(node, decoder)?;
        Some(Self(Glob::new(&text)))
    }
}

/// A glob over the name of a setting. Case does not count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Setting(Glob);

impl Setting {
    /// `name` is in lower case.
    pub(crate) fn matches(&self, name: &str) -> bool {
        self.0.matches(name)
    }

    /// It takes in all that `other` does.
    pub(crate) fn covers(&self, other: &Self) -> bool {
        covers(&self.0, &other.0)
    }
}

impl Decode for Setting {
    fn decode(node: &Node, decoder: &mut Decoder<'_>) -> Option<Self> {
        let text = pattern_text(node, decoder)?;
        Some(Self(Glob::new(&text.to_lowercase())))
    }
}

/// `schema.name`, or `name` in any schema; each a glob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Name {
    schema: Glob,
    name: Glob,
    /// As it was written, where it has capitals outside of quotes.
    capitals: Option<Box<str>>,
}

impl Name {
    fn matches(&self, schema: Option<&str>, name: &str) -> Match {
        let certain = match schema {
            Some(schema) if self.schema.matches(schema) => Match::Must,
            Some(_) => return Match::No,
            // Which schema it is depends on the server's search path.
            None if is_any(&self.schema) => Match::Must,
            None => Match::May,
        };
        match name {
            // Every relation of the schema.
            "*" if is_any(&self.name) => certain,
            "*" => Match::May,
            _ if self.name.matches(name) => certain,
            _ => Match::No,
        }
    }

    pub(crate) fn relation(&self, relation: &Relation) -> Match {
        self.matches(relation.schema.as_deref(), &relation.name)
    }

    pub(crate) fn function(&self, function: &Function) -> Match {
        self.matches(function.schema.as_deref(), &function.name)
    }

    /// The pattern as it was written, where it has capitals outside of quotes.
    pub(crate) fn upper_case(&self) -> Option<&str> {
        self.capitals.as_deref()
    }

    /// It takes in all that `other` does.
    pub(crate) fn covers(&self, other: &Self) -> bool {
        covers(&self.schema, &other.schema) && covers(&self.name, &other.name)
    }
}

impl Decode for Name {
    fn decode(node: &Node, decoder: &mut Decoder<'_>) -> Option<Self> {
        let ([schema, name], capitals) = parts(node, decoder, "schema.name")?;
        Some(Self { schema, name, capitals })
    }
}

/// `schema.table.column`; parts left out in front are any.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ColumnName {
    table: Name,
    column: Glob,
}

impl ColumnName {
    /// How the column matches, in a statement that names these relations.
    pub(crate) fn matches<'r>(
        &self,
        column: &Column,
        relations: impl Iterator<Item = &'r Relation> + Clone,
    ) -> Match {
        let whole_row = column.name == "*";
        let table = match &column.relation {
            Some(relation) => self.table.relation(relation),
            // A column of any of the relations; where there is none (a function's result) of any at all.
            None if relations.clone().next().is_none() && !whole_row => Match::May,
            None => relations.map(|r| self.table.relation(r)).max().unwrap_or(Match::No).min(Match::May),
        };
        if whole_row {
            return if is_any(&self.column) { table } else { table.min(Match::May) };
        }
        if self.column.matches(&column.name) { table } else { Match::No }
    }

    /// It takes in some column of this relation (a table that is read as a whole).
    pub(crate) fn relation(&self, relation: &Relation) -> Match {
        self.table.relation(relation)
    }

    /// [`Name::upper_case`].
    pub(crate) fn upper_case(&self) -> Option<&str> {
        self.table.upper_case()
    }

    pub(crate) fn covers(&self, other: &Self) -> bool {
        self.table.covers(&other.table) && covers(&self.column, &other.column)
    }

    /// The globs for schema, table and column.
    pub(crate) fn globs(&self) -> [&str; 3] {
        [self.table.schema.pattern(), self.table.name.pattern(), self.column.pattern()]
    }
}

impl Decode for ColumnName {
    fn decode(node: &Node, decoder: &mut Decoder<'_>) -> Option<Self> {
        let ([schema, name, column], capitals) = parts(node, decoder, "schema.table.column")?;
        Some(Self { table: Name { schema, name, capitals }, column })
    }
}

fn is_any(glob: &Glob) -> bool {
    glob.pattern().bytes().all(|b| b == b'*')
}

/// `broad` matches whatever `narrow` does. May say no where the answer is yes, never the reverse: a
/// `*` in `narrow` is one more character to `broad`, so that only a `*` takes it in.
fn covers(broad: &Glob, narrow: &Glob) -> bool {
    if broad == narrow || is_any(broad) {
        return true;
    }
    let wild = narrow.pattern().contains(['*', '?']);
    if !wild {
        return broad.matches(narrow.pattern());
    }
    // `cust*` covers `customer*`: a literal start with a star at the end.
    matches!(broad.pattern().strip_suffix('*'), Some(start)
        if !start.contains(['*', '?']) && narrow.pattern().starts_with(start))
}

/// [`covers`] for plain text.
pub(crate) fn text_covers(broad: &Text, narrow: &Text) -> bool {
    covers(&broad.0, &narrow.0)
}

fn pattern_text(node: &Node, decoder: &mut Decoder<'_>) -> Option<String> {
    let text = String::decode(node, decoder)?;
    if text.is_empty() {
        decoder.error_help(node.at, "this pattern is empty", "write a name, or `*` for any");
        return None;
    }
    if text.len() > MAX_PATTERN {
        decoder.error(node.at, format!("this pattern has more than {MAX_PATTERN} bytes"));
        return None;
    }
    if let Some(bad) = text.chars().find(|c| c.is_control()) {
        decoder.error(node.at, format!("this pattern holds the control character {bad:?}"));
        return None;
    }
    Some(text)
}

/// Splits a name at its dots, those in double quotes excepted. Parts left out in front become `*`.
/// With it comes the text itself where it has capitals outside of quotes.
fn parts<const N: usize>(
    node: &Node,
    decoder: &mut Decoder<'_>,
    form: &str,
) -> Option<([Glob; N], Option<Box<str>>)> {
    let text = pattern_text(node, decoder)?;
    let mut names = vec![String::new()];
    let (mut quoted, mut was_quoted, mut capitals) = (false, false, false);
    for c in text.chars() {
        match c {
            '"' => {
                quoted = !quoted;
                was_quoted = true;
            }
            '.' if !quoted => {
                names.push(String::new());
                was_quoted = false;
            }
            '[' | ']' | '{' | '}' | '\\' | '%' if !quoted && !was_quoted => {
                decoder.error_help(
                    node.at,
                    format!("`{c}` is no wildcard here"),
                    "write `*` for any characters and `?` for one; put a name that holds it in double quotes",
                );
                return None;
            }
            c => {
                capitals |= !quoted && c.is_ascii_uppercase();
                names.last_mut()?.push(c);
            }
        }
    }
    let problem = if quoted {
        Some("a double quote is not closed".to_owned())
    } else if names.iter().any(String::is_empty) {
        Some(format!("`{}` has an empty part", shortened(&text)))
    } else if names.len() > N {
        Some(format!("`{}` has {} parts, at most {N} can stand here", shortened(&text), names.len()))
    } else {
        None
    };
    if let Some(problem) = problem {
        decoder.error_help(node.at, problem, format!("write `{form}`, or fewer parts from the right"));
        return None;
    }
    while names.len() < N {
        names.insert(0, "*".into());
    }
    let globs: Vec<Glob> = names.iter().map(|name| Glob::new(name)).collect();
    Some((globs.try_into().ok()?, capitals.then(|| text.into_boxed_str())))
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.pattern())
    }
}

macro_rules! text_schema {
    ($($type:ident: $description:literal;)*) => {
        $(impl schemars::JsonSchema for $type {
            fn schema_name() -> Cow<'static, str> {
                concat!(stringify!($type), "Pattern").into()
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({"type": "string", "minLength": 1, "description": $description})
            }
        })*
    };
}

text_schema! {
    Text: "A glob: `*` stands for any characters, `?` for any one. Case counts.";
    Setting: "A glob over the name of a setting: `*` stands for any characters, `?` for any one. Case does not count.";
    Name: "`schema.name`, or `name` in any schema. Each part is a glob; double quotes protect a dot.";
    ColumnName: "`schema.table.column`; parts left out in front are any. Each part is a glob; double quotes protect a dot.";
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::yaml;

    fn decode<T: Decode>(text: &str) -> Result<T, String> {
        let mut decoder = Decoder::new("t");
        let node = yaml::parse("t", &serde_json::to_string(text).unwrap()).unwrap();
        T::decode(&node, &mut decoder).ok_or_else(|| decoder.problems[0].to_string())
    }

    fn relation(name: &str) -> Relation {
        match name.split_once('.') {
            Some((schema, name)) => Relation { schema: Some(schema.into()), name: name.into() },
            None => Relation { schema: None, name: name.into() },
        }
    }

    #[test]
    fn an_unqualified_table_may_be_any_schemas() {
        let public: Name = decode("public.customers").unwrap();
        assert_eq!(public.relation(&relation("public.customers")), Match::Must);
        assert_eq!(public.relation(&relation("customers")), Match::May);
        assert_eq!(public.relation(&relation("sales.customers")), Match::No);
        assert_eq!(public.relation(&relation("orders")), Match::No);
        assert_eq!(public.relation(&relation("public.*")), Match::May);
        assert_eq!(public.relation(&relation("sales.*")), Match::No);
        let any: Name = decode("customers").unwrap();
        assert_eq!(any.relation(&relation("customers")), Match::Must);
        assert_eq!(any.relation(&relation("sales.customers")), Match::Must);
        let schema: Name = decode("public.*").unwrap();
        assert_eq!(schema.relation(&relation("public.*")), Match::Must);
        let quoted: Name = decode("\"we.ird\".\"Ta[ble\"").unwrap();
        assert_eq!(
            quoted.relation(&Relation { schema: Some("we.ird".into()), name: "Ta[ble".into() }),
            Match::Must
        );
    }

    #[test]
    fn a_column_of_an_unknown_table_may_be_any_that_is_named() {
        let card: ColumnName = decode("public.customers.card_number").unwrap();
        let column = |relation: Option<Relation>, name: &str| Column { relation, name: name.into() };
        let customers = [relation("public.customers")];
        let orders = [relation("public.orders")];
        let matches = |c: &Column, r: &[Relation]| card.matches(c, r.iter());
        assert_eq!(matches(&column(Some(relation("public.customers")), "card_number"), &[]), Match::Must);
        assert_eq!(matches(&column(Some(relation("customers")), "card_number"), &[]), Match::May);
        assert_eq!(matches(&column(None, "card_number"), &customers), Match::May);
        assert_eq!(matches(&column(None, "card_number"), &orders), Match::No);
        assert_eq!(matches(&column(None, "card_number"), &[]), Match::May);
        assert_eq!(matches(&column(Some(relation("public.customers")), "*"), &[]), Match::May);
        assert_eq!(matches(&column(None, "*"), &customers), Match::May);
        assert_eq!(matches(&column(None, "*"), &[]), Match::No);
        assert_eq!(matches(&column(Some(relation("public.customers")), "email"), &[]), Match::No);
    }

    #[test]
    fn ill_formed_patterns_are_told_how_to_be_written() {
        for (text, what) in [
            ("", "empty"),
            ("a..b", "empty part"),
            ("db.public.customers", "at most 2"),
            ("customers[0]", "no wildcard"),
            ("public.\"cust", "not closed"),
            ("a\nb", "control"),
        ] {
            let error = decode::<Name>(text).unwrap_err();
            assert!(error.contains(what), "{text}: {error}");
        }
        assert!(decode::<ColumnName>("a.b.c.d").unwrap_err().contains("at most 3"));
    }

    #[test]
    fn covering_is_never_claimed_wrongly() {
        let name = |text| decode::<Name>(text).unwrap();
        assert!(name("*").covers(&name("public.a*")));
        assert!(name("public.cust*").covers(&name("public.customer*")));
        assert!(name("public.cust*").covers(&name("public.customers")));
        assert!(!name("public.customers").covers(&name("customers")));
        assert!(!name("public.?").covers(&name("public.*")));
    }
}
