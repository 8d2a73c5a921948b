//! Approvals given beforehand are for whoever asked and nobody else: other users, other jobs, other sessions, other
//! moments.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test panics when something is not as it must be")]

use std::collections::BTreeMap;
use std::os::unix::process::CommandExt as _;

use interlock_tests::mcp::{self, HTTP};
use interlock_tests::process::{Finished, LIMIT, finish};
use interlock_tests::{Postgres, Stage};
use serde_json::Value;

/// Users that every Debian has, each in the group of its own name.
const GAMES: (u32, u32) = (5, 60);
const ALICE: (u32, u32) = (1, 1);
const BOB: (u32, u32) = (2, 2);

const RULES: &str = r#"
rules:
  - name: writes
    match: {sql: {kind: [update, delete]}}
    action: hold
    approval: {groups: games, scopes: [once, shape, session]}
"#;

fn stage(rules: &str) -> Stage {
    let postgres = Postgres::start().unwrap();
    postgres
        .admin(
            "CREATE TABLE t (id int, v text); INSERT INTO t SELECT n, 'n' FROM generate_series(1, 100) n;
             CREATE TABLE days (at timestamptz); INSERT INTO days VALUES ('2026-01-01 00:30+00');",
        )
        .unwrap();
    Stage::start_with(postgres, rules, "").unwrap()
}

/// `interlock approvals …` as who may approve.
fn by(stage: &Stage, arguments: &[&str]) -> Finished {
    let mut command = stage.agent.command();
    command.arg("approvals").args(arguments).uid(GAMES.0).gid(GAMES.1);
    finish(&mut command, "", LIMIT).unwrap()
}

fn decide(stage: &Stage, words: &[&str]) {
    by(stage, words).expect_success();
}

/// Nothing is to be done for an agent.
fn nothing(words: &[&str]) {
    panic!("{words:?}");
}

#[test]
fn another_user_neither_sees_nor_uses_it() {
    let stage = stage(RULES);
    let directory = interlock_tests::temporary_directory("mcp").unwrap();
    let (of_alice, of_bob) = (directory.path().join("alice"), directory.path().join("bob"));
    for (path, (uid, gid)) in [(&of_alice, ALICE), (&of_bob, BOB)] {
        std::fs::create_dir(path).unwrap();
        std::os::unix::fs::chown(path, Some(uid), Some(gid)).unwrap();
    }
    let mut bob_said = String::new();
    let mut told = |words: &[&str]| match words {
        ["bob", id, url, token] => {
            let script = format!(
                r#"
ID, URL, TOKEN = {id:?}, {url:?}, {token:?}
def looks(m):
    print(m.tool("approval_status", id=ID)["isError"], m.tool("cancel_request", id=ID)["isError"], [r for r in m.tool("list_my_requests")["requests"] if r["id"] == ID])
    # What is told of one that is another's is what is told of one that is not there.
    one, none = (m.tool("approval_status", id=i)["content"][0]["text"] for i in (ID, "00000000"))
    print(one.replace(ID, "X") == none.replace("00000000", "X"))
m = Mcp()
looks(m)
print(held("DELETE FROM t"))
own = m.ask("DELETE FROM t")["request"]
print(own["id"] != ID, own["state"])
m.tool("cancel_request", id=own["id"])
p, url, token = serve({of_bob:?})
looks(Http(url, open(token).read()))
# By her server: not with his token, and hers he cannot read.
try: Http(URL, open(token).read()); print("served")
except urllib.error.HTTPError as e: print(e.code)
try: open(TOKEN); print("read")
except PermissionError: print("not read")
told = subprocess.run(os.environ["MCP"].split()[:-1] + ["approvals", "show", ID], capture_output=True, text=True)
print(told.returncode != 0, "DELETE" in told.stdout + told.stderr)
p.terminate()
"#
            );
            bob_said = mcp::agent(&stage, Some(BOB), &format!("{HTTP}{script}"), &mut nothing).unwrap();
        }
        words => decide(&stage, words),
    };
    let script = format!(
        r#"
m = Mcp()
p, url, token = serve({of_alice:?})
id = m.ask("DELETE FROM t")["request"]["id"]
approve(id)
print(m.tool("approval_status", id=id, wait_seconds=30)["request"]["state"])
tell("bob", id, url, token)
print(m.tool("approval_status", id=id)["request"]["state"])
done = psql("DELETE FROM t")
print(done.returncode, done.stderr.strip())
p.terminate()
"#
    );
    let alice_said = mcp::agent(&stage, Some(ALICE), &format!("{HTTP}{script}"), &mut told).unwrap();
    let looked = "True True []\nTrue\n";
    assert_eq!(bob_said, format!("{looked}True\nTrue pending\n{looked}401\nnot read\nTrue False\n"));
    assert_eq!(alice_said, "approved\napproved\n0 \n");
}

#[test]
fn another_job_of_the_same_user_is_told_apart_and_a_child_is_not() {
    let stage = stage(RULES);
    let mut other_said = String::new();
    let mut told = |words: &[&str]| match words {
        ["other", id] => {
            let script = format!(
                "m = Mcp()\nprint(held('DELETE FROM t'), m.tool('approval_status', id={id:?})['isError'], len(m.tool('list_my_requests')['requests']))\n"
            );
            other_said.push_str(&mcp::agent(&stage, Some(ALICE), &script, &mut nothing).unwrap());
        }
        words => decide(&stage, words),
    };
    let script = r#"
m = Mcp()
id = m.ask("DELETE FROM t")["request"]["id"]
tell("other", id)
approve(id)
print(m.tool("approval_status", id=id, wait_seconds=30)["request"]["state"])
tell("other", id)
# Whatever the tree starts is of it: another program, by way of a shell, in a session of its own.
done = subprocess.run(["setsid", "-w", "sh", "-c", "psql -X -q \"$PGURL\" -c 'DELETE FROM t'; exit $?"], capture_output=True, text=True)
print(done.returncode, done.stderr.strip(), m.tool("approval_status", id=id)["request"]["state"])
"#;
    let said = mcp::agent(&stage, Some(ALICE), script, &mut told).unwrap();
    assert_eq!(other_said, "True True 0\nTrue True 0\n");
    assert_eq!(said, "approved\n0  used\n");
}

#[test]
fn whatever_comes_first_it_is_used_once_or_not_at_all() {
    let brief = RULES.replace("games,", "games, within: 2s,");
    let stage = stage(&brief);
    // Approvals that come around the time limit may be too late.
    let mut told = |words: &[&str]| match words {
        ["late", id] => drop(by(&stage, &["approve", id])),
        words => decide(&stage, words),
    };
    let script = r#"
m = Mcp()
def sent(text): return "passed" if psql(text).returncode == 0 else "refused"
# As it expires.
for n in range(8):
    text = "UPDATE t SET v = 'late' WHERE id = %d" % n
    asked = time.monotonic(); id = m.ask(text)["request"]["id"]
    time.sleep(max(0, asked + 1.8 + n * 0.05 - time.monotonic()))
    tell("late", id)
    result = sent(text)
    print("late", id, result, m.tool("approval_status", id=id)["request"]["state"])
# While it is decided: several send it meanwhile.
for n in range(4):
    text = "UPDATE t SET v = 'meanwhile' WHERE id = %d" % n
    id = m.ask(text)["request"]["id"]
    results = []
    senders = [threading.Thread(target=lambda: results.append(sent(text))) for _ in range(3)]
    [s.start() for s in senders[:2]]
    tell("late", id)
    senders[2].start(); [s.join() for s in senders]
    print("meanwhile", id, results.count("passed"), m.tool("approval_status", id=id)["request"]["state"])
"#;
    let said = mcp::agent(&stage, Some(ALICE), script, &mut told).unwrap();
    let events = stage.agent.events().unwrap();
    let decided = |id: &str| -> Vec<&Value> {
        events.iter().filter(|event| event["event"] == "approval_decided" && event["request"] == id).collect()
    };
    let used = stage.agent.commands().unwrap();
    let by_it = |id: &str| used.iter().filter(|command| command["approval"]["request"] == id).count();
    let mut seen: BTreeMap<String, u32> = BTreeMap::new();
    for line in said.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let [what, id, passed, state] = words.as_slice() else { panic!("{said}") };
        let [decided] = decided(id)[..] else { panic!("decided once: {line}") };
        let approved = decided["outcome"] == "approved";
        let passed = matches!(*passed, "passed" | "1");
        assert!(!passed || approved, "{line}: {decided}");
        // The command that went on by it is recorded with it, once; what passed has used it.
        assert_eq!(by_it(id), usize::from(passed), "{line}");
        assert_eq!(*state == "used", passed, "{line}");
        assert!(matches!(*state, "used" | "expired" | "lapsed" | "approved"), "{line}");
        *seen.entry(format!("{what} {passed}")).or_default() += 1;
    }
    assert_eq!(seen.values().sum::<u32>(), 12, "{said}");
    // The last ones of the first kind come after the time.
    assert!(seen.contains_key("late false"), "{said}");
}

#[test]
fn jdbc_says_its_time_zone_and_is_let_through_with_it() {
    let stage = stage(RULES);
    let script = r#"
import shutil, tempfile
SOURCE = '''
import java.sql.*;
public class Main {
    public static void main(String[] a) throws Exception {
        String url = "jdbc:postgresql://127.0.0.1:" + System.getenv("PGPORT") + "/" + System.getenv("PGDATABASE");
        try (Connection c = DriverManager.getConnection(url, System.getenv("PGUSER"), System.getenv("PGPASSWORD"))) {
            PreparedStatement s = c.prepareStatement(a[0]);
            for (int n = 1; n < a.length; n++) s.setString(n, a[n]);
            // Whoever waits is told so, and stops.
            Thread t = new Thread(() -> {
                try {
                    for (int n = 0; n < 600; n++) {
                        if (s.getWarnings() != null) { s.cancel(); return; }
                        Thread.sleep(50);
                    }
                } catch (Exception e) { }
            });
            t.setDaemon(true); t.start();
            try { System.out.print("ran " + s.executeUpdate()); } catch (SQLException e) { System.out.print("held " + e.getSQLState()); }
        }
    }
}
'''
directory = tempfile.mkdtemp()
open(directory + "/Main.java", "w").write(SOURCE)
def java(zone, *arguments):
    done = subprocess.run(["java", "-XX:TieredStopAtLevel=1", "-Duser.timezone=" + zone, "-cp", os.environ["JDBC"], directory + "/Main.java", *arguments],
                          capture_output=True, text=True, timeout=120)
    return done.stdout or done.stderr
m = Mcp()
def approved(text, **more):
    id = m.ask(text, **more)["request"]["id"]
    approve(id)
    assert m.tool("approval_status", id=id, wait_seconds=30)["request"]["state"] == "approved"
    return id
# The day of a time is another one in Tokyo: an approval that says nothing of it is for the server's time zone.
day = "DELETE FROM days WHERE at::date = '2026-01-01'"
JAVA = os.path.realpath(shutil.which("java"))
approved(day)
approved(day, program=JAVA)
print(java("Asia/Tokyo", day))
approved(day, program=JAVA, time_zone="Asia/Tokyo")
print(java("Europe/Berlin", day))
print(java("Asia/Tokyo", day))
print(java("Asia/Tokyo", day))
approved("UPDATE t SET v = $1 WHERE v = $2", program=JAVA, time_zone="Etc/UTC", params=["x", "n"])
print(java("Etc/UTC", "UPDATE t SET v = ? WHERE v = ?", "y", "n"))
print(java("Etc/UTC", "UPDATE t SET v = ? WHERE v = ?", "x", "n"))
print(m.tool("request_approval", text=day, reason="r", program=JAVA, time_zone="x'; --", **WHERE)["content"][0]["text"])
# psql sends none, so it uses what was asked first.
print(psql(day).returncode)
"#;
    let mut shown = Vec::new();
    let mut told = |words: &[&str]| {
        if let ["approve", id] = words {
            shown.push(by(&stage, &["show", id]).expect_success());
        }
        decide(&stage, words);
    };
    let said = mcp::agent(&stage, None, script, &mut told).unwrap();
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines[..4], ["held 57014", "held 57014", "ran 1", "held 57014"], "{said}");
    assert_eq!(lines[4..6], ["held 57014", "ran 100"], "{said}");
    assert!(lines[6].contains("`time_zone` is what the driver sends"), "{said}");
    assert_eq!(lines[7], "0", "{said}");
    // Approvers are told.
    let zone = |shown: &str| shown.lines().find(|line| line.starts_with("time zone")).map(str::to_owned);
    assert_eq!(zone(&shown[0]), None, "{shown:?}");
    assert!(zone(&shown[2]).is_some_and(|line| line.ends_with(" Asia/Tokyo")), "{shown:?}");
}
