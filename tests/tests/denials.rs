//! Refusals: in the protocol's own words, in their right place, and with nothing reaching the server.

#![allow(clippy::unwrap_used, reason = "a test panics when something is not as it must be")]

use interlock_tests::{Postgres, Stage};

const RULES: &str = r#"
rules:
  - name: no-drop
    match: {sql: {kind: [drop_table, truncate]}}
    action: deny
    message: Tables are dropped by migrations only.
  - name: unbounded-write
    match: {sql: {kind: [update, delete], where: missing}}
    action: hold
    message: A write to every row needs a second pair of eyes.
"#;

fn stage() -> Stage {
    let postgres = Postgres::start().unwrap();
    postgres.admin("CREATE TABLE customers (id int PRIMARY KEY, name text); INSERT INTO customers SELECT n, 'n' || n FROM generate_series(1, 100) n").unwrap();
    Stage::start_with(postgres, RULES, "").unwrap()
}

fn rows(stage: &Stage) -> String {
    stage.postgres.admin("SELECT count(*), count(*) FILTER (WHERE name LIKE 'n%') FROM customers").unwrap()
}

#[test]
fn in_psql() {
    let stage = stage();
    let finished = stage.psql("SELECT 1;\nDROP TABLE customers;\nSELECT 2;\n\\echo :SQLSTATE\n").unwrap();
    assert!(finished.stderr.contains("ERROR:  42501: "), "{}", finished.both());
    assert!(finished.stderr.contains("no-drop"), "{}", finished.stderr);
    assert!(finished.stderr.contains("Tables are dropped by migrations only."), "{}", finished.stderr);
    assert!(
        finished.stdout.contains("(1 row)\n?column?\n2\n"),
        "the connection did not live on: {}",
        finished.stdout
    );
    assert!(!stage.postgres.was_sent("DROP TABLE"));
    assert_eq!(rows(&stage), "100|100");
}

#[test]
fn a_hold_says_that_it_needs_an_approval() {
    let stage = stage();
    let finished = stage.psql("UPDATE customers SET name = 'x';").unwrap();
    assert!(
        finished.stderr.contains("42501") && finished.stderr.contains("unbounded-write"),
        "{}",
        finished.both()
    );
    assert!(finished.stderr.to_lowercase().contains("approv"), "{}", finished.stderr);
    assert_eq!(rows(&stage), "100|100");
    assert_eq!(stage.agent.texts("hold").unwrap(), ["UPDATE customers SET name = 'x';"]);
}

#[test]
fn a_refusal_aborts_the_transaction_on_the_server_too() {
    let stage = stage();
    let finished = stage
        .psql(
            "BEGIN;\nINSERT INTO customers VALUES (1001, 'in the transaction');\nDROP TABLE customers;\n\
             SELECT 'must not run';\nCOMMIT;\nSELECT count(*) AS after FROM customers;\n",
        )
        .unwrap();
    assert!(finished.stderr.contains("25P02: current transaction is aborted"), "{}", finished.both());
    assert!(!finished.stdout.contains("must not run\n"), "{}", finished.stdout);
    // COMMIT of an aborted transaction rolls it back.
    assert!(finished.stdout.contains("after\n100\n"), "{}", finished.stdout);
    assert_eq!(rows(&stage), "100|100");
}

#[test]
fn a_savepoint_saves_as_from_any_error() {
    let stage = stage();
    let finished = stage
        .psql(
            "BEGIN;\nINSERT INTO customers VALUES (1001, 'kept');\nSAVEPOINT s;\nDROP TABLE customers;\n\
             ROLLBACK TO s;\nCOMMIT;\nSELECT count(*) AS after FROM customers;\n",
        )
        .unwrap();
    assert!(finished.stdout.contains("after\n101\n"), "{}", finished.both());
}

#[test]
fn one_statement_of_a_string_refuses_all_of_it() {
    let stage = stage();
    let finished = stage
        .psql("INSERT INTO customers VALUES (2000, 'n') \\; DROP TABLE customers \\; SELECT 5;")
        .unwrap();
    assert!(finished.stderr.contains("no-drop"), "{}", finished.both());
    assert_eq!(rows(&stage), "100|100");
}

#[test]
fn in_every_driver() {
    let stage = stage();
    let printed = stage
        .python(
            r#"
import asyncio, os
import asyncpg, psycopg, psycopg2
dsn = os.environ["PGURL"]

c = psycopg2.connect(dsn)
try:
    c.cursor().execute("DROP TABLE customers")
except psycopg2.Error as e:
    print("psycopg2", type(e).__name__, e.pgcode, e.pgerror)
c.rollback()
cur = c.cursor()
cur.execute("SELECT 'lives on'")
print(cur.fetchone())

with psycopg.connect(dsn) as c:
    for prepare in (False, True):
        try:
            c.execute("DELETE FROM customers WHERE %s = 1 OR true", (1,), prepare=prepare)
        except psycopg.Error as e:
            print("psycopg", type(e).__name__, e.sqlstate, e.diag.message_primary, c.info.transaction_status.name)
        c.rollback()
    print(c.execute("SELECT 'lives on'").fetchone())

async def main():
    c = await asyncpg.connect(dsn)
    try:
        await c.fetch("DROP TABLE customers")
    except asyncpg.PostgresError as e:
        print("asyncpg", type(e).__name__, e.sqlstate, e.message)
    print(await c.fetchval("SELECT 'lives on'"))
asyncio.run(main())
"#,
        )
        .unwrap()
        .expect_success();
    assert!(printed.contains("psycopg2 InsufficientPrivilege 42501"), "{printed}");
    assert_eq!(printed.matches("psycopg InsufficientPrivilege 42501").count(), 2, "{printed}");
    assert_eq!(printed.matches("INERROR").count(), 2, "{printed}");
    assert!(printed.contains("asyncpg InsufficientPrivilegeError 42501"), "{printed}");
    assert_eq!(printed.matches("no-drop").count(), 2, "{printed}");
    assert_eq!(printed.matches("lives on").count(), 3, "{printed}");
    assert_eq!(rows(&stage), "100|100");
    assert!(!stage.postgres.was_sent("DROP TABLE") && !stage.postgres.was_sent("DELETE FROM"));
}

#[test]
fn in_a_pipeline_at_the_right_place() {
    let stage = stage();
    let printed = stage
        .python(
            r#"
import os
from psycopg import pq
c = pq.PGconn.connect(os.environ["PGURL"].encode())
c.enter_pipeline_mode()
for sql in (b"SELECT 'first'", b"DROP TABLE customers", b"SELECT 'skipped'"):
    c.send_query_params(sql, None)
c.pipeline_sync()
c.send_query_params(b"SELECT 'after sync'", None)
c.pipeline_sync()
syncs = 0
while syncs < 2:
    result = c.get_result()
    if result is None:
        continue
    name = pq.ExecStatus(result.status).name
    if result.status == pq.ExecStatus.PIPELINE_SYNC:
        syncs += 1
        print(name)
    elif result.status == pq.ExecStatus.TUPLES_OK:
        print(name, result.get_value(0, 0).decode())
    elif result.status == pq.ExecStatus.FATAL_ERROR:
        print(name, result.error_field(pq.DiagnosticField.SQLSTATE).decode(), result.error_message.decode().strip())
    else:
        print(name)
c.exit_pipeline_mode()
print(c.exec_(b"SELECT 'after pipeline'").get_value(0, 0).decode())
"#,
        )
        .unwrap()
        .expect_success();
    let lines: Vec<_> = printed.lines().filter(|line| !line.is_empty()).collect();
    assert_eq!(lines[0], "TUPLES_OK first", "{printed}");
    assert!(lines[1].starts_with("FATAL_ERROR 42501") && lines[1].contains("no-drop"), "{printed}");
    let rest = &lines[2..];
    let expected =
        ["PIPELINE_ABORTED", "PIPELINE_SYNC", "TUPLES_OK after sync", "PIPELINE_SYNC", "after pipeline"];
    assert_eq!(rest, expected, "{printed}");
    assert_eq!(rows(&stage), "100|100");
}

#[test]
fn an_implicit_transaction_of_a_pipeline_is_rolled_back() {
    let stage = stage();
    let finished = stage
        .python(
            r#"
import os, psycopg
with psycopg.connect(os.environ["PGURL"], autocommit=True) as c:
    try:
        with c.pipeline():
            c.execute("INSERT INTO customers VALUES (3000, 'n')")
            c.execute("DROP TABLE customers")
    except psycopg.Error as e:
        print(e.sqlstate)
"#,
        )
        .unwrap();
    assert_eq!(finished.expect_success().trim(), "42501");
    assert_eq!(rows(&stage), "100|100");
}

#[test]
fn observe_mode_lets_pass_and_says_what_would_have_been() {
    let stage = stage();
    stage.write_policy(&format!("mode: observe\n{RULES}")).unwrap();
    stage.agent.reload().unwrap().expect_success();
    let finished = stage.psql("TRUNCATE customers;\nSELECT count(*) AS after FROM customers;\n").unwrap();
    assert!(finished.stdout.contains("after\n0\n"), "{}", finished.both());
    let commands = stage.agent.commands().unwrap();
    let truncate = commands.iter().find(|command| command["text"] == "TRUNCATE customers;").unwrap();
    assert_eq!(truncate["verdict"], "allow", "it passed");
    assert_eq!(truncate["enforced"], false);
    assert_eq!(truncate["observed"], serde_json::json!([{"rule": "no-drop", "verdict": "deny"}]));
    let listed = |filter: [&str; 2]| {
        stage.agent.json(&["sessions", "list", "--json", filter[0], filter[1]]).unwrap().len()
    };
    assert_eq!(listed(["--verdict", "deny"]), 0, "what passed counts as refused");
    assert_eq!(listed(["--observed", "deny"]), 1);
}

#[test]
fn one_rule_alone_can_observe() {
    let stage = stage();
    stage.write_policy(&RULES.replacen("action: deny", "action: deny\n    mode: observe", 1)).unwrap();
    stage.agent.reload().unwrap().expect_success();
    let finished = stage.psql("UPDATE customers SET name = 'x';\nTRUNCATE customers;\n").unwrap();
    assert!(
        finished.stderr.contains("unbounded-write") && !finished.stderr.contains("no-drop"),
        "{}",
        finished.both()
    );
    assert_eq!(rows(&stage), "0|0");
}
