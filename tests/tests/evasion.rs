//! As an insider would: ways around a rule that forbids dropping a table, writing to all of another,
//! and reaching outside the database. Each must fail, and must not do what was asked.

#![allow(clippy::unwrap_used, reason = "a test panics when something is not as it must be")]

use interlock_tests::{Postgres, Stage};

const RULES: &str = r#"
rules:
  - name: no-drop
    match: {sql: {kind: [drop_table, truncate]}}
    action: deny
  - name: unbounded-write
    match: {sql: {kind: [update, delete], where: missing}}
    action: deny
  - name: outside
    match: {sql: {class: external}}
    action: deny
  - name: payroll
    match: {sql: {tables: [public.salaries]}}
    action: deny
  - name: unreadable
    match: {sql: {kind: [unparsed]}}
    action: deny
  - name: unknowable
    match: {sql: {dynamic: true}}
    action: deny
  - name: lexing
    match: {sql: {changes_lexing: true}}
    action: deny
"#;

fn stage() -> Stage {
    let postgres = Postgres::start().unwrap();
    postgres
        .admin(
            "CREATE TABLE victim (id int, name text); INSERT INTO victim SELECT n, 'n' FROM generate_series(1, 10) n; \
             CREATE TABLE salaries (name text, salary int); INSERT INTO salaries VALUES ('Ada', 123456); \
             CREATE SCHEMA other;",
        )
        .unwrap();
    Stage::start_with(postgres, RULES, "").unwrap()
}

/// What every attempt leaves as it was.
#[track_caller]
fn assert_unharmed(stage: &Stage, attempt: &str, printed: &str) {
    let state = stage
        .postgres
        .admin("SELECT count(*), count(*) FILTER (WHERE name = 'n') FROM victim")
        .unwrap_or_default();
    assert_eq!(state, "10|10", "it worked: {attempt}\n{printed}");
    assert!(!printed.contains("123456"), "the salary was read: {attempt}\n{printed}");
}

/// Runs each attempt on a connection of its own and sees that it is refused.
fn refuse_all(attempts: &[&str]) {
    let stage = stage();
    for attempt in attempts {
        let finished = stage.psql(attempt).unwrap();
        let printed = finished.both();
        assert!(printed.contains("42501"), "not refused: {attempt}\n{printed}");
        assert_unharmed(&stage, attempt, &printed);
    }
}

#[test]
fn comments_quotes_and_case() {
    refuse_all(&[
        "dRoP/**/tAbLe victim;",
        "DROP -- comment\nTABLE victim;",
        "/* nested /* comment */ */ DROP TABLE victim;",
        "DROP TABLE \"victim\";",
        "DROP TABLE U&\"v\\0069ctim\";",
        "DROP TABLE public.victim;",
        "DROP TABLE IF EXISTS nothing, victim CASCADE;",
        "SELECT ';'; DROP TABLE victim;",
        "SELECT 1 \\; SELECT $a$ ; $a$ \\; DROP TABLE victim;",
        "TRUNCATE ONLY victim RESTART IDENTITY;",
        "SELECT salary FROM \"public\".\"salaries\";",
        "TABLE salaries;",
        "SELECT s FROM salaries s;",
        "SELECT x.* FROM (VALUES (1)) v, LATERAL (SELECT salary FROM salaries) x;",
    ]);
}

#[test]
fn prepared_executed_and_explained() {
    refuse_all(&[
        "PREPARE p AS DELETE FROM victim;\nEXECUTE p;",
        "PREPARE p AS SELECT salary FROM salaries;\nEXECUTE p;",
        "PREPARE p AS SELECT salary FROM salaries \\; EXECUTE p;",
        "EXPLAIN ANALYZE DELETE FROM victim;",
        "EXPLAIN (ANALYZE, FORMAT json) UPDATE victim SET name = 'x';",
        "CREATE TABLE copy_of AS SELECT * FROM salaries;\nTABLE copy_of;",
        "CREATE MATERIALIZED VIEW m AS SELECT * FROM salaries;\nTABLE m;",
        "SELECT * INTO copy_of FROM salaries;\nTABLE copy_of;",
        "WITH gone AS (DELETE FROM victim RETURNING *) SELECT count(*) FROM gone;",
        "WITH x AS MATERIALIZED (SELECT salary FROM salaries) SELECT * FROM x;",
        "SELECT (SELECT salary FROM salaries);",
        "SELECT 1 WHERE EXISTS (SELECT FROM salaries WHERE salary > 100000);",
        "BEGIN; DECLARE c CURSOR FOR SELECT salary FROM salaries; FETCH c; END;",
        "DELETE FROM victim WHERE true;",
        "DELETE FROM victim WHERE 1 = 1;",
        "DELETE FROM victim WHERE id = id OR true;",
        "UPDATE victim SET name = 'x' WHERE NOT false;",
        "MERGE INTO victim USING salaries ON true WHEN MATCHED THEN UPDATE SET name = 'x';",
        "COPY salaries TO STDOUT;",
        "COPY (SELECT salary FROM salaries) TO STDOUT;",
        "\\copy salaries TO STDOUT",
        "INSERT INTO victim SELECT salary, 'x' FROM salaries;",
        "CREATE VIEW v AS SELECT salary FROM salaries;\nSELECT * FROM v;",
        "CREATE RULE r AS ON INSERT TO victim DO ALSO DELETE FROM victim;",
    ]);
}

#[test]
fn do_blocks_and_functions() {
    refuse_all(&[
        "DO $$ BEGIN DROP TABLE victim; END $$;",
        "DO $x$ BEGIN IF 1 = 1 THEN FOR i IN 1..2 LOOP DELETE FROM victim; END LOOP; END IF; END $x$;",
        "DO LANGUAGE plpgsql 'BEGIN TRUNCATE victim; END';",
        "DO $$ BEGIN EXECUTE 'DROP TABLE ' || 'victim'; END $$;",
        "DO $$ DECLARE s int; BEGIN SELECT salary INTO s FROM salaries; RAISE NOTICE '%', s; END $$;",
        "DO $$ BEGIN PERFORM 1; EXCEPTION WHEN others THEN DELETE FROM victim; END $$;",
        "CREATE FUNCTION f() RETURNS void LANGUAGE sql AS 'DROP TABLE victim';\nSELECT f();",
        "CREATE FUNCTION f() RETURNS void LANGUAGE sql BEGIN ATOMIC DELETE FROM victim; END;\nSELECT f();",
        "CREATE FUNCTION f() RETURNS void LANGUAGE plpgsql AS $$ BEGIN DELETE FROM victim; END $$;\nSELECT f();",
        "CREATE PROCEDURE p() LANGUAGE plpgsql AS $$ BEGIN TRUNCATE victim; END $$;\nCALL p();",
        "CREATE FUNCTION f() RETURNS SETOF salaries LANGUAGE sql AS $$ SELECT * FROM salaries $$;\nSELECT f();",
    ]);
}

#[test]
fn reaching_outside() {
    refuse_all(&[
        "COPY victim TO PROGRAM 'cat';",
        "COPY victim FROM PROGRAM 'yes';",
        "COPY victim TO '/tmp/interlock-evasion';",
        "SELECT pg_read_file('/etc/passwd');",
        "SELECT pg_catalog.pg_read_binary_file('/etc/passwd');",
        "SELECT \"pg_read_file\"('/etc/passwd');",
        "SELECT lo_import('/etc/passwd');",
        "SELECT lo_export(1, '/tmp/x');",
        "SELECT pg_ls_dir('/');",
        "CREATE EXTENSION dblink;",
        "SELECT dblink('host=127.0.0.1', 'DROP TABLE victim');",
        "CREATE FUNCTION system(cstring) RETURNS int AS '/lib/x86_64-linux-gnu/libc.so.6', 'system' LANGUAGE c;",
        "DO $$ BEGIN PERFORM pg_read_file('/etc/passwd'); END $$;",
    ]);
}

#[test]
fn names_by_search_path_and_settings() {
    refuse_all(&[
        "SET search_path = public, other;\nDROP TABLE victim;",
        "SET search_path = '';\nSELECT salary FROM public.salaries;",
        // With this off a backslash quotes: the server would read another text than the agent.
        "SET standard_conforming_strings = off;\nSELECT '\\'; DROP TABLE victim; --';",
        "SET backslash_quote = on;\nSET standard_conforming_strings = off;",
        "SELECT set_config('standard_conforming_strings', 'off', false);",
        "ALTER ROLE app SET standard_conforming_strings = off;",
        "SET SESSION AUTHORIZATION app; SELECT salary FROM salaries;",
        "SET ROLE app; DROP TABLE victim;",
    ]);
}

#[test]
fn startup_options_cannot_change_how_text_is_read() {
    let stage = stage();
    let finished = stage
        .shell(&format!(
            r#"PGOPTIONS='-c standard_conforming_strings=off' {}/psql -X -v VERBOSITY=verbose -c "SELECT '\'; DROP TABLE victim; --'" "#,
            stage.postgres.programs().display()
        ))
        .unwrap();
    assert_unharmed(&stage, "PGOPTIONS", &finished.both());
    assert!(!finished.success(), "{}", finished.both());
}

#[test]
fn by_the_extended_protocol() {
    let stage = stage();
    let printed = stage
        .python(
            r#"
import asyncio, os, struct, socket
import asyncpg, psycopg
dsn = os.environ["PGURL"]

def tried(name, e):
    print(name, getattr(e, "sqlstate", None))

with psycopg.connect(dsn, autocommit=True) as c:
    for prepare in (True, False):
        for sql, params in (("DELETE FROM victim WHERE %s", (True,)), ("SELECT salary FROM salaries WHERE %s = 1", (1,)),
                            ("SELECT pg_read_file(%s)", ("/etc/passwd",))):
            try:
                print("ran", sql, c.execute(sql, params, prepare=prepare, binary=True).fetchall())
            except psycopg.Error as e:
                tried(sql, e)
    # A harmless name bound again to something else.
    pg = c.pgconn
    pg.prepare(b"s", b"SELECT 1")
    pg.exec_prepared(b"s", None)
    c.execute("DEALLOCATE s")
    print("second", pg.prepare(b"s", b"DROP TABLE victim").error_message[:60])
    print("third", pg.exec_prepared(b"s", None).error_message[:60])
    # A statement prepared by SQL, executed by the protocol.
    r = pg.exec_(b"PREPARE q AS DROP TABLE victim")
    r = pg.exec_(b"PREPARE q2 AS SELECT salary FROM salaries")
    print("fourth", pg.exec_prepared(b"q2", None).error_message[:60])
"#,
        )
        .unwrap()
        .expect_success();
    assert_unharmed(&stage, "the extended protocol", &printed);
    assert!(!printed.lines().any(|line| line.starts_with("ran SELECT")), "{printed}");
    assert!(!printed.contains("root:"), "{printed}");
    assert!(printed.matches("42501").count() >= 4, "{printed}");
}

#[test]
fn fast_path_function_calls() {
    let stage = stage();
    // libpq's large object calls go by the protocol's function call message.
    let printed = stage
        .python(
            r#"
import os, psycopg2
c = psycopg2.connect(os.environ["PGURL"])
try:
    o = c.lobject(0, "w", 0, "/etc/passwd")
    print("imported", o.oid)
except Exception as e:
    print(type(e).__name__, e)
"#,
        )
        .unwrap()
        .expect_success();
    // psycopg 2 reads the file itself and writes it by function calls: that reaches nothing outside the
    // database, but it must be decided on and recorded.
    let calls =
        stage.agent.commands().unwrap().iter().filter(|command| command["step"] == "function_call").count();
    assert!(calls > 0, "no function call was recorded: {printed}");
}

#[test]
fn a_replication_connection_is_refused_unless_allowed() {
    let stage = stage();
    let finished = stage
        .shell(&format!(
            "{}/psql -X -v VERBOSITY=verbose 'host=127.0.0.1 replication=database dbname=shop' -c IDENTIFY_SYSTEM",
            stage.postgres.programs().display()
        ))
        .unwrap();
    let printed = finished.expect_failure();
    assert!(printed.contains("replication"), "{printed}");
    assert!(!stage.postgres.was_sent("IDENTIFY_SYSTEM"));
    let data = stage
        .shell(&format!(
            "{}/pg_receivewal -D /tmp --no-loop -h 127.0.0.1",
            stage.postgres.programs().display()
        ))
        .unwrap();
    data.expect_failure();
}

#[test]
fn no_other_way_to_the_same_server() {
    let stage = stage();
    // IPv6, v4-mapped and another loopback name are the same server by another address.
    for host in ["::1", "localhost", "::ffff:127.0.0.1", "127.1"] {
        let finished = stage
            .shell(&format!(
                "{}/psql -X -v VERBOSITY=verbose -h {host} -c 'SELECT salary FROM salaries'",
                stage.postgres.programs().display()
            ))
            .unwrap();
        assert_unharmed(&stage, host, &finished.both());
        assert!(finished.both().contains("payroll"), "{host}: {}", finished.both());
    }
}

/// All of a process's memory as its environment: whoever reads /proc/PID/environ whole reads gigabytes.
#[test]
fn a_process_cannot_fill_the_agents_memory() {
    let stage = stage();
    let script = r#"
import ctypes, mmap, os, socket
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t] + 3 * [ctypes.c_int] + [ctypes.c_long]
libc.sbrk.restype = ctypes.c_void_p
SIZE = 4 << 30
area = libc.mmap(None, SIZE, 1, 2 | 32 | 0x4000, -1, 0)
stat = [int(x) if x.lstrip('-').isdigit() else 0 for x in open('/proc/self/stat').read().rsplit(')')[1].split()]
at = lambda n: stat[n - 3]
words = [at(26), at(27), at(45), at(46), at(47), libc.sbrk(0), at(28), area, area + SIZE - 1, area, area + SIZE - 1]
class Map(ctypes.Structure):
    _fields_ = [('words', ctypes.c_uint64 * 11), ('auxv', ctypes.c_uint64), ('size', ctypes.c_uint32), ('exe', ctypes.c_int32)]
it = Map((ctypes.c_uint64 * 11)(*words), 0, 0, -1)
if libc.prctl(35, 14, ctypes.byref(it), ctypes.c_ulong(ctypes.sizeof(it)), 0) != 0:
    raise OSError(ctypes.get_errno(), 'prctl')
sockets = []
for _ in range(4):
    s = socket.create_connection(('127.0.0.1', int(os.environ['PGPORT'])))
    s.sendall(bytes([0, 0, 0, 8, 4, 210, 22, 47]))
    sockets.append(s.recv(1))
print('answered', *sockets)"#;
    let printed = stage.python(script).unwrap().expect_success();
    assert!(printed.contains("answered"), "{printed}");
    let status = std::fs::read_to_string(format!("/proc/{}/status", stage.agent.pid().unwrap())).unwrap();
    let most = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let most: u64 = most.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(most < 1 << 20, "the agent has held {most} kB");
}
