//! What comes back is masked in every format and place, and the unmasked value is nowhere on disk.

#![allow(clippy::unwrap_used, reason = "a test panics when something is not as it must be")]

use std::process::Command;

use interlock_tests::process::{LIMIT, finish};
use interlock_tests::{Postgres, Stage};

/// Values that must never come back or be stored; each valid, as its detector checks.
const CARD: &str = "4111111111111111";
const EMAIL: &str = "ada.lovelace@example.com";
const SSN_COLUMN: &str = "078-05-1120";
const KEY: &str = "AKIAIOSFODNN7EXAMPLE";

const RULES: &str = r#"
masks:
  - {name: cards, columns: [public.customers.card], with: {partial: {keep_last: 4}}}
  - {name: ids, columns: [public.customers.national_id], with: redact}
  - {name: joins, columns: [public.customers.token], with: hash}
  - {name: pay, columns: [public.customers.salary], with: "null"}
  - {name: leaks, detect: [payment_card, email, aws_access_key], with: redact}
"#;

fn stage() -> Stage {
    let postgres = Postgres::start().unwrap();
    postgres
        .admin(&format!(
            "CREATE TABLE customers (id int, name text, card text, national_id varchar(20), token text, salary int, notes text);
             INSERT INTO customers VALUES
               (1, 'Ada', '{CARD}', '{SSN_COLUMN}', 'token-one', 123456, 'write to {EMAIL} or charge {CARD}'),
               (2, 'Bob', '5500005555555559', '219-09-9999', 'token-one', 654321, 'key {KEY} leaked');"
        ))
        .unwrap();
    Stage::start_with(postgres, RULES, "").unwrap()
}

/// None of the values stands in `text`.
#[track_caller]
fn assert_masked(text: &str) {
    for secret in
        [CARD, EMAIL, SSN_COLUMN, KEY, "5500005555555559", "219-09-9999", "token-one", "123456", "654321"]
    {
        assert!(!text.contains(secret), "{secret} stands in\n{text}");
    }
}

/// None of the values is in any file of the agent's state, raw or exported, nor in its log.
#[track_caller]
fn assert_not_stored(stage: &mut Stage) {
    let exported =
        stage.agent.interlock(&["sessions", "export", "--format", "jsonl"]).unwrap().expect_success();
    assert!(exported.contains("customers"), "nothing was recorded");
    assert_masked(&exported);
    assert_masked(
        &stage.agent.interlock(&["sessions", "export", "--format", "csv"]).unwrap().expect_success(),
    );
    assert_masked(&stage.agent.log());
    for secret in [CARD, EMAIL, SSN_COLUMN, KEY] {
        let mut grep = Command::new("grep");
        let found =
            finish(grep.args(["-r", "-a", "-l", secret]).arg(stage.agent.state()), "", LIMIT).unwrap();
        assert_eq!(found.stdout, "", "{secret} is on disk");
    }
}

#[test]
fn in_text_format() {
    let mut stage = stage();
    let printed = stage.psql("SELECT * FROM customers ORDER BY id;").unwrap().expect_success();
    assert_masked(&printed);
    assert!(printed.contains("1111|"), "the last four digits stay: {printed}");
    assert!(printed.contains("Ada") && printed.contains("write to "), "too much is masked: {printed}");
    let events = stage.agent.events().unwrap();
    let result = events.iter().find(|event| event["event"] == "result").unwrap();
    assert!(result["rows"].to_string().contains("Ada"), "the rows are not recorded: {result}");
    assert_not_stored(&mut stage);
}

#[test]
fn under_another_name_and_in_other_places() {
    let mut stage = stage();
    for sql in [
        "SELECT card AS id, c.national_id x FROM customers c;",
        "SELECT * FROM (SELECT token AS name, salary AS notes, name AS card FROM customers) q;",
        "WITH q AS (SELECT card a, national_id b FROM customers) SELECT b AS \"Ada\", a FROM q;",
        "UPDATE customers SET name = name WHERE id = 1 RETURNING card, national_id, name;",
        "BEGIN; DECLARE k CURSOR FOR SELECT card, national_id, name FROM customers; FETCH ALL FROM k; END;",
        "SELECT notes || ' ' || name FROM customers;",
        "SELECT json_agg(notes || ' ' || name) FROM customers;",
        "SELECT ARRAY[notes] FROM customers;",
    ] {
        let finished = stage.psql(sql).unwrap();
        assert_masked(&finished.both());
        assert!(!finished.both().contains("ERROR"), "{sql}\n{}", finished.both());
    }
    assert_not_stored(&mut stage);
}

#[test]
fn a_hash_is_the_same_for_the_same_value() {
    let stage = stage();
    let printed = stage.psql("\\t\nSELECT token FROM customers;").unwrap().expect_success();
    let tokens: Vec<_> = printed.lines().filter(|line| !line.is_empty()).collect();
    assert_eq!(tokens.len(), 2, "{printed}");
    assert_eq!(tokens[0], tokens[1]);
    assert_ne!(tokens[0], "token-one");
}

#[test]
fn in_copy() {
    let mut stage = stage();
    for sql in [
        "COPY customers TO STDOUT;",
        "COPY customers TO STDOUT (FORMAT csv, HEADER);",
        "COPY (SELECT card, name, notes FROM customers) TO STDOUT;",
        "COPY customers (national_id, token, name) TO STDOUT (FORMAT csv, DELIMITER ';', FORCE_QUOTE *);",
    ] {
        let finished = stage.psql(sql).unwrap();
        assert_masked(&finished.both());
        assert!(finished.stdout.contains("Ada"), "{sql}: {}", finished.both());
    }
    assert_not_stored(&mut stage);
}

#[test]
fn in_binary_format() {
    let mut stage = stage();
    let printed = stage
        .python(
            r#"
import asyncio, os
import asyncpg, psycopg
dsn = os.environ["PGURL"]
with psycopg.connect(dsn) as c:
    for binary in (False, True):
        for row in c.execute("SELECT id, name, card, national_id, token, salary, notes FROM customers ORDER BY id", binary=binary):
            print(row)
    with c.cursor().copy("COPY customers (name, card, notes) TO STDOUT (FORMAT binary)") as copy:
        copy.set_types(["text", "text", "text"])
        for row in copy.rows():
            print(row)
async def main():
    c = await asyncpg.connect(dsn)
    for row in await c.fetch("SELECT * FROM customers ORDER BY id"):
        print(tuple(row))
asyncio.run(main())
"#,
        )
        .unwrap()
        .expect_success();
    assert_masked(&printed);
    assert_eq!(printed.matches("'Ada'").count(), 4, "{printed}");
    assert!(printed.contains("(1, 'Ada', "), "a number beside masked values must stay one: {printed}");
    assert_not_stored(&mut stage);
}

/// Messages that quote values of `notes`.
const QUOTING: &str = "\
    ALTER TABLE customers ADD CONSTRAINT short CHECK (length(notes) < 5);\n\
    SELECT notes::int FROM customers WHERE id = 1;\n\
    DO $$ DECLARE n text; BEGIN SELECT notes INTO n FROM customers WHERE id = 1; RAISE NOTICE 'found %', n; END $$;\n\
    DO $$ DECLARE n text; BEGIN SELECT notes INTO n FROM customers WHERE id = 2; \
      RAISE EXCEPTION 'found %', n USING DETAIL = n, HINT = n; END $$;\n";

#[test]
fn in_errors_and_notices() {
    let mut stage = stage();
    let finished = stage.psql(QUOTING).unwrap();
    // Where columns are masked, whatever a message quotes may be a value of one.
    assert!(finished.stderr.contains("invalid input syntax for type integer"), "{}", finished.both());
    assert!(finished.stderr.contains("NOTICE:") && finished.stderr.contains("P0001"), "{}", finished.both());
    assert_masked(&finished.both());
    assert_not_stored(&mut stage);

    // Where only detectors look, the rest of a message stays.
    stage
        .write_policy(
            "masks:\n  - {name: leaks, detect: [payment_card, email, aws_access_key], with: redact}\n",
        )
        .unwrap();
    stage.agent.reload().unwrap().expect_success();
    let finished = stage.psql(QUOTING).unwrap();
    assert!(finished.stderr.contains("found write to "), "{}", finished.both());
    assert!(
        finished.stderr.contains("found key ") && finished.stderr.contains(" leaked"),
        "{}",
        finished.both()
    );
    assert_masked(&finished.both());
    assert_not_stored(&mut stage);
}

#[test]
fn in_what_the_client_sends() {
    let mut stage = stage();
    stage
        .psql(&format!("SELECT name FROM customers; INSERT INTO customers (id, notes) VALUES (3, 'mail {EMAIL} and {CARD}');"))
        .unwrap()
        .expect_success();
    // The server gets it; the recording does not.
    assert!(stage.postgres.was_sent(EMAIL));
    assert_not_stored(&mut stage);
}

#[test]
fn bind_parameters_are_recorded_masked() {
    let mut stage = stage();
    let printed = stage
        .python(&format!(
            r#"
import os, psycopg
with psycopg.connect(os.environ["PGURL"]) as c:
    for binary in (False, True):
        c.execute("SELECT name FROM customers WHERE notes = %s" if not binary else "SELECT name FROM customers WHERE notes = %b", ("{EMAIL}",))
        c.execute("SELECT name FROM customers WHERE id = %s", (1,))
    print(c.execute("SELECT name FROM customers ORDER BY id LIMIT 1").fetchall())
"#
        ))
        .unwrap()
        .expect_success();
    assert!(printed.contains("Ada"));
    assert_not_stored(&mut stage);
}

#[test]
fn a_large_result_is_streamed_and_masked() {
    let stage = stage();
    let printed = stage
        .psql(&format!(
            "\\t\nSELECT 'row ' || n || ' {EMAIL} ' || repeat('x', 1000) FROM generate_series(1, 20000) n;\n\
             SELECT repeat('y', 8000000) || ' {CARD} ' || 'end';\n"
        ))
        .unwrap()
        .expect_success();
    assert_masked(&printed);
    assert_eq!(printed.lines().filter(|line| line.starts_with("row ")).count(), 20000);
    assert!(printed.trim_end().ends_with("end"));
}
