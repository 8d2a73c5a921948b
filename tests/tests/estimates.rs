//! How many rows a held statement is expected to touch: what approvers are shown, and that asking changes nothing.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test panics when something is not as it must be")]

use std::os::unix::process::CommandExt as _;

use interlock_tests::browser::Browser;
use interlock_tests::process::{Finished, LIMIT, finish};
use interlock_tests::{Collector, Postgres, Stage, client, wait_for};
use serde_json::Value;

/// A user that every Debian has, in the group of its own name.
const GAMES: (u32, u32) = (5, 60);

const RULES: &str = r#"
rules:
  - name: writes
    match: {sql: {kind: [update, delete]}}
    action: hold
    approval: {groups: [games, dba], estimate: true}
"#;

fn stage(rules: &str, configuration: &str) -> Stage {
    let postgres = Postgres::start().unwrap();
    postgres
        .admin(
            "CREATE TABLE t (id int PRIMARY KEY, v text);
             INSERT INTO t SELECT n, 'n' FROM generate_series(1, 1000) n;
             CREATE TABLE locked (id int);
             CREATE SEQUENCE s;
             -- They say that they can be planned away, and do what they must not.
             CREATE FUNCTION writes(int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS
               'BEGIN RETURN nextval(''s''); END';
             CREATE FUNCTION sleeps(int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS
               'BEGIN RAISE NOTICE ''awake''; PERFORM pg_sleep(600); RETURN 1; END';
             CREATE FUNCTION talks(int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS
               'BEGIN RAISE NOTICE ''planned''; RETURN 1; END';
             CREATE VIEW writing AS SELECT * FROM t WHERE id = writes(1);
             CREATE VIEW sleeping AS SELECT * FROM t WHERE id = sleeps(1);
             CREATE VIEW talking AS SELECT * FROM t WHERE id = talks(1);
             ANALYZE;",
        )
        .unwrap();
    Stage::start_with(postgres, rules, configuration).unwrap()
}

/// `interlock approvals …` as somebody in the group.
fn by(stage: &Stage, arguments: &[&str]) -> Finished {
    let mut command = stage.agent.command();
    command.arg("approvals").args(arguments).uid(GAMES.0).gid(GAMES.1);
    finish(&mut command, "", LIMIT).unwrap()
}

/// The request that waits now and did not wait before, as approvers are shown it.
fn next(stage: &Stage, last: &mut String) -> Value {
    let mut found = None;
    wait_for("a request", LIMIT, || {
        let list = stage.agent.json(&["approvals", "list", "--json"]).unwrap();
        found = list.first().and_then(|one| one["id"].as_str()).filter(|id| id != last).map(str::to_owned);
        found.is_some()
    })
    .unwrap_or_else(|error| panic!("{error}: after {last}\n{}", stage.agent.log()));
    *last = found.unwrap();
    serde_json::from_str(&by(stage, &["show", last, "--json"]).expect_success()).unwrap()
}

fn during<R: Send>(
    client: impl FnOnce() -> anyhow::Result<Finished> + Send,
    meanwhile: impl FnOnce() -> R,
) -> (Finished, R) {
    std::thread::scope(|scope| {
        // What it said is told where `meanwhile` waits in vain.
        let running = scope.spawn(|| {
            client().inspect(|finished| {
                if !finished.success() {
                    eprintln!("{}", finished.both());
                }
            })
        });
        let result = meanwhile();
        (running.join().unwrap().unwrap(), result)
    })
}

/// What is expected of an estimate.
#[derive(Debug, Clone, Copy)]
enum Expected {
    Rows(u64),
    Not(&'static str),
}

impl Expected {
    fn fits(self, estimate: &Value) -> bool {
        match self {
            // It is a guess: within a tenth.
            Self::Rows(rows) => {
                estimate["rows"].as_u64().is_some_and(|told| told.abs_diff(rows) <= rows / 10)
            }
            Self::Not(why) => {
                estimate["rows"].is_null()
                    && estimate["why_not"].as_str().is_some_and(|told| told.contains(why))
            }
        }
    }
}

#[test]
fn approvers_see_how_many_rows_or_why_not() {
    let stage = stage(RULES, "");
    // As Python, and what is to be told.
    let cases: &[(&str, Expected)] = &[
        ("c.execute('UPDATE t SET v = 1')", Expected::Rows(1000)),
        ("c.execute('DELETE FROM t WHERE id <= 100')", Expected::Rows(100)),
        // Parse and Bind in one go, apart, and by a name that exists already.
        ("c.execute('DELETE FROM t WHERE id <= %s', (250,))", Expected::Rows(250)),
        ("c.execute('DELETE FROM t WHERE id <= %s', (300,), prepare=True)", Expected::Rows(300)),
        ("c.execute('DELETE FROM t WHERE id <= %s', (400,), prepare=True)", Expected::Rows(400)),
        ("piped(\"DELETE FROM t WHERE id <= %s\", (500,))", Expected::Rows(500)),
        // What it changes counts, not what it returns.
        ("c.execute('WITH d AS (DELETE FROM t RETURNING 1) SELECT count(*) FROM d')", Expected::Rows(1000)),
        ("c.execute('UPDATE t SET v = md5(v)')", Expected::Not("planning it may run functions")),
        ("c.execute('DELETE FROM t; SELECT 1')", Expected::Not("it is not one statement")),
        ("c.execute('DELETE FROM nowhere')", Expected::Not("no such table or column (SQLSTATE 42P01)")),
        ("c.execute('DELETE FROM writing')", Expected::Not("planning it would write (SQLSTATE 25006)")),
        ("c.execute('DELETE FROM sleeping')", Expected::Not("takes too long (SQLSTATE 57014)")),
        ("c.execute('DELETE FROM locked')", Expected::Not("holds a lock on it (SQLSTATE 55P03)")),
        ("c.execute('DELETE FROM talking')", Expected::Rows(1)),
        // Behind something that has run in the same pipeline.
        (
            "piped('SELECT 1', (), 'DELETE FROM t WHERE id <= %s', (5,))",
            Expected::Not("has run what came before"),
        ),
    ];
    let bodies: String = cases.iter().map(|(code, _)| format!("case(lambda: {code})\n")).collect();
    let script = format!(
        r#"
import os, psycopg
URL = os.environ["PGURL"]
other = psycopg.connect(URL); other.execute("LOCK locked IN EXCLUSIVE MODE")
heard = []
def connect(**more):
    c = psycopg.connect(URL, **more)
    c.add_notice_handler(lambda n: heard.append(n.message_primary))
    return c
def piped(*texts):
    with c.pipeline() as p:
        for text, params in zip(texts[::2], texts[1::2]): c.execute(text, params, prepare=True)
        p.sync()
def case(run):
    heard.clear()
    try: run(); print("ran")
    except psycopg.Error as e: print(e.sqlstate, "denied" if "was denied" in str(e) else e)
    assert all("waits for approval" in one for one in heard), heard
    print(c.info.transaction_status.name)
c = connect(autocommit=True)
{bodies}
# The same within transactions.
c = connect(autocommit=True)
_run = case
def case(run):
    c.execute("BEGIN"); c.execute("SAVEPOINT mine"); c.execute("SET LOCAL lock_timeout = 12345")
    _run(run)
    c.execute("ROLLBACK TO mine")
    print(c.execute("SHOW lock_timeout").fetchone()[0], c.execute("SHOW transaction_read_only").fetchone()[0])
    c.execute("ROLLBACK")
{bodies}
"#
    );
    let before = stage.postgres.admin("SELECT pg_snapshot_xmax(pg_current_snapshot())").unwrap();
    let (finished, ()) = during(
        || stage.python(&script),
        || {
            let mut last = String::new();
            for within in ["none", "open"] {
                for (code, expected) in cases {
                    let one = next(&stage, &mut last);
                    assert!(expected.fits(&one["estimate"]), "{code}: {expected:?}, {}", one["estimate"]);
                    assert_eq!(one["transaction"], within, "{code}");
                    by(&stage, &["deny", &last, "--reason", "no"]).expect_success();
                }
            }
        },
    );
    let printed = finished.expect_success();
    let denied = "42501 denied";
    let mut expected: Vec<&str> = cases.iter().flat_map(|_| [denied, "IDLE"]).collect();
    expected.extend(cases.iter().flat_map(|_| [denied, "INERROR", "0 off"]));
    assert_eq!(printed.lines().collect::<Vec<_>>(), expected, "{printed}");
    // Nothing was written by it, not even a transaction's number taken.
    let after = stage.postgres.admin("SELECT pg_snapshot_xmax(pg_current_snapshot())").unwrap();
    assert_eq!(before, after);
    assert_eq!(stage.postgres.admin("SELECT is_called FROM s").unwrap(), "f");
    let sent = stage.postgres.statements();
    assert!(!sent.iter().any(|text| text.starts_with("DELETE") || text.starts_with("UPDATE")), "{sent:?}");
    assert!(sent.iter().any(|text| text.starts_with("EXPLAIN (FORMAT JSON) UPDATE t SET v = 1")), "{sent:?}");
    // It is in the recording, and nothing that the agent has sent for it is a command of the client's.
    let asked = stage.agent.events().unwrap();
    let asked: Vec<_> = asked.iter().filter(|event| event["event"] == "approval_requested").collect();
    assert_eq!(asked.len(), 2 * cases.len());
    assert!(
        cases.iter().zip(&asked).all(|((_, expected), asked)| expected.fits(&asked["estimate"])),
        "{asked:?}"
    );
    let commands = stage.agent.commands().unwrap();
    let own = |text: &str| text.contains("EXPLAIN") || text.contains("interlock");
    assert!(!commands.iter().filter_map(|command| command["text"].as_str()).any(own), "{commands:?}");
}

/// What a client says and is told on the wire, with and without estimates.
const TRACED: &str = r#"
import os, re, sys, tempfile, psycopg
from psycopg import pq
URL = os.environ["PGURL"]
c = psycopg.connect(URL, autocommit=True, application_name="traced")
trace = tempfile.TemporaryFile()
c.pgconn.trace(trace.fileno()); c.pgconn.set_trace_flags(pq.Trace.SUPPRESS_TIMESTAMPS)
def run(text, *params, **more):
    try:
        r = c.execute(text, params or None, **more)
        return r.fetchall() if r.description else r.rowcount
    except psycopg.Error as e:
        return e.sqlstate
# Between transactions.
run("UPDATE t SET v = 'a' WHERE id < 10"); run("UPDATE t SET v = %s WHERE id < %s", "b", 10)
run("UPDATE t SET v = %s WHERE id < %s", "c", 10, prepare=True); run("DELETE FROM nowhere")
# Within one: cursors, savepoints, settings, deferred checks, and its own numbers stay.
run("CREATE TABLE IF NOT EXISTS d (id int UNIQUE DEFERRABLE INITIALLY DEFERRED)")
run("BEGIN")
print(run("SELECT pg_current_xact_id_if_assigned()"), run("SELECT count(*) FROM other"))
run("DECLARE k CURSOR FOR SELECT id FROM t ORDER BY id"); run("FETCH 3 FROM k")
run("DECLARE h CURSOR WITH HOLD FOR SELECT id FROM t ORDER BY id DESC")
run("SET LOCAL work_mem = '7MB'"); run("SAVEPOINT mine")
print(run("DELETE FROM writing WHERE v = 'never'"))
print(run("FETCH 3 FROM k"), run("SHOW work_mem"), run("SHOW statement_timeout"), run("SHOW lock_timeout"))
run("INSERT INTO d VALUES (1), (1)")
print(run("UPDATE t SET v = 'd' WHERE id <= %s", 20, prepare=True))
print(run("ROLLBACK TO mine"), run("FETCH 1 FROM k"), run("SHOW work_mem"))
print(run("UPDATE t SET v = 'e' WHERE id <= 5"), run("RELEASE mine"))
run("INSERT INTO d VALUES (2), (2)")
print(run("UPDATE t SET v = 'f' WHERE id <= 6"))
print(run("COMMIT"), "deferred")
run("BEGIN"); run("DECLARE h CURSOR WITH HOLD FOR SELECT id FROM t ORDER BY id DESC")
print(run("UPDATE t SET v = 'g' WHERE id <= 7"), run("COMMIT"), run("FETCH 2 FROM h"), run("CLOSE h"))
# Read-only, and with one snapshot for all.
run("BEGIN READ ONLY"); print(run("UPDATE t SET v = 'x'")); run("ROLLBACK")
run("BEGIN ISOLATION LEVEL REPEATABLE READ"); print(run("UPDATE t SET v = 'h'")); run("COMMIT")
run("BEGIN ISOLATION LEVEL SERIALIZABLE"); print(run("DELETE FROM t WHERE id > 900")); run("COMMIT")
# A portal that is fetched from, and a statement in its midst.
with c.pipeline() as p:
    a = c.execute("UPDATE t SET v = 'i' WHERE id = %s", (1,)); b = c.execute("SELECT v FROM t WHERE id = 1")
    p.sync(); print(a.rowcount, b.fetchall())
c.pgconn.untrace(); trace.seek(0)
text = trace.read().decode(errors="backslashreplace")
text = re.sub(r"waits for approval \w+", "waits for approval ID", text)
text = re.sub(r"approve \w+", "approve ID", text); text = re.sub(r"_pg3_\w+", "_pg3", text)
text = re.sub(r"^([FB])\t\d+\t", r"\1 ", text, flags=re.M)
sys.stdout.write(text)
"#;

#[test]
fn the_client_is_told_the_same_with_and_without() {
    let told: Vec<(String, Vec<String>)> = [true, false]
        .into_iter()
        .map(|estimate| {
            let stage = stage(&RULES.replace("estimate: true", &format!("estimate: {estimate}")), "");
            stage.postgres.admin("CREATE TABLE other (id int)").unwrap();
            let seen = "SELECT a.state, a.backend_xid, a.backend_xmin, (SELECT string_agg(concat_ws(' ', locktype, relation::regclass, mode), ', ' ORDER BY locktype, relation::regclass::text, mode) FROM pg_locks l WHERE l.pid = a.pid) FROM pg_stat_activity a WHERE application_name = 'traced'";
            let (finished, states) = during(
                || stage.python(TRACED),
                || {
                    let (mut last, mut states) = (String::new(), Vec::new());
                    for nth in 0..13 {
                        let one = next(&stage, &mut last);
                        assert_eq!(one.get("estimate").is_some(), estimate, "{one}");
                        // Seen from outside: while it waits, nothing of what was asked is left.
                        // But for the lock on a sequence that planning has tried to use: nextval takes that for the whole
                        // transaction, whatever is rolled back.
                        let state = stage.postgres.admin(seen).unwrap();
                        states.push(state.replace("relation s RowExclusiveLock, ", ""));
                        if nth == 10 {
                            // Under REPEATABLE READ, which has no snapshot yet: what comes now is seen.
                            stage.postgres.admin("INSERT INTO t VALUES (5000, 'n')").unwrap();
                        }
                        by(&stage, &["approve", &last]).expect_success();
                    }
                    states
                },
            );
            (finished.expect_success(), states)
        })
        .collect();
    let [(with, states), (without, usual)] = told.as_slice() else { panic!() };
    for (nth, (with, without)) in with.lines().zip(without.lines()).enumerate() {
        assert_eq!(with, without, "line {nth} of what was told");
    }
    assert_eq!(with.lines().count(), without.lines().count());
    for (state, usual) in states.iter().zip(usual) {
        if !usual.starts_with("active") {
            assert_eq!(state, usual);
            continue;
        }
        // In a pipeline the server has been asked behind a Sync: it is ready, and has let go of what Parse had locked.
        let locks = |state: &str| -> Vec<String> {
            state.rsplit('|').next().into_iter().flat_map(|all| all.split(", ")).map(str::to_owned).collect()
        };
        assert!(state.starts_with("idle"), "{state}, {usual}");
        assert!(
            locks(state).iter().all(|lock| lock.is_empty() || locks(usual).contains(lock)),
            "{state}, {usual}"
        );
    }
    let printed: Vec<&str> = with.lines().take(14).collect();
    assert_eq!(printed[0], "[(None,)] [(0,)]", "{printed:?}");
    assert!(
        printed[1] == "0" && printed[2].starts_with("[(4,), (5,), (6,)] [('7MB',)] [('0',)] [('0',)]"),
        "{printed:?}"
    );
    assert!(printed.contains(&"23505 deferred") && printed.contains(&"25006"), "{printed:?}");
    assert!(printed.contains(&"1001"), "the row that came while it waited: {printed:?}");
}

#[test]
fn cancelled_while_the_server_plans() {
    let stage = stage(RULES, "");
    let printed = stage
        .python(
            r#"
import os, threading, time, psycopg
URL = os.environ["PGURL"]
o = psycopg.connect(URL, autocommit=True)
def planning():
    return o.execute("SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'EXPLAIN%' AND wait_event = 'PgSleep'").fetchone()[0] == 1
for transaction in (False, True):
    c = psycopg.connect(URL, autocommit=True)
    if transaction: c.execute("BEGIN")
    def later():
        while not planning(): time.sleep(0.01)
        c.cancel()
    t = threading.Thread(target=later); t.start()
    try: c.execute("DELETE FROM sleeping")
    except psycopg.errors.QueryCanceled as e: print(e.sqlstate, str(e).splitlines()[0], c.info.transaction_status.name)
    t.join()
    c.execute("ROLLBACK"); print(c.execute("SELECT 'lives on'").fetchone()[0])
"#,
        )
        .unwrap()
        .expect_success();
    let cancelled = "57014 canceling statement due to user request";
    assert_eq!(printed, format!("{cancelled} IDLE\nlives on\n{cancelled} INERROR\nlives on\n"));
    let events = stage.agent.events().unwrap();
    assert!(
        !events.iter().any(|event| event["event"] == "approval_requested"),
        "nobody is asked: {events:?}"
    );
    let refused: Vec<_> = events.iter().filter(|event| event["text"] == "DELETE FROM sleeping").collect();
    assert_eq!(refused.len(), 2, "it is recorded: {events:?}");
}

#[test]
fn jdbc_goes_on_with_its_cursor() {
    let stage = stage(RULES, "");
    let source = r#"
import java.sql.*;
public class Main {
    public static void main(String[] args) throws Exception {
        String url = "jdbc:postgresql://127.0.0.1:" + System.getenv("PGPORT") + "/" + System.getenv("PGDATABASE");
        try (Connection c = DriverManager.getConnection(url, System.getenv("PGUSER"), System.getenv("PGPASSWORD"))) {
            PreparedStatement u = c.prepareStatement("UPDATE t SET v = ? WHERE id <= ?");
            u.setString(1, "x"); u.setInt(2, 50);
            System.out.println("alone " + u.executeUpdate());
            c.setAutoCommit(false);
            PreparedStatement s = c.prepareStatement("SELECT id FROM t ORDER BY id");
            s.setFetchSize(10);
            ResultSet r = s.executeQuery();
            int n = 0;
            while (n < 15 && r.next()) n++;
            // The portal stays open while the server is asked.
            u.setInt(2, 60);
            System.out.println("within " + u.executeUpdate());
            while (r.next()) n++;
            System.out.println("rows " + n);
            c.commit();
        }
    }
}
"#;
    let (finished, estimates) = during(
        || client::java(&stage.postgres, Some(&stage.clients), source),
        || {
            let mut last = String::new();
            [50, 60].map(|rows| {
                let one = next(&stage, &mut last);
                by(&stage, &["approve", &last]).expect_success();
                (Expected::Rows(rows).fits(&one["estimate"]), one["estimate"].clone())
            })
        },
    );
    assert_eq!(finished.expect_success(), "alone 50\nwithin 60\nrows 1000\n");
    assert!(estimates.iter().all(|(fits, _)| *fits), "{estimates:?}");
}

#[test]
fn the_collector_shows_it() {
    let collector = Collector::start().unwrap();
    let stage = stage(RULES, "");
    collector.enrol(&stage.agent).unwrap();
    let root = Browser::set_up(&collector).unwrap();
    let (finished, ()) = during(
        || stage.psql("UPDATE t SET v = 'x';\nUPDATE t SET v = md5(v);\n"),
        || {
            let mut last = String::new();
            for (page, rows) in [
                ("about 1 000, as the server expects", Some(1000)),
                ("no estimate, because planning it may run functions", None),
            ] {
                let told = next(&stage, &mut last);
                assert_eq!(told["estimate"]["rows"].as_u64(), rows);
                let shown = by(&stage, &["show", &last]).expect_success();
                let words = if rows.is_some() { "about 1000 rows" } else { "no estimate, because planning" };
                assert!(shown.contains(words), "{shown}");
                let mut listed = Value::Null;
                wait_for("the request at the collector", 2 * LIMIT, || {
                    listed = collector.json(&["approvals", "list", "--json"]).unwrap_or_default();
                    listed.to_string().contains(&last)
                })
                .unwrap_or_else(|error| panic!("{error}: {listed}"));
                let whole = collector.json(&["approvals", "show", &last]).unwrap();
                assert_eq!(whole["estimate"]["rows"].as_u64(), rows, "{whole}");
                let id = whole["id"].as_str().unwrap();
                assert!(root.get(&format!("/approvals/{id}")).unwrap().contains(page), "{page}");
                let api: Value =
                    serde_json::from_str(&root.get(&format!("/api/v1/approvals/{id}")).unwrap()).unwrap();
                assert_eq!(api["estimate"], whole["estimate"]);
                by(&stage, &["deny", &last, "--reason", "no"]).expect_success();
            }
        },
    );
    assert_eq!(finished.stderr.matches("was denied").count(), 2, "{}", finished.both());
}
