//! What is hidden, and that nothing that runs is.

use proptest::prelude::*;

use super::*;
use crate::mask::{Detector, HashKey, Transform};

fn masks(transform: Transform) -> MaskSet {
    let all = Detector::ALL
        .iter()
        .fold(MaskSet::builder(), |masks, (detector, _)| masks.detector("all".into(), *detector, transform));
    all.build(&HashKey::new(&[1; 32]))
}

fn recorded(text: &str) -> (String, Hidden) {
    let shown = Recordable::of(text, &Secrets::of(text), &masks(Transform::Redact));
    (shown.text.into_owned(), shown.hidden)
}

/// What the server sees of a text besides constants.
fn code(text: &str) -> Vec<String> {
    let tokens = literal::scan(text).unwrap().into_iter().filter(|token| !is_comment(token));
    let word = |token: ScanToken| {
        if is_constant(&token) { "constant".to_owned() } else { slice(text, &token).unwrap().1.to_owned() }
    };
    let mut words: Vec<String> = tokens.map(word).collect();
    // Numbers that are masked are in quotes then, and such constants are one where only lines are between them.
    words.dedup_by(|next, word| next == "constant" && word == "constant");
    words
}

#[test]
fn constants_are_masked_and_the_rest_is_exact() {
    for (text, shown) in [
        ("select 1", "select 1"),
        ("select * from c where email = 'bob@x.com'", "select * from c where email = '[redacted]'"),
        ("select 'a bob@x.com b', $$ bob@x.com $$", "select 'a [redacted] b', $$ [redacted] $$"),
        ("select 1 -- for bob@x.com\n, 2", "select 1 -- for [redacted]\n, 2"),
        ("select /* bob@x.com */ 2", "select /* [redacted] */ 2"),
        ("select /* /* bob@x.com */ a */ 2", "select /*[redacted]*/ 2"),
        (
            "select * from c where card = 4111111111111111 or a",
            "select * from c where card = '[redacted]' or a",
        ),
        ("select U&4111111111111111", "select U& '[redacted]'"),
        ("select -4111111111111111", "select -'[redacted]'"),
        // In every way that a constant is written.
        ("select E'bob\\x40x.com', 1", "select E'[redacted]', 1"),
        ("select e'bob\\100x.com'", "select e'[redacted]'"),
        ("select U&'bob\\0040x.com'", "select U&'[redacted]'"),
        ("select U&'bob!0040x.com' UESCAPE '!'", "select U&'[redacted]' UESCAPE '!'"),
        ("select '41111111'\n  '11111111' from t", "select '[redacted]' from t"),
        ("select '41111111' -- it's\n  '11111111' from t", "select '[redacted]' from t"),
        ("select 'it''s bob@x.com'", "select 'it''s [redacted]'"),
        // What stands before it says what it is.
        (
            "select 'aws_secret_access_key=0123456789abcdefghij0123456789abcdefghij'",
            "select 'aws_secret_access_key=***'",
        ),
        // Names are what it does it to.
        ("drop role \"bob@x.com\"", "drop role \"bob@x.com\""),
        // Texts that it runs.
        (
            "DO $$BEGIN UPDATE c SET e = 'bob@x.com'; -- bob@x.com\n PERFORM f(4111111111111111); END$$",
            "DO $$BEGIN UPDATE c SET e = '[redacted]'; -- [redacted]\n PERFORM f('[redacted]'); END$$",
        ),
        (
            "DO 'BEGIN UPDATE c SET e = ''bob@x.com'', n = 4111111111111111; END'",
            "DO 'BEGIN UPDATE c SET e = ''[redacted]'', n = ''[redacted]''; END'",
        ),
        (
            "DO $$BEGIN EXECUTE 'UPDATE c SET e = ''bob@x.com''' USING 'bob@x.com'; END$$",
            "DO $$BEGIN EXECUTE 'UPDATE c SET e = ''[redacted]''' USING '[redacted]'; END$$",
        ),
        (
            "select run('delete from c where e = ''bob@x.com''')",
            "select run('delete from c where e = ''[redacted]''')",
        ),
    ] {
        let hidden = if text == shown { Hidden::Nothing } else { Hidden::Constants };
        assert_eq!(recorded(text), (shown.to_owned(), hidden), "{text}");
    }
}

/// What somebody would hide from approvers and from the recording.
const PREDICATE: &str = "OR region = 7";

const ATTACKS: &[&str] = &[
    "UPDATE c SET n = false WHERE id = 17\n-----BEGIN PRIVATE KEY-----\nOR region = 7",
    "UPDATE c SET n =\n-----BEGIN PRIVATE KEY-----\n 1 WHERE true OR region = 7",
    "UPDATE c SET n = 1 WHERE id = 1\n-----BEGIN PRIVATE KEY-----\nOR region = 7\n-----END PRIVATE KEY-----",
    "DELETE FROM c WHERE id = 1 -----BEGIN PRIVATE KEY-----\n; DELETE FROM c WHERE false OR region = 7",
    "DELETE FROM c WHERE id = 1 /*-----BEGIN PRIVATE KEY-----*/ OR region = 7",
    "DELETE FROM c WHERE id = '-----BEGIN PRIVATE KEY-----' OR region = 7",
    "DELETE FROM c WHERE id = 1 -- password='\nOR region = 7 --'",
    "DELETE FROM c WHERE id = 1 -- password=\"\nOR region = 7 --\"",
    "DELETE FROM c WHERE id = 'https://u:' OR region = 7 OR id = '@h'",
    "DELETE FROM c WHERE id = 1 -- https://u:\nOR region = 7 -- @h",
    "DELETE FROM c WHERE token = secret OR region = 7",
    "SELECT pg_temp.decrypt('DELETE FROM c WHERE id = -1 OR region = 7 -- password=')",
    "SELECT run('DELETE FROM c WHERE id = 17\n-----BEGIN PRIVATE KEY-----\nOR region = 7')",
    "SELECT run($$DELETE FROM c WHERE id = 17 -- password=''\nOR region = 7$$)",
    "SELECT run('BEGIN DELETE FROM c WHERE id = 17 -- password=''\nOR region = 7; END')",
    "DO $$BEGIN\n-----BEGIN PRIVATE KEY-----\nDELETE FROM c WHERE id = 2 OR region = 7; END$$",
    "DO $$BEGIN -- password='\nDELETE FROM c WHERE id = 2 OR region = 7; END$$",
    "DO 'BEGIN -- password=\"\nDELETE FROM c WHERE id = 2 OR region = 7; END'",
    "DO LANGUAGE plpgsql $$BEGIN EXECUTE 'DELETE FROM c\n-----BEGIN PRIVATE KEY-----\nWHERE id = 2 OR region = 7'; END$$",
    "DO $$BEGIN DO $a$BEGIN\n-----BEGIN PRIVATE KEY-----\nDELETE FROM c WHERE id = 2 OR region = 7; END$a$; END$$",
    "CREATE FUNCTION f() RETURNS void LANGUAGE sql AS 'DELETE FROM c\n-----BEGIN PRIVATE KEY-----\nWHERE id = 2 OR region = 7'",
    "CREATE FUNCTION f() RETURNS void LANGUAGE sql AS $$DELETE FROM c WHERE p=password='' OR region = 7$$",
    "ALTER TABLE c ALTER x SET DATA TYPE text USING token = a OR region = 7",
];

#[test]
fn what_runs_is_never_hidden() {
    for text in ATTACKS {
        for transform in
            [Transform::Redact, Transform::Partial { keep_first: 3, keep_last: 3 }, Transform::Hash]
        {
            let shown = Recordable::of(text, &Secrets::of(text), &masks(transform));
            assert!(shown.text.contains(PREDICATE), "{text}\n{}", shown.text);
            assert_ne!(shown.hidden, Hidden::Code, "{text}\n{}", shown.text);
            assert_eq!(code(text), code(&shown.text), "{text}\n{}", shown.text);
        }
    }
}

#[test]
fn what_cannot_be_seen_is_said_to_be_hidden() {
    for text in [
        // What does not split into tokens.
        "DELETE FROM c WHERE id = 'bob@x.com",
        "DELETE FROM c WHERE id = 1OR e = 'bob@x.com'",
        "ALTER ROLE x PASSWORD 'never closed",
        // Bodies in other languages, and programs.
        "DO LANGUAGE plpython3u $$x = 'bob@x.com'$$",
        "CREATE FUNCTION f() RETURNS int AS $$ 'bob@x.com' $$ LANGUAGE 'plperl'",
        "COPY t TO PROGRAM 'cat > /x # password=hunter2'",
        "DO $$BEGIN UPDATE c SET e = 'bob@x.com$$",
        // Pieces of a text that is put together.
        "DO $$BEGIN EXECUTE 'DELETE FROM c WHERE e = ' || quote_literal('bob@x.com'); END$$",
        // Words that are no constants.
        "ALTER ROLE x PASSWORD hunter2",
        "SET app.token = hunter2",
    ] {
        let (shown, hidden) = recorded(text);
        assert_eq!(hidden, Hidden::Code, "{text}\n{shown}");
        assert!(!shown.contains("bob@x.com") && !shown.contains("hunter2"), "{text}\n{shown}");
    }
    let unread = |text| Recordable::of_unread(text, &Secrets::default(), &masks(Transform::Redact));
    assert_eq!(unread("select '\\' or 'x").hidden, Hidden::Nothing);
    let shown = unread("select '\\' or e = bob@x.com");
    assert_eq!((&*shown.text, shown.hidden), (REDACTED, Hidden::Code));
}

#[test]
fn options_behind_a_password_are_seen() {
    for (text, shown) in [
        ("CREATE USER x PASSWORD 'hunter2'SUPERUSER", "CREATE USER x PASSWORD '***'SUPERUSER"),
        (
            "ALTER FUNCTION f() SET app.token = 'hunter2' SECURITY DEFINER",
            "ALTER FUNCTION f() SET app.token = '***' SECURITY DEFINER",
        ),
    ] {
        assert_eq!(recorded(text), (shown.to_owned(), Hidden::Constants));
    }
}

#[test]
fn a_function_of_ones_own_takes_no_secrets() {
    assert_eq!(recorded("select pg_temp.crypt('drop it')").1, Hidden::Nothing);
    assert_eq!(recorded("select mallory.decrypt('drop it')").1, Hidden::Nothing);
    assert_eq!(recorded("select public.crypt('hunter2')").0, "select public.crypt('***')");
    assert_eq!(recorded("select crypt('hunter2')").0, "select crypt('***')");
}

/// Pieces of texts that hit detectors, split tokens, or join them.
fn piece() -> impl Strategy<Value = String> {
    let fixed = prop::sample::select(vec![
        "'",
        "''",
        "E'",
        "U&'",
        "U&",
        "$$",
        "$a$",
        "--",
        "/*",
        "*/",
        "\n",
        " ",
        ";",
        "\\",
        "\"",
        "(",
        ")",
        ",",
        "=",
        ".",
        "DO ",
        "LANGUAGE sql ",
        "EXECUTE ",
        "USING ",
        "SET ",
        "ALTER ROLE x ",
        "PASSWORD ",
        "password=",
        "token ",
        "crypt",
        "CREATE FUNCTION f() AS ",
        "bob@x.com",
        "4111111111111111",
        "41111111",
        "https://u:p@h/",
        "-----BEGIN PRIVATE KEY-----",
        "-----END PRIVATE KEY-----",
        "select ",
        "a",
        " or b ",
        "UESCAPE '!'",
        "aws_secret_access_key = ",
        "0123456789abcdefghij0123456789abcdefghij",
        "é",
        "BEGIN ",
        " END",
        "x'",
        "$1",
    ]);
    fixed.prop_map(str::to_owned)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn tokens_other_than_constants_are_left(
        pieces in prop::collection::vec(piece(), 0..24),
        transform in prop::sample::select(vec![
            Transform::Redact, Transform::Hash, Transform::Partial { keep_first: 8, keep_last: 8 },
            Transform::Partial { keep_first: 0, keep_last: 0 },
        ]),
    ) {
        let text = pieces.concat();
        let masks = masks(transform);
        // Detectors alone leave all but constants wherever a text can be split; secrets may hide words, and say so.
        let shown = Recordable::of(&text, &Secrets::default(), &masks);
        if literal::scan(&text).is_some() {
            prop_assert_eq!(code(&text), code(&shown.text), "{}\n{}", text, shown.text);
        } else if shown.text != text {
            prop_assert_eq!(shown.hidden, Hidden::Code);
        }
        let shown = Recordable::of(&text, &Secrets::of(&text), &masks);
        if shown.hidden != Hidden::Code && literal::scan(&text).is_some() {
            prop_assert_eq!(code(&text), code(&shown.text), "{}\n{}", text, shown.text);
        }
        prop_assert_eq!(shown.hidden == Hidden::Nothing, shown.text == text);
    }

    #[test]
    fn a_value_is_where_it_is_written(inner in "([a-z'\\\\]|''|\\\\x41|\\\\101|\\\\u0041|é){0,12}") {
        let literal = format!("E'{inner}'");
        if let Some(value) = Value::of(&literal, '\\') {
            for (at, _) in value.text.char_indices() {
                prop_assert!(literal.get(value.written(&(at..value.text.len()))).is_some());
            }
        }
    }
}
