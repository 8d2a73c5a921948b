//! Held commands: approved, denied, expired, withdrawn; by whom, and by whom not.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test panics when something is not as it must be")]

use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

use interlock_tests::client::{self, Client};
use interlock_tests::process::{Finished, LIMIT, finish};
use interlock_tests::{Postgres, Stage, wait_for};
use serde_json::Value;

/// Users that every Debian has, each in the group of its own name.
const GAMES: (u32, u32) = (5, 60);
const DAEMON: (u32, u32) = (1, 1);

const RULES: &str = r#"
rules:
  - name: unbounded-write
    match: {sql: {kind: [update, delete], where: missing}}
    action: hold
    approval: {groups: games, scopes: [once, shape, session]}
"#;

fn stage_with(rules: &str, configuration: &str, settings: &[&str]) -> Stage {
    let postgres = Postgres::start_with(interlock_tests::postgres::Auth::Scram, settings).unwrap();
    postgres
        .admin("CREATE TABLE t (id int, v text); INSERT INTO t SELECT n, 'n' FROM generate_series(1, 100) n")
        .unwrap();
    Stage::start_with(postgres, rules, configuration).unwrap()
}

fn stage(rules: &str) -> Stage {
    stage_with(rules, "", &[])
}

/// `interlock approvals …` as another user.
fn by(stage: &Stage, (uid, gid): (u32, u32), arguments: &[&str]) -> Finished {
    let mut command = stage.agent.command();
    command.arg("approvals").args(arguments).uid(uid).gid(gid);
    finish(&mut command, "", LIMIT).unwrap()
}

/// Requests that wait, once there are as many as that.
fn waiting(stage: &Stage, count: usize) -> Vec<Value> {
    let mut list = Vec::new();
    wait_for("requests", LIMIT, || {
        list = stage.agent.json(&["approvals", "list", "--json"]).unwrap();
        list.len() == count
    })
    .unwrap_or_else(|error| panic!("{error}: {list:?}"));
    list
}

/// The one that waits.
fn one(stage: &Stage) -> String {
    waiting(stage, 1).remove(0)["id"].as_str().unwrap().to_owned()
}

/// Runs a client while `meanwhile` looks after what it waits for.
fn during<R: Send>(
    client: impl FnOnce() -> anyhow::Result<Finished> + Send,
    meanwhile: impl FnOnce() -> R,
) -> (Finished, R) {
    std::thread::scope(|scope| {
        let running = scope.spawn(client);
        let result = meanwhile();
        (running.join().unwrap().unwrap(), result)
    })
}

fn rows(stage: &Stage) -> String {
    stage.postgres.admin("SELECT count(*) FILTER (WHERE v = 'n') FROM t").unwrap()
}

fn of_kind(stage: &Stage, kind: &str) -> Vec<Value> {
    stage.agent.events().unwrap().into_iter().filter(|event| event["event"] == kind).collect()
}

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
fn cancelled_in_the_servers_own_words() {
    let stage = stage(RULES);
    let (finished, ()) = during(
        || {
            stage.python(
                r#"
import os, threading, time, subprocess, signal
import psycopg
c = psycopg.connect(os.environ["PGURL"], autocommit=True)
seen = threading.Event()
c.add_notice_handler(lambda notice: seen.set())
threading.Thread(target=lambda: (seen.wait(), c.cancel())).start()
try:
    c.execute("DELETE FROM t")
except psycopg.errors.QueryCanceled as e:
    print(e.sqlstate, str(e).strip())
print(c.execute("SELECT 'lives on'").fetchone()[0])
# Ctrl-C in psql.
p = subprocess.Popen(["psql", "-X", "-q", os.environ["PGURL"], "-c", "DELETE FROM t"], stderr=subprocess.PIPE, text=True)
line = p.stderr.readline()
p.send_signal(signal.SIGINT)
print(line.strip()[:30], p.stderr.read().strip().splitlines()[-1])
"#,
            )
        },
        || (),
    );
    let printed = finished.expect_success();
    assert!(printed.starts_with("57014 canceling statement due to user request\nlives on\n"), "{printed}");
    assert!(printed.trim_end().ends_with("ERROR:  canceling statement due to user request"), "{printed}");
    assert_eq!(rows(&stage), "100");
    waiting(&stage, 0);
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
fn by_whom_and_by_whom_not() {
    let stage = stage(
        "rules:\n  - name: two\n    match: {sql: {kind: delete}}\n    action: hold\n    approval: {groups: [games, daemon, root], needed: 2}\n",
    );
    // A session that root has logged in, as sshd does; `sudo` keeps its login user.
    let script = "echo 4242 > /proc/self/loginuid; exec psql -X -q \"$PGURL\" -c 'DELETE FROM t' 2>&1";
    let run = || {
        let mut command = stage.clients.command("/bin/bash");
        client::environment(&mut command, &stage.postgres);
        command.env("PGURL", stage.postgres.url());
        finish(command.args(["-c", script]), "", LIMIT)
    };
    let sudo = |login: &str, user: &str, arguments: &str| {
        let interlock = format!("{:?}", stage.agent.command()).replace('"', "'");
        let script = format!(
            "echo {login} > /proc/self/loginuid; exec setpriv --reuid={user} --regid={user} --init-groups {interlock} approvals {arguments}"
        );
        finish(Command::new("/bin/bash").args(["-c", &script]), "", LIMIT).unwrap()
    };
    let (finished, ()) = during(run, || {
        let id = one(&stage);
        // Root asks: root does not approve, though its group may.
        let own = stage.agent.interlock(&["approvals", "approve", &id]).unwrap().expect_failure();
        assert!(own.contains("the same user"), "{own}");
        let logins = stage.agent.json(&["approvals", "show", &id, "--json"]).unwrap();
        if logins[0]["subject"]["login_uid"] == 4242 {
            let sudoed = sudo("4242", "games", &format!("approve {id}")).expect_failure();
            assert!(sudoed.contains("the same login user"), "{sudoed}");
            let none = by(&stage, GAMES, &["approve", &id]).expect_failure();
            assert!(none.contains("no loginuid"), "{none}");
        }
        // In none of the groups: it does not even learn that there is one.
        let other = by(&stage, (2, 2), &["approve", &id]).expect_failure();
        assert!(other.contains("there is no request"), "{other}");
        assert!(by(&stage, (2, 2), &["list"]).expect_success().contains("nothing waits"));
        let glass = stage.agent.interlock(&["approvals", "break-glass", &id, "--reason", "x"]).unwrap();
        assert!(glass.expect_failure().contains("does not allow to break the glass"));
        assert!(by(&stage, GAMES, &["approve", "zzzzzzzz"]).expect_failure().contains("there is no request"));

        let first = sudo("5", "games", &format!("approve {id}")).expect_success();
        assert!(first.contains("1 more needed"), "{first}");
        let twice = sudo("5", "games", &format!("approve {id}")).expect_failure();
        assert!(twice.contains("already; 1 more"), "{twice}");
        assert_eq!(rows(&stage), "100");
        let second = sudo("1", "daemon", &format!("approve {id}")).expect_success();
        assert!(second.contains("is approved"), "{second}");
    });
    assert!(finished.success(), "{}", finished.both());
    assert_eq!(rows(&stage), "0");
    // The other commands of the socket are root's.
    let status = {
        let mut command = stage.agent.command();
        command.arg("status").uid(GAMES.0).gid(GAMES.1);
        finish(&mut command, "", LIMIT).unwrap()
    };
    assert!(status.expect_failure().contains("needs root"));
}

#[test]
fn deny_wins_when_the_policy_changes_meanwhile() {
    let stage = stage(RULES);
    let (finished, ()) = during(
        || stage.psql("DELETE FROM t;\nSELECT 'lives on';\n"),
        || {
            let id = one(&stage);
            stage
                .write_policy(
                    "rules:\n  - {name: no-deletes, match: {sql: {kind: delete}}, action: deny, message: Not any more.}\n",
                )
                .unwrap();
            stage.agent.reload().unwrap().expect_success();
            by(&stage, GAMES, &["approve", &id]).expect_success();
        },
    );
    assert!(
        finished.stderr.contains("no-deletes") && finished.stderr.contains("Not any more."),
        "{}",
        finished.both()
    );
    assert!(finished.stdout.contains("lives on"));
    assert_eq!(rows(&stage), "100");
}

#[test]
fn other_terms_are_asked_for_anew() {
    let stage = stage(RULES);
    let (finished, ()) = during(
        || stage.psql("DELETE FROM t;\n"),
        || {
            let id = one(&stage);
            stage.write_policy(&RULES.replace("groups: games", "groups: daemon")).unwrap();
            stage.agent.reload().unwrap().expect_success();
            by(&stage, GAMES, &["approve", &id]).expect_success();
            wait_for("the next request", LIMIT, || {
                let list = stage.agent.json(&["approvals", "list", "--json"]).unwrap();
                list.first().is_some_and(|entry| entry["id"] != id.as_str())
            })
            .unwrap();
            let id = one(&stage);
            by(&stage, GAMES, &["approve", &id]).expect_failure();
            by(&stage, DAEMON, &["deny", &id, "--reason", "no"]).expect_success();
        },
    );
    assert!(finished.stderr.contains("denied by daemon: no"), "{}", finished.both());
    assert_eq!(rows(&stage), "100");
}

#[test]
fn what_is_held_ends_with_the_agent() {
    for kill in [true, false] {
        let mut stage = stage(RULES);
        let mut client = Client::Psql.command(&stage.postgres, Some(&stage.clients));
        let client = client.args(["-c", "DELETE FROM t"]).stdout(Stdio::null()).stderr(Stdio::piped());
        let running = client.spawn().unwrap();
        one(&stage);
        if kill {
            stage.agent.kill();
        } else {
            stage.agent.stop();
        }
        let output = running.wait_with_output().unwrap();
        assert!(!output.status.success());
        if !kill {
            let told = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(told.contains("agent on this host is stopping"), "{told}");
        }
        stage.agent.launch().unwrap();
        assert_eq!(waiting(&stage, 0).len(), 0);
        assert!(!stage.postgres.was_sent("DELETE FROM t"));
        assert_eq!(rows(&stage), "100");
        if !kill {
            let [decided] = &of_kind(&stage, "approval_decided")[..] else { panic!() };
            assert_eq!(decided["outcome"], "withdrawn");
        }
    }
}

#[test]
fn a_client_that_goes_withdraws_it() {
    let stage = stage(RULES);
    let mut client = Client::Psql.command(&stage.postgres, Some(&stage.clients));
    let mut running =
        client.args(["-c", "DELETE FROM t"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let id = one(&stage);
    running.kill().unwrap();
    running.wait().unwrap();
    waiting(&stage, 0);
    let late = by(&stage, GAMES, &["approve", &id]).expect_failure();
    assert!(late.contains("withdrawn already"), "{late}");
    assert_eq!(rows(&stage), "100");
    let [decided] = &of_kind(&stage, "approval_decided")[..] else { panic!() };
    assert_eq!(
        (&decided["outcome"], &decided["reason"]),
        (&"withdrawn".into(), &"the client has gone".into())
    );
}

#[test]
fn a_server_that_loses_patience_is_explained() {
    let stage = stage_with(RULES, "", &["idle_in_transaction_session_timeout=300"]);
    let finished = stage.psql("BEGIN;\nDELETE FROM t;\n").unwrap();
    let told = &finished.stderr;
    assert!(told.contains("idle-in-transaction timeout"), "{told}");
    assert!(told.contains("while the agent held a command back for approval"), "{told}");
    assert!(told.contains("idle_in_transaction_session_timeout"), "{told}");
    waiting(&stage, 0);
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

#[test]
fn glass_is_broken_by_who_asks() {
    let stage = stage(
        "rules:\n  - name: writes\n    match: {sql: {kind: delete}}\n    action: hold\n    \
         approval: {groups: games, break_glass: true}\n",
    );
    let (finished, ()) = during(
        || stage.psql("DELETE FROM t;\n"),
        || {
            let id = one(&stage);
            let other = by(&stage, GAMES, &["break-glass", &id, "--reason", "x"]).expect_failure();
            assert!(other.contains("only who asks"), "{other}");
            let own = &["approvals", "break-glass", &id, "--reason", "the shop is down"];
            stage.agent.interlock(own).unwrap().expect_success();
        },
    );
    assert!(
        finished.stderr.contains("break-glass") && !finished.stderr.contains("ERROR"),
        "{}",
        finished.both()
    );
    assert_eq!(rows(&stage), "0");
    let [decided] = &of_kind(&stage, "approval_decided")[..] else { panic!() };
    assert_eq!((&decided["outcome"], &decided["needs_review"]), (&"broken_glass".into(), &true.into()));
    assert_eq!(decided["reason"], "the shop is down");
    assert!(stage.agent.log().contains("glass was broken"));
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
fn five_hundred_at_once_and_no_more_than_may() {
    let configuration = "approvals: {max_held: 501, max_held_per_user: 500}";
    let stage = stage_with(RULES, configuration, &["max_connections=520"]);
    let (finished, ()) = during(
        || {
            let script = r#"
import asyncio, os, asyncpg
async def one(n):
    c = await asyncpg.connect(os.environ["PGURL"])
    try:
        await c.execute(f"UPDATE t SET v = '{n}'")
        return "done"
    except asyncpg.PostgresError as e:
        return e.sqlstate
    finally:
        await c.close()
async def main():
    first = [asyncio.create_task(one(n)) for n in range(500)]
    while not os.path.exists(os.environ["GO"]):
        await asyncio.sleep(0.05)
    print("beyond", await one(-1))
    results = await asyncio.gather(*first)
    print({r: results.count(r) for r in sorted(set(results))})
asyncio.run(main())
"#
            .replace("os.environ[\"GO\"]", &format!("{:?}", stage.agent.state().join("go")));
            let mut command = Client::Python.command(&stage.postgres, Some(&stage.clients));
            finish(&mut command, &script, 5 * LIMIT)
        },
        || {
            let list = waiting(&stage, 500);
            std::fs::write(stage.agent.state().join("go"), "").unwrap();
            wait_for("the refusal of one too many", LIMIT, || {
                stage.agent.texts("hold").is_ok_and(|texts| texts.iter().any(|text| text.contains("-1")))
            })
            .unwrap();
            let ids: Vec<_> = list.iter().filter_map(|entry| entry["id"].as_str()).collect();
            let (approved, denied) = ids.split_at(250);
            // As `interlock approvals` asks, without a process for each.
            let script = format!(
                r#"
import json, socket
def ask(request):
    s = socket.socket(socket.AF_UNIX)
    s.connect({socket:?})
    s.sendall(json.dumps(request).encode() + b"\n")
    answer = json.loads(s.makefile().readline())
    assert "done" in answer, answer
for id in {approved:?}:
    ask({{"request": "approve", "id": id, "reason": "", "scope": "once", "seconds": None}})
for id in {denied:?}:
    ask({{"request": "deny", "id": id, "reason": "no"}})
"#,
                socket = stage.agent.run().join("control.sock")
            );
            let mut command = Command::new("python3");
            command.args(["-c", &script]).uid(GAMES.0).gid(GAMES.1);
            finish(&mut command, "", 3 * LIMIT).unwrap().expect_success();
        },
    );
    assert_eq!(finished.expect_success(), "beyond 53400\n{'42501': 250, 'done': 250}\n");
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
