//! What real statements are said to do: `sql/statements.txt` holds each with what is expected of it.

#![allow(clippy::unwrap_used)] // That is how a test fails.

use std::fmt::Write as _;

use interlock_agent::sql::{Cache, CopyFormat, Kind, Statement, Where, analyze};
use serde::Serialize;

/// One line for a statement, in the words of its JSON form; what is empty or false is left out.
fn line(statement: &Statement) -> String {
    fn words<T: Serialize>(set: impl IntoIterator<Item = T>) -> String {
        let words: Vec<String> = set
            .into_iter()
            .map(|word| serde_json::to_value(word).unwrap().as_str().unwrap().to_owned())
            .collect();
        words.join(" ")
    }
    let mut line = format!("{}:", words([statement.kind]));
    let mut part = |name: &str, words: String| {
        if !words.is_empty() {
            write!(line, " {name}({words})").unwrap();
        }
    };
    part("kinds", words(&statement.kinds));
    part("classes", words(&statement.classes));
    part("reads", words(&statement.reads));
    part("writes", words(&statement.writes));
    part("columns_read", words(&statement.columns_read));
    part("columns_written", words(&statement.columns_written));
    part("functions", words(&statement.functions));
    part("where", words(statement.where_clause));
    // Where they differ from it.
    for (name, clause) in [("where_read", statement.where_read), ("where_write", statement.where_write)] {
        part(name, words(clause.filter(|clause| Some(*clause) != statement.where_clause)));
    }
    part("limit", words(statement.limit));
    let rows: Vec<String> =
        statement.limit_rows.iter().map(|rows| serde_json::to_string(rows).unwrap()).collect();
    part("rows", rows.join(" ").replace('"', ""));
    part("settings", statement.settings.iter().cloned().collect::<Vec<_>>().join(" "));
    part("executes", words(&statement.executes));
    part("prepares", words(&statement.prepares));
    for (flag, set) in [
        ("dynamic", statement.dynamic),
        ("changes_lexing", statement.changes_lexing),
        ("error", statement.error.is_some()),
    ] {
        if set {
            write!(line, " {flag}").unwrap();
        }
    }
    if let Some(outputs) = &statement.outputs {
        let columns = outputs.iter().map(|output| {
            let name = output.name.as_deref().unwrap_or("?");
            let columns: Vec<String> = output.columns.iter().map(ToString::to_string).collect();
            format!("{name}{}={}", if output.whole_row { "*" } else { "" }, columns.join("+"))
        });
        write!(line, " -> {}", columns.collect::<Vec<_>>().join(", ")).unwrap();
    }
    line
}

#[test]
fn statements_are_described_as_expected() {
    let cases = include_str!("sql/statements.txt");
    let mut wrong = String::new();
    let mut count = 0;
    for case in cases.split("\n\n").map(str::trim).filter(|case| !case.is_empty()) {
        let (mut text, mut expected) = (String::new(), String::new());
        for row in case.lines().filter(|row| !row.starts_with("# ")) {
            if let Some(row) = row.strip_prefix("=> ") {
                writeln!(expected, "=> {row}").unwrap();
            } else {
                writeln!(text, "{row}").unwrap();
            }
        }
        let text = text.trim_end();
        let mut actual = String::new();
        for statement in analyze(text).statements {
            writeln!(actual, "=> {}", line(&statement)).unwrap();
        }
        count += 1;
        if actual != expected {
            write!(wrong, "{text}\n{actual}\n").unwrap();
        }
    }
    // The right side of each difference, in the file's own form.
    if let Ok(path) = std::env::var("SQL_STATEMENTS_OUT") {
        std::fs::write(path, &wrong).unwrap();
    }
    assert!(wrong.is_empty(), "\n{wrong}");
    assert!(count >= 120, "{count} cases");
}

#[test]
fn every_kind_is_documented_with_its_classes() {
    let docs = include_str!("../../docs/sql.md");
    for kind in Kind::ALL {
        let name = serde_json::to_value(kind).unwrap();
        let classes: Vec<String> = kind
            .classes()
            .iter()
            .map(|class| serde_json::to_value(class).unwrap().as_str().unwrap().to_owned())
            .collect();
        let row =
            format!("| `{}` | {} | {} |", name.as_str().unwrap(), kind.description(), classes.join(", "));
        assert!(docs.contains(&row), "docs/sql.md has no row {row}");
    }
}

#[test]
fn the_data_format_of_a_copy_is_told() {
    let copy = |text: &str| analyze(text).statements[0].copy.clone().unwrap();
    let csv =
        copy("copy a.t (x, y) from stdin with (format csv, header, delimiter ';', quote '''', null 'n')");
    assert!(!csv.to_client && csv.header && csv.format == CopyFormat::Csv);
    assert_eq!((csv.delimiter, csv.quote, csv.escape, &*csv.null), (b';', b'\'', b'\'', "n"));
    assert_eq!((csv.relation.unwrap().to_string(), csv.columns.join(" ")), ("a.t".into(), "x y".into()));

    let text = copy("copy (select 1) to stdout");
    assert!(text.to_client && !text.header && text.relation.is_none() && text.format == CopyFormat::Text);
    assert_eq!((text.delimiter, &*text.null), (b'\t', "\\N"));

    let old = copy("copy t to stdout delimiters '|' csv quote as '`' escape as '!'");
    assert_eq!((old.delimiter, old.quote, old.escape), (b'|', b'`', b'!'));
    assert!(!copy("copy t to stdout (format csv, header off)").header);
    assert!(copy("copy t from stdin (format csv, header match)").header);
    assert_eq!(copy("copy binary t to stdout").format, CopyFormat::Binary);

    for elsewhere in ["copy t to '/tmp/x'", "copy t from program 'x'"] {
        assert!(analyze(elsewhere).statements[0].copy.is_none());
    }
}

#[test]
fn the_weakest_where_is_the_least() {
    assert!(Where::Missing < Where::AlwaysTrue && Where::AlwaysTrue < Where::Present);
}

/// What the cache says of a text does not depend on which texts of the same shape came before: each
/// statement here, with its constants changed in several ways, is asked for in one cache.
#[test]
fn a_cached_shape_says_what_reading_the_text_says() {
    let cases = include_str!("sql/statements.txt");
    let cache = Cache::new(100_000, 64 << 20);
    let mut texts = 0;
    for case in cases.split("\n\n").map(str::trim).filter(|case| !case.is_empty()) {
        let rows: Vec<_> =
            case.lines().filter(|row| !row.starts_with("# ") && !row.starts_with("=> ")).collect();
        let text = rows.join("\n");
        for variant in variants(&text) {
            texts += 1;
            assert_eq!(*cache.analyze(&variant), analyze(&variant), "{variant}");
        }
    }
    assert!(texts > 1000, "{texts}");
}

/// `text`, and with its digits made all the same, counted up, and its quoted words exchanged.
fn variants(text: &str) -> Vec<String> {
    let with_digits = |digit: fn(usize, char) -> char| -> String {
        text.chars().enumerate().map(|(at, c)| if c.is_ascii_digit() { digit(at, c) } else { c }).collect()
    };
    let mut quoted = String::new();
    for (index, part) in text.split('\'').enumerate() {
        if index > 0 {
            quoted.push('\'');
        }
        quoted.push_str(if index % 2 == 1 && part.len() < 8 { "%" } else { part });
    }
    vec![
        text.to_owned(),
        with_digits(|_, _| '1'),
        with_digits(|at, _| char::from(b'1' + (at % 9) as u8)),
        with_digits(|_, c| if c == '0' { '1' } else { '0' }),
        quoted,
        text.to_owned(),
    ]
}
