//! The client's own time limit while its command is held, and cancelling what runs before it.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test panics when something is not as it must be")]

use interlock_tests::{Postgres, Stage, wait_for};
use serde_json::Value;

const RULES: &str = r#"
rules:
  - name: unbounded-write
    match: {sql: {kind: [update, delete], where: missing}}
    action: hold
    approval: {groups: games}
"#;

fn stage() -> Stage {
    let postgres = Postgres::start_with(interlock_tests::postgres::Auth::Scram, &[]).unwrap();
    postgres.admin("CREATE TABLE t (id int); INSERT INTO t SELECT generate_series(1, 10)").unwrap();
    Stage::start_with(postgres, RULES, "").unwrap()
}

fn of_kind(stage: &Stage, kind: &str) -> Vec<Value> {
    stage.agent.events().unwrap().into_iter().filter(|event| event["event"] == kind).collect()
}

/// Whether the client's own limit ended a held command.
const PRELUDE: &str = r#"
import os, threading, time
import psycopg
def timed_out(c, **more):
    try:
        c.execute("DELETE FROM t", **more)
    except psycopg.errors.QueryCanceled as e:
        return e.sqlstate + " " + str(e).splitlines()[0]
    return "ran"
def gives_up(c):
    "The command waits longer than any limit here: it is cancelled by us."
    told = threading.Event()
    c.add_notice_handler(lambda n: told.set())
    def later():
        told.wait(); time.sleep(2); c.cancel()
    t = threading.Thread(target=later); t.start()
    result = timed_out(c); t.join(); c._notice_handlers.clear()
    return result
URL = os.environ["PGURL"]
"#;

#[test]
fn a_statement_timeout_counts_wherever_it_comes_from() {
    let stage = stage();
    let printed = stage
        .python(&format!(
            "{PRELUDE}{}",
            r#"
c = psycopg.connect(URL, autocommit=True, options="-c statement_timeout=700ms")
print(timed_out(c)); print(timed_out(c, prepare=True)); print(timed_out(c, prepare=True))
print(c.execute("SELECT 'lives on'").fetchone()[0])
c = psycopg.connect(URL, autocommit=True)
c.execute("SET statement_timeout = '1s'")
print(timed_out(c))
c.execute("SELECT set_config('statement_timeout', '500', false)")
print(timed_out(c))
# In a transaction it aborts that, and a rollback undoes the setting.
c.execute("SET statement_timeout = 0")
c.execute("BEGIN"); c.execute("SET LOCAL statement_timeout = 300")
print(timed_out(c))
try: c.execute("SELECT 1")
except psycopg.errors.InFailedSqlTransaction as e: print(e.sqlstate)
c.execute("ROLLBACK")
print(gives_up(c))
c.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
other = psycopg.connect(URL, autocommit=True)
print(gives_up(c)); c.execute("ROLLBACK")
# Within a pipeline that has only prepared so far.
c.execute("SET statement_timeout = 400")
try:
    with c.pipeline(): c.execute("DELETE FROM t")
except psycopg.errors.QueryCanceled as e: print(str(e).splitlines()[0])
print(c.execute("SELECT count(*) FROM t").fetchone()[0])
"#
        ))
        .unwrap()
        .expect_success();
    let lines: Vec<&str> = printed.lines().collect();
    let over = "57014 canceling statement due to statement timeout";
    let cancelled = "57014 canceling statement due to user request";
    assert_eq!(lines[..4], [over, over, over, "lives on"], "{printed}");
    assert_eq!(lines[4..8], [over, over, over, "25P02"], "{printed}");
    assert_eq!(lines[8..10], [cancelled, cancelled], "{printed}");
    assert_eq!(lines[10..], ["canceling statement due to statement timeout", "10"], "{printed}");
    let decided = of_kind(&stage, "approval_decided");
    let reason = |event: &Value| event["reason"] == "the client's statement_timeout is over";
    assert_eq!(decided.iter().filter(|event| reason(event)).count(), 7, "{decided:?}");
    // The look itself is nothing that the client has sent.
    assert!(!stage.agent.texts("allow").unwrap().iter().any(|text| text.contains("SHOW")));
}

#[test]
fn a_role_has_its_limit() {
    let stage = stage();
    stage
        .postgres
        .admin(&format!("ALTER ROLE {} SET statement_timeout = '600ms'", interlock_tests::postgres::USER))
        .unwrap();
    let printed = stage
        .python(&format!("{PRELUDE}c = psycopg.connect(URL, autocommit=True)\nprint(timed_out(c))\n"))
        .unwrap()
        .expect_success();
    assert!(printed.contains("due to statement timeout"), "{printed}");
}

#[test]
fn a_cancel_reaches_what_runs_before_the_held_one() {
    let stage = stage();
    let printed = stage
        .python(&format!(
            "{PRELUDE}{}",
            r#"
c = psycopg.connect(URL, autocommit=True)
told = threading.Event()
c.add_notice_handler(lambda n: told.set())
def later():
    # It is on the server by then, and the next one held.
    while not subprocess_sleeps(): time.sleep(0.1)
    c.cancel()
def subprocess_sleeps():
    with psycopg.connect(URL, autocommit=True) as o:
        return o.execute("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'").fetchone()[0] == 1
threading.Thread(target=later).start()
begun = time.monotonic()
try:
    with c.pipeline():
        c.execute("SELECT pg_sleep(300)")
        c.execute("DELETE FROM t")
except psycopg.errors.QueryCanceled as e:
    print(e.sqlstate, str(e).splitlines()[0])
print("soon" if time.monotonic() - begun < 100 else "late")
print(c.execute("SELECT count(*) FROM t").fetchone()[0])
"#
        ))
        .unwrap()
        .expect_success();
    assert_eq!(printed, "57014 canceling statement due to user request\nsoon\n10\n");
    wait_for("nothing to wait", std::time::Duration::from_secs(20), || {
        stage.agent.json(&["approvals", "list", "--json"]).unwrap().is_empty()
    })
    .unwrap();
}
