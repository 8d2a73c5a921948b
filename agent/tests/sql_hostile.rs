//! Texts that are meant to break the reader: deep, large, random, many at once.

#![allow(clippy::unwrap_used, clippy::panic)] // That is how a test fails.

use std::os::fd::AsRawFd;

use interlock_agent::sql::{Class, Kind, MAX_TEXT, Where, analyze};
use proptest::prelude::*;

fn is_read(text: &str) -> bool {
    analyze(text).statements.iter().all(|statement| statement.kind != Kind::Unparsed)
}

#[test]
fn long_chains_as_programs_write_them_are_read() {
    for text in [
        format!("select * from t where {}", vec!["a = 1"; 500].join(" or ")),
        format!("select * from t where {}", vec!["a = 1"; 500].join(" and ")),
        format!("select {} from t", vec!["a"; 2000].join(" || ")),
        format!("select {} from t", vec!["1"; 2000].join(" + ")),
        vec!["select a from t"; 1000].join(" union all "),
        format!("select * from t where a in ({})", vec!["1"; 100_000].join(", ")),
        format!("insert into t values {}", vec!["(1, 'x')"; 20_000].join(", ")),
        format!("select {}1{}", "(".repeat(5000), ")".repeat(5000)),
        format!("{}select a from t{}", "select * from (".repeat(500), ") s".repeat(500)),
        format!("select {} from t", "coalesce(".repeat(500) + "a" + &")".repeat(500)),
        format!(
            "with {} select 1",
            (0..500).map(|n| format!("c{n} as (select a from t)")).collect::<Vec<_>>().join(", ")
        ),
        format!("select 1 {}", "/* ".repeat(500) + &"*/".repeat(500)),
        vec!["delete from t where a = 1"; 2000].join("; "),
    ] {
        assert!(is_read(&text), "{}…", &text[..60]);
    }
}

#[test]
fn what_is_too_deep_or_too_large_is_unparsed_and_says_why() {
    for (text, reason) in [
        (format!("select {}1{}", "(".repeat(20_000), ")".repeat(20_000)), "memory exhausted"),
        (format!("select {} a", "not ".repeat(100_000)), "memory exhausted"),
        (format!("select {}", vec!["a"; 100_000].join("||")), "stack depth limit"),
        (vec!["select 1"; 100_000].join(" union "), "stack depth limit"),
        (format!("select {}", "x".repeat(MAX_TEXT)), "bytes"),
        (format!("select 1 where a in ({})", vec!["1"; 1_000_000].join(",")), "words and signs"),
        ("select 1\0; drop table t".to_owned(), "nul byte"),
    ] {
        let script = analyze(&text);
        let [statement] = &script.statements[..] else { panic!("{}", script.statements.len()) };
        assert_eq!(statement.kind, Kind::Unparsed);
        let error = statement.error.as_deref().unwrap();
        assert!(error.contains(reason), "{error}");
    }
}

#[test]
fn columns_that_double_with_every_subquery_cost_little() {
    let mut text = "with c0 as (select a, b, c from t)".to_owned();
    for level in 1..60 {
        let below = level - 1;
        text += &format!(", c{level} as (select x.*, y.*, x.a || y.b as z from c{below} x, c{below} y)");
    }
    text += " select * from c59";
    let script = analyze(&text);
    let outputs = script.statements[0].outputs.as_ref().unwrap();
    assert!(outputs.len() <= 2000);
    // What is no longer followed is taken to be made of anything.
    assert!(outputs[0].whole_row);
}

#[test]
fn conditions_that_double_with_every_level_cost_little() {
    let mut condition = "a = 1".to_owned();
    for _ in 0..60 {
        condition = format!("(({condition}) or b = 2) and (({condition}) between 1 and 2)");
        if condition.len() > 100_000 {
            break;
        }
    }
    let mut nested = "a".to_owned();
    for _ in 0..150 {
        nested = format!("({nested} in (1, 2)) and (not ({nested_} or true))", nested_ = "b");
        nested = format!("case when {nested} then true else false end");
    }
    for condition in [condition, nested] {
        analyze(&format!("delete from t where {condition}"));
    }
}

#[test]
fn a_condition_too_large_to_be_worked_out_bounds_nothing() {
    let weakest =
        |condition: &str| analyze(&format!("delete from t where {condition}")).statements[0].where_clause;
    let doubled = (0..40)
        .fold("a".to_owned(), |inner, _| format!("coalesce({inner}, nullif({inner_}, 1))", inner_ = "b"));
    let case =
        (0..300).fold("true".to_owned(), |inner, _| format!("case when a = 1 then {inner} else true end"));
    for condition in [
        format!("{}true", "not ".repeat(202)),
        vec!["id = id"; 21_000].join(" and "),
        format!("{} or b is null or b is not null", vec!["a = 1"; 3000].join(" or ")),
        case,
    ] {
        assert_eq!(weakest(&condition), Some(Where::AlwaysTrue), "{}…", &condition[..40]);
    }
    for condition in [
        format!("a in ({})", vec!["1"; 100_000].join(", ")),
        format!("a = any (array[{}])", vec!["1"; 50_000].join(", ")),
        format!("(a, b) in ({})", vec!["(1, 2)"; 20_000].join(", ")),
        vec!["(a = 1 and b = 2)"; 10_000].join(" or "),
        vec!["a <> 1"; 3000].join(" and "),
        format!("{doubled} = 3"),
    ] {
        assert_eq!(weakest(&condition), Some(Where::Present), "{}…", &condition[..40]);
    }
}

#[test]
fn texts_within_texts_end() {
    let mut text = "delete from t".to_owned();
    for level in 0..12 {
        text = format!("do $q{level}$ begin execute $e{level}$ {text} $e{level}$; end $q{level}$");
    }
    let statement = &analyze(&text).statements[0];
    assert!(statement.kinds.contains(&Kind::Delete) || statement.kinds.contains(&Kind::Unparsed));
    for level in 12..40 {
        text = format!("do $q{level}$ begin execute $e{level}$ {text} $e{level}$; end $q{level}$");
    }
    let statement = &analyze(&text).statements[0];
    assert!(statement.kinds.contains(&Kind::Unparsed) && statement.dynamic);
}

#[test]
fn each_statement_bears_its_own_text() {
    let script = analyze(" select 1 ; /* a */ delete from t where b = ';' ;\n-- c\n drop table \"ü;\" ");
    let texts: Vec<&str> = script.statements.iter().map(|statement| statement.text.as_str()).collect();
    assert_eq!(texts, ["select 1", "delete from t where b = ';'", "drop table \"ü;\""]);
}

/// The parser borrows file descriptor 2 while it works; nobody else may notice.
#[test]
fn standard_error_stays_where_it_is() {
    let identity = || std::fs::read_link(format!("/proc/self/fd/{}", std::io::stderr().as_raw_fd())).unwrap();
    let before = identity();
    let working = std::sync::atomic::AtomicBool::new(true);
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|thread| {
                scope.spawn(move || {
                    for number in 0..200 {
                        let script = analyze(&format!("select a{number} from t{thread} where b = 'x'"));
                        assert_eq!(script.statements[0].reads.len(), 1);
                        assert!(!is_read("select from where"));
                    }
                })
            })
            .collect();
        scope.spawn(|| {
            while working.load(std::sync::atomic::Ordering::Relaxed) {
                assert_eq!(identity(), before);
            }
        });
        for thread in threads {
            thread.join().unwrap();
        }
        working.store(false, std::sync::atomic::Ordering::Relaxed);
    });
    assert_eq!(identity(), before);
}

/// A statement that the grammar takes.
fn statement() -> impl Strategy<Value = String> {
    let name = prop_oneof![Just("customers"), Just("public.orders"), Just("\"A b\""), Just("u&\"\\0061\"")];
    let value = prop_oneof![Just("1"), Just("'x'"), Just("e'\\''"), Just("$$;$$"), Just("a"), Just("null")];
    (name, value, 0..8_u8).prop_map(|(name, value, form)| match form {
        0 => format!("select * from {name} where a = {value}"),
        1 => format!("delete from {name}"),
        2 => format!("update {name} set a = {value} returning *"),
        3 => format!("with c as (table {name}) insert into t select {value} from c"),
        4 => format!("drop table {name}"),
        5 => format!("do $x$ begin delete from {name} where a = {value}; end $x$"),
        6 => format!("copy {name} to stdout"),
        _ => format!("select {value} /* ; */ from {name} -- ;\n"),
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn any_text_is_taken(text in "(?s).{0,200}") {
        analyze(&text);
    }

    #[test]
    fn any_words_are_taken(words in prop::collection::vec(
        prop_oneof![
            Just("select"), Just("from"), Just("where"), Just("with"), Just("as"), Just("("), Just(")"),
            Just(","), Just("*"), Just("a"), Just("b.c"), Just("'x'"), Just("insert into"), Just("delete"),
            Just("update"), Just("set"), Just("="), Just("do"), Just("$$"), Just("begin"), Just("end"),
            Just(";"), Just("create function f() returns int language plpgsql as"), Just("execute"),
            Just("loop"), Just("declare"), Just("union"), Just("lateral"), Just("returning"), Just("1"),
            Just("recursive"), Just("values"), Just("explain analyze"), Just("copy"), Just("to stdout"),
        ], 0..40)) {
        analyze(&words.join(" "));
    }

    #[test]
    fn a_string_of_statements_is_each_of_them(first in statement(), second in statement()) {
        let mut apart = analyze(&first).statements;
        apart.extend(analyze(&second).statements);
        let mut together = analyze(&format!("{first}\n;{second}")).statements;
        for statement in apart.iter_mut().chain(&mut together) {
            statement.text = statement.text.trim_end_matches("-- ;").trim().to_owned();
        }
        prop_assert_eq!(together, apart);
    }

    #[test]
    fn what_writes_is_found_wherever_it_stands(inner in statement(), form in 0..4_u8) {
        let alone = &analyze(&inner).statements[0];
        let text = match form {
            0 => format!("do $outer$ begin {inner}; end $outer$"),
            1 => format!("create function f() returns void language sql as $outer$ {inner} $outer$"),
            2 => format!("select query_to_xml($outer${inner}$outer$, true, true, '')"),
            _ => format!("do $outer$ begin execute $inner${inner}$inner$; end $outer$"),
        };
        let within = &analyze(&text).statements[0];
        // A bare SELECT or RETURNING is an error in PL/pgSQL, but what it is, is known all the same.
        prop_assert!(within.kinds.is_superset(&alone.kinds) || within.kinds.contains(&Kind::Unparsed));
        prop_assert!(within.writes.is_superset(&alone.writes) || within.kinds.contains(&Kind::Unparsed));
        if alone.classes.contains(&Class::Write) {
            prop_assert!(within.classes.contains(&Class::Write) || within.kinds.contains(&Kind::Unparsed));
        }
    }
}
