//! What is held of each way to run a statement, and what an approval of it covers.

use interlock_tests::client;
use interlock_tests::process::LIMIT;
use interlock_tests::wait_for;
use serde_json::Value;

use super::{GAMES, RULES, by, during, of_kind, one, rows, stage, stage_with};

#[test]
fn approved_in_psql() {
    let stage = stage(RULES);
    let (finished, ()) = during(
        || stage.psql("SELECT 'before';\nUPDATE t SET v = 'x';\nSELECT 'after';\n"),
        || {
            let id = one(&stage);
            // Nothing of it is with the server; others go on.
            assert!(!stage.postgres.was_sent("UPDATE t SET v"));
            assert!(stage.psql("SELECT 'other';").unwrap().stdout.contains("other"));
            let shown = by(&stage, GAMES, &["show", &id]).expect_success();
            for part in
                ["UPDATE t SET v = 'x'", "statement 1  update", "writes t", "where missing", "one of games"]
            {
                assert!(shown.contains(part), "{part}: {shown}");
            }
            let done = by(&stage, GAMES, &["approve", &id, "--reason", "ticket 17"]).expect_success();
            assert!(done.contains("is approved"), "{done}");
        },
    );
    assert!(finished.stdout.contains("before") && finished.stdout.contains("after"), "{}", finished.both());
    assert!(finished.stderr.contains("waits for approval") && finished.stderr.contains("one of games"));
    assert!(!finished.stderr.contains("ERROR"), "{}", finished.stderr);
    assert_eq!(rows(&stage), "0");
    let commands = stage.agent.commands().unwrap();
    let update = commands.iter().find(|command| command["text"] == "UPDATE t SET v = 'x';").unwrap();
    assert_eq!((&update["verdict"], &update["rule"]), (&"allow".into(), &"unbounded-write".into()));
    assert_eq!(update["approval"]["by"], serde_json::json!(["games"]));
    let [asked] = &of_kind(&stage, "approval_requested")[..] else { panic!() };
    let [voted] = &of_kind(&stage, "approval_voted")[..] else { panic!() };
    let [decided] = &of_kind(&stage, "approval_decided")[..] else { panic!() };
    assert_eq!((&asked["text"], &voted["reason"]), (&"UPDATE t SET v = 'x';".into(), &"ticket 17".into()));
    assert_eq!((&decided["outcome"], &voted["by"]["uid"]), (&"approved".into(), &5.into()));
    let index = |event: &Value| event["index"].as_u64().unwrap();
    assert!(index(asked) < index(voted) && index(voted) < index(decided) && index(decided) < index(update));
    let session = asked["session"].as_str().unwrap();
    let shown = stage.agent.interlock(&["sessions", "show", session]).unwrap().expect_success();
    assert!(shown.contains("ticket 17") && shown.contains("approved by games"), "{shown}");
    let verified = stage.agent.interlock(&["sessions", "verify"]).unwrap();
    assert!(verified.success(), "{}", verified.both());
}

#[test]
fn denied_and_expired_abort_the_transaction() {
    let stage = stage(&format!(
        "{RULES}  - name: brief\n    match: {{sql: {{kind: truncate}}}}\n    action: hold\n    approval: {{groups: games, within: 1s}}\n"
    ));
    let (finished, ()) = during(
        || {
            stage.psql(
                "BEGIN;\nINSERT INTO t VALUES (1001, 'n');\nDELETE FROM t;\nSELECT 'must not run';\nCOMMIT;\n\
                 TRUNCATE t;\nSELECT 'lives on';\n",
            )
        },
        || {
            let id = one(&stage);
            let printed = by(&stage, GAMES, &["deny", &id, "--reason", ""]).expect_failure();
            assert!(printed.contains("a reason is needed"), "{printed}");
            by(&stage, GAMES, &["deny", &id, "--reason", "not on Friday"]).expect_success();
            let late = by(&stage, GAMES, &["approve", &id]).expect_failure();
            assert!(late.contains("denied already"), "{late}");
        },
    );
    let told = finished.stderr;
    assert!(told.contains("42501") && told.contains("denied by games: not on Friday"), "{told}");
    assert!(told.contains("25P02: current transaction is aborted"), "{told}");
    assert!(told.contains("nobody approved") && told.contains("within 1 s"), "{told}");
    assert!(finished.stdout.contains("lives on"), "{}", finished.stdout);
    assert!(!stage.postgres.was_sent("DELETE FROM t") && !stage.postgres.was_sent("TRUNCATE t"));
    assert_eq!(rows(&stage), "100");
    let outcomes: Vec<_> = of_kind(&stage, "approval_decided").iter().map(|e| e["outcome"].clone()).collect();
    assert_eq!(outcomes, ["denied", "expired"]);
}

#[test]
fn in_pipelines_and_with_prepared_statements() {
    let stage = stage(
        "rules:\n  - name: writes\n    match: {sql: {kind: [update, delete]}}\n    action: hold\n    approval: {groups: games}\n",
    );
    let (finished, shown) = during(
        || {
            stage.python(
                r#"
import os, psycopg
c = psycopg.connect(os.environ["PGURL"], autocommit=True)
# Parse and Describe wait for nothing; each Execute of its own.
for n in (1, 2):
    print("deleted", c.execute("DELETE FROM t WHERE id = %s", (n,), prepare=True).rowcount)
with c.pipeline() as p:
    a = c.execute("INSERT INTO t VALUES (2000, 'n')")
    b = c.execute("UPDATE t SET v = 'p' WHERE id = %s", (3,))
    d = c.execute("SELECT count(*) FROM t WHERE v = 'p'")
    p.sync()
    print(a.rowcount, b.rowcount, d.fetchone()[0])
# An error before it in the pipeline: nothing to approve any more.
try:
    with c.pipeline() as p:
        c.execute("SELECT 1/0")
        c.execute("UPDATE t SET v = 'q' WHERE id = %s", (4,))
        p.sync()
except psycopg.Error as e:
    print(e.sqlstate)
print(c.execute("SELECT count(*) FROM t WHERE v = 'q'").fetchone()[0])
"#,
            )
        },
        || {
            let mut shown = Vec::new();
            for _ in 0..3 {
                let id = one(&stage);
                let json = by(&stage, GAMES, &["show", &id, "--json"]).expect_success();
                shown.push(serde_json::from_str::<Value>(&json).unwrap());
                by(&stage, GAMES, &["approve", &id]).expect_success();
                wait_for("the next", LIMIT, || {
                    let list = stage.agent.json(&["approvals", "list", "--json"]).unwrap();
                    list.iter().all(|entry| entry["id"] != id.as_str())
                })
                .unwrap();
            }
            shown
        },
    );
    assert_eq!(finished.expect_success(), "deleted 1\ndeleted 1\n1 1 1\n22012\n0\n");
    let params: Vec<_> = shown.iter().map(|one| one["params"].to_string()).collect();
    assert_eq!(params, ["[\"1\"]", "[\"2\"]", "[\"3\"]"]);
    let digests: std::collections::BTreeSet<_> = shown.iter().map(|one| one["digest"].to_string()).collect();
    assert_eq!(digests.len(), 3);
}

#[test]
fn strings_of_several_statements_copies_and_names_are_shown_whole() {
    let stage = stage(
        "rules:\n  - name: writes\n    match: {sql: {kind: [delete, copy_from]}}\n    action: hold\n    approval: {groups: games}\n",
    );
    let evil = "DELETE FROM t WHERE v = '\u{1b}[2J\u{202e}'";
    let (finished, shown) = during(
        || {
            let long = format!("DELETE FROM t WHERE v = '{}';\n", "x".repeat(100_000));
            stage.psql(&format!(
                "SELECT 1 \\; DELETE FROM t WHERE id = 1 \\; SELECT 2;\nCOPY t FROM STDIN;\n3000\tn\n\\.\n\
                 PREPARE p AS DELETE FROM t WHERE id = $1;\nEXECUTE p(2);\n{evil};\n{long}"
            ))
        },
        || {
            let mut shown = Vec::new();
            let mut last = String::new();
            for _ in 0..5 {
                wait_for("the next", LIMIT, || {
                    let list = stage.agent.json(&["approvals", "list", "--json"]).unwrap();
                    list.first().is_some_and(|entry| entry["id"] != last.as_str())
                })
                .unwrap();
                last = one(&stage);
                shown.push(by(&stage, GAMES, &["show", &last]).expect_success());
                by(&stage, GAMES, &["approve", &last]).expect_success();
            }
            shown
        },
    );
    // What cannot be shown whole is refused.
    assert_eq!(finished.stderr.matches("ERROR").count(), 1, "{}", finished.stderr);
    assert!(finished.stderr.contains("more than can be shown"), "{}", finished.stderr);
    let [several, copy, prepare, execute, evil] = &shown[..] else { panic!() };
    assert!(
        several.contains("SELECT 1 ; DELETE FROM t WHERE id = 1 ; SELECT 2")
            && several.contains("statement 3")
    );
    assert!(copy.contains("COPY t FROM STDIN"), "{copy}");
    assert!(prepare.contains("PREPARE p AS DELETE"), "{prepare}");
    assert!(
        execute.contains("EXECUTE p(2)") && execute.contains("runs\n    PREPARE p AS DELETE"),
        "{execute}"
    );
    assert!(!evil.contains('\u{1b}') && !evil.contains('\u{202e}') && evil.contains("\\u{1b}[2J"), "{evil}");
    assert_eq!(stage.postgres.admin("SELECT count(*) FROM t").unwrap(), "99");
}

#[test]
fn jdbc_waits_once_for_a_cursor_and_each_time_for_a_statement() {
    let stage = stage(
        "rules:\n  - name: all-rows\n    match: {sql: {reads: t}}\n    action: hold\n    approval: {groups: games}\n",
    );
    let source = r#"
import java.sql.*;
public class Main {
    public static void main(String[] args) throws Exception {
        String url = "jdbc:postgresql://127.0.0.1:" + System.getenv("PGPORT") + "/" + System.getenv("PGDATABASE");
        try (Connection c = DriverManager.getConnection(url, System.getenv("PGUSER"), System.getenv("PGPASSWORD"))) {
            c.setAutoCommit(false);
            PreparedStatement s = c.prepareStatement("SELECT id FROM t WHERE id > ?");
            s.setFetchSize(10);
            for (int round = 0; round < 2; round++) {
                s.setInt(1, round);
                ResultSet r = s.executeQuery();
                int n = 0;
                while (r.next()) n++;
                System.out.println("rows " + n);
            }
            try {
                c.createStatement().executeQuery("SELECT count(*) FROM t");
            } catch (SQLException e) {
                System.out.println(e.getSQLState() + " " + e.getMessage().split("\n")[0]);
            }
            c.rollback();
            // By cancel().
            Statement held = c.createStatement();
            Thread t = new Thread(() -> {
                try { Thread.sleep(1000); held.cancel(); } catch (Exception e) { throw new RuntimeException(e); }
            });
            t.start();
            try { held.executeQuery("SELECT v FROM t"); } catch (SQLException e) { System.out.println(e.getSQLState()); }
        }
    }
}
"#;
    let (finished, ()) = during(
        || client::java(&stage.postgres, Some(&stage.clients), source),
        || {
            let mut last = String::new();
            for decision in [&["approve"][..], &["approve"], &["deny", "--reason", "no counting"]] {
                wait_for("the next", LIMIT, || {
                    let list = stage.agent.json(&["approvals", "list", "--json"]).unwrap();
                    list.first().is_some_and(|entry| entry["id"] != last.as_str())
                })
                .unwrap();
                last = one(&stage);
                by(&stage, GAMES, &[&decision[..1], &[last.as_str()], &decision[1..]].concat())
                    .expect_success();
            }
        },
    );
    let printed = finished.expect_success();
    let lines: Vec<_> = printed.lines().collect();
    assert_eq!(lines[..2], ["rows 100", "rows 99"], "{printed}");
    assert!(
        lines[2].starts_with("42501 ERROR: interlock: approval") && lines[2].ends_with("no counting"),
        "{printed}"
    );
    assert_eq!(lines[3], "57014", "{printed}");
}

#[test]
fn function_calls_and_replication_wait_too() {
    let stage = stage_with(
        "rules:\n  - name: calls\n    match: {sql: {kind: function_call}}\n    action: hold\n    \
         approval: {groups: games, scopes: session}\n  \
         - {name: replication, match: {sql: {kind: replication}}, action: allow}\n  \
         - name: replicates\n    match: {sql: {kind: replication}}\n    action: hold\n    approval: {groups: games}\n",
        "",
        &["wal_level=logical"],
    );
    let (finished, ()) = during(
        || {
            stage.python(
                r#"
import os, psycopg2
c = psycopg2.connect(os.environ["PGURL"])
o = c.lobject(0, "w")
o.write("large object")
o.close()
c.commit()
print("written")
"#,
            )
        },
        || {
            let id = one(&stage);
            let shown = by(&stage, GAMES, &["show", &id]).expect_success();
            assert!(shown.contains("function_call") && shown.contains("lo_creat"), "{shown}");
            by(&stage, GAMES, &["approve", &id, "--scope", "session"]).expect_success();
        },
    );
    assert_eq!(finished.expect_success(), "written\n");
    let (finished, ()) = during(
        || stage.shell("psql -X -A -t \"dbname=$PGDATABASE replication=database\" -c IDENTIFY_SYSTEM"),
        || {
            let id = one(&stage);
            assert!(by(&stage, GAMES, &["show", &id]).expect_success().contains("IDENTIFY_SYSTEM"));
            by(&stage, GAMES, &["approve", &id]).expect_success();
        },
    );
    assert!(finished.both().contains("waits for approval") && finished.success(), "{}", finished.both());
}

#[test]
fn a_shape_and_a_session_are_approved_for_longer_and_no_further() {
    let stage = stage(
        "rules:\n  - name: writes\n    match: {sql: {kind: [update, delete]}}\n    action: hold\n    \
         approval: {groups: games, within: 2s, scopes: [once, shape, session]}\n",
    );
    let approve = |arguments: &[&str]| {
        let id = one(&stage);
        by(&stage, GAMES, &[&["approve", &id], arguments].concat()).expect_success();
    };
    // Another value is the same shape, in another session too; another table is not, and so is the same text
    // under another search_path.
    let (first, ()) = during(
        || stage.psql("DELETE FROM t WHERE id = 1;\nDELETE FROM t WHERE id = 2;\n"),
        || approve(&["--scope", "shape", "--for", "5"]),
    );
    assert!(!first.stderr.contains("ERROR"), "{}", first.stderr);
    assert_eq!(rows(&stage), "98");
    let second = stage.psql("DELETE FROM t WHERE id = 3;\n").unwrap();
    assert_eq!(second.stderr, "");
    stage
        .postgres
        .admin("CREATE SCHEMA s; CREATE TABLE s.t AS TABLE t; ALTER TABLE s.t OWNER TO app")
        .unwrap();
    for other in [
        "SET search_path = s;\nDELETE FROM t WHERE id = 4;\n",
        "DELETE FROM s.t WHERE id = 4;\n",
        "DELETE FROM t WHERE id = 4 OR true;\n",
        "SELECT set_config('search_path', 's', false);\nDELETE FROM t WHERE id = 4;\n",
    ] {
        let finished = stage.psql(other).unwrap();
        assert!(finished.stderr.contains("nobody approved"), "{other}: {}", finished.both());
    }
    let (session, ()) = during(
        || stage.psql("UPDATE t SET v = 'a' WHERE id = 5;\nDELETE FROM t WHERE id > 50;\n"),
        || approve(&["--scope", "session"]),
    );
    assert!(!session.stderr.contains("ERROR"), "{}", session.stderr);
    // With the session the approval has ended.
    let finished = stage.psql("UPDATE t SET v = 'a' WHERE id = 6;\n").unwrap();
    assert!(finished.stderr.contains("nobody approved"), "{}", finished.both());
    let commands = stage.agent.commands().unwrap();
    let earlier: Vec<_> = commands
        .iter()
        .filter(|command| command["approval"]["earlier"] == true)
        .map(|c| &c["text"])
        .collect();
    assert_eq!(
        earlier,
        ["DELETE FROM t WHERE id = 2;", "DELETE FROM t WHERE id = 3;", "DELETE FROM t WHERE id > 50;"]
    );
}
